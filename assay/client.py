"""The model developer's side: a traced training becomes a job, is watched, and comes back as weights.

    Plan --publish--> blobs + JobSpec + Terms --post--> job on chain --watch--> Ledger --fetch--> state

What is secret is sealed before it leaves: every shard, the initial state and the frozen tensors under a key of its own, each key wrapped to the job's
key service, bound to the client's account. The order of examples follows from program and state alone, so that the same training
run in one process (`run_plan`) ends in the same state root.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from assay import merkle, parts, shard, threshold
from assay.chain import (
    CallId,
    CancelJob,
    JobPosted,
    KeyReleased,
    Params,
    PostJob,
    PostLicensed,
    Registered,
    Terms,
)
from assay.codec import digest, encode
from assay.execute import check_tensors, schedule_root
from assay.ids import Address, Digest, JobId, PeerId, SegmentId
from assay.job import DatasetRef, JobSpec, KeyHolder, KeyHolders, Origin, SealedRef, data_head, data_root, envelope_info
from assay.licensing import Others, encode_uses, joined
from assay.local import LocalRun, Step, run_local
from assay.messages import KeyGrant, KeyRequest, Refusal
from assay.ports import Blobs, Chain, Keys, Outage, Peers, Reorganised
from assay.program import Program, cost
from assay.receipts import Ledger, Segment
from assay.stages import program_root
from assay.state import Tensors, from_bytes, state_root, to_bytes, weights

__all__ = [
    "Estimate", "NotYet", "Plan", "Service", "Wish", "cancel", "collect", "deliverable", "estimate", "fetch", "find_service", "follow",
    "post", "publish", "run_plan", "seal_records", "weights",
]  # fmt: skip

Array = NDArray[Any]
LONGEST_TAKEOVER = 7 * 86_400
"""Seconds; the most that terms may have."""
COLLECTING = 10
"""Times that the key service is asked for one key."""


class Plan(NamedTuple):
    """A training as data: what can be run here or bought."""

    name: str
    program: Program
    schedule: NDArray[np.float32]
    """[steps, scalars]."""
    state: Tensors
    records: Mapping[str, Array]
    """[records, *shape] for each field."""
    dataset: str
    batch: int
    """Records in a micro-batch."""
    frozen: Mapping[str, Array] = {}
    """The tensors that no step changes."""
    origin: Origin | None = None
    """Of a fine-tune."""
    key: Digest | None = None
    """Of the permutation of examples, where it was fixed before the state was known (assay.bounty)."""
    others: Others | None = None
    """Datasets of others that the job rests on: the records are then an example of theirs, and stay here."""

    def read(self, indices: Sequence[int]) -> Tensors:
        """Records by number."""
        return {name: array[indices] for name, array in self.records.items()}

    @property
    def steps(self) -> int:
        return int(self.schedule.shape[0])

    @property
    def size(self) -> int:
        """Records in the dataset."""
        return len(next(iter(self.records.values())))

    def order(self, program_root: Digest) -> Digest:
        """Key of the permutation of examples."""
        if self.key is not None:
            return self.key
        return merkle.sha256(b"assay/order/1", program_root, state_root(0, self.state))

    @property
    def weights(self) -> tuple[int, int]:
        """Costs of a micro-batch and of the update, in operations: units are drawn in proportion to them."""
        return max(1, cost(self.program.micro).flops), max(1, cost(self.program.update).flops)


def run_plan(plan: Plan, threads: int = 1, progress: Callable[[Step], None] | None = None) -> LocalRun:
    """The whole training in this process, as the network would do it."""
    order = plan.order(program_root(plan.program))
    return run_local(plan.program, plan.schedule, plan.state, plan.read, plan.size, order, progress, threads, plan.frozen)


# ---- what it would cost --------------------------------------------------------------------------------------------------


class Estimate(msgspec.Struct, frozen=True):
    """Before money is locked. Amounts in the token's smallest unit, at the job's caps: offers may be cheaper."""

    segments: int
    training: int
    """Price cap times steps."""
    checking: int
    """Fees of one round of verifiers for every segment."""
    reserve: int
    """What must be locked on top: fees of redraws. What is not used comes back."""
    seconds_a_step: float
    """Measured on this machine."""
    seconds_computing: float
    seconds_settling: float
    """From the last commitment until the end can be settled, at least."""

    @property
    def total(self) -> int:
        return self.training + self.checking + self.reserve


def estimate(plan: Plan, *, segment_steps: int, price_cap: int, fee: int, params: Params, threads: int = 1) -> Estimate:
    """Runs the first step here to measure it."""
    started = time.perf_counter()
    run_plan(plan._replace(schedule=plan.schedule[:1]), threads)
    one = time.perf_counter() - started
    segments = math.ceil(plan.steps / segment_steps)
    round_fees = segments * params.verifiers * fee
    return Estimate(
        segments=segments,
        training=price_cap * plan.steps,
        checking=round_fees,
        reserve=round_fees * params.redraws,
        seconds_a_step=one,
        seconds_computing=one * plan.steps,
        seconds_settling=float(params.challenge_window),
    )


# ---- publishing ----------------------------------------------------------------------------------------------------------


class Service(NamedTuple):
    """The key service of a job, as it registered on chain."""

    account: Address
    peer: PeerId
    encryption_key: bytes
    holders: KeyHolders | None = None
    """Where keys are shared: this is the first of them."""


async def find_service(chain: Chain, account: Address, depth: int = 1) -> Service:
    """Raises LookupError when the account has not registered."""
    found = None
    for event in await chain.events((-1, -1), depth):
        if isinstance(event, Registered) and event.who == account:
            found = Service(account, event.peer, event.encryption_key)
    if found is None:
        raise LookupError(f"{account} has not registered on this contract, so nothing can be sealed to it")
    return found


class Wish(NamedTuple):
    """What the client decides."""

    segment_steps: int
    price_cap: int
    """Per step."""
    fee: int
    """Per verifier and round."""
    budget: int
    deadline: int
    """Chain time, seconds."""
    scheduler: Address
    params: Params
    takeovers: Address = Address("")
    """The contract through which the job is placed, where only `successors` may do it when the scheduler is silent; empty: anybody may."""
    successors: tuple[Address, ...] = ()
    """Providers, at most 64."""


def _wrap(keys: Keys, service: Service, chain: Chain) -> Callable[[bytes], bytes]:
    return shard.wrap_for(keys, service.encryption_key, chain.account, service.holders)


async def find_holders(chain: Chain, accounts: Sequence[Address], needed: int, depth: int = 1) -> Service:
    """The first of them, with all of them as key holders. Raises LookupError when one has not registered."""
    found = [await find_service(chain, account, depth) for account in accounts]
    members = tuple(KeyHolder(account=one.account, peer=one.peer, encryption_key=one.encryption_key) for one in found)
    return found[0]._replace(holders=KeyHolders(threshold=needed, members=members))


async def seal_records(plan: Plan, service: Service, chain: Chain, blobs: Blobs, keys: Keys) -> DatasetRef:
    """Seals and stores the plan's records; those of others are sealed and stored already."""
    if plan.others is not None:
        return joined(shard.fields_of(plan.records), plan.others)

    def keep(key: bytes) -> bytes:
        keys.store(key)
        return b""  # its envelope follows

    dataset, sealed = shard.seal_dataset(plan.dataset, plan.records, keep)
    info = envelope_info(chain.account)
    dataset, masks = await asyncio.to_thread(threshold.seal_shards, keys, dataset, service.encryption_key, service.holders, info)
    for blob in (*sealed, *masks):
        await blobs.put(blob)
    return dataset


