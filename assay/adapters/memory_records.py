"""What the `Jobs` contract in Python remembers (contracts/src/types/Types.sol): jobs, segments, and the drawn verifiers of each round."""

from __future__ import annotations

from dataclasses import dataclass, field

from assay.chain import SegmentState, Terms
from assay.ids import Address, Digest, JobId, SegmentId

NO_DIGEST = Digest(b"")


@dataclass(slots=True)
class Job:
    number: JobId
    client: Address
    terms: Terms
    escrow: int
    """Not reserved for any segment."""
    open_since: int
    child: SegmentId = SegmentId(0)  # noqa: RUF009
    """The live segment that starts at the job's initial state; 0 when that range is open."""
    cancelled: bool = False
    completed: bool = False
    closed: bool = False
    live: int = 0
    """Segments that are not terminal."""


@dataclass(slots=True)
class Check:
    """One drawn verifier in one round."""

    verifier: Address
    bonded: bool = True
    keyed: bool = False
    receipted: bool = False
    digest: Digest | None = None
    together: bool = False
    """Of its seal there is no word of its own, only the hash over the committee's."""
    revealed: bool = False
    agrees: bool = False
    trace_roots: tuple[Digest, ...] = ()
    disclosed: bool = False
    """Its trace roots have been brought, so that it can be disputed."""
    opened: bool = False
    prevailed: bool = False
    fell_at: int | None = None
    """When it lost a dispute."""
    disputes: int = 0
    """Open ones over its trace roots: while there are any its draw bond stays."""


@dataclass(slots=True)
class Segment:
    number: SegmentId
    job: JobId
    parent: SegmentId
    provider: Address
    start: int
    stop: int
    price: int
    bonded: bool
    fees_held: int
    """What is left of the escrow reserved for verifiers."""
    activate_by: int
    state: SegmentState = SegmentState.ASSIGNED
    phase: int = 0
    """Of SERVED: 1 seal, 2 reveal, 3 open; of DRAWN: 4 show (Phase in contracts/src/types)."""
    round: int = 0
    bond: int = 0
    """What was reserved when it was assigned."""
    keyed: bool = False
    """The key service has posted a key to the provider."""
    child: SegmentId = SegmentId(0)  # noqa: RUF009
    open_since: int = 0
    lease_until: int = 0
    draw_by: int = 0
    serve_by: int = 0
    seal_by: int = 0
    reveal_by: int = 0
    open_by: int = 0
    settle_after: int = 0
    seats_block: int = 0
    seed_block: int = 0
    opening_block: int = 0
    opening_hash: Digest | None = None
    negatives: int = 0
    disputes: int = 0
    """Open ones."""
    pardoned: int | None = None
    """The link that its provider has conceded for nothing."""
    link_root: Digest = NO_DIGEST
    end_root: Digest = NO_DIGEST
    commitment: Digest = NO_DIGEST
    units: tuple[int, ...] = ()
    """All rounds' so far."""
    rounds: list[list[Check]] = field(default_factory=list)

    @property
    def checks(self) -> list[Check]:
        """Of this round; empty before its draw."""
        return self.rounds[self.round] if len(self.rounds) > self.round else []
