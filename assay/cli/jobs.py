"""`assay submit`, `assay job`, `assay run`: what a model developer does."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.common import FAILED, TOKEN, USAGE, Bootstrap, Contract, Data, Json, Rpc, Settings, Trouble, group, money, settings, show, writable
from assay.cli.common import run as run_async
from assay.cli.prices import tell_market
from assay.cli.tables import put
from assay.ids import DatasetId, JobId
from assay.policy import POLICIES, longest_segment, named, params_for
from assay.publish.purposes import PURPOSES

if TYPE_CHECKING:
    from rich.console import Console

    from assay.chain import Params
    from assay.client import Estimate, Plan
    from assay.economics import Case
    from assay.receipts import Ledger

app = group("A client's jobs: watch them, read their receipts, fetch the weights.")

Train = Annotated[Path, typer.Argument(metavar="TRAIN.py", help="A Python file that ends in `training = assay.Training(...)`.")]
Number = Annotated[int, typer.Argument(metavar="JOB", help="The job's number on this contract.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Train this many steps instead of the file's own number.")]
SEGMENT_STEPS = 64
"""Checking costs a segment about the same whatever its length (docs/economics.md)."""
SEGMENT_HELP = f"Steps between checkpoints: assigned, checked and paid at once; else {SEGMENT_STEPS}, or as many as the policy allows."
SegmentSteps = Annotated[int | None, typer.Option("--segment-steps", min=1, help=SEGMENT_HELP)]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the initial weights.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of the engine.")]
POLICY_HELP = f"How closely it is checked: {', '.join(POLICIES)} (docs/economics.md); else as --params says, or spot."
TAKEOVER_HELP = "With whom others may go on when the scheduler is silent: anybody (the default), reliable, or an account; may be repeated."
BOUNTY_HELP = "Pay more for a better result: a file that ends in `training = assay.Evaluation(...)`, and --pay."
OUT_HELP = "Where to write the weights: FILE.safetensors, or of a fine-tune a folder that PEFT or transformers loads."
DATASET_HELP = "A published dataset of others, or several: the records of TRAIN.py are then an example of theirs, and stay here."
PARAMS_FILE_HELP = "TOML with other windows or another way of checking than the usual ones (docs/model-developer.md)."


def plan_of(train: Path, steps: int | None, seed: int) -> tuple[Plan, Any]:
    """The file's training as a plan, and the training itself (for its `sample`)."""
    from assay.client import Plan
    from assay.forward import trace_evaluation
    from assay.trace import trace
    from assay.training import Training, load_training

    training = load_training(train, seed)
    if not isinstance(training, Training) and steps is not None:
        raise Trouble("an evaluation has as many steps as its records have batches", "--steps is for trainings", f"assay run {train} --local", USAGE)
    traced = trace(training, steps) if isinstance(training, Training) else trace_evaluation(training)
    name, data = training.name, training.data
    plan = Plan(name, traced.program, traced.schedule, traced.state, data.arrays, data.name, training.batch, traced.frozen, training.origin)
    return plan, training


