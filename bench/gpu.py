# Measures exact training on this machine's first CUDA device against native bf16, both sides turn by turn in one run: a GEMM (b = 14, from floats
# to floats, checksum included) against bf16 torch.matmul at 4096, 8192 and 16384; a step of GPTs of 124 million and 1 billion parameters (state on
# the device, every link's end hashed there, as a worker runs it) against torch.compile with bf16 autocast and fused AdamW; the memory of both; what
# of a step hashing is; and whether the same steps give the CPU engine's bits. Goals on one H200: GEMM at most 2.0 times torch's time, then 1.5;
# a step at most 2 times native and at least 25 % of the bf16 rate, memory at most 1.3 times, hashing at most 1 % of a step.
#
#     python bench/gpu.py [--quick] [--json] [--fake]
#
# Made for less than 8 minutes; needs torch, CuPy, NumPy and msgspec. Writes bench/results/gpu-DEVICE.json. Without a device it says so. --fake
# runs the same host code with tiny sizes on the fake device (assay/exact/cuda/fake.py): it shows that the script works and measures nothing.
from __future__ import annotations

import argparse
import datetime
import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from assay.exact import engines
from assay.exact.cpu import Cpu
from assay.exact.cuda.parts import Parts
from assay.exact.cuda.product import Products
from assay.exact.cuda.resident import Resident
from assay.exact.hashing import tensor_root
from assay.exact.inputs import Writer, program
from assay.exact.steps import Step
from assay.exact.views import whole

SHEET = {"H200": 989.4, "H100": 989.4, "A100": 312.0}
"""Dense bf16 TFLOP/s by NVIDIA's data sheets (SXM)."""
BUDGET = 420.0
"""Seconds after which no further part is begun."""
TURNS = 7


