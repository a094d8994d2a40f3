"""A rank on this machine's processor: its pieces are arrays here, and its stages run by the native engine, or without a compiler by NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import numpy_route, reference
from assay.exact.cpu import Native
from assay.exact.native.build import library
from assay.exact.ranks.exchanges import Comm, perform
from assay.exact.ranks.places import Place
from assay.exact.ranks.roots import by_host, stretch
from assay.exact.ranks.split import Entry, Ranked, Stage
from assay.exact.table import TensorType
from assay.exact.tape import aligned

Array = NDArray[Any]


class Host:
    """The parts of a program as rank `comm.rank` runs them with `threads` native threads. Raises ProgramError."""

    def __init__(
        self, forms: Mapping[str, Ranked], every: Mapping[Entry, tuple[TensorType, Place]], constants: Mapping[str, Array], bits: int, comm: Comm,
        threads: int,
    ) -> None:  # fmt: skip
        self._forms, self._constants, self._bits, self._comm, self._threads = forms, constants, bits, comm, threads
        self._types = {entry: place.of(t, comm.rank) if place else t for entry, (t, place) in every.items()}
        self._stretches = {entry: stretch(t, place, comm.rank) for entry, (t, place) in every.items() if entry[0] in ("acc", "state")}
        self._library = library()
        self._plans: dict[int, Native] = {}
        self._arena = aligned(0)
        self._kept: dict[Entry, Array] = {}

    def put(self, entry: Entry, piece: Array) -> None:
        self._kept[entry] = piece

    def get(self, entry: Entry) -> Array:
        return self._kept[entry]

    def forget(self) -> None:
        self._kept = {}

    def begin(self) -> None:
        for kind, name in (entry for entry in self._types if entry[0] == "acc"):
            t, same = self._types[kind, name], self._kept.get(("state", name))
            self._kept[kind, name] = np.zeros(t.shape, reference.NUMPY[t.dtype]) if same is None else same.copy()

    def roots(self, kind: str) -> bytes:
        return b"".join(by_host(self._kept[entry], own, self._threads) for entry, own in self._stretches.items() if entry[0] == kind)

    def run(self, part: str) -> None:
        form = self._forms[part]
        values: dict[int, Array] = {at: self._kept[i.kind, i.name] for at, (i, _) in enumerate(form.inputs)}
        with np.errstate(all="ignore"):
            for stage in form.stages:
                if stage.gives:
                    values |= zip(stage.gives, self._local(stage, [values[v] for v in stage.takes]), strict=True)
                if stage.exchanges:
                    results = perform(stage.exchanges, [[values[v] for v in e.operands] for e in stage.exchanges], self._bits, self._comm)
                    values |= {e.result: result for e, result in zip(stage.exchanges, results, strict=True)}
                for dead in stage.dying:
                    values.pop(dead, None)
        self._kept |= {(o.kind, o.name): values[local] for o, *_, local in form.outputs}

    def _local(self, stage: Stage, taken: Sequence[Array]) -> Sequence[Array]:
        """What a stage gives."""
        part = stage.part
        arguments = [*taken, *(self._constants[i.name] for i in part.inputs if i.kind == "constant")]
        arguments = [np.require(a, a.dtype.newbyteorder("<"), ("C", "A")) for a in arguments]
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
        native.run(bases, buffers, self._threads)
        return outputs
