"""ATen operators that place elements or make tensors from nothing: views, slices, indexing, fills. Memory formats and strides mean
nothing here: a value has a shape and its elements in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from assay.build import Builder, Value
from assay.lower.call import LOWERINGS, Call, Lowering, Result, Unsupported, lower

# ---- views -----------------------------------------------------------------------------------------------------------------


@lower(
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
)
def _reshape(c: Call) -> Value:
    return c.b.reshape(c.args[0], c.out.shape)


@lower("aten.clone.default", "aten.alias.default", "aten.detach.default", "aten.lift_fresh_copy.default")
def _same(c: Call) -> Value:
    value = c.args[0]
    assert isinstance(value, Value)
    return value


@lower("aten.permute.default")
def _permute(c: Call) -> Value:
    x, axes = c.args
    return c.b.permute(x, [c.axis(a) for a in axes])


@lower("aten.t.default", "aten.transpose.int")
def _transpose(c: Call) -> Value:
    x = c.args[0]
    axes = list(range(len(x.shape)))
    if len(axes) >= 2:
        i, j = (c.axis(c.arg(at, "", default)) for at, default in ((1, 0), (2, 1)))
        axes[i], axes[j] = axes[j], axes[i]
    return c.b.permute(x, axes)


@lower("aten.expand.default")
def _expand(c: Call) -> Value:
    return c.b.expand(c.args[0], c.out.shape)


@lower("aten.repeat.default")
def _repeat(c: Call) -> Value:
    b, (x, counts) = c.b, c.args
    shape = (*(1,) * (len(counts) - len(x.shape)), *x.shape)
    x = b.reshape(x, [n for size in shape for n in (1, size)])
    return b.reshape(b.expand(x, [n for pair in zip(counts, shape, strict=True) for n in pair]), c.out.shape)


@lower("aten.copy.default")
def _copy(c: Call) -> Value:
    return c.b.expand(c.operand(c.args[1], c.out.dtype), c.out.shape)


@lower("aten.flip.default")
def _flip(c: Call) -> Value:
    x = c.args[0]
    for axis in c.args[1]:
        x = c.b.emit("reverse", x, axis=c.axis(axis))
    assert isinstance(x, Value)
    return x


# ---- slices ----------------------------------------------------------------------------------------------------------------


def _bounds(size: int, start: int | None, stop: int | None, step: int) -> tuple[int, int, int]:
    return slice(start, stop, step).indices(size)


def _slice(b: Builder, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    return b.emit("slice", x, axis=axis, start=start, stop=stop, step=step)


@lower("aten.slice.Tensor")
def _slice_tensor(c: Call) -> Value:
    x, axis = c.args[0], c.axis(c.arg(1, "dim", 0))
    return _slice(c.b, x, axis, *_bounds(x.shape[axis], c.arg(2, "start"), c.arg(3, "end"), c.arg(4, "step", 1)))


@lower("aten.select.int")
def _select(c: Call) -> Value:
    x, axis = c.args[0], c.axis(c.args[1])
    at = c.args[2] % x.shape[axis]
    return c.b.reshape(_slice(c.b, x, axis, at, at + 1), c.out.shape)


def _pieces(c: Call, axis: int, sizes: Sequence[int]) -> list[Value]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [_slice(c.b, c.args[0], axis, end - size, end) for end, size in zip(ends, sizes, strict=True)]


@lower("aten.split.Tensor", "aten.split_with_sizes.default")
def _split(c: Call) -> Result:
    axis = c.axis(c.arg(2, "dim", 0))
    return tuple(_pieces(c, axis, [r.shape[axis] for r in c.results if r is not None]))


@lower("aten.unbind.int")
def _unbind(c: Call) -> Result:
    axis = c.axis(c.arg(1, "dim", 0))
    return tuple(c.b.reshape(piece, c.out.shape) for piece in _pieces(c, axis, [1] * c.args[0].shape[axis]))


def _pad(b: Builder, x: Value, axis: int, before: int, after: int) -> Value:
    return b.emit("pad", x, axis=axis, before=before, after=after, bits=0)


@lower("aten.slice_scatter.default")
def _slice_scatter(c: Call) -> Value:
    x, y, axis = c.args[0], c.args[1], c.axis(c.arg(2, "dim", 0))
    start, stop, step = _bounds(x.shape[axis], c.arg(3, "start"), c.arg(4, "end"), c.arg(5, "step", 1))
    if step != 1:
        raise Unsupported(f"writing to a slice with step {step}")
    before = [_slice(c.b, x, axis, 0, start)] if start else []
    after = [_slice(c.b, x, axis, stop, x.shape[axis])] if stop < x.shape[axis] else []
    return c.b.emit("concat", *before, y, *after, axis=axis)


@lower("aten.select_scatter.default")
def _select_scatter(c: Call) -> Value:
    x, y, axis = c.args[0], c.args[1], c.axis(c.args[2])
    at = c.args[3] % x.shape[axis]
    before = [_slice(c.b, x, axis, 0, at)] if at else []
    after = [_slice(c.b, x, axis, at + 1, x.shape[axis])] if at + 1 < x.shape[axis] else []
    return c.b.emit("concat", *before, c.b.reshape(y, (*x.shape[:axis], 1, *x.shape[axis + 1 :])), *after, axis=axis)


@lower("aten.slice_backward.default")
def _slice_backward(c: Call) -> Value:
    g, shape, axis, start, stop, step = c.args
    axis = c.axis(axis, len(shape))
    start, stop, step = _bounds(shape[axis], start, stop, step)
    if step != 1:
        raise Unsupported(f"the gradient of a slice with step {step}")
    return _pad(c.b, g, axis, start, shape[axis] - start - g.shape[axis])


@lower("aten.select_backward.default")
def _select_backward(c: Call) -> Value:
    g, shape, axis, at = c.args
    axis = c.axis(axis, len(shape))
    at %= shape[axis]
    return _pad(c.b, c.b.reshape(g, (*shape[:axis], 1, *shape[axis + 1 :])), axis, at, shape[axis] - at - 1)


@lower("aten.constant_pad_nd.default")
def _constant_pad(c: Call) -> Value:
    """Negative padding cuts off."""
    x, pads = c.args[:2]
    if c.arg(2, "value", 0) != 0:
        raise Unsupported("padding other than with zeros")
    for i in range(0, len(pads), 2):
        axis, before, after = len(x.shape) - 1 - i // 2, pads[i], pads[i + 1]
        x = _slice(c.b, x, axis, max(-before, 0), x.shape[axis] - max(-after, 0))
        x = _pad(c.b, x, axis, max(before, 0), max(after, 0))
    assert isinstance(x, Value)
    return x


@lower("aten.cat.default")
def _cat(c: Call) -> Value:
    parts = [c.operand(x, c.out.dtype) for x in c.args[0]]
    return c.b.emit("concat", *parts, axis=c.axis(c.arg(1, "dim", 0), len(c.out.shape)))


@lower("aten.stack.default")
def _stack(c: Call) -> Value:
    axis = c.axis(c.arg(1, "dim", 0), len(c.out.shape))
    shape = tuple(1 if i == axis else n for i, n in enumerate(c.out.shape))
    return c.b.emit("concat", *(c.b.reshape(x, shape) for x in c.args[0]), axis=axis)


@lower("aten.roll.default")
def _roll(c: Call) -> Value:
    x, shifts, axes = c.args[0], c.args[1], c.arg(2, "dims", [])
    shape = x.shape
    if not axes:
        x, axes = c.b.reshape(x, (x.type.elements,)), [0]
    for shift, axis in zip(shifts, axes, strict=True):
        axis = c.axis(axis, len(x.shape))
        if at := -shift % x.shape[axis]:
            x = c.b.emit("concat", _slice(c.b, x, axis, at, x.shape[axis]), _slice(c.b, x, axis, 0, at), axis=axis)
    return c.b.reshape(x, shape)


@lower("aten.unfold.default")
def _unfold(c: Call) -> Value:
    x, axis, size, step = c.args
    axis = c.axis(axis)
    windows = c.b.emit("windows", x, axis=axis, size=size, stride=step, dilation=1)
    return c.b.permute(windows, [i for i in range(len(windows.shape)) if i != axis + 1] + [axis + 1])


@lower("aten.unfold_backward.default")
def _unfold_backward(c: Call) -> Value:
    b, (g, shape, axis, _, step) = c.b, c.args
    axis, last = c.axis(axis, len(shape)), len(g.shape) - 1
    g = b.permute(g, [*range(axis + 1), last, *range(axis + 1, last)])
    return b.sum(b.emit("spread", g, axis=axis, n=shape[axis], stride=step, dilation=1), (axis + 1,), False)


# ---- indexing --------------------------------------------------------------------------------------------------------------


def _counted(b: Builder, index: Value) -> int | None:
    """n if the index is 0, 1, ..., n-1."""
    return index.shape[0] if b.origin(index, "iota") else None


def _rows(b: Builder, table: Value, index: Value) -> Value:
    n = _counted(b, index)
    return b.emit("take_rows", table, index) if n is None else _slice(b, table, 0, 0, n)


def _add_rows(b: Builder, index: Value, values: Value, rows: int) -> Value:
    n = _counted(b, index)
    return b.emit("scatter_add_rows", index, values, rows=rows) if n is None else _pad(b, values, 0, 0, rows - n)


@lower("aten.embedding.default")
def _embedding(c: Call) -> Value:
    table, index = c.args[:2]
    return _rows(c.b, table, index)


@lower("aten.embedding_dense_backward.default")
def _embedding_backward(c: Call) -> Value:
    g, index, rows, padding, by_frequency = c.args
    if by_frequency:
        raise Unsupported("an embedding with scale_grad_by_freq")
    index = c.b.reshape(index, (index.type.elements,))
    g = c.b.reshape(g, (index.shape[0], g.shape[-1]))
    if padding >= 0:
        counts = c.b.emit("ne", index, c.b.const(padding, index.dtype))
        g = c.b.emit("select", c.b.reshape(counts, (*index.shape, 1)), g, c.b.const(0.0))
    return _add_rows(c.b, index, g, rows)


def _indexed(c: Call, x: Value, indices: Sequence[Any]) -> tuple[Value, Value, int]:
    """Indexing by tensors of integers in neighbouring axes, as rows: (x with these axes first and as one, index of a row, the first
    of the axes). Indices below zero count from the end."""
    b = c.b
    axes = [i for i, index in enumerate(indices) if index is not None]
    if not axes or axes != list(range(axes[0], axes[-1] + 1)) or any(indices[i].dtype == "bool" for i in axes):
        raise Unsupported("indexing other than by tensors of integers in neighbouring axes (for masks: torch.where)")
    order = [*axes, *(i for i in range(len(x.shape)) if i not in axes)]
    flat: Value | None = None
    for axis in axes:
        index, size = indices[axis], x.shape[axis]
        if _counted(b, index) is None:
            index = b.emit("select", b.emit("lt", index, b.const(0, index.dtype)), b.add(index, b.const(size, index.dtype)), index)
        flat = index if flat is None else b.add(b.mul(b.cast(flat, "i64"), b.const(size, "i64")), b.cast(index, "i64"))
    assert flat is not None
    count = math.prod(x.shape[a] for a in axes)
    return b.reshape(b.permute(x, order), (count, *(x.shape[i] for i in order[len(axes) :]))), flat, axes[0]


@lower("aten.index.Tensor")
def _index(c: Call) -> Value:
    table, index, first = _indexed(c, *c.args[:2])
    rows, rank = _rows(c.b, table, index), len(index.shape)
    return c.b.permute(rows, [*range(rank, rank + first), *range(rank), *range(rank + first, len(rows.shape))])


@lower("aten.index_select.default")
def _index_select(c: Call) -> Value:
    x, axis, index = c.args
    axis = c.axis(axis)
    order = [axis, *(i for i in range(len(x.shape)) if i != axis)]
    rows = c.b.emit("take_rows", c.b.permute(x, order), index)
    return c.b.permute(rows, [order.index(i) for i in range(len(order))])


@lower("aten.index_add.default")
def _index_add(c: Call) -> Value:
    x, axis, index, values = c.args[:4]
    axis = c.axis(axis)
    if c.kwargs.get("alpha", 1) != 1:
        raise Unsupported("index_add with alpha")
    order = [axis, *(i for i in range(len(x.shape)) if i != axis)]
    rows = _add_rows(c.b, index, c.b.permute(values, order), x.shape[axis])
    return c.b.add(x, c.b.permute(rows, [order.index(i) for i in range(len(order))]))


@lower("aten.index_put.default")
def _index_put(c: Call) -> Value:
    """Only as the gradient of `index`: adding rows to what there is."""
    b, (x, indices, values) = c.b, c.args[:3]
    if not c.arg(3, "accumulate", False):
        raise Unsupported("writing into rows of a tensor")
    table, index, first = _indexed(c, x, indices)
    axes, rank = sum(i is not None for i in indices), len(index.shape)
    values = b.expand(values, (*x.shape[:first], *index.shape, *x.shape[first + axes :]))
    values = b.permute(values, [*range(first, first + rank), *range(first), *range(first + rank, len(values.shape))])
    flat = b.reshape(index, (index.type.elements,))
    rows = _add_rows(b, flat, b.reshape(values, (*flat.shape, *table.shape[1:])), table.shape[0])
    back = b.reshape(rows, (*x.shape[first : first + axes], *table.shape[1:]))
    return b.add(x, b.permute(back, [*range(axes, axes + first), *range(axes), *range(axes + first, len(x.shape))]))


@lower("aten.gather.default")
def _gather(c: Call) -> Value:
    x, axis, index = c.args[:3]
    return c.b.emit("gather", x, index, axis=c.axis(axis))


# ---- made from nothing -----------------------------------------------------------------------------------------------------


def _filled(value_at: int | None, fixed: float = 0) -> Lowering:
    def fill(c: Call) -> Value:
        return c.b.full(fixed if value_at is None else c.arg(value_at, "fill_value"), c.out)

    return fill


for _name in ("full.default", "full_like.default", "new_full.default"):
    LOWERINGS[f"aten.{_name}"] = _filled(2 if _name.startswith("new") else 1)
for _word, _number in (("zeros", 0), ("ones", 1)):
    for _form in ("{}.default", "{}_like.default", "new_{}.default"):
        LOWERINGS["aten." + _form.format(_word)] = _filled(None, _number)
LOWERINGS["aten.scalar_tensor.default"] = _filled(0)
LOWERINGS["aten.empty_like.default"] = _filled(None)  # nobody may rely on what is in there: zeros will do


@lower("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
def _arange(c: Call) -> Value:
    start, step = (0, 1) if len(c.args) == 1 else (c.args[0], c.arg(2, "step", 1))
    counted = c.b.emit("iota", n=c.out.shape[0])
    if c.out.dtype == "f32":
        counted = c.b.cast(counted, "f32")
    if step != 1:
        counted = c.b.mul(counted, c.b.const(step, counted.dtype))
    if start != 0:
        counted = c.b.add(counted, c.b.const(start, counted.dtype))
    return c.b.cast(counted, c.out.dtype)


@lower("aten.tril.default", "aten.triu.default")
def _triangle(c: Call) -> Value:
    """Entries with column - row <= diagonal (tril) or >= diagonal (triu), zeros elsewhere."""
    b, x = c.b, c.args[0]
    rows, columns = x.shape[-2:]
    row = b.emit("iota", n=rows)
    if diagonal := c.arg(1, "diagonal", 0):
        row = b.add(row, b.const(diagonal, "i64"))
    row = b.reshape(row, (rows, 1))
    inside = b.emit("le" if "tril" in c.name else "ge", b.emit("iota", n=columns), row)
    if x.dtype == "bool":
        return b.emit("and", inside, x)
    return b.emit("select", inside, x, b.const(0, x.dtype))
