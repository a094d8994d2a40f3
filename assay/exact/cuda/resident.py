"""A training that stays on a CUDA device: state, accumulator and batches keep their places there, and a whole step is one graph.

A step is what assay.execute says: the accumulator is cleared, M micro-batches are added to it, the update writes the next state, where
the plan allows it over the one before (Plan.over). Only batches, counters, the schedule's row and, when asked for, roots cross to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import faults, reference
from assay.exact.cuda import tape
from assay.exact.cuda.device import Buffer, Device, Graph
from assay.exact.cuda.engine import constants_of, seen_by
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.product import Products
from assay.exact.cuda.tape import Tape
from assay.exact.cuda.trees import Trees, work_bytes
from assay.exact.hashing import headed_as
from assay.exact.plan import Plan
from assay.exact.table import TensorType
from assay.ids import Digest
from assay.program import Part, Program

Array = NDArray[Any]
Tensors = Mapping[str, Array]
ALIGN = 256


class _Room:
    """Tensors side by side in one buffer."""

    def __init__(self, device: Device, types: Mapping[str, TensorType]) -> None:
        self._device, self.types = device, dict(types)
        self.at: dict[str, int] = {}
        end = 0
        for name, t in self.types.items():
            self.at[name] = end
            end += -(-t.bytes // ALIGN) * ALIGN
        self.size = end
        self.buffer: Buffer = device.allocate(max(1, end))

    def address(self, name: str) -> int:
        return self.buffer.address + self.at[name]

    def put(self, tensors: Tensors) -> None:
        for name, t in self.types.items():
            array = np.asarray(tensors[name])
            if array.shape != t.shape or array.dtype.newbyteorder("<") != reference.NUMPY[t.dtype]:
                raise ValueError(f"{name!r} is {array.dtype}{list(array.shape)}, the program takes {t}")
            self._device.upload(self.address(name), np.require(array, reference.NUMPY[t.dtype], "C"))

    def get(self) -> dict[str, Array]:
        out = {}
        for name, t in self.types.items():
            out[name] = np.empty(t.shape, reference.NUMPY[t.dtype])
            self._device.download(self.address(name), out[name])
        return out


class Resident:
    """One job's training on one device. Raises ProgramError where a part cannot be planned, MemoryError where it does not fit."""

    def __init__(self, program: Program, device: Device, kernels: Kernels | None = None, products: tape.Products | None = None) -> None:
        self.program, self._device = program, device
        self._kernels = kernels or Kernels(device)
        constants = constants_of(program)
        products = products or Products(device)
        self._faults = seen_by(device, products)
        plans = {name: Plan(part, constants, program.gemm_bits) for name, part in self._parts().items()}
        self._tapes = {name: Tape(plan, device, self._kernels, products) for name, plan in plans.items()}
        self._plans = plans
        self._state, self._frozen = _Room(device, program.state), _Room(device, program.frozen)
        self._acc = _Room(device, program.accumulator)
        counters = {"step": TensorType(dtype="i64", shape=()), "micro": TensorType(dtype="i64", shape=())}
        self._batches = [_Room(device, program.batch) for _ in range(program.micro_batches)]
        self._counters = [_Room(device, counters) for _ in range(program.micro_batches + 1)]
        self._scalars = _Room(device, {name: TensorType(dtype="f32", shape=()) for name in program.scalars})
        self._results = {name: _Room(device, self._beside(name)) for name in plans}
        tapes = self._tapes.values()
        self._arena = device.allocate(max(1, *(t.arena for t in tapes)))
        self._scratch = device.allocate(max(1, *(t.scratch for t in tapes)))
        self._step: Graph | None = None
        self._lost = False
        sizes = [t.bytes for t in program.state.values()]
        tensors = [(self._state.address(name), t.bytes) for name, t in program.state.items()]
        self._trees = Trees(device, self._kernels, tensors, device.allocate(max(1, work_bytes(sizes))))

    def _parts(self) -> dict[str, Part]:
        return {"micro": self.program.micro, "update": self.program.update}

    def _beside(self, name: str) -> dict[str, TensorType]:
        """The results of a part that cannot lie over what they replace."""
        part, over = self._parts()[name], self._plans[name].over
        return {o.name: part.type_of(o.value) for at, o in enumerate(part.outputs) if at not in over}

    @property
    def memory(self) -> int:
        """Bytes of tensors, arena and scratch memory on the device."""
        rooms = [self._state, self._frozen, self._acc, self._scalars, *self._batches, *self._counters, *self._results.values()]
        return sum(room.size for room in rooms) + self._arena.size + self._scratch.size

    def put(self, state: Tensors, frozen: Tensors | None = None) -> None:
        """The state before the next step, and the tensors that no step changes."""
        self._state.put(state)
        self._frozen.put(frozen or {})
        self._faults()
        self._lost = False

    def state(self) -> dict[str, Array]:
        """Raises HardwareFault."""
        self._sound()
        return self._state.get()

    def step(self, number: int, batches: Sequence[Tensors], scalars: Tensors) -> None:
        """Trains one step. The device may still be at it when this returns."""
        if len(batches) != self.program.micro_batches:
            raise ValueError(f"a step has {self.program.micro_batches} micro-batches, not {len(batches)}")
        self._scalars.put(scalars)
        for room, batch in zip(self._batches, batches, strict=True):
            room.put(batch)
        for m, room in enumerate(self._counters):
            values = {"step": number % (1 << 64), "micro": m}
            room.put({name: np.array(value, np.uint64).view(np.int64) for name, value in values.items()})
        if self._step is None:
            work = self._work()  # all that it needs is on the device before anything is recorded
            with self._device.record() as recording:
                for do in work:
                    do()
            self._step = recording.graph
        self._step.replay()

    def _sound(self) -> None:
        """Raises HardwareFault where a product of a step has failed its checksum: the state, which is written in place, is lost, and nothing of it
        may be committed. (An engine that keeps the state before a link computes the link anew: engine.py.)"""
        if found := self._faults():
            faults.seen(found)
            self._lost = True
        if self._lost:
            raise faults.HardwareFault

    def roots(self) -> dict[str, Digest]:
        """Tensor root of each entry of the state. Raises HardwareFault."""
        self._sound()
        for launch in self._trees.launches:
            self._device.launch(launch)
        named = zip(self.program.state.items(), self._trees.roots(), strict=True)
        return {name: headed_as(t.dtype, t.shape, chunks) for (name, t), chunks in named}

    def _work(self) -> list[Callable[[], None]]:
        """Everything that a step does on the device, in order."""
        work: list[Callable[[], None]] = []
        if self._acc.size:
            work.append(partial(self._device.launch, self._tapes["update"].zeros(self._acc.buffer.address, self._acc.size)))
        for name, t in self._acc.types.items():
            if name in self._state.types:
                work.append(partial(self._device.copy, self._acc.address(name), self._state.address(name), t.bytes))
        for m in range(self.program.micro_batches):
            work += self._part("micro", m, self._acc)
        return work + self._part("update", self.program.micro_batches, self._state)

    def _part(self, name: str, m: int, into: _Room) -> list[Callable[[], None]]:
        part, plan, results = self._parts()[name], self._plans[name], self._results[name]
        rooms = {"state": self._state, "acc": self._acc, "frozen": self._frozen, "scalar": self._scalars, "counter": self._counters[m]}
        if name == "micro":
            rooms["batch"] = self._batches[m]
        inputs = [0 if i.kind == "constant" else rooms[i.kind].address(i.name) for i in part.inputs]
        outputs = [inputs[plan.over[at]] if at in plan.over else results.address(o.name) for at, o in enumerate(part.outputs)]
        bases = {"arena": [self._arena.address], "input": inputs, "output": outputs}
        work: list[Callable[[], None]] = [partial(self._device.launch, launch) for launch in self._tapes[name].bind(bases, self._scratch.address)]
        return work + [partial(self._device.copy, into.address(r), results.address(r), t.bytes) for r, t in results.types.items()]
