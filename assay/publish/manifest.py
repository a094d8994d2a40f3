"""The manifest of a published dataset: all that anybody may know of it, as one blob whose digest the Datasets contract holds.

    files -> records -> shards, each sealed under a key of its own -> the manifest, last

Public are the fields' names and forms, the counts, the roots of the salted records, and what the owner writes of licence, consent and
origin. Nothing of a file is: neither its name nor its digest, which a small table could be guessed from. `sources` commits to them
with a salt that the owner keeps, so that the owner can show later which files they were.

The key of each shard is wrapped to a key service, with `dataset_info` as HPKE's info: such an envelope opens for the job that uses this
dataset and for no other dataset's, whatever document it is copied into.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from assay import merkle, shard, threshold
from assay.codec import MAX_MESSAGE, Malformed, Message, decode
from assay.ids import Address, Amount, Digest, PeerId, address
from assay.job import DatasetRef, KeyHolders, envelope_info, shard_items
from assay.publish.purposes import PURPOSES

SHARES = 10_000
"""Parts of the revenue that the owners' shares are counted in."""
MOST_OWNERS = 32
MAX_TEXT = 1 << 16
MAX_LABELS = 1 << 16
MAX_MANIFEST = 64 * MAX_MESSAGE
PRICED = 1_000
"""Records that the price is for, each counted once for every time that it is read in training."""

Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Line = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class BadManifest(ValueError):
    """A manifest that cannot be true, or is malformed: the fault of who published it."""


class Owner(Message, frozen=True, kw_only=True):
    account: Address
    share: Annotated[int, msgspec.Meta(ge=1, le=SHARES)]
    """Of SHARES."""


class Licence(Message, frozen=True, kw_only=True):
    """What the owner asks of who uses the data. Who may, for how long and how often is granted on chain."""

    name: Line
    """An SPDX identifier, or a title of the owner's own."""
    text: Text = ""
    purposes: tuple[str, ...] = ()
    """Of PURPOSES."""
    consent: Text = ""
    """What the people agreed to whom the data are about, and how they can take it back."""
    price: Amount = 0
    """Smallest units for PRICED records read."""
    record_price: Amount | UnsetType = UNSET
    """Of one record that a dispute shows in the clear; without it as much as for PRICED reads."""

    @property
    def shown(self) -> int:
        """What such a record costs."""
        return self.price if self.record_price is UNSET else self.record_price


class Counts(Message, frozen=True, kw_only=True):
    """Files that were found."""

    used: int
    skipped: int
    duplicates: int


class Manifest(Message, frozen=True, kw_only=True):
    format: str = "assay-data/1"
    dataset: DatasetRef
    """Its envelopes are bound to `dataset_info`."""
    kind: Line
    labels: tuple[str, ...] = ()
    """Of the classes that the field `label` counts."""
    columns: tuple[str, ...] = ()
    """Of a table: those that the field `features` holds, in order."""
    owners: tuple[Owner, ...]
    """The first one published it."""
    licence: Licence
    provenance: Text = ""
    counts: Counts
    sources: Digest
    """Merkle root over `salt ‖ SHA-256 of the file`, in the order in which they were read."""
    key_service: Address
    key_service_peer: PeerId
    key_service_key: bytes
    holders: KeyHolders | UnsetType = UNSET
    """Where each key is shared among key holders (assay.threshold), of whom the first is the key service on chain."""

    @property
    def key_holders(self) -> KeyHolders | None:
        return None if self.holders is UNSET else self.holders

    @property
    def owner(self) -> Address:
        return self.owners[0].account


def shards_root(dataset: DatasetRef) -> Digest:
    """Root over the shards' places, counts and roots: what the contract knows a dataset by."""
    return merkle.root_of(shard_items(dataset))


def dataset_info(owner: Address, root: Digest) -> bytes:
    """The HPKE `info` of a key of a published dataset."""
    return b"assay/dataset/1" + bytes.fromhex(owner[2:]) + root


def info_of(publisher: Address, root: bytes) -> bytes:
    """The HPKE `info` of an envelope: of the dataset with that root, or of a job's own when there is none."""
    return dataset_info(publisher, Digest(root)) if root else envelope_info(publisher)


def purposes_mask(purposes: tuple[str, ...]) -> int:
    """Raises ValueError for one that PURPOSES lacks."""
    mask = 0
    for purpose in purposes:
        if purpose not in PURPOSES:
            raise ValueError(f"{purpose!r} is no purpose: {', '.join(PURPOSES)}")
        mask |= 1 << PURPOSES.index(purpose)
    return mask


def check(manifest: Manifest) -> None:
    """Raises BadManifest for one that contradicts itself, or is out of bounds."""
    if manifest.format != "assay-data/1":
        raise BadManifest(f"the manifest has format {manifest.format[:40]!r}, this program reads assay-data/1")
    try:
        shard.check_dataset(manifest.dataset)
        purposes_mask(manifest.licence.purposes)
        if manifest.key_holders is not None:
            threshold.check(manifest.key_holders, (), manifest.dataset)
        accounts = [address(owner.account) for owner in manifest.owners]
    except ValueError as error:
        raise BadManifest(str(error)) from None
    if not 1 <= len(accounts) <= MOST_OWNERS or len(set(accounts)) != len(accounts):
        raise BadManifest(f"a dataset has 1 to {MOST_OWNERS} different owners, this {len(accounts)}")
    if accounts != [owner.account for owner in manifest.owners]:
        raise BadManifest("an owner's account is not in lower case")
    total = sum(owner.share for owner in manifest.owners)
    if total != SHARES:
        raise BadManifest(f"the owners' shares are {total}, not {SHARES} together")
    if len(manifest.key_service_key) != 32 or len(manifest.sources) != 32:
        raise BadManifest("the key service's encryption key and the root of the sources have 32 bytes each")
    first = manifest.key_holders.members[0] if manifest.key_holders is not None else None
    named = (manifest.key_service, manifest.key_service_peer, manifest.key_service_key)
    if first is not None and named != (first.account, first.peer, first.encryption_key):
        raise BadManifest("the key service is not the first of the key holders")
    if len(manifest.labels) > MAX_LABELS or len(manifest.columns) > MAX_LABELS:
        raise BadManifest(f"more than {MAX_LABELS} labels or columns")


def read(data: bytes) -> Manifest:
    """A checked manifest. Raises BadManifest."""
    try:
        manifest = decode(data, Manifest, MAX_MANIFEST)
    except Malformed as error:
        raise BadManifest(str(error)) from None
    check(manifest)
    return manifest
