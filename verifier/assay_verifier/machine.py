"""The verifier's logic: for every draw of this node, get what is to be checked, replay it, and say what came of it under seal.

    phase      what happens                                                               ends with
    gathering  document, program, shards, keys; the boundary of each drawn link from      ready
               its provider, opened. Nothing usable served -> asked again, no receipt
    ready      the provider gets a signed receipt; every drawn link is replayed           replayed
    replayed   waits until the contract says that the draw is served                      sealed
    sealed     a hash of (agrees, trace roots, salt) is signed and handed to the         opened (all sealed: the vote is handed over with the
               provider, who brings all; sent as `attest` when nobody brought it         openings, once their block is there), or revealed
                                                                                          (nobody brought it; not all have sealed, or half of
                                                                                          the time is over: without openings)
    revealed   `reveal` is sent                                                           opened (it had the openings, or they are due)
    opened     the drawn leaves of the traces are opened                                  the segment's end, or another draw
    failed     it cannot be done, or not in time: the reason is noted                     the same

When the last round gives no quorum of receipts, the provider may show a chunk on chain instead: then the draw counts as served, and a
verifier that has been given nothing to check waits a while longer and says no.

A link does not agree when its replay ends elsewhere than committed, or when the states that the provider served are not those that
it committed to: that is evidence against it. A provider who serves nothing that can be read gets no receipt, and no verdict.
Several duties live side by side; a new draw of a segment replaces the old one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from assay import draw
from assay.chain import (
    AnyCall,
    Assigned,
    Drawn,
    JobPosted,
    KeyReleased,
    Opened,
    Opening,
    OpeningsDue,
    Redrawn,
    Reveal,
    RevealAll,
    RevealsDue,
    Sealed,
    SegmentState,
    Served,
    Terms,
)
from assay.codec import Message
from assay.facts import SegmentFacts
from assay.ids import SegmentId
from assay.messages import ReceiptMessage, Refusal
from assay.role import PAUSE
from assay.runtime import AnyEvent, Ask, Asked, Cancel, Do, Failed, Fault, Ordered, Reply, Result, Send, Wake, Woke
from assay.tasks import (
    MakeOpenings,
    OpeningsMade,
    ReplayUnit,
    SayUnserved,
    Signed,
    SignReceipt,
    UnitReplayed,
)
from assay_verifier.challenging import Challenging
from assay_verifier.gathering import ASK_AGAIN
from assay_verifier.handing import Handing
from assay_verifier.state import Duty, UnitDuty, VerifierConfig, VerifierState

UNSERVED = 4
"""This part of the time to seal is left when who was not served gives up waiting, and says no."""


class VerifierMachine(Challenging, Handing):
    """See the module's comment. `handle` is pure."""

    SOFT: tuple[type[Message], ...] = ()
    state: VerifierState

    def __init__(self, config: VerifierConfig) -> None:
        super().__init__(config)
        self.config = config
        self.state = VerifierState()
        self._kinds |= {
            "boundary": self._on_boundary, "reask": self._on_reask, "bfetch": self._on_bfetch, "bkey": self._on_bkey,
            "bopen": self._on_bopen, "sign": self._on_sign, "receipt": self._on_receipt, "replay": self._on_replay,
            "unserved": self._on_unserved, "seal": self._on_seal, "unsealed": self._on_unsealed, "reveal": self._on_reveal,
            "sealing": self._on_sealing, "hand": self._on_hand, "alone": self._on_alone,
            "openings": self._on_openings, "open": self._on_open, "drop": self._on_drop, "weigh": self._on_weigh,
            "confirm": self._on_confirm, "dispute": self._on_dispute, "disclose": self._on_disclosed,
        }  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """For `assay verifier status`."""
        duties = [duty for duty in self.state.duties.values() if duty.segment in self.state.facts.segments]
        due = [self._terms(duty).fee for duty in duties if duty.reveal is not None and duty.reveal.agrees]
        return {
            "checks_done": self.state.done,
            "disagreed": self.state.disagreed,
            "disputes": [{"segment": c.segment, "link": c.opening.unit, "phase": c.phase, "dispute": c.dispute} for c in self.state.cases.values()],
            "duties": [self._told(duty) for duty in duties],
            "refused_jobs": {str(job): entry.reason for job, entry in self.state.jobs.items() if entry.reason},
            **self._account(sum(due)),
        }

    def _terms(self, duty: Duty) -> Terms:
        return self.state.facts.jobs[self.state.facts.segments[duty.segment].job].terms

    def _told(self, duty: Duty) -> dict[str, Any]:
        """What it may earn by a duty, and what it risks."""
        terms, agrees = self._terms(duty), None if duty.reveal is None else duty.reveal.agrees
        return {
            "segment": duty.segment, "job": self.state.facts.segments[duty.segment].job, "round": duty.round, "phase": duty.phase,
            "links": sorted(duty.units), "agrees": agrees, "fee": terms.fee, "bond": terms.params.draw_bond,
        }  # fmt: skip

    def _other(self, event: AnyEvent) -> None:
        match event:
            case Asked(ask=ask):
                self._do(Reply(ask=ask, message=Refusal(reason="this node is a verifier: it answers no requests")))
            case Ordered(order="drain" | "resume"):
                self._note("order", "a verifier answers for its seats until it has left them: nothing to drain")
            case Ordered(order=order):
                self._note("order", f"a verifier does not know the order {order!r}; it knows withdraw")

    # ---- the chain -------------------------------------------------------------------------------------------------------

    def _chain(self, event: Any) -> None:
        if isinstance(event, JobPosted | Assigned):
            return
        seg = self.state.facts.segments.get(getattr(event, "segment", SegmentId(0)))
        if seg is None:
            return
        if isinstance(event, Drawn) and self.config.account in event.verifiers:
            return self._drawn(seg)
        duty = self.state.duties.get(seg.segment)
        self._suspect(seg)
        if duty is not None:
            self._follow(duty, seg, event)

    def _follow(self, duty: Duty, seg: SegmentFacts, event: Any) -> None:
        match event:
            case Redrawn():
                text = f"segment {seg.segment}: the draw came to nothing: {event.reason}"
                self._note("redrawn", text, segment=seg.segment, reason=event.reason)
                self._end(duty)
            case KeyReleased(recipient=self.config.account, by=by) if by not in duty.grants:
                duty.grants.append(by)
                self._maybe_ready(duty)
            case Served():
                self._do(Wake(key=f"unsealed:{seg.segment}:{seg.round}", at=seg.seal_by + 1))
                if seg.asked_block:
                    left = self.state.facts.jobs[seg.job].terms.params.seal_window // UNSERVED
                    self._do(Wake(key=f"unserved:{seg.segment}:{seg.round}", at=seg.seal_by - left))
                self._maybe_seal(duty, seg)
            case Sealed(verifier=self.config.account) if duty.phase == "sealed" and not duty.alone:
                self._note("sealed", f"segment {duty.segment}: sealed what was found", segment=duty.segment, round=duty.round)
            case Opened(verifier=self.config.account) if duty.phase == "sealed":
                self._opened(duty)
            case RevealsDue():
                self._do(Wake(key=f"unsealed:{seg.segment}:{seg.round}", at=(self._now + seg.reveal_by + 1) // 2))
                if duty.phase == "sealed" and self.config.account not in seg.sealed:
                    self._fail(duty, "the time to seal is over, and its seal is not on the chain")
                elif duty.phase == "sealed":
                    self._make_openings(duty, seg)
            case OpeningsDue():
                if duty.phase == "revealed":
                    self._make_openings(duty, seg)
            case _ if not seg.live:
                self._end(duty)

    def _end(self, duty: Duty) -> None:
        self._unneed(duty.segment)
        for unit in duty.units.values():
            if unit.boundary is None:
                self._do(Cancel(key=f"boundary:{duty.segment}:{duty.round}:{unit.unit}:{unit.asks}"))
            elif not unit.fetched:
                self._do(Cancel(key=f"bfetch:{duty.segment}:{duty.round}:{unit.unit}:{unit.asks}"))
        del self.state.duties[duty.segment]
        self._part(duty, self.state.facts.segments[duty.segment])

    def _on_drop(self, event: Result, rest: list[str]) -> None:
        if isinstance(event, Failed):
            self._note("error", f"segment {rest[0]}: its files could not be removed: {event.error}")

    # ---- receipt ---------------------------------------------------------------------------------------------------------

    def _maybe_ready(self, duty: Duty) -> None:
        """All is there: a receipt, and to work."""
        if duty.phase != "gathering" or not self._granted(duty) or not all(unit.opened for unit in duty.units.values()):
            return
        duty.phase = "ready"
        seg = self.state.facts.segments[duty.segment]
        if seg.state == SegmentState.DRAWN:
            task = SignReceipt(segment=duty.segment, round=duty.round)
            self._do(Do(key=f"sign:{duty.segment}:{duty.round}", task=task))
        for unit in duty.units.values():
            self._replay(duty, unit)

    def _duty(self, rest: list[str]) -> tuple[Duty, SegmentFacts] | None:
        duty = self.state.duties.get(SegmentId(int(rest[0])))
        seg = self.state.facts.segments.get(SegmentId(int(rest[0])))
        return (duty, seg) if duty is not None and seg is not None and duty.round == int(rest[1]) else None

    def _on_sign(self, event: Result, rest: list[str]) -> None:
        found = self._duty(rest)
        if found is None:
            return
        duty, seg = found
        if isinstance(event, Failed):
            return self._note("error", f"segment {duty.segment}: the receipt could not be signed: {event.error}")
        signed: Signed = self._outcome(event, Signed)
        message = ReceiptMessage(segment=duty.segment, round=duty.round, verifier=self.config.account, signature=signed.signature)
        patience = max(ASK_AGAIN, seg.serve_by - self._now)
        for peer in self.state.facts.peer(seg.provider):
            self._do(Ask(key=f"receipt:{duty.segment}:{duty.round}", peer=peer, message=message, patience=patience))

    def _on_receipt(self, event: Result, rest: list[str]) -> None:
        found = self._duty(rest)
        if found is None:
            return
        if isinstance(event, Failed):
            self._note("receipt", f"segment {rest[0]}: the provider did not take the receipt: {event.error}", segment=found[0].segment)
        else:
            self._note("receipt", f"segment {rest[0]}: the provider has the receipt", segment=found[0].segment)

    def _on_unserved(self, event: Woke, rest: list[str]) -> None:
        """Its provider has shown a chunk on chain, and has not served what is to be checked, to this node at least: who said nothing now
        would let it be paid for what could not be looked at."""
        found = self._duty(rest)
        if found is None:
            return
        duty, seg = found
        served = all(unit.opened for unit in duty.units.values())
        if duty.phase != "gathering" or served or not self._granted(duty) or seg.state != SegmentState.SERVED:
            return
        duty.phase, duty.unserved = "ready", True
        for unit in duty.units.values():
            self._replay(duty, unit)

    # ---- replay and seal -------------------------------------------------------------------------------------------------

    def _replay(self, duty: Duty, unit: UnitDuty) -> None:
        task = self._unserved_task(duty, unit) if duty.unserved else self._replay_task(duty, unit)
        if task is None:
            return self._fail(duty, "the segment before it is no longer known")
        unit.attempts += 1
        self._do(Do(key=f"replay:{duty.segment}:{duty.round}:{unit.unit}:{unit.asks}:{unit.attempts}", task=task))

    def _unserved_task(self, duty: Duty, unit: UnitDuty) -> SayUnserved:
        terms = self.state.facts.jobs[self.state.facts.segments[duty.segment].job].terms
        return SayUnserved(segment=duty.segment, unit=unit.unit, leaves=draw.leaves_of(unit.unit, terms))

    def _replay_task(self, duty: Duty, unit: UnitDuty) -> ReplayUnit | None:
        seg = self.state.facts.segments[duty.segment]
        parent = self._parent(seg)
        if unit.boundary is None or parent is None:
            return None
        return ReplayUnit(
            segment=seg.segment, job=seg.job, spec=self.state.facts.jobs[seg.job].terms.spec, round=duty.round, start=seg.start,
            stop=seg.stop, unit=unit.unit, parent_root=parent[1], link_root=seg.link_root,
            leaves=draw.leaves_of(unit.unit, self.state.facts.jobs[seg.job].terms), boundary=unit.boundary,
        )  # fmt: skip

    def _on_replay(self, event: Result, rest: list[str]) -> None:
        found = self._unit(rest)
        if found is None or found[1].attempts != int(rest[4]):
            return
        duty, unit, seg = found
        if isinstance(event, Failed):
            if unit.attempts >= self.config.attempts or event.fault is Fault.PEER:
                return self._fail(duty, f"link {unit.unit} could not be replayed: {event.error}")
            self._note("error", f"segment {duty.segment}: replay of link {unit.unit} failed: {event.error}; once more", segment=duty.segment)
            return self._replay(duty, unit)
        outcome: UnitReplayed = self._outcome(event, UnitReplayed)
        unit.replayed = outcome
        entry = self.state.jobs.get(seg.job)
        if entry is not None:
            update = draw.is_update(unit.unit, self.state.facts.jobs[seg.job].terms.micro_batches)
            self._measured(entry.update_flops if update else entry.micro_flops, outcome.milliseconds)
        if outcome.agrees:
            text = f"segment {duty.segment}: link {unit.unit} is right"
            self._note("replayed", text, segment=duty.segment, unit=unit.unit, agrees=True)
        else:
            text = f"segment {duty.segment}: link {unit.unit} is wrong: {outcome.reason}"
            self._note("disagree", text, segment=duty.segment, unit=unit.unit, agrees=False, provider=seg.provider, reason=outcome.reason)
        if all(other.replayed is not None for other in duty.units.values()):
            duty.phase = "replayed"
            self._maybe_seal(duty, seg)

    def _maybe_seal(self, duty: Duty, seg: SegmentFacts) -> None:
        if duty.phase != "replayed" or seg.state != SegmentState.SERVED or seg.round != duty.round:
            return
        if self._now > seg.seal_by or seg.opening_block:
            return self._fail(duty, "the replay took longer than the time to seal")
        results = {unit.unit: unit.replayed for unit in duty.units.values() if unit.replayed is not None}
        agrees = all(result.agrees for result in results.values())
        roots = tuple(results[unit].trace_root for unit in seg.units)
        duty.reveal = Reveal(verifier=self.config.account, agrees=agrees, trace_roots=roots, salt=duty.salt)
        duty.phase = "sealed"
        self.state.disagreed += not agrees
        self._hand_seal(duty, seg)

    def _on_seal(self, event: Result, rest: list[str]) -> None:
        found = self._duty(rest)
        if found is None:
            return
        duty, seg = found
        if isinstance(event, Failed):
            if event.fault is Fault.OUTAGE and duty.reveal is not None:
                return self._later(Send(key=event.key, call=self._seal(duty.segment, duty.round, duty.reveal)))
            if self.config.account not in seg.sealed:
                if not duty.alone:
                    return self._fail(duty, f"the seal was refused: {event.error}")
                duty.alone = False  # it had been handed over: who has it may have brought it in the same block, which the chain will tell
                return self._note("waiting", f"segment {duty.segment}: the seal was refused ({event.error}); the provider may have brought it")
        self._note("sealed", f"segment {duty.segment}: sealed what was found", segment=duty.segment, round=duty.round)

    # ---- reveal and open -------------------------------------------------------------------------------------------------

    def _on_unsealed(self, event: Woke, rest: list[str]) -> None:
        """The time to seal is over, whether all have or not; or it has become late to reveal with openings."""
        found = self._duty(rest)
        if found is not None:
            self._reveal(*found)

    def _reveal(self, duty: Duty, seg: SegmentFacts, openings: tuple[Opening, ...] = ()) -> None:
        if duty.phase == "sealed" and duty.reveal is not None and seg.state == SegmentState.SERVED and not seg.opening_block:
            duty.phase, duty.reveals = "revealed", duty.reveals + 1
            self._do(Send(key=f"reveal:{duty.segment}:{duty.round}:{duty.reveals}", call=self._shown(duty, openings)))

    def _shown(self, duty: Duty, openings: tuple[Opening, ...]) -> AnyCall:
        assert duty.reveal is not None
        duty.reveal = msgspec.structs.replace(duty.reveal, openings=openings)
        call = RevealAll(segment=duty.segment, reveals=(duty.reveal,))
        seg = self.state.facts.segments[duty.segment]
        return call if self.config.account in seg.revealed else seg.alone(duty.round, call)

    def _on_reveal(self, event: Result, rest: list[str]) -> None:
        found = self._duty(rest)
        if found is None:
            return
        duty, seg = found
        if not isinstance(event, Failed):
            assert duty.reveal is not None
            text = f"segment {duty.segment}: revealed that it {'agrees' if duty.reveal.agrees else 'does not agree'}"
            self._note("revealed", text, segment=duty.segment, agrees=duty.reveal.agrees)
            return self._opened(duty) if duty.reveal.openings else None
        if event.fault is Fault.OUTAGE and duty.reveal is not None and not seg.opening_block:
            return self._later(Send(key=event.key, call=self._shown(duty, duty.reveal.openings)))
        duty.opening = False
        if self.config.account not in seg.revealed and not seg.opening_block and self._now <= seg.reveal_by:
            duty.phase = "sealed"  # a call that came a block too early is made again
            return self._do(Wake(key=f"unsealed:{duty.segment}:{duty.round}", at=self._now + PAUSE))
        self._note("error", f"segment {duty.segment}: the reveal was refused: {event.error}", segment=duty.segment)

    def _make_openings(self, duty: Duty, seg: SegmentFacts) -> None:
        if not duty.opening:
            duty.opening = True
            self._do(Do(key=f"openings:{duty.segment}:{duty.round}", task=self._openings_task(duty, seg)))

    def _openings_task(self, duty: Duty, seg: SegmentFacts) -> MakeOpenings:
        terms, block = self.state.facts.jobs[seg.job].terms, seg.opening_block or seg.drawing_block
        return MakeOpenings(segment=duty.segment, round=duty.round, opening_block=block, units=seg.units, terms=terms)

    def _on_openings(self, event: Result, rest: list[str]) -> None:
        found = self._duty(rest)
        if found is None:
            return
        duty, seg = found
        if isinstance(event, Failed):
            if event.fault is not Fault.PEER and self._now < (seg.open_by or seg.reveal_by):
                self._note("error", f"segment {duty.segment}: the openings could not be made: {event.error}; trying again")
                return self._later(Do(key=event.key, task=self._openings_task(duty, seg)))
            duty.opening = False
            if duty.phase == "sealed":
                return self._reveal(duty, seg)
            return self._fail(duty, f"the openings could not be made: {event.error}")
        outcome: OpeningsMade = self._outcome(event, OpeningsMade)
        if duty.phase == "sealed":
            return self._hand_vote(duty, seg, outcome.openings)
        self._do(Send(key=f"open:{duty.segment}:{duty.round}", call=self._shown(duty, outcome.openings)))

    def _on_open(self, event: Result, rest: list[str]) -> None:
        found = self._duty(rest)
        if found is None:
            return
        duty, seg = found
        if isinstance(event, Failed):
            if event.fault is Fault.OUTAGE and self._now < (seg.open_by or seg.reveal_by):
                return self._later(Do(key=f"openings:{duty.segment}:{duty.round}", task=self._openings_task(duty, seg)))
            return self._fail(duty, f"the openings were refused: {event.error}")
        self._opened(duty)

    def _opened(self, duty: Duty) -> None:
        if duty.phase == "opened":
            return
        duty.phase = "opened"
        self.state.done += 1
        self._note("opened", f"segment {duty.segment}: the drawn leaves are opened", segment=duty.segment, round=duty.round)
