"""Jobs that this node keeps shares for, as one of several key holders (assay.threshold).

The contract knows the first holder alone. The owner of another one tells its node, by an order, with which first holder it keeps shares (nobody
can make it work, or pay for transactions, for strangers). It then reads the document of each of that one's jobs, of those that are running, too,
and if the document names it, goes on as if it had known the job from its beginning. Each holder releases its shares after each event by
itself, as a single key service releases whole keys, so that what was given out, and by whom, is on chain. Where the first holder is the owner of a
dataset, the others fetch its ciphertext, too, and serve it: then nothing waits for the owner.
"""

from __future__ import annotations

from assay.chain import SegmentState
from assay.facts import SegmentFacts
from assay.ids import Address, DatasetId, JobId, SegmentId
from assay.keyservice.base import Base
from assay.keyservice.showing import wrap
from assay.keyservice.state import Checkpoint, Dataset, Envelope, JobKeys, Kind
from assay.publish.manifest import MAX_MANIFEST
from assay.role import SLACK
from assay.runtime import Do, Done, Failed, Fetch, Fetched, IllegalEvent, Result
from assay.tasks import ManifestRead, ReadManifest


class Adopting(Base):
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
        for number, known in self.state.datasets.items():
            self._mirror(number, known)

    # ---- copies of what the owner has published ----------------------------------------------------------------------------

    def _mirror(self, number: DatasetId, known: Dataset) -> None:
        """Of an owner that is the first holder itself: it may sleep, its ciphertext is here, too."""
        if known.owner == known.key_service and known.owner in self.state.holds:
            near = self.state.facts.peer(known.owner)
            self._do(Fetch(key=f"manifest:{number}", cid=known.manifest, limit=MAX_MANIFEST, near=near))

    def _mirrored(self, rest: list[str], event: Result) -> None:
        known = self.state.datasets[DatasetId(int(rest[0]))]
        match event:
            case Fetched() if len(rest) == 1:
                self._do(Do(key=f"manifest:{rest[0]}", task=ReadManifest(cid=known.manifest, digest=known.digest)))
            case Done(outcome=ManifestRead(shards=shards)):
                for cid, size in shards:
                    self._do(Fetch(key=f"manifest:{rest[0]}:{cid}", cid=cid, limit=size + SLACK, near=self.state.facts.peer(known.owner)))
            case Fetched():
                self._note("mirrored", f"dataset {rest[0]}: a copy of {rest[1]} is here", dataset=int(rest[0]), cid=rest[1])
            case Failed(error=error):
                self._note("error", f"dataset {rest[0]}: no copy of it could be made: {error}", dataset=int(rest[0]))
            case _:
                raise IllegalEvent(f"{type(event).__name__} of {event.key!r} has no place here")

    # ---- jobs --------------------------------------------------------------------------------------------------------------

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
