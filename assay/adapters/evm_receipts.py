"""The contract with the stake behind receipts (contracts/src/Receipts.sol), for one account.

To disputes of its own it is what Jobs and Stakes are to the network's, and answers the same views; so this is the Chain port over it, as far as
stake and disputes go, with what only receipts have: a signed claim, and bringing one. Its address is told, like that of Jobs.
"""

from __future__ import annotations

from eth_account.messages import SignableMessage, encode_typed_data

from assay.adapters import evm_abi
from assay.adapters.evm import EvmChain
from assay.adapters.evm_rpc import Refused
from assay.answering import Claim
from assay.chain import CallId
from assay.ids import Address, Digest, SegmentId
from assay.ports import Reverted

CLAIM = [
    {"name": "signer", "type": "address"}, {"name": "programRoot", "type": "bytes32"}, {"name": "dataRoot", "type": "bytes32"},
    {"name": "scheduleRoot", "type": "bytes32"}, {"name": "stateRoot", "type": "bytes32"}, {"name": "linkRoot", "type": "bytes32"},
    {"name": "bond", "type": "uint128"}, {"name": "expires", "type": "uint64"},
]  # fmt: skip


def typed(claim: Claim, chain_id: int, contract: Address) -> SignableMessage:
    """What a signer signs (EIP-712)."""
    domain = {"name": "Assay receipts", "version": "1", "chainId": chain_id, "verifyingContract": contract}
    names = [item["name"] for item in CLAIM]
    data = dict(zip(names, (getattr(claim, name) for name in claim.__struct_fields__), strict=True))
    return encode_typed_data(domain_data=domain, message_types={"Claim": CLAIM}, message_data=data)


class ReceiptsChain(EvmChain):
    """Open it with the address of Receipts in place of that of Jobs."""

    def sign_claim(self, claim: Claim) -> bytes:
        return bytes(self._signer.sign_message(typed(claim, self.chain_id, self.contract)).signature)

    async def stake_of(self, who: Address) -> tuple[int, int, int]:
        """What an account has staked, what of it is reserved for disputes, and what is leaving."""
        stake, reserved = [int(await self.read("receipts", name, who)) for name in ("stakeOf", "reservedOf")]
        leaving, _ = await self.read("receipts", "unbondingOf", who)
        return stake, reserved, int(leaving)

    async def unbond_delay(self) -> int:
        return int(await self.read("receipts", "unbondDelay"))

    async def number_of(self, claim: Claim) -> SegmentId:
        """Under which disputes know it; 0 when nobody has brought it."""
        digest = await self.read("receipts", "digestOf", claim)
        return SegmentId(int(await self.read("receipts", "receiptOf", digest)))

    async def link_root(self, number: SegmentId) -> tuple[Address, Digest]:
        """The signer of a claim that was brought, and its links."""
        signer, root, _ = await self.read("receipts", "linksOf", number)
        return Address(signer.lower()), Digest(root)

    async def accuse(self, claim: Claim, signature: bytes, program_head: bytes) -> SegmentId:
        """Brings a claim, if nobody has. Raises Reverted, Outage."""
        if not (number := await self.number_of(claim)):
            data = evm_abi.encode("receipts", "accuse", claim, signature, program_head)
            try:
                await self.sender.send(CallId(f"accuse:{signature.hex()[:32]}"), self.contract, data)
            except Refused as error:
                raise Reverted(evm_abi.explain_revert(error.data, str(error))) from None
            number = await self.number_of(claim)
        return number

    def _address(self, contract: str) -> Address:
        return self.contract if contract == "receipts" else super()._address(contract)
