"""`assay peers`: the nodes of a network, what they say of their hardware, and what of that is proven.

It looks at the network as a stranger does (assay.cli.audit.visit): it fetches the openings of proofs from their nodes, and checks them here.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from assay.cli.common import Bootstrap, Contract, Data, Json, Rpc, run, settings, show
from assay.cli.common import Settings as Where
from assay.cli.view.picture import clock, plain

AT_ONCE = 4
SETTLE = 2.0
"""Seconds in which a stranger hears of the others."""


async def seen(where: Where, examine: bool) -> list[dict[str, Any]]:
    """One row a node, by role and account. Raises Outage, and Trouble."""
    from assay.cli.audit import visit

    with tempfile.TemporaryDirectory(prefix="assay-peers-") as base:
        async with visit(where, Path(base)) as (reader, blobs, peers):
            await asyncio.sleep(SETTLE if where.bootstrap else 0)
            turn = asyncio.Semaphore(AT_ONCE)

            async def row(record: Any) -> dict[str, Any]:
                told = record.hardware
                found: dict[str, Any] = {"role": record.role, "account": record.account, "peer": record.peer, "gateway": record.gateway}
                found["claimed"] = told.memory if told is not None else None
                found["proven"] = None
                if told is not None and examine:
                    async with turn:
                        found |= await _examined(reader, blobs, record.account, told)
                return found

            rows = await asyncio.gather(*(row(record) for record in peers.records()))
    return sorted(rows, key=lambda found: (found["role"], found["account"]))


async def _examined(reader: Any, blobs: Any, account: Any, told: Any) -> dict[str, Any]:
    from assay.ports import Outage
    from assay.proving.claims import examine
    from assay.proving.proof import Refuted

    try:
        proven = await examine(reader, blobs, account, told)
    except Refuted as error:
        return {"why": str(error)}
    except Outage as error:
        return {"why": f"not known now: {error}"}
    return {"proven": {"memory": proven.memory, "rate": proven.rate, "seconds": proven.seconds, "block": proven.block, "at": proven.at}}


def peers(
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
    examine: Annotated[bool, typer.Option("--examine/--no-examine", help="Fetch and check what nodes have proven of their hardware.")] = True,
) -> None:  # fmt: skip
    """The nodes of the network, with what they claim and have proven of their hardware.

    Example: [bold]assay peers[/bold]
    """
    rows = run(seen(settings(rpc, contract, bootstrap, data, "visitor"), examine))
    if json:
        show({"peers": rows})
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("role", "account", "claimed", "proven", "when")
    for row in rows:
        claimed = "" if row["claimed"] is None else f"{row['claimed'] / 2**30:.2f} GiB"
        proven, when = plain(row.get("why", "")), ""
        if row["proven"] is not None:
            found = row["proven"]
            proven = f"{found['memory'] / 2**30:.2f} GiB, {found['rate'] / 1e9:.1f} G operations/s"
            when = f"{clock(found['at'])} for block {found['block']}"
        table.add_row(*(Text(plain(cell)) for cell in (row["role"], row["account"], claimed, proven, when)))
    Console(highlight=False).print(table)
