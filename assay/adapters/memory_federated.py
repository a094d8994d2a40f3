"""The `Federated` contract in Python: pay for federated rounds. Rules and refusals are those of contracts/src/Federated.sol.

Money: the contract's balance is the sum of what jobs hold, and of `credit`. A ledger stands alone: it has a token and a clock of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from assay import merkle
from assay.adapters.memory_stakes import BURN, Token, pseudo_address
from assay.adapters.refusals import refuse
from assay.codec import digest, encode
from assay.exact.hashing import CHUNK, headed_as
from assay.federated.money import EQUAL, MOST_OWNERS, WORTH, ZEROS, FederatedTerms, Piece, Stand, Sum
from assay.ids import Address, Digest

FEDERATED = pseudo_address("federated")
MOST_ROUNDS, MOST_WINDOW = 4096, 90 * 86_400
U40, U96 = (1 << 40) - 1, (1 << 96) - 1


@dataclass(slots=True)
class Round:
    sum: Sum
    counted: frozenset[int]
    until: int
    objected: set[int] = field(default_factory=set)
    struck: int | None = None
    settled: bool = False
    added: dict[tuple[int, Address], tuple[int, int]] = field(default_factory=dict)
    """By number and account: what it has added up, and of how many rows."""


@dataclass(slots=True)
class Job:
    terms: Digest
    host: Address
    held: int
    rounds: list[Round] = field(default_factory=list)
    broken: bool = False
    ended: bool = False

    @property
    def settled(self) -> int:
        return sum(one.settled for one in self.rounds)


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise refuse("BadTerm", name=name, value=value, least=least, most=most)


def _length(name: str, length: int, right: int) -> None:
    if length != right:
        raise refuse("BadLength", name=name, length=length, most=right)


class Federated:
    """The ledger that all accounts share. `time` is set by whoever plays the chain."""

    def __init__(self, token: Token | None = None, time: int = 1_800_000_000) -> None:
        self.token, self.time = token or Token(), time
        self.jobs: list[Job] = []
        self.credit: dict[Address, int] = {}

    def check(self, t: FederatedTerms) -> None:
        """Refuses what the contract does."""
        owners = len(t.owners)
        _within("owners", owners, 3, MOST_OWNERS)
        _within("rounds", t.rounds, 1, MOST_ROUNDS)
        _within("minimum", t.minimum, 2 * owners // 3 + 1, owners)
        if t.bits not in (32, 64):
            raise refuse("BadTerm", name="bits", value=t.bits, least=32, most=64)
        _within("length", t.length, 1, U40)
        _within("pay", t.pay, 1, U96)
        _within("bond", t.bond, 1, U96)
        _within("window", t.window, 1, MOST_WINDOW)
        _within("deadline", t.deadline, self.time, U40 - MOST_WINDOW)
        _length("shares", len(t.shares), owners)
        for place, share in enumerate(t.shares):
            if t.rule == EQUAL and share != 1:
                raise refuse("BadShare", place=place)
        if not sum(t.shares):
            raise refuse("BadShare", place=owners)
        if (t.rule == WORTH) != (t.worth != ZEROS):
            raise refuse("BadTerm", name="worth", value=int.from_bytes(t.worth, "big"), least=0, most=0)

    def _known(self, number: int, t: FederatedTerms) -> Job:
        job = self.job(number)
        if digest(t) != job.terms:
            raise refuse("BadTerms", terms=job.terms)
        if job.ended:
            raise refuse("IsOver", id=number)
        return job

    def job(self, number: int) -> Job:
        if not 1 <= number <= len(self.jobs):
            raise refuse("NoSuchFederated", id=number)
        return self.jobs[number - 1]

    def post(self, who: Address, t: FederatedTerms) -> int:
        self.check(t)
        locked = t.rounds * t.pay + t.bond
        self.token.move(who, FEDERATED, locked)
        self.jobs.append(Job(digest(t), who, locked))
        return len(self.jobs)

    def close(self, who: Address, number: int, t: FederatedTerms, s: Sum, signatures: Sequence[bytes]) -> None:
        job = self._known(number, t)
        if who != job.host:
            raise refuse("NotTheHost", sender=who)
        if job.broken or len(job.rounds) == t.rounds:
            raise refuse("IsOver", id=number)
        if self.time > t.deadline:
            raise refuse("TooLate", notAfter=t.deadline, now_=self.time)
        _length("rows", len(s.rows), len(t.owners))
        _length("signatures", len(signatures), len(t.owners))
        counted = frozenset(place for place, row in enumerate(s.rows) if row != ZEROS)
        for place in sorted(counted):
            if signatures[place] != signed(t.owners[place], number, len(job.rounds), s.terms, place, s.rows[place]):
                raise refuse("BadSignature", place=place)
        if len(counted) < t.minimum:
            raise refuse("TooFew", counted=len(counted), least=t.minimum)
        job.rounds.append(Round(s, counted, self.time + t.window))

    def _open(self, job: Job, number: int) -> Round:
        if number >= len(job.rounds):
            raise refuse("NoSuchRound", round=number)
        found = job.rounds[number]
        if self.time > found.until:
            raise refuse("TooLate", notAfter=found.until, now_=self.time)
        return found

    def challenge(
        self, who: Address, number: int, t: FederatedTerms, round: int, s: Sum, index: int, total: Piece, rows: Sequence[Piece]
    ) -> None:  # fmt: skip
        job, found = self._disputed(number, t, round, s, index)
        added, done = self._add_up(who, t, found, index, rows)
        if done != len(found.counted):
            raise refuse("BadLength", name="pieces", length=done, most=len(found.counted))
        if added == _number(t, s.total, index, total):
            raise refuse("SumIsRight", index=index)
        self._break(job, who, t.bond, t.bond // 2)

    def add(self, who: Address, number: int, t: FederatedTerms, round: int, s: Sum, index: int, rows: Sequence[Piece]) -> None:
        _, found = self._disputed(number, t, round, s, index)
        found.added[index, who] = self._add_up(who, t, found, index, rows)

    def _disputed(self, number: int, t: FederatedTerms, round: int, s: Sum, index: int) -> tuple[Job, Round]:
        job = self._known(number, t)
        found = self._open(job, round)
        if job.broken:
            raise refuse("IsOver", id=number)
        if s != found.sum:
            raise refuse("BadSum", sum=digest(found.sum))
        _within("index", index, 0, t.length - 1)
        return job, found

    @staticmethod
    def _add_up(who: Address, t: FederatedTerms, found: Round, index: int, rows: Sequence[Piece]) -> tuple[int, int]:
        """The sum of these rows and of those that the account has added before, and of how many that is."""
        added, done = found.added.get((index, who), (0, 0))
        left = [row for row in found.sum.rows if row != ZEROS][done:]
        if len(rows) > len(left):
            raise refuse("BadLength", name="pieces", length=len(rows), most=len(left))
        for root, piece in zip(left, rows, strict=False):
            added += _number(t, root, index, piece)
        return added % (1 << t.bits), done + len(rows)

    def _break(self, job: Job, who: Address, bond: int, reward: int) -> None:
        job.broken = True
        job.held -= bond
        self._credit(who, reward)
        self.token.move(FEDERATED, BURN, bond - reward)

    def object(self, who: Address, number: int, t: FederatedTerms, round: int, place: int) -> None:
        job = self._known(number, t)
        found = self._open(job, round)
        if job.broken:
            raise refuse("IsOver", id=number)
        if place >= len(t.owners) or t.owners[place] != who or place not in found.counted - found.objected:
            raise refuse("NotCounted", place=place)
        found.objected.add(place)
        if 2 * len(found.objected) > len(found.counted):
            self._break(job, who, t.bond, 0)

    def strike(self, who: Address, number: int, t: FederatedTerms, round: int, place: int) -> None:
        found = self._open(self._known(number, t), round)
        if who != t.auditor:
            raise refuse("NotTheAuditor", sender=who)
        if place not in found.counted:
            raise refuse("NotCounted", place=place)
        if found.struck is not None:
            raise refuse("IsStruck", place=found.struck)
        found.struck = place

    def settle(self, number: int, t: FederatedTerms, round: int) -> None:
        job = self._known(number, t)
        if round >= len(job.rounds):
            raise refuse("NoSuchRound", round=round)
        found = job.rounds[round]
        if found.settled:
            raise refuse("IsSettled", round=round)
        if self.time <= found.until:
            raise refuse("TooEarly", notBefore=found.until, now_=self.time)
        found.settled, left = True, t.pay
        for place in sorted(found.counted - {found.struck}):
            amount = t.pay * t.shares[place] // sum(t.shares)
            left -= amount
            self._credit(t.owners[place], amount)
        job.held -= t.pay
        self._credit(job.host, left)

    def end(self, number: int, t: FederatedTerms) -> None:
        job = self._known(number, t)
        if not job.broken and len(job.rounds) < t.rounds and self.time <= t.deadline:
            raise refuse("TooEarly", notBefore=t.deadline, now_=self.time)
        if job.settled < len(job.rounds):
            raise refuse("NotSettled", settled=job.settled, closed=len(job.rounds))
        back, job.held, job.ended = job.held, 0, True
        self._credit(job.host, back)

    def withdraw(self, who: Address) -> None:
        amount = self.credit.get(who, 0)
        if not amount:
            raise refuse("NothingToWithdraw", who=who)
        self.credit[who] = 0
        self.token.move(FEDERATED, who, amount)

    def _credit(self, who: Address, amount: int) -> None:
        self.credit[who] = self.credit.get(who, 0) + amount


def signed(who: Address, number: int, round: int, terms: Digest, place: int, row: Digest) -> bytes:
    """What stands for an account's signature here: nobody forges in memory but who means to."""
    return merkle.sha256(b"assay memory row", encode([who, number, round, terms.hex(), place, row.hex()]))


