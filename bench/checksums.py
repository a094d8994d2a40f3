# Measures what the exact checksum of every matrix product costs on this CPU: products of 256 to 2048, attention-sized batches, and a whole
# step of the GPT of examples/shakespeare.py, each against the same engine compiled without checksums, turn by turn in one run.
# Goal: at most 3 % of a product and of a step. Times are CPU times; a ratio is the median of the ratios within a turn.
#
#     python bench/checksums.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from assay.exact.conformance import Writer, program
from assay.exact.cpu import Cpu
from assay.exact.native import build
from assay.execute import Executor
from assay.trace import trace
from assay.training import load_training

EXAMPLE = Path(__file__).parent.parent / "examples" / "shakespeare.py"
SHAPES = ((), 256, 256, 256), ((), 512, 512, 512), ((), 1024, 1024, 1024), ((), 2048, 2048, 2048), ((), 512, 128, 512), ((32,), 64, 32, 64)
"""Batch, m, k, n."""


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def turns(count: int, checked: Callable[[], Any], bare: Callable[[], Any]) -> dict[str, float]:
    """Medians of both and of their ratio; which of the two comes first alternates."""
    checked(), bare()
    pairs = []
    for turn in range(count):
        if turn % 2:
            pairs.append((seconds(checked), seconds(bare)))
        else:
            other = seconds(bare)
            pairs.append((seconds(checked), other))
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {"checked_ms": a * 1e3, "bare_ms": b * 1e3, "ratio": statistics.median(x / y for x, y in pairs)}


def both(make: Callable[[], Any]) -> tuple[Any, Any]:
    """What `make` gives with the library that checks, and with the one that does not."""
    checked = make()
    os.environ["ASSAY_CHECKSUMS"] = "0"
    try:
        return checked, make()
    finally:
        del os.environ["ASSAY_CHECKSUMS"]


def product(count: int, batch: tuple[int, ...], m: int, k: int, n: int, bits: int, threads: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((*batch, m, k), np.float32), rng.standard_normal((*batch, k, n), np.float32)
    w = Writer(a, b)
    part = w.part(w("matmul", 0, 1))
    checked, bare = both(lambda: Cpu(program(part, bits), threads))
    inputs = {"batch": {"x0": a, "x1": b}}
    repeats = max(1, round(2e8 / (a.size * n)))
    times = turns(count, lambda: [checked.run("micro", inputs) for _ in range(repeats)], lambda: [bare.run("micro", inputs) for _ in range(repeats)])
    return {"shape": [*batch, m, k, n], "bits": bits, "threads": threads, **times}


def step(count: int) -> dict[str, Any]:
    training = load_training(EXAMPLE)
    traced = trace(training)
    checked, bare = both(lambda: Executor(traced.program, traced.schedule, training.micro_batches))
    batch = training.data.read(np.arange(training.batch))

    def run(executor: Executor) -> None:
        acc = executor.zero_acc(0, state)
        for m in range(training.micro_batches):
            acc = executor.micro(0, m, state, acc, batch, spend=True)
        state.update(executor.update(0, state, acc, spend=True))

    state = {name: array.copy() for name, array in traced.state.items()}
    return turns(count, lambda: run(checked), lambda: run(bare))


def said(times: dict[str, Any]) -> str:
    return f"{times['checked_ms']:.2f} ms, bare {times['bare_ms']:.2f} ms, {times['ratio'] - 1:+.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description="what checksums of matrix products cost")
    parser.add_argument("--quick", action="store_true", help="fewer turns, no large products, one thread")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    if build.library() is None:
        raise SystemExit("there is no native library here: install a C compiler")
    count = 7 if options.quick else 31
    result: dict[str, Any] = {"level": build.level(), "products": []}
    for threads in (1,) if options.quick else (1, 2):
        for bits in (14, 23):
            for batch, m, k, n in SHAPES:
                if m <= (512 if options.quick else 2048 if bits == 14 else 1024):
                    made = product(count if m < 2048 else 7, batch, m, k, n, bits, threads)
                    result["products"].append(made)
                    print(f"{made['shape']} b={bits} threads={threads}: {said(made)}")
    result["step"] = step(count)
    print(f"GPT step: {said(result['step'])}  ({result['level']})")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
