"""A step of a job computed again by itself, from the state that was committed before it: one that its provider shows, or a checkpoint.

What is wrong is told as far down as the provider shows its own run: the first link that differs, its first stage, the first element.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from assay import links, merkle
from assay.audit.bases import Bases
from assay.audit.books import Seg
from assay.audit.documents import MAX_STATE, SLACK, Documents
from assay.audit.provider import NotShown, Provider, Providers
from assay.codec import Message
from assay.dispute.answers import part
from assay.dispute.questions import Parted
from assay.engine import JobFiles, LinkParted, LinksRun, OwnRun, PartLink, RunLinks
from assay.ids import Digest, SegmentId
from assay.job import JobSpec, SealedRef
from assay.ports import Outage
from assay.runtime import TaskFailed
from assay.segment import read_records, write_tensors
from assay.state import BadTensors, from_bytes, state_root
from assay.workshop import quietly

KEEP = 1 << 30
"""Bytes of states that are kept of a run."""


class Unopened(Exception):
    """Something that a run needs cannot be opened or had: (what to tell, and the reason at the bottom of it, if that is another)."""

    def __str__(self) -> str:
        return str(self.args[0])


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """The first link of a segment, or of a step, whose end is not the committed one."""

    segment: SegmentId
    step: int
    m: int
    update: bool
    parted: Parted | None
    """None where the provider does not show what it has computed, for `why`."""
    why: str = ""

    def __str__(self) -> str:
        link = f"step {self.step}, {'its update' if self.update else f'micro-batch {self.m}'}"
        if self.parted is None:
            return f"{link}; where in it is not to be seen: its provider shows no more ({self.why})"
        p = self.parted
        return f"{link}, {p.what}" + (f": element {p.element} is {p.ours} here, {p.theirs} there" if p.element is not None else "")


class Ahead(msgspec.Struct, frozen=True, kw_only=True):
    """What a check is about to take."""

    alone: bool
    steps: int
    operations: int
    """Of all of them."""
    fetch: int
    """Bytes that are not here yet, without the frozen tensors; a state counts as large as the job's first."""
    base: int
    """Bytes of the frozen tensors, if these are not here."""


