"""Sends an account's transactions: each call id once, whatever dies in between.

A call is first tried against the chain's present state (eth_estimateGas), so that what the contract would refuse costs nothing.
Then it gets a nonce, is signed, written to the journal, and only then broadcast; all calls that wait share one commit and three
requests. One task looks after all that is pending: it asks for the account's transaction count and for receipts, and

    a receipt       mined: it says what came of it
    otherwise       pending: broadcast again in each block without progress (a node that restarts forgets its mempool), and
                    after BUMP_BLOCKS such blocks the head of the line is replaced with a fee that is a quarter higher (EIP-1559)

The journal never says that something is mined: only the chain does, so a reorganisation or a chain that lost its last second needs
no case of its own. A hole in the nonces is filled with an empty transaction to oneself. A call id is given a new nonce only when its
old one is known to be spent without effect, FINAL_BLOCKS deep: by a transaction that failed, or by another program's with the same
key, which must be seen in a block. That a receipt is missing proves nothing (nodes lag and prune), and old state is never asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from eth_account.signers.local import LocalAccount
from web3 import Web3

from assay.adapters.evm_journal import Attempt, Entry, SendJournal
from assay.adapters.evm_rpc import Rpc, RpcError, block_of, number
from assay.chain import Block, CallId
from assay.ids import Address
from assay.ports import Outage

POLL = 0.25
"""Seconds between looks at what is pending; the first ones after a broadcast come sooner."""
FIRST_POLL = 0.02
BUMP_BLOCKS = 4
FINAL_BLOCKS = 12
HEADROOM = 1.25
"""Gas limit over the estimate: the state may move on before the call is mined."""
FEE_LIMIT = 10**17
"""Wei that one call may cost at most. What gas costs, and how much of it a call needs, is known from the chain node alone: one that lies, or is not
the owner's, could have an account's coin spent on fees."""
LIMIT_VARIABLE = "ASSAY_FEE_LIMIT"
SEARCH, SEARCH_STEP = 128, 8
"""Blocks that are looked through for who took a nonce, and how many in a request."""
WINDOW = 100
"""Transactions whose receipts are asked for at once."""
FEES: list[tuple[str, list[object]]] = [("eth_getBlockByNumber", ["latest", False]), ("eth_maxPriorityFeePerGas", [])]
HARMLESS = ("already known", "alreadyknown", "already imported", "nonce too low", "underpriced", "known transaction")
"""Answers to a broadcast that say that the nonce is taken care of."""


class NoLimit(ValueError):
    """What the environment names as the limit of fees is no number."""


def fee_limit(text: str | None) -> int:
    """Wei; FEE_LIMIT where nothing is named. Raises NoLimit."""
    if text and not (text.isascii() and text.isdigit()):
        raise NoLimit(f"{LIMIT_VARIABLE}={text}: a whole number of wei, at most so many a call")
    return int(text) if text else FEE_LIMIT


@dataclass(slots=True)
class Wish:
    """A call that has no nonce yet; `receipt` is what its sender waits for."""

    call_id: CallId
    target: Address
    data: bytes
    receipt: asyncio.Future[dict[str, Any]]


class Sender:
    """`await send(call_id, to, data)` gives the block. `start()` resumes what a former process left; `stop()` ends the task."""

    def __init__(
        self, rpc: Rpc, account: LocalAccount, chain_id: int, journal: SendJournal, spare: dict[bytes, int] | None = None, limit: int = FEE_LIMIT
    ) -> None:
        """`limit`: wei that one call may cost."""
        self.spare = spare or {}
        """Gas over estimate and headroom, by a call's first four bytes."""
        self.limit = limit
        self.rpc, self.account, self.chain_id, self.journal = rpc, account, chain_id, journal
        self.address = Address(account.address.lower())
        self.broadcasts = 0
        self._wishes: list[Wish] = []
        self._pending: dict[CallId, Entry] = {}
        self._results: dict[CallId, asyncio.Future[dict[str, Any]]] = {}
        self._sends: dict[CallId, asyncio.Task[int]] = {}
        self._nurse: asyncio.Task[None] | None = None
        self._kick = asyncio.Event()
        self._stale = True
        """The node may not have what the journal has: after a start, an outage or a reorganisation."""
        self._missing: dict[CallId, int] = {}
        """Nonce spent, no receipt: since which head block."""
        self._first = -1
        """Lowest nonce that is pending; `_stalled_at` and `_bumped_at` are head blocks, counted anew when it changes."""
        self._stalled_at = self._bumped_at = -1

    # ---- what callers see

    async def start(self) -> None:
        """Takes up what is pending. Raises Outage."""
        self._adopt(self.journal.from_nonce(await self._count_now()))
        if self._pending:
            self._wake()

    async def stop(self) -> None:
        tasks = [task for task in (self._nurse, *self._sends.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def send(self, call_id: CallId, target: Address, data: bytes) -> int:
        """The block in which the call was mined. Raises Refused (with the revert data), Outage, StorageFull, or ValueError when the
        call id was used for another call."""
        task = self._sends.get(call_id)
        if task is None:
            task = self._sends[call_id] = asyncio.create_task(self._send(call_id, target, data), name=f"send {call_id}")
            task.add_done_callback(lambda done: (self._sends.pop(call_id, None), done.cancelled() or done.exception()))
        return await asyncio.shield(task)

    # ---- one call

    async def _send(self, call_id: CallId, target: Address, data: bytes) -> int:
        entry = self.journal.get(call_id)
        if entry is None:
            receipt = await self._wish(call_id, target, data)
        elif (entry.target, entry.data) != (target, data):
            raise ValueError(f"the call id {call_id} was used for another call")
        else:
            receipt = await self._outcome(entry)
        while True:
            block = number(receipt.get("blockNumber"))
            if number(receipt.get("status")) == 1:
                return block
            await self.rpc.call("eth_estimateGas", self._asked(target, data))  # raises the reason, when it still stands
            if (await self.rpc.head()).number - block < FINAL_BLOCKS:
                raise Outage(f"{call_id} failed in block {block}, though it would pass now; it can be sent again when that block is final")
            receipt = await self._wish(call_id, target, data)

    def _asked(self, target: Address, data: bytes) -> dict[str, str]:
        return {"from": self.account.address, "to": target, "data": "0x" + data.hex()}

    async def _wish(self, call_id: CallId, target: Address, data: bytes) -> dict[str, Any]:
        wish = Wish(call_id, target, data, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        self._wake()
        return await wish.receipt

    async def _outcome(self, entry: Entry) -> dict[str, Any]:
        """The receipt of what was written before, once there is one. Raises Outage."""
        if entry.call_id not in self._pending:
            self._pending[entry.call_id] = entry
            self._stale = True
        if entry.call_id not in self._results:
            self._results[entry.call_id] = asyncio.get_running_loop().create_future()
        self._wake()
        return await self._results[entry.call_id]

    # ---- the task that looks after all

    def _adopt(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._pending.setdefault(entry.call_id, entry)

    def _wake(self) -> None:
        self._kick.set()
        if self._nurse is None or self._nurse.done():
            self._nurse = asyncio.create_task(self._look_after(), name="sender")

    async def _look_after(self) -> None:
        pause = FIRST_POLL
        while self._wishes or self._pending:
            self._kick.clear()
            try:
                if self._stale:
                    again = self.journal.from_nonce(await self._count_now())
                    self._adopt(again)
                    await self._broadcast(again)
                    self._stale = False
                if self._wishes:
                    await self._broadcast(await self._admit())
                    pause = FIRST_POLL
                await self._collect()
            except Outage as error:
                self._fail(error)
                self._stale, pause = True, POLL
            except Exception as error:  # a full disk, for one: nobody may wait for ever
                self._fail(error)
                return
            if (self._pending or self._wishes) and not self._kick.is_set():
                try:
                    async with asyncio.timeout(pause):
                        await self._kick.wait()
                except TimeoutError:
                    pause = min(2 * pause, POLL)

    def _fail(self, error: Exception) -> None:
        """Tells all who wait; what is in the journal goes on, what is not is forgotten."""
        for future in [*self._results.values(), *(wish.receipt for wish in self._wishes)]:
            if not future.done():
                future.set_exception(error)
        self._wishes.clear()
        self._results.clear()

    async def _count_now(self, tag: str = "latest") -> int:
        return number(await self.rpc.call("eth_getTransactionCount", self.account.address, tag))

    def _fees(self, block: object, tip: object) -> tuple[int, int]:
        """(max fee, tip) in wei per gas: twice the base fee, so that six full blocks in a row do not outprice it."""
        if not isinstance(block, dict):
            raise Outage(f"the chain node gave no head block: {block}")
        wei = 10**9 if isinstance(tip, Exception) else number(tip)  # a node without the method
        return 2 * number(block.get("baseFeePerGas", "0x0")) + wei, wei

    async def _fees_now(self) -> tuple[int, int]:
        return self._fees(*await self.rpc.batch(FEES))

    def _too_dear(self, gas: int, fee: int) -> Outage | None:
        if gas * fee <= self.limit:
            return None
        asked, most = gas * fee / 10**18, self.limit / 10**18
        next = f"use another node (--rpc), wait, or allow more ({LIMIT_VARIABLE}, in wei)"
        return Outage(f"the chain node wants up to {asked:.4g} coins of gas for one call, over the limit of {most:.4g}: {next}")

    def _sign(self, entry: Entry, fee: int, tip: int) -> Attempt:
        """Raises Outage for what would cost more than the limit."""
        if error := self._too_dear(entry.gas, fee):
            raise error
        signed = self.account.sign_transaction(
            {
                "type": 2, "chainId": self.chain_id, "nonce": entry.nonce, "to": Web3.to_checksum_address(entry.target), "data": entry.data,
                "value": 0, "gas": entry.gas, "maxFeePerGas": fee, "maxPriorityFeePerGas": tip,
            }
        )  # fmt: skip
        return Attempt(bytes(signed.hash), bytes(signed.raw_transaction), fee, tip)

    async def _admit(self) -> list[Entry]:
        """Simulation, nonces, signatures and journal for all that waits; what is refused is told so. The others may be broadcast."""
        wishes = list(self._wishes)
        requests: list[tuple[str, list[object]]] = [("eth_estimateGas", [self._asked(wish.target, wish.data)]) for wish in wishes]
        count, block, tip, *gas = await self.rpc.batch([("eth_getTransactionCount", [self.account.address, "pending"]), *FEES, *requests])
        fee, tip = self._fees(block, tip)
        nonce = max(number(count), self.journal.next_nonce())
        ready: list[Entry] = []
        accepted: list[Wish] = []
        for wish, needed in zip(wishes, gas, strict=True):
            if isinstance(needed, Exception):
                if not wish.receipt.done():
                    wish.receipt.set_exception(self._explained(needed) if isinstance(needed, RpcError) else needed)
                continue
            limit = int(number(needed) * HEADROOM) + self.spare.get(wish.data[:4], 0)
            if error := self._too_dear(limit, fee):
                if not wish.receipt.done():
                    wish.receipt.set_exception(error)
                continue
            entry = Entry(wish.call_id, nonce + len(ready), wish.target, wish.data, limit)
            entry.attempts = [self._sign(entry, fee, tip)]
            ready.append(entry)
            accepted.append(wish)
        await asyncio.to_thread(self.journal.write, ready)
        self._wishes = self._wishes[len(wishes) :]  # others may have come meanwhile
        for entry, wish in zip(ready, accepted, strict=True):
            self._pending[entry.call_id] = entry
            self._results[entry.call_id] = wish.receipt
        return ready

    def _explained(self, error: RpcError) -> Outage:
        if "insufficient funds" in error.reason or "gas required exceeds" in error.reason:
            return Outage(f"the account {self.address} has no money for gas: send it some of the chain's native coin ({error.reason})")
        return error

    async def _broadcast(self, entries: list[Entry]) -> None:
        """The newest attempt of each. Raises Outage when the node does not take one for another reason than that it knows it."""
        requests: list[tuple[str, list[object]]] = [("eth_sendRawTransaction", ["0x" + e.attempts[-1].raw.hex()]) for e in entries]
        self.broadcasts += len(requests)
        for answer in await self.rpc.batch(requests):
            if isinstance(answer, RpcError):
                if not any(word in answer.reason for word in HARMLESS) and "fee" not in answer.reason:  # too low a fee: bumped later
                    raise self._explained(answer)
            elif isinstance(answer, Exception):
                raise Outage(f"the chain node does not take the transaction: {answer}")

    async def _collect(self) -> None:
        """Receipts of what is mined; care for what is not."""
        line = sorted(self._pending.values(), key=lambda entry: entry.nonce)
        asked = [(entry, attempt.hash) for entry in line[:WINDOW] for attempt in entry.attempts]
        requests: list[tuple[str, list[object]]] = [("eth_getTransactionReceipt", ["0x" + digest.hex()]) for _, digest in asked]
        state: list[tuple[str, list[object]]] = [
            ("eth_getBlockByNumber", ["latest", False]),
            ("eth_getTransactionCount", [self.account.address, "latest"]),
        ]
        latest, counted, *answers = await self.rpc.batch([*state, *requests])
        head, count = block_of(latest), number(counted)
        for (entry, _), answer in zip(asked, answers, strict=True):
            if isinstance(answer, Exception):
                raise Outage(f"the chain node gave no receipt: {answer}")
            if isinstance(answer, dict):
                self._resolve(entry, answer)
        missing = [entry for entry in line[:WINDOW] if entry.call_id in self._pending and entry.nonce < count]
        self._missing = {entry.call_id: self._missing.get(entry.call_id, head.number) for entry in missing}
        for entry in missing:
            if head.number - self._missing[entry.call_id] >= FINAL_BLOCKS:
                self._missing[entry.call_id] = head.number  # the search is not repeated in every block
                await self._trace(entry, head)
        waiting = [entry for entry in line if entry.call_id in self._pending and entry.nonce >= count]
        if waiting and waiting[0].nonce != self._first:
            self._first, self._stalled_at, self._bumped_at = waiting[0].nonce, head.number, head.number
        elif waiting and head.number > self._stalled_at:
            await self._urge(waiting, head, count)

    def _resolve(self, entry: Entry, receipt: dict[str, Any]) -> None:
        self._pending.pop(entry.call_id, None)
        future = self._results.pop(entry.call_id, None)
        if future is not None and not future.done():
            future.set_result(receipt)

    async def _trace(self, entry: Entry, head: Block) -> None:
        """Looks for what took the entry's nonce: another program's transaction, deep enough, lets the call have a new nonce."""
        ours = {"0x" + attempt.hash.hex() for attempt in entry.attempts}
        for top in range(head.number, max(head.number - SEARCH, -1), -SEARCH_STEP):
            numbers = range(top, max(top - SEARCH_STEP, -1), -1)
            blocks = await self.rpc.batch([("eth_getBlockByNumber", [hex(n), True]) for n in numbers])
            for at, block in zip(numbers, blocks, strict=True):
                transactions = block.get("transactions", []) if isinstance(block, dict) else []
                for sent in transactions:
                    if str(sent.get("from")).lower() != self.address or number(sent.get("nonce")) != entry.nonce:
                        continue
                    if sent.get("hash") not in ours and head.number - at >= FINAL_BLOCKS:
                        self._requeue(entry)
                    return  # ours, and the receipt is late; or not final yet
        text = f"nonce {entry.nonce} of {self.address} is spent, but this chain node shows neither our transaction nor another: use another node"
        future = self._results.pop(entry.call_id, None)
        if future is not None and not future.done():
            future.set_exception(Outage(text))

    def _requeue(self, entry: Entry) -> None:
        del self._pending[entry.call_id]
        receipt = self._results.pop(entry.call_id, None) or asyncio.get_running_loop().create_future()
        self._wishes.append(Wish(entry.call_id, entry.target, entry.data, receipt))
        self._kick.set()

    async def _urge(self, line: list[Entry], head: Block, count: int) -> None:
        """A block came and nothing of `line` (what is pending, in order) was in it."""
        self._stalled_at = head.number
        first = line[0]
        if first.nonce > count:
            if await self._count_now("pending") > count:  # another program's, on its way
                return
            fallen = self.journal.from_nonce(count)
            if fallen[0].nonce == count:  # it was mined, in blocks that are no longer part of the chain
                self._adopt(fallen)
                return await self._broadcast(fallen)
            first = Entry(CallId(f"fill nonce {count} at {head.number}"), count, self.address, b"", 21_000)  # its holder was dropped
            first.attempts = [self._sign(first, *await self._fees_now())]
            self.journal.write([first])
            self._pending[first.call_id] = first
            line.insert(0, first)
        elif head.number - self._bumped_at >= BUMP_BLOCKS:
            fee, tip = await self._fees_now()
            last = first.attempts[-1]
            fee = max(fee, last.fee * 5 // 4 + 1)
            if not self._too_dear(first.gas, fee):
                self.journal.add(first, self._sign(first, fee, max(tip, last.tip * 5 // 4 + 1)))
            self._bumped_at = head.number
        await self._broadcast(line)
