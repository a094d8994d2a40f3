"""Whether ranks run a program, and how it is cut up then: what a node asks before it gives a segment to a crew.

Ranks with a device each are for programs that one device does not hold, or for an owner who says so; ranks on processors share one memory,
gain none, and are for an owner who says so alone. What the cut costs in memory is known before: on a device as the engine's is
(assay.exact.cuda.ruler), in the host's by the bound below, which the pieces and the hub's frames make higher than one engine's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from assay.exact import engines, memory
from assay.exact.cuda import ruler
from assay.exact.cuda.device import Description
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.product import Products
from assay.exact.ranks.device import On, Stages
from assay.exact.ranks.places import BOTH, DATA, TENSOR, Layout
from assay.exact.ranks.rank import constants_of
from assay.exact.ranks.split import Ranked, Stage, forms
from assay.exact.ranks.wire import SocketComm
from assay.exact.recompute import EFFORTS
from assay.exact.table import TensorType
from assay.program import Program, ProgramError

log = logging.getLogger("assay.exact")
ORDER = (DATA, TENSOR, BOTH)
"""What is cut: micro-batches first, since that moves least where the state fits."""


class Cut(NamedTuple):
    """How ranks run a program, and what traces of it, which the process that leads them makes, make again (assay.exact.recompute)."""

    layout: Layout
    effort: int


def cut(program: Program, size: int, always: bool, threads: int, limit: int, effort: int = 0) -> Cut | None:
    """How `size` ranks would run a program within `limit` bytes of the host's memory, of which one engine would need `effort` (what is made again) at
    least; None where one engine is to run it."""
    try:
        opened = engines.opened()
        device = None if opened is None else opened.device.description
        room = 0 if opened is None else engines.room(opened)
        if not always and (device is None or ruler.fitting(program, device, room).bytes <= room):
            return None
        beside: dict[Layout, int] = {}
        for wanted in ORDER:
            every = [forms(program, wanted, rank, size) for rank in range(size)]
            cuts = any(place is not None for own in every for form in own.values() for _, place in form.inputs)
            if cuts and (device is None or all(on_device(program, own, rank, size, device) <= room for rank, own in enumerate(every))):
                beside[wanted] = of_ranks(program, every, threads, device is not None)
        for again in (e for e in EFFORTS if e >= effort and beside and min(beside.values()) < limit):
            needed = memory.needed(program, threads, again)
            if (found := next((wanted for wanted, bytes_ in beside.items() if bytes_ + needed <= limit), None)) is not None:
                return Cut(found, again)
    except (ProgramError, MemoryError) as error:
        log.warning("ranks do not run this program: %s", error)
        return None
    log.warning("ranks do not run this program: it does not fit them however it is cut")
    return None


def on_device(program: Program, own: Mapping[str, Ranked], rank: int, size: int, description: Description) -> int:
    """Bytes of its device's memory that rank `rank` of `size` takes, counted where they are allocated. Raises ProgramError."""
    counting = ruler.Ruler(description)
    on = On(counting, Kernels(counting), Products(counting), constants_of(program), program.gemm_bits, _Silent(rank, size))
    held = Stages(on, own)
    return counting.held if held else 0


def of_ranks(program: Program, every: Sequence[Mapping[str, Ranked]], threads: int, devices: bool) -> int:
    """Bytes of the host's memory, at most, beside what one engine needs with its traces: each rank's pieces, its exchanges with the hub's frames,
    and unless it has a device, where these stay, what its stages hand on and their plans."""
    total = 0
    for form in (form for own in every for form in own.values()):
        total += sum((place.of(i.type, 0) if place else i.type).bytes for i, place in form.inputs)
        total += max((_exchanged(stage) for stage in form.stages), default=0)
        if not devices:
            total += sum(_stage(stage) for stage in form.stages)
            total += memory.planned([stage.part for stage in form.stages if stage.gives], program, threads)
    return total


class _Silent(SocketComm):
    """Of a rank that is only counted."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def _bytes(types: Iterable[TensorType]) -> int:
    return sum(t.bytes for t in types)


def _stage(stage: Stage) -> int:
    """What it hands on: its outputs, which are kept for its next run, with a copy in order of what it takes, and results of its exchanges."""
    given = _bytes(i.type for i in stage.part.inputs)
    return given + _bytes(stage.part.type_of(o.value) for o in stage.part.outputs) + _bytes(e.whole for e in stage.exchanges)


def _exchanged(stage: Stage) -> int:
    """Int64 and f64 in several forms of operands and results (assay.exact.memory.FOLDING), here and at the hub."""
    made = {o.name: stage.part.type_of(o.value) for o in stage.part.outputs}
    operands = _bytes(made[str(v)] for e in stage.exchanges for v in e.operands if str(v) in made)
    return memory.FOLDING * (operands + 2 * _bytes(e.whole for e in stage.exchanges))
