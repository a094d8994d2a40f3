"""What a job waits for, in one sentence: the scheduler's status and log say it, so that no stall is unexplained. Times are the chain's."""

from __future__ import annotations

from assay.chain import FAILED, SegmentState
from assay_scheduler.books import OPEN, RESTING, JobBook, State, range_key

WAITS = {
    SegmentState.COMMITTED: "to be drawn",
    SegmentState.DRAWN: "to be served to its verifiers",
    SegmentState.SERVED: "for its verifiers' votes",
    SegmentState.ATTESTED: "for its challenge window to close",
}


def stand(job: JobBook, state: State, mine: bool, volunteer: bool) -> str:
    """Of a job that is not closed."""
    if job.cancelled:
        return "it is cancelled, and closes when its live segments have ended"
    tip = job.tip()
    if tip.live:
        book = job.segments[tip.parent]
        doing = "begins" if book.state == SegmentState.ASSIGNED else "computes"
        return f"{book.provider} {doing} segment {book.id} (steps {book.start}-{book.stop}), until {book.due} at the latest"
    if tip.start >= job.terms.steps or tip.unsettled >= job.terms.params.depth:
        first = next((s for s in job.segments.values() if s.parent == job.base and s.state not in FAILED), None)
        if first is None:
            return "all its steps have settled"
        many = "all its steps are committed" if tip.start >= job.terms.steps else f"{tip.unsettled} segments are unsettled, as many as it allows"
        until = "" if first.state == SegmentState.COMMITTED else f", until {first.due}"
        return f"{many}; segment {first.id} waits {WAITS.get(first.state, 'to end')}{until}"
    if not mine:
        silent = job.open_since + job.patience
        after = f"; this one takes over after {silent}" if volunteer else ""
        return f"steps from {tip.start} wait for the job's own scheduler{after}"
    stop = min(job.terms.steps, (tip.start // job.terms.segment_steps + 1) * job.terms.segment_steps)
    key = range_key(job.id, tip.parent, tip.start, stop)
    bids = len(state.bids.get(key, ()))
    if key in state.assigning:
        return f"steps {tip.start}-{stop} are being assigned to {state.assigning[key].offer.provider}"
    if state.soliciting.get(key) == RESTING:
        return f"it rests after {job.fruitless} segments in a row that came to nothing"
    if state.soliciting.get(key) == OPEN:
        return f"steps {tip.start}-{stop} are announced at up to {job.terms.price_cap} a step; {bids or 'no'} offers so far"
    return f"steps {tip.start}-{stop} are open and not announced yet"
