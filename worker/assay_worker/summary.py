"""What a worker tells its owner: what it does, what it has been assigned, and what it will be credited if all goes well."""

from __future__ import annotations

from typing import Any

from assay.facts import COMMITTED_OR_BETTER, SegmentFacts
from assay.ids import Address
from assay_worker.state import BUSY, Mine, WorkerState


def told(state: WorkerState, account: Address, places: int) -> dict[str, Any]:
    """Of `assay worker status`, without the money."""
    facts, busy = state.facts, [mine for mine in state.mine.values() if mine.phase in BUSY]
    return {
        "doing": ", ".join(mine.phase for mine in busy) or "waiting for an assignment",
        "current_segment": next((mine.segment for mine in busy), None),
        "places": places,
        "draining": state.draining,
        "segments": [
            {
                "segment": seg.segment, "job": seg.job, "start": seg.start, "stop": seg.stop, "price": seg.price, "phase": mine.phase,
                "state": seg.state.name.lower(), "settles_after": seg.settle_after,
            }
            for mine, seg in _known(state)
        ],
        "disputes": [
            {"dispute": d.dispute, "segment": d.segment, "phase": d.phase}
            for d in facts.disputes.values()
            if d.segment in facts.segments and facts.segments[d.segment].provider == account
        ],
        "too_cheap": [{"job": job, "asked": cheap.asked, "cap": cheap.cap, "until": cheap.until} for job, cheap in state.cheap.items()],
        "refused_jobs": {str(job): entry.reason for job, entry in state.jobs.items() if entry.reason},
    }  # fmt: skip


def pending(state: WorkerState) -> int:
    """Prices of what is committed and not settled yet, smallest units."""
    return sum(seg.price for _, seg in _known(state) if seg.state in COMMITTED_OR_BETTER)


def _known(state: WorkerState) -> list[tuple[Mine, SegmentFacts]]:
    facts = state.facts.segments
    return [(mine, facts[mine.segment]) for mine in state.mine.values() if mine.segment in facts]
