"""Matrices that are made where they are packed: which are, and which are still stored; that bits, digits, scales and sums are those of the route that
stores them, at the edges of blocks, with infinities and NaN; what is changed is found."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from assay.exact import trainings
from assay.exact.cuda import fake, making, pairs
from assay.exact.cuda.device import Description, Launch
from assay.exact.cuda.maps import MapText
from assay.exact.cuda.parts import constants_of
from assay.exact.cuda.product import Products
from assay.exact.cuda.ruler import Ruler
from assay.exact.cuda.tiles import ROWS, TILES, Way, digits
from assay.exact.inputs import Case, Writer, case, floats, whole
from assay.exact.plan import Plan
from assay.exact.steps import Step
from tests.exact.test_cuda_pairs import Run, mixed
from tests.exact.test_cuda_rows import expanded, over

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
H200 = Description("counted", "", "sm_90", 1 << 37, 132, 50 << 20)

Make = Callable[[Writer], int]
"""Makes a matrix like input 0, of it, and of 3 (one more such), 4 (an element a column), 5 (one a row), 6 (an index a row) and 7 (a byte an
element)."""


def normed(w: Writer) -> int:
    """A layer norm, about: what is read of each element, of each row and of each column."""
    x = w("sub", 0, expanded(w, over(w, "sum", 0), 0))
    made = w("mul", x, expanded(w, over(w, "amax", w("mul", x, x)), 0))
    return w("add", w("mul", made, expanded(w, 4, 0)), w("neg", expanded(w, 4, 0)))


def crossed(w: Writer) -> int:
    """As cross-entropy's gradient: an exponential, and one element of each row that is another."""
    less = w("sub", 0, expanded(w, over(w, "amax", 0), 0))
    put = w("scatter_value", less, w("reshape", 6, shape=w.type(5).shape), axis=1, bits=0xBF800000)
    return w("sub", w("mul", put, expanded(w, 5, 0)), w("exp", less))


def spiked(w: Writer) -> int:
    """The same with zeros put into, whose sum is wanted first: rows alike but for one element, which the rows' kernel does not make one by one."""
    put = w("scatter_value", expanded(w, w.f32(0.0), 0), w("reshape", 6, shape=w.type(5).shape), axis=1, bits=0xBF800000)
    g = w("mul", put, expanded(w, 5, 0))
    return w("sub", g, w("mul", w("exp", w("sub", 0, expanded(w, 5, 0))), expanded(w, over(w, "sum", g), 0)))


def masked(w: Writer) -> int:
    """What is read beside the matrix is a byte an element; and an integer of each row."""
    least = w("cast", w("reshape", w("mul", 6, 6), shape=w.type(5).shape), dtype="f32")
    return w("select", 7, w("neg", 0), expanded(w, least, 0))


def by_map(w: Writer) -> int:
    return w("mul", w("neg", 0), 0)


def of_two(w: Writer) -> int:
    """To read two matrices is as much as to write one and read it."""
    return w("mul", w("neg", 0), w("abs", 3))


def quotient(w: Writer) -> int:
    return w("sigmoid", w("neg", 0))


def far(w: Writer) -> int:
    x = 0
    for _ in range(14):
        x = w("mul", w("neg", x), 0)
    return x


def nothing(w: Writer, x: int) -> list[int]:
    return []


def of(make: Make, shape: tuple[int, int, int], kind: str = "even", bits: int = 14, more: Callable[[Writer, int], list[int]] = nothing) -> Case:
    """X W and X^T G: two products of what `make` makes, and what else is made of it."""
    r, n, m = shape
    rng = np.random.default_rng(7)
    inputs = [floats(1, (r, n), kind), floats(2, (n, m), "even"), floats(3, (r, m), "even"), floats(4, (r, n), kind), floats(5, (1, n), "even")]
    inputs += [floats(6, (r, 1), "even"), rng.integers(-2, n + 2, (r,)).astype(np.int64), whole(7, (r, n), "bool")]  # some indices are clamped

    def write(w: Writer) -> Sequence[int]:
        x = make(w)
        return [w("matmul", x, 1), w("matmul", w("permute", x, axes=(1, 0)), 2), *more(w, x)]

    return case(f"made {make.__name__} {shape} {kind}", inputs, write)._replace(gemm_bits=bits)


def chains(plan: Plan) -> list[Step]:
    return [chain for step in plan.steps if step.name == "pack" and (chain := pairs.pack_of(step).chain) is not None]


def stored(plan: Plan, chain: Step) -> bool:
    return any(v.root == chain.writes[0].root for step in plan.steps for v in step.writes)


def planned(c: Case, of_device: Description = H200, trace: bool = False) -> Plan:
    return Plan(c.part, {}, c.gemm_bits, trace, rows=True, packs=Products(Ruler(of_device)).paired)


# ---- which are made ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "reads"), [(normed, 4), (crossed, 4), (spiked, 5), (masked, 3), (by_map, 1)])
def test_what_is_near_what_lies_there_is_not_stored(make: Make, reads: int) -> None:
    plan = planned(of(make, (256, 256, 128)))
    (chain,) = chains(plan)
    assert not stored(plan, chain)
    assert len(chain.reads) == reads
    assert {part.name for part in chain.parts} <= {"map", "copy", "scatter_value"}


@pytest.mark.parametrize("make", [of_two, quotient, far])
def test_what_is_more_bytes_or_too_dear_is_stored(make: Make) -> None:
    plan = planned(of(make, (256, 256, 128)))
    assert [step.name for step in plan.steps if step.name == "pack"] == ["pack"]
    assert chains(plan) == []


