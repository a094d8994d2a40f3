"""The chain of products of a proof, in NumPy. This file is the specification.

    X_0      the last side^2 bytes of the memory, int8 in C order
    at       where the next matrix lies: the root of X_k modulo the places, in whole chunks
    X_k+1    row i is fold(X_k W_i), W_i being row i of the matrix of side^2 bytes at `at`: an exact int32 sum of int8 products, of which fold keeps
             the top byte after an odd factor. A column of the product is a row of the next state: two steps on, every entry depends on all

The sums are the same on every device, since they are integers below 2^31.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from assay.ids import Digest

State = NDArray[np.int8]

CHUNK = 1024
"""Bytes of a leaf, and what `at` is a multiple of."""
EXACT = 1024
"""Terms of a sum of products of int8 that float32 holds exactly: 1024 * 2^14 = 2^24."""
FACTOR = 0x9E3779B1


def place(root: Digest, memory: int, side: int) -> int:
    """Offset of the matrix that comes after a state of this root, in bytes."""
    return int.from_bytes(root[:8], "big") % ((memory - side * side) // CHUNK + 1) * CHUNK


def fold(sums: NDArray[np.int32]) -> State:
    with np.errstate(over="ignore"):
        return ((sums.view(np.uint32) * np.uint32(FACTOR)) >> np.uint32(24)).astype(np.uint8).view(np.int8)


def rows(state: State, weights: State) -> State:
    """The rows of the next state that come of some rows of the matrix: [r, side] from [side, side] and [r, side]."""
    side = state.shape[1]
    sums = np.zeros((weights.shape[0], state.shape[0]), np.int32)
    for at in range(0, side, EXACT):
        part = slice(at, at + EXACT)
        sums += (weights[:, part].astype(np.float32) @ state[:, part].astype(np.float32).T).astype(np.int32)
    return fold(sums)
