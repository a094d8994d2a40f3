# Measures a small network of real processes on this machine (chain with blocks of 0.25 s, key service, scheduler, three workers, four
# verifiers), undisturbed: seconds from a posted job to the first step of its first provider; the part of the providers' time, between an
# assignment and its commitment, in which their engines train, with what each segment's time went to and what every process took of the
# processors meanwhile; and, when a worker is killed for good in the middle of a segment, seconds until its range is another one's. Goals:
# first step in under 2 s in the median; a useful share of 95 % (with segments of minutes: what is not useful is told in seconds a segment,
# too); reassigned within one lease.
"""Run: python bench/network.py [--quick] [--json]"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import msgspec

from assay.chain import Params
from assay.localnet.demo import environment
from assay.localnet.net import Network, launch
from assay.localnet.processes import Processes

SMALL = """import numpy as np
import torch.nn.functional as F
from torch import nn
import assay
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
training = assay.Training(model=nn.Linear(6, 3), loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
                          data=assay.Dataset("dots", x=x, y=(x[:, 0] > 0).astype("int64")), optimizer=assay.AdamW(lr=1e-2), batch=8, steps=4)
"""
LONG = """import numpy as np
import torch.nn.functional as F
from torch import nn
import assay
x = np.random.default_rng(0).normal(size=(512, 128)).astype("float32")
model = nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 8))
training = assay.Training(model=model, loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
                          data=assay.Dataset("dots", x=x, y=(x[:, 0] > 0).astype("int64")), optimizer=assay.AdamW(lr=1e-3), batch=256, steps=9999)