def test_what_others_read_is_stored() -> None:
    def result(w: Writer, x: int) -> list[int]:
        return [x]

    def another(w: Writer, x: int) -> list[int]:
        return [w("cumsum", x, axis=0)]

    def third(w: Writer, x: int) -> list[int]:
        return [w("matmul", w("reshape", x, shape=(512, 128)), w("slice", 1, axis=0, start=0, stop=128, step=1))]

    for more in (result, another, third):
        assert chains(planned(of(normed, (256, 256, 128), more=more))) == []
    assert chains(planned(of(normed, (256, 256, 128)), trace=True)) == []


def test_the_gradient_of_a_transformers_loss_is_made() -> None:
    p = trainings.load("gpt").program
    plan = Plan(p.micro, constants_of(p), p.gemm_bits, rows=True, packs=Products(Ruler(H200)).paired)
    found = chains(plan)
    assert [any(part.name == "scatter_value" for part in chain.parts) for chain in found] == [True]
    assert not any(stored(plan, chain) for chain in found)


# ---- bits --------------------------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("make", [normed, crossed, spiked, masked, by_map])
def test_the_bits_are_the_same(make: Make) -> None:
    for shape, kind in (((33, 40, 17), "special"), ((128, 256, 17), "rare"), ((131, 129, 17), "even")):
        run = Run(of(make, shape, kind), 14)
        assert len(chains(run.tape.plan)) == 1
        assert run.right(), f"{shape} {kind}"


@needs_compiler
@pytest.mark.parametrize(
    ("bits", "way"), [(8, Way(TILES[1][-1])), (15, Way(TILES[3][-1])), (23, Way(TILES[5][-1])), (14, Way(None))], ids=["8", "15", "23", "library"],
)  # fmt: skip
def test_digits_of_every_kind(bits: int, way: Way) -> None:
    run = Run(of(normed, (131, 140, 69), "rare", bits), bits, lambda size: way)
    assert len(chains(run.tape.plan)) == 1
    assert run.right()


@needs_compiler
def test_products_that_want_other_layouts_read_what_is_stored() -> None:
    run = Run(of(normed, (131, 140, 69), "rare"), 14, mixed)
    assert chains(run.tape.plan) == []
    assert run.right()


def packed(c: Case) -> tuple[tuple[bool, int], list[bytes]]:
    """Whether the results are right, with how many checksums that are wrong; and tops, sums and digits of both halves, when the first product is
    multiplied."""
    run = Run(c, c.gemm_bits)
    (pack,) = (step for step in run.tape.plan.steps if step.name == "pack")
    found: list[bytes] = []

    def look(launch: Launch, arena: int) -> None:
        if launch.kernel.name == "gemm" and not found:
            for v in (v for half in pairs.pack_of(pack).halves for v in half):
                part = np.empty(v.elements, np.uint8)
                run.device.download(run.tape.place(v, {"arena": [arena], "input": [0] * 9, "output": [0] * 9}), part)
                found.append(part.tobytes())

    return run.struck(look), found


@needs_compiler
@pytest.mark.parametrize(("make", "shape"), [(normed, (131, 257, 40)), (crossed, (130, 128, 17))])
def test_digits_scales_and_sums_are_those_of_what_is_stored(make: Make, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    mine = packed(of(make, shape))
    monkeypatch.setattr(making, "chain_of", lambda step, matrix: None)
    assert chains(Run(of(make, shape), 14).tape.plan) == []
    assert packed(of(make, shape)) == mine
    assert mine[0] == (True, 0)


EDGES = of(normed, (200, 233, 17))
"""Blocks that are full, and such that have edges along both axes."""


# ---- what is changed ----------------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(lane ^ shift_of(i))", "lane"), ("min(row + i, last)", "row"), ("row + i < (int)rows && column", "column"),
        ("(int)beside + ROW <= (int)n", "(int)beside <= (int)n"), ("row + HIGH <= (int)rows", "row <= (int)rows"),
        ("column + 32 * j < (int)n ?", "column + 32 * j <= (int)n ?"), ("to[32 * j] = v", "to[32 * j] = 2.0f * v"),
        ("length, padded_r, planes_r, top_r", "length, padded_r, planes_r, top_c"),
    ],
)  # fmt: skip
def test_changes_of_what_is_made_are_found(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = making.text

    def wrong(chain: Step, before: str) -> MapText:
        made = right(chain, before)
        assert old in made.text
        name = f"wrong_{zlib.crc32(old.encode())}_{made.name}"  # kernels are compiled once for each name
        return MapText(name, made.text.replace(made.name, name).replace(old, new))

    as_it_should = packed(EDGES)
    monkeypatch.setattr(making, "text", wrong)
    assert packed(EDGES) != as_it_should


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(mine ^ i << 2)", "mine"), ("(lane ^ chunk << 3)", "lane"), ("(mine ^ 4 * w)", "mine"), ("((16 * chunk) ^ shift_of(lane))", "(16 * chunk)"),
        ("(4 * w + i) * ROW", "4 * w * ROW"), ("scale = TURNED ? lane : from + lane", "scale = lane"),
    ],
)  # fmt: skip
def test_changes_of_how_it_is_packed_are_found(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = pairs.of_making
    assert right(digits(14), ROWS).count(old) == 1
    monkeypatch.setattr(pairs, "of_making", lambda *how: right(*how).replace(old, new))
    assert Run(EDGES, 14).struck(lambda launch, arena: None) != (True, 0)
