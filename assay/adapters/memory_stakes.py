"""The token and the `Stakes` contract in Python: balances, collateral, reservations, seats. docs/protocol.md has the rules.

Every rule checks all that it needs before it changes anything, so a refused call leaves no trace, as on the EVM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from assay.chain import ChainEvent, Deposited, FeeCharged, Registered, SeatLeft, SeatTaken
from assay.ids import Address, Digest, PeerId, SegmentId
from assay.merkle import sha256
from assay.ports import Reverted

E = TypeVar("E", bound=ChainEvent)


def pseudo_address(name: str) -> Address:
    """An address that follows from a name (memory ledger only)."""
    return Address("0x" + sha256(b"assay memory address", name.encode())[:20].hex())


JOBS = pseudo_address("jobs")
STAKES = pseudo_address("stakes")
BURN = Address("0x000000000000000000000000000000000000dead")


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise Reverted(reason)


@dataclass(slots=True)
class Context:
    """What a contract knows of the block that it runs in."""

    chain_id: int
    number: int
    time: int
    block_hash: Callable[[int], Digest]
    events: list[ChainEvent] = field(default_factory=list)
    """Of the pending block, in order."""

    def emit(self, kind: Callable[..., E], **fields: object) -> None:
        self.events.append(kind(block=self.number, time=self.time, index=len(self.events), **fields))


class Token:
    def __init__(self) -> None:
        self.balance: dict[Address, int] = {}

    def mint(self, to: Address, amount: int) -> None:
        self.balance[to] = self.balance.get(to, 0) + amount

    def check(self, payer: Address, amount: int) -> None:
        have = self.balance.get(payer, 0)
        require(have >= amount, f"insufficient balance: {payer} has {have}, needs {amount}")

    def move(self, payer: Address, to: Address, amount: int) -> None:
        self.check(payer, amount)
        self.balance[payer] = self.balance.get(payer, 0) - amount
        self.balance[to] = self.balance.get(to, 0) + amount


@dataclass(slots=True)
class Stake:
    total: int = 0
    reserved: int = 0
    unbonding: int = 0
    """Part of `total` that is on its way out."""
    unbonds_at: int = 0
    seats: int = 0

    @property
    def free(self) -> int:
        return self.total - self.reserved - self.unbonding


@dataclass(slots=True)
class Seat:
    holder: Address
    left: int = 0
    """Block in which it was given up; 0 while it is held."""


class Stakes:
    def __init__(self, token: Token, seat_stake: int, unbond_delay: int) -> None:
        self.token = token
        self.seat_stake = seat_stake
        self.unbond_delay = unbond_delay
        self.of: dict[Address, Stake] = {}
        self.seats: list[Seat] = []
        self.registered: dict[Address, tuple[bytes, PeerId]] = {}

    def stake(self, who: Address) -> Stake:
        found = self.of.get(who)
        if found is None:
            found = self.of[who] = Stake()
        return found

    def register(self, ctx: Context, who: Address, encryption_key: bytes, peer: PeerId) -> None:
        require(len(encryption_key) == 32, "the encryption key must have 32 bytes")
        require(0 < len(peer) <= 128, "the peer id must have 1 to 128 characters")
        self.registered[who] = (encryption_key, peer)
        ctx.emit(Registered, who=who, encryption_key=encryption_key, peer=peer)

    def deposit(self, ctx: Context, who: Address, amount: int) -> None:
        require(amount > 0, "the amount is zero")
        self.token.move(who, STAKES, amount)
        self.stake(who).total += amount
        ctx.emit(Deposited, who=who, amount=amount)

    def take_seat(self, ctx: Context, who: Address) -> None:
        stake = self.stake(who)
        need = self.seat_stake * (stake.seats + 1)
        require(stake.total - stake.unbonding >= need, f"stake too small for a seat: {need} needed")
        stake.seats += 1
        self.seats.append(Seat(who))
        ctx.emit(SeatTaken, who=who, seat=len(self.seats) - 1)

    def leave_seat(self, ctx: Context, who: Address, seat: int) -> None:
        require(0 <= seat < len(self.seats), f"no seat {seat}")
        found = self.seats[seat]
        require(found.holder == who, f"seat {seat} is not yours")
        require(found.left == 0, f"seat {seat} was left before")
        found.left = ctx.number
        self.stake(who).seats -= 1
        ctx.emit(SeatLeft, who=who, seat=seat)

    def unbond(self, ctx: Context, who: Address, amount: int) -> None:
        stake = self.stake(who)
        require(amount > 0, "the amount is zero")
        require(stake.free >= amount, f"free stake too small: {stake.free} of {amount}")
        left = stake.total - stake.unbonding - amount
        require(left >= self.seat_stake * stake.seats, "leave your seats first")
        stake.unbonding += amount
        stake.unbonds_at = ctx.time + self.unbond_delay

    def withdraw(self, ctx: Context, who: Address) -> None:
        stake = self.stake(who)
        require(stake.unbonding > 0, "nothing to withdraw")
        require(ctx.time >= stake.unbonds_at, f"unbonding until {stake.unbonds_at}")
        amount, stake.unbonding = stake.unbonding, 0
        stake.total -= amount
        self.token.move(STAKES, who, amount)

    # ---- for Jobs only

    def check_free(self, who: Address, amount: int) -> None:
        free = self.stake(who).free
        require(free >= amount, f"free stake too small: {who} has {free}, needs {amount}")

    def reserve(self, who: Address, amount: int) -> None:
        self.check_free(who, amount)
        self.stake(who).reserved += amount

    def release(self, who: Address, amount: int) -> None:
        self.stake(who).reserved -= amount

    def charge(self, ctx: Context, who: Address, segment: SegmentId, amount: int, reason: str) -> None:
        """Takes `amount` of what is reserved, to the Jobs contract."""
        if not amount:
            return
        stake = self.stake(who)
        stake.reserved -= amount
        stake.total -= amount
        self.token.move(STAKES, JOBS, amount)
        ctx.emit(FeeCharged, who=who, segment=segment, amount=amount, reason=reason)
