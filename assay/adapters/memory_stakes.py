"""The token and the `Stakes` contract in Python: balances, collateral, reservations, seats. Rules and refusals are those of
contracts/src/Stakes.sol and docs/protocol.md.

Every rule checks all that it needs before it changes anything, so a refused call leaves no trace, as on the EVM.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from assay.adapters.refusals import refuse
from assay.chain import ChainEvent, Deposited, FeeCharged, Registered, SeatLeft, SeatTaken, StakeWithdrawn, Unbonding
from assay.ids import ZERO_ADDRESS, Address, Digest, PeerId, SegmentId
from assay.merkle import sha256

E = TypeVar("E", bound=ChainEvent)


def pseudo_address(name: str) -> Address:
    """An address that follows from a name (memory ledger only)."""
    return Address("0x" + sha256(b"assay memory address", name.encode())[:20].hex())


JOBS = pseudo_address("jobs")
STAKES = pseudo_address("stakes")
BURN = Address("0x000000000000000000000000000000000000dead")
MOST_PEER_BYTES = 128


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

    def need_before(self, time: int) -> None:
        """Before means up to and including."""
        if self.time > time:
            raise refuse("TooLate", notAfter=time, now_=self.time)

    def need_after(self, time: int) -> None:
        if self.time <= time:
            raise refuse("TooEarly", notBefore=time, now_=self.time)


class Token:
    """An ERC-20 without allowances: whoever may move money here has been asked."""

    def __init__(self) -> None:
        self.balance: dict[Address, int] = {}

    def mint(self, to: Address, amount: int) -> None:
        self.balance[to] = self.balance.get(to, 0) + amount

    def check(self, payer: Address, amount: int) -> None:
        have = self.balance.get(payer, 0)
        if have < amount:
            raise refuse("ERC20InsufficientBalance", sender=payer, balance=have, needed=amount)

    def move(self, payer: Address, to: Address, amount: int) -> None:
        self.check(payer, amount)
        self.balance[payer] = self.balance.get(payer, 0) - amount
        self.balance[to] = self.balance.get(to, 0) + amount


@dataclass(slots=True)
class Account:
    stake: int = 0
    reserved: int = 0
    unbonding: int = 0
    unbonded_at: int = 0
    registered: bool = False

    @property
    def free(self) -> int:
        return self.stake - self.reserved - self.unbonding


@dataclass(slots=True)
class History:
    """A value and the blocks in which it changed."""

    blocks: list[int] = field(default_factory=list)
    values: list[int | Address] = field(default_factory=list)

    def set(self, block: int, value: int | Address) -> None:
        if self.blocks and self.blocks[-1] == block:
            self.values[-1] = value
        else:
            self.blocks.append(block)
            self.values.append(value)

    def at(self, block: int) -> int | Address:
        """The value at the end of `block`; 0 before the first."""
        i = bisect.bisect_right(self.blocks, block)
        return self.values[i - 1] if i else 0


class Stakes:
    def __init__(self, token: Token, seat_stake: int, unbond_delay: int) -> None:
        self.token = token
        self.seat_stake = seat_stake
        self.unbond_delay = unbond_delay
        self.accounts: dict[Address, Account] = {}
        self.reservations: dict[tuple[Address, SegmentId], int] = {}
        self.count = History()
        """Number of seats."""
        self.holders: list[History] = []
        """Who held the seat in each slot."""
        self.standing: list[int] = []
        """The seat in each slot now."""
        self.seats: dict[int, tuple[Address, int]] = {}
        """Seat -> (holder, slot)."""
        self.last_seat = 0

    def account(self, who: Address) -> Account:
        found = self.accounts.get(who)
        if found is None:
            found = self.accounts[who] = Account()
        return found

    def need_free(self, who: Address, amount: int) -> None:
        free = self.account(who).free
        if free < amount:
            raise refuse("InsufficientStake", who=who, free=free, needed=amount)

    def seated(self, who: Address) -> bool:
        return any(holder == who for holder, _ in self.seats.values())

    # ---- calls

    def register(self, ctx: Context, who: Address, encryption_key: bytes, peer: PeerId) -> None:
        if not 0 < len(peer.encode()) <= MOST_PEER_BYTES:
            raise refuse("BadPeer", length=len(peer.encode()))
        if len(encryption_key) != 32 or not any(encryption_key):
            raise refuse("BadEncryptionKey")
        self.account(who).registered = True
        ctx.emit(Registered, who=who, encryption_key=encryption_key, peer=peer)

    def deposit(self, ctx: Context, who: Address, amount: int) -> None:
        if amount == 0:
            raise refuse("ZeroAmount")
        self.token.move(who, STAKES, amount)
        self.account(who).stake += amount
        ctx.emit(Deposited, who=who, amount=amount)

    def unbond(self, ctx: Context, who: Address, amount: int) -> None:
        if amount == 0:
            raise refuse("ZeroAmount")
        self.need_free(who, amount)
        account = self.account(who)
        account.unbonding += amount
        account.unbonded_at = ctx.time + self.unbond_delay
        ctx.emit(Unbonding, who=who, amount=amount, until=account.unbonded_at)

    def withdraw_stake(self, ctx: Context, who: Address) -> None:
        account = self.account(who)
        amount = account.unbonding
        if amount == 0:
            raise refuse("NothingUnbonding", who=who)
        if ctx.time < account.unbonded_at:
            raise refuse("StillUnbonding", until=account.unbonded_at)
        account.unbonding = 0
        account.stake -= amount
        ctx.emit(StakeWithdrawn, who=who, amount=amount)
        self.token.move(STAKES, who, amount)

    def take_seat(self, ctx: Context, who: Address) -> None:
        if not self.account(who).registered:
            raise refuse("NotRegistered", who=who)
        self.need_free(who, self.seat_stake)
        self.account(who).reserved += self.seat_stake
        self.last_seat += 1
        slot = len(self.standing)
        self.standing.append(0)
        if slot == len(self.holders):
            self.holders.append(History())
        self._place(ctx, self.last_seat, who, slot)
        self.count.set(ctx.number, slot + 1)
        ctx.emit(SeatTaken, who=who, seat=self.last_seat)

    def leave_seat(self, ctx: Context, who: Address, seat: int) -> None:
        holder, slot = self.seats.get(seat, (ZERO_ADDRESS, 0))
        if holder != who:
            raise refuse("NotSeatHolder", seat=seat, sender=who)
        del self.seats[seat]
        last = len(self.standing) - 1
        if slot != last:
            moved = self.standing[last]
            self._place(ctx, moved, self.seats[moved][0], slot)
        self.standing.pop()
        self.count.set(ctx.number, last)
        self.account(who).reserved -= self.seat_stake
        ctx.emit(SeatLeft, who=who, seat=seat)

    def _place(self, ctx: Context, seat: int, holder: Address, slot: int) -> None:
        self.seats[seat] = (holder, slot)
        self.standing[slot] = seat
        self.holders[slot].set(ctx.number, holder)

    # ---- for Jobs only

    def seats_at(self, block: int) -> int:
        return int(self.count.at(block))

    def holder_at(self, slot: int, block: int) -> Address:
        return Address(str(self.holders[slot].at(block)))

    def reservation(self, who: Address, segment: SegmentId) -> int:
        return self.reservations.get((who, segment), 0)

    def reserve(self, who: Address, segment: SegmentId, amount: int) -> None:
        self.need_free(who, amount)
        self.account(who).reserved += amount
        self.reservations[who, segment] = self.reservation(who, segment) + amount

    def release(self, who: Address, segment: SegmentId, amount: int) -> None:
        """Frees at most `amount` of what is reserved."""
        reserved = self.reservation(who, segment)
        amount = min(amount, reserved)
        self.account(who).reserved -= amount
        if amount == reserved:
            self.reservations.pop((who, segment), None)
        else:
            self.reservations[who, segment] = reserved - amount

    def charge(self, ctx: Context, who: Address, segment: SegmentId, amount: int, reason: str) -> int:
        """Moves at most `amount` of what is reserved to the Jobs contract; returns what was moved."""
        moved = min(amount, self.reservation(who, segment))
        if moved:
            self.release(who, segment, moved)
            self.account(who).stake -= moved
            ctx.emit(FeeCharged, who=who, segment=segment, amount=moved, reason=reason)
            self.token.move(STAKES, JOBS, moved)
        return moved
