"""Steps of a plan that all work on the same rows, as one: softmax, layer norm, cross-entropy and their gradients, in which a device then reads a
row once and keeps it, instead of writing each step's result and reading it again (assay.exact.cuda.rows).

A group has R rows of L elements. Its members are MAP steps over R x L elements, MAP steps over R (one element a row), gathers of one element of each
row and scatters of a value into one of each (cross-entropy and its gradient), and maxima and sums over whole rows; at least one of these last. What
they read is written as a view of shape [..., L] whose last stride is 1 (the elements of a row lie side by side) or 0 (one element for all of a
row), the rows' dimensions joined as far as they can be: so two views of the same elements are equal, and a member reads another's result exactly
where the view is that result's own.

This happens before values have places: what no step outside a group reads is given none, and what a group writes lies over nothing that it
reads, since both are there until it is done (Plan._store). So nothing depends on how bytes overlap.

Two groups of long rows (those that no block holds, so that each reads them again) become one where the second reads elements that the first
has, as the gradient of cross-entropy does: nothing that it waits for may wait for the first. What steps of the first make of nothing that the
first makes, such as the weights of characters, is then made before.

Which order. From its first member on, a step joins, or must come before the group, or after: after, if it reads what the group or such a step
writes, or writes into a storage that either reads or writes. Both kinds keep their order; the group stands between them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import prod
from typing import NamedTuple

from assay.exact.steps import Instruction, Step
from assay.exact.views import View, merged, whole

LEAST, COUNT = 16, 8
"""Elements of a row, from which on a warp for each row is worth it, and rows, from which on a launch is."""
LONG, FEW = 4096, 256
"""Rows that are this long, and so few, are shared by many blocks instead (reduce.cu)."""
WINDOW = 24
"""Steps that a member may overtake."""
LOOPED = 8192
"""Elements up to which a kernel holds a row (assay.exact.cuda.rows)."""
MAX_CODE, MAX_VIEWS, MAX_REDUCTIONS = 64, 32, 4
"""Operators, values that are read or written, and maxima and sums of a group: what is kept for later ones takes registers."""


REDUCTIONS = ("sum", "amax", "gather")
"""Steps that make one element of a row."""


class Rows(NamedTuple):
    number: int
    length: int


def whole_rows(root: int, rows: Rows, dtype: str) -> View:
    """All elements of a storage."""
    return View(root, 0, (rows.number, rows.length), (rows.length, 1), dtype)


def one_a_row(root: int, rows: Rows, dtype: str) -> View:
    """A storage of an element for each row."""
    return View(root, 0, (rows.number, rows.length), (1, 0), dtype)


def wide(v: View) -> bool:
    """Whether each element of a row has a value of its own."""
    return v.strides[-1] == 1


def _joined(v: View, dims: Sequence[int], strides: Sequence[int], rows: Rows, inner: int) -> View:
    sizes, (steps,) = merged(dims, strides)
    return View(v.root, v.offset, (*sizes, rows.length), (*steps, inner), v.dtype)


def along(v: View, rows: Rows) -> View | None:
    """A view of R x L elements as rows, or None where the elements of a row lie apart."""
    if v.contiguous and v.elements == rows.number * rows.length:
        return whole_rows(v.root, rows, v.dtype)._replace(offset=v.offset)
    cut = len(v.shape)
    while cut and prod(v.shape[cut:]) < rows.length:
        cut -= 1
    if prod(v.shape[cut:]) != rows.length or prod(v.shape[:cut]) != rows.number:
        return None
    _, (steps,) = merged(v.shape[cut:], v.strides[cut:])
    if len(steps) != 1 or steps[0] not in (0, 1):
        return None
    return _joined(v, v.shape[:cut], v.strides[:cut], rows, steps[0])


def worth(rows: Rows) -> bool:
    """Whether there are rows enough, long enough, for a kernel over them."""
    return rows.length >= LEAST and rows.number >= (FEW if rows.length >= LONG else COUNT)


def reduced(step: Step) -> tuple[Rows, Step] | None:
    """The rows of a maximum or sum over them, and that step with its views as rows; None for other steps."""
    if (step.name, *(v.dtype for v in step.reads)) not in (("sum", "f32"), ("sum", "i64"), ("amax", "f32")):
        return None
    (x,), (out,), (bits, inner, length, rank, *walk) = step.reads, step.writes, step.extra
    if inner != 1 or prod(walk[2 * rank + 1 :]) != 1:
        return None
    rows = Rows(prod(walk[:rank]), length)
    if not worth(rows):
        return None
    read = _joined(x, walk[:rank], walk[rank : 2 * rank], rows, 1)
    return rows, Step(step.name, (read,), (one_a_row(out.root, rows, out.dtype),), (), (bits,))


def indexed(step: Step, rows: Rows) -> Step | None:
    """A gather of one element of each row, or a scatter of one value into each, with its views as rows, or None."""
    if step.name not in ("gather", "scatter_value") or step.writes[0].dtype != "f32" or step.extra[2:6] != (*rows, 1, 1):
        return None
    (x, index), (out,) = step.reads, step.writes
    read, made = along(x, rows), one_a_row if step.name == "gather" else whole_rows
    if read is None or not index.contiguous:
        return None
    at = one_a_row(index.root, rows, index.dtype)._replace(offset=index.offset)
    return Step(step.name, (read, at), (made(out.root, rows, out.dtype),), (), step.extra[6:])


def mapped(step: Step, rows: Rows) -> Step | None:
    """A MAP step over R x L or R elements with its views as rows, or None; so is a copy of one element to all places."""
    (out, *_), code = step.writes, step.code
    if step.name == "copy" and step.reads[0].single and out.dtype == "f32" and out.contiguous and not out.offset and out.elements != rows.number:
        code = (Instruction("copy_4", out.root, "f32", step.reads),)
    if not code or out.elements not in (rows.number, rows.number * rows.length):
        return None
    narrow = out.elements == rows.number
    seen = {v: _joined(v, v.shape, v.strides, rows, 0) if narrow else along(v, rows) for v in step.reads}
    found = {v: w for v, w in seen.items() if w is not None}
    if len(found) < len(seen):
        return None
    made = one_a_row if narrow else whole_rows
    code = tuple(i._replace(operands=tuple(found[o] if isinstance(o, View) else o for o in i.operands)) for i in code)
    return Step(step.name, tuple(found.values()), tuple(made(v.root, rows, v.dtype) for v in step.writes), code)


class _Group:
    """Members of a group so far, and the units that stand between the first and the last."""

    def __init__(self, storage: Callable[[int], int]) -> None:
        self._storage = storage
        self.members: list[int] = []
        self.parts: list[Step] = []
        self.made: dict[int, View] = {}
        self.reads: dict[View, None] = {}
        self.before: list[list[int]] = []
        self.after: list[list[int]] = []
        self._read: set[int] = set()  # storages
        self._written: set[int] = set()
        self._read_after: set[int] = set()
        self._written_after: set[int] = set()

    def pushed(self, reads: Collection[int], writes: Collection[int]) -> bool:
        """Whether storages are read or written that steps after the group have to do with."""
        return not self._written_after.isdisjoint((*reads, *writes)) or not self._read_after.isdisjoint(writes)

    def apart(self, reads: Collection[int], writes: Collection[int]) -> bool:
        """Whether storages have nothing to do with what the group writes, nor are written where it reads."""
        return self._written.isdisjoint((*reads, *writes)) and self._read.isdisjoint(writes)

    def push(self, unit: list[int], reads: Collection[int], writes: Collection[int]) -> None:
        self.after.append(unit)
        self._read_after.update(reads)
        self._written_after.update(writes)

    def joins(self, part: Step) -> bool:
        """Whether a step that does not have to come after the group belongs to it."""
        outside = [v for v in part.reads if v.root not in self.made]
        shared = any(0 not in v.strides and v in self.reads for v in outside)
        return self.takes(part) and (not self.members or shared or len(outside) < len(part.reads))

    def takes(self, part: Step) -> bool:
        """Whether there is room for such a step, and it reads what the group makes as that is."""
        outside = [v for v in part.reads if v.root not in self.made]
        if any(self.made[v.root] != v for v in part.reads if v.root in self.made):
            return False
        if not self.apart([self._storage(v.root) for v in outside], [self._storage(v.root) for v in part.writes]):
            return False
        code = sum(max(1, len(p.code)) for p in (*self.parts, part))
        views = len({*self.reads, *outside}) + len(self.made) + len(part.writes)
        reductions = sum(p.name in REDUCTIONS for p in (*self.parts, part))
        return code <= MAX_CODE and views <= MAX_VIEWS and reductions <= MAX_REDUCTIONS

    def join(self, at: int, part: Step) -> None:
        self.members.append(at)
        self.parts.append(part)
        self.reads |= dict.fromkeys(v for v in part.reads if v.root not in self.made)
        self.made |= {v.root: v for v in part.writes}
        self._read |= {self._storage(v.root) for v in part.reads}
        self._written |= {self._storage(v.root) for v in part.writes}


def _mapping(code: tuple[Instruction, ...], writes: tuple[View, ...]) -> Step:
    return Step("map", tuple(dict.fromkeys(o for i in code for o in i.operands if isinstance(o, View))), writes, code)


class Finder:
    """`storage` is that of a root, `wanted` are roots that are read by more than steps, `barred` steps that must stay by themselves."""

    def __init__(self, steps: Sequence[Step], storage: Callable[[int], int], wanted: Collection[int], barred: Collection[int]) -> None:
        self._steps, self._storage, self._wanted, self._barred = list(steps), storage, wanted, barred
        self._readers: dict[int, set[int]] = {}
        for at, step in enumerate(steps):
            self._read(at, step)
        self._places = [self._touched(step) for step in steps]
        self._units = [[at] for at in range(len(steps))]
        self._groups: dict[tuple[int, ...], Step] = {}

    def fused(self) -> list[Step]:
        """The steps in an order that keeps to what they wait for, groups as one step `rows` (its `parts` are the members, `extra` R and L)."""
        tried: set[int] = set()
        at = 0
        while at < len(self._units):
            unit = self._units[at]
            found = reduced(self._steps[unit[0]]) if len(unit) == 1 and unit[0] not in tried else None
            if found is not None:
                tried.add(unit[0])
                at = self._seeded(at, unit[0], found[0]) or at
            at += 1
        at = 1
        while at < len(self._units):
            at = self._merged(at) or at + 1
        return [self._groups[tuple(unit)] if len(unit) > 1 else self._steps[unit[0]] for unit in self._units]

    def _read(self, at: int, step: Step) -> None:
        for v in step.reads:
            self._readers.setdefault(v.root, set()).add(at)

    def _touched(self, step: Step) -> tuple[set[int], set[int]]:
        return {self._storage(v.root) for v in step.reads}, {self._storage(v.root) for v in step.writes}

    def _long(self, at: int) -> Rows | None:
        """The rows of a unit that is a group of such as no block holds."""
        group = self._groups.get(tuple(self._units[at]))
        return Rows(*group.extra) if group is not None and group.extra[1] > LOOPED else None

    def _merged(self, at: int) -> int | None:
        """Makes one group of a group of long rows and the one before it over the same; returns the number of the unit before all that was moved."""
        rows = self._long(at)
        before = next((n for n in range(at - 1, -1, -1) if rows is not None and self._long(n) == rows), None)
        if rows is None or before is None:
            return None
        first, second = (self._groups[tuple(self._units[n])] for n in (before, at))
        has = {v for v in (*first.reads, *first.writes) if 0 not in v.strides}
        if has.isdisjoint(second.reads):
            return None
        cut = {member: made for member in self._units[before] if (made := self._cut(member, self._units[before])) is not None}
        group = _Group(self._storage)
        for member in self._units[before]:
            part = self._parted(cut[member][1] if member in cut else self._steps[member], rows)
            if part is None or not group.takes(part):
                return None
            group.join(member, part)
        for unit in self._units[before + 1 : at]:
            reads, writes = (set[int]().union(*(self._places[one][k] for one in unit)) for k in (0, 1))
            if group.pushed(reads, writes) or not group.apart(reads, writes):
                group.push(unit, reads, writes)
            else:
                group.before.append(unit)
        for member in self._units[at]:
            part = self._parted(self._steps[member], rows)
            if part is None or group.pushed(*self._places[member]) or not group.takes(part):
                return None
            group.join(member, part)
        early = []
        for member, (sooner, later) in cut.items():
            early.append([len(self._steps)])
            self._steps.append(sooner)
            self._steps[member] = later
            for v in sooner.reads:
                self._readers[v.root].discard(member)
            for one in (early[-1][0], member):
                self._read(one, self._steps[one])
            self._places.append(self._touched(sooner))
            self._places[member] = self._touched(later)
        self._units[before : at + 1] = [*early, *group.before, group.members, *group.after]
        self._groups[tuple(group.members)] = self._step(group, rows)
        return before

    def _cut(self, at: int, members: Collection[int]) -> tuple[Step, Step] | None:
        """A MAP step of a group as two: what waits for no other member, if anything else reads that, and the rest."""
        step = self._steps[at]
        made = {v.root for member in members if member != at for v in self._steps[member].writes}
        sooner: dict[int, Instruction] = {}
        for i in step.code:
            if all(o.root not in made if isinstance(o, View) else o in sooner for o in i.operands):
                sooner[i.result] = i
        later = [i for i in step.code if i.result not in sooner]
        read = {o for i in later for o in i.operands if not isinstance(o, View)}
        if not later or not any(v.root in sooner and not self._readers.get(v.root, set()) <= set(members) for v in step.writes):
            return None
        out = step.writes[0]
        stored = read | {v.root for v in step.writes}
        given = {root: whole(root, (out.elements,), i.dtype) for root, i in sooner.items() if root in stored}
        code = tuple(i._replace(operands=tuple(given.get(o, o) if not isinstance(o, View) else o for o in i.operands)) for i in later)
        return _mapping(tuple(sooner.values()), tuple(given.values())), _mapping(code, tuple(v for v in step.writes if v.root not in sooner))

    def _seeded(self, at: int, seed: int, rows: Rows) -> int | None:
        """Makes the group of a reduction, if there is one; returns the number of the unit before all that was moved."""
        grown = [(start, *self._grown(start, rows)) for start in self._starts(at, rows)]
        able = [(start, group, stop) for start, group, stop in grown if seed in group.members and len(group.members) > 1]
        if able:
            start, group, stop = max(able, key=lambda one: len(one[1].members))  # of several the first
            self._units[start:stop] = [*group.before, group.members, *group.after]
            self._groups[tuple(group.members)] = self._step(group, rows)
            return start - 1
        return None

    def _part(self, unit: list[int], rows: Rows) -> Step | None:
        return None if len(unit) > 1 or unit[0] in self._barred else self._parted(self._steps[unit[0]], rows)

    def _parted(self, step: Step, rows: Rows) -> Step | None:
        found = reduced(step)
        if found is not None:
            return found[1] if found[0] == rows else None
        return indexed(step, rows) or mapped(step, rows)

    def _starts(self, at: int, rows: Rows) -> list[int]:
        """Units that a group may begin with: the reduction, or what it is made of, first things first."""
        roots = {v.root for v in self._steps[self._units[at][0]].reads}
        starts = [at]
        for number in range(at - 1, max(-1, at - 1 - WINDOW), -1):
            part = self._part(self._units[number], rows)
            if part is not None and any(v.root in roots for v in part.writes):
                roots.update(v.root for v in part.reads)
                starts.insert(0, number)
        return starts

    def _grown(self, start: int, rows: Rows) -> tuple[_Group, int]:
        """The group that begins with a unit, and the number of the unit behind its last member."""
        group = _Group(self._storage)
        stop, kept = start + 1, (0, 0)
        for number in range(start, len(self._units)):
            if number - stop >= WINDOW:
                break
            unit = self._units[number]
            reads: set[int] = set().union(*(self._places[at][0] for at in unit))
            writes: set[int] = set().union(*(self._places[at][1] for at in unit))
            part = self._part(unit, rows)
            if group.pushed(reads, writes):
                group.push(unit, reads, writes)
            elif part is not None and group.joins(part):
                group.join(unit[0], part)
                stop, kept = number + 1, (len(group.before), len(group.after))
            elif group.apart(reads, writes):
                group.before.append(unit)
            else:
                group.push(unit, reads, writes)
        group.before, group.after = group.before[: kept[0]], group.after[: kept[1]]
        return group, stop

    def _step(self, group: _Group, rows: Rows) -> Step:
        members = set(group.members)
        writes = [v for v in group.made.values() if v.root in self._wanted or not self._readers.get(v.root, set()) <= members]
        return Step("rows", tuple(group.reads), tuple(writes), (), rows, tuple(group.parts))
