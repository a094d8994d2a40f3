"""A chain in memory: blocks, accounts and the rules of docs/protocol.md in Python, for tests and for the simulated network.

`MemoryLedger` is synchronous and deterministic: no clock of its own (blocks come by `mine`), hashes follow from its seed, a call that
is refused leaves no trace; with `rules` it has disputes. Its signatures are MACs under per-account secrets that the ledger knows: cheap,
and only as good as a simulation needs. `MemoryChain` is the `assay.ports.Chain` of one account over a ledger. One file because it is one
state, which a reorganisation undoes and does again, and the table of all calls that change it.

    ledger = MemoryLedger(seed=b"1")
    alice = ledger.account("alice", tokens=1000)      # address; `ledger.balances()` shows every holder
    events = ledger.apply(alice, Deposit(amount=10))  # in the pending block, or Reverted
    ledger.mine()                                     # the block closes: number, hash, time + block_time
    chain = MemoryChain(ledger, "alice")              # async port; `send` mines at once unless automine=False
    ledger.reorg(2); chain.fail_next(Outage("gone"))  # faults
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable

from assay import chain
from assay.adapters.memory_bounties import BOUNTIES, Bounties
from assay.adapters.memory_committee import Committee, receipt_digest, seal_digest, visit_digest
from assay.adapters.memory_datasets import DATASETS, Datasets
from assay.adapters.memory_disputes import DISPUTES, Disputes
from assay.adapters.memory_showings import SHOWINGS, Showings
from assay.adapters.memory_stakes import BURN, JOBS, STAKES, Context, Stakes, Token, pseudo_address
from assay.adapters.memory_sureties import SURETIES, Sureties
from assay.adapters.memory_takeovers import TAKEOVERS, Takeovers
from assay.adapters.refusals import refuse
from assay.chain import AnyCall, AnyChainEvent, Block, CallId, ChainEvent, Offer
from assay.codec import encode
from assay.dispute.record import Record, Rules
from assay.draw import raw, u32, u64
from assay.ids import Address, Digest, DisputeId, PeerId, SegmentId
from assay.merkle import sha256
from assay.ports import AccountView, Outage, Reorganised, Reverted

SIGNATURE_BYTES = 65
"""MAC, address, zeros: as long as an ECDSA signature with its recovery byte."""


class MemoryLedger:
    """Blocks, token, Stakes and Jobs. All money that exists came by `mint`; see `balances`."""

    def __init__(
        self, seed: bytes = b"", *, chain_id: int = 1337, start: int = 1_700_000_000, block_time: int = 1, seat_stake: int = 1_000_000,
        unbond_delay: int = 3600, rules: Rules | None = None,
    ) -> None:  # fmt: skip
        self.seed = seed
        self.chain_id = chain_id
        self.block_time = block_time
        self.contract, self.stakes_address, self.burn_address, self.bounties_address = JOBS, STAKES, BURN, BOUNTIES
        self.disputes_address = DISPUTES if rules is not None else Address("")
        self._options = (start, seat_stake, unbond_delay, rules)
        self._secrets: dict[Address, bytes] = {}
        self._fork = 0
        self._genesis()

    def _genesis(self) -> None:
        start, seat_stake, unbond_delay, rules = self._options
        self.token = Token()
        self.stakes = Stakes(self.token, seat_stake, unbond_delay)
        self.jobs = Committee(self.token, self.stakes, self._consents)
        self.disputes = Disputes(self.token, self.stakes, self.jobs, rules)
        self.datasets = Datasets(self.token, self.jobs)
        self.bounties = Bounties(self.token, self.jobs)
        self.takeovers = Takeovers(self.jobs)
        self.sureties = Sureties(self.token, self.jobs, self.chain_id)
        self.showings = Showings(self.token, self.jobs, self.datasets, self.disputes)
        self.receipts: dict[tuple[Address, CallId], int] = {}
        """Block in which an account's call was mined."""
        self.blocks = [Block(number=0, hash=self._hash(0), time=start)]
        self._events: list[list[ChainEvent]] = [[]]
        self.origins: dict[tuple[int, int], tuple[Address, AnyCall]] = {}
        """Who sent which call, by the block and index of the events that came of it."""
        self._kept = 0
        """The first block whose calls and events are kept."""
        self._done: list[list[Callable[[], object]]] = [[]]
        """What was done in each block, so that a reorganisation can do the remaining blocks again."""
        self._open()

    def _hash(self, number: int) -> Digest:
        return sha256(b"assay memory block", self.seed, u32(self._fork), u64(number))

    def _open(self) -> None:
        head = self.blocks[-1]
        self._pending = Context(self.chain_id, head.number + 1, head.time + self.block_time, lambda n: self.blocks[n].hash)
        self._ops: list[Callable[[], object]] = []

    # ---- blocks

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    def _close(self, block: Block) -> None:
        self.blocks.append(block)
        self._events.append(self._pending.events)
        self._done.append(self._ops)
        self._open()

    def mine(self, seconds: int | None = None) -> Block:
        """Closes the pending block and returns the new head, whose time is `seconds` (else block_time) after the old head's. When
        calls wait and `seconds` is more than block_time, they are mined at their time and an empty block follows."""
        seconds = self.block_time if seconds is None else seconds
        number, time = self._pending.number, self.head.time + seconds
        if self._ops and seconds != self.block_time:
            self._close(Block(number=number, hash=self._hash(number), time=self._pending.time))
            number, time = number + 1, max(time, self.head.time)
        self._close(Block(number=number, hash=self._hash(number), time=time))
        return self.head

    def mine_to(self, number: int) -> Block:
        """Mines until the head is at least block `number`."""
        while self.head.number < number:
            self.mine()
        return self.head

    def reorg(self, depth: int) -> None:
        """Drops the pending calls and the last `depth` blocks with what was done in them; later blocks get other hashes."""
        if not 0 <= depth < len(self.blocks) or self._kept:
            raise ValueError(f"{depth} blocks cannot be dropped from {len(self.blocks) - 1}")
        keep = list(zip(self.blocks, self._done, strict=True))[1 : len(self.blocks) - depth]
        genesis = self.blocks[0]
        self._genesis()
        self.blocks[0] = genesis
        self._open()
        for block, done in keep:
            self._pending.time = block.time
            for operation in done:
                operation()
                self._ops.append(operation)
            self._close(block)
        self._fork += 1

    def forget(self, before: int) -> None:
        """Lets go of the calls and events of the blocks below `before`, for long runs; these blocks can no more be reorganised."""
        for number in range(self._kept, min(before, self.head.number)):
            for event in self._events[number]:
                self.origins.pop((event.block, event.index), None)
            self._events[number], self._done[number] = [], []
        self._kept = max(self._kept, before)
        self.receipts = {key: block for key, block in self.receipts.items() if block >= before}

    def _do(self, operation: Callable[[], object]) -> None:
        operation()
        self._ops.append(operation)

    # ---- accounts

    def account(self, name: str, tokens: int = 0) -> Address:
        """The account of that name, made on first use, with `tokens` more of the token."""
        who = pseudo_address(name)
        self._secrets[who] = sha256(b"assay memory secret", name.encode())
        if tokens:
            self.mint(who, tokens)
        return who

    def mint(self, to: Address, amount: int) -> None:
        """The faucet. Applies at once, recorded in the pending block."""
        self._do(lambda: self.token.mint(to, amount))

    def balances(self) -> dict[Address, int]:
        """Token balance of every account that ever held any, the contracts' and the burn address included."""
        return {JOBS: 0, STAKES: 0, DISPUTES: 0, DATASETS: 0, BOUNTIES: 0, SURETIES: 0, SHOWINGS: 0, BURN: 0} | self.token.balance

    def view(self, who: Address) -> AccountView:
        account = self.stakes.account(who)
        return AccountView(
            tokens=self.token.balance.get(who, 0), stake=account.stake, reserved=account.reserved, credit=self.jobs.credit.get(who, 0),
            dispute_credit=self.disputes.credit.get(who, 0), bounty_credit=self.bounties.credit.get(who, 0), native=10**18,
        )  # fmt: skip

    # ---- calls and events

    def apply(self, sender: Address, call: AnyCall) -> list[AnyChainEvent]:
        """Executes a call in the pending block; returns its events. Raises Reverted."""
        before = len(self._pending.events)
        self._do(lambda: self._run_and_note(sender, call))
        return self._pending.events[before:]  # type: ignore[return-value]

    def _run_and_note(self, sender: Address, call: AnyCall) -> None:
        before = len(self._pending.events)
        self._run(sender, call)
        for event in self._pending.events[before:]:
            self.origins[event.block, event.index] = (sender, call)

    def send(self, sender: Address, call_id: CallId, call: AnyCall) -> int:
        """Applies once per sender and `call_id`; returns the number of the block it is (or will be) in. Raises Reverted."""
        found = self.receipts.get((sender, call_id))
        if found is None:
            self.apply(sender, call)
            found = self._pending.number
            self._do(lambda: self.receipts.__setitem__((sender, call_id), self._pending.number))
        return found

    def events(self, after: tuple[int, int] = (-1, -1), depth: int = 0) -> list[AnyChainEvent]:
        """Events of mined blocks after (block, index) and at least `depth` blocks under the head, in order."""
        block, index = after
        out: list[ChainEvent] = []
        if 0 <= block <= self.head.number - depth:
            here = self._events[block]
            out += here[bisect.bisect_right(here, index, key=lambda event: event.index) :]
        for number in range(max(block + 1, 0), self.head.number - depth + 1):
            out += self._events[number]
        return out  # type: ignore[return-value]

    def _run(self, who: Address, call: AnyCall) -> None:
        ctx, jobs, stakes = self._pending, self.jobs, self.stakes
        match call:
            case chain.Register():
                stakes.register(ctx, who, call.encryption_key, call.peer)
            case chain.Deposit():
                stakes.deposit(ctx, who, call.amount)
            case chain.TakeSeat():
                stakes.take_seat(ctx, who)
            case chain.LeaveSeat():
                stakes.leave_seat(ctx, who, call.seat)
            case chain.Unbond():
                stakes.unbond(ctx, who, call.amount)
            case chain.WithdrawStake():
                stakes.withdraw_stake(ctx, who)
            case chain.PostJob():
                jobs.post(ctx, who, call.terms)
            case chain.FundJob():
                jobs.fund(ctx, who, call.job, call.amount)
            case chain.CancelJob():
                jobs.cancel(ctx, who, call.job)
            case chain.CloseJob():
                jobs.close(ctx, who, call.job)
            case chain.Assign():
                jobs.assign(ctx, who, call.offer, call.signature, self.offer_digest(call.offer))
            case chain.Entrust():
                self.takeovers.entrust(ctx, who, call)
            case chain.AssignListed():
                self.takeovers.assign(ctx, who, call, self.offer_digest(call.offer))
            case chain.Activate():
                jobs.activate(ctx, who, call.segment)
            case chain.Lapse():
                jobs.lapse(ctx, who, call.segment)
            case chain.Commit():
                jobs.commit(ctx, who, call)
            case chain.Draw():
                jobs.draw(ctx, who, call.segment)
            case chain.Redraw():
                jobs.redraw(ctx, who, call.segment)
            case chain.ShowChunk():
                jobs.show(ctx, who, call)
            case chain.ReleaseKeys():
                jobs.release_keys(ctx, who, call)
            case chain.Serve():
                jobs.serve(ctx, who, call)
            case chain.Attest():
                jobs.attest(ctx, who, call)
            case chain.RevealAll():
                jobs.reveal(ctx, who, call)
            case chain.Spread():
                jobs.spread(ctx, who, call)
            case chain.CloseReveals():
                jobs.close_reveals(ctx, who, call.segment)
            case chain.Disclose():
                jobs.disclose(ctx, who, call)
            case chain.Decide():
                jobs.decide(ctx, who, call.segment)
            case chain.Settle():
                jobs.settle(ctx, who, call.segment)
            case chain.VoidSegment():
                jobs.void(ctx, who, call.segment)
            case chain.ClearBond():
                jobs.clear_bond(ctx, who, call.segment)
            case chain.Withdraw():
                jobs.withdraw(ctx, who)
            case chain.SealDispute() | chain.PlayMove() | chain.PayDispute() | chain.ClearDisputed() | chain.WithdrawDisputes():
                self.disputes.run(ctx, who, call)
            case _ if isinstance(call, chain.DatasetCall):
                self.datasets.run(ctx, who, call)
            case _ if isinstance(call, chain.SuretyCall):
                self.sureties.run(ctx, who, call)
            case _ if isinstance(call, chain.ShowingCall):
                self.showings.run(ctx, who, call)
            case chain.Batch():
                self._run_batch(who, call)
            case _:
                self.bounties.run(ctx, who, call)

    def _run_batch(self, who: Address, batch: chain.Batch) -> None:
        if not 0 < len(batch.calls) <= chain.MOST_CALLS:
            raise refuse("BadLength", name="calls", length=len(batch.calls), most=chain.MOST_CALLS)
        taken, refusal = 0, Reverted("")
        for call in batch.calls:
            try:
                self._run(who, call)
                taken += 1
            except Reverted as error:
                refusal = error.with_traceback(None)  # whose frames would name it
        if not taken:
            raise refusal

    # ---- signatures

    def sign(self, who: Address, digest: bytes) -> bytes:
        """MAC of `digest` under the account's secret. Raises KeyError for an account that was not made by `account`."""
        return (sha256(self._secrets[who], digest) + raw(who)).ljust(SIGNATURE_BYTES, b"\0")

    def signer(self, digest: bytes, signature: bytes) -> Address | None:
        who = Address("0x" + signature[32:52].hex())
        known = len(signature) == SIGNATURE_BYTES and who in self._secrets
        return who if known and self.sign(who, digest) == signature else None

    def offer_digest(self, offer: Offer) -> Digest:
        return sha256(b"offer", u64(self.chain_id), raw(JOBS), encode(offer))

    def sign_offer(self, who: Address, offer: Offer) -> bytes:
        return self.sign(who, self.offer_digest(offer))

    def sign_receipt(self, who: Address, segment: SegmentId, round: int) -> bytes:
        return self.sign(who, receipt_digest(self.chain_id, segment, round))

    def sign_seal(self, who: Address, segment: SegmentId, round: int, digest: Digest) -> bytes:
        return self.sign(who, seal_digest(self.chain_id, segment, round, digest))

    def _consents(self, who: Address, sender: Address, digest: Digest, signature: bytes) -> bool:
        return (not signature and sender == who) or self.signer(digest, signature) == who


