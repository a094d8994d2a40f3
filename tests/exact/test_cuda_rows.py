"""Steps over the same rows as one kernel: which are, that nothing runs before what it waits for, and that the bits are the same for rows of every
length, whatever is in them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from unittest import mock

import numpy as np
import pytest

from assay.exact import reference, trainings
from assay.exact import rows as grouped
from assay.exact.added import Added
from assay.exact.again import Again
from assay.exact.columns import Columns
from assay.exact.cuda import fake, maps, phases, rows
from assay.exact.cuda.device import Device, source
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.maps import Kernels, MapText
from assay.exact.cuda.parts import constants_of
from assay.exact.cuda.rows import Shape
from assay.exact.inputs import Case, Writer, case, floats, integers, program, whole
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.program import Part
from tests.exact import nvrtc
from tests.exact.test_cuda_route import named
from tests.exact.test_cuda_together import touched

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")

SHAPES = [
    (4, 16), (8, 31), (4, 32), (9, 33), (4, 255), (5, 256), (4, 257), (4, 768), (4, 1023), (9, 1024), (4, 1025), (4, 2049), (128, 5000), (128, 8193),
]  # fmt: skip
"""Rows of each of two texts, and their length: every way of sharing a row out, and its edges."""


def expanded(w: Writer, v: int, like: int) -> int:
    return w("expand", v, shape=w.type(like).shape)


def over(w: Writer, op: str, v: int) -> int:
    return w(op, v, axes=(len(w.type(v).shape) - 1,), keepdim=True)


def softmax(w: Writer, x: int, mask: int) -> int:
    scores = w("add", x, expanded(w, mask, x))
    most = over(w, "amax", scores)
    e = w("exp", w("sub", scores, expanded(w, most, x)))
    p = w("div", e, expanded(w, over(w, "sum", e), x))
    blind = w("eq", most, expanded(w, w.f32(-np.inf), most))
    return w("select", expanded(w, blind, x), expanded(w, w.f32(0.0), x), p)


def softmax_back(w: Writer, p: int, g: int) -> int:
    pg = w("mul", p, g)
    return w("sub", pg, w("mul", p, expanded(w, over(w, "sum", pg), p)))


def log_softmax(w: Writer, x: int) -> int:
    z = w("sub", x, expanded(w, over(w, "amax", x), x))
    return w("sub", z, expanded(w, w("log", over(w, "sum", w("exp", z))), x))


def crossed(w: Writer, x: int, index: int, weight: int) -> list[int]:
    """Cross-entropy of the elements that an index names, and its gradient."""
    logs, r = log_softmax(w, x), w.type(x).shape[0]
    at = w("reshape", index, shape=(r, 1))
    picked = w("reshape", w("gather", logs, at, axis=1), shape=(r,))
    ones = w("scatter_value", expanded(w, w.f32(0.0), x), at, axis=1, bits=0xBF800000)
    g = w("mul", ones, expanded(w, weight, x))
    back = w("sub", g, w("mul", w("exp", logs), expanded(w, over(w, "sum", g), x)))
    return [w("mul", picked, picked), back]


def trained(w: Writer, waits: bool) -> list[int]:
    """The mean of cross-entropy over characters that count, and its gradient, or that times the sum, which no row knows."""
    x, index, weight = range(3)
    logs, r = log_softmax(w, x), w.type(x).shape[0]
    at = w("reshape", index, shape=(r, 1))
    counts = w("cast", w("ne", index, expanded(w, w("const", dtype="i64", bits=3), index)), dtype="f32")
    losses = w("neg", w("mul", w("reshape", w("gather", logs, at, axis=1), shape=(r,)), counts))
    loss, count = (w("sum", v, axes=(0,), keepdim=False) for v in (losses, counts))
    each = w("mul", expanded(w, w("div", loss if waits else w.f32(1.0), count), counts), counts)
    ones = w("scatter_value", expanded(w, w.f32(0.0), x), at, axis=1, bits=0xBF800000)
    g = w("mul", ones, expanded(w, w("reshape", each, shape=(r, 1)), x))
    back = w("sub", g, w("mul", w("exp", logs), expanded(w, over(w, "sum", g), x)))
    return [w("div", loss, count), back, w("mul", back, expanded(w, weight, x))]


def norm(w: Writer, x: int, scale: int) -> tuple[int, int]:
    n = w.f32(w.type(x).shape[-1])
    mean = over(w, "sum", x)
    centred = w("sub", x, expanded(w, w("div", mean, expanded(w, n, mean)), x))
    variance = over(w, "sum", w("mul", centred, centred))
    r = w("rsqrt", w("add", w("div", variance, expanded(w, n, mean)), expanded(w, w.f32(1e-5), mean)))
    y = w("mul", centred, expanded(w, r, x))
    return w("mul", y, expanded(w, scale, x)), y


def norm_back(w: Writer, y: int, g: int, scale: int) -> int:
    d = w("mul", g, expanded(w, scale, g))
    both = [expanded(w, over(w, "sum", v), y) for v in (w("mul", d, y), d)]
    return w("sub", w("sub", d, both[1]), w("mul", y, both[0]))


def families_of(shape: tuple[int, int], kind: str) -> Case:
    """Softmax behind a mask, cross-entropy's and layer norm's rows and their gradients; whole numbers, of which some are summed."""
    texts, (r, n) = 2, shape
    inputs = [floats(i, (texts, r, n), kind) for i in range(7)]
    inputs += [floats(7, (r, n), "even"), floats(8, (n,), "wide"), whole(9, (texts, r, n), "i64")]
    inputs += [floats(10 + i, (texts, r, n), kind) for i in range(2)]
    inputs[7][0] = -np.inf

    def write(w: Writer) -> Sequence[int]:
        x, g, z, u, residual, d, y, mask, scale, numbers, other, gradient = range(12)
        odd = w("select", w("lt", other, expanded(w, w.f32(0.25), other)), numbers, w("mul", numbers, numbers))
        counted = w("add", odd, expanded(w, over(w, "sum", odd), odd))
        made = [softmax(w, x, mask), softmax_back(w, g, z), log_softmax(w, u), *norm(w, w("add", residual, d), scale)]
        return [*made, norm_back(w, y, gradient, scale), counted]

    return case(f"rows {shape} {kind}", inputs, write)


@cache
def device() -> tuple[Device, Kernels]:
    """With the kernels of all shapes, compiled at once."""
    made = fake.Fake(order=fake.Order.ASCENDING)
    kernels = Kernels(made)
    kernels.compile(rows.texts([fused(families_of(shape, "rare").part) for shape in SHAPES]))
    return made, kernels


def fused(part: Part) -> Plan:
    return Plan(part, {}, 14, rows=True)


def groups(plan: Plan) -> list[Step]:
    return [step for step in plan.steps if step.name == "rows"]


def agrees(c: Case) -> bool:
    values = reference.evaluate(c.part, c.inputs, c.gemm_bits)
    got = Cuda(program(c.part, c.gemm_bits), *device()).run("micro", named(c))
    return all(got[o.name].tobytes() == np.asarray(values[o.value]).tobytes() for o in c.part.outputs)


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_of_every_length_have_the_bits_of_the_reference(shape: tuple[int, int]) -> None:
    for kind in ("rare", "wide", "tiny", "special") if shape[1] < 2000 else ("rare",):
        c = families_of(shape, kind)
        found = groups(fused(c.part))
        assert len(found) == 6
        assert {tuple(step.extra) for step in found} == {(2 * shape[0], shape[1])}
        assert agrees(c), kind


@needs_compiler
@pytest.mark.parametrize("shape", [(9, 33), (40, 700), (260, 8200)], ids=str)
@pytest.mark.parametrize("dtype", ["i64", "i32"])
def test_what_an_index_names_is_taken_and_put_within_the_rows(shape: tuple[int, int], dtype: str) -> None:
    """Of cross-entropy and its gradient: neither the logarithms nor the zeros have a place. Indices beyond a row are those of its ends."""
    r, n = shape
    named_ = integers(2, (r,), -3, n + 3).astype(reference.NUMPY[dtype])
    inputs = [floats(1, shape, "special" if n < 100 else "even"), named_, floats(3, (r, 1), "even")]
    c = case(f"crossed {shape} {dtype}", inputs, lambda w: crossed(w, 0, 1, 2))
    names = [[part.name for part in step.parts] for step in groups(fused(c.part))]
    assert ["gather" in own for own in names].count(True) == ["scatter_value" in own for own in names].count(True) == 1
    assert not {"gather", "scatter_value", "copy"} & {step.name for step in fused(c.part).steps}
    assert agrees(c)


@needs_compiler
@pytest.mark.parametrize(("n", "waits"), [(8200, False), (8200, True), (700, False)])
def test_long_rows_and_their_gradient_are_one_kernel_where_neither_waits(n: int, waits: bool) -> None:
    """Which characters count is known before; what the gradient is multiplied by then, too. Shorter rows are held by each kernel."""
    inputs = [floats(1, (260, n), "even"), integers(2, (260,), 0, 6), floats(3, (260, 1), "even")]
    c = case(f"trained {n} {waits}", inputs, lambda w: trained(w, waits))
    found = [[part.name for part in step.parts] for step in groups(fused(c.part))]
    assert len(found) == (1 if n > 8192 and not waits else 2)
    assert {"gather", "scatter_value"} <= {name for names in found for name in names}
    assert agrees(c)


def spiked(w: Writer, x: int, index: int, weight: int) -> list[int]:
    """Of rows that are alike but for one element: maxima, sums, an element that another index names, and what is made of them and others."""
    r = w.type(x).shape[0]
    at, other = w("reshape", index, shape=(r, 1)), w("reshape", w("mul", index, index), shape=(r, 1))
    ones = w("scatter_value", expanded(w, w.f32(0.3), x), at, axis=1, bits=0xBF800000)
    g = w("mul", ones, expanded(w, weight, x))
    return [w("add", x, expanded(w, over(w, "sum", g), x)), w("mul", g, expanded(w, over(w, "amax", g), x)), w("gather", g, other, axis=1)]


def edges(n: int, number: int) -> reference.Array:
    """Rows in which the largest exponential is 1, or none is a number."""
    x = floats(5, (number, n), "even")
    for r, row in enumerate(([-np.inf], [np.inf, 1], [np.nan, 3], [-np.inf] * (n - 1) + [-5], [7], [0.0, -0.0], [3e38, -3e38], [1e-45, -1e-45, 0],
                             [-200, -np.inf], [-np.inf] * (n - 1) + [np.nan])):  # fmt: skip
        x[r] = np.resize(np.float32(row), n)
    return x


@needs_compiler
@pytest.mark.parametrize("shape", [(16, 40), (16, 41), (16, 768), (12, 1300), (256, 8200)], ids=str)
def test_sums_of_exponentials_have_the_scale_that_is_said_of_them(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a row's maximum is; and in parts, where rows are longer than what halves are added up of (made shorter here)."""
    monkeypatch.setattr(phases, "ADDED", 4)
    rows_, n = shape
    inputs = [edges(n, rows_), integers(2, (rows_,), 0, n), floats(3, (rows_, 1), "even"), floats(4, shape, "tiny")]
    c = case(f"edges {shape}", inputs, lambda w: [*crossed(w, 0, 1, 2), softmax(w, 0, 3), *spiked(w, 3, 1, 2)])
    texts = [rows.text(step).text for step in groups(fused(c.part))]
    assert sum(text.count("top_of_exponentials(") for text in texts) >= 1
    assert any("part < n" in text for text in texts) == (n > 8192)
    assert agrees(c)


