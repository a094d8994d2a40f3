"""The specification: what every operator of assay.exact.table means, bit by bit, in obvious NumPy.

Every other route (native C, GPU, a contract's leaf) must give these bits. Slow on purpose. What is used of NumPy is only what
IEEE 754 and integer arithmetic fix: f32 + - * / sqrt rounded once each, comparisons, rint, conversions, f64 products with powers of
two, int64 arithmetic. Never np.exp, np.sum of floats, or a BLAS.

f32 results that are NaN are the one NaN, 0x7fc00000, in MAP and REDUCE; MOVE copies bits. Subnormals are kept.

Fixed point. For a set of f32 values let E = the biased exponent field of the largest magnitude (0 for zeros and subnormals) and
e = E - 126, so that all |x| < 2^e. With B bits and s = B - e, q = rint(x · 2^s), |q| <= 2^B.
* `sum` over n values: one E for each output element, B = min(40, 62 - ceil(log2 n)); RN32(2^-s · Σ q).
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

from assay.exact.table import NAN_BITS, Attr
from assay.program import Part

Array = NDArray[Any]

NUMPY: dict[str, np.dtype[Any]] = {name: np.dtype(code) for name, code in dict(f32="<f4", i32="<i4", i64="<i8", bool="?", u8="u1").items()}
_UNSIGNED: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
SUM_BITS = 40

f32 = np.float32
NAN = np.uint32(NAN_BITS).view(f32)
ONE = f32(1)


def constant(bits: int, dtype: str) -> Array:
    """The rank-0 value with this bit pattern."""
    to = NUMPY[dtype]
    return np.array(bits, _UNSIGNED[to.itemsize]).view(to)


def _c(text: str) -> np.float32:
    return f32(float.fromhex(text))


def _canonical(x: Array) -> Array:
    return np.where(np.isnan(x), NAN, x)


def _poly(x: Array, coefficients: Sequence[np.float32]) -> Array:
    """Horner's rule, highest first: a product and a sum at a time, each rounded to f32."""
    p = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        p = p * x
        p = p + c
    return p


def _bits(x: Array) -> Array:
    return np.asarray(x, order="C").view(np.int32)


def _power(n: Array) -> Array:
    """2^n in f32, -126 <= n <= 127."""
    return ((n + 127).astype(np.int32) << 23).view(f32)


# ---- MAP: functions --------------------------------------------------------------------------------------------------------
# Minimax polynomials with f32 coefficients (fitted with weights for the relative error of the result).

LOG2_E, LN2_HIGH, LN2_LOW = _c("0x1.715476p+0"), _c("0x1.63p-1"), _c("-0x1.bd0106p-13")
EXP = [_c(c) for c in ("0x1.6d8160p-10", "0x1.123f90p-7", "0x1.5554bap-5", "0x1.55548ap-3", "0x1p-1")]
SQRT_HALF = _c("0x1.6a09e6p-1")
LOG = [
    _c(c)
    for c in (
        "0x1.1b4378p-4", "-0x1.e2e484p-4", "0x1.e64d70p-4", "-0x1.fb43dep-4", "0x1.233306p-3",
        "-0x1.5562e0p-3", "0x1.99a542p-3", "-0x1.ffffeep-3", "0x1.555546p-2",
    )
]  # fmt: skip
TANH_SMALL = _c("0x1.4p-1")
TANH = [_c(c) for c in ("-0x1.7691fcp-8", "0x1.52509ap-6", "-0x1.b84340p-5", "0x1.110760p-3", "-0x1.555534p-2")]
ERF = [_c(c) for c in ("0x1.4c344ep-14", "-0x1.a50b0ep-11", "0x1.542e10p-8", "-0x1.b7fe90p-6", "0x1.ce2d50p-4", "-0x1.812740p-2", "0x1.06eba8p-3")]
ERFC = [_c(c) for c in ("-0x1.86e0a0p-13", "0x1.825c66p-9", "-0x1.65cc00p-6", "0x1.a65378p-4", "0x1.46bae6p-1", "0x1.2088ecp+0", "0x1.66191ep-12")]
QUARTER_PI, HALF_PI = _c("0x1.921fb6p-1"), _c("0x1.921fb6p+0")
SIN = [_c(c) for c in ("-0x1.9956b6p-13", "0x1.11077ep-7", "-0x1.555546p-3")]
COS = [_c(c) for c in ("0x1.99e0ecp-16", "-0x1.6c0c1ap-10", "0x1.55554ap-5")]
TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163AB
"""floor(2/π · 2^224)."""


