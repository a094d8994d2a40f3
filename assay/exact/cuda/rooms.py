"""Tensors that lie side by side in one buffer of a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.cuda.device import Buffer, Device
from assay.exact.division import aligned
from assay.exact.hashing import BadTensors
from assay.exact.offload import release
from assay.exact.table import TensorType

Array = NDArray[Any]
Tensors = Mapping[str, Array]
PACKED = 1 << 20
"""Bytes of a room up to which its tensors are uploaded as one piece."""


def fitting(name: str, array: Array | None, t: TensorType) -> Array:
    """The array in C order and little-endian. Raises BadTensors unless it is what the program takes."""
    if array is None or array.shape != t.shape or array.dtype.newbyteorder("<") != reference.NUMPY[t.dtype]:
        found = "not there" if array is None else f"{array.dtype}{list(array.shape)}"
        raise BadTensors(f"{name!r} is {found}, the program takes {t}")
    return np.require(array, reference.NUMPY[t.dtype], "C")


def fresh(t: TensorType) -> Array:
    return np.empty(t.shape, reference.NUMPY[t.dtype])


class Room:
    def __init__(self, device: Device, types: Mapping[str, TensorType]) -> None:
        self._device, self.types = device, dict(types)
        self.at: dict[str, int] = {}
        end = 0
        for name, t in self.types.items():
            self.at[name] = end
            end += aligned(t.bytes)
        self.size = end
        self.buffer: Buffer = device.allocate(max(1, end))

    def address(self, name: str) -> int:
        return self.buffer.address + self.at[name]

    def put(self, tensors: Tensors) -> None:
        """Raises BadTensors."""
        arrays = {name: fitting(name, tensors.get(name), t) for name, t in self.types.items()}
        if self.size > PACKED:
            for name, array in arrays.items():
                self._device.upload(self.address(name), array)
                release(array)
        elif self.size:
            packed = np.zeros(self.size, np.uint8)
            for name, array in arrays.items():
                packed[self.at[name] : self.at[name] + array.nbytes] = array.reshape(-1).view(np.uint8)
            self._device.upload(self.buffer.address, packed)

    def get(self, names: Iterable[str] | None = None, empty: Callable[[TensorType], Array] = fresh) -> dict[str, Array]:
        """All of them, or some, in arrays that `empty` gives."""
        out = {}
        for name in self.types if names is None else names:
            out[name] = empty(self.types[name])
            self._device.download(self.address(name), out[name])
            release(out[name])
        return out
