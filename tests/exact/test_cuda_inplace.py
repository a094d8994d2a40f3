"""What attention's kernels read and write where others have it: a layer whose queries, keys and values are columns of one matrix, and their gradients
of another. That nothing is copied in between, that the bits are the reference's, what is copied still, and that a change is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
import pytest

from assay.exact.cuda import streamed, writer
from assay.exact.inplace import InPlace, Lying, placed_by, seen_by, stepped, through, translated
from assay.exact.inputs import Case, Writer, case, floats
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.exact.views import View, whole
from tests.exact.test_cuda_attention import agrees, backward, compiled, fused, needs_compiler, turned
from tests.exact.test_cuda_attention_plans import wrong_reads
from tests.exact.test_cuda_rows import expanded, softmax, softmax_back

TEXTS, LENGTH, HEADS, HEAD = 2, 21, 3, 16
WIDTH = HEADS * HEAD


def heads(w: Writer, v: int) -> int:
    """Of texts x length x width, those of each text one after the other."""
    return w("permute", w("reshape", v, shape=(TEXTS, LENGTH, HEADS, HEAD)), axes=(0, 2, 1, 3))


def joined(w: Writer, v: int) -> int:
    return w("reshape", v, shape=(TEXTS * HEADS, *w.type(v).shape[2:]))


def beside(w: Writer, v: int) -> int:
    """Heads as columns again."""
    return w("reshape", w("permute", w("reshape", v, shape=(TEXTS, HEADS, LENGTH, HEAD)), axes=(0, 2, 1, 3)), shape=(TEXTS, LENGTH, WIDTH))


def columns(w: Writer) -> list[int]:
    """Queries, keys and values of a product's result (inputs 0 and 1)."""
    qkv = w("reshape", w("matmul", 0, 1), shape=(TEXTS, LENGTH, 3 * WIDTH))
    return [heads(w, w("slice", qkv, axis=2, start=i * WIDTH, stop=(i + 1) * WIDTH, step=1)) for i in range(3)]


def scaled(w: Writer, v: int, by: float = 0.3) -> int:
    return w("mul", v, expanded(w, w.f32(by), v))


def layer(w: Writer) -> Sequence[int]:
    """As torch's attention becomes: q and k are multiplied by a number each, k is turned before."""
    q, k, v = columns(w)
    q, kt, v = joined(w, scaled(w, q)), joined(w, scaled(w, turned(w, k))), joined(w, v)
    p = softmax(w, w("matmul", q, kt), 3)
    out = w("reshape", beside(w, w("matmul", p, v)), shape=(TEXTS * LENGTH, WIDTH))
    g = joined(w, heads(w, w("reshape", w("mul", out, 2), shape=(TEXTS, LENGTH, WIDTH))))
    dkt, dq, dv = backward(w, q, turned(w, kt), v, g, p, lambda dp: softmax_back(w, p, dp))
    of_heads = [w("reshape", x, shape=(TEXTS, HEADS, *w.type(x).shape[1:])) for x in (dq, dkt)]
    dq, dkt = (scaled(w, x) for x in of_heads)
    all_three = w("concat", beside(w, dq), beside(w, turned(w, dkt)), beside(w, dv), axis=2)
    gradient = w("reshape", all_three, shape=(TEXTS * LENGTH, 3 * WIDTH))
    return [out, w("matmul", gradient, turned(w, 1)), w("matmul", turned(w, 0), gradient)]


def made(write: Callable[[Writer], Sequence[int]] = layer, kind: str = "even") -> Case:
    given = [floats(1, (TEXTS * LENGTH, 24), kind), floats(2, (24, 3 * WIDTH), "even"), floats(3, (TEXTS * LENGTH, WIDTH), "even")]
    mask = np.where(np.arange(LENGTH)[:, None] >= np.arange(LENGTH)[None], np.float32(0), np.float32(-np.inf))
    return case(f"{write.__name__} {kind}", [*given, mask, floats(4, (TEXTS, LENGTH, 3 * WIDTH), kind)], write)


def parts(plan: Plan, name: str) -> int:
    return sum(part.name == name for step in plan.steps for part in step.parts)


def test_nothing_is_copied_between_attention_and_what_it_reads_and_makes() -> None:
    plan = fused(made().part)
    assert [step.name for step in plan.steps].count("attend") == 3
    assert [step.name for step in plan.steps if step.name in ("copy", "map")] == ["map"]  # out * input 2
    assert parts(plan, "placed") == 4  # the result, dq, dk, dv
    assert [len(seen_by(step)) for step in plan.steps if step.name == "attend"] == [3, 4, 4]
    assert sum(found.factor is not None for step in plan.steps for found in placed_by(step).values()) == 2
    assert wrong_reads(plan) == []


@needs_compiler
@pytest.mark.parametrize("kind", ["even", "rare"])
def test_the_bits_are_the_reference_s(kind: str) -> None:
    c = made(kind=kind)
    assert agrees(c, compiled([c]))


