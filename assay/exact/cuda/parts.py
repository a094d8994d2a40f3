"""One program on one device: the plans of its parts as tapes, each made when it is first wanted and shared by all that run it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import compress
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from assay.exact import recompute, reference
from assay.exact.cuda import tape as tapes
from assay.exact.cuda.device import Description, Device
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.plans import plan_for
from assay.exact.cuda.product import Products
from assay.exact.cuda.tape import Tape
from assay.exact.regions import SLICE
from assay.exact.slices import Sliced, sliced
from assay.exact.steps import NATIVE_OPERATORS
from assay.program import Program, ProgramError

T = TypeVar("T")
PART = 256
"""Slices of a region's values that would fill a device's memory."""


def constants_of(program: Program) -> dict[str, NDArray[np.generic]]:
    return {c.name: np.frombuffer(c.data, reference.NUMPY[c.type.dtype]).reshape(c.type.shape) for c in program.constants}


def slice_bytes(description: Description) -> int:
    """Of a slice's values at a time (assay.exact.slices), where memory is short: little of the device's memory, but not less than its level-2 cache
    holds, so that a slice has several heads and a launch is worth its start (on an H200, 590 MB: of 16 heads 1024 x 1024 some 0.1 ms a launch)."""
    return max(SLICE, description.cache, description.memory // PART)


class Parts:
    """Parts run by slices of about `slices` bytes (0: as they are), and with an `effort` (assay.exact.recompute) make
    values of a micro-batch again rather than to keep them: less memory, the same bits. Without `products`, int8 tensor cores make them, by
    tiles of the usual sizes; products without checksums (plain.cu) are only for what `products` does not take. Raises ProgramError for an
    operator that this engine does not have."""

    def __init__(
        self, program: Program, device: Device, kernels: Kernels | None = None, products: tapes.Products | None = None, slices: int = 0,
        effort: int = 0,
    ) -> None:  # fmt: skip
        self.program, self.device = program, device
        self.kernels = kernels or Kernels(device)
        self.products = products or Products(device)
        own = {"micro": program.micro, "update": program.update}
        again = {name: recompute.written(part, effort if name == "micro" else 0, slices) for name, part in own.items()}
        cut = {name: sliced(written.part, slices) for name, written in again.items()}
        self.parts = {name: made.part for name, made in cut.items()}
        """As they run: the inputs and outputs of the program's."""
        self.traced = {name: Sliced(made.part, tuple(compress(made.makers, again[name].first))) for name, made in cut.items()}
        """With what makes each node of the program first."""
        self._constants = constants_of(program)
        self._tapes: dict[tuple[str, bool], Tape] = {}
        self._shared: dict[Hashable, object] = {}
        self._wrong = 0
        self.faults()
        for name, part in own.items():
            for at, node in enumerate(part.nodes):
                if node.op not in NATIVE_OPERATORS:
                    raise ProgramError(f"{name} node {at}: this engine has no operator {node.op!r}")

    def tape(self, name: str, trace: bool = False) -> Tape:
        """Of `micro` or `update`. Raises ProgramError for a step that is too large."""
        key = name, trace
        if key not in self._tapes:
            plan = plan_for(self.parts[name], self._constants, self.program.gemm_bits, self.device.description, self.products, trace)
            self._tapes[key] = Tape(plan, self.device, self.kernels, self.products)
        return self._tapes[key]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is made when it is first wanted, and shared."""
        if key not in self._shared:
            self._shared[key] = make()
        return cast(T, self._shared[key])

    def faults(self) -> int:
        """After all that was launched, how many checksums were wrong since it was asked last."""
        count = np.empty(1, np.uint64)
        self.device.download(self.products.faults.address, count)
        before, self._wrong = self._wrong, int(count[0])
        return self._wrong - before
