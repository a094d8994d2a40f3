"""attend.cuh on the fake device: products into and out of shared memory, in small kernels around its functions, give the reference's bits; what is
flipped on the way is found; a whole attention made of them by hand.

Operands are packed by pack.cu. Fragments of mma.sync and ldmatrix are laid out as the PTX ISA says (tensor.cuh), cp.async is as late as it may be.
Changes of the source that are found, and what NVIDIA's compiler makes of it: test_cuda_onchip_find.py.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from assay.exact import reference
from assay.exact.cases_of_products import MOST
from assay.exact.cuda import fake
from assay.exact.cuda.device import Buffer, Launch, source
from assay.exact.cuda.product import BLOCK, LANES, ROW, STRETCH, around
from assay.exact.cuda.tiles import NARROW, digits
from assay.exact.inputs import Array, floats
from tests.exact.support import same
from tests.exact.test_cuda_products import uploaded

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
WIDTHS = (8, 14, 15, 23)

KERNELS = """
/* c[row][j] of a block's lines and all of B's lanes, by way of shared memory. */
KERNEL __launch_bounds__(32 * LINES, 1) inward(const i8 *a, const u32 *top_a, const u64 *along, i64 lanes_a, i64 padded_a, const i8 *b,
                                               const u32 *top_b, const u64 *across, i64 lanes_b, i64 padded_b, i64 k, i64 bits, float *c,
                                               u64 *faults) {
    ASSAY_SHARED(char, shared);
    int r = (int)threadIdx.x >> 5, pitch = pitch_of((int)lanes_b);
    i64 first = (i64)blockIdx.x * LINES;
    float *plane = (float *)(shared + (ring_bytes<LINES>() + 127) / 128 * 128);
    Packed rows = {a, top_a, 0, along, lanes_a, padded_a}, columns = {b, top_b, across, 0, lanes_b, padded_b};
    product_in<LINES>(plane, pitch, rows, first, columns, k, (int)bits, shared, faults);
    for (int e = LANE; e < (int)lanes_b; e += 32) if (first + r < lanes_a) c[(first + r) * lanes_b + e] = plane[r * pitch + e];
}

