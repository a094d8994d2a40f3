"""MAP steps of one text that run as one launch: which do, that nothing is read or overwritten too early, and that the bits are the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from assay.exact import reference, trainings
from assay.exact.cuda import fake, maps
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.parts import constants_of
from assay.exact.inputs import Case, case, floats, program
from assay.exact.plan import Plan
from assay.exact.views import View
from tests.exact.test_cuda_route import named

SIZES = [1, 31, 256, 257, 2047, 2048, 2049, 5000, 3 * 2048]


def plans() -> dict[str, Plan]:
    out = {}
    for family in trainings.FAMILIES:
        p = trainings.load(family).program
        out |= {f"{family} {name}": Plan(part, constants_of(p), p.gemm_bits) for name, part in (("micro", p.micro), ("update", p.update))}
    return out


def touched(plan: Plan, v: View) -> set[tuple[str, int]]:
    """Every byte of a view, element by element."""
    home, where = plan.homes[v.root]
    start = where if home == "arena" else 0
    if home == "output" and where in plan.over:  # as in a training that stays on the device
        home, where = "input", plan.over[where]
    key = home if home == "arena" else f"{home} {where}"
    at = np.full((), v.offset)
    for n, stride in zip(v.shape, v.strides, strict=True):
        at = np.add.outer(at, np.arange(n) * stride)
    return {(key, start + int(element) * v.item) for element in np.unique(at)}


@pytest.mark.parametrize("name", ["mlp update", "batchnorm micro", "batchnorm update", "gpt update", "lstm update"])
def test_every_step_runs_after_all_that_it_has_to_do_with_and_those_together_have_nothing(name: str) -> None:
    plan = plans()[name]
    batches = maps.together(plan)
    assert sorted(itertools.chain(*batches)) == list(range(len(plan.steps)))
    turn = {at: number for number, batch in enumerate(batches) for at in batch}
    reads = [set().union(*(touched(plan, v) for v in step.reads)) for step in plan.steps]
    writes = [set().union(*(touched(plan, v) for v in step.writes)) for step in plan.steps]
    for a, b in itertools.combinations(range(len(plan.steps)), 2):
        if writes[a] & writes[b] or writes[a] & reads[b] or reads[a] & writes[b]:
            assert turn[a] < turn[b], (plan.steps[a].name, plan.steps[b].name)
    for batch in batches:
        assert len({maps.text(plan.steps[at]).name for at in batch if plan.steps[at].name == "map"}) <= 1


def test_an_optimisers_chain_is_one_launch_for_all_tensors() -> None:
    """AdamW of 16 tensors, of which some have no decay; SGD of all."""
    largest = {name: max(map(len, maps.together(plan))) for name, plan in plans().items()}
    assert {name: largest[name] for name in ("mlp update", "gpt update", "bert update", "groupnorm update")} == {
        "mlp update": 6, "gpt update": 16, "bert update": 16, "groupnorm update": 14,
    }  # fmt: skip


def test_what_is_traced_runs_a_step_at_a_time() -> None:
    p = trainings.load("mlp").program
    plan = Plan(p.update, constants_of(p), p.gemm_bits, trace=True)
    assert maps.together(plan) == [[at] for at in range(len(plan.steps))]


def chains() -> Case:
    """A chain over tensors of many sizes, with one operand that is a single element; a second one over the first's results; matrices turned round."""
    inputs = [floats(20 * i + seed, (n,), kind) for i, kind in enumerate(("rare", "wide")) for seed, n in enumerate(SIZES)]
    inputs += [floats(90, (), "even")] + [floats(91 + i, (33, 65 + i), "rare") for i in range(4)]

    def write(w):  # type: ignore[no-untyped-def]
        count, out = len(SIZES), []
        scale = 2 * count
        for k in range(count):
            out.append(w("add", w("mul", w("tanh", k), w("expand", scale, shape=(SIZES[k],))), count + k))
        out += [w("mul", w("neg", v), w("exp", v)) for v in list(out)]
        return out + [w("sub", w("permute", scale + 1 + i, axes=(1, 0)), w("expand", scale, shape=(65 + i, 33))) for i in range(4)]

    return case("chains", inputs, write)


@pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
def test_tensors_of_all_sizes_in_one_launch_have_the_bits_of_the_reference() -> None:
    c = chains()
    batches = maps.together(Plan(c.part, {}, c.gemm_bits))
    assert sum(len(batch) > 1 for batch in batches) <= 3
    assert len(batches) <= 3
    device = fake.Fake()
    got = Cuda(program(c.part, c.gemm_bits), device).run("micro", named(c))
    values = reference.evaluate(c.part, c.inputs, c.gemm_bits)
    for o in c.part.outputs:
        assert got[o.name].tobytes() == np.asarray(values[o.value]).tobytes(), o.name
    device.wait()
    assert device.launches == len(batches)
