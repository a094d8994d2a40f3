"""One element of a stage's output, decided from single elements of its operands (docs/dispute.md, "One element").

The third writing of the leaf, beside the two contracts': plain integers for everything that places, sums or rounds
(assay.dispute.scalars), and the functions of assay.exact.functions on single values. Nothing here works on tensors. A value is its raw
bits as an unsigned integer. An output follows from `folds` reductions over items (the largest or the sum), whose totals `finish` turns
into bits; an item, and `finish`, need single elements of operands, which `needs` names one after the other. tests/test_leaf.py holds it
against assay.exact.reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from assay.dispute.scalars import NAN_KEY, clamped, exponent, f32_of, fixed, key, of_key, scalar_map, scale, signed, wrapped
from assay.exact.types import NAN_BITS, TensorType
from assay.stages import Stage


class Need(NamedTuple):
    """Element `element` (C order) of operand number `operand` of the stage."""

    operand: int
    element: int


# ---- places ----------------------------------------------------------------------------------------------------------------


def _unravel(element: int, shape: Sequence[int]) -> list[int]:
    out = []
    for n in reversed(shape):
        element, i = divmod(element, n)
        out.append(i)
    return out[::-1]


def _ravel(index: Sequence[int], shape: Sequence[int]) -> int:
    element = 0
    for i, n in zip(index, shape, strict=True):
        element = element * n + i
    return element


def _broadcast(element: int, shape: Sequence[int], operand: Sequence[int]) -> int:
    index = _unravel(element, shape)[len(shape) - len(operand) :]
    return _ravel([0 if n == 1 else i for i, n in zip(index, operand, strict=True)], operand)


def _axis(stage: Stage) -> int:
    return _int(stage, "axis")


def _int(stage: Stage, name: str) -> int:
    value = stage.attrs[name]
    assert isinstance(value, int)
    return value


def _axes(stage: Stage) -> tuple[int, ...]:
    value = stage.attrs["axes"]
    assert isinstance(value, tuple)
    return value


# ---- MOVE ------------------------------------------------------------------------------------------------------------------


def _moved(stage: Stage, index: list[int], values: Sequence[int]) -> list[Need]:
    """The operands' elements that an element of a MOVE takes; none where a constant is put."""
    axis = _axis(stage) if "axis" in stage.attrs else 0
    shape = stage.operands[0][1].shape
    match stage.op:
        case "permute":
            turned = [0] * len(index)
            for i, a in zip(index, _axes(stage), strict=True):
                turned[a] = i
            return [Need(0, _ravel(turned, shape))]
        case "slice":
            index[axis] = _int(stage, "start") + index[axis] * _int(stage, "step")
        case "reverse":
            index[axis] = shape[axis] - 1 - index[axis]
        case "windows":
            index[axis : axis + 2] = [index[axis] * _int(stage, "stride") + index[axis + 1] * _int(stage, "dilation")]
        case "spread":
            place, rest = divmod(index[axis] - index[axis + 1] * _int(stage, "dilation"), _int(stage, "stride"))
            if rest or not 0 <= place < shape[axis]:
                return []
            index[axis] = place
        case "pad":
            index[axis] -= _int(stage, "before")
            if not 0 <= index[axis] < shape[axis]:
                return []
        case "concat":
            for at, (_, t) in enumerate(stage.operands):
                if index[axis] < t.shape[axis]:
                    return [Need(at, _ravel(index, t.shape))]
                index[axis] -= t.shape[axis]
        case "take_rows" | "gather":
            return _indexed(stage, index, values)
    return [Need(0, _ravel(index, shape))]


def _indexed(stage: Stage, index: list[int], values: Sequence[int]) -> list[Need]:
    (_, x), (_, t) = stage.operands
    rows = stage.op == "take_rows"
    asked = [Need(1, _ravel(index[: len(t.shape)] if rows else index, t.shape))]
    if not values:
        return asked
    if rows:
        place = clamped(values[0], t.dtype, x.shape[0])
        return [*asked, Need(0, _ravel([place, *index[len(t.shape) :]], x.shape))]
    axis = _axis(stage)
    index[axis] = clamped(values[0], t.dtype, x.shape[axis])
    return [*asked, Need(0, _ravel(index, x.shape))]


# ---- REDUCE ----------------------------------------------------------------------------------------------------------------


