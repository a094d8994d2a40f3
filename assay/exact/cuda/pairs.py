"""Matrices that products read along both of their axes, packed in one pass (pack.cu).

A gradient dY is read by two products next to each other: dX has its rows as lanes, dW its columns. So is what a layer is given: by its own
product, and by that of dW on the way back. The plan then has a step `pack` before the first of them: it reads the matrix once as f32, and what it
writes are values as others: digits of either kind, and a head with the largest magnitudes and the checksum's sums of both. They have places as
long as a product reads them, and a matrix that nothing else reads gives up its own.

    head = [tops of rows][tops of columns][sums of rows][sums of columns]    each at a multiple of 8 bytes; zero when the part begins

Weights are read so, too, far apart from each other: they are packed once where their digits have room (KEPT), and what finds the magnitudes of
what is there already when a part begins (zeroed.py) finds theirs.

A `pack` step reads (matrix) and writes (tops, tops, sums, sums, digits, digits), each pair for rows and for columns; or reads (matrix, tops, tops)
where the step that makes the matrix writes its tops, too (`tops` among the `parts` of a `rows` step); or what the matrix is made of in its place,
where that step does not write it at all (making.py). Its `parts` are the two products as they were planned, and then the chain that makes the
matrix; its `extra` says which operand of each it is. A product has (tops, sums, digits) among its reads in place of an
operand that is packed, and itself as it was planned as its one part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from assay.exact.added import alone
from assay.exact.cuda import making
from assay.exact.cuda.device import Launch
from assay.exact.cuda.maps import Kernels, MapText
from assay.exact.cuda.operands import Axis, Operand, operands
from assay.exact.cuda.rows import arguments
from assay.exact.cuda.sources import of_making
from assay.exact.rows import Rows, mapped, whole_rows, worth
from assay.exact.steps import Step, touching
from assay.exact.table import TensorType
from assay.exact.views import View

if TYPE_CHECKING:
    from assay.exact.cuda.product import Side
    from assay.exact.cuda.zeroed import Zeroed

NEAR = 12
"""Steps for which digits may take memory beside the matrix that they are made of."""
KEPT = 256
"""Digits of weights, which lie from the way forward to the way back, that would fill a device's memory."""
WORD = 8


New = Callable[[TensorType, bool], View]
"""Makes a root of a plan; whether it is zero when the part begins."""


class Sizes(Protocol):
    """What is known of products on a device (product.py)."""

    def side(self, step: Step, which: int) -> Side | None: ...


class Packing(Sizes, Protocol):
    """What makes the launches of steps that pack."""

    def pack(self, step: Step, at: Callable[[View], int], made: making.Making | None = None, zeroed: Zeroed | None = None) -> list[Launch]: ...

    def paired(self, steps: Sequence[Step], storage: Callable[[int], int], made: New, fixed: Mapping[int, tuple[str, int]]) -> list[Step]:
        """The steps of a plan with those that pack (plan.py)."""
        ...


class Head(NamedTuple):
    """Byte offsets of tops of rows and of columns, and of sums of rows and of columns; bytes in all."""

    tops: tuple[int, int]
    sums: tuple[int, int]
    size: int


class Pack(NamedTuple):
    """A `pack` step: what it reads, and (tops, sums, digits) of rows and of columns."""

    matrix: View
    halves: tuple[tuple[View, View, View], tuple[View, View, View]]
    tops: bool
    """Whether it makes the tops."""
    chain: Step | None
    """Where it makes the matrix, how."""


