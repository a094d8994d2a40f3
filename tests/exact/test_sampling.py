"""The order of examples: a permutation in each epoch, fixed by its key, the formula of the module's docstring."""

from __future__ import annotations

import hashlib
import struct

import pytest

from assay.ids import Digest
from assay.sampling import permute, record_indices

KEY = Digest(hashlib.sha256(b"order").digest())


@pytest.mark.parametrize("records", [1, 2, 3, 4, 5, 16, 17, 100, 1000])
def test_each_epoch_is_a_permutation(records: int) -> None:
    for epoch in (0, 1, 77):
        assert sorted(permute(KEY, epoch, records, p) for p in range(records)) == list(range(records))


def test_the_formula_by_hand() -> None:
    """Four records: one bit a half, no cycle to walk."""

    def f(r: int, x: int) -> int:
        return int.from_bytes(hashlib.sha256(b"\x30" + KEY + struct.pack(">QBI", 3, r, x)).digest()[:4], "big") & 1

    for place in range(4):
        left, right = place >> 1, place & 1
        for r in range(4):
            left, right = right, left ^ f(r, right)
        assert permute(KEY, 3, 4, place) == left << 1 | right


def test_a_job_walks_through_every_record_once_an_epoch() -> None:
    seen = [i for step in range(5) for m in range(2) for i in record_indices(KEY, 20, step, m, 2, 4)]
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
    assert seen[:20] != seen[20:]
    assert record_indices(KEY, 20, 2, 0, 2, 5) == seen[20:25]


def test_keys_and_large_sets() -> None:
    other = Digest(bytes(32))
    assert [permute(KEY, 0, 10**9, p) for p in range(5)] != [permute(other, 0, 10**9, p) for p in range(5)]
    assert all(0 <= permute(KEY, 0, 10**9, p) < 10**9 for p in (0, 1, 10**9 - 1))


def test_places_outside_are_refused() -> None:
    for records, place in ((0, 0), (5, 5), (5, -1), (1 << 63, 0)):
        with pytest.raises(ValueError, match="place"):
            permute(KEY, 0, records, place)
    with pytest.raises(ValueError, match="micro-batch"):
        record_indices(KEY, 20, 0, 2, 2, 4)
