"""From a finished run to its commitment: what was computed lies on another disk before the chain is told of it.

    copying     the job's scheduler, and who has announced the range if that is another, are asked to copy the checkpoint (CopyRequest)
                one has it -> committing
                none can, or none has answered for as long as it is waited -> committing, and a note says so
    committing  `commit` is sent, once `activate` is on the chain

Nothing of this takes a place: the next segment computes meanwhile. Without the copy a disk that fails in the seconds between the commitment and
the scheduler's would leave the job at a state that nobody has.
The wait is bounded by what is left of the lease and by the size: a scheduler that is away, or holds everybody up, costs time and nothing else.
A node that comes up again when that time is over commits at once.
"""

from __future__ import annotations

from assay import energy
from assay.chain import Commit
from assay.facts import COMMITTED_OR_BETTER, SegmentFacts
from assay.ids import PeerId, SegmentId
from assay.messages import Ack, CopyRequest
from assay.role import Role
from assay.runtime import Answered, Ask, Cancel, Failed, Fault, Result, Send
from assay.tasks import SegmentRun
from assay_worker.state import Mine, WorkerState

LEASE_SHARE = 4
"""At most one part in so many of the time that is left on the lease goes by for the copy."""
LEAST_WAIT = 10
"""Seconds that a small checkpoint may take."""
SLOWEST = 1 << 22
"""Bytes a second over which a larger one is copied; a slower scheduler is not waited for."""


class Committing(Role):
    state: WorkerState

    def _lose(self, mine: Mine, reason: str) -> None:
        raise NotImplementedError

    def _finish(self, mine: Mine, seg: SegmentFacts, run: SegmentRun) -> None:
        """The run is done up to a step that can be committed."""
        mine.run = run
        self.state.published.add(seg.job)
        self.state.keys.add(run.checkpoint.key_id)  # it has sealed it itself; the range behind it needs nobody for that
        text = f"segment {seg.segment}: done up to step {run.stop}; its checkpoint is copied"
        self._note("run", text, segment=seg.segment, stop=run.stop, first_loss=run.first_loss, last_loss=run.last_loss)
        wait = self._patience(seg, run)
        keepers = self._keepers(mine, seg) if wait > 0 else []
        if not keepers:
            return self._commit_alone(mine, "no scheduler can be asked" if wait > 0 else "the lease ends too soon")
        mine.phase, mine.copy_by = "copying", self._now + wait
        message = CopyRequest(segment=seg.segment, checkpoint=run.checkpoint.cid)
        asks = [Ask(key=f"copy:{seg.segment}:{mine.attempt}:{i}", peer=peer, message=message, patience=wait) for i, peer in enumerate(keepers)]
        mine.asking = [ask.key for ask in asks]
        for ask in asks:
            self._do(ask)

    def _patience(self, seg: SegmentFacts, run: SegmentRun) -> int:
        """Seconds that the copy may take."""
        end = seg.lease_until or self._now + self.state.facts.jobs[seg.job].terms.params.lease_window  # the activation may not be final here
        return min((end - self._now) // LEASE_SHARE, LEAST_WAIT + run.checkpoint.size // SLOWEST)

    def _keepers(self, mine: Mine, seg: SegmentFacts) -> list[PeerId]:
        """Who schedules the segment: who has announced it, and the job's scheduler."""
        peers = (*mine.scheduler, *self.state.facts.peer(self.state.facts.jobs[seg.job].scheduler))
        return [peer for peer in dict.fromkeys(peers) if peer != self.base.peer]

    def _on_copy(self, event: Result, rest: list[str]) -> None:
        mine = self.state.mine.get(SegmentId(int(rest[0])))
        if mine is None or mine.phase != "copying" or mine.attempt != int(rest[1]) or mine.run is None:
            return
        mine.asking = [key for key in mine.asking if key != event.key]
        if isinstance(event, Answered) and isinstance(event.message, Ack):
            self._note("copied", f"segment {mine.segment}: its checkpoint is kept by another node, too; committing", segment=mine.segment)
            self._commit_now(mine, mine.run)
        elif not mine.asking:
            self._commit_alone(mine, event.error if isinstance(event, Failed) else "it answered something else")

    def _copies_forgotten(self) -> None:
        """After a start: what has been waited for long enough is waited for no more."""
        for mine in self.state.mine.values():
            if mine.phase == "copying" and self._now >= mine.copy_by:
                self._commit_alone(mine, "this node was away")

    def _commit_alone(self, mine: Mine, why: str) -> None:
        assert mine.run is not None
        text = f"segment {mine.segment}: no other node says that it keeps the checkpoint ({why}); committing all the same, this disk is the only one"
        self._note("alone", text, segment=mine.segment, reason=why)
        self._commit_now(mine, mine.run)

    def _commit_now(self, mine: Mine, run: SegmentRun) -> None:
        self._stop_asking(mine)
        mine.phase = "committing"
        if mine.active:  # the contract takes no commitment of what it does not know to be begun
            self._do(self._commit(mine.segment, run))

    def _begun(self, mine: Mine) -> None:
        """Its activation is on the chain."""
        held, mine.active = not mine.active, True
        if held and mine.phase == "committing" and mine.run is not None:
            self._do(self._commit(mine.segment, mine.run))

    def _stop_asking(self, mine: Mine) -> None:
        for key in mine.asking:
            self._do(Cancel(key=key))
        mine.asking = []

    def _commit(self, segment: SegmentId, run: SegmentRun) -> Send:
        call = Commit(
            segment=segment, stop=run.stop, link_root=run.link_root, end_root=run.end_root, proof=run.proof,
            checkpoint=run.checkpoint.cid, key_id=run.checkpoint.key_id, key_envelope=energy.join(run.checkpoint.envelope, run.energy),
        )  # fmt: skip
        return Send(key=f"commit:{segment}", call=call)

    def _on_commit(self, event: Result, rest: list[str]) -> None:
        mine = self.state.mine.get(SegmentId(int(rest[0])))
        if mine is None or mine.phase != "committing" or not isinstance(event, Failed):
            return  # Committed, when it is final, moves it on
        if event.fault is Fault.OUTAGE and mine.run is not None:
            self._later(self._commit(mine.segment, mine.run))
        elif self.state.facts.segments[mine.segment].state not in COMMITTED_OR_BETTER:
            self._lose(mine, f"the commitment was refused: {event.error}")
