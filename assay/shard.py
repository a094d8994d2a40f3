"""Shards: sealed pieces of a dataset, each with a Merkle root over its records in the clear.

A record is the bytes of its fields (little-endian, C order) in the order of the dataset's fields. A shard is some records under one data key, from
which each has a key of its own (assay.record_keys); its file, and the salted leaves of the root, are those of assay.sealed_records. It is
read with its key, which opens all of it, or with the keys of some of its records, which open those and show nothing of the others.

Whose fault a shard is that cannot be used: the CID vouches that the file is the published one, and the key id that the key is the published
one. What the header, the leaves' root or, with the right key, any record has that is not in the dataset document is the data owner's
fault (BadShard). Another key than the published one is the fault of who gave it (seal.WrongKey). The keys of single records have no published
ids: one that does not open its record is held to be its giver's fault (sealed_records.WrongRecord says what can be known of it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay import cid, merkle, record_keys, seal, sealed_records, state, threshold
from assay.ids import Address, Cid, Digest
from assay.job import DatasetRef, Field, KeyHolders, SealedRef, ShardRef, data_fields, envelope_info, record_bytes
from assay.ports import Keys
from assay.record_keys import RecordKeys, ShardKey
from assay.sealed_records import Rows
from assay.state import DTYPES, Array, Tensors

SHARD_RECORDS = 1 << 14
MAX_FIELDS = 64
MAX_NAME = 200
MAX_SHARD = 1 << 30
"""Bytes of a shard's records with their leaf hashes: a worker has them in memory."""


class BadShard(ValueError):
    """A shard, or the dataset document, is not what its owner says: the data owner's fault."""


class BadRecords(ValueError):
    """Arrays that cannot be made a dataset: the fault of who calls."""


# ---- records and roots ---------------------------------------------------------------------------------------------------


def _rows(fields: Sequence[Field], arrays: Mapping[str, Array]) -> Rows:
    """The records' bytes: u8 [records, bytes of a record]."""
    count = len(arrays[fields[0].name])
    columns = [np.ascontiguousarray(arrays[field.name], dtype=DTYPES[field.dtype][1]).reshape(-1).view(np.uint8) for field in fields]
    parts = [column.reshape(count, record_bytes(field)) for column, field in zip(columns, fields, strict=True)]
    return parts[0] if len(parts) == 1 else np.ascontiguousarray(np.concatenate(parts, axis=1))


def _arrays(fields: Sequence[Field], rows: Rows, where: str) -> Tensors:
    """The fields of records; the counterpart of `_rows`. Raises BadShard for a bool that is none."""
    out: Tensors = {}
    at = 0
    for field in fields:
        size = record_bytes(field)
        column = np.ascontiguousarray(rows[:, at : at + size]).reshape(-1)
        at += size
        if field.dtype == "bool" and bool((column > 1).any()):
            raise BadShard(f"{where} field {field.name!r} holds a bool that is neither 0 nor 1; the data owner published a bad shard")
        out[field.name] = column.view(DTYPES[field.dtype][1]).reshape(len(rows), *field.shape)
    return out


def record_leaves(fields: Sequence[Field], arrays: Mapping[str, Array], key: bytes) -> list[Digest]:
    """Leaf hashes of a shard's records, in order."""
    return sealed_records.leaves_of(_rows(fields, arrays), key)


def record_root(fields: Sequence[Field], arrays: Mapping[str, Array], key: bytes) -> Digest:
    """Root over `record_leaves`."""
    return sealed_records.root_of(_rows(fields, arrays), key)


def content(fields: Sequence[Field], arrays: Mapping[str, Array]) -> Digest:
    """What its owner knows a shard by before it is sealed: SHA-256 over the form of its fields, its count of records and each field's
    bytes."""
    whole = hashlib.sha256(data_fields(DatasetRef(name="", fields=tuple(fields), shards=())))
    whole.update(len(arrays[fields[0].name]).to_bytes(8, "big"))
    for field in fields:
        whole.update(np.ascontiguousarray(arrays[field.name], dtype=DTYPES[field.dtype][1]).reshape(-1).view(np.uint8).data)
    return Digest(whole.digest())


