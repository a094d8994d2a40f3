"""The CUDA route on the fake device: the conformance set and the trainings reach the digests of the NumPy reference, on the kernels' own source.

What these tests cannot show is in docs/cuda.md: a GPU runs them all again (make test-gpu).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from assay.exact import conformance, faults, hashing, reference, trainings
from assay.exact.cuda import attend, fake, maps, rows
from assay.exact.cuda.device import Device, Launch
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.fake import Order
from assay.exact.cuda.gpu import Gpu
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.plans import plan_for
from assay.exact.cuda.product import Product, Products
from assay.exact.cuda.trees import Trees, work_bytes
from assay.exact.cuda.walks import magic, walk_words
from assay.exact.cuda.zeroed import Zeros
from assay.exact.inputs import Case, case, floats, integers, program, whole, words
from assay.exact.steps import Step
from assay.exact.views import View
from assay.program import ProgramError

ON_GPU = os.environ.get("ASSAY_TEST_GPU") == "1"
"""Set by `make test-gpu`: the same tests on this machine's first GPU."""
pytestmark = pytest.mark.gpu if ON_GPU else pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")

CASES = {c.name: c for c in conformance.cases()}


@cache
def kernels(order: Order = Order.BY_TURNS) -> tuple[Device, Kernels]:
    """The device, and what it has compiled: all MAP kernels of the set at once, which takes seconds instead of minutes. `order`: in which the fake
    device's threads run."""
    device: Device = Gpu() if ON_GPU else fake.Fake(order=order)
    compiled = Kernels(device)
    products = Products(device)
    plans = [plan_for(c.part, {}, c.gemm_bits, device.description, products, trace) for c in CASES.values() for trace in (False, True)]
    compiled.compile(rows.texts(plans))
    attend.compiled(compiled, attend.kernels(plans, device.description))
    return device, compiled


def engine(c: Case, order: Order = Order.BY_TURNS) -> Cuda:
    device, compiled = kernels(order)
    return Cuda(program(c.part, c.gemm_bits), device, compiled)


def named(c: Case) -> dict[str, dict[str, np.ndarray]]:
    return {"batch": {f"x{i}": a for i, a in enumerate(c.inputs)}}


def long(name: str) -> bool:
    """Cases that take seconds on the fake device and whose like, at another b, is in the quick run; "many terms" of the most digits:
    test_cuda_products."""
    several = ("many rows", "many terms", "of every shape", "for many threads", "matmul even")
    return any(what in name for what in several) and not name.endswith("b=14")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if long(name) and not ON_GPU else ()) for name in CASES])
def test_a_case_reaches_the_published_digest_fused_and_stage_by_stage(name: str) -> None:
    c, want = CASES[name], conformance.expected()[name]
    fused, traced = engine(c, Order.DESCENDING), engine(c, Order.ASCENDING)
    assert conformance.digest_of(list(fused.run("micro", named(c)).values())) == want
    outputs, roots = traced.trace("micro", named(c))
    assert conformance.digest_of(list(outputs.values())) == want
    assert [roots[o.value - len(c.inputs)] for o in c.part.outputs] == [hashing.tensor_root(y) for y in outputs.values()]


def reaches(family: str, steps: int) -> None:
    device, compiled = kernels([*Order][trainings.FAMILIES.index(family) % len(Order)])
    training = trainings.load(family)
    want = trainings.expected()[family]
    got = trainings.roots(training, Cuda(training.program, device, compiled).run, steps)
    assert {str(n): root.hex() for n, root in got.items()} == {n: root for n, root in want.items() if int(n) <= steps}


@pytest.mark.parametrize("family", trainings.FAMILIES)
def test_a_training_reaches_the_published_states(family: str) -> None:
    reaches(family, 100 if ON_GPU else 2)


@pytest.mark.slow
@pytest.mark.parametrize("family", trainings.FAMILIES)
def test_a_training_of_a_hundred_steps_reaches_the_published_states(family: str) -> None:
    reaches(family, 100)


@pytest.mark.parametrize("name", ["matmul of every shape b=14", "matmul of every scale b=23", "matmul of views b=14", "signed zeros"])
def test_plain_products_have_the_same_bits(name: str) -> None:
    """Those that stand in where a product has too many rows."""

    class Nothing(Products):
        def product(self, step: Step) -> Product | None:
            return None

    device, compiled = kernels()
    c = CASES[name]
    cuda = Cuda(program(c.part, c.gemm_bits), device, compiled, Nothing(device))
    assert conformance.digest_of(list(cuda.run("micro", named(c)).values())) == conformance.expected()[name]


