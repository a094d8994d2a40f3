"""The fake CUDA device: what it runs, and the mistakes of kernels and host code that it finds; the numbers that every kernel shares."""

from __future__ import annotations

import numpy as np
import pytest

from assay.exact import reference
from assay.exact.cuda import fake
from assay.exact.cuda.device import DeviceError, Launch, source
from assay.exact.inputs import Array, floats, integers

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")

TEXT = r"""
KERNEL rounded(const i64 *total, const i64 *s, float *y, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = round_scaled(total[i], (int)s[i]);
}
KERNEL whole(const float *x, const i64 *s, i64 *y, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = fixed(x[i], scale_by((int)s[i]));
}
KERNEL total(const int *x, int *y) {
    ASSAY_SHARED(int, sums);
    int v = x[blockIdx.x * blockDim.x + threadIdx.x];
    for (int by = 16; by; by >>= 1) v += __shfl_xor_sync(ALL_LANES, v, by);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x == 0) for (int w = 0; w < (int)blockDim.x / 32; w++) atomicAdd(y, sums[w]);
}
KERNEL lanes(const u32 *x, u32 *y) {
    u32 v = x[threadIdx.x], *out = y + threadIdx.x * 8;
    out[0] = __shfl_sync(ALL_LANES, v, 3);
    out[1] = __shfl_down_sync(ALL_LANES, v, 5, 16);
    out[2] = __shfl_up_sync(ALL_LANES, v, 2);
    out[3] = __ballot_sync(ALL_LANES, v & 1);
    out[4] = __reduce_max_sync(ALL_LANES, v);
    out[5] = threadIdx.x & 1 ? __reduce_add_sync(0xaaaaaaaau, v) : __reduce_add_sync(0x55555555u, v);
    out[6] = (u32)__syncthreads_count((int)(v & 1));
    out[7] = (u32)__dp4a((int)v, (int)v, 7);
}
KERNEL product(const u8 *a, const u8 *b, int *c) {
    int lane = threadIdx.x, group = lane / 4, member = lane % 4, d[4] = {0, 0, 0, 0};
    u32 x[4], y[2];
    for (int i = 0; i < 4; i++) x[i] = *(const u32 *)(a + (group + 8 * (i % 2)) * 32 + 4 * member + 16 * (i / 2));
    for (int i = 0; i < 2; i++) y[i] = *(const u32 *)(b + group * 32 + 4 * member + 16 * i);
    mma_s8(d, x, y);
    for (int i = 0; i < 4; i++) c[(group + 8 * (i / 2)) * 8 + 2 * member + i % 2] = d[i];
}
KERNEL stuck(i64 n) { if ((i64)threadIdx.x < n) __syncthreads(); }
KERNEL astray(u32 *p, i64 at) { p[at] = 1; }
KERNEL lost(u32 *y) { y[threadIdx.x] = __shfl_sync(1u << (31 - threadIdx.x), 1u, 0); }
"""


