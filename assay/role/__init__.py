"""What the machines of a worker and of a verifier share.

A role is a machine (assay.runtime.Machine) whose durable effects are named `kind:subject[:more]`; a result is handed to the method
that is registered for its kind. Jobs (assay.role.jobs), what a segment needs (assay.role.supply), calls that anyone may make
(assay.role.calls), money (assay.role.books), disputes (assay.role.disputes), what their sides serve each other (assay.role.nodes) and trying
again (assay.role.base) are kept here, so that each role states only what is its own.
"""

from __future__ import annotations

from assay.chain import AnyChainEvent, Credited, DisputePaid, JobCancelled, JobClosed, KeyReleased, Withdrawn
from assay.codec import Message
from assay.ids import JobId, SegmentId
from assay.messages import NodesRequest
from assay.role.base import NUDGES, PAUSE, SLACK, SPEC_LIMIT, RoleConfig, RoleState
from assay.role.disputes import DISPUTE_EVENTS, Disputes
from assay.runtime import AnyEffect, AnyEvent, Asked, ChainSeen, IllegalEvent, Ordered, Result, Started

__all__ = ["NUDGES", "PAUSE", "SLACK", "SPEC_LIMIT", "Role", "RoleConfig", "RoleState"]


class Role(Disputes):
    """Base of a machine."""

    SOFT: tuple[type[Message], ...] = ()

    def _job_of(self, event: object) -> JobId | None:
        """The job whose end an event may be."""
        if isinstance(event, JobClosed | JobCancelled):
            return event.job if event.job in self.state.facts.jobs else None
        seg = self.state.facts.segments.get(getattr(event, "segment", SegmentId(0)))
        return seg.job if seg is not None and not seg.live and seg.job in self.state.facts.jobs else None

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        self._out, self._now, self._seed = [], now, seed
        if isinstance(event, Result):
            kind, *rest = event.key.split(":")
            handler = self._kinds.get(kind)
            if handler is None:
                raise IllegalEvent(f"{type(event).__name__} of {event.key!r}: no effect of that kind is ever asked for")
            handler(event, rest)
        elif isinstance(event, ChainSeen):
            self._chain_event(event.event)
        else:
            self._other_event(event)
        self._settle_down()
        return self._out

    def _chain_event(self, seen: AnyChainEvent) -> None:
        state = self.state
        state.books.see(seen, self.base.account, state.facts)
        if isinstance(seen, DISPUTE_EVENTS):
            before = state.facts.disputes.get(seen.dispute) if isinstance(seen, DisputePaid) else None
            state.facts.see(seen)
            return self._about_dispute(seen, before)
        state.facts.see(seen)
        if isinstance(seen, KeyReleased):
            self._released(seen)
        elif isinstance(seen, Credited | Withdrawn):
            self._money(seen)
        self._chain(seen)
        self._let_go(getattr(seen, "segment", SegmentId(0)))
        job = self._job_of(seen)
        if job is not None:
            self._forget_job(job)

    def _other_event(self, event: AnyEvent) -> None:
        match event:
            case Ordered(order="withdraw"):
                self._pull()
                self._pull_disputes()
                self._pull_more()
            case Started():
                self._asks_forgotten()
                self._other(event)
            case Asked(ask=ask, peer=peer, message=NodesRequest() as request):
                self._nodes_asked(ask, peer, request)
            case _:
                self._other(event)
