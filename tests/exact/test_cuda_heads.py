"""heads.cu on the fake device: what it leaves of matrices, by rows, by columns and both at once, is what NumPy makes of them, digit by digit; changes
of the kernel are found; and NVIDIA's compiler has registers enough for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from assay.exact.cuda import fake
from assay.exact.cuda.device import Device, Launch
from assay.exact.cuda.operands import Axis, Operand
from assay.exact.cuda.product import LANES, ROW, Products
from assay.exact.cuda.sources import of_heads
from assay.exact.cuda.streamed import Packed, Shelf, matrices, packing
from assay.exact.cuda.tiles import digits
from assay.exact.inputs import Array, floats
from assay.exact.views import View
from tests.exact import nvrtc
from tests.exact.support import same
from tests.exact.test_cuda_products import uploaded
from tests.exact.test_cuda_products_find import Changed

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
WIDTHS = (8, 14, 15, 23)


class Of(NamedTuple):
    """A batch of matrices, and how they lie: `apart` the floats from one row to the next (or, where columns lie apart, from column to column), with a
    factor or without."""

    batch: int
    rows: int
    columns: int
    apart: int
    by_columns: bool = False
    factor: bool = False
    uneven: bool = False
    """Rows at two places each."""
    each: int = 1
    """Floats from one column to the next."""


SIZES = (
    Of(2, 300, 64, 80), Of(3, 70, 20, 20, factor=True), Of(1, 130, 128, 131), Of(2, 65, 90, 92, uneven=True), Of(2, 100, 33, 100, by_columns=True),
    Of(1, 66, 30, 32), Of(1, 65, 12, 12, uneven=True), Of(1, 30, 8, 16, each=2),
)  # fmt: skip


def sides(of: Of) -> tuple[Operand, Operand, int]:
    """The operand whose lanes are rows, that whose lanes are columns, and floats of a matrix."""
    step, beside = (1, of.apart) if of.by_columns else (of.apart, of.each)
    rows, columns, size = Axis((of.rows,), (step,)), Axis((of.columns,), (beside,)), of.apart * (of.columns if of.by_columns else of.rows)
    if of.uneven:
        rows, size = Axis((of.rows // 5, 5), (8 * step, step)), of.apart * 8 * of.rows // 5
    batch = Axis((of.batch,), (size,))
    return Operand(batch, rows, columns), Operand(batch, columns, rows), size


def expected(x: Array, bits: int) -> dict[str, Array]:
    """Of batch x lanes x k: largest magnitudes, integers, digits as they lie, sums. What is not written is -1."""
    how, (batch, lanes, k) = digits(bits), x.shape
    padded, width, row = -(-lanes // LANES) * LANES, -(-k // 64) * 64, -(-k // ROW) * ROW
    top = np.abs(x).max(axis=2)
    bound = np.float64(2.0) ** (bits - 1 + 126 - (top.view(np.uint32) >> 23).astype(np.int64))
    q = np.clip(np.rint(x.astype(np.float64) * bound[:, :, None]), -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1).astype(np.int64)
    q = np.pad(q, ((0, 0), (0, padded - lanes), (0, width - k)))
    own, base = (2, 7) if how.karatsuba else (how.planes, 8)
    rest, planes = q, []
    for _ in range(own - 1):
        low = (rest + (1 << (base - 1))) % (1 << base) - (1 << (base - 1))
        planes.insert(0, low)
        rest = (rest - low) >> base
    planes.insert(0, rest)
    weights = tuple(1 << base * (own - 1 - z) for z in range(own))
    along = sum(weight * plane.sum(axis=2) for weight, plane in zip(weights, planes, strict=True))
    across = np.full((batch, padded // LANES, row), -1, np.int32)
    checked = np.full((batch, 2 if how.planes == 1 else own + 1, row) if lanes <= 128 else 0, -1, np.int8)
    rest = np.where(np.arange(width) < k, q.sum(axis=1) + 1, 0)
    for digit in checked.swapaxes(0, 1) if lanes <= 128 else ():
        digit[:, :width] = low = (rest + 128) % 256 - 128
        rest = (rest - low) >> 8
    across[:, :, :width] = q.reshape(batch, -1, LANES, width).sum(axis=2)
    laid = np.full((batch, own, row // 64, padded, 64), -1, np.int8)
    lane, at = np.arange(padded)[:, None], np.arange(width)[None, :]
    for z, plane in enumerate(planes):
        laid[:, z, at // 64, lane, ((at % 64 >> 4) ^ (lane >> 1 & 3)) << 4 | at % 16] = plane
    top = np.pad(top, ((0, 0), (0, padded - lanes)))
    return {"top": top.view(np.uint32), "digits": laid, "along": along, "across": across, "checked": checked}


def found(device: Device, sizes: Sequence[Of], bits: int, kinds: str = "rows columns") -> bool:
    """Whether one launch leaves what it should of matrices, each by rows, by columns, or both."""
    how, products, shelf = digits(bits), Products(device), Shelf()
    packed: list[Packed] = []
    values: list[Array] = []
    at: dict[View, int] = {}
    held = []
    for number, of in enumerate(sizes):
        *both, size = sides(of)
        x = floats(number, (of.batch, size), "even")
        x[:, :7] *= np.float32(64)  # so that scales differ from lane to lane
        lying, factor = View(number, 0, (of.batch, size), (size, 1), "f32"), View(100 + number, 0, (1,), (1,), "f32")
        held += [uploaded(device, x), uploaded(device, np.array([0.3], np.float32))]
        at |= {lying: held[-2].address, factor: held[-1].address}
        for side, kind in zip(both, ("rows", "columns"), strict=True):
            if kind in kinds and side.k.size * side.lanes.size and min(side.k.size, side.lanes.size) <= 128:
                packed.append(Packed(lying, side, bits, factor if of.factor else None))
                seen = x[:, side.lanes.offsets()[:, None] + side.k.offsets()[None, :]]
                values.append(seen * np.float32(0.3) if of.factor else seen)
    fresh = shelf.take(packed, how)
    scratch = device.allocate(shelf.end)
    device.upload(scratch.address, np.full(shelf.end, 255, np.uint8))

    def table(rows: Sequence[Sequence[int]]) -> int:
        held.append(uploaded(device, np.array(rows, np.uint64)))
        return held[-1].address

    launches: list[Launch] = packing(fresh, shelf.places, how, products, at.__getitem__, scratch.address, table)
    assert len(launches) == 1
    device.launch(launches[0])
    right = True
    for one, x in zip(packed, values, strict=True):
        for part, want in expected(x, bits).items():
            got = np.zeros(want.shape, want.dtype)
            assert got.nbytes == one.sizes(how)[part], part
            device.download(scratch.address + shelf.places[one][part], got)
            right = right and same(got, want)
    return right


@cache
def device() -> Device:
    return fake.Fake()


@needs_compiler
@pytest.mark.parametrize("kinds", ["rows", "columns", "rows columns"])
@pytest.mark.parametrize("bits", WIDTHS)
def test_what_is_packed_is_what_numpy_makes_of_it(bits: int, kinds: str) -> None:
    assert found(device(), SIZES, bits, kinds)


def test_both_operands_of_a_matrix_are_packed_of_one_reading() -> None:
    rows, columns, size = sides(SIZES[0])
    lying, scaled = View(0, 0, (2, size), (size, 1), "f32"), View(1, 0, (1,), (1,), "f32")
    first, second, third = Packed(lying, columns, 14), Packed(lying, rows, 14), Packed(lying, rows, 14, scaled)
    both, alone = matrices([third, first, second])
    assert (both.by_rows, both.by_columns, both.parts) == (second, first, 1)
    assert (alone.by_rows, alone.by_columns, alone.parts) == (third, None, 2)


CHANGES = {
    "a factor": ("by = words[10] ? *(const float *)words[10] : 1.0f", "by = 1.0f"),
    "a factor of pieces": ("four = times(*(const float4 *)from, by);\n        *(float4", "four = *(const float4 *)from;\n        *(float4"),
    "a factor of largest magnitudes": ("const float4 four = times(*(const float4 *)from, by)", "const float4 four = *(const float4 *)from"),
    "pieces with an end in their middle": ("columns % 4 == 0 && (u64)x", "(u64)x"),
    "pieces of rows that lie where a table says": ("!of[4] && !of[6]", "!of[6]"),
    "pieces of columns that lie apart": ("of[7] == 1 && row_step", "row_step"),
    "which rows are looked through": ("from += step * row_step) {", "from += row_step) {"),
    "sums over k that begin at zero": ("tops[thread] = 0, along[thread] = 0;", "tops[thread] = 0, along[thread] = 1;"),
    "when integers are limited": ("at_limit(top, bits)", "at_limit(top, bits + 1)"),
    "which columns of a sum have which bytes": ("lower = g < 4 ? 0 : one", "lower = g < 4 ? one : 0"),
    "how far planes lie apart": ("to, deep * by_column.padded * ROW", "to, by_column.padded * ROW"),
    "which rows a block has": ("group < (part + 1) * each", "group < part * each + 1"),
    "a row's maximum": ("for (int far = 4; far < (wide ? 32 : 16); far *= 2) top =", "for (int far = 4; far < 16; far *= 2) top ="),
    "a row's sum": ("for (int far = 4; far < (wide ? 32 : 16); far *= 2) sum +=", "for (int far = 4; far < 16; far *= 2) sum +="),
    "a column's sum": ("for (int far = 4; far < 16; far *= 2) sum +=", "for (int far = 4; far < 8; far *= 2) sum +="),
    "the last row": ("row >= (int)of[8] ||", "row >= (int)of[8] - 1 ||"),
    "the last row of pieces": ("row + first + r < rows)", "row + first + r < rows - 1)"),
    "the last columns": ("even && at < columns ? x", "even && at < columns - 4 ? x"),
    "a column's scale": ("mine, tops[column], bits", "mine, tops[column & 63], bits"),
    "a column's largest magnitude": ("highs[1] = maximum_of_size(highs[1], four.y)", "highs[1] = maximum_of_size(highs[1], four.x)"),
    "sums that begin anew": ("own = 0;", ""),
    "a column's group": ("sums[1 + turn]);", "sums[1]);"),
    "where k lies": ("group % 2 * TAKEN + 16 * four_chunks", "16 * four_chunks"),
    "whose chunk of k a sum is": ("(2 * t + i % 2) % chunks", "(2 * t + i % 2) % 4"),
    "which element of a chunk": ("(g + i / 2 * 8) * 8", "g * 8"),
    "two words of a sum": ("mma_s8(across, last_two, words[z] + 2);", "mma_s8(across, last_two, words[z]);"),
    "what a plane counts for": ("sum += (1 << BASE * (OWN - 1 - z)) * own;\n        mma", "sum += own;\n        mma"),
    "integers that are limited": ("if (limits) {", "if (false) {"),
    "how integers are limited": ("(i32)none + most), (i32)none - most)", "(i32)none + most), (i32)none - most - 1)"),
    "which elements of a tile are a row's": ("((16 * chunk) ^ shift_of(own) ^ 4 * w)", "((16 * chunk) ^ shift_of(own) ^ 4 * (w & 1))"),
    "which are a column's": ("(column ^ four_chunks << 3 ^ (i & 3) << 2)", "(column ^ four_chunks << 3)"),
    "where pieces are written": ("(at ^ shift_of(first + r))", "at"),
    "where elements are written": ("((at + i) ^ shift_of(row))", "(at + i)"),
    "a set of warps": ("for (int unit = set; unit", "for (int unit = 0 * set; unit"),
    "a table of places": ("of[5], row) +", "of[5], 0) +"),
    "what checks k": ("i32 all = 1;", "i32 all = 0;"),
    "what checks nothing": ("behind_k < rows ? all : 0", "all"),
    "what checks k, of all rows": ("= sum, every += sum;", "= every = sum;"),
}


@needs_compiler
@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_the_kernel_are_found(change: str) -> None:
    changed = Changed(*CHANGES[change])
    assert not all(found(changed, SIZES, 14, kinds) for kinds in ("rows columns", "rows"))
    assert changed.found


@pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC (nvidia-cuda-nvrtc-cu12) is not installed")
@pytest.mark.parametrize("bits", WIDTHS)
def test_no_register_goes_to_memory(bits: int) -> None:
    log = nvrtc.reported(of_heads(digits(bits)), "sm_90", "--ptxas-options=-v")[2]
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log
