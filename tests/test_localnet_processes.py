"""Processes of a local network end with their network: on leaving, on an error, when killed, and when their parent is killed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from assay.localnet.memory import Peak, of_process
from assay.localnet.processes import Processes

NOTE_AND_CHILD = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
print(json.dumps({'topic': 'up', 'child': child.pid}), flush=True)
print('not a note', flush=True)
time.sleep(600)
"""


class Heard:
    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.first = asyncio.Event()

    def __call__(self, name: str, note: dict[str, Any]) -> None:
        self.notes.append((name, note))
        self.first.set()


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        process = psutil.Process(pid)
        process.wait(240)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def test_leaving_ends_all_also_grandchildren(tmp_path: Path) -> None:
    heard, pids = Heard(), []

    async def scene() -> None:
        async with Processes(heard, tmp_path) as processes:
            pids.append((await processes.start("one", [sys.executable, "-c", NOTE_AND_CHILD])).pid)
            await asyncio.wait_for(heard.first.wait(), 240)
            raise RuntimeError("out")

    with pytest.raises(RuntimeError, match="out"):
        asyncio.run(scene())
    (name, note), *rest = heard.notes
    assert (name, rest) == ("one", [])
    for pid in [*pids, note["child"]]:
        assert gone(pid)


def test_a_power_cut_takes_the_whole_machine(tmp_path: Path) -> None:
    async def scene() -> int:
        heard = Heard()
        async with Processes(heard, tmp_path) as processes:
            process = await processes.start("one", [sys.executable, "-c", NOTE_AND_CHILD])
            await asyncio.wait_for(heard.first.wait(), 240)
            processes.kill("one")
            assert await asyncio.wait_for(process.wait(), 240) == -signal.SIGKILL
        return int(heard.notes[0][1]["child"])

    assert gone(asyncio.run(scene()))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word about a parent's death is Linux's")
def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = f"""
import asyncio, sys
from pathlib import Path
from assay.localnet.processes import Processes
async def main():
    async with Processes(lambda name, note: None, Path({str(tmp_path)!r})) as processes:
        process = await processes.start('one', [sys.executable, '-c', 'import time; time.sleep(600)'])
        print(process.pid, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    assert gone(child)


def test_what_a_failed_process_said_is_at_hand(tmp_path: Path) -> None:
    async def scene() -> str:
        async with Processes(lambda name, note: None, tmp_path) as processes:
            process = await processes.start("one", [sys.executable, "-c", "import sys; sys.exit('no luck')"])
            assert await process.wait() == 1
            return processes.said("one")

    assert asyncio.run(scene()) == "no luck"


def test_the_peak_counts_this_process_and_its_children() -> None:
    peak = Peak()
    peak.look()
    alone = peak.peak
    block = "x = bytearray(64 << 20); import sys; print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", block], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        peak.look()
        assert of_process(psutil.Process(child.pid)) > 64 << 20
        child.kill()
    assert peak.peak > alone + (50 << 20)
