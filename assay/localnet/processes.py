"""Processes of a network on one machine: started together, and ended together whatever happens.

Each gets a session of its own, so that it can be killed with all that it started, as a machine that loses power would be. Each is
told by the kernel when its parent dies (PR_SET_PDEATHSIG on Linux), so that nothing is left over even when the parent is killed.
What they print is read line by line; a line that is a JSON object is a note.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
"""prctl(2)."""
END_WITHIN = 5.0
Listener = Callable[[str, dict[str, Any]], None]


def die_with_parent() -> None:
    """To be run in a child before exec. Elsewhere than on Linux nothing happens, and `Processes.end` has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_group(pid: int, how: signal.Signals) -> None:
    """Signals a process and all that it started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, how)


class Processes:
    """Use as an asynchronous context manager: on leaving it, every process has ended."""

    def __init__(self, listen: Listener, logs: Path) -> None:
        self._listen, self._logs = listen, logs
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self._readers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Processes:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def start(self, name: str, args: Sequence[str], env: Mapping[str, str] | None = None, nice: int = 0) -> asyncio.subprocess.Process:
        """Starts `args` under `name`; stderr goes to a file of that name, stdout to the listener."""

        def prepare() -> None:
            die_with_parent()
            if nice:
                os.nice(nice)

        with (self._logs / f"{name}.err").open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *args, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=file, env={**os.environ, **(env or {})},
                start_new_session=True, preexec_fn=prepare, limit=1 << 22,
            )  # fmt: skip
        self.running[name] = process
        reader = asyncio.create_task(self._read(name, process))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        return process

    async def _read(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with (self._logs / f"{name}.out").open("ab") as copy:
            async for line in process.stdout:
                copy.write(line)
                copy.flush()
                with contextlib.suppress(ValueError):
                    note = json.loads(line)
                    if isinstance(note, dict):
                        self._listen(name, note)

    def kill(self, name: str) -> None:
        """Ends it and all that it started at once, as a power cut would."""
        end_group(self.running[name].pid, signal.SIGKILL)

    def said(self, name: str, lines: int = 8) -> str:
        """The end of what it wrote to stderr, for a message about its failure."""
        with contextlib.suppress(OSError):
            return "\n".join((self._logs / f"{name}.err").read_text(errors="replace").splitlines()[-lines:])
        return ""

    async def end(self) -> None:
        """Ends all: politely, then after a while not."""
        living = [process for process in self.running.values() if process.returncode is None]
        for process in living:
            end_group(process.pid, signal.SIGTERM)
        if living:
            await asyncio.wait([asyncio.create_task(process.wait()) for process in living], timeout=END_WITHIN)
        for process in self.running.values():
            end_group(process.pid, signal.SIGKILL)  # also what a process that ended has left behind
        for process in living:
            await process.wait()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self.running.clear()
