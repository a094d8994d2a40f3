"""An engine whose trainings stay on a CUDA device, where the device has no room for more: links that are run or traced one by one (a
verifier's replays, disputes) are the processor's. The bits are the same."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property

from assay.exact.cpu import Cpu, Inputs
from assay.exact.cuda.away import Apart
from assay.exact.cuda.parts import Parts
from assay.exact.cuda.resident import Resident
from assay.exact.cuda.rooms import Array
from assay.exact.offload import Store
from assay.ids import Digest


class Staying:
    """`here` makes the processor's engine, when it is first asked for; entries `apart` of a training's state lie on the host; what is given of it
    lies in the `store`, if there is one."""

    route = "cuda"

    def __init__(self, parts: Parts, here: Callable[[], Cpu], apart: Apart | None = None, store: Store | None = None) -> None:
        self._parts, self._make, self.apart, self.store = parts, here, apart, store

    @cached_property
    def _here(self) -> Cpu:
        return self._make()

    def resident(self) -> Resident:
        """As Cuda's. Raises MemoryError, OSError where the store has no room."""
        return Resident(self._parts, self.apart, self.store)

    def run(self, part: str, inputs: Inputs, spent: Collection[str] = ()) -> dict[str, Array]:
        return self._here.run(part, inputs, spent)

    def trace(self, part: str, inputs: Inputs) -> tuple[dict[str, Array], list[Digest]]:
        return self._here.trace(part, inputs)
