"""Tensor roots on a device: SHA-256 Merkle trees over the chunks of many tensors at a time (sha256.cu), the same as assay.exact.hashing's.

One launch hashes the leaves of all tensors, one more each level of all trees; only the roots come back to the host.
"""

from __future__ import annotations

from collections.abc import Sequence

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


class Trees:
    """The chunk roots of tensors that lie C-contiguous at fixed addresses: `tensors` are (address, bytes), each at least one byte.
    `launches` hash them anew; `roots` gives what they found last. `work` (work_bytes) may be shared by trees that are not made at the same time."""

    def __init__(self, device: Device, kernels: Kernels, tensors: Sequence[tuple[int, int]], work: Buffer) -> None:
        self._device, self._count, self._work = device, len(tensors), work
        counts = [-(-size // CHUNK) for _, size in tensors]
        rows, pads = (work.address, work.address + HASH * sum(counts)), _pads()
        self._own: Buffer = device.allocate(HASH * len(tensors) + pads.nbytes)
        roots, pad = self._own.address, self._own.address + HASH * len(tensors)
        device.upload(pad, pads)
        places = [0] * len(tensors)
        tables: list[list[list[int]]] = []
        for level in range(max(map(depth, counts)) + 1):
            table: list[list[int]] = []
            first = at = 0
            for t, (address, size) in enumerate(tensors):
                n = -(-counts[t] // (1 << level))
                if level and -(-counts[t] // (1 << (level - 1))) == 1:
                    continue  # its root is there
                to = roots + HASH * t if n == 1 else rows[level % 2] + HASH * at
                table.append([first, address, size, to] if not level else [first, -(-counts[t] // (1 << (level - 1))), places[t], to])
                places[t] = to
                first, at = first + n, at + n
            tables.append(table)
        words = np.array([row for table in tables for row in table], np.uint64)
        self._table: Buffer = device.allocate(words.nbytes)
        device.upload(self._table.address, words)
        self.launches: list[Launch] = []
        done = 0
        for level, table in enumerate(tables):
            n = sum(-(-count // (1 << level)) for count in counts if not level or -(-count // (1 << (level - 1))) > 1)
            arguments: tuple[int, ...] = (n, self._table.address + 32 * done, len(table))
            if level:
                arguments += (pad + HASH * (level - 1),)
            kernel = kernels["merkle_level" if level else "merkle_leaves"]
            self.launches.append(Launch(kernel, (min(-(-n // THREADS), (1 << 31) - 1), 1, 1), (THREADS, 1, 1), arguments))
            done += len(table)

    def roots(self) -> list[Digest]:
        """In the order of the tensors."""
        words = np.empty((self._count, 8), np.uint32)
        self._device.download(self._own.address, words)
        return [Digest(row.astype(">u4").tobytes()) for row in words]
