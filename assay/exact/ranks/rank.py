"""One rank at work: its stages on this machine's exact engine, its exchanges over a communicator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import engines, numpy_route, reference
from assay.exact.cpu import Native
from assay.exact.native.build import library
from assay.exact.ranks.device import Stages
from assay.exact.ranks.exchanges import Comm, perform
from assay.exact.ranks.places import Layout
from assay.exact.ranks.split import Ranked, Stage, forms
from assay.exact.tape import aligned
from assay.program import Program

Array = NDArray[Any]


def constants_of(program: Program) -> dict[str, Array]:
    return {c.name: np.frombuffer(c.data, reference.NUMPY[c.type.dtype]).reshape(c.type.shape) for c in program.constants}


class Rank:
    """Runs the parts of a program on the pieces of rank `comm.rank`: on the device of this process (assay.exact.engines), or with `threads`
    native threads. Raises DeviceError, ProgramError, MemoryError where its device cannot run them. `on`: another device than that."""

    def __init__(self, program: Program, layout: Layout, comm: Comm, threads: int = 1, on: engines.Opened | None = None) -> None:
        self.comm, self.threads = comm, threads
        self._bits = program.gemm_bits
        self._constants = constants_of(program)
        self.parts: Mapping[str, Ranked] = forms(program, layout, comm.rank, comm.size)
        self._library = library()
        self._plans: dict[int, Native] = {}
        self._arena = aligned(0)
        self._stages: Stages | None = None
        if (found := on or engines.opened()) is not None:
            self._stages = Stages(found.device, found.kernels, found.products, list(self.parts.values()), self._constants, self._bits, comm)

    def run(self, part: str, pieces: Sequence[Array]) -> list[Array]:
        """This rank's pieces of a part's outputs, given those of its inputs (but constants), both in the part's order."""
        form = self.parts[part]
        values: dict[int, Array] = dict(enumerate(pieces))
        with np.errstate(all="ignore"):
            for stage in form.stages:
                if stage.gives:
                    made = self._local(stage, [values[v] for v in stage.takes])
                    values |= {v: array for v, array in zip(stage.gives, made, strict=True) if array is not None}
                if stage.exchanges:
                    if self._stages is not None:
                        results = self._stages.exchange(stage, values)
                    else:
                        results = perform(stage.exchanges, [[values[v] for v in e.operands] for e in stage.exchanges], self._bits, self.comm)
                    values |= {e.result: result for e, result in zip(stage.exchanges, results, strict=True)}
                for dead in stage.dying:
                    values.pop(dead, None)
        return [values[local] for *_, local in form.outputs]

    def _local(self, stage: Stage, taken: Sequence[Array]) -> Sequence[Array | None]:
        """What a stage gives; None for what only its exchanges need, where a device makes these."""
        part = stage.part
        arguments = [*taken, *(self._constants[i.name] for i in part.inputs if i.kind == "constant")]
        arguments = [np.require(a, a.dtype.newbyteorder("<"), ("C", "A")) for a in arguments]
        if self._stages is not None:
            return self._stages.run(part, arguments, [at for at, v in enumerate(stage.gives) if v in stage.dying])
        if self._library is None:
            found = numpy_route.run(part, arguments, self._bits)
            return [found[o.name] for o in part.outputs]
        key = id(part)  # the parts live as long as this rank
        if key not in self._plans:
            self._plans[key] = Native(part, self._constants, self._bits, self._library, False)
        native = self._plans[key]
        if native.tape.arena > self._arena.nbytes:
            self._arena = aligned(0)  # gone before the larger one is made
            self._arena = aligned(native.tape.arena)
        bases, buffers, outputs = native.bind(self._arena, arguments)
        native.run(bases, buffers, self.threads)
        return outputs
