# Measures how much memory a whole exact step takes against the same step in eager PyTorch fp32: each in a process of its own that makes
# the model, the optimiser's state and the records, notes its resident memory, runs three steps, and notes the highest resident memory it
# has had (VmHWM of /proc/self/status, set back before). The difference is what stepping needs: activations, gradients, scratch.
# torch's optimiser makes its moments in the first step: they are made before the note, as ours are part of the state (and written, since
# zeros take no memory before that).
# One thread, medians of three processes, models of bench/models.py. Goal: at most 1.2 times. Linux alone; setting the
# highest value back needs /proc/self/clear_refs.
#
#     python bench/memory.py [--quick] [--json]
from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


def noted(name: str) -> int:
    """Bytes: VmRSS, resident now, or VmHWM, the most so far."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def grown(side: str, model: str) -> dict[str, int]:
    """Runs in the child: bytes of parameters and moments, and by how much three steps raise resident memory."""
    import torch
    from step import Both

    torch.set_num_threads(1)
    both = Both(model, 1)
    if side == "eager":
        # One step on nothing: makes moments and lets torch load what it loads at first use.
        for p in both.training.model.parameters():
            p.grad = torch.zeros_like(p)
        both.optimizer.step()
        both.optimizer.zero_grad()
    state, both.traced, both.state = both.state, None, {}  # type: ignore[assignment]  # the first state is not kept, as in a training
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)  # what tracing left free would be used without being seen
    Path("/proc/self/clear_refs").write_text("5")
    before = noted("VmRSS")
    if side == "exact":
        for step in range(3):
            acc = both.executor.zero_acc(step, state)
            for m in both.micro_batches:
                acc = both.executor.micro(step, m, state, acc, both.batches[m], spend=True)
            state = both.executor.update(step, state, acc, spend=True)
    else:
        for _ in range(3):
            both.eager()
    parameters = sum(p.numel() for p in both.training.model.parameters())
    return {"state_bytes": 12 * parameters, "grown_bytes": noted("VmHWM") - before}


def child(side: str, model: str) -> dict[str, int]:
    command = [sys.executable, __file__, "--child", side, model]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="memory of a whole exact step against eager PyTorch fp32")
    parser.add_argument("--quick", action="store_true", help="the examples' models alone")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(grown(*options.child)))
        return
    from models import MODELS, SMALL

    result: dict[str, Any] = {"models": []}
    for model in SMALL if options.quick else MODELS:
        ours, theirs = ([child(side, model) for _ in range(3)] for side in ("exact", "eager"))
        state = ours[0]["state_bytes"]
        a, b = (statistics.median(run["grown_bytes"] for run in runs) for runs in (ours, theirs))
        # Both hold parameters and moments before the first step: that is part of what training takes.
        made = {"model": model, "exact_mib": (state + a) / 2**20, "eager_mib": (state + b) / 2**20, "ratio": (state + a) / (state + b)}
        result["models"].append(made)
        print(f"{model}: exact {made['exact_mib']:.1f} MiB, eager fp32 {made['eager_mib']:.1f} MiB, ratio {made['ratio']:.2f}", flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
