"""How many moves a dispute can still take, and how long: it always ends.

Each function counts the moves that are left at most, by the heights of the trees that may still be walked and the items of the folds that may
still be split. Every move that game.apply accepts makes the number smaller; at none the dispute is resolved (docs/dispute.md, "How long").
"""

from __future__ import annotations

from typing import NamedTuple

from assay import merkle
from assay.dispute.folds import SPLIT_BITS
from assay.dispute.moves import Facts, Phase, Side, State
from assay.dispute.tree import WIDTH
from assay.links import count

WALKS = {Phase.LINKS: (Phase.TRACED,), Phase.TRACE: (Phase.STAGE, Phase.END, Phase.BATCH), Phase.CHUNKS: (Phase.CHUNK,)}
WALKS |= {Phase.ENTRIES: (Phase.ENTRY,), Phase.FIELDS: (Phase.FIELD,)}
"""Where each walk leads."""
NEXT = {Phase.STAGE: Phase.CHUNKS, Phase.CHUNK: Phase.NAME, Phase.NAME: Phase.ELEMENT, Phase.ELEMENT: Phase.PICK, Phase.END: Phase.ENTRIES}
NEXT |= {Phase.TRACED: Phase.TRACE, Phase.BATCH: Phase.FIELDS, Phase.FIELD: Phase.CHUNKS, Phase.SEALED: Phase.LINKS}
"""Where a phase of one move leads; the others of one move decide."""


class Sizes(NamedTuple):
    """The most that a job's program has of each."""

    chunks: int
    """Of a tensor."""
    items: int
    """Of a fold."""
    entries: int
    """Of a link's end."""


MOST_FIELDS = 1 << 32
"""Of a batch: it is the asserter who says how many, in a u32, and a lie is found at the end of the walk."""


def openings(height: int) -> int:
    """Of a walk over a tree so high: each a point, and before it a reveal if no other move has brought the children."""
    return max(1, -(-height // WIDTH))


def splits(items: int) -> int:
    """Of a range, until a single item is left."""
    return -(-(items - 1).bit_length() // SPLIT_BITS)


def moves_left(state: State, sizes: Sizes) -> int:
    """At most, a timeout not counted."""
    phase, challenger = state.phase, state.turn is Side.CHALLENGER
    if phase is Phase.RESOLVED:
        return 0
    if phase is Phase.RANGE:
        return 1 + 2 * splits(state.high - state.low) - challenger
    if state.walk is not None and phase in WALKS:
        return 2 * openings(state.walk.height) - challenger + _after(phase, state.facts, sizes, bool(state.record))
    return _phase(phase, state.facts, sizes, bool(state.record))


def _phase(phase: Phase, facts: Facts, sizes: Sizes, of_batch: bool = False) -> int:
    """At the beginning of a phase; `of_batch`: of those that follow a field of the batch."""
    if phase in WALKS:
        links, leaves = count(facts.stop - facts.start, facts.micro_batches), max(facts.micro_leaves, facts.update_leaves)
        many = {Phase.LINKS: links, Phase.TRACE: leaves, Phase.CHUNKS: sizes.chunks, Phase.ENTRIES: sizes.entries, Phase.FIELDS: MOST_FIELDS}
        brought = phase is not Phase.LINKS
        return 2 * openings(merkle.depth(many[phase])) - brought + _after(phase, facts, sizes, of_batch)
    if phase is Phase.PICK:
        return 2 * max(1, splits(sizes.items))
    following = Phase.RECORD if phase is Phase.NAME and of_batch else NEXT.get(phase)
    return 1 + (_phase(following, facts, sizes, of_batch or phase is Phase.FIELD) if following else 0)


def _after(phase: Phase, facts: Facts, sizes: Sizes, of_batch: bool) -> int:
    """What follows a walk."""
    return max(_phase(after, facts, sizes, of_batch) for after in WALKS[phase])


def seconds_left(state: State, sizes: Sizes, time: int) -> int:
    """Until the dispute is resolved, or a side is late and anyone may end it: what is left of this turn, a grace for each later move, what is
    left of both budgets, and the time for the replay, if that is still to come. At most, if everything is always done at the last moment."""
    facts, now = state.facts, time - state.since
    budgets = 2 * facts.budget - sum(state.spent)
    begun = facts.open_window if state.phase is Phase.SEALED else facts.grace
    ahead = facts.allowance if state.phase in (Phase.SEALED, Phase.LINKS) else 0
    return begun - now + (moves_left(state, sizes) - 1) * facts.grace + budgets + ahead
