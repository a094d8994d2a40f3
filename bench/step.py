# Measures a whole exact training step (every micro-batch and the update, without hashing) of the 0.4 M parameter GPT of
# examples/shakespeare.py against the same step in eager PyTorch fp32 (torch.optim.AdamW and clipping), both on one thread, turn by turn
# in one run; then the parts: committing (hashing) a step, a trace, the exact GEMM against torch's sgemm, SHA-256 against hashlib.
# Goal: the step at most 1.2 times eager, next 1.0; the GEMM at most 1.2 times sgemm; committing at most 1 % of a step where it
# can be overlapped. Times are CPU times (so that what else runs here counts less), medians over turns; a ratio is the median of the
# ratios within a turn.
#
#     python bench/step.py [--quick] [--json]
from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.exact.conformance import Writer, program
from assay.exact.cpu import Cpu
from assay.exact.hashing import chunk_root
from assay.exact.native import build
from assay.execute import Executor
from assay.sampling import record_indices
from assay.state import Tensors, acc_root, state_root
from assay.trace import trace
from assay.training import load_training

EXAMPLE = Path(__file__).parent.parent / "examples" / "shakespeare.py"


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def turns(count: int, ours: Callable[[], Any], theirs: Callable[[], Any]) -> dict[str, float]:
    """Medians of both and of their ratio, one after the other in each turn."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(count)]
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {"exact_ms": a * 1e3, "other_ms": b * 1e3, "ratio": statistics.median(x / y for x, y in pairs)}


def step_bench(count: int) -> dict[str, Any]:
    training = load_training(EXAMPLE)
    traced = trace(training)
    executor = Executor(traced.program, traced.schedule, training.micro_batches)
    micro_batches = range(training.micro_batches)
    order = record_indices(hashlib.sha256(b"bench").digest(), len(training.data), 0, 0, 1, training.batch * training.micro_batches)  # type: ignore[arg-type]
    batches: list[Tensors] = [training.data.read(order[m * training.batch :][: training.batch]) for m in micro_batches]
    state: Tensors = traced.state
    ends: list[Tensors] = []

    def exact() -> None:
        acc = executor.zero_acc(0, state)
        ends.clear()
        for m in micro_batches:
            acc = executor.micro(0, m, state, acc, batches[m])
            ends.append(acc)
        ends.append(executor.update(0, state, acc))

    model = training.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    tensors = [{name: torch.from_numpy(array).long() for name, array in batch.items()} for batch in batches]

    def eager() -> None:
        optimizer.zero_grad()
        for batch in tensors:
            (training.loss(model, batch) / training.micro_batches).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    out: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters()), "step": turns(count, exact, eager)}

    def commit() -> None:
        for m in micro_batches:
            acc_root(0, m + 1, ends[m])
        state_root(1, ends[-1])

    commit()
    out["commit_ms"] = statistics.median(seconds(commit) for _ in range(count)) * 1e3
    acc = executor.zero_acc(0, state)
    executor.trace_micro(0, 0, state, acc, batches[0])
    out["trace_micro_ms"] = statistics.median(seconds(lambda: executor.trace_micro(0, 0, state, acc, batches[0])) for _ in range(3)) * 1e3
    return out


def gemm_bench(count: int, m: int, k: int, n: int, level: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    w = Writer(a, b)
    cpu = Cpu(program(w.part(w("matmul", 0, 1)), 14))
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    ours = {"batch": {"x0": a, "x1": b}}
    return {"shape": [m, k, n], "level": level, **turns(count, lambda: cpu.run("micro", ours), lambda: ta @ tb)}


def main() -> None:
    parser = argparse.ArgumentParser(description="whole exact step against eager PyTorch fp32, one thread")
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = 5 if options.quick else 30
    result: dict[str, Any] = {"level": build.level() if build.library() else "numpy", **step_bench(count)}
    step = result["step"]
    print(f"step   exact {step['exact_ms']:.1f} ms, eager fp32 {step['other_ms']:.1f} ms, ratio {step['ratio']:.2f}  ({result['level']})")
    print(f"commit {result['commit_ms']:.1f} ms a step; trace of a micro-batch {result['trace_micro_ms']:.0f} ms")
    shapes = [(512, 128, 512), (512, 512, 512), (1024, 1024, 1024)]
    result["gemm"] = [gemm_bench(count, *shape, result["level"]) for shape in shapes]
    for g in result["gemm"]:
        print(f"gemm   {g['shape']}: exact {g['exact_ms']:.2f} ms, sgemm {g['other_ms']:.2f} ms, ratio {g['ratio']:.2f}")
    data = np.random.default_rng(0).integers(0, 256, 1 << 24, dtype=np.uint8)
    raw = data.tobytes()
    result["hash"] = turns(count, lambda: chunk_root(data), lambda: hashlib.sha256(raw).digest())
    print(f"hash   16 MiB: Merkle root {result['hash']['exact_ms']:.1f} ms, hashlib.sha256 {result['hash']['other_ms']:.1f} ms")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
