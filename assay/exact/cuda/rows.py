"""Steps over the same rows (assay.exact.rows) as CUDA C++: one kernel for each text of a group, whatever the sizes.

A kernel works in phases. A reduction ends one: what needs its result comes in a later one (a sum of f32 ends two, for the largest magnitude and for
the sum). Where a row fits, its threads hold what later phases need in registers: a warp for each row, or a block of 256, with `held` elements
a thread. Longer rows are read again in each phase that needs them, by a block of 1024, and what was made of them is made again; so many rows are
under way at a time as there are processors, which a level-2 cache may hold.

Between phases a value has the bits that a result in memory would have, but for the patterns of NaNs, which no operator tells apart (map.cuh).
All reads and writes of a group lie apart (assay.exact.rows), so pointers are `__restrict__`.

A column's largest magnitude is raised by those who find it too small: a value of it that a cache still has is at most too small, and then the
atomic maximum decides. So memory is asked for the few elements that are larger than all before them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from assay.exact.cuda import columns, maps
from assay.exact.cuda.groups import BLOCK, LOOP, WARP, Group, Shape, held_for
from assay.exact.cuda.maps import TYPES, MapText
from assay.exact.cuda.phases import phases
from assay.exact.plan import Plan
from assay.exact.rows import Rows
from assay.exact.steps import Step
from assay.exact.views import View

NEIGHBOURS = 4
"""Elements of a thread, where rows are multiples of so many: 16 bytes of f32."""
ROOM = 128
"""Registers that a thread has for elements of rows, of 255."""


def shape_of(step: Step) -> Shape:
    """How rows are shared out."""
    length, group = Rows(*step.extra).length, Group(step)
    full = length % NEIGHBOURS == 0 and length >= NEIGHBOURS * WARP
    width = NEIGHBOURS if full else 1
    words = group.planned(True).words()
    fewer = group.planned(True, group.light()).words()
    for threads, size in ((WARP, words), (WARP, fewer), (BLOCK, words)):
        if held := held_for(length, threads, size, ROOM, width):
            return Shape(threads, held, width, full, held * threads == length, size < words)
    return Shape(LOOP, 0, width, full)


def _even(v: View) -> bool:
    """Whether NEIGHBOURS elements of a row, from a multiple of them on, lie in a multiple of their bytes, or of 16; values begin at multiples of
    64."""
    strides = [step for n, step in zip(v.shape[:-1], v.strides, strict=False) if n > 1]
    return v.offset % NEIGHBOURS == 0 and all(step % NEIGHBOURS == 0 for step in strides)


def group_of(step: Step, shape: Shape) -> Group:
    """The values of a step as such a kernel makes them."""
    group = Group(step)
    for value, v in zip(group.reads, step.reads, strict=True):
        value.even = value.wide and _even(v)
    for part in step.parts:
        if part.name in ("tops", "highs"):
            group.of[part.reads[0]].even_tops = part.writes[-1].offset % 16 == 0
    return group.planned(shape.held > 0, group.light() if shape.again else ())


def passes(step: Step) -> dict[View, int]:
    """How often a kernel reads each of its wide inputs."""
    group = group_of(step, shape_of(step))
    return {v: sum(value in phase.made for phase in group.phases) for v, value in zip(step.reads, group.reads, strict=True) if value.wide}


def row_walk(v: View, rows: Rows) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Sizes and strides of the walk from row to row, or None where rows lie side by side or there is one for all."""
    return None if start(v, rows) else (v.shape[:-1], v.strides[:-1])


def start(v: View, rows: Rows) -> str:
    """Where row r begins, as C++ that knows no sizes; empty for a walk."""
    if len(v.shape) > 2 or v.shape[0] != rows.number:
        return ""
    return {0: "0", 1: "r", rows.length: "(i64)r * length"}.get(v.strides[0], "")


def inputs(step: Step, group: Group) -> tuple[list[str], list[str]]:
    """Parameters of what a group reads, and the lines that find row r in it."""
    parameters, starts = list[str](), list[str]()
    for value, v in zip(group.reads, step.reads, strict=True):
        parameters.append(f"const {TYPES[v.dtype]} *__restrict__ x{value.name}")
        begin = start(v, Rows(*step.extra))
        if not begin:
            parameters.append(f"const i64 *w{value.name}")
            begin = f"offset_of(w{value.name}, r)"
        starts.append(
            f"const {TYPES[v.dtype]} *__restrict__ p{value.name} = x{value.name} + {begin};" if value.wide
            else f"const {TYPES[v.dtype]} {value.name} = x{value.name}[{begin}];"
        )  # fmt: skip
    return parameters, starts


Arguments = Callable[[Callable[[View], int]], list[int]]
"""Address of a view's first element -> what a launch is given."""


def arguments(step: Step, walk: Callable[[Sequence[int], Sequence[int]], int], address: Callable[[int], int]) -> Arguments:
    """R, L, and what `inputs` say. `walk` stores a walk, `address` says where it is."""
    size = Rows(*step.extra)
    walks = [None if (found := row_walk(v, size)) is None else walk(*found) for v in step.reads]
    return lambda at: [*size, *(a for v, w in zip(step.reads, walks, strict=True) for a in ([at(v)] if w is None else [at(v), address(w)]))]


def text(step: Step) -> MapText:
    """The kernel of a group. Parameters: R, L; for each input its address, and the walk to its rows if it has one; the address of each result;
    for each result with tops the addresses of these, of rows and of columns (zero before); those of columns' magnitudes that are wanted alone; for
    each sum of f32 its bits."""
    shape = shape_of(step)
    group = group_of(step, shape)
    parameters, starts = inputs(step, group)
    parameters = ["i64 rows", "i64 length", *parameters]
    parameters += [f"{TYPES[v.dtype]} *__restrict__ y{k}" for k, v in enumerate(group.writes)]
    parameters += [f"u32 *{kind}{v.name}" for v in group.tops for kind in ("row_", "column_")]
    parameters += [f"u32 *column_{v.name}" for v in group.highs] + [f"i64 bits_{v.name}" for v in group.sums]
    lines = [*starts, *phases(group, shape)]
    inside = "\n        ".join(lines)
    tail = f"""({", ".join(parameters)}) {{
    const u32 lane = threadIdx.x % {shape.group}u, n = (u32)length, step = gridDim.x * {shape.threads // shape.group}u;
    for (u32 r = blockIdx.x * {shape.threads // shape.group}u + threadIdx.x / {shape.group}u; r < (u32)rows; r += step) {{
        {inside}
    }}
}}
"""
    name = f"rows_{hashlib.sha256(f'{shape}{tail}'.encode()).hexdigest()[:16]}"
    return MapText(name, f"KERNEL __launch_bounds__({shape.threads}, 1) {name}{tail}")


def written(steps: Iterable[Step]) -> dict[int, MapText]:
    """The kernels of steps over rows, and of sums by columns, by the steps' ids."""
    return {id(step): text(step) if step.name == "rows" else columns.text(step, start) for step in steps if step.name in ("rows", "columns")}


def texts(plans: Iterable[Plan]) -> list[MapText]:
    """All kernels that are generated for some plans."""
    plans = list(plans)
    return [*maps.texts(plans), *(made for plan in plans for made in written(plan.steps).values())]
