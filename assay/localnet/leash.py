"""Processes that a command starts to leave them running, and that end with it if it is killed before they are complete.

What is left running cannot be told by the kernel to die with its parent (assay.localnet.processes): it is to outlive it. So a guard, this
file run by itself, reads a pipe that only the command holds. Every process writes its number into it before it becomes what it is to be; at
the end the command says that they are left. When the pipe ends before that, the command is gone, and the guard ends them all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

LEFT = b"left\n"
END_WITHIN = 5.0
"""Seconds that they have to end politely."""


class Leash:
    """Use as a context manager; leaving it without `let_go` ends every process that has run `hold`."""

    def __enter__(self) -> Leash:
        reads, self._pipe = os.pipe()
        quiet = subprocess.DEVNULL
        self._guard = subprocess.Popen([sys.executable, "-I", "-S", __file__], stdin=reads, stdout=quiet, stderr=quiet, start_new_session=True)
        os.close(reads)
        return self

    def hold(self) -> None:
        """To be run in a child before exec: gives it a session of its own, and makes it known to the guard."""
        os.setsid()
        os.write(self._pipe, b"%d\n" % os.getpid())

    def let_go(self) -> None:
        """All is up: from now on they outlive the command."""
        os.write(self._pipe, LEFT)

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)
        self._guard.wait()


def end(leaders: Sequence[int], within: float = END_WITHIN) -> None:
    """Ends processes and what they started in their sessions: politely, then not."""
    _signal(leaders, signal.SIGTERM)
    deadline = time.monotonic() + within
    while any(map(_lives, leaders)) and time.monotonic() < deadline:
        time.sleep(0.05)  # they are nobody's children that could be waited for
    _signal(leaders, signal.SIGKILL)


def _signal(leaders: Sequence[int], how: signal.Signals) -> None:
    for leader in leaders:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, how)


def _lives(leader: int) -> bool:
    """Whether any process of its group does: one that waits for its parent to be told of its end (a zombie) has ended."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return sys.platform != "linux" or any(group == leader and state not in "ZX" for state, group in _states())


def _states() -> Iterator[tuple[str, int]]:
    """State and group of every process (proc_pid_stat(5))."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                state, _, group = file.read().rpartition(")")[2].split()[:3]
                yield state, int(group)


def guard(lines: Iterable[bytes]) -> None:
    """Reads what a command's children and the command say, to the end."""
    leaders: list[int] = []
    for line in lines:
        if line == LEFT:
            return
        leaders.append(int(line))
    end(leaders)


if __name__ == "__main__":
    guard(sys.stdin.buffer)
