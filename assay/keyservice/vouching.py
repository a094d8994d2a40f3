"""What a key service puts up for keys that it does not release (contract Sureties): it vouches, objects and takes back by itself.

    the job is ready, and enough is free        VouchJob: all envelopes have opened, so what is due can be given
    a provider's checkpoint does not open       ContestCheckpoint, while the contract takes it
    its key is shown, in the clear              the key is kept like one that came in an envelope, and what is due is released
    the job is closed                           ReturnSurety, and again when the time to claim is over

It vouches for jobs only whose key service, by their terms, is this account (of several key holders: the first), and that leave it time: at least
`notice` seconds to serve drawn verifiers, and a second round.
"""

from __future__ import annotations

from typing import Any

from assay.chain import (
    CheckpointKeyShown,
    ContestCheckpoint,
    JobVouched,
    ReturnSurety,
    SegmentState,
    SuretyDeposited,
    SuretyEnding,
    SuretyOffered,
    SuretyReturned,
    SuretyWithdrawn,
    VouchJob,
)
from assay.facts import SegmentFacts
from assay.ids import Address, JobId, SegmentId
from assay.keyservice.base import Base
from assay.keyservice.state import Envelope, JobStage, Kind
from assay.merkle import sha256
from assay.runtime import Do, Done, Failed, IllegalEvent, Result, Send, Sent, Wake, Woke
from assay.tasks import KeysWrapped, TakeKey

SuretyEvent = SuretyOffered | SuretyDeposited | SuretyWithdrawn | JobVouched | SuretyEnding | SuretyReturned


class Vouching(Base):
    def _grant(self, seg: SegmentFacts, kind: Kind, round: int, recipients: list[Address], name: str = "") -> None:
        raise NotImplementedError

    def _advance_all(self, job: JobId) -> None:
        raise NotImplementedError

    def _surety_event(self, event: SuretyEvent) -> None:
        surety = self.state.surety
        if isinstance(event, SuretyEnding):
            if event.job in surety.vouched:
                self._do(Wake(key=f"ending:{event.job}", at=event.ends_after + 1))
            return
        if event.keeper != self.config.account:
            return
        match event:
            case SuretyOffered():
                surety.per_job, surety.notice = event.per_job, event.notice
            case SuretyDeposited():
                surety.free += event.amount
            case SuretyWithdrawn():
                surety.free -= event.amount
            case JobVouched():
                surety.free -= event.amount
                surety.vouched.add(event.job)
                self._note("surety", f"job {event.job}: {event.amount} stand behind its keys", job=event.job, amount=event.amount)
                return
            case SuretyReturned():
                surety.free += event.amount
                surety.vouched.discard(event.job)
                surety.asked.discard(event.job)
        for job in self.state.jobs:
            self._vouch(job)

    def _send(self, kind: str, number: int, call: VouchJob | ContestCheckpoint | ReturnSurety) -> None:
        self.state.surety.calls += 1
        self._do(Send(key=f"{kind}:{number}:{self.state.surety.calls}", call=call))

    def _vouch(self, job: JobId) -> None:
        """If it is ready, and what is free suffices for it beside those that are on their way."""
        surety, keys, terms = self.state.surety, self.state.jobs[job], self.state.facts.jobs[job].terms
        known = keys.stage is not JobStage.READY or keys.over or job in surety.vouched or job in surety.asked
        if known or terms.key_service != self.config.account or not surety.per_job:
            return
        waiting = len(surety.asked - surety.vouched)
        if surety.free < surety.per_job * (waiting + 1) or terms.params.serve_window < surety.notice or not terms.params.redraws:
            return
        surety.asked.add(job)
        self._send("vouch", job, VouchJob(job=job))

    def _contest(self, segment: SegmentId) -> None:
        """The checkpoint's envelope does not open: said while it is heard."""
        seg = self.state.facts.segments[segment]
        open_ = seg.state in (SegmentState.COMMITTED, SegmentState.DRAWN) and seg.round == 0
        if seg.job in self.state.surety.vouched and open_:
            self._send("contest", segment, ContestCheckpoint(segment=segment))

    def _key_shown(self, event: CheckpointKeyShown) -> None:
        found = self.state.checkpoints.get(event.segment)
        if found is not None and found.bad and sha256(event.key) == found.envelope.key_id:
            self._do(Do(key=f"take:{event.segment}", task=TakeKey(key=event.key, publisher=found.envelope.publisher)))

    def _surety_result(self, kind: str, number: int, event: Result | Woke) -> None:
        match event:
            case Woke() if kind == "ending":
                self._send("return", number, ReturnSurety(job=JobId(number)))
            case Done(outcome=KeysWrapped(releases=(release,))) if kind == "take":
                self._taken(SegmentId(number), release.wrapped)
            case Sent():
                pass  # its event, when it is final, moves on
            case Failed(error=error):
                if kind == "vouch":
                    self.state.surety.asked.discard(JobId(number))
                self._note("surety", f"{kind} of {number} was not taken: {error}", reason=error)
            case _:
                raise IllegalEvent(f"{type(event).__name__} of {kind}:{number} has no place here")

    def _taken(self, segment: SegmentId, wrapped: bytes) -> None:
        found, seg = self.state.checkpoints.get(segment), self.state.facts.segments.get(segment)
        if found is None or seg is None:
            return
        found.envelope = Envelope(found.envelope.key_id, wrapped, found.envelope.publisher)
        found.checked, found.bad = True, False
        self._note("surety", f"segment {segment}: its checkpoint's key was shown on chain, and is kept", segment=segment)
        if seg.state == SegmentState.DRAWN:  # what was dropped for the envelope
            self._grant(seg, Kind.DRAWN, seg.round, list(seg.verifiers), name=f"{segment}:{Kind.DRAWN}:{seg.round}@shown")
        self._advance_all(seg.job)

    def _take_back(self, event: Any) -> None:
        """The job is closed."""
        if event.job in self.state.surety.vouched:
            self._send("return", event.job, ReturnSurety(job=event.job))
