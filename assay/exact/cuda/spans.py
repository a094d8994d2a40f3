"""Which elements of its lines a block of attend.py makes: what a mask that is a constant empties for all of them is left out.

A chain is followed for an element that is masked, where the mask has one value (*left out*). Of its other values there
    the same     is a function of constants and of what has one element a row, and of nothing else, not even a NaN: max(-inf), exp(-inf - max);
    near         is the same but for a zero's sign: what is bounded, times such a value that is zero;
    bounded      is at most 2^exponent: an element of a product, say, as long as its operands are (`bounded` in attend.cuh);
    anything.
A kernel makes the values that are the same or near once a line, since elements that are left out are alike. A maximum takes that one, a sum as many
times as elements are left out, and it has to be zero where digits are made. So lines have the bits that they would have in full. What is said here of
values has conditions: where operands are not bounded, or what has to be zero is not, the block's lines are made as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.cuda import groups
from assay.exact.cuda.maps import TYPES
from assay.exact.cuda.operands import Axis, axis
from assay.exact.cuda.streamed import Walk
from assay.exact.steps import Step
from assay.exact.views import View
from assay.exact.wide import Shape

Array = NDArray[Any]
Known = Callable[[int], Array | None]
"""The value of a root that is a constant."""
UNIT = 64
"""Elements that begin and end a span."""
WORTH = 0.9
"""Of all elements, that spans may have at most to be worth a kernel that knows them."""
PRODUCT, SMALL = 59, 60
"""Exponents: of products that attend.cuh calls bounded, of values with one element a row that meet what is bounded."""
LARGEST = 127
ABSORBED = 26
"""x + y = y where |y| is so many powers of two larger: less than half of y's last place, even below a power of two."""


class Split(NamedTuple):
    """Where the elements of a view of rows lie: the walk over the batch, and that over a product's rows."""

    batch: Walk
    rows: Walk


