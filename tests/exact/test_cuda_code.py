"""The machine code that NVIDIA's compiler makes of kernels for sm_90, run an instruction at a time, gives the reference's bits, whatever is in what they
are given, and whichever way those few instructions go whose bits are published nowhere; and changed instructions do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from assay.exact import conformance, reference
from assay.exact.cuda import fake
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.maps import Kernels
from assay.exact.inputs import Case, program
from tests.exact import coded
from tests.exact.test_cuda_columns import layer_norm, made
from tests.exact.test_cuda_route import named
from tests.exact.test_cuda_rows import families_of

pytestmark = [
    pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler"),
    pytest.mark.skipif(bool(coded.missing()), reason=coded.missing() or "there"),
]
Loose = coded.exactly.Loose
WAYS = [(Loose(0, False), False), (Loose(-1, True), True), (Loose(1, False), False)]
"""Reciprocals as they may be, and the order of blocks."""


@cache
def case_of(name: str) -> Case:
    return next(c for c in conformance.cases() if c.name == name)


@cache
def wanted(c_name: str) -> Any:
    c = case_of(c_name)
    return reference.evaluate(c.part, c.inputs, c.gemm_bits)


def run(c: Case, device: coded.Coded) -> list[str]:
    """Outputs that have other bits than the reference's."""
    values = wanted(c.name) if c.name in NAMES else reference.evaluate(c.part, c.inputs, c.gemm_bits)
    got = Cuda(program(c.part, c.gemm_bits), device, Kernels(device)).run("micro", named(c))
    device.wait()
    return [o.name for o in c.part.outputs if got[o.name].tobytes() != np.asarray(values[o.value]).tobytes()]


NAMES: list[str] = []


@pytest.mark.parametrize("kind", ["special", "tiny", "rare", "wide"])
def test_rows_softmax_layer_norm_cross_entropy_and_their_gradients(kind: str) -> None:
    for shape in ((4, 16), (8, 31), (4, 33)):
        c = families_of(shape, kind)
        for loose, back in WAYS:
            device = coded.Coded(loose, back)
            assert run(c, device) == [], (shape, loose)
            assert sum(n for name, n in device.ran.items() if name.startswith("rows_")) == 6


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 257), (4, 1025), (4, 2049)], ids=str)
def test_longer_rows(shape: tuple[int, int]) -> None:
    assert run(families_of(shape, "rare"), coded.Coded(*WAYS[1])) == []


@pytest.mark.parametrize("kind", ["special", "tiny"])
def test_sums_by_columns_of_rows_and_products(kind: str) -> None:
    device = coded.Coded(*WAYS[1])
    assert run(made(layer_norm, (8, 16), kind), device) == []
    assert any(name.startswith("columns_") for name in device.ran)


def changed(of: Callable[[Any], bool], into: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda op: into(op) if of(op) else op


def without(op: Any, mode: str) -> Any:
    return op._replace(modes=tuple(m for m in op.modes if m != mode))


CHANGES = {
    "sums that flush subnormals": changed(lambda op: op.name == "FADD" and not op.modes, lambda op: op._replace(modes=("FTZ",))),
    "fused products that are rounded down": changed(lambda op: op.name == "FFMA" and not op.modes, lambda op: op._replace(modes=("RM",))),
    "no carry of sums of pairs": changed(lambda op: op.name == "IADD3" and "X" in op.modes, lambda op: op._replace(given=(*op.given[:-2], "!PT", "!PT"))),
    "shifts to the right for shifts to the left": changed(
        lambda op: op.name == "SHF" and op.modes[0] == "R", lambda op: op._replace(modes=("L", *op.modes[1:]))),
    "another lane of a warp": changed(
        lambda op: op.name == "SHFL" and op.given[3] == "0x1", lambda op: op._replace(given=(*op.given[:3], "0x2", op.given[4]))),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_changed_instructions_are_found(name: str) -> None:
    device = coded.Coded(change=CHANGES[name])
    assert differs(families_of((4, 33), "tiny"), device)


def differs(c: Case, device: coded.Coded) -> bool:
    try:
        return run(c, device) != []
    except (IndexError, AssertionError, ValueError) as error:
        return isinstance(error, IndexError)
