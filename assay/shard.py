"""Shards: sealed pieces of a dataset, each with a Merkle root over its records in the clear.

A shard's plaintext is a safetensors file with one tensor `[records, *shape]` for each field. Its root is the Merkle root over
`salt_i ‖ record_i`, a record being the bytes of its fields (little-endian, C order) in the order of the dataset's fields. The salt,
`HKDF-Expand(HKDF-Extract("", data key), "assay/record-salt/1" ‖ i u64)` (RFC 5869, SHA-256, 32 bytes), keeps small records from being
guessed from their hashes; whoever holds the key can compute it. The plaintext is sealed (assay.seal) under a data key of its own.

Whose fault a shard is that cannot be used: the CID vouches that the ciphertext is the published one, and the key id that the key is
the published one. With the right key, a file that does not open, or a plaintext whose fields or root are not those of the dataset
document, is the data owner's fault (BadShard). Another key than the published one is the fault of who gave it (seal.WrongKey).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from assay import cid, merkle, seal, state, threshold
from assay.exact.native.build import library
from assay.ids import Address, Cid, Digest
from assay.job import DatasetRef, Field, KeyHolders, SealedRef, ShardRef, envelope_info, record_bytes
from assay.ports import Keys
from assay.sampling import MAX_RECORDS
from assay.state import DTYPES, Array, Tensors

SHARD_RECORDS = 1 << 14
MAX_FIELDS = 64
MAX_NAME = 200
MAX_SHARD = 1 << 30
"""Bytes of a shard's plaintext: a worker has it in memory."""


class BadShard(ValueError):
    """A shard, or the dataset document, is not what its owner says: the data owner's fault."""


class BadRecords(ValueError):
    """Arrays that cannot be made a dataset: the fault of who calls."""


# ---- records and roots ---------------------------------------------------------------------------------------------------


def _extract(key: bytes) -> bytes:
    return hmac.digest(bytes(32), key, "sha256")


def salt(key: bytes, index: int) -> bytes:
    """Salt of record `index` of the shard with data key `key`, 32 bytes."""
    return _salt(_extract(key), index)


def _salt(prk: bytes, index: int) -> bytes:
    return hmac.digest(prk, b"assay/record-salt/1" + index.to_bytes(8, "big") + b"\x01", "sha256")


def _rows(fields: Sequence[Field], arrays: Mapping[str, Array]) -> Array:
    """The records' bytes: u8 [records, bytes of a record]."""
    count = len(arrays[fields[0].name])
    columns = [np.ascontiguousarray(arrays[field.name], dtype=DTYPES[field.dtype][1]).reshape(-1).view(np.uint8) for field in fields]
    parts = [column.reshape(count, record_bytes(field)) for column, field in zip(columns, fields, strict=True)]
    return parts[0] if len(parts) == 1 else np.ascontiguousarray(np.concatenate(parts, axis=1))


def record_leaves(fields: Sequence[Field], arrays: Mapping[str, Array], key: bytes) -> list[Digest]:
    """Leaf hashes of a shard's records, in order."""
    rows, prk, native = _rows(fields, arrays), _extract(key), library()
    if native is None:
        return [merkle.leaf(i, _salt(prk, i) + row.tobytes()) for i, row in enumerate(rows)]
    hashes, _ = native.record_root(prk, rows)
    return [Digest(hashes[at : at + 32]) for at in range(0, len(hashes), 32)]


