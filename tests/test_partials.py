"""Keys of single records from key holders: any t give those that are asked for and no other, whatever the rest of them answer."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from nacl import bindings as sodium
from test_threshold import DEALER, HOLDERS, INFO, READER, group

from assay import bundles, cid, partials, record_keys, seal, threshold
from assay.adapters.memory_keys import MemoryKeys
from assay.chain import MOST_WRAPPED
from assay.ids import Digest
from assay.job import DatasetRef, KeyHolders, SealedRef, ShardRef
from assay.merkle import sha256
from assay.partials import BadAnswer
from assay.record_keys import RecordKeys

KEY = sha256(b"shard")
ID = sha256(KEY)
RECORDS = 6
WANTED = (1, 3, 4)
ROW, HEAD, PROOF = 36, 5, 64
SMALL_ORDER = "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"  # (0, -1)


def deal(holders: KeyHolders | None = None, key: bytes = KEY, records: int = RECORDS) -> tuple[bytes, bytes]:
    """Envelope and masks of a shard's key."""
    DEALER.store(key)
    ref = SealedRef(cid=cid.of(b"shard"), size=0, key_id=sha256(key), envelope=b"")
    bare = DatasetRef(name="d", fields=(), shards=(ShardRef(sealed=ref, records=records, root=Digest(bytes(32))),))
    dataset, masks = threshold.seal_shards(DEALER, bare, b"", holders or group(2, 3), INFO)
    return dataset.shards[0].sealed.envelope, b"".join(masks)


ENVELOPE, MASKS = deal()


def share(place: int, envelope: bytes = ENVELOPE, key_id: Digest = ID) -> bytes:
    return threshold.open_own(HOLDERS[place - 1], envelope, INFO, key_id)


def bare(place: int, wanted: tuple[int, ...] = WANTED, envelope: bytes = ENVELOPE, key_id: Digest = ID) -> bytes:
    """What a holder answers, not wrapped yet."""
    return partials.answer(share(place, envelope, key_id), threshold.read(envelope).context, key_id, wanted)


def wrapped(*data: bytes) -> list[bytes]:
    return [DEALER.wrap(one, READER.encryption_key) for one in data]


def told(*places: int, wanted: tuple[int, ...] = WANTED, envelope: bytes = ENVELOPE) -> dict[int, list[bytes]]:
    return {place: wrapped(bare(place, wanted, envelope)) for place in places}


def gathered(answers: dict[int, list[bytes]], wanted: tuple[int, ...] = WANTED, me: MemoryKeys = READER) -> threshold.GatheredRecords:
    return threshold.gather_records(me, ENVELOPE, ID, MASKS, wanted, answers)


@pytest.mark.parametrize(("needed", "count"), [(1, 1), (2, 3), (3, 5), (5, 5)])
def test_any_so_many_holders_give_the_keys_of_the_records_that_are_read_and_no_others(needed: int, count: int) -> None:
    envelope, masks = deal(group(needed, count))
    assert len(masks) == 32 * RECORDS
    for places in itertools.combinations(range(1, count + 1), needed):
        answers = told(*places, envelope=envelope)
        found = threshold.gather_records(READER, envelope, ID, masks, WANTED, answers)
        assert found == (record_keys.select(KEY, WANTED), (), ())


def test_fewer_holders_give_nothing() -> None:
    assert gathered(told(2)) == (None, (), ())
    assert gathered({}) == (None, (), ())


def test_parts_of_some_records_give_no_other_records_key() -> None:
    """Not even put in their place, with the true mask: whoever has parts of t holders for some records has the keys of these."""
    envelope = threshold.read(ENVELOPE)
    given = [partials.read(bare(place)).parts for place in (1, 3)]
    other = record_keys.derive(KEY, 2)
    tries = {partials.unmask(ID, MASKS, 2, {1: given[0][a], 3: given[1][b]}) for a in WANTED for b in WANTED}
    assert other not in tries
    for index in WANTED:  # nor is a mask the difference to the shard's key
        assert KEY not in {threshold._hidden(MASKS[32 * i : 32 * i + 32], given[0][index]) for i in range(RECORDS)}
    assert not threshold.is_share(envelope, 1, given[0][1])


def test_a_record_has_another_point_under_each_key_all_of_them_in_the_group() -> None:
    points = [partials.point(key, index) for key in (ID, sha256(b"other")) for index in (0, 1, 2**32 - 1)]
    assert len(set(points)) == 6
    assert all(sodium.crypto_core_ed25519_is_valid_point(point) for point in points)


