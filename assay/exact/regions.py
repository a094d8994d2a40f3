"""Where a program can be run slice by slice (assay.exact.slices): regions of operators that each work on the elements of a batch one by one.

The batch of a value is the shortest run of its first dimensions with the region's number of elements n: [B, H, S, S] and [B·H, S, S] are the same
batch. A slice is a range of these n that is a box in every shape in which the region has them. A region grows from a product of batches
of matrices: what follows from its result and works on the elements one by one, and large values that only this reads. No node of it depends
on another through one that is none of it, so that it can be run in one go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

from assay.exact.table import OPS, Kind
from assay.exact.views import integer, ints
from assay.program import Part

SLICE = 4 << 20
"""Bytes of a slice's values that are there at a time, about: as much as stays in a processor's caches. 0 stands for no slices."""
WORTH = 2
"""Times as many bytes there have to be of these without slices."""
MOST = 64
"""Slices of a region: each has its own steps."""
LOOKS = 1 << 22
"""Nodes that are looked at, all in all: each product around which a region is looked for takes a look at the whole part."""
STEPS = 1 << 16
"""Nodes of all slices of a part."""
_VIEWS = ("reshape", "permute", "expand", "slice", "reverse")


class Range(NamedTuple):
    """Elements start..stop-1 of a batch."""

    start: int
    stop: int


def batch(shape: Sequence[int], n: int) -> int | None:
    """How many of the first dimensions are a batch of n elements."""
    so_far = 1
    for rank, size in enumerate(shape):
        so_far *= size
        if so_far >= n:
            return rank + 1 if so_far == n else None
    return None


def box(dims: Sequence[int], part: Range) -> list[Range] | None:
    """A range of a batch of these dimensions as a range of each, or None where it is none."""
    out: list[Range] = []
    start, stop = part
    below = prod(dims)
    for size in dims:
        below //= size
        if start == 0 and stop == below * size:
            out.append(Range(0, size))
            stop = below
        elif start % below == 0 and stop % below == 0:
            out.append(Range(start // below, stop // below))
            start, stop = 0, below
        elif start // below == (stop - 1) // below:
            out.append(Range(start // below, start // below + 1))
            start, stop = start % below, (stop - 1) % below + 1
        else:
            return None
    return out


def cuts(forms: Sequence[Sequence[int]], n: int, most: int) -> list[Range] | None:
    """Ranges of at most `most` elements of a batch of n, each a box in all `forms` of its dimensions; None where no such cut is to be had."""
    blocks = sorted({prod(dims[at:]) for dims in forms for at in range(len(dims) + 1)})
    if any(b % a for a, b in pairwise(blocks)):
        return None
    unit = max(b for b in blocks if b <= most)
    whole = min((b for b in blocks if b > unit), default=n)
    pieces = -(-whole // (most // unit * unit))
    ends = [whole // unit * i // pieces * unit for i in range(pieces + 1)]
    return [Range(at + a, at + b) for at in range(0, n, whole) for a, b in pairwise(ends)]


class Region:
    """Nodes of a part that work on each of n elements by themselves, none of which depends on another through a node that does not."""

    def __init__(self, part: Part, n: int) -> None:
        self.part, self.n = part, n
        self.nodes: set[int] = set()

    def lead(self, shape: Sequence[int]) -> Sequence[int] | None:
        rank = batch(shape, self.n)
        return None if rank is None else shape[:rank]

    def forms(self) -> list[tuple[int, ...]]:
        """All shapes in which the region has its batch."""
        first, nodes = len(self.part.inputs), self.part.nodes
        values = [v for at in self.nodes for v in (first + at, *(nodes[at].inputs if nodes[at].op == "reshape" else ()))]
        return sorted({tuple(lead) for v in values if (lead := self.lead(self.part.type_of(v).shape)) is not None})

    def largest(self) -> int:
        """Elements of a result."""
        return max(self.part.nodes[at].type.elements for at in self.nodes)

    def wanted(self, users: list[set[int]]) -> set[int]:
        """Nodes whose results, or views of them, are used outside."""
        first = len(self.part.inputs)
        return {source(self.part, first + at) - first for at in self.nodes if not users[at] <= self.nodes} & self.nodes

    def fits(self, at: int) -> bool:
        """Whether a node works on the batch's elements one by one, whatever other operands it has."""
        node = self.part.nodes[at]
        lead = self.lead(node.type.shape)
        if lead is None:
            return False
        shapes = [self.part.type_of(v).shape for v in node.inputs]
        rank = len(lead)
        match node.op:
            case "matmul":
                return rank <= len(node.type.shape) - 2
            case "sum" | "amax":
                return self.lead(shapes[0]) == lead and min(ints(node.attrs, "axes")) >= rank
            case "cumsum" | "slice" | "reverse":
                return self.lead(shapes[0]) == lead and integer(node.attrs, "axis") >= rank
            case "permute":
                return ints(node.attrs, "axes")[:rank] == tuple(range(rank)) and self.lead(shapes[0]) == lead
            case "expand":
                return len(shapes[0]) == len(node.type.shape) and shapes[0][:rank] == lead
            case "reshape":
                return self.lead(shapes[0]) is not None
        return OPS[node.op].kind is Kind.MAP

    def takes(self, at: int) -> bool:
        """Whether a node that fits takes from the region what it makes of the same elements."""
        first, node = len(self.part.inputs), self.part.nodes[at]
        lead = self.lead(node.type.shape)
        assert lead is not None
        for v in node.inputs:
            shape = self.part.type_of(v).shape
            inside = v - first in self.nodes
            if inside and OPS[node.op].kind is Kind.MAP and (len(shape) != len(node.type.shape) or shape[: len(lead)] != lead):
                return False
        return True


