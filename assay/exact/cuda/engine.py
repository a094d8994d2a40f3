"""The exact engine on a CUDA device: the plan of a CPU's engine, its steps as launches, one graph for a part.

`Cuda` takes and gives arrays of the host, as `assay.exact.cpu.Cpu` does, with the same bits. Storages of a part (inputs, results, arena,
scratch) are allocated once, so that its graph can be replayed.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import faults, hashing, reference
from assay.exact.cpu import Inputs
from assay.exact.cuda import tape as tapes
from assay.exact.cuda.device import Device, Graph, Launch
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.parts import Parts
from assay.exact.cuda.resident import Resident
from assay.exact.cuda.tape import Tape
from assay.exact.cuda.trees import Trees, work_bytes
from assay.exact.plan import ALIGN
from assay.exact.table import TensorType
from assay.exact.views import View
from assay.ids import Digest
from assay.program import Part, Program

Array = NDArray[Any]


class _Stage(NamedTuple):
    """Results that are there after the same step."""

    ready: int
    """Steps that have run then."""
    pack: list[Launch]
    """Copies in C order of those that are not."""
    trees: Trees


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
        self.stages: list[_Stage] = []
        """With `trace`."""


class Cuda:
    """Runs the parts of one program (`micro`, `update`) on a device. Safe to share between threads, one run at a time. Raises ProgramError for
    an operator that this engine does not have or a step that is too large for it. Which products: parts.py."""

    route = "cuda"

    def __init__(self, program: Program, device: Device, kernels: Kernels | None = None, products: tapes.Products | None = None) -> None:
        self._device = device
        self._parts = Parts(program, device, kernels, products)
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
                    bound.stages = bound.stages or self._stages(bound)

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
            if not bound.stages:
                bound.stages = self._stages(bound)

            def all_stages() -> None:
                done = 0
                for stage in bound.stages:
                    self._launch(bound, done, stage.ready)
                    for launch in (*stage.pack, *stage.trees.launches):
                        self._device.launch(launch)
                    done = stage.ready
                self._launch(bound, done, len(bound.plan.steps))

            faults.twice(all_stages, self._parts.faults)
            chunks = [chunk for stage in bound.stages for chunk in stage.trees.roots()]
            types = (node.type for node in bound.part.nodes)
            return self._results(bound), [hashing.headed_as(t.dtype, t.shape, chunk) for t, chunk in zip(types, chunks, strict=True)]

    def _stages(self, bound: _Bound) -> list[_Stage]:
        """The results of all nodes, in the order of their steps."""
        first = len(bound.part.inputs)
        after: dict[int, list[View]] = {}
        for at, ready in enumerate(bound.plan.ready):
            after.setdefault(ready, []).append(bound.plan.views[first + at])
        strewn = [sum(_aligned(v) for v in views if not v.contiguous) for views in after.values()]
        packed = self._device.allocate(max(strewn, default=0) + 1)
        shared = self._device.allocate(max((work_bytes([_bytes(v) for v in views]) for views in after.values()), default=0) + 1)
        bound.held.append(packed)
        stages = []
        for ready, views in after.items():
            launches: list[Launch] = []
            tensors = []
            to = packed.address
            for v in views:
                address = bound.tape.place(v, bound.bases)
                if not v.contiguous:
                    launches += bound.tape.pack(v, address, to)
                    address, to = to, to + _aligned(v)
                tensors.append((address, _bytes(v)))
            stages.append(_Stage(ready, launches, Trees(self._device, self._parts.kernels, tensors, shared)))
        return stages

    def _launch(self, bound: _Bound, start: int, stop: int) -> None:
        """Steps start..stop-1."""
        for launch in bound.launches[bound.tape.marks[start] : bound.tape.marks[max(start, stop)]]:
            self._device.launch(launch)


def _bytes(v: View) -> int:
    return v.elements * v.item


def _aligned(v: View) -> int:
    return -(-_bytes(v) // ALIGN) * ALIGN
