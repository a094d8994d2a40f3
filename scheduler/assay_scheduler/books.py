"""What a scheduler remembers: jobs, their segments, the offers it holds, and how providers have done."""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

import msgspec

from assay.chain import FAILED, Entrusted, SegmentState, Terms
from assay.ids import Address, Cid, JobId, PeerId, SegmentId
from assay.messages import OfferMessage
from assay_scheduler.placement import Bid, Record

LIVE_UNCOMMITTED = (SegmentState.ASSIGNED, SegmentState.ACTIVE)
PATIENT = 3
"""Failures in a row after which a range is announced only after a pause, doubling each time: what fails so is not the workers' doing."""
LONGEST_PAUSE = 3600
"""Seconds."""
PROVEN_FOR = 2 * 86_400
"""Seconds for which a proof of hardware counts."""
OPEN, RESTING, OVER = 1, 0, -1
"""Of a range (State.soliciting)."""
MAX_TOLD = 32
"""Nodes that are told directly of a range on which nobody offers."""
MAX_BIDS = 256
"""Offers kept for one range; a flood of them is cut off."""


class Config(msgspec.Struct, frozen=True):
    account: Address
    peer: PeerId
    offer_window: int = 5
    """Seconds that workers have to answer an announcement, while none has."""
    offer_grace: int = 1
    """Seconds that are waited for other offers after the first."""
    patience: int = 3
    """Seconds that the more interested party has to make a call before we make it."""
    prefers_proven: bool = False
    """Whether proven hardware comes before a lower price."""
    look_every: int = 0
    """Seconds after which nodes are looked for again for a job on which nobody offers; 0: this node cannot look."""
    volunteer: bool = True
    """Take over jobs whose scheduler is silent."""
    blob_limit: int = 1 << 32


class SegmentBook(msgspec.Struct):
    id: SegmentId
    job: JobId
    parent: SegmentId
    provider: Address
    start: int
    stop: int
    price: int
    state: SegmentState
    due: int = 0
    """When the current state is late (chain time)."""
    since: int = 0
    """When it was activated."""
    checkpoint: Cid = Cid("")
    copy: Cid = Cid("")
    """What its provider asks to be kept before it commits."""
    copy_stage: str = ""
    """fetching, pinning or kept; empty: there is none."""
    copies: int = 0
    """Different blobs that it has asked for."""


class Tip(NamedTuple):
    parent: SegmentId
    start: int
    live: bool
    """The parent is not committed yet, so nothing can be assigned, but offers can be gathered."""
    unsettled: int
    """Segments up to the parent that are not settled."""


class JobBook(msgspec.Struct):
    id: JobId
    client: Address
    terms: Terms
    segments: dict[int, SegmentBook]
    open_since: int
    cancelled: bool = False
    settled_to: int = 0
    fruitless: int = 0
    """Segments that failed since the last one was committed."""
    base: SegmentId = SegmentId(0)
    """The last segment that settled; none before it is remembered."""
    count: int = 0
    """Segments that were forgotten."""
    paces: list[int] = []
    """Milliseconds a step of the last segments, from activation to commitment."""
    overdue: bool = False
    """Its own scheduler has let the takeover window pass."""
    plan: Entrusted | None = None
    """Who schedules it, where the client has entrusted that."""
    hands: dict[Address, int] = {}
    """Its last providers, and where what they committed last ends."""
    sizes: tuple[int, int, int] = (0, 0, 0)
    """Bytes of its sealed state, of all else that every provider needs, and of the frozen tensors among that; 0 while its document is not here."""
    looked: int = 0
    """When nodes were last looked for that may do it, since nobody had offered."""
    pins: list[Cid] = []
    """Blobs of it that are kept here."""
    placed: str = ""
    """What was chosen last, and why."""

    @property
    def scheduler(self) -> Address:
        return self.terms.scheduler if self.plan is None else self.plan.scheduler

    @property
    def patience(self) -> int:
        """Seconds that a range is open before anybody may place it."""
        return self.terms.params.takeover_window if self.plan is None else self.plan.patience

    def tip(self) -> Tip:
        """Where the next range starts: after the last segment of the one chain of live segments."""
        parent, live, unsettled = self.base, False, 0
        while True:
            child = next((s for s in self.segments.values() if s.parent == parent and s.state not in FAILED), None)
            if child is None:
                return Tip(parent, self.segments[parent].stop if parent else 0, live, unsettled)
            parent, live = child.id, child.state in LIVE_UNCOMMITTED
            unsettled += child.state != SegmentState.SETTLED

    @property
    def pace(self) -> int:
        """Milliseconds that a step takes; 0 while that is not known."""
        return int(median(self.paces)) if self.paces else 0

    def opens(self) -> int | None:
        """From when on the next range, which cannot be assigned now, will be, as far as that can be told; None: an event of the chain tells."""
        tip = self.tip()
        when = 0
        if tip.live:
            parent = self.segments[tip.parent]
            if not self.pace or not parent.since:
                return None
            when = parent.since + self.pace * (parent.stop - parent.start) // 1000
        if tip.unsettled >= self.terms.params.depth:
            first = next((s for s in self.segments.values() if s.parent == self.base and s.state not in FAILED), None)
            if first is None or first.state != SegmentState.ATTESTED:
                return None
            when = max(when, first.due + 1)
        return when

    def busy(self) -> bool:
        """Whether a segment of it is live."""
        return any(s.state not in FAILED and s.state != SegmentState.SETTLED for s in self.segments.values())


class State(msgspec.Struct):
    peers: dict[str, PeerId] = msgspec.field(default_factory=dict)
    """Account to peer."""
    jobs: dict[int, JobBook] = msgspec.field(default_factory=dict)
    job_of: dict[int, int] = msgspec.field(default_factory=dict)
    """Segment to job."""
    plans: dict[str, Entrusted] = msgspec.field(default_factory=dict)
    """The last (assay.facts.plan_key)."""
    bids: dict[str, list[Bid]] = msgspec.field(default_factory=dict)
    """By range."""
    pending: dict[str, OfferMessage] = msgspec.field(default_factory=dict)
    """Offers whose signature is being checked."""
    assigning: dict[str, Bid] = msgspec.field(default_factory=dict)
    """By range: the offer that was sent to the chain."""
    soliciting: dict[str, int] = msgspec.field(default_factory=dict)
    """By range: 1 while workers may answer, 0 while the job rests after failures, -1 when the time to answer is over."""
    turns: dict[str, int] = msgspec.field(default_factory=dict)
    """By range: serial of the wake that ends the time to answer."""
    records: dict[str, Record] = msgspec.field(default_factory=dict)
    ratios: list[int] = msgspec.field(default_factory=list)
    """Percent of their job's pace that the last segments of all jobs took."""
    pinned: dict[str, int] = msgspec.field(default_factory=dict)
    """By blob: how many jobs keep it, and how many segments before they are committed."""
    held: dict[int, int] = msgspec.field(default_factory=dict)
    """By segment: the request of its provider that is answered when the copy is here."""
    serial: int = 0
    closed: int = 0
    """Jobs that are over, of which nothing else is remembered."""


def range_key(job: int, parent: int, start: int, stop: int) -> str:
    return f"{job}:{parent}:{start}:{stop}"
