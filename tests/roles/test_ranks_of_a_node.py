"""Several processes run one segment of a node together, each shut in as its engine is: the same roots, a lost one costs a resume, and none of
them gets more of the machine than the engine has."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny import lay_out, plan

from assay.adapters import sandbox
from assay.adapters.engine_process import RANKS, SHARED, ProcessEngine, Ranks
from assay.adapters.sandbox import NoSandbox, Sandbox
from assay.client import run_plan
from assay.engine import CheckFile, FileChecked, LinksRun, RunLinks, StepDone
from assay.exact.cuda import fake
from assay.exact.ranks.choice import on_device
from assay.exact.ranks.places import DATA
from assay.exact.ranks.split import forms
from assay.runtime import Fault, TaskFailed
from assay.state import state_root

STEPS = 4
PLAN = plan(STEPS)
KINDS = ["off", "kernel", "bubblewrap"]
pytestmark = pytest.mark.slow


def shut_in(kind: str) -> Sandbox | None:
    try:
        return sandbox.choose(kind, disk=1 << 30)
    except NoSandbox as error:
        pytest.skip(str(error))


def task(root: Path) -> RunLinks:
    return RunLinks(job=lay_out(root, PLAN), segment="segment-1", start=0, stop=STEPS, parent_root=state_root(0, PLAN.state), keep=1 << 20)


def together(kind: str, play: Callable[[ProcessEngine], Coroutine[Any, Any, None]], devices: tuple[str, ...] = (), gpu_memory: str = "90%") -> None:
    async def run() -> None:
        made = ProcessEngine(sandbox=shut_in(kind), ranks=Ranks(2, devices, always=True), gpu_memory=gpu_memory)
        try:
            await play(made)
        finally:
            await made.close()
            assert made.alive == 0

    asyncio.run(run())


def family(engine: ProcessEngine) -> tuple[psutil.Process, list[psutil.Process]]:
    """The engine that runs now, and its ranks: the Python processes, behind whatever shuts them in."""
    (led,) = [made for made in engine._all if made.ranks]
    found = []
    for process in (led.process, *led.ranks):
        below = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        found.append(next(p for p in below if "python" in p.name()))
    return found[0], found[1:]


def gone(processes: list[psutil.Process]) -> None:
    """They end, what their namespaces have them wait for included."""
    _, alive = psutil.wait_procs(processes, timeout=240)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_of_two_ranks_has_the_roots_of_one_engine(kind: str, tmp_path: Path) -> None:
    async def play(engine: ProcessEngine) -> None:
        started: list[psutil.Process] = []

        def progress(done: Any) -> None:
            if isinstance(done, StepDone) and not started:
                started.extend(family(engine)[1])

        done = await engine.run(task(tmp_path), tmp_path, progress)
        assert isinstance(done, LinksRun)
        assert done.end_root == run_plan(PLAN).root
        assert len({rank.pid for rank in started}) == 2
        checked = await engine.run(CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40), tmp_path, lambda _: None)
        assert isinstance(checked, FileChecked)
        assert engine.alive == 2  # what is no segment is asked of an engine that leads nobody
        (tmp_path / "segment-1" / "steps.bin").unlink()
        again = await engine.run(task(tmp_path), tmp_path, lambda _: None)  # of the same ranks
        assert isinstance(again, LinksRun)
        assert again.end_root == done.end_root
        assert engine.alive == 2
        await engine.close()
        gone(started)

    together(kind, play)
    assert [path.name for path in (tmp_path / RANKS).iterdir() if path.name != "cache"] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", ["rank", "engine"])
def test_who_is_killed_costs_a_resume_and_no_bit(kind: str, who: str, tmp_path: Path) -> None:
    async def play(engine: ProcessEngine) -> None:
        ended: list[psutil.Process] = []

        def progress(done: Any) -> None:
            if isinstance(done, StepDone) and done.step == 1 and not ended:
                lead, ranks = family(engine)
                ended.extend((lead, *ranks))
                os.kill(ranks[1].pid if who == "rank" else lead.pid, signal.SIGKILL)

        why = "a rank is lost, and this engine with it" if who == "rank" else "ended in the middle of its task"
        with pytest.raises(TaskFailed, match=why) as failed:
            await engine.run(task(tmp_path), tmp_path, progress)
        assert failed.value.fault is Fault.OWN
        seen: list[int] = []
        done = await engine.run(task(tmp_path), tmp_path, lambda done: seen.append(done.step) if isinstance(done, StepDone) else None)
        assert isinstance(done, LinksRun)
        assert done.end_root == run_plan(PLAN).root
        assert done.computed < STEPS  # it went on from a step on disk
        assert not {p.pid for p in ended} & {p.pid for p in (family(engine)[0], *family(engine)[1])}

    together(kind, play)


@pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
def test_each_rank_with_a_device_of_its_own_gives_the_same_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not shut in, since there the fake device could start no compiler; a real one's is a library."""
    monkeypatch.setenv("ASSAY_DEVICE", "fake")

    async def play(engine: ProcessEngine) -> None:
        devices: list[str] = []

        def progress(done: Any) -> None:
            if isinstance(done, StepDone) and not devices:
                devices.extend(rank.environ()["CUDA_VISIBLE_DEVICES"] for rank in family(engine)[1])

        done = await engine.run(task(tmp_path), tmp_path, progress)
        assert isinstance(done, LinksRun)
        assert done.end_root == run_plan(PLAN).root
        assert devices == ["0", "3"]
        checked = await engine.run(CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40), tmp_path, lambda _: None)
        assert isinstance(checked, FileChecked)
        (alone,) = [psutil.Process(made.process.pid) for made in engine._all if not made.ranks]
        assert alone.environ()["CUDA_VISIBLE_DEVICES"] == "0"
        assert len(list((tmp_path / RANKS / SHARED).iterdir())) == 2  # a ledger for each device

    together("off", play, devices=("0", "3"))


@pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
def test_ranks_on_one_device_hold_no_more_of_it_together_than_one_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_DEVICE", "fake")
    needs = [on_device(PLAN.program, forms(PLAN.program, DATA, rank, 2), rank, 2, fake.Fake().description) for rank in range(2)]

    async def play(engine: ProcessEngine) -> None:
        with pytest.raises(TaskFailed, match=rf"a rank is lost.* {limit} may be taken, of which .* holds \d+, and other engines of this node"):
            await engine.run(task(tmp_path), tmp_path, lambda _: None)

    limit = max(needs) + min(needs) // 2  # by its plan each of them fits
    together("off", play, gpu_memory=str(limit))


ATTEMPTS = {
    "reads the work folder": "open({work!r} + '/job-1/program.json').read()",
    "writes into the work folder": "open({work!r} + '/mine', 'w')",
    "reads the node's keys": "open({secret!r}).read()",
    "makes a socket": "__import__('socket').socket()",
    "makes a pair of sockets": "__import__('socket').socketpair()",
    "starts a program": "os.execv('/bin/true', ['true'])",
    "forks": "os.fork()",
    "kills its engine": "os.kill({pid}, 9)",
}


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("what", ATTEMPTS)
def test_a_hostile_rank_is_refused(kind: str, what: str, tmp_path: Path) -> None:
    """Code in the place of a rank's, after it was shut in; what it tries ends in an error, and what it has is its socket."""
    shut = shut_in(kind)
    assert shut is not None
    (work := tmp_path / "work").mkdir()
    (home := work / RANKS).mkdir()
    lay_out(work, PLAN)
    (secret := tmp_path / "keys").write_text("secret")
    attempt = ATTEMPTS[what].format(work=str(work), secret=str(secret), pid=os.getpid())
    import socket

    mine, theirs = socket.socketpair()
    code = (
        "import os, sys, runpy; sys.argv = ['cage', *sys.argv[1:]]\n"
        "import assay.exact.ranks.team as team\n"
        "def hostile(arguments):\n"
        "    import socket\n"
        "    sock = socket.socket(fileno=int(arguments[0]))\n"
        f"    try:\n        found = 'GOT ' + repr({attempt})\n"
        "    except OSError as error:\n        found = f'REFUSED {type(error).__name__} {error.errno}'\n"
        "    sock.sendall(found.encode()); return 0\n"
        "team.main = hostile\n"
        "runpy.run_module('assay.cage', run_name='__main__')"
    )
    command = shut.shared(2)[1].rank_command(home, theirs.fileno())
    command[command.index("-m") : command.index("-m") + 2] = ["-c", code]
    with mine:
        with theirs:
            process = subprocess.Popen(command, env=shut.environment(), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        mine.settimeout(240)
        said = b""
        while part := mine.recv(1 << 12):
            said += part
        process.wait(240)
    assert re.match(rb"REFUSED", said), said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "work"]


def test_ranks_end_with_the_daemon(tmp_path: Path) -> None:
    """The daemon's place is taken by a process that runs a segment and is killed in the middle."""
    task(tmp_path)
    code = (
        "import asyncio, os, sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from test_ranks_of_a_node import *\n"
        "root = Path(sys.argv[1])\n"
        "async def run():\n"
        "    engine = ProcessEngine(sandbox=shut_in('kernel'), ranks=Ranks(2, always=True))\n"
        "    def progress(done):\n"
        "        lead, ranks = family(engine); print(lead.pid, *(r.pid for r in ranks), flush=True); sys.stdin.readline()\n"
        "    await engine.run(task(root), root, progress)\n"
        "asyncio.run(run())"
    )
    shut_in("kernel")
    home = str(Path(__file__).parent)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), home], stdin=pipe, stdout=pipe, text=True) as daemon:
        assert daemon.stdout is not None
        pids = [int(pid) for pid in daemon.stdout.readline().split()]
        assert len(pids) == 3
        waiting = [psutil.Process(pid) for pid in pids]
        daemon.send_signal(signal.SIGKILL)
    gone(waiting)
