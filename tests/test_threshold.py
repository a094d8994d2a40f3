"""Keys that t of n holders share: any t give the key and fewer do not, a false share is found out, and an envelope opens for nothing else."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from nacl import bindings as sodium

from assay import threshold
from assay.adapters.memory_keys import MemoryKeys
from assay.ids import Digest, PeerId
from assay.job import DatasetRef, KeyHolder, KeyHolders
from assay.merkle import sha256
from assay.threshold import BadEnvelope, combine, gather, is_share, needed, open_own, read, released, seal_to, size, split

KEY = bytes(range(32))
ID = sha256(KEY)
HOLDERS = [MemoryKeys(f"holder {i}".encode()) for i in range(5)]
DEALER, READER = MemoryKeys(b"dealer"), MemoryKeys(b"reader")
INFO = b"for this dataset"
NO_SHARDS = DatasetRef(name="none", fields=(), shards=())


def group(needed: int, count: int) -> KeyHolders:
    members = tuple(KeyHolder(account=one.account, peer=PeerId(one.account), encryption_key=one.encryption_key) for one in HOLDERS[:count])
    return KeyHolders(threshold=needed, members=members)


def envelope(needed: int = 3, count: int = 5) -> bytes:
    return seal_to(DEALER, KEY, b"", group(needed, count), INFO)


def given(sealed: bytes, *places: int) -> dict[int, bytes]:
    """What the holders wrap to the reader."""
    return {place: HOLDERS[place - 1].wrap(open_own(HOLDERS[place - 1], sealed, INFO, ID), READER.encryption_key) for place in places}


@pytest.mark.parametrize(("needed", "count"), [(1, 1), (1, 3), (2, 3), (3, 5), (5, 5)])
def test_any_so_many_holders_give_the_key(needed: int, count: int) -> None:
    sealed = envelope(needed, count)
    assert len(sealed) == size(needed, count)
    for places in itertools.combinations(range(1, count + 1), needed):
        assert gather(READER, sealed, given(sealed, *places), ID) == (KEY, ())


def test_the_largest_group_fits_where_a_commitment_has_room() -> None:
    assert size(16, 16) <= 2048


def test_fewer_shares_are_those_of_every_other_key_as_well() -> None:
    """Two of three shares of a threshold of three: for any secret there is a polynomial through them, so that they tell nothing of it."""
    head, shares, _ = split(KEY, 3, 5)
    shared = read(head + bytes(5 * 80))
    with pytest.raises(ValueError, match="2 shares of a key that takes 3"):
        combine(shared, {1: shares[0], 4: shares[3]})
    for other in (b"\1" + bytes(31), sodium.crypto_core_ed25519_scalar_reduce(b"another secret".ljust(64))):
        third = _through({0: other, 1: shares[0], 4: shares[3]}, at=5)
        found = combine(shared, {1: shares[0], 4: shares[3], 5: third})
        assert found == threshold._hidden(shared.mask, other)
        assert not is_share(shared, 5, third)  # the commitments tell which polynomial it is


def _through(points: dict[int, bytes], at: int) -> bytes:
    total = 0
    for x, y in points.items():
        weight = int.from_bytes(y, "little")
        for other in points:
            if other != x:
                weight = weight * (at - other) * pow(x - other, -1, threshold.ORDER) % threshold.ORDER
        total += weight
    return (total % threshold.ORDER).to_bytes(32, "little")


def test_a_lying_holder_is_found_out_and_made_up_for() -> None:
    sealed = envelope()
    true = given(sealed, 1, 2, 3, 4)
    lies = {
        "another share": given(sealed, 1)[1], "noise": HOLDERS[1].wrap(b"n" * 32, READER.encryption_key), "another's": true[1][::-1],
        "above the order": HOLDERS[1].wrap(b"\xff" * 32, READER.encryption_key), "long": HOLDERS[1].wrap(b"n" * 33, READER.encryption_key),
    }  # fmt: skip
    for lie in lies.values():
        assert gather(READER, sealed, {1: true[1], 2: lie, 3: true[3]}, ID) == (None, (2,))
        assert gather(READER, sealed, {1: true[1], 2: lie, 3: true[3], 4: true[4]}, ID) == (KEY, (2,))
    two = int.from_bytes(open_own(HOLDERS[1], sealed, INFO, ID), "little") + threshold.ORDER  # the same scalar in another form
    assert not is_share(read(sealed), 2, two.to_bytes(32, "little"))


def test_shares_without_places_find_theirs() -> None:
    sealed = envelope()
    wrapped = list(given(sealed, 4, 1, 5).values())
    assert released(READER, sealed, wrapped, ID) == KEY
    assert released(READER, sealed, [wrapped[0]] * 3, ID) is None  # one holder thrice is one share
    assert (needed(sealed), needed(bytes(80)), needed(b"")) == (3, 1, 1)
    whole = DEALER.wrap(KEY, READER.encryption_key)
    assert released(READER, whole, [whole], ID) == KEY
    with pytest.raises(ValueError, match="another one than"):
        released(READER, whole, [whole], sha256(b"other"))


def test_an_envelope_opens_for_what_it_was_made_and_for_its_holders() -> None:
    sealed = envelope(2, 3)
    with pytest.raises(BadEnvelope, match="no share for this node"):
        open_own(HOLDERS[0], sealed, b"for another dataset", ID)
    with pytest.raises(BadEnvelope, match="no share for this node"):
        open_own(HOLDERS[4], sealed, INFO, ID)
    other = envelope(2, 3)
    mixed = other[: -3 * 80] + sealed[-3 * 80 :]  # the shares of one under the commitments of another
    with pytest.raises(BadEnvelope, match="no share for this node"):
        open_own(HOLDERS[0], mixed, INFO, ID)


def test_a_dealer_that_deals_what_it_does_not_commit_to_is_found_out() -> None:
    head, shares, _ = split(KEY, 2, 3)
    dealt = enumerate(zip(HOLDERS, shares[::-1], strict=False), 1)
    parts = [one.wrap(share, one.encryption_key, threshold._info(INFO, head, place)) for place, (one, share) in dealt]
    with pytest.raises(BadEnvelope, match="share of holder 1 does not fit"):
        open_own(HOLDERS[0], head + b"".join(parts), INFO, ID)
    sealed = envelope()
    with pytest.raises(BadEnvelope, match="fault of who dealt them"):
        gather(READER, sealed, given(sealed, 1, 2, 3), Digest(sha256(b"a key that it does not hold")))


GOOD = envelope()


@pytest.mark.parametrize(
    "bend", [b"", b"\2", b"\1" + GOOD[1:], GOOD[:-1], GOOD + b"\0", b"\2\0\5" + GOOD[3:], b"\2\6\5" + bytes(732), bytes(80)]
)
def test_what_is_no_envelope_is_refused(bend: bytes) -> None:
    with pytest.raises(BadEnvelope):
        read(bend)


@pytest.mark.parametrize("point", [b"\xff" * 32, bytes(32), b"\1" + bytes(31)])
def test_commitments_that_are_no_points_make_no_share_true(point: bytes) -> None:
    head, shares, _ = split(KEY, 2, 3)
    shared = read(head[:-32] + point + bytes(3 * 80))
    assert not any(is_share(shared, place, share) for place, share in enumerate(shares, 1))


def test_a_group_is_of_different_holders_and_not_too_few() -> None:
    good = group(2, 3)
    threshold.check(good, (), NO_SHARDS)
    for bad in (msgspec.structs.replace(good, threshold=4), msgspec.structs.replace(good, members=good.members[:1] * 3)):
        with pytest.raises(BadEnvelope):
            threshold.check(bad, (), NO_SHARDS)
