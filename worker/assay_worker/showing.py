"""What a provider shows of its own segment to who checks a step of it: the job's client, and the verifiers that were drawn for it.

    Visit         which account the peer asks for, signed by it (VerifyVisit)  -> Ack
    StepRequest   a state before a step, sealed to that account (ServeUnits)   -> Boundary
    TreeRequest   nodes of its link ends, of a link's trace, of a stage        -> Nodes

The last two are answered from the segment's files, as long as they are here: until it has settled, or no dispute can need them any more. One
question at a time, MOST_SHOWN a segment: a check needs a handful, and no more than that is owed.
"""

from __future__ import annotations

from assay import links
from assay.dispute.served import Nodes
from assay.facts import SegmentFacts
from assay.ids import Address, PeerId, SegmentId
from assay.messages import Ack, Boundary, Refusal, StepRequest, TreeRequest, Visit
from assay.runtime import Asked, Cancel, Do, Failed, Reply, Result
from assay.tasks import NodesShown, ServeUnits, ShowNodes, UnitsServed, VerifyVisit, VisitVerified
from assay_worker.serving import MAX_SIGNATURE, Serving
from assay_worker.state import Showing as Shown

MOST_SHOWN = 1024
MOST_VISITORS = 64
AGAIN = 1
"""Seconds."""


