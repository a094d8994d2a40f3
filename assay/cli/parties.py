"""Who places a job and who keeps its keys: named by account, or the first that is seen among peers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from assay import client
from assay.cli.common import ENVIRONMENT, FAILED, USAGE, Trouble
from assay.ids import Address, address

DISCOVERY = 90.0
"""Seconds to wait for a scheduler or key service to be seen among peers."""


async def party(node: Any, role: str, named: str | None) -> Address:
    """The account of a role: the one that was named, or the first that is seen among peers. Raises Trouble."""
    if named is not None:
        try:
            return address(named)
        except ValueError as error:
            raise Trouble(f"the {role}'s account is malformed", str(error), code=USAGE) from None
    deadline = time.monotonic() + DISCOVERY
    while time.monotonic() < deadline:
        for record in node.peers.records():
            if record.role == role:
                return Address(record.account)
        await asyncio.sleep(0.25)
    what = f"no {role} was seen among the peers within {DISCOVERY:g} s"
    raise Trouble(what, "the bootstrap node knows none, or cannot be reached", f"assay {role} start, or name one: --{role} ACCOUNT", ENVIRONMENT)


async def key_service(node: Any, named: str | None) -> client.Service:
    """Of several accounts, with commas between them: key holders, of whom more than half release a key together. Raises Trouble."""
    try:
        if named is not None and "," in named:
            accounts = [await party(node, "keyservice", one.strip()) for one in named.split(",")]
            return await client.find_holders(node.chain, accounts, len(accounts) // 2 + 1)
        return await client.find_service(node.chain, await party(node, "keyservice", named))
    except LookupError as error:
        raise Trouble("the key service cannot be used", str(error), "name another: --keyservice ACCOUNT", FAILED) from None
