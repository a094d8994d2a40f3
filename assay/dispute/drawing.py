"""A dispute drawn: where the two sides part, level by level, from the link down to one operation and its operands.

A pure function of the public record: the facts, the seal, and the moves. The game is played again (assay.dispute.game), so what is
drawn has been checked as the contract checked it; values of operands are those that the openings show under the roots. A program
holds no names of modules: a stage is told by its place, operator and shapes, an operand by the name of the input that it reads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from assay import stages
from assay.dispute import checks, game, leaf, moves
from assay.dispute.moves import WALK_LINKS, AnyMove, Facts, Moment, Phase, Side, State, Verdict
from assay.dispute.turns import claim
from assay.exact.types import TensorType
from assay.ids import Digest
from assay.links import place
from assay.stages import Stage

LEVELS = {
    Phase.SEALED: 0, Phase.LINKS: 1, Phase.TRACED: 1, Phase.TRACE: 2, Phase.STAGE: 3, Phase.END: 3, Phase.BATCH: 3, Phase.ENTRIES: 4,
    Phase.FIELDS: 4, Phase.ENTRY: 5, Phase.FIELD: 5, Phase.CHUNKS: 5, Phase.CHUNK: 6, Phase.NAME: 6, Phase.ELEMENT: 7, Phase.RECORD: 7,
    Phase.PICK: 8, Phase.RANGE: 9, Phase.FINISH: 9,
}  # fmt: skip
"""How far down a phase is."""
OUTCOMES = {
    Verdict.ASSERTER: "the asserter has won", Verdict.CHALLENGER: "the challenger has won", Verdict.CONCEDED: "the asserter conceded",
    Verdict.VOID: "void: the two leaves differ, or nobody could show it",
}  # fmt: skip


class Value(msgspec.Struct, frozen=True):
    """One element of a tensor."""

    what: str
    dtype: str
    bits: int

    @property
    def text(self) -> str:
        return f"{self.what} = {number(self.dtype, self.bits)}"


class Step(msgspec.Struct, frozen=True):
    """A move, and where it led."""

    level: int
    phase: str
    """Before the move."""
    side: str
    move: str
    told: str
    values: tuple[Value, ...] = ()
    seconds: int = 0
    """That the side took."""
    spent: int = 0
    """Of its budget, so far."""


class Descent(msgspec.Struct):
    """How a tree was walked down: `opened` levels by the asserter's moves, `served` levels by a Merkle path over nodes that it had served off
    chain. Of a fold's items `opened` counts the choices of a part."""

    tree: str
    opened: int = 0
    served: int = 0
    leaf: str = ""
    """How its content came: `opened`, `served`, or not at all."""

    @property
    def text(self) -> str:
        kind = "choice of a part" if self.tree.startswith("fold") else "level"
        plural = "choices of a part" if self.tree.startswith("fold") else "levels"
        shown = f"{self.opened} {kind if self.opened == 1 else plural} opened on chain"
        leaf = {"opened": "; the leaf opened on chain", "served": "; the leaf served off chain", "": ""}[self.leaf]
        return f"{self.tree}: {shown}, {self.served} served off chain{leaf}"


class Drawing(msgspec.Struct, frozen=True):
    """`steps` in order; `awaits` says whose turn it is, while nothing is decided; `descents` in the order of the walks."""

    title: str
    steps: tuple[Step, ...]
    outcome: str
    reason: str
    pays: tuple[str, ...]
    awaits: str
    descents: tuple[Descent, ...]


def number(dtype: str, bits: int) -> str:
    """An element as a person reads it, and its raw bits."""
    match dtype:
        case "f32":
            return f"{struct.unpack('>f', struct.pack('>I', bits))[0]:.9g} (0x{bits:08x})"
        case "bool":
            return str(bool(bits))
        case "i64" | "i32":
            width = 64 if dtype == "i64" else 32
            return f"{bits - (1 << width) if bits >> (width - 1) else bits} (0x{bits:0{width // 4}x})"
    return f"{bits} (0x{bits:02x})"


def shape(t: TensorType) -> str:
    return f"{t.dtype}[{', '.join(map(str, t.shape))}]"


def signature(stage: Stage) -> str:
    """`matmul(f32[24, 64], f32[64, 80]) -> f32[24, 80] bits=14`."""
    attributes = "".join(f" {name}={value}" for name, value in stage.attrs.items())
    return f"{stage.op}({', '.join(shape(t) for _, t in stage.operands)}) -> {shape(stage.type)}{attributes}"


