"""What happens on chain (events) and what may be asked of it (calls): the vocabulary shared by contracts, adapters and machines.

Names and fields are those of contracts/src; an adapter turns logs into these and these into transactions. Times are seconds of
block time, amounts are in the token's smallest unit. docs/protocol.md has the rules. (One file because it is one flat list of declarations.)
"""

from __future__ import annotations

import enum
from typing import NewType

from assay.codec import Message
from assay.dispute.moves import AnyMove, Phase, Shown
from assay.hearing import ChunkProof
from assay.ids import Address, BountyId, Cid, DatasetId, Digest, DisputeId, JobId, PeerId, SegmentId

MOST_CALLS = 64
CallId = NewType("CallId", str)
"""The sender's own name of a call; the same call under the same id is sent once, however often it is asked for."""


class Outcome(enum.StrEnum):
    """Of a dispute."""

    ASSERTER_WON = "asserter won"
    ASSERTER_LOST = "asserter lost"
    CONCEDED = "conceded"
    VOID = "void"


class SegmentState(enum.IntEnum):
    NONE = 0
    ASSIGNED = 1
    ACTIVE = 2
    COMMITTED = 3
    DRAWN = 4
    SERVED = 5
    ATTESTED = 6
    SETTLED = 7
    LAPSED = 8
    WITHHELD = 9
    UNPAID = 10
    VOID = 11
    REJECTED = 12


TERMINAL = frozenset(
    {SegmentState.SETTLED, SegmentState.LAPSED, SegmentState.WITHHELD, SegmentState.UNPAID, SegmentState.VOID, SegmentState.REJECTED}
)
FAILED = TERMINAL - {SegmentState.SETTLED}


class Block(Message, frozen=True, kw_only=True):
    number: int
    hash: Digest
    time: int


class Params(Message, frozen=True, kw_only=True):
    """Policy of a job, fixed when it is posted. Windows in seconds, finality in blocks."""

    finality: int = 2
    activate_window: int = 600
    lease_window: int = 3600
    takeover_window: int = 300
    serve_window: int = 600
    seal_window: int = 1800
    reveal_window: int = 600
    open_window: int = 600
    challenge_window: int = 3600
    links: int = 2
    verifiers: int = 4
    quorum: int = 3
    openings: int = 1
    redraws: int = 2
    depth: int = 2
    bond_tenths: int = 60
    late_fee_bps: int = 500
    no_show_bps: int = 1000
    draw_bond: int = 1_000_000
    bond_base: int = 0
    """Of a provider's bond, beyond `bond_tenths` of the price; see assay.policy.dispute_bond."""


class Terms(Message, frozen=True, kw_only=True):
    """What `post` locks money for."""

    spec: Cid
    spec_digest: Digest
    program_root: Digest
    state_root: Digest
    dataset_root: Digest
    schedule_root: Digest
    steps: int
    micro_batches: int
    segment_steps: int
    micro_weight: int
    update_weight: int
    micro_leaves: int
    update_leaves: int
    price_cap: int
    """Per step."""
    fee: int
    """Per verifier and segment."""
    budget: int
    deadline: int
    scheduler: Address
    key_service: Address
    params: Params


class Offer(Message, frozen=True, kw_only=True):
    """A provider's promise, signed as EIP-712 typed data."""

    provider: Address
    job: JobId
    parent: SegmentId
    start: int
    stop: int
    price: int
    expires: int
    nonce: int


MOST_WRAPPED = 8192
"""Bytes of one release: the keys of 226 records (assay.bundles), so that no event of the log is larger than a reader would expect."""


NOTHING = Digest(bytes(32))
"""In place of a key id."""


class Release(Message, frozen=True, kw_only=True):
    recipient: Address
    key_id: Digest
    """NOTHING, and nothing wrapped: the recipient is entitled, and needs no key for what was drawn."""
    wrapped: bytes


class Seal(Message, frozen=True, kw_only=True):
    verifier: Address
    digest: Digest
    signature: bytes
    """Empty when the verifier sends it itself."""


class Opening(Message, frozen=True, kw_only=True):
    leaf: Digest
    proof: tuple[Digest, ...]


class Reveal(Message, frozen=True, kw_only=True):
    verifier: Address
    agrees: bool
    trace_roots: tuple[Digest, ...]
    salt: Digest
    openings: tuple[Opening, ...] = ()
    """The drawn leaves of the traces; none when they come later, with the same vote once more."""


