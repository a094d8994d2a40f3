"""The `Stamps` port of one account over a ledger in memory. `kept` holds the stamps of all accounts of a ledger."""

from __future__ import annotations

from assay.adapters.memory_chain import MemoryLedger
from assay.chain import Block, CallId
from assay.ids import Address, Digest
from assay.merkle import sha256
from assay.ports import Outage, Stamp

Kept = dict[Digest, tuple[Address, bytes, int]]
"""By transaction: who, what, in which block."""


class MemoryStamps:
    """A stamp is mined at once, `takes` seconds after the head, and one block more a second later."""

    def __init__(self, ledger: MemoryLedger, name: str, kept: Kept, takes: int = 1) -> None:
        self.ledger, self.account, self.kept, self.takes = ledger, ledger.account(name), kept, takes
        self.chain_id = ledger.chain_id

    async def head(self) -> Block:
        return self.ledger.head

    async def block(self, number: int) -> Block:
        if not 0 <= number <= self.ledger.head.number:
            raise Outage(f"block {number} does not exist yet: the head is {self.ledger.head.number}")
        return self.ledger.blocks[number]

    async def stamp(self, call_id: CallId, data: bytes) -> Digest:
        transaction = sha256(b"assay memory stamp", self.account.encode(), call_id.encode(), data)
        if transaction not in self.kept:
            self.kept[transaction] = (self.account, data, self.ledger.mine(self.takes).number)
            self.ledger.mine(1)
        return transaction

    async def stamped(self, transaction: Digest) -> Stamp:
        sender, data, number = self.kept[transaction]
        return Stamp(sender=sender, data=data, block=await self.block(number))
