"""What a bounty's sponsor does, as a client's node: offers it, has the evaluation made once the training is over, and shows the result.

    <data>/bounties/<digest of the terms>/   offer.json (what follows here as `Kept`), program.json, schedule.bin, frozen.safetensors,
                                             records.safetensors: all that the evaluation's job needs but the trained weights

The records are sealed when the bounty is offered, because the offer commits to their root; nobody gets a key before the evaluation is a job.
"""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from assay import bounty, client
from assay.chain import (
    BeginBounty,
    BountyOffered,
    BountyTerms,
    CallId,
    CollectBounty,
    Evaluated,
    OfferBounty,
    ReturnBounty,
    Rung,
    SegmentState,
    ShowBounty,
    WithdrawBounties,
)
from assay.cli.common import ENVIRONMENT, FAILED, USAGE, Settings, Trouble, money
from assay.cli.parties import key_service, party
from assay.cli.submit import read_all
from assay.codec import Message, decode, digest, encode
from assay.hands import MAX_SPEC
from assay.ids import BountyId, JobId, SegmentId
from assay.job import DatasetRef, JobSpec, Origin, data_root
from assay.ports import Outage
from assay.program import Limits, Program
from assay.receipts import Bounty, Ledger, Segment
from assay.stages import program_root
from assay.state import Tensors, from_bytes, state_root, to_bytes

if TYPE_CHECKING:
    from assay.chain import Params
    from assay.training import Evaluation

MICRO = 1_000_000
MAX_OFFER = 64 << 20
MAX_TENSORS = 1 << 34


class Kept(Message, frozen=True, kw_only=True):
    """What the sponsor's folder says of a bounty."""

    name: str
    dataset: DatasetRef
    batch: int
    scalars: int
    keyservice: str
    terms: BountyTerms
    origin: Origin | None = None


class Wanted(NamedTuple):
    """A bounty as it is asked for on the command line."""

    evaluation: Evaluation
    pays: tuple[str, ...]
    """`THRESHOLD:AMOUNT` or `PERCENT%:AMOUNT`, in tokens."""
    metric: str
    at_most: bool
    window: int
    params: Params
    segment_steps: int
    keyservice: str | None


# ---- the offer ---------------------------------------------------------------------------------------------------------------


def rungs_of(pays: tuple[str, ...], dtype: int, at_most: bool, records: int) -> tuple[Rung, ...]:
    """The ladder, easiest first. Raises Trouble."""
    found = []
    for text in pays:
        level, _, amount = text.partition(":")
        try:
            if level.endswith("%"):
                if dtype != bounty.I64:
                    raise ValueError("a share is one of records that are counted")
                share = Decimal(level[:-1]) / 100 * records
                threshold = int(math.floor(share) if at_most else math.ceil(share))
            else:
                threshold = bounty.threshold(float(level), dtype)
            found.append(Rung(threshold=threshold, amount=int(Decimal(amount) * MICRO)))
        except (ValueError, InvalidOperation, OverflowError) as error:
            raise Trouble(f"--pay {text} is not understood", str(error), "--pay 75%:10, or --pay 0.5:10 with --metric mean.loss", USAGE) from None
    found.sort(key=lambda rung: rung.amount)
    levels = [rung.threshold for rung in found]
    if levels != sorted(set(levels), reverse=at_most) or not found or found[0].amount <= 0 or len({r.amount for r in found}) != len(found):
        raise Trouble("these payments are no ladder", "each must pay more than the one before for a better result", code=USAGE)
    return tuple(found)


async def program_of(node: Any, ledger: Ledger, job: JobId) -> Program:
    """The training's program, which says what its last state holds. Raises Trouble, Outage."""
    terms = ledger.jobs[job].terms
    spec = decode(await _blob(node, terms.spec, MAX_SPEC), JobSpec, limit=MAX_SPEC)
    if digest(spec) != terms.spec_digest:
        raise Trouble(f"the document of job {job} is another one than was posted", "its client published something else")
    program = Program.load(await _blob(node, spec.program, MAX_SPEC), Limits())
    if program_root(program) != terms.program_root:
        raise Trouble(f"the program of job {job} is another one than was posted", "its client published something else")
    return program


async def _blob(node: Any, cid: Any, limit: int) -> bytes:
    if not await node.blobs.has(cid):
        await node.blobs.fetch(cid, limit)
    data: bytes = await node.blobs.get(cid)
    return data


