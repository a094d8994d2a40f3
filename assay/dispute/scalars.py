"""Single values as raw bits: f32 rounding and fixed point in plain integers, order keys, casts, and the MAP of one element.

Part of assay.dispute.leaf. Only the elementary functions and the f32 operations that NumPy rounds once come from elsewhere
(assay.exact.functions, on arrays of one element).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from assay.exact import functions
from assay.exact.types import ITEM_BYTES, NAN_BITS
from assay.stages import Stage

NAN_KEY = 1 << 31
"""Order key of a NaN: above all others."""
SUM_BITS = 40


def signed(bits: int, dtype: str) -> int:
    """The integer whose raw bits these are."""
    width = 8 * ITEM_BYTES[dtype]
    return bits - (1 << width) if dtype in ("i32", "i64") and bits >> (width - 1) else bits


def wrapped(value: int, dtype: str) -> int:
    """Raw bits of an integer modulo 2^bits."""
    return value % (1 << (8 * ITEM_BYTES[dtype]))


def clamped(bits: int, dtype: str, size: int) -> int:
    """An index, moved into 0..size-1."""
    return min(max(signed(bits, dtype), 0), size - 1)


# ---- numbers ---------------------------------------------------------------------------------------------------------------


def exponent(bits: int) -> int:
    """Biased exponent field of an f32."""
    return bits >> 23 & 255


def _rounded(value: int, shift: int) -> int:
    """value · 2^shift to the nearest integer, halves to even."""
    if shift >= 0:
        return value << shift
    whole, half = value >> -shift, 1 << (-shift - 1)
    rest = value - (whole << -shift)
    return whole + (rest > half or (rest == half and whole & 1))


def f32_of(value: int, shift: int) -> int:
    """Bits of value · 2^shift rounded once to f32; zero is +0."""
    size = abs(value)
    if not size:
        return 0
    lowest = max(size.bit_length() - 24 + shift, -149)
    m = _rounded(size, shift - lowest)
    # A carry out of m falls into the exponent by itself, as it does from the largest subnormal into the smallest normal.
    return (1 << 31 if value < 0 else 0) + min(((lowest + 149) << 23) + m, 0x7F800000)


def fixed(bits: int, s: int) -> int:
    """rint(x · 2^s) of a finite f32."""
    e = exponent(bits)
    m = (bits & 0x7FFFFF) | (0x800000 if e else 0)
    q = _rounded(m, max(e, 1) - 150 + s)
    return -q if bits >> 31 else q


def key(bits: int) -> int:
    """Order key of assay.exact.reference: -0 before +0; NAN_KEY for a NaN."""
    if bits & 0x7FFFFFFF > 0x7F800000:
        return NAN_KEY
    return ~(bits & 0x7FFFFFFF) if bits >> 31 else bits


def of_key(key: int) -> int:
    """The float with this order key."""
    if key == NAN_KEY:
        return NAN_BITS
    return (~key | 1 << 31) if key < 0 else key


def scale(n: int, top: int) -> int:
    """s for a sum over n values whose largest exponent field is `top`."""
    return min(SUM_BITS, 62 - (n - 1).bit_length()) + 126 - top


# ---- MAP -------------------------------------------------------------------------------------------------------------------

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "rsqrt": lambda x: functions.ONE / np.sqrt(x), "reciprocal": lambda x: functions.ONE / x,
    "exp": functions.exp, "log": functions.log, "tanh": functions.tanh, "erf": functions.erf, "sigmoid": functions.sigmoid,
    "sin": functions.sin, "cos": functions.cos, "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
}  # fmt: skip
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}  # fmt: skip
_INTEGERS: dict[str, Callable[[int, int], int]] = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b}


def _canonical(bits: int) -> int:
    return NAN_BITS if bits & 0x7FFFFFFF > 0x7F800000 else bits


def _float(op: str, values: Sequence[int]) -> int:
    with np.errstate(all="ignore"):
        y = _FUNCTIONS[op](*(np.array([v], np.uint32).view(np.float32) for v in values))
    return int(np.asarray(y, np.float32).view(np.uint32)[0])


def _cast(bits: int, source: str, target: str) -> int:
    if target == "bool":
        return int(bits & 0x7FFFFFFF != 0 if source == "f32" else bits != 0)
    if source != "f32":
        value = signed(bits, source)
        return f32_of(value, 0) if target == "f32" else wrapped(value, target)
    if target == "f32":
        return bits
    width = 8 * ITEM_BYTES[target]
    if bits & 0x7FFFFFFF > 0x7F800000:
        return 0
    e = max(exponent(bits), 1) - 150
    m = (bits & 0x7FFFFF) | (0x800000 if exponent(bits) else 0)
    size = m << e if e >= 0 else m >> min(-e, 32)
    value = -size if bits >> 31 else size
    return wrapped(min(max(value, -(1 << (width - 1))), (1 << (width - 1)) - 1), target)


def scalar_map(stage: Stage, values: Sequence[int]) -> int:
    """The output of a MAP from one element of each operand."""
    op, dtype = stage.op, stage.operands[0][1].dtype
    if op in _COMPARISONS:
        if dtype == "f32":
            a, b = (float(np.uint32(v).view(np.float32)) for v in values)
            return int(_COMPARISONS[op](a, b))
        return int(_COMPARISONS[op](*(signed(v, dtype) for v in values)))
    if op in _INTEGERS and dtype != "f32":
        return wrapped(_INTEGERS[op](*(signed(v, dtype) for v in values)), dtype)
    match op, values:
        case "not", (a,):
            return a ^ 1
        case "and", (a, b):
            return a & b
        case "or", (a, b):
            return a | b
        case "philox", _:
            return int(functions.philox(*(np.array([v], np.uint64).view(np.int64) for v in values))[0])
        case "select", (a, b, c):
            bits = b if a else c
        case "cast", (a,):
            bits = _cast(a, dtype, str(stage.attrs["dtype"]))
        case "relu", (a,):
            bits = of_key(max(key(a), 0))
        case "maximum", (a, b):
            bits = of_key(max(key(a), key(b)))
        case "minimum", (a, b):
            bits = NAN_BITS if NAN_KEY in (key(a), key(b)) else of_key(min(key(a), key(b)))
        case _:
            bits = _float(op, values)
    return _canonical(bits) if stage.type.dtype == "f32" else bits
