"""A barrier that is missing is found: the fake device runs the threads of a block in three orders, and what two of them do to the same shared memory
without a barrier in between comes out wrong in at least one, if it comes out right in another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from assay.exact import reference
from assay.exact.cuda import fake
from assay.exact.cuda.device import HERE, Device, DeviceError, Launch
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.fake import Fake, Order
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.product import Products
from assay.exact.cuda.tiles import TILES, digits, groups
from assay.exact.faults import HardwareFault
from assay.exact.inputs import Case, case, floats, program, whole
from assay.exact.steps import Step
from tests.exact.test_cuda_columns import layer_norm, made
from tests.exact.test_cuda_heads import SIZES
from tests.exact.test_cuda_heads import found as packs
from tests.exact.test_cuda_onchip import HEADS, attended
from tests.exact.test_cuda_pairs import as_it_is, by_map, of, turned
from tests.exact.test_cuda_products import Single
from tests.exact.test_cuda_route import named
from tests.exact.test_cuda_rows import families_of

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")

PASS = """
KERNEL passed_on(i64 far, i64 *out) {
    __shared__ i64 each[128];
    const int own = (int)threadIdx.x, other = (own + (int)far) & 127;
    i64 found = 0;
    for (int turn = 0; turn < 3; turn++) {
        each[own] = 1000 * turn + own;
        /* written */ SYNC
        found = found * 3 + each[other];
        /* read */ SYNC
    }
    out[own] = found;
}
"""


def passed_on(sync: str, far: int, order: Order, without: str = "") -> list[int]:
    """What 128 threads find that a thread so `far` away wrote, three times, without one of the barriers."""
    device = Fake(order=order)
    text = PASS.replace(f"/* {without} */ SYNC", "").replace("SYNC", sync)
    out, buffer = np.zeros(128, np.int64), device.allocate(8 * 128)
    kernel = device.load("typedef long long i64;\n#define KERNEL extern \"C\" __global__ void\n" + text).kernel("passed_on")
    device.launch(Launch(kernel, (1, 1, 1), (128, 1, 1), (far, buffer.address)))
    device.download(buffer.address, out)
    return [int(x) for x in out]


@pytest.mark.parametrize(("sync", "far"), [("__syncwarp();", 0), ("__syncthreads();", 1), ("__syncthreads();", 40), ("__syncthreads();", -1)])
def test_a_kernel_without_a_race_does_the_same_in_every_order(sync: str, far: int) -> None:
    want = [sum(3 ** (2 - turn) * (1000 * turn + (own + far) % 128) for turn in range(3)) for own in range(128)]
    assert all(passed_on(sync, far, order) == want for order in Order)


@pytest.mark.parametrize("far", [1, -1, 31, 40, -40, 127])
@pytest.mark.parametrize("without", ["written", "read"])
def test_a_race_shows_in_one_of_the_orders(without: str, far: int) -> None:
    want = passed_on("__syncthreads();", far, Order.BY_TURNS)
    assert any(passed_on("__syncthreads();", far, order, without) != want for order in (Order.ASCENDING, Order.DESCENDING))


# ---- every barrier of the kernels ---------------------------------------------------------------------------------------------


class Without(Fake):
    """A device whose kernels lack one barrier."""

    def __init__(self, file: str, number: int, order: Order) -> None:
        super().__init__(order=order)
        self._text = (HERE / file).read_text()
        place = [*SYNC.finditer(self._text)][number]
        self._changed = self._text[: place.start()] + self._text[place.end() :]
        self.met = False

    def load(self, source: str, arch: str = "") -> fake._Module:
        self.met |= self._text in source
        return super().load(source.replace(self._text, self._changed))


def right(device: Device, c: Case, products: Products | None = None) -> bool:
    values = reference.evaluate(c.part, c.inputs, c.gemm_bits)
    got = Cuda(program(c.part, c.gemm_bits), device, Kernels(device), products).run("micro", named(c))
    return all(got[o.name].tobytes() == np.asarray(values[o.value]).tobytes() for o in c.part.outputs)


@cache
def of_lines() -> Case:
    """Maxima, sums and prefix sums over more lines and columns than there are blocks, by warps, blocks and columns."""
    inputs = [floats(1, (40, 3000), "rare"), whole(2, (40, 3000), "i64"), floats(3, (300, 1200), "wide"), whole(4, (300, 1200), "i64")]

    def write(w: Any) -> list[int]:
        wanted = [("amax", 0, 1), ("sum", 0, 1), ("sum", 1, 1), ("amax", 2, 0), ("sum", 2, 0), ("sum", 3, 0)]
        made = [w(op, v, axes=(axis,), keepdim=False) for op, v, axis in wanted]
        return [*made, w("cumsum", 0, axis=1), w("cumsum", 1, axis=1)]

    return case("lines", inputs, write)


def of_rows() -> list[Case]:
    return [of_lines(), families_of((40, 2000), "rare"), families_of((40, 9000), "rare"), made(layer_norm, (300, 40))]


@cache
def moved() -> Case:
    inputs = [floats(1, (100, 130), "rare"), whole(2, (70, 90), "i64")]
    return case("moved", inputs, lambda w: [w("permute", 0, axes=(1, 0)), w("permute", 1, axes=(1, 0))])


class Nothing(Products):
    def scratch(self, step: Step) -> int | None:
        return None


@cache
def multiplied() -> Case:
    return case("multiplied", [floats(1, (40, 300), "even"), floats(2, (300, 50), "even")], lambda w: [w("matmul", 0, 1)])


def products(device: Fake) -> Iterator[bool]:
    for bits in (14, 23):
        for tile in TILES[digits(bits).sums][-3:]:
            for parts in (1, 3):
                yield Single(device, 131, 333, 69, bits, tile, parts).run() == (True, 0)
    yield Single(device, 131, 333, 137, 14, None).run() == (True, 0)


def packed(device: Fake) -> Iterator[bool]:
    yield from products(device)
    yield from (right(device, of(make, (rows, 130, 50), "wide")) for rows in (60, 300) for make in (as_it_is, turned, by_map))
    yield attended(device, *HEADS[0])


def by_wgmma(device: Fake) -> Iterator[bool]:
    group = groups(digits(14), "sm_90")[0]
    return (Single(device, *size, 14, group, 1).run() == (True, 0) for size in ((131, 333, 69), (300, 1300, 133)))


WORK: dict[str, Callable[[Fake], Iterator[bool]]] = {
    "check.cu": products, "gemm.cu": products, "pack.cu": packed, "pack.cuh": packed,
    "heads.cu": lambda device: iter([packs(device, SIZES, 14)]), "wgmma.cu": by_wgmma,
    "attend.cuh": lambda device: (attended(device, *head) for head in HEADS),
    "attend_out.cuh": lambda device: (attended(device, *head) for head in HEADS),
    "plain.cu": lambda device: iter([right(device, multiplied(), Nothing(device))]),
    "move.cu": lambda device: iter([right(device, moved())]),
    "reduce.cu": lambda device: iter([right(device, of_lines())]),
    "lines.cuh": lambda device: (right(device, c) for c in of_rows()),
}
CONVERGING = {("wgmma.cu", 0), ("lines.cuh", 8), ("attend.cuh", 3)}
"""A warp's lanes come together before the cluster's barrier, which PTX wants of them, no memory is guarded; before it says that it has been, which
guards memory between blocks, which here run by turns (`last_of`); and before it fetches units again, where a vote has brought them together, but
votes do not order memory. persistent.cu has no others: what guards its memory are the counting barriers whose changes test_cuda_wgmma.py finds."""
SYNC = re.compile(r"__sync(?:threads|warp)\(\);")
BARRIERS = [(file, number) for file in WORK for number in range(len(SYNC.findall((HERE / file).read_text()))) if (file, number) not in CONVERGING]


@pytest.mark.slow
@pytest.mark.parametrize("file", WORK)
def test_nothing_is_wrong_where_no_barrier_is_missing(file: str) -> None:
    assert all(all(WORK[file](Fake(order=order))) for order in Order)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "number"), BARRIERS)
def test_each_barrier_of_the_kernels_is_needed(file: str, number: int) -> None:
    def found(order: Order) -> bool:
        device = Without(file, number, order)
        try:
            return not all(WORK[file](device))
        except (DeviceError, HardwareFault):
            return True
        finally:
            assert device.met

    assert any(found(order) for order in Order)
