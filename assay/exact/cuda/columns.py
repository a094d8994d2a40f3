"""Sums by columns (assay.exact.columns) as CUDA C++: one kernel for each text of a step, whatever the sizes.

A warp has 32 neighbouring columns, a block of eight warps every eighth row of a chunk each. The columns' largest magnitudes are there, so a
matrix is read once: its elements are made integers of their column's scale, added up in registers, in shared memory and by atomics. The block that
comes last to some columns rounds their sums, and adds what is to be added: no launch is for that alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from assay.exact.added import addends
from assay.exact.columns import GROUP, operands, terms, totals_of
from assay.exact.cuda.device import Dim3, Kernel, Launch
from assay.exact.cuda.maps import TYPES, MapText
from assay.exact.cuda.walks import limited
from assay.exact.rows import Rows, wide
from assay.exact.steps import Step
from assay.exact.views import View

WARPS = 8
CHUNK = 256 * WARPS
"""Rows of a block at most, since two halves of an integer are added up in 32 bits each (`halves_of` in common.cuh)."""
LEAST = 8 * WARPS
"""Rows of a block at least, where there are so many."""
BLOCKS = 8
"""Of a processor, at a time."""

Arguments = Callable[[Callable[[View], int]], list[int]]
"""Address of a view's first element -> what a launch is given."""


def text(step: Step, start: Callable[[View, Rows], str]) -> MapText:
    """The kernel of a step; `start`: where a row begins (rows.py). Parameters: R, L; for each input its address, and the walk to its rows if it has
    one; rows of a block; the totals (u64) and, for each 32 columns, how many blocks are done (u32), all of them zero before; for each sum its
    columns' magnitudes, its bits, the address of the result and of what is added to it (0: nothing)."""
    (reads, _), sums = operands(step), terms(step)
    parameters, loads, names = ["i64 rows", "i64 length"], [], dict[int | View, str]()
    for k, v in enumerate(reads):
        kind, begin = TYPES[v.dtype], start(v, Rows(*step.extra))
        parameters.append(f"const {kind} *__restrict__ x{k}")
        if not begin:
            parameters.append(f"const i64 *w{k}")
            begin = f"offset_of(w{k}, r)"
        loads.append(f"const {kind} a{k} = x{k}[{begin}{' + e' * wide(v)}];")
        names[v] = f"a{k}"
    for part in (part for part in step.parts if part.name == "map"):
        for k, i in enumerate(part.code):
            loads.append(f"const {TYPES[i.dtype]} r{k} = {i.kernel}({', '.join(names[o] for o in i.operands)});")
            names[i.result] = f"r{k}"
        names |= {v: names[v.root] for v in part.writes}
    parameters += ["i64 chunk", "u64 *totals", "u32 *arrived"]
    parameters += [f"const u32 *top{k}, i64 bits{k}, float *y{k}, const float *more{k}" for k in range(len(sums))]
    before, body, added, ends = [], [], [], []
    for k, one in enumerate(sums):
        before.append(f"const u32 t{k} = own ? top{k}[e] : 0u;")
        before.append(f"const Halver s{k} = halver_of(scale_of(t{k}, bits{k}));")
        before.append(f"Halves f{k} = {{0u, 0u}};")
        body.append(f"const Halves g{k} = halves_of({names[one.reads[0]]}, s{k});")
        body.append(f"f{k} = {{f{k}.high + g{k}.high, f{k}.low + g{k}.low}};")
        added.append(f"const u64 q{k} = total_of_rows((u64)joined_halves(f{k}, count, s{k}));")
        ends.append(f"y{k}[e] = plus(sum_of(t{k}, atomicAdd(&totals[{k} * length + e], 0ull), bits{k}), more{k}, e);")
    sent = [f"atomicAdd(&totals[{k} * length + e], q{k});" for k in range(len(sums))]
    tail = f"""({", ".join(parameters)}) {{
    const u32 e = blockIdx.x * {GROUP}u + threadIdx.x, from = blockIdx.y * (u32)chunk + threadIdx.y;
    const u32 end = (i64)(blockIdx.y + 1) * chunk < rows ? (blockIdx.y + 1) * (u32)chunk : (u32)rows;
    const bool own = e < (u32)length;
    const u32 count = own && from < end ? (end - from - 1u) / {WARPS}u + 1u : 0u;
    {_lines(before, 1)}
    #pragma unroll 4
    for (u32 k = 0; k < count; k++) {{
        const u32 r = from + {WARPS}u * k;
        {_lines([*loads, *body], 2)}
    }}
    {_lines(added, 1)}
    if (threadIdx.y) return;
    if (own) {{
        {_lines(sent, 2)}
    }}
    if (last_of(arrived + blockIdx.x, gridDim.y) && own) {{
        {_lines(ends, 2)}
    }}
}}
"""
    name = f"columns_{hashlib.sha256(tail.encode()).hexdigest()[:16]}"
    return MapText(name, f"KERNEL __launch_bounds__({GROUP * WARPS}, 4) {name}{tail}")


def _lines(lines: Sequence[str], depth: int) -> str:
    return ("\n" + "    " * depth).join(lines)


def over_rows(step: Step) -> Step:
    """A step with nothing but what it reads as rows."""
    return step._replace(reads=operands(step)[0])


def maker(step: Step, kernel: Kernel, inputs: Arguments, processors: int) -> Callable[[Callable[[View], int]], list[Launch]]:
    """What makes the launch of a step; `inputs`: R, L, and the addresses of what it reads as rows, and their walks (rows.py). Raises ProgramError for
    a step that is too large."""
    (number, length), (_, tops), sums, more = step.extra, operands(step), terms(step), addends(step)
    limited(number * length)
    groups = -(-length // GROUP)
    parts = max(-(-number // CHUNK), min(-(-number // LEAST), BLOCKS * processors // groups), 1)
    chunk = -(-number // parts)
    grid: Dim3 = (groups, -(-number // chunk), 1)

    def make(at: Callable[[View], int]) -> list[Launch]:
        own = at(step.writes[-1])
        arguments = [*inputs(at), chunk, own, own + totals_of(Rows(number, length), len(sums))]
        for one, top in zip(sums, tops, strict=True):
            (out,) = one.writes
            arguments += [at(top), one.extra[0], at(out), at(more[out.root]) if out.root in more else 0]
        return [Launch(kernel, grid, (GROUP, WARPS, 1), tuple(arguments))]

    return make
