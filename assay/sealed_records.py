"""Sealed shards: each record under a key of its own (assay.record_keys), so that one key opens one record and no other.

    header of 64 B ‖ the records, sealed, N rows of W bytes ‖ N leaf hashes of 32 B
    header: magic "ASSAYREC" ‖ version u8 = 1 ‖ zero 7 B ‖ N u64 ‖ W u64 ‖ key id 32 B

    leaf_i = SHA-256(0x00 ‖ i u64 ‖ salt_i ‖ record_i)                       as in assay.merkle
    row_i  = record_i xor ChaCha20(key k_i, counter 0, nonce the first 12 bytes of leaf_i)      RFC 8439

A record is the bytes of its fields (little-endian, C order) in the order of the dataset's fields. There are no tags: the leaves are under the
root that the dataset document names, and every row that is opened is checked against its leaf. As the salt follows from the record's key,
the leaf binds that too: another key, or another row, has another leaf. The nonce from the leaf makes this the SIV construction (Rogaway and
Shrimpton, EUROCRYPT 2006) with the leaf as its IV: a shard's key that sealed two datasets by some slip would show which of their records are the
same, and no key stream twice. The leaves themselves show nothing: their salts are as hard to guess as keys.

The native code (assay/exact/native/records.c) does all of a shard in one pass; without it, here, one record after another, with the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from assay import merkle, record_keys, seal
from assay.exact.native.build import library
from assay.ids import Digest

Rows = NDArray[np.uint8]
"""Records `[n, bytes of one]`, C-contiguous."""
LEAF = 32
HEADER_SIZE = 64

_HEADER = struct.Struct(">8sB7xQQ32s")
_MAGIC, _VERSION = b"ASSAYREC", 1


class WrongRecord(seal.WrongKey):
    """A record is not what its leaf says when it is opened with the key that was given for it. To who has that key only, a false key and a
    false row look alike: it is taken for the fault of who gave the key. Whoever has the shard's key can tell, and is believed by all who
    do: with it a false row is the data owner's (assay.shard.BadShard)."""


class Header(NamedTuple):
    records: int
    width: int
    """Bytes of a record."""
    key_id: Digest

    @property
    def sealed_size(self) -> int:
        return sealed_size(self.records, self.width)


def sealed_size(records: int, width: int) -> int:
    """Bytes of the sealed form of `records` records of `width` bytes."""
    return HEADER_SIZE + records * (width + LEAF)


def encode_header(header: Header) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, *header)


def decode_header(data: bytes) -> Header:
    """The header of a sealed shard (its first 64 bytes). Raises seal.Corrupt."""
    if len(data) < HEADER_SIZE:
        raise seal.Corrupt(f"sealed records have at least {HEADER_SIZE} bytes, this has {len(data)}")
    raw = bytes(data[:HEADER_SIZE])
    magic, version, records, width, key_id = _HEADER.unpack(raw)
    if magic != _MAGIC:
        raise seal.Corrupt("these are no sealed records: they do not begin with ASSAYREC")
    if version != _VERSION:
        raise seal.Corrupt(f"the sealed records have format {version}, this program reads {_VERSION}")
    header = Header(records, width, Digest(key_id))
    if encode_header(header) != raw:
        raise seal.Corrupt("the header of the sealed records has bytes where there should be zeros")
    return header


# ---- sealing -------------------------------------------------------------------------------------------------------------


def seal_records(rows: Rows, key: bytes) -> tuple[bytes, Digest]:
    """The sealed shard under `key`, and the root over its leaves. Use a key for one shard only."""
    count, width = rows.shape
    header = Header(count, width, seal.key_id(key))
    out = seal.zeros(header.sealed_size)
    target = out.getbuffer()
    target[:HEADER_SIZE] = encode_header(header)
    end = HEADER_SIZE + count * width
    leaves, root = _sealed(record_keys.extract(key), rows, target[HEADER_SIZE:end])
    target[end:] = leaves
    target.release()
    return out.getvalue(), root


def leaves_of(rows: Rows, key: bytes) -> list[Digest]:
    """The leaf hashes of records."""
    return _cut(_sealed(record_keys.extract(key), rows, None)[0])


def root_of(rows: Rows, key: bytes) -> Digest:
    """The root over them."""
    return _sealed(record_keys.extract(key), rows, None)[1]


