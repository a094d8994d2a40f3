"""What attention's kernel by rows hands to the one by columns through memory: which values, that the bits stay the reference's with and without
something left out, and that changes of how they are handed on are found."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from assay.exact import faults
from assay.exact.cuda import attend, fake
from assay.exact.cuda.blocks import before
from assay.exact.cuda.device import DeviceError
from assay.exact.cuda.fake import Order
from assay.exact.cuda.handed import Handed, handed_of, within
from assay.exact.inputs import Case
from tests.exact import test_cuda_attention as plain
from tests.exact.test_cuda_spans import (
    FAKE,
    agrees,
    attention,
    blind,
    causal,
    compiled,
    first_gradient,
    first_query,
    kernels,
    last_key,
    planned,
    window,
)

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")


def one_query(given: list[np.ndarray]) -> None:
    """Of one product of the batch: its block makes whole lines, and hands nothing on."""
    given[0][1, 0, 1] = np.inf


SIZE, SQUARE = (2, 128, 192, 16), (2, 192, 192, 16)
WHOLE = [
    *(plain.attention(way, SIZE, kind) for way, kind in ((plain.masked, "rare"), (plain.by_hand, "wide"), (plain.dropped, "even"))),
    plain.attention(plain.masked, (1, 1024, 64, 8)),
]  # fmt: skip
SPANS = [
    *(attention("added -inf", causal, SQUARE, kind) for kind in ("even", "rare", "huge", "tiny")), attention("dropping", causal, SQUARE),
    *(attention("added -inf", causal, SQUARE, change=change) for change in (last_key, first_query, first_gradient)),
]  # fmt: skip
DIGITS = [attention("added -inf", causal, SQUARE, "wide", bits) for bits in (8, 15, 23)]


def pair(c: Case) -> tuple[Handed, Handed]:
    """What goes from one kernel of a case to another, as both say it."""
    one, other = (found for step in planned(c).steps if (found := handed_of(step)) is not None)
    return one, other


@needs_compiler
@pytest.mark.parametrize("c", [pytest.param(c, id=c.name) for c in (*WHOLE, *SPANS, *DIGITS)])
def test_what_is_handed_on_has_the_bits_of_the_reference(c: Case) -> None:
    one, other = pair(c)
    assert (one.values, one.matrices, one.flags) == (other.values, other.matrices, other.flags)
    assert (one.given is None, other.given is None) == (True, False)
    assert (one.flags is not None) == (c not in WHOLE)
    assert agrees(c, compiled([c]))


@needs_compiler
@pytest.mark.parametrize("c", [WHOLE[0], SPANS[0]], ids=lambda c: str(c.name))
def test_blocks_of_eight_lines_hand_on_the_same(c: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attend, "WAYS", ((8, 3),))
    _, other = pair(c)
    assert other.given is not None
    assert other.given.lines == 8
    assert agrees(c, compiled([c]))


def test_whoever_is_handed_weights_and_the_gradient_of_scores_makes_neither() -> None:
    for c in (*WHOLE[:3], *SPANS):
        first, second = (k for k in kernels(c) if "handed<" in k.text.text or "line_coming(" in k.text.text)
        assert len(pair(c)[0].values) == 2
        assert ("product_in<" in first.text.text, "product_in<" in second.text.text) == (True, False)
        assert "exp_" not in second.text.text
        assert "handed<" not in second.text.text
        assert (second.whole is None) == (c in WHOLE)


@pytest.mark.parametrize("c", [attention("added -inf", window, (1, 256, 256, 16)), attention("added -inf", blind, SQUARE)], ids=lambda c: str(c.name))
def test_what_the_other_leaves_out_is_not_read(c: Case) -> None:
    """A column's unit has rows that do not see it: they have not made it."""
    assert not any(handed_of(step) for step in planned(c).steps)


@pytest.mark.parametrize("size", [(2, 128, 130, 16), (2, 100, 192, 16), (2, 65, 65, 16)])
def test_lines_that_are_no_multiple_of_64_are_made_again(size: tuple[int, int, int, int]) -> None:
    assert not any(handed_of(step) for step in planned(attention("added -inf", causal, size)).steps)


def test_what_would_take_more_than_a_128th_of_memory_is_made_again() -> None:
    c, each = SPANS[0], 4 * 2 * 192 * 192
    for memory, handed in ((2 * each * 128, True), (2 * each * 128 - 1, False)):
        assert any(handed_of(step) for step in planned(c, FAKE._replace(memory=memory)).steps) == handed