class Steps:
    """`documents` have been checked; `progress` hears of each step (engine.StepDone)."""

    def __init__(
        self, documents: Documents, spec: JobSpec, bases: Bases, providers: Providers, progress: Callable[[Message], None] = quietly
    ) -> None:
        self.documents, self.spec, self.bases, self.providers, self.progress = documents, spec, bases, providers, progress
        self.shop, self.ring, self.library = documents.shop, documents.ring, documents.library
        self.terms, self.auditor = documents.terms, documents.auditor
        self.where: list[Where] = []
        """Of what is wrong, as far as it was found."""
        self.told: Callable[[Ahead], None] = lambda ahead: None
        """Hears what is to come before it is fetched and computed."""
        self.milliseconds = 0
        """That the engine has spent in steps."""
        self._done: dict[SegmentId, LinksRun] = {}
        """Segments that were run whole."""
        self._steps: set[tuple[SegmentId, int]] = set()
        self._shut: dict[SegmentId, str] = {}
        """Segments whose steps cannot be checked alone, and why."""

    async def step(self, seg: Seg, step: int) -> bool:
        """Checks one step by itself, once; False, and no more, where what that takes is not to be had."""
        if (seg.number, step) in self._steps:
            return True
        if seg.number in self._done or seg.number in self._shut:
            return False
        try:
            await self._step(seg, step)
        except (NotShown, Unopened, Outage, TaskFailed) as error:
            self._shut[seg.number] = str(error)  # a segment that is run whole needs other things, and says what is wrong with those
            return False
        self._steps.add((seg.number, step))
        return True

    async def _step(self, seg: Seg, step: int) -> None:
        provider, m = self.providers.of(seg), self.terms.micro_batches
        first = (step - seg.start) * (m + 1)
        committed = [await provider.leaf(first + i) for i in range(m + 1)]
        folder = self.shop.root / f"segment-{seg.number}-step-{step}"
        folder.mkdir(exist_ok=True, mode=0o700)
        (folder / "job").write_text(f"job-{self.terms.spec}")
        self.told(await self.ahead(range(step, step + 1), alone=True))
        before = await self._before(provider, seg, step, folder)
        job = await self._files(folder, range(step, step + 1))
        task = RunLinks(job=job, segment=folder.name, start=step, stop=step + 1, parent_root=before, keep=KEEP)
        run = await self.shop.engine.run(task, self.shop.root, self.progress)
        assert isinstance(run, LinksRun)
        self.milliseconds += run.milliseconds
        self._keep_base(job)
        ends = read_records(folder, m)[0].ends
        wrong = next((i for i, end in enumerate(ends) if merkle.leaf(first + i, end) != committed[i]), None)
        if wrong is None:
            seg.sheet.check("replay", True, "")
            return
        asked = PartLink(
            job=job, dataset=self.spec.dataset, segment=folder.name, start=step, stop=step + 1, own=OwnRun(parent_root=before, keep=KEEP),
            unit=wrong, named=first + wrong, committed=Digest(b""),
        )  # fmt: skip
        where = await self._locate(seg, asked)
        seg.sheet.check("replay", False, f"from the state before it that was committed, what was committed does not come out: {where}")

    async def _before(self, provider: Provider, seg: Seg, step: int, folder: Path) -> Digest:
        """The state before a step is in its folder: the parent's checkpoint if that opens, else what the provider shows. Its root."""
        parent, root = self._above(seg)
        if step == seg.start and self.ring.has(parent.key_id):
            await self._have(parent, "the state that it starts from", MAX_STATE)
            await self.shop.put_parent(folder, step, parent)
            return root
        shown = await provider.state(step, root)
        why = await self.library.fetch(shown.cid, MAX_STATE, (provider.peer,))
        if why:
            raise NotShown(f"the state that it shows cannot be had: {why}")
        if self.ring.keys is None:
            raise NotShown("this is no account")
        try:
            key = self.ring.keys.unwrap(shown.wrapped)
            if self.ring.store(key) != shown.key_id:
                raise NotShown("the key of the state that it shows is another one than it names")
            ref = SealedRef(cid=shown.cid, size=MAX_STATE - SLACK, key_id=shown.key_id, envelope=b"")
            tensors = part(from_bytes(await self.shop.unsealed(ref), MAX_STATE), "state.")
        except (ValueError, BadTensors) as error:
            raise NotShown(f"the state that it shows does not open: {error}") from None
        if state_root(step, tensors) != shown.link_ends[0]:
            raise NotShown("the state that it shows is not the one that it committed to")
        write_tensors(folder / f"state-{step}.safetensors", tensors)
        return shown.link_ends[0]

    async def _locate(self, seg: Seg, task: PartLink) -> Where:
        """Where in a link that does not end as it was committed."""
        offset, m = links.place(task.named, self.terms.micro_batches)
        found, why = None, ""

        async def run(asked: PartLink) -> LinkParted:
            answer = await self.shop.engine.run(asked, self.shop.root, quietly)
            assert isinstance(answer, LinkParted)
            return answer

        try:
            found = await self.providers.of(seg).part(task, run)
        except (NotShown, Outage, TaskFailed) as error:
            why = str(error)
        update = m == self.terms.micro_batches
        where = Where(segment=seg.number, step=seg.start + offset, m=m, update=update, parted=found, why=why)
        self.where.append(where)
        return where

    # ---- what a run needs --------------------------------------------------------------------------------------------------

    async def ahead(self, steps: range, *, alone: bool) -> Ahead:
        """Of running some steps."""
        blobs, spec = self.library.blobs, self.spec
        shards = [spec.dataset.shards[i].sealed for i in await self.shop.shards_for(spec, steps)]
        fetch = spec.state.size + sum([ref.size for ref in shards if not await blobs.has(ref.cid)])
        here = self.bases.has(self.documents.frozen_root)
        base = 0 if here else sum([ref.size for ref in spec.frozen_blobs if not await blobs.has(ref.cid)])
        return Ahead(alone=alone, steps=len(steps), operations=len(steps) * self.documents.operations, fetch=fetch, base=base)

    def _keep_base(self, job: JobFiles) -> None:
        if (base := self.shop.root / job.folder / "frozen.safetensors").exists():
            self.bases.keep(self.documents.frozen_root, base)  # the engine has found its root to be that

    def _above(self, seg: Seg) -> tuple[SealedRef, Digest]:
        """The state that a segment starts from, and its root."""
        above = self.auditor.books.segs.get(seg.parent)
        root = self.terms.state_root if above is None else above.end_root
        assert root is not None
        return self._parent(above), root

    def _parent(self, above: Seg | None) -> SealedRef:
        if above is None:
            return self.spec.state
        assert above.checkpoint is not None
        assert above.key_id is not None
        return SealedRef(cid=above.checkpoint, size=MAX_STATE - SLACK, key_id=above.key_id, envelope=b"")

    async def _have(self, ref: SealedRef, what: str, limit: int) -> None:
        if not self.ring.has(ref.key_id):
            raise Unopened(f"{what} is sealed, and this account holds no key to it")
        why = await self.library.fetch(ref.cid, limit)
        if why:
            raise Unopened(f"{what}, {ref.cid}, cannot be had: {why}")

    async def _files(self, folder: Path, steps: range) -> JobFiles:
        """Frozen tensors and the records of some steps, in the clear, where the engine looks for them."""
        at = self.shop.root / f"job-{self.terms.spec}" / "frozen.safetensors"
        for ref in () if self.bases.take(self.documents.frozen_root, at) else self.spec.frozen_blobs:
            await self._have(ref, "the set of frozen tensors", ref.size + SLACK)
        for i in await self.shop.shards_for(self.spec, steps):
            ref = self.spec.dataset.shards[i].sealed
            await self._have(ref, f"shard {i} of the data", ref.size + SLACK)
        await self.shop.put_records(folder, self.spec, steps)
        return await self.shop.job_files(self.terms.spec, self.spec)
