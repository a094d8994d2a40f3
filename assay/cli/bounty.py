"""`assay bounty`: payment by result. What is done is in assay.cli.sponsor; what it means, in docs/model-developer.md."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.common import USAGE, Bootstrap, Contract, Data, Json, Rpc, Settings, Trouble, group, money, settings, show
from assay.cli.common import run as run_async
from assay.ids import BountyId, JobId

if TYPE_CHECKING:
    from assay.cli.sponsor import Wanted
    from assay.receipts import Bounty, Ledger

app = group("Bounties: pay more for a training that measures better on records that nobody has seen.")

Number = Annotated[int, typer.Argument(metavar="BOUNTY", help="The bounty's number on this network.")]
PAY_HELP = "THRESHOLD:TOKENS, or a share of the records, 75%:TOKENS. Several make a ladder: each says what is paid in all from there on."
Pay = Annotated[list[str], typer.Option("--pay", metavar="LEVEL:TOKENS", help=PAY_HELP)]
Metric = Annotated[str, typer.Option("--metric", metavar="NAME", help="The number that decides, as the evaluation names it.")]
AtMost = Annotated[bool, typer.Option("--at-most", help="Less is better (for a loss).")]
Window = Annotated[str, typer.Option("--window", metavar="TIME", help="How long after the training a result counts: 90m, 36h, 7d.")]
TrainedFile = Annotated[Path | None, typer.Option("--trained", metavar="FILE", help="The training's last state, from its client.")]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MICRO = 1_000_000
POLICY = "every-step"
"""All depends on one result, and computing that is cheap."""
POLICY_HELP = f"How closely the evaluation is checked; else as --params says, or {POLICY}."
LIFETIME = 7 * 24 * 3600
LOOK = 1.0
"""Seconds between looks at the chain."""


def seconds(text: str) -> int:
    """Of `90m`, `36h` or `7d`. Raises Trouble."""
    if text[-1:] not in UNITS or not text[:-1].isdigit():
        raise Trouble(f"{text!r} is no time", "a whole number and one of s, m, h, d", "--window 7d", USAGE)
    return int(text[:-1]) * UNITS[text[-1]]


def wanted_of(
    file: Path, pays: list[str], metric: str, at_most: bool, window: str, policy: str | None, params: Path | None, keyservice: str | None, seed: int
) -> Wanted:
    """What is asked for on the command line. Raises Trouble, TrainingError."""
    from assay.cli.jobs import SEGMENT_STEPS
    from assay.cli.sponsor import Wanted
    from assay.cli.submit import read_params
    from assay.policy import longest_segment, params_for
    from assay.training import Evaluation, load_training

    evaluation = load_training(file, seed)
    if not isinstance(evaluation, Evaluation):
        raise Trouble(f"{file} is not an evaluation", "a bounty is paid by what an assay.Evaluation measures", "docs/model-developer.md", USAGE)
    given = read_params(params, POLICY)
    try:
        checked = given if policy is None else params_for(policy, given)
    except ValueError as error:
        raise Trouble("the evaluation cannot be checked like that", str(error), code=USAGE) from None
    longest = longest_segment(checked, 1) or SEGMENT_STEPS
    return Wanted(evaluation, tuple(pays), metric, at_most, seconds(window), checked, longest, keyservice)


@app.command("offer")
def offer_(
    job: Annotated[int, typer.Argument(metavar="JOB", help="The training.")],
    evaluation: Annotated[Path, typer.Argument(metavar="EVALUATE.py", help="A file that ends in `training = assay.Evaluation(...)`.")],
    pay: Pay, metric: Metric = "right", at_most: AtMost = False, window: Window = "7d",
    policy: Annotated[str | None, typer.Option("--policy", metavar="NAME", help=POLICY_HELP)] = None,
    params: Annotated[Path | None, typer.Option("--params", metavar="FILE", help="TOML with windows and policy of the evaluation.")] = None,
    keyservice: Annotated[str | None, typer.Option("--keyservice", metavar="ACCOUNT", help="Else found among peers.")] = None,
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the money is locked.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the evaluation's file.")] = 0, json: Json = False,
) -> None:  # fmt: skip
    """Locks a bounty for a training, and seals the records that it will be measured on.

    Example: [bold]assay bounty offer 1 evaluate.py --pay 75%:10 --pay 80%:30[/bold]
    """
    where = settings(rpc, contract, bootstrap, data, "client")
    wanted = wanted_of(evaluation, pay, metric, at_most, window, policy, params, keyservice, seed)
    told = f"When no result is shown within {window} after the training, all of it is paid"
    if not yes and not json and not typer.confirm(f"{told}. Lock the bounty?", default=True):
        raise typer.Exit(1)
    number, terms = run_async(_offer(where, JobId(job), wanted))
    if json:
        show({"bounty": number, "job": job, "amount": terms.amount, "window": terms.window})
    else:
        print(f"bounty {number}: {money(terms.amount)} locked for job {job}; the sealed records are in {where.data}: keep that folder")


async def _offer(where: Settings, job: JobId, wanted: Wanted) -> tuple[BountyId, Any]:
    from assay.cli.client_node import client_node
    from assay.cli.sponsor import offer
    from assay.cli.submit import most_of

    async with client_node(where, most_of(wanted.pays)) as node:
        return await offer(node, where, job, wanted)


async def _read(where: Settings) -> tuple[Ledger, int]:
    """What is final, and the chain's time."""
    from assay.adapters.evm import EvmReader
    from assay.receipts import Ledger

    reader, ledger = await EvmReader.open(where.rpc, where.contract), Ledger()
    try:
        ledger.feed(await reader.events((-1, -1), 0))
        return ledger, (await reader.head()).time
    finally:
        await reader.close()


