"""Chain nodes of a large simulation: each reads the chain for many nodes at once and tells each of them what concerns it.

In a small simulation every node keeps its own facts of the chain and is told every event, as the daemons are. With ten thousand
nodes that is nearly all of the work, and the same work ten thousand times: the facts (assay.facts) are a fold over the chain's final
events, alike for everybody. Here the nodes of one reader share one fold; a machine is handed an event when the shared facts have taken it in and
no later one, so that it sees what it would have seen. Only an event that a machine has no use for is not handed to it:

    of a segment       to its provider and drawn verifiers, the job's key service, and the schedulers; its end to the children's, too
    of a job           to those who have heard of it, its key service and the schedulers
    keys and money     to whom they are for
    Sealed, Opened and the like, which tell something to who is in a dispute: to nobody (there are no disputes here)

A node that was down catches up on facts of its own (`SharedNode`), and goes back to the shared ones when it has.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from assay.chain import (
    FAILED,
    AnyChainEvent,
    Assigned,
    ChainEvent,
    Committed,
    Credited,
    Drawn,
    Entrusted,
    FeeCharged,
    JobCancelled,
    JobClosed,
    JobPosted,
    KeyReleased,
    Lapsed,
    NoShow,
    Opened,
    Registered,
    Rejected,
    Revealed,
    Sealed,
    SegmentState,
    Settled,
    Unpaid,
    Voided,
    Withdrawn,
    Withheld,
)
from assay.facts import Facts, SegmentFacts
from assay.ids import Address, JobId, SegmentId
from assay.runtime import ChainSeen, Wake

if TYPE_CHECKING:
    from assay.sim.shared import SharedNode
    from assay.sim.world import World

RETAINED = 900
"""Seconds that the facts keep a segment after its end, for those who come up again."""
ENDS = (Settled, Lapsed, Withheld, Unpaid, Voided, Rejected)
TO_BIDDERS = (Assigned, Committed, *ENDS)
"""What frees a worker's offer."""
OF_NO_SEGMENT = frozenset({KeyReleased, Credited, Withdrawn, Registered, Entrusted, JobPosted, JobCancelled, JobClosed})
"""Told otherwise than what is about a segment."""
UNHEEDED = (Sealed, Opened, Revealed, NoShow, FeeCharged)
"""What no machine reacts to while there are no disputes."""


class SharedFacts(Facts):
    """What a machine sees: the reader's facts. They are folded already when an event comes; only the pins are the machine's own."""

    def see(self, event: AnyChainEvent) -> None:
        pass


class _Folded(Facts):
    def _forget_before(self, settled: SegmentFacts) -> None:
        """The reader forgets, when nobody needs it."""


