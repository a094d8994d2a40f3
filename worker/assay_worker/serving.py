"""Serving the drawn links: states sealed to the drawn verifiers, receipts from them, one call with a quorum of receipts.

    drawn     -> ServeUnits -> boundaries are here; each drawn verifier who asks is given its own
    receipt   -> its signature is checked (one bad one would spoil the call that carries all) -> counted
    quorum    -> a short grace for the others -> `served`
    asked     no quorum has signed, in any round: the chunk that a block names is shown on chain, once its block is there
    found     after a start: what was published for it and is gone from this disk comes from whoever has it, or is made again
"""

from __future__ import annotations

from assay.chain import SegmentState, Serve, ShowChunk
from assay.facts import SegmentFacts
from assay.ids import Address, PeerId, SegmentId
from assay.messages import Ack, Boundary, BoundaryRequest, ReceiptMessage, Refusal
from assay.role import PAUSE, Role
from assay.runtime import Do, Failed, Result, Send, Wake, Woke
from assay.tasks import ChunkMade, FindPublished, MakeChunk, PublishedFound, ReceiptVerified, ServeUnits, UnitsServed, VerifyReceipt
from assay_worker.state import Mine, WorkerConfig, WorkerState

MAX_SIGNATURE = 256
MAX_SERVES = 20


class Serving(Role):
    state: WorkerState
    config: WorkerConfig

    def _gather(self, seg: SegmentFacts) -> None:
        raise NotImplementedError

    def _run_again(self, mine: Mine) -> None:
        """Its run, whose outcome is on disk, is told once more."""
        raise NotImplementedError

    def _drawn(self, mine: Mine, seg: SegmentFacts) -> None:
        mine.round, mine.boundaries, mine.unchecked, mine.receipts = seg.round, {}, {}, {}
        mine.checking, mine.seals, mine.votes, mine.brought, mine.waits = {}, {}, {}, [], {}
        text = f"segment {seg.segment}: {len(set(seg.units))} links are drawn, {len(seg.verifiers)} verifiers check them"
        self._note("drawn", text, segment=seg.segment, round=seg.round, links=len(seg.units), verifiers=len(seg.verifiers))
        self._nudge("redraw", seg, at=seg.serve_by + 1)
        if mine.run is not None:
            self._serve_units(mine, seg)
        else:  # a new disk: what the segment needs must come first, and is computed anew
            self._gather(seg)

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

    def _published_forgotten(self) -> None:
        """After a start: a disk may have lost blobs, and nothing else."""
        for mine in self.state.mine.values():
            seg = self.state.facts.segments[mine.segment]
            wanted = [boundary.cid for boundary in mine.boundaries.values()] if seg.state == SegmentState.DRAWN else []
            if mine.phase == "copying" and mine.run is not None:
                wanted.append(mine.run.checkpoint.cid)
            if wanted:
                self._do(Do(key=f"find:{seg.segment}:{seg.round}", task=FindPublished(cids=tuple(dict.fromkeys(wanted)))))

    def _on_found(self, event: Result, rest: list[str]) -> None:
        mine = self.state.mine.get(SegmentId(int(rest[0])))
        if mine is None or isinstance(event, Failed):
            return
        outcome: PublishedFound = self._outcome(event, PublishedFound)
        if not outcome.lost:
            return
        text = f"segment {mine.segment}: {len(outcome.lost)} blobs that this node had published are gone, and nobody gives them: they are made again"
        self._note("missing", text, segment=mine.segment, blobs=len(outcome.lost))
        if mine.phase == "copying" and mine.run is not None and mine.run.checkpoint.cid in outcome.lost:
            self._run_again(mine)
        found = self._serving(rest[0], rest[1])
        if found is not None and any(boundary.cid in outcome.lost for boundary in mine.boundaries.values()):
            mine.boundaries = {}
            self._serve_units(*found)

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

    # ---- a chunk that is asked for ---------------------------------------------------------------------------------------

    def _asked(self, mine: Mine, seg: SegmentFacts) -> None:
        text = f"segment {seg.segment}: too few of its verifiers say that they were served; a chunk is to be shown on chain until {seg.serve_by}"
        self._note("asked", text, segment=seg.segment, round=seg.round)
        self._nudge("redraw", seg, at=seg.serve_by + 1)
        if seg.segment not in self.state.needs:  # else it is shown when what the segment needs is here
            self._open_chunk(mine, seg)

    def _open_chunk(self, mine: Mine, seg: SegmentFacts) -> None:
        parent = self._parent(seg)
        if seg.state != SegmentState.DRAWN or not seg.asked_block or parent is None:
            return
        mine.shows += 1
        task = MakeChunk(
            segment=seg.segment, job=seg.job, spec=self.state.facts.jobs[seg.job].terms.spec, start=seg.start, stop=seg.stop,
            parent=parent[0], parent_root=parent[1], units=seg.units, asked_block=seg.asked_block,
        )  # fmt: skip
        self._do(Do(key=f"chunk:{seg.segment}:{seg.round}:{mine.shows}", task=task))

    def _on_chunk(self, event: Result, rest: list[str]) -> None:
        found = self._serving(rest[0], rest[1])
        if found is None or found[0].shows != int(rest[2]):
            return
        if isinstance(event, Failed):
            return self._open_later(*found, f"the chunk that is asked for cannot be shown: {event.error}")
        made: ChunkMade = self._outcome(event, ChunkMade)
        self._do(Send(key=f"open:{rest[0]}:{rest[1]}:{rest[2]}", call=ShowChunk(segment=found[1].segment, proof=made.proof)))

    def _on_open(self, event: Result, rest: list[str]) -> None:
        found = self._serving(rest[0], rest[1])
        if found is not None and isinstance(event, Failed):
            self._open_later(*found, f"the chunk was not taken: {event.error}")

    def _open_later(self, mine: Mine, seg: SegmentFacts, why: str) -> None:
        self._note("waiting", f"segment {seg.segment}: {why}", segment=seg.segment)
        if self._now < seg.serve_by:
            self._do(Wake(key=f"reopen:{seg.segment}:{seg.round}:{mine.shows}", at=self._now + PAUSE))

    def _on_reopen(self, event: Woke, rest: list[str]) -> None:
        found = self._serving(rest[0], rest[1])
        if found is not None and found[0].shows == int(rest[2]):
            self._open_chunk(*found)
