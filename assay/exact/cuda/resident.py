"""A training that stays on a CUDA device: state and accumulator keep their places there, and a link is one graph, its end's roots included.

A step is what assay.execute says: the accumulator is cleared, M micro-batches are added to it, the update writes the next state, where
the plan allows it over the one before (Plan.over). Only batches, counters, the schedule's row and roots cross to the host, and what is asked for.

A product that fails its checksum costs no state. Micro-batches leave the state alone, so that the step's are made again from the first; an
update that has products puts its results beside the state, and they take their places once the checksums are right. What fails
again raises HardwareFault, and roots of a link are given away only when all its checksums were right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import faults, reference
from assay.exact.cuda.device import Buffer, Device, Graph, Launch
from assay.exact.cuda.parts import Parts
from assay.exact.cuda.trees import Trees, work_bytes
from assay.exact.hashing import BadTensors, headed_as
from assay.exact.table import TensorType
from assay.ids import Digest

Array = NDArray[Any]
Tensors = Mapping[str, Array]
Roots = dict[str, Digest]
"""Tensor root of each entry."""
ALIGN = 256
PACKED = 1 << 20
"""Bytes of a room up to which its tensors are uploaded as one piece."""
Work = Callable[[], object]


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
        """Raises BadTensors."""
        arrays = {name: self._fitting(name, tensors.get(name), t) for name, t in self.types.items()}
        if self.size > PACKED:
            for name, array in arrays.items():
                self._device.upload(self.address(name), array)
        elif self.size:
            packed = np.zeros(self.size, np.uint8)
            for name, array in arrays.items():
                packed[self.at[name] : self.at[name] + array.nbytes] = array.reshape(-1).view(np.uint8)
            self._device.upload(self.buffer.address, packed)

    @staticmethod
    def _fitting(name: str, array: Array | None, t: TensorType) -> Array:
        if array is None or array.shape != t.shape or array.dtype.newbyteorder("<") != reference.NUMPY[t.dtype]:
            found = "not there" if array is None else f"{array.dtype}{list(array.shape)}"
            raise BadTensors(f"{name!r} is {found}, the program takes {t}")
        return np.require(array, reference.NUMPY[t.dtype], "C")

    def get(self, names: Iterable[str] | None = None) -> dict[str, Array]:
        """All of them, or some."""
        out = {}
        for name in self.types if names is None else names:
            t = self.types[name]
            out[name] = np.empty(t.shape, reference.NUMPY[t.dtype])
            self._device.download(self.address(name), out[name])
        return out


class Resident:
    """One job's training on one device. Raises ProgramError where a part cannot be planned, MemoryError where it does not fit."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._device = parts, parts.device
        self.program = p = parts.program
        tapes = {name: parts.tape(name) for name in parts.parts}
        multiplies = any(step.name == "matmul" for step in tapes["update"].plan.steps)
        self._over: dict[str, Mapping[int, int]] = {"micro": tapes["micro"].plan.over, "update": {} if multiplies else tapes["update"].plan.over}
        self._update_multiplies = multiplies
        scalar, counter = TensorType(dtype="f32", shape=()), TensorType(dtype="i64", shape=())

        def room(types: Mapping[str, TensorType]) -> _Room:
            return _Room(self._device, types)

        self._state, self._acc, self._frozen, self._batch = room(p.state), room(p.accumulator), room(p.frozen), room(p.batch)
        self._scalars, self._counters = room(dict.fromkeys(p.scalars, scalar)), room({"step": counter, "micro": counter})
        self._beside = {name: room(self._beside_of(name)) for name in parts.parts}
        self._arena = self._device.allocate(max(1, *(tape.arena for tape in tapes.values())))
        self._scratch = self._device.allocate(max(1, *(tape.scratch for tape in tapes.values())))
        sizes = [[t.bytes for t in room.types.values()] for room in (self._state, self._acc)]
        self._hashes = self._device.allocate(max(1, *map(work_bytes, sizes)))
        self._trees = {room: self._trees_of(room) for room in (self._state, self._acc)}
        self._held: list[Buffer] = []
        self._launches = {name: self._bound(name) for name in parts.parts}
        self._graphs: dict[str, Graph] = {}

    def _beside_of(self, name: str) -> dict[str, TensorType]:
        """The results of a part that do not lie over what they replace."""
        part = self._parts.parts[name]
        return {o.name: part.type_of(o.value) for at, o in enumerate(part.outputs) if at not in self._over[name]}

    def _trees_of(self, room: _Room) -> Trees | None:
        tensors = [(room.address(name), t.bytes) for name, t in room.types.items()]
        return Trees(self._device, self._parts.kernels, tensors, self._hashes) if tensors else None

    @property
    def memory(self) -> int:
        """Bytes of tensors, arena and scratch memory on the device."""
        rooms = [self._state, self._frozen, self._acc, self._scalars, self._batch, self._counters, *self._beside.values()]
        return sum(room.size for room in rooms) + self._arena.size + self._scratch.size + self._hashes.size

    # ---- what crosses ----------------------------------------------------------------------------------------------------

    def put(self, state: Tensors, frozen: Tensors | None = None) -> None:
        """The state before the next step, and the tensors that no step changes. Raises BadTensors."""
        self._state.put(state)
        self._frozen.put(frozen or {})
        self._parts.faults()  # those of others are theirs

    def state(self) -> dict[str, Array]:
        return self._state.get()

    def accumulator(self, *names: str) -> dict[str, Array]:
        """Those entries, or all."""
        return self._acc.get(names or None)

    def roots(self) -> Roots:
        """Of the state."""
        return self._rooted(self._state)

    def accumulator_roots(self) -> Roots:
        return self._rooted(self._acc)

    def _rooted(self, room: _Room) -> Roots:
        self._hash(room)
        return self._read(room)

    def _hash(self, room: _Room) -> None:
        for launch in trees.launches if (trees := self._trees[room]) else ():
            self._device.launch(launch)

    def _read(self, room: _Room) -> Roots:
        """What was hashed last."""
        chunks = trees.roots() if (trees := self._trees[room]) else []
        return {name: headed_as(t.dtype, t.shape, root) for (name, t), root in zip(room.types.items(), chunks, strict=True)}

    # ---- links -----------------------------------------------------------------------------------------------------------

    def micros(self, number: int, count: int, batch: Callable[[int], Tensors], rooted: bool = True) -> list[Roots]:
        """Begins step `number` and adds its first `count` micro-batches; the accumulator's roots after each, if asked for. Asked twice for a batch
        where a product is made again. Raises BadTensors, HardwareFault."""
        roots: list[Roots] = []

        def all_of_them() -> None:
            roots.clear()
            for m in range(count):
                self._batch.put(batch(m))
                self._count(number, m)
                self._replay(f"{'next' if m else 'first'}{' rooted' * rooted}", partial(self._micro, m == 0, rooted))
                if rooted:
                    roots.append(self._read(self._acc))

        faults.twice(all_of_them, self._parts.faults)
        return roots

    def update(self, number: int, scalars: Tensors) -> Roots:
        """The state after step `number`, whose micro-batches are all in the accumulator: its roots. Raises HardwareFault."""
        self._count(number, self.program.micro_batches)
        self._scalars.put(scalars)
        if self._update_multiplies:
            faults.twice(lambda: self._replay("update", lambda: self._run("update")), self._parts.faults)
            self._replay("end", self._end)
        else:
            self._replay("update", lambda: [*self._run("update"), *self._end()])
        return self._read(self._state)

    def step(self, number: int, batch: Callable[[int], Tensors], scalars: Tensors) -> tuple[list[Roots], Roots]:
        """A whole step: the accumulator's roots after each micro-batch, and the state's. Raises BadTensors, HardwareFault."""
        return self.micros(number, self.program.micro_batches, batch), self.update(number, scalars)

    def _count(self, number: int, m: int) -> None:
        self._counters.put({"step": np.array(number % (1 << 64), np.uint64).view(np.int64), "micro": np.array(m, np.int64)})

    def _replay(self, name: str, work: Callable[[], list[Work]]) -> None:
        """Recorded when it is done first."""
        if name not in self._graphs:
            todo = work()  # all that it needs is on the device before anything is recorded
            with self._device.record() as recording:
                for do in todo:
                    do()
            self._graphs[name] = recording.graph
        self._graphs[name].replay()

    def _micro(self, first: bool, rooted: bool) -> list[Work]:
        begins = self._begin() if first else []
        ends: list[Work] = [partial(self._hash, self._acc)] if rooted else []
        return [*begins, *self._run("micro"), *self._take("micro", self._acc), *ends]

    def _end(self) -> list[Work]:
        return [*self._take("update", self._state), partial(self._hash, self._state)]

    def _begin(self) -> list[Work]:
        """Clears the accumulator; an entry with the name of a state's entry starts as that."""
        work: list[Work] = []
        if self._acc.size:
            work.append(partial(self._device.launch, self._parts.tape("update").zeros(self._acc.buffer.address, self._acc.size)))
        for name, t in self._acc.types.items():
            if name in self._state.types:
                work.append(partial(self._device.copy, self._acc.address(name), self._state.address(name), t.bytes))
        return work

    def _run(self, name: str) -> list[Work]:
        return [partial(self._device.launch, launch) for launch in self._launches[name]]

    def _bound(self, name: str) -> list[Launch]:
        """A part, its results where they belong or beside that."""
        part, over, beside = self._parts.parts[name], self._over[name], self._beside[name]
        rooms = {
            "state": self._state, "acc": self._acc, "frozen": self._frozen, "scalar": self._scalars, "counter": self._counters, "batch": self._batch,
        }  # fmt: skip
        inputs = [0 if i.kind == "constant" else rooms[i.kind].address(i.name) for i in part.inputs]
        outputs = [inputs[over[at]] if at in over else beside.address(o.name) for at, o in enumerate(part.outputs)]
        bases = {"arena": [self._arena.address], "input": inputs, "output": outputs}
        return self._parts.tape(name).bind(bases, self._scratch.address, self._held)

    def _take(self, name: str, into: _Room) -> list[Work]:
        """What lies beside takes its places."""
        beside = self._beside[name]
        return [partial(self._device.copy, into.address(o), beside.address(o), t.bytes) for o, t in beside.types.items()]
