"""The memory of a proof: a layered graph of 64-byte blocks, each mixed from nine earlier ones, in NumPy. This file is the specification.

    level 0    Philox words under the seed
    level t    acc = block before it in its lane; REFS times: acc = mix(acc, the block that acc points at, anywhere in levels 0..t-1); plus the
               block before it once more, so that the way back is as hard

A block that is not kept is computed again from its nine parents, of which those that are not kept are computed again. With a share m of all blocks
missing and their lanes' last blocks kept, one at level t takes c(t) = 1 + REFS m mean(c(0..t-1)) blocks: 1 / (1 - REFS m) at most for m below
1 / REFS, and a number that grows as t^(REFS m - 1) above. So three quarters of the memory cost some times as much work as there are levels, and
half of it the third power of that.
After scrypt (Percival 2009) and Argon2 (Biryukov, Dinu and Khovratovich 2016); this graph has no proof of its own, only bench/hardware.py's figures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.functions import philox
from assay.ids import Digest

Words = NDArray[np.uint32]

BLOCK = 64
"""Bytes."""
WORDS = BLOCK // 4
REFS = 8
ROUNDS = ((0x9E3779B1, 15, 5, 13), (0x85EBCA6B, 13, 11, 7))
"""Of mixing: an odd factor, a shift, which other word is added, and by how much that is turned."""


def _turned(x: Words, by: int) -> Words:
    return (x << np.uint32(by)) | (x >> np.uint32(32 - by))


def mix(acc: Words, other: Words) -> Words:
    """[.., 16] u32 each, all modulo 2^32."""
    x = acc ^ other
    for factor, shift, far, by in ROUNDS:
        x = x * np.uint32(factor)
        x ^= x >> np.uint32(shift)
        x = x + _turned(np.roll(x, -far, axis=-1), by)
    return x


def pointed(acc: Words, r: int, blocks: int) -> NDArray[np.int64]:
    """Which of the first `blocks` blocks each acc points at for its r-th reference."""
    found: NDArray[np.int64] = ((acc[..., r].astype(np.uint64) * np.uint64(blocks)) >> np.uint64(32)).astype(np.int64)
    return found


def first(seed: Digest, lanes: NDArray[np.int64]) -> Words:
    """The blocks of level 0 in some lanes: [.., 16]."""
    stream, key = (np.int64(int.from_bytes(seed[i : i + 8], "little", signed=True)) for i in (0, 8))
    position = lanes[..., None] * WORDS + np.arange(WORDS)
    with np.errstate(over="ignore"):
        drawn: NDArray[Any] = philox(position, np.full_like(position, stream), np.full_like(position, key))
    return drawn.astype(np.uint32)


def mixed(before: Words, blocks: int, fetch: Any) -> Words:
    """The blocks of a level from those before them in their lanes; all earlier levels have `blocks`, of which `fetch` gives those of some numbers."""
    acc = before
    for r in range(REFS):
        acc = mix(acc, fetch(pointed(acc, r, blocks)))
    return acc + before


def fill(seed: Digest, lanes: int, levels: int) -> Words:
    """All blocks, [levels * lanes, 16]."""
    memory = np.empty((levels * lanes, WORDS), np.uint32)
    memory[:lanes] = first(seed, np.arange(lanes))
    for t in range(1, levels):
        at = t * lanes
        memory[at : at + lanes] = mixed(memory[at - lanes : at], at, memory.__getitem__)
    return memory
