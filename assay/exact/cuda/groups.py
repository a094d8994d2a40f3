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
    twos: bool = False
    """A warp's thread has two neighbouring elements of each 64 (attend.py); else the threads' elements alternate."""
    full: bool = False
    """By twos: all rows, and all parts of rows, are whole multiples of 64 elements."""

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
        self.even = False
        """What it is read by is a pointer, and two elements from an even one on lie in a multiple of their bytes."""
        self.plane: int | None = None
        """Read of a product's line in shared memory (attend.py): the product's root."""
        self.stays = self.there = False
        """Kept in shared memory for a later group; had from there, not made (kept.py)."""
        self.low = False
        """An exponential of what is at most 0, or NaN."""
        self.whole = False
        """A quotient of an exponential and the sum of all of its row."""
        self.bits = 0
        """What a scatter puts."""
        self.level: int = max((o.level for o in operands), default=0)
        """Phase in which it can be made."""

    @property
    def words(self) -> int:
        return 2 if self.dtype == "i64" else 1


class Phase:
    """What is done with the elements of a row before a reduction of them is known."""

    def __init__(self) -> None:
        self.stores: list[Value] = []
        """What is stored, or whose largest magnitudes are."""
        self.tops: list[Value] = []
        """Reductions whose first, or only, pass this is."""
        self.sums: list[Value] = []
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
    """The values of a group and its phases. `puts`: wide values that are wanted as digits. `known`: what others reduced."""

    def __init__(self, step: Step, puts: Sequence[View] = (), known: Reduced | None = None) -> None:
        self.reads = [Value(f"a{k}", v.dtype, grouped.wide(v)) for k, v in enumerate(step.reads)]
        for value, v in zip(self.reads, step.reads, strict=True):
            value.repeated = any(n > 1 and s == 0 for n, s in zip(v.shape, v.strides, strict=True))
        self.values: list[Value] = []
        self.sums: list[Value] = []
        seen = dict(zip(step.reads, self.reads, strict=True))
        for part in step.parts:
            self._take(part, seen)
        self.of = seen
        """The values of views."""
        self._say({**(known or {}), **reduced([step])})
        self.tops = [seen[part.reads[0]] for part in step.parts if part.name == "tops"]
        """Results, of which the largest magnitudes of rows and of columns are written, too (pairs.py), or instead (making.py)."""
        self.highs = [seen[part.reads[0]] for part in step.parts if part.name == "highs"]
        """What is read or made, of which the largest magnitudes of columns are written (assay.exact.columns)."""
        self.writes = [seen[v] for v in step.writes if v in seen]
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
            if value.kernel in REDUCTIONS:
                self.phases[value.level - (2 if value.kernel == "sum_f32" else 1)].tops.append(value)
        for value in self.sums:
            self.phases[value.level - 1].sums.append(value)
        for value in self.highs:
            self.phases[value.level].highs.append(value)

    def _say(self, known: Reduced) -> None:
        """Of exponentials and quotients what their operands are bounded by."""
        of: dict[tuple[Value, ...], str] = {(self.of[x], self.of[y]): name for y, (name, x) in known.items() if x in self.of and y in self.of}
        for v in self.values:
            x = v.operands[0] if v.operands else v
            v.low = v.kernel == "exp_f32" and x.kernel == "sub_f32" and of.get(x.operands[:2]) == "amax"
            v.whole = v.kernel == "div_f32" and x.kernel == "exp_f32" and of.get(v.operands[:2]) == "sum"

    def _take(self, part: Step, seen: dict[View, Value]) -> None:
        if part.name in ("tops", "highs"):
            return
        if not part.code:
            x, (y,) = part.reads[0], part.writes
            kernel = part.name if part.name == "scatter_value" else f"{part.name}_{x.dtype}"
            value = Value(f"v{len(self.values)}", y.dtype, grouped.wide(y), kernel, tuple(seen[v] for v in part.reads))
            if kernel == "scatter_value":
                value.bits = part.extra[0] & 0xFFFFFFFF
            value.level += {"sum_f32": 2}.get(kernel, int(kernel in REDUCTIONS))
            self.values.append(value)
            self.sums += [value] * (kernel == "sum_f32")
            seen[y] = value
            return
        wide = grouped.wide(part.writes[0])
        made: dict[int, Value] = {}
        for i in part.code:
            operands = tuple(seen[o] if isinstance(o, View) else made[o] for o in i.operands)
            made[i.result] = Value(f"v{len(self.values)}", i.dtype, wide, i.kernel, operands)
            self.values.append(made[i.result])
        seen |= {v: made[v.root] for v in part.writes}

    def planned(self, keep: bool, barred: Collection[Value] = ()) -> Group:
        """Says of each phase which wide values it makes, and which it has from earlier ones: with `keep`, all that were read or made, but what caches
        have and what is barred; else none."""
        there: set[Value] = set()

        def need(v: Value, phase: Phase) -> None:
            if v in there:
                phase.again += [v] * (v not in phase.again)
            elif v.wide and v not in phase.made:
                for o in () if v.there else v.operands:
                    need(o, phase)
                phase.made.append(v)

        for phase in self.phases:
            phase.made, phase.again = [], []
            for v in (*phase.stores, *phase.highs, *(v.operands[0] for v in (*phase.tops, *phase.sums, *phase.puts))):
                need(v, phase)
            there |= {v for v in phase.made if not (v.repeated or v.there) and v not in barred} if keep else set()
        return self

    def held(self) -> set[Value]:
        """Values that wait in registers for a later phase."""
        return {v for phase in self.phases for v in phase.again}

    def words(self) -> int:
        """Registers that a thread needs at most for an element of a row, about."""
        held, most = self.held(), 0
        for at, phase in enumerate(self.phases):
            later = {v for p in self.phases[at:] for v in p.again}
            waiting = {v for p in self.phases[: at + 1] for v in p.made if v in held and (v in later or v in phase.made)}
            most = max(most, sum(v.words for v in waiting | {v for v in phase.made if not v.kernel and not v.near}))
        return most

    def waiting(self) -> int:
        """The same between phases, where all is read by the element: what a phase makes then takes the place of what nobody wants any more."""
        made = [{v for p in self.phases[:at] for v in p.made} for at in range(len(self.phases))]
        return max(sum(v.words for v in there & {v for p in self.phases[at:] for v in p.again}) for at, there in enumerate(made))


REDUCTIONS = ("amax_f32", "sum_f32", "sum_i64", "gather_f32")


def held_for(length: int, threads: int, words: int, room: int) -> int:
    """Elements of a row that each of its threads holds, `words` registers for each; 0 where they have not so much room."""
    held = next((h for h in HELD if h * threads >= length), 0)
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
