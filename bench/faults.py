# Measures a network of real processes (chain node, bootstrap node, key service, scheduler, workers, verifiers, clients) under injected faults:
# SIGKILL, SIGSTOP, connections cut, held and slowed, of any process, the chain node included. Whether every job ends in the state root of the
# undisturbed run and every token is where the receipts say; and what each process takes meanwhile (memory, handles, threads, disk): the medians of
# the quarters of its time, and the slope of the second half, by hour, held against assay.localnet.usage.LIMITS where it lived half an hour or more.
# Goals: 1,200 faults, equal roots, right balances; one hour of compressed load without a leak.
"""Run: python bench/faults.py [--quick] [--json] [--count N] [--seconds S] [--gap S] [--seed N] [--keep FOLDER] [--plot FILE]"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from assay.localnet.ordeal import Ordeal, Scale

TRAIN = """import numpy as np
import torch.nn.functional as F
from torch import nn
import assay
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
training = assay.Training(model=nn.Linear(6, 3), loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
                          data=assay.Dataset("dots", x=x, y=(x[:, 0] > 0).astype("int64")), optimizer=assay.AdamW(lr=1e-2), batch=8, steps=16)
"""
SPARED = ("worker-1", "verifier-1", "scheduler", "keyservice")
"""In the long run: hit by all but SIGKILL, so that what a process takes can be followed for an hour."""


def measure(args: argparse.Namespace, base: Path) -> dict[str, Any]:
    (base / "train.py").write_text(TRAIN)
    (base / "net").mkdir()
    scale = Scale(faults=args.count, gap=args.gap, together=4, seconds=args.seconds, spared=tuple(args.spare))
    began = time.monotonic()

    def progress(note: dict[str, Any]) -> None:
        print(f"{time.monotonic() - began:7.1f} {json.dumps(note)}", file=sys.stderr, flush=True)

    return asyncio.run(Ordeal(scale, args.seed, base / "net", base / "train.py", progress).run())


COLOURS = ("#4c9f70", "#c1554d", "#4d7fc1", "#a8852f", "#7d5ba6")
PANELS = (("memory, MB", "resident", 1e6, 200.0), ("file handles", "handles", 1.0, 80.0), ("disk, MB", "disk", 1e6, 16.0))


def plot(usage: Path, names: list[str], path: Path) -> None:
    """What some nodes took over time, each point the median of a minute, from the lines of `usage.jsonl`."""
    taken: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in names}
    for line in usage.read_text().splitlines():
        found = json.loads(line)
        if found["node"] in taken:
            taken[found["node"]].setdefault(int(found["at"] // 60), []).append(found)
    last = max((minute for minutes in taken.values() for minute in minutes), default=1)
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="900" height="270" font-family="sans-serif" font-size="11">']
    out.append('<rect width="100%" height="100%" fill="#ffffff"/>')
    for panel, (title, key, unit, most) in enumerate(PANELS):
        left, top, wide, high = 50 + 290 * panel, 40, 230, 160
        out.append(f'<text x="{left}" y="24">{title}</text><path d="M{left} {top}V{top + high}H{left + wide}" fill="none" stroke="#888"/>')
        for value in (0.0, most / 2, most):
            out.append(f'<text x="{left - 6}" y="{top + high * (1 - value / most) + 4:.0f}" text-anchor="end">{value:g}</text>')
        for colour, (name, minutes) in zip(COLOURS, taken.items(), strict=False):
            points = {minute: statistics.median(each[key] for each in found) / unit for minute, found in sorted(minutes.items())}
            places = "L".join(f"{left + wide * minute / last:.1f} {top + high * (1 - min(1.0, v / most)):.1f}" for minute, v in points.items())
            out.append(f'<path d="M{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
            if not panel:
                at = 60 + 150 * names.index(name)
                out.append(f'<text x="{at}" y="255" fill="{colour}">{name}</text>')
        out.append(f'<text x="{left + wide / 2}" y="{top + high + 28}" text-anchor="middle">minutes, 0 to {last}</text>')
    path.write_text("\n".join([*out, "</svg>\n"]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int, help="faults; 1,200, or 40 when quick")
    parser.add_argument("--seconds", type=float, default=0.0, help="at least so long")
    parser.add_argument("--gap", type=float, default=2.5, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spare", nargs="*", default=list(SPARED), help="nodes that are not killed")
    parser.add_argument("--keep", type=Path, help="leave the nodes' folders and logs there")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw what the nodes that were not killed took")
    args = parser.parse_args()
    args.count = args.count or (40 if args.quick else 1200)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="assay-faults-") as folder:
        base = args.keep or Path(folder)
        base.mkdir(parents=True, exist_ok=True)
        found = {"load_before": round(load, 2), "cores": os.cpu_count(), "gap": args.gap, "spared": args.spare, **measure(args, base)}
        if args.plot:
            plot(base / "net" / "usage.jsonl", args.spare, args.plot)
    for key, value in found.items():
        print(f"{key:20} {value}", file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(found))
    if found["problems"] or found["leaks"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
