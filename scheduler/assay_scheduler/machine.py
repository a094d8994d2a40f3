"""The scheduler's logic: announces open ranges, takes the best signed offer, and sees to it that no deadline is forgotten.

A range of a job is open when its parent (a committed segment, or the job's start) has no live child. Per range:

    open      --announce-->  soliciting   --offers, respond_by-->  choosing  --assign-->  assigned
    assigned  --activated, committed-->   the child range opens     (offers for it are gathered while the parent still runs)
    assigned  --lapsed-->    open
    committed --withheld | unpaid | rejected-->  open at the parent's end; descendants are voided

Everything a scheduler does after the assignment anyone may do: it calls `lapse`, `draw`, `redraw`, `close_reveals`, `decide`,
`settle`, `void` and `close` a moment after the party that has more interest in them, so that a call is rarely paid for twice. All
it knows comes from the chain and from offers; a job whose scheduler is gone is taken over by any other after `takeover_window`.
It also mirrors what a job needs (sealed, so it learns nothing) and each checkpoint, before it is committed, so that no range depends on one disk.

How a range is placed is assay_scheduler.placing. Of a job no more is remembered than its unsettled segments and the last settled one, so
that a segment costs the same however many there were before it.
"""

from __future__ import annotations

from assay.beats import settles_for
from assay.chain import (
    FAILED,
    Activated,
    Assigned,
    Attested,
    CancelJob,
    ChunkAsked,
    CloseJob,
    CloseReveals,
    Committed,
    Decide,
    Draw,
    Drawn,
    Entrusted,
    JobCancelled,
    JobClosed,
    JobPosted,
    Lapse,
    Lapsed,
    OpeningsDue,
    Redraw,
    Redrawn,
    Registered,
    Rejected,
    RevealsDue,
    SegmentState,
    Served,
    Settle,
    Settled,
    Unpaid,
    Voided,
    VoidSegment,
    Withheld,
)
from assay.codec import Message
from assay.facts import keep_plan, plan_key
from assay.ids import PeerId
from assay.messages import Ack, CopyRequest, HandOver, Heartbeat, OfferMessage, Refusal
from assay.runtime import (
    AnyEffect,
    AnyEvent,
    Ask,
    Asked,
    Cancel,
    ChainSeen,
    Do,
    Done,
    Failed,
    Fetched,
    Note,
    Reply,
    Send,
    Sent,
    Started,
    Wake,
    Woke,
)
from assay.tasks import JobLoaded, LoadJob, NodesFound, OfferVerified
from assay_scheduler.books import LIVE_UNCOMMITTED, Config, JobBook, SegmentBook, State, range_key
from assay_scheduler.explaining import stand
from assay_scheduler.history import History, fence
from assay_scheduler.mirror import Mirror
from assay_scheduler.placing import Placing

ENDS = {
    Lapsed: SegmentState.LAPSED, Withheld: SegmentState.WITHHELD, Unpaid: SegmentState.UNPAID, Rejected: SegmentState.REJECTED,
    Voided: SegmentState.VOID,
}  # fmt: skip


