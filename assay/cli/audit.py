"""`assay job audit`: an independent check of a job, by somebody who need not be a node of the network.

It reads the chain's node, and fetches documents from peers' gateways into a folder of its own, which is removed at the end. It sends no
transaction, answers no requests, and reads no journal; of the folder named by --data it uses the keys alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.common import Bootstrap, Contract, Data, Json, Rpc, Settings, Trouble, settings, show
from assay.cli.common import run as run_async
from assay.cli.folder import bases
from assay.cli.tables import put
from assay.ids import ZERO_ADDRESS, JobId, PeerId

if TYPE_CHECKING:
    from assay.adapters.evm import EvmReader
    from assay.adapters.ipfs import LocalBlobs
    from assay.adapters.keys import NodeKeys
    from assay.adapters.libp2p import Libp2pPeers
    from assay.audit.findings import Report
    from assay.messages import Visit

ACQUAINTANCE = 10.0
"""Seconds to wait for the first peer that serves blobs."""
SAID = {"✓": "green", "✗": "bold red", "?": "yellow", "·": "dim"}


def audit(
    job: Annotated[int, typer.Argument(metavar="JOB", help="The job's number on this contract.")],
    replay: Annotated[int, typer.Option("--replay", min=0, metavar="N", help="Compute N random links again here, and the segments around them.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Which links these are.")] = 0,
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Checks a job from the chain and IPFS alone: signatures, roots, draws, votes, payments, and what its client gets.

    Exit code 0: all that could be checked holds, and what could not be is named; 1: something is false.

    Example: [bold]assay job audit 1 --replay 3[/bold]
    """
    report = run_async(_audit(settings(rpc, contract, bootstrap, data, "client"), JobId(job), replay, seed))
    if json:
        show(as_json(report))
    else:
        tell(report)
    if report.failed:
        raise typer.Exit(1)


async def _audit(where: Settings, job: JobId, replay: int, seed: int) -> Report:
    from assay.adapters.engine_process import ProcessEngine
    from assay.adapters.evm_record import read_record
    from assay.adapters.keys import exists, open_keys
    from assay.audit.auditor import NoSuchJob
    from assay.audit.whole import audit_job
    from assay.cli.node import find_sandbox

    with tempfile.TemporaryDirectory(prefix="assay-audit-") as base:
        folder = Path(base)
        keys = open_keys(where.data) if exists(where.data) else None
        engine = ProcessEngine(processes=1, sandbox=await asyncio.to_thread(find_sandbox, "auto", 0, folder, True))
        try:
            async with visit(where, folder) as (reader, blobs, peers):
                record = await read_record(reader, job)
                return await audit_job(
                    record, job, blobs, keys, engine, folder / "work", replay=replay, seed=seed, bases=bases(), peers=peers,
                    visit=introduction(reader, peers, keys),
                )  # fmt: skip
        except NoSuchJob as error:
            raise Trouble(f"there is no job {job}", str(error), "assay job list") from None
        finally:
            await engine.close()
            if keys is not None:
                keys.close()


@contextlib.asynccontextmanager
async def visit(where: Settings, folder: Path) -> AsyncIterator[tuple[EvmReader, LocalBlobs, Libp2pPeers]]:
    """A network as a stranger sees it: its chain, the blobs that its nodes serve, and its peers. What is fetched lies in `folder`."""
    from assay.adapters.evm import EvmReader
    from assay.adapters.ipfs import LocalBlobs
    from assay.adapters.libp2p import Libp2pPeers
    from assay.messages import PeerRecord, Refusal

    async def refuse(peer: object, message: object) -> Refusal:
        return Refusal(reason="this is a visitor; it answers no requests")

    async with contextlib.AsyncExitStack() as stack:
        reader = await EvmReader.open(where.rpc, where.contract)
        stack.push_async_callback(reader.close)

        def record(addresses: list[str]) -> PeerRecord:
            return PeerRecord(
                peer=PeerId(""), account=ZERO_ADDRESS, role="visitor", addresses=tuple(addresses), gateway="", sequence=0,
                chain_id=reader.chain_id, contract=reader.contract,
            )  # fmt: skip

        try:
            peers = Libp2pPeers(os.urandom(32), ["/ip4/127.0.0.1/tcp/0"], list(where.bootstrap), record, folder / "peers")
        except ValueError as error:
            raise Trouble("the bootstrap address cannot be used", str(error), "--bootstrap /ip4/HOST/tcp/PORT/p2p/PEER", 2) from None

        blobs = LocalBlobs(folder / "blobs", peers.gateways)
        stack.push_async_callback(blobs.close)
        await peers.start(refuse, lambda peer, message: None)
        stack.push_async_callback(peers.stop)
        waited = 0.0
        while where.bootstrap and not peers.gateways() and waited < ACQUAINTANCE:
            await asyncio.sleep(0.1)
            waited += 0.1
        yield reader, blobs, peers


def introduction(reader: EvmReader, peers: Libp2pPeers, keys: NodeKeys | None) -> Visit | None:
    """What providers are told of who asks; None for who has no account."""
    from assay.messages import Visit

    return None if keys is None else Visit(account=keys.account, signature=reader.sign_visit(keys.signer, peers.peer))


# ---- what is told --------------------------------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """The report as `--json` prints it; docs/verifier.md names its keys."""

    def sheet(of: Any) -> dict[str, Any]:
        return {"held": of.held, "findings": [{"check": f.check, "ok": f.ok, "text": f.text} for f in of.findings]}

    rows = [
        {
            "segment": row.segment, "start": row.start, "stop": row.stop, "provider": row.provider, "state": row.state,
            "end_root": row.end_root.hex() if row.end_root else None, **sheet(row.sheet),
        }
        for row in report.rows
    ]  # fmt: skip
    whole = {"held": report.held, "failed": report.failed, "unchecked": report.unchecked, "verdict": report.verdict}
    return {"job": report.job, "client": report.client, "block": report.block, **whole, "whole": sheet(report.sheet), "segments": rows}


def tell(report: Report) -> None:
    """A table with a row a segment, what is false or could not be checked, and the verdict."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from assay.audit.findings import COLUMNS

    columns = [*COLUMNS, *(name for name in ("dispute", "replay") if any(row.sheet.mark(name) != "·" for row in report.rows))]
    table = Table("segment", "steps", "state", *columns, box=None, pad_edge=False)
    for row in report.rows:
        marks = [row.sheet.mark(name) for name in columns]
        table.add_row(str(row.segment), f"{row.start}-{row.stop}", row.state.lower(), *(Text(mark, SAID[mark]) for mark in marks))
    screen = Console(highlight=False, soft_wrap=True)
    screen.print(f"job {report.job} of {report.client}, up to block {report.block}")
    put(table, screen)
    whole = dict.fromkeys([*report.sheet.held, *(finding.check for finding in report.sheet.findings)])
    screen.print(Text.assemble("the job:", *((f"  {name} {(mark := report.sheet.mark(name))}", SAID[mark]) for name in whole)))
    for name, sheet in (("the job", report.sheet), *((f"segment {row.segment}", row.sheet) for row in report.rows)):
        for finding in sheet.findings:
            mark = "?" if finding.ok is None else "✗"
            screen.print(Text.assemble((f"{mark} ", SAID[mark]), f"{name}, {finding.check}: {finding.text}"))
    screen.print(Text(report.verdict, "bold red" if report.failed else "bold green"))
