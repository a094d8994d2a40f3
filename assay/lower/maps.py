"""Elementwise ATen operators, forward and backward, as MAP nodes."""

from __future__ import annotations

import math

from assay.build import Builder, Value
from assay.lower.call import LOWERINGS, Call, Lowering, Unsupported, lower


def _unary(op: str) -> Lowering:
    return lambda c: c.b.emit(op, c.operand(c.args[0], "f32"))


for _name in ("neg", "abs", "sqrt", "rsqrt", "reciprocal", "exp", "log", "tanh", "erf", "sigmoid", "relu", "sin", "cos"):
    LOWERINGS[f"aten.{_name}.default"] = _unary(_name)


@lower("aten.neg.default")
def _neg(c: Call) -> Value:
    return c.b.emit("neg", c.args[0]) if c.out.dtype == "f32" else c.b.sub(c.b.const(0, c.out.dtype), c.args[0])


def scaled(c: Call, x: Value, alpha: float) -> Value:
    return x if alpha == 1 else c.b.mul(x, c.b.const(alpha, c.out.dtype))


@lower("aten.add.Tensor", "aten.add.Scalar")
def _add(c: Call) -> Value:
    x, y = (c.operand(a, c.out.dtype) for a in c.args[:2])
    return c.b.add(x, scaled(c, y, c.arg(2, "alpha", 1)))


@lower("aten.sub.Tensor", "aten.sub.Scalar")
def _sub(c: Call) -> Value:
    x, y = (c.operand(a, c.out.dtype) for a in c.args[:2])
    return c.b.sub(x, scaled(c, y, c.arg(2, "alpha", 1)))


@lower("aten.rsub.Scalar", "aten.rsub.Tensor")
def _rsub(c: Call) -> Value:
    x, y = (c.operand(a, c.out.dtype) for a in c.args[:2])
    return c.b.sub(y, scaled(c, x, c.arg(2, "alpha", 1)))


def _binary(op: str) -> Lowering:
    return lambda c: c.b.emit(op, *(c.operand(a, c.out.dtype) for a in c.args[:2]))


for _name in ("mul", "div"):
    LOWERINGS[f"aten.{_name}.Tensor"] = LOWERINGS[f"aten.{_name}.Scalar"] = _binary(_name)
LOWERINGS["aten.maximum.default"] = LOWERINGS["aten.clamp_min.Tensor"] = _binary("maximum")
LOWERINGS["aten.minimum.default"] = LOWERINGS["aten.clamp_max.Tensor"] = _binary("minimum")
LOWERINGS["aten.clamp_min.default"] = _binary("maximum")
LOWERINGS["aten.clamp_max.default"] = _binary("minimum")


@lower("aten.clamp.default", "aten.clamp.Tensor", "aten.hardtanh.default")
def _clamp(c: Call) -> Value:
    x = c.operand(c.args[0], c.out.dtype)
    for at, name, op in ((1, "min", "maximum"), (2, "max", "minimum")):
        if (bound := c.arg(at, name)) is not None:
            x = c.b.emit(op, x, c.operand(bound, c.out.dtype))
    return x


@lower("aten.pow.Tensor_Scalar")
def _pow(c: Call) -> Value:
    """Halves and whole numbers up to 8 by products and a root; else exp(n log x), which is NaN for x < 0 and off by about |n log x|
    units in the last place."""
    x, n = c.operand(c.args[0], "f32"), c.args[1]
    if n == 0:
        return c.b.full(1.0, c.out)
    if 2 * n != int(2 * n) or not -8 <= n <= 8:
        return c.b.emit("exp", c.b.scale(c.b.emit("log", x), n))
    if n == -0.5:
        return c.b.emit("rsqrt", x)
    if n < 0:
        x, n = c.b.emit("reciprocal", x), -n
    result, square, n = (c.b.emit("sqrt", x) if n != int(n) else None), x, int(n)
    while n:
        if n & 1:
            result = square if result is None else c.b.mul(result, square)
        n >>= 1
        square = c.b.mul(square, square) if n else square
    assert result is not None
    return result


@lower("aten.pow.Scalar")
def _power_of(c: Call) -> Value:
    """n ^ x = exp(x log n)."""
    n = c.args[0]
    if n <= 0:
        raise Unsupported(f"pow with the base {n}: a base that is a number is above 0")
    return c.b.emit("exp", c.b.scale(c.operand(c.args[1], "f32"), math.log(n)))


