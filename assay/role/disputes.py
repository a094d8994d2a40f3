"""A node's disputes: those it began, those over what it asserted, and those that hold up a segment of its own.

    its own turn    MakeMove, from the chain's newest record of the dispute -> PlayMove
    the other's     a wake when its time is over: MakeMove then gives a Timeout
    resolved        who gains by it, or whose segment waits for it, pays it out after the delay; what is credited is pulled

Whatever is refused, or cannot be made, is made anew from the fresh record TRIES times, with growing pauses. Nothing of a game is kept here
but whose turn it is: a move is made from the chain's record and the files on disk, which stay as long as a dispute can need them.
"""

from __future__ import annotations

from assay.chain import (
    ChainEvent,
    DisputeCredited,
    DisputeMoved,
    DisputeOpened,
    DisputePaid,
    DisputeResolved,
    DisputeSealed,
    DisputeWithdrawn,
    Outcome,
    PayDispute,
    PlayMove,
    SegmentState,
    WithdrawDisputes,
)
from assay.dispute.moves import Open, Revealed, Side
from assay.facts import DisputeFacts, SegmentFacts
from assay.ids import DisputeId, SegmentId
from assay.messages import Boundary
from assay.role.base import NUDGES, PAUSE, Play, RoleConfig
from assay.role.nodes import NodesServing
from assay.runtime import Do, Failed, Result, Send, Wake, Woke
from assay.tasks import MakeMove, MoveMade

TRIES = 8
"""Of a move, with pauses that double: six minutes."""
FIRST_PAUSE = 3
DISPUTE_EVENTS = (DisputeSealed, DisputeOpened, DisputeMoved, DisputeResolved, DisputePaid, DisputeCredited, DisputeWithdrawn)
FELL = (Outcome.ASSERTER_LOST, Outcome.CONCEDED)


def pause(tries: int) -> int:
    """Seconds before the next try; the first are short, since a turn may be."""
    return FIRST_PAUSE << (tries - 1)


