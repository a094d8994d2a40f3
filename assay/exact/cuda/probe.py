"""How far a chip's bf16 and fp8 tensor cores sum whole numbers exactly: asked of the chip, not of a table of names.

Nobody publishes how wide the adders of tensor cores are, nor whether they round or cut; some keep fewer bits than f32 has (some 14 with fp8 on
Hopper, by what others report). Here sums are made whose terms differ as much as they may, for one power of two after the other: each partial sum of
any order is within it, and all must come out exact. A finite test proves nothing about the sums it did not make: it admits the route and says how
long a run of k an accumulator may take, the conformance suite decides about it, and the checksum of every product (check.cu), which is made of
integers alone, catches what both missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact.cuda.device import Device, Launch, source
from assay.exact.cuda.tiles import MOST_HELD, Floating

Array = NDArray[Any]
M, N, WORDS = 16, 8, 8
"""Of one mma.sync: rows, columns, words of 32 bits of a row."""
SEED = 20


class Format(NamedTuple):
    """Numbers in a word, and the largest whole number that a digit is."""

    packed: int
    largest: int

    @property
    def k(self) -> int:
        return WORDS * self.packed

    @property
    def least(self) -> int:
        """The power of two within which one instruction stays."""
        return (self.k * self.largest**2 - 1).bit_length()


FORMATS: dict[Floating, Format] = {"bf16": Format(2, 128), "fp8": Format(4, 16)}


class Question(NamedTuple):
    """Whole numbers A [products, steps, M, k], B [products, steps, k, N], C [products, M, N]: C + the sum of A B over steps is asked for."""

    a: Array
    b: Array
    c: Array


def _drawn(rng: np.random.Generator, form: Format, limit: int, steps: int, magnitudes: list[int], digit: int) -> Question:
    """A product for each magnitude, which |C| is near, and odd; digits up to `digit`; all within `limit`."""
    products = len(magnitudes)
    a = rng.integers(-digit, digit + 1, (products, steps, M, form.k))
    b = rng.integers(-digit, digit + 1, (products, steps, form.k, N))
    few = rng.random((products, steps, 1, form.k)) < 0.5  # beside large terms, small ones that a narrow adder loses
    a = np.where(few, np.sign(a), a)
    b = np.where(few.transpose(0, 1, 3, 2), np.sign(b), b)
    room = limit - np.matmul(np.abs(a), np.abs(b)).sum(axis=1)
    near = np.array(magnitudes)[:, None, None] - rng.integers(0, 8, (products, M, N))
    size = np.maximum(np.minimum(near, room), 0)
    return Question(a, b, np.where(size < room, size | 1, size) * rng.choice([-1, 1], (products, M, N)))


def _extreme(form: Format, steps: int) -> Question:
    """As large as may be, of one sign and by turns; then every term but one a single unit."""
    a, b = np.full((steps, M, form.k), form.largest), np.full((steps, form.k, N), form.largest)
    at = np.arange(form.k) == 3
    one = np.where(at, form.largest, 1)
    sign = (-1) ** np.arange(form.k)
    zero = np.zeros((M, N), np.int64)
    cases = [(a, b, zero), (a * sign, b, zero), (np.where(at, 0, a), b, zero + 1), (np.broadcast_to(one, a.shape), b * 0 + one[:, None], zero - 1)]
    return Question(*(np.stack(parts) for parts in zip(*cases, strict=True)))


def questions(kind: Floating, power: int) -> Iterator[Question]:
    """Those whose sums of magnitudes are at most 2^power: of one step, whose C covers every power of two, and of as many as there is room for."""
    rng, form, limit = np.random.default_rng(SEED), FORMATS[kind], 1 << power
    near = [1 << p for p in range(power + 1)] * 2
    for digit in (1, 3, 11, form.largest):
        yield _drawn(rng, form, limit, 1, near, digit)
        yield _drawn(rng, form, limit, limit // (form.k * form.largest**2), [1, 1 << power // 2, limit // 2, limit], digit)
    yield _extreme(form, limit // (form.k * form.largest**2))


def e4m3(x: Array) -> NDArray[np.uint32]:
    """The bytes of whole numbers of at most 16 (OCP 8-bit Floating Point Specification, 5.1)."""
    bits = x.astype(np.float32).view(np.uint32)
    return np.where(x == 0, np.uint32(0), (bits >> 24 & 128) | ((bits >> 20 & 2047) - (120 << 3))).astype(np.uint32)


def _words(kind: Floating, x: Array) -> Array:
    """Neighbours of the last axis as they lie in words, the first lowest."""
    packed = FORMATS[kind].packed
    each = x.astype(np.float32).view(np.uint32) >> 16 if kind == "bf16" else e4m3(x)
    shifted = each.reshape(*x.shape[:-1], -1, packed) << (np.arange(packed, dtype=np.uint32) * np.uint32(32 // packed))
    return np.asarray(np.bitwise_or.reduce(shifted, axis=-1), np.uint32)


def _fragments(kind: Floating, question: Question) -> tuple[Array, Array, Array]:
    """As lanes hold them (PTX ISA, "Matrix Fragments for mma.m16n8k16", "... .m16n8k32"): lane = 4 group + member."""
    a, b, c = question
    of_a = _words(kind, a).reshape(-1, 2, 8, 2, 4).transpose(0, 2, 4, 3, 1)  # step, group, member, upper half of k, lower half of rows
    of_b = _words(kind, b.swapaxes(-1, -2)).reshape(-1, 8, 2, 4).transpose(0, 1, 3, 2)
    of_c = c.astype(np.float32).reshape(-1, 2, 8, 4, 2).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(of_a), np.ascontiguousarray(of_b), np.ascontiguousarray(of_c)


def holds(device: Device, kind: Floating) -> int:
    """The largest power of two, at most MOST_HELD, up to which sums of magnitudes come out exact; 0 where not even one instruction's do."""
    kernel = device.load(f"#define FP8 {int(kind == 'fp8')}\n" + source("tensor.cuh", "probe.cu")).kernel("probe")
    found = 0
    for power in range(FORMATS[kind].least, MOST_HELD + 1):
        for question in questions(kind, power):
            if not _exact(device, kernel, kind, question):
                return found
        found = power
    return found


def _exact(device: Device, kernel: Any, kind: Floating, question: Question) -> bool:
    parts = _fragments(kind, question)
    buffers = [device.allocate(part.nbytes) for part in parts]
    for buffer, part in zip(buffers, parts, strict=True):
        device.upload(buffer.address, part)
    products, steps = question.a.shape[:2]
    device.launch(Launch(kernel, (products, 1, 1), (32, 1, 1), (*(buffer.address for buffer in buffers), steps)))
    got = np.empty_like(parts[2])
    device.download(buffers[2].address, got)
    want = question.c + np.matmul(question.a, question.b).sum(axis=1)
    return np.array_equal(got, _fragments(kind, question._replace(c=want))[2])
