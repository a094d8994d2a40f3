"""Where a value of a program lies when several ranks (devices of one owner) run it together: whole on each of them, or cut along one axis.

`rule` says for each operator what it wants of its operands and where its result lies then. Every operator is a statement about integers or
about single elements, so cutting it up changes no bit: MAP and MOVE work on pieces as they are; a REDUCE along an axis that is cut becomes
maxima that are compared, then integers that are summed across ranks (assay.exact.ranks.exchanges), and one rounding at the end; what
cannot work on pieces is gathered. The same program, data-parallel, tensor-parallel or both, differs in the places of its inputs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from assay.exact.table import OPS, Kind, TensorType
from assay.exact.views import integer, ints
from assay.program import Node


class Split(NamedTuple):
    """Rank r has the elements cuts[r] to cuts[r + 1] of an axis; at least one."""

    axis: int
    cuts: tuple[int, ...]

    def of(self, t: TensorType, rank: int) -> TensorType:
        """The type of a rank's piece."""
        shape = (*t.shape[: self.axis], self.cuts[rank + 1] - self.cuts[rank], *t.shape[self.axis + 1 :])
        return TensorType(dtype=t.dtype, shape=shape)


Place = Split | None
"""None: whole on every rank."""


class Layout(NamedTuple):
    """Which inputs are cut along their first axis, if that is long enough: micro-batches (data-parallel), or state, accumulator and frozen
    tensors (tensor-parallel: each rank holds its part of every matrix, and updates it), or both."""

    batch: bool
    state: bool

    def place(self, kind: str, t: TensorType, ranks: int) -> Place:
        wanted = {"batch": self.batch, "state": self.state, "acc": self.state, "frozen": self.state}.get(kind, False)
        return even(0, t.shape[0], ranks) if wanted and t.shape and t.shape[0] >= ranks > 1 else None


DATA, TENSOR, BOTH = Layout(True, False), Layout(False, True), Layout(True, True)


def even(axis: int, n: int, ranks: int) -> Split:
    return Split(axis, tuple(n * r // ranks for r in range(ranks + 1)))


class Rule(NamedTuple):
    operands: tuple[Place, ...]
    """Where the operands must lie."""
    result: Place
    summed: bool = False
    """The operator is a REDUCE along the axis that its operands are cut along."""


def rule(node: Node, types: Sequence[TensorType], places: Sequence[Place]) -> Rule:
    """For operands of `types` (whole) that lie in `places`."""
    whole = Rule((None,) * len(places), None)
    if all(p is None for p in places):
        return whole
    if OPS[node.op].kind is Kind.MAP:
        return _map(node, types, places)
    match node.op:
        case "matmul":
            return _matmul(types, places)
        case "sum" | "amax":
            return _reduction(node, types[0], places[0])
        case "scatter_add_rows":
            cut = next((p for p in places if p is not None and p.axis == 0), None)
            return Rule((cut, cut), None, True) if cut else whole
        case "take_rows":
            rows, index = places
            if index is not None:
                return Rule((None, index), index)
            if rows is not None and rows.axis:
                return Rule((rows, None), rows._replace(axis=rows.axis - 1 + len(types[1].shape)))
        case "gather" | "scatter_value":
            return _alike(places, integer(node.attrs, "axis"))
        case "concat":
            return _alike(places, integer(node.attrs, "axis"))
        case "cumsum" | "reverse" | "slice" | "pad":
            return _alike(places, integer(node.attrs, "axis"))
        case _:
            (place,) = places
            assert place is not None
            if (after := _moved(node, types[0], place)) is not None:
                return Rule((place,), after)
    return whole


def _map(node: Node, types: Sequence[TensorType], places: Sequence[Place]) -> Rule:
    """As the largest operand that is cut."""
    rank = len(node.type.shape)
    at = max((i for i, p in enumerate(places) if p is not None), key=lambda i: (types[i].elements, -i))
    split = places[at]
    assert split is not None
    axis = split.axis + rank - len(types[at].shape)
    wanted: list[Place] = []
    for t in types:
        own = axis - (rank - len(t.shape))
        wanted.append(split._replace(axis=own) if own >= 0 and t.shape[own] > 1 else None)
    return Rule(tuple(wanted), split._replace(axis=axis))


def _matmul(types: Sequence[TensorType], places: Sequence[Place]) -> Rule:
    """By products, else by rows of A, else by columns of B, else along the axis that is summed over."""
    a, b = places
    rank = len(types[0].shape)
    rows, columns = rank - 2, rank - 1
    for p in (a, b):
        if p is not None and p.axis < rows:
            return Rule((p, p), p)
    if a is not None and a.axis == rows:
        return Rule((a, None), a)
    if b is not None and b.axis == columns:
        return Rule((None, b), b)
    cut = a or b
    assert cut is not None
    return Rule((Split(columns, cut.cuts), Split(rows, cut.cuts)), None, True)


def _reduction(node: Node, t: TensorType, place: Place) -> Rule:
    assert place is not None
    axes = ints(node.attrs, "axes")
    if place.axis in axes:
        return Rule((place,), None, True)
    gone = 0 if node.attrs["keepdim"] else sum(a < place.axis for a in axes)
    return Rule((place,), place._replace(axis=place.axis - gone))


def _alike(places: Sequence[Place], axis: int) -> Rule:
    """All operands cut alike, along another axis than `axis`."""
    cut = next((p for p in places if p is not None and p.axis != axis), None)
    return Rule((cut,) * len(places), cut)


def _moved(node: Node, t: TensorType, place: Split) -> Place:
    """Where a view of a piece lies; None where it cannot be made of pieces."""
    axis = place.axis
    match node.op:
        case "permute":
            return place._replace(axis=ints(node.attrs, "axes").index(axis))
        case "expand":
            return place._replace(axis=axis + len(node.type.shape) - len(t.shape))
        case "windows" | "spread":
            at, wide = integer(node.attrs, "axis"), node.op == "spread"
            if axis == at or (wide and axis == at + 1):
                return None
            return place._replace(axis=axis if axis < at or wide else axis + 1)
        case "reshape":
            return _reshaped(t.shape, node.type.shape, place)
    return None


def _reshaped(source: tuple[int, ...], target: tuple[int, ...], place: Split) -> Place:
    """The axis of the new shape that has the same elements before it, if the cuts fall between its elements."""
    before, inside = prod(source[: place.axis]), prod(source[place.axis + 1 :])
    for axis, n in enumerate(target):
        within = prod(target[axis + 1 :])
        if n > 1 and prod(target[:axis]) == before:
            if n * within != source[place.axis] * inside or any(cut * inside % within for cut in place.cuts):
                return None
            return Split(axis, tuple(cut * inside // within for cut in place.cuts))
    return None
