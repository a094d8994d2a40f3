"""What the machines of a worker and of a verifier share: jobs, keys, blobs that are awaited, calls that anyone may make, money.

A role is a machine (assay.runtime.Machine) whose durable effects are named `kind:subject[:more]`; a result is handed to the method
that is registered for its kind. Four habits are kept here so that each role states only what is its own:

    job     unknown -> fetching the document -> loading -> fetching program and schedule -> checking -> ready | refused (why)
    needs   what a segment waits for: blobs and keys. Empty -> the role goes on (`_supplied`). A key that does not come is asked for
    nudge   a call that anyone may make, due at a time or block: made if nobody else has, again if it did not help
    again   an effect that met an outage is repeated after a pause, as long as somebody still wants it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from assay.chain import (
    AnyCall,
    CloseReveals,
    Credited,
    Decide,
    Draw,
    KeyReleased,
    Redraw,
    SegmentState,
    Settle,
    VoidSegment,
    Withdraw,
    Withdrawn,
)
from assay.codec import Message
from assay.facts import Facts, SegmentFacts
from assay.ids import Address, Cid, Digest, JobId, PeerId, SegmentId
from assay.job import JobSpec, SealedRef
from assay.messages import KeyGrant, KeyRequest
from assay.runtime import (
    Answered,
    AnyEffect,
    AnyEvent,
    Ask,
    Cancel,
    ChainSeen,
    Do,
    Done,
    Durable,
    Failed,
    Fault,
    Fetch,
    IllegalEvent,
    Note,
    Ordered,
    Result,
    Send,
    Wake,
    Woke,
)
from assay.tasks import CheckProgram, JobLoaded, LoadJob, Outcome, ProgramChecked, StoreKey

SPEC_LIMIT = 8 << 20
SLACK = 1 << 20
"""Bytes that a blob may have over what its document says (headers)."""
PAUSE = 15
"""Seconds before what met an outage, or a call that did not help, is tried again."""
NUDGES = 100
"""Tries of a call that anyone may make; the pause between them grows, so that they span a day."""


class RoleConfig(Message, frozen=True, kw_only=True):
    """What its owner told a node. Limits in bytes, operations of one link, seconds."""

    account: Address
    encryption_key: bytes
    peer: PeerId
    max_blob: int = 1 << 30
    max_memory: int = 4 << 30
    max_flops: int = 1 << 46
    key_patience: int = 20
    """A key that has not come after this is asked for."""
    withdraw_at: int = 0
    """Credit that is pulled as soon as it is reached; 0: only when ordered."""


class JobEntry(msgspec.Struct):
    """What this node knows of a job's document and program."""

    stage: str = "fetching"
    spec: JobSpec | None = None
    near: list[PeerId] = []
    waiting: list[Cid] = []
    reason: str = ""


class Needs(msgspec.Struct):
    cids: list[Cid]
    keys: list[Digest]


class RoleState(msgspec.Struct):
    facts: Facts = msgspec.field(default_factory=Facts)
    jobs: dict[JobId, JobEntry] = {}
    needs: dict[SegmentId, Needs] = {}
    keys: set[Digest] = set()
    """Ids of the symmetric keys this node has stored."""
    again: dict[str, AnyEffect] = {}
    credit: int = 0
    withdrawals: int = 0


Handler = Callable[[Any, list[str]], None]


