"""The public record of a dispute: what the chain has of it, and the state of the game that follows."""

from __future__ import annotations

from collections.abc import Iterable

from assay.chain import Outcome, Terms
from assay.codec import Message
from assay.dispute.moves import AnyMove, Facts, Moment, Revealed, State
from assay.ids import Address, Digest, DisputeId, SegmentId


class Rules(Message, frozen=True, kw_only=True):
    """Of a network, fixed when its contracts are deployed. Seconds, token's smallest units."""

    open_window: int
    grace: int
    budget: int
    payout_delay: int
    bond: int
    """A challenger's, on a segment without open disputes."""
    pardon_after: int = 1000
    """A provider that has had so many segments settled since the last time may concede one link for nothing; 0: none may."""


class Played(Message, frozen=True, kw_only=True):
    move: AnyMove
    block: int
    time: int


class Record(Message, frozen=True, kw_only=True):
    """A dispute as the chain has it at its newest block."""

    dispute: DisputeId
    segment: SegmentId
    challenger: Address
    asserter: Address
    """The provider, until it is opened against a verifier."""
    stake: int
    """The challenger's bond."""
    allowance: int
    """Seconds that the asserter has to replay the link, before its clock runs."""
    digest: Digest
    block: int
    time: int
    """Of the seal, like `block`."""
    moves: tuple[Played, ...]
    """A Timeout, too; not the guardian's."""
    outcome: Outcome | None
    paid: bool


class Disputed(Message, frozen=True, kw_only=True):
    """What of a segment its disputes depend on."""

    segment: SegmentId
    start: int
    stop: int
    parent_end: Digest
    link_root: Digest
    bond: int
    revealed: tuple[Revealed, ...]


def facts_of(record: Record, rules: Rules, chain_id: int, disputes: Address, terms: Terms, segment: Disputed) -> Facts:
    return Facts(
        chain_id=chain_id, disputes=disputes, segment=record.segment, challenger=record.challenger, program_root=terms.program_root,
        schedule_root=terms.schedule_root, data_root=terms.dataset_root, steps=terms.steps, micro_batches=terms.micro_batches,
        micro_leaves=terms.micro_leaves, update_leaves=terms.update_leaves, start=segment.start, stop=segment.stop,
        parent_end=segment.parent_end, link_root=segment.link_root, revealed=segment.revealed, open_window=rules.open_window,
        grace=rules.grace, budget=rules.budget, bond=segment.bond, stake=record.stake, allowance=record.allowance,
    )  # fmt: skip


def state_of(record: Record, facts: Facts) -> State:
    """The game after all moves of the record. Raises IllegalMove for moves that no contract has accepted: the record or the facts are false."""
    return replayed(facts, record.digest, Moment(record.block, record.time), record.moves)


def replayed(facts: Facts, digest: Digest, at: Moment, moves: Iterable[Played]) -> State:
    from assay.dispute import game  # numpy comes with it

    state = game.sealed(facts, digest, at)
    for played in moves:
        state = game.apply(state, played.move, Moment(played.block, played.time))
    return state
