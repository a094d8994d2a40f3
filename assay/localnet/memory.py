"""Memory of a tree of processes: the sum of proportional set sizes, where a page that n processes share counts 1/n for each.

Resident set sizes would count every shared library once a process; PSS (proc(5), smaps_rollup) adds up to what is really taken.
Where the kernel does not tell it, resident sizes are summed, which is never too little.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import psutil


def of_process(process: psutil.Process) -> int:
    """Bytes."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def of_tree() -> dict[int, int]:
    """Bytes of this process and of each that it started, by pid."""
    me = psutil.Process()
    found = {me.pid: of_process(me)}
    for child in me.children(recursive=True):
        found[child.pid] = of_process(child)
    return found


class Peak:
    """The largest sum that was seen; sampled until `task` is cancelled."""

    def __init__(self) -> None:
        self.peak = 0
        self.each: dict[int, int] = {}
        """The largest of each process, by pid."""

    def look(self) -> None:
        now = of_tree()
        self.peak = max(self.peak, sum(now.values()))
        for pid, size in now.items():
            self.each[pid] = max(self.each.get(pid, 0), size)

    async def sample(self, every: float = 1.0) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(every)
