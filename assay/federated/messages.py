"""What owners and a coordinator say to each other in a round. Owners are named by their place in the terms.

    coordinator -> all      Terms
    owner                   Advert        two public keys
    coordinator -> all      Roster        every advert, and a hash that nobody chose
    owner                   Dealt         sealed shares of its two secrets for each neighbour
    coordinator -> each     Delivery      what the neighbours dealt to it
    owner                   Upload        the root of its masked update; the update itself goes as a blob
    coordinator -> all      Survivors     every upload
    owner                   Agreement     "these are the survivors": signed once
    coordinator -> all      Order         enough agreements
    owner                   Reveal        shares of survivors' seeds and of the others' mask keys
    coordinator -> anybody  Record        from which the sum is computed again

Signatures are Ed25519 (RFC 8032) by the identity keys that the terms name, over the digest of the message under a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import UNSET, UnsetType

from assay.codec import Message, digest
from assay.federated.sharing import SIZE
from assay.ids import U32, U63, Digest, PeerId

MOST_OWNERS = 1024
MOST_BYTES = 1 << 33
"""Bytes of a row."""
MAX_MESSAGE = 16 << 20
"""Bytes of a round's longest message, canonical: the survivors of 1,024 owners."""
MOST_PLEDGE = 1024
"""Bytes: a wallet that is a contract may sign with more than 65."""
SEALED = 2 * SIZE + 16
"""Bytes of two shares under AES-GCM."""
TAIL = 16
"""Standard deviations of noise that fit under the limit: it goes beyond them with a chance below 2^-180."""

T = TypeVar("T", bound="FromOwner")


class Refused(ValueError):
    """A message that breaks the protocol: the fault of who sent it."""


def _sized(what: str, data: bytes, size: int = 32) -> None:
    if len(data) != size:
        raise ValueError(f"{what} has {len(data)} bytes, not {size}")


def _rising(what: str, numbers: Sequence[int]) -> None:
    if any(a >= b for a, b in pairwise(numbers)):
        raise ValueError(f"{what} are not in order, each once")


class Terms(Message, frozen=True, kw_only=True):
    """What a round adds up, and who takes part. Its digest names the round."""

    job: Digest
    """What the rounds belong to: the digest of the job's document."""
    round: U63
    group: U32 = 0
    """Which group of owners, where a round has several (assay.federated.robust)."""
    model: Digest
    """Root of the state that everybody trains on from."""
    length: U63
    """Numbers in an update."""
    bits: U32
    """Of a number on the wire: 32 or 64."""
    fraction: U32
    """An update is rounded to multiples of 2^-fraction."""
    limit: U63
    """Largest magnitude of a rounded number, before its weight."""
    norm: U63
    """Longest Euclidean length of a rounded update, before its weight; 0: any."""
    noise: U63 = 0
    """Standard deviation of each owner's discrete Gaussian noise, in rounded units, before its weight (assay.federated.privacy)."""
    owners: tuple[bytes, ...]
    """Identity keys, Ed25519."""
    weights: tuple[U32, ...]
    """How often each update counts, at least 1."""
    degree: U32
    """Neighbours of each owner, even."""
    threshold: U32
    """Neighbours that together can put an owner's secrets together."""
    minimum: U32
    """Owners without whose updates there is no sum: more than two thirds of them."""

    def __post_init__(self) -> None:
        _sized("the job", self.job)
        _sized("the model", self.model)
        count = len(self.owners)
        if not 3 <= count <= MOST_OWNERS or len(set(self.owners)) != count or len(self.weights) != count:
            raise ValueError(f"a round wants 3 to {MOST_OWNERS} different owners and a weight for each")
        for owner in self.owners:
            _sized("an owner's key", owner)
        if self.bits not in (32, 64) or not 1 <= self.length <= MOST_BYTES * 8 // self.bits:
            raise ValueError(f"{self.length} numbers of {self.bits} bits cannot be added up")
        if self.fraction > 40 or not self.limit or min(self.weights) < 1:
            raise ValueError("fraction is at most 40, limit and weights at least 1")
        if self.limit * sum(self.weights) >= 1 << (self.bits - 1):
            raise ValueError(f"numbers of up to {self.limit} with weights of {sum(self.weights)} in all do not fit {self.bits} bits")
        if self.noise and (set(self.weights) != {1} or not self.norm):
            raise ValueError("noise wants a norm, and weights of 1: the theorem on its sum is of equal noises")
        if self.limit <= TAIL * self.noise:
            raise ValueError(f"noise of {self.noise} wants a limit over {TAIL * self.noise}: what is cut off is no Gaussian any more")
        if 3 * self.minimum <= 2 * count or self.minimum > count:
            raise ValueError(f"the minimum of {count} owners is more than two thirds of them, not {self.minimum}")
        near = min(self.degree, count - 1)
        if self.degree < 2 or self.degree % 2 or not near < 2 * self.threshold <= 2 * near:
            raise ValueError(f"the degree is even, the threshold more than half of the {near} neighbours and at most all of them")


