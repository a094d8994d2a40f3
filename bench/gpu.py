# Measures exact training on this machine's first CUDA device against native bf16, both sides turn by turn in one run: a GEMM (b = 14, from floats
# to floats, checksum included; every way of multiplying beside the chosen one) against bf16 torch.matmul at 4096, 8192 and 16384; every way at 8,
# 16 and 23 bits, and how far the chip's bf16 and fp8 accumulators are exact; a step of GPTs of 124 million and 1 billion parameters (state on the
# device, every link's end hashed there, as a worker runs it) against torch.compile with bf16 autocast and fused AdamW; the memory of both; what of
# a step hashing is; a step of the smaller GPT with attention by slices, with values made again, and with attention's scores in memory, against the
# step as it is; with its moments on the host, in its memory and in a file; a micro-batch by two ranks on this device, whose sums their devices
# make; a worker's step against the same links with state and results brought each time; a transposition, prefix sums and an embedding's gradient
# against torch's; and whether the same work gives the CPU engine's bits. Goals on one H200: GEMM at most 2.0 times torch's time, then 1.5; a step
# at most 2 times native and at least 25 % of the bf16 rate, memory at most 1.3 times, hashing at most 1 % of a step, checksums 2 % of a GEMM.
#
#     python bench/gpu.py [--quick] [--json] [--seconds 420] [--fake]
#
# Made for less than 8 minutes; needs torch, CuPy, NumPy and msgspec. Writes bench/results/gpu-DEVICE.json. Without a device it says so. --fake
# runs the same host code once, with tiny sizes, on the fake device (assay/exact/cuda/fake.py): it shows that the script works and measures nothing.
from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu_machine import Machine, medians
from gpu_products import gemm, moved, ways

from assay import course
from assay.exact import engines
from assay.exact.cpu import Cpu
from assay.exact.cuda import attend
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.parts import Parts
from assay.exact.cuda.resident import Resident
from assay.exact.cuda.ruler import Host
from assay.exact.hashing import tensor_root
from assay.exact.offload import Store
from assay.exact.ranks.places import DATA, TENSOR
from assay.exact.ranks.team import Team, crew
from assay.exact.reference import NUMPY
from assay.execute import Executor

SHEET = {"H200": 989.4, "H100": 989.4, "A100": 312.0}
"""Dense bf16 TFLOP/s by NVIDIA's data sheets (SXM)."""
BUDGET = 420.0
"""Seconds after which no further part is begun."""


def linked(machine: Machine, name: str) -> dict[str, Any]:
    """A worker's step with all ends of its links: the training stays on the device, beside links that bring state and results one by one; and
    whether both commit the same."""
    here = Gpt(machine, name)
    del here.resident
    program = here.traced.program
    engine = Cuda(program, machine.device, machine.kernels, machine.products_of())
    executor = Executor(program, here.traced.schedule, program.micro_batches, 16, engine=engine)
    both = [make(executor, 0, {n: a.copy() for n, a in here.traced.state.items()}) for make in (course.course, course._Here)]
    assert not both[0].here
    made: list[list[Any]] = [[], []]
    works = [lambda k=k: made[k].append(both[k].step(lambda step, m: here.batch)) for k in (0, 1)]
    found = medians(works[0], works[1], machine, 3)
    names = {"exact_ms": "staying_ms", "native_ms": "one_by_one_ms", "ratio": "ratio"}
    return {"model": name, **{names[key]: value for key, value in found.items()}, "equal": made[0] == made[1]}


def by_slices(machine: Machine, name: str) -> list[dict[str, Any]]:
    """A step as it is, by slices of two sizes, and by slices with values made again: time, memory, launches, and whether all end in one state."""
    here = Gpt(machine, name)
    p, description = here.traced.program, machine.device.description
    del here.resident
    small, large = (2000, 4000) if machine.torch is None else (description.cache, 4 * description.cache)
    out, roots = list[dict[str, Any]](), list[Any]()
    for slices, effort in ((0, 0), (small, 0), (large, 0), (small, 1)):
        parts = Parts(p, machine.device, machine.kernels, machine.products_of(), slices, effort)
        out.append({"slices": slices, "effort": effort, **again(machine, here, parts, roots)})
    return out


