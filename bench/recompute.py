# Measures what making activations again saves and costs: a GPT of 12 blocks (width 128, 8 texts of 128 characters), the same program and
# the same bits at every effort (assay/exact/recompute.py). Memory is the bound that a node compares with its limit (assay/exact/memory.py, held
# against real runs by tests/exact/test_memory.py) and by how much two steps raise the resident memory of a fresh process (VmHWM; Linux
# alone). Time is the CPU time of a micro-batch, one thread, efforts turn by turn in one run, a ratio the median of those within a turn.
# Goal: less than half the memory for at most 1.4 times the time (the forward pass once more is 1.33).
#
#     python bench/recompute.py [--quick] [--json]
from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from memory import STATUS, noted
from torch import nn

import assay
from assay.exact.memory import needed
from assay.exact.recompute import written
from assay.execute import Executor
from assay.program import cost
from assay.state import Tensors, acc_root
from assay.trace import trace

LAYERS, WIDTH, HEADS, VOCABULARY, CONTEXT, BATCH = 12, 128, 4, 65, 128, 8
EFFORTS = (0, 1, 2, 4, 12)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (y.view(BATCH, CONTEXT, HEADS, -1).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(BATCH, CONTEXT, WIDTH))
        up: torch.Tensor = F.gelu(self.up(self.norm2(x)), approximate="tanh")
        return x + self.down(up)


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, WIDTH)
        self.place = nn.Parameter(torch.zeros(CONTEXT, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.token(tokens) + self.place)))


def _loss(model: Any, batch: Any) -> Any:
    tokens = batch["tokens"]
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


class Run:
    def __init__(self, efforts: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, (2 * BATCH, CONTEXT + 1)).astype(np.uint8)
        data = assay.Dataset("noise", tokens=tokens)
        traced = trace(
            assay.Training(model=Deep(), loss=_loss, data=data, optimizer=assay.AdamW(lr=1e-3), schedule=assay.Constant(), batch=BATCH, steps=2)
        )
        self.program, self.state, self.batch = traced.program, traced.state, {"tokens": tokens[:BATCH]}
        self.executors = {e: Executor(traced.program, traced.schedule, 1, effort=e) for e in efforts}

    def micro(self, effort: int) -> Tensors:
        executor = self.executors[effort]
        return executor.micro(0, 0, self.state, executor.zero_acc(0, self.state), self.batch)


def grown(effort: int) -> int:
    """Runs in a child: bytes by which two micro-batches raise resident memory."""
    run = Run((effort,))
    gc.collect()
    STATUS.with_name("clear_refs").write_text("5")
    before = noted("VmRSS")
    for _ in range(2):
        run.micro(effort)
    return noted("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description="memory and time when activations are made again")
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(grown(options.child))
        return
    torch.set_num_threads(1)
    run = Run(EFFORTS)
    roots = {acc_root(0, 1, run.micro(effort)).hex() for effort in EFFORTS}
    assert len(roots) == 1, "the bits differ"
    times: dict[int, list[float]] = {effort: [] for effort in EFFORTS}
    for _ in range(3 if options.quick else 9):
        for effort in EFFORTS:
            start = time.process_time()
            run.micro(effort)
            times[effort].append(time.process_time() - start)
    result: dict[str, Any] = {"layers": LAYERS, "width": WIDTH, "efforts": []}
    for effort in EFFORTS:
        command = [sys.executable, str(Path(__file__)), "--child", str(effort)]
        seen = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])
        row = {
            "effort": effort,
            "needed_mib": needed(run.program, 1, effort) / 2**20,
            "grown_mib": seen / 2**20,
            "operations": cost(written(run.program.micro, effort).part).flops / cost(run.program.micro).flops,
            "milliseconds": statistics.median(times[effort]) * 1e3,
            "ratio": statistics.median(t / plain for t, plain in zip(times[effort], times[0], strict=True)),
        }
        result["efforts"].append(row)
        print(
            f"effort {effort}: needs {row['needed_mib']:.0f} MiB, resident {row['grown_mib']:.0f} MiB, operations {row['operations']:.2f},"
            f" time {row['ratio']:.2f} ({row['milliseconds']:.0f} ms)",
            flush=True,
        )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
