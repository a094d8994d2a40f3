# Counts how long one step of a GPT (124 million and 1 billion parameters; 8192 characters, one micro-batch) takes an H200 at least, launch after
# launch: of each launch the largest of its bytes of memory (traffic.py's rule) at 4 TB/s, its instructions, and its products of digits in whole
# rounds of tiles over 132 processors; of attention its bytes of the level-2 cache, too, at 32 a cycle and processor. What goes on beside each other
# within a launch is not counted twice; what comes after each other (scales and packing before multiplying, the checksum behind it) is. Nothing runs
# and no device is needed: it is a count, no measurement.
#
# Instructions of all kernels but persistent.cu are those of bench/results/instructions.json (bench/instructions.py, which has to
# have counted these very kernels), on the processor that has the most blocks: as many as are started (four a cycle), or what keeps one of its parts
# busy longest (PIPES). Shared memory takes a cycle a front, and each instruction of memory one. Bytes that come from the level-2 cache are not
# among the limits of these kernels, since nothing says what the level-1 cache holds.
#
# Of persistent.cu a tile of 128 x 128 takes 128 x 128 x 3 k products at 92 % of 4096 a cycle (docs/cuda.md, "Products on Hopper") and 1100 cycles
# beside them (2500 where k is split), at 1.83 GHz; k is split over blocks, and rows are cut off, as by cuts.py. What waits for what within a block is
# NOT counted. From one launch to the next LAUNCH is added.
#
# Goals: a step of at most twice native bf16's time (taken as 40 % of the peak), and 25 % of bf16's peak.
#
#     python bench/roof.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from launched import counted, digest, key, launched, plan_of
from planned import H200
from traffic import PEAK, RATE, REACHED, attended, moved, taken, written

from assay.exact.cuda import attend
from assay.exact.cuda.device import Launch
from assay.exact.cuda.handed import handed_of
from assay.exact.cuda.product import Products
from assay.exact.cuda.ruler import Ruler
from assay.exact.cuda.streamed import Shelf
from assay.exact.steps import Step
from assay.program import Program

CLOCK = 1.83e9
CACHE = 32
"""Bytes of the level-2 cache a cycle and processor."""
TILE, BETWEEN, ADDING, REACH = 128, 1100, 2500, 0.92
LAUNCH = 1.5e-6
"""Seconds from one launch of a graph to the next; not measured."""