/* out[row * row_step + n * lane_step] of p[rows][length] and B's lanes, p by way of digits in shared memory. */
KERNEL __launch_bounds__(32 * LINES, 1) outward(const float *p, i64 rows, i64 length, const i8 *b, const u32 *top_b, const u64 *across,
                                                i64 lanes_b, i64 padded_b, i64 bits, float *out, i64 row_step, i64 lane_step, u64 *faults) {
    ASSAY_SHARED(char, shared);
    __shared__ u32 tops[LINES];
    int r = (int)threadIdx.x >> 5;
    i64 first = (i64)blockIdx.x * LINES;
    char *digits = shared + (ring_bytes<LINES>() + 127) / 128 * 128;
    Packed columns = {b, top_b, across, 0, lanes_b, padded_b};
    if (first + r < rows) {
        u32 top = 0;
        p += (first + r) * length;
        for (int e = LANE; e < (int)length; e += 32) top = max(top, __float_as_uint(p[e]) & ABS_BITS);
        for (int by = 16; by; by /= 2) top = max(top, __shfl_xor_sync(ALL_LANES, top, by));
        Line line = line_of<LINES>(digits, r, length, top, (int)bits);
        for (int e = LANE; e < (int)length; e += 32) put<LINES>(line, e, p[e]);
        line_done(line);
        if (LANE == 0) tops[r] = top;
    }
    product_out<LINES>(out, row_step, lane_step, rows, first, digits, tops, columns, length, (int)bits, shared, faults);
}
"""


def defined(bits: int, lines: int) -> str:
    how = digits(bits)
    given = {"PLANES": how.planes, "KARATSUBA": int(how.karatsuba), "PLAIN": 0, "BF16": 0, "FP8": 0, "WIDTH": 64, "LINES": lines}
    return "".join(f"#define {name} {value}\n" for name, value in given.items())


def text(bits: int, lines: int) -> str:
    return defined(bits, lines) + source("digits.cuh", "tensor.cuh", "attend.cuh") + KERNELS


def own(bits: int) -> int:
    """Planes in memory."""
    how = digits(bits)
    return 2 if how.karatsuba else how.planes


def ring_bytes(bits: int, lines: int) -> int:
    return -(-(3 * own(bits) * 8192 + own(bits) * 128 * lines + 8 * 128 + 12 * lines) // 128) * 128


def digits_bytes(bits: int, lines: int, length: int) -> int:
    checked = 2 if bits <= 8 else own(bits) + 1
    return -(-8 * lines // 128) * 128 + -(-length // 64) * 64 * (own(bits) * lines + checked)


class Packed(NamedTuple):
    """An operand as pack.cu leaves it."""

    x: Array
    padded: int
    digits: Buffer
    top: Buffer
    across: Buffer
    along: Buffer


class Chip:
    """A device and the kernels of one width, for blocks of so many lines."""

    def __init__(self, device: fake.Fake, bits: int, lines: int, written: str = "") -> None:
        """`written`: another text of the kernels."""
        self.device, self.bits, self.lines = device, bits, lines
        self.module = device.load(written or text(bits, lines))
        self.faults = device.allocate(8)

    def packed(self, x: Array) -> Packed:
        """Of lanes x k."""
        lanes, k = x.shape
        how, device, blocks, padded = digits(self.bits), self.device, -(-k // ROW), -(-lanes // LANES) * LANES
        kernel = device.load(around(how, NARROW)).kernel
        size, planes = 8 * how.planes * blocks * ROW, own(self.bits)
        out = Packed(
            x, padded, device.allocate(planes * blocks * ROW * padded), device.allocate(4 * lanes), device.allocate(size), device.allocate(8 * padded)
        )
        for buffer in (out.top, out.across, out.along):
            device.upload(buffer.address, np.zeros(buffer.size, np.uint8))
        start, values = uploaded(device, np.zeros(1, np.int64)), uploaded(device, x)
        common = (values.address, start.address, 0, k, 0, 1, lanes, k, 0, out.top.address)
        device.launch(Launch(kernel("tops"), (-(-lanes // 32) * -(-k // STRETCH), 1, 1), BLOCK, common))
        more = (self.bits, padded, out.digits.address, planes, out.across.address, out.along.address)
        device.launch(Launch(kernel("pack"), (padded // LANES * blocks, 1, 1), BLOCK, (*common, *more)))
        device.wait()
        return out

    def launch(self, name: str, rows: int, arguments: tuple[int, ...], out: Array, shared: int) -> tuple[Array, int]:
        """(what it leaves in place of `out`, whose address is written -1, wrong checksums)."""
        to = uploaded(self.device, out)
        self.device.upload(self.faults.address, np.zeros(1, np.uint64))
        words = tuple(to.address if word == -1 else word for word in arguments)
        grid = (-(-rows // self.lines), 1, 1)
        self.device.launch(Launch(self.module.kernel(name), grid, (32 * self.lines, 1, 1), (*words, self.faults.address), shared))
        got, count = np.empty_like(out), np.zeros(1, np.uint64)
        self.device.download(to.address, got)
        self.device.download(self.faults.address, count)
        return got, int(count[0])

    def inward(self, a: Packed, b: Packed, spare: int = 0) -> tuple[Array, int]:
        """spare: bytes of shared memory beyond those of a ring of three stages."""
        rows, columns, k = len(a.x), len(b.x), a.x.shape[1]
        shared = spare + ring_bytes(self.bits, self.lines) + 4 * self.lines * ((columns + 11) // 16 * 16 + 4)
        of_a = (a.digits.address, a.top.address, a.along.address, rows, a.padded)
        of_b = (b.digits.address, b.top.address, b.across.address, columns, b.padded)
        return self.launch("inward", rows, (*of_a, *of_b, k, self.bits, -1), np.zeros((rows, columns), np.float32), shared)

    def outward(self, p: Array, b: Packed, turned: bool = False, spare: int = 0) -> tuple[Array, int]:
        """turned: the result lies column by column."""
        (rows, length), columns = p.shape, len(b.x)
        shared = spare + ring_bytes(self.bits, self.lines) + digits_bytes(self.bits, self.lines, length)
        lines = uploaded(self.device, p)
        of_b = (b.digits.address, b.top.address, b.across.address, columns, b.padded)
        steps = (1, rows) if turned else (columns, 1)
        shape = (columns, rows) if turned else (rows, columns)
        got, wrong = self.launch("outward", rows, (lines.address, rows, length, *of_b, self.bits, -1, *steps), np.zeros(shape, np.float32), shared)
        return got.T if turned else got, wrong


@cache
def chip(bits: int, lines: int) -> Chip:
    return Chip(fake.Fake(), bits, lines)


def operands(seed: int, rows: int, k: int, columns: int, kind: str, bits: int) -> tuple[Array, Array]:
    """A, and B by columns."""
    if kind == "maximal":
        most = np.float32(-8128 / 8192) if 8 < bits <= 14 else MOST
        a, b = np.full((rows, k), most, np.float32), np.full((columns, k), most, np.float32)
        b[1::2] *= -1
        return a, b
    if kind == "limit":
        return np.full((rows, k), MOST, np.float32), np.full((columns, k), -MOST, np.float32)
    return floats(seed, (rows, k), kind), floats(seed + 1, (columns, k), kind)


KINDS = ("even", "wide", "tiny", "rare", "maximal", "limit")
INWARD = [(16, 64, 64), (9, 128, 130), (35, 80, 200), (70, 16, 33), (1, 1, 1), (24, 100, 129), (64, 65, 7)]
"""Lines, k, lanes."""
OUTWARD = [(16, 128, 64), (9, 130, 128), (35, 200, 80), (70, 33, 16), (1, 1, 1), (24, 600, 48), (40, 63, 2), (17, 300, 100)]
"""Lines, length, lanes."""


@needs_compiler
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("lines", [8, 16])
def test_products_into_shared_memory(bits: int, lines: int) -> None:
    for at, (rows, k, columns) in enumerate(INWARD):
        kind = KINDS[at % len(KINDS)]
        a, b = operands(at + bits, rows, k, columns, kind, bits)
        one = chip(bits, lines)
        got, wrong = one.inward(one.packed(a), one.packed(b))
        assert same(got, reference.matmul(a, b.T, bits)), (rows, k, columns, kind)
        assert wrong == 0, (rows, k, columns, kind)


@needs_compiler
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("lines", [8, 16])
def test_products_out_of_shared_memory(bits: int, lines: int) -> None:
    for at, (rows, length, columns) in enumerate(OUTWARD):
        kind = KINDS[at % len(KINDS)]
        a, b = operands(at + bits, rows, length, columns, kind, bits)
        one = chip(bits, lines)
        got, wrong = one.outward(a, one.packed(b), turned=at % 2 == 1)
        assert same(np.ascontiguousarray(got), reference.matmul(a, b.T, bits)), (rows, length, columns, kind)
        assert wrong == 0, (rows, length, columns, kind)


@needs_compiler
@pytest.mark.parametrize("stages", [2, 4])
def test_rings_of_other_depths(stages: int) -> None:
    one = Chip(fake.Fake(), 14, 16, f"#define RING {stages}\n{text(14, 16)}")
    a, b = operands(1, 35, 100, 600, "even", 14)
    got, wrong = one.inward(one.packed(a), one.packed(b), spare=max(0, stages - 3) * 16384)
    assert same(got, reference.matmul(a, b.T, 14))
    assert wrong == 0
    a, b = operands(1, 35, 700, 70, "even", 14)
    got, wrong = one.outward(a, one.packed(b), spare=max(0, stages - 3) * 16384)
    assert same(got, reference.matmul(a, b.T, 14))
    assert wrong == 0


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
    one, rng = chip(bits, 8), np.random.default_rng(bits)
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
    for buffer, byte in ((a.along, 8 * 17), (b.across, 8 * 99), (v.across, 8 * 149)):
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
    "what is rounded": ("            here[i % 2] += (u64)total;", "if (i == 0 && begin < 16) total ^= 1ll << 8 * bit;"),
    "a line's sum": ("    u64 wanted = 0;", "found[byte % BR] ^= 1ull << 8 * bit;"),
    "a weight": ("    u64 wanted = 0;", "across[byte % 100] ^= 1ull << bit;"),
    "a lane on its way out": ("        if (!idle && row < count) multiply_unit(", "if (row == part) ring[byte] ^= 1 << bit;"),
    "a digit of a line": ("        if (!idle && row < count) multiply_unit(", "if (row == part) lines[byte] ^= 1 << bit;"),
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


# ---- a whole attention ------------------------------------------------------------------------------------------------------------

WHOLE = """
#define HELD 8
/* out = softmax(q k^T + mask) v, of one head of at most 256 keys; twice, so that what one product leaves in shared memory meets the next one. */
KERNEL __launch_bounds__(32 * LINES, 1) whole(const i8 *q, const u32 *top_q, const u64 *along, i64 rows, i64 padded_q, const i8 *k, const u32 *top_k,
                                              const u64 *across_k, const i8 *v, const u32 *top_v, const u64 *across_v, i64 keys, i64 padded_k,
                                              i64 depth, i64 width, i64 padded_v, const float *mask, i64 bits, i64 bits_of_sum, float *out,
                                              u64 *faults) {
    ASSAY_SHARED(char, shared);
    __shared__ u32 tops[LINES];
    int r = (int)threadIdx.x >> 5, n = (int)keys, pitch = pitch_of(n);
    i64 first = (i64)blockIdx.x * LINES;
    float *plane = (float *)(shared + (ring_bytes<LINES>() + 127) / 128 * 128), x[HELD];
    char *digits = (char *)(plane + LINES * pitch);
    Packed of_q = {q, top_q, 0, along, rows, padded_q}, of_k = {k, top_k, across_k, 0, keys, padded_k};
    Packed of_v = {v, top_v, across_v, 0, width, padded_v};
    for (int turn = 0; turn < 2; turn++) {
        product_in<LINES>(plane, pitch, of_q, first, of_k, depth, (int)bits, shared, faults);
        u32 rank = 0, top = 0;
        u64 sum = 0;
        for (int i = 0; i < HELD; i++) {
            int e = LANE + 32 * i;
            if (e < n) x[i] = ADD(plane[r * pitch + e], mask[(first + r < rows ? first + r : 0) * keys + e]), rank = larger(rank, rank_of(x[i]));
        }
        float most = of_rank(largest_of<32>(rank));
        for (int i = 0; i < HELD; i++) if (LANE + 32 * i < n) x[i] = exp_f32(SUB(x[i], most)), top = larger(top, magnitude(x[i]));
        top = largest_of<32>(top);
        int scale = scale_of(top, bits_of_sum);
        for (int i = 0; i < HELD; i++) if (LANE + 32 * i < n) sum += (u64)fixed(x[i], scale);
        float all = sum_of(top, total_of<32>(sum), bits_of_sum);
        top = 0;
        for (int i = 0; i < HELD; i++) if (LANE + 32 * i < n) x[i] = canon(DIV(x[i], all)), top = larger(top, magnitude(x[i]));
        top = largest_of<32>(top);
        if (LANE == 0) tops[r] = top;
        Line line = line_of<LINES>(digits, r, keys, top, (int)bits);
        for (int i = 0; i < HELD; i++) if (LANE + 32 * i < n) put<LINES>(line, LANE + 32 * i, x[i]);
        line_done(line);
        product_out<LINES>(out, width, 1, rows, first, digits, tops, of_v, keys, (int)bits, shared, faults);
    }
}
"""


def attended(device: fake.Fake, rows: int, keys: int, depth: int, width: int, kind: str) -> bool:
    """Whether a whole attention is right."""
    bits, lines = 14, 16
    files = ("walk.cuh", "map.cuh", "lines.cuh", "digits.cuh", "tensor.cuh", "attend.cuh")
    one = Chip(device, bits, lines, defined(bits, lines) + source(*files) + WHOLE)
    q, k = operands(1, rows, depth, keys, kind, bits)
    v, mask = floats(3, (width, keys), kind), np.where(np.arange(keys) <= np.arange(rows)[:, None] * 3, np.float32(0), np.float32(-np.inf))
    scores = reference.matmul(q, k.T, bits) + mask
    raised = reference.exp(scores - reference.amax(scores, (1,), True))
    weights = reference.MAP["div"](raised, reference.sum_(raised, (1,), True)).astype(np.float32)
    want = reference.matmul(np.where(np.isnan(weights), reference.NAN, weights), v.T, bits)
    of_q, of_k, of_v = (one.packed(x) for x in (q, k, v))
    masks = uploaded(device, mask.astype(np.float32))
    arguments = (
        of_q.digits.address, of_q.top.address, of_q.along.address, rows, of_q.padded, of_k.digits.address, of_k.top.address, of_k.across.address,
        of_v.digits.address, of_v.top.address, of_v.across.address, keys, of_k.padded, depth, width, of_v.padded, masks.address, bits,
        reference.sum_bits(keys), -1,
    )  # fmt: skip
    shared = ring_bytes(bits, lines) + 4 * lines * ((keys + 11) // 16 * 16 + 4) + digits_bytes(bits, lines, keys)
    got, wrong = one.launch("whole", rows, arguments, np.zeros((rows, width), np.float32), shared)
    return same(got, want) and wrong == 0


HEADS = ((50, 200, 64, 64, "even"), (24, 67, 80, 33, "rare"), (33, 256, 128, 128, "wide"))


@needs_compiler
@pytest.mark.parametrize("head", HEADS)
def test_a_whole_attention(head: tuple[int, int, int, int, str]) -> None:
    assert attended(fake.Fake(), *head)