async def publish(
    plan: Plan, wish: Wish, service: Service, chain: Chain, blobs: Blobs, keys: Keys, dataset: DatasetRef | None = None
) -> tuple[JobSpec, Terms]:
    """Seals and stores everything that the job needs (but a `dataset` that has been sealed already); nothing is on chain yet. Raises
    BadTensors when the state has not exactly the entries that the program names, or the frozen tensors not."""
    check_tensors("state", plan.state, plan.program.state)
    check_tensors("frozen set", plan.frozen, plan.program.frozen)
    if dataset is None:
        dataset = await seal_records(plan, service, chain, blobs, keys)
    wrap = _wrap(keys, service, chain)
    state_ref, state_blob = shard.seal_file(to_bytes(plan.state), wrap)
    await blobs.put(state_blob)
    frozen: SealedRef | UnsetType = UNSET
    if plan.frozen:
        frozen, frozen_blob = shard.seal_file(to_bytes(plan.frozen), wrap)
        await blobs.put(frozen_blob)
    root = program_root(plan.program)
    spec = JobSpec(
        name=plan.name,
        program=await blobs.put(plan.program.dump()),
        program_root=root,
        schedule=await blobs.put(np.ascontiguousarray(plan.schedule, dtype="<f4").tobytes()),
        schedule_root=schedule_root(plan.schedule),
        scalars=plan.program.scalars,
        state=state_ref,
        state_root=state_root(0, plan.state),
        frozen=frozen,
        origin=UNSET if plan.origin is None else plan.origin,
        dataset=dataset,
        published=UNSET if plan.others is None else plan.others.used,
        order=plan.order(root),
        steps=plan.steps,
        micro_batches=plan.program.micro_batches,
        batch=plan.batch,
        segment_steps=wish.segment_steps,
        key_service=service.account,
        key_service_peer=service.peer,
        key_service_key=service.encryption_key,
        holders=UNSET if service.holders is None else service.holders,
    )
    micro, update = plan.weights
    terms = Terms(
        spec=await blobs.put(encode(spec)),
        spec_digest=digest(spec),
        program_root=spec.program_root,
        state_root=spec.state_root,
        dataset_root=data_root(dataset, spec.order, spec.batch),
        schedule_root=spec.schedule_root,
        steps=plan.steps,
        micro_batches=spec.micro_batches,
        segment_steps=wish.segment_steps,
        micro_weight=micro,
        update_weight=update,
        micro_leaves=plan.program.micro_leaves,
        update_leaves=plan.program.update_leaves,
        price_cap=wish.price_cap,
        fee=wish.fee,
        budget=wish.budget,
        deadline=wish.deadline,
        scheduler=wish.takeovers or wish.scheduler,
        key_service=service.account,
        params=msgspec.structs.replace(wish.params, takeover_window=LONGEST_TAKEOVER) if wish.takeovers else wish.params,
    )
    return spec, terms


