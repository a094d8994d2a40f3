"""A plan as launches on a CUDA device: the same steps as on a CPU (assay.exact.tape), each as one kernel or a few.

Every walk that a kernel takes, and all constants, are uploaded once, when the tape is made; `bind` says where the storages lie and gives
the launches, which can be recorded. Kernels know no sizes, so few are compiled (maps.py). Steps whose results are few and whose elements
are many are cut among blocks (reduce.cu).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from math import prod
from typing import Protocol

import numpy as np

from assay.exact.added import added_at
from assay.exact.cuda import attend, columns, maps, rows
from assay.exact.cuda.device import Buffer, Device, Dim3, Launch
from assay.exact.cuda.pairs import Packing, making_of
from assay.exact.cuda.streamed import Packs, Shelf, Walk
from assay.exact.cuda.walks import limited, walk_words
from assay.exact.cuda.zeroed import Row, Zeroed, Zeros
from assay.exact.plan import ALIGN, Plan
from assay.exact.rows import Rows
from assay.exact.steps import Step
from assay.exact.tape import MASK
from assay.exact.views import View, c_strides, merged

THREADS = 256
WAVES = 16
"""Blocks of a grid for each processor, at most: every thread then takes several elements."""
MOST = 65535
"""Blocks of a grid along y and along z."""
SHORT, LONG = 1024, 4096
"""Elements of a result that a warp takes alone; from which on blocks may share one."""
CHUNK = 2048
"""Elements of a result that a block takes at least where blocks share it."""
TURNED = 16
"""Elements along both axes from which on a copy that turns them round goes through tiles."""

MOST_ZEROS = 64 << 20
"""Bytes that what begins as zero may take (zeroed.py)."""

Maker = Callable[[Callable[[View], int]], list[Launch]]
"""Address of a view's first element -> launches of a step."""


class Products(Packing, Packs, Protocol):
    """Matrix products (product.py)."""

    def scratch(self, step: Step) -> int | None:
        """Bytes of scratch memory; None where the plain kernels must do it."""
        ...

    def zeros(self, step: Step) -> int:
        """Bytes of it that `prepare` wants zero before and uses for nothing else."""
        ...

    def prepare(self, step: Step, at: Callable[[View], int], scratch: int, zeroed: Zeros | None = None) -> list[Launch]: ...

    def compared(self, checks: Sequence[Row], table: Callable[[Sequence[Sequence[int]]], int]) -> Launch: ...

    def topped(self, tops: Sequence[Row], table: Callable[[Sequence[Sequence[int]]], int]) -> Launch: ...


