"""The moves of assay.dispute.game that decide an element: from its operands, or from the totals of its folds (docs/dispute.md, "One element").

A fold is doubted part by part, down to one item; or at once at an item that the asserter has shown. Each function is a handler of game.apply.
"""

from __future__ import annotations

from assay import stages
from assay.dispute import checks, leaf, moves
from assay.dispute.checks import demand
from assay.dispute.moves import Moment, Phase, Side, State
from assay.dispute.turns import claim, won

A, C = Side.ASSERTER, Side.CHALLENGER
SPLIT = 64
"""Most parts of a range."""
SPLIT_BITS = 6
MOST_FOLDS = 8
I64 = range(-(1 << 63), 1 << 63)


def prove(state: State, move: moves.Prove, _: Moment) -> State:
    return _output(state, (), move)


def finish(state: State, move: moves.Finish, _: Moment) -> State:
    _in_range(state)
    return _output(state, state.totals, move)


def _output(state: State, totals: tuple[int, ...], move: moves.Prove | moves.Finish) -> State:
    """Whether the output follows from its folds' totals and what else it needs."""
    stage = stages.decode_stage(state.stage)
    demand(leaf.folds(stage) == len(totals), f"{stage.op} has {leaf.folds(stage)} folds, not {len(totals)}")
    claimed, values = claim(state, move.chunk), checks.values_of(state, len(totals), 0, move.needs)
    right = leaf.finish(stage, state.element, totals, values) == claimed
    return won(state, A if right else C, f"element {state.element} of {stage.op} is {'right' if right else 'wrong'}")


def fold(state: State, move: moves.Fold, _: Moment) -> State:
    """Nothing is held against anything before the challenger doubts it: who asserts totals of another number, or out of their range, has no
    move then."""
    demand(len(move.totals) <= MOST_FOLDS, f"{len(move.totals)} totals")
    demand(0 < len(move.totals) == len(move.roots) == len(move.parts), "each fold has a total, a root and parts")
    demand(all(n in I64 for row in (move.totals, *move.parts) for n in row), "totals are i64")
    for root in move.roots:
        checks.digest(root, "a root over items")
    return state._replace(phase=Phase.PICK, turn=C, totals=move.totals, roots=move.roots, shown=move.parts)


def _in_range(state: State) -> None:
    """A total that no items can have does not reach the leaf."""
    stage = stages.decode_stage(state.stage)
    for fold, total in enumerate(state.totals):
        low, high = leaf.bounds(stage, fold)
        demand(low <= total <= high, f"{total} is no total of fold {fold} of {stage.op}")


def pick(state: State, move: moves.Pick, _: Moment) -> State:
    if state.phase is Phase.PICK:
        return _picked(state, move)
    demand(0 <= move.which < len(state.parts) and not move.part and move.item is None, f"there is no part {move.which}")
    low, high = part_range(state.low, state.high, move.which)
    return state._replace(turn=A, low=low, high=high, total=state.parts[move.which], parts=())


def _picked(state: State, move: moves.Pick) -> State:
    stage, fold = stages.decode_stage(state.stage), move.which
    if fold == len(state.totals):
        demand(not move.part and move.item is None, "an output has no parts")
        return state._replace(phase=Phase.FINISH, turn=A)
    demand(leaf.folds(stage) == len(state.totals), f"{stage.op} has {leaf.folds(stage)} folds: what is wrong is the output")
    demand(0 <= fold < len(state.totals), f"there is no fold {fold}")
    items, total = leaf.length(stage, state.element, fold), state.totals[fold]
    state = state._replace(fold=fold)
    if move.item is not None:
        demand(not move.part and move.item.value in I64, "an item is an i64, and no part")
        checks.under(state.roots[fold], items, move.item.item, int256(move.item.value), move.item.path, "the item")
        return state._replace(phase=Phase.RANGE, turn=A, low=move.item.item, high=move.item.item + 1, total=move.item.value)
    parts = state.shown[fold]
    if len(parts) != part_count(items) or leaf.combine(stage, fold, parts) != total:
        return won(state, C, f"the parts of fold {fold} of {stage.op} do not combine to its total")
    demand(0 <= move.part < len(parts), f"there is no part {move.part}")
    low, high = part_range(0, items, move.part)
    return state._replace(phase=Phase.RANGE, turn=A, low=low, high=high, total=parts[move.part])


def int256(value: int) -> bytes:
    """As the root over a fold's items has it."""
    return (value % (1 << 256)).to_bytes(32, "big")


def part_count(items: int) -> int:
    """Parts of a range of so many items: a power of two that needs as few splits as splits in 64 do, the first the smallest."""
    if items <= SPLIT:
        return items
    bits = (items - 1).bit_length()
    return 1 << bits // -(-bits // SPLIT_BITS)


def part_range(low: int, high: int, part: int) -> tuple[int, int]:
    """Part `part` of k = part_count(n): [lo + jn/k, lo + (j+1)n/k)."""
    n = high - low
    k = part_count(n)
    return low + part * n // k, low + (part + 1) * n // k


def split(state: State, move: moves.Split, _: Moment) -> State:
    stage, n = stages.decode_stage(state.stage), state.high - state.low
    demand(n > 1, "a single item is shown, not split")
    demand(len(move.parts) == part_count(n), f"{n} items have {part_count(n)} parts")
    demand(all(part in I64 for part in move.parts), "totals are i64")
    demand(leaf.combine(stage, state.fold, move.parts) == state.total, "the parts do not combine to the total")
    return state._replace(turn=C, parts=move.parts)


def item(state: State, move: moves.Item, _: Moment) -> State:
    stage = stages.decode_stage(state.stage)
    demand(state.high - state.low == 1, f"{state.high - state.low} items are split, not shown")
    _in_range(state)
    values = checks.values_of(state, state.fold, state.low, move.needs)
    right = leaf.item(stage, state.element, state.fold, state.low, state.totals, values) == state.total
    return won(state, A if right else C, f"item {state.low} of fold {state.fold} of {stage.op} is {'right' if right else 'wrong'}")
