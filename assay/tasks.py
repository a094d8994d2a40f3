"""Labour: what a machine wants done that is neither pure nor a matter of chain, peers or blobs alone, and what comes back.

A daemon's hands perform these (assay.daemon and the roles' `hands.py`): they may use keys, the block store and the engine. All
blobs that a task names are in the local store when it is given. A task may be done twice (after a crash), so each must be
harmless to repeat. One file because it is one flat list of declarations.
"""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from assay.chain import Offer, Opening, Release, Reveal, Terms
from assay.codec import Message
from assay.dispute.moves import AnyMove, Open, Revealed, Shown, Side
from assay.dispute.questions import Question
from assay.dispute.served import Given, Nodes, Wanted
from assay.energy import Energy
from assay.hearing import ChunkProof
from assay.ids import Address, Cid, Digest, DisputeId, JobId, PeerId, SegmentId
from assay.job import JobSpec, SealedRef
from assay.messages import Boundary, Means
from assay.reads import Reading


class Task(Message, frozen=True, kw_only=True):
    """Something to do."""


class Outcome(Message, frozen=True, kw_only=True):
    """What came of a task."""


class LoadJob(Task, frozen=True, kw_only=True):
    """Reads and checks the job document in blob `spec`. Fails with PEER when it is malformed."""

    job: JobId
    spec: Cid


class JobLoaded(Outcome, frozen=True, kw_only=True):
    job: JobId
    spec: JobSpec
    spec_digest: Digest


class ProgramChecked(Outcome, frozen=True, kw_only=True):
    job: JobId
    root: Digest
    micro_flops: int
    update_flops: int
    peak_memory: int
    micro_leaves: int
    update_leaves: int
    on_disk: int = 0
    """Bytes of files that its state lies in here, because it does not fit in memory; 0: it does."""
    frozen_root: Digest = Digest(b"")
    """Empty when it reads no frozen tensors."""


class CheckProgram(Task, frozen=True, kw_only=True):
    """Validates the program blob against the closed set and the job document in blob `spec`, and computes what it needs. Fails with
    PEER when it is refused."""

    job: JobId
    spec: Cid
    program: Cid


class SignOffer(Task, frozen=True, kw_only=True):
    """Signs an offer. Fails (OWN) when the account's free stake is less than `bond`: the contract would refuse the assignment."""

    offer: Offer
    bond: int = 0


class Signed(Outcome, frozen=True, kw_only=True):
    signature: bytes


class VerifyOffer(Task, frozen=True, kw_only=True):
    """Scheduler: fails unless the offer's provider signed it."""

    offer: Offer
    signature: bytes


class OfferVerified(Outcome, frozen=True, kw_only=True):
    proven_at: int = 0
    """Chain time of its provider's last good proof of hardware, as far as that has been examined; 0: none."""
    memory: int = 0
    """Bytes that it has proven."""
    rate: int = 0
    """Operations a second that it has proven."""
    free: int = -1
    """Its provider's stake that is not reserved; -1: not known."""
    workers: tuple[Address, ...] = ()
    """All workers that are known to be there; empty: there are many, or that is not known."""


class FindNodes(Task, frozen=True, kw_only=True):
    """Scheduler: who may do a range on which nobody has offered."""

    means: Means


class NodesFound(Outcome, frozen=True, kw_only=True):
    peers: tuple[PeerId, ...]
    """In no order."""


class KeepBlob(Task, frozen=True, kw_only=True):
    """Scheduler: keeps what it has mirrored until this chain time; ends the pins whose time is over."""

    cid: Cid
    until: int


class ReleaseBlobs(Task, frozen=True, kw_only=True):
    """Scheduler: what it has mirrored may go when room is needed."""

    cids: tuple[Cid, ...]


class PinsSet(Outcome, frozen=True, kw_only=True):
    pass


class StoreKey(Task, frozen=True, kw_only=True):
    """Unwraps a key, or the keys of some records of the shard that `key_id` is of, and keeps them. Fails with PEER when it is another key, or
    nothing that can be read."""

    key_id: Digest
    wrapped: bytes


class KeyStored(Outcome, frozen=True, kw_only=True):
    key_id: Digest
    whole: bool = True
    """False: of some records."""


class CheckRecords(Task, frozen=True, kw_only=True):
    """Verifier: opens the records that a draw reads, of shards that are in the store, with the keys that are here."""

    segment: SegmentId
    spec: Cid
    places: tuple[tuple[int, int], ...]
    """(step, micro-batch) of the drawn links."""


class RecordsChecked(Outcome, frozen=True, kw_only=True):
    missing: tuple[Digest, ...]
    """Ids of the shards' keys of whose records some cannot be opened yet."""
    false: tuple[tuple[Digest, str], ...]
    """Ids of those of whose records some do not open, and why."""


