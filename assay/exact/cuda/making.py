"""Matrices that are made where they are packed (pairs.py), instead of being written as f32 and read again.

A matrix that nothing but `pack_both` would read may be a few operators away from what its maker reads or stores anyway: a layer norm's result
from what is normed, with a mean and a deviation a row; cross-entropy's gradient from the logits. The kernel that finds its largest magnitudes
then does not store it, and the one that packs it makes it again: by the same operators, so the bits are the same. A block makes each
element once, in shared memory, and packs it from there along both axes (pack.cuh).

Only where the chain reads fewer bytes than the matrix has, written and read; no further than values are made again elsewhere (assay.exact.again); and
without quotients, since packing leaves few instructions free: in NVIDIA's machine code a layer norm's chain has 11 for an element, cross-entropy's
gradient 43 and a GELU 54, packing along both axes 26, while 4 bytes at 4 TB/s take an H200 as long as 31.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from assay.exact.again import LARGE, MOST, touched
from assay.exact.cuda import rows
from assay.exact.cuda.device import Kernel
from assay.exact.cuda.groups import Group
from assay.exact.cuda.maps import TYPES, MapText
from assay.exact.cuda.phases import inner
from assay.exact.rows import wide
from assay.exact.steps import Instruction, Step
from assay.exact.views import View

DEAR = tuple(name for name in LARGE if name != "exp")
"""Operators of which no chain has one: quotients and the like."""


class Making(NamedTuple):
    """What a launch that makes what it packs has beside others: its kernel, and its first arguments."""

    kernel: Kernel
    arguments: rows.Arguments


def chain_of(step: Step, matrix: View) -> Step | None:
    """How a wide result of a `rows` step is made of what that reads, stores, or has of an element a row: a `rows` step without reductions, whose
    reads are these. None where it is too far."""
    stored = {v for v in step.writes if v != matrix}
    wanted, parts = {matrix}, list[Step]()
    for part in reversed(step.parts):
        outs = [v for v in part.writes if v in wanted and wide(v) and v not in stored]
        if outs:
            kept = _pruned(part, outs) if part.code else part
            wanted = (wanted - set(outs)) | set(kept.reads)
            parts.insert(0, kept)
    code = [i.kernel for part in parts for i in part.code]
    dear = any(kernel.startswith(DEAR) for kernel in code) or sum(kernel.startswith(LARGE) for kernel in code) > 1
    if dear or len(code) + sum(not part.code for part in parts) > MOST:
        return None
    leaves = tuple(dict.fromkeys(v for part in parts for v in part.reads if v in wanted))
    return Step("rows", leaves, (matrix,), (), step.extra, tuple(parts)) if parts else None


def _pruned(part: Step, outs: Iterable[View]) -> Step:
    """What of a MAP step makes some of its results."""
    needed, code = {v.root for v in outs}, list[Instruction]()
    for i in reversed(part.code):
        if i.result in needed:
            code.insert(0, i)
            needed.update(o for o in i.operands if not isinstance(o, View))
    return part._replace(reads=tuple(dict.fromkeys(o for i in code for o in i.operands if isinstance(o, View))), writes=tuple(outs), code=tuple(code))


def fewer(chain: Step, maker: Step) -> bool:
    """Whether a chain reads, and lets its maker write, fewer bytes than the matrix has, written and read."""
    there = {*maker.reads, *maker.writes}
    return sum(touched(v) * (1 + (v not in there)) for v in chain.reads) < 2 * touched(chain.writes[0])


def text(chain: Step, before: str) -> MapText:
    """The kernel of a matrix, `before` it what it calls (sources.of_making). Parameters: R, L; for each value that is read its address, and the walk
    to its rows if it has one; then those of pack_both from `bits` on. A block of 256 threads; a warp makes 128 elements of a row. An element that
    is a NaN has no certain digits: all that is made of its lanes is NaN."""
    group = Group(chain)
    for v in group.values:
        v.spike = None  # here each element is made by itself
    group.planned(False)
    inputs, starts = rows.inputs(chain, group)
    (matrix,), (phase,) = group.writes, group.phases
    body = []
    for v in phase.made:
        more = f", (u32)e, n, {v.bits:#x}u" if v.kernel == "scatter_value" else ""
        made = f"{v.kernel}({', '.join(o.name for o in v.operands)}{more})" if v.kernel else f"p{v.name}[e]"
        body.append(f"const {TYPES[v.dtype]} {v.name} = {made};")
    halves = [f"const u32 *top_{k}, i64 padded_{k}, i8 *packed_{k}, i64 planes_{k}, u64 *across_{k}, u64 *along_{k}" for k in "rc"]
    parameters = ", ".join(["i64 rows", "i64 length", *inputs, "i64 bits", *halves])

    def loop(unroll: int, row: str, column: str, value: str) -> str:
        of_row = [f"const u32 r = {row};", *starts, "float *to = tile + i * ROW + (lane ^ shift_of(i));"]
        of_element = [f"const int e = {column};", *body, f"to[32 * j] = {value};"]
        each = ["#pragma unroll", "for (int j = 0; j < ROW / 32; j++) {", *inner(of_element), "}"]
        lines = [f"#pragma unroll {unroll}", "for (int i = (int)threadIdx.x / 32; i < HIGH; i += 8) {", *inner([*of_row, *each]), "}"]
        return "\n            ".join(lines)

    tail = f"""({parameters}) {{
    __shared__ square_room room;
    const u32 n = (u32)length;
    const int lane = (int)threadIdx.x % 32, last = (int)rows - 1;
    auto fill = [&](float *tile, i64 from, i64 beside) {{
        const int row = (int)from, column = (int)beside + lane;
        if (row + HIGH <= (int)rows && (int)beside + ROW <= (int)n) {{
            {loop(2, "(u32)(row + i)", "column + 32 * j", matrix.name)}
        }} else {{
            {loop(1, "(u32)min(row + i, last)", "min(column + 32 * j, (int)n - 1)",
                  f"row + i < (int)rows && column + 32 * j < (int)n ? {matrix.name} : 0.0f")}
        }}
    }};
    const packed_operand by_row = {{rows, length, padded_r, planes_r, top_r, packed_r, across_r, along_r}};
    const packed_operand by_column = {{length, rows, padded_c, planes_c, top_c, packed_c, across_c, along_c}};
    pack_square<true, true>(fill, room, by_row, by_column, square_of(length, padded_c), (int)bits);
}}
"""
    name = f"made_{hashlib.sha256(f'{before}{tail}'.encode()).hexdigest()[:16]}"
    return MapText(name, f"KERNEL __launch_bounds__(256, 3) {name}{tail}")
