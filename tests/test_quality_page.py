"""docs/quality.md says what bench/results/curves.json holds: its tables, its plots, and the conclusions that it draws from them."""

from __future__ import annotations

import importlib.util
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ORDINARY, HARD = ("text", "images", "table"), ("words", "units3", "units5")


def _bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_curves_page", ROOT / "bench" / "curves_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


page = _bench()
WHOLE = page.record()
TASKS = WHOLE["figures"]["tasks"]


def test_the_record_is_whole() -> None:
    assert not WHOLE["quick"]
    assert WHOLE["figures"]["seeds"] >= 3
    assert set(TASKS) == {*ORDINARY, *HARD}
    for task in TASKS.values():
        assert set(task["precisions"]) == set(page.COLOURS)
        assert {len(values) for p in task["precisions"].values() for values in p["finals"].values()} == {WHOLE["figures"]["seeds"]}


def test_tables_and_plots_are_those_of_the_record() -> None:
    text = page.PAGE.read_text()
    assert text.count(page.BEGIN) == text.count(page.END) == 1
    assert text[text.index(page.BEGIN) + len(page.BEGIN) : text.index(page.END)] == page.generated(WHOLE)
    for name, document in page.plots(WHOLE["figures"]).items():
        assert (page.PLOTS / name).read_text() == document
        assert len(ET.fromstring(document).findall("{http://www.w3.org/2000/svg}polyline")) == 2 * len(page.COLOURS) - 1


def change(task: str, precision: str, metric: str = "training loss") -> float:
    """Mean difference to float32, as a multiple of float32's standard deviation over seeds."""
    spread: float = stdev(TASKS[task]["precisions"]["fp32"]["finals"][metric])
    return fmean(page.differences(TASKS[task], precision, metric)) / spread


def test_what_the_page_says_of_14_bits() -> None:
    for metric in ("training loss", "held-out loss"):
        assert all(abs(change(task, "14", metric)) < 1 / 20 for task in ORDINARY)
        assert all(abs(change(task, "14s", metric)) < 1 / 20 for task in (*ORDINARY, *HARD))
    rare = "held-out loss, rare words"
    assert -5 < change("words", "14", rare) < -4
    assert abs(change("words", "14s", rare)) < 1 / 20
    assert 0.4 < change("words", "15", rare) / change("words", "14", rare) < 0.6
    assert change("units3", "14") < 0.5
    assert change("units5", "14") > 5


def test_what_the_page_says_of_the_output_layer() -> None:
    name = "gradient of its inputs"
    errors = WHOLE["figures"]["output_layer"]
    assert f"{errors['14'][name]:.0%}" == "11%"
    assert f"{errors['14s'][name]:.1%}" == "0.1%"


def test_what_the_page_says_of_23_and_8_bits() -> None:
    names = (*ORDINARY, *HARD)
    assert all(abs(fmean(page.differences(TASKS[task], "23", "training loss"))) < 2e-4 for task in names)
    assert change("images", "8") > 9
    assert all(change(task, "8") > change(task, "8h") for task in (*ORDINARY, "words", "units3"))
    assert all(abs(change(task, "8h")) < 1 for task in ORDINARY)
    assert all(change(task, "8h") > 1 for task in HARD)
    assert change("units5", "8h") > change("units5", "8")
    assert all(abs(change(task, "8hs")) < 1 / 4 for task in names)
