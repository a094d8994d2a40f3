"""The audit's way through disputes: their bonds, what they decide about a segment, and what they pay. The moves themselves are played again
from the public record of each dispute (`games`): the verdict must be the one that the game reaches."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from assay import chain
from assay.audit.books import Seg, told
from assay.audit.ends import Ends
from assay.audit.record import Entry
from assay.chain import Outcome, SegmentState
from assay.dispute.moves import WALK_LINKS, Facts, Moment, Revealed, Verdict
from assay.dispute.record import Disputed, facts_of
from assay.dispute.showing import Shown
from assay.ids import Address, DisputeId

STANDING = (SegmentState.DRAWN, SegmentState.SERVED, SegmentState.ATTESTED)
BONDED = (SegmentState.WITHHELD, SegmentState.UNPAID)
FELL = (Outcome.ASSERTER_LOST, Outcome.CONCEDED)
VERDICTS = {
    Verdict.ASSERTER: Outcome.ASSERTER_WON, Verdict.CHALLENGER: Outcome.ASSERTER_LOST, Verdict.CONCEDED: Outcome.CONCEDED,
    Verdict.VOID: Outcome.VOID,
}  # fmt: skip


@dataclass(slots=True)
class Case:
    number: DisputeId
    seg: Seg
    challenger: Address
    stake: int
    asserter: Address
    target: int = 0
    unit: int = 0
    round: int = 0
    outcome: Outcome | None = None
    bond: int = 0
    """What the asserter had reserved when it was decided."""
    taken: int = 0
    pay_after: int = 0
    over: bool = False
    """It keeps the segment no longer."""
    paid: bool = False
    gone: bool = False
    """The vote that it was about has fallen, or ended with its segment, before it was opened: that gives the bond back."""
    shown: Shown = Shown()  # noqa: RUF009
    """Records of the job's data, as the contract has told it."""
    showing: int = 0
    """What their owners get of what the loser loses."""
    owed: Counter[tuple[Address, int]] = field(default_factory=Counter)


