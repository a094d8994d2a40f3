"""Keys that any t of n key holders release together, and fewer cannot: Shamir's sharing with Feldman's commitments.

A random scalar s is the value at 0 of a random polynomial f of degree t - 1 over the integers modulo L, the order of edwards25519 (RFC 8032):
f(x) = a_0 + a_1 x + …, s = a_0. Holder i, counted from 1, has the share f(i), wrapped to it. The envelope of a key is

    version u8 = 2 | t u8 | n u8 | mask 32 B | masks 32 B | a_0 B .. a_(t-1) B, 32 bytes each | n wrapped shares of 80 bytes

B being the base point and mask = key XOR SHA-256("assay/threshold/1" ‖ s). Whoever sees the envelope can tell a true share from a false one,
f(i) B = sum of i^j a_j B, so a holder that lies is found out and t true shares give the key (Shamir, CACM 1979; Feldman, FOCS 1987). Of
the key t - 1 shares tell nothing beyond a_0 B = s B, from which s follows only by a discrete logarithm.

A share is wrapped with HPKE under an info that names the dataset or the sender (as a whole key's would), the holder's place and the digest of all
before the shares: it opens in no other envelope, and what a dealer gave a holder is what its commitments say or is found out by that holder.

`masks` is the digest in the CID of a blob of 32 bytes a record, with which the holders give the keys of single records of a shard and not its own
(assay.partials); zeros where the key is of no shard. So who may read a shard is given shares, and who may read some records parts of these.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from nacl import bindings as sodium
from nacl.exceptions import CryptoError

from assay import cid, partials, shamir
from assay.ids import Cid, Digest
from assay.job import MOST_HOLDERS, DatasetRef, JobSpec, KeyHolders, SealedRef, ShardRef
from assay.partials import ORDER, POINT, SCALAR
from assay.ports import Keys
from assay.record_keys import RecordKeys
from assay.seal import KEY_SIZE, WRAPPED_SIZE

VERSION = 2
NO_MASKS = bytes(32)
_FIXED = 3 + KEY_SIZE + len(NO_MASKS)
_LABEL = b"assay/threshold/1"


class BadEnvelope(ValueError):
    """An envelope for key holders that is malformed, or whose share does not fit its commitments: the fault of who dealt it."""


class Shared(NamedTuple):
    """An envelope for key holders, taken apart."""

    head: bytes
    """All before the shares."""
    threshold: int
    mask: bytes
    masks: bytes
    """Digest in the CID of the masks of the shard's records, or NO_MASKS."""
    commitments: tuple[bytes, ...]
    parts: tuple[bytes, ...]

    @property
    def places(self) -> range:
        return range(1, len(self.parts) + 1)

    @property
    def context(self) -> bytes:
        """What a holder's answer for single records holds for, and no other sharing: 32 bytes."""
        return hashlib.sha256(self.head).digest()

    def commitment(self, place: int) -> bytes:
        """f(place) B. Raises CryptoError for commitments that are no points."""
        total, factor = self.commitments[0], 1
        for commitment in self.commitments[1:]:
            factor *= place
            total = sodium.crypto_core_ed25519_add(total, sodium.crypto_scalarmult_ed25519_noclamp(_scalar(factor), commitment))
        return bytes(total)


class Dealt(NamedTuple):
    """What a dealer makes of a key."""

    head: bytes
    """Of the envelope."""
    shares: list[bytes]
    """32 bytes a holder, by their places."""
    masks: bytes
    """32 bytes a record; empty: the key is of no shard."""


def size(threshold: int, count: int) -> int:
    """Bytes of an envelope."""
    return _FIXED + POINT * threshold + WRAPPED_SIZE * count


def read(envelope: bytes) -> Shared:
    """Raises BadEnvelope."""
    if len(envelope) < 3 or envelope[0] != VERSION:
        raise BadEnvelope("it is no envelope for key holders")
    threshold, count = envelope[1], envelope[2]
    if not 1 <= threshold <= count <= MOST_HOLDERS or len(envelope) != size(threshold, count):
        raise BadEnvelope(f"an envelope of {len(envelope)} bytes is not one for {threshold} of {count} key holders")
    at = _FIXED + POINT * threshold
    commitments = tuple(envelope[i : i + POINT] for i in range(_FIXED, at, POINT))
    parts = tuple(envelope[i : i + WRAPPED_SIZE] for i in range(at, len(envelope), WRAPPED_SIZE))
    return Shared(envelope[:at], threshold, envelope[3 : 3 + KEY_SIZE], envelope[3 + KEY_SIZE : _FIXED], commitments, parts)


