"""Matrix products of CUDA devices, on the fake one: the kernels' own source gives the reference's bits and finds flipped ones.

Fragments of mma.sync and ldmatrix are laid out as the PTX ISA says (tensor.cuh), so that a wrong lane mapping fails here; cp.async is as late
as it may be. The conformance set's products, through the engine: test_cuda_route.py. What a compiler for GPUs makes of the source:
test_cuda_products_compile.py. Digits of bf16 and fp8: test_cuda_floats.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from assay.exact import reference
from assay.exact.cases_of_products import MOST, WIDTHS
from assay.exact.cuda import fake
from assay.exact.cuda.cuts import Cut
from assay.exact.cuda.device import Buffer, Launch
from assay.exact.cuda.operands import Axis, Operand
from assay.exact.cuda.product import Product, Products
from assay.exact.cuda.tiles import MOST_HELD, TILES, Group, Kind, Tile, Way, digits
from assay.exact.inputs import Array, floats
from tests.exact.support import same

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
ONE = Axis((1,), (0,))


@pytest.fixture(scope="module")
def device() -> fake.Fake:
    return fake.Fake(order=fake.Order.DESCENDING)


def faults_of(device: fake.Fake, products: Products) -> int:
    count = np.zeros(1, np.uint64)
    device.download(products.faults.address, count)
    return int(count[0])


def uploaded(device: fake.Fake, array: Array) -> Buffer:
    buffer = device.allocate(array.nbytes)
    device.upload(buffer.address, np.ascontiguousarray(array))
    return buffer


def maximal(m: int, k: int, n: int, bits: int) -> tuple[Array, Array]:
    """All products of digits as large as they can be: h + l = -127 at b = 14 (-126 for each 16th, so that sums of 16 are odd), else q at its
    limit. Column 1 is of the other sign."""
    most = np.float32(-8128 / 8192) if 8 < bits <= 14 else MOST
    a, b = np.full((m, k), most, np.float32), np.full((k, n), most, np.float32)
    if 8 < bits <= 14:
        a[:, ::16] = b[::16] = -8127 / 8192
    b[:, 1] *= -1
    return a, b


class Single:
    """One product of ordinary operands; `strike` flips a bit between packing and multiplying, or in between."""

    def __init__(
        self, device: fake.Fake, m: int, k: int, n: int, bits: int, tile: Tile | Group | None, parts: int | Cut | None = None, kind: str = "even",
        dtype: Kind = "int8", holds: int = MOST_HELD, processors: int = 1,
    ) -> None:  # fmt: skip
        self.device, self.products = device, Products(device)
        self.a, self.b = floats(bits + 1, (m, k), "even"), floats(bits + 2, (k, n), "even")
        if kind == "maximal":
            self.a, self.b = maximal(m, k, n, bits)
        elif kind != "even":
            self.a, self.b = floats(bits + 1, (m, k), kind), floats(bits + 2, (k, n), kind)
        self.want = reference.matmul(self.a, self.b, bits)
        a = Operand(ONE, Axis((m,), (k,)), Axis((k,), (1,)))
        b = Operand(ONE, Axis((n,), (1,)), Axis((k,), (n,)))
        self.product = Product(bits, a, b, Way(tile, dtype, holds), processors, parts)
        self.buffers = [uploaded(device, self.a), uploaded(device, self.b), device.allocate(4 * m * n), device.allocate(self.product.scratch)]

    def again(self, a: Array, b: Array) -> None:
        """With other numbers."""
        self.a, self.b, self.want = a, b, reference.matmul(a, b, self.product.bits)
        for buffer, x in zip(self.buffers, (a, b), strict=False):
            self.device.upload(buffer.address, x)

    def launches(self) -> tuple[list[Launch], list[Launch]]:
        a, b, c, scratch = (buffer.address for buffer in self.buffers)
        return self.products.packing(self.product, a, b, scratch), self.products.multiplying(self.product, c, scratch)

    def run(self, strike: tuple[str, int, int] | None = None, before: str = "gemm") -> tuple[bool, int]:
        """(whether the result is right, wrong checksums); strike: (what of the scratch memory, byte, bit), flipped before a launch."""
        already = faults_of(self.device, self.products)
        packing, multiplying = self.launches()
        for launch in (*packing, *multiplying):
            if strike is not None and launch.kernel.name == before:
                place = self.buffers[3].address + self.product.places[strike[0]] + strike[1]
                byte = np.zeros(1, np.uint8)
                self.device.download(place, byte)
                self.device.upload(place, byte ^ np.uint8(1 << strike[2]))
            self.device.launch(launch)
        c = np.empty_like(self.want)
        self.device.download(self.buffers[2].address, c)
        return same(c, self.want), faults_of(self.device, self.products) - already


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_tile_gives_the_same(device: fake.Fake, bits: int) -> None:
    for tile in TILES[digits(bits).sums][-5:]:
        for parts in (1, 3):
            single = Single(device, 131, 333, 69, bits, tile, parts)
            assert single.product.pieces[-1].parts == parts
            assert single.run() == (True, 0), f"{tile} in {parts} parts"


@pytest.mark.parametrize("bits", [pytest.param(bits, marks=[pytest.mark.slow] if bits < 23 else []) for bits in WIDTHS])
def test_sums_of_digits_are_widened_in_time(device: fake.Fake, bits: int) -> None:
    how = digits(bits)
    k = how.run + 12000  # past what an int32 holds
    single = Single(device, 2, k, 2, bits, TILES[how.sums][-1], kind="maximal")
    assert single.product.pieces[-1].parts == 2
    assert single.run() == (True, 0)


@pytest.mark.parametrize("bits", [8, 14])
def test_the_librarys_products_give_the_same(device: fake.Fake, bits: int) -> None:
    for m, k, n, kind in ((1, 1, 1, "even"), (131, 333, 137, "even"), (130, 128, 3, "rare"), (40, 200, 37, "wide")):
        single = Single(device, m, k, n, bits, None, kind=kind)
        assert single.run() == (True, 0)
    for byte in range(0, 4000, 97):  # a flip of a product of digits, before it is combined
        assert single.run(("sums", byte % 37 * 4 + byte % 3 + 512 * (byte % 40), byte % 8), before="combine")[1] == 1
    with pytest.raises(ValueError, match="library"):
        Single(device, 3, 3, 3, 15, None)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("parts", [1, 2])
def test_flipped_bits_of_digits_are_caught(device: fake.Fake, bits: int, parts: int) -> None:
    single = Single(device, 40, 200, 37, bits, TILES[digits(bits).sums][-1], parts)
    p, rng = single.product, np.random.default_rng(bits)
    for what, operand, padded in (("packed_a", p.a, p.padded_a), ("packed_b", p.b, p.padded_b)):
        for turn in range(24):
            plane, lane, k = rng.integers(p.digits.planes), rng.integers(operand.lanes.size), rng.integers(p.k)
            byte = ((plane * p.blocks + k // 128) * padded + lane) * 128 + (((k % 128 >> 4) ^ (lane & 7)) << 4 | (k & 15))
            _, wrong = single.run((what, int(byte), turn % 8))
            assert wrong > 0, f"{what}: bit {turn % 8} of plane {plane}, lane {lane}, k {k}: nobody noticed"
    assert single.run() == (True, 0)


@pytest.mark.parametrize("bits", WIDTHS)
def test_flipped_bits_of_sums_are_caught(device: fake.Fake, bits: int) -> None:
    single = Single(device, 40, 200, 37, bits, TILES[digits(bits).sums][-1], 2)
    for bit in range(0, 64, 3):
        assert single.run(("totals", 8 * (23 * bit % (40 * 37)) + bit // 8, bit % 8), before="finish")[1] == 1
    for what, index, before in (("across", 190, "expected"), ("along", 3, "compare"), ("wanted", 7, "compare"), ("columns", 36, "compare")):
        assert single.run((what, 8 * index, 2), before=before)[1] > 0
    assert single.run() == (True, 0)
