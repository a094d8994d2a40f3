"""A client's node: it publishes, locks the money, serves the job's data, watches, and fetches the weights.

It is a node like any other, with its own folder, peers and gateway, but without a machine: what it wants is over when its command
is. As long as it lives, providers can fetch the job's data from it; the scheduler keeps a copy, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET

from assay import chain as events
from assay import client
from assay.chain import AnyChainEvent, Params
from assay.cli import behind
from assay.cli.client_node import client_node
from assay.cli.common import ENVIRONMENT, FAILED, USAGE, Settings, Trouble, money, show
from assay.cli.folder import give_order, running
from assay.cli.parties import key_service, party
from assay.cli.patience import goes_on, through
from assay.codec import decode
from assay.hands import MAX_SPEC
from assay.ids import Cid, DatasetId, JobId
from assay.job import JobSpec, Origin
from assay.ports import Outage
from assay.receipts import Ledger, receipt
from assay.shard import BadRecords
from assay.state import Tensors, state_root, to_bytes
from assay.successors import entrust

if TYPE_CHECKING:
    from assay.cli.sponsor import Wanted

LIFETIME = 7 * 24 * 3600
"""Seconds after which anybody may end a job that is not done."""
COLLECTED = 5.0
"""Seconds to wait at the end for keys of checkpoints that were asked for."""
CLOSING = 10.0
"""Seconds that the scheduler has to close the job before its client does."""
DELIVERY = 60.0
"""Seconds to wait for the key of the last checkpoint after the end has settled."""


class Order(NamedTuple):
    """What is bought."""

    plan: client.Plan
    training: Any
    segment_steps: int
    price_cap: int
    fee: int
    budget: int
    scheduler: str | None
    keyservice: str | None
    params: Params
    watch: bool
    out: Path | None
    datasets: tuple[DatasetId, ...] = ()
    """Of others."""
    purpose: int = 0
    data_cost: int = 0
    """What they may cost at most."""
    bounty: Wanted | None = None
    successors: tuple[str, ...] | None = None
    """With whom alone others may go on when the scheduler is silent; none named: the reliable ones; None: anybody."""


def read_params(path: Path | None, policy: str = "spot") -> Params:
    """Windows and checking of a job: a policy's, but for what the file says. Raises Trouble for what the contract has no name for."""
    from assay.economics import GAS_PRICE, bond_base
    from assay.policy import params_for

    usual = params_for(policy, Params(bond_base=bond_base(GAS_PRICE)))
    if path is None:
        return usual
    try:
        return msgspec.convert({**msgspec.to_builtins(usual), **tomllib.loads(path.read_text())}, Params)
    except FileNotFoundError:
        raise Trouble(f"there is no {path}", "--params names it", code=USAGE) from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Trouble(f"{path} cannot be used", str(error), f"it may have: {', '.join(Params.__struct_fields__)}", USAGE) from None


