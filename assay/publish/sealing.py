"""Sealing of surveyed files: records into shards, shards into blobs, the manifest last.

A shard is full at `each` records; a file that fills a quarter of one ends it, so that a dataset that has grown, or lost a file, has most
of its shards in common with what was published before. What a folder has sealed it remembers by its content: the same shard, of
this dataset or another, is sealed once and keeps its key. The same memory lets an interrupted run go on where it stopped.

Before the manifest's record is renamed into place there is no dataset: what was sealed until then is unknown to anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET

from assay import merkle, seal, sealed_records, shard, threshold
from assay.codec import Malformed, Message, decode, digest, encode
from assay.ids import U63, Address, Cid, Digest, PeerId
from assay.job import DatasetRef, KeyHolders, SealedRef, ShardRef, record_bytes
from assay.ports import Blobs, Keys
from assay.publish import manifest as manifests
from assay.publish.manifest import Counts, Licence, Manifest, Owner
from assay.publish.survey import File, NoDataset, Survey, records_of
from assay.state import Tensors

SHARD_BYTES = 16 << 20
"""Buffers of this size come back from the allocator without new pages, which would cost more than the cipher (bench/sealing.py)."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Wish(NamedTuple):
    """What the owner says of the dataset."""

    name: str
    owners: tuple[Owner, ...]
    licence: Licence
    provenance: str = ""
    shard_records: int = shard.SHARD_RECORDS
    rotate: bool = False
    """Every shard gets a new key, whether it was sealed before or not."""


class Service(NamedTuple):
    """The key service that the keys are wrapped to."""

    account: Address
    peer: PeerId
    encryption_key: bytes
    holders: KeyHolders | None = None
    """Where the keys are shared: this is the first of them."""


class SealedShard(Message, frozen=True, kw_only=True):
    """A shard that this folder has sealed; no envelope: it belongs to a manifest."""

    content: Digest
    """assay.shard.content."""
    cid: Cid
    size: U63
    key_id: Digest
    records: U63
    root: Digest


class Source(Message, frozen=True, kw_only=True):
    """A file that went into the dataset. Known to the owner alone."""

    name: str
    digest: Digest
    records: U63


class Published(Message, frozen=True, kw_only=True):
    """The owner's own record of a dataset."""

    name: str
    manifest: Cid
    digest: Digest
    salt: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    """With it and the sources' digests the root in the manifest is made."""
    sources: tuple[Source, ...]
    skipped: tuple[tuple[str, str], ...]
    """(file, why)."""
    duplicates: tuple[tuple[str, str], ...]


class Progress(NamedTuple):
    records: int
    total: int
    shards: int
    fresh: int
    """Shards that were sealed; the others were known."""
    bytes: int


class Index:
    """Shards by their content, in a file of JSON lines; a torn last line is dropped. On the disk when `keep` returns."""

    def __init__(self, path: Path) -> None:
        self.shards: dict[Digest, SealedShard] = {}
        for line in path.read_bytes().splitlines() if path.exists() else []:
            with contextlib.suppress(Malformed):
                known = decode(line, SealedShard)
                self.shards[known.content] = known
        self._file = path.open("ab")

    def keep(self, sealed: SealedShard) -> None:
        self._file.write(b"\n" + encode(sealed))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.shards[sealed.content] = sealed

    def close(self) -> None:
        self._file.close()


def pieces(found: Survey, each: int) -> Iterator[Tensors]:
    """The records of all good files in shards."""
    held: list[Tensors] = []
    count = 0
    for file in found.good:
        for batch in records_of(found, file):
            at, size = 0, len(next(iter(batch.values())))
            while at < size:
                step = min(size - at, each - count)
                held.append({name: array[at : at + step] for name, array in batch.items()})
                at, count = at + step, count + step
                if count == each:
                    yield _joined(held)
                    held, count = [], 0
        if count and 4 * file.records >= each:
            yield _joined(held)
            held, count = [], 0
    if held:
        yield _joined(held)


def _joined(parts: list[Tensors]) -> Tensors:
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


