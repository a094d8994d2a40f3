"""What a worker is told by its owner, and all that it remembers."""

from __future__ import annotations

import msgspec

from assay.chain import Attest, Batch, Offer, Reveal, RevealAll, Seal
from assay.ids import Address, BountyId, JobId, PeerId, SegmentId
from assay.messages import Boundary, JobAnnouncement, StepRequest, TreeRequest
from assay.role import RoleConfig, RoleState
from assay.tasks import SegmentRun

BUSY = ("gathering", "ready", "running", "copying", "committing")
"""Phases of a segment that is being worked on."""
WAITING = ("queued", "gathering", "ready")
"""That will take a place; `running` takes one."""
RETENTION = 7 * 86_400


class WorkerConfig(RoleConfig, frozen=True, kw_only=True):
    price_per_step: int
    """Smallest units of the token."""
    price_per_tera: int = 0
    """Smallest units for 10^12 operations of a step, on top of `price_per_step`: what is dear to compute is dear to buy."""
    bounty_percent: int = 0
    """Of a job's bounties, what counts as earned when its price is named: so much less is asked for a step."""
    offer_margin: int = 120
    """Seconds that an offer stands after the time to answer is over."""
    commit_margin: int = 60
    """Seconds before the end of the lease at which a run is stopped to commit what is done (at most a quarter of the lease)."""
    grace: int = 2
    """Seconds that are waited for the receipts that are not needed for the quorum."""
    retention: int = RETENTION
    """Seconds for which the checkpoints of a finished job are kept, whatever room they take."""
    places: int = 1
    """Segments that are run at once, at most."""
    attempts: int = 3
    """Runs of a segment that fail by this node's own fault before it is given up."""


class LiveOffer(msgspec.Struct):
    announcement: JobAnnouncement
    offer: Offer


class Cheap(msgspec.Struct):
    """A job that pays less for a step than this node asks; smallest units."""

    asked: int
    cap: int
    until: int
    """When it is looked at again."""
    pause: int


class Mine(msgspec.Struct):
    """A segment that was assigned to this worker. The phases are those of assay_worker.machine."""

    segment: SegmentId
    scheduler: list[PeerId]
    """Who gets the heartbeats (none or one)."""
    phase: str = "queued"
    attempt: int = 0
    preparing: bool = False
    """Its files are being laid out."""
    active: bool = False
    """Its activation is on the chain."""
    handed_over: int = 0
    """The attempt that was ended because the scheduler asked for it."""
    run: SegmentRun | None = None
    copy_by: int = 0
    """Until when it is waited for a copy of the checkpoint."""
    asking: list[str] = []
    """Keys of the requests for one that have no answer yet."""
    round: int = -1
    """The round of the draw that the rest is about."""
    boundaries: dict[str, Boundary] = {}
    """By `verifier:unit`."""
    unchecked: dict[Address, bytes] = {}
    """Receipts whose signature is being checked."""
    receipts: dict[Address, bytes] = {}
    serves: int = 0
    """Calls of `served` that were sent."""
    shows: int = 0
    """Times that the chunk which was asked for was made."""
    checking: dict[str, Seal | Reveal] = {}
    """Seals and votes of others that are being checked, by `seal:verifier` and `vote:verifier`."""
    seals: dict[Address, Seal] = {}
    votes: dict[Address, Reveal] = {}
    """What may be brought to the chain."""
    brought: list[str] = []
    """What has been, named as in `checking`."""
    waits: dict[str, int] = {}
    """Until when what has come of `seal` and `vote` may wait for other segments' calls."""


class Waiting(msgspec.Struct, frozen=True):
    """A call that waits for others to share a transaction with, until `at`."""

    call: Attest | RevealAll | Batch
    at: int


class Showing(msgspec.Struct):
    """What is shown of a segment to its job's client and its verifiers, beyond the drawn links."""

    boundaries: dict[str, Boundary] = {}
    """By `account:unit`: states before steps."""
    given: int = 0
    """Times that the files were gone to."""
    links: list[int] = []
    """That were looked into, in their order."""
    doing: StepRequest | TreeRequest | None = None
    """What they are gone to for now, and for whom."""
    who: Address = Address("")
    waiting: list[int] = []
    """Requests for that."""


class Sought(msgspec.Struct):
    """A bounty."""

    job: JobId
    amount: int
    begun: bool = False
    shown: bool = False
    best: int = 0
    """Earned by the best result that was shown."""
    paid: list[SegmentId] = []
    """To this node."""


class WorkerState(RoleState):
    outbox: list[Waiting] = msgspec.field(default_factory=list)
    posts: int = 0
    """Such transactions that were sent."""
    heard: list[JobAnnouncement] = msgspec.field(default_factory=list)
    cheap: dict[JobId, Cheap] = msgspec.field(default_factory=dict)
    offers: list[LiveOffer] = msgspec.field(default_factory=list)
    mine: dict[SegmentId, Mine] = msgspec.field(default_factory=dict)
    showing: dict[SegmentId, Showing] = msgspec.field(default_factory=dict)
    visitors: dict[PeerId, Address] = msgspec.field(default_factory=dict)
    """Peers that ask for an account, as that has signed."""
    visiting: PeerId = PeerId("")
    """The one whose signature is being checked."""
    visits: int = 0
    welcome: list[int] = msgspec.field(default_factory=list)
    """Its requests."""
    published: set[JobId] = msgspec.field(default_factory=set)
    """Jobs of which checkpoints of this node are kept."""
    vouched: set[JobId] = msgspec.field(default_factory=set)
    """Jobs for whose keys their key service has put something up."""
    draining: bool = False
    bounties: dict[BountyId, Sought] = msgspec.field(default_factory=dict)
    bounty_credit: int = 0
    settled: dict[JobId, list[SegmentId]] = msgspec.field(default_factory=dict)
    """This node's settled segments."""
    ended: set[JobId] = msgspec.field(default_factory=set)
    """Jobs of which nothing can settle any more."""
    speed_milli: int = 0
    """Thousandths of a step a second in the last run."""
