"""Which offer to take. The contract lets a scheduler choose among signed offers under the job's cap and nothing else.

An offer that cannot come to anything is left out, with the reason: over the cap, expired, free stake below the bond, a provider whose work was
refuted more often than hardware fails. Of the others the one is taken that is expected to cost least. A score is in points, thousandths of the
range's cap, so that everything is weighed against the price; it is the sum of

    price      the offer's price, of the cap
    risk       chance that the range comes to nothing (the provider's last segments on chain, of any job) x LOST
    time       how much longer than the job's steps took others (measured on chain; else its proven rate beside the other offers') x SLOWER
    data       share of the job's sealed bytes that it does not hold, as far as the chain tells what it holds, x BRING
    memory     share of the job's state and frozen tensors that is over its proven memory x SHORT
    stake      bond over free stake, x THIN: who has little left is at its limit
    claimed    UNPROVEN where its hardware is not proven

What a provider only claims (its speed, its device) decides between equals. A score is told with its parts, so that a placement explains itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from assay.chain import Offer
from assay.ids import Address

LOST = 2000
"""A range that comes to nothing has taken its whole time, and its descendants', and is bought again."""
SLOWER = 5
"""For each percent of time: a provider that takes twice as long is worth half the cap less."""
BRING = 100
SHORT = 500
THIN = 50
UNPROVEN, PREFERRED = 20, 1000
PRIOR, PRIOR_LOST = 8, 1
"""Segments, and lost ones of them, that are added to everybody's record: who has none is taken for one that loses an eighth."""
KEPT = 64
"""Segments of a record that count for the chance; when there are as many, all that were before count half."""
FAULTS = 1000
"""Settled segments for each that was refuted, from which that is taken for a fault of the hardware (as a dispute pardons: docs/dispute.md)."""
SLOWEST = 400
"""Percent; who is slower is not told apart."""


class Bid(msgspec.Struct, frozen=True):
    """An offer that its provider really signed, and what was known of the provider when it came."""

    offer: Offer
    signature: bytes
    steps_per_second_milli: int
    proven: bool = False
    """Whether its provider's last proof of hardware is good and not old (assay.proving)."""
    memory: int = 0
    """Bytes that were proven."""
    rate: int = 0
    """Operations a second that were proven."""
    free: int = -1
    """Stake that is not reserved; -1: not known."""


class Record(msgspec.Struct):
    """What became of a provider's segments, by the chain."""

    settled: int = 0
    lapsed: int = 0
    withheld: int = 0
    """By verifiers, or in a dispute that it lost or conceded."""
    keyless: int = 0
    """Committed, and the verifiers got no keys: the key service's doing, or its own (a checkpoint whose key nobody can open)."""
    good: int = 0
    bad: int = 0
    """Of the last segments, in halves."""
    slowness: int = 0
    """Percent of what a step of the same job took others, over its last segments; 0 before there is anything to compare."""

    def measured(self, percent: int) -> None:
        self.slowness = (3 * self.slowness + percent) // 4 if self.slowness else percent

    def ended(self, good: int = 0, bad: int = 0) -> None:
        """A segment is over; in halves."""
        if self.good + self.bad >= 2 * KEPT:
            self.good, self.bad = self.good // 2, self.bad // 2
        self.good, self.bad = self.good + good, self.bad + bad

    @property
    def chance(self) -> int:
        """That its next segment comes to nothing, in thousandths."""
        return 1000 * (self.bad + 2 * PRIOR_LOST) // (self.good + self.bad + 2 * PRIOR)

    @property
    def refuted(self) -> bool:
        """More often than hardware fails."""
        return self.withheld * FAULTS > self.settled


class Wanted(NamedTuple):
    """What is to be placed."""

    cap: int
    """For the whole range."""
    now: int
    bond_tenths: int = 0
    bond_base: int = 0
    state: int = 0
    shared: int = 0
    """Bytes of the sealed state, and of all else that every provider of the job needs; 0 while they are not known."""
    frozen: int = 0
    """Bytes of `shared` that are held in memory."""
    parent: Address = Address("")
    """Who has committed the range's parent, and holds its end."""
    hands: Mapping[Address, int] = {}
    """Who has committed a segment of the job, and holds what is shared."""
    prefers_proven: bool = False
    listed: tuple[Address, ...] | None = None
    """Whom the client lets a scheduler take that goes on for a silent one; None: anybody."""

    def bond(self, offer: Offer) -> int:
        return offer.price * self.bond_tenths // 10 + self.bond_base


class Scored(NamedTuple):
    bid: Bid
    parts: dict[str, int]

    @property
    def points(self) -> int:
        return sum(self.parts.values())

    @property
    def why(self) -> str:
        """Its points and where they come from, largest first."""
        parts = sorted(self.parts.items(), key=lambda part: -abs(part[1]))
        return f"{self.points} points ({', '.join(f'{name} {points}' for name, points in parts if points) or 'free'})"


class Left(NamedTuple):
    """An offer that is not taken in any case."""

    bid: Bid
    why: str


def rank(bids: Sequence[Bid], records: Mapping[str, Record], wanted: Wanted) -> tuple[list[Scored], list[Left]]:
    """The bids worth taking, best first, and the others with the reason. Does not depend on the order of `bids`."""
    fit, left = [], []
    for bid in bids:
        why = _unfit(bid, records.get(bid.offer.provider, Record()), wanted)
        if why:
            left.append(Left(bid, why))
        else:
            fit.append(bid)
    rates = sorted(bid.rate for bid in fit if bid.rate)
    usual = rates[len(rates) // 2] if rates else 0
    scored = [Scored(bid, _parts(bid, records.get(bid.offer.provider, Record()), wanted, usual)) for bid in fit]
    scored.sort(key=lambda s: (s.points, s.bid.offer.price, -s.bid.steps_per_second_milli, s.bid.offer.nonce, s.bid.offer.provider))
    return scored, left


def _unfit(bid: Bid, record: Record, wanted: Wanted) -> str:
    if bid.offer.price > wanted.cap:
        return f"its price of {bid.offer.price} is over the cap of {wanted.cap}"
    if bid.offer.expires <= wanted.now:
        return "it has expired"
    if wanted.listed is not None and bid.offer.provider not in wanted.listed:
        return "the job's client has not listed it for when its scheduler is silent"
    if record.refuted:
        return f"{record.withheld} of its segments were refuted, and {record.settled} settled"
    if 0 <= bid.free < wanted.bond(bid.offer):
        return f"its free stake of {bid.free} does not cover the bond of {wanted.bond(bid.offer)}"
    return ""


def _parts(bid: Bid, record: Record, wanted: Wanted, usual: int) -> dict[str, int]:
    slowness = record.slowness or (100 * usual // bid.rate if bid.rate else 100)
    need, whole = wanted.state + wanted.frozen, wanted.state + wanted.shared
    missing = 0
    if bid.offer.provider != wanted.parent:
        missing = wanted.state if bid.offer.provider in wanted.hands else whole
    short = max(0, need - bid.memory) if bid.proven and bid.memory else 0
    return {
        "price": 1000 * bid.offer.price // max(1, wanted.cap),
        "risk": LOST * record.chance // 1000,
        "time": SLOWER * (min(slowness, SLOWEST) - 100),
        "data": BRING * missing // whole if whole else 0,
        "memory": SHORT * short // need if need else 0,
        "stake": THIN * wanted.bond(bid.offer) // bid.free if bid.free > 0 else 0,
        "claimed": 0 if bid.proven else PREFERRED if wanted.prefers_proven else UNPROVEN,
    }
