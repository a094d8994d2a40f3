"""Contracts whose address follows from their code and arguments, so that nobody has to be told it (EIP-1014).

They are created through the deployer that stands at the same address of nearly every EVM chain (github.com/Arachnid/deterministic-deployment-proxy;
anvil has it from the start): calldata = salt 32 B ‖ creation code, and the contract's address is

    keccak256(0xff ‖ deployer ‖ salt ‖ keccak256(creation code))[12:]

Anybody may deploy them; what stands at that address can have been created by no other code.
"""

from __future__ import annotations

from eth_abi import abi
from eth_utils.abi import collapse_if_tuple
from eth_utils.crypto import keccak

from assay.adapters.evm_abi import artifact
from assay.ids import Address

DEPLOYER = Address("0x4e59b44847b379578588920ca78fbf26c0b4956c")
SALT = bytes(32)


def creation(contract: str, *arguments: object) -> bytes:
    """Creation code of a contract (a name of evm_abi.FILES) with its constructor's arguments."""
    built = artifact(contract)
    inputs = [collapse_if_tuple(item) for entry in built["abi"] if entry["type"] == "constructor" for item in entry["inputs"]]
    return bytes.fromhex(built["bytecode"].removeprefix("0x")) + abi.encode(inputs, list(arguments))


def deployment(contract: str, *arguments: object) -> bytes:
    """Calldata for the deployer."""
    return SALT + creation(contract, *arguments)


def created(contract: str, *arguments: object) -> Address:
    """Where it is, or would be."""
    code = keccak(creation(contract, *arguments))
    return Address("0x" + keccak(b"\xff" + bytes.fromhex(DEPLOYER[2:]) + SALT + code)[12:].hex())
