"""What processes take while they run: memory, file handles, threads, processes of their own, disk; and whether any of it only grows.

A leak shows as a slope: a line is laid through the samples of the second half of a process's time (least squares), for what a process fills at its
start it fills once. The medians of the four quarters of its time tell whether it was a slope at all or a step. What is kept on purpose grows, too:
the journal and the facts of a chain that grows, by so much a segment; so the limits are above nothing (`LIMITS`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

WARM = 0.5
"""Part of a process's time through which no line is laid."""
LEAST = 8
"""Samples after that; with fewer nothing is said."""
LONG = 1800.0
"""Seconds that a process must have lived for its slopes to be called a leak, or none."""


class Sample(NamedTuple):
    at: float
    """Seconds."""
    pid: int
    resident: int
    """Bytes."""
    handles: int
    threads: int
    children: int
    disk: int
    """Bytes of all files in its folder."""
    sockets: int = 0
    """Of the handles."""


def disk(folder: Path) -> int:
    """Bytes that the files under a folder take; files may go meanwhile."""
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found += path.stat().st_blocks * 512
    return found


def sockets(pid: int) -> int:
    """Of a process; connections come and go, where a file that is left open does not."""
    found = 0
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(handle).startswith("socket:")
    return found


def sample(at: float, pid: int, folder: Path) -> Sample | None:
    """None when there is no such process."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            taken = process.memory_info().rss, process.num_fds(), process.num_threads(), len(process.children())
            return Sample(at, pid, *taken, disk(folder), sockets(pid))
    except (psutil.Error, FileNotFoundError):
        return None


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Of the line through (times, values) with the least squares, by hour."""
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((time - middle) ** 2 for time in times)
    return 3600 * sum((time - middle) * (value - mean) for time, value in zip(times, values, strict=True)) / spread if spread else 0.0


def quarters(values: Sequence[float]) -> list[float]:
    """Medians of the four quarters of at least four values, in order."""
    ends = [round(len(values) * part / 4) for part in range(5)]
    return [round(median(values[start:end]), 2) for start, end in pairwise(ends)]


class Growth(NamedTuple):
    """Of the process of a node that lived longest. Lists are `quarters` of its time; what is by hour is the slope of its second half."""

    seconds: float
    resident_mb: list[float]
    resident_mb_an_hour: float
    handles: list[float]
    handles_an_hour: float
    sockets: list[float]
    """Of the handles."""
    threads: list[float]
    threads_an_hour: float
    children: int
    """At the end."""
    disk_mb: list[float]
    """Of all the node's processes, as the next."""
    disk_mb_an_hour: float


LIMITS = {"resident_mb_an_hour": 8.0, "handles_an_hour": 4.0, "threads_an_hour": 2.0, "disk_mb_an_hour": 16.0}
"""Of a node that idles and of one that works alike: a twentieth of a daemon's memory, a tenth of its handles. On the disk SQLite's write-ahead
logs alone come and go by 4 MB each."""


def growth(samples: Sequence[Sample]) -> Growth | None:
    """Of one node's samples in order; None when no process of it was seen long enough."""
    lives: dict[int, list[Sample]] = {}
    for each in samples:
        lives.setdefault(each.pid, []).append(each)
    life = max(lives.values(), key=len, default=[])
    warm = round(WARM * len(life))
    if len(life) - warm < LEAST:
        return None

    def told(seen: Sequence[Sample], values: list[float]) -> tuple[list[float], float]:
        start = round(WARM * len(seen))
        return quarters(values), round(slope([each.at for each in seen[start:]], values[start:]), 2)

    return Growth(
        round(life[-1].at - life[0].at, 1), *told(life, [each.resident / 1e6 for each in life]), *told(life, [float(each.handles) for each in life]),
        quarters([float(each.sockets) for each in life]), *told(life, [float(each.threads) for each in life]),
        life[-1].children, *told(samples, [each.disk / 1e6 for each in samples]),
    )  # fmt: skip


def leaks(found: Growth) -> list[str]:
    """What of a process that lived long enough grows by more than `LIMITS`; empty for one that did not."""
    if found.seconds < LONG:
        return []
    slopes = found._asdict()
    return [f"{name} is {slopes[name]:g}, over {limit:g}" for name, limit in LIMITS.items() if slopes[name] > limit]
