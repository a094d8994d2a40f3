"""Wide values that an attention's kernel by rows hands to the one by columns through memory.

On the way back dq wants dS by rows, dk and dv want dS and P by columns, and a line's scale is that of whole rows, or of whole columns: so both
were made twice, in a kernel each. Where there is room, the first one leaves P and dS in memory, turned, and the second one reads its lines
there: it makes no product, no exponential and no quotient. That is bytes of memory for instructions and for bytes of the level-2 cache
(docs/cuda.md). The values lie there from one kernel to the next, of one layer at a time.

Where the kernel by rows leaves something out (spans.py), it hands on what it makes alone. So the other one's spans must lie within, and what is
left out has to be zero, which the first one looks at for its own digits anyway. A block that has to make its lines as a whole after all says so
in a word of memory, and hands nothing on: then all columns of its product are made as before, by the kernel behind.

A step by rows has a part `hands`: it reads the values and writes the matrices, and the words of its blocks if it leaves something out. A step
by columns has the same turned round, `handed`, with its lines of a block, its ring and its spans as `extra`. The bits are the same: each value is
made once, by the same operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from assay.exact.steps import Step
from assay.exact.table import TensorType
from assay.exact.views import View
from assay.exact.wide import Shape, shape_of

SHARE = 128
"""Matrices that would fill a device's memory."""
UNIT = 64
"""Lines and their elements are multiples of it."""
PARTS = ("hands", "handed")


class Given(NamedTuple):
    """How a kernel by columns makes what it is handed: lines of a block, units of a ring, and its spans (block, begin, end); none: whole lines."""

    lines: int
    ring: int
    spans: tuple[tuple[int, int, int], ...]


class Handed(NamedTuple):
    """What goes from one kernel to the other."""

    values: tuple[View, ...]
    """As rows."""
    matrices: tuple[View, ...]
    """In each product of the batch columns x rows."""
    flags: View | None
    """A word (u32) for each block of the kernel by rows: whether it has handed nothing on."""
    given: Given | None
    """Of the kernel by columns."""


def handed_of(step: Step) -> Handed | None:
    """What a step `attend` hands on, or is handed."""
    part = next((part for part in step.parts if part.name in PARTS), None)
    if part is None:
        return None
    hands = part.name == "hands"
    values, places = (part.reads, part.writes) if hands else (part.writes, part.reads)
    given = None
    if not hands:
        lines, ring, *ends = part.extra
        given = Given(lines, ring, tuple(zip(ends[::3], ends[1::3], ends[2::3], strict=True)))
    return Handed(values, places[: len(values)], next(iter(places[len(values) :]), None), given)


def alike(one: Shape, other: Shape) -> bool:
    """Whether a kernel by rows may hand its values to one by columns, by their sizes."""
    return not one.by_columns and other.by_columns and one[1:] == other[1:] and one.rows % UNIT == 0 and one.length % UNIT == 0


def within(of_columns: Sequence[tuple[int, int, int]], lines: int, of_rows: Sequence[tuple[int, int, int]], rows: int) -> bool:
    """Whether all elements of columns' spans, of blocks of so many lines, are in those of rows."""
    begins, ends = {block: begin for block, begin, _ in of_rows}, {block: end for block, _, end in of_rows}
    return all(
        begins[row // rows] <= block * lines and (block + 1) * lines <= ends[row // rows]
        for block, begin, end in of_columns for row in range(begin, end, rows)
    )  # fmt: skip


Hands = Callable[[Step, Step], tuple[tuple[View, ...], int, Given] | None]
"""Of a step by rows and one by columns: values that the first one can hand on to the other, the words of its blocks (0: none are wanted), and
how the other one makes them."""


def handing(steps: Sequence[Step], made: Callable[[TensorType, bool], View], memory: int, hands: Hands) -> list[Step]:
    """The steps of a plan before values have places, on a device of so many bytes; `made` makes a root."""
    found = list(steps)
    for at, step in enumerate(found):
        if step.name != "attend" or not shape_of(step).by_columns:
            continue
        for before in range(at - 1, -1, -1):
            other = found[before]
            if other.name != "attend" or handed_of(other) is not None or not alike(shape_of(other), shape_of(step)):
                continue
            pair = hands(other, step)
            if pair is None:
                continue
            values, words, given = pair
            each = values[0].elements
            if 4 * each * len(values) > memory // SHARE:
                continue
            places = tuple(made(TensorType(dtype="f32", shape=(each,)), False) for _ in values)
            if words:
                places += (made(TensorType(dtype="u8", shape=(4 * words,)), False),)
            give = Step("hands", values, places)
            take = Step("handed", places, values, (), (given.lines, given.ring, *(n for span in given.spans for n in span)))
            found[before] = other._replace(writes=(*other.writes, *places), parts=(*other.parts, give))
            found[at] = step._replace(reads=(*step.reads, *places), parts=(*step.parts, take))
            break
    return found