class Disputes(Ends):
    of_owners = 0
    """Set aside for the owners of records by the event before."""

    # ---- beginning -------------------------------------------------------------------------------------------------------

    def dispute_sealed(self, event: chain.DisputeSealed, seg: Seg) -> None:
        check, rules = seg.sheet.check, self.record.rules
        bonded = (seg.state in BONDED or seg.pardoned is not None) and self.stakes.reservation(seg.provider, seg.number) > 0
        check("dispute", seg.state in STANDING or bonded, f"{told(event)} in the state {seg.state.name}, in which nothing can be disputed")
        if rules is not None:
            party = event.challenger == self.books.jobs[seg.job].client or any(event.challenger in r.verifiers for r in seg.rounds.values())
            stake = rules.bond if party else rules.bond << min(seg.disputes, 64)
            check("dispute", event.bond == stake, f"its challenger locked {event.bond}, the rules make it {stake}")
            self.window(seg, event, event.open_by, event.time, rules.open_window)
        self.cases[event.dispute] = Case(event.dispute, seg, event.challenger, event.bond, seg.provider)
        seg.disputes += 1

    def dispute_opened(self, event: chain.DisputeOpened, case: Case) -> None:
        seg, who = case.seg, event.asserter
        case.asserter, case.target, case.unit, case.round = who, event.target, event.unit, event.round
        if event.target == 0:
            seg.sheet.check("dispute", who == seg.provider, f"{told(event)} names {who}, who is not its provider")
            return
        vote = seg.rounds[event.round].votes.get(who) if event.round in seg.rounds else None
        agreed = who in seg.fallen or (vote is not None and vote.agrees)
        seg.sheet.check("dispute", agreed, f"{who} said no yes in round {event.round} that could be disputed")
        seg.holds[who] += 1

    # ---- ends ------------------------------------------------------------------------------------------------------------

    def dispute_resolved(self, event: chain.DisputeResolved, case: Case) -> None:
        seg, check, fell = case.seg, case.seg.sheet.check, event.outcome in FELL
        check("dispute", case.outcome is None, f"dispute {event.dispute} was decided twice")
        record = self.record.disputes.get(event.dispute)
        opened_only = record is not None and len(record.moves) == 1 and event.outcome is Outcome.VOID and case.target == 1
        case.gone = opened_only and (case.asserter in seg.fallen or seg.state in chain.TERMINAL)
        case.bond = self.stakes.reservation(case.asserter, seg.number)
        right = (case.bond // 2 if event.outcome is Outcome.CONCEDED else case.bond) if fell else 0
        if event.outcome is Outcome.CONCEDED and event.taken == 0 and right:
            right = self._pardoned(seg, case)
        check("money", event.taken == right, f"dispute {event.dispute} took {event.taken} of {case.asserter}'s bond of {case.bond}, not {right}")
        if self.record.rules is not None:
            self.window(seg, event, event.pay_after, event.time, 0 if case.gone else self.record.rules.payout_delay)
        case.outcome, case.taken, case.pay_after = event.outcome, event.taken, event.pay_after
        seg.slashes += event.taken
        if case.target == 1:
            self._vote_decided(seg, case, fell)
        if fell:
            self._let_go(case)
            if seg.state == SegmentState.WITHHELD and case.target == 0:
                self._bear_out(seg)
            seg.falls = case.target == 0 and seg.state not in chain.TERMINAL

    def _pardoned(self, seg: Seg, case: Case) -> int:
        """What a concession must take that took nothing: nothing, where the contract has told that it pardons that link."""
        return 0 if case.target == 0 and seg.pardoned is not None and case.unit in (seg.pardoned, WALK_LINKS) else case.bond // 2

    def pardoned(self, entry: Entry, event: chain.Pardoned, seg: Seg) -> None:
        """Told just before the concession; how many settled segments it takes, the network's rules say."""
        check, rules, count = seg.sheet.check, self.record.rules, self.books.settled[seg.provider]
        told_all = seg.state in (SegmentState.ATTESTED, SegmentState.WITHHELD) or (seg.state == SegmentState.SERVED and self._seals_over(seg, event))
        check("dispute", told_all, f"its provider is pardoned in the state {seg.state.name}, before every verifier has had its time")
        check("dispute", seg.pardoned is None, f"its provider is pardoned twice: for link {seg.pardoned}, and {event.unit}")
        if rules is not None:
            enough = 0 < rules.pardon_after <= count and self.books.jobs[seg.job].terms.params.links != 1
            check("dispute", enough, f"its provider is pardoned after {count} settled segments; the rules make it {rules.pardon_after}")
        window = self.books.jobs[seg.job].terms.params.challenge_window
        self.window(seg, event, event.until, event.time, window)
        self.books.settled[seg.provider], seg.pardoned, seg.settle_after = 0, event.unit, event.until

    @staticmethod
    def _seals_over(seg: Seg, event: chain.Pardoned) -> bool:
        return seg.all_sealed or event.time > seg.seal_by

    def _bear_out(self, seg: Seg) -> None:
        """Those who said no to a withheld segment earn as if they had attested."""
        fee = self.books.jobs[seg.job].terms.fee
        if seg.held:
            seg.held = 0
            noes = (who for round in seg.rounds.values() for who, vote in round.votes.items() if vote.opened and not vote.agrees)
            seg.owed += Counter((who, fee, "fee") for who in noes)

    def _vote_decided(self, seg: Seg, case: Case, fell: bool) -> None:
        """A vote that fell counts no more and is not paid; a draw bond that was held beyond the segment's end is free."""
        who = case.asserter
        seg.holds[who] -= 1
        committee = seg.rounds.get(case.round)
        if fell and committee is not None:
            seg.fallen.add(who)
            committee.votes.pop(who, None)
            committee.digests.pop(who, None)
        if not seg.holds[who] and seg.state in chain.TERMINAL:
            if case.taken:
                seg.freed.append(who)  # when it has been slashed
            else:
                self.stakes.release(who, seg.number)

    def slashed(self, event: chain.Slashed, seg: Seg) -> None:
        seg.sheet.check("money", event.amount == seg.slashes, f"{event.who} was slashed by {event.amount}, the disputes made it {seg.slashes}")
        seg.slashes = 0

    def dispute_paid(self, event: chain.DisputePaid, case: Case) -> None:
        seg, check = case.seg, case.seg.sheet.check
        by_guardian = event.outcome is Outcome.VOID and case.outcome is not Outcome.VOID
        if event.outcome is not Outcome.VOID:
            self.after(seg, event, case.pay_after)
            check("dispute", event.outcome is case.outcome, f"dispute {event.dispute} was paid as {event.outcome}, it was decided as {case.outcome}")
        check("dispute", not case.paid, f"dispute {event.dispute} was paid twice")
        taken, stake = case.taken, case.stake
        asserter, challenger = {
            Outcome.ASSERTER_WON: (stake - stake // 2, 0), Outcome.ASSERTER_LOST: (0, stake + taken - taken // 2), Outcome.CONCEDED: (0, stake),
            Outcome.VOID: (taken, stake),
        }[event.outcome]  # fmt: skip
        burnt, most, owners = stake + taken - asserter - challenger, 0, case.showing
        if event.outcome is Outcome.ASSERTER_WON:
            burnt, most = burnt - owners, burnt
        elif event.outcome is Outcome.ASSERTER_LOST:
            challenger, most = challenger - owners, taken // 4
        most = most if case.shown.records else 0
        check("money", owners <= most, f"dispute {event.dispute} sets {owners} aside for owners, at most {most} may be")
        right = (asserter, challenger, burnt)
        said = (event.to_asserter, event.to_challenger, event.burnt)
        check("money", said == right, f"dispute {event.dispute} paid (asserter, challenger, burnt) {said}, the rules make it {right}")
        case.owed = Counter({(who, amount): 1 for who, amount in ((case.asserter, asserter), (case.challenger, challenger)) if amount})
        case.paid = True
        self.owes(seg, event, Counter())
        waited = not case.over
        self._let_go(case)
        if waited and event.outcome is Outcome.VOID and case.target == 0 and not seg.disputes:
            seg.voids = seg.state not in chain.TERMINAL
        if by_guardian and self.audited(seg):
            check("dispute", None, f"dispute {event.dispute} was declared void after it was decided: by the guardian, on grounds that no chain has")

    def records_shown(self, event: chain.RecordsShown, case: Case) -> None:
        case.shown = Shown(event.first, event.count)

    def showing_owed(self, event: chain.ShowingOwed, case: Case) -> None:
        """Told before DisputePaid; the credit that follows is of the contract that pays the owners."""
        once = not case.showing and not case.paid
        case.seg.sheet.check("money", once, f"dispute {event.dispute} sets something aside for owners twice, or too late")
        case.showing = event.amount
        self.of_owners = event.amount

    def dispute_credited(self, event: chain.DisputeCredited, case: Case) -> None:
        if self.of_owners:
            right, self.of_owners = event.amount == self.of_owners, 0
            case.seg.sheet.check("money", right, f"dispute {event.dispute} credited {event.amount}, which is not what is set aside for owners")
            return
        right = case.owed[event.who, event.amount] > 0
        case.seg.sheet.check("money", right, f"dispute {event.dispute} credited {event.who} with {event.amount}, which its outcome does not explain")
        case.owed[event.who, event.amount] -= right

    @staticmethod
    def _let_go(case: Case) -> None:
        if not case.over:
            case.over = True
            case.seg.disputes -= 1

    # ---- the games -------------------------------------------------------------------------------------------------------

    def facts_of(self, case: Case) -> Facts | None:
        """What its contracts know of a dispute; None where the record lacks it."""
        seg, record, rules = case.seg, self.record.disputes.get(case.number), self.record.rules
        if record is None or rules is None or not seg.link_root:
            return None
        job = self.books.jobs[seg.job]
        above = self.books.segs[seg.parent].end_root if seg.parent else job.terms.state_root
        assert above is not None
        revealed = tuple(
            Revealed(verifier=who, round=round, unit=unit, agrees=vote.agrees, trace_root=root)
            for round, who, vote in seg.told
            for unit, root in zip(seg.units, vote.trace_roots, strict=False)
        )
        about = Disputed(
            segment=seg.number, start=seg.start, stop=seg.stop, parent_end=above, link_root=seg.link_root,
            bond=case.bond if case.outcome else self.stakes.reservation(case.asserter, seg.number), revealed=revealed,
        )  # fmt: skip
        return facts_of(record, rules, self.record.chain_id, self.record.disputes_contract, job.terms, about)

    def games(self) -> None:
        """Every dispute over the audited job, played again."""
        from assay.dispute import game, showing
        from assay.dispute.checks import IllegalMove

        for case in self.cases.values():
            if not self.audited(case.seg) or case.outcome is None:
                continue
            check, facts, record = case.seg.sheet.check, self.facts_of(case), self.record.disputes.get(case.number)
            if facts is None or record is None:
                check("dispute", None, f"the moves of dispute {case.number} cannot be had")
                continue
            state, shown = game.sealed(facts, record.digest, Moment(record.block, record.time)), Shown()
            try:
                for played in record.moves:
                    before = state
                    state = game.apply(state, played.move, Moment(played.block, played.time))
                    shown = showing.noted(shown, before, played.move)
            except IllegalMove as error:
                check("dispute", False, f"dispute {case.number} has a move that the game does not take: {error}")
                continue
            if state.verdict is None and case.gone:
                continue
            if state.verdict is None:
                why = "its deciding move was made by way of another contract, whose calldata do not show it"
                check("dispute", None, f"dispute {case.number} cannot be played to its end: {why}")
                continue
            seen = f"dispute {case.number} has shown {case.shown.records} records from place {case.shown.first} on"
            check("dispute", shown == case.shown, f"{seen}, its moves make it {shown.records} from {shown.first} on")
            found = VERDICTS[state.verdict]
            check("dispute", found is case.outcome, f"dispute {case.number} was decided as {case.outcome}; its moves make it {found}: {state.reason}")

    def unpaid_disputes(self) -> None:
        """After the last event: what was told as paid, and was not credited."""
        for case in self.cases.values():
            for who, amount in (+case.owed).elements():
                case.seg.sheet.check("money", False, f"dispute {case.number} was paid, and {amount} were not credited to {who}")
