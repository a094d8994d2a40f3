"""What engines hold of GPUs as it is seen from outside: what takes more than its owner gave is ended."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from tiny import links

from assay.adapters import engine_process, gpu_use, hardware
from assay.adapters.engine_process import RANKS, ProcessEngine, Ranks
from assay.adapters.gpu_use import CONTEXT, FIRST_NAMESPACE, GpuUse, Held, Unseen, held
from assay.engine import CheckFile
from assay.exact.cuda import budget
from assay.runtime import TaskFailed

GIB = 1 << 30


class Nvml:
    """The part of pynvml that is used: what processes hold of each card."""

    class NVMLError(Exception):
        pass

    def __init__(self, *cards: dict[int, int | None], divided: bool = False, driver: bool = True) -> None:
        self.cards, self.divided, self.driver, self.open = cards, divided, driver, 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("no driver")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMigMode(self, device: int) -> tuple[int, int]:
        if not self.divided:
            raise self.NVMLError("not supported")
        return 1, 1

    def nvmlDeviceGetComputeRunningProcesses(self, device: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.cards[device].items()]


def bare() -> int:
    return FIRST_NAMESPACE


def test_what_an_engine_holds_is_added_up_over_children() -> None:
    parent = os.getppid()  # stands for the sandbox above an engine; this process for what runs in it
    nvml = Nvml({os.getpid(): 5 * GIB, 1 << 22: 9 * GIB}, {os.getpid(): GIB})
    assert held(nvml, (parent,), bare) == {parent: [5 * GIB, GIB]}
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("nvml", "space", "why"),
    [
        (Nvml(driver=False), bare, "no driver"),
        (Nvml({}, divided=True), bare, r"GPU 0 is divided \(MIG\)"),
        (Nvml({os.getpid(): None}), bare, "the driver does not tell what a process holds of GPU 0"),
        (Nvml({os.getpid(): GIB}), lambda: 4026532000, "in a container"),
    ],
)
def test_where_it_cannot_be_seen_that_is_said(nvml: Nvml, space: Any, why: str) -> None:
    with pytest.raises(Unseen, match=why):
        held(nvml, (os.getpid(),), space)
    assert nvml.open == 0


def over(limits: tuple[int, ...], used: int, *engines: tuple[tuple[int, ...], ...]) -> tuple[int, str] | None:
    """Who goes of engines with so many processes, each of which holds so much of each GPU."""
    held, places, pid = {}, {}, 0
    for engine in engines:
        places[pid + 1] = list(range(pid + 1, pid + 1 + len(engine)))
        for sizes in engine:
            held[pid := pid + 1] = sizes
    return GpuUse(limits, used, lambda pids: {}, lambda why: None).over(held, places)


def test_each_engine_has_room_for_its_context_and_who_holds_most_goes() -> None:
    assert over((10 * GIB,), 1, ((10 * GIB + CONTEXT,),), ((0,),)) is None
    assert over((10 * GIB,), 1, ((10 * GIB + CONTEXT + 1,),), ((0,),)) == (
        1, f"it holds {11 * GIB + 1} bytes of GPU 0, and {10 * GIB} may be taken; --gpu-memory gives more"
    )  # fmt: skip
    assert over((10 * GIB,), 1, ((6 * GIB,),), ((4 * GIB + 2 * CONTEXT,),)) is None
    assert over((10 * GIB,), 1, ((5 * GIB,),), ((5 * GIB + 2 * CONTEXT + 1,),)) == (
        2, f"it holds {7 * GIB + 1} bytes of GPU 0, of {12 * GIB + 1} of all engines, and {10 * GIB} may be taken; --gpu-memory gives more"
    )  # fmt: skip


def test_an_engine_and_its_ranks_hold_together_no_more_than_one_may() -> None:
    engine = ((GIB,), (4 * GIB,), (4 * GIB,))  # none of the three holds much
    assert over((6 * GIB,), 1, engine) is None
    found = over((6 * GIB - 1,), 1, engine)
    assert found == (1, f"it and its ranks hold {9 * GIB} bytes of GPU 0, and {6 * GIB - 1} may be taken; --gpu-memory gives more")
    assert over((5 * GIB,), 1, ((5 * GIB,),), engine) == (
        2, f"it and its ranks hold {9 * GIB} bytes of GPU 0, of {14 * GIB} of all engines, and {5 * GIB} may be taken; --gpu-memory gives more"
    )  # fmt: skip


def test_ranks_with_gpus_of_their_own_hold_so_much_of_each_and_of_no_more_gpus() -> None:
    limits = (10 * GIB, 10 * GIB, 20 * GIB)
    ranks = ((GIB, 0, 0), (9 * GIB, 0, 0), (0, 0, 21 * GIB))
    assert over(limits, 2, ranks) is None
    found = over(limits, 2, (*ranks[:2], (0, 11 * GIB + 1, 0)))
    assert found == (1, f"it and its ranks hold {11 * GIB + 1} bytes of GPU 1, and {10 * GIB} may be taken; --gpu-memory gives more")
    found = over(limits, 2, (*ranks, (0, 4 * GIB, 0)))  # within each one's limit, on a third
    assert found == (1, f"it and its ranks hold {35 * GIB} bytes of all GPUs, and {30 * GIB} may be taken; --gpu-memory gives more")
    with pytest.raises(Unseen, match="other GPUs than when this node was started"):
        over(limits[:2], 2, ranks)


SILENT = "import sys, time; sys.stdin.readline(); time.sleep(600)"


def test_an_engine_that_takes_more_of_the_gpu_is_ended_and_the_node_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "LOOK_EVERY", 0.01)
    said: list[str] = []

    async def run() -> None:
        looks = 0

        def seen(pids: Any) -> dict[int, list[int]]:
            nonlocal looks
            looks += 1
            if looks < 3:
                raise Unseen("not now")
            return {pid: [4 * GIB] for pid in pids}

        made = ProcessEngine(command=(sys.executable, "-c", SILENT), gpu=GpuUse((2 * GIB,), 1, seen, said.append))
        try:
            with pytest.raises(TaskFailed, match=r"the engine was ended: it holds 4294967296 bytes of GPU 0, and 2147483648 may be taken; --gpu-"):
                await made.run(CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40), tmp_path, lambda _: None)
            assert made.alive == 0
        finally:
            await made.close()

    asyncio.run(run())
    assert said == ["not now"]


def test_what_ranks_take_of_the_gpu_ends_them_and_the_engine_that_leads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes; what the driver says of them is the stand-in's: of the engine nothing, of each rank less than it may."""
    monkeypatch.setattr(engine_process, "LOOK_EVERY", 0.01)
    nvml = Nvml({})

    async def run() -> list[psutil.Process]:
        def seen(pids: Any) -> Held:
            (led,) = made._all
            nvml.cards = ({rank.pid: 2 * GIB for rank in led.ranks},)
            family[:] = [psutil.Process(pid) for pid in pids]
            return held(nvml, pids, bare)

        family: list[psutil.Process] = []
        made = ProcessEngine(command=(sys.executable, "-c", SILENT), gpu=GpuUse((2 * GIB - 1,), 1, seen, print), ranks=Ranks(2, always=True))
        try:
            with pytest.raises(TaskFailed, match=r"the engine was ended: it and its ranks hold 4294967296 bytes of GPU 0, and 2147483647 may be"):
                await made.run(links(tmp_path), tmp_path, lambda _: None)
            assert made.alive == 0
        finally:
            await made.close()
        return family

    ended = asyncio.run(run())
    assert len(ended) == 3
    assert not any(process.is_running() for process in ended)


