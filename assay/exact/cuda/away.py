"""The part of a training's state that lies on the host, and the update that goes through it: group after group is brought, changed, hashed and
taken back (assay.exact.division), in two windows, so that transfers go on while the device computes.

The state on the host in the middle of an update is half of one step and half of the next. It is nobody's state then: if an update ends in an
error, whoever holds this refuses all but `put`. What is given out are copies.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from assay.exact.cuda.device import Buffer, DeviceError, Graph, Mark
from assay.exact.cuda.parts import Parts, constants_of
from assay.exact.cuda.rooms import Room
from assay.exact.cuda.shelf import Run, Shelf, Span
from assay.exact.cuda.tape import Tape
from assay.exact.cuda.trees import HASH, Piece, Trees, pads_on, work_bytes
from assay.exact.division import aligned, divided
from assay.exact.hashing import CHUNK, headed_as
from assay.exact.offload import Store, evenly, piece
from assay.exact.plan import Plan
from assay.exact.steps import MULTIPLY
from assay.exact.table import ITEM_BYTES, TensorType
from assay.ids import Digest
from assay.program import Part

WINDOW = 128 << 20
"""Bytes of a window, unless what has to be there at a time takes more. (A PCIe link of 50 GB/s moves them in 2.7 ms, a thousand times what it
takes to begin.)"""
Work = Callable[[], object]


class Apart(NamedTuple):
    """Entries of the state that lie on the host, bytes of each of two windows on the device, and where the host has them: in memory, or in a
    store's file."""

    names: tuple[str, ...]
    window: int = WINDOW
    store: Store | None = None


class _Step(NamedTuple):
    """What is done with a run while it is on the device."""

    part: Part
    tape: Tape
    run: Run | None
    """None: the head, which has none."""
    keeps: frozenset[str]
    """Entries whose new values may not take their places yet."""


