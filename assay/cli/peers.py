"""`assay peers`: the nodes of a network, what they say of their hardware, and what of that is proven.

It looks at the network as a stranger does (assay.cli.audit.visit): it fetches the openings of proofs from their nodes, and checks them here.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.common import Bootstrap, Contract, Data, Json, Rpc, Trouble, run, settings, show
from assay.cli.common import Settings as Where
from assay.cli.tables import put
from assay.cli.view.picture import clock, plain

if TYPE_CHECKING:
    from assay.messages import Means

AT_ONCE = 4
SETTLE = 2.0
"""Seconds in which a stranger hears of the others."""


def wanted(gpu: bool, memory: str | None, precision: str | None) -> Means | None:
    """What a node is to have at least; None when anybody will do. Raises Trouble."""
    from assay.messages import Means
    from assay.program import GEMM_BITS

    if not gpu and memory is None and precision is None:
        return None
    size = re.fullmatch(r"(\d{1,15})([KMGT]?)(?:iB|B)?", memory or "0")
    if size is None:
        raise Trouble("the memory cannot be read", f"{(memory or '')[:40]!r} is no size", "--memory 24G", 2)
    bits = GEMM_BITS[1] if precision == "exact" else int(precision) if precision is not None and precision.isascii() and precision.isdigit() else 0
    if precision is not None and not GEMM_BITS[0] <= bits <= GEMM_BITS[1]:
        why = f"{precision[:40]!r} is not exact, nor from {GEMM_BITS[0]} to {GEMM_BITS[1]}"
        raise Trouble("there is no such precision", why, "--precision exact", 2)
    return Means(gpu=gpu, memory=int(size[1]) << 10 * (" KMGT".index(size[2] or " ")), bits=bits)


async def seen(where: Where, examine: bool, means: Means | None) -> list[dict[str, Any]]:
    """One row a node, by role and account; with `means`, of those that have them. Raises Outage, and Trouble."""
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
                found["means"] = None if record.means is None else {name: getattr(record.means, name) for name in ("gpu", "memory", "bits")}
                if told is not None and examine:
                    async with turn:
                        found |= await _examined(reader, blobs, record.account, told)
                return found

            records = peers.records() if means is None else await peers.find(means)
            rows = await asyncio.gather(*(row(record) for record in records))
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
    gpu: Annotated[bool, typer.Option("--gpu", help="Only nodes that have a GPU.")] = False,
    memory: Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Only nodes with so much memory to compute in: 24G.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="BITS", help="Only nodes whose matrix products are so wide: 14, or exact for the widest.")
    ] = None,
    examine: Annotated[bool, typer.Option("--examine/--no-examine", help="Fetch and check what nodes have proven of their hardware.")] = True,
) -> None:  # fmt: skip
    """The nodes of the network, with what they claim and have proven of their hardware.

    With what a node should have it also finds those that nobody has told this one of.

    Example: [bold]assay peers --gpu --memory 24G --precision exact[/bold]
    """
    rows = run(seen(settings(rpc, contract, bootstrap, data, "visitor"), examine, wanted(gpu, memory, precision)))
    if json:
        show({"peers": rows})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("role", "account", "has", "claimed", "proven", "when")
    for row in rows:
        has, means = "", row["means"]
        if means is not None:
            has = f"{'GPU' if means['gpu'] else 'CPU'}, {means['memory'] / 2**30:.0f} GiB, b to {means['bits']}"
        claimed = "" if row["claimed"] is None else f"{row['claimed'] / 2**30:.2f} GiB"
        proven, when = plain(row.get("why", "")), ""
        if row["proven"] is not None:
            found = row["proven"]
            proven = f"{found['memory'] / 2**30:.2f} GiB, {found['rate'] / 1e9:.1f} G operations/s"
            when = f"{clock(found['at'])} for block {found['block']}"
        table.add_row(*(Text(plain(cell)) for cell in (row["role"], row["account"], has, claimed, proven, when)))
    put(table)