def metric_of(state: Tensors, name: str) -> tuple[str, int]:
    """The entry that decides, and its dtype. Raises Trouble."""
    entry = name if name.startswith(("metric.", "mean.")) else f"metric.{name}"
    array = state.get(entry)
    kinds = {np.dtype("<f4"): bounty.F32, np.dtype("<i8"): bounty.I64}
    if array is None or array.shape != () or array.dtype not in kinds:
        there = ", ".join(n for n, a in state.items() if n.startswith(("metric.", "mean.")) and a.shape == ())
        raise Trouble(f"the evaluation has no single number {entry!r}", f"it has {there}", "--metric NAME", USAGE)
    return entry, kinds[array.dtype]


async def offer(node: Any, where: Settings, job: JobId, wanted: Wanted) -> tuple[BountyId, BountyTerms]:
    """Seals the records, keeps all that the evaluation needs, and locks the money. Raises Trouble, TrainingError, Reverted, Outage."""
    from assay.execute import schedule_root
    from assay.forward import trace_evaluation

    ledger = await read_all(node.chain, 0)
    if job not in ledger.jobs:
        raise Trouble(f"there is no job {job}", "this contract has not seen it", "assay job list")
    live = bounty.live((await program_of(node, ledger, job)).state)
    evaluation = wanted.evaluation
    traced = await asyncio.to_thread(trace_evaluation, evaluation, live)
    entry, dtype = metric_of(traced.state, wanted.metric)
    rungs = rungs_of(wanted.pays, dtype, wanted.at_most, len(evaluation.data))
    root = program_root(traced.program)
    plan = client.Plan(
        evaluation.name, traced.program, traced.schedule, traced.state, evaluation.data.arrays, evaluation.data.name, evaluation.batch,
        traced.frozen, evaluation.origin, key=bounty.record_order(root),
    )  # fmt: skip
    service = await key_service(node, wanted.keyservice)
    dataset = await client.seal_records(plan, service, node.chain, node.blobs, node.keys)
    micro, update = plan.weights
    about = Evaluated(
        program_root=root, dataset_root=data_root(dataset, plan.order(root), plan.batch), schedule_root=schedule_root(plan.schedule),
        steps=plan.steps, micro_batches=1, segment_steps=min(wanted.segment_steps, plan.steps), micro_weight=micro, update_weight=update,
        micro_leaves=plan.program.micro_leaves, update_leaves=plan.program.update_leaves, params=wanted.params,
    )  # fmt: skip
    terms = BountyTerms(
        job=job, window=wanted.window, evaluation=about, start=bounty.template(traced.state, [n for n in traced.state if n in live]),
        metric=entry.encode(), dtype=dtype, at_most=wanted.at_most, rungs=rungs,
    )  # fmt: skip
    kept = Kept(
        name=plan.name, dataset=dataset, batch=plan.batch, scalars=len(plan.program.scalars), keyservice=service.account, terms=terms,
        origin=plan.origin,
    )  # fmt: skip
    await asyncio.to_thread(keep, where.data, kept, plan)
    block = await node.chain.send(CallId(f"bounty:{digest(terms).hex()}"), OfferBounty(terms=terms))
    for event in await node.chain.events((block - 1, 1 << 62), 0):
        if isinstance(event, BountyOffered) and event.sponsor == node.chain.account and event.terms == terms:
            return event.bounty, terms
    raise Outage(f"the bounty was mined in block {block}, but its event is not to be seen (a reorganisation?); run the command again")


# ---- what is kept ------------------------------------------------------------------------------------------------------------


def folder_of(data: Path, terms: BountyTerms) -> Path:
    return data / "bounties" / digest(terms).hex()


def keep(data: Path, kept: Kept, plan: client.Plan) -> None:
    folder = folder_of(data, kept.terms)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "program.json").write_bytes(plan.program.dump())
    (folder / "schedule.bin").write_bytes(np.ascontiguousarray(plan.schedule, dtype="<f4").tobytes())
    (folder / "frozen.safetensors").write_bytes(to_bytes(plan.frozen))
    (folder / "records.safetensors").write_bytes(to_bytes(plan.records))
    (folder / "offer.json").write_bytes(encode(kept))  # last: what is there is whole


