"""The game of a dispute as a pure state machine: `apply(state, move, at)`; the rules of docs/dispute.md, which the contract has, too.

    phase     asserter                      challenger
    SEALED                                  Open
    LINKS     Reveal, Concede               Point           a walk over the link tree
    TRACED    Trace, Concede
    TRACE     Reveal                        Point           over the trace
    STAGE     Stage
    CHUNKS    Reveal                        Point           over the chunks of the stage's output; with an element: to ELEMENT or RECORD
    CHUNK     Chunk
    NAME                                    Name
    ELEMENT   Prove (no folds) | Fold
    PICK                                    Pick            a fold: RANGE; or the output
    FINISH    Finish
    RANGE     Split | Item (a single one)   Pick
    END       End
    ENTRIES   Reveal                        Point           over the entries of the link's end
    ENTRY     EndEntry
    BATCH     Batch
    FIELDS    Reveal                        Point, Missing  over the entries of the batch
    FIELD     BatchEntry
    (CHUNKS, CHUNK, NAME as above, over the chunks of a field)
    RECORD    Gather

The last move of either side's line decides, or somebody is silent: then anyone's Timeout does. No clock is read here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from assay import draw, merkle, stages
from assay.dispute import checks, folds, moves, sets
from assay.dispute.checks import IllegalMove, demand
from assay.dispute.moves import WALK_LINKS, AnyMove, Facts, Moment, Phase, Side, State, Verdict
from assay.dispute.tree import Walk
from assay.dispute.turns import check_leaf, into, walk_of, walked_type, won
from assay.exact.types import ITEM_BYTES
from assay.ids import Digest, SegmentId
from assay.links import count, place

A, C = Side.ASSERTER, Side.CHALLENGER
TABLE: dict[tuple[Phase, Side], tuple[type[moves.Move], ...]] = {
    (Phase.SEALED, C): (moves.Open,),
    (Phase.LINKS, A): (moves.Reveal, moves.Concede),
    (Phase.LINKS, C): (moves.Point,),
    (Phase.TRACED, A): (moves.Trace, moves.Concede),
    (Phase.TRACE, A): (moves.Reveal,),
    (Phase.TRACE, C): (moves.Point,),
    (Phase.STAGE, A): (moves.Stage,),
    (Phase.CHUNKS, A): (moves.Reveal,),
    (Phase.CHUNKS, C): (moves.Point,),
    (Phase.CHUNK, A): (moves.Chunk,),
    (Phase.NAME, C): (moves.Name,),
    (Phase.ELEMENT, A): (moves.Prove, moves.Fold),
    (Phase.PICK, C): (moves.Pick,),
    (Phase.FINISH, A): (moves.Finish,),
    (Phase.RANGE, A): (moves.Split, moves.Item),
    (Phase.RANGE, C): (moves.Pick,),
    (Phase.END, A): (moves.End,),
    (Phase.ENTRIES, A): (moves.Reveal,),
    (Phase.ENTRIES, C): (moves.Point,),
    (Phase.ENTRY, A): (moves.EndEntry,),
    (Phase.BATCH, A): (moves.Batch,),
    (Phase.FIELDS, A): (moves.Reveal,),
    (Phase.FIELDS, C): (moves.Point, moves.Missing),
    (Phase.FIELD, A): (moves.BatchEntry,),
    (Phase.RECORD, A): (moves.Gather,),
}


def sealed(facts: Facts, digest: Digest, at: Moment) -> State:
    """The dispute as the challenger's seal begins it."""
    return State(facts, digest, at, since=at.time)


def seal_digest(facts: Facts, move: moves.Open) -> Digest:
    """SHA256(0x25 ‖ chain id ‖ Disputes ‖ segment u64 ‖ target u8 ‖ unit u64 ‖ verifier ‖ round u32 ‖ salt ‖ challenger)."""
    return draw.dispute(facts.chain_id, facts.disputes, SegmentId(facts.segment), facts.challenger, move)


def left(state: State, time: int) -> int:
    """Seconds that the side whose turn it is has left: its grace, then its budget. Negative: anyone may call Timeout."""
    if state.phase is Phase.SEALED:
        return state.facts.open_window - (time - state.since)
    spent = state.spent[state.turn is C]
    return state.facts.grace + state.facts.budget - spent - (time - state.since)


