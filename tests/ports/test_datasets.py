"""Datasets, licences and revenue: one suite over the ledger in memory and over the contracts on anvil, with the same events and the same
balances on both, and no token made or lost."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from chain_world import SPEC, STAKE, VERIFIERS, WINDOW, YES, Script, World, audited, say_the_same
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import merkle
from assay.chain import (
    AdmitVerifiers,
    CancelJob,
    CloseJob,
    CollectUse,
    Deposit,
    Draw,
    GrantLicence,
    JobLicensed,
    LeaveSeat,
    PostLicensed,
    PublishDataset,
    Redraw,
    RefundUse,
    Register,
    RevokeLicence,
    SeatTaken,
    TakeSeat,
    Terms,
    Unpaid,
    UsePaid,
    Withdraw,
    WithdrawRevenue,
)
from assay.ids import ZERO_ADDRESS, Address, Cid, DatasetId, Digest, JobId, PeerId
from assay.job import DatasetRef, Field, SealedRef, ShardRef, data_head
from assay.licensing import ENDLESS, BadUses, Licences, Uses, decode_uses, due, encode_uses, read_head
from assay.localnet.anvil import Anvil
from assay.merkle import sha256
from assay.publish.manifest import shards_root

PRICE, BATCH, STEPS, MICROS = 3_333, 8, 4, 2
FOREVER = (1 << 40) - 1
MOST = 1 << 60


def dataset(name: str, records: int) -> DatasetRef:
    ref = SealedRef(cid=Cid(SPEC), size=1, key_id=sha256(name.encode()), envelope=b"")
    half = records // 2
    shards = tuple(ShardRef(sealed=ref, records=count, root=sha256(name.encode(), bytes([count]))) for count in (half, records - half))
    return DatasetRef(name=name, fields=(Field(name="x", dtype="f32", shape=(3,)),), shards=shards)


async def published(world: World, data: DatasetRef, by: str = "bob") -> DatasetId:
    call = PublishDataset(
        cid=Cid(SPEC), manifest=sha256(data.name.encode()), root=shards_root(data), records=data.records, key_service=world["keyservice"],
        owners=(world[by], world["stranger"]), shares=(7_500, 2_500),
    )  # fmt: skip
    await world.do(by, call)
    return DatasetId(max(event.dataset for event in await world.events() if type(event).__name__ == "DatasetPublished"))


async def grant(world: World, number: DatasetId, who: str | None = "client", uses: int = ENDLESS, purposes: int = 0, until: int = FOREVER) -> None:
    holder = ZERO_ADDRESS if who is None else world[who]
    await world.do("bob", GrantLicence(dataset=number, who=holder, price=PRICE, uses=uses, until=until, purposes=purposes))


async def job_on(
    world: World, data: DatasetRef, numbers: tuple[int, ...], purpose: int = 0, most: int = MOST, lists: tuple[int, ...] | None = None, **changes: Any
) -> PostLicensed:  # fmt: skip
    head = data_head(data, Digest(bytes(32)), BATCH)
    lists = lists if lists is not None else (0,) * len(numbers)
    now = (await world.chains["client"].head()).time
    terms: Terms = world.terms(now, dataset_root=sha256(head), **changes)
    return PostLicensed(terms=terms, uses=encode_uses(Uses(tuple(map(DatasetId, numbers)), head, purpose, most, lists)))


def owed(steps: int, records: int = 10, of: int = 10) -> int:
    return due(steps, MICROS * BATCH, records, of, PRICE)


async def owners_are_paid_by_use(world: World) -> None:
    await world.populate()
    data = dataset("one", 10)
    number = await published(world, data)
    assert await world.refused("client", await job_on(world, data, (number,))) == "NoLicence"
    await grant(world, number, uses=STEPS * MICROS * BATCH, purposes=0b1000)
    assert await world.refused("client", await job_on(world, data, (number,), purpose=2)) == "WrongPurpose"
    assert await world.refused("client", await job_on(world, data, (number,), purpose=3, most=owed(STEPS) - 1)) == "DataOverMost"
    assert await world.refused("client", await job_on(world, data, (number, number), purpose=3)) == "OtherData"
    assert await world.refused("client", await job_on(world, dataset("other", 10), (number,), purpose=3)) == "OtherData"
    assert await world.refused("client", await job_on(world, data, (99,), purpose=3)) == "NoSuchDataset"
    assert await world.refused("client", await job_on(world, data, (number,), purpose=3, key_service=world["vic"])) == "OtherKeyService"
    assert await world.refused("client", await job_on(world, data, (number,), purpose=3, fee=1 << 70)) == "BadTerm"
    await world.do("client", await job_on(world, data, (number,), purpose=3, most=owed(STEPS)))
    assert (await world.last(JobLicensed)).locked == owed(STEPS) == (await world.balances())["datasets"]
    assert await world.refused("client", await job_on(world, data, (number,), purpose=3)) == "UsesExhausted"
    job = JobId(1)
    assert await world.refused("stranger", CollectUse(job=job, most=5)) == "NothingToCollect"
    assert await world.refused("stranger", CollectUse(job=JobId(2), most=5)) == "NoUse"
    first = await world.committed(job, 0, 0, 2)
    await world.checked(first, dict.fromkeys(VERIFIERS, YES))
    await world.settled(first)
    await world.do("stranger", CollectUse(job=job, most=5))
    assert await world.refused("stranger", CollectUse(job=job, most=5)) == "NothingToCollect"
    assert (await world.last(UsePaid)).amount == owed(2)
    await world.do("bob", WithdrawRevenue(dataset=number))
    assert await world.refused("bob", WithdrawRevenue(dataset=number)) == "NothingToWithdraw"
    assert await world.refused("alice", WithdrawRevenue(dataset=number)) == "NothingToWithdraw"

    second = await world.committed(job, first, 2, 4)
    await world.do("bob", RevokeLicence(dataset=number, who=world["client"]))
    await world.checked(second, dict.fromkeys(VERIFIERS, YES))  # what was assigned goes on
    await world.settled(second)
    assert await world.refused("client", RefundUse(job=job)) == "JobIsOpen"
    await world.do("stranger", CloseJob(job=job))
    await world.do("stranger", RefundUse(job=job))  # it pays for the second segment first
    assert await world.refused("client", RefundUse(job=job)) == "AlreadyRefunded"
    await world.do("stranger", WithdrawRevenue(dataset=number))
    licences = Licences()
    licences.feed(await world.events())
    assert licences.earned(number) == owed(STEPS)
    assert licences.withdrawn == {(number, world["bob"]): owed(2) * 3 // 4, (number, world["stranger"]): owed(STEPS) // 4}
    assert licences.refunded == {job: 0}


async def a_revoked_licence_stops_at_the_boundary(world: World) -> None:
    await world.populate()
    one, two = dataset("one", 6), dataset("two", 4)
    numbers = (await published(world, one), await published(world, two))
    both = DatasetRef(name="both", fields=one.fields, shards=(*one.shards, *two.shards))
    await grant(world, numbers[0], "client", uses=1_000)
    await grant(world, numbers[1], None, uses=1_000)
    await world.do("client", await job_on(world, both, numbers))
    job = JobId(1)
    first = await world.committed(job, 0, 0, 2)
    await world.do("bob", RevokeLicence(dataset=numbers[1], who=ZERO_ADDRESS))
    assert await world.refused("bob", RevokeLicence(dataset=numbers[1], who=ZERO_ADDRESS)) == "NoLicence"
    assert await world.refused("alice", RevokeLicence(dataset=numbers[0], who=world["client"])) == "NotOwner"
    assert await world.refused("scheduler", await world.offer(job, first, 2, 4)) == "NoLicence"
    await grant(world, numbers[1], None)  # another licence than the one that the job rests on
    assert await world.refused("scheduler", await world.offer(job, first, 2, 4)) == "NoLicence"
    await world.checked(first, dict.fromkeys(VERIFIERS, YES))
    await world.settled(first)
    await world.do("client", CancelJob(job=job))
    await world.do("client", CloseJob(job=job))
    await world.do("client", RefundUse(job=job))
    paid = [(event.dataset, event.amount) for event in await world.events() if isinstance(event, UsePaid)]
    assert paid == [(numbers[0], owed(2, 6)), (numbers[1], owed(2, 4))]
    await grant(world, numbers[0], "client", uses=STEPS * MICROS * BATCH, until=(await world.chains["client"].head()).time + 50)
    await world.do("client", await job_on(world, one, (numbers[0],)))
    await world.later(60)
    assert await world.refused("scheduler", await world.offer(JobId(2), 0, 0, 2)) == "NoLicence"  # it has run out
    await grant(world, numbers[0], "client", uses=1)
    await world.assign(JobId(2), 0, 0, 2)  # it was prolonged


async def what_cannot_be_published_or_granted(world: World) -> None:
    data, bob = dataset("one", 10), world["bob"]
    for changes, error in [
        ({"shares": (7_500, 2_499)}, "BadShares"), ({"owners": (bob, bob)}, "BadShares"), ({"owners": (world["alice"], bob)}, "NotOwner"),
        ({"owners": (bob,)}, "BadLength"), ({"owners": (), "shares": ()}, "BadLength"), ({"records": 0}, "BadTerm"),
        ({"owners": (bob, ZERO_ADDRESS)}, "BadShares"),
    ]:  # fmt: skip
        given_: dict[str, Any] = {
            "cid": Cid(SPEC), "manifest": sha256(b"m"), "root": shards_root(data), "records": 10, "key_service": bob,
            "owners": (bob, world["alice"]), "shares": (7_500, 2_500), **changes,
        }  # fmt: skip
        assert await world.refused("bob", PublishDataset(**given_)) == error, changes
    number = await published(world, data)
    good = GrantLicence(dataset=number, who=world["client"], price=1, uses=1, until=FOREVER, purposes=0)
    assert await world.refused("alice", good) == "NotOwner"
    assert await world.refused("stranger", good) == "NotOwner"  # it has a share, and decides nothing
    for late in ({"until": 5}, {"uses": 0}):
        fields = {name: getattr(good, name) for name in good.__struct_fields__}
        assert await world.refused("bob", GrantLicence(**{**fields, **late})) == "BadTerm"


async def who_keeps_the_keys_back_earns_nothing(world: World) -> None:
    """The money is there, the work is done, and the owner's key service gives the drawn verifiers no keys."""
    await world.populate()
    data = dataset("one", 10)
    number = await published(world, data)
    await grant(world, number)
    had = (await world.balances())["client"]
    await world.do("client", await job_on(world, data, (number,)))
    job = JobId(1)
    segment = await world.committed(job, 0, 0, 2)
    for _ in range(2):
        await world.drawn(segment)
        await world.later(WINDOW + 1)
        await world.do("stranger", Redraw(segment=segment))
    assert (await world.last(Unpaid)).reason == "keys withheld"
    assert await world.refused("bob", CollectUse(job=job, most=5)) == "NothingToCollect"
    assert await world.refused("bob", WithdrawRevenue(dataset=number)) == "NothingToWithdraw"
    await world.do("client", CancelJob(job=job))
    await world.do("client", CloseJob(job=job))
    await world.do("client", RefundUse(job=job))
    await world.do("client", Withdraw())
    balances = await world.balances()
    assert (balances["client"], balances["datasets"]) == (had, 0)  # all of it came back


