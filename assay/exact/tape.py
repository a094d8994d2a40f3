"""A plan as the words that the native code runs (native/tape.c): one call for a whole part, no Python in between.

The buffers of a tape are numbered: 0 the arena, 1 the constants, then the part's inputs, then its outputs. The layout of each step's
words is said in the C file that reads them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.native.build import Library
from assay.exact.plan import ALIGN, Plan
from assay.exact.steps import Instruction, Step
from assay.exact.table import ITEM_BYTES
from assay.exact.views import View, merged

BLOCK = 1024
"""Elements of a MAP block (map.c)."""
DIRECT, SCALAR, STRIDED, LOOKED_UP = range(4)
SHORT = 16
"""Elements of the last dimension, below which a strided input is read through a table of offsets."""

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
        home, where, offset = self._plan.home(root)
        match home:
            case "arena":
                return 0, where + offset
            case "constant":
                return 1, self._offsets[where] + offset
            case "input":
                return 2 + where, offset
            case _:
                return self._first_output + where, offset

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
            inner = 0
            if how == STRIDED and dims[-1] < SHORT and len(dims) > 1:
                how = LOOKED_UP
                dims, strides, inner = looked_up(dims, strides)
            inputs += [*self._at(v), v.item, how, scratch, inner, scratch + BLOCK * v.item, len(dims), *dims, *strides]
            if how != DIRECT:
                scratch += BLOCK * v.item + (4 * BLOCK if inner else 0)
            slots[v] = len(slots)
        outputs: list[int] = []
        written: dict[int, int] = {}
        for v in step.writes:
            outputs += [*self._at(v), v.item]
            written[v.root] = len(slots) + len(written)
        first = len(slots) + len(written)
        kept, moves = self._moves(step, set(written))
        last = {name: at for at, i in enumerate(step.code) for name in i.operands}
        for at, results in moves.items():
            last |= {i.result: max(at, last.get(i.result, at)) for i in results}
        items = {i.result: ITEM_BYTES[i.dtype] for i in step.code}
        registers: list[int] = []
        idle: dict[int, list[int]] = {1: [], 4: [], 8: []}
        dying: dict[int, list[int]] = {}
        for at, i in enumerate(step.code):
            dying.setdefault(last.get(i.result, at), []).append(i.result)
        code: list[int] = []
        for at, i in enumerate(step.code):
            a, b, c = ([slots[name] for name in i.operands] * 3)[:3]
            if i.result in written and i.result not in kept:
                target = written[i.result]
            elif idle[items[i.result]]:
                target = idle[items[i.result]].pop()
            else:
                target = first + len(registers)
                registers.append(scratch)
                scratch += BLOCK * items[i.result]
            slots[i.result] = target
            code += [self._library.kernels[i.kernel], target, a, b, c]
            for done in moves.get(at, ()):
                move = "canon" if done.dtype == "f32" else f"copy_{items[done.result]}"
                code += [self._library.kernels[move], written[done.result], *[slots[done.result]] * 3]
            for name in dying.get(at, ()):
                if slots[name] >= first:
                    idle[items[name]].append(slots[name])
        n = step.writes[0].elements
        return [n, len(step.reads), len(step.writes), len(registers), len(code) // 5, scratch, *inputs, *outputs, *registers, *code]

    def _moves(self, step: Step, written: set[int]) -> tuple[set[int], dict[int, list[Instruction]]]:
        """Results that a register keeps before they are written (f32, whose NaNs become canonical on the way; what may lie over an
        input of the step), and after which instruction each is: not before the last one that reads that input."""
        kept: set[int] = set()
        moves: dict[int, list[Instruction]] = {}
        for at, i in enumerate(step.code):
            if i.result not in written:
                continue
            home, slot, _ = self._plan.home(i.result)
            entry = self._plan.over.get(slot) if home == "output" else None
            root = None if entry is None else self._plan.views[entry].root
            readers = [n for n, other in enumerate(step.code) if any(isinstance(v, View) and v.root == root for v in other.operands)]
            if readers or (i.dtype == "f32" and i.kernel not in _NO_NAN):
                kept.add(i.result)
                moves.setdefault(max([at, *readers]), []).append(i)
        return kept, moves

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
                return self._matmul(out, a, b, *step.extra)
        places = [word for v in (out, *step.reads) for word in self._at(v)]
        return [*places, *(x - (1 << 64) if x >> 63 > 0 else x for x in step.extra)]

    def _matmul(self, out: View, a: View, b: View, bits: int, rows: int, inner_a: int, inner_b: int, columns: int) -> list[int]:
        """`rows`, ...: how many of the last dimensions of an operand make up each of its two last axes."""
        at, bt = len(a.shape) - rows - inner_a, len(b.shape) - inner_b - columns
        batch, (steps_a, steps_b) = merged(a.shape[:at], a.strides[:at], b.strides[:bt])
        m, row = a.shape[at : at + rows], a.strides[at : at + rows]
        if (steps_b[0] == 0 and len(batch) == 1) or batch == [1]:
            # One second operand for all: the batch is just more rows.
            m, row, batch, steps_a, steps_b = (*batch, *m), (*steps_a, *row), [], [], []
        words = [*self._at(out), *self._at(a), *self._at(b), bits, len(batch), *batch, *steps_a, *steps_b]
        walks = ((m, row), *((v.shape[i:j], v.strides[i:j]) for v, i, j in ((a, at + rows, None), (b, bt, bt + inner_b), (b, bt + inner_b, None))))
        (m, row), ka, kb, n = walks
        for dims, strides in ((m, row), ka, n, kb):
            sizes, (steps,) = merged(dims, strides)
            words += [len(sizes), *sizes, *steps]
        return words


def looked_up(dims: list[int], strides: list[int]) -> tuple[list[int], list[int], int]:
    """The same walk, a dimension cut in two if need be, and how many of its last dimensions have at most BLOCK places in all."""
    at, left = len(dims), BLOCK
    while at and dims[at - 1] <= left:
        at -= 1
        left //= dims[at]
    if not at:
        return dims, strides, len(dims)
    n = dims[at - 1]
    part = max(d for d in range(1, left + 1) if n % d == 0)
    dims, strides = [*dims[: at - 1], n // part, part, *dims[at:]], [*strides[: at - 1], strides[at - 1] * part, strides[at - 1], *strides[at:]]
    return dims, strides, len(dims) - at


def aligned(size: int) -> NDArray[np.uint8]:
    """`size` bytes that start at a multiple of 64."""
    raw = np.empty(size + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + size]


def strided(buffer: NDArray[Any], offset: int, v: View, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A view as an array; `offset` is that of its root in `buffer` (bytes)."""
    flat = buffer.reshape(-1).view(np.uint8)
    return np.ndarray(v.shape, dtype, flat, offset + v.offset * v.item, [s * v.item for s in v.strides])