def test_a_scale_is_not_said_of_what_another_maximum_is_taken_off() -> None:
    def write(w: Writer) -> Sequence[int]:
        e = w("exp", w("sub", 0, expanded(w, over(w, "amax", 1), 0)))
        f = w("exp", w("sub", expanded(w, over(w, "amax", 0), 0), 0))
        return [over(w, "sum", e), over(w, "sum", f)]

    c = case("others", [floats(i, (32, 256), "even") for i in range(2)], write)
    found = [rows.text(step).text for step in groups(fused(c.part))]
    assert found
    assert not any("top_of_exponentials(" in text or "exp_low_f32(" in text for text in found)
    assert agrees(c)


@pytest.mark.parametrize("change", [
    ("? NAN_BITS : 0x3f800000u", "? NAN_BITS : 0x4b000000u"), ("magnitude(SUB(m, m)) ? NAN_BITS :", "false ? NAN_BITS :"),
    ("by) * (n - 1u), bits)", "by) * n, bits)"), ("held.x[i] = canon(x[i])", "held.x[i] = x[i]"),
])  # fmt: skip
@needs_compiler
def test_changes_of_what_rows_call_are_found(change: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    of, instead = change
    right = maps.source

    def wrong(*names: str) -> str:
        text = right(*names)
        assert of in text
        return text.replace(of, instead)

    monkeypatch.setattr(maps, "source", wrong)
    inputs = [edges(128, 64), integers(2, (64,), 0, 128), floats(3, (64, 1), "even")]
    c = case("changed", inputs, lambda w: [*crossed(w, 0, 1, 2), *spiked(w, 0, 1, 2)])
    made = fake.Fake(order=fake.Order.ASCENDING)
    values = reference.evaluate(c.part, c.inputs, c.gemm_bits)
    got = Cuda(program(c.part, c.gemm_bits), made, Kernels(made)).run("micro", named(c))
    assert any(got[o.name].tobytes() != np.asarray(values[o.value]).tobytes() for o in c.part.outputs)


def test_a_row_is_shared_by_as_many_threads_as_hold_it() -> None:
    shapes = {shape[1]: {rows.shape_of(step) for step in groups(fused(families_of(shape, "even").part))} for shape in SHAPES}
    assert shapes[16] == {Shape(32, 1)}
    assert shapes[33] == {Shape(32, 2)}
    assert shapes[768] == {Shape(32, 24, 4, True, True)}
    assert shapes[1024] == {Shape(32, 32, 4, True, True), Shape(256, 4, 4, True, True)}, "more than four values are too many for a warp"
    assert shapes[1025] == {Shape(256, 8)}
    assert shapes[5000] == {Shape(256, 24, 4, True)}
    assert shapes[8193] == {Shape(1024, 0)}


def test_what_nothing_else_reads_is_neither_written_nor_given_a_place() -> None:
    """Of a softmax and its gradient: two inputs and a mask in, two results out, and no arena."""
    inputs = [floats(i, (2, 8, 64), "even") for i in range(2)] + [floats(3, (8, 64), "even")]
    c = case("alone", inputs, lambda w: [softmax_back(w, softmax(w, 0, 2), 1)])
    plan = fused(c.part)
    (step,) = plan.steps
    assert plan.arena == 0
    assert len(step.writes) == 1
    assert sorted(v.shape for v in step.reads if grouped.wide(v)) == [(2, 8, 64), (16, 64), (16, 64)]
    assert Plan(c.part, {}, 14).arena > 0
    assert Plan(c.part, {}, 14, trace=True, rows=True).steps == Plan(c.part, {}, 14, trace=True).steps


# ---- what must not be one ---------------------------------------------------------------------------------------------------


def apart(write: Callable[[Writer], Sequence[int]], shape: tuple[int, ...] = (32, 32)) -> Case:
    return case("apart", [floats(i, shape, "rare") for i in range(2)], write)


def turned(w: Writer) -> Sequence[int]:
    """A result of the rows, read along the columns."""
    y = w("sub", 0, expanded(w, over(w, "sum", 0), 0))
    return [w("add", w("permute", y, axes=(1, 0)), y)]


def between(w: Writer) -> Sequence[int]:
    """A prefix sum between two steps over the same rows."""
    y = w("sub", 0, expanded(w, over(w, "sum", 0), 0))
    return [w("mul", w("cumsum", y, axis=1), y)]


def upside_down(w: Writer) -> Sequence[int]:
    """A result of the rows, the last row first."""
    y = w("exp", w("sub", 0, expanded(w, over(w, "amax", 0), 0)))
    return [w("add", w("reverse", y, axis=0), y)]


def other_axis(w: Writer) -> Sequence[int]:
    y = w("exp", 0)
    return [w("sub", y, expanded(w, w("sum", y, axes=(0,), keepdim=True), y))]


def strided(w: Writer) -> Sequence[int]:
    """Every other element of a row."""
    x = w("slice", 0, axis=1, start=0, stop=64, step=2)
    return [w("sub", x, expanded(w, over(w, "amax", w("exp", x)), x)), w("sub", x, expanded(w, over(w, "sum", x), x))]


@needs_compiler
@pytest.mark.parametrize(
    ("write", "shape", "members"),
    [(turned, (32, 32), [2]), (between, (32, 32), [2]), (upside_down, (32, 32), [2]), (other_axis, (32, 32), []), (strided, (32, 64), [])],
)
def test_steps_over_other_rows_stay_apart(write: Callable[[Writer], Sequence[int]], shape: tuple[int, ...], members: list[int]) -> None:
    c = apart(write, shape)
    assert [len(step.parts) for step in groups(fused(c.part))] == members
    assert out_of_order(c.part) == []
    assert agrees(c)


def test_few_rows_or_short_ones_stay_apart() -> None:
    for shape, members in (((8, 16), [2]), ((7, 16), []), ((8, 15), []), ((255, 4096), []), ((256, 4096), [2])):
        c = apart(lambda w: [w("sub", 0, expanded(w, over(w, "sum", 0), 0))], shape)
        assert [len(step.parts) for step in groups(fused(c.part))] == members, shape


# ---- order and places ----------------------------------------------------------------------------------------------------


def flat(plan: Plan) -> list[Step]:
    return [part for step in plan.steps for part in (step.parts or (step,))]


def key(step: Step) -> tuple[str, tuple[tuple[int, int], ...], int]:
    return step.name, tuple((v.root, v.offset) for v in step.writes), len(step.reads) if step.name in ("fill", "copy") else 0


def out_of_order(part: Part, constants: dict[str, np.ndarray] | None = None) -> list[tuple[str, str]]:
    """Pairs of steps of which the second runs before the first, that it waits for: values' storages are what counts. (Without values that are made
    again, which wait for other steps than those that the plan had, and without sums that are made elsewhere or together.)"""
    left = [mock.patch.object(of, "made", lambda self: self._steps) for of in (Again, Added, Columns)]
    with left[0], left[1], left[2]:
        alone, together = (Plan(part, constants or {}, 14, rows=rows) for rows in (False, True))
    turn = {key(step): at for at, step in enumerate(flat(together))}
    assert sorted(turn) == sorted(key(step) for step in alone.steps)
    reads = [{alone._storage(v.root) for v in step.reads} for step in alone.steps]
    writes = [{alone._storage(v.root) for v in step.writes} for step in alone.steps]
    return [
        (alone.steps[a].name, alone.steps[b].name)
        for a, b in itertools.combinations(range(len(alone.steps)), 2)
        if (writes[a] & (reads[b] | writes[b]) or reads[a] & writes[b]) and turn[key(alone.steps[a])] > turn[key(alone.steps[b])]
    ]  # fmt: skip


@pytest.mark.parametrize("family", trainings.FAMILIES)
def test_every_step_of_a_training_runs_after_all_that_it_waits_for(family: str) -> None:
    p = trainings.load(family).program
    for part in (p.micro, p.update):
        assert out_of_order(part, constants_of(p)) == []


@pytest.mark.parametrize("family", trainings.FAMILIES)
def test_what_a_group_writes_lies_over_nothing_that_it_reads(family: str) -> None:
    p = trainings.load(family).program
    for part in (p.micro, p.update):
        plan, alone = (Plan(part, constants_of(p), p.gemm_bits, rows=rows) for rows in (True, False))
        assert plan.over == alone.over, "successors lie over as many entries"
        for step in groups(plan):
            written = [touched(plan, v) for v in step.writes]
            assert all(a.isdisjoint(b) for a, b in itertools.combinations(written, 2))
            assert set().union(*written).isdisjoint(set().union(*(touched(plan, v) for v in step.reads)))


# ---- random groups -------------------------------------------------------------------------------------------------------


def random_rows(seed: int) -> Case:
    """Forty operators over rows, all kinds of operands among them, of which some results are wanted."""
    rng = np.random.default_rng(seed)
    r, n = [(8, 16), (9, 33), (12, 40), (8, 300), (8, 1030)][seed % 5]
    kind = ["rare", "even", "special"][seed % 3]
    inputs = [floats(seed, (r, n), kind), floats(seed + 1, (r, n), "even"), floats(seed + 2, (n,), kind), floats(seed + 3, (r, 1), kind)]
    inputs += [floats(seed + 4, (), "even"), floats(seed + 5, (r, 2 * n), kind), integers(seed + 6, (r, n), -9, 9)]

    def write(w: Writer) -> Sequence[int]:
        wide = [0, 1, w("slice", 5, axis=1, start=n // 2, stop=n // 2 + n, step=1), w("cast", 6, dtype="f32")]
        narrow = [3]

        def operand() -> int:
            at = int(rng.integers(8))
            return wide[int(rng.integers(len(wide)))] if at < 5 else expanded(w, [2, 4, narrow[int(rng.integers(len(narrow)))]][at - 5], 0)

        for _ in range(40):
            match int(rng.integers(8)):
                case 0 | 1:
                    narrow.append(over(w, str(rng.choice(["sum", "amax"])), wide[int(rng.integers(len(wide)))]))
                case 2:
                    narrow.append(w(str(rng.choice(["add", "mul", "maximum"])), *(narrow[int(rng.integers(len(narrow)))] for _ in range(2))))
                case 3:
                    wide.append(w(str(rng.choice(["exp", "neg", "relu", "abs"])), wide[int(rng.integers(len(wide)))]))
                case 4:
                    total = over(w, "sum", w("cast", wide[int(rng.integers(len(wide)))], dtype="i64"))
                    narrow.append(w("cast", total, dtype="f32"))
                case 5:
                    wide.append(w("select", w("lt", operand(), operand()), operand(), operand()))
                case 6 if rng.integers(3) == 0:
                    wide.append(w("cumsum", wide[int(rng.integers(len(wide)))], axis=1))
                case _:
                    wide.append(w(str(rng.choice(["add", "sub", "mul", "div", "minimum"])), operand(), operand()))
        picked = {int(v) for v in rng.choice(wide[4:], 4)} | {wide[-1]} | {int(v) for v in rng.choice(narrow[1:], 3)}
        return sorted(picked - set(range(7)))

    return case(f"random rows {seed}", inputs, write)


@needs_compiler
def test_random_groups() -> None:
    cases = [random_rows(seed) for seed in range(20)]
    device()[1].compile(rows.texts([fused(c.part) for c in cases]))
    sizes = [len(step.parts) for c in cases for step in groups(fused(c.part))]
    assert len(sizes) >= 20
    assert max(sizes) >= 10
    for c in cases:
        assert out_of_order(c.part) == [], c.name
        assert agrees(c), c.name


# ---- that these tests find what they are for ------------------------------------------------------------------------------


@needs_compiler
def test_a_result_that_is_stored_as_it_is_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rows.text

    def wrong(step: Step) -> MapText:
        made = right(step)
        return MapText(f"wrong_{made.name}", made.text.replace(made.name, f"wrong_{made.name}").replace("canon(", "("))

    monkeypatch.setattr(rows, "text", wrong)
    assert not agrees(families_of((4, 32), "special"))


@needs_compiler
def test_a_step_that_overtakes_what_it_waits_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped._Group, "pushed", lambda self, reads, writes: False)
    assert out_of_order(apart(between).part) != []
    assert not agrees(apart(between))


@needs_compiler
@pytest.mark.parametrize("write", [turned, upside_down])
def test_other_rows_taken_for_the_same_are_found(write: Callable[[Writer], Sequence[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    right = grouped.along
    monkeypatch.setattr(grouped, "along", lambda v, rows: right(v, rows) if 0 in v.strides else grouped.whole_rows(v.root, rows, v.dtype))
    assert not agrees(apart(write))


# ---- NVIDIA's compiler ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed (nvidia-cuda-nvrtc-cu12)")
@pytest.mark.parametrize("shape", [(9, 1024), (128, 5000), *(pytest.param(few, marks=pytest.mark.slow) for few in ((4, 768), (128, 8193)))], ids=str)
def test_what_a_thread_holds_stays_in_registers(shape: tuple[int, int]) -> None:
    from tests.exact.test_cuda_compile import ROUNDED, arithmetic

    texts = {t.name: t.text for t in map(rows.text, groups(fused(families_of(shape, "even").part)))}
    for arch in ("sm_80", "sm_90"):
        ptx, cubin, log = nvrtc.reported(source(*Kernels.GENERATED) + "\n".join(texts.values()), arch, "--ptxas-options=-v")
        assert cubin.startswith(b"\x7fELF")
        assert nvrtc.forbidden(ptx) == []
        assert arithmetic(ptx) <= ROUNDED
        assert ".local" not in ptx
        assert log.count("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") == len(texts)
