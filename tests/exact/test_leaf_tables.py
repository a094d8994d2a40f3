"""The tables of the leaf "from tables": the committed ones are what the tool writes, and every program, run in Python, gives the bits of
the reference. (That the contract runs them as Python does is what forge tests, on tests/vectors/leaf.json.)"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.conformance import KINDS, SPECIAL, floats, words
from assay.stages import CODES

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import leaf_machine  # noqa: E402
import leaf_tables  # noqa: E402

Array = NDArray[Any]
PROGRAMS: dict[tuple[int, int], bytes] = leaf_tables.programs()
CASTS, WHOLE_SUMS = 50, 52
ENDS = np.array([0, 1, -1, 5, 2**24 + 1, 2**31 - 1, -(2**31), 2**53 + 1, 2**62 + 3, 2**63 - 1, -(2**63)], np.int64)
NUMBERS = np.concatenate([ENDS, words(1, 60).view(np.int64) >> np.arange(60)])
FLOATS = np.concatenate([SPECIAL, *(floats(i, (120,), kind) for i, kind in enumerate(KINDS)), words(2, 400).astype(np.uint32).view(np.float32)])
# where the functions change their way
EDGES = np.array(
    [0.625, 1, 4, 89, 104, 88.7228, 87.3365, 103.97, 0.785398, 1.5707963, 3.1415927, 6.2831855, 1e5, 3e38, 0.70710678, 2**-126, 2**-149],
    np.float32,
)
EDGES = np.concatenate([sign * np.nextafter(EDGES, np.float32(to)) for sign in (np.float32(1), np.float32(-1)) for to in (0, 1e38)] + [EDGES, -EDGES])
NEAR = FLOATS[np.isfinite(FLOATS)]
PAIRS = [
    (FLOATS, np.roll(FLOATS, 7)),
    (FLOATS, FLOATS),
    (NEAR, -np.nextafter(NEAR, np.float32(0))),
    tuple(v.ravel() for v in np.meshgrid(SPECIAL, SPECIAL)),
]


def bits(array: Array) -> list[int]:
    """As unsigned numbers."""
    x = np.ascontiguousarray(array).reshape(-1)
    return [int(v) for v in (x.view(np.uint32) if x.dtype == np.float32 else x.astype(np.int64))]


def gives(key: tuple[int, int], start: list[int], dtype: str) -> int:
    """What the program says, cut to the dtype as the contract does."""
    found = leaf_machine.run(PROGRAMS[key], start)
    width = {"f32": 32, "i32": 32, "i64": 64, "bool": 1}[dtype]
    assert 0 <= found < 1 << width or dtype in ("i32", "i64")
    found %= 1 << width
    return found - (1 << width) if dtype in ("i32", "i64") and found >> (width - 1) else found


def same(op: str, column: int, dtype: str, *operands: Array, row: int | None = None) -> None:
    with np.errstate(all="ignore"):
        want = bits(reference.apply(op, {} if row is None else {"dtype": dtype}, operands, dtype, 14))
    starts = zip(*map(bits, operands), strict=True)
    got = [gives((CODES[op] if row is None else row, column), list(start), dtype) for start in starts]
    wrong = [(start, g, w) for start, g, w in zip(zip(*map(bits, operands), strict=True), got, want, strict=True) if g != w]
    assert not wrong, (op, len(wrong), wrong[:3])


def test_the_committed_tables_are_what_the_tool_writes() -> None:
    assert leaf_tables.TARGET.read_text() == leaf_tables.render()
    assert leaf_tables.main(["--check"]) == 0


def test_every_operator_with_arithmetic_has_a_program() -> None:
    moves = set(range(CODES["reshape"], CODES["gather"] + 1)) | {CODES["const"], CODES["iota"], CODES["cast"]}
    assert {row for row, _ in PROGRAMS if row < CASTS} == set(CODES.values()) - moves


@pytest.mark.parametrize("op", ["neg", "abs", "relu", "sqrt", "rsqrt", "reciprocal", "exp", "log", "tanh", "erf", "sigmoid", "sin", "cos"])
def test_functions(op: str) -> None:
    same(op, 0, "f32", np.concatenate([FLOATS, EDGES, np.linspace(-12, 12, 400, dtype=np.float32)]))


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "maximum", "minimum"])
def test_two_floats(op: str) -> None:
    for x, y in PAIRS:
        same(op, 0, "f32", x, y)


@pytest.mark.parametrize("op", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons(op: str) -> None:
    for x, y in PAIRS:
        same(op, 0, "bool", x, y)
    same(op, 1, "bool", *(v.ravel() for v in np.meshgrid(ENDS, ENDS)))


def test_integers() -> None:
    for numbers, dtype in ((NUMBERS, "i64"), (NUMBERS.astype(np.int32), "i32")):
        for op in ("add", "sub", "mul"):
            same(op, 1, dtype, numbers, np.roll(numbers, 3))
    same("philox", 1, "i64", NUMBERS, np.roll(NUMBERS, 5), np.roll(NUMBERS, 9))


def test_truth_and_choice() -> None:
    x, y = np.array([False, False, True, True]), np.array([False, True, False, True])
    for op in ("and", "or"):
        same(op, 1, "bool", x, y)
    same("not", 1, "bool", x)
    same("select", 0, "f32", FLOATS > 1, FLOATS, np.roll(FLOATS, 1))
    same("select", 1, "i64", NUMBERS > 1, NUMBERS, np.roll(NUMBERS, 1))


@pytest.mark.parametrize(("to", "column"), [("f32", 0), ("i32", 1), ("i64", 2), ("bool", 3)])
def test_casts(to: str, column: int) -> None:
    powers = np.array([s * m * 2.0**e for s in (1, -1) for e in range(-3, 66) for m in (1, 1.5, 2 - 2**-23)], np.float32)
    same("cast", column, to, np.concatenate([FLOATS, powers]), row=CASTS)
    for numbers in (NUMBERS, NUMBERS.astype(np.int32), NUMBERS.astype(np.uint8), NUMBERS > 0):
        same("cast", column, to, numbers, row=CASTS + 1)


def folded(op: str, x: Array, amount: int, top: Callable[[list[int]], int]) -> int:
    """The bits of a sum over all of x by the programs: exponents, then q, then the result."""
    row = CODES[op]
    most = top([leaf_machine.run(PROGRAMS[row, 0], [v]) for v in bits(x)])
    total = sum(leaf_machine.run(PROGRAMS[row, 1], [v, 0, 0, most, 0, 0, amount]) for v in bits(x))
    return leaf_machine.run(PROGRAMS[row, 3], [0, 0, 0, most, total, 0, amount])


@pytest.mark.parametrize("kind", KINDS)
def test_sums(kind: str) -> None:
    for seed in range(6):
        x = floats(seed, (9,), kind)
        with np.errstate(all="ignore"):
            assert folded("sum", x, reference.sum_bits(9), max) == bits(reference.sum_(x, (0,), False))[0]
            assert folded("cumsum", x, reference.sum_bits(9), max) == bits(reference.cumsum(x, 0))[-1]
            keys = [leaf_machine.run(PROGRAMS[CODES["amax"], 0], [v]) for v in bits(x)]
            assert leaf_machine.run(PROGRAMS[CODES["amax"], 3], [0, 0, 0, max(keys)]) == bits(reference.amax(x, (0,), False))[0]


@pytest.mark.parametrize("width", [8, 14, 23])
@pytest.mark.parametrize("kind", KINDS)
def test_products(kind: str, width: int) -> None:
    row = CODES["matmul"]
    for seed in range(4):
        a, b = floats(seed, (1, 6), kind), floats(seed + 30, (6, 1), kind)
        tops = [max(leaf_machine.run(PROGRAMS[row, fold], [v]) for v in bits(x)) for fold, x in enumerate((a, b))]
        total = sum(leaf_machine.run(PROGRAMS[row, 2], [x, y, 0, *tops, 0, width]) for x, y in zip(bits(a), bits(b), strict=True))
        with np.errstate(all="ignore"):
            assert leaf_machine.run(PROGRAMS[row, 3], [0, 0, 0, *tops, total, width]) == bits(reference.matmul(a, b, width))[0]


def test_rows_and_marks() -> None:
    index, x = np.array([-3, 0, 1, 2, 7, 1, 2], np.int64), floats(3, (7,), "even")
    rows, amount, row = 3, reference.sum_bits(7), CODES["scatter_add_rows"]
    top = max(leaf_machine.run(PROGRAMS[row, 0], [v]) for v in bits(x))
    want = bits(reference.scatter_add_rows(index, x, rows))
    for place in range(rows):
        items = (leaf_machine.run(PROGRAMS[row, 1], [i, v, 0, top, 0, 0, amount, place, rows]) for i, v in zip(bits(index), bits(x), strict=True))
        assert leaf_machine.run(PROGRAMS[row, 3], [0, 0, 0, top, sum(items), 0, amount]) == want[place]
        marks = [leaf_machine.run(PROGRAMS[CODES["scatter_value"], 0], [i, 0, 0, 0, 0, 0, 0, place, rows]) for i in bits(index)]
        assert marks == [int(min(max(int(i), 0), rows - 1) == place) for i in index]
    assert [leaf_machine.run(PROGRAMS[CODES["scatter_value"], 3], [5, 0, 0, mark, 0, 0, 9]) for mark in (0, 1, -1, 2)] == [5, 9, 5, 5]
    assert leaf_machine.run(PROGRAMS[WHOLE_SUMS, 0], [-4]) == -4 == leaf_machine.run(PROGRAMS[WHOLE_SUMS, 3], [0, 0, 0, -4])
