"""What peers say to each other. Gossip: JobAnnouncement, PeerRecord. Requests, each answered by one message: the rest.

The sender of a request is the peer that the transport authenticated; which account it speaks for is known from its registration
on chain. docs/protocol.md has the flow.
"""

from __future__ import annotations

from assay.chain import Offer, Reveal
from assay.codec import Message
from assay.dispute.questions import Question
from assay.dispute.served import Nodes, Wanted
from assay.ids import U32, U63, Address, Cid, Digest, DisputeId, JobId, PeerId, SegmentId

RPC_PROTOCOL = "/assay/rpc/3"


THROUGH = "libp2p:"


class Hardware(Message, frozen=True, kw_only=True):
    """What a node says of its hardware, and where its last proof is (assay.proving)."""

    device: str
    """Its name, which nothing proves."""
    memory: U63
    """Bytes."""
    transaction: Digest
    opening: Cid


class Means(Message, frozen=True, kw_only=True):
    """What a node says it computes with, which nothing proves (Hardware does), and what somebody who looks for one wants at least."""

    gpu: bool
    memory: U63
    """Bytes, of the device that it computes on."""
    bits: U32
    """b of the widest matrix products (assay.exact)."""


class PeerRecord(Message, frozen=True, kw_only=True):
    """Where a node can be reached. Signed by the peer's identity key; a higher sequence replaces a lower one."""

    peer: PeerId
    account: Address
    role: str
    addresses: tuple[str, ...]
    """libp2p multiaddresses."""
    gateway: str
    """Base URL of its trustless gateway, e.g. `http://127.0.0.1:4801`; THROUGH when that can be had through streams of libp2p only."""
    sequence: U63
    chain_id: U63
    contract: Address
    hardware: Hardware | None = None
    means: Means | None = None


class SignedRecord(Message, frozen=True, kw_only=True):
    """What is passed on of a peer record; `signature` is Ed25519 by the peer's identity key (assay.adapters.peerbook)."""

    record: PeerRecord
    signature: bytes


class JobAnnouncement(Message, frozen=True, kw_only=True):
    """A scheduler looks for offers: for the range of `job` that starts where `parent` ends. Passed on by all; or a request, answered by Ack, to a
    node that may not have heard of it."""

    job: JobId
    spec: Cid
    parent: SegmentId
    start: U63
    stop: U63
    price_cap: U63
    """For the whole range."""
    scheduler: PeerId
    respond_by: U63


class OfferMessage(Message, frozen=True, kw_only=True):
    """A worker's answer to an announcement, sent to the scheduler as a request."""

    offer: Offer
    signature: bytes
    steps_per_second_milli: U63
    """Claimed speed in thousandths of a step a second; 0 when it has not been measured."""


class Heartbeat(Message, frozen=True, kw_only=True):
    """Worker to scheduler while it executes."""

    segment: SegmentId
    step: U63
    loss_f32: U32
    """Bit pattern of the mean loss of the last step."""


class HandOver(Message, frozen=True, kw_only=True):
    """Scheduler to provider: it is much slower than others were at this job. It commits what is done, is paid for that, and another goes on."""

    segment: SegmentId


class CopyRequest(Message, frozen=True, kw_only=True):
    """Provider to who schedules its segment, before it commits, answered by Ack when the checkpoint is kept there: from then on the range does not
    depend on the provider's disk alone. It commits without, too, when no answer comes (assay_worker.committing)."""

    segment: SegmentId
    checkpoint: Cid


class BoundaryRequest(Message, frozen=True, kw_only=True):
    """Verifier to provider: the states on both sides of a drawn link."""

    segment: SegmentId
    round: U32
    unit: U63


class Boundary(Message, frozen=True, kw_only=True):
    """A sealed safetensors file: `state.*` and, inside a step, `acc.*` as they were before the link; the committed link ends beside it."""

    segment: SegmentId
    unit: U63
    cid: Cid
    key_id: Digest
    wrapped: bytes
    """The key, wrapped to the verifier's registered encryption key."""
    link_ends: tuple[Digest, ...]
    """The ends that the link names, in this order: of the state before its step (absent in the segment's first step: there it is the
    parent's end root), of the accumulator before it (absent before the first micro-batch: it follows from the state), and its own."""
    proofs: tuple[tuple[Digest, ...], ...]
    """Merkle paths of `link_ends` under the committed link root."""


class ReceiptMessage(Message, frozen=True, kw_only=True):
    """Verifier to provider: it has the boundaries of this round (EIP-712 signature, see the contract)."""

    segment: SegmentId
    round: U32
    verifier: Address
    signature: bytes