def _sealed(prk: bytes, rows: Rows, target: memoryview | None) -> tuple[bytes, Digest]:
    native = library()
    if native is not None:
        leaves, root = native.records(prk, rows, None if target is None else np.frombuffer(target, np.uint8))
        return leaves, Digest(root)
    hashes, width = [], rows.shape[1]
    for index, row in enumerate(rows):
        data, key = row.tobytes(), record_keys.expand(prk, index)
        hashes.append(_leaf(key, index, data))
        if target is not None:
            target[index * width : (index + 1) * width] = _xored(key, hashes[-1], data)
    return b"".join(hashes), merkle.root(hashes)


def _leaf(record_key: bytes, index: int, data: bytes) -> Digest:
    return merkle.leaf(index, record_keys.salt(record_key) + data)


def _xored(record_key: bytes, leaf: bytes, data: bytes | memoryview) -> bytes:
    counter = bytes(4)
    return Cipher(algorithms.ChaCha20(record_key, counter + leaf[:12]), None).encryptor().update(data)


def _cut(leaves: bytes) -> list[Digest]:
    return [Digest(leaves[at : at + LEAF]) for at in range(0, len(leaves), LEAF)]


# ---- opening -------------------------------------------------------------------------------------------------------------


class Opening(NamedTuple):
    """What a whole shard opens to."""

    rows: Rows
    root: Digest
    """Over the leaves of the records that it holds."""
    listed: bool
    """Whether these are the leaves that it lists."""


class Reader:
    """A sealed shard, as bytes that somebody else may have written. Raises seal.Corrupt when it is none, or was cut or added to."""

    def __init__(self, sealed: bytes | memoryview) -> None:
        view = memoryview(sealed)
        self.header = header = decode_header(bytes(view[:HEADER_SIZE]))
        if len(view) != header.sealed_size:
            raise seal.Corrupt(f"{header.records} sealed records have {header.sealed_size} bytes, these have {len(view)}: they were cut or added to")
        end = HEADER_SIZE + header.records * header.width
        self._rows, self._leaves = view[HEADER_SIZE:end], bytes(view[end:])

    @property
    def leaves(self) -> list[Digest]:
        """The leaf hashes that it lists."""
        return _cut(self._leaves)

    def listed_root(self) -> Digest:
        """Root over the leaf hashes that it lists."""
        native = library()
        if native is None or not self._leaves:
            return merkle.root(self.leaves)
        return Digest(native.row_root(np.frombuffer(bytearray(self._leaves + bytes(LEAF)), np.uint8)))

    def open(self, key: bytes) -> Opening:
        """All records, with the shard's key. Nothing is checked."""
        prk, native, shape = record_keys.extract(key), library(), (self.header.records, self.header.width)
        if native is not None:
            rows = np.empty(shape, np.uint8)
            sealed = np.frombuffer(self._rows, np.uint8).reshape(shape)
            leaves, root = native.records(prk, sealed, rows, self._leaves)
            return Opening(rows, Digest(root), leaves == self._leaves)
        parts, hashes = [], []
        for index in range(self.header.records):
            record_key = record_keys.expand(prk, index)
            parts.append(self._row(index, record_key))
            hashes.append(_leaf(record_key, index, parts[-1]))
        rows = np.frombuffer(bytearray(b"".join(parts)), np.uint8).reshape(shape)
        return Opening(rows, merkle.root(hashes), b"".join(hashes) == self._leaves)

    def _row(self, index: int, record_key: bytes) -> bytes:
        width = self.header.width
        return _xored(record_key, self._leaves[index * LEAF : (index + 1) * LEAF], self._rows[index * width : (index + 1) * width])

    def record(self, index: int, record_key: bytes) -> bytes:
        """A record, with its key, checked against the leaf that is listed. Raises WrongRecord, IndexError."""
        if not 0 <= index < self.header.records:
            raise IndexError(f"record {index} of {self.header.records}")
        data = self._row(index, record_key)
        if _leaf(record_key, index, data) != self._leaves[index * LEAF : (index + 1) * LEAF]:
            raise WrongRecord(
                f"record {index} does not open with the key that was given for it: whoever gave the key gave a wrong one, or the data owner "
                "published another record than it committed to, which whoever has the shard's key can tell"
            )
        return data

    def some(self, keys: record_keys.RecordKeys, indices: Iterable[int]) -> Rows:
        """Some records `[n, bytes of one]`, in the order of `indices`. Raises WrongRecord, IndexError, and seal.WrongKey for one without a key."""
        wanted = list(indices)
        found: dict[int, Any] = {}
        for index in wanted:
            if index not in keys.keys:
                raise seal.WrongKey(f"record {index} is wanted, and no key for it was given among those of {len(keys.keys)} records")
            if index not in found:
                found[index] = np.frombuffer(self.record(index, keys.keys[index]), np.uint8)
        return np.array([found[index] for index in wanted], np.uint8).reshape(len(wanted), self.header.width)
