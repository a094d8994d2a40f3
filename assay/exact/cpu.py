"""The exact engine on a CPU: plans the parts of a program once and runs them, natively or in NumPy, with the same bits.

An operator that the table does not have is refused when the plan is made, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import hashing, numpy_route, reference
from assay.exact.table import OPS
from assay.ids import Digest
from assay.program import Part, Program, ProgramError

Array = NDArray[Any]
Inputs = Mapping[str, Mapping[str, Array]]
"""Kind of input (state, acc, batch, scalar) -> name -> array of the type that the program says."""


class Cpu:
    """Runs the parts of one program (`micro`, `update`)."""

    def __init__(self, program: Program, threads: int = 1) -> None:
        self.threads = threads
        self._bits = program.gemm_bits
        self._parts = {"micro": program.micro, "update": program.update}
        self._constants = {c.name: np.frombuffer(c.data, reference.NUMPY[c.type.dtype]).reshape(c.type.shape) for c in program.constants}
        for name, part in self._parts.items():
            for at, node in enumerate(part.nodes):
                if node.op not in OPS:
                    raise ProgramError(f"{name} node {at}: this engine has no operator {node.op!r}")

    def _arguments(self, part: Part, inputs: Inputs) -> list[Array]:
        return [np.asarray((self._constants if i.kind == "constant" else inputs[i.kind])[i.name]) for i in part.inputs]

    def run(self, part: str, inputs: Inputs) -> dict[str, Array]:
        """Outputs of a part by name, as arrays of their own."""
        p = self._parts[part]
        return numpy_route.run(p, self._arguments(p, inputs), self._bits)

    def trace(self, part: str, inputs: Inputs) -> tuple[dict[str, Array], list[Digest]]:
        """The same outputs, and the tensor root of every node's result, in program order."""
        p = self._parts[part]
        roots: list[Digest] = []
        outputs = numpy_route.run(p, self._arguments(p, inputs), self._bits, lambda _, result: roots.append(hashing.tensor_root(result)))
        return outputs, roots