class Bench:
    """A fake device with TEXT loaded; arrays in, arrays out."""

    def __init__(self) -> None:
        self.device = fake.Fake()
        self.module = self.device.load(source("tensor.cuh") + TEXT)

    def launch(self, name: str, blocks: int, threads: int, *arguments: int, shared: int = 0) -> None:
        self.device.launch(Launch(self.module.kernel(name), (blocks, 1, 1), (threads, 1, 1), arguments, shared))

    def run(self, name: str, blocks: int, threads: int, inputs: list[Array], output: Array, *more: int, shared: int = 0) -> Array:
        held = [self.device.allocate(a.nbytes) for a in (*inputs, output)]
        for buffer, array in zip(held, (*inputs, output), strict=True):
            self.device.upload(buffer.address, array)
        self.launch(name, blocks, threads, *(b.address for b in held), *more, shared=shared)
        out = np.empty_like(output)
        self.device.download(held[-1].address, out)
        return out


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def test_sums_are_rounded_once_wherever_they_end(bench: Bench) -> None:
    n = 50_000
    total = integers(1, (n,), -(2**62), 2**62) >> integers(2, (n,), 0, 62)
    total[:600] = ((1 << 24) + np.arange(-300, 300)) * np.where(np.arange(600) % 2, 1, -1)
    s = np.where(np.arange(n) % 2, integers(3, (n,), -400, 200), integers(4, (n,), -235, -100))
    got = bench.run("rounded", -(-n // 256), 256, [total, s], np.zeros(n, np.float32), n)
    with np.errstate(over="ignore"):
        want = np.where(total == 0, np.float32(0), reference.round_scaled(total, s))
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("kind", ["even", "wide", "tiny", "finite"])
def test_fixed_point_is_that_of_the_reference(bench: Bench, kind: str) -> None:
    n = 20_000
    x = floats(5, (n,), kind)
    top = np.maximum((x.view(np.int32) & 0x7FFFFFFF) >> 23, integers(6, (n,), 0, 255))
    s = (40 + 126 - top).astype(np.int64)
    got = bench.run("whole", -(-n // 256), 256, [x, s], np.zeros(n, np.int64), n)
    assert np.array_equal(got, reference.fixed(x, s))


def test_fixed_point_at_ties_and_at_all_widths(bench: Bench) -> None:
    """Halves, numbers around those at which the two parts meet, and the largest that a scale lets through, at 2 to 42 bits."""
    n = 40_000
    near = (integers(7, (n,), -8, 9) << 19) + integers(8, (n,), -3, 4)
    size = np.where(np.arange(n) % 2, near, integers(9, (n,), -(2**24), 2**24)).astype(np.float32)
    by = integers(10, (n,), -26, 19)
    held = np.abs(np.ldexp(size.astype(np.float64), by)) <= 2.0**42
    e = integers(11, (n,), -100, 100)
    x, s = np.ldexp(size, e.astype(np.int32)), (by - e).astype(np.int64)
    got = bench.run("whole", -(-n // 256), 256, [x, s], np.zeros(n, np.int64), n)
    assert held.sum() > n // 2
    assert np.array_equal(got[held], reference.fixed(x, s)[held])
    ties = np.abs(np.ldexp(size.astype(np.float64), by) % 1) == 0.5
    assert (ties & held).sum() > 500
    top, bits = integers(12, (n,), 1, 255), integers(13, (n,), 2, 43)
    x = (np.where(np.arange(n) % 2, 0x7FFFFF, integers(14, (n,), 0, 1 << 23)) | top << 23).astype(np.uint32).view(np.float32)
    s = (bits + 126 - top).astype(np.int64)
    assert np.array_equal(bench.run("whole", -(-n // 256), 256, [x, s], np.zeros(n, np.int64), n), reference.fixed(x, s))


def test_blocks_meet_at_barriers_and_share_memory(bench: Bench) -> None:
    x = integers(7, (768,), -1000, 1000).astype(np.int32)
    assert bench.run("total", 3, 256, [x], np.zeros(1, np.int32), shared=32)[0] == x.sum()


def test_lanes_exchange_what_the_programming_guide_says(bench: Bench) -> None:
    x = integers(8, (32,), 0, 1 << 32).astype(np.uint32)
    y = bench.run("lanes", 1, 32, [x], np.zeros((32, 8), np.uint32))
    lane = np.arange(32)
    assert (y[:, 0] == x[3]).all()
    assert np.array_equal(y[:, 1], np.where(lane % 16 + 5 < 16, x[(lane + 5) % 32], x))
    assert np.array_equal(y[:, 2], np.where(lane >= 2, x[lane - 2], x))
    assert (y[:, 3] == sum(int(v & 1) << i for i, v in enumerate(x))).all()
    assert (y[:, 4] == x.max()).all()
    assert np.array_equal(y[:, 5], np.where(lane % 2, x[1::2].sum(dtype=np.uint32), x[::2].sum(dtype=np.uint32)))
    assert (y[:, 6] == (x & 1).sum()).all()
    assert np.array_equal(y[:, 7], (x.view(np.int8).reshape(32, 4).astype(np.int64) ** 2).sum(1).astype(np.uint32) + 7)


def test_the_tensor_core_product_has_the_layout_of_the_ptx_manual(bench: Bench) -> None:
    a, b = (integers(seed, shape, -128, 128).astype(np.int8) for seed, shape in ((9, (16, 32)), (10, (8, 32))))
    assert np.array_equal(bench.run("product", 1, 32, [a, b], np.zeros((16, 8), np.int32)), a.astype(np.int32) @ b.T.astype(np.int32))


def test_a_recording_does_nothing_until_it_is_replayed(bench: Bench) -> None:
    device, x = bench.device, np.ones(32, np.int32)
    a, y, copy = (device.allocate(n) for n in (128, 4, 4))
    device.upload(a.address, x)
    device.upload(y.address, np.zeros(1, np.int32))
    with device.record() as recording:
        bench.launch("total", 1, 32, a.address, y.address, shared=4)
        device.copy(copy.address, y.address, 4)
    out = np.empty(1, np.int32)
    for times in (0, 1, 2):
        device.download(y.address, out)
        assert out[0] == 32 * times
        recording.graph.replay()
    device.download(copy.address, out)
    assert out[0] == 96


def test_a_barrier_that_some_threads_never_reach_is_an_error(bench: Bench) -> None:
    with pytest.raises(DeviceError, match="never reaches"):
        bench.launch("stuck", 1, 64, 5)
    bench.launch("stuck", 1, 64, 64)


def test_a_lane_outside_its_own_mask_is_an_error(bench: Bench) -> None:
    y = bench.device.allocate(128)
    with pytest.raises(DeviceError, match="leaves out the lane"):
        bench.launch("lost", 1, 32, y.address)


@pytest.mark.parametrize("at", [-1, 16])
def test_a_write_outside_a_buffer_is_found(at: int) -> None:
    own = Bench()
    held = own.device.allocate(64)
    own.launch("astray", 1, 1, held.address, at)
    with pytest.raises(DeviceError, match="outside a buffer"):
        own.device.wait()


def test_fresh_memory_is_garbage_and_too_much_is_refused() -> None:
    device = fake.Fake(memory=1000)
    held = device.allocate(600)
    out = np.empty(600, np.uint8)
    device.download(held.address, out)
    assert (out == 0xA5).all()
    with pytest.raises(MemoryError):
        device.allocate(600)
    del held
    device.allocate(600)


def test_what_does_not_compile_says_why(bench: Bench) -> None:
    with pytest.raises(DeviceError, match=r"undeclared|not declared|does not name"):
        bench.device.load(source() + "KERNEL wrong(i64 n) { n = nothing; }")
    with pytest.raises(DeviceError, match="no kernel"):
        bench.module.kernel("missing")
    with pytest.raises(DeviceError, match="takes 1 arguments"):
        bench.launch("stuck", 1, 1)
