"""Links computed again, and held against what was committed: random ones for an audit, those of one step for a check.

A step can be run alone where its provider shows the state before it and the ends of its links (assay.audit.alone): a check does that first, an
audit where nothing else is left. Else, since the end of a single link is on chain only under its segment's link root, the whole segment is
run, from the last state that the caller can open: its root then vouches for every link of it, and so do the end root and the trace roots that
verifiers revealed. What is sealed opens with keys that the chain released to the caller or that are in its own ring: a client holds those of
its data and its initial state, a provider or verifier those of the segments it had to do with.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable

from assay import links
from assay.audit.alone import KEEP, Steps, Unopened
from assay.audit.bases import Bases
from assay.audit.books import Seg
from assay.audit.documents import MAX_STATE, Documents
from assay.audit.provider import NotShown, Providers
from assay.chain import FAILED
from assay.codec import Message
from assay.engine import JobFiles, LinkReplayed, LinksOpened, LinksRun, OpenLinks, OwnRun, PartLink, ReplayLink, RunLinks
from assay.ids import Digest, SegmentId
from assay.job import JobSpec
from assay.ports import Outage
from assay.runtime import Fault, TaskFailed
from assay.segment import read_records
from assay.workshop import quietly


class Replays(Steps):
    """With `traces` drawn links of a segment that is run whole are traced, too."""

    def __init__(
        self, documents: Documents, spec: JobSpec, bases: Bases, providers: Providers, progress: Callable[[Message], None] = quietly,
        traces: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(documents, spec, bases, providers, progress)
        self.traces = traces
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
                if not await self.step(seg, seg.start + links.place(unit, self.terms.micro_batches)[0]):
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

    def before(self, seg: Seg) -> int:
        """Steps that `segment` would run: its own, and those since the nearest state before it that opens."""
        above = self.auditor.books.segs.get(seg.parent)
        opens = above is None or self.ring.has(self._parent(above).key_id)
        return seg.steps if opens or above is None else seg.steps + self.before(above)

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
        self.milliseconds += run.milliseconds
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