def draw(facts: Facts, digest: Digest, at: Moment, made: Iterable[tuple[AnyMove, Moment]]) -> Drawing:
    """Raises IllegalMove for moves that no contract has accepted."""
    state, steps = game.sealed(facts, digest, at), []
    descents: dict[str, Descent] = {}
    for move, moment in made:
        after = game.apply(state, move, moment)
        late = isinstance(move, moves.Timeout)
        spent = after.spent[state.turn is Side.CHALLENGER]
        steps.append(
            Step(
                LEVELS[state.phase], str(state.phase), "anyone" if late else str(state.turn), type(move).__name__, *_told(state, move, after),
                moment.time - state.since, spent,
            )
        )  # fmt: skip
        _descend(descents, state, move)
        state = after
    decided = state.verdict is not None
    title = f"segment {facts.segment} (steps {facts.start}-{facts.stop})" + (f", {_link(state)}" if state.end_root or state.step else "")
    return Drawing(
        title, tuple(steps), OUTCOMES[state.verdict] if state.verdict is not None else "", state.reason, _pays(state) if decided else (),
        "" if decided else f"the {state.turn} has to move, in the phase {state.phase}", tuple(descents.values()),
    )  # fmt: skip


def _descend(descents: dict[str, Descent], state: State, move: AnyMove) -> None:
    """Counts what a move says of how a tree is walked down."""

    def of(tree: str) -> Descent:
        return descents.setdefault(tree, Descent(tree))

    match move:
        case moves.Point():
            assert state.walk is not None
            found = of(_tree(state))
            found.opened += state.walk.levels
            found.served += len(move.path) - state.walk.levels
            if move.element is not None:
                found.leaf = "served"
        case moves.Chunk():
            of(_tree(state._replace(phase=Phase.CHUNKS))).leaf = "opened"
        case moves.Pick(item=moves.FoldItem(path=path)):
            found = of(f"fold {move.which}")
            found.served, found.leaf = found.served + len(path), "served"
        case moves.Pick() if state.phase is Phase.RANGE or move.which < len(state.totals):
            of(f"fold {state.fold if state.phase is Phase.RANGE else move.which}").opened += 1


def _link(state: State) -> str:
    return f"link {state.unit}: " + _of_step(state)


def _of_step(state: State) -> str:
    return f"the update of step {state.step}" if state.is_update else f"micro-batch {state.m} of step {state.step}"


def _pays(state: State) -> tuple[str, ...]:
    paid = game.payments(state)
    lines = (
        (paid.slashed, f"the asserter loses {paid.slashed} of its bond of {state.facts.bond}"),
        (paid.burnt, f"{paid.burnt} are burnt"),
        (paid.challenger, f"the challenger gets {paid.challenger}, its own {state.facts.stake} included"),
        (paid.asserter, f"the asserter gets {paid.asserter} of the challenger's {state.facts.stake}"),
    )
    return tuple(text for amount, text in lines if amount)


# ---- each move -------------------------------------------------------------------------------------------------------------


Told = tuple[str, tuple[Value, ...]]


def _told(state: State, move: Any, after: State) -> Told:
    """What a move says, in words, and the values that it shows."""
    handler = _WORDS.get(type(move))
    return handler(state, move, after) if handler else (f"{type(move).__name__.lower()}", ())


def _opened(state: State, move: moves.Open, _: State) -> Told:
    if move.target == 0 and move.unit == WALK_LINKS:
        return "disputes some link of the segment, to be found in the commitment", ()
    step, m = place(move.unit, state.facts.micro_batches)
    what = f"link {move.unit} (step {state.facts.start + step}, {'update' if m == state.facts.micro_batches else f'micro-batch {m}'})"
    if move.target == 0:
        return f"disputes the provider's {what}", ()
    return f"disputes the trace of {what} that {move.verifier} revealed with its yes in round {move.round}", ()


def _revealed(state: State, move: moves.Reveal, _: State) -> Told:
    assert state.walk is not None
    down = state.walk.height - state.walk.levels
    return f"shows the {len(move.children)} nodes at height {down} under node {state.walk.index} of {_tree(state)}", ()


