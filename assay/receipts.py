"""What became of jobs and segments, told from chain events alone: who was paid, who was not, and why.

`Ledger.apply` folds events, in order, into one record a job and a segment. It decides nothing: every sentence of a receipt follows
from events that anybody can read on the chain, so two people with the same chain get the same receipts.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from assay import chain, energy
from assay.chain import AnyChainEvent, BountyTerms, SegmentState, Terms
from assay.energy import Energy
from assay.ids import Address, BountyId, Cid, Digest, JobId, SegmentId


class Payment(msgspec.Struct, frozen=True):
    """Tokens that moved for a segment: credited when positive, charged from stake when negative."""

    who: Address
    amount: int
    reason: str


class Segment(msgspec.Struct):
    """All that events said of one segment."""

    number: SegmentId
    job: JobId
    parent: SegmentId
    provider: Address
    start: int
    stop: int
    price: int
    state: SegmentState = SegmentState.ASSIGNED
    activate_by: int = 0
    lease_until: int = 0
    round: int = 0
    units: tuple[int, ...] = ()
    verifiers: tuple[Address, ...] = ()
    verdicts: dict[Address, bool] = msgspec.field(default_factory=dict)
    """Of the last round."""
    noes: set[Address] = msgspec.field(default_factory=set)
    """Of any round: one no that is never outvoted withholds the payment at the end."""
    shown: bool = False
    """Its provider has shown the chunk that it was asked for, which stands for its verifiers' receipts."""
    no_shows: list[Address] = msgspec.field(default_factory=list)
    payments: list[Payment] = msgspec.field(default_factory=list)
    reason: str = ""
    """Why it ended as it did, once it has ended."""
    end_root: Digest | None = None
    checkpoint: Cid | None = None
    key_id: Digest | None = None
    key_envelope: bytes = b""
    energy: Energy | msgspec.UnsetType = msgspec.UNSET
    """That its provider says it took."""
    settle_after: int = 0

    @property
    def ended(self) -> bool:
        return self.state in chain.TERMINAL


class Job(msgspec.Struct):
    """All that events said of one job."""

    number: JobId
    client: Address
    terms: Terms
    funded: int
    cancelled: bool = False
    refund: int | None = None
    """What the client got back when the job was closed; None while it is not."""


class Bounty(msgspec.Struct):
    """All that events said of one bounty."""

    number: BountyId
    sponsor: Address
    terms: BountyTerms
    last: SegmentId = SegmentId(0)
    until: int | None = None
    """None until its window begins."""
    reached: int | None = None
    """By the best result that was shown; None while none was."""
    value: int = 0
    """Bits of that result."""
    returned: int | None = None
    paid: dict[SegmentId, int] = msgspec.field(default_factory=dict)

    def earned(self, now: int) -> int | None:
        """What it pays in all; None while that is open."""
        if self.until is None or (now <= self.until and self.reached != self.terms.amount and self.last):
            return None
        if not self.last:
            return 0
        return self.terms.amount if self.reached is None else self.reached


