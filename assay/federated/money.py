"""Pay for federated rounds: what a host posts, what owners sign, and what shows a false sum (contracts/src/Federated.sol).

An owner's row as it is sent holds its own mask and those that it shares with its neighbours. When it is agreed who survived, everybody takes
off what will be shown anyway: its own mask, and those that it shares with owners who are gone. What is left ("peeled") is still masked by those that
two survivors share, which cancel out: peeled rows add up, modulo 2^32 or 2^64, to the sum of the updates, number by number. An owner signs
the root of its peeled row. One chunk of each row then shows on chain that a total is false, and there is no way to show it of a true one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from msgspec import UnsetType

from assay import merkle
from assay.codec import Message, digest
from assay.exact.hashing import CHUNK
from assay.federated import ring
from assay.federated.messages import Advert, Agreement, Record, Refused, Terms, Upload, all_opened
from assay.federated.record import peel
from assay.federated.ring import Row
from assay.ids import U32, U63, ZERO_ADDRESS, Address, Digest
from assay.worth.report import Worth

MOST_OWNERS = 256
"""Of a job on the chain, which has a bit for each in a word."""
MOST_CALLDATA = 100_000
"""Bytes: nodes pass on no transaction of more than 128 KiB."""
EQUAL, RECORDS, WORTH = range(3)
RULES = ("equal", "records", "worth")
ZEROS = Digest(bytes(32))


class FederatedTerms(Message, frozen=True, kw_only=True):
    """As contracts/src/types/FederatedTypes.sol has it, field by field."""

    job: Digest
    auditor: Address = ZERO_ADDRESS
    owners: tuple[Address, ...]
    """In the order of a round's terms."""
    shares: tuple[U32, ...]
    """Of a round's pay, in parts of their sum."""
    rule: U32
    worth: Digest = ZEROS
    """Digest of the valuation that the shares follow from."""
    rounds: U32
    minimum: U32
    bits: U32
    length: U63
    pay: U63
    """For a round, to all together, in the token's smallest unit."""
    bond: U63
    window: U32
    """Seconds in which a sum can be challenged."""
    deadline: U63
    """Seconds since 1970."""


class Sum(Message, frozen=True, kw_only=True):
    terms: Digest
    total: Digest
    rows: tuple[Digest, ...]
    """Of peeled rows, by owner; zeros: not counted."""


class Piece(Message, frozen=True, kw_only=True):
    chunk: bytes
    path: tuple[Digest, ...]


class Funded(Message, frozen=True, kw_only=True):
    """What an owner is told of the money: it looks it up itself."""

    number: U63
    """Of the job on the chain."""
    round: U32
    terms: FederatedTerms


class Stand(Message, frozen=True, kw_only=True):
    """A job as the contract has it."""

    terms: Digest
    """keccak256 on an EVM chain: see `Money.name`."""
    host: Address
    until: int
    closed: int
    settled: int
    broken: bool
    ended: bool
    held: int


class Money(Protocol):
    """The contract, for one account. Everything raises Outage, and Reverted for what the contract refuses."""

    account: Address

    async def post(self, terms: FederatedTerms) -> int: ...
    async def close(self, number: int, terms: FederatedTerms, sum: Sum, signatures: Sequence[bytes]) -> None: ...
    async def challenge(
        self, number: int, terms: FederatedTerms, round: int, sum: Sum, index: int, total: Piece, rows: Sequence[Piece]
    ) -> None: ...  # fmt: skip
    async def add(self, number: int, terms: FederatedTerms, round: int, sum: Sum, index: int, rows: Sequence[Piece]) -> None: ...
    async def object(self, number: int, terms: FederatedTerms, round: int, place: int) -> None: ...
    async def strike(self, number: int, terms: FederatedTerms, round: int, place: int) -> None: ...
    async def settle(self, number: int, terms: FederatedTerms, round: int) -> None: ...
    async def end(self, number: int, terms: FederatedTerms) -> None: ...
    async def withdraw(self) -> None: ...
    async def job(self, number: int) -> Stand: ...
    async def credit(self, who: Address) -> int: ...
    async def now(self) -> int: ...
    def name(self, terms: FederatedTerms) -> Digest:
        """What the contract keeps of the terms."""
        ...

    def sign(self, number: int, round: int, terms: Digest, place: int, row: Digest) -> bytes:
        """This account's word that the row is its own."""
        ...


# ---- the job -------------------------------------------------------------------------------------------------------------


def shares_of(rule: int, weights: Sequence[int], owners: Sequence[Address], worth: Worth | None = None) -> tuple[tuple[int, ...], Digest]:
    """Shares and the valuation's digest by a rule: all the same, as the updates weigh (`weights`: records), or as a valuation parts. Raises
    ValueError for a valuation of other owners, or one whose numbers do not follow from its coalitions (report.Disagrees)."""
    if rule != WORTH:
        return tuple(1 for _ in owners) if rule == EQUAL else tuple(weights), ZEROS
    from assay.worth import report

    if worth is None or worth.owners != tuple(owners):
        raise ValueError("the valuation is of other owners, or of the same in another order")
    report.check(worth)
    return worth.shares, digest(worth)


