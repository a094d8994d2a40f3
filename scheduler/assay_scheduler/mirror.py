"""What a scheduler keeps of its jobs, so that no range depends on one disk, and for how long.

    the job's document's blobs     from when it schedules the job until the job is closed
    a checkpoint that is to be     from when its provider asks for it (CopyRequest, which is answered when it is here and pinned) until the segment
    committed                      has failed or something else is committed; twice the lease at most
    a committed checkpoint         from when it is here until a later segment has settled: nobody goes on from it then
    the last settled checkpoint    stays after the job is closed: the client fetches it

Of a job that it does not schedule, it has copies of checkpoints that go when room is needed. Every pin ends at the job's deadline and a challenge
window, whatever is missed: after that anybody may have closed the job. Blobs are sealed, so the scheduler learns nothing from them. What two jobs
share goes with the second.

Nobody can fill the disk with what is to be committed: only the provider of a segment that is not committed may ask, for one blob at a time and
MOST_COPIES in all, each at most as large as the job's state can be when it is sealed.
"""

from __future__ import annotations

from collections.abc import Iterable

from assay import threshold
from assay.chain import SegmentState
from assay.ids import Address, Cid, JobId, PeerId
from assay.messages import Ack, CopyRequest, Refusal
from assay.runtime import AnyEffect, Cancel, Do, Failed, Fetch, Note, Reply
from assay.tasks import JobLoaded, KeepBlob, ReleaseBlobs
from assay_scheduler.books import LIVE_UNCOMMITTED, Config, JobBook, SegmentBook, State

SPEC_LIMIT = 8 << 20
SLACK = 1 << 20
"""Bytes that a checkpoint may have over what the state before has (headers)."""
MOST_COPIES = 3
"""Different checkpoints that the provider of a segment may have copied: a run that has failed is run again, and its end is sealed anew."""
MOST_HELD = 64
"""Providers whose requests wait here at once; more are told to ask again."""