async def publish(
    found: Survey, wish: Wish, service: Service, folder: Path, blobs: Blobs, keys: Keys, progress: Callable[[Progress], None] = lambda told: None
) -> tuple[Manifest, Published]:
    """Seals what the survey found and stores it, the manifest last. `folder` is the owner's. Raises NoDataset, StorageFull."""
    if not NAME.fullmatch(wish.name):
        raise NoDataset(f"{wish.name!r} is no name for a dataset: small letters, digits, '.', '_' and '-', at most 64")
    try:
        most = min(wish.shard_records, shard.most_records(found.fields))
    except shard.BadRecords as error:
        raise NoDataset(str(error)) from None
    width = sum(record_bytes(field) for field in found.fields) + sealed_records.LEAF
    index = Index(folder / "sealed.jsonl")
    try:
        shards = await _seal_all(found, wish, max(1, min(most, SHARD_BYTES // width)), index, blobs, keys, progress)
    finally:
        index.close()
    bare = DatasetRef(name=wish.name, fields=found.fields, shards=tuple(_reference(each) for each in shards))
    info = manifests.dataset_info(keys.account, manifests.shards_root(bare))
    dataset, masks = await asyncio.to_thread(threshold.seal_shards, keys, bare, service.encryption_key, service.holders, info)
    for blob in masks:
        await blobs.put(blob)
    salt = os.urandom(32)
    made = Manifest(
        dataset=dataset, kind=found.how.kind, labels=found.how.classes, columns=found.columns, owners=wish.owners,
        licence=wish.licence, provenance=wish.provenance,
        counts=Counts(used=len(found.good), skipped=len(found.bad), duplicates=len(found.duplicates)), sources=sources_root(salt, found.good),
        key_service=service.account, key_service_peer=service.peer, key_service_key=service.encryption_key,
        holders=UNSET if service.holders is None else service.holders,
    )  # fmt: skip
    manifests.check(made)
    data = encode(made)
    if len(data) > manifests.MAX_MANIFEST:
        raise NoDataset(f"the manifest of {len(shards)} shards has {len(data)} bytes, over the limit of {manifests.MAX_MANIFEST}: larger shards")
    record = Published(
        name=wish.name, manifest=await blobs.put(data), digest=digest(made), salt=salt,
        sources=tuple(Source(name=file.name, digest=file.digest, records=file.records) for file in found.good),
        skipped=tuple((file.name, file.why) for file in found.bad), duplicates=found.duplicates,
    )  # fmt: skip
    write_record(folder, record)
    return made, record


async def _seal_all(
    found: Survey, wish: Wish, each: int, index: Index, blobs: Blobs, keys: Keys, progress: Callable[[Progress], None]
) -> list[SealedShard]:
    shards: list[SealedShard] = []
    fresh_ones: set[Digest] = set()
    records = size = 0
    width = sum(record_bytes(field) for field in found.fields)
    for part in pieces(found, each):
        content = shard.content(found.fields, part)
        sealed = None if wish.rotate and content not in fresh_ones else index.shards.get(content)
        if sealed is None or not await blobs.has(sealed.cid) or not _held(keys, sealed.key_id):
            key = seal.new_key()
            keys.store(key)  # before anything lies anywhere that it opens
            blob, root = shard.seal_shard(found.fields, part, key)
            cid, count = await blobs.put(blob), len(part[found.fields[0].name])
            sealed = SealedShard(content=content, cid=cid, size=len(blob), key_id=seal.key_id(key), records=count, root=root)
            index.keep(sealed)
            fresh_ones.add(content)
        shards.append(sealed)
        records, size = records + sealed.records, size + sealed.records * width
        progress(Progress(records, found.records, len(shards), len(fresh_ones), size))
    return shards


def _held(keys: Keys, key_id: Digest) -> bool:
    try:
        return bool(keys.load(key_id))
    except KeyError:
        return False


def _reference(sealed: SealedShard) -> ShardRef:
    """Without its envelope."""
    ref = SealedRef(cid=sealed.cid, size=sealed.size, key_id=sealed.key_id, envelope=b"")
    return ShardRef(sealed=ref, records=sealed.records, root=sealed.root)


def sources_root(salt: bytes, files: Iterable[File | Source]) -> Digest:
    """What commits a manifest to its files."""
    return merkle.root_of([hmac.digest(salt, index.to_bytes(8, "big"), "sha256") + file.digest for index, file in enumerate(files)])


# ---- the owner's records ---------------------------------------------------------------------------------------------------


def write_record(folder: Path, record: Published) -> None:
    """In one stroke, and on the disk when it returns."""
    home = folder / "datasets"
    home.mkdir(mode=0o700, exist_ok=True)
    fresh = home / f".{record.name}.new"
    with fresh.open("wb") as file:
        file.write(encode(record))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(home / f"{record.name}.json")


def records(folder: Path) -> list[Published]:
    """All datasets of an owner, by name. Raises Malformed for a record that somebody has changed."""
    home = folder / "datasets"
    return [decode(path.read_bytes(), Published, 1 << 30) for path in sorted(home.glob("[!.]*.json"))] if home.is_dir() else []


async def verify(made: Manifest, blobs: Blobs, keys: Keys) -> tuple[int, list[str]]:
    """Opens every shard whose key is here: records that are what the manifest says, and what is wrong. A shard without a key counts as
    wrong: to verify is to have opened it."""
    good, wrong = 0, []
    for number, ref in enumerate(made.dataset.shards):
        try:
            arrays = shard.read_shard(ref, made.dataset.fields, await blobs.get(ref.sealed.cid), keys.load(ref.sealed.key_id))
            good += len(next(iter(arrays.values())))
        except KeyError as error:
            wrong.append(f"shard {number} cannot be opened here: {error.args[0]}")
        except (shard.BadShard, seal.SealError) as error:
            wrong.append(f"shard {number}: {error}")
    return good, wrong
