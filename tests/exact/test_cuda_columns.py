"""Sums by columns of what a kernel over rows has: which are made together, what is not written for them, that the bits are the reference's, and that
changes are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from assay.exact import columns as exact
from assay.exact import trainings
from assay.exact.cuda import columns, fake, rows
from assay.exact.cuda.device import source
from assay.exact.cuda.maps import Kernels, MapText
from assay.exact.cuda.parts import constants_of
from assay.exact.inputs import Case, Writer, case, floats
from assay.exact.plan import Plan
from assay.exact.rows import Rows
from assay.exact.steps import Step
from assay.exact.views import View
from assay.program import Output, Part
from tests.exact import nvrtc
from tests.exact.test_cuda_pairs import Run
from tests.exact.test_cuda_rows import expanded, norm, norm_back, over

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
SHAPES = [(8, 16), (33, 40), (70, 257), (600, 33), (2100, 20)]


def by_columns(w: Writer, v: int) -> int:
    return w("sum", v, axes=tuple(range(len(w.type(v).shape) - 1)), keepdim=False)


def layer_norm(w: Writer) -> Sequence[int]:
    """Forward, and the gradients of what comes in, of the weight and of the bias, which are added to what is there."""
    x, g, scale, of_weight, of_bias = w("cumsum", 0, axis=1), *range(1, 5)
    made, y = norm(w, x, scale)
    weight, bias = by_columns(w, w("mul", g, y)), by_columns(w, g)
    return [w("matmul", made, w("permute", made, axes=(1, 0))), norm_back(w, y, g, scale), w("add", of_weight, weight), w("add", bias, of_bias)]


def of_a_layer(w: Writer) -> Sequence[int]:
    """What two products read, and a bias's gradient sums: its magnitudes are there."""
    d = w("mul", w("neg", 0), 1)
    return [w("matmul", d, w("permute", 1, axes=(1, 0))), w("matmul", w("permute", d, axes=(1, 0)), 1), by_columns(w, d)]


def three(w: Writer) -> Sequence[int]:
    """Of what is made, is a result, and is read; without anything that is added. One value is made again of another that is, too."""
    e = w("exp", w("sub", 0, expanded(w, over(w, "amax", 0), 0)))
    p = w("div", e, expanded(w, over(w, "sum", e), e))
    return [p, *(by_columns(w, v) for v in (e, p, 0, w("mul", p, e)))]


def made(write: Callable[[Writer], Sequence[int]], shape: tuple[int, ...], kind: str = "rare") -> Case:
    n = shape[-1]
    inputs = [floats(1, shape, kind), floats(2, shape, "even"), *(floats(3 + i, (n,), kind) for i in range(3))]
    return case(f"{write.__name__} {shape} {kind}", inputs, write)


def found(run: Run) -> list[Step]:
    return [step for step in run.tape.plan.steps if step.name == "columns"]


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_of_a_layer_norm_are_one_launch_and_have_the_bits_of_the_reference(shape: tuple[int, int]) -> None:
    for kind in ("rare", "special", "tiny") if shape[0] < 100 else ("wide",):
        run = Run(made(layer_norm, shape, kind), 14)
        assert run.right(), kind
        assert run.right(), "again, with what the first run left in memory"
        (step,) = found(run)
        assert len(exact.terms(step)) == len(step.code) == 2
        assert "sum" not in run.names
        names = [launch.kernel.name for launch in run.cuda._planned("micro", False).launches]
        assert sum(name.startswith("columns_") for name in names) == 1
        assert not {"shared_tops", "shared_sums", "end_of_sums", "sum_f32_by_columns"} & set(names)


def test_what_is_summed_alone_is_not_written() -> None:
    """dy * xhat is made again of dy, which the bias's gradient sums, and of what xhat is made of."""
    c = made(layer_norm, (64, 48))
    plan = Plan(c.part, {}, 14, rows=True)
    (step,) = (step for step in plan.steps if step.name == "columns")
    assert [part.name for part in step.parts] == ["map", "sum", "sum"]
    (again,) = step.parts[0].writes
    assert all(v.root != again.root for one in plan.steps for v in (*one.reads, *one.writes))
    assert len({part.reads[0] for part in exact.terms(step)}) == 2
    assert sum(v.dtype == "f32" and v.elements == 64 * 48 and v.strides[-1] == 1 and v.strides[0] != 0 for v in step.reads) == 2


