"""attend.cuh on the fake device: products into and out of shared memory, in small kernels around its functions, give the reference's bits, and so
does a whole attention made of them by hand.

Operands are packed by heads.cu. Fragments of mma.sync and ldmatrix are laid out as the PTX ISA says (tensor.cuh), cp.async is as late as it may be.
What is flipped or changed and found, and what NVIDIA's compiler makes of the source: test_cuda_onchip_find.py.
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
from assay.exact.cuda.product import HEAD_THREADS, LANES, ROW
from assay.exact.cuda.sources import of_heads
from assay.exact.cuda.tiles import digits
from assay.exact.inputs import Array, floats
from tests.exact.support import same
from tests.exact.test_cuda_products import uploaded

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
WIDTHS = (8, 14, 15, 23)
BLOCKS = [pytest.param(b, lines, marks=[pytest.mark.slow] if lines == 8 and b != 14 else []) for b in WIDTHS for lines in (8, 16)]
"""Bits, and lines of a block; some are slow only because each is compiled by itself."""

Span = tuple[int, int]

DISPATCH = """
/* By how many lanes there are. */
template <int TILES> __device__ void out_of(float *out, i64 row, i64 lane, i64 rows, i64 first, char *digits, const u32 *tops, const Packed &b,
                                            i64 length, Span span, int bits, char *rings, u64 &wrong) {
    if constexpr (TILES > 1) {
        if (b.lanes <= 16 * (TILES - 1)) return out_of<TILES - 1>(out, row, lane, rows, first, digits, tops, b, length, span, bits, rings, wrong);
    }
    product_out<LINES, TILES>(out, row, lane, rows, first, digits, tops, b, length, span, bits, rings, wrong);
}
"""

KERNELS = """
/* c[row][j] of a block's lines and of B's lanes begin <= j < end, by way of shared memory. */
KERNEL __launch_bounds__(32 * LINES, 1) inward(const i8 *a, const u32 *top_a, const u64 *along, i64 lanes_a, i64 padded_a, const i8 *b,
                                               const u32 *top_b, const i32 *across, i64 lanes_b, i64 padded_b, i64 k, i64 begin, i64 end, i64 bits,
                                               float *c, u64 *faults) {
    ASSAY_SHARED(char, shared);
    int r = (int)threadIdx.x >> 5, pitch = pitch_of<LINES>((int)lanes_b);
    i64 first = (i64)blockIdx.x * LINES;
    float *plane = (float *)(shared + (ring_bytes<LINES>() + 127) / 128 * 128);
    Packed rows = {a, top_a, 0, along, 0, (i32)lanes_a, (i32)padded_a}, columns = {b, top_b, across, 0, 0, (i32)lanes_b, (i32)padded_b};
    Span span = {(int)begin, (int)end};
    u64 wrong = 0;
    if (k <= 64) product_in<LINES, 1>(plane, pitch, rows, first, columns, k, span, (int)bits, shared, wrong);
    else product_in<LINES, 2>(plane, pitch, rows, first, columns, k, span, (int)bits, shared, wrong);
    add_to_faults<LINES>(faults, wrong, shared);
    for (int e = (int)begin + LANE; e < (int)end; e += 32) if (first + r < lanes_a) c[(first + r) * lanes_b + e] = plane[r * pitch + e];
}