@lower("aten.exp2.default")
def _exp2(c: Call) -> Value:
    return c.b.emit("exp", c.b.scale(c.operand(c.args[0], "f32"), math.log(2)))


@lower("aten.log2.default", "aten.log10.default")
def _log2(c: Call) -> Value:
    return c.b.div(c.b.emit("log", c.operand(c.args[0], "f32")), c.b.const(math.log(10 if "log10" in c.name else 2)))


def _rounding(c: Call) -> tuple[Value, Value, Value]:
    """(x, x truncated towards zero, whether x may have a fraction): beyond 2^23 every f32 is whole."""
    b, x = c.b, c.args[0]
    if x.dtype != "f32":
        raise Unsupported("rounding of integers")
    return x, b.cast(b.cast(x, "i64"), "f32"), b.emit("lt", b.emit("abs", x), b.const(2.0**23))


@lower("aten.trunc.default")
def _trunc(c: Call) -> Value:
    return _truncated(c)


def _truncated(c: Call) -> Value:
    x, whole, some = _rounding(c)
    return c.b.emit("select", some, whole, x)


@lower("aten.floor.default", "aten.ceil.default")
def _floor(c: Call) -> Value:
    b, (x, whole, some) = c.b, _rounding(c)
    up = "ceil" in c.name
    past = b.emit("lt" if up else "gt", whole, x)
    return b.emit("select", some, b.add(whole, b.emit("select", past, b.const(1.0 if up else -1.0), b.const(0.0))), x)


@lower("aten.round.default")
def _round(c: Call) -> Value:
    """To nearest even: what is below 2^22 loses its fraction when 1.5 · 2^23 is added."""
    b, x = c.b, c.args[0]
    magic = b.const(1.5 * 2.0**23)
    return b.emit("select", b.emit("lt", b.emit("abs", x), b.const(2.0**22)), b.sub(b.add(x, magic), magic), _truncated(c))


@lower("aten.expm1.default")
def _expm1(c: Call) -> Value:
    """(u - 1) x / log u with u = exp x near zero, where both errors cancel (Kahan; Higham, Accuracy and Stability, 1.14.1)."""
    b, x, one = c.b, c.args[0], c.b.const(1.0)
    u = b.emit("exp", x)
    less = b.sub(u, one)
    near = b.emit("select", b.emit("eq", u, one), x, b.div(b.mul(less, x), b.emit("log", u)))
    return b.emit("select", b.emit("lt", b.emit("abs", x), one), near, less)


@lower("aten.isnan.default")
def _isnan(c: Call) -> Value:
    return c.b.emit("ne", c.args[0], c.args[0])


@lower("aten.sign.default", "aten.sgn.default")
def _sign(c: Call) -> Value:
    x, zero = c.args[0], c.b.const(0.0)
    negative = c.b.emit("select", c.b.emit("lt", x, zero), c.b.const(-1.0), zero)
    return c.b.emit("select", c.b.emit("gt", x, zero), c.b.const(1.0), negative)


@lower("aten.where.self")
def _where(c: Call) -> Value:
    return c.b.emit("select", c.args[0], *(c.operand(a, c.out.dtype) for a in c.args[1:3]))


