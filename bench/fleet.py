# Measures what a fleet's places bring: two segments of the GPT of examples/shakespeare.py on one place and on two (each with one thread) of fleets
# that Ray runs on this machine, against the same two one after another on one engine without Ray; turn by turn in one run. Also what Ray takes:
# seconds until a fleet is up, and the memory of its processes (unique pages). Wall-clock seconds; a ratio is the median of the ratios within a
# turn. On a machine with two free cores two places should take half the time of one; with less than that to give, more. Goal: a place costs under
# 2 % of a segment that one engine runs alone.
#
#     python bench/fleet.py [--quick] [--json]
from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from sandbox import EXAMPLE, lay_out

from assay import client
from assay.adapters.engine_process import ProcessEngine
from assay.adapters.fleet.engine import FleetEngine
from assay.adapters.fleet.messages import LOCAL, Begin
from assay.adapters.sandbox import NoSandbox, Sandbox, choose
from assay.cli.jobs import plan_of
from assay.engine import JobFiles, RunLinks
from assay.ports import Engine
from assay.state import state_root

GOAL = 1.02


async def started(root: Path, shut: Sandbox, places: int) -> tuple[FleetEngine, float, float]:
    """A fleet, the seconds until it was up, and the bytes that are its own."""
    begin = Begin(
        address=LOCAL, root=str(root), places=places, gpus=0, cores=os.cpu_count() or 1, threads=1, sandbox="auto", must=True, disk=1 << 40
    )  # fmt: skip
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    fleet, at = FleetEngine(begin, ProcessEngine(sandbox=shut), shut, root.parent / f"fleet-{places}.log"), time.perf_counter()
    assert await fleet.start() == places
    took = time.perf_counter() - at
    ours = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    return fleet, took, sum(process.memory_full_info().uss for process in ours)


async def run(engine: Engine, root: Path, files: JobFiles, plan: client.Plan, steps: int, segments: int) -> float:
    """Seconds that so many segments take, asked for at once."""
    tasks = []
    for number in range(2, 2 + segments):
        shutil.rmtree(root / f"segment-{number}", ignore_errors=True)
        shutil.copytree(root / "segment-1", root / f"segment-{number}")
        tasks.append(
            RunLinks(job=files, segment=f"segment-{number}", start=0, stop=steps, parent_root=state_root(0, plan.state), keep=1 << 30)
        )  # fmt: skip
    at = time.perf_counter()
    await asyncio.gather(*(engine.run(task, root, lambda _: None) for task in tasks))
    return time.perf_counter() - at


async def measure(plan: client.Plan, steps: int, turns: int, shut: Sandbox) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "work"
        root.mkdir()
        files = lay_out(root, plan)
        alone = ProcessEngine(processes=1, sandbox=shut)
        one, up, memory = await started(root, shut, 1)
        two, _, _ = await started(root, shut, 2)
        ways: dict[str, Engine] = {"engine": alone, "one": one, "two": two}
        times: dict[str, list[float]] = {name: [] for name in ways}
        single: dict[str, list[float]] = {"engine": [], "one": []}
        try:
            for engine in ways.values():
                await run(engine, root, files, plan, 1, 2)  # plans are made
            for _ in range(turns):
                for name, engine in ways.items():
                    times[name].append(await run(engine, root, files, plan, steps, 2))
                for name in single:
                    single[name].append(await run(ways[name], root, files, plan, steps, 1))
        finally:
            for engine in ways.values():
                await engine.close()
    return {
        "cores": os.cpu_count(), "steps": steps, "turns": turns, "up_seconds": up, "memory_mib": memory / 2**20,
        "seconds": {name: statistics.median(each) for name, each in times.items()},
        "two_over_one": statistics.median(a / b for a, b in zip(times["two"], times["one"], strict=True)),
        "place_over_engine": statistics.median(a / b for a, b in zip(single["one"], single["engine"], strict=True)),
        "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="segments on the places of a fleet")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter segments")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    try:
        shut = choose("bubblewrap")
    except NoSandbox as error:
        print(json.dumps({"skipped": f"Ray is not started here: {error}"}))
        return
    assert shut is not None
    found = asyncio.run(measure(plan_of(EXAMPLE, 12, 0)[0], 4 if options.quick else 12, 3 if options.quick else 7, shut))
    print(f"a fleet is up after {found['up_seconds']:.1f} s and takes {found['memory_mib']:.0f} MiB")
    print(f"two segments: {', '.join(f'{name} {seconds:.2f} s' for name, seconds in found['seconds'].items())}")
    print(f"two places take {found['two_over_one']:.2f} of the time of one; a place {found['place_over_engine']:.3f} of an engine's (goal {GOAL})")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
