"""The tests of attend.cuh can fail: each of these changes of it is found on the fake device, by wrong bits or by a wrong checksum. And what NVIDIA's
compiler makes of it for every architecture: nothing contracted, and no register that goes to memory beside 64 floats a thread."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from assay.exact import reference
from assay.exact.cuda import fake
from assay.exact.cuda.device import DeviceError, source
from tests.exact import nvrtc
from tests.exact.support import same
from tests.exact.test_cuda_onchip import KERNELS, WHOLE, WIDTHS, Chip, chip, defined, needs_compiler, operands, text

needs_nvrtc = pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC (nvidia-cuda-nvrtc-cu12) is not installed")
SPOTS = "SWIZZLED(lane, k + LANE / 16 * 16)"
WAIT = "        async_wait<RING - 2>();\n        __syncthreads();"
LATER = WAIT.replace("- 2", "- 1")
AT = "char *at = line.to + e / WIDTH * (BR * WIDTH) +"
CHANGES = {
    "a lane's rows of a fragment": ("line = LANE & 7, lane = LANE & 15;", "line = LANE & 7, lane = LANE & 7;"),
    "a lane's halves of k": (SPOTS, "SWIZZLED(lane, k + LANE / 8 % 2 * 16)"),
    "a lane's swizzle": (SPOTS, "k + LANE / 16 * 16"),
    "a line's halves of k": ("SWIZZLED(line, k + (LANE & 8) * 2)", "SWIZZLED(line, k + (LANE & 16))"),
    "a line's planes": ("(LANE < 16 || z + 1 == OWN ? z : z + 1) * plane", "z * plane"),
    "the weight of a product of digits": ("mma_s8(sums[z + y],", "mma_s8(sums[z],"),
    "a product of digits twice": ("of_lanes[z], of_lines[y])", "of_lanes[z], of_lines[z])"),
    "a sum's weight": ("total = total * (1 << BASE) + sums[w][i]", "total = total * (2 << BASE) + sums[w][i]"),
    "which 8 lines a warp has": ("lines + (turn * BR + warp / UNITS * 8) * WIDTH", "lines + turn * BR * WIDTH"),
    "which 64 of k": ("lines + (turn * BR +", "lines + (0 * BR +"),
    "sums of the unit before": ("            cleared(sums);\n", "            if (begin < 128) cleared(sums);\n"),
    "a wait for copies": (f"{WAIT} /*", f"{LATER} /*"),
    "a barrier": ("        __syncthreads(); /* the stage is", "        /* the stage is"),
    "a stage that is still multiplied": ("fetch(step + RING - 1, stage == 0 ? RING - 1 : stage - 1);", "fetch(step + RING - 1, stage);"),
    "a stage that is fetched late": ("fetch(step + RING - 1, stage", "fetch(step + RING, stage"),
    "half a unit": ("at < UNIT; at +=", "at < UNIT / 2; at +="),
    "the same half of a unit": ("(int)(threadIdx.x / (32 * UNITS)) * 512", "0"),
    "which lanes are fetched": ("((step & second) * b.padded + lane) * WIDTH", "((step & second) * b.padded) * WIDTH"),
    "the planes of what is fetched": ("UNIT + at, from + z * plane + at)", "UNIT + at, from + at)"),
    "a line's element": ("plane[(line + i % 2) * pitch", "plane[(line + i / 2) * pitch"),
    "a line's magnitude": ("element(total, tops[line + i % 2],", "element(total, tops[line],"),
    "a lane's magnitude": ("top_b[i / 2], bits);", "top_b[0], bits);"),
    "lines of another block": ("(i / (BR * (WIDTH / 16)) * a.padded + first) * WIDTH", "(i / (BR * (WIDTH / 16)) * a.padded) * WIDTH"),
    "a checksum of some lanes": ("for (int by = 4; by < 32; by *= 2) here", "for (int by = 8; by < 32; by *= 2) here"),
    "a checksum of some k": ("for (int i = LANE; i < turns * WIDTH; i += 32) {", "for (int i = LANE; i < 32; i += 32) {"),
    "a plane's weight in a checksum": ("KARATSUBA ? weight(z) + weight(2) : weight(z)", "own_weight(z)"),
    "where a digit is put": (f"{AT} SWIZZLED(line.r, e % WIDTH);", f"{AT} e % WIDTH;"),
    "a digit that is not summed": ("    line.sum += q;\n", "    line.sum += e ? q : 0;\n"),
    "rows of a stage on its way out": ("lines + (row * BR + warp / UNITS * 8) * WIDTH", "lines + ((row - part) * BR + warp / UNITS * 8) * WIDTH"),
    "rows that are fetched twice": ("        next += deep;\n", "        next++;\n"),
    "rows behind the last": ("        if (!idle && row < count) multiply_unit", "        if (!idle) multiply_unit"),
    "a wait for copies on their way out": (f"{WAIT}\n", f"{LATER}\n"),
    "totals of one part of k": ("for (int p = 0; p < deep; p++) total +=", "for (int p = 0; p < 1; p++) total +="),
    "lanes of another unit": ("((p * tiles + n / 16) * BR + warp)", "((p + n / 16 * deep) * BR + warp)"),
    "digits behind a line's end": ("e < (int)length ? (i32)across_of(b.across, depth, e) + 1 : 0;", "(i32)across_of(b.across, depth, e) + 1;"),
    "a carry of the check's digits": ("s = (s - low) >> 8;", "s >>= 8;"),
    "lines beyond the last": ("        if (first + warp < rows) out[", "        out["),
    "steps of the result": ("out[(first + warp) * row_step + n * lane_step]", "out[(first + warp) * lane_step + n * row_step]"),
    "the clamp": ("max(min(q, most), -most)", "max(min(q, most + 1), -most)"),
}


def wrong(one: Chip) -> bool:
    """Whether any product is not right, or says so itself."""
    for seed, kind in enumerate(("even", "limit", "wide")):
        for rows, k, columns in ((35, 100, 200), (16, 64, 130)):
            a, b = operands(seed, rows, k, columns, kind, one.bits)
            got, faults = one.inward(one.packed(a), one.packed(b))
            if faults or not same(got, reference.matmul(a, b.T, one.bits)):
                return True
        for rows, k, columns in ((35, 700, 40), (16, 300, 100), (17, 70, 16)):
            a, b = operands(seed, rows, k, columns, kind, one.bits)
            got, faults = one.outward(a, one.packed(b), rows == 35)
            if faults or not same(np.ascontiguousarray(got), reference.matmul(a, b.T, one.bits)):
                return True
    return False


@needs_compiler
def test_nothing_is_found_where_nothing_changed() -> None:
    assert not wrong(chip(14, 16))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found(change: str) -> None:
    old, new = CHANGES[change]
    assert old in text(14, 16), "there is no such text"
    one = Chip(fake.Fake(), 14, 16, text(14, 16).replace(old, new))
    with contextlib.suppress(DeviceError):
        assert wrong(one)


# ---- what NVIDIA's compiler makes of it --------------------------------------------------------------------------------------------

HELD = """
/* As a generated kernel may: 32 floats a thread, then 64, wait in registers while products are made. */
KERNEL __launch_bounds__(32 * LINES, 1) holds(const i8 *a, const u32 *top_a, const u64 *along, i64 lanes_a, i64 padded_a, const i8 *b,
                                              const u32 *top_b, const u64 *across, i64 lanes_b, i64 padded_b, i64 k, i64 bits, float *out,
                                              i64 row_step, i64 lane_step, u64 *faults) {
    ASSAY_SHARED(char, shared);
    __shared__ u32 tops[LINES];
    int r = (int)threadIdx.x >> 5, pitch = pitch_of((int)lanes_b);
    i64 first = (i64)blockIdx.x * LINES;
    Packed rows = {a, top_a, 0, along, lanes_a, padded_a}, columns = {b, top_b, across, 0, lanes_b, padded_b};
    float *plane = (float *)(shared + (ring_bytes<LINES>() + 127) / 128 * 128), x[32], y[32];
    char *digits = (char *)(plane + LINES * pitch);
    product_in<LINES>(plane, pitch, rows, first, columns, k, (int)bits, shared, faults);
    #pragma unroll
    for (int i = 0; i < 32; i++) x[i] = plane[r * pitch + LANE + 32 * i];
    product_in<LINES>(plane, pitch, columns, first, rows, k, (int)bits, shared, faults);
    #pragma unroll
    for (int i = 0; i < 32; i++) y[i] = plane[r * pitch + LANE + 32 * i];
    product_in<LINES>(plane, pitch, rows, first, rows, k, (int)bits, shared, faults);
    u32 top = 0;
    #pragma unroll
    for (int i = 0; i < 32; i++) {
        y[i] = __fmul_rn(__fadd_rn(x[i], plane[r * pitch + LANE + 32 * i]), y[i]);
        top = max(top, __float_as_uint(y[i]) & ABS_BITS);
    }
    for (int by = 16; by; by /= 2) top = max(top, __shfl_xor_sync(ALL_LANES, top, by));
    Line line = line_of<LINES>(digits, r, lanes_b, top, (int)bits);
    #pragma unroll
    for (int i = 0; i < 32; i++) if (LANE + 32 * i < (int)lanes_b) put<LINES>(line, LANE + 32 * i, y[i]);
    line_done(line);
    if (LANE == 0) tops[r] = top;
    product_out<LINES>(out, row_step, lane_step, lanes_a, first, digits, tops, columns, lanes_b, (int)bits, shared, faults);
    #pragma unroll
    for (int i = 0; i < 32; i++) out[lanes_a * i + LANE] = x[i];
}
"""


def of_holding(bits: int, lines: int) -> str:
    return defined(bits, lines) + source("digits.cuh", "tensor.cuh", "attend.cuh") + HELD


@needs_nvrtc
@pytest.mark.parametrize(
    ("bits", "lines", "arch"),
    [
        pytest.param(bits, lines, arch, marks=[] if (bits, lines, arch) == (14, 16, "sm_90") else [pytest.mark.slow])
        for bits in WIDTHS
        for lines in (8, 16)
        for arch in nvrtc.ARCHITECTURES
    ],
)
def test_registers_are_enough(bits: int, lines: int, arch: str) -> None:
    """With 16 lines a thread has 128; at 23 bits, whose sums are 20, a few bytes go to memory there."""
    ptx, cubin, log = nvrtc.reported(of_holding(bits, lines), arch, "--ptxas-options=-v")
    assert cubin.startswith(b"\x7fELF")
    assert nvrtc.forbidden(ptx) == []
    assert ".local" not in ptx
    assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in ptx
    assert "ldmatrix.sync.aligned.m8n8.x4.shared.b16" in ptx
    assert "cp.async.cg.shared.global" in ptx
    if (bits, lines) != (23, 16):
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log


@pytest.mark.slow
@needs_nvrtc
def test_the_assembler_would_say_so() -> None:
    crowded = of_holding(14, 16).replace("__launch_bounds__(32 * LINES, 1) holds", "__launch_bounds__(32 * LINES, 2) holds")
    assert " 0 bytes spill stores" not in nvrtc.reported(crowded, "sm_90", "--ptxas-options=-v")[2]


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("arch", nvrtc.ARCHITECTURES)
def test_a_whole_attention_compiles(arch: str) -> None:
    whole = defined(14, 16) + source("walk.cuh", "map.cuh", "lines.cuh", "digits.cuh", "tensor.cuh", "attend.cuh") + WHOLE + KERNELS
    ptx, cubin = nvrtc.compiled(whole, arch)
    assert cubin.startswith(b"\x7fELF")
    assert nvrtc.forbidden(ptx) == []
