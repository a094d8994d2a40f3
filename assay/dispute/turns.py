"""What the moves of a dispute have in common: how it is decided, how a walk begins, what its last leaf must be."""

from __future__ import annotations

from assay import merkle, stages
from assay.dispute import checks, moves
from assay.dispute.checks import demand
from assay.dispute.moves import Phase, Side, State, Verdict
from assay.dispute.tree import Walk
from assay.exact.types import TensorType
from assay.ids import Digest


def won(state: State, side: Side, reason: str) -> State:
    return state._replace(phase=Phase.RESOLVED, verdict=Verdict.ASSERTER if side is Side.ASSERTER else Verdict.CHALLENGER, reason=reason)


def walk_of(state: State) -> Walk:
    assert state.walk is not None
    return state.walk


def into(state: State, phase: Phase, root: Digest, count: int, children: moves.Path) -> State:
    """A new walk, whose first children come with the move that begins it."""
    walk = Walk.at_root(root, count)
    demand(walk.has(children), f"the children of the walk over {phase} do not join to its root")
    return state._replace(phase=phase, turn=Side.CHALLENGER, walk=walk)


def walked_type(state: State) -> TensorType:
    """Of the tensor whose chunks are walked."""
    return stages.decode_stage(state.stage).type if state.stage else stages.decode_input(state.record).type


def claim(state: State, chunk: bytes) -> int:
    """Bits of the named element: known, or in the chunk of the leaf."""
    if state.claimed is not None:
        demand(not chunk, "the chunk has been shown")
        return state.claimed
    check_leaf(state, chunk)
    return checks.element_of(walked_type(state), chunk, state.element)


def check_leaf(state: State, chunk: bytes) -> None:
    walk = walk_of(state)
    demand(walk.node == merkle.leaf(walk.index, chunk), "this is not the chunk of the leaf")
    checks.check_chunk(walked_type(state), walk.index, chunk)