def _along(stage: Stage, element: int, item: int) -> int:
    """Element of the operand that is item `item` of an output's own reduction over the stage's axes."""
    shape, axes = stage.operands[0][1].shape, _axes(stage)
    index = _unravel(element, stage.type.shape)
    if not stage.attrs["keepdim"]:
        for a in axes:
            index.insert(a, 0)
    for a, i in zip(axes, _unravel(item, [shape[a] for a in axes]), strict=True):
        index[a] = i
    return _ravel(index, shape)


def _on_axis(element: int, t: TensorType, axis: int, place: int) -> int:
    index = _unravel(element, t.shape)
    index[axis] = place
    return _ravel(index, t.shape)


def _column(stage: Stage, element: int) -> tuple[int, int]:
    """(row, place within it) of an element of a scatter_add_rows."""
    return divmod(element, math.prod(stage.type.shape[1:]))


def folds(stage: Stage) -> int:
    """How many reductions an output takes; 0 for CONST, MAP and MOVE."""
    match stage.op:
        case "matmul":
            return 3
        case "scatter_add_rows":
            return 2
        case "sum" | "cumsum":
            return 2 if stage.type.dtype == "f32" else 1
        case "amax" | "scatter_value":
            return 1
    return 0


def length(stage: Stage, element: int, fold: int) -> int:
    """Items of a fold, at least one."""
    x = stage.operands[0][1]
    match stage.op:
        case "matmul":
            return x.shape[-1]
        case "sum" | "amax":
            return math.prod(x.shape[a] for a in _axes(stage))
        case "cumsum":
            axis = _axis(stage)
            whole = fold == 0 and x.dtype == "f32"
            return x.shape[axis] if whole else _unravel(element, x.shape)[axis] + 1
        case "scatter_add_rows":
            return stage.operands[1][1].elements if fold == 0 else x.shape[0]
    return stage.operands[1][1].shape[_axis(stage)]


def _sums(stage: Stage, fold: int) -> bool:
    return fold == folds(stage) - 1 and stage.op not in ("amax", "scatter_value")


def bounds(stage: Stage, fold: int) -> tuple[int, int]:
    """Least and greatest total that a fold can have."""
    if _sums(stage, fold):
        return -(1 << 63), (1 << 63) - 1
    return {"amax": (-(1 << 31), NAN_KEY), "scatter_value": (0, 1)}.get(stage.op, (0, 255))


def combine(stage: Stage, fold: int, parts: Sequence[int]) -> int:
    """Of the totals of consecutive ranges, the total of them all: the sum in the last fold of a sum, else the largest. A sum of integers is
    that modulo 2^64, between -2^63 and 2^63 - 1."""
    if not _sums(stage, fold):
        return max(parts)
    total = sum(parts)
    return signed(total % (1 << 64), "i64") if stage.type.dtype == "i64" else total


def needs(stage: Stage, element: int, fold: int, index: int, values: Sequence[int]) -> list[Need]:
    """What item `index` of a fold (or, with fold == folds(stage), the output) needs, given the values of the needs found so far; complete
    when it names no more than `values` has."""
    if fold == folds(stage):
        if stage.op == "scatter_value":
            return [Need(0, element)]
        if fold or not stage.operands:
            return []
        match stage.op:
            case "reshape":
                return [Need(0, element)]
            case "permute" | "slice" | "reverse" | "windows" | "spread" | "pad" | "concat" | "take_rows" | "gather":
                return _moved(stage, _unravel(element, stage.type.shape), values)
        return [Need(at, _broadcast(element, stage.type.shape, t.shape)) for at, (_, t) in enumerate(stage.operands)]
    x = stage.operands[0][1]
    match stage.op:
        case "sum" | "amax":
            return [Need(0, _along(stage, element, index))]
        case "cumsum":
            return [Need(0, _on_axis(element, x, _axis(stage), index))]
        case "scatter_value":
            return [Need(1, _on_axis(_from_x(stage, element), stage.operands[1][1], _axis(stage), index))]
        case "scatter_add_rows":
            if fold == 0:
                return [Need(1, index)]
            return [Need(0, index), Need(1, index * math.prod(stage.type.shape[1:]) + _column(stage, element)[1])]
    place = _unravel(element, stage.type.shape)
    a, b = [*place[:-1], index], [*place[:-2], index, place[-1]]
    both = [Need(0, _ravel(a, x.shape)), Need(1, _ravel(b, stage.operands[1][1].shape))]
    return both if fold == 2 else [both[fold]]


