"""Steps `attend` (assay.exact.attention) as CUDA C++: wide values that are made and read on the chip.

A block of threads has BR lines (rows, or columns) of one product of the batch, a warp for each. It makes whole lines of the products that its chain reads, in
shared memory; its warps then make the chain's values as a kernel of rows does (rows.py), and of those that a product reads the scale and the digits, which
the block multiplies. A line's scale is its largest magnitude, so all of a line has to be there first. The other operands stream from the level-2
cache: they are packed once for all kernels that follow each other.

Where lines are columns, what has one element a row varies along a line, and what lies by rows in memory is read across them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from assay.exact import rows as grouped
from assay.exact.attention import Shape, sizes, use
from assay.exact.cuda import rows
from assay.exact.cuda.device import Description, source
from assay.exact.cuda.maps import TYPES, Kernels, MapText
from assay.exact.cuda.operands import Axis, Operand
from assay.exact.cuda.tiles import LEAST_SHARED, NARROW, ROW, SHARED, Digits, digits
from assay.exact.rows import whole_rows
from assay.exact.steps import Step
from assay.exact.views import View, merged

LINES = (16, 8)
"""Lines of a block."""
HELD_WORDS = 64
"""Registers that a thread has for elements of lines, of 128."""
LANES = 64
"""Lanes to a multiple of which a packed operand is filled up."""
TOPS = 128
"""Bytes for the scales of a block's lines."""


def in_memory(how: Digits) -> int:
    """Planes of a packed operand."""
    return how.planes - how.karatsuba


