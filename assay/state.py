"""Named tensors: their roots and their bytes.

A training state, an accumulator, a micro-batch and the frozen tensors of a job are each a dict of NumPy arrays. Roots are those of
docs/protocol.md: a tensor is headed by dtype and shape and cut into chunks of 1 KiB (what a contract can open); a set of tensors is a
Merkle tree over its entries in the order of their UTF-8 names. Elements count in C order, little-endian, whatever the strides.

Stored form: safetensors (https://github.com/huggingface/safetensors), read strictly: a bounded header, dtypes of DTYPES only,
the data covered exactly once. Nothing is ever unpickled.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from assay import merkle
from assay.exact.hashing import DTYPES, BadTensors, dtype_name, tensor_root
from assay.exact.offload import release
from assay.ids import Digest

Array = NDArray[Any]
Tensors = dict[str, Array]

MAX_HEADER = 16 << 20
"""Bytes of a safetensors header that are accepted."""
MAX_RANK = 16
PIECE = 4 << 20
"""Bytes that are read or written at a time."""

_STORED = {"f32": "F32", "i32": "I32", "i64": "I64", "u8": "U8", "bool": "BOOL", "i8": "I8", "i16": "I16", "f64": "F64", "u32": "U32"}
_LOADED = {stored: name for name, stored in _STORED.items()}


# ---- roots -----------------------------------------------------------------------------------------------------------------


def tensor_roots(tensors: Mapping[str, Array], threads: int = 1) -> dict[str, Digest]:
    """Root of each tensor; `threads` native threads share each one's chunks. Mapped tensors are handed back one by one."""
    out = {}
    for name, array in tensors.items():
        out[name] = tensor_root(array, threads)
        release(array)
    return out


def entries_root(roots: Mapping[str, bytes]) -> Digest:
    """Merkle root over `len(name) u16 ‖ name ‖ tensor root`, sorted by UTF-8 name."""
    named = sorted((name.encode(), root) for name, root in roots.items())
    return merkle.root_of([struct.pack(">H", len(name)) + name + root for name, root in named])


def state_root_of(step: int, roots: Mapping[str, bytes]) -> Digest:
    """State root from the roots of its tensors."""
    return merkle.sha256(struct.pack(">BQI", 0x11, step, len(roots)), entries_root(roots))


def state_root(step: int, tensors: Mapping[str, Array], threads: int = 1) -> Digest:
    """SHA256(0x11 ‖ step u64 ‖ count u32 ‖ merkle(entries)): the state before step `step`."""
    return state_root_of(step, tensor_roots(tensors, threads))


def acc_root_of(step: int, m: int, roots: Mapping[str, bytes]) -> Digest:
    """Accumulator's root from the roots of its tensors."""
    return merkle.sha256(struct.pack(">BQII", 0x12, step, m, len(roots)), entries_root(roots))


def acc_root(step: int, m: int, tensors: Mapping[str, Array], threads: int = 1) -> Digest:
    """SHA256(0x12 ‖ step u64 ‖ m u32 ‖ count u32 ‖ merkle(entries)): the accumulator after `m` micro-batches of step `step`."""
    return acc_root_of(step, m, tensor_roots(tensors, threads))


def frozen_root(tensors: Mapping[str, Array], threads: int = 1) -> Digest:
    """SHA256(0x18 ‖ count u32 ‖ merkle(entries)): what a job's program reads and no step changes."""
    return merkle.sha256(struct.pack(">BI", 0x18, len(tensors)), entries_root(tensor_roots(tensors, threads)))


def batch_root(tensors: Mapping[str, Array]) -> Digest:
    """SHA256(0x16 ‖ count u32 ‖ merkle(entries)): one micro-batch; of no tensors for an update."""
    return merkle.sha256(struct.pack(">BI", 0x16, len(tensors)), entries_root(tensor_roots(tensors)))


def weights(state: Mapping[str, Array]) -> Tensors:
    """Parameters and buffers of a training's state under their names in the model: what `load_state_dict(..., strict=False)` of a model
    with the same frozen tensors wants."""
    kept = {name: array for name, array in state.items() if name.startswith(("param.", "buffer."))}
    return {name.split(".", 1)[1]: array for name, array in kept.items()}


