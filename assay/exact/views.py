"""Strided views: where the elements of a value lie. The MOVEs that only rename places cost nothing this way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from assay.exact.table import ITEM_BYTES, Attr


def c_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides (in elements) of a C-ordered array."""
    out, step = [], 1
    for n in reversed(shape):
        out.append(step)
        step *= n
    return tuple(reversed(out))


LONG = 8
"""Elements that lie together, from which on a reduction reads them where they are."""


class View(NamedTuple):
    """Elements `offset + sum(index * strides)` of storage `root`; offset and strides in elements."""

    root: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def item(self) -> int:
        return ITEM_BYTES[self.dtype]

    @property
    def contiguous(self) -> bool:
        """In C order without gaps (dimensions of 1 have no say)."""
        return all(n == 1 or s == t for n, s, t in zip(self.shape, self.strides, c_strides(self.shape), strict=True))

    @property
    def single(self) -> bool:
        """One element, however often."""
        return all(n == 1 or s == 0 for n, s in zip(self.shape, self.strides, strict=True))


def whole(root: int, shape: tuple[int, ...], dtype: str) -> View:
    """A storage seen as a C-ordered array."""
    return View(root, 0, shape, c_strides(shape), dtype)


def whole_of(v: View, elements: int) -> bool:
    """Whether a view has all `elements` of its storage in their order."""
    return v.contiguous and v.offset == 0 and v.elements == elements