class Submission:
    """One `assay submit`."""

    def __init__(self, where: Settings, order: Order, *, as_json: bool) -> None:
        self.where, self.order, self.as_json = where, order, as_json

    def note(self, topic: str, text: str, **data: Any) -> None:
        tell(self.as_json, topic, text, **data)

    async def run(self) -> None:
        order = self.order
        most = most_of(order.bounty.pays) if order.bounty is not None else 0
        left = set[JobId]()
        async with client_node(self.where, order.budget + order.data_cost + most, left) as node:
            if order.datasets:
                from assay.cli.licences import others_of

                others = await others_of(node, order.datasets, order.purpose, order.data_cost)
                order = self.order = order._replace(plan=order.plan._replace(others=others), keyservice=others.key_service)
            service = await key_service(node, order.keyservice)
            if order.plan.others is not None:
                service = service._replace(holders=order.plan.others.key_holders)
            scheduler = await party(node, "scheduler", order.scheduler)
            head = await node.chain.head()
            from assay.cli.successors import successors_of

            wish = client.Wish(
                segment_steps=order.segment_steps, price_cap=order.price_cap, fee=order.fee, budget=order.budget,
                deadline=head.time + LIFETIME, scheduler=scheduler, params=order.params, **await successors_of(node, order.successors),
            )  # fmt: skip
            try:
                spec, terms = await client.publish(order.plan, wish, service, node.chain, node.blobs, node.keys)
            except BadRecords as error:
                raise Trouble("the training does not fit the data", str(error), code=FAILED) from None
            if wish.takeovers:
                await entrust(node.chain, terms.spec_digest, scheduler, wish.params.takeover_window, wish.successors)
            job = await client.post(node.chain, terms, spec, order.plan.others)
            size = sum(ref.size for ref in (spec.state, *spec.shared_blobs))
            self.note(
                "posted", f"job {job} is posted, {money(order.budget)} locked; {size / 1e6:.1f} MB sealed in {len(spec.dataset.shards)} shards",
                job=job, spec=terms.spec, program_cid=spec.program, program_root=spec.program_root.hex(), budget=order.budget,
            )  # fmt: skip
            if order.bounty is not None:
                from assay.cli.sponsor import offer

                number, about = await offer(node, self.where, job, order.bounty)
                self.note("bounty", f"bounty {number}: {money(about.amount)} locked", bounty=number, amount=about.amount)
            if order.watch:
                with goes_on(job):
                    state = await follow_job(node, job, self.as_json)
                self._deliver(job, state)
            else:
                left.add(job)
        if not order.watch:
            pid, log = behind.pid(self.where.data), behind.log(self.where.data)
            text = f"process {pid} serves its data in the background until it is over (log: {log}); then: assay job fetch {job} --out FILE"
            self.note("serving", text, pid=pid, log=str(log), job=job)

    def _deliver(self, job: JobId, state: Tensors) -> None:
        from assay.trace import initial_output

        order = self.order
        before, after = (initial_output(order.training, tensors) for tensors in (order.plan.state, state))
        if order.out is not None:
            write_weights(order.out, order.training, state)
        root = state_root(order.plan.steps, state)
        text = f"job {job} is done; final state root {root.hex()}" + (f"; weights written to {order.out}" if order.out else "")
        self.note("done", text, job=job, final_state_root=root.hex(), before=before, after=after, out=str(order.out) if order.out else None)
        if after and not self.as_json:
            print(f"\nbefore: {before}\nafter: {after}")


def most_of(pays: tuple[str, ...]) -> int:
    """The highest amount of a bounty's `THRESHOLD:AMOUNT`s; whether they are a ladder is told later. Raises Trouble."""
    try:
        return max(round(float(text.rpartition(":")[2]) * 1_000_000) for text in pays)
    except ValueError:
        raise Trouble("a bounty says what it pays for", "--pay is not there, or is not understood", "--pay 75%:10", USAGE) from None


def _one_file(out: Path, training: Any) -> bool:
    return training.origin is None or out.suffix == ".safetensors"


def fits(out: Path | None, training: Any) -> None:
    """Before anything long or dear begins: raises Trouble where a folder is in the way of a file, or a file in that of a folder."""
    if out is None or not out.exists() or out.is_dir() != _one_file(out, training):
        return
    what = f"the weights cannot be written to {out}"
    if out.is_dir():
        raise Trouble(what, "it is a folder", "name a file: --out FILE.safetensors", USAGE)
    raise Trouble(what, "it is a file", "name a folder, or FILE.safetensors for the bare tensors", USAGE)


def write_weights(out: Path, training: Any, state: Tensors) -> None:
    """The weights of a state: FILE.safetensors under the model's names, or, of a fine-tune, a folder that its library loads."""
    if _one_file(out, training):
        out.write_bytes(to_bytes(client.weights(state)))
        return
    from assay.finetune.files import write_tuned

    write_tuned(out, training, state)


def tell(as_json: bool, topic: str, text: str, **data: Any) -> None:
    """A line of progress."""
    if as_json:
        show({"topic": topic, "text": text, **data})
    else:
        print(text, flush=True)


