"""What the chain has told so far, as far as a worker or a verifier needs it: a fold over final chain events, pure and total.

Nothing here decides anything; a machine asks "which state is that segment in", "who is that peer", "where is the checkpoint". Settled
and failed segments that nobody can build on any more are forgotten, so that the facts of a long job stay small.
"""

from __future__ import annotations

import msgspec

from assay.chain import (
    FAILED,
    TERMINAL,
    Activated,
    AnyChainEvent,
    Assigned,
    Attested,
    BondCleared,
    Committed,
    Drawn,
    JobCancelled,
    JobClosed,
    JobPosted,
    Lapsed,
    Opened,
    OpeningsDue,
    Redrawn,
    Registered,
    Rejected,
    Revealed,
    RevealsDue,
    Sealed,
    SegmentState,
    Served,
    Settled,
    Terms,
    Unpaid,
    Voided,
    Withheld,
)
from assay.ids import Address, Cid, Digest, JobId, PeerId, SegmentId

COMMITTED_OR_BETTER = frozenset(
    {SegmentState.COMMITTED, SegmentState.DRAWN, SegmentState.SERVED, SegmentState.ATTESTED, SegmentState.SETTLED}
)
_NO_DIGEST = Digest(b"")


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
    seal_by: int = 0
    reveal_by: int = 0
    sealed: list[Address] = []
    revealed: list[Address] = []
    opened: list[Address] = []
    opening_block: int = 0
    open_by: int = 0
    settle_after: int = 0
    bond_cleared: bool = False

    @property
    def live(self) -> bool:
        return self.state not in TERMINAL


class Facts(msgspec.Struct):
    people: dict[Address, Person] = {}
    jobs: dict[JobId, JobFacts] = {}
    segments: dict[SegmentId, SegmentFacts] = {}

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
            case JobPosted():
                self.jobs[event.job] = JobFacts(event.client, event.terms, touched=event.time)
            case JobCancelled() | JobClosed():
                if event.job in self.jobs:
                    self.jobs[event.job].over = True
            case Assigned():
                self.segments[event.segment] = SegmentFacts(
                    event.segment, event.job, event.parent, event.provider, event.start, event.stop, event.price, event.activate_by
                )
                self._touch(event.job, event.time)
            case _:
                found = self.segments.get(getattr(event, "segment", SegmentId(0)))
                if found is not None:
                    self._move(found, event)

    def _touch(self, job: JobId, time: int) -> None:
        if job in self.jobs:
            self.jobs[job].touched = time

    def _move(self, seg: SegmentFacts, event: AnyChainEvent) -> None:
        match event:
            case Activated():
                seg.state, seg.lease_until = SegmentState.ACTIVE, event.lease_until
            case Committed():
                seg.price = seg.price * (event.stop - seg.start) // max(1, seg.stop - seg.start)
                seg.state, seg.stop, seg.seed_block = SegmentState.COMMITTED, event.stop, event.seed_block
                seg.link_root, seg.end_root, seg.checkpoint = event.link_root, event.end_root, event.checkpoint
                seg.key_id, seg.key_envelope = event.key_id, event.key_envelope
            case Drawn():
                seg.state, seg.round, seg.units, seg.verifiers = SegmentState.DRAWN, event.round, event.units, event.verifiers
                seg.serve_by = event.serve_by
            case Redrawn():
                seg.state, seg.round, seg.seed_block = SegmentState.COMMITTED, event.round, event.seed_block
                seg.sealed, seg.revealed, seg.opened = [], [], []
                seg.seal_by = seg.reveal_by = seg.opening_block = seg.open_by = 0
            case Served():
                seg.state, seg.seal_by = SegmentState.SERVED, event.seal_by
                seg.reveal_by = event.seal_by + self.jobs[seg.job].terms.params.reveal_window if seg.job in self.jobs else 0
            case Sealed():
                seg.sealed.append(event.verifier)
            case RevealsDue():
                seg.reveal_by = event.reveal_by
            case Revealed():
                seg.revealed.append(event.verifier)
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
                seg.state = SegmentState.WITHHELD
            case Unpaid():
                seg.state = SegmentState.UNPAID
            case Voided():
                seg.state = SegmentState.VOID
            case Rejected():
                seg.state = SegmentState.REJECTED
            case BondCleared():
                seg.bond_cleared = True
            case _:
                return
        self._touch(seg.job, event.time)

    def _forget_before(self, settled: SegmentFacts) -> None:
        """Settlement is in order, so nothing builds on what ended before the segment that settles now."""
        gone = [s.segment for s in self.segments.values() if s.job == settled.job and s.segment < settled.segment and not s.live]
        for segment in gone:
            del self.segments[segment]

    def failed(self, segment: SegmentId) -> bool:
        """Whether a segment is known to have failed."""
        found = self.segments.get(segment)
        return found is not None and found.state in FAILED
