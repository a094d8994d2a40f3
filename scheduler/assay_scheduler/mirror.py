"""What a scheduler keeps of its jobs, so that no range depends on one disk, and for how long.

    the job's document's blobs     from when it schedules the job until the job is closed
    a committed checkpoint         from when it is here until a later segment has settled: nobody goes on from it then
    the last settled checkpoint    stays after the job is closed: the client fetches it

Of a job that it does not schedule, it has copies of checkpoints that go when room is needed. Every pin ends at the job's deadline and a challenge
window, whatever is missed: after that anybody may have closed the job. Blobs are sealed, so the scheduler learns nothing from them. What two jobs
share goes with the second.
"""

from __future__ import annotations

from collections.abc import Iterable

from assay.ids import Cid, JobId, PeerId
from assay.runtime import AnyEffect, Do, Fetch
from assay.tasks import KeepBlob, ReleaseBlobs
from assay_scheduler.books import Config, JobBook, State


class Mirror:
    config: Config
    state: State

    def _mine(self, job: JobBook) -> bool:
        raise NotImplementedError

    def _copy(self, job: JobBook, cid: Cid, near: tuple[PeerId, ...]) -> Fetch:
        return Fetch(key=f"mirror:{job.id}:{cid}", cid=cid, limit=self.config.blob_limit, near=near)

    def _keep(self, key: str) -> list[AnyEffect]:
        """It is here."""
        _, number, name = key.split(":")
        job, cid = self.state.jobs.get(JobId(int(number))), Cid(name)
        if job is None or cid in job.pins or not self._mine(job):
            return []
        job.pins = [*job.pins, cid]
        self.state.pinned[cid] = self.state.pinned.get(cid, 0) + 1
        until = job.terms.deadline + job.terms.params.challenge_window
        return [Do(key=f"keep:{number}:{name}", task=KeepBlob(cid=cid, until=until))]

    def _leave(self, job: JobBook, last: Cid | None) -> list[AnyEffect]:
        """The job is closed; the pin of its last state ends by itself."""
        effects = self._let_go(job, [cid for cid in job.pins if cid != last])
        for cid in job.pins:
            self.state.pinned[cid] -= 1
            if not self.state.pinned[cid]:
                del self.state.pinned[cid]
        return effects

    def _let_go(self, job: JobBook, cids: Iterable[Cid]) -> list[AnyEffect]:
        gone = [cid for cid in cids if cid in job.pins]
        job.pins = [cid for cid in job.pins if cid not in gone]
        for cid in gone:
            self.state.pinned[cid] -= 1
        free = tuple(cid for cid in gone if not self.state.pinned[cid])
        for cid in free:
            del self.state.pinned[cid]
        self.state.serial += bool(free)
        return [Do(key=f"let-go:{job.id}:{self.state.serial}", task=ReleaseBlobs(cids=free))] if free else []
