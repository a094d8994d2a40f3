"""Matrices that two products read, packed in one pass, and values that are made again: which are, that values lie still as long as they are read, and
that the bits and the checksums are those of products by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest

from assay.exact import reference, trainings
from assay.exact.cuda import fake, pairs, product, rows
from assay.exact.cuda.device import Description, Launch
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.maps import Kernels, MapText
from assay.exact.cuda.parts import constants_of
from assay.exact.cuda.product import Products
from assay.exact.cuda.ruler import Ruler
from assay.exact.cuda.tape import Tape
from assay.exact.cuda.tiles import BF16_TILES, FP8_TILES, ROWS, TILES, Size, Way, digits, groups
from assay.exact.inputs import Case, Writer, case, floats, program
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.exact.views import View
from tests.exact.support import same
from tests.exact.test_cuda_route import named
from tests.exact.test_cuda_rows import expanded, over

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
SHAPES = [(1, 1, 1), (33, 40, 17), (131, 333, 69), (300, 130, 50)]


@cache
def device() -> tuple[fake.Fake, Kernels]:
    made = fake.Fake()
    return made, Kernels(made)


def as_it_is(w: Writer) -> int:
    """The matrix is an input, whose tops the step that packs it makes."""
    return 0


def turned(w: Writer) -> int:
    """Its columns lie side by side."""
    return w("permute", w("neg", 3), axes=(1, 0))


def by_map(w: Writer) -> int:
    """A chain of MAP makes it, and its tops."""
    return w("mul", w("neg", 0), 0)


def by_rows(w: Writer) -> int:
    """A group over rows makes it, and its tops."""
    return w("sub", 0, expanded(w, over(w, "amax", w("abs", 0)), 0))


def of_heads(w: Writer) -> int:
    """Neither rows nor columns are evenly apart."""
    r, n = w.type(0).shape
    x = w("reshape", 0, shape=(r // 5, 5, n // 13, 13))
    turned = w("neg", w("permute", x, axes=(2, 0, 1, 3)))
    return w("reshape", w("permute", turned, axes=(1, 2, 0, 3)), shape=(r, n))


def of(make: Callable[[Writer], int], shape: tuple[int, int, int], kind: str, bits: int = 14) -> Case:
    """X W and X^T G: two products of what `make` makes."""
    r, n, m = shape
    inputs = [floats(1, (r, n), kind), floats(2, (n, m), "even"), floats(3, (r, m), "even"), floats(4, (n, r), kind)]

    def write(w: Writer) -> Sequence[int]:
        x = make(w)
        return [w("matmul", x, 1), w("matmul", w("permute", x, axes=(1, 0)), 2)]

    return case(f"pairs {make.__name__} {shape} {kind}", inputs, write)._replace(gemm_bits=bits)


class Run:
    """A case on the fake device, launch by launch."""

    def __init__(self, c: Case, bits: int, way: Callable[..., Way | None] | None = None) -> None:
        self.device, kernels = device()
        self.products = Products(self.device, way)
        self.cuda = Cuda(program(c.part, bits), self.device, kernels, self.products)
        self.want = [np.asarray(reference.evaluate(c.part, c.inputs, bits)[o.value]) for o in c.part.outputs]
        self.case, self.bits = c, bits

    @property
    def tape(self) -> Tape:
        return self.cuda._parts.tape("micro")

    @property
    def names(self) -> list[str]:
        return [step.name for step in self.tape.plan.steps]

    def right(self) -> bool:
        got = self.cuda.run("micro", named(self.case))
        return all(same(got[o.name], want) for o, want in zip(self.case.part.outputs, self.want, strict=True))

    def struck(self, strike: Callable[[Launch, int], None]) -> tuple[bool, int]:
        """(whether the results are right, wrong checksums); `strike` is called before each launch, with the address of the arena."""
        bound = self.cuda._planned("micro", False)
        self.cuda._upload(bound, named(self.case))
        before = self._faults()
        for launch in bound.launches:
            strike(launch, bound.bases["arena"][0])
            self.device.launch(launch)
        got = self.cuda._results(bound)
        return all(same(got[o.name], want) for o, want in zip(self.case.part.outputs, self.want, strict=True)), self._faults() - before

    def _faults(self) -> int:
        count = np.zeros(1, np.uint64)
        self.device.download(self.products.faults.address, count)
        return int(count[0])

    def flip(self, address: int, bit: int) -> None:
        byte = np.zeros(1, np.uint8)
        self.device.download(address, byte)
        self.device.upload(address, byte ^ np.uint8(1 << bit))


@needs_compiler
@pytest.mark.parametrize("make", [as_it_is, turned, by_map, by_rows])
def test_a_matrix_of_two_products_is_packed_once_and_the_bits_are_the_same(make: Callable[[Writer], int]) -> None:
    for shape in SHAPES if make is as_it_is else SHAPES[1:]:
        for kind in ("even", "special") if shape[0] < 100 else ("rare",):
            run = Run(of(make, shape, kind), 14)
            assert run.right(), f"{shape} {kind}"
            assert run.names == ["rows"] * (make is not as_it_is) + ["pack", "matmul", "matmul"]
    (step,) = (step for step in run.tape.plan.steps if step.name == "pack")
    assert pairs.pack_of(step).tops == (make is as_it_is), "who makes the scales"


@needs_compiler
def test_heads_that_lie_apart_are_packed_where_they_are() -> None:
    run = Run(of(of_heads, (35, 39, 20), "rare"), 14)
    assert run.names == ["map", "pack", "matmul", "matmul"]
    assert run.right()


def mixed(size: Size) -> Way:
    """Blocks that stay for one product, ordinary tiles for the other: operands that lie differently."""
    if size.m == 131:
        return Way(next(group for group in groups(digits(14), "sm_90") if group.persistent)._replace(cm=1, cn=1))
    return Way(TILES[3][-1])


@needs_compiler
@pytest.mark.parametrize(
    ("bits", "way"),
    [
        (8, lambda size: Way(TILES[1][-1])), (15, lambda size: Way(TILES[3][-1])), (23, lambda size: Way(TILES[5][-1])),
        (14, lambda size: Way(BF16_TILES[3][-1], "bf16", 22)), (8, lambda size: Way(FP8_TILES[3][-1], "fp8", 14)), (14, lambda size: Way(None)),
        (14, lambda size: Way(next(group for group in groups(digits(14), "sm_90") if not group.persistent))),
    ],
    ids=["8", "15", "23", "bf16", "fp8", "library", "wgmma"],
)  # fmt: skip
def test_digits_of_every_kind(bits: int, way: Callable[[Size], Way]) -> None:
    run = Run(of(by_rows, (131, 140, 69), "rare", bits), bits, way)
    assert run.names == ["rows", "pack", "matmul", "matmul"]
    assert run.right()


@needs_compiler
def test_products_that_want_digits_in_other_layouts_share_the_scales() -> None:
    run = Run(of(by_rows, (131, 140, 69), "rare"), 14, mixed)
    assert run.names == ["rows", "pack", "matmul", "matmul"]
    (step,) = (step for step in run.tape.plan.steps if step.name == "pack")
    assert [launch.kernel.name for launch in run.products.pack(step, lambda v: 0)] == ["pack", "pack"]
    assert run.right()


# ---- checksums ----------------------------------------------------------------------------------------------------------------


@needs_compiler
def test_flipped_bits_of_what_is_packed_are_caught() -> None:
    run = Run(of(by_rows, (40, 200, 37), "even"), 14)
    (pack,) = (step for step in run.tape.plan.steps if step.name == "pack")
    halves = pairs.pack_of(pack).halves
    rng = np.random.default_rng(5)
    for (_, sums, packed), side in zip(halves, pairs.sides_of(run.products, pack), strict=True):
        for turn in range(12):
            lane, k, plane = rng.integers(side.operand.lanes.size), int(rng.integers(side.operand.k.size)), rng.integers(side.planes)
            byte = ((plane * side.blocks + k // 128) * side.padded + lane) * 128 + (((k % 128 >> 4) ^ (lane & 7)) << 4 | (k & 15))
            for v, at in ((packed, int(byte)), (sums, 8 * (k if side.first else int(lane)))):
                where, struck = run.tape.place(v, {"arena": [0], "input": [0] * 9, "output": [0] * 9}) + at, [False]

                def strike(launch: Launch, arena: int, where: int = where, turn: int = turn, struck: list[bool] = struck) -> None:
                    if launch.kernel.name == "gemm" and not struck[0]:
                        struck[0] = True
                        run.flip(arena + where, turn % 8)

                assert run.struck(strike)[1] > 0, f"byte {at}, bit {turn % 8}: nobody noticed"
    assert run.struck(lambda launch, arena: None) == (True, 0)


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("16 * warp : 0) >= of.padded) return;", "ROW : 0) >= of.padded) return;"),
        ("COLUMNS && at.row < by_column.k", "COLUMNS && at.row + ROW < by_column.k"),
        ("padded_r, planes_r, top_r, packed_r", "padded_r, planes_r, top_c, packed_r"), ("across_c, along_c}", "(u64 *)0, along_c}"),
        ("if (from + j < columns) atomicMax", "if (from + j + 1 < columns) atomicMax"), ("highs[j] = a > highs[j] ? a : highs[j];", "highs[j] = a;"),
        ("if (tx == 0) atomicMax(&top_r[row], high);", "if (tx == 0) top_r[row] = high;"),
        ("column + ROW <= from.columns", "column <= from.columns"), ("row + HIGH <= from.rows", "row <= from.rows"),
        ("TURNED ? from / 16 + (column & 3) : column", "TURNED ? (column & 3) : column"),
        ("last_two[4] = {0, upper, 0, lower}", "last_two[4] = {0, lower, 0, upper}"),
        ("(TURNED ? from : 0) + 16 * chunk", "16 * chunk"), ("room.scales + ROW, bits", "room.scales, bits"),
    ],
)  # fmt: skip
def test_changes_of_the_kernels_are_found(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = product.around
    assert right(digits(14), ROWS).count(old) == 1
    monkeypatch.setattr(product, "around", lambda *how: right(*how).replace(old, new))
    assert Run(of(as_it_is, (200, 1100, 33), "wide"), 14).struck(lambda launch, arena: None) != (True, 0)


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"), [("raise_column(column_", "if (lane) raise_column(column_"), ("if (lane == 0) row_", "if (lane == 0 && r) row_")]
)
def test_changes_of_who_writes_the_scales_are_found(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = rows.text

    def wrong(step: Step) -> MapText:
        made = right(step)
        name = f"wrong_{len(old)}_{made.name}"  # kernels are compiled once for each name
        return MapText(name, made.text.replace(made.name, name).replace(old, new))

    monkeypatch.setattr(rows, "text", wrong)
    run = Run(of(by_rows, (33, 40, 17), "wide"), 14)
    texts = [right(step).text for step in run.tape.plan.steps if step.name == "rows"]
    assert any(old in text for text in texts)
    assert run.struck(lambda launch, arena: None) != (True, 0)


# ---- how long values lie --------------------------------------------------------------------------------------------------------


def disturbed(plan: Plan) -> list[str]:
    """Steps that read what was not written, or was written over since, or that write over what they read; of values in the arena."""
    lying: dict[int, tuple[int, int]] = {}
    found = []

    def storages(views: Sequence[View]) -> dict[int, tuple[int, int]]:
        roots = {plan._storage(v.root) for v in views}
        return {root: (at, at + plan.bytes_of(root)) for root in roots for home, at in (plan.homes[root],) if home == "arena"}

    for step in plan.steps:
        read, written = storages(step.reads), storages(step.writes)
        found += [f"{step.name} reads {root}" for root in read if root not in lying]
        for root, (start, stop) in written.items():
            over_ = {other for other, (a, b) in lying.items() if other != root and a < stop and start < b}
            found += [f"{step.name} writes over {other}" for other in over_ & set(read)]
            lying = {other: place for other, place in lying.items() if other not in over_} | {root: (start, stop)}
    return found


def test_digits_take_the_place_of_the_matrix_that_they_are_made_of() -> None:
    """What a layer is given is kept as digits until the way back, where nothing else reads it."""

    def write(w: Writer) -> Sequence[int]:
        x, back = w("exp", 0), w("matmul", 0, 1)
        y = w("matmul", x, 1)
        for _ in range(40):
            back = w("matmul", w("relu", back), 1)
        kept = w("permute", x, axes=(1, 0))
        return [y, w("matmul", kept, back)] + ([w("neg", w("cumsum", x, axis=0))] if read else [])

    products = Products(Ruler(Description("counted", "", "sm_90", 1 << 37, 132, 50 << 20)))
    for read in (False, True):
        part = case("kept", [floats(1, (256, 256), "even"), floats(2, (256, 256), "even")], write).part
        plan = Plan(part, {}, 14, rows=True, packs=products.paired)
        at = [n for n, step in enumerate(plan.steps) if step.name == "pack" and pairs.pack_of(step).matrix.root == plan.views[2].root]
        assert len(at) == (not read), "a matrix that is read later, too, would lie there beside its digits"


@pytest.mark.parametrize("family", trainings.FAMILIES)
def test_every_value_lies_still_as_long_as_it_is_read(family: str) -> None:
    p = trainings.load(family).program
    products = Products(Ruler(Description("counted", "", "sm_90", 1 << 37, 132, 50 << 20)))
    for part in (p.micro, p.update):
        plan, alone = (Plan(part, constants_of(p), p.gemm_bits, rows=True, packs=packs) for packs in (products.paired, None))
        assert disturbed(plan) == []
        assert plan.over == alone.over, "successors lie over as many entries"
        if part is p.micro:
            assert any(step.name == "pack" for step in plan.steps)
