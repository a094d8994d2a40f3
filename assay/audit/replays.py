"""Links computed again, and held against what was committed: random ones for an audit, those of one step for a check.

A step alone, where its provider shows the state before it and the ends of its links (assay.audit.provider). Else, since the end of a single
link is on chain only under its segment's link root, the whole segment, from the last state that the caller can open: its root then vouches
for every link of it, and so do the end root and the trace roots that verifiers revealed. What is sealed opens with keys that the chain released to the caller or
that are in its own ring: a client holds those of its data and its initial state, a provider or verifier those of the segments it had to do with.

What is wrong is told as far down as the provider shows its own run: the first link that differs, its first stage, the first element.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from assay import links, merkle
from assay.audit.bases import Bases
from assay.audit.books import Seg
from assay.audit.documents import MAX_STATE, SLACK, Documents
from assay.audit.provider import NotShown, Provider, Providers
from assay.chain import FAILED
from assay.codec import Message
from assay.dispute.answers import part
from assay.dispute.parting import Parted
from assay.engine import JobFiles, LinkParted, LinkReplayed, LinksOpened, LinksRun, OpenLinks, OwnRun, PartLink, ReplayLink, RunLinks
from assay.ids import Digest, SegmentId
from assay.job import JobSpec, SealedRef
from assay.ports import Outage
from assay.runtime import Fault, TaskFailed
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


class Replays:
    """`documents` have been checked; `progress` hears of each step (engine.StepDone); with `traces` drawn links of a segment that is run whole are
    traced, too."""

    def __init__(
        self, documents: Documents, spec: JobSpec, bases: Bases, providers: Providers, progress: Callable[[Message], None] = quietly,
        traces: bool = True,
    ) -> None:  # fmt: skip
        self.documents, self.spec, self.bases, self.providers = documents, spec, bases, providers
        self.progress, self.traces = progress, traces
        self.where: list[Where] = []
        """Of what is wrong, as far as it was found."""
        self.shop, self.ring, self.library = documents.shop, documents.ring, documents.library
        self.terms, self.auditor = documents.terms, documents.auditor
        self._done: dict[SegmentId, LinksRun] = {}
        self._not: dict[SegmentId, Unopened] = {}
        self._steps: set[tuple[SegmentId, int]] = set()
        self._shut: dict[SegmentId, str] = {}
        """Segments whose steps cannot be checked alone, and why."""

    def choose(self, count: int, seed: int) -> list[tuple[Seg, int]]:
        """`count` links (all, if there are fewer) of segments that are committed and have not failed, by a seeded draw."""
        every = [
            (seg, unit)
            for seg in self.auditor.mine
            if seg.end_root is not None and seg.state not in FAILED
            for unit in range(links.count(seg.steps, self.terms.micro_batches))
        ]
        chosen = random.Random(seed).sample(range(len(every)), min(count, len(every)))
        return [every[i] for i in sorted(chosen)]

    async def run(self, count: int, seed: int) -> int:
        """Replays; returns how many links were chosen."""
        chosen = self.choose(count, seed)
        if not chosen:
            self.auditor.sheet.check("replay", None, "no link could be chosen: nothing is committed, or all of it failed")
        for seg, unit in chosen:
            try:
                if not await self.step(seg, seg.start + links.place(unit, self.terms.micro_batches)[0]):
                    await self.segment(seg)
            except Unopened as error:
                seg.sheet.check("replay", None, f"link {unit} could not be computed again: {error}")
        return len(chosen)

    # ---- a step alone ----------------------------------------------------------------------------------------------------

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
        before = await self._before(provider, seg, step, folder)
        job = await self._files(folder, range(step, step + 1))
        task = RunLinks(job=job, segment=folder.name, start=step, stop=step + 1, parent_root=before, keep=KEEP)
        await self.shop.engine.run(task, self.shop.root, self.progress)
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

    # ---- a whole segment -------------------------------------------------------------------------------------------------

    async def segment(self, seg: Seg) -> LinksRun:
        """Runs a segment, once, from the nearest state before it that opens; compares. Raises Unopened."""
        if seg.number in self._not:
            raise self._not[seg.number]
        if seg.number in self._done:
            return self._done[seg.number]
        try:
            return await self._run(seg)
        except TaskFailed as error:
            self._not[seg.number] = Unopened(str(error))
            if error.fault is Fault.PEER:
                seg.sheet.check("replay", False, f"what it starts from or reads is not what was published: {error}")
        except Outage as error:
            self._not[seg.number] = Unopened(str(error))
        except Unopened as error:
            self._not[seg.number] = error
        raise self._not[seg.number]

    def ahead(self, seg: Seg) -> int:
        """Steps that `segment` would run: its own, and those since the nearest state before it that opens."""
        above = self.auditor.books.segs.get(seg.parent)
        opens = above is None or self.ring.has(self._parent(above).key_id)
        return seg.steps if opens or above is None else seg.steps + self.ahead(above)

    async def _run(self, seg: Seg) -> LinksRun:
        folder = self.shop.open_folder(seg.number, self.terms.spec)
        above = self.auditor.books.segs.get(seg.parent)
        parent, root = self._above(seg)
        if self.ring.has(parent.key_id):
            await self._have(parent, "the state that it starts from", MAX_STATE)
            await self.shop.put_parent(folder, seg.start, parent)
        elif above is None:
            raise Unopened("the job's initial state is sealed, and this account holds no key to it")
        else:
            try:
                before = await self.segment(above)
            except Unopened as error:
                why = f"segment {above.number}, whose sealed end it starts from, cannot be computed either: {error.args[-1]}"
                raise Unopened(why, error.args[-1]) from None
            shutil.copyfile(self.shop.folder(above.number) / before.state, folder / f"state-{seg.start}.safetensors")
        job = await self._files(folder, range(seg.start, seg.stop))
        run = await self.shop.engine.run(
            RunLinks(job=job, segment=folder.name, start=seg.start, stop=seg.stop, parent_root=root, keep=KEEP), self.shop.root, self.progress
        )
        assert isinstance(run, LinksRun)
        self._done[seg.number] = run
        check = seg.sheet.check
        self._keep_base(job)
        same = run.link_root == seg.link_root
        first = "" if same else await self._first(seg, folder.name, job, root)
        check("replay", same, f"its links have the root {run.link_root.hex()[:16]}…, another was committed; {first}")
        check("replay", run.end_root == seg.end_root, f"it ends in the state {run.end_root.hex()[:16]}…, another was committed")
        if self.traces or not same:
            await self._traces(seg, job, root)
        return run

    async def _first(self, seg: Seg, folder: str, job: JobFiles, root: Digest) -> str:
        """The first link of a segment that was run whole and is not as it was committed, in words."""
        ends = [end for record in read_records(self.shop.root / folder, self.terms.micro_batches) for end in record.ends]
        try:
            unit = await self.providers.of(seg).first(ends)
        except (NotShown, Outage) as error:
            return f"at which step is not to be seen: its provider does not show its link ends ({error})"
        if unit is None:
            return "the link ends that its provider shows are those that come out here"
        asked = PartLink(
            job=job, dataset=self.spec.dataset, segment=folder, start=seg.start, stop=seg.stop, own=OwnRun(parent_root=root, keep=KEEP),
            unit=unit, named=unit, committed=Digest(b""),
        )  # fmt: skip
        return f"the first that differs is {await self._locate(seg, asked)}"

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

    # ---- traces ----------------------------------------------------------------------------------------------------------

    async def _traces(self, seg: Seg, job: JobFiles, root: Digest) -> None:
        """The drawn links of a segment are traced, and held against what verifiers revealed who said yes."""
        units = tuple(dict.fromkeys(seg.units))
        if not units:
            return
        name = self.shop.folder(seg.number).name
        asked = OpenLinks(job=job, segment=name, start=seg.start, stop=seg.stop, parent_root=root, keep=KEEP, units=units)
        opened = await self.shop.engine.run(asked, self.shop.root, quietly)
        assert isinstance(opened, LinksOpened)
        traced = {}
        for link in opened.opened:
            offset, m = links.place(link.unit, self.terms.micro_batches)
            if m < self.terms.micro_batches:
                await self.shop.put_batch(self.shop.folder(seg.number), self.spec, link.unit, seg.start + offset, m)
            replay = ReplayLink(
                job=job, segment=name, unit=link.unit, step=seg.start + offset, m=m, state_end=link.ends[0] if offset else root,
                acc_end=link.ends[-2] if m else Digest(b""), end=link.ends[-1],
                leaves=self.terms.update_leaves if m == self.terms.micro_batches else self.terms.micro_leaves,
            )  # fmt: skip
            found = await self.shop.engine.run(replay, self.shop.root, quietly)
            assert isinstance(found, LinkReplayed)
            traced[link.unit] = found.trace_root
        for number, committee in seg.rounds.items():
            for who, vote in committee.votes.items():
                wrong = [unit for unit, told in zip(seg.units, vote.trace_roots, strict=False) if traced[unit] != told]
                said = f"{who} said yes in round {number} with a trace of link {wrong[:1]} that does not come out here"
                if vote.opened and vote.agrees:
                    seg.sheet.check("replay", not wrong, said)
