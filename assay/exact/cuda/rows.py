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
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

from assay.exact import rows as grouped
from assay.exact.cuda import maps
from assay.exact.cuda.maps import TYPES, MapText
from assay.exact.plan import Plan
from assay.exact.rows import Rows
from assay.exact.steps import Step
from assay.exact.views import View

WARP, BLOCK, LOOP = 32, 256, 1024
"""Threads for a row."""
HELD = (1, 2, 4, 8, 12, 16, 24, 32)
"""Elements of a row that a thread holds, so that few kernels do for all lengths."""
ROOM = 128
"""Registers that a thread has for elements of rows, of 255."""

SHORT = 7
"""Values of an element in a phase of a long row, up to which four elements at a time fit in the 64 registers that a thread of 1024 has; else two."""


class Shape(NamedTuple):
    """Threads for a row, and elements that each of them holds (0: what is needed again is read again)."""

    group: int
    held: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return max(self.group, BLOCK)


class Value:
    """What a group reads or makes: an element for each of a row (`wide`), or one a row."""

    def __init__(self, name: str, dtype: str, wide: bool, kernel: str = "", operands: tuple[Value, ...] = ()) -> None:
        self.name, self.dtype, self.wide, self.kernel, self.operands = name, dtype, wide, kernel, operands
        self.repeated = False
        """Read, and the same for several rows: caches have it."""
        self.near = False
        """Read where it is needed, by the element: no register waits for it."""
        self.bits = 0
        """What a scatter puts."""
        self.level: int = max((o.level for o in operands), default=0)
        """Phase in which it can be made."""

    @property
    def words(self) -> int:
        return 2 if self.dtype == "i64" else 1


class _Phase:
    def __init__(self) -> None:
        self.stores: list[Value] = []
        self.tops: list[Value] = []
        """Reductions whose first, or only, pass this is."""
        self.sums: list[Value] = []
        self.made: list[Value] = []
        """Wide values that are read or made here, in order."""
        self.again: list[Value] = []
        """Wide values of earlier phases."""
        self.puts: list[Value] = []
        """Largest magnitudes of values whose digits are put into shared memory (attend.py)."""


