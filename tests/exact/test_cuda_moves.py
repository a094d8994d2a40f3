"""Copies that turn round, prefix sums by blocks and gradients of embeddings on the fake device: the reference's bits at sizes around those of
tiles and blocks, by the kernels that are meant."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from assay.exact import reference
from assay.exact.cuda import fake
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.maps import Kernels
from assay.exact.inputs import Array, Case, case, floats, integers, program, whole
from tests.exact.test_cuda_route import named

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")


@cache
def device() -> tuple[fake.Fake, Kernels]:
    made = fake.Fake(order=fake.Order.DESCENDING)
    return made, Kernels(made)


def check(inputs: list[Array], write: Callable[[Any], list[int]]) -> set[str]:
    """Runs a case and compares every output; the names of the kernels that it took."""
    c: Case = case("moves", inputs, write)
    cuda = Cuda(program(c.part, c.gemm_bits), *device())
    got, values = cuda.run("micro", named(c)), reference.evaluate(c.part, c.inputs, c.gemm_bits)
    for o in c.part.outputs:
        assert got[o.name].tobytes() == np.asarray(values[o.value], order="C").tobytes(), o.name
    device()[0].wait()
    return {launch.kernel.name for launch in cuda._planned("micro", False).launches}


@pytest.mark.parametrize("kind", ["f32", "i64", "bool"])
def test_matrices_of_every_size_are_turned_round(kind: str) -> None:
    shapes = [(16, 16), (31, 33), (32, 64), (100, 17), (3, 40, 50), (2, 3, 17, 18), (20, 3, 2, 19)]
    axes = [(1, 0), (1, 0), (1, 0), (1, 0), (0, 2, 1), (3, 0, 1, 2), (3, 1, 2, 0)]
    inputs = [whole(seed, shape, "i64") if kind == "i64" else floats(seed, shape, "rare") for seed, shape in enumerate(shapes)]
    if kind == "bool":
        inputs = [x > 0 for x in inputs]
    kernels = check(inputs, lambda w: [w("permute", v, axes=axes[v]) for v in range(len(shapes))])
    assert kernels == {f"copy_tiles_{inputs[0].itemsize}"}


def test_what_is_read_backwards_or_over_and_over_may_be_turned_round() -> None:
    inputs = [floats(1, (40, 33), "rare"), floats(2, (1, 40), "rare")]

    def write(w: Any) -> list[int]:
        return [w("permute", w("reverse", 0, axis=0), axes=(1, 0)), w("permute", w("expand", 1, shape=(17, 40)), axes=(1, 0))]

    assert "copy_tiles_4" in check(inputs, write)


def test_small_matrices_and_windows_are_walked() -> None:
    inputs = [floats(3, (15, 40), "rare"), floats(4, (200,), "rare")]
    windows = lambda w: w("windows", 1, axis=0, size=20, stride=1, dilation=1)  # noqa: E731
    assert check(inputs, lambda w: [w("permute", 0, axes=(1, 0)), windows(w)]) == {"copy_walks_4"}


@pytest.mark.parametrize("kind", ["rare", "wide", "tiny", "i64"])
def test_prefix_sums_of_every_length_along_both_axes(kind: str) -> None:
    shapes = [(256, 3), (257, 2), (2, 256), (3, 511), (1, 513), (700, 1), (255, 2), (2, 40), (1, 2000)]
    inputs = [whole(seed, s, "i64") if kind == "i64" else floats(seed, s, kind) for seed, s in enumerate(shapes)]
    kernels = check(inputs, lambda w: [w("cumsum", v, axis=axis) for v in range(len(shapes)) for axis in (0, 1)])
    name = "cumsum_i64" if kind == "i64" else "cumsum_f32"
    assert kernels == {name, f"{name}_by_block"}


@pytest.mark.parametrize("kind", ["rare", "wide", "tiny"])
@pytest.mark.parametrize(("rows", "n", "width"), [(1, 40, 7), (50, 9, 33), (9, 300, 5), (64, 64, 1), (301, 2, 64)])
def test_gradients_of_embeddings_add_up_the_rows_that_are_named(kind: str, rows: int, n: int, width: int) -> None:
    """Rows that are named often, once, and not at all; indices of both sizes."""
    index = integers(rows, (n,), 0, rows)
    inputs = [index, index.astype(np.int32), floats(n, (n, width), kind)]
    kernels = check(inputs, lambda w: [w("scatter_add_rows", v, 2, rows=rows) for v in (0, 1)])
    assert "claim_rows" in kernels


def test_the_memory_of_a_gradient_is_that_of_the_rows_that_are_named() -> None:
    rows, n, width = 10_000, 8, 16
    c = case("few", [integers(1, (n,), 0, rows), floats(2, (n, width), "even")], lambda w: [w("scatter_add_rows", 0, 1, rows=rows)])
    cuda = Cuda(program(c.part, c.gemm_bits), *device())
    assert cuda._parts.tape("micro").scratch <= 4 * rows + 8 * n * width + 16 < 8 * rows * width