class Walk(NamedTuple):
    """A walk in memory (walk.cuh) as an argument."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]


class Packed(NamedTuple):
    """An operand that is packed: the elements of a view that a product reads."""

    view: View
    side: Operand
    bits: int

    @property
    def padded(self) -> int:
        return -(-self.side.lanes.size // LANES) * LANES

    @property
    def blocks(self) -> int:
        return -(-self.side.k.size // ROW)

    def sizes(self, how: Digits) -> dict[str, int]:
        """Bytes of its parts."""
        count, row = self.side.products, self.blocks * ROW
        return {
            "top": 4 * count * self.side.lanes.size, "across": 8 * count * how.planes * row, "along": 8 * count * self.padded,
            "digits": count * in_memory(how) * row * self.padded,
        }  # fmt: skip


class Of(NamedTuple):
    """The address of a part of a packed operand as an argument: its digits, scales (`top`) or sums (`across` lanes, `along` k)."""

    packed: Packed
    part: str


Argument = int | View | Walk | Of | None
"""None: the counter of wrong checksums."""


class Attend(NamedTuple):
    """A kernel and what it is started with."""

    text: MapText
    how: Digits
    arguments: tuple[Argument, ...]
    packed: tuple[Packed, ...]
    blocks: int
    threads: int
    shared: int


class Fresh(NamedTuple):
    """Operands that a kernel has to pack, and the words of four bytes, from a byte offset on, that are zero before."""

    packed: tuple[Packed, ...]
    start: int
    words: int


class Shelf:
    """Where operands lie in scratch memory that kernels which follow each other share."""

    ALIGN = 256

    def __init__(self) -> None:
        self.places: dict[Packed, dict[str, int]] = {}
        """Byte offsets of each operand's parts."""
        self.end = 0

    def take(self, kernel: Attend) -> Fresh:
        """Gives places to what is not there yet."""
        fresh = tuple(packed for packed in kernel.packed if packed not in self.places)
        start = self.end
        for packed in fresh:
            self._place(packed, kernel.how, "top", "across", "along")
        zeros = self.end - start
        for packed in fresh:
            self._place(packed, kernel.how, "digits")
        return Fresh(fresh, start, zeros // 4)

    def _place(self, packed: Packed, how: Digits, *parts: str) -> None:
        for part in parts:
            self.places.setdefault(packed, {})[part] = self.end
            self.end += -(-packed.sizes(how)[part] // self.ALIGN) * self.ALIGN


def _axis(dims: Sequence[int], steps: Sequence[int]) -> Axis:
    merged_dims, (strides,) = merged(dims, steps)
    return Axis(tuple(merged_dims), tuple(strides))


def _sides(step: Step) -> tuple[tuple[Packed, Walk], tuple[Packed, Walk]]:
    """The operands of a product, and the walk from one of the batch to which of the operand's products it takes: those that are the same are packed once."""
    (a, b), (bits, count, inner_a, inner_b, columns) = step.reads, step.extra
    at, bt = len(a.shape) - count - inner_a, len(b.shape) - inner_b - columns
    lanes = (at, at + count), (bt + inner_b, len(b.shape))
    along = (at + count, len(a.shape)), (bt, bt + inner_b)
    made = []
    for v, lead, of_lanes, of_k in zip((a, b), (at, bt), lanes, along, strict=True):
        kept = [i for i in range(lead) if v.strides[i] and v.shape[i] > 1]
        steps, count = [0] * lead, 1
        for i in reversed(kept):
            steps[i], count = count, count * v.shape[i]
        batch = _axis([v.shape[i] for i in kept], [v.strides[i] for i in kept])
        side = Operand(batch if kept else Axis((1,), (0,)), *(_axis(v.shape[slice(*span)], v.strides[slice(*span)]) for span in (of_lanes, of_k)))
        made.append((Packed(v, side, bits), Walk(v.shape[:lead] or (1,), tuple(steps) or (0,))))
    return made[0], made[1]


def _needed(parts: Sequence[Step], views: Iterable[View]) -> list[Step]:
    """The parts that make these values."""
    wanted, kept = set(views), []
    for part in reversed(parts):
        if not wanted.isdisjoint(part.writes):
            kept.insert(0, part)
            wanted |= set(part.reads)
    return kept


class _Split(NamedTuple):
    """Where the elements of a view of rows lie: the walk over the batch, and that over a product's rows."""

    batch: Walk
    rows: Walk


def _split(v: View, shape: Shape) -> _Split | None:
    """None where the view's dimensions cross the border between the two."""
    batch: list[tuple[int, int]] = []
    left, rest = shape.batch, list(zip(v.shape[:-1], v.strides[:-1], strict=True))
    while left > 1:
        n, step = rest.pop(0)
        if n <= left and left % n == 0:
            batch.append((n, step))
            left //= n
        elif n % left == 0:
            batch.append((left, step * (n // left)))
            rest.insert(0, (n // left, step))
            left = 1
        else:
            return None

    def walk(places: Sequence[tuple[int, int]]) -> Walk:
        axis = _axis([n for n, _ in places] or [1], [step for _, step in places] or [0])
        return Walk(axis.dims, axis.steps)

    return _Split(walk(batch), walk(rest))


class _Writer:
    """The text of a kernel and its arguments, in the same order."""

    def __init__(self, step: Step, lines: int) -> None:
        self.step, self.shape, self.lines = step, Shape(*step.extra), lines
        self.parameters: list[str] = []
        self.arguments: list[Argument] = []
        self.packed: dict[Packed, str] = {}
        self.views: dict[View, str] = {}
        self.planes: dict[int, str] = {}
        self.body: list[str] = []
        products = [part for part in step.parts if part.name == "matmul"]
        made = {v.root for part in step.parts if part.name != "matmul" for v in part.writes}
        self.makers = [part for part in products if not any(v.root in made for v in part.reads) and self._read(part.writes[0].root)]
        self.uses = [part for part in products if part not in self.makers]
        self.chain = [part for part in step.parts if part.name != "matmul"]
        self.bits = products[0].extra[0]
        self.how = digits(self.bits)

    def _read(self, root: int) -> bool:
        return any(v.root == root for part in self.step.parts for v in part.reads)

    def parameter(self, kind: str, stem: str, argument: Argument) -> str:
        name = f"{stem}{len(self.parameters)}"
        self.parameters.append(f"{kind}{name}")
        self.arguments.append(argument)
        return name

    def address(self, v: View, written: bool = False) -> str:
        if v not in self.views:
            kind = f"{TYPES[v.dtype]} *__restrict__ "
            self.views[v] = self.parameter(kind if written else f"const {kind}", "x", v)
        return self.views[v]

    def operand(self, packed: Packed, walk: Walk) -> str:
        """C++ for the operand of product z."""
        if packed not in self.packed:
            given = [self.parameter("const i8 *", "d", Of(packed, "digits")), self.parameter("const u32 *", "t", Of(packed, "top"))]
            given += [self.parameter("const u64 *", "s", Of(packed, sums)) for sums in ("across", "along")]
            given += [self.parameter("i64 ", "n", packed.side.lanes.size)]
            given += [self.parameter("i64 ", "p", packed.padded), self.parameter("i64 ", "b", packed.blocks), self.parameter("const i64 *", "w", walk)]
            name = f"o{len(self.packed)}"
            self.body.append(f"const Packed {name} = packed_of({', '.join(given[:-1])}, offset_of({given[-1]}, z));")
            self.packed[packed] = name
        return self.packed[packed]

    def made(self) -> None:
        """Lines of the products that are to be in shared memory."""
        for part in self.makers:
            first, second = _sides(part)
            a, b = (second, first) if self.shape.by_columns else (first, second)
            root = part.writes[0].root
            names, plane = (self.operand(*a), self.operand(*b)), f"plane{len(self.planes)}"
            self.planes[root] = plane
            k = self.parameter("i64 ", "k", a[0].side.k.size)
            self.body.append(f"float *{plane} = (float *)shared + {len(self.planes) - 1} * BR * pitch;")
            self.body.append(f"product_in<BR>({plane}, (int)pitch, {names[0]}, first, {names[1]}, {k}, (int)bits, ring, faults);")

    def lined(self, stores: Sequence[View], put: View | None) -> list[str]:
        """What a warp does with its line: stores some values, and puts the digits of one."""
        parts = _needed(self.chain, [*stores, *([put] if put else [])])
        inside = {v for part in parts for v in part.writes}
        outside = dict.fromkeys(v for part in parts for v in part.reads if v not in inside)
        if put is not None and put not in inside:
            outside[put] = None
        step = Step("rows", tuple(outside), tuple(stores), (), self.shape.all_rows, tuple(parts))
        group = rows.Group(step, [put] if put else [])
        for value, v in zip(group.reads, step.reads, strict=True):
            value.repeated |= v.root in self.planes or self.shape.by_columns
            value.wide |= self.shape.by_columns and not v.single
        held = rows.held_for(self.shape.elements, rows.WARP, group.planned(True).words(), HELD_WORDS)
        group.planned(held > 0)
        out = [line for value, v in zip(group.reads, step.reads, strict=True) for line in self._reading(value, v)]
        out += [f"{TYPES[v.dtype]} *y{k} = {self.address(v, True)};" for k, v in enumerate(step.writes)]
        sums = [part.extra[0] for part in parts if part.name == "sum" and part.reads[0].dtype == "f32"]
        out += [f"const i64 bits_{v.name} = {self.parameter('i64 ', 'q', bits)};" for v, bits in zip(group.sums, sums, strict=True)]
        return [*out, *rows.phases(group, rows.Shape(rows.WARP, held))]

    def _reading(self, value: rows.Value, v: View) -> list[str]:
        """Declares what an input is read by: `p` and its name for the elements of a line, its name alone for one a line."""
        kind = TYPES[v.dtype]
        if v.root in self.planes:
            return [f"const float *p{value.name} = {self.planes[v.root]} + warp * pitch;"]
        address = self.address(v)
        if not self.shape.by_columns:
            start = rows.start(v, self.shape.all_rows)
            if not start:
                walk = rows.row_walk(v, self.shape.all_rows)
                assert walk is not None
                start = f"offset_of({self.parameter('const i64 *', 'w', Walk(*walk))}, r)"
            return [f"const {kind} *p{value.name} = {address} + {start};" if value.wide else f"const {kind} {value.name} = {address}[{start}];"]
        if v.single:
            return [f"const {kind} {value.name} = {address}[0];"]
        split = _split(v, self.shape)
        assert split is not None
        column = " + first + warp" if v.strides[-1] else ""
        base = f"{address} + offset_of({self.parameter('const i64 *', 'w', split.batch)}, z){column}"
        if len(split.rows.dims) == 1:
            return [f"const Along<{kind}> p{value.name} = {{{base}, {self.parameter('i64 ', 'j', split.rows.strides[0])}}};"]
        return [f"const Walked<{kind}> p{value.name} = {{{base}, {self.parameter('const i64 *', 'w', split.rows)}}};"]

    def multiplied(self, part: Step, root: int) -> str:
        """The product that reads the line whose digits are there."""
        found, size = use(part, root, self.shape._replace(by_columns=False)), sizes(part)
        assert found is not None
        packed, walk = _sides(part)[found.first]
        other, out = self.operand(packed, walk), self.address(part.writes[0], True)
        lanes = size.n if found.first else size.m
        each = self.parameter("i64 ", "m", size.m * size.n)
        row, lane = (self.parameter("i64 ", "m", step) for step in ((lanes, 1) if found.first else (1, self.shape.lines)))
        return f"product_out<BR>({out} + z * {each}, {row}, {lane}, lines, first, digits, tops, {other}, length, (int)bits, ring, faults);"

    def written(self) -> Attend:
        shape, lines = self.shape, self.lines
        self.made()
        by_root: dict[int, list[Step]] = {}
        for part in self.uses:
            root = next(v.root for v in part.reads if self._inside(v.root))
            by_root.setdefault(root, []).append(part)
        outs = {part.writes[0] for part in self.uses}
        stores = [v for v in self.step.writes if v not in outs]
        for root in by_root or [-1]:
            put = whole_rows(root, shape.all_rows, "f32") if root >= 0 else None
            found = self.lined(stores, put)
            self.body += ["if (inside) {", *(f"    {line}" for line in found), "}"]
            if put is not None:
                self.body += ["else {", "    Line<BR> none(digits, (int)warp, length, 0u, (int)bits);", "    if (lane == 0) tops[warp] = 0;"]
                self.body += ["    for (u32 e = lane; e < n; e += 32u) none.put(e, 0.0f);", "    none.end();", "}"]
            self.body += [self.multiplied(part, root) for part in by_root.get(root, ())]
            stores = []
        pitch, room, total = _room(len(self.makers), self.uses != [], shape.elements, lines, self.how)
        head = ["i64 blocks", "i64 lines", "i64 length", "i64 pitch", "i64 room", "i64 bits", "u64 *faults"]
        given: list[Argument] = [-(-shape.lines // lines), shape.lines, shape.elements, pitch, room, self.bits, None]
        inside = "\n    ".join(self.body)
        tail = f"""({", ".join([*head, *self.parameters])}) {{
    ASSAY_SHARED(char, shared);
    constexpr int BR = {lines};
    const u32 warp = threadIdx.x / 32u, lane = threadIdx.x % 32u, z = blockIdx.x / (u32)blocks, n = (u32)length;
    const i64 first = (i64)(blockIdx.x - z * (u32)blocks) * BR;
    const bool inside = first + warp < lines;
    const u32 r = z * (u32)lines + (u32)first + warp;
    char *digits = shared + {len(self.makers)} * BR * pitch * 4;
    u32 *tops = (u32 *)(digits + room);
    char *ring = (char *)tops + {TOPS};
    {inside}
}}
"""
        name = f"attend_{hashlib.sha256(tail.encode()).hexdigest()[:16]}"
        text = MapText(name, f"KERNEL __launch_bounds__({32 * lines}, 1) {name}{tail}")
        arguments = (*given, *self.arguments)
        return Attend(text, self.how, arguments, tuple(self.packed), shape.batch * -(-shape.lines // lines), 32 * lines, total)

    def _inside(self, root: int) -> bool:
        return any(v.root == root for part in (*self.makers, *self.chain) for v in part.writes)


RING = 0
"""Bytes of shared memory for operands on their way."""


def _room(products: int, puts: bool, elements: int, lines: int, how: Digits) -> tuple[int, int, int]:
    """Elements from one line to the next; bytes of a line's digits of all lines; of all shared memory."""
    pitch = -(-elements // 4) * 4 + 4
    room = in_memory(how) * lines * (-(-elements // ROW) * ROW) if puts else 0
    return pitch, room, products * lines * pitch * 4 + room + TOPS + RING


def lines_of(step: Step, description: Description) -> int:
    """Lines of a block, or 0 where none fit the device."""
    shape = Shape(*step.extra)
    if shape.by_columns and any(_split(v, shape) is None for part in step.parts if part.name != "matmul" for v in part.reads if not v.single):
        return 0
    writer = _Writer(step, 0)
    limit = SHARED.get(description.arch, LEAST_SHARED)
    for lines in LINES:
        if _room(len(writer.makers), writer.uses != [], shape.elements, lines, writer.how)[2] <= limit:
            return lines
    return 0


def taking(description: Description) -> Callable[[Step], bool]:
    """What Plan asks about a step."""
    return lambda step: lines_of(step, description) > 0


def attend(step: Step, description: Description) -> Attend:
    """The kernel of a step that the device takes."""
    return _Writer(step, lines_of(step, description)).written()


def compiled(kernels: Kernels, made: Iterable[Attend]) -> None:
    """Compiles those that are not there yet."""
    found: dict[Digits, list[MapText]] = {}
    for one in made:
        found.setdefault(one.how, []).append(one.text)
    for how, texts in found.items():
        kernels.compile(texts, before(how))


@cache
def before(how: Digits) -> str:
    """CUDA C++ that kernels of these digits call."""
    given = {"PLANES": how.planes, "KARATSUBA": how.karatsuba, "PLAIN": 0, "BF16": 0, "FP8": 0, "WIDTH": NARROW.width}
    defined = "".join(f"#define {name} {int(value)}\n" for name, value in given.items())
    return defined + source("walk.cuh", "map.cuh", "lines.cuh") + "\n#undef WARP\n#undef BLOCK\n" + _files("digits.cuh", "tensor.cuh", "attend.cuh", "chain.cuh")


def _files(*names: str) -> str:
    return source(*names)[len(source()) :]