class FromOwner(Message, frozen=True, kw_only=True):
    """What every signed message begins with."""

    terms: Digest
    owner: U32

    def __post_init__(self) -> None:
        _sized("the terms", self.terms)


class Advert(FromOwner, frozen=True, kw_only=True):
    """Public X25519 keys."""

    seal: bytes
    """For shares on their way."""
    mask: bytes
    """For masks that two owners share."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _sized("a public key", self.seal)
        _sized("a public key", self.mask)


class Share(Message, frozen=True, kw_only=True):
    """Two shares for one neighbour: of the dealer's seed and of its mask key."""

    to: U32
    sealed: bytes
    seed: Digest
    """SHA-256 of the seed's share: whoever shows it later shows this one."""
    mask: Digest
    """SHA-256 of the mask key's share."""

    def __post_init__(self) -> None:
        _sized("sealed shares", self.sealed, SEALED)
        _sized("a share's hash", self.seed)
        _sized("a share's hash", self.mask)


class Dealt(FromOwner, frozen=True, kw_only=True):
    shares: tuple[Share, ...]
    """By neighbour."""


class Upload(FromOwner, frozen=True, kw_only=True):
    """An owner commits to its part of the sum."""

    partners: tuple[U32, ...]
    """The neighbours whose masks are in it."""
    row: Digest
    """Tensor root of the masked row."""
    seed: Digest
    """SHA-256 of the seed of its own mask."""
    update: Digest
    """Salted commitment to the row in the clear (ring.hidden_root)."""
    trained: Digest
    """Root of the state that its training ended in: the end of a settled segment, or of a run that an auditor repeats."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, data in ("row", self.row), ("seed", self.seed), ("update", self.update), ("trained state", self.trained):
            _sized(f"the hash of the {what}", data)
        _rising("partners", self.partners)


class Agreement(FromOwner, frozen=True, kw_only=True):
    survivors: Digest
    """Digest of `Survivors`."""
    row: Digest | UnsetType = UNSET
    """In a round that is paid for: root of the row that was sent, less the masks that will be shown (assay.federated.money)."""
    pledge: bytes | UnsetType = UNSET
    """The signature of the owner's account under that row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _sized("the survivors' digest", self.survivors)
        if isinstance(self.row, UnsetType) or isinstance(self.pledge, UnsetType):
            if self.row is not self.pledge:
                raise ValueError("a row without a signature, or a signature of nothing")
            return
        _sized("the row's root", self.row)
        if not 1 <= len(self.pledge) <= MOST_PLEDGE:
            raise ValueError(f"an account's signature has 1 to {MOST_PLEDGE} bytes, not {len(self.pledge)}")


class Shown(Message, frozen=True, kw_only=True):
    of: U32
    share: bytes

    def __post_init__(self) -> None:
        _sized("a share", self.share, SIZE)


