"""What the devices of several ranks do together: maxima and sums over all ranks, and gathering, all of it in the memory of the devices.

A sum is made by parts: rank r adds up part r of all ranks (reduce-scatter), then every rank takes each part from whoever added it (all-gather). So
of n ranks each sends and receives 2 (n - 1) / n times the operand, and none can do with less (Patarasuk and Yuan, "Bandwidth optimal
all-reduce algorithms for clusters of workstations", JPDC 69, 2009). Parts go from device to device where the driver opens a rank's memory to all
others (`Peers`), else through page-locked memory of the host and the hub, which hands them on as they are (`Staged`). Devices add in both cases.

A flipped bit on the way is found by digests (cuda/exchange.cu): after each exchange all ranks tell the digest of what they have, which must be one
and the same, and that of what they gave. All see the same digests, so all repeat an exchange that failed; one that fails again ends the
link (assay.exact.faults). Maxima have no sum to compare with: each rank makes all of them itself, from everybody's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np

from assay.exact import faults
from assay.exact.cuda.device import Buffer, Device, DeviceError, Launch, Shared
from assay.exact.cuda.maps import Kernels
from assay.exact.ranks.exchanges import Comm

WINDOW = 32 << 20
"""Bytes of an operand that are exchanged at a time."""
THREADS, BLOCKS = 256, 2048
_DIGESTS = struct.Struct("<QQ")
MODULUS = 1 << 64
EXCHANGE = "an exchange between ranks"


class Moves(Protocol):
    """How bytes come from one rank's device to another's. `ends` are the byte offsets of n parts, from 0 on: part q from ends[q] to ends[q + 1]."""

    def deal(self, at: int, ends: Sequence[int], each: Callable[[int], None]) -> None:
        """This rank's part of what lies at `at` on each other rank, one after the other: `each` is told where it is until it returns."""
        ...

    def spread(self, at: int, ends: Sequence[int]) -> None:
        """Part q from rank q, for all of them. All ranks must meet before they exchange anything again."""
        ...


class Peers:
    """Ranks read what others lay out in `window`: `others[q]` is rank q's as this device sees it, None its own."""

    def __init__(self, device: Device, comm: Comm, window: Buffer, others: Sequence[Buffer | None], landing: Buffer) -> None:
        self._device, self._comm, self._window, self._landing = device, comm, window, landing
        self._others = list(others)

    def _turn(self) -> list[tuple[int, Buffer]]:
        """The others, from the next one on: at no time do all read from the same."""
        order = [(self._comm.rank + by) % self._comm.size for by in range(1, self._comm.size)]
        return [(q, buffer) for q in order if (buffer := self._others[q]) is not None]

    def _shown(self) -> None:
        self._device.wait()
        self._comm.gather(np.zeros(1, np.uint8))

    def deal(self, at: int, ends: Sequence[int], each: Callable[[int], None]) -> None:
        start, size = ends[self._comm.rank], ends[self._comm.rank + 1] - ends[self._comm.rank]
        self._device.copy(self._window.address, at, ends[-1])
        self._shown()
        for _, other in self._turn():
            if size:
                self._device.copy(self._landing.address, other.address + start, size)
                each(self._landing.address)
        self._device.wait()

    def spread(self, at: int, ends: Sequence[int]) -> None:
        start, size = ends[self._comm.rank], ends[self._comm.rank + 1] - ends[self._comm.rank]
        if size:  # nobody else reads this part before the meeting
            self._device.copy(self._window.address + start, at + start, size)
        self._shown()
        for q, other in self._turn():
            if ends[q + 1] > ends[q]:
                self._device.copy(at + ends[q], other.address + ends[q], ends[q + 1] - ends[q])
        self._device.wait()


