"""A rank on a device of its own, where everything stays: its pieces of state and accumulator from link to link, and within one what its stages
hand on and what exchanges make of it. Only what a link brings, roots and what is asked for cross to the host.

What is exchanged is made there, too: each stage's maxima and sums of what this rank has (sums.py), those of all ranks by the devices
together (between.py), and results. What lies between two meetings of all ranks is one graph, recorded when it is done first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from assay.exact import faults, reference
from assay.exact.cuda.device import Buffer, Device, Graph, Launch
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.plans import plan_for
from assay.exact.cuda.product import Products
from assay.exact.cuda.tape import THREADS, WAVES, Tape
from assay.exact.cuda.trees import pads_on
from assay.exact.ranks.between import Between
from assay.exact.ranks.exchanges import Comm, sizes_of
from assay.exact.ranks.lives import Lives, Pool, aligned
from assay.exact.ranks.places import Place
from assay.exact.ranks.roots import OnDevice, room_for, stretch
from assay.exact.ranks.split import Entry, Ranked, Stage, entries
from assay.exact.ranks.sums import Sums
from assay.exact.steps import MULTIPLY
from assay.exact.table import TensorType
from assay.program import Output, Part

Array = NDArray[Any]
Work = Callable[[], object]


class On(NamedTuple):
    """What a rank computes with."""

    device: Device
    kernels: Kernels
    products: Products
    constants: Mapping[str, Array]
    bits: int
    comm: Comm


class Stages:
    """The parts of a program on the device of rank `comm.rank`, planned and placed when they are made. Raises ProgramError for a stage that the
    device cannot run, MemoryError."""

    def __init__(self, on: On, forms: Mapping[str, Ranked]) -> None:
        self._on, self._device = on, on.device
        every = entries(forms.values())
        self.types = {entry: place.of(t, on.comm.rank) if place else t for entry, (t, place) in every.items()}
        self._rooms = {kind: _Room(on.device, {e: t for e, t in self.types.items() if e[0] == kind}) for kind in dict.fromkeys(k for k, _ in every)}
        planned = {name: _Planned(form, on, self._address) for name, form in forms.items()}
        placed = {name: made.pool.placed() for name, made in planned.items()}
        self._pool = on.device.allocate(max([1, *(size for _, size in placed.values())]))
        window = max((made.window for made in planned.values()), default=0)
        self._between = Between(on.device, on.kernels, on.comm, window) if window else None
        self._wrong = 0
        self._tables: list[Buffer] = []
        self._todo: dict[str, list[Work]] = {}
        for name, made in planned.items():
            line = _Line(on.device, self._faults)
            made.bind({at: self._pool.address + place for at, place in placed[name][0].items()}, line, self._between, self._tables)
            self._todo[name] = line.done()
        begins = _Line(on.device, self._faults)
        begins.add(self._beginning())
        self._begins = begins.done()
        self._trees, self._hashing = self._rooted(every)
        self._held = planned
        self._faults()

    def _address(self, entry: Entry) -> int:
        return self._rooms[entry[0]].address(entry)

    def _beginning(self) -> list[Work]:
        """Clears the accumulator; an entry with the name of a state's entry starts as that."""
        if "acc" not in self._rooms:
            return []
        room = self._rooms["acc"]
        n = room.buffer.size // 4
        grid = (max(1, min(-(-n // THREADS), WAVES * self._device.description.processors)), 1, 1)
        zeros = partial(self._device.launch, Launch(self._on.kernels["fill_4"], grid, (THREADS, 1, 1), (n, room.buffer.address, 0)))
        copies = [(e, ("state", e[1])) for e in room.types if ("state", e[1]) in self.types]
        return [zeros, *(partial(self._device.copy, self._address(to), self._address(of), self.types[to].bytes) for to, of in copies)]

    def _rooted(self, every: Mapping[Entry, tuple[TensorType, Place]]) -> tuple[dict[str, OnDevice], dict[str, list[Work]]]:
        """What hashes state and accumulator, by kind."""
        on = self._on
        kinds: list[str] = [kind for kind in ("acc", "state") if kind in self._rooms]
        own = {kind: [(self._address(e), stretch(*every[e], on.comm.rank)) for e in self._rooms[kind].types] for kind in kinds}
        room = on.device.allocate(max([1, *(room_for([piece for _, piece in pieces]) for pieces in own.values())]))
        pads = pads_on(on.device)
        trees = {kind: OnDevice(on.device, on.kernels, pieces, room, pads) for kind, pieces in own.items()}
        hashing = {}
        for kind, made in trees.items():
            line = _Line(on.device, self._faults)
            line.add(made.works)
            hashing[kind] = line.done()
        return trees, hashing

    def roots(self, kind: str) -> bytes:
        for do in self._hashing[kind]:
            do()
        return self._trees[kind].data()

    def put(self, entry: Entry, piece: Array) -> None:
        self._device.upload(self._address(entry), np.require(piece, reference.NUMPY[self.types[entry].dtype], "C"))

    def get(self, entry: Entry) -> Array:
        array = np.empty(self.types[entry].shape, reference.NUMPY[self.types[entry].dtype])
        self._device.download(self._address(entry), array)
        return array

    def begin(self) -> None:
        """An empty accumulator, for the state that is here."""
        for do in self._begins:
            do()

    def run(self, part: str) -> None:
        """A link, on what is here: its results take the places of what they replace. Raises HardwareFault, RankLost."""
        for do in self._todo[part]:
            do()

    def forget(self) -> None:
        """Nothing: places are kept."""

    def _faults(self) -> int:
        """Checksums that were wrong since this was asked last."""
        count = np.empty(1, np.uint64)
        self._device.download(self._on.products.faults.address, count)
        before, self._wrong = self._wrong, int(count[0])
        return self._wrong - before


class _Room:
    """Pieces side by side."""

    def __init__(self, device: Device, types: Mapping[Entry, TensorType]) -> None:
        self.types = dict(types)
        self._at: dict[Entry, int] = {}
        end = 0
        for entry, t in types.items():
            self._at[entry] = end
            end += aligned(t.bytes)
        self.buffer: Buffer = device.allocate(end)

    def address(self, entry: Entry) -> int:
        return self.buffer.address + self._at[entry]


class _Graphed:
    """Launches and copies, recorded when they are done first."""

    def __init__(self, device: Device, todo: Sequence[Work]) -> None:
        self._device, self._todo = device, todo
        self._graph: Graph | None = None

    def __call__(self) -> None:
        if self._graph is None:
            with self._device.record() as recording:
                for do in self._todo:
                    do()
            self._graph, self._todo = recording.graph, ()
        self._graph.replay()


class _Line:
    """What is done one after the other; what nobody has to look at in between is one graph. `wrong`: checksums since it was asked last."""

    def __init__(self, device: Device, wrong: Callable[[], int]) -> None:
        self._device, self._wrong = device, wrong
        self._items: list[Work] = []
        self._pending: list[Work] = []

    def add(self, works: Sequence[Work], checked: bool = False) -> None:
        """`checked`: they have products, and can be done again where one was wrong."""
        if not checked:
            self._pending += works
            return
        self.meet()
        self._items.append(partial(faults.twice, _Graphed(self._device, list(works)), self._wrong))

    def meet(self, call: Work | None = None) -> None:
        """Something that the host takes part in."""
        if self._pending:
            self._items.append(_Graphed(self._device, self._pending))
            self._pending = []
        if call is not None:
            self._items.append(call)

    def done(self) -> list[Work]:
        self.meet()
        return self._items


class _Local(NamedTuple):
    """A stage's own part; numbers are the pool's."""

    tape: Tape
    over: Mapping[int, int]
    """Result -> the value whose place it takes at once."""
    arena: int
    scratch: int
    multiplies: bool


class _Meeting(NamedTuple):
    """The exchanges of a stage."""

    sums: Sums
    tops: int
    totals: int
    scratch: int
    landing: Mapping[int, int]


class _Planned:
    """A part: what lies in which place of the `pool`. `entry` gives the addresses of what is kept."""

    def __init__(self, form: Ranked, on: On, entry: Callable[[Entry], int]) -> None:
        self._form, self._on, self._entry = form, on, entry
        self._lives = lives = Lives(form)
        self.pool = Pool()
        self._places: dict[tuple[int, int], int] = {}
        """(value, phase that makes it) -> number."""
        self._types = {at: place.of(i.type, on.comm.rank) if place else i.type for at, (i, place) in enumerate(form.inputs)}
        for stage in form.stages:
            self._types |= {v: stage.part.type_of(o.value) for v, o in zip(stage.gives, stage.part.outputs, strict=True)}
            self._types |= {e.result: e.whole for e in stage.exchanges}
        self._locals: dict[int, _Local] = {}
        self._meetings: dict[int, _Meeting] = {}
        for s, stage in enumerate(form.stages):
            if stage.gives:
                self._locals[s] = self._local(stage, 2 * s)
            if stage.exchanges:
                self._meetings[s] = self._meeting(stage, 2 * s + 1)
        moved = {one.value for one in lives.taken if one.value < len(form.inputs)}
        self._staged = {v: self.pool.add(lives.end, lives.end, self._types[v].bytes) for v in sorted(moved)}
        """Inputs that become other entries, all at the end."""
        self.window = max((meeting.sums.window for meeting in self._meetings.values()), default=0)

    def _make(self, value: int, phase: int) -> None:
        self._places[value, phase] = self.pool.add(phase, self._lives.until[value, phase], self._types[value].bytes)

    def _local(self, stage: Stage, phase: int) -> _Local:
        """Results lie over what they replace where the plan allows it and the stage is never done again."""
        lives, on = self._lives, self._on
        replaced = [lives.replaced(v) for v in stage.gives]
        meant = [i if i is not None and lives.last_read.get(i, 0) <= phase else None for i in replaced]
        outputs = [o if i is None else Output(kind="state", name=str(i), value=o.value) for o, i in zip(stage.part.outputs, meant, strict=True)]
        part = msgspec.structs.replace(stage.part, outputs=tuple(outputs))
        plan = plan_for(part, on.constants, on.bits, on.device.description, on.products)
        multiplies = any(step.name in MULTIPLY for step in plan.steps)
        tape = Tape(plan, on.device, on.kernels, on.products)
        over = {} if multiplies else {stage.gives[slot]: stage.takes[at] for slot, at in plan.over.items()}
        arena, scratch = (self.pool.add(phase, phase, size) for size in (tape.arena, tape.scratch))
        for v in stage.gives:
            if v not in over:
                self._make(v, phase)
        return _Local(tape, over, arena, scratch, multiplies)

    def _meeting(self, stage: Stage, phase: int) -> _Meeting:
        on = self._on
        own = [[self._types[v] for v in e.operands] for e in stage.exchanges]
        sums = Sums(on.device, on.kernels, on.products, stage.exchanges, own, on.bits, on.comm.size)
        for e in stage.exchanges:
            self._make(e.result, phase)
        tops, totals, scratch = (self.pool.add(phase, phase, size) for size in (4 * sums.tops, 8 * sums.totals, sums.scratch))
        return _Meeting(sums, tops, totals, scratch, {at: self.pool.add(phase, phase, size) for at, size in sums.landing.items()})

    def bind(self, pool: Mapping[int, int], line: _Line, between: Between | None, held: list[Buffer]) -> None:
        """All that is done, with the addresses of the pool's places."""
        lives, form = self._lives, self._form
        where = {at: self._entry((i.kind, i.name)) for at, (i, _) in enumerate(form.inputs)}

        def take(phase: int) -> None:
            for value in self._staged if phase == lives.end else ():
                line.add([partial(self._on.device.copy, pool[self._staged[value]], where[value], self._types[value].bytes)])
                where[value] = pool[self._staged[value]]
            for one in lives.taken:
                if one.phase == phase and where[one.value] != self._entry(one.entry):
                    line.add([partial(self._on.device.copy, self._entry(one.entry), where[one.value], self._types[one.value].bytes)])

        for s, stage in enumerate(form.stages):
            if (local := self._locals.get(s)) is not None:
                made = {v: where[local.over[v]] if v in local.over else pool[self._places[v, 2 * s]] for v in stage.gives}
                bases = {"arena": [pool[local.arena]], "input": _inputs(stage.part, stage.takes, where), "output": [made[v] for v in stage.gives]}
                launches = local.tape.bind(bases, pool[local.scratch], held)
                line.add([partial(self._on.device.launch, launch) for launch in launches], local.multiplies)
                where |= made
            take(2 * s)
            if (meeting := self._meetings.get(s)) is not None:
                assert between is not None
                where |= {e.result: pool[self._places[e.result, 2 * s + 1]] for e in stage.exchanges}
                self._meet(stage, meeting, where, pool, line, between)
            take(2 * s + 1)
        take(lives.end)

    def _meet(self, stage: Stage, own: _Meeting, where: Mapping[int, int], pool: Mapping[int, int], line: _Line, between: Between) -> None:
        sums, tops, totals = own.sums, pool[own.tops], pool[own.totals]
        operands = [[where[v] for v in e.operands] for e in stage.exchanges]
        results = [where[e.result] for e in stage.exchanges]
        landing = {at: pool[number] for at, number in own.landing.items()}
        launches = sums.bind(operands, results, landing, tops, totals, pool[own.scratch])
        line.add(launches.tops)
        if sums.tops:
            line.meet(partial(between.maximum, tops, sums.tops))
        line.add(launches.sums, any(e.op == "matmul" for e in stage.exchanges))
        if sums.totals:
            line.meet(partial(between.total, totals, sums.totals))
        for at, e in enumerate(stage.exchanges):
            if e.op == "gather":
                line.meet(partial(between.gather, operands[at][0], landing.get(at, results[at]), sizes_of(e, self._on.comm.size)))
        line.add(launches.results)


def _inputs(part: Part, takes: Sequence[int], where: Mapping[int, int]) -> list[int]:
    """Addresses; constants, which come last, have their places already."""
    return [where[v] for v in takes] + [0] * (len(part.inputs) - len(takes))

