"""Merkle roots over the bytes of arrays, by native code where there is a compiler, by hashlib otherwise: the same digests."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from assay import merkle
from assay.ids import Digest

CHUNK = 1024
"""Bytes of one leaf."""


def chunk_root(array: NDArray[Any]) -> Digest:
    """Root over 1 KiB chunks of a C-contiguous array's bytes, the last chunk padded with zeros."""
    data = memoryview(array.reshape(-1).view("u1")).cast("B") if array.size else memoryview(b"")
    chunks = [bytes(data[i : i + CHUNK]) for i in range(0, len(data), CHUNK)]
    if chunks:
        chunks[-1] = chunks[-1].ljust(CHUNK, b"\0")
    return merkle.root_of(chunks)