@pytest.mark.parametrize("devices", [(), ("3", "5")])
def test_engines_and_ranks_that_use_one_gpu_share_its_ledger(devices: tuple[str, ...], tmp_path: Path) -> None:
    """What an engine without ranks, one that leads, and its ranks are told: together they are held to the limit of each GPU."""
    told = ProcessEngine(ranks=Ranks(2, devices), gpu_memory="60%")._of_gpu
    one, first, second = told(tmp_path), told(tmp_path, 0), told(tmp_path, 1)
    assert one == first
    assert one[budget.LEDGER] == second[budget.LEDGER] == str(tmp_path / RANKS / "gpu-memory")
    assert one[budget.VARIABLE] == second[budget.VARIABLE] == "60%"
    assert [given.get("CUDA_VISIBLE_DEVICES") for given in (one, second)] == list(devices or (None, None))


def test_an_engine_is_told_its_limit(tmp_path: Path) -> None:
    tell = "import os, sys; sys.stdin.readline(); sys.stderr.flush(); open(sys.argv[1] + '/told', 'w').write(os.environ['ASSAY_GPU_MEMORY'])"

    async def run() -> None:
        made = ProcessEngine(command=(sys.executable, "-c", tell), gpu_memory="60%")
        try:
            with pytest.raises(TaskFailed, match="ended in the middle of its task"):
                await made.run(CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40), tmp_path, lambda _: None)
        finally:
            await made.close()

    asyncio.run(run())
    assert (tmp_path / "told").read_text() == "60%"


def test_a_machine_without_a_gpu_has_nothing_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: ())
    assert gpu_use.watched("90%", 1, lambda why: None) is None


def test_the_limit_is_of_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (SimpleNamespace(memory=80 * GIB), SimpleNamespace(memory=24 * GIB)))
    for text, limits in (("50%", (40 * GIB, 12 * GIB)), ("30G", (30 * GIB, 24 * GIB))):
        use = gpu_use.watched(text, 2, lambda why: None)
        assert use is not None
        assert (use.limits, use.used) == (limits, 2)
