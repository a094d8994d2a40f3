"""A plan as the words that the native code runs (native/tape.c): one call for a whole part, no Python in between.

The buffers of a tape are numbered: 0 the arena, 1 the constants, then the part's inputs, then its outputs. The layout of each step's
words is said in the C file that reads them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.native.build import Library
from assay.exact.plan import ALIGN, Plan, Step
from assay.exact.table import ITEM_BYTES
from assay.exact.views import View, merged

BLOCK = 1024
"""Elements of a MAP block (map.c)."""
DIRECT, SCALAR, STRIDED = range(3)
MASK = (1 << 64) - 1
_NO_NAN = ("i32_to_f32", "i64_to_f32", "u8_to_f32")


class Tape:
    """Words of a plan. `marks[i]` is where step i starts; `constants` the buffer of constants; `arena` the arena's size in bytes."""

    def __init__(self, plan: Plan, library: Library) -> None:
        self._plan, self._library = plan, library
        self._first_output = 2 + len(plan.part.inputs)
        self._offsets: list[int] = []
        at = 0
        for array in plan.constants:
            self._offsets.append(at)
            at += (array.nbytes + ALIGN - 1) // ALIGN * ALIGN
        self.constants = aligned(at)
        for offset, array in zip(self._offsets, plan.constants, strict=True):
            self.constants[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)
        self.arena = plan.arena
        self.buffers = self._first_output + len(plan.part.outputs)
        words: list[int] = []
        self.marks: list[int] = []
        for step in plan.steps:
            self.marks.append(len(words))
            body = self._map(step) if step.name == "map" else self._other(step)
            words += [library.steps[step.name], len(body), *body]
        self.marks.append(len(words))
        self.words = np.array(words, np.int64)

    def place(self, root: int) -> tuple[int, int]:
        """(buffer, byte offset) of a storage."""
        home, where = self._plan.homes[root]
        match home:
            case "arena":
                return 0, where
            case "constant":
                return 1, self._offsets[where]
            case "input":
                return 2 + where, 0
            case _:
                return self._first_output + where, 0

    def _at(self, v: View) -> list[int]:
        buffer, offset = self.place(v.root)
        return [buffer, offset + v.offset * v.item]

    def _map(self, step: Step) -> list[int]:
        slots: dict[int | View, int] = {}
        inputs: list[int] = []
        scratch = 0
        for v in step.reads:
            how = DIRECT if v.contiguous else SCALAR if v.single else STRIDED
            dims, (strides,) = merged(v.shape, v.strides)
            inputs += [*self._at(v), v.item, how, scratch, len(dims), *dims, *strides]
            if how != DIRECT:
                scratch += BLOCK * v.item
            slots[v] = len(slots)
        outputs: list[int] = []
        written: dict[int, int] = {}
        for v in step.writes:
            outputs += [*self._at(v), v.item]
            written[v.root] = len(slots) + len(written)
        first = len(slots) + len(written)
        last = {name: at for at, i in enumerate(step.code) for name in i.operands}
        items = {i.result: ITEM_BYTES[i.dtype] for i in step.code}
        registers: list[int] = []
        idle: dict[int, list[int]] = {1: [], 4: [], 8: []}
        code: list[int] = []
        for at, i in enumerate(step.code):
            a, b, c = ([slots[name] for name in i.operands] * 3)[:3]
            canonical = i.result in written and i.dtype == "f32" and i.kernel not in _NO_NAN
            if i.result in written and not canonical:
                target = written[i.result]
            elif idle[items[i.result]]:
                target = idle[items[i.result]].pop()
            else:
                target = first + len(registers)
                registers.append(scratch)
                scratch += BLOCK * items[i.result]
            slots[i.result] = target
            code += [self._library.kernels[i.kernel], target, a, b, c]
            if canonical:
                code += [self._library.kernels["canon"], written[i.result], target, target, target]
            for name in {name for name in (*i.operands, i.result) if last.get(name, at) == at}:
                if isinstance(name, int) and slots[name] >= first:
                    idle[items[name]].append(slots[name])
        n = step.writes[0].elements
        return [n, len(step.reads), len(step.writes), len(registers), len(code) // 5, scratch, *inputs, *outputs, *registers, *code]

    def _other(self, step: Step) -> list[int]:
        (out,) = step.writes
        match step.name:
            case "copy":
                (source,) = step.reads
                dims, (to, of) = merged(out.shape, out.strides, source.strides)
                return [*self._at(out), *self._at(source), out.item, len(dims), *dims, *to, *of]
            case "fill":
                bits = step.extra[0] & MASK
                return [*self._at(out), out.item, out.elements, bits - (1 << 64) if bits >> 63 else bits]
            case "matmul":
                a, b = step.reads
                return self._matmul(out, a, b, step.extra[0])
        places = [word for v in (out, *step.reads) for word in self._at(v)]
        return [*places, *(x - (1 << 64) if x >> 63 > 0 else x for x in step.extra)]

    def _matmul(self, out: View, a: View, b: View, bits: int) -> list[int]:
        m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
        batch, (steps_a, steps_b) = merged(a.shape[:-2], a.strides[:-2], b.strides[:-2])
        row = a.strides[-2]
        if len(batch) == 1 and (steps_b[0] == 0 or batch[0] == 1) and (batch[0] == 1 or m == 1 or steps_a[0] == m * row):
            # One second operand for all: the batch is just more rows.
            row, m, batch, steps_a, steps_b = (steps_a[0] if m == 1 else row), m * batch[0], [], [], []
        places = [*self._at(out), *self._at(a), *self._at(b)]
        return [*places, bits, m, k, n, row, a.strides[-1], b.strides[-1], b.strides[-2], len(batch), *batch, *steps_a, *steps_b]


def aligned(size: int) -> NDArray[np.uint8]:
    """`size` bytes that start at a multiple of 64."""
    raw = np.empty(size + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + size]


def strided(buffer: NDArray[Any], offset: int, v: View, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A view as an array; `offset` is that of its root in `buffer` (bytes)."""
    flat = buffer.reshape(-1).view(np.uint8)
    return np.ndarray(v.shape, dtype, flat, offset + v.offset * v.item, [s * v.item for s in v.strides])
