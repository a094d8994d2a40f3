"""Steps `attend` (assay.exact.attention) as CUDA C++: wide values that are made and read on the chip.

A block of threads has BR lines (rows, or columns) of one product of the batch, a warp for each. It makes whole lines of the products that its chain
reads, in shared memory; its warps then make the chain's values as a kernel of rows does (rows.py), and of those that a product reads the scale and
the digits, which the block multiplies. A line's scale is its largest magnitude, so all of a line has to be there first. The other operands
stream from the level-2 cache: they are packed once for all kernels that follow each other (streamed.py).

Where lines are columns, what has one element a row varies along a line, and what lies by rows in memory is read across them.

Where a mask that is a constant empties the same elements of all lines of a block, the block makes its lines without them (spans.py). If it finds that
an element left out could count for something, it says so, and a kernel behind it makes those blocks' lines as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from assay.exact.cuda import groups
from assay.exact.cuda.blocks import Room, before, room
from assay.exact.cuda.device import Description, Launch
from assay.exact.cuda.handed import Given, handed_of, handing, within
from assay.exact.cuda.maps import Kernels, MapText
from assay.exact.cuda.reading import Argument, Flags, Table
from assay.exact.cuda.spans import Known, split
from assay.exact.cuda.streamed import Of, Packed, Packs, Walk, packing, sides_of
from assay.exact.cuda.tiles import LEAST_SHARED, SHARED, Digits, digits
from assay.exact.cuda.writer import Attend, Writer, bits_of, chain, products
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.exact.table import TensorType
from assay.exact.views import View
from assay.exact.wide import shape_of

WAYS: tuple[tuple[int, int], ...] = ((16, 3), (16, 2), (8, 3), (8, 2))
"""Lines of a block and units of a warp's ring, the best ones first."""
MOST = 8192
"""As in attend.cuh: elements of a line."""


def streams(step: Step) -> tuple[list[Packed], list[Packed]]:
    """What streams by every block, for each product that has it as an operand: along lanes in those that make lines, along k in those that read
    them."""
    makers, uses = products(step)
    made, handed = {v.root for part in step.parts for v in part.writes}, handed_of(step)
    if handed is not None and handed.given is not None:
        makers = []
    along_lanes = [sides_of(step, part)[not shape_of(step).by_columns][0] for part in makers]
    return along_lanes, [next(packed for packed, _ in sides_of(step, part) if packed.view.root not in made) for part in uses]


def room_of(step: Step, description: Description) -> Room | None:
    """None where a step's kernel does not fit the device."""
    shape = shape_of(step)
    if shape.elements > MOST or (shape.by_columns and any(split(v, shape) is None for p in chain(step) for v in p.reads if not v.single)):
        return None
    return _fitting(step, len(products(step)[0]), description)


def _fitting(step: Step, planes: int, description: Description, only: int = 0) -> Room | None:
    """For blocks of so many planes, and of `only` so many lines, if any number is said."""
    _, uses = products(step)
    how, elements = digits(bits_of(step)), shape_of(step).elements
    rooms = (room(planes, bool(uses), elements, lines, ring, how) for lines, ring in WAYS if only in (0, lines))
    return next((found for found in rooms if found.shared <= SHARED.get(description.arch, LEAST_SHARED)), None)


class Attending(NamedTuple):
    """What Plan asks about steps `attend` (assay.exact.plan.Attention)."""

    description: Description

    def takes(self, step: Step) -> bool:
        return room_of(step, self.description) is not None

    def handed(self, steps: Sequence[Step], made: Callable[[TensorType, bool], View], known: Known) -> list[Step]:
        reduced = groups.reduced(one for one in steps if one.name == "attend")
        return handing(steps, made, self.description.memory, lambda rows, columns: self._hands(rows, columns, known, reduced))

    def _hands(self, rows: Step, columns: Step, known: Known, reduced: groups.Reduced) -> tuple[tuple[View, ...], int, Given] | None:
        of_rows, of_columns = room_of(rows, self.description), room_of(columns, self.description)
        assert of_rows is not None
        assert of_columns is not None
        to = Writer(columns, of_columns, known, reduced)
        values, made = tuple(to.puts()), {v for part in chain(rows) for v in part.writes}
        found = _fitting(columns, len(values), self.description, of_columns.lines)
        if found is None or not made.issuperset(values):
            return None
        of = Writer(rows, of_rows, known, reduced, hands=values)
        if not of.lasting() or (of.spans is None) != (to.spans is None):
            return None
        if of.spans is None or to.spans is None:
            return values, 0, Given(found.lines, found.ring, ())
        inside = within(to.spans.blocks, found.lines, of.spans.blocks, of_rows.lines)
        return (values, len(of.spans.blocks) * of.shape.batch, Given(found.lines, found.ring, to.spans.blocks)) if inside else None


def taking(description: Description) -> Attending:
    return Attending(description)


def attend(step: Step, description: Description, plan: Plan) -> Attend:
    """The kernel of a step of a plan that the device takes."""
    found, reduced = room_of(step, description), groups.reduced(one for one in plan.steps if one.name == "attend")
    assert found is not None
    handed, own = handed_of(step), found
    if handed is not None and handed.given is not None:
        own = room(len(handed.values), True, shape_of(step).elements, handed.given.lines, handed.given.ring, digits(bits_of(step)))
    made = Writer(step, own, plan.known, reduced).written()
    if made.spans is None:
        return made
    whole = Writer(step, found, None, reduced, description.processors).written()
    return made._replace(whole=whole, packed=tuple(dict.fromkeys((*made.packed, *whole.packed))))  # whole lines may want what the others were handed


def launches(
    made: Attend, kernels: Kernels, fresh: Sequence[Packed], places: Mapping[Packed, Mapping[str, int]], products: Packs, at: Callable[[View], int],
    words: Callable[[Walk | Table], int], scratch: int, flags: int, table: Callable[[Sequence[Sequence[int]]], int],
) -> list[Launch]:  # fmt: skip
    """What packs the operands that are not there yet, and the kernel, with the one behind it. `at` and `words` give addresses; `places`, and `flags`
    of four bytes a block, are offsets from `scratch`; `table` gives the address of rows of words."""

    def word(a: Argument) -> int:
        if isinstance(a, Of):
            return scratch + places[a.packed][a.part]
        if isinstance(a, Flags):
            return scratch + flags
        return words(a) if isinstance(a, Walk | Table) else at(a) if isinstance(a, View) else products.faults.address if a is None else a

    each = [made] if made.whole is None else [made, made.whole]
    return [
        *packing(fresh, places, made.how, products, at, scratch, table),
        *(Launch(kernels[one.text.name], (one.blocks, 1, 1), (one.threads, 1, 1), tuple(map(word, one.arguments)), one.shared) for one in each),
    ]


def kernels(plans: Iterable[Plan], description: Description) -> list[Attend]:
    """Those of all steps of some plans."""
    return [attend(step, description, plan) for plan in plans for step in plan.steps if step.name == "attend"]


def compiled(kernels: Kernels, made: Iterable[Attend]) -> None:
    """Compiles those that are not there yet."""
    found: dict[tuple[Digits, int], list[MapText]] = {}
    for one in made:
        for each in (one, one.whole):
            if each is not None:
                found.setdefault((each.how, each.ring), []).append(each.text)
    for (how, ring), texts in found.items():
        kernels.compile(texts, before(how, ring))
