"""Where the operands of matrix products lie, as the kernels that pack them read them (pack.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact.steps import Step
from assay.exact.views import View, merged


@dataclass(frozen=True, slots=True)
class Axis:
    """Places of an axis in memory, in elements: dimension by dimension."""

    dims: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.dims)

    @property
    def even(self) -> int | None:
        """The step, if neighbours are everywhere as far apart."""
        left = [(d, s) for d, s in zip(self.dims, self.steps, strict=True) if d > 1]
        if not left:
            return 0
        together = all(outer == d * inner for (_, outer), (d, inner) in pairwise(left))
        return left[-1][1] if together else None

    def offsets(self) -> NDArray[np.int64]:
        at = np.zeros(1, np.int64)
        for d, s in zip(self.dims, self.steps, strict=True):
            at = (at[:, None] + np.arange(d, dtype=np.int64) * s).reshape(-1)
        return at


class Operand(NamedTuple):
    """Where the products of a batch, the lanes (rows of A, columns of B) and the elements of a lane lie, from the first on."""

    batch: Axis
    lanes: Axis
    k: Axis

    @property
    def shared(self) -> bool:
        """Whether all products of the batch have the same."""
        return all(s == 0 for d, s in zip(self.batch.dims, self.batch.steps, strict=True) if d > 1)

    @property
    def products(self) -> int:
        return 1 if self.shared else self.batch.size

    @property
    def turned(self) -> bool:
        """Whether neighbouring lanes, and not neighbouring elements, are neighbours in memory."""
        return self.lanes.even == 1 and self.k.even != 1


def operands(step: Step) -> tuple[Operand, Operand]:
    """Of a `matmul` step, read as assay.exact.tape does."""
    (a, b), (_, rows, inner_a, inner_b, columns) = step.reads, step.extra
    at, bt = len(a.shape) - rows - inner_a, len(b.shape) - inner_b - columns
    batch, (steps_a, steps_b) = merged(a.shape[:at], a.strides[:at], b.strides[:bt])
    m, row = a.shape[at : at + rows], a.strides[at : at + rows]
    if (steps_b[0] == 0 and len(batch) == 1) or batch == [1]:
        # One second operand for all: the batch is just more rows.
        m, row, batch, steps_a, steps_b = (*batch, *m), (*steps_a, *row), [1], [0], [0]

    def part(v: View, start: int, stop: int) -> Axis:
        return axis(v.shape[start:stop], v.strides[start:stop])

    first = Operand(axis(batch, steps_a), axis(m, row), part(a, at + rows, len(a.shape)))
    return first, Operand(axis(batch, steps_b), part(b, bt + inner_b, len(b.shape)), part(b, bt, bt + inner_b))


def axis(dims: Sequence[int], steps: Sequence[int]) -> Axis:
    """With dimensions joined as far as they can be."""
    sizes, (strides,) = merged(dims, steps)
    return Axis(tuple(sizes), tuple(strides))