class Away:
    """`own` are the entries that stay on the device. Raises ProgramError where the update cannot be planned, MemoryError, OSError."""

    def __init__(self, parts: Parts, apart: Apart, own: Room) -> None:
        self._device, self._kernels, self._own = parts.device, parts.kernels, own
        self.types = {name: parts.program.state[name] for name in apart.names}
        self._steps = parts.once((apart.names, apart.window), lambda: _planned(parts, apart, self.types))
        head = self._steps[0].tape.plan
        self.multiplies = any(step.name in MULTIPLY for step in head.steps)
        """Whether the head, before which nothing of the state is changed, has products that may have to be made again."""
        self._runs = [step.run for step in self._steps if step.run is not None]
        self.shelf = Shelf(parts.device, self.types, self._runs, apart.store)
        window = max(run.size for run in self._runs)
        self._windows = [self._device.allocate(window) for _ in range(min(2, len(self._runs)))]
        between = {o.name: self._steps[0].part.type_of(o.value) for o in self._steps[0].part.outputs if o.kind == "acc"}
        self._between = Room(self._device, between)
        self._up, self._down = self._device.lane(), self._device.lane()
        self.arena, self.scratch = (max(getattr(step.tape, what) for step in self._steps) for what in ("arena", "scratch"))
        self._beside = Room(self._device, {name: parts.program.state[name] for step in self._steps for name in self._set_aside(step)})
        grown = dict.fromkeys(span.name for run in self._runs for span in run.spans if not self._is_whole(span))
        self._grown = [(name, self.types[name].bytes) for name in grown]
        self._leaves = [self._device.allocate(HASH * -(-size // CHUNK)) for _, size in self._grown]
        sizes = [[self.types[span.name].bytes for span in run.spans if self._is_whole(span)] for run in self._runs]
        self.hashing = max(map(work_bytes, [*sizes, [size for _, size in self._grown]]))
        """Bytes of memory that `bind` wants for hashes."""
        self._held: list[Buffer] = []
        self._hashed: list[tuple[list[str], Trees]] = []
        self._todo: list[list[Work]] = []
        self._end: list[Work] = []
        self._graphs: list[Graph] = []
        self.launches = 0
        """Of one update, without the roots of what stays."""

    @property
    def memory(self) -> int:
        """Bytes on the device, without what `bind` is given."""
        buffers = [*self._windows, *self._leaves]
        return sum(buffer.size for buffer in buffers) + self._between.size + self._beside.size

    def _is_whole(self, span: Span) -> bool:
        return span.stop - span.start == self.types[span.name].bytes

    def _set_aside(self, step: _Step) -> list[str]:
        """Entries whose new values this step makes beside them: what replaces what is still read."""
        read = {i.name for i in step.part.inputs if i.kind == "state"}
        over = step.tape.plan.over
        outputs = [(at, o.name) for at, o in enumerate(step.part.outputs) if o.kind == "state"]
        return [name for at, name in outputs if name in step.keeps or (at not in over and name in read)]

    def bind(self, rooms: Mapping[str, Room], arena: int, scratch: int, hashes: Buffer) -> None:
        """`rooms` of each kind of inputs but the state's; addresses of memory that nothing else uses while an update runs."""
        rooms = {**rooms, "state": self._own, "batch": self._between}
        pads = pads_on(self._device)
        self._held.append(pads)
        leaves = dict(zip([name for name, _ in self._grown], self._leaves, strict=True))
        for step in self._steps:
            window, spans = self._window(step), step.run.spans if step.run else ()
            there = {span.name: window + span.at - span.start for span in spans}
            aside = set(self._set_aside(step))
            inputs = [0 if i.kind == "constant" else _address(rooms[i.kind], i.name, there if i.kind == "state" else {}) for i in step.part.inputs]
            outputs = [
                self._between.address(o.name) if o.kind == "acc"
                else self._beside.address(o.name) if o.name in aside
                else _address(self._own, o.name, there)
                for o in step.part.outputs
            ]  # fmt: skip
            launches = step.tape.bind({"arena": [arena], "input": inputs, "output": outputs}, scratch, self._held)
            todo: list[Work] = [partial(self._device.launch, launch) for launch in launches]
            todo += [partial(self._device.copy, there[name], self._beside.address(name), self.types[name].bytes) for name in aside & there.keys()]
            self._end += [self._taking(name) for name in sorted(aside - there.keys())]
            self.launches += len(launches)
            if step.run is not None:
                wholes = [span for span in spans if self._is_whole(span)]
                pieces = [
                    Piece(window + span.at, span.stop - span.start, leaves[span.name].address + HASH * (span.start // CHUNK), span.start // CHUNK)
                    for span in spans if not self._is_whole(span)
                ]  # fmt: skip
                tensors = [(window + span.at, span.stop) for span in wholes]
                todo += self._trees([span.name for span in wholes], Trees(self._device, self._kernels, tensors, hashes, (), pieces, pads))
            self._todo.append(todo)
        if self._grown:
            grown = [(leaves[name].address, size) for name, size in self._grown]
            self._end += self._trees([name for name, _ in self._grown], Trees(self._device, self._kernels, (), hashes, grown, (), pads))

    def _window(self, step: _Step) -> int:
        return 0 if step.run is None else self._windows[self._runs.index(step.run) % 2].address

    def _taking(self, name: str) -> Work:
        return partial(self._device.copy, self._own.address(name), self._beside.address(name), self._own.types[name].bytes)

    def _trees(self, names: list[str], trees: Trees) -> list[Work]:
        self._hashed.append((names, trees))
        self.launches += len(trees.launches)
        return [partial(self._device.launch, launch) for launch in trees.launches]

    # ---- an update ---------------------------------------------------------------------------------------------------------

    def update(self, recorded: Callable[[list[Work]], Graph], begins: Callable[[Callable[[], None]], None]) -> None:
        """`recorded` makes a graph; `begins` does the head, which if it multiplies writes over nothing of the state. What takes its place when all is
        done is `end`'s. Raises DeviceError, HardwareFault."""
        if not self._graphs:
            self._graphs = [recorded(todo) for todo in self._todo]
        self._ups: list[Mark] = []
        self._downs: list[Mark] = []
        try:
            for at in range(min(2, len(self._runs))):
                self._bring(at)
            begins(self._graphs[0].replay if self._todo[0] else lambda: None)
            for at in range(len(self._runs)):
                self._device.after(self._ups[at])
                self._graphs[at + 1].replay()
                self._fetch(at)
                if at + 2 < len(self._runs):
                    self._bring(at + 2)
            for at in range(max(0, len(self._runs) - 2), len(self._runs)):
                self._downs[at].wait()
                self.shelf.settle(at)
        except BaseException:
            for lane in (self._up, self._down):
                with contextlib.suppress(DeviceError):  # nothing may come or go any more when memory is given away
                    lane.mark().wait()
            raise

    def end(self) -> list[Work]:
        """What lies beside takes its places, and the trees of entries that came in pieces."""
        return self._end

    def _bring(self, at: int) -> None:
        if at >= 2:
            if self.shelf.staged:
                self._ups[at - 2].wait()
            self._up.after(self._downs[at - 2])
        self._up.upload(self._windows[at % 2].address, self.shelf.given(at))
        self._ups.append(self._up.mark())

    def _fetch(self, at: int) -> None:
        if at >= 2 and self.shelf.staged:
            self._downs[at - 2].wait()
            self.shelf.settle(at - 2)
        self._down.after(self._device.mark())
        self._down.download(self._windows[at % 2].address, self.shelf.wanted(at))
        self._downs.append(self._down.mark())

    def roots(self) -> dict[str, Digest]:
        """Of what came back last."""
        found: dict[str, Digest] = {}
        for names, trees in self._hashed:
            for name, root in zip(names, trees.roots(), strict=True):
                found[name] = headed_as(self.types[name].dtype, self.types[name].shape, root)
        return found


def _planned(parts: Parts, apart: Apart, types: Mapping[str, TensorType]) -> list[_Step]:
    """The head, then what is done with each run."""
    division = divided(parts.parts["update"], apart.names, apart.window)
    constants, bits = constants_of(parts.program), parts.program.gemm_bits

    def tape(plan: Plan) -> Tape:
        return Tape(plan, parts.device, parts.kernels, parts.products)

    head = tape(Plan(division.head, constants, bits))
    again = any(step.name in MULTIPLY for step in head.plan.steps)
    out = [_Step(division.head, head, None, frozenset(parts.program.state if again else division.later(-1)))]
    at = 0
    for k, group in enumerate(division.groups):
        keeps = frozenset(division.later(k))
        for spans, plan in _pieces(Plan(group.part, constants, bits), group.entries, types, apart.window):
            size = spans[-1].at + aligned(spans[-1].stop - spans[-1].start)
            out.append(_Step(group.part, tape(plan), Run(spans, at, size), keeps))
            at += size
    return out


def _address(room: Room, name: str, there: Mapping[str, int]) -> int:
    return there[name] if name in there else room.address(name)


def _pieces(plan: Plan, entries: Sequence[str], types: Mapping[str, TensorType], most: int) -> Iterator[tuple[tuple[Span, ...], Plan]]:
    """A group as it is, or, where its entries are larger than `most` bytes and its steps allow it, some elements of it at a time."""
    n = evenly(plan, entries) if sum(types[name].bytes for name in entries) > most else 0
    items = {name: ITEM_BYTES[types[name].dtype] for name in entries}
    share = max(CHUNK, most // sum(items.values()) // CHUNK * CHUNK)
    if n <= share:
        yield _spans({name: (0, types[name].bytes) for name in entries}), plan
        return
    for start in range(0, n, share):
        stop, some = min(n, start + share), copy.copy(plan)
        some.steps = [piece(step, start, stop) for step in plan.steps]
        yield _spans({name: (start * item, stop * item) for name, item in items.items()}), some


def _spans(pieces: Mapping[str, tuple[int, int]]) -> tuple[Span, ...]:
    out: list[Span] = []
    at = 0
    for name, (start, stop) in pieces.items():
        out.append(Span(name, start, stop, at))
        at += aligned(stop - start)
    return tuple(out)
