"""A rank's stages on a device of its own: one after the other in the same memory, since what they hand on waits in the host's.

What they exchange is made there, too: each stage's maxima and sums of what this rank has (sums.py), those of all ranks by the devices
together (between.py), and results. So a device holds a stage, or its exchanges, at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import faults, reference
from assay.exact.cuda.device import Buffer, Device, Launch
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.product import ALIGN
from assay.exact.cuda.tape import Products, Tape
from assay.exact.plan import Plan
from assay.exact.ranks.between import Between
from assay.exact.ranks.exchanges import Comm, joined, sizes_of
from assay.exact.ranks.split import Ranked, Stage
from assay.exact.ranks.sums import Launches, Sums
from assay.exact.table import TensorType
from assay.program import Part

Array = NDArray[Any]


class _Exchanged(NamedTuple):
    """The exchanges of a stage, in their places."""

    sums: Sums
    launches: Launches
    operands: list[list[int]]
    brought: list[tuple[int, int]]
    """Operands that come from the host: (value, address)."""
    tops: int
    totals: int
    results: int


class Stages:
    """Stages that a device runs as rank `comm.rank`, planned and placed when they are made. Raises ProgramError for one that it cannot run,
    MemoryError."""

    def __init__(
        self, device: Device, kernels: Kernels, products: Products, forms: Sequence[Ranked], constants: Mapping[str, Array], bits: int, comm: Comm
    ) -> None:  # fmt: skip
        self._device, self._products, self._comm = device, products, comm
        stages = [(form, stage) for form in forms for stage in form.stages]
        parts = [stage.part for _, stage in stages if stage.gives]
        tapes = [Tape(Plan(part, constants, bits, rows=True), device, kernels, products) for part in parts]
        sums = {id(stage): _sums(form, stage, device, kernels, products, bits, comm) for form, stage in stages if stage.exchanges}
        given, made = ([_room(types) for types in each] for each in (map(_inputs, parts), map(_outputs, parts)))
        # While a stage's exchanges are made, its arena is idle, and so are its scratch memory and what it was given.
        sizes = [max([tape.arena for tape in tapes] + [_exchanged(stage, sums[id(stage)]) for _, stage in stages if stage.exchanges], default=0)]
        sizes += [max([tape.scratch for tape in tapes] + [own.scratch for own in sums.values()], default=0)]
        sizes += [max(given, default=0), max(made, default=0)]
        self._rooms = [device.allocate(max(1, size)) for size in sizes]
        arena, scratch, before, after = (room.address for room in self._rooms)
        self._tables: list[Buffer] = []
        self._placed: dict[int, tuple[list[int], list[int], list[Launch]]] = {}
        for part, tape in zip(parts, tapes, strict=True):
            inputs, outputs = _places(before, _inputs(part)), _places(after, _outputs(part))
            launches = tape.bind({"arena": [arena], "input": inputs, "output": outputs}, scratch, self._tables)
            self._placed[id(part)] = inputs, outputs, launches
        self._exchanges = {id(stage): self._bound(stage, sums[id(stage)], arena, scratch) for _, stage in stages if stage.exchanges}
        window = max((own.window for own in sums.values()), default=0)
        self._between = Between(device, kernels, comm, window) if sums else None
        self._held = tapes, list(forms)
        self._wrong = 0
        self._faults()

    def _bound(self, stage: Stage, sums: Sums, arena: int, scratch: int) -> _Exchanged:
        """In the arena: operands that are not where the stage made them, tops, totals, results."""
        there = dict(zip(stage.gives, self._placed[id(stage.part)][1], strict=True)) if stage.gives else {}
        brought: list[tuple[int, int]] = []
        operands: list[list[int]] = []
        for e, types in zip(sums.exchanges, sums.types, strict=True):
            operands.append([])
            for v, t in zip(e.operands, types, strict=True):
                if v not in there:
                    there[v] = arena
                    brought.append((v, arena))
                    arena += _aligned(t)
                operands[-1].append(there[v])
        tops = arena
        totals = tops + _up(4 * sums.tops)
        results = totals + _up(8 * sums.totals)
        return _Exchanged(sums, sums.bind(operands, tops, totals, results, scratch), operands, brought, tops, totals, results)

    def run(self, part: Part, arguments: Sequence[Array], unseen: Collection[int] = ()) -> list[Array | None]:
        """Outputs of a stage's part, from all its inputs but constants, which come last; those whose numbers are `unseen` stay on the device for
        its exchanges. Raises HardwareFault."""
        inputs, outputs, launches = self._placed[id(part)]
        for address, array in zip(inputs, arguments, strict=False):
            self._device.upload(address, array)

        def all_of_them() -> None:
            for launch in launches:
                self._device.launch(launch)

        faults.twice(all_of_them, self._faults)
        return [None if at in unseen else self._down(address, t) for at, (address, t) in enumerate(zip(outputs, _outputs(part), strict=True))]

    def exchange(self, stage: Stage, values: Mapping[int, Array]) -> list[Array]:
        """Results of a stage's exchanges, after its part has run; `values` are what the host has. Raises HardwareFault, RankLost."""
        own = self._exchanges[id(stage)]
        between, sums = self._between, own.sums
        assert between is not None
        for v, address in own.brought:
            self._device.upload(address, np.asarray(values[v], order="C"))
        for do in own.launches.tops:
            do()
        between.maximum(own.tops, sums.tops)

        def added() -> None:
            for do in own.launches.sums:
                do()

        faults.twice(added, self._faults)
        between.total(own.totals, sums.totals)
        for do in own.launches.results:
            do()
        results = []
        for e, operands, place in zip(sums.exchanges, own.operands, sums.results, strict=False):
            address = own.results + place
            if e.op != "gather":
                results.append(self._down(address, e.whole))
                continue
            sizes = sizes_of(e, self._comm.size)
            between.gather(operands[0], address, sizes)
            data = np.empty(sum(sizes), np.uint8)
            self._device.download(address, data)
            ends = list(accumulate(sizes, initial=0))
            results.append(joined(e, [data[start : start + size] for start, size in zip(ends, sizes, strict=False)]))
        return results

    def _down(self, address: int, t: TensorType) -> Array:
        array = np.empty(t.shape, reference.NUMPY[t.dtype])
        self._device.download(address, array)
        return array

    def _faults(self) -> int:
        """Checksums that were wrong since this was asked last."""
        count = np.empty(1, np.uint64)
        self._device.download(self._products.faults.address, count)
        before, self._wrong = self._wrong, int(count[0])
        return self._wrong - before


