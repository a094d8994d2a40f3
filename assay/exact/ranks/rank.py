"""One rank at work: its stages on this process's device or on the processor, its exchanges over a communicator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from assay.exact import engines, reference
from assay.exact.ranks.device import On, Stages
from assay.exact.ranks.exchanges import Comm
from assay.exact.ranks.host import Host
from assay.exact.ranks.places import Layout
from assay.exact.ranks.split import Entry, Ranked, entries, forms
from assay.program import Program

Array = NDArray[Any]


def constants_of(program: Program) -> dict[str, Array]:
    return {c.name: np.frombuffer(c.data, reference.NUMPY[c.type.dtype]).reshape(c.type.shape) for c in program.constants}


class Kept(Protocol):
    """This rank's pieces of what a program takes and gives, where it computes."""

    def put(self, entry: Entry, piece: Array) -> None: ...

    def get(self, entry: Entry) -> Array:
        """Not to be written to."""
        ...

    def begin(self) -> None:
        """An empty accumulator, for the state that is here."""
        ...

    def run(self, part: str) -> None:
        """A link, on what is here: its results take the places of what they replace. Raises HardwareFault, RankLost."""
        ...

    def roots(self, kind: str) -> bytes:
        """Of `acc` or `state`: what this rank gives of each entry's root (assay.exact.ranks.roots), in the order of their names."""
        ...

    def forget(self) -> None:
        """What is here is not wanted any more."""
        ...


class Rank:
    """Runs the parts of a program on the pieces of rank `comm.rank`: on the device of this process (assay.exact.engines), or with `threads`
    native threads. Raises DeviceError, ProgramError, MemoryError where its device cannot run them. `on`: another device than that."""

    def __init__(self, program: Program, layout: Layout, comm: Comm, threads: int = 1, on: engines.Opened | None = None) -> None:
        self.comm = comm
        self.parts: Mapping[str, Ranked] = forms(program, layout, comm.rank, comm.size)
        self.entries = entries(self.parts.values())
        constants, bits = constants_of(program), program.gemm_bits
        self.kept: Kept
        if (found := on or engines.opened()) is not None:
            self.kept = Stages(On(found.device, found.kernels, found.products, constants, bits, comm), self.parts)
        else:
            self.kept = Host(self.parts, self.entries, constants, bits, comm, threads)

    def run(self, part: str, pieces: Sequence[Array]) -> list[Array]:
        """A link by itself: this rank's pieces of a part's outputs, given those of its inputs (but constants), both in the part's order."""
        form, kept = self.parts[part], self.kept
        for (i, _), piece in zip(form.inputs, pieces, strict=True):
            kept.put((i.kind, i.name), piece)
        kept.run(part)
        made = [kept.get((o.kind, o.name)) for o, *_ in form.outputs]
        kept.forget()
        return made