class Staged:
    """By way of the host, in page-locked memory of `size` bytes."""

    def __init__(self, device: Device, comm: Comm, landing: Buffer, size: int) -> None:
        self._device, self._comm, self._landing = device, comm, landing
        self._pinned = device.pinned(size)

    def deal(self, at: int, ends: Sequence[int], each: Callable[[int], None]) -> None:
        own = self._pinned[: ends[-1]]
        self._device.download(at, own)
        got = self._comm.deal([own[ends[q] : ends[q + 1] if q != self._comm.rank else ends[q]] for q in range(self._comm.size)])
        for q, piece in enumerate(got):
            if q != self._comm.rank and len(piece):
                self._up(self._landing.address, piece)
                each(self._landing.address)

    def spread(self, at: int, ends: Sequence[int]) -> None:
        rank = self._comm.rank
        own = self._pinned[: ends[rank + 1] - ends[rank]]
        if len(own):
            self._device.download(at + ends[rank], own)
        for q, piece in enumerate(self._comm.gather(own)):
            if q != rank and len(piece):
                self._up(at + ends[q], piece)

    def _up(self, to: int, piece: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        staged = self._pinned[: len(piece)]
        staged[:] = piece
        self._device.upload(to, staged)


class Between:
    """A device's part in what all ranks exchange, in windows of about `window` bytes. Raises MemoryError."""

    def __init__(self, device: Device, kernels: Kernels, comm: Comm, window: int = WINDOW) -> None:
        self._device, self._kernels, self._comm = device, kernels, comm
        each = 8 * comm.size
        self._size = max(each, min(window, WINDOW) // each * each)
        self._window: Shared = device.share(self._size)
        self._kept, self._landing = device.allocate(self._size), device.allocate(self._size // comm.size + 8)
        self._digest = device.allocate(16)
        self._moves: Moves | None = None

    def maximum(self, at: int, count: int) -> None:
        """Of u32 words at an address, element by element over all ranks, in their place. All call this with the same count."""
        most = self._size // (4 * self._comm.size)
        for first in range(0, count, most):
            self._maximum(at + 4 * first, min(most, count - first))

    def total(self, at: int, count: int) -> None:
        """The same of u64 words, their sum modulo 2^64."""
        most = self._size // 8
        for first in range(0, count, most):
            self._total(at + 8 * first, min(most, count - first))

    def gather(self, of: int, into: int, sizes: Sequence[int]) -> None:
        """Pieces of `sizes` bytes, this rank's at `of`, side by side in the order of ranks at `into`."""
        most = self._size // self._comm.size
        starts = list(accumulate(sizes, initial=0))
        for first in range(0, max(sizes), most):
            parts = [max(0, min(most, size - first)) for size in sizes]
            self._gather(of + first, parts)
            at = self._kept.address
            for start, part in zip(starts, parts, strict=False):
                if part:
                    self._device.copy(into + start + first, at, part)
                at += part

    def _maximum(self, at: int, n: int) -> None:
        ends = [4 * n * q for q in range(self._comm.size + 1)]
        own = self._kept.address + ends[self._comm.rank]
        self._device.copy(own, at, 4 * n)

        def exchanged() -> tuple[int, int]:
            self._device.copy(at, own, 4 * n)
            self._moving().spread(self._kept.address, ends)
            for q in range(self._comm.size):
                if q != self._comm.rank:
                    self._launch("take_tops", n, at, self._kept.address + ends[q])
            return self._digested(4, at, n), 0

        self._checked(exchanged, False)

    def _total(self, at: int, n: int) -> None:
        ends = [8 * (n * q // self._comm.size) for q in range(self._comm.size + 1)]
        start, size = ends[self._comm.rank], ends[self._comm.rank + 1] - ends[self._comm.rank]
        given = self._digested(8, at, n)
        self._device.copy(self._kept.address, at, 8 * n)

        def exchanged() -> tuple[int, int]:
            if size:
                self._device.copy(at + start, self._kept.address + start, size)
            self._moving().deal(self._kept.address, ends, lambda other: self._launch("take_sums", size // 8, at + start, other))
            self._moving().spread(at, ends)
            return self._digested(8, at, n), given

        self._checked(exchanged, True)

    def _gather(self, of: int, parts: Sequence[int]) -> None:
        ends = list(accumulate(parts, initial=0))
        at, size = self._kept.address, parts[self._comm.rank]
        given = self._digested(1, of, size, ends[self._comm.rank])

        def exchanged() -> tuple[int, int]:
            if size:
                self._device.copy(at + ends[self._comm.rank], of, size)
            self._moving().spread(at, ends)
            return self._digested(1, at, ends[-1]), given

        self._checked(exchanged, True)

    def _checked(self, work: Callable[[], tuple[int, int]], adds_up: bool) -> None:
        """`work` gives the digests of what this rank has afterwards and of what it gave. Raises HardwareFault."""
        for _ in range(2):
            everyones = [_DIGESTS.unpack(told.tobytes()) for told in self._comm.gather(np.frombuffer(_DIGESTS.pack(*work()), np.uint8))]
            found = {after for after, _ in everyones}
            if len(found) == 1 and (not adds_up or found == {sum(given for _, given in everyones) % MODULUS}):
                return
            faults.seen(1, EXCHANGE)
        raise faults.HardwareFault(EXCHANGE)

    def _digested(self, item: int, at: int, n: int, first: int = 0) -> int:
        if not n:
            return 0
        self._launch("fill_4", 4, self._digest.address, 0)
        self._launch(f"digest_{item}", n, self._digest.address, at, first)
        found = np.empty(1, np.uint64)
        self._device.download(self._digest.address, found)
        return int(found[0])

    def _launch(self, kernel: str, n: int, *arguments: int) -> None:
        if n:
            grid = (max(1, min(BLOCKS, -(-n // THREADS))), 1, 1)
            self._device.launch(Launch(self._kernels[kernel], grid, (THREADS, 1, 1), (n, *arguments)))

    def _moving(self) -> Moves:
        """How bytes go, found out when they first do: from device to device where every rank can open the memory of all others."""
        if self._moves is None:
            handles = self._comm.gather(np.frombuffer(self._window.handle, np.uint8))
            others: list[Buffer | None] = []
            try:
                for q, handle in enumerate(handles):
                    others.append(None if q == self._comm.rank else self._device.peer(handle.tobytes(), self._size))
                opened = True
            except DeviceError:
                opened = False
            all_have = all(told[0] for told in self._comm.gather(np.array([opened], np.uint8)))
            if all_have:
                self._moves = Peers(self._device, self._comm, self._window, others, self._landing)
            else:
                self._moves = Staged(self._device, self._comm, self._landing, self._size)
        return self._moves

    @property
    def route(self) -> str:
        """`peers`, `staged`, or nothing before the first exchange."""
        return type(self._moves).__name__.lower() if self._moves else ""