async def post(chain: Chain, terms: Terms, spec: JobSpec | None = None, others: Others | None = None) -> JobId:
    """Locks the budget, and what the datasets of `others` cost (then `spec` is needed). Raises Reverted with the contract's reason, Outage."""
    call: PostJob | PostLicensed = PostJob(terms=terms)
    if others is not None:
        assert spec is not None
        call = PostLicensed(terms=terms, uses=encode_uses(others.uses(data_head(spec.dataset, spec.order, spec.batch))))
    block = await chain.send(CallId(f"post:{terms.spec_digest.hex()}"), call)
    for event in await chain.events((block - 1, 1 << 62), 0):
        if isinstance(event, JobPosted) and event.client == chain.account and event.terms.spec_digest == terms.spec_digest:
            return event.job
    raise Outage(f"the job was mined in block {block}, but its event is not to be seen (a reorganisation?); run the command again")


async def cancel(chain: Chain, job: JobId) -> None:
    """Nothing more is assigned; what is left comes back when the live segments have run out."""
    await chain.send(CallId(f"cancel:{job}"), CancelJob(job=job))


# ---- watching and fetching -----------------------------------------------------------------------------------------------


async def follow(chain: Chain, sleep: Callable[[float], Any], depth: int = 1, poll: float = 0.5) -> AsyncIterator[tuple[Ledger, list[Any]]]:
    """The ledger after each new lot of final events, with that lot; for ever. Outages are waited out; where the chain took back what it
    had said, all of it is read again."""
    ledger, after = Ledger(), (-1, -1)
    while True:
        try:
            fresh = await chain.events(after, depth)
        except Outage:
            fresh = []
        except Reorganised:
            ledger, after, fresh = Ledger(), (-1, -1), []
        if fresh:
            ledger.feed(fresh)
            after = (fresh[-1].block, fresh[-1].index)
            yield ledger, fresh
        await sleep(poll)


