"""The integers of secure aggregation: fixed-point updates modulo 2^32 or 2^64, masks, and exact sums.

An update is rounded to q = rint(x · 2^fraction), half to even, and clamped to ±limit; what an owner sends is weight · q plus masks. Signed integers
in two's complement wrap as the table of operators says (assay.exact.table), so the sum of the rows is one REDUCE of that table in any order, and
`Terms` makes sure that a sum of honest updates does not wrap.

A mask is the key stream of AES-256 in counter mode (NIST SP 800-38A) from zero, under a key of its own, read as little-endian integers.
"""

from __future__ import annotations

import hmac
from functools import lru_cache
from math import isqrt
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from assay import merkle
from assay.exact.hashing import tensor_root
from assay.ids import Digest

Row = NDArray[Any]
"""int32 or int64, [length]."""

SIGNED: dict[int, np.dtype[Any]] = {32: np.dtype("<i4"), 64: np.dtype("<i8")}
_UNSIGNED: dict[int, np.dtype[Any]] = {32: np.dtype("<u4"), 64: np.dtype("<u8")}
_PIECE = 1 << 18
"""Bytes of key stream made at a time: they stay in a core's cache until they are added."""
_ZEROS = bytes(_PIECE)


class BadUpdate(ValueError):
    """Numbers that cannot be an owner's part of a sum."""


# ---- fixed point -----------------------------------------------------------------------------------------------------------


def fixed(values: NDArray[np.floating[Any]], fraction: int, limit: int) -> NDArray[np.int64]:
    """rint(x · 2^fraction) within ±limit, int64. Raises BadUpdate when a value is not finite."""
    if not np.isfinite(values).all():
        raise BadUpdate("an update has values that are not finite")
    scaled = np.rint(np.asarray(values, np.float64) * 2.0**fraction)
    return np.clip(scaled, -limit, limit).astype(np.int64)


def square(row: Row) -> int:
    """Sum of the squares, exact whatever its size."""
    total = 0
    for start in range(0, len(row), 1 << 16):
        size = np.abs(row[start : start + (1 << 16)].astype(np.int64)).view(np.uint64)
        limbs = [size >> np.uint64(16 * i) & np.uint64(0xFFFF) for i in range(-(-int(size.max()).bit_length() // 16))]
        total += sum(int((a * b).sum()) << 16 * (i + j) for i, a in enumerate(limbs) for j, b in enumerate(limbs))
    return total


def shortened(row: NDArray[np.int64], norm: int) -> NDArray[np.int64]:
    """The row, or if it is longer than `norm` the row times norm / length, rounded towards zero: exact, and never longer than `norm`."""
    long = square(row)
    if long <= norm * norm:
        return row
    length = isqrt(long - 1) + 1  # rounded up
    return np.array([abs(x) * norm // length * (1 if x > 0 else -1) for x in row.tolist()], np.int64)


# ---- masks -----------------------------------------------------------------------------------------------------------------


def add_mask(row: Row, key: bytes, sign: int) -> None:
    """Adds or takes away the mask of `key` in place. `row` is contiguous and little-endian."""
    bits = row.dtype.itemsize * 8
    target = row.view(_UNSIGNED[bits])
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    each = _PIECE // row.dtype.itemsize
    buffer = bytearray(_PIECE + 15)
    mask = np.frombuffer(buffer, _UNSIGNED[bits], each)
    for start in range(0, len(target), each):
        piece = target[start : start + each]
        stream.update_into(_ZEROS if len(piece) == each else bytes(piece.nbytes), buffer)
        (np.add if sign > 0 else np.subtract)(piece, mask[: len(piece)], out=piece)


def add_row(total: Row, row: Row) -> None:
    """Adds in place, wrapping."""
    bits = total.dtype.itemsize * 8
    np.add(total.view(_UNSIGNED[bits]), row.view(_UNSIGNED[bits]), out=total.view(_UNSIGNED[bits]))


def agree(mine: bytes, theirs: bytes, use: bytes) -> bytes:
    """A key of 32 bytes that only the two sides of an X25519 exchange know (RFC 7748), for one use (HKDF, RFC 5869). Raises ValueError for a
    public key of small order."""
    shared = X25519PrivateKey.from_private_bytes(mine).exchange(X25519PublicKey.from_public_bytes(theirs))
    return derive(shared, use)


def derive(secret: bytes, use: bytes) -> bytes:
    """HKDF-SHA256 of one block."""
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), use + b"\x01", "sha256")


@lru_cache(4 * 1024)
def usable(theirs: bytes) -> bool:
    """Whether a public key agrees on anything: one of small order gives nothing with any secret key (RFC 7748, 6.1)."""
    try:
        agree(bytes(32), theirs, b"")
    except ValueError:
        return False
    return True


def public(secret: bytes) -> bytes:
    """The X25519 public key of a secret one."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def pair_use(terms: Digest, a: int, b: int) -> bytes:
    """Names the mask that two owners share: the lower one adds it, the other takes it away."""
    low, high = sorted((a, b))
    return b"assay/federated/mask/1" + terms + low.to_bytes(4, "big") + high.to_bytes(4, "big")


def self_use(terms: Digest, owner: int) -> bytes:
    return b"assay/federated/self/1" + terms + owner.to_bytes(4, "big")


def row_root(row: Row) -> Digest:
    """The tensor root under which a row is committed."""
    return tensor_root(row)


def hidden_root(row: Row, salt: bytes) -> Digest:
    """Commitment to a row in the clear that does not let it be guessed: SHA256(0x19 ‖ salt 32 B ‖ tensor root)."""
    return merkle.sha256(b"\x19", salt, tensor_root(row))