def users_of(part: Part) -> list[set[int]]:
    """For each node the nodes that read it; -1 for a result of the part."""
    first = len(part.inputs)
    users: list[set[int]] = [set() for _ in part.nodes]
    for at, node in enumerate(part.nodes):
        for v in node.inputs:
            if v >= first:
                users[v - first].add(at)
    for o in part.outputs:
        if o.value >= first:
            users[o.value - first].add(-1)
    return users


def _fixed(part: Part) -> list[bool]:
    """Of each value, whether it is made of constants alone."""
    fixed = [i.kind == "constant" for i in part.inputs]
    for node in part.nodes:
        fixed.append(all(fixed[v] for v in node.inputs))
    return fixed


def _grown(part: Part, seed: int, users: list[set[int]], fixed: list[bool], taken: set[int]) -> Region:
    """The region around a product: what follows from it, and large values that only this reads."""
    first, nodes = len(part.inputs), part.nodes
    region = Region(part, prod(nodes[seed].type.shape[:-2]))
    region.nodes.add(seed)
    after: set[int] = set()
    for at in range(seed + 1, len(nodes)):
        made = [v - first for v in nodes[at].inputs if v >= first]
        inside = any(v in region.nodes for v in made)
        if any(v in after for v in made):
            after.add(at)
        elif inside and at not in taken and region.fits(at) and region.takes(at):
            region.nodes.add(at)
        elif inside:
            after.add(at)
    largest = region.largest()
    for at in range(len(nodes) - 1, -1, -1):
        if at in region.nodes or at in after | taken or fixed[first + at] or 2 * nodes[at].type.elements <= largest:
            continue
        if users[at] and users[at] <= region.nodes and region.fits(at) and region.takes(at):
            region.nodes.add(at)
            if not all(region.takes(user) for user in users[at]):
                region.nodes.remove(at)
    for at in sorted(region.nodes, reverse=True):
        if at != seed and not users[at] & region.nodes and not _gains(region, at, largest, users):
            region.nodes.remove(at)
    return region


def _gains(region: Region, at: int, largest: int, users: list[set[int]]) -> bool:
    """Whether a node that nothing else of the region reads belongs there: what it takes is large and need not all be there for it."""
    part, first = region.part, len(region.part.inputs)
    node = part.nodes[at]
    if 2 * node.type.elements <= largest:
        return any(2 * part.type_of(v).elements > largest for v in node.inputs)
    inside = {source(part, v) - first for v in node.inputs} & region.nodes
    return not all(users[v] - region.nodes for v in inside)


