"""The outside, as the daemons see it. Adapters (assay/adapters) implement these; tests/ports holds one suite for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from assay.chain import AnyCall, AnyChainEvent, Block, CallId, Offer
from assay.codec import Message
from assay.dispute.record import Record, Rules
from assay.ids import Address, Cid, Digest, DisputeId, JobId, PeerId, SegmentId
from assay.messages import AnyGossip, AnyReply, AnyRequest, Means, PeerRecord
from assay.record_keys import RecordKeys, ShardKey


class Outage(Exception):
    """The outside did not answer; trying again later is right."""


class Missing(Outage):
    """A blob that was here is gone, and nobody is found who has it."""


class Reverted(Exception):
    """The contract refused the call: trying the same again will not help. The message is the contract's reason."""


class StorageFull(OSError):
    """The disk, or the share of it that this node may use, is full. Nothing that was acknowledged is lost; the message says what to free."""


class Reorganised(Exception):
    """Blocks whose events were delivered are no longer part of the chain: the confirmation depth was too small for this chain."""


class AccountView(Message, frozen=True, kw_only=True):
    tokens: int
    stake: int
    reserved: int
    credit: int
    """What `withdraw` would pay."""
    dispute_credit: int = 0
    """What `WithdrawDisputes` would pay."""
    bounty_credit: int = 0
    """What `WithdrawBounties` would pay."""
    native: int
    """Gas money, wei."""


class Chain(Protocol):
    account: Address
    contract: Address
    disputes: Address
    takeovers: Address
    """Of the contract that a client may name as its job's scheduler (assay.chain.Entrust); empty where the network has none."""
    chain_id: int

    async def head(self) -> Block: ...

    async def block_hash(self, number: int) -> Digest:
        """Raises Outage while the block does not exist yet."""

    async def events(self, after: tuple[int, int], depth: int) -> list[AnyChainEvent]:
        """Events that come after (block, index) and lie at least `depth` blocks under the head, in order. Raises Outage,
        or Reorganised when a block that was delivered before has been replaced."""

    async def send(self, call_id: CallId, call: AnyCall) -> int:
        """Sends once per `call_id`, also over restarts; returns the block it was mined in. Raises Reverted or Outage."""

    async def view(self, account: Address) -> AccountView: ...

    async def dispute_rules(self) -> Rules: ...

    async def dispute(self, dispute: DisputeId) -> Record:
        """Everything of a dispute up to the newest block. Raises Outage, or KeyError when there is none."""

    async def dispute_bond(self, segment: SegmentId) -> int:
        """What this account must lock to seal a dispute on a segment now."""

    def sign_offer(self, offer: Offer) -> bytes: ...

    def sign_receipt(self, segment: SegmentId, round: int) -> bytes: ...

    def sign_seal(self, segment: SegmentId, round: int, digest: Digest) -> bytes: ...

    def offer_signer(self, offer: Offer, signature: bytes) -> Address | None: ...

    def receipt_signer(self, segment: SegmentId, round: int, signature: bytes) -> Address | None: ...

    def seal_signer(self, segment: SegmentId, round: int, digest: Digest, signature: bytes) -> Address | None: ...

    def visit_signer(self, peer: PeerId, signature: bytes) -> Address | None:
        """Which account says that `peer` asks for it (messages.Visit)."""


class Stamp(Message, frozen=True, kw_only=True):
    """Bytes that an account put on the chain, and the block that they are in."""

    sender: Address
    data: bytes
    block: Block


class Stamps(Protocol):
    """Bytes on the chain that no contract reads: who put them there and when is all that matters."""

    account: Address
    chain_id: int

    async def head(self) -> Block: ...

    async def block(self, number: int) -> Block:
        """Raises Outage while it does not exist yet."""

    async def stamp(self, call_id: CallId, data: bytes) -> Digest:
        """Puts `data` there once per `call_id`; returns the transaction's hash when it is mined. Raises Outage."""

    async def stamped(self, transaction: Digest) -> Stamp:
        """Raises Outage, or KeyError when there is no such transaction, or one that did something else."""


