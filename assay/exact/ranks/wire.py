"""The communicator over a stream socket, and its other end, the hub: whoever started the ranks.

A rank sends a frame (kind u8, bytes u64, little-endian) with its array and waits for the answer; the hub waits for all ranks, combines and
answers all of them. So every exchange is a meeting of all ranks, in the order that all of them have written in their stages. A rank that
dies, breaks the protocol or is silent for longer than the socket's timeout is lost, and with it the link that was run.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.ranks.exchanges import RankLost

Array = NDArray[Any]
MAXIMUM, TOTAL, GATHER, DEAL, DONE, RUN, FAULT, SETUP = range(8)
_HEAD = struct.Struct("<BQ")
MAX_FRAME, MAX_REASON = 1 << 36, 1 << 16


def send(sock: socket.socket, kind: int, data: bytes | memoryview | Array) -> None:
    """Raises RankLost."""
    view = np.asarray(data, order="C").reshape(-1).view(np.uint8).data if isinstance(data, np.ndarray) else memoryview(data)
    try:
        sock.sendall(_HEAD.pack(kind, view.nbytes))
        sock.sendall(view)
    except OSError as error:
        raise RankLost(f"a rank does not read: {error}") from None


def receive(sock: socket.socket, limit: int = MAX_FRAME) -> tuple[int, NDArray[np.uint8]]:
    """(kind, data). Raises RankLost."""
    kind, size = _HEAD.unpack(_exactly(sock, _HEAD.size).tobytes())
    if size > limit:
        raise RankLost(f"a frame of {size} bytes is over {limit}")
    return kind, _exactly(sock, size)


def _exactly(sock: socket.socket, size: int) -> NDArray[np.uint8]:
    data = np.empty(size, np.uint8)
    view, at = data.data, 0
    while at < size:
        try:
            got = sock.recv_into(view[at:])
        except OSError as error:
            raise RankLost(f"a rank does not answer: {error}") from None
        if not got:
            raise RankLost("a rank is gone")
        at += got
    return data


class SocketComm:
    """A rank's end."""

    def __init__(self, sock: socket.socket, rank: int, size: int) -> None:
        self.sock, self.rank, self.size = sock, rank, size

    def _meet(self, kind: int, values: Array) -> NDArray[np.uint8]:
        send(self.sock, kind, values)
        answer, data = receive(self.sock)
        if answer != kind:
            raise RankLost(f"the hub answers {answer} to {kind}")
        return data

    def maximum(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        return self._meet(MAXIMUM, values).view("<i4").reshape(values.shape)

    def total(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._meet(TOTAL, values).view("<i8").reshape(values.shape)

    def gather(self, piece: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        return _pieces(self._meet(GATHER, piece), self.size)

    def deal(self, pieces: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        return _pieces(self._meet(DEAL, _together(pieces)), self.size)


def _together(pieces: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Their sizes (u64 each), then all of them."""
    return np.concatenate([np.array([len(piece) for piece in pieces], "<u8").view(np.uint8), *pieces])


def _pieces(data: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """Raises RankLost where they are not `count` pieces."""
    sizes = data[: 8 * count].view("<u8").tolist() if len(data) >= 8 * count else []
    if len(sizes) != count or 8 * count + sum(sizes) != len(data):
        raise RankLost("the ranks do not do the same")
    out, at = [], 8 * count
    for size in sizes:
        out.append(data[at : at + size])
        at += size
    return out


def last_words(socks: Sequence[socket.socket]) -> str | None:
    """Why a rank gave up, where one has said so and nobody has read it: whoever writes to a rank that has ended finds out before it reads."""
    for rank, sock in enumerate(socks):
        try:
            while select.select([sock], [], [], 0)[0]:
                kind, data = receive(sock, MAX_REASON)
                if kind == FAULT:
                    return f"rank {rank}: {data.tobytes().decode(errors='replace')}"
        except (RankLost, OSError, ValueError):  # nothing more of this one
            continue
    return None


def attend(socks: Sequence[socket.socket]) -> None:
    """The hub's side of all meetings until every rank says that it is done. Raises RankLost, with the rank's reason where it gave one."""
    while True:
        frames = []
        for rank, sock in enumerate(socks):
            kind, data = receive(sock)
            if kind == FAULT:
                raise RankLost(f"rank {rank}: {data.tobytes().decode(errors='replace')}")
            frames.append((kind, data))
        kind = frames[0][0]
        if any(other != kind for other, _ in frames) or (kind in (MAXIMUM, TOTAL) and len({len(data) for _, data in frames}) != 1):
            raise RankLost("the ranks do not do the same")
        answer: Array
        match kind:
            case _ if kind == DONE:
                return
            case _ if kind == MAXIMUM:
                answer = np.maximum.reduce([data.view("<i4") for _, data in frames])
            case _ if kind == TOTAL:
                answer = np.add.reduce([data.view("<i8") for _, data in frames])
            case _ if kind == GATHER:
                answer = _together([data for _, data in frames])
            case _ if kind == DEAL:
                dealt = [_pieces(data, len(socks)) for _, data in frames]
                for rank, sock in enumerate(socks):
                    send(sock, kind, _together([pieces[rank] for pieces in dealt]))
                continue
            case _:
                raise RankLost(f"a rank sends a frame of kind {kind}")
        for sock in socks:
            send(sock, kind, answer)
