"""Values that a step of a plan makes again of what lies in memory anyway, where that is fewer bytes than to write and read them.

A GELU's gradient wants the input's square and sigmoid, a layer norm's its centred rows, cross-entropy's the logarithms of all probabilities: each
is a few operators away from a value that is there (and one element a row). A step that is one kernel makes them in registers. The operators are the
same, so the bits are, too; what nothing reads any more is not written and has no place.

This comes after steps over the same rows are one (assay.exact.rows), and before values have places. Only MAP steps and those over rows make values
again, of what such steps made, element by element, and only of what has lain still since.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import prod
from typing import NamedTuple

from assay.exact.rows import MAX_CODE, MAX_VIEWS, Rows, along, one_a_row, whole_rows
from assay.exact.steps import Instruction, Step
from assay.exact.views import View, whole

MOST, LARGE = 12, ("exp", "log", "sigmoid", "tanh", "erf", "sin", "cos", "pow", "div", "sqrt", "rsqrt", "reciprocal")
"""Operators that a value may be away; those that are some tens of instructions, of which it may be one."""


def touched(v: View) -> int:
    """Bytes of a view's elements, each counted once."""
    return v.item * prod(n for n, stride in zip(v.shape, v.strides, strict=True) if stride)


class _Way(NamedTuple):
    """How a value is made: instructions in order (operands are roots, or what is read), and what they read."""

    code: tuple[Instruction, ...]
    leaves: tuple[View, ...]


class Makings:
    """The values of a step, and how each is made of what it reads or stores."""

    def __init__(self, step: Step) -> None:
        self.rows = Rows(*step.extra) if step.name == "rows" else None
        self.count = step.writes[0].elements if self.rows is None else self.rows.number * self.rows.length
        self._code: dict[int, Instruction] = {}
        self.narrow: dict[int, View] = {}
        made: set[int] = set()
        for part in step.parts or (step,):
            made.update(v.root for v in part.writes)
            small = self.rows is not None and 0 in part.writes[0].strides
            for i in part.code:
                operands = tuple(o.root if isinstance(o, View) and o.root in made else o for o in i.operands)
                self._code[i.result] = i._replace(operands=operands)
            if small:
                self.narrow |= {v.root: self._a_row(v.root, v.dtype) for v in part.writes}

    def _a_row(self, root: int, dtype: str) -> View:
        assert self.rows is not None
        return one_a_row(root, self.rows, dtype)

    def wide(self, root: int, dtype: str) -> View:
        return whole(root, (self.count,), dtype) if self.rows is None else whole_rows(root, self.rows, dtype)

    def way(self, root: int, stored: Collection[int]) -> _Way | None:
        """How a wide value is made of what the step reads, of those that are `stored` and of such of an element a row; None where that is far."""
        code: dict[int, Instruction] = {}
        leaves: dict[View, None] = {}

        def visit(at: int) -> bool:
            if at in code:
                return True
            i = self._code.get(at)
            if at != root and at in self.narrow:
                leaves[self.narrow[at]] = None
                return True
            if i is None:
                return False
            if at != root and at in stored:
                leaves[self.wide(at, i.dtype)] = None
                return True
            operands = []
            for o in i.operands:
                if isinstance(o, View):
                    leaves[o] = None
                elif not visit(o):
                    return False
                elif o not in code:
                    o = next(v for v in leaves if v.root == o)
                operands.append(o)
            code[at] = i._replace(operands=tuple(operands))
            return True

        if not visit(root) or len(code) > MOST or sum(i.kernel.startswith(LARGE) for i in code.values()) > 1:
            return None
        return _Way(tuple(code.values()), tuple(leaves))


