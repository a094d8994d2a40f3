"""The framing of /assay/rpc/3: what two peers write to each other on one long-lived stream.

    frame = length u32 (of what follows) || kind u8 || id u64 || body

REQUEST and REPLY carry the canonical form of a message under the id that the asker chose; RECORDS carries signed peer records, as
a canonical array; GOSSIP carries one signed announcement; PING is answered by PONG with the same id. A stream carries both
directions and any number of requests at once. A frame that is too long, too short or of an unknown kind is the sender's fault and
ends the stream. Pure: bytes in, frames out.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from assay.codec import MAX_MESSAGE, Malformed

HEAD = struct.Struct(">IBQ")
_REST = HEAD.size - 4
MAX_FRAME = MAX_MESSAGE + _REST


class Kind(enum.IntEnum):
    REQUEST = 0
    REPLY = 1
    RECORDS = 2
    PING = 3
    PONG = 4
    GOSSIP = 5


class Frame(NamedTuple):
    kind: Kind
    id: int
    body: bytes


def pack(frame: Frame) -> bytes:
    """Raises ValueError when the body is over the limit."""
    if len(frame.body) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(frame.body)} bytes is over the limit of {MAX_MESSAGE}")
    return HEAD.pack(_REST + len(frame.body), frame.kind, frame.id) + frame.body


class Frames:
    """Cuts a stream of bytes into frames, holding at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with `data`. Raises Malformed after those before the fault; the stream is of no use then."""
        self._buffer += data
        return self._complete()

    def _complete(self) -> Iterator[Frame]:
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if not _REST <= length <= MAX_FRAME:
                raise Malformed(f"a frame of {length} bytes; {_REST} to {MAX_FRAME} are allowed")
            if len(self._buffer) >= 5 and self._buffer[4] not in Kind.__members__.values():
                raise Malformed(f"a frame of unknown kind {self._buffer[4]}")
            if len(self._buffer) < 4 + length:
                break
            _, kind, number = HEAD.unpack_from(self._buffer)
            frame = Frame(Kind(kind), number, bytes(self._buffer[HEAD.size : 4 + length]))
            del self._buffer[: 4 + length]
            yield frame
