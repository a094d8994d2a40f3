"""Attention by slices on a CUDA device (the fake one): the bits of results, traces and roots are those of the whole, and less memory is planned."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest

from assay.exact import faults, reference, trainings
from assay.exact.conformance import program
from assay.exact.cuda import fake, rows
from assay.exact.cuda.device import Device
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.parts import Parts, slice_bytes
from assay.exact.cuda.resident import Resident
from assay.exact.cuda.ruler import Ruler, fitting, needed
from assay.exact.hashing import tensor_root
from assay.exact.plan import Plan
from assay.exact.recompute import EFFORTS
from assay.exact.slices import Sliced, sliced
from assay.program import Part
from assay.state import state_root_of
from tests.exact.support import first_inputs, same
from tests.exact.test_slices import attention, random_region

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
SIZES = {"gpt": 3000, "vit": 800, "bert": 3000, "llama": 5000}
"""Bytes of a slice that cut these families' attention into slices of several heads."""
SEEDS = range(8)


def cut(part: Part, size: int) -> Sliced:
    made = sliced(part, size)
    assert made.part is not part, "something is cut"
    return made


@cache
def device() -> tuple[Device, Kernels]:
    """The device, and all MAP kernels of these tests, compiled at once."""
    made = fake.Fake()
    kernels = Kernels(made)
    plans = []
    for seed in SEEDS:
        part, _ = random_region(seed)
        plans += [Plan(sliced(part, size).part, {}, 14, trace, rows=True) for size in (1, 5000) for trace in (False, True)]
    kernels.compile(rows.texts(plans))
    return made, kernels


@pytest.mark.parametrize("seed", SEEDS)
def test_random_regions(seed: int) -> None:
    """Slices of one element and of several, their pieces of any number of bytes: results, and the root of every node."""
    part, inputs = random_region(seed)
    values = reference.evaluate(part, inputs, 14)
    named = {"batch": {f"x{i}": a for i, a in enumerate(inputs)}}
    for most in (1, 5000):
        cuda = Cuda(program(part, 14), *device(), slices=most)
        got, (traced, roots) = cuda.run("micro", named), cuda.trace("micro", named)
        assert all(same(got[o.name], values[o.value]) and same(traced[o.name], values[o.value]) for o in part.outputs), most
        assert roots == [tensor_root(np.asarray(v)) for v in values[len(inputs) :]]


@pytest.mark.parametrize("family", trainings.FAMILIES)
def test_a_training_reaches_the_published_states_by_slices(family: str) -> None:
    """Links with the host's arrays, and links that stay."""
    training = trainings.load(family)
    p, want = training.program, {n: root for n, root in trainings.expected()[family].items() if int(n) <= 2}
    size = SIZES.get(family, 1)
    assert (sliced(p.micro, size).part is p.micro) == (family not in SIZES)
    made, kernels = device()
    got = trainings.roots(training, Cuda(p, made, kernels, slices=size).run, 2)
    assert {str(n): root.hex() for n, root in got.items()} == want
    stays = Resident(Parts(p, made, kernels, slices=size))
    stays.put(trainings.initial(p))
    for step in range(2):
        scalars = {name: training.schedule[step, i] for i, name in enumerate(p.scalars)}
        _, roots = stays.step(step, partial(trainings.batch, p, step), scalars)
        if str(step + 1) in want:
            assert state_root_of(step + 1, roots).hex() == want[str(step + 1)]


@pytest.mark.parametrize("family", sorted(SIZES))
def test_a_trace_by_slices_has_the_roots_of_the_whole(family: str) -> None:
    p, inputs = trainings.load(family).program, first_inputs(family)
    made, kernels = device()
    wanted = Cuda(p, made, kernels).trace("micro", inputs)
    for size in (1, SIZES[family]):
        cut(p.micro, size)
        got = Cuda(p, made, kernels, slices=size).trace("micro", inputs)
        assert got[1] == wanted[1]
        assert all(got[0][name].tobytes() == array.tobytes() for name, array in wanted[0].items())


