"""Leaves of a blob over streams from several gateways at once (the reader's side of assay.adapters.ipfs_stream).

Each stream is a thread: it asks, receives, checks and stores a few blocks after a few others, with requests ahead of it for a second of
its own speed. Streams take their work from one list (`Pull`), so a gateway gets as much of it as it is fast; a block that a gateway has
sat on for `patience` seconds is asked of another as well, and the first good answer wins. A stream ends with the first wrong block. What
no stream brought is left to the plain way (assay.adapters.ipfs_fetch), which also knows what to say when nobody has a block.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Protocol
from urllib.parse import urlsplit

from assay import cid as cids
from assay.adapters.ipfs_hash import Hashes, best, one_by_one
from assay.adapters.ipfs_intake import Intake, Pipe
from assay.adapters.ipfs_packs import NOTHING
from assay.adapters.ipfs_pull import LEAST_WINDOW, Pull
from assay.adapters.ipfs_sources import Failed, Gateway, Lied, Sources
from assay.adapters.ipfs_stream import AHEAD, BATCH, HAS, LACKS, PATH, UPGRADE, Leaf, request
from assay.cid import Place
from assay.ids import Cid
from assay.ports import StorageFull

log = logging.getLogger("assay.blobs")

MAX_HEAD = 4096
"""Bytes of an answer to the request for a stream."""
FIRST_WINDOW = 8
AHEAD_SECONDS = 1.0
AT_ONCE, PER_GATEWAY = 6, 4
"""Streams of one fetch, and those of them to one gateway, at most."""
IN_MEMORY = 4
"""Blocks that are received into memory at a time: more of them leave the cache before they are hashed and written."""
WORTH = 64
"""Leaves that make another stream to the same gateway worth its thread and its start."""
MAX_THREADS = 32
NOTE_EVERY = 0.2
ASK_AGAIN = 60.0
"""Seconds after which a gateway that had no stream for us is asked for one again."""
MAX_LACKS = 32
"""Blocks one after another that a gateway may lack before its stream is ended."""


class Store(Protocol):
    def read(self, cid: Cid) -> bytes | None: ...

    def among(self, digests: Sequence[bytes]) -> set[bytes]: ...

    def write_leaves(self, leaves: Iterable[tuple[bytes, bytes | memoryview]]) -> None: ...

    def intake(self, most: int) -> AbstractContextManager[Intake | None]: ...


class NoStreams(Exception):
    """The gateway does not do this, or not now."""


class Stream:
    """One stream. `run` in a thread; `cut` from any."""

    def __init__(self, url: str, pull: Pull, store: Store, timeout: float, connect: float) -> None:
        self.url = url
        self.blocks, self.seconds = 0, 0.0
        """What it brought, and how long that took."""
        self._pull, self._store, self._timeout, self._connect = pull, store, timeout, connect
        self._wire: socket.socket | None = None
        self._cut = False
        self._asked: deque[list[Leaf]] = deque()
        """Requests that are not answered yet."""
        self._ahead = 0
        """Leaves in them."""
        self._buffer = memoryview(b"")
        self._pipe: Pipe | None = None
        self._hashes: Hashes = one_by_one

    def cut(self) -> None:
        """Ends the stream at once."""
        self._cut = True
        wire = self._wire
        if wire is not None:
            try:
                wire.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def run(self) -> None:
        """Until there is nothing more to do. Raises NoStreams, Failed, Lied, OSError (its fault), and what the store raises."""
        try:
            wire = self._open()
        except ValueError as error:  # a host name that is none
            raise NoStreams(f"{type(error).__name__}: {error}") from None
        with wire:
            self._wire, self._hashes = wire, best()
            # the kernel waits for a whole block: one call, and no interpreter, for many packets
            wire.setblocking(True)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(self._timeout), int(self._timeout % 1 * 1e6)))
            started = time.monotonic()
            try:
                self._work(wire)
            except (OSError, Failed) as error:
                ours = isinstance(error, StorageFull | Lied)
                if ours or not (self._pull.over or self._cut):
                    raise
            finally:
                self.seconds = time.monotonic() - started
                if self._pipe is not None:
                    self._pipe.close()
                self._pull.back((leaf for leaves in self._asked for leaf in leaves), self.url)

    def _open(self) -> socket.socket:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or parts.hostname is None:
            raise NoStreams("only over http")
        wire = socket.create_connection((parts.hostname, parts.port or 80), self._connect)
        try:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.sendall(
                f"GET {parts.path.rstrip('/')}{PATH} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n".encode()
            )
            head, until = b"", time.monotonic() + self._connect
            while not head.endswith(b"\r\n\r\n"):  # nothing follows it: a gateway says nothing on a stream before it is asked
                part = wire.recv(MAX_HEAD)
                head += part
                if not part or len(head) > MAX_HEAD or time.monotonic() > until:
                    raise NoStreams("no answer to the request for a stream")
                if not b"HTTP/1.1 101".startswith(head[:12]):
                    raise NoStreams(f"answered {head[:12]!r}")
            return wire
        except BaseException:
            wire.close()
            raise

    def _work(self, wire: socket.socket) -> None:
        window, lacks = FIRST_WINDOW, 0
        started, brought = time.monotonic(), 0
        while not self._pull.over and not self._cut:
            self._ask(wire, window)
            if not self._asked:
                if not self._pull.wait(self.url):
                    return
                started, brought = time.monotonic(), 0
                continue
            leaves = self._asked[0]
            lacked = self._receive(wire, leaves)
            lacks = lacks + len(lacked) if len(lacked) == len(leaves) else 0
            brought += sum(leaf.size for leaf in leaves) - sum(leaf.size for leaf in lacked)
            self._asked.popleft()
            self._ahead -= len(leaves)
            if lacks > MAX_LACKS:
                return
            rate = brought / max(time.monotonic() - started, 1e-6)
            window = max(LEAST_WINDOW, min(AHEAD, max(FIRST_WINDOW if brought < 4 * cids.CHUNK else 0, round(rate * AHEAD_SECONDS / cids.CHUNK))))

    def _ask(self, wire: socket.socket, window: int) -> None:
        """Fills the window with requests, each of a part of it only: a gateway that is slow is not asked for much at a time."""
        each = max(1, min(BATCH, window // 4))
        asked = bytearray()
        while self._ahead + each <= window and (taken := self._pull.take(self.url, each)):
            here = self._store.among([leaf.digest for leaf in taken])
            fresh = [leaf for leaf in taken if leaf.digest not in here or not self._here(leaf)]
            if fresh:
                self._asked.append(fresh)
                self._ahead += len(fresh)
                asked += request(fresh)
        if asked:
            wire.sendall(asked)

    def _here(self, leaf: Leaf) -> bool:
        """Whether the store has it already, of a fetch that was interrupted, say."""
        block = self._store.read(leaf.cid)
        if block is None:
            return False
        if len(block) != leaf.size:
            raise cids.BadNode(f"leaf {leaf.cid} has {len(block)} bytes where its parent says {leaf.size}: whoever published the blob made it wrong")
        self._pull.stored([leaf])
        return True

    def _receive(self, wire: socket.socket, leaves: list[Leaf]) -> list[Leaf]:
        """The answer to a request, checked and stored block by block; returns what the gateway lacks."""
        flags = bytes(self._exactly(wire, len(leaves)))
        if flags.strip(bytes((HAS, LACKS))):
            raise Lied("answered what is no answer")
        there = [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag == HAS]
        while there:
            count = self._directly(wire, there) or self._through_memory(wire, there)
            there = there[count:]
        lacked = [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag == LACKS]
        self._pull.back(lacked, self.url, lacks=True)
        return lacked

    def _directly(self, wire: socket.socket, leaves: list[Leaf]) -> int:
        """Takes whole leaves at the head of these into the store without receiving them in memory; how many. 0 where that cannot be done."""
        sizes = list(itertools.takewhile(cids.CHUNK.__eq__, [leaf.size for leaf in leaves]))
        if not sizes:
            return 0
        with self._store.intake(len(sizes)) as intake:
            if intake is None:
                return 0
            self._pipe = self._pipe or Pipe()
            intake.bring(wire, self._pipe, self._timeout)
            with intake.view() as data:
                digests = self._hashes(data, sizes[: intake.count])
            good = _agreeing(leaves, digests)
            intake.keep([leaf.digest if self._pull.wanted(leaf) else NOTHING for leaf in good])
            self._have(good, leaves[: intake.count])
            return intake.count

    def _through_memory(self, wire: socket.socket, leaves: list[Leaf]) -> int:
        """Takes the first of these, up to IN_MEMORY; how many that were."""
        leaves, at = leaves[:IN_MEMORY], 0
        sizes = [leaf.size for leaf in leaves]
        data = self._exactly(wire, sum(sizes))
        good = _agreeing(leaves, self._hashes(data, sizes))
        wanted = []
        for leaf in good:
            if self._pull.wanted(leaf):
                wanted.append((leaf.digest, data[at : at + leaf.size]))
            at += leaf.size
        self._store.write_leaves(wanted)
        self._have(good, leaves)
        return len(leaves)

    def _have(self, good: list[Leaf], came: list[Leaf]) -> None:
        """These were stored, of those that came. Raises Lied."""
        self._pull.stored(good)
        self.blocks += len(good)
        if len(good) < len(came):
            raise Lied(f"answered other bytes than {came[len(good)].cid} names")

    def _exactly(self, wire: socket.socket, size: int) -> memoryview:
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))
        try:
            got = wire.recv_into(self._buffer, size, socket.MSG_WAITALL) if size else 0
        except BlockingIOError:
            raise Failed(f"did not answer within {self._timeout:g} s") from None
        if got < size:
            raise Failed("the stream ended, or stood still, in the middle of a block")
        return self._buffer[:size]


def _agreeing(leaves: list[Leaf], digests: list[bytes]) -> list[Leaf]:
    """The leaves up to the first of which the bytes are wrong."""
    return [leaf for leaf, _ in itertools.takewhile(lambda both: both[0].digest == both[1], zip(leaves, digests))]  # noqa: B905 (fewer digests may have come)


class Bulk:
    """The streams of one node's fetches into `store`."""

    def __init__(self, store: Store, patience: float, timeout: float, connect: float) -> None:
        self._store, self._patience, self._timeout, self._connect = store, patience, timeout, connect
        self._threads: ThreadPoolExecutor | None = None

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None

    async def bring(self, leaves: Sequence[tuple[Cid, Place]], sources: Sources, note: Callable[[int], None]) -> list[tuple[Cid, Place]]:
        """Brings what it can over streams; returns what is left. `note` hears how many bytes have come. Raises what the store raises,
        and BadNode when a leaf is not what the tree says."""
        pull = Pull((_leaf(cid, place) for cid, place in leaves), self._patience)
        running: dict[asyncio.Future[None], tuple[Stream, Gateway, float]] = {}
        starts: Counter[str] = Counter()
        told, each = 0, max(1, min(PER_GATEWAY, len(leaves) // WORTH))
        try:
            while not pull.over:
                now = time.monotonic()
                for gateway in self._choose(sources, [gateway.url for _, gateway, _ in running.values()], starts, each):
                    starts[gateway.url] += 1
                    stream = Stream(gateway.url, pull, self._store, self._timeout, self._connect)
                    running[self._start(stream.run)] = (stream, gateway, now)
                if not running:
                    break
                ready, _ = await asyncio.wait(running, timeout=NOTE_EVERY, return_when=asyncio.FIRST_COMPLETED)
                for future in ready:
                    self._account(*running.pop(future), future, starts, sources)
                note(pull.brought - told)
                told = pull.brought
        finally:
            pull.end()
            for stream, _, _ in running.values():
                stream.cut()
            await _ended(running)
        for future, (_, gateway, started) in running.items():
            if isinstance(error := future.exception(), Lied):
                gateway.failed(started, error)
        note(pull.brought - told)
        return [(cid, place) for cid, place in leaves if _leaf(cid, place) in pull.missing]

    def _start(self, work: Callable[[], None]) -> asyncio.Future[None]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(MAX_THREADS, "bulk")
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _choose(self, sources: Sources, busy: list[str], starts: Counter[str], each: int) -> list[Gateway]:
        """Whom to open a stream to now: the best few, some of them twice, none more often than `each`."""
        now = time.monotonic()
        able = [
            g for g in sources.gateways
            if g.url.startswith("http://") and g.rest_until <= now and g.no_streams_until <= now and starts[g.url] < PER_GATEWAY * sources.rounds
        ]  # fmt: skip
        able.sort(key=lambda g: (g.url in sources.lacking, g.seconds))
        chosen = [g for turn in range(each) for g in able[:AT_ONCE] if busy.count(g.url) <= turn and not (g.narrow and turn)]
        return chosen[: AT_ONCE - len(busy)]

    def _account(
        self, stream: Stream, gateway: Gateway, started: float, future: asyncio.Future[None], starts: Counter[str], sources: Sources
    ) -> None:
        """What a stream that has ended says of its gateway. Raises what was nobody's fault but the store's or the publisher's."""
        if stream.blocks:
            gateway.answered(stream.seconds / stream.blocks)
        if stream.blocks > MAX_LACKS:
            starts[gateway.url] -= 1  # it was worth its start: a relay cuts off whoever has had enough of it, and what is left comes over another
        match future.exception():
            case None:
                starts[gateway.url] = PER_GATEWAY * sources.rounds  # it has nothing more for us
            case NoStreams() as error:
                gateway.no_streams_until = time.monotonic() + ASK_AGAIN
                log.debug("%s: %s", gateway.url, error)
            case Failed() as error:
                gateway.failed(started, error)
            case OSError() as error if not isinstance(error, StorageFull):
                gateway.failed(started, Failed(f"{type(error).__name__}: {error}"))
            case error:
                raise error


def _leaf(cid: Cid, place: Place) -> Leaf:
    return Leaf(cids.parse(cid)[1], place.size)


async def _ended(running: Iterable[asyncio.Future[None]]) -> None:
    """Waits for threads, also when it is cancelled meanwhile: no write outlives the fetch that it belongs to."""
    waiting = asyncio.gather(*running, return_exceptions=True)
    try:
        await asyncio.shield(waiting)
    except asyncio.CancelledError:
        await waiting
        raise
