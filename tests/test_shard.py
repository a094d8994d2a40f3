"""Shards: what comes out is what went in, and each way of being wrong is named with whose fault it is."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from assay import cid, merkle, record_keys, seal, sealed_records, shard
from assay.ids import Cid, Digest
from assay.job import DatasetRef, Field, ShardRef, data_root, shard_items
from assay.record_keys import RecordKeys

KEYS: dict[Digest, bytes] = {}


def keep(key: bytes) -> bytes:
    KEYS[seal.key_id(key)] = key
    return b"e" * 80


def sample(records: int = 25) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "x": rng.normal(size=(records, 4, 2)).astype(np.float32),
        "y": rng.integers(0, 9, size=records, dtype=np.int64),
        "mask": rng.integers(0, 2, size=(records, 3)).astype(bool),
    }


def owned(arrays: dict[str, np.ndarray]) -> tuple[DatasetRef, bytes, bytes]:
    """A dataset of one shard with its file and its key."""
    dataset, (blob,) = shard.seal_dataset("s", arrays, keep)
    return dataset, blob, KEYS[dataset.shards[0].sealed.key_id]


def test_records_come_back_over_shards_in_any_order() -> None:
    arrays = sample()
    dataset, blobs = shard.seal_dataset("s", arrays, keep, shard_records=10)
    assert [ref.records for ref in dataset.shards] == [10, 10, 5]
    assert [field.name for field in dataset.fields] == ["mask", "x", "y"]
    assert len({ref.sealed.key_id for ref in dataset.shards}) == 3
    store = dict(zip([ref.sealed.cid for ref in dataset.shards], blobs, strict=True))
    assert all(cid.of(blob) == name for name, blob in store.items())
    asked: list[Cid] = []
    records = shard.Records(dataset, lambda name: asked.append(name) or store[name], KEYS.__getitem__)  # type: ignore[func-returns-value]
    indices = [24, 0, 9, 10, 0, 21]
    out = records.read(indices)
    for name, array in arrays.items():
        assert out[name].dtype == array.dtype
        assert np.array_equal(out[name], array[indices])
    records.read(indices)
    assert len(asked) == 3  # each opened once
    assert records.read([])["x"].shape == (0, 4, 2)
    with pytest.raises(IndexError, match=r"records 0\.\.25 of a dataset of 25"):
        records.read([0, 25])
    with pytest.raises(IndexError):
        records.read([-1])


def test_only_the_shards_that_are_asked_for_are_opened() -> None:
    dataset, blobs = shard.seal_dataset("s", sample(), keep, shard_records=10)
    records = shard.Records(dataset, {dataset.shards[1].sealed.cid: blobs[1]}.__getitem__, KEYS.__getitem__)
    assert records.read([10, 19])["y"].shape == (2,)
    with pytest.raises(KeyError):
        records.read([9])


def salt(key: bytes, index: int) -> bytes:
    return record_keys.salt(record_keys.derive(key, index))


def test_root_is_over_salted_records_in_the_order_of_the_fields() -> None:
    arrays = {"b": np.array([[1, 2], [3, 4]], dtype=np.int16), "a": np.array([5, 6], dtype=np.uint8)}
    dataset, _ = shard.seal_dataset("s", arrays, keep)
    key = KEYS[dataset.shards[0].sealed.key_id]
    leaves = [merkle.leaf(i, salt(key, i) + row) for i, row in enumerate([b"\x05\x01\x00\x02\x00", b"\x06\x03\x00\x04\x00"])]
    assert dataset.shards[0].root == merkle.root(leaves)
    fields = b"\0\2" + b"\0\1a\4" + bytes(7) + b"\1" + b"\0\1b\7" + bytes(7) + b"\4"
    shards = merkle.root_of([bytes(8) + (2).to_bytes(8, "big") + merkle.root(leaves)])
    counts = (5).to_bytes(4, "big") + (2).to_bytes(8, "big") + (1).to_bytes(4, "big")
    assert data_root(dataset, Digest(b"o" * 32), 5) == merkle.sha256(b"\x17", b"o" * 32, counts, shards, fields)


def test_the_data_root_tells_where_each_shard_begins() -> None:
    dataset, _ = shard.seal_dataset("s", sample(), keep, shard_records=10)
    assert [int.from_bytes(item[:8], "big") for item in shard_items(dataset)] == [0, 10, 20]
    order = Digest(bytes(32))
    turned = msgspec.structs.replace(dataset, shards=dataset.shards[::-1])
    roots = {data_root(d, o, b) for d, o, b in ((dataset, order, 4), (turned, order, 4), (dataset, order, 5), (dataset, Digest(b"1" * 32), 4))}
    assert len(roots) == 4


def test_equal_records_have_different_leaves() -> None:
    arrays = {"x": np.zeros((2, 3), dtype=np.float32)}
    fields = shard.fields_of(arrays)
    one, two = shard.record_leaves(fields, arrays, bytes(32))
    assert one != two
    assert shard.record_leaves(fields, arrays, b"k" * 32)[0] != one


def test_another_key_is_the_fault_of_who_gave_it() -> None:
    dataset, blobs = shard.seal_dataset("s", sample(), keep)
    with pytest.raises(seal.WrongKey, match="whoever gave this key gave a wrong one"):
        shard.read_shard(dataset.shards[0], dataset.fields, blobs[0], b"w" * 32)


def test_other_records_under_the_right_key_are_the_owners_fault() -> None:
    arrays = sample(4)
    dataset, blob, key = owned(arrays)
    ref, fields = dataset.shards[0], dataset.fields

    def refused(why: str, file: bytes) -> None:
        with pytest.raises(shard.BadShard, match=why):
            shard.read_shard(ref, fields, file, key)

    refused("other data than it committed to", shard.seal_shard(fields, {**arrays, "y": arrays["y"] + 1}, key)[0])
    refused(r"holds 3 records .* where the dataset document says 4 of ", shard.seal_shard(fields, {n: a[:3] for n, a in arrays.items()}, key)[0])
    narrow = {**arrays, "y": arrays["y"].astype(np.int32)}
    refused("holds 4 records of 39 bytes .* document says 4 of 43 bytes", shard.seal_shard(shard.fields_of(narrow), narrow, key)[0])
    refused("under key .* the data owner's fault", shard.seal_shard(fields, arrays, b"o" * 32)[0])
    refused("no sealed records", seal.seal(blob, key))
    refused("cut or added to", blob[:-1])
    refused("cut or added to", blob + b"\0")
    refused("at least 64 bytes", blob[:60])
    rows_end = 64 + 4 * 43
    refused("other data than it committed to", changed(blob, 64 + 43))
    refused("other data than it committed to", changed(blob, rows_end))  # its first bytes are the record's nonce
    refused("leaf hashes that it lists are not those of its records", changed(blob, rows_end + 31))
    refused("other data than it committed to", blob[:64] + blob[64 + 43 : 64 + 86] + blob[64 : 64 + 43] + blob[64 + 86 :])


def changed(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


def test_a_bool_that_is_none_is_the_owners_fault() -> None:
    arrays = sample(4)
    dataset, blob, key = owned(arrays)
    ref, fields = dataset.shards[0], dataset.fields
    rows = sealed_records.Reader(blob).open(key).rows
    rows[2, 1] = 2
    blob, root = sealed_records.seal_records(rows, key)
    ref = msgspec.structs.replace(ref, root=root)
    with pytest.raises(shard.BadShard, match="'mask' holds a bool that is neither"):
        shard.read_shard(ref, fields, blob, key)
    with pytest.raises(shard.BadShard, match="'mask' holds a bool that is neither"):
        shard.read_records(ref, fields, blob, record_keys.select(key, [2]), [2])
    assert shard.read_records(ref, fields, blob, record_keys.select(key, [1]), [1])["y"] == arrays["y"][1]


def test_keys_of_records_open_those_and_no_others() -> None:
    arrays = sample()
    dataset, blobs = shard.seal_dataset("s", arrays, keep, shard_records=10)
    store = dict(zip([ref.sealed.cid for ref in dataset.shards], blobs, strict=True))
    key_ids = [ref.sealed.key_id for ref in dataset.shards]
    given = {name: record_keys.select(KEYS[name], read) for name, read in zip(key_ids, ([1, 9], [0], [4]), strict=True)}
    records = shard.Records(dataset, store.__getitem__, given.__getitem__)
    indices = [24, 9, 10, 1, 24]
    out = records.read(indices)
    for name, array in arrays.items():
        assert out[name].dtype == array.dtype
        assert np.array_equal(out[name], array[indices])
    for index in set(range(25)) - set(indices):
        with pytest.raises(seal.WrongKey, match=r"shard .*: record \d+ is wanted, and no key for it was given"):
            records.read([index])
    mixed = given | {key_ids[1]: KEYS[key_ids[1]]}
    out = shard.Records(dataset, store.__getitem__, mixed.__getitem__).read([9, *range(10, 20)])
    assert np.array_equal(out["x"], arrays["x"][9:20])


def test_whose_fault_it_is_that_a_record_does_not_open() -> None:
    arrays = sample(4)
    dataset, blob, key = owned(arrays)
    ref, fields, keys = dataset.shards[0], dataset.fields, record_keys.select(key, [0, 2])

    def read(file: bytes, keys: RecordKeys = keys) -> None:
        shard.read_records(ref, fields, file, keys, [2])

    read(blob)
    with pytest.raises(sealed_records.WrongRecord, match=r"shard .*record 2 does not open .*gave a wrong one, or the data owner"):
        read(blob, RecordKeys({2: keys.keys[0]}))
    with pytest.raises(sealed_records.WrongRecord):  # to who has no other key the same
        read(changed(blob, 64 + 2 * 43))
    read(changed(blob, 64 + 43))  # of other records' rows nothing is known
    for at in (0, 31, 64):  # a leaf list of other leaves is the owner's, whatever the keys
        with pytest.raises(shard.BadShard, match="leaf hashes that it lists are not those of the published root"):
            read(changed(blob, 64 + 4 * 43 + at))
    for file in (blob[:-1], blob + b"\0", changed(blob, 0), changed(blob, 20), changed(blob, 63)):
        with pytest.raises(shard.BadShard):
            read(file)


def test_a_record_is_proven_with_its_own_key() -> None:
    arrays = sample(7)
    dataset, blob, key = owned(arrays)
    ref, fields = dataset.shards[0], dataset.fields
    shown = shard.prove(ref, fields, blob, record_keys.select(key, [5]), 5)
    assert shown == shard.prove(ref, fields, blob, key, 5)
    assert shown.data == b"".join(arrays[field.name][5].tobytes() for field in fields)
    assert merkle.verify(ref.root, 7, 5, merkle.leaf(5, shown.salt + shown.data), shown.path)
    assert key not in shown.data + shown.salt
    with pytest.raises(seal.WrongKey, match="record 4 is wanted"):
        shard.prove(ref, fields, blob, record_keys.select(key, [5]), 4)
    with pytest.raises(shard.BadShard, match="other data"):
        shard.prove(ref, fields, changed(blob, 64), key, 5)


def test_what_an_owner_knows_a_shard_by() -> None:
    arrays = sample(4)
    fields = shard.fields_of(arrays)
    known = shard.content(fields, arrays)
    assert known == shard.content(fields, {name: array.copy() for name, array in arrays.items()})
    others: list[dict[str, np.ndarray]] = [
        {n: a[:3] for n, a in arrays.items()}, {**arrays, "y": arrays["y"] + 1}, {**arrays, "y": arrays["y"].view(np.float64)},
        {"w": arrays["x"], "y": arrays["y"], "mask": arrays["mask"]},
    ]  # fmt: skip
    assert len({known, *(shard.content(shard.fields_of(other), other) for other in others)}) == 5


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({}, "1 to 64 fields"),
        ({"x": np.zeros((0, 2), np.float32)}, "at least one"),
        ({"x": np.zeros((2, 2), np.float32), "y": np.zeros(3, np.int64)}, "same number"),
        ({"x": np.array(1.0, np.float32)}, "same number"),
        ({"x": np.zeros(2, np.complex64)}, "complex64"),
    ],
)
def test_arrays_that_are_no_dataset_are_refused(arrays: dict[str, np.ndarray], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        shard.seal_dataset("s", arrays, keep)


def test_a_document_that_cannot_be_true_is_refused() -> None:
    dataset, _ = shard.seal_dataset("s", sample(), keep)

    def refused(why: str, **change: object) -> None:
        with pytest.raises(shard.BadShard, match=why):
            shard.check_dataset(msgspec.structs.replace(dataset, **change))

    shard.check_dataset(dataset)
    refused("no shards", shards=())
    refused("different names", fields=(dataset.fields[0],) * 2)
    refused("different names", fields=())
    refused("dtype 'f16'", fields=(Field(name="x", dtype="f16", shape=()),))
    refused("axes", fields=(Field(name="x", dtype="f32", shape=(1,) * 40),))
    refused("larger than", fields=(Field(name="x", dtype="f32", shape=(2**31, 2**31)),))
    ref = dataset.shards[0]
    refused("characters", fields=(Field(name="x" * 300, dtype="f32", shape=()),))
    refused("33 bytes", shards=(msgspec.structs.replace(ref, root=ref.root + b"1"),))
    refused("larger than", shards=(msgspec.structs.replace(ref, records=2**63 - 1),), fields=(Field(name="x", dtype="f32", shape=(0,)),))
    short = msgspec.structs.replace(ref.sealed, size=ref.sealed.size - 1)
    refused("is said to have", shards=(msgspec.structs.replace(ref, sealed=short),))
    refused("no records", shards=(ShardRef(sealed=ref.sealed, records=0, root=ref.root),))
