"""Sums, products of matrices, normalisation, softmax and losses, forward and backward: the ATen operators that reduce."""

from __future__ import annotations

import math
from collections.abc import Sequence

from assay.build import Builder, Value, bits_of
from assay.lower.call import Call, Result, Unsupported, lower
from assay.lower.maps import scaled


@lower("aten.sum.default", "aten.sum.dim_IntList")
def _sum(c: Call) -> Value:
    x = c.operand(c.args[0], c.out.dtype)
    return c.b.sum(x, c.axes(c.arg(1, "dim"), len(x.shape)), bool(c.arg(2, "keepdim", False)))


def mean(b: Builder, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    return b.div(b.sum(x, axes, keepdim), b.const(math.prod(x.shape[a] for a in axes)))


@lower("aten.mean.default", "aten.mean.dim")
def _mean(c: Call) -> Value:
    x = c.operand(c.args[0], "f32")
    return mean(c.b, x, c.axes(c.arg(1, "dim"), len(x.shape)), bool(c.arg(2, "keepdim", False)))


@lower("aten.cumsum.default")
def _cumsum(c: Call) -> Value:
    x = c.operand(c.args[0], c.out.dtype)
    return c.b.emit("cumsum", x, axis=c.axis(c.args[1])) if x.shape else x


@lower("aten.amax.default", "aten.max.default")
def _amax(c: Call) -> Value:
    x = c.args[0]
    axes = c.axes(c.arg(1, "dim"), len(x.shape))
    return c.b.emit("amax", x, axes=axes, keepdim=bool(c.arg(2, "keepdim", False))) if axes else x


@lower("aten.amin.default", "aten.min.default")
def _amin(c: Call) -> Value:
    x = c.b.emit("neg", c.args[0])
    axes = c.axes(c.arg(1, "dim"), len(x.shape))
    return c.b.emit("neg", c.b.emit("amax", x, axes=axes, keepdim=bool(c.arg(2, "keepdim", False))) if axes else x)


def moments(b: Builder, x: Value, axes: Sequence[int], correction: float) -> tuple[Value, Value]:
    """Mean and variance over `axes`, kept."""
    centre = mean(b, x, axes, True)
    offset = b.sub(x, centre)
    count = math.prod(x.shape[a] for a in axes) - correction
    return centre, b.div(b.sum(b.mul(offset, offset), axes, True), b.const(count))


@lower("aten.var.correction", "aten.var_mean.correction")
def _var(c: Call) -> Result:
    x = c.args[0]
    correction = c.kwargs.get("correction")
    centre, variance = moments(c.b, x, c.axes(c.arg(1, "dim"), len(x.shape)), 1 if correction is None else correction)
    if "var_mean" in c.name:
        return c.b.reshape(variance, c.out.shape), c.b.reshape(centre, c.out.shape)
    return c.b.reshape(variance, c.out.shape)


@lower("aten.mm.default", "aten.bmm.default")
def _mm(c: Call) -> Value:
    return c.b.emit("matmul", *c.args[:2])


@lower("aten.addmm.default", "aten.baddbmm.default")
def _addmm(c: Call) -> Value:
    bias, x, y = c.args[:3]
    product = scaled(c, c.b.emit("matmul", x, y), c.kwargs.get("alpha", 1))
    return c.b.add(product, scaled(c, bias, c.kwargs.get("beta", 1)))


@lower("aten.mv.default")
def _mv(c: Call) -> Value:
    x, y = c.args
    return c.b.reshape(c.b.emit("matmul", x, c.b.reshape(y, (*y.shape, 1))), c.out.shape)


@lower("aten.linalg_vector_norm.default")
def _vector_norm(c: Call) -> Value:
    b, x, order = c.b, c.args[0], c.arg(1, "ord", 2)
    axes, keep = c.axes(c.arg(2, "dim"), len(x.shape)), bool(c.arg(3, "keepdim", False))
    match order:
        case 2:
            return b.emit("sqrt", b.sum(b.mul(x, x), axes, keep))
        case 1:
            return b.sum(b.emit("abs", x), axes, keep)
        case math.inf:
            return b.emit("amax", b.emit("abs", x), axes=axes, keepdim=keep)
    raise Unsupported(f"a norm of order {order}: orders are 1, 2 and infinity")


@lower("aten.dot.default")
def _dot(c: Call) -> Value:
    return c.b.sum(c.b.mul(*c.args), (0,), False)


@lower("aten.native_layer_norm.default")
def _layer_norm(c: Call) -> Result:
    """(y, mean, 1/deviation) over the last axes (arXiv:1607.06450)."""
    b, (x, shape, weight, bias, eps) = c.b, c.args
    axes = range(len(x.shape) - len(shape), len(x.shape))
    centre, variance = moments(b, x, axes, 0)
    deviation = b.emit("rsqrt", b.add(variance, b.const(eps)))
    y = b.mul(b.sub(x, centre), deviation)
    y = y if weight is None else b.mul(y, weight)
    return y if bias is None else b.add(y, bias), centre, deviation


@lower("aten.native_layer_norm_backward.default")
def _layer_norm_backward(c: Call) -> Result:
    b, (g, x, shape, centre, deviation, weight, _) = c.b, c.args[:7]
    leading = len(x.shape) - len(shape)
    axes = range(leading, len(x.shape))
    y = b.mul(b.sub(x, centre), deviation)
    wanted = c.args[7]
    dy = g if weight is None else b.mul(g, weight)
    dx = dweight = dbias = None
    if wanted[0]:
        along = b.mul(y, mean(b, b.mul(dy, y), axes, True))
        dx = b.mul(b.sub(b.sub(dy, mean(b, dy, axes, True)), along), deviation)
    if wanted[1]:
        dweight = b.reshape(b.sum(b.mul(g, y), range(leading), False), shape)
    if wanted[2]:
        dbias = b.reshape(b.sum(g, range(leading), False), shape)
    return dx, dweight, dbias


@lower("aten._softmax.default", "aten._safe_softmax.default")
def _softmax(c: Call) -> Value:
    """exp(x - max) / sum; `_safe_softmax` gives zeros, not NaN, for a row of -inf."""
    b, x = c.b, c.args[0]
    axis = c.axis(c.args[1])
    top = b.emit("amax", x, axes=(axis,), keepdim=True)
    shifted = b.emit("exp", b.sub(x, top))
    y = b.div(shifted, b.sum(shifted, (axis,), True))
    if "safe" in c.name:
        y = b.emit("select", b.emit("eq", top, b.const(-math.inf)), b.const(0.0), y)
    return y


@lower("aten._softmax_backward_data.default")
def _softmax_backward(c: Call) -> Value:
    b, (g, y, axis) = c.b, c.args[:3]
    product = b.mul(g, y)
    return b.sub(product, b.mul(y, b.sum(product, (c.axis(axis),), True)))


@lower("aten._log_softmax.default")
def _log_softmax(c: Call) -> Value:
    b, x = c.b, c.args[0]
    axis = c.axis(c.args[1])
    shifted = b.sub(x, b.emit("amax", x, axes=(axis,), keepdim=True))
    return b.sub(shifted, b.emit("log", b.sum(b.emit("exp", shifted), (axis,), True)))


@lower("aten._log_softmax_backward_data.default")
def _log_softmax_backward(c: Call) -> Value:
    b, (g, y, axis) = c.b, c.args[:3]
    return b.sub(g, b.mul(b.emit("exp", y), b.sum(g, (c.axis(axis),), True)))


MEAN = 1
"""PyTorch's code of the reduction of a loss: 0 none, 1 mean, 2 sum."""


def _targets(c: Call, target: Value, weight: Value | None, ignore: int) -> tuple[Value, Value]:
    """As a column of indices, and the weight of each target (1.0 without `weight`; 0.0 where it does not count), as a vector."""
    if target.shape == ():
        raise Unsupported("cross-entropy of a single record without a batch axis")
    counts = c.b.cast(c.b.emit("ne", target, c.b.const(ignore, target.dtype)), "f32")
    if weight is not None:
        counts = c.b.emit("select", c.b.emit("ne", counts, c.b.const(0.0)), c.b.emit("take_rows", weight, target), c.b.const(0.0))
    return c.b.reshape(target, (*target.shape, 1)), counts


@lower("aten.nll_loss_forward.default")
def _nll_loss(c: Call) -> Result:
    """(loss, sum of the targets' weights) of log-probabilities [n, classes] and targets [n]."""
    b, (logp, target, weight, reduction, ignore) = c.b, c.args
    index, counts = _targets(c, target, weight, ignore)
    picked = b.reshape(b.emit("gather", logp, index, axis=1), target.shape)
    losses = b.emit("neg", b.mul(picked, counts))
    total = b.sum(counts, (0,), False)
    if reduction == 0:
        return losses, b.const(0.0)
    loss = b.sum(losses, (0,), False)
    return (b.div(loss, total) if reduction == MEAN else loss), total


@lower("aten.nll_loss_backward.default")
def _nll_loss_backward(c: Call) -> Value:
    b, (g, logp, target, weight, reduction, ignore, total) = c.b, c.args
    index, counts = _targets(c, target, weight, ignore)
    each = b.mul(b.div(g, total) if reduction == MEAN else g, counts)
    hot = b.emit("scatter_value", b.full(0.0, logp.type), index, axis=1, bits=bits_of(-1.0, "f32"))
    return b.mul(hot, b.reshape(b.expand(each, target.shape), (*target.shape, 1)))



@lower("aten.mse_loss.default")
def _mse_loss(c: Call) -> Value:
    b, (x, y) = c.b, c.args[:2]
    offset = b.sub(x, y)
    square = b.mul(offset, offset)
    reduction = c.arg(2, "reduction", MEAN)
    if reduction == 0:
        return square
    axes = range(len(square.shape))
    return mean(b, square, axes, False) if reduction == MEAN else b.sum(square, axes, False)


@lower("aten.mse_loss_backward.default")
def _mse_loss_backward(c: Call) -> Value:
    b, (g, x, y, reduction) = c.b, c.args
    offset = b.scale(b.sub(x, y), 2.0)
    return b.mul(offset, b.div(g, b.const(offset.type.elements)) if reduction == MEAN else g)
