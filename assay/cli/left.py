"""Processes that a command leaves running when it ends."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable

import msgspec
import psutil

PATIENCE = 10.0
"""Seconds that a process has to end by itself."""
LOOK_EVERY = 0.02
"""Seconds. What ends is nobody's child here; the system may keep it as a zombie for seconds, or for good, and then it has ended, too."""


class Running(msgspec.Struct):
    """A process that was left running: the time of its start tells it from another that got its number later."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Running:
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            alive = abs(process.create_time() - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None

    def end(self, patience: float = PATIENCE) -> bool:
        """Whether it still ran."""
        return bool(end([self], patience))


def end(running: Iterable[Running], patience: float = PATIENCE) -> list[Running]:
    """Ends processes, all at once: politely, then not. Returns those that still ran."""
    found = [(one, process) for one in running if (process := one.process()) is not None]
    for _, process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + patience
    while any(one.process() for one, _ in found) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)
    for one, process in found:
        if one.process() is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    return [one for one, _ in found]
