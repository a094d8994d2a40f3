"""What chains make otherwise than operators by themselves, and with the same bits: quotients by a reciprocal, exponentials of what is at most 0,
maxima of floats. Of quotients that lie nearest to the middle of two results the slow run has all there are: a part of the proof (`Divisor`)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.cuda import fake
from assay.exact.cuda.device import Launch, Module, source
from assay.exact.inputs import Array, floats
from tests.exact.support import same
from tests.exact.test_cuda_products import uploaded

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
NEAR = 6
"""Up to which |c| a quotient A / B with A 2^24 = B M + c, or A 2^25, may be rounded wrongly, as far as the bound of its error says."""
KERNELS = """
KERNEL all_divided(const float *x, const float *by, i64 n, float *y) {
    for (i64 i = 0; i < n; i++) y[i] = canon(divided(x[i], divisor_of(by[i])));
}
KERNEL all_quotients(const float *x, const float *by, i64 n, float *y) {
    for (i64 i = 0; i + 1 < n; i += 2) two_quotients(x + i, divisor_of(by[i]), y + i), y[i] = canon(y[i]), y[i + 1] = canon(y[i + 1]);
}
KERNEL exponentials(const float *x, const float *by, i64 n, float *y) { for (i64 i = 0; i < n; i++) y[i] = canon(exp_low_f32(x[i])); }
KERNEL largest_exponential(i64 first, i64 count, u32 *most) { /* of what is at most 0, by bits; and where exp_low_f32 is another one */
    for (i64 b = first; b < first + count; b++) {
        float x = of_bits((u32)b | 0x80000000u), y = exp_f32(x);
        if (magnitude(y) > most[0]) most[0] = magnitude(y);
        most[1] += __float_as_uint(y) != __float_as_uint(exp_low_f32(x));
    }
}
KERNEL least_logarithm(i64 first, i64 count, float *least) {
    for (i64 b = first; b < first + count; b++) least[0] = minimum_f32(least[0], log_f32(of_bits((u32)b)));
}
KERNEL tops(const float *x, const float *by, i64 n, float *y) { for (i64 i = 0; i < n; i++) y[i] = of_bits(top_of_exponentials(x[i])); }
KERNEL maxima(const float *x, const float *by, i64 n, float *y) { for (i64 i = 0; i < n; i++) y[i] = canon(maximum(x[i], by[i])); }
KERNEL sizes(const float *x, const float *by, i64 n, float *y) { for (i64 i = 0; i < n; i++) y[i] = canon(maximum_of_size(x[i], by[i])); }
"""
Ints = NDArray[np.int64]


@cache
def device() -> fake.Fake:
    return fake.Fake()


@cache
def kernels() -> Module:
    return device().load(source("walk.cuh", "map.cuh", "lines.cuh") + KERNELS)


def made(name: str, x: Array, by: Array) -> Array:
    out = np.zeros(len(x), np.float32)
    given = [uploaded(device(), np.ascontiguousarray(a)) for a in (x, by, out)]
    device().launch(Launch(kernels().kernel(name), (1, 1, 1), (1, 1, 1), (given[0].address, given[1].address, len(x), given[2].address)))
    device().download(given[2].address, out)
    return out


def divided(x: Array, by: Array) -> Array:
    return reference.apply("div", {}, [x, by], "f32", 0)


def nearest(b: Ints, twos: int, more: int) -> tuple[Ints, Ints]:
    """All A and B, B = `b` 2^twos with odd b, both of 24 bits, with A 2^(24 + more) = B M + c for 1 <= |c| <= NEAR (M is odd then): those with
    A >= B without `more`, A < B with it."""
    inverse = np.ones_like(b)
    for _ in range(24 + more - twos):
        inverse = np.where(inverse % 2, inverse + b, inverse) // 2
    found = []
    for c in (c for c in range(-NEAR, NEAR + 1) if c and c % 2 ** (twos + 1) == 2**twos):
        first = (c >> twos) % b * inverse % b
        first += -((first - (1 << 23)) // b) * b
        for turn in range(2**twos + 1):
            a = first + turn * b
            fits = (a >= 1 << 23) & (a < 1 << 24) & ((a < b << twos) == bool(more))
            found.append(np.stack([a[fits], b[fits] << twos]))
    a, whole = np.concatenate(found, 1)
    off = a * (1 << 24 + more) % whole
    assert np.minimum(off, whole - off).max(initial=0) <= NEAR
    return a, whole


def check(b: Ints, twos: int) -> int:
    """Quotients of numbers of 24 bits, which decide all others: a power of two changes neither their bits nor what they are near to."""
    count = 0
    for more in (0, 1):
        a, whole = (x.astype(np.float32) for x in nearest(b, twos, more))
        x, by = a * np.float32(2.0**-24), whole * np.float32(2.0**-23)
        assert same(made("all_divided", x, by), divided(x, by))
        count += len(x)
    return count


def odd(twos: int) -> Ints:
    return np.arange((1 << 23 - twos) | 1, 1 << 24 - twos, 2)


@pytest.mark.parametrize("twos", [0, 1, 2])
def test_quotients_that_lie_near_the_middle_of_two_results(twos: int) -> None:
    every = odd(twos)
    some = np.unique(np.concatenate([np.random.default_rng(twos).choice(every, 4000, replace=False), every[:50], every[-50:]]))
    assert check(some, twos) > 4000


@pytest.mark.slow
@pytest.mark.parametrize("twos", [0, 1, 2])
def test_all_quotients_that_lie_near_the_middle_of_two_results(twos: int) -> None:
    assert sum(check(part, twos) for part in np.array_split(odd(twos), 64)) > 10**6


@pytest.mark.parametrize("significant", [3, 5])
def test_quotients_of_numbers_of_few_bits_at_all_sizes(significant: int) -> None:
    """All significands, for divisors that are usual and others, beside zero, a NaN, and a number that is usual; subnormal results, ties."""
    numbers = np.arange(1 << significant - 1, 1 << significant) / (1 << significant - 1)
    divisors = (-60, -21, -20, -19, -1, 0, 1, 10, 19, 20, 21, 60)
    sizes = (-149, -147, -130, -126, -125, -103, -102, -101, -60, -20, 0, 20)
    by, x, size, beside = (g.ravel() for g in np.meshgrid(
        (numbers * np.exp2(divisors)[:, None]).ravel(), numbers, sizes, np.float32([0, np.nan, 2.0**-19]), indexing="ij"
    ))  # fmt: skip
    x = np.ldexp(x, size).astype(np.float32)
    fits = x <= 4 * by
    pairs = np.stack([x, beside.astype(np.float32)], 1)[fits]
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    by = np.repeat(np.tile(by[fits].astype(np.float32), 2), 2)
    assert same(made("all_quotients", pairs.ravel(), by), divided(pairs.ravel(), by))


def test_quotients_that_are_drawn() -> None:
    rng = np.random.default_rng(7)
    by = np.repeat(np.ldexp(rng.uniform(1, 2, 200_000), rng.integers(-22, 22, 200_000)).astype(np.float32), 2)
    x = (by * np.ldexp(rng.uniform(0, 2, len(by)), -rng.integers(0, 140, len(by)))).astype(np.float32)
    assert same(made("all_quotients", x, by), divided(x, by))


def test_exponentials_of_what_is_at_most_zero() -> None:
    """Up to 42, since logarithms of sums are rounded."""
    bits = np.concatenate([np.arange(0, 1 << 31, 4099, np.uint32), np.arange(0x7F7FFF00, 0x7F800100, dtype=np.uint32)]) | np.uint32(1 << 31)
    special = np.float32([0, -0.0, -np.inf, np.nan, -87.34, -104, 42])
    x = np.concatenate([bits.view(np.float32), np.linspace(-110, 42, 300_001).astype(np.float32), special])
    assert same(made("exponentials", x, x), reference.apply("exp", {}, [x], "f32", 0))


INFINITE, ONE = 0x7F800000, 0x3F800000


def over_bits(name: str, first: int, count: int, out: NDArray[np.uint32]) -> NDArray[np.uint32]:
    to = uploaded(device(), out)
    device().launch(Launch(kernels().kernel(name), (1, 1, 1), (1, 1, 1), (first, count, to.address)))
    device().download(to.address, out)
    return out


def bounded(ranges: list[tuple[int, int]]) -> None:
    for first, count in ranges:
        most, other = over_bits("largest_exponential", first, count, np.zeros(2, np.uint32)).tolist()
        assert most <= ONE
        assert not other
    assert over_bits("largest_exponential", 0, 1, np.zeros(2, np.uint32)).tolist() == [ONE, 0]


def test_exponentials_of_what_is_at_most_zero_are_at_most_one() -> None:
    """Next to 0, where bits of results change, and in pieces of all the others."""
    bounded([(0, 2000), (0x33000000, 300_000), (INFINITE - 2000, 2001), *((first, 500) for first in range(0, INFINITE, 0x800000))])


@pytest.mark.slow
@pytest.mark.parametrize("sixteenth", range(16))
def test_all_exponentials_of_what_is_at_most_zero_are_at_most_one(sixteenth: int) -> None:
    size = -(-(INFINITE + 1) // 16)
    bounded([(sixteenth * size, min(size, INFINITE + 1 - sixteenth * size))])


def least(first: int, count: int) -> float:
    return float(over_bits("least_logarithm", first, count, np.full(1, INFINITE, np.uint32)).view(np.float32)[0])


def test_logarithms_of_sums_of_exponentials_are_not_negative() -> None:
    """Such a sum is at least 1: of fixed-point numbers, of which one is 1 and none is negative, rounded once."""
    assert min(least(first, 500) for first in range(ONE, INFINITE, 0x40000)) == 0


@pytest.mark.slow
def test_all_logarithms_from_one_to_two_are_not_negative() -> None:
    """Beyond, they are larger than what they can be off."""
    assert least(ONE, 0x800000) == 0


def test_the_largest_exponential_of_a_row_is_known_of_its_maximum() -> None:
    for most, rest in ((0.0, [-0.0, -1e-45]), (-0.0, [-0.0, -3]), (88, [-1e30, -np.inf]), (3e38, [-3e38, 3e38]), (1e-45, [0, -1e-45]),
                       (np.inf, [1, 2]), (-np.inf, [-np.inf, -np.inf]), (np.nan, [1, -np.inf])):  # fmt: skip
        row = np.float32([most, *rest])
        with np.errstate(all="ignore"):
            e = reference.apply("exp", {}, [row - np.float32(most)], "f32", 0)
        assert same(made("tops", row[:1], row[:1]), np.max(e)[None] if np.isfinite(most) else np.float32([np.nan])), most


def test_maxima_order_zeros_and_keep_a_nan() -> None:
    x = np.concatenate([floats(1, (40,), "special"), np.float32([0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45])])
    a, b = (part.ravel() for part in np.meshgrid(x, x))
    assert same(made("maxima", a, b), reference.apply("maximum", {}, [a, b], "f32", 0))
    assert same(made("sizes", a, b), reference.apply("maximum", {}, [a, np.abs(b)], "f32", 0))
