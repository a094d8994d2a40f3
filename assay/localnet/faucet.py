"""The local network's faucet: the chain's own unlocked dev account, asked over the RPC that a node has anyway.

It mints the test token (whose minter deployed the contracts) and sends gas money. There is no such account on a real chain, and
this code asks for it only where the chain id is that of a local one.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from assay.ids import Address
from assay.localnet import rpc
from assay.ports import Outage

GAS = 10**18
"""Wei for each who asks."""
TOKEN = "0xfc0c546a"
"""Selector of token(), on the Jobs contract."""
MINT = "0x40c10f19"
"""Selector of mint(address,uint256)."""
MINED_WITHIN = 120.0
TRIES = 40


def _word(value: int) -> str:
    return f"{value:064x}"


def token_of(url: str, contract: Address) -> Address:
    """The token that a Jobs contract pays in."""
    answer = rpc.call(url, "eth_call", {"to": contract, "data": TOKEN}, "latest")
    return Address("0x" + str(answer)[-40:].lower())


def _mined(url: str, hash: str) -> None:
    deadline = time.monotonic() + MINED_WITHIN
    while time.monotonic() < deadline:
        receipt: Any = rpc.call(url, "eth_getTransactionReceipt", hash)
        if receipt is not None:
            if int(receipt["status"], 16) != 1:
                raise Outage("the faucet's transaction failed: the account that is asked is not the test token's minter")
            return
        time.sleep(0.05)
    raise Outage(f"the faucet's transaction was not mined within {MINED_WITHIN:g} s")


def give_now(url: str, contract: Address, who: Address, tokens: int, gas: int = GAS) -> None:
    """Gas money and `tokens` for an account; returns when both are there. Raises Outage, rpc.RpcRefused."""
    accounts = rpc.call(url, "eth_accounts")
    if not accounts:
        raise Outage("this chain has no unlocked account, so it has no faucet: send gas money and tokens yourself")
    sent = [_send(url, {"from": accounts[0], "to": who, "value": hex(gas)})]
    if tokens:
        data = MINT + _word(int(who, 16)) + _word(tokens)
        sent.append(_send(url, {"from": accounts[0], "to": token_of(url, contract), "data": data}))
    for hash in sent:
        _mined(url, hash)


def _send(url: str, transaction: dict[str, str]) -> str:
    """The node numbers an unlocked account's transactions itself, and trips when two nodes ask at once: then asking again is right."""
    for attempt in range(TRIES):
        try:
            return str(rpc.call(url, "eth_sendTransaction", transaction))
        except rpc.RpcRefused as error:
            if attempt == TRIES - 1 or not any(word in str(error) for word in ("nonce", "underpriced", "already known")):
                raise
            time.sleep(random.uniform(0.01, 0.2))
    raise AssertionError("the last try returns or raises")


async def give(url: str, contract: Address, who: Address, tokens: int) -> None:
    await asyncio.to_thread(give_now, url, contract, who, tokens)