class Group:
    """The values of a group and its phases. `puts`: wide values that are wanted as digits."""

    def __init__(self, step: Step, puts: Sequence[View] = ()) -> None:
        self.reads = [Value(f"a{k}", v.dtype, grouped.wide(v)) for k, v in enumerate(step.reads)]
        for value, v in zip(self.reads, step.reads, strict=True):
            value.repeated = any(n > 1 and s == 0 for n, s in zip(v.shape, v.strides, strict=True))
        self.values: list[Value] = []
        self.sums: list[Value] = []
        seen = dict(zip(step.reads, self.reads, strict=True))
        for part in step.parts:
            self._take(part, seen)
        self.tops = [seen[part.reads[0]] for part in step.parts if part.name == "tops"]
        """Results, of which the largest magnitudes of rows and of columns are written, too (pairs.py)."""
        self.writes = [seen[v] for v in step.writes if v in seen]
        wanted = [Value(f"d{k}", "f32", False, "sum_f32", (seen[v],)) for k, v in enumerate(puts)]
        for value in wanted:
            value.level += 1
        self.phases = [_Phase() for _ in range(1 + max(value.level for value in (*self.values, *wanted)))]
        for value in wanted:
            self.phases[value.level - 1].tops.append(value)
            self.phases[value.level].puts.append(value)
        for value in self.writes:
            if value.wide:
                self.phases[value.level].stores.append(value)
        for value in self.values:
            if value.kernel in REDUCTIONS:
                self.phases[value.level - (2 if value.kernel == "sum_f32" else 1)].tops.append(value)
        for value in self.sums:
            self.phases[value.level - 1].sums.append(value)

    def _take(self, part: Step, seen: dict[View, Value]) -> None:
        if part.name == "tops":
            return
        if not part.code:
            x, (y,) = part.reads[0], part.writes
            kernel = part.name if part.name == "scatter_value" else f"{part.name}_{x.dtype}"
            value = Value(f"v{len(self.values)}", y.dtype, grouped.wide(y), kernel, tuple(seen[v] for v in part.reads))
            if kernel == "scatter_value":
                value.bits = part.extra[0] & 0xFFFFFFFF
            value.level += {"sum_f32": 2}.get(kernel, int(kernel in REDUCTIONS))
            self.values.append(value)
            self.sums += [value] * (kernel == "sum_f32")
            seen[y] = value
            return
        wide = grouped.wide(part.writes[0])
        made: dict[int, Value] = {}
        for i in part.code:
            operands = tuple(seen[o] if isinstance(o, View) else made[o] for o in i.operands)
            made[i.result] = Value(f"v{len(self.values)}", i.dtype, wide, i.kernel, operands)
            self.values.append(made[i.result])
        seen |= {v: made[v.root] for v in part.writes}

    def planned(self, keep: bool, barred: Collection[Value] = ()) -> Group:
        """Says of each phase which wide values it makes, and which it has from earlier ones: with `keep`, all that were read or made, but what caches
        have and what is barred; else none."""
        there: set[Value] = set()

        def need(v: Value, phase: _Phase) -> None:
            if v in there:
                phase.again += [v] * (v not in phase.again)
            elif v.wide and v not in phase.made:
                for o in v.operands:
                    need(o, phase)
                phase.made.append(v)

        for phase in self.phases:
            phase.made, phase.again = [], []
            for v in (*phase.stores, *(v.operands[0] for v in (*phase.tops, *phase.sums, *phase.puts))):
                need(v, phase)
            there |= {v for v in phase.made if not v.repeated and v not in barred} if keep else set()
        return self

    def held(self) -> set[Value]:
        """Values that wait in registers for a later phase."""
        return {v for phase in self.phases for v in phase.again}

    def words(self) -> int:
        """Registers that a thread needs at most for an element of a row, about."""
        held, most = self.held(), 0
        for at, phase in enumerate(self.phases):
            later = {v for p in self.phases[at:] for v in p.again}
            waiting = {v for p in self.phases[: at + 1] for v in p.made if v in held and (v in later or v in phase.made)}
            most = max(most, sum(v.words for v in waiting | {v for v in phase.made if not v.kernel and not v.near}))
        return most


REDUCTIONS = ("amax_f32", "sum_f32", "sum_i64", "gather_f32")


def shape_of(step: Step) -> Shape:
    """How rows are shared out."""
    length = Rows(*step.extra).length
    words = Group(step).planned(True).words()
    for group in (WARP, BLOCK):
        if held := held_for(length, group, words, ROOM):
            return Shape(group, held)
    return Shape(LOOP, 0)


def held_for(length: int, threads: int, words: int, room: int) -> int:
    """Elements of a row that each of its threads holds, `words` registers for each; 0 where they have not so much room."""
    held = next((h for h in HELD if h * threads >= length), 0)
    return held if held * words <= room else 0


def held_in(group: Group, elements: int, threads: int, room: int) -> int:
    """The same of what later phases need: of as many values as there is room for, the first ones; the others are made again of those. 0 where there
    is not room for one."""
    barred: list[Value] = []
    while True:
        held = held_for(elements, threads, group.planned(True, barred).words(), room)
        waiting = [v for phase in group.phases for v in phase.made if v in group.held()]
        if held or not waiting:
            return held
        barred.append(waiting[-1])


def passes(step: Step) -> dict[View, int]:
    """How often a kernel reads each of its wide inputs."""
    group = Group(step).planned(shape_of(step).held > 0)
    return {v: sum(value in phase.made for phase in group.phases) for v, value in zip(step.reads, group.reads, strict=True) if value.wide}


