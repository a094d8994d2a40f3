"""From an assignment to its run: what a segment needs is brought here while another one computes, so that its run begins when a place is free.

    queued      just assigned                                                                   gathering, at once
    gathering   document, program, shards, frozen tensors, the parent's checkpoint and all      ready
                keys are fetched
    ready       while no place is free: they are put, opened, where the engine reads them       running, when a place is free and that is done
                (PrepareSegment), if there is memory for it beside what computes; it takes
                none of the engine's
    running     `activate` is sent as the run begins: its lease takes nothing from another's,
                and the block that carries it is not waited for. A commitment is

A place is taken by what computes, and by nothing else. The range behind the one that computes here is offered for beside it: it opens when that
one is committed, when the place is free, and what it starts from is here and opened. What is not begun by its time lapses, whatever it waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay import parts, threshold
from assay.chain import Activate, SegmentState
from assay.facts import COMMITTED_OR_BETTER, SegmentFacts
from assay.ids import JobId, SegmentId
from assay.role import SLACK
from assay.runtime import Do, Failed, Fault, Result, Send, Woke
from assay.tasks import PrepareSegment
from assay_worker.offers import Offering
from assay_worker.state import WAITING, Mine

COPIES = 2
"""Of the largest blob of a segment that a node holds while it opens it: sealed and open."""


class Preparing(Offering):
    if TYPE_CHECKING:  # other parts of the machine have these

        def _run(self, mine: Mine) -> None: ...
        def _lose(self, mine: Mine, reason: str) -> None: ...
        def _begun(self, mine: Mine) -> None: ...
        def _serve_units(self, mine: Mine, seg: SegmentFacts) -> None: ...
        def _open_chunk(self, mine: Mine, seg: SegmentFacts) -> None: ...
        def _equip(self, seg: SegmentFacts) -> None: ...

    # ---- after every event -----------------------------------------------------------------------------------------------

    def _settle_down(self) -> None:
        """The next thing to do."""
        if self.state.mine:
            for mine in self._busy("queued"):
                self._begin(mine)
            for mine in self._busy("ready"):
                if len(self._busy("running")) < self.config.places and not mine.preparing:
                    self._start(mine)
        if self.state.heard and not self.state.draining:
            self._consider(self._room())

    # ---- gathering -------------------------------------------------------------------------------------------------------

    def _begin(self, mine: Mine) -> None:
        seg = self.state.facts.segments[mine.segment]
        if seg.state == SegmentState.ASSIGNED and self._now > seg.activate_by:
            return self._lose(mine, "the time to begin is over")
        mine.phase = "gathering"
        entry = self.state.jobs.get(seg.job)
        if entry is not None and entry.stage == "refused":
            return self._lose(mine, entry.reason)
        if self._job(seg.job) is not None:
            self._gather(seg)

    def _on_queue(self, event: Woke, rest: list[str]) -> None:
        mine = self.state.mine.get(SegmentId(int(rest[0])))
        if mine is not None and mine.phase in WAITING and self.state.facts.segments[mine.segment].state == SegmentState.ASSIGNED:
            self._lose(mine, "it came while all places were taken, and its time to begin is over")

    def _gather(self, seg: SegmentFacts) -> None:
        spec, parent = self._job(seg.job), self._parent(seg)
        if spec is None or parent is None:
            return
        blobs = [*self._shards(spec), *self._frozen(spec), (parent[0], parts.largest(spec.state.size) + SLACK)]
        self._need(seg, blobs, masks=threshold.masks_refs(spec.dataset.shards))  # drawn verifiers fetch them here, too
        self._check_supplied(seg.segment)

    def _job_ready(self, job: JobId) -> None:
        for d in self.state.facts.disputes.values():
            play, seg = self.state.plays.get(d.dispute), self.state.facts.segments.get(d.segment)
            if play is not None and seg is not None and seg.job == job and not play.equipped:
                self._turn(d)
        for mine in self.state.mine.values():
            seg = self.state.facts.segments[mine.segment]
            wanted = mine.phase == "gathering" or (seg.state == SegmentState.DRAWN and mine.run is None)
            if seg.job == job and wanted and mine.segment not in self.state.needs:
                self._gather(seg)

    def _job_refused(self, job: JobId, reason: str) -> None:
        for mine in self._busy("gathering"):
            if self.state.facts.segments[mine.segment].job == job:
                self._lose(mine, reason)

    def _supplied(self, segment: SegmentId) -> None:
        mine, seg = self.state.mine.get(segment), self.state.facts.segments[segment]
        self._equip(seg)
        if mine is None:
            return
        if seg.state in COMMITTED_OR_BETTER:
            self._serve_units(mine, seg)
            return self._open_chunk(mine, seg)
        if mine.phase != "gathering":
            return
        mine.phase = "ready"
        self._note("ready", f"segment {segment}: state, shards and keys are here", segment=segment)
        if len(self._busy("running")) >= self.config.places and self._fits_beside(seg):
            self._prepare(mine, seg)

    # ---- ready -----------------------------------------------------------------------------------------------------------

    def _fits_beside(self, seg: SegmentFacts) -> bool:
        """Whether its files can be opened while what runs here takes the memory that it may."""
        spec = self._job(seg.job)
        if spec is None:
            return False
        largest = max(blob.size for blob in (spec.state, *spec.shared_blobs))
        jobs = [self.state.facts.segments[mine.segment].job for mine in self._busy("running")]
        taken = max((self.state.jobs[job].peak_memory for job in jobs if job in self.state.jobs), default=0)
        return taken + COPIES * largest <= self.config.max_memory

    def _prepare(self, mine: Mine, seg: SegmentFacts) -> None:
        parent = self._parent(seg)
        if parent is None:
            return
        mine.preparing = True
        spec = self.state.facts.jobs[seg.job].terms.spec
        task = PrepareSegment(segment=seg.segment, job=seg.job, spec=spec, start=seg.start, stop=seg.stop, parent=parent[0])
        self._do(Do(key=f"prepare:{seg.segment}", task=task))

    def _on_prepare(self, event: Result, rest: list[str]) -> None:
        mine = self.state.mine.get(SegmentId(int(rest[0])))
        if mine is None:
            return
        mine.preparing = False
        if isinstance(event, Failed):  # its run meets the same, or does it
            self._note("waiting", f"segment {mine.segment}: it is not prepared beside what runs here: {event.error}", segment=mine.segment)
        elif mine.phase == "ready":
            self._note("prepared", f"segment {mine.segment}: all that its run reads is laid out; a place is waited for", segment=mine.segment)

    def _start(self, mine: Mine) -> None:
        seg = self.state.facts.segments[mine.segment]
        if seg.state == SegmentState.ACTIVE:
            mine.active = True
        elif self._now > seg.activate_by:
            return self._lose(mine, "what it needs came too late to begin")
        else:
            self._do(Send(key=f"activate:{mine.segment}", call=Activate(segment=mine.segment)))
        self._run(mine)

    def _on_activate(self, event: Result, rest: list[str]) -> None:
        mine = self.state.mine.get(SegmentId(int(rest[0])))
        if mine is None or mine.phase not in ("running", "copying", "committing"):
            return
        if isinstance(event, Failed):
            if event.fault is Fault.OUTAGE:
                return self._later(Send(key=event.key, call=Activate(segment=mine.segment)))
            if self.state.facts.segments[mine.segment].state == SegmentState.ASSIGNED:
                return self._lose(mine, f"it could not be activated: {event.error}")
        self._begun(mine)