class Showing(Serving):
    def _asked_to_show(self, event: Asked) -> None:
        request = event.message
        if isinstance(request, Visit):
            return self._visited(event.ask, event.peer, request)
        if not isinstance(request, StepRequest | TreeRequest):
            return self._do(Reply(ask=event.ask, message=Refusal(reason="this node is a worker: it answers verifiers about its own segments")))
        found = self._may_see(event.peer, request.segment)
        answer = found if isinstance(found, Refusal) else self._show(event.ask, request, *found)
        if answer is not None:
            self._do(Reply(ask=event.ask, message=answer))

    def _may_see(self, peer: PeerId, segment: SegmentId) -> tuple[SegmentFacts, Address] | Refusal:
        seg, facts = self.state.facts.segments.get(segment), self.state.facts
        if seg is None or seg.provider != self.config.account or not seg.link_root:
            return Refusal(reason=f"segment {segment} was not committed by this node")
        if segment not in self.state.mine and segment not in facts.pinned:
            return Refusal(reason=f"the files of segment {segment} are gone: it is over")
        who = self.state.visitors.get(peer)
        if who is None or who not in (facts.jobs[seg.job].client, *seg.verifiers):
            return Refusal(reason="this peer asks neither for the job's client nor for a verifier of the segment")
        return seg, who

    def _visited(self, ask: int, peer: PeerId, visit: Visit) -> None:
        """One signature at a time is checked: they are cheap, and strangers' requests must not pile up."""
        answer: Ack | Refusal
        if self.state.visitors.get(peer) == visit.account:
            answer = Ack()
        elif len(visit.signature) > MAX_SIGNATURE or not self.state.facts.peer(visit.account):
            answer = Refusal(reason="this account is not known here")
        elif self.state.visiting:
            answer = Refusal(reason="another visitor is being looked at", retry_after=AGAIN)
        else:
            self.state.visits, self.state.visiting, self.state.welcome = self.state.visits + 1, peer, [ask]
            task = VerifyVisit(peer=peer, account=visit.account, signature=visit.signature)
            return self._do(Do(key=f"visit:{self.state.visits}", task=task))
        self._do(Reply(ask=ask, message=answer))

    def _on_visit(self, event: Result, rest: list[str]) -> None:
        if self.state.visits != int(rest[0]):
            return
        answer: Ack | Refusal = Refusal(reason="the account has not signed that this peer asks for it")
        if not isinstance(event, Failed):
            found: VisitVerified = self._outcome(event, VisitVerified)
            if found.valid:
                answer = Ack()
                kept = list(self.state.visitors.items())[1 - MOST_VISITORS :]
                self.state.visitors = dict(kept) | {found.peer: found.account}
        for ask in self.state.welcome:
            self._do(Reply(ask=ask, message=answer))
        self.state.visiting, self.state.welcome = PeerId(""), []

    def _show(self, ask: int, request: StepRequest | TreeRequest, seg: SegmentFacts, who: Address) -> Boundary | Refusal | None:
        """None when the answer will come."""
        shown = self.state.showing.setdefault(seg.segment, Shown())
        unit = self._unit_of(request, seg)
        if unit is None:
            return Refusal(reason=f"segment {seg.segment} has the steps {seg.start} to {seg.stop - 1}")
        if isinstance(request, StepRequest) and (ready := shown.boundaries.get(f"{who}:{unit}")) is not None:
            return ready
        if shown.doing is not None and (shown.doing, shown.who) != (request, who):
            return Refusal(reason="one question at a time", retry_after=AGAIN)
        if shown.doing is None:
            task = self._units_task(seg, (unit,), (who,))
            if task is None:
                return Refusal(reason="what it was made from is not known here any more")
            if shown.given >= MOST_SHOWN:
                return Refusal(reason="enough of this segment has been shown")
            shown.given, shown.doing, shown.who = shown.given + 1, request, who
            self._go(shown, request, task)
        shown.waiting.append(ask)
        return None

    def _go(self, shown: Shown, request: StepRequest | TreeRequest, task: ServeUnits) -> None:
        if isinstance(request, StepRequest):
            self._do(Do(key=f"lay:{task.segment}:{shown.given}", task=task))
        else:
            self._do(Do(key=f"show:{task.segment}:{shown.given}", task=ShowNodes(place=task, question=request.question)))

    def _unit_of(self, request: StepRequest | TreeRequest, seg: SegmentFacts) -> int | None:
        """The link that is asked about; None if it is not the segment's."""
        m = self.state.facts.jobs[seg.job].terms.micro_batches
        unit = (request.step - seg.start) * (m + 1) if isinstance(request, StepRequest) else request.question.unit
        return unit if 0 <= unit < links.count(seg.stop - seg.start, m) else None

    def _on_laid(self, event: Result, rest: list[str]) -> None:
        shown = self._shown(rest)
        if shown is None:
            return
        if isinstance(event, Failed):
            return self._shown_nothing(shown, rest, event)
        outcome: UnitsServed = self._outcome(event, UnitsServed)
        shown.boundaries |= {f"{who}:{boundary.unit}": boundary for who, boundary in outcome.boundaries}
        found = [boundary for who, boundary in outcome.boundaries if who == shown.who]
        self._answer(shown, found[0] if found else Refusal(reason="it registered no usable encryption key"))
        self._note("shown", f"segment {rest[0]}: the state before a step is shown to {shown.who}", segment=int(rest[0]))

    def _on_shown(self, event: Result, rest: list[str]) -> None:
        shown = self._shown(rest)
        if shown is None:
            return
        if isinstance(event, Failed):
            return self._shown_nothing(shown, rest, event)
        nodes = self._outcome(event, NodesShown).nodes
        self._answer(shown, nodes if nodes is not None else Refusal(reason="there is no such node"))

    def _shown(self, rest: list[str]) -> Shown | None:
        shown = self.state.showing.get(SegmentId(int(rest[0])))
        return shown if shown is not None and shown.doing is not None and shown.given == int(rest[1]) else None

    def _shown_nothing(self, shown: Shown, rest: list[str], event: Failed) -> None:
        self._note("error", f"segment {rest[0]}: nothing could be shown of it: {event.error}", segment=int(rest[0]))
        self._answer(shown, Refusal(reason="it could not be made"))

    def _answer(self, shown: Shown, message: Nodes | Refusal | Boundary) -> None:
        waiting, shown.waiting, shown.doing = shown.waiting, [], None
        for ask in waiting:
            self._do(Reply(ask=ask, message=message))

    def _shows_ended(self, segment: SegmentId) -> None:
        """Its files go."""
        shown = self.state.showing.pop(segment, None)
        if shown is not None and shown.doing is not None:
            kind = "lay" if isinstance(shown.doing, StepRequest) else "show"
            self._do(Cancel(key=f"{kind}:{segment}:{shown.given}"))
            self._answer(shown, Refusal(reason=f"the files of segment {segment} are gone: it is over"))

    def _shows_forgotten(self) -> None:
        """Who asked before this node came up again hears nothing any more."""
        self.state.welcome = []
        for shown in self.state.showing.values():
            shown.waiting = []
