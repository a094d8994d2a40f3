"""The machine code that NVIDIA's compiler makes of kernels for sm_90, run an instruction at a time, gives the reference's bits, whatever is in what
they are given, and whichever way those few instructions go whose bits are published nowhere (bench/exactly.py); and changed instructions do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from assay.exact import conformance, reference
from assay.exact.cuda import fake
from assay.exact.cuda.attend import taking
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.handed import handed_of
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.tiles import TILES, digits
from assay.exact.inputs import Case, program
from assay.exact.plan import Plan
from tests.exact import coded
from tests.exact.test_cuda_attention import attention, masked
from tests.exact.test_cuda_columns import layer_norm, made
from tests.exact.test_cuda_heads import SIZES, found
from tests.exact.test_cuda_making import normed
from tests.exact.test_cuda_making import of as of_making
from tests.exact.test_cuda_onchip import attended
from tests.exact.test_cuda_pairs import as_it_is, of
from tests.exact.test_cuda_products import Single
from tests.exact.test_cuda_route import named
from tests.exact.test_cuda_rows import families_of
from tests.exact.test_cuda_spans import attention as causal_attention
from tests.exact.test_cuda_spans import causal, first_query

pytestmark = [
    pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler"),
    pytest.mark.skipif(bool(coded.missing()), reason=coded.missing() or "there"),
]
Loose = coded.exactly.Loose
WAYS = [(Loose(0, False), False), (Loose(-1, True), True), (Loose(1, False), False)]
"""Reciprocals as they may be, quotients, and the order of blocks."""
SLOW = pytest.mark.slow


def wrong(c: Case, device: coded.Coded) -> list[str]:
    """Outputs that have other bits than the reference's."""
    values = reference.evaluate(c.part, c.inputs, c.gemm_bits)
    got = Cuda(program(c.part, c.gemm_bits), device, Kernels(device)).run("micro", named(c))
    device.wait()
    return [o.name for o in c.part.outputs if got[o.name].tobytes() != np.asarray(values[o.value]).tobytes()]


def conforming(name: str) -> Case:
    return next(c for c in conformance.cases() if c.name == name)


@pytest.mark.parametrize("kind", ["special", "tiny", "rare", pytest.param("wide", marks=SLOW)])
@pytest.mark.parametrize("shape", [(4, 16), (4, 33), pytest.param((8, 31), marks=SLOW)], ids=str)
def test_rows_softmax_layer_norm_cross_entropy_and_their_gradients(shape: tuple[int, int], kind: str) -> None:
    for loose, back in WAYS:
        device = coded.Coded(loose, back)
        assert wrong(families_of(shape, kind), device) == [], loose
        assert sum(n for name, n in device.ran.items() if name.startswith("rows_")) == 6


@SLOW
@pytest.mark.parametrize("shape", [(4, 257), (4, 1025), (4, 2049)], ids=str)
def test_longer_rows(shape: tuple[int, int]) -> None:
    assert wrong(families_of(shape, "rare"), coded.Coded(*WAYS[1])) == []


@pytest.mark.parametrize("name", ["binary special", "binary finite"])
def test_generated_maps_of_two_operands(name: str) -> None:
    """Sums, differences, products and quotients of floats, comparisons, ....; quotients that are allowed to go either way."""
    for loose, back in WAYS[1:]:
        device = coded.Coded(loose, back)
        assert wrong(conforming(name), device) == [], loose
        assert {name.partition("_")[0] for name in device.ran} == {"map"}


@pytest.mark.parametrize("kind", ["tiny", pytest.param("special", marks=SLOW)])
def test_a_layer_norm_its_columns_prefix_sums_and_a_product(kind: str) -> None:
    device = coded.Coded(*WAYS[1])
    assert wrong(made(layer_norm, (8, 16), kind), device) == []
    assert {"cumsum_f32", "tops", "pack", "gemm", "fill_4"} <= set(device.ran)
    assert any(name.startswith("columns_") for name in device.ran)


@pytest.mark.parametrize(("bits", "kind"), [(8, "special"), (14, "maximal"), pytest.param(14, "special", marks=SLOW),
                                            pytest.param(23, "special", marks=SLOW)])  # fmt: skip
def test_products_of_tensor_cores_and_their_checksums(bits: int, kind: str) -> None:
    device = coded.Coded(*WAYS[1])
    assert Single(device, 5, 40, 9, bits, TILES[digits(bits).sums][-1], 1, kind=kind).run() == (True, 0)
    assert {"clear", "tops", "pack", "gemm", "expected", "compare"} <= set(device.ran)


UNARY = ("special", "tiny", "wide", "rare", "even", "finite", "bits")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[] if kind in UNARY[:2] else SLOW) for kind in UNARY])
def test_generated_maps_of_one_operand(kind: str) -> None:
    """Exponentials, logarithms, sigmoids, error functions, sines with their tables, roots, ...."""
    for loose, back in WAYS[1:]:
        assert wrong(conforming(f"unary {kind}"), coded.Coded(loose, back)) == [], loose


