"""Which records make up which micro-batch: a keyed permutation of the dataset for each epoch, computable at any place.

Micro-batch m of step t takes places p = (t·M + m)·B … p + B - 1 of an endless sequence; place p is record P_e(p mod N) of epoch
e = p div N. P_e is a permutation of 0..N-1: a four-round Feistel network on 2w bits, w = max(1, ceil(bits(N-1) / 2)), applied again
until the result is below N (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). Its
domain is less than 4N + 4, so that fewer than four applications are needed on average. The round function is

    F(e, r, x) = first 4 bytes, big-endian, of SHA256(0x30 ‖ order key 32 B ‖ e u64 ‖ r u8 ‖ x u32)  mod 2^w

with (L, R) -> (R, L xor F(e, r, R)) for r = 0..3. Integers are big-endian; a contract can evaluate a place with a few hashes.

`permute` is this formula. Whoever needs many places of an epoch has F in a table: it takes no more than 4 · 2^w values, some four times the root
of N, so that a place costs no hash once an epoch is under way, and a segment of 10^5 places a few milliseconds instead of seconds.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from assay.ids import Digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROUNDS = 4
MAX_RECORDS = 1 << 62
MAX_HALF = 16
"""Bits up to which values of F are kept: 1 MiB an epoch, for up to 2^32 records."""
EPOCHS = 4
"""Of which they are."""
AT_ONCE = 1 << 16
"""Places of which the records are in memory at a time."""


def permute(order: Digest, epoch: int, records: int, place: int) -> int:
    """Record at `place` (0 <= place < records) of an epoch."""
    if not 0 <= place < records <= MAX_RECORDS:
        raise ValueError(f"place {place} of {records} records: it must be in 0..records-1, and records at most 2^62")
    half = max(1, ((records - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    head = b"\x30" + order + struct.pack(">Q", epoch)
    x = place
    while True:
        left, right = x >> half, x & mask
        for r in range(ROUNDS):
            digest = hashlib.sha256(head + struct.pack(">BI", r, right)).digest()
            left, right = right, left ^ (int.from_bytes(digest[:4], "big") & mask)
        x = left << half | right
        if x < records:
            return x


class _Epoch:
    """The permutation of one epoch for many places. What two threads find out at once is the same."""

    def __init__(self, order: Digest, epoch: int, records: int) -> None:
        import numpy as np

        self.records, self._half = records, max(1, ((records - 1).bit_length() + 1) // 2)
        self._head = b"\x30" + order + struct.pack(">Q", epoch)
        kept = self._half <= MAX_HALF
        self._known = np.full((ROUNDS, 1 << self._half), -1, dtype=np.int32) if kept else None

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Records at these places, each in 0..records-1."""
        import numpy as np

        found = self._once(places)
        while (out := np.flatnonzero(found >= self.records)).size:
            found[out] = self._once(found[out])
        return found

    def _once(self, x: NDArray[np.int64]) -> NDArray[np.int64]:
        left, right = x >> self._half, x & ((1 << self._half) - 1)
        for r in range(ROUNDS):
            left, right = right, left ^ self._f(r, right)
        return left << self._half | right

    def _f(self, r: int, right: NDArray[np.int64]) -> NDArray[np.int64]:
        import numpy as np

        if self._known is None:
            return np.array([self._hashed(r, x) for x in right.tolist()], dtype=np.int64)
        known = self._known[r]
        found: NDArray[np.int32] = known[right]
        if (found < 0).any():
            for x in np.unique(right[found < 0]).tolist():
                known[x] = self._hashed(r, x)
            found = known[right]
        return found.astype(np.int64)

    def _hashed(self, r: int, x: int) -> int:
        digest = hashlib.sha256(self._head + struct.pack(">BI", r, x)).digest()
        return int.from_bytes(digest[:4], "big") & ((1 << self._half) - 1)


_epoch = lru_cache(EPOCHS)(_Epoch)


def walk(order: Digest, records: int, first: int, count: int) -> Iterator[NDArray[np.int64]]:
    """The records at places first … first + count - 1 of the endless sequence, in order, up to AT_ONCE at a time."""
    import numpy as np

    if first < 0 or not 0 < records <= MAX_RECORDS:
        raise ValueError(f"place {first} of {records} records: it must not be negative, and records in 1..2^62")
    while count > 0:
        epoch, place = divmod(first, records)
        taken = min(count, records - place, AT_ONCE)
        yield _epoch(order, epoch, records).at(np.arange(place, place + taken, dtype=np.int64))
        first, count = first + taken, count - taken


def record_indices(order: Digest, records: int, step: int, m: int, micro_batches: int, batch: int) -> list[int]:
    """The `batch` records of micro-batch `m` of step `step`, numbered over the whole dataset of `records` records."""
    if not 0 <= m < micro_batches:
        raise ValueError(f"micro-batch {m} of {micro_batches}")
    first = (step * micro_batches + m) * batch
    return [index for part in walk(order, records, first, batch) for index in part.tolist()]
