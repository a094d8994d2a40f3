"""Runs of the simulated network and what they came to, held against what must hold of every run.

`Report.problems` is empty when: no money appeared or vanished; every account of an honest party has what its receipts say; no
segment that is not the honest result was paid without the luck of the draw being named (`unnoticed`); and every job came to an end.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from assay.adapters.memory_stakes import JOBS, STAKES
from assay.chain import SegmentState
from assay.receipts import receipt
from assay.sim.cast import Part
from assay.sim.invariants import honest
from assay.sim.options import Options
from assay.sim.world import Watch, World


class Rejection(msgspec.Struct, frozen=True):
    party: str
    segment: int
    reason: str


class Report(msgspec.Struct, frozen=True):
    seed: int
    finished: bool
    """All jobs ran to their end before the run's patience was over."""
    virtual_seconds: float
    wall_seconds: float
    events: int
    """On chain."""
    outcomes: dict[str, int]
    """Segments by state."""
    paid: dict[str, int]
    """By party: gained or lost."""
    rejections: list[Rejection]
    unnoticed: list[int]
    """Segments that were paid although a link in them was wrong: none of those drawn was a wrong one."""
    problems: list[str]
    figures: dict[str, float | int | None] = {}
    """assay.sim.figures: useful share of the providers' time, median time to the first step, reassignment times."""


def run(
    options: Options | None = None, seeds: Iterable[int] = (0,), cast: Mapping[str, Part] | None = None, watch: Watch | None = None,
    after: Callable[[World], None] | None = None,
) -> Iterator[Report]:  # fmt: skip
    """One report a seed. `cast` puts other parts in the place of honest ones (assay.sim.cast); `watch` sees every note of every node, `after`
    every world when its run is over."""
    for seed in seeds:
        began = time.perf_counter()
        world = World(options or Options(), seed, cast, watch=watch)
        try:
            finished = world.run()
            world.invariants.count()
        except Exception as error:
            error.add_note(f"the simulation with seed {seed} failed; the same seed and options repeat it")
            raise
        found = report(world, finished, time.perf_counter() - began)
        if after is not None:
            after(world)
        yield found


def summary(reports: Sequence[Report]) -> dict[str, Any]:
    """Of several runs together. Rates are those of the wall clock."""
    wall = sum(report.wall_seconds for report in reports)
    outcomes: Counter[str] = Counter()
    for found in reports:
        outcomes.update(found.outcomes)
    return {
        "runs": len(reports),
        "finished": sum(report.finished for report in reports),
        "segments": dict(outcomes),
        "paid_though_wrong": sum(len(report.unnoticed) for report in reports),
        "rejections": sum(len(report.rejections) for report in reports),
        "problems": [f"seed {report.seed}: {problem}" for report in reports for problem in report.problems],
        "figures": [report.figures for report in reports],
        "virtual_seconds": round(sum(report.virtual_seconds for report in reports)),
        "wall_seconds": round(wall, 3),
        "events_per_second": round(sum(report.events for report in reports) / wall) if wall else 0,
    }


def report(world: World, finished: bool, wall: float) -> Report:
    segments = list(world.receipts.segments.values())
    wrong = [segment.number for segment in segments if segment.state == SegmentState.SETTLED and not honest(world, segment.number)]
    failed = [s for s in segments if s.ended and s.state != SegmentState.SETTLED]
    return Report(
        seed=world.seed,
        finished=finished,
        virtual_seconds=world.clock.now,
        wall_seconds=wall,
        events=world.events,
        outcomes=dict(Counter(segment.state.name.lower() for segment in segments)),
        paid=world.changes(),
        rejections=[Rejection(world.name_of(s.provider), int(s.number), receipt(s)) for s in failed],
        unnoticed=[int(number) for number in wrong],
        figures=world.figures.whole(),
        problems=problems(world, finished),
    )


def problems(world: World, finished: bool) -> list[str]:
    found = []
    if (after := sum(world.ledger.balances().values())) != world.minted:
        found.append(f"there were {world.minted} tokens, now there are {after}")
    owed = sum(world.ledger.view(account).credit for account in world.ledger.balances())
    owed += sum(segment.fees_held for segment in world.ledger.jobs.segments.values())  # for noes, until the bond they withheld is cleared
    held = world.ledger.balances()[JOBS]
    if finished and owed != held:
        found.append(f"the contract holds {held} and owes {owed}, with every job closed")
    staked = sum(world.ledger.view(account).stake for account in world.ledger.balances())
    if staked != world.ledger.balances()[STAKES]:
        found.append(f"the stakes add up to {staked}, the contract holds {world.ledger.balances()[STAKES]}")
    if not finished:
        open_jobs = [int(job) for job in world.posted if world.receipts.jobs[job].refund is None]
        found.append(f"jobs {open_jobs} were not over after {world.options.patience:g} s")
    return found