/* out[row * row_step + n * lane_step] of p[rows][begin <= k < end] and B's lanes, p by way of digits in shared memory. */
KERNEL __launch_bounds__(32 * LINES, 1) outward(const float *p, i64 rows, i64 length, const i8 *b, const u32 *top_b, const i8 *checked,
                                                i64 lanes_b, i64 padded_b, i64 begin, i64 end, i64 bits, float *out, i64 row_step,
                                                i64 lane_step, u64 *faults) {
    ASSAY_SHARED(char, shared);
    __shared__ u32 tops[LINES];
    int r = (int)threadIdx.x >> 5;
    i64 first = (i64)blockIdx.x * LINES;
    char *digits = shared + (ring_bytes<LINES>() + 127) / 128 * 128;
    Packed columns = {b, top_b, 0, 0, checked, (i32)lanes_b, (i32)padded_b};
    if (first + r < rows) {
        u32 top = 0;
        p += (first + r) * length;
        for (int e = (int)begin + LANE; e < (int)end; e += 32) top = max(top, __float_as_uint(p[e]) & ABS_BITS);
        for (int by = 16; by; by /= 2) top = max(top, __shfl_xor_sync(ALL_LANES, top, by));
        Line line = line_of<LINES>(digits, r, (u32)begin, (u32)(end - begin), top, (int)bits);
        for (int i = 0; OF_LANE(i / 2, i % 2) < (int)(end - begin); i++) put<LINES>(line, OF_LANE(i / 2, i % 2), p[begin + OF_LANE(i / 2, i % 2)]);
        line_done<LINES>(line);
        if (LANE == 0) tops[r] = top;
    } else {
        if (LANE == 0) tops[r] = 0;
        zeros<LINES>(digits, r, (u32)begin, (u32)(end - begin), (int)bits);
    }
    u64 wrong = 0;
    out_of<8>(out, row_step, lane_step, rows, first, digits, tops, columns, length, {(int)begin, (int)end}, (int)bits, shared, wrong);
    add_to_faults<LINES>(faults, wrong, shared);
}
"""


def defined(bits: int, lines: int) -> str:
    how = digits(bits)
    given = {"PLANES": how.planes, "KARATSUBA": int(how.karatsuba), "PLAIN": 0, "BF16": 0, "FP8": 0, "WIDTH": 64, "LINES": lines}
    return "".join(f"#define {name} {value}\n" for name, value in given.items())


def text(bits: int, lines: int) -> str:
    return defined(bits, lines) + source("digits.cuh", "tensor.cuh", "attend.cuh", "attend_out.cuh") + DISPATCH + KERNELS


def own(bits: int) -> int:
    """Planes in memory."""
    how = digits(bits)
    return 2 if how.karatsuba else how.planes


def ring_bytes(bits: int, lines: int) -> int:
    return -(-(3 * own(bits) * 512 * lines + own(bits) * 128 * lines + 8 * 128) // 128) * 128


def digits_bytes(bits: int, lines: int, length: int) -> int:
    return -(-8 * lines // 128) * 128 + -(-length // 64) * 64 * own(bits) * lines


class Packed(NamedTuple):
    """An operand as heads.cu leaves it."""

    x: Array
    padded: int
    digits: Buffer
    top: Buffer
    across: Buffer
    checked: Buffer
    along: Buffer


class Chip:
    """A device and the kernels of one width, for blocks of so many lines."""

    def __init__(self, device: fake.Fake, bits: int, lines: int, written: str = "") -> None:
        """`written`: another text of the kernels."""
        self.device, self.bits, self.lines = device, bits, lines
        self.module = device.load(written or text(bits, lines))
        self.faults = device.allocate(8)

    def packed(self, x: Array) -> Packed:
        """Of lanes x k, one of which is at most 128, by rows or by columns."""
        lanes, k = x.shape
        device, blocks, padded = self.device, -(-k // ROW), -(-lanes // LANES) * LANES
        size, planes = 4 * padded // LANES * blocks * ROW, own(self.bits)
        out = Packed(
            x, padded, device.allocate(planes * blocks * ROW * padded), device.allocate(4 * padded), device.allocate(size),
            device.allocate((2 if self.bits <= 8 else planes + 1) * blocks * ROW), device.allocate(8 * padded),
        )  # fmt: skip
        start, values = uploaded(device, np.zeros(1, np.int64)), uploaded(device, x)
        places = (b.address for b in (out.top, out.digits, out.along, out.across))
        to, nowhere = (*places, out.checked.address if lanes <= 128 else 0, padded), (0,) * 6
        walk = (0, k, 0, 1, lanes, k, 0, *to, *nowhere) if k <= 128 else (0, 1, 0, k, k, lanes, 0, *nowhere, *to)
        table = uploaded(device, np.array([0, 1, values.address, start.address, *walk], np.int64))
        pack = device.load(of_heads(digits(self.bits))).kernel("pack_heads")
        device.launch(Launch(pack, (1, 1, 1), (HEAD_THREADS, 1, 1), (1, table.address, self.bits)))
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

    def inward(self, a: Packed, b: Packed, spare: int = 0, span: Span | None = None) -> tuple[Array, int]:
        """spare: bytes of shared memory beyond those of rings of three units; span: the lanes that are made, the others are zeros."""
        rows, columns, k = len(a.x), len(b.x), a.x.shape[1]
        shared = spare + ring_bytes(self.bits, self.lines) + 4 * self.lines * ((columns + self.lines - 1) // 16 * 16 + 8)
        of_a = (a.digits.address, a.top.address, a.along.address, rows, a.padded)
        of_b = (b.digits.address, b.top.address, b.across.address, columns, b.padded)
        words = (*of_a, *of_b, k, *(span or (0, columns)), self.bits, -1)
        return self.launch("inward", rows, words, np.zeros((rows, columns), np.float32), shared)

    def outward(self, p: Array, b: Packed, turned: bool = False, spare: int = 0, span: Span | None = None) -> tuple[Array, int]:
        """turned: the result lies column by column; span: of k, the rest of p counts for zeros."""
        (rows, length), columns = p.shape, len(b.x)
        shared = spare + ring_bytes(self.bits, self.lines) + digits_bytes(self.bits, self.lines, length)
        lines = uploaded(self.device, p)
        of_b = (b.digits.address, b.top.address, b.checked.address, columns, b.padded)
        steps = (1, rows) if turned else (columns, 1)
        shape = (columns, rows) if turned else (rows, columns)
        words = (lines.address, rows, length, *of_b, *(span or (0, length)), self.bits, -1, *steps)
        got, wrong = self.launch("outward", rows, words, np.zeros(shape, np.float32), shared)
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
@pytest.mark.parametrize(("bits", "lines"), BLOCKS)
def test_products_into_shared_memory(bits: int, lines: int) -> None:
    for at, (rows, k, columns) in enumerate(INWARD):
        kind = KINDS[at % len(KINDS)]
        a, b = operands(at + bits, rows, k, columns, kind, bits)
        one = chip(bits, lines)
        got, wrong = one.inward(one.packed(a), one.packed(b))
        assert same(got, reference.matmul(a, b.T, bits)), (rows, k, columns, kind)
        assert wrong == 0, (rows, k, columns, kind)


@needs_compiler
@pytest.mark.parametrize(("bits", "lines"), BLOCKS)
def test_products_out_of_shared_memory(bits: int, lines: int) -> None:
    for at, (rows, length, columns) in enumerate(OUTWARD):
        kind = KINDS[at % len(KINDS)]
        a, b = operands(at + bits, rows, length, columns, kind, bits)
        one = chip(bits, lines)
        got, wrong = one.outward(a, one.packed(b), turned=at % 2 == 1)
        assert same(np.ascontiguousarray(got), reference.matmul(a, b.T, bits)), (rows, length, columns, kind)
        assert wrong == 0, (rows, length, columns, kind)


@needs_compiler
@pytest.mark.parametrize(("bits", "lines"), BLOCKS)
def test_products_of_some_lanes_and_some_k(bits: int, lines: int) -> None:
    """Spans at and around units, of one and of several stages; what lies outside is poison."""
    one = chip(bits, lines)
    for at, (n, span) in enumerate(((200, (64, 128)), (200, (0, 64)), (130, (128, 130)), (640, (64, 576)), (300, (192, 300)), (70, (0, 70)))):
        a, b = operands(at, 35, (80, 40)[at % 2], n, "even", bits)
        inside = np.arange(n) >= span[0]
        inside &= np.arange(n) < span[1]
        packed = one.packed(np.where(inside[:, None], b, np.float32(np.nan)))
        got, wrong = one.inward(one.packed(a), packed, span=span)
        assert same(got, np.where(inside, reference.matmul(a, b.T, bits), np.float32(0))), (n, span)
        assert wrong == 0
        p, v = operands(at + 9, 35, n, (100, 16, 60)[at % 3], "even", bits)
        got, wrong = one.outward(np.where(inside, p, np.float32(np.nan)), one.packed(v), at % 2 == 1, span=span)
        assert same(np.ascontiguousarray(got), reference.matmul(np.where(inside, p, np.float32(0)), v.T, bits)), (n, span)
        assert wrong == 0


def with_hard_lanes(x: Array) -> Array:
    """The first lanes are zeros of both signs, NaNs, infinities, one NaN among numbers, subnormals, the largest magnitudes, values of all kinds."""
    lanes, k = x.shape
    hard = [np.zeros(k), -np.zeros(k), np.full(k, np.nan), np.full(k, -np.inf), np.where(np.arange(k) == k // 2, np.nan, 1)]
    hard += [floats(7, (k,), "tiny"), np.full(k, np.finfo(np.float32).max), floats(8, (k,), "finite"), floats(9, (k,), "special")]
    x = x.copy()
    x[: len(hard)] = np.stack([row.astype(np.float32) for row in hard])[:lanes]
    return x


def shuffled(lanes: int) -> Array:
    """An order in which one of the second half comes before each of the first."""
    return np.arange(lanes).reshape(2, -1)[::-1].T.ravel()


@needs_compiler
@pytest.mark.parametrize(("bits", "lines"), BLOCKS)
def test_hard_lanes_on_both_sides(bits: int, lines: int) -> None:
    one = chip(bits, lines)
    a, b = (with_hard_lanes(x) for x in operands(3, 20, 90, 40, "even", bits))
    b = np.concatenate([b, b[shuffled(40)]])
    with np.errstate(over="ignore"):
        want = reference.matmul(a, b.T, bits)
    for got, wrong in (one.inward(one.packed(a), one.packed(b)), one.outward(a, one.packed(b))):
        assert same(got, want)
        assert wrong == 0


@needs_compiler
@pytest.mark.parametrize(("bits", "stages"), [pytest.param(8, 2, marks=pytest.mark.slow), (14, 2), pytest.param(14, 4, marks=pytest.mark.slow)])
def test_rings_of_other_depths(bits: int, stages: int) -> None:
    one, spare = Chip(fake.Fake(), bits, 16, f"#define RING {stages}\n{text(bits, 16)}"), max(0, stages - 3) * 8192 * own(bits)
    a, b = operands(1, 35, 100, 600, "even", bits)
    got, wrong = one.inward(one.packed(a), one.packed(b), spare)
    assert same(got, reference.matmul(a, b.T, bits))
    assert wrong == 0
    a, b = operands(1, 35, 700, 70, "even", bits)
    got, wrong = one.outward(a, one.packed(b), spare=spare)
    assert same(got, reference.matmul(a, b.T, bits))
    assert wrong == 0


# ---- a whole attention ------------------------------------------------------------------------------------------------------------

WHOLE = """
#define HELD 8
/* out = softmax(q k^T + mask) v, of one head of at most 256 keys; twice, so that what one product leaves in shared memory meets the next one. */
KERNEL __launch_bounds__(32 * LINES, 1) whole(const i8 *q, const u32 *top_q, const u64 *along, i64 rows, i64 padded_q, const i8 *k, const u32 *top_k,
                                              const i32 *across_k, const i8 *v, const u32 *top_v, const i8 *checked_v, i64 keys, i64 padded_k,
                                              i64 depth, i64 width, i64 padded_v, const float *mask, i64 bits, i64 bits_of_sum, float *out,
                                              u64 *faults) {
    ASSAY_SHARED(char, shared);
    __shared__ u32 tops[LINES];
    int r = (int)threadIdx.x >> 5, n = (int)keys, pitch = pitch_of<LINES>(n);
    i64 first = (i64)blockIdx.x * LINES;
    float *plane = (float *)(shared + (ring_bytes<LINES>() + 127) / 128 * 128), x[HELD];
    char *digits = (char *)(plane + LINES * pitch);
    Packed of_q = {q, top_q, 0, along, 0, (i32)rows, (i32)padded_q}, of_k = {k, top_k, across_k, 0, 0, n, (i32)padded_k};
    Packed of_v = {v, top_v, 0, 0, checked_v, (i32)width, (i32)padded_v};
    u64 wrong = 0;
    for (int turn = 0; turn < 2; turn++) {
        if (depth <= 64) product_in<LINES, 1>(plane, pitch, of_q, first, of_k, depth, {0, n}, (int)bits, shared, wrong);
        else product_in<LINES, 2>(plane, pitch, of_q, first, of_k, depth, {0, n}, (int)bits, shared, wrong);
        u32 rank = 0, top = 0;
        u64 sum = 0;
        for (int i = 0; i < HELD; i++) {
            int e = OF_LANE(i / 2, i % 2);
            if (e < n) x[i] = ADD(plane[r * pitch + e], mask[(first + r < rows ? first + r : 0) * keys + e]), rank = larger(rank, rank_of(x[i]));
        }
        float most = of_rank(largest_of<32>(rank));
        for (int i = 0; i < HELD; i++) if (OF_LANE(i / 2, i % 2) < n) x[i] = exp_f32(SUB(x[i], most)), top = larger(top, magnitude(x[i]));
        top = largest_of<32>(top);
        Scale scale = scaling(top, bits_of_sum);
        for (int i = 0; i < HELD; i++) if (OF_LANE(i / 2, i % 2) < n) sum += (u64)fixed(x[i], scale);
        float all = sum_of(top, total_of<32>(sum), bits_of_sum);
        top = 0;
        for (int i = 0; i < HELD; i++) if (OF_LANE(i / 2, i % 2) < n) x[i] = canon(DIV(x[i], all)), top = larger(top, magnitude(x[i]));
        top = largest_of<32>(top);
        if (LANE == 0) tops[r] = top;
        Line line = line_of<LINES>(digits, r, 0u, (u32)keys, top, (int)bits);
        for (int i = 0; i < HELD; i++) if (OF_LANE(i / 2, i % 2) < n) put<LINES>(line, OF_LANE(i / 2, i % 2), x[i]);
        line_done<LINES>(line);
        for (int again = 0; again < 2; again++) /* as two products may read the same lines */
            out_of<8>(out, width, 1, rows, first, digits, tops, of_v, keys, {0, n}, (int)bits, shared, wrong);
        for (int e = LANE; e < n; e += 32) plane[r * pitch + e] = __uint_as_float(NAN_BITS); /* so that the next turn does not find this one's */
    }
    add_to_faults<LINES>(faults, wrong, shared);
}
"""


def attended(device: fake.Fake, rows: int, keys: int, depth: int, width: int, kind: str) -> bool:
    """Whether a whole attention is right."""
    bits, lines = 14, 16
    files = ("walk.cuh", "map.cuh", "lines.cuh", "digits.cuh", "tensor.cuh", "attend.cuh", "attend_out.cuh")
    one = Chip(device, bits, lines, defined(bits, lines) + source(*files) + DISPATCH + WHOLE)
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
        of_v.digits.address, of_v.top.address, of_v.checked.address, keys, of_k.padded, depth, width, of_v.padded, masks.address, bits,
        reference.sum_bits(keys), -1,
    )  # fmt: skip
    shared = ring_bytes(bits, lines) + 4 * lines * ((keys + lines - 1) // 16 * 16 + 8) + digits_bytes(bits, lines, keys)
    got, wrong = one.launch("whole", rows, arguments, np.zeros((rows, width), np.float32), shared)
    return same(got, want) and wrong == 0


HEADS = ((50, 200, 64, 64, "even"), (24, 67, 80, 33, "rare"), (33, 256, 128, 128, "wide"))


@needs_compiler
@pytest.mark.parametrize("head", HEADS)
def test_a_whole_attention(head: tuple[int, int, int, int, str]) -> None:
    assert attended(fake.Fake(), *head)