# ---- sealing -------------------------------------------------------------------------------------------------------------


def wrap_for(keys: Keys, service: bytes, client: Address, holders: KeyHolders | None = None) -> Callable[[bytes], bytes]:
    """The `wrap` of `seal_dataset`: keeps the key in `keys` and wraps it to the key service, or to the key holders, for a job that `client` will
    post."""

    def wrap(key: bytes) -> bytes:
        keys.store(key)
        return threshold.seal_to(keys, key, service, holders, envelope_info(client))

    return wrap


def seal_file(plaintext: bytes, wrap: Callable[[bytes], bytes], new_key: Callable[[], bytes] = seal.new_key) -> tuple[SealedRef, bytes]:
    """Seals any file under a fresh key: its reference, with the key wrapped, and the blob to publish."""
    key = new_key()
    blob = seal.seal(plaintext, key)
    return SealedRef(cid=cid.of(blob), size=len(blob), key_id=seal.key_id(key), envelope=wrap(key)), blob


def fields_of(arrays: Mapping[str, Array]) -> tuple[Field, ...]:
    """The fields of arrays `[records, *shape]`, by name. Raises BadRecords."""
    if not arrays or len(arrays) > MAX_FIELDS:
        raise BadRecords(f"a dataset has 1 to {MAX_FIELDS} fields, not {len(arrays)}")
    counts = {name: array.shape[0] if array.ndim else -1 for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or min(counts.values()) < 1:
        raise BadRecords(f"every field needs the same number of records on its first axis, at least one: {counts}")
    return tuple(Field(name=name, dtype=state.dtype_name(arrays[name]), shape=arrays[name].shape[1:]) for name in sorted(arrays))


def most_records(fields: Sequence[Field]) -> int:
    """How many records fit into a shard. Raises BadRecords when it is none."""
    each = sum(record_bytes(field) for field in fields)
    if each + sealed_records.LEAF > MAX_SHARD:
        raise BadRecords(f"a record of {each} bytes is over the limit of {MAX_SHARD - sealed_records.LEAF}")
    return MAX_SHARD // (each + sealed_records.LEAF)


def seal_shard(fields: Sequence[Field], arrays: Mapping[str, Array], key: bytes) -> tuple[bytes, Digest]:
    """The file of a shard under a key of its own, and the root of its records."""
    return sealed_records.seal_records(_rows(fields, arrays), key)


def seal_dataset(
    name: str,
    arrays: Mapping[str, Array],
    wrap: Callable[[bytes], bytes],
    shard_records: int = SHARD_RECORDS,
    new_key: Callable[[], bytes] = seal.new_key,
) -> tuple[DatasetRef, list[bytes]]:
    """Cuts arrays `[records, *shape]` into shards of `shard_records` and seals each under a key of its own.

    Returns the dataset document and the blobs to publish, in the order of its shards. `wrap` gives the envelope of a key (see
    `wrap_for`). Raises BadRecords for arrays that do not fit together or hold a dtype that no state holds.
    """
    fields = fields_of(arrays)
    shard_records = min(shard_records, most_records(fields))
    shards, blobs = [], []
    for start in range(0, len(arrays[fields[0].name]), shard_records):
        part = {field.name: arrays[field.name][start : start + shard_records] for field in fields}
        key = new_key()
        blob, root = seal_shard(fields, part, key)
        sealed = SealedRef(cid=cid.of(blob), size=len(blob), key_id=seal.key_id(key), envelope=wrap(key))
        shards.append(ShardRef(sealed=sealed, records=len(part[fields[0].name]), root=root))
        blobs.append(blob)
    return DatasetRef(name=name, fields=fields, shards=tuple(shards)), blobs


# ---- reading -------------------------------------------------------------------------------------------------------------


def check_dataset(dataset: DatasetRef) -> None:
    """Raises BadShard for a dataset document that cannot be true."""
    names = [field.name for field in dataset.fields]
    if not 1 <= len(names) <= MAX_FIELDS or names != sorted(set(names)):
        raise BadShard(f"dataset {dataset.name!r} needs 1 to {MAX_FIELDS} fields of different names in order, it has {names[:8]}")
    for field in dataset.fields:
        if not 1 <= len(field.name) <= MAX_NAME:
            raise BadShard(f"a field's name has {len(field.name)} characters, not 1 to {MAX_NAME}")
        if field.dtype not in DTYPES:
            raise BadShard(f"field {field.name!r} has dtype {field.dtype!r}, none of {', '.join(DTYPES)}")
        if len(field.shape) > state.MAX_RANK - 1:
            raise BadShard(f"field {field.name!r} has {len(field.shape)} axes, over the limit of {state.MAX_RANK - 1}")
    each = sum(record_bytes(field) for field in dataset.fields)
    for index, shard in enumerate(dataset.shards):
        if len(shard.root) != 32:
            raise BadShard(f"the root of shard {index} of dataset {dataset.name!r} has {len(shard.root)} bytes, not 32")
        if not shard.records:
            raise BadShard(f"shard {index} of dataset {dataset.name!r} has no records")
        if shard.records * (each + sealed_records.LEAF) > MAX_SHARD:
            raise BadShard(f"shard {index} of dataset {dataset.name!r} is larger than {MAX_SHARD} bytes: seal it in smaller shards")
        if shard.sealed.size != sealed_records.sealed_size(shard.records, each):
            size = sealed_records.sealed_size(shard.records, each)
            raise BadShard(f"shard {index} of dataset {dataset.name!r} is said to have {shard.sealed.size} bytes; sealed, its records have {size}")
    if not dataset.shards:
        raise BadShard(f"dataset {dataset.name!r} has no shards")


def read_shard(ref: ShardRef, fields: Sequence[Field], sealed: bytes, key: bytes) -> Tensors:
    """All records of a shard, `[records, *shape]` for each field, checked against its root. Raises BadShard, seal.WrongKey.

    `sealed` is the blob `ref.sealed.cid` (the store has checked that), `key` the shard's.
    """
    if seal.key_id(key) != ref.sealed.key_id:
        raise seal.WrongKey(
            f"shard {ref.sealed.cid} opens with key {ref.sealed.key_id.hex()[:16]}…, this is key {seal.key_id(key).hex()[:16]}…: "
            "whoever gave this key gave a wrong one"
        )
    where = f"shard {ref.sealed.cid}: the key is the published one, but"
    rows, root, listed = _reader(ref, fields, sealed, where).open(key)
    if root != ref.root:
        raise BadShard(f"{where} its records are not those of the published root; the data owner published other data than it committed to")
    if not listed:
        raise BadShard(f"{where} the leaf hashes that it lists are not those of its records; the data owner published a bad shard")
    return _arrays(fields, rows, where)


def read_records(ref: ShardRef, fields: Sequence[Field], sealed: bytes, keys: RecordKeys, indices: Iterable[int]) -> Tensors:
    """Some records of a shard by their place in it, `[len(indices), *shape]` for each field, with their keys and in their order: each checked
    against its leaf, and all leaves against the root. Raises BadShard, sealed_records.WrongRecord, IndexError, and seal.WrongKey for a
    record whose key is not among `keys`."""
    where = f"shard {ref.sealed.cid}:"
    reader = _listed(ref, fields, sealed, where)
    try:
        return _arrays(fields, reader.some(keys, indices), where)
    except seal.WrongKey as error:
        raise type(error)(f"{where} {error}") from None


class Proof(NamedTuple):
    """A record as a dispute shows it."""

    salt: Digest
    data: bytes
    path: tuple[Digest, ...]
    """From its leaf to the shard's root."""


def prove(ref: ShardRef, fields: Sequence[Field], sealed: bytes, key: ShardKey, index: int) -> Proof:
    """Of a record by its place in the shard; its own key is enough, for the shard lists the leaves of the others. Raises as `read_records`,
    or as `read_shard` where `key` is the shard's."""
    where = f"shard {ref.sealed.cid}:"
    if not isinstance(key, RecordKeys):
        read_shard(ref, fields, sealed, key)  # so that what is wrong is known to be the owner's
        key = record_keys.select(key, [index])
    reader = _listed(ref, fields, sealed, where)
    try:
        (row,) = reader.some(key, [index])
    except seal.WrongKey as error:
        raise type(error)(f"{where} {error}") from None
    return Proof(record_keys.salt(key.keys[index]), row.tobytes(), merkle.prove(reader.leaves, index))


def _reader(ref: ShardRef, fields: Sequence[Field], sealed: bytes, where: str) -> sealed_records.Reader:
    try:
        reader = sealed_records.Reader(sealed)
    except seal.Corrupt as error:
        raise BadShard(f"{where} the file does not open ({error}); the data owner published a bad shard") from None
    has, each = reader.header, sum(record_bytes(field) for field in fields)
    if has != (ref.records, each, ref.sealed.key_id):
        raise BadShard(
            f"{where} it holds {has.records} records of {has.width} bytes under key {has.key_id.hex()[:16]}… where the dataset document says "
            f"{ref.records} of {each} bytes under key {ref.sealed.key_id.hex()[:16]}…; the data owner's fault"
        )
    return reader


def _listed(ref: ShardRef, fields: Sequence[Field], sealed: bytes, where: str) -> sealed_records.Reader:
    """The file of a shard whose leaves are known to be those of its root, whatever key there is."""
    reader = _reader(ref, fields, sealed, where)
    if reader.listed_root() != ref.root:
        raise BadShard(f"{where} the leaf hashes that it lists are not those of the published root; the data owner published a bad shard")
    return reader


class Records:
    """The records of a dataset, read where they are.

    `blob` gives a sealed file from the local store, `key` the key of a shard by its id, or those of some of its records; what they raise passes
    through. A shard whose key is here is opened and checked when its first record is asked for, and kept; with keys of records, those are
    opened that are asked for.
    """

    def __init__(self, dataset: DatasetRef, blob: Callable[[Cid], bytes], key: Callable[[Digest], ShardKey]) -> None:
        check_dataset(dataset)
        self.dataset, self._blob, self._key = dataset, blob, key
        self._ends = np.cumsum([shard.records for shard in dataset.shards])
        self._open: dict[int, Tensors] = {}

    def _read(self, index: int, local: NDArray[np.int64]) -> Tensors:
        """Records of a shard by their places in it."""
        if index not in self._open:
            ref, fields = self.dataset.shards[index], self.dataset.fields
            key = self._key(ref.sealed.key_id)
            if isinstance(key, RecordKeys):
                return read_records(ref, fields, self._blob(ref.sealed.cid), key, local.tolist())
            self._open[index] = read_shard(ref, fields, self._blob(ref.sealed.cid), key)
        return {name: array[local] for name, array in self._open[index].items()}

    def read(self, indices: Iterable[int]) -> Tensors:
        """Records by their number over the whole dataset: `[len(indices), *shape]` for each field. Raises IndexError."""
        wanted = np.fromiter(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.dataset.records):
            raise IndexError(f"records {wanted.min()}..{wanted.max()} of a dataset of {self.dataset.records}")
        shards = np.searchsorted(self._ends, wanted, side="right")
        out: Tensors = {f.name: np.empty((len(wanted), *f.shape), DTYPES[f.dtype][1]) for f in self.dataset.fields}
        for index in np.unique(shards):
            here = shards == index
            local = wanted[here] - (self._ends[index] - self.dataset.shards[index].records)
            for name, array in self._read(int(index), local).items():
                out[name][here] = array
        return out
