"""A node takes a job whose state does not fit its memory by laying it in files of its work folder: the same roots, the disk's quota kept."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny
from tiny import MICRO_BATCHES, lay_out

from assay import links
from assay.adapters import sandbox
from assay.adapters.engine_process import ProcessEngine
from assay.adapters.sandbox import NoSandbox, outgrown, unnamed_bytes
from assay.client import Plan, run_plan
from assay.engine import CheckFile, Failure, FileChecked, LinkReplayed, LinksOpened, LinksRun, OpenLinks, ReplayLink, RunLinks
from assay.exact.memory import fitting, needed, on_disk
from assay.exact.native.build import library
from assay.ids import Digest
from assay.state import state_root
from assay.work import Engine

STEPS = 2
native = pytest.mark.skipif(library() is None, reason="mapped state is of the native route")


def wide(width: int) -> Plan:
    return tiny.plan(STEPS, wide=width)


def short(what: Plan) -> int:
    """A limit that the job does not keep with its state in memory, whatever is made again, and keeps with it in files."""
    return fitting(what.program, 1, 0).bytes - 1


def tasks(root: Path, what: Plan, limit: int, disk: int) -> tuple[CheckFile, RunLinks]:
    job = msgspec.structs.replace(lay_out(root, what), memory=limit, disk=disk)
    check = CheckFile(folder="job-1", memory=limit, flops=1 << 40, disk=disk)
    return check, RunLinks(job=job, segment="segment-1", start=0, stop=STEPS, parent_root=state_root(0, what.state), keep=1 << 30)


def replayed(root: Path, engine: Engine, run: RunLinks, what: Plan) -> list[LinkReplayed]:
    """Every link, as a verifier with as little memory replays it from what the provider serves."""
    units = range(STEPS * (MICRO_BATCHES + 1))
    wanted = OpenLinks(
        job=run.job, segment="segment-1", start=0, stop=STEPS, parent_root=run.parent_root, keep=1 << 30, units=tuple(units)
    )  # fmt: skip
    opened = engine.perform(wanted, lambda _: None)
    assert isinstance(opened, LinksOpened), opened
    found = []
    for link in opened.opened:
        step, m = links.place(link.unit, MICRO_BATCHES)
        if m < MICRO_BATCHES:
            tiny.batch_for(root, what, run.job, link.unit, step, m)
        leaves = what.program.update_leaves if m == MICRO_BATCHES else what.program.micro_leaves
        replay = ReplayLink(
            job=run.job, segment="segment-1", unit=link.unit, step=step, m=m, state_end=link.ends[0] if step else run.parent_root,
            acc_end=link.ends[-2] if m else Digest(b""), end=link.ends[-1], leaves=leaves,
        )  # fmt: skip
        result = engine.perform(replay, lambda _: None)
        assert isinstance(result, LinkReplayed), result
        found.append(result)
    return found


@native
def test_a_job_that_does_not_fit_is_taken_with_its_state_in_files(tmp_path: Path) -> None:
    what = wide(1 << 14)
    limit, disk = short(what), on_disk(what.program)
    check, run = tasks(tmp_path, what, limit, disk)
    engine = Engine(tmp_path)
    for without in (0, disk - 1):
        refused = engine.perform(msgspec.structs.replace(check, disk=without), lambda _: None)
        assert isinstance(refused, Failure)
        assert f"the limit here is {limit}" in refused.error
    found = engine.perform(check, lambda _: None)
    assert isinstance(found, FileChecked), found
    assert found.on_disk == disk
    assert found.peak_memory < 0.9 * limit
    done = engine.perform(run, lambda _: None)
    assert isinstance(done, LinksRun), done
    assert done.end_root == run_plan(what).root
    assert engine._executor(run.job).store is not None
    assert all(link.agrees for link in replayed(tmp_path, engine, run, what))


@native
def test_what_fits_stays_in_memory(tmp_path: Path) -> None:
    what = wide(1 << 10)
    check, run = tasks(tmp_path, what, needed(what.program), 1 << 40)
    engine = Engine(tmp_path)
    found = engine.perform(check, lambda _: None)
    assert isinstance(found, FileChecked), found
    assert found.on_disk == 0
    assert engine._executor(run.job).store is None


@native
def test_a_check_of_any_link_has_the_roots_of_one_in_memory(tmp_path: Path) -> None:
    what = wide(1 << 13)
    mapped, plain = tmp_path / "mapped", tmp_path / "plain"
    traces = {}
    for root, limit, disk in ((mapped, short(what), 1 << 40), (plain, 1 << 40, 0)):
        root.mkdir()
        _, run = tasks(root, what, limit, disk)
        traces[root] = [link.trace_root for link in replayed(root, Engine(root), run, what)]
    assert traces[mapped] == traces[plain]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux's /proc says which files have no name any more")
def test_files_without_a_name_count_against_the_quota(tmp_path: Path) -> None:
    """Open or mapped, in a process or one that it has started, and none elsewhere."""
    work, elsewhere = tmp_path / "work", tmp_path / "else"
    work.mkdir()
    elsewhere.mkdir()
    size = 1 << 20
    hold = (
        "import sys, mmap, tempfile, os\n"
        "def made(folder):\n    f = tempfile.TemporaryFile(dir=folder); f.write(bytes(1 << 20)); f.flush(); return f\n"
        "work, other = sys.argv[1:]\n"
        "kept = made(work), made(other); f = made(work); m = mmap.mmap(f.fileno(), 1 << 20); f.close()\n"
        "print('held', flush=True); sys.stdin.readline()"
    )
    outer = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    command = [sys.executable, "-c", outer, hold, str(work), str(elsewhere)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # ends with its input
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert list(work.iterdir()) == []
        assert unnamed_bytes(work, process.pid) == 2 * size
        assert asyncio.run(outgrown(work, 2 * size, process.pid)) == ""
        assert f"holds {2 * size} bytes, its quota is {2 * size - 1}" in asyncio.run(outgrown(work, 2 * size - 1, process.pid))
    assert unnamed_bytes(work, process.pid) == 0
    assert unnamed_bytes(work, os.getpid()) == 0


@native
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bubblewrap", "kernel"])
def test_an_engine_that_is_shut_in_trains_with_its_state_in_files(kind: str, tmp_path: Path) -> None:
    what = wide(1 << 17)

    async def run() -> None:
        disk = on_disk(what.program)
        check, links = tasks(tmp_path, what, short(what), disk)
        made = ProcessEngine(sandbox=shut)
        try:
            found = await made.run(check, tmp_path, lambda _: None)
            assert isinstance(found, FileChecked)
            assert found.on_disk == disk
            done = await made.run(links, tmp_path, lambda _: None)
            assert isinstance(done, LinksRun)
            assert done.end_root == run_plan(what).root
        finally:
            await made.close()

    try:
        shut: Any = sandbox.choose(kind, disk=1 << 30)
    except NoSandbox as error:
        pytest.skip(str(error))
    asyncio.run(run())


@native
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bubblewrap", "kernel"])
def test_files_without_a_name_are_seen_through_the_sandbox(kind: str, tmp_path: Path) -> None:
    """What an engine holds without a name is counted in its namespaces, too."""
    try:
        shut = sandbox.choose(kind, disk=1 << 30)
    except NoSandbox as error:
        pytest.skip(str(error))
    assert shut is not None
    code = (
        "import sys, mmap, tempfile; from pathlib import Path; from assay.cage import confine\n"
        f"root = {str(tmp_path)!r}; confine(Path(root), 1 << 30, 1 << 30)\n"
        "f = tempfile.TemporaryFile(dir=root); f.write(bytes(1 << 20)); f.flush(); m = mmap.mmap(f.fileno(), 1 << 20); f.close()\n"
        "print('held', flush=True); sys.stdin.readline()"
    )
    command = shut.wrap([sys.executable, "-c", code], tmp_path)
    with subprocess.Popen(command, env=shut.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert unnamed_bytes(tmp_path, process.pid) == 1 << 20
