# Measures how long it takes to trace a training, from the model to the checked program: GPTs of 2 to 100 layers (width 64, two heads, context 32,
# AdamW with clipping), then to plan and to load the program, as a worker does. Goal: 100 layers traced in under a minute. CPU time, one thread.
#
#     python bench/tracing.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import assay
from assay.execute import Executor
from assay.program import Program
from assay.trace import trace
from assay.training import Training

WIDTH, HEADS, CONTEXT, CHARACTERS = 64, 2, 32, 65


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Any) -> Any:
        batch, length, _ = x.shape
        q, k, v = (h.view(batch, length, HEADS, -1).transpose(1, 2) for h in self.qkv(self.norm1(x)).split(WIDTH, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(CHARACTERS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CHARACTERS, bias=False)

    def forward(self, tokens: Any) -> Any:
        return self.head(self.norm(self.blocks(self.token(tokens) + self.place(torch.arange(tokens.shape[1])))))


def loss(model: Any, batch: Any) -> Any:
    tokens = batch["tokens"]
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def gpt(layers: int) -> Training:
    torch.manual_seed(0)
    tokens = np.random.default_rng(0).integers(0, CHARACTERS, (16, CONTEXT + 1)).astype("uint8")
    data = assay.Dataset("noise", tokens=tokens)
    optimizer = assay.AdamW(lr=1e-3, clip=1.0)
    return assay.Training(model=GPT(layers), loss=loss, data=data, optimizer=optimizer, schedule=assay.Constant(), batch=4, steps=4)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def measured(layers: int) -> dict[str, Any]:
    training = gpt(layers)
    tracing, traced = timed(lambda: trace(training))
    raw = traced.program.dump()
    loading, program = timed(lambda: Program.load(raw))
    executor = Executor(program, traced.schedule, training.micro_batches)
    acc, batch = executor.zero_acc(0, traced.state), training.data.read(range(training.batch))
    first, _ = timed(lambda: executor.micro(0, 0, traced.state, acc, batch))
    second, _ = timed(lambda: executor.micro(0, 0, traced.state, acc, batch))
    nodes = len(program.micro.nodes) + len(program.update.nodes)
    return {"layers": layers, "nodes": nodes, "bytes": len(raw), "trace_s": tracing, "load_s": loading, "plan_s": first - second}


def main() -> None:
    parser = argparse.ArgumentParser(description="tracing of deep models")
    parser.add_argument("--quick", action="store_true", help="2 and 8 layers alone")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured(1)
    result: dict[str, Any] = {"torch": torch.__version__, "models": []}
    for layers in (2, 8) if options.quick else (2, 25, 100):
        made = measured(layers)
        result["models"].append(made)
        times = f"trace {made['trace_s']:.1f} s, load and check {made['load_s']:.1f} s, plan {made['plan_s']:.1f} s"
        print(f"{layers} layers, {made['nodes']} nodes, {made['bytes'] / 1e6:.1f} MB: {times}", flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
