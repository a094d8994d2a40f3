"""Sums by columns of what a kernel over rows reads or makes, such as the gradients of a layer norm's weight and bias, and of a linear layer's bias.

An exact sum wants its column's largest magnitude first. The kernel over rows (the *host*) has each element in a register, so it leaves these
(`highs` among the `parts` of its step; or the pack of a product wants them already: `tops`, assay.exact.cuda.pairs), and no pass is for them alone.
All sums of one host are then one step `columns`, which reads a matrix once, however many sums want it, and makes again what is a few operators away
from what it reads, where that is fewer bytes: the product dy * xhat, which a weight's gradient sums, is not written.

Such a step reads what its sums are made of (as rows), the largest magnitudes of their columns, and what is added to them (assay.exact.added); it
writes the sums, and behind them its own part of a head

    [totals, 8 bytes for each column of each sum][arrived, 4 bytes for each 32 columns][magnitudes, 4 bytes for each column]

which is zero when the part begins and has no magnitudes that are among a pack's tops. Its `parts` are what is made again and the sums by themselves,
its `code` the additions, its `extra` R and L.

This is for devices, comes after everything else that changes steps, and before values have places.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import NamedTuple

from assay.exact.added import addends
from assay.exact.again import Makings, touched
from assay.exact.rows import Rows, along
from assay.exact.steps import Instruction, Step, touching
from assay.exact.table import TensorType
from assay.exact.views import View

WINDOW = 24
"""Steps between a sum and its host."""
MOST = 4
"""Sums of a step."""
GROUP = 32
"""Columns that a warp's threads have."""
MOST_ROWS = 1 << 26


class _Sum(NamedTuple):
    """A sum by columns, of `x` as rows."""

    at: int
    x: View
    rows: Rows
    bits: int
    out: View


def totals_of(rows: Rows, sums: int) -> int:
    """Bytes of a head's totals."""
    return 8 * rows.length * sums


