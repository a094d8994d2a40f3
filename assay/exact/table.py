"""The closed set of operators, as data: kind, arity, attributes, dtype rule, shape inference and work of each.

An operator is one of four kinds. CONST makes a value from nothing. MAP computes each output element by a short scalar program
over the matching input elements (NumPy broadcasting). REDUCE combines along axes with an associative integer operation (or
maximum), so that no order of evaluation shows in the bits. MOVE only places elements. A program (assay.program) holds nothing
else, so whoever can evaluate this table can evaluate every program.

Evaluation is total: no value of a well-typed input may raise.

* f32 is IEEE-754 binary32, round to nearest even, subnormals kept, one NaN (0x7fc00000). Integers wrap modulo 2^bits.
* `maximum`, `minimum` and `amax` give NaN if an operand is NaN and order -0 before +0.
* Comparisons with NaN are false, but `ne`, which is true.
* `cast` f32 -> integer truncates towards zero and saturates, NaN -> 0; integer -> f32 rounds to nearest even; x -> bool is
  x != 0; integer -> narrower integer wraps.
* An index outside its axis is clamped into it (`take_rows`, `gather`, `scatter_value`, `scatter_add_rows`).
* `bits` is a raw bit pattern (unsigned) of the dtype concerned.
* `windows` adds an axis after `axis`: y[o, j] = x[o·stride + j·dilation], as many o as fit. `spread` is the way back without
  adding up: y[i, j] = x[o, j] where i = o·stride + j·dilation, zero elsewhere, `n` being the axis' size.
* `cumsum` is the sum of the elements up to and including each one, `reverse` turns an axis around.
* `philox` is the first word of Philox4x32-10 (Salmon et al., SC 2011): operands position, stream and key, each 64 bits, low word
  first; the counter is (position, stream). The result is in 0..2^32-1.

The arithmetic itself is in assay.exact.reference. Every dimension is at least 1. Imports neither NumPy nor torch. The types of
values are in assay.exact.types. (One file because whoever audits the set wants the rows and the rules they name in one place.)
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from assay.exact.types import (
    COMPUTED,
    FLOATS,
    INTEGERS,
    ITEM_BYTES,
    MAX_DIM,
    MAX_RANK,
    NAN_BITS,
    NUMBERS,
    Attr,
    Attrs,
    TensorType,
    TypeRuleError,
    broadcast,
    check_bits,
    check_type,
    well_formed,
)

__all__ = [
    "ITEM_BYTES", "MAX_DIM", "NAN_BITS", "OPS", "Attr", "Attrs", "Kind", "Op", "TensorType", "TypeRuleError", "check_bits", "check_type", "infer",
]  # fmt: skip


class Kind(enum.Enum):
    CONST = "const"
    MAP = "map"
    REDUCE = "reduce"
    MOVE = "move"


Inference = Callable[[Sequence[TensorType], Attrs], TensorType]
Work = Callable[[Sequence[TensorType], TensorType], int]


class Op(NamedTuple):
    """One row. `attrs` maps each (required) attribute to its kind: int, ints, dtype, bits or flag; `arity` None: one or more.
    `infer` gives the output's type or raises TypeRuleError; `flops` estimates scalar operations."""

    kind: Kind
    arity: int | None
    attrs: dict[str, str]
    infer: Inference
    flops: Work


def _want(t: TensorType, dtypes: Sequence[str]) -> None:
    if t.dtype not in dtypes:
        raise TypeRuleError(f"takes {' or '.join(dtypes)}, not {t.dtype}")


def _same_dtype(types: Sequence[TensorType]) -> str:
    if len({t.dtype for t in types}) != 1:
        raise TypeRuleError(f"operands differ in dtype: {', '.join(map(str, types))}")
    return types[0].dtype


def _int(attrs: Attrs, name: str) -> int:
    value = attrs[name]
    assert isinstance(value, int)
    return value


def _ints(attrs: Attrs, name: str) -> tuple[int, ...]:
    value = attrs[name]
    assert isinstance(value, tuple)
    return value


def _axis(t: TensorType, attrs: Attrs) -> int:
    axis = _int(attrs, "axis")
    if not 0 <= axis < len(t.shape):
        raise TypeRuleError(f"axis {axis} is not one of {t}")
    return axis


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