def _number(t: FederatedTerms, root: Digest, index: int, piece: Piece) -> int:
    width = t.bits // 8
    chunk = index * width // CHUNK
    count = -(-t.length * width // CHUNK)
    if len(piece.chunk) != CHUNK or len(piece.path) != merkle.depth(count):
        raise refuse("BadProof")
    here, place = merkle.leaf(chunk, piece.chunk), chunk
    for sibling in piece.path:
        here, place = merkle.node(sibling, here) if place & 1 else merkle.node(here, sibling), place >> 1
    if headed_as("i32" if t.bits == 32 else "i64", (t.length,), here) != root:
        raise refuse("BadProof")
    at = index * width % CHUNK
    return int.from_bytes(piece.chunk[at : at + width], "little")


class MemoryMoney:
    """Implements assay.federated.money.Money over a ledger, for one account."""

    def __init__(self, ledger: Federated, account: Address) -> None:
        self.ledger, self.account = ledger, account

    async def post(self, terms: FederatedTerms) -> int:
        return self.ledger.post(self.account, terms)

    async def close(self, number: int, terms: FederatedTerms, sum: Sum, signatures: Sequence[bytes]) -> None:
        self.ledger.close(self.account, number, terms, sum, signatures)

    async def challenge(
        self, number: int, terms: FederatedTerms, round: int, sum: Sum, index: int, total: Piece, rows: Sequence[Piece]
    ) -> None:  # fmt: skip
        self.ledger.challenge(self.account, number, terms, round, sum, index, total, rows)

    async def add(self, number: int, terms: FederatedTerms, round: int, sum: Sum, index: int, rows: Sequence[Piece]) -> None:
        self.ledger.add(self.account, number, terms, round, sum, index, rows)

    async def object(self, number: int, terms: FederatedTerms, round: int, place: int) -> None:
        self.ledger.object(self.account, number, terms, round, place)

    async def strike(self, number: int, terms: FederatedTerms, round: int, place: int) -> None:
        self.ledger.strike(self.account, number, terms, round, place)

    async def settle(self, number: int, terms: FederatedTerms, round: int) -> None:
        self.ledger.settle(number, terms, round)

    async def end(self, number: int, terms: FederatedTerms) -> None:
        self.ledger.end(number, terms)

    async def withdraw(self) -> None:
        self.ledger.withdraw(self.account)

    async def job(self, number: int) -> Stand:
        job = self.ledger.job(number)
        until = max((one.until for one in job.rounds), default=0)
        return Stand(
            terms=job.terms, host=job.host, until=until, closed=len(job.rounds), settled=job.settled, broken=job.broken, ended=job.ended,
            held=job.held,
        )  # fmt: skip

    async def credit(self, who: Address) -> int:
        return self.ledger.credit.get(who, 0)

    async def now(self) -> int:
        return self.ledger.time

    def name(self, terms: FederatedTerms) -> Digest:
        return digest(terms)

    def sign(self, number: int, round: int, terms: Digest, place: int, row: Digest) -> bytes:
        return signed(self.account, number, round, terms, place, row)
