"""Attention on the chip without what a constant mask empties: the bits are the reference's whatever the mask and the values, what is said to be left
out is not fetched, where something must not be left out it is not, and changes of all this are found. Products of a part of their lanes and of k by
themselves: test_cuda_onchip.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from assay.exact import faults, reference
from assay.exact.cuda import attend, fake, intervals, rows, spans
from assay.exact.cuda.blocks import before
from assay.exact.cuda.device import Description, Device, Launch
from assay.exact.cuda.maps import Kernels, MapText
from assay.exact.cuda.operands import Operand
from assay.exact.cuda.product import Products
from assay.exact.cuda.tiles import NARROW, Digits, Layout
from assay.exact.cuda.writer import Attend
from assay.exact.inputs import Case, Writer, case, whole
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.exact.wide import shape_of
from tests.exact.test_cuda_attention import FAKE, H200, Flipping, Size, agrees, backward, inputs, turned
from tests.exact.test_cuda_rows import expanded, over, softmax_back

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
Masked = Callable[[Writer, int, int], int]
"""Of two whole numbers for each score, its query and its key, whether the key is seen."""


def number(w: Writer, x: int) -> int:
    return w("const", dtype="i64", bits=x % (1 << 64))


def causal(w: Writer, query: int, key: int) -> int:
    return w("le", key, query)


def window(w: Writer, query: int, key: int) -> int:
    return w("and", w("le", key, query), w("gt", key, w("sub", query, number(w, 30))))


def blocks(w: Writer, query: int, key: int) -> int:
    """Two texts, one behind the other."""
    return w("eq", *(w("cast", w("lt", v, number(w, 70)), dtype="i64") for v in (query, key)))


def blind(w: Writer, query: int, key: int) -> int:
    """The first 20 queries see no key."""
    return w("le", key, w("sub", query, number(w, 20)))


def units(w: Writer, query: int, key: int) -> int:
    """The same where units of 64 end: nothing that is made is masked."""
    return w("eq", *(w("cast", w("lt", v, number(w, 64)), dtype="i64") for v in (query, key)))


def seen(w: Writer, scores: int, mask: Masked) -> int:
    r, n = w.type(scores).shape[-2:]
    query, key = w("reshape", w("iota", n=r), shape=(r, 1)), w("reshape", w("iota", n=n), shape=(1, n))
    zero = w("expand", w("reshape", number(w, 0), shape=(1, 1)), shape=(r, n))
    return mask(w, w("add", query, zero), w("add", key, zero))


def weights(w: Writer, x: int) -> int:
    e = w("exp", w("sub", x, expanded(w, over(w, "amax", x), x)))
    return w("div", e, expanded(w, over(w, "sum", e), e))


def gradients(w: Writer, p: int, ds: Callable[[int], int], of: int | None = None) -> list[int]:
    """With the result. `of`: what v is multiplied with, if it is not p."""
    q, k, v, g = range(4)
    o = w("matmul", p if of is None else of, v)
    return [o, *backward(w, q, k, v, w("mul", o, g), p if of is None else of, ds)]


def filling(w: Writer, with_: float, mask: Masked) -> Sequence[int]:
    """Scaled, and other numbers where the mask is: masked_fill, as PyTorch's own."""
    s = w("matmul", 0, turned(w, 1))
    kept, scale, other = expanded(w, seen(w, s, mask), s), expanded(w, w.f32(0.3), s), expanded(w, w.f32(with_), s)
    p = weights(w, w("select", kept, w("mul", s, scale), other))
    zero = expanded(w, w.f32(0.0), s)
    return gradients(w, p, lambda dp: w("mul", w("select", kept, softmax_back(w, p, dp), zero), scale))


def adding(w: Writer, added: float, mask: Masked) -> Sequence[int]:
    """As torch's scaled_dot_product_attention becomes: rows without any key are zeros."""
    s = w("matmul", 0, turned(w, 1))
    x = w("add", s, expanded(w, w("select", seen(w, s, mask), w.f32(0.0), w.f32(added)), s))
    most = over(w, "amax", x)
    none = expanded(w, w("eq", most, expanded(w, w.f32(-np.inf), most)), s)
    e = w("exp", w("sub", x, expanded(w, most, s)))
    p = w("select", none, expanded(w, w.f32(0.0), s), w("div", e, expanded(w, over(w, "sum", e), e)))
    return gradients(w, p, lambda dp: softmax_back(w, p, dp))


