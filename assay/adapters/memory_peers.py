"""Peers in memory: the same port, the same frames and the same record rules as the network, without one.

A `Switchboard` stands for the wire. It decides what becomes of each message (`fate`): how long it takes, whether it is lost, whether
there is a way at all. Its choices follow from its seed, so a run can be repeated. Time is whatever `sleep` makes of it: by default
latencies are waited for on the event loop; the simulated network (assay.sim) asks `fate` itself and keeps its own clock.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec

from assay.adapters import peerbook
from assay.adapters.libp2p_frames import Frame, Frames, Kind, pack
from assay.adapters.peerbook import MAX_RECORD, Peerbook
from assay.adapters.rumours import Rumours
from assay.codec import Malformed, decode, encode
from assay.ids import PeerId
from assay.messages import AnyGossip, AnyReply, AnyRequest, PeerRecord, SignedRecord
from assay.ports import Handler, Outage

log = logging.getLogger("assay.peers")


class Switchboard:
    """`latency`: shortest and longest time that a message takes, seconds. `loss`: the share of messages that never arrive."""

    def __init__(
        self,
        seed: int = 0,
        latency: tuple[float, float] = (0.0, 0.0),
        loss: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.random = random.Random(seed)
        self.latency, self.loss, self.sleep = latency, loss, sleep
        self.nodes: dict[PeerId, MemoryPeers] = {}
        self._side: dict[PeerId, int] = {}

    def partition(self, *sides: Iterable[PeerId]) -> None:
        """Only those on the same side reach each other from now on; whoever is named on none is on a side of its own kind."""
        self._side = {peer: number for number, side in enumerate(sides) for peer in side}

    def heal(self) -> None:
        self._side = {}

    def fate(self, source: PeerId, target: PeerId) -> float | None:
        """Seconds that the next message takes from one to the other, or None when it does not arrive."""
        if self._side.get(source) != self._side.get(target) or (self.loss and self.random.random() < self.loss):
            return None
        low, high = self.latency
        return low if low == high else self.random.uniform(low, high)

    async def carry(self, source: PeerId, target: PeerId, data: bytes) -> MemoryPeers | None:
        """Waits out the latency; the node that the bytes arrive at, if they do."""
        delay = self.fate(source, target)
        if delay is None:
            return None
        await self.sleep(delay)
        return self.nodes.get(target)


class MemoryPeers:
    """`record(addresses)` as in assay.adapters.libp2p. With a `folder`, the peers it knows outlive it."""

    def __init__(
        self,
        board: Switchboard,
        seed: bytes,
        record: Callable[[list[str]], PeerRecord],
        folder: Path | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.peer = peerbook.peer_id(seed)
        self.faults = 0
        """Frames and messages of others that were not what they must be."""
        self._board, self._seed, self._record, self._now = board, seed, record, now_ms
        kind = record([])
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._book = Peerbook(self.peer, kind.chain_id, kind.contract, now_ms, folder / "peers.json" if folder is not None else None)
        self._rumours = Rumours(seed, kind.chain_id, kind.contract, now_ms)
        self._own: SignedRecord | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sequence = 0

    async def start(self, on_request: Handler, on_gossip: Callable[[PeerId, AnyGossip], None]) -> None:
        self._handler, self._gossip = on_request, on_gossip
        self._describe()
        self._board.nodes[self.peer] = self
        for other in list(self._board.nodes.values()):
            if other is not self and other._own is not None:
                self._spawn(self._introduce(self, other))
                self._spawn(self._introduce(other, self))

    def _describe(self) -> None:
        self._sequence = max(self._sequence + 1, self._now())
        record = msgspec.structs.replace(self._record([]), peer=self.peer, sequence=self._sequence)
        self._own = peerbook.sign(record, self._seed)

    async def renew(self) -> None:
        self._describe()
        for other in list(self._board.nodes.values()):
            if other is not self:
                self._spawn(self._introduce(self, other))

    async def stop(self) -> None:
        self._board.nodes.pop(self.peer, None)
        self._book.save()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def request(self, peer: PeerId, message: AnyRequest, timeout: float) -> AnyReply:
        data = pack(Frame(Kind.REQUEST, 1, encode(message)))
        try:
            async with asyncio.timeout(timeout):
                other = await self._board.carry(self.peer, peer, data)
                if other is None:
                    if peer not in self._board.nodes:
                        raise Outage(f"{peer} cannot be reached")
                    await self._board.sleep(timeout)
                    raise TimeoutError
                answer = await other.receive(self.peer, data)
                if answer is None:
                    raise Outage(f"the connection to {peer} ended before it answered")
                if await self._board.carry(peer, self.peer, answer) is None:
                    await self._board.sleep(timeout)
                    raise TimeoutError
        except TimeoutError:
            raise Outage(f"{peer} did not answer within {timeout:g} s") from None
        try:
            (frame,) = Frames().feed(answer)
            reply: AnyReply = decode(frame.body, AnyReply)
            return reply
        except Malformed as error:
            raise Outage(f"{peer} answered with what is not an answer: {error}") from None

    async def gossip(self, message: AnyGossip) -> None:
        data = pack(Frame(Kind.GOSSIP, 0, self._rumours.say(message)))
        for other in list(self._board.nodes.values()):
            if other is not self:
                self._spawn(self._tell(other, data))

    def records(self) -> list[PeerRecord]:
        return self._book.fresh()

    # ---- what arrives ----------------------------------------------------------------------------------------------------

    async def receive(self, source: PeerId, data: bytes) -> bytes | None:
        """What a stream from `source` brings; the frame that answers it, or None where the stream is closed instead."""
        answers = []
        try:
            for frame in Frames().feed(data):
                if frame.kind == Kind.REQUEST:
                    message: AnyRequest = decode(frame.body, AnyRequest)
                    answers.append(pack(Frame(Kind.REPLY, frame.id, encode(await self._handler(source, message)))))
                elif frame.kind == Kind.RECORDS:
                    for signed in decode(frame.body, tuple[SignedRecord, ...]):
                        if len(encode(signed)) > MAX_RECORD:
                            raise Malformed(f"a record of more than {MAX_RECORD} bytes")
                        self._book.add(signed)
                elif frame.kind == Kind.GOSSIP:
                    news = self._rumours.hear(frame.body, source)
                    if news is not None:
                        self._gossip(*news)
            return b"".join(answers) or None
        except Malformed as error:
            self.faults += 1
            log.warning("closed the connection to %s: it sent what is not a message: %s", source, error)
            return None

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _introduce(self, source: MemoryPeers, target: MemoryPeers) -> None:
        assert source._own is not None
        data = pack(Frame(Kind.RECORDS, 0, encode([source._own])))
        if await self._board.carry(source.peer, target.peer, data) is target:
            await target.receive(source.peer, data)

    async def _tell(self, other: MemoryPeers, data: bytes) -> None:
        if await self._board.carry(self.peer, other.peer, data) is other:
            await other.receive(self.peer, data)
