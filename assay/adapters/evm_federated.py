"""The contract that pays for federated rounds (contracts/src/Federated.sol), for one account of an EVM chain.

Its address follows from its code and the token's (evm_create2), so nobody has to be told it; whoever posts the first job of a network puts it there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from assay.adapters import evm_abi
from assay.adapters.evm import EvmChain
from assay.adapters.evm_create2 import DEPLOYER, created, deployment
from assay.adapters.evm_rpc import Refused, blob
from assay.chain import CallId
from assay.codec import encode
from assay.federated.money import FederatedTerms, Piece, Stand, Sum
from assay.ids import Address, Digest
from assay.merkle import sha256
from assay.ports import Reverted

ROW = [
    {"name": "job", "type": "uint64"}, {"name": "round", "type": "uint32"}, {"name": "terms", "type": "bytes32"},
    {"name": "place", "type": "uint32"}, {"name": "row", "type": "bytes32"},
]  # fmt: skip


class EvmMoney:
    """Implements assay.federated.money.Money beside an open chain, whose sender and journal it shares."""

    def __init__(self, chain: EvmChain) -> None:
        self.chain, self.account = chain, chain.account
        self.contract = chain.contracts["federated"] = created("federated", chain.contracts["token"])

    async def there(self) -> bool:
        """Whether the contract is on this chain."""
        return bool(blob(await self.chain.rpc.call("eth_getCode", self.contract, "latest")))

    async def deploy(self) -> None:
        """Puts the contract there, if nobody has."""
        if not await self.there():
            await self.chain.sender.send(CallId("deploy federated"), DEPLOYER, deployment("federated", self.chain.contracts["token"]))

    async def _send(self, function: str, *arguments: object) -> None:
        """A call under a name that follows from it: the same again after a crash is not sent twice."""
        data = evm_abi.encode("federated", function, *arguments)
        try:
            await self.chain.sender.send(CallId(f"federated {function} {sha256(data).hex()[:32]}"), self.contract, data)
        except Refused as error:
            raise Reverted(evm_abi.explain_revert(error.data, str(error))) from None

    async def post(self, terms: FederatedTerms) -> int:
        locked, call = terms.rounds * terms.pay + terms.bond, CallId(f"federated post {sha256(encode(terms)).hex()[:32]}")
        await self.chain.approve(call, self.contract, locked)
        await self._send("post", terms)
        name = self.name(terms)
        for number in range(int(await self.chain.read("federated", "count")), 0, -1):
            stand = await self.job(number)
            if stand.terms == name and stand.host == self.account:
                return number
        raise Reverted("the job was posted, and is not there")

    async def close(self, number: int, terms: FederatedTerms, sum: Sum, signatures: Sequence[bytes]) -> None:
        await self._send("close", number, terms, sum, tuple(signatures))

    async def challenge(
        self, number: int, terms: FederatedTerms, round: int, sum: Sum, index: int, total: Piece, rows: Sequence[Piece]
    ) -> None:  # fmt: skip
        await self._send("challenge", number, terms, round, sum, index, total, tuple(rows))

    async def add(self, number: int, terms: FederatedTerms, round: int, sum: Sum, index: int, rows: Sequence[Piece]) -> None:
        await self._send("add", number, terms, round, sum, index, tuple(rows))

    async def object(self, number: int, terms: FederatedTerms, round: int, place: int) -> None:
        await self._send("object", number, terms, round, place)

    async def strike(self, number: int, terms: FederatedTerms, round: int, place: int) -> None:
        await self._send("strike", number, terms, round, place)

    async def settle(self, number: int, terms: FederatedTerms, round: int) -> None:
        await self._send("settle", number, terms, round)

    async def end(self, number: int, terms: FederatedTerms) -> None:
        await self._send("end", number, terms)

    async def withdraw(self) -> None:
        """Under a name with the block: an account withdraws more than once."""
        data, head = evm_abi.encode("federated", "withdraw"), await self.chain.head()
        try:
            await self.chain.sender.send(CallId(f"federated withdraw {head.number}"), self.contract, data)
        except Refused as error:
            raise Reverted(evm_abi.explain_revert(error.data, str(error))) from None

    async def posted(self, number: int) -> FederatedTerms:
        """The terms under which a job was posted. Raises KeyError, Outage."""
        async for said in self._said("FederatedPosted", number):
            return evm_abi.struct(FederatedTerms, said["terms"])
        raise KeyError(number)

    async def sum(self, number: int, round: int) -> Sum:
        """What its host closed a round with. Raises KeyError, Outage."""
        async for said in self._said("RoundClosed", number):
            if said["round"] == round:
                return evm_abi.struct(Sum, said["sum"])
        raise KeyError(round)

    async def paid(self, number: int) -> list[tuple[int, Address, int]]:
        """(round, owner, amount), in order."""
        return [(said["round"], Address(said["owner"].lower()), said["amount"]) async for said in self._said("OwnerPaid", number)]

    async def _said(self, event: str, number: int) -> AsyncIterator[dict[str, Any]]:
        span = {"fromBlock": hex(self.chain.reader.first_block), "toBlock": "latest"}
        logs = await self.chain.rpc.call("eth_getLogs", {"address": self.contract, **span})
        for log in logs if isinstance(logs, list) else ():
            said = evm_abi.decode_event("federated", event, [blob(topic) for topic in log["topics"]], blob(log["data"]))
            if said is not None and said["id"] == number:
                yield said

    async def job(self, number: int) -> Stand:
        terms, host, until, closed, settled, broken, ended, held = await self.chain.read("federated", "job", number)
        return Stand(
            terms=Digest(terms), host=Address(host.lower()), until=until, closed=closed, settled=settled, broken=broken, ended=ended, held=held
        )

    async def credit(self, who: Address) -> int:
        return int(await self.chain.read("federated", "credit", who))

    async def now(self) -> int:
        return (await self.chain.head()).time

    def name(self, terms: FederatedTerms) -> Digest:
        # What `post` is called with is abi.encode(terms) behind its selector.
        return Digest(keccak(evm_abi.encode("federated", "post", terms)[4:]))

    def sign(self, number: int, round: int, terms: Digest, place: int, row: Digest) -> bytes:
        domain: dict[str, Any] = {
            "name": "Assay federated", "version": "1", "chainId": self.chain.chain_id, "verifyingContract": self.contract
        }  # fmt: skip
        said = {"job": number, "round": round, "terms": terms, "place": place, "row": row}
        return self.chain.sign_typed(encode_typed_data(domain_data=domain, message_types={"Row": ROW}, message_data=said))
