"""Operands of products that a kernel of attend.py streams, or has lines of: what of them is packed where in scratch memory, once for all kernels that
follow each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from assay.exact.cuda.device import Buffer, Launch
from assay.exact.cuda.operands import Axis, Operand, axis
from assay.exact.cuda.tiles import LANES, ROW, Digits
from assay.exact.inplace import multiplied, seen_by
from assay.exact.steps import Step
from assay.exact.views import View

MOST_COLUMNS = 128
"""As in heads.cu; attend.cuh takes no more."""
SHARE = 256
"""Rows that a block of heads.cu takes where blocks may share a product's."""


def in_memory(how: Digits) -> int:
    """Planes of a packed operand."""
    return how.planes - how.karatsuba


def checked_in(how: Digits) -> int:
    """Digits of what checks k with at most 128 lanes (CHECKED of attend.cuh)."""
    return 2 if how.planes == 1 else in_memory(how) + 1


class Walk(NamedTuple):
    """A walk in memory (walk.cuh) as an argument."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]


class Packed(NamedTuple):
    """An operand that is packed: the elements of a view that a product reads."""

    view: View
    side: Operand
    bits: int
    factor: View | None = None
    """One number that each element is multiplied by before, if there is one."""

    @property
    def padded(self) -> int:
        return -(-self.side.lanes.size // LANES) * LANES

    @property
    def blocks(self) -> int:
        return -(-self.side.k.size // ROW)

    def sizes(self, how: Digits) -> dict[str, int]:
        """Bytes of its parts."""
        count, row = self.side.products, self.blocks * ROW
        checked = checked_in(how) if self.side.lanes.size <= MOST_COLUMNS else 0
        return {
            "top": 4 * count * self.padded, "along": 8 * count * self.padded, "across": 4 * count * self.padded // LANES * row,
            "digits": count * in_memory(how) * row * self.padded, "checked": count * checked * row,
        }  # fmt: skip


class Of(NamedTuple):
    """The address of a part of a packed operand as an argument: its digits, scales (`top`) or sums (`across` each LANES lanes, `along` k, and
    those over all lanes as digits, `checked`)."""

    packed: Packed
    part: str


class Matrix(NamedTuple):
    """What one or two operands are packed of, as heads.cu reads it: in each product of a batch rows, and at most 128 columns."""

    view: View
    factor: View | None
    batch: Axis
    products: int
    rows: Axis
    columns: Axis
    by_rows: Packed | None
    """The operand whose lanes are the rows."""
    by_columns: Packed | None

    @property
    def parts(self) -> int:
        """Blocks that share a product's rows."""
        return 1 if self.by_columns is not None else -(-self.rows.size // SHARE)


def matrices(packed: Iterable[Packed]) -> list[Matrix]:
    """What operands are packed of, those first of which a block takes a whole one."""
    found: dict[tuple[object, ...], Matrix] = {}
    for one in packed:
        (batch, lanes, k), of = one.side, (one.view.root, one.view.offset, one.factor, one.side.batch)
        if (*of, k, lanes) in found:
            key, turned = (*of, k, lanes), True
        else:
            turned = k.size > MOST_COLUMNS
            key = (*of, k, lanes) if turned else (*of, lanes, k)
        matrix = found.get(key) or Matrix(one.view, one.factor, batch, one.side.products, *((k, lanes) if turned else (lanes, k)), None, None)
        found[key] = matrix._replace(by_columns=one) if turned else matrix._replace(by_rows=one)
    return sorted(found.values(), key=lambda matrix: matrix.by_columns is None)


Words = tuple[int, int, int, int, int, int]
"""Where lanes are packed to: addresses of largest magnitudes, digits, sums `along`, `across` and `checked` (0 where lanes are more than 128); padded
lanes. All 0: nowhere."""


class Placed(NamedTuple):
    """A matrix, the addresses of its first element and of its factor (0: none), and where it goes."""

    matrix: Matrix
    x: int
    factor: int
    by_rows: Words
    by_columns: Words


class Packs(Protocol):
    """What packs them (product.py)."""

    @property
    def faults(self) -> Buffer:
        """A counter (u64) of checksums that were wrong, of all products so far."""
        ...

    def heads(self, how: Digits, bits: int, given: Sequence[Placed], table: Callable[[Sequence[Sequence[int]]], int]) -> list[Launch]: ...


class Shelf:
    """Where operands lie in scratch memory that kernels which follow each other share."""

    ALIGN = 256

    def __init__(self) -> None:
        self.places: dict[Packed, dict[str, int]] = {}
        """Byte offsets of each operand's parts."""
        self.end = 0

    def take(self, operands: Iterable[Packed], how: Digits) -> tuple[Packed, ...]:
        """Gives places to what is not there yet, and says what that is."""
        fresh = tuple(packed for packed in dict.fromkeys(operands) if packed not in self.places)
        for packed in fresh:
            for part, size in packed.sizes(how).items():
                self.places.setdefault(packed, {})[part] = self.end
                self.end += -(-size // self.ALIGN) * self.ALIGN
        return fresh


def packing(
    fresh: Sequence[Packed], places: Mapping[Packed, Mapping[str, int]], how: Digits, products: Packs, at: Callable[[View], int], scratch: int,
    table: Callable[[Sequence[Sequence[int]]], int],
) -> list[Launch]:  # fmt: skip
    """What packs a kernel's operands."""

    def words(packed: Packed | None) -> Words:
        if packed is None:
            return 0, 0, 0, 0, 0, 0
        top, digits, along, across, checked = (scratch + places[packed][part] for part in ("top", "digits", "along", "across", "checked"))
        return top, digits, along, across, checked if packed.side.lanes.size <= MOST_COLUMNS else 0, packed.padded

    given = [
        Placed(m, at(m.view), at(m.factor) if m.factor is not None else 0, words(m.by_rows), words(m.by_columns)) for m in matrices(fresh)
    ]
    return products.heads(how, fresh[0].bits, given, table) if given else []


def sides(step: Step) -> tuple[tuple[Packed, Walk], tuple[Packed, Walk]]:
    """The operands of a product, and the walk from one of the batch to which of the operand's products it takes: what is the same for several is
    packed once."""
    (a, b), (bits, count, inner_a, inner_b, columns) = step.reads, step.extra
    at, bt = len(a.shape) - count - inner_a, len(b.shape) - inner_b - columns
    lanes = (at, at + count), (bt + inner_b, len(b.shape))
    along = (at + count, len(a.shape)), (bt, bt + inner_b)
    made = []
    for v, lead, of_lanes, of_k in zip((a, b), (at, bt), lanes, along, strict=True):
        kept = [i for i in range(lead) if v.strides[i] and v.shape[i] > 1]
        steps, count = [0] * lead, 1
        for i in reversed(kept):
            steps[i], count = count, count * v.shape[i]
        batch = axis([v.shape[i] for i in kept], [v.strides[i] for i in kept])
        side = Operand(batch if kept else Axis((1,), (0,)), *(axis(v.shape[slice(*span)], v.strides[slice(*span)]) for span in (of_lanes, of_k)))
        found = v._replace(shape=sum((of.dims for of in side), ()), strides=sum((of.steps for of in side), ()))  # a matrix and its transpose are one
        made.append((Packed(found, side, bits), Walk(v.shape[:lead] or (1,), tuple(steps) or (0,))))
    return made[0], made[1]


def sides_of(step: Step, part: Step) -> tuple[tuple[Packed, Walk], tuple[Packed, Walk]]:
    """The operands of one of the products of a step `attend`, where they lie (assay.exact.inplace)."""
    found = multiplied(part, seen_by(step))
    assert found is not None
    (a, of_a), (b, of_b) = sides(found[0])
    return (a._replace(factor=found[1][0]), of_a), (b._replace(factor=found[1][1]), of_b)
