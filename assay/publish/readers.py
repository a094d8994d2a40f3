"""Files of each kind as records: batches of arrays `[n, *shape]`, one for each field.

    tensors   .npz .npy .safetensors    their arrays, the first axis counts records; a lone .npy is the field `x`
    table     .csv .parquet             assay.publish.tables
    images    .png .jpg .jpeg .webp     `image` u8 [height, width, channels]; `label` i64, where they lie in a folder for each class
    text      .txt .md                  `tokens` u8 [context + 1]: the bytes of the text, each window begins with the last of the one before

Floats become float32 and small integers int32, as in assay.Dataset. Nothing is ever unpickled. What a file is not right for is said with
a BadFile, whose text names the place in it.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.shard import MAX_FIELDS, MAX_NAME
from assay.state import Tensors

KINDS: dict[str, tuple[str, ...]] = {
    "tensors": (".npz", ".npy", ".safetensors"),
    "table": (".csv", ".parquet"),
    "images": (".png", ".jpg", ".jpeg", ".webp"),
    "text": (".txt", ".md"),
}
MAX_FILE = 8 << 30
"""Bytes of one file, and of what an .npz unpacks to: it is in memory as a whole."""
MAX_PIXELS = 1 << 26
BATCH = 1 << 16
"""Rows of a table, windows of a text: at a time."""
STORED_AS = {"float16": "float32", "float64": "float32", "int8": "int32", "int16": "int32", "uint16": "int32", "uint32": "int64"}
TAKEN = ("float32", "int32", "int64", "uint8", "bool")


class BadFile(ValueError):
    """A file that cannot become records; says why."""


class How(NamedTuple):
    """How files are read; what the owner may choose."""

    kind: str
    classes: tuple[str, ...] = ()
    """Of images: the folders, in the order of their numbers."""
    size: tuple[int, int] | None = None
    """Of images: height and width that they are scaled to; None: as they are."""
    channels: int = 3
    context: int = 256
    columns: tuple[str, ...] = ()
    """Of a table: those that are taken; all if none is named."""
    label: str | None = None
    """Of a table: the column that becomes the field `label`; the others then become one field, `features`."""
    categories: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of a table: columns of texts, each with the values that stand for 0, 1, 2 …"""
    missing: float | None = None
    """Of a table: what stands for an empty cell."""


def kind_of(path: Path) -> str | None:
    return next((kind for kind, suffixes in KINDS.items() if path.suffix.lower() in suffixes), None)


def read(path: Path, how: How) -> Iterator[Tensors]:
    """Batches of a file's records, in order. Raises BadFile, OSError."""
    if path.stat().st_size > MAX_FILE:
        raise BadFile(f"it has {path.stat().st_size} bytes, over the limit of {MAX_FILE}: cut it")
    match how.kind:
        case "tensors":
            yield from _tensors(path)
        case "table":
            from assay.publish.tables import rows

            yield from rows(path, how)
        case "images":
            yield _image(path, how)
        case _:
            yield from _windows(path, how.context)


def taken(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """The array in a form that the engine takes, finite. Raises BadFile."""
    if array.dtype.hasobject:
        raise BadFile(f"field {name!r} holds Python objects")
    array = np.ascontiguousarray(array, dtype=STORED_AS.get(array.dtype.name, array.dtype))
    if array.dtype.name not in TAKEN:
        raise BadFile(f"field {name!r} has dtype {array.dtype}: floats, integers and bools are taken")
    if array.dtype == np.float32 and not np.isfinite(array).all():
        record = int(np.argwhere(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0][0])
        raise BadFile(f"field {name!r} of record {record} is not a finite number")
    return array


def _tensors(path: Path) -> Iterator[Tensors]:
    arrays = {"x": _npy(path.read_bytes())} if path.suffix.lower() == ".npy" else _npz(path) if path.suffix.lower() == ".npz" else _safetensors(path)
    if not 1 <= len(arrays) <= MAX_FIELDS:
        raise BadFile(f"it holds {len(arrays)} arrays, not 1 to {MAX_FIELDS}")
    if any(not 1 <= len(name) <= MAX_NAME for name in arrays):
        raise BadFile(f"an array's name has 1 to {MAX_NAME} characters")
    counts = {name: array.shape[0] if array.ndim else -1 for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or min(counts.values()) < 1:
        raise BadFile(f"its arrays need the same number of records on their first axis, at least one; they have {dict(list(counts.items())[:8])}")
    yield {name: taken(name, array) for name, array in arrays.items()}


def _npy(data: bytes) -> NDArray[Any]:
    """The header is believed only as far as there are bytes: NumPy would allocate what it claims."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if not dtype.hasobject and math.prod(shape) * dtype.itemsize != len(data) - file.tell():
            raise BadFile(f"its header claims {dtype}{list(shape)}, which are not the {len(data) - file.tell()} bytes that it has")
        file.seek(0)
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except BadFile:
        raise
    except (ValueError, EOFError, OSError) as error:
        raise BadFile(f"it is no array that NumPy reads: {error}") from None


def _npz(path: Path) -> Tensors:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_FILE:
                raise BadFile(f"it unpacks to more than {MAX_FILE} bytes")
            if len(members) > MAX_FIELDS:
                raise BadFile(f"it holds {len(members)} arrays, over the limit of {MAX_FIELDS}")
            return {member.filename.removesuffix(".npy"): _npy(archive.read(member)) for member in members}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise BadFile(f"it is no .npz file, or a torn one: {error}") from None


def _safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(path.read_bytes()))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadFile(f"it is no safetensors file with dtypes that NumPy has: {error}") from None


def _image(path: Path, how: How) -> Tensors:
    """One record. The pixels alone: what a camera writes beside them (place, time, owner) stays behind."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadFile(f"it has {image.width} x {image.height} pixels, over the limit of {MAX_PIXELS}")
            image.load()
            pixels = image.convert("L" if how.channels == 1 else "RGB")
            if how.size is not None:
                pixels = pixels.resize((how.size[1], how.size[0]), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(f"it is no image that can be read: {error}") from None
    array = np.asarray(pixels, dtype=np.uint8)
    found = {"image": array.reshape(1, *array.shape[:2], how.channels)}
    if how.classes:
        found["label"] = np.array([how.classes.index(path.parent.name)], dtype=np.int64)
    return found


def _windows(path: Path, context: int) -> Iterator[Tensors]:
    data = path.read_bytes()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadFile(f"it is no UTF-8 text: byte {error.start} is {data[error.start]:#04x}") from None
    count = (len(data) - 1) // context
    if count < 1:
        raise BadFile(f"its {len(data)} bytes are not one window of {context} + 1")
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), context + 1)[: count * context : context]
    for start in range(0, count, BATCH):
        yield {"tokens": np.ascontiguousarray(windows[start : start + BATCH])}
