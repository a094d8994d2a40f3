"""The worker's logic: offers for open ranges, runs what is assigned to it, commits, serves the drawn units, is paid.

As many ranges are run at once as the node has places (one, without a fleet); what is run to its end is copied, committed and lives on beside
them until it ends. `phase` is this node's own part, the rest is the segment's state on chain (assay.facts):

    phase       what happens                                                  ends with
    gathering   parent's checkpoint, shards and their keys are fetched        ready
    ready       a place is waited for (assay_worker.preparing)                running, or lapsed
    running     RunSegment, and `activate` beside it; stopped after a step when the lease nears its     copying (the whole, or the prefix done so far)
                end or the owner drains the node
    copying     another node is asked to keep the checkpoint, for a bounded   committing
                time (assay_worker.committing)
    committing  `commit` is sent                                              committed (the chain says so)
    committed   draw -> ServeUnits -> boundaries to the verifiers who ask,    settled | withheld | unpaid | void | rejected
                receipts, or a chunk on chain -> `served`; their seals and votes
                in one transaction each; then every call that is due
    lost        too late, or it cannot be done: the reason is noted           lapsed (anyone calls it)

An offer is made only when a place is free, or will be, for what it may bring; it dies when it expires, when its range goes to
somebody else, when its parent ends elsewhere than it says, or when the scheduler refuses it. Announcements, receipts and the
owner's orders are journaled; requests for boundaries are answered from the state and leave no trace in it.
"""

from __future__ import annotations

from typing import Any

from assay.chain import (
    FAILED,
    Activated,
    Assigned,
    Attested,
    ChunkAsked,
    Committed,
    Drawn,
    JobPosted,
    OpeningsDue,
    Redrawn,
    RevealsDue,
    SegmentState,
    Served,
    Settled,
)
from assay.codec import Message
from assay.facts import SegmentFacts
from assay.ids import PeerId, SegmentId
from assay.messages import Ack, BoundaryRequest, HandOver, JobAnnouncement, ReceiptMessage, Refusal, SealMessage, VoteMessage
from assay.runtime import AnyEvent, Asked, Cancel, Do, Failed, Fault, Heard, Ordered, Reply, Result, Started, Wake, Woke
from assay.tasks import RunSegment, SegmentRun, StopSegment
from assay_worker.claiming import Claiming
from assay_worker.committing import Committing
from assay_worker.preparing import Preparing
from assay_worker.state import BUSY, WAITING, Mine, WorkerConfig, WorkerState
from assay_worker.summary import pending, told


