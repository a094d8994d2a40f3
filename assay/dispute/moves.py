"""What a dispute is about, where it stands, and the moves of both sides, as data.

Paths are siblings from the leaf up; roots, hashes and salts have 32 bytes. A move carries what the contract needs in the same
transaction; what the contract has checked before (a program's head, a stage) a state keeps. One file because this is the game's whole
vocabulary, and a move is understood by the fields of the state that it fills.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from assay.codec import Message
from assay.dispute.tree import Walk
from assay.ids import Address, Digest

Path = tuple[Digest, ...]

WALK_LINKS = (1 << 64) - 1
"""The unit of a challenger that was not served, and looks for the link in the commitment."""


class Side(enum.StrEnum):
    ASSERTER = "asserter"
    CHALLENGER = "challenger"

    @property
    def other(self) -> Side:
        return Side.CHALLENGER if self is Side.ASSERTER else Side.ASSERTER


class Phase(enum.StrEnum):
    SEALED = "sealed"
    LINKS = "links"
    TRACED = "traced"
    TRACE = "trace"
    STAGE = "stage"
    CHUNKS = "chunks"
    CHUNK = "chunk"
    NAME = "name"
    ELEMENT = "element"
    PICK = "pick"
    FINISH = "finish"
    RANGE = "range"
    END = "end"
    ENTRIES = "entries"
    ENTRY = "entry"
    BATCH = "batch"
    FIELDS = "fields"
    FIELD = "field"
    RECORD = "record"
    RESOLVED = "resolved"


class Verdict(enum.StrEnum):
    ASSERTER = "asserter"
    """has won."""
    CHALLENGER = "challenger"
    CONCEDED = "conceded"
    VOID = "void"


class Revealed(Message, frozen=True, kw_only=True):
    """A trace root that a verifier revealed: an assertion under its draw bond."""

    verifier: Address
    round: int
    unit: int
    agrees: bool
    trace_root: Digest


class Facts(Message, frozen=True, kw_only=True):
    """What the contracts know before a dispute begins, and its terms. Amounts in the token's smallest unit, times in seconds."""

    chain_id: int
    disputes: Address
    segment: int
    challenger: Address
    program_root: Digest
    schedule_root: Digest
    data_root: Digest
    steps: int
    """Rows of the job's schedule."""
    micro_batches: int
    micro_leaves: int
    update_leaves: int
    start: int
    stop: int
    parent_end: Digest
    """Root of the state before step `start`."""
    link_root: Digest
    revealed: tuple[Revealed, ...]
    open_window: int
    """From a seal to its opening."""
    grace: int
    """Free time of each move."""
    budget: int
    """Time beyond it, of each side, for all its moves."""
    bond: int
    """What the asserter has reserved."""
    stake: int
    """The challenger's bond."""
    allowance: int = 0
    """To replay the link in, before the asserter's clock runs: it begins so many seconds after the move that names the link."""


class Moment(NamedTuple):
    block: int
    time: int


class State(NamedTuple):
    """Where a dispute stands; fields of later phases are empty before them."""

    facts: Facts
    digest: Digest
    opened: Moment
    phase: Phase = Phase.SEALED
    turn: Side = Side.CHALLENGER
    since: int = 0
    """When the turn began, or, while the link is being replayed, will begin."""
    spent: tuple[int, int] = (0, 0)
    """Of the asserter's and the challenger's budget."""
    moves: tuple[int, int] = (0, 0)
    verdict: Verdict | None = None
    reason: str = ""
    unit: int = 0
    step: int = 0
    m: int = 0
    revealed: Revealed | None = None
    """Target 1."""
    state_root: Digest = Digest(b"")
    acc_root: Digest = Digest(b"")
    """32 zero bytes at a step's first micro-batch."""
    batch_root: Digest = Digest(b"")
    end_root: Digest = Digest(b"")
    trace_root: Digest = Digest(b"")
    walk: Walk | None = None
    place: int = 0
    """Leaf of the trace that the walk has come to."""
    head: bytes = b""
    """Of the program (assay.stages.program_head)."""
    stage: bytes = b""
    record: bytes = b""
    """Of the input that is the batch's field."""
    element: int = 0
    claimed: int | None = None
    """Bits of that element, when its chunk has been shown."""
    chunk: bytes = b""
    """While its element is named."""
    totals: tuple[int, ...] = ()
    roots: tuple[Digest, ...] = ()
    """Of the items of each fold."""
    shown: tuple[tuple[int, ...], ...] = ()
    """The first parts of each fold."""
    fold: int = 0
    low: int = 0
    high: int = 0
    total: int = 0
    parts: tuple[int, ...] = ()

    @property
    def is_update(self) -> bool:
        return self.m == self.facts.micro_batches

    @property
    def leaves(self) -> int:
        """Of the link's trace."""
        return self.facts.update_leaves if self.is_update else self.facts.micro_leaves


class Shown(Message, frozen=True, kw_only=True):
    """What has been shown in a dispute and must be brought again with a move, since the contract keeps only its hash. Fields of later
    phases are empty before them, as in State."""

    program_root: Digest
    data_root: Digest
    schedule_root: Digest
    state_root: Digest
    acc_root: Digest
    batch_root: Digest
    end_root: Digest
    trace_root: Digest
    steps: int
    step: int
    m: int
    micro_batches: int
    leaves: int
    head: bytes
    stage: bytes
    record: bytes
    totals: tuple[int, ...]
    roots: tuple[Digest, ...]
    folded: tuple[tuple[int, ...], ...]
    """The first parts of each fold."""
    chunk: bytes
    """While its element is to be named."""
    low: int
    high: int
    total: int
    parts: tuple[int, ...]


