"""What a scheduler learns from the chain: how providers' segments end, how long steps take, and when a segment takes too long.

A segment's pace is that of its job's last segments. How far a pace may stray is learnt, too: over the last segments of all jobs, the fence
of Tukey (Exploratory Data Analysis, 1977) for what is far out, the third quartile and three times the distance of the quartiles. It does not move
by the stragglers themselves as long as they are fewer than a quarter. A provider that was taken although it is known to be slow has half as much
again as it was expected to take.
"""

from __future__ import annotations

from assay.chain import Lapsed, Rejected, SegmentState, Settled, Unpaid, Withheld
from assay.runtime import Wake
from assay_scheduler.books import LIVE_UNCOMMITTED, Config, JobBook, SegmentBook, State
from assay_scheduler.placement import Record

PACES = 8
"""Segments of a job from which it is learnt how long a step takes."""
ENOUGH_PACES = 3
RATIOS = 64
"""Segments of all jobs from which it is learnt how far a pace strays."""
ENOUGH_RATIOS = 16
UNLEARNT = 300
"""Percent of the pace from which a segment is late, before there are enough."""
LEAST, MOST = 150, 600
"""Percent, between which the learnt deadline stays."""
HANDS = 32
"""Last providers of a job that are remembered."""


def fence(ratios: list[int]) -> int:
    """From how many percent of the pace a segment is far out."""
    if len(ratios) < ENOUGH_RATIOS:
        return UNLEARNT
    ordered = sorted(ratios)
    first, third = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    return max(LEAST, min(MOST, third + 3 * (third - first)))


class History:
    config: Config
    state: State

    def _record(self, book: SegmentBook) -> Record:
        return self.state.records.setdefault(book.provider, Record())

    def _judge(self, book: SegmentBook, event: object) -> str:
        """Takes the end of a segment into its provider's record; says in words why it failed. To be called before its state is changed."""
        record = self._record(book)
        match event:
            case Settled():
                record.settled += 1
                record.ended(good=2)
                return ""
            case Lapsed(fee=fee):
                late = fee > 0 or book.state == SegmentState.ACTIVE  # without a key it could not begin
                record.lapsed += late
                record.ended(bad=2 * late)
                return f"lapsed: {book.provider} did not deliver in time and pays a late fee of {fee}"
            case Withheld(yes=yes, no=no):
                record.withheld += 1
                record.ended(bad=2)
                return f"withheld: {no} of the drawn verifiers found another result, {yes} agreed; {book.provider} is not paid"
            case Unpaid(reason=reason):
                keys, nobody = "keys" in reason, "too few verifiers" in reason
                record.keyless += keys
                record.withheld += not keys and not nobody
                record.ended(bad=0 if nobody else 1 if keys else 2)
                return f"unpaid: {reason}"
            case Rejected():
                fresh = book.state != SegmentState.WITHHELD
                record.withheld += fresh
                record.ended(bad=2 * fresh)
                return "rejected: the dispute was lost"
            case _:
                return "void: a segment before it failed"

    # ---- paces -----------------------------------------------------------------------------------------------------------

    def _learn(self, job: JobBook, book: SegmentBook, now: int) -> None:
        """How long a step took: of the job, to know when its next range opens; of the provider and of all, against others of the job."""
        job.hands.pop(book.provider, None)
        job.hands[book.provider] = book.stop
        if len(job.hands) > HANDS:
            del job.hands[next(iter(job.hands))]
        if not book.since or now <= book.since:
            return
        pace = (now - book.since) * 1000 // (book.stop - book.start)
        if job.paces:
            ratio = pace * 100 // max(1, job.pace)
            self._record(book).measured(ratio)
            self.state.ratios = [*self.state.ratios, ratio][-RATIOS:]
        job.paces = [*job.paces, pace][-PACES:]

    def _allowed(self, book: SegmentBook) -> int:
        """Percent of the job's pace that a segment may take."""
        return max(fence(self.state.ratios), self._record(book).slowness * 3 // 2)

    def _watch(self, job: JobBook, book: SegmentBook, mine: bool) -> list[Wake]:
        """A deadline of its own for a segment that begins, where the history gives one that is earlier than the lease's."""
        due = book.since + self._allowed(book) * job.pace * (book.stop - book.start) // 100_000
        return [Wake(key=f"slow:{book.id}", at=due + 1)] if mine and len(job.paces) >= ENOUGH_PACES and due < book.due else []

    def _late(self, book: SegmentBook, due: int) -> Wake:
        """What its state on chain allows."""
        book.due = due
        grace = 0 if book.state in LIVE_UNCOMMITTED else self.config.patience
        return Wake(key=f"late:{book.id}:{int(book.state)}:{due}", at=due + 1 + grace)
