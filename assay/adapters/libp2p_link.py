"""A link: the one long-lived stream between two peers (opening a stream costs round trips and milliseconds, a frame does not).

Either side may have opened it and both may ask. A link ends when the stream does, when the other side sends what is not a frame
or not a message, begins a frame and does not finish it within `FRAME_WITHIN` seconds, does not read what is written to it, or
says nothing for `SILENCE` seconds although it was pinged. Everything that waits on it then fails at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from assay.adapters.libp2p_frames import Frame, Frames, Kind, pack
from assay.adapters.libp2p_life import hang_up
from assay.codec import Malformed
from assay.ids import PeerId
from assay.ports import Outage

log = logging.getLogger("assay.peers")

FRAME_WITHIN = 10.0
PING_AFTER, SILENCE = 20.0, 45.0
SAY_AGAIN = 10.0
MAX_ASKED, MAX_SERVED = 64, 64
"""Requests under way at once on one link, by this side and by the other."""
OUTBOX = 256
"""Frames that may wait to be written; a peer that lets more pile up is not reading."""


class LinkClosed(Outage):
    """The stream ended before the answer came."""


class _Waiting:
    def __init__(self) -> None:
        self.event = trio.Event()
        self.body: bytes | None = None


class Link:
    """`await run()` until it ends. What is called with what comes may raise Malformed."""

    def __init__(
        self,
        peer: PeerId,
        stream: Any,
        on_request: Callable[[Link, int, bytes], Awaitable[None]],
        on_records: Callable[[Link, bytes], None],
        on_gossip: Callable[[Link, bytes], None],
        host: str,
        opened: bool,
    ) -> None:
        self.peer, self.host = peer, host
        self.opened = opened
        """Whether this side opened it."""
        self.closed = False
        self.fault = ""
        """What the other side did wrong, if the link was ended for that."""
        self.silent = False
        """Whether it was ended because the other side said nothing any more."""
        self.serving = 0
        """Requests of the other side that are being answered."""
        self._stream = stream
        self._on_request, self._on_records, self._on_gossip = on_request, on_records, on_gossip
        self._waiting: dict[int, _Waiting] = {}
        self._next = 0
        self._slots = trio.Semaphore(MAX_ASKED)
        self._outbox, self._to_write = trio.open_memory_channel[bytes](OUTBOX)
        self._refusing = -math.inf
        self._scope = trio.CancelScope()
        self._heard = trio.current_time()

    # ---- for the owner ---------------------------------------------------------------------------------------------------

    async def request(self, body: bytes) -> bytes:
        """The answer's bytes. Raises LinkClosed. May be cancelled; an answer that comes after that is dropped."""
        async with self._slots:
            self._next += 1
            number = self._next
            waiting = self._waiting[number] = _Waiting()
            try:
                self.put(Frame(Kind.REQUEST, number, body))
                await waiting.event.wait()
            finally:
                self._waiting.pop(number, None)
        if waiting.body is None:
            raise LinkClosed(f"the connection to {self.peer} ended before it answered")
        return waiting.body

    def put(self, frame: Frame) -> None:
        """Queues a frame. Raises LinkClosed."""
        try:
            if self.closed:
                raise trio.ClosedResourceError
            self._outbox.send_nowait(pack(frame))
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError) as error:
            if isinstance(error, trio.WouldBlock):
                self.close(f"does not read: {OUTBOX} frames wait")
            raise LinkClosed(f"the connection to {self.peer} is closed") from None

    def refused(self) -> bool:
        """A request of the other side was refused for being too many; whether that is worth saying (once in a while)."""
        now = trio.current_time()
        if now - self._refusing < SAY_AGAIN:
            return False
        self._refusing = now
        return True

    def close(self, fault: str = "") -> None:
        self.fault = self.fault or fault
        self.closed = True
        self._scope.cancel()

    # ---- life ------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Never raises but for cancellation from outside."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._guard, self._write)
                    nursery.start_soon(self._guard, self._watch)
                    await self._guard(self._read)
        finally:
            self.closed = True
            self._outbox.close()
            for waiting in self._waiting.values():
                waiting.event.set()
            if self.fault:
                log.warning("closed the connection to %s: it %s", self.peer, self.fault)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                try:
                    await self._stream.reset()
                except Exception as error:
                    log.debug("resetting the stream to %s: %s", self.peer, error)
            if self.silent:
                await hang_up(self._stream)

    async def _guard(self, part: Callable[[], Awaitable[None]]) -> None:
        """Whatever ends one part ends the link."""
        try:
            await part()
        except Malformed as error:
            self.close(f"sent what is not a message: {error}")
        except Exception as error:  # the many errors that a broken stream can raise
            log.debug("link to %s: %s: %s", self.peer, type(error).__name__, error)
        self.close()

    async def _read(self) -> None:
        frames = Frames()
        begun = math.inf
        while True:
            with trio.CancelScope(deadline=begun + FRAME_WITHIN) as scope:
                data = await self._stream.read(65536)
            if scope.cancelled_caught:
                return self.close(f"began a frame and did not finish it in {FRAME_WITHIN:g} seconds")
            if not data:
                return
            self._heard = trio.current_time()
            for frame in frames.feed(data):
                begun = math.inf
                await self._handle(frame)
            if frames.partial and begun == math.inf:
                begun = self._heard

    async def _handle(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.REQUEST:
                await self._on_request(self, frame.id, frame.body)
            case Kind.REPLY:
                waiting = self._waiting.pop(frame.id, None)
                if waiting is not None:
                    waiting.body = frame.body
                    waiting.event.set()
            case Kind.RECORDS:
                self._on_records(self, frame.body)
            case Kind.GOSSIP:
                self._on_gossip(self, frame.body)
            case Kind.PING:
                self.put(Frame(Kind.PONG, frame.id, b""))
            case Kind.PONG:
                pass

    async def _write(self) -> None:
        async for data in self._to_write:
            await self._stream.write(data)

    async def _watch(self) -> None:
        while True:
            await trio.sleep(PING_AFTER / 2)
            quiet = trio.current_time() - self._heard
            if quiet > SILENCE:
                self.silent = True
                return self.close()
            if quiet > PING_AFTER:
                self.put(Frame(Kind.PING, 0, b""))
