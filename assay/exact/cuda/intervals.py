"""Masks that are told instead of read: constants that have one value in an interval of each line of attend.py's kernels, and another one beside it.

A causal mask read by columns touches as many rows of memory as a line has elements, and by rows it is a quarter of what a chain has from the level-2
cache. Two numbers a line say the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact.cuda.operands import Axis
from assay.exact.cuda.spans import split
from assay.exact.views import View
from assay.exact.wide import Shape

MOST = 1 << 25
"""Elements of a mask that is looked at."""


class Told(NamedTuple):
    """`ends`: begin and end of each line's interval; the values in it and beside it, as bits."""

    ends: tuple[int, ...]
    inside: int
    outside: int

    def side(self, elements: int) -> int | None:
        """0 where all intervals begin with their lines, 1 where all end with them; None where neither is so."""
        return 0 if not any(self.ends[::2]) else 1 if all(end == elements for end in self.ends[1::2]) else None


def told(v: View, array: NDArray[Any], shape: Shape) -> Told | None:
    """What a mask is, of whose root `array` is the value; None for another one, or where it is not the same for all of a batch."""
    places = split(v, shape)
    if v.dtype not in ("bool", "f32") or v.single or v.strides[-1] != 1 or places is None or shape.rows * shape.length > MOST:
        return None
    batches, of_rows = (Axis(walk.dims, walk.strides).offsets() for walk in (places.batch, places.rows))
    if len(np.unique(batches)) > 1:
        return None
    flat = array.reshape(-1)[v.offset + int(batches[0]) :].view(np.uint8 if v.dtype == "bool" else np.uint32)
    mask = flat[of_rows[:, None] + np.arange(shape.length)]
    return intervals(mask.T if shape.by_columns else mask)


def intervals(mask: NDArray[Any]) -> Told | None:
    """Of [lines, elements] of unsigned integers."""
    low, high = mask.min(), mask.max()
    if not ((mask == low) | (mask == high)).all():
        return None
    at = np.arange(mask.shape[1])
    for inside, outside in ((high, low), (low, high)):
        found = mask == inside
        begin, size = found.argmax(1), found.sum(1)
        if (begin + size == len(at))[size > 0].all():
            begin[size == 0] = len(at)
        if np.array_equal(found, (at >= begin[:, None]) & (at < (begin + size)[:, None])):
            return Told(tuple(np.stack([begin, begin + size], 1).reshape(-1).tolist()), int(inside), int(outside))
    return None
