"""An owner's side of a round, as a pure machine: each message of the coordinator's gives the one to answer with.

    NEW --advert--> ADVERTISED --roster--> DEALT --delivery--> READY --upload--> UPLOADED --survivors--> AGREED --order--> REVEALED

Anything else, or anything twice, raises OutOfTurn. The coordinator is not trusted: it may lie about who takes part, who is gone, and what others
sent. What an owner never does is to show shares of both secrets of one neighbour, or to agree twice: either would take a mask off.

All secrets follow from 32 bytes that are used for one round; an owner that was restarted makes the same messages from them, but must not
send an update again that differs from the one it sent.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable
from typing import NoReturn

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from assay.codec import digest
from assay.federated import ring, sharing
from assay.federated.messages import (
    Advert,
    Agreement,
    Dealt,
    Delivery,
    Order,
    Refused,
    Reveal,
    Roster,
    Share,
    Shown,
    Signed,
    Survivors,
    Terms,
    Upload,
    all_opened,
    sign,
)
from assay.federated.record import Opening, around, need_bounds
from assay.federated.ring import Row, add_mask, agree, derive, pair_use, self_use
from assay.federated.sharing import SIZE
from assay.ids import Digest

_NONCE = bytes(12)
"""Each key seals one message."""


class Step(enum.Enum):
    NEW = "new"
    ADVERTISED = "advertised"
    DEALT = "dealt"
    READY = "ready"
    UPLOADED = "uploaded"
    AGREED = "agreed"
    REVEALED = "revealed"


TABLE: dict[tuple[Step, str], Step] = {
    (Step.NEW, "advert"): Step.ADVERTISED,
    (Step.ADVERTISED, "roster"): Step.DEALT,
    (Step.DEALT, "delivery"): Step.READY,
    (Step.READY, "upload"): Step.UPLOADED,
    (Step.UPLOADED, "survivors"): Step.AGREED,
    (Step.AGREED, "order"): Step.REVEALED,
}


class OutOfTurn(RuntimeError):
    """An event that the state does not take."""


def share_use(terms: Digest, dealer: int, to: int) -> bytes:
    """Names the key under which a dealer seals shares for a neighbour."""
    return b"assay/federated/share/1" + terms + dealer.to_bytes(4, "big") + to.to_bytes(4, "big")


class Client:
    """One owner in one round. `identity` is its Ed25519 seed, `secret` 32 random bytes for this round alone. Raises ValueError when the terms do
    not name it."""

    def __init__(self, terms: Terms, identity: bytes, secret: bytes) -> None:
        mine = Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()
        if mine not in terms.owners:
            raise ValueError("the terms of the round do not name this owner")
        self.terms, self.name, self.owner, self.step = terms, digest(terms), terms.owners.index(mine), Step.NEW
        self._identity = identity
        self._seal, self._mask, self._seed, self._salt, self._dealing = (
            derive(secret, b"assay/federated/" + use + self.name) for use in (b"seal", b"mask", b"seed", b"salt", b"deal")
        )
        self._adverts: dict[int, Advert] = {}
        self._near: tuple[int, ...] = ()
        self._partners: tuple[int, ...] = ()
        self._shares: dict[int, tuple[bytes, bytes]] = {}
        """What neighbours dealt to this owner: of their seed, of their mask key."""
        self._uploaded: Signed | None = None
        self._sent: Row | None = None
        self._survivors: tuple[int, ...] = ()
        self._agreed: Digest | None = None

    def _enter(self, event: str) -> None:
        after = TABLE.get((self.step, event))
        if after is None:
            raise OutOfTurn(f"{event} does not come when an owner is {self.step.value}")
        self.step = after

    def _refuse(self, why: str) -> NoReturn:
        raise Refused(f"owner {self.owner} takes no part any more: {why}")

    def advert(self) -> Signed:
        self._enter("advert")
        return sign(Advert(terms=self.name, owner=self.owner, seal=ring.public(self._seal), mask=ring.public(self._mask)), self._identity)

    def roster(self, roster: Roster) -> Signed:
        """Deals shares to the neighbours. Raises Refused."""
        self._enter("roster")
        if roster.terms != self.name:
            self._refuse("a roster of another round")
        self._adverts = all_opened(roster.adverts, self.terms, self.name, Advert)
        mine = self._adverts.get(self.owner)
        if len(self._adverts) < self.terms.minimum or mine is None or mine.mask != ring.public(self._mask) or mine.seal != ring.public(self._seal):
            self._refuse("the roster is too short, or has not this owner's keys")
        if not all(ring.usable(advert.seal) and ring.usable(advert.mask) for advert in self._adverts.values()):
            self._refuse("the roster has a key that agrees on nothing")
        self._near = around(self.terms, roster)[self.owner]
        if len(self._near) < self.terms.threshold:
            self._refuse(f"{len(self._near)} neighbours cannot hold a secret of threshold {self.terms.threshold}")
        split = [
            sharing.split(s, self.terms.threshold, len(self._near), derive(self._dealing, use)) for s, use in ((self._seed, b"s"), (self._mask, b"m"))
        ]
        dealt = tuple(self._deal(to, seed, mask) for to, seed, mask in zip(self._near, *split, strict=True))
        return sign(Dealt(terms=self.name, owner=self.owner, shares=dealt), self._identity)

    def _deal(self, to: int, seed: bytes, mask: bytes) -> Share:
        ids = Digest(hashlib.sha256(seed).digest()), Digest(hashlib.sha256(mask).digest())
        key = agree(self._seal, self._adverts[to].seal, share_use(self.name, self.owner, to))
        return Share(to=to, sealed=AESGCM(key).encrypt(_NONCE, seed + mask, ids[0] + ids[1]), seed=ids[0], mask=ids[1])

    def delivery(self, delivery: Delivery) -> None:
        """Takes what the neighbours dealt. Whose shares do not open stays a partner: without them the secrets must be put together by others.
        Raises Refused."""
        self._enter("delivery")
        dealers = tuple(dealer for dealer, _ in delivery.shares)
        if delivery.terms != self.name or dealers != tuple(sorted(set(dealers))) or not set(dealers) <= set(self._near):
            self._refuse("a delivery that is not of this round's neighbours")
        if len(dealers) < self.terms.threshold:
            self._refuse(f"only {len(dealers)} neighbours are left, fewer than the threshold of {self.terms.threshold}")
        for dealer, share in delivery.shares:
            plain = self._open(dealer, share)
            if plain is not None and [hashlib.sha256(part).digest() for part in plain] == [share.seed, share.mask]:
                self._shares[dealer] = plain
        self._partners = dealers

    def _open(self, dealer: int, share: Share) -> tuple[bytes, bytes] | None:
        key = agree(self._seal, self._adverts[dealer].seal, share_use(self.name, dealer, self.owner))
        try:
            plain = AESGCM(key).decrypt(_NONCE, share.sealed, share.seed + share.mask)
        except InvalidTag:
            return None
        return plain[:SIZE], plain[SIZE:]

    def upload(self, row: Row, trained: Digest) -> tuple[Signed, Row]:
        """The commitment, and the masked row to send with it. `row` is weight x rounded update, int32 or int64 [length]; `trained` the root that
        the owner's training ended in. Raises Refused when the row is not one that the terms allow."""
        if row.shape != (self.terms.length,) or row.dtype != ring.SIGNED[self.terms.bits]:
            raise Refused(f"a row of this round is int{self.terms.bits} [{self.terms.length}]")
        need_bounds(self.terms, self.owner, row)
        self._enter("upload")
        masked = row.copy()
        add_mask(masked, derive(self._seed, self_use(self.name, self.owner)), 1)
        for partner in self._partners:
            key = agree(self._mask, self._adverts[partner].mask, pair_use(self.name, self.owner, partner))
            add_mask(masked, key, 1 if self.owner < partner else -1)
        body = Upload(
            terms=self.name,
            owner=self.owner,
            partners=self._partners,
            row=ring.row_root(masked),
            seed=Digest(hashlib.sha256(self._seed).digest()),
            update=ring.hidden_root(row, self._salt),
            trained=trained,
        )
        self._uploaded, self._sent = sign(body, self._identity), masked
        return self._uploaded, masked

    def survivors(self, survivors: Survivors, pledge: Callable[[Digest], bytes] | None = None) -> Signed:
        """Agrees to who survived. `pledge` signs this owner's row for those who pay for it. Raises Refused."""
        self._enter("survivors")
        if survivors.terms != self.name:
            self._refuse("survivors of another round")
        uploads = all_opened(survivors.uploads, self.terms, self.name, Upload)
        if len(uploads) < self.terms.minimum or self._uploaded not in survivors.uploads:
            self._refuse("too few survive, or this owner's update is left out")
        for owner, upload in uploads.items():
            if (owner in self._partners) != (self.owner in upload.partners) and owner != self.owner:
                self._refuse(f"owner {owner} was told otherwise who its neighbours are")
        self._survivors, self._agreed = tuple(uploads), digest(survivors)
        said = Agreement(terms=self.name, owner=self.owner, survivors=self._agreed)
        if pledge is not None:
            row = self._peeled(uploads[self.owner])
            said = msgspec.structs.replace(said, row=row, pledge=pledge(row))
        return sign(said, self._identity)

    def _peeled(self, upload: Upload) -> Digest:
        """Root of the row that was sent, less this owner's own mask and those that it shares with owners who are gone."""
        assert self._sent is not None
        row = self._sent.copy()
        add_mask(row, derive(self._seed, self_use(self.name, self.owner)), -1)
        for gone in (partner for partner in upload.partners if partner not in self._survivors):
            key = agree(self._mask, self._adverts[gone].mask, pair_use(self.name, self.owner, gone))
            add_mask(row, key, -1 if self.owner < gone else 1)
        return ring.row_root(row)

    def order(self, order: Order) -> Signed:
        """Shows shares: of a survivor's seed, of the mask key of one that is gone, never both of one. Raises Refused."""
        self._enter("order")
        agreements = all_opened(order.agreements, self.terms, self.name, Agreement)
        if order.terms != self.name or len(agreements) < self.terms.minimum:
            self._refuse("too few agree on who survived")
        if any(a.survivors != self._agreed for a in agreements.values()) or not agreements.keys() <= set(self._survivors):
            self._refuse("others agreed to other survivors: the coordinator tells each what suits it")
        seeds = tuple(Shown(of=of, share=self._shares[of][0]) for of in sorted(self._shares) if of in self._survivors)
        masks = tuple(Shown(of=of, share=self._shares[of][1]) for of in sorted(self._shares) if of not in self._survivors)
        return sign(Reveal(terms=self.name, owner=self.owner, seeds=seeds, masks=masks), self._identity)

    def opening(self) -> Opening:
        """For an auditor that was drawn after the upload, and for nobody else: it shows this owner's update. Raises OutOfTurn before."""
        if self._uploaded is None:
            raise OutOfTurn("there is no update to show yet")
        return Opening(self.owner, self._seed, self._mask, self._salt)
