"""What a round leaves behind, and how anybody computes its sum again from the committed rows: no word of the coordinator's is taken."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from assay.codec import digest, encode
from assay.federated import ring
from assay.federated.graph import neighbours
from assay.federated.messages import Advert, Agreement, Record, Refused, Roster, Survivors, Terms, Upload, all_opened
from assay.federated.ring import Row, add_mask, add_row, agree, pair_use, row_root, self_use
from assay.ids import Digest


class Opening(NamedTuple):
    """What an owner gives to an auditor that was drawn to look at its update: enough to take the masks off its row, and off no other's."""

    owner: int
    seed: bytes
    mask: bytes
    """Its secret mask key."""
    salt: bytes
    """Of the commitment to its row in the clear."""


def circle_seed(roster: Roster) -> bytes:
    """Decides the order on the circle: nobody knows it before the adverts and the beacon are there."""
    return hashlib.sha256(b"assay/federated/circle/1" + roster.beacon + hashlib.sha256(encode(roster.adverts)).digest()).digest()


def around(terms: Terms, roster: Roster) -> dict[int, tuple[int, ...]]:
    """The neighbours of each member of a roster."""
    return neighbours([signed.body.owner for signed in roster.adverts], terms.degree, circle_seed(roster))


def unmask(
    total: Row,
    terms: Terms,
    name: Digest,
    adverts: Mapping[int, Advert],
    uploads: Mapping[int, Upload],
    seeds: Mapping[int, bytes],
    masks: Mapping[int, bytes],
) -> None:
    """Takes off the sum of the survivors' rows, in place, their own masks and those that they shared with the ones who are missing."""
    for owner, upload in uploads.items():
        peel(total, name, owner, adverts[owner], upload, uploads.keys(), seeds[owner], masks)


def peel(
    row: Row, name: Digest, owner: int, advert: Advert, upload: Upload, left: Collection[int], seed: bytes, masks: Mapping[int, bytes]
) -> None:  # fmt: skip
    """Takes off a row, or a sum that the row is in, in place, its owner's own mask and those shared with owners who are not `left`."""
    add_mask(row, ring.derive(seed, self_use(name, owner)), -1)
    for gone in (partner for partner in upload.partners if partner not in left):
        add_mask(row, agree(masks[gone], advert.mask, pair_use(name, owner, gone)), -1 if owner < gone else 1)


def check(record: Record, row: Callable[[int], Row]) -> Row:
    """The sum of a round, computed from the rows that its owners signed for; `row` gives an owner's masked row. Raises Refused when anything in
    the record is not signed by whom it concerns, does not fit together, or when the sum is another than the record says."""
    terms, name = record.terms, digest(record.terms)
    if record.roster.terms != name or record.survivors.terms != name:
        raise Refused("the record's parts are of different rounds")
    adverts = all_opened(record.roster.adverts, terms, name, Advert)
    uploads = all_opened(record.survivors.uploads, terms, name, Upload)
    agreements = all_opened(record.agreements, terms, name, Agreement)
    seeds = {one.of: one.secret for one in record.seeds}
    masks = {one.of: one.secret for one in record.masks}
    agreed = digest(record.survivors)
    if len(agreements) < terms.minimum or any(a.survivors != agreed for a in agreements.values()) or not agreements.keys() <= uploads.keys():
        raise Refused("not enough survivors agree on who survived")
    near = around(terms, record.roster)
    for owner, upload in uploads.items():
        if not set(upload.partners) <= set(near.get(owner, ())):
            raise Refused(f"owner {owner} has masks with some that are not its neighbours")
        if any(partner in uploads and owner not in uploads[partner].partners for partner in upload.partners):
            raise Refused(f"a mask of owner {owner} is in its row only")
        if hashlib.sha256(seeds.get(owner, b"")).digest() != upload.seed:
            raise Refused(f"the seed of owner {owner} is not the one that it committed to")
    gone = {partner for upload in uploads.values() for partner in upload.partners} - uploads.keys()
    for owner in gone:
        if owner not in masks or owner not in adverts or ring.public(masks[owner]) != adverts[owner].mask:
            raise Refused(f"the mask key of owner {owner} is not the one that it advertised")
    total: Row = np.zeros(terms.length, ring.SIGNED[terms.bits])
    for owner, upload in uploads.items():
        one = row(owner)
        if one.shape != total.shape or one.dtype != total.dtype or row_root(one) != upload.row:
            raise Refused(f"the row of owner {owner} is not the one that it signed for")
        add_row(total, one)
    unmask(total, terms, name, adverts, uploads, seeds, masks)
    if row_root(total) != record.total:
        raise Refused("the sum is not the one that the record names")
    return total


def look(record: Record, opening: Opening, row: Row) -> Row:
    """One owner's weighted update in the clear, from what it showed to an auditor. `row` is its masked row. Raises Refused when it is not what
    the owner committed to, or breaks the bounds of the terms: each a fault of the owner's."""
    terms, name = record.terms, digest(record.terms)
    adverts = all_opened(record.roster.adverts, terms, name, Advert)
    uploads = all_opened(record.survivors.uploads, terms, name, Upload)
    owner = opening.owner
    if owner not in uploads or row.shape != (terms.length,) or row.dtype != ring.SIGNED[terms.bits] or row_root(row) != uploads[owner].row:
        raise Refused(f"this is not the row of owner {owner}")
    if hashlib.sha256(opening.seed).digest() != uploads[owner].seed or ring.public(opening.mask) != adverts[owner].mask:
        raise Refused(f"owner {owner} shows other secrets than it committed to")
    clear = row.copy()
    add_mask(clear, ring.derive(opening.seed, self_use(name, owner)), -1)
    for partner in uploads[owner].partners:
        add_mask(clear, agree(opening.mask, adverts[partner].mask, pair_use(name, owner, partner)), -1 if owner < partner else 1)
    if ring.hidden_root(clear, opening.salt) != uploads[owner].update:
        raise Refused(f"under the masks of owner {owner} lies another update than it committed to")
    need_bounds(terms, owner, clear)
    return clear


def need_bounds(terms: Terms, owner: int, row: Row) -> None:
    """Raises Refused when a weighted row in the clear is not one that an honest owner sends."""
    weight = terms.weights[owner]
    most = weight * terms.limit
    if int(row.max()) > most or int(row.min()) < -most or (row % weight).any():
        raise Refused(f"the update of owner {owner} has numbers that are no multiples of its weight up to {most}")
    if terms.norm and not terms.noise and ring.square(row) > (weight * terms.norm) ** 2:
        raise Refused(f"the update of owner {owner} is longer than {terms.norm}")


__all__ = ["Opening", "Record", "Survivors", "around", "check", "circle_seed", "look", "need_bounds", "unmask"]
