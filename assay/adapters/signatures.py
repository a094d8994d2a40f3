"""Signatures of an account under texts (EIP-191, as wallets sign messages)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.ids import Address, address

if TYPE_CHECKING:
    from assay.adapters.keys import NodeKeys


def sign_text(keys: NodeKeys, text: str) -> bytes:
    from eth_account.messages import encode_defunct

    return bytes(keys.signer.sign_message(encode_defunct(text=text)).signature)


def text_signer(text: str, signature: bytes) -> Address | None:
    """Whose signature it is; None for nobody's."""
    from eth_account import Account
    from eth_account.messages import encode_defunct

    if len(signature) != 65:
        return None
    try:
        return address(Account.recover_message(encode_defunct(text=text), signature=signature))
    except Exception:  # many kinds, by the library that is underneath
        return None
