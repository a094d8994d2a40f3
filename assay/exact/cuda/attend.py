"""Steps `attend` (assay.exact.attention) as CUDA C++: wide values that are made and read on the chip.

A block of threads has BR lines (rows, or columns) of one product of the batch, a warp for each. It makes whole lines of the products that its chain
reads, in shared memory; its warps then make the chain's values as a kernel of rows does (rows.py), and of those that a product reads the scale and
the digits, which the block multiplies. A line's scale is its largest magnitude, so all of a line has to be there first. The other operands
stream from the level-2 cache: they are packed once for all kernels that follow each other (streamed.py).

Where lines are columns, what has one element a row varies along a line, and what lies by rows in memory is read across them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from assay.exact.cuda import rows
from assay.exact.cuda.device import Description, Kernel, Launch, source
from assay.exact.cuda.maps import TYPES, Kernels, MapText
from assay.exact.cuda.operands import axis
from assay.exact.cuda.streamed import Fresh, Of, Packed, Packs, Walk, in_memory, packing, sides_of
from assay.exact.cuda.tiles import LEAST_SHARED, NARROW, SHARED, Digits, digits
from assay.exact.inplace import BORDER, Lying, placed_by, stepped
from assay.exact.plan import Plan
from assay.exact.rows import whole_rows
from assay.exact.steps import Step
from assay.exact.views import View
from assay.exact.wide import Shape, shape_of, sizes, use

WAYS: tuple[tuple[int, int], ...] = ((16, 3), (16, 2), (8, 3), (8, 2))
"""Lines of a block and stages of its ring, the best ones first."""
MOST, LANES_OUT, ALIGN = 8192, 128, 128
"""As in attend.cuh: elements of a line, lanes of what it is multiplied with, and the multiple of bytes at which shared memory is cut."""
HELD_WORDS = 64
"""Registers that a thread has for elements of lines, of 128."""
TOPS = 128
"""Bytes for the scales of a block's lines."""


Argument = int | View | Walk | Of | None
"""None: the counter of wrong checksums."""


class Attend(NamedTuple):
    """A kernel and what it is started with."""

    text: MapText
    how: Digits
    ring: int
    arguments: tuple[Argument, ...]
    packed: tuple[Packed, ...]
    passes: dict[View, int]
    """How often a line of what chains read of memory is read."""
    blocks: int
    threads: int
    shared: int


def _products(step: Step) -> tuple[list[Step], list[Step]]:
    """Those that make wide values, and those that read them."""
    read = {v.root for part in step.parts if part.name not in BORDER for v in part.reads}
    makers = [part for part in step.parts if part.name == "matmul" and part.writes[0].root in read]
    return makers, [part for part in step.parts if part.name == "matmul" and part not in makers]


def _chain(step: Step) -> list[Step]:
    return [part for part in step.parts if part.name not in ("matmul", *BORDER)]


def _bits(step: Step) -> int:
    return next(part.extra[0] for part in step.parts if part.name == "matmul")


def _needed(parts: Sequence[Step], views: Iterable[View]) -> list[Step]:
    """The parts that make these values."""
    wanted, kept = set(views), list[Step]()
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
        found = axis([n for n, _ in places] or [1], [step for _, step in places] or [0])
        return Walk(found.dims, found.steps)

    return _Split(walk(batch), walk(rest))


def _held(group: rows.Group, elements: int) -> int:
    """Elements of a line that a thread holds of what later phases need: of as many values as it has registers for, the first ones; the others are
    made again of those. 0 where there is not room for one."""
    barred: list[rows.Value] = []
    while True:
        held = rows.held_for(elements, rows.WARP, group.planned(True, barred).words(), HELD_WORDS)
        waiting = [v for phase in group.phases for v in phase.made if v in group.held()]
        if held or not waiting:
            return held
        barred.append(waiting[-1])


