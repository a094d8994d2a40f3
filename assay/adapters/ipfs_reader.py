"""One stream of blocks from a gateway, the reader's side of assay.adapters.ipfs_stream: a thread that asks, receives, checks and stores a few
blocks after a few others, with requests ahead of it for a second of its own speed. It ends with the first wrong block.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol
from urllib.parse import urlsplit

from assay import cid as cids
from assay.adapters.ipfs_hash import Hashes, best, one_by_one
from assay.adapters.ipfs_intake import Intake, Pipe
from assay.adapters.ipfs_packs import NOTHING
from assay.adapters.ipfs_pull import LEAST_WINDOW, Pull
from assay.adapters.ipfs_sources import Failed, Lacks, Lied
from assay.adapters.ipfs_stream import AHEAD, BATCH, HAS, LACKS, NODE, PATH, UPGRADE, Leaf, request, request_node
from assay.ids import Cid
from assay.ports import StorageFull

MAX_HEAD = 4096
"""Bytes of an answer to the request for a stream."""
FIRST_WINDOW = 8
AHEAD_SECONDS = 1.0
IN_MEMORY = 4
"""Blocks that are received into memory at a time: more of them leave the cache before they are hashed and written."""
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
    """One stream. `run`, and before it perhaps `node`, in a thread; `cut` from any. After `node` it is open until `run` ends, or `close`."""

    def __init__(self, url: str, store: Store, timeout: float, connect: float) -> None:
        self.url = url
        self.blocks, self.seconds = 0, 0.0
        """What it brought, and how long that took."""
        self._store, self._timeout, self._connect = store, timeout, connect
        self._pull: Pull
        """Since it runs."""
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

    def close(self) -> None:
        """Of a stream that nothing runs on."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def node(self, cid: Cid, most: int) -> bytes:
        """The node, checked, of at most `most` bytes. Raises as `run`, and Lacks; then the stream is closed."""
        try:
            wire = self._begin()
            wire.sendall(request_node(cids.parse(cid)[1]))
            flag = self._exactly(wire, 1)[0]
            if flag == LACKS:
                raise Lacks("does not have it")
            if flag != HAS:
                raise Lied("answered what is no answer")
            size = int.from_bytes(self._exactly(wire, NODE.size - 1), "big")
            if size > most:
                raise Lied(f"sent over {most} bytes for {cid}")
            data = bytes(self._exactly(wire, size))
            if not cids.matches(cid, data):
                raise Lied(f"answered other bytes than {cid} names")
            return data
        except BaseException:
            self.close()
            raise

    def run(self, pull: Pull) -> None:
        """Until there is nothing more to do. Raises NoStreams, Failed, Lied, OSError (its fault), and what the store raises."""
        wire = self._wire or self._begin()
        with wire:
            self._pull, self._hashes = pull, best()
            started = time.monotonic()
            try:
                self._work(wire)
            except (OSError, Failed) as error:
                ours = isinstance(error, StorageFull | Lied)
                if ours or not (pull.over or self._cut):
                    raise
            finally:
                self.seconds = time.monotonic() - started
                if self._pipe is not None:
                    self._pipe.close()
                pull.back((leaf for leaves in self._asked for leaf in leaves), self.url)

    def _begin(self) -> socket.socket:
        try:
            wire = self._open()
        except ValueError as error:  # a host name that is none
            raise NoStreams(f"{type(error).__name__}: {error}") from None
        self._wire = wire
        if self._cut:
            self.close()
            raise NoStreams("it was cut")
        # the kernel waits for a whole block: one call, and no interpreter, for many packets
        wire.setblocking(True)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(self._timeout), int(self._timeout % 1 * 1e6)))
        return wire

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