def told(event: AnyChainEvent, ledger: Ledger, job: JobId) -> tuple[str, str] | None:
    """Topic and sentence of what a person wants to hear of a job."""
    segment = ledger.segments.get(getattr(event, "segment", None))  # type: ignore[arg-type]
    if segment is None or segment.job != job:
        return None
    steps = f"segment {segment.number} (steps {segment.start}-{segment.stop})"
    match event:
        case events.Assigned():
            return "assigned", f"{steps} goes to {segment.provider} for {money(segment.price)}"
        case events.Activated():
            return "active", f"{steps} is being computed"
        case events.Committed():
            return "committed", f"{steps} is committed"
        case events.Drawn():
            return "drawn", f"{steps}: links {', '.join(map(str, segment.units))} and {len(segment.verifiers)} verifiers are drawn"
        case events.Attested():
            return "attested", f"{steps} is attested"
        case events.Settled() | events.Lapsed() | events.Withheld() | events.Unpaid() | events.Voided() | events.Rejected():
            return type(event).__name__.lower(), f"segment {segment.number}, {receipt(segment)}"
    return None


async def follow_job(node: Any, job: JobId, as_json: bool, taking: asyncio.Lock | None = None) -> Tensors:
    """Shows what happens to a job until its weights are here, and collects the keys of its checkpoints. Raises Trouble when it ends
    without them. Those that follow several jobs share a lock: what came back is in one account."""
    collecting: list[asyncio.Task[bool]] = []
    try:
        return await _follow(node, job, as_json, collecting, taking or asyncio.Lock())
    finally:
        for task in collecting:
            task.cancel()
        await asyncio.gather(*collecting, return_exceptions=True)


async def _follow(node: Any, job: JobId, as_json: bool, collecting: list[asyncio.Task[bool]], taking: asyncio.Lock) -> Tensors:
    async for ledger, fresh in client.follow(node.chain, asyncio.sleep, node.depth):
        for event in fresh:
            line = told(event, ledger, job)
            if line is not None:
                segment = ledger.segments[event.segment]
                tell(as_json, line[0], line[1], job=job, segment=segment.number, start=segment.start, stop=segment.stop, provider=segment.provider)
                if isinstance(event, events.Settled):
                    made = await _document(node, ledger.jobs[job].terms.spec)
                    holders = None if made is None else made.key_holders
                    asking = client.collect(ledger, segment.number, node.chain, node.peers, node.keys, asyncio.sleep, holders)
                    collecting.append(asyncio.create_task(asking))
        known = ledger.jobs.get(job)
        if known is None:  # posted, but not so deep yet that it is final
            continue
        if ledger.finished(job):
            if collecting:
                await asyncio.wait(collecting, timeout=COLLECTED)
            state = await _fetch_patiently(node, ledger, job)
            async with taking:
                await _take_back(node, job, as_json)
            return state
        if known.refund is not None or (known.cancelled and all(s.ended for s in ledger.of_job(job))):
            async with taking:
                await _take_back(node, job, as_json)
            last = ledger.last_good(job)
            next = f"assay job fetch {job} --out FILE gives the weights of that step" if last else f"assay job show {job}"
            raise Trouble(f"job {job} was cancelled", f"{last.stop if last else 0} of {known.terms.steps} steps had settled", next)
    raise AssertionError("following a chain does not end")


async def _fetch_patiently(node: Any, ledger: Ledger, job: JobId) -> Tensors:
    """The key of the last checkpoint is released after the settlement is final, so it comes a little later."""
    deadline = time.monotonic() + DELIVERY
    while True:
        try:
            return await client.fetch(ledger, job, node.chain, node.blobs, node.keys)
        except (client.NotYet, Outage) as error:
            if time.monotonic() > deadline:
                why = f"{error}; waited {DELIVERY:g} s"
                raise Trouble("the weights cannot be had yet", why, f"later: assay job fetch {job} --out FILE", ENVIRONMENT) from None
        await asyncio.sleep(0.25)
        ledger = await _read_through(node)


async def _take_back(node: Any, job: JobId, as_json: bool) -> None:
    """What the job did not use comes back when it is closed, which anybody may do (its scheduler does): then it is pulled."""
    deadline = time.monotonic() + CLOSING
    while (await _read_through(node)).jobs[job].refund is None:
        if time.monotonic() > deadline:
            await through(lambda: node.chain.send(events.CallId(f"close:{job}"), events.CloseJob(job=job)), _say)
            break
        await asyncio.sleep(0.25)
    from assay.cli.licences import refund_use

    await through(lambda: refund_use(node, job), _say)
    credit = (await through(lambda: node.chain.view(node.chain.account), _say)).credit
    if credit:
        await through(lambda: node.chain.send(events.CallId(f"withdraw:{job}"), events.Withdraw()), _say)
        tell(as_json, "refund", f"{money(credit)} came back", amount=credit, job=job)


