"""The text of a kernel of attention (attend.py): products whose lines stay on the chip, the chain over them, and products that read them as digits.

A value that another kernel has made is not made but read (handed.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from assay.exact.cuda import groups, phases
from assay.exact.cuda.blocks import ALIGN, TOPS, Room
from assay.exact.cuda.handed import PARTS, UNIT, handed_of
from assay.exact.cuda.intervals import Told, told
from assay.exact.cuda.kept import Chain, keep
from assay.exact.cuda.maps import TYPES, MapText
from assay.exact.cuda.reading import Argument, Flags, Reader, Table
from assay.exact.cuda.spans import Known, Section, Spans, Zeros, spans_of
from assay.exact.cuda.streamed import Of, Packed, Walk, sides_of
from assay.exact.cuda.tiles import NARROW, Digits, digits
from assay.exact.inplace import BORDER, Lying, placed_by, stepped
from assay.exact.rows import whole_rows
from assay.exact.steps import Step
from assay.exact.views import View
from assay.exact.wide import shape_of, sizes, use

HELD_WORDS = 64
"""Registers that a thread has for elements of lines, of 128."""


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
    spans: Spans | None
    """What each block makes of its lines; None: all."""
    whole: Attend | None
    """What follows it where blocks make a part of their lines."""

    def words(self) -> set[Walk | Table]:
        """What has to lie on the device beside views and operands."""
        given = (*self.arguments, *(self.whole.arguments if self.whole is not None else ()))
        return {a for a in given if isinstance(a, Walk | Table)}


def products(step: Step) -> tuple[list[Step], list[Step]]:
    """Those that make wide values, and those that read them."""
    read = {v.root for part in step.parts if part.name not in (*BORDER, *PARTS) for v in part.reads}
    makers = [part for part in step.parts if part.name == "matmul" and part.writes[0].root in read]
    return makers, [part for part in step.parts if part.name == "matmul" and part not in makers]


def chain(step: Step) -> list[Step]:
    return [part for part in step.parts if part.name not in ("matmul", *BORDER, *PARTS)]


def bits_of(step: Step) -> int:
    return next(part.extra[0] for part in step.parts if part.name == "matmul")


def _needed(parts: Sequence[Step], views: Iterable[View]) -> list[Step]:
    """The parts that make these values."""
    wanted, kept = set(views), list[Step]()
    for part in reversed(parts):
        if not wanted.isdisjoint(part.writes):
            kept.insert(0, part)
            wanted |= set(part.reads)
    return kept


class Writer(Reader):
    """The text of a kernel and its arguments, in the same order."""

    def __init__(
        self, step: Step, room: Room, known: Known | None, reduced: groups.Reduced, most: int = 0, hands: Sequence[View] = (),
    ) -> None:  # fmt: skip
        """Without `known` it is a kernel of at most so many blocks that makes whole lines where another one could not leave anything out. `hands`:
        values that it has at its end, beside those that the step says it hands on."""
        super().__init__(shape_of(step), room.lines)
        self.step, self.room = step, room
        self.packed: dict[Packed, str] = {}
        self.passes: dict[View, int] = {}
        self.body: list[str] = []
        self.reduced = reduced
        self.makers, self.uses = products(step)
        self.chain = chain(step)
        self.handed = None if most else handed_of(step)
        self.given = self.handed.given if self.handed is not None else None
        if self.given is not None:
            self.makers, self.chain = [], []
        self.hands = self.handed.values if self.handed is not None and self.given is None else tuple(hands)
        self.placed = placed_by(step)
        self.bits = bits_of(step)
        self.how = digits(self.bits)
        outs = {part.writes[0] for part in self.uses} | {place.view for place in self.placed.values()}
        outs |= {v for part in step.parts if part.name in PARTS for v in part.writes}
        stores = [v for v in step.writes if v not in outs]
        self.sections: list[tuple[Section, list[Step]]] = []
        puts: list[View | None] = []
        for root, parts in self._by_root().items():
            put = whole_rows(root, self.shape.all_rows, "f32") if root >= 0 else None
            self.sections.append((self._section(stores, put), parts))
            puts.append(put)
            stores = []
        planes, self.most = frozenset(part.writes[0].root for part in self.makers), most
        chains = [Chain(section.group, put) for (section, _), put in zip(self.sections, puts, strict=True)]
        self.kept = keep(chains, set(planes), self._held)
        self.told |= self._told(known) if known is not None else {}
        if self.given is not None:
            self.spans = Spans(self.given.spans, (Zeros(),) * len(self.sections)) if self.given.spans else None
        else:
            self.spans = spans_of([one for one, _ in self.sections], planes, self.shape, room.lines, known) if known is not None else None
        self.partial = self.spans is not None

    def puts(self) -> list[View]:
        """The values whose digits are put."""
        return [whole_rows(root, self.shape.all_rows, "f32") for root in self._by_root() if root >= 0]

    def lasting(self) -> bool:
        """Whether the last phase has what the kernel hands on in registers, each over a product's line that nobody reads any more."""
        (section, _), *others = self.sections
        self._held(section.group)
        return not others and len(self.hands) <= len(self.makers) and all(v.plane is None for v in section.group.phases[-1].made)

    def _told(self, known: Known) -> dict[View, Told]:
        arrays = {v: known(v.root) for section, _ in self.sections for v in section.step.reads}
        masks = {v: told(v, array, self.shape) for v, array in arrays.items() if array is not None}
        return {v: mask for v, mask in masks.items() if mask is not None}

    def _by_root(self) -> dict[int, list[Step]]:
        """Products by the value that they read; without any, none for -1."""
        found: dict[int, list[Step]] = {}
        for part in self.uses:
            found.setdefault(next(v.root for v in part.reads if self._inside(v.root)), []).append(part)
        return found or {-1: []}

    def operand(self, packed: Packed, walk: Walk) -> str:
        """C++ for the operand of product z."""
        if packed not in self.packed:
            given = [self.parameter("const i8 *", "d", Of(packed, "digits")), self.parameter("const u32 *", "t", Of(packed, "top"))]
            sums = ("i32", "across"), ("u64", "along"), ("i8", "checked")
            given += [self.parameter(f"const {kind} *", "s", Of(packed, name)) for kind, name in sums]
            given += [self.number(size) for size in (packed.side.lanes.size, packed.padded, packed.blocks)]
            name = f"o{len(self.packed)}"
            self.body.append(f"const Packed {name} = packed_of({', '.join(given)}, (u32)({self.offset(walk)}));")
            self.packed[packed] = name
        return self.packed[packed]

    def _plane(self, root: int) -> str:
        """Declares the lines of a value in shared memory."""
        plane = self.planes[root] = f"plane{len(self.planes)}"
        self.body.append(f"float *{plane} = (float *)shared + {len(self.planes) - 1} * BR * pitch;")
        return plane

    def coming(self) -> None:
        """Lines that another kernel has made."""
        assert self.handed is not None
        for value, matrix in zip(self.handed.values, self.handed.matrices, strict=True):
            plane = self._plane(value.root)
            self.body.append(f"line_coming({plane}, (int)pitch, {self.address(matrix)} + (i64)r * length, span);")
        if (flags := self.handed.flags) is not None:
            count, words = flags.elements // 4 // self.shape.batch, self.parameter("const u32 *", "f", flags)
            self.body.append(f"for (u32 e = threadIdx.x; e < {count}u; e += blockDim.x) fits = fits && !{words}[z * {count}u + e];")

    def handing(self) -> list[str]:
        """Values that lie in shared memory go to memory."""
        if self.handed is None or self.given is not None:
            return []
        places = [f"{self.address(matrix, True)} + (i64)z * (lines * length)" for matrix in self.handed.matrices]
        barrier = ["__syncthreads();"] if self.spans is None else []
        to = f"float *const to[] = {{{', '.join(places)}}};"
        return [*barrier, "{", f"    {to}", f"    handed<BR, {len(places)}>(to, lines, (const float *)shared, (int)pitch, first, span);", "}"]

    def made(self) -> None:
        """Lines of the products that are to be in shared memory."""
        for part in self.makers:
            first, second = sides_of(self.step, part)
            a, b = (second, first) if self.shape.by_columns else (first, second)
            names, plane = (self.operand(*a), self.operand(*b)), self._plane(part.writes[0].root)
            size = a[0].side.k.size
            k, turns = self.number(size), 1 if size <= NARROW.width else 2
            if self.spans is not None:
                self.body.append(f"fits = fits && (!left || bounded<BR>({names[0]}, first, {names[1]}, span));")
            self.body.append(f"product_in<BR, {turns}>({plane}, (int)pitch, {names[0]}, first, {names[1]}, {k}, span, (int)bits, ring, wrong);")

    def _section(self, stores: Sequence[View], put: View | None) -> Section:
        """The chain that stores some values, and puts the digits of one."""
        parts = _needed(self.chain, [*stores, *([put] if put else []), *self.hands])
        inside = {v for part in parts for v in part.writes}
        outside = dict.fromkeys(v for part in parts for v in part.reads if v not in inside)
        if put is not None and put not in inside:
            outside[put] = None
        step = Step("rows", tuple(outside), tuple(stores), (), self.shape.all_rows, tuple(parts))
        group = groups.Group(step, [put] if put else [], self.reduced, self.hands)
        for value, v in zip(group.reads, step.reads, strict=True):
            value.wide |= self.shape.by_columns and not v.single
            value.near, value.repeated = value.wide, value.wide and self.given is None
            value.plane = v.root if v.root in {part.writes[0].root for part in self.makers} else None
        return Section(group, step)

    def _held(self, group: groups.Group) -> int:
        """Elements of a line that a thread has in registers, by twos."""
        held = groups.held_in(group, self.shape.elements, groups.WARP, HELD_WORDS)
        return held + held % 2

    def lined(self, section: Section, left: phases.Left | None) -> list[str]:
        """What a warp does with its line."""
        group, step = section
        held = self._held(group)
        for value, v in zip(group.reads, step.reads, strict=True):
            if value.wide and v.root not in self.planes and v not in self.told:
                self.passes[v] = self.passes.get(v, 0) + sum(value in phase.made for phase in group.phases)
        out = [f"{TYPES[v.dtype]} *y{k} = {self.address(v, True)};" for k, v in enumerate(step.writes)]
        sums = [part.extra[0] for part in step.parts if part.name == "sum" and part.reads[0].dtype == "f32"]
        out += [f"const i64 bits_{v.name} = {self.number(bits)};" for v, bits in zip(group.sums, sums, strict=True)]
        return [*out, *phases.phases(group, groups.Shape(groups.WARP, held, 2, self.shape.elements % UNIT == 0, line=True), left)]

    def multiplied(self, part: Step, root: int) -> str:
        """The product that reads the line whose digits are there."""
        found, size = use(part, root, self.shape._replace(by_columns=False)), sizes(part)
        assert found is not None
        packed, walk = sides_of(self.step, part)[found.first]
        place = self.placed.get(part.writes[0].root, Lying(part.writes[0], None))
        other, out = self.operand(packed, walk), self.address(place.view, True)
        found_at = stepped(place.view, size.m, size.n)
        assert found_at is not None
        each = self.offset(Walk(*map(tuple, zip(*found_at.batch, strict=True))))
        steps = (found_at.row, found_at.column) if found.first else (found_at.column, found_at.row)
        row, lane = map(self.number, steps)
        factor = f", {self.address(place.factor)}" if place.factor is not None else ""
        where = f"{out} + {each}, {row}, {lane}, (i32)lines, first"
        return f"product_out<BR, {-(-packed.side.lanes.size // 16)}>({where}, digits, tops, {other}, length, span, (int)bits, ring, wrong{factor});"

    def written(self) -> Attend:
        shape, lines = self.shape, self.room.lines
        if self.given is None:
            self.made()
        else:
            self.coming()
        for at, (section, parts) in enumerate(self.sections):
            left = self.spans.left[at] if self.spans is not None else None
            reading = [line for value, v in zip(section.group.reads, section.step.reads, strict=True) for line in self.reading(value, v)]
            line = f"warp * pitch{' + from' if self.spans is not None else ''}"
            reading += [f"float *{'k' if v.stays else 'p'}{v.name} = {self.planes[root]} + {line};" for v, root in self.kept[at].items()]
            over = zip(section.group.hands, self.planes.values(), strict=False)
            reading += [f"float *h{v.name} = {plane} + {line} + turned_in_line<BR>();" for v, plane in over]
            if self.given is not None:
                reading.insert(0, f"line_there<{len(self.sections) - 1 - at}>();")
            found = self.lined(section, left)
            if left is not None and shape.by_columns:
                reading, before = [], ["{", *phases.inner([*reading, *left.by_columns()])]
            else:
                before = ["{"]
            self.body += [*before, "    if (inside) {", *phases.inner(phases.inner([*reading, *found])), "    }"]
            if parts:
                begin, end = ("from", "some") if left is not None else ("0u", "n")
                self.body += ["    else {", "        if (lane == 0) tops[warp] = 0;"]
                self.body += [f"        zeros<BR>(digits, (int)warp, {begin}, {end}, (int)bits);", "    }"]
            self.body += ["}"]
            if left is not None and (self.given is None or at == 0):
                stop = ["    async_wait<0>();"] if self.given is not None else []
                self.body += ["if (!__syncthreads_and(fits)) {", "    if (threadIdx.x == 0) *flag = 1;", *stop, "    return;", "}"]
            self.body += self.handing()
            self.body += [self.multiplied(part, next(v.root for v in part.reads if self._inside(v.root))) for part in parts]
        self.body = ["u64 wrong = 0;", *self.body, "add_to_faults<BR>(faults, wrong, ring);"]
        blocks = shape.batch * -(-shape.lines // lines)
        other = handed_of(self.step)
        words = other.flags if other is not None and other.given is None else None
        flags = self.parameter("u32 *", "f", words or Flags(blocks)) if self.spans is not None or self.most else ""
        if self.spans is not None:
            table = Table(tuple(word for span in self.spans.blocks for word in span))
            start = [f"const i64 *own = {self.parameter('const i64 *', 'l', table)} + 3 * (blockIdx.x % (u32)blocks);"]
            units = "" if shape.elements % UNIT else f" & -{UNIT}"  # so that the compiler knows, too
            start += ["const i32 first = (i32)own[0] * BR;", f"const Span span = {{(int)own[1]{units}, (int)own[2]{units}}};"]
            start += ["const u32 from = (u32)span.begin, some = (u32)span.end - from, left = n - some;"]
            start += [*self._place("blockIdx.x"), f"u32 *flag = {flags} + z * (u32)blocks + own[0];", "bool fits = true;"]
            body = [*start, *self.body, "if (threadIdx.x == 0) *flag = 0;"]
        else:
            which = "block" if self.most else "blockIdx.x"
            body = [f"const i32 first = (i32)({which} % (u32)blocks) * BR;", "const Span span = {0, (int)length};", *self._place(which), *self.body]
        if self.most:
            every = f"for (u32 block = blockIdx.x; block < {self.parameter('i64 ', 'n', blocks)}; block += gridDim.x) {{"
            body = [every, *phases.inner([f"if (!{flags}[block]) continue;", *body]), "}"]
        text = "\n    ".join(body)
        sizes = {"blocks": -(-shape.lines // lines), "lines": shape.lines, "length": shape.elements}
        sizes |= {"pitch": self.room.pitch, "room": self.room.digits, "bits": self.bits}
        tail = f"""({", ".join(["u64 *faults", *self.parameters])}) {{
    ASSAY_SHARED(char, shared);
    constexpr int BR = {lines};
    constexpr i64 {", ".join(f"{name} = {size}" for name, size in sizes.items())};
    const u32 warp = threadIdx.x / 32u, lane = threadIdx.x % 32u, n = (u32)length;
    char *digits = shared + ({len(self.planes)} * BR * pitch * 4 + {ALIGN - 1}) / {ALIGN} * {ALIGN};
    u32 *tops = (u32 *)(digits + room);
    char *ring = (char *)tops + {TOPS};
    {text}
}}
"""
        key = f"{self.how} {self.room.ring} {tail}"
        name = f"attend_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        kernel = MapText(name, f"KERNEL __launch_bounds__({32 * lines}, 1) {name}{tail}")
        grid = min(blocks, self.most or blocks)
        arguments, packed = (None, *self.arguments), tuple(self.packed)
        return Attend(kernel, self.how, self.room.ring, arguments, packed, self.passes, grid, 32 * lines, self.room.shared, self.spans, None)

    def _place(self, block: str) -> list[str]:
        """Which product of the batch a block has, which line of all a warp, and whether that is one of the product's."""
        inside = "first + warp < lines" if self.shape.lines % self.room.lines else "true"
        return [f"const u32 z = {block} / (u32)blocks, r = z * (u32)lines + (u32)first + warp;", f"const bool inside = {inside};"]

    def _inside(self, root: int) -> bool:
        given = self.handed.values if self.handed is not None and self.given is not None else ()
        return any(v.root == root for v in (*given, *(v for part in (*self.makers, *self.chain) for v in part.writes)))