def kept_of(data: Path, terms: BountyTerms) -> tuple[Kept, client.Plan]:
    """What `keep` wrote; the plan's state is zeros. Raises Trouble."""
    folder = folder_of(data, terms)
    try:
        kept = decode((folder / "offer.json").read_bytes(), Kept, limit=MAX_OFFER)
    except FileNotFoundError:
        why = f"{folder} is not there: only the folder that offered it has the sealed records"
        raise Trouble("this folder has not offered the bounty", why, "--data FOLDER") from None
    program = Program.load((folder / "program.json").read_bytes(), Limits())
    schedule = np.frombuffer((folder / "schedule.bin").read_bytes(), "<f4").reshape(-1, kept.scalars)
    frozen, records = (from_bytes((folder / f"{name}.safetensors").read_bytes(), MAX_TENSORS) for name in ("frozen", "records"))
    from assay.execute import zeros

    state = {name: zeros(t) for name, t in program.state.items()}
    key = bounty.record_order(program_root(program))
    return kept, client.Plan(kept.name, program, schedule, state, records, kept.dataset.name, kept.batch, frozen, kept.origin, key=key)


# ---- the evaluation ----------------------------------------------------------------------------------------------------------


def known(ledger: Ledger, number: BountyId) -> Bounty:
    """Raises Trouble."""
    if number not in ledger.bounties:
        there = ", ".join(map(str, ledger.bounties)) or "none yet"
        raise Trouble(f"there is no bounty {number}", f"this network has: {there}", "assay bounty list")
    return ledger.bounties[number]


def over(ledger: Ledger, job: JobId) -> bool:
    """Whether nothing of a job can settle any more."""
    return ledger.finished(job) or (ledger.jobs[job].cancelled and all(segment.ended for segment in ledger.of_job(job)))


async def trained(node: Any, ledger: Ledger, job: JobId, given: Path | None) -> tuple[Segment, Tensors]:
    """The last settled segment of the training, and the state that it ended in. Raises Trouble."""
    last = ledger.last_good(job)
    if last is None or not over(ledger, job):
        settled = f"{last.stop if last else 0} of {ledger.jobs[job].terms.steps} steps have settled"
        raise Trouble(f"the training, job {job}, is not over", settled, "wait")
    try:
        if given is None:
            return last, await client.fetch(ledger, job, node.chain, node.blobs, node.keys)
        state = from_bytes(await asyncio.to_thread(given.read_bytes), MAX_TENSORS)
    except (client.NotYet, ValueError) as error:
        next = f"its client gives it: assay job fetch {job} --state --out FILE, then --trained FILE"
        raise Trouble(f"the state that job {job} ended in cannot be had", str(error), next, ENVIRONMENT) from None
    if state_root(last.stop, state) != last.end_root:
        raise Trouble(f"{given} is not the state that job {job} ended in", "its root is another one", f"assay job fetch {job} --state --out FILE")
    return last, state


async def begin(node: Any, ledger: Ledger, b: Bounty) -> str | None:
    """Starts the window if the training is over and nobody has."""
    if b.until is not None or not over(ledger, b.terms.job):
        return None
    last = ledger.last_good(b.terms.job)
    await node.chain.send(CallId(f"begin:{b.number}"), BeginBounty(bounty=b.number, last=last.number if last else SegmentId(0)))
    return "the training is over: the window for results has begun"


async def post_evaluation(node: Any, where: Settings, b: Bounty, ledger: Ledger, wish: client.Wish, given: Path | None) -> JobId:
    """The evaluation as a job. Raises Trouble, Reverted, Outage."""
    kept, plan = await asyncio.to_thread(kept_of, where.data, b.terms)
    _, left = await trained(node, ledger, b.terms.job, given)
    state = plan.state | {e.name.decode(): left[e.name.decode()] for e in b.terms.start if e.root == bounty.ZEROS}
    service = await key_service(node, kept.keyservice)
    spec, terms = await client.publish(plan._replace(state=state), wish, service, node.chain, node.blobs, node.keys, kept.dataset)
    if bounty.evaluated(terms) != b.terms.evaluation:
        raise Trouble("this evaluation is not the one that the bounty names", "the folder was changed since the offer", code=FAILED)
    assert spec.state_root == bounty.root_of(0, bounty.started(b.terms.start, bounty.entries_of(left)))
    return await client.post(node.chain, terms)