def record_root(fields: Sequence[Field], arrays: Mapping[str, Array], key: bytes) -> Digest:
    """Root over `record_leaves`, in one pass of the native code where there is any."""
    native = library()
    if native is None:
        return merkle.root(record_leaves(fields, arrays, key))
    return Digest(native.record_root(_extract(key), _rows(fields, arrays))[1])


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
    each = sum(record_bytes(field) for field in fields)
    if each > MAX_SHARD:
        raise BadRecords(f"a record of {each} bytes is over the limit of {MAX_SHARD}")
    shard_records = min(shard_records, MAX_SHARD // max(each, 1))
    shards, blobs = [], []
    for start in range(0, len(arrays[fields[0].name]), shard_records):
        part = {field.name: arrays[field.name][start : start + shard_records] for field in fields}
        key = new_key()
        sealed, blob = seal_file(state.to_bytes(part), wrap, lambda key=key: key)  # type: ignore[misc]
        shards.append(ShardRef(sealed=sealed, records=len(part[fields[0].name]), root=record_root(fields, part, key)))
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
        if shard.records * each > MAX_SHARD or shard.sealed.size > seal.sealed_size(MAX_SHARD):
            raise BadShard(f"shard {index} of dataset {dataset.name!r} is larger than {MAX_SHARD} bytes: seal it in smaller shards")
    if dataset.records > MAX_RECORDS:
        raise BadShard(f"dataset {dataset.name!r} has {dataset.records} records, over the limit of {MAX_RECORDS}")
    if not dataset.shards:
        raise BadShard(f"dataset {dataset.name!r} has no shards")


def read_shard(ref: ShardRef, fields: Sequence[Field], sealed: bytes, key: bytes) -> Tensors:
    """All records of a shard, `[records, *shape]` for each field, checked against its root. Raises BadShard, seal.WrongKey.

    `sealed` is the blob `ref.sealed.cid` (the store has checked that).
    """
    if seal.key_id(key) != ref.sealed.key_id:
        raise seal.WrongKey(
            f"shard {ref.sealed.cid} opens with key {ref.sealed.key_id.hex()[:16]}…, this is key {seal.key_id(key).hex()[:16]}…: "
            "whoever gave this key gave a wrong one"
        )
    where = f"shard {ref.sealed.cid}: the key is the published one, but"
    try:
        arrays = state.from_bytes(seal.unseal(sealed, key), limit=MAX_SHARD + state.MAX_HEADER)
    except seal.SealError as error:
        raise BadShard(f"{where} the file does not open with it ({error}); the data owner published a bad shard") from None
    except state.BadTensors as error:
        raise BadShard(f"{where} what it opens to is no tensor file ({error}); the data owner published a bad shard") from None
    has = {name: (state.dtype_name(array), array.shape) for name, array in arrays.items()}
    wanted = {field.name: (field.dtype, (ref.records, *field.shape)) for field in fields}
    if has != wanted:
        raise BadShard(f"{where} it holds {_shapes(has)} where the dataset document says {_shapes(wanted)}; the data owner's fault")
    if record_root(fields, arrays, key) != ref.root:
        raise BadShard(f"{where} its records are not those of the published root; the data owner published other data than it committed to")
    return arrays


def _shapes(what: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (dtype, shape) in sorted(what.items())[:8])


class Records:
    """The records of a dataset, read where they are: a shard is opened and checked when its first record is asked for, and kept.

    `blob` gives a sealed file from the local store, `key` a key by its id; what they raise passes through.
    """

    def __init__(self, dataset: DatasetRef, blob: Callable[[Cid], bytes], key: Callable[[Digest], bytes]) -> None:
        check_dataset(dataset)
        self.dataset, self._blob, self._key = dataset, blob, key
        self._ends = np.cumsum([shard.records for shard in dataset.shards])
        self._open: dict[int, Tensors] = {}

    def _shard(self, index: int) -> Tensors:
        if index not in self._open:
            ref = self.dataset.shards[index]
            self._open[index] = read_shard(ref, self.dataset.fields, self._blob(ref.sealed.cid), self._key(ref.sealed.key_id))
        return self._open[index]

    def read(self, indices: Iterable[int]) -> Tensors:
        """Records by their number over the whole dataset: `[len(indices), *shape]` for each field. Raises IndexError."""
        wanted = np.fromiter(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.dataset.records):
            raise IndexError(f"records {wanted.min()}..{wanted.max()} of a dataset of {self.dataset.records}")
        shards = np.searchsorted(self._ends, wanted, side="right")
        out: Tensors = {f.name: np.empty((len(wanted), *f.shape), DTYPES[f.dtype][1]) for f in self.dataset.fields}
        for index in np.unique(shards):
            arrays, here = self._shard(int(index)), shards == index
            local = wanted[here] - (self._ends[index] - self.dataset.shards[index].records)
            for name, array in arrays.items():
                out[name][here] = array[local]
        return out
