"""The specification of the elementary functions and of the generator: straight-line programs of single f32 or integer operations.

Part of assay.exact.reference, and under its rules: each f32 operation is rounded once, in the order written; nothing is contracted.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.types import NAN_BITS

Array = NDArray[Any]

f32 = np.float32
NAN = np.uint32(NAN_BITS).view(f32)
ONE = f32(1)


def _c(text: str) -> np.float32:
    return f32(float.fromhex(text))


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


def philox(position: Array, stream: Array, key: Array) -> Array:
    """First word of Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011)."""
    low, word = np.uint64(0xFFFFFFFF), np.uint64(32)
    halves = [h for x in np.broadcast_arrays(position, stream, key) for h in (x.astype(np.uint64) & low, x.astype(np.uint64) >> word)]
    c0, c1, c2, c3, k0, k1 = halves
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> word) ^ c1 ^ k0, p1 & low, (p0 >> word) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return c0.astype(np.int64)
