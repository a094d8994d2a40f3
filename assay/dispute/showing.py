"""Which records of a job's data a dispute has shown in the clear: what contracts/src/dispute/Court.sol notes, from the moves.

A chunk of a field of the batch holds bytes of some records, whether the asserter shows it as such, with the record that decides it, or as what an
operand of a stage is taken from. They are counted from the first to the last that was shown, by the places at which training reads them
(assay.sampling): place (step * micro-batches + m) * batch + row.
"""

from __future__ import annotations

from typing import NamedTuple

from assay import stages
from assay.dispute import checks, leaf, moves
from assay.dispute.moves import AnyMove, Opening, State
from assay.dispute.turns import walk_of, walked_type
from assay.exact.types import ITEM_BYTES, TensorType

MOST_SHOWN = 1024
"""As many as a chunk has bytes."""


class Shown(NamedTuple):
    first: int = 0
    records: int = 0

    def joined(self, other: Shown) -> Shown:
        """From the first to the last of both."""
        if not self.records or not other.records:
            return self if self.records else other
        first = min(self.first, other.first)
        return Shown(first, min(max(self.first + self.records, other.first + other.records) - first, MOST_SHOWN))


def noted(shown: Shown, state: State, move: AnyMove) -> Shown:
    """What has been shown after a legal move in `state`."""
    for t, element in _fields(state, move):
        shown = shown.joined(_records(state, t, element))
    return shown


def _records(state: State, t: TensorType, element: int) -> Shown:
    """Whose bytes the chunk of a field of the batch holds that has `element`."""
    batch, wide = t.shape[0] if t.shape else 1, checks.CHUNK // ITEM_BYTES[t.dtype]
    if not 0 < batch <= t.elements:
        return Shown()
    each, begin = t.elements // batch, element // wide * wide
    base = (state.step * state.facts.micro_batches + state.m) * batch
    first, last = base + begin // each, base + (min(begin + wide, t.elements) - 1) // each
    return Shown(first, min(last - first + 1, MOST_SHOWN))


def _fields(state: State, move: AnyMove) -> list[tuple[TensorType, int]]:
    """Fields of the batch of which the move shows a chunk, each with an element of that."""
    match move:
        case moves.Chunk() if not state.stage:
            t = walked_type(state)
            return [(t, walk_of(state).index * checks.CHUNK // ITEM_BYTES[t.dtype])]
        case moves.Gather():
            return [(walked_type(state), state.element)]
        case moves.Prove() | moves.Finish():
            return _operands(state, len(state.totals), 0, move.needs)
        case moves.Item():
            return _operands(state, state.fold, state.low, move.needs)
    return []


def _operands(state: State, fold: int, index: int, openings: tuple[Opening, ...]) -> list[tuple[TensorType, int]]:
    stage, part, found = stages.decode_stage(state.stage), checks.part_of(state, state.head), []
    values: list[int] = []
    while len(needs := leaf.needs(stage, state.element, fold, index, values)) > len(values):
        need, opening = needs[len(values)], openings[len(values)]
        value, t = stage.operands[need.operand]
        values.append(checks.read(state, part, value, t, need.element, opening))
        if value < part.inputs and stages.decode_input(opening.input).kind == 2:
            found.append((t, need.element))
    return found