def _sums(form: Ranked, stage: Stage, device: Device, kernels: Kernels, products: Any, bits: int, comm: Comm) -> Sums:
    types = {at: place.of(i.type, comm.rank) if place else i.type for at, (i, place) in enumerate(form.inputs)}
    for other in form.stages:
        types |= {v: other.part.type_of(o.value) for v, o in zip(other.gives, other.part.outputs, strict=True)}
        types |= {e.result: e.whole for e in other.exchanges}
    own = [[types[v] for v in e.operands] for e in stage.exchanges]
    return Sums(device, kernels, products, stage.exchanges, own, bits, comm.size)


def _exchanged(stage: Stage, sums: Sums) -> int:
    """Bytes that `_bound` takes of the arena."""
    brought = {v: t for e, types in zip(sums.exchanges, sums.types, strict=True) for v, t in zip(e.operands, types, strict=True)}
    return sum(_aligned(t) for v, t in brought.items() if v not in stage.gives) + _up(4 * sums.tops) + _up(8 * sums.totals) + sums.results[-1]


def _inputs(part: Part) -> list[TensorType]:
    return [i.type for i in part.inputs]


def _outputs(part: Part) -> list[TensorType]:
    return [part.type_of(o.value) for o in part.outputs]


def _up(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _aligned(t: TensorType) -> int:
    return _up(max(t.bytes, 1))


def _room(types: Sequence[TensorType]) -> int:
    return sum(_aligned(t) for t in types)


def _places(start: int, types: Sequence[TensorType]) -> list[int]:
    """Addresses side by side."""
    return list(accumulate((_aligned(t) for t in types), initial=start))[:-1]
