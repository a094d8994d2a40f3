# Measures the simulated network: useful-work share of the providers' time at 1,000 nodes of which 5 % leave an hour; a scheduler's time and
# memory for a segment at 10, 100, 1,000 and 10,000 nodes; time and memory of 10,000 nodes with 100,000 segments. Against: the same
# scheduler with 10 nodes. Goals: a share of 95 %; flat over the sizes; minutes on 2 cores.
"""Run: python bench/sim.py [--quick] [--json] [--plot FILE.svg] [--only flat|useful|large] [--segments N]"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from assay.runtime import AnyEffect, AnyEvent
from assay.sim import Options, World
from assay.sim.cast import HONEST, SCHEDULER, Part
from assay.sim.report import report
from assay_scheduler.books import Config
from assay_scheduler.machine import SchedulerMachine

SEGMENTS = 50
"""Of each job in `flat`; so few jobs that five workers are enough for them."""
JOB = 25
"""Segments of a job in `large`."""
SAMPLED = 100.0
"""Seconds of the network's time after which it is looked again what a run has cost so far."""


class Timed(SchedulerMachine):
    """Counts the CPU time of what it does from the moment that all nodes are known: learning who is there is not work on a segment."""

    spent = 0
    largest = 0

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        begun = time.process_time_ns()
        effects = super().handle(event, now, seed)
        if self.state.jobs:
            type(self).spent += time.process_time_ns() - begun
        return effects


def size(state: Any) -> int:
    """Bytes of a scheduler's state as its journal keeps it, without the list of all peers."""
    return len(msgspec.json.encode(msgspec.structs.replace(state, peers={})))


