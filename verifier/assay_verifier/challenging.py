"""The verifier's disputes: against a provider whose committed link it has refuted, and against verifiers who agreed with another trace.

    waiting      until it is this node's turn to challenge: the i-th drawn verifier waits i times `patience` (all together at most a quarter of
                 the window), and nobody begins while another's dispute of the same thing is undecided; but when half of the window is over
                 it begins in any case, since the other challenger may be the asserter's friend and throw the game (but not against a vote:
                 who has sealed and finds the vote fallen cannot open; one that the asserter has won holds the segment until it is paid)
    confirming   the link is replayed once more: a fault of this machine must not cost its bond
    showing      against a vote: its trace roots are being shown to the contract, which refuses them when the vote has fallen meanwhile
    sealing      SealDispute, with a salt that only this node knows
    sealed       the chain has it; assay.role.disputes opens it and plays (`Open` is its first move)
    over         won, lost, or nothing is left to win

Only a link whose true inputs are here can be disputed: those that hash to the ends under the committed link root. Who was served a state
that is not the committed one says no and nothing else: the ends that came with it are proven, so what was served is evidence of nothing,
and without the committed state the game cannot be played. It is the same with a committed state that does not fit the program.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from assay import draw, merkle
from assay.chain import ChainEvent, Disclose, DisputeSealed, SealDispute, SegmentState
from assay.dispute.moves import Open
from assay.facts import DisputeFacts, SegmentFacts, Vote
from assay.ids import ZERO_ADDRESS, Digest, SegmentId
from assay.messages import Boundary
from assay.role.disputes import FELL, FIRST_PAUSE, TRIES, pause
from assay.runtime import Do, Failed, Fault, Result, Send, Wake, Woke
from assay.tasks import DropSegment, ReplayUnit, UnitReplayed
from assay_verifier.gathering import Gathering
from assay_verifier.state import Case, Duty, UnitDuty

STANDING = (SegmentState.COMMITTED, SegmentState.DRAWN, SegmentState.SERVED, SegmentState.ATTESTED)
BONDED = (SegmentState.WITHHELD, SegmentState.UNPAID)
UNSEALED = ("waiting", "confirming", "showing")
BEGINNING = ("confirming", "showing", "sealing")
"""One case of a segment at a time: the chain says only that this node has sealed, not what."""


def proven(duty: Duty) -> set[int]:
    """The links that were replayed from the committed states."""
    return {unit.unit for unit in duty.units.values() if unit.replayed is not None and unit.replayed.proven}


class Challenging(Gathering):
    def _replay_task(self, duty: Duty, unit: UnitDuty) -> ReplayUnit | None:
        raise NotImplementedError

    def _checked(self, segment: SegmentId) -> Iterator[Duty]:
        """What this node has found in a segment, the newest draw first."""
        for found in (self.state.duties.get(segment), self.state.past.get(segment)):
            if found is not None:
                yield found

    # ---- suspicion -------------------------------------------------------------------------------------------------------

    def _suspect(self, seg: SegmentFacts) -> None:
        """Begins the cases that what is known by now gives rise to."""
        if not self.config.disputes or not self._open_to_dispute(seg):
            return self._weigh_all(seg.segment)
        for duty in self._checked(seg.segment):
            told = any(vote.verifier == self.config.account and vote.round == duty.round for vote in seg.votes)
            decided = seg.state == SegmentState.ATTESTED or seg.state in BONDED or seg.pardoned is not None
            if told or decided:
                self._suspect_provider(duty, seg)
            if seg.state == SegmentState.ATTESTED:
                self._suspect_votes(duty, seg)
        self._weigh_all(seg.segment)

    @staticmethod
    def _open_to_dispute(seg: SegmentFacts) -> bool:
        """Whether its provider's links can be disputed: it is not over, or its bond stands."""
        return seg.state in STANDING or ((seg.state in BONDED or seg.pardoned is not None) and not seg.bond_cleared)

    def _suspect_provider(self, duty: Duty, seg: SegmentFacts) -> None:
        """One link is enough, but where its provider was pardoned for it: that covers no other."""
        begun = {case.opening.unit for case in self.state.cases.values() if case.segment == seg.segment and case.opening.target == 0}
        if begun - {seg.pardoned}:
            return
        for unit in seg.units:
            if unit == seg.pardoned:
                continue
            found = duty.units[unit].replayed if unit in duty.units else None
            if found is not None and found.proven and not found.agrees:
                return self._begin(duty, seg, Open(target=0, unit=unit, verifier=ZERO_ADDRESS, round=0, salt=self._salt(seg, unit)))

    def _suspect_votes(self, duty: Duty, seg: SegmentFacts) -> None:
        """The draw bonds of the last round stand while the segment waits to be settled."""
        for vote in seg.votes:
            if vote.round != seg.round or not vote.agrees or vote.verifier == self.config.account:
                continue
            if any(case.segment == seg.segment and case.opening.verifier == vote.verifier for case in self.state.cases.values()):
                continue
            for unit, root in zip(vote.units, vote.trace_roots, strict=False):
                found = duty.units[unit].replayed if unit in duty.units else None
                if found is not None and found.proven and found.trace_root != root:
                    salt = self._salt(seg, unit)
                    self._begin(duty, seg, Open(target=1, unit=unit, verifier=vote.verifier, round=vote.round, salt=salt))
                    self._do(self._disclosure(vote, seg.segment, self.state.case_count))
                    break

    def _disclosure(self, vote: Vote, segment: SegmentId, number: int) -> Send:
        """The contract has a hash of the vote's trace roots; it must be shown them before the dispute over one of them is opened."""
        shown = Disclose(segment=segment, round=vote.round, verifier=vote.verifier, trace_roots=vote.trace_roots, salt=vote.salt)
        return Send(key=f"disclose:{segment}:{number}", call=self.state.facts.segments[segment].alone(vote.round, shown))

    def _on_disclosed(self, event: Result, rest: list[str]) -> None:
        segment, number = SegmentId(int(rest[0])), int(rest[1])
        case, seg = self.state.cases.get(number), self.state.facts.segments.get(segment)
        if case is None or seg is None:
            return
        if not isinstance(event, Failed):
            case.shown = True
            return self._seal_dispute(case) if case.phase == "showing" else None
        named = [vote for vote in seg.votes if (vote.verifier, vote.round) == (case.opening.verifier, case.opening.round)]
        if event.fault is Fault.OUTAGE and named:
            return self._later(self._disclosure(named[0], segment, number))
        self._close(case, f"the traces of {case.opening.verifier} could not be disclosed: {event.error}")

    def _salt(self, seg: SegmentFacts, unit: int) -> Digest:
        self.state.case_count += 1
        return merkle.sha256(b"dispute", self._seed, draw.u64(seg.segment), draw.u64(unit), draw.u64(self.state.case_count))

    def _begin(self, duty: Duty, seg: SegmentFacts, opening: Open) -> None:
        number = self.state.case_count
        drawn = seg.verifiers if self.config.account in seg.verifiers else (self.config.account,)
        self.state.cases[number] = Case(number, seg.segment, drawn.index(self.config.account), self._now, opening)
        what = "its provider's result" if opening.target == 0 else f"the trace that {opening.verifier} revealed"
        text = f"segment {seg.segment}: link {opening.unit} is to be disputed: {what} is not what comes out here"
        self._note("dispute", text, segment=seg.segment, unit=opening.unit)

    # ---- when ------------------------------------------------------------------------------------------------------------

    def _weigh_all(self, segment: SegmentId) -> None:
        for case in list(self.state.cases.values()):
            if case.segment == segment and case.phase == "waiting":
                self._weigh(case)

    def _weigh(self, case: Case) -> None:
        """Begins the dispute if it is time for it; else wakes when it may be."""
        seg = self.state.facts.segments.get(case.segment)
        if seg is None or not self._winnable(case, seg):
            return self._close(case, "nothing is left to win")
        window = self.state.facts.jobs[seg.job].terms.params.challenge_window
        near = seg.settle_after - window // 2 if seg.settle_after else None
        ready = case.since + case.rank * min(self.config.patience, window // (4 * max(1, len(seg.verifiers))))
        others = [d for d in self.state.facts.disputes_over(seg.segment) if d.undecided and self._same(case, d)]
        busy = any(c.segment == case.segment and c.phase in BEGINNING for c in self.state.cases.values())
        pressing = near is not None and self._now >= near
        if others and (case.opening.target == 1 or not pressing):
            return self._weigh_at(case, near)  # an event tells when it is decided, too
        if self._now < ready and not pressing:
            return self._weigh_at(case, ready if near is None else min(ready, near))
        if busy or self._now < case.not_before:
            return self._weigh_at(case, max(case.not_before, self._now + FIRST_PAUSE))
        case.phase = "confirming"
        case.tries += 1
        found = self._finding(case)
        task = self._replay_task(*found) if found is not None else None
        if task is None:
            return self._close(case, "what it was replayed from is gone")
        self._do(Do(key=f"confirm:{case.number}:{case.tries}", task=msgspec.structs.replace(task, again=True)))

    def _finding(self, case: Case) -> tuple[Duty, UnitDuty] | None:
        """The draw in which the link was replayed from the committed states."""
        for duty in self._checked(case.segment):
            unit = duty.units.get(case.opening.unit)
            if unit is not None and unit.replayed is not None and unit.replayed.proven:
                return duty, unit
        return None

    def _weigh_at(self, case: Case, at: int | None) -> None:
        if at is not None and at > self._now:
            self._do(Wake(key=f"weigh:{case.number}:{at}", at=at))

    def _on_weigh(self, event: Woke, rest: list[str]) -> None:
        case = self.state.cases.get(int(rest[0]))
        if case is not None and case.phase == "waiting":
            self._weigh(case)

    def _winnable(self, case: Case, seg: SegmentFacts) -> bool:
        if case.opening.target == 0:
            return not seg.fallen and case.opening.unit != seg.pardoned and self._open_to_dispute(seg)
        return seg.state == SegmentState.ATTESTED

    def _same(self, case: Case, d: DisputeFacts) -> bool:
        """Whether another's dispute is, or may be, about the same."""
        if d.challenger == self.config.account or d.target == -1:
            return d.challenger != self.config.account
        return d.target == case.opening.target and (d.target == 0 or d.asserter == case.opening.verifier)

    # ---- sealing ---------------------------------------------------------------------------------------------------------

    def _on_confirm(self, event: Result, rest: list[str]) -> None:
        case = self.state.cases.get(int(rest[0]))
        if case is None or case.phase != "confirming":
            return
        if isinstance(event, Failed):
            return self._back(case, event.error)
        found: UnitReplayed = self._outcome(event, UnitReplayed)
        finding = self._finding(case)
        before = finding[1].replayed if finding is not None else None
        if before is None or not found.proven or (found.agrees, found.trace_root) != (before.agrees, before.trace_root):
            text = f"segment {case.segment}: link {case.opening.unit} does not come out as before: check this machine's memory; it disputes nothing"
            self._note("error", text, segment=case.segment)
            return self._close(case, "this node's own replay is not to be trusted")
        if case.opening.target == 1 and not case.shown:
            case.phase = "showing"
        else:
            self._seal_dispute(case)

    def _seal_dispute(self, case: Case) -> None:
        case.phase = "sealing"
        digest = draw.dispute(self.config.chain_id, self.config.disputes, case.segment, self.config.account, case.opening)
        self._do(Send(key=f"dispute:{case.number}:{case.tries}", call=SealDispute(segment=case.segment, digest=digest)))

    def _on_dispute(self, event: Result, rest: list[str]) -> None:
        case = self.state.cases.get(int(rest[0]))
        if case is not None and case.phase == "sealing" and isinstance(event, Failed):
            self._back(case, event.error)  # else DisputeSealed, when it is final, gives it its number
            self._weigh_all(case.segment)

    def _back(self, case: Case, why: str) -> None:
        """Once more after a pause that grows, some times."""
        text = f"segment {case.segment}: the dispute over link {case.opening.unit} could not be begun: {why}; has {self.config.account} the bond?"
        self._note("error", text, segment=case.segment, reason=why)
        if case.tries >= TRIES:
            return self._close(case, why)
        case.phase, case.not_before = "waiting", self._now + pause(case.tries)
        self._weigh_at(case, case.not_before)

    def _close(self, case: Case, why: str) -> None:
        if case.phase != "over":
            case.phase = "over"
            self._note("dispute", f"segment {case.segment}: link {case.opening.unit} is not disputed (any more): {why}", segment=case.segment)
            self._let_go(case.segment)

    # ---- playing ---------------------------------------------------------------------------------------------------------

    def _case(self, d: DisputeFacts) -> Case | None:
        return next((case for case in self.state.cases.values() if case.dispute == d.dispute), None)

    def _dispute_seen(self, event: ChainEvent, d: DisputeFacts) -> None:
        if isinstance(event, DisputeSealed) and d.challenger == self.config.account:
            sealing = (c for c in self.state.cases.values() if c.segment == d.segment and c.phase == "sealing")
            case = next(sealing, None)
            if case is not None:
                case.phase, case.dispute = "sealed", d.dispute
        seg = self.state.facts.segments.get(d.segment)
        if d.outcome is not None and seg is not None and seg.pardoned is not None:
            self._suspect(seg)
        if d.outcome is not None:
            case = self._case(d)
            if case is not None:
                self._close(case, f"dispute {d.dispute} is decided: {d.outcome}")
            if d.target == 1 and d.outcome in FELL:
                for other in list(self.state.cases.values()):
                    if (other.segment, other.opening.verifier) == (d.segment, d.asserter) and other.phase in UNSEALED:
                        self._close(other, "another has brought the vote down")
        self._weigh_all(d.segment)

    def _opening(self, d: DisputeFacts) -> Open | None:
        case = self._case(d)
        return case.opening if case is not None else None

    def _served(self, d: DisputeFacts) -> Boundary | None:
        for duty in self._checked(d.segment):
            unit = duty.units.get(d.unit)
            if unit is not None and unit.boundary is not None:
                return unit.boundary
        return None

    # ---- files -----------------------------------------------------------------------------------------------------------

    def _part(self, duty: Duty, seg: SegmentFacts) -> None:
        """A draw is over: what was replayed in it stays while a dispute may need it."""
        replayed = any(unit.replayed is not None for unit in duty.units.values())
        earlier = self.state.past.get(duty.segment)
        if self.config.disputes and (replayed or earlier is not None):
            if earlier is None or proven(duty) >= proven(earlier):  # what was served later may be worth less
                self.state.past[duty.segment] = duty
            self._keep(seg)
        else:
            self._do(Do(key=f"drop:{duty.segment}:{duty.round}", task=DropSegment(segment=duty.segment)))

    def _disputable(self, seg: SegmentFacts) -> bool:
        """While it has a case itself: whoever has won disputes nothing of it."""
        return any(case.segment == seg.segment and case.phase != "over" for case in self.state.cases.values())

    def _drop(self, seg: SegmentFacts) -> None:
        duty = self.state.past.pop(seg.segment, None)
        for case in [case for case in self.state.cases.values() if case.segment == seg.segment]:
            del self.state.cases[case.number]
        if duty is not None:
            self._do(Do(key=f"drop:{duty.segment}:{duty.round}", task=DropSegment(segment=duty.segment)))
