"""The memory that a program takes, known before it runs: what a node's limit is compared with.

`needed` is an upper bound for one Executor that runs the links of one job one after the other, in place or not, or traced, with the
inputs and results of the link that is run: states, accumulators, micro-batch and frozen tensors; the arena and constants of each plan;
packed operands, tables and registers of the native threads (`assay_scratch`, whose sizes are read off the tape as the C code reads
them); what hashing the stages takes. It makes the plans that a run would make, so it knows what fusion and the order of steps hold, and how the
arena is cut up; `effort` is what the run makes again to save memory (assay.exact.recompute), `slices` the size of those by which a run goes
(assay.exact.slices). With a `window`, states, accumulators and results lie in files (assay.exact.offload): what is in memory of them counts,
and the largest tensor, which is hashed whole. It does not count the interpreter, its objects (programs, plans), nor the schedule and shards on
disk, nor the values of a disputed link (assay.work).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.native.build import Library, library
from assay.exact.numpy_route import last_uses
from assay.exact.offload import WINDOW, cut, most_held
from assay.exact.plan import ALIGN, Plan
from assay.exact.recompute import EFFORTS, written
from assay.exact.regions import SLICE
from assay.exact.slices import Sliced, sliced
from assay.exact.table import OPS, Kind, TensorType
from assay.exact.tape import Tape
from assay.program import Part, Program, cost

PAGE = 4096
FOLDING = 8
"""Bytes that an operator of the reference takes at most for each byte of its operands and result: int64 and f64 in place of f32, each in
two forms at a time (tests/exact/test_memory.py measures whole runs)."""
NODE = 48
"""Bytes of a hash tree for each chunk of CHUNK bytes (sha256.c)."""
CHUNK = 1024
PLANES, SHORT_BITS = 3, 15
"""Planes of an operand of more bits than SHORT_BITS (gemm.h)."""
MAX_THREADS = 64
"""Of pool.c."""

OBJECT = 512
"""For an array beside its elements, and what Python keeps to find it."""
CALL = 8
"""Such objects that a run makes besides its inputs and outputs."""

Slots = dict[str, int]


class Fit(NamedTuple):
    """What is made again (assay.exact.recompute), the bytes of memory that a run then needs at most, and those of mapped files (assay.exact.offload)
    and of the states that a segment writes, with the window that is in memory of them; none where the state is in memory."""

    effort: int
    bytes: int
    disk: int = 0
    window: int = 0


def fitting(program: Program, threads: int, limit: int, disk: int = 0) -> Fit:
    """How to run the program within `limit` bytes: as it is, or with as little arithmetic done twice as will do, or with the state in files
    that take at most `disk` bytes (0: never). Where nothing fits, what needs least. Raises ProgramError where a part cannot be planned."""
    least = Fit(0, needed(program, threads))
    if least.bytes <= limit:
        return least
    work = {effort: cost(written(program.micro, effort).part).flops for effort in EFFORTS[1:]}
    efforts = sorted(work, key=work.__getitem__)
    files, window = on_disk(program), max(PAGE, min(WINDOW, limit // 8))
    ways = [(effort, 0, 0) for effort in efforts]
    ways += [(effort, files, window) for effort in (0, *efforts)] if 0 < files <= disk and library() is not None else []
    for effort, taken, shown in ways:
        found = Fit(effort, needed(program, threads, effort, shown), taken, shown)
        if found.bytes <= limit:
            return found
        least = min(least, found, key=lambda fit: fit.bytes)
    return least


def on_disk(program: Program) -> int:
    """Bytes of files of a training whose state is mapped: two states and accumulators that a link reads and makes, and three states that a
    segment keeps (assay.segment)."""
    return 5 * _bytes(program.state.values()) + 2 * _bytes(program.accumulator.values())


def needed(program: Program, threads: int = 1, effort: int = 0, window: int = 0, slices: int = SLICE) -> int:
    """Bytes, at most, when `effort` says what is made again, and `slices` how large slices are; with a `window`, of a state in files, on the
    native route. Raises ProgramError where a part cannot be planned."""
    native = library()
    written_again = (written(program.micro, effort, slices).part, program.update)
    parts = tuple(sliced(part, slices) for part in written_again)
    state = [program.state, program.accumulator]
    held = [program.batch, program.frozen] if window else [*state, program.batch, program.frozen]
    own = sum(_bytes(types.values()) for types in held) + sum(len(c.data) for c in program.constants)
    micro, update = (_bytes(part.type_of(o.value) for o in part.outputs) for part in (program.micro, program.update))
    # Results of a link, beside what it was given; not in place, an accumulator is kept for the next one, and so are its zeros.
    results = 0 if window else 2 * micro + update
    results += sum(OBJECT * (CALL + len((*part.inputs, *part.outputs))) for part in (program.micro, program.update))
    if native is None:
        return own + results + max(_in_numpy(part) for part in (*written_again, *(again.part for again in parts)))
    constants = {c.name: np.frombuffer(c.data, reference.NUMPY[c.type.dtype]).reshape(c.type.shape) for c in program.constants}
    bits, threads = program.gemm_bits, min(threads, MAX_THREADS)
    if window:
        largest = max((t.bytes for types in state for t in types.values()), default=0)
        results += largest + NODE * (largest // CHUNK + 3)
    return own + results + max(_planned(parts, constants, bits, trace, threads, native, window) for trace in (False, True))


def beside_device(program: Program, kept: int, files: bool) -> int:
    """Bytes of this machine's memory, at most, while a training stays on a device that has `kept` bytes of its own here (page-locked memory): with
    a state on its way in or out, or what a link begins with, whole, unless these lie in files; of these one tensor."""
    types = [program.state, program.accumulator]
    passing = max((t.bytes for each in types for t in each.values()), default=0) if files else sum(_bytes(each.values()) for each in types)
    own = sum(_bytes(each.values()) for each in (program.batch, program.frozen))
    return kept + own + passing + OBJECT * sum(len(each) for each in types)


def planned(parts: Sequence[Part], program: Program, threads: int = 1) -> int:
    """Of parts of a program that are run one after the other: arena, constants and what native threads take; in NumPy, all that they take."""
    native = library()
    if native is None:
        return max((_in_numpy(part) for part in parts), default=0)
    constants = {c.name: np.frombuffer(c.data, reference.NUMPY[c.type.dtype]).reshape(c.type.shape) for c in program.constants}
    return _planned([sliced(part, 0) for part in parts], constants, program.gemm_bits, False, min(threads, MAX_THREADS), native, 0)


def _bytes(types: Any) -> int:
    return sum(t.bytes for t in types)


def _planned(
    parts: Sequence[Sliced], constants: Mapping[str, NDArray[Any]], bits: int, trace: bool, threads: int, native: Library, window: int
) -> int:  # fmt: skip
    """Arena, constants, scratch and hashing of both parts' plans, and what is in memory of mapped files."""
    arena = kept = folding = hashing = shown = 0
    own: Slots = {}
    other: Slots = {}
    for part, makers in parts:
        plan = Plan(part, constants, bits, trace)
        if window and not trace:
            cut(plan, window)
        tape = Tape(plan, native)
        if window:
            shown = max(shown, most_held(plan, tape, window))
        arena = max(arena, tape.arena + ALIGN)
        kept += tape.constants.nbytes + ALIGN + sum(array.nbytes for array in plan.constants) + tape.words.nbytes
        folding = max(folding, FOLDING * plan.folding)
        _scratch(plan, tape, threads, native.tile, own, other)
        if trace:
            each = (_hashed(node.type, plan.views[len(part.inputs) + at].contiguous) for at, node in enumerate(part.nodes))
            hashing = max(hashing, max(each, default=0) + _in_slices(part, makers))
    scratch = sum(map(_slot, own.values())) + (threads - 1) * sum(map(_slot, other.values()))
    return kept + max(folding, arena + scratch + hashing) + shown


