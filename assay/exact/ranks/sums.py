"""A REDUCE along an axis that is cut between ranks, on each rank's device: the largest magnitudes of its elements, its sums in int64 under the
common scale, and one rounding, as the host's (assay.exact.ranks.exchanges) and by the kernels that make a device's own reductions
(cuda/reduce.cu) and products (cuda/product.py). Between these, assay.exact.ranks.between makes one of what all ranks have.

    tops      u32: magnitudes, or (of `amax`) ranks of the elements; those of all exchanges of a stage side by side, for one exchange of maxima
    totals    u64: sums, for one exchange of these
    results   rounded; of a gather, all ranks' pieces put together
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from math import prod
from typing import NamedTuple

import numpy as np

from assay.exact import reference
from assay.exact.cuda.device import Buffer, Device, Dim3, Launch
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.operands import Axis, Operand
from assay.exact.cuda.product import MOST_ROWS, Product, Products
from assay.exact.cuda.tape import CHUNK, MOST, THREADS, WAVES
from assay.exact.cuda.walks import limited, walk_words
from assay.exact.ranks.exchanges import Exchange, sizes_of
from assay.exact.table import TensorType
from assay.exact.views import c_strides
from assay.program import ProgramError

Work = Callable[[], object]


class Launches(NamedTuple):
    """What a device does for the exchanges of a stage, before, between and after what all ranks do together."""

    tops: list[Work]
    sums: list[Work]
    """Once more where a checksum was wrong."""
    results: list[Work]


class Sums:
    """The exchanges of a stage on a rank's device; `types` are those of their operands here. `tops` and `totals` are how many words there are,
    `landing[at]` the bytes in which the pieces of gather `at` arrive side by side where that is not their result yet, `scratch` bytes. Raises
    ProgramError for a product with too many rows."""

    def __init__(
        self, device: Device, kernels: Kernels, products: Products, exchanges: Sequence[Exchange], types: Sequence[Sequence[TensorType]], bits: int,
        ranks: int,
    ) -> None:  # fmt: skip
        self._device, self._kernels, self._products, self._bits = device, kernels, products, bits
        self.exchanges, self.types = list(exchanges), [list(own) for own in types]
        self._words: list[int] = []
        self._lines = {at: self._line(at) for at, e in enumerate(exchanges) if e.op in ("sum", "amax")}
        self._product = {at: self._multiplied(at) for at, e in enumerate(exchanges) if e.op == "matmul"}
        self._top_at = list(accumulate(map(self._tops, range(len(self.exchanges))), initial=0))
        self._total_at = list(accumulate(map(self._totals, self.exchanges), initial=0))
        self.tops, self.totals = self._top_at[-1], self._total_at[-1]
        self._joins = {at: self._joined(e, ranks) for at, e in enumerate(exchanges) if e.op == "gather"}
        self.landing = {at: self.exchanges[at].whole.bytes for at, joins in self._joins.items() if joins}
        self._scratch_at = dict(zip(self._product, accumulate((p.scratch for p in self._product.values()), initial=0), strict=False))
        self.scratch = sum(p.scratch for p in self._product.values())
        pieces = [sum(sizes_of(e, ranks)) for e in exchanges if e.op == "gather"]
        self.window = max([8 * self.totals, 4 * self.tops * ranks, *pieces]) + 8 * ranks
        """Bytes by which each exchange would be made in one go."""
        slots = max((e.whole.shape[0] for e in exchanges if e.op == "scatter_add_rows"), default=0)
        self._walks: Buffer = device.allocate(8 * max(1, len(self._words)))
        self._slots: Buffer = device.allocate(max(1, 4 * slots))
        device.upload(self._walks.address, np.array(self._words or [0], np.int64))
        if slots:  # every row has totals, in the table's order
            device.upload(self._slots.address, np.arange(1, slots + 1, dtype=np.uint32))

    # ---- what there is ---------------------------------------------------------------------------------------------------

    def _line(self, at: int) -> _Line:
        """The walks of a reduction, and which blocks share a result."""
        e, (t,) = self.exchanges[at], self.types[at]
        axes = e.attrs["axes"]
        assert isinstance(axes, tuple)
        strides = c_strides(t.shape)
        walks = []
        for dims in ([a for a in range(len(t.shape)) if a not in axes], list(axes)):
            walks.append(len(self._words))
            self._words += walk_words([t.shape[a] for a in dims], [strides[a] for a in dims])
        n, length = e.whole.elements, t.elements // e.whole.elements
        lines = len(t.shape) - 1 in axes
        blocks = n if lines else -(-n // 32)
        parts = max(1, min(-(-length // CHUNK), -(-8 * self._device.description.processors // blocks), MOST))
        chunk = -(-length // parts)
        return _Line(n, length, chunk, (blocks, -(-length // chunk), 1), (THREADS, 1, 1) if lines else (32, 8, 1), walks[0], walks[1])

    def _joined(self, e: Exchange, ranks: int) -> list[_Join]:
        """How the pieces of a gather, side by side, become its result; none where they are that."""
        assert e.split is not None
        axis, cuts, shape = e.split.axis, e.split.cuts, e.whole.shape
        outer, inner = prod(shape[:axis]), prod(shape[axis + 1 :])
        if outer == 1:
            return []
        joins = []
        for q in range(ranks):
            along = (cuts[q + 1] - cuts[q]) * inner
            joins.append(_Join(outer * along, outer * cuts[q] * inner, cuts[q] * inner, len(self._words)))
            self._words += walk_words((outer, along), (shape[axis] * inner, 1))
            joins[-1] = joins[-1]._replace(of=len(self._words))
            self._words += walk_words((outer, along), (along, 1))
        return joins

    def _multiplied(self, at: int) -> Product:
        a, b = self.types[at]
        *lead, m, k = a.shape
        n, batch = b.shape[-1], prod(lead)
        if m > MOST_ROWS:
            raise ProgramError(f"a product of {m} rows whose sums are shared by ranks: at most {MOST_ROWS} on a device")
        first = Operand(Axis((batch,), (m * k,)), Axis((m,), (k,)), Axis((k,), (1,)))
        second = Operand(Axis((batch,), (k * n,)), Axis((n,), (1,)), Axis((k,), (n,)))
        return self._products.part(self._bits, first, second)

    def _tops(self, at: int) -> int:
        e = self.exchanges[at]
        match e.op:
            case "matmul":
                return sum(size for _, size in self._scales(at)) // 4
            case "sum":
                return e.whole.elements if e.whole.dtype == "f32" else 0
            case "amax":
                return e.whole.elements
        return int(e.op == "scatter_add_rows")

    def _scales(self, at: int) -> list[tuple[int, int]]:
        """Of a product: place in its scratch memory, and bytes."""
        p = self._product[at]
        return [(p.places["top_a"], 4 * p.a.products * p.m), (p.places["top_b"], 4 * p.b.products * p.n)]

    @staticmethod
    def _totals(e: Exchange) -> int:
        return e.whole.elements if e.op in ("matmul", "sum", "scatter_add_rows") else 0

    # ---- what is done ----------------------------------------------------------------------------------------------------

    def bind(
        self, operands: Sequence[Sequence[int]], results: Sequence[int], landing: Mapping[int, int], tops: int, totals: int, scratch: int
    ) -> Launches:  # fmt: skip
        """With the addresses of each exchange's operands and of its result, of where gathers land, of `tops` and `totals`, and of scratch memory."""
        out = Launches([], [], [])
        if self.tops:
            out.tops.append(self._each("fill_4", self.tops, tops, 0))
        if self.totals:
            out.sums.append(self._each("fill_4", 2 * self.totals, totals, 0))
        for at, e in enumerate(self.exchanges):
            own = _Own(operands[at], tops + 4 * self._top_at[at], totals + 8 * self._total_at[at], results[at])
            if e.op == "matmul":
                self._multiply(at, own, scratch + self._scratch_at[at], out)
            elif e.op == "scatter_add_rows":
                self._scatter(at, own, out)
            elif e.op == "gather":
                out.results.extend(self._join(join, e, own.result, landing[at]) for join in self._joins[at])
            else:
                self._reduce(at, own, out)
        return out

    def _join(self, join: _Join, e: Exchange, result: int, landed: int) -> Work:
        item = e.whole.bytes // e.whole.elements
        walks = [self._walks.address + 8 * walk for walk in (join.to, join.of)]
        return self._each(f"copy_walks_{item}", join.n, result + item * join.into, landed + item * join.first, *walks)

    def _launched(self, *launches: Launch) -> list[Work]:
        return [partial(self._device.launch, launch) for launch in launches]

    def _each(self, kernel: str, n: int, *arguments: int) -> Work:
        grid = (max(1, min(-(-n // THREADS), WAVES * self._device.description.processors)), 1, 1)
        return partial(self._device.launch, Launch(self._kernels[kernel], grid, (THREADS, 1, 1), (n, *arguments)))

    def _multiply(self, at: int, own: _Own, scratch: int, out: Launches) -> None:
        a, b = own.operands
        shared = self._products.shared(self._product[at], own.result, a, b, scratch, own.totals)
        out.tops.extend(self._launched(*shared.scales))
        places = list(accumulate((size for _, size in self._scales(at)), initial=own.tops))
        for to, (place, size) in zip(places, self._scales(at), strict=False):
            out.tops.append(partial(self._device.copy, to, scratch + place, size))
            out.sums.append(partial(self._device.copy, scratch + place, to, size))
        out.sums.extend(self._launched(*shared.sums))
        out.results.extend(self._launched(*shared.rounding))

    def _scatter(self, at: int, own: _Own, out: Launches) -> None:
        e, (index, values) = self.exchanges[at], self.types[at]
        rows, width, bits = e.whole.shape[0], prod(values.shape[1:]), reference.sum_bits(e.terms)
        named, x = own.operands
        for n in (values.elements, e.whole.elements):
            limited(n)
        out.tops.append(self._each("top_of_all", values.elements, own.tops, x))
        of = (named, x, index.bytes // index.elements, rows, width, bits)
        out.sums.append(self._each("scatter_rows", values.elements, own.totals, own.tops, self._slots.address, *of))
        out.results.append(self._each("end_of_rows", e.whole.elements, own.result, own.totals, own.tops, self._slots.address, width, bits, 0))

    def _reduce(self, at: int, own: _Own, out: Launches) -> None:
        e, line = self.exchanges[at], self._lines[at]
        (x,), n = own.operands, line.n
        walks = [self._walks.address + 8 * walk for walk in (line.kept, line.along)]
        limited(n)
        limited(line.length)

        def shared(kernel: str, *arguments: int) -> Work:
            sizes = (n, line.length, line.chunk)
            return partial(self._device.launch, Launch(self._kernels[kernel], line.grid, line.block, (*sizes, *arguments, *walks)))

        if e.op == "amax":
            out.tops.append(shared("shared_ranks", own.tops, x))
            out.results.append(self._each("end_of_ranks", n, own.result, own.tops))
        elif e.whole.dtype == "i64":
            out.sums.append(shared("shared_wholes", own.totals, x))
            out.results.append(partial(self._device.copy, own.result, own.totals, 8 * n))
        else:
            bits = reference.sum_bits(e.terms)
            out.tops.append(shared("shared_tops", own.tops, x))
            out.sums.append(shared("shared_sums", own.totals, own.tops, x, bits))
            out.results.append(self._each("end_of_sums", n, own.result, own.totals, own.tops, bits, 0))


class _Line(NamedTuple):
    n: int
    length: int
    chunk: int
    grid: Dim3
    block: Dim3
    kept: int
    """First word of the walk over results, and of that over the elements of one."""
    along: int


class _Join(NamedTuple):
    """Of a rank's piece: elements, the first one's place among all that have landed, and in the result; first words of the walks over both."""

    n: int
    first: int
    into: int
    to: int
    of: int = 0


class _Own(NamedTuple):
    """Addresses."""

    operands: Sequence[int]
    tops: int
    totals: int
    result: int
