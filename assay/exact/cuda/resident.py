"""A training that stays on a CUDA device: state and accumulator keep their places there, and a link is one graph, its end's roots included.

A step is what assay.execute says: the accumulator is cleared, M micro-batches are added to it, the update writes the next state, where
the plan allows it over the one before (Plan.over). Only batches, counters, the schedule's row and roots cross to the host, and what is asked for.

A product that fails its checksum costs no state. Micro-batches leave the state alone, so that the step's are made again from the first; an
update that has products puts its results beside the state, and they take their places once the checksums are right. What fails
again raises HardwareFault, and roots of a link are given away only when all its checksums were right.

Where the device has no room for all of the state, entries that micro-batches do not read lie on the host, and the update goes through them
(away.py). An update that ends in any error after it began to write over the state leaves nothing that could be gone on with: all but `put` is
refused then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

from assay.exact import faults
from assay.exact.cuda.away import Apart, Away
from assay.exact.cuda.device import Buffer, DeviceError, Graph, Launch
from assay.exact.cuda.parts import Parts
from assay.exact.cuda.rooms import Array, Room, Tensors, fitting, fresh
from assay.exact.cuda.tape import Tape
from assay.exact.cuda.trees import Trees, work_bytes
from assay.exact.hashing import headed_as
from assay.exact.offload import Store
from assay.exact.steps import MULTIPLY
from assay.exact.table import TensorType
from assay.ids import Digest

Roots = dict[str, Digest]
"""Tensor root of each entry."""
Work = Callable[[], object]


class Resident:
    """One job's training on one device; entries `apart` of the state on the host. What it gives of its state lies in the `store`, if there is one.
    Raises ProgramError where a part cannot be planned, MemoryError where it does not fit, OSError where a store has no room."""

    def __init__(self, parts: Parts, apart: Apart | None = None, store: Store | None = None) -> None:
        self._parts, self._device = parts, parts.device
        self.program = p = parts.program
        self._empty = store.zeros if store else fresh
        names = apart.names if apart else ()

        def room(types: Mapping[str, TensorType]) -> Room:
            return Room(self._device, types)

        self._state = room({name: t for name, t in p.state.items() if name not in names})
        self._away = Away(parts, apart, self._state) if apart else None
        tapes = {name: parts.tape(name) for name in (("micro",) if apart else parts.parts)}
        update = tapes["update"].plan.steps if "update" in tapes else ()
        self._multiplies = self._away.multiplies if self._away else any(step.name in MULTIPLY for step in update)
        """Whether an update begins with what may have to be made again."""
        beside = ("update",) if self._multiplies else ()
        self._over: dict[str, Mapping[int, int]] = {name: {} if name in beside else tape.plan.over for name, tape in tapes.items()}
        scalar, counter = TensorType(dtype="f32", shape=()), TensorType(dtype="i64", shape=())
        self._acc, self._frozen, self._batch = room(p.accumulator), room(p.frozen), room(p.batch)
        self._scalars, self._counters = room(dict.fromkeys(p.scalars, scalar)), room({"step": counter, "micro": counter})
        self._beside = {name: room(self._beside_of(name)) for name in tapes}
        runs: list[Tape | Away] = [*tapes.values(), *([self._away] if self._away else [])]
        self._arena = self._device.allocate(max(1, *(of.arena for of in runs)))
        self._scratch = self._device.allocate(max(1, *(of.scratch for of in runs)))
        sizes = [[t.bytes for t in room.types.values()] for room in (self._state, self._acc)]
        self._hashes = self._device.allocate(max(1, *map(work_bytes, sizes), self._away.hashing if self._away else 0))
        self._trees = {room: self._trees_of(room) for room in (self._state, self._acc)}
        self._held: list[Buffer] = []
        self._launches = {name: self._bound(name) for name in tapes}
        if self._away:
            rooms = {"acc": self._acc, "frozen": self._frozen, "scalar": self._scalars, "counter": self._counters}
            self._away.bind(rooms, self._arena.address, self._scratch.address, self._hashes)
        self._graphs: dict[str, Graph] = {}
        self._torn = False

    def _beside_of(self, name: str) -> dict[str, TensorType]:
        """The results of a part that do not lie over what they replace."""
        part = self._parts.parts[name]
        return {o.name: part.type_of(o.value) for at, o in enumerate(part.outputs) if at not in self._over[name]}

    def _trees_of(self, room: Room) -> Trees | None:
        tensors = [(room.address(name), t.bytes) for name, t in room.types.items()]
        return Trees(self._device, self._parts.kernels, tensors, self._hashes) if tensors else None

    @property
    def memory(self) -> int:
        """Bytes of tensors, arena and scratch memory on the device."""
        rooms = [self._state, self._frozen, self._acc, self._scalars, self._batch, self._counters, *self._beside.values()]
        away = self._away.memory if self._away else 0
        return sum(room.size for room in rooms) + self._arena.size + self._scratch.size + self._hashes.size + away

    @property
    def host(self) -> int:
        """Bytes of this machine's memory that the state takes."""
        return self._away.shelf.bytes if self._away else 0

    @property
    def crossing(self) -> int:
        """Bytes of the state that go to the device in a step, and as many that come back."""
        return self._away.shelf.size if self._away else 0

    @property
    def launches(self) -> dict[str, int]:
        """Of each part, without the roots of what stays on the device."""
        own = {name: len(launches) for name, launches in self._launches.items()}
        return own | ({"update": self._away.launches} if self._away else {})

    # ---- what crosses ----------------------------------------------------------------------------------------------------

    def put(self, state: Tensors, frozen: Tensors | None = None) -> None:
        """The state before the next step, and the tensors that no step changes. Raises BadTensors."""
        for name, t in self.program.state.items():
            fitting(name, state.get(name), t)  # before anything is written over
        self._torn = True
        self._state.put(state)
        if self._away:
            self._away.shelf.put(state)
        self._frozen.put(frozen or {})
        self._parts.faults()  # those of others are theirs
        self._torn = False

    def _whole(self) -> None:
        if self._torn:
            raise DeviceError("an update of this training broke off: its state is half of one step and half of the next, and has to be put anew")

    def state(self) -> dict[str, Array]:
        self._whole()
        found = self._state.get(None, self._empty)
        if self._away:
            found |= {name: self._away.shelf.get(name, self._empty) for name in self._away.types}
        return {name: found[name] for name in self.program.state}

    def accumulator(self, *names: str) -> dict[str, Array]:
        """Those entries, or all."""
        return self._acc.get(names or None, self._empty)

    def roots(self) -> Roots:
        """Of the state. (Of entries on the host they are made there.)"""
        self._whole()
        found = self._rooted(self._state)
        return found | {name: self._away.shelf.root(name) for name in self._away.types} if self._away else found

    def accumulator_roots(self) -> Roots:
        return self._rooted(self._acc)

    def _rooted(self, room: Room) -> Roots:
        self._hash(room)
        return self._read(room)

    def _hash(self, room: Room) -> None:
        for launch in trees.launches if (trees := self._trees[room]) else ():
            self._device.launch(launch)

    def _read(self, room: Room) -> Roots:
        """What was hashed last."""
        chunks = trees.roots() if (trees := self._trees[room]) else []
        return {name: headed_as(t.dtype, t.shape, root) for (name, t), root in zip(room.types.items(), chunks, strict=True)}

    # ---- links -----------------------------------------------------------------------------------------------------------

    def micros(self, number: int, count: int, batch: Callable[[int], Tensors], rooted: bool = True) -> list[Roots]:
        """Begins step `number` and adds its first `count` micro-batches; the accumulator's roots after each, if asked for. Asked twice for a batch
        where a product is made again. Raises BadTensors, HardwareFault."""
        roots: list[Roots] = []
        self._whole()

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
        self._whole()
        self._count(number, self.program.micro_batches)
        self._scalars.put(scalars)
        if self._away:
            self._away.update(self._recorded, self._begins)
            self._replay("end", lambda: [*self._away.end(), *self._end()] if self._away else [])
        elif self._multiplies:
            self._begins(lambda: self._replay("update", lambda: self._run("update")))
            self._replay("end", self._end)
        else:
            self._begins(lambda: self._replay("update", lambda: [*self._run("update"), *self._end()]))
        found = self._read(self._state) | (self._away.roots() if self._away else {})
        self._torn = False
        return {name: found[name] for name in self.program.state}

    def _begins(self, work: Callable[[], None]) -> None:
        """The first part of an update, twice where it may be; after it, or with it, the state is written over."""
        if self._multiplies:
            faults.twice(work, self._parts.faults)
        self._torn = True
        if not self._multiplies:
            work()

    def step(self, number: int, batch: Callable[[int], Tensors], scalars: Tensors) -> tuple[list[Roots], Roots]:
        """A whole step: the accumulator's roots after each micro-batch, and the state's. Raises BadTensors, HardwareFault."""
        return self.micros(number, self.program.micro_batches, batch), self.update(number, scalars)

    def _count(self, number: int, m: int) -> None:
        self._counters.put({"step": np.array(number % (1 << 64), np.uint64).view(np.int64), "micro": np.array(m, np.int64)})

    def _replay(self, name: str, work: Callable[[], list[Work]]) -> None:
        """Recorded when it is done first."""
        if name not in self._graphs:
            self._graphs[name] = self._recorded(work())
        self._graphs[name].replay()

    def _recorded(self, todo: Iterable[Work]) -> Graph:
        """All that it needs is on the device before."""
        with self._device.record() as recording:
            for do in todo:
                do()
        return recording.graph

    def _micro(self, first: bool, rooted: bool) -> list[Work]:
        begins = self._begin() if first else []
        ends: list[Work] = [partial(self._hash, self._acc)] if rooted else []
        return [*begins, *self._run("micro"), *self._take("micro", self._acc), *ends]

    def _end(self) -> list[Work]:
        return [*(self._take("update", self._state) if "update" in self._beside else []), partial(self._hash, self._state)]

    def _begin(self) -> list[Work]:
        """Clears the accumulator; an entry with the name of a state's entry starts as that."""
        work: list[Work] = []
        if self._acc.size:
            work.append(partial(self._device.launch, self._parts.tape("micro").zeros(self._acc.buffer.address, self._acc.size)))
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

    def _take(self, name: str, into: Room) -> list[Work]:
        """What lies beside takes its places."""
        beside = self._beside[name]
        return [partial(self._device.copy, into.address(o), beside.address(o), t.bytes) for o, t in beside.types.items()]
