"""Sums that are made where a product, a sum or a scatter-add is stored: which are, which are not, that the bits are the reference's by every way of
multiplying, that an accumulator is written where it lies, and that changes are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from assay.exact.added import Added, addend
from assay.exact.cuda import cuts, fake, product
from assay.exact.cuda.product import Product, Products
from assay.exact.cuda.tiles import BF16_TILES, TILES, Size, Way, digits, groups
from assay.exact.inputs import Case, Writer, case, floats, integers
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.program import Output, Part
from tests.exact.test_cuda_pairs import Run
from tests.exact.test_cuda_rows import expanded, over

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")


def gradient(w: Writer) -> Sequence[int]:
    return [w("add", 2, w("matmul", 0, 1))]


def made(shape: tuple[int, int, int], kind: str, bits: int = 14, write: Callable[[Writer], Sequence[int]] = gradient) -> Case:
    """A (m x k), B (k x n), and what is added (m x n)."""
    m, k, n = shape
    inputs = [floats(1, (m, k), kind), floats(2, (k, n), "even"), floats(3, (m, n), kind), integers(4, (m,), 0, 5), floats(5, (n,), kind)]
    return case(f"{write.__name__} {shape} {kind}", [*inputs, floats(6, (5, n), kind)], write)._replace(gemm_bits=bits)


def persistent(size: Size) -> Way:
    return Way(next(group for group in groups(digits(14), "sm_90") if group.persistent)._replace(cm=1, cn=1))


WAYS: dict[str, tuple[int, Callable[[Size], Way] | None]] = {
    "int8": (14, None), "one plane": (8, lambda size: Way(TILES[1][-1])), "23 bits": (23, lambda size: Way(TILES[5][-1])),
    "bf16": (14, lambda size: Way(BF16_TILES[3][-1], "bf16", 22)), "library": (14, lambda size: Way(None)), "persistent": (14, persistent),
    "wgmma": (14, lambda size: Way(next(group for group in groups(digits(14), "sm_90") if not group.persistent))),
}  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("name", WAYS)
def test_a_product_adds_what_is_there_by_every_way(name: str) -> None:
    """With edges and without; of odd and of even rows; with NaN, infinities and -0."""
    bits, way = WAYS[name]
    for shape in ((131, 70, 69), (128, 33, 128)):
        run = Run(made(shape, "rare", bits), bits, way)
        assert run.names == ["matmul"]
        assert run.right(), shape


@needs_compiler
def test_a_product_whose_k_is_split_adds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "FEW_PARTS", 32)
    run = Run(made((15, 600, 13), "rare"), 14)
    (step,) = run.tape.plan.steps
    found = run.products.product(step)
    assert isinstance(found, Product)
    assert found.pieces[-1].parts > 1
    assert run.right()


@needs_compiler
@pytest.mark.parametrize("name", ["persistent", "wgmma"])
def test_rows_that_are_cut_off_are_added_to_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(cuts, "cut", lambda *_: cuts.Cut(256, 2))
    run = Run(made((300, 400, 70), "rare", 14), *WAYS[name])
    (step,) = run.tape.plan.steps
    found = run.products.product(step)
    assert found is not None
    assert [(piece.rows, piece.parts) for piece in found.pieces] == [(256, 1), (44, 2)]
    assert run.right()


class Plain(Products):
    def product(self, step: Step) -> Product | None:
        return None


@needs_compiler
def test_plain_products_and_values_that_are_no_numbers() -> None:
    run = Run(made((20, 17, 9), "special"), 14)
    assert run.right()
    run.cuda._parts.products = Plain(run.device)
    assert Run(made((9, 17, 20), "special"), 14).right()


def sums(w: Writer) -> Sequence[int]:
    """Of columns, shared by blocks or not; of rows."""
    return [w("add", w("sum", 0, axes=(0,), keepdim=False), 1), w("add", 2, w("sum", 3, axes=(1,), keepdim=False))]


@needs_compiler
@pytest.mark.parametrize("size", [(20, 40), (5000, 3), (70, 5000)])
def test_sums_add_what_is_there(size: tuple[int, int]) -> None:
    rows, columns = size
    given = [floats(1, size, "rare"), floats(2, (columns,), "rare"), floats(3, (columns,), "rare"), floats(4, (columns, rows), "rare")]
    run = Run(case("sums", given, sums), 14)
    assert "map" not in run.names
    assert run.right()


def scattered(w: Writer) -> Sequence[int]:
    """Rows by an index, and a product's result."""
    found = w("scatter_add_rows", 3, 2, rows=5)
    return [w("add", found, 5), w("matmul", 0, 1)]


@needs_compiler
def test_a_scatter_adds_what_is_there() -> None:
    run = Run(made((21, 18, 16), "rare", write=scattered), 14)
    assert sorted(run.names) == ["matmul", "scatter_add"]
    assert run.right()


def residual(w: Writer) -> Sequence[int]:
    """What is added to a product's result is read by rows, and later."""
    y = w("add", 2, w("matmul", 0, 1))
    centred = w("sub", y, expanded(w, over(w, "amax", y), y))
    return [w("mul", w("div", centred, expanded(w, over(w, "sum", w("exp", centred)), y)), y), w("abs", w("permute", y, axes=(1, 0)))]


