"""Parts of a program run slice by slice: attention without S x S for all heads at once, with the same results.

In attention nothing of one head depends on another: scores, their maxima, exponentials, sums and quotients, the products before and after,
and their gradients, each have a batch of heads as their first dimensions, and the scales of a product's rows and columns are those of each of its
matrices. So a *region* of a part, whose operators all work on each element of such a batch by itself, may be run for some elements
after the other. What is used within the region alone is then only ever there for one slice, which fits a cache; what is used after it is written
slice by slice to where all of it lies (assay.exact.plan puts the pieces of a `concat` in place).

This writes a part again, as assay.exact.recompute does: nobody else has to know of it, and the program, its roots and its traces stay as
they are. The batch of a value is the shortest run of its first dimensions with the region's number of elements n: [B, H, S, S] and [B·H, S, S]
are the same batch. A slice is a range of these n that is a box in every shape in which the region has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

from assay.exact.table import OPS, Kind, TensorType
from assay.exact.views import integer, ints
from assay.program import Node, Output, Part

SLICE = 4 << 20
"""Bytes of a slice's values that are there at a time, about: as much as stays in a processor's caches."""
WORTH = 8 << 20
"""Bytes of such values without slices, below which there are none."""
MOST = 64
"""Slices of a region: each has its own steps."""
TRIES = 1024
"""Products of a part around which a region is looked for: each look costs the length of the part."""
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
    if any(b % a for a, b in zip(blocks, blocks[1:], strict=False)):
        return None
    unit = max(b for b in blocks if b <= most)
    whole = min((b for b in blocks if b > unit), default=n)
    pieces = -(-whole // (most // unit * unit))
    ends = [whole // unit * i // pieces * unit for i in range(pieces + 1)]
    return [Range(at + a, at + b) for at in range(0, n, whole) for a, b in zip(ends, ends[1:], strict=False)]


class _Region:
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


def _users(part: Part) -> list[set[int]]:
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


def _grown(part: Part, seed: int, users: list[set[int]], fixed: list[bool], taken: set[int]) -> _Region:
    """The region around a product: what follows from it, and large values that only this reads."""
    first, nodes = len(part.inputs), part.nodes
    region = _Region(part, prod(nodes[seed].type.shape[:-2]))
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
    largest = max(nodes[at].type.elements for at in region.nodes)
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


def _gains(region: _Region, at: int, largest: int, users: list[set[int]]) -> bool:
    """Whether a node that nothing else of the region reads belongs there: what it takes is large and need not all be there for it."""
    part, first = region.part, len(region.part.inputs)
    node = part.nodes[at]
    if 2 * node.type.elements <= largest:
        return any(2 * part.type_of(v).elements > largest for v in node.inputs)
    inside = {_source(part, v) - first for v in node.inputs} & region.nodes
    return not all(users[v] - region.nodes for v in inside)


def _source(part: Part, v: int) -> int:
    """The value whose elements a view has."""
    first = len(part.inputs)
    while v >= first and part.nodes[v - first].op in _VIEWS:
        v = part.nodes[v - first].inputs[0]
    return v


def _held(region: _Region, users: list[set[int]]) -> int:
    """Bytes, at the fullest moment, of what only the region uses."""
    part, nodes = region.part, sorted(region.nodes)
    first = len(part.inputs)
    last: dict[int, int] = {}
    outside: set[int] = set()
    for at in nodes:
        last |= dict.fromkeys((_source(part, v) for v in (*part.nodes[at].inputs, first + at)), at)
        if not users[at] <= region.nodes:
            outside.add(_source(part, first + at))
    held = most = 0
    dying: dict[int, int] = {}
    for at in nodes:
        if part.nodes[at].op not in _VIEWS and first + at not in outside:
            held += part.nodes[at].type.bytes
            dying[last[first + at]] = dying.get(last[first + at], 0) + part.nodes[at].type.bytes
        most = max(most, held)
        held -= dying.get(at, 0)
    return most


def regions(part: Part, most: int = SLICE, worth: int = WORTH) -> list[tuple[_Region, list[Range]]]:
    """The regions of a part that are worth it, none of which has a node of another, each with its slices: of about `most` bytes."""
    users, fixed = _users(part), _fixed(part)
    taken: set[int] = set()
    found: list[tuple[_Region, list[Range]]] = []
    tried = 0
    for seed, node in enumerate(part.nodes):
        if node.op != "matmul" or len(node.type.shape) < 3 or seed in taken or fixed[len(part.inputs) + seed] or prod(node.type.shape[:-2]) < 2:
            continue
        largest = max(node.type.bytes, *(part.type_of(v).bytes for v in node.inputs))
        if node.type.bytes < largest or tried == TRIES:
            continue  # what it makes is not large: no more than a place where a region ends
        tried += 1
        region = _grown(part, seed, users, fixed, taken)
        held = _held(region, users)
        if held < worth or held <= most:
            continue
        each = max(1, most * region.n // held, -(-region.n // MOST))
        ranges = cuts(region.forms(), region.n, each)
        of = {at: unit for unit, (other, _) in enumerate([*found, (region, ranges)]) for at in other.nodes}
        if ranges is not None and len(ranges) > 1 and _order(part, of) is not None:
            taken |= region.nodes
            found.append((region, ranges))
    return found


def _order(part: Part, of: Mapping[int, int]) -> list[int] | None:
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
            together = members[of[at]] if at in of else {at}
            missing = {v - first for i in together for v in part.nodes[i].inputs if v >= first} - together - done
            if at in done:
                todo.pop()
            elif not missing:
                order.append(min(together))
                done |= together
                waiting -= together
            elif waiting & together:
                return None
            else:
                waiting |= together
                todo += sorted(missing, reverse=True)
    return order


class _Writer:
    """A part as it is written again."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.nodes: list[Node] = []
        self.number = {v: v for v in range(len(part.inputs))}
        """Of each value of the program in the new part."""

    def put(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.part.inputs) + len(self.nodes) - 1

    def copy(self, at: int) -> None:
        node = self.part.nodes[at]
        inputs = tuple(self.number[v] for v in node.inputs)
        self.number[len(self.part.inputs) + at] = self.put(Node(op=node.op, inputs=inputs, attrs=node.attrs, type=node.type))

    def cut(self, value: int, t: TensorType, ranges: Sequence[Range]) -> int:
        """Ranges of a value's first dimensions; those of 1, which are broadcast, as they are."""
        shape = list(t.shape)
        for axis, part in enumerate(ranges):
            if shape[axis] > 1 and part != (0, shape[axis]):
                shape[axis] = part.stop - part.start
                attrs = {"axis": axis, "start": part.start, "stop": part.stop, "step": 1}
                value = self.put(Node(op="slice", inputs=(value,), attrs=attrs, type=TensorType(dtype=t.dtype, shape=tuple(shape))))
        return value

    def region(self, region: _Region, ranges: Sequence[Range], users: list[set[int]]) -> None:
        part, first = self.part, len(self.part.inputs)
        nodes = sorted(region.nodes)
        wanted = {_source(part, first + at) for at in nodes if not users[at] <= region.nodes} & {first + at for at in nodes}
        pieces: dict[int, list[int]] = {v: [] for v in sorted(wanted)}
        for here in ranges:
            made: dict[int, int] = {}
            for at in nodes:
                made[first + at] = self._slice(region, at, here, made)
            for v, list_of in pieces.items():
                t = part.type_of(v)
                shape = (here.stop - here.start, *t.shape[len(region.lead(t.shape) or ()) :])
                list_of.append(self.put(Node(op="reshape", inputs=(made[v],), attrs={"shape": shape}, type=TensorType(dtype=t.dtype, shape=shape))))
        for v, list_of in pieces.items():
            t = part.type_of(v)
            shape = (region.n, *t.shape[len(region.lead(t.shape) or ()) :])
            joined = self.put(Node(op="concat", inputs=tuple(list_of), attrs={"axis": 0}, type=TensorType(dtype=t.dtype, shape=shape)))
            self.number[v] = self.put(Node(op="reshape", inputs=(joined,), attrs={"shape": t.shape}, type=t))
        # Views that something else reads, of all of what they are views of.
        seen = [at for at in nodes if not users[at] <= region.nodes]
        needed: set[int] = set()
        for v in (first + at for at in seen):
            while v not in self.number and v not in needed:
                needed.add(v)
                v = part.nodes[v - first].inputs[0]
        for v in sorted(needed):
            self.copy(v - first)

    def _slice(self, region: _Region, at: int, here: Range, made: dict[int, int]) -> int:
        """A node for the elements `here` alone."""
        part, node = self.part, self.part.nodes[at]
        lead = region.lead(node.type.shape)
        assert lead is not None
        inputs = []
        for v in node.inputs:
            t = part.type_of(v)
            if v in made:
                inputs.append(made[v])
                continue
            own = list(lead)
            if node.op == "reshape":
                own = list(region.lead(t.shape) or ())
            ranges = box(own, here)
            assert ranges is not None
            inputs.append(self.cut(self.number[v], t, ranges[max(0, len(node.type.shape) - len(t.shape)) :] if OPS[node.op].kind is Kind.MAP else ranges))
        ranges = box(lead, here)
        assert ranges is not None
        shape = (*(r.stop - r.start for r in ranges), *node.type.shape[len(lead) :])
        attrs = {**node.attrs, "shape": shape} if node.op in ("reshape", "expand") else node.attrs
        return self.put(Node(op=node.op, inputs=tuple(inputs), attrs=attrs, type=TensorType(dtype=node.type.dtype, shape=shape)))


def sliced(part: Part, most: int = SLICE, worth: int = WORTH) -> Part:
    """The part with its regions run slice by slice; the part itself where there are none."""
    found = regions(part, most, worth)
    of = {at: unit for unit, (region, _) in enumerate(found) for at in region.nodes}
    order = _order(part, of) if found else None
    if order is None:
        return part
    users, out = _users(part), _Writer(part)
    for at in order:
        if at in of:
            out.region(*found[of[at]], users)
        else:
            out.copy(at)
    outputs = tuple(Output(kind=o.kind, name=o.name, value=out.number[o.value]) for o in part.outputs)
    return Part(inputs=part.inputs, nodes=tuple(out.nodes), outputs=outputs)
