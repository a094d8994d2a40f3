"""One task on one place: its files are brought there, what is done comes home as it is done, the result is told.

What a run has at home is a state and the records of the steps before it, so whatever becomes of the place, another goes on from there to the
same bits. A state is brought home in the course of a run when that takes less than a SHARE of the time since the last one; at the end all is.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

from assay.adapters.fleet import files
from assay.adapters.fleet.messages import FileFacts, FleetTask, Listing, Wanted
from assay.codec import Malformed, decode, encode
from assay.engine import MAX_LINE, AnyEngineResult, Failure, RunLinks, StepDone
from assay.runtime import Fault

SHARE = 0.1
"""Of a run's time may go to bringing states home."""
STOPS_EVERY = 0.25
"""Seconds between looks for the file that stops a run."""
STATE = re.compile(r".*/state-(\d{1,19})\.safetensors")


class PlaceLost(Exception):
    """The place, its machine or the way to it is gone; whether it has done what it was told is not known."""


class Handle(Protocol):
    """A place from afar. Both raise PlaceLost, and what the place raises."""

    async def call(self, method: str, *arguments: Any) -> Any: ...

    def stream(self, method: str, *arguments: Any) -> AsyncIterator[bytes]: ...


class Errand:
    """`shared`: the place works in this very folder. `room`: bytes that files which come home may have."""

    def __init__(self, root: Path, digests: files.Digests, handle: Handle, shared: bool, room: int) -> None:
        self.root, self.digests, self.handle, self.shared, self.room = root, digests, handle, shared, room
        self._next = 0.0

    async def run(self, number: int, task: FleetTask, tell: Callable[[AnyEngineResult], None]) -> AnyEngineResult:
        """The result; `tell` hears of steps. Raises PlaceLost, after which nothing of the task is running there."""
        try:
            if not self.shared:
                await self._bring_there(task)
            stops = asyncio.create_task(self._forward_stop(task)) if isinstance(task, RunLinks) and not self.shared else None
            try:
                result = await self._listen(number, task, tell)
            finally:
                if stops:
                    stops.cancel()
            if not self.shared and not isinstance(result, Failure):
                await self._bring_home(task)
            return result
        except (Malformed, files.BadFile) as error:
            raise PlaceLost(f"it answers garbage: {error}") from None
        except OSError as error:
            return Failure(fault=Fault.OWN, error=f"file trouble between this node and its fleet: {error}")

    async def _listen(self, number: int, task: FleetTask, tell: Callable[[AnyEngineResult], None]) -> AnyEngineResult:
        async for line in self.handle.stream("run", number, encode(task)):
            message: AnyEngineResult = decode(line, AnyEngineResult, MAX_LINE)
            if not isinstance(message, StepDone):
                return message
            tell(message)
            if not self.shared and time.monotonic() >= self._next:
                began = time.monotonic()
                await self._bring_newest(task)
                now = time.monotonic()
                self._next = now + (now - began) / SHARE
        raise PlaceLost("it ended a task without a result")

    async def _forward_stop(self, task: FleetTask) -> None:
        while not (self.root / task.segment / "stop").exists():  # noqa: ASYNC110 (the daemon leaves it as a file)
            await asyncio.sleep(STOPS_EVERY)
        with contextlib.suppress(PlaceLost):
            await self.handle.call("stop", task.segment)

    # ---- files -------------------------------------------------------------------------------------------------------------

    async def _bring_there(self, task: FleetTask) -> None:
        here = await asyncio.to_thread(self.digests.of_all, files.needed(self.root, task))
        wanted = decode(await self.handle.call("lacks", encode(Listing(files=here)), encode(task)), Wanted, MAX_LINE)
        for facts in here:
            if facts.name not in wanted.names:
                continue
            for offset in range(0, facts.size, files.PIECE):
                await self.handle.call("put", facts.name, offset, await asyncio.to_thread(files.read_piece, self.root, facts.name, offset))
            await self.handle.call("arrived", encode(facts))

    async def _made(self, task: FleetTask) -> list[FileFacts]:
        """What is at the place. Raises BadFile when that is not what such a task makes."""
        listing = decode(await self.handle.call("made", encode(task)), Listing, MAX_LINE).files
        pattern = files.coming(task)
        for facts in listing:
            folder, _, name = facts.name.partition("/")
            if folder != task.segment or not pattern.fullmatch(name):
                raise files.BadFile(f"{facts.name!r} is not made by {type(task).__name__}")
        if sum(facts.size for facts in listing) > self.room:
            raise files.BadFile(f"{sum(facts.size for facts in listing)} bytes have been made, and there is room for {self.room}")
        return list(listing)

    async def _fetch(self, facts: FileFacts) -> None:
        for offset in range(0, facts.size, files.PIECE):
            data = await self.handle.call("get", facts.name, offset)
            size = min(files.PIECE, facts.size - offset)
            if not isinstance(data, bytes) or not size <= len(data) <= files.PIECE:
                raise files.BadFile(f"a piece of {facts.name} has not the size that was announced")
            await asyncio.to_thread(files.write_piece, self.root, facts.name, offset, data[:size])  # records of steps grow meanwhile
        await asyncio.to_thread(files.arrived, self.root, facts)

    async def _bring_newest(self, task: FleetTask) -> None:
        """A state, and then the records of the steps: in this order they are of use whenever it ends."""
        made = await self._made(task)
        states = {int(found[1]): facts for facts in made if (found := STATE.fullmatch(facts.name))}
        records = [facts for facts in made if facts.name.endswith("/steps.bin")]
        newest = [states[max(states)]] if states else []
        try:
            for facts in [*newest, *records]:
                await self._fetch(facts)
        except (FileNotFoundError, files.BadFile):
            return  # it was removed meanwhile: the next one will do

    async def _bring_home(self, task: FleetTask) -> None:
        """All that was made; what the place has removed goes here, too."""
        made = {facts.name: facts for facts in await self._made(task)}
        names = files.named(self.root, task.segment, files.coming(task))
        here = {facts.name: facts for facts in await asyncio.to_thread(self.digests.of_all, names)}
        for name, facts in made.items():
            if here.get(name) != facts:
                await self._fetch(facts)
        for name in here.keys() - made.keys():
            (self.root / name).unlink(missing_ok=True)
