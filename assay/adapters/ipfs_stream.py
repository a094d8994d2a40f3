"""Streams of blocks: what a gateway speaks with other nodes of ours where speed matters, on the gateway's own port.

A reader asks `GET /assay/blocks` with `Upgrade: assay-blocks/4`; the gateway answers 101, and the connection is the stream's from there:

    reader to gateway    count u8, from 1 to BATCH, and so many leaves: SHA-256 digest (32 bytes), size u32, big-endian;
                         or count 0 and the SHA-256 digest of one node (a dag-pb block, the root of a tree);
                         as many of these requests ahead of the answers as the reader likes
    gateway to reader    for each request, in this order: one byte a leaf, HAS or LACKS, and then those that it has, one after another;
                         for a node LACKS, or HAS, its size u32 and its bytes

The sizes of leaves are the reader's, from the tree above them: so it knows how many bytes come next and lets the kernel bring several blocks in a few
calls (assay.adapters.ipfs_intake), which a length before each block would not allow. A block of another size than was asked for is one that
the gateway lacks.

Neither authenticates nor encrypts: every block is checked against the digest that the reader asked for, and whatever is secret is sealed
(assay.seal) before it becomes a blob. So the kernel can send straight from the file to the wire, which no secure channel in Python comes
near (bench/transfer.py). A stream has a thread of its own, as each has on the reader's side; hashing and copying let go of the
interpreter, so several streams use several cores. Streams are bounded in all and for each address, and one that is silent, slow to ask
or slow to read is closed; a reader without a stream has the plain gateway.
"""

from __future__ import annotations

import io
import logging
import os
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from assay import cid as cids
from assay.adapters.ipfs_packs import Extent
from assay.ids import Cid

log = logging.getLogger("assay.blobs")

UPGRADE = "assay-blocks/4"
PATH = "/assay/blocks"
WANTED = struct.Struct(">32sI")
"""A leaf in a request."""
HAS, LACKS = 1, 2
NODE = struct.Struct(">BI")
"""HAS, and the size of a node."""
DIGEST = 32
BATCH = 16
"""Leaves of one request."""
MAX_STREAMS, STREAMS_PER_HOST = 64, 16
IDLE = 20.0
"""Seconds that a stream may wait for the next request."""
REQUEST_WITHIN = 5.0
"""Seconds for the rest of a request that has begun."""
AHEAD = 128
"""Leaves that a reader may have asked for and not yet got; a gateway reads so many at a time, and more wait in the socket."""


class Source(Protocol):
    def open(self, digests: Sequence[bytes]) -> list[Extent | None]: ...

    def read(self, cid: Cid) -> bytes | None: ...


class Leaf(NamedTuple):
    """A raw block of a blob by its SHA-256 digest, and how many bytes it has."""

    digest: bytes
    size: int

    @property
    def cid(self) -> Cid:
        return cids.of_digest(cids.RAW, self.digest)


class BadRequest(ValueError):
    """What no reader of ours asks."""


class TooMany(Exception):
    """No room for another stream."""


class Streams:
    """The streams of one gateway. `enter` and `leave` count them; `serve` is called in a thread of its own for each."""

    def __init__(self, blocks: Source, limit: int = MAX_STREAMS, read_within: float = 15.0) -> None:
        self._blocks, self.limit, self._read_within = blocks, limit, read_within
        self._mutex = threading.Lock()
        self._hosts: Counter[str] = Counter()

    def enter(self, host: str) -> None:
        """Raises TooMany."""
        with self._mutex:
            if self._hosts.total() >= self.limit or self._hosts[host] >= STREAMS_PER_HOST:
                raise TooMany
            self._hosts[host] += 1

    def leave(self, host: str) -> None:
        with self._mutex:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

    def serve(self, wire: socket.socket, host: str) -> None:
        """Answers until the reader goes or does what it should not. Never raises; closes `wire`."""
        try:
            with wire:
                wire.setblocking(False)
                self._answer(Wire(wire))
        except (TimeoutError, BadRequest) as error:
            log.warning("closed a stream of %s: it %s", host, error)
        except (OSError, EOFError) as error:
            log.debug("stream of %s: %s", host, error)
        except Exception:
            log.exception("stream of %s", host)

    def _answer(self, wire: Wire) -> None:
        pending = bytearray()
        while True:
            within = REQUEST_WITHIN if pending else IDLE
            pending += wire.receive(WANTED.size * AHEAD, within, "began a request and did not finish it" if pending else "asks for nothing")
            while (asked := _request(pending)) is not None:
                if isinstance(asked, bytes):
                    self._send_node(wire, asked)
                else:
                    self._send(wire, asked)

    def _send_node(self, wire: Wire, digest: bytes) -> None:
        data = self._blocks.read(cids.of_digest(cids.DAG_PB, digest))
        answer = bytes((LACKS,)) if data is None or len(data) > cids.MAX_BLOCK else NODE.pack(HAS, len(data)) + data
        wire.send(answer, time.monotonic() + self._read_within)

    def _send(self, wire: Wire, leaves: Sequence[Leaf]) -> None:
        """Answers one request. Blocks that lie in a row go to the wire in one piece."""
        opened = self._blocks.open([leaf.digest for leaf in leaves])
        try:
            found = [e if e is not None and e.size == leaf.size else None for e, leaf in zip(opened, leaves, strict=True)]
            until = time.monotonic() + self._read_within
            wire.send(bytes(LACKS if extent is None else HAS for extent in found), until, more=any(extent is not None for extent in found))
            for row in in_rows(found):
                wire.send_extent(row, time.monotonic() + self._read_within * max(1, row.size / cids.CHUNK))
        finally:
            for extent in opened:
                if extent is not None:
                    extent.file.close()


