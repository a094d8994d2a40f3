"""Attention whose scores stay on the chip: that they do in whichever way it is written, that the bits are the reference's, what is left alone, that
nothing runs before what it waits for, and that a flipped digit is found. Its products by themselves: test_cuda_onchip.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import count

import numpy as np
import pytest

from assay.exact import faults, reference
from assay.exact.cuda import attend, fake, rows, writer
from assay.exact.cuda.device import Description, Device, Launch
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.maps import Kernels, MapText
from assay.exact.cuda.product import Products
from assay.exact.cuda.streamed import Placed
from assay.exact.cuda.tiles import Digits
from assay.exact.inputs import Case, Writer, case, floats, program, whole
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.exact.wide import NARROW, shape_of
from assay.program import Part
from tests.exact.test_cuda_route import named
from tests.exact.test_cuda_rows import expanded, over, softmax, softmax_back

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
FAKE = Description("fake", "", "cpu", 1 << 30, 2, 1 << 20)
TIGHT = FAKE._replace(memory=1 << 20)
"""Without room for what one kernel could hand to another."""
H200 = Description("H200", "", "sm_90", 1 << 37, 132, 50 << 20)
Size = tuple[int, int, int, int]
"""Products of a batch, queries, keys, elements of a head."""


def turned(w: Writer, v: int) -> int:
    rank = len(w.type(v).shape)
    return w("permute", v, axes=(*range(rank - 2), rank - 1, rank - 2))


def inputs(size: Size, kind: str) -> list[np.ndarray]:
    """q, k, v, what the result is multiplied with to be its own gradient; what is added to scores: the first rows are masked as a whole where
    there are more queries than keys."""
    batch, r, n, d = size
    made = [floats(i, (batch, length, d), kind) for i, length in ((1, r), (2, n), (3, n), (4, r))]
    return [*made, np.where(np.arange(r)[:, None] + (n - r) >= np.arange(n)[None], np.float32(0), np.float32(-np.inf))]


def backward(w: Writer, q: int, k: int, v: int, g: int, p: int, ds: Callable[[int], int]) -> list[int]:
    """Of `p`, what v is multiplied with; `ds` makes the scores' gradient of that of p."""
    dv = w("matmul", turned(w, p), g)
    d = ds(w("matmul", g, turned(w, v)))
    return [w("matmul", turned(w, q), d), w("matmul", d, k), dv]


def masked(w: Writer, gradients: bool = True) -> Sequence[int]:
    """As torch's scaled_dot_product_attention becomes: a mask is added, rows without any key are zeros."""
    q, k, v, g, mask = range(5)
    p = softmax(w, w("matmul", q, turned(w, k)), mask)
    o = w("matmul", p, v)
    return [o, *(backward(w, q, k, v, w("mul", o, g), p, lambda dp: softmax_back(w, p, dp)) if gradients else [])]


def forward(w: Writer) -> Sequence[int]:
    return masked(w, False)


def by_hand(w: Writer) -> Sequence[int]:
    """Scaled; masked rows are NaN, since -inf - -inf is."""
    q, k, v, g, mask = range(5)
    s = w("matmul", q, turned(w, k))
    scale = expanded(w, w.f32(0.3), s)
    x = w("add", w("mul", s, scale), expanded(w, mask, s))
    e = w("exp", w("sub", x, expanded(w, over(w, "amax", x), x)))
    p = w("div", e, expanded(w, over(w, "sum", e), e))
    o = w("matmul", p, v)
    return [o, *backward(w, q, k, v, w("mul", o, g), p, lambda dp: w("mul", softmax_back(w, p, dp), scale))]


def dropped(w: Writer) -> Sequence[int]:
    """Dropout between the softmax and v, from whole numbers in memory."""
    q, k, v, g, mask = range(5)
    p = softmax(w, w("matmul", q, turned(w, k)), mask)
    kept = w("lt", 5, expanded(w, w("const", dtype="i64", bits=1 << 62), 5))
    zero, twice = (expanded(w, w.f32(x), p) for x in (0.0, 2.0))
    pd = w("select", kept, w("mul", p, twice), zero)
    o = w("matmul", pd, v)
    return [o, *backward(w, q, k, v, w("mul", o, g), pd, lambda dp: softmax_back(w, p, w("select", kept, w("mul", dp, twice), zero)))]


def sigmoids(w: Writer) -> Sequence[int]:
    """No row is reduced, so nothing but products is made again; scores as k q^T, whose lines by rows are keys."""
    q, k, v, g, _ = range(5)
    p = w("sigmoid", w("matmul", k, turned(w, q)))
    o = w("matmul", turned(w, p), v)
    one = expanded(w, w.f32(1.0), p)
    d = w("mul", w("matmul", v, turned(w, w("mul", o, g))), w("mul", p, w("sub", one, p)))
    return [o, w("matmul", d, q), w("matmul", turned(w, d), k), w("matmul", p, w("mul", o, g))]