def merged(dims: Sequence[int], *strides: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The same walk over several views with fewer dimensions: those of 1 dropped, neighbours joined where every view allows it.
    At least one dimension is left."""
    out: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for i, n in enumerate(dims):
        if n == 1:
            continue
        if out and all(s[-1] == view[i] * n for s, view in zip(steps, strides, strict=True)):
            out[-1] *= n
            for s, view in zip(steps, strides, strict=True):
                s[-1] = view[i]
        else:
            out.append(n)
            for s, view in zip(steps, strides, strict=True):
                s.append(view[i])
    return (out, steps) if out else ([1], [[1] for _ in strides])


def reshaped(v: View, shape: tuple[int, ...]) -> View | None:
    """The view with another shape, or None where its elements would have to move."""
    dims, (steps,) = merged(v.shape, v.strides)
    strides = [0] * len(shape)
    i = len(shape) - 1
    for n, step in zip(reversed(dims), reversed(steps), strict=True):
        left = n
        while left > 1:
            while i >= 0 and shape[i] == 1:
                i -= 1
            if i < 0 or left % shape[i]:
                return None
            strides[i] = step
            step *= shape[i]
            left //= shape[i]
            i -= 1
    return View(v.root, v.offset, shape, tuple(strides), v.dtype)


class Folded(NamedTuple):
    """A value whose axes are each made up of several dimensions of a storage: what `reshape` makes of windows. Only a matrix product
    reads it as it lies. Axis i: (dimensions, strides), at least one."""

    root: int
    offset: int
    axes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    dtype: str

    @property
    def view(self) -> View:
        """The same elements with all those dimensions."""
        shape, strides = (tuple(n for axis in self.axes for n in axis[i]) for i in (0, 1))
        return View(self.root, self.offset, shape, strides, self.dtype)


def folded(v: View, shape: tuple[int, ...]) -> Folded | None:
    """The view with another shape whose last two axes may take several dimensions; None where this shape would cut across a dimension."""
    dims, (steps,) = merged(v.shape, v.strides)
    axes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for n in reversed(shape):
        ns: list[int] = []
        strides: list[int] = []
        while n > 1:
            here = min(n, dims[-1])
            if n % here or dims[-1] % here:
                return None
            ns.insert(0, here)
            strides.insert(0, steps[-1])
            n //= here
            if here == dims[-1]:
                dims.pop(), steps.pop()
            else:
                dims[-1], steps[-1] = dims[-1] // here, steps[-1] * here
        if len(axes) >= 2 and len(ns) > 1:
            return None
        axes.insert(0, (tuple(ns), tuple(strides)) if ns else ((1,), (1,)))
    return Folded(v.root, v.offset, tuple(axes), v.dtype)


def broadcast(v: View, shape: tuple[int, ...]) -> View:
    lead = len(shape) - len(v.shape)
    strides = (0,) * lead + tuple(0 if n == 1 else s for n, s in zip(v.shape, v.strides, strict=True))
    return v._replace(shape=shape, strides=strides)


def sliced(v: View, axis: int, start: int, stop: int, step: int = 1) -> View:
    shape, strides = list(v.shape), list(v.strides)
    shape[axis] = (stop - start + step - 1) // step
    strides[axis] *= step
    return v._replace(offset=v.offset + start * v.strides[axis], shape=tuple(shape), strides=tuple(strides))


def permuted(v: View, axes: Sequence[int]) -> View:
    return v._replace(shape=tuple(v.shape[a] for a in axes), strides=tuple(v.strides[a] for a in axes))


def windowed(v: View, axis: int, size: int, stride: int, dilation: int) -> View:
    count = (v.shape[axis] - dilation * (size - 1) - 1) // stride + 1
    step = v.strides[axis]
    shape, strides = (*v.shape[:axis], count, size, *v.shape[axis + 1 :]), (*v.strides[:axis], step * stride, step * dilation, *v.strides[axis + 1 :])
    return v._replace(shape=shape, strides=strides)


def ints(attrs: Mapping[str, Attr], name: str) -> tuple[int, ...]:
    value = attrs[name]
    assert isinstance(value, tuple)
    return value


def integer(attrs: Mapping[str, Attr], name: str) -> int:
    value = attrs[name]
    assert isinstance(value, int)
    return value


def moved(op: str, attrs: Mapping[str, Attr], v: View) -> View | None:
    """The result of a MOVE as a view of its operand, or None where it is none."""
    match op:
        case "reshape":
            return reshaped(v, ints(attrs, "shape"))
        case "permute":
            return permuted(v, ints(attrs, "axes"))
        case "expand":
            return broadcast(v, ints(attrs, "shape"))
        case "slice":
            return sliced(v, integer(attrs, "axis"), integer(attrs, "start"), integer(attrs, "stop"), integer(attrs, "step"))
        case "reverse":
            axis = integer(attrs, "axis")
            strides = tuple(-s if a == axis else s for a, s in enumerate(v.strides))
            return v._replace(offset=v.offset + (v.shape[axis] - 1) * v.strides[axis], strides=strides)
        case "windows":
            return windowed(v, *(integer(attrs, name) for name in ("axis", "size", "stride", "dilation")))
    return None


def lanes(x: View, axes: Sequence[int], shape: tuple[int, ...]) -> list[View]:
    """What a reduction over `axes` takes for each result, as views of its `shape`, one for each place along the axes."""
    parts = [x]
    for a in axes:
        parts = [sliced(v, a, i, i + 1) for v in parts for i in range(x.shape[a])]
    kept = [a for a in range(len(x.shape)) if a not in axes]
    if len(shape) == len(x.shape):
        return parts
    return [v._replace(shape=shape, strides=tuple(v.strides[a] for a in kept)) for v in parts]


def walk(x: View, axes: Sequence[int]) -> list[int] | None:
    """inner, run, and the two walks of a reduction (reduce.c), or None where its elements lie too far apart."""
    kept = [a for a in range(len(x.shape)) if a not in axes]
    outer, (steps,) = merged([x.shape[a] for a in kept], [x.strides[a] for a in kept])
    far = sorted(axes, key=lambda a: -x.strides[a])
    rows, (jumps,) = merged([x.shape[a] for a in far], [x.strides[a] for a in far])
    inner = run = 1
    if steps[-1] == 1 and (outer[-1] >= LONG or jumps[-1] != 1 or rows == [1]):
        inner, outer, steps = outer[-1], outer[:-1], steps[:-1]
    elif jumps[-1] == 1 and (rows[-1] >= LONG or len(rows) == 1):
        run, rows, jumps = rows[-1], rows[:-1], jumps[:-1]
    else:
        return None
    return [inner, run, len(outer), *outer, *steps, len(rows), *rows, *jumps]