class GatherKey(Task, frozen=True, kw_only=True):
    """Makes a key of the shares (place of the holder, share) that key holders wrapped to this node, and keeps it. Fails with PEER when true
    shares give another key than `key_id` names."""

    key_id: Digest
    envelope: bytes
    shares: tuple[tuple[int, bytes], ...]


class KeyGathered(Outcome, frozen=True, kw_only=True):
    key_id: Digest
    kept: bool
    false: tuple[int, ...]
    """Places of holders whose share was false."""


class GatherRecords(Task, frozen=True, kw_only=True):
    """Verifier: makes the keys of the records that a draw reads of the shard with this key, of what its key holders wrapped to this node, by their
    places, and keeps them. Fails with PEER when the masks of the shard are none for its records."""

    spec: Cid
    places: tuple[tuple[int, int], ...]
    """(step, micro-batch) of the drawn links."""
    key_id: Digest
    answers: tuple[tuple[int, tuple[bytes, ...]], ...]


class RecordsGathered(Outcome, frozen=True, kw_only=True):
    key_id: Digest
    kept: bool
    false: tuple[int, ...]
    """Places of holders that answered falsely."""
    short: tuple[int, ...]
    """Of those whose answers lack a record that is read."""


class ReadManifest(Task, frozen=True, kw_only=True):
    """Reads the manifest of a published dataset. Fails with PEER when it is not the one whose digest is on chain."""

    cid: Cid
    digest: Digest


class ManifestRead(Outcome, frozen=True, kw_only=True):
    shards: tuple[tuple[Cid, int], ...]
    """With their sizes; empty: this node is none of its key holders."""


class DrawnKeys(Message, frozen=True, kw_only=True):
    """The envelopes of a job's shards, in order, and which micro-batches (step, number) were drawn: of these the records' keys are released."""

    shards: tuple[tuple[Digest, bytes, Address, bytes], ...]
    reading: Reading
    places: tuple[tuple[int, int], ...]


class WrapKeys(Task, frozen=True, kw_only=True):
    """Key service: opens `envelopes` (key id, envelope, account that published it, root of the published dataset that it is of or nothing)
    and wraps each key, or this holder's share of it, to each recipient (account, encryption key). No recipients: only checks the envelopes.
    With `drawn` also what the drawn links read of the shards; who needs nothing gets a release that says so."""

    envelopes: tuple[tuple[Digest, bytes, Address, bytes], ...]
    recipients: tuple[tuple[str, bytes], ...]
    drawn: DrawnKeys | None = None


class KeysWrapped(Outcome, frozen=True, kw_only=True):
    releases: tuple[Release, ...]
    bad: tuple[Digest, ...]
    """Envelopes that do not open, or open to another key than they name."""


class TakeKey(Task, frozen=True, kw_only=True):
    """Key service: wraps a checkpoint's key that was shown on chain to this node, as its `publisher` should have done; one release, to this
    node."""

    key: Digest
    publisher: Address


class TellKey(Task, frozen=True, kw_only=True):
    """Worker: the key of a checkpoint of its own, to be shown to everybody."""

    key_id: Digest
    checkpoint: Cid


class KeyTold(Outcome, frozen=True, kw_only=True):
    key: Digest
    checkpoint: Digest
    """assay.draw.checkpoint_digest."""


class RunSegment(Task, frozen=True, kw_only=True):
    """Executes steps [start, stop) from the state in `parent`, keeping what serving a drawn unit needs. Takes up from what an
    interrupted run of the same segment left on disk. Fails with PEER when the parent's state or the data is not what was committed."""

    segment: SegmentId
    job: JobId
    spec: Cid
    start: int
    stop: int
    parent: SealedRef
    parent_root: Digest
    scheduler: PeerId
    """Gets the heartbeats."""


class PrepareSegment(Task, frozen=True, kw_only=True):
    """Lays out what a run of steps [start, stop) reads, while another segment computes; RunSegment then finds it. Fails with OWN when the disk
    has no room for it beside what runs."""

    segment: SegmentId
    job: JobId
    spec: Cid
    start: int
    stop: int
    parent: SealedRef


class SegmentPrepared(Outcome, frozen=True, kw_only=True):
    segment: SegmentId


class SegmentRun(Outcome, frozen=True, kw_only=True):
    segment: SegmentId
    stop: int
    link_root: Digest
    end_root: Digest
    proof: tuple[Digest, ...]
    """Opens the last link end under the link root."""
    checkpoint: SealedRef
    """`envelope` is wrapped to the job's key service."""
    first_loss: int
    last_loss: int
    """f32 bit patterns of the mean loss of the first and last step."""
    milliseconds: int
    """Of computing what this run computed itself."""
    computed: int
    """Steps that this run computed itself, without those it found on disk."""
    energy: Energy | UnsetType = UNSET
    """What they took, where that was measured."""


