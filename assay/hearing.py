"""The chunk that a provider is asked for when the last round has passed without receipts: which one it is, and what shows it.

A number that a block hash gives (assay.draw.chunk) is taken apart, each part modulo how many there are: which drawn link, which of the ends
that it names (assay.links), which entry of that state or accumulator, which chunk of its tensor. So every number names one chunk, and how
many entries and chunks there are follows from what is shown, which the committed end binds. docs/protocol.md, "A chunk that is asked for".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from assay import links, merkle
from assay.codec import Message
from assay.ids import Digest

CHUNK = 1024
MOST_ELEMENTS = 1 << 60
WIDTHS = {1: 4, 2: 4, 3: 8, 4: 1, 5: 1}
"""Bytes of an element by its type's code: f32, i32, i64, u8, bool."""


class ChunkProof(Message, frozen=True, kw_only=True):
    """A chunk, with all that leads from it to the link root. Paths run from the leaf up."""

    end_path: tuple[Digest, ...]
    """From the link's end, whose root follows from `count` and `entries`."""
    count: int
    entries: Digest
    name: bytes = b""
    kind: bytes = b""
    """Type of the entry's tensor: dtype u8, ndim u8, dims u64 each."""
    chunks: Digest = Digest(bytes(32))
    """Root over its chunks."""
    entry_path: tuple[Digest, ...] = ()
    chunk: bytes = b""
    """1,024 bytes; none of a tensor without elements."""
    chunk_path: tuple[Digest, ...] = ()


class NotTheChunk(ValueError):
    """What is shown is not what was asked for."""


class Named(NamedTuple):
    """Chunk `chunk` of entry `entry` of link end `place`."""

    place: int
    entry: int
    chunk: int


def end_named(number: int, units: Sequence[int], micro_batches: int) -> tuple[int, int]:
    """(index of the link end, what is left of the number)."""
    number, position = divmod(number, len(units))
    ends = links.named_ends(units[position], micro_batches)
    number, which = divmod(number, len(ends))
    return ends[which], number


def entry_named(number: int, count: int) -> tuple[int, int]:
    """(entry, what is left of the number), of `count` entries, at least one."""
    number, entry = divmod(number, count)
    return entry, number


def chunks_of(kind: bytes) -> int:
    """Chunks of a tensor of a type. Raises NotTheChunk for what is no type."""
    if len(kind) < 2 or len(kind) != 2 + 8 * kind[1] or kind[0] not in WIDTHS:
        raise NotTheChunk("the tensor's type")
    elements = 1
    for size in struct.unpack(f">{kind[1]}Q", kind[2:]):
        elements *= size
        if elements > MOST_ELEMENTS:
            raise NotTheChunk("the tensor's type")
    return -(-elements * WIDTHS[kind[0]] // CHUNK)


def tensor_root(kind: bytes, chunks: bytes) -> Digest:
    return merkle.sha256(b"\x10", kind, chunks)


def entry_item(name: bytes, root: bytes) -> bytes:
    return struct.pack(">H", len(name)) + name + root


def end_root(place: int, start: int, micro_batches: int, count: int, entries: bytes) -> Digest:
    """Root of link end `place` of a segment that begins at step `start`: of a state after an update, else of an accumulator."""
    offset, m = links.place(place, micro_batches)
    if m == micro_batches:
        return merkle.sha256(struct.pack(">BQI", 0x11, start + offset + 1, count), entries)
    return merkle.sha256(struct.pack(">BQII", 0x12, start + offset, m + 1, count), entries)


def prove(number: int, units: Sequence[int], start: int, stop: int, micro_batches: int, link_root: bytes, proof: ChunkProof) -> Named:
    """What `proof` shows of a segment of steps [start, stop), which must be what `number` names. Raises NotTheChunk."""
    place, number = end_named(number, units, micro_batches)
    root, total = end_root(place, start, micro_batches, proof.count, proof.entries), links.count(stop - start, micro_batches)
    if not merkle.verify(link_root, total, place, merkle.leaf(place, root), proof.end_path):
        raise NotTheChunk("the link's end")
    if not proof.count:
        if proof.entries != merkle.EMPTY:
            raise NotTheChunk("the entries")
        return Named(place, 0, 0)
    entry, number = entry_named(number, proof.count)
    count = chunks_of(proof.kind)
    item = entry_item(proof.name, tensor_root(proof.kind, proof.chunks))
    if not merkle.verify(proof.entries, proof.count, entry, merkle.leaf(entry, item), proof.entry_path):
        raise NotTheChunk("the entry")
    if not count:
        if proof.chunks != merkle.EMPTY or proof.chunk:
            raise NotTheChunk("the chunk")
        return Named(place, entry, 0)
    chunk = number % count
    if len(proof.chunk) != CHUNK or not merkle.verify(proof.chunks, count, chunk, merkle.leaf(chunk, proof.chunk), proof.chunk_path):
        raise NotTheChunk("the chunk")
    return Named(place, entry, chunk)
