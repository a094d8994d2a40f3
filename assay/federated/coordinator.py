"""The coordinator's side of a round, as a pure machine: it passes messages on, adds masked rows up, and takes the masks off the sum.

    ADVERTS --close--> DEALING --close--> UPLOADS --close--> AGREEING --close--> REVEALING --close--> DONE

`take` is called with each message of an owner's, `close` when all have come (`waiting` is empty) or the time of the phase is over: whoever is
missing then is gone from the round. It never sees an update, and whoever has the record and the rows needs no trust in it.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from assay.codec import digest
from assay.federated import ring, sharing
from assay.federated.client import OutOfTurn
from assay.federated.messages import (
    Advert,
    Agreement,
    AnyFromCoordinator,
    AnyFromOwner,
    Dealt,
    Delivery,
    Order,
    Record,
    Refused,
    Reveal,
    Roster,
    Secret,
    Signed,
    Survivors,
    Terms,
    Upload,
    opened,
)
from assay.federated.record import around, unmask
from assay.federated.ring import Row
from assay.ids import Digest

T = TypeVar("T", Advert, Upload)


class Phase(enum.Enum):
    ADVERTS = "adverts"
    DEALING = "dealing"
    UPLOADS = "uploads"
    AGREEING = "agreeing"
    REVEALING = "revealing"
    DONE = "done"


DUE: dict[Phase, type[AnyFromOwner]] = {
    Phase.ADVERTS: Advert,
    Phase.DEALING: Dealt,
    Phase.UPLOADS: Upload,
    Phase.AGREEING: Agreement,
    Phase.REVEALING: Reveal,
}


class Lost(RuntimeError):
    """A round that has no sum. `faulty` are owners whose own messages contradict each other: the next round leaves them out."""

    def __init__(self, why: str, faulty: tuple[int, ...] = ()) -> None:
        super().__init__(why)
        self.faulty = faulty


class Coordinator:
    """One round. Messages come in any order within a phase."""

    def __init__(self, terms: Terms) -> None:
        self.terms, self.name, self.phase = terms, digest(terms), Phase.ADVERTS
        self.total: Row = np.zeros(terms.length, ring.SIGNED[terms.bits])
        """The sum: of masked rows until the round is done."""
        self.record: Record | None = None
        self.near: dict[int, tuple[int, ...]] = {}
        """The neighbours of each member."""
        self._signed: dict[Phase, dict[int, Signed]] = {phase: {} for phase in DUE}
        self._roster: Roster | None = None
        self._survivors: Survivors | None = None
        self._shares: dict[tuple[str, int], dict[int, bytes]] = {}
        """(which secret, whose) -> shares by place."""

    # ---- what came ---------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> set[int]:
        """Who may still send something in this phase."""
        order = list(DUE)
        if self.phase is Phase.DONE:
            return set()
        at = order.index(self.phase)
        return (set(self._signed[order[at - 1]]) if at else set(range(len(self.terms.owners)))) - set(self._signed[self.phase])

    def take(self, signed: Signed, row: Row | None = None) -> None:
        """A message of an owner's; an upload brings its masked row. Raises Refused (the owner's fault), OutOfTurn."""
        if self.phase is Phase.DONE:
            raise OutOfTurn("the round is over")
        body = opened(signed, self.terms, self.name, DUE[self.phase])
        if body.owner not in self.waiting:
            raise Refused(f"nothing is due from owner {body.owner}")
        if isinstance(body, Advert) and not (ring.usable(body.seal) and ring.usable(body.mask)):
            raise Refused(f"owner {body.owner} advertises a key that agrees on nothing")
        if isinstance(body, Dealt):
            self._take_dealt(body)
        elif isinstance(body, Upload):
            self._take_upload(body, row)
        elif isinstance(body, Agreement) and body.survivors != digest(self._survivors):
            raise Refused(f"owner {body.owner} agrees to other survivors")
        elif isinstance(body, Reveal):
            self._take_reveal(body)
        self._signed[self.phase][body.owner] = signed

    def _take_dealt(self, body: Dealt) -> None:
        if tuple(share.to for share in body.shares) != self.near[body.owner]:
            raise Refused(f"owner {body.owner} has not dealt a share to each of its neighbours")

    def _take_upload(self, body: Upload, row: Row | None) -> None:
        if body.partners != self._partners(body.owner):
            raise Refused(f"owner {body.owner} has masks with others than was delivered to it")
        if row is None or row.shape != self.total.shape or row.dtype != self.total.dtype or ring.row_root(row) != body.row:
            raise Refused(f"the row of owner {body.owner} is not the one that it signed for")
        ring.add_row(self.total, row)

    def _take_reveal(self, body: Reveal) -> None:
        survivors = self._signed[Phase.UPLOADS]
        shown = [("seed", one) for one in body.seeds] + [("mask", one) for one in body.masks]
        for which, one in shown:
            if body.owner not in self.near.get(one.of, ()) or (one.of in survivors) != (which == "seed") or one.of not in self._signed[Phase.DEALING]:
                raise Refused(f"owner {body.owner} shows a share that nobody asked for")
            place = self.near[one.of].index(body.owner)
            dealt = self._dealt(one.of).shares[place]
            if hashlib.sha256(one.share).digest() != (dealt.seed if which == "seed" else dealt.mask):
                raise Refused(f"owner {body.owner} shows another share than owner {one.of} dealt to it")
        for which, one in shown:
            self._shares.setdefault((which, one.of), {})[self.near[one.of].index(body.owner) + 1] = one.share

    def _dealt(self, owner: int) -> Dealt:
        body = self._signed[Phase.DEALING][owner].body
        assert isinstance(body, Dealt)
        return body

    def _partners(self, owner: int) -> tuple[int, ...]:
        return tuple(other for other in self.near[owner] if other in self._signed[Phase.DEALING])

    # ---- the end of a phase ------------------------------------------------------------------------------------------------

    def close(self, beacon: Digest | None = None) -> dict[int, AnyFromCoordinator]:
        """Ends the phase: what to send to whom. `beacon` is wanted at the end of ADVERTS. Raises Lost, and the round is over, when too few are
        left."""
        if self.phase is Phase.DONE:
            raise OutOfTurn("the round is over")
        came = self._signed[self.phase]
        if len(came) < self.terms.minimum and self.phase is not Phase.REVEALING:
            raise self._lost(f"only {len(came)} of at least {self.terms.minimum} owners sent their {DUE[self.phase].__name__}")
        signed = tuple(came[owner] for owner in sorted(came))
        match self.phase:
            case Phase.ADVERTS:
                if beacon is None:
                    raise OutOfTurn("the roster wants a beacon")
                self._roster = Roster(terms=self.name, adverts=signed, beacon=beacon)
                self.near = around(self.terms, self._roster)
                self.phase = Phase.DEALING
                return dict.fromkeys(came, self._roster)
            case Phase.DEALING:
                self.phase = Phase.UPLOADS
                return {owner: self._delivery(owner) for owner in came}
            case Phase.UPLOADS:
                self._survivors = Survivors(terms=self.name, uploads=signed)
                self.phase = Phase.AGREEING
                return dict.fromkeys(came, self._survivors)
            case Phase.AGREEING:
                self.phase = Phase.REVEALING
                return dict.fromkeys(came, Order(terms=self.name, agreements=signed))
            case _:
                self._finish()
                return {}

    def _lost(self, why: str, faulty: tuple[int, ...] = ()) -> Lost:
        self.phase = Phase.DONE
        return Lost(why, faulty)

    def _delivery(self, owner: int) -> Delivery:
        shares = tuple((dealer, self._dealt(dealer).shares[self.near[dealer].index(owner)]) for dealer in self._partners(owner))
        return Delivery(terms=self.name, shares=shares)

    def _finish(self) -> None:
        uploads = _bodies(self._signed[Phase.UPLOADS], Upload)
        adverts = _bodies(self._signed[Phase.ADVERTS], Advert)
        gone = sorted({partner for upload in uploads.values() for partner in upload.partners} - uploads.keys())
        seeds = {owner: self._secret("seed", owner) for owner in uploads}
        masks = {owner: self._secret("mask", owner) for owner in gone}
        false = [o for o, seed in seeds.items() if seed is None or hashlib.sha256(seed).digest() != uploads[o].seed]
        false += [o for o, key in masks.items() if key is None or ring.public(key) != adverts[o].mask]
        if false:
            raise self._lost(f"owners {false} dealt shares of other secrets than they committed to", tuple(false))
        right = {o: s for o, s in seeds.items() if s is not None}, {o: s for o, s in masks.items() if s is not None}
        unmask(self.total, self.terms, self.name, adverts, uploads, *right)
        assert self._roster is not None
        assert self._survivors is not None
        agreements = self._signed[Phase.AGREEING]
        self.record = Record(
            terms=self.terms,
            roster=self._roster,
            survivors=self._survivors,
            agreements=tuple(agreements[owner] for owner in sorted(agreements)),
            seeds=_secrets(right[0]),
            masks=_secrets(right[1]),
            total=ring.row_root(self.total),
        )
        self.phase = Phase.DONE

    def _secret(self, which: str, owner: int) -> bytes | None:
        shares = self._shares.get((which, owner), {})
        if len(shares) < self.terms.threshold:
            raise self._lost(f"{len(shares)} of {self.terms.threshold} shares of the {which} of owner {owner} came: too many neighbours are gone")
        return sharing.join(dict(sorted(shares.items())[: self.terms.threshold]))


def _bodies(signed: Mapping[int, Signed], kind: type[T]) -> dict[int, T]:
    return {owner: one.body for owner, one in sorted(signed.items()) if isinstance(one.body, kind)}


def _secrets(secrets: Mapping[int, bytes]) -> tuple[Secret, ...]:
    return tuple(Secret(of=owner, secret=secret) for owner, secret in sorted(secrets.items()))