async def only_admitted_verifiers_are_drawn(world: World) -> None:
    """Others hold most of the seats, and are never drawn; the client gets what it has seen, or nothing."""
    await world.populate()
    one, two = dataset("one", 6), dataset("two", 4)
    numbers = (await published(world, one), await published(world, two))
    for number in numbers:
        await grant(world, number, None)
    listed = tuple(sorted(world[name] for name in ("vera", "vic", "alice", "client")))
    assert await world.refused("stranger", AdmitVerifiers(dataset=numbers[0], verifiers=listed)) == "NotOwner"
    assert await world.refused("bob", AdmitVerifiers(dataset=numbers[0], verifiers=listed[::-1])) == "BadList"
    assert await world.refused("bob", AdmitVerifiers(dataset=numbers[0], verifiers=(ZERO_ADDRESS, *listed))) == "BadList"
    many = tuple(Address(f"0x{i:040x}") for i in range(1, 66))
    assert await world.refused("bob", AdmitVerifiers(dataset=numbers[0], verifiers=many)) == "BadLength"
    await world.do("bob", AdmitVerifiers(dataset=numbers[0], verifiers=listed))
    await world.do("bob", AdmitVerifiers(dataset=numbers[1], verifiers=tuple(sorted(world[name] for name in VERIFIERS))))
    both = DatasetRef(name="both", fields=one.fields, shards=(*one.shards, *two.shards))
    small = {"verifiers": 2, "quorum": 2, "redraws": 1}
    assert await world.refused("client", await job_on(world, both, numbers, params=small)) == "OtherList"
    assert await world.refused("client", await job_on(world, both, numbers, lists=(1,), params=small)) == "BadLength"
    assert await world.refused("client", await job_on(world, both, numbers, lists=(1, 1))) == "TooFewAdmitted"  # three are drawn, two are admitted
    await world.do("client", await job_on(world, both, numbers, lists=(1, 1), params=small))
    job = JobId(1)
    await world.do("bob", AdmitVerifiers(dataset=numbers[0], verifiers=()))  # what was posted keeps its list
    for name in ("stranger", "bob", "scheduler", "keyservice"):
        await world.do(name, Register(encryption_key=sha256(name.encode()), peer=PeerId(name)))
        await world.do(name, Deposit(amount=STAKE))
        await world.do(name, TakeSeat())
    segment = await world.committed(job, 0, 0, 2)
    for _ in range(2):  # drawn again from the same two, nobody else being admitted
        drawn = await world.drawn(segment)
        assert set(drawn.verifiers) == {world["vera"], world["vic"]}
        if drawn.round == 0:
            await world.later(WINDOW + 1)
            await world.do("stranger", Redraw(segment=segment))
    await world.served(segment, 1, ("vera", "vic"))
    await world.vote(drawn, {"vera": YES, "vic": YES})
    await world.mine(2)
    for name in ("vera", "vic"):
        await world.do("stranger", await world.openings(drawn, name, YES[1], (await world.last_posted()).terms))
    await world.settled(segment)
    seat = next(event.seat for event in await world.events() if isinstance(event, SeatTaken) and event.who == world["vic"])
    await world.do("vic", LeaveSeat(seat=seat))
    assert await world.refused("scheduler", await world.offer(job, segment, 2, 4)) == "TooFewAdmitted"
    await world.do("vic", TakeSeat())
    second = await world.committed(job, segment, 2, 4)
    gone = next(event.seat for event in reversed(await world.events()) if isinstance(event, SeatTaken) and event.who == world["vic"])
    await world.do("vic", LeaveSeat(seat=gone))
    await world.mine(3)
    assert await world.refused("stranger", Draw(segment=second)) == "TooFewVerifiers"
    await world.later(WINDOW + 1)
    await world.do("stranger", Draw(segment=second))
    assert (await world.last(Unpaid)).reason == "too few verifiers"  # nobody's money waits for them
    await audited(world)


