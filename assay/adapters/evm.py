"""The `Chain` port over any EVM node: events by evm_reader, transactions by evm_sender, words by evm_abi, signatures by EIP-712.

    chain = await EvmChain.open("http://127.0.0.1:8545", contract, signer, folder / "sender.sqlite")
    await chain.send(CallId("deposit"), Deposit(amount=5))     # block number; Reverted(reason) costs nothing; Outage: try again
    await chain.events(after=(-1, -1), depth=2)
    await chain.close()

`signer` is an eth_account LocalAccount, the file is the sender's journal (one process, one account, one network). Stakes, token,
Disputes and Datasets are found through the contract's views, Bounties by its code (evm_create2). `EvmReader` is the half of it that needs
no key. Calls that take tokens first approve, exactly, when the allowance does not suffice. web3 is imported with this module (0.7 s, 54 MB), so
nothing imports this lightly.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Self

from eth_account.messages import SignableMessage
from eth_account.signers.local import LocalAccount

from assay import chain
from assay.adapters import evm_abi, evm_create2, evm_moves
from assay.adapters.evm_disputes import DisputeReader
from assay.adapters.evm_journal import SendJournal
from assay.adapters.evm_news import News
from assay.adapters.evm_reader import Reader
from assay.adapters.evm_rpc import Refused, Rpc, RpcError, blob, number
from assay.adapters.evm_sender import LIMIT_VARIABLE, Sender, fee_limit
from assay.adapters.evm_typed import TypedData
from assay.adapters.refusals import refuse
from assay.chain import AnyCall, AnyChainEvent, Block, CallId, Offer
from assay.dispute.record import Record, Rules
from assay.ids import ZERO_ADDRESS, Address, Digest, DisputeId, SegmentId
from assay.licensing import decode_uses
from assay.ports import AccountView, Outage, Reverted, Stamp

sys.setrecursionlimit(1000)
"""Python's own. A library that web3 brings (py_ecc) raises it to 100,000, and then JSON that is nested deeply enough, which anybody can send,
overflows the stack instead of being refused."""
Taking = chain.Deposit | chain.PostJob | chain.PostLicensed | chain.FundJob | chain.SealDispute | chain.OfferBounty | chain.DepositSurety
"""Calls that take tokens."""
DECISION_GAS = 500_000
"""For what the estimate of a reveal does not know of: it may turn out to be the last one, which decides the round and pays all."""
VERSION = "1"
"""Of the contracts whose rules this program knows, as they say it themselves (EIP-5267)."""
MANY_BLOCKS = 10_000
"""On a longer chain it is worth finding out where the contract was deployed."""


class NoContract(Exception):
    """There is no Jobs contract at that address."""


class EvmReader(TypedData):
    """Reads a network; `open` finds its contracts."""

    def __init__(self, rpc: Rpc, chain_id: int, genesis: Digest, contracts: dict[str, Address], first_block: int) -> None:
        super().__init__(chain_id, contracts["jobs"])
        self.rpc = rpc
        self.genesis = genesis
        self.contracts = contracts
        """By name: jobs, stakes, token; disputes, datasets, bounties, takeovers, sureties and showings, if the network has them."""
        self.disputes = contracts.get("disputes", Address(""))
        self.takeovers = contracts.get("takeovers", Address(""))
        named = {address: name for name, address in contracts.items() if name != "token"}
        self.reader = Reader(rpc, named, first_block)
        self._news = News(rpc.url)
        self._records = DisputeReader(self.reader, chain_id, self.disputes)

    @classmethod
    async def _discover(cls, rpc: Rpc, contract: Address) -> tuple[int, Digest, dict[str, Address], int]:
        chain_id, genesis, head = number(await rpc.call("eth_chainId")), (await rpc.block(0)).hash, await rpc.head()
        found = {"jobs": contract}

        async def ask(name: str, function: str) -> Any:
            answer = await rpc.call("eth_call", {"to": found[name], "data": "0x" + evm_abi.encode(name, function).hex()}, "latest")
            return evm_abi.decode_result(name, function, blob(answer))

        try:
            version = (await ask("jobs", "eip712Domain"))[2]
            if version != VERSION:
                why = f"the contract at {contract} has version {version[:40]!r}, this program speaks {VERSION}"
                raise NoContract(f"{why}: its jobs end under its own rules; use a release that knows them")
            for name in ("stakes", "token", "disputes"):
                found[name] = Address((await ask("jobs", name)).lower())
            if found["disputes"] == ZERO_ADDRESS or not await ask("disputes", "disputable"):
                del found["disputes"]
        except (Refused, evm_abi.BadLog):
            raise NoContract(f"there is no Jobs contract at {contract} on chain {chain_id} ({rpc.url}): check the address and the URL") from None
        with contextlib.suppress(Refused, evm_abi.BadLog):  # stakes behind receipts know of no data sets
            if (datasets := Address((await ask("stakes", "datasets")).lower())) != ZERO_ADDRESS:
                found["datasets"] = datasets
        for name in ("bounties", "takeovers", "sureties", "showings"):
            where = evm_create2.created(name, contract)
            if blob(await rpc.call("eth_getCode", where, "latest")):
                found[name] = where
        return chain_id, genesis, found, await _deployed_in(rpc, contract, head.number)

    @classmethod
    async def open(cls, url: str, contract: Address) -> EvmReader:
        """Raises Outage or NoContract."""
        rpc = Rpc(url)
        try:
            return cls(rpc, *await cls._discover(rpc, contract))
        except BaseException:
            await rpc.close()
            raise

    async def close(self) -> None:
        await self._news.close()
        await self.rpc.close()

    async def head(self) -> Block:
        return await self.rpc.head()

    async def news(self, seconds: float) -> None:
        """Implements assay.daemon.Telling."""
        await self._news.wait(seconds)

    async def block_hash(self, number: int) -> Digest:
        return (await self.rpc.block(number)).hash

    async def block(self, number: int) -> Block:
        return await self.rpc.block(number)

    async def stamped(self, transaction: Digest) -> Stamp:
        """Raises Outage, or KeyError when there is no such transaction, or one that is not a note to oneself."""
        name = "0x" + transaction.hex()
        found = await self.rpc.call("eth_getTransactionByHash", name)
        if not isinstance(found, dict) or str(found.get("hash")) != name:
            raise KeyError(transaction.hex())
        place = found.get("blockNumber")
        if place is None:  # anvil shows what it has just mined as waiting for a moment; the receipt is there with the block
            receipt = await self.rpc.call("eth_getTransactionReceipt", name)
            place = receipt.get("blockNumber") if isinstance(receipt, dict) else None
        if place is None:
            raise KeyError(transaction.hex())
        sender = str(found.get("from")).lower()
        if sender != str(found.get("to")).lower():
            raise KeyError(transaction.hex())
        return Stamp(sender=Address(sender), data=blob(found.get("input")), block=await self.rpc.block(number(place)))

    async def events(self, after: tuple[int, int], depth: int) -> list[AnyChainEvent]:
        return await self.reader.events(after, depth)

    async def read(self, contract: str, function: str, *arguments: object) -> Any:
        """A view's result. Raises Outage, or Reverted when the contract refuses."""
        (result,) = await self._views([(contract, function, arguments)])
        return result

    async def _views(self, wanted: list[tuple[str, str, tuple[object, ...]]], *more: tuple[str, list[object]]) -> list[Any]:
        """Results of views, then of further requests, in one round trip."""
        requests: list[tuple[str, list[object]]] = []
        for contract, function, arguments in wanted:
            data = "0x" + evm_abi.encode(contract, function, *arguments).hex()
            requests.append(("eth_call", [{"to": self._address(contract), "data": data}, "latest"]))
        answers = await self.rpc.batch([*requests, *more])
        for answer in answers:
            if isinstance(answer, Refused):
                raise Reverted(evm_abi.explain_revert(answer.data, str(answer)))
            if isinstance(answer, Exception):
                raise answer
        try:
            results = [evm_abi.decode_result(w[0], w[1], blob(answer)) for w, answer in zip(wanted, answers, strict=False)]
        except evm_abi.BadLog as error:
            raise Outage(f"the chain node sent something else: {error}") from None
        return results + answers[len(wanted) :]

    def _address(self, contract: str) -> Address:
        if contract not in self.contracts:
            raise refuse(f"No{contract.capitalize()}")
        return self.contracts[contract]

    async def view(self, account: Address) -> AccountView:
        wanted: list[tuple[str, str, tuple[object, ...]]] = [
            ("token", "balanceOf", (account,)),
            ("stakes", "stakeOf", (account,)),
            ("stakes", "reservedOf", (account,)),
            ("jobs", "credit", (account,)),
        ]
        more = [name for name in ("disputes", "bounties") if name in self.contracts]
        wanted += [(name, "credit", (account,)) for name in more]
        tokens, stake, reserved, credit, *rest, native = await self._views(wanted, ("eth_getBalance", [account, "latest"]))
        credits = dict(zip(more, rest, strict=True))
        return AccountView(
            tokens=tokens, stake=stake, reserved=reserved, credit=credit, dispute_credit=credits.get("disputes", 0),
            bounty_credit=credits.get("bounties", 0), native=number(native),
        )  # fmt: skip

    # ---- disputes

    async def dispute_rules(self) -> Rules:
        """Raises Outage, or Reverted where the network has no disputes."""
        *numbers, _guardian = await self.read("disputes", "rules")
        return Rules(**dict(zip(Rules.__struct_fields__, numbers, strict=True)))

    async def dispute(self, dispute: DisputeId) -> Record:
        """Everything of a dispute up to the newest block. Raises Outage, or KeyError when there is none."""
        if not self.disputes:
            raise KeyError(dispute)
        return await self._records.record(dispute)


