"""What key services put up for keys that they do not release: one suite over the ledger in memory and over the contracts on anvil, with the
same events and the same balances on both, and no token made or lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from chain_world import NAMES, TOKENS, VERIFIERS, WINDOW, YES, MemoryWorld, Script, World, say_the_same

from assay import cid, draw
from assay.chain import (
    Activate,
    CancelJob,
    ClaimSurety,
    CloseJob,
    ContestCheckpoint,
    DepositSurety,
    JobVouched,
    OfferSurety,
    Redraw,
    ReturnSurety,
    ShowCheckpointKey,
    SuretyEnding,
    SuretyPaid,
    Unpaid,
    VouchJob,
    WithdrawSurety,
)
from assay.ids import Digest, JobId, SegmentId
from assay.localnet.anvil import Anvil
from assay.merkle import sha256

KEY = sha256(b"a checkpoint's key")
CHECKPOINT = draw.checkpoint_digest(cid.of(b"checkpoint"))
PER_JOB, EACH = 1_500_000, 800_000


async def ready(world: World) -> JobId:
    """A job that its key service vouches for."""
    await world.populate()
    await world.do("keyservice", OfferSurety(per_job=PER_JOB, each=EACH, notice=WINDOW))
    await world.do("keyservice", DepositSurety(amount=2 * PER_JOB - 1))
    job = await world.post()
    await world.do("keyservice", VouchJob(job=job))
    return job


async def trained(world: World, job: JobId, parent: int = 0, keyed: bool = True) -> SegmentId:
    """Committed to, with a checkpoint under KEY."""
    segment = await world.assign(job, parent, parent and 2, 4 if parent else 2)
    if keyed:
        await world.keys(segment, "alice")
    await world.do("alice", Activate(segment=segment))
    stop = 4 if parent else 2
    await world.do("alice", msgspec.structs.replace(world.commitment(segment, stop - 2, stop), key_id=sha256(KEY)))
    return segment


async def unserved(world: World, segment: SegmentId, *keyed: str) -> None:
    """To its end: two rounds, the last one with keys for some."""
    for last in (False, True):
        await world.drawn(segment)
        if last and keyed:
            await world.keys(segment, *keyed)
        await world.later(WINDOW + 1)
        await world.do("stranger", Redraw(segment=segment))


async def withheld_keys_are_paid_for(world: World) -> None:
    job = await ready(world)
    assert (await world.last(JobVouched)).amount == PER_JOB
    had = await world.balances()
    assert await world.refused("stranger", ClaimSurety(segment=SegmentId(1))) == "NoSuchSegment"
    segment = await trained(world, job)
    assert await world.refused("alice", ClaimSurety(segment=segment)) == "NotWithheld"
    await unserved(world, segment, "vera")  # one of three, and two are a quorum
    assert (await world.last(Unpaid)).reason == "keys withheld"
    await world.do("stranger", ClaimSurety(segment=segment))
    assert await world.refused("alice", ClaimSurety(segment=segment)) == "AlreadyPaid"
    assert (await world.last(SuretyPaid)).amount == EACH
    second = await trained(world, job)
    await unserved(world, second)
    await world.do("alice", ClaimSurety(segment=second))
    now = await world.balances()
    assert (now["alice"] - had["alice"], had["sureties"] - now["sureties"]) == (PER_JOB, PER_JOB)  # what was left
    third = await trained(world, job)
    await unserved(world, third)
    assert await world.refused("alice", ClaimSurety(segment=third)) == "NothingLeft"


async def nothing_is_paid_for_what_the_key_service_did_not_do(world: World) -> None:
    job = await ready(world)
    unkeyed = await trained(world, job, keyed=False)
    await unserved(world, unkeyed)
    assert await world.refused("alice", ClaimSurety(segment=unkeyed)) == "NotWithheld"  # it can have trained nothing
    served = await trained(world, job)
    await unserved(world, served, *VERIFIERS)
    assert await world.refused("alice", ClaimSurety(segment=served)) == "NotWithheld"
    await world.later(WINDOW + 1)
    await world.do("stranger", Redraw(segment=served))
    assert (await world.last(Unpaid)).reason == "not served"
    assert await world.refused("alice", ClaimSurety(segment=served)) == "NotWithheld"
    good = await trained(world, job)
    await world.checked(good, dict.fromkeys(VERIFIERS, YES))
    await world.settled(good)
    assert await world.refused("alice", ClaimSurety(segment=good)) == "NotWithheld"
    other = await world.post(key_service=world["bob"])
    segment = await trained(world, other)
    await unserved(world, segment)
    assert await world.refused("alice", ClaimSurety(segment=segment)) == "NotVouched"


async def a_contested_checkpoint_is_paid_for_when_its_key_is_shown(world: World) -> None:
    job = await ready(world)
    broken = await trained(world, job)
    assert await world.refused("stranger", ContestCheckpoint(segment=broken)) == "NotKeyService"
    assert await world.refused("alice", ShowCheckpointKey(segment=broken, checkpoint=CHECKPOINT, key=KEY)) == "NotContested"
    await world.do("keyservice", ContestCheckpoint(segment=broken))
    assert await world.refused("keyservice", ContestCheckpoint(segment=broken)) == "AlreadyContested"
    await unserved(world, broken)
    assert await world.refused("alice", ClaimSurety(segment=broken)) == "IsContested"
    assert await world.refused("alice", ShowCheckpointKey(segment=broken, checkpoint=CHECKPOINT, key=KEY)) == "WrongState"

    slandered = await trained(world, job)
    await world.drawn(slandered)
    await world.do("keyservice", ContestCheckpoint(segment=slandered))
    assert await world.refused("alice", ShowCheckpointKey(segment=slandered, checkpoint=CHECKPOINT, key=Digest(bytes(32)))) == "OtherKey"
    assert await world.refused("alice", ShowCheckpointKey(segment=slandered, checkpoint=KEY, key=KEY)) == "OtherKey"
    await world.do("alice", ShowCheckpointKey(segment=slandered, checkpoint=CHECKPOINT, key=KEY))
    await world.later(WINDOW + 1)
    await world.do("stranger", Redraw(segment=slandered))
    assert await world.refused("keyservice", ContestCheckpoint(segment=slandered)) == "AlreadyContested"
    await world.drawn(slandered)
    await world.later(WINDOW + 1)
    await world.do("stranger", Redraw(segment=slandered))
    await world.do("alice", ClaimSurety(segment=slandered))

    late = await trained(world, job)
    await world.drawn(late)
    await world.later(WINDOW // 2 + 1)
    assert await world.refused("keyservice", ContestCheckpoint(segment=late)) == "TooLate"
    await world.later(WINDOW)
    await world.do("stranger", Redraw(segment=late))
    assert await world.refused("keyservice", ContestCheckpoint(segment=late)) == "WrongState"


async def a_surety_is_bounded_and_comes_back(world: World) -> None:
    job = await ready(world)
    assert await world.refused("keyservice", OfferSurety(per_job=5, each=6, notice=1)) == "BadTerm"
    assert await world.refused("keyservice", OfferSurety(per_job=5, each=0, notice=1)) == "BadTerm"
    assert await world.refused("keyservice", DepositSurety(amount=0)) == "ZeroAmount"
    assert await world.refused("keyservice", WithdrawSurety(amount=0)) == "ZeroAmount"
    assert await world.refused("keyservice", WithdrawSurety(amount=PER_JOB)) == "InsufficientSurety"
    assert await world.refused("stranger", VouchJob(job=job)) == "NotKeyService"
    assert await world.refused("keyservice", VouchJob(job=job)) == "AlreadyVouched"
    assert await world.refused("keyservice", VouchJob(job=await world.post())) == "InsufficientSurety"
    await world.do("keyservice", DepositSurety(amount=PER_JOB))
    hurried = await world.post(params={"serve_window": WINDOW - 1})
    assert await world.refused("keyservice", VouchJob(job=hurried)) == "ShortNotice"
    assert await world.refused("keyservice", VouchJob(job=await world.post(params={"redraws": 0}))) == "NoRedraw"
    assert await world.refused("bob", VouchJob(job=await world.post(key_service=world["bob"]))) == "BadTerm"  # it offers nothing
    assert await world.refused("keyservice", ReturnSurety(job=JobId(99))) == "NotVouched"
    assert await world.refused("keyservice", ReturnSurety(job=job)) == "JobIsOpen"
    await world.do("client", CancelJob(job=hurried))
    assert await world.refused("keyservice", VouchJob(job=hurried)) == "JobIsOver"
    await world.do("client", CancelJob(job=job))
    await world.do("stranger", CloseJob(job=job))
    await world.do("stranger", ReturnSurety(job=job))
    assert (await world.last(SuretyEnding)).job == job
    assert await world.refused("stranger", ReturnSurety(job=job)) == "TooEarly"
    await world.later(WINDOW + 1)
    await world.do("stranger", ReturnSurety(job=job))
    assert await world.refused("stranger", ReturnSurety(job=job)) == "NothingLeft"
    await world.do("keyservice", WithdrawSurety(amount=3 * PER_JOB - 1))
    assert (await world.balances())["sureties"] == 0


SCRIPTS: list[Script] = [
    withheld_keys_are_paid_for, nothing_is_paid_for_what_the_key_service_did_not_do, a_contested_checkpoint_is_paid_for_when_its_key_is_shown,
    a_surety_is_bounded_and_comes_back,
]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_in_memory(script: Script) -> None:
    async def body() -> None:
        world = MemoryWorld()
        await script(world)
        assert sum((await world.balances()).values()) == TOKENS * len(NAMES)

    asyncio.run(body())


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_both_chains_say_the_same(script: Script, anvil: Anvil, tmp_path: Path) -> None:
    say_the_same(script, anvil, tmp_path)
