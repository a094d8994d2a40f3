"""A rank's stages on a device of its own: one after the other in the same memory, since what they hand on waits in the host's.

What is exchanged is made there, too (assay.exact.ranks.exchanges). So a device holds a stage at a time, and no rank needs to speak with another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import faults, reference
from assay.exact.cuda.device import Buffer, Device, Launch
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.product import ALIGN
from assay.exact.cuda.tape import Products, Tape
from assay.exact.plan import Plan
from assay.exact.table import TensorType
from assay.program import Part

Array = NDArray[Any]


class Stages:
    """Parts that a device runs, planned and placed when they are made. Raises ProgramError for one that it cannot run, MemoryError."""

    def __init__(
        self, device: Device, kernels: Kernels, products: Products, parts: Sequence[Part], constants: Mapping[str, Array], bits: int
    ) -> None:  # fmt: skip
        self._device, self._products = device, products
        tapes = [Tape(Plan(part, constants, bits), device, kernels, products) for part in parts]
        given, made = ([_room(types) for types in each] for each in (map(_inputs, parts), map(_outputs, parts)))
        sizes = [max((tape.arena for tape in tapes), default=0), max((tape.scratch for tape in tapes), default=0)]
        sizes += [max(given, default=0), max(made, default=0)]
        self._rooms = [device.allocate(max(1, size)) for size in sizes]
        arena, scratch, before, after = (room.address for room in self._rooms)
        self._tables: list[Buffer] = []
        self._placed: dict[int, tuple[list[int], list[int], list[Launch]]] = {}
        for part, tape in zip(parts, tapes, strict=True):
            inputs, outputs = _places(before, _inputs(part)), _places(after, _outputs(part))
            launches = tape.bind({"arena": [arena], "input": inputs, "output": outputs}, scratch, self._tables)
            self._placed[id(part)] = inputs, outputs, launches
        self._held = tapes, list(parts)
        self._wrong = 0
        self._faults()

    def run(self, part: Part, arguments: Sequence[Array]) -> list[Array]:
        """Outputs of one of the parts, from all its inputs but constants, which come last. Raises HardwareFault."""
        inputs, outputs, launches = self._placed[id(part)]
        for address, array in zip(inputs, arguments, strict=False):
            self._device.upload(address, array)

        def all_of_them() -> None:
            for launch in launches:
                self._device.launch(launch)

        faults.twice(all_of_them, self._faults)
        results = []
        for address, t in zip(outputs, _outputs(part), strict=True):
            results.append(np.empty(t.shape, reference.NUMPY[t.dtype]))
            self._device.download(address, results[-1])
        return results

    def _faults(self) -> int:
        """Checksums that were wrong since this was asked last."""
        count = np.empty(1, np.uint64)
        self._device.download(self._products.faults.address, count)
        before, self._wrong = self._wrong, int(count[0])
        return self._wrong - before


def _inputs(part: Part) -> list[TensorType]:
    return [i.type for i in part.inputs]


def _outputs(part: Part) -> list[TensorType]:
    return [part.type_of(o.value) for o in part.outputs]


def _aligned(t: TensorType) -> int:
    return -(-max(t.bytes, 1) // ALIGN) * ALIGN


def _room(types: Sequence[TensorType]) -> int:
    return sum(_aligned(t) for t in types)


def _places(start: int, types: Sequence[TensorType]) -> list[int]:
    """Addresses side by side."""
    out = []
    for t in types:
        out.append(start)
        start += _aligned(t)
    return out