def _pointed(state: State, move: moves.Point, after: State) -> Told:
    assert state.walk is not None
    height = state.walk.height - len(move.path)
    where = f"leaf {move.index} of {state.walk.count}: {_leaf(state, move.index)}" if not height else f"node {move.index} at height {height}"
    junk = f"; {after.reason}" if after.phase is Phase.RESOLVED else "" if move.element is None else f"; at element {move.element}"
    junk += f"; past {skipped} levels that were served off chain" if (skipped := len(move.path) - state.walk.levels) else ""
    return f"points at {where}, in {_tree(state)}: {move.node.hex()[:16]}… is not what it has{junk}", ()


def _tree(state: State) -> str:
    return {
        Phase.LINKS: "the tree of links", Phase.TRACE: "the trace", Phase.CHUNKS: "the tensor's chunks", Phase.ENTRIES: "the entries of the end",
        Phase.FIELDS: "the fields of the batch",
    }.get(state.phase, str(state.phase))  # fmt: skip


def _leaf(state: State, index: int) -> str:
    assert state.walk is not None
    if index >= state.walk.count:
        return "past the last"
    match state.phase:
        case Phase.LINKS:
            step, m = place(index, state.facts.micro_batches)
            return f"step {state.facts.start + step}, {'update' if m == state.facts.micro_batches else f'micro-batch {m}'}"
        case Phase.TRACE:
            return "the head, that is, the batch" if index == 0 else "the link's end" if index == state.walk.count - 1 else f"stage {index - 1}"
        case Phase.CHUNKS:
            return f"bytes {index * checks.CHUNK}-{(index + 1) * checks.CHUNK - 1}"
    return f"entry {index}"


def _traced(_: State, move: moves.Trace, after: State) -> Told:
    begins = after.state_root.hex()[:16]
    return f"shows {_of_step(after)}: from the state {begins}… to the end {move.end.root.hex()[:16]}…, its trace {move.trace_root.hex()[:16]}…", ()


def _staged(state: State, move: moves.Stage, _: State) -> Told:
    stage = stages.decode_stage(move.stage)
    return f"shows stage {state.place - 1}: {signature(stage)}; its output's chunks {move.chunks.hex()[:16]}…", ()


def _chunked(state: State, _: moves.Chunk, __: State) -> Told:
    assert state.walk is not None
    return f"shows the {checks.CHUNK} bytes of chunk {state.walk.index}", ()


def _named(state: State, move: moves.Name, _: State) -> Told:
    return f"names element {move.element}", ()


def _proved(state: State, move: moves.Prove, _: State) -> Told:
    stage = stages.decode_stage(state.stage)
    given = _operands(state, 0, 0, move.needs)
    right = leaf.finish(stage, state.element, (), [value.bits for value in given])
    return f"shows the operands of element {state.element} of {stage.op}", (*given, *_results(stage, claim(state, move.chunk), right))


def _folded(state: State, move: moves.Fold, _: State) -> Told:
    stage = stages.decode_stage(state.stage)
    totals = "; ".join(f"fold {i}: {total}, in {len(move.parts[i])} parts" for i, total in enumerate(move.totals))
    return f"shows the totals of element {state.element} of {stage.op}: {totals}", ()


def _finished(state: State, move: moves.Finish, _: State) -> Told:
    stage = stages.decode_stage(state.stage)
    given = _operands(state, leaf.folds(stage), 0, move.needs)
    right = leaf.finish(stage, state.element, state.totals, [value.bits for value in given])
    return f"shows what element {state.element} of {stage.op} follows from", (*given, *_results(stage, claim(state, move.chunk), right))


def _results(stage: Stage, shown: int, right: int) -> tuple[Value, ...]:
    return Value("output, as asserted", stage.type.dtype, shown), Value("output, as it follows", stage.type.dtype, right)


def _picked(state: State, move: moves.Pick, after: State) -> Told:
    if after.phase is Phase.FINISH:
        return "doubts that the element follows from the totals", ()
    if after.phase is Phase.RESOLVED:
        return f"doubts fold {move.which}: {after.reason}", ()
    if move.item is not None:
        return f"doubts item {after.low} of fold {move.which}, served off chain as {after.total}", ()
    if state.phase is Phase.PICK:
        return f"doubts fold {move.which}, items {after.low}-{after.high - 1}, total {after.total}", ()
    return f"doubts part {move.which}: items {after.low}-{after.high - 1}, total {after.total}", ()


def _split(state: State, move: moves.Split, _: State) -> Told:
    return f"splits items {state.low}-{state.high - 1} (total {state.total}) into {len(move.parts)} parts: {', '.join(map(str, move.parts))}", ()