def source(part: Part, v: int) -> int:
    """The value whose elements a view has."""
    first = len(part.inputs)
    while v >= first and part.nodes[v - first].op in _VIEWS:
        v = part.nodes[v - first].inputs[0]
    return v


def _held(region: Region, users: list[set[int]]) -> int:
    """Bytes, at the fullest moment, of what only the region uses."""
    part, nodes = region.part, sorted(region.nodes)
    first = len(part.inputs)
    last: dict[int, int] = {}
    outside = region.wanted(users)
    for at in nodes:
        last |= dict.fromkeys((source(part, v) for v in (*part.nodes[at].inputs, first + at)), at)
    held = most = 0
    dying: dict[int, int] = {}
    for at in nodes:
        if part.nodes[at].op not in _VIEWS and at not in outside:
            held += part.nodes[at].type.bytes
            dying[last[first + at]] = dying.get(last[first + at], 0) + part.nodes[at].type.bytes
        most = max(most, held)
        held -= dying.get(at, 0)
    return most


def regions(part: Part, most: int = SLICE) -> list[tuple[Region, list[Range]]]:
    """The regions of a part that are worth it, none of which has a node of another, each with its slices: of about `most` bytes."""
    users, fixed = users_of(part), _fixed(part)
    taken: set[int] = set()
    found: list[tuple[Region, list[Range]]] = []
    looks = steps = 0
    for seed, node in enumerate(part.nodes):
        if not most or node.op != "matmul" or prod(node.type.shape[:-2]) < 2 or seed in taken or fixed[len(part.inputs) + seed]:
            continue
        looks += len(part.nodes)
        if looks > LOOKS:
            break
        region = _grown(part, seed, users, fixed, taken)
        held = _held(region, users)
        if held < WORTH * most:
            continue
        each = max(1, most * region.n // held, -(-region.n // MOST))
        ranges = cuts(region.forms(), region.n, each)
        of = {at: unit for unit, (other, _) in enumerate([*found, (region, ranges)]) for at in other.nodes}
        new = len(region.nodes) * len(ranges or ())
        if ranges is not None and len(ranges) > 1 and steps + new <= STEPS and order_of(part, of) is not None:
            steps += new
            taken |= region.nodes
            found.append((region, ranges))
    return found


def order_of(part: Part, of: Mapping[int, int]) -> list[int] | None:
    """Nodes in an order in which the part can be run, with one node in place of each region (`of` gives a node's), where its first one
    was; None where regions depend on each other."""
    first = len(part.inputs)
    members: dict[int, set[int]] = {}
    for at, unit in of.items():
        members.setdefault(unit, set()).add(at)
    order: list[int] = []
    done: set[int] = set()
    for start in range(len(part.nodes)):
        todo = [start]
        waiting: set[int] = set()
        while todo:
            at = todo[-1]
            if at in done:
                todo.pop()
                continue
            together = members[of[at]] if at in of else {at}
            missing = {v - first for i in together for v in part.nodes[i].inputs if v >= first} - together - done
            if not missing:
                order.append(min(together))
                done |= together
                waiting -= together
            elif waiting & together:
                return None
            else:
                waiting |= together
                todo += sorted(missing, reverse=True)
    return order


class Large(NamedTuple):
    """Nodes of a part's regions."""

    made: set[int]
    """Those that make their large values, the scores and weights of attention: a slice of these is made again soon enough."""
    passing: set[int]
    """Those whose results nothing else needs."""


def large(part: Part, most: int = SLICE) -> Large:
    out, users, first = Large(set(), set()), users_of(part), len(part.inputs)
    for region, _ in regions(part, most):
        out.passing.update(region.nodes - region.wanted(users))
        for at in sorted(region.nodes, reverse=True):
            if at in out.made or 2 * part.nodes[at].type.elements > region.largest():
                out.made.update({at, *({v - first for v in part.nodes[at].inputs} & region.nodes)})
    return out
