"""What the moves of a dispute must prove: openings of tensors, entries and records. The counterpart of assay.dispute.proofs.

Everything here raises IllegalMove where the contract would revert.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from assay import merkle, stages
from assay.dispute import leaf
from assay.dispute.moves import Opening, Path, State
from assay.dispute.tree import climb
from assay.exact.types import DTYPE_CODES, ITEM_BYTES, TensorType
from assay.ids import Digest
from assay.stages import NONE, InputRecord, PartRecord

CHUNK = 1024


class IllegalMove(ValueError):
    """The contract would revert: what was sent is no move here, or does not verify."""


def demand(holds: bool, what: str) -> None:
    if not holds:
        raise IllegalMove(what)


def digest(value: bytes, what: str) -> None:
    demand(len(value) == 32, f"{what} has 32 bytes")


def under(root: bytes, count: int, index: int, item: bytes, path: Path, what: str) -> None:
    demand(0 <= index < count < 1 << 64, f"{what}: there is no leaf {index} of {count}")
    demand(merkle.verify(root, count, index, merkle.leaf(index, item), path), f"{what} is not leaf {index} of {count} under its root")


def below(node: bytes, index: int, item: bytes, path: Path, levels: int, what: str) -> None:
    """That `item` is leaf `index` below the node `levels` above it."""
    fits = len(path) == levels and all(len(p) == 32 for p in path) and climb(merkle.leaf(index, item), index, path) == node
    demand(fits, f"{what} is not leaf {index} below its node")


def tensor_root(t: TensorType, chunks: bytes) -> Digest:
    return merkle.sha256(b"\x10", stages.encode_type(t), chunks)


def entry(name: str, root: bytes) -> bytes:
    data = name.encode()
    return struct.pack(">H", len(data)) + data + root


def chunk_count(t: TensorType) -> int:
    return -(-t.bytes // CHUNK)


def element_of(t: TensorType, chunk: bytes, element: int) -> int:
    """Bits of an element from the chunk that holds it."""
    size = ITEM_BYTES[t.dtype]
    at = element * size % CHUNK
    return int.from_bytes(chunk[at : at + size], "little")


def check_chunk(t: TensorType, index: int, chunk: bytes) -> None:
    used = min(CHUNK, t.bytes - index * CHUNK)
    demand(len(chunk) == CHUNK and not any(chunk[used:]), f"chunk {index} is not {used} bytes and zeros")


def state_hash(step: int, count: int, entries: bytes) -> Digest:
    return merkle.sha256(struct.pack(">BQI", 0x11, step, count), entries)


def acc_hash(step: int, m: int, count: int, entries: bytes) -> Digest:
    return merkle.sha256(struct.pack(">BQII", 0x12, step, m, count), entries)


def batch_hash(count: int, entries: bytes) -> Digest:
    return merkle.sha256(struct.pack(">BI", 0x16, count), entries)


def frozen_hash(count: int, entries: bytes) -> Digest:
    return merkle.sha256(struct.pack(">BI", 0x18, count), entries)


def part_of(state: State, head: bytes) -> PartRecord:
    """The record of the part that the link runs."""
    demand(merkle.sha256(b"\x15", head) == state.facts.program_root, "the program's head is not that of the job")
    _, _, parts = stages.decode_head(head)
    return parts[state.is_update]


def input_of(part: PartRecord, at: int, data: bytes, path: Path) -> InputRecord:
    under(part.inputs_root, part.inputs, at, data, path, "the input's record")
    return stages.decode_input(data)


# ---- sets of tensors -------------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """Where an input's tensor stands: entry `place` of a set (`state`, `acc`, `batch`, `frozen` under `root`), or a root that is known."""

    kind: str
    place: int = 0
    root: Digest = Digest(b"")


def source_of(state: State, record: InputRecord) -> Source:
    """`zero`: an accumulator's entry before a step's first micro-batch that is no state's; `value`: a counter, given by `place`."""
    match record.kind:
        case 0:
            return Source("state", record.place)
        case 1 if state.m:
            return Source("acc", record.place)
        case 1:
            start = int.from_bytes(record.extra, "big")
            return Source("zero") if start == NONE else Source("state", start)
        case 2:
            return Source("batch", record.place)
        case 3:
            return Source("schedule", record.place, state.facts.schedule_root)
        case 4:
            return Source("value", (state.m if record.place else state.step) % (1 << 64))
        case 5:
            return Source("constant", root=Digest(record.extra))
    return Source("frozen", record.place, Digest(record.extra[4:]))


