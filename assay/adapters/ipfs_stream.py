"""Streams of blocks: what a gateway speaks with other nodes of ours where speed matters, on the gateway's own port.

A reader asks `GET /assay/blocks` with `Upgrade: assay-blocks/1`; the gateway answers 101, and the connection is the stream's from there:

    reader to gateway    binary CIDs of 36 bytes each, one after another, as many ahead of the answers as the reader likes
    gateway to reader    for each, in this order: length u32, big-endian, and the block; LACKS instead of a length when it is not here

Neither authenticates nor encrypts: every block is checked against the CID that the reader asked for, and whatever is secret is sealed
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
from typing import BinaryIO, Protocol

from assay import cid as cids
from assay.ids import Cid

log = logging.getLogger("assay.blobs")

UPGRADE = "assay-blocks/1"
PATH = "/assay/blocks"
LENGTH = struct.Struct(">I")
LACKS = 0xFFFFFFFF
CID_SIZE = 36
MAX_STREAMS, STREAMS_PER_HOST = 64, 16
IDLE = 20.0
"""Seconds that a stream may wait for the next request."""
REQUEST_WITHIN = 5.0
"""Seconds for the rest of a request that has begun."""
AHEAD = 128
"""Requests that are read at a time; more wait in the socket."""


class Source(Protocol):
    def open(self, cid: Cid) -> BinaryIO | None: ...


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
        except (TimeoutError, cids.BadCid) as error:
            log.warning("closed a stream of %s: it %s", host, error)
        except (OSError, EOFError) as error:
            log.debug("stream of %s: %s", host, error)
        except Exception:
            log.exception("stream of %s", host)

    def _answer(self, wire: Wire) -> None:
        pending = bytearray()
        while True:
            within = REQUEST_WITHIN if pending else IDLE
            pending += wire.receive(CID_SIZE * AHEAD, within, "began a request and did not finish it" if pending else "asks for nothing")
            whole = len(pending) - len(pending) % CID_SIZE
            for at in range(0, whole, CID_SIZE):
                try:
                    cid = cids.from_bytes(bytes(pending[at : at + CID_SIZE]))
                except cids.BadCid as error:
                    raise cids.BadCid(f"asked for what is no block: {error}") from None
                self._send(wire, cid)
            del pending[:whole]

    def _send(self, wire: Wire, cid: Cid) -> None:
        file = self._blocks.open(cid)
        if file is None:
            return wire.send(LENGTH.pack(LACKS), time.monotonic() + self._read_within)
        with file:
            size = file.seek(0, io.SEEK_END)
            if size > cids.MAX_BLOCK:
                return wire.send(LENGTH.pack(LACKS), time.monotonic() + self._read_within)
            until = time.monotonic() + self._read_within
            wire.send(LENGTH.pack(size), until, more=size > 0)
            if isinstance(file, io.BytesIO):
                wire.send(file.getbuffer(), until)
            else:
                wire.send_file(file.fileno(), size, until)


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

    def send_file(self, file: int, size: int, until: float) -> None:
        at = 0
        while at < size:
            try:
                sent = os.sendfile(self._wire.fileno(), file, at, size - at)
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