class Evaluated(Message, frozen=True, kw_only=True):
    """What a bounty's evaluation must be: terms of a job, as far as its result depends on them, and how closely it is checked."""

    program_root: Digest
    dataset_root: Digest
    schedule_root: Digest
    steps: int
    micro_batches: int
    segment_steps: int
    micro_weight: int
    update_weight: int
    micro_leaves: int
    update_leaves: int
    params: Params


class Entry(Message, frozen=True, kw_only=True):
    """A tensor of a state. In a bounty's `start` a root of zeros stands for what the training leaves under that name."""

    name: bytes
    root: Digest


class Rung(Message, frozen=True, kw_only=True):
    """`amount` in all is paid from `threshold` on: an integer, or the order of a float32 (assay.bounty.order)."""

    threshold: int
    amount: int


class BountyTerms(Message, frozen=True, kw_only=True):
    job: JobId
    """The training."""
    window: int
    """Seconds after it is over in which a result counts."""
    evaluation: Evaluated
    start: tuple[Entry, ...]
    metric: bytes
    """The entry of the evaluation's last state that decides: a tensor without axes."""
    dtype: int
    """Of the metric, as in tensor roots: 1 f32, 3 i64."""
    at_most: bool
    rungs: tuple[Rung, ...]

    @property
    def amount(self) -> int:
        """What is locked: the last rung's."""
        return self.rungs[-1].amount


# ---- events --------------------------------------------------------------------------------------------------------------


class ChainEvent(Message, frozen=True, kw_only=True):
    """Where it stands: block, time of the block, position in the block."""

    block: int
    time: int
    index: int


class Registered(ChainEvent, frozen=True, kw_only=True):
    who: Address
    encryption_key: bytes
    peer: PeerId


class Deposited(ChainEvent, frozen=True, kw_only=True):
    who: Address
    amount: int


class Unbonding(ChainEvent, frozen=True, kw_only=True):
    """Free stake was set aside; it can be withdrawn from `until`, with all that is unbonding by then."""

    who: Address
    amount: int
    until: int


class StakeWithdrawn(ChainEvent, frozen=True, kw_only=True):
    who: Address
    amount: int


class SeatTaken(ChainEvent, frozen=True, kw_only=True):
    who: Address
    seat: int


class SeatLeft(ChainEvent, frozen=True, kw_only=True):
    who: Address
    seat: int


class FeeCharged(ChainEvent, frozen=True, kw_only=True):
    who: Address
    segment: SegmentId
    amount: int
    reason: str


class Slashed(ChainEvent, frozen=True, kw_only=True):
    who: Address
    segment: SegmentId
    amount: int
    burnt: int


class JobPosted(ChainEvent, frozen=True, kw_only=True):
    job: JobId
    client: Address
    terms: Terms


class JobFunded(ChainEvent, frozen=True, kw_only=True):
    job: JobId
    amount: int


class JobCancelled(ChainEvent, frozen=True, kw_only=True):
    job: JobId


class JobClosed(ChainEvent, frozen=True, kw_only=True):
    job: JobId
    refund: int


