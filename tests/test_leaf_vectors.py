"""The vectors of the leaf and of the soft-float are what their scripts write, and leave no operator and no attribute out."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from assay.exact.table import OPS

TOP = Path(__file__).resolve().parent.parent
VECTORS = TOP / "tests" / "vectors"


@pytest.fixture(scope="module")
def soft() -> dict[str, Any]:
    return runpy.run_path(str(TOP / "tools" / "softfloat_vectors.py"))


@pytest.fixture(scope="module")
def leaf() -> dict[str, Any]:
    return runpy.run_path(str(TOP / "tools" / "leaf_vectors.py"))


def test_the_leafs_vectors_are_what_their_script_writes(leaf: dict[str, Any]) -> None:
    assert (VECTORS / "leaf.json").read_text() == leaf["render"]()


def test_every_operator_has_a_code_and_vectors(leaf: dict[str, Any]) -> None:
    cases = json.loads((VECTORS / "leaf.json").read_text())["cases"]
    assert set(leaf["CODES"]) == set(cases) == set(OPS)
    assert sorted(leaf["CODES"].values()) == list(range(len(OPS)))
    for op, made in cases.items():
        assert made, op
        assert all(bytes.fromhex(case["stage"][2:])[0] == leaf["CODES"][op] for case in made)


def test_the_soft_floats_vectors_are_what_their_script_writes(soft: dict[str, Any]) -> None:
    kept, made = json.loads((VECTORS / "softfloat.json").read_text()), json.loads(soft["render"](1))
    assert kept["pairs"] == made["pairs"]
    for kind in ("bulk", "functions"):
        assert {name: digests[:1] for name, digests in kept[kind].items()} == made[kind]


@pytest.mark.slow
def test_the_digests_over_ten_million_inputs(soft: dict[str, Any]) -> None:
    assert (VECTORS / "softfloat.json").read_text() == soft["render"](soft["COUNTS"][-1])
