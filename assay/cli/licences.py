"""`assay data grant|revoke|admit|revenue|readers`: what the Datasets contract knows of an owner's datasets.

An owner's account sends from one process: when its key service runs on the folder, the call is left with it as an order.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.chain import (
    AdmitVerifiers,
    AnyChainEvent,
    CallId,
    ClaimShowing,
    CollectUse,
    GrantLicence,
    PriceRecords,
    PublishDataset,
    RefundUse,
    RevokeLicence,
    WithdrawRevenue,
    WithdrawShowings,
)
from assay.cli.common import ENVIRONMENT, TOKEN, USAGE, Contract, Data, Json, Rpc, Settings, Trouble, money, run, settings, show
from assay.cli.data import Name, find
from assay.cli.ordering import POLL, account, events, perform
from assay.cli.tables import put
from assay.codec import digest
from assay.ids import ZERO_ADDRESS, Address, Cid, DatasetId, JobId, address
from assay.ports import Outage

if TYPE_CHECKING:
    from assay.licensing import Licences, Others

To = Annotated[str, typer.Option("--to", metavar="ACCOUNT", help="Who may use it; `anyone` for everybody.")]
DAY = 24 * 3600
SEEN_WITHIN = 90.0
"""Seconds to wait for a node that has a manifest."""
MOST_SEGMENTS = 64
"""That one call pays for."""


def grant(
    name: Name, to: To,
    days: Annotated[float, typer.Option("--days", min=0, help="How long.")] = 30.0,
    uses: Annotated[int | None, typer.Option("--uses", min=1, help="Records read in training, each time counted; endless without.")] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="Tokens for 1000 records read; else the manifest's.")] = None,
    purpose: Annotated[list[str] | None, typer.Option("--purpose", help="What for; else what the manifest says.")] = None,
    rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Licenses a dataset to an account, or to anyone. The first time it is put on the contract, too.

    Example: [bold]assay data grant patients --to 0x… --uses 5000000 --days 90[/bold]
    """
    from msgspec import UNSET

    from assay.licensing import ENDLESS
    from assay.publish.manifest import purposes_mask

    where = settings(rpc, contract, None, data, "owner")
    _, made = run(find(where.data, name))
    terms = made.licence
    try:
        mask = purposes_mask(tuple(purpose) if purpose else terms.purposes)
    except ValueError as error:
        raise Trouble("that purpose is not known", str(error), code=USAGE) from None
    asked, who = round(price * TOKEN) if price is not None else terms.price, holder(to)

    async def work() -> DatasetId:
        number = await registered(where, name)
        call = GrantLicence(
            dataset=number, who=who, price=asked, uses=ENDLESS if uses is None else uses, until=await _now(where) + round(days * DAY), purposes=mask
        )  # fmt: skip
        if terms.record_price is not UNSET and (await licences(where)).record_prices.get(number) != terms.record_price:
            await perform(where, PriceRecords(dataset=number, price=terms.record_price))
        await perform(where, call)
        return number

    number = run(work())
    if json:
        show({"dataset": number, "who": who, "price": asked, "uses": uses, "days": days, "purposes": mask})
    else:
        told = "endless" if uses is None else f"{uses:,}"
        print(f"dataset {number} ({name}): {to} may read {told} records within {days:g} days, for {money(asked)} tokens a thousand")
        print(f"they type: assay submit train.py --dataset {number} --budget N")


def revoke(name: Name, to: To, rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False) -> None:
    """Takes a licence back. What is assigned goes on; nothing more of a job that rests on it is assigned.

    Example: [bold]assay data revoke patients --to anyone[/bold]
    """
    where, who = settings(rpc, contract, None, data, "owner"), holder(to)

    async def work() -> DatasetId:
        number = await on_chain(where, name)
        await perform(where, RevokeLicence(dataset=number, who=who))
        return number

    number = run(work())
    if json:
        show({"dataset": number, "who": who, "revoked": True})
    else:
        print(f"dataset {number} ({name}): nothing more is assigned on the licence of {to}")