def head_of(row: Side, column: Side) -> Head:
    at, places = 0, []
    for size in (row.top, column.top, row.sums, column.sums):
        places.append(at)
        at += -(-size // WORD) * WORD
    return Head((places[0], places[1]), (places[2], places[3]), at)


def pack_of(step: Step) -> Pack:
    tops = step.writes[:2] if len(step.reads) == 1 else step.reads[-2:]
    sums, digits = step.writes[-4:-2], step.writes[-2:]
    chain = step.parts[2] if len(step.parts) > 2 else None
    matrix = step.reads[0] if chain is None else chain.writes[0]
    return Pack(matrix, ((tops[0], sums[0], digits[0]), (tops[1], sums[1], digits[1])), len(step.reads) == 1, chain)


def sides_of(sizes: Sizes, step: Step) -> tuple[Side, Side]:
    """What is packed by a `pack` step, for rows and for columns."""
    row, column = (sizes.side(planned(of), which) for of, which in zip(step.parts, step.extra, strict=False))
    assert row is not None
    assert column is not None
    return row, column


def together(row: Side, column: Side) -> bool:
    """Whether one kernel packs both."""
    return (row.digits, row.layout) == (column.digits, column.layout)


def planned(step: Step) -> Step:
    """A product as it was planned."""
    step = alone(step)
    return step.parts[0] if step.parts else step


def reads_of(step: Step) -> tuple[tuple[View, ...], tuple[View, ...]]:
    """What a product reads of A, and of B: the operand, or (tops, sums, digits)."""
    step = alone(step)
    if not step.parts:
        a, b = step.reads
        return (a,), (b,)
    of_a = 1 if step.reads[0].dtype == "f32" else 3
    return step.reads[:of_a], step.reads[of_a:]


def making_text(sizes: Sizes, step: Step) -> tuple[str, MapText] | None:
    """The kernel of a step that makes what it packs, behind the CUDA C++ that it calls; None of other steps."""
    chain = pack_of(step).chain if step.name == "pack" else None
    if chain is None:
        return None
    row, _ = sides_of(sizes, step)
    before = of_making(row.digits, row.layout)
    return before, making.text(chain, before)


def making_of(
    kernels: Kernels, sizes: Sizes, steps: Iterable[Step], walk: Callable[[Sequence[int], Sequence[int]], int], address: Callable[[int], int],
) -> dict[int, making.Making]:  # fmt: skip
    """What steps that make what they pack are launched with, by their ids; their kernels are compiled. `walk` and `address`: as in rows.py."""
    found = [(step, *made) for step in steps if (made := making_text(sizes, step)) is not None]
    for called in dict.fromkeys(before for _, before, _ in found):
        kernels.compile([text for _, before, text in found if before == called], called)
    return {id(step): making.Making(kernels[text.name], arguments(step.parts[2], walk, address)) for step, _, text in found}


class _Reader(NamedTuple):
    """A product that reads a matrix as its operand `which`, and how it wants it."""

    at: int
    which: int
    side: Side


class _Matrix(NamedTuple):
    """Rows are the axis whose elements lie further apart."""

    rows: list[_Reader]
    columns: list[_Reader]


def paired(
    sizes: Sizes, steps: Sequence[Step], storage: Callable[[int], int], made: New, fixed: Mapping[int, tuple[str, int]], room: int,
) -> list[Step]:  # fmt: skip
    """The steps of a plan before values have places, with what packs matrices for two products. `storage` is that of a root, `made` makes one,
    `fixed` are places that are not the plan's, as in Plan.homes. `room`: bytes that digits may take for long beside the matrices that they are made
    of, in all."""
    return _Pairing(sizes, steps, storage, made, fixed, room).steps()


class _Pairing:
    def __init__(
        self, sizes: Sizes, steps: Sequence[Step], storage: Callable[[int], int], made: New, fixed: Mapping[int, tuple[str, int]], room: int,
    ) -> None:  # fmt: skip
        self._sizes, self._steps, self._storage, self._new, self._fixed = sizes, steps, storage, made, fixed
        self._room = room
        self._reading, self._writing = touching(steps, storage)
        self._results = [at for root, places in self._writing.items() if root in fixed for at in places]
        self._chained: set[int] = set()
        """Storages that are read to make a matrix again."""

    def steps(self) -> list[Step]:
        before: dict[int, list[Step]] = {}
        instead: dict[int, Step] = {}
        given: dict[int, dict[int, tuple[View, View, View]]] = {}
        for view, matrix in self._matrices():
            found = self._taken(view, matrix)
            if found is None:
                continue
            start = min(found.rows[0].at, found.columns[0].at)
            row, column = found.rows[0], found.columns[0]
            head = head_of(row.side, column.side)
            root = self._made(head.size, True)
            tops = [root._replace(offset=at, shape=(side.top,)) for at, side in zip(head.tops, (row.side, column.side), strict=True)]
            sums = [root._replace(offset=at, shape=(side.sums,)) for at, side in zip(head.sums, (row.side, column.side), strict=True)]
            digits = [self._made(side.packed) for side in (row.side, column.side)]
            maker = self._maker(view, row.side.operand, start)
            reads, writes, chain = [view], [*sums, *digits], None
            if maker is None:
                writes = [*tops, *writes]
            else:
                at, step, stored = maker
                step = instead.get(at, step)
                chain = self._chain(step, stored, found, at)
                if chain is not None:
                    step = self._unstored(step, chain)
                    reads = list(chain.reads)
                part = Step("tops", (stored,), tuple(tops), (), (head.size,))
                instead[at] = step._replace(writes=(*step.writes, *tops), parts=(*step.parts, part))
                reads += tops
            parts = self._steps[row.at], self._steps[column.at], *((chain,) if chain is not None else ())
            before.setdefault(start, []).append(Step("pack", tuple(reads), tuple(writes), (), (row.which, column.which), parts))
            for half, readers in enumerate((found.rows, found.columns)):
                for reader in readers:
                    given.setdefault(reader.at, {})[reader.which] = tops[half], sums[half], digits[half]
        for at, operands_ in given.items():
            step = self._steps[at]
            reads = [v for which, own in enumerate(step.reads) for v in operands_.get(which, (own,))]
            instead[at] = step._replace(reads=tuple(reads), parts=(step,))
        return [s for at, step in enumerate(self._steps) for s in (*before.get(at, ()), instead.get(at, step))]

    def _chain(self, step: Step, stored: View, found: _Matrix, at: int) -> Step | None:
        """How what packs a matrix makes it, of what step `at` that makes it does not have to write then; None where that is not so."""
        root, own = stored.root, sorted((r.at, r.which) for readers in found for r in readers)
        reads = [(n, which) for n in self._reading[root] for which, v in enumerate(self._steps[n].reads) if self._storage(v.root) == root]
        if root in self._fixed or root in self._chained or reads != own:
            return None
        chain, start = making.chain_of(step, stored), own[0][0]
        alike = together(found.rows[0].side, found.columns[0].side)
        if chain is None or not alike or not making.fewer(chain, step):
            return None
        leaves = {self._storage(v.root) for v in chain.reads}
        changed = any(at < n < start for leaf in leaves for n in self._writing.get(leaf, ()))
        entries = any(self._fixed.get(leaf, ("constant", 0))[0] != "constant" for leaf in leaves)
        if changed or (entries and any(at <= n < start for n in self._results)):  # an entry's successor may lie over it once nothing reads it
            return None
        self._chained |= leaves
        return chain

    def _unstored(self, step: Step, chain: Step) -> Step:
        """A step that makes a matrix for its tops alone, and stores what the chain has of it of an element a row."""
        written = [v for v in step.writes if v != chain.writes[0]]
        tops = [v for v in written if v.dtype == "u8" and any(v in part.writes for part in step.parts if part.name == "tops")]
        more = [v for v in chain.reads if v not in step.reads and v not in written]
        return step._replace(writes=(*(v for v in written if v not in tops), *more, *tops))

    def _made(self, size: int, zero: bool = False) -> View:
        return self._new(TensorType(dtype="u8", shape=(size,)), zero)

    def _matrices(self) -> Iterable[tuple[View, _Matrix]]:
        """What products read along two axes, each matrix with its readers."""
        found: dict[tuple[int, int, Axis, Axis], tuple[View, list[tuple[int, int]], list[tuple[int, int]]]] = {}
        for at, step in enumerate(self._steps):
            if step.name != "matmul":
                continue
            for which, x in enumerate(operands(step)):
                if x.batch.size != 1:
                    continue
                v = step.reads[which]
                key, other = (v.root, v.offset, x.lanes, x.k), (v.root, v.offset, x.k, x.lanes)
                if other in found or (key not in found and x.turned):
                    found.setdefault(other, (v, [], []))[2].append((at, which))
                else:
                    found.setdefault(key, (v, [], []))[1].append((at, which))
        for view, rows, columns in found.values():
            if rows and columns:
                yield view, _Matrix(self._readers(rows), self._readers(columns))

    def _readers(self, places: Sequence[tuple[int, int]]) -> list[_Reader]:
        return [_Reader(at, which, side) for at, which in places if (side := self._sizes.side(self._steps[at], which)) is not None]

    def _taken(self, view: View, matrix: _Matrix) -> _Matrix | None:
        """The readers that one pass is for: those that want the same as the first of their kind, as long as digits take no memory beside the matrix
        for long, or there is room for it (of a matrix that stays as it is, such as weights). None where that is not one of each kind."""
        if not matrix.rows or not matrix.columns:
            return None
        alike = _Matrix(*([r for r in readers if r.side == readers[0].side] for readers in matrix))
        start = min(readers[0].at for readers in alike)
        storage = self._storage(view.root)
        if any(at >= start for at in self._writing.get(storage, ())):
            return None
        own = {r.at for readers in alike for r in readers}
        others = [at for at in self._reading[storage] if at not in own]
        given_up = storage not in self._fixed and all(at <= start + NEAR for at in others)
        far = sum(readers[0].side.packed for readers in alike if any(r.at > start + NEAR for r in readers))
        stays = storage in self._fixed and storage not in self._writing and far <= self._room

        def kept(r: _Reader) -> bool:
            return r.at <= start + NEAR or stays or (given_up and r.side.packed <= 4 * r.side.operand.lanes.size * r.side.operand.k.size)

        found = _Matrix(*([r for r in readers if kept(r)] for readers in alike))
        self._room -= far if stays else 0
        return found if found.rows and found.columns else None

    def _maker(self, view: View, x: Operand, start: int) -> tuple[int, Step, View] | None:
        """The one step that makes a matrix, as a `rows` step that can write its tops, and its result there; None where there is none."""
        writers = self._writing.get(self._storage(view.root), [])
        rows = Rows(x.lanes.size, x.k.size)
        if len(writers) != 1 or view.offset or self._storage(view.root) != view.root:
            return None
        if x.lanes != Axis((rows.number,), (rows.length,)) or x.k != Axis((rows.length,), (1,)):
            return None
        stored, step = whole_rows(view.root, rows, "f32"), self._steps[writers[0]]
        if step.name == "map":
            part = mapped(step, rows)
            if part is None or not worth(rows) or any(self._storage(v.root) in self._fixed for v in step.writes):
                return None
            step = Step("rows", part.reads, part.writes, (), rows, (part,))
        return (writers[0], step, stored) if step.name == "rows" and stored in step.writes else None