@app.command("list")
def list_(rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False) -> None:
    """Lists the bounties of this network.

    Example: [bold]assay bounty list[/bold]
    """
    ledger, now = run_async(_read(settings(rpc, contract, None, data, "client")))
    rows = [view(ledger, b, now) for b in ledger.bounties.values()]
    if json:
        show({"bounties": rows})
        return
    for row in rows:
        print(f"bounty {row['bounty']} for job {row['job']}: up to {money(row['amount'])}; {row['state']}")


@app.command("show")
def show_(number: Number, rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False) -> None:
    """A bounty's terms, its result, and who was paid.

    Example: [bold]assay bounty show 1[/bold]
    """
    from assay.cli.sponsor import known

    ledger, now = run_async(_read(settings(rpc, contract, None, data, "client")))
    row = view(ledger, known(ledger, BountyId(number)), now)
    if json:
        show(row)
        return
    print(f"bounty {number} by {row['sponsor']} for job {row['job']}: {row['state']}")
    print(f"  pays by {row['metric']} ({'less' if row['at_most'] else 'more'} is better), within {row['window']} s after the training")
    for rung in row["rungs"]:
        print(f"  {rung['threshold']:>14g}  {money(rung['amount'])}")
    if row["result"] is not None:
        print(f"  result: {row['result']}")
    for segment, amount in row["paid"].items():
        print(f"  {money(amount):>14}  {ledger.segments[segment].provider}  for segment {segment}")


def view(ledger: Ledger, b: Bounty, now: int) -> dict[str, Any]:
    """A bounty for people and programs."""
    from assay import bounty
    from assay.cli.sponsor import over, said

    terms, earned = b.terms, b.earned(now)
    if earned is not None:
        state = f"{money(earned)} earned, {money(sum(b.paid.values()))} of it paid out"
    elif b.until is not None:
        state = f"results count for {b.until - now} s more"
    else:
        state = "the training is over" if over(ledger, terms.job) else "the training is not over"
    rungs = [{"threshold": bounty.figure(rung.threshold, terms.dtype), "amount": rung.amount} for rung in terms.rungs]
    return {
        "bounty": b.number, "job": terms.job, "sponsor": b.sponsor, "amount": terms.amount, "metric": terms.metric.decode(errors="replace"),
        "at_most": terms.at_most, "window": terms.window, "rungs": rungs, "until": b.until, "state": state, "earned": earned,
        "result": None if b.reached is None else said(terms, b.value), "returned": b.returned, "paid": b.paid,
        "program_root": terms.evaluation.program_root.hex(), "dataset_root": terms.evaluation.dataset_root.hex(),
    }  # fmt: skip