def leaking(w: Writer, mask: Masked) -> Sequence[int]:
    """What is masked counts for e^0 in maxima and sums, and for nothing in what follows."""
    s = w("matmul", 0, turned(w, 1))
    kept, zero = expanded(w, seen(w, s, mask), s), expanded(w, w.f32(0.0), s)
    p = w("select", kept, weights(w, w("select", kept, s, zero)), zero)
    return gradients(w, p, lambda dp: w("select", kept, softmax_back(w, p, dp), zero))


def linear(w: Writer, mask: Masked) -> Sequence[int]:
    """No softmax: scores times a mask of zeros and ones."""
    s = w("matmul", 0, turned(w, 1))
    kept = expanded(w, w("cast", seen(w, s, mask), dtype="f32"), s)
    return gradients(w, w("mul", s, kept), lambda dp: w("mul", dp, kept))


def dropping(w: Writer, mask: Masked) -> Sequence[int]:
    """Dropout by whole numbers in memory, and the softmax's gradient as p (dp - sum)."""
    s = w("matmul", 0, turned(w, 1))
    p = weights(w, w("add", s, expanded(w, w("select", seen(w, s, mask), w.f32(0.0), w.f32(-np.inf)), s)))
    kept = w("lt", 5, expanded(w, w("const", dtype="i64", bits=1 << 62), 5))
    zero, twice = (expanded(w, w.f32(x), p) for x in (0.0, 2.0))

    def ds(d: int) -> int:
        dp = w("select", kept, w("mul", d, twice), zero)
        return w("mul", p, w("sub", dp, expanded(w, over(w, "sum", w("mul", p, dp)), p)))

    return gradients(w, p, ds, w("select", kept, w("mul", p, twice), zero))


LOWEST = float(np.finfo(np.float32).min)
WAYS: dict[str, Callable[[Writer, Masked], Sequence[int]]] = {
    "added -inf": lambda w, mask: adding(w, -np.inf, mask), "filled -1e9": lambda w, mask: filling(w, -1e9, mask), "leaking": leaking,
    "filled -inf": lambda w, mask: filling(w, -np.inf, mask), "added lowest": lambda w, mask: adding(w, LOWEST, mask), "linear": linear,
    "dropping": dropping,
}  # fmt: skip


Change = Callable[[list[np.ndarray]], None]


def attention(way: str, mask: Masked, size: Size, kind: str = "even", bits: int = 14, change: Change | None = None) -> Case:
    given = inputs(size, "even" if kind == "huge" else kind)
    if kind == "huge":
        given[0], given[1] = given[0] * np.float32(2e19), given[1] * np.float32(2e19)
    if change is not None:
        change(given)
    given += [whole(5, size[:3], "i64")] if way == "dropping" else []
    name = f"{way} {mask.__name__} {size} {kind} {bits}{f' {change.__name__}' if change is not None else ''}"
    return case(name, given, lambda w: WAYS[way](w, mask), bits)


def last_key(given: list[np.ndarray]) -> None:
    """A NaN that most queries do not see."""
    given[1][:, -1, 3] = np.nan


def last_value(given: list[np.ndarray]) -> None:
    given[2][:, -1, 3] = -np.inf


def first_query(given: list[np.ndarray]) -> None:
    given[0][:, 0, 1] = np.inf


def first_gradient(given: list[np.ndarray]) -> None:
    given[3][:, 2, 5] = np.nan


def large_query(given: list[np.ndarray]) -> None:
    """Its scores are infinite where it does not see them, and there alone."""
    given[0][:, 0], given[1][:, :64], given[1][:, 64:] = 1e33, 1e-3, 1e7


def negative(given: list[np.ndarray]) -> None:
    """All scores."""
    given[0], given[1] = abs(given[0]) + np.float32(0.1), -abs(given[1]) - np.float32(0.1)


