"""The specification: what every operator of assay.exact.table means, bit by bit, in obvious NumPy.

Every other route (native C, GPU, a contract's leaf) must give these bits. Slow on purpose. What is used of NumPy is only what
IEEE 754 and integer arithmetic fix: f32 + - * / sqrt rounded once each, comparisons, rint, conversions, f64 products with powers of
two, int64 arithmetic. Never np.exp, np.sum of floats, or a BLAS.

f32 results that are NaN are the one NaN, 0x7fc00000, in MAP and REDUCE; MOVE copies bits. Subnormals are kept.

Fixed point. For a set of f32 values let E = the biased exponent field of the largest magnitude (0 for zeros and subnormals) and
e = E - 126, so that all |x| < 2^e. With B bits and s = B - e, q = rint(x · 2^s), |q| <= 2^B.
* `sum` over n values: one E for each output element, B = min(40, 62 - ceil(log2 n)); RN32(2^-s · Σ q).
* `cumsum` over an axis of n: one E and B as for `sum` over the whole axis; RN32(2^-s · Σ q) of the q up to each element.
* `scatter_add_rows` with n indices: one E for all values, the same B; RN32(2^-s · Σ q).
* `matmul` with b = gemm_bits: one E for each row of A and column of B, s = b - 1 - e, q clamped to ±(2^(b-1) - 1);
  RN32(2^-(sa + sb) · Σ qa · qb), the sum exact in int64.
A sum of zero is +0. A set that holds an infinity or NaN makes every result that depends on it NaN.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.functions import NAN, ONE, cos, erf, exp, f32, log, philox, sigmoid, sin, tanh
from assay.exact.table import Attr
from assay.program import Part

Array = NDArray[Any]

NUMPY: dict[str, np.dtype[Any]] = {name: np.dtype(code) for name, code in dict(f32="<f4", i32="<i4", i64="<i8", bool="?", u8="u1").items()}
_UNSIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
SUM_BITS = 40



def constant(bits: int, dtype: str) -> Array:
    """The rank-0 value with this bit pattern."""
    to = NUMPY[dtype]
    return np.array(bits, _UNSIGNED[to.itemsize]).view(to)


def _canonical(x: Array) -> Array:
    return np.where(np.isnan(x), NAN, x)


# ---- MAP ---------------------------------------------------------------------------------------------------------------------


def _bits(x: Array) -> Array:
    return np.asarray(x, order="C").view(np.int32)


def key(x: Array) -> Array:
    """Integers in the order of the floats, -0 before +0."""
    b = _bits(x)
    return b ^ ((b >> 31) & 0x7FFFFFFF)


def maximum(a: Array, b: Array) -> Array:
    a, b = np.broadcast_arrays(a, b)
    return np.where(np.isnan(a) | np.isnan(b), NAN, np.where(key(a) > key(b), a, b))


def minimum(a: Array, b: Array) -> Array:
    a, b = np.broadcast_arrays(a, b)
    return np.where(np.isnan(a) | np.isnan(b), NAN, np.where(key(a) < key(b), a, b))


def cast(x: Array, dtype: str) -> Array:
    """f32 -> integer truncates and saturates, NaN -> 0; integer -> f32 rounds to nearest even; anything -> bool is x != 0."""
    to = NUMPY[dtype]
    if dtype == "bool":
        return x != 0
    if x.dtype != np.float32 or dtype == "f32":
        return x.astype(to)
    info = np.iinfo(to)
    inside = (x >= float(info.min)) & (x < float(info.max))
    whole = np.where(inside, x, f32(0)).astype(to)
    return np.where(inside | np.isnan(x), whole, np.where(x < 0, info.min, info.max)).astype(to)


MAP: dict[str, Callable[..., Array]] = {
    "neg": np.negative,
    "abs": np.abs,
    "relu": lambda x: maximum(x, np.zeros_like(x)),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: ONE / np.sqrt(x),
    "reciprocal": lambda x: ONE / x,
    "exp": exp,
    "log": log,
    "tanh": tanh,
    "erf": erf,
    "sigmoid": sigmoid,
    "sin": sin,
    "cos": cos,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": maximum,
    "minimum": minimum,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "select": np.where,
    "philox": philox,
    "cast": cast,
}

# ---- REDUCE ----------------------------------------------------------------------------------------------------------------


def exponent(x: Array, axes: tuple[int, ...]) -> Array:
    """E of the module's docstring over `axes`, kept as dimensions of 1; 255 where there is an infinity or a NaN."""
    return (_bits(x) & 0x7FFFFFFF).max(axis=axes, keepdims=True).reshape([1 if i in axes else n for i, n in enumerate(x.shape)]) >> 23