class Role:
    """Base of a machine. `handle` collects what the methods emit."""

    SOFT: tuple[type[Message], ...] = ()
    state: Any

    def __init__(self, config: RoleConfig) -> None:
        self.base = config
        self._out: list[AnyEffect] = []
        self._now = 0
        self._seed = b""
        self._kinds: dict[str, Handler] = {
            "spec": self._on_spec, "load": self._on_load, "program": self._on_program, "check": self._on_check,
            "fetch": self._on_fetch, "key": self._on_key, "nag": self._on_nag, "ask": self._on_ask,
            "again": self._on_again, "due": self._on_due, "nudge": self._on_nudge, "withdraw": self._on_withdraw,
        }  # fmt: skip

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        self._out, self._now, self._seed = [], now, seed
        match event:
            case ChainSeen(event=seen):
                self.state.facts.see(seen)
                if isinstance(seen, KeyReleased):
                    self._released(seen)
                elif isinstance(seen, Credited | Withdrawn):
                    self._money(seen)
                self._chain(seen)
            case Ordered(order="withdraw"):
                self._pull()
            case Result(key=key):
                kind, *rest = key.split(":")
                handler = self._kinds.get(kind)
                if handler is None:
                    raise IllegalEvent(f"{type(event).__name__} of {key!r}: no effect of that kind is ever asked for")
                handler(event, rest)
            case _:
                self._other(event)
        self._settle_down()
        return self._out

    # ---- for the role to say ---------------------------------------------------------------------------------------------

    def _chain(self, event: Any) -> None:
        """A chain event; the facts have it already."""
        raise NotImplementedError

    def _other(self, event: AnyEvent) -> None:
        """Started, Asked, Heard, Ordered."""
        raise NotImplementedError

    def _job_ready(self, job: JobId) -> None:
        raise NotImplementedError

    def _job_refused(self, job: JobId, reason: str) -> None:
        raise NotImplementedError

    def _supplied(self, segment: SegmentId) -> None:
        """All that the segment needed is there."""
        raise NotImplementedError

    def _settle_down(self) -> None:
        """After every event."""

    # ---- emitting --------------------------------------------------------------------------------------------------------

    def _do(self, effect: AnyEffect) -> None:
        self._out.append(effect)

    def _note(self, topic: str, text: str, **data: str | int | bool) -> None:
        self._out.append(Note(topic=topic, text=text, data=data))

    def _later(self, effect: Durable) -> None:
        """Once more after a pause."""
        self.state.again[effect.key] = effect
        self._do(Wake(key=f"again:{effect.key}", at=self._now + PAUSE))

    def _on_again(self, event: Woke, rest: list[str]) -> None:
        effect = self.state.again.pop(":".join(rest), None)
        if effect is not None:
            self._do(effect)

    def _drop_again(self, segment: SegmentId) -> None:
        for key in [key for key in self.state.again if key.split(":")[1] == str(segment)]:
            del self.state.again[key]

    def _outcome(self, event: Result, kind: type[Outcome]) -> Any:
        if isinstance(event, Done) and isinstance(event.outcome, kind):
            return event.outcome
        raise IllegalEvent(f"{type(event).__name__} of {event.key!r} where {kind.__name__} is due")

    # ---- jobs ------------------------------------------------------------------------------------------------------------

    def _want_job(self, job: JobId, near: tuple[PeerId, ...] = ()) -> None:
        """Starts to get a posted job's document, unless that is under way."""
        facts = self.state.facts.jobs.get(job)
        if facts is None or job in self.state.jobs:
            return
        peers = [*near, *self.state.facts.peer(facts.client), *self.state.facts.peer(facts.terms.scheduler)]
        entry = self.state.jobs[job] = JobEntry(near=list(dict.fromkeys(peers)))
        self._do(Fetch(key=f"spec:{job}", cid=facts.terms.spec, limit=SPEC_LIMIT, near=tuple(entry.near)))

    def _job(self, job: JobId) -> JobSpec | None:
        """The document of a job that may be worked on."""
        entry = self.state.jobs.get(job)
        return entry.spec if entry is not None and entry.stage == "ready" else None

    def _refuse(self, job: JobId, reason: str) -> None:
        entry = self.state.jobs[job]
        entry.stage, entry.reason, entry.waiting = "refused", reason, []
        self._note("refused", f"job {job} is refused: {reason}", job=job, reason=reason)
        self._job_refused(job, reason)

    def _job_failed(self, job: JobId, event: Failed, effect: Durable) -> None:
        """An outage is waited out; a document or program that is wrong refuses the job."""
        if event.fault in (Fault.OUTAGE, Fault.OWN):
            self._note("waiting", f"job {job}: {event.error}; trying again", job=job)
            self._later(effect)
        else:
            self._refuse(job, event.error)

    def _on_spec(self, event: Result, rest: list[str]) -> None:
        job = JobId(int(rest[0]))
        cid = self.state.facts.jobs[job].terms.spec
        if isinstance(event, Failed):
            near = tuple(self.state.jobs[job].near)
            return self._job_failed(job, event, Fetch(key=event.key, cid=cid, limit=SPEC_LIMIT, near=near))
        self.state.jobs[job].stage = "loading"
        self._do(Do(key=f"load:{job}", task=LoadJob(job=job, spec=cid)))

    def _on_load(self, event: Result, rest: list[str]) -> None:
        job = JobId(int(rest[0]))
        terms = self.state.facts.jobs[job].terms
        if isinstance(event, Failed):
            return self._job_failed(job, event, Do(key=event.key, task=LoadJob(job=job, spec=terms.spec)))
        loaded: JobLoaded = self._outcome(event, JobLoaded)
        spec, entry = loaded.spec, self.state.jobs[job]
        if loaded.spec_digest != terms.spec_digest:
            return self._refuse(job, "its document is not the one the contract names")
        for name in ("program_root", "state_root", "schedule_root", "steps", "micro_batches", "segment_steps", "key_service"):
            if getattr(spec, name) != getattr(terms, name):
                return self._refuse(job, f"its document and its terms differ in {name}")
        schedule = spec.steps * len(spec.scalars) * 4
        largest = max([schedule, spec.state.size, *(shard.sealed.size for shard in spec.dataset.shards)])
        if largest > self.base.max_blob:
            return self._refuse(job, f"it has a blob of {largest} bytes; this node takes up to {self.base.max_blob}")
        entry.spec, entry.stage, entry.waiting = spec, "program", [spec.program, spec.schedule]
        self._do(Fetch(key=f"program:{job}:{spec.program}", cid=spec.program, limit=self.base.max_blob, near=tuple(entry.near)))
        self._do(Fetch(key=f"program:{job}:{spec.schedule}", cid=spec.schedule, limit=schedule + SLACK, near=tuple(entry.near)))

    def _on_program(self, event: Result, rest: list[str]) -> None:
        job, cid = JobId(int(rest[0])), Cid(rest[1])
        entry = self.state.jobs[job]
        if cid not in entry.waiting or entry.spec is None:
            return
        if isinstance(event, Failed):
            return self._job_failed(job, event, Fetch(key=event.key, cid=cid, limit=self.base.max_blob, near=tuple(entry.near)))
        entry.waiting.remove(cid)
        if not entry.waiting:
            entry.stage = "checking"
            self._do(Do(key=f"check:{job}", task=CheckProgram(job=job, program=entry.spec.program)))

    def _on_check(self, event: Result, rest: list[str]) -> None:
        job = JobId(int(rest[0]))
        entry, terms = self.state.jobs[job], self.state.facts.jobs[job].terms
        assert entry.spec is not None
        if isinstance(event, Failed):
            return self._job_failed(job, event, Do(key=event.key, task=CheckProgram(job=job, program=entry.spec.program)))
        found: ProgramChecked = self._outcome(event, ProgramChecked)
        if found.root != terms.program_root:
            return self._refuse(job, "its program is not the one the contract names")
        if (found.micro_leaves, found.update_leaves) != (terms.micro_leaves, terms.update_leaves):
            return self._refuse(job, f"its traces have {found.micro_leaves} and {found.update_leaves} leaves, its terms say otherwise")
        if found.peak_memory > self.base.max_memory:
            return self._refuse(job, f"it needs {found.peak_memory} bytes of memory; this node gives {self.base.max_memory}")
        if max(found.micro_flops, found.update_flops) > self.base.max_flops:
            return self._refuse(job, f"one link needs {max(found.micro_flops, found.update_flops)} operations; the limit is {self.base.max_flops}")
        entry.stage = "ready"
        self._note("job", f"job {job} ({entry.spec.name}) can be done here", job=job, name=entry.spec.name)
        self._job_ready(job)

    # ---- what a segment needs --------------------------------------------------------------------------------------------

    def _shards(self, spec: JobSpec) -> list[tuple[SealedRef, int]]:
        """All shards of a job and the most bytes each may have."""
        return [(shard.sealed, shard.sealed.size + SLACK) for shard in spec.dataset.shards]

    def _parent(self, seg: SegmentFacts) -> tuple[SealedRef, Digest] | None:
        """Checkpoint and state root that a segment starts from. None while its parent or its job is not known."""
        spec = self._job(seg.job)
        if seg.parent == 0:
            return (spec.state, spec.state_root) if spec is not None else None
        parent = self.state.facts.segments.get(seg.parent)
        if parent is None or not parent.checkpoint:
            return None
        return SealedRef(cid=parent.checkpoint, size=0, key_id=parent.key_id, envelope=parent.key_envelope), parent.end_root

    def _need(self, seg: SegmentFacts, blobs: list[tuple[SealedRef, int]]) -> None:
        """Fetches blobs with their sizes' bounds and waits for their keys; `_supplied` when there is nothing to wait for."""
        facts, entry = self.state.facts, self.state.jobs[seg.job]
        parent = facts.segments.get(seg.parent)
        peers = [*(facts.peer(parent.provider) if parent else ()), *facts.peer(seg.provider), *entry.near]
        if entry.spec is not None:
            peers.append(entry.spec.key_service_peer)
        near = tuple(dict.fromkeys(peer for peer in peers if peer != self.base.peer))
        cids = dict.fromkeys(ref.cid for ref, _ in blobs)
        keys = [key for key in dict.fromkeys(ref.key_id for ref, _ in blobs) if key not in self.state.keys]
        self.state.needs[seg.segment] = Needs(list(cids), keys)
        bounds = {ref.cid: bound for ref, bound in blobs}
        for cid in cids:
            self._do(Fetch(key=f"fetch:{seg.segment}:{cid}", cid=cid, limit=bounds[cid], near=near))
        if keys:
            self._do(Wake(key=f"nag:{seg.segment}", at=self._now + self.base.key_patience))

    def _unneed(self, segment: SegmentId) -> None:
        needs = self.state.needs.pop(segment, None)
        if needs is not None:
            for cid in needs.cids:
                self._do(Cancel(key=f"fetch:{segment}:{cid}"))
        self._drop_again(segment)

    def _check_supplied(self, segment: SegmentId) -> None:
        needs = self.state.needs.get(segment)
        if needs is not None and not needs.cids and not needs.keys:
            del self.state.needs[segment]
            self._supplied(segment)

    def _on_fetch(self, event: Result, rest: list[str]) -> None:
        segment, cid = SegmentId(int(rest[0])), Cid(rest[1])
        needs = self.state.needs.get(segment)
        if needs is None or cid not in needs.cids:
            return
        if isinstance(event, Failed):
            self._note("waiting", f"segment {segment}: a blob cannot be had: {event.error}", segment=segment, cid=cid)
            if event.fault is not Fault.PEER:  # a blob that is too large stays so
                self._later(self._refetch(segment, cid))
            return
        needs.cids.remove(cid)
        self._check_supplied(segment)

    def _refetch(self, segment: SegmentId, cid: Cid) -> Fetch:
        job = self.state.facts.segments[segment].job
        return Fetch(key=f"fetch:{segment}:{cid}", cid=cid, limit=self.base.max_blob, near=tuple(self.state.jobs[job].near))

    # ---- keys ------------------------------------------------------------------------------------------------------------

    def _waits_for(self, key: Digest) -> list[SegmentId]:
        return [segment for segment, needs in self.state.needs.items() if key in needs.keys]

    def _released(self, event: KeyReleased) -> None:
        if event.recipient == self.base.account and event.key_id not in self.state.keys and self._wants_key(event):
            self._store(event.segment, event.key_id, event.wrapped)

    def _wants_key(self, event: KeyReleased) -> bool:
        """A key of a segment that this node has to do with. It may come before the needs are stated."""
        seg = self.state.facts.segments.get(event.segment)
        return seg is not None and (seg.provider == self.base.account or self.base.account in seg.verifiers)

    def _store(self, segment: SegmentId, key: Digest, wrapped: bytes) -> None:
        self._do(Do(key=f"key:{segment}:{key.hex()}", task=StoreKey(key_id=key, wrapped=wrapped)))

    def _on_key(self, event: Result, rest: list[str]) -> None:
        segment, key = SegmentId(int(rest[0])), Digest(bytes.fromhex(rest[1]))
        if isinstance(event, Failed):
            self._note("key", f"segment {segment}: key {rest[1][:16]} is not usable: {event.error}", segment=segment, key=rest[1])
            if self._waits_for(key):
                self._ask_key(segment, key)
            return
        self.state.keys.add(key)
        for waiting in self._waits_for(key):
            self.state.needs[waiting].keys.remove(key)
            self._check_supplied(waiting)

    def _ask_key(self, segment: SegmentId, key: Digest) -> None:
        seg = self.state.facts.segments.get(segment)
        spec = self._job(seg.job) if seg is not None else None
        if spec is not None:
            message = KeyRequest(segment=segment, key_id=key)
            self._do(Ask(key=f"ask:{segment}:{key.hex()}", peer=spec.key_service_peer, message=message, patience=self.base.key_patience))

    def _on_ask(self, event: Result, rest: list[str]) -> None:
        segment, key = SegmentId(int(rest[0])), Digest(bytes.fromhex(rest[1]))
        if not self._waits_for(key):
            return
        if isinstance(event, Answered) and isinstance(event.message, KeyGrant) and event.message.key_id == key:
            self._store(segment, key, event.message.wrapped)
        else:
            why = event.error if isinstance(event, Failed) else "it answered something else"
            self._note("key", f"segment {segment}: the key service does not give key {rest[1][:16]}: {why}", segment=segment, key=rest[1])

    def _on_nag(self, event: Woke, rest: list[str]) -> None:
        segment = SegmentId(int(rest[0]))
        needs = self.state.needs.get(segment)
        if needs is None or not needs.keys:
            return
        for key in needs.keys:
            self._ask_key(segment, key)
        self._do(Wake(key=f"nag:{segment}", at=self._now + 2 * self.base.key_patience))

    # ---- calls that anyone may make --------------------------------------------------------------------------------------

    def _nudge(self, kind: str, seg: SegmentFacts, at: int = 0, block: int = 0, tried: int = 0) -> None:
        """Makes a call for a segment from a time and block on, if it still has a point then."""
        self._do(Wake(key=f"due:{kind}:{seg.segment}:{seg.round}:{tried}:{at or block}", at=at, block=block))

    def _call(self, kind: str, seg: SegmentFacts, round: int) -> AnyCall | None:
        """The call, or None when there is no point in it (any more)."""
        state, same = seg.state, seg.round == round
        calls: dict[str, tuple[bool, AnyCall]] = {
            "draw": (state == SegmentState.COMMITTED and same, Draw(segment=seg.segment)),
            "redraw": (state == SegmentState.DRAWN and same, Redraw(segment=seg.segment)),
            "close": (state == SegmentState.SERVED and same and not seg.opening_block, CloseReveals(segment=seg.segment)),
            "decide": (state == SegmentState.SERVED and same and seg.opening_block > 0, Decide(segment=seg.segment)),
            "settle": (state == SegmentState.ATTESTED and self._parent_settled(seg), Settle(segment=seg.segment)),
            "void": (seg.live and self.state.facts.failed(seg.parent), VoidSegment(segment=seg.segment)),
        }
        wanted, call = calls[kind]
        return call if wanted else None

    def _parent_settled(self, seg: SegmentFacts) -> bool:
        parent = self.state.facts.segments.get(seg.parent)
        return parent is None or parent.state == SegmentState.SETTLED

    def _on_due(self, event: Woke, rest: list[str]) -> None:
        kind, segment, round = rest[0], SegmentId(int(rest[1])), int(rest[2])
        seg = self.state.facts.segments.get(segment)
        call = self._call(kind, seg, round) if seg is not None else None
        if call is not None:
            self._do(Send(key=f"nudge:{':'.join(rest)}", call=call))

    def _on_nudge(self, event: Result, rest: list[str]) -> None:
        """Mostly somebody else was first, which the chain's events will tell; if they do not, it is tried again."""
        kind, segment, round, tried = rest[0], SegmentId(int(rest[1])), int(rest[2]), int(rest[3])
        seg = self.state.facts.segments.get(segment)
        if seg is not None and self._call(kind, seg, round) is not None and tried < NUDGES:
            self._nudge(kind, seg, at=self._now + PAUSE * (1 + tried // 10), tried=tried + 1)

    # ---- money -----------------------------------------------------------------------------------------------------------

    def _money(self, event: Credited | Withdrawn) -> None:
        if event.who != self.base.account:
            return
        if isinstance(event, Withdrawn):
            self.state.credit = max(0, self.state.credit - event.amount)
            return self._note("withdrawn", f"{event.amount} paid out", amount=event.amount)
        self.state.credit += event.amount
        text = f"credited {event.amount} ({event.reason}) for segment {event.segment}"
        self._note("credited", text, amount=event.amount, reason=event.reason, segment=event.segment)
        if 0 < self.base.withdraw_at <= self.state.credit:
            self._pull()

    def _pull(self) -> None:
        if self.state.credit > 0:
            self.state.withdrawals += 1
            self._do(Send(key=f"withdraw:{self.state.withdrawals}", call=Withdraw()))
        else:
            self._note("withdraw", "there is nothing to withdraw")

    def _on_withdraw(self, event: Result, rest: list[str]) -> None:
        if isinstance(event, Failed):
            self._note("withdraw", f"withdrawing failed: {event.error}")