def exp(x: Array) -> Array:
    """n = rint(x·log2 e), r = x - n·ln 2 (two steps), 1 + (r + r²·P(r)), times 2^n in two steps (one rounding, into subnormals too)."""
    c: Array = np.where(x < -104, f32(-104), np.where(x > 89, f32(89), x))
    n = np.rint(c * LOG2_E)
    r: Array = c - n * LN2_HIGH
    r = r - n * LN2_LOW
    p = _poly(r, EXP) * (r * r)
    p = p + r
    p = p + ONE
    k = np.where(np.isnan(n), 0, n).astype(np.int32)
    half = k >> 1
    return p * _power(half) * _power(k - half)


def log(x: Array) -> Array:
    """x = m·2^k with sqrt(1/2) <= m < sqrt 2; f = m - 1; f - f²/2 + f³·P(f) + k·ln 2."""
    small = x < _c("0x1p-126")
    bits = _bits(np.where(small, x * _c("0x1p23"), x))
    k = (bits >> 23) - 126 - np.where(small, 23, 0)
    m = ((bits & 0x7FFFFF) | 0x3F000000).view(f32)
    low = m < SQRT_HALF
    n = np.where(low, k - 1, k).astype(f32)
    f = np.where(low, m + m, m) - ONE
    z = f * f
    y = _poly(f, LOG) * f * z
    y = y + n * LN2_LOW
    y = y - z * f32(0.5)
    y = (f + y) + n * LN2_HIGH
    y = np.where(np.isinf(x), x, y)
    return np.where(x == 0, -f32(np.inf), np.where((x < 0) | np.isnan(x), NAN, y))


def tanh(x: Array) -> Array:
    """On a = |x|: below 0.625 a + a·z·P(z), z = a²; above 1 - 2 / (exp 2a + 1). The sign is that of x."""
    a = np.abs(x)
    z = a * a
    small = a + a * (z * _poly(z, TANH))
    large = ONE - f32(2) / (exp(a + a) + ONE)
    return np.copysign(np.where(a < TANH_SMALL, small, large), x)


def erf(x: Array) -> Array:
    """On a = |x|: below 1 a + a·P(a²); above 1 - exp(-Q(a)) with a at most 4. The sign is that of x."""
    a = np.abs(x)
    small = a + a * _poly(a * a, ERF)
    large = ONE - exp(-_poly(np.where(a > 4, f32(4), a), ERFC))
    return np.copysign(np.where(a < 1, small, large), x)


def sigmoid(x: Array) -> Array:
    """t = exp(-|x|); 1 / (1 + t), or t / (1 + t) where x is negative."""
    t = exp(-np.abs(x))
    return np.where(x >= 0, ONE, t) / (ONE + t)


def _quadrant(a: Array) -> tuple[Array, Array]:
    """(n mod 4, r) with a = n·π/2 + r, |r| <= π/4, for a >= 0: below π/4 (0, a). Otherwise a = m·2^(E-150) and, with the 96 bits
    W = floor(2/π · 2^(E-150+94)) mod 2^96, the product P = floor(m·W / 2^32) mod 2^64 is a·2/π with 62 fraction bits; n is P rounded
    to a whole number, r = RN32(P - n) · π/2 (Payne and Hanek 1983)."""
    bits = _bits(a).astype(np.int64)
    windows = [(TWO_OVER_PI >> (224 - 94 - (e - 150))) % (1 << 96) if e >= 126 else 0 for e in range(256)]
    high = np.array([w >> 32 for w in windows], np.uint64)[bits >> 23]
    low = np.array([w % (1 << 32) for w in windows], np.uint64)[bits >> 23]
    m = ((bits & 0x7FFFFF) | 0x800000).astype(np.uint64)
    p = m * high + ((m * low) >> np.uint64(32))
    n = (p + np.uint64(1 << 61)) >> np.uint64(62)
    r = (p - (n << np.uint64(62))).view(np.int64).astype(f32) * HALF_PI * _c("0x1p-62")
    near = a < QUARTER_PI
    return np.where(near, np.uint64(0), n), np.where(near, a, r)