def masks_ref(envelope: bytes, records: int) -> tuple[Cid, int]:
    """CID and bytes of the masks of a shard of `records` records, that its envelope names. Raises BadEnvelope when it names none."""
    digest, length = read(envelope).masks, records * KEY_SIZE
    if digest == NO_MASKS:
        raise BadEnvelope("it names no masks of its records, without which its key holders give no drawn verifier the keys of these")
    return cid.of_digest(cid.RAW if length <= cid.CHUNK else cid.DAG_PB, digest), length


def masks_refs(shards: Iterable[ShardRef]) -> dict[Cid, int]:
    """Bytes of the masks of shards by their CIDs; those whose keys are not shared have none."""
    found = {}
    for shard in shards:
        with contextlib.suppress(BadEnvelope):
            name, length = masks_ref(shard.sealed.envelope, shard.records)
            found[name] = length
    return found


# ---- sharing -------------------------------------------------------------------------------------------------------------


def _scalar(number: int) -> bytes:
    return number.to_bytes(SCALAR, "little")


def _value(coefficients: Sequence[bytes], place: int) -> bytes:
    """f(place), by Horner's rule: what is secret is computed by sodium, in constant time (assay.shamir has the plain one)."""
    value = bytes(SCALAR)
    for coefficient in reversed(coefficients):
        value = sodium.crypto_core_ed25519_scalar_add(sodium.crypto_core_ed25519_scalar_mul(value, _scalar(place)), coefficient)
    return value


def _hidden(key: bytes, secret: bytes) -> bytes:
    """The mask of a key, and the key of a mask."""
    return bytes(a ^ b for a, b in zip(key, hashlib.sha256(_LABEL + secret).digest(), strict=True))


def split(key: bytes, threshold: int, count: int, records: int = 0, random: Callable[[int], bytes] = os.urandom) -> Dealt:
    """Deals the key of a shard of so many records, or (0) any other key, to `count` holders. `random` gives so many secret bytes."""
    if len(key) != KEY_SIZE or not 1 <= threshold <= count <= MOST_HOLDERS:
        raise ValueError(f"{len(key)} bytes for {threshold} of {count} key holders: a key has {KEY_SIZE}, and there are 1 to {MOST_HOLDERS} holders")
    coefficients = [sodium.crypto_core_ed25519_scalar_reduce(random(64)) for _ in range(threshold)]
    commitments = b"".join(sodium.crypto_scalarmult_ed25519_base_noclamp(each) for each in coefficients)
    masks = partials.masks(key, coefficients[0], records)
    named = cid.parse(cid.of(masks))[1] if records else NO_MASKS
    head = bytes((VERSION, threshold, count)) + _hidden(key, coefficients[0]) + named + commitments
    return Dealt(head, [_value(coefficients, place) for place in range(1, count + 1)], masks)


def is_share(shared: Shared, place: int, share: bytes) -> bool:
    """Whether it is the share of the holder at `place` that the commitments say."""
    if place not in shared.places or len(share) != SCALAR:
        return False
    try:
        true = sodium.crypto_scalarmult_ed25519_base_noclamp(share) == shared.commitment(place)
    except CryptoError:  # for what is no point or no scalar
        return False
    return true and int.from_bytes(share, "little") < ORDER


def combine(shared: Shared, shares: Mapping[int, bytes]) -> bytes:
    """The key of true shares, of which the first t are taken. Raises ValueError when there are fewer."""
    places = sorted(shares)[: shared.threshold]
    if len(places) < shared.threshold:
        raise ValueError(f"{len(places)} shares of a key that takes {shared.threshold}")
    secret = bytes(SCALAR)
    for place, weight in shamir.weights(places, ORDER).items():
        secret = sodium.crypto_core_ed25519_scalar_add(secret, sodium.crypto_core_ed25519_scalar_mul(_scalar(weight), shares[place]))
    return _hidden(shared.mask, secret)


# ---- envelopes -----------------------------------------------------------------------------------------------------------


def _info(info: bytes, head: bytes, place: int) -> bytes:
    return info + b"/share/" + bytes((place,)) + hashlib.sha256(head).digest()


