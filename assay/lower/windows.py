"""Convolutions and pooling of one, two or three dimensions: windows (a view), then an exact matrix product or a reduction.

Convolution (cross-correlation, as everywhere in deep learning), for inputs [N, C, *spatial] and weights [O, C/G, *kernel]: columns
[G, C/G · kernel, N · out] of windows, times the weights. Its gradients are products of the same kind: that of the weights takes the
columns again, that of the input is the convolution of the spread-out result with the weights turned around (Dumoulin and Visin,
arXiv:1603.07285), so that every element is one exact sum, rounded once. Transposed convolutions are those gradients.

The maximum of a window counts as its first element that is as large; the gradient goes there. Gradients of windows that overlap are
added up exactly: `spread`, then one sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from assay.build import Builder, Value, bits_of
from assay.exact.table import TensorType
from assay.lower.call import LOWERINGS, Call, Lowering, Result, Unsupported, lower

Ints = tuple[int, ...]


class Grid(NamedTuple):
    """Where the windows lie, one entry for each spatial axis: `out` windows of `size` elements."""

    n: Ints
    out: Ints
    size: Ints
    stride: Ints
    padding: Ints
    dilation: Ints

    @property
    def rank(self) -> int:
        return len(self.n)


def _per_axis(value: Any, rank: int, default: int = 1) -> Ints:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(values * rank if len(values) == 1 else values or [default] * rank)


def fitted(b: Builder, x: Value, axis: int, before: int, size: int, fill: float = 0.0) -> Value:
    """`size` elements of an axis, the first of which is number -before; `fill` where there are none."""
    if before < 0:
        x, before = b.emit("slice", x, axis=axis, start=-before, stop=x.shape[axis], step=1), 0
    after = size - before - x.shape[axis]
    if after < 0:
        x, after = b.emit("slice", x, axis=axis, start=0, stop=size - before, step=1), 0
    return b.emit("pad", x, axis=axis, before=before, after=after, bits=bits_of(fill, x.dtype))


def cut(b: Builder, x: Value, g: Grid, fill: float = 0.0) -> Value:
    """[*lead, *n] -> [*lead, out0, size0, out1, size1, ...]."""
    lead = len(x.shape) - g.rank
    for i in reversed(range(g.rank)):
        reach = (g.out[i] - 1) * g.stride[i] + (g.size[i] - 1) * g.dilation[i] + 1
        x = fitted(b, x, lead + i, g.padding[i], reach, fill)
    for i in reversed(range(g.rank)):
        x = b.emit("windows", x, axis=lead + i, size=g.size[i], stride=g.stride[i], dilation=g.dilation[i])
    return x


def add_up(b: Builder, y: Value, g: Grid) -> Value:
    """The adjoint of `cut`: each element is the sum of what the windows hold of it. Along an axis where windows lie side by side,
    they are the elements already."""
    axis = len(y.shape) - 2 * g.rank
    several = []
    for i in range(g.rank):
        reach = (g.out[i] - 1) * g.stride[i] + (g.size[i] - 1) * g.dilation[i] + 1
        if g.stride[i] == g.size[i] and g.dilation[i] == 1:
            y = b.reshape(y, (*y.shape[:axis], reach, *y.shape[axis + 2 :]))
        else:
            y = b.emit("spread", y, axis=axis, n=reach, stride=g.stride[i], dilation=g.dilation[i])
            several.append(axis + 1)
        y = fitted(b, y, axis, -g.padding[i], g.n[i])
        axis += 2 if several and several[-1] == axis + 1 else 1
    return b.sum(y, several, False)


# ---- convolution -----------------------------------------------------------------------------------------------------------


def _columns(b: Builder, x: Value, g: Grid, groups: int) -> Value:
    """[N, C, *n] -> [G, C/G · size, N · out]."""
    n, c = x.shape[:2]
    windows = cut(b, x, g)
    order = [1, *(3 + 2 * i for i in range(g.rank)), 0, *(2 + 2 * i for i in range(g.rank))]
    return b.reshape(b.permute(windows, order), (groups, c // groups * math.prod(g.size), n * math.prod(g.out)))


def correlate(b: Builder, x: Value, w: Value, g: Grid, groups: int) -> Value:
    """[N, C, *n] with [O, C/G, *size] -> [N, O, *out]."""
    n, o = x.shape[0], w.shape[0]
    y = b.emit("matmul", b.reshape(w, (groups, o // groups, math.prod(w.shape[1:]))), _columns(b, x, g, groups))
    y = b.reshape(y, (o, n, *g.out))
    return b.permute(y, (1, 0, *range(2, 2 + g.rank)))


def correlate_input(b: Builder, y: Value, w: Value, g: Grid, groups: int) -> Value:
    """Gradient of `correlate` by x: [N, O, *out] with [O, C/G, *size] -> [N, C, *n]."""
    o, c = w.shape[:2]
    for i in range(g.rank):
        axis, reach = 2 + i, (g.out[i] - 1) * g.stride[i] + 1
        lanes = b.reshape(y, (*y.shape[: axis + 1], 1, *y.shape[axis + 1 :]))
        spread = b.emit("spread", lanes, axis=axis, n=reach, stride=g.stride[i], dilation=1) if g.stride[i] > 1 else lanes
        y = b.reshape(spread, (*y.shape[:axis], reach, *y.shape[axis + 1 :]))
        w = b.emit("reverse", w, axis=axis)
    w = b.reshape(w, (groups, o // groups, c, *g.size))
    w = b.reshape(b.permute(w, (0, 2, 1, *range(3, 3 + g.rank))), (groups * c, o // groups, *g.size))
    back = tuple((k - 1) * d - p for k, d, p in zip(g.size, g.dilation, g.padding, strict=True))
    return correlate(b, y, w, Grid(y.shape[2:], g.n, g.size, (1,) * g.rank, back, g.dilation), groups)


def correlate_weight(b: Builder, x: Value, y: Value, g: Grid, groups: int, shape: Ints) -> Value:
    """Gradient of `correlate` by w: [N, C, *n] with [N, O, *out] -> [O, C/G, *size]."""
    n, o = y.shape[:2]
    rows = b.reshape(b.permute(y, (1, 0, *range(2, 2 + g.rank))), (groups, o // groups, n * math.prod(g.out)))
    return b.reshape(b.emit("matmul", rows, b.permute(_columns(b, x, g, groups), (0, 2, 1))), shape)


def _convolution(x: Value, w: Value, out: Ints, stride: Any, padding: Any, dilation: Any, transposed: bool) -> Grid:
    """The grid of the correlation: of a transposed one, that of which it is the gradient."""
    rank = len(w.shape) - 2
    if not 1 <= rank <= 3 or len(x.shape) != rank + 2:
        raise Unsupported("a convolution without a batch axis, or of more than three dimensions")
    stride, padding, dilation = _per_axis(stride, rank), _per_axis(padding, rank, 0), _per_axis(dilation, rank)
    n, small = (out, x.shape[2:]) if transposed else (x.shape[2:], out)
    return Grid(n, small, w.shape[2:], stride, padding, dilation)


@lower("aten.convolution.default")
def _conv(c: Call) -> Value:
    b, (x, w, bias, stride, padding, dilation, transposed, _, groups) = c.b, c.args
    g = _convolution(x, w, c.out.shape[2:], stride, padding, dilation, transposed)
    y = (correlate_input if transposed else correlate)(b, x, w, g, groups)
    return y if bias is None else b.add(y, b.reshape(bias, (bias.shape[0], *(1,) * g.rank)))


@lower("aten.convolution_backward.default")
def _conv_backward(c: Call) -> Result:
    b, (dy, x, w, _, stride, padding, dilation, transposed, _, groups, wanted) = c.b, c.args
    g = _convolution(x, w, dy.shape[2:], stride, padding, dilation, transposed)
    dx = dw = db = None
    if wanted[0]:
        dx = (correlate if transposed else correlate_input)(b, dy, w, g, groups)
    if wanted[1]:
        large, small = (dy, x) if transposed else (x, dy)
        dw = correlate_weight(b, large, small, g, groups, w.shape)
    if wanted[2]:
        db = b.sum(dy, [0, *range(2, 2 + g.rank)], False)
    return dx, dw, db


# ---- pooling ---------------------------------------------------------------------------------------------------------------


def _pooling(x: Value, out: Ints, size: Any, stride: Any, padding: Any, dilation: Any = 1) -> Grid:
    rank = len(out)
    size = _per_axis(size, rank)
    return Grid(x.shape[-rank:], out, size, _per_axis(stride, rank) if stride else size, _per_axis(padding, rank, 0), _per_axis(dilation, rank))


def _inner(x: Value, g: Grid) -> list[int]:
    """Axes within the windows."""
    return [len(x.shape) - g.rank + 2 * i + 1 for i in range(g.rank)]


def _largest(b: Builder, x: Value, axes: Sequence[int]) -> Value:
    """One axis after the other: the same bits as all at once, and nothing has to be laid out anew."""
    for axis in reversed(axes):
        x = b.emit("amax", x, axes=(axis,), keepdim=True)
    return x


def _first_largest(b: Builder, x: Value, g: Grid) -> tuple[Value, Value]:
    """(maxima [*lead, *out], whether an element of a window is its first largest one, as `cut` lays windows out)."""
    windows, inner = cut(b, x, g, -math.inf), _inner(x, g)
    top = _largest(b, windows, inner)
    number: Value | None = None
    for i, axis in enumerate(inner):
        along = b.reshape(b.cast(b.emit("iota", n=g.size[i]), "f32"), (g.size[i], *(1,) * (len(windows.shape) - axis - 1)))
        number = along if number is None else b.add(b.scale(number, g.size[i]), along)
    assert number is not None
    # Numbered from the last, so that the first is the largest number among those that equal the maximum.
    number = b.sub(b.const(float(math.prod(g.size) - 1)), number)
    numbers = b.emit("select", b.emit("eq", windows, top), number, b.const(-1.0))
    first = b.emit("eq", numbers, _largest(b, numbers, inner))
    lead = x.shape[: len(x.shape) - g.rank]
    return b.reshape(top, (*lead, *g.out)), b.emit("and", first, b.emit("ge", numbers, b.const(0.0)))


def _places(b: Builder, g: Grid) -> Value:
    """Index of each element of each window in the flat spatial axes."""
    count = math.prod(g.n)
    return cut(b, b.reshape(b.emit("iota", n=count), g.n), g)


@lower("aten.max_pool2d_with_indices.default", "aten.max_pool3d_with_indices.default")
def _max_pool(c: Call) -> Result:
    b, x = c.b, c.args[0]
    rank = 3 if "3d" in c.name else 2
    g = _pooling(x, c.out.shape[-rank:], c.args[1], c.arg(2), c.arg(3, "", 0), c.arg(4, "", 1))
    top, first = _first_largest(b, x, g)
    chosen = b.emit("select", first, _places(b, g), b.const(0, "i64"))
    return top, b.sum(chosen, _inner(x, g), False)


@lower("aten.max_pool2d_with_indices_backward.default", "aten.max_pool3d_with_indices_backward.default")
def _max_pool_backward(c: Call) -> Value:
    b, (dy, x, size, stride, padding, dilation) = c.b, c.args[:6]
    g = _pooling(x, dy.shape[-3 if "3d" in c.name else -2 :], size, stride, padding, dilation)
    _, first = _first_largest(b, x, g)
    return add_up(b, b.emit("select", first, _beside(b, dy, g), b.const(0.0)), g)


def _beside(b: Builder, y: Value, g: Grid) -> Value:
    """[*lead, *out] -> [*lead, out0, 1, out1, 1, ...]."""
    lead = y.shape[: len(y.shape) - g.rank]
    return b.reshape(y, (*lead, *(n for out in g.out for n in (out, 1))))


def _counts(b: Builder, g: Grid, include: bool) -> Value:
    """How many elements of each window count, f32 [*out]: those of the input, and with `include` of its padding."""
    ones = b.full(1.0, TensorType(dtype="f32", shape=g.n))
    if include:
        for i in range(g.rank):
            ones = fitted(b, ones, i, g.padding[i], g.n[i] + 2 * g.padding[i], 1.0)
        g = g._replace(n=ones.shape, padding=(0,) * g.rank)
    return b.sum(cut(b, ones, g), _inner(ones, g), False)


def _average(c: Call, g: Grid, include: bool, divisor: int | None) -> Value:
    """What the sum of each window is divided by."""
    if divisor is not None:
        return c.b.const(divisor)
    inside = all((o - 1) * s + k <= n + 2 * p for o, s, k, n, p in zip(g.out, g.stride, g.size, g.n, g.padding, strict=True))
    if inside and (include or not any(g.padding)):
        return c.b.const(math.prod(g.size))
    return _counts(c.b, g, include)


def _avg_pool(rank: int) -> Lowering:
    def forward(c: Call) -> Value:
        x = c.args[0]
        g = _pooling(x, c.out.shape[-rank:], c.args[1], c.arg(2), c.arg(3, "", 0))
        return c.b.div(c.b.sum(cut(c.b, x, g), _inner(x, g), False), _average(c, g, c.arg(5, "", True), c.arg(6)))

    return forward


def _avg_pool_backward(rank: int) -> Lowering:
    def backward(c: Call) -> Value:
        b, (dy, x, size, stride, padding, _, include, divisor) = c.b, c.args
        g = _pooling(x, dy.shape[-rank:], size, stride, padding)
        return _shared_out(b, b.div(dy, _average(c, g, include, divisor)), g)

    return backward


def _shared_out(b: Builder, y: Value, g: Grid) -> Value:
    """Every element of a window gets what its sum got."""
    lead = y.shape[: len(y.shape) - g.rank]
    pairs = [n for out, size in zip(g.out, g.size, strict=True) for n in (out, size)]
    return add_up(b, b.expand(_beside(b, y, g), (*lead, *pairs)), g)


for _rank in (2, 3):
    LOWERINGS[f"aten.avg_pool{_rank}d.default"] = _avg_pool(_rank)
    LOWERINGS[f"aten.avg_pool{_rank}d_backward.default"] = _avg_pool_backward(_rank)


def _adaptive(x: Value, out: Sequence[int]) -> Grid:
    n = x.shape[-len(out) :]
    if any(a % o for a, o in zip(n, out, strict=True)):
        raise Unsupported(f"adaptive pooling of {list(n)} to {list(out)}: only to sizes that divide the input's, or pool with a fixed kernel")
    size = tuple(a // o for a, o in zip(n, out, strict=True))
    return Grid(n, tuple(out), size, size, (0,) * len(n), (1,) * len(n))


@lower("aten._adaptive_avg_pool2d.default", "aten._adaptive_avg_pool3d.default")
def _adaptive_avg_pool(c: Call) -> Value:
    x = c.args[0]
    g = _adaptive(x, c.out.shape[-3 if "3d" in c.name else -2 :])
    return c.b.div(c.b.sum(cut(c.b, x, g), _inner(x, g), False), c.b.const(math.prod(g.size)))


@lower("aten._adaptive_avg_pool2d_backward.default", "aten._adaptive_avg_pool3d_backward.default")
def _adaptive_avg_pool_backward(c: Call) -> Value:
    b, (dy, x) = c.b, c.args
    g = _adaptive(x, dy.shape[-3 if "3d" in c.name else -2 :])
    return _shared_out(b, b.div(dy, b.const(math.prod(g.size))), g)


@lower("aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default")
def _adaptive_max_pool(c: Call) -> Result:
    b, x = c.b, c.args[0]
    g = _adaptive(x, c.out.shape[-3 if "3d" in c.name else -2 :])
    top, first = _first_largest(b, x, g)
    return top, b.sum(b.emit("select", first, _places(b, g), b.const(0, "i64")), _inner(x, g), False)


@lower("aten.adaptive_max_pool2d_backward.default", "aten.adaptive_max_pool3d_backward.default")
def _adaptive_max_pool_backward(c: Call) -> Value:
    b, (dy, x) = c.b, c.args[:2]
    g = _adaptive(x, dy.shape[-3 if "3d" in c.name else -2 :])
    _, first = _first_largest(b, x, g)
    return add_up(b, b.emit("select", first, _beside(b, dy, g), b.const(0.0)), g)