def _sine(n: Array, r: Array) -> Array:
    """sin(n·π/2 + r)."""
    z = r * r
    s = _poly(z, SIN) * z * r + r
    c = (_poly(z, COS) * z * z - z * f32(0.5)) + ONE
    y = np.where(n & np.uint64(1), c, s)
    return np.where(n & np.uint64(2), -y, y)


def sin(x: Array) -> Array:
    n, r = _quadrant(np.abs(x))
    y = _sine(n, r)
    return np.where(np.isfinite(x), np.where(np.signbit(x), -y, y), NAN)


def cos(x: Array) -> Array:
    n, r = _quadrant(np.abs(x))
    return np.where(np.isfinite(x), _sine(n + np.uint64(1), r), NAN)


def _key(x: Array) -> Array:
    """Integers in the order of the floats, -0 before +0."""
    b = _bits(x)
    return b ^ ((b >> 31) & 0x7FFFFFFF)


def maximum(a: Array, b: Array) -> Array:
    a, b = np.broadcast_arrays(a, b)
    return np.where(np.isnan(a) | np.isnan(b), NAN, np.where(_key(a) > _key(b), a, b))


def minimum(a: Array, b: Array) -> Array:
    a, b = np.broadcast_arrays(a, b)
    return np.where(np.isnan(a) | np.isnan(b), NAN, np.where(_key(a) < _key(b), a, b))


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
    "cast": cast,
}

# ---- REDUCE ----------------------------------------------------------------------------------------------------------------


def _exponent(x: Array, axes: tuple[int, ...]) -> Array:
    """E of the module's docstring over `axes`, kept as dimensions of 1; 255 where there is an infinity or a NaN."""
    return (_bits(x) & 0x7FFFFFFF).max(axis=axes, keepdims=True).reshape([1 if i in axes else n for i, n in enumerate(x.shape)]) >> 23


def _fixed(x: Array, s: Any) -> Array:
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
    top = _exponent(x, axes)
    s = sum_bits(math.prod(x.shape[a] for a in axes)) + 126 - top
    total = _fixed(x, s).sum(axis=axes, keepdims=True)
    y = np.where(top == 255, NAN, round_scaled(total, -s))
    return y if keepdim else y.reshape([n for i, n in enumerate(x.shape) if i not in axes])


def amax(x: Array, axes: tuple[int, ...], keepdim: bool) -> Array:
    key = _key(x).max(axis=axes, keepdims=keepdim)
    y = np.asarray(key ^ ((key >> 31) & 0x7FFFFFFF)).astype(np.int32).view(f32)
    return np.where(np.isnan(x).any(axis=axes, keepdims=keepdim), NAN, y)


def quantise(x: Array, axis: int, bits: int) -> tuple[Array, Array, Array]:
    """(q int64, s, whether the row or column is finite); s and the flag keep `axis` as a dimension of 1."""
    top = _exponent(x, (axis % x.ndim,))
    s = bits - 1 + 126 - top
    most = (1 << (bits - 1)) - 1
    return np.clip(_fixed(x, s), -most, most), s, top != 255


def matmul(a: Array, b: Array, bits: int) -> Array:
    qa, sa, fa = quantise(a, -1, bits)
    qb, sb, fb = quantise(b, -2, bits)
    return np.where(fa & fb, round_scaled(np.matmul(qa, qb), -(sa + sb)), NAN)


def scatter_add_rows(index: Array, values: Array, rows: int) -> Array:
    top = int((_bits(values) & 0x7FFFFFFF).max()) >> 23
    s = np.int64(sum_bits(len(index)) + 126 - top)
    total = np.zeros((rows, *values.shape[1:]), np.int64)
    np.add.at(total, _inside(index, rows), _fixed(values, s))
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
