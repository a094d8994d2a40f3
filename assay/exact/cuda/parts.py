"""One program on one device: the plans of its parts as tapes, each made when it is first wanted and shared by all that run it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.cuda import tape as tapes
from assay.exact.cuda.device import Device
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.product import Products
from assay.exact.cuda.tape import Tape
from assay.exact.plan import Plan
from assay.exact.steps import NATIVE_OPERATORS
from assay.program import Program, ProgramError


def constants_of(program: Program) -> dict[str, NDArray[np.generic]]:
    return {c.name: np.frombuffer(c.data, reference.NUMPY[c.type.dtype]).reshape(c.type.shape) for c in program.constants}


class Parts:
    """Without `products`, int8 tensor cores make them, by tiles of the usual sizes; products without checksums (plain.cu) are only for what
    `products` does not take. Raises ProgramError for an operator that this engine does not have."""

    def __init__(self, program: Program, device: Device, kernels: Kernels | None = None, products: tapes.Products | None = None) -> None:
        self.program, self.device = program, device
        self.kernels = kernels or Kernels(device)
        self.products = products or Products(device)
        self.parts = {"micro": program.micro, "update": program.update}
        self._constants = constants_of(program)
        self._tapes: dict[tuple[str, bool], Tape] = {}
        self._wrong = 0
        self.faults()
        for name, part in self.parts.items():
            for at, node in enumerate(part.nodes):
                if node.op not in NATIVE_OPERATORS:
                    raise ProgramError(f"{name} node {at}: this engine has no operator {node.op!r}")

    def tape(self, name: str, trace: bool = False) -> Tape:
        """Of `micro` or `update`. Raises ProgramError for a step that is too large."""
        key = name, trace
        if key not in self._tapes:
            plan = Plan(self.parts[name], self._constants, self.program.gemm_bits, trace)
            self._tapes[key] = Tape(plan, self.device, self.kernels, self.products)
        return self._tapes[key]

    def faults(self) -> int:
        """After all that was launched, how many checksums were wrong since it was asked last."""
        count = np.empty(1, np.uint64)
        self.device.download(self.products.faults.address, count)
        before, self._wrong = self._wrong, int(count[0])
        return self._wrong - before
