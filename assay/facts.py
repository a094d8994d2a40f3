"""What the chain has told so far, as far as a worker or a verifier needs it: a fold over final chain events, pure and total.

Nothing here decides anything; a machine asks "which state is that segment in", "who is that peer", "where is the checkpoint". Settled
and failed segments that nobody can build on any more are forgotten, so that the facts of a long job stay small.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from assay import draw, energy
from assay.chain import (
    FAILED,
    TERMINAL,
    Activated,
    AnyChainEvent,
    Assigned,
    Attested,
    Batch,
    BondCleared,
    ChunkAsked,
    Committed,
    Disclose,
    DisputeMoved,
    DisputeOpened,
    DisputePaid,
    DisputeResolved,
    DisputeSealed,
    Drawn,
    Entrusted,
    JobCancelled,
    JobClosed,
    JobPosted,
    Lapsed,
    Opened,
    OpeningsDue,
    Outcome,
    Pardoned,
    Redrawn,
    Registered,
    Rejected,
    RevealAll,
    Revealed,
    RevealsDue,
    Sealed,
    SegmentState,
    Served,
    Settled,
    Spread,
    Terms,
    Unpaid,
    Voided,
    Withheld,
)
from assay.ids import Address, Cid, Digest, DisputeId, JobId, PeerId, SegmentId

COMMITTED_OR_BETTER = frozenset(
    {SegmentState.COMMITTED, SegmentState.DRAWN, SegmentState.SERVED, SegmentState.ATTESTED, SegmentState.SETTLED}
)
Shows = TypeVar("Shows", RevealAll, Disclose)
_NO_DIGEST = Digest(b"")


MOST_PLANS = 1024


def plan_key(client: Address, spec_digest: Digest) -> str:
    return f"{client}:{spec_digest.hex()}"


def keep_plan(plans: dict[str, Entrusted], event: Entrusted) -> None:
    """Forgets the oldest when there are too many: a job is posted right after its plan."""
    plans[plan_key(event.client, event.spec_digest)] = event
    if len(plans) > MOST_PLANS:
        del plans[next(iter(plans))]


class Person(msgspec.Struct):
    encryption_key: bytes
    peer: PeerId


class JobFacts(msgspec.Struct):
    client: Address
    terms: Terms
    over: bool = False
    """Cancelled or closed: nothing more is assigned."""
    touched: int = 0
    """Time of the last event that moved it: since then its open range has been open at most."""
    plan: Entrusted | None = None
    """Who schedules it, where the client has entrusted that."""

    @property
    def scheduler(self) -> Address:
        return self.terms.scheduler if self.plan is None else self.plan.scheduler

    @property
    def patience(self) -> int:
        """Seconds that a range is open before anybody may place it."""
        return self.terms.params.takeover_window if self.plan is None else self.plan.patience


class Vote(msgspec.Struct):
    """What a verifier revealed."""

    verifier: Address
    round: int
    agrees: bool
    units: tuple[int, ...]
    trace_roots: tuple[Digest, ...]
    salt: Digest


class DisputeFacts(msgspec.Struct):
    """A dispute that is not paid yet."""

    dispute: DisputeId
    segment: SegmentId
    challenger: Address
    due: int
    """Until when the side whose turn it is may move; of a resolved one, after when it can be paid."""
    asserter: Address = Address("")
    """Empty until it is opened: then it is known what is disputed."""
    target: int = -1
    unit: int = 0
    round: int = 0
    phase: str = "sealed"
    asserting: bool = False
    turns: int = 0
    """Grows with every move."""
    outcome: Outcome | None = None

    @property
    def undecided(self) -> bool:
        return self.outcome is None

    @property
    def holds(self) -> bool:
        """Whether the segment still waits for it: one that the asserter has won holds it until it is paid."""
        return self.outcome in (None, Outcome.ASSERTER_WON)


class SegmentFacts(msgspec.Struct):
    segment: SegmentId
    job: JobId
    parent: SegmentId
    provider: Address
    start: int
    stop: int
    price: int
    activate_by: int
    state: SegmentState = SegmentState.ASSIGNED
    lease_until: int = 0
    link_root: Digest = _NO_DIGEST
    end_root: Digest = _NO_DIGEST
    checkpoint: Cid = Cid("")
    key_id: Digest = _NO_DIGEST
    key_envelope: bytes = b""
    seed_block: int = 0
    round: int = 0
    units: tuple[int, ...] = ()
    verifiers: tuple[Address, ...] = ()
    serve_by: int = 0
    """When a chunk was asked for: until when it may be shown."""
    asked_block: int = 0
    """Block that names that chunk."""
    seal_by: int = 0
    reveal_by: int = 0
    sealed: list[Address] = []
    digests: dict[Address, Digest] = {}
    """Of the round's seals."""
    revealed: list[Address] = []
    opened: list[Address] = []
    drawing_block: int = 0
    """Block that draws the openings, once all have sealed."""
    opening_block: int = 0
    """The same, once openings are awaited from all who revealed."""
    open_by: int = 0
    settle_after: int = 0
    """Of a withheld one, or one that was not served: after which nobody can begin a dispute."""
    bond_cleared: bool = False
    seals: dict[int, bytes] = {}
    """By round, those of which the contract keeps one hash (assay.chain.Spread)."""
    votes: list[Vote] = []
    """Of all rounds."""
    fallen: bool = False
    """Its provider has lost a dispute: nothing is left to win."""
    pardoned: int | None = None
    """A link that its provider has conceded for nothing: the others can be disputed until `settle_after`."""

    @property
    def live(self) -> bool:
        return self.state not in TERMINAL

    def alone(self, round: int, call: Shows) -> Shows | Batch:
        """A call that shows some of a round's votes and not all: where the hash of all seals is kept, these are spread first. (When
        somebody has done that already, that part of the batch is refused and the other is taken.)"""
        seals = self.seals.get(round)
        return call if seals is None else Batch(calls=(Spread(segment=self.segment, round=round, seals=seals), call))


