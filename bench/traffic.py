# Counts the bytes that one step of a GPT (124 million and 1 billion parameters; 8192 characters, one micro-batch) moves between an H200's memory and
# its processors, and its launches: each step of the plan by itself, with the steps over the same rows as one kernel (assay/exact/rows.py), and with
# attention's scores kept on the chip as well (assay/exact/attention.py). Nothing runs and no device is needed: it is a count, no measurement.
#
# The rule: each launch reads the elements it touches once, and writes its results once; nothing stays in a cache from one launch to the next.
# A kernel that reads a row again reads it from memory only if the rows that are under way at a time (2048 threads a processor, or one row
# where kernels are launched so) do not fit in the level-2 cache. A product: both operands as f32 twice (scales, packing; of weights that two products
# read the scales along both axes at once, and the digits, too, where they have room until the way back), their digits written, read by the
# multiplication once each, and B's once more for the checksum, C written
# (and what is added to it read); where blocks share k, 8 bytes of each total cleared, added by every block and read. Products are those of
# persistent.cu, which wants two planes of A. A matrix that is packed along both axes at once is read once for that, and once for its scales where
# the step that makes it does not write them; one that is made there is not read, but all that it is made of is, once. A kernel
# that keeps scores on the chip: what it packs (as f32 once, or twice where heads that are under way, one a processor, do not fit in the cache;
# digits), the digits that it wants, what its chain reads (a mask) and what it writes once each; what it hands on to another one (handed.py), as far
# as it makes it, is written once and read once.
# What it reads of the level-2 cache is counted apart: the lanes and k of the operands that stream by, for each block, with their sums for checksums,
# and what its chain
# reads, for each element and pass. Where a mask that is a constant empties lines (assay/exact/cuda/spans.py), that is of what blocks make of theirs,
# in a run in which no lines have to be made as a whole after all; the share of products' elements that are made is said, too.
# Tables of scales and places are left out. Classes: attention's scores (S x S of all heads), logits (characters x vocabulary), the rest. The time
# at 4 TB/s (of the data sheet's 4.8) is what the bytes of memory alone would take, if nothing else did.
#
# Goal: a step in at most twice the time of native bf16. What that is on the device is measured by bench/gpu.py, never was, and taken here as the
# time of the model's arithmetic at 40 % of bf16's peak (989 TFLOP/s).
#
#     python bench/traffic.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from planned import H200

from assay.exact.added import addend
from assay.exact.again import touched
from assay.exact.cuda import attend, pairs, rows
from assay.exact.cuda.handed import handed_of
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.operands import operands
from assay.exact.cuda.parts import constants_of
from assay.exact.cuda.product import Products, Side
from assay.exact.cuda.ruler import Ruler
from assay.exact.cuda.streamed import Packed, Shelf, checked_in, in_memory, matrices
from assay.exact.cuda.tape import SHORT, Tape
from assay.exact.cuda.tiles import Digits, Size, Way, digits, groups
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.exact.views import View
from assay.exact.wide import shape_of
from assay.program import Part, Program

RATE = 4e12
"""Bytes a second."""
PEAK, REACHED = 989e12, 0.4
"""Floating-point operations a second of bf16's products, by the data sheet, and the part of them that a good step reaches."""
THREADS = 2048
"""Of a processor, at most."""
UNIT = 64
"""Elements of k that attend.cuh fetches at a time; what fills up a packed operand's 128 stays where it is."""
KINDS = {"attend": "attention on the chip"} | dict.fromkeys(("matmul", "pack"), "products")
KINDS |= dict.fromkeys(("map", "sum", "amax", "rows", "columns"), "maps and reductions")


class Fused(NamedTuple):
    """What of a plan is fused."""

    name: str
    rows: bool = True
    packed: bool = True
    kept: bool = True


WAYS = (
    Fused("each step by itself", False, False, False), Fused("rows fused", True, False, False), Fused("matrices packed once", True, True, False),
    Fused("scores on the chip"),
)  # fmt: skip
"""The last is what devices run."""

Moved = list[tuple[View, float]]
"""Bytes, each with the value that they are of."""


def taken(size: Size, shared: bool = False) -> Way:
    """How products are multiplied."""
    return Way(next(group for group in groups(digits(size.bits), H200.arch) if group.persistent))


def cached(under_way: int, size: float) -> bool:
    return under_way * size <= H200.cache


