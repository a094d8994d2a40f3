"""Writes tests/vectors/leaf.json: what the NumPy reference says of single elements, for every implementation of the leaf (docs/dispute.md).

    python tools/leaf_vectors.py            (some seconds; repeats byte for byte)

Outputs come only from assay.exact.reference; the totals of folds from its fixed point (`exponent`, `fixed`, `quantise`, `key`).
Inputs come from splitmix64. All byte strings are hex with 0x; a tensor is its elements in C order, big-endian, of their dtype's width
(f32, i32: 4, i64: 8, bool, u8: 1).

`cases`: operator -> a list of stages with
    stage     the bytes
    operands  one tensor each
    elements  the elements asked for, ascending; empty: all of the result's
    bits      of those elements, a tensor of the result's dtype
    totals    for each of those elements its folds' totals, i64 each; empty for CONST, MAP and MOVE
`items` and `finishes`: single calls with shapes too large to be written down
    items     stage, element, fold, index, totals i64 each, values u64 each, item i64
    finishes  stage, element, totals i64 each, values u64 each, bits u64
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.cases import BINARY, KINDS, UNARY
from assay.exact.inputs import SPECIAL, Writer, floats, integers, words
from assay.exact.table import Attr
from assay.program import Part
from assay.stages import CODES, encode_stage

Array = NDArray[Any]
TARGET = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "leaf.json"


# ---- what the reference says -------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    op: str
    args: tuple[Array, ...]
    attrs: dict[str, Attr]
    elements: tuple[int, ...] = ()
    gemm_bits: int = 14


def part_of(case: Case) -> Part:
    """A part with the case's stage alone."""
    w = Writer(*case.args)
    w(case.op, *range(len(case.args)), **case.attrs)
    return w.part()


def output(case: Case) -> Array:
    dtype = part_of(case).nodes[0].type.dtype
    return np.asarray(reference.apply(case.op, case.attrs, case.args, dtype, case.gemm_bits))


def stage_of(case: Case) -> str:
    return "0x" + encode_stage(part_of(case), 0, case.gemm_bits).hex()


def _float_sum(top: Array, q: Array) -> list[Array]:
    return [top, np.where(top == 255, 0, q)]


def totals(case: Case, shape: tuple[int, ...]) -> list[Array]:
    """One array of int64 over the output's `shape` for each fold."""
    made: list[Array]
    with np.errstate(all="ignore"):
        match case.op, case.args:
            case "sum", (x,):
                axes: Any = case.attrs["axes"]
                if x.dtype == np.int64:
                    made = [x.sum(axis=axes, keepdims=True)]
                else:
                    top = reference.exponent(x, axes)
                    s = reference.sum_bits(math.prod(x.shape[a] for a in axes)) + 126 - top
                    made = _float_sum(top, reference.fixed(x, s).sum(axis=axes, keepdims=True))
            case "amax", (x,):
                axes = case.attrs["axes"]
                made = [np.where(np.isnan(x), 1 << 31, reference.key(x).astype(np.int64)).max(axis=axes)]
            case "cumsum", (x,):
                axis: Any = case.attrs["axis"]
                if x.dtype == np.int64:
                    made = [x.cumsum(axis=axis)]
                else:
                    top = np.broadcast_to(reference.exponent(x, (axis,)), x.shape)
                    s = reference.sum_bits(x.shape[axis]) + 126 - top
                    made = _float_sum(top, reference.fixed(x, s).cumsum(axis=axis))
            case "matmul", (a, b):
                qa, _, fine_a = reference.quantise(a, -1, case.gemm_bits)
                qb, _, fine_b = reference.quantise(b, -2, case.gemm_bits)
                tops = [np.broadcast_to(reference.exponent(x, (x.ndim + k,)), shape) for x, k in ((a, -1), (b, -2))]
                made = [*tops, np.where(fine_a & fine_b, np.matmul(qa, qb), 0)]
            case "scatter_add_rows", (index, values):
                rows: Any = case.attrs["rows"]
                top = np.full(shape, reference.exponent(values, tuple(range(values.ndim))).item())
                s = reference.sum_bits(len(index)) + 126 - top.flat[0]
                q = np.zeros(shape, np.int64)
                np.add.at(q, np.clip(index, 0, rows - 1), reference.fixed(values, s))
                made = _float_sum(top, q)
            case "scatter_value", (x, index):
                axis = case.attrs["axis"]
                hit = np.zeros(shape, np.int64)
                np.put_along_axis(hit, np.clip(index, 0, x.shape[axis] - 1).astype(np.int64), 1, axis)
                made = [hit]
            case _:
                return []
    return [np.asarray(t).astype(np.int64).reshape(shape) for t in made]


