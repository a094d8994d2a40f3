"""What a role's hands and the engine (assay.work) say to each other: tasks over plain files, and what came of them.

Nothing heavy is imported here, so that a daemon that waits for work stays small. A task names folders under the engine's root:

    <job>/      program.json, schedule.bin (f32 [steps, scalars], little-endian)
                frozen.safetensors                   the tensors that no step changes, if the program reads any
    <segment>/  state-<start>.safetensors            the parent's state, then those of the run (assay.segment)
                records-<shard>-<field>.npy          the records of the shards that the segment reads, [records, *shape]
                boundary-<unit>.safetensors          `state.*` and, inside a step, `acc.*`: written for serving, read for a replay
                batch-<unit>-<field>.npy             the records of a micro-batch that is replayed
                trace-<unit>.bin                     the leaves of its trace, 32 bytes each
                proven-<unit>.safetensors            the boundary again, once it was found to be the committed one: what a dispute may rest on
                record-<number>.json                 one record of the dataset with its salt and path, for a dispute that asks for it
                stop                                 a run ends after the step it is in
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from assay.codec import Message
from assay.dispute.moves import AnyMove, Facts, Named, Open, Path, Shown, Side
from assay.dispute.questions import Parted, Question, Told
from assay.dispute.record import Record
from assay.dispute.served import Given, Nodes, Wanted
from assay.energy import Energy
from assay.hearing import ChunkProof
from assay.ids import U32, U63, Digest
from assay.job import DatasetRef, Field
from assay.runtime import Fault

MAX_LINE = 1 << 24
MAX_BOUNDARY = 1 << 35
"""Bytes of a boundary in the clear."""
Folder = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")]


class EngineTask(Message, frozen=True, kw_only=True):
    """Something for the engine to do."""


class EngineResult(Message, frozen=True, kw_only=True):
    """What came of it."""


class JobFiles(Message, frozen=True, kw_only=True):
    """Where a job's files are and what they must be."""

    folder: Folder
    program_root: Digest
    schedule_root: Digest
    scalars: U32
    micro_batches: U32
    batch: U32
    order: Digest
    fields: tuple[str, ...]
    shard_records: tuple[U63, ...]
    """Records of each shard."""
    threads: U32 = 1
    memory: U63 = (1 << 63) - 1
    """Bytes that its links may take: what is made again to keep within them is found when its program is read."""
    disk: U63 = 0
    """Bytes of files that its state may lie in where memory is short (assay.exact.offload); 0: it stays in memory."""


class CheckFile(EngineTask, frozen=True, kw_only=True):
    """Is the program in <job>/program.json one that may be run?"""

    folder: Folder
    memory: U63
    flops: U63
    threads: U32 = 1
    """That it would run with."""
    disk: U63 = 0
    """As in JobFiles."""


class FileChecked(EngineResult, frozen=True, kw_only=True):
    root: Digest
    micro_flops: int
    update_flops: int
    peak_memory: int
    on_disk: int = 0
    """Bytes of files that its state would lie in; 0: it would be in memory."""
    micro_leaves: int
    update_leaves: int
    micro_batches: int
    scalars: tuple[str, ...]
    batch: tuple[Field, ...]
    """Of a whole micro-batch: axis 0 counts records."""
    frozen: int = 0
    """Bytes of the frozen tensors' elements."""
    frozen_root: Digest = Digest(b"")
    """Empty when it reads none."""


class RunLinks(EngineTask, frozen=True, kw_only=True):
    """Steps [start, stop) in folder `segment`, from where an earlier run of it ended."""

    job: JobFiles
    segment: Folder
    start: U63
    stop: U63
    parent_root: Digest
    keep: U63
    """Bytes of states to keep for serving."""


class StepDone(EngineResult, frozen=True, kw_only=True):
    """A step is on disk."""

    step: U63
    loss: U32
    """Bits of the f32 mean loss."""


class LinksRun(EngineResult, frozen=True, kw_only=True):
    stop: U63
    link_root: Digest
    end_root: Digest
    proof: tuple[Digest, ...]
    first_loss: U32
    last_loss: U32
    computed: U63
    milliseconds: U63
    energy: Energy | msgspec.UnsetType = msgspec.UNSET
    """Put in by whoever watches the engine's devices (assay.adapters.meters)."""
    state: Annotated[str, msgspec.Meta(pattern=r"^state-[0-9]{1,20}\.safetensors$")]
    """Name of the end state's file: the daemon reads and publishes it, so it leads nowhere else."""


class OpenLinks(EngineTask, frozen=True, kw_only=True):
    """Writes boundary-<unit>.safetensors for links of a segment; runs it first as far as it is not on disk."""

    job: JobFiles
    segment: Folder
    start: U63
    stop: U63
    parent_root: Digest
    keep: U63
    units: tuple[U63, ...]


class OpenChunk(EngineTask, frozen=True, kw_only=True):
    """The chunk of a link's end that `number` (32 bytes, big-endian) names among those of the drawn links `units` (assay.hearing); runs the
    segment first as far as it is not on disk."""

    job: JobFiles
    segment: Folder
    start: U63
    stop: U63
    parent_root: Digest
    keep: U63
    units: tuple[U63, ...]
    number: Digest


