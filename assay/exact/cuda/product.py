"""Matrix products of a CUDA device: what is launched for one, and where its workspace lies. How it is cut up: tiles.py.

One product (or a batch of them) is: scales of rows and columns, packing of both operands into digits, the multiplication with its
recombination and rounding, and the checksum of every column (pack.cu; gemm.cu, wgmma.cu or persistent.cu; check.cu). All of it is asked for without
the host looking at anything, so that it can be recorded; the number of wrong checksums is added to a counter of the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact.added import added_at
from assay.exact.cuda import making, pairs
from assay.exact.cuda.cuts import Cut, Piece, checked, pieces
from assay.exact.cuda.device import Buffer, Description, Device, Launch
from assay.exact.cuda.operands import Axis, Operand, operands
from assay.exact.cuda.sources import around, multiplication, of_heads
from assay.exact.cuda.streamed import Placed
from assay.exact.cuda.tiles import LANES, ROW, Digits, Group, Layout, Size, Way, digits, fitting
from assay.exact.cuda.zeroed import Row, Zeroed, Zeros
from assay.exact.steps import Step
from assay.exact.views import View

STRETCH, TOPS_ROWS, TALL, CHECK_LANES, HEAD_THREADS = 512, 64, 64, 64, 512
"""As in pack.cu and check.cu; threads of heads.cu."""
MOST_ROWS = 1 << 23
"""Rows that share a checksum (CHECK_DIGITS in check.cu)."""
THREADS = 256
BLOCK = (THREADS, 1, 1)
ALIGN = 256


class Side(NamedTuple):
    """An operand as it is packed for a product: A (`first`), whose digits are summed over lanes, or B, whose are summed over k. Two that are equal
    have the same bytes."""

    bits: int
    operand: Operand
    first: bool
    digits: Digits
    layout: Layout
    padded: int
    """Lanes, with those that fill up the last tile and what pack takes at once."""

    @property
    def blocks(self) -> int:
        return -(-self.operand.k.size // ROW)

    @property
    def planes(self) -> int:
        """In memory."""
        return self.digits.planes - (self.first and self.digits.karatsuba and not self.layout.summed)

    @property
    def top(self) -> int:
        """Bytes of the lanes' largest magnitudes."""
        return 4 * self.operand.products * self.operand.lanes.size

    @property
    def sums(self) -> int:
        """Bytes."""
        return 8 * self.operand.products * (self.digits.planes * self.blocks * ROW if self.first else self.padded)

    @property
    def packed(self) -> int:
        """Bytes of the digits."""
        return self.operand.products * self.planes * self.blocks * self.padded * ROW * self.digits.item


class Given(NamedTuple):
    """Where an operand lies that is packed already: addresses of its lanes' largest magnitudes, sums and digits."""

    top: int
    sums: int
    packed: int