def run(
    train: Train,
    local: Annotated[bool, typer.Option("--local", help="In this process, with no network and no money.")] = False,
    steps: Steps = None, seed: Seed = 0, threads: Threads = 1,
    out: Annotated[Path | None, typer.Option("--out", metavar="PATH", help=OUT_HELP, callback=writable)] = None,
    sample: Annotated[bool, typer.Option("--sample/--no-sample", help="Show what the model says before and after, if the file can.")] = True,
    json: Json = False,
) -> None:  # fmt: skip
    """Runs a training in one process; the network would reach the same final state root.

    Example: [bold]assay run train.py --local --steps 16[/bold]
    """
    if not local:
        instead = f"assay run {train} --local, or assay submit {train} --budget N"
        raise Trouble("where should it run?", "a run on the network costs money", instead, USAGE)
    plan, training = plan_of(train, steps, seed)
    from assay.cli.submit import fits, write_weights
    from assay.client import run_plan
    from assay.evaluation import is_result, of_state
    from assay.local import Step
    from assay.trace import initial_output

    fits(out, training)
    before = initial_output(training, plan.state) if sample else None
    if before and not json:
        print(f"before: {before}\n")

    def progress(step: Step) -> None:
        if json:
            show({"topic": "step", "step": step.step, "loss": step.loss})
        else:
            print(f"step {step.step + 1:5d} of {plan.steps}   loss {step.loss:.4f}", flush=True)

    started = time.monotonic()
    done = run_plan(plan, threads, progress)
    seconds = time.monotonic() - started
    after = initial_output(training, done.state) if sample else None
    if out is not None:
        write_weights(out, training, done.state)
    if json:
        losses = {"loss_first": done.losses[0], "loss_last": done.losses[-1]}
        result = of_state(done.state).told() if is_result(done.state) else None
        texts = {"before": before, "after": after, "result": result, "weights": str(out) if out else None}
        show({"final_state_root": done.root.hex(), "steps": plan.steps, "seconds": round(seconds, 3), **losses, **texts})
        return
    if after:
        print(f"\nafter: {after}\n")
    if is_result(done.state):
        print(of_state(done.state).told())
    print(f"final state root {done.root.hex()}")
    if out is not None:
        kept = f"; the {len(plan.frozen)} frozen tensors are those of the file's model" if plan.frozen else ""
        print(f"weights written to {out}{kept}")