# ---- bytes -----------------------------------------------------------------------------------------------------------------


def to_bytes(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """Canonical safetensors file: entries in the order of their UTF-8 names, header padded to 8 bytes. `metadata` is for other libraries:
    no file of ours has any, and `from_bytes` takes none."""
    return b"".join(_parts(tensors, metadata))


def to_file(file: BinaryIO, tensors: Mapping[str, Array]) -> None:
    """Writes what `to_bytes` gives, a tensor at a time."""
    for part in _parts(tensors):
        file.write(part)


def _parts(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    names = sorted(tensors, key=str.encode)
    for name in names:
        array = tensors[name]
        header[name] = {"dtype": _STORED[dtype_name(array)], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        array = tensors[name]
        data = np.asarray(array, DTYPES[dtype_name(array)][1], order="C").reshape(-1).view(np.uint8)
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE].data
            release(array)


def ends(data: bytes) -> list[int]:
    """Where the header and each tensor of a file of ours end, in order."""
    (size,) = struct.unpack("<Q", data[:8])
    header = msgspec.json.decode(data[8 : 8 + size], type=dict[str, _Entry])
    return [8 + size, *sorted(8 + size + entry.data_offsets[1] for entry in header.values())]


__all__ = [
    "DTYPES", "BadTensors", "Tensors", "acc_root", "acc_root_of", "batch_root", "dtype_name", "ends", "entries_root", "from_bytes", "from_file",
    "frozen_root", "state_root", "state_root_of", "tensor_root", "tensor_roots", "to_bytes", "to_file", "weights",
]  # fmt: skip


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def from_file(path: Path, limit: int, put: Callable[[Array], Array]) -> Tensors:
    """As `from_bytes` of a file that is not read as a whole: `put` says where each tensor goes. Raises BadTensors, OSError."""
    with path.open("rb") as file:
        if not (size := path.stat().st_size):
            raise BadTensors("tensor file of 0 bytes has no header")
        mapped = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)
    return from_bytes(mapped.data, limit, put)


def from_bytes(data: bytes | memoryview, limit: int, put: Callable[[Array], Array] = np.copy) -> Tensors:
    """The tensors of a safetensors file of at most `limit` bytes, as arrays of their own. Raises BadTensors."""
    if len(data) > limit:
        raise BadTensors(f"tensor file of {len(data)} bytes is over the limit of {limit}")
    if len(data) < 8:
        raise BadTensors(f"tensor file of {len(data)} bytes has no header")
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(MAX_HEADER, len(data) - 8):
        raise BadTensors(f"tensor file header of {size} bytes is longer than the file or than {MAX_HEADER}")
    try:
        header = msgspec.json.decode(data[8 : 8 + size], type=dict[str, _Entry])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadTensors(f"tensor file header: {error}") from None
    body = memoryview(data)[8 + size :]
    out: Tensors = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1].data_offsets):
        kind = _LOADED.get(entry.dtype)
        if kind is None:
            raise BadTensors(f"tensor {name!r} has dtype {entry.dtype!r}, none of {', '.join(_LOADED)}")
        dtype = DTYPES[kind][1]
        start, stop = entry.data_offsets
        count = 1
        for n in entry.shape:
            count *= n
            if n < 0 or count > len(body):
                raise BadTensors(f"tensor {name!r} has shape {list(entry.shape)}, which does not fit its file")
        if len(entry.shape) > MAX_RANK or start != end or stop - start != count * dtype.itemsize or stop > len(body):
            raise BadTensors(f"tensor {name!r}: bytes {start}..{stop} are not those of {entry.dtype}{list(entry.shape)} after byte {end}")
        array = np.frombuffer(body[start:stop], dtype=dtype).reshape(entry.shape)
        if kind == "bool" and bool((array.view(np.uint8) > 1).any()):
            raise BadTensors(f"tensor {name!r} holds a bool that is neither 0 nor 1")
        out[name] = put(array)
        release(array)
        end = stop
    if end != len(body):
        raise BadTensors(f"tensor file has {len(body) - end} bytes that belong to no tensor")
    return out