class ChunkOpened(EngineResult, frozen=True, kw_only=True):
    proof: ChunkProof


class OpenedLink(Message, frozen=True, kw_only=True):
    unit: U63
    file: Annotated[str, msgspec.Meta(pattern=r"^boundary-[0-9]{1,20}\.safetensors$")]
    ends: tuple[Digest, ...]
    """As in messages.Boundary.link_ends."""
    proofs: tuple[tuple[Digest, ...], ...]


class LinksOpened(EngineResult, frozen=True, kw_only=True):
    link_root: Digest
    opened: tuple[OpenedLink, ...]


class ReplayLink(EngineTask, frozen=True, kw_only=True):
    """Replays one link from boundary-<unit>.safetensors (and batch-<unit>-<field>.npy) and compares it with the committed ends."""

    job: JobFiles
    segment: Folder
    unit: U63
    step: U63
    m: U32
    state_end: Digest
    acc_end: Digest
    """Empty before a step's first micro-batch."""
    end: Digest
    leaves: U32
    again: bool = False
    """From what an earlier replay found to be the committed states, whatever has been served since."""


class LinkReplayed(EngineResult, frozen=True, kw_only=True):
    agrees: bool
    trace_root: Digest
    reason: str
    milliseconds: U63 = 0
    proven: bool = False
    """It was replayed from the very states that were committed to, so that whoever disagrees can show why."""


class AnswerDispute(EngineTask, frozen=True, kw_only=True):
    """The next move of one side of a dispute, from the inputs that this node has of the disputed link.

    A provider's come from the segment that it ran in folder `segment` (`own`); a verifier's are proven-<unit>.safetensors and
    batch-<unit>-<field>.npy, and `named` are the link ends that it was served, with their paths.
    """

    job: JobFiles
    dataset: DatasetRef
    segment: Folder
    facts: Facts
    record: Record
    side: Side
    block: U63
    time: U63
    """Of the chain's head."""
    own: OwnRun | None
    named: tuple[tuple[U63, Named], ...] = ()
    opening: Open | None = None
    """What a challenger sealed."""
    last: bool = False
    """Nothing more will be tried: who cannot compute again what it asserted concedes, if it still may."""
    served: tuple[Given, ...] | None = None
    """What the asserter has served of the tree that is walked now; None: it is not to be asked."""
    asked: Wanted | None = None
    """No move is wanted, but this, which the challenger has asked for."""


class ShowTree(EngineTask, frozen=True, kw_only=True):
    """What a provider shows of the segment that it ran in folder `segment`, or of one of its links."""

    job: JobFiles
    dataset: DatasetRef
    segment: Folder
    start: U63
    stop: U63
    own: OwnRun
    question: Question


class TreeShown(EngineResult, frozen=True, kw_only=True):
    nodes: Nodes | None
    """None: there is no such node."""


class PartLink(EngineTask, frozen=True, kw_only=True):
    """Where our run of a link, from the segment in folder `segment`, and that of its provider part."""

    job: JobFiles
    dataset: DatasetRef
    segment: Folder
    start: U63
    stop: U63
    own: OwnRun
    unit: U63
    """Counted from `start`."""
    named: U63
    """The same, counted from the start of the provider's segment."""
    committed: Digest
    """What the provider's ends in."""
    told: tuple[Told, ...] = ()
    """What the provider has shown so far."""


class LinkParted(EngineResult, frozen=True, kw_only=True):
    """One of the three."""

    parted: Parted | None = None
    question: Question | None = None
    """What the provider is to be asked next."""
    junk: str = ""
    """Why what it has shown is worth nothing."""


class OwnRun(Message, frozen=True, kw_only=True):
    parent_root: Digest
    keep: U63


class KeptRecord(Message, frozen=True, kw_only=True):
    """What record-<number>.json holds: all of a shard that a dispute over one record needs."""

    shard: U63
    salt: Digest
    data: bytes
    path: Path


class DisputeAnswered(EngineResult, frozen=True, kw_only=True):
    move: AnyMove | None
    shown: Shown
    why: str
    """Why there is no move; empty when there is one."""
    record: U63 | None = None
    """The record whose salt and path must be put into the folder first."""
    wanted: Wanted | None = None
    """What the asserter could serve, so that a better move than `move` is possible."""
    junk: bool = False
    """It has served what it has not committed to."""
    nodes: Nodes | None = None
    """What was asked for; None: that is not to be asked."""


class Failure(EngineResult, frozen=True, kw_only=True):
    fault: Fault
    error: str


AnyEngineTask = CheckFile | RunLinks | OpenLinks | OpenChunk | ReplayLink | AnswerDispute | ShowTree | PartLink
AnyEngineResult = FileChecked | StepDone | LinksRun | LinksOpened | ChunkOpened | LinkReplayed | DisputeAnswered | TreeShown | LinkParted | Failure
Progress = Callable[[StepDone], None]