class StopSegment(Task, frozen=True, kw_only=True):
    """Asks the run of a segment to end after the step it is in; SegmentRun then comes with an earlier `stop`."""

    segment: SegmentId


class Stopping(Outcome, frozen=True, kw_only=True):
    segment: SegmentId


class ServeUnits(Task, frozen=True, kw_only=True):
    """Seals and publishes the states before the given links of a segment that was run here, for each verifier. What is no longer on
    disk is computed anew from the parent's state."""

    segment: SegmentId
    job: JobId
    spec: Cid
    start: int
    stop: int
    parent: SealedRef
    parent_root: Digest
    units: tuple[int, ...]
    recipients: tuple[tuple[Address, bytes], ...]
    """(account, encryption key)."""


class UnitsServed(Outcome, frozen=True, kw_only=True):
    boundaries: tuple[tuple[Address, Boundary], ...]
    """(verifier's account, what to send it)."""


class VerifyReceipt(Task, frozen=True, kw_only=True):
    """Whether `signature` is `verifier`'s receipt of a round (one bad signature would spoil the call that carries all)."""

    segment: SegmentId
    round: int
    verifier: Address
    signature: bytes


class ReceiptVerified(Outcome, frozen=True, kw_only=True):
    verifier: Address
    valid: bool


class SignSeal(Task, frozen=True, kw_only=True):
    """Verifier: signs its seal, so that another may bring it. The outcome is Signed."""

    segment: SegmentId
    round: int
    digest: Digest


class VerifySeal(Task, frozen=True, kw_only=True):
    """Whether `signature` is `verifier`'s under a seal (one bad signature would spoil the call that carries all)."""

    segment: SegmentId
    round: int
    verifier: Address
    digest: Digest
    signature: bytes


class VerifyVote(Task, frozen=True, kw_only=True):
    """Whether a vote is what was sealed and opens what was drawn (one bad vote would spoil the call that carries all)."""

    segment: SegmentId
    round: int
    opening_block: int
    units: tuple[int, ...]
    terms: Terms
    digest: Digest
    vote: Reveal


class VoteVerified(Outcome, frozen=True, kw_only=True):
    """Of a seal, or of a vote."""

    verifier: Address
    valid: bool


class OpenBoundary(Task, frozen=True, kw_only=True):
    """Verifier: decrypts a boundary and reads it strictly. Fails with PEER when nothing usable was served."""

    segment: SegmentId
    round: int
    unit: int
    boundary: Boundary


class BoundaryOpened(Outcome, frozen=True, kw_only=True):
    segment: SegmentId
    unit: int


class SignReceipt(Task, frozen=True, kw_only=True):
    segment: SegmentId
    round: int


class ReplayUnit(Task, frozen=True, kw_only=True):
    """Verifier: replays link `unit` of a segment from its opened boundary and compares with the committed ends. A boundary that is not
    the committed one is found here and does not agree."""

    segment: SegmentId
    job: JobId
    spec: Cid
    round: int
    start: int
    stop: int
    unit: int
    parent_root: Digest
    """The parent's committed end root: the state before the segment's first link."""
    link_root: Digest
    leaves: int
    """Of the link's trace, by the job's terms."""
    boundary: Boundary
    again: bool = False
    """Once more, from what an earlier replay found to be the committed states."""


class UnitReplayed(Outcome, frozen=True, kw_only=True):
    segment: SegmentId
    unit: int
    agrees: bool
    trace_root: Digest
    reason: str
    """In plain words, when it does not agree."""
    milliseconds: int = 0
    """Of the replay; 0 when it was not measured."""
    proven: bool = False
    """It was replayed from the very states that were committed to, so that a dispute can show why it does not agree."""


class SayUnserved(Task, frozen=True, kw_only=True):
    """Verifier: link `unit` was not served, though its segment counts as served: the trace of `leaves` empty leaves with which it says no,
    and can open. Comes back as UnitReplayed."""

    segment: SegmentId
    unit: int
    leaves: int


class MakeOpenings(Task, frozen=True, kw_only=True):
    """Verifier: waits for the opening block and opens the drawn leaves of the traces that `replay` kept."""

    segment: SegmentId
    round: int
    opening_block: int
    units: tuple[int, ...]
    terms: Terms


class OpeningsMade(Outcome, frozen=True, kw_only=True):
    openings: tuple[Opening, ...]