class Reveal(FromOwner, frozen=True, kw_only=True):
    seeds: tuple[Shown, ...]
    """Shares of seeds of neighbours that survived."""
    masks: tuple[Shown, ...]
    """Shares of mask keys of those that did not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _rising("those whose shares are shown", [s.of for s in self.seeds])
        _rising("those whose shares are shown", [s.of for s in self.masks])


AnyFromOwner = Advert | Dealt | Upload | Agreement | Reveal


class Signed(Message, frozen=True, kw_only=True):
    body: AnyFromOwner
    signature: bytes

    def __post_init__(self) -> None:
        _sized("a signature", self.signature, 64)


class Roster(Message, frozen=True, kw_only=True):
    terms: Digest
    adverts: tuple[Signed, ...]
    beacon: Digest
    """A hash that was not known when the adverts came, such as that of a block: it decides who is whose neighbour."""


class Delivery(Message, frozen=True, kw_only=True):
    """To one owner."""

    terms: Digest
    shares: tuple[tuple[U32, Share], ...]
    """By dealer."""


class Survivors(Message, frozen=True, kw_only=True):
    terms: Digest
    uploads: tuple[Signed, ...]


class Order(Message, frozen=True, kw_only=True):
    terms: Digest
    agreements: tuple[Signed, ...]


AnyFromCoordinator = Roster | Delivery | Survivors | Order


class Secret(Message, frozen=True, kw_only=True):
    of: U32
    secret: bytes

    def __post_init__(self) -> None:
        _sized("a secret", self.secret)


class Record(Message, frozen=True, kw_only=True):
    """A round as it went. With the masked rows, which their roots name, anybody computes the sum (record.check)."""

    terms: Terms
    roster: Roster
    survivors: Survivors
    agreements: tuple[Signed, ...]
    seeds: tuple[Secret, ...]
    """Of the survivors' own masks."""
    masks: tuple[Secret, ...]
    """Mask keys of those who dealt and sent no update that counts."""
    total: Digest
    """Tensor root of the sum."""


def identity_of(peer: PeerId) -> bytes:
    """The Ed25519 key that a peer id names: the last 32 bytes of its identity multihash (libp2p specs, peer-ids)."""
    try:
        return base58.b58decode(peer)[-32:]
    except ValueError:
        return b""


def sign(body: AnyFromOwner, identity: bytes) -> Signed:
    """`identity` is an Ed25519 seed of 32 bytes."""
    return Signed(body=body, signature=Ed25519PrivateKey.from_private_bytes(identity).sign(_signed(body)))


def _signed(body: AnyFromOwner) -> bytes:
    return b"assay-federated/1\x00" + digest(body)


def opened(signed: Signed, terms: Terms, name: Digest, kind: type[T]) -> T:
    """The body of a message of this kind in this round by the owner that it names. Raises Refused."""
    body = signed.body
    if not isinstance(body, kind):
        raise Refused(f"{type(body).__name__} where {kind.__name__} is due")
    if body.terms != name:
        raise Refused("a message of another round")
    if body.owner >= len(terms.owners):
        raise Refused(f"there is no owner {body.owner}")
    try:
        Ed25519PublicKey.from_public_bytes(terms.owners[body.owner]).verify(signed.signature, _signed(signed.body))
    except (InvalidSignature, ValueError):
        raise Refused(f"the signature is not that of owner {body.owner}") from None
    return body


def all_opened(signed: Sequence[Signed], terms: Terms, name: Digest, kind: type[T]) -> dict[int, T]:
    """Several, by owner, in order and each once. Raises Refused."""
    out: dict[int, T] = {}
    for one in signed:
        body = opened(one, terms, name, kind)
        if out and body.owner <= max(out):
            raise Refused(f"{kind.__name__} of owner {body.owner} is out of order")
        out[body.owner] = body
    return out
