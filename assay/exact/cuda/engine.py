"""The exact engine on a CUDA device: the plan of a CPU's engine, its steps as launches, one graph for a part.

`Cuda` takes and gives arrays of the host, as `assay.exact.cpu.Cpu` does, with the same bits. Storages of a part (inputs, results, arena,
scratch) are allocated once, so that its graph can be replayed.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import faults, reference
from assay.exact.cpu import Inputs
from assay.exact.cuda import tape as tapes
from assay.exact.cuda.device import Device, Graph, Launch
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.parts import Parts
from assay.exact.cuda.resident import Resident
from assay.exact.cuda.tape import Tape
from assay.exact.cuda.traced import Traced
from assay.exact.table import TensorType
from assay.ids import Digest
from assay.program import Part, Program

Array = NDArray[Any]


class _Bound:
    """One part's plan on the device, with storages of its own."""

    def __init__(self, part: Part, tape: Tape, device: Device) -> None:
        self.part, self.plan, self.tape = part, tape.plan, tape
        arena, scratch = (device.allocate(max(1, size)) for size in (tape.arena, tape.scratch))
        self.inputs = [device.allocate(max(1, i.type.bytes)) for i in part.inputs]
        self.outputs = [device.allocate(max(1, part.type_of(o.value).bytes)) for o in part.outputs]
        self.bases = {"arena": [arena.address], "input": [b.address for b in self.inputs], "output": [b.address for b in self.outputs]}
        self.held = [arena, scratch]
        self.launches: list[Launch] = tape.bind(self.bases, scratch.address, self.held)
        self.graph: Graph | None = None
        self.traced: Traced | None = None


class Cuda:
    """Runs the parts of one program (`micro`, `update`) on a device. Safe to share between threads, one run at a time. Raises ProgramError for
    an operator that this engine does not have or a step that is too large for it. Which products and slices, and what `effort` is: parts.py."""

    route = "cuda"

    def __init__(
        self, program: Program, device: Device, kernels: Kernels | None = None, products: tapes.Products | None = None, slices: int = 0,
        effort: int = 0,
    ) -> None:  # fmt: skip
        self._device = device
        self._parts = Parts(program, device, kernels, products, slices, effort)
        self._bound: dict[tuple[str, bool], _Bound] = {}
        self._lock = threading.Lock()

    def resident(self) -> Resident:
        """A training of the program that stays on the device as long as somebody holds it; it shares the plans. Not for two threads at a time.
        Raises MemoryError."""
        return Resident(self._parts)

    def _planned(self, name: str, trace: bool) -> _Bound:
        key = name, trace
        if key not in self._bound:
            self._bound[key] = _Bound(self._parts.parts[name], self._parts.tape(name, trace), self._device)
        return self._bound[key]

    def prepare(self, trace: bool) -> None:
        """Plans both parts and allocates their storages, instead of when each is run, or traced, first."""
        with self._lock:
            for name in self._parts.parts:
                bound = self._planned(name, trace)
                if trace:
                    self._traced(name, bound)

    def _upload(self, bound: _Bound, inputs: Inputs) -> None:
        for i, buffer in zip(bound.part.inputs, bound.inputs, strict=True):
            if i.kind != "constant":
                array = np.asarray(inputs[i.kind][i.name])
                self._device.upload(buffer.address, np.require(array, array.dtype.newbyteorder("<"), "C"))

    def _results(self, bound: _Bound) -> dict[str, Array]:
        out = {}
        for o, buffer in zip(bound.part.outputs, bound.outputs, strict=True):
            out[o.name] = self._download(bound.part.type_of(o.value), buffer.address)
        return out

    def _download(self, t: TensorType, address: int) -> Array:
        array = np.empty(t.shape, reference.NUMPY[t.dtype])
        self._device.download(address, array)
        return array

    def run(self, part: str, inputs: Inputs, spent: Collection[str] = ()) -> dict[str, Array]:
        """Outputs of a part by name, as arrays of their own. (`spent` is for engines that can write over their inputs.)"""
        with self._lock:
            bound = self._planned(part, False)
            self._upload(bound, inputs)
            if bound.graph is None:
                with self._device.record() as recording:
                    for launch in bound.launches:
                        self._device.launch(launch)
                bound.graph = recording.graph
            faults.twice(bound.graph.replay, self._parts.faults)
            return self._results(bound)

    def trace(self, part: str, inputs: Inputs) -> tuple[dict[str, Array], list[Digest]]:
        """The same outputs, and the tensor root of every node's result, in program order."""
        with self._lock:
            bound = self._planned(part, True)
            self._upload(bound, inputs)
            traced = self._traced(part, bound)

            def all_stages() -> None:
                done = 0
                for ready, hashing in traced.stages:
                    self._launch(bound, done, ready)
                    for do in hashing:
                        do()
                    done = ready
                self._launch(bound, done, len(bound.plan.steps))

            faults.twice(all_stages, self._parts.faults)
            return self._results(bound), traced.roots()

    def _traced(self, name: str, bound: _Bound) -> Traced:
        if bound.traced is None:
            parts = self._parts
            part = getattr(parts.program, name)
            bound.traced = Traced(part, parts.traced[name], bound.tape, bound.bases, self._device, parts.kernels)
        return bound.traced

    def _launch(self, bound: _Bound, start: int, stop: int) -> None:
        """Steps start..stop-1."""
        for launch in bound.launches[bound.tape.marks[start] : bound.tape.marks[max(start, stop)]]:
            self._device.launch(launch)