def admit(
    name: Name,
    verifier: Annotated[list[str] | None, typer.Option("--verifier", metavar="ACCOUNT", help="One that may check; once for each.")] = None,
    anyone: Annotated[bool, typer.Option("--anyone", help="Whoever has a seat, as before the first list.")] = False,
    rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Says which verifiers may be drawn to check jobs on a dataset, and so be given its keys: for jobs that are posted from now on.

    Example: [bold]assay data admit patients --verifier 0x… --verifier 0x… --verifier 0x…[/bold]
    """
    if anyone == bool(verifier):
        raise Trouble("whom to admit is not understood", "it is either a list or everybody", "--verifier 0x… for each, or --anyone", USAGE)
    where = settings(rpc, contract, None, data, "owner")
    names = tuple(sorted({holder(one) for one in verifier or []}))
    if ZERO_ADDRESS in names:
        raise Trouble("a list names accounts", "`anyone` is none", "assay data admit NAME --anyone", USAGE)

    async def work() -> DatasetId:
        number = await registered(where, name)
        await perform(where, AdmitVerifiers(dataset=number, verifiers=names))
        return number

    number = run(work())
    if json:
        show({"dataset": number, "verifiers": names})
    elif names:
        print(f"dataset {number} ({name}): jobs that are posted from now on are checked by {len(names)} accounts alone: {', '.join(names)}")
        print("as many of them as a job draws need a seat, else it is not taken")
    else:
        print(f"dataset {number} ({name}): whoever has a seat may check jobs that are posted from now on")


def revenue(
    name: Name,
    collect: Annotated[bool, typer.Option("--collect", help="Have what has settled since the last time paid.")] = False,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take this account's share.")] = False,
    rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """What a dataset has brought, by job, and this account's share of it.

    Example: [bold]assay data revenue patients --collect --withdraw[/bold]
    """
    where = settings(rpc, contract, None, data, "owner")
    run(_revenue(where, name, collect=collect, withdraw=withdraw, json=json))


async def _revenue(where: Settings, name: str, *, collect: bool, withdraw: bool, json: bool) -> None:
    number, own = await on_chain(where, name), account(where)
    if collect:
        seen = await events(where)
        for job in due_jobs(seen, number):
            await perform(where, CollectUse(job=job, most=MOST_SEGMENTS))
        for claim in claims(seen, number):
            await perform(where, claim)
    known = await licences(where)
    if withdraw and _left(known, number, own):
        await perform(where, WithdrawRevenue(dataset=number))
    if withdraw and _left_shown(known, number, own):
        await perform(where, WithdrawShowings(dataset=number))
    known = await licences(where)
    share, earned, taken = _share(known, number, own)
    jobs: dict[JobId, int] = {}
    for payment in known.paid:
        if payment.dataset == number:
            jobs[payment.job] = jobs.get(payment.job, 0) + payment.amount
    left, shown, left_shown = _left(known, number, own), known.earned_shown(number), _left_shown(known, number, own)
    if json:
        rows = {one.dispute: one.amount for one in known.shown if one.dataset == number}
        told = {"dataset": number, "earned": earned, "share": share, "withdrawn": taken, "left": left, "jobs": jobs}
        show({**told, "shown": {"earned": shown, "left": left_shown, "disputes": rows}})
        return
    print(f"dataset {number} ({name}) has earned {money(earned)} tokens")
    for job, amount in jobs.items():
        print(f"  job {job:<6} {money(amount):>14}  client {known.jobs[job].client}")
    if shown:
        print(f"and {money(shown)} tokens for records that disputes have shown on chain; {money(left_shown)} to be had of them")
    more = ": --withdraw" if left + left_shown and not withdraw else ""
    print(f"share of {own}: {share / 100:g} %, {money(taken)} withdrawn, {money(left)} to be had{more}")


def readers(name: Name, rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False) -> None:
    """Who was given keys of a dataset, for which segment, and when: the chain's log of releases; and disputes that have shown records on chain.

    Example: [bold]assay data readers patients[/bold]
    """
    from assay.licensing import given, showings

    where = settings(rpc, contract, None, data, "owner")
    _, made = run(find(where.data, name))
    seen = run(events(where))
    told = given(seen, {ref.sealed.key_id for ref in made.dataset.shards})
    number = run(_number(where, name))
    opened = showings(seen, number) if number is not None else []
    if json:
        show({"readers": told, "disputes": [one._asdict() for one in opened]})
        return
    from rich.table import Table

    table = Table("time", "segment", "was given", "by")
    for one in told:
        when = datetime.datetime.fromtimestamp(one["time"], datetime.UTC).isoformat(" ", "seconds")
        shards = f"{one['shards']} of {one['of']} shards" if one["shards"] or not one["records"] else ""
        some = f"{one['records']} records" if one["records"] else ""
        table.add_row(when, str(one["segment"]), f"{one['recipient']}\n{', '.join(filter(None, (shards, some)))}", one["by"])
    put(table)
    for case in opened:
        what = f"segment {case.segment} of job {case.job}"
        pay = f", for which {money(case.owed)} tokens are {'paid' if case.paid else 'set aside'}" if case.owed else ""
        print(f"dispute {case.dispute} of {case.challenger} over {what} has shown bytes of {case.records} records in the clear, on chain{pay}")


def _share(known: Licences, number: DatasetId, own: Address) -> tuple[int, int, int]:
    published = known.datasets[number]
    share = dict(zip(published.owners, published.shares, strict=True)).get(own, 0)
    return share, known.earned(number), known.withdrawn.get((number, own), 0)


def _left(known: Licences, number: DatasetId, own: Address) -> int:
    share, earned, taken = _share(known, number, own)
    return earned * share // 10_000 - taken


def _left_shown(known: Licences, number: DatasetId, own: Address) -> int:
    share, _, _ = _share(known, number, own)
    return known.earned_shown(number) * share // 10_000 - known.shown_withdrawn.get((number, own), 0)


def claims(seen: list[AnyChainEvent], number: DatasetId) -> list[ClaimShowing]:
    """Of paid disputes that have shown records of the dataset, and nobody has claimed for. A job on several datasets is its key service's to claim
    for, which has the job's document."""
    from assay.licensing import Licences, showings

    known = Licences()
    known.feed(seen)
    found = [one for one in showings(seen, number) if one.owed and not one.paid and len(known.jobs[one.job].datasets) == 1]
    return [ClaimShowing(dispute=one.dispute, head=b"") for one in found]


def due_jobs(seen: list[AnyChainEvent], number: DatasetId) -> list[Any]:
    """Jobs on the dataset that have settled segments which are not paid for."""
    from assay.licensing import Licences
    from assay.receipts import Ledger

    known, ledger = Licences(), Ledger()
    known.feed(seen)
    ledger.feed(seen)
    paid = {payment.segment for payment in known.paid}
    jobs = [job for job, licensed in known.jobs.items() if number in licensed.datasets and job not in known.refunded]
    return [job for job in jobs if any(s.state.name == "SETTLED" and s.number not in paid for s in ledger.of_job(job))]


# ---- the contract ----------------------------------------------------------------------------------------------------------


def holder(text: str) -> Address:
    """Raises Trouble."""
    if text == "anyone":
        return ZERO_ADDRESS
    try:
        return address(text)
    except ValueError as error:
        raise Trouble("who may use it is not understood", str(error), "--to 0x…, or --to anyone", USAGE) from None


async def licences(where: Settings) -> Licences:
    from assay.licensing import Licences

    known = Licences()
    known.feed(await events(where))
    return known


async def quote(where: Settings, datasets: tuple[DatasetId, ...], steps: int, each_step: int) -> tuple[int, tuple[Address, ...] | None]:
    """What a job of this folder's account would lock for its data, and who alone may check it (None: whoever has a seat). Raises Trouble when a
    dataset is not known, or not licensed to it."""
    from assay.cli.folder import prepare
    from assay.cli.node import open_or_create

    prepare(where.data)
    keys = open_or_create(where.data)
    keys.close()
    known, now = await licences(where), await _now(where)
    for number in datasets:
        if number not in known.datasets:
            raise Trouble(f"there is no dataset {number}", f"this contract has: {', '.join(map(str, known.datasets)) or 'none'}", code=USAGE)
        if known.licence(number, keys.account, now) is None:
            owner = known.datasets[number].owner
            raise Trouble(f"dataset {number} is not licensed to {keys.account}", f"its owner is {owner}", "ask the owner for a licence")
    cost = known.cost(datasets, keys.account, now, steps, each_step)
    assert cost is not None
    return cost, known.admissions.common((number, known.admissions.present.get(number, 0)) for number in datasets)


async def others_of(node: Any, datasets: tuple[DatasetId, ...], purpose: int, most: int) -> Others:
    """The manifests of the datasets that a job names, checked against the contract. Raises Trouble."""
    from assay.licensing import Licences, Others
    from assay.publish import manifest as manifests

    known, found = Licences(), []
    known.feed(await node.chain.events((-1, -1), 0))
    for number in datasets:
        said = known.datasets[number]
        await _fetch_from_anyone(node, said.cid)
        try:
            made = manifests.read(await node.blobs.get(said.cid))
        except manifests.BadManifest as error:
            raise Trouble(f"dataset {number} cannot be used", str(error), "its owner has published it so") from None
        if digest(made) != said.manifest or manifests.shards_root(made.dataset) != said.root:
            raise Trouble(f"dataset {number} cannot be used", "its manifest is not the one on chain", "its owner has published it so")
        found.append((number, made))
    if len({(made.key_service, made.key_holders) for _, made in found}) > 1:
        why = f"they are {', '.join(sorted({made.key_service for _, made in found}))}, or their holders differ; a job has one, or one group"
        raise Trouble("the datasets name different key services", why, "use them in jobs of their own")
    return Others(tuple(found), purpose, most, tuple(known.admissions.present.get(number, 0) for number in datasets))


async def _fetch_from_anyone(node: Any, cid: Cid) -> None:
    """A manifest, from whichever node has it; others are seen only some time after a node has come up. Raises Trouble."""
    from assay.publish import manifest as manifests

    deadline = time.monotonic() + SEEN_WITHIN
    while True:
        try:
            await node.blobs.fetch(cid, manifests.MAX_MANIFEST)
            return
        except Outage as error:
            if time.monotonic() > deadline:
                next = "its owner's node has to run: assay keyservice start --data FOLDER-OF-THE-OWNER"
                raise Trouble("the dataset's manifest cannot be had", str(error), next, ENVIRONMENT) from None
        await asyncio.sleep(POLL)


async def refund_use(node: Any, job: JobId) -> None:
    """Takes back what a closed job has not used of the data of others; its owners are paid first."""
    from assay.licensing import Licences

    known = Licences()
    known.feed(await node.chain.events((-1, -1), 0))
    if job in known.jobs and job not in known.refunded:
        await node.chain.send(CallId(f"refund-use:{job}"), RefundUse(job=job))


async def _now(where: Settings) -> int:
    from assay.adapters.evm import EvmReader

    reader = await EvmReader.open(where.rpc, where.contract)
    try:
        return (await reader.head()).time
    finally:
        await reader.close()


async def _number(where: Settings, name: str) -> DatasetId | None:
    (record, _), own = await find(where.data, name), account(where)
    known = (await licences(where)).datasets.values()
    return next((event.dataset for event in known if (event.owner, event.manifest) == (own, record.digest)), None)


async def on_chain(where: Settings, name: str) -> DatasetId:
    """The dataset's number. Raises Trouble when it has never been granted."""
    number = await _number(where, name)
    if number is None:
        raise Trouble(f"dataset {name!r} is not on this contract", "it gets there with its first licence", f"assay data grant {name} --to ACCOUNT")
    return number


async def registered(where: Settings, name: str) -> DatasetId:
    """The dataset's number; puts it on the contract when it is not there."""
    from assay.publish.manifest import shards_root

    number = await _number(where, name)
    if number is not None:
        return number
    record, made = await find(where.data, name)
    await perform(where, PublishDataset(
        cid=record.manifest, manifest=record.digest, root=shards_root(made.dataset), records=made.dataset.records, key_service=made.key_service,
        owners=tuple(owner.account for owner in made.owners), shares=tuple(owner.share for owner in made.owners),
    ))  # fmt: skip
    return await on_chain(where, name)