async def _deployed_in(rpc: Rpc, contract: Address, head: int) -> int:
    """A block at or before the contract's deployment: by bisection over eth_getCode where old state can be had, else 0."""
    low, high = 0, head
    if head < MANY_BLOCKS:
        return 0
    try:
        while low < high:
            middle = (low + high) // 2
            if blob(await rpc.call("eth_getCode", contract, hex(middle))):
                high = middle
            else:
                low = middle + 1
    except RpcError:
        return 0
    return low


class EvmChain(EvmReader):
    """The port of one account."""

    def __init__(
        self, rpc: Rpc, chain_id: int, genesis: Digest, contracts: dict[str, Address], first_block: int, signer: LocalAccount, sender: Sender
    ) -> None:
        super().__init__(rpc, chain_id, genesis, contracts, first_block)
        self.account = sender.address
        self.sender = sender
        self.reader.memory = sender.journal
        self._signer = signer
        self._allowance = asyncio.Lock()
        """Held from an approval to the call that uses it up."""

    @classmethod
    async def open(cls, url: str, contract: Address, signer: LocalAccount, journal: Path) -> Self:  # type: ignore[override]
        """Resumes what a former process left unmined. Raises Outage, NoContract, evm_journal.WrongFolder, or evm_sender.NoLimit."""
        limit = fee_limit(os.environ.get(LIMIT_VARIABLE))
        rpc = Rpc(url)
        try:
            found = await cls._discover(rpc, contract)
            chain_id, genesis, contracts, first_block = found
            book = SendJournal(journal, chain_id, genesis, contract, Address(signer.address.lower()))
        except BaseException:
            await rpc.close()
            raise
        sender = Sender(rpc, signer, chain_id, book, {evm_abi.selector("jobs", call): DECISION_GAS for call in ("reveal", "batch")}, limit)
        opened = cls(rpc, chain_id, genesis, contracts, first_block, signer, sender)
        try:
            await sender.start()
        except BaseException:
            await opened.close()
            raise
        return opened

    async def head(self) -> Block:
        """The newest block; its sender hears of it."""
        try:
            found = await super().head()
        except Outage:
            self.sender.seen(None)
            raise
        self.sender.seen(found)
        return found

    async def close(self) -> None:
        await self.sender.stop()
        self.sender.journal.close()
        await super().close()

    # ---- calls

    async def send(self, call_id: CallId, call: AnyCall) -> int:
        """The block in which the call was mined. Raises Reverted, Outage, or ValueError when the call cannot be encoded, or its id was
        used for another call."""
        if isinstance(call, chain.PlayMove):
            contract, data = "disputes", evm_moves.encode(call.dispute, call.move, call.shown)
        else:
            contract, data = evm_abi.calldata(call)
        target = self._address(contract)
        try:
            if isinstance(call, Taking):
                async with self._allowance:
                    if self.sender.journal.get(call_id) is None:
                        if isinstance(call, chain.PostLicensed):
                            await self.approve(CallId(f"{call_id} data"), self._address("datasets"), decode_uses(call.uses).most)
                        await self.approve(call_id, target, await self._taken(call))
                    return await self.sender.send(call_id, target, data)
            return await self.sender.send(call_id, target, data)
        except Refused as error:
            raise Reverted(evm_abi.explain_revert(error.data, str(error))) from None

    async def stamp(self, call_id: CallId, data: bytes) -> Digest:
        """A transaction to oneself with `data`; its hash when it is mined. Raises Outage."""
        block = await self.sender.send(call_id, self.account, data)
        entry = self.sender.journal.get(call_id)
        for attempt in entry.attempts if entry is not None else ():
            receipt = await self.rpc.call("eth_getTransactionReceipt", "0x" + attempt.hash.hex())
            if isinstance(receipt, dict) and number(receipt.get("blockNumber")) == block:
                return Digest(attempt.hash)
        raise Outage(f"{call_id} was mined in block {block}, and the chain node does not show it any more")

    async def _taken(self, call: Taking) -> int:
        """What the contract will take."""
        if isinstance(call, chain.SealDispute):
            return await self.dispute_bond(call.segment)
        if isinstance(call, chain.OfferBounty):
            return call.terms.amount
        return call.terms.budget if isinstance(call, chain.PostJob | chain.PostLicensed) else call.amount

    async def dispute_bond(self, segment: SegmentId) -> int:
        """What this account must lock to seal a dispute on a segment now. Raises Outage, or Reverted (no such segment, no disputes)."""
        return int(await self.read("disputes", "bondOf", segment, self.account))

    async def approve(self, call_id: CallId, spender: Address, amount: int) -> None:
        """Sees to it that `spender` may take `amount`. An approval that another call has used up (after a crash) is given again."""
        data = evm_abi.encode("token", "approve", spender, amount)
        attempt = 0
        while await self.read("token", "allowance", self.account, spender) < amount:
            attempt += 1
            await self.sender.send(CallId(f"{call_id} approve {attempt}"), self.contracts["token"], data)

    # ---- signatures

    def sign_typed(self, message: SignableMessage) -> bytes:
        """Typed data (EIP-712), signed by the account."""
        return bytes(self._signer.sign_message(message).signature)

    def sign_offer(self, offer: Offer) -> bytes:
        return self.sign_typed(self.offer_data(offer))

    def sign_receipt(self, segment: SegmentId, round: int) -> bytes:
        return self.sign_typed(self.receipt_data(segment, round))

    def sign_seal(self, segment: SegmentId, round: int, digest: Digest) -> bytes:
        return self.sign_typed(self.seal_data(segment, round, digest))