def apply(state: State, move: AnyMove, at: Moment) -> State:
    """The state after a move. Raises IllegalMove, and changes nothing, for what the contract would revert."""
    demand(state.phase is not Phase.RESOLVED, "the dispute is resolved")
    if isinstance(move, moves.Timeout):
        demand(left(state, at.time) < 0, f"the {state.turn} has {left(state, at.time)} s left")
        return won(state, state.turn.other, f"the {state.turn} was silent in {state.phase}")
    allowed = TABLE[state.phase, state.turn]
    if type(move) not in allowed:
        names = " or ".join(kind.__name__ for kind in allowed)
        raise IllegalMove(f"{type(move).__name__} in {state.phase}: it is the {state.turn}'s turn, with {names}")
    demand(left(state, at.time) >= 0, f"the {state.turn} is late")
    side = state.turn
    used = 0 if state.phase is Phase.SEALED else max(0, at.time - state.since - state.facts.grace)
    try:
        after = _HANDLERS[type(move)](state, move, at)
    except stages.Undecodable as error:
        raise IllegalMove(str(error)) from None
    (a, c), (spent_a, spent_c) = state.moves, state.spent
    since = at.time + (state.facts.allowance if after.phase is Phase.TRACED else 0)
    if side is A:
        return after._replace(since=since, moves=(a + 1, c), spent=(spent_a + used, spent_c))
    return after._replace(since=since, moves=(a, c + 1), spent=(spent_a, spent_c + used))


class Payments(NamedTuple):
    """What moves when a resolved dispute is paid."""

    slashed: int
    """Of the asserter's bond; the rest of it stays the asserter's."""
    burnt: int
    challenger: int
    """Gets this, its own bond included."""
    asserter: int
    """Gets this, from the challenger's bond."""