class Reader:
    """`lag`: seconds after which it has a new block."""

    def __init__(self, world: World, lag: float) -> None:
        self.world, self.lag = world, lag
        self.facts = _Folded()
        self.now, self.head = 0, -1
        self.schedulers: list[SharedNode] = []
        self.services: list[SharedNode] = []
        self.accounts: dict[Address, SharedNode] = {}
        self._seen = (-1, -1)
        self._parties: dict[SegmentId, list[SharedNode]] = {}
        self._bidders: dict[JobId, dict[str, SharedNode]] = {}
        self._knowing: dict[JobId, dict[str, SharedNode]] = {}
        self._wakes: list[tuple[int, int, SharedNode, Wake]] = []
        self._blocks: list[tuple[int, int, SharedNode, Wake]] = []
        self._count = 0
        self._ended: deque[tuple[int, SegmentFacts]] = deque()
        self._settled: dict[JobId, SegmentId] = {}

    def view(self) -> SharedFacts:
        """Facts for one machine."""
        f = self.facts
        return SharedFacts(people=f.people, jobs=f.jobs, segments=f.segments, disputes=f.disputes, by_job=f.by_job, by_provider=f.by_provider)

    def bid(self, job: JobId, node: SharedNode) -> None:
        """The node has heard an announcement."""
        self._bidders.setdefault(job, {})[node.name] = node
        self._knowing.setdefault(job, {})[node.name] = node

    # ---- time ------------------------------------------------------------------------------------------------------------

    def wake(self, node: SharedNode, wake: Wake) -> None:
        self._count += 1
        if wake.at > self.now:
            heapq.heappush(self._wakes, (wake.at, self._count, node, wake))
        else:
            heapq.heappush(self._blocks, (wake.block, self._count, node, wake))

    def block(self) -> None:
        """Reads what is final by now, then wakes who is due."""
        ledger = self.world.ledger
        self.now, self.head = ledger.head.time, ledger.head.number
        for event in ledger.events(self._seen, self.world.depth):
            self._seen = (event.block, event.index)
            self._read(event)
        while self._wakes and self._wakes[0][0] <= self.now:
            _, _, node, wake = heapq.heappop(self._wakes)
            if wake.block > self.head:
                self.wake(node, wake)
            else:
                node.woken(wake)
        while self._blocks and self._blocks[0][0] <= self.head:
            _, _, node, wake = heapq.heappop(self._blocks)
            node.woken(wake)
        self._forget()

    # ---- who is told -----------------------------------------------------------------------------------------------------

    def _read(self, event: AnyChainEvent) -> None:
        self.facts.see(event)
        if isinstance(event, UNHEEDED):
            return
        seen = ChainSeen(event=event)
        for node in dict.fromkeys(self._who(event)):
            node.told(seen)

    def _who(self, event: ChainEvent) -> Iterable[SharedNode]:
        if type(event) not in OF_NO_SEGMENT:
            seg = self.facts.segments.get(getattr(event, "segment", SegmentId(0)))
            return self._of_segment(event, seg) if seg is not None else ()
        match event:
            case KeyReleased(recipient=who) | Credited(who=who) | Withdrawn(who=who):
                node = self.accounts.get(who)
                return [node] if node is not None else []
            case Registered() | Entrusted():
                return [*self.schedulers, *self.services]
            case JobPosted(job=job):
                return [*self.schedulers, *self._service(job), *self._bidders.get(job, {}).values()]
            case JobCancelled(job=job):
                return [*self.schedulers, *self._service(job), *self._knowing.get(job, {}).values()]
            case JobClosed(job=job):
                self._bidders.pop(job, None)
                return [*self.schedulers, *self._service(job), *self._knowing.pop(job, {}).values()]
        return ()

    def _service(self, job: JobId) -> list[SharedNode]:
        node = self.accounts.get(self.facts.jobs[job].terms.key_service) if job in self.facts.jobs else None
        return [node] if node is not None else []

    def _of_segment(self, event: ChainEvent, seg: SegmentFacts) -> list[SharedNode]:
        parties = self._parties.setdefault(seg.segment, [])
        match event:
            case Assigned():
                parties += self._known_as([seg.provider], seg.job)
            case Drawn():
                parties += [node for node in self._known_as(event.verifiers, seg.job) if node not in parties]
        told = [*self.schedulers, *self._service(seg.job), *parties]
        if isinstance(event, ENDS):
            for child in self.facts.of_job(seg.job):
                if child.parent == seg.segment:
                    told += self._parties.get(child.segment, [])
            self._end(event, seg)
        if isinstance(event, TO_BIDDERS):
            told += self._bidders.get(seg.job, {}).values()
            if isinstance(event, Assigned):
                self._bidders.pop(seg.job, None)
        return told

    def _known_as(self, accounts: Iterable[Address], job: JobId) -> list[SharedNode]:
        found = [self.accounts[who] for who in accounts if who in self.accounts]
        self._knowing.setdefault(job, {}).update((node.name, node) for node in found)
        return found

    # ---- forgetting ------------------------------------------------------------------------------------------------------

    def _end(self, event: Any, seg: SegmentFacts) -> None:
        self._ended.append((event.time + RETAINED, seg))
        if seg.state == SegmentState.SETTLED:
            self._settled[seg.job] = seg.segment

    def _forget(self) -> None:
        """What ended long ago and nothing builds on any more: failed, or settled with a later one of the job settled, too."""
        for _ in range(len(self._ended)):
            if self._ended[0][0] > self.now:
                return
            _, seg = self._ended.popleft()
            parties = self._parties.get(seg.segment, [])
            needed = seg.state not in FAILED and self._settled.get(seg.job) == seg.segment and not self.facts.jobs[seg.job].over
            if needed or any(node.needs(seg.segment) for node in parties):
                self._ended.append((self.now + RETAINED, seg))
                continue
            self._parties.pop(seg.segment, None)
            self.facts._drop(seg.job, {seg.segment})
            if self.facts.jobs[seg.job].over and not self.facts.by_job[seg.job]:
                del self.facts.jobs[seg.job], self.facts.by_job[seg.job]
                self._settled.pop(seg.job, None)
                self._knowing.pop(seg.job, None)
