"""Which way of multiplying is fastest on this device, for each size: measured when a size is met first, and kept in a file.

The ways are tiles of int8, the device's library, and, where the chip's accumulators are exact (probe.py), tiles of bf16. All give the same
bits, so a wrong choice costs time and nothing else. The file lies in the user's cache folder, one for each device, driver and source.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec

from assay.exact.cuda import probe
from assay.exact.cuda.device import Description, Device, source
from assay.exact.cuda.operands import Axis, Operand
from assay.exact.cuda.product import Product, Products, Size, Way, digits, tiles
from assay.exact.native.build import cache_folder

log = logging.getLogger("assay.exact")

RUNS = 5
LARGEST = 1 << 20
"""Bytes of the file."""
EXACT = "bf16 accumulators are exact"


@cache
def _sources() -> str:
    names = ("digits.cuh", "tensor.cuh", "pack.cu", "gemm.cu", "check.cu", "probe.cu")
    return hashlib.sha256(source(*names).encode()).hexdigest()


def path(description: Description) -> Path:
    """The file of a device."""
    words = "\0".join([description.name, description.driver, description.arch, str(description.processors), _sources()])
    return cache_folder() / f"cuda-{hashlib.sha256(words.encode()).hexdigest()[:24]}.json"


def _read(file: Path) -> dict[str, str]:
    """What the file says; nothing, where it is not what was written here."""
    try:
        if file.stat().st_size > LARGEST:
            return {}
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError):
        return {}


class Choices:
    """The fastest ways on a device. `clock`: seconds."""

    def __init__(self, device: Device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._clock = device, clock
        self._file = path(device.description)
        self._known = _read(self._file)

    def ways(self, size: Size) -> list[Way]:
        """All that this device has for a size."""
        arch = self._device.description.arch
        out = [Way(tile) for tile in tiles(digits(size.bits), arch)]
        how = digits(size.bits)
        if how.planes == how.sums and size.k <= how.run and self._device.library() is not None:
            out.append(Way(None))
        if self.bf16():
            out += [Way(tile, True) for tile in tiles(digits(size.bits, True), arch)]
        return out

    def bf16(self) -> bool:
        """Whether the chip's accumulators passed the probe; asked once for a device and driver."""
        if self._known.get(EXACT) not in ("yes", "no"):
            self._keep(EXACT, "yes" if probe.exact(self._device) else "no")
        return self._known[EXACT] == "yes"

    def way(self, size: Size) -> Way | None:
        """The fastest, or None where none could be measured."""
        ways = {str(way): way for way in self.ways(size)}
        if self._known.get(str(size)) not in ways:
            taken: dict[str, float] = {}
            for name, way in ways.items():
                try:
                    taken[name] = self._measured(size, way)
                except (MemoryError, RuntimeError) as error:
                    log.info("products %s are not made by %s: %s", size, name, error)
            if not taken:
                return None
            self._keep(str(size), min(taken, key=taken.__getitem__))
        return ways[self._known[str(size)]]

    def _measured(self, size: Size, way: Way) -> float:
        """Seconds of a product from floats to floats, its checksum included."""
        device = self._device
        batch = Axis((size.products,), (size.m * size.k,)), Axis((size.products,), (size.k * size.n,))
        a = Operand(batch[0], Axis((size.m,), (size.k,)), Axis((size.k,), (1,)))
        b = Operand(batch[1], Axis((size.n,), (1,)), Axis((size.k,), (size.n,)))
        product = Product(size.bits, a, b, way, device.description.processors)
        products = Products(device)
        sizes = (4 * size.products * size.m * size.n, 4 * size.products * size.m * size.k, 4 * size.products * size.k * size.n, product.scratch)
        buffers = [device.allocate(bytes_) for bytes_ in sizes]
        out, x, y, scratch = (buffer.address for buffer in buffers)
        launches = products.launches(product, out, x, y, scratch)
        for launch in launches:  # once as they are: a library may want memory, which a recording does not allow
            device.launch(launch)
        device.wait()
        with device.record() as recording:
            for launch in launches:
                device.launch(launch)
        start = self._clock()
        for _ in range(RUNS):
            recording.graph.replay()
        device.wait()
        return self._clock() - start

    def _keep(self, what: str, chosen: str) -> None:
        """Adds to the file, which other processes may write, too: the last one wins, with what it knows."""
        self._known = {**_read(self._file), **self._known, what: chosen}
        handle, temporary = tempfile.mkstemp(dir=self._file.parent, suffix=".json")
        with os.fdopen(handle, "w") as file:
            json.dump(self._known, file)
        os.replace(temporary, self._file)
