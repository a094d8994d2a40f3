"""`assay sim`: whole networks on a virtual clock."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assay.cli.common import USAGE, Json, Trouble, show

if TYPE_CHECKING:
    from assay.sim import Options, Report, World

SHARE_FROM = 300
"""Nodes from which on they share what they know of the chain, unless it is said."""


def sim(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many runs.")] = 20,
    first: Annotated[int, typer.Option("--first", min=0, help="The first seed; a run is repeated exactly by its seed.")] = 0,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="In each run.")] = 3,
    every: Annotated[float, typer.Option("--every", min=0.0, help="Seconds between one job and the next.")] = 20.0,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of each job.")] = 4,
    segment_steps: Annotated[int, typer.Option("--segment-steps", min=1, help="Of each segment.")] = 2,
    step_seconds: Annotated[float, typer.Option("--step-seconds", min=0.01, help="What a provider takes for a step.")] = 1.0,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Nodes that train.")] = 3,
    verifiers: Annotated[int, typer.Option("--verifiers", min=3, help="Nodes that check.")] = 5,
    schedulers: Annotated[int, typer.Option("--schedulers", min=1, help="Nodes that find providers.")] = 1,
    key_services: Annotated[int, typer.Option("--key-services", min=1, help="Nodes that keep the keys.")] = 1,
    loss: Annotated[float, typer.Option("--loss", min=0.0, max=0.9, help="Share of messages between peers that are lost.")] = 0.05,
    latency: Annotated[float, typer.Option("--latency", min=0.001, help="Longest time that a message takes, seconds.")] = 0.15,
    churn: Annotated[float, typer.Option("--churn", min=0.0, help="Crashes of each node in 1,000 seconds.")] = 5.0,
    partitions: Annotated[float, typer.Option("--partitions", min=0.0, help="Partitions of the network in 1,000 seconds.")] = 2.0,
    leaving: Annotated[float, typer.Option("--leaving", min=0.0, max=1.0, help="Share of nodes that leave for good in an hour; others come.")] = 0.0,
    stragglers: Annotated[float, typer.Option("--stragglers", min=0.0, max=1.0, help="Share of workers that are four times as slow.")] = 0.0,
    liars: Annotated[float, typer.Option("--liars", min=0.0, max=1.0, help="Share of workers that commit to what they did not compute.")] = 0.0,
    reorgs: Annotated[float, typer.Option("--reorgs", min=0.0, help="Reorganisations of the chain in 1,000 seconds.")] = 0.0,
    deadline: Annotated[int, typer.Option("--deadline", min=60, help="Of every job, seconds from the beginning.")] = 7200,
    fanout: Annotated[int, typer.Option("--fanout", min=0, help="Workers that an announcement reaches; 0: all, or 8 in a large network.")] = 0,
    share: Annotated[
        bool | None, typer.Option("--share/--exact", help=f"Nodes share what the chain told them, keep no journals; by itself from {SHARE_FROM} on.")
    ] = None,
    timeline: Annotated[Path | None, typer.Option("--timeline", metavar="OUT.svg", help="Draw the last run there.")] = None,
    part: Annotated[
        list[str] | None, typer.Option("--part", metavar="NODE=MODULE:NAME", help="Puts a part of your own in a node's place (assay.sim.cast).")
    ] = None,
    json: Json = False,
) -> None:
    """Whole networks on a virtual clock, with crashes and losses: what becomes of every job, and whether the money adds up.

    Example: [bold]assay sim --seeds 100 --churn 20[/bold]

    Example: [bold]assay sim --seeds 1 --workers 700 --verifiers 300 --jobs 100 --steps 40 --leaving 0.05 --timeline run.svg[/bold]
    """
    from assay import sim as network
    from assay.sim.cast import load
    from assay.sim.invariants import Broken

    try:
        cast = dict(load(text) for text in part or [])
    except ValueError as error:
        raise Trouble("that part cannot be had", str(error), "write for example --part worker-0=mymodule:LIAR", USAGE) from None
    shared = (workers + verifiers >= SHARE_FROM or leaving > 0) if share is None else share
    if shared and reorgs:
        raise Trouble("reorganisations need --exact", "shared facts cannot be taken back", "assay sim --exact --reorgs 5", USAGE)
    if leaving and not shared:
        raise Trouble("--leaving needs --share", "nodes leave for good only where they share their facts", "assay sim --share", USAGE)
    options = network.Options(
        jobs=jobs, every=every, steps=steps, segment_steps=segment_steps, step_seconds=step_seconds, workers=workers, verifiers=verifiers,
        schedulers=schedulers, key_services=key_services, loss=loss, latency=(min(0.01, latency), latency), churn=churn, partitions=partitions,
        leaving=leaving, stragglers=stragglers, liars=liars, reorgs=reorgs, deadline=deadline, shared=shared,
        fanout=fanout or (8 if shared else 0), patience=max(86_400.0, 2.0 * deadline),
    )  # fmt: skip
    found: list[Report] = []
    worlds: list[World] = []
    seed = first
    try:
        for seed in range(first, first + seeds):
            found += network.run(options, [seed], cast, after=lambda world: worlds.__setitem__(slice(None), [world]))
            if not json:
                tell(found[-1])
    except Broken as broken:
        raise Trouble("a run broke what must hold of every run", str(broken), f"{command(options, seed, part)} repeats it") from None
    if timeline is not None:
        from assay.sim import timeline as picture

        picture.write(worlds[0], timeline)
    whole = network.summary(found)
    if json:
        show(whole)
    else:
        print("\n".join(f"{key:20} {value}" for key, value in whole.items()))
    if whole["problems"]:
        seed = next(report.seed for report in found if report.problems)
        raise Trouble("a run broke what must hold of every run", str(whole["problems"]), f"{command(options, seed, part)} repeats it")


def tell(report: Report) -> None:
    outcomes = ", ".join(f"{count} {state}" for state, count in sorted(report.outcomes.items()))
    print(f"seed {report.seed:<6} {report.virtual_seconds:8.0f} s simulated in {report.wall_seconds:5.2f} s   {outcomes}")
    lines = [f"{r.party}, segment {r.segment}: {r.reason}" for r in report.rejections]
    for line in [*lines[:20], *([f"and {len(lines) - 20} more"] if len(lines) > 20 else []), *(f"PROBLEM {p}" for p in report.problems)]:
        print(f"            {line}")
    sys.stdout.flush()


def command(options: Options, seed: int, parts: list[str] | None) -> str:
    """What repeats the run."""
    from assay.sim import Options

    words = [f"assay sim --seeds 1 --first {seed}", "--share" if options.shared else "--exact", f"--latency {options.latency[1]:g}"]
    for name in (
        "jobs", "every", "steps", "segment_steps", "step_seconds", "workers", "verifiers", "schedulers", "key_services", "loss", "churn",
        "partitions", "leaving", "stragglers", "liars", "reorgs", "deadline", "fanout",
    ):  # fmt: skip
        if name in ALWAYS or getattr(options, name) != getattr(Options(), name):
            words.append(f"--{name.replace('_', '-')} {getattr(options, name):g}")
    return " ".join([*words, *(f"--part {part}" for part in parts or [])])


ALWAYS = ("jobs", "workers", "verifiers", "loss", "churn", "partitions")
"""Where the command has defaults of its own."""
