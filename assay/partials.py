"""Keys of single records from key holders, who have a share of the shard's secret each and no key (assay.threshold).

The secret of a shard is a scalar s, of which holder j has the share f(j). What hides the key k_i of record i is a value that any t holders give
together, and fewer do not (a threshold pseudo-random function: Naor, Pinkas and Reingold, EUROCRYPT 1999):

    P_i = point of (key id, i)                                          hashed to edwards25519's group of order L (RFC 8032)
    F_i = SHA-256("assay/record-mask/1" ‖ key id ‖ i u64 ‖ s P_i)
    e_i = k_i xor F_i                                                   the masks of all records, which whoever deals the shares publishes

A holder answers for some records with f(j) P_i of each, its parts; with those of t holders s P_i = sum of w_j f(j) P_i, w_j being Lagrange's
weights at 0. So who has the parts of some records gets the keys of these: of another record's they say nothing, unless Diffie-Hellman's
problem is easy in this group, hashes taken for random. An answer, never as long as a key, a share or a bundle of keys:

    version u8 = 2 ‖ count u32 ‖ (index u32 ‖ part 32 B) each, indices strictly ascending ‖ c 32 B ‖ z 32 B

c and z prove that all parts are of the share to which the holder's commitment A = f(j) B belongs: one proof of equal logarithms (Chaum and
Pedersen, CRYPTO 1992) for the weighted sums of all pairs (P_i, part), the weights hashed from everything, as RFC 9497 (2.2) batches it. The hashes
take in `context`, the digest of what was dealt, so that a proof holds for no other sharing.

P_i is the sum of two points, each hashed by Elligator 2 with the cofactor cleared (sodium's `from_uniform`): the sum makes it as good as a random
point, as in RFC 9380 (3). Points from the network that are not in the group are refused by sodium in the multiplication.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from nacl import bindings as sodium
from nacl.exceptions import CryptoError

from assay import record_keys, shamir
from assay.chain import MOST_WRAPPED
from assay.ids import Digest
from assay.seal import KEY_SIZE, WRAPPED_SIZE

SCALAR = POINT = 32
ORDER = (1 << 252) + 27742317777372353535851937790883648493
"""L of RFC 8032."""

_VERSION = 2
_HEAD = struct.Struct(">BI")
_ROW = struct.Struct(">I32s")
_PROOF = 2 * SCALAR
_POINT, _MASK, _LABEL = b"assay/record-point/1", b"assay/record-mask/1", b"assay/parts/1/"

MOST_TOGETHER = (MOST_WRAPPED - (WRAPPED_SIZE - KEY_SIZE) - _HEAD.size - _PROOF) // _ROW.size
"""Records in one answer, which is wrapped and released as one: 224."""


class BadAnswer(ValueError):
    """A holder's answer that is malformed: the holder's fault."""


class Answer(NamedTuple):
    parts: Mapping[int, bytes]
    """By the place of the record in its shard."""
    challenge: bytes
    response: bytes


# ---- the function --------------------------------------------------------------------------------------------------------


def point(key_id: Digest, index: int) -> bytes:
    """P_i: 32 bytes."""
    both = hashlib.sha512(_POINT + key_id + index.to_bytes(8, "big")).digest()
    one, other = (sodium.crypto_core_ed25519_from_uniform(half) for half in (both[:32], both[32:]))
    return bytes(sodium.crypto_core_ed25519_add(one, other))


def _value(key_id: Digest, index: int, evaluated: bytes) -> bytes:
    return hashlib.sha256(_MASK + key_id + index.to_bytes(8, "big") + evaluated).digest()


def _xored(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(len(one))


def masks(key: bytes, secret: bytes, count: int) -> bytes:
    """The masks of the records 0 .. count - 1 of the shard with this key under a secret scalar, 32 bytes each."""
    key_id = Digest(hashlib.sha256(key).digest())
    values = (_value(key_id, index, _times(secret, point(key_id, index))) for index in range(count))
    return b"".join(map(_xored, record_keys.derive_all(key, count), values))


def unmask(key_id: Digest, hidden: bytes, index: int, given: Mapping[int, bytes]) -> bytes:
    """Key of a record, from the masks of its shard and true parts of it by their holders' places: as many as the threshold says, and no more."""
    total = None
    for place, weight in shamir.weights(given, ORDER).items():
        weighted = _times(weight.to_bytes(SCALAR, "little"), given[place])
        total = weighted if total is None else sodium.crypto_core_ed25519_add(total, weighted)
    if total is None:
        raise ValueError("a record's key takes the part of one holder at least")
    return _xored(hidden[index * KEY_SIZE : (index + 1) * KEY_SIZE], _value(key_id, index, total))


def _times(scalar: bytes, element: bytes) -> bytes:
    """Raises CryptoError for what is no point of the group, and when the product is its neutral element."""
    return bytes(sodium.crypto_scalarmult_ed25519_noclamp(scalar, element))