class MemoryChain:
    """The `Chain` port of one account; with `automine` a call is mined at once, in a block of its own, else when `ledger.mine()` is called."""

    def __init__(self, ledger: MemoryLedger, name: str, *, automine: bool = True) -> None:
        self.ledger = ledger
        self.account = ledger.account(name)
        self.contract = ledger.contract
        self.disputes = ledger.disputes_address
        self.takeovers = TAKEOVERS
        self.chain_id = ledger.chain_id
        self.automine = automine
        self._faults: list[tuple[Exception, bool]] = []
        self._delivered: Block | None = None

    def fail_next(self, error: Exception, times: int = 1, *, after: bool = False) -> None:
        """The next `times` port calls raise `error`; with `after`, a send is mined first and only its answer is lost."""
        self._faults += [(error, after)] * times

    def _fault(self, after: bool = False) -> None:
        if self._faults and self._faults[0][1] == after:
            raise self._faults.pop(0)[0]

    async def head(self) -> Block:
        self._fault()
        return self.ledger.head

    async def block_hash(self, number: int) -> Digest:
        self._fault()
        if not 0 <= number <= self.ledger.head.number:
            raise Outage(f"block {number} does not exist yet: the head is {self.ledger.head.number}")
        return self.ledger.blocks[number].hash

    async def events(self, after: tuple[int, int], depth: int) -> list[AnyChainEvent]:
        self._fault()
        last, blocks = self._delivered, self.ledger.blocks
        if last is not None and after[0] >= last.number and (last.number >= len(blocks) or blocks[last.number].hash != last.hash):
            raise Reorganised(f"block {last.number} was replaced after its events were delivered, at a depth of {depth}")
        found = self.ledger.events(after, depth)
        if found:
            self._delivered = blocks[found[-1].block]
        return found

    async def send(self, call_id: CallId, call: AnyCall) -> int:
        self._fault()
        number = self.ledger.send(self.account, call_id, call)
        if self.automine and number > self.ledger.head.number:
            self.ledger.mine()
        while number > self.ledger.head.number:
            await asyncio.sleep(0)
            number = self.ledger.receipts.get((self.account, call_id), -1)
            if number < 0:
                raise Outage(f"call {call_id} was dropped with its block")
        self._fault(after=True)
        return number

    async def view(self, account: Address) -> AccountView:
        self._fault()
        return self.ledger.view(account)

    async def dispute_rules(self) -> Rules:
        self._fault()
        return self.ledger.disputes.rules

    async def dispute(self, dispute: DisputeId) -> Record:
        self._fault()
        return self.ledger.disputes.record(dispute)

    async def dispute_bond(self, segment: SegmentId) -> int:
        self._fault()
        return self.ledger.disputes.bond_of(segment, self.account)

    def sign_offer(self, offer: Offer) -> bytes:
        return self.ledger.sign_offer(self.account, offer)

    def sign_receipt(self, segment: SegmentId, round: int) -> bytes:
        return self.ledger.sign_receipt(self.account, segment, round)

    def sign_seal(self, segment: SegmentId, round: int, digest: Digest) -> bytes:
        return self.ledger.sign_seal(self.account, segment, round, digest)

    def offer_signer(self, offer: Offer, signature: bytes) -> Address | None:
        return self.ledger.signer(self.ledger.offer_digest(offer), signature)

    def receipt_signer(self, segment: SegmentId, round: int, signature: bytes) -> Address | None:
        return self.ledger.signer(receipt_digest(self.chain_id, segment, round), signature)

    def seal_signer(self, segment: SegmentId, round: int, digest: Digest, signature: bytes) -> Address | None:
        return self.ledger.signer(seal_digest(self.chain_id, segment, round, digest), signature)

    def visit_signer(self, peer: PeerId, signature: bytes) -> Address | None:
        return self.ledger.signer(visit_digest(self.chain_id, peer), signature)
