"""A flipped bit in a matrix product is caught by its checksum: computed again where it was a passing fault, refused where it stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.exact import faults, numpy_route, reference
from assay.exact.conformance import Writer, program
from assay.exact.cpu import Cpu
from assay.exact.native.build import Library, levels
from tests.exact.support import Route, floats, on, same

A, B, TILE, SUM, CHECKSUM = range(1, 6)
"""Where assay_inject (gemm.c) flips a bit."""
PLACES = {"a": A, "b": B, "accumulator": TILE, "sum": SUM, "checksum": CHECKSUM}
native = pytest.mark.parametrize("level", levels())


class Product:
    """One matrix product on a route; what it gives and what it must give."""

    def __init__(self, level: str, threads: int, m: int, k: int, n: int, bits: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.inputs = [floats(rng, (m, k), "normal"), floats(rng, (k, n), "normal")]
        self.want = reference.apply("matmul", {}, self.inputs, "f32", bits)
        w = Writer(*self.inputs)
        with on(Route(level, threads)):
            self.cpu = Cpu(program(w.part(w("matmul", 0, 1)), bits), threads)

    def run(self) -> bool:
        """Whether the result is right."""
        y = self.cpu.run("micro", {"batch": dict(zip(("x0", "x1"), self.inputs, strict=True))})
        return same(y["y0"], self.want)

    @property
    def library(self) -> Library:
        assert self.cpu._library is not None
        return self.cpu._library


@native
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("place", "k", "bits"),
    # Products as short as 64 stay in the int32 accumulators: they have no int64 sums.
    [(p, k, b) for p in PLACES for k, b in [(64, 14), (300, 14), (300, 15), (90, 23)] if (p, k) != ("sum", 64)],
)
def test_every_flip_is_caught(level: str, threads: int, k: int, bits: int, place: str) -> None:
    product = Product(level, threads, 61, k, 70, bits)
    rng = np.random.default_rng(1)
    for turn in range(40):
        before = faults.count()
        product.library.inject(PLACES[place], int(rng.integers(1 << 20)), turn if place == "sum" else turn % 32, 1)
        assert product.run(), "a flipped bit reached the result"
        assert faults.count() == before + 1, f"turn {turn}: nobody noticed"
    before = faults.count()
    assert product.run()
    assert faults.count() == before


@native
@pytest.mark.parametrize("bits", [14, 23])
def test_high_bits_of_sums_are_caught(level: str, bits: int) -> None:
    product = Product(level, 1, 30, 200, 40, bits)
    for bit in range(64):
        before = faults.count()
        product.library.inject(SUM, 977 * bit, bit, 1)
        assert product.run()
        assert faults.count() == before + 1


@native
@pytest.mark.parametrize("place", PLACES)
def test_a_fault_that_stays_is_refused(level: str, place: str) -> None:
    product = Product(level, 1, 20, 200, 50, 14)
    before = faults.count()
    product.library.inject(PLACES[place], 5, 3, 2)
    with pytest.raises(faults.HardwareFault, match="doctor --conformance"):
        product.run()
    assert faults.count() == before + 2
    assert product.run()


@native
@pytest.mark.parametrize("turned", [False, True])
def test_transposed_and_batched_products_are_covered(level: str, turned: bool) -> None:
    rng = np.random.default_rng(2)
    a, b = floats(rng, (3, 40, 36), "normal"), floats(rng, (3, 40, 44), "normal")
    inputs = [a, b] if turned else [np.ascontiguousarray(a.transpose(0, 2, 1)), b]
    w = Writer(*inputs)
    part = w.part(w("matmul", w("permute", 0, axes=(0, 2, 1)) if turned else 0, 1))
    want = reference.evaluate(part, inputs, 14)[part.outputs[0].value]
    with on(Route(level, 1)):
        cpu = Cpu(program(part, 14))
    assert cpu._library is not None
    for place in (A, B, TILE):
        for index in range(0, 700, 23):
            before = faults.count()
            cpu._library.inject(place, index, index % 32, 1)
            assert same(cpu.run("micro", {"batch": {"x0": inputs[0], "x1": inputs[1]}})["y0"], want)
            assert faults.count() == before + 1


@native
@pytest.mark.parametrize("kind", ["special", "bits", "wide", "tiny", "ones"])
def test_no_false_alarm(level: str, kind: str) -> None:
    rng = np.random.default_rng(3)
    before = faults.count()
    for m, k, n in [(1, 1, 1), (13, 131, 33), (70, 400, 40), (5000, 3, 2)]:
        for bits in (8, 14, 15, 16, 23):
            a, b = floats(rng, (m, k), kind), floats(rng, (k, n), kind)
            w = Writer(a, b)
            with on(Route(level, 1)):
                Cpu(program(w.part(w("matmul", 0, 1)), bits)).run("micro", {"batch": {"x0": a, "x1": b}})
    assert faults.count() == before


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bits", [14, 15, 23])
def test_no_false_alarm_where_a_column_sums_to_more_than_an_int32_holds(bits: int, turned: bool) -> None:
    """As in the gradient of a convolution's weights, where K counts every pixel of the batch."""
    k, most = (1 << 18) + (99 if bits < 23 else 0), np.nextafter(np.float32(2), np.float32(0))
    a, b = np.full((1, k), most, np.float32), np.full((32, k) if turned else (k, 32), most, np.float32)
    w = Writer(a, b)
    part = w.part(w("matmul", 0, w("permute", 1, axes=(1, 0)) if turned else 1))
    want, before = reference.evaluate(part, [a, b], bits)[-1], faults.count()
    for level in levels():
        with on(Route(level, 1)):
            got = Cpu(program(part, bits)).run("micro", {"batch": {"x0": a, "x1": b}})["y0"]
        assert same(got, want)
    assert faults.count() == before


@pytest.mark.parametrize("times", [1, 2])
def test_numpy_catches_too(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    product = Product("numpy", 1, 9, 20, 7, 14)
    right, left = numpy_route.integer_product, times

    def flipped(qa: NDArray[Any], qb: NDArray[Any], bits: int) -> NDArray[Any]:
        nonlocal left
        y = right(qa, qb, bits)
        if left:
            left -= 1
            y[3, 4] ^= 1 << 35
        return y

    monkeypatch.setattr(numpy_route, "integer_product", flipped)
    before = faults.count()
    if times == 1:
        assert product.run()
    else:
        with pytest.raises(faults.HardwareFault):
            product.run()
    assert faults.count() == before + times