def _hashed(t: TensorType, contiguous: bool) -> int:
    return (0 if contiguous else t.bytes) + NODE * (t.bytes // CHUNK + 3)


def _in_slices(part: Part, makers: Sequence[tuple[int, ...]]) -> int:
    """Hashes of the chunks of what is made slice by slice, from the first to the last slice, and two forms of a slice more."""
    change = [0] * (len(part.nodes) + 1)
    piece = 0
    for made in makers:
        if len(made) > 1:
            whole = sum(part.nodes[at].type.bytes for at in made)
            held = OBJECT + NODE * (whole // CHUNK + 2 + len(made))
            change[made[0]] += held
            change[made[-1] + 1] -= held
            piece = max(piece, *(part.nodes[at].type.bytes for at in made))
    return 2 * piece + max(accumulate(change))


def _slot(size: int) -> int:
    """Bytes of a slot whose largest request was `size` (assay_scratch in pool.c)."""
    return (size + size // 4 + PAGE - 1) // PAGE * PAGE


def _scratch(plan: Plan, tape: Tape, threads: int, tile: tuple[int, int], own: Slots, each: Slots) -> None:
    """Largest request of each slot, of the thread that runs the tape, and of each other one."""

    def ask(slot: str, size: int, all_threads: bool) -> None:
        own[slot] = max(own.get(slot, 0), size)
        if all_threads:
            each[slot] = max(each.get(slot, 0), size)

    for at, step in enumerate(plan.steps):
        words: list[int] = tape.words[tape.marks[at] + 2 : tape.marks[at + 1]].tolist()
        match step.name:
            case "map":
                ask("registers", words[5], True)
            case "sum" | "amax":
                walk = words[8 + 2 * words[7] :]
                ask("tables", 8 * prod(walk[1 : 1 + walk[0]]), False)
            case "scatter_add":
                ask("sum", 8 * words[7] * words[9], False)
            case "matmul":
                _product(words, threads, tile, ask)


def _product(words: list[int], threads: int, tile: tuple[int, int], ask: Any) -> None:
    """Sizes as in assay_matmul, one_product and multiply_part (gemm.c)."""
    bits, rank = words[6], words[7]
    products = prod(words[8 : 8 + rank])
    axes: list[int] = []
    at = 8 + 3 * rank
    for _ in range(4):
        axes.append(prod(words[at + 1 : at + 1 + words[at]]))
        at += 1 + 2 * words[at]
    m, k, n, _ = axes
    planes, pairs = (PLANES if bits > SHORT_BITS else 1), (k + 1) // 2
    block = 16 if bits == SHORT_BITS else 64
    blocks = -(-pairs // block)
    rows, columns = tile
    pa, pb = -(-m // rows), -(-n // columns)
    shared = threads > 1 and products >= 4 * threads
    ask("a", 4 * planes * pa * pairs * rows, shared)
    ask("b", 4 * planes * pb * pairs * columns, shared)
    side = pa * (4 * blocks + 8 * rows) + pb * (4 * blocks + 8 * columns) + 8 * planes * pa * pairs + 8 * planes * pb * columns
    ask("side", side, shared)
    ask("tables", 8 * (pa * rows + pb * columns + 8 + 2 * k), False)
    ask("check", 4 * pairs * (2 + 5 * planes), True)


def _in_numpy(part: Part) -> int:
    """Values from their node to their last use, a view's storage as long as the view; and what one operator takes for itself."""
    first = len(part.inputs)
    source = list(range(first))
    for at, node in enumerate(part.nodes):
        source.append(source[node.inputs[0]] if OPS[node.op].kind is Kind.MOVE and len(node.inputs) == 1 else first + at)
    views = [0] * len(source)
    for root in source:
        views[root] += 1
    live = most = 0
    for node, dying in zip(part.nodes, last_uses(part), strict=True):
        live += OBJECT + node.type.bytes  # a view may be a copy, too
        most = max(most, live + FOLDING * (node.type.bytes + _bytes(part.type_of(v) for v in node.inputs)))
        for value in dying:
            views[source[value]] -= 1
            live -= part.type_of(value).bytes if value >= first and source[value] != value else 0
            if not views[source[value]] and source[value] >= first:
                live -= part.type_of(source[value]).bytes
    return most