class Blobs(Protocol):
    """Content-addressed blobs. Everything that leaves `get` and `fetch` has been checked against its CID."""

    async def put(self, data: bytes) -> Cid:
        """Stores and pins."""

    async def has(self, cid: Cid) -> bool: ...

    async def get(self, cid: Cid) -> bytes:
        """From the local store. Raises KeyError."""

    async def fetch(self, cid: Cid, limit: int, near: Sequence[PeerId] = ()) -> None:
        """Brings it into the local store, from the peers `near` first, then from all that are known. Raises Outage when nobody
        has it, ValueError when it is larger than `limit` bytes."""

    async def pin(self, cid: Cid, until: int | None = None) -> None:
        """Keeps the blob until this chain time (seconds; None: until `unpin`). Never shortens a pin."""

    async def unpin(self, cid: Cid) -> None:
        """Lets a blob go when room is needed."""

    async def lapse(self, now: int) -> list[Cid]:
        """Ends the pins whose time is over at the chain time `now`; returns them."""


Handler = Callable[[PeerId, AnyRequest], Awaitable[AnyReply]]


class Peers(Protocol):
    peer: PeerId

    async def start(self, on_request: Handler, on_gossip: Callable[[PeerId, AnyGossip], None]) -> None: ...

    async def stop(self) -> None: ...

    async def request(self, peer: PeerId, message: AnyRequest, timeout: float) -> AnyReply:
        """Raises Outage."""

    async def gossip(self, message: AnyGossip) -> None: ...

    async def renew(self) -> None:
        """Tells the others what this node's record says now. Raises Outage."""

    def records(self) -> list[PeerRecord]:
        """What is known of other nodes now; signatures checked."""


class Finder(Protocol):
    async def find(self, means: Means) -> list[PeerRecord]:
        """Nodes that say they have at least these means: those that are known, and those that the network finds. Raises Outage."""


class Clock(Protocol):
    def now(self) -> int:
        """Chain time, seconds."""


class Keys(Protocol):
    """Secrets of one node. Nothing here ever prints or returns the account's key."""

    account: Address
    encryption_key: bytes
    """X25519 public key, 32 bytes."""

    def wrap(self, key: bytes, recipient: bytes, info: bytes = b"") -> bytes:
        """HPKE to `recipient` (X25519 public key), 80 bytes for a 32-byte key."""

    def unwrap(self, wrapped: bytes, info: bytes = b"") -> bytes:
        """Raises ValueError when it is not for this node or was changed."""

    def store(self, key: bytes) -> Digest:
        """Keeps a symmetric key under its id (SHA-256), encrypted at rest."""

    def load(self, key_id: Digest) -> bytes:
        """Raises KeyError."""

    def store_records(self, key_id: Digest, records: RecordKeys) -> None:
        """Keeps the keys of some records of the shard whose key has this id, beside those of it that are here; later ones count. Encrypted at
        rest."""

    def shard_key(self, key_id: Digest) -> ShardKey:
        """The shard's key if it is here, else those of its records that are. Raises KeyError."""


class Row(Message, frozen=True, kw_only=True):
    """A journal entry: the event with the time and seed it was handled with."""

    sequence: int
    now: int
    seed: bytes
    event: bytes


class Journal(Protocol):
    """Durable and in order. `append` returns only when the row would survive a power cut."""

    def append(self, now: int, seed: bytes, event: bytes) -> int: ...

    def snapshot(self, sequence: int, state: bytes) -> None:
        """Replaces all rows up to `sequence` by the state after them."""

    def load(self) -> tuple[int, bytes | None, list[Row]]:
        """Sequence and bytes of the last snapshot (0, None when there is none), and the rows after it."""


class Engine(Protocol):
    """Runs tasks (assay.work) in a process of its own, with no network and no keys."""

    async def run(self, task: Message, folder: Path, progress: Callable[[Message], None]) -> Message: ...

    def expect(self, folder: Path) -> None:
        """There may be a task soon: what takes long to start may start now. Nothing has to come of it."""

    async def close(self) -> None: ...


__all__ = [
    "AccountView", "Blobs", "Chain", "Clock", "Engine", "Handler", "JobId", "Journal", "Keys", "Outage", "Peers", "Reorganised", "Reverted",
    "Row", "StorageFull",
]  # fmt: skip
