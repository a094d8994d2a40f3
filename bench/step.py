# Measures a whole exact training step (every micro-batch and the update, in place; state and records are there, nothing is hashed) against the same
# step in eager PyTorch fp32 (torch.optim.AdamW, clipping), with 1 and 2 threads, turn by turn in one run: the GPT, the CNN and the MLP of
# examples/, and without --quick a CNN and an MLP that are larger (bench/models.py). Then the parts of a GPT step: committing (hashing), a trace.
# Goal: a step at most 1.2 times eager, next 1.0. With one thread times are CPU times (so that what else runs here counts less), with two
# they are wall-clock times; medians over turns, a ratio is the median of the ratios within a turn. Microsoft's RepDL is no package
# (source with a C++ extension), so it is not measured.
#
#     python bench/step.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from models import MODELS, SMALL

from assay.exact.native import build
from assay.execute import Executor
from assay.merkle import sha256
from assay.sampling import record_indices
from assay.state import Tensors, acc_root, state_root
from assay.trace import trace

Clock = Callable[[], float]


def seconds(work: Callable[[], Any], clock: Clock) -> float:
    start = clock()
    work()
    return clock() - start


def turns(count: int, ours: Callable[[], Any], theirs: Callable[[], Any], clock: Clock) -> dict[str, float]:
    """Medians of both and of their ratio; which of the two comes first alternates."""
    for work in (ours, theirs) * 2:
        work()
    pairs = []
    for turn in range(count):
        if turn % 2:
            pairs.append((seconds(ours, clock), seconds(theirs, clock)))
        else:
            other = seconds(theirs, clock)
            pairs.append((seconds(ours, clock), other))
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {"exact_ms": a * 1e3, "other_ms": b * 1e3, "ratio": statistics.median(x / y for x, y in pairs)}


class Both:
    """One model's step, exact and eager."""

    def __init__(self, name: str, threads: int) -> None:
        training = self.training = MODELS[name]()
        self.micro_batches = range(training.micro_batches)
        self.traced = trace(training)
        self.state = {name: array.copy() for name, array in self.traced.state.items()}
        self.executor = Executor(self.traced.program, self.traced.schedule, training.micro_batches, threads)
        size = training.batch * training.micro_batches
        order = record_indices(sha256(b"bench"), len(training.data), 0, 0, 1, size)
        self.batches: list[Tensors] = [training.data.read(order[m * training.batch :][: training.batch]) for m in self.micro_batches]
        self.optimizer = torch.optim.AdamW(training.model.parameters(), lr=1e-5)
        tensors = [{name: torch.from_numpy(array) for name, array in batch.items()} for batch in self.batches]
        self.tensors = [{name: t if t.is_floating_point() else t.long() for name, t in batch.items()} for batch in tensors]

    def exact(self) -> None:
        acc = self.executor.zero_acc(0, self.state)
        for m in self.micro_batches:
            acc = self.executor.micro(0, m, self.state, acc, self.batches[m], spend=True)
        self.state = self.executor.update(0, self.state, acc, spend=True)

    def eager(self) -> None:
        self.optimizer.zero_grad()
        for batch in self.tensors:
            (self.training.loss(self.training.model, batch) / len(self.micro_batches)).backward()
        torch.nn.utils.clip_grad_norm_(self.training.model.parameters(), 1.0)
        self.optimizer.step()


def step_bench(name: str, threads: int, count: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    both = Both(name, threads)
    parameters = sum(p.numel() for p in both.training.model.parameters())
    times = turns(count, both.exact, both.eager, time.process_time if threads == 1 else time.perf_counter)
    return {"model": name, "threads": threads, "parameters": parameters, **times}


def commit_bench(count: int) -> dict[str, float]:
    """What the GPT's step costs beside its arithmetic, one thread."""
    both = Both("gpt", 1)
    acc = both.executor.micro(0, 0, both.state, both.executor.zero_acc(0, both.state), both.batches[0])

    def commit() -> None:
        for m in both.micro_batches:
            acc_root(0, m + 1, acc)
        state_root(1, both.state)

    def traced() -> None:
        both.executor.trace_micro(0, 0, both.traced.state, both.executor.zero_acc(0, both.traced.state), both.batches[0])

    commit(), traced()
    of = {"commit_ms": commit, "trace_micro_ms": traced}
    return {name: statistics.median(seconds(work, time.process_time) for _ in range(max(3, count // 3))) * 1e3 for name, work in of.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="whole exact step against eager PyTorch fp32")
    parser.add_argument("--quick", action="store_true", help="the examples' models alone, fewer turns")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    count = 7 if options.quick else 31
    result: dict[str, Any] = {"level": build.level() if build.library() else "numpy", "torch": torch.__version__, "steps": []}
    for threads in (1, 2):
        for name in SMALL if options.quick else MODELS:
            made = step_bench(name, threads, count)
            result["steps"].append(made)
            times = f"exact {made['exact_ms']:.2f} ms, eager fp32 {made['other_ms']:.2f} ms, ratio {made['ratio']:.2f}"
            print(f"{name} threads={threads}: {times}  ({result['level']})", flush=True)
    result |= commit_bench(count)
    print(f"gpt: committing a step {result['commit_ms']:.1f} ms, trace of a micro-batch {result['trace_micro_ms']:.0f} ms")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