class Facts(msgspec.Struct):
    people: dict[Address, Person] = {}
    jobs: dict[JobId, JobFacts] = {}
    segments: dict[SegmentId, SegmentFacts] = {}
    disputes: dict[DisputeId, DisputeFacts] = {}
    by_job: dict[JobId, list[SegmentId]] = {}
    """The known segments of each job, in the order in which they were assigned."""
    by_provider: dict[Address, list[SegmentId]] = {}
    """The same of each provider."""
    plans: dict[str, Entrusted] = {}
    """The last MOST_PLANS, by `plan_key`."""
    pinned: set[SegmentId] = set()
    """Segments whose files this node keeps for a dispute: they and their parents are not forgotten."""

    def __post_init__(self) -> None:
        """Facts that were kept before there was an index of providers."""
        if self.segments and not self.by_provider:
            for seg in self.segments.values():
                self.by_provider.setdefault(seg.provider, []).append(seg.segment)

    def of_provider(self, who: Address) -> list[SegmentFacts]:
        """Its known segments, in the order in which they were assigned."""
        return [self.segments[segment] for segment in self.by_provider.get(who, ())]

    def of_job(self, job: JobId) -> list[SegmentFacts]:
        """Its known segments, in the order in which they were assigned."""
        return [self.segments[segment] for segment in self.by_job.get(job, ())]

    def disputes_over(self, segment: SegmentId) -> list[DisputeFacts]:
        return [d for d in self.disputes.values() if d.segment == segment]

    def held(self, segment: SegmentId) -> bool:
        """Whether a dispute keeps a segment from being settled, voided or cleared."""
        return any(d.holds for d in self.disputes_over(segment))

    def peer(self, who: Address) -> tuple[PeerId, ...]:
        """The peer of an account, if it has registered one (none or one)."""
        person = self.people.get(who)
        return (person.peer,) if person is not None else ()

    def account(self, peer: PeerId, among: tuple[Address, ...]) -> Address | None:
        """The account among some that has registered `peer`."""
        return next((who for who in among if self.peer(who) == (peer,)), None)

    def see(self, event: AnyChainEvent) -> None:
        """Takes one event in. Events of jobs or segments that were not seen to begin change nothing."""
        match event:
            case Registered():
                self.people[event.who] = Person(event.encryption_key, event.peer)
            case Entrusted():
                keep_plan(self.plans, event)
                for known in self.jobs.values():
                    if (known.client, known.terms.spec_digest) == (event.client, event.spec_digest):
                        known.plan = event
            case JobPosted():
                plan = self.plans.get(plan_key(event.client, event.terms.spec_digest))
                self.jobs[event.job] = JobFacts(event.client, event.terms, touched=event.time, plan=plan)
            case JobCancelled() | JobClosed():
                if event.job in self.jobs:
                    self.jobs[event.job].over = True
            case Assigned():
                self.segments[event.segment] = SegmentFacts(
                    event.segment, event.job, event.parent, event.provider, event.start, event.stop, event.price, event.activate_by
                )
                self.by_job.setdefault(event.job, []).append(event.segment)
                self.by_provider.setdefault(event.provider, []).append(event.segment)
                self._touch(event.job, event.time)
            case DisputeSealed():
                self.disputes[event.dispute] = DisputeFacts(event.dispute, event.segment, event.challenger, event.open_by)
            case DisputeOpened() | DisputeMoved() | DisputeResolved() | DisputePaid():
                dispute = self.disputes.get(event.dispute)
                if dispute is not None:
                    self._dispute(dispute, event)
            case _:
                found = self.segments.get(getattr(event, "segment", SegmentId(0)))
                if found is not None:
                    self._move(found, event)

    def _touch(self, job: JobId, time: int) -> None:
        if job in self.jobs:
            self.jobs[job].touched = time

    def _dispute(self, d: DisputeFacts, event: DisputeOpened | DisputeMoved | DisputeResolved | DisputePaid) -> None:
        match event:
            case DisputeOpened():
                d.asserter, d.target, d.unit, d.round = event.asserter, event.target, event.unit, event.round
            case DisputeMoved():
                d.phase, d.asserting, d.due, d.turns = event.phase, event.asserting, event.due, d.turns + 1
            case DisputeResolved():
                d.outcome, d.due, d.turns = event.outcome, event.pay_after, d.turns + 1
                seg = self.segments.get(d.segment)
                if seg is not None and d.target == 0 and event.outcome in (Outcome.ASSERTER_LOST, Outcome.CONCEDED):
                    seg.fallen = seg.fallen or seg.pardoned is None or event.taken > 0
            case DisputePaid():
                del self.disputes[event.dispute]

    def _move(self, seg: SegmentFacts, event: AnyChainEvent) -> None:
        match event:
            case Activated():
                seg.state, seg.lease_until = SegmentState.ACTIVE, event.lease_until
            case Committed():
                seg.price = seg.price * (event.stop - seg.start) // max(1, seg.stop - seg.start)
                seg.state, seg.stop, seg.seed_block = SegmentState.COMMITTED, event.stop, event.seed_block
                seg.link_root, seg.end_root, seg.checkpoint = event.link_root, event.end_root, event.checkpoint
                seg.key_id, seg.key_envelope = event.key_id, energy.part(event.key_envelope)[0]
            case Drawn():
                seg.state, seg.round, seg.units, seg.verifiers = SegmentState.DRAWN, event.round, event.units, event.verifiers
                seg.serve_by, seg.asked_block = event.serve_by, 0
            case ChunkAsked():
                seg.serve_by, seg.asked_block = event.show_by, event.at_block
            case Redrawn():
                seg.state, seg.round, seg.seed_block = SegmentState.COMMITTED, event.round, event.seed_block
                seg.sealed, seg.revealed, seg.opened, seg.digests = [], [], [], {}
                seg.seal_by = seg.reveal_by = seg.drawing_block = seg.opening_block = seg.open_by = 0
            case Served():
                seg.state, seg.seal_by = SegmentState.SERVED, event.seal_by
                seg.reveal_by = event.seal_by + self.jobs[seg.job].terms.params.reveal_window if seg.job in self.jobs else 0
            case Sealed():
                seg.sealed.append(event.verifier)
                seg.digests[event.verifier] = event.digest
                if event.together:
                    seg.seals[seg.round] = seg.seals.get(seg.round, b"") + draw.seals([(event.verifier, event.digest)])
            case RevealsDue():
                seg.reveal_by, seg.drawing_block = event.reveal_by, event.opening_block
            case Revealed():
                seg.revealed.append(event.verifier)
                seg.votes.append(Vote(event.verifier, seg.round, event.agrees, seg.units, event.trace_roots, event.salt))
            case OpeningsDue():
                seg.opening_block, seg.open_by = event.opening_block, event.open_by
            case Opened():
                seg.opened.append(event.verifier)
            case Attested():
                seg.state, seg.settle_after = SegmentState.ATTESTED, event.settle_after
            case Settled():
                seg.state = SegmentState.SETTLED
                self._forget_before(seg)
            case Lapsed():
                seg.state = SegmentState.LAPSED
            case Withheld():
                seg.state, seg.settle_after = SegmentState.WITHHELD, event.time + self._window(seg)
            case Unpaid():
                seg.state, seg.settle_after = SegmentState.UNPAID, event.time + self._window(seg) if event.reason != "too few verifiers" else 0
            case Voided():
                seg.state = SegmentState.VOID
            case Rejected():
                seg.state = SegmentState.REJECTED
            case BondCleared():
                seg.bond_cleared = True
            case Pardoned():
                seg.pardoned, seg.settle_after = event.unit, event.until
            case _:
                return
        self._touch(seg.job, event.time)

    def _forget_before(self, settled: SegmentFacts) -> None:
        """Settlement is in order, so nothing builds on what ended before the segment that settles now."""
        known = self.of_job(settled.job)
        kept = {s.segment for s in known if s.segment in self.pinned} | {d.segment for d in self.disputes.values()}
        kept |= {s.parent for s in known if s.segment in kept}
        self._drop(settled.job, {s.segment for s in known if s.segment < settled.segment and not s.live and s.segment not in kept})

    def _drop(self, job: JobId, segments: set[SegmentId]) -> None:
        for segment in segments:
            provider = self.segments.pop(segment).provider
            left = self.by_provider[provider]
            left.remove(segment)
            if not left:
                del self.by_provider[provider]
        self.by_job[job] = [segment for segment in self.by_job[job] if segment not in segments]

    def _window(self, seg: SegmentFacts) -> int:
        return self.jobs[seg.job].terms.params.challenge_window if seg.job in self.jobs else 0

    def failed(self, segment: SegmentId) -> bool:
        """Whether a segment is known to have failed."""
        found = self.segments.get(segment)
        return found is not None and found.state in FAILED