def check_entry(state: State, source: Source, item: bytes, count: int, entries: Digest, path: Path) -> None:
    """That `item` is the entry which `source` names."""
    demand(0 <= count < 1 << 32, "the count of entries is no u32")
    known = {
        "state": (state_hash(state.step, count, entries), state.state_root),
        "acc": (acc_hash(state.step, state.m, count, entries), state.acc_root),
        "batch": (batch_hash(count, entries), state.batch_root),
        "frozen": (frozen_hash(count, entries), source.root),
    }[source.kind]
    demand(known[0] == known[1], f"these are not the entries of the {source.kind}")
    under(entries, count, source.place, item, path, "the entry")


# ---- elements --------------------------------------------------------------------------------------------------------------


def read(state: State, part: PartRecord, value: int, t: TensorType, element: int, o: Opening) -> int:
    """Bits of an element of value `value` of the part."""
    if value >= part.inputs:
        place = 1 + value - part.inputs
        under(state.trace_root, state.leaves, place, tensor_root(t, o.chunks), o.path, "the operand")
        return read_chunk(t, element, o)
    record = input_of(part, value, o.input, o.input_path)
    demand(record.type == t, "the input has another type than the operand")
    source = source_of(state, record)
    match source.kind:
        case "zero":
            return 0
        case "value":
            return source.place
        case "schedule":
            columns = int.from_bytes(record.extra, "big")
            t, element = TensorType(dtype="f32", shape=(state.facts.steps, columns)), state.step * columns + source.place
            demand(tensor_root(t, o.chunks) == source.root, "the schedule is not the job's")
        case "constant":
            demand(tensor_root(t, o.chunks) == source.root, "the constant is not the program's")
        case _:
            check_entry(state, source, entry(record.name, tensor_root(t, o.chunks)), o.count, o.entries, o.path)
    return read_chunk(t, element, o)


def read_chunk(t: TensorType, element: int, o: Opening) -> int:
    index = element * ITEM_BYTES[t.dtype] // CHUNK
    demand(len(o.chunk) == CHUNK, "a chunk has 1024 bytes")
    under(o.chunks, chunk_count(t), index, o.chunk, o.chunk_path, "the operand's chunk")
    return element_of(t, o.chunk, element)


def values_of(state: State, fold: int, index: int, openings: Sequence[Opening]) -> list[int]:
    """What an item (or, with fold == folds, the output) needs, each value from its opening."""
    stage = stages.decode_stage(state.stage)
    part = part_of(state, state.head)
    values: list[int] = []
    while len(found := leaf.needs(stage, state.element, fold, index, values)) > len(values):
        demand(len(openings) > len(values), f"{len(openings)} openings are too few")
        need = found[len(values)]
        value, t = stage.operands[need.operand]
        values.append(read(state, part, value, t, need.element, openings[len(values)]))
    demand(len(openings) == len(values), f"{len(openings)} openings where {len(values)} are needed")
    return values


# ---- records ---------------------------------------------------------------------------------------------------------------


class DataHead(NamedTuple):
    """The data root's preimage, taken apart."""

    order: Digest
    batch: int
    records: int
    shards: int
    shards_root: Digest
    fields: tuple[tuple[str, int, int], ...]
    """(name, dtype code, bytes in a record)."""


def decode_data(data: bytes) -> DataHead:
    """Raises stages.Undecodable."""
    r = stages.Reader(data)
    if r.u(1) != 0x17:
        raise stages.Undecodable("no data root is the hash of this")
    order, batch, records, shards, root = Digest(r.take(32)), r.u(4), r.u(8), r.u(4), Digest(r.take(32))
    fields = tuple((r.name(), r.u(1), r.u(8)) for _ in range(r.u(2)))
    r.done()
    return DataHead(order, batch, records, shards, root, fields)


def field_of(head: DataHead, record: InputRecord) -> tuple[int, int]:
    """(first byte, bytes) of a field in a record; also that the data are of the input's form."""
    at = 0
    for name, code, size in head.fields:
        if name == record.name:
            demand(code == DTYPE_CODES[record.type.dtype][0] and size * head.batch == record.type.bytes, "the data's field has another form")
            demand(record.type.shape[0] == head.batch, "the data's batch has another size")
            return at, size
        at += size
    raise IllegalMove(f"the data have no field {record.name!r}")
