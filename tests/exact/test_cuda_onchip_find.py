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
    for buffer, byte in ((a.along, 8 * 17), (b.across, 4 * 99), (b.across, 4 * (2 * ROW + 99)), (v.checked, 149), (v.checked, 2 * ROW + 149)):
        flipped(one.device, buffer, byte, 1)
        assert (one.outward(p, v) if buffer is v.checked else one.inward(a, b))[1]
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


UNIT_IN, UNIT_OUT = "            fetch_next<BR, TURNS>(coming, rings, ring.done);", "            fetch(ring.done);"
ROUNDED = "#pragma unroll\n    for (int turn = 0; turn < (TILES + 3) / 4; turn++) {"
STRIKES = {
    "a lane in the ring": (UNIT_IN, "if (lane < 8 && turn == 0) rings[ring.now + byte] ^= 1 << bit;"),
    "a line": ("    u64 more = 0;\n", "lines[byte] ^= 1 << bit;"),
    "a line in registers": ("#if NARROWED\n    u32 centre[own], most", "held[byte % 2][byte / 2 % 2][byte / 4 % 2 * 2] ^= 1 << 4 * bit;"),
    "a sum of digits": ("        float x[EACH][2 * own];", "if (lane < 8) sums[0][byte % 3][byte % 2] ^= 1 << 4 * bit;"),
    "what is rounded": ("                highs[j / 2] += hi, lows[j / 2] += lo;", "if (j == 0 && lane < 8) (byte % 2 ? hi : lo) ^= 1 << 3 * bit;"),
    "a line's sum": ("    add_to_wrong(wrong, more);", "more ^= 1ull << 8 * bit;"),
    "what checks a line": ("    u64 more = 0;\n", "check[byte / 100 % SPANNED * width + byte % 100] ^= 1 << bit;"),
    "a lane on its way out": (UNIT_OUT, "if (at < PARTS) rings[ring.now + byte] ^= 1 << bit;"),
    "a digit of a line": (UNIT_OUT, "if (at < PARTS) digits[head_bytes<BR>() + byte] ^= 1 << bit;"),
    "a sum on its way out": ("    async_wait<0>(); /* for groups", "sums[byte % 2][byte / 2 % 3][byte % 2] ^= 1 << 4 * bit;"),
    "a sum of what checks": ("        more = 0 - right_side<BR>(checks);", "checks[byte % 2][byte / 2 % 2] ^= 1 << 4 * bit;"),
    "a sum of a line's digits": ("    u64 more = 0, here =", "((u64 *)digits)[byte % BR] ^= 1ull << 8 * bit;"),
    "a total": (ROUNDED, "totals[byte % (8 * BR)].of[byte / 8 % 2][bit / 4] ^= 1 << 7 * (bit % 4);"),
    "what is rounded on its way out": ("            i64 total = (i64)hi * (1 << LOW) + lo;", "if (n == 0) (i ? hi : lo) ^= 1 << 3 * bit;"),
}
TOGETHER = ("a line", "what checks a line", "a sum of a line's digits", "a total")
"""Before which text what is flipped, by a block's first thread (by its last warp's what only that has);
the others wait, of its warp or all, where they come by."""


@cache
def struck() -> Chip:
    """Its kernels flip what they were told before."""
    written = text(14, 8)
    for number, (what, (before, flip)) in enumerate(STRIKES.items(), 1):
        assert written.count(before) == 1, before
        wait = "__syncthreads();" if what in TOGETHER else "__syncwarp();" if before in (UNIT_IN, UNIT_OUT) else ""
        who = "32 * (BR - 1)" if what == "a sum of what checks" else "0"
        flip = f"if (strike == {number} && blockIdx.x == 1) {{ if (threadIdx.x == {who}) {{ {flip} }} {wait} }}"
        written = written.replace(before, f"{flip}\n{before}")
    written = written.replace("#ifndef RING", "static i64 strike, byte, bit;\n#ifndef RING", 1)
    return Chip(fake.Fake(), 14, 8, written + "\nKERNEL aim(i64 what, i64 of, i64 which) { strike = what, byte = of, bit = which; }\n")