def _word(size: int) -> int:
    return -(-size // 8) * 8


class Columns:
    """`storage` is that of a root, `homes` are of those whose place is not the plan's, `wanted` are roots that are read by more than steps, `made`
    makes a root (zero at the part's begin, or not)."""

    def __init__(
        self, steps: Sequence[Step], storage: Callable[[int], int], homes: Mapping[int, tuple[str, int]], wanted: Collection[int],
        made: Callable[[TensorType, bool], View],
    ) -> None:  # fmt: skip
        self._steps: list[Step | None] = list(steps)
        self._storage, self._homes, self._wanted, self._new = storage, homes, wanted, made
        self._reading, self._writing = touching(steps, storage)

    def made(self) -> list[Step]:
        """The steps; those of one host stand where the last of them stood, or behind the host."""
        of: dict[int, list[_Sum]] = {}
        for at, step in enumerate(self._steps):
            found = self._sum(at, step) if step is not None else None
            if found is not None and (host := self._host(found)) is not None:
                of.setdefault(host, []).append(found)
        behind = {}
        for host, sums in of.items():
            last = max(host, *(one.at for one in sums))
            able = [one for one in sums if self._waits(one, host, last)][:MOST]
            if able:
                behind[last] = self._together(host, able, last)
        return [one for at, step in enumerate(self._steps) for one in (step, behind.get(at)) if one is not None]

    def _sum(self, at: int, step: Step) -> _Sum | None:
        """A step as a sum over all rows of a matrix that lies as it is."""
        if step.name != "sum" or step.reads[0].dtype != "f32":
            return None
        x, out, (bits, inner, run, rank, *walk) = step.reads[0], step.writes[0], step.extra
        if run != 1 or prod(walk[:rank]) != 1 or inner != out.elements or not x.contiguous or not out.contiguous:
            return None
        rows = Rows(x.elements // inner, inner)
        seen = along(x, rows)
        return None if seen is None or rows.number > MOST_ROWS else _Sum(at, seen, rows, bits, out)

    def _host(self, one: _Sum) -> int | None:
        """The step over the same rows that makes the matrix, else the first one near that reads it."""
        near = range(max(0, one.at - WINDOW), min(len(self._steps), one.at + WINDOW + 1))
        steps = {at: step for at in near if (step := self._steps[at]) is not None and step.name == "rows" and step.extra == one.rows}
        makers = [at for at, step in steps.items() if at < one.at and one.x in step.writes]
        return next((at for at in (*makers, *(at for at, step in steps.items() if one.x in step.reads)) if self._lies(one.x, at, one.at)), None)

    def _lies(self, v: View, some: int, other: int) -> bool:
        """Whether nothing is written over a value between two steps."""
        return all(at <= min(some, other) or at > max(some, other) for at in self._writing.get(self._storage(v.root), ()))

    def _waits(self, one: _Sum, host: int, last: int) -> bool:
        """Whether a sum may be made behind the step `last`."""
        step, out = self._steps[one.at], self._storage(one.out.root)
        assert step is not None
        read = any(one.at < at <= last for of in (self._reading, self._writing) for at in of.get(out, ()))
        return not read and self._lies(one.x, host, last) and all(self._lies(v, one.at, last) for v in step.reads)

    def _together(self, at: int, sums: Sequence[_Sum], last: int) -> Step:
        """The sums of a host as one step; the host then leaves what they need."""
        host, rows = self._steps[at], sums[0].rows
        assert host is not None
        again = self._again(at, host, sums, last)
        head = [totals_of(rows, len(sums)), _word(4 * -(-rows.length // GROUP))]
        there = {part.reads[0]: part.writes[1] for part in host.parts if part.name == "tops"}
        missing = [x for x in dict.fromkeys(one.x for one in sums) if x not in there]
        root = self._new(TensorType(dtype="u8", shape=(sum(head) + len(missing) * _word(4 * rows.length),)), True)
        for k, x in enumerate(missing):
            there[x] = root._replace(offset=sum(head) + k * _word(4 * rows.length), shape=(4 * rows.length,))
        highs = [Step("highs", (x,), (there[x],)) for x in missing]
        tops = [v for part in host.parts if part.name == "tops" for v in part.writes]
        kept = [v for v in host.writes if v not in tops and v not in again.gone]
        writes = (*kept, *again.narrow, *tops, *(there[x] for x in missing))
        self._steps[at] = host._replace(writes=writes, parts=(*host.parts, *highs))
        reads = dict.fromkeys((*again.leaves, *(one.x for one in sums if one.x not in again.gone)))
        parts: list[Step] = []
        code: list[Instruction] = []
        more: list[View] = []
        if again.code:
            parts.append(Step("map", again.leaves, again.gone, again.code))
        for one in sums:
            step = self._steps[one.at]
            assert step is not None
            parts.append(Step("sum", (one.x,), (one.out,), (), (one.bits,)))
            more += addends(step).values()
            code += step.code
            self._steps[one.at] = None
        own = root._replace(shape=(sum(head),))
        magnitudes = [there[one.x] for one in sums]
        return Step("columns", (*reads, *magnitudes, *more), (*(one.out for one in sums), own), tuple(code), rows, tuple(parts))

    def _again(self, at: int, host: Step, sums: Sequence[_Sum], last: int) -> _Again:
        """Which of what is summed is made again."""
        maker, found = Makings(host), _Again()
        read = {one.x for one in sums}
        for x in dict.fromkeys(one.x for one in sums):
            if x not in host.writes or x in found.leaves:
                continue
            others = [one for one in self._reading[self._storage(x.root)] if one not in [s.at for s in sums if s.x == x]]
            alone_there = self._storage(x.root) == x.root and x.root not in self._homes and x.root not in self._wanted and not others
            way = maker.way(x.root, {v.root for v in host.writes} - {v.root for v in (x, *found.gone)})
            if way is None or not all(v in read - {x} or self._stays(v, at, last) for v in way.leaves):
                continue
            cost = sum(touched(v) for v in way.leaves if v not in found.leaves and v not in read - {x})
            if alone_there and cost < 2 * touched(x):
                narrow = [v for v in way.leaves if v not in host.writes and v in maker.narrow.values()]
                code = {i.result: i for i in (*found.code, *way.code)}
                leaves, stored = dict.fromkeys((*found.leaves, *way.leaves)), dict.fromkeys((*found.narrow, *narrow))
                found = _Again((*found.gone, x), tuple(leaves), tuple(code.values()), tuple(stored))
        return found

    def _stays(self, v: View, at: int, last: int) -> bool:
        """Whether a value may be read after its step: nothing is written over it, nor waits to be."""
        return self._lies(v, at, last) and self._homes.get(self._storage(v.root), ("constant", 0))[0] == "constant"


class _Again(NamedTuple):
    """What is made again: the values that the host does not store, what they are made of, how, and what of that the host has to store."""

    gone: tuple[View, ...] = ()
    leaves: tuple[View, ...] = ()
    code: tuple[Instruction, ...] = ()
    narrow: tuple[View, ...] = ()


def terms(step: Step) -> list[Step]:
    """The sums of a step `columns`, one by one."""
    return [part for part in step.parts if part.name == "sum"]


def operands(step: Step) -> tuple[tuple[View, ...], tuple[View, ...]]:
    """What a step `columns` reads as rows, and the magnitudes of its sums' columns."""
    count, behind = len(terms(step)), len(step.reads) - len(step.code)
    return step.reads[: behind - count], step.reads[behind - count : behind]
