"""Shards: what comes out is what went in, and each way of being wrong is named with whose fault it is."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from assay import cid, merkle, seal, shard, state
from assay.ids import Cid, Digest
from assay.job import Field, ShardRef, data_root, shard_items

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


def reseal(ref: ShardRef, plaintext: bytes, key: bytes) -> tuple[ShardRef, bytes]:
    """The shard's reference with another plaintext under the same key."""
    blob = seal.seal(plaintext, key)
    sealed = type(ref.sealed)(cid=cid.of(blob), size=len(blob), key_id=seal.key_id(key), envelope=b"")
    return ShardRef(sealed=sealed, records=ref.records, root=ref.root), blob


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


def test_salt_is_rfc_5869() -> None:
    key = bytes(range(32))
    oracle = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"assay/record-salt/1" + (7).to_bytes(8, "big")).derive(key)
    assert shard.salt(key, 7) == oracle


def test_root_is_over_salted_records_in_the_order_of_the_fields() -> None:
    arrays = {"b": np.array([[1, 2], [3, 4]], dtype=np.int16), "a": np.array([5, 6], dtype=np.uint8)}
    dataset, _ = shard.seal_dataset("s", arrays, keep)
    key = KEYS[dataset.shards[0].sealed.key_id]
    leaves = [merkle.leaf(i, shard.salt(key, i) + row) for i, row in enumerate([b"\x05\x01\x00\x02\x00", b"\x06\x03\x00\x04\x00"])]
    assert dataset.shards[0].root == merkle.root(leaves)
    fields = b"\0\2" + b"\0\1a\4" + bytes(7) + b"\1" + b"\0\1b\7" + bytes(7) + b"\4"
    shards = merkle.root_of([bytes(8) + (2).to_bytes(8, "big") + merkle.root(leaves)])
    counts = (5).to_bytes(4, "big") + (2).to_bytes(8, "big") + (1).to_bytes(4, "big")
    assert data_root(dataset, Digest(b"o" * 32), 5) == merkle.sha256(b"\x17", b"o" * 32, counts, shards, fields)


@pytest.mark.parametrize(("count", "width"), [(1, 1), (2, 14), (3, 15), (5, 22), (64, 78), (257, 79), (6, 1000)])
def test_leaves_and_root_of_the_native_pass_are_those_of_the_rule(monkeypatch: pytest.MonkeyPatch, count: int, width: int) -> None:
    """Widths at which the padding takes another block, counts that pad levels of the tree."""
    random = np.random.default_rng(count)
    arrays = {"a": random.integers(0, 256, (count, width), np.uint8), "b": random.standard_normal((count, 2), np.float32)}
    fields, key = shard.fields_of(arrays), random.bytes(32)
    fast = shard.record_leaves(fields, arrays, key), shard.record_root(fields, arrays, key)
    monkeypatch.setattr(shard, "library", lambda: None)
    assert (shard.record_leaves(fields, arrays, key), shard.record_root(fields, arrays, key)) == fast


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


def test_another_plaintext_under_the_right_key_is_the_owners_fault() -> None:
    arrays = sample(4)
    dataset, blobs = shard.seal_dataset("s", arrays, keep)
    ref, key = dataset.shards[0], KEYS[dataset.shards[0].sealed.key_id]
    changed = {**arrays, "y": arrays["y"] + 1}
    with pytest.raises(shard.BadShard, match="other data than it committed to"):
        shard.read_shard(*_with(reseal(ref, state.to_bytes(changed), key), dataset.fields), key)
    with pytest.raises(shard.BadShard, match=r"holds .*y i64\[3\].* where the dataset document says .*y i64\[4\]"):
        shard.read_shard(*_with(reseal(ref, state.to_bytes({n: a[:3] for n, a in arrays.items()}), key), dataset.fields), key)
    with pytest.raises(shard.BadShard, match="holds"):
        shard.read_shard(*_with(reseal(ref, state.to_bytes({**arrays, "y": arrays["y"].astype(np.int32)}), key), dataset.fields), key)
    with pytest.raises(shard.BadShard, match="no tensor file"):
        shard.read_shard(*_with(reseal(ref, b"not tensors", key), dataset.fields), key)
    with pytest.raises(shard.BadShard, match="does not open with it"):
        shard.read_shard(ref, dataset.fields, blobs[0][:-1], key)


def _with(resealed: tuple[ShardRef, bytes], fields: tuple[Field, ...]) -> tuple[ShardRef, tuple[Field, ...], bytes]:
    ref, blob = resealed
    return ref, fields, blob


def test_sealed_under_another_key_than_the_document_names_is_the_owners_fault() -> None:
    dataset, _ = shard.seal_dataset("s", sample(4), keep)
    key = KEYS[dataset.shards[0].sealed.key_id]
    foreign = seal.seal(state.to_bytes(sample(4)), b"o" * 32)
    with pytest.raises(shard.BadShard, match="published a bad shard"):
        shard.read_shard(dataset.shards[0], dataset.fields, foreign, key)


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
    refused("over the limit", shards=(msgspec.structs.replace(ref, records=2**63 - 1),), fields=(Field(name="x", dtype="f32", shape=(0,)),))
    refused("no records", shards=(ShardRef(sealed=ref.sealed, records=0, root=ref.root),))
