"""The exact engine on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from assay.ids import Digest
from assay.program import Program

Inputs = Mapping[str, Mapping[str, NDArray[Any]]]
"""Kind of input -> name -> array."""


class Cpu:
    """Runs the parts of one program."""

    def __init__(self, program: Program, threads: int = 1) -> None:
        self.program, self.threads = program, threads

    def run(self, part: str, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """Outputs of a part by name."""
        raise NotImplementedError

    def trace(self, part: str, inputs: Inputs) -> tuple[dict[str, NDArray[Any]], list[Digest]]:
        """The same outputs, and the tensor root of every node's result, in program order."""
        raise NotImplementedError