# ---- holders that lie ----------------------------------------------------------------------------------------------------


def bent(answer: bytes, at: int, data: bytes) -> bytes:
    return answer[:at] + data + answer[at + len(data) :]


def lies() -> dict[str, bytes]:
    true = bare(2)
    points = [true[HEAD + ROW * i + 4 : HEAD + ROW * (i + 1)] for i in range(3)]
    delta = sodium.crypto_scalarmult_ed25519_base_noclamp(bytes([7]) + bytes(31))
    more, less = sodium.crypto_core_ed25519_add(points[0], delta), sodium.crypto_core_ed25519_sub(points[1], delta)
    response = int.from_bytes(true[-32:], "little")
    other, _ = deal()
    return {
        "a part that is another point": bent(true, HEAD + 4, points[1]),
        "two parts whose sum is true": bent(bent(true, HEAD + 4, more), HEAD + ROW + 4, less),
        "a part off the curve": bent(true, HEAD + 4, b"\2" + bytes(31)),
        "a part of small order": bent(true, HEAD + 4, bytes.fromhex(SMALL_ORDER)),
        "a part that is the neutral element": bent(true, HEAD + 4, b"\1" + bytes(31)),
        "a true part with one of small order added": bent(true, HEAD + 4, sodium.crypto_core_ed25519_add(points[0], bytes.fromhex(SMALL_ORDER))),
        "parts of other records": bent(true, HEAD, (0).to_bytes(4, "big")),
        "a false proof": bent(true, len(true) - 64, bytes(32)),
        "a number above the order": bent(true, len(true) - 32, (response + partials.ORDER).to_bytes(32, "little")),
        "another holder's answer": bare(1),
        "an answer for another sharing of the key": bare(2, envelope=other),
        "an answer with this share for another shard": partials.answer(share(2), threshold.read(ENVELOPE).context, sha256(b"other"), WANTED),
        "an answer with this share for another sharing": partials.answer(share(2), bytes(32), ID, WANTED),
        "its share": share(2),
        "keys of records": record_keys.encode(RecordKeys({index: bytes(32) for index in WANTED})),
        "nothing": b"",
    }  # fmt: skip


@pytest.mark.parametrize("lie", lies())
def test_a_holder_that_lies_is_found_out_and_made_up_for(lie: str) -> None:
    false = lies()[lie]
    assert gathered({**told(1), 2: wrapped(false)}) == (None, (2,), ())
    assert gathered({**told(1, 3), 2: wrapped(false)}) == (record_keys.select(KEY, WANTED), (2,), ())
    assert gathered({**told(1, 3), 2: [*wrapped(bare(2)), *wrapped(false)]}).false == (2,)  # beside a true one


def test_an_answer_to_another_verifier_is_none_to_this_one() -> None:
    other = MemoryKeys(b"another verifier")
    answers = {place: [DEALER.wrap(bare(place), other.encryption_key)] for place in (1, 2, 3)}
    assert gathered(answers) == (None, (1, 2, 3), ())
    assert gathered(answers, me=other).keys == record_keys.select(KEY, WANTED)
    assert gathered(told(1) | {9: told(2)[2]}) == (None, (9,), ())  # nor one of a place that nobody has


def test_what_is_answered_beyond_the_records_that_are_read_is_not_kept_and_what_lacks_one_does_not_count() -> None:
    answers = {1: wrapped(bare(1, tuple(range(RECORDS)))), 2: wrapped(bare(2, (1, 3))), 3: wrapped(bare(3, (1, 3)), bare(3, (4,)))}
    assert gathered(answers) == (record_keys.select(KEY, WANTED), (), (2,))


def test_a_share_that_is_false_is_found_by_the_holder_before_it_answers_with_it() -> None:
    head, shares, _ = threshold.split(KEY, 2, 3, RECORDS)
    dealt = enumerate(zip(HOLDERS, shares[::-1], strict=False), 1)
    envelope = head + b"".join(one.wrap(part, one.encryption_key, threshold._info(INFO, head, place)) for place, (one, part) in dealt)
    with pytest.raises(threshold.BadEnvelope, match="share of holder 1 does not fit"):
        share(1, envelope)


# ---- what is no answer, and what are no masks ----------------------------------------------------------------------------


GOOD = bare(1)