async def read_all(chain: Any, depth: int) -> Ledger:
    """The ledger of everything that is final."""
    ledger = Ledger()
    ledger.feed(await chain.events((-1, -1), depth))
    return ledger


async def _read_through(node: Any) -> Ledger:
    """`read_all`, through outages."""
    return await through(lambda: read_all(node.chain, node.depth), _say)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def watch_jobs(where: Settings, numbers: list[int], *, is_behind: bool, as_json: bool) -> None:
    """`assay job watch`; `is_behind`: as the process that a command has left behind, which ends when it is told to. Raises Trouble of the first
    job that has any."""
    following = asyncio.create_task(_watch(where, [JobId(job) for job in numbers], is_behind=is_behind, as_json=as_json))
    if not is_behind:
        return await following
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, following.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await following


async def _watch(where: Settings, jobs: list[JobId], *, is_behind: bool, as_json: bool) -> None:
    left, taking = set[JobId](), asyncio.Lock()
    async with client_node(where, 0, left, is_behind=is_behind) as node:
        known = (await through(lambda: read_all(node.chain, 0), _say)).jobs
        for job in jobs:
            if job not in known and not is_behind:  # one that was there before may come back
                raise Trouble(f"there is no job {job}", "this contract has not seen it", "assay job list")
        ends = await asyncio.gather(*(_watch_one(node, job, as_json, taking) for job in jobs), return_exceptions=True)
        left -= set(jobs)
    if is_behind:
        behind.over(where.data)
    for end in ends:
        if end is not None:
            raise end


async def _watch_one(node: Any, job: JobId, as_json: bool, taking: asyncio.Lock) -> None:
    state = await follow_job(node, job, as_json, taking)
    ledger = await _read_through(node)
    root = state_root(ledger.jobs[job].terms.steps, state)
    text = f"job {job} is done; final state root {root.hex()}; its last checkpoint is in this folder: assay job fetch {job} --out FILE"
    tell(as_json, "done", text, job=job, final_state_root=root.hex())


async def fetch_job(where: Settings, job: int, out: Path, *, whole: bool, as_json: bool) -> dict[str, Any]:
    """`assay job fetch`."""
    left = set[JobId]()
    async with client_node(where, 0, left) as node:
        ledger = await read_all(node.chain, node.depth)
        try:
            state = await client.fetch(ledger, JobId(job), node.chain, node.blobs, node.keys)
        except client.NotYet as error:
            raise Trouble(f"the weights of job {job} cannot be had yet", str(error), f"assay job watch {job}") from None
        except ValueError as error:
            raise Trouble(f"the weights of job {job} cannot be used", str(error), f"assay job show {job}") from None
        await _take_back(node, JobId(job), as_json)
        left.discard(JobId(job))
        kept = state if whole else client.weights(state)
        origin = await _origin(node, ledger.jobs[JobId(job)].terms.spec)
        if origin is not None and origin.adapter and not whole and out.suffix != ".safetensors":
            from assay.finetune.files import write_adapter

            await asyncio.to_thread(write_adapter, out, origin, kept)
        else:
            await asyncio.to_thread(out.write_bytes, to_bytes(kept))
        last, _ = client.deliverable(ledger, JobId(job), node.chain.account)
        return {"job": job, "out": str(out), "tensors": len(kept), "steps": last.stop, "final_state_root": state_root(last.stop, state).hex()}


async def _document(node: Any, spec: Cid) -> JobSpec | None:
    """The job's document, which its client keeps."""
    return decode(await node.blobs.get(spec), JobSpec, limit=MAX_SPEC) if await node.blobs.has(spec) else None


async def _origin(node: Any, spec: Cid) -> Origin | None:
    """What it says of the base of a fine-tune."""
    made = await _document(node, spec)
    return None if made is None or made.origin is UNSET else made.origin


async def cancel_job(where: Settings, job: int) -> None:
    """`assay job cancel`; by the client's own node when that is running (it watches a job)."""
    if running(where.data):
        await asyncio.to_thread(give_order, where.data, f"cancel-{job}")
        return
    async with client_node(where) as node:
        await client.cancel(node.chain, JobId(job))
