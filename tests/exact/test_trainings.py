"""Short trainings reach the committed states, and the examination says so; a machine that computes wrongly is told where."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from assay.exact import conformance, examination, numpy_route, trainings
from assay.exact.examination import Route


def test_the_default_route_passes() -> None:
    (result,) = examination.examine(every=False)
    assert result.failed == []
    assert result.checks == len(conformance.expected()) + 2


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


@pytest.mark.slow
@pytest.mark.parametrize("route", examination.routes(), ids=str)
def test_every_route_trains_the_same(route: Route) -> None:
    assert examination.operators(route) + examination.trained(route) == []


@pytest.mark.parametrize("name", trainings.FAMILIES)
def test_the_trainings_learn(name: str) -> None:
    """A training that stood still would check little."""
    training = trainings.load(name)
    engine = trainings.Cpu(training.program)
    losses = []

    def run(part: str, inputs: Any) -> trainings.Tensors:
        if part == "update":
            losses.append(float(inputs["acc"]["loss"]))
        return engine.run(part, inputs)

    trainings.roots(training, run)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 2


def test_a_wrong_product_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = numpy_route.matmul

    def wrong(a: Any, b: Any, bits: int) -> Any:
        y = np.array(right(a, b, bits))
        y.reshape(-1)[-1:] *= np.float32(1.0000002)
        return y

    monkeypatch.setattr(numpy_route, "matmul", wrong)
    monkeypatch.setattr(examination, "routes", lambda every=True: [Route("numpy", 1)])
    (result,) = examination.examine(steps=1)
    found = {f.what: f for f in result.failed}
    assert "operator matmul: element [2, 13, 36] is 0x" in found["matmul even b=14"].where
    assert not any(what.startswith("unary") for what in found)
    assert found["training mlp"].where.startswith("step 0, micro-batch 0: ")
    from assay.cli.app import app

    done = CliRunner().invoke(app, ["doctor", "--conformance", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["good"] is False


def test_doctor_says_that_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = examination.routes(every=False)
    monkeypatch.setattr(examination, "routes", lambda every=True: routes)
    from assay.cli.app import app

    done = CliRunner().invoke(app, ["doctor", "--conformance"])
    assert done.exit_code == 0, done.output
    assert "may work and verify" in done.stdout
