"""Serving the drawn links: states sealed to the drawn verifiers, receipts from them, one call with a quorum of receipts.

    drawn     -> ServeUnits -> boundaries are here; each drawn verifier who asks is given its own
    receipt   -> its signature is checked (one bad one would spoil the call that carries all) -> counted
    quorum    -> a short grace for the others -> `served`
"""

from __future__ import annotations

from assay.chain import SegmentState, Serve
from assay.facts import SegmentFacts
from assay.ids import Address, PeerId, SegmentId
from assay.messages import Ack, Boundary, BoundaryRequest, ReceiptMessage, Refusal
from assay.role import PAUSE, Role
from assay.runtime import Do, Failed, Result, Send, Wake, Woke
from assay.tasks import ReceiptVerified, ServeUnits, UnitsServed, VerifyReceipt
from assay_worker.state import Mine, WorkerConfig, WorkerState

MAX_SIGNATURE = 256
MAX_SERVES = 20


class Serving(Role):
    state: WorkerState
    config: WorkerConfig

    def _serve_units(self, mine: Mine, seg: SegmentFacts) -> None:
        task = self._units_task(seg, tuple(sorted(set(seg.units))), seg.verifiers)
        if seg.state == SegmentState.DRAWN and task is not None:
            self._do(Do(key=f"units:{seg.segment}:{seg.round}", task=task))

    def _units_task(self, seg: SegmentFacts, units: tuple[int, ...], recipients: tuple[Address, ...]) -> ServeUnits | None:
        """None while the job or the parent is not known."""
        parent, people = self._parent(seg), self.state.facts.people
        if parent is None:
            return None
        return ServeUnits(
            segment=seg.segment, job=seg.job, spec=self.state.facts.jobs[seg.job].terms.spec, start=seg.start, stop=seg.stop,
            parent=parent[0], parent_root=parent[1], units=units,
            recipients=tuple((who, people[who].encryption_key) for who in recipients if who in people),
        )  # fmt: skip

    def _serving(self, segment: str, round: str) -> tuple[Mine, SegmentFacts] | None:
        """The segment, if this round of it is still to be served."""
        mine, seg = self.state.mine.get(SegmentId(int(segment))), self.state.facts.segments.get(SegmentId(int(segment)))
        if mine is None or seg is None or seg.round != int(round) or seg.state != SegmentState.DRAWN:
            return None
        return mine, seg

    def _on_units(self, event: Result, rest: list[str]) -> None:
        found = self._serving(rest[0], rest[1])
        if found is None:
            return
        mine, seg = found
        if isinstance(event, Failed):
            self._note("error", f"segment {seg.segment}: the drawn links cannot be served: {event.error}", segment=seg.segment)
            if self._now < seg.serve_by:
                self._do(Wake(key=f"reserve:{seg.segment}:{seg.round}", at=self._now + PAUSE))
            return
        outcome: UnitsServed = self._outcome(event, UnitsServed)
        mine.boundaries = {f"{who}:{boundary.unit}": boundary for who, boundary in outcome.boundaries}
        self._note("serving", f"segment {seg.segment}: the drawn links are ready for the verifiers", segment=seg.segment)

    def _on_reserve(self, event: Woke, rest: list[str]) -> None:
        found = self._serving(rest[0], rest[1])
        if found is not None:
            self._serve_units(*found)

    # ---- verifiers -------------------------------------------------------------------------------------------------------

    def _drawn_verifier(self, peer: PeerId, segment: SegmentId, round: int) -> tuple[Mine, SegmentFacts, Address] | Refusal:
        """Who asks, or why it is not answered."""
        mine, seg = self.state.mine.get(segment), self.state.facts.segments.get(segment)
        if mine is None or seg is None:
            return Refusal(reason=f"segment {segment} is not this node's")
        if seg.state == SegmentState.COMMITTED:  # the draw may be final at the verifier's chain node and not yet at this one's
            return Refusal(reason=f"segment {segment} is not drawn", retry_after=1)
        if seg.state not in (SegmentState.DRAWN, SegmentState.SERVED) or round != seg.round:
            return Refusal(reason=f"round {round} of segment {segment} is not being served")
        who = self.state.facts.account(peer, seg.verifiers)
        return (mine, seg, who) if who is not None else Refusal(reason="this peer is not that of a drawn verifier")

    def _boundary(self, peer: PeerId, request: BoundaryRequest) -> Boundary | Refusal:
        found = self._drawn_verifier(peer, request.segment, request.round)
        if isinstance(found, Refusal):
            return found
        mine, seg, who = found
        if request.unit not in seg.units:
            return Refusal(reason=f"link {request.unit} of segment {request.segment} is not drawn")
        boundary = mine.boundaries.get(f"{who}:{request.unit}")
        return boundary if boundary is not None else Refusal(reason="it is being made ready", retry_after=1)

    def _take_receipt(self, peer: PeerId, receipt: ReceiptMessage) -> Ack | Refusal:
        found = self._drawn_verifier(peer, receipt.segment, receipt.round)
        if isinstance(found, Refusal):
            return found
        mine, seg, who = found
        if receipt.verifier != who or len(receipt.signature) > MAX_SIGNATURE:
            return Refusal(reason="this is not a receipt of the verifier who sends it")
        if seg.state == SegmentState.DRAWN and who not in mine.receipts and who not in mine.unchecked:
            mine.unchecked[who] = receipt.signature
            task = VerifyReceipt(segment=seg.segment, round=seg.round, verifier=who, signature=receipt.signature)
            self._do(Do(key=f"receipt:{seg.segment}:{seg.round}:{who}", task=task))
        return Ack()

    def _on_receipt(self, event: Result, rest: list[str]) -> None:
        found, who = self._serving(rest[0], rest[1]), Address(rest[2])
        if found is None:
            return
        mine, seg = found
        signature = mine.unchecked.pop(who, b"")
        if isinstance(event, Failed):
            return self._note("error", f"segment {seg.segment}: the receipt of {who} could not be checked: {event.error}", verifier=who)
        checked: ReceiptVerified = self._outcome(event, ReceiptVerified)
        if not checked.valid:
            return self._note("receipt", f"segment {seg.segment}: the receipt of {who} is not signed by it", segment=seg.segment, verifier=who)
        mine.receipts[who] = signature
        quorum = self.state.facts.jobs[seg.job].terms.params.quorum
        if len(mine.receipts) == len(seg.verifiers):
            self._serve(mine, seg)
        elif len(mine.receipts) == quorum:
            self._do(Wake(key=f"grace:{seg.segment}:{seg.round}", at=self._now + self.config.grace))

    def _on_grace(self, event: Woke, rest: list[str]) -> None:
        found = self._serving(rest[0], rest[1])
        if found is not None:
            self._serve(*found)

    def _serve(self, mine: Mine, seg: SegmentFacts) -> None:
        if len(mine.receipts) < self.state.facts.jobs[seg.job].terms.params.quorum or mine.serves >= MAX_SERVES:
            return
        mine.serves += 1
        given = [(who, mine.receipts[who]) for who in seg.verifiers if who in mine.receipts]
        call = Serve(segment=seg.segment, verifiers=tuple(who for who, _ in given), signatures=tuple(sign for _, sign in given))
        self._do(Send(key=f"serve:{seg.segment}:{seg.round}:{mine.serves}", call=call))

    def _on_serve(self, event: Result, rest: list[str]) -> None:
        found = self._serving(rest[0], rest[1])
        if found is not None and isinstance(event, Failed):
            seg = found[1]
            self._note("waiting", f"segment {seg.segment}: `served` was not taken: {event.error}", segment=seg.segment)
            if self._now < seg.serve_by:
                self._do(Wake(key=f"grace:{seg.segment}:{seg.round}", at=self._now + PAUSE))