def medians(ours: Callable[[], Any], theirs: Callable[[], Any] | None, wait: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds of both, turn by turn, and the median of their ratios."""

    def timed(work: Callable[[], Any]) -> float:
        wait()
        start = time.perf_counter()
        work()
        wait()
        return (time.perf_counter() - start) * 1e3

    for work in (ours, theirs) * 2:
        if work is not None:
            work()
    pairs = [(timed(ours), timed(theirs) if theirs is not None else float("nan")) for _ in range(TURNS)]
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {"exact_ms": a, "native_ms": b, "ratio": statistics.median(x / y for x, y in pairs)} if theirs is not None else {"exact_ms": a}


class Machine:
    """The device, and torch on it unless it is the fake one."""

    def __init__(self, fake: bool) -> None:
        opened = engines._open("fake" if fake else "cuda")
        self.device, self.kernels, self.products = opened.device, opened.kernels, opened.products
        self.torch: Any = None
        if not fake:
            import torch

            self.torch = torch

    def wait(self) -> None:
        self.device.wait()
        if self.torch is not None:
            self.torch.cuda.synchronize()

    def products_of(self) -> Products:
        """With a fault counter of its own, and the measured choices of tiles."""
        return Products(self.device, self.products._way)


def gemm(machine: Machine, n: int) -> dict[str, Any]:
    """n x n x n at b = 14: both times, the exact one's TFLOP/s, and whether a corner has the CPU's bits."""
    device, products = machine.device, machine.products_of()
    shape = (n, n)
    a, b, c = (whole(root, shape, "f32") for root in range(3))
    held = [device.allocate(4 * n * n) for _ in range(3)]
    x, y = (np.random.default_rng(seed).standard_normal(shape, np.float32) for seed in (0, 1))
    for buffer, array in zip(held, (x, y), strict=False):
        device.upload(buffer.address, array)
    step = Step("matmul", (a, b), (c,), (), (14, 1, 1, 1, 1))
    scratch = device.allocate(products.scratch(step) or 0)
    launches = products.prepare(step, lambda v: held[v.root].address, scratch.address)

    def exact() -> None:
        for launch in launches:
            device.launch(launch)

    native = None
    if machine.torch is not None:
        torch = machine.torch
        p, q = (torch.from_numpy(array).cuda().bfloat16() for array in (x, y))
        native = lambda: torch.matmul(p, q)  # noqa: E731
    found = medians(exact, native, machine.wait)
    out = np.empty(shape, np.float32)
    device.download(held[2].address, out)
    corner = min(n, 64)
    w = Writer(x[:corner], y[:, :corner])
    want = Cpu(program(w.part(w("matmul", 0, 1)), 14)).run("micro", {"batch": {"x0": x[:corner], "x1": np.ascontiguousarray(y[:, :corner])}})["y0"]
    equal = out[:corner, :corner].tobytes() == want.tobytes()
    rates = {name.replace("_ms", "_tflops"): 2 * n**3 / ms / 1e9 for name, ms in found.items() if name.endswith("_ms")}
    return {"n": n, **found, **rates, "equal_to_cpu": equal}


class Gpt:
    """One size's exact step; native torch beside it."""

    def __init__(self, machine: Machine, name: str) -> None:
        from gpu_models import SIZES, flops, training

        from assay.merkle import sha256
        from assay.sampling import record_indices
        from assay.trace import trace

        self.machine, self.name, self.size = machine, name, SIZES[name]
        self.training = training(name)
        self.flops = flops(self.training.model, self.size)
        self.parameters = sum(p.numel() for p in self.training.model.parameters())
        traced = trace(self.training)
        order = record_indices(sha256(b"bench"), len(self.training.data), 0, 0, 1, self.size.batch)
        self.batch = self.training.data.read(order)
        self.traced = traced
        self.resident = Resident(Parts(traced.program, machine.device, machine.kernels, machine.products_of()))
        self.resident.put(traced.state)
        self.steps = 0

    def exact(self) -> None:
        step = self.steps % len(self.traced.schedule)
        scalars = {name: self.traced.schedule[step, i] for i, name in enumerate(self.traced.program.scalars)}
        self.resident.step(step, lambda m: self.batch, scalars)
        self.steps += 1

    def hash(self) -> None:
        """What a step hashes: the accumulator after each micro-batch, and the state."""
        for _ in range(self.traced.program.micro_batches):
            self.resident.accumulator_roots()
        self.resident.roots()

    def measured(self) -> dict[str, Any]:
        machine, torch = self.machine, self.machine.torch
        native, memory = None, None
        if torch is not None:
            torch.cuda.reset_peak_memory_stats()
            model = torch.compile(self.training.model.cuda())
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
            batch = {"tokens": torch.from_numpy(self.batch["tokens"]).long().cuda()}

            def native() -> None:
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cuda", torch.bfloat16):
                    value = self.training.loss(model, batch)
                value.backward()
                optimizer.step()

        found = medians(self.exact, native, machine.wait)
        if torch is not None:
            memory = torch.cuda.max_memory_allocated()
        hashing = medians(self.hash, None, machine.wait)["exact_ms"]
        return {
            "model": self.name, "parameters": self.parameters, "batch": self.size.batch, "context": self.size.context, **found,
            "exact_tflops": self.flops / found["exact_ms"] / 1e9, "hashing_ms": hashing, "hashing_share": hashing / found["exact_ms"],
            "exact_memory": self.resident.memory, "native_memory": memory,
        }  # fmt: skip


def same_bits(machine: Machine, name: str, steps: int = 2) -> bool:
    """Whether some steps on the device and on the CPU end in the same state."""
    from assay.execute import Executor

    here = Gpt(machine, name)
    for _ in range(steps):
        here.exact()
    got = here.resident.roots()
    state = dict(here.traced.state)
    executor = Executor(here.traced.program, here.traced.schedule, 1)
    executor._cpu = Cpu(here.traced.program, 2)
    for step in range(steps):
        acc = executor.micro(step, 0, state, executor.zero_acc(step, state), here.batch)
        state = executor.update(step, state, acc)
    return {n: tensor_root(array) for n, array in state.items()} == got


def main() -> None:
    parser = argparse.ArgumentParser(description="exact training on a CUDA device against native bf16")
    parser.add_argument("--quick", action="store_true", help="one GEMM and the smaller GPT")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--fake", action="store_true", help="tiny sizes on the fake device; figures mean nothing")
    options = parser.parse_args()
    reason = None if options.fake else engines.why_not()
    if reason:
        print(f"nothing was measured: {reason}")
        if options.json:
            print(json.dumps({"skipped": reason}))
        return
    start = time.perf_counter()
    machine = Machine(options.fake)
    description = machine.device.description._asdict()
    print(", ".join(f"{key} {value}" for key, value in description.items()), flush=True)
    sheet = next((rate for key, rate in SHEET.items() if key in description["name"]), None)
    result: dict[str, Any] = {"device": description, "sheet_bf16_tflops": sheet, "gemm": [], "step": [], "left_out": []}
    result["same_bits_as_cpu"] = same_bits(machine, "tiny")
    print(f"a small GPT has the CPU's bits: {result['same_bits_as_cpu']}", flush=True)
    for n in (200,) if options.fake else (4096,) if options.quick else (4096, 8192, 16384):
        found = gemm(machine, n)
        result["gemm"].append(found)
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()), flush=True)
    for name in ("tiny",) if options.fake else ("124M",) if options.quick else ("124M", "1B"):
        gc.collect()
        if time.perf_counter() - start > BUDGET:
            result["left_out"].append(f"step of {name}: no time left")
            continue
        found = Gpt(machine, name).measured()
        if sheet:
            found["share_of_sheet"] = found["exact_tflops"] / sheet
        result["step"].append(found)
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()), flush=True)
    result["seconds"] = time.perf_counter() - start
    if not options.fake:
        record = {"bench": "gpu", "quick": options.quick, "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "figures": result}
        file = Path(__file__).parent / "results" / f"gpu-{re.sub('[^A-Za-z0-9]+', '-', description['name']).strip('-').lower()}.json"
        file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        print(file)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
