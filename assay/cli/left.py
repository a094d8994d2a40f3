"""Processes that a command leaves running when it ends."""

from __future__ import annotations

import contextlib
import signal

import msgspec
import psutil

PATIENCE = 10.0
"""Seconds that a process has to end by itself."""


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
        process = self.process()
        if process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(patience)
            except psutil.TimeoutExpired:
                process.kill()
        return True