def again(machine: Machine, here: Gpt, parts: Parts, roots: list[Any]) -> dict[str, Any]:
    """A step as other parts make it: time, memory, launches, and whether the first ends in the first of `roots`, to which its own are added."""
    gc.collect()
    here.resident = Resident(parts)
    here.resident.put(here.traced.state)
    here.steps = 0
    here.exact()
    roots.append(here.resident.roots())
    found = medians(here.exact, None, machine, 3)
    found |= {"memory": here.resident.memory, "launches": len(here.resident._launches["micro"]), "equal": roots[-1] == roots[0]}
    del here.resident
    return found


def kept(machine: Machine, name: str) -> list[dict[str, Any]]:
    """A step with attention's scores on the chip and with scores in memory: time, memory, launches, and whether both end in one state."""
    here = Gpt(machine, name)
    p = here.traced.program
    del here.resident
    out, roots, ways = list[dict[str, Any]](), list[Any](), attend.WAYS
    for on_chip in (True, False):
        try:
            attend.WAYS = ways if on_chip else ()  # without any, no kernel fits the device
            parts = Parts(p, machine.device, machine.kernels, machine.products_of())
            out.append({"on_chip": on_chip, **again(machine, here, parts, roots)})
        finally:
            attend.WAYS = ways
    return out


def away(machine: Machine, name: str) -> list[dict[str, Any]]:
    """A step with the moments on the host (in memory, page-locked; and in a file of the temporary folder) beside one with all of the state on the
    device, turn by turn; what crosses, what it saves, and whether both end in one state."""
    here = Gpt(machine, name)
    p, batch = here.traced.program, here.batch
    del here.resident
    out = []
    with tempfile.TemporaryDirectory() as folder:
        for where, store in (("memory", None), ("file", Store(Path(folder)))):
            gc.collect()
            apart = Host(1 << 62, store).apart(p)
            both = [Resident(Parts(p, machine.device, machine.kernels, machine.products_of()), way, store) for way in (apart, None)]
            for resident in both:
                resident.put(here.traced.state)
            found = medians(*(partial(resident.step, 0, lambda m: batch, here.scalars(0)) for resident in both), machine, 3)
            names = {"exact_ms": "apart_ms", "native_ms": "whole_ms", "ratio": "ratio"}
            roots = [resident.roots() for resident in both]
            out.append({
                "model": name, "moments": where, **{names[key]: value for key, value in found.items()}, "equal": roots[0] == roots[1],
                "apart_memory": both[0].memory, "whole_memory": both[1].memory, "host": both[0].host, "crossing": both[0].crossing,
                "window": apart.window if apart else 0, "update_launches": [resident.launches["update"] for resident in both],
            })  # fmt: skip
            del both, resident
    return out


def ranks(machine: Machine, name: str) -> list[dict[str, Any]]:
    """A micro-batch of a training that stays with two processes on this one device, cut by records and by tensors: what their exchanges cost besides,
    and whether they give the CPU's bits. (Of several devices it says nothing.)"""
    here = Gpt(machine, name)
    del here.resident
    p, state = here.traced.program, here.traced.state
    acc = {n: np.zeros(t.shape, NUMPY[t.dtype]) for n, t in p.accumulator.items()}
    counters = {"step": np.array(0, np.int64), "micro": np.array(0, np.int64)}
    inputs = {"state": state, "acc": acc, "frozen": {}, "batch": here.batch, "scalar": here.scalars(0), "counter": counters}
    want = Cpu(p, 2).run("micro", inputs)
    os.environ[engines.VARIABLE] = "fake" if machine.torch is None else "cuda"
    out = []
    for what, layout in (("records", DATA), ("tensors", TENSOR)):
        with Team(p, layout, crew(2)) as team:
            held = team.resident()
            held.put(state)
            held.micros(0, 1, lambda m: here.batch)
            got = held.accumulator()
            found = medians(partial(held.micros, 0, 1, lambda m: here.batch), None, machine, 3)
        equal = all(got[n].tobytes() == array.tobytes() for n, array in want.items())
        out.append({"cut": what, "ranks": 2, **found, "equal_to_cpu": equal})
    return out


@lru_cache(maxsize=1)
def traced_of(name: str) -> tuple[Any, Any]:
    """A model's training and its trace, which several parts want one after the other."""
    from gpu_models import training

    from assay.trace import trace

    found = training(name)
    return found, trace(found)