async def wish_for(node: Any, b: Bounty, scheduler: str | None, price_cap: int, fee: int, budget: int, lifetime: int) -> client.Wish:
    e, head = b.terms.evaluation, await node.chain.head()
    return client.Wish(
        segment_steps=e.segment_steps, price_cap=price_cap, fee=fee, budget=budget, deadline=head.time + lifetime,
        scheduler=await party(node, "scheduler", scheduler), params=e.params,
    )  # fmt: skip


# ---- the result --------------------------------------------------------------------------------------------------------------


def evaluations(ledger: Ledger, terms: BountyTerms) -> list[Segment]:
    """Last segments of settled jobs with the evaluation's terms (whatever they started from)."""
    same = (number for number, job in ledger.jobs.items() if bounty.evaluated(job.terms) == terms.evaluation)
    lasts = (ledger.last_good(number) for number in same)
    return [last for last in lasts if last is not None and last.stop == terms.evaluation.steps]


async def claim(node: Any, number: BountyId, given: Path | None = None, result: Path | None = None) -> list[str]:
    """Everything that is due for a bounty and possible from here; what was done. Raises Trouble, Reverted, Outage."""
    done: list[str] = []
    ledger = await read_all(node.chain, 0)
    b = known(ledger, number)
    if said := await begin(node, ledger, b):
        done.append(said)
        ledger = await read_all(node.chain, 0)
        b = known(ledger, number)
    now = (await node.chain.head()).time
    if b.until is not None and now <= b.until and b.reached != b.terms.amount:
        done += await _show(node, ledger, b, given, result)
        ledger = await read_all(node.chain, 0)
        b = known(ledger, number)
    done += await _pay(node, ledger, b, now)
    return done


async def _show(node: Any, ledger: Ledger, b: Bounty, given: Path | None, result: Path | None) -> list[str]:
    """Shows results of evaluations that this node can open, or the state in the file `result`."""
    done: list[str] = []
    for segment in evaluations(ledger, b.terms):
        try:
            if result is None:
                state = await client.fetch(ledger, segment.job, node.chain, node.blobs, node.keys)
            else:
                state = from_bytes(await asyncio.to_thread(result.read_bytes), MAX_TENSORS)
        except (client.NotYet, ValueError, Outage):
            continue
        if state_root(segment.stop, state) != segment.end_root:
            continue
        value, path = bounty.shown(b.terms, state)
        if b.reached is not None and bounty.reached(b.terms, value) <= b.reached:
            continue
        _, left = await trained(node, ledger, b.terms.job, given)
        entries = bounty.entries_of(left)
        call = ShowBounty(bounty=b.number, terms=b.terms, segment=segment.number, trained=entries, value=value, path=path)
        await node.chain.send(CallId(f"show:{b.number}:{segment.number}"), call)
        earned = f"{money(bounty.reached(b.terms, value))} of {money(b.terms.amount)} is earned"
        done.append(f"job {segment.job} measured {said(b.terms, value)}: {earned}")
    return done


async def _pay(node: Any, ledger: Ledger, b: Bounty, now: int) -> list[str]:
    """Credits whom it is owed, once it is decided, and pulls what is this account's."""
    done: list[str] = []
    earned = b.earned(now)
    if earned is not None:
        settled = [s for s in ledger.of_job(b.terms.job) if s.state == SegmentState.SETTLED and s.number not in b.paid]
        if earned and settled:
            numbers = tuple(s.number for s in settled[:64])
            await node.chain.send(CallId(f"collect:{b.number}:{numbers[0]}"), CollectBounty(bounty=b.number, segments=numbers))
            done.append(f"{len(numbers)} segments are credited with their share of {money(earned)}")
        if b.returned is None and b.terms.amount > earned:
            await node.chain.send(CallId(f"return:{b.number}"), ReturnBounty(bounty=b.number))
            done.append(f"{money(b.terms.amount - earned)} goes back to {b.sponsor}")
    credit = (await node.chain.view(node.chain.account)).bounty_credit
    if credit:
        await node.chain.send(CallId(f"bounties:{b.number}:{len(b.paid)}:{credit}"), WithdrawBounties())
        done.append(f"{money(credit)} withdrawn")
    return done


def said(terms: BountyTerms, value: int) -> str:
    """A result for people."""
    name = terms.metric.decode(errors="replace")
    if terms.dtype == bounty.I64:
        return f"{name} = {value - (1 << 64) if value >> 63 else value}"
    return f"{name} = NaN" if bounty.is_nan(value) else f"{name} = {bounty.figure(bounty.order(value), bounty.F32):.6g}"
