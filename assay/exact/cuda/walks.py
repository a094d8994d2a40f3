"""Walks over memory as words that kernels read (walk.cuh)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from assay.exact.views import merged
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