class Tape:
    """`arena` and `scratch` are what `bind` wants, in bytes; with `trace`, `marks[i]` is the number of launches before step i."""

    def __init__(self, plan: Plan, device: Device, kernels: maps.Kernels, products: Products | None = None) -> None:
        self.plan, self._device, self._kernels, self._products = plan, device, kernels, products
        self._walks: dict[tuple[int, ...], int] = {}
        self._words: list[int] = []
        self.arena, self.scratch, self._scratch_at = plan.arena, 0, 0
        batches = [([plan.steps[at] for at in batch], maps.text_of(plan, batch)) for batch in maps.together(plan)]
        groups = rows.written(plan.steps)
        self._rowed = {at: text.name for at, text in groups.items()}
        kernels.compile([*(text for _, text in batches if text is not None), *groups.values()])
        self._attending = {id(step): attend.attend(step, device.description, plan) for step in plan.steps if step.name == "attend"}
        attend.compiled(kernels, self._attending.values())
        self._making = making_of(kernels, products, plan.steps, self._walk, self._address) if products is not None else {}
        self._shelf = Shelf()
        self._zeroed = Zeroed(0 if plan.trace else MOST_ZEROS, plan)
        self._makers = [self._made(steps, text) for steps, text in batches]
        self._packers = {v: self._copy(v, v._replace(strides=c_strides(v.shape))) for v in plan.views if plan.trace and not v.contiguous}
        self._scratch_end = -(-self.scratch // ALIGN) * ALIGN
        self.scratch = self._scratch_end + self._zeroed.size if self._zeroed.size else self.scratch
        self._walk_buffer = device.allocate(8 * max(1, len(self._words)))
        device.upload(self._walk_buffer.address, np.array(self._words or [0], np.int64))
        sizes = [(a.nbytes + ALIGN - 1) // ALIGN * ALIGN for a in plan.constants]
        self._offsets = list(accumulate(sizes, initial=0))
        self.constants: Buffer = device.allocate(max(1, self._offsets[-1]))
        for offset, array in zip(self._offsets, plan.constants, strict=False):
            device.upload(self.constants.address + offset, array.reshape(-1).view(np.uint8))
        self.marks: list[int] = []
        self._held: list[Buffer] = []

    def place(self, v: View, bases: Mapping[str, Sequence[int]]) -> int:
        """Address of a view's first element; `bases` are the addresses of arena (one), inputs and outputs."""
        home, where, offset = self.plan.home(v.root)
        if home == "constant":
            base = self.constants.address + self._offsets[where]
        else:
            base = bases["arena"][0] + where if home == "arena" else bases[home][where]
        return base + offset + v.offset * v.item

    def bind(self, bases: Mapping[str, Sequence[int]], scratch: int, held: list[Buffer]) -> list[Launch]:
        """The launches of all steps, in order. What they need beside scratch memory is added to what the caller holds."""
        self._scratch_at, self._held = scratch, held
        self._zeroed.begin(scratch + self._scratch_end)
        regions = (self._zeroed.address, self._zeroed.size), (bases["arena"][0] + self.plan.zeros[0], self.plan.zeros[1])
        launches = [self.zeros(*region) for region in regions if region[1]]
        self.marks = [len(launches)]
        for maker in self._makers:
            launches += maker(lambda v: self.place(v, bases))
            self.marks.append(len(launches))
        if self._products is not None:
            launches += [self._products.compared(self._zeroed.checks, self._table)] if self._zeroed.checks else []
            launches[self.marks[0] : self.marks[0]] = [self._products.topped(self._zeroed.tops, self._table)] if self._zeroed.tops else []
        self._held = []  # they are the caller's
        return launches

    def pack(self, v: View, of: int, to: int) -> list[Launch]:
        """With `trace`: copies a node's result at `of` to `to`, in C order."""
        return self._packers[v](lambda seen: of if seen == v else to)

    # ---- what makers share

    def _walk(self, dims: Sequence[int], strides: Sequence[int]) -> int:
        """Number of the walk's first word."""
        return self._stored(walk_words(dims, strides))

    def _stored(self, words: tuple[int, ...]) -> int:
        """Number of the first of some words, which lie there once."""
        if words not in self._walks:
            self._walks[words] = len(self._words)
            self._words += words
        return self._walks[words]

    def _address(self, walk: int) -> int:
        return self._walk_buffer.address + 8 * walk

    def _table(self, rows: Sequence[Sequence[int]]) -> int:
        """Address of words that the caller of `bind` holds."""
        words = np.array(rows, np.uint64)
        self._held.append(self._device.allocate(words.nbytes))
        self._device.upload(self._held[-1].address, words)
        return self._held[-1].address

    def _need(self, scratch: int) -> None:
        self.scratch = max(self.scratch, scratch)

    def _grid(self, blocks: int) -> Dim3:
        return (max(1, min(blocks, WAVES * self._device.description.processors)), 1, 1)

    def _each(self, kernel: str, n: int, *arguments: int) -> Launch:
        """A kernel over n elements, a thread for each of some."""
        limited(n)
        return Launch(self._kernels[kernel], self._grid(-(-n // THREADS)), (THREADS, 1, 1), (n, *arguments))

    # ---- steps

    def _made(self, steps: Sequence[Step], text: maps.MapText | None) -> Maker:
        if steps[0].name == "attend":
            return self._attend(steps[0])
        self._shelf = Shelf()
        return self._other(steps[0]) if text is None else self._maps(steps, text.name)

    def _attend(self, step: Step) -> Maker:
        """A kernel that keeps wide values on the chip. What it has packed is there for those that follow it at once."""
        made, products = self._attending[id(step)], self._products
        assert products is not None
        words = {a: self._walk(*a) if isinstance(a, Walk) else self._stored(a.words) for a in made.words()}
        fresh, places = self._shelf.take(made.packed, made.how), self._shelf.places
        flags, kernels = self._shelf.end, self._kernels
        self._need(flags + 4 * made.blocks)
        word = lambda a: self._address(words[a])  # noqa: E731
        return lambda at: attend.launches(made, kernels, fresh, places, products, at, word, self._scratch_at, flags, self._table)

    def _maps(self, steps: Sequence[Step], kernel: str) -> Maker:
        """One MAP step, or many of the same text."""
        reads = [[(v, self._walk(v.shape, v.strides) if maps.walks(v) else None) for v in step.reads] for step in steps]
        sizes = [step.writes[0].elements for step in steps]
        blocks = list(accumulate((-(-n // maps.SHARE) for n in sizes), initial=0))
        for n in (*sizes, blocks[-1]):
            limited(n)

        def arguments(which: int, at: Callable[[View], int]) -> list[int]:
            out: list[int] = []
            for v, walk in reads[which]:
                out += [at(v)] if walk is None else [at(v), self._address(walk)]
            return [*out, *map(at, steps[which].writes)]

        def make(at: Callable[[View], int]) -> list[Launch]:
            if len(steps) == 1:
                return [self._each(kernel, sizes[0], *arguments(0, at))]
            rows = [[blocks[k], n, *arguments(k, at)] for k, n in enumerate(sizes)]
            return [Launch(self._kernels[kernel], (blocks[-1], 1, 1), (THREADS, 1, 1), (len(steps), self._table(rows)))]

        return make

    def _rows(self, step: Step) -> Maker:
        """Steps over the same rows, as one kernel."""
        size, shape, kernel = Rows(*step.extra), rows.shape_of(step), self._rowed[id(step)]
        limited(size.number * size.length)
        inputs = rows.arguments(step, self._walk, self._address)
        bits = [part.extra[0] for part in step.parts if part.name == "sum" and part.reads[0].dtype == "f32"]
        blocks = -(-size.number // (shape.threads // shape.group))
        grid: Dim3 = self._grid(blocks) if shape.held else (min(blocks, self._device.description.processors), 1, 1)
        return lambda at: [Launch(self._kernels[kernel], grid, (shape.threads, 1, 1), (*inputs(at), *map(at, step.writes), *bits))]

    def _columns(self, step: Step) -> Maker:
        inputs = rows.arguments(columns.over_rows(step), self._walk, self._address)
        return columns.maker(step, self._kernels[self._rowed[id(step)]], inputs, self._device.description.processors)

    def _other(self, step: Step) -> Maker:
        if step.name == "rows":
            return self._rows(step)
        if step.name == "columns":
            return self._columns(step)
        if step.name == "pack":
            assert self._products is not None
            return partial(self._products.pack, step, made=self._making.get(id(step)), zeroed=self._zeroed)
        (out,), extra = step.writes, step.extra
        item, reads = out.item, step.reads
        match step.name:
            case "copy":
                (source,) = reads
                return self._copy(source, out)
            case "fill":
                return lambda at: [self._each(f"fill_{item}", out.elements, at(out), extra[0] & MASK)]
            case "sum" | "amax":
                return self._reduction(step)
            case "cumsum":
                return self._cumsum(step)
            case "scatter_add":
                return self._scatter_add(step)
            case "take_rows":
                wide, rows, n, width = extra
                unit = next(u for u in (8, 4, 1) if u <= item and width % u == 0)
                per = width // unit
                return lambda at: [self._each(f"take_rows_{unit}", n * per, at(out), at(reads[0]), at(reads[1]), wide, rows, per)]
            case "gather" | "scatter_value":
                wide, _, outer, size, taken, inner, *value = extra
                n = outer * taken * inner
                if step.name == "gather":
                    return lambda at: [self._each(f"gather_{item}", n, at(out), at(reads[0]), at(reads[1]), wide, size, taken, inner)]
                before = self._copy(reads[0], out)
                put = f"scatter_value_{item}"
                return lambda at: [*before(at), self._each(put, n, at(out), at(reads[1]), wide, size, taken, inner, value[0] & MASK)]
        assert step.name == "matmul"
        return self._matmul(step)

    def _copy(self, source: View, out: View) -> Maker:
        dims, (to, of) = merged(out.shape, out.strides, source.strides)
        limited(out.elements)
        row, column = (next((a for a, n in enumerate(dims) if n >= TURNED and steps[a] == 1), -1) for steps in (of, to))
        if row >= 0 and column >= 0 and of[column] != 1:
            return self._turned(source, out, dims, to, of, row, column)
        walks = [self._walk(dims, strides) for strides in (to, of)]
        return lambda at: [self._each(f"copy_walks_{out.item}", out.elements, at(out), at(source), *map(self._address, walks))]

    def _turned(self, source: View, out: View, dims: Sequence[int], to: Sequence[int], of: Sequence[int], row: int, column: int) -> Maker:
        """A copy whose neighbours lie along `row` in the source and along `column` in the target, through tiles of 32 x 32."""
        rest = [a for a in range(len(dims)) if a not in (row, column)]
        outer, rows, columns = prod(dims[a] for a in rest), dims[row], dims[column]
        walks = [self._walk([dims[a] for a in rest], [steps[a] for a in rest]) for steps in (to, of)]
        grid, kernel = self._grid(outer * -(-rows // 32) * -(-columns // 32)), f"copy_tiles_{out.item}"

        def make(at: Callable[[View], int]) -> list[Launch]:
            arguments = (outer, rows, columns, at(out), at(source), to[row], of[column], *map(self._address, walks))
            return [Launch(self._kernels[kernel], grid, (32, 8, 1), arguments)]

        return make

    def _cumsum(self, step: Step) -> Maker:
        (out,), (x,), (outer, length, inner, bits) = step.writes, step.reads, step.extra
        n, kernel = outer * inner, f"cumsum_{'f32' if out.dtype == 'f32' else 'i64'}"
        limited(out.elements)
        alike = inner >= 32 and n >= THREADS * self._device.description.processors  # neighbouring threads read side by side, and there are many
        if length < THREADS or alike:
            return lambda at: [self._each(kernel, n, length, inner, at(out), at(x), bits)]
        grid = self._grid(n)
        return lambda at: [Launch(self._kernels[f"{kernel}_by_block"], grid, (THREADS, 1, 1), (n, length, inner, at(out), at(x), bits))]

    def zeros(self, address: int, size: int) -> Launch:
        """Clears whole words of four bytes."""
        return self._each("fill_4", -(-size // 4), address, 0)

    def _reduction(self, step: Step) -> Maker:
        (out,), (x, *_) = step.writes, step.reads
        bits, inner, run, rank, *walk = step.extra
        outer, steps, (rows, *far) = walk[:rank], walk[rank : 2 * rank], walk[2 * rank :]
        n, length = prod(outer) * inner, prod(far[:rows]) * run
        kept, along = self._walk([*outer, inner], [*steps, 1]), self._walk([*far[:rows], run], [*far[rows:], 1])
        what = "amax_f32" if step.name == "amax" else "sum_f32" if x.dtype == "f32" else "sum_i64"
        lines = inner == 1
        blocks = n if lines else -(-n // 32)
        target = 2 * self._device.description.processors
        if blocks < target and length >= LONG:
            return self._shared(step, (n, length), (kept, along), what, lines, min(-(-length // CHUNK), -(-4 * target // blocks), MOST))
        if not lines:
            kernel, grid, block = f"{what}_by_columns", self._grid(blocks), (32, 8, 1)
        elif length <= SHORT:
            kernel, grid, block = f"{what}_by_warp", self._grid(-(-n // 8)), (THREADS, 1, 1)
        else:
            kernel, grid, block = f"{what}_by_block", self._grid(n), (THREADS, 1, 1)
        chosen = self._kernels[kernel]
        return lambda at: [Launch(chosen, grid, block, (n, length, at(out), at(x), bits, *map(self._address, (kept, along)), added_at(step, at)))]

    def _shared(self, step: Step, size: tuple[int, int], walks: tuple[int, int], what: str, lines: bool, parts: int) -> Maker:
        """A reduction whose results are shared by `parts` blocks each."""
        (out,), (x, *_), (n, length), bits = step.writes, step.reads, size, step.extra[0]
        chunk = -(-length // parts)
        grid: Dim3 = (n if lines else -(-n // 32), -(-length // chunk), 1)
        block: Dim3 = (THREADS, 1, 1) if lines else (32, 8, 1)
        above = 8 * n  # totals, then tops
        own = self._zeroed.take(12 * n)
        if own is None:
            self._need(12 * n)

        def make(at: Callable[[View], int]) -> list[Launch]:
            start = self._scratch_at if own is None else self._zeroed.address + own
            totals, tops = (start, start + above) if what == "sum_f32" else (at(out), start)
            two = [self._address(w) for w in walks]

            def shared(kernel: str, *arguments: int) -> Launch:
                return Launch(self._kernels[kernel], grid, block, (n, length, chunk, *arguments))

            if what == "sum_i64":
                return [self.zeros(totals, 8 * n), shared("shared_wholes", totals, at(x), *two)]
            cleared = [self.zeros(start, 12 * n)] if own is None else []
            if what == "amax_f32":
                return [*cleared, shared("shared_ranks", tops, at(x), *two), self._each("end_of_ranks", n, at(out), tops)]
            return [
                *cleared,
                shared("shared_tops", tops, at(x), *two),
                shared("shared_sums", totals, tops, at(x), bits, *two),
                self._each("end_of_sums", n, at(out), totals, tops, bits, added_at(step, at)),
            ]

        return make

    def _scatter_add(self, step: Step) -> Maker:
        (out,), (index, values, *_) = step.writes, step.reads
        item, rows, n, width, bits = step.extra
        slots, totals = 8, 8 + -(-rows // 2) * 8  # behind the top and the number of rows claimed
        size = totals + 8 * min(n, rows) * width
        self._need(size)

        def make(at: Callable[[View], int]) -> list[Launch]:
            top = self._scratch_at
            named = top + slots, at(index)
            return [
                self.zeros(top, size),
                self._each("top_of_all", n * width, top, at(values)),
                self._each("claim_rows", n, top + 4, *named, item, rows),
                self._each("scatter_rows", n * width, top + totals, top, *named, at(values), item, rows, width, bits),
                self._each("end_of_rows", rows * width, at(out), top + totals, top, top + slots, width, bits, added_at(step, at)),
            ]

        return make

    def _matmul(self, step: Step) -> Maker:
        if self._products is not None and (size := self._products.scratch(step)) is not None:
            products = self._products
            self._need(size)
            own = self._zeroed.take(products.zeros(step))
            return lambda at: products.prepare(step, at, self._scratch_at, self._zeroed.of(own))
        (out,), (a, b, *_), (bits, rows, inner_a, inner_b, columns) = step.writes, step.reads, step.extra
        at_a, at_b = len(a.shape) - rows - inner_a, len(b.shape) - inner_b - columns
        batch, m = prod(a.shape[:at_a]), prod(a.shape[at_a : at_a + rows])
        k, n = prod(a.shape[at_a + rows :]), prod(b.shape[at_b + inner_b :])
        lanes_b, strides_b = b.shape[:at_b], b.strides[:at_b]
        if all(s == 0 or d == 1 for d, s in zip(lanes_b, strides_b, strict=True)):  # one second operand for all: more rows
            batch, m, lanes_b, strides_b = 1, batch * m, (), ()
        walks = [
            self._walk(a.shape[: at_a + rows], a.strides[: at_a + rows]),
            self._walk(a.shape[at_a + rows :], a.strides[at_a + rows :]),
            self._walk((*lanes_b, *b.shape[at_b + inner_b :]), (*strides_b, *b.strides[at_b + inner_b :])),
            self._walk(b.shape[at_b : at_b + inner_b], b.strides[at_b : at_b + inner_b]),
        ]
        sizes = [4 * batch * m * k, 4 * batch * n * k, 4 * batch * m, 4 * batch * n]
        places = list(accumulate((-(-s // ALIGN) * ALIGN for s in sizes), initial=0))
        self._need(places[-1])

        def make(at: Callable[[View], int]) -> list[Launch]:
            qa, qb, ta, tb = (self._scratch_at + p for p in places[:4])
            la, ka, lb, kb = map(self._address, walks)
            quantise = self._kernels["quantise_plain"]
            blocks = -(-n // 16)
            grid: Dim3 = (-(-m // 16), blocks, min(batch, MOST)) if blocks <= MOST else (-(-m // 16), MOST, 1)
            return [
                Launch(quantise, self._grid(-(-batch * m // 8)), (THREADS, 1, 1), (batch * m, k, qa, ta, at(a), bits, la, ka)),
                Launch(quantise, self._grid(-(-batch * n // 8)), (THREADS, 1, 1), (batch * n, k, qb, tb, at(b), bits, lb, kb)),
                Launch(self._kernels["product_plain"], grid, (16, 16, 1), (m, n, k, at(out), qa, qb, ta, tb, bits, batch, added_at(step, at))),
            ]

        return make
