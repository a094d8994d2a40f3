# Measures a network of real processes (chain node, bootstrap node, key service, scheduler, workers, verifiers, clients) under injected faults:
# SIGKILL, SIGSTOP, connections cut, held and slowed, of any process, the chain node included. Whether every job ends in the state root of the
# undisturbed run and every token is where the receipts say; and what each process takes meanwhile (memory, handles, threads, disk): the medians of
# the quarters of its time, and the slope of the second half, by hour, held against assay.localnet.usage.LIMITS where it lived half an hour or more.
# Goals: 1,200 faults, equal roots, right balances; one hour of compressed load without a leak.
"""Run: python bench/faults.py [--quick] [--json] [--count N] [--seconds S] [--gap S] [--seed N] [--keep FOLDER]"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
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
    args = parser.parse_args()
    args.count = args.count or (40 if args.quick else 1200)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="assay-faults-") as folder:
        base = args.keep or Path(folder)
        base.mkdir(parents=True, exist_ok=True)
        found = {"load_before": round(load, 2), "cores": os.cpu_count(), "gap": args.gap, "spared": args.spare, **measure(args, base)}
    for key, value in found.items():
        print(f"{key:20} {value}", file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(found))
    if found["problems"] or found["leaks"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
