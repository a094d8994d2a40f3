"""Values that are made of the elements of a row, in phases (rows.py): which are made where, which wait in registers, and which are made again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from assay.exact import rows as grouped
from assay.exact.steps import Step
from assay.exact.views import View

WARP, BLOCK, LOOP = 32, 256, 1024
"""Threads for a row."""
HELD = (1, 2, 4, 8, 12, 16, 24, 32)
"""Elements of a row that a thread holds, so that few kernels do for all lengths."""


class Shape(NamedTuple):
    """Threads for a row, and elements that each of them holds (0: what is needed again is read again)."""

    group: int
    held: int
    width: int = 1
    """Neighbouring elements of a thread, behind which come the next one's."""
    full: bool = False
    """None of them is without the others: rows, and parts of rows, are whole multiples of so many."""
    exact: bool = False
    """Rows have as many elements as their threads hold."""
    again: bool = False
    """What is one light operator away from what is held is made again, not held (`Group.light`)."""
    line: bool = False
    """A line of attend.py, of which a warp has units of 64: whole ones, where it is full."""

    @property
    def unit(self) -> int:
        """Elements after which a thread has the next ones."""
        return self.group * self.width

    @property
    def threads(self) -> int:
        """Of a block."""
        return max(self.group, BLOCK)


class Value:
    """What a group reads or makes: an element for each of a row (`wide`), or one a row."""

    def __init__(self, name: str, dtype: str, wide: bool, kernel: str = "", operands: tuple[Value, ...] = ()) -> None:
        self.name, self.dtype, self.wide, self.kernel, self.operands = name, dtype, wide, kernel, operands
        self.repeated = False
        """Read, and the same for several rows: caches have it."""
        self.near = False
        """Read where it is needed, by the element: no register waits for it."""
        self.even = self.even_tops = False
        """What it is read by is a pointer, and a thread's neighbouring elements lie in a multiple of their bytes; so do its columns' magnitudes."""
        self.plane: int | None = None
        """Read of a product's line in shared memory (attend.py): the product's root."""
        self.stays = self.there = False
        """Kept in shared memory for a later group; had from there, not made (kept.py)."""
        self.low = False
        """An exponential of what is at most 0 but for roundings, or NaN."""
        self.whole = False
        """A quotient of an exponential and the sum of all of its row."""
        self.most: Value | None = None
        """Of a sum of exponentials: the maximum that was taken off what they are of. So the largest is 1, or one is a NaN (`top_of_exponentials`)."""
        self.flat: bool = not wide or (bool(operands) and kernel != "scatter_value" and all(o.flat for o in operands))
        """All elements of a row are alike, made of nothing but values of one element a row."""
        self.spike: Value | None = None
        """All elements of a row are alike but for one, which this value names."""
        self.bits = 0
        """What a scatter puts."""
        self.level: int = max((o.level for o in operands), default=0)
        """Phase in which it can be made."""

    @property
    def words(self) -> int:
        return 2 if self.dtype == "i64" else 1

    @property
    def told(self) -> bool:
        """One element a row that no thread has to ask others for: no reduction, or one of what is alike but for one element."""
        return not self.wide and (self.kernel not in REDUCTIONS or self.operands[0].spike is not None)


class Phase:
    """What is done with the elements of a row before a reduction of them is known."""

    def __init__(self) -> None:
        self.stores: list[Value] = []
        """What is stored, or whose largest magnitudes are."""
        self.tops: list[Value] = []
        """Reductions whose first, or only, pass this is."""
        self.sums: list[Value] = []
        """Sums of f32 whose largest magnitude is known."""
        self.made: list[Value] = []
        """Wide values that are read or made here, in order."""
        self.again: list[Value] = []
        """Wide values of earlier phases."""
        self.highs: list[Value] = []
        """Values whose columns' largest magnitudes are wanted, and that are not stored for it."""
        self.puts: list[Value] = []
        """Largest magnitudes of values whose digits are put into shared memory (attend.py)."""


Reduced = Mapping[View, tuple[str, View]]
"""Of values with one element a row: how each was reduced, and of what."""


def reduced(steps: Iterable[Step]) -> Reduced:
    """Those of some steps' parts."""
    return {part.writes[0]: (part.name, part.reads[0]) for step in steps for part in step.parts if part.name in ("amax", "sum")}