"""
PARAMS = Params(
    finality=1, activate_window=60, lease_window=240, takeover_window=240, serve_window=60, seal_window=60, reveal_window=60, open_window=60,
    challenge_window=4, links=2, verifiers=3, quorum=2, openings=1, redraws=1, depth=4, draw_bond=1_000_000,
)  # fmt: skip
WITHIN = 400.0


class Heard:
    """What the processes said, with the time at which it was heard."""

    def __init__(self) -> None:
        self.notes: list[tuple[float, str, dict[str, Any]]] = []

    def __call__(self, name: str, note: dict[str, Any]) -> None:
        self.notes.append((time.monotonic(), name, note))

    async def first(self, fits: Callable[[str, dict[str, Any]], bool]) -> tuple[float, str, dict[str, Any]]:
        """The first note that fits, when it has come."""
        seen, deadline = 0, time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            for found in self.notes[seen:]:
                if fits(found[1], found[2]):
                    return found
            seen = len(self.notes)
            await asyncio.sleep(0.01)
        raise SystemExit(f"it was not heard within {WITHIN:g} s; last: {self.notes[-3:]}")

    def of(self, topic: str, segment: int) -> list[float]:
        return [at for at, name, note in self.notes if name.startswith("worker") and note.get("topic") == topic and note.get("segment") == segment]


def _says_up(name: str, who: str, note: dict[str, Any]) -> bool:
    return who == name and note.get("topic") == "up"


class Net:
    def __init__(self, base: Path, heard: Heard, processes: Processes, network: Network) -> None:
        self.base, self.heard, self.processes, self.network, self.clients = base, heard, processes, network, 0

    async def open(self) -> None:
        names = ["keyservice", "scheduler", *(f"worker-{i}" for i in (1, 2, 3)), *(f"verifier-{i}" for i in (1, 2, 3, 4))]
        for name in names:
            words = [sys.executable, "-m", "assay.cli", name.split("-")[0], "start", *self.network.arguments(self.base / name), "--json"]
            await self.processes.start(name, words, env=environment())
        for name in names:
            await self.heard.first(partial(_says_up, name))
        await asyncio.sleep(5)

    async def submit(self, train: str, steps: int, segment_steps: int, params: Params) -> tuple[str, int, float]:
        """(client, job, when it was posted)."""
        self.clients += 1
        client = f"client-{self.clients}"
        file, told = self.base / f"{client}.py", self.base / f"{client}.toml"
        file.write_text(train)
        told.write_text("".join(f"{key} = {value}\n" for key, value in msgspec.structs.asdict(params).items()))
        words = [sys.executable, "-m", "assay.cli", "submit", str(file), "--steps", str(steps), "--segment-steps", str(segment_steps), "--json"]
        words += [*self.network.arguments(self.base / client), "--watch", "--yes", "--budget", "9000", "--fee", "0.05", "--params", str(told)]
        await self.processes.start(client, words, env=environment())
        at, _, note = await self.heard.first(lambda who, note: who == client and note.get("topic") in ("posted", "error", None))
        if "job" not in note:
            raise SystemExit(f"the job was not posted: {note}")
        return client, int(note["job"]), at

    async def assigned(self, job: int, after: int = 0) -> tuple[float, str, dict[str, Any]]:
        """The first worker that says that a segment of the job later than `after` is its own."""

        def fits(who: str, note: dict[str, Any]) -> bool:
            return who.startswith("worker") and note.get("topic") == "assigned" and note.get("job") == job and note["segment"] > after

        return await self.heard.first(fits)

    async def stepped(self, segment: int) -> tuple[float, str, dict[str, Any]]:
        """The first step of a segment."""
        return await self.heard.first(lambda who, note: note.get("topic") == "step" and note.get("segment") == segment)

    async def done(self, client: str) -> float:
        return (await self.heard.first(lambda who, note: who == client and note.get("topic") == "done"))[0]


async def first_steps(net: Net, jobs: int) -> dict[str, Any]:
    """Small jobs, one after another."""
    first, whole, ways = [], [], []
    for _ in range(jobs):
        client, job, posted = await net.submit(SMALL, 4, 2, PARAMS)
        assigned, _, mine = await net.assigned(job)
        stepped, _, _ = await net.stepped(mine["segment"])
        first.append(round(stepped - posted, 2))
        (running,) = net.heard.of("running", mine["segment"])[:1]
        ways.append((assigned - posted, running - assigned, stepped - running))
        whole.append(round(await net.done(client) - posted, 2))
    parts = [round(statistics.median(part), 2) for part in zip(*ways, strict=True)]
    return {
        "jobs": jobs, "median": statistics.median(first), "all": first, "until_weights_median": statistics.median(whole),
        "until_assigned": parts[0], "then_until_running": parts[1], "then_until_its_first_step": parts[2],
    }  # fmt: skip


def covered(spans: list[tuple[float, float]]) -> float:
    """Seconds in any of the spans: a worker has its next segment assigned while it trains one, and that time is not taken twice."""
    total, until = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return total


PHASES = {
    "gathered": ("assigned", "ready"), "waited": ("ready", "running"), "began": ("running", "first"), "stepped": ("first", "last"),
    "sealed": ("last", "run"), "copied": ("run", "copied"), "committed": ("copied", "committed"),
}  # fmt: skip
"""Of a segment, from one moment to another: documents, shards, keys and the parent's checkpoint come; a place is waited for; what came is
opened and the engine makes its first step; all others; the end state is sealed and published; another node copies it; the block that carries
the commitment is final at the worker."""


def moments(heard: Heard, segment: int) -> dict[str, float] | None:
    """When what was heard of a segment; None for one that was not both begun and committed."""
    found = {topic: heard.of(topic, segment) for topic in ("assigned", "ready", "running", "step", "run", "copied", "alone", "committed")}
    if not all(found[topic] for topic in ("assigned", "ready", "running", "step", "run", "committed")):
        return None
    return {
        "assigned": found["assigned"][0], "ready": found["ready"][0], "running": found["running"][0], "first": found["step"][0],
        "last": found["step"][-1], "run": found["run"][-1], "copied": (found["copied"] or found["alone"])[-1], "committed": found["committed"][-1],
    }  # fmt: skip


def processor_seconds(processes: Processes) -> dict[str, float]:
    """What each process has had of the processors, without those that it started (Linux: proc_pid_stat(5), fields 14 and 15)."""
    found = {}
    for name, process in processes.running.items():
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended, or this is no Linux
            continue
        found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


async def useful(net: Net, steps: int, segments: int) -> dict[str, Any]:
    """One job, one segment after another; what a segment takes beside its training."""
    before, began = processor_seconds(net.processes), time.monotonic()
    client, job, _ = await net.submit(LONG, steps * segments, steps, PARAMS)
    await net.done(client)
    took, spent = time.monotonic() - began, processor_seconds(net.processes)
    said = [(who, note) for _, who, note in net.heard.notes if who.startswith("worker") and note.get("topic") == "assigned"]
    providers = {note["segment"]: who for who, note in said if note["job"] == job}
    training, rows = 0.0, []
    taken: dict[str, list[tuple[float, float]]] = {}
    for number, who in sorted(providers.items()):
        at = moments(net.heard, number)
        if at is None:
            continue
        trained = at["run"] - at["running"]
        training += trained
        spans = taken.setdefault(who, [])
        counted = -covered(spans)
        spans.append((at["assigned"], at["committed"]))
        counted += covered(spans)
        phases = {phase: round(at[until] - at[since], 2) for phase, (since, until) in PHASES.items()}
        rows.append({"segment": number, "by": who, "lost": round(counted - trained, 2), "training": round(trained, 2), **phases})
    share = training / sum(covered(spans) for spans in taken.values())
    medians = {part: round(statistics.median(row[part] for row in rows), 2) for part in ("training", *PHASES)}
    busy = {name: round(spent[name] - before.get(name, 0.0), 1) for name in spent}
    return {
        "segments": len(rows), "share": round(share, 4), "medians": medians, "rows": sorted(rows, key=lambda row: -row["lost"]),
        "seconds": round(took, 1), "processor_seconds_without_engines": dict(sorted(busy.items(), key=lambda item: -item[1])),
    }  # fmt: skip


async def reassignment(net: Net, steps: int, lease: int) -> dict[str, Any]:
    """A worker is killed in the middle of a segment and does not come back."""
    client, job, _ = await net.submit(LONG, 2 * steps, steps, msgspec.structs.replace(PARAMS, lease_window=lease))
    _, who, note = await net.assigned(job)
    await net.stepped(note["segment"])
    killed = time.monotonic()
    net.processes.kill(who)
    at, other, _ = await net.assigned(job, note["segment"])
    done = await net.done(client)
    return {"lease_seconds": lease, "seconds_after_the_kill": round(at - killed, 2), "by": other, "done_after": round(done - killed, 2)}


async def measure(quick: bool) -> dict[str, Any]:
    heard = Heard()
    with tempfile.TemporaryDirectory(prefix="assay-network-") as folder:
        base = Path(folder)
        async with Processes(heard, base / "logs") as processes, launch(processes, base, block_time=0.25) as network:
            net = Net(base, heard, processes, network)
            await net.open()
            found = {"first_step": await first_steps(net, 3 if quick else 9)}
            found["useful"] = await useful(net, 100 if quick else 600, 3 if quick else 5)
            found["reassigned"] = await reassignment(net, 100, 40)
    return found


def tell(found: dict[str, Any], out: TextIO) -> None:
    """A line each, and below them a line for each segment, the worst one first."""
    for key, value in found.items():
        if isinstance(value, dict):
            value = {name: part for name, part in value.items() if name != "rows"}
        print(f"{key:14} {value}", file=out)
    for row in found["useful"]["rows"]:
        print(" ".join(f"{name} {value}" for name, value in row.items()), file=out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    found = {"load_before": round(load, 2), "cores": os.cpu_count(), **asyncio.run(measure(args.quick))}
    tell(found, sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