class Gpt:
    """One size's exact step; native torch beside it."""

    def __init__(self, machine: Machine, name: str) -> None:
        from gpu_models import SIZES, flops

        from assay.merkle import sha256
        from assay.sampling import record_indices

        self.machine, self.name, self.size = machine, name, SIZES[name]
        self.training, traced = traced_of(name)
        self.flops = flops(self.training.model, self.size)
        self.parameters = sum(p.numel() for p in self.training.model.parameters())
        order = record_indices(sha256(b"bench"), len(self.training.data), 0, 0, 1, self.size.batch)
        self.batch = self.training.data.read(order)
        self.traced = traced
        self.resident = Resident(Parts(traced.program, machine.device, machine.kernels, machine.products_of()))
        self.resident.put(traced.state)
        self.steps = 0

    def exact(self) -> None:
        step = self.steps % len(self.traced.schedule)
        self.resident.step(step, lambda m: self.batch, self.scalars(step))
        self.steps += 1

    def scalars(self, step: int) -> dict[str, Any]:
        return {name: self.traced.schedule[step, i] for i, name in enumerate(self.traced.program.scalars)}

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

        found = medians(self.exact, native, machine)
        if torch is not None:
            memory = torch.cuda.max_memory_allocated()
        hashing = medians(self.hash, None, machine)["exact_ms"]
        update = medians(lambda: self.resident.update(0, self.scalars(0)), None, machine)["exact_ms"]
        return {
            "model": self.name, "parameters": self.parameters, "batch": self.size.batch, "context": self.size.context, **found,
            "exact_tflops": self.flops / found["exact_ms"] / 1e9, "hashing_ms": hashing, "hashing_share": hashing / found["exact_ms"],
            "update_ms": update, "launches": self.resident.launches,
            "exact_memory": self.resident.memory, "native_memory": memory,
        }  # fmt: skip


def same_bits(machine: Machine, name: str, steps: int = 2) -> bool:
    """Whether some steps on the device and on the CPU end in the same state."""
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
    parser.add_argument("--seconds", type=float, default=BUDGET, help="after so many no further part is begun")
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
    result: dict[str, Any] = {"device": description, "sheet_bf16_tflops": sheet}
    result |= {kind: [] for kind in ("gemm", "ways", "moved", "step", "linked", "sliced", "kept", "away", "ranks", "left_out")}
    result["same_bits_as_cpu"] = same_bits(machine, "tiny")
    print(f"a small GPT has the CPU's bits: {result['same_bits_as_cpu']}", flush=True)
    sizes = (200,) if options.fake else (4096,) if options.quick else (4096, 8192, 16384)
    widths = (16,) if options.fake or options.quick else (8, 16, 23)
    models = ("tiny",) if options.fake else ("124M",) if options.quick else ("124M", "1B")

    def step(name: str) -> list[dict[str, Any]]:
        found = Gpt(machine, name).measured()
        return [found | ({"share_of_sheet": found["exact_tflops"] / sheet} if sheet else {})]

    parts: list[tuple[str, str, Callable[[], list[dict[str, Any]]]]] = [("gemm", str(n), lambda n=n: [gemm(machine, n)]) for n in sizes]
    parts += [("step", name, lambda name=name: step(name)) for name in models]
    parts[-1:-1] = [
        ("moved", "all", lambda: moved(machine)), ("linked", models[0], lambda: [linked(machine, models[0])]),
        ("sliced", models[0], lambda: by_slices(machine, models[0])), ("kept", models[0], lambda: kept(machine, models[0])),
        ("away", models[0], lambda: away(machine, models[0])),
        ("ranks", "tiny", lambda: ranks(machine, "tiny")),
        *(("ways", f"b = {bits}", lambda bits=bits: [ways(machine, bits, 40 if options.fake else sizes[0])]) for bits in widths),
    ]  # fmt: skip
    for kind, which, work in parts:
        gc.collect()
        if time.perf_counter() - start > options.seconds:
            result["left_out"].append(f"{kind} of {which}: no time left")
            print(result["left_out"][-1], flush=True)
            continue
        for found in work():
            result[kind].append(found)
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