# ---- inference -------------------------------------------------------------------------------------------------------------


def _const(_: Sequence[TensorType], attrs: Attrs) -> TensorType:
    dtype = str(attrs["dtype"])
    _want(TensorType(dtype=dtype, shape=()), COMPUTED)
    check_bits(_int(attrs, "bits"), dtype)
    return TensorType(dtype=dtype, shape=())


def _iota(_: Sequence[TensorType], attrs: Attrs) -> TensorType:
    return TensorType(dtype="i64", shape=(_int(attrs, "n"),))


def _map(dtypes: Sequence[str], result: str | None = None) -> Inference:
    def infer(types: Sequence[TensorType], _: Attrs) -> TensorType:
        dtype = _same_dtype(types)
        _want(types[0], dtypes)
        return TensorType(dtype=result or dtype, shape=broadcast(*(t.shape for t in types)))

    return infer


def _select(types: Sequence[TensorType], _: Attrs) -> TensorType:
    _want(types[0], ("bool",))
    dtype = _same_dtype(types[1:])
    _want(types[1], COMPUTED)
    return TensorType(dtype=dtype, shape=broadcast(*(t.shape for t in types)))


def _cast(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    dtype = str(attrs["dtype"])
    _want(TensorType(dtype=dtype, shape=()), COMPUTED)
    return TensorType(dtype=dtype, shape=types[0].shape)


def _reduce(dtypes: Sequence[str]) -> Inference:
    def infer(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
        (x,), axes = types, _ints(attrs, "axes")
        _want(x, dtypes)
        if not axes or list(axes) != sorted(set(axes)) or not all(0 <= a < len(x.shape) for a in axes):
            raise TypeRuleError(f"axes {list(axes)} are not ascending axes of {x}")
        if attrs["keepdim"]:
            return TensorType(dtype=x.dtype, shape=tuple(1 if i in axes else n for i, n in enumerate(x.shape)))
        return TensorType(dtype=x.dtype, shape=tuple(n for i, n in enumerate(x.shape) if i not in axes))

    return infer


def _matmul(types: Sequence[TensorType], _: Attrs) -> TensorType:
    a, b = types
    _same_dtype(types)
    _want(a, FLOATS)
    if len(a.shape) < 2 or len(a.shape) != len(b.shape) or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        raise TypeRuleError(f"takes [*, M, K] and [*, K, N] with equal leading dimensions, not {a} and {b}")
    return TensorType(dtype="f32", shape=(*a.shape[:-1], b.shape[-1]))


def _scatter_add_rows(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    index, values = types
    _want(index, INTEGERS)
    _want(values, FLOATS)
    if len(index.shape) != 1 or not values.shape or values.shape[0] != index.shape[0]:
        raise TypeRuleError(f"takes index [n] and values [n, ...], not {index} and {values}")
    return TensorType(dtype="f32", shape=(_int(attrs, "rows"), *values.shape[1:]))


def _reshape(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    (x,), shape = types, _ints(attrs, "shape")
    if len(shape) > MAX_RANK or math.prod(shape) != x.elements:
        raise TypeRuleError(f"{x} has no shape {list(shape)}")
    return TensorType(dtype=x.dtype, shape=shape)


def _permute(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    (x,), axes = types, _ints(attrs, "axes")
    if sorted(axes) != list(range(len(x.shape))):
        raise TypeRuleError(f"{list(axes)} does not permute the axes of {x}")
    return TensorType(dtype=x.dtype, shape=tuple(x.shape[a] for a in axes))


def _expand(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    (x,), shape = types, _ints(attrs, "shape")
    if len(shape) > MAX_RANK or len(shape) < len(x.shape) or broadcast(x.shape, shape) != shape:
        raise TypeRuleError(f"{x} does not expand to {list(shape)}")
    return TensorType(dtype=x.dtype, shape=shape)


def _slice(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    (x,) = types
    axis = _axis(x, attrs)
    start, stop, step = (_int(attrs, name) for name in ("start", "stop", "step"))
    if not 0 <= start < stop <= x.shape[axis] or step < 1:
        raise TypeRuleError(f"slice {start}:{stop}:{step} is empty or outside axis {axis} of {x}")
    return TensorType(dtype=x.dtype, shape=_with(x.shape, axis, (stop - start + step - 1) // step))


def _pad(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    (x,) = types
    axis, before, after = _axis(x, attrs), _int(attrs, "before"), _int(attrs, "after")
    if before < 0 or after < 0:
        raise TypeRuleError(f"padding {before}, {after} is negative")
    check_bits(_int(attrs, "bits"), x.dtype)
    return TensorType(dtype=x.dtype, shape=_with(x.shape, axis, x.shape[axis] + before + after))


def _concat(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    dtype, axis = _same_dtype(types), _axis(types[0], attrs)
    if len({_with(t.shape, axis, 1) if len(t.shape) > axis else () for t in types}) != 1:
        raise TypeRuleError(f"operands differ in another axis than {axis}: {', '.join(map(str, types))}")
    return TensorType(dtype=dtype, shape=_with(types[0].shape, axis, sum(t.shape[axis] for t in types)))


def _positive(attrs: Attrs, *names: str) -> list[int]:
    values = [_int(attrs, name) for name in names]
    if not all(1 <= v <= MAX_DIM for v in values):
        raise TypeRuleError(f"{', '.join(names)} are {values}, not in 1..{MAX_DIM}")
    return values


def _windows(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    (x,), axis = types, _axis(types[0], attrs)
    size, stride, dilation = _positive(attrs, "size", "stride", "dilation")
    room = x.shape[axis] - dilation * (size - 1) - 1
    if room < 0:
        raise TypeRuleError(f"a window of {size} elements, {dilation} apart, is longer than axis {axis} of {x}")
    return TensorType(dtype=x.dtype, shape=(*x.shape[:axis], room // stride + 1, size, *x.shape[axis + 1 :]))


def _spread(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    (x,), axis = types, _axis(types[0], attrs)
    n, stride, dilation = _positive(attrs, "n", "stride", "dilation")
    if axis + 1 >= len(x.shape):
        raise TypeRuleError(f"there is no axis after axis {axis} of {x}")
    if (x.shape[axis] - 1) * stride + (x.shape[axis + 1] - 1) * dilation >= n:
        raise TypeRuleError(f"axes {axis} and {axis + 1} of {x} reach past {n} elements")
    return TensorType(dtype=x.dtype, shape=_with(x.shape, axis, n))


def _along_axis(dtypes: Sequence[str]) -> Inference:
    def infer(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
        _want(types[0], dtypes)
        _axis(types[0], attrs)
        return types[0]

    return infer


def _take_rows(types: Sequence[TensorType], _: Attrs) -> TensorType:
    rows, index = types
    _want(index, INTEGERS)
    if not rows.shape:
        raise TypeRuleError("takes a table of rank 1 or more")
    return TensorType(dtype=rows.dtype, shape=index.shape + rows.shape[1:])


def _along(types: Sequence[TensorType], attrs: Attrs) -> tuple[TensorType, TensorType]:
    x, index = types
    axis = _axis(x, attrs)
    _want(index, INTEGERS)
    if len(index.shape) != len(x.shape) or _with(index.shape, axis, 1) != _with(x.shape, axis, 1):
        raise TypeRuleError(f"index {index} differs from {x} in another axis than {axis}")
    return x, index


def _gather(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    x, index = _along(types, attrs)
    return TensorType(dtype=x.dtype, shape=index.shape)


def _scatter_value(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    x, _ = _along(types, attrs)
    check_bits(_int(attrs, "bits"), x.dtype)
    return x


# ---- work ------------------------------------------------------------------------------------------------------------------


def _each(weight: int) -> Work:
    return lambda _, out: weight * out.elements


def _each_in(types: Sequence[TensorType], _: TensorType) -> int:
    return sum(t.elements for t in types)


def _matmul_work(types: Sequence[TensorType], out: TensorType) -> int:
    return 2 * out.elements * types[0].shape[-1]


def _unary(weight: int) -> Op:
    return Op(Kind.MAP, 1, {}, _map(FLOATS), _each(weight))


def _binary(dtypes: Sequence[str], weight: int = 1) -> Op:
    return Op(Kind.MAP, 2, {}, _map(dtypes), _each(weight))


def _compare() -> Op:
    return Op(Kind.MAP, 2, {}, _map(NUMBERS, "bool"), _each(1))


def _move(arity: int | None, attrs: dict[str, str], infer: Inference) -> Op:
    return Op(Kind.MOVE, arity, attrs, infer, _each(0))


_AXES = {"axes": "ints", "keepdim": "flag"}

OPS: dict[str, Op] = {
    # CONST
    "const": Op(Kind.CONST, 0, {"dtype": "dtype", "bits": "bits"}, _const, _each(0)),
    "iota": Op(Kind.CONST, 0, {"n": "int"}, _iota, _each(1)),
    # MAP: f32 -> f32
    "neg": _unary(1),
    "abs": _unary(1),
    "relu": _unary(1),
    "sqrt": _unary(4),
    "rsqrt": _unary(8),
    "reciprocal": _unary(4),
    "exp": _unary(20),
    "log": _unary(25),
    "tanh": _unary(35),
    "erf": _unary(35),
    "sigmoid": _unary(25),
    "sin": _unary(25),
    "cos": _unary(25),
    # MAP: two operands of one dtype
    "add": _binary(NUMBERS),
    "sub": _binary(NUMBERS),
    "mul": _binary(NUMBERS),
    "div": _binary(FLOATS, 4),
    "maximum": _binary(FLOATS),
    "minimum": _binary(FLOATS),
    "and": _binary(("bool",)),
    "or": _binary(("bool",)),
    "not": Op(Kind.MAP, 1, {}, _map(("bool",)), _each(1)),
    "eq": _compare(),
    "ne": _compare(),
    "lt": _compare(),
    "le": _compare(),
    "gt": _compare(),
    "ge": _compare(),
    "select": Op(Kind.MAP, 3, {}, _select, _each(1)),
    "philox": Op(Kind.MAP, 3, {}, _map(("i64",)), _each(80)),
    "cast": Op(Kind.MAP, 1, {"dtype": "dtype"}, _cast, _each(1)),
    # REDUCE
    "sum": Op(Kind.REDUCE, 1, _AXES, _reduce(("f32", "i64")), _each_in),
    "amax": Op(Kind.REDUCE, 1, _AXES, _reduce(FLOATS), _each_in),
    "cumsum": Op(Kind.REDUCE, 1, {"axis": "int"}, _along_axis(("f32", "i64")), _each_in),
    "matmul": Op(Kind.REDUCE, 2, {}, _matmul, _matmul_work),
    "scatter_add_rows": Op(Kind.REDUCE, 2, {"rows": "int"}, _scatter_add_rows, _each_in),
    # MOVE
    "reshape": _move(1, {"shape": "ints"}, _reshape),
    "permute": _move(1, {"axes": "ints"}, _permute),
    "expand": _move(1, {"shape": "ints"}, _expand),
    "slice": _move(1, {"axis": "int", "start": "int", "stop": "int", "step": "int"}, _slice),
    "reverse": _move(1, {"axis": "int"}, _along_axis(tuple(ITEM_BYTES))),
    "windows": _move(1, {"axis": "int", "size": "int", "stride": "int", "dilation": "int"}, _windows),
    "spread": _move(1, {"axis": "int", "n": "int", "stride": "int", "dilation": "int"}, _spread),
    "pad": _move(1, {"axis": "int", "before": "int", "after": "int", "bits": "bits"}, _pad),
    "concat": _move(None, {"axis": "int"}, _concat),
    "take_rows": _move(2, {}, _take_rows),
    "gather": _move(2, {"axis": "int"}, _gather),
    "scatter_value": _move(2, {"axis": "int", "bits": "bits"}, _scatter_value),
}


def infer(op: str, types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    """Type of the result of `op` on operands of `types`. Total on any well-typed arguments: raises TypeRuleError, nothing else."""
    row = OPS.get(op)
    if row is None:
        raise TypeRuleError("is not an operator of the closed set")
    if attrs.keys() != row.attrs.keys():
        raise TypeRuleError(f"takes the attributes {sorted(row.attrs)}, not {sorted(attrs)}")
    for name, kind in row.attrs.items():
        if not well_formed(kind, attrs[name]):
            raise TypeRuleError(f"attribute {name} is no {kind}")
    if (row.arity is None and not types) or (row.arity is not None and len(types) != row.arity):
        raise TypeRuleError(f"takes {row.arity or 'one or more'} operands, not {len(types)}")
    result = row.infer(types, attrs)
    check_type(result)
    return result
