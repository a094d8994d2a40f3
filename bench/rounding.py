# How sm_90 rounds floats, for bench/exactly.py: once, in four directions, with NVIDIA's NaN. It has no goal of its own.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

U32, U64, F32, F64 = np.uint32, np.uint64, np.float32, np.float64
NAN = U32(0x7FFFFFFF)


def canonical(x: Any) -> Any:
    return np.where(np.isnan(x), NAN, np.asarray(x, F32).view(U32))


def flushed(x: Any) -> Any:
    return np.where(np.abs(x) < F32(2.0**-126), np.copysign(F32(0), x), x).astype(F32)


def odd(x: Any, y: Any, z: Any) -> Any:
    """x y + z of f32 in f64; where that is not exact, the one of both neighbours whose last bit is 1, so that any rounding of it is as of the true
    sum."""
    product, more = x.astype(F64) * y.astype(F64), z.astype(F64)
    total = product + more
    part = total - product
    error = (product - (total - part)) + (more - part)
    even = (np.asarray(total).view(U64) & U64(1)) == 0
    return np.where(even & np.isfinite(total) & (error != 0), np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)


def fused(x: Any, y: Any, z: Any) -> Any:
    return odd(x, y, z).astype(F32)


def directed(mode: str) -> Callable[[Any, Any, Any], Any]:
    """Rounded down, up, or to zero."""

    def what(x: Any, y: Any, z: Any) -> Any:
        true = odd(x, y, z)
        out = true.astype(F32)
        back, down = out.astype(F64), (mode == "RM") | ((mode == "RZ") & (true > 0))
        out = np.where(down & (back > true), np.nextafter(out, F32(-np.inf)), np.where(~down & (back < true), np.nextafter(out, F32(np.inf)), out))
        opposite = np.signbit(x.astype(F64) * y.astype(F64)) != np.signbit(z)
        return np.where((mode == "RM") & (true == 0) & opposite, F32(-0.0), out).astype(F32)

    return what
