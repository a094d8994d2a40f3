"""Short trainings of every family reach the committed states, on the first and the last route here, on all of them in the slow tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from assay.exact import conformance, examination, trainings
from assay.exact.examination import NUMPY, Route

NATIVE = [route for route in examination.routes() if route.level != NUMPY]
CONFIGURATIONS = [NATIVE[0], NATIVE[-1]] if NATIVE else examination.routes()
"""Two: the least instructions and one thread, the most and two."""


def test_the_default_route_passes() -> None:
    (result,) = examination.examine(every=False)
    assert result.failed == []
    assert result.checks == len(conformance.expected()) + len(trainings.FAMILIES)
    assert list(result.seconds) == ["operators", *trainings.FAMILIES]


@pytest.mark.parametrize("name", trainings.FAMILIES)
def test_published_roots_are_the_references(name: str) -> None:
    """The first steps; all of them in the slow test."""
    published = trainings.expected()[name]
    assert set(published) == {str(n) for n in trainings.CHECKED}
    assert trainings.from_reference(name, 3) == {n: published[n] for n in ("1", "2", "3")}


@pytest.mark.slow
@pytest.mark.parametrize("name", trainings.FAMILIES)
def test_all_published_roots_are_the_references(name: str) -> None:
    assert trainings.from_reference(name) == trainings.expected()[name]


@pytest.mark.parametrize("name", trainings.FAMILIES)
@pytest.mark.parametrize("route", CONFIGURATIONS, ids=str)
def test_two_routes_train_all_steps(route: Route, name: str) -> None:
    assert examination.trained(route, name) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", trainings.FAMILIES)
@pytest.mark.parametrize("route", [route for route in examination.routes() if route not in CONFIGURATIONS], ids=str)
def test_every_route_trains_all_steps(route: Route, name: str) -> None:
    assert examination.trained(route, name) == []


@pytest.mark.parametrize("name", trainings.FAMILIES)
def test_the_trainings_learn(name: str) -> None:
    """A training that stood still would check little."""
    training = trainings.load(name)
    engine = trainings.engine_of(training.program)
    losses = []

    def run(part: str, inputs: Any) -> trainings.Tensors:
        if part == "update":
            losses.append(float(inputs["acc"]["loss"]))
        return engine.run(part, inputs)

    trainings.roots(training, run)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 2


def test_the_families_use_what_the_set_has() -> None:
    """Together they train with counters, buffers, averages, clipping (a minimum), one micro-batch and more, and four widths of operands."""
    programs = {name: trainings.load(name).program for name in trainings.FAMILIES}
    assert {p.gemm_bits for p in programs.values()} == {14, 15, 16, 23}
    assert {p.micro_batches for p in programs.values()} == {1, 2, 3}
    assert [name for name, p in programs.items() if any(n.op == "philox" for n in p.micro.nodes)] == ["vit"]
    assert [name for name, p in programs.items() if "buffer.norm1.running_var" in p.state] == ["batchnorm"]
    assert [name for name, p in programs.items() if any(entry.startswith("ema.") for entry in p.state)] == ["gru", "bert"]
    assert [name for name, p in programs.items() if any(n.op == "matmul" for n in p.update.nodes)] == ["vit", "llama"]  # Muon
    ops = {n.op for p in programs.values() for part in (p.micro, p.update) for n in part.nodes}
    assert {"windows", "spread", "gather", "scatter_add_rows", "erf", "tanh", "sigmoid", "sin", "cos", "log", "select"} <= ops


def test_another_counter_is_another_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout is part of what is compared."""
    monkeypatch.setattr(trainings, "_counters", lambda step, m: {"step": np.array(step, np.int64), "micro": np.array(0, np.int64)})
    assert trainings.failure("vit", trainings.expected()["vit"], steps=1) == 1
    assert trainings.failure("llama", trainings.expected()["llama"], steps=1) is None
