"""Tensors that lie in memory-mapped files instead of memory, and links that touch them a piece at a time.

A state of parameters and two moments is three times the model, an accumulator once more, and a link needs little of them at any moment. With
a Store they are mapped files. A part then runs in windows: some steps, which touch at most so many bytes of mapped tensors, and then these
pages are handed back (madvise, MADV_DONTNEED: of a shared mapping nothing is lost, what was written is in the file's cache, which the system
writes out and drops as it needs to). MAP steps are cut by elements, so that a window may be smaller than a tensor; what one REDUCE or
matrix product reads of a single tensor is not cut. It is the same plan with the same steps, so the bits are the same.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact.hashing import dtype_name
from assay.exact.plan import Plan
from assay.exact.reference import NUMPY
from assay.exact.steps import Instruction, Step
from assay.exact.table import TensorType
from assay.exact.tape import Tape
from assay.exact.views import View, whole_of

Array = NDArray[Any]
WINDOW = 64 << 20
"""Bytes of mapped tensors that a part has in memory at a time, unless said otherwise."""
STRIDE = 1 << 20
"""Elements that are copied into a file at a time."""


def mapping(array: Array) -> mmap.mmap | None:
    """The mapped file that an array lies in."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None


def release(array: Array) -> None:
    """Hands the memory of a mapped array back; nothing for others."""
    found = mapping(array)
    if found is not None and hasattr(mmap, "MADV_DONTNEED"):
        found.madvise(mmap.MADV_DONTNEED)


class Store:
    """The tensors of one training as unnamed files in `folder`, which are gone when they are not used any more. `window` is in bytes. Raises
    OSError where the disk has no room."""

    def __init__(self, folder: Path, window: int = WINDOW) -> None:
        self.folder, self.window = folder, window

    def zeros(self, t: TensorType) -> Array:
        with tempfile.TemporaryFile(dir=self.folder) as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, not a signal when it is written
                os.posix_fallocate(file.fileno(), 0, max(t.bytes, 1))
            else:
                file.truncate(max(t.bytes, 1))
            data = mmap.mmap(file.fileno(), max(t.bytes, 1))
        return np.frombuffer(data, NUMPY[t.dtype], t.elements).reshape(t.shape)

    def put(self, array: Array) -> Array:
        """The array's elements, mapped so that they may be written; the array itself if it is."""
        if mapping(array) is not None and array.flags.writeable:
            return array
        own = self.zeros(TensorType(dtype=dtype_name(array), shape=array.shape))
        flat, source = own.reshape(-1), np.asarray(array, order="C").reshape(-1)
        for start in range(0, len(flat), STRIDE):
            flat[start : start + STRIDE] = source[start : start + STRIDE]
            release(own)
        return own


class Window(NamedTuple):
    """Steps [start, stop) of a tape's marks, and the buffers that they touch."""

    start: int
    stop: int
    touched: tuple[int, ...]


def cut(plan: Plan, most: int) -> None:
    """Cuts the plan's MAP steps into pieces that touch at most `most` bytes of their operands and results, where these lie in order."""
    steps: list[Step] = []
    for step in plan.steps:
        steps += _pieces(step, most) if step.name == "map" else [step]
    plan.steps = steps


def _pieces(step: Step, most: int) -> list[Step]:
    n = step.writes[0].elements
    each = sum(v.item for v in (*step.reads, *step.writes))
    size = max(1, most // each)
    if n <= size or not all(v.single or (v.contiguous and v.elements == n) for v in step.reads):
        return [step]
    return [piece(step, start, min(n, start + size)) for start in range(0, n, size)]


def piece(step: Step, start: int, stop: int) -> Step:
    """Elements [start, stop) of a MAP step whose operands lie in order."""
    part: Mapping[View, View] = {v: v if v.single else _part(v, start, stop) for v in step.reads}
    code = tuple(Instruction(i.kernel, i.result, i.dtype, tuple(part[o] if isinstance(o, View) else o for o in i.operands)) for i in step.code)
    reads = tuple(dict.fromkeys(part[v] for v in step.reads))
    return Step(step.name, reads, tuple(_part(v, start, stop) for v in step.writes), code, step.extra)


def evenly(plan: Plan, apart: Collection[str]) -> int:
    """How many elements all steps of a part are over, if they may be run for some of these after the others: MAP steps that read what is written,
    and the entries `apart`, element by element. 0 if they may not."""
    n = plan.steps[0].writes[0].elements if plan.steps else 0
    entries = {plan.views[at].root for at, i in enumerate(plan.part.inputs) if i.kind == "state" and (i.name in apart or at in plan.over.values())}
    made = {v.root for step in plan.steps for v in step.writes}
    for step in plan.steps:
        if step.name != "map" or step.writes[0].elements != n:
            return 0
        for v in step.reads:
            if not (whole_of(v, n) if v.root in entries | made else v.single or (v.contiguous and v.elements == n)):
                return 0
    sizes = {i.type.elements for i in plan.part.inputs if i.kind == "state" and i.name in apart}
    sizes |= {plan.part.type_of(o.value).elements for o in plan.part.outputs if o.name in apart}
    replaced = {i.name for i in plan.part.inputs if i.kind == "state" and i.name in apart}
    beside = [o for at, o in enumerate(plan.part.outputs) if o.name in replaced and at not in plan.over]
    return n if sizes <= {n} and not beside else 0


def _part(v: View, start: int, stop: int) -> View:
    """Elements [start, stop) of a view that is in order."""
    return View(v.root, v.offset + start, (stop - start,), (1,), v.dtype)


def _touched(step: Step, tape: Tape, mapped: Collection[int]) -> dict[tuple[int, int, int], int]:
    """Bytes of what a step reads and writes of mapped buffers."""
    here = {(tape.place(v.root)[0], v.offset, v.elements): v.elements * v.item for v in (*step.reads, *step.writes)}
    return {key: size for key, size in here.items() if key[0] in mapped}


def most_held(plan: Plan, tape: Tape, most: int) -> int:
    """Bytes of inputs and outputs that a window of `most` bytes has in memory at most, if all but the micro-batch, frozen tensors and constants are
    mapped."""
    kinds = [i.kind for i in plan.part.inputs]
    mapped = {at for at in range(2, tape.buffers) if at - 2 >= len(kinds) or kinds[at - 2] in ("state", "acc")}
    each = [_touched(step, tape, mapped) for step in plan.steps]
    return max((min(max(most, sum(here.values())), sum(sum(h.values()) for h in each)) for here in each), default=0)


def windows(plan: Plan, tape: Tape, mapped: Sequence[int], most: int) -> list[Window]:
    """The steps of a tape in runs that touch at most `most` bytes of the buffers `mapped`, but for steps that touch more by themselves."""
    out: list[Window] = []
    start, held = 0, 0
    touched: set[int] = set()
    for at, step in enumerate(plan.steps):
        here = _touched(step, tape, mapped)
        size = sum(here.values())
        if held and held + size > most:
            out.append(Window(start, at, tuple(sorted(touched))))
            start, held, touched = at, 0, set()
        held += size
        touched |= {buffer for buffer, _, _ in here}
    out.append(Window(start, len(plan.steps), tuple(sorted(touched))))
    return out
