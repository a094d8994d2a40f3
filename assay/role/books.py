"""A node's books: what the chain has credited to it and taken from it, by day, and how its segments ended.

They are a fold over final chain events, like the facts (assay.facts), and stay small however long a node runs: the last days, the last
entries, and counts. A day is one of UTC, by the chain's clock.

    credits  settlements, fees for checks, bounties, what a dispute pays (the bond that was locked for it among it)
    losses   late fees, no-show fees, slashes, the bonds that are locked for disputes
"""

from __future__ import annotations

from typing import Any

import msgspec

from assay.chain import (
    AnyChainEvent,
    BountyPaid,
    Credited,
    DisputeCredited,
    DisputeSealed,
    Drawn,
    FeeCharged,
    Lapsed,
    NoShow,
    Rejected,
    Settled,
    Slashed,
    Unpaid,
    Voided,
    Withheld,
)
from assay.facts import Facts
from assay.ids import Address, SegmentId

DAY = 86_400
"""Seconds."""
DAYS = 400
ENTRIES = 64
"""That are kept."""
ENDS = (Settled, Lapsed, Withheld, Unpaid, Voided, Rejected)
BOOKED = frozenset({*ENDS, Credited, FeeCharged, Slashed, DisputeCredited, BountyPaid, DisputeSealed, Drawn, NoShow})


class Day(msgspec.Struct):
    """`day`: since 1970-01-01. Amounts in smallest units."""

    day: int
    earned: int = 0
    lost: int = 0


class Entry(msgspec.Struct, frozen=True):
    """Money that moved; lost when negative. `segment` is 0 where it was for a dispute, which `why` names."""

    time: int
    segment: SegmentId
    amount: int
    why: str


class Books(msgspec.Struct):
    days: list[Day] = []
    entries: list[Entry] = []
    ends: dict[str, int] = {}
    """How many segments that this node provided ended how."""
    drawn: int = 0
    """Draws of this node as a verifier."""
    absent: int = 0
    """Of these, those in which it did not show up."""

    def see(self, event: AnyChainEvent, who: Address, facts: Facts) -> None:
        """Takes one event in, which is about `who` or not."""
        if type(event) not in BOOKED:
            return
        match event:
            case Credited() if event.who == who:
                self._enter(event.time, event.segment, event.amount, event.reason)
            case FeeCharged() if event.who == who:
                self._enter(event.time, event.segment, -event.amount, event.reason)
            case Slashed() if event.who == who:
                self._enter(event.time, event.segment, -event.amount, "slashed")
            case DisputeCredited() if event.who == who:
                self._enter(event.time, SegmentId(0), event.amount, f"dispute {event.dispute} is paid")
            case BountyPaid() if event.provider == who:
                self._enter(event.time, event.segment, event.amount, f"bounty {event.bounty}")
            case DisputeSealed() if event.challenger == who:
                self._enter(event.time, SegmentId(0), -event.bond, f"bond for dispute {event.dispute}")
            case Drawn() if who in event.verifiers:
                self.drawn += 1
            case NoShow() if event.verifier == who:
                self.absent += 1
            case _ if isinstance(event, ENDS):
                segment = facts.segments.get(event.segment)
                if segment is not None and segment.provider == who:
                    end = type(event).__name__.lower()
                    self.ends[end] = self.ends.get(end, 0) + 1

    def _enter(self, time: int, segment: SegmentId, amount: int, why: str) -> None:
        if not amount:
            return
        self.entries = [*self.entries, Entry(time, segment, amount, why)][-ENTRIES:]
        if not self.days or self.days[-1].day < time // DAY:
            self.days = [*self.days, Day(time // DAY)][-DAYS:]
        self.days[-1].earned += max(0, amount)
        self.days[-1].lost += max(0, -amount)

    def summary(self) -> dict[str, Any]:
        """For `assay ROLE status`: newest entries first."""
        return {
            "days": [msgspec.structs.asdict(day) for day in self.days],
            "receipts": [msgspec.structs.asdict(entry) for entry in reversed(self.entries)],
            "ends": dict(self.ends),
            "drawn": self.drawn,
            "absent": self.absent,
        }
