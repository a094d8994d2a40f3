"""Jobs that this node keeps shares for, as one of several key holders (assay.threshold).

The contract knows the first holder alone. The owner of another one tells its node, by an order, with which first holder it keeps shares (nobody
can make it work, or pay for transactions, for strangers); it then reads the document of each of that one's jobs, of those that are running, too,
and if the document names it, goes on as if it had known the job from its beginning. Each holder releases its shares after each event by itself,
as a single key service releases whole keys, so that what was given out, and by whom, is on chain.
"""

from __future__ import annotations

from assay.chain import SegmentState
from assay.facts import SegmentFacts
from assay.ids import Address, JobId, SegmentId
from assay.keyservice.showing import wrap
from assay.keyservice.state import Checkpoint, Config, Envelope, JobKeys, Kind, State
from assay.runtime import AnyEffect, Do


class Adopting:
    config: Config
    state: State

    def _note(self, topic: str, text: str, **data: str | int | bool) -> None:
        raise NotImplementedError

    def _do(self, effect: AnyEffect) -> None:
        raise NotImplementedError

    def _fetch(self, job: JobId) -> None:
        raise NotImplementedError

    def _final(self, segment: SegmentId) -> None:
        raise NotImplementedError

    def _grant(self, seg: SegmentFacts, kind: Kind, round: int, recipients: list[Address], name: str = "") -> None:
        raise NotImplementedError

    def _hold(self, service: Address) -> None:
        """From now on with `service`, and for the jobs that are running."""
        if service in (self.config.account, *self.state.holds):
            return
        self.state.holds.append(service)
        self._note("order", f"shares are kept here for jobs whose first key holder is {service}", party=service)
        for job, told in self.state.facts.jobs.items():
            if told.terms.key_service == service and not told.over:
                self._adopt(job)

    def _adopt(self, job: JobId) -> None:
        facts = self.state.facts
        if job in self.state.jobs:
            return
        told = facts.jobs[job]
        near = [*facts.peer(told.client), *facts.peer(told.scheduler), *facts.peer(told.terms.key_service)]
        keys = self.state.jobs[job] = JobKeys(near=list(dict.fromkeys(near)), over=told.over)
        self._fetch(job)
        for seg in facts.of_job(job):
            self._catch_up(seg, keys)
        if keys.settled and (told.over or facts.segments[keys.settled].stop == told.terms.steps):
            self._final(keys.settled)

    def _catch_up(self, seg: SegmentFacts, keys: JobKeys) -> None:
        if seg.state in (SegmentState.ASSIGNED, SegmentState.ACTIVE):
            return self._grant(seg, Kind.ASSIGNED, 0, [seg.provider])
        if not seg.live and seg.state != SegmentState.SETTLED:
            return
        self._committed(seg)
        if seg.state == SegmentState.SETTLED:
            keys.settled = seg.segment
        elif seg.verifiers and seg.state != SegmentState.COMMITTED:
            self._grant(seg, Kind.DRAWN, seg.round, list(seg.verifiers))

    def _committed(self, seg: SegmentFacts) -> None:
        envelope = Envelope(seg.key_id, seg.key_envelope, seg.provider)
        self.state.checkpoints[seg.segment] = Checkpoint(envelope)
        self._do(Do(key=f"checkpoint:{seg.segment}", task=wrap([envelope])))