def fixed(x: Array, s: Any) -> Array:
    """rint(x · 2^s) as int64; 0 where x is not finite."""
    return np.rint(np.ldexp(np.where(np.isfinite(x), x, 0).astype(np.float64), s)).astype(np.int64)


def round_scaled(total: Array, shift: Any) -> Array:
    """RN32(total · 2^shift), rounded once: what f64 cannot hold is first rounded to odd (Boldo and Melquiond 2008)."""
    size = np.abs(total)
    odd = ((size >> 10) | ((size & 1023) != 0)).astype(np.float64) * 1024.0
    value = np.where(size < 1 << 53, size.astype(np.float64), odd)
    return np.ldexp(np.where(total < 0, -value, value), shift).astype(f32)


def sum_bits(n: int) -> int:
    """B for a sum of n values."""
    return min(SUM_BITS, 62 - (n - 1).bit_length())


def sum_(x: Array, axes: tuple[int, ...], keepdim: bool) -> Array:
    if x.dtype == np.int64:
        return np.asarray(x.sum(axis=axes, keepdims=keepdim))
    top = exponent(x, axes)
    s = sum_bits(math.prod(x.shape[a] for a in axes)) + 126 - top
    total = fixed(x, s).sum(axis=axes, keepdims=True)
    y = np.where(top == 255, NAN, round_scaled(total, -s))
    return y if keepdim else y.reshape([n for i, n in enumerate(x.shape) if i not in axes])


def cumsum(x: Array, axis: int) -> Array:
    if x.dtype == np.int64:
        return x.cumsum(axis=axis)
    top = exponent(x, (axis,))
    s = sum_bits(x.shape[axis]) + 126 - top
    return np.where(top == 255, NAN, round_scaled(fixed(x, s).cumsum(axis=axis), -s))


def amax(x: Array, axes: tuple[int, ...], keepdim: bool) -> Array:
    largest = key(x).max(axis=axes, keepdims=keepdim)
    y = np.asarray(largest ^ ((largest >> 31) & 0x7FFFFFFF)).astype(np.int32).view(f32)
    return np.where(np.isnan(x).any(axis=axes, keepdims=keepdim), NAN, y)


def quantise(x: Array, axis: int, bits: int) -> tuple[Array, Array, Array]:
    """(q int64, s, whether the row or column is finite); s and the flag keep `axis` as a dimension of 1."""
    top = exponent(x, (axis % x.ndim,))
    s = bits - 1 + 126 - top
    most = (1 << (bits - 1)) - 1
    return np.clip(fixed(x, s), -most, most), s, top != 255


def matmul(a: Array, b: Array, bits: int) -> Array:
    qa, sa, fa = quantise(a, -1, bits)
    qb, sb, fb = quantise(b, -2, bits)
    return np.where(fa & fb, round_scaled(np.matmul(qa, qb), -(sa + sb)), NAN)


def scatter_add_rows(index: Array, values: Array, rows: int) -> Array:
    top = int((_bits(values) & 0x7FFFFFFF).max()) >> 23
    s = np.int64(sum_bits(len(index)) + 126 - top)
    total = np.zeros((rows, *values.shape[1:]), np.int64)
    np.add.at(total, _inside(index, rows), fixed(values, s))
    return np.full(total.shape, NAN) if top == 255 else round_scaled(total, -s)