SHORT, LONG = (2, 130, 130, 16), (1, 200, 200, 24)
FULL = (2, 128, 192, 16)
"""Lines of whole units, whose elements are made two at a time."""
FOUND = [
    *(attention("added -inf", mask, SHORT) for mask in (causal, window, blocks, blind)),
    *(attention("added -inf", causal, (2, n, n, 16)) for n in (65, 80, 127, 128, 129)),
    *(attention("added -inf", causal, SHORT, kind) for kind in ("rare", "wide", "huge", "tiny")), attention("added -inf", window, LONG),
    *(attention("added -inf", causal, SHORT, change=change) for change in (last_key, last_value, first_query, first_gradient, large_query)),
    *(attention("filled -1e9", mask, SHORT) for mask in (causal, window, blind)), attention("filled -1e9", causal, SHORT, "rare"),
    *(attention("added -inf", mask, FULL) for mask in (causal, window)), *(attention("filled -1e9", causal, FULL, kind) for kind in ("rare", "tiny")),
]  # fmt: skip
SLOW = [
    attention("leaking", causal, SHORT), attention("leaking", blind, SHORT, "wide"), attention("leaking", units, SHORT, change=negative),
    attention("leaking", window, SHORT, change=last_key), *(attention("dropping", causal, FULL, kind) for kind in ("even", "rare", "huge")),
    *(attention(way, mask, FULL) for way in ("leaking", "linear", "added lowest") for mask in (causal, blind)),
    *(attention("added -inf", causal, FULL, "wide", bits) for bits in (8, 15, 23)),
    *(attention(way, mask, SHORT) for way in ("filled -inf", "added lowest", "linear", "dropping") for mask in (causal, blind)),
    *(attention(way, causal, SHORT, "rare") for way in ("filled -inf", "added lowest", "linear", "dropping")),
    *(attention(way, causal, SHORT, change=change) for way in ("linear", "dropping") for change in (last_key, last_value, first_gradient)),
    *(attention("added -inf", mask, SHORT, "wide", bits) for bits in (8, 15, 23) for mask in (causal, blind)),
    attention("added -inf", causal, (1, 960, 960, 8)), attention("filled -1e9", window, (1, 260, 260, 128)),
]  # fmt: skip
ALONE = [attention("added -inf", causal, (1, n, n, 16)) for n in (40, 64)]
"""Lines of one unit: nothing is left out."""


def planned(c: Case, description: Description = FAKE) -> Plan:
    return Plan(c.part, {}, c.gemm_bits, rows=True, attention=attend.taking(description))


def kernels(c: Case, description: Description = FAKE) -> list[Attend]:
    return attend.kernels([planned(c, description)], description)


def steps(c: Case) -> list[Step]:
    return [step for step in planned(c).steps if step.name == "attend"]


def compiled(
    cases: Sequence[Case], change: Callable[[str], str] = str, more: Sequence[MapText] = (), order: fake.Order = fake.Order.BY_TURNS,
) -> tuple[Device, Kernels]:  # fmt: skip
    """A device with all kernels of some cases, whose text, and that of what they call, `change` may change."""
    made, found = fake.Fake(order=order), {}
    for c in cases:
        for one in kernels(c):
            found[one.text.name] = one
    everything = Kernels(made)
    everything.compile(rows.texts(planned(c) for c in cases))
    for how, ring in {(one.how, one.ring) for one in found.values()}:
        several = [each for one in found.values() if (one.how, one.ring) == (how, ring) for each in (one, one.whole) if each is not None]
        texts = {each.text.name: MapText(each.text.name, change(each.text.text)) for each in several}
        everything.compile([*texts.values(), *more], change(before(how, ring)))
    return made, everything


COUNTER = MapText("counted", "KERNEL counted(u64 *out) { *out = fetches; fetches = 0; }")


def counting(text: str) -> str:
    """Counts each thread that starts to fetch a unit."""
    fetching = " fetch_unit<BR>(rings +"
    return text.replace("#ifndef RING", "static u64 fetches;\n#ifndef RING", 1).replace(fetching, f" fetches++,{fetching}")


@cache
def device() -> tuple[Device, Kernels]:
    return compiled([*FOUND, *ALONE], counting, [COUNTER])


@needs_compiler
@pytest.mark.parametrize("c", [pytest.param(c, id=c.name) for c in (*FOUND, *ALONE)])
def test_attention_has_the_bits_of_the_reference(c: Case) -> None:
    assert any(one.spans is not None for one in kernels(c)) == (c not in ALONE)
    assert agrees(c, device())


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("c", [pytest.param(c, id=c.name) for c in SLOW])
def test_other_masks_digits_and_lengths(c: Case) -> None:
    assert any(one.spans is not None for one in kernels(c))
    assert agrees(c, compiled([c]))


# ---- what is left out ---------------------------------------------------------------------------------------------------


