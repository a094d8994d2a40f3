"""Sealed records: both ways of making them give the same bytes, one key opens one record, and nothing that was changed opens."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from assay import merkle, record_keys, seal, sealed_records
from assay.exact.native.build import library
from assay.ids import Digest
from assay.record_keys import RecordKeys
from assay.sealed_records import HEADER_SIZE, LEAF, Reader, WrongRecord

KEY = bytes(range(32))

# RFC 8439, 2.4.2, which begins at block 1: what comes before is block 0 of A.1 ... of the same key and nonce.
RFC_KEY, RFC_NONCE = bytes(range(32)), bytes.fromhex("000000000000004a00000000")
RFC_TEXT = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
)  # fmt: skip
RFC_SEALED = bytes.fromhex(
    "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8"
    "07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab77937365af90bbf74a35be6b40b8eedf2785e42874d"
)
RFC_ZEROS = bytes.fromhex(  # A.1, test vector 1: the key stream of key 0 and nonce 0 from block 0 on
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
)


def rows(count: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, width), np.uint8)


def native_chacha20(key: bytes, nonce: bytes, data: bytes) -> bytes:
    native = library()
    assert native is not None
    given, out = np.frombuffer(data, np.uint8), np.empty(len(data), np.uint8)
    native.chacha20(key, nonce, given, out)
    return out.tobytes()


@pytest.mark.skipif(library() is None, reason="no native library")
def test_the_native_cipher_is_rfc_8439() -> None:
    assert native_chacha20(bytes(32), bytes(12), bytes(64)) == RFC_ZEROS
    assert native_chacha20(RFC_KEY, RFC_NONCE, bytes(64) + RFC_TEXT)[64:] == RFC_SEALED


@pytest.mark.skipif(library() is None, reason="no native library")
@pytest.mark.parametrize("size", [0, 1, 31, 63, 64, 65, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 4096, 100_003])
def test_the_native_cipher_is_that_of_the_library(size: int) -> None:
    data = rows(1, size, size).tobytes()
    assert native_chacha20(KEY, RFC_NONCE, data) == Cipher(algorithms.ChaCha20(KEY, bytes(4) + RFC_NONCE), None).encryptor().update(data)


def by_the_rule(data: np.ndarray, key: bytes) -> bytes:
    """A sealed shard, written down from the words of assay.sealed_records."""
    sealed, leaves = [], []
    for index, row in enumerate(data):
        k = record_keys.derive(key, index)
        leaves.append(merkle.leaf(index, record_keys.salt(k) + row.tobytes()))
        sealed.append(Cipher(algorithms.ChaCha20(k, bytes(4) + leaves[-1][:12]), None).encryptor().update(row.tobytes()))
    head = b"ASSAYREC\1" + bytes(7) + struct.pack(">QQ", *data.shape) + seal.key_id(key)
    return head + b"".join(sealed) + b"".join(leaves)


SIZES = [
    (1, 1), (2, 0), (9, 1), (3, 22), (5, 23), (7, 24), (17, 31), (33, 32), (5, 63), (40, 64), (8, 65), (9, 86), (9, 87), (4, 150), (3, 300), (1, 511),
    (8, 512), (16, 513), (9, 4096), (2, 5000), (1, 1 << 20), (3, (1 << 20) + 7),
]  # fmt: skip


@pytest.mark.parametrize(("count", "width"), SIZES)
def test_native_and_python_make_and_open_the_same_bytes(monkeypatch: pytest.MonkeyPatch, count: int, width: int) -> None:
    data = rows(count, width, count)
    expected = by_the_rule(data, KEY)
    root = merkle.root([Digest(expected[at : at + LEAF]) for at in range(HEADER_SIZE + count * width, len(expected), LEAF)])

    def both() -> None:
        blob, made = sealed_records.seal_records(data, KEY)
        assert (blob, made) == (expected, root)
        assert len(blob) == sealed_records.sealed_size(count, width)
        assert (sealed_records.leaves_of(data, KEY), sealed_records.root_of(data, KEY)) == (Reader(blob).leaves, root)
        opened = Reader(blob).open(KEY)
        assert np.array_equal(opened.rows, data)
        assert (opened.root, opened.listed) == (root, True)
        assert Reader(blob).listed_root() == root

    both()
    monkeypatch.setattr(sealed_records, "library", lambda: None)
    both()


def test_one_key_opens_one_record() -> None:
    data = rows(20, 33)
    reader = Reader(sealed_records.seal_records(data, KEY)[0])
    few = record_keys.select(KEY, [3, 17])
    assert np.array_equal(reader.some(few, [17, 3, 17]), data[[17, 3, 17]])
    assert reader.some(few, []).shape == (0, 33)
    for index in set(range(20)) - {3, 17}:
        with pytest.raises(seal.WrongKey, match=f"record {index} is wanted, and no key for it was given"):
            reader.some(few, [index])
        for key in few.keys.values():
            with pytest.raises(WrongRecord):
                reader.record(index, key)
    with pytest.raises(IndexError, match="record 20 of 20"):
        reader.some(RecordKeys({20: KEY}), [20])


@pytest.mark.parametrize("how", ["row", "leaf", "nonce", "rows swapped", "rows and leaves swapped", "key"])
def test_what_was_changed_is_seen(how: str) -> None:
    data = rows(6, 40)
    whole, root = sealed_records.seal_records(data, KEY)
    blob, keys = bytearray(whole), dict(enumerate(record_keys.derive_all(KEY, 6)))
    row, leaf = (slice(HEADER_SIZE + 40 * i, HEADER_SIZE + 40 * i + 40) for i in (1, 2)), HEADER_SIZE + 240 + LEAF
    one, two = row
    if how == "row":
        blob[one.start + 39] ^= 1
    elif how == "leaf":
        blob[leaf + 31] ^= 1
    elif how == "nonce":
        blob[leaf] ^= 1
    elif how == "key":
        keys[1] = bytes(32)
    if "rows" in how:
        blob[one], blob[two] = blob[two], blob[one]
    if "leaves" in how:
        blob[leaf : leaf + LEAF], blob[leaf + LEAF : leaf + 2 * LEAF] = blob[leaf + LEAF : leaf + 2 * LEAF], blob[leaf : leaf + LEAF]
    reader = Reader(bytes(blob))
    with pytest.raises(WrongRecord):
        reader.record(1, keys[1])
    assert reader.record(4, keys[4]) == data[4].tobytes()
    opened = reader.open(KEY)  # the shard's key tells a false key from a false row
    assert (opened.root == root and opened.listed) is (how == "key")
    assert (reader.listed_root() == root) is (how in ("row", "rows swapped", "key"))


def test_a_key_that_is_used_twice_repeats_no_key_stream() -> None:
    one, two = rows(2, 64, 1), rows(2, 64, 2)
    two[1] = one[1]
    first, second = (sealed_records.seal_records(data, KEY)[0][HEADER_SIZE:][:128] for data in (one, two))
    together = bytes(a ^ b for a, b in zip(first[:64], second[:64], strict=True))
    assert together != (one[0] ^ two[0]).tobytes()
    assert first[64:] == second[64:]  # what is the same shows: no more


def header(**change: object) -> bytes:
    fields: dict[str, object] = {"magic": b"ASSAYREC", "version": 1, "zero": bytes(7), "records": 2, "width": 3, "key_id": seal.key_id(KEY)}
    return struct.pack(">8sB7sQQ32s", *(fields | change).values())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "at least 64 bytes, this has 0"),
        (header()[:63], "at least 64"),
        (header() + bytes(69), r"2 sealed records have 134 bytes, these have 133"),
        (header() + bytes(71), r"these have 135"),
        (header(magic=b"ASSAYSEA") + bytes(70), "do not begin with ASSAYREC"),
        (header(version=2) + bytes(70), "format 2"),
        (header(zero=b"\0\0\0\0\0\0\1") + bytes(70), "zeros"),
        (header(records=3) + bytes(70), "3 sealed records have 169 bytes"),
        (header(records=2**64 - 1, width=2**64 - 1) + bytes(70), "cut or added to"),
        (header(width=4) + bytes(70), "have 136 bytes"),
    ],
)
def test_other_files_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(seal.Corrupt, match=why):
        Reader(data)


def test_the_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sealed_records.seal_records(rows(1, 1), KEY[1:])
