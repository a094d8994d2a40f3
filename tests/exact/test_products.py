"""Balanced and rotated products: the same product up to rounding, the same bits on every route, and less of it lost to few bits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.build import Builder
from assay.exact import reference
from assay.exact.table import TensorType
from assay.lower.products import WIDTH, balanced, rotate, treated, width
from assay.program import Part
from tests.exact.support import ROUTES, Route, check, names

Floats = NDArray[np.float32]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]
SHAPES: list[Shapes] = [
    ((3, 1), (1, 2)),
    ((5, 2), (2, 3)),
    ((4, 3), (3, 4)),
    ((2, 7, 9), (2, 9, 5)),
    ((6, 63), (63, 4)),
    ((6, 64), (64, 1)),
    ((2, 3, 1, 65), (2, 3, 65, 8)),
    ((1, 300), (300, 33)),
]
TREATMENTS = [{"balance": b, "rotate": r} for b, r in ((False, True), (True, False), (True, True))]
treatments = pytest.mark.parametrize("treatment", TREATMENTS, ids=["rotated", "balanced", "both"])


def product(*shapes: tuple[int, ...]) -> Part:
    b = Builder()
    x, y = (b.input("batch", f"x{i}", TensorType(dtype="f32", shape=shape)) for i, shape in enumerate(shapes))
    return b.part([("acc", "y0", b.emit("matmul", x, y))])


def run(part: Part, inputs: list[Floats], bits: int) -> Floats:
    value: Floats = reference.evaluate(part, inputs, bits)[part.outputs[0].value]
    return value


def normal(*shapes: tuple[int, ...]) -> list[Floats]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def error(part: Part, inputs: list[Floats], bits: int) -> float:
    """Of the product, as a share of its size (root mean squares)."""
    exact = inputs[0].astype(np.float64) @ inputs[1].astype(np.float64)
    return float(np.sqrt(((run(part, inputs, bits) - exact) ** 2).mean() / (exact**2).mean()))


@pytest.mark.parametrize("shapes", SHAPES)
@treatments
def test_a_treated_product_is_the_product(shapes: Shapes, treatment: dict[str, bool]) -> None:
    inputs = normal(*shapes)
    turned = treated(product(*shapes), **treatment)
    exact = inputs[0].astype(np.float64) @ inputs[1].astype(np.float64)
    size = np.sqrt((inputs[0] ** 2).sum(-1)[..., :, None] * (inputs[1] ** 2).sum(-2)[..., None, :])
    assert np.all(np.abs(run(turned, inputs, 23) - exact) < 3e-6 * size)
    assert turned != product(*shapes) or shapes[1][-2] == 1


@pytest.mark.parametrize("k", [2, 4, 16, 64, 128])
def test_the_rotation_is_orthogonal(k: int) -> None:
    b = Builder()
    x = b.input("batch", "x0", TensorType(dtype="f32", shape=(k, k)))
    h = run(b.part([("acc", "y0", rotate(b, x))]), [np.eye(k, dtype=np.float32)], 8)
    assert np.array_equal(h.T @ h, width(k) * np.eye(k))
    assert np.array_equal(np.abs(h).sum(0), np.full(k, width(k)))


def test_widths() -> None:
    assert [width(k) for k in (1, 2, 3, 5, 32, 33, 64, 65, 4096)] == [1, 2, 4, 8, 32, 64, 64, 64, 64]
    assert WIDTH == 64


def test_balanced_operands_have_equal_maxima() -> None:
    x, y = normal((7, 40), (40, 5))
    x *= np.exp(np.linspace(-20, 20, 40, dtype=np.float32))
    x[:, 3], y[4], x[:, 5], y[5] = 0, 0, 0, 0
    b = Builder()
    values = balanced(b, *(b.input("batch", f"x{i}", TensorType(dtype="f32", shape=a.shape)) for i, a in enumerate((x, y))))
    part = b.part(("acc", f"y{i}", value) for i, value in enumerate(values))
    found = reference.evaluate(part, [x, y], 14)
    left, right = (np.abs(found[o.value]).max(axis) for axis, o in enumerate(part.outputs))
    assert np.all(np.isfinite(left))
    assert np.all(np.isfinite(right))
    some = np.arange(40)[(left > 0) & (right > 0)]
    assert len(some) == 37
    np.testing.assert_allclose(left[some], right[some], rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 3e38])
def test_balancing_the_least_and_greatest_floats(size: float) -> None:
    x, y = np.full((2, 3), size, np.float32), np.array([[1.0], [1e-38], [0.0]], np.float32)
    got = run(treated(product((2, 3), (3, 1)), balance=True, rotate=False), [x, y], 14)
    np.testing.assert_allclose(got, x @ y, rtol=1e-3, atol=1e-44)


@pytest.mark.parametrize("route", ROUTES, ids=names)
@pytest.mark.parametrize("shapes", SHAPES[3:])
def test_every_route_gives_the_same_bits(route: Route, shapes: Shapes) -> None:
    check(treated(product(*shapes), balance=True, rotate=True), normal(*shapes), route, gemm_bits=8)


def test_a_large_element_costs_its_neighbours_less_when_rotated() -> None:
    x, y = normal((32, 256), (256, 32))
    x[:, 5] *= 100
    y[5] = 0
    part = product(x.shape, y.shape)
    assert error(treated(part, balance=False, rotate=True), [x, y], 8) < error(part, [x, y], 8) / 2


def test_scales_that_undo_each_other_cost_nothing_when_balanced() -> None:
    x, y = normal((32, 256), (256, 32))
    units = np.exp2(np.random.default_rng(1).integers(-16, 16, 256)).astype(np.float32)
    part = product(x.shape, y.shape)
    inputs = [x * units, y / units[:, None]]
    assert error(part, inputs, 14) > 0.1
    assert error(treated(part, balance=False, rotate=True), inputs, 14) > 0.1
    assert error(treated(part, balance=True, rotate=False), inputs, 14) < 2 * error(part, [x, y], 14)
