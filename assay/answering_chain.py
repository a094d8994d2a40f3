"""A dispute over a receipt on a chain: one side's moves, from the public record, until it is decided.

Nothing is kept between moves but the receipt: each is made from the chain's newest record, as the daemons of workers and verifiers do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from assay.answering import Case, opening
from assay.chain import CallId, DisputeSealed, PlayMove, SealDispute
from assay.dispute import game, moves
from assay.dispute.moves import Phase, Side, State, shown
from assay.dispute.players import Player
from assay.dispute.record import Record, state_of
from assay.ids import Digest, DisputeId, SegmentId
from assay.ports import Chain, Outage

LOOK = 0.5
"""Seconds between looks at the chain."""


async def position(chain: Chain, case: Case, number: SegmentId, dispute: DisputeId) -> tuple[Record, State]:
    """The public record, and the game after it."""
    record, rules = await chain.dispute(dispute), await chain.dispute_rules()
    facts = case.facts(
        chain_id=chain.chain_id, disputes=chain.disputes, segment=number, challenger=record.challenger, open_window=rules.open_window,
        grace=rules.grace, budget=rules.budget, stake=record.stake, allowance=record.allowance,
    )  # fmt: skip
    return record, state_of(record, facts)


async def seal(chain: Chain, case: Case, number: SegmentId, unit: int, salt: Digest) -> DisputeId:
    """Locks the challenger's bond. Raises Reverted, Outage."""
    known = case.facts(chain_id=chain.chain_id, disputes=chain.disputes, segment=number, challenger=chain.account)
    digest = game.seal_digest(known, opening(unit, salt))
    block = await chain.send(CallId(f"seal:{digest.hex()}"), SealDispute(segment=number, digest=digest))
    for event in await chain.events((block - 1, 1 << 62), 0):
        if isinstance(event, DisputeSealed) and event.segment == number and event.challenger == chain.account:
            return event.dispute
    raise Outage(f"the seal was mined in block {block}, but its event is not to be seen (a reorganisation?)")


async def play(
    chain: Chain, case: Case, number: SegmentId, dispute: DisputeId, side: Side, player: Player, sleep: Callable[[float], Awaitable[object]]
) -> Record:
    """To the end: makes this side's moves, and calls the time of the other when that is over. Raises Reverted, Outage."""
    while True:
        record, state = await position(chain, case, number, dispute)
        if record.outcome is not None:
            return record
        move: moves.AnyMove | None = None
        if state.turn is side:
            move = player.move(state, record.moves[-1].move if record.moves else None)
        elif game.left(state, (await chain.head()).time) < 0:
            move = moves.Timeout()
        if move is None:
            await sleep(LOOK)
            continue
        call = PlayMove(dispute=dispute, move=move, shown=shown(state))
        await chain.send(CallId(f"move:{dispute}:{len(record.moves)}:{type(move).__name__}"), call)


class Honest:
    """The signer's side: it concedes what its own run refutes, and answers for the rest."""

    def __init__(self, case: Case, asserter: Player) -> None:
        self.case, self.asserter = case, asserter

    def move(self, state: State, last: moves.AnyMove | None) -> moves.AnyMove | None:
        if state.phase is Phase.TRACED and self.case.own(state.unit).end_root != self.case.ends[state.unit]:
            return moves.Concede()
        return self.asserter.move(state, last)


