"""A node's first money: gas and stake, from the local faucet where there is one, else from a person."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from assay.cli.beside import GAS_MONEY
from assay.cli.common import money
from assay.ports import Chain
from assay.runtime import Note

LOCAL_CHAIN = 31337
"""Chain id of anvil and its like: there the faucet is the node's own account."""
LOOK_EVERY = 5.0
"""Seconds between looks whether the money has come."""
BONDS = 4
"""Bonds of a challenger that a verifier should have beside its stake."""


async def bonds(role: str, chain: Chain) -> int:
    """What a verifier should have at hand to dispute what it refutes."""
    return BONDS * (await chain.dispute_rules()).bond if role == "verifier" and chain.disputes else 0


async def fund(chain: Chain, url: str, stake: int, note: Callable[[Note], None], beside: int = 0) -> int:
    """Returns when the account has gas money and something to stake: helped by the faucet, or after waiting for a person. It is not held
    up by what it should have `beside` its stake, where there is no faucet.

    A node that has a stake already is not held up by a part of it that is gone (a fee, a slash). The result is the stake that it can
    have now, at most `stake`.
    """
    told = False
    while True:
        view = await chain.view(chain.account)
        local = chain.chain_id == LOCAL_CHAIN
        short = beside + (0 if view.stake else stake) - view.tokens
        if view.native >= GAS_MONEY and (view.stake or view.tokens >= stake) and (short <= 0 or not local):
            if beside and short > 0:
                text = f"account {chain.account} lacks {money(short)} tokens for the bonds of disputes: without one it disputes nothing"
                note(Note(topic="bonds", text=text))
            return min(stake, view.stake + view.tokens)
        if local:
            from assay.localnet.faucet import give

            wanted = max(0, short)
            await give(url, chain.contract, chain.account, wanted)
            note(Note(topic="faucet", text=f"took gas money and {money(wanted)} tokens from the local faucet"))
        elif not told:
            told = True
            text = f"waiting for money: account {chain.account} needs gas money and {money(stake)} tokens"
            note(Note(topic="waiting", text=text))
        if told:
            await asyncio.sleep(LOOK_EVERY)