def seal_to(keys: Keys, key: bytes, service: bytes, holders: KeyHolders | None, info: bytes) -> bytes:
    """The envelope of a key that is of no shard: wrapped to a key service's encryption key, or shared among key holders. Raises ValueError for an
    encryption key that is none."""
    return _sealed(keys, key, 0, service, holders, info)[0]


def seal_shards(keys: Keys, dataset: DatasetRef, service: bytes, holders: KeyHolders | None, info: bytes) -> tuple[DatasetRef, list[bytes]]:
    """The dataset with an envelope for each shard, whose key is in `keys`, and the blobs of masks to publish with it: one a shard where there are
    key holders, none else. Takes the time of a multiplication on the curve for each record then (bench/holders.py)."""
    made: dict[Digest, tuple[bytes, bytes]] = {}
    for shard in dataset.shards:  # some may be there twice
        if (key_id := shard.sealed.key_id) not in made:
            made[key_id] = _sealed(keys, keys.load(key_id), shard.records, service, holders, info)
    envelopes = (msgspec.structs.replace(shard.sealed, envelope=made[shard.sealed.key_id][0]) for shard in dataset.shards)
    shards = tuple(msgspec.structs.replace(shard, sealed=ref) for shard, ref in zip(dataset.shards, envelopes, strict=True))
    return msgspec.structs.replace(dataset, shards=shards), [masks for _, masks in made.values() if masks]


def _sealed(keys: Keys, key: bytes, records: int, service: bytes, holders: KeyHolders | None, info: bytes) -> tuple[bytes, bytes]:
    if holders is None:
        return keys.wrap(key, service, info), b""
    head, shares, masks = split(key, holders.threshold, len(holders.members), records)
    dealt = enumerate(zip(shares, holders.members, strict=True), 1)
    return head + b"".join(keys.wrap(share, one.encryption_key, _info(info, head, place)) for place, (share, one) in dealt), masks


def open_own(keys: Keys, envelope: bytes, info: bytes, key_id: Digest) -> bytes:
    """What a key service, or a holder, finds in an envelope for it: the key, or its share. Raises ValueError when it does not open, or is
    not what it says to be."""
    if len(envelope) == WRAPPED_SIZE:
        key = keys.unwrap(envelope, info)
        if len(key) != KEY_SIZE or hashlib.sha256(key).digest() != key_id:
            raise ValueError("the envelope holds another key than it names")
        return key
    shared = read(envelope)
    for place, part in zip(shared.places, shared.parts, strict=True):
        try:
            share = keys.unwrap(part, _info(info, shared.head, place))
        except ValueError:
            continue
        if not is_share(shared, place, share):
            raise BadEnvelope(f"the share of holder {place} does not fit its commitments")
        return share
    raise BadEnvelope("it has no share for this node")


class Gathered(NamedTuple):
    key: bytes | None
    """None: not enough true shares."""
    false: tuple[int, ...]
    """Which of those that were given are false, or were not wrapped to this node."""


def gather(keys: Keys, envelope: bytes, wrapped: Mapping[int, bytes], key_id: Digest, placed: bool = True) -> Gathered:
    """The key, of shares that holders wrapped to this node, by their places (not `placed`: by any number, whose holder's place is looked for).
    Raises BadEnvelope when true shares give another key: who dealt them is at fault."""
    shared, good = read(envelope), {}
    false: list[int] = []
    for number, part in sorted(wrapped.items()):
        try:
            share = keys.unwrap(part)
        except ValueError:
            share = b""
        place = next((at for at in ((number,) if placed else shared.places) if is_share(shared, at, share)), None)
        if place is None:
            false.append(number)
        else:
            good[place] = share
    if len(good) < shared.threshold:
        return Gathered(None, tuple(false))
    key = combine(shared, good)
    if hashlib.sha256(key).digest() != key_id:
        raise BadEnvelope(f"the shares are true, and give another key than {key_id.hex()[:16]}…: the fault of who dealt them")
    return Gathered(key, tuple(false))


class GatheredRecords(NamedTuple):
    keys: RecordKeys | None
    """None: too few true parts of some record."""
    false: tuple[int, ...]
    """Places of holders of whose answers one is false, or was not wrapped to this node."""
    short: tuple[int, ...]
    """Of those whose answers are true and lack a record."""


