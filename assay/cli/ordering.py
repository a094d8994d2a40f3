"""Calls of an account that one process sends at a time: by this one, or, when a node runs on the folder, by that, with which they are left as
orders."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from assay.chain import (
    AdmitVerifiers,
    AnyChainEvent,
    CallId,
    ClaimShowing,
    CollectUse,
    DepositSurety,
    GrantLicence,
    OfferSurety,
    PriceRecords,
    PublishDataset,
    RevokeLicence,
    WithdrawRevenue,
    WithdrawShowings,
    WithdrawSurety,
)
from assay.cli.common import FAILED, Settings, Trouble
from assay.codec import encode
from assay.ids import Address

if TYPE_CHECKING:
    from assay.keyservice.licensed import OwnerCall

TAKEN_WITHIN = 60.0
"""Seconds that a running node has to send an order."""
POLL = 0.5


def account(where: Settings) -> Address:
    from assay.adapters.keys import open_keys

    keys = open_keys(where.data)
    keys.close()
    return keys.account


async def events(where: Settings) -> list[AnyChainEvent]:
    """All of the contract up to its head."""
    from assay.adapters.evm import EvmReader

    reader = await EvmReader.open(where.rpc, where.contract)
    try:
        return await reader.events((-1, -1), 0)
    finally:
        await reader.close()


async def perform(where: Settings, call: OwnerCall) -> None:
    """Has the call mined, by this process, or by the node that runs on the folder. Raises Trouble, Reverted, Outage."""
    from assay.cli.folder import Lock, give_order, running
    from assay.cli.funding import fund
    from assay.cli.node import open_chain, open_or_create
    from assay.keyservice.licensed import SEND

    if await asyncio.to_thread(running, where.data):
        before = len(await events(where))
        await asyncio.to_thread(give_order, where.data, SEND + encode(call).hex())
        deadline = time.monotonic() + TAKEN_WITHIN
        while not any(_came_of(event, call) for event in (await events(where))[before:]):
            if time.monotonic() > deadline:
                what = f"the node on {where.data} has taken the call, and it is not on chain after {TAKEN_WITHIN:g} s"
                raise Trouble(what, "the contract may have refused it", f"its log says more: {where.data / 'log.jsonl'}", FAILED)
            await asyncio.sleep(POLL)
        return
    lock, keys = Lock(where.data), open_or_create(where.data)
    try:
        chain = await open_chain(where, keys)
        try:
            beside = call.amount if isinstance(call, DepositSurety) else 0
            await fund(chain, where.rpc, 0, lambda note: print(note.text, flush=True), beside)
            await chain.send(CallId(f"owner:{time.time_ns()}"), call)
        finally:
            await chain.close()
    finally:
        keys.close()
        lock.release()


CAME = {PublishDataset: "DatasetPublished", GrantLicence: "LicenceGranted", RevokeLicence: "LicenceRevoked", AdmitVerifiers: "VerifiersAdmitted",
        CollectUse: "UsePaid", WithdrawRevenue: "RevenueWithdrawn", OfferSurety: "SuretyOffered", DepositSurety: "SuretyDeposited",
        WithdrawSurety: "SuretyWithdrawn", PriceRecords: "RecordPriced", ClaimShowing: "ShowingPaid",
        WithdrawShowings: "ShowingWithdrawn"}  # fmt: skip


def _came_of(event: AnyChainEvent, call: OwnerCall) -> bool:
    """Whether the event is what such a call leaves: its kind, and all fields that both have."""
    if type(event).__name__ != CAME[type(call)]:
        return False
    return all(getattr(event, name) == getattr(call, name) for name in call.__struct_fields__ if hasattr(event, name))
