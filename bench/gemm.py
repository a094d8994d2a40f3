# Measures exact matrix products of b = 8, 14, 15, 16 and 23 bits (quantisation, packing, checksum and the one rounding included) against
# torch's fp32 product of the same matrices, square from 256 to 4096, with 1 and 2 threads, turn by turn in one run.
# Goal: b = 14 at most 1.2 times torch; b = 15 at most 1.5 times and b = 16..23 at most 3.5 times b = 14. Wall-clock times with the
# least of a few repeats in each turn (so that what else runs here counts less); a ratio is the median of the ratios within a turn.
#
#     python bench/gemm.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from assay.exact.conformance import Writer, program
from assay.exact.cpu import Cpu
from assay.exact.native import build

BITS = (8, 14, 15, 16, 23)


def least(work: Callable[[], Any], repeats: int) -> float:
    """Seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def square(n: int, threads: int, count: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((n, n), np.float32), rng.standard_normal((n, n), np.float32)
    w = Writer(a, b)
    part = w.part(w("matmul", 0, 1))
    torch.set_num_threads(threads)
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    inputs = {"batch": {"x0": a, "x1": b}}
    engines = {bits: Cpu(program(part, bits), threads) for bits in BITS}
    works: dict[str, Callable[[], Any]] = {"torch": lambda: ta @ tb}
    works |= {f"b={bits}": lambda cpu=cpu: cpu.run("micro", inputs) for bits, cpu in engines.items()}  # type: ignore[misc]
    for work in works.values():
        work()
    repeats = max(2, round(3e8 / n**3))
    turns = [{name: least(work, repeats) for name, work in works.items()} for _ in range(count)]
    ms = {name: statistics.median(t[name] for t in turns) * 1e3 for name in works}
    ratio = {name: statistics.median(t[name] / t["torch"] for t in turns) for name in works if name != "torch"}
    return {"n": n, "threads": threads, "ms": ms, "times_torch": ratio, "gflops": {name: 2 * n**3 / t / 1e6 for name, t in ms.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description="exact matrix products against torch fp32")
    parser.add_argument("--quick", action="store_true", help="up to 512, one thread, few turns")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    result: dict[str, Any] = {"level": build.level() if build.library() else "numpy", "torch": torch.__version__, "products": []}
    for threads in (1,) if options.quick else (1, 2):
        for n in (256, 512) if options.quick else (256, 512, 1024, 2048, 4096):
            made = square(n, threads, 5 if options.quick else 11 if n < 2048 else 3)
            result["products"].append(made)
            ratios = ", ".join(f"{name} {made['ms'][name]:.2f} ms ({times:.2f}x)" for name, times in made["times_torch"].items())
            print(f"{n} threads={threads}: torch {made['ms']['torch']:.2f} ms, {ratios}  ({result['level']})", flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