def multiplying(step: Step, products: Products) -> float:
    """Cycles of the tiles of a product."""
    p = products.product(step)
    assert p is not None
    cycles = 0.0
    for piece in p.pieces:
        each = TILE * TILE * 3 * p.k / piece.parts / 4096 / REACH + (BETWEEN if piece.parts == 1 else ADDING)
        cycles += -(-piece.tiles * piece.parts // H200.processors) * each
    return cycles


PIPES = {"issued": 4, "alu": 2, "fma": 4, "heavy": 2, "slow": 0.5, "shuffle": 1, "tensor": 0.5}
"""Instructions of warps a cycle and processor: NVIDIA's table of throughputs for compute capability 9.0, by 32. Half of fma's lanes take integers'
products (heavy). Of products of tensor cores half of the data sheet's rate, since mma.sync does not reach it."""
COUNTS = Path(__file__).resolve().parent / "results" / "instructions.json"
ANEW = "python bench/all.py instructions"


class Instructions:
    """What bench/instructions.py has counted of a model. Raises ValueError where there is nothing, or of other kernels."""

    def __init__(self, model: str) -> None:
        figures = json.loads(COUNTS.read_text())["figures"]["models"] if COUNTS.exists() else {}
        if model not in figures:
            raise ValueError(f"instructions of {model} are not counted: {ANEW}")
        self._found: Mapping[str, Mapping[str, float]] = figures[model]["kernels"]
        self.sources = figures[model]["sources"]

    def seconds(self, launches: Iterable[Launch]) -> float:
        return sum(map(self.of, filter(counted, launches)))

    def of(self, launch: Launch) -> float:
        row = self._found.get(key(launch))
        if row is None:
            raise ValueError(f"instructions of {launch.kernel.name} are not counted: {ANEW}")
        busy = [row.get(name, 0.0) / rate for name, rate in PIPES.items()]
        busy += [(row.get("fma", 0.0) + row.get("heavy", 0.0)) / PIPES["fma"], row.get("memory", 0.0) + row.get("wavefronts", 0.0)]
        return -(-row["blocks"] // H200.processors) * max(busy) / CLOCK


CHECKING = "expected"


def named(launches: Iterable[Launch], *names: str) -> list[Launch]:
    return [launch for launch in launches if launch.kernel.name.startswith(names)]


def others(launches: Iterable[Launch], *names: str) -> list[Launch]:
    return [launch for launch in launches if not launch.kernel.name.startswith(names)]


def least(program: Program, instructions: Instructions) -> dict[str, Any]:
    """Milliseconds of a micro-batch and the update, by kinds of steps. Raises ValueError where instructions are not those of these kernels."""
    products, found, started = Products(Ruler(H200), taken), Counter[str](), list[Launch]()

    def larger(what: str, bytes_: float, of: Iterable[Launch]) -> None:
        seconds = instructions.seconds(of)
        found[f"{what}, limited by {'memory' if bytes_ / RATE >= seconds else 'instructions'}"] += max(bytes_ / RATE, seconds)

    for part in (program.micro, program.update):
        plan, shelf = plan_of(program, part, products), Shelf()
        for steps, own, _ in launched(plan, part):
            started += own
            step = steps[0] if steps else None
            if step is not None and step.name == "attend":
                kernel, handed = attend.attend(step, H200, plan), handed_of(step)
                of_memory, streamed, _ = attended(step, plan, shelf)
                own_views = {*kernel.passes, *step.writes, *(handed.matrices if handed is not None else ())}
                passes = sum(size for v, size in of_memory if v in own_views)
                larger("attention's packing", sum(size for _, size in of_memory) - passes, others(own, "attend_"))
                limits = passes / RATE, streamed / (CACHE * H200.processors * CLOCK), instructions.seconds(named(own, "attend_"))
                found[f"attention, limited by {('memory', 'the level-2 cache', 'instructions')[limits.index(max(limits))]}"] += max(limits)
                continue
            shelf = Shelf()
            bytes_ = sum(size for s in steps for _, size in moved(s, products, plan))
            if step is None or step.name != "matmul":
                # what begins and ends a part has its bytes with the steps that it is for
                larger("packing" if step is not None and step.name == "pack" else "maps, reductions and copies", bytes_, own if steps else ())
                continue
            p = products.product(step)
            assert p is not None
            digits, checked = sum(written(side) for side in p.sides), written(p.sides[1])
            beside = digits + 4 * p.products * p.m * p.n
            multiplied = multiplying(step, products) / CLOCK
            found["products, limited by " + ("tensor cores" if multiplied > beside / RATE else "memory")] += max(multiplied, beside / RATE)
            larger("checksums", checked, named(own, CHECKING))
            larger("packing", bytes_ - beside - checked, others(own, CHECKING))
    if digest(started) != instructions.sources:
        raise ValueError(f"instructions were counted of other kernels than these: {ANEW}")
    found["launches"] += len(started) * LAUNCH
    return {"ms": {name: 1e3 * seconds for name, seconds in sorted(found.items())}, "total_ms": 1e3 * found.total(), "launches": len(started)}


def main() -> None:
    parser = argparse.ArgumentParser(description="the least time of a GPT's step, launch after launch, by count")
    parser.add_argument("--quick", action="store_true", help="the smaller model alone")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    import gpu_models

    from assay.trace import trace

    result: dict[str, Any] = {"device": H200._asdict(), "models": {}}
    for name in ("124M",) if options.quick else ("124M", "1B"):
        training = gpu_models.training(name)
        work = gpu_models.flops(training.model, gpu_models.SIZES[name])
        try:
            found = least(trace(training).program, Instructions(name))
        except ValueError as error:
            print(json.dumps({"skipped": str(error)}) if options.json else error)
            return
        found |= {"twice_native_ms": 2e3 * work / (PEAK * REACHED), "at_a_quarter_of_peak_ms": 1e3 * work / (PEAK / 4)}
        result["models"][name] = found
        print(f"{name}: {found['total_ms']:.1f} ms at least; twice native is {found['twice_native_ms']:.1f}, "
              f"25 % of the peak {found['at_a_quarter_of_peak_ms']:.1f}", flush=True)  # fmt: skip
        for what, ms in found["ms"].items():
            print(f"    {what}: {ms:.1f} ms")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
