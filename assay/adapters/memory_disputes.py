"""The `Disputes` contract in Python: the game of assay.dispute.game between accounts of the ledger, with the bonds and the segments that it
locks, slashes and lets go. Rules and refusals are those of contracts/src/Disputes.sol and docs/dispute.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from assay import chain
from assay.adapters.memory_committee import Committee
from assay.adapters.memory_records import Check, Segment
from assay.adapters.memory_stakes import BURN, STAKES, Context, Stakes, Token, pseudo_address
from assay.adapters.refusals import refuse
from assay.chain import Outcome, SegmentState
from assay.dispute import game, moves, showing
from assay.dispute.checks import IllegalMove
from assay.dispute.moves import AnyMove, Moment, Phase, Revealed, Side, State, Verdict
from assay.dispute.record import Disputed, Played, Record, Rules, facts_of
from assay.dispute.showing import Shown
from assay.ids import ZERO_ADDRESS, Address, DisputeId, SegmentId

DISPUTES = pseudo_address("disputes")
OUTCOMES = {
    Verdict.ASSERTER: Outcome.ASSERTER_WON, Verdict.CHALLENGER: Outcome.ASSERTER_LOST, Verdict.CONCEDED: Outcome.CONCEDED,
    Verdict.VOID: Outcome.VOID,
}  # fmt: skip
STANDING = (SegmentState.DRAWN, SegmentState.SERVED, SegmentState.ATTESTED)
BONDED = (SegmentState.WITHHELD, SegmentState.UNPAID)
MOST_ALLOWED = 65_535
"""Seconds to replay a link in."""


@dataclass(slots=True)
class Dispute:
    number: DisputeId
    state: State
    asserter: Address
    moves: list[Played] = field(default_factory=list)
    round: int = 0
    target: int = 0
    taken: int = 0
    outcome: Outcome | None = None
    pay_after: int = 0
    paid: bool = False
    shown: Shown = Shown()  # noqa: RUF009
    owed: int = 0
    """Set aside for the owners of what was shown."""


class Disputes:
    """None can be opened where `rules` is None."""

    def __init__(self, token: Token, stakes: Stakes, jobs: Committee, rules: Rules | None) -> None:
        self.token, self.stakes, self.jobs, self._rules = token, stakes, jobs, rules
        self.disputes: dict[DisputeId, Dispute] = {}
        self.credit: dict[Address, int] = {}
        self.asked: Callable[[SegmentId, int], int] = lambda segment, count: 0
        """The most that owners ask for so many records of a segment's job (memory_showings)."""
        self.showings = ZERO_ADDRESS

    @property
    def rules(self) -> Rules:
        if self._rules is None:
            raise refuse("NoDisputes")
        return self._rules

    def dispute(self, number: DisputeId) -> Dispute:
        if number not in self.disputes:
            raise refuse("NoSuchDispute", id=number)
        return self.disputes[number]

    def record(self, number: DisputeId) -> Record:
        """Raises KeyError."""
        d = self.disputes[number]
        facts = d.state.facts
        return Record(
            dispute=number, segment=SegmentId(facts.segment), challenger=facts.challenger, asserter=d.asserter, stake=facts.stake,
            allowance=facts.allowance, digest=d.state.digest, block=d.state.opened.block, time=d.state.opened.time,
            moves=tuple(d.moves), outcome=d.outcome, paid=d.paid,
        )  # fmt: skip

    def run(self, ctx: Context, who: Address, call: chain.DisputeCall) -> None:
        match call:
            case chain.SealDispute():
                self.seal(ctx, who, call)
            case chain.PlayMove():
                self.play(ctx, who, call)
            case chain.PayDispute():
                self.pay(ctx, who, call.dispute)
            case chain.ClearDisputed():
                self.clear(ctx, call.segment)
            case chain.WithdrawDisputes():
                self.withdraw(ctx, who)

    # ---- beginning

    def bond_of(self, number: SegmentId, who: Address) -> int:
        """Twice as much for every dispute that is open on the segment, but for drawn verifiers and the client."""
        seg = self.jobs.segment(number)
        drawn = any(check.verifier == who for checks in seg.rounds for check in checks)
        if drawn or who == self.jobs.jobs[seg.job].client:
            return self.rules.bond
        return self.rules.bond << seg.disputes

    def seal(self, ctx: Context, who: Address, call: chain.SealDispute) -> None:
        seg = self.jobs.segment(call.segment)
        if seg.state not in STANDING and not ((seg.state in BONDED or seg.pardoned is not None) and seg.bonded):
            raise refuse("WrongState", segment=call.segment, state=seg.state)
        bond = self.bond_of(call.segment, who)
        self.token.move(who, DISPUTES, bond)
        number = DisputeId(len(self.disputes) + 1)
        terms = self.jobs.jobs[seg.job].terms
        allowance = min((seg.disputes + 1) * terms.params.seal_window, MOST_ALLOWED)
        record = Record(
            dispute=number, segment=call.segment, challenger=who, asserter=seg.provider, stake=bond, allowance=allowance, digest=call.digest,
            block=ctx.number, time=ctx.time, moves=(), outcome=None, paid=False,
        )  # fmt: skip
        parent = self.jobs.segments[seg.parent].end_root if seg.parent else terms.state_root
        reserved = self.stakes.reservation(seg.provider, call.segment)
        about = Disputed(segment=call.segment, start=seg.start, stop=seg.stop, parent_end=parent, link_root=seg.link_root, bond=reserved, revealed=())
        facts = facts_of(record, self.rules, ctx.chain_id, DISPUTES, terms, about)
        self.disputes[number] = Dispute(number, game.sealed(facts, call.digest, Moment(ctx.number, ctx.time)), seg.provider)
        seg.disputes += 1
        open_by = ctx.time + self.rules.open_window
        ctx.emit(chain.DisputeSealed, dispute=number, segment=call.segment, challenger=who, bond=bond, open_by=open_by, allowance=allowance)

    def _open(self, ctx: Context, d: Dispute, move: moves.Open) -> bool:
        """What the segment has revealed by now, and from then on the bond of whoever is disputed. Whether that is a vote that fell, or whose
        bond came free with the segment's end, since the seal: whoever sealed could not know."""
        seg = self.jobs.segments[SegmentId(d.state.facts.segment)]
        d.state = d.state._replace(facts=self._with_votes(d.state.facts, seg))
        self._apply(ctx, d, move)
        d.target, d.round = move.target, move.round
        if move.target == 1:
            check = self._vote(seg, move.round, move.verifier)
            if self._is_gone(seg, check, d.state.opened.time):
                return True
            if not check.revealed:
                raise refuse("NotRevealed", verifier=move.verifier)
            if not check.bonded:
                raise refuse("NoBond", segment=seg.number)
            if not check.disclosed:
                raise refuse("NotDisclosed", segment=seg.number, verifier=move.verifier)
            check.disputes += 1
            d.asserter = move.verifier
        ctx.emit(chain.DisputeOpened, dispute=d.number, segment=seg.number, asserter=d.asserter, target=move.target, unit=move.unit, round=move.round)
        return False

    def _is_gone(self, seg: Segment, check: Check, since: int) -> bool:
        if check.fell_at is not None and check.fell_at >= since:
            return True
        if not check.revealed or not check.agrees or check.bonded or seg.state not in chain.FAILED:
            return False
        stands = seg.state != SegmentState.REJECTED or seg.pardoned is not None
        window = self.jobs.jobs[seg.job].terms.params.challenge_window
        return seg.settle_after >= since + (window if stands else 0)

    def _gone(self, ctx: Context, d: Dispute, move: moves.Open) -> None:
        """The bond goes back."""
        segment = SegmentId(d.state.facts.segment)
        d.asserter, d.outcome, d.pay_after = move.verifier, Outcome.VOID, ctx.time
        d.moves.append(Played(move=move, block=ctx.number, time=ctx.time))
        ctx.emit(chain.DisputeOpened, dispute=d.number, segment=segment, asserter=d.asserter, target=1, unit=move.unit, round=move.round)
        ctx.emit(chain.DisputeResolved, dispute=d.number, segment=segment, outcome=d.outcome, taken=0, pay_after=ctx.time)
        self._pay(ctx, d, waits=True)

    @staticmethod
    def _with_votes(facts: moves.Facts, seg: Segment) -> moves.Facts:
        revealed = tuple(
            Revealed(verifier=check.verifier, round=round, unit=unit, agrees=check.agrees, trace_root=root)
            for round, checks in enumerate(seg.rounds)
            for check in checks
            for unit, root in zip(seg.units, check.trace_roots, strict=False)
            if check.revealed or check.fell_at is not None
        )
        return msgspec.structs.replace(facts, revealed=revealed)

    @staticmethod
    def _vote(seg: Segment, round: int, verifier: Address) -> Check:
        found = next((c for c in seg.rounds[round] if c.verifier == verifier), None) if round < len(seg.rounds) else None
        if found is None:
            raise refuse("NotDrawn", segment=seg.number, verifier=verifier)
        return found

    # ---- moves

    def play(self, ctx: Context, who: Address, call: chain.PlayMove) -> None:
        d = self.dispute(call.dispute)
        move = call.move
        if d.outcome is not None:
            raise refuse("WrongTurn", id=d.number, stand=d.state.phase, asserting=d.state.turn is Side.ASSERTER)
        player = d.asserter if d.state.turn is Side.ASSERTER else d.state.facts.challenger
        if not isinstance(move, moves.Timeout) and who != player:
            raise refuse("NotPlayer", sender=who, player=player)
        before = d.state, d.asserter, d.target, d.round
        try:
            if isinstance(move, moves.Open):
                if self._open(ctx, d, move):
                    return self._gone(ctx, d, move)
            else:
                self._apply(ctx, d, move)
        except Exception:
            d.state, d.asserter, d.target, d.round = before
            raise
        d.moves.append(Played(move=move, block=ctx.number, time=ctx.time))
        if (shown := showing.noted(d.shown, before[0], move)) != d.shown:
            d.shown = shown
            ctx.emit(chain.RecordsShown, dispute=d.number, first=shown.first, count=shown.records)
        if d.state.phase is Phase.RESOLVED:
            # Only who knows the link can be pardoned for it.
            asked = isinstance(move, moves.Concede) and before[0].phase is Phase.TRACED and d.target == 0
            segment, unit = SegmentId(d.state.facts.segment), d.state.unit
            return self._resolve(ctx, d, asked and self.jobs.pardon(ctx, segment, unit, self.rules.pardon_after))
        due = ctx.time + game.left(d.state, ctx.time)
        ctx.emit(chain.DisputeMoved, dispute=d.number, phase=d.state.phase, asserting=d.state.turn is Side.ASSERTER, due=due)

    @staticmethod
    def _apply(ctx: Context, d: Dispute, move: AnyMove) -> None:
        try:
            d.state = game.apply(d.state, move, Moment(ctx.number, ctx.time))
        except IllegalMove as error:
            raise refuse("IllegalMove", reason=str(error)) from None

    # ---- ends

    def _resolve(self, ctx: Context, d: Dispute, pardoned: bool = False) -> None:
        """What the asserter loses is taken at once and paid after the delay; a segment whose provider has lost is rejected at once."""
        assert d.state.verdict is not None
        d.outcome, segment = OUTCOMES[d.state.verdict], SegmentId(d.state.facts.segment)
        fell = d.outcome in (Outcome.ASSERTER_LOST, Outcome.CONCEDED)
        if fell:
            reserved = self.stakes.reservation(d.asserter, segment)
            d.taken = (0 if pardoned else reserved // 2) if d.outcome is Outcome.CONCEDED else reserved
        d.pay_after = ctx.time + self.rules.payout_delay
        ctx.emit(chain.DisputeResolved, dispute=d.number, segment=segment, outcome=d.outcome, taken=d.taken, pay_after=d.pay_after)
        if d.taken:
            self.stakes.release(d.asserter, segment, d.taken)
            self.stakes.account(d.asserter).stake -= d.taken
            ctx.emit(chain.Slashed, who=d.asserter, segment=segment, amount=d.taken, burnt=0)
            self.token.move(STAKES, DISPUTES, d.taken)
        if d.target == 1:
            self._vote_resolved(ctx, d, segment, fell)
        if fell:
            self._let_go(ctx, segment, rejected=d.target == 0)
        if d.outcome is Outcome.VOID:
            self._pay(ctx, d, waits=True)

    def _vote_resolved(self, ctx: Context, d: Dispute, segment: SegmentId, fell: bool) -> None:
        """A vote that fell counts no more and is not paid."""
        seg = self.jobs.segments[segment]
        check = self._vote(seg, d.round, d.asserter)
        check.disputes -= 1
        if fell:
            check.fell_at = ctx.time
            check.digest, check.revealed, check.opened, check.prevailed = None, False, False, False
        if not check.disputes and seg.state in chain.TERMINAL:
            check.bonded = False
            self.stakes.release(d.asserter, segment, self.stakes.reservation(d.asserter, segment))

    def _let_go(self, ctx: Context, number: SegmentId, *, rejected: bool = False, voided: bool = False) -> None:
        seg = self.jobs.segments[number]
        seg.disputes -= 1
        if rejected and seg.state == SegmentState.WITHHELD:
            self.jobs.pay_noes(ctx, seg)
        if seg.state in chain.TERMINAL or not (rejected or (voided and not seg.disputes)):
            return
        if voided:
            self.jobs.release_bond(seg)
        else:
            window = self.jobs.jobs[seg.job].terms.params.challenge_window
            seg.settle_after = ctx.time + (window if seg.pardoned is not None else 0)
        self.jobs.end(ctx, seg, SegmentState.REJECTED if rejected else SegmentState.VOID)
        ctx.emit(chain.Rejected if rejected else chain.Voided, segment=number)

    def pay(self, ctx: Context, who: Address, number: DisputeId) -> None:
        d = self.dispute(number)
        if d.outcome is None or d.paid:
            raise refuse("WrongTurn", id=number, stand=d.state.phase, asserting=d.state.turn is Side.ASSERTER)
        ctx.need_after(d.pay_after)
        self._pay(ctx, d, waits=d.outcome is Outcome.ASSERTER_WON)

    def _pay(self, ctx: Context, d: Dispute, waits: bool) -> None:
        assert d.outcome is not None
        stake, d.paid = d.state.facts.stake, True
        to_asserter = to_challenger = 0
        match d.outcome:
            case Outcome.ASSERTER_WON:
                to_asserter = stake - stake // 2
            case Outcome.ASSERTER_LOST:
                to_challenger = stake + d.taken - d.taken // 2
            case Outcome.CONCEDED:
                to_challenger = stake
            case Outcome.VOID:
                to_asserter, to_challenger = d.taken, stake
        burnt = stake + d.taken - to_asserter - to_challenger
        if d.shown.records and d.outcome in (Outcome.ASSERTER_WON, Outcome.ASSERTER_LOST):
            won = d.outcome is Outcome.ASSERTER_WON
            d.owed = min(self.asked(SegmentId(d.state.facts.segment), d.shown.records), burnt if won else d.taken // 4)
            burnt, to_challenger = (burnt - d.owed, to_challenger) if won else (burnt, to_challenger - d.owed)
        if d.owed:
            ctx.emit(chain.ShowingOwed, dispute=d.number, amount=d.owed)
            self._credit(ctx, self.showings, d.number, d.owed)
        ctx.emit(chain.DisputePaid, dispute=d.number, outcome=d.outcome, to_asserter=to_asserter, to_challenger=to_challenger, burnt=burnt)
        for who, amount in ((d.asserter, to_asserter), (d.state.facts.challenger, to_challenger)):
            if amount:
                self._credit(ctx, who, d.number, amount)
        if waits:
            self._let_go(ctx, SegmentId(d.state.facts.segment), voided=d.outcome is Outcome.VOID and d.target == 0)
        self.token.move(DISPUTES, BURN, burnt)

    def _credit(self, ctx: Context, who: Address, number: DisputeId, amount: int) -> None:
        self.credit[who] = self.credit.get(who, 0) + amount
        ctx.emit(chain.DisputeCredited, who=who, dispute=number, amount=amount)

    def clear(self, ctx: Context, number: SegmentId) -> None:
        seg = self.jobs.segment(number)
        rejected = seg.state == SegmentState.REJECTED and ctx.time >= seg.settle_after
        if not rejected and not (seg.state == SegmentState.WITHHELD and ctx.time > seg.settle_after):
            raise refuse("NothingToClear", segment=number)
        self.jobs.clear_disputed(ctx, seg)

    def withdraw(self, ctx: Context, who: Address) -> None:
        amount = self.credit.get(who, 0)
        if not amount:
            raise refuse("NothingToWithdraw", who=who)
        self.credit[who] = 0
        self.token.move(DISPUTES, who, amount)
        ctx.emit(chain.DisputeWithdrawn, who=who, amount=amount)
