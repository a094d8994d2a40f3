"""The engine's process: it does the work, it goes when there is none, and whatever becomes of it the daemon learns why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from tiny import lay_out, plan

from assay.adapters.engine_process import InlineEngine, ProcessEngine, _Process
from assay.client import run_plan
from assay.codec import encode
from assay.engine import CheckFile, FileChecked, LinksRun, RunLinks, StepDone
from assay.ports import Engine
from assay.runtime import Fault, TaskFailed
from assay.state import state_root

PLAN = plan(3)
Children = Callable[[], list[psutil.Process]]


def quietly(_: object) -> None:
    pass


def task(root: Path) -> RunLinks:
    return RunLinks(job=lay_out(root, PLAN), segment="segment-1", start=0, stop=3, parent_root=state_root(0, PLAN.state), keep=1 << 20)


def check() -> CheckFile:
    return CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40)


@pytest.fixture
def children() -> Children:
    """What this process has started since the test began: it may have others, such as a server of forks (tests/typed.py)."""
    before = psutil.Process().children()
    return lambda: [child for child in psutil.Process().children() if child not in before]


@contextlib.asynccontextmanager
async def engine(script: str | None = None, **more: Any) -> AsyncIterator[ProcessEngine]:
    """An engine process; with `script`, Python code in the place of the engine."""
    made = ProcessEngine(command=(sys.executable, "-c", script) if script else (), **more)
    try:
        yield made
    finally:
        await made.close()
        assert made.alive == 0


@pytest.mark.parametrize("kind", ["process", "inline"])
def test_both_engines_do_the_same(tmp_path: Path, kind: str) -> None:
    async def run() -> None:
        made: Engine = ProcessEngine() if kind == "process" else InlineEngine()
        try:
            seen: list[object] = []
            done = await made.run(task(tmp_path), tmp_path, seen.append)
            assert isinstance(done, LinksRun)
            assert done.end_root == run_plan(PLAN).root
            assert [step.step for step in seen if isinstance(step, StepDone)] == [0, 1, 2]
            (tmp_path / "job-1" / "program.json").write_bytes(b"{}")
            with pytest.raises(TaskFailed, match="program refused") as failed:
                await made.run(check(), tmp_path, quietly)
            assert failed.value.fault is Fault.PEER
        finally:
            await made.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("import sys; sys.stdin.readline(); sys.exit(3)", r"ended in the middle of its task \(status 3\)"),
        ("import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 9)", r"ended in the middle of its task \(signal 9\)"),
        ("import sys; sys.stdin.readline(); print('hello', flush=True); sys.stdin.readline()", "answered garbage"),
        ("import sys; sys.stdin.readline(); print('{\"type\": \"StepDone\"}', flush=True); sys.stdin.readline()", "answered garbage"),
        ("import sys; sys.stdin.readline(); sys.stdout.write('x' * (1 << 25)); sys.stdin.readline()", "answered garbage"),
    ],
)
def test_an_engine_that_crashes_or_answers_garbage_fails_its_task_and_is_ended(tmp_path: Path, script: str, why: str) -> None:
    async def run() -> None:
        async with engine(script) as made:
            with pytest.raises(TaskFailed, match=why) as failed:
                await made.run(check(), tmp_path, quietly)
            assert failed.value.fault is Fault.OWN
            assert made.alive == 0

    asyncio.run(run())


def test_an_engine_that_says_nothing_is_ended(tmp_path: Path) -> None:
    async def run() -> None:
        async with engine("import sys; [line for line in sys.stdin]", patience=0.2) as made:
            with pytest.raises(TaskFailed, match="has said nothing"):
                await made.run(check(), tmp_path, quietly)
            assert made.alive == 0

    asyncio.run(run())


def test_after_a_crash_the_next_task_gets_a_fresh_engine(tmp_path: Path, children: Children) -> None:
    async def run() -> None:
        async with engine() as made:
            lay_out(tmp_path, PLAN)
            assert isinstance(await made.run(check(), tmp_path, quietly), FileChecked)
            (child,) = children()
            child.kill()
            child.wait()
            assert isinstance(await made.run(check(), tmp_path, quietly), FileChecked)

    asyncio.run(run())


def test_an_engine_is_used_again_and_ended_when_there_is_no_more_work(tmp_path: Path, children: Children) -> None:
    async def run() -> None:
        async with engine(idle=0.05) as made:
            lay_out(tmp_path, PLAN)
            await made.run(check(), tmp_path, quietly)
            await made.run(check(), tmp_path, quietly)
            assert made.alive == 1
            (child,) = children()
            await asyncio.to_thread(psutil.wait_procs, [child], 20)
            assert not children()

    asyncio.run(run())


def test_one_that_is_kept_ready_takes_the_first_task_and_another_takes_its_place_when_it_has_gone(tmp_path: Path, children: Children) -> None:
    async def run() -> None:
        async with engine() as made:
            lay_out(tmp_path, PLAN)
            await made.keep_ready(tmp_path)
            (first,) = children()
            assert isinstance(await made.run(check(), tmp_path, quietly), FileChecked)
            assert children() == [first]
            await made._retire((tmp_path, False), made._free[tmp_path, False][0])  # its time is over
            (second,) = children()
            assert second != first
            second.kill()  # that it dies while it waits says nothing of the task
            second.wait()
            assert isinstance(await made.run(check(), tmp_path, quietly), FileChecked)

    asyncio.run(run())


def test_one_that_is_expected_takes_the_task_that_comes_and_ends_when_none_does(tmp_path: Path, children: Children) -> None:
    async def run() -> None:
        lay_out(tmp_path, PLAN)
        async with engine() as made:
            for _ in range(3):
                made.expect(tmp_path)
            assert isinstance(await made.run(check(), tmp_path, quietly), FileChecked)  # by the one that was starting
            (child,) = children()
            made.expect(tmp_path)
            assert children() == [child]
        async with engine(idle=0.05) as made:
            made.expect(tmp_path)
            await asyncio.wait({made._expected[tmp_path]})
            await asyncio.to_thread(psutil.wait_procs, children(), 240)
            assert not children()
            made.expect(tmp_path)  # ended when all is closed meanwhile
        made.expect(tmp_path)

    asyncio.run(run())


def test_one_that_cannot_be_started_is_not_missed(tmp_path: Path) -> None:
    async def run() -> None:
        made = ProcessEngine(command=(str(tmp_path / "nothing"),))
        made.expect(tmp_path)
        with pytest.raises(FileNotFoundError):
            await made.run(check(), tmp_path, quietly)
        await made.close()

    asyncio.run(run())


def test_a_long_task_does_not_hold_up_a_short_one_and_a_cancelled_one_is_ended(tmp_path: Path) -> None:
    answer = '{"error":"short","fault":"own","type":"Failure"}'
    script = f"import sys\nfor line in sys.stdin:\n    if 'RunLinks' not in line: print({answer!r}, flush=True)"

    async def run() -> None:
        async with engine(script, processes=2) as made:
            long = asyncio.create_task(made.run(task(tmp_path), tmp_path, quietly))
            with pytest.raises(TaskFailed, match="short"):
                await made.run(check(), tmp_path, quietly)
            assert made.alive == 2
            long.cancel()
            with pytest.raises(asyncio.CancelledError):
                await long
            assert made.alive == 1

    asyncio.run(run())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an engine ends when its input does, in its own time")
def test_an_engine_does_not_outlive_a_killed_daemon(tmp_path: Path) -> None:
    lay_out(tmp_path, PLAN)
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "import psutil\n"
        "from assay.adapters.engine_process import ProcessEngine\n"
        "from assay.engine import CheckFile\n"
        "async def main():\n"
        "    engine = ProcessEngine()\n"
        "    await engine.run(CheckFile(folder='job-1', memory=1 << 30, flops=1 << 40), Path(sys.argv[1]), lambda m: None)\n"
        "    print(psutil.Process().children()[0].pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            child = psutil.Process(int(daemon.stdout.readline()))
            os.kill(daemon.pid, signal.SIGKILL)
            with contextlib.suppress(psutil.NoSuchProcess):
                child.wait(240)
            assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        finally:
            daemon.kill()


def test_started_by_hand_it_says_what_it_is() -> None:
    done = subprocess.run([sys.executable, "-m", "assay.work"], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2
    assert "not by hand" in done.stderr


@pytest.mark.parametrize("turns", range(12))
def test_a_task_that_is_cancelled_just_as_a_step_is_told_ends_all_the_same(turns: int) -> None:
    """Whatever the event loop is about to do: `turns` of it pass before."""

    class Output:
        async def readuntil(self, _: bytes) -> bytes:
            await asyncio.sleep(0)
            return encode(StepDone(step=0, loss=0)) + b"\n"

    class Input:
        write = staticmethod(quietly)

        async def drain(self) -> None: ...

    async def run() -> None:
        process = SimpleNamespace(stdin=Input(), stdout=Output())
        talk = asyncio.create_task(ProcessEngine()._talk(_Process(process), b"", quietly))  # type: ignore[arg-type]
        for _ in range(turns):
            await asyncio.sleep(0)
        talk.cancel()
        for _ in range(8):
            await asyncio.sleep(0)
        assert talk.cancelled()

    asyncio.run(run())
