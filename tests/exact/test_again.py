"""Values that a step makes again of what lies in memory anyway: which are, which are not, and that the bits are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from assay.exact.again import Again, Makings, _Way
from assay.exact.cuda import fake
from assay.exact.inputs import Writer, case, floats
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.exact.views import View
from tests.exact.test_cuda_rows import agrees, expanded, log_softmax, norm, norm_back, over

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
SHAPE = (24, 160)


def gelu(w: Writer) -> Sequence[int]:
    """As a multilayer perceptron has it, with products before and behind."""
    h = w("matmul", 0, 1)
    square = w("mul", h, h)
    s = w("sigmoid", w("mul", h, w("add", w("mul", square, expanded(w, w.f32(0.0713), h)), expanded(w, w.f32(1.595), h))))
    y = w("mul", h, s)
    g = w("matmul", w("matmul", y, 1), 1)
    slope = w("add", w("mul", w("mul", y, w("sub", expanded(w, w.f32(1.0), s), s)), square), s)
    return [w("matmul", w("mul", g, slope), 1)]


def layer_norm(w: Writer) -> Sequence[int]:
    x = w("add", 0, 2)
    made, y = norm(w, x, 3)
    g = w("matmul", w("matmul", made, 1), 1)
    return [w("matmul", w("add", norm_back(w, y, g, 3), w("cumsum", x, axis=1)), 1)]


def cross_entropy(w: Writer) -> Sequence[int]:
    x = w("matmul", 0, 1)
    logs = log_softmax(w, x)
    total = w("cumsum", over(w, "sum", w("exp", logs)), axis=0)
    return [w("matmul", w("sub", w("exp", logs), expanded(w, total, logs)), 1)]


def plans(write: Callable[[Writer], Sequence[int]], monkeypatch: pytest.MonkeyPatch) -> tuple[list[Step], list[Step]]:
    """Steps with values made again, and without."""
    n = SHAPE[1]
    c = case(write.__name__, [floats(1, SHAPE, "even"), floats(2, (n, n), "even"), floats(3, SHAPE, "even"), floats(4, (n,), "even")], write)
    with_ = Plan(c.part, {}, 14, rows=True)
    if fake.compiler() is not None:
        assert agrees(c)
    with monkeypatch.context() as patch:
        patch.setattr(Again, "made", lambda self: self._steps)
        return with_.steps, Plan(c.part, {}, 14, rows=True).steps


def wide(steps: list[Step], of: str) -> int:
    """Values of a whole matrix that the MAP steps and rows read, or write."""
    size = SHAPE[0] * SHAPE[1]
    return sum(v.elements == size and 0 not in v.strides for step in steps if step.name in ("map", "rows") for v in getattr(step, of))


@pytest.mark.parametrize(("write", "reads", "writes"), [(gelu, 2, 2), (layer_norm, 0, 1), (cross_entropy, 0, 1)])
def test_what_is_near_something_that_lies_there_is_not_stored(
    write: Callable[[Writer], Sequence[int]], reads: int, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a GELU the square and the sigmoid, which its input gives; of a layer norm the centred rows; of cross-entropy the logarithms."""
    steps, before = plans(write, monkeypatch)
    assert wide(before, "reads") - wide(steps, "reads") == reads
    assert wide(before, "writes") - wide(steps, "writes") == writes


def by_product(w: Writer) -> Sequence[int]:
    """A product reads the value, too, and what it is made of lies nowhere else."""
    e = w("exp", w("matmul", 0, 1))
    y = w("matmul", e, 1)
    return [w("matmul", w("add", w("cumsum", y, axis=1), e), 1)]


def of_two(w: Writer) -> Sequence[int]:
    """Two values would be read instead of one."""
    s = w("add", w("matmul", 0, 1), w("matmul", 2, 1))
    y = w("cumsum", w("exp", s), axis=1)
    return [w("matmul", w("mul", y, s), 1)]


def far(w: Writer) -> Sequence[int]:
    """Two exponentials away."""
    e = w("exp", w("neg", w("exp", w("matmul", 0, 1))))
    y = w("cumsum", w("neg", e), axis=1)
    return [w("matmul", w("mul", y, e), 1)]


@pytest.mark.parametrize("write", [by_product, of_two, far])
def test_what_would_save_nothing_is_stored(write: Callable[[Writer], Sequence[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    steps, before = plans(write, monkeypatch)
    assert steps == before


@needs_compiler
def test_a_value_that_is_made_again_of_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Again._with

    def wrong(self: Again, at: int, reader: int, maker: Makings, v: View, way: _Way) -> Step | None:
        code = tuple(i._replace(kernel=i.kernel.replace("mul", "sub")) for i in way.code)
        return right(self, at, reader, maker, v, way._replace(code=code))

    monkeypatch.setattr(Again, "_with", wrong)
    n = SHAPE[1]
    assert not agrees(case("wrong", [floats(1, SHAPE, "even"), floats(2, (n, n), "even"), floats(3, SHAPE, "even")], gelu))
