"""Keys of records: derived as RFC 5869 says, and bundles of them in one form that is read strictly."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from assay import record_keys
from assay.record_keys import RecordKeys

KEY = bytes(range(32))


def test_a_records_key_is_rfc_5869() -> None:
    oracle = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"assay/record-key/1" + (7).to_bytes(8, "big")).derive(KEY)
    assert record_keys.derive(KEY, 7) == oracle
    assert record_keys.derive_all(KEY, 9)[7] == oracle
    assert record_keys.select(KEY, [7]).keys == {7: oracle}
    assert record_keys.salt(oracle) == hashlib.sha256(b"assay/record-salt/2" + oracle).digest()
    with pytest.raises(ValueError, match="32 bytes, this has 31"):
        record_keys.derive(KEY[1:], 7)


def test_a_bundle_has_one_form() -> None:
    keys = {300: b"c" * 32, 2: b"b" * 32, 2**32 - 1: b"d" * 32, 0: b"a" * 32}
    data = record_keys.encode(RecordKeys(keys))
    assert data == b"\1" + (4).to_bytes(4, "big") + b"".join(i.to_bytes(4, "big") + keys[i] for i in (0, 2, 300, 2**32 - 1))
    assert len(data) == record_keys.encoded_size(4)
    assert record_keys.decode(data).keys == keys == record_keys.decode(record_keys.encode(record_keys.decode(data))).keys
    assert isinstance(record_keys.parse(data), RecordKeys)
    assert record_keys.parse(KEY) == KEY == record_keys.dump(KEY)
    assert record_keys.dump(RecordKeys(keys)) == data


def test_bundles_are_joined() -> None:
    one, two = RecordKeys({1: b"1" * 32, 2: b"2" * 32}), RecordKeys({2: b"x" * 32, 3: b"3" * 32})
    assert (one | two).keys == {1: b"1" * 32, 2: b"x" * 32, 3: b"3" * 32}


def test_a_bundle_never_shows_its_keys() -> None:
    assert "sss" not in repr(RecordKeys({1: b"s" * 32}))


def row(index: int, key: bytes = b"k" * 32) -> bytes:
    return index.to_bytes(4, "big") + key


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "this has 0"),
        (b"\1\0\0\0", "this has 4"),
        (b"\1\0\0\0\0", "claims 0"),
        (b"\2\0\0\0\1" + row(1), "format 2"),
        (b"\1\0\0\0\2" + row(1), "has 77 bytes, this has 41"),
        (b"\1\0\0\0\1" + row(1) + b"\0", "this has 42"),
        (b"\1\0\0\0\1" + row(1)[:-1], "this has 40"),
        (b"\1\0\0\0\2" + row(1) + row(1), "ascending"),
        (b"\1\0\0\0\2" + row(2) + row(1), "ascending"),
        (b"\1\xff\xff\xff\xff" + row(2), "claims 4294967295"),
    ],
)
def test_other_bytes_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        record_keys.parse(data)


@pytest.mark.parametrize("keys", [{}, {-1: b"k" * 32}, {2**32: b"k" * 32}, {1: b"k" * 31}])
def test_bundles_that_cannot_be_are_not_made(keys: dict[int, bytes]) -> None:
    with pytest.raises(ValueError, match="record"):
        RecordKeys(keys)
