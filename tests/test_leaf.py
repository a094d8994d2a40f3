"""The leaf in Python against the reference: every element of every operator on small tensors, hard values among them, and folds that are
cut anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay import stages
from assay.dispute import leaf
from assay.dispute.leaf import Need
from assay.dispute.scalars import f32_of
from assay.exact import reference
from assay.exact.conformance import BINARY, KINDS, SPECIAL, UNARY, Writer, floats, integers, words
from assay.exact.table import OPS

Array = NDArray[Any]
ENDS = np.array([0, 1, -1, 2**24 + 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**62 + 3, 2**63 - 1, -(2**63)], np.int64)
AXES = ((0,), (1,), (0, 2), (0, 1, 2))
PAIRS = [SPECIAL[::2, None].copy(), SPECIAL[None, 1::3].copy()]


def bits_of(array: Array) -> list[int]:
    unsigned = {1: "u1", 4: "<u4", 8: "<u8"}[array.dtype.itemsize]
    return [int(v) for v in np.ascontiguousarray(array).reshape(-1).view(unsigned)]


def written(name: str, inputs: Sequence[Array], write: Callable[[Writer], object], bits: int = 14) -> Any:
    w = Writer(*inputs)
    write(w)
    return pytest.param(w, inputs, bits, id=name)


def cases() -> Iterator[Any]:
    yield written("special", [SPECIAL], lambda w: [w(op, 0) for op in (*UNARY, "relu")])
    yield written("pairs", PAIRS, lambda w: [w(op, 0, 1) for op in BINARY])
    for seed, kind in enumerate(KINDS):
        yield written(f"unary {kind}", [floats(seed, (12,), kind)], lambda w: [w(op, 0) for op in UNARY])
        yield written(f"binary {kind}", [floats(seed, (3, 1, 3), kind), floats(seed + 9, (2, 3), kind)], lambda w: [w(op, 0, 1) for op in BINARY])
        x, whole = floats(seed + 20, (3, 5, 2), kind), words(seed, 30).view(np.int64).reshape(3, 5, 2)
        yield written(f"sum {kind}", [x, whole], lambda w: [w("sum", v, axes=a, keepdim=len(a) == 2) for v in (0, 1) for a in AXES])
        yield written(f"amax {kind}", [x], lambda w: [w("amax", 0, axes=a, keepdim=len(a) == 2) for a in AXES])
        yield written(f"cumsum {kind}", [x, whole], lambda w: [w("cumsum", v, axis=a) for v in (0, 1) for a in range(3)])
        for bits in (8, 14, 23):
            pair = [floats(seed + 30, (2, 3, 5), kind), floats(seed + 40, (2, 5, 3), kind)]
            yield written(f"matmul {kind} {bits}", pair, lambda w: w("matmul", 0, 1), bits)
        rows = [integers(seed, (7,), -2, 6), floats(seed + 50, (7, 3), kind), integers(seed, (7,), -2, 6).astype(np.int32)]
        yield written(f"rows {kind}", rows, lambda w: [w("scatter_add_rows", i, 1, rows=4) for i in (0, 2)])
    most = np.nextafter(np.float32(2), np.float32(0))
    yield written("clamped", [np.full((2, 3), -most), np.full((3, 2), most)], lambda w: w("matmul", 0, 1), 8)
    small = np.array([1, 0x80000001, 0x007FFFFF, 0x00800000, 0x80800001, 3], np.uint32).view(np.float32)
    yield written("subnormal", [small], lambda w: [w("sum", 0, axes=(0,), keepdim=False), w("cumsum", 0, axis=0)])
    yield written("infinite", [np.array([[1, np.inf], [2, 3]], np.float32)], lambda w: [w("sum", 0, axes=(1,), keepdim=False), w("matmul", 0, 0)])
    numbers = [SPECIAL, ENDS, ENDS.astype(np.int32), ENDS % 3 == 0, ENDS.astype(np.uint8)]
    yield written("cast", numbers, lambda w: [w("cast", v, dtype=to) for v in range(5) for to in ("f32", "i32", "i64", "bool")])
    arithmetic = ("add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge")
    both = [ENDS[:, None].copy(), ENDS[None].copy(), ENDS.astype(np.int32), ENDS[::-1].astype(np.int32)]
    yield written("integers", both, lambda w: [w(op, v, v + 1) for v in (0, 2) for op in arithmetic])
    truths = [ENDS % 2 == 0, ENDS > 1, ENDS, floats(60, (10,), "bits")]
    yield written("select", truths, lambda w: [w("and", 0, 1), w("or", 0, 1), w("not", 0), w("select", 0, 2, 2), w("select", 1, 3, w("neg", 3))])
    yield written("philox", [words(61, 9).view(np.int64), ENDS[:9], words(62, 1).view(np.int64)], lambda w: w("philox", 0, 1, 2))
    x, at, at32 = floats(63, (2, 4, 3), "bits"), integers(64, (2, 3, 3), -2, 6), integers(65, (3,), -1, 3).astype(np.int32)
    yield written("moves", [x, at, at32, ENDS.astype(np.uint8)], move)


def move(w: Writer) -> None:
    w("reshape", 0, shape=(4, 6))
    w("permute", 0, axes=(2, 0, 1))
    w("slice", 0, axis=1, start=1, stop=4, step=2)
    w("pad", 0, axis=1, before=1, after=2, bits=0x40490FDB)
    w("concat", 0, w("reverse", 0, axis=1), 0, axis=1)
    w("expand", w("slice", 0, axis=1, start=2, stop=3, step=1), shape=(2, 2, 5, 3))
    w("gather", 0, 1, axis=1)
    w("scatter_value", 0, 1, axis=1, bits=0xBF800000)
    w("take_rows", 0, 2)
    w("windows", 0, axis=1, size=2, stride=1, dilation=2)
    w("spread", 0, axis=1, n=12, stride=2, dilation=2)
    w("iota", n=5)
    w("const", dtype="i32", bits=0xFFFFFFFE)
    w("reverse", 3, axis=0)


@pytest.mark.parametrize(("w", "inputs", "bits"), list(cases()))
def test_every_element_is_the_references(w: Writer, inputs: Sequence[Array], bits: int) -> None:
    part = w.part(0)
    values = reference.evaluate(part, inputs, bits)
    raw = [bits_of(np.asarray(v)) for v in values]
    for at, node in enumerate(part.nodes):
        stage = stages.decode_stage(stages.encode_stage(part, at, bits))

        def read(need: Need, node: Any = node) -> int:
            return raw[node.inputs[need.operand]][need.element]

        want = raw[len(inputs) + at]
        got = [leaf.output(stage, element, read) for element in range(len(want))]
        wrong = [(i, hex(g), hex(x)) for i, (g, x) in enumerate(zip(got, want, strict=True)) if g != x]
        assert not wrong, (node.op, node.attrs, wrong[:3])


def test_all_fifty_operators_were_among_them() -> None:
    named = {node.op for case in cases() for node in case.values[0].nodes}
    assert named == set(OPS)


def test_folds_may_be_cut_anywhere() -> None:
    w = Writer(floats(70, (40,), "wide"), words(71, 40).view(np.int64))
    for op in ("sum", "amax"):
        w(op, 0, axes=(0,), keepdim=False)
    w("sum", 1, axes=(0,), keepdim=False)
    part = w.part(0)
    raw = [bits_of(v) for v in (floats(70, (40,), "wide"), words(71, 40))]
    rng = np.random.default_rng(5)
    for at, node in enumerate(part.nodes):
        stage = stages.decode_stage(stages.encode_stage(part, at, 14))
        read = lambda need, node=node: raw[node.inputs[need.operand]][need.element]  # noqa: E731
        totals = leaf.fold_totals(stage, 0, read)
        for fold, total in enumerate(totals):
            items = [leaf.item(stage, 0, fold, i, totals, leaf.gather(stage, 0, fold, i, read)) for i in range(40)]
            for _ in range(5):
                cuts = [0, *sorted(rng.choice(np.arange(1, 40), 6, replace=False).tolist()), 40]
                parts = [leaf.combine(stage, fold, items[a:b]) for a, b in pairwise(cuts)]
                assert leaf.combine(stage, fold, parts) == total


def test_rounding_to_f32_is_that_of_the_reference() -> None:
    rng = np.random.default_rng(6)
    totals = (rng.integers(-(1 << 62), 1 << 62, 4000) >> rng.integers(0, 62, 4000)).astype(np.int64)
    totals[:6] = [0, 1, -1, (1 << 24) + 1, (1 << 53) + 1, -(1 << 62)]
    for shift in (-200, -190, -170, -149, -140, -24, 0, 70, 100):
        with np.errstate(all="ignore"):
            want = bits_of(reference.round_scaled(totals, shift))
        assert [f32_of(int(t), shift) for t in totals] == want