def moved(step: Step, products: Products, plan: Plan) -> Moved:
    once: Moved = [(v, touched(v)) for v in (*step.reads, *step.writes)]
    match step.name:
        case "matmul":
            return product(step, products, plan)
        case "pack":
            return packing(step, products)
        case "rows":
            passes, shape = rows.passes(step), rows.shape_of(step)
            again = {v: n - 1 for v, n in passes.items() if n > 1}
            count, length = step.extra
            under_way = min(count, H200.processors * (THREADS // shape.group if shape.held else 1))
            if not cached(under_way, sum(v.item * length for v in again)):
                once += [(v, n * touched(v)) for v, n in again.items()]
            return once
        case "sum":
            (x, *_), (y,) = step.reads, step.writes
            length = x.elements // y.elements
            lines = step.extra[1] == 1 and y.elements >= 2 * H200.processors
            under_way = min(y.elements, H200.processors * THREADS // (32 if length <= SHORT else 256)) if lines else y.elements
            return once if x.dtype == "i64" or cached(under_way, length * x.item) else [*once, (x, touched(x))]
        case "gather" | "take_rows":
            return [(step.reads[1], touched(step.reads[1])), (step.writes[0], 2 * touched(step.writes[0]))]
        case "scatter_add":
            n, width = step.extra[2], step.extra[3]
            values = step.reads[1]
            return [*once, (values, 0 if cached(1, touched(values)) else touched(values)), (values, 4 * 8 * min(n, step.extra[1]) * width)]
    return once


def along_both(v: View, plan: Plan) -> bool:
    """Whether a value is there when the part begins, and two products read it along two axes: its scales are found in one pass then."""
    if plan.home(v.root)[0] != "input":
        return False
    multiplied = [pairs.planned(step) for step in plan.steps if step.name == "matmul"]
    found = [x for step in multiplied for w, x in zip(step.reads, operands(step), strict=True) if w.root == v.root]
    return any((x.lanes, x.k) == (y.k, y.lanes) for x in found for y in found)


def product(step: Step, products: Products, plan: Plan) -> Moved:
    p = products.product(step)
    assert p is not None
    (a, b), (c,) = pairs.planned(step).reads, step.writes
    totals = sum(8 * p.products * piece.rows * p.n * (piece.parts + 2) for piece in p.pieces if piece.parts > 1)
    out: Moved = [(c, touched(c) + totals), *((v, touched(v)) for v in (addend(step),) if v is not None)]
    for v, side, given, times in zip((a, b), p.sides, pairs.reads_of(step), (1, 2), strict=True):
        own = 0 if len(given) > 1 else (6 if along_both(v, plan) else 8) * side.operand.products * side.operand.lanes.size * p.k + written(side)
        out.append((v, own + times * written(side)))
    return out


def packing(step: Step, products: Products) -> Moved:
    made, (row, column) = pairs.pack_of(step), pairs.sides_of(products, step)
    v, digits_ = made.matrix, written(row) + written(column)
    if made.chain is not None:
        return [*((w, touched(w)) for w in made.chain.reads), (v, digits_)]
    size = 4 * row.operand.lanes.size * row.operand.k.size
    return [(v, size * (1 + made.tops + (not pairs.together(row, column))) + digits_)]


def written(side: Side) -> int:
    """Bytes of digits, without those of zeros that fill up k."""
    operand = side.operand
    return operand.products * side.padded * operand.k.size * side.planes * side.digits.item


def streamed_of(packed: Packed, how: Digits) -> int:
    """Bytes of the digits of what attention reads, without what fills up 128 elements of k."""
    return packed.side.products * in_memory(how) * packed.padded * UNIT * -(-packed.side.k.size // UNIT)


def attended(step: Step, plan: Plan, shelf: Shelf) -> tuple[Moved, int, tuple[int, int]]:
    """With the bytes that come from the level-2 cache, and elements of lines that are made, and all, one for each product of a kernel."""
    kernel, shape = attend.attend(step, H200, plan), shape_of(step)
    fresh = shelf.take(kernel.packed, kernel.how)
    per = kernel.blocks // shape.batch
    spans = [(begin, end) for _, begin, end in kernel.spans.blocks] if kernel.spans is not None else [(0, shape.elements)] * per
    units, made = shape.batch * sum(-(-(end - begin) // UNIT) for begin, end in spans), sum(end - begin for begin, end in spans)
    handed = handed_of(step)
    places = handed.matrices if handed is not None else ()
    of_memory: Moved = [(v, touched(v)) for v in (*kernel.passes, *step.writes) if v not in places]
    of_memory += [(v, touched(v) * made / (per * shape.elements)) for v in places]
    of_memory += [(packed.view, streamed_of(packed, kernel.how) * (1 + (packed in fresh))) for packed in kernel.packed]
    for matrix in matrices(fresh):
        one = 4 * matrix.rows.size * matrix.columns.size
        again = matrix.by_columns is not None and not cached(H200.processors, one)
        of_memory.append((matrix.view, matrix.products * one * (1 + again)))
    makers, uses = attend.streams(step)
    wide = [UNIT * -(-packed.side.k.size // UNIT) for packed in makers] + [packed.padded for packed in uses]
    sums = [4 * UNIT * -(-packed.side.k.size // UNIT) for packed in makers] + [UNIT * checked_in(kernel.how)] * len(uses)
    streamed = units * (UNIT * in_memory(kernel.how) * sum(wide) + sum(sums))
    read = sum(n * v.item * prod(shape[1:]) * made // (per * shape.elements) for v, n in kernel.passes.items() if v.strides[-1])
    products, elements = len(makers) + len(uses), shape.batch * shape.lines * shape.elements
    return of_memory, streamed + read, (products * elements * made // (per * shape.elements), products * elements)


def launches(plan: Plan, part: Part) -> int:
    ruler = Ruler(H200)
    tape = Tape(plan, ruler, Kernels(ruler), Products(ruler, taken))
    return len(tape.bind({"arena": [0], "input": [0] * len(part.inputs), "output": [0] * len(part.outputs)}, 0, []))


def counted(program: Program, way: Fused, scores: int, logits: int) -> dict[str, Any]:
    """Bytes by class and kind, launches and steps, of a micro-batch and the update."""
    products, count = Products(Ruler(H200), taken), Counter[str]()
    started = steps = arena = streamed = made = elements = 0
    for part in (program.micro, program.update):
        attends, packs = attend.taking(H200) if way.kept else None, products.paired if way.packed else None
        plan = Plan(part, constants_of(program), program.gemm_bits, rows=way.rows, attention=attends, packs=packs)
        steps, started, arena = steps + len(plan.steps), started + launches(plan, part), max(arena, plan.arena)
        shelf = Shelf()
        for step in plan.steps:
            if step.name == "attend":
                bytes_, more, (some, every) = attended(step, plan, shelf)
                streamed, made, elements = streamed + more, made + some, elements + every
            else:
                bytes_, shelf = moved(step, products, plan), Shelf()
            for v, size in bytes_:
                what = {scores: "scores", logits: "logits"}.get(touched(v) // v.item, "the rest")
                count[f"{what}, {KINDS.get(step.name, 'copies and the like')}"] += int(size)
    return {
        "way": way.name, "bytes": dict(count), "total_bytes": count.total(), "cache_bytes": streamed, "launches": started,
        "made_of_lines": made / elements if elements else None, "steps": steps, "arena_bytes": arena,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="the memory traffic of a GPT's step, by count")
    parser.add_argument("--quick", action="store_true", help="the smaller model alone")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    import gpu_models

    from assay.trace import trace

    result: dict[str, Any] = {"device": H200._asdict(), "bytes_per_second": RATE, "models": {}}
    for name in ("124M",) if options.quick else ("124M", "1B"):
        size = gpu_models.SIZES[name]
        training = gpu_models.training(name)
        program = trace(training).program
        tokens = size.batch * size.context
        scores, logits = tokens * size.heads * size.context, tokens * size.vocabulary
        work = gpu_models.flops(training.model, size)
        native = work / (PEAK * REACHED)
        found = {"native_ms": 1e3 * native, "at_a_quarter_of_peak_ms": 1e3 * work / (PEAK / 4), "ways": []}
        result["models"][name] = found
        print(f"{name}: native bf16 is taken as {1e3 * native:.1f} ms", flush=True)
        for way in WAYS:
            row = counted(program, way, scores, logits)
            row["ms"] = 1e3 * row["total_bytes"] / RATE
            found["ways"].append(row)
            made = f" ({row['made_of_lines']:.1%} of lines made)" if row["made_of_lines"] else ""
            print(f"  {way.name}: {row['total_bytes'] / 1e9:.1f} GB, {row['ms']:.1f} ms at 4 TB/s, "
                  f"{row['cache_bytes'] / 1e9:.1f} GB from the cache{made}, "
                  f"{row['launches']} launches, {row['steps']} steps, arena {row['arena_bytes'] / 1e9:.2f} GB", flush=True)  # fmt: skip
            for what, bytes_ in sorted(row["bytes"].items()):
                print(f"    {what}: {bytes_ / 1e9:.1f} GB", flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