# ---- MOVE ------------------------------------------------------------------------------------------------------------------


def _inside(index: Array, size: int) -> Array:
    return np.clip(index, 0, size - 1)


def pad(x: Array, axis: int, before: int, after: int, bits: int, dtype: str) -> Array:
    shape = list(x.shape)
    shape[axis] += before + after
    y = np.full(shape, constant(bits, dtype))
    y[(slice(None),) * axis + (slice(before, before + x.shape[axis]),)] = x
    return y


def windows(x: Array, axis: int, size: int, stride: int, dilation: int) -> Array:
    count = (x.shape[axis] - dilation * (size - 1) - 1) // stride + 1
    return np.take(x, np.arange(count)[:, None] * stride + np.arange(size) * dilation, axis)


def spread(x: Array, axis: int, n: int, stride: int, dilation: int) -> Array:
    y = np.zeros((*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype)
    before: tuple[Any, ...] = (slice(None),) * axis
    for o in range(x.shape[axis]):
        for j in range(x.shape[axis + 1]):
            y[(*before, o * stride + j * dilation, j)] = x[(*before, o, j)]
    return y


def scatter_value(x: Array, index: Array, axis: int, bits: int, dtype: str) -> Array:
    y = x.copy()
    np.put_along_axis(y, _inside(index, x.shape[axis]).astype(np.int64), constant(bits, dtype), axis)
    return y


def apply(op: str, attrs: Mapping[str, Attr], args: Sequence[Array], dtype: str, gemm_bits: int) -> Array:
    """Result of one operator; `dtype` is that of the result. Raises KeyError for an operator that this engine does not have."""
    a: dict[str, Any] = dict(attrs)
    with np.errstate(all="ignore"):
        if op in MAP:
            y = np.asarray(MAP[op](*args, **a))
            return _canonical(y) if dtype == "f32" else y
        match op, args:
            case "const", ():
                return constant(a["bits"], a["dtype"])
            case "iota", ():
                return np.arange(a["n"], dtype=np.int64)
            case "sum", (x,):
                return sum_(x, a["axes"], a["keepdim"])
            case "amax", (x,):
                return amax(x, a["axes"], a["keepdim"])
            case "matmul", (x, y):
                return matmul(x, y, gemm_bits)
            case "scatter_add_rows", (index, values):
                return scatter_add_rows(index, values, a["rows"])
            case "reshape", (x,):
                return x.reshape(a["shape"])
            case "permute", (x,):
                return x.transpose(a["axes"])
            case "expand", (x,):
                return np.broadcast_to(x, a["shape"])
            case "slice", (x,):
                return x[(slice(None),) * a["axis"] + (slice(a["start"], a["stop"], a["step"]),)]
            case "cumsum", (x,):
                return cumsum(x, a["axis"])
            case "reverse", (x,):
                return np.flip(x, a["axis"])
            case "windows", (x,):
                return windows(x, **a)
            case "spread", (x,):
                return spread(x, **a)
            case "pad", (x,):
                return pad(x, a["axis"], a["before"], a["after"], a["bits"], dtype)
            case "concat", _:
                return np.concatenate(args, axis=a["axis"])
            case "take_rows", (table, index):
                return table[_inside(index, table.shape[0])]
            case "gather", (x, index):
                return np.take_along_axis(x, _inside(index, x.shape[a["axis"]]).astype(np.int64), a["axis"])
            case "scatter_value", (x, index):
                return scatter_value(x, index, a["axis"], a["bits"], dtype)
    raise KeyError(op)


def evaluate(part: Part, inputs: Sequence[Array], gemm_bits: int) -> list[Array]:
    """All values of a part: its inputs, then the result of every node."""
    values = list(inputs)
    for node in part.nodes:
        values.append(apply(node.op, node.attrs, [values[v] for v in node.inputs], node.type.dtype, gemm_bits))
    return values