def _from_x(stage: Stage, element: int) -> int:
    """An element of x as one of the index, at place 0 of the axis."""
    axis, (_, x), (_, t) = _axis(stage), *stage.operands
    place = _unravel(element, x.shape)
    place[axis] = 0
    return _ravel(place, t.shape)


def item(stage: Stage, element: int, fold: int, index: int, totals: Sequence[int], values: Sequence[int]) -> int:
    """Item `index` of a fold from the values that it needs, and the totals of the folds before."""
    match stage.op:
        case "amax":
            return key(values[0])
        case "scatter_value":
            _, t = stage.operands[1]
            axis, shape = _axis(stage), stage.type.shape
            return int(clamped(values[0], t.dtype, shape[axis]) == _unravel(element, shape)[axis])
        case "matmul":
            if fold < 2:
                return exponent(values[0])
            if 255 in totals[:2]:
                return 0
            bits = _int(stage, "bits")
            most = (1 << (bits - 1)) - 1
            a, b = (fixed(v, bits - 1 + 126 - top) for v, top in zip(values, totals[:2], strict=True))
            return min(max(a, -most), most) * min(max(b, -most), most)
    if stage.type.dtype == "i64":
        return signed(values[0], "i64")
    if fold == 0:
        return exponent(values[0])
    if totals[0] == 255:
        return 0
    if stage.op == "scatter_add_rows":
        (_, t), rows = stage.operands[0], stage.type.shape[0]
        here = clamped(values[0], t.dtype, rows) == _column(stage, element)[0]
        return fixed(values[1], scale(t.shape[0], totals[0])) if here else 0
    return fixed(values[0], scale(length(stage, element, 0), totals[0]))


def finish(stage: Stage, element: int, totals: Sequence[int], values: Sequence[int]) -> int:
    """Bits of the output from the folds' totals and the values that it needs."""
    match stage.op:
        case "const":
            return _int(stage, "bits")
        case "iota":
            return element
        case "amax":
            return of_key(totals[0])
        case "scatter_value":
            return _int(stage, "bits") if totals[0] else values[0]
        case "matmul":
            if 255 in totals[:2]:
                return NAN_BITS
            return f32_of(totals[2], sum(totals[:2]) - 2 * (_int(stage, "bits") - 1 + 126))
        case "sum" | "cumsum" | "scatter_add_rows":
            if stage.type.dtype == "i64":
                return wrapped(totals[0], "i64")
            n = stage.operands[0][1].shape[0] if stage.op == "scatter_add_rows" else length(stage, element, 0)
            return NAN_BITS if totals[0] == 255 else f32_of(totals[1], -scale(n, totals[0]))
        case "pad":
            return values[0] if values else _int(stage, "bits")
        case "spread":
            return values[0] if values else 0
        case "take_rows" | "gather":
            return values[1]
        case "reshape" | "permute" | "expand" | "slice" | "reverse" | "windows" | "concat":
            return values[0]
    return scalar_map(stage, values)


def output(stage: Stage, element: int, read: Callable[[Need], int]) -> int:
    """The element, all folds evaluated here: what an honest party compares with."""
    totals = fold_totals(stage, element, read)
    return finish(stage, element, totals, gather(stage, element, folds(stage), 0, read))


def fold_totals(stage: Stage, element: int, read: Callable[[Need], int]) -> list[int]:
    """Total of each fold."""
    totals: list[int] = []
    for fold in range(folds(stage)):
        totals.append(combine(stage, fold, fold_items(stage, element, fold, totals, read)))
    return totals


def fold_items(stage: Stage, element: int, fold: int, totals: Sequence[int], read: Callable[[Need], int], low: int = 0, high: int = -1) -> list[int]:
    """Items [low, high) of a fold, by the totals of those before it; all of them by default."""
    high = length(stage, element, fold) if high < 0 else high
    return [item(stage, element, fold, i, totals, gather(stage, element, fold, i, read)) for i in range(low, high)]


def gather(stage: Stage, element: int, fold: int, index: int, read: Callable[[Need], int]) -> list[int]:
    """Values of all that an item or output needs."""
    values: list[int] = []
    while len(found := needs(stage, element, fold, index, values)) > len(values):
        values.append(read(found[len(values)]))
    return values
