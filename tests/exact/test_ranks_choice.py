"""Whether ranks run a program and how it is cut: by what is planned before anything runs, on processors and on devices of their own."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import pytest

from assay.adapters import hardware
from assay.adapters.engine_process import Ranks
from assay.cli.common import Trouble
from assay.cli.fleet import Rays, ranks_of
from assay.course import course
from assay.exact import engines, memory, trainings
from assay.exact.cuda import fake, ruler
from assay.exact.native.build import library
from assay.exact.ranks import choice
from assay.exact.ranks.exchanges import RankLost
from assay.exact.ranks.places import BOTH, DATA, TENSOR, Layout
from assay.exact.ranks.split import forms
from assay.exact.ranks.team import Team, crew
from assay.exact.recompute import EFFORTS
from assay.execute import Executor
from assay.program import Program

needs_fake = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
LARGE = 1 << 40


def gpt() -> Program:
    return trainings.load("gpt").program


def bound(program: Program, layout: Layout, size: int, effort: int = 0) -> int:
    every = [forms(program, layout, rank, size) for rank in range(size)]
    return choice.of_ranks(program, every, 1, False) + memory.needed(program, 1, effort)


def laid(program: Program, size: int, always: bool, threads: int, limit: int) -> Layout | None:
    """Without values that are made again."""
    found = choice.cut(program, size, always, threads, limit)
    return found.layout if found is not None and not found.effort else None


def on_device(program: Program, layout: Layout, rank: int, size: int) -> int:
    return choice.on_device(program, forms(program, layout, rank, size), rank, size, fake.Fake().description)


def test_on_processors_ranks_are_for_who_asks_for_them_and_within_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engines.VARIABLE, "cpu")
    program = gpt()
    assert laid(program, 2, False, 1, LARGE) is None
    assert laid(program, 2, True, 1, LARGE) == DATA
    least = min(bound(program, layout, 2) for layout in (DATA, TENSOR, BOTH))
    assert least > memory.needed(program)  # they share one memory
    assert bound(program, laid(program, 2, True, 1, least) or DATA, 2) == least
    assert laid(program, 2, True, 1, least - 1) is None
    again = min(bound(program, DATA, 2, effort) for effort in EFFORTS)
    assert again < bound(program, DATA, 2)
    found = choice.cut(program, 2, True, 1, again)  # where the engine that leads makes values of its traces again
    assert found is not None
    assert found.effort > 0
    assert bound(program, found.layout, 2, found.effort) <= again
    rows = program.batch["tokens" if "tokens" in program.batch else next(iter(program.batch))].shape[0]
    assert laid(program, rows + 1, True, 1, LARGE) != DATA  # there are fewer records than ranks


@needs_fake
def test_on_devices_they_run_what_one_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    program, description = gpt(), fake.Fake().description
    monkeypatch.setenv(engines.VARIABLE, "fake")
    whole = ruler.needed(program, description)
    each = {layout: max(on_device(program, layout, rank, 2) for rank in (0, 1)) for layout in choice.ORDER}
    assert max(each.values()) < whole
    assert each[DATA] < whole / 2  # half of what a micro-batch makes; cut by tensors, every rank makes much of it
    room = whole
    monkeypatch.setattr(engines, "room", lambda opened: room)
    monkeypatch.setattr(ruler, "fitting", lambda *_: ruler.Fit(0, 0, whole))  # as if nothing could be made again on one
    assert laid(program, 2, False, 1, LARGE) is None
    assert laid(program, 2, True, 1, LARGE) == DATA
    room = whole - 1
    assert laid(program, 2, False, 1, LARGE) == DATA
    room = each[DATA] - 1
    assert laid(program, 2, False, 1, LARGE) == BOTH  # (tensors alone take more than records alone here)
    room = min(each.values()) - 1
    assert laid(program, 2, False, 1, LARGE) is None


@pytest.mark.skipif(library() is None, reason="plans are of the native route")
@pytest.mark.parametrize("stays", [False, True], ids=["links", "stays"])
@pytest.mark.parametrize("layout", [DATA, BOTH], ids=["data", "both"])
def test_ranks_take_no_more_memory_than_they_are_said_to(layout: Layout, stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that leads and two ranks, in threads of one process."""
    monkeypatch.setenv(engines.VARIABLE, "cpu")
    training = trainings.load("gpt")
    p = training.program
    peak: list[int] = []

    def others() -> int:
        """Of what is traced, the interpreter's own objects: plans, programs."""
        return sum(t.size for t in tracemalloc.take_snapshot().traces if t.domain != np.lib.tracemalloc_domain)

    def run() -> None:
        gc.freeze()
        tracemalloc.start()
        try:
            with Team(p, layout, crew(2, processes=False)) as team:
                executor, state = Executor(p, training.schedule, p.micro_batches, engine=team), trainings.initial(p)
                going = course(executor, 0, state)
                for step in range(2):  # in the first one, plans are made
                    gc.collect()
                    held = others()
                    tracemalloc.reset_peak()
                    if stays:
                        going.step(partial(trainings.batch, p))
                        going.state()
                        continue
                    acc = executor.zero_acc(step, state)
                    for m in range(p.micro_batches):
                        acc = executor.micro(step, m, state, acc, trainings.batch(p, step, m), spend=True)
                    state = executor.update(step, state, acc, spend=True)
                peak.append(tracemalloc.get_traced_memory()[1] - held)
        finally:
            tracemalloc.stop()
            gc.unfreeze()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert 0 < peak[0] <= bound(p, layout, 2)