@needs_compiler
def test_flipped_bits_on_the_chip_are_caught() -> None:
    """In shared memory and registers, of the second of three blocks, and of none of the others."""
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
            assert max(both) == 1, f"{what}, byte {byte}, bit {bit}: nobody noticed"
            assert min(both) == 0
    one.device.launch(Launch(aim, (1, 1, 1), (1, 1, 1), (0, 0, 0)))
    assert (one.inward(a, b)[1], one.outward(p, v)[1]) == (0, 0)


# ---- changes of the source -------------------------------------------------------------------------------------------------------

BEFORE = "    async_wait<RING - 2>();\n    __syncwarp();"
FETCHED_AGAIN = "        coming = first_fetched<BR, TURNS>(b, depth, start, lanes, rings);\n        lanes_made"
CHANGES = {
    "a lane's rows of a fragment": ("row = LANE & 7, spot = row * WIDTH", "row = LANE & 3, spot = row * WIDTH"),
    "a lane's pieces of k": ("SWIZZLED(row, LANE / 8 * 16)", "SWIZZLED(row, LANE / 16 * 16)"),
    "a lane's swizzle": ("spot = row * WIDTH + SWIZZLED(row, LANE / 8 * 16)", "spot = row * WIDTH + LANE / 8 * 16"),
    "a line's halves of 32": ("SWIZZLED(line, LANE / BR % 2 * 16)", "SWIZZLED(line, 0)"),
    "a line's swizzle": ("line * WIDTH + SWIZZLED(line, LANE / BR % 2 * 16)", "line * WIDTH + LANE / BR % 2 * 16"),
    "a line's other half": ("(spot_of_lines<BR>() ^ half % 2 * 32)", "spot_of_lines<BR>()"),
    "a line's planes": ("(z * TURNS + half / 2) * BR", "(half / 2) * BR"),
    "which 64 of k": ("(z * TURNS + half / 2)", "(z * TURNS)"),
    "which 64 of k are held": ("multiply(sums[n], held[2 * turn + half]", "multiply(sums[n], held[half]"),
    "the weight of a product of digits": ("mma_s8(sums[z + y],", "mma_s8(sums[z],"),
    "a product of digits twice": ("of_lines[z], of_lanes[y] + 2 * half)", "of_lines[z], of_lanes[z] + 2 * half)"),
    "the same half of a lane": ("of_lanes[y] + 2 * half)", "of_lanes[y])"),
    "a sum's weight": ("total = total * (1 << BASE) + sums[w][i]", "total = total * (2 << BASE) + sums[w][i]"),
    "sums of the unit before": ("            cleared<WEIGHTS>(sums[n]);\n#if", "            if (lane < 128) cleared<WEIGHTS>(sums[n]);\n#if"),
    "a wait for copies": (BEFORE, BEFORE.replace("- 2", "- 1")),
    "a wait for lines": ("        if (!multiplies) async_wait<0>();\n", ""),
    "a unit that is still multiplied": ("            fetch(ring.done);", "            fetch(ring.now);"),
    "a unit that is used again": ("ring = next_of<BR>(ring);\n        }\n        f", "ring = lane < 128 ? next_of<BR>(ring) : ring;\n }\n        f"),
    "a ring's end": ("ring.now == ring.first + (RING - 1) * unit_bytes<BR>()", "ring.now == ring.first + (RING - 2) * unit_bytes<BR>()"),
    "a ring of another warp": ("int first = (int)(threadIdx.x / 32) * (RING", "int first = (int)(threadIdx.x / 64) * (RING"),
    "half a unit": ("b.digits + lane * WIDTH + LANE * 16,", "b.digits + lane * WIDTH + LANE % 16 * 16,"),
    "which lanes are fetched": ("coming.from += step * WIDTH", "coming.from += step / 2 * WIDTH"),
    "which 64 of k are fetched": ("TURNS == 2 && coming.later ? coming.from + coming.row : coming.from", "coming.from"),
    "the planes of what is fetched": ("from + z * plane + n * UNIT", "from + n * UNIT"),
    "a line's element": ("to + 8 * j * pitch + 8 * n) =", "to + 4 * j * pitch + 8 * n) ="),
    "a lane's element": ("make_float2(x[n][2 * j], x[n][2 * j + 1])", "make_float2(x[n][2 * j + 1], x[n][2 * j])"),
    "a line's magnitude": ("joined_pair(hi, lo, less[j / 2])", "joined_pair(hi, lo, less[0])"),
    "a lane's magnitude": ("usual_b(of_b[n][j % 2])", "usual_b(of_b[n][0])"),
    "lanes' magnitudes": ("top += step, to", "top += step / 2, to"),
    "lines of another block": ("* (u32)a.padded + (u32)first) * WIDTH", "* (u32)a.padded) * WIDTH"),
    "a checksum of some lanes": ("        more += of_line(line + 8 * i, here[i]);", "        if (LANE % 4) more += of_line(line + 8 * i, here[i]);"),
    "a checksum of some k": ("half < 2 * TURNS; half++) {\n            u32 of_block", "half < 2; half++) {\n            u32 of_block"),
    "a checksum of some warps": ("    add_to_wrong(wrong, more);", "    add_to_wrong(wrong, warp ? more : 0);"),
    "a plane's weight in a checksum": ("(i64)1 << BASE * (OWN - 1 - z); }", "(i64)1 << BASE * z; }"),
    "a checksum that is forgotten": ("wrong * 0x9e3779b97f4a7c15ull + more", "wrong * 0x9e3779b97f4a7c15ull + more / 2"),
    "where a digit is put": ("to + SWIZZLED(r, 2 * LANE), (u64", "to + 2 * LANE, (u64"),
    "a digit that is not summed": ("(u32)line.sum + (u32)q);", "(u32)line.sum + (e ? (u32)q : 0u));"),
    "the first row": ("mine = (int)((u32)at / UNITS) * OWN * of_lines +", "mine ="),
    "the first row that is fetched": ("b.digits + (u32)ahead / UNITS * (u32)row_b + tile", "b.digits + tile"),
    "rows that are fetched twice": ("        from += PARTS / UNITS * row_b;\n", ""),
    "rows behind the last": ("const bool multiplies = part < PARTS;", "const bool multiplies = true;"),
    "planes of lines on their way out": ("(mine ^ half * 32) + z * of_lines", "(mine ^ half * 32)"),
    "lanes of another tile": ("(u32)row_b + tile * 16 * WIDTH + piece", "(u32)row_b + piece"),
    "the second 8 lanes": ("of_lanes[n % EACH], EACH == 2 ? half : n)", "of_lanes[0], EACH == 2 ? half : n)"),
    "totals of one part of k": ("for (int p = 0; p < PARTS; p++) {", "for (int p = 0; p < 1; p++) {"),
    "lanes of another unit": ("totals + ((n / 16 * BR + warp) * 8 +", "totals + (warp * 8 +"),
    "lanes of another 8": ("((n ^ at) & 1) * 4", "(n & 1) * 4"),
    "a group's place in the sums": ("b.across[group * (u32)depth +", "b.across[group * 64 +"),
    "sums that begin with the first group": ("u32 group = (u32)span.begin / GROUP; group", "u32 group = 0; group"),
    "sums up to the last group": ("group < (u32)(lanes + GROUP - 1) / GROUP", "group < (u32)b.padded / GROUP"),
    "lanes that are fetched where a span begins": ("(b, depth, start, lanes, rings);\n#pragma", "(b, depth, warp * BR, lanes, rings);\n#pragma"),
    "lanes that are made where a span begins": ("    int lane = start;", "    int lane = (int)(threadIdx.x / 32) * BR;"),
    "k where a span begins": ("begin = (int)((u32)span.begin / WIDTH), end", "begin = 0, end"),
    "k behind a span": ("end = rows_of(span.end); /*", "end = rows_of((int)length); /*"),
    "k of the check": ("LANE % 4 * 4 + at * WIDTH)", "LANE % 4 * 4)"),
    "digits of the check": ("b.checked + (LANE / 4 * depth +", "b.checked + (LANE / 8 * depth +"),
    "a weight of the check": ("(i64)sums[z][2 * i + j] * own_weight(z)", "(i64)sums[z][2 * i + j] * own_weight(0)"),
    "a digit's weight in the check": ("<< 8 * j;", "<< 4 * j;"),
    "a check of half the lines": ("all += of_line(LANE / 4 + 8 * i, sum", "if (i == 0) all += of_line(LANE / 4 + 8 * i, sum"),
    "a carry of the check's digits": ("s = (s - low) >> 8;", "s >>= 8;"),
    "lines beyond the last": ("if (first + warp < rows && n", "if (n"),
    "the second 32 of a result": ("to[(64 * turn + i) * lane_step]", "to[i * lane_step]"),
    "steps of the result": ("+ 2 * LANE * lane_step;", "+ 2 * LANE;"),
    "the clamp": ("max(min(q, most), -most)", "max(min(q, most + 1), -most)"),
    "lines that want the clamp": (">= 1 << (line.bits - 1)", "> 1 << (line.bits - 1)"),
    "what the clamp changes, summed": ("line.sum += none ? 0 : held - q;", ""),
    "digits of a line that has a NaN": ("if (none) line.sum = 0;", ""),
    "a line's scale where it is tiny": ("- ((u32)(s - first) << 23)", ""),
    "the low digit": ("d[1] = q & (2 * HALF - 1);", "d[1] = q & (HALF - 1);"),
    "the high digits' own carry": ("(sums[1][i] >> BASE)", "(sums[1][i] / (1 << BASE))"),
    "what the last sums begin with": ("sums[0][i] = sums[WEIGHTS - 1][i] =", "sums[0][i] ="),
    "how many totals a line has": ("/ (step / (2 * EACH)) * centre[i]", "/ (step / EACH) * centre[i]"),
    "what is added for both parts": ("(3u << (22 - LOW))", "(2u << (22 - LOW))"),
    "a line's power of two": ("(u32)(2 * bits + 123) << 23", "(u32)(2 * bits + 122) << 23"),
    "which line begins with it": ("centred(sums[n], i, centre[i / 2 % own])", "centred(sums[n], i, centre[0])"),
    "what checks a line, and 1": ("        Across s = 1;", "        Across s = 0;"),
    "a line's multiple": ("all += of_line(LANE / 4 + 8 * i, sum", "all += of_line(LANE / 4, sum"),
    "lines' own integers": ("        if (LANE < BR) more = of_line(LANE,", "        if (LANE < BR / 2) more = of_line(LANE,"),
    "another line's integers": ("of_line(LANE, a.along[first + LANE])", "of_line(LANE, a.along[first])"),
    "a total's high part": ("hi += lo >> LOW;", "hi += lo / (1 << LOW);"),
    "a total's middle": ("*low = (u32)(middle * (1 << LOW)) +", "*low ="),
    "a total's lower part": ("usual_element<22>(high, low,", "usual_element<22>(high, (u32)CENTRED,"),
    "a lane of another scale on its way out": ("scale_a, usual_b(top));", "scale_a, usual_b(top_b.x));"),
    "what is not usual on its way out": ("if (!usual(scale_top, top)) x =", "if (!usual(scale_top, scale_top)) x ="),
    "lines that are not usual on their way out": ("if (!usual(scale_top, top)) x =", "if (!usual(top, top)) x ="),
    "a warp's part of what is wrong": ("wrong = summed_by_warp(wrong);\n    if", "if"),
    "a block's part of what is wrong": ("summed_by_warp(LANE < BR ? of_warps[LANE] : 0)", "summed_by_warp(LANE < BR / 2 ? of_warps[LANE] : 0)"),
    "a low part that is rounded by itself": ("__uint_as_float(lo));", "__fadd_rn(__uint_as_float(lo), 0.5f));"),
    "lanes that are not usual": ("most >= 181u << 23 || least", "least"),
    "the second lane that is not usual": ("if (j < 2) most = max(most, of_b[n][j])", "if (j < 1) most = max(most, of_b[n][j])"),
    "lines that are not usual": ("        most = max(most, at), least = min(least, at - 1);\n", ""),
    "one line that is not usual": ("most = max(most, at), least", "most = at, least"),
    "an unusual total": ("if (USUAL) centred(", "centred("),
    "which unusual line": ("element(total, top_a[j / 2], of_b", "element(total, top_a[0], of_b"),
    "the second 8 lanes that are fetched": ("from + z * plane + n * UNIT", "from + z * plane"),
    "which 8 lanes' elements": ("to + 8 * j * pitch + 8 * n) =", "to + 8 * j * pitch) ="),
    "8 lanes' magnitudes": ("(const uint2 *)(top + 8 * n)", "(const uint2 *)top"),
    "a unit of lanes that is still multiplied": ("fetch_next<BR, TURNS>(coming, rings, ring.done)", "fetch_next<BR, TURNS>(coming, rings, ring.now)"),
    "a lane's swizzle on its way out": ("EACH == 2 ? row * WIDTH + SWIZZLED(row, LANE / 8 * 16)", "EACH == 2 ? row * WIDTH + LANE / 8 * 16"),
    "the other 32 of k of a line on its way out": ("lines + (mine ^ half * 32)", "lines + mine"),
    "which 32 of k of a lane on its way out": ("EACH == 2 ? half : n)", "EACH == 2 ? 0 : n)"),
    "rows of a line on its way out": ("mine + PARTS * OWN * of_lines :", "mine + OWN * of_lines :"),
    "the second 32 of k of the check": ("(digit + half * 32), four[1]", "digit, four[1]"),
    "lines' rows that are checked": ("lines + at * OWN * of_lines + z * of_lines", "lines + z * of_lines"),
    "rows that are checked": ("at += CHECKERS)", "at += 2 * CHECKERS)"),
    "lanes that are too small": (" || least < (77u << 23) - 1", ""),
    "an unusual lane": ("of_b[n][j % 2], bits)", "of_b[n][0], bits)"),
    "what is made again, fetched again": (FETCHED_AGAIN, "        lanes_made"),
    "sums of what is made again": ("rings, again);", "rings, more);"),
}
OF_EIGHT = {
    "which half of a row": ("(at & 1 ? bytes + row : bytes) ^ 32", "(at & 1 ? bytes + row : bytes)"),
    "which row": ("(at & 1 ? bytes + row : bytes) ^ 32", "bytes ^ 32"),
    "rows between": ("bytes += PARTS / 2 * row;", ""),
    "the first half": ("(spot_of_lines<BR>() ^ at % UNITS * 32);", "spot_of_lines<BR>();"),
    "the first half that is fetched": ("(SWIZZLED(lane, (LANE & 1) * 16) ^ (ahead & 1) * 32)", "SWIZZLED(lane, (LANE & 1) * 16)"),
    "where a piece lies in a unit": ("(LANE >> 3 ^ row >> 2) & 1", "(LANE >> 3) & 1"),
    "lanes of a fragment on its way out": (": (LANE & 7) + LANE / 16 * 8;", ": (LANE & 7);"),
    "the second 8 lanes of a unit of 32 of k": ("EACH == 2 ? half : n)", "EACH == 2 ? half : 0)"),
    "the next half that is fetched": ("(piece & 32 ? -32 : 32)", "0"),
}
"""With blocks of 8 lines."""


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
    for line, lane in ((1e30, 1.0), (1.0, 1e-39)):  # one that is not usual, and more units than a ring has
        a, b = operands(1, 16, 64, 600, "even", one.bits)
        a[3] *= np.float32(line)
        b[580] *= np.float32(lane)
        got, faults = one.inward(one.packed(a), one.packed(b))
        if faults or not same(got, reference.matmul(a, b.T, one.bits)):
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
@pytest.mark.parametrize(("lines", "change"), [(16, change) for change in CHANGES] + [(8, change) for change in OF_EIGHT])
def test_a_change_is_found(lines: int, change: str) -> None:
    old, new = (CHANGES if lines == 16 else OF_EIGHT)[change]
    assert old in text(14, lines), "there is no such text"
    one = Chip(fake.Fake(), 14, lines, text(14, lines).replace(old, new))
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
    """With 16 lines a thread has 128. No value of a chain waits while a product is made."""
    ptx, cubin, log = nvrtc.reported(text(bits, lines), arch, "--ptxas-options=-v")
    assert cubin.startswith(b"\x7fELF")
    assert nvrtc.forbidden(ptx) == []
    assert ".local" not in ptx
    assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in ptx
    assert "ldmatrix.sync.aligned.m8n8.x4.shared.b16" in ptx
    assert "cp.async.cg.shared.global" in ptx
    assert log.count(NO_SPILL) == 2


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