@needs_compiler
def test_rows_read_the_sum_that_a_product_made() -> None:
    run = Run(made((70, 30, 40), "rare", write=residual), 14)
    assert run.names.count("rows") == 1
    (step,) = (step for step in run.tape.plan.steps if step.name == "matmul")
    assert addend(step) is not None
    (rows,) = (step for step in run.tape.plan.steps if step.name == "rows")
    assert not any(v.root in {w.root for w in (*step.reads, *step.parts[0].writes)} for v in rows.reads)
    assert run.right()


# ---- what is not --------------------------------------------------------------------------------------------------------------


def read_by_others(w: Writer) -> Sequence[int]:
    y = w("matmul", 0, 1)
    return [w("add", 2, y), w("neg", w("permute", y, axes=(1, 0)))]


def with_itself(w: Writer) -> Sequence[int]:
    y = w("matmul", 0, 1)
    return [w("add", y, y)]


def of_a_row(w: Writer) -> Sequence[int]:
    y = w("matmul", 0, 1)
    return [w("add", y, expanded(w, 4, y))]


def a_result(w: Writer) -> Sequence[int]:
    y = w("matmul", 0, 1)
    return [w("add", y, 2), y]


def a_chain(w: Writer) -> Sequence[int]:
    return [w("neg", w("add", w("matmul", 0, 1), 2))]


@pytest.mark.parametrize("write", [read_by_others, with_itself, of_a_row, a_result, a_chain])
def test_what_is_no_sum_of_two_alone_stays(write: Callable[[Writer], Sequence[int]]) -> None:
    plan = Plan(made((20, 17, 9), "even", write=write).part, {}, 14, rows=True)
    assert all(addend(step) is None for step in plan.steps)


def both(w: Writer) -> Sequence[int]:
    return [w("add", w("matmul", 0, 1), w("matmul", w("neg", 0), 1))]


@needs_compiler
def test_of_two_products_the_later_one_adds() -> None:
    run = Run(made((20, 17, 19), "rare", write=both), 14)
    found = [addend(step) is not None for step in run.tape.plan.steps if step.name == "matmul"]
    assert found == [False, True]
    assert run.right()


def test_a_trace_and_a_plan_for_processors_have_each_step() -> None:
    part = made((20, 17, 9), "even").part
    for plan in (Plan(part, {}, 14, trace=True, rows=True), Plan(part, {}, 14)):
        assert [step.name for step in plan.steps] == ["matmul", "map"]


# ---- in place -----------------------------------------------------------------------------------------------------------------


def entries(write: Callable[[Writer], Sequence[int]], square: int = 18) -> Part:
    """Input 2 is an accumulator's entry, whose successor is the result."""
    c = made((square,) * 3, "even", write=write)
    inputs = [i.__class__(kind="acc", name="a", type=i.type) if at == 2 else i for at, i in enumerate(c.part.inputs)]
    return Part(inputs=tuple(inputs), nodes=c.part.nodes, outputs=(Output(kind="acc", name="a", value=c.part.outputs[0].value),))


def own_operand(w: Writer) -> Sequence[int]:
    """The entry is what is multiplied, too."""
    return [w("add", 2, w("matmul", 0, 2))]


def test_an_accumulator_lies_where_it_lay() -> None:
    plan = Plan(entries(gradient), {}, 14, rows=True)
    assert [step.name for step in plan.steps] == ["matmul"]
    assert plan.over == {0: 2}
    assert Plan(entries(own_operand), {}, 14, rows=True).over == {}


@needs_compiler
def test_accumulators_grow_in_place() -> None:
    c = made((18, 18, 18), "even")
    run = Run(c._replace(part=entries(gradient)), 14)
    bound = run.cuda._planned("micro", False)
    launches = run.tape.bind({**bound.bases, "output": [bound.bases["input"][2]]}, bound.held[1].address, bound.held)
    a, b, before = c.inputs[:3]
    for at, array in enumerate((a, b, before)):
        run.device.upload(bound.bases["input"][at], np.ascontiguousarray(array))
    want = before
    for _ in range(3):
        for launch in launches:
            run.device.launch(launch)
        term = Run(made((18, 18, 18), "even", write=lambda w: [w("matmul", 0, 1)]), 14).want[0]
        want = (want + term).astype(np.float32)
    got = np.zeros_like(before)
    run.device.download(bound.bases["input"][2], got)
    assert got.tobytes() == want.tobytes()


# ---- that these tests find what they are for ----------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "instead"),
    [
        ("__fadd_rn(x, more[at])", "__fadd_rn(x, more[0])"), ("if (more) x =", "if (0) x ="),
        ("(e ? out.y : out.x, more, place + e)", "(e ? out.y : out.x, more, place)"),
    ],
)  # fmt: skip
def test_changes_of_the_kernels_are_found(of: str, instead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, around = product.multiplication, product.around
    monkeypatch.setattr(product, "multiplication", lambda *how: right(*how).replace(of, instead))
    monkeypatch.setattr(product, "around", lambda *how: around(*how).replace(of, instead))
    assert not Run(made((40, 33, 21), "even"), 14, persistent).right()


def test_an_addend_that_is_made_later_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Added, "_there", lambda self, v, maker: True)
    plan = Plan(made((20, 17, 19), "rare", write=both).part, {}, 14, rows=True)
    products = [step for step in plan.steps if step.name == "matmul"]
    assert addend(products[0]) is not None, "the rule is needed: the first would read what the second makes"
