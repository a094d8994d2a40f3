"""Which way of multiplying is fastest on this device, for each size: measured when a size is met first, and kept in a file.

The ways are tiles of int8, of wgmma where the chip has it and a trial of it gave the right bits (trial.py), the device's library, and, as far as the
chip's accumulators are exact (probe.py), tiles of bf16 and fp8. All give the same bits, so a wrong choice costs time and nothing else. The file
lies in the user's cache folder, one for each device, driver and source. That a trial begins is written there first: one that takes the process or
the device with it is not begun again.
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

from assay.exact.cuda import probe, trial
from assay.exact.cuda.device import Description, Device, Graph, source
from assay.exact.cuda.operands import Axis, Operand
from assay.exact.cuda.product import Product, Products
from assay.exact.cuda.sources import around, multiplication
from assay.exact.cuda.tiles import FLOATING, MOST_HELD, PLAIN, Digits, Floating, Group, Size, Tile, Way, digits, groups, takes, tiles
from assay.exact.native.build import cache_folder

log = logging.getLogger("assay.exact")

RUNS = 5
LARGEST = 1 << 20
"""Bytes of the file."""
EXACT: dict[Floating, str] = {kind: f"{kind} accumulators are exact up to two to the power of" for kind in FLOATING}
"""Under what the file keeps the probe's answers."""
RIGHT, WRONG, TRIED, LATER = "right", "wrong", "tried", "later"
"""What the file says of a trial."""
SLOW = 2
"""Times the best way's first run, beyond which a way is not measured any more."""