class Group:
    """The values of a group and its phases. `puts`: wide values that are wanted as digits. `known`: what others reduced. `hands`: wide values
    that the last phase has to have (handed.py)."""

    def __init__(self, step: Step, puts: Sequence[View] = (), known: Reduced | None = None, hands: Sequence[View] = ()) -> None:
        self.reads = [Value(f"a{k}", v.dtype, grouped.wide(v)) for k, v in enumerate(step.reads)]
        for value, v in zip(self.reads, step.reads, strict=True):
            value.repeated = any(n > 1 and s == 0 for n, s in zip(v.shape, v.strides, strict=True))
        self.values: list[Value] = []
        self.sums: list[Value] = []
        seen = dict(zip(step.reads, self.reads, strict=True))
        self.of = seen
        """The values of views."""
        self._known = {**(known or {}), **reduced([step])}
        for part in step.parts:
            self._take(part, seen)
        for value in self.values:
            self._say(value)
        self.tops = [seen[part.reads[0]] for part in step.parts if part.name == "tops"]
        """Results, of which the largest magnitudes of rows and of columns are written, too (pairs.py), or instead (making.py)."""
        self.highs = [seen[part.reads[0]] for part in step.parts if part.name == "highs"]
        """What is read or made, of which the largest magnitudes of columns are written (assay.exact.columns)."""
        self.writes = [seen[v] for v in step.writes if v in seen]
        self.hands = [seen[v] for v in hands]
        wanted = [Value(f"d{k}", "f32", False, "sum_f32", (seen[v],)) for k, v in enumerate(puts)]
        for value in wanted:
            value.level += 1
        self.phases = [Phase() for _ in range(1 + max(value.level for value in (*self.values, *wanted)))]
        for value in wanted:
            self.phases[value.level - 1].tops.append(value)
            self.phases[value.level].puts.append(value)
        for value in dict.fromkeys((*self.writes, *self.tops)):
            if value.wide:
                self.phases[value.level].stores.append(value)
        for value in self.values:
            if value.kernel in REDUCTIONS and not value.told:
                of_sum = value.kernel == "sum_f32"
                if of_sum:
                    self.phases[value.level - 1].sums.append(value)
                if not of_sum or value.most is None:
                    self.phases[value.level - 1 - of_sum].tops.append(value)
        for value in self.highs:
            self.phases[value.level].highs.append(value)

    def _is(self, name: str, x: Value, y: Value) -> bool:
        """Whether a value is known as the maximum, or the sum, of another one's rows."""
        return any(self.of.get(v) is y and self.of.get(w) is x for v, (kind, w) in self._known.items() if kind == name)

    def _centred(self, z: Value) -> bool:
        """Whether a value is x - m, where m is the maximum of x over the row."""
        return z.kernel == "sub_f32" and self._is("amax", *z.operands)

    def _total(self, s: Value, z: Value) -> bool:
        """Whether s is the sum of exp(z), of all of the row."""
        return s.kernel == "sum_f32" and s.operands[0].kernel == "exp_f32" and s.operands[0].operands[0] is z

    def _say(self, v: Value) -> None:
        """Of exponentials and quotients what their operands are bounded by."""
        x = v.operands[0] if v.operands else v
        if v.kernel == "exp_f32":
            z, *less = x.operands if x.kernel == "sub_f32" else (x,)
            v.low = self._centred(x) or (bool(less) and self._centred(z) and less[0].kernel == "log_f32" and self._total(less[0].operands[0], z))
        v.whole = v.kernel == "div_f32" and x.kernel == "exp_f32" and self._is("sum", *v.operands)

    def _take(self, part: Step, seen: dict[View, Value]) -> None:
        if part.name in ("tops", "highs"):
            return
        if not part.code:
            x, (y,) = part.reads[0], part.writes
            kernel = part.name if part.name == "scatter_value" else f"{part.name}_{x.dtype}"
            value = Value(f"v{len(self.values)}", y.dtype, grouped.wide(y), kernel, tuple(seen[v] for v in part.reads))
            if kernel == "scatter_value":
                value.bits = part.extra[0] & 0xFFFFFFFF
                value.spike = value.operands[1] if value.operands[0].flat else None
            if kernel == "sum_f32" and value.operands[0].kernel == "exp_f32" and self._centred(z := value.operands[0].operands[0]):
                value.most = z.operands[1]
            if kernel in REDUCTIONS and not value.told:
                value.level += 1 + (kernel == "sum_f32" and value.most is None)
            self.values.append(value)
            self.sums += [value] * (kernel == "sum_f32")
            seen[y] = value
            return
        wide = grouped.wide(part.writes[0])
        made: dict[int, Value] = {}
        for i in part.code:
            operands = tuple(seen[o] if isinstance(o, View) else made[o] for o in i.operands)
            value = made[i.result] = Value(f"v{len(self.values)}", i.dtype, wide, i.kernel, operands)
            spikes = {o.spike for o in operands if not o.flat}
            value.spike = spikes.pop() if wide and len(spikes) == 1 else None
            self.values.append(value)
        seen |= {v: made[v.root] for v in part.writes}

    def planned(self, keep: bool, barred: Collection[Value] = ()) -> Group:
        """Says of each phase which wide values it makes, and which it has from earlier ones: with `keep`, all that were read or made, but what caches
        have and what is barred; else none."""
        there: set[Value] = set()

        def need(v: Value, phase: Phase) -> None:
            if v in there:
                phase.again += [v] * (v not in phase.again)
            elif v.wide and v not in phase.made:
                for o in () if v.there or v.spike else v.operands:
                    need(o, phase)
                phase.made.append(v)

        for phase in self.phases:
            phase.made, phase.again = [], []
            handed = self.hands if phase is self.phases[-1] else ()
            for v in (*phase.stores, *phase.highs, *(v.operands[0] for v in (*phase.tops, *phase.sums, *phase.puts)), *handed):
                need(v, phase)
            there |= {v for v in phase.made if not (v.repeated or v.there or v.spike) and v not in barred} if keep else set()
        return self

    def light(self) -> list[Value]:
        """Values that would be held, and are one light operator away from others that are."""
        kept, found = self.planned(True).held(), list[Value]()
        for v in reversed([v for v in self.values if v in kept]):
            if v.kernel.startswith(LIGHT) and all(not o.wide or (o in kept and o not in found) for o in v.operands):
                found.append(v)
        return found

    def held(self) -> set[Value]:
        """Values that wait in registers for a later phase."""
        return {v for phase in self.phases for v in phase.again}

    def words(self) -> int:
        """Registers that a thread needs at most for an element of a row, about."""
        held, most = self.held(), 0
        for at, phase in enumerate(self.phases):
            later = {v for p in self.phases[at:] for v in p.again}
            waiting = {v for p in self.phases[: at + 1] for v in p.made if v in held and (v in later or v in phase.made)}
            most = max(most, sum(v.words for v in waiting | {v for v in phase.made if not (v.kernel or v.near or v.repeated)}))
        return most

    def waiting(self) -> int:
        """The same between phases, where all is read by the element: what a phase makes then takes the place of what nobody wants any more."""
        made = [{v for p in self.phases[:at] for v in p.made} for at in range(len(self.phases))]
        return max(sum(v.words for v in there & {v for p in self.phases[at:] for v in p.again}) for at, there in enumerate(made))


LIGHT = ("add_f32", "sub_f32", "mul_f32", "neg_f32", "abs_f32", "select_4")
"""Operators of one or two instructions."""
REDUCTIONS = ("amax_f32", "sum_f32", "sum_i64")


def held_for(length: int, threads: int, words: int, room: int, width: int = 1) -> int:
    """Elements of a row that each of its threads holds, `width` neighbours at a time, `words` registers for each; 0 where they have not so much
    room."""
    held = next((h for h in HELD if h * threads >= length and h % width == 0), 0)
    return held if held * words <= room else 0


def held_in(group: Group, elements: int, threads: int, room: int) -> int:
    """The same of what later phases need: of as many values as there is room for, the first ones; the others are made again of those. 0 where there
    is not room for one."""
    barred: list[Value] = []
    while True:
        held = held_for(elements, threads, group.planned(True, barred).waiting(), room)
        waiting = [v for phase in group.phases for v in phase.made if v in group.held()]
        if held or not waiting:
            return held
        barred.append(waiting[-1])
