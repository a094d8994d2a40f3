# Measures what making activations again and running by slices save and cost: the same program and the same bits each way.
#
# * deep: a GPT of 12 blocks (width 128, 8 texts of 128 characters) at every effort (assay/exact/recompute.py);
# * long: a GPT of 2 blocks with attention over long texts (width 256, 4 heads, 2 texts of 1024 characters), with slices
#   (assay/exact/slices.py) and without, at efforts 0 and 1.
#
# Memory is the bound that a node compares with its limit (assay/exact/memory.py, held against real runs by tests/exact/test_memory.py) and by
# how much two steps raise the resident memory of a fresh process (VmHWM; Linux alone). Time is the CPU time of a micro-batch, one thread, all
# ways turn by turn in one run, a ratio the median of those within a turn to effort 0 without slices (long) or with them (deep).
# Goal: less than half the memory for at most 1.4 times the time (the forward pass once more is 1.33); slices alone at most the time without.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from memory import STATUS, noted
from torch import nn

import assay
from assay.exact.cpu import Cpu
from assay.exact.memory import needed
from assay.exact.recompute import written
from assay.exact.regions import SLICE
from assay.execute import Executor
from assay.program import cost
from assay.state import Tensors, acc_root
from assay.trace import trace


class Shape(NamedTuple):
    layers: int
    width: int
    heads: int
    context: int
    batch: int


class Way(NamedTuple):
    effort: int
    slices: int


VOCABULARY = 65
SHAPES = {"deep": Shape(12, 128, 4, 128, 8), "long": Shape(2, 256, 4, 1024, 2)}
WAYS = {"deep": [Way(e, SLICE) for e in (0, 1, 2, 4, 12)], "long": [Way(e, s) for e in (0, 1) for s in (0, SLICE)]}


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.shape
        q, k, v = (y.view(s.batch, s.context, s.heads, -1).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(s.batch, s.context, s.width))
        up: torch.Tensor = F.gelu(self.up(self.norm2(x)), approximate="tanh")
        return x + self.down(up)


class Deep(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, shape.width)
        self.place = nn.Parameter(torch.zeros(shape.context, shape.width))
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.layers)))
        self.norm, self.head = nn.LayerNorm(shape.width), nn.Linear(shape.width, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.token(tokens) + self.place)))


def _loss(model: Any, batch: Any) -> Any:
    tokens = batch["tokens"]
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


class Run:
    def __init__(self, shape: Shape, ways: Sequence[Way]) -> None:
        torch.manual_seed(0)
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, (2 * shape.batch, shape.context + 1)).astype(np.uint8)
        data = assay.Dataset("noise", tokens=tokens)
        traced = trace(
            assay.Training(
                model=Deep(shape), loss=_loss, data=data, optimizer=assay.AdamW(lr=1e-3), schedule=assay.Constant(), batch=shape.batch, steps=2
            )
        )
        self.program, self.state, self.batch = traced.program, traced.state, {"tokens": tokens[: shape.batch]}
        engines = {way: Cpu(traced.program, 1, way.effort, slices=way.slices) for way in ways}
        self.executors = {way: Executor(traced.program, traced.schedule, 1, engine=engine) for way, engine in engines.items()}

    def micro(self, way: Way) -> Tensors:
        executor = self.executors[way]
        return executor.micro(0, 0, self.state, executor.zero_acc(0, self.state), self.batch)


def grown(shape: Shape, way: Way) -> int:
    """Runs in a child: bytes by which two micro-batches raise resident memory."""
    run = Run(shape, [way])
    gc.collect()
    STATUS.with_name("clear_refs").write_text("5")
    before = noted("VmRSS")
    for _ in range(2):
        run.micro(way)
    return noted("VmHWM") - before


def measured(name: str, turns: int) -> list[dict[str, Any]]:
    shape, ways = SHAPES[name], WAYS[name]
    run = Run(shape, ways)
    roots = {acc_root(0, 1, run.micro(way)).hex() for way in ways}
    assert len(roots) == 1, "the bits differ"
    times: dict[Way, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way in ways:
            start = time.process_time()
            run.micro(way)
            times[way].append(time.process_time() - start)
    rows = []
    for way in ways:
        command = [sys.executable, str(Path(__file__)), "--child", name, *map(str, way)]
        seen = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])
        row = {
            "model": name,
            "effort": way.effort,
            "slices": bool(way.slices),
            "needed_mib": needed(run.program, 1, way.effort, slices=way.slices) / 2**20,
            "grown_mib": seen / 2**20,
            "operations": cost(written(run.program.micro, way.effort, way.slices).part).flops / cost(run.program.micro).flops,
            "milliseconds": statistics.median(times[way]) * 1e3,
            "ratio": statistics.median(t / plain for t, plain in zip(times[way], times[ways[0]], strict=True)),
        }
        rows.append(row)
        print(
            f"{name}, effort {way.effort}, {'slices' if way.slices else 'no slices'}: needs {row['needed_mib']:.0f} MiB, resident"
            f" {row['grown_mib']:.0f} MiB, operations {row['operations']:.2f}, time {row['ratio']:.2f} ({row['milliseconds']:.0f} ms)",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="memory and time when activations are made again, and by slices")
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        name, effort, slices = options.child
        print(grown(SHAPES[name], Way(int(effort), int(slices))))
        return
    torch.set_num_threads(1)
    rows = [row for name in SHAPES for row in measured(name, 3 if options.quick else 9)]
    if options.json:
        print(json.dumps({"shapes": {name: shape._asdict() for name, shape in SHAPES.items()}, "ways": rows}))


if __name__ == "__main__":
    main()
