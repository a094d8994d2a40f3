"""The exact engine on a CPU: plans the parts of a program once and runs them, natively or in NumPy, with the same bits.

Native where there is a C compiler (assay.exact.native.build), else assay.exact.numpy_route. An operator that the engine does not have
is refused when it is made, by name.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import hashing, numpy_route, offload, recompute, reference
from assay.exact.native.build import Library, library
from assay.exact.plan import Plan
from assay.exact.regions import SLICE
from assay.exact.seen import Seen
from assay.exact.slices import sliced
from assay.exact.steps import NATIVE_OPERATORS
from assay.exact.table import TensorType
from assay.exact.tape import Tape, aligned, strided
from assay.ids import Digest
from assay.program import Part, Program, ProgramError

Array = NDArray[Any]
Inputs = Mapping[str, Mapping[str, Array]]
"""Kind of input (state, acc, batch, scalar) -> name -> array of the type that the program says."""
KEPT = 3
"""Buffers that are kept for one result: the state before and after a step, and one being written."""


class _Recycled:
    """Memory of results that nobody holds any more, for the next ones: fresh memory costs a page fault each 4 KiB, which for an
    update is ten times its arithmetic. What is handed out is a view, so the owner's reference count says whether it is still in use."""

    def __init__(self, t: TensorType, store: offload.Store | None = None) -> None:
        self._type, self._store = t, store
        self._owners: list[Array] = []

    def take(self) -> Array:
        if self._store is not None:
            return self._store.zeros(self._type)
        for owner in self._owners:
            if sys.getrefcount(owner) == _IDLE:
                return owner[...]
        owner = np.empty(self._type.shape, reference.NUMPY[self._type.dtype])
        if len(self._owners) < KEPT:
            self._owners.append(owner)
        return owner[...]


def _idle_references() -> int:
    """What sys.getrefcount says of an array that only a list holds, asked in a loop as above."""
    for owner in [np.empty(1)]:
        return sys.getrefcount(owner)
    raise AssertionError


_IDLE = _idle_references()


class Native:
    """One part's plan with its tape and buffers."""

    def __init__(
        self, part: Part, constants: Mapping[str, Array], bits: int, native: Library, trace: bool, store: offload.Store | None = None
    ) -> None:  # fmt: skip
        self.part, self.native, self.window = part, native, store.window if store else 0
        self.plan = Plan(part, constants, bits, trace)
        if store and not trace:  # a trace wants each step whole
            offload.cut(self.plan, store.window)
        self.tape = Tape(self.plan, native)
        self._results = [_Recycled(part.type_of(o.value), store) for o in part.outputs]

    def bind(
        self, arena: NDArray[np.uint8], arguments: list[Array], spent: Collection[str] = ()
    ) -> tuple[NDArray[np.uint64], list[Array], list[Array]]:
        """(addresses of the buffers, the buffers, outputs): fresh ones, or those inputs of the kinds `spent` that they may lie over."""
        own = _alone(arguments) if spent else []
        over = {o: arguments[i] for o, i in self.plan.over.items() if self.part.inputs[i].kind in spent and own[i]}
        outputs = [over[o] if o in over else results.take() for o, results in enumerate(self._results)]
        buffers: list[Array] = [arena, self.tape.constants, *arguments, *outputs]
        return np.array([b.ctypes.data for b in buffers], np.uint64), buffers, outputs

    def run(self, bases: NDArray[np.uint64], buffers: list[Array], threads: int) -> None:
        """All steps; mapped buffers a window at a time."""
        for part in self.windows(buffers):
            self.native.run(self.tape.words, self.tape.marks[part.start], self.tape.marks[part.stop], bases, threads)
            for buffer in part.touched:
                offload.release(buffers[buffer])

    def windows(self, buffers: list[Array]) -> list[offload.Window]:
        mapped = [at for at, buffer in enumerate(buffers) if offload.mapping(buffer) is not None] if self.window else []
        if not mapped:
            return [offload.Window(0, len(self.plan.steps), ())]
        return offload.windows(self.plan, self.tape, mapped, self.window)


def _alone(arrays: Sequence[Array]) -> list[bool]:
    """Which of C-contiguous arrays may be written without changing another."""
    spans = sorted((a.ctypes.data, a.ctypes.data + a.nbytes, at) for at, a in enumerate(arrays))
    alone = [bool(a.flags.writeable) for a in arrays]
    reach = widest = 0
    for start, stop, at in spans:
        if start < reach:
            alone[at] = alone[widest] = False
        if stop > reach:
            reach, widest = stop, at
    return alone