def in_rows(extents: Iterable[Extent | None]) -> list[Extent]:
    """Those that there are, in this order; what follows upon the one before it in the same file is one with it."""
    rows: list[Extent] = []
    for extent in extents:
        if extent is None:
            continue
        if rows and rows[-1].file is extent.file and rows[-1].at + rows[-1].size == extent.at:
            rows[-1] = rows[-1]._replace(size=rows[-1].size + extent.size)
        else:
            rows.append(extent)
    return rows


def _request(pending: bytearray) -> list[Leaf] | bytes | None:
    """Takes the next request off what has come: leaves, or a node's digest; None while it is not whole. Raises BadRequest."""
    if not pending:
        return None
    count = pending[0]
    if count > BATCH:
        raise BadRequest(f"asked for {count} blocks in one request")
    if not count:
        if len(pending) <= DIGEST:
            return None
        digest = bytes(pending[1 : 1 + DIGEST])
        del pending[: 1 + DIGEST]
        return digest
    end = 1 + count * WANTED.size
    if len(pending) < end:
        return None
    leaves = [Leaf(digest, size) for digest, size in WANTED.iter_unpack(pending[1:end])]
    if any(leaf.size > cids.CHUNK for leaf in leaves):
        raise BadRequest(f"asked for a leaf of over {cids.CHUNK} bytes")
    del pending[:end]
    return leaves


def request(leaves: Sequence[Leaf]) -> bytes:
    """What a reader sends for these, in one or more requests."""
    asked = bytearray()
    for at in range(0, len(leaves), BATCH):
        part = leaves[at : at + BATCH]
        asked.append(len(part))
        for leaf in part:
            asked += WANTED.pack(leaf.digest, leaf.size)
    return bytes(asked)


def request_node(digest: bytes) -> bytes:
    """What a reader sends for a node."""
    return b"\0" + digest


class Wire:
    """A socket that does not block, with a time for everything."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(wire, select.POLLIN)
        self._writable.register(wire, select.POLLOUT)

    def receive(self, size: int, within: float, fault: str) -> bytes:
        """At least one byte. Raises EOFError at the end, TimeoutError."""
        if not self._readable.poll(within * 1000):
            raise TimeoutError(f"{fault} for {within:g} seconds")
        data = self._wire.recv(size)
        if not data:
            raise EOFError("the reader has gone")
        return data

    def send(self, data: bytes | memoryview, until: float, more: bool = False) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._wire.send(view, socket.MSG_MORE if more else 0) :]
            except BlockingIOError:
                self._wait(until)

    def send_extent(self, extent: Extent, until: float) -> None:
        if isinstance(extent.file, io.BytesIO):
            return self.send(extent.file.getbuffer()[extent.at : extent.at + extent.size], until)
        file, at, end = extent.file.fileno(), extent.at, extent.at + extent.size
        while at < end:
            try:
                sent = os.sendfile(self._wire.fileno(), file, at, end - at)
            except BlockingIOError:
                self._wait(until)
                continue
            if not sent:
                raise OSError("a block became shorter while it was sent")
            at += sent

    def _wait(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0 or not self._writable.poll(left * 1000):
            raise TimeoutError("did not read a block in time")
