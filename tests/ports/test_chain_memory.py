"""What the ledger in memory promises beyond the port: determinism, reorganisations, faults, and that no call sequence breaks the books."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from chain_world import NO, VERIFIERS, YES, MemoryWorld
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test_chain import SCRIPTS

from assay import chain, cid, merkle
from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.adapters.memory_records import Segment
from assay.adapters.memory_stakes import Account
from assay.chain import TERMINAL, CallId, Deposit, Register, SegmentState
from assay.ids import Address, JobId, PeerId, SegmentId
from assay.merkle import sha256
from assay.ports import Outage, Reorganised, Reverted


def test_the_same_calls_give_the_same_chain() -> None:
    async def play(seed: bytes) -> tuple[Any, Any]:
        world = MemoryWorld()
        world.ledger.seed = seed
        await SCRIPTS[0](world)
        return world.ledger.events(), world.ledger.blocks[1:]

    first, again, other = (asyncio.run(play(seed)) for seed in (b"1", b"1", b"2"))
    assert first == again
    assert first[1] != other[1]


def test_a_block_is_mined_at_its_time_and_calls_wait_for_it() -> None:
    ledger = MemoryLedger(block_time=12)
    alice = ledger.account("alice", tokens=10)
    start = ledger.head
    (event,) = ledger.apply(alice, Deposit(amount=3))
    assert ledger.events() == []
    assert ledger.mine().time == start.time + 12
    assert ledger.events() == [event]
    assert (event.block, event.time) == (ledger.head.number, ledger.head.time)
    assert ledger.mine(100).time == start.time + 112
    ledger.apply(alice, Deposit(amount=3))
    assert ledger.mine(100).time == start.time + 212  # the call in a block before, at its time
    assert ledger.events()[-1].time == start.time + 124


def test_a_reorganisation_takes_back_what_was_done_and_only_that() -> None:
    ledger = MemoryLedger(b"seed")
    alice = ledger.account("alice", tokens=100)
    ledger.mine()
    ledger.send(alice, CallId("one"), Deposit(amount=1))
    ledger.mine()
    kept, state = ledger.events(), ledger.balances()
    ledger.send(alice, CallId("two"), Deposit(amount=2))
    dropped = ledger.mine()
    ledger.apply(alice, Deposit(amount=4))
    ledger.reorg(1)
    assert ledger.events() == kept
    assert ledger.balances() == state
    assert ledger.mine().number == dropped.number
    assert ledger.head.hash != dropped.hash
    assert ledger.send(alice, CallId("one"), Deposit(amount=1)) == 2  # known still
    ledger.send(alice, CallId("two"), Deposit(amount=2))  # dropped, so sent again
    assert ledger.view(alice).stake == 3
    with pytest.raises(ValueError, match="cannot be dropped"):
        ledger.reorg(99)


def test_a_port_names_a_reorganisation_under_what_it_delivered() -> None:
    async def body() -> None:
        ledger = MemoryLedger()
        ledger.account("alice", tokens=10)
        alice = MemoryChain(ledger, "alice")
        await alice.send(CallId("one"), Deposit(amount=1))
        (event,) = await alice.events((-1, -1), 0)
        ledger.reorg(1)
        with pytest.raises(Reorganised):
            await alice.events((event.block, event.index), 0)

    asyncio.run(body())


def test_faults_come_when_they_are_asked_for() -> None:
    async def body() -> None:
        ledger = MemoryLedger()
        ledger.account("alice", tokens=10)
        alice = MemoryChain(ledger, "alice")
        alice.fail_next(Outage("gone"), times=2)
        for call in (alice.head(), alice.send(CallId("one"), Deposit(amount=1))):
            with pytest.raises(Outage, match="gone"):
                await call
        assert (await alice.view(alice.account)).stake == 0
        alice.fail_next(Outage("lost"), after=True)
        with pytest.raises(Outage, match="lost"):
            await alice.send(CallId("one"), Deposit(amount=1))
        await alice.send(CallId("one"), Deposit(amount=1))
        assert (await alice.view(alice.account)).stake == 1

    asyncio.run(body())


def test_without_automine_a_call_waits_for_its_block() -> None:
    async def body() -> None:
        ledger = MemoryLedger()
        ledger.account("alice", tokens=10)
        alice = MemoryChain(ledger, "alice", automine=False)
        sending = asyncio.create_task(alice.send(CallId("one"), Deposit(amount=1)))
        dropped = asyncio.create_task(alice.send(CallId("two"), Deposit(amount=1)))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not sending.done()
        assert ledger.mine().number == await sending == await dropped
        lost = asyncio.create_task(alice.send(CallId("three"), Deposit(amount=1)))
        await asyncio.sleep(0)
        ledger.reorg(0)
        with pytest.raises(Outage, match="dropped"):
            await lost

    asyncio.run(body())


NAMES = ("client", "alice", "bob", *VERIFIERS)
PICK = st.sampled_from((0, 0, 0, 1, 1, 2, 3))
ROLE = st.sampled_from(NAMES)


class Books(RuleBasedStateMachine):
    """Anything that anybody may do, in any order, at any time: the books of docs/protocol.md always balance."""

    @initialize()
    def start(self) -> None:
        self.world = MemoryWorld()
        self.ledger = self.world.ledger
        self.loop = asyncio.new_event_loop()
        self.play(self.world.populate())
        self.play(self.world.post())
        self.play(self.world.committed(JobId(1), 0, 0, 2))
        self.play(self.world.committed(JobId(1), 1, 2, 4, by="bob"))
        self.total = sum(self.ledger.balances().values())
        self.ended: dict[SegmentId, Any] = {}

    def teardown(self) -> None:
        self.loop.close()

    def play(self, move: Any) -> None:
        """Makes a move of the world; a refusal must leave everything as it was."""
        before = self.books()
        try:
            self.loop.run_until_complete(move)
        except (Reverted, IndexError):  # IndexError: nothing of that kind has happened yet
            if self.ledger.head.number == before[0]:
                assert self.books() == before
        else:
            return

    def books(self) -> Any:
        jobs, stakes = self.ledger.jobs, self.ledger.stakes
        accounts = {who: repr(account) for who, account in stakes.accounts.items() if account != Account()}
        return (
            self.ledger.head.number, repr(jobs.jobs), repr(jobs.segments), dict(jobs.credit), set(jobs.nonces), accounts,
            dict(stakes.reservations), dict(self.ledger.token.balance),
        )  # fmt: skip

    def pick(self, which: int) -> Segment | None:
        """Of the segments that there are, mostly one of the last."""
        segments = list(self.ledger.jobs.segments.values())
        return segments[-1 - which % len(segments)] if segments else None

    @rule(parent=PICK, root=st.booleans(), by=st.sampled_from(("alice", "bob")), price=st.integers(0, 1_100_000))
    def assign(self, parent: int, root: bool, by: str, price: int) -> None:
        above = None if root else self.pick(parent)
        start = above.stop if above else 0
        stop = min(4, (start // 2 + 1) * 2)
        self.play(self.world.assign(JobId(1), above.number if above else 0, start, stop, price=price, by=by))

    @rule(which=PICK, by=st.none() | ROLE, prefix=st.booleans())
    def work(self, which: int, by: str | None, prefix: bool) -> None:
        if (segment := self.pick(which)) is not None:
            who = by or self.world.name(segment.provider)
            self.play(self.world.do(who, chain.Activate(segment=segment.number)))
            end = segment.start + 1 if prefix else segment.stop
            self.play(self.world.do(who, self.world.commitment(segment.number, segment.start, end)))

    @rule(which=PICK, agree=st.tuples(*[st.sampled_from([YES, YES, NO, (True, b"other"), None])] * 3))
    def check(self, which: int, agree: Any) -> None:
        votes = {name: vote for name, vote in zip(VERIFIERS, agree, strict=True) if vote is not None}
        if (segment := self.pick(which)) is not None and votes:
            self.play(self.world.checked(segment.number, votes))

    @rule(which=PICK, keys=st.booleans())
    def draw_only(self, which: int, keys: bool) -> None:
        if (segment := self.pick(which)) is not None:
            self.play(self.world.drawn(segment.number))
            if keys:
                self.play(self.world.keys(segment.number, "alice", "vera", "vic"))

    @rule(which=PICK, by=ROLE, wait=st.booleans(), kind=st.sampled_from((
        chain.Lapse, chain.Draw, chain.Redraw, chain.CloseReveals, chain.Decide, chain.Settle, chain.VoidSegment, chain.ClearBond,
    )))  # fmt: skip
    def push(self, which: int, by: str, wait: bool, kind: Any) -> None:
        if wait:
            self.ledger.mine(101)
        if (segment := self.pick(which)) is not None:
            self.play(self.world.do(by, kind(segment=segment.number)))

    @rule(which=PICK)
    def go_on(self, which: int) -> None:
        """The next thing that should happen to a segment."""
        if (segment := self.pick(which)) is None:
            return
        match segment.state:
            case SegmentState.ASSIGNED:
                self.work(which=which, by=None, prefix=False)
            case SegmentState.COMMITTED:
                self.check(which=which, agree=(YES, YES, YES))
            case SegmentState.DRAWN:
                self.push(which=which, by="bob", wait=True, kind=chain.Redraw)
            case SegmentState.ATTESTED:
                self.push(which=which, by="bob", wait=True, kind=chain.Settle)
            case SegmentState.SERVED:
                self.push(which=which, by="bob", wait=True, kind=chain.CloseReveals)
                self.push(which=which, by="bob", wait=True, kind=chain.Decide)

    @rule(by=ROLE, amount=st.integers(0, 10**9), kind=st.sampled_from((chain.Deposit, chain.Unbond)))
    def stake(self, by: str, amount: int, kind: Any) -> None:
        self.play(self.world.do(by, kind(amount=amount)))

    @rule(by=ROLE, call=st.sampled_from((
        chain.WithdrawStake(), chain.Withdraw(), chain.TakeSeat(), chain.LeaveSeat(seat=2), chain.CloseJob(job=JobId(1)),
        chain.FundJob(job=JobId(1), amount=10**6),
    )))  # fmt: skip
    def account(self, by: str, call: Any) -> None:
        self.play(self.world.do(by, call))

    @rule(now=st.sampled_from((False,) * 9 + (True,)))
    def cancel(self, now: bool) -> None:
        if now:
            self.play(self.world.do("client", chain.CancelJob(job=JobId(1))))

    @rule(seconds=st.sampled_from((1, 101)))
    def wait(self, seconds: int) -> None:
        self.ledger.mine(seconds)

    @rule(depth=st.integers(1, 3))
    def reorganise(self, depth: int) -> None:
        """What is left is what would be there had the dropped blocks never been."""
        if self.ledger.head.number > 30:
            before = self.books()
            self.ledger.mine()
            self.ledger.reorg(1)
            assert self.books() == before

    @invariant()
    def money_is_conserved(self) -> None:
        jobs, stakes, balance = self.ledger.jobs, self.ledger.stakes, self.ledger.balances()
        assert sum(balance.values()) == self.total
        live = [seg for seg in jobs.segments.values() if seg.state not in TERMINAL]
        held = sum(seg.price + seg.fees_held for seg in live)
        escrow = sum(job.escrow for job in jobs.jobs.values())
        assert balance[self.ledger.contract] == held + escrow + sum(jobs.credit.values())
        assert balance[self.ledger.stakes_address] == sum(account.stake for account in stakes.accounts.values())
        for account in stakes.accounts.values():
            assert account.free >= 0
            assert account.reserved >= 0
        assert all(job.live == len([seg for seg in live if seg.job == job.number]) for job in jobs.jobs.values())

    @invariant()
    def reservations_add_up(self) -> None:
        stakes = self.ledger.stakes
        for who, account in stakes.accounts.items():
            seats = sum(holder == who for holder, _ in stakes.seats.values())
            assert account.reserved == seats * stakes.seat_stake + sum(amount for (of, _), amount in stakes.reservations.items() if of == who)

    @invariant()
    def what_is_terminal_never_changes(self) -> None:
        for number, seg in self.ledger.jobs.segments.items():
            if number in self.ended:
                assert (seg.state, seg.commitment, seg.price) == self.ended[number]
            elif seg.state in TERMINAL:
                self.ended[number] = (seg.state, seg.commitment, seg.price)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True, database=None)


def test_a_refusal_by_the_token_is_in_the_token_s_words() -> None:
    ledger = MemoryLedger()
    with pytest.raises(Reverted, match=r"ERC20InsufficientBalance.*balance 0, needed 5"):
        ledger.apply(ledger.account("poor"), Deposit(amount=5))


def test_a_registration_is_checked() -> None:
    ledger = MemoryLedger()
    alice = ledger.account("alice")
    for call, reason in (
        (Register(encryption_key=b"short", peer=PeerId("p")), "BadEncryptionKey"),
        (Register(encryption_key=bytes(32), peer=PeerId("p")), "BadEncryptionKey"),
        (Register(encryption_key=b"k" * 32, peer=PeerId("")), "BadPeer"),
        (Register(encryption_key=b"k" * 32, peer=PeerId("p" * 129)), "BadPeer"),
    ):
        with pytest.raises(Reverted, match=reason):
            ledger.apply(alice, call)


def test_vectors_of_commitment_and_leaf() -> None:
    """The one link of a one-step segment without micro-batches beyond one: proof and commitment by hand."""
    end = sha256(b"end")
    root = merkle.node(merkle.leaf(0, sha256(b"acc")), merkle.leaf(1, end))
    assert merkle.verify(root, 2, 1, merkle.leaf(1, end), (merkle.leaf(0, sha256(b"acc")),))
    from assay import draw

    jobs, parent, program = Address("0x" + "ab" * 20), sha256(b"parent"), sha256(b"program")
    got = draw.commitment(7, jobs, JobId(3), parent, program, 1, 2, root, cid.of(b"x"), sha256(b"key"))
    u64 = lambda n: n.to_bytes(8, "big")  # noqa: E731
    told = b"\x13" + (7).to_bytes(32, "big") + b"\xab" * 20 + u64(3) + parent + program + u64(1) + u64(2) + root
    assert got == sha256(told + sha256(cid.to_bytes(cid.of(b"x"))) + sha256(b"key"))
