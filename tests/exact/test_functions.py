"""Accuracy of the elementary functions, in units in the last place of the correctly rounded result, sampled over all float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from assay.exact import reference

BOUNDS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "exp": (mpmath.exp, 1.01),
    "log": (mpmath.log, 1.0),
    "tanh": (mpmath.tanh, 1.5),
    "erf": (mpmath.erf, 1.5),
    "sigmoid": (lambda x: 1 / (1 + mpmath.exp(-x)), 2.5),
    "sin": (mpmath.sin, 3.0),
    "cos": (mpmath.cos, 3.0),
    "sqrt": (mpmath.sqrt, 0.5),
    "rsqrt": (lambda x: 1 / mpmath.sqrt(x), 1.5),
    "reciprocal": (lambda x: 1 / x, 0.5),
}
"""Function -> (exact, largest error in ulp that is promised)."""


@pytest.mark.parametrize("name", BOUNDS)
def test_error_is_bounded(name: str) -> None:
    rng = np.random.default_rng(20)
    exact, bound = BOUNDS[name]
    anything = rng.integers(0, 0x7F800000, 1500, dtype=np.uint32).view(np.float32)
    x = np.concatenate([anything, rng.uniform(0, 100, 1500), rng.uniform(0, 4, 1500)]).astype(np.float32)
    x = x[x > 0] if name in ("log", "sqrt", "rsqrt", "reciprocal") else np.concatenate([x, -x])
    y = reference.apply(name, {}, [x], "f32", 14)
    with mpmath.workprec(300):
        for value, got in zip(x.tolist(), y.tolist(), strict=True):
            want = exact(mpmath.mpf(value))
            if abs(want) >= 2.0**128 - 2.0**103:
                assert abs(got) == np.inf, (name, value)
                continue
            ulp = mpmath.mpf(2) ** max(-149, int(mpmath.floor(mpmath.log(abs(want), 2))) - 23 if want else -149)
            assert abs(got - want) <= bound * ulp, f"{name}({value!r}) = {got!r}, off by {float(abs(got - want) / ulp):.3f} ulp"
