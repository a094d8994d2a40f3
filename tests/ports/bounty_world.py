"""Scripts of test_chain.py about bounties: a training whose end is a real state, evaluations of it, and who is paid what."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from chain_world import TOKENS, VERIFIERS, WINDOW, YES, World

from assay import bounty, chain
from assay.chain import BeginBounty, BountyTerms, CancelJob, CollectBounty, OfferBounty, ReturnBounty, Rung, ShowBounty, WithdrawBounties
from assay.ids import BountyId, Digest, JobId, SegmentId
from assay.merkle import sha256
from assay.state import Tensors, state_root

LOW, HIGH = 1_000_000, 3_000_003
TRAINED: Tensors = {
    "param.w": np.arange(6, dtype=np.float32).reshape(2, 3), "param.b": np.ones(3, np.float32), "adam.m.w": np.full((2, 3), 0.5, np.float32),
}  # fmt: skip
FRESH: Tensors = {"metric.right": np.array(0, np.int64), "metric.loss": np.array(0, np.float32), "mean.loss": np.array(0, np.float32)}
EVALUATION: dict[str, Any] = {
    "program_root": sha256(b"measure"), "dataset_root": sha256(b"held out"), "schedule_root": sha256(b"shares"), "steps": 2,
}  # fmt: skip


def started() -> Tensors:
    return FRESH | {name: TRAINED[name] for name in ("param.w", "param.b")}


def measured(right: int, loss: float = 0.5) -> Tensors:
    return started() | {"metric.right": np.array(right, np.int64), "mean.loss": np.array(loss, np.float32)}


def _terms(world: World, job: JobId, posted: Any) -> BountyTerms:
    evaluation = bounty.evaluated(msgspec.structs.replace(posted, **EVALUATION))
    return BountyTerms(
        job=job, window=10 * WINDOW, evaluation=evaluation, start=bounty.template(started(), ("param.w", "param.b")), metric=b"metric.right",
        dtype=bounty.I64, at_most=False, rungs=(Rung(threshold=700, amount=LOW), Rung(threshold=800, amount=HIGH)),
    )  # fmt: skip


async def _settled(world: World, job: JobId, parent: int, start: int, end: Digest | None, by: str = "alice") -> SegmentId:
    world.end = end
    segment = await world.committed(job, parent, start, start + 2, by)
    await world.checked(segment, dict.fromkeys(VERIFIERS, YES))
    await world.settled(segment)
    world.end = None
    return segment


async def _evaluated(world: World, right: int, **changes: Any) -> SegmentId:
    job = await world.post(**{**EVALUATION, "state_root": state_root(0, started()), **changes})
    return await _settled(world, job, 0, 0, state_root(2, measured(right)), "bob")


async def bounty_earned(world: World) -> None:
    """The rung that a settled evaluation reaches is shared by the training's providers; the sponsor gets the rest back."""
    await world.populate()
    job = await world.post()
    terms = _terms(world, job, (await world.last_posted()).terms)
    broken: list[tuple[dict[str, Any], str]] = [({"window": 0}, "BadTerm"), ({"metric": b"x"}, "BadTerm"), ({"dtype": 2}, "BadTerm")]
    for wrong, why in [*broken, ({"rungs": terms.rungs[::-1]}, "BadRungs")]:
        assert await world.refused("client", OfferBounty(terms=msgspec.structs.replace(terms, **wrong))) == why
    assert await world.refused("client", OfferBounty(terms=msgspec.structs.replace(terms, job=JobId(9)))) == "NoSuchJob"
    await world.do("client", OfferBounty(terms=terms))
    offered = await world.last(chain.BountyOffered)
    assert (offered.terms, offered.sponsor) == (terms, world["client"])
    number: BountyId = offered.bounty
    first = await _settled(world, job, 0, 0, None)
    assert await world.refused("stranger", BeginBounty(bounty=number, last=first)) == "JobIsLive"
    last = await _settled(world, job, first, 2, state_root(4, TRAINED), "bob")
    assert await world.refused("stranger", BeginBounty(bounty=number, last=first)) == "NotTheLast"
    assert await world.refused("stranger", ReturnBounty(bounty=number)) == "NotBegun"
    evaluation = await _evaluated(world, 750)
    value, path = bounty.shown(terms, measured(750))
    assert value == 750
    show = ShowBounty(bounty=number, terms=terms, segment=evaluation, trained=bounty.entries_of(TRAINED), value=value, path=path)
    assert await world.refused("stranger", show) == "NotBegun"
    await world.do("stranger", BeginBounty(bounty=number, last=last))
    assert await world.refused("stranger", BeginBounty(bounty=number, last=last)) == "HasBegun"
    replace = msgspec.structs.replace
    for wrong_call, why in (
        (replace(show, value=751), "BadProof"), (replace(show, path=path[1:]), "BadProof"), (replace(show, value=value | 1 << 63), "BadProof"),
        (replace(show, trained=bounty.entries_of(started())), "NotTheEvaluation"), (replace(show, segment=first), "NotTheEvaluation"),
        (replace(show, terms=replace(terms, at_most=True)), "BadTerms"), (replace(show, bounty=BountyId(7)), "NoSuchBounty"),
    ):  # fmt: skip
        assert await world.refused("stranger", wrong_call) == why
    looser = await _evaluated(world, 750, params={"links": 1})
    assert await world.refused("stranger", replace(show, segment=looser)) == "NotTheEvaluation"
    await world.do("stranger", show)
    assert (await world.last(chain.BountyShown)).reached == LOW
    pay = CollectBounty(bounty=number, segments=(first, last))
    assert await world.refused("stranger", pay) == "TooEarly"
    await world.later(10 * WINDOW + 1)
    assert await world.refused("stranger", show) == "TooLate"
    assert await world.refused("stranger", CollectBounty(bounty=number, segments=(evaluation,))) == "NotOfTheJob"
    await world.do("stranger", pay)
    assert await world.refused("stranger", pay) == "IsPaid"
    await world.do("stranger", ReturnBounty(bounty=number))
    assert await world.refused("stranger", ReturnBounty(bounty=number)) == "IsReturned"
    assert [(await world.chains[n].view(world[n])).bounty_credit for n in ("alice", "bob", "client")] == [LOW // 2, LOW // 2, HIGH - LOW]
    before = await world.balances()
    for name in ("alice", "bob", "client"):
        await world.do(name, WithdrawBounties())
    after = await world.balances()
    assert after["alice"] - before["alice"] == LOW // 2
    assert after["bounties"] == 0
    assert await world.refused("alice", WithdrawBounties()) == "NothingToWithdraw"


async def bounty_of_a_cancelled_job(world: World) -> None:
    """What had settled is paid in full when its sponsor shows nothing; a job of which nothing settled earns nothing; a low loss is paid at once."""
    await world.populate()
    idle = await world.post()
    job = await world.post()
    terms = _terms(world, job, (await world.last_posted()).terms)
    rungs = tuple(Rung(threshold=bounty.threshold(x, bounty.F32), amount=a) for x, a in ((1.0, LOW), (0.5, HIGH)))
    by_loss = msgspec.structs.replace(terms, metric=b"mean.loss", dtype=bounty.F32, at_most=True, rungs=rungs)
    for wanted in (terms, by_loss, msgspec.structs.replace(terms, job=idle)):
        await world.do("client", OfferBounty(terms=wanted))
    only = await _settled(world, job, 0, 0, state_root(2, TRAINED))
    for number in (idle, job):
        await world.do("client", CancelJob(job=number))
    assert await world.refused("stranger", BeginBounty(bounty=BountyId(1), last=SegmentId(0))) == "NotTheLast"
    for bounty_number, last in ((1, only), (2, only), (3, 0)):
        await world.do("stranger", BeginBounty(bounty=BountyId(bounty_number), last=SegmentId(last)))
    await world.do("stranger", ReturnBounty(bounty=BountyId(3)))
    evaluation = await _evaluated(world, 1)
    value, path = bounty.shown(by_loss, measured(1))
    show = ShowBounty(bounty=BountyId(2), terms=by_loss, segment=evaluation, trained=bounty.entries_of(TRAINED), value=value, path=path)
    await world.do("stranger", show)
    await world.do("stranger", CollectBounty(bounty=BountyId(2), segments=(only,)))
    await world.later(10 * WINDOW + 1)
    await world.do("stranger", CollectBounty(bounty=BountyId(1), segments=(only,)))
    view = await world.chains["client"].view(world["client"])
    assert view.bounty_credit == HIGH
    assert (await world.chains["alice"].view(world["alice"])).bounty_credit == 2 * HIGH
    await world.do("client", WithdrawBounties())
    assert (await world.balances())["bounties"] == 2 * HIGH
    assert (await world.balances())["client"] < TOKENS