def test_slices_are_taken_where_memory_is_short_and_less_of_it_is_planned_then() -> None:
    part = attention(8, 4, 512)
    of = fake.Fake().description._replace(cache=8 << 20, memory=1 << 30)
    assert slice_bytes(of) == 8 << 20
    assert slice_bytes(of._replace(memory=8 << 30)) == 32 << 20
    square, p = 8 * 4 * 512 * 512 * 4, program(part, 14)
    whole, by_slices = needed(p, of), needed(p, of, 0, 8 << 20)
    assert whole - by_slices > 2 * square - 2 * (8 << 20)
    assert fitting(p, of, whole) == (0, 0, whole, 0, False), "as it is, where that fits"
    assert fitting(p, of, whole - 1) == (0, 8 << 20, by_slices, 0, False)
    least = fitting(p, of, 1)
    assert 1 < least.bytes <= by_slices


def test_what_does_not_fit_as_it_is_is_made_again_on_the_device() -> None:
    """Values of a micro-batch by which the published states are reached, and the roots of a trace, with the least effort that fits."""
    training = trainings.load("gpt")
    p, of = training.program, fake.Fake().description
    needs = {effort: needed(p, of, effort, slice_bytes(of)) for effort in EFFORTS}
    limit = min(needs.values())
    fit = fitting(p, of, limit)
    assert fit.effort > 0
    assert fit.bytes == limit < needed(p, of)
    made, kernels = device()
    engine = Cuda(p, made, kernels, slices=fit.slices, effort=fit.effort)
    want = {n: root for n, root in trainings.expected()["gpt"].items() if int(n) <= 2}
    assert {str(n): root.hex() for n, root in trainings.roots(training, engine.run, 2).items()} == want
    inputs = first_inputs("gpt")
    assert engine.trace("micro", inputs)[1] == Cuda(p, made, kernels).trace("micro", inputs)[1]


def test_slices_of_one_shape_take_the_same_kernels_and_a_bounded_number_of_launches() -> None:
    made, kernels = device()
    p = program(attention(8, 4, 512), 14)
    whole, by_slices = (Parts(p, made, kernels, slices=size).tape("micro").plan for size in (0, 8 << 20))
    assert len(by_slices.steps) > len(whole.steps)
    slices = len(cut(p.micro, 8 << 20).makers[0])
    assert len(by_slices.steps) <= slices * (len(whole.steps) + 2)
    assert {text.name for text in rows.texts([by_slices])} <= {text.name for text in rows.texts([whole])} | {
        text.name for text in rows.texts([Plan(sliced(p.micro, 16 << 20).part, {}, 14, rows=True)])
    }


def test_a_fault_in_a_sliced_part_is_computed_again() -> None:
    from tests.exact.test_cuda_route import Flipping

    part, inputs = random_region(0)
    values = reference.evaluate(part, inputs, 14)
    named = {"batch": {f"x{i}": a for i, a in enumerate(inputs)}}
    made, kernels = device()
    before = faults.count()
    cuda = Cuda(program(part, 14), made, kernels, Flipping(made, kernels, 1), slices=1)
    outputs, roots = cuda.trace("micro", named)
    assert faults.count() == before + 1
    assert roots == [tensor_root(np.asarray(v)) for v in values[len(inputs) :]]
    assert all(same(outputs[o.name], values[o.value]) for o in part.outputs)


def test_what_a_ruler_counts_is_what_a_device_gives() -> None:
    part = attention(2, 4, 64)
    p = program(part, 14)
    of = fake.Fake().description
    counted, made = Ruler(of), fake.Fake()
    both = [Cuda(p, device, slices=40_000) for device in (counted, made)]
    for cuda in both:
        cuda.prepare(trace=True)
    assert sum(b.size for b in made._held) == counted.held