class _Writer:
    """The text of a kernel and its arguments, in the same order."""

    def __init__(self, step: Step, room: Room) -> None:
        self.step, self.shape, self.room = step, shape_of(step), room
        self.parameters: list[str] = []
        self.arguments: list[Argument] = []
        self.packed: dict[Packed, str] = {}
        self.views: dict[View, str] = {}
        self.planes: dict[int, str] = {}
        self.passes: dict[View, int] = {}
        self.body: list[str] = []
        self.makers, self.uses = _products(step)
        self.chain = _chain(step)
        self.placed = placed_by(step)
        self.bits = _bits(step)
        self.how = digits(self.bits)

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
            numbers = ("n", packed.side.lanes.size), ("p", packed.padded), ("b", packed.blocks)
            given += [self.parameter("i64 ", stem, size) for stem, size in numbers]
            given.append(self.parameter("const i64 *", "w", walk))
            name = f"o{len(self.packed)}"
            self.body.append(f"const Packed {name} = packed_of({', '.join(given[:-1])}, offset_of({given[-1]}, z));")
            self.packed[packed] = name
        return self.packed[packed]

    def made(self) -> None:
        """Lines of the products that are to be in shared memory."""
        for part in self.makers:
            first, second = sides_of(self.step, part)
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
            value.wide |= self.shape.by_columns and not v.single
            value.near = value.repeated = value.wide
        held = _held(group, self.shape.elements)
        for value, v in zip(group.reads, step.reads, strict=True):
            if value.wide and v.root not in self.planes:
                self.passes[v] = self.passes.get(v, 0) + sum(value in phase.made for phase in group.phases)
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
        packed, walk = sides_of(self.step, part)[found.first]
        place = self.placed.get(part.writes[0].root, Lying(part.writes[0], None))
        other, out = self.operand(packed, walk), self.address(place.view, True)
        found_at = stepped(place.view, size.m, size.n)
        assert found_at is not None
        each = self.parameter("const i64 *", "w", Walk(*map(tuple, zip(*found_at.batch, strict=True))))
        steps = (found_at.row, found_at.column) if found.first else (found_at.column, found_at.row)
        row, lane = (self.parameter("i64 ", "m", step) for step in steps)
        factor = f", {self.address(place.factor)}" if place.factor is not None else ""
        where = f"{out} + offset_of({each}, z), {row}, {lane}, lines, first"
        return f"product_out<BR>({where}, digits, tops, {other}, length, (int)bits, ring, faults{factor});"

    def written(self) -> Attend:
        shape, lines = self.shape, self.room.lines
        self.made()
        by_root: dict[int, list[Step]] = {}
        for part in self.uses:
            root = next(v.root for v in part.reads if self._inside(v.root))
            by_root.setdefault(root, []).append(part)
        outs = {part.writes[0] for part in self.uses} | {place.view for place in self.placed.values()}
        stores = [v for v in self.step.writes if v not in outs]
        for root in by_root or [-1]:
            put = whole_rows(root, shape.all_rows, "f32") if root >= 0 else None
            found = self.lined(stores, put)
            self.body += ["if (inside) {", *(f"    {line}" for line in found), "}"]
            if put is not None:
                self.body += ["else {", "    if (lane == 0) tops[warp] = 0;"]
                self.body += ["    Line none = line_of<BR>(digits, (int)warp, length, 0u, (int)bits);"]
                self.body += ["    for (u32 e = lane; e < n; e += 32u) put<BR>(none, (int)e, 0.0f);", "    line_done(none);", "}"]
            self.body += [self.multiplied(part, root) for part in by_root.get(root, ())]
            stores = []
        head = ["i64 blocks", "i64 lines", "i64 length", "i64 pitch", "i64 room", "i64 bits", "u64 *faults"]
        given: list[Argument] = [-(-shape.lines // lines), shape.lines, shape.elements, self.room.pitch, self.room.digits, self.bits, None]
        inside = "\n    ".join(self.body)
        tail = f"""({", ".join([*head, *self.parameters])}) {{
    ASSAY_SHARED(char, shared);
    constexpr int BR = {lines};
    const u32 warp = threadIdx.x / 32u, lane = threadIdx.x % 32u, z = blockIdx.x / (u32)blocks, n = (u32)length;
    const i64 first = (i64)(blockIdx.x - z * (u32)blocks) * BR;
    const bool inside = first + warp < lines;
    const u32 r = z * (u32)lines + (u32)first + warp;
    char *digits = shared + ({len(self.makers)} * BR * pitch * 4 + {ALIGN - 1}) / {ALIGN} * {ALIGN};
    u32 *tops = (u32 *)(digits + room);
    char *ring = (char *)tops + {TOPS};
    {inside}
}}
"""
        key = f"{self.how} {self.room.ring} {tail}"
        name = f"attend_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        text = MapText(name, f"KERNEL __launch_bounds__({32 * lines}, 1) {name}{tail}")
        arguments = (*given, *self.arguments)
        blocks = shape.batch * -(-shape.lines // lines)
        return Attend(text, self.how, self.room.ring, arguments, tuple(self.packed), self.passes, blocks, 32 * lines, self.room.shared)

    def _inside(self, root: int) -> bool:
        return any(v.root == root for part in (*self.makers, *self.chain) for v in part.writes)


class Room(NamedTuple):
    """What a block has (attend.cuh): lines, stages of its ring, floats from a line of a plane to the next, bytes of digits, of all shared memory."""

    lines: int
    ring: int
    pitch: int
    digits: int
    shared: int


def room(products: int, puts: bool, elements: int, lines: int, ring: int, how: Digits) -> Room:
    """For lines of so many elements of some products, whose digits are `put`."""
    planes = _even(4 * products * lines * pitch_of(elements))
    of_digits = digits_bytes(lines, elements, how) if puts else 0
    return Room(lines, ring, pitch_of(elements), of_digits, planes + of_digits + TOPS + _even(ring_bytes(lines, ring, how)))


def pitch_of(elements: int) -> int:
    return (elements + 11) // 16 * 16 + 4


def digits_bytes(lines: int, elements: int, how: Digits) -> int:
    own = in_memory(how)
    checked = 2 if how.planes == 1 else own + 1
    return _even(8 * lines) + -(-elements // NARROW.width) * NARROW.width * (own * lines + checked)


def ring_bytes(lines: int, ring: int, how: Digits) -> int:
    own = in_memory(how)
    return ring * own * 8 * 16 * NARROW.width + own * 2 * lines * NARROW.width + 8 * LANES_OUT + 12 * lines


def _alike(how: Digits, ring: int) -> str:
    """C++ that says no if these sizes are not those of attend.cuh."""
    wanted = [f"pitch_of({n}) == {pitch_of(n)}" for n in (1, 1000)]
    for lines in (8, 16):
        wanted.append(f"ring_bytes<{lines}>() == {ring_bytes(lines, ring, how)}")
        wanted += [f"digits_bytes<{lines}>({n}) == {digits_bytes(lines, n, how)}" for n in (1, 1000)]
    return f'static_assert({" && ".join(wanted)}, "sizes");\n'


def _even(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def streams(step: Step) -> list[Packed]:
    """What every block reads all lanes of, for each product that has it as an operand."""
    makers, uses = _products(step)
    made = {v.root for part in step.parts for v in part.writes}
    found = [sides_of(step, part)[not shape_of(step).by_columns][0] for part in makers]
    return found + [next(packed for packed, _ in sides_of(step, part) if packed.view.root not in made) for part in uses]


def room_of(step: Step, description: Description) -> Room | None:
    """None where a step's kernel does not fit the device."""
    shape = shape_of(step)
    if shape.elements > MOST or (shape.by_columns and any(_split(v, shape) is None for p in _chain(step) for v in p.reads if not v.single)):
        return None
    products, uses, how = *_products(step), digits(_bits(step))
    rooms = (room(len(products), bool(uses), shape.elements, lines, ring, how) for lines, ring in WAYS)
    return next((found for found in rooms if found.shared <= SHARED.get(description.arch, LEAST_SHARED)), None)


def taking(description: Description) -> Callable[[Step], bool]:
    """What Plan asks about a step."""
    return lambda step: room_of(step, description) is not None


def attend(step: Step, description: Description) -> Attend:
    """The kernel of a step that the device takes."""
    found = room_of(step, description)
    assert found is not None
    return _Writer(step, found).written()


def launches(
    made: Attend, kernel: Kernel, fresh: Fresh, places: Mapping[Packed, Mapping[str, int]], products: Packs, at: Callable[[View], int],
    walk: Callable[[Walk], int], scratch: int,
) -> list[Launch]:  # fmt: skip
    """What packs the operands that are not there yet, and the kernel. `at` and `walk` give addresses; `places` are offsets from `scratch`."""

    def word(a: Argument) -> int:
        if isinstance(a, Of):
            return scratch + places[a.packed][a.part]
        return walk(a) if isinstance(a, Walk) else at(a) if isinstance(a, View) else products.faults.address if a is None else a

    arguments = tuple(map(word, made.arguments))
    before = packing(fresh, places, made.how, products, at, scratch)
    return [*before, Launch(kernel, (made.blocks, 1, 1), (made.threads, 1, 1), arguments, made.shared)]


def kernels(plans: Iterable[Plan], description: Description) -> list[Attend]:
    """Those of all steps of some plans."""
    return [attend(step, description) for plan in plans for step in plan.steps if step.name == "attend"]


def compiled(kernels: Kernels, made: Iterable[Attend]) -> None:
    """Compiles those that are not there yet."""
    found: dict[tuple[Digits, int], list[MapText]] = {}
    for one in made:
        found.setdefault((one.how, one.ring), []).append(one.text)
    for (how, ring), texts in found.items():
        kernels.compile(texts, before(how, ring))


@cache
def before(how: Digits, ring: int) -> str:
    """CUDA C++ that kernels of these digits call, with so many stages."""
    given = {"PLANES": how.planes, "KARATSUBA": how.karatsuba, "PLAIN": 0, "BF16": 0, "FP8": 0, "WIDTH": NARROW.width, "RING": ring}
    defined = "".join(f"#define {name} {int(value)}\n" for name, value in given.items())
    return defined + source("walk.cuh", "map.cuh", "lines.cuh", "digits.cuh", "tensor.cuh", "attend.cuh", "chain.cuh") + _alike(how, ring)