class SealMessage(Message, frozen=True, kw_only=True):
    """Verifier to provider, who brings the seals of all in one transaction: its seal of this round, signed (EIP-712)."""

    segment: SegmentId
    round: U32
    verifier: Address
    digest: Digest
    signature: bytes


class VoteMessage(Message, frozen=True, kw_only=True):
    """Verifier to provider, once all have sealed: its vote with the drawn openings, for the transaction that reveals all."""

    segment: SegmentId
    round: U32
    vote: Reveal


class KeyRequest(Message, frozen=True, kw_only=True):
    """Anyone entitled to the key service: why do I not have this key?"""

    segment: SegmentId
    key_id: Digest


class KeyGrant(Message, frozen=True, kw_only=True):
    key_id: Digest
    wrapped: tuple[bytes, ...]
    """What was released: one key or share of it, or the keys of some records in one or several bundles (assay.bundles)."""


class NodesRequest(Message, frozen=True, kw_only=True):
    """A dispute's challenger to its asserter, answered by Nodes: what lies below a node of the tree that is walked now."""

    dispute: DisputeId
    turn: U32
    """Moves that the dispute has had (facts.DisputeFacts.turns): both sides speak of the same stand."""
    wanted: Wanted


class Visit(Message, frozen=True, kw_only=True):
    """Who checks a step to the provider, answered by Ack: this peer asks for an account, which has signed that (EIP-712). It need not be the peer
    that the account has registered: that one may be running elsewhere."""

    account: Address
    signature: bytes


class StepRequest(Message, frozen=True, kw_only=True):
    """A peer that asks for the job's client or a drawn verifier to the provider, answered by Boundary: the state before a step, to check that
    step alone."""

    segment: SegmentId
    step: U63


class TreeRequest(Message, frozen=True, kw_only=True):
    """The same to the same, answered by Nodes: its link ends, and what a link of its looks like inside, to find where a run parts from it."""

    segment: SegmentId
    question: Question


class FederatedTurn(Message, frozen=True, kw_only=True):
    """An owner to the coordinator of a federated job, answered by FederatedAnswer, or Ack while there is nothing new: what it says in the
    round `terms` (assay.federated.node)."""

    terms: Digest
    """Zeros: which round is there?"""
    seen: U32
    """How many of the round's messages it has had."""
    said: bytes = b""
    """Canonical federated.messages.Signed."""
    row: Cid = Cid("")
    """Of the masked row that comes with an upload."""


class FederatedAnswer(Message, frozen=True, kw_only=True):
    """The coordinator's next message to this owner."""

    body: bytes
    """Canonical federated.node.AnyBody."""


class Refusal(Message, frozen=True, kw_only=True):
    """A request that is not granted, with the reason in plain words."""

    reason: str
    retry_after: U32 = 0
    """Seconds; 0 means never."""


class Ack(Message, frozen=True, kw_only=True):
    pass


AnyRequest = (
    OfferMessage | Heartbeat | HandOver | CopyRequest | BoundaryRequest | ReceiptMessage | SealMessage | VoteMessage | KeyRequest | NodesRequest
    | StepRequest | TreeRequest | Visit | FederatedTurn | JobAnnouncement
)  # fmt: skip
AnyReply = Boundary | KeyGrant | Nodes | FederatedAnswer | Refusal | Ack
AnyGossip = JobAnnouncement


class Enlist(Message, frozen=True, kw_only=True):
    """A provider to a node near one of its keys, answered by Ack: to be told to those who look for what it has (assay.adapters.rendezvous)."""

    record: SignedRecord


class Seek(Message, frozen=True, kw_only=True):
    """Anyone to a node near `key`, answered by Found. Without `means`: only who is nearer."""

    key: Digest
    means: Means | None = None


class Found(Message, frozen=True, kw_only=True):
    records: tuple[SignedRecord, ...]
    """Of nodes with these means."""
    nearer: tuple[SignedRecord, ...]
    """Of those that the answering node knows nearest to the key."""


AnyQuest = Enlist | Seek
"""Requests that the network answers itself, whatever the node's role."""


class SignedGossip(Message, frozen=True, kw_only=True):
    """What is passed on of gossip; `signature` is Ed25519 by the author's identity key (assay.adapters.rumours)."""

    author: PeerId
    made_at: U63
    """Milliseconds since 1970."""
    message: AnyGossip
    signature: bytes