@needs_compiler
def test_a_bias_s_gradient_has_the_magnitudes_that_packing_wants() -> None:
    run = Run(made(of_a_layer, (40, 70)), 14)
    assert sorted(run.names) == ["columns", "matmul", "matmul", "pack", "pack", "rows"]
    assert [part.name for part in run.tape.plan.steps[0].parts] == ["map", "tops"]
    assert run.right()


@needs_compiler
@pytest.mark.parametrize("shape", [(40, 33), (5, 8, 1040), (260, 8200)], ids=str)
def test_several_sums_of_what_is_stored_and_of_what_is_not(shape: tuple[int, ...]) -> None:
    """Rows that a warp holds, a block, and none."""
    run = Run(made(three, shape), 14)
    assert sum(len(exact.terms(step)) for step in found(run)) == 4
    assert run.right()


# ---- what is not ----------------------------------------------------------------------------------------------------------------


def of_an_input(w: Writer) -> Sequence[int]:
    return [by_columns(w, 0)]


def of_rows_turned(w: Writer) -> Sequence[int]:
    """Rows of what no kernel over these rows has."""
    y = w("permute", w("sub", 0, expanded(w, over(w, "sum", 0), 0)), axes=(1, 0))
    return [w("sum", y, axes=(1,), keepdim=False), w("sum", w("exp", y), axes=(0,), keepdim=False)]


def waited_for(w: Writer) -> Sequence[int]:
    """What the rows themselves wait for."""
    y = w("exp", 0)
    return [w("sub", y, expanded(w, w("add", over(w, "sum", y), w("sum", by_columns(w, y), axes=(0,), keepdim=True)), y))]


@needs_compiler
@pytest.mark.parametrize(("write", "sums"), [(of_an_input, 0), (of_rows_turned, 0), (waited_for, 0)])
def test_others_stay_as_they_were(write: Callable[[Writer], Sequence[int]], sums: int) -> None:
    run = Run(made(write, (48, 36)), 14)
    assert sum(len(exact.terms(step)) for step in found(run)) == sums
    assert run.right()


def test_a_trace_and_a_plan_for_processors_have_each_sum() -> None:
    part = made(layer_norm, (64, 48)).part
    for plan in (Plan(part, {}, 14, trace=True, rows=True), Plan(part, {}, 14)):
        assert "columns" not in {step.name for step in plan.steps}


# ---- order and places --------------------------------------------------------------------------------------------------------


@needs_compiler
def test_accumulators_grow_in_place() -> None:
    c = made(layer_norm, (40, 33), "even")
    inputs = [i.__class__(kind="acc", name=i.name, type=i.type) if at > 2 else i for at, i in enumerate(c.part.inputs)]
    outputs = [Output(kind="acc", name=inputs[at + 1].name, value=o.value) if at > 1 else o for at, o in enumerate(c.part.outputs)]
    part = Part(inputs=tuple(inputs), nodes=c.part.nodes, outputs=tuple(outputs))
    run = Run(c._replace(part=part), 14)
    assert run.tape.plan.over == {2: 3, 3: 4}
    bound = run.cuda._planned("micro", False)
    places = [bound.bases["input"][at] if slot > 1 else bound.bases["output"][slot] for slot, at in enumerate((0, 0, 3, 4))]
    launches = run.tape.bind({**bound.bases, "output": places}, bound.held[1].address, bound.held)
    for at, array in enumerate(c.inputs):
        run.device.upload(bound.bases["input"][at], np.ascontiguousarray(array))
    for launch in launches:
        run.device.launch(launch)
    for slot in (2, 3):
        got = np.zeros_like(run.want[slot])
        run.device.download(places[slot], got)
        assert got.tobytes() == run.want[slot].tobytes()