class Disputes(NodesServing):
    def __init__(self, config: RoleConfig) -> None:
        super().__init__(config)
        self._kinds |= {
            "move": self._on_move, "play": self._on_play, "anew": self._on_anew, "overdue": self._on_overdue, "pay": self._on_pay,
            "paid": self._on_paid, "pull": self._on_pull, "keep": self._on_keep,
        }  # fmt: skip

    # ---- for the role to say ---------------------------------------------------------------------------------------------

    def _opening(self, d: DisputeFacts) -> Open | None:
        """What this node sealed."""
        return None

    def _served(self, d: DisputeFacts) -> Boundary | None:
        """What this node was served of the link whose trace it defends."""
        return None

    def _equipped(self, d: DisputeFacts, seg: SegmentFacts) -> bool:
        """Whether all is here that a move is made from; if not, it is being fetched, and `_turn` is called again."""
        return True

    def _dispute_seen(self, event: ChainEvent, d: DisputeFacts) -> None:
        """A dispute has moved on; the facts have it already."""

    def _disputable(self, seg: SegmentFacts) -> bool:
        """Whether this node may yet need its files of an ended segment for a dispute that is not open."""
        raise NotImplementedError

    def _drop(self, seg: SegmentFacts) -> None:
        """Nothing of a segment is needed any more."""
        raise NotImplementedError

    # ---- events ----------------------------------------------------------------------------------------------------------

    def _about_dispute(self, event: ChainEvent, before: DisputeFacts | None) -> None:
        """`before`: the dispute as it was, for one that is paid is forgotten."""
        match event:
            case DisputeCredited(who=who, amount=amount) if who == self.base.account:
                self.state.dispute_credit += amount
                self._note("credited", f"credited {amount} by dispute {event.dispute}", amount=amount, dispute=event.dispute)
                return self._pull_disputes()
            case DisputeWithdrawn(who=who, amount=amount) if who == self.base.account:
                self.state.dispute_credit = max(0, self.state.dispute_credit - amount)
                return self._note("withdrawn", f"{amount} of disputes paid out", amount=amount)
            case DisputeCredited() | DisputeWithdrawn():
                return
        d = before or self.state.facts.disputes.get(getattr(event, "dispute", DisputeId(0)))
        if d is None:
            return
        side = self._side(d)
        if side is not None or self._provides(d.segment):
            self._tell(event, d, side)
        self._dispute_seen(event, d)
        match event:
            case DisputeSealed() | DisputeMoved() if side is not None:
                self._turn(d)
            case DisputeResolved():
                self._resolved(d, side)
        seg = self.state.facts.segments.get(d.segment)
        if seg is not None and isinstance(event, DisputeResolved | DisputePaid):
            self._released_by(seg)
            self._let_go(seg.segment)

    def _tell(self, event: ChainEvent, d: DisputeFacts, side: Side | None) -> None:
        data: dict[str, str | int | bool] = {"dispute": d.dispute, "segment": d.segment}
        who = f"dispute {d.dispute} over segment {d.segment}"
        match event:
            case DisputeSealed():
                self._note("dispute", f"{who}: sealed by {d.challenger}, with a bond of {event.bond}", **data)
            case DisputeOpened():
                what = f"link {d.unit} of its provider" if d.target == 0 else f"the trace of link {d.unit} that {d.asserter} revealed"
                self._note("dispute", f"{who}: {d.challenger} disputes {what}; this node is {side or 'no party'}", **data)
            case DisputeResolved():
                self._note("dispute", f"{who}: {event.outcome}; {event.taken} is taken from {d.asserter}", outcome=event.outcome, **data)
            case DisputePaid():
                paid = f"{event.to_asserter} to the asserter, {event.to_challenger} to the challenger, {event.burnt} burnt"
                self._note("dispute", f"{who}: paid: {paid}", outcome=event.outcome, **data)

    def _provides(self, segment: SegmentId) -> bool:
        seg = self.state.facts.segments.get(segment)
        return seg is not None and seg.provider == self.base.account

    def _side(self, d: DisputeFacts) -> Side | None:
        """This node's; of a sealed dispute nobody knows whom it is against, and the provider sees to it that it is opened in time."""
        if d.challenger == self.base.account:
            return Side.CHALLENGER
        mine = d.asserter == self.base.account if d.asserter else self._provides(d.segment)
        return Side.ASSERTER if mine else None

    # ---- moves -----------------------------------------------------------------------------------------------------------

    def _turn(self, d: DisputeFacts) -> None:
        """Whoever's it is now."""
        side = self._side(d)
        if not d.undecided or side is None:
            return
        play = self.state.plays.setdefault(d.dispute, Play())
        if play.turn != d.turns:
            self.state.plays[d.dispute] = play = Play(turn=d.turns, equipped=play.equipped, distrusted=play.distrusted)
        if d.asserting == (side is Side.ASSERTER):
            self._make(d, play, side)
        else:
            self._do(Wake(key=f"overdue:{d.dispute}:{d.turns}", at=d.due + 1))

    def _make(self, d: DisputeFacts, play: Play, side: Side) -> None:
        seg = self.state.facts.segments.get(d.segment)
        if seg is None or not self._equipped(d, seg):
            return
        task = self._task(d, play, side)
        if task is None:
            return self._anew(d, play, f"what segment {seg.segment} starts from is not known here")
        self._do(Do(key=f"move:{d.dispute}:{play.turn}:{play.tries}:{play.asks}", task=task))

    def _task(self, d: DisputeFacts, play: Play, side: Side) -> MakeMove | None:
        seg = self.state.facts.segments.get(d.segment)
        parent = self._parent(seg) if seg is not None else None
        if seg is None or parent is None or not self._equipped(d, seg):
            return None
        terms = self.state.facts.jobs[seg.job].terms
        revealed = tuple(
            Revealed(verifier=vote.verifier, round=vote.round, unit=unit, agrees=vote.agrees, trace_root=root)
            for vote in seg.votes
            for unit, root in zip(vote.units, vote.trace_roots, strict=False)
        )
        return MakeMove(
            dispute=d.dispute, side=side, segment=seg.segment, job=seg.job, spec=terms.spec, terms=terms, start=seg.start, stop=seg.stop,
            parent=parent[0], parent_root=parent[1], link_root=seg.link_root, revealed=revealed,
            bond=terms.params.draw_bond if d.target == 1 else seg.price * terms.params.bond_tenths // 10 + terms.params.bond_base,
            own=seg.provider == self.base.account, opening=self._opening(d), boundary=self._served(d), last=play.tries + 1 >= TRIES,
            served=tuple(play.served) if self._asks(d, play, side) else None,
        )  # fmt: skip

    def _playing(self, rest: list[str]) -> tuple[DisputeFacts, Play] | None:
        """The dispute and the try that a result belongs to, if they are those of now."""
        d, play = self.state.facts.disputes.get(DisputeId(int(rest[0]))), self.state.plays.get(DisputeId(int(rest[0])))
        if d is None or play is None or not d.undecided or (d.turns, play.turn) != (int(rest[1]), int(rest[1])):
            return None
        return (d, play) if len(rest) < 3 or play.tries == int(rest[2]) else None

    def _on_move(self, event: Result, rest: list[str]) -> None:
        found = self._playing(rest)
        if found is None or found[1].asks != int(rest[3]):
            return
        d, play = found
        if isinstance(event, Failed):
            return self._anew(d, play, event.error)
        made: MoveMade = self._outcome(event, MoveMade)
        if made.move is None:
            return self._anew(d, play, made.why)
        if not self._ask_nodes(d, play, made):
            self._send_move(d, play, made)

    def _send_move(self, d: DisputeFacts, play: Play, made: MoveMade) -> None:
        assert made.move is not None
        served = len(play.served)
        text = f"dispute {d.dispute}: {type(made.move).__name__}" + (f", over {served} answers of the other side" if served else "")
        self._note("move", text, dispute=d.dispute, segment=d.segment, phase=d.phase, served=served)
        call = PlayMove(dispute=d.dispute, move=made.move, shown=made.shown)
        self._do(Send(key=f"play:{d.dispute}:{play.turn}:{play.tries}:{play.asks}", call=call))

    def _on_play(self, event: Result, rest: list[str]) -> None:
        found = self._playing(rest)
        if found is not None and isinstance(event, Failed):
            self._anew(*found, event.error)  # else DisputeMoved, when it is final, tells who is next

    def _anew(self, d: DisputeFacts, play: Play, why: str) -> None:
        play.tries += 1
        left = "once more" if play.tries < TRIES else "given up"
        self._note("dispute", f"dispute {d.dispute}: no move in {d.phase}: {why}; {left}", dispute=d.dispute, segment=d.segment, reason=why)
        if play.tries < TRIES:
            self._do(Wake(key=f"anew:{d.dispute}:{play.turn}:{play.tries}", at=self._now + pause(play.tries)))

    def _on_anew(self, event: Woke, rest: list[str]) -> None:
        found = self._playing(rest)
        if found is not None:
            self._try(*found)

    def _on_overdue(self, event: Woke, rest: list[str]) -> None:
        found = self._playing(rest)
        if found is not None and self._now > found[0].due:
            self._try(*found)

    def _try(self, d: DisputeFacts, play: Play) -> None:
        side = self._side(d)
        if side is not None:
            self._make(d, play, side)

    # ---- ends ------------------------------------------------------------------------------------------------------------

    def _resolved(self, d: DisputeFacts, side: Side | None) -> None:
        self.state.plays.pop(d.dispute, None)
        gains = side is (Side.CHALLENGER if d.outcome in FELL else Side.ASSERTER)
        if gains or (d.holds and self._provides(d.segment)):
            self._do(Wake(key=f"pay:{d.dispute}:0", at=d.due + 1 if gains else d.due + 4 * PAUSE))

    def _on_pay(self, event: Woke, rest: list[str]) -> None:
        dispute = DisputeId(int(rest[0]))
        if dispute in self.state.facts.disputes:
            self._do(Send(key=f"paid:{':'.join(rest)}", call=PayDispute(dispute=dispute)))

    def _on_paid(self, event: Result, rest: list[str]) -> None:
        """Somebody else may have been first, which an event tells."""
        tried = int(rest[1]) + 1
        if isinstance(event, Failed) and DisputeId(int(rest[0])) in self.state.facts.disputes and tried < NUDGES:
            self._do(Wake(key=f"pay:{rest[0]}:{tried}", at=self._now + PAUSE * (1 + tried // 10)))

    def _pull_disputes(self) -> None:
        """At once, whatever is asked of other credit: a challenger's bond must be at hand for the next dispute."""
        if self.state.dispute_credit > 0:
            self.state.withdrawals += 1
            self._do(Send(key=f"pull:{self.state.withdrawals}", call=WithdrawDisputes()))

    def _on_pull(self, event: Result, rest: list[str]) -> None:
        if isinstance(event, Failed):
            self._note("withdraw", f"withdrawing what disputes have paid failed: {event.error}")

    def _released_by(self, seg: SegmentFacts) -> None:
        """What waited for a dispute over a segment of this node goes on."""
        if self._provides(seg.segment) and not self.state.facts.held(seg.segment):
            if seg.state == SegmentState.ATTESTED:
                self._nudge("settle", seg, at=max(self._now, seg.settle_after) + 1)
            elif seg.state == SegmentState.UNPAID:
                self._nudge("clear", seg, at=max(self._now, seg.settle_after) + 1)
            elif seg.state == SegmentState.WITHHELD:
                self._nudge("release", seg, at=max(self._now, seg.settle_after) + 1)
            elif seg.state == SegmentState.REJECTED:
                self._nudge("release", seg, at=self._now if seg.pardoned is None else max(self._now, seg.settle_after) + 1)
            if seg.live and self.state.facts.failed(seg.parent):
                self._nudge("void", seg, at=self._now)

    # ---- files -----------------------------------------------------------------------------------------------------------

    def _keep(self, seg: SegmentFacts) -> None:
        """The files of a segment stay, with what the facts say of it, until no dispute can need them."""
        self.state.facts.pinned.add(seg.segment)
        self._let_go(seg.segment)

    def _let_go(self, segment: SegmentId) -> None:
        facts = self.state.facts
        seg = facts.segments.get(segment)
        if seg is None or segment not in facts.pinned or seg.live:
            return
        if any(d.undecided and self._side(d) is not None for d in facts.disputes_over(segment)):
            return
        if self._disputable(seg):
            if self._now <= seg.settle_after:
                self._do(Wake(key=f"keep:{segment}:{seg.settle_after}", at=seg.settle_after + 1))
            return
        facts.pinned.discard(segment)
        self._drop(seg)
        self._forget_job(seg.job)

    def _on_keep(self, event: Woke, rest: list[str]) -> None:
        self._let_go(SegmentId(int(rest[0])))
