"""What the checksums and the tests of attend.cuh find: bits that are flipped in memory and on the chip, by a wrong checksum, and changes of the
source, by wrong bits or a wrong checksum. And what NVIDIA's compiler makes of it for every architecture: nothing contracted, and no register that
goes to memory beside 64 floats a thread."""

from __future__ import annotations

import contextlib
from functools import cache

import numpy as np
import pytest

from assay.exact import reference
from assay.exact.cuda import fake
from assay.exact.cuda.device import Buffer, DeviceError, Launch, source
from assay.exact.cuda.product import ROW
from assay.exact.inputs import floats
from tests.exact import nvrtc
from tests.exact.support import same
from tests.exact.test_cuda_onchip import KERNELS, WHOLE, WIDTHS, Chip, Span, chip, defined, needs_compiler, operands, own, text, with_hard_lanes

needs_nvrtc = pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC (nvidia-cuda-nvrtc-cu12) is not installed")
# ---- faults -----------------------------------------------------------------------------------------------------------------------


def flipped(device: fake.Fake, buffer: Buffer, byte: int, bit: int) -> None:
    one = np.zeros(1, np.uint8)
    device.download(buffer.address + byte, one)
    device.upload(buffer.address + byte, one ^ np.uint8(1 << bit))


def place(bits: int, padded: int, k: int, z: int, lane: int, at: int) -> int:
    """Byte of a digit in an operand whose lanes have k elements."""
    blocks = -(-k // ROW)
    return ((z * blocks * 2 + at // 64) * padded + lane) * 64 + (((at % 64 >> 4) ^ (lane >> 1 & 3)) << 4 | at % 16)


@needs_compiler
@pytest.mark.parametrize("bits", WIDTHS)
def test_flipped_bits_of_memory_are_caught(bits: int) -> None:
    """Of what pack.cu wrote, before it is multiplied."""
    one, rng = chip(bits, 16), np.random.default_rng(bits)
    rows, k, columns = 19, 100, 150
    a, b = (one.packed(x) for x in operands(bits, rows, k, columns, "even", bits))
    p, v = floats(bits, (rows, columns), "even"), one.packed(floats(bits + 1, (k, columns), "even"))
    for turn in range(16):
        z, at, bit = int(rng.integers(own(bits))), int(rng.integers(k)), turn % 8
        for operand in (a, b, v):
            lane = int(rng.integers(len(operand.x)))
            byte = place(bits, operand.padded, operand.x.shape[1], z, lane, at)
            flipped(one.device, operand.digits, byte, bit)
            found = one.outward(p, v)[1] if operand is v else one.inward(a, b)[1]
            assert found, f"bit {bit} of plane {z}, lane {lane}, k {at}: nobody noticed"
            flipped(one.device, operand.digits, byte, bit)
    for buffer, byte in ((a.along, 8 * 17), (b.across, 4 * 99), (b.across, 4 * (2 * ROW + 99)), (v.across, 4 * 149), (v.across, 4 * (2 * ROW + 149))):
        flipped(one.device, buffer, byte, 1)
        assert (one.outward(p, v) if buffer is v.across else one.inward(a, b))[1]
        flipped(one.device, buffer, byte, 1)
    assert (one.inward(a, b)[1], one.outward(p, v)[1]) == (0, 0)


@needs_compiler
def test_a_flip_is_caught_where_sums_of_digits_are_zero() -> None:
    """A lane and its negative: no line's sum shows what a line's own digits are, but the sum that is kept of these does."""
    one = chip(14, 8)
    half = floats(1, (20, 100), "even")
    a, b = one.packed(floats(2, (8, 100), "even")), one.packed(np.concatenate([half, -half]))
    assert one.inward(a, b)[1] == 0
    flipped(one.device, a.digits, place(14, a.padded, 100, 1, 3, 77), 2)
    assert one.inward(a, b)[1] == 1


STRIKES = {
    "a lane in the ring": ("        if (!idle) multiply_unit(", "if (begin < 16 && turn == 0) ring[byte] ^= 1 << bit;"),
    "a line": ("        if (!idle) multiply_unit(", "if (begin < 16 && turn == 0) lines[byte] ^= 1 << bit;"),
    "a sum of digits": ("        if (turn < second || idle) continue;", "if (begin < 16 && turn == 0) sums[byte % 3][byte % 4] ^= 1 << 4 * bit;"),
    "what is rounded": ("            highs[i % 2] += hi, lows[i % 2] += lo;", "if (i == 0 && begin < 16) (byte % 2 ? hi : lo) ^= 1 << 3 * bit;"),
    "a line's sum": ("    u64 wanted = 0;", "found[byte % BR] ^= 1ull << 8 * bit;"),
    "a weight": ("    u64 wanted = 0;", "across[byte % 100] ^= 1ull << bit;"),
    "a lane on its way out": ("        if (!idle && row < end) multiply_unit(", "if (row == part) ring[byte] ^= 1 << bit;"),
    "a digit of a line": ("        if (!idle && row < end) multiply_unit(", "if (row == part) lines[byte] ^= 1 << bit;"),
    "a sum on its way out": ("    u64 *totals = (u64 *)ring;", "sums[byte % 3][byte % 4] ^= 1 << 4 * bit;"),
    "what checks": ("    u64 *totals = (u64 *)ring;", "check[byte % 100] ^= 1 << bit;"),
    "a sum of a line's digits": ("    u64 *totals = (u64 *)ring;", "((u64 *)digits)[byte % BR] ^= 1ull << 8 * bit;"),
    "a total": ("    for (int n = LANE; n < lanes; n += 32) {", "totals[byte / 16 * wide + byte % 16] ^= 1ull << 8 * bit;"),
    "what is rounded on its way out": ("        wrong += total;", "if (n == 0) total ^= 1ull << 8 * bit;"),
}
"""Before which text what is flipped, by a block's first thread; where all threads come by, while the others wait."""


@cache
def struck() -> Chip:
    """Its kernels flip what they were told before."""
    written = text(14, 8)
    for number, (before, flip) in enumerate(STRIKES.values(), 1):
        assert written.count(before) == 1, before
        wait = "" if "what is rounded" in (what := list(STRIKES)[number - 1]) or what == "a sum of digits" else "__syncthreads();"
        flip = f"if (strike == {number} && blockIdx.x == 1) {{ if (threadIdx.x == 0) {{ {flip} }} {wait} }}"
        written = written.replace(before, f"{flip}\n{before}")
    written = written.replace("#ifndef RING", "static i64 strike, byte, bit;\n#ifndef RING", 1)
    return Chip(fake.Fake(), 14, 8, written + "\nKERNEL aim(i64 what, i64 of, i64 which) { strike = what, byte = of, bit = which; }\n")


@needs_compiler
def test_flipped_bits_on_the_chip_are_caught() -> None:
    """In shared memory and registers, of the second of three blocks: one line at least, and none of the others."""
    one, rng = struck(), np.random.default_rng(1)
    rows, k, columns = 19, 100, 150
    a, b = (one.packed(x) for x in operands(3, rows, k, columns, "even", 14))
    p, v = floats(5, (rows, columns), "even"), one.packed(floats(6, (100, columns), "even"))
    aim = one.module.kernel("aim")
    for number, what in enumerate(STRIKES, 1):
        for bit in range(8):
            byte = int(rng.integers(512))  # of the first 64 elements of all lines, or of 8 lanes
            one.device.launch(Launch(aim, (1, 1, 1), (1, 1, 1), (number, byte, bit)))
            both = one.inward(a, b)[1], one.outward(p, v)[1]
            assert 1 <= max(both) <= 8, f"{what}, byte {byte}, bit {bit}: nobody noticed"
            assert min(both) == 0
    one.device.launch(Launch(aim, (1, 1, 1), (1, 1, 1), (0, 0, 0)))
    assert (one.inward(a, b)[1], one.outward(p, v)[1]) == (0, 0)


# ---- changes of the source -------------------------------------------------------------------------------------------------------

S = "b.across[e] + (lanes > GROUP ? b.across[depth + e] : 0)"
SPOTS = "SWIZZLED(lane, k + LANE / 16 * 16)"
WAIT = "        async_wait<RING - 2>();\n        __syncthreads();"
LATER = WAIT.replace("- 2", "- 1")
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
    "sums of the unit before": ("            cleared(sums, NARROWED", "            if (begin < 128) cleared(sums, NARROWED"),
    "a wait for copies": (f"{WAIT} /*", f"{LATER} /*"),
    "a barrier": ("        __syncthreads(); /* the stage is", "        /* the stage is"),
    "a stage that is still multiplied": ("fetch(step + RING - 1, stage == 0 ? RING - 1 : stage - 1);", "fetch(step + RING - 1, stage);"),
    "a stage that is fetched late": ("fetch(step + RING - 1, stage", "fetch(step + RING, stage"),
    "half a unit": ("at < UNIT; at +=", "at < UNIT / 2; at +="),
    "the same half of a unit": ("(int)(threadIdx.x / (32 * UNITS)) * 512", "0"),
    "which lanes are fetched": ("((step & second) * b.padded + lane) * WIDTH", "((step & second) * b.padded) * WIDTH"),
    "the planes of what is fetched": ("UNIT + at, from + z * plane + at)", "UNIT + at, from + at)"),
    "a line's element": ("to[i % 2 * pitch", "to[i / 2 * pitch"),
    "a line's magnitude": ("scale_a[i % 2], usual_b", "scale_a[0], usual_b"),
    "a lane's magnitude": ("usual_b(top_b[i / 2])", "usual_b(top_b[0])"),
    "lines of another block": ("(i / (BR * (WIDTH / 16)) * a.padded + first) * WIDTH", "(i / (BR * (WIDTH / 16)) * a.padded) * WIDTH"),
    "a checksum of some lanes": ("for (int by = 4; by < 32; by *= 2) here", "for (int by = 8; by < 32; by *= 2) here"),
    "a checksum of some k": ("for (int i = LANE; i < width; i += 32) {", "for (int i = LANE; i < 32; i += 32) {"),
    "a plane's weight in a checksum": ("KARATSUBA ? weight(z) + weight(2) : weight(z)", "own_weight(z)"),
    "where a digit is put": ("to + SWIZZLED(r, 2 * LANE), (u64", "to + 2 * LANE, (u64"),
    "a digit that is not summed": ("(u32)line.sum + (u32)q);", "(u32)line.sum + (e ? (u32)q : 0u));"),
    "rows of a stage on its way out": ("lines + (row * OWN * BR +", "lines + ((row - part) * OWN * BR +"),
    "rows that are fetched twice": ("        next += deep;\n", "        next++;\n"),
    "rows behind the last": ("        if (!idle && row < end) multiply_unit", "        if (!idle) multiply_unit"),
    "a wait for copies on their way out": (f"{WAIT}\n", f"{LATER}\n"),
    "totals of one part of k": ("for (int p = 0; p < deep; p++) total +=", "for (int p = 0; p < 1; p++) total +="),
    "lanes of another unit": ("((p * tiles + n / 16) * BR + warp)", "((p + n / 16 * deep) * BR + warp)"),
    "digits behind a line's end": (f"e < (int)length ? {S} + 1 : 0;", f"{S} + 1;"),
    "a group's place in the sums": ("b.across[(i >> (5 + turns)) * depth +", "b.across[(i >> 6) * depth +"),
    "sums that begin with the first group": ("int i = span.begin / GROUP * width + (int)threadIdx.x", "int i = (int)threadIdx.x"),
    "sums up to the last group": ("i < (lanes + GROUP - 1) / GROUP * width", "i < (int)(b.padded / GROUP) * width"),
    "sums that are added to others": ("    if ((int)threadIdx.x < width) across[threadIdx.x] = 0;\n", ""),
    "lanes that are fetched where a span begins": ("int lane = span.begin + (step", "int lane = (step"),
    "lanes that are made where a span begins": ("begin = span.begin + (step", "begin = (step"),
    "k where a span begins": ("int begin = span.begin / WIDTH, end", "int begin = 0, end"),
    "k behind a span": ("end = rows_of(span.end), deep", "end = count, deep"),
    "k that are fetched where a span begins": ("next = begin + part;", "next = part;"),
    "checks where a span begins": ("for (int e = begin * WIDTH + LANE * 4;", "for (int e = LANE * 4;"),
    "a carry of the check's digits": ("s = (s - low) >> 8;", "s >>= 8;"),
    "lines beyond the last": ("        if (first + warp < rows) {", "        {"),
    "steps of the result": ("out[(first + warp) * row_step + n * lane_step]", "out[(first + warp) * lane_step + n * row_step]"),
    "the clamp": ("max(min(q, most), -most)", "max(min(q, most + 1), -most)"),
    "lines that want the clamp": (">= 1 << (line.bits - 1)", "> 1 << (line.bits - 1)"),
    "what the clamp changes, summed": ("line.sum += none ? 0 : held - q;", ""),
    "digits of a line that has a NaN": ("if (none) line.sum = 0;", ""),
    "a line's scale where it is tiny": ("- ((u32)(s - first) << 23)", ""),
    "the low digit": ("d[1] = q & (2 * HALF - 1);", "d[1] = q & (HALF - 1);"),
    "the high digits' own carry": ("(sums[1][i] >> BASE)", "(sums[1][i] / (1 << BASE))"),
    "what the last sums begin with": (" || i / 4 == WEIGHTS - 1 ?", " ?"),
    "how many totals a line has": ("        count += 2;\n", "        count++;\n"),
    "what is added for both parts": ("12582912.0f / (1 << W)", "8388608.0f / (1 << W)"),
    "a low part that is rounded by itself": ("__uint_as_float(lo));", "__fadd_rn(__uint_as_float(lo), 0.5f));"),
    "lanes that are not usual": ("!lines_usual || !usual(top_b[0], top_b[1])", "!lines_usual"),
    "the second lane that is not usual": ("usual(top_b[0], top_b[1])", "usual(top_b[0], top_b[0])"),
    "lines that are not usual": ("!lines_usual || !usual", "!usual"),
    "one line that is not usual": ("__all_sync(ALL_LANES, usual", "__any_sync(ALL_LANES, usual"),
    "an unusual total": ("-((i64)CENTRED * ((1 << LOW) + 1))", "-((i64)CENTRED * (1 << LOW))"),
    "which unusual element": ("if (i == j) x[j] = one", "if (i == (j ^ 1)) x[j] = one"),
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
    a, b = operands(1, 17, 70, 100, "even", one.bits)
    for hard_a, hard_b in ((with_hard_lanes(a), b), (a, np.roll(with_hard_lanes(b), 8, 0))):
        with np.errstate(over="ignore"):
            want = reference.matmul(hard_a, hard_b.T, one.bits)
        for got, faults in (one.inward(one.packed(hard_a), one.packed(hard_b)), one.outward(hard_a, one.packed(hard_b))):
            if faults or not same(got, want):
                return True
    return any(wrong_in_part(one, n, span) for n, span in ((200, (64, 128)), (300, (128, 256)), (150, (128, 150))))


def wrong_in_part(one: Chip, n: int, span: Span) -> bool:
    """The same of lanes and k within a span; what lies outside is poison."""
    inside = (np.arange(n) >= span[0]) & (np.arange(n) < span[1])
    a, b = operands(1, 35, 100, n, "even", one.bits)
    got, faults = one.inward(one.packed(a), one.packed(np.where(inside[:, None], b, np.float32(np.nan))), span=span)
    if faults or not same(got, np.where(inside, reference.matmul(a, b.T, one.bits), np.float32(0))):
        return True
    p, v = operands(1, 35, n, 40, "even", one.bits)
    got, faults = one.outward(np.where(inside, p, np.float32(np.nan)), one.packed(v), span=span)
    return bool(faults) or not same(got, reference.matmul(np.where(inside, p, np.float32(0)), v.T, one.bits))


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
                                              const u32 *top_b, const i32 *across, i64 lanes_b, i64 padded_b, i64 k, i64 bits, float *out,
                                              i64 row_step, i64 lane_step, u64 *faults) {
    ASSAY_SHARED(char, shared);
    __shared__ u32 tops[LINES];
    int r = (int)threadIdx.x >> 5, pitch = pitch_of((int)lanes_b);
    i64 first = (i64)blockIdx.x * LINES;
    Packed rows = {a, top_a, 0, along, lanes_a, padded_a}, columns = {b, top_b, across, 0, lanes_b, padded_b};
    float *plane = (float *)(shared + (ring_bytes<LINES>() + 127) / 128 * 128), x[32], y[32];
    char *digits = (char *)(plane + LINES * pitch);
    product_in<LINES>(plane, pitch, rows, first, columns, k, {0, (int)lanes_b}, (int)bits, shared, faults);
    #pragma unroll
    for (int i = 0; i < 32; i++) x[i] = plane[r * pitch + OF_LANE(i / 2, i % 2)];
    product_in<LINES>(plane, pitch, columns, first, rows, k, {0, (int)lanes_a}, (int)bits, shared, faults);
    #pragma unroll
    for (int i = 0; i < 32; i++) y[i] = plane[r * pitch + OF_LANE(i / 2, i % 2)];
    product_in<LINES>(plane, pitch, rows, first, rows, k, {0, (int)lanes_a}, (int)bits, shared, faults);
    u32 top = 0;
    #pragma unroll
    for (int i = 0; i < 32; i++) {
        y[i] = __fmul_rn(__fadd_rn(x[i], plane[r * pitch + OF_LANE(i / 2, i % 2)]), y[i]);
        top = max(top, __float_as_uint(y[i]) & ABS_BITS);
    }
    for (int by = 16; by; by /= 2) top = max(top, __shfl_xor_sync(ALL_LANES, top, by));
    Line line = line_of<LINES>(digits, r, 0u, (u32)lanes_b, top, (int)bits);
    #pragma unroll
    for (int i = 0; i < 32; i += 2) if (32 * i < (int)lanes_b) put_two<LINES>(line, i / 2, y + i);
    line_done<LINES>(line);
    if (LANE == 0) tops[r] = top;
    product_out<LINES>(out, row_step, lane_step, lanes_a, first, digits, tops, columns, lanes_b, {0, (int)lanes_b}, (int)bits, shared, faults);
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
