"""Whole disputes on either chain adapter (chain_world), played by the honest sides and by liars of tests/liars over the links of
tests/dispute_cases.py. `stranger` challenges unless told otherwise; `alice` provides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from chain_world import NAMES, TOKENS, Script, World, audited, told

from assay import cid, merkle
from assay.chain import (
    Activate,
    CallId,
    Commit,
    DisputeMoved,
    DisputeSealed,
    PayDispute,
    PlayMove,
    SealDispute,
    Terms,
)
from assay.dispute import moves
from assay.dispute.checks import IllegalMove
from assay.dispute.game import apply, seal_digest
from assay.dispute.moves import Moment, Revealed, Side, State, shown
from assay.dispute.players import Player
from assay.dispute.record import Disputed, Record, Rules, facts_of, state_of
from assay.ids import ZERO_ADDRESS, Digest, DisputeId, JobId, SegmentId
from assay.job import data_root
from assay.merkle import sha256
from assay.ports import Reverted
from assay.state import state_root
from tests import dispute_cases as cases

RULES = Rules(open_window=50, grace=10, budget=100, payout_delay=30, bond=5_001, pardon_after=1)
PRICE = 1_000_001
BOND = PRICE * 60 // 10


def terms() -> dict[str, object]:
    program = cases.PROGRAM
    return {
        "program_root": cases.job().root, "state_root": sha256(b"the first state"), "schedule_root": cases.job().schedule_root,
        "dataset_root": data_root(cases.data().dataset, cases.ORDER, cases.BATCH), "steps": len(cases.SCHEDULE),
        "micro_batches": cases.MICRO_BATCHES, "micro_leaves": program.micro_leaves, "update_leaves": program.update_leaves,
    }  # fmt: skip


def commit(segment: SegmentId, stop: int, ends: Sequence[Digest]) -> Commit:
    leaves = [merkle.leaf(i, end) for i, end in enumerate(ends)]
    return Commit(
        segment=segment, stop=stop, link_root=merkle.root(leaves), end_root=ends[-1], proof=merkle.prove(leaves, len(ends) - 1),
        checkpoint=cid.of(b"checkpoint"), key_id=sha256(b"key"), key_envelope=b"e" * 80,
    )  # fmt: skip


class Stage:
    """A posted job whose steps [1, 3) alice has committed with some ends, in a segment that is drawn."""

    def __init__(self, world: World, job: JobId, terms: Terms, segment: SegmentId, ends: Sequence[Digest]) -> None:
        self.world, self.job, self.terms, self.segment, self.ends = world, job, terms, segment, list(ends)
        self.revealed: tuple[Revealed, ...] = ()

    @classmethod
    async def set(cls, world: World, ends: Sequence[Digest]) -> Stage:
        await world.populate()
        return await cls.of(world, await world.post(**terms(), segment_steps=3), ends)

    @classmethod
    async def of(cls, world: World, job: JobId, ends: Sequence[Digest]) -> Stage:
        """Of a job that is posted."""
        first = await world.assign(job, 0, 0, 3)
        await world.do("alice", Activate(segment=first))
        before = [sha256(b"before", bytes([i])) for i in range(cases.MICRO_BATCHES)]
        await world.do("alice", commit(first, cases.START, [*before, state_root(cases.START, cases.initial_state())]))
        segment = await world.assign(job, first, cases.START, cases.STOP, PRICE)
        await world.do("alice", Activate(segment=segment))
        await world.do("alice", commit(segment, cases.STOP, ends))
        await world.drawn(segment)
        return cls(world, job, (await world.last_posted()).terms, segment, ends)

    async def seal(self, opening: moves.Open, by: str = "stranger") -> DisputeId:
        world = self.world
        chain = world.chains[by]
        known = {"chain_id": chain.chain_id, "disputes": chain.disputes, "segment": self.segment, "challenger": chain.account}
        told = msgspec.structs.replace(cases.facts(self.ends), **known)
        await world.do(by, SealDispute(segment=self.segment, digest=seal_digest(told, opening)))
        found: DisputeSealed = await world.last(DisputeSealed)
        await world.mine(1)
        return found.dispute

    async def state(self, dispute: DisputeId) -> tuple[Record, State]:
        chain = self.world.chains["stranger"]
        record = await chain.dispute(dispute)
        about = Disputed(
            segment=self.segment, start=cases.START, stop=cases.STOP, parent_end=state_root(cases.START, cases.initial_state()),
            link_root=merkle.root_of(self.ends), bond=BOND, revealed=self.revealed,
        )  # fmt: skip
        facts = facts_of(record, await chain.dispute_rules(), chain.chain_id, chain.disputes, self.terms, about)
        return record, state_of(record, facts)

    async def step(self, dispute: DisputeId, asserter: Player, challenger: Player, names: tuple[str, str] = ("alice", "stranger")) -> bool:
        """One move of whoever's turn it is; False when it has none that the game takes, and the chain refuses what it tried."""
        record, state = await self.state(dispute)
        last = record.moves[-1].move if record.moves else None
        player = asserter if state.turn is Side.ASSERTER else challenger
        who, move = names[state.turn is Side.CHALLENGER], player.move(state, last)
        if move is None:
            return False
        call = PlayMove(dispute=dispute, move=move, shown=shown(state))
        head = await self.world.chains[who].head()
        try:
            apply(state, move, Moment(head.number + 1, head.time + 1))
        except IllegalMove:
            try:
                await self.world.chains[who].send(CallId(f"refused {next(self.world.ids)}"), call)
            except Reverted:
                return False
            raise AssertionError(f"the game refuses {move}, and the chain takes it") from None
        await self.world.do(who, call)
        return True

    async def play(self, dispute: DisputeId, asserter: Player, challenger: Player, names: tuple[str, str] = ("alice", "stranger")) -> Record:
        """To the end: who does not move lets its time run out."""
        while (record := await self.world.chains["stranger"].dispute(dispute)).outcome is None:
            if not await self.step(dispute, asserter, challenger, names):
                due = (await self.world.last(DisputeMoved)).due
                await self.world.later(due - (await self.world.chains["stranger"].head()).time + 1)
                _, state = await self.state(dispute)
                await self.world.do("bob", PlayMove(dispute=dispute, move=moves.Timeout(), shown=shown(state)))
        return record

    async def pay(self, dispute: DisputeId) -> None:
        await self.world.later(RULES.payout_delay + 1)
        await self.world.do("bob", PayDispute(dispute=dispute))


def opening(unit: int) -> moves.Open:
    return moves.Open(target=0, unit=unit, verifier=ZERO_ADDRESS, round=0, salt=cases.SALT)


async def run(world: World, script: Script) -> tuple[list[Any], dict[str, int]]:
    """Plays it to its end: no token is lost, and an audit finds nothing. What was told, and who has what."""
    try:
        await script(world)
        assert sum((await world.balances()).values()) == TOKENS * len(NAMES)
        await audited(world)
        return await told(world), await world.balances()
    finally:
        await world.close()