class SchedulerMachine(Placing, History, Mirror):
    """See the module's comment. `handle` is pure."""

    SOFT: tuple[type[Message], ...] = (Heartbeat,)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.state = State()

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        match event:
            case ChainSeen():
                return self._on_chain(event, now)
            case Asked(ask=ask, peer=peer, message=OfferMessage() as message):
                return self._on_offer(ask, peer, message, now)
            case Asked(ask=ask, peer=peer, message=Heartbeat() as message):
                return [Reply(ask=ask, message=Ack()), *self._on_heartbeat(peer, message)]
            case Asked(ask=ask, peer=peer, message=CopyRequest() as message):
                return self._on_copy_asked(ask, peer, message)
            case Asked(ask=ask):
                return [Reply(ask=ask, message=Refusal(reason="this node is a scheduler: it takes offers, heartbeats and checkpoints"))]
            case Started():
                self.state.held = {}  # requests of another life
                return []
            case Woke(key=key):
                return self._on_wake(key, now)
            case Done(key=key, outcome=OfferVerified() as verified):
                return self._on_verified(key, verified, now)
            case Done(key=key, outcome=NodesFound() as found_nodes):
                return self._on_found(key, found_nodes, now, seed)
            case Done(outcome=JobLoaded() as loaded):
                return self._mirror(loaded)
            case Fetched(key=key) if key.startswith("spec:"):
                found = self.state.jobs.get(int(key.split(":")[1]))
                return [Do(key=f"load:{found.id}", task=LoadJob(job=found.id, spec=found.terms.spec))] if found is not None else []
            case Fetched(key=key) if key.startswith("mirror:"):
                return self._keep(key)
            case Fetched(key=key) if key.startswith("copy:"):
                return self._pin_copy(key, now)
            case Done(key=key) if key.startswith("hold:"):
                return self._copy_kept(key)
            case Failed():
                return self._on_failed(event, now)
            case Sent() | _:
                return []

    def summary(self) -> dict[str, object]:
        """For `assay scheduler status`."""
        jobs = [
            {"job": j.id, "steps": j.terms.steps, "settled_to": j.settled_to, "segments": j.count + len(j.segments), "step_ms": j.pace,
             "waits": stand(j, self.state, self._mine(j), self.config.volunteer), "placed": j.placed}
            for j in self.state.jobs.values()
        ]  # fmt: skip
        return {"jobs": jobs, "closed_jobs": self.state.closed, "late_at_percent": fence(self.state.ratios)}

    # ---- the chain -------------------------------------------------------------------------------------------------------

    def _on_chain(self, seen: ChainSeen, now: int) -> list[AnyEffect]:
        event = seen.event
        match event:
            case Registered():
                self.state.peers[event.who] = event.peer
                return []
            case Entrusted():
                return self._on_entrusted(event, now)
            case JobPosted():
                return self._on_posted(event, now)
            case JobCancelled():
                self.state.jobs[event.job].cancelled = True
                return self._close_if_over(self.state.jobs[event.job], now)
            case JobClosed():
                return self._on_closed(self.state.jobs.pop(event.job))
            case Assigned():
                return self._on_assigned(event, now)
        segment_id = getattr(event, "segment", None)
        book = self._segment(segment_id) if segment_id is not None else None
        if book is None:
            return []
        job = self.state.jobs[book.job]
        match event:
            case Activated():
                book.state, book.since = SegmentState.ACTIVE, now
                return [self._late(book, event.lease_until), *self._watch(job, book, self._mine(job)), *self._seek(job, now)]
            case Committed():
                book.stop, book.state, book.checkpoint = event.stop, SegmentState.COMMITTED, event.checkpoint
                job.open_since, job.fruitless = now, 0
                self._learn(job, book, now)
                return [
                    *self._on_checkpoint(job, book),
                    Wake(key=f"drawable:{book.id}:{event.seed_block}", block=event.seed_block + 1),
                    *self._seek(job, now),
                ]
            case Redrawn():
                book.state = SegmentState.COMMITTED
                return [Wake(key=f"drawable:{book.id}:{event.seed_block}", block=event.seed_block + 1)]
            case Drawn():
                book.state = SegmentState.DRAWN
                return [self._late(book, event.serve_by)]
            case Served():
                book.state = SegmentState.SERVED
                return [self._late(book, event.seal_by + job.terms.params.reveal_window)]
            case RevealsDue(reveal_by=due) | ChunkAsked(show_by=due):
                return [self._late(book, due)]
            case OpeningsDue():
                return [Wake(key=f"decide:{book.id}:{event.opening_block}", at=event.open_by + 1)]
            case Attested():
                book.state = SegmentState.ATTESTED
                book.due = event.settle_after
                return [self._settle(job, book, now), *self._seek(job, now)]
            case Settled():
                return self._on_settled(job, book, event, now)
            case Lapsed() | Withheld() | Unpaid() | Voided() | Rejected():
                return self._on_failed_segment(job, book, event, now)
        return []

    def _on_entrusted(self, event: Entrusted, now: int) -> list[AnyEffect]:
        keep_plan(self.state.plans, event)
        known = [job for job in self.state.jobs.values() if (job.client, job.terms.spec_digest) == (event.client, event.spec_digest)]
        for job in known:
            job.plan = event
        return [effect for job in known for effect in self._begin(job, now)]

    def _on_posted(self, event: JobPosted, now: int) -> list[AnyEffect]:
        plan = self.state.plans.get(plan_key(event.client, event.terms.spec_digest))
        job = JobBook(id=event.job, client=event.client, terms=event.terms, segments={}, open_since=now, plan=plan)
        self.state.jobs[event.job] = job
        return self._begin(job, now)

    def _begin(self, job: JobBook, now: int) -> list[AnyEffect]:
        if not self._mine(job):
            return [Wake(key=f"takeover:{job.id}:{now}", at=now + job.patience + 1)] if self.config.volunteer else []
        return [
            Note(topic="job", text=f"job {job.id}: {job.terms.steps} steps to place", data={"job": job.id, "steps": job.terms.steps}),
            Wake(key=f"deadline:{job.id}", at=job.terms.deadline + 1),
            self._fetch_spec(job),
            *self._seek(job, now),
        ]

    def _on_assigned(self, event: Assigned, now: int) -> list[AnyEffect]:
        job = self.state.jobs[event.job]
        book = SegmentBook(
            id=event.segment, job=event.job, parent=event.parent, provider=event.provider,
            start=event.start, stop=event.stop, price=event.price, state=SegmentState.ASSIGNED,
        )  # fmt: skip
        job.segments[event.segment] = book
        self.state.job_of[event.segment] = event.job
        key = range_key(event.job, event.parent, event.start, event.stop)
        self.state.bids.pop(key, None)
        self.state.assigning.pop(key, None)
        self.state.soliciting.pop(key, None)
        asked = [Cancel(key=f"choose:{key}:{self.state.turns.pop(key)}")] if key in self.state.turns else []
        text = f"segment {book.id}: steps {book.start}-{book.stop} to {book.provider} for {book.price}"
        return [*asked, self._late(book, event.activate_by), self._note("assigned", book, text), *self._seek(job, now)]

    def _on_settled(self, job: JobBook, book: SegmentBook, event: Settled, now: int) -> list[AnyEffect]:
        book.state = SegmentState.SETTLED
        job.settled_to = book.stop
        self._judge(book, event)
        note = self._note("settled", book, f"segment {book.id}: settled, {book.provider} is paid {book.price}")
        effects = [*self._forget_before(job, book), note]
        for child in job.segments.values():
            if child.parent == book.id and child.state == SegmentState.ATTESTED:
                effects.append(self._settle(job, child, now))
        if book.stop == job.terms.steps:
            return [*effects, self._close(job, now)]
        return [*effects, *self._seek(job, now), *self._close_if_over(job, now)]

    def _on_failed_segment(self, job: JobBook, book: SegmentBook, event: Lapsed | Withheld | Unpaid | Voided | Rejected, now: int) -> list[AnyEffect]:
        job.open_since = now
        job.fruitless += book.state in LIVE_UNCOMMITTED
        why = self._judge(book, event)
        book.state = ENDS[type(event)]
        effects = [*self._drop_copy(book), self._note("failed", book, f"segment {book.id}: {why}")]
        for child in job.segments.values():
            if child.parent == book.id and child.state not in FAILED:
                effects.append(Send(key=f"void:{child.id}", call=VoidSegment(segment=child.id)))
        return [*effects, *self._seek(job, now), *self._close_if_over(job, now)]

    # ---- time and failure ------------------------------------------------------------------------------------------------

    def _on_wake(self, key: str, now: int) -> list[AnyEffect]:
        kind, _, rest = key.partition(":")
        if kind in ("choose", "rested", "open"):
            return self._on_turn(kind, rest, now)
        if kind in ("deadline", "takeover", "close"):
            job = self.state.jobs.get(int(rest.split(":")[0]))
            return self._on_job_wake(kind, key, job, now) if job is not None else []
        book = self._segment(int(rest.split(":")[0]))
        if book is None:
            return []
        if kind == "late":
            return self._on_late(book, now)
        if kind == "slow" and book.state == SegmentState.ACTIVE:
            percent = self._allowed(book)
            text = f"segment {book.id}: {book.provider} takes more than {percent} % of the time that others took; it is asked to hand over"
            ask = [Ask(key=f"handover:{book.id}", peer=peer, message=HandOver(segment=book.id)) for peer in self._near(book.provider)]
            return [self._note("straggler", book, text), *ask]
        if kind == "drawable" and book.state == SegmentState.COMMITTED:
            return [Wake(key=f"draw:{rest}", at=now + self.config.patience)]
        if kind == "draw" and book.state == SegmentState.COMMITTED:
            return [Send(key=f"call-draw:{rest}", call=Draw(segment=book.id))]
        if kind == "decide" and book.state == SegmentState.SERVED:
            return [Send(key=f"call-decide:{rest}", call=Decide(segment=book.id))]
        if kind == "settle" and book.state == SegmentState.ATTESTED:
            before = self._segment(book.parent)
            if before is None or before.state == SegmentState.SETTLED:
                return [Send(key=f"call-settle:{book.id}", call=Settle(segment=book.id))]
        return []

    def _on_job_wake(self, kind: str, key: str, job: JobBook, now: int) -> list[AnyEffect]:
        if kind == "takeover":
            return self._on_takeover(job, now)
        if kind == "close":
            return [Send(key=key, call=CloseJob(job=job.id))]
        return [] if job.cancelled else [Send(key=f"cancel:{job.id}", call=CancelJob(job=job.id))]

    def _settle(self, job: JobBook, book: SegmentBook, now: int) -> Wake:
        """For a provider that does not do it with its others."""
        at = settles_for(max(now, book.due) + 1, job.terms.params.challenge_window)
        return Wake(key=f"settle:{book.id}", at=at + self.config.patience)

    def _on_late(self, book: SegmentBook, now: int) -> list[AnyEffect]:
        if now <= book.due:
            return []
        if book.state in LIVE_UNCOMMITTED:
            return [Send(key=f"lapse:{book.id}:{book.due}", call=Lapse(segment=book.id))]
        if book.state == SegmentState.DRAWN:
            return [Send(key=f"redraw:{book.id}:{book.due}", call=Redraw(segment=book.id))]
        if book.state == SegmentState.SERVED:
            return [Send(key=f"close-reveals:{book.id}:{book.due}", call=CloseReveals(segment=book.id))]
        return []

    def _on_takeover(self, job: JobBook, now: int) -> list[AnyEffect]:
        if job.cancelled or job.settled_to == job.terms.steps:
            return []
        tip = job.tip()
        full = tip.live or tip.unsettled >= job.terms.params.depth or tip.start >= job.terms.steps  # nothing to place now: a window later, then
        due = (now if full else job.open_since) + job.patience
        if now <= due:
            return [Wake(key=f"takeover:{job.id}:{now}", at=due + 1 + self.config.patience)]
        job.overdue = True
        note = Note(topic="takeover", text=f"job {job.id}: its scheduler is silent, this one goes on", data={"job": job.id})
        copies = [self._copy_checkpoint(job, s) for s in job.segments.values() if s.checkpoint and s.state not in FAILED]
        return [note, self._fetch_spec(job), *copies, *self._seek(job, now)]

    def _on_failed(self, event: Failed, now: int) -> list[AnyEffect]:
        kind, _, rest = event.key.partition(":")
        if kind == "verify":
            self.state.pending.pop(event.key, None)
            return [Note(topic="offer", text=f"an offer was thrown away: {event.error}")]
        if kind == "assign":
            range_, _, _ = rest.rpartition(":")
            bid = self.state.assigning.pop(range_, None)
            if bid is None or range_ not in self.state.soliciting:
                return []
            self.state.bids[range_] = [other for other in self.state.bids.get(range_, []) if other != bid]
            note = Note(topic="refused", text=f"the contract refused {bid.offer.provider} for {range_}: {event.error}")
            return [note, *self._assign(self.state.jobs[bid.offer.job], range_, now)]
        if kind == "call-draw":  # drawn by another meanwhile, or too few verifiers: then the contract lets it fail later
            book = self._segment(int(rest.split(":")[0]))
            wait = self.state.jobs[book.job].terms.params.serve_window if book is not None else 0
            return [Wake(key=f"draw:{rest}", at=now + wait + 1)] if book is not None and book.state == SegmentState.COMMITTED else []
        if kind in ("copy", "hold"):
            return self._copy_failed(event)
        if kind in ("mirror", "spec", "load"):
            return [Note(topic="mirror", text=f"could not mirror {rest}: {event.error}")]
        return []  # somebody else made the call first, or will

    def _close_if_over(self, job: JobBook, now: int) -> list[AnyEffect]:
        """A cancelled job is closed when nothing of it is live."""
        return [self._close(job, now)] if job.cancelled and not job.busy() else []

    def _close(self, job: JobBook, now: int) -> Send | Wake:
        """At once by who schedules it; any other leaves it the time to."""
        key = f"close:{job.id}"
        return Send(key=key, call=CloseJob(job=job.id)) if self._mine(job) else Wake(key=key, at=now + self.config.patience)

    # ---- small things ----------------------------------------------------------------------------------------------------

    def _forget_before(self, job: JobBook, settled: SegmentBook) -> list[AnyEffect]:
        """Settlement is in order: nothing builds on what ended before the segment that settles now."""
        old = [s for s in job.segments.values() if s.id < settled.id and (s.state == SegmentState.SETTLED or s.state in FAILED)]
        for gone in old:
            del job.segments[gone.id], self.state.job_of[gone.id]
            job.count += 1
        job.base = settled.id
        return self._let_go(job, [gone.checkpoint for gone in old])

    def _on_closed(self, job: JobBook) -> list[AnyEffect]:
        for segment in job.segments:
            del self.state.job_of[segment]
        self._forget_ranges(job)
        self.state.closed += 1
        last = job.segments[job.base].checkpoint if job.base in job.segments else None
        return [*self._leave(job, last), *([Cancel(key=f"deadline:{job.id}")] if job.scheduler == self.config.account else [])]

    def _segment(self, segment: int) -> SegmentBook | None:
        job = self.state.job_of.get(segment)
        return self.state.jobs[job].segments[segment] if job is not None else None

    def _on_heartbeat(self, peer: PeerId, message: Heartbeat) -> list[AnyEffect]:
        book = self._segment(message.segment)
        if book is None or self.state.peers.get(book.provider) != peer:
            return []
        return [self._note("progress", book, f"segment {book.id}: step {message.step}", step=message.step, loss_f32=message.loss_f32)]

    def _note(self, topic: str, book: SegmentBook, text: str, **data: int) -> Note:
        return Note(topic=topic, text=text, data={"job": book.job, "segment": book.id, "provider": book.provider, **data})
