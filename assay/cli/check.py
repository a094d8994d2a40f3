"""`assay check JOB --step N`: one step of a job computed again on this machine.

It reads the chain's node and fetches from peers' gateways, as an audit does (assay.cli.audit), into a folder of its own that is removed at the
end. Frozen tensors stay in the cache (ASSAY_CACHE, else XDG_CACHE_HOME/assay, else ~/.cache/assay; folder `bases`), readable by their owner alone.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from assay.cli.audit import introduction, visit
from assay.cli.common import ENVIRONMENT, FAILED, USAGE, Bootstrap, Contract, Data, Json, Rpc, Settings, Trouble, settings, show
from assay.cli.common import run as run_async
from assay.cli.folder import bases, speed
from assay.ids import JobId

if TYPE_CHECKING:
    from assay.audit.alone import Ahead, Where
    from assay.audit.step import Progress, StepCheck


def check(
    job: Annotated[int, typer.Argument(metavar="JOB", help="The job's number on this contract.")],
    step: Annotated[int, typer.Option("--step", min=0, metavar="N", help="Which step, from 0.")],
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the engine.")] = os.cpu_count() or 1,
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Computes one step of a job again, and says whether it is the one that was committed, or where it is not.

    Exit code 0: it is; 1: it is not; 2: there is no such step; 3: it cannot be told from here (a key or a blob is missing).

    Example: [bold]assay check 1 --step 20[/bold]
    """
    started = time.monotonic()
    found = run_async(_check(settings(rpc, contract, bootstrap, data, "client"), JobId(job), step, threads, quiet=json))
    seconds = time.monotonic() - started
    if json:
        show(as_json(found, seconds))
    else:
        print("\n".join(told(found, seconds)))
    if not found.agrees:
        raise typer.Exit(FAILED)


async def _check(where: Settings, job: JobId, step: int, threads: int, *, quiet: bool) -> StepCheck:
    from assay.adapters.engine_process import ProcessEngine
    from assay.adapters.evm_record import read_record
    from assay.adapters.keys import exists, open_keys
    from assay.audit.auditor import NoSuchJob
    from assay.audit.bases import Bases
    from assay.audit.step import CannotTell, NoSuchStep, check_step

    with tempfile.TemporaryDirectory(prefix="assay-check-") as base, _bar(quiet) as progress:
        folder = Path(base)
        keys = open_keys(where.data) if exists(where.data) else None
        engine = ProcessEngine(processes=1)
        try:
            async with visit(where, folder) as (reader, blobs, peers):
                record = await read_record(reader, job)
                found = await check_step(
                    record, job, step, blobs, keys, engine, folder / "work", Bases(bases()), threads=threads, progress=progress, peers=peers,
                    visit=introduction(reader, peers, keys),
                    told=lambda ahead: None if quiet else print(forecast(ahead, speed()), file=sys.stderr, flush=True),
                )  # fmt: skip
                if found.milliseconds:
                    speed(found.operations * 1000 // found.milliseconds)
                return found
        except NoSuchJob as error:
            raise Trouble(f"there is no job {job}", str(error), "assay job list") from None
        except NoSuchStep as error:
            raise Trouble(f"step {step} of job {job} cannot be checked", str(error), f"assay job show {job} tells what is committed", USAGE) from None
        except CannotTell as error:
            next = "--data FOLDER of the client, or of a node that had to do with that segment"
            raise Trouble(f"nothing can be said of step {step} from here", str(error), next, ENVIRONMENT) from None
        finally:
            await engine.close()
            if keys is not None:
                keys.close()


@contextlib.contextmanager
def _bar(quiet: bool) -> Iterator[Progress]:
    """A progress bar with an estimate of the time that is left, on a terminal's stderr."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("reading the chain and fetching", total=None)
        yield lambda done, total: bar.update(task, description="steps computed again", completed=done, total=total)


def forecast(ahead: Ahead, speed: int) -> str:
    """Before anything is fetched; `speed` in operations a second, 0 where it is not known."""
    base = f", and {ahead.base / 1e6:.1f} MB of frozen tensors that are not here yet" if ahead.base else ""
    time = f", about {max(1, ahead.operations // speed)} s at the speed of this machine's last check" if speed else ""
    alone = "the step alone" if ahead.alone else f"{ahead.steps} steps, since its provider does not show this one alone"
    return f"to fetch: about {ahead.fetch / 1e6:.1f} MB{base}; to compute: {alone}{time}"


def _loss(found: StepCheck) -> float:
    return float(struct.unpack("<f", struct.pack("<I", found.loss))[0])


def as_json(found: StepCheck, seconds: float) -> dict[str, Any]:
    loss = _loss(found)
    return {
        "job": found.job, "step": found.step, "agrees": found.agrees, "wrong": list(found.wrong), "segment": found.segment, "start": found.start,
        "stop": found.stop, "provider": found.provider, "settled": found.settled, "loss": None if loss != loss else loss,
        "alone": found.alone, "where": [_where(where) for where in found.where],
        "steps_computed": found.computed, "fetched_bytes": found.fetched, "base_bytes": found.base, "seconds": round(seconds, 2),
    }  # fmt: skip


def _where(where: Where) -> dict[str, Any]:
    below = msgspec.structs.asdict(where.parted) if where.parted is not None else {"why": where.why}
    return {"segment": where.segment, "step": where.step, "micro_batch": None if where.update else where.m} | below


def told(found: StepCheck, seconds: float) -> list[str]:
    base = f", and {found.base / 1e6:.1f} MB of frozen tensors" if found.base else ""
    cost = f"{found.computed} step{'s' * (found.computed != 1)} computed, {found.fetched / 1e6:.1f} MB fetched{base}, {seconds:.1f} s"
    if not found.agrees:
        return [f"✗ step {found.step} of job {found.job} is not as it was committed; {cost}", *(f"  {line}" for line in found.wrong)]
    state = "settled" if found.settled else "committed"
    line = f"✓ step {found.step} of job {found.job} is what {found.provider} {state} in segment {found.segment}; its loss was {_loss(found):.4f}"
    alone = ["  it was computed from the state before it, as that was committed"] if found.alone else []
    return [line, *alone, f"  {cost}"]
