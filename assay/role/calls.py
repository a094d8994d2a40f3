"""Calls that anyone may make, and money.

A nudge is due at a time or block. It is made if it still has a point then; mostly somebody else was first, which the chain's events
will tell; if they do not, it is tried again after a pause that grows.
"""

from __future__ import annotations

from typing import Any

from assay.beats import settles
from assay.chain import (
    MOST_CALLS,
    TERMINAL,
    AnyCall,
    Batch,
    ClearBond,
    ClearDisputed,
    CloseReveals,
    Credited,
    Decide,
    Draw,
    Redraw,
    SegmentState,
    Settle,
    VoidSegment,
    Withdraw,
    Withdrawn,
)
from assay.facts import SegmentFacts
from assay.ids import SegmentId
from assay.role.base import NUDGES, PAUSE, Base, RoleConfig
from assay.runtime import (
    Failed,
    Result,
    Send,
    Wake,
    Woke,
)

CALLS: dict[str, type[Draw | Redraw | CloseReveals | Decide | Settle | ClearBond | ClearDisputed | VoidSegment]] = {
    "draw": Draw, "redraw": Redraw, "close": CloseReveals, "decide": Decide, "settle": Settle, "clear": ClearBond, "release": ClearDisputed,
    "void": VoidSegment,
}  # fmt: skip
"""What each kind of nudge sends for its segment."""
PAST_VOTES = TERMINAL | {SegmentState.ATTESTED}


class Calls(Base):
    def __init__(self, config: RoleConfig) -> None:
        super().__init__(config)
        self._kinds |= {"due": self._on_due, "nudge": self._on_nudge, "withdraw": self._on_withdraw}

    def _nudge(self, kind: str, seg: SegmentFacts, at: int = 0, block: int = 0, tried: int = 0) -> None:
        """Makes a call for a segment from a time and block on, if it still has a point then."""
        self._do(Wake(key=f"due:{kind}:{seg.segment}:{seg.round}:{tried}:{at or block}", at=at, block=block))

    def _call(self, kind: str, seg: SegmentFacts, round: int) -> AnyCall | None:
        """The call, or None when there is no point in it (any more)."""
        state, same, free = seg.state, seg.round == round, not self.state.facts.held(seg.segment)
        bond = free and not seg.bond_cleared
        match kind:
            case "draw":
                wanted = state == SegmentState.COMMITTED and same
            case "redraw":
                wanted = state == SegmentState.DRAWN and same and self._now > seg.serve_by
            case "close":
                wanted = state == SegmentState.SERVED and same and not seg.opening_block
            case "decide":
                wanted = state == SegmentState.SERVED and same and seg.opening_block > 0
            case "settle":
                wanted = state == SegmentState.ATTESTED and free and self._parent_settled(seg)
            case "clear":
                wanted = state == SegmentState.UNPAID and bond
            case "release":
                wanted = state in (SegmentState.WITHHELD, SegmentState.REJECTED) and bond
            case _:  # void
                wanted = seg.live and free and self.state.facts.failed(seg.parent)
        return CALLS[kind](segment=seg.segment) if wanted else None

    def _parent_settled(self, seg: SegmentFacts) -> bool:
        parent = self.state.facts.segments.get(seg.parent)
        return parent is None or parent.state == SegmentState.SETTLED

    def _company(self, seg: SegmentFacts, voting: bool) -> bool:
        """Whether another segment of this node's is on its way, whose calls could share a transaction with this one's: with its seals and votes,
        if `voting`, else with its settlement. What is alone waits for nobody."""
        past = PAST_VOTES if voting else TERMINAL
        return any(other.state not in past for other in self.state.facts.of_provider(self.base.account) if other.segment != seg.segment)

    def _settle_at(self, seg: SegmentFacts) -> int:
        """When a segment's settlement is due, with those of others."""
        first, window = max(self._now, seg.settle_after + 1), self.state.facts.jobs[seg.job].terms.params.challenge_window
        return settles(first, window) if self._company(seg, voting=False) else first

    def _ripe(self) -> list[Settle]:
        """Settlements that are possible now and have not been asked for, parents first."""
        found: list[SegmentFacts] = []
        for seg in sorted(self.state.facts.of_provider(self.base.account), key=lambda seg: seg.segment):
            attested = seg.state == SegmentState.ATTESTED and self._now > seg.settle_after
            after = self._parent_settled(seg) or any(other.segment == seg.parent for other in found)
            asked = self.state.settling.get(seg.segment, -PAUSE) + PAUSE > self._now
            if attested and after and not asked and not self.state.facts.held(seg.segment) and len(found) < MOST_CALLS // 2:
                found.append(seg)
        self.state.settling = {segment: at for segment, at in self.state.settling.items() if at + PAUSE > self._now}
        self.state.settling |= {seg.segment: self._now for seg in found}
        return [Settle(segment=seg.segment) for seg in found]

    def _on_due(self, event: Woke, rest: list[str]) -> None:
        kind, segment, round = rest[0], SegmentId(int(rest[1])), int(rest[2])
        seg = self.state.facts.segments.get(segment)
        call = self._call(kind, seg, round) if seg is not None else None
        if call is None:
            return
        if kind == "settle":
            ripe = self._ripe()
            if not ripe and seg is not None and seg.provider == self.base.account:  # it is on its way with another's
                return self._nudge(kind, seg, at=self._now + PAUSE, tried=int(rest[3]) + 1) if int(rest[3]) < NUDGES else None
            call = Batch(calls=tuple(ripe)) if len(ripe) > 1 else ripe[0] if ripe else call
        self._do(Send(key=f"nudge:{':'.join(rest)}", call=call))

    def _on_nudge(self, event: Result, rest: list[str]) -> None:
        """Mostly somebody else was first, which the chain's events will tell; if they do not, it is tried again."""
        kind, segment, round, tried = rest[0], SegmentId(int(rest[1])), int(rest[2]), int(rest[3])
        seg = self.state.facts.segments.get(segment)
        if seg is not None and self._call(kind, seg, round) is not None and tried < NUDGES:
            self._nudge(kind, seg, at=self._now + PAUSE * (1 + tried // 10), tried=tried + 1)

    # ---- money -----------------------------------------------------------------------------------------------------------

    def _account(self, pending: int) -> dict[str, Any]:
        """Of the node's summary. `pending`: what it will be credited if all goes well."""
        return {"credit": self.state.credit, "dispute_credit": self.state.dispute_credit, "pending": pending, **self.state.books.summary()}

    def _money(self, event: Credited | Withdrawn) -> None:
        if event.who != self.base.account:
            return
        if isinstance(event, Withdrawn):
            self.state.credit = max(0, self.state.credit - event.amount)
            return self._note("withdrawn", f"{event.amount} paid out", amount=event.amount)
        self.state.credit += event.amount
        text = f"credited {event.amount} ({event.reason}) for segment {event.segment}"
        self._note("credited", text, amount=event.amount, reason=event.reason, segment=event.segment)
        if 0 < self.base.withdraw_at <= self.state.credit:
            self._pull()

    def _pull(self) -> None:
        if self.state.credit > 0:
            self.state.withdrawals += 1
            self._do(Send(key=f"withdraw:{self.state.withdrawals}", call=Withdraw()))
        else:
            self._note("withdraw", "there is nothing to withdraw")

    def _pull_more(self) -> None:
        """What else the role is owed."""

    def _on_withdraw(self, event: Result, rest: list[str]) -> None:
        if isinstance(event, Failed):
            self._note("withdraw", f"withdrawing failed: {event.error}")