async def collect(
    ledger: Ledger, number: SegmentId, chain: Chain, peers: Peers, keys: Keys, sleep: Callable[[float], Any], holders: KeyHolders | None = None
) -> bool:
    """Asks the job's key service, or its key holders, for the key of a settled segment's checkpoint, and keeps it: steps after it can then be
    checked from there (assay.audit.replays). Whether it came; nothing else depends on it."""
    segment = ledger.segments[number]
    assert segment.key_id is not None
    with contextlib.suppress(KeyError):
        return bool(keys.load(segment.key_id))
    if holders is None:
        service = await find_service(chain, ledger.jobs[segment.job].terms.key_service)
        asked = [service.peer]
    else:
        asked = [one.peer for one in holders.members]
    given: dict[int, bytes] = {}
    for _ in range(COLLECTING):
        for place, peer in enumerate(asked, 1):
            if place in given:
                continue
            try:
                answer = await peers.request(peer, KeyRequest(segment=number, key_id=segment.key_id), timeout=10.0)
            except Outage:
                answer = Refusal(reason="")
            if isinstance(answer, KeyGrant) and answer.wrapped:
                given[place] = answer.wrapped[-1]
        if given:
            try:
                key = threshold.released(keys, segment.key_envelope, list(given.values()), segment.key_id)
            except ValueError:
                return False
            if key is not None:
                return keys.store(key) == segment.key_id
        await sleep(3.0)
    return False


class NotYet(Exception):
    """The weights cannot be had yet; says what is still to come."""


def deliverable(ledger: Ledger, job: JobId, client: Address) -> tuple[Segment, list[KeyReleased]]:
    """The last settled segment of a job that is over (trained to its end, or cancelled), and the releases of its checkpoint's key, or of shares
    of it. Raises NotYet."""
    if job not in ledger.jobs:
        raise NotYet(f"there is no job {job} on this contract")
    known, last = ledger.jobs[job], ledger.last_good(job)
    if last is None or (last.stop != known.terms.steps and not known.cancelled):
        raise NotYet(f"{last.stop if last else 0} of {known.terms.steps} steps have settled")
    found = [one for one in ledger.released if (one.segment, one.recipient, one.key_id) == (last.number, client, last.key_id)]
    if len({one.by for one in found}) >= threshold.needed(last.key_envelope):
        return last, found
    raise NotYet(f"segment {last.number} has settled, and the key service has not released its checkpoint's key yet")


async def fetch(ledger: Ledger, job: JobId, chain: Chain, blobs: Blobs, keys: Keys, near: tuple[PeerId, ...] = (), limit: int = 1 << 34) -> Tensors:
    """The final state, checked against the root that settled. Raises NotYet, Outage, seal.SealError, ValueError."""
    last, releases = deliverable(ledger, job, chain.account)
    assert last.checkpoint is not None
    assert last.end_root is not None
    assert last.key_id is not None
    key = threshold.released(keys, last.key_envelope, [release.wrapped for release in releases], last.key_id)
    if key is None:
        raise NotYet(f"segment {last.number} has settled, and fewer key holders than are needed have released true shares of its checkpoint's key")
    if not await blobs.has(last.checkpoint):
        await blobs.fetch(last.checkpoint, limit, near)
    state = from_bytes(parts.unseal(await blobs.get(last.checkpoint), key), limit)
    if state_root(last.stop, state) != last.end_root:
        raise ValueError("the checkpoint is not the state that was committed: its provider's fault")
    return state