@cache
def _sources() -> str:
    shared = ("digits.cuh", "tensor.cuh", "hopper.cuh", "tiles.cuh", "pack.cuh")
    return hashlib.sha256(source(*shared, "pack.cu", "gemm.cu", "wgmma.cu", "persistent.cu", "check.cu", "probe.cu").encode()).hexdigest()


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
        self._prepared: set[int] = set()
        self._left: set[str] = set()
        """Ways whose trial another process began."""
        self._silent: set[Floating] = set()
        """Kinds of digits about which the probe had no answer."""

    def ways(self, size: Size) -> list[Way]:
        """All that this device has for a size."""
        arch, how = self._device.description.arch, digits(size.bits)
        self._prepare(size.bits)
        out = [Way(group) for group in groups(how, arch) if self.admitted(Way(group), size.bits)]
        out += [Way(tile) for tile in tiles(how, arch)]
        if how.planes == how.sums and size.k <= how.run and self._device.library() is not None:
            out.append(Way(None))
        for kind in FLOATING:
            if held := self.holds(kind):
                out += [Way(tile, kind, held) for tile in tiles(digits(size.bits, kind, held), arch)]
        return out

    def _prepare(self, bits: int) -> None:
        """Compiles at once what the first measurement at these bits will want."""
        if bits in self._prepared:
            return
        self._prepared.add(bits)
        how, arch = digits(bits), self._device.description.arch
        floating = [digits(bits, kind, held) for kind in FLOATING if (held := self.holds(kind))]
        cut: list[tuple[Digits, Tile | Group]] = [(how, group) for group in groups(how, arch)]
        cut += [(how, tile) for tile in tiles(how, arch)]
        cut += [(other, tile) for other in floating for tile in tiles(other, arch)]
        texts = [(multiplication(one, tile), tile.arch) for one, tile in cut]
        layouts = {(how, PLAIN), *((one, tile.layout) for one, tile in cut)}
        self._device.prepare([*texts, *((around(*one), "") for one in sorted(layouts))])

    def admitted(self, way: Way, bits: int) -> bool:
        """Whether a way passed its trial, which is made once for a device and driver."""
        what = f"{way} at b={bits}"
        if what in self._left:
            return False
        if what not in self._known:  # another process may have tried it meanwhile
            self._known = {**_read(self._file), **self._known}
        if (said := self._known.get(what)) not in (RIGHT, WRONG):
            if said == TRIED:
                log.warning("products are not made by %s: another process was ended by its trial, or is at it", what)
                self._left.add(what)
                return False
            self._keep(what, TRIED)
            try:
                good = trial.right(self._device, way, bits)
                if not good:
                    log.error("products are not made by %s: it gives wrong bits on %s", what, self._device.description.name)
            except MemoryError as error:
                log.info("products are not made by %s yet: %s", what, error)
                self._keep(what, LATER)
                return False
            except RuntimeError as error:
                good = False
                log.error("products are not made by %s: %s", what, error)
            self._keep(what, RIGHT if good else WRONG)
        return self._known[what] == RIGHT

    def holds(self, kind: Floating) -> int:
        """The power of two up to which the chip's accumulators passed the probe, 0 for none; asked once for a device and driver."""
        if not takes(self._device.description.arch, kind) or kind in self._silent:
            return 0
        answers: dict[str, int] = {str(power): power for power in (0, *range(probe.FORMATS[kind].least, MOST_HELD + 1))}
        if self._known.get(EXACT[kind]) not in answers:
            try:
                found = probe.holds(self._device, kind)
            except RuntimeError as error:  # no answer: the next process asks again
                self._silent.add(kind)
                log.error("products are not made in %s: %s", kind, error)
                return 0
            self._keep(EXACT[kind], str(found))
        return answers[self._known[EXACT[kind]]]

    def refuse(self, kind: Floating) -> None:
        """No more products in such digits on this device and driver: they gave wrong bits."""
        self._keep(EXACT[kind], "0")

    def way(self, size: Size, shared: bool = False) -> Way | None:
        """The fastest, or None where none could be measured. `shared`: of products whose k is one rank's part, which are made in tiles
        (Products.shared); these are measured by themselves."""
        ways, what = {str(way): way for way in self.ways(size) if way.tile is not None or not shared}, f"{size}{' shared' * shared}"
        if self._known.get(what) not in ways:
            taken = self.measured(size, shared)
            if not taken:
                return None
            self._keep(what, min(taken, key=taken.__getitem__))
        return ways[self._known[what]]

    def measured(self, size: Size, shared: bool = False) -> dict[str, float]:
        """Seconds that each way takes, of those that can be measured."""
        taken: dict[str, float] = {}
        best = float("inf")
        for way in (way for way in self.ways(size) if way.tile is not None or not shared):
            try:
                first, taken[str(way)] = self._measured(size, way, best, shared)
                best = min(best, first)
            except (MemoryError, RuntimeError) as error:
                log.info("products %s are not made by %s: %s", size, way, error)
        return taken

    def _measured(self, size: Size, way: Way, best: float, shared: bool) -> tuple[float, float]:
        """Seconds of a product from floats to floats, its checksum included (of a shared one, without what ranks exchange): the first, and one of
        RUNS, which are not made where the first is much slower than the best."""
        device = self._device
        batch = Axis((size.products,), (size.m * size.k,)), Axis((size.products,), (size.k * size.n,))
        a = Operand(batch[0], Axis((size.m,), (size.k,)), Axis((size.k,), (1,)))
        b = Operand(batch[1], Axis((size.n,), (1,)), Axis((size.k,), (size.n,)))
        product = Product(size.bits, a, b, way, device.description.processors)
        products = Products(device)
        sizes = (4 * size.products * size.m * size.n, 4 * size.products * size.m * size.k, 4 * size.products * size.k * size.n, product.scratch)
        buffers = [device.allocate(bytes_) for bytes_ in sizes]
        out, x, y, scratch = (buffer.address for buffer in buffers)
        if shared:
            buffers.append(device.allocate(2 * sizes[0]))
            launches = [launch for each in products.shared(product, out, x, y, scratch, buffers[-1].address) for launch in each]
        else:
            launches = products.launches(product, out, x, y, scratch)
        for launch in launches:  # once as they are: a library may want memory, which a recording does not allow
            device.launch(launch)
        device.wait()
        with device.record() as recording:
            for launch in launches:
                device.launch(launch)
        first = self._seconds(recording.graph, 1)
        return first, first if first > SLOW * best else self._seconds(recording.graph, RUNS) / RUNS

    def _seconds(self, graph: Graph, runs: int) -> float:
        start = self._clock()
        for _ in range(runs):
            graph.replay()
        self._device.wait()
        return self._clock() - start

    def _keep(self, what: str, chosen: str) -> None:
        """Adds to the file, which other processes may write, too: the last one wins, with what it knows."""
        self._known = {**_read(self._file), **self._known, what: chosen}
        handle, temporary = tempfile.mkstemp(dir=self._file.parent, suffix=".json")
        with os.fdopen(handle, "w") as file:
            json.dump(self._known, file)
        os.replace(temporary, self._file)