def shown(state: State) -> Shown:
    """What moves from `state` on may have to bring again."""
    facts = state.facts
    return Shown(
        program_root=facts.program_root, data_root=facts.data_root, schedule_root=facts.schedule_root, state_root=state.state_root,
        acc_root=state.acc_root, batch_root=state.batch_root, end_root=state.end_root, trace_root=state.trace_root, steps=facts.steps,
        step=state.step, m=state.m, micro_batches=facts.micro_batches, leaves=state.leaves, head=state.head, stage=state.stage,
        record=state.record, totals=state.totals, roots=state.roots, folded=state.shown, chunk=state.chunk, low=state.low, high=state.high,
        total=state.total, parts=state.parts,
    )  # fmt: skip


class Move(Message, frozen=True, kw_only=True):
    pass


class Open(Move, frozen=True, kw_only=True):
    target: int
    """0: the provider's link; 1: the trace root that a verifier revealed with its yes."""
    unit: int
    verifier: Address
    round: int
    salt: Digest


class Concede(Move, frozen=True, kw_only=True):
    pass


class Reveal(Move, frozen=True, kw_only=True):
    children: Path


class Point(Move, frozen=True, kw_only=True):
    """At a descendant of the walk's node: its index among those of its height, its hash, and the path from it up to the walk's node.

    With `element`, which is in that chunk, for a challenger who has its bytes from elsewhere: Name at once.
    """

    index: int
    node: Digest
    path: Path
    element: int | None = None


class Named(Message, frozen=True, kw_only=True):
    """A link's end with its path: of the link's own under the link root, of one before it to where that path meets it."""

    root: Digest
    path: Path


class Trace(Move, frozen=True, kw_only=True):
    """`head_path` and `end_path`, of the first and the last leaf, lead to the children."""

    state: Named | None
    """None in a segment's first step: it is the parent's end."""
    acc: Named | None
    """None at a step's first micro-batch."""
    end: Named
    batch_root: Digest
    trace_root: Digest
    head_path: Path
    end_path: Path
    children: Path


class Stage(Move, frozen=True, kw_only=True):
    head: bytes
    stage: bytes
    path: Path
    """Of the stage under the part's root of stages."""
    chunks: Digest
    children: Path


class Chunk(Move, frozen=True, kw_only=True):
    """The 1024 bytes of the leaf that the walk has come to."""

    chunk: bytes


class Name(Move, frozen=True, kw_only=True):
    """Which element of that chunk is wrong."""

    element: int


class Opening(Message, frozen=True, kw_only=True):
    """One element of an operand: the tensor's root under the trace, or by the record of an input, and its chunk."""

    input: bytes
    """Empty for the output of a stage."""
    input_path: Path
    count: int
    """Entries of the state, accumulator or batch."""
    entries: Digest
    """The root over them."""
    path: Path
    """Of the entry, or of the leaf of the trace."""
    chunks: Digest
    chunk: bytes
    chunk_path: Path


class Prove(Move, frozen=True, kw_only=True):
    chunk: bytes
    """Of the output; empty when Chunk has shown it."""
    needs: tuple[Opening, ...]


class Fold(Move, frozen=True, kw_only=True):
    """Of each fold the total, the root over its items (merkle.sha256-trees of int256; zeros where they are not shown), its first parts."""

    totals: tuple[int, ...]
    roots: tuple[Digest, ...]
    parts: tuple[tuple[int, ...], ...]


class FoldItem(Message, frozen=True, kw_only=True):
    """An item of a fold, under the root that the asserter has shown."""

    item: int
    value: int
    path: Path


class Pick(Move, frozen=True, kw_only=True):
    """A part of a range. After a fold: one of the folds and a part or an item of it; or, with the number of folds, the output itself."""

    which: int
    part: int = 0
    item: FoldItem | None = None


class Finish(Move, frozen=True, kw_only=True):
    """The output from the totals."""

    chunk: bytes
    needs: tuple[Opening, ...]


class Split(Move, frozen=True, kw_only=True):
    parts: tuple[int, ...]


class Item(Move, frozen=True, kw_only=True):
    needs: tuple[Opening, ...]


class End(Move, frozen=True, kw_only=True):
    head: bytes
    count: int
    entries: Digest
    children: Path


class EndEntry(Move, frozen=True, kw_only=True):
    """That an entry of the end is the value that the program names for it."""

    record: bytes
    record_path: Path
    tensor: Digest
    input: bytes
    input_path: Path
    count: int
    entries: Digest
    path: Path


class Batch(Move, frozen=True, kw_only=True):
    count: int
    entries: Digest
    children: Path


class Missing(Move, frozen=True, kw_only=True):
    """The challenger's: an input that is a field which the batch is too short for."""

    head: bytes
    at: int
    input: bytes
    input_path: Path


class BatchEntry(Move, frozen=True, kw_only=True):
    head: bytes
    at: int
    input: bytes
    input_path: Path
    chunks: Digest
    children: Path


class Gather(Move, frozen=True, kw_only=True):
    chunk: bytes
    data: bytes
    """What the data root is the hash of (assay.job.data_head)."""
    shard: bytes
    shard_at: int
    shard_path: Path
    salt: Digest
    record: bytes
    record_path: Path


class Timeout(Move, frozen=True, kw_only=True):
    """Anyone's, when the side whose turn it is has no time left."""


AnyMove = (
    Open | Concede | Reveal | Point | Trace | Stage | Chunk | Name | Prove | Fold | Pick | Finish | Split | Item | End | EndEntry | Batch | Missing
    | BatchEntry | Gather | Timeout
)  # fmt: skip
