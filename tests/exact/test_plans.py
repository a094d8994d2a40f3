"""What a plan reads where it lies: windows as operands of matrix products, strided sums, pooling's maxima. The bits are the reference's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from assay.exact import reference
from assay.exact.conformance import Writer, program
from assay.exact.cpu import Cpu
from assay.exact.native.build import levels
from tests.exact.support import Array, Route, floats, names, on, same

routes = pytest.mark.parametrize("route", [Route(level, threads) for level in levels() for threads in (1, 2)], ids=names)


def both(route: Route, w: Writer, arrays: list[Array], *values: int) -> list[str]:
    """Checks a part on a route against the reference; the names of its plan's steps."""
    part = w.part(*values)
    want = reference.evaluate(part, arrays, 14)
    with on(route):
        cpu = Cpu(program(part, 14), route.threads)
        got = cpu.run("micro", {"batch": {f"x{i}": a for i, a in enumerate(arrays)}})
    for o in part.outputs:
        assert same(got[o.name], want[o.value])
    assert cpu._library is not None
    return [step.name for step in cpu._planned("micro", False, cpu._library).plan.steps]


def columns(w: Writer, x: int, size: int, stride: int, groups: int, n: int, c: int, out: int) -> int:
    """[N, C, H, W] -> [G, C/G · size², N · out²], as assay/lower/windows.py writes it."""
    for axis in (3, 2):
        x = w("windows", x, axis=axis, size=size, stride=stride, dilation=1)
    return w("reshape", w("permute", x, axes=(1, 3, 5, 0, 2, 4)), shape=(groups, c // groups * size * size, n * out * out))


@routes
def test_convolutions_read_windows_where_they_lie(route: Route) -> None:
    for seed, (side, size, stride, groups) in enumerate(itertools.product((6, 7, 10, 18), (1, 3), (1, 2), (1, 2))):
        n, c, o, out = 3, 4, 6, (side - size) // stride + 1
        rng = np.random.default_rng(seed)
        inner = c // groups * size * size
        kind = "normal" if seed % 3 else "special"
        shapes = ((n, c, side, side), (groups, o // groups, inner), (groups, o // groups, n * out * out))
        arrays = [floats(rng, shape, kind) for shape in shapes]
        w = Writer(*arrays)
        steps = both(route, w, arrays, w("matmul", 1, columns(w, 0, size, stride, groups, n, c, out)),
                     w("matmul", 2, w("permute", columns(w, 0, size, stride, groups, n, c, out), axes=(0, 2, 1))))  # fmt: skip
        assert steps == ["matmul", "matmul"], "the columns were written out"


@routes
def test_columns_that_others_read_are_made(route: Route) -> None:
    rng = np.random.default_rng(0)
    arrays = [floats(rng, (2, 3, 8, 8), "normal"), floats(rng, (1, 5, 27), "normal")]
    for other in (False, True):
        w = Writer(*arrays)
        x = columns(w, 0, 3, 1, 1, 2, 3, 6)
        assert "copy" in both(route, w, arrays, w("matmul", 1, x), w("neg", x) if other else x)


@routes
@pytest.mark.parametrize("kind", ["normal", "special"])
def test_reductions_of_strided_values(route: Route, kind: str) -> None:
    rng = np.random.default_rng(2)
    for shape in ((5, 3, 4, 4), (3, 20, 2, 9), (70, 33), (1, 1, 40, 300)):
        for axes in itertools.chain.from_iterable(itertools.combinations(range(len(shape)), r) for r in range(1, len(shape) + 1)):
            arrays = [floats(rng, shape, kind)]
            w = Writer(*arrays)
            turned = w("permute", 0, axes=tuple(reversed(range(len(shape)))))
            both(route, w, arrays, *(w(op, x, axes=axes, keepdim=k) for op in ("sum", "amax") for x, k in ((0, True), (turned, False))))


@routes
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_maxima_of_windows(route: Route, stride: int) -> None:
    arrays = [floats(np.random.default_rng(3), (4, 5, 11, 13), "special")]
    w = Writer(*arrays)
    x = w("relu", 0)
    for axis in (3, 2):
        x = w("windows", x, axis=axis, size=3, stride=stride, dilation=1)
    top = w("amax", w("amax", x, axes=(5,), keepdim=True), axes=(3,), keepdim=True)
    both(route, w, arrays, w("cast", w("eq", x, top), dtype="f32"), w("add", top, w("amax", x, axes=(3, 5), keepdim=True)))