# ---- answers -------------------------------------------------------------------------------------------------------------


def cut(share: bytes, context: bytes, key_id: Digest, records: Sequence[int], random: Callable[[int], bytes] = os.urandom) -> list[bytes]:
    """A holder's answers for some records, ascending, of the shard with this key id, in as few as may be. `random` gives so many secret bytes."""
    cuts = (records[at : at + MOST_TOGETHER] for at in range(0, len(records), MOST_TOGETHER))
    return [answer(share, context, key_id, some, random) for some in cuts]


def answer(share: bytes, context: bytes, key_id: Digest, records: Sequence[int], random: Callable[[int], bytes] = os.urandom) -> bytes:
    """One answer, for 1 to MOST_TOGETHER records in ascending order."""
    points = [point(key_id, index) for index in records]
    rows = b"".join(_ROW.pack(index, _times(share, base)) for index, base in zip(records, points, strict=True))
    commitment = sodium.crypto_scalarmult_ed25519_base_noclamp(share)
    seed = _seed(context, key_id, commitment, rows)
    base = _weighted(seed, points)
    image = _times(share, base)
    once = _scalar(b"nonce", share, random(64), seed)  # hedged: a bad source of randomness does not give the share away
    challenge = _challenge(seed, base, image, sodium.crypto_scalarmult_ed25519_base_noclamp(once), _times(once, base))
    response = sodium.crypto_core_ed25519_scalar_sub(once, sodium.crypto_core_ed25519_scalar_mul(challenge, share))
    return _HEAD.pack(_VERSION, len(records)) + rows + challenge + response


def read(data: bytes) -> Answer:
    """Raises BadAnswer for anything that `answer` does not make, as far as its form tells."""
    if len(data) < _HEAD.size:
        raise BadAnswer(f"a key holder's answer has {len(data)} bytes, which is none")
    version, count = _HEAD.unpack_from(data)
    if version != _VERSION or not 1 <= count <= MOST_TOGETHER or len(data) != encoded_size(count):
        raise BadAnswer(f"{len(data)} bytes of format {version} are no key holder's answer for {count} records (1 to {MOST_TOGETHER})")
    rows = list(_ROW.iter_unpack(memoryview(data)[_HEAD.size : -_PROOF]))
    if any(one >= two for (one, _), (two, _) in itertools.pairwise(rows)):
        raise BadAnswer("the records of a key holder's answer are not in strictly ascending order")
    return Answer(dict(rows), data[-_PROOF:-SCALAR], data[-SCALAR:])


def encoded_size(count: int) -> int:
    """Bytes of an answer for `count` records."""
    return _HEAD.size + count * _ROW.size + _PROOF


def is_true(given: Answer, commitment: bytes, context: bytes, key_id: Digest) -> bool:
    """Whether all its parts are made with the share that the commitment is of."""
    if any(int.from_bytes(each, "little") >= ORDER for each in (given.challenge, given.response)):
        return False
    rows = b"".join(_ROW.pack(index, part) for index, part in given.parts.items())
    try:
        seed = _seed(context, key_id, commitment, rows)
        base, image = _weighted(seed, [point(key_id, index) for index in given.parts]), _weighted(seed, list(given.parts.values()))
        first = _sum(sodium.crypto_scalarmult_ed25519_base_noclamp(given.response), _times(given.challenge, commitment))
        second = _sum(_times(given.response, base), _times(given.challenge, image))
        return _challenge(seed, base, image, first, second) == given.challenge
    except CryptoError:  # what is no point, or no scalar
        return False


# ---- the proof -----------------------------------------------------------------------------------------------------------


def _scalar(what: bytes, *data: bytes) -> bytes:
    """A hash as a number below L. All of `data` but the last have one length for each `what`."""
    return bytes(sodium.crypto_core_ed25519_scalar_reduce(hashlib.sha512(_LABEL + what + b"/" + b"".join(data)).digest()))


def _seed(context: bytes, key_id: Digest, commitment: bytes, rows: bytes) -> bytes:
    return hashlib.sha512(_LABEL + b"seed/" + context + key_id + commitment + rows).digest()


def _challenge(seed: bytes, base: bytes, image: bytes, first: bytes, second: bytes) -> bytes:
    return _scalar(b"challenge", seed, base, image, first, second)


def _sum(one: bytes, other: bytes) -> bytes:
    return bytes(sodium.crypto_core_ed25519_add(one, other))


def _weighted(seed: bytes, elements: Sequence[bytes]) -> bytes:
    """Sum of all elements, each with a weight of its own."""
    total = None
    for number, element in enumerate(elements):
        weighted = _times(_scalar(b"weight", seed, number.to_bytes(4, "big")), element)
        total = weighted if total is None else _sum(total, weighted)
    assert total is not None
    return total
