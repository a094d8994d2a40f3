"""How a chain of attend.py reads what is not made in it: parameters of its kernel, and what each input is read by."""

from __future__ import annotations

from typing import NamedTuple

from assay.exact.cuda import groups, rows
from assay.exact.cuda.intervals import Told
from assay.exact.cuda.maps import TYPES
from assay.exact.cuda.operands import Axis
from assay.exact.cuda.spans import split
from assay.exact.cuda.streamed import Of, Walk
from assay.exact.views import View
from assay.exact.wide import Shape


class Table(NamedTuple):
    """The address of words as an argument."""

    words: tuple[int, ...]


class Flags(NamedTuple):
    """The address of a word for each block as an argument: whether its lines have to be made as a whole."""

    blocks: int


Argument = int | View | Walk | Table | Flags | Of | None
"""None: the counter of wrong checksums."""


class Reader:
    """Parameters and arguments of a kernel, in the same order, for blocks of so many lines."""

    def __init__(self, shape: Shape, lines: int) -> None:
        self.shape, self._lines = shape, lines
        self.parameters: list[str] = []
        self.arguments: list[Argument] = []
        self.views: dict[View, str] = {}
        self.planes: dict[int, str] = {}
        """Names of the lines in shared memory, by the roots of products."""
        self.told: dict[View, Told] = {}
        self.partial = False
        """Whether lines are made from `from` on."""

    def parameter(self, kind: str, stem: str, argument: Argument) -> str:
        name = f"{stem}{len(self.parameters)}"
        self.parameters.append(f"{kind}{name}")
        self.arguments.append(argument)
        return name

    def address(self, v: View, written: bool = False) -> str:
        if v not in self.views:
            kind = f"{TYPES[v.dtype]} *__restrict__ "
            self.views[v] = self.parameter(kind if written else f"const {kind}", "x", v)
        return self.views[v]

    def offset(self, walk: Walk) -> str:
        """C++ for what lies along a walk over the batch at product z."""
        if len(walk.dims) == 1:
            return "(i64)z" if walk.strides == (1,) else f"(i64)z * {self.parameter('i64 ', 'j', walk.strides[0])}"
        return f"{self.parameter('const i64 *', 'w', Table(tuple(Axis(walk.dims, walk.strides).offsets().tolist())))}[z]"

    def _even(self, v: View) -> bool:
        """Whether two elements along a line, from an even one on, lie side by side in a multiple of their bytes."""
        if v.offset % 2:
            return False
        if not self.shape.by_columns:
            return v.strides[-1] == 1 and all(step % 2 == 0 for n, step in zip(v.shape[:-1], v.strides, strict=False) if n > 1)
        places = split(v, self.shape)
        return v.strides[-1] == 0 and places is not None and places.rows.strides == (1,) and all(step % 2 == 0 for step in places.batch.strides)

    def reading(self, value: groups.Value, v: View) -> list[str]:
        """Declares what an input is read by: `p` and its name for the elements of a line, its name alone for one a line."""
        kind, further = TYPES[v.dtype], " + from" if self.partial else ""
        value.even = v.root in self.planes or (v not in self.told and self._even(v))
        if v.root in self.planes:
            return [f"const float *p{value.name} = {self.planes[v.root]} + warp * pitch{further};"]
        if value.wide and v in self.told:
            return self._telling(value, self.told[v])
        address = self.address(v)
        if not self.shape.by_columns:
            start = rows.start(v, self.shape.all_rows)
            if not start:
                walk = rows.row_walk(v, self.shape.all_rows)
                assert walk is not None
                start = f"offset_of({self.parameter('const i64 *', 'w', Walk(*walk))}, r)"
            place = f"*p{value.name} = {address} + {start}{further}" if value.wide else f"{value.name} = {address}[{start}]"
            return [f"const {kind} {place};"]
        if v.single:
            return [f"const {kind} {value.name} = {address}[0];"]
        places = split(v, self.shape)
        assert places is not None
        column = " + first + warp" if v.strides[-1] else ""
        base = f"{address} + {self.offset(places.batch)}{column}"
        if places.rows.strides == (1,):
            return [f"const {kind} *p{value.name} = {base}{further};"]
        if len(places.rows.dims) == 1:
            step = self.parameter("i64 ", "j", places.rows.strides[0])
            return [f"const Along<{kind}> p{value.name} = {{{base}{f'{further} * {step}' if further else ''}, {step}}};"]
        along = self.parameter("const i64 *", "w", places.rows)
        return [f"const Walked<{kind}> p{value.name} = {{{base}, {along}, {'from' if further else '0u'}}};"]

    def _telling(self, value: groups.Value, mask: Told) -> list[str]:
        """A mask that is no memory, of lines up to a whole number of blocks."""
        kind, lines = TYPES[value.dtype], -(-self.shape.lines // self._lines) * self._lines
        ends = self.parameter("const i64 *", "l", Table(mask.ends + (0,) * (2 * lines - len(mask.ends))))
        begin = f"(u32){ends}[2 * (first + warp)]"
        either = [f"of_bits({bits:#x}u)" if value.dtype == "f32" else str(bits) for bits in (mask.inside, mask.outside)]
        from_ = " - from" if self.partial else ""
        if (side := mask.side(self.shape.elements)) is not None:
            cut = f"(int)((u32){ends}[2 * (first + warp) + {1 - side}]{from_})"
            return [f"const Cut<{kind}> p{value.name} = {{{cut}, {either[side]}, {either[1 - side]}}};"]
        size = f"(u32){ends}[2 * (first + warp) + 1] - {begin}"
        return [f"const Told<{kind}> p{value.name} = {{{begin}{from_}, {size}, {', '.join(either)}}};"]