class Flipping(Products):
    """Counts a fault for each of the first `times` products, as a wrong checksum does."""

    def __init__(self, device: Device, compiled: Kernels, times: int) -> None:
        super().__init__(device)
        text = "KERNEL strike(u64 *left, u64 *faults) { if (*left) { *left -= 1; *faults += 1; } }"
        compiled.compile([maps.MapText("strike", text)])
        self._left = device.allocate(8)
        device.upload(self._left.address, np.array([times], np.uint64))
        self._strike = Launch(compiled["strike"], (1, 1, 1), (1, 1, 1), (self._left.address, self.faults.address))

    def prepare(self, step: Step, at: Callable[[View], int], scratch: int, zeroed: Zeros | None = None) -> list[Launch]:
        return [*super().prepare(step, at, scratch, zeroed), self._strike]


@pytest.mark.parametrize("traced", [False, True])
def test_a_fault_is_computed_again_and_the_second_ends_it(traced: bool) -> None:
    device, compiled = kernels()
    c = CASES["matmul at ties b=14"]
    before = faults.count()

    def run(times: int) -> str:
        cuda = Cuda(program(c.part, c.gemm_bits), device, compiled, Flipping(device, compiled, times))
        outputs = cuda.trace("micro", named(c))[0] if traced else cuda.run("micro", named(c))
        return conformance.digest_of(list(outputs.values()))

    assert run(1) == conformance.expected()[c.name]
    assert faults.count() == before + 1
    products = sum(node.op == "matmul" for node in c.part.nodes)
    with pytest.raises(faults.HardwareFault):
        run(2 * products)


# ---- what the set leaves out: reductions cut among blocks, at every size --------------------------------------------------------


REDUCED = [(1, 1), (3, 31), (7, 33), (5, 1025), (9, 4095), (1, 4096), (2, 4097), (3, 9001), (1, 70001), (33, 5000), (300, 70), (31, 2), (4100, 3)]


@pytest.mark.parametrize("kind", ["rare", "wide", "tiny"])
def test_sums_and_maxima_of_every_size_along_both_axes(kind: str) -> None:
    inputs = [floats(40 + i, shape, kind) for i, shape in enumerate(REDUCED)] + [whole(60 + i, shape, "i64") for i, shape in enumerate(REDUCED)]

    def write(w):  # type: ignore[no-untyped-def]
        ops = [(op, v) for op in ("sum", "amax") for v in range(len(REDUCED))] + [("sum", len(REDUCED) + v) for v in range(len(REDUCED))]
        return [w(op, v, axes=axes, keepdim=False) for op, v in ops for axes in ((0,), (1,), (0, 1))]

    c = case("reductions", inputs, write)
    values = reference.evaluate(c.part, c.inputs, c.gemm_bits)
    got = engine(c).run("micro", named(c))
    for o in c.part.outputs:
        assert got[o.name].tobytes() == np.asarray(values[o.value]).tobytes(), o.name


def test_tensor_roots_are_those_of_the_host() -> None:
    device, compiled = kernels()
    sizes = [1, 3, 1023, 1024, 1025, 2048, 3072, 5000, 7168, 8192, 9221, 64, 70001]
    held, tensors, want = [], [], []
    for seed, size in enumerate(sizes):
        data = words(seed, size).astype(np.uint8)
        held.append(device.allocate(size + 1))
        address = held[-1].address + seed % 2  # bytes may start anywhere
        device.upload(address, data)
        tensors.append((address, size))
        want.append(hashing.chunk_root(data))
    trees = Trees(device, compiled, tensors, device.allocate(work_bytes(sizes)))
    for launch in trees.launches:
        device.launch(launch)
    assert trees.roots() == want


def test_walks_divide_by_every_kind_of_size() -> None:
    text = "KERNEL quotients(i64 n, const u32 *i, const i64 *walk, i64 *y) { FOR_EACH(k, n) y[k] = offset_of(walk, i[k]); }"
    device, compiled = kernels()
    compiled.compile([maps.MapText("quotients", text)])
    sizes = [1, 2, 3, 5, 7, 31, 64, 641, 65535, 65536, 65537, (1 << 30) - 1, 1 << 30, (1 << 31) - 1]
    for size in sizes:
        i = np.concatenate([integers(size, (500,), 0, 1 << 31), [0, size - 1, size, 2 * size - 1, (1 << 31) - 1]])
        i = i[i < 1 << 31].astype(np.uint32)
        walk = np.array([2, size, magic(size), 1 << 32, 1, magic(1), 1], np.int64)
        buffers = [device.allocate(a.nbytes) for a in (i, walk)] + [device.allocate(8 * len(i))]
        for buffer, array in zip(buffers, (i, walk), strict=False):
            device.upload(buffer.address, array)
        device.launch(Launch(compiled["quotients"], (1, 1, 1), (256, 1, 1), (len(i), *(b.address for b in buffers))))
        y = np.empty(len(i), np.int64)
        device.download(buffers[2].address, y)
        assert np.array_equal(y, (i % size).astype(np.int64) * (1 << 32) + i // size), size


def test_a_step_that_is_too_large_is_refused_before_anything_runs() -> None:
    with pytest.raises(ProgramError, match="less than 2"):
        walk_words((1 << 16, 1 << 15), (1, 1 << 16))