def flat(nodes: int, jobs: int) -> dict[str, float]:
    """One scheduler, the same jobs, more or fewer nodes."""
    workers = max(2, nodes // 2)
    options = Options(
        shared=True, fanout=8, jobs=jobs, every=2.0, steps=2 * SEGMENTS, workers=workers, verifiers=max(4, nodes - workers), step_seconds=20.0,
        deadline=100_000,
    )  # fmt: skip
    part = Part(lambda me: Timed(Config(account=me.account, peer=me.peer)), HONEST[SCHEDULER].hands)
    Timed.spent, sizes = 0, []
    world = World(options, 1, {SCHEDULER: part})
    node = world.nodes[f"{SCHEDULER}-0"]

    def sample() -> None:
        sizes.append(size(node.core.machine.state))
        world.clock.after(60.0, sample)

    world.clock.after(60.0, sample)
    assert world.run(), f"{nodes} nodes: the jobs were not over in time"
    segments = len(world.receipts.segments)
    peers = len(msgspec.json.encode(node.core.machine.state.peers))
    return {
        "nodes": nodes, "segments": segments, "microseconds_per_segment": round(Timed.spent / segments / 1000, 1), "largest_state_bytes": max(sizes),
        "last_state_bytes": sizes[-1], "peers_bytes": peers,
    }  # fmt: skip


def best(sizes: tuple[int, ...], jobs: int, rounds: int) -> list[dict[str, float]]:
    """Of each size the round with the least time; the sizes take turns, so that what else the machine does meets all alike."""
    found = [[flat(nodes, jobs) for nodes in sizes] for _ in range(rounds)]
    return [min(of_size, key=lambda row: row["microseconds_per_segment"]) for of_size in zip(*found, strict=True)]


def peak() -> int:
    """MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def by_quarter(samples: list[tuple[int, float]]) -> list[float]:
    """Microseconds of CPU for an event on chain, over each quarter of a run's events; `samples`: events and seconds of CPU so far."""
    ends = [min(samples, key=lambda sample: abs(sample[0] - samples[-1][0] * i / 4)) for i in range(5)]
    return [round(1e6 * (later[1] - sooner[1]) / max(1, later[0] - sooner[0]), 1) for sooner, later in pairwise(ends)]


def whole(options: Options, seed: int = 1) -> dict[str, Any]:
    begun, wall = time.process_time(), time.perf_counter()
    world = World(options, seed)
    samples: list[tuple[int, float]] = []

    def sample() -> None:
        samples.append((world.events, time.process_time() - begun))
        world.clock.after(SAMPLED, sample)
        if len(samples) % 10 == 0:
            cost = f"{len(world.receipts.segments)} segments, {samples[-1][1]:.0f} s of CPU, {peak()} MB"
            print(f"{world.clock.now:.0f} s of the network's time: {cost}", file=sys.stderr, flush=True)

    sample()
    finished = world.run()
    samples.append((world.events, time.process_time() - begun))
    cpu, wall = time.process_time() - begun, time.perf_counter() - wall
    found = report(world, finished, wall)
    assert finished, found.problems
    assert not found.problems, found.problems
    segments = len(world.receipts.segments)
    return {
        "nodes": len(world.nodes), "segments": segments, "outcomes": found.outcomes, "cpu_seconds": round(cpu, 1), "wall_seconds": round(wall, 1),
        "cpu_ms_per_segment": round(1000 * cpu / segments, 2), "chain_events": found.events, "virtual_seconds": round(found.virtual_seconds),
        "cpu_us_per_event_by_quarter": by_quarter(samples), "peak_memory_mb": peak(), "money_counted": world.invariants.checked,
        **found.figures,
    }  # fmt: skip


def useful(quick: bool) -> dict[str, Any]:
    """Segments of five minutes."""
    return whole(Options(
        shared=True, fanout=8, schedulers=2, key_services=4, jobs=20 if quick else 150, every=2.0, steps=20 if quick else 60, segment_steps=10,
        workers=600, verifiers=400, step_seconds=30.0, leaving=0.05, loss=0.01, deadline=100_000,
    ))  # fmt: skip


def large(segments: int) -> dict[str, Any]:
    return whole(Options(
        shared=True, fanout=6, schedulers=4, key_services=20, jobs=segments // JOB, every=0.5, steps=2 * JOB, segment_steps=2, workers=6500,
        verifiers=3500, step_seconds=150.0, leaving=0.05, loss=0.01, deadline=100_000,
    ))  # fmt: skip


def plot(sizes: list[dict[str, float]], path: Path) -> None:
    """Time and memory for a segment over the number of nodes, as lines on a logarithmic axis of nodes."""
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="260" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    panels: list[tuple[str, Callable[[dict[str, float]], float]]] = [
        ("scheduler: microseconds of CPU a segment", lambda s: s["microseconds_per_segment"]),
        ("scheduler: largest state, KB", lambda s: s["largest_state_bytes"] / 1000),
    ]
    for panel, (title, value) in enumerate(panels):
        left, top, wide, high = 60 + 310 * panel, 40, 230, 160
        values = [value(s) for s in sizes]
        most = 1.5 * max(values)
        places = [(left + wide * i / max(1, len(sizes) - 1), top + high * (1 - v / most)) for i, v in enumerate(values)]
        out.append(f'<text x="{left}" y="24">{title}</text><path d="M{left} {top}V{top + high}H{left + wide}" fill="none" stroke="#888"/>')
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        out.append(f'<path d="M{line}" fill="none" stroke="#4c9f70" stroke-width="2"/>')
        for (x, y), v, s in zip(places, values, sizes, strict=True):
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#4c9f70"/>')
            out.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">{v:.0f}</text>')
            out.append(f'<text x="{x:.1f}" y="{top + high + 16}" text-anchor="middle">{s["nodes"]:,.0f}</text>')
        out.append(f'<text x="{left + wide / 2}" y="{top + high + 34}" text-anchor="middle">nodes</text>')
    path.write_text("\n".join([*out, "</svg>\n"]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--only", choices=["flat", "useful", "large"])
    parser.add_argument("--segments", type=int, default=100_000, help="of `large`")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    if args.only in (None, "flat"):
        flat(10, 1)  # warm
        found["flat"] = best((10, 1000) if args.quick else (10, 100, 1000, 10_000), 1 if args.quick else 4, 2 if args.quick else 3)
        if args.plot is not None:
            plot(found["flat"], args.plot)
    if args.only in (None, "useful"):
        found["useful"] = useful(args.quick)
    if args.only == "large" or (args.only is None and not args.quick):
        found["large"] = large(args.segments)
    for name, part in found.items():
        for row in part if isinstance(part, list) else [part]:
            print(f"{name:7}", ", ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