class Ledger:
    """Jobs and segments as the events so far leave them."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, Job] = {}
        self.segments: dict[SegmentId, Segment] = {}
        self.withdrawn: dict[Address, int] = {}
        self.released: list[chain.KeyReleased] = []
        self.slashed: list[chain.Slashed] = []
        self.bounties: dict[BountyId, Bounty] = {}

    def feed(self, events: Iterable[AnyChainEvent]) -> None:
        for event in events:
            self.apply(event)

    def apply(self, event: AnyChainEvent) -> Segment | None:
        """Takes one event in; returns the segment that it is about, if any."""
        match event:
            case chain.JobPosted():
                self.jobs[event.job] = Job(event.job, event.client, event.terms, event.terms.budget)
            case chain.JobFunded():
                self.jobs[event.job].funded += event.amount
            case chain.JobCancelled():
                self.jobs[event.job].cancelled = True
            case chain.JobClosed():
                self.jobs[event.job].refund = event.refund
            case chain.Assigned():
                fresh = Segment(event.segment, event.job, event.parent, event.provider, event.start, event.stop, event.price)
                fresh.activate_by = event.activate_by
                self.segments[event.segment] = fresh
                return fresh
            case chain.Withdrawn():
                self.withdrawn[event.who] = self.withdrawn.get(event.who, 0) + event.amount
            case chain.KeyReleased():
                self.released.append(event)
            case chain.Slashed():
                self.slashed.append(event)
                self._pay(event.segment, event.who, -event.amount, "slashed")
            case chain.FeeCharged():
                self._pay(event.segment, event.who, -event.amount, event.reason)
            case chain.Credited():
                self._pay(event.segment, event.who, event.amount, event.reason)
            case chain.BountyOffered():
                self.bounties[event.bounty] = Bounty(event.bounty, event.sponsor, event.terms)
            case chain.BountyBegun():
                self.bounties[event.bounty].last, self.bounties[event.bounty].until = event.last, event.until
            case chain.BountyShown():
                found = self.bounties[event.bounty]
                if found.reached is None or event.reached > found.reached:
                    found.reached, found.value = event.reached, event.value
            case chain.BountyPaid():
                self.bounties[event.bounty].paid[event.segment] = event.amount
                self._pay(event.segment, event.provider, event.amount, "bounty")
            case chain.BountyReturned():
                self.bounties[event.bounty].returned = event.amount
            case chain.Registered() | chain.Deposited() | chain.Unbonding() | chain.StakeWithdrawn() | chain.SeatTaken() | chain.SeatLeft():
                pass
            case _:
                return self._advance(event)
        segment = getattr(event, "segment", None)
        return self.segments.get(segment) if segment is not None else None

    def _pay(self, segment: SegmentId, who: Address, amount: int, reason: str) -> None:
        if segment in self.segments:
            self.segments[segment].payments.append(Payment(who, amount, reason))

    def _advance(self, event: AnyChainEvent) -> Segment | None:
        segment = self.segments.get(getattr(event, "segment", SegmentId(0)))
        if segment is None:
            return None
        was = segment.state
        match event:
            case chain.Activated():
                segment.state, segment.lease_until = SegmentState.ACTIVE, event.lease_until
            case chain.Lapsed():
                segment.state = SegmentState.LAPSED
                segment.reason = "it was never taken up" if was == SegmentState.ASSIGNED else "its lease ran out with nothing committed"
            case chain.Committed():
                if event.stop < segment.stop:
                    segment.price = segment.price * (event.stop - segment.start) // (segment.stop - segment.start)
                segment.state, segment.stop, segment.end_root = SegmentState.COMMITTED, event.stop, event.end_root
                segment.checkpoint, segment.key_id = event.checkpoint, event.key_id
                segment.key_envelope, segment.energy = energy.part(event.key_envelope)
            case chain.Drawn():
                segment.state, segment.round, segment.units, segment.verifiers = SegmentState.DRAWN, event.round, event.units, event.verifiers
                segment.verdicts = {}
            case chain.Redrawn():
                segment.state, segment.round, segment.reason = SegmentState.COMMITTED, event.round, ""
            case chain.ChunkShown():
                segment.shown = True
            case chain.Served():
                segment.state = SegmentState.SERVED
            case chain.Revealed():
                segment.verdicts[event.verifier] = event.agrees
                if not event.agrees:
                    segment.noes.add(event.verifier)
            case chain.NoShow():
                segment.no_shows.append(event.verifier)
            case chain.Attested():
                segment.state, segment.settle_after = SegmentState.ATTESTED, event.settle_after
            case chain.Settled():
                segment.state, segment.price = SegmentState.SETTLED, event.price
                segment.reason = self._verdict(segment, True)
            case chain.Withheld():
                segment.state, segment.reason = SegmentState.WITHHELD, self._verdict(segment, False)
            case chain.Unpaid():
                segment.state, segment.reason = SegmentState.UNPAID, event.reason
            case chain.Rejected():
                segment.state, segment.reason = SegmentState.REJECTED, "its provider lost a dispute"
            case chain.Voided():
                parent = self.segments.get(segment.parent)
                segment.state = SegmentState.VOID
                segment.reason = f"the segment {segment.parent} that it builds on is {parent.state.name.lower()}" if parent else "its parent fell"
        return segment

    def _verdict(self, segment: Segment, agreeing: bool) -> str:
        same = sum(1 for agrees in segment.verdicts.values() if agrees)
        links = ", ".join(str(unit) for unit in segment.units)
        if agreeing:
            if not same and segment.shown:
                return "it showed on chain what it was asked for where its verifiers had signed nothing, and nobody disagreed"
            if not same:
                return "nobody disagreed while it could be checked"
            return f"{same} of {len(segment.verifiers)} drawn verifiers replayed links {links} and got the committed bits"
        if segment.shown:
            return f"{len(segment.noes)} of the verifiers drawn in {segment.round + 1} rounds were not served, or did not get the committed bits"
        if segment.round:
            return f"{len(segment.noes)} of the verifiers drawn in {segment.round + 1} rounds did not get the committed bits"
        return f"{len(segment.noes)} of {len(segment.verifiers)} drawn verifiers replayed links {links} and did not get the committed bits"

    # ---- views -----------------------------------------------------------------------------------------------------------

    def of_job(self, job: JobId) -> list[Segment]:
        """Its segments in the order in which they were assigned."""
        return [segment for segment in self.segments.values() if segment.job == job]

    def outcomes(self, job: JobId) -> dict[str, int]:
        """How many of its segments ended, or are, in which state."""
        counted: dict[str, int] = {}
        for segment in self.of_job(job):
            counted[segment.state.name] = counted.get(segment.state.name, 0) + 1
        return counted

    def last_good(self, job: JobId) -> Segment | None:
        """The settled segment that reaches furthest."""
        return max((s for s in self.of_job(job) if s.state == SegmentState.SETTLED), key=lambda s: s.stop, default=None)

    def finished(self, job: JobId) -> bool:
        """Whether the segment that ends the job has settled."""
        last = self.last_good(job)
        return last is not None and last.stop == self.jobs[job].terms.steps


def receipt(segment: Segment) -> str:
    """One sentence: was the provider paid, and why."""
    steps = f"steps {segment.start}-{segment.stop}"
    match segment.state:
        case SegmentState.SETTLED:
            return f"{steps}: the provider is paid, since {segment.reason}"
        case SegmentState.WITHHELD:
            return f"{steps}: the provider is not paid and its bond stays reserved, since {segment.reason}"
        case state if state in chain.TERMINAL:
            return f"{steps}: the provider is not paid, since {segment.reason}"
        case state:
            return f"{steps}: not decided yet ({state.name.lower()})"
