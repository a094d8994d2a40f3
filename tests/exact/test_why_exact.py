"""The exact side of docs/why-exact.md: one digest on every route, and the one that the page says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.exact import examination, trainings

ROOT = Path(__file__).parents[2]


def _tool() -> Any:
    spec = importlib.util.spec_from_file_location("tools_why_exact", ROOT / "tools" / "why_exact.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


why_exact = _tool()


def test_all_routes_give_one_digest() -> None:
    digests = [why_exact.exact(route, steps=2) for route in examination.routes()]
    assert len(digests[0]) == len(why_exact.exact_operations()) + len(trainings.FAMILIES)
    assert all(other == digests[0] for other in digests)


def test_the_page_says_what_this_machine_gives() -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| same \| `([0-9a-f]{16})…` \|$", why_exact.PAGE.read_text(), re.M))
    (route,) = examination.routes(every=False)
    assert rows == {name: digest[:16] for name, digest in why_exact.exact(route).items()}


@pytest.mark.slow
def test_native_operations_run_and_differences_are_counted() -> None:
    """Which of them differ is not asserted: other versions of PyTorch differ elsewhere."""
    pytest.importorskip("torch")
    for name, work in why_exact.operations().items():
        assert bool(work().isfinite().all()), name
    ones = np.ones(4, np.float32)
    assert why_exact.shown(why_exact.differing([ones, ones, ones])) == "same"
    assert why_exact.shown(why_exact.differing([ones, ones, np.array([1, 1, 1, -1], np.float32)])) == "**25.00%**"
