"""Jobs: a posted job's document, program and schedule are fetched and checked against the terms before anything else.

    unknown -> fetching the document -> loading -> fetching program and schedule -> checking -> ready | refused (why)
"""

from __future__ import annotations

from assay.ids import Cid, JobId, PeerId
from assay.job import JobSpec, data_root
from assay.role.base import SLACK, SPEC_LIMIT, Base, JobEntry, RoleConfig
from assay.runtime import (
    Do,
    Durable,
    Failed,
    Fault,
    Fetch,
    Result,
)
from assay.tasks import CheckProgram, JobLoaded, LoadJob, ProgramChecked


class Jobs(Base):
    def __init__(self, config: RoleConfig) -> None:
        super().__init__(config)
        self._kinds |= {"spec": self._on_spec, "load": self._on_load, "program": self._on_program, "check": self._on_check}

    def _want_job(self, job: JobId, near: tuple[PeerId, ...] = ()) -> None:
        """Starts to get a posted job's document, unless that is under way."""
        facts = self.state.facts.jobs.get(job)
        if facts is None or job in self.state.jobs:
            return
        peers = [*near, *self.state.facts.peer(facts.client), *self.state.facts.peer(facts.scheduler)]
        entry = self.state.jobs[job] = JobEntry(near=list(dict.fromkeys(peers)))
        self._do(Fetch(key=f"spec:{job}", cid=facts.terms.spec, limit=SPEC_LIMIT, near=tuple(entry.near)))

    def _forget_job(self, job: JobId) -> None:
        """A job that has ended, and of which nothing is live here, is not needed any more: its document may be large."""
        facts = self.state.facts
        if facts.jobs[job].over and not any(seg.live or seg.segment in facts.pinned for seg in facts.of_job(job)):
            self.state.jobs.pop(job, None)

    def _job(self, job: JobId) -> JobSpec | None:
        """The document of a job that may be worked on."""
        entry = self.state.jobs.get(job)
        return entry.spec if entry is not None and entry.stage == "ready" else None

    def _refuse(self, job: JobId, reason: str) -> None:
        entry = self.state.jobs[job]
        entry.stage, entry.reason, entry.waiting, entry.spec = "refused", reason, [], None
        self._note("refused", f"job {job} is refused: {reason}", job=job, reason=reason)
        self._job_refused(job, reason)

    def _job_failed(self, job: JobId, event: Failed, effect: Durable) -> None:
        """An outage is waited out; a document or program that is wrong refuses the job."""
        if event.fault in (Fault.OUTAGE, Fault.OWN):
            self._note("waiting", f"job {job}: {event.error}; trying again", job=job)
            self._later(effect)
        else:
            self._refuse(job, event.error)

    def _on_spec(self, event: Result, rest: list[str]) -> None:
        job = JobId(int(rest[0]))
        if job not in self.state.jobs:
            return
        cid = self.state.facts.jobs[job].terms.spec
        if isinstance(event, Failed):
            near = tuple(self.state.jobs[job].near)
            return self._job_failed(job, event, Fetch(key=event.key, cid=cid, limit=SPEC_LIMIT, near=near))
        self.state.jobs[job].stage = "loading"
        self._do(Do(key=f"load:{job}", task=LoadJob(job=job, spec=cid)))

    def _on_load(self, event: Result, rest: list[str]) -> None:
        job = JobId(int(rest[0]))
        if job not in self.state.jobs:
            return
        terms = self.state.facts.jobs[job].terms
        if isinstance(event, Failed):
            return self._job_failed(job, event, Do(key=event.key, task=LoadJob(job=job, spec=terms.spec)))
        loaded: JobLoaded = self._outcome(event, JobLoaded)
        spec, entry = loaded.spec, self.state.jobs[job]
        if loaded.spec_digest != terms.spec_digest:
            return self._refuse(job, "its document is not the one the contract names")
        for name in ("program_root", "state_root", "schedule_root", "steps", "micro_batches", "segment_steps", "key_service"):
            if getattr(spec, name) != getattr(terms, name):
                return self._refuse(job, f"its document and its terms differ in {name}")
        if data_root(spec.dataset, spec.order, spec.batch) != terms.dataset_root:
            return self._refuse(job, "its document and its terms differ in dataset_root")
        schedule = spec.steps * len(spec.scalars) * 4
        largest = max(schedule, *(ref.size for ref in (spec.state, *spec.shared_blobs)))
        if largest > self.base.max_blob:
            return self._refuse(job, f"it has a blob of {largest} bytes; this node takes up to {self.base.max_blob}")
        entry.spec, entry.stage, entry.waiting = spec, "program", [spec.program, spec.schedule]
        self._do(Fetch(key=f"program:{job}:{spec.program}", cid=spec.program, limit=self.base.max_blob, near=tuple(entry.near)))
        self._do(Fetch(key=f"program:{job}:{spec.schedule}", cid=spec.schedule, limit=schedule + SLACK, near=tuple(entry.near)))

    def _on_program(self, event: Result, rest: list[str]) -> None:
        job, cid = JobId(int(rest[0])), Cid(rest[1])
        if job not in self.state.jobs:
            return
        entry, terms = self.state.jobs[job], self.state.facts.jobs[job].terms
        if cid not in entry.waiting or entry.spec is None:
            return
        if isinstance(event, Failed):
            return self._job_failed(job, event, Fetch(key=event.key, cid=cid, limit=self.base.max_blob, near=tuple(entry.near)))
        entry.waiting.remove(cid)
        if not entry.waiting:
            entry.stage = "checking"
            self._do(Do(key=f"check:{job}", task=CheckProgram(job=job, spec=terms.spec, program=entry.spec.program)))

    def _on_check(self, event: Result, rest: list[str]) -> None:
        job = JobId(int(rest[0]))
        if job not in self.state.jobs:
            return
        entry, terms = self.state.jobs[job], self.state.facts.jobs[job].terms
        assert entry.spec is not None
        if isinstance(event, Failed):
            return self._job_failed(job, event, Do(key=event.key, task=CheckProgram(job=job, spec=terms.spec, program=entry.spec.program)))
        found: ProgramChecked = self._outcome(event, ProgramChecked)
        if found.root != terms.program_root:
            return self._refuse(job, "its program is not the one the contract names")
        if (found.micro_leaves, found.update_leaves) != (terms.micro_leaves, terms.update_leaves):
            return self._refuse(job, f"its traces have {found.micro_leaves} and {found.update_leaves} leaves, its terms say otherwise")
        if found.peak_memory > self.base.max_memory:
            return self._refuse(job, f"it needs {found.peak_memory} bytes of memory; this node gives {self.base.max_memory}")
        if max(found.micro_flops, found.update_flops) > self.base.max_flops:
            return self._refuse(job, f"one link needs {max(found.micro_flops, found.update_flops)} operations; the limit is {self.base.max_flops}")
        entry.micro_flops, entry.update_flops, entry.peak_memory = found.micro_flops, found.update_flops, found.peak_memory
        entry.stage = "ready"
        how = f", with its state in files of at most {found.on_disk} bytes" if found.on_disk else ""
        self._note("job", f"job {job} ({entry.spec.name}) can be done here{how}", job=job, name=entry.spec.name, on_disk=found.on_disk)
        self._job_ready(job)
