"""Whether a chip's bf16 tensor cores sum whole numbers exactly up to 2^24: asked of the chip, not of a table of names.

Nobody publishes how wide the adders of tensor cores are, nor whether they round or cut; some keep fewer bits than f32 has. Here sums are made whose
terms differ as much as they may (each partial sum of any order within 2^24), and all must come out exact. A finite test proves
nothing about the sums it did not make: it admits the route, the conformance suite decides about it, and the checksum of every product (check.cu),
which is made of integers alone, catches what both missed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.cuda.device import Device, Launch, source

Array = NDArray[Any]
LIMIT = 1 << 24
"""Largest sum of magnitudes: all whole numbers up to it are floats."""
M, N, K = 16, 8, 16
"""Of one mma.sync.m16n8k16."""
SEED = 20


def _sums(rng: np.random.Generator, steps: int, magnitude: int, digit: int) -> tuple[Array, Array, Array]:
    """Whole numbers A [steps, M, K], B [steps, K, N], C [M, N], |C| near `magnitude` and odd, digits up to `digit`; within LIMIT in all."""
    a = rng.integers(-digit, digit + 1, (steps, M, K))
    b = rng.integers(-digit, digit + 1, (steps, K, N))
    few = rng.random((steps, 1, K)) < 0.5  # beside large terms, small ones that a narrow adder loses
    a = np.where(few, np.sign(a), a)
    b = np.where(few.transpose(0, 2, 1), np.sign(b), b)
    room = LIMIT - np.matmul(np.abs(a), np.abs(b)).sum(axis=0)
    assert room.min() >= 0
    c = np.minimum(magnitude - rng.integers(0, 8, (M, N)), room) * rng.choice([-1, 1], (M, N))
    return a, b, c | 1 if magnitude < LIMIT // 2 else c


def questions() -> list[tuple[Array, Array, Array]]:
    """Sums of one step, whose C covers every power of two, and of as many steps as a partial sum may take."""
    rng = np.random.default_rng(SEED)
    out = [_sums(rng, 1, 1 << power, digit) for power in range(25) for digit in (1, 11, 128) for _ in range(4)]
    out += [_sums(rng, 32, 1 << power, digit) for power in (0, 12, 23, 24) for digit in (1, 11, 90, 128)]
    for steps in (1, 32, 64):  # as large as may be, of one sign and by turns; then every term but one a single unit
        a, b = np.full((steps, M, K), 128 if steps < 64 else 127), np.full((steps, K, N), 128 if steps < 64 else 127)
        out += [(a, b, np.zeros((M, N), np.int64)), (a * (-1) ** np.arange(K), b, np.ones((M, N), np.int64))]
        one, unit = a * (np.arange(K) == 3), np.where(np.arange(K) == 3, 0, 1)
        out.append((one + unit, np.where(np.arange(K)[:, None] == 3, b, 1), np.full((M, N), -1)))
    return out


def _pairs(x: Array) -> Array:
    """Neighbours of the last axis as the bf16 halves of words, the even one low."""
    halves = x.astype(np.float32).view(np.uint32) >> 16
    return np.asarray(halves[..., 0::2] | halves[..., 1::2] << 16)


def _fragments(a: Array, b: Array, c: Array) -> tuple[Array, Array, Array]:
    """As lanes hold them (PTX ISA, "Matrix Fragments for mma.m16n8k16"): lane = 4 group + member."""
    of_a = _pairs(a).reshape(-1, 2, 8, 2, 4).transpose(0, 2, 4, 3, 1)  # step, group, member, upper half of k, lower half of rows
    of_b = _pairs(b.transpose(0, 2, 1)).reshape(-1, 8, 2, 4).transpose(0, 1, 3, 2)
    of_c = c.astype(np.float32).reshape(2, 8, 4, 2).transpose(1, 2, 0, 3)
    return np.ascontiguousarray(of_a), np.ascontiguousarray(of_b), np.ascontiguousarray(of_c)


def exact(device: Device, defined: str = "") -> bool:
    """Whether all sums come out exact. `defined`: for tests of the fake device."""
    kernel = device.load(defined + source("tensor.cuh", "probe.cu"))
    for a, b, c in questions():
        parts = _fragments(a, b, c)
        buffers = [device.allocate(part.nbytes) for part in parts]
        for buffer, part in zip(buffers, parts, strict=True):
            device.upload(buffer.address, part)
        device.launch(Launch(kernel.kernel("probe"), (1, 1, 1), (32, 1, 1), (*(buffer.address for buffer in buffers), len(a))))
        got = np.empty_like(parts[2])
        device.download(buffers[2].address, got)
        want = c + np.matmul(a, b).sum(axis=0)
        if not np.array_equal(got, _fragments(a, b, want)[2]):
            return False
    return True
