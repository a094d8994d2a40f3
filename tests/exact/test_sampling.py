"""The order of examples: a permutation in each epoch, fixed by its key, the formula of the module's docstring."""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

import pytest

from assay import sampling
from assay.ids import Digest
from assay.sampling import permute, record_indices, walk

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


@pytest.mark.parametrize("records", [1, 2, 3, 17, 512, 60_000, 1 << 32, (1 << 32) + 1, 1 << 62])
def test_many_places_at_once_are_what_the_formula_says_of_each(records: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the ends of epochs and of parts, with F in a table and, above 2^32 records, without."""
    monkeypatch.setattr(sampling, "AT_ONCE", 40)
    for first in (0, 5, 3 * records - 50 if records > 50 else 7 * records):
        parts = list(walk(KEY, records, first, 100))
        assert all(len(part) <= 40 for part in parts)
        assert [i for part in parts for i in part.tolist()] == [permute(KEY, p // records, records, p % records) for p in range(first, first + 100)]


def test_a_whole_segment_takes_few_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs of 10^5 records: less than one hash for 25 places, where the formula has some eight for each."""
    hashed = []

    class Counted(sampling._Epoch):
        def _hashed(self, r: int, x: int) -> int:
            hashed.append((r, x))
            return super()._hashed(r, x)

    monkeypatch.setattr(sampling, "_epoch", lru_cache(2)(Counted))
    assert sum(len(part) for part in walk(KEY, 100_000, 0, 200_000)) == 200_000
    assert 0 < len(hashed) <= 2 * sampling.ROUNDS << 9


def test_keys_and_large_sets() -> None:
    other = Digest(bytes(32))
    assert [permute(KEY, 0, 10**9, p) for p in range(5)] != [permute(other, 0, 10**9, p) for p in range(5)]
    assert all(0 <= permute(KEY, 0, 10**9, p) < 10**9 for p in (0, 1, 10**9 - 1))


def test_places_outside_are_refused() -> None:
    for records, place in ((0, 0), (5, 5), (5, -1), (1 << 63, 0)):
        with pytest.raises(ValueError, match="place"):
            permute(KEY, 0, records, place)
    for records, first in ((0, 0), (5, -1), (1 << 63, 0)):
        with pytest.raises(ValueError, match="place"):
            list(walk(KEY, records, first, 1))
    with pytest.raises(ValueError, match="micro-batch"):
        record_indices(KEY, 20, 0, 2, 2, 4)
