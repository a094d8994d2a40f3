"""Operands of products that a kernel of attend.py streams, or has lines of: what of them is packed where in scratch memory, once for all kernels that
follow each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from assay.exact.cuda.device import Buffer, Launch
from assay.exact.cuda.operands import Axis, Operand, axis
from assay.exact.cuda.tiles import LANES, NARROW, ROW, Digits, Layout
from assay.exact.inplace import multiplied, seen_by
from assay.exact.steps import Step
from assay.exact.views import View


def in_memory(how: Digits) -> int:
    """Planes of a packed operand."""
    return how.planes - how.karatsuba


class Walk(NamedTuple):
    """A walk in memory (walk.cuh) as an argument."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]


def offsets(walk: Walk, count: int) -> tuple[int, ...]:
    """Where its first places are."""
    at, out = np.arange(count), np.zeros(count, np.int64)
    for size, stride in zip(reversed(walk.dims[1:]), reversed(walk.strides[1:]), strict=True):
        out += at % size * stride
        at //= size
    return tuple((out + at * walk.strides[0]).tolist())


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
        return {
            "top": 4 * count * self.side.lanes.size, "along": 8 * count * self.padded, "across": 4 * count * self.padded // LANES * row,
            "digits": count * in_memory(how) * row * self.padded,
        }  # fmt: skip


class Of(NamedTuple):
    """The address of a part of a packed operand as an argument: its digits, scales (`top`) or sums (`across` each LANES lanes, `along` k)."""

    packed: Packed
    part: str


class Packs(Protocol):
    """What packs them (product.py)."""

    @property
    def faults(self) -> Buffer:
        """A counter (u64) of checksums that were wrong, of all products so far."""
        ...

    def cleared(self, how: Digits, layout: Layout, at: int, words: int) -> Launch: ...

    def packed(
        self, how: Digits, layout: Layout, bits: int, side: Operand, padded: int, x: int, top: int, digits: int, sums: tuple[int, int, int],
        groups: int = 0, factor: int = 0,
    ) -> tuple[Launch, Launch]: ...  # fmt: skip


class Fresh(NamedTuple):
    """Operands that a kernel has to pack, and the words of four bytes, from a byte offset on, that are zero before."""

    packed: tuple[Packed, ...]
    start: int
    words: int


class Shelf:
    """Where operands lie in scratch memory that kernels which follow each other share."""

    ALIGN = 256

    def __init__(self) -> None:
        self.places: dict[Packed, dict[str, int]] = {}
        """Byte offsets of each operand's parts."""
        self.end = 0

    def take(self, operands: Iterable[Packed], how: Digits) -> Fresh:
        """Gives places to what is not there yet."""
        fresh = tuple(packed for packed in operands if packed not in self.places)
        start = self.end
        for packed in fresh:
            self._place(packed, how, "top", "along")
        zeros = self.end - start
        for packed in fresh:
            self._place(packed, how, "across", "digits")
        return Fresh(fresh, start, zeros // 4)

    def _place(self, packed: Packed, how: Digits, *parts: str) -> None:
        for part in parts:
            self.places.setdefault(packed, {})[part] = self.end
            self.end += -(-packed.sizes(how)[part] // self.ALIGN) * self.ALIGN


def packing(
    fresh: Fresh, places: Mapping[Packed, Mapping[str, int]], how: Digits, products: Packs, at: Callable[[View], int], scratch: int
) -> list[Launch]:
    """What packs a kernel's operands."""
    out = [products.cleared(how, NARROW, scratch + fresh.start, fresh.words)] if fresh.packed else []
    for packed in fresh.packed:
        top, across, along, to = (scratch + places[packed][part] for part in ("top", "across", "along", "digits"))
        factor = at(packed.factor) if packed.factor is not None else 0
        sums = in_memory(how), 0, along
        out += products.packed(how, NARROW, packed.bits, packed.side, packed.padded, at(packed.view), top, to, sums, across, factor)
    return out


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
        made.append((Packed(v, side, bits), Walk(v.shape[:lead] or (1,), tuple(steps) or (0,))))
    return made[0], made[1]


def sides_of(step: Step, part: Step) -> tuple[tuple[Packed, Walk], tuple[Packed, Walk]]:
    """The operands of one of the products of a step `attend`, where they lie (assay.exact.inplace)."""
    found = multiplied(part, seen_by(step))
    assert found is not None
    (a, of_a), (b, of_b) = sides(found[0])
    return (a._replace(factor=found[1][0]), of_a), (b._replace(factor=found[1][1]), of_b)
