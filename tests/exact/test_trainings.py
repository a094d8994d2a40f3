"""Short trainings of every family reach the committed states, on the first and the last route here, on all of them in the slow tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from assay.exact import conformance, examination, trainings
from assay.exact.cuda import attend, pairs
from assay.exact.cuda.parts import constants_of
from assay.exact.cuda.product import Products
from assay.exact.cuda.ruler import Ruler
from assay.exact.examination import NUMPY, Route
from assay.exact.plan import Plan
from tests.exact.test_cuda_making import H200

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
def test_a_training_at_real_sizes_is_the_references() -> None:
    """On the CPU, where the reference takes a quarter of an hour for a step: on devices it is a part of the examination."""
    want = trainings.expected()[trainings.LARGE]
    assert set(want) == {"1", "2"}
    assert trainings.from_reference(trainings.LARGE, 1) == {"1": want["1"]}
    assert [failed for route in CONFIGURATIONS for failed in examination.large(route)] == []


def test_at_real_sizes_a_device_takes_what_small_trainings_do_not() -> None:
    """An H200: attention over spans on the chip, matrices that are packed for two products, some made there, sums by columns, rows that no block
    holds, and products of whole tiles. Without these the large training would show nothing that the families do not."""
    p, products = trainings.load(trainings.LARGE).program, Products(Ruler(H200))
    plan = Plan(p.micro, constants_of(p), p.gemm_bits, rows=True, attention=attend.taking(H200), packs=products.paired)
    kernels = [attend.attend(step, H200, plan) for step in plan.steps if step.name == "attend"]
    assert len(kernels) == 6
    assert all(kernel.spans is not None for kernel in kernels)
    packs = [pairs.pack_of(step) for step in plan.steps if step.name == "pack"]
    assert [sum(pack.chain is not None for pack in packs), len(packs)] == [4, 25]
    assert sum(step.name == "columns" for step in plan.steps) == 7
    assert max(step.extra[1] for step in plan.steps if step.name == "rows") > 8192
    made = [products.product(step) for step in plan.steps if step.name == "matmul"]
    assert all(product is not None and product.m >= 768 and product.n >= 768 for product in made)


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
