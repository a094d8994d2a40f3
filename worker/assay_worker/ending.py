"""How a segment ends for its worker: what is told, which calls follow, and when its files may go.

    settled, lapsed, void   the files go at once
    unpaid (not served)     the bond is cleared after the window; the files go then
    withheld                the same, where the network has disputes; where it has none, bond and files stay
    rejected                the files go when no dispute over it is undecided any more; after a pardoned concession as when withheld

The boundaries that were served for a segment go with its files. The checkpoints of a job stay for `retention` seconds after it has come to
its end. Both only lose their pin: the block store drops them, oldest first, when its quota is reached.

A dispute is answered from the segment's folder: what is not there any more is fetched and computed anew.
"""

from __future__ import annotations

from typing import Any

from assay.chain import Lapsed, SegmentState, Settled, Unpaid, Voided, Withheld
from assay.facts import DisputeFacts, SegmentFacts
from assay.ids import JobId
from assay.runtime import Do, Failed, Result, Wake, Woke
from assay.tasks import DropSegment, LetGo
from assay_worker.bringing import Bringing
from assay_worker.showing import Showing
from assay_worker.state import Mine


class Ending(Bringing, Showing):
    def _free(self, mine: Mine, phase: str) -> None:
        raise NotImplementedError

    def _gather(self, seg: SegmentFacts) -> None:
        raise NotImplementedError

    def _ended(self, mine: Mine, seg: SegmentFacts, event: Any) -> None:
        data: dict[str, Any] = {"segment": seg.segment, "job": seg.job}
        who = f"segment {seg.segment}"
        match event:
            case Settled():
                self._note("settled", f"{who}: settled, {event.price} is credited", price=event.price, **data)
            case Lapsed():
                self._note("lapsed", f"{who}: lapsed, the late fee is {event.fee}", fee=event.fee, **data)
            case Withheld():
                text = f"{who}: {event.no} verifiers found another result ({event.yes} agreed); the price is withheld and the bond stays reserved"
                self._note("withheld", text, yes=event.yes, no=event.no, **data)
                if self.config.disputes:
                    self._nudge("release", seg, at=seg.settle_after + 1)
            case Unpaid():
                self._note("unpaid", f"{who}: unpaid: {event.reason}", reason=event.reason, **data)
                if seg.settle_after:  # the bond stays for whoever may dispute, and no longer
                    self._nudge("clear", seg, at=seg.settle_after + 1)
            case Voided():
                self._note("void", f"{who}: void, for a segment before it failed", **data)
            case _:
                self._note("rejected", f"{who}: rejected in a dispute", **data)
        self._free(mine, "ended")
        del self.state.mine[seg.segment]
        if self.config.disputes:
            self._keep(seg)
        elif not isinstance(event, Withheld):
            self._drop(seg)

    def _disputable(self, seg: SegmentFacts) -> bool:
        """While its bond stands for a dispute."""
        stands = seg.state in (SegmentState.WITHHELD, SegmentState.UNPAID) or seg.pardoned is not None
        return stands and seg.settle_after > 0 and not seg.bond_cleared

    def _drop(self, seg: SegmentFacts) -> None:
        self._shows_ended(seg.segment)
        self._do(Do(key=f"drop:{seg.segment}", task=DropSegment(segment=seg.segment)))

    def _on_drop(self, event: Result, rest: list[str]) -> None:
        if isinstance(event, Failed):
            self._note("error", f"segment {rest[0]}: its files could not be removed: {event.error}")

    # ---- blobs -----------------------------------------------------------------------------------------------------------

    def _forget_job(self, job: JobId) -> None:
        """After the last segment of a job its checkpoints are kept for some time, for whoever fetches or checks them late."""
        super()._forget_job(job)
        if job in self.state.published and self._finished(job):
            self._do(Wake(key=f"tidy:{job}", at=self._now + self.config.retention))

    def _finished(self, job: JobId) -> bool:
        """Nothing more comes of it, and nothing of it that this node answers for can be disputed any more."""
        facts = self.state.facts
        known, last = facts.of_job(job), facts.jobs[job].terms.steps
        over = facts.jobs[job].over or any(seg.state == SegmentState.SETTLED and seg.stop == last for seg in known)
        return over and not any(seg.live or seg.segment in facts.pinned for seg in known)

    def _on_tidy(self, event: Woke, rest: list[str]) -> None:
        job = JobId(int(rest[0]))
        if job in self.state.published and self._finished(job):
            self.state.published.discard(job)
            self._do(Do(key=f"tidied:{job}", task=LetGo(job=job)))

    def _on_tidied(self, event: Result, rest: list[str]) -> None:
        if isinstance(event, Failed):
            self._note("error", f"job {rest[0]}: its checkpoints are still kept: {event.error}")

    # ---- disputes --------------------------------------------------------------------------------------------------------

    def _equipped(self, d: DisputeFacts, seg: SegmentFacts) -> bool:
        """What the segment was run from may have left the block store since."""
        if self.state.plays[d.dispute].equipped:
            return True
        self._want_job(seg.job)
        if seg.segment not in self.state.needs:
            self._gather(seg)
        return False

    def _equip(self, seg: SegmentFacts) -> None:
        for d in self.state.facts.disputes_over(seg.segment):
            play = self.state.plays.get(d.dispute)
            if play is not None and not play.equipped:
                play.equipped = True
                self._turn(d)
