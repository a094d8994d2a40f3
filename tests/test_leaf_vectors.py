"""The vectors of the leaf and of the soft-float are what their scripts write; the leaf in Python gives what they say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from assay.dispute import leaf
from assay.exact.table import OPS
from assay.exact.types import ITEM_BYTES
from assay.stages import CODES, decode_stage

TOP = Path(__file__).resolve().parent.parent
VECTORS = TOP / "tests" / "vectors"
CASES: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "leaf.json").read_text())["cases"]


@pytest.fixture(scope="module")
def soft() -> dict[str, Any]:
    return runpy.run_path(str(TOP / "tools" / "softfloat_vectors.py"))


def test_the_leafs_vectors_are_what_their_script_writes() -> None:
    made = runpy.run_path(str(TOP / "tools" / "leaf_vectors.py"))["render"]()
    assert (VECTORS / "leaf.json").read_text() == made


def test_every_operator_has_vectors() -> None:
    assert set(CASES) == set(OPS) == set(CODES)
    for op, cases in CASES.items():
        assert cases, op
        assert all(decode_stage(raw(case["stage"])).op == op for case in cases)


def test_the_soft_floats_vectors_are_what_their_script_writes(soft: dict[str, Any]) -> None:
    kept, made = json.loads((VECTORS / "softfloat.json").read_text()), json.loads(soft["render"](1))
    assert kept["pairs"] == made["pairs"]
    for kind in ("bulk", "functions"):
        assert {name: digests[:1] for name, digests in kept[kind].items()} == made[kind]


@pytest.mark.slow
def test_the_digests_over_ten_million_inputs(soft: dict[str, Any]) -> None:
    assert (VECTORS / "softfloat.json").read_text() == soft["render"](soft["COUNTS"][-1])


# ---- the leaf in Python --------------------------------------------------------------------------------------------------------


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def tensor(text: str, dtype: str) -> list[int]:
    data, size = raw(text), ITEM_BYTES[dtype]
    return [int.from_bytes(data[i : i + size], "big") for i in range(0, len(data), size)]


@pytest.mark.parametrize("op", CASES)
def test_the_leaf_in_python_gives_the_vectors(op: str) -> None:
    """Of each case at most 40 elements, evenly taken; all totals and the bits."""
    for case in CASES[op]:
        stage = decode_stage(raw(case["stage"]))
        operands = [tensor(text, t.dtype) for text, (_, t) in zip(case["operands"], stage.operands, strict=True)]
        expected = tensor(case["bits"], stage.type.dtype)
        data, count = raw(case["totals"]), leaf.folds(stage)
        totals = [int.from_bytes(data[i : i + 8], "big", signed=True) for i in range(0, len(data), 8)]

        def read(need: leaf.Need, operands: list[list[int]] = operands) -> int:
            return operands[need.operand][need.element]

        for k in range(0, len(expected), 1 + len(expected) // 40):
            element = case["elements"][k] if case["elements"] else k
            assert leaf.fold_totals(stage, element, read) == totals[k * count : (k + 1) * count]
            assert leaf.output(stage, element, read) == expected[k]
