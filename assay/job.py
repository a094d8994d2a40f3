"""The job document: everything a provider or verifier needs to know of a job, published as one blob whose digest the contract holds."""

from __future__ import annotations

import math
import struct
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from assay import merkle
from assay.codec import Message
from assay.exact.types import DTYPE_CODES
from assay.ids import U32, U63, Address, Cid, DatasetId, Digest, PeerId

MAX_ORIGIN_NAME = 200
"""Characters of a base model's name and of its licence."""
Dtype = str
"""One of assay.state.DTYPES: f32 i32 i64 u8 bool i8 i16 f64 u32."""


class Field(Message, frozen=True, kw_only=True):
    """One tensor of a record: `shape` is that of one record, without the batch axis."""

    name: str
    dtype: Dtype
    shape: tuple[U32, ...]


class SealedRef(Message, frozen=True, kw_only=True):
    """A sealed blob: where it is, which key opens it, and that key wrapped to the job's key service (80 bytes, docs/protocol.md)."""

    cid: Cid
    size: U63
    key_id: Digest
    envelope: bytes
    """Wrapped with `info=envelope_info(client)`."""


class ShardRef(Message, frozen=True, kw_only=True):
    sealed: SealedRef
    records: U63
    root: Digest
    """Merkle root over the shard's salted record leaves."""


class DatasetRef(Message, frozen=True, kw_only=True):
    name: str
    fields: tuple[Field, ...]
    shards: tuple[ShardRef, ...]

    @property
    def records(self) -> int:
        return sum(shard.records for shard in self.shards)


def record_bytes(field: Field) -> int:
    """Bytes that a field takes in a record."""
    return math.prod(field.shape) * DTYPE_CODES[field.dtype][1]


def shard_items(dataset: DatasetRef) -> list[bytes]:
    """Leaves of the tree over a dataset's shards: `first record u64 ‖ records u64 ‖ shard root` each."""
    items, first = [], 0
    for shard in dataset.shards:
        items.append(struct.pack(">QQ", first, shard.records) + shard.root)
        first += shard.records
    return items


def data_fields(dataset: DatasetRef) -> bytes:
    """`count u16 ‖ (len(name) u16 ‖ name ‖ dtype u8 ‖ bytes of it in a record u64) each`."""
    out = [struct.pack(">H", len(dataset.fields))]
    for field in dataset.fields:
        name = field.name.encode()
        out.append(struct.pack(">H", len(name)) + name + struct.pack(">BQ", DTYPE_CODES[field.dtype][0], record_bytes(field)))
    return b"".join(out)


def data_head(dataset: DatasetRef, order: Digest, batch: int) -> bytes:
    """What the data root is the hash of: `0x17 ‖ order key ‖ batch u32 ‖ records u64 ‖ shards u32 ‖ merkle(shards) ‖ fields`."""
    counts = struct.pack(">IQI", batch, dataset.records, len(dataset.shards))
    return b"".join((b"\x17", order, counts, merkle.root_of(shard_items(dataset)), data_fields(dataset)))


def data_root(dataset: DatasetRef, order: Digest, batch: int) -> Digest:
    """What a job's terms name as its data (docs/dispute.md): its records, which of them make up which micro-batch, and their form. The
    dataset has been checked (assay.shard.check_dataset)."""
    return merkle.sha256(data_head(dataset, order, batch))


class Origin(Message, frozen=True, kw_only=True):
    """What a fine-tune starts from, as its client says: the document's digest is on chain, so it was said before anything was trained."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ORIGIN_NAME)]
    licence: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ORIGIN_NAME)]
    root: Digest
    """Of the base's files of weights (assay.finetune.base)."""
    method: Literal["lora", "bitfit", "head", "full"]
    adapter: Annotated[str, msgspec.Meta(max_length=1 << 16)] = ""
    """Text of PEFT's adapter_config.json; empty for what is no adapter."""


class UsedDataset(Message, frozen=True, kw_only=True):
    """A published dataset: the next so many shards of the job's are its shards, with its owner's envelopes."""

    dataset: Annotated[DatasetId, msgspec.Meta(ge=1, le=2**63 - 1)]
    shards: Annotated[int, msgspec.Meta(ge=1, lt=2**32)]


FORMAT = "assay-job/1"
"""Of the documents that this program reads. A document of other rules has another: who does not know them leaves the job alone."""
MOST_HOLDERS = 16


class KeyHolder(Message, frozen=True, kw_only=True):
    account: Address
    peer: PeerId
    encryption_key: bytes
    """X25519 public key, 32 bytes."""


class KeyHolders(Message, frozen=True, kw_only=True):
    """Nodes that share each key (assay.threshold): `threshold` of them release it together. The first is the job's key service on chain."""

    threshold: Annotated[int, msgspec.Meta(ge=1, lt=MOST_HOLDERS + 1)]
    members: tuple[KeyHolder, ...]

    def place(self, account: Address) -> int:
        """Counted from 1; 0 for who is none of them."""
        return next((place for place, one in enumerate(self.members, 1) if one.account == account), 0)


class JobSpec(Message, frozen=True, kw_only=True):
    format: str = FORMAT
    name: str
    program: Cid
    program_root: Digest
    schedule: Cid
    """Blob: little-endian f32 [steps, scalars], row t holds the update's scalars (learning rate, bias corrections) of step t."""
    schedule_root: Digest
    scalars: tuple[str, ...]
    state: SealedRef
    """The initial state, a sealed safetensors file."""
    state_root: Digest
    frozen: SealedRef | UnsetType = UNSET
    """The tensors that no step changes, a sealed safetensors file; the program names their root. Not there when it reads none."""
    origin: Origin | UnsetType = UNSET
    """Of a fine-tune."""
    dataset: DatasetRef
    published: tuple[UsedDataset, ...] | UnsetType = UNSET
    """Where the data are others': their datasets, in the order of the shards."""
    order: Digest
    """Key of the permutation that orders the examples (assay.sampling)."""
    steps: U63
    micro_batches: U32
    batch: U32
    """Records in one micro-batch."""
    segment_steps: U32
    key_service: Address
    key_service_peer: PeerId
    key_service_key: bytes
    """X25519 public key, 32 bytes."""
    holders: KeyHolders | UnsetType = UNSET
    """Where its keys are shared among key holders."""

    @property
    def key_holders(self) -> KeyHolders | None:
        return None if self.holders is UNSET else self.holders

    @property
    def frozen_blobs(self) -> tuple[SealedRef, ...]:
        """The blob of the frozen tensors, if there is one: every provider and verifier needs it, whichever segment it has."""
        return () if self.frozen is UNSET else (self.frozen,)

    @property
    def shared_blobs(self) -> tuple[SealedRef, ...]:
        """Every sealed blob but the initial state: all shards, and the frozen tensors."""
        return (*(shard.sealed for shard in self.dataset.shards), *self.frozen_blobs)


def envelope_info(sender: Address) -> bytes:
    """The HPKE `info` of a key that is wrapped to the key service: the account whose transaction publishes the envelope.

    That is the client for what the job document names, and the provider for a commitment's checkpoint. Without it an envelope that is
    public in one job could be copied into another job, and the key service would open the data of the first to the second.
    """
    return b"assay/envelope/1" + bytes.fromhex(sender[2:])