@pytest.mark.parametrize("head", [(24, 67, 64, 64, "even"), (24, 67, 80, 33, "even"), pytest.param((33, 256, 128, 128, "wide"), marks=SLOW)])
def test_an_attention_by_hand(head: tuple[int, int, int, int, str]) -> None:
    device = coded.Coded(*WAYS[1])
    assert attended(device, *head)
    assert {"pack_heads", "whole"} <= set(device.ran)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "attention rare b=14" else SLOW) for name in (
    "attention rare b=14", "attention even b=14", "attention wide b=14", "attention even b=8", "attention even b=15", "attention even b=23",
    "attention causal even", "attention causal rare",
)])  # fmt: skip
def test_attentions_kernels_forward_and_back(name: str) -> None:
    """Causal ones leave out what the mask empties, and have blocks that are made again as a whole."""
    device = coded.Coded(*WAYS[1])
    assert wrong(conforming(name), device) == []
    assert sum(n for name, n in device.ran.items() if name.startswith("attend_")) == (6 if "causal" in name else 3)


HANDED = [causal_attention("added -inf", causal, (1, 128, 128, 16), change=change) for change in (None, first_query)]
HANDED.append(attention(masked, (1, 64, 64, 16)))


@pytest.mark.parametrize("c", [HANDED[0], *(pytest.param(c, marks=SLOW) for c in HANDED[1:])], ids=lambda c: str(c.name))
def test_what_attentions_way_back_hands_on(c: Case) -> None:
    """Whole lines, and what a mask leaves of them, also where a block makes all of its lines after all and hands nothing on."""
    device = coded.Coded(*WAYS[1])
    assert wrong(c, device) == []
    made = Plan(c.part, {}, c.gemm_bits, rows=True, attention=taking(device.description))
    assert sum(handed_of(step) is not None for step in made.steps) == 2


@pytest.mark.parametrize("bits", [14, pytest.param(8, marks=SLOW), pytest.param(23, marks=SLOW)])
def test_what_is_packed_for_attention(bits: int) -> None:
    assert found(coded.Coded(*WAYS[1]), SIZES, bits)


class Uneven(coded.Coded):
    """As if rows lay in pieces of 16 bytes whatever is between them."""

    def load(self, source: str, arch: str = "") -> Any:
        assert "row_step % 4 == 0 && " in source
        return super().load(source.replace("row_step % 4 == 0 && ", ""), arch)


def test_pieces_that_are_not_aligned_are_found() -> None:
    with pytest.raises(IndexError, match="16 bytes that is not aligned"):
        found(Uneven(), SIZES, 14)


BOTH = {"pack_both": of(as_it_is, (20, 40, 17), "rare"), "made_": of_making(normed, (20, 40, 17), "rare")}


@pytest.mark.parametrize("kernel", BOTH)
def test_a_matrix_that_is_packed_along_both_axes(kernel: str) -> None:
    """As it lies, or made where it is packed."""
    device = coded.Coded(*WAYS[1])
    assert wrong(BOTH[kernel], device) == []
    assert any(name.startswith(kernel) for name in device.ran)


Change = Callable[[Any], Any]


def modes(name: str, own: tuple[str, ...], instead: tuple[str, ...]) -> Change:
    return lambda op: op._replace(modes=instead) if op.name == name and op.modes == own else op


ROWS = {
    "sums that flush subnormals": modes("FADD", (), ("FTZ",)),
    "fused products that are rounded down": modes("FFMA", (), ("RM",)),
    "maxima that leave out what is no number": modes("FMNMX", ("NAN",), ()),
    "shifts without a sign": modes("SHF", ("R", "S32", "HI"), ("R", "U32", "HI")),
    "comparisons without a sign": modes("ISETP", ("GT", "AND"), ("GT", "U32", "AND")),
}
PRODUCTS = {
    "digits without a sign": lambda op: op._replace(modes=(op.modes[0], "U8", *op.modes[2:])) if op.name == "IMMA" else op,
    "the left side once more for the right one": lambda op: op._replace(given=(*op.given[:2], op.given[1].replace("ROW", "COL"), op.given[3]))
    if op.name == "IMMA" else op,
    "no sum before": lambda op: op._replace(given=(*op.given[:3], "RZ")) if op.name == "IMMA" else op,
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_changed_instructions_of_rows_are_found(name: str) -> None:
    kinds = ("special", "tiny")
    assert any(wrong(families_of((4, 16), kind), coded.Coded(change=ROWS[name])) for kind in kinds)


@pytest.mark.parametrize("name", PRODUCTS)
def test_changed_instructions_of_products_are_found(name: str) -> None:
    right, faults = Single(coded.Coded(change=PRODUCTS[name]), 5, 200, 9, 8, TILES[digits(8).sums][-1], 1).run()
    assert not right
    assert faults


def test_an_access_outside_of_all_buffers_is_an_error() -> None:
    beyond: Change = lambda op: op._replace(given=(op.given[0].replace("]", "+0x10000000]"), *op.given[1:])) if op.name == "STG" else op  # noqa: E731
    with pytest.raises(IndexError, match="outside of all buffers"):
        wrong(families_of((4, 16), "even"), coded.Coded(change=beyond))