def also_read(w: Writer) -> Sequence[int]:
    """Columns of an input; a copy that is a result, too."""
    q, k, v = (heads(w, w("slice", 4, axis=2, start=i * WIDTH, stop=(i + 1) * WIDTH, step=1)) for i in range(3))
    q, k, v = joined(w, scaled(w, q)), joined(w, k), joined(w, v)
    return [w("matmul", softmax(w, w("matmul", q, turned(w, k)), 3), v), v]


def bordered(w: Writer) -> Sequence[int]:
    """A result that is put into a place which is filled before."""
    q, k, v = (joined(w, x) for x in columns(w))
    p = softmax(w, w("matmul", q, turned(w, k)), 3)
    return [w("neg", w("pad", w("matmul", p, v), axis=1, before=1, after=0, bits=0))]


def test_what_others_read_or_fill_is_copied_still() -> None:
    plan = fused(made(also_read).part)
    (step,) = (step for step in plan.steps if step.name == "attend")
    assert len(seen_by(step)) == 2
    assert [step.name for step in plan.steps].count("copy") == 1
    plan = fused(made(bordered).part)
    assert parts(plan, "placed") == 0
    assert [step.name for step in plan.steps if step.name in ("fill", "copy")] == ["fill", "copy"]


def test_a_source_that_would_lie_longer_for_little_is_copied() -> None:
    """Of a large matrix that nothing reads any more, a few columns."""

    def values(w: Writer) -> Sequence[int]:
        q, k, v = columns(w)
        p = softmax(w, w("matmul", joined(w, w("neg", q)), turned(w, joined(w, w("neg", k)))), 3)
        return [w("matmul", p, joined(w, v))]

    plan = fused(made(values).part)
    assert parts(plan, "seen") == 0
    assert [step.name for step in plan.steps].count("copy") == 1


# ---- views of views ---------------------------------------------------------------------------------------------------------


def elements(v: View) -> np.ndarray:
    at = np.full((), v.offset)
    for n, stride in zip(v.shape, v.strides, strict=True):
        at = np.add.outer(at, np.arange(n) * stride)
    return at


@pytest.mark.parametrize("seed", range(40))
def test_a_translated_view_has_the_same_elements(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.choice([1, 2, 3, 4, 6], 4)]
    order = rng.permutation(4)
    strides = np.zeros(4, int)
    step = int(rng.integers(1, 3))
    for i in order:
        strides[i] = step
        step *= sizes[i] + int(rng.integers(2))
    source = View(7, int(rng.integers(5)), tuple(sizes), tuple(map(int, strides)), "f32")
    count = source.elements
    ways = [(count,), *((n, count // n) for n in (2, 3, 4, 6) if count % n == 0)]
    found = 0
    for shape in ways:
        v = whole(1, shape, "f32")
        for view in (v, v._replace(shape=v.shape[::-1], strides=v.strides[::-1])):
            got = translated(view, source)
            if got is not None:
                found += 1
                assert sum(got[1]) == len(got[0].shape)
                assert np.array_equal(elements(got[0]).reshape(-1), elements(source).reshape(-1)[elements(view).reshape(-1)])
    assert found


def test_views_that_cut_across_dimensions_are_none() -> None:
    source = View(7, 0, (4, 6), (10, 1), "f32")
    assert through(source, 8, 3) == [(4, 10), (2, 3)]
    assert through(source, 3, 8) is None
    assert through(source, 5, 4) is None
    assert through(source, 9, 1) is None
    assert through(source, 2, 0) == [(2, 0)]
    assert stepped(source, 2, 6) is not None
    assert stepped(source, 4, 3) is None


# ---- that these tests find what they are for --------------------------------------------------------------------------------


def lost_factor(found: dict[int, Lying]) -> dict[int, Lying]:
    return {root: one._replace(factor=None) for root, one in found.items()}


def moved(found: dict[int, Lying]) -> dict[int, Lying]:
    return {root: one._replace(view=one.view._replace(offset=max(0, one.view.offset - HEAD))) for root, one in found.items()}


@needs_compiler
@pytest.mark.parametrize("change", [lost_factor, moved])
@pytest.mark.parametrize(("of", "name"), [(streamed, "seen_by"), (writer, "placed_by")])
def test_another_place_or_factor_is_found(
    of: ModuleType, name: str, change: Callable[[dict[int, Lying]], dict[int, Lying]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right: Callable[[Step], dict[int, Lying]] = getattr(of, name)
    c = made()
    monkeypatch.setattr(of, name, lambda step: change(right(step)))
    assert not agrees(c, compiled([c]))


def test_a_place_that_is_written_too_early_or_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InPlace, "_free", lambda self, to, maker, at: True)
    plan = fused(made(bordered).part)
    assert parts(plan, "placed") == 1
    names = [step.name for step in plan.steps]
    assert names.index("attend") < names.index("fill")  # which writes over it: the rule is needed
