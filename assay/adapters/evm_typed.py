"""What is signed for a network's contracts: offers, receipts and seals as EIP-712 typed data (eips.ethereum.org/EIPS/eip-712)."""

from __future__ import annotations

from eth_account import Account
from eth_account.messages import SignableMessage, encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from assay.chain import Offer
from assay.ids import Address, Digest, PeerId, SegmentId

HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
"""Of secp256k1; signatures with a greater s are refused by the contract (EIP-2)."""
TYPES = {
    "Offer": [
        {"name": "provider", "type": "address"}, {"name": "job", "type": "uint64"}, {"name": "parent", "type": "uint64"},
        {"name": "start", "type": "uint64"}, {"name": "stop", "type": "uint64"}, {"name": "price", "type": "uint128"},
        {"name": "expires", "type": "uint64"}, {"name": "nonce", "type": "uint256"},
    ],
    "Visit": [{"name": "peer", "type": "string"}],
    "Receipt": [{"name": "segment", "type": "uint64"}, {"name": "round", "type": "uint32"}],
    "Seal": [{"name": "segment", "type": "uint64"}, {"name": "round", "type": "uint32"}, {"name": "digest", "type": "bytes32"}],
}  # fmt: skip


class TypedData:
    """Of one network. Nothing is asked of its chain: signatures are checked offline."""

    def __init__(self, chain_id: int, contract: Address) -> None:
        self.chain_id = chain_id
        self.contract = contract

    def _typed(self, kind: str, message: dict[str, object]) -> SignableMessage:
        domain = {"name": "Assay", "version": "1", "chainId": self.chain_id, "verifyingContract": self.contract}
        return encode_typed_data(domain_data=domain, message_types={kind: TYPES[kind]}, message_data=message)

    def receipt_data(self, segment: SegmentId, round: int) -> SignableMessage:
        return self._typed("Receipt", {"segment": segment, "round": round})

    def seal_data(self, segment: SegmentId, round: int, digest: Digest) -> SignableMessage:
        return self._typed("Seal", {"segment": segment, "round": round, "digest": digest})

    def offer_data(self, offer: Offer) -> SignableMessage:
        return self._typed("Offer", {name: getattr(offer, name) for name in offer.__struct_fields__})

    def visit_data(self, peer: PeerId) -> SignableMessage:
        return self._typed("Visit", {"peer": peer})

    def offer_signer(self, offer: Offer, signature: bytes) -> Address | None:
        """None when the contract would not accept the signature, whoever made it; also when the offer's numbers do not fit its types."""
        try:
            return _signer_of(self.offer_data(offer), signature)
        except ValueError:
            return None

    def receipt_signer(self, segment: SegmentId, round: int, signature: bytes) -> Address | None:
        try:
            return _signer_of(self.receipt_data(segment, round), signature)
        except ValueError:
            return None

    def seal_signer(self, segment: SegmentId, round: int, digest: Digest, signature: bytes) -> Address | None:
        try:
            return _signer_of(self.seal_data(segment, round, digest), signature)
        except ValueError:
            return None

    def visit_signer(self, peer: PeerId, signature: bytes) -> Address | None:
        return _signer_of(self.visit_data(peer), signature)

    def sign_visit(self, signer: LocalAccount, peer: PeerId) -> bytes:
        """That `peer` asks for the account of `signer`."""
        return bytes(signer.sign_message(self.visit_data(peer)).signature)


def _signer_of(message: SignableMessage, signature: bytes) -> Address | None:
    """Whose signature it is, if it has the one form that the contract accepts: r, s (low), v in {27, 28}."""
    if len(signature) != 65 or signature[64] not in (27, 28) or int.from_bytes(signature[32:64], "big") > HALF_ORDER:
        return None
    try:
        return Address(Account.recover_message(message, signature=signature).lower())
    except (BadSignature, ValidationError):
        return None
