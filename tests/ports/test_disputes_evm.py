"""Disputes on anvil, through the real adapters: whole games by the players of assay/dispute, over a posted job whose links they really ran."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from chain_world import TOKENS, EvmWorld

from assay import chain, cid, merkle
from assay.adapters.evm import EvmReader
from assay.chain import (
    Activate,
    Commit,
    DisputeMoved,
    DisputeResolved,
    DisputeSealed,
    Outcome,
    PayDispute,
    PlayMove,
    SealDispute,
    WithdrawDisputes,
)  # fmt: skip
from assay.dispute import game, moves
from assay.dispute.moves import AnyMove, Facts, Phase, Side, State, shown
from assay.dispute.players import Asserter, Challenger, Player
from assay.dispute.record import Disputed, Record, Rules, facts_of, state_of
from assay.execute import schedule_root
from assay.ids import Address, Digest, DisputeId, SegmentId
from assay.job import data_root
from assay.localnet import rpc
from assay.localnet.anvil import Anvil, balances, deploy, find_anvil
from assay.merkle import sha256
from assay.ports import Reverted
from assay.state import state_root
from tests.dispute_cases import BATCH, MICRO_BATCHES, ORDER, PROGRAM, SCHEDULE, START, STOP, data, ends, honest, initial_state, job, opening
from tests.liars.disputes import Cunning, Doubter, Liar, at

RULES = Rules(open_window=500, grace=600, budget=300, payout_delay=50, bond=2_000_001)
MICRO, PRICE = 1, 1_000_001
BOND = PRICE * 6
"""Of the provider, reserved for the segment (bond_tenths = 60)."""


@pytest.fixture(autouse=True)
def needs_anvil() -> None:
    try:
        find_anvil()
    except FileNotFoundError as error:
        pytest.skip(str(error))


class Court:
    """A network with a segment that alice committed and whose verifiers are drawn, and a challenger: vera, one of them."""

    def __init__(self, world: EvmWorld, terms: chain.Terms, segment: SegmentId, committed: Sequence[Digest]) -> None:
        self.world, self.terms, self.segment, self.committed = world, terms, segment, committed
        self.alice, self.vera = world.chains["alice"], world.chains["vera"]

    @classmethod
    async def open(cls, anvil: Anvil, folder: Path, committed: Sequence[Digest]) -> Court:
        world = await EvmWorld.open(anvil, folder, RULES)
        await world.populate()
        posted = await world.post(
            program_root=job().root, schedule_root=schedule_root(SCHEDULE), dataset_root=data_root(data().dataset, ORDER, BATCH), steps=len(SCHEDULE),
            segment_steps=STOP, micro_batches=MICRO_BATCHES, micro_leaves=PROGRAM.micro_leaves, update_leaves=PROGRAM.update_leaves,
        )  # fmt: skip
        # the links of dispute_cases are those of steps [START, STOP): what comes before is somebody else's segment
        before = [sha256(b"end", bytes([i])) for i in range(MICRO_BATCHES)] + [state_root(START, initial_state())]
        first = await cls.commit(world, await world.assign(posted, 0, 0, STOP, by="bob"), "bob", START, before)
        rest = await world.assign(posted, first, START, STOP, price=PRICE)
        segment = await cls.commit(world, rest, "alice", STOP, committed)
        await world.drawn(segment)
        return cls(world, (await world.last_posted()).terms, segment, committed)

    @staticmethod
    async def commit(world: EvmWorld, segment: SegmentId, by: str, stop: int, committed: Sequence[Digest]) -> SegmentId:
        await world.do(by, Activate(segment=segment))
        leaves = [merkle.leaf(i, end) for i, end in enumerate(committed)]
        call = Commit(
            segment=segment, stop=stop, link_root=merkle.root(leaves), end_root=committed[-1], proof=merkle.prove(leaves, len(leaves) - 1),
            checkpoint=cid.of(b"checkpoint"), key_id=sha256(b"key"), key_envelope=b"e" * 80,
        )  # fmt: skip
        await world.do(by, call)
        return segment

    # ---- the dispute

    async def seal(self, move: moves.Open) -> DisputeId:
        facts = self.facts_of(Record(
            dispute=DisputeId(1), segment=self.segment, challenger=self.vera.account, asserter=self.alice.account, stake=0, digest=Digest(b""),
            block=0, time=0, moves=(), outcome=None, paid=False,
        ))  # fmt: skip
        await self.world.do("vera", SealDispute(segment=self.segment, digest=game.seal_digest(facts, move)))
        return (await self.world.last(DisputeSealed)).dispute

    def facts_of(self, record: Record) -> Facts:
        segment = Disputed(
            segment=self.segment, start=START, stop=STOP, parent_end=state_root(START, initial_state()), link_root=merkle.root_of(list(self.committed)),
            bond=BOND, revealed=(),
        )  # fmt: skip
        return facts_of(record, RULES, self.vera.chain_id, self.vera.disputes, self.terms, segment)

    async def stand(self, name: str, dispute: DisputeId) -> tuple[Record, State]:
        """The dispute as the port of `name` has it."""
        record = await self.world.chains[name].dispute(dispute)
        return record, state_of(record, self.facts_of(record))

    async def turn(self, dispute: DisputeId, players: dict[Side, Player]) -> State:
        """The side whose turn it is reads the chain and moves, or is silent until anyone may say so."""
        names = {Side.ASSERTER: "alice", Side.CHALLENGER: "vera"}
        side = (await self.stand("stranger", dispute))[1].turn
        record, state = await self.stand(names[side], dispute)
        move = players[side].move(state, record.moves[-1].move if record.moves else None)
        if move is None:
            assert await self.world.refused("stranger", PlayMove(dispute=dispute, move=moves.Timeout(), shown=shown(state))) == "TooEarly"
            await self.world.later(RULES.grace + RULES.budget + RULES.open_window)
            await self.world.do("stranger", PlayMove(dispute=dispute, move=moves.Timeout(), shown=shown(state)))
        else:
            await self.world.do(names[side], PlayMove(dispute=dispute, move=move, shown=shown(state)))
        return (await self.stand("stranger", dispute))[1]

    async def play(self, dispute: DisputeId, asserter: Player, challenger: Player, most: int = 100) -> State:
        """Until it is resolved, or for `most` moves."""
        state = (await self.stand("stranger", dispute))[1]
        for _ in range(most):
            if state.phase is Phase.RESOLVED:
                break
            state = await self.turn(dispute, {Side.ASSERTER: asserter, Side.CHALLENGER: challenger})
        return state

    async def paid(self, dispute: DisputeId) -> dict[str, int]:
        """Who holds what after all has been paid and pulled, against what they began with."""
        assert await self.world.refused("stranger", PayDispute(dispute=dispute)) == "TooEarly"
        await self.world.later(RULES.payout_delay + 1)
        await self.world.do("stranger", PayDispute(dispute=dispute))
        for name in ("alice", "vera"):
            if (await self.world.chains[name].view(self.world[name])).dispute_credit:
                await self.world.do(name, WithdrawDisputes())
        network = self.world.network
        found = balances(network, [chain.account for chain in self.world.chains.values()])
        assert sum(found.values()) == TOKENS * len(self.world.chains)
        assert found[network.disputes] == 0
        held = await self.world.balances()
        stakes = {name: (await self.world.chains[name].view(self.world[name])).stake for name in ("alice", "vera")}
        return {name: held[name] + stakes[name] - TOKENS for name in stakes} | {"burnt": held["burnt"]}


def on_anvil(folder: Path, committed: Sequence[Digest], body: Callable[[Court, Anvil], Awaitable[None]]) -> None:
    async def go() -> None:
        with Anvil(folder / "chain", block_time=None) as anvil:
            court = await Court.open(anvil, folder, committed)
            try:
                await body(court, anvil)
            finally:
                await court.world.close()

    asyncio.run(asyncio.wait_for(go(), 300))


def lie(liar: Liar) -> list[Digest]:
    """What a provider commits to whose link MICRO is a lie."""
    return [*ends()[:MICRO], liar.end_root, *ends()[MICRO + 1 :]]


def true_challenger(move: moves.Open) -> Challenger:
    return Challenger(honest().__getitem__, ends(), move)


def test_a_provider_that_lies_is_slashed_over_a_node_that_restarts(tmp_path: Path) -> None:
    liar = Liar(MICRO, {at("matmul"): lambda y, _: y * 1.5})
    told, move = lie(liar), opening(MICRO)

    async def body(court: Court, anvil: Anvil) -> None:
        asserter, challenger = Cunning(lambda _: liar, told), true_challenger(move)
        dispute = await court.seal(move)
        assert (await court.alice.view(court.alice.account)).reserved == BOND
        state = await court.play(dispute, asserter, challenger, most=7)
        assert state.phase is not Phase.RESOLVED
        before = await court.vera.dispute(dispute)
        anvil.stop()
        anvil.start()
        assert await court.vera.dispute(dispute) == before
        state = await court.play(dispute, asserter, challenger)
        assert state.verdict is moves.Verdict.CHALLENGER
        record = await court.alice.dispute(dispute)
        assert (record.outcome, record.paid) == (Outcome.ASSERTER_LOST, False)
        assert (record.challenger, record.asserter, record.stake) == (court.vera.account, court.alice.account, RULES.bond)
        assert {type(played.move) for played in record.moves} >= {moves.Fold, moves.Pick, moves.Split, moves.Item}
        assert (await court.world.last(chain.Rejected)).segment == court.segment
        assert (await court.world.last(DisputeResolved)).taken == BOND
        assert await court.paid(dispute) == {"alice": -BOND, "vera": BOND - BOND // 2, "burnt": BOND // 2}
        assert (await court.vera.dispute(dispute)).paid
        reader = await EvmReader.open(anvil.url, court.world.network.jobs)  # one that has seen nothing of it
        try:
            assert await reader.dispute(dispute) == await court.vera.dispute(dispute)
        finally:
            await reader.close()

    on_anvil(tmp_path, told, body)


def test_a_challenger_of_what_is_true_pays_for_it(tmp_path: Path) -> None:
    move = opening(MICRO)

    async def body(court: Court, anvil: Anvil) -> None:
        asserter = Asserter(honest().__getitem__, ends())
        doubter = Doubter(honest().__getitem__, asserter.link_tree, move, 7, {Phase.TRACE: 1 + at("mul")})
        dispute = await court.seal(move)
        record = await court.vera.dispute(dispute)
        assert (record.asserter, record.outcome, record.moves) == (court.alice.account, None, ())
        state = await court.play(dispute, asserter, doubter)
        assert state.verdict is moves.Verdict.ASSERTER
        assert (await court.alice.dispute(dispute)).outcome is Outcome.ASSERTER_WON
        half = RULES.bond // 2
        assert await court.paid(dispute) == {"alice": RULES.bond - half, "vera": -RULES.bond, "burnt": half}
        seen = [event for event in await court.world.events() if isinstance(event, DisputeMoved)]
        assert [event.asserting for event in seen[:2]] == [True, False]
        assert all(event.due == event.time + RULES.grace + RULES.budget for event in seen)

    on_anvil(tmp_path, ends(), body)


class Silent:
    def move(self, state: State, last: AnyMove | None) -> AnyMove | None:
        return None


def test_who_is_silent_loses_and_what_is_not_opened_is_over(tmp_path: Path) -> None:
    move = opening(MICRO)

    async def body(court: Court, anvil: Anvil) -> None:
        assert await court.vera.dispute_rules() == RULES
        assert await court.vera.dispute_bond(court.segment) == RULES.bond
        dispute = await court.seal(move)
        assert await court.world.chains["stranger"].dispute_bond(court.segment) == 2 * RULES.bond  # it is nobody's drawn verifier
        unopened = await court.seal(move)
        await court.world.later(RULES.open_window + 1)
        refused = PlayMove(dispute=unopened, move=move, shown=shown((await court.stand("vera", unopened))[1]))
        assert await court.world.refused("vera", refused) == "TooLate"
        state = await court.play(unopened, Silent(), Silent())
        assert state.reason == "the challenger was silent in sealed"
        again = await court.seal(move)
        assert (await court.play(again, Silent(), true_challenger(move))).reason == "the asserter was silent in traced"
        record = await court.vera.dispute(again)
        assert [type(played.move) for played in record.moves] == [moves.Open, moves.Timeout]
        assert record.outcome is Outcome.ASSERTER_LOST
        assert (await court.vera.dispute(dispute)).outcome is None
        with pytest.raises(KeyError):
            await court.vera.dispute(DisputeId(again + 1))

    on_anvil(tmp_path, ends(), body)


def test_a_network_that_is_bound_to_no_game_has_no_disputes() -> None:
    """Its Disputes contract answers every call with a zero word: `disputable` is false."""
    with Anvil(block_time=None) as anvil:
        network = deploy(anvil.url)
        rpc.call(anvil.url, "anvil_setCode", network.disputes, "0x5f5f5260205ff3")

        async def body() -> None:
            reader = await EvmReader.open(anvil.url, network.jobs)
            try:
                assert reader.disputes == ""
                assert (await reader.view(Address("0x" + "a1" * 20))).dispute_credit == 0
                with pytest.raises(KeyError):
                    await reader.dispute(DisputeId(1))
                with pytest.raises(Reverted, match="no disputes"):
                    await reader.dispute_rules()
            finally:
                await reader.close()

        asyncio.run(body())
