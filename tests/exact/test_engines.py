"""Which engine computes: a CUDA device is taken only where it gives the specified bits, and the log says why one is not."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from assay.exact import conformance, engines, examination, trainings
from assay.exact.cpu import Cpu
from assay.exact.cuda import budget, fake, maps
from assay.exact.cuda import device as port
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.ruler import needed
from assay.execute import Executor

needs_fake = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
NAMES = ("philox", "signed zeros", "matmul at ties b=14")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No engine of another test, no choice of the caller's, and a conformance set of a few cases."""
    monkeypatch.delenv(engines.VARIABLE, raising=False)
    few = [c for c in conformance.cases() if c.name in NAMES]
    assert len(few) == len(NAMES)
    monkeypatch.setattr(conformance, "cases", lambda: few)
    engines.device.cache_clear()
    engines._open.cache_clear()
    yield
    engines.device.cache_clear()
    engines._open.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    """A machine whose CUDA device is the fake one, and that has never been tested."""
    real = engines._open.__wrapped__
    opened: dict[str, engines._Opened] = {}

    def once(kind: str) -> engines._Opened:
        return opened.setdefault("fake", real("fake")) if not opened else opened["fake"]

    once.cache_clear = opened.clear  # type: ignore[attr-defined]
    monkeypatch.setattr(engines, "_open", once)
    monkeypatch.setattr(engines, "why_not", lambda: None)


def mlp() -> trainings.Training:
    return trainings.load("mlp")


def test_without_a_device_the_cpu_computes() -> None:
    if engines.why_not() is None:
        pytest.skip("this machine has a CUDA device")
    assert isinstance(engines.engine(mlp().program), Cpu)


def test_a_device_that_is_asked_for_and_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if engines.why_not() is None:
        pytest.skip("this machine has a CUDA device")
    monkeypatch.setenv(engines.VARIABLE, "cuda")
    with pytest.raises(port.DeviceError, match=r"no NVIDIA driver|CuPy is not installed|no CUDA device"):
        engines.engine(mlp().program)


def test_a_choice_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engines.VARIABLE, "tpu")
    with pytest.raises(ValueError, match="auto, cpu, cuda, fake"):
        engines.engine(mlp().program)


@needs_fake
@pytest.mark.usefixtures("machine")
def test_a_device_that_passes_is_taken_and_remembered(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "assay.exact")
    monkeypatch.setattr(examination, "trained", small)
    assert isinstance(engines.engine(mlp().program), Cuda)
    assert "testing the arithmetic of fake device, once" in caplog.text
    assert "exact arithmetic runs on fake device" in caplog.text
    engines.device.cache_clear()
    caplog.clear()
    monkeypatch.setattr(examination, "operators", lambda route: pytest.fail("it was tested again"))
    assert isinstance(engines.engine(mlp().program), Cuda)
    monkeypatch.setenv(engines.VARIABLE, "cpu")
    assert isinstance(engines.engine(mlp().program), Cpu)


def small(route: examination.Route, name: str, steps: int) -> list[examination.Failed]:
    """In place of a training as large as real ones, which would take the fake device hours."""
    assert (route.level, name, steps) == (examination.CUDA, trainings.LARGE, trainings.LARGE_STEPS)
    return []


@needs_fake
@pytest.mark.usefixtures("machine")
def test_a_device_that_fails_at_real_sizes_alone_is_not_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(examination, "operators", lambda route: [])
    monkeypatch.setattr(examination, "trained", lambda *what: [*small(*what), examination.Failed("training", "step 0", "wrong", "none")])
    assert isinstance(engines.engine(mlp().program), Cpu)
    assert "gives other bits than the specification" in caplog.text


@needs_fake
@pytest.mark.usefixtures("machine")
def test_a_program_that_is_too_large_for_the_device_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(engines, "_admitted", lambda found: True)
    monkeypatch.setenv(budget.VARIABLE, "4K")
    assert isinstance(engines.engine(mlp().program), Cpu)
    assert "it would take" in caplog.text
    assert "of which 4096 may be taken" in caplog.text


@needs_fake
@pytest.mark.parametrize("family", ["mlp", "batchnorm"])
def test_the_memory_of_a_program_on_a_device_is_known_before(family: str) -> None:
    training = trainings.load(family)
    p = training.program
    description = fake.Fake().description
    memory = needed(p, description)
    for spare, fits in ((0, True), (-1, False)):
        made = fake.Fake(grant=lambda _, most=memory + spare: budget.Budget(most))  # what it gives, of as much as was planned for
        cuda = Cuda(p, made)
        with contextlib.nullcontext() if fits else pytest.raises(MemoryError):
            cuda.prepare(trace=True)
            cuda.resident()
            cuda.prepare(trace=False)
            assert trainings.roots(training, cuda.run, 1)[1].hex() == trainings.expected()[family]["1"]


@needs_fake
@pytest.mark.usefixtures("machine")
def test_a_device_with_other_bits_is_not_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    right = port.source

    def wrong(*names: str) -> str:
        text = right(*names)
        return text.replace("turn < 10", "turn < 9")  # philox

    monkeypatch.setattr(maps, "source", wrong)
    assert isinstance(engines.engine(mlp().program), Cpu)
    assert "gives other bits than the specification" in caplog.text


@needs_fake
@pytest.mark.usefixtures("machine")
def test_the_examination_names_the_operator_that_a_device_gets_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = port.source
    monkeypatch.setattr(maps, "source", lambda *names: right(*names).replace("turn < 10", "turn < 9"))
    assert examination.Route(examination.CUDA, 1) in examination.routes()
    failed = examination.operators(examination.Route(examination.CUDA, 1))
    assert {f.what for f in failed} == {"philox"}
    assert "operator philox" in failed[0].where
    assert not examination.operators(examination.Route(examination.NUMPY, 1))


@needs_fake
def test_an_executor_on_the_device_makes_the_same_links(monkeypatch: pytest.MonkeyPatch) -> None:
    training = mlp()
    p = training.program
    state, batch = trainings.initial(p), trainings.batch(p, 0, 0)

    def links(kind: str) -> list[object]:
        monkeypatch.setenv(engines.VARIABLE, kind)
        executor = Executor(p, training.schedule, p.micro_batches)
        acc = executor.zero_acc(0, state)
        trace = executor.trace_micro(0, 0, state, acc, batch)
        acc = executor.micro(0, 0, state, acc, batch, spend=True)
        for m in range(1, p.micro_batches):
            acc = executor.micro(0, m, state, acc, trainings.batch(p, 0, m), spend=True)
        after = executor.update(0, dict(state), acc, spend=True)
        return [trace.root, trace.leaves, {name: array.tobytes() for name, array in after.items()}]

    assert links("fake") == links("cpu")