class Assigned(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    job: JobId
    parent: SegmentId
    provider: Address
    start: int
    stop: int
    price: int
    activate_by: int


class Activated(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    lease_until: int


class Lapsed(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    fee: int


class Committed(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    stop: int
    link_root: Digest
    end_root: Digest
    checkpoint: Cid
    key_id: Digest
    key_envelope: bytes
    """The checkpoint's key, wrapped to the key service with `info=assay.job.envelope_info(provider)`, and what its provider says of the energy
    that it took (assay.energy)."""
    commitment: Digest
    seed_block: int


class Drawn(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    round: int
    seed: Digest
    units: tuple[int, ...]
    verifiers: tuple[Address, ...]
    serve_by: int


class Redrawn(ChainEvent, frozen=True, kw_only=True):
    """The last draw came to nothing; a new one is due after `seed_block`."""

    segment: SegmentId
    round: int
    reason: str
    seed_block: int


class ChunkAsked(ChainEvent, frozen=True, kw_only=True):
    """The last round gave no quorum of receipts, though its verifiers had their keys: the provider is to show the chunk that block `at_block`
    names (assay.hearing)."""

    segment: SegmentId
    round: int
    at_block: int
    show_by: int


class ChunkShown(ChainEvent, frozen=True, kw_only=True):
    """It has, and the round counts as served: chunk `chunk` of entry `entry` of link end `place`."""

    segment: SegmentId
    place: int
    entry: int
    chunk: int


class KeyReleased(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    recipient: Address
    key_id: Digest
    wrapped: bytes
    by: Address


class Served(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    round: int
    seal_by: int


class Sealed(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    verifier: Address
    digest: Digest = Digest(bytes(32))
    together: bool = False
    """It came with all others of the committee, in the order of the draw: then the contract keeps their hash alone, and `Spread` comes
    before a vote is shown or disclosed by itself."""


class RevealsDue(ChainEvent, frozen=True, kw_only=True):
    """All sealed: the reveals may start at once, with their openings after `opening_block`. (Otherwise they may start after `seal_by`.)"""

    segment: SegmentId
    reveal_by: int
    opening_block: int


class Revealed(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    verifier: Address
    agrees: bool
    trace_roots: tuple[Digest, ...]
    salt: Digest = Digest(bytes(32))
    """What `Disclose` must show, too."""


class OpeningsDue(ChainEvent, frozen=True, kw_only=True):
    """All who sealed have revealed, or can no more, and openings are still awaited."""

    segment: SegmentId
    opening_block: int
    open_by: int


class Opened(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    verifier: Address


class Attested(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    settle_after: int


class Withheld(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    yes: int
    no: int


class Unpaid(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    reason: str


class Voided(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId


class Settled(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    provider: Address
    price: int


class Rejected(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId


class BondCleared(ChainEvent, frozen=True, kw_only=True):
    """The bond that a failed segment's provider still had reserved is free."""

    segment: SegmentId
    amount: int


class Pardoned(ChainEvent, frozen=True, kw_only=True):
    """The provider concedes a link, and it costs no part of the bond; until `until` the segment's other links can be disputed."""

    segment: SegmentId
    unit: int
    until: int


class NoShow(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    verifier: Address
    fee: int


class Credited(ChainEvent, frozen=True, kw_only=True):
    who: Address
    segment: SegmentId
    amount: int
    reason: str


class Withdrawn(ChainEvent, frozen=True, kw_only=True):
    who: Address
    amount: int


class DisputeSealed(ChainEvent, frozen=True, kw_only=True):
    """Somebody will dispute something of the segment, which cannot settle before that is over."""

    dispute: DisputeId
    segment: SegmentId
    challenger: Address
    bond: int
    open_by: int
    allowance: int
    """Seconds that the asserter of a link is given to replay it, before its clock runs."""


class DisputeOpened(ChainEvent, frozen=True, kw_only=True):
    dispute: DisputeId
    segment: SegmentId
    asserter: Address
    target: int
    """0: the provider's link; 1: the trace root that `asserter` revealed with its yes in `round`."""
    unit: int
    round: int


class DisputeMoved(ChainEvent, frozen=True, kw_only=True):
    """A move was made (the opening is one); what is awaited now, from whom, and until when."""

    dispute: DisputeId
    phase: Phase
    asserting: bool
    due: int


class DisputeResolved(ChainEvent, frozen=True, kw_only=True):
    dispute: DisputeId
    segment: SegmentId
    outcome: Outcome
    taken: int
    """From the asserter's bond."""
    pay_after: int


class DisputePaid(ChainEvent, frozen=True, kw_only=True):
    dispute: DisputeId
    outcome: Outcome
    to_asserter: int
    to_challenger: int
    burnt: int


class RecordsShown(ChainEvent, frozen=True, kw_only=True):
    """Bytes of `count` records of the job's data are on chain now, from that which training reads as number `first` on: of all that the dispute has
    shown so far, from the first to the last."""

    dispute: DisputeId
    first: int
    count: int


class ShowingOwed(ChainEvent, frozen=True, kw_only=True):
    """What the loser pays to the owners of these records; told before DisputePaid, in the same call."""

    dispute: DisputeId
    amount: int


class DisputeCredited(ChainEvent, frozen=True, kw_only=True):
    who: Address
    dispute: DisputeId
    amount: int


class DisputeWithdrawn(ChainEvent, frozen=True, kw_only=True):
    who: Address
    amount: int


class DatasetPublished(ChainEvent, frozen=True, kw_only=True):
    """`cid` leads to a manifest with the digest `manifest`; `root` is assay.publish.manifest.shards_root."""

    dataset: DatasetId
    owner: Address
    cid: Cid
    manifest: Digest
    root: Digest
    records: int
    key_service: Address
    owners: tuple[Address, ...]
    shares: tuple[int, ...]


class LicenceGranted(ChainEvent, frozen=True, kw_only=True):
    """In place of what `who` (the zero address: anybody) was granted before."""

    dataset: DatasetId
    who: Address
    price: int
    """For assay.publish.manifest.PRICED records read."""
    uses: int
    """Records that may be read, each counted for every time."""
    until: int
    purposes: int
    """A bit for each of assay.publish.purposes.PURPOSES; none: any."""


class LicenceRevoked(ChainEvent, frozen=True, kw_only=True):
    dataset: DatasetId
    who: Address


class JobLicensed(ChainEvent, frozen=True, kw_only=True):
    """The job rests on these datasets; `locked` is what it can owe them at most, `lists` are the numbers of their lists of verifiers."""

    job: JobId
    client: Address
    datasets: tuple[DatasetId, ...]
    prices: tuple[int, ...]
    purpose: int
    locked: int
    lists: tuple[int, ...]


class VerifiersAdmitted(ChainEvent, frozen=True, kw_only=True):
    """Who may be drawn to check jobs on the dataset that are posted from now on, in ascending order; nobody named: whoever has a seat."""

    dataset: DatasetId
    list: int
    verifiers: tuple[Address, ...]


class UsePaid(ChainEvent, frozen=True, kw_only=True):
    """A settled segment has been paid for."""

    job: JobId
    dataset: DatasetId
    segment: SegmentId
    amount: int


class RecordPriced(ChainEvent, frozen=True, kw_only=True):
    """What a record costs that a dispute shows, for jobs with a number above `after_job`."""

    dataset: DatasetId
    price: int
    after_job: JobId


class ShowingPaid(ChainEvent, frozen=True, kw_only=True):
    """The owners of a dataset have earned this for records that a dispute has shown."""

    dispute: DisputeId
    dataset: DatasetId
    amount: int


class ShowingWithdrawn(ChainEvent, frozen=True, kw_only=True):
    dataset: DatasetId
    owner: Address
    amount: int


class UseRefunded(ChainEvent, frozen=True, kw_only=True):
    job: JobId
    amount: int


class RevenueWithdrawn(ChainEvent, frozen=True, kw_only=True):
    dataset: DatasetId
    owner: Address
    amount: int


class Entrusted(ChainEvent, frozen=True, kw_only=True):
    """Of the job that `client` posts with this document: who places it, and when that one is silent, with whom anybody does."""

    client: Address
    spec_digest: Digest
    scheduler: Address
    patience: int
    """Seconds for which a range must have been open."""
    providers: tuple[Address, ...]


class BountyOffered(ChainEvent, frozen=True, kw_only=True):
    bounty: BountyId
    job: JobId
    sponsor: Address
    terms: BountyTerms


class BountyBegun(ChainEvent, frozen=True, kw_only=True):
    """The training is over, and ended with the segment `last` (0: nothing of it settled)."""

    bounty: BountyId
    last: SegmentId
    until: int


class BountyShown(ChainEvent, frozen=True, kw_only=True):
    bounty: BountyId
    segment: SegmentId
    """Of the evaluation."""
    value: int
    """Bits of the metric."""
    reached: int


class BountyPaid(ChainEvent, frozen=True, kw_only=True):
    bounty: BountyId
    segment: SegmentId
    provider: Address
    amount: int


class BountyReturned(ChainEvent, frozen=True, kw_only=True):
    bounty: BountyId
    amount: int


class BountyWithdrawn(ChainEvent, frozen=True, kw_only=True):
    who: Address
    amount: int


class SuretyOffered(ChainEvent, frozen=True, kw_only=True):
    """What a key service puts behind each job that it vouches for from now on."""

    keeper: Address
    per_job: int
    each: int
    """At most for one segment."""
    notice: int
    """Seconds that a job must give it to release keys to drawn verifiers."""


class SuretyDeposited(ChainEvent, frozen=True, kw_only=True):
    keeper: Address
    amount: int


class SuretyWithdrawn(ChainEvent, frozen=True, kw_only=True):
    keeper: Address
    amount: int


class JobVouched(ChainEvent, frozen=True, kw_only=True):
    """The job's key service says that it has all keys of its data, and pays for segments whose verifiers it keeps them from."""

    job: JobId
    keeper: Address
    amount: int
    each: int


class CheckpointContested(ChainEvent, frozen=True, kw_only=True):
    """The key service says that the envelope of the segment's checkpoint does not open."""

    segment: SegmentId
    keeper: Address


class CheckpointKeyShown(ChainEvent, frozen=True, kw_only=True):
    """The key of a contested checkpoint, for everybody."""

    segment: SegmentId
    key: Digest


class SuretyPaid(ChainEvent, frozen=True, kw_only=True):
    segment: SegmentId
    job: JobId
    provider: Address
    amount: int


class SuretyEnding(ChainEvent, frozen=True, kw_only=True):
    """The job is closed: what is left behind it can go back after this time."""

    job: JobId
    ends_after: int


class SuretyReturned(ChainEvent, frozen=True, kw_only=True):
    job: JobId
    keeper: Address
    amount: int


AnyChainEvent = (
    Registered | Deposited | Unbonding | StakeWithdrawn | SeatTaken | SeatLeft | FeeCharged | Slashed | JobPosted | JobFunded | JobCancelled
    | JobClosed | Assigned | Activated | Lapsed | Committed | Drawn | Redrawn | ChunkAsked | ChunkShown | KeyReleased | Served | Sealed
    | RevealsDue | Revealed | OpeningsDue | Opened | Attested | Withheld | Unpaid | Voided | Settled | Rejected | BondCleared | Pardoned
    | NoShow | Credited | Withdrawn
    | DisputeSealed | DisputeOpened | DisputeMoved | DisputeResolved | DisputePaid | DisputeCredited | DisputeWithdrawn
    | DatasetPublished | LicenceGranted | LicenceRevoked | VerifiersAdmitted | JobLicensed | UsePaid | UseRefunded | RevenueWithdrawn
    | RecordsShown | ShowingOwed | RecordPriced | ShowingPaid | ShowingWithdrawn
    | BountyOffered | BountyBegun | BountyShown | BountyPaid | BountyReturned | BountyWithdrawn | Entrusted
    | SuretyOffered | SuretyDeposited | SuretyWithdrawn | JobVouched | CheckpointContested | CheckpointKeyShown | SuretyPaid | SuretyEnding
    | SuretyReturned
)  # fmt: skip


# ---- calls ---------------------------------------------------------------------------------------------------------------


class Call(Message, frozen=True, kw_only=True):
    """A transaction that somebody wants."""


class Register(Call, frozen=True, kw_only=True):
    encryption_key: bytes
    peer: PeerId


class Deposit(Call, frozen=True, kw_only=True):
    """Approves and deposits stake."""

    amount: int


class TakeSeat(Call, frozen=True, kw_only=True):
    pass


class LeaveSeat(Call, frozen=True, kw_only=True):
    seat: int


class Unbond(Call, frozen=True, kw_only=True):
    amount: int


class WithdrawStake(Call, frozen=True, kw_only=True):
    pass


class PostJob(Call, frozen=True, kw_only=True):
    """Approves the budget and posts."""

    terms: Terms


class FundJob(Call, frozen=True, kw_only=True):
    job: JobId
    amount: int


class CancelJob(Call, frozen=True, kw_only=True):
    job: JobId


class CloseJob(Call, frozen=True, kw_only=True):
    job: JobId


class Assign(Call, frozen=True, kw_only=True):
    offer: Offer
    signature: bytes


class Entrust(Call, frozen=True, kw_only=True):
    """See Entrusted; the job's terms name Takeovers as its scheduler."""

    spec_digest: Digest
    scheduler: Address
    patience: int
    providers: tuple[Address, ...]


class AssignListed(Call, frozen=True, kw_only=True):
    """Assign, through Takeovers."""

    offer: Offer
    signature: bytes
    providers: tuple[Address, ...] = ()
    """The list that was entrusted; the job's own scheduler need not bring it."""


class Activate(Call, frozen=True, kw_only=True):
    segment: SegmentId


class Lapse(Call, frozen=True, kw_only=True):
    segment: SegmentId


class Commit(Call, frozen=True, kw_only=True):
    segment: SegmentId
    stop: int
    link_root: Digest
    end_root: Digest
    proof: tuple[Digest, ...]
    checkpoint: Cid
    key_id: Digest
    key_envelope: bytes


class Draw(Call, frozen=True, kw_only=True):
    segment: SegmentId


class Redraw(Call, frozen=True, kw_only=True):
    segment: SegmentId


class ShowChunk(Call, frozen=True, kw_only=True):
    """Shows the chunk that was asked for."""

    segment: SegmentId
    proof: ChunkProof


class ReleaseKeys(Call, frozen=True, kw_only=True):
    segment: SegmentId
    releases: tuple[Release, ...]


class Serve(Call, frozen=True, kw_only=True):
    segment: SegmentId
    verifiers: tuple[Address, ...]
    signatures: tuple[bytes, ...]


class Attest(Call, frozen=True, kw_only=True):
    segment: SegmentId
    seals: tuple[Seal, ...]


class RevealAll(Call, frozen=True, kw_only=True):
    segment: SegmentId
    reveals: tuple[Reveal, ...]


class Spread(Call, frozen=True, kw_only=True):
    """Gives each verifier of a round its own seal, where the hash of all is kept. `seals`: assay.draw.seals."""

    segment: SegmentId
    round: int
    seals: bytes


class CloseReveals(Call, frozen=True, kw_only=True):
    segment: SegmentId


class Disclose(Call, frozen=True, kw_only=True):
    """Brings the trace roots of a revealed vote, of which the contract has a hash: before the vote is disputed."""

    segment: SegmentId
    round: int
    verifier: Address
    trace_roots: tuple[Digest, ...]
    salt: Digest


class Decide(Call, frozen=True, kw_only=True):
    segment: SegmentId


class Settle(Call, frozen=True, kw_only=True):
    segment: SegmentId


class VoidSegment(Call, frozen=True, kw_only=True):
    segment: SegmentId


class ClearBond(Call, frozen=True, kw_only=True):
    """Frees the bond of an unpaid segment, once nobody can dispute it any more."""

    segment: SegmentId


class Withdraw(Call, frozen=True, kw_only=True):
    """Pulls what the account has been credited."""


class SealDispute(Call, frozen=True, kw_only=True):
    """Approves the challenger's bond, locks it and the segment. `digest`: assay.dispute.game.seal_digest."""

    segment: SegmentId
    digest: Digest


class PlayMove(Call, frozen=True, kw_only=True):
    """A move of assay.dispute.moves, a Timeout among them."""

    dispute: DisputeId
    move: AnyMove
    shown: Shown


class PayDispute(Call, frozen=True, kw_only=True):
    dispute: DisputeId


class ClearDisputed(Call, frozen=True, kw_only=True):
    """Frees what is left of the bond of a REJECTED segment, or of a WITHHELD or pardoned one after its window."""

    segment: SegmentId


class WithdrawDisputes(Call, frozen=True, kw_only=True):
    """Pulls what disputes have credited to the account."""


class PublishDataset(Call, frozen=True, kw_only=True):
    cid: Cid
    manifest: Digest
    root: Digest
    records: int
    key_service: Address
    owners: tuple[Address, ...]
    shares: tuple[int, ...]


class GrantLicence(Call, frozen=True, kw_only=True):
    dataset: DatasetId
    who: Address
    price: int
    uses: int
    until: int
    purposes: int


class RevokeLicence(Call, frozen=True, kw_only=True):
    """Nothing more is assigned of a job that rests on the licence; what is assigned goes on."""

    dataset: DatasetId
    who: Address


class AdmitVerifiers(Call, frozen=True, kw_only=True):
    """In place of the dataset's list before, for jobs that are posted from now on. `verifiers` in ascending order; none: whoever has a seat."""

    dataset: DatasetId
    verifiers: tuple[Address, ...]


class PostLicensed(Call, frozen=True, kw_only=True):
    """Approves the budget and what the data may cost, and posts a job on datasets of others. `uses`: assay.licensing.encode_uses."""

    terms: Terms
    uses: bytes


class CollectUse(Call, frozen=True, kw_only=True):
    """Pays the owners for at most `most` segments that have settled since the last time."""

    job: JobId
    most: int


class RefundUse(Call, frozen=True, kw_only=True):
    """Gives a client back what its closed job has not used of the data."""

    job: JobId


class WithdrawRevenue(Call, frozen=True, kw_only=True):
    dataset: DatasetId


class PriceRecords(Call, frozen=True, kw_only=True):
    """What a record costs that a dispute shows, for jobs that are posted from now on."""

    dataset: DatasetId
    price: int


class ClaimShowing(Call, frozen=True, kw_only=True):
    """Has the owners of records paid that a paid dispute has shown. `head`: what the job's data root is the hash of (assay.job.data_head); not
    looked at for a job on one dataset."""

    dispute: DisputeId
    head: bytes


class WithdrawShowings(Call, frozen=True, kw_only=True):
    dataset: DatasetId


class OfferBounty(Call, frozen=True, kw_only=True):
    """Approves what the last rung pays, and locks it."""

    terms: BountyTerms


class BeginBounty(Call, frozen=True, kw_only=True):
    bounty: BountyId
    last: SegmentId


class ShowBounty(Call, frozen=True, kw_only=True):
    """The result of a settled evaluation. `trained`: all entries of the state that the training ended in; `path`: of the metric's entry in the
    evaluation's last state."""

    bounty: BountyId
    terms: BountyTerms
    segment: SegmentId
    trained: tuple[Entry, ...]
    value: int
    path: tuple[Digest, ...]


class CollectBounty(Call, frozen=True, kw_only=True):
    """Credits the providers of these segments of the training."""

    bounty: BountyId
    segments: tuple[SegmentId, ...]


class ReturnBounty(Call, frozen=True, kw_only=True):
    """Credits the sponsor with what was not earned."""

    bounty: BountyId


class WithdrawBounties(Call, frozen=True, kw_only=True):
    """Pulls what bounties have credited to the account."""


class OfferSurety(Call, frozen=True, kw_only=True):
    """See SuretyOffered."""

    per_job: int
    each: int
    notice: int


class DepositSurety(Call, frozen=True, kw_only=True):
    """Approves the amount, and deposits it."""

    amount: int


class WithdrawSurety(Call, frozen=True, kw_only=True):
    """Takes back what stands behind no job."""

    amount: int


class VouchJob(Call, frozen=True, kw_only=True):
    """See JobVouched."""

    job: JobId


class ContestCheckpoint(Call, frozen=True, kw_only=True):
    """See CheckpointContested: until half of the first round's window to serve is over."""

    segment: SegmentId


class ShowCheckpointKey(Call, frozen=True, kw_only=True):
    """Answers an objection, before the last round is drawn. `checkpoint`: assay.draw.checkpoint_digest."""

    segment: SegmentId
    checkpoint: Digest
    key: Digest


class ClaimSurety(Call, frozen=True, kw_only=True):
    """Has the provider of a segment paid whose verifiers' keys were withheld in its last round."""

    segment: SegmentId


class ReturnSurety(Call, frozen=True, kw_only=True):
    """Gives back what is left behind a closed job: asked for with the first call, done with one a challenge window later."""

    job: JobId


TakeoverCall = Entrust | AssignListed
SuretyCall = (
    OfferSurety | DepositSurety | WithdrawSurety | VouchJob | ContestCheckpoint | ShowCheckpointKey | ClaimSurety | ReturnSurety
)  # fmt: skip
DisputeCall = SealDispute | PlayMove | PayDispute | ClearDisputed | WithdrawDisputes
BountyCall = OfferBounty | BeginBounty | ShowBounty | CollectBounty | ReturnBounty | WithdrawBounties
DatasetCall = PublishDataset | GrantLicence | RevokeLicence | AdmitVerifiers | PostLicensed | CollectUse | RefundUse | WithdrawRevenue
ShowingCall = PriceRecords | ClaimShowing | WithdrawShowings
OneCall = (
    Register | Deposit | TakeSeat | LeaveSeat | Unbond | WithdrawStake | PostJob | FundJob | CancelJob | CloseJob | Assign | Activate
    | Lapse | Commit | Draw | Redraw | ShowChunk | ReleaseKeys | Serve | Attest | RevealAll | Spread | CloseReveals | Disclose | Decide
    | Settle | VoidSegment | ClearBond | Withdraw | DisputeCall | BountyCall | DatasetCall | TakeoverCall
    | SuretyCall | ShowingCall
)  # fmt: skip
BatchedCall = (
    Lapse | Draw | Redraw | ShowChunk | ReleaseKeys | Serve | Attest | RevealAll | Spread | CloseReveals | Disclose | Decide | Settle
    | VoidSegment | ClearBond
)  # fmt: skip
"""What may be put into a Batch: calls of Jobs that need nothing from the sender but gas, or its signature."""


class Batch(Call, frozen=True, kw_only=True):
    """Several calls in one transaction, at most MOST_CALLS. What is refused of them changes nothing; refused is the whole when all are."""

    calls: tuple[BatchedCall, ...]


AnyCall = OneCall | Batch
