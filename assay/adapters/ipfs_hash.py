"""SHA-256 of the blocks that a stream brings, two at a time where that can be had.

One message after another leaves the processor's SHA instructions idle half of the time: each round waits for the one before. The engine's native
code (assay.exact.native) takes two messages of the same length at once, in half the time. It is used where it has been compiled before: a
fetch does not wait for a compiler.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from itertools import groupby

Hashes = Callable[[memoryview, Sequence[int]], list[bytes]]
"""(bytes, sizes of the blocks that lie there one after another) -> their digests."""


def one_by_one(data: memoryview, sizes: Sequence[int]) -> list[bytes]:
    found, at = [], 0
    for size in sizes:
        found.append(hashlib.sha256(data[at : at + size]).digest())
        at += size
    return found


@functools.cache
def best() -> Hashes:
    """What is fastest here. The first call takes some milliseconds: it is made in a thread."""
    from assay.exact.native.build import at_hand

    native = at_hand()
    return one_by_one if native is None else functools.partial(_in_pairs, native.sha256_row)


def _in_pairs(row: Callable[[memoryview, int], bytes], data: memoryview, sizes: Sequence[int]) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    for size, group in groupby(sizes):
        count = len(list(group))
        part, at = data[at : at + size * count], at + size * count
        if size and count > 1:
            digests = row(part, size)
            found += [digests[i : i + 32] for i in range(0, len(digests), 32)]
        else:
            found += one_by_one(part, [size] * count)
    return found