@pytest.mark.parametrize(
    "bend",
    [
        b"", b"\2", GOOD[:-1], GOOD + b"\0", b"\1" + GOOD[1:], GOOD[:1] + bytes(4) + GOOD[5:], GOOD[:1] + b"\xff" * 4 + GOOD[5:],
        GOOD[:1] + (2).to_bytes(4, "big") + GOOD[5:], GOOD[:HEAD] + GOOD[HEAD : HEAD + ROW] * 3 + GOOD[-PROOF:],
        b"\2" + (225).to_bytes(4, "big") + bytes(225 * ROW + PROOF),
    ],
    ids=lambda bend: str(len(bend)),
)  # fmt: skip
def test_what_is_no_answer_is_refused(bend: bytes) -> None:
    with pytest.raises(BadAnswer):
        partials.read(bend)
    with pytest.raises(ValueError, match=r"bundle|key"):  # and an answer is no bundle of keys
        record_keys.parse(GOOD)


def test_masks_that_are_too_few_are_the_dealers_fault_and_false_ones_give_keys_that_open_nothing() -> None:
    with pytest.raises(threshold.BadEnvelope, match="masks of 4 records"):
        threshold.gather_records(READER, ENVELOPE, ID, MASKS[: 4 * 32 + 31], WANTED, told(1, 2))
    flipped = bytes([MASKS[32] ^ 1]) + MASKS[33:]
    found = threshold.gather_records(READER, ENVELOPE, ID, MASKS[:32] + flipped, WANTED, told(1, 2))
    assert found.keys is not None
    right = record_keys.select(KEY, WANTED).keys
    assert {index for index in WANTED if found.keys.keys[index] != right[index]} == {1}


def test_masks_are_named_by_the_envelope_and_a_shard_without_is_refused() -> None:
    assert threshold.masks_ref(ENVELOPE, RECORDS) == (cid.of(MASKS), len(MASKS))
    many = cid.CHUNK // 32 + 1
    head = bytes((2, 1, 1)) + bytes(32) + cid.parse(cid.of(bytes(32 * many)))[1] + bytes(32)
    assert threshold.masks_ref(head + bytes(80), many) == (cid.of(bytes(32 * many)), 32 * many)  # of more than one block
    none = threshold.seal_to(DEALER, KEY, b"", group(2, 3), INFO)
    ref = SealedRef(cid=cid.of(b"shard"), size=0, key_id=ID, envelope=none)
    shards = (ShardRef(sealed=ref, records=RECORDS, root=Digest(bytes(32))),)
    with pytest.raises(threshold.BadEnvelope, match="names no masks"):
        threshold.check(group(2, 3), (), DatasetRef(name="d", fields=(), shards=shards))
    assert threshold.masks_refs(shards) == {}
    other = msgspec.structs.replace(ref, envelope=ENVELOPE[:35] + bytes([ENVELOPE[35] ^ 1]) + ENVELOPE[36:])
    with pytest.raises(threshold.BadEnvelope, match="no share for this node"):  # who names other masks under the same shares
        share(1, other.envelope)


def test_a_shard_that_is_there_twice_has_one_envelope_and_one_blob_of_masks() -> None:
    ref = ShardRef(sealed=SealedRef(cid=cid.of(b"shard"), size=0, key_id=ID, envelope=b""), records=RECORDS, root=Digest(bytes(32)))
    DEALER.store(KEY)
    dataset, masks = threshold.seal_shards(DEALER, DatasetRef(name="d", fields=(), shards=(ref, ref)), b"", group(2, 3), INFO)
    assert len(masks) == 1
    assert dataset.shards[0] == dataset.shards[1]
    whole, none = threshold.seal_shards(DEALER, dataset, READER.encryption_key, None, INFO)
    assert none == []
    assert READER.unwrap(whole.shards[0].sealed.envelope, INFO) == KEY


def test_the_largest_answer_fits_a_release_and_its_size_tells_of_how_many_records_it_is() -> None:
    cut = partials.cut(share(1), threshold.read(ENVELOPE).context, ID, range(partials.MOST_TOGETHER + 1))
    assert [len(partials.read(one).parts) for one in cut] == [partials.MOST_TOGETHER, 1]
    assert seal.WRAPPED_SIZE - seal.KEY_SIZE + len(cut[0]) <= MOST_WRAPPED < seal.WRAPPED_SIZE - seal.KEY_SIZE + len(cut[0]) + ROW
    assert [bundles.count(one) for one in wrapped(*cut)] == [partials.MOST_TOGETHER, 1]
    assert [bundles.count(DEALER.wrap(one, READER.encryption_key)) for one in bundles.cut(KEY, range(227))] == [226, 1]
    assert bundles.count(b"") == bundles.count(DEALER.wrap(KEY, READER.encryption_key)) == 0
    assert all(bundles.is_bundle(one) for one in wrapped(*cut))