class Product:
    """C[batch, m, n] in C order = A[batch, m, k] B[batch, k, n] with operands of `bits` bits, at whatever places A and B have.

    With a tile, `gemm` makes C from digits (`pieces`); `parts`: how many blocks share a tile's k, or the cut, if that is to be said. Without one, the
    device's library makes each product of digits as int32, and one pass over these C. Operands that are `given` have no place in the
    scratch memory. Raises ValueError for axes that do not fit each other, too many rows, or what the library cannot do.
    """

    def __init__(
        self, bits: int, a: Operand, b: Operand, way: Way, processors: int = 1, parts: int | Cut | None = None,
        given: tuple[bool, bool] = (False, False),
    ) -> None:  # fmt: skip
        if a.k.size != b.k.size or a.batch.size != b.batch.size:
            raise ValueError("the operands' axes do not fit each other")
        if a.lanes.size > MOST_ROWS:
            raise ValueError(f"{a.lanes.size} rows: at most {MOST_ROWS} share a checksum")
        self.bits, self.a, self.b, self.way, self.tile = bits, a, b, way, way.tile
        self.digits, tile = way.digits(bits), way.tile
        self.products, self.m, self.n, self.k = a.batch.size, a.lanes.size, b.lanes.size, a.k.size
        self.blocks = -(-self.k // ROW)
        planes, sums = self.digits.planes, self.digits.sums
        of_a, of_b = tile.lanes if tile is not None else (2 * LANES, 2 * LANES)
        self.padded_a, self.padded_b = -(-self.m // of_a) * of_a, -(-self.n // of_b) * of_b
        self.sides = tuple(
            Side(bits, x, first, self.digits, way.layout, padded) for x, first, padded in ((a, True, self.padded_a), (b, False, self.padded_b))
        )
        self.pieces: list[Piece] = []
        if tile is not None:
            item, of = self.digits.item, Size(bits, self.products, self.m, self.n, self.k)
            self.pieces = pieces(tile, of, -(-self.k * item // tile.kw), self.digits.run * item // tile.kw, processors, parts)
        elif planes != sums or self.k > self.digits.run:
            raise ValueError("the library adds up neither several products nor more of k than an int32 takes")
        side_a, side_b = self.sides
        own_a, own_b = (not there for there in given)
        sizes = {
            "top_a": own_a * side_a.top, "top_b": own_b * side_b.top, "along": own_b * side_b.sums, "across": own_a * side_a.sums,
            "columns": 8 * self.products * self.padded_b, "wanted": 8 * self.products * self.padded_b,
            "totals": sum(8 * self.products * piece.rows * self.n for piece in self.pieces if piece.parts > 1),
            "sums": 4 * sums * self.products * self.padded_a * self.padded_b if tile is None else 0,
            "packed_a": own_a * side_a.packed, "packed_b": own_b * side_b.packed,
        }  # fmt: skip
        self.places: dict[str, int] = {}
        """What lies where in the scratch memory."""
        self.scratch = 0
        for name, size in sizes.items():
            self.places[name] = self.scratch
            self.scratch += -(-size // ALIGN) * ALIGN


Pair = tuple[Launch, Launch]


class Shared(NamedTuple):
    """A product of which several ranks have a part of k each. Between the three, the scales (`top_a`, `top_b` in the scratch memory) become the
    largest of all ranks', then the sums those of all. The second may be launched again where its checksum was wrong, over sums of zero."""

    scales: list[Launch]
    sums: list[Launch]
    rounding: list[Launch]


class Products:
    """The matrix products of one engine. Holds what their launches need beside scratch memory: tables of places, and the counter `faults` (u64)
    of columns whose checksum was wrong, which nobody but the engine sets back."""

    def __init__(self, device: Device, way: Callable[..., Way | None] | None = None) -> None:
        """`way`: what was measured to be fastest for a Size (choice.py), where that is known; with a second argument True, of products that are
        `shared`."""
        self._device, self._way = device, way
        self._tables: dict[bytes, Buffer] = {}
        self.faults = device.allocate(8)
        device.upload(self.faults.address, np.zeros(1, np.uint64))

    def product(self, step: Step) -> Product | None:
        """How a step is computed, or None where it cannot be."""
        (a, b), description, bits = operands(pairs.planned(step)), self._device.description, step.extra[0]
        if a.lanes.size > MOST_ROWS:
            return None
        way = self._way(_size(bits, a, b)) if self._way is not None else None
        there_a, there_b = (len(reads) > 1 for reads in pairs.reads_of(step))
        return Product(bits, a, b, way or _unmeasured(bits, a, b, description), description.processors, given=(there_a, there_b))

    def side(self, step: Step, which: int) -> Side | None:
        """How a step wants an operand, or None where it cannot be computed."""
        product = self.product(step)
        return None if product is None else product.sides[which]

    def paired(self, steps: Sequence[Step], storage: Callable[[int], int], made: pairs.New, fixed: Mapping[int, tuple[str, int]]) -> list[Step]:
        """The steps of a plan, with what packs matrices for two products (pairs.py)."""
        return pairs.paired(self, steps, storage, made, fixed, self._device.description.memory // pairs.KEPT)

    def part(self, bits: int, a: Operand, b: Operand) -> Product:
        """How a product is computed of which this device has a part of k, the others of all ranks theirs: in tiles, whose sums can be added. Raises
        ValueError for too many rows."""
        way, description = self._way(_size(bits, a, b), True) if self._way is not None else None, self._device.description
        return Product(bits, a, b, way if way and way.tile is not None else _unmeasured(bits, a, b, description), description.processors, 0)

    def scratch(self, step: Step) -> int | None:
        """Bytes that `prepare` wants for a step, at a multiple of 256; None for a step that is none of these products."""
        product = self.product(step)
        return None if product is None else product.scratch

    def zeros(self, step: Step) -> int:
        """Bytes of it that may lie elsewhere (`prepare`): what begins as zero, but for totals."""
        return 0 if (product := self.product(step)) is None else product.places["totals"]

    def prepare(self, step: Step, at: Callable[[View], int], scratch: int, zeroed: Zeros | None = None) -> list[Launch]:
        """What computes a step; `at` gives addresses of views' first elements. With `zeroed`, memory that is zero already, what is to be
        compared in the end is said there."""
        product = self.product(step)
        assert product is not None
        places = [[at(v) for v in reads] for reads in pairs.reads_of(step)]
        there = _at(product, scratch, [Given(*found) if len(found) > 1 else None for found in places], zeroed)
        clear, *both = self._packing(product, places[0][0], places[1][0], there, scratch)
        own: list[Launch] = []
        for (tops, pack), (v, *others) in zip(both, pairs.reads_of(step), strict=True):
            still = zeroed is not None and not others and zeroed.still(v)
            if zeroed is not None and still:
                zeroed.tops.append(Row(around(product.digits, product.way.layout), tops.arguments, tops.grid[0]))
            own += [] if others else [pack] if still else [tops, pack]
        *made, compare = self._multiplying(product, at(step.writes[0]), there, there["totals"], added_at(step, at))
        if zeroed is None:
            return [clear, *own, *made, compare]
        zeroed.checks.append(Row(around(product.digits, product.way.layout), compare.arguments[:-1], compare.grid[0]))
        words = (product.places["sums"] - product.places["totals"]) // 4
        return [*([self.cleared(product.digits, product.way.layout, there["totals"], words)] if words else []), *own, *made]

    def compared(self, checks: Sequence[Row], table: Callable[[Sequence[Sequence[int]]], int]) -> Launch:
        """What compares the checksums of several products. `table` gives the address of rows of words."""
        kernel, blocks = self._device.load(checks[0].source).kernel("compare_all"), max(check.blocks for check in checks)
        return Launch(kernel, (blocks, len(checks), 1), BLOCK, (table([check.words for check in checks]), self.faults.address))

    def topped(self, tops: Sequence[Row], table: Callable[[Sequence[Sequence[int]]], int]) -> Launch:
        """What finds the largest magnitudes of several operands' lanes: along both axes of a matrix at once, where both are wanted."""
        turned: dict[tuple[int, ...], list[Row]] = {}
        for top in tops:
            if top.words[8]:
                turned.setdefault(top.words[:8], []).append(top)
        words, first = [], 0
        for top in sorted(tops, key=lambda top: top.words[8]):  # those that are turned last
            x, batch, lane_at, lane_step, k_at, k_step, lanes, k, is_turned, _ = top.words
            others = turned.get(top.words[:8] if is_turned else (x, batch, k_at, k_step, lane_at, lane_step, k, lanes), [])
            if is_turned and top not in others:
                continue  # was taken with another
            other = others.pop() if others and not is_turned and top.blocks == -(-lanes // 32) * -(-k // STRETCH) else None
            words.append([word % (1 << 64) for word in (first, *top.words, 0 if other is None else other.words[9])])
            first += top.blocks if other is None else -(-lanes // TOPS_ROWS) * -(-k // STRETCH)
        return Launch(self._device.load(tops[0].source).kernel("tops_all"), (first, 1, 1), BLOCK, (len(words), table(words)))

    def pack(self, step: Step, at: Callable[[View], int], made: making.Making | None = None, zeroed: Zeroed | None = None) -> list[Launch]:
        """What packs a matrix for two products (pairs.py); `made`: and makes it. With `zeroed`, magnitudes of what is there are found first."""
        pack = pairs.pack_of(step)
        row, column = pairs.sides_of(self, step)
        of_r, of_c = (Given(*map(at, half)) for half in pack.halves)
        halves = [
            (of.top, side.padded, of.packed, side.planes, *((of.sums, 0) if side.first else (0, of.sums)))
            for side, of in ((row, of_r), (column, of_c))
        ]
        n, m = row.operand.lanes.size, column.operand.lanes.size
        grid = -(-max(n, row.padded) // ROW) * -(-max(m, column.padded) // ROW)
        if made is not None:
            return [Launch(made.kernel, (grid, 1, 1), BLOCK, (*made.arguments(at), row.bits, *halves[0], *halves[1]))]
        source, x, out = around(row.digits, row.layout), at(pack.matrix), list[Launch]()
        kernel, ways = self._device.load(source).kernel, [*self._steps(row.operand.lanes), *self._steps(column.operand.lanes)]
        if pack.tops and zeroed is not None and zeroed.still(pack.matrix):
            tops = (self._packed(side, x, of)[0] for side, of in ((row, of_r), (column, of_c)))
            zeroed.tops.extend(Row(source, top.arguments, top.grid[0]) for top in tops)
        elif pack.tops:
            blocks = -(-n // TOPS_ROWS) * -(-m // STRETCH)
            out.append(Launch(kernel("tops_both"), (blocks, 1, 1), BLOCK, (x, *ways, n, m, of_r.top, of_c.top)))
        if not pairs.together(row, column):
            return [*out, self._packed(row, x, of_r)[1], self._packed(column, x, of_c)[1]]
        return [*out, Launch(kernel("pack_both"), (grid, 1, 1), BLOCK, (x, *ways, n, m, row.bits, *halves[0], *halves[1]))]

    def launches(self, p: Product, out: int, a: int, b: int, scratch: int) -> list[Launch]:
        """The whole product. Addresses: of the result, of the operands' first elements, of scratch memory."""
        return [*self.packing(p, a, b, scratch), *self.multiplying(p, out, scratch)]

    def packing(self, p: Product, a: int, b: int, scratch: int) -> list[Launch]:
        first, *both = self._packing(p, a, b, _at(p, scratch), scratch)
        return [first, *(launch for pair in both for launch in pair)]

    def _packing(self, p: Product, a: int, b: int, at: Mapping[str, int], scratch: int) -> tuple[Launch, Pair, Pair]:
        """What clears the sums; scales and packing of A, and of B."""
        side_a, side_b = p.sides
        of_a, of_b = Given(at["top_a"], at["across"], at["packed_a"]), Given(at["top_b"], at["along"], at["packed_b"])
        clear = self.cleared(p.digits, p.way.layout, scratch, p.places["sums"] // 4)
        return clear, self._packed(side_a, a, of_a), self._packed(side_b, b, of_b)

    def _packed(self, side: Side, x: int, to: Given) -> Pair:
        sums = (side.planes, to.sums, 0) if side.first else (side.planes, 0, to.sums)
        return self.packed(side.digits, side.layout, side.bits, side.operand, side.padded, x, to.top, to.packed, sums)

    def cleared(self, how: Digits, layout: Layout, at: int, words: int) -> Launch:
        """Writes zeros to so many words of four bytes."""
        return Launch(self._device.load(around(how, layout)).kernel("clear"), (_few(words), 1, 1), BLOCK, (at, words))

    def packed(
        self, how: Digits, layout: Layout, bits: int, side: Operand, padded: int, x: int, top: int, digits: int, sums: tuple[int, int, int],
    ) -> Pair:  # fmt: skip
        """Scales and packing of an operand at `x`, to `top` (zeros before) and `digits`, with lanes up to `padded`. `sums`: planes in memory, and
        where the digits' sums are added up over lanes and over k (0: nowhere)."""
        kernel = self._device.load(around(how, layout)).kernel
        batch, steps = self._table(side.batch.offsets()[: side.products]), (*self._steps(side.lanes), *self._steps(side.k))
        common = (x, batch, *steps, side.lanes.size, side.k.size, int(side.turned), top)
        grid = side.products * -(-side.lanes.size // 32) * -(-side.k.size // STRETCH)
        tops = Launch(kernel("tops"), (grid, 1, 1), BLOCK, common)
        grid = side.products * -(-padded // (ROW if side.turned else LANES)) * -(-side.k.size // ROW)
        return tops, Launch(kernel("pack"), (grid, 1, 1), BLOCK, (*common, bits, padded, digits, *sums))

    def heads(self, how: Digits, bits: int, given: Sequence[Placed], table: Callable[[Sequence[Sequence[int]]], int]) -> list[Launch]:
        """What packs matrices for kernels of attention (heads.cu). `table` gives the address of rows of words."""
        first = list(accumulate((m.parts * m.products for m, *_ in given), initial=0))
        rows = []
        for at, (m, x, factor, *to) in zip(first, given, strict=False):
            batch, axes = self._table(m.batch.offsets()[: m.products]), (*self._steps(m.rows), *self._steps(m.columns))
            words = at, m.parts, x, batch, *axes, m.rows.size, m.columns.size, factor, *to[0], *to[1]
            rows.append([word % (1 << 64) for word in words])
        kernel = self._device.load(of_heads(how)).kernel("pack_heads")
        return [Launch(kernel, (first[-1], 1, 1), (HEAD_THREADS, 1, 1), (len(rows), table(rows), bits))]

    def shared(self, p: Product, out: int, a: int, b: int, scratch: int, totals: int) -> Shared:
        """A product in tiles whose k is one rank's alone, its sums at `totals` (u64, like C), which are zero before."""
        at = _at(p, scratch)
        clear, (tops_a, pack_a), (tops_b, pack_b) = self._packing(p, a, b, at, scratch)
        start = scratch + p.places["along"]
        again = clear._replace(arguments=(start, (p.places["sums"] - p.places["along"]) // 4))
        gemm, finish, *check = self._multiplying(p, out, at, totals, summed=True)
        return Shared([clear, tops_a, tops_b], [again, pack_a, pack_b, gemm, finish, *check], [finish])

    def multiplying(self, p: Product, out: int, scratch: int) -> list[Launch]:
        """From packed operands on, with the checksum."""
        at = _at(p, scratch)
        return self._multiplying(p, out, at, at["totals"])

    def _multiplying(self, p: Product, out: int, at: Mapping[str, int], totals: int, more: int = 0, *, summed: bool = False) -> list[Launch]:
        """Blocks that share a tile leave sums at `totals`; with `summed` all do, some without work. `more`: where what is added to the result
        lies (0: nothing)."""
        kernel = self._device.load(around(p.digits, p.way.layout)).kernel
        padded_a, padded, step_a, step_b, made = p.padded_a, p.padded_b, int(not p.a.shared), int(not p.b.shared), list[Launch]()

        def rounded(name: str, totals: tuple[int, ...], first: int, rows: int) -> None:
            scales, below = (at["top_a"] + 4 * first, at["top_b"], p.bits, step_a, step_b, rows, p.n), 4 * first * p.n
            arguments = (*totals, *scales, padded, out + below, at["columns"], more and more + below)
            made.append(Launch(kernel(name), (p.products * -(-p.n // 32) * -(-rows // TALL), 1, 1), BLOCK, arguments))

        if p.tile is None:
            made += self._by_library(p, at)
            rounded("combine", (at["sums"], p.products, padded_a), 0, p.m)
        for first, rows, tiles, grid, parts, run in p.pieces:
            assert p.tile is not None
            through, below = summed or parts > 1, 4 * first * p.n
            arguments: tuple[int, ...] = (at["packed_a"] + first * p.way.layout.width, at["packed_b"], at["top_a"] + 4 * first, at["top_b"], p.bits)
            arguments += (step_a, step_b, rows, p.n, p.k, padded_a, padded, run, out + below, totals, at["columns"], more and more + below)
            if isinstance(p.tile, Group) and p.tile.persistent:
                arguments += (tiles // (p.tile.cm * p.tile.cn),)
            gemm = self._device.load(multiplication(p.digits, p.tile, more > 0 and not through), p.tile.arch).kernel("gemm")
            made.append(Launch(gemm, (grid, max(2, parts) if through else 1, 1), (p.tile.threads, 1, 1), arguments, p.tile.shared(p.digits)))
            if through:
                rounded("finish", (totals,), first, rows)
        lanes = p.products * padded // CHECK_LANES
        run = checked(lanes, p.blocks, p.digits.run // ROW, self._device.description.processors)
        size = (lanes, -(-p.blocks // run), 1)
        made.append(Launch(kernel("expected"), size, BLOCK, (at["across"], at["packed_b"], step_a, step_b, p.blocks, padded, run, at["wanted"])))
        sums = (at["columns"], at["along"], at["wanted"], step_b, padded, p.products, self.faults.address)
        made.append(Launch(kernel("compare"), (_few(p.products * padded), 1, 1), BLOCK, sums))
        return made

    def _by_library(self, p: Product, at: Mapping[str, int]) -> list[Launch]:
        """sums[plane][product][padded rows][padded columns], each a product of two planes."""
        library = self._device.library()
        if library is None:
            raise ValueError("this device has no library")
        k, made = p.blocks * ROW, []
        for z in range(p.digits.planes):
            for i in range(p.products):
                of_a, of_b = (0 if side.shared else i for side in (p.a, p.b))
                a = at["packed_a"] + (of_a * p.digits.planes + z) * p.padded_a * k
                b = at["packed_b"] + (of_b * p.digits.planes + z) * p.padded_b * k
                c = at["sums"] + 4 * (z * p.products + i) * p.padded_a * p.padded_b
                made.append(Launch(library, (1, 1, 1), (1, 1, 1), (a, b, c, p.padded_a, p.padded_b, k)))
        return made

    def _steps(self, axis: Axis) -> tuple[int, int]:
        """Table (or 0) and step of an axis."""
        return (self._table(axis.offsets()), 0) if axis.even is None else (0, axis.even)

    def _table(self, at: NDArray[np.int64]) -> int:
        """Address of a table, each of which lies there once."""
        key = at.tobytes()
        if key not in self._tables:
            self._tables[key] = self._device.allocate(at.nbytes)
            self._device.upload(self._tables[key].address, at)
        return self._tables[key].address


def _at(p: Product, scratch: int, given: Sequence[Given | None] = (None, None), zeroed: Zeros | None = None) -> dict[str, int]:
    """Addresses of all that a product has beside its result."""
    at = {name: scratch + offset for name, offset in p.places.items()}
    if zeroed is not None:
        at |= {name: zeroed.address + offset for name, offset in p.places.items() if offset < p.places["totals"]}
    for found, names in zip(given, (("top_a", "across", "packed_a"), ("top_b", "along", "packed_b")), strict=True):
        if found is not None:
            at |= dict(zip(names, found, strict=True))
    return at


def _size(bits: int, a: Operand, b: Operand) -> Size:
    return Size(bits, a.batch.size, a.lanes.size, b.lanes.size, a.k.size)


def _unmeasured(bits: int, a: Operand, b: Operand, description: Description) -> Way:
    return Way(fitting(digits(bits), a.batch.size, a.lanes.size, b.lanes.size, description))


def _few(elements: int) -> int:
    """Blocks of threads that walk over all elements together."""
    return max(1, min(1024, -(-elements // THREADS)))