def payments(state: State, taken: int | None = None) -> Payments:
    """Of a resolved dispute. `taken`: of an asserter that has conceded, where that is known: nothing, if it was pardoned."""
    bond, stake = state.facts.bond, state.facts.stake
    match state.verdict:
        case Verdict.CHALLENGER:
            return Payments(bond, bond // 2, stake + bond - bond // 2, 0)
        case Verdict.CONCEDED:
            burnt = bond // 2 if taken is None else taken
            return Payments(burnt, burnt, stake, 0)
        case Verdict.ASSERTER:
            return Payments(0, stake // 2, 0, stake - stake // 2)
        case Verdict.VOID:
            return Payments(0, 0, stake, 0)
    raise ValueError("the dispute is not resolved")


# ---- the walk to a leaf ----------------------------------------------------------------------------------------------------


def _open(state: State, move: moves.Open, at: Moment) -> State:
    facts = state.facts
    demand(at.block > state.opened.block, "a seal is opened in a later block")
    demand(move.target in (0, 1) and 0 <= move.unit < 1 << 64 and 0 <= move.round < 1 << 32, f"there is no such link: {move}")
    checks.digest(move.salt, "a salt")
    demand(seal_digest(facts, move) == state.digest, "this is not what was sealed")
    links = count(facts.stop - facts.start, facts.micro_batches)
    if move.target == 0 and move.unit == WALK_LINKS:
        return state._replace(phase=Phase.LINKS, turn=A, walk=Walk.at_root(facts.link_root, links))
    demand(move.unit < links, f"there is no link {move.unit}")
    revealed = None
    if move.target == 1:
        asked = (move.verifier, move.round, move.unit)
        revealed = next((r for r in facts.revealed if (r.verifier, r.round, r.unit) == asked), None)
        demand(revealed is not None and revealed.agrees, "the verifier revealed no such trace, or said no with it")
    return _traced(state._replace(revealed=revealed), move.unit)


def _traced(state: State, unit: int) -> State:
    step, m = place(unit, state.facts.micro_batches)
    return state._replace(phase=Phase.TRACED, turn=A, unit=unit, step=state.facts.start + step, m=m, walk=None)


def _concede(state: State, _: moves.Concede, __: Moment) -> State:
    return state._replace(phase=Phase.RESOLVED, verdict=Verdict.CONCEDED, reason="the asserter conceded")


def _reveal(state: State, move: moves.Reveal, _: Moment) -> State:
    demand(walk_of(state).has(move.children), "the children do not join to the node")
    return state._replace(turn=C)


def _point(state: State, move: moves.Point, _: Moment) -> State:
    walk = walk_of(state).down(move.index, move.node, move.path)
    if walk is None:
        raise IllegalMove("the point does not lead down from the node, or not as far as its children")
    if move.element is not None:
        demand(state.phase is Phase.CHUNKS and walk.height == 0, "an element is named in a chunk")
        return _named(state._replace(walk=walk), move.element)
    if walk.height:
        return state._replace(walk=walk, turn=A)
    if walk.index >= walk.count:
        demand(walk.count > 0, "there is nothing to point at")
        demand(walk.node != merkle.PAD, "there is nothing to say against a pad")
        return won(state, C, f"leaf {walk.index} of {walk.count} in {state.phase} is no pad")
    state = state._replace(walk=walk, turn=A)
    match state.phase:
        case Phase.LINKS:
            return _traced(state, walk.index)
        case Phase.TRACE if walk.index == 0:
            demand(not state.is_update, "all of an update's head is known")
            return state._replace(phase=Phase.BATCH)
        case Phase.TRACE:
            return state._replace(phase=Phase.END if walk.index == walk.count - 1 else Phase.STAGE, place=walk.index)
        case Phase.CHUNKS:
            return state._replace(phase=Phase.CHUNK)
        case Phase.ENTRIES:
            return state._replace(phase=Phase.ENTRY)
        case Phase.FIELDS:
            return state._replace(phase=Phase.FIELD)
    raise AssertionError(state.phase)


def _trace(state: State, move: moves.Trace, _: Moment) -> State:
    facts = state.facts
    links = count(facts.stop - facts.start, facts.micro_batches)

    checks.digest(move.batch_root, "a batch root")

    for end in (move.state, move.acc, move.end):
        if end is not None:
            checks.digest(end.root, "a link's end")
    checks.under(facts.link_root, links, state.unit, move.end.root, move.end.path, "the link's end")

    def named(end: moves.Named, unit: int) -> Digest:
        levels = meeting(state.unit, unit)
        checks.below(move.end.path[levels], unit, end.root, end.path, levels, "an end before the link")
        return end.root

    # what the contract does not look at may be anything: the first step's state is the parent's end, a step begins without an accumulator
    state_root = facts.parent_end
    if state.step != facts.start:
        demand(move.state is not None, "the state before the step is a link's end")
        assert move.state is not None
        state_root = named(move.state, state.unit - state.m - 1)
    acc_root = Digest(bytes(32))
    if state.m:
        demand(move.acc is not None, "the accumulator before the link is a link's end")
        assert move.acc is not None
        acc_root = named(move.acc, state.unit - 1)
    if state.revealed is not None:
        demand(move.trace_root == state.revealed.trace_root, "this is not the trace that was revealed")
    if state.is_update:
        demand(move.batch_root == checks.batch_hash(0, merkle.EMPTY), "an update has no batch")
    head = merkle.sha256(
        struct.pack(">B32sBQI", 0x14, facts.program_root, state.is_update, state.step, state.m),
        state_root, acc_root, move.batch_root, facts.schedule_root,
    )  # fmt: skip
    walk, last = Walk.at_root(move.trace_root, state.leaves), state.leaves - 1
    down = walk.height - walk.levels
    demand(walk.has(move.children), "the children of the trace do not join to its root")
    checks.below(move.children[0], 0, head, move.head_path, down, "the head")
    checks.below(move.children[last >> down], last, move.end.root, move.end_path, down, "the link's end")
    state = state._replace(state_root=state_root, acc_root=acc_root, batch_root=move.batch_root, end_root=move.end.root, trace_root=move.trace_root)
    return into(state, Phase.TRACE, move.trace_root, state.leaves, move.children)


def meeting(unit: int, other: int) -> int:
    """The level at which the paths of two leaves meet: a node on one is the sibling of one on the other."""
    return (unit ^ other).bit_length() - 1


# ---- a stage's output ------------------------------------------------------------------------------------------------------


def _stage(state: State, move: moves.Stage, _: Moment) -> State:
    walk, part = walk_of(state), checks.part_of(state, move.head)
    checks.under(part.stages_root, part.stages, walk.index - 1, move.stage, move.path, "the stage")
    t = stages.decode_stage(move.stage).type
    demand(walk.node == merkle.leaf(walk.index, checks.tensor_root(t, move.chunks)), "the leaf of the trace is no tensor of the stage's type")
    state = state._replace(head=move.head, stage=move.stage)
    return into(state, Phase.CHUNKS, move.chunks, checks.chunk_count(t), move.children)


def _chunk(state: State, move: moves.Chunk, _: Moment) -> State:
    check_leaf(state, move.chunk)
    return state._replace(phase=Phase.NAME, turn=C, chunk=move.chunk)


def _name(state: State, move: moves.Name, _: Moment) -> State:
    after = _named(state, move.element)
    return after._replace(chunk=b"", claimed=checks.element_of(walked_type(state), state.chunk, move.element))


def _named(state: State, element: int) -> State:
    t = walked_type(state)
    within = 0 <= element < t.elements and element * ITEM_BYTES[t.dtype] // checks.CHUNK == walk_of(state).index
    demand(within, f"element {element} is not in the chunk")
    return state._replace(phase=Phase.ELEMENT if state.stage else Phase.RECORD, turn=A, element=element)


_HANDLERS: dict[type[moves.Move], Callable[[State, Any, Moment], State]] = {
    moves.Open: _open, moves.Concede: _concede, moves.Reveal: _reveal, moves.Point: _point, moves.Trace: _trace, moves.Stage: _stage,
    moves.Chunk: _chunk, moves.Name: _name, moves.Prove: folds.prove, moves.Fold: folds.fold, moves.Pick: folds.pick,
    moves.Finish: folds.finish, moves.Split: folds.split, moves.Item: folds.item, moves.End: sets.end, moves.EndEntry: sets.end_entry,
    moves.Batch: sets.batch, moves.Missing: sets.missing, moves.BatchEntry: sets.batch_entry, moves.Gather: sets.gather,
}  # fmt: skip