@app.command("evaluate")
def evaluate_(
    number: Number,
    budget: Annotated[float, typer.Option("--budget", min=0, help="Most that the evaluation may cost, in tokens.")],
    price: Annotated[float, typer.Option("--price", min=0, help="Most that a step may cost, in tokens.")] = 0.5,
    fee: Annotated[float, typer.Option("--fee", min=0, help="For a verifier and segment, in tokens.")] = 0.1,
    scheduler: Annotated[str | None, typer.Option("--scheduler", metavar="ACCOUNT", help="Else found among peers.")] = None,
    trained: TrainedFile = None,
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Once the training is over: has the evaluation made as a job, waits for its result, shows it, and pays.

    Example: [bold]assay bounty evaluate 1 --budget 50[/bold]
    """
    where = settings(rpc, contract, bootstrap, data, "client")
    amounts = tuple(round(x * MICRO) for x in (price, fee, budget))
    job, done = run_async(_evaluate(where, BountyId(number), (amounts[0], amounts[1], amounts[2]), scheduler, trained, json))
    _tell(number, done, json, evaluation=job)


async def _evaluate(
    where: Settings, number: BountyId, amounts: tuple[int, int, int], scheduler: str | None, given: Path | None, as_json: bool
) -> tuple[JobId, list[str]]:
    from assay.cli.client_node import client_node
    from assay.cli.sponsor import begin, claim, known, post_evaluation, wish_for
    from assay.cli.submit import follow_job, read_all, tell

    price, fee, budget = amounts
    async with client_node(where, budget) as node:
        ledger = await read_all(node.chain, 0)
        b = known(ledger, number)
        if told := await begin(node, ledger, b):
            tell(as_json, "begun", told)
        wish = await wish_for(node, b, scheduler, price, fee, budget, LIFETIME)
        job = await post_evaluation(node, where, b, ledger, wish, given)
        tell(as_json, "posted", f"the evaluation is job {job}", job=job)
        await follow_job(node, job, as_json)
        return job, await claim(node, number, given)


@app.command("claim")
def claim_(
    number: Number,
    trained: TrainedFile = None,
    result: Annotated[Path | None, typer.Option("--result", metavar="FILE", help="The evaluation's last state, from its client.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the window is over and all is paid.")] = False,
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
) -> None:  # fmt: skip
    """Does what is due for a bounty: begins its window, shows a settled result, credits the providers, gives back the rest, withdraws.

    Example: [bold]assay bounty claim 1[/bold]
    """
    done = run_async(_claim(settings(rpc, contract, bootstrap, data, "client"), BountyId(number), trained, result, wait))
    _tell(number, done, json)


async def _claim(where: Settings, number: BountyId, given: Path | None, result: Path | None, wait: bool) -> list[str]:
    from assay.cli.client_node import client_node
    from assay.cli.sponsor import claim, known
    from assay.cli.submit import read_all

    async with client_node(where) as node:
        done = await claim(node, number, given, result)
        if not wait:
            return done
        told: set[int | None] = set()
        while (b := known(await read_all(node.chain, 0), number)).earned(now := (await node.chain.head()).time) is None:
            if b.until not in told:
                told.add(b.until)
                print(f"waiting {awaited(b, now)}", file=sys.stderr, flush=True)
            await asyncio.sleep(LOOK)
        return done + await claim(node, number, given, result)


def awaited(b: Bounty, now: int) -> str:
    """What a bounty that is open waits for."""
    if b.until is None:
        return f"until the training, job {b.terms.job}, is over"
    return f"until the window is over, in {b.until - now} s; a later `assay bounty claim {b.number}` does the same"


def _tell(number: int, done: list[str], as_json: bool, **more: Any) -> None:
    if as_json:
        show({"bounty": number, "done": done, **more})
        return
    for line in done:
        print(line)
    if not done:
        print(f"nothing is due for bounty {number} now: assay bounty show {number}")