def submit(
    train: Train,
    budget: Annotated[float, typer.Option("--budget", min=0, help="Most that may be spent, in tokens.")],
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None,
    steps: Steps = None, segment_steps: SegmentSteps = None,
    policy: Annotated[str | None, typer.Option("--policy", metavar="NAME", help=POLICY_HELP)] = None,
    links: Annotated[int | None, typer.Option("--links", min=1, help="Links drawn in a segment, instead of the policy's.")] = None,
    verifiers: Annotated[int | None, typer.Option("--verifiers", min=1, help="How many replay each of them, instead of the policy's.")] = None,
    quorum: Annotated[int | None, typer.Option("--quorum", min=1, help="How many of these must agree, instead of the policy's.")] = None,
    price: Annotated[float, typer.Option("--price", min=0, help="Most that a step may cost, in tokens.")] = 0.5,
    fee: Annotated[float | None, typer.Option("--fee", min=0, help="For a verifier and segment, in tokens; else what pays its replays.")] = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", metavar="ACCOUNT", help="Who places segments; else found among peers.")] = None,
    keyservice: Annotated[str | None, typer.Option("--keyservice", metavar="ACCOUNT", help="Who keeps the keys (A,B,C: any two); else seen.")] = None,
    takeover: Annotated[list[str] | None, typer.Option("--takeover", metavar="WHO", help=TAKEOVER_HELP)] = None,
    params: Annotated[Path | None, typer.Option("--params", metavar="FILE", help=PARAMS_FILE_HELP)] = None,
    dataset: Annotated[list[int] | None, typer.Option("--dataset", metavar="NUMBER", min=1, help=DATASET_HELP)] = None,
    purpose: Annotated[str, typer.Option("--purpose", help="What for, where the data are others': " + ", ".join(PURPOSES))] = PURPOSES[0],
    watch: Annotated[bool, typer.Option("--watch", help="Stay, serve the data, show the progress, and fetch the weights.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="PATH", help=OUT_HELP, callback=writable)] = None,
    bounty: Annotated[Path | None, typer.Option("--bounty", metavar="EVALUATE.py", help=BOUNTY_HELP)] = None,
    pay: Annotated[list[str] | None, typer.Option("--pay", metavar="LEVEL:TOKENS", help="Of the bounty, as in assay bounty offer.")] = None,
    metric: Annotated[str, typer.Option("--metric", metavar="NAME", help="Of the bounty: the number that decides.")] = "right",
    at_most: Annotated[bool, typer.Option("--at-most", help="Of the bounty: less is better.")] = False,
    window: Annotated[str, typer.Option("--window", metavar="TIME", help="Of the bounty: how long after the training a result counts.")] = "7d",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the money is locked; with --json nothing is asked.")] = False,
    seed: Seed = 0, json: Json = False,
) -> None:  # fmt: skip
    """Buys a training: seals the data, says what it will cost and take, locks the money, and watches.

    Example: [bold]assay submit train.py --budget 100 --steps 64 --policy spot --watch[/bold]
    """
    where = settings(rpc, contract, bootstrap, data, "client")
    if out is not None and not watch:
        raise Trouble("there are no weights to write yet", "--out is for what comes back in the end", "add --watch; or later: assay job fetch", USAGE)
    aims = _purpose(purpose)
    started = time.monotonic()
    plan, training = plan_of(train, steps, seed)
    from assay.cli.bounty import wanted_of
    from assay.cli.submit import Order, Submission, fits, most_of, read_params
    from assay.cli.successors import successors
    from assay.client import estimate

    fits(out, training)
    terms = _terms(policy, read_params(params), links, verifiers, quorum)
    case = _case(plan, terms, segment_steps, price, fee)
    price_cap, fee_units, segment_steps = round(price * TOKEN), math.ceil(case.verifier_fee * TOKEN), case.steps
    guess = estimate(plan, segment_steps=segment_steps, price_cap=price_cap, fee=fee_units, params=terms)
    _tell_estimate(plan, guess, case, time.monotonic() - started, json)
    tell_market(where, case.operations, plan.steps, guess.segments, price_cap, json)
    data_cost = _data_cost(where, plan, dataset or [], json)
    limit = round(budget * TOKEN)
    if guess.total > limit:
        what = f"the budget of {money(limit)} does not cover {money(guess.total)}"
        raise Trouble(what, "the contract locks the cap of every segment and the fees of redraws", f"--budget {money(guess.total)}", FAILED)
    wanted = None if bounty is None else wanted_of(bounty, pay or [], metric, at_most, window, None, params, keyservice, seed)
    locked = limit + data_cost + (most_of(wanted.pays) if wanted is not None else 0)
    if not yes and not json and not typer.confirm(f"Lock {money(locked)} in the contract? What is not used comes back", default=True):
        raise typer.Exit(1)
    order = Order(
        plan=plan, training=training, segment_steps=segment_steps, price_cap=price_cap, fee=fee_units, budget=limit, scheduler=scheduler,
        keyservice=keyservice, params=terms, watch=watch, out=out, datasets=tuple(map(DatasetId, dataset or [])), purpose=aims,
        data_cost=data_cost, bounty=wanted, successors=successors(takeover),
    )  # fmt: skip
    run_async(Submission(where, order, as_json=json).run())


def _purpose(text: str) -> int:
    if text not in PURPOSES:
        raise Trouble(f"{text!r} is no purpose", "owners license data for purposes", f"--purpose {' or '.join(PURPOSES)}", USAGE)
    return PURPOSES.index(text)


def _data_cost(where: Settings, plan: Plan, datasets: list[int], json: bool) -> int:
    """What the contract will lock for the datasets of others, and says so. Raises Trouble when one is not known or not licensed."""
    if not datasets:
        return 0
    from assay.cli.licences import quote

    cost, verifiers = run_async(quote(where, tuple(map(DatasetId, datasets)), plan.steps, plan.program.micro_batches * plan.batch))
    if json:
        show({"topic": "data", "datasets": datasets, "locked": cost, "verifiers": verifiers})
    else:
        print(f"  data       {money(cost)} more for datasets {', '.join(map(str, datasets))}, locked with Datasets; what is not used comes back")
        if verifiers is not None:
            print(f"             checked only by those whom their owners admit: {', '.join(verifiers) or 'nobody is on all of the lists'}")
    return cost


def _terms(policy: str | None, params: Params, links: int | None, verifiers: int | None, quorum: int | None) -> Params:
    """The job's params under the policy that was asked for. Raises Trouble."""
    if policy is None and links is None and verifiers is None and quorum is None:
        return params
    try:
        return params_for(policy or "spot", params, links, verifiers, quorum)
    except ValueError as error:
        raise Trouble("a job cannot be checked like that", str(error), f"--policy {' or '.join(POLICIES)}", USAGE) from None


def _case(plan: Plan, params: Params, segment_steps: int | None, price: float, fee: float | None) -> Case:
    """What one of its segments is to economics. Raises Trouble for segments that are too long for their policy."""
    from assay.economics import Case

    micros = plan.program.micro_batches
    try:
        longest = longest_segment(params, micros)
    except ValueError as error:
        raise Trouble("every link of a segment cannot be drawn", str(error), "fewer micro-batches a step, or --policy k-of-n", USAGE) from None
    steps = min(segment_steps or SEGMENT_STEPS, plan.steps if longest is None else longest)
    if longest is not None and (segment_steps or 0) > longest:
        why = f"with {micros} micro-batches a step a segment may have {longest} steps when every link is drawn"
        raise Trouble(f"segments of {segment_steps} steps are too long", why, f"--segment-steps {longest}", USAGE)
    micro, update = plan.weights
    return Case(params=params, price_step=price, steps=steps, micro_batches=micros, micro_weight=micro, update_weight=update, fee=fee)


def _tell_estimate(plan: Plan, guess: Estimate, case: Case, traced: float, json: bool) -> None:
    from assay.economics import checking, least_price

    cost = checking(case)
    if json:
        import msgspec

        policy = {"links": case.params.links, "verifiers": case.params.verifiers, "quorum": case.params.quorum, **msgspec.structs.asdict(cost)}
        show({"topic": "estimate", "total": guess.total, "traced_seconds": round(traced, 2), **msgspec.structs.asdict(guess), "policy": policy})
        return
    nodes = len(plan.program.micro.nodes) + len(plan.program.update.nodes)
    print(f"{plan.name}: {plan.steps} steps in {guess.segments} segments; the program has {nodes} stages, the dataset {plan.size} records")
    if plan.frozen:
        state, frozen = (sum(a.nbytes for a in tensors.values()) / 1e6 for tensors in (plan.state, plan.frozen))
        print(f"  state      {state:.1f} MB that change, {frozen:.1f} MB that are frozen and sent once")
    print(f"  training   at most {money(guess.training)}")
    print(f"  checking           {money(guess.checking)}, and {money(guess.reserve)} more locked in case draws have to be repeated")
    print(f"  policy     {named(case.params)}: {cost.share:.1%} over the price of the training;")
    print(f"             one false micro-batch of a segment is drawn with chance {cost.one_link:.1%}; a check takes {cost.gas:.2f} tokens of gas")
    if case.price < least_price(case):
        print(f"             a segment is so cheap that a dispute would not pay for its gas: give it {least_price(case):.2f} tokens, by more steps")
    print(f"  time               {guess.seconds_computing:.0f} s of computing at this machine's speed ({guess.seconds_a_step:.2f} s a step),")
    print(f"                     and at least {guess.seconds_settling:.0f} s until the end has settled")


@app.command("list")
def list_(
    rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False,
    mine: Annotated[bool, typer.Option("--mine", help="Only those of the account in the data folder.")] = False,
) -> None:  # fmt: skip
    """Lists the jobs of this contract.

    Example: [bold]assay job list[/bold]
    """
    ledger, me = run_async(_ledger(rpc, contract, data, need_keys=mine))
    rows: list[dict[str, Any]] = []
    for job in ledger.jobs.values():
        if mine and job.client != me:
            continue
        last = ledger.last_good(job.number)
        rows.append({
            "job": job.number, "client": job.client, "steps": job.terms.steps, "settled": last.stop if last else 0,
            "segments": ledger.outcomes(job.number), "state": _state(ledger, job.number), "locked": job.funded,
        })  # fmt: skip
    if json:
        show({"jobs": rows})
        return
    from rich.table import Table

    table = Table("job", "state", "settled steps", "segments", "locked", "client")
    for row in rows:
        segments = ", ".join(f"{count} {state.lower()}" for state, count in row["segments"].items())
        table.add_row(str(row["job"]), row["state"], f"{row['settled']} of {row['steps']}", segments, money(row["locked"]), row["client"])
    put(table)


def _state(ledger: Ledger, number: Any) -> str:
    job = ledger.jobs[number]
    if job.refund is not None:
        return "done" if ledger.finished(number) else "cancelled"
    if ledger.finished(number):
        return "trained"
    return "cancelling" if job.cancelled else "running"


@app.command("show")
def show_(job: Number, rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False) -> None:
    """The job's receipts: for every segment who was paid, who was not, and why.

    Example: [bold]assay job show 1[/bold]
    """
    import msgspec

    from assay.receipts import receipt

    ledger, _ = run_async(_ledger(rpc, contract, data))
    known = _known(ledger, job)
    segments = ledger.of_job(known.number)
    bounties = [b for b in ledger.bounties.values() if b.terms.job == known.number]
    if json:
        rows = [{**msgspec.to_builtins(s), "state": s.state.name, "receipt": receipt(s)} for s in segments]
        told = {"refund": known.refund, "bounties": [b.number for b in bounties], "segments": rows}
        show({"job": job, "client": known.client, "state": _state(ledger, job), **told})
        return
    screen = _screen()
    terms = known.terms
    screen.print(f"job {job} of {known.client}: {terms.steps} steps, {_state(ledger, job)}")
    for segment in segments:
        colour = "green" if segment.state.name == "SETTLED" else "red" if segment.ended else "yellow"
        screen.print(f"[{colour}]segment {segment.number}[/{colour}] by {segment.provider}")
        screen.print(f"  {receipt(segment)}", markup=False)
        for payment in segment.payments:
            screen.print(f"  {money(payment.amount):>14}  {payment.who}  {payment.reason}", markup=False)
        for verifier in segment.no_shows:
            screen.print(f"  no-show: {verifier}")
    for b in bounties:
        screen.print(f"bounty {b.number}: up to {money(b.terms.amount)} more by result (assay bounty show {b.number})")
    if known.refund is not None:
        screen.print(f"closed: {money(known.refund)} came back to the client")


@app.command()
def watch(
    jobs: Annotated[list[int], typer.Argument(metavar="JOB...", help="Their numbers.")], rpc: Rpc = None, contract: Contract = None,
    bootstrap: Bootstrap = None, data: Data = None, json: Json = False, left: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:  # fmt: skip
    """Shows what happens to jobs until they are over, and serves their data from this folder meanwhile.

    Example: [bold]assay job watch 1[/bold]
    """
    from assay.cli.submit import watch_jobs

    run_async(watch_jobs(settings(rpc, contract, bootstrap, data, "client"), jobs, is_behind=left, as_json=json))


@app.command()
def fetch(
    job: Number,
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help=OUT_HELP, callback=writable)],
    rpc: Rpc = None, contract: Contract = None, bootstrap: Bootstrap = None, data: Data = None, json: Json = False,
    whole: Annotated[bool, typer.Option("--state", help="The whole state (optimiser moments, too), not just the model's weights.")] = False,
) -> None:  # fmt: skip
    """Fetches and decrypts the weights of a job that has settled.

    Example: [bold]assay job fetch 1 --out weights.safetensors[/bold]
    """
    from assay.cli.submit import fetch_job

    found = run_async(fetch_job(settings(rpc, contract, bootstrap, data, "client"), job, out, whole=whole, as_json=json))
    if json:
        show(found)
    else:
        print(f"{found['tensors']} tensors after {found['steps']} steps written to {out}; their state has the root that settled:")
        print(found["final_state_root"])


@app.command()
def cancel(job: Number, rpc: Rpc = None, contract: Contract = None, data: Data = None, json: Json = False) -> None:
    """Ends a job: nothing more is assigned, and what is left of the money comes back.

    Example: [bold]assay job cancel 1[/bold]
    """
    from assay.cli.submit import cancel_job

    run_async(cancel_job(settings(rpc, contract, None, data, "client"), job))
    if json:
        show({"job": job, "cancelled": True})
    else:
        print(f"job {job} is cancelled; what is under way runs out, then the rest comes back")


async def _ledger(rpc: str | None, contract: str | None, data: Path | None, need_keys: bool = False) -> tuple[Ledger, str | None]:
    from assay.cli.node import read_ledger

    return await read_ledger(settings(rpc, contract, None, data, "client"), need_keys=need_keys)


def _known(ledger: Ledger, job: int) -> Any:
    if JobId(job) not in ledger.jobs:
        there = ", ".join(str(number) for number in ledger.jobs) or "none yet"
        raise Trouble(f"there is no job {job}", f"this contract has: {there}", "assay job list")
    return ledger.jobs[JobId(job)]


def _screen() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)
