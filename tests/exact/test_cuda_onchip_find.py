"""What the checksums and the tests of attend.cuh find: bits that are flipped in memory and on the chip, by a wrong checksum, and changes of the
source, by wrong bits or a wrong checksum. And what NVIDIA's compiler makes of it for every architecture: nothing contracted, and registers
that are enough."""

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
from tests.exact.test_cuda_onchip import (
    DISPATCH,
    KERNELS,
    WHOLE,
    WIDTHS,
    Chip,
    Span,
    chip,
    defined,
    needs_compiler,
    operands,
    own,
    shuffled,
    text,
    with_hard_lanes,
)

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
    """Of what heads.cu wrote, before it is multiplied."""
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


UNIT_IN = "#pragma unroll\n            for (int z = 0; z < OWN; z++) ldmatrix(of_lanes[z],"
UNIT_OUT = "#pragma unroll\n        for (int z = 0; z < OWN; z++) {\n            lines_of<BR>(of_block[z],"
STRIKES = {
    "a lane in the ring": (UNIT_IN, "if (lane < 8 && turn == 0) rings[ring.now + byte] ^= 1 << bit;"),
    "a line": ("    u32 held[2 * TURNS][OWN][4];", "lines[byte] ^= 1 << bit;"),
    "a line in registers": ("    const int own = BR / 8; /* of a thread's", "held[byte % 2][byte / 2 % 2][byte / 4 % 2 * 2] ^= 1 << 4 * bit;"),
    "a sum of digits": ("        float x[2 * own];", "if (lane < 8) sums[byte % 3][byte % 2] ^= 1 << 4 * bit;"),
    "what is rounded": ("            highs[i / 2] += hi, lows[i / 2] += lo;", "if (i == 0 && lane < 8) (byte % 2 ? hi : lo) ^= 1 << 3 * bit;"),
    "a line's sum": ("    u64 more = LANE < BR ?", "((u64 *)rings)[byte % BR] ^= 1ull << 8 * bit;"),
    "a weight": ("    u64 more = LANE < BR ?", "across[byte % 100] ^= 1 << bit;"),
    "a lane on its way out": (UNIT_OUT, "if (at < PARTS) rings[ring.now + byte] ^= 1 << bit;"),
    "a digit of a line": (UNIT_OUT, "if (at < PARTS) lines[byte] ^= 1 << bit;"),
    "a sum on its way out": ("    async_wait<0>(); /* for groups", "sums[byte % 2][byte / 2 % 3][byte % 2] ^= 1 << 4 * bit;"),
    "a sum of what checks": ("    async_wait<0>(); /* for groups", "checks[byte % 2][byte / 2 % 2] ^= 1 << 4 * bit;"),
    "what checks": ("    i32 sums[2][WEIGHTS][4], checks[OWN][4];", "check[byte % 100] ^= 1 << bit;"),
    "a sum of a line's digits": ("    async_wait<0>(); /* for groups", "((u64 *)digits)[byte % BR] ^= 1ull << 8 * bit;"),
    "a total": ("    bool inside = first + warp < rows;", "totals[byte / 16 % BR * 16 + byte % 16] ^= 1ull << 8 * bit;"),
    "what is rounded on its way out": ("        more += (u64)total;", "if (n == 0) total ^= 1ll << 8 * bit;"),
}
TOGETHER = ("a line", "a line's sum", "a weight", "what checks", "a sum of a line's digits", "a total")
"""Before which text what is flipped, by a block's first thread; the others wait, of its warp or all, where they come by."""


@cache
def struck() -> Chip:
    """Its kernels flip what they were told before."""
    written = text(14, 8)
    for number, (what, (before, flip)) in enumerate(STRIKES.items(), 1):
        assert written.count(before) == 1, before
        wait = "__syncthreads();" if what in TOGETHER else "__syncwarp();" if before in (UNIT_IN, UNIT_OUT) else ""
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

