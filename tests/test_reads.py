"""Which records a draw reads, and the bundles in which their keys are given: nothing is left out, nothing is added, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import bundles, reads, record_keys
from assay.adapters.memory_keys import MemoryKeys
from assay.chain import MOST_WRAPPED, Release
from assay.hands import store_key
from assay.ids import Address, Digest
from assay.merkle import sha256
from assay.record_keys import RecordKeys
from assay.runtime import Fault, TaskFailed
from assay.sampling import record_indices
from assay.tasks import StoreKey

KEY = b"k" * 32
KEYS = [sha256(bytes([i])) for i in range(3)]
ME, GIVER = MemoryKeys(b"me"), MemoryKeys(b"giver")


def reading(counts: tuple[int, ...], micro_batches: int = 2, batch: int = 3) -> reads.Reading:
    return reads.Reading(order=Digest(b"o" * 32), batch=batch, micro_batches=micro_batches, counts=counts)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 6), st.integers(0, 50),
    st.lists(st.integers(0, 20), max_size=6),
)  # fmt: skip
def test_the_records_of_drawn_links_are_those_that_training_reads(counts: list[int], micro: int, batch: int, start: int, units: list[int]) -> None:
    what = reading(tuple(counts), micro, batch)
    found = reads.records(what, reads.places(units, start, micro))
    wanted = set()
    for unit in units:
        step, m = divmod(unit, micro + 1)
        if m < micro:
            wanted |= set(record_indices(what.order, sum(counts), start + step, m, micro, batch))
    firsts = [sum(counts[:i]) for i in range(len(counts))]
    assert sorted(firsts[shard] + index for shard, some in found.items() for index in some) == sorted(wanted)
    assert all(list(some) == sorted(set(some)) for some in found.values())


def test_an_update_reads_nothing() -> None:
    assert reads.places((2, 5, 8), 4, 2) == ()
    assert reads.records(reading((5, 5)), ()) == {}


def test_short_answers_are_remembered_and_long_ones_are_not() -> None:
    """What a stranger's job makes long may not fill the memory."""
    reads._short.cache_clear()
    places = reads.places((0, 1), 0, 2)
    for batch in (reads.SHORT // len(places), reads.SHORT):
        first, again = (reads.records(reading((5, 5), batch=batch), places) for _ in range(2))
        assert first == again
        assert (first is again) == (batch < reads.SHORT)
    assert reads._short.cache_info().currsize == 1


def test_by_key_leaves_out_what_is_read_whole_and_joins_shards_under_one_key() -> None:
    what = reading((4, 4, 4))
    assert reads.by_key(KEYS, what, {0: (0, 1, 2, 3), 2: (1, 3)}) == {KEYS[2]: (1, 3)}
    same = [KEYS[0], KEYS[1], KEYS[0]]  # a job may name a dataset twice
    assert reads.by_key(same, what, {0: (0, 1), 2: (1, 3)}) == {KEYS[0]: (0, 1, 3)}
    assert reads.by_key(same, what, {0: (0, 1), 2: (2, 3)}) == {}


def test_the_most_that_draws_may_read() -> None:
    what = reading((1000, 1000), micro_batches=4, batch=10)
    assert reads.most(what, 100, 2, 3) == 60
    assert reads.most(what, 1, 2, 3) == 40  # a step has no more micro-batches
    assert reads.most(what, 10, 0, 3) == 400  # every link of the segment
    assert reads.most(what, 1000, 0, 1) == 2000  # there are no more records


# ---- bundles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 226, 227, 1000])
def test_bundles_fit_a_release_and_together_are_the_keys_that_were_asked_for(count: int) -> None:
    wanted = tuple(range(0, 3 * count, 3))
    cut = bundles.cut(KEY, wanted)
    assert len(cut) == -(-count // bundles.MOST_TOGETHER)
    assert all(len(GIVER.wrap(one, ME.encryption_key)) <= MOST_WRAPPED for one in cut)
    joined = {index: key for one in cut for index, key in record_keys.decode(one).keys.items()}
    assert joined == {index: record_keys.derive(KEY, index) for index in wanted}


def test_one_record_more_would_not_fit() -> None:
    one = record_keys.encode(record_keys.select(KEY, range(bundles.MOST_TOGETHER + 1)))
    assert len(one) + 48 > MOST_WRAPPED


def test_calls_are_bounded_by_number_and_by_bytes_and_keep_the_order() -> None:
    def one(size: int) -> Release:
        return Release(recipient=Address("0x" + "11" * 20), key_id=KEYS[0], wrapped=bytes(size))

    small = [one(80)] * 130
    assert [len(call) for call in bundles.calls(small)] == [64, 64, 2]
    large = [one(MOST_WRAPPED)] * 7
    assert [len(call) for call in bundles.calls(large)] == [3, 3, 1]
    assert bundles.calls([]) == []
    mixed = [*large[:2], *small[:3], *large[:3]]
    assert [release for call in bundles.calls(mixed) for release in call] == mixed


# ---- what a recipient makes of them ----------------------------------------------------------------------------------------


def test_bundles_of_one_key_id_are_kept_as_one_and_a_whole_key_is_worth_more() -> None:
    node, key_id = MemoryKeys(b"me"), sha256(KEY)
    for some in ((1, 2), (2, 7)):
        task = StoreKey(key_id=key_id, wrapped=GIVER.wrap(record_keys.encode(record_keys.select(KEY, some)), node.encryption_key))
        assert not store_key(node, task).whole
    held = node.shard_key(key_id)
    assert held == record_keys.select(KEY, (1, 2, 7))
    with pytest.raises(KeyError):
        node.load(key_id)
    assert (bundles.lacks(held, (1, 7)), bundles.lacks(held, (1, 3, 4)), bundles.lacks(KEY, (1, 3, 4))) == (0, 2, 0)
    assert store_key(node, StoreKey(key_id=key_id, wrapped=GIVER.wrap(KEY, node.encryption_key))).whole
    assert node.shard_key(key_id) == KEY


ONE, TWO = ((index).to_bytes(4, "big") + bytes([index]) * 32 for index in (1, 2))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "at least"),
        (b"\x01" + (2).to_bytes(4, "big") + TWO + ONE, "ascending"),
        (b"\x01" + (2).to_bytes(4, "big") + ONE + ONE, "ascending"),
        (b"\x01" + (2).to_bytes(4, "big") + ONE, "has 77 bytes"),
        (b"\x01" + (1).to_bytes(4, "big") + ONE + TWO, "has 41 bytes"),
        (b"\x01" + (1 << 21).to_bytes(4, "big"), "claims 2097152"),
        (b"\x01" + bytes(4), "claims 0"),
        (b"\x02" + (1).to_bytes(4, "big") + ONE, "format 2"),
        (b"x" * 32, "another one"),
    ],
)
def test_a_hostile_bundle_is_its_senders_fault_and_nothing_of_it_is_kept(data: bytes, why: str) -> None:
    node = MemoryKeys(b"me")
    with pytest.raises(TaskFailed, match=why) as failed:
        store_key(node, StoreKey(key_id=KEYS[0], wrapped=GIVER.wrap(data, node.encryption_key)))
    assert failed.value.fault is Fault.PEER
    with pytest.raises(KeyError):
        node.shard_key(KEYS[0])


def test_later_keys_of_a_record_count() -> None:
    """A false one does not stand in the way of the true one."""
    node, key_id = MemoryKeys(b"me"), sha256(KEY)
    node.store_records(key_id, RecordKeys({3: b"f" * 32, 4: record_keys.derive(KEY, 4)}))
    node.store_records(key_id, record_keys.select(KEY, (3,)))
    assert node.shard_key(key_id) == record_keys.select(KEY, (3, 4))