# ---- the cases ---------------------------------------------------------------------------------------------------------------


def f32(*patterns: int) -> Array:
    return np.array(patterns, np.uint32).view(np.float32)


def near(*values: float) -> Array:
    """Each value and its two neighbours, with either sign."""
    x = np.array(values, np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))])
    return np.concatenate([x, -x])


PI = math.pi
TIES = f32(0x3F6E9372, 0x3F5AE03B, 0x3F2A177F, 0x3EF0D9CE, 0x3EBB61F7, 0x3F7FFFFF, 0x3E800001)
"""Their square roots lie next to the middle between two floats."""
HARD: dict[str, Array] = {
    "sqrt": np.concatenate([near(2.0**-126, 2.0**-140, 4.0, 1.5), f32(0x00000002, 0x00000003, 0x3F800002, 0x7F7FFFFF, 0x407FFFFF, 0x3FFFFFFF), TIES]),
    "exp": np.concatenate([near(88.72284, 87.33655, 103.97208, 104, 89, 0.34657359, 1e-8, 50, 95.0), floats(20, (24,), "even") * np.float32(99)]),
    "log": np.concatenate([near(1.0, 0.70710678, 1.41421356, 2.0**-126, 2.0**-127, 2.0, 0.5), f32(0x00000002, 0x00400000, 0x00123456)]),
    "tanh": np.concatenate([near(0.625, 1e-4, 9.01, 44.5, 1.0, 2.0**-13), floats(21, (16,), "even") * np.float32(3)]),
    "erf": np.concatenate([near(1.0, 4.0, 3.9, 1e-4, 2.0, 10.0), floats(22, (16,), "even") * np.float32(5)]),
    "sigmoid": np.concatenate([near(1.0, 88.7, 104.0, 17.0), floats(23, (16,), "even") * np.float32(20)]),
    "sin": np.concatenate([near(PI / 4, PI / 2, PI, 3 * PI / 4, 2 * PI, 1e6, 2.0**-12, 2.0**60, 3e38), f32(0x6F79BE45, 0x47CE47F7, 0x7F2A9C4D)]),
}
HARD["rsqrt"], HARD["cos"], HARD["reciprocal"] = HARD["sqrt"], HARD["sin"], near(2.0**127, 2.0**126, 2.0**-126, 3.0, 2.0**-128)
WHOLE = np.array(
    [
        0, 1, -1, 2, 2**24 - 1, 2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**25 + 2, 2**25 + 6, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32, 2**53 + 1,
        2**62, 2**63 - 1, -(2**63), 2**63 - 2**38, 2**63 - 2**39, 2**54 + 2**30, 2**54 + 2**30 + 1, 2**54 + 2**30 - 1, 2**54 + 3 * 2**30,
    ],
    np.int64,
)  # fmt: skip


def shifted(seed: int, n: int) -> Array:
    """int64 of all magnitudes."""
    return (words(seed, n).view(np.int64) >> (words(seed + 1, n) % np.uint64(64)).astype(np.int64)).astype(np.int64)


def constants() -> Iterator[Case]:
    for dtype, patterns in dict(f32=(0, 0x80000000, 0x7FC00000, 0x40490FDB), i32=(5, 0xFFFFFFFF), i64=(7, 2**64 - 1, 2**63), bool=(0, 1)).items():
        yield from (Case("const", (), {"dtype": dtype, "bits": b}) for b in patterns)
    yield Case("iota", (), {"n": 7})
    yield Case("iota", (), {"n": 1 << 17}, (0, 1, 65535, 65536, 131071))


