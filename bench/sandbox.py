# Measures what shutting an engine in costs: a segment of the GPT of examples/shakespeare.py and the start of an engine, in a process of its own
# bare, under the kernel's means (Landlock, seccomp) and under bubblewrap on top, turn by turn in one run. Goal: under 2 % of a segment.
# Wall-clock seconds, the engine's start and its imports included, and the processor's seconds of the engine and of what it is started by, which say
# more on a busy machine; a ratio is the median of the ratios within a turn.
#
#     python bench/sandbox.py [--quick] [--json]
from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from assay import client
from assay.adapters.engine_process import ProcessEngine
from assay.adapters.sandbox import NoSandbox, Sandbox, choose
from assay.cli.jobs import plan_of
from assay.engine import CheckFile, JobFiles, RunLinks
from assay.execute import schedule_root
from assay.stages import program_root
from assay.state import state_root, to_bytes

EXAMPLE = Path(__file__).parent.parent / "examples" / "shakespeare.py"
GOAL = 1.02


def lay_out(root: Path, plan: client.Plan) -> JobFiles:
    """The files of a job and of its first segment, as a worker's hands put them."""
    job, segment = root / "job-1", root / "segment-1"
    job.mkdir(), segment.mkdir()
    (job / "program.json").write_bytes(plan.program.dump())
    (job / "schedule.bin").write_bytes(plan.schedule.astype("<f4").tobytes())
    (segment / "state-0.safetensors").write_bytes(to_bytes(plan.state))
    for at, name in enumerate(sorted(plan.records)):
        np.save(segment / f"records-0-{at}.npy", plan.records[name])
    count = len(next(iter(plan.records.values())))
    root_of = program_root(plan.program)
    return JobFiles(
        folder="job-1", program_root=root_of, schedule_root=schedule_root(plan.schedule), scalars=len(plan.program.scalars),
        micro_batches=plan.program.micro_batches, batch=plan.batch, order=plan.order(root_of), fields=tuple(sorted(plan.records)),
        shard_records=(count,),
    )  # fmt: skip


def spent() -> float:
    """Processor seconds of all that this process has started and that lives."""
    each = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(times.user + times.system for times in each)


async def seconds(sandbox: Sandbox | None, plan: client.Plan, steps: int) -> tuple[float, float, float]:
    """From nothing to the first answer of an engine; a segment by an engine that was just started; and the processor's seconds of both."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = lay_out(root, plan)
        task = RunLinks(job=files, segment="segment-1", start=0, stop=steps, parent_root=state_root(0, plan.state), keep=1 << 30)
        engine = ProcessEngine(sandbox=sandbox)
        try:
            started = time.perf_counter()
            await engine.run(CheckFile(folder="job-1", memory=1 << 34, flops=1 << 50), root, lambda _: None)
            first = time.perf_counter()
            await engine.run(task, root, lambda _: None)
            return first - started, time.perf_counter() - started, spent()
        finally:
            await engine.close()


def measure(steps: int, turns: int) -> dict[str, Any]:
    plan, _ = plan_of(EXAMPLE, steps, 0)
    kinds: dict[str, Sandbox | None] = {"bare": None}
    missing = {}
    for kind in ("kernel", "bubblewrap"):
        try:
            kinds[kind] = choose(kind)
        except NoSandbox as error:
            missing[kind] = str(error)
    asyncio.run(seconds(None, plan, 1))
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
    for turn in range(turns):
        for kind in (kinds, reversed(kinds))[turn % 2]:
            found[kind].append(asyncio.run(seconds(kinds[kind], plan, steps)))
    result: dict[str, Any] = {"steps": steps, "turns": turns, "missing": missing}
    for kind, times in found.items():
        start, whole, cpu = zip(*times, strict=True)
        bare_start, bare_whole, bare_cpu = zip(*found["bare"], strict=True)
        result[kind] = {
            "start_s": round(statistics.median(start), 3),
            "segment_s": round(statistics.median(whole), 3),
            "start_more_s": round(statistics.median(a - b for a, b in zip(start, bare_start, strict=True)), 3),
            "ratio": round(statistics.median(a / b for a, b in zip(whole, bare_whole, strict=True)), 4),
            "cpu_s": round(statistics.median(cpu), 3),
            "cpu_ratio": round(statistics.median(a / b for a, b in zip(cpu, bare_cpu, strict=True)), 4),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(*((4, 3) if options.quick else (64, 7)))
    for kind in ("bare", "kernel", "bubblewrap"):
        if kind in result:
            print(kind, result[kind], "" if result[kind]["cpu_ratio"] <= GOAL else "over the goal", file=sys.stderr)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
