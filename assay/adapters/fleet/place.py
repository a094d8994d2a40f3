"""A place: what runs inside a Ray actor. It keeps a work folder and an engine that is shut in, and answers in bytes.

On the daemon's own machine (`--ray local`) the work folder is the daemon's, and no file travels. On another it is a private one of its own, in
which there is nothing before a task brings it and nothing after the place has ended; what a killed place left behind the next one removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import platform
import re
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path

from assay.adapters import sandbox, tested
from assay.adapters.engine_process import ProcessEngine
from assay.adapters.fleet import exposure, files
from assay.adapters.fleet.messages import FileFacts, FleetTask, Listing, PlaceFacts, PlaceTested, Wanted
from assay.adapters.fleet.placing import AT_ONCE
from assay.adapters.meters import Metered
from assay.codec import Message, decode, encode
from assay.engine import MAX_LINE, Failure
from assay.exact.cuda.budget import DEFAULT
from assay.runtime import Fault, TaskFailed

PREFIX, LOCK = "assay-place-", "lock"
FOLDER = re.compile(r"(segment|job)-[a-z0-9-]{1,99}")


def version() -> str:
    """Both ends must be the same: they speak in pickles of Ray's, and of one engine."""
    return f"assay {metadata.version('assay')}, Python {platform.python_version()}"


class Place:
    """`home`: the daemon's work folder, on its own machine; else empty. `neighbours`: places of this machine, which share its memory and disk.
    `disk`: bytes of the work folder; 0: a share of half of what is free. `gpu_memory`: what its engines may hold of its GPU, by their own limit
    alone: Ray's processes have numbers of their own."""

    def __init__(self, home: str, threads: int, kind: str, disk: int, neighbours: int, gpu_memory: str = DEFAULT) -> None:
        self._refused, self._lock = "", -1
        self.root = Path(home)
        if not home:
            self.root, self._lock = _fresh()
        try:
            shut = sandbox.choose(kind, disk or shutil.disk_usage(self.root).free // (2 * neighbours))
        except sandbox.NoSandbox as error:
            shut, self._refused = None, str(error)
        self._shut = dataclasses.replace(shut, memory=shut.memory // neighbours) if shut else None
        self.engine = Metered(ProcessEngine(processes=AT_ONCE, threads=threads, sandbox=self._shut, gpu_memory=gpu_memory))
        self._digests = files.Digests(self.root)
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def facts(self) -> bytes:
        """PlaceFacts. Sockets that come later are of the same processes on the same addresses."""
        listeners = await asyncio.to_thread(exposure.of_ray)
        return encode(
            PlaceFacts(
                version=version(), host=socket.gethostname(), device=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
                sandbox=self._shut.kind if self._shut else "", refused=self._refused,
                exposed=tuple(exposure.exposed(listeners, exposure.here())),
            )
        )  # fmt: skip

    async def tested(self) -> bytes:
        """PlaceTested: runs the conformance suite, unless this machine has passed before."""
        try:
            await tested.admit(self._shut.native if self._shut else await asyncio.to_thread(sandbox.native_library), lambda note: None)
        except tested.NotPassed as error:
            return encode(PlaceTested(why=str(error)))
        return encode(PlaceTested(why=""))

    # ---- files (a place of another machine) --------------------------------------------------------------------------------

    async def lacks(self, listing: bytes, task: bytes) -> bytes:
        """Wanted: what of a Listing is not here yet. The segment has no other files afterwards that the task would read."""
        wanted, about = decode(listing, Listing, MAX_LINE), _task(task)
        have = {facts.name: facts for facts in await asyncio.to_thread(self._digests.of_all, files.needed(self.root, about))}
        for name in have.keys() - {facts.name for facts in wanted.files}:
            (self.root / name).unlink(missing_ok=True)
        return encode(Wanted(names=tuple(facts.name for facts in wanted.files if have.get(facts.name) != facts)))

    async def put(self, name: str, offset: int, data: bytes) -> None:
        files.write_piece(self.root, name, offset, data)

    async def arrived(self, facts: bytes) -> None:
        """Raises BadFile."""
        await asyncio.to_thread(files.arrived, self.root, decode(facts, FileFacts))

    async def made(self, task: bytes) -> bytes:
        """Listing of what a task has made so far."""
        about = _task(task)
        names = files.named(self.root, about.segment, files.coming(about))
        return encode(Listing(files=await asyncio.to_thread(self._digests.of_all, names)))

    async def get(self, name: str, offset: int) -> bytes:
        """A piece; raises FileNotFoundError."""
        return await asyncio.to_thread(files.read_piece, self.root, name, offset)

    async def stop(self, segment: str) -> None:
        (self.root / files.checked(f"{segment}/stop")).touch()

    async def keep(self, folders: list[str]) -> None:
        """Removes the folders of segments and jobs that are no longer there at home."""
        for path in self.root.iterdir():
            if FOLDER.fullmatch(path.name) and path.name not in folders:
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    # ---- work --------------------------------------------------------------------------------------------------------------

    async def run(self, number: int, task: bytes) -> AsyncIterator[bytes]:
        """The engine's lines: steps, then a result or a failure."""
        told: asyncio.Queue[Message | None] = asyncio.Queue()
        work = self._tasks[number] = asyncio.create_task(self._perform(_task(task), told))
        try:
            while (message := await told.get()) is not None:
                yield encode(message)
        finally:
            self._tasks.pop(number, None)
            work.cancel()

    async def _perform(self, task: FleetTask, told: asyncio.Queue[Message | None]) -> None:
        try:
            told.put_nowait(await self.engine.run(task, self.root, told.put_nowait))
        except TaskFailed as failed:
            told.put_nowait(Failure(fault=failed.fault, error=failed.error))
        except OSError as error:
            told.put_nowait(Failure(fault=Fault.OWN, error=f"file trouble: {error}"))
        finally:
            told.put_nowait(None)

    async def give_up(self, number: int) -> None:
        """Ends a task's engine; nothing of it is running when this returns."""
        work = self._tasks.get(number)
        if work is not None:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def close(self) -> None:
        """Ends the engines, and leaves nothing behind."""
        await self.engine.close()
        if self._lock >= 0:
            shutil.rmtree(self.root, ignore_errors=True)
            os.close(self._lock)


def _task(line: bytes) -> FleetTask:
    found: FleetTask = decode(line, FleetTask, MAX_LINE)
    return found


def _fresh() -> tuple[Path, int]:
    """A private folder, and the descriptor that holds its lock; what places that are gone have left is removed."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or one that lives
            held = os.open(left / LOCK, os.O_RDWR)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(held)
    root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return root, lock