def disorder(plan: Plan) -> list[str]:
    """Steps that read what nobody has made."""
    there = {plan._storage(root) for root, (home, *_) in plan.homes.items() if home in ("input", "constant")}
    wrong = []
    for step in plan.steps:
        wrong += [step.name for v in step.reads if plan._storage(v.root) not in there]
        there |= {plan._storage(v.root) for v in step.writes}
    return wrong


@pytest.mark.parametrize("family", trainings.FAMILIES)
def test_nothing_is_read_before_it_is_made(family: str) -> None:
    p = trainings.load(family).program
    for part in (p.micro, p.update):
        plan = Plan(part, constants_of(p), p.gemm_bits, rows=True)
        assert disorder(plan) == []
    if family in ("gpt", "vit"):
        assert "columns" in {step.name for step in Plan(p.micro, constants_of(p), p.gemm_bits, rows=True).steps}


# ---- that these tests find what they are for ----------------------------------------------------------------------------------


CHANGES = [
    ("own ? top1[e] : 0u", "own ? top0[e] : 0u"), ("if (threadIdx.y) return;", ""), ("(end - from - 1u) / 8u + 1u", "(end - from) / 8u"),
    ("gridDim.y) && own", "1u) && own"), ("gridDim.y) && own", "gridDim.y + 1u) && own"), ("more0, e)", "more0, 0)"),
    ("1 * length + e], q1", "0 * length + e], q1"), ("from + 8u * k", "from + k"),
]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize(("of", "instead"), CHANGES)
def test_changes_of_the_kernel_are_found(of: str, instead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = columns.text

    def wrong(step: Step, start: Callable[[View, Rows], str]) -> MapText:
        text = right(step, start)
        assert of in text.text
        name = f"{text.name}_{CHANGES.index((of, instead))}"
        return MapText(name, text.text.replace(of, instead).replace(text.name, name))

    monkeypatch.setattr(columns, "text", wrong)
    assert not Run(made(layer_norm, (300, 40)), 14).right()


@needs_compiler
def test_magnitudes_that_are_missing_or_those_of_others_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rows.text
    """Of rows whose threads have elements by themselves, and of such whose threads have neighbours."""
    changes = [(40, "raise_column(column_", "(void)(column_"), (40, ", e, ", ", 0u, ")]
    changes += [(256, "raise_columns<4, true>(column_", "(void)(column_"), (256, ", own, ", ", 0u, ")]
    for number, (length, of, instead) in enumerate(changes):

        def wrong(step: Step, of: str = of, instead: str = instead, number: int = number) -> MapText:
            text = right(step)
            changed = [line.replace(of, instead) if "raise_column" in line else line for line in text.text.split("\n")]
            assert "\n".join(changed) != text.text
            return MapText(f"{text.name}_{number}", "\n".join(changed).replace(text.name, f"{text.name}_{number}"))

        with monkeypatch.context() as patched:
            patched.setattr(rows, "text", wrong)
            assert not Run(made(layer_norm, (64, length)), 14).right(), of


@needs_compiler
@pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed (nvidia-cuda-nvrtc-cu12)")
def test_the_kernels_compile_and_nothing_goes_to_memory() -> None:
    from tests.exact.test_cuda_compile import ROUNDED, arithmetic

    plans = [Plan(made(write, shape).part, {}, 14, rows=True) for write, shape in ((layer_norm, (64, 768)), (three, (40, 33)))]
    texts = {t.name: t.text for plan in plans for t in rows.written(plan.steps).values()}
    for arch in ("sm_80", "sm_90"):
        ptx, cubin, log = nvrtc.reported(source(*Kernels.GENERATED) + "\n".join(texts.values()), arch, "--ptxas-options=-v")
        assert cubin.startswith(b"\x7fELF")
        assert nvrtc.forbidden(ptx) == []
        assert arithmetic(ptx) <= ROUNDED
        assert log.count("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") == len(texts)
