"""Tensor roots (docs/protocol.md) of tensors whose bytes several ranks have, without bringing them together: each rank hashes the chunks that it has
whole and the nodes above them, and gives the nodes whose parents it cannot make, and the bytes of a chunk that it shares with its neighbours.

What a rank gives of one tensor: those nodes, 32 bytes each, from the leaves up (`Stretch.peaks`), then those bytes (`Stretch.edges`). Of
a tensor that it has as a whole that is the root of its chunks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay import merkle
from assay.exact.cuda.device import Buffer, Device, Launch
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.trees import HASH, THREADS
from assay.exact.hashing import CHUNK, headed_as
from assay.exact.native.build import library
from assay.exact.ranks.places import Place
from assay.exact.table import TensorType
from assay.ids import Digest

Array = NDArray[Any]


class Peak(NamedTuple):
    """A node of a tree: of `level` 0 are leaves."""

    level: int
    at: int


class Stretch(NamedTuple):
    """Bytes `start` to `stop` of a tensor of `whole` bytes."""

    start: int
    stop: int
    whole: int

    @property
    def leaves(self) -> int:
        """Chunks of the tensor."""
        return -(-self.whole // CHUNK)

    @property
    def chunks(self) -> tuple[int, int]:
        """The first of those that are here as a whole, and the one behind the last."""
        first = -(-self.start // CHUNK)
        last = self.leaves if self.stop == self.whole else self.stop // CHUNK
        return first, max(first, last)

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Bytes of other chunks: from where to where."""
        first, last = self.chunks
        if first == last:
            return [(self.start, self.stop)]
        found = [(self.start, first * CHUNK), (last * CHUNK, self.stop)]
        return [(start, stop) for start, stop in found if start < stop]

    @property
    def levels(self) -> list[tuple[int, int, int]]:
        """Of each level the first node that is made here, the one behind the last, and all of the tree's."""
        (first, last), count, found = self.chunks, self.leaves, []
        while first < last:
            found.append((first, last, count))
            inside = (first + 1) // 2, (last + (last == count)) // 2
            first, last, count = (*inside, (count + 1) // 2) if count > 1 else (0, 0, 0)
        return found

    @property
    def peaks(self) -> list[Peak]:
        """The nodes that no node made here is above."""
        found, levels = [], self.levels
        for level in range(len(levels)):
            first, low, high, last = lone(levels, level)
            found += [Peak(level, at) for at in (*range(first, low), *range(high, last))]
        return found

    @property
    def size(self) -> int:
        """Bytes that are given of it."""
        return HASH * len(self.peaks) + sum(stop - start for start, stop in self.edges)


def lone(levels: Sequence[tuple[int, int, int]], level: int) -> tuple[int, int, int, int]:
    """Of a level's nodes the first, the first and the one behind the last that a node made here is above, and the one behind all."""
    first, last, _ = levels[level]
    above = levels[level + 1] if level + 1 < len(levels) else (last, last, 0)
    return first, min(2 * above[0], last), min(2 * above[1], last), last


def stretch(t: TensorType, place: Place, rank: int) -> Stretch:
    """Where a rank's piece lies among the bytes of a whole tensor."""
    if place is None:
        return Stretch(0, t.bytes, t.bytes)
    assert not place.axis, "state and accumulator are cut along their first axis"
    row = t.bytes // t.shape[0]
    return Stretch(place.cuts[rank] * row, place.cuts[rank + 1] * row, t.bytes)


def joined(t: TensorType, given: Sequence[tuple[Stretch, bytes]]) -> Digest:
    """The tensor root, of what the ranks that have its bytes gave, in their order."""
    nodes: dict[Peak, bytes] = {}
    shared: dict[int, bytes] = {}
    for stretched, data in given:
        peaks = stretched.peaks
        nodes |= {peak: data[HASH * at : HASH * (at + 1)] for at, peak in enumerate(peaks)}
        at = HASH * len(peaks)
        for start, stop in stretched.edges:
            while start < stop:  # what a chunk has of it
                size = min(stop, (start // CHUNK + 1) * CHUNK) - start
                shared[start // CHUNK] = shared.get(start // CHUNK, b"") + data[at : at + size]
                start, at = start + size, at + size
    nodes |= {Peak(0, chunk): merkle.leaf(chunk, data.ljust(CHUNK, b"\0")) for chunk, data in shared.items()}
    count, pad = -(-t.bytes // CHUNK), bytes(merkle.PAD)
    for level in range(merkle.depth(count)):
        for at in sorted({peak.at // 2 for peak in nodes if peak.level == level}):
            left, right = nodes[Peak(level, 2 * at)], nodes[Peak(level, 2 * at + 1)] if 2 * at + 1 < count else pad
            nodes[Peak(level + 1, at)] = merkle.node(left, right)
        count, pad = (count + 1) // 2, merkle.node(pad, pad)
    return headed_as(t.dtype, t.shape, nodes[Peak(merkle.depth(-(-t.bytes // CHUNK)), 0)])


def by_host(piece: Array, own: Stretch, threads: int = 1) -> bytes:
    """What a rank gives of a piece that is an array."""
    raw = np.asarray(piece, order="C").reshape(-1).view(np.uint8)
    first, last = own.chunks
    whole = raw[first * CHUNK - own.start : min(last * CHUNK, own.stop) - own.start] if first < last else raw[:0]
    row, native = np.empty(HASH * (last - first), np.uint8), library()
    if native is not None and first < last:
        native.chunk_leaves(whole, first, row, threads)
    elif first < last:
        chunks = [whole[at : at + CHUNK].tobytes().ljust(CHUNK, b"\0") for at in range(0, len(whole), CHUNK)]
        row[:] = np.frombuffer(b"".join(merkle.leaf(first + at, chunk) for at, chunk in enumerate(chunks)), np.uint8)
    nodes = []
    for level, at in own.peaks:
        start, stop = (at << level) - first, min(at + 1 << level, own.leaves) - first
        nodes.append(_node(row[HASH * start : HASH * stop], level))
    return b"".join([*nodes, *(raw[a - own.start : b - own.start].tobytes() for a, b in own.edges)])


def _node(leaves: NDArray[np.uint8], level: int) -> bytes:
    """The node of a level above leaves, of which some may lack at the end of the tree."""
    count, native = len(leaves) // HASH, library()
    if native is not None:
        found = bytes(native.row_root(np.concatenate([leaves, np.empty(HASH, np.uint8)])))
    else:
        found = merkle.root([Digest(leaves[at : at + HASH].tobytes()) for at in range(0, len(leaves), HASH)])
    pad: bytes = merkle.PAD
    for above in range(level):
        found = merkle.node(found, pad) if above >= merkle.depth(count) else found
        pad = merkle.node(pad, pad)
    return bytes(found)


def _widths(levels: Sequence[Sequence[tuple[int, int, int]]]) -> list[int]:
    """Nodes of the two lowest levels."""
    return [sum(each[level][1] - each[level][0] for each in levels if level < len(each)) for level in (0, 1)]


def room_for(pieces: Sequence[Stretch]) -> int:
    """Bytes of a device's memory in which they are hashed."""
    return HASH * sum(_widths([own.levels for own in pieces]))


class OnDevice:
    """The same of pieces that lie on a device: (address, stretch) each. `works` hash them anew; `data` is what these found last, piece by piece.
    `room` (of `room_for` bytes) may be shared by those that are not hashed at the same time, and so may `pads`."""

    def __init__(self, device: Device, kernels: Kernels, pieces: Sequence[tuple[int, Stretch]], room: Buffer, pads: Buffer) -> None:
        self._device, self._pieces, self._room, self._pads = device, list(pieces), room, pads
        self._nodes = list(accumulate((len(own.peaks) for _, own in pieces), initial=0))
        self._bytes = list(accumulate((own.size - HASH * len(own.peaks) for _, own in pieces), initial=HASH * self._nodes[-1]))
        """Where each piece's nodes and bytes begin: all nodes lie in front of all bytes."""
        self._out: Buffer = device.allocate(max(1, self._bytes[-1]))
        levels = [own.levels for _, own in pieces]
        tables, sizes = self._tables(levels, (room.address, room.address + HASH * _widths(levels)[0]))
        words = np.array([word for table in tables for row in table for word in row], np.uint64)
        self._table: Buffer = device.allocate(max(1, words.nbytes))
        device.upload(self._table.address, words)
        self.works: list[Callable[[], object]] = []
        done = self._table.address
        for level, (table, n) in enumerate(zip(tables, sizes, strict=True)):
            arguments = (n, done, len(table), *((self._pads.address + HASH * (level - 1),) if level else ()))
            kernel = kernels["merkle_level" if level else "merkle_leaves"]
            self.works.append(partial(device.launch, Launch(kernel, (min(-(-n // THREADS), (1 << 31) - 1), 1, 1), (THREADS, 1, 1), arguments)))
            done += 8 * len(table) * len(table[0])
        for at, (address, own) in enumerate(pieces):
            to = self._out.address + self._bytes[at]
            for start, stop in own.edges:
                self.works.append(partial(device.copy, to, address + start - own.start, stop - start))
                to += stop - start

    def _tables(self, levels: Sequence[Sequence[tuple[int, int, int]]], rows: tuple[int, int]) -> tuple[list[list[list[int]]], list[int]]:
        """Of each level the rows that sha256.cu reads, and how many nodes it makes. Nodes under others go to one of two rows in turn, peaks to
        their places in what is given."""
        tables: list[list[list[int]]] = []
        sizes: list[int] = []
        peaks = [self._out.address + HASH * first for first in self._nodes[:-1]]
        below = [(0, 0)] * len(levels)
        """Of each piece's nodes a level down that are under others: address, how many."""
        for level in range(max(map(len, levels), default=0)):
            table: list[list[int]] = []
            n = wide = 0
            for t, own in enumerate(levels):
                if level >= len(own):
                    continue
                first, low, high, last = lone(own, level)
                inner = rows[level % 2] + HASH * wide
                for start, stop, to in ((first, low, peaks[t]), (low, high, inner), (high, last, peaks[t] + HASH * (low - first))):
                    if start == stop:
                        continue
                    if level:
                        address, count = below[t]
                        begun = 2 * (start - first)
                        table.append([n, min(2 * (stop - first), count) - begun, address + HASH * begun, to])
                    else:
                        place, piece = self._pieces[t]
                        table.append([n, place + start * CHUNK - piece.start, min(stop * CHUNK, piece.stop) - start * CHUNK, to, start])
                    n += stop - start
                peaks[t] += HASH * (last - high + low - first)
                below[t] = inner, high - low
                wide += high - low
            tables.append(table)
            sizes.append(n)
        return tables, sizes

    def data(self) -> bytes:
        raw = np.empty(self._bytes[-1], np.uint8)
        if len(raw):
            self._device.download(self._out.address, raw)
        nodes = raw[: HASH * self._nodes[-1]].view(np.uint32).astype(">u4").tobytes()
        out = []
        for at in range(len(self._pieces)):
            out.append(nodes[HASH * self._nodes[at] : HASH * self._nodes[at + 1]])
            out.append(raw[self._bytes[at] : self._bytes[at + 1]].tobytes())
        return b"".join(out)
