"""Which offer to take. The contract lets a scheduler choose among signed offers under the job's cap and nothing else.

Order: fewest recent failures first, then those who were not much slower than others at the same job, then the price, then whether the hardware
is proven (before the price, where the scheduler prefers that: `prefers_proven`), then the claimed speed. A provider whose work was withheld is
not asked again; one whose lease lapsed, or whose verifiers got no keys, is asked last.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from assay.chain import Offer

SLOW = 200
"""Percent of the others' time for a step, from which a provider is a straggler."""


class Bid(msgspec.Struct, frozen=True):
    """An offer that its provider really signed."""

    offer: Offer
    signature: bytes
    steps_per_second_milli: int
    proven: bool = False
    """Whether its provider's last proof of hardware is good and not old (assay.proving)."""


class Record(msgspec.Struct):
    """What became of a provider's segments, as this scheduler saw it."""

    settled: int = 0
    lapsed: int = 0
    withheld: int = 0
    keyless: int = 0
    """Committed, and the verifiers got no keys: the key service's doing, or its own (a checkpoint whose key nobody can open)."""
    slowness: int = 0
    """Percent of what a step of the same job took others, over its last segments; 0 before there is anything to compare."""

    def measured(self, percent: int) -> None:
        self.slowness = (3 * self.slowness + percent) // 4 if self.slowness else percent


def rank(bids: Sequence[Bid], records: dict[str, Record], cap: int, now: int, prefers_proven: bool = False) -> list[Bid]:
    """The bids worth taking, best first. `cap` is for the whole range; bids that expire before `now` are left out."""

    def badness(bid: Bid) -> tuple[int, bool, bool, int, bool, int, int]:
        record = records.get(bid.offer.provider, Record())
        failures = max(0, record.lapsed * 2 + record.keyless - record.settled)
        slow, claimed = record.slowness >= SLOW, not bid.proven
        return (failures, slow, prefers_proven and claimed, bid.offer.price, claimed, -bid.steps_per_second_milli, bid.offer.nonce)

    usable = [
        bid
        for bid in bids
        if bid.offer.price <= cap and bid.offer.expires > now and records.get(bid.offer.provider, Record()).withheld == 0
    ]
    return sorted(usable, key=badness)