@lower("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _masked_fill(c: Call) -> Value:
    return c.b.emit("select", c.args[1], c.operand(c.args[2], c.out.dtype), c.args[0])


def _compare(op: str) -> Lowering:
    def compare(c: Call) -> Value:
        numbers = [a.dtype if isinstance(a, Value) else ("f32" if isinstance(a, float) else "") for a in c.args[:2]]
        dtype = "f32" if "f32" in numbers else "i64"
        return c.b.emit(op, *(c.operand(a, dtype) for a in c.args[:2]))

    return compare


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    LOWERINGS[f"aten.{_name}.Tensor"] = LOWERINGS[f"aten.{_name}.Scalar"] = _compare(_name)


def _logical(op: str, bitwise: bool) -> Lowering:
    def logical(c: Call) -> Value:
        if bitwise and c.out.dtype != "bool":
            raise Unsupported("bitwise operators work on bool only")
        return c.b.emit(op, *(c.operand(a, "bool") for a in c.args))

    return logical


for _name in ("and", "or", "not"):
    LOWERINGS[f"aten.logical_{_name}.default"] = _logical(_name, False)
    _form = "default" if _name == "not" else "Tensor"
    LOWERINGS[f"aten.bitwise_{_name}.{_form}"] = _logical(_name, True)


@lower("aten._to_copy.default")
def _to_copy(c: Call) -> Value:
    return c.operand(c.args[0], c.out.dtype)


@lower("aten.silu.default")
def _silu(c: Call) -> Value:
    return c.b.mul(c.args[0], c.b.emit("sigmoid", c.args[0]))


_GELU_A = 2 * math.sqrt(2 / math.pi)
_GELU_B = _GELU_A * 0.044715


@lower("aten.gelu.default")
def _gelu(c: Call) -> Value:
    """GELU (arXiv:1606.08415); its tanh form 0.5 x (1 + tanh u) is x · sigmoid(2 u)."""
    b, x = c.b, c.args[0]
    if c.arg(1, "approximate", "none") == "tanh":
        u = b.mul(x, b.add(b.scale(b.mul(x, x), _GELU_B), b.const(_GELU_A)))
        return b.mul(x, b.emit("sigmoid", u))
    return b.mul(x, _normal_cdf(b, x))


def _normal_cdf(b: Builder, x: Value) -> Value:
    return b.scale(b.add(b.emit("erf", b.scale(x, math.sqrt(0.5))), b.const(1.0)), 0.5)


@lower("aten.gelu_backward.default")
def _gelu_backward(c: Call) -> Value:
    b, (g, x) = c.b, c.args[:2]
    square = b.mul(x, x)
    if c.arg(2, "approximate", "none") == "tanh":
        u = b.mul(x, b.add(b.scale(square, _GELU_B), b.const(_GELU_A)))
        du = b.add(b.scale(square, 3 * _GELU_B), b.const(_GELU_A))
        s = b.emit("sigmoid", u)
        return b.mul(g, b.add(s, b.mul(b.mul(b.mul(x, s), b.sub(b.const(1.0), s)), du)))
    density = b.scale(b.emit("exp", b.scale(square, -0.5)), 1 / math.sqrt(2 * math.pi))
    return b.mul(g, b.add(_normal_cdf(b, x), b.mul(x, density)))


@lower("aten.tanh_backward.default")
def _tanh_backward(c: Call) -> Value:
    b, (g, y) = c.b, c.args
    return b.mul(g, b.sub(b.const(1.0), b.mul(y, y)))


@lower("aten.sigmoid_backward.default")
def _sigmoid_backward(c: Call) -> Value:
    b, (g, y) = c.b, c.args
    return b.mul(g, b.mul(y, b.sub(b.const(1.0), y)))


@lower("aten.threshold_backward.default")
def _threshold_backward(c: Call) -> Value:
    g, x, bound = c.args
    return c.b.emit("select", c.b.emit("gt", x, c.b.const(bound)), g, c.b.const(0.0))


@lower("aten.log1p.default")
def _log1p(c: Call) -> Value:
    """log(u) x / (u - 1) with u = 1 + x rounded, x where u is 1: both errors cancel (Goldberg, ACM Computing Surveys 23, 1991)."""
    b, x = c.b, c.args[0]
    one = b.const(1.0)
    u = b.add(x, one)
    return b.emit("select", b.emit("eq", u, one), x, b.mul(b.emit("log", u), b.div(x, b.sub(u, one))))


@lower("aten.elu.default")
def _elu(c: Call) -> Value:
    b, x = c.b, c.args[0]
    alpha, scale, inner = c.arg(1, "alpha", 1), c.arg(2, "scale", 1), c.arg(3, "input_scale", 1)
    below = b.scale(b.sub(b.emit("exp", b.scale(x, inner)), b.const(1.0)), alpha * scale)
    return b.emit("select", b.emit("gt", x, b.const(0.0)), b.scale(x, scale), below)


@lower("aten.elu_backward.default")
def _elu_backward(c: Call) -> Value:
    b, (g, alpha, scale, inner, of_result, x) = c.b, c.args
    slope = b.add(x, b.const(alpha * scale)) if of_result else b.scale(b.emit("exp", b.scale(x, inner)), alpha * scale)
    return b.emit("select", b.emit("gt", x, b.const(0.0)), b.scale(g, scale), b.mul(g, b.scale(slope, inner)))


@lower("aten.leaky_relu.default")
def _leaky_relu(c: Call) -> Value:
    b, x = c.b, c.args[0]
    return b.emit("select", b.emit("gt", x, b.const(0.0)), x, b.scale(x, c.arg(1, "negative_slope", 0.01)))


@lower("aten.leaky_relu_backward.default")
def _leaky_relu_backward(c: Call) -> Value:
    b, (g, x, slope) = c.b, c.args[:3]
    return b.emit("select", b.emit("gt", x, b.const(0.0)), g, b.scale(g, slope))
