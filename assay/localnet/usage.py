"""What processes take while they run: memory, file handles, processes of their own, disk; and whether any of it only grows.

A leak shows as a slope: a line is laid through all samples of a process after its warm-up (least squares). What is kept on purpose grows,
too: the journal and the facts of a chain that grows, by so much a segment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

WARM = 0.25
"""Part of a process's time that is not looked at."""
LEAST = 8
"""Samples after that; with fewer nothing is said."""


class Sample(NamedTuple):
    at: float
    """Seconds."""
    pid: int
    resident: int
    """Bytes."""
    handles: int
    children: int
    disk: int
    """Bytes of all files in its folder."""


def disk(folder: Path) -> int:
    """Bytes that the files under a folder take; files may go meanwhile."""
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found += path.stat().st_blocks * 512
    return found


def sample(at: float, pid: int, folder: Path) -> Sample | None:
    """None when there is no such process."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return Sample(at, pid, process.memory_info().rss, process.num_fds(), len(process.children()), disk(folder))
    except psutil.Error:
        return None


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Of the line through (times, values) with the least squares, by hour."""
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((time - middle) ** 2 for time in times)
    return 3600 * sum((time - middle) * (value - mean) for time, value in zip(times, values, strict=True)) / spread if spread else 0.0


class Growth(NamedTuple):
    """Of the process of a node that lived longest."""

    seconds: float
    resident_mb: float
    """At the end."""
    resident_mb_an_hour: float
    handles: int
    handles_an_hour: float
    children: int
    disk_mb: float
    disk_mb_an_hour: float
    """Over all the node's processes."""


def growth(samples: Sequence[Sample]) -> Growth | None:
    """Of one node's samples in order; None when no process of it was seen long enough."""
    lives: dict[int, list[Sample]] = {}
    for each in samples:
        lives.setdefault(each.pid, []).append(each)
    life = max(lives.values(), key=len, default=[])
    warm, all_warm = life[round(WARM * len(life)) :], samples[round(WARM * len(samples)) :]
    if len(warm) < LEAST:
        return None
    times = [each.at for each in warm]
    return Growth(
        round(life[-1].at - life[0].at, 1), round(life[-1].resident / 1e6, 1), round(slope(times, [each.resident / 1e6 for each in warm]), 2),
        life[-1].handles, round(slope(times, [each.handles for each in warm]), 2), life[-1].children, round(life[-1].disk / 1e6, 2),
        round(slope([each.at for each in all_warm], [each.disk / 1e6 for each in all_warm]), 2),
    )  # fmt: skip