def wanted(w: Writer) -> Sequence[int]:
    """The weights are a result, too, so they are in memory; the scores are not."""
    o, *rest = masked(w)
    return [o, *rest, next(i for i in count(o - 1, -1) if w.nodes[i - len(w.inputs)].op == "select")]


def grouped_heads(w: Writer) -> Sequence[int]:
    """Two texts of six heads, of which three each share their keys and values (inputs 5 and 6)."""
    q, g = (w("reshape", v, shape=(2, 2, 3, *w.type(v).shape[1:])) for v in (0, 3))
    k, v = (w("expand", w("reshape", u, shape=(2, 2, 1, *w.type(u).shape[1:])), shape=(2, 2, 3, *w.type(u).shape[1:])) for u in (5, 6))
    p = softmax(w, w("matmul", q, turned(w, k)), 4)
    o = w("matmul", p, v)
    return [o, *backward(w, q, k, v, w("mul", o, g), p, lambda dp: softmax_back(w, p, dp))]


def scored(w: Writer) -> Sequence[int]:
    """As `sigmoids`; the gradient is made of the scores, too."""
    q, k, v, g, _ = range(5)
    s = w("matmul", k, turned(w, q))
    p = w("sigmoid", s)
    d = w("mul", w("matmul", v, turned(w, g)), w("mul", p, s))
    return [w("matmul", p, g), w("matmul", d, q)]


def shifted(w: Writer) -> Sequence[int]:
    """Exponentials of scores less the maximum of others, divided by the sum of others."""
    q, k, v, _, _ = range(5)
    s = w("matmul", q, turned(w, k))
    e = w("exp", w("sub", s, expanded(w, over(w, "amax", w("neg", s)), s)))
    return [w("matmul", w("div", e, expanded(w, over(w, "sum", w("mul", e, e)), e)), v)]


def attention(write: Callable[[Writer], Sequence[int]], size: Size, kind: str = "even", bits: int = 14) -> Case:
    given = inputs(size, kind)
    if write is dropped:
        given.append(whole(5, size[:3], "i64"))
    if write is grouped_heads:
        given += [floats(i, (4, size[2], size[3]), kind) for i in (5, 6)]
    return case(f"{write.__name__} {size} {kind} {bits}", given, write, bits)


WAYS = [masked, by_hand, dropped, sigmoids, wanted]
CASES = {
    c.name: c for c in [
        *(attention(write, (2, 20, 31, 16)) for write in WAYS), attention(masked, (3, 32, 17, 24)), attention(grouped_heads, (12, 18, 18, 16)),
        attention(masked, (2, 31, 25, 16), "rare"), attention(by_hand, (1, 27, 18, 40), "wide"), attention(shifted, (1, 20, 64, 16)),
        attention(masked, (2, 64, 128, 16), "rare"), attention(dropped, (1, 64, 64, 16)), attention(sigmoids, (1, 64, 128, 16), "rare"),
        attention(scored, (1, 64, 128, 16)),
    ]
}  # fmt: skip
LONG = {
    c.name: c for c in [
        attention(masked, (1, 200, 200, 128)), attention(masked, (1, 130, 67, 80)), attention(dropped, (1, 40, 129, 64), "rare"),
        *(attention(masked, (2, 20, 31, 16), "wide", bits) for bits in (8, 15, 23)), attention(sigmoids, (2, 70, 140, 33)),
        *(attention(forward, (1, 20, n, 8), "rare") for n in (1088, 1100)),
    ]
}  # fmt: skip


def fused(part: Part, description: Description = FAKE) -> Plan:
    return Plan(part, {}, 14, rows=True, attention=attend.taking(description))


def kernels(part: Part, description: Description = FAKE) -> list[Step]:
    return steps_of(fused(part, description))


def steps_of(plan: Plan) -> list[Step]:
    return [step for step in plan.steps if step.name == "attend"]


def compiled(parts: Sequence[Case]) -> tuple[Device, Kernels]:
    """A device with all kernels of some parts, compiled at once."""
    made = fake.Fake()
    plans = [Plan(c.part, {}, c.gemm_bits, rows=True, attention=attend.taking(made.description)) for c in parts]
    found = Kernels(made)
    found.compile(rows.texts(plans))
    attend.compiled(found, attend.kernels(plans, made.description))
    return made, found


@cache
def device() -> tuple[Device, Kernels]:
    return compiled(list(CASES.values()))


