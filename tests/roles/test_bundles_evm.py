"""A dispute over the data, played by real daemons on the real contracts: a drawn verifier with its records' keys and no other defends its batch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import test_sharing_evm
from test_disputes_played import doubts_votes_over_the_data
from test_sharing_evm import STAKE, EvmNet
from test_together import with_hands
from tiny import BATCH, LONG, PARAMS, RECORDS, plan

from assay import client, daemon
from assay.chain import DisputeOpened, DisputeResolved, KeyReleased, Outcome
from assay.daemon import enrol
from assay.dispute import moves
from assay.dispute.record import Rules
from assay.keyservice.daemon import key_service
from assay.localnet.anvil import Anvil
from assay.record_keys import RecordKeys
from assay_scheduler.daemon import scheduler
from assay_verifier.daemon import verifier
from assay_worker.daemon import worker

pytestmark = pytest.mark.usefixtures("needs_anvil")

RULES = Rules(open_window=LONG, grace=LONG, budget=LONG, payout_delay=20, bond=500)
WINDOW = 10_000
PACE = 10
"""Seconds of the chain's clock that pass with each block, besides its own: what waits for a beat waits for a few of these."""


async def post(net: EvmNet) -> None:
    ports = net.ports["client"]
    await enrol(ports)
    found = await client.find_service(ports.chain, net.ports["keys"].chain.account, 0)
    params = msgspec.structs.replace(PARAMS, challenge_window=WINDOW, links=16)
    wish = client.Wish(
        segment_steps=1, price_cap=100, fee=10, budget=10_000, deadline=await net.head() + 10 * LONG,
        scheduler=net.ports["scheduler"].chain.account, params=params,
    )  # fmt: skip
    _, terms = await client.publish(plan(1), wish, found, ports.chain, ports.blobs, ports.keys)
    await client.post(ports.chain, terms)


async def played(net: EvmNet) -> dict[Any, Any]:
    """What the contracts have of each dispute that was opened."""
    chain = net.ports["client"].chain
    return {event.dispute: await chain.dispute(event.dispute) for event in await net.events(DisputeOpened)}


def shown(record: Any) -> bool:
    return any(isinstance(one.move, moves.Gather) for one in record.moves)


async def resolved(net: EvmNet) -> dict[Any, Outcome]:
    """Of the disputes in which records were shown, those that are decided."""
    told = {event.dispute: event.outcome for event in await net.events(DisputeResolved)}
    return {dispute: told[dispute] for dispute, record in (await played(net)).items() if dispute in told and shown(record)}


async def play(net: EvmNet) -> None:
    net.gate.set()
    for name, role in (("client", "client"), ("scheduler", "scheduler"), ("keys", "keyservice"), ("worker0", "worker")):
        await net.open(name, role)
    for name in ("verifier0", "verifier1", "liar"):
        await net.open(name, "verifier")
    await net.up("scheduler", scheduler, role="scheduler", offer_window=10)
    await net.up("keys", key_service, role="keyservice")
    for i in range(2):
        await net.up(f"verifier{i}", verifier, role="verifier", deposit=STAKE, seat=True)
    await net.up("worker0", worker, deposit=STAKE, price_per_step=10)
    await net.up("liar", with_hands(verifier, doubts_votes_over_the_data), role="verifier", deposit=STAKE, seat=True)
    await post(net)
    async with asyncio.timeout(600):
        while not (found := await resolved(net)):
            for name, task in net.running.items():
                assert not task.done(), f"{name} has ended"
            await asyncio.sleep(0.5)
            await net.pass_to(await net.head() + PACE)
    assert set(found.values()) == {Outcome.ASSERTER_WON}
    honest = {net.ports[f"verifier{i}"].chain.account for i in range(2)}
    records = await played(net)
    assert {records[dispute].asserter for dispute in found} <= honest
    assert {records[dispute].challenger for dispute in found} == {net.ports["liar"].chain.account}
    for name in ("verifier0", "verifier1"):
        keys = net.ports[name].keys
        given = [event for event in await net.events(KeyReleased) if event.recipient == keys.account]
        assert given
        for release in given:
            held = keys.shard_key(release.key_id)
            assert isinstance(held, RecordKeys)
            assert len(held.keys) <= 2 * BATCH < RECORDS
            with pytest.raises(KeyError):
                keys.load(release.key_id)


def test_a_verifier_defends_its_batch_on_the_contracts_with_its_records_keys_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_sharing_evm, "RULES", RULES)
    monkeypatch.setattr(daemon, "ANSWER_WITHIN", 2.0)

    async def run() -> None:
        with Anvil(block_time=None) as anvil:
            net = EvmNet(tmp_path, anvil)
            async with net.mining():
                try:
                    await play(net)
                except BaseException:
                    print(net.log())
                    raise

    asyncio.run(run())
