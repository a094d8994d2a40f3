"""Links computed again: random ones are chosen, the segments that they are in are run from the last state that the caller can open, and
what comes out is held against the committed link root, the end root and the trace roots that verifiers revealed.

The end of a single link is on chain only under its segment's link root, so a whole segment is run: its root then vouches for every link
of it. What is sealed opens with keys that the chain released to the caller or that are in its own ring: a client holds those of its
data and its initial state, a provider or verifier those of the segments it had to do with.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable

from assay import links
from assay.audit.bases import Bases
from assay.audit.books import Seg
from assay.audit.documents import MAX_STATE, SLACK, Documents
from assay.chain import FAILED
from assay.codec import Message
from assay.engine import JobFiles, LinkReplayed, LinksOpened, LinksRun, OpenLinks, ReplayLink, RunLinks
from assay.ids import Digest, SegmentId
from assay.job import JobSpec, SealedRef
from assay.ports import Outage
from assay.runtime import Fault, TaskFailed
from assay.workshop import quietly

KEEP = 1 << 30
"""Bytes of states that are kept of a run."""


class Unopened(Exception):
    """Something that a run needs cannot be opened or had: (what to tell, and the reason at the bottom of it, if that is another)."""

    def __str__(self) -> str:
        return str(self.args[0])


class Replays:
    """`documents` have been checked; `progress` hears of each step (engine.StepDone); with `traces` drawn links are traced, too."""

    def __init__(
        self, documents: Documents, spec: JobSpec, bases: Bases, progress: Callable[[Message], None] = quietly, traces: bool = True
    ) -> None:
        self.documents, self.spec, self.bases, self.progress, self.traces = documents, spec, bases, progress, traces
        self.shop, self.ring, self.library = documents.shop, documents.ring, documents.library
        self.terms, self.auditor = documents.terms, documents.auditor
        self._done: dict[SegmentId, LinksRun] = {}
        self._not: dict[SegmentId, Unopened] = {}

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
                await self.segment(seg)
            except Unopened as error:
                seg.sheet.check("replay", None, f"link {unit} could not be computed again: {error}")
        return len(chosen)

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
        root = self.terms.state_root if above is None else above.end_root
        assert root is not None
        parent = self._parent(above)
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
        job = await self._files(seg)
        run = await self.shop.engine.run(
            RunLinks(job=job, segment=folder.name, start=seg.start, stop=seg.stop, parent_root=root, keep=KEEP), self.shop.root, self.progress
        )
        assert isinstance(run, LinksRun)
        self._done[seg.number] = run
        check = seg.sheet.check
        if (base := self.shop.root / job.folder / "frozen.safetensors").exists():
            self.bases.keep(self.documents.frozen_root, base)  # the engine has found its root to be that
        same = check("replay", run.link_root == seg.link_root, f"its links have the root {run.link_root.hex()[:16]}…, another was committed")
        check("replay", run.end_root == seg.end_root, f"it ends in the state {run.end_root.hex()[:16]}…, another was committed")
        if self.traces or not same:
            await self._traces(seg, job, root)
        return run

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

    async def _files(self, seg: Seg) -> JobFiles:
        """Frozen tensors and records of a segment, in the clear, where the engine looks for them."""
        at = self.shop.root / f"job-{self.terms.spec}" / "frozen.safetensors"
        for ref in () if self.bases.take(self.documents.frozen_root, at) else self.spec.frozen_blobs:
            await self._have(ref, "the set of frozen tensors", ref.size + SLACK)
        steps = range(seg.start, seg.stop)
        for i in await self.shop.shards_for(self.spec, steps):
            ref = self.spec.dataset.shards[i].sealed
            await self._have(ref, f"shard {i} of the data", ref.size + SLACK)
        await self.shop.put_records(self.shop.folder(seg.number), self.spec, steps)
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
