"""Parts of a program run slice by slice: attention without S x S for all heads at once, with the same results.

In attention nothing of one head depends on another: scores, their maxima, exponentials, sums and quotients, the products before and after,
and their gradients, each have a batch of heads as their first dimensions, and the scales of a product's rows and columns are those of each of its
matrices. So a region of a part (assay.exact.regions), whose operators all work on each element of such a batch by itself, may be run for some
elements after the other. What is used within the region alone is then only ever there for one slice, which fits a cache; what is used after
it is written slice by slice to where all of it lies (assay.exact.plan puts the pieces of a `concat` in place).

This writes a part again, as assay.exact.recompute does: nobody else has to know of it, and the program, its roots and its traces stay as
they are. A trace hashes what a slice makes as the next piece of the whole (assay.exact.hashing.Chunks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from assay.exact.regions import SLICE, Range, Region, box, order_of, regions, users_of
from assay.exact.table import OPS, Attr, Kind, TensorType
from assay.program import Node, Output, Part


class Sliced(NamedTuple):
    """A part with slices. `makers[i]`: the nodes that make node i's result, or, one after the other, its slices."""

    part: Part
    makers: tuple[tuple[int, ...], ...]


class _Writer:
    """A part as it is written again."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.nodes: list[Node] = []
        self.number = {v: v for v in range(len(part.inputs))}
        """Of each value of the program in the new part."""
        self.makers: list[tuple[int, ...]] = [()] * len(part.nodes)

    def put(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.part.inputs) + len(self.nodes) - 1

    def copied(self, at: int) -> int:
        node = self.part.nodes[at]
        return self.put(Node(op=node.op, inputs=tuple(self.number[v] for v in node.inputs), attrs=node.attrs, type=node.type))

    def copy(self, at: int) -> None:
        first = len(self.part.inputs)
        value = self.number[first + at] = self.copied(at)
        self.makers[at] = (value - first,)

    def cut(self, value: int, t: TensorType, ranges: Sequence[Range]) -> int:
        """Ranges of a value's first dimensions; those of 1, which are broadcast, as they are."""
        shape = list(t.shape)
        for axis, part in enumerate(ranges):
            if shape[axis] > 1 and part != (0, shape[axis]):
                shape[axis] = part.stop - part.start
                attrs: dict[str, Attr] = {"axis": axis, "start": part.start, "stop": part.stop, "step": 1}
                value = self.put(Node(op="slice", inputs=(value,), attrs=attrs, type=TensorType(dtype=t.dtype, shape=tuple(shape))))
        return value

    def region(self, region: Region, ranges: Sequence[Range], users: list[set[int]]) -> None:
        part, first = self.part, len(self.part.inputs)
        nodes = sorted(region.nodes)
        pieces: dict[int, list[int]] = {first + at: [] for at in sorted(region.wanted(users))}
        for here in ranges:
            made: dict[int, int] = {}
            for at in nodes:
                made[first + at] = self._slice(region, at, here, made)
                self.makers[at] += (made[first + at] - first,)
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
            self.number[v] = self.copied(v - first)

    def _slice(self, region: Region, at: int, here: Range, made: dict[int, int]) -> int:
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
            own = region.lead(t.shape) if node.op == "reshape" else lead
            ranges = box(own or (), here)
            assert ranges is not None
            missing = len(node.type.shape) - len(t.shape) if OPS[node.op].kind is Kind.MAP else 0
            inputs.append(self.cut(self.number[v], t, ranges[missing:]))
        ranges = box(lead, here)
        assert ranges is not None
        shape = (*(r.stop - r.start for r in ranges), *node.type.shape[len(lead) :])
        attrs = {**node.attrs, "shape": shape} if node.op in ("reshape", "expand") else node.attrs
        return self.put(Node(op=node.op, inputs=tuple(inputs), attrs=attrs, type=TensorType(dtype=node.type.dtype, shape=shape)))


def sliced(part: Part, most: int = SLICE) -> Sliced:
    """The part with its regions run slice by slice; the part itself where there are none."""
    found = regions(part, most)
    of = {at: unit for unit, (region, _) in enumerate(found) for at in region.nodes}
    order = order_of(part, of) if found else None
    if order is None:
        return Sliced(part, tuple((at,) for at in range(len(part.nodes))))
    users, out = users_of(part), _Writer(part)
    for at in order:
        if at in of:
            out.region(*found[of[at]], users)
        else:
            out.copy(at)
    outputs = tuple(Output(kind=o.kind, name=o.name, value=out.number[o.value]) for o in part.outputs)
    return Sliced(Part(inputs=part.inputs, nodes=tuple(out.nodes), outputs=outputs), tuple(out.makers))
