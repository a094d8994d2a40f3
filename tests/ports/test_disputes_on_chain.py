"""Disputes through the chain port: who is right is paid, who is wrong pays, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from chain_world import NO, VERIFIERS, WINDOW, YES, EvmWorld, MemoryWorld, World
from dispute_world import BOND, RULES, Stage, opening, run
from typer.testing import CliRunner

from assay.adapters import evm_abi
from assay.chain import (
    BondCleared,
    CancelJob,
    ClearDisputed,
    CloseJob,
    Credited,
    Disclose,
    DisputeCredited,
    DisputeResolved,
    JobPosted,
    Outcome,
    Pardoned,
    PlayMove,
    Redraw,
    Rejected,
    SealDispute,
    Settle,
    WithdrawDisputes,
    Withheld,
)
from assay.cli.app import app
from assay.dispute import moves
from assay.dispute.moves import Phase, Revealed, shown
from assay.dispute.players import Asserter, Challenger
from assay.ids import Digest
from assay.localnet import rpc
from assay.localnet.anvil import Anvil
from assay.merkle import sha256
from tests import dispute_cases as cases
from tests.liars.disputes import Liar, at, flipped

MICRO = 1
Script = Callable[[World], Awaitable[None]]


class Silent:
    def move(self, *_: object) -> None:
        return None


def lie() -> Liar:
    return Liar(MICRO, {at("exp"): lambda y, _: flipped(y, 3, 23)})


def committed(link: Liar) -> list[Digest]:
    return [*cases.ends()[:MICRO], link.end_root, *cases.ends()[MICRO + 1 :]]


def honest(move: moves.Open) -> Challenger:
    return Challenger(cases.honest().__getitem__, cases.ends(), move)


async def a_liar_is_slashed(world: World) -> None:
    link = lie()
    stage = await Stage.set(world, committed(link))
    before = await world.balances()
    dispute = await stage.seal(opening(MICRO))
    record = await stage.play(dispute, Asserter(lambda _: link, stage.ends), honest(opening(MICRO)))
    assert (record.outcome, record.moves[-1].move.__class__) == (Outcome.ASSERTER_LOST, moves.Prove)
    assert (await world.last(Rejected)).segment == stage.segment
    await stage.pay(dispute)
    credited = await world.last(DisputeCredited)
    assert (world.name(credited.who), credited.amount) == ("stranger", RULES.bond + BOND - BOND // 2)
    assert (await world.chains["stranger"].view(world["stranger"])).dispute_credit == credited.amount
    await world.do("stranger", WithdrawDisputes())
    after = await world.balances()
    assert after["stranger"] - before["stranger"] == BOND - BOND // 2
    assert after.get("burnt", 0) - before.get("burnt", 0) == BOND // 2
    assert before["stakes"] - after["stakes"] == BOND
    assert await world.refused("stranger", WithdrawDisputes()) == "NothingToWithdraw"


async def an_honest_provider_is_paid(world: World) -> None:
    stage = await Stage.set(world, cases.ends())
    dispute = await stage.seal(opening(MICRO))
    wrong = Challenger(lambda unit: lie(), cases.ends(), opening(MICRO))
    assert await world.refused("stranger", Settle(segment=stage.segment)) == "WrongState"
    record = await stage.play(dispute, Asserter(cases.honest().__getitem__, stage.ends), wrong)
    assert record.outcome == Outcome.ASSERTER_WON
    await stage.pay(dispute)
    assert (await world.chains["stranger"].view(world["alice"])).dispute_credit == RULES.bond - RULES.bond // 2
    record = await world.chains["stranger"].dispute(dispute)
    assert record.paid
    assert record.asserter == world["alice"]


async def the_silent_lose(world: World) -> None:
    link = lie()
    stage = await Stage.set(world, committed(link))
    first = await stage.seal(opening(MICRO))
    assert await world.chains["bob"].dispute_bond(stage.segment) == RULES.bond * 2  # one more is dearer for a stranger
    record = await stage.play(first, Silent(), honest(opening(MICRO)))
    assert record.outcome == Outcome.ASSERTER_LOST
    assert len(record.moves) == 2
    await stage.pay(first)
    await world.do("bob", ClearDisputed(segment=stage.segment))
    cleared: BondCleared = await world.last(BondCleared)
    assert (cleared.segment, cleared.amount) == (stage.segment, 0)


async def a_concession_costs_half(world: World) -> None:
    stage = await Stage.set(world, committed(lie()))
    dispute = await stage.seal(opening(MICRO))
    record = await stage.play(dispute, Repentant(), honest(opening(MICRO)))
    assert record.outcome == Outcome.CONCEDED
    await stage.pay(dispute)
    await world.do("bob", ClearDisputed(segment=stage.segment))
    cleared: BondCleared = await world.last(BondCleared)
    assert (cleared.segment, cleared.amount) == (stage.segment, BOND - BOND // 2)
    assert (await world.chains["bob"].view(world["stranger"])).dispute_credit == RULES.bond


class Repentant:
    def move(self, *_: object) -> moves.Concede:
        return moves.Concede()


async def a_pardon_costs_the_price_alone(world: World) -> None:
    """One segment of alice's settles; then the stage's, which has waited for it, is served, and its seals are over."""
    stage = await Stage.set(world, committed(lie()))
    job = await world.post()
    other = await world.committed(job, 0, 0, 2)
    await world.checked(other, dict.fromkeys(VERIFIERS, YES))
    await world.settled(other)
    await world.do("stranger", Redraw(segment=stage.segment))
    drawn = await world.drawn(stage.segment)
    await world.keys(stage.segment, *VERIFIERS)
    await world.served(stage.segment, drawn.round)
    await world.later(WINDOW + 1)
    dispute = await stage.seal(opening(MICRO))
    record = await stage.play(dispute, Repentant(), honest(opening(MICRO)))
    resolved = await world.last(DisputeResolved)
    assert (record.outcome, resolved.taken, (await world.last(Pardoned)).unit) == (Outcome.CONCEDED, 0, MICRO)
    await stage.pay(dispute)
    assert await world.refused("bob", ClearDisputed(segment=stage.segment)) == "NothingToClear"
    second = await stage.seal(opening(MICRO + 1))
    await stage.play(second, Repentant(), honest(opening(MICRO + 1)))
    assert (await world.last(DisputeResolved)).taken == BOND // 2
    await stage.pay(second)
    await world.later(WINDOW + 1)
    await world.do("bob", ClearDisputed(segment=stage.segment))
    assert (await world.last(BondCleared)).amount == BOND - BOND // 2


async def withheld(world: World) -> Stage:
    """A segment that all three verifiers have said no to."""
    await world.populate()
    job = await world.post()
    segment = await world.committed(job, 0, 0, 2)
    await world.checked(segment, dict.fromkeys(VERIFIERS, NO))
    assert (await world.last(Withheld)).segment == segment
    ends = [sha256(b"end", bytes([i])) for i in range(len(cases.ends()))]
    return Stage(world, job, (await world.last_posted()).terms, segment, ends)


async def a_no_is_paid_when_a_dispute_bears_it_out(world: World) -> None:
    stage = await withheld(world)
    assert await paid_as(world, "fee") == []
    dispute = await stage.seal(opening(MICRO))
    record = await stage.play(dispute, Silent(), honest(opening(MICRO)))
    assert record.outcome == Outcome.ASSERTER_LOST
    assert sorted(await paid_as(world, "fee")) == sorted((name, stage.terms.fee) for name in VERIFIERS)
    await stage.pay(dispute)
    await world.do("client", CancelJob(job=stage.job))
    await world.do("client", CloseJob(job=stage.job))


async def a_no_that_nobody_bears_out_is_not_paid(world: World) -> None:
    stage = await withheld(world)
    await world.do("client", CancelJob(job=stage.job))
    await world.do("client", CloseJob(job=stage.job))
    kept = 3 * stage.terms.fee
    assert await paid_as(world, "refund") == [("client", stage.terms.budget - kept)]
    await world.later(WINDOW + 1)
    await world.do("bob", ClearDisputed(segment=stage.segment))
    assert await paid_as(world, "refund") == [("client", stage.terms.budget - kept), ("client", kept)]
    assert await paid_as(world, "fee") == []


async def paid_as(world: World, reason: str) -> list[tuple[str, int]]:
    return [(world.name(event.who), event.amount) for event in await world.events() if isinstance(event, Credited) and event.reason == reason]


async def a_vote_falls_before_a_second_challenger_opens(world: World) -> None:
    await world.populate()
    job = await world.post(params={"links": 0})
    segment = await world.committed(job, 0, 0, 2)
    drawn = await world.drawn(segment)
    await world.keys(segment, *VERIFIERS)
    await world.served(segment, drawn.round)
    liar, *_ = VERIFIERS
    await world.vote(drawn, {name: (True, b"false" if name == liar else b"right") for name in VERIFIERS})
    _, told = world.reveal_of(liar, drawn, True, b"false")
    disclosure = Disclose(segment=segment, round=0, verifier=world[liar], trace_roots=told.trace_roots, salt=told.salt)
    await world.do("bob", disclosure)
    ends = [sha256(b"end", bytes([i])) for i in range(len(cases.ends()))]
    stage = Stage(world, job, (await world.last_posted()).terms, segment, ends)
    unit = drawn.units[0]
    stage.revealed = (Revealed(verifier=world[liar], round=0, unit=unit, agrees=True, trace_root=told.trace_roots[0]),)
    over = moves.Open(target=1, unit=unit, verifier=world[liar], round=0, salt=cases.SALT)
    first, late = await stage.seal(over, "bob"), await stage.seal(over, "stranger")
    await stage.play(first, Repentant(), honest(over), (liar, "bob"))
    _, state = await stage.state(late)
    await world.do("stranger", PlayMove(dispute=late, move=over, shown=shown(state)))
    record = await world.chains["stranger"].dispute(late)
    assert (record.outcome, record.paid, [played.move for played in record.moves]) == (Outcome.VOID, True, [over])
    assert (await world.chains["stranger"].view(world["stranger"])).dispute_credit == 2 * RULES.bond
    await stage.pay(first)


async def what_is_refused(world: World) -> None:
    stage = await Stage.set(world, cases.ends())
    assert await world.refused("stranger", SealDispute(segment=stage.segment.__class__(99), digest=Digest(bytes(32)))) == "NoSuchSegment"
    dispute = await stage.seal(opening(MICRO))
    _, state = await stage.state(dispute)
    assert state.phase is Phase.SEALED
    move = PlayMove(dispute=dispute, move=opening(MICRO), shown=shown(state))
    assert await world.refused("bob", move) == "NotPlayer"
    assert await world.refused("alice", PlayMove(dispute=dispute, move=moves.Concede(), shown=shown(state)))
    await world.do("stranger", move)
    assert await world.refused("stranger", move) in ("NotPlayer", "WrongTurn")
    assert await world.refused("bob", PlayMove(dispute=dispute, move=moves.Timeout(), shown=shown(state))) in ("IllegalMove", "TooEarly")
    assert await world.refused("bob", ClearDisputed(segment=stage.segment)) == "NothingToClear"
    with pytest.raises(KeyError):
        await world.chains["bob"].dispute(dispute.__class__(9))


DISPUTE_SCRIPTS: list[Script] = [
    a_liar_is_slashed, an_honest_provider_is_paid, the_silent_lose, a_concession_costs_half, a_pardon_costs_the_price_alone,
    a_no_is_paid_when_a_dispute_bears_it_out, a_no_that_nobody_bears_out_is_not_paid, a_vote_falls_before_a_second_challenger_opens,
    what_is_refused,
]  # fmt: skip


@pytest.mark.parametrize("script", DISPUTE_SCRIPTS, ids=lambda script: script.__name__)
def test_in_memory(script: Script) -> None:
    asyncio.run(run(MemoryWorld(RULES), script))


@pytest.mark.usefixtures("needs_anvil")
@pytest.mark.parametrize("script", DISPUTE_SCRIPTS, ids=lambda script: script.__name__)
def test_on_the_evm_it_leaves_the_same_as_in_memory(script: Script, tmp_path: Path) -> None:
    async def on_evm() -> tuple[list[Any], dict[str, int]]:
        with Anvil(block_time=None) as anvil:
            return await run(await EvmWorld.open(anvil, tmp_path, RULES), script)

    assert asyncio.run(on_evm()) == asyncio.run(run(MemoryWorld(RULES), script))


@pytest.mark.usefixtures("needs_anvil")
def test_a_dispute_on_the_evm_is_shown_by_a_command(tmp_path: Path) -> None:
    """`assay dispute show` knows the network's address and nothing else."""

    async def play() -> None:
        world = await EvmWorld.open(anvil, tmp_path, RULES)
        try:
            await a_liar_is_slashed(world)
        finally:
            await world.close()

    with Anvil(block_time=None) as anvil:
        asyncio.run(play())
        where = ["--rpc", anvil.url, "--contract", _contract(anvil)]
        shown = CliRunner().invoke(app, ["dispute", "show", "1", *where, "--json"])
        assert shown.exit_code == 0, shown.output
        found = json.loads(shown.output.splitlines()[-1])
        assert (found["outcome"], found["paid"], found["steps"][-1]["move"]) == (Outcome.ASSERTER_LOST, True, "Prove")
        assert found["pays"][0] == f"the asserter loses {BOND} of its bond of {BOND}"
        asserted, right = found["steps"][-1]["values"][-2:]
        assert int(asserted["bits"], 16) == int(right["bits"], 16) ^ 1 << 23
        text = CliRunner().invoke(app, ["dispute", "show", "1", *where]).output
        assert "exp(f32[24, 80]) -> f32[24, 80]" in text
        assert "the challenger has won: element 3 of exp is wrong" in text
        none = CliRunner().invoke(app, ["dispute", "show", "9", *where, "--json"])
        assert json.loads(none.stdout.splitlines()[-1])["why"] == "this network has: 1"


def _contract(anvil: Anvil) -> str:
    """The one that said that a job was posted."""
    logs: Any = rpc.call(anvil.url, "eth_getLogs", {"fromBlock": "0x0", "topics": ["0x" + evm_abi.topic(JobPosted).hex()]})
    return str(logs[0]["address"])