def agrees(c: Case, on: tuple[Device, Kernels] | None = None, products: Products | None = None) -> bool:
    values = reference.evaluate(c.part, c.inputs, c.gemm_bits)
    got = Cuda(program(c.part, c.gemm_bits), *(on or device()), products).run("micro", named(c))
    return all(got[o.name].tobytes() == np.asarray(values[o.value]).tobytes() for o in c.part.outputs)


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_attention_has_the_bits_of_the_reference(name: str) -> None:
    assert agrees(CASES[name])


@needs_compiler
@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix_and_its_own_transpose(transposed: bool) -> None:
    """Both operands are the same elements, once as rows and once as columns of a view: they are packed once, and for both."""

    def gram(w: Writer) -> Sequence[int]:
        x, y = (0, turned(w, 0))[:: -1 if transposed else 1]
        return [over(w, "sum", w("matmul", x, y))]

    c = case("gram", [floats(1, (70, 20) if not transposed else (20, 70), "even")], gram)
    assert [s.name for s in fused(c.part).steps] == ["attend"]
    assert agrees(c, compiled([c]))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_longer_and_wider_attention(name: str) -> None:
    assert agrees(LONG[name], compiled([LONG[name]]))


# ---- what is kept away ----------------------------------------------------------------------------------------------------


def in_memory(plan: Plan, elements: int) -> int:
    """Values of so many elements that have places."""
    return len({v.root for step in plan.steps for v in step.writes if plan.bytes_of(v.root) == 4 * elements})


def test_only_what_is_bounded_by_its_own_row_is_made_in_a_shorter_way() -> None:
    """Exponentials of what is less its row's maximum, also where that lies in memory; quotients of what is divided by its own sum."""
    for write, bounded in ((masked, True), (by_hand, True), (shifted, False)):
        plan = fused(attention(write, (2, 64, 128, 16)).part, TIGHT)
        texts = [(made.text.text, shape_of(step).by_columns) for made, step in zip(attend.kernels([plan], TIGHT), steps_of(plan), strict=True)]
        assert len(texts) == (3 if bounded else 1)
        for text, by_columns in texts:
            assert ("= exp_low_f32(" in text, "= exp_f32(v" in text) == (bounded, not bounded)
            assert ("quotients_of<2>(" in text) == (bounded and not by_columns)


@pytest.mark.parametrize(("write", "kept"), [(masked, True), (scored, False)])
def test_a_value_is_kept_where_nobody_reads_scores_any_more(write: Callable[[Writer], Sequence[int]], kept: bool) -> None:
    """By columns weights are made once for dv and dS, unless both need the scores: then each of the two planes is still read."""
    texts = [made.text.text for made in attend.kernels([fused(attention(write, (2, 64, 128, 16)).part, TIGHT)], TIGHT)]
    (twice,) = (text for text in texts if text.count("product_out<") == 2)
    assert ("kept(kv" in twice) == kept
    assert twice.count("exp_low_f32(" if write is masked else "sigmoid_f32(") == (1 if kept else 2)


@pytest.mark.parametrize("write", [masked, by_hand, dropped, sigmoids])
@pytest.mark.parametrize("description", [FAKE, H200])
def test_nothing_as_large_as_the_scores_has_a_place(write: Callable[[Writer], Sequence[int]], description: Description) -> None:
    c = attention(write, (2, 37, 41, 16))
    plan = fused(c.part, description)
    assert in_memory(Plan(c.part, {}, 14, rows=True), 2 * 37 * 41) >= 4
    assert in_memory(plan, 2 * 37 * 41) == 0
    assert [step.name for step in plan.steps if step.name in ("matmul", "rows")] == []
    columns = 2 if write is sigmoids else 1  # what is multiplied with the one is the other's gradient
    assert [shape_of(step).by_columns for step in plan.steps if step.name == "attend"].count(True) == columns


def test_a_value_that_is_wanted_is_stored_and_no_other() -> None:
    plan = fused(attention(wanted, (2, 37, 41, 16)).part)
    assert in_memory(plan, 2 * 37 * 41) == 1
    assert len([step for step in plan.steps if step.name == "attend"]) == 3


def test_without_gradients_there_is_one_kernel_that_stores_its_result_alone() -> None:
    (step,) = kernels(attention(lambda w: masked(w, False), (2, 37, 41, 16)).part)
    assert len(step.writes) == 1


def test_reductions_are_made_once() -> None:
    c = attention(masked, (2, 37, 41, 16))
    parts = [part.name for step in kernels(c.part) for part in step.parts]
    assert parts.count("amax") == 1
    assert parts.count("sum") == 2
    assert parts.count("matmul") == 1 + 2 + 2 + 4


def test_equal_keys_of_several_heads_are_packed_once() -> None:
    found = attend.kernels([fused(attention(grouped_heads, (12, 18, 18, 16)).part)], FAKE)
    assert {packed.side.products for kernel in found for packed in kernel.packed} == {4, 12}


