"""A client's node, for as long as a command takes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from assay import client
from assay.cli import behind
from assay.cli.common import Settings
from assay.cli.folder import attend, running
from assay.cli.patience import through
from assay.ids import JobId

if TYPE_CHECKING:
    from assay.daemon import Ports


@contextlib.asynccontextmanager
async def client_node(where: Settings, budget: int = 0, left: set[JobId] | None = None, *, is_behind: bool = False) -> AsyncIterator[Ports]:
    """The client's ports, with peers and gateway up, `budget` in its account, registered on chain.

    What an earlier command has left behind on the folder (assay.cli.behind) lets go of it, and another is left at the end for the jobs in `left`:
    those that it served are added to these at the start. `is_behind`: this is such a process itself. Raises Trouble, and what the ports raise.
    """
    from assay.cli.node import Options, compose

    left = set() if left is None else left
    if not is_behind:
        left |= await asyncio.to_thread(behind.take, where)
    try:
        async with compose("client", where, Options(ipfs=os.environ.get("ASSAY_IPFS"))) as ports, _up(where, ports, budget):
            yield ports
    finally:
        if not is_behind and not running(where.data):  # another command has it: that one leaves a process behind
            behind.leave(where, left)


@contextlib.asynccontextmanager
async def _up(where: Settings, ports: Ports, budget: int) -> AsyncIterator[None]:
    from assay.cli.funding import fund
    from assay.daemon import enrol
    from assay.messages import Refusal

    async def refuse(peer: object, message: object) -> Refusal:
        return Refusal(reason="this is a client; it answers no requests")

    orders: set[asyncio.Task[None]] = set()

    def order(text: str) -> None:
        kind, _, number = text.partition("-")
        if kind == "cancel":
            orders.add(asyncio.create_task(client.cancel(ports.chain, JobId(int(number)))))

    await ports.peers.start(refuse, lambda peer, message: None)
    attending = asyncio.create_task(attend(where.data, lambda: {"role": "client", "pid": os.getpid(), "account": ports.keys.account}, order))
    try:
        await through(lambda: fund(ports.chain, where.rpc, budget, lambda note: _say(note.text)), _say)
        await through(lambda: enrol(ports), _say)
        yield
    finally:
        attending.cancel()
        await asyncio.gather(attending, *orders, return_exceptions=True)
        await ports.peers.stop()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