def split(v: View, shape: Shape) -> Split | None:
    """None where the view's dimensions cross the border between the two."""
    batch: list[tuple[int, int]] = []
    left, rest = shape.batch, list(zip(v.shape[:-1], v.strides[:-1], strict=True))
    while left > 1:
        n, step = rest.pop(0)
        if n <= left and left % n == 0:
            batch.append((n, step))
            left //= n
        elif n % left == 0:
            batch.append((left, step * (n // left)))
            rest.insert(0, (n // left, step))
            left = 1
        else:
            return None

    def walk(places: Sequence[tuple[int, int]]) -> Walk:
        found = axis([n for n, _ in places] or [1], [step for _, step in places] or [0])
        return Walk(found.dims, found.steps)

    return Split(walk(batch), walk(rest))


class What(NamedTuple):
    """What is known of a value at an element that is left out."""

    kind: Literal["same", "near", "bounded", "anything"]
    constant: Any = None
    """Of a value that is the same: what it is (a scalar of NumPy), if that is known now."""
    exponent: int = 0
    of_mask: bool = False
    """Whether the mask decides what it is."""

    @property
    def told(self) -> bool:
        return self.kind in ("same", "near")


ANYTHING = What("anything")


def _bounded(exponent: int) -> What:
    return What("bounded", exponent=exponent) if exponent <= LARGEST else ANYTHING


def exponent_of(x: np.generic | Array) -> int:
    """The least e with |x| < 2^e, of finite x."""
    return int(np.frexp(np.abs(x).max())[1])


def _finite(x: np.generic | Array) -> bool:
    return bool(np.isfinite(x).all())


class Left:
    """What is left out of the lines of a group (rows.py), if that is allowed. `what` says of what the group reads."""

    def __init__(self, group: groups.Group, what: Callable[[groups.Value], What], by_columns: bool) -> None:
        self._what: dict[groups.Value, What] = {v: what(v) for v in group.reads}
        self._zero: set[groups.Value] = set()
        self._small: set[groups.Value] = set()
        self._by_columns = by_columns
        for v in group.values:
            self._what[v] = self._of(v)
        self.allowed = self._wanted(group)
        self._order = [*group.reads, *group.values]

    # ---- what is known

    def _of(self, v: groups.Value) -> What:
        if not v.wide:
            return What("same")
        given = [self._what[o] for o in v.operands]
        constants = [w.constant for w in given]
        name, _, kind = v.kernel.rpartition("_")
        if all(w.kind == "same" for w in given):
            known: Any = None
            if kind == "f32" and name in reference.MAP and all(c is not None for c in constants):
                known = reference.apply(name, {}, [np.asarray(c) for c in constants], v.dtype, 0)[()]
            elif v.kernel == "copy_4":
                known = constants[0]
            elif v.kernel == "select_4" and constants[0] is not None:
                known = constants[1 if constants[0] else 2]
            return What("same", known, of_mask=any(w.of_mask for w in given))
        match name:
            case "add" | "sub" | "mul" if all(w.told for w in given):
                return What("near", of_mask=True)
            case "add" | "sub" | "mul" if any(w.kind == "anything" for w in given):
                return ANYTHING
            case "add" | "sub":
                return self._sum(v, given)
            case "mul":
                return self._product(v, given)
            case "div" if given[1].kind == "same":
                return self._quotient(given)
            case "neg" | "abs" | "copy":
                return given[0]
            case "select":
                return self._selected(v, given)
            case "u8_to":
                return _bounded(8) if kind == "f32" else ANYTHING
        return ANYTHING

    def _sum(self, v: groups.Value, given: Sequence[What]) -> What:
        for turn, (w, other) in enumerate(zip(given, reversed(given), strict=True)):
            if w.constant is not None and (not _finite(w.constant) or exponent_of(w.constant) > other.exponent + ABSORBED):
                sign = np.float32(-1 if v.kernel == "sub_f32" and turn else 1)
                return What("same", sign * w.constant, of_mask=True)
        return _bounded(1 + max(self._most(o, w) for o, w in zip(v.operands, given, strict=True)))

    def _most(self, o: groups.Value, w: What) -> int:
        """The exponent of a value that is not anything."""
        if w.kind == "bounded":
            return w.exponent
        if w.constant is not None:
            return exponent_of(w.constant) if _finite(w.constant) else LARGEST + 1
        self._small.add(o)
        return SMALL

    def _product(self, v: groups.Value, given: Sequence[What]) -> What:
        for o, w in zip(v.operands, given, strict=True):
            if w.told and (w.of_mask if w.constant is None else w.constant == 0):
                self._zero.add(o)
                return What("near", of_mask=True)
        return _bounded(sum(self._most(o, w) for o, w in zip(v.operands, given, strict=True)))

    def _quotient(self, given: Sequence[What]) -> What:
        x, y = given
        if x.kind != "bounded":
            return x
        fits = y.constant is not None and _finite(y.constant) and y.constant != 0
        return _bounded(x.exponent - exponent_of(y.constant) + 1) if fits else ANYTHING

    def _selected(self, v: groups.Value, given: Sequence[What]) -> What:
        condition, *both = given
        if condition.constant is not None:
            one = both[0 if condition.constant else 1]
            return one._replace(of_mask=one.of_mask or condition.of_mask)
        if all(w.told for w in both):
            if condition.kind != "same":
                self._zero.update(v.operands[1:])
            return What("near", of_mask=True)
        if any(w.kind == "anything" or (w.told and (w.constant is None or not _finite(w.constant))) for w in both):
            return ANYTHING
        return _bounded(max(w.exponent if w.constant is None else exponent_of(w.constant) for w in both))

    def _wanted(self, group: groups.Group) -> bool:
        """Whether all that is made of whole lines can be made of a part of them."""
        for phase in group.phases:
            if any(v.wide for v in phase.stores):
                return False
            for v in phase.tops:
                w = self._what[v.operands[0]]
                if v.kernel not in ("amax_f32", "sum_f32") or not w.told or (v.kernel == "amax_f32" and w.kind != "same"):
                    return False
            self._zero.update(v.operands[0] for v in phase.puts)
        self._zero.update(group.hands)
        for v in self._zero:
            c = self._what[v].constant
            if not self._what[v].told or (c is not None and c != 0):
                return False
        return True

    # ---- as C++

    def of(self, v: groups.Value) -> str:
        """A value that is told, at the elements of a row that are left out; empty where lines are columns, which reduce nothing."""
        return "" if self._by_columns else self._name(v)

    def _name(self, v: groups.Value) -> str:
        w = self._what[v]
        if w.constant is not None and v.dtype == "f32":
            return f"of_bits({np.float32(w.constant).view(np.uint32):#x}u)"
        if w.constant is not None:
            return f"({TYPES[v.dtype]}){int(w.constant) % (1 << 64):#x}ull"
        if w.told:
            return f"m{v.name}" if v.wide else v.name
        return f"({TYPES[v.dtype]})0"

    def _needed(self, wanted: set[groups.Value]) -> Iterator[tuple[groups.Value, str]]:
        """What has to be made, operands first, for some values, and of what."""
        every = set[groups.Value]()

        def need(v: groups.Value) -> None:
            w = self._what[v]
            if v in every or not v.wide or not w.told or w.constant is not None:
                return
            every.add(v)
            for o in v.operands:
                need(o)

        for v in wanted:
            need(v)
        for v in self._order:
            if v in every:
                yield v, f"{v.kernel}({', '.join(self._name(o) for o in v.operands)})" if v.kernel else f"p{v.name}[(int)(e - from)]"

    def _conditions(self, zero: set[groups.Value], small: set[groups.Value]) -> list[str]:
        made = [f"{self._name(v)} == 0.0f" for v in self._order if v in zero and self._what[v].constant is None]
        return made + [f"field_of(magnitude({self._name(v)})) < {127 + SMALL}u" for v in self._order if v in small]

    def lines(self, group: groups.Group, at: int) -> list[str]:
        """What phase `at` of a row makes of what is left out, and what has to be true of that."""
        if self._by_columns:
            return []
        phase, last = group.phases[at], at == len(group.phases) - 1

        def until(values: set[groups.Value], level: int) -> set[groups.Value]:
            return {v for v in values if v.level <= level}

        now = {v.operands[0] for v in (*phase.tops, *phase.sums, *phase.puts)}
        checked = [{v for v in values if v.level == at or (last and v.level > at)} for values in (self._zero, self._small)]
        before = set().union(*(until({p.operands[0] for p in (*f.tops, *f.sums, *f.puts)}, n) | until(self._zero | self._small, n)
                               for n, f in enumerate(group.phases[:at])))  # fmt: skip
        there = {v for v, _ in self._needed(before)}
        out = [f"const {TYPES[v.dtype]} m{v.name} = {text};" for v, text in self._needed(now | checked[0] | checked[1]) if v not in there]
        conditions = self._conditions(*checked)
        return [*out, *([f"fits = fits && (!left || ({' && '.join(conditions)}));"] if conditions else [])]

    def by_columns(self) -> list[str]:
        """For all threads of a block: what has to be true of each row that is left out, `p` and a name being what reads it."""
        made = [f"const {TYPES[v.dtype]} m{v.name} = {text};" for v, text in self._needed(self._zero | self._small)]
        conditions = " && ".join(self._conditions(self._zero, self._small)) or "true"
        return ["for (u32 e = threadIdx.x; e < n; e += blockDim.x) {", "    if (e - from < some) continue;", *(f"    {line}" for line in made),
                f"    fits = fits && {conditions};", "}"]  # fmt: skip


class Zeros:
    """As Left, of what is zero where it is left out, as somebody else has seen to (handed.py)."""

    def of(self, v: groups.Value) -> str:
        return ""

    def lines(self, group: groups.Group, at: int) -> list[str]:
        return []

    by_columns = staticmethod(list[str])


class Spans(NamedTuple):
    """Of the blocks of each product of a batch: (block, begin, end), those with the most elements first."""

    blocks: tuple[tuple[int, int, int], ...]
    left: tuple[Left | Zeros, ...]
    """Of each section."""

    @property
    def elements(self) -> int:
        return sum(end - begin for _, begin, end in self.blocks)


class Section(NamedTuple):
    """A chain that a block's warps make, also as a step over rows."""

    group: groups.Group
    step: Step


def spans_of(sections: Sequence[Section], planes: frozenset[int], shape: Shape, lines: int, known: Known) -> Spans | None:
    """The best there are, or None where no mask leaves enough out. `planes`: roots of products that are made on the chip."""
    best: Spans | None = None
    for v in dict.fromkeys(v for section in sections for v in section.step.reads):
        array = known(v.root)
        if array is None or v.strides[-1] == 0 or v.single or v.dtype not in ("bool", "f32") or shape.elements <= UNIT:
            continue
        for value in _values(array):
            left = tuple(_left(section, v, value, planes, shape, known) for section in sections)
            if not all(one.allowed for one in left):
                continue
            found = _ranges(v, array, value, shape, lines)
            if found and (best is None or sum(e - b for _, b, e in found) < best.elements):
                best = Spans(found, left)
    return best


def _values(array: Array) -> list[np.generic]:
    """What a mask may have where it masks."""
    if array.dtype == np.bool_:
        return [np.bool_(False), np.bool_(True)]
    return list(dict.fromkeys((array.min(), array.max(), np.float32(0))))


def _left(section: Section, mask: View, value: np.generic, planes: frozenset[int], shape: Shape, known: Known) -> Left:
    views = dict(zip(section.group.reads, section.step.reads, strict=True))

    def what(value_of: groups.Value) -> What:
        v = views[value_of]
        array = known(v.root)
        if v == mask:
            return What("same", value, of_mask=True)
        if v.root in planes:
            return _bounded(PRODUCT)
        if array is not None and v.single:
            return What("same", array.reshape(-1)[v.offset])
        if v.strides[-1] == 0:
            return What("same")
        return _bounded(exponent_of(array)) if array is not None and v.dtype == "f32" and _finite(array) else ANYTHING

    return Left(section.group, what, shape.by_columns)


def _ranges(v: View, array: Array, value: np.generic, shape: Shape, lines: int) -> tuple[tuple[int, int, int], ...]:
    """Spans outside which a mask has a value for all lines of a block, of all products of the batch; none if they are not worth it."""
    places = split(v, shape)
    if places is None:
        return ()
    flat, bits = array.reshape(-1)[v.offset :], np.dtype(array.dtype.str.replace("f", "u")) if array.dtype != np.bool_ else array.dtype
    flat, wanted = flat.view(bits), np.asarray(value).view(bits)[()]
    batches, of_rows = (Axis(walk.dims, walk.strides).offsets() for walk in (places.batch, places.rows))
    kept = np.zeros((shape.rows, shape.length), np.bool_)
    for start in np.unique(batches):
        for at in range(0, shape.rows, 256):
            index = start + of_rows[at : at + 256, None] + np.arange(shape.length)
            kept[at : at + 256] |= flat[index] != wanted
    turned = kept.T if shape.by_columns else kept
    n, out = shape.elements, list[tuple[int, int, int]]()
    for block in range(-(-shape.lines // lines)):
        some = np.flatnonzero(turned[block * lines : (block + 1) * lines].any(0))
        begin, end = (int(some[0]) // UNIT * UNIT, min(n, (int(some[-1]) // UNIT + 1) * UNIT)) if len(some) else (0, min(n, UNIT))
        out.append((block, begin, end))
    if sum(end - begin for _, begin, end in out) > WORTH * n * len(out):
        return ()
    return tuple(sorted(out, key=lambda span: span[1] - span[2]))
