"""Wide values: those of batch x R x L elements that products make and read (assay.exact.attention), and which products do."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from assay.exact.rows import Rows
from assay.exact.steps import Step
from assay.exact.views import merged

NARROW = 128
"""Elements of k of a product that makes a wide value, and lanes of what one that reads it is multiplied with, at most."""


class Shape(NamedTuple):
    """Of wide values. `by_columns`: whether a kernel's lines are columns."""

    by_columns: bool
    batch: int
    rows: int
    length: int

    @property
    def lines(self) -> int:
        """Of each of the batch."""
        return self.length if self.by_columns else self.rows

    @property
    def elements(self) -> int:
        """Of a line."""
        return self.rows if self.by_columns else self.length

    @property
    def all_rows(self) -> Rows:
        return Rows(self.batch * self.rows, self.length)


def shape_of(step: Step) -> Shape:
    """Of a step `attend`."""
    by_columns, *sizes_ = step.extra
    return Shape(bool(by_columns), *sizes_)


class Sizes(NamedTuple):
    """Of a `matmul` step."""

    batch: int
    m: int
    n: int
    k: int


def sizes(step: Step) -> Sizes:
    (a, b), (_, rows, inner_a, _, columns) = step.reads, step.extra
    at = len(a.shape) - rows - inner_a
    return Sizes(prod(a.shape[:at]), prod(a.shape[at : at + rows]), prod(b.shape[len(b.shape) - columns :]), prod(a.shape[at + rows :]))


class Use(NamedTuple):
    """How a product reads a wide value: as its first or second operand, and whether k runs along rows, so that its lanes are columns."""

    first: bool
    by_columns: bool


def use(step: Step, root: int, shape: Shape) -> Use | None:
    """None for another way than these two, a product with many other lanes, and one of the value with itself."""
    if step.name != "matmul" or sum(v.root == root for v in step.reads) != 1:
        return None
    (a, b), (_, rows, inner_a, inner_b, columns), size = step.reads, step.extra, sizes(step)
    first = a.root == root
    v, lead = (a, len(a.shape) - rows - inner_a) if first else (b, len(b.shape) - inner_b - columns)
    cut = lead + (rows if first else inner_b)
    if v.offset or size.batch != shape.batch or (size.n if first else size.m) > NARROW:
        return None
    parts = [(v.shape[:lead], v.strides[:lead]), (v.shape[lead:cut], v.strides[lead:cut]), (v.shape[cut:], v.strides[cut:])]
    batch, lanes, along = parts if first else (parts[0], parts[2], parts[1])
    for by_columns, near, far in ((False, along, lanes), (True, lanes, along)):
        if _steps(*near, shape.length, 1) and _steps(*far, shape.rows, shape.length) and _steps(*batch, shape.batch, shape.rows * shape.length):
            return Use(first, by_columns)
    return None


def _steps(dims: Sequence[int], strides: Sequence[int], size: int, step: int) -> bool:
    """Whether dimensions are `size` elements, each `step` behind the one before it."""
    found, (steps,) = merged(dims, strides)
    return prod(dims) == size and (size == 1 or (len(found) == 1 and steps[0] == step))