SCRIPTS: list[Script] = [
    owners_are_paid_by_use, a_revoked_licence_stops_at_the_boundary, who_keeps_the_keys_back_earns_nothing, what_cannot_be_published_or_granted,
    only_admitted_verifiers_are_drawn,
]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_both_chains_say_the_same(script: Script, anvil: Anvil, tmp_path: Path) -> None:
    say_the_same(script, anvil, tmp_path)


@settings(max_examples=50)
@given(st.binary(max_size=400), st.integers(0, 5))
def test_uses_are_read_in_one_form_only(noise: bytes, where: int) -> None:
    uses = Uses((DatasetId(3), DatasetId(1)), b"h" * 81, 4, 77, (0, 9))
    data = encode_uses(uses)
    assert decode_uses(data) == uses
    at = where * 32
    for changed in (noise, data[:-1], data + b"\0", data[:at] + noise[:32].ljust(32, b"\1") + data[at + 32 :]):
        with contextlib.suppress(BadUses):
            assert encode_uses(decode_uses(changed)) == changed


def test_the_head_is_read_where_the_contract_reads_it() -> None:
    data = dataset("one", 10)
    head = read_head(data_head(data, Digest(b"o" * 32), BATCH))
    assert (head.batch, head.records, head.root) == (BATCH, 10, shards_root(data))
    for bad in (b"", b"\x17" * 80, b"\x18" * 90):
        with pytest.raises(BadUses):
            read_head(bad)
    assert merkle.sha256(data_head(data, Digest(b"o" * 32), BATCH)) != merkle.sha256(data_head(data, Digest(b"p" * 32), BATCH))