def row_walk(v: View, rows: Rows) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Sizes and strides of the walk from row to row, or None where rows lie side by side or there is one for all."""
    return None if start(v, rows) else (v.shape[:-1], v.strides[:-1])


def start(v: View, rows: Rows) -> str:
    """Where row r begins, as C++ that knows no sizes; empty for a walk."""
    if len(v.shape) > 2 or v.shape[0] != rows.number:
        return ""
    return {0: "0", 1: "r", rows.length: "(i64)r * length"}.get(v.strides[0], "")


def text(step: Step) -> MapText:
    """The kernel of a group. Parameters: R, L; for each input its address, and the walk to its rows if it has one; the address of each result;
    for each result with tops the addresses of these, of rows and of columns (zero before); for each sum of f32 its bits."""
    shape, rows = shape_of(step), Rows(*step.extra)
    group = Group(step).planned(shape.held > 0)
    parameters, starts = ["i64 rows", "i64 length"], []
    for value, v in zip(group.reads, step.reads, strict=True):
        parameters.append(f"const {TYPES[v.dtype]} *__restrict__ x{value.name}")
        begin = start(v, rows)
        if not begin:
            parameters.append(f"const i64 *w{value.name}")
            begin = f"offset_of(w{value.name}, r)"
        starts.append(
            f"const {TYPES[v.dtype]} *__restrict__ p{value.name} = x{value.name} + {begin};" if value.wide
            else f"const {TYPES[v.dtype]} {value.name} = x{value.name}[{begin}];"
        )  # fmt: skip
    parameters += [f"{TYPES[v.dtype]} *__restrict__ y{k}" for k, v in enumerate(group.writes)]
    parameters += [f"u32 *{kind}{v.name}" for v in group.tops for kind in ("row_", "column_")]
    parameters += [f"i64 bits_{v.name}" for v in group.sums]
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


class Left(Protocol):
    """Of rows of which `some` elements are made, counted from `from` on, in C++: what is known of the others, of which there are `left`
    (spans.py)."""

    def of(self, v: Value) -> str:
        """A value that is reduced; empty where it counts for nothing."""
        ...

    def lines(self, group: Group, at: int) -> list[str]:
        """What is made before the elements of a phase."""
        ...


def phases(group: Group, shape: Shape, left: Left | None = None) -> list[str]:
    """Lines of C++ for a row, once what it reads is declared; with `left`, of a part of its elements."""
    return [line for at, phase in enumerate(group.phases) for line in _phase(group, at, phase, shape, left)]


def _phase(group: Group, at: int, phase: _Phase, shape: Shape, left: Left | None) -> list[str]:
    """Lines of one phase: values of an element a row, the elements, the ends of reductions."""
    lines = []
    for v in group.values:
        if not v.wide and v.kernel not in REDUCTIONS and v.level == at:
            lines.append(f"const {TYPES[v.dtype]} {v.name} = {v.kernel}({', '.join(o.name for o in v.operands)});")
    lines += [f"if (lane == 0) y{k}[r] = canon({v.name});" for k, v in enumerate(group.writes) if not v.wide and v.level == at]
    lines += left.lines(group, at) if left is not None else []
    end, begin = ("some", "from") if left is not None else ("n", "0u")

    def others(v: Value, counted: Callable[[str], str]) -> str:
        """What a reduction begins with."""
        one = left.of(v) if left is not None else ""
        return f"left ? {counted(one)} : 0" if one else "0"

    if not phase.made and not phase.again:
        return lines
    held = group.held() if shape.held else set()

    def of(v: Value) -> str:
        return f"{v.name}[k]" if v in held or (shape.held and v.wide and not v.kernel and not v.near) else v.name

    brief: list[str] = []
    loads, body = [], []
    for v in phase.made:
        kind = TYPES[v.dtype]
        if shape.held and (v in held or not (v.kernel or v.near)):
            (lines if v in held else brief).append(f"{kind} {v.name}[{shape.held}];")
        if v.near:
            body.append(f"const {kind} {v.name} = p{v.name}[e];")
        elif not v.kernel:
            loads.append(f"{of(v)} = e < {end} ? p{v.name}[e] : ({kind})0;" if shape.held else f"const {kind} {v.name} = p{v.name}[e];")
        else:
            more = f", e, n, {v.bits:#x}u" if v.kernel == "scatter_value" else ""
            body.append(f"{'' if v in held else f'const {kind} '}{of(v)} = {v.kernel}({', '.join(map(of, v.operands))}{more});")
    for k, v in enumerate(group.writes):
        if v in phase.stores:
            body.append(f"y{k}[(i64)r * length + e] = canon({of(v)});")
    ends = []
    for v in (v for v in group.tops if v in phase.stores):
        lines.append(f"u32 high_{v.name} = 0;")
        body += [f"const u32 size_{v.name} = magnitude(canon({of(v)}));", f"high_{v.name} = larger(high_{v.name}, size_{v.name});"]
        body.append(f"if (size_{v.name} > column_{v.name}[e]) atomicMax(&column_{v.name}[e], size_{v.name});")
        ends += [f"high_{v.name} = largest_of<{shape.group}>(high_{v.name});", f"if (lane == 0) row_{v.name}[r] = high_{v.name};"]
    for v in phase.tops:
        x, *index = v.operands
        match v.kernel:
            case "gather_f32":
                lines.append(f"u32 t{v.name} = 0;")
                body.append(f"t{v.name} = e == clamped({index[0].name}, n) ? __float_as_uint({of(x)}) : t{v.name};")
                ends.append(f"const float {v.name} = of_bits(largest_of<{shape.group}>(t{v.name}));")
            case "sum_i64":
                lines.append(f"u64 q{v.name} = 0;")
                body.append(f"q{v.name} += (u64){of(x)};")
                ends.append(f"const i64 {v.name} = (i64)total_of<{shape.group}>(q{v.name});")
            case kernel:
                size = "magnitude" if kernel == "sum_f32" else "rank_of"
                lines.append(f"u32 t{v.name} = {others(x, f'{size}({{}})'.format)};")
                body.append(f"t{v.name} = larger(t{v.name}, {size}({of(x)}));")
                ends.append(f"t{v.name} = largest_of<{shape.group}>(t{v.name});")
                if kernel == "amax_f32":
                    ends.append(f"const float {v.name} = of_rank(t{v.name});")
    for v in phase.sums:
        (x,) = v.operands
        lines.append(f"const Scale s{v.name} = scaling(t{v.name}, bits_{v.name});")
        lines.append(f"u64 q{v.name} = {others(x, f'lane ? 0 : (u64)left * (u64)fixed({{}}, s{v.name})'.format)};")
        body.append(f"q{v.name} += (u64)fixed({of(x)}, s{v.name});")
        ends.append(f"const float {v.name} = sum_of(t{v.name}, total_of<{shape.group}>(q{v.name}), bits_{v.name});")
    for v in phase.puts:
        lines.append(f"Line p{v.name} = line_of<BR>(digits, (int)warp, {begin}, {end}, t{v.name}, (int)bits);")
        lines.append(f"if (lane == 0) tops[warp] = t{v.name};")
        body.append(f"put<BR>(p{v.name}, (int)e, {of(v.operands[0])});")
        ends.append(f"line_done<BR>(p{v.name});")
    if not shape.held:
        unrolled = f"#pragma unroll {4 if len(phase.made) <= SHORT else 2}"
        return [*lines, unrolled, f"for (u32 e = lane; e < {end}; e += {shape.group}u) {{", *inner([*loads, *body]), "}", *ends]
    head = f"for (int k = 0; k < {shape.held}; k++) {{", f"    const u32 e = lane + (u32)k * {shape.group}u;"
    first = ["#pragma unroll", *head, *inner(loads), "}"] if loads else []
    return [*lines, "{", *inner([*brief, *first, "#pragma unroll", *head, f"    if (e < {end}) {{", *inner(inner(body)), "    }", "}"]), "}", *ends]


def inner(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def texts(plans: Iterable[Plan]) -> list[MapText]:
    """All kernels that are generated for some plans."""
    plans = list(plans)
    return [*maps.texts(plans), *(text(step) for plan in plans for step in plan.steps if step.name == "rows")]