class Again:
    """`storage` is that of a root, `homes` are of those whose place is not the plan's (plan.py)."""

    def __init__(self, steps: Sequence[Step], storage: Callable[[int], int], homes: Mapping[int, tuple[str, int]]) -> None:
        self._steps, self._storage, self._homes = list(steps), storage, homes
        self._writing: dict[int, list[int]] = {}
        for at, step in enumerate(steps):
            for root in {storage(v.root) for v in step.writes}:
                self._writing.setdefault(root, []).append(at)
        self._readers: dict[int, list[int]] = {}
        for at, step in enumerate(steps):
            for root in {v.root for v in step.reads}:
                self._readers.setdefault(root, []).append(at)

    def made(self) -> list[Step]:
        """The steps."""
        for at, step in enumerate(self._steps):
            if step.name in ("map", "rows") and any(v.root in self._readers for v in step.writes):
                self._looked_at(at, Makings(step))
        return [step for step in self._steps if step.writes]

    def _looked_at(self, at: int, maker: Makings) -> None:
        """What becomes of the results of a step."""
        for v in self._steps[at].writes:
            step = self._steps[at]
            if v.elements != maker.count or 0 in v.strides or self._storage(v.root) != v.root or v.root in self._homes:
                continue
            way = maker.way(v.root, {w.root for w in step.writes} - {v.root})
            readers = self._readers.get(v.root, [])
            if way is None or not readers:
                continue
            able = [self._with(at, reader, maker, v, way) for reader in readers]
            costs = [sum(touched(w) for w in way.leaves if not self._reads(reader, w)) for reader in readers]
            if None not in able and sum(costs) < touched(v) * (1 + len(readers)):
                for reader, made in zip(readers, able, strict=True):
                    self._put(at, reader, v, made, way, maker)
                self._steps[at] = self._steps[at]._replace(writes=tuple(w for w in self._steps[at].writes if w != v))
                continue
            for reader, made, cost in zip(list(readers), able, costs, strict=True):  # what is stored, but made of what is read there anyway
                if made is not None and not cost:
                    self._put(at, reader, v, made, way, maker)

    def _reads(self, reader: int, leaf: View) -> bool:
        """Whether a step reads all elements of a leaf already."""
        return any(w.root == leaf.root and touched(w) == touched(leaf) and w.offset == leaf.offset for w in self._steps[reader].reads)

    def _put(self, at: int, reader: int, v: View, made: Step | None, way: _Way, maker: Makings) -> None:
        assert made is not None
        self._steps[reader] = made
        self._readers[v.root] = [r for r in self._readers[v.root] if r != reader]
        for w in way.leaves:
            self._readers.setdefault(w.root, [])
            self._readers[w.root] = sorted({*self._readers[w.root], reader})
        written = {w.root for w in self._steps[at].writes}
        narrow = [w for w in way.leaves if w.root not in written and w in maker.narrow.values()]
        self._steps[at] = self._steps[at]._replace(writes=(*self._steps[at].writes, *narrow))

    def _with(self, at: int, reader: int, maker: Makings, v: View, way: _Way) -> Step | None:
        """A step that makes v instead of reading it, or None where it cannot."""
        step = self._steps[reader]
        read = [w for w in step.reads if w.root == v.root]
        if step.name not in ("map", "rows") or any(not w.contiguous or w.offset or w.elements != maker.count for w in read):
            return None
        for w in way.leaves:
            own = self._storage(w.root)
            entry = self._homes.get(own, ("constant", 0))[0] != "constant"  # whose successor lies over it once it is read no more
            if any(at < other <= reader for other in self._writing.get(own, ())) or (entry and not self._reads(reader, w)):
                return None
        length = sum(max(1, len(part.code)) for part in step.parts or (step,)) + len(way.code)
        if length > MAX_CODE or len({*step.reads, *way.leaves}) + len(step.writes) > MAX_VIEWS:
            return None
        others = [w for w in step.reads if w.root != v.root]
        if step.name == "map":
            mine = [i._replace(operands=tuple(o.root if isinstance(o, View) and o.root == v.root else o for o in i.operands)) for i in step.code]
            code = {i.result: i for i in (*way.code, *mine)}
            return step._replace(reads=tuple(dict.fromkeys((*others, *way.leaves))), code=tuple(code.values()))
        rows = Rows(*step.extra)
        seen = {w: along(w, rows) for w in way.leaves}
        found = {w: x for w, x in seen.items() if x is not None}
        if len(found) < len(seen) or read != [whole_rows(v.root, rows, v.dtype)]:
            return None
        before = tuple(i._replace(operands=tuple(found.get(o, o) if isinstance(o, View) else o for o in i.operands)) for i in way.code)
        part = Step("map", tuple(found.values()), (read[0],), before)
        return step._replace(reads=tuple(dict.fromkeys((*others, *found.values()))), parts=(part, *step.parts))
