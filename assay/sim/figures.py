"""What a run is judged by: the useful share of the providers' time, the time to a job's first step, the time to find another provider.

    provider time    from a segment's assignment to its commitment or its failure, while the provider is there
    useful time      the steps of segments that settled, each as long as it takes at that provider
    first step       from the client's posting of a job to the moment in which a provider begins with its first step
    reassignment     from a failure (a lease that ran out, a result that was refuted, ...) to the next assignment of the range

All times are seconds of the virtual clock, chain events as soon as they are mined.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from assay.chain import FAILED, Activated, AnyChainEvent, Assigned, Committed, DisputeSealed, JobPosted, SegmentState
from assay.ids import Address, Cid, DisputeId, JobId, SegmentId
from assay.tasks import RunSegment

if TYPE_CHECKING:
    from assay.sim.world import World


class Work(msgspec.Struct):
    """A segment as its provider spent time on it."""

    provider: Address
    begun: float
    steps: int
    running: float = 0.0
    done: float = 0.0
    """When it was committed or failed; 0 before that."""
    state: SegmentState = SegmentState.ASSIGNED
    committed: bool = False


class Incident(NamedTuple):
    what: str
    at: float
    who: str


class Figures:
    def __init__(self, world: World) -> None:
        self.world = world
        self.submitted: dict[Cid, float] = {}
        self.work: dict[SegmentId, Work] = {}
        self.incidents: list[Incident] = []
        self.first_steps: dict[JobId, float] = {}
        self.reassigned: list[float] = []
        self._posted: dict[JobId, float] = {}
        self._open: dict[tuple[JobId, SegmentId], float] = {}
        """Ranges whose segment failed, and when."""
        self._disputes: set[DisputeId] = set()

    def incident(self, what: str, at: float, who: str = "") -> None:
        self.incidents.append(Incident(what, at, who))

    def trains(self, task: RunSegment, now: float) -> None:
        work = self.work.get(task.segment)
        if work is not None and not work.running:
            work.running = now
        if task.job not in self.first_steps and task.job in self._posted:
            self.first_steps[task.job] = now - self._posted[task.job]

    def see(self, event: AnyChainEvent) -> None:
        now = self.world.clock.now
        match event:
            case JobPosted():
                self._posted[event.job] = self.submitted.pop(event.terms.spec)
            case Assigned():
                self.work[event.segment] = Work(event.provider, now, event.stop - event.start)
                failed = self._open.pop((event.job, event.parent), None)
                if failed is not None:
                    self.reassigned.append(now - failed)
            case DisputeSealed():
                self.incident("dispute", now, self.world.name_of(event.challenger))
            case _:
                segment = self.world.receipts.segments.get(getattr(event, "segment", SegmentId(0)))
                if segment is not None:
                    self._moved(segment, event, now)

    def _moved(self, segment: Any, event: AnyChainEvent, now: float) -> None:
        work = self.work[segment.number]
        if isinstance(event, Activated | Committed) or segment.state != work.state:
            if isinstance(event, Committed):
                work.done, work.committed, work.steps = now, True, segment.stop - segment.start
            if segment.state in FAILED and work.state not in FAILED:
                work.done = work.done or now
                self._open[segment.job, segment.parent] = now
            work.state = segment.state

    # ---- what it comes to ------------------------------------------------------------------------------------------------

    def whole(self) -> dict[str, float | int | None]:
        """Over all segments that have ended."""
        useful = spent = 0.0
        for work in self.work.values():
            if not work.done:
                continue
            spent += max(0.0, min(work.done, self.world.left_at(work.provider)) - work.begun)
            if work.state == SegmentState.SETTLED:
                useful += work.steps * self.world.pace_of(work.provider)
        first = sorted(self.first_steps.values())
        again = sorted(self.reassigned)
        return {
            "useful_share": round(useful / spent, 4) if spent else None,
            "provider_seconds": round(spent),
            "first_step_median_s": round(statistics.median(first), 2) if first else None,
            "reassigned": len(again),
            "reassignment_median_s": round(statistics.median(again), 2) if again else None,
            "reassignment_worst_s": round(again[-1], 2) if again else None,
        }
