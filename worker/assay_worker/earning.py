"""Bounties on trainings that this worker has had a part in (assay.bounty): it sees to it that they are decided and paid.

    offered   counted into what a step of the job is worth, as far as the owner says (`bounty_percent`)
    over      the job's last step has settled, or it was cancelled and closed: `begin` is sent after a while, if nobody else has
    begun     the window runs: whoever wants to pay less than all shows a result
    decided   the window is over, or all is earned: this node's settled segments are collected

Mostly the sponsor, or another provider, was first: then the call is refused, and nothing is lost.
"""

from __future__ import annotations

from typing import Any

from assay.chain import (
    BeginBounty,
    BountyBegun,
    BountyOffered,
    BountyPaid,
    BountyShown,
    BountyWithdrawn,
    CollectBounty,
    JobClosed,
    SegmentState,
    Settled,
    WithdrawBounties,
)
from assay.ids import BountyId, JobId, SegmentId
from assay.role import NUDGES, PAUSE, Role
from assay.runtime import Failed, Result, Send, Wake, Woke
from assay_worker.state import Sought, WorkerConfig, WorkerState

PATIENCE = 120
"""Seconds that are left to others to begin."""
MOST_AT_ONCE = 64
"""Segments in one call."""


class Earning(Role):
    state: WorkerState
    config: WorkerConfig

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__(config)
        self._kinds |= {"begin": self._on_begin, "collect": self._on_collect, "bounties": self._on_bounties}

    def _bounty_of_step(self, job: JobId) -> int:
        """What of its bounties this node counts into the worth of a step."""
        share = sum(b.amount for b in self.state.bounties.values() if b.job == job) * self.config.bounty_percent
        return share // (100 * self.state.facts.jobs[job].terms.steps)

    def _earn(self, event: Any) -> None:
        """A chain event."""
        state = self.state
        match event:
            case Settled():
                seg = state.facts.segments.get(event.segment)
                if seg is None:
                    return
                if seg.provider == self.config.account:
                    state.settled.setdefault(seg.job, []).append(seg.segment)
                if seg.stop == state.facts.jobs[seg.job].terms.steps:
                    self._over(seg.job)
            case JobClosed():
                self._over(event.job)
            case BountyOffered():
                state.bounties[event.bounty] = Sought(event.job, event.terms.amount)
                if event.job in state.ended:
                    self._over(event.job)
            case BountyBegun() if event.bounty in state.bounties:
                state.bounties[event.bounty].begun = True
                if state.settled.get(state.bounties[event.bounty].job):
                    self._do(Wake(key=f"collect:{event.bounty}:0", at=event.until + 1))
            case BountyShown() if event.bounty in state.bounties:
                b = state.bounties[event.bounty]
                b.shown, b.best = True, max(b.best, event.reached)
                if b.best == b.amount:
                    self._do(Wake(key=f"collect:{event.bounty}:0", at=self._now))
            case BountyPaid(provider=who) if who == self.config.account:
                if event.bounty in state.bounties:
                    state.bounties[event.bounty].paid.append(event.segment)
                state.bounty_credit += event.amount
                text = f"credited {event.amount} (bounty) for segment {event.segment}"
                self._note("credited", text, amount=event.amount, reason="bounty", segment=event.segment)
                if 0 < self.config.withdraw_at <= state.bounty_credit:
                    self._pull_more()
            case BountyWithdrawn(who=who) if who == self.config.account:
                state.bounty_credit = max(0, state.bounty_credit - event.amount)
                self._note("withdrawn", f"{event.amount} of bounties paid out", amount=event.amount)
            case _:
                pass

    def _over(self, job: JobId) -> None:
        self.state.ended.add(job)
        if not self.state.settled.get(job):
            return
        for number, b in self.state.bounties.items():
            if b.job == job and not b.begun:
                self._do(Wake(key=f"begin:{number}:0", at=self._now + PATIENCE))

    def _on_begin(self, event: Woke | Result, rest: list[str]) -> None:
        number, tried = BountyId(int(rest[0])), int(rest[1])
        b = self.state.bounties[number]
        if b.begun:
            return
        if isinstance(event, Woke):
            settled = [s for s in self.state.facts.of_job(b.job) if s.state == SegmentState.SETTLED]
            last = max(settled, key=lambda s: s.stop).segment if settled else SegmentId(0)
            self._do(Send(key=f"begin:{number}:{tried}", call=BeginBounty(bounty=number, last=last)))
        else:
            self._again("begin", number, tried, event)

    def _on_collect(self, event: Woke | Result, rest: list[str]) -> None:
        number, tried = BountyId(int(rest[0])), int(rest[1])
        b = self.state.bounties[number]
        left = [segment for segment in self.state.settled.get(b.job, ()) if segment not in b.paid][:MOST_AT_ONCE]
        if not left or (b.shown and not b.best):
            return
        if isinstance(event, Woke):
            self._do(Send(key=f"collect:{number}:{tried}", call=CollectBounty(bounty=number, segments=tuple(left))))
        else:
            self._again("collect", number, tried, event)

    def _again(self, kind: str, number: BountyId, tried: int, event: Result) -> None:
        """Once more, if the chain does not tell meanwhile that it is done."""
        if tried < NUDGES and (isinstance(event, Failed) or kind == "collect"):
            self._do(Wake(key=f"{kind}:{number}:{tried + 1}", at=self._now + PAUSE * (1 + tried)))

    def _pull_more(self) -> None:
        if self.state.bounty_credit > 0:
            self.state.withdrawals += 1
            self._do(Send(key=f"bounties:{self.state.withdrawals}", call=WithdrawBounties()))

    def _on_bounties(self, event: Result, rest: list[str]) -> None:
        if isinstance(event, Failed):
            self._note("withdraw", f"withdrawing what bounties have paid failed: {event.error}")
