"""The steps of a plan (assay.exact.plan), and how each operator becomes steps: the words that native code reads are made from these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple, Protocol

from assay.exact import reference
from assay.exact.table import OPS, Kind
from assay.exact.views import Folded, View, c_strides, integer, ints, permuted, sliced, walk
from assay.program import Node


class Instruction(NamedTuple):
    """One operator of a fused step: kernel, root and dtype of the result, operands (the root of an earlier result, or a view that is read)."""

    kernel: str
    result: int
    dtype: str
    operands: tuple[int | View, ...]


class Step(NamedTuple):
    name: str
    reads: tuple[View, ...]
    writes: tuple[View, ...]
    code: tuple[Instruction, ...] = ()
    extra: tuple[int, ...] = ()
    parts: tuple[Step, ...] = ()
    """Of steps that are one (assay.exact.rows, assay.exact.attention)."""


MULTIPLY = ("matmul", "attend")
"""Steps that have matrix products, and so checksums, in them."""


def touching(steps: Sequence[Step], storage: Callable[[int], int]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Of each storage, places of the steps that read it, and of those that write it. `storage` is that of a root."""
    found: tuple[dict[int, list[int]], dict[int, list[int]]] = {}, {}
    for at, step in enumerate(steps):
        for of, views in zip(found, (step.reads, step.writes), strict=True):
            for root in {storage(v.root) for v in views}:
                of.setdefault(root, []).append(at)
    return found


class Maker(Protocol):
    """What lowering an operator asks of the plan that it becomes a part of."""

    gemm_bits: int
    folded: dict[int, Folded]

    def step(self, name: str, reads: Sequence[View], write: View, *extra: int) -> None: ...

    def packed(self, v: View) -> View: ...

    def place(self, v: View, out: View) -> None: ...


def kernel(node: Node, operands: Sequence[View]) -> str:
    """Name of the native kernel of a MAP node (map.c)."""
    source, target = operands[-1].dtype, node.type.dtype
    if node.op == "select":
        return f"select_{operands[-1].item}"
    if node.op == "cast":
        if source == target:
            return f"copy_{operands[0].item}"
        return f"{'u8' if source == 'bool' else source}_to_{target}"
    return f"{node.op}_{source}"


# ---- the other operators as steps --------------------------------------------------------------------------------------------


def _matmul(p: Maker, node: Node, out: View, operands: list[View]) -> None:
    ranks = [len(dims) for v in node.inputs for dims, _ in (p.folded[v].axes[-2:] if v in p.folded else (((1,), (1,)),) * 2)]
    p.step("matmul", operands, out, p.gemm_bits, *ranks)


def _reduction(p: Maker, node: Node, out: View, operands: list[View]) -> None:
    (x,), axes = operands, ints(node.attrs, "axes")
    count = prod(x.shape[a] for a in axes)
    places = walk(x, axes)
    if places is None:
        kept = [a for a in range(len(x.shape)) if a not in axes]
        x = p.packed(permuted(x, [*kept, *axes]))
        places = walk(x, range(len(kept), len(x.shape)))
    assert places is not None
    p.step(node.op, [x], out, reference.sum_bits(count) if x.dtype == "f32" else 0, *places)


def _scatter_add(p: Maker, node: Node, out: View, operands: list[View]) -> None:
    index, values = (p.packed(v) for v in operands)
    n = index.shape[0]
    p.step("scatter_add", [index, values], out, index.item, integer(node.attrs, "rows"), n, values.elements // n, reference.sum_bits(n))


def _take_rows(p: Maker, node: Node, out: View, operands: list[View]) -> None:
    rows, index = (p.packed(v) for v in operands)
    p.step("take_rows", [rows, index], out, index.item, rows.shape[0], index.elements, rows.elements // rows.shape[0] * rows.item)


def _along(p: Maker, node: Node, out: View, operands: list[View]) -> None:
    x, index = (p.packed(v) for v in operands)
    axis = integer(node.attrs, "axis")
    outer, inner = prod(x.shape[:axis]), prod(x.shape[axis + 1 :])
    bits = [integer(node.attrs, "bits")] if node.op == "scatter_value" else []
    p.step(node.op, [x, index], out, index.item, x.item, outer, x.shape[axis], index.shape[axis], inner, *bits)


def _reshape(p: Maker, node: Node, out: View, operands: list[View]) -> None:
    p.step("copy", operands, out._replace(shape=operands[0].shape, strides=c_strides(operands[0].shape)))


def _pad(p: Maker, node: Node, out: View, operands: list[View]) -> None:
    axis, before = integer(node.attrs, "axis"), integer(node.attrs, "before")
    p.step("fill", [], out, integer(node.attrs, "bits"))
    p.step("copy", operands, sliced(out, axis, before, before + operands[0].shape[axis]))


def _spread(p: Maker, node: Node, out: View, operands: list[View]) -> None:
    (x,), (axis, stride, dilation) = operands, (integer(node.attrs, name) for name in ("axis", "stride", "dilation"))
    p.step("fill", [], out, 0)
    for j in range(x.shape[axis + 1]):
        lane = sliced(out, axis + 1, j, j + 1)
        p.step("copy", [sliced(x, axis + 1, j, j + 1)], sliced(lane, axis, j * dilation, j * dilation + (x.shape[axis] - 1) * stride + 1, stride))


def _cumsum(p: Maker, node: Node, out: View, operands: list[View]) -> None:
    x, axis = p.packed(operands[0]), integer(node.attrs, "axis")
    outer, inner = prod(x.shape[:axis]), prod(x.shape[axis + 1 :])
    p.step("cumsum", [x], out, outer, x.shape[axis], inner, reference.sum_bits(x.shape[axis]) if x.dtype == "f32" else 0)


def _concat(p: Maker, node: Node, out: View, operands: list[View]) -> None:
    axis, at = integer(node.attrs, "axis"), 0
    for v in operands:
        p.place(v, sliced(out, axis, at, at + v.shape[axis]))
        at += v.shape[axis]


LOWER = {
    "matmul": _matmul,
    "sum": _reduction,
    "amax": _reduction,
    "scatter_add_rows": _scatter_add,
    "take_rows": _take_rows,
    "gather": _along,
    "scatter_value": _along,
    "reshape": _reshape,
    "pad": _pad,
    "concat": _concat,
    "spread": _spread,
    "cumsum": _cumsum,
}

_VIEWS = {"permute", "expand", "slice", "reverse", "windows"}
NATIVE_OPERATORS = frozenset(LOWER) | {name for name, op in OPS.items() if op.kind in (Kind.MAP, Kind.CONST)} | _VIEWS