class MakeChunk(Task, frozen=True, kw_only=True):
    """Worker: waits for the block that names a chunk and shows it, of a segment that this node ran."""

    segment: SegmentId
    job: JobId
    spec: Cid
    start: int
    stop: int
    parent: SealedRef
    parent_root: Digest
    units: tuple[int, ...]
    """All that were drawn, in order."""
    asked_block: int


class ChunkMade(Outcome, frozen=True, kw_only=True):
    proof: ChunkProof


class MakeMove(Task, frozen=True, kw_only=True):
    """The next move of one side of a dispute, made from the chain's newest record of it. Of a provider it may take running the segment
    anew, of a verifier its files from the replay must be there."""

    dispute: DisputeId
    side: Side
    segment: SegmentId
    job: JobId
    spec: Cid
    terms: Terms
    start: int
    stop: int
    parent: SealedRef
    parent_root: Digest
    link_root: Digest
    bond: int
    """What the asserter has reserved."""
    revealed: tuple[Revealed, ...]
    own: bool
    """This node ran the segment."""
    opening: Open | None = None
    """What a challenger sealed."""
    boundary: Boundary | None = None
    """What a verifier that defends its trace was served."""
    last: bool = False
    """No more tries will follow."""
    served: tuple[Given, ...] | None = None
    """What the asserter has served of the tree that is walked now; None: it is not to be asked."""


class MoveMade(Outcome, frozen=True, kw_only=True):
    dispute: DisputeId
    move: AnyMove | None
    shown: Shown
    """Goes with the move."""
    why: str
    """In plain words, why there is no move; empty when there is one."""
    wanted: Wanted | None = None
    """What the asserter could serve, so that a better move is possible."""
    patience: int = 0
    """Seconds that this is waited for, as the network's grace allows."""
    junk: bool = False
    """The asserter has served what it has not committed to."""


class ServeNodes(Task, frozen=True, kw_only=True):
    """Asserter: what the challenger of a dispute, whose turn it is, has asked for, from the same files as a move is made from."""

    place: MakeMove
    """Which dispute, and what it is about."""
    wanted: Wanted


class NodesServed(Outcome, frozen=True, kw_only=True):
    dispute: DisputeId
    nodes: Nodes | None
    """None: that is not to be asked now."""


class VerifyVisit(Task, frozen=True, kw_only=True):
    """Whether `account` has signed that `peer` asks for it."""

    peer: PeerId
    account: Address
    signature: bytes


class VisitVerified(Outcome, frozen=True, kw_only=True):
    peer: PeerId
    account: Address
    valid: bool


class ShowNodes(Task, frozen=True, kw_only=True):
    """Provider: what its client has asked of a segment that was run here."""

    place: ServeUnits
    """Which segment; its units and recipients do not matter."""
    question: Question


class NodesShown(Outcome, frozen=True, kw_only=True):
    segment: SegmentId
    nodes: Nodes | None
    """None: there is no such node."""


class DropSegment(Task, frozen=True, kw_only=True):
    """Nothing of this segment is needed any more: free its disk."""

    segment: SegmentId


class LetGo(Task, frozen=True, kw_only=True):
    """What was published for a job is no longer promised to anybody: its blobs may go when room is needed."""

    job: JobId


class FindPublished(Task, frozen=True, kw_only=True):
    """Is what this node has published still here, or elsewhere? What is elsewhere only is fetched."""

    cids: tuple[Cid, ...]


class PublishedFound(Outcome, frozen=True, kw_only=True):
    lost: tuple[Cid, ...]
    """What nobody has."""


class Dropped(Outcome, frozen=True, kw_only=True):
    pass


AnyTask = (
    LoadJob | CheckProgram | SignOffer | VerifyOffer | FindNodes | KeepBlob | ReleaseBlobs
    | StoreKey | GatherKey | GatherRecords | CheckRecords | ReadManifest | WrapKeys | TakeKey | TellKey | PrepareSegment
    | RunSegment | StopSegment | ServeUnits | VerifyReceipt
    | SignSeal | VerifySeal | VerifyVote | OpenBoundary | SignReceipt | ReplayUnit | SayUnserved | MakeOpenings | MakeChunk | MakeMove | ServeNodes
    | ShowNodes | VerifyVisit
    | DropSegment | LetGo | FindPublished
)  # fmt: skip
AnyOutcome = (
    JobLoaded | ProgramChecked | Signed | OfferVerified | NodesFound | PinsSet | KeyStored | KeyGathered | RecordsGathered | RecordsChecked
    | ManifestRead | KeysWrapped | KeyTold | SegmentPrepared | SegmentRun | Stopping
    | UnitsServed | ReceiptVerified
    | VoteVerified | BoundaryOpened | UnitReplayed | OpeningsMade | ChunkMade | MoveMade | NodesServed | NodesShown | VisitVerified | Dropped
    | PublishedFound
)  # fmt: skip
