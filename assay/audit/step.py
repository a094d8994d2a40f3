"""One step of a job, checked by whoever holds a key to a state before it: yes, or where not.

Where the provider shows the state before the step and the ends of its links, the step is run alone. Only the root over all links of a segment is on
chain, so where it does not (it has no files of a segment that has settled), the whole segment is run, from the nearest state before it that opens:
when its root and its end come out, every link of the step is the committed one. Fetched is what that takes, and no more: the job's document, program
and schedule, that state, the shards of the records that are read, and the frozen tensors if they are not at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from assay.audit.alone import Ahead, Unopened, Where
from assay.audit.auditor import Auditor
from assay.audit.bases import Bases
from assay.audit.books import Seg
from assay.audit.documents import Documents, Library, Ring
from assay.audit.provider import Providers
from assay.audit.record import Record
from assay.audit.replays import Replays
from assay.chain import FAILED, SegmentState
from assay.codec import Message
from assay.engine import StepDone
from assay.ids import Address, JobId, SegmentId
from assay.messages import Visit
from assay.ports import Blobs, Engine, Keys, Peers
from assay.workshop import Workshop


class NoSuchStep(LookupError):
    """The job has no such step, or it is not committed."""


class CannotTell(Exception):
    """The step can neither be confirmed nor refuted from here; says what is missing."""


class StepCheck(msgspec.Struct, frozen=True, kw_only=True):
    job: JobId
    step: int
    segment: SegmentId
    start: int
    stop: int
    provider: Address
    settled: bool
    wrong: tuple[str, ...]
    """What is not as it was committed or posted; empty when all is."""
    loss: int
    """Bits of the step's f32 mean loss, computed here; of NaN when the step was not reached."""
    computed: int
    """Steps run."""
    fetched: int
    """Bytes, without the frozen tensors."""
    base: int
    """Bytes of the frozen tensors that were fetched; 0 when they were at hand or the job has none."""
    alone: bool = False
    """The step was run by itself, from the state before it that its provider showed."""
    operations: int = 0
    milliseconds: int = 0
    """Of the steps that were computed, and what the engine took for them."""
    where: tuple[Where, ...] = ()
    """The first links that are not as they were committed, as far as they were found."""

    @property
    def agrees(self) -> bool:
        return not self.wrong


Progress = Callable[[int, int], None]
"""(steps done, steps in all); first with 0."""


async def check_step(
    record: Record, job: JobId, step: int, blobs: Blobs, keys: Keys | None, engine: Engine, folder: Path, bases: Bases, *, threads: int = 1,
    patience: int = 20, progress: Progress = lambda done, total: None, peers: Peers | None = None, visit: Visit | None = None,
    told: Callable[[Ahead], None] = lambda ahead: None,
) -> StepCheck:  # fmt: skip
    """`folder`, `peers` and `visit` as in audit_job; `told` hears what is to come before it is fetched. Raises auditor.NoSuchJob,
    NoSuchStep, CannotTell."""
    auditor = Auditor(record, job)
    auditor.run()
    seg = _covering(auditor, step)
    ring, library = Ring(keys, auditor.releases), Library(blobs, patience)
    documents = Documents(auditor, library, Workshop(folder, blobs, ring, engine, threads), ring)
    await documents.check()
    if documents.spec is None:
        raise CannotTell("; ".join(f.text for f in auditor.sheet.findings if f.check == "documents"))
    losses: dict[int, int] = {}
    done = 0

    def heard(message: Message) -> None:
        nonlocal done
        if isinstance(message, StepDone):
            losses[message.step] = message.loss
            done += 1
            progress(done, total)

    replays = Replays(documents, documents.spec, bases, Providers(record, peers, visit, documents.spec.micro_batches, patience), heard, traces=False)
    replays.told, total = told, 1
    try:
        alone = await replays.step(seg, step)
        if not alone:
            done, total = 0, replays.before(seg)
            told(await replays.ahead(range(seg.stop - total, seg.stop), alone=False))
            progress(0, total)
            await replays.segment(seg)
    except Unopened as error:
        if not _wrong(auditor):
            raise CannotTell(str(error)) from None
    frozen = {ref.cid for ref in documents.spec.frozen_blobs}
    return StepCheck(
        job=job, step=step, segment=seg.number, start=seg.start, stop=seg.stop, provider=seg.provider,
        settled=seg.state == SegmentState.SETTLED, wrong=_wrong(auditor), loss=losses.get(step, 0x7FC00000), computed=done,
        fetched=sum(size for cid, size in library.fetched.items() if cid not in frozen),
        base=sum(size for cid, size in library.fetched.items() if cid in frozen), alone=alone, where=tuple(replays.where),
        operations=done * documents.operations, milliseconds=replays.milliseconds,
    )  # fmt: skip


def _covering(auditor: Auditor, step: int) -> Seg:
    """The segment that the step's result stands in: the one that settled, else the newest that was committed and has not failed, else one
    that has failed. Raises NoSuchStep."""
    steps = auditor.books.jobs[auditor.job].terms.steps
    if not 0 <= step < steps:
        raise NoSuchStep(f"job {auditor.job} has the steps 0 to {steps - 1}")
    found = [seg for seg in auditor.mine if seg.start <= step < seg.stop and seg.end_root is not None]
    if not found:
        raise NoSuchStep(f"step {step} is not committed yet")
    return max(found, key=lambda seg: (seg.state == SegmentState.SETTLED, seg.state not in FAILED, seg.number))


def _wrong(auditor: Auditor) -> tuple[str, ...]:
    told = [("the job", f) for f in auditor.sheet.findings]
    told += [(f"segment {seg.number} (steps {seg.start}-{seg.stop})", f) for seg in auditor.mine for f in seg.sheet.findings]
    return tuple(f"{where}: {f.text}" for where, f in told if f.ok is False and f.check in ("documents", "replay"))
