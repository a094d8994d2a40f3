"""Seats and stake as the events leave them: who sat where at the end of a block, and how much of an account's stake is free.

Free stake decides who can be drawn. It follows from events: deposits and withdrawals, seats, and what segments reserve and give back,
which the books tell (`reserve`, `release`), since Stakes has no event for it.
"""

from __future__ import annotations

from collections import defaultdict

from assay import chain
from assay.chain import AnyChainEvent
from assay.ids import Address, SegmentId


class StakeBook:
    """`seat_stake` is what a seat reserves."""

    def __init__(self, seat_stake: int) -> None:
        self.seat_stake = seat_stake
        self.stake: dict[Address, int] = defaultdict(int)
        self.unbonding: dict[Address, int] = defaultdict(int)
        self.reserved: dict[Address, int] = defaultdict(int)
        self.reservations: dict[tuple[Address, SegmentId], int] = {}
        self.registered: set[Address] = set()
        self._slots: list[tuple[int, Address]] = []
        """(seat, holder) of each slot."""
        self._wanted: set[int] = set()
        """Blocks whose end is waited for."""
        self._seats: dict[int, tuple[Address, ...]] = {}

    def want(self, block: int) -> None:
        """The seats at the end of this block, the one that is being read, will be asked for."""
        self._wanted.add(block)

    def seats(self, block: int) -> tuple[Address, ...]:
        """Holders by slot at the end of a block that was wanted."""
        return self._seats[block]

    def seated(self, who: Address) -> bool:
        """Whether it holds a seat now."""
        return any(holder == who for _, holder in self._slots)

    def free(self, who: Address) -> int:
        return self.stake[who] - self.reserved[who] - self.unbonding[who]

    def pass_to(self, block: int) -> None:
        """All events of the blocks before this one have been read."""
        for past in [wanted for wanted in self._wanted if wanted < block]:
            self._wanted.remove(past)
            self._seats[past] = tuple(holder for _, holder in self._slots)

    def apply(self, event: AnyChainEvent) -> None:
        match event:
            case chain.Registered():
                self.registered.add(event.who)
            case chain.Deposited():
                self.stake[event.who] += event.amount
            case chain.Unbonding():
                self.unbonding[event.who] += event.amount
            case chain.StakeWithdrawn():
                self.unbonding[event.who] -= event.amount
                self.stake[event.who] -= event.amount
            case chain.SeatTaken():
                self._slots.append((event.seat, event.who))
                self.reserved[event.who] += self.seat_stake
            case chain.SeatLeft():
                self._leave(event.seat)
                self.reserved[event.who] -= self.seat_stake
            case chain.FeeCharged() | chain.Slashed():
                self.release(event.who, event.segment, event.amount)
                self.stake[event.who] -= event.amount
            case _:
                pass

    def _leave(self, seat: int) -> None:
        """The last seat moves into the slot that is left."""
        slot = next((i for i, (there, _) in enumerate(self._slots) if there == seat), None)
        if slot is not None:
            last = self._slots.pop()
            if slot < len(self._slots):
                self._slots[slot] = last

    # ---- what segments reserve -------------------------------------------------------------------------------------------

    def reservation(self, who: Address, segment: SegmentId) -> int:
        return self.reservations.get((who, segment), 0)

    def reserve(self, who: Address, segment: SegmentId, amount: int) -> None:
        self.reserved[who] += amount
        self.reservations[who, segment] = self.reservation(who, segment) + amount

    def release(self, who: Address, segment: SegmentId, amount: int | None = None) -> None:
        """At most `amount`, or all of it."""
        there = self.reservation(who, segment)
        moved = there if amount is None else min(amount, there)
        self.reserved[who] -= moved
        self.reservations[who, segment] = there - moved