def masked(mask: Masked, size: Size) -> np.ndarray:
    """Whether a query sees a key, by the reference."""
    w = Writer(np.zeros(size[1:3], np.float32))
    part = w.part(w("cast", seen(w, 0, mask), dtype="f32"))
    return reference.evaluate(part, [np.zeros(size[1:3], np.float32)], 14)[part.outputs[0].value] != 0


@pytest.mark.parametrize("mask", [causal, window, blocks, blind])
@pytest.mark.parametrize("size", [SHORT, LONG, (1, 300, 140, 8)])
def test_spans_have_all_that_is_seen_and_end_with_the_unit_of_that(mask: Masked, size: Size) -> None:
    by_query = masked(mask, size)
    for one, step in zip(kernels(c := attention("added -inf", mask, size)), steps(c), strict=True):
        shape = shape_of(step)
        lines = by_query.T if shape.by_columns else by_query
        n, high = lines.shape[1], one.threads // 32
        assert one.spans is not None
        assert sorted(block for block, _, _ in one.spans.blocks) == list(range(-(-len(lines) // high)))
        lengths = [end - begin for _, begin, end in one.spans.blocks]
        assert lengths == sorted(lengths, reverse=True)
        for block, begin, end in one.spans.blocks:
            some = np.flatnonzero(lines[block * high : (block + 1) * high].any(0))
            first, last = (some[0], some[-1]) if len(some) else (0, 0)
            assert (begin, end) == (first // 64 * 64, min(n, (last // 64 + 1) * 64))


def test_half_of_a_long_causal_text_is_left_out() -> None:
    """Of 64 blocks of 16 lines each four end with the same unit of 64."""
    for one in kernels(attention("added -inf", causal, (1, 1024, 1024, 64)), H200):
        assert one.spans is not None
        assert one.threads == 32 * 16
        assert one.spans.elements == sum(4 * 64 * units for units in range(1, 17))


def expected(c: Case) -> int:
    """Units that all kernels fetch, of 16 lanes and 64 elements of k (with 8 lines a block half as many lanes, or half as much k), if no block
    makes whole lines after all."""
    count = 0
    for one, step in zip(kernels(c), steps(c), strict=True):
        shape, (makers, uses) = shape_of(step), attend.streams(step)
        assert one.spans is not None
        lines = one.threads // 32
        for _, begin, end in one.spans.blocks:
            lanes = sum(-(-packed.side.k.size // NARROW.width) * -(-(end - begin) // lines) for packed in makers)
            rows = 16 // lines * -(-(end - begin) // NARROW.width)
            count += shape.batch * (lanes + sum(-(-packed.side.lanes.size // 16) * rows for packed in uses))
    return count


def fetched(c: Case, on: tuple[Device, Kernels]) -> int:
    """What is fetched while a case is computed."""
    out, count = on[0].allocate(8), np.zeros(1, np.uint64)
    counted = Launch(on[1]["counted"], (1, 1, 1), (1, 1, 1), (out.address,))
    on[0].launch(counted)
    assert agrees(c, on)
    on[0].launch(counted)
    on[0].download(out.address, count)
    return int(count[0]) // 32


@needs_compiler
def test_what_is_left_out_is_not_fetched_unless_it_has_to_be() -> None:
    plain = attention("added -inf", causal, SHORT)
    on = device()
    products = [sum(map(len, attend.streams(step))) for step in steps(plain)]
    assert products == [2, 3, 4]
    assert fetched(plain, on) == expected(plain)
    for change in (last_key, last_value, first_query):
        assert fetched(attention("added -inf", causal, SHORT, change=change), on) > expected(plain)


def source_of(mask: str) -> Case:
    """A mask that is given, weights that are wanted in memory, a number that scores may not hide."""
    given = inputs(SHORT, "even")

    def write(w: Writer) -> Sequence[int]:
        if mask == "weak":
            return adding(w, -1e9, causal)
        if mask == "given":
            return [w("matmul", weights(w, w("add", w("matmul", 0, turned(w, 1)), expanded(w, 4, w("matmul", 0, turned(w, 1))))), 2)]
        o, *rest = adding(w, -np.inf, causal)
        return [o, *rest, next(i for i in range(o, 0, -1) if w.nodes[i - len(w.inputs)].op == "select")]

    return case(mask, given, write)


@pytest.mark.parametrize("mask", ["weak", "given"])
def test_what_may_count_is_not_left_out(mask: str) -> None:
    assert [one.spans for one in kernels(source_of(mask))] == [None] * len(kernels(source_of(mask)))


def test_what_is_wanted_is_made_as_a_whole() -> None:
    assert kernels(source_of("wanted"))[0].spans is None


@pytest.mark.parametrize("mask", ["all", "most"])
def test_a_mask_that_empties_next_to_nothing_changes_no_kernel(mask: str) -> None:
    def everything(w: Writer, query: int, key: int) -> int:
        return w("le", key, w("add", query, number(w, 1000 if mask == "all" else 120)))

    assert all(one.spans is None and one.whole is None for one in kernels(attention("added -inf", everything, SHORT)))


# ---- faults, and that these tests find what they are for ----------------------------------------------------------------


@needs_compiler
def test_a_flipped_digit_is_found_and_the_part_made_again() -> None:
    before, c = faults.count(), FOUND[0]
    assert agrees(c, device(), products=Flipping(*device(), 1))
    assert faults.count() > before
    with pytest.raises(faults.HardwareFault):
        agrees(c, device(), products=Flipping(*device(), 1000))


@needs_compiler
def test_a_flipped_sum_of_any_group_is_found() -> None:
    """Sums over lanes that some blocks leave out: of keys by rows, of k."""
    c = FOUND[0]
    for group in range(3):
        before = faults.count()
        assert agrees(c, device(), products=Sums(*device(), group))
        assert faults.count() > before


def test_masks_that_are_intervals_are_told_and_others_are_read() -> None:
    for c in FOUND[:4]:
        found = [k for k in kernels(c) if k.whole is not None]
        assert found
        for k in found:
            assert k.whole is not None
            assert ("Told<float>" if c is FOUND[1] or c is FOUND[2] else "Cut<float>") in k.text.text
            assert "Told<" not in k.whole.text.text
            assert "Cut<" not in k.whole.text.text
            assert len(k.passes) == len(k.whole.passes) - 1
    mask = np.zeros((5, 40), np.uint32)
    for line, (begin, end) in enumerate(((0, 40), (3, 17), (39, 40), (0, 0), (20, 40))):
        mask[line, begin:end] = 7
    for array, (inside, outside) in ((mask, (7, 0)), (7 - mask, (0, 7))):
        told = intervals.intervals(array)
        assert told is not None
        assert told[1:] == (inside, outside)
        ends = np.reshape(told.ends, (5, 2))
        at = np.arange(40)
        assert np.array_equal((at >= ends[:, :1]) & (at < ends[:, 1:]), array == inside)
    assert intervals.intervals(np.full((3, 4), 9, np.uint32)) is not None
    for line, at, value in ((1, 10, 0), (3, 5, 8)):  # a hole on both sides of which there is something, and a third value
        other = mask.copy()
        other[line, at] = value
        other[0, 1] = 0
        assert intervals.intervals(other) is None


class Sums(Flipping):
    """Flips a bit of one group's sums, of the second operand that has three groups: keys."""

    def __init__(self, made: Device, found: Kernels, group: int) -> None:
        super().__init__(made, found, 1)
        self._group, self._seen = group, 0

    def packed(
        self, how: Digits, layout: Layout, bits: int, side: Operand, padded: int, x: int, top: int, digits: int, sums: tuple[int, int, int],
        groups: int = 0, factor: int = 0,
    ) -> tuple[Launch, ...]:  # fmt: skip
        rest = Products.packed(self, how, layout, bits, side, padded, x, top, digits, sums, groups, factor)
        at = groups + 4 * 128 * -(-side.k.size // 128) * self._group + 8
        self._seen += side.lanes.size == 130
        return *rest, *([Launch(self._flip, (1, 1, 1), (1, 1, 1), (self._left.address, at))] if groups and self._seen == 2 else [])


WHOLE = attention("added -inf", causal, FULL)
UNSEEN, LEAKING, WINDOW = attention("filled -1e9", blind, SHORT), attention("leaking", causal, SHORT), attention("added -inf", window, LONG)
KEY, QUERY = (attention("added -inf", causal, SHORT, change=change) for change in (last_key, large_query))
LOW = attention("leaking", units, SHORT, change=negative)
CHANGES: dict[str, tuple[str, str, Case]] = {
    "what a sum takes of what is left out": ("lane ? 0 : (u64)left *", "lane ? 0 : 0ull *", LEAKING),
    "what a maximum takes of it": ("hv1 = left ?", "hv1 = 0 ?", LOW),
    "how much is left out": ("left = n - some;", "left = n - some + 1u;", LEAKING),
    "that it may not be zero": ("fits = fits && (!left || (m", "fits = fits && (!left || true || (m", UNSEEN),
    "that it may not be zero, by columns": ("fits = fits && m", "fits = fits && true || m", UNSEEN),
    "that it may not be bounded": ("|| bounded<BR>(", "|| true || bounded<BR>(", KEY),
    "a value that is not bounded": ("if (j >= span.begin && j < span.end) continue;", "if (j >= span.begin) continue;", KEY),
    "queries that are not bounded": ("from_last < BR ? a.top[first + (i32)from_last] : 0u", "0u", QUERY),
    "a block that says nothing": ("if (threadIdx.x == 0) *flag = 1;", "if (threadIdx.x == 0) *flag = 0;", UNSEEN),
    "a block that says it of another": ("+ own[0];", "+ 0;", UNSEEN),
    "a block that is not made again": ("block += gridDim.x", "block += 2 * gridDim.x", UNSEEN),
    "where a mask begins": ("[2 * (first + warp)] - from,", "[2 * (first + warp)],", WINDOW),
    "where a mask ends": ("(u32)e - begin < size ?", "(u32)e - begin <= size ?", WINDOW),
    "where a line begins": ("+ warp * pitch + from;", "+ warp * pitch;", WINDOW),
    "where digits begin": ("(int)warp, from,", "(int)warp, 0u,", WINDOW),
    "which rows are left out, by columns": ("[(int)(e - from)]", "[(int)e]", UNSEEN),
    "where a thread's elements are": ("64u * (u32)g + 2u * lane;", "64u * (u32)g + 2u * (lane ^ 1u);", WINDOW),
    "the end of a line's elements": ("if (64u * (u32)g >= some) break;", "if (64u * (u32)g + 64u >= some) break;", WHOLE),
    "the first of two elements": ("x[0] = both.x, x[1] = both.y;", "x[0] = both.y, x[1] = both.y;", WHOLE),
    "two digits": ("(u32)d[1][z], 0x0040)", "(u32)d[0][z], 0x0040)", WHOLE),
    "two low digits": ("(u32)q[1], 0x0040)", "(u32)q[0], 0x0040)", WHOLE),
    "the sum of two digits": ("(u32)line.sum + (u32)q[0] + (u32)q[1]", "(u32)line.sum + (u32)q[0]", WHOLE),
    "how many digits were summed": ("(u32)line.count / WIDTH * 2)", "(u32)line.count / WIDTH)", WHOLE),
    "digits of a row's rest": ("max(0, min((int)rest - 2 * LANE, 2))", "2", WINDOW),
    "how many halves were summed": ("2u * lane) / 64u * 2u", "2u * lane) / 64u", WHOLE),
    "halves of a row's rest": ("(some % 64u > 2u * lane + 1u)", "(some % 64u > 2u * lane)", attention("added -inf", window, (1, 201, 201, 24))),
    "which element is before a mask's end": ("(int)unit + 1 < end ?", "(int)unit < end ?", WHOLE),
    "an element by itself at a mask's end": ("return e < end ? before", "return e <= end ? before", attention("added -inf", causal, SHORT)),
    "which of two is kept": ("make_float2(x[0], x[1])", "make_float2(x[1], x[0])", WHOLE),
}  # fmt: skip


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_kernels_is_found(change: str) -> None:
    old, new, c = CHANGES[change]
    assert any(old in text for k in kernels(c) if k.whole is not None for text in (k.text.text, k.whole.text.text, before(k.how, k.ring)))
    with contextlib.suppress(faults.HardwareFault):
        assert not agrees(c, compiled([c], lambda text: text.replace(old, new)))


@needs_compiler
@pytest.mark.parametrize("short", ["begin", "end"])
def test_a_span_that_is_a_unit_short_is_found(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    c, right = FOUND[1], spans._ranges

    def wrong(*given: Any) -> tuple[tuple[int, int, int], ...]:
        long = [(at, b, e, e > b + 64) for at, b, e in right(*given)]
        return tuple((at, b + 64 * (cut and short == "begin"), (e - 1) // 64 * 64 if cut and short == "end" else e) for at, b, e, cut in long)

    monkeypatch.setattr(spans, "_ranges", wrong)
    assert not agrees(c, device())
