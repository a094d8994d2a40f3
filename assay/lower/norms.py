"""Normalisation over a batch or over groups of channels, forward and backward (arXiv:1502.03167, arXiv:1803.08494).

Running statistics are not the business of these operators: assay.replay writes their update as arithmetic of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from assay.build import Builder, Value
from assay.lower.call import Call, Result, lower
from assay.lower.reduces import mean, moments


def _channels(b: Builder, v: Value, rank: int) -> Value:
    """[C] as [C, 1, ...], to go with [N, C, ...]."""
    return b.reshape(v, (v.type.elements, *(1,) * (rank - 2)))


def _affine(b: Builder, x: Value, weight: Value | None, bias: Value | None) -> Value:
    if weight is not None:
        x = b.mul(x, _channels(b, weight, len(x.shape)))
    return x if bias is None else b.add(x, _channels(b, bias, len(x.shape)))


def _slope(b: Builder, dy: Value, y: Value, deviation: Value, axes: Sequence[int]) -> Value:
    """Gradient of y = (x - mean) · deviation by x, both taken over `axes`."""
    along = b.mul(y, mean(b, b.mul(dy, y), axes, True))
    return b.mul(b.sub(b.sub(dy, mean(b, dy, axes, True)), along), deviation)


def _sums(b: Builder, g: Value, y: Value, wanted: Sequence[bool]) -> tuple[Value | None, Value | None]:
    """Gradients of weight and bias."""
    axes = [0, *range(2, len(g.shape))]
    return b.sum(b.mul(g, y), axes, False) if wanted[1] else None, b.sum(g, axes, False) if wanted[2] else None


@lower("aten.native_batch_norm.default")
def _batch_norm(c: Call) -> Result:
    """(y, mean, 1/deviation) of [N, C, ...]; outside of training by the running statistics, and nothing is saved."""
    b, (x, weight, bias, running_mean, running_var, training, _, eps) = c.b, c.args
    rank = len(x.shape)
    if not training:
        deviation = b.emit("rsqrt", b.add(_channels(b, running_var, rank), b.const(eps)))
        return _affine(b, b.mul(b.sub(x, _channels(b, running_mean, rank)), deviation), weight, bias), None, None
    centre, variance = moments(b, x, [0, *range(2, rank)], 0)
    deviation = b.emit("rsqrt", b.add(variance, b.const(eps)))
    y = _affine(b, b.mul(b.sub(x, centre), deviation), weight, bias)
    return y, b.reshape(centre, (x.shape[1],)), b.reshape(deviation, (x.shape[1],))


@lower("aten.native_batch_norm_backward.default")
def _batch_norm_backward(c: Call) -> Result:
    b, (g, x, weight, running_mean, running_var, centre, deviation, training, eps, wanted) = c.b, c.args
    rank = len(x.shape)
    if not training:
        centre, deviation = running_mean, b.emit("rsqrt", b.add(running_var, b.const(eps)))
    deviation = _channels(b, deviation, rank)
    y = b.mul(b.sub(x, _channels(b, centre, rank)), deviation)
    dy = _affine(b, g, weight, None)
    dx = None
    if wanted[0]:
        dx = _slope(b, dy, y, deviation, [0, *range(2, rank)]) if training else b.mul(dy, deviation)
    return dx, *_sums(b, g, y, wanted)


@lower("aten.native_group_norm.default")
def _group_norm(c: Call) -> Result:
    """(y, mean [N, groups], 1/deviation) of [N, C, ...]."""
    b, (x, weight, bias, n, channels, _, groups, eps) = c.b, c.args
    grouped = b.reshape(x, (n, groups, channels // groups * math.prod(x.shape[2:])))
    centre, variance = moments(b, grouped, [2], 0)
    deviation = b.emit("rsqrt", b.add(variance, b.const(eps)))
    y = b.reshape(b.mul(b.sub(grouped, centre), deviation), x.shape)
    return _affine(b, y, weight, bias), b.reshape(centre, (n, groups)), b.reshape(deviation, (n, groups))


@lower("aten.native_group_norm_backward.default")
def _group_norm_backward(c: Call) -> Result:
    b, (g, x, centre, deviation, weight, n, channels, _, groups, wanted) = c.b, c.args
    within = (n, groups, channels // groups * math.prod(x.shape[2:]))
    centre, deviation = b.reshape(centre, (n, groups, 1)), b.reshape(deviation, (n, groups, 1))
    y = b.mul(b.sub(b.reshape(x, within), centre), deviation)
    dx = None
    if wanted[0]:
        dx = b.reshape(_slope(b, b.reshape(_affine(b, g, weight, None), within), y, deviation, [2]), x.shape)
    return dx, *_sums(b, g, b.reshape(y, x.shape), wanted)
