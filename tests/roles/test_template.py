"""Engines that are forked from one that is loaded: they do what any engine does, shut in as any, and whoever is killed leaves none behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny import lay_out, plan

from assay import template
from assay.adapters import sandbox
from assay.adapters.engine_process import ProcessEngine
from assay.adapters.engine_template import Forked, fork
from assay.client import run_plan
from assay.codec import encode
from assay.engine import CheckFile, FileChecked, LinksRun, RunLinks
from assay.state import state_root

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a template hands out processes as Linux does")

PLAN = plan(3)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
WITHIN = 240
HOST = """
import asyncio, sys
from pathlib import Path
from assay.adapters.engine_process import ProcessEngine
from assay.engine import CheckFile
async def main():
    engine = ProcessEngine(template=Path(sys.argv[2]))
    await engine.run(CheckFile(folder='job-1', memory=1 << 30, flops=1 << 40), Path(sys.argv[1]), lambda m: None)
    print(next(iter(engine._all)).process.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def quietly(_: object) -> None:
    pass


def check() -> CheckFile:
    return CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40)


@contextlib.contextmanager
def started(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A template that listens at `path`; killed in the end if it has not ended."""
    with (path.parent / "log").open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "assay.template", str(path)], env=environment(), stderr=out)
    try:
        waiting = psutil.Process(process.pid)
        while not path.exists() or not waiting.net_connections("unix"):  # bound, and listened at
            assert process.poll() is None, (path.parent / "log").read_text()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, psutil.Process]]:
    """A template's socket, at a path that is too long for the name of one, and its process."""
    folder = tmp_path_factory.mktemp("network") / ("long" * 30)
    folder.mkdir()
    path = folder / template.NAME
    with started(path) as process:
        yield path, psutil.Process(process.pid)
        process.terminate()
        assert process.wait(WITHIN) == 0
        assert not path.exists()


@contextlib.asynccontextmanager
async def engine(path: Path, **more: Any) -> AsyncIterator[ProcessEngine]:
    made = ProcessEngine(template=path, **more)
    try:
        yield made
    finally:
        await made.close()


def gone(pid: int) -> bool:
    """Waits for the end of a process that is not this one's child."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        psutil.Process(pid).wait(WITHIN)
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def told(pid: int) -> tuple[str, set[str]]:
    """What Linux says of a process, and what it holds open."""
    home = Path(f"/proc/{pid}")
    return (home / "status").read_text(), {os.readlink(handle) for handle in (home / "fd").iterdir()}


@pytest.mark.parametrize("kind", ["off", "kernel"])
def test_it_computes_what_any_engine_computes(tmp_path: Path, running: tuple[Path, psutil.Process], kind: str) -> None:
    path, parent = running
    try:
        shut = sandbox.choose(kind)
    except sandbox.NoSandbox as error:
        pytest.skip(str(error))
    own = Path("/proc/self/status").read_text()  # a container may have shut in these tests, too

    async def run() -> None:
        async with engine(path, sandbox=shut) as made:
            task = RunLinks(job=lay_out(tmp_path, PLAN), segment="segment-1", start=0, stop=3, parent_root=state_root(0, PLAN.state), keep=1 << 20)
            done = await made.run(task, tmp_path, quietly)
            assert isinstance(done, LinksRun)
            assert done.end_root == run_plan(PLAN).root
            (child,) = parent.children()
            status, open_files = await asyncio.to_thread(told, child.pid)
            for shut_in in ("Seccomp:\t2", "NoNewPrivs:\t1"):
                assert (shut_in in status) == (kind == "kernel" or shut_in in own)
            assert os.getpgid(child.pid) == child.pid
            assert not any(name.startswith("socket:") for name in open_files), open_files  # neither the template's nor its children's connections
        assert not parent.children()

    asyncio.run(run())


def test_many_are_told_apart_and_one_that_is_killed_fails_its_task_alone(tmp_path: Path, running: tuple[Path, psutil.Process]) -> None:
    path, _ = running
    lay_out(tmp_path, PLAN)

    async def run() -> None:
        first, second = await fork(path, tmp_path, environment()), await fork(path, tmp_path, environment())
        assert isinstance(first, Forked)
        assert isinstance(second, Forked)
        os.kill(first.pid, signal.SIGKILL)
        assert await first.wait() == -signal.SIGKILL
        second.stdin.write(encode(check()) + b"\n")
        assert b"FileChecked" in await second.stdout.readuntil(b"\n")
        assert second.returncode is None
        second.stdin.close()  # the end of its input is the end of an engine
        assert await second.wait() == 0
        assert await first.stdout.read() == b""

    asyncio.run(run())


def environment() -> dict[str, str]:
    return dict(os.environ) | ONE_THREAD


@pytest.mark.parametrize("how", ["another environment", "other code", "nothing there", "no answer", "too long"])
def test_where_no_template_helps_an_engine_is_started_as_anywhere(tmp_path: Path, running: tuple[Path, psutil.Process], how: str) -> None:
    path, parent = running
    lay_out(tmp_path, PLAN)

    async def run(where: Path, **more: object) -> None:
        async with engine(where, **more) as made:
            assert isinstance(await made.run(check(), tmp_path, quietly), FileChecked)
            assert not parent.children()

    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        match how:
            case "another environment":
                asyncio.run(run(path, threads=2))
            case "other code":
                patch.setattr("assay.adapters.engine_template.code", lambda: "another checkout")
                asyncio.run(run(path))
            case "nothing there":
                asyncio.run(run(tmp_path / template.NAME))
            case "no answer":
                patch.setattr("assay.adapters.engine_template.WITHIN", 0.05)
                silent = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                patch.chdir(tmp_path)
                silent.bind("silent")
                silent.listen()
                asyncio.run(run(tmp_path / "silent"))
            case _:
                patch.setenv("LONG", "x" * template.MAX_REQUEST)
                asyncio.run(run(path))


def test_garbage_ends_a_connection_and_nothing_else(running: tuple[Path, psutil.Process]) -> None:
    path, parent = running
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        for request, handles in ((b"hello", [0, 1, 2]), (b"{}", [0, 1, 2]), (b"hello", [])):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(WITHIN)
                sock.connect(f"/proc/self/fd/{folder}/{path.name}")
                socket.send_fds(sock, [request], handles)
                assert sock.recv(64) == b""
    finally:
        os.close(folder)
    assert parent.is_running()
    assert not parent.children()


def test_an_engine_does_not_outlive_a_killed_daemon(tmp_path: Path, running: tuple[Path, psutil.Process]) -> None:
    path, _ = running
    lay_out(tmp_path, PLAN)
    with subprocess.Popen([sys.executable, "-c", HOST, str(tmp_path), str(path)], stdout=subprocess.PIPE, text=True, env=environment()) as daemon:
        try:
            assert daemon.stdout is not None
            pid = int(daemon.stdout.readline())
            assert psutil.Process(pid).ppid() != daemon.pid
            daemon.kill()
            assert gone(pid)
        finally:
            daemon.kill()


def test_a_template_that_dies_takes_its_engines_along_and_nodes_go_on(tmp_path: Path) -> None:
    lay_out(tmp_path, PLAN)
    path = tmp_path / template.NAME

    async def run(process: subprocess.Popen[bytes]) -> None:
        async with engine(path) as made:
            await made.run(check(), tmp_path, quietly)
            (child,) = psutil.Process(process.pid).children()
            process.kill()
            process.wait()
            assert await asyncio.to_thread(gone, child.pid)
            assert isinstance(await made.run(check(), tmp_path, quietly), FileChecked)

    with started(path) as process:
        asyncio.run(run(process))


def test_started_by_hand_it_says_what_it_is() -> None:
    done = subprocess.run([sys.executable, "-m", "assay.template"], capture_output=True, text=True, timeout=WITHIN, check=False)
    assert done.returncode == 2
    assert "not by hand" in done.stderr
