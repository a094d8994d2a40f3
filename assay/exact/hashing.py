"""Tensor roots (docs/protocol.md): SHA-256 Merkle trees over the bytes of arrays."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay import merkle
from assay.exact.native.build import library
from assay.exact.types import DTYPE_CODES
from assay.ids import Digest

Array = NDArray[Any]

CHUNK = 1024
"""Bytes of one leaf."""

DTYPES: dict[str, tuple[int, np.dtype[Any]]] = {
    name: (DTYPE_CODES[name][0], np.dtype(numpy_name))
    for name, numpy_name in dict(f32="<f4", i32="<i4", i64="<i8", u8="u1", bool="bool", i8="i1", i16="<i2", f64="<f8", u32="<u4").items()
}
"""Name of a dtype -> (its code in roots, the NumPy dtype)."""

_NAMES = {dtype: name for name, (_, dtype) in DTYPES.items()}


class BadTensors(ValueError):
    """Bytes that are no well-formed set of tensors, or tensors that are not what they should be: the fault of who sent them."""


def dtype_name(array: Array) -> str:
    """`f32`, `i64`, …  Raises BadTensors for a dtype that states do not hold."""
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise BadTensors(f"dtype {array.dtype} is none of {', '.join(DTYPES)}")
    return name


def chunk_root(data: Array, threads: int = 1) -> Digest:
    """Root over 1 KiB chunks of a C-contiguous array's bytes, the last chunk padded with zeros."""
    native = library()
    if native is not None:
        return Digest(native.chunk_root(data, threads))
    raw = data.tobytes()
    return merkle.root_of([raw[i : i + CHUNK].ljust(CHUNK, b"\0") for i in range(0, len(raw), CHUNK)])


class Chunks:
    """The chunk root of `size` > 0 bytes that come a piece at a time: of what has been seen only a hash for each chunk is kept."""

    def __init__(self, size: int) -> None:
        self.row = np.empty((-(-size // CHUNK) + 1) * 32, np.uint8)
        """Hashes of the chunks, and room for one more."""
        self.done = 0
        """Chunks whose hashes are there."""
        self.left = size
        """Bytes that are to come."""
        self._carry = np.empty(0, np.uint8)

    @property
    def even(self) -> bool:
        """Whether the next piece begins with a chunk."""
        return not len(self._carry)

    def add(self, data: Array, threads: int = 1) -> Array:
        """Takes in a C-contiguous array; returns the new hashes."""
        raw = data.reshape(-1).view(np.uint8)
        self.left -= len(raw)
        if len(self._carry):
            raw = np.concatenate([self._carry, raw])
        whole = len(raw) // CHUNK * CHUNK if self.left else len(raw)
        self._carry = raw[whole:].copy()
        row = self.row[32 * self.done : 32 * (self.done - (-whole // CHUNK))]
        self.done += len(row) // 32
        native = library()
        if native is not None:
            native.chunk_leaves(raw[:whole], self.done - len(row) // 32, row, threads)
            return row
        chunks = [raw[i : min(i + CHUNK, whole)].tobytes().ljust(CHUNK, b"\0") for i in range(0, whole, CHUNK)]
        row[:] = np.frombuffer(b"".join(merkle.leaf(self.done - len(chunks) + i, c) for i, c in enumerate(chunks)), np.uint8)
        return row

    def repeat(self, hashes: Array, size: int) -> None:
        """Takes in `size` bytes whose hashes, at this place, are known."""
        self.row[32 * self.done : 32 * self.done + len(hashes)] = hashes
        self.done += len(hashes) // 32
        self.left -= size

    def root(self) -> Digest:
        """When all is there; once."""
        native = library()
        if native is not None:
            return Digest(native.row_root(self.row))
        return merkle.root([Digest(self.row[i : i + 32].tobytes()) for i in range(0, 32 * self.done, 32)])


def headed(array: Array, chunks: bytes) -> Digest:
    """The tensor root of an array whose chunk root is known."""
    return headed_as(dtype_name(array), array.shape, chunks)


def headed_as(dtype: str, shape: tuple[int, ...], chunks: bytes) -> Digest:
    """The same of what is not an array here."""
    return merkle.sha256(struct.pack(f">BBB{len(shape)}Q", 0x10, DTYPES[dtype][0], len(shape), *shape), chunks)


def tensor_root(array: Array, threads: int = 1) -> Digest:
    """SHA256(0x10 ‖ dtype u8 ‖ ndim u8 ‖ dims u64 each ‖ merkle(chunks of 1024 bytes, the last zero-padded)); the elements
    little-endian in C order. Raises BadTensors."""
    return headed(array, chunk_root(np.asarray(array, DTYPES[dtype_name(array)][1], order="C"), threads))