def need_funded(funded: Funded, stand: Stand, name: Digest, terms: Terms, place: int, account: Address, least: int = 0) -> None:
    """That what an owner is told of the money is what the contract holds, and is for this job, this owner, a round to come, and at least so
    much. Raises Refused."""
    t = funded.terms
    if stand.terms != name or stand.broken or stand.ended:
        raise Refused(f"job {funded.number} on the chain has other terms, or is over")
    if t.job != terms.job or (t.bits, t.length) != (terms.bits, terms.length) or len(t.owners) != len(terms.owners):
        raise Refused(f"job {funded.number} on the chain is for another training")
    if not stand.closed <= funded.round < t.rounds or t.owners[place] != account:
        raise Refused(f"job {funded.number} on the chain is at another round, or does not name {account} in its place")
    if (share := t.pay * t.shares[place] // sum(t.shares)) < least:
        raise Refused(f"job {funded.number} on the chain pays {account} {share} a round, less than {least}")


# ---- rows ----------------------------------------------------------------------------------------------------------------


def peeled(record: Record, row: Callable[[int], Row]) -> dict[int, Row]:
    """The peeled row of every survivor, from what a round leaves behind (a record that `record.check` has taken)."""
    terms, name = record.terms, digest(record.terms)
    adverts = all_opened(record.roster.adverts, terms, name, Advert)
    uploads = all_opened(record.survivors.uploads, terms, name, Upload)
    seeds = {one.of: one.secret for one in record.seeds}
    masks = {one.of: one.secret for one in record.masks}
    out = {}
    for owner, upload in uploads.items():
        out[owner] = row(owner).copy()
        peel(out[owner], name, owner, adverts[owner], upload, uploads.keys(), seeds[owner], masks)
    return out


def sum_of(record: Record, rows: dict[int, Row]) -> tuple[Sum, list[bytes]]:
    """What the host puts on chain, and the owners' signatures; `rows` are the peeled ones. Raises Refused, which names an owner who has not
    signed its row, or has signed another."""
    terms, name = record.terms, digest(record.terms)
    said = all_opened(record.agreements, terms, name, Agreement)
    roots, signatures = [ZEROS] * len(terms.owners), [b""] * len(terms.owners)
    for owner, row in rows.items():
        roots[owner] = ring.row_root(row)
        agreed = said.get(owner)
        if agreed is None or isinstance(agreed.pledge, UnsetType):
            raise Refused(f"owner {owner} is in the sum and has not signed its row")
        if agreed.row != roots[owner]:
            raise Refused(f"owner {owner} has signed another row than it sent")
        signatures[owner] = agreed.pledge
    return Sum(terms=name, total=record.total, rows=tuple(roots)), signatures


def first_wrong(total: Row, rows: Sequence[Row]) -> int | None:
    """The first number of a total that is not the sum of the rows' (of which there is at least one)."""
    found = np.zeros_like(total)
    for row in rows:
        ring.add_row(found, row)
    differ = np.flatnonzero(found != total)
    return int(differ[0]) if differ.size else None


class Fault(NamedTuple):
    """What shows on the chain that a total is false."""

    number: int
    total: Piece
    rows: tuple[Piece, ...]
    """Of the peeled rows that are counted, in the order of their owners."""


def fault(said: Sum, total: Row, rows: dict[int, Row]) -> Fault | None:
    """The first number in which a sum on the chain is not that of its peeled rows; None: all of them add up. Raises Refused for a total or rows that
    are not those of the sum, with which nothing could be shown."""
    if tuple(ring.row_root(rows[i]) if i in rows else ZEROS for i in range(len(said.rows))) != said.rows:
        raise Refused("the rows are not those that the owners signed for")
    if ring.row_root(total) != said.total:
        raise Refused("these are not the numbers of the total on the chain")
    order = sorted(rows)
    index = first_wrong(total, [rows[i] for i in order])
    return None if index is None else Fault(index, piece(total, index), tuple(piece(rows[i], index) for i in order))


def parts(found: Fault, owners: int) -> list[tuple[Piece, ...]]:
    """The rows of a fault, so many at a time as a transaction holds; the last go with the challenge."""
    each = 32 * (len(found.total.path) + 6) + CHUNK
    many = max(1, (MOST_CALLDATA - 96 * owners) // each - 1)  # owner, share and root of each; and the total's piece
    return [found.rows[i : i + many] for i in range(0, len(found.rows), many)]


def piece(row: Row, index: int) -> Piece:
    """The chunk with a number of a row, and its path."""
    raw = row.tobytes()
    chunks = [raw[i : i + CHUNK].ljust(CHUNK, b"\0") for i in range(0, len(raw), CHUNK)]
    place = index * row.dtype.itemsize // CHUNK
    return Piece(chunk=chunks[place], path=merkle.prove([merkle.leaf(i, chunk) for i, chunk in enumerate(chunks)], place))
