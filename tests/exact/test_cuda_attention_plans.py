"""Attention on the chip within whole plans: no step runs before what it waits for, and no value is written over before it was read last, in trainings
of all families and in chains that are drawn. What a kernel makes: test_cuda_attention.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from assay.exact import attention as keeping
from assay.exact import plan as planning
from assay.exact import rows as grouped
from assay.exact import trainings
from assay.exact.cuda import fake
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.parts import Parts, constants_of
from assay.exact.cuda.plans import plan_for
from assay.exact.cuda.product import Products
from assay.exact.cuda.resident import Resident
from assay.exact.cuda.ruler import Ruler
from assay.exact.inputs import Case, Writer, case, floats
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.exact.views import View
from tests.exact.test_cuda_attention import FAKE, agrees, attention, compiled, fused, kernels, masked, needs_compiler, turned
from tests.exact.test_cuda_rows import expanded, over


def spans(plan: Plan, v: View) -> set[tuple[str, int]]:
    """Every element of a view in the storage where it lies, by its byte."""
    home, where, offset = plan.home(v.root)
    at = np.full((), v.offset)
    for n, stride in zip(v.shape, v.strides, strict=True):
        at = np.add.outer(at, np.arange(n) * stride)
    start, key = (where + offset, home) if home == "arena" else (offset, f"{home} {where}")
    return {(key, start + int(element) * v.item) for element in np.unique(at)}


def wrong_reads(plan: Plan) -> list[str]:
    """Steps that read what another value was written over, or nothing was written to."""
    last: dict[tuple[str, int], int] = {}
    wrong = []
    for step in plan.steps:
        for v in step.reads:
            if plan.home(v.root)[0] in ("arena", "output") and any(last.get(place) != plan._storage(v.root) for place in spans(plan, v)):
                wrong.append(step.name)
        for v in step.writes:
            last |= dict.fromkeys(spans(plan, v), plan._storage(v.root))
    return wrong


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The families' attention has 5 to 13 characters."""
    for module in (grouped, keeping):
        monkeypatch.setattr(module, "COUNT", 4)
        monkeypatch.setattr(module, "LEAST", 4)
    monkeypatch.setattr(planning, "FEW", 1)


ATTENDING = ("gpt", "vit", "bert", "llama")
"""Families with attention, of one layer."""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("family", trainings.FAMILIES)
def test_every_step_of_a_training_reads_what_was_made_for_it(family: str) -> None:
    p, products = trainings.load(family).program, Products(Ruler(FAKE))
    for part in (p.micro, p.update):
        plan = plan_for(part, constants_of(p), p.gemm_bits, FAKE, products)
        assert wrong_reads(plan) == []
        if part is p.micro:
            assert sum(step.name == "attend" for step in plan.steps) >= 3 * (family in ATTENDING)


@needs_compiler
@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("family", ATTENDING)
def test_a_training_with_attention_reaches_the_published_states(family: str) -> None:
    """As it is, by slices with values made again, and staying."""
    training = trainings.load(family)
    p, want = training.program, {n: root for n, root in trainings.expected()[family].items() if int(n) <= 2}
    made = fake.Fake()
    found = Kernels(made)
    for effort, slices in ((0, 0), (1, 3000)):
        cuda = Cuda(p, made, found, slices=slices, effort=effort)
        assert any(step.name == "attend" for step in cuda._parts.tape("micro").plan.steps)
        got = trainings.roots(training, cuda.run, 2)
        assert {str(n): root.hex() for n, root in got.items()} == want
    assert Resident(Parts(p, made, found))._launches["micro"]


# ---- drawn chains -----------------------------------------------------------------------------------------------------------


def random_chain(seed: int) -> Case:
    """Two products, operators over their results, reductions of rows and what comes of these, and products by rows and by columns."""
    rng = np.random.default_rng(seed)
    r, n, d = [(17, 20, 16), (24, 18, 8), (9, 31, 33)][seed % 3]
    kind = ["even", "rare"][seed % 2]
    given = [floats(i, (2, length, d), kind) for i, length in ((1, r), (2, n), (3, r), (4, n))]
    given += [floats(5, (r, n), "even"), floats(6, (2, 1, n), "even"), floats(7, (2, r, 1), kind)]
    given += [floats(8, (2, n, 5), "even"), floats(9, (2, r, 7), "even")]

    def write(w: Writer) -> Sequence[int]:
        wide = [w("matmul", 0, turned(w, 1)), w("matmul", 2, turned(w, 3))]
        narrow, outs = [6], []

        def operand() -> int:
            at = int(rng.integers(8))
            choices = [4, 5, narrow[int(rng.integers(len(narrow)))]]
            return wide[int(rng.integers(len(wide)))] if at < 5 else expanded(w, choices[at - 5], wide[0])

        for _ in range(14):
            match int(rng.integers(6)):
                case 0:
                    narrow.append(over(w, str(rng.choice(["sum", "amax"])), wide[int(rng.integers(len(wide)))]))
                case 1:
                    wide.append(w(str(rng.choice(["sigmoid", "neg", "relu", "abs"])), wide[int(rng.integers(len(wide)))]))
                case 2:
                    wide.append(w("select", w("lt", operand(), operand()), operand(), operand()))
                case _:
                    wide.append(w(str(rng.choice(["add", "sub", "mul", "maximum"])), operand(), wide[int(rng.integers(len(wide)))]))
        for v in rng.choice(wide, 4):
            outs.append(w("matmul", int(v), 7) if rng.integers(2) else w("matmul", turned(w, int(v)), 8))
        return sorted({*outs, *([wide[-1]] if rng.integers(3) == 0 else []), *([narrow[-1]] if len(narrow) > 1 else [])})

    return case(f"random chain {seed}", given, write)


@pytest.mark.parametrize("seed", range(60))
def test_steps_of_drawn_chains_read_what_was_made_for_them(seed: int) -> None:
    assert wrong_reads(fused(random_chain(seed).part)) == []


def run_chains(seeds: Sequence[int]) -> None:
    cases = [random_chain(seed) for seed in seeds]
    found = sum(len(kernels(c.part)) for c in cases)
    assert found >= len(cases)
    on = compiled(cases)
    for c in cases:
        assert agrees(c, on), c.name


@needs_compiler
def test_drawn_chains() -> None:
    run_chains(range(4))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("first", range(4, 24, 5))
def test_more_drawn_chains(first: int) -> None:
    run_chains(range(first, first + 5))


# ---- that these tests find what they are for --------------------------------------------------------------------------------


def test_a_kernel_that_overtakes_what_it_waits_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping.Finder, "_ordered", lambda self, kernels, made: (sorted_by_first(self, kernels, made), []))
    assert wrong_reads(fused(attention(masked, (2, 20, 31, 16)).part)) != []


def sorted_by_first(finder: keeping.Finder, made: Sequence[keeping._Kernel], steps: Sequence[Step]) -> list[Step]:
    """The kernels in front of everything."""
    gone = {at for kernel in made for at in (*kernel.members, *kernel.products)} | set(finder._chains)
    return [*steps, *(step for at, step in enumerate(finder._steps) if at not in gone)]