def test_matrices_have_places_where_the_arena_has_them_anyway() -> None:
    """Of the way back of one layer at a time: two layers take no more than one."""

    def twice(count: int) -> int:
        def write(w: plain.Writer) -> list[int]:
            out: list[int] = []
            for _ in range(count):
                q, k, v, g, mask = (w("neg", w("neg", x)) if out else x for x in range(5))
                p = plain.softmax(w, w("matmul", q, plain.turned(w, k)), mask)
                out += plain.backward(w, q, k, v, g, p, lambda dp, p=p: plain.softmax_back(w, p, dp))  # type: ignore[misc]
            return out

        c = plain.attention(write, SIZE)
        steps = planned(c).steps
        assert sum(handed_of(step) is not None for step in steps) == 2 * count
        return planned(c).arena

    assert twice(2) - twice(1) < 2 * 4 * 2 * 128 * 192


def test_only_spans_that_lie_within_are_handed() -> None:
    rows = [(0, 0, 64), (1, 0, 64), (2, 0, 128), (3, 0, 128)]  # of 16 lines each
    assert within([(0, 0, 64), (1, 0, 64)], 16, rows, 16)
    assert within([(4, 32, 64), (7, 32, 64)], 16, rows, 16)
    assert not within([(4, 0, 64)], 16, rows, 16)  # the first row makes columns up to 64
    assert not within([(0, 0, 64)], 16, [(0, 64, 128), *rows[1:]], 16)
    assert not within([(8, 32, 64)], 16, rows, 16)


# ---- that these tests find what they are for ----------------------------------------------------------------------------

FIRST, FLAGGED, NONE = SPANS[0], attention("added -inf", causal, SQUARE, change=one_query), WHOLE[1]
CHANGES: dict[str, tuple[str, str, Case]] = {
    "where a column's lines lie": ("(column ^ turned_by<BR>(4 * quad))", "column", FIRST),
    "where a warp puts its line": ("((2 * LANE) ^ turned_by<BR>((int)(threadIdx.x / 32)))", "(2 * LANE)", FIRST),
    "which lines a block has": ("column * rows + first + 4 * quad", "column * rows + 4 * quad", FIRST),
    "the last of four lines": ("own[3 * pitch]", "own[2 * pitch]", FIRST),
    "how far a thread goes": ("step = 32 * BR / QUADS", "step = 64 * BR / QUADS", FIRST),
    "where a span begins": ("int column = span.begin +", "int column = 64 +", FIRST),
    "where a span ends": ("; column < span.end;", "; column < span.end - 64;", FIRST),
    "the second value": ("*(float4 *)(to[k] + at)", "*(float4 *)(to[0] + at)", FIRST),
    "which product": ("+ (i64)z * (lines * length)", "", FIRST),
    "a block that handed nothing on": ("fits = fits && !", "fits = fits && true || !", FLAGGED),
    "blocks of another product": ("[z * ", "[0u * ", FLAGGED),
    "which line comes": ("+ (i64)r * length, span)", "+ (i64)(r ^ 1u) * length, span)", FIRST),
    "a line's beginning": ("int e = span.begin + 4 * LANE", "int e = 64 + 4 * LANE", FIRST),
    "a line's end": ("e < span.end; e += 128", "e < span.end - 64; e += 128", FIRST),
    "that it is there": ("    async_wait<LEFT>();\n", "    async_wait<LEFT + 1>();\n", FIRST),
    "that it is there for all of a warp": ("    async_wait<LEFT>();\n    __syncwarp();", "    async_wait<LEFT>();", FIRST),
}  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_is_handed_on_is_found(change: str) -> None:
    old, new, c = CHANGES[change]
    found = kernels(c)
    assert any(old in text for k in found for text in (k.text.text, before(k.how, k.ring)))
    on = compiled([c], lambda text: text.replace(old, new))
    with contextlib.suppress(faults.HardwareFault, DeviceError):
        assert not agrees(c, on)


@needs_compiler
def test_a_block_that_does_not_wait_for_all_of_its_warps_is_found() -> None:
    """In one of the orders in which its threads run; with the wait the bits are the same in each."""
    wait, c = "__syncthreads();\n    {\n        float *const to", NONE
    assert any(wait in k.text.text for k in kernels(c))
    assert all(agrees(c, compiled([c], order=order)) for order in Order)
    without = lambda text: text.replace(wait, wait.removeprefix("__syncthreads();"))  # noqa: E731
    assert not all(agrees(c, compiled([c], without, order=order)) for order in Order)
