"""What a party's own run of the disputed link says about the stand of a game: the tree that is walked, the items of the fold that is doubted."""

from __future__ import annotations

from collections.abc import Sequence

from assay import stages
from assay.dispute import folds, leaf
from assay.dispute.moves import Phase, State
from assay.dispute.proofs import Link
from assay.dispute.tree import Tree


def own_tree(link: Link, state: State) -> Tree:
    """The party's own tree for the walk that a state is in."""
    tree: Tree | None
    match state.phase:
        case Phase.TRACE:
            tree = link.trace
        case Phase.CHUNKS:
            tree = link.tensor(walked(link, state)).tree
        case Phase.ENTRIES:
            tree = link.ends.tree
        case Phase.FIELDS:
            tree = link.sets["batch"].tree
        case _:
            raise AssertionError(state.phase)
    assert tree is not None
    return tree


def stage_value(link: Link, state: State) -> int:
    """The stage whose output is walked."""
    return len(link.trees.part.inputs) + state.place - 1


def batch_field(link: Link, state: State) -> int:
    """The input whose chunks are walked."""
    return link.trees.encoded.inputs.index(state.record)


def walked(link: Link, state: State) -> int:
    return stage_value(link, state) if state.stage else batch_field(link, state)


def total_of(link: Link, state: State, totals: Sequence[int], low: int, high: int) -> int:
    """Total of the items [low, high) of a state's fold, as this party has it."""
    return leaf.combine(stages.decode_stage(state.stage), state.fold, items_of(link, state, totals, low, high))


def items_of(link: Link, state: State, totals: Sequence[int], low: int = 0, high: int = -1) -> list[int]:
    """Items [low, high) of a state's fold; all by default."""
    stage = stages.decode_stage(state.stage)
    return leaf.fold_items(stage, state.element, state.fold, totals, lambda need: link.read(stage, need), low, high)


def item_tree(items: Sequence[int]) -> Tree:
    """Over the items of a fold."""
    return Tree.of([folds.int256(value) for value in items])
