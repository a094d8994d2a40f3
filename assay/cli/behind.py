"""The process that a client's command leaves behind: it serves the data of the client's jobs, follows them, and collects what is due.

One process at a time has a folder. So whichever command needs it ends the one that was left behind, and leaves another when it is through, for
the jobs that are not over: a client submits one job after another, fetches one while others run, and each is served. Which jobs these are is
on disk, in `behind.json`: they are served again by the next command, too, when the machine went down meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from assay.cli.common import Settings
from assay.cli.left import Running
from assay.ids import Address, JobId

if TYPE_CHECKING:
    from collections.abc import Iterable

YIELDS = 60.0
"""Seconds that such a process has to end when it is told to."""


class Behind(msgspec.Struct, kw_only=True):
    """`behind.json`."""

    contract: Address
    jobs: tuple[JobId, ...]
    process: Running


def _path(data: Path) -> Path:
    return data / "behind.json"


def _read(data: Path) -> Behind | None:
    """None where nothing was left behind; what cannot be read is from no version that runs."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(_path(data).read_bytes(), type=Behind)
    return None


def end(data: Path) -> bool:
    """Ends the process that was left on this folder; its jobs are remembered. Whether there was one."""
    left = _read(data)
    return left is not None and left.process.pid != os.getpid() and left.process.end(YIELDS)


def take(where: Settings) -> set[JobId]:
    """Has the folder let go of by the process that was left on it; the jobs of this contract that it served."""
    left = _read(where.data)
    if left is None or left.process.pid == os.getpid():
        return set()
    left.process.end(YIELDS)
    return set(left.jobs) if left.contract == where.contract else set()


def leave(where: Settings, jobs: Iterable[JobId]) -> int:
    """Leaves a process behind that serves these jobs, if there are any; its number, else 0."""
    numbers = tuple(sorted(jobs))
    if not numbers:
        _path(where.data).unlink(missing_ok=True)
        return 0
    args = [sys.executable, "-m", "assay.cli", "job", "watch", *map(str, numbers), "--rpc", where.rpc, "--contract", where.contract]
    args += ["--data", str(where.data), "--bootstrap", ",".join(where.bootstrap), "--json", "--left"]
    with log(where.data).open("ab") as file:
        process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env=dict(os.environ))
    left = Behind(contract=where.contract, jobs=numbers, process=Running.of(process.pid))
    fresh = _path(where.data).with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(left))
    fresh.replace(_path(where.data))
    return process.pid


def over(data: Path) -> None:
    """Said by the process itself: all its jobs are over."""
    left = _read(data)
    if left is not None and left.process.pid == os.getpid():
        _path(data).unlink(missing_ok=True)


def pid(data: Path) -> int:
    """Number of the process that was left last; 0 where there was none."""
    left = _read(data)
    return 0 if left is None else left.process.pid


def log(data: Path) -> Path:
    return data / "watch.log"
