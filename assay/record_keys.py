"""A key for each record of a shard: whoever has the shard's key derives them all, whoever has some of them learns nothing of the others.

    PRK    = HKDF-Extract("", shard key)                                     RFC 5869, SHA-256
    k_i    = HKDF-Expand(PRK, "assay/record-key/1" ‖ i u64, 32)              the key of record i of the shard
    salt_i = SHA-256("assay/record-salt/2" ‖ k_i)                            salt of its leaf (assay.sealed_records)

The salt follows from the record's key and not the other way: a dispute shows a record with its salt, and no key. A shard's key is 32
bytes; some records' keys (`RecordKeys`) are a bundle in one canonical form, never of 32 bytes, so that the two can be told apart:

    version u8 = 1 ‖ count u32 ‖ (index u32 ‖ key 32 B) each, indices strictly ascending; at least one, at most MOST_KEYS
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from assay.ids import Digest

KEY_SIZE = 32
MOST_KEYS = 1 << 20
"""Keys in a bundle: as many as a micro-batch may have records (assay.reads.MAX_COUNT)."""
MAX_INDEX = (1 << 32) - 1

_VERSION = 1
_HEAD = struct.Struct(">BI")
_ROW = struct.Struct(">I32s")
_KEY_LABEL, _SALT_LABEL = b"assay/record-key/1", b"assay/record-salt/2"


def extract(key: bytes) -> bytes:
    """PRK of a shard's key, 32 bytes. Raises ValueError when `key` has not 32 bytes."""
    if len(key) != KEY_SIZE:
        raise ValueError(f"a shard's key has {KEY_SIZE} bytes, this has {len(key)}")
    return hmac.digest(bytes(32), key, "sha256")


def expand(prk: bytes, index: int) -> bytes:
    """Key of record `index` under `extract`'s PRK, 32 bytes."""
    return hmac.digest(prk, _KEY_LABEL + index.to_bytes(8, "big") + b"\x01", "sha256")


def derive(key: bytes, index: int) -> bytes:
    """Key of record `index` of the shard with the key `key`, 32 bytes."""
    return expand(extract(key), index)


def derive_all(key: bytes, count: int) -> list[bytes]:
    """Keys of records 0 .. count - 1."""
    prk = extract(key)
    return [expand(prk, index) for index in range(count)]


def salt(record_key: bytes) -> Digest:
    """Salt of the leaf of the record that has this key."""
    return Digest(hashlib.sha256(_SALT_LABEL + record_key).digest())


@dataclass(frozen=True, slots=True)
class RecordKeys:
    """Keys of some records of one shard: index in the shard -> 32 bytes. Raises ValueError for what has no encoded form."""

    keys: Mapping[int, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.keys) <= MOST_KEYS:
            raise ValueError(f"a bundle has 1 to {MOST_KEYS} record keys, not {len(self.keys)}")
        if min(self.keys) < 0 or max(self.keys) > MAX_INDEX:
            raise ValueError(f"a bundle's records are numbered 0 to {MAX_INDEX}, not {min(self.keys)} to {max(self.keys)}")
        if any(len(key) != KEY_SIZE for key in self.keys.values()):
            raise ValueError(f"a record's key has {KEY_SIZE} bytes")

    def __or__(self, other: RecordKeys) -> RecordKeys:
        """The keys of both; where both have one, the other's counts."""
        return RecordKeys({**self.keys, **other.keys})


ShardKey = bytes | RecordKeys
"""What a shard is read with: its key, which opens all of it, or the keys of some of its records, which open those."""


def select(key: bytes, indices: Iterable[int]) -> RecordKeys:
    """What to give for some records of a shard, to one who shall read them and no more. Raises ValueError for none or too many."""
    prk = extract(key)
    return RecordKeys({index: expand(prk, index) for index in indices})


def encoded_size(count: int) -> int:
    """Bytes of a bundle of `count` keys."""
    return _HEAD.size + count * _ROW.size


def encode(bundle: RecordKeys) -> bytes:
    return _HEAD.pack(_VERSION, len(bundle.keys)) + b"".join(_ROW.pack(index, bundle.keys[index]) for index in sorted(bundle.keys))


def decode(data: bytes) -> RecordKeys:
    """Raises ValueError for anything that `encode` does not make."""
    if len(data) < _HEAD.size:
        raise ValueError(f"a bundle of record keys has at least {encoded_size(1)} bytes, this has {len(data)}")
    version, count = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise ValueError(f"the bundle of record keys has format {version}, this program reads {_VERSION}")
    if not 1 <= count <= MOST_KEYS:
        raise ValueError(f"a bundle has 1 to {MOST_KEYS} record keys, this claims {count}")
    if len(data) != encoded_size(count):
        raise ValueError(f"a bundle of {count} record keys has {encoded_size(count)} bytes, this has {len(data)}")
    rows = list(_ROW.iter_unpack(memoryview(data)[_HEAD.size :]))
    if any(one >= two for (one, _), (two, _) in itertools.pairwise(rows)):
        raise ValueError("the records of a bundle of keys are not in strictly ascending order")
    return RecordKeys(dict(rows))


def parse(data: bytes) -> ShardKey:
    """A shard's key or a bundle, whichever these bytes are. Raises ValueError."""
    return data if len(data) == KEY_SIZE else decode(data)


def dump(key: ShardKey) -> bytes:
    """The bytes that `parse` reads."""
    return encode(key) if isinstance(key, RecordKeys) else key