def gather_records(
    keys: Keys, envelope: bytes, key_id: Digest, masks: bytes, wanted: Sequence[int], answers: Mapping[int, Sequence[bytes]]
) -> GatheredRecords:
    """The keys of some records of a shard, of answers that holders wrapped to this node, by their places; what they answer beyond `wanted` is not
    used. Raises BadEnvelope for masks that are not for these records. Whether the keys are the records' their leaves tell."""
    shared = read(envelope)
    if not wanted or len(masks) < (max(wanted) + 1) * KEY_SIZE:
        raise BadEnvelope(f"there are masks of {len(masks) // KEY_SIZE} records of the shard with key {key_id.hex()[:16]}…, and more are read")
    good: dict[int, dict[int, bytes]] = {}
    false, short = [], []
    for place, wrapped in sorted(answers.items()):
        parts = _parts(keys, shared, key_id, place, wrapped)
        if parts is None:
            false.append(place)
        elif parts.keys() >= set(wanted):
            good[place] = parts
        else:
            short.append(place)
    places = list(good)[: shared.threshold]
    if len(places) < shared.threshold:
        return GatheredRecords(None, tuple(false), tuple(short))
    found = {index: partials.unmask(key_id, masks, index, {place: good[place][index] for place in places}) for index in wanted}
    return GatheredRecords(RecordKeys(found), tuple(false), tuple(short))


def _parts(keys: Keys, shared: Shared, key_id: Digest, place: int, wrapped: Sequence[bytes]) -> dict[int, bytes] | None:
    """All parts in the answers of one holder; None when one is false."""
    found: dict[int, bytes] = {}
    try:
        commitment = shared.commitment(place)
        for one in wrapped:
            given = partials.read(keys.unwrap(one))
            if place not in shared.places or not partials.is_true(given, commitment, shared.context, key_id):
                return None
            found |= given.parts
    except (ValueError, CryptoError):  # not for this node; no answer; commitments that are no points
        return None
    return found


def needed(envelope: bytes) -> int:
    """From how many nodes something must come until the key can be had."""
    try:
        return 1 if len(envelope) == WRAPPED_SIZE else read(envelope).threshold
    except BadEnvelope:
        return 1


def released(keys: Keys, envelope: bytes, wrapped: Sequence[bytes], key_id: Digest) -> bytes | None:
    """The key that was wrapped to this node, or that the shares make that holders wrapped to it; None: too few of these are true yet.
    Raises ValueError for a key that is another one, or is not for this node."""
    if len(envelope) != WRAPPED_SIZE:
        return gather(keys, envelope, dict(enumerate(wrapped, 1)), key_id, placed=False).key
    key = keys.unwrap(wrapped[-1])
    if hashlib.sha256(key).digest() != key_id:
        raise ValueError("the released key is another one than the provider committed to: the key service's fault")
    return key


# ---- documents -----------------------------------------------------------------------------------------------------------


def check(holders: KeyHolders, envelopes: Sequence[SealedRef], dataset: DatasetRef) -> None:
    """That envelopes, and those of a dataset's shards, are for these holders. Raises BadEnvelope."""
    accounts = [one.account for one in holders.members]
    if not 1 <= holders.threshold <= len(accounts) <= MOST_HOLDERS or len(set(accounts)) != len(accounts):
        raise BadEnvelope(f"{holders.threshold} of {len(accounts)} key holders: 1 to {MOST_HOLDERS} different ones are needed, and no more of them")
    if any(len(one.encryption_key) != POINT for one in holders.members):
        raise BadEnvelope(f"a key holder's encryption key has {POINT} bytes")
    for ref in (*envelopes, *(shard.sealed for shard in dataset.shards)):
        shared = read(ref.envelope)
        if (shared.threshold, len(shared.parts)) != (holders.threshold, len(accounts)):
            raise BadEnvelope(f"key {ref.key_id.hex()[:16]}… is shared among other key holders")
    for shard in dataset.shards:
        masks_ref(shard.sealed.envelope, shard.records)


def check_document(spec: JobSpec) -> None:
    """That a job's key service is the first of its holders, and all its keys are shared among them. Raises BadEnvelope."""
    holders = spec.key_holders
    if holders is None:
        return
    check(holders, (spec.state, *spec.frozen_blobs), spec.dataset)
    first = holders.members[0]
    if (spec.key_service, spec.key_service_peer, spec.key_service_key) != (first.account, first.peer, first.encryption_key):
        raise BadEnvelope("its key service is not the first of its key holders")
