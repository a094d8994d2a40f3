"""The moves of assay.dispute.game over sets of tensors: the entries of a link's end, and those of its batch down to a record.

The end of a link is what the program's outputs name: the asserter shows one entry to be that. The batch is made of records: it opens the one
that the order of examples puts at an element's place. Each function is a handler of game.apply.
"""

from __future__ import annotations

import struct

from assay import merkle, stages
from assay.dispute import checks, moves
from assay.dispute.checks import demand
from assay.dispute.moves import Moment, Phase, Side, State, Verdict
from assay.dispute.turns import claim, into, walk_of, won
from assay.exact.types import ITEM_BYTES
from assay.sampling import MAX_RECORDS, permute
from assay.stages import NONE

A, C = Side.ASSERTER, Side.CHALLENGER

# ---- the end ---------------------------------------------------------------------------------------------------------------


def end(state: State, move: moves.End, _: Moment) -> State:
    part = checks.part_of(state, move.head)
    demand(move.count == part.outputs, f"the link's end has {part.outputs} entries")
    if state.is_update:
        root = checks.state_hash(state.step + 1, move.count, move.entries)
    else:
        root = checks.acc_hash(state.step, state.m + 1, move.count, move.entries)
    demand(root == state.end_root, "these are not the entries of the link's end")
    return into(state._replace(head=move.head), Phase.ENTRIES, move.entries, move.count, move.children)


def end_entry(state: State, move: moves.EndEntry, _: Moment) -> State:
    walk, part = walk_of(state), checks.part_of(state, state.head)
    checks.digest(move.tensor, "a tensor root")
    checks.under(part.outputs_root, part.outputs, walk.index, move.record, move.record_path, "the output's record")
    output = stages.decode_output(move.record)
    if output.value == NONE:
        source = checks.Source("state", walk.index)
        name = output.name
    elif output.value >= part.inputs:
        checks.under(state.trace_root, state.leaves, 1 + output.value - part.inputs, move.tensor, move.path, "the value")
        source = None
    else:
        record = checks.input_of(part, output.value, move.input, move.input_path)
        source, name = checks.source_of(state, record), record.name
        if source.kind in ("zero", "value", "schedule"):
            return state._replace(phase=Phase.RESOLVED, verdict=Verdict.VOID, reason=f"the end's {output.name!r} is no tensor that can be opened")
    if source is not None and source.kind == "constant":
        demand(move.tensor == source.root, "the constant is not the program's")
    elif source is not None:
        checks.check_entry(state, source, checks.entry(name, move.tensor), move.count, move.entries, move.path)
    demand(walk.node == merkle.leaf(walk.index, checks.entry(output.name, move.tensor)), "the end's entry is another")
    return won(state, A, f"the end's {output.name!r} is what the program names")


# ---- the batch -------------------------------------------------------------------------------------------------------------


def batch(state: State, move: moves.Batch, _: Moment) -> State:
    demand(0 <= move.count < 1 << 32 and checks.batch_hash(move.count, move.entries) == state.batch_root, "these are not the entries of the batch")
    return into(state, Phase.FIELDS, move.entries, move.count, move.children)


def missing(state: State, move: moves.Missing, _: Moment) -> State:
    record = checks.input_of(checks.part_of(state, move.head), move.at, move.input, move.input_path)
    demand(record.kind == 2 and record.place >= walk_of(state).count, "this input is no field that the batch lacks")
    return won(state, C, f"the batch has no {record.name!r}")


def batch_entry(state: State, move: moves.BatchEntry, _: Moment) -> State:
    walk, part = walk_of(state), checks.part_of(state, move.head)
    record = checks.input_of(part, move.at, move.input, move.input_path)
    demand(record.kind == 2 and record.place == walk.index, f"the input is not field {walk.index} of the batch")
    item = checks.entry(record.name, checks.tensor_root(record.type, move.chunks))
    demand(walk.node == merkle.leaf(walk.index, item), "the batch's entry is no tensor of the input's type")
    state = state._replace(head=move.head, record=move.input)
    return into(state, Phase.CHUNKS, move.chunks, checks.chunk_count(record.type), move.children)


def gather(state: State, move: moves.Gather, _: Moment) -> State:
    facts, record = state.facts, stages.decode_input(state.record)
    claimed = claim(state, move.chunk)
    demand(merkle.sha256(move.data) == facts.data_root, "the data's head is not that of the job")
    checks.digest(move.salt, "a salt")
    data = checks.decode_data(move.data)
    demand(0 < data.records <= MAX_RECORDS, "the data's records cannot be counted through")
    first, size = checks.field_of(data, record)
    each = record.type.elements // data.batch
    epoch, at = divmod((state.step * facts.micro_batches + state.m) * data.batch + state.element // each, data.records)
    number = permute(data.order, epoch, data.records, at)
    checks.under(data.shards_root, data.shards, move.shard_at, move.shard, move.shard_path, "the shard")
    demand(len(move.shard) == 48, "a shard's item has 48 bytes")
    begin, records = struct.unpack(">QQ", move.shard[:16])
    demand(begin <= number < begin + records, f"record {number} is in another shard")
    width = sum(n for _, _, n in data.fields)
    demand(len(move.record) == width, f"a record has {width} bytes")
    checks.under(move.shard[16:], records, number - begin, move.salt + move.record, move.record_path, "the record")
    item = ITEM_BYTES[record.type.dtype]
    at = first + state.element % each * item
    right = int.from_bytes(move.record[at : at + item], "little") == claimed
    assert at + item <= first + size
    return won(state, A if right else C, f"element {state.element} of the batch's {record.name!r} is {'right' if right else 'wrong'}")
