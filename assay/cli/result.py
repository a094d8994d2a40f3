"""`assay job result`: what an evaluation measured, as it settled.

The state of an evaluation is its result and nothing else (assay.evaluation). Its client opens it with its own keys and may give the file to
anybody, who checks it against the end root on chain with --state: no key and no trust is needed for that.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.common import FAILED, Bootstrap, Contract, Data, Json, Rpc, Settings, Trouble, settings, show, writable
from assay.cli.common import run as run_async
from assay.ids import JobId

if TYPE_CHECKING:
    from assay.receipts import Ledger, Segment
    from assay.state import Tensors

MAX_RESULT = 1 << 24
"""Bytes."""


def result(
    job: Annotated[int, typer.Argument(metavar="JOB", help="The job's number on this contract.")],
    state: Annotated[Path | None, typer.Option("--state", metavar="FILE", help="A result that its client gave you.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write the result, for others.", callback=writable)] = None,
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Tells what an evaluation measured, held against what settled on chain.

    Example: [bold]assay job result 2 --out result.safetensors[/bold]
    """
    found = run_async(_result(settings(rpc, contract, bootstrap, data, "client"), JobId(job), state, out))
    if json:
        show(found)
    else:
        print(f"job {job}: {found['told']}")
        print(f"settled by {found['provider']}; program {found['program_root']}, data {found['dataset_root']}")


async def _result(where: Settings, job: JobId, given: Path | None, out: Path | None) -> dict[str, Any]:
    from assay.evaluation import is_open, of_state
    from assay.state import to_bytes

    if given is None:
        ledger, state = await _own(where, job)
    else:
        ledger, state = await _others(where, job, given)
    try:
        found = of_state(state)
    except ValueError as error:
        raise Trouble(f"job {job} is not an evaluation", str(error), f"assay job fetch {job} --out FILE.safetensors gives the weights") from None
    if out is not None and not is_open(state):
        why = "the evaluation of a bounty holds the weights, too"
        raise Trouble("this result is not written", why, "assay bounty show NUMBER tells what was shown of it", FAILED)
    if out is not None:
        await asyncio.to_thread(out.write_bytes, to_bytes(state))
    terms, last = ledger.jobs[job].terms, _last(ledger, job)
    counts = None if found.confusion is None else found.confusion.tolist()
    figures = {"loss": found.loss, "accuracy": found.accuracy, "f1": found.f1, "perplexity": found.perplexity, "confusion": counts}
    roots = {"program_root": terms.program_root.hex(), "dataset_root": terms.dataset_root.hex()}
    return {"job": job, "told": found.told(), **figures, "provider": last.provider, **roots}


def _last(ledger: Ledger, job: JobId) -> Segment:
    """The segment that the job's last step settled in. Raises Trouble."""
    if job not in ledger.jobs:
        raise Trouble(f"there is no job {job}", "this contract has not seen it", "assay job list")
    last = ledger.last_good(job)
    if last is None or last.stop != ledger.jobs[job].terms.steps:
        raise Trouble(f"job {job} has no result yet", f"{last.stop if last else 0} of {ledger.jobs[job].terms.steps} steps have settled", "wait")
    return last


async def _own(where: Settings, job: JobId) -> tuple[Ledger, Tensors]:
    from assay import client
    from assay.cli.client_node import client_node
    from assay.cli.submit import read_all

    async with client_node(where) as node:
        ledger = await read_all(node.chain, node.depth)
        _last(ledger, job)
        try:
            return ledger, await client.fetch(ledger, job, node.chain, node.blobs, node.keys, limit=MAX_RESULT)
        except (client.NotYet, ValueError) as error:
            raise Trouble(f"the result of job {job} cannot be had", str(error), f"assay job show {job}") from None


async def _others(where: Settings, job: JobId, given: Path) -> tuple[Ledger, Tensors]:
    from assay.cli.node import read_ledger
    from assay.state import from_bytes, state_root

    ledger, _ = await read_ledger(where, need_keys=False)
    last = _last(ledger, job)
    try:
        state = from_bytes(await asyncio.to_thread(given.read_bytes), MAX_RESULT)
    except ValueError as error:
        raise Trouble(f"{given} holds no result", str(error)) from None
    if state_root(last.stop, state) != last.end_root:
        why = f"its root is {state_root(last.stop, state).hex()[:16]}…; {last.provider} settled {last.end_root.hex()[:16] if last.end_root else ''}…"
        raise Trouble(f"{given} is not what job {job} came to", why, code=FAILED)
    return ledger, state
