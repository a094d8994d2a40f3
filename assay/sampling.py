"""Which records make up which micro-batch: a keyed permutation of the dataset for each epoch, computable at any place.

Micro-batch m of step t takes places p = (t·M + m)·B … p + B - 1 of an endless sequence; place p is record P_e(p mod N) of epoch
e = p div N. P_e is a permutation of 0..N-1: a four-round Feistel network on 2w bits, w = max(1, ceil(bits(N-1) / 2)), applied again
until the result is below N (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). Its
domain is less than 4N + 4, so that fewer than four applications are needed on average. The round function is

    F(e, r, x) = first 4 bytes, big-endian, of SHA256(0x30 ‖ order key 32 B ‖ e u64 ‖ r u8 ‖ x u32)  mod 2^w

with (L, R) -> (R, L xor F(e, r, R)) for r = 0..3. Integers are big-endian; a contract can evaluate a place with a few hashes.
"""

from __future__ import annotations

import hashlib
import struct

from assay.ids import Digest

ROUNDS = 4
MAX_RECORDS = 1 << 62


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


def record_indices(order: Digest, records: int, step: int, m: int, micro_batches: int, batch: int) -> list[int]:
    """The `batch` records of micro-batch `m` of step `step`, numbered over the whole dataset of `records` records."""
    if not 0 <= m < micro_batches:
        raise ValueError(f"micro-batch {m} of {micro_batches}")
    first = (step * micro_batches + m) * batch
    return [permute(order, p // records, records, p % records) for p in range(first, first + batch)]