class WorkerMachine(Preparing, Committing, Claiming):
    """See the module's comment. `handle` is pure."""

    SOFT: tuple[type[Message], ...] = (BoundaryRequest,)
    state: WorkerState

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__(config)
        self.config = config
        self.state = WorkerState()
        self._kinds |= {
            "sign": self._on_sign, "offer": self._on_offer, "expire": self._on_expire, "queue": self._on_queue, "prepare": self._on_prepare,
            "activate": self._on_activate, "run": self._on_run, "lease": self._on_lease, "stop": self._on_stop, "commit": self._on_commit,
            "copy": self._on_copy,
            "units": self._on_units, "reserve": self._on_reserve, "receipt": self._on_receipt, "grace": self._on_grace,
            "serve": self._on_serve, "drop": self._on_drop, "seal": self._on_seal, "vote": self._on_vote, "gather": self._on_gather,
            "post": self._on_post, "posted": self._on_posted, "lay": self._on_laid, "show": self._on_shown, "visit": self._on_visit,
            "chunk": self._on_chunk, "open": self._on_open, "reopen": self._on_reopen,
            "find": self._on_found,
            "tidy": self._on_tidy, "tidied": self._on_tidied, "tell": self._on_tell, "tellkey": self._on_told, "claim": self._on_claimed,
        }  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """For `assay worker status`."""
        money = {**self._account(pending(self.state)), "credit": self.state.credit + self.state.bounty_credit}
        return {**told(self.state, self.config.account, self.config.places), **money}

    # ---- peers and owner -------------------------------------------------------------------------------------------------

    def _other(self, event: AnyEvent) -> None:
        match event:
            case Started():
                self.state.draining = False
                self._shows_forgotten()
                self._published_forgotten()
                self._copies_forgotten()
            case Ordered(order="drain"):
                self.state.draining = True
                for mine in self._busy("running"):
                    self._stop(mine, "the owner drains this node")
                self._drained()
            case Ordered(order="resume"):
                self.state.draining = False
            case Ordered(order=order):
                self._note("order", f"a worker does not know the order {order!r}; it knows drain, resume and withdraw")
            case Heard(message=JobAnnouncement() as announcement):
                self._hear(announcement)
            case Asked(ask=ask, message=JobAnnouncement() as announcement):
                self._do(Reply(ask=ask, message=Ack()))
                self._hear(announcement)
            case Asked(ask=ask, peer=peer, message=BoundaryRequest() as request):
                self._do(Reply(ask=ask, message=self._boundary(peer, request)))
            case Asked(ask=ask, peer=peer, message=ReceiptMessage() as receipt):
                self._do(Reply(ask=ask, message=self._take_receipt(peer, receipt)))
            case Asked(ask=ask, peer=peer, message=SealMessage() as seal):
                self._do(Reply(ask=ask, message=self._take_seal(peer, seal)))
            case Asked(ask=ask, peer=peer, message=VoteMessage() as vote):
                self._do(Reply(ask=ask, message=self._take_vote(peer, vote)))
            case Asked(ask=ask, peer=peer, message=HandOver() as request):
                self._do(Reply(ask=ask, message=self._hand_over(peer, request)))
            case Asked():
                self._asked_to_show(event)

    # ---- the chain -------------------------------------------------------------------------------------------------------

    def _chain(self, event: Any) -> None:
        seg = self.state.facts.segments.get(getattr(event, "segment", SegmentId(0)))
        if isinstance(event, Assigned) and event.provider == self.config.account and seg is not None:
            self._assigned(seg)  # as long as the offer is known, and with it who has announced the range
        self._review_offers()
        self._earn(event)
        self._surety(event)
        if isinstance(event, JobPosted):
            if any(a.job == event.job for a in self.state.heard):
                self._want_job(event.job)
            return
        if seg is None:
            return
        if seg.state in FAILED:
            self._void_children(seg)
        if isinstance(event, Settled):
            for child in self._children(seg):
                if child.state == SegmentState.ATTESTED:
                    self._nudge("settle", child, at=self._settle_at(child))
        mine = self.state.mine.get(seg.segment)
        if mine is not None:
            self._advance(mine, seg, event)

    def _children(self, seg: SegmentFacts) -> list[SegmentFacts]:
        return [s for s in self.state.facts.of_job(seg.job) if s.parent == seg.segment and s.segment in self.state.mine]

    def _void_children(self, seg: SegmentFacts) -> None:
        for child in self._children(seg):
            if child.live:
                mine = self.state.mine[child.segment]
                if mine.phase in ("queued", *BUSY):
                    self._lose(mine, f"the segment before it ({seg.segment}) has failed")
                self._nudge("void", child, at=self._now)

    def _scheduler(self, seg: SegmentFacts) -> list[PeerId]:
        """Who wants the heartbeats of a segment: whoever announced it, else the job's own scheduler."""
        for live in self.state.offers:
            if (live.offer.job, live.offer.parent, live.offer.start) == (seg.job, seg.parent, seg.start):
                return [live.announcement.scheduler]
        return list(self.state.facts.peer(self.state.facts.jobs[seg.job].scheduler))

    def _assigned(self, seg: SegmentFacts) -> None:
        taken = len(self._busy("running", *WAITING))
        mine = self.state.mine[seg.segment] = Mine(seg.segment, self._scheduler(seg))
        text = f"segment {seg.segment}: steps {seg.start}-{seg.stop} of job {seg.job} are this node's, for {seg.price}"
        self._note("assigned", text, segment=seg.segment, job=seg.job, start=seg.start, stop=seg.stop, price=seg.price)
        self._want_job(seg.job)
        if taken >= self.config.places:
            self._do(Wake(key=f"queue:{mine.segment}", at=seg.activate_by + 1))

    def _advance(self, mine: Mine, seg: SegmentFacts, event: Any) -> None:
        match event:
            case Activated():
                margin = min(self.config.commit_margin, max(1, (seg.lease_until - event.time) // 4))
                self._do(Wake(key=f"lease:{seg.segment}", at=seg.lease_until - margin))
                free = len(self._busy("running")) < self.config.places
                if mine.phase == "lost" and self._now < seg.lease_until and free and not mine.active:
                    mine.phase = "queued"  # a new disk: the chain tells of an activation that this journal does not know
                elif mine.phase in ("running", "copying", "committing"):
                    self._begun(mine)
            case Committed():
                self._free(mine, "committed")
                text = f"segment {seg.segment}: committed up to step {seg.stop}"
                self._note("committed", text, segment=seg.segment, job=seg.job, stop=seg.stop)
                self._nudge("draw", seg, block=seg.seed_block + 1)
            case Redrawn():
                self._note("redrawn", f"segment {seg.segment}: drawn again: {event.reason}", segment=seg.segment, reason=event.reason)
                self._nudge("draw", seg, block=seg.seed_block + 1)
            case Drawn():
                self._drawn(mine, seg)
            case ChunkAsked():
                self._asked(mine, seg)
            case Served():
                self._note("served", f"segment {seg.segment}: served to the drawn verifiers", segment=seg.segment, round=seg.round)
                self._nudge("close", seg, at=seg.reveal_by + 1)
            case RevealsDue():
                self._nudge("close", seg, at=seg.reveal_by + 1)
            case OpeningsDue():
                self._nudge("decide", seg, at=seg.open_by + 1)
            case Attested():
                self._note("attested", f"segment {seg.segment}: attested; it settles after {seg.settle_after}", segment=seg.segment)
                if self._parent_settled(seg):
                    self._nudge("settle", seg, at=self._settle_at(seg))
            case _ if not seg.live:
                self._claim(seg, event)
                self._ended(mine, seg, event)

    # ---- losing ----------------------------------------------------------------------------------------------------------

    def _drained(self) -> None:
        if self.state.draining and not self._busy("running", "copying", "committing"):
            self._note("drained", "nothing is being run; no more offers are made")

    def _lose(self, mine: Mine, reason: str) -> None:
        self._note("lost", f"segment {mine.segment} is given up: {reason}", segment=mine.segment, reason=reason)
        self._free(mine, "lost")

    def _free(self, mine: Mine, phase: str) -> None:
        """This node's part of preparing or running a segment is over."""
        if mine.phase == "running":
            self._do(Cancel(key=f"run:{mine.segment}:{mine.attempt}"))
        if mine.preparing:
            self._do(Cancel(key=f"prepare:{mine.segment}"))
            mine.preparing = False
        self._stop_asking(mine)
        held = mine.phase in BUSY
        if held:
            self._unneed(mine.segment)
        mine.phase = phase
        if held:
            self._drained()

    # ---- running ---------------------------------------------------------------------------------------------------------

    def _run(self, mine: Mine) -> None:
        seg = self.state.facts.segments[mine.segment]
        spec, parent = self.state.facts.jobs[seg.job].terms.spec, self._parent(seg)
        if parent is None:
            return self._lose(mine, "its parent is no longer known")
        mine.phase, mine.attempt = "running", mine.attempt + 1
        task = RunSegment(
            segment=seg.segment, job=seg.job, spec=spec, start=seg.start, stop=seg.stop, parent=parent[0], parent_root=parent[1],
            scheduler=mine.scheduler[0] if mine.scheduler else PeerId(""),
        )  # fmt: skip
        self._note("running", f"segment {seg.segment}: running steps {seg.start}-{seg.stop}", segment=seg.segment, job=seg.job)
        self._do(Do(key=f"run:{seg.segment}:{mine.attempt}", task=task))
        if self.state.draining:
            self._stop(mine, "the owner drains this node")

    def _run_again(self, mine: Mine) -> None:
        self._stop_asking(mine)
        self._run(mine)

    def _on_lease(self, event: Woke, rest: list[str]) -> None:
        mine = self.state.mine.get(SegmentId(int(rest[0])))
        if mine is not None and mine.phase == "running":
            self._stop(mine, "the lease ends soon")

    def _stop(self, mine: Mine, why: str) -> None:
        self._note("stopping", f"segment {mine.segment}: {why}; what is done is committed", segment=mine.segment, reason=why)
        self._do(Do(key=f"stop:{mine.segment}:{mine.attempt}", task=StopSegment(segment=mine.segment)))

    def _hand_over(self, peer: PeerId, request: HandOver) -> Ack | Refusal:
        """Only to who schedules the segment, and once a run: what is done is committed and paid, as when a lease ends."""
        mine = self.state.mine.get(request.segment)
        if mine is None or mine.phase != "running":
            return Refusal(reason=f"segment {request.segment} is not being run here")
        job = self.state.facts.jobs[self.state.facts.segments[mine.segment].job]
        if peer not in (*mine.scheduler, *self.state.facts.peer(job.scheduler)):
            return Refusal(reason="this peer does not schedule the segment")
        if mine.handed_over != mine.attempt:
            mine.handed_over = mine.attempt
            self._stop(mine, "the scheduler finds this node too slow for it")
        return Ack()

    def _on_stop(self, event: Result, rest: list[str]) -> None:
        if isinstance(event, Failed):
            self._note("error", f"segment {rest[0]}: the run cannot be stopped: {event.error}")

    def _on_run(self, event: Result, rest: list[str]) -> None:
        mine = self.state.mine.get(SegmentId(int(rest[0])))
        if mine is None or mine.phase != "running" or mine.attempt != int(rest[1]):
            return
        seg = self.state.facts.segments[mine.segment]
        if isinstance(event, Failed):
            again = event.fault in (Fault.OWN, Fault.OUTAGE) and mine.attempt < self.config.attempts
            late = seg.state == SegmentState.ACTIVE and self._now >= seg.lease_until
            if not again or late:
                return self._lose(mine, event.error)
            self._note("error", f"segment {mine.segment}: attempt {mine.attempt} failed: {event.error}; once more", segment=mine.segment)
            return self._run(mine)
        run: SegmentRun = self._outcome(event, SegmentRun)
        if run.computed and run.milliseconds:
            self.state.speed_milli = run.computed * 1_000_000 // run.milliseconds
            entry, m = self.state.jobs.get(seg.job), self.state.facts.jobs[seg.job].terms.micro_batches
            if entry is not None:
                self._measured(run.computed * (m * entry.micro_flops + entry.update_flops), run.milliseconds)
        if run.stop <= seg.start:
            return self._lose(mine, "it was stopped before its first step was done")
        self._finish(mine, seg, run)