def test_what_follows_at_once_packs_nothing_again() -> None:
    plan = fused(attention(masked, (2, 37, 41, 16)).part)
    second, third = (set(attend.attend(step, FAKE, plan).packed) for step in plan.steps[-2:])
    assert len(second & third) >= 4


def other_reader(w: Writer) -> Sequence[int]:
    """Scores that are turned round for another softmax."""
    s = w("matmul", 0, turned(w, 1))
    t = turned(w, s)
    e = w("exp", w("sub", t, expanded(w, over(w, "amax", t), t)))
    return [w("matmul", w("exp", s), 2), e]


def whole_heads(w: Writer) -> Sequence[int]:
    """Weights that are multiplied with more than NARROW lanes."""
    p = softmax(w, w("matmul", 0, turned(w, 1)), 4)
    return [w("matmul", p, 5)]


@pytest.mark.parametrize("write", [other_reader, whole_heads])
def test_what_is_read_in_other_ways_stays(write: Callable[[Writer], Sequence[int]]) -> None:
    c = case("", [*inputs((2, 37, 41, 16), "even"), floats(5, (2, 41, NARROW + 1), "even")], write)
    assert kernels(c.part) == []
    assert fused(c.part).steps == Plan(c.part, {}, 14, rows=True).steps


def test_what_does_not_fit_the_device_stays() -> None:
    """Shared memory holds one line of scores of 5000 keys, not eight; with less of it, by columns alone where there are few queries."""
    assert kernels(attention(masked, (1, 5000, 5000, 16)).part, H200) == []
    short = kernels(attention(masked, (1, 24, 3000, 16)).part)
    assert [shape_of(step).elements for step in short] in ([], [24])


def test_a_trace_fuses_nothing() -> None:
    part = attention(masked, (2, 37, 41, 16)).part
    assert Plan(part, {}, 14, trace=True, rows=True, attention=attend.taking(FAKE)).steps == Plan(part, {}, 14, trace=True).steps


def chained(w: Writer) -> Sequence[int]:
    """The weights' product is needed for what they are multiplied with next: one kernel cannot make both."""
    p = softmax(w, w("matmul", 0, turned(w, 1)), 4)
    first = w("matmul", p, 2)
    return [w("matmul", p, w("add", 2, w("expand", over_rows(w, first), shape=w.type(2).shape)))]


def over_rows(w: Writer, v: int) -> int:
    return w("sum", v, axes=(1,), keepdim=True)


@needs_compiler
def test_kernels_do_not_wait_for_each_other_in_a_circle() -> None:
    c = case("chained", inputs((2, 29, 21, 16), "even"), chained)
    assert len(kernels(c.part)) == 2
    assert agrees(c)


# ---- faults ---------------------------------------------------------------------------------------------------------------------


class Flipping(Products):
    """Flips a bit of the digits of each operand that is packed for the chip, `times` in all."""

    def __init__(self, made: Device, found: Kernels, times: int) -> None:
        super().__init__(made)
        found.compile([MapText("flip", "KERNEL flip(u64 *left, u8 *digits) { if (*left) { *left -= 1; digits[0] ^= 1; } }")])
        self._left = made.allocate(8)
        made.upload(self._left.address, np.array([times], np.uint64))
        self._flip = found["flip"]

    def heads(self, how: Digits, bits: int, given: Sequence[Placed], table: Callable[[Sequence[Sequence[int]]], int]) -> list[Launch]:
        to = [words[1] for placed in given for words in (placed.by_rows, placed.by_columns) if words[1]]
        return [*super().heads(how, bits, given, table), *(Launch(self._flip, (1, 1, 1), (1, 1, 1), (self._left.address, digits)) for digits in to)]


@needs_compiler
def test_a_flipped_digit_is_found_and_the_part_made_again() -> None:
    c = CASES["masked (2, 20, 31, 16) even 14"]
    before = faults.count()
    assert agrees(c, products=Flipping(*device(), 1))
    assert faults.count() > before
    with pytest.raises(faults.HardwareFault):
        agrees(c, products=Flipping(*device(), 1000))


# ---- that these tests find what they are for --------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(("of", "instead"), [
    ("z * (u32)lines", "0u * (u32)lines"), (" + warp * pitch", ""), ("if (lane == 0) tops[warp] = td0;", ""),
], ids=str)  # fmt: skip
def test_changes_of_a_kernel_are_found(of: str, instead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = writer.Writer.written

    def wrong(self: writer.Writer) -> writer.Attend:
        made = right(self)
        assert of in made.text.text
        name = f"wrong_{made.text.name}"
        return made._replace(text=MapText(name, made.text.text.replace(made.text.name, name).replace(of, instead)))

    monkeypatch.setattr(writer.Writer, "written", wrong)
    c = attention(wanted, (2, 20, 31, 16))
    assert not agrees(c, compiled([c]))