S = "b.across[e] + (TILES > GROUP / 16 ? b.across[depth + e] : 0)"
BEFORE = "    async_wait<RING - 2>();\n    __syncwarp();"
CHANGES = {
    "a lane's rows of a fragment": ("row = LANE & 7, spot = row * WIDTH", "row = LANE & 3, spot = row * WIDTH"),
    "a lane's pieces of k": ("SWIZZLED(row, LANE / 8 * 16)", "SWIZZLED(row, LANE / 16 * 16)"),
    "a lane's swizzle": ("spot = row * WIDTH + SWIZZLED(row, LANE / 8 * 16)", "spot = row * WIDTH + LANE / 8 * 16"),
    "a line's halves of 32": ("SWIZZLED(line, LANE / BR % 2 * 16)", "SWIZZLED(line, 0)"),
    "a line's swizzle": ("line * WIDTH + SWIZZLED(line, LANE / BR % 2 * 16)", "line * WIDTH + LANE / BR % 2 * 16"),
    "a line's other half": ("(spot_of_lines<BR>() ^ half % 2 * 32)", "spot_of_lines<BR>()"),
    "a line's planes": ("lines + z * of_lines + half /", "lines + half /"),
    "which 64 of k": ("half / 2 * BR * WIDTH +", "0 +"),
    "which 64 of k are held": ("multiply(sums, held[2 * turn + half]", "multiply(sums, held[half]"),
    "the weight of a product of digits": ("mma_s8(sums[z + y],", "mma_s8(sums[z],"),
    "a product of digits twice": ("of_lines[z], of_lanes[y] + 2 * half)", "of_lines[z], of_lanes[z] + 2 * half)"),
    "the same half of a lane": ("of_lanes[y] + 2 * half)", "of_lanes[y])"),
    "a sum's weight": ("total = total * (1 << BASE) + sums[w][i]", "total = total * (2 << BASE) + sums[w][i]"),
    "sums of the unit before": ("        cleared(sums, NARROWED", "        if (lane < 128) cleared(sums, NARROWED"),
    "a wait for copies": (BEFORE, BEFORE.replace("- 2", "- 1")),
    "a wait for lines": ("    async_wait<RING - 1>();", "    async_wait<RING>();"),
    "a unit that is still multiplied": ("            fetch(ring.done);", "            fetch(ring.now);"),
    "a unit that is used again": ("            ring = next_of(ring);", "            if (lane < 128) ring = next_of(ring);"),
    "a ring's end": ("ring.now == ring.first + (RING - 1) * OWN * UNIT", "ring.now == ring.first + (RING - 2) * OWN * UNIT"),
    "a ring of another warp": ("int first = (int)(threadIdx.x / 32) * (RING", "int first = (int)(threadIdx.x / 64) * (RING"),
    "half a unit": ("const i8 *from = b.digits + ahead * WIDTH + LANE * 16;", "const i8 *from = b.digits + ahead * WIDTH + LANE % 16 * 16;"),
    "which lanes are fetched": ("from += 8 * BR * WIDTH", "from += 4 * BR * WIDTH"),
    "which 64 of k are fetched": ("TURNS == 2 && later ? from + row_b : from", "from"),
    "the planes of what is fetched": ("from + z * plane);", "from);"),
    "a line's element": ("to + 8 * i * pitch) =", "to + 4 * i * pitch) ="),
    "a lane's element": ("make_float2(x[2 * i], x[2 * i + 1])", "make_float2(x[2 * i + 1], x[2 * i])"),
    "a line's magnitude": ("scale_a[i / 2], usual_b", "scale_a[0], usual_b"),
    "a lane's magnitude": ("usual_b(top_b[i % 2])", "usual_b(top_b[0])"),
    "lanes' magnitudes": ("top += 8 * BR, to", "top += 4 * BR, to"),
    "lines of another block": ("* a.padded + first) * WIDTH", "* a.padded) * WIDTH"),
    "a checksum of some lanes": ("sum += __shfl_xor_sync(ALL_LANES, sum, by);", "if (by < 2) sum += __shfl_xor_sync(ALL_LANES, sum, by);"),
    "a checksum of some k": ("    for (int i = LANE; i < width; i += 32) {", "    for (int i = LANE; i < 32; i += 32) {"),
    "a checksum of some warps": ("u64 more = LANE < BR ?", "u64 more = LANE < BR / 2 ?"),
    "a plane's weight in a checksum": ("KARATSUBA ? weight(z) + weight(2) : weight(z)", "own_weight(z)"),
    "a checksum that is forgotten": ("wrong * 0x9e3779b97f4a7c15ull + more", "wrong * 0x9e3779b97f4a7c15ull + more / 2"),
    "where a digit is put": ("to + SWIZZLED(r, 2 * LANE), (u64", "to + 2 * LANE, (u64"),
    "a digit that is not summed": ("(u32)line.sum + (u32)q);", "(u32)line.sum + (e ? (u32)q : 0u));"),
    "which half of a row": ("(at % 2 ? bytes + row : bytes) ^ 32", "(at % 2 ? bytes + row : bytes)"),
    "which row": ("(at % 2 ? bytes + row : bytes) ^ 32", "bytes ^ 32"),
    "rows between": ("bytes += PARTS / 2 * row;", ""),
    "the first half": ("(spot_of_lines<BR>() ^ at % 2 * 32);", "spot_of_lines<BR>();"),
    "the first half that is fetched": ("(SWIZZLED(lane, (LANE & 1) * 16) ^ ahead % 2 * 32)", "SWIZZLED(lane, (LANE & 1) * 16)"),
    "the first row": ("mine = at / 2 * OWN * of_lines +", "mine ="),
    "the first row that is fetched": ("piece = ahead / 2 * row_b +", "piece ="),
    "rows that are fetched twice": ("        piece = next_half<PARTS>(piece, ahead, row_b);\n", ""),
    "rows behind the last": ("part < PARTS ? 2 * end : 0", "2 * end"),
    "planes of lines on their way out": ("lines + mine + z * of_lines", "lines + mine"),
    "where a piece lies in a unit": ("(LANE >> 3 ^ row >> 2) & 1", "(LANE >> 3) & 1"),
    "lanes of a fragment on its way out": ("int row = (LANE & 7) + LANE / 16 * 8,", "int row = (LANE & 7),"),
    "lanes of another tile": ("b.digits + (tile * 16 + lane) * WIDTH", "b.digits + lane * WIDTH"),
    "the second 8 lanes": ("multiply(sums[n], of_block, of_lanes, n)", "multiply(sums[n], of_block, of_lanes, 0)"),
    "totals of one part of k": ("for (int p = 0; p < PARTS; p++) total +=", "for (int p = 0; p < 1; p++) total +="),
    "lanes of another unit": ("((p * TILES + n / 16) * BR + warp)", "((p + n / 16 * PARTS) * BR + warp)"),
    "lanes of another 8": ("((n ^ at) & 1) * 8", "(n & 1) * 8"),
    "digits behind a line's end": (f"e < (int)length ? {S} + 1 : 0;", f"{S} + 1;"),
    "a group's place in the sums": ("b.across[i / width * depth +", "b.across[i / 64 * depth +"),
    "sums that begin with the first group": ("int i = span.begin / GROUP * width + (int)threadIdx.x", "int i = (int)threadIdx.x"),
    "sums up to the last group": ("i < (lanes + GROUP - 1) / GROUP * width", "i < (int)(b.padded / GROUP) * width"),
    "sums that are added to others": ("    if ((int)threadIdx.x < width) across[threadIdx.x] = 0;\n", ""),
    "lanes that are fetched where a span begins": ("int ahead = span.begin + warp * 8,", "int ahead = warp * 8,"),
    "lanes that are made where a span begins": ("int lane = span.begin + warp * 8;", "int lane = warp * 8;"),
    "k where a span begins": ("int begin = span.begin / WIDTH, end", "int begin = 0, end"),
    "k behind a span": ("end = rows_of(span.end); /*", "end = count; /*"),
    "k of the check": ("check + digit + at * 32)", "check + digit)"),
    "digits of the check": ("int digit = LANE / 4 * count * WIDTH", "int digit = LANE / 8 * count * WIDTH"),
    "a weight of the check": ("(i64)checks[z][2 * i + j] * own_weight(z)", "(i64)checks[z][2 * i + j] * own_weight(0)"),
    "a digit's weight in the check": ("<< 8 * (LANE % 4 * 2 + j)", "<< 8 * j"),
    "a check of the product before": ("    if (threadIdx.x < BR) right[threadIdx.x] = 0;\n", ""),
    "a check of half the lines": ("atomicAdd(&right[LANE / 4 + 8 * i], sum)", "atomicAdd(&right[LANE / 4], sum)"),
    "a carry of the check's digits": ("s = (s - low) >> 8;", "s >>= 8;"),
    "lines beyond the last": ("        if (inside) *to", "        *to"),
    "the second 32 of a result": ("to += 32 * lane_step", "to += 32"),
    "steps of the result": ("+ LANE * lane_step;", "+ LANE;"),
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
    "one line that is not usual": ("lines_usual = lines_usual && usual(top_a, top_a)", "lines_usual = usual(top_a, top_a)"),
    "an unusual total": ("-((i64)CENTRED * ((1 << LOW) + 1))", "-((i64)CENTRED * (1 << LOW))"),
    "which unusual element": ("if (i == j) x[j] = one", "if (i == (j ^ 1)) x[j] = one"),
    "which unusual line": ("top_of(line + i / 2 * 8), i % 2 ?", "top_of(line), i % 2 ?"),
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
    for hard_a, hard_b in ((with_hard_lanes(a), b), (a, with_hard_lanes(b)[shuffled(100)])):
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

NO_SPILL = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"


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
    """With 16 lines a thread has 128; at 23 bits, which have 52 sums, a few bytes go to memory. No value of a chain waits while a product is made."""
    ptx, cubin, log = nvrtc.reported(text(bits, lines), arch, "--ptxas-options=-v")
    assert cubin.startswith(b"\x7fELF")
    assert nvrtc.forbidden(ptx) == []
    assert ".local" not in ptx
    assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in ptx
    assert "ldmatrix.sync.aligned.m8n8.x4.shared.b16" in ptx
    assert "cp.async.cg.shared.global" in ptx
    assert log.count(NO_SPILL) == 2 - ((bits, lines) == (23, 16))


@pytest.mark.slow
@needs_nvrtc
def test_the_assembler_would_say_so() -> None:
    crowded = text(14, 16).replace("__launch_bounds__(32 * LINES, 1)", "__launch_bounds__(32 * LINES, 2)")
    assert NO_SPILL not in nvrtc.reported(crowded, "sm_90", "--ptxas-options=-v")[2]


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("arch", nvrtc.ARCHITECTURES)
def test_a_whole_attention_compiles(arch: str) -> None:
    files = ("walk.cuh", "map.cuh", "lines.cuh", "digits.cuh", "tensor.cuh", "attend.cuh", "attend_out.cuh")
    whole = defined(14, 16) + source(*files) + DISPATCH + WHOLE + KERNELS
    ptx, cubin = nvrtc.compiled(whole, arch)
    assert cubin.startswith(b"\x7fELF")
    assert nvrtc.forbidden(ptx) == []
