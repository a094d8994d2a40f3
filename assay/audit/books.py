"""Jobs, segments and rounds as the events so far leave them, and the money that they should have moved.

Money is kept twice: what the terms say must move (`owed`), and what the contract said it moved (`paid`); the checks hold one against the other.
The rules are written here a second time, apart from the ledger in memory (assay/adapters/memory_records.py): an audit that used its code would
repeat its mistakes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from msgspec import UNSET, UnsetType

from assay import draw
from assay.audit.findings import Sheet
from assay.chain import FAILED, AnyChainEvent, Entrusted, SegmentState, Terms
from assay.energy import Energy
from assay.ids import Address, Cid, Digest, JobId, SegmentId

Payments = Counter[tuple[Address, int, str]]
"""(who, amount, reason), each as often as it is paid."""


@dataclass(slots=True)
class Vote:
    agrees: bool
    trace_roots: tuple[Digest, ...]
    opened: bool = False
    prevailed: bool = False


@dataclass(slots=True)
class Round:
    """One committee. Votes are in the order in which they were revealed."""

    verifiers: tuple[Address, ...]
    keyed: set[Address] = field(default_factory=set)
    receipted: set[Address] = field(default_factory=set)
    digests: dict[Address, Digest | None] = field(default_factory=dict)
    """Of those who sealed; None where the call could not be read."""
    votes: dict[Address, Vote] = field(default_factory=dict)
    gone: set[Address] = field(default_factory=set)
    """No-shows, told at the decision."""

    def tally(self) -> tuple[int, int]:
        """(yes, no) of those who opened; marks who prevailed: the largest group that agrees on all trace roots, of equal ones the one drawn
        first."""
        groups: dict[tuple[Digest, ...], list[Vote]] = {}
        opened = [self.votes[who] for who in self.verifiers if who in self.votes and self.votes[who].opened]
        for vote in opened:
            if vote.agrees:
                groups.setdefault(vote.trace_roots, []).append(vote)
        best = max(groups.values(), key=len, default=[])
        for vote in best:
            vote.prevailed = True
        return len(best), sum(not vote.agrees for vote in opened)


@dataclass(slots=True)
class Seg:
    number: SegmentId
    job: JobId
    parent: SegmentId
    provider: Address
    start: int
    stop: int
    price: int
    held: int
    """Of the escrow, for verifiers' fees."""
    sheet: Sheet
    """Of a segment of another job: a sheet that nobody reads."""
    state: SegmentState = SegmentState.ASSIGNED
    keyed: bool = False
    child: SegmentId = SegmentId(0)  # noqa: RUF009
    open_since: int = 0
    activate_by: int = 0
    lease_until: int = 0
    draw_by: int = 0
    serve_by: int = 0
    seal_by: int = 0
    reveal_by: int = 0
    open_by: int = 0
    settle_after: int = 0
    seats_block: int = 0
    seed_block: int = 0
    asked_block: int = 0
    """Names the chunk that its provider is asked for; 0: none is."""
    opening_block: int = 0
    opening_from: int = 0
    """The block whose hash fixed the openings, once one was shown."""
    shown: bool = False
    """It has been: the round counts as served."""
    all_sealed: bool = False
    opening: bool = False
    """Openings are due."""
    round: int = 0
    negatives: int = 0
    rounds: dict[int, Round] = field(default_factory=dict)
    units: tuple[int, ...] = ()
    link_root: Digest | None = None
    end_root: Digest | None = None
    commitment: Digest | None = None
    checkpoint: Cid | None = None
    key_id: Digest | None = None
    key_envelope: bytes = b""
    energy: Energy | UnsetType = UNSET
    """That its provider says it took."""
    paid: Payments = field(default_factory=Counter)
    """Credited since nothing was owed."""
    owed: Payments = field(default_factory=Counter)
    """By a dispute, to those who said no; looked at with the next event that owes anything."""
    charged: Payments = field(default_factory=Counter)
    """Charged from stakes, and not yet explained by the event that follows."""
    disputes: int = 0
    """Open ones."""
    holds: Counter[Address] = field(default_factory=Counter)
    """Open disputes over a verifier's vote: its draw bond stays meanwhile."""
    fallen: set[Address] = field(default_factory=set)
    """Verifiers of whom a vote has lost a dispute."""
    told: list[tuple[int, Address, Vote]] = field(default_factory=list)
    """Every vote that was revealed, with its round."""
    slashes: int = 0
    """Taken by a dispute, and not yet told as slashed."""
    freed: list[Address] = field(default_factory=list)
    """Draw bonds that a dispute lets go when what it has taken is slashed."""
    falls: bool = False
    """A dispute was decided against its provider, and its rejection is not yet told."""
    voids: bool = False
    """Its last dispute was void."""
    pardoned: int | None = None
    """The link that its provider has conceded for nothing."""

    @property
    def committee(self) -> Round | None:
        """Of this round, once it is drawn."""
        return self.rounds.get(self.round)

    @property
    def steps(self) -> int:
        return self.stop - self.start


@dataclass(slots=True)
class JobBook:
    number: JobId
    client: Address
    terms: Terms
    escrow: int
    open_since: int
    sheet: Sheet
    child: SegmentId = SegmentId(0)  # noqa: RUF009
    live: int = 0
    cancelled: bool = False
    completed: bool = False
    refund: int = 0
    """Told when it was closed, and not yet credited."""
    closed: bool = False
    nonces: set[tuple[Address, int]] = field(default_factory=set)
    plan: Entrusted | None = None

    @property
    def fees(self) -> int:
        """Reserved for the verifiers of a segment."""
        p = self.terms.params
        return self.terms.fee * p.verifiers * (1 + p.redraws)

    def unit_is_last(self, unit: int, seg: Seg) -> bool:
        """Whether a link's end is the segment's."""
        return unit == seg.steps * (self.terms.micro_batches + 1) - 1

    def leaves(self, unit: int) -> int:
        return draw.leaves_of(unit, self.terms)


@dataclass
class Books:
    """All jobs of the contract: their money is in one pot."""

    jobs: dict[JobId, JobBook] = field(default_factory=dict)
    segs: dict[SegmentId, Seg] = field(default_factory=dict)
    credit: Counter[Address] = field(default_factory=Counter)
    """What each account may pull."""
    settled: Counter[Address] = field(default_factory=Counter)
    """Segments of a provider that have settled since it was pardoned last."""

    def after(self, job: JobBook, parent: SegmentId) -> JobBook | Seg:
        """What keeps the book on the range after `parent`."""
        return self.segs[parent] if parent else job

    def unsettled(self, number: SegmentId) -> tuple[int, SegmentId | None]:
        """Unsettled segments from `number` up to what is settled, and the first of them that has failed."""
        count, up, fallen = 0, number, None
        while up and self.segs[up].state != SegmentState.SETTLED:
            if fallen is None and self.segs[up].state in FAILED:
                fallen = up
            count += 1
            up = self.segs[up].parent
        return count, fallen

    @property
    def tokens(self) -> int:
        """What the Jobs contract must hold."""
        live = sum(seg.price + seg.held for seg in self.segs.values() if seg.state < SegmentState.SETTLED)
        live += sum(seg.held for seg in self.segs.values() if seg.state == SegmentState.WITHHELD)
        return sum(job.escrow for job in self.jobs.values()) + live + self.credit.total()


def told(event: AnyChainEvent) -> str:
    """Where an event stands."""
    return f"{type(event).__name__} (block {event.block})"
