"""Records that a dispute shows are paid for, by its loser: one suite over the ledger in memory and over the contracts on anvil, with the same
events and balances on both, and an audit that finds nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from chain_world import SPEC, EvmWorld, MemoryWorld, Script, World
from dispute_world import BOND, RULES, Stage, opening, run, terms
from test_datasets import FOREVER, MOST

from assay.chain import (
    ClaimShowing,
    DisputePaid,
    GrantLicence,
    Outcome,
    PostLicensed,
    PriceRecords,
    PublishDataset,
    RecordsShown,
    ShowingOwed,
    ShowingPaid,
    WithdrawDisputes,
    WithdrawShowings,
)
from assay.dispute.moves import Phase
from assay.dispute.players import Asserter, Challenger
from assay.ids import Cid, DatasetId, Digest, DisputeId, JobId
from assay.job import DatasetRef, data_head
from assay.licensing import ENDLESS, Uses, encode_uses
from assay.localnet.anvil import Anvil
from assay.merkle import sha256
from assay.publish.manifest import shards_root
from assay.sampling import record_indices
from tests import dispute_cases as cases
from tests.liars.disputes import Doubter, Liar

MICRO = 1
FIRST, COUNT = cases.BATCH * (cases.START * cases.MICRO_BATCHES + MICRO), cases.BATCH
"""A field of the batch is less than a chunk, so a dispute over it shows all of its records."""
HEAD = data_head(cases.data().dataset, cases.ORDER, cases.BATCH)


async def owned(world: World, ref: DatasetRef, by: str, price: int | None) -> DatasetId:
    """A dataset of `by`, who has three quarters, and the key service, licensed to anyone."""
    await world.do(by, PublishDataset(
        cid=Cid(SPEC), manifest=sha256(ref.name.encode()), root=shards_root(ref), records=ref.records, key_service=world["keyservice"],
        owners=(world[by], world["keyservice"]), shares=(7_500, 2_500),
    ))  # fmt: skip
    number = DatasetId(max(event.dataset for event in await world.events() if type(event).__name__ == "DatasetPublished"))
    anyone = GrantLicence(dataset=number, who="0x" + "00" * 20, price=10, uses=ENDLESS, until=FOREVER, purposes=0)  # type: ignore[arg-type]
    await world.do(by, anyone)
    if price is not None:
        await world.do(by, PriceRecords(dataset=number, price=price))
    return number


async def posted(world: World, *numbers: DatasetId) -> JobId:
    now = (await world.chains["client"].head()).time
    uses = encode_uses(Uses(numbers, HEAD, 0, MOST, (0,) * len(numbers)))
    await world.do("client", PostLicensed(terms=world.terms(now, **terms(), segment_steps=3), uses=uses))
    return (await world.last_posted()).job  # type: ignore[no-any-return]


def part(begin: int, end: int) -> DatasetRef:
    """A dataset of some of the shards."""
    return msgspec.structs.replace(cases.data().dataset, name=f"part {begin}", shards=cases.data().dataset.shards[begin:end])


async def doubted(world: World, job: JobId) -> DisputeId:
    """Somebody disputes a batch that is right, and loses."""
    stage = await Stage.of(world, job, cases.ends())
    asserter = Asserter(cases.honest().__getitem__, stage.ends)
    wrong = Doubter(cases.honest().__getitem__, asserter.link_tree, opening(MICRO), 8, {Phase.TRACE: 0})
    dispute = await stage.seal(opening(MICRO))
    assert (await stage.play(dispute, asserter, wrong)).outcome == Outcome.ASSERTER_WON
    seen = await world.last(RecordsShown)
    assert (seen.dispute, seen.first, seen.count) == (dispute, FIRST, COUNT)
    assert await world.refused("stranger", ClaimShowing(dispute=dispute, head=HEAD)) == "NothingOwed"
    await stage.pay(dispute)
    return dispute


async def who_disputes_in_vain_pays_for_what_had_to_be_shown(world: World) -> None:
    await world.populate()
    number = await owned(world, cases.data().dataset, "bob", 100)
    assert await world.refused("alice", PriceRecords(dataset=number, price=1)) == "NotOwner"
    assert await world.refused("bob", PriceRecords(dataset=DatasetId(9), price=1)) == "NoSuchDataset"
    job = await posted(world, number)
    await world.do("bob", PriceRecords(dataset=number, price=MOST))  # for later jobs
    dispute = await doubted(world, job)
    burnt = (await world.balances())["burnt"]
    assert (await world.last(ShowingOwed)).amount == COUNT * 100
    assert burnt == RULES.bond // 2 - COUNT * 100
    assert (await world.last(DisputePaid)).burnt == burnt
    await world.do("stranger", ClaimShowing(dispute=dispute, head=b""))
    assert (await world.last(ShowingPaid)).amount == COUNT * 100 == (await world.balances())["showings"]
    assert await world.refused("bob", ClaimShowing(dispute=dispute, head=b"")) == "AlreadyClaimed"
    assert await world.refused("stranger", WithdrawShowings(dataset=number)) == "NothingToWithdraw"
    before = await world.balances()
    await world.do("bob", WithdrawShowings(dataset=number))
    await world.do("keyservice", WithdrawShowings(dataset=number))
    after = await world.balances()
    assert (after["bob"] - before["bob"], after["keyservice"] - before["keyservice"]) == (COUNT * 75, COUNT * 25)
    assert await world.refused("bob", WithdrawShowings(dataset=number)) == "NothingToWithdraw"


async def a_liar_pays_and_no_less_is_burnt(world: World) -> None:
    await world.populate()
    number = await owned(world, cases.data().dataset, "bob", MOST)  # far more than there is
    job = await posted(world, number)
    text = cases.batch_of(cases.START, MICRO)["text"].copy()
    text[0, 0] ^= 1
    link = Liar(MICRO, batch=cases.batch_of(cases.START, MICRO) | {"text": text})
    told_ends = [*cases.ends()[:MICRO], link.end_root, *cases.ends()[MICRO + 1 :]]
    stage = await Stage.of(world, job, told_ends)
    dispute = await stage.seal(opening(MICRO))
    honest = Challenger(cases.honest().__getitem__, cases.ends(), opening(MICRO))
    assert (await stage.play(dispute, Asserter(lambda _: link, stage.ends), honest)).outcome == Outcome.ASSERTER_LOST
    await stage.pay(dispute)
    paid = await world.last(DisputePaid)
    assert (paid.to_challenger, paid.burnt) == (RULES.bond + BOND - BOND // 2 - BOND // 4, BOND // 2)
    await world.do("stranger", WithdrawDisputes())
    await world.do("stranger", ClaimShowing(dispute=dispute, head=b""))
    assert (await world.last(ShowingPaid)).amount == BOND // 4


async def of_several_datasets_each_owner_is_paid_for_its_own_records(world: World) -> None:
    await world.populate()
    dear, cheap = await owned(world, part(0, 2), "bob", 200), await owned(world, part(2, 3), "alice", None)
    dispute = await doubted(world, await posted(world, dear, cheap))
    assert (await world.last(ShowingOwed)).amount == COUNT * 200
    for wrong in (b"", HEAD[:-1], data_head(cases.data().dataset, Digest(bytes(32)), cases.BATCH)):
        assert await world.refused("bob", ClaimShowing(dispute=dispute, head=wrong))
    burnt = (await world.balances())["burnt"]
    await world.do("bob", ClaimShowing(dispute=dispute, head=HEAD))
    wanted = record_indices(cases.ORDER, cases.RECORDS, cases.START, MICRO, cases.MICRO_BATCHES, cases.BATCH)
    of_dear = sum(int(record) < 24 for record in wanted)
    assert 0 < of_dear < COUNT
    paid = {event.dataset: event.amount for event in await world.events() if isinstance(event, ShowingPaid)}
    assert paid == {dear: of_dear * 200, cheap: (COUNT - of_dear) * 10}  # unpriced: as much as a thousand reads
    assert (await world.balances())["burnt"] - burnt == (COUNT - of_dear) * 190


async def records_that_nobody_licensed_cost_nothing(world: World) -> None:
    await world.populate()
    dispute = await doubted(world, await world.post(**terms(), segment_steps=3))
    assert not [event for event in await world.events() if isinstance(event, ShowingOwed)]
    assert await world.refused("bob", ClaimShowing(dispute=dispute, head=b"")) == "NothingOwed"
    assert (await world.balances())["burnt"] == RULES.bond // 2


SCRIPTS: list[Script] = [
    who_disputes_in_vain_pays_for_what_had_to_be_shown, a_liar_pays_and_no_less_is_burnt, of_several_datasets_each_owner_is_paid_for_its_own_records,
    records_that_nobody_licensed_cost_nothing,
]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_in_memory(script: Script) -> None:
    asyncio.run(run(MemoryWorld(RULES), script))


@pytest.mark.slow
@pytest.mark.usefixtures("needs_anvil")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_on_the_evm_it_leaves_the_same_as_in_memory(script: Script, tmp_path: Path) -> None:
    async def on_evm() -> tuple[list[Any], dict[str, int]]:
        with Anvil(block_time=None) as anvil:
            return await run(await EvmWorld.open(anvil, tmp_path, RULES), script)

    assert asyncio.run(on_evm()) == asyncio.run(run(MemoryWorld(RULES), script))
