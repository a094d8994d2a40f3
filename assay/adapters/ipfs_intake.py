"""Leaves on their way from a socket into a file of the store, moved by the kernel (Linux's splice(2)).

A block that is received into memory and written from there is copied twice, and its hash then competes with both for the cache. Here it goes from
the socket through a pipe to where it will stay, is hashed there (a mapping of the file: no copy), and only then becomes a block of the store;
what was wrong is a hole again. That costs, with the hash, about what receiving and writing cost without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import mmap
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from assay import cid as cids
from assay.adapters.ipfs_packs import Room
from assay.adapters.ipfs_sources import Failed

PIPE = 1 << 20
"""Bytes of a pipe: 256 pages, as many pieces as one call can move. Linux gives an ordinary user's first 64."""


class Pipe:
    """The pipe of one thread. Empty between two uses, or of no use any more."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # a smaller one does it in more calls
            fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, PIPE)

    def close(self) -> None:
        os.close(self.out)
        os.close(self.into)


class Intake:
    """Room for `count` whole leaves. One thread's."""

    def __init__(self, room: Room, insist: Callable[[int, Callable[[], int]], int], keep: Callable[[Sequence[bytes]], object]) -> None:
        self.count, self.keep = room.count, keep
        """`keep`: takes the first leaves, checked, into the store by these digests; ipfs_packs.NOTHING for one that is not to be."""
        self._room, self._insist = room, insist

    def bring(self, wire: socket.socket, pipe: Pipe, timeout: float) -> None:
        """Moves `count` leaves from a blocking socket with a receive timeout. Raises Failed, StorageFull."""
        end = self._room.at + self.count * cids.CHUNK
        source, at, until = wire.fileno(), self._room.at, time.monotonic() + timeout
        while at < end:
            try:
                got = os.splice(source, pipe.into, end - at)
            except BlockingIOError:
                got = 0
            if not got or time.monotonic() > until:
                raise Failed("the stream ended, or stood still, in the middle of a block")
            for to in _steps(pipe, self._room.handle, at, at + got, self._insist):
                at = to

    @contextlib.contextmanager
    def view(self) -> Iterator[memoryview]:
        """The bytes of the `count` leaves, where they lie."""
        with _mapped(self._room.handle, self._room.at, self.count * cids.CHUNK) as view:
            yield view


def _steps(pipe: Pipe, handle: int, at: int, end: int, insist: Callable[[int, Callable[[], int]], int]) -> Iterator[int]:
    """Moves what is in the pipe to [at, end) of a file; where it has got to after each step."""
    while at < end:
        at += insist(cids.CHUNK, functools.partial(os.splice, pipe.out, handle, end - at, offset_dst=at))
        yield at


@contextlib.contextmanager
def _mapped(handle: int, at: int, size: int) -> Iterator[memoryview]:
    with (
        mmap.mmap(handle, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ, offset=at) as mapping,
        memoryview(mapping) as view,
    ):
        yield view


def possible(folder: Path) -> bool:
    """Whether files there take bytes from a pipe and can be mapped."""
    if sys.platform != "linux":
        return False
    probe, data = folder / f"probe-{secrets.token_hex(4)}", secrets.token_bytes(mmap.PAGESIZE)
    handle = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    pipe = Pipe()
    try:
        os.write(pipe.into, data)
        for _ in _steps(pipe, handle, 0, len(data), lambda size, write: write()):
            pass
        with _mapped(handle, 0, len(data)) as view:
            return view == data
    except OSError:
        return False
    finally:
        pipe.close()
        os.close(handle)
        probe.unlink()