class Mirror:
    config: Config
    state: State

    def _mine(self, job: JobBook) -> bool:
        raise NotImplementedError

    def _near(self, account: Address) -> tuple[PeerId, ...]:
        raise NotImplementedError

    def _segment(self, segment: int) -> SegmentBook | None:
        raise NotImplementedError

    # ---- the job's document ----------------------------------------------------------------------------------------------

    def _fetch_spec(self, job: JobBook) -> Fetch:
        return Fetch(key=f"spec:{job.id}", cid=job.terms.spec, limit=SPEC_LIMIT, near=self._near(job.client))

    def _mirror(self, loaded: JobLoaded) -> list[AnyEffect]:
        spec, job = loaded.spec, self.state.jobs.get(loaded.job)
        if job is None:
            return []
        near = self._near(job.client)
        job.sizes = (spec.state.size, sum(ref.size for ref in spec.shared_blobs), sum(ref.size for ref in spec.frozen_blobs))
        cids = [spec.program, spec.schedule, spec.state.cid, *(ref.cid for ref in spec.shared_blobs)]
        cids += threshold.masks_refs(spec.dataset.shards)
        return [self._copy(job, cid, near, self.config.blob_limit) for cid in cids]

    # ---- before a commitment ---------------------------------------------------------------------------------------------

    def _on_copy_asked(self, ask: int, peer: PeerId, message: CopyRequest) -> list[AnyEffect]:
        book, cid = self._segment(message.segment), message.checkpoint
        refusal = self._declined(book, peer, cid)
        if refusal is not None or book is None:
            return [Reply(ask=ask, message=refusal or Refusal(reason="it is not known here", retry_after=1))]
        if book.copy == cid and book.copy_stage == "kept":
            return [Reply(ask=ask, message=Ack())]
        effects: list[AnyEffect] = []
        if book.copy != cid:
            effects += self._drop_copy(book)
            book.copy, book.copy_stage, book.copies = cid, "fetching", book.copies + 1
            limit = self._largest(self.state.jobs[book.job])
            effects.append(Fetch(key=f"copy:{book.id}:{cid}", cid=cid, limit=limit, near=(peer,)))
        effects += self._answer(book, Refusal(reason="it has asked again", retry_after=1))
        if len(self.state.held) >= MOST_HELD:
            return [*effects, Reply(ask=ask, message=Refusal(reason="it is being fetched", retry_after=1))]
        self.state.held[book.id] = ask
        return effects

    def _declined(self, book: SegmentBook | None, peer: PeerId, cid: Cid) -> Refusal | None:
        if book is None:
            return Refusal(reason="this segment is not known here", retry_after=1)
        if self.state.peers.get(book.provider) != peer:
            return Refusal(reason="this peer is not the segment's provider")
        job = self.state.jobs[book.job]
        if book.state not in LIVE_UNCOMMITTED:
            return Refusal(reason=f"segment {book.id} is {SegmentState(book.state).name.lower()}")
        if not self._mine(job):
            return Refusal(reason=f"this node does not schedule job {job.id}")
        if not self._largest(job):
            return Refusal(reason="the job's document is being fetched", retry_after=1)
        if book.copy != cid and book.copies >= MOST_COPIES:
            return Refusal(reason=f"{MOST_COPIES} checkpoints of this segment were copied, no more are")
        return None

    def _pin_copy(self, key: str, now: int) -> list[AnyEffect]:
        """It is here."""
        _, number, name = key.split(":")
        book = self._segment(int(number))
        if book is None or (book.copy, book.copy_stage) != (name, "fetching"):
            return []
        book.copy_stage = "pinning"
        self.state.pinned[name] = self.state.pinned.get(name, 0) + 1
        until = now + 2 * self.state.jobs[book.job].terms.params.lease_window
        return [Do(key=f"hold:{number}:{name}", task=KeepBlob(cid=book.copy, until=until))]

    def _copy_kept(self, key: str) -> list[AnyEffect]:
        _, number, name = key.split(":")
        book = self._segment(int(number))
        if book is None or (book.copy, book.copy_stage) != (name, "pinning"):
            return []
        book.copy_stage = "kept"
        text = f"segment {book.id}: the checkpoint that is to be committed is kept here"
        data: dict[str, str | int | bool] = {"job": book.job, "segment": book.id}
        return [Note(topic="kept", text=text, data=data), *self._answer(book, Ack())]

    def _copy_failed(self, event: Failed) -> list[AnyEffect]:
        book = self._segment(int(event.key.split(":")[1]))
        if book is None or not event.key.endswith(f":{book.copy}"):
            return []
        note = Note(topic="mirror", text=f"segment {book.id}: could not copy what is to be committed: {event.error}")
        answer = self._answer(book, Refusal(reason=f"it could not be copied: {event.error}"[:200]))
        return [note, *answer, *self._drop_copy(book)]

    def _answer(self, book: SegmentBook, message: Ack | Refusal) -> list[AnyEffect]:
        ask = self.state.held.pop(book.id, None)
        return [Reply(ask=ask, message=message)] if ask is not None else []

    def _drop_copy(self, book: SegmentBook) -> list[AnyEffect]:
        """It is not what is committed, or nothing is."""
        cid, stage, book.copy, book.copy_stage = book.copy, book.copy_stage, Cid(""), ""
        effects = self._answer(book, Refusal(reason=f"segment {book.id} does not need it any more"))
        if stage == "fetching":
            effects.append(Cancel(key=f"copy:{book.id}:{cid}"))
        elif stage:
            effects += [Cancel(key=f"hold:{book.id}:{cid}"), *self._unpin(book.job, [cid])]
        return effects

    def _largest(self, job: JobBook) -> int:
        """Bytes of a checkpoint of the job, at most; 0 while that is not known."""
        from assay import parts

        return min(parts.largest(job.sizes[0]) + SLACK, self.config.blob_limit) if job.sizes[0] else 0

    # ---- from then on ----------------------------------------------------------------------------------------------------

    def _on_checkpoint(self, job: JobBook, book: SegmentBook) -> list[AnyEffect]:
        """It is committed: what was copied before stays, anything else is fetched."""
        cid = book.checkpoint
        if book.copy != cid or book.copy_stage not in ("pinning", "kept") or cid in job.pins or not self._mine(job):
            return [*self._drop_copy(book), self._copy_checkpoint(job, book)]
        book.copy, book.copy_stage = Cid(""), ""
        job.pins = [*job.pins, cid]  # counted in `pinned` before
        return [*self._answer(book, Ack()), self._pin(job, cid)]

    def _copy_checkpoint(self, job: JobBook, book: SegmentBook) -> Fetch:
        return self._copy(job, book.checkpoint, self._near(book.provider), self._largest(job) or self.config.blob_limit)

    def _copy(self, job: JobBook, cid: Cid, near: tuple[PeerId, ...], limit: int) -> Fetch:
        return Fetch(key=f"mirror:{job.id}:{cid}", cid=cid, limit=limit, near=near)

    def _pin(self, job: JobBook, cid: Cid) -> Do:
        until = job.terms.deadline + job.terms.params.challenge_window
        return Do(key=f"keep:{job.id}:{cid}", task=KeepBlob(cid=cid, until=until))

    def _keep(self, key: str) -> list[AnyEffect]:
        """It is here."""
        _, number, name = key.split(":")
        job, cid = self.state.jobs.get(JobId(int(number))), Cid(name)
        if job is None or cid in job.pins or not self._mine(job):
            return []
        job.pins = [*job.pins, cid]
        self.state.pinned[cid] = self.state.pinned.get(cid, 0) + 1
        return [self._pin(job, cid)]

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
        return self._unpin(job.id, gone)

    def _unpin(self, job: JobId, gone: list[Cid]) -> list[AnyEffect]:
        for cid in gone:
            self.state.pinned[cid] -= 1
        free = tuple(cid for cid in dict.fromkeys(gone) if not self.state.pinned[cid])
        for cid in free:
            del self.state.pinned[cid]
        self.state.serial += bool(free)
        return [Do(key=f"let-go:{job}:{self.state.serial}", task=ReleaseBlobs(cids=free))] if free else []
