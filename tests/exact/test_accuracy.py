"""The published errors of the one-argument functions hold: for a sample here, over all float32 in the slow test."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.exact.conformance import UNARY

pytest.importorskip("scipy")


def _bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_accuracy", Path(__file__).parents[2] / "bench" / "accuracy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


accuracy = _bench()
EXACT = {"neg", "abs", "relu"}
"""These do not round."""


def test_every_function_is_measured() -> None:
    assert set(accuracy.FUNCTIONS) | EXACT == set(UNARY)
    assert set(accuracy.published()) == set(accuracy.FUNCTIONS)


@pytest.mark.parametrize("name", accuracy.FUNCTIONS)
def test_a_sample_is_within_the_published_error(name: str) -> None:
    error = accuracy.measure(name, stride=1021)
    assert error.ulp <= accuracy.published()[name] + 5e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", accuracy.FUNCTIONS)
def test_the_published_error_is_that_of_all_inputs(name: str) -> None:
    assert accuracy.measure(name).ulp <= accuracy.published()[name] + 6e-4


def test_a_wrong_result_would_be_seen() -> None:
    want = np.array([1.0, 2.0**-140, np.inf, np.nan, -(2.0**128)])
    right = np.array([1, 2.0**-140, np.inf, np.nan, -np.inf], np.float32)
    assert np.array_equal(accuracy.error_of(right, want), np.zeros(5))
    off = np.array([1 + 2.0**-23, 2.0**-140 + 2.0**-148, 3e38, 1, np.nan], np.float32)
    assert np.array_equal(accuracy.error_of(off, want), [1, 2, np.inf, np.inf, np.inf])
