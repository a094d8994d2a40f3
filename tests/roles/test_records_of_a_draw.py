"""A drawn verifier with the keys of its links' records and no others: what it can open and show of the data, and whose fault it is when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_hands import ONE, STEPS, Stage, fails, play, stage
from tiny import plan

from assay import merkle, reads, record_keys, seal, shard
from assay.codec import decode
from assay.engine import KeptRecord
from assay.ids import Digest
from assay.job import JobSpec
from assay.record_keys import RecordKeys
from assay.runtime import Fault
from assay.sampling import record_indices
from assay.tasks import CheckRecords, RecordsChecked, StoreKey

UNIT = 4
"""Micro-batch 1 of step 1."""
PLACES = ((1, 1),)


def mine(spec: JobSpec, step: int = 1, m: int = 1) -> list[int]:
    """The records that a micro-batch reads."""
    return record_indices(spec.order, spec.dataset.records, step, m, spec.micro_batches, spec.batch)


def looked(s: Stage) -> CheckRecords:
    return CheckRecords(segment=ONE, spec=s.cid, places=PLACES)


def key_of(s: Stage) -> Digest:
    (ref,) = s.spec.dataset.shards
    return ref.sealed.key_id


async def give(s: Stage, records: dict[int, bytes]) -> None:
    """Somebody wraps these to the verifier."""
    wrapped = s.service.wrap(record_keys.encode(RecordKeys(records)), s.verifier.shop.keys.encryption_key)
    await s.check(StoreKey(key_id=key_of(s), wrapped=wrapped))


def test_with_all_that_it_holds_it_opens_its_own_records_and_no_other_row(tmp_path: Path) -> None:
    """What a drawn verifier that leaks can leak."""

    async def scene() -> None:
        s = await stage(tmp_path)
        await s.entitle(UNIT)
        (ref,) = s.spec.dataset.shards
        sealed, held = await s.verifier.shop.blobs.get(ref.sealed.cid), s.verifier.shop.keys.shard_key(ref.sealed.key_id)
        assert isinstance(held, RecordKeys)
        wanted = sorted(set(mine(s.spec)))
        assert sorted(held.keys) == wanted
        assert len(wanted) < ref.records
        opened = shard.read_records(ref, s.spec.dataset.fields, sealed, held, wanted)
        for name, array in plan(STEPS).records.items():
            assert np.array_equal(opened[name], array[wanted])
        with pytest.raises(KeyError):
            s.verifier.shop.keys.load(ref.sealed.key_id)
        candidates = [*held.keys.values(), *(record_keys.derive(key, i) for key in held.keys.values() for i in range(ref.records))]
        for other in set(range(ref.records)) - set(wanted):
            with pytest.raises(seal.WrongKey, match="no key for it was given"):
                shard.read_records(ref, s.spec.dataset.fields, sealed, held, [other])
            for key in candidates:  # its own keys, and whatever is derived from them as from a shard's
                with pytest.raises(seal.WrongKey, match="does not open"):
                    shard.read_records(ref, s.spec.dataset.fields, sealed, RecordKeys({other: key}), [other])

    play(scene)


def test_it_shows_a_record_of_its_link_in_a_dispute_as_who_has_the_shards_key_does_and_no_other(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        await s.entitle(UNIT)
        shown = []
        for shop in (s.verifier.shop, s.worker.shop):
            folder = shop.open_folder(ONE, s.cid)
            await shop.put_record(folder, s.spec, mine(s.spec)[0])
            shown.append(decode((folder / f"record-{mine(s.spec)[0]}.json").read_bytes(), KeptRecord))
        assert shown[0] == shown[1]
        (ref,) = s.spec.dataset.shards
        leaf = merkle.leaf(mine(s.spec)[0], shown[0].salt + shown[0].data)
        assert merkle.verify(ref.root, ref.records, mine(s.spec)[0], leaf, shown[0].path)
        other = next(i for i in range(ref.records) if i not in mine(s.spec))
        await fails(s.verifier.shop.put_record(s.verifier.shop.folder(ONE), s.spec, other), Fault.PEER, "no key for it was given")

    play(scene)


def test_it_is_ready_when_the_keys_of_all_its_records_are_here_whichever_release_brought_them(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        key = s.worker.shop.key(key_of(s))
        first, *rest = sorted(set(mine(s.spec)))
        assert await s.check(looked(s)) == RecordsChecked(missing=(key_of(s),), false=())
        await give(s, {first: record_keys.derive(key, first)})
        assert await s.check(looked(s)) == RecordsChecked(missing=(key_of(s),), false=())
        await give(s, {index: record_keys.derive(key, index) for index in rest})
        assert await s.check(looked(s)) == RecordsChecked(missing=(), false=())

    play(scene)


@pytest.mark.parametrize(
    ("wrong", "missing", "why"),
    [
        (lambda key, wanted: {i: b"x" * 32 for i in wanted}, False, "does not open with the key that was given for it"),
        (lambda key, wanted: {i: record_keys.derive(key, i + (i == wanted[-1])) for i in wanted}, False, "does not open"),
        (lambda key, wanted: {i + 40: record_keys.derive(key, i + 40) for i in wanted}, True, ""),
        (lambda key, wanted: {i: record_keys.derive(key, i) for i in wanted[:-1]}, True, ""),
    ],
    ids=["false keys", "one false key", "of other records", "one too few"],
)
def test_a_hostile_bundle_is_told_before_there_is_a_receipt_and_the_true_one_mends_it(
    tmp_path: Path, wrong: Callable[[bytes, list[int]], dict[int, bytes]], missing: bool, why: str
) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        key, wanted = s.worker.shop.key(key_of(s)), sorted(set(mine(s.spec)))
        await give(s, wrong(key, wanted))
        found = await s.check(looked(s))
        assert isinstance(found, RecordsChecked)
        assert found.missing == ((key_of(s),) if missing else ())
        assert [one for one, _ in found.false] == ([] if missing else [key_of(s)])
        assert all(why in text for _, text in found.false)
        await s.entitle(UNIT)
        assert await s.check(looked(s)) == RecordsChecked(missing=(), false=())

    play(scene)


def test_leaves_that_are_not_the_published_ones_are_the_owners_fault_with_any_keys(tmp_path: Path) -> None:
    def other_root(spec: JobSpec) -> JobSpec:
        (ref,) = spec.dataset.shards
        changed = msgspec.structs.replace(ref, root=merkle.sha256(b"other"))
        return msgspec.structs.replace(spec, dataset=msgspec.structs.replace(spec.dataset, shards=(changed,)))

    async def scene() -> None:
        s = await stage(tmp_path, change=other_root)
        await s.entitle(UNIT)
        await fails(s.check(looked(s)), Fault.PEER, "the data owner published a bad shard")

    play(scene)


def test_who_was_given_the_shards_key_reads_with_it(tmp_path: Path) -> None:
    """Where the drawn links read all of it."""

    async def scene() -> None:
        s = await stage(tmp_path, plan(STEPS)._replace(records={name: array[:4] for name, array in plan(STEPS).records.items()}))
        await s.entitle(UNIT)
        assert s.verifier.shop.keys.load(key_of(s)) == s.worker.shop.key(key_of(s))
        assert await s.check(looked(s)) == RecordsChecked(missing=(), false=())

    play(scene)


def test_an_update_leaves_a_verifier_with_no_data_at_all(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        assert [(release.key_id, release.wrapped) for release in s.released(5)] == [(bytes(32), b"")]
        assert reads.places((5,), 0, 2) == ()

    play(scene)