def _item(state: State, move: moves.Item, _: State) -> Told:
    stage = stages.decode_stage(state.stage)
    given = _operands(state, state.fold, state.low, move.needs)
    right = leaf.item(stage, state.element, state.fold, state.low, state.totals, [value.bits for value in given])
    text = f"shows item {state.low} of fold {state.fold} of {stage.op}, element {state.element}: {state.total} as asserted, {right} as it follows"
    return text, given


def _operands(state: State, fold: int, index: int, openings: Sequence[moves.Opening]) -> tuple[Value, ...]:
    """The values that openings show, by the names of what they are of."""
    stage, part = stages.decode_stage(state.stage), checks.part_of(state, state.head)
    bits = checks.values_of(state, fold, index, openings)
    out = []
    for need, opening, value in zip(leaf.needs(stage, state.element, fold, index, bits), openings, bits, strict=True):
        source, t = stage.operands[need.operand]
        if source >= part.inputs:
            name = f"stage {source - part.inputs}"
        else:
            record = stages.decode_input(opening.input)
            name = f"{next(kind for kind, code in stages.KINDS.items() if code == record.kind)} {record.name}"
        out.append(Value(f"operand {need.operand}, {name} {shape(t)}, element {need.element}", t.dtype, value))
    return tuple(out)


def _ended(state: State, move: moves.End, _: State) -> Told:
    return f"shows the root over the {move.count} entries of the link's end", ()


def _end_entry(state: State, move: moves.EndEntry, _: State) -> Told:
    output = stages.decode_output(move.record)
    return f"shows that the end's {output.name!r} is what the program puts out, {shape(output.type)}: {move.tensor.hex()[:16]}…", ()


def _batched(_: State, move: moves.Batch, __: State) -> Told:
    return f"shows the root over the {move.count} fields of the batch", ()


def _missing(_: State, move: moves.Missing, __: State) -> Told:
    return f"shows that the batch lacks the field {stages.decode_input(move.input).name!r}", ()


def _batch_entry(_: State, move: moves.BatchEntry, __: State) -> Told:
    record = stages.decode_input(move.input)
    return f"shows the batch's {record.name!r}, {shape(record.type)}; its chunks {move.chunks.hex()[:16]}…", ()


def _gathered(state: State, move: moves.Gather, _: State) -> Told:
    record, data = stages.decode_input(state.record), checks.decode_data(move.data)
    first, _size = checks.field_of(data, record)
    at = first + state.element % (record.type.elements // data.batch) * (width := record.type.bytes // record.type.elements)
    shown = claim(state, move.chunk)
    right = int.from_bytes(move.record[at : at + width], "little")
    text = f"opens the record of the data, of {data.records}, that element {state.element} of {record.name!r} comes from"
    return text, (Value("in the batch, as asserted", record.type.dtype, shown), Value("in the data", record.type.dtype, right))


def _silence(state: State, _: moves.Timeout, __: State) -> Told:
    return f"tells that the {state.turn} is silent", ()


def _conceded(_: State, __: moves.Concede, ___: State) -> Told:
    return "concedes", ()


_WORDS: dict[type[moves.Move], Callable[[State, Any, State], Told]] = {
    moves.Open: _opened, moves.Concede: _conceded, moves.Reveal: _revealed, moves.Point: _pointed, moves.Trace: _traced, moves.Stage: _staged,
    moves.Chunk: _chunked, moves.Name: _named, moves.Prove: _proved, moves.Fold: _folded, moves.Pick: _picked, moves.Finish: _finished,
    moves.Split: _split, moves.Item: _item, moves.End: _ended, moves.EndEntry: _end_entry, moves.Batch: _batched, moves.Missing: _missing,
    moves.BatchEntry: _batch_entry, moves.Gather: _gathered, moves.Timeout: _silence,
}  # fmt: skip


def lines(drawing: Drawing) -> list[str]:
    """As text: one line a move, further in the further down, the values under it."""
    out = [drawing.title]
    for step in drawing.steps:
        indent = "  " * step.level
        clock = f"{step.seconds} s" + (f", {step.spent} s of its budget" if step.spent else "")
        out.append(f"{indent}{step.phase:8} {step.side}: {step.told}  [{clock}]")
        out += [f"{indent}         {value.text}" for value in step.values]
    out += [descent.text for descent in drawing.descents]
    if drawing.outcome:
        out += [f"{drawing.outcome}: {drawing.reason}", *drawing.pays]
    else:
        out.append(drawing.awaits)
    return out