class Cpu:
    """Runs the parts of one program (`micro`, `update`) with `threads` native threads. Safe to share between threads, one run at a time.
    With an `effort` (assay.exact.recompute) values of a micro-batch are made again rather than kept: less memory, the same bits.
    Parts of a run that are large run by slices of about `slices` bytes (assay.exact.slices; 0: as they are), of a trace, too.
    With a `store` (assay.exact.offload) results are mapped files, and only its window of what is mapped is in memory at a time."""

    def __init__(
        self, program: Program, threads: int = 1, effort: int = 0, store: offload.Store | None = None, slices: int = SLICE
    ) -> None:  # fmt: skip
        self.threads, self._store = threads, store
        self._bits = program.gemm_bits
        written = {"micro": recompute.written(program.micro, effort, slices), "update": recompute.written(program.update, 0)}
        self._parts = {name: again.part for name, again in written.items()}
        self._sliced = {name: sliced(part, slices) for name, part in self._parts.items()}
        self._first = {name: again.first for name, again in written.items()}
        self._constants = {c.name: np.frombuffer(c.data, reference.NUMPY[c.type.dtype]).reshape(c.type.shape) for c in program.constants}
        for name, part in self._parts.items():
            for at, node in enumerate(part.nodes):
                if node.op not in NATIVE_OPERATORS:
                    raise ProgramError(f"{name} node {at}: this engine has no operator {node.op!r}")
        self._library = library()
        self._plans: dict[tuple[str, bool], Native] = {}
        self._arena = aligned(0)
        self._lock = threading.Lock()

    @property
    def route(self) -> str:
        return "numpy" if self._library is None else "native"

    def _arguments(self, part: Part, inputs: Inputs) -> list[Array]:
        found = (np.asarray((self._constants if i.kind == "constant" else inputs[i.kind])[i.name]) for i in part.inputs)
        return [np.require(a, a.dtype.newbyteorder("<"), ("C", "A")) for a in found]

    def _planned(self, part: str, trace: bool, native: Library) -> Native:
        key = (part, trace)
        if key not in self._plans:
            self._plans[key] = Native(self._sliced[part].part, self._constants, self._bits, native, trace, self._store)
        if self._plans[key].tape.arena > self._arena.nbytes:
            self._arena = aligned(0)  # gone before the larger one is made
            self._arena = aligned(self._plans[key].tape.arena)
        return self._plans[key]

    def run(self, part: str, inputs: Inputs, spent: Collection[str] = ()) -> dict[str, Array]:
        """Outputs of a part by name, as arrays of their own. Inputs of the kinds `spent` (state, acc) are the caller's no more: an
        output may lie where the input of the same entry did, and nobody may read these inputs again, whatever comes of the run."""
        p = self._sliced[part].part
        arguments = self._arguments(p, inputs)
        if self._library is None:
            return numpy_route.run(p, arguments, self._bits)
        with self._lock:
            native = self._planned(part, False, self._library)
            bases, buffers, outputs = native.bind(self._arena, arguments, spent)
            native.run(bases, buffers, self.threads)
        return {o.name: array for o, array in zip(p.outputs, outputs, strict=True)}

    def trace(self, part: str, inputs: Inputs) -> tuple[dict[str, Array], list[Digest]]:
        """The same outputs, and the tensor root of the result of every node of the program, in its order."""
        p, first = self._parts[part], self._first[part]
        arguments = self._arguments(p, inputs)
        roots: dict[int, Digest] = {}
        if self._library is None:

            def see(node: int, result: Array) -> None:
                if first[node]:
                    roots[node] = hashing.tensor_root(result)

            return numpy_route.run(p, arguments, self._bits, see), list(roots.values())
        with self._lock:
            native = self._planned(part, True, self._library)
            bases, buffers, outputs = native.bind(self._arena, arguments)
            done = 0
            seen = Seen(p, self.threads)
            of = {made: (node, n) for node, makers in enumerate(self._sliced[part].makers) for n, made in enumerate(makers) if first[node]}
            ends = {window.stop: window.touched for window in native.windows(buffers) if window.touched}
            for at, ready in enumerate(native.plan.ready):
                if ready > done:
                    self._library.run(native.tape.words, native.tape.marks[done], native.tape.marks[ready], bases, self.threads)
                    for end in range(done + 1, ready + 1):
                        for buffer in ends.get(end, ()):
                            offload.release(buffers[buffer])
                    done = ready
                if at in of:
                    node, piece = of[at]
                    v = native.plan.views[len(p.inputs) + at]
                    buffer, offset = native.tape.place(v.root)
                    result = strided(buffers[buffer], offset, v, reference.NUMPY[v.dtype])
                    last = piece == len(self._sliced[part].makers[node]) - 1
                    if (root := seen.root(v, result) if last and not piece else seen.piece(node, piece, v, result)) is not None:
                        roots[node] = root
            self._library.run(native.tape.words, native.tape.marks[done], len(native.tape.words), bases, self.threads)
        return {o.name: array for o, array in zip(p.outputs, outputs, strict=True)}, [roots[node] for node in sorted(roots)]
