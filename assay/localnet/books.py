"""Whether every token of a network is where its receipts say, read from the chain alone."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from assay.chain import SegmentState
from assay.ids import Address
from assay.localnet import rpc
from assay.localnet.net import TRANSFER, Network
from assay.receipts import Ledger, Segment

NOBODY = "0x" + "00" * 32


def minted(network: Network) -> dict[Address, int]:
    """Tokens that the faucet has made, by account. Raises Outage."""
    query = {"address": network.contracts.token, "topics": [TRANSFER, NOBODY], "fromBlock": "0x0", "toBlock": "latest"}
    logs: Any = rpc.call(network.rpc, "eth_getLogs", query)
    found: dict[Address, int] = defaultdict(int)
    for log in logs:
        found[Address("0x" + log["topics"][2][-40:])] += int(log["data"], 16)
    return dict(found)


def unpaid(segment: Segment) -> str:
    """What is wrong with how a segment ended; empty when nothing is: who committed was paid its price, and lost nothing."""
    mine = [payment for payment in segment.payments if payment.who == segment.provider]
    charged = [payment for payment in mine if payment.amount < 0]
    if segment.state == SegmentState.SETTLED:
        paid = sum(payment.amount for payment in mine if payment.amount > 0)
        if paid < segment.price:
            return f"segment {segment.number} is settled, and {segment.provider} was credited {paid} of {segment.price}"
    elif segment.state != SegmentState.LAPSED:
        return f"segment {segment.number} ended as {segment.state.name}: {segment.reason}"
    if charged and segment.state == SegmentState.SETTLED:
        return f"segment {segment.number} is settled, and {segment.provider} was charged {charged}"
    return ""


def due(ledger: Ledger, made: dict[Address, int]) -> dict[Address, int]:
    """What each account must have, in all: what was made for it, and what receipts say since."""
    found: dict[Address, int] = defaultdict(int, made)
    for segment in ledger.segments.values():
        for payment in segment.payments:
            found[payment.who] += payment.amount
    for job in ledger.jobs.values():
        found[job.client] += (job.refund or 0) - job.funded
    return dict(found)


async def problems(network: Network, ledger: Ledger, honest: set[Address]) -> list[str]:
    """Everything that is not as it must be. Raises Outage."""
    made = await asyncio.to_thread(minted, network)
    wrong = [text for segment in ledger.segments.values() if (text := unpaid(segment))]
    wrong += [f"{slashed.who} was slashed {slashed.amount} for segment {slashed.segment}" for slashed in ledger.slashed]
    wrong += [f"job {job.number} is not closed" for job in ledger.jobs.values() if job.refund is None]
    reader = await network.reader()
    credits = 0
    try:
        expected = due(ledger, made)
        for who in sorted(honest | set(expected)):
            view = await reader.view(who)
            credits += view.credit
            has = view.tokens + view.stake + view.credit + view.dispute_credit + view.bounty_credit
            if has != expected.get(who, 0):
                wrong.append(f"{who} has {has}, and should have {expected.get(who, 0)}")
    finally:
        await reader.close()
    block = int(str(await asyncio.to_thread(rpc.call, network.rpc, "eth_blockNumber")), 16)
    held = await asyncio.to_thread(network.balances, block)
    if sum(held.values()) != sum(made.values()):
        wrong.append(f"{sum(made.values())} tokens were made, and {sum(held.values())} are there")
    if held[network.contracts.jobs] != credits:
        wrong.append(f"Jobs holds {held[network.contracts.jobs]}, and owes {credits}")
    return wrong
