"""Walks over memory as words that kernels read (walk.cuh)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from assay.exact.rows import Rows
from assay.exact.views import View, merged
from assay.program import ProgramError

LIMIT = 1 << 31
"""Elements of a step's index space."""


def magic(size: int) -> int:
    """Word by which walk.cuh divides by `size`, 1 <= size < 2^31."""
    shift = (size - 1).bit_length()
    return ((1 << 32) * ((1 << shift) - size) // size + 1) | shift << 32


def limited(n: int) -> None:
    """Raises ProgramError for a step over too many elements."""
    if n >= LIMIT:
        raise ProgramError(f"a step over {n} elements: the CUDA route takes less than 2^31 at a time (use smaller micro-batches)")


def walk_words(dims: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """A walk as walk.cuh reads it. Raises ProgramError when it is too long."""
    limited(prod(dims))
    sizes, (steps,) = merged(dims, strides)
    words = [len(sizes)]
    for n, step in zip(reversed(sizes), reversed(steps), strict=True):
        words += [n, magic(n), step]
    return tuple(words)


def row_walk(v: View, rows: Rows) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Sizes and strides of the walk from row to row, or None where rows lie side by side or there is one for all."""
    return None if start(v, rows) else (v.shape[:-1], v.strides[:-1])


def start(v: View, rows: Rows) -> str:
    """Where row r begins, as C++ that knows no sizes; empty for a walk."""
    if len(v.shape) > 2 or v.shape[0] != rows.number:
        return ""
    return {0: "0", 1: "r", rows.length: "(i64)r * length"}.get(v.strides[0], "")
