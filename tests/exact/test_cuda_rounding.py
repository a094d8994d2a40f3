"""What digits.cuh makes in f32 alone, against integers and f64: rounding of sums, scaling, and the integers of operands. Ties, powers of two, zero
and the limits of what is allowed are there for each width; the rest is drawn."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.exact.cuda import fake
from assay.exact.cuda.device import Launch, Module, source
from assay.exact.cuda.tiles import digits
from assay.exact.inputs import Array
from tests.exact.support import same
from tests.exact.test_cuda_onchip import defined
from tests.exact.test_cuda_products import uploaded

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
NARROWED = (8, 14, 15)
LEAST, MOST = 77, 180
"""Exponent fields of usual magnitudes."""

OF_FEW_BITS = """
KERNEL elements(const i64 *totals, const u32 *top_a, const u32 *top_b, i64 bits, i64 n, float *out) {
    for (i64 i = 0; i < n; i++) {
        u32 hi = CENTRED + (u32)(totals[i] >> 22), lo = CENTRED + ((u32)totals[i] & 0x3fffffu);
        out[i] = usual_element<22>(hi, lo, usual_a(top_a[i], (int)bits), usual_b(top_b[i]));
    }
}
KERNEL both_usual(const u32 *top_a, const u32 *top_b, i64 n, i64 *out) { for (i64 i = 0; i < n; i++) out[i] = usual(top_a[i], top_b[i]); }
KERNEL sums(const i64 *hi, const i64 *lo, i64 n, float *out) {
    for (i64 i = 0; i < n; i++) out[i] = joined<2 * BASE>(CENTRED + (u32)hi[i], CENTRED + (u32)lo[i]);
}
"""
OF_KARATSUBA = """
KERNEL halves(const i64 *h, const i64 *l, const i64 *x, i64 n, i64 *out) {
    for (i64 i = 0; i < n; i++) {
        i32 s[SUMS] = {(i32)h[i], (i32)l[i], (i32)x[i]};
        u32 hi, lo;
        halved(s, &hi, &lo);
        out[i] = (i64)(i32)(hi - CENTRED) * (1 << CUT) + (i32)(lo - CENTRED);
        if (lo - CENTRED >> CUT || hi - CENTRED + (1u << 21) > 1u << 22) out[i] = -1;
    }
}
"""
KERNELS = """
KERNEL any_elements(const i64 *totals, const u32 *top_a, const u32 *top_b, i64 bits, i64 n, float *out) {
    for (i64 i = 0; i < n; i++) out[i] = element(totals[i], top_a[i], top_b[i], (int)bits);
}
KERNEL integers(const float *x, i64 top, i64 bits, i64 n, i64 *out) {
    float factor, magic;
    factor_of((u32)top, (int)bits, &factor, &magic);
    for (i64 i = 0; i < n; i++) out[i] = rounded_to(x[i], factor, magic);
}
KERNEL limits(const u32 *tops, i64 bits, i64 n, i64 *out) { for (i64 i = 0; i < n; i++) out[i] = at_limit(tops[i], (int)bits); }
KERNEL digits(const i64 *q, i64 none, i64 n, i64 *out) {
    for (i64 i = 0; i < n; i += 4) {
        u32 y[4], words[PLANES];
        for (int j = 0; j < 4; j++) y[j] = (u32)none + (u32)q[i + j];
        bytes_of(y, (u32)none, words);
        for (int j = 0; j < 4; j++) {
            i64 total = 0;
            for (int z = 0; z < PLANES; z++) total = total * 256 + (words[z] >> 8 * j & 255);
            out[i + j] = total;
        }
    }
}
KERNEL centre(i64 n, i64 *out) { out[0] = CENTRE; }
"""
Ints = NDArray[np.int64]


@cache
def device() -> fake.Fake:
    return fake.Fake()


@cache
def kernels(bits: int) -> Module:
    return device().load(defined(bits, 16) + source("digits.cuh") + KERNELS + OF_FEW_BITS * (bits < 16) + OF_KARATSUBA * (bits == 14))


def made(bits: int, name: str, inputs: list[Array | Ints], numbers: list[int], out: Array | Ints) -> Array | Ints:
    to, given = uploaded(device(), out), [uploaded(device(), np.ascontiguousarray(x)) for x in inputs]
    addresses = [buffer.address for buffer in given]
    device().launch(Launch(kernels(bits).kernel(name), (1, 1, 1), (1, 1, 1), (*addresses, *numbers, len(out), to.address)))
    got = np.empty_like(out)
    device().download(to.address, got)
    return got


def totals(rng: np.random.Generator) -> Ints:
    """Less than 2^44 in size: small ones, powers of two, ties between neighbouring f32 and what is beside them, drawn ones, and negatives of all."""
    near = np.arange(-2, 3)
    powers = (1 << np.arange(44))[:, None] + near
    half = 1 << np.arange(21)
    whole = rng.integers(1 << 23, 1 << 24, (21, 40))
    whole[:, :4] = [1 << 23, (1 << 23) + 1, (1 << 24) - 1, (1 << 24) - 2]
    ties = ((whole * 2 + 1) * half[:, None])[..., None] + near
    drawn = rng.integers(0, 1 << 44, 20_000) >> rng.integers(0, 44, 20_000)
    some = np.concatenate([np.arange(4096), powers.ravel(), ties.ravel(), drawn])
    some = some[(some >= 0) & (some < 1 << 44)]
    return np.concatenate([some, -some]).astype(np.int64)


def magnitudes(rng: np.random.Generator, count: int) -> NDArray[np.uint32]:
    fields = rng.choice([LEAST, LEAST + 1, 126, 127, 128, MOST - 1, MOST, *range(LEAST, MOST + 1, 7)], count)
    return (fields << 23 | rng.choice([0, 1, 0x400000, 0x7FFFFF, 0x2AAAAA], count)).astype(np.uint32)


@pytest.mark.parametrize("bits", NARROWED)
def test_elements_whose_lanes_are_usual(bits: int) -> None:
    rng = np.random.default_rng(bits)
    some = totals(rng)
    some = some[abs(some) <= 1 << 2 * bits + 15]
    a, b = magnitudes(rng, len(some)), magnitudes(rng, len(some))
    a[:4000], b[:4000] = MOST << 23, MOST << 23
    a[4000:8000], b[4000:8000] = LEAST << 23, LEAST << 23
    shift = (a >> 23).astype(np.int64) + (b >> 23) - 2 * (bits + 125)
    want = np.ldexp(some.astype(np.float32).astype(np.float64), shift).astype(np.float32)
    sizes = abs(want[some != 0])
    assert sizes.min() >= 2.0**-126
    assert np.isfinite(sizes).all()
    for name in ("elements", "any_elements"):
        got = made(bits, name, [some, a, b], [bits], np.zeros(len(some), np.float32))
        assert same(got, want), name
    edges = np.array([0, 1, (LEAST << 23) - 1, LEAST << 23, 127 << 23, (MOST + 1 << 23) - 1, MOST + 1 << 23, 255 << 23, 0x7FC00000], np.uint32)
    inside = [LEAST << 23 <= int(x) < MOST + 1 << 23 for x in edges]
    first, second = (x.ravel() for x in np.meshgrid(edges, edges, indexing="ij"))
    got = made(bits, "both_usual", [first, second], [], np.zeros(len(first), np.int64))
    assert got.tolist() == [int(x and y) for x in inside for y in inside]


@pytest.mark.parametrize("bits", NARROWED)
def test_sums_in_two_parts_are_rounded_once(bits: int) -> None:
    rng = np.random.default_rng(bits)
    limit, low = (1 << 22) - 1, 1 << (14 if bits == 14 else 16)
    hi = np.concatenate([np.arange(-40, 41), [limit, -limit, 1 - limit, 1 << 21, 1 << 20], rng.integers(-limit, limit + 1, 400)])
    tie = np.concatenate([low * np.arange(-3, 4)[:, None] // 2 + np.arange(-2, 3), rng.integers(-limit, limit + 1, (7, 40))], axis=1).ravel()
    first, second = (x.ravel() for x in np.meshgrid(hi, np.concatenate([tie, [limit, -limit, 0]]), indexing="ij"))
    got = made(bits, "sums", [first, second], [], np.zeros(len(first), np.float32))
    assert same(got, (first * low + second).astype(np.float32))


@pytest.mark.parametrize("bits", [4, *NARROWED, 23])
def test_the_integers_of_an_operand(bits: int) -> None:
    """Of lanes of every kind of magnitude, from subnormals on: all halves and what is beside them, up to 14 bits all there are."""
    rng, most = np.random.default_rng(bits), 1 << (bits - 1)
    whole = np.arange(most) if bits <= 15 else np.concatenate([np.arange(5000), most - 1 - np.arange(5000), rng.integers(0, most, 5000)])
    for field in (0, 1, 2, max(0, bits - 3), bits - 2, bits - 1, 60, 126, 127, 128, 200, 253, 254):
        shift = bits + 125 - field
        exact = np.ldexp(np.concatenate([whole, whole + 0.5]), -shift)
        x = exact.astype(np.float32)
        with np.errstate(over="ignore"):
            x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf)), rng.random(2000, np.float32) * x.max()])
        x = np.concatenate([x, -x, np.float32([0.0, -0.0, 1e-45])])
        x = x[np.isfinite(x) & (abs(x.astype(np.float64)) < np.ldexp(1.0, field - 126))]
        got = made(bits, "integers", [x], [field << 23 | 0x7FFFFF, bits], np.zeros(len(x), np.int64))
        assert (got == np.rint(np.ldexp(x.astype(np.float64), shift))).all(), field


@pytest.mark.parametrize("bits", [4, 8, 9, 14, 15, 16, 23])
def test_the_bytes_of_digits(bits: int) -> None:
    """Of every integer up to 15 bits, of the outermost and of drawn ones above, from each magic that packing may have."""
    rng, most, how = np.random.default_rng(bits), (1 << (bits - 1)) - 1, digits(bits)
    some = np.arange(-most, most + 1) if bits <= 15 else np.concatenate([np.arange(-9000, 9000), most - np.arange(9000), -most + np.arange(9000)])
    some = np.concatenate([some, rng.integers(-most, most + 1, 4 - len(some) % 4)])
    (centre,) = made(bits, "centre", [], [], np.zeros(1, np.int64))
    base, own = 7 if how.karatsuba else 8, 2 if how.karatsuba else how.planes
    rest, planes = some, []
    for _ in range(own - 1):
        low = (rest + (1 << (base - 1))) % (1 << base) - (1 << (base - 1))
        planes.insert(0, low)
        rest = (rest - low) >> base
    planes.insert(0, rest)
    planes += [sum(planes)] * how.karatsuba
    assert all(-128 <= plane.min() <= plane.max() <= 127 for plane in planes)
    want = sum(plane % 256 << 8 * (len(planes) - 1 - z) for z, plane in enumerate(planes))
    for less in {0, 1, bits - 3, bits - 2}:
        magic = 0x4B400000 - (less << 23)
        assert abs(some).max() <= 1 << 22
        assert int(centre) % 2 == 0
        assert int(centre) + int(some.max()) < 1 << 22 or not centre, "within the same power of two"
        assert np.array_equal(made(bits, "digits", [some], [magic + int(centre)], np.zeros(len(some), np.int64)), want)


@pytest.mark.parametrize("bits", [4, 8, 14, 15, 23])
def test_which_lanes_have_integers_to_be_limited(bits: int) -> None:
    """A lane of which it is not said has none: its largest magnitude does not round up to 2^(bits - 1)."""
    rng, most = np.random.default_rng(bits), 1 << (bits - 1)
    edge = (1 << 23) - (1 << (24 - bits))
    fractions = np.unique(np.concatenate([edge + np.arange(-40, 41), (1 << 23) - np.arange(1, 40), np.arange(9), rng.integers(0, 1 << 23, 20_000)]))
    fractions = fractions[(fractions >= 0) & (fractions < 1 << 23)]
    for field in (0, 1, bits, 126, 127, 128, 254):
        tops = (field << 23 | fractions).astype(np.uint32)
        got = made(bits, "limits", [tops], [bits], np.zeros(len(tops), np.int64))
        q = made(bits, "integers", [tops.view(np.float32)], [field << 23, bits], np.zeros(len(tops), np.int64))
        assert q.max() == most
        assert (got[q == most] == 1).all()
        assert np.array_equal(got, fractions >= edge)
    assert made(bits, "limits", [np.array([0x7F800000, 0x7FC00000], np.uint32)], [bits], np.zeros(2, np.int64)).tolist() == [1, 1]


def test_totals_are_halved_from_three_sums_of_digits() -> None:
    """As many as 2^17 products of the largest and smallest digits, and drawn ones: h + l is the third sum's digit."""
    rng = np.random.default_rng(8)
    k = rng.choice([1, 2, 127, 128, 1000, 8192, 1 << 17], 20_000)
    qa, qb = (rng.choice([-8191, -8190, -64, -1, 0, 1, 63, 64, 8127, 8128, 8191], 20_000) for _ in range(2))
    qa[10_000:], qb[10_000:] = rng.integers(-8191, 8192, 10_000), rng.integers(-8191, 8192, 10_000)
    (ha, la), (hb, lb) = (((q + 64) >> 7, ((q + 64) & 127) - 64) for q in (qa, qb))
    more = rng.integers(-8191, 8192, (2, 20_000))  # one more product, so that sums are no multiples of k
    (hc, lc), (hd, ld) = (((q + 64) >> 7, ((q + 64) & 127) - 64) for q in more)
    sums = [(k - 1) * x * y + v * w for x, y, v, w in ((ha, hb, hc, hd), (la, lb, lc, ld), (ha + la, hb + lb, hc + lc, hd + ld))]
    assert max(int(np.abs(s).max()) for s in sums) < 1 << 31
    got = made(14, "halves", [s.astype(np.int64) for s in sums], [], np.empty(20_000, np.int64))
    assert np.array_equal(got, (k - 1) * qa * qb + more[0] * more[1])