def test_a_crew_runs_one_program_after_the_other_and_is_over_when_it_is_closed() -> None:
    trained = {name: trainings.load(name) for name in ("mlp", "batchnorm")}
    made = crew(2, processes=False)
    teams = {name: Team(t.program, DATA, made) for name, t in trained.items()}
    for _ in range(2):
        for name, training in trained.items():
            assert trainings.roots(training, teams[name].run, 1)[1].hex() == trainings.expected()[name]["1"]
    made.close()
    with pytest.raises(RankLost, match="closed"):
        teams["mlp"].run("micro", {})
    with pytest.raises(RankLost, match="gone"):
        Team(trained["mlp"].program, DATA, made)


@needs_fake
@pytest.mark.slow
@pytest.mark.parametrize("layout", [DATA, TENSOR, BOTH], ids=["data", "tensor", "both"])
@pytest.mark.parametrize("name", ["mlp", "gpt", "lstm"])
def test_ranks_on_devices_of_their_own_reach_the_published_states(name: str, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process with a fake device; a flipped bit in a product is found there as anywhere (tests/exact/test_cuda_products_find.py)."""
    monkeypatch.setenv(engines.VARIABLE, "fake")
    training = trainings.load(name)
    with Team(training.program, layout, crew(2)) as team:
        assert trainings.roots(training, team.run, 1)[1].hex() == trainings.expected()[name]["1"]


@needs_fake
def test_a_rank_on_a_device_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank, so that all is made on its device."""
    monkeypatch.setenv(engines.VARIABLE, "fake")
    training = trainings.load("mlp")
    with Team(training.program, DATA, crew(1, processes=False)) as team:
        assert trainings.roots(training, team.run, 1)[1].hex() == trainings.expected()["mlp"]["1"]


def test_a_rank_that_cannot_be_set_up_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engines.VARIABLE, "tpu")
    with Team(trainings.load("mlp").program, DATA, crew(1, processes=False)) as team, pytest.raises(RankLost, match="rank 0: ValueError: ASSAY"):
        team.run("micro", zeros())


def zeros() -> dict[str, dict[str, np.ndarray]]:  # type: ignore[type-arg]
    p = trainings.load("mlp").program
    given: dict[str, dict[str, np.ndarray]] = {}  # type: ignore[type-arg]
    for i in p.micro.inputs:
        given.setdefault(i.kind, {})[i.name] = np.zeros(i.type.shape, np.float32)
    return given


def has_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    told: dict[str, Any] = {
        "uuid": "GPU-0", "driver": "1", "capability": None, "memory": 1, "used": 0, "temperature": None, "power": None, "power_limit": None,
        "busy": None, "ecc": None, "mig": None, "processes": (),
    }  # fmt: skip
    found = tuple(hardware.Gpu(index=at, name=f"Card {at}", **told) for at in range(count))
    monkeypatch.setattr(hardware, "gpus", lambda: found)


@pytest.mark.parametrize(
    ("here", "devices", "why", "advice"),
    [
        (0, "0,1", "--devices 0,1 names GPUs, and the driver shows none on this machine", "--ranks 2 without --devices runs them on the processor"),
        (0, "all", "--devices all names GPUs, and the driver shows none", "nvidia-smi says what the driver sees"),
        (1, "0,1", "there is no GPU 1 on this machine; the driver shows 0 (Card 0)", "leave --devices away"),
        (2, "1,2,7", "there is no GPU 2, 7 on this machine; the driver shows 0 (Card 0), 1 (Card 1)", "--devices all"),
    ],
)
def test_gpus_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, here: int, devices: str, why: str, advice: str) -> None:
    has_gpus(monkeypatch, here)
    with pytest.raises(Trouble) as refused:
        ranks_of(0, devices, "auto", None)
    assert why in refused.value.why
    assert advice in refused.value.next
    assert refused.value.code == 2


def test_what_the_owner_says_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpus(monkeypatch, 3)
    assert ranks_of(0, "all", "auto", None) == Ranks(3, ("0", "1", "2"), False)
    assert ranks_of(0, "", "auto", None) is None
    assert ranks_of(2, "", "auto", None) == Ranks(2, (), True)
    assert ranks_of(0, "0,2", "auto", None) == Ranks(2, ("0", "2"), False)
    assert ranks_of(2, "1,0", "always", None) == Ranks(2, ("1", "0"), True)
    for count, devices, split, rays in (
        (2, "0", "auto", None), (2, "0,0", "auto", None), (2, "0,a", "auto", None), (2, "", "never", None), (2, "", "auto", Rays("local")),
    ):  # fmt: skip
        with pytest.raises(Trouble):
            ranks_of(count, devices, split, rays)
