# Measures a training whose state and accumulator lie in mapped files (assay/exact/offload.py) against the same training with both in memory: an
# MLP of 8 million parameters (32 MiB, with AdamW's moments and gradients 128 MiB), two whole steps, each side in a fresh process. What is
# compared is the highest resident memory (VmHWM, Linux alone) beyond what was resident before the state was read, so that reading, hashing
# and writing the state count, too; and the CPU and wall-clock time of the steps with all this. The roots are compared.
# Goal: a quarter of the memory; the time is whatever the file system makes of it.
#
#     python bench/offload.py [--quick] [--json]
from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from memory import STATUS, noted

from assay.execute import Executor
from assay.program import Program

WIDTH, LAYERS, BATCH, WINDOW = 1448, 4, 32, 8 << 20


def prepare(folder: Path) -> None:
    """Runs in a child: the program and its first state as files."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    import assay
    from assay.segment import write_tensors
    from assay.trace import trace

    def loss(model: Any, batch: Any) -> Any:
        return F.cross_entropy(model(batch["x"]), batch["y"].long())

    torch.manual_seed(0)
    layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    rng = np.random.default_rng(0)
    data = assay.Dataset("noise", x=rng.standard_normal((BATCH, WIDTH), np.float32), y=rng.integers(0, 10, BATCH).astype("uint8"))
    traced = trace(
        assay.Training(
            model=nn.Sequential(*layers, nn.Linear(WIDTH, 10)), loss=loss, data=data, optimizer=assay.AdamW(lr=1e-3, clip=1.0),
            schedule=assay.Constant(), batch=BATCH, steps=4,
        )
    )  # fmt: skip
    (folder / "program").write_bytes(traced.program.dump())
    np.save(folder / "schedule.npy", traced.schedule)
    np.savez(folder / "batch.npz", x=data.arrays["x"], y=data.arrays["y"])
    write_tensors(folder / "state-0.safetensors", traced.state)


def grown(folder: Path, mapped: bool) -> dict[str, Any]:
    """Runs in a child: by how much two steps raise resident memory, their time, and the root after them."""
    from assay.exact.offload import Store
    from assay.segment import Segment
    from assay.state import from_file, state_root

    program = Program.load((folder / "program").read_bytes())
    schedule, batch = np.load(folder / "schedule.npy"), dict(np.load(folder / "batch.npz"))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        own = Path(place)
        (own / "state-0.safetensors").hardlink_to(folder / "state-0.safetensors")
        store = Store(own, WINDOW)
        root = state_root(0, from_file(own / "state-0.safetensors", 1 << 34, store.put))
        executor = Executor(program, schedule, 1, store=store if mapped else None)
        gc.collect()
        STATUS.with_name("clear_refs").write_text("5")
        before = noted("VmRSS")
        segment = Segment(own, executor, lambda step, m: dict(batch), 0, root, 0)
        cpu, wall = time.process_time(), time.perf_counter()
        segment.run(2, lambda step, loss: None)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return {"grown_mib": (noted("VmHWM") - before) / 2**20, "cpu_s": cpu, "wall_s": wall, "root": segment.root_before(2).hex()}


def child(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, "--child", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="memory of a training whose state lies in mapped files")
    parser.add_argument("--quick", action="store_true", help="one process a side")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, folder = options.child[0], Path(options.child[1])
        print(json.dumps(prepare(folder) or {} if what == "prepare" else grown(folder, what == "mapped")))
        return
    with tempfile.TemporaryDirectory() as folder:
        child("prepare", folder)
        sides = {what: [child(what, folder) for _ in range(1 if options.quick else 3)] for what in ("memory", "mapped")}
    assert len({run["root"] for runs in sides.values() for run in runs}) == 1, "the bits differ"
    result: dict[str, Any] = {"state_mib": 3 * (LAYERS * WIDTH * (WIDTH + 1) + 10 * (WIDTH + 1)) * 4 / 2**20, "window_mib": WINDOW / 2**20}
    for what, runs in sides.items():
        row = result[what] = {name: statistics.median(run[name] for run in runs) for name in ("grown_mib", "cpu_s", "wall_s")}
        print(f"{what}: {row['grown_mib']:.0f} MiB more, {row['cpu_s']:.2f} s of CPU time, {row['wall_s']:.2f} s", flush=True)
    result["ratio"] = result["mapped"]["grown_mib"] / result["memory"]["grown_mib"]
    print(f"state of {result['state_mib']:.0f} MiB, window of {result['window_mib']:.0f} MiB: {result['ratio']:.2f} of the memory")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