def maps() -> Iterator[Case]:
    for seed, op in enumerate(UNARY):
        x = [SPECIAL, floats(seed, (40,), "bits"), floats(seed + 50, (32,), "wide"), floats(seed + 90, (8,), "tiny"), HARD.get(op, f32(0))]
        yield Case(op, (np.concatenate(x),), {})
        yield Case(op, (np.array(1.25, np.float32),), {})
    yield Case("tanh", (floats(70, (2, 1, 2, 1, 1, 2, 1, 2), "even"),), {})
    for seed, op in enumerate(BINARY):
        yield Case(op, (SPECIAL[:, None].copy(), SPECIAL[None].copy()), {})
        for kind in ("bits", "wide", "tiny"):
            a = floats(seed + 100, (48,), kind)
            yield Case(op, (a, np.where(words(seed, 48) % np.uint64(3) == 0, a, floats(seed + 150, (48,), kind))), {})
        a = floats(seed + 200, (64,), "bits")
        close = (a.view(np.uint32) ^ np.uint32(0x80000000)) + (words(seed + 9, 64) % np.uint64(5)).astype(np.uint32)
        yield Case(op, (a, close.view(np.float32)), {})
        far = np.ldexp(floats(seed + 201, (96,), "even"), -np.arange(96) // 3).astype(np.float32)
        yield Case(op, (floats(seed + 202, (96,), "even"), far), {})
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (((), ()), ((), (2, 3)), ((3, 1), (2, 1, 4)), ((1, 1), (1,)))
    yield from (Case("add", (floats(1, a, "wide"), floats(2, b, "wide")), {}) for a, b in shapes)
    yield Case("mul", (floats(3, (2, 1, 3, 1, 2, 1, 1, 2), "wide"), floats(4, (2, 1, 1, 1, 1, 1, 2), "wide")), {})
    ints = [np.concatenate([WHOLE, shifted(300, 39)]), np.concatenate([shifted(302, 39), WHOLE])]
    for op in ("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge"):
        for dtype in (np.int64, np.int32):
            a, b = (x.astype(dtype) for x in ints)
            yield Case(op, (a, np.where(np.arange(len(a)) % 5 == 0, a, b)), {})
        yield Case(op, (np.array([[3], [-3]], np.int32), np.array([-3, 3, 2**31 - 1], np.int32)), {})
    both = np.array([False, False, True, True]), np.array([False, True, False, True])
    yield from (Case(op, both, {}) for op in ("and", "or"))
    yield Case("and", (both[0][:, None].copy(), both[1]), {})
    yield Case("not", (both[1],), {})
    sides: tuple[Array, ...] = (SPECIAL[:8], ints[0][:8], ints[0][:8].astype(np.int32), words(5, 8) % np.uint64(2) == 0)
    for y in sides:
        yield Case("select", (words(6, 8) % np.uint64(2) == 0, y, y[::-1].copy()), {})
        yield Case("select", (both[1][:, None].copy(), y, y[3].reshape(())), {})
    edges = near(2.0**31, 2.0**63, 0.5, 1.0, 1.5, 2.5, 2.0**24, 127.0, 0.99999994)
    numbers = np.concatenate([SPECIAL, edges, floats(400, (40,), "wide")]), *ints, ints[0].astype(np.int32), both[1], ints[1].astype(np.uint8)
    yield from (Case("cast", (x,), {"dtype": to}) for x in numbers for to in ("f32", "i32", "i64", "bool"))
    counters = [words(500 + i, 24).view(np.int64) for i in range(2)]
    yield Case("philox", (*counters, words(502, 1)[0].view(np.int64).reshape(())), {})
    yield Case("philox", (np.arange(6)[:, None], np.array([0, -1, 2**32, 2**63 - 1]), np.array([[0]])), {})


def reduces() -> Iterator[Case]:
    for seed, kind in enumerate(KINDS):
        x = floats(seed + 600, (3, 4, 5), kind)
        for op in ("sum", "amax"):
            for axes, keep in (((2,), False), ((1,), True), ((0, 2), False), ((0, 1, 2), True), ((0, 1, 2), False)):
                yield Case(op, (x,), {"axes": axes, "keepdim": keep})
        yield from (Case("cumsum", (x,), {"axis": a}) for a in (0, 1, 2))
        for index in (integers(seed + 610, (9,), -2, 5), integers(seed + 611, (9,), -(2**31), 2**31).astype(np.int32)):
            yield Case("scatter_add_rows", (index, floats(seed + 620, (9, 1, 2), kind)), {"rows": 3})
        yield Case("scatter_add_rows", (integers(seed + 612, (9,), 0, 3).astype(np.int32), floats(seed + 621, (9,), kind)), {"rows": 3})
        for bits in (8, 14, 15, 23):
            a, b = floats(seed + 630, (2, 17), kind), floats(seed + 640, (17, 3), kind)
            yield Case("matmul", (a, b), {}, gemm_bits=bits)
    for kind in ("bits", "finite"):  # rows and columns of the batched form, most of them finite
        a, b = floats(650, (2, 2, 3, 4), kind), floats(651, (2, 2, 4, 2), kind)
        yield Case("matmul", (np.where(np.isfinite(a), a, np.float32(0.5)), b), {}, gemm_bits=14)
    mixed = np.array([[1, 2, np.inf], [3, -4, 5], [0.5, 8, 9]], np.float32)  # one side finite, the other not
    yield Case("matmul", (floats(652, (2, 3), "even"), mixed), {})
    yield Case("matmul", (mixed, floats(653, (3, 2), "even")), {})
    most = np.nextafter(np.float32(2), np.float32(0))
    for bits in (8, 14, 15, 23):  # products as large as they can be, q clamped
        b = np.full((170, 2), most, np.float32)
        b[::2, 1] = -most
        yield Case("matmul", (np.full((1, 170), most, np.float32), b), {}, gemm_bits=bits)
    ties = np.array([[1.0, 2.0**-13 * 1.5, 2.0**-13 * 2.5, -(2.0**-13) * 0.5, 2.0**-14]], np.float32)  # q halfway between integers
    yield Case("matmul", (ties, ties.T.copy()), {}, gemm_bits=14)
    halves = np.array([1.0, 2.0**-24, 2.0**-24, 2.0**-25, -(2.0**-40), 2.0**-39 * 1.5, 1.5 * 2.0**-41], np.float32)
    ends = (f32(0x7F7FFFFF, 0x7F7FFFFF, 0xFF7FFFFF), f32(0x80000000, 0x80000000), f32(1, 0x80000002), f32(0x00800000, 0x80000001))
    for x in (halves, -halves, np.array([16777216.0, 1.0, 2.0, -1.0], np.float32), *ends):
        yield Case("sum", (x,), {"axes": (0,), "keepdim": False})
        yield Case("cumsum", (x,), {"axis": 0})
        yield Case("scatter_add_rows", (np.array([1] * len(x)), x), {"rows": 2})
    whole = np.concatenate([WHOLE, shifted(660, 11)]).reshape(3, 4, 3)
    yield from (Case("sum", (whole,), {"axes": a, "keepdim": k}) for a, k in (((1,), False), ((0, 2), True), ((0, 1, 2), False)))
    yield from (Case("cumsum", (whole,), {"axis": a}) for a in (0, 1, 2))
    yield from (Case(op, (floats(661, (1, 2, 1, 3, 1, 2, 1, 2), "wide"),), {"axes": (1, 3, 7), "keepdim": True}) for op in ("sum", "amax"))
    for x, index, axis in (
        (floats(670, (3, 4, 2), "bits"), integers(671, (3, 3, 2), -2, 6), 1),
        (shifted(672, 6), integers(673, (2,), 0, 6).astype(np.int32), 0),
        (shifted(674, 6).reshape(2, 3).astype(np.int32), integers(675, (5, 3), 0, 2), 0),
        (words(676, 6).reshape(2, 3) % np.uint64(2) == 0, integers(677, (2, 2), -(2**63), 2**63 - 1), 1),
        (np.arange(6, dtype=np.uint8), integers(678, (3,), 2, 8), 0),
    ):
        bits = {"float32": 0x7FC00000, "bool": 1, "uint8": 0xEE}.get(x.dtype.name, 2**31)
        yield Case("scatter_value", (x, index), {"axis": axis, "bits": bits})


def moves() -> Iterator[Case]:
    x = floats(700, (3, 4, 5), "bits")
    w = shifted(701, 60).reshape(3, 4, 5)
    for y in (x, w, w.astype(np.int32), w % 3 == 0, w.astype(np.uint8)):
        yield Case("reverse", (y,), {"axis": 1})
        yield Case("permute", (y,), {"axes": (2, 0, 1)})
        yield Case("pad", (y,), {"axis": 2, "before": 1, "after": 2, "bits": 1})
        yield Case("spread", (y,), {"axis": 0, "n": 10, "stride": 3, "dilation": 1})
        yield Case("take_rows", (y, np.array([[0, -1], [9, 1]])), {})
        yield Case("concat", (y, y[:, :2].copy(), y[:, 1:].copy()), {"axis": 1})
    yield from (Case("reshape", (a,), {"shape": s}) for a, s in ((x, (12, 5)), (x, (60,)), (x.reshape(-1)[:1], ()), (x[0, 0, 0].reshape(()), (1, 1))))
    yield from (Case("permute", (a,), {"axes": p}) for a, p in ((x, (0, 1, 2)), (x[0], (1, 0)), (x[0, 0, 0].reshape(()), ())))
    yield Case("permute", (floats(705, (2, 1, 3, 2, 1, 2, 1, 2), "wide"),), {"axes": (7, 2, 0, 5, 1, 3, 6, 4)})
    for a, to in ((x[:, :1], (2, 3, 4, 5)), (x[0, 0, :1].reshape(()), (2, 2)), (x[0, 0], (5,)), (x[:1, :, :1], (2, 4, 3))):
        yield Case("expand", (a,), {"shape": to})
    large = (1 << 19, 3, 1 << 19)
    yield Case("expand", (x[0, :3, :1],), {"shape": large}, (0, (1 << 19) - 1, 1 << 19, (3 << 38) - 1, (1 << 39) + 12345))
    for axis, start, stop, step in ((0, 1, 3, 1), (1, 0, 4, 3), (2, 1, 5, 2), (2, 4, 5, 1), (1, 0, 4, 9)):
        yield Case("slice", (x,), {"axis": axis, "start": start, "stop": stop, "step": step})
    yield from (Case("reverse", (a,), {"axis": i}) for a, i in ((x, 0), (x, 2), (x[0, 0], 0)))
    for axis, size, stride, dilation in ((0, 2, 1, 1), (1, 2, 2, 1), (2, 2, 1, 3), (2, 3, 2, 2), (1, 1, 3, 5), (2, 5, 9, 1)):
        yield Case("windows", (x,), {"axis": axis, "size": size, "stride": stride, "dilation": dilation})
    for shape, axis, n, stride, dilation in (
        ((2, 3, 2), 0, 6, 1, 2), ((3, 2), 0, 6, 2, 1), ((3, 2, 2), 1, 4, 1, 2), ((2, 2, 3), 1, 12, 5, 2), ((3, 1), 0, 8, 3, 4), ((1, 3), 0, 9, 1, 4),
        ((2, 4), 0, 12, 3, 2), ((3, 3), 0, 13, 4, 2),
    ):  # fmt: skip
        yield Case("spread", (floats(706, shape, "bits"),), {"axis": axis, "n": n, "stride": stride, "dilation": dilation})
    for axis, before, after in ((0, 0, 1), (1, 2, 0), (2, 0, 0), (2, 3, 3)):
        yield Case("pad", (x,), {"axis": axis, "before": before, "after": after, "bits": 0x7F800000})
    yield Case("concat", (x,), {"axis": 2})
    yield Case("concat", tuple(floats(710 + i, (n,), "bits") for i, n in enumerate((1, 3, 2, 1, 4))), {"axis": 0})
    yield Case("concat", (x, floats(716, (3, 4, 1), "bits")), {"axis": 2})
    yield Case("take_rows", (x, np.array(1)), {})
    yield Case("take_rows", (x[0, 0], np.array([3, -5, 2**31 - 1, -(2**31)], np.int32)), {})
    yield Case("take_rows", (x[0], np.array([2**63 - 1, -(2**63), 2, 4, 3])), {})
    for axis, shape in ((0, (2, 4, 5)), (1, (3, 6, 5)), (2, (3, 4, 1))):
        yield Case("gather", (x, integers(720 + axis, shape, -2, 7)), {"axis": axis})
    yield Case("gather", (x[0, 0], integers(724, (7,), -(2**31), 2**31).astype(np.int32)), {"axis": 0})


# ---- shapes too large to be written down ---------------------------------------------------------------------------------------


def hexed(x: Array) -> str:
    """Big-endian, of the dtype's width."""
    return "0x" + np.ascontiguousarray(x).astype(x.dtype.newbyteorder(">"), copy=False).tobytes().hex()


def large() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """`items` and `finishes` of sums over so many values that each has fewer than 40 bits."""
    items, finishes = [], []
    n = (1 << 22) + 1
    x = np.resize(np.concatenate([floats(800, (997,), "wide"), floats(801, (31,), "finite")]), n)
    x = np.where(np.abs(x) > np.float32(2.0**9), np.float32(1.5), x)
    index = (np.arange(n) % 3).astype(np.int32)
    sums = Case("sum", (x,), {"axes": (0,), "keepdim": False}), Case("cumsum", (x[None],), {"axis": 1})
    for case in (*sums, Case("scatter_add_rows", (index, x), {"rows": 3})):
        y = output(case)
        folded = totals(case, y.shape)
        stage = stage_of(case)
        element = y.size - 1
        total = np.array([t.flat[element] for t in folded])
        q = reference.fixed(x, reference.sum_bits(n) + 126 - int(total[0]))
        both = dict(stage=stage, element=element)
        finishes.append(both | dict(totals=hexed(total), values="0x", bits=int(y.view(np.uint32).flat[element])))
        for i in [j for j in (1, 2, 5, 8, 11, 1000, 1004, 1010, n - 1, *range(20, 60)) if case.op != "scatter_add_rows" or j % 3 == 2]:
            values = ([int(index[i])] if case.op == "scatter_add_rows" else []) + [int(x.view(np.uint32)[i])]
            more = dict(fold=1, index=i, totals=hexed(total), values=hexed(np.array(values, np.uint64)), item=int(q[i]))
            items.append(both | more)
    return items, finishes


def rendered(case: Case) -> dict[str, Any]:
    y = np.atleast_1d(output(case))
    place = np.unravel_index(np.array(case.elements, np.int64) if case.elements else np.arange(y.size), y.shape)
    folded = [t[place] for t in totals(case, y.shape)]
    return {
        "stage": stage_of(case),
        "operands": [hexed(a) for a in case.args],
        "elements": list(case.elements),
        "bits": hexed(y[place]),
        "totals": hexed(np.stack(folded, axis=-1)) if folded else "0x",
    }


def render() -> str:
    by_op: dict[str, list[str]] = {op: [] for op in CODES}
    for make in (constants, maps, reduces, moves):
        for case in make():
            by_op[case.op].append(json.dumps(rendered(case), separators=(",", ":")))
    items, finishes = large()

    def lines(made: Sequence[str]) -> str:
        return "[\n" + ",\n".join(made) + "\n]"

    cases = ",\n".join(f'"{op}":{lines(made)}' for op, made in by_op.items())
    singles = ",\n".join(f'"{k}":{lines([json.dumps(v, separators=(",", ":")) for v in vs])}' for k, vs in (("items", items), ("finishes", finishes)))
    return f'{{"format":"assay-leaf/1",\n"cases":{{\n{cases}\n}},\n{singles}}}\n'


if __name__ == "__main__":
    TARGET.write_text(render())
