"""Tensor roots on a device: SHA-256 Merkle trees over the chunks of many tensors at a time (sha256.cu), the same as assay.exact.hashing's.

One launch hashes the leaves of all tensors, one more each level of all trees; only the roots come back to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from assay.exact.cuda.device import Buffer, Device, Launch
from assay.exact.cuda.maps import Kernels
from assay.exact.hashing import CHUNK
from assay.ids import Digest
from assay.merkle import PAD, depth, node

THREADS = 128
HASH = 32
_MAX_LEVELS = 54
"""Of a tree over 2^64 bytes."""


def _pads() -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    """What stands past the last place of each level, as the kernels hold hashes: u32 words of native order."""
    out, pad = [], PAD
    for _ in range(_MAX_LEVELS):
        out.append(np.frombuffer(pad, ">u4"))
        pad = node(pad, pad)
    return np.array(out).astype(np.uint32)


def work_bytes(sizes: Sequence[int]) -> int:
    """Memory for the hashes of two neighbouring levels of trees over tensors of so many bytes."""
    counts = [-(-size // CHUNK) for size in sizes]
    return HASH * sum(n + (n + 1) // 2 for n in counts)


class Piece(NamedTuple):
    """Some of a tensor's chunks, whose leaves are hashed: `size` bytes at `address`, the tensor's chunks from number `first` on; their hashes go
    to `to`."""

    address: int
    size: int
    to: int
    first: int


def pads_on(device: Device) -> Buffer:
    """What stands past the last place of each level, for `Trees` that share it."""
    pads = _pads()
    buffer = device.allocate(pads.nbytes)
    device.upload(buffer.address, pads)
    return buffer


class Trees:
    """The chunk roots of tensors that lie C-contiguous at fixed addresses: `tensors` are (address, bytes), each at least one byte. Of those `grown`
    the hashes of the leaves are there: (address of these, bytes), each more than one chunk. `pieces` are hashed without their trees.
    `launches` hash them anew; `roots` gives what they found last, of `tensors`, then of those `grown`. `work` (work_bytes of all of these) may be
    shared by trees that are not made at the same time, and so may `pads`."""

    def __init__(
        self, device: Device, kernels: Kernels, tensors: Sequence[tuple[int, int]], work: Buffer, grown: Sequence[tuple[int, int]] = (),
        pieces: Sequence[Piece] = (), pads: Buffer | None = None,
    ) -> None:  # fmt: skip
        self._device, self._count, self._work = device, len(tensors) + len(grown), work
        counts = [-(-size // CHUNK) for _, size in (*tensors, *grown)]
        rows = (work.address, work.address + HASH * sum(counts))
        self._pads = pads or pads_on(device)
        self._own: Buffer = device.allocate(max(1, HASH * self._count))
        roots = self._own.address
        places = [0] * len(tensors) + [address for address, _ in grown]
        self.launches: list[Launch] = []
        tables: list[list[list[int]]] = []
        sizes: list[int] = []
        leaves: list[list[int]] = []
        at = 0
        for t, (address, size) in enumerate(tensors):
            places[t] = roots + HASH * t if counts[t] == 1 else rows[0] + HASH * at
            leaves.append([at, address, size, places[t], 0])
            at += counts[t]
        for piece in pieces:
            leaves.append([at, piece.address, piece.size, piece.to, piece.first])
            at += -(-piece.size // CHUNK)
        tables.append(leaves)
        sizes.append(at)
        for level in range(1, max(map(depth, counts), default=0) + 1):
            table: list[list[int]] = []
            at = 0
            for t, count in enumerate(counts):
                below, n = -(-count // (1 << (level - 1))), -(-count // (1 << level))
                if below == 1:
                    continue  # its root is there
                to = roots + HASH * t if n == 1 else rows[level % 2] + HASH * at
                table.append([at, below, places[t], to])
                places[t] = to
                at += n
            tables.append(table)
            sizes.append(at)
        words = np.array([word for table in tables for row in table for word in row], np.uint64)
        self._table: Buffer = device.allocate(max(1, words.nbytes))
        device.upload(self._table.address, words)
        done = self._table.address
        for level, (table, n) in enumerate(zip(tables, sizes, strict=True)):
            if table:
                arguments: tuple[int, ...] = (n, done, len(table))
                if level:
                    arguments += (self._pads.address + HASH * (level - 1),)
                kernel = kernels["merkle_level" if level else "merkle_leaves"]
                self.launches.append(Launch(kernel, (min(-(-n // THREADS), (1 << 31) - 1), 1, 1), (THREADS, 1, 1), arguments))
                done += 8 * len(table) * len(table[0])

    def roots(self) -> list[Digest]:
        """In the order of the tensors, then of those grown."""
        words = np.empty((self._count, 8), np.uint32)
        if self._count:
            self._device.download(self._own.address, words)
        return [Digest(row.astype(">u4").tobytes()) for row in words]
