"""Attention whose scores stay on the chip: that they do, in how many ways attention is written, and that the bits are the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from assay.exact import reference
from assay.exact.cuda import attend, fake
from assay.exact.cuda.device import Device
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.maps import Kernels
from assay.exact.inputs import Case, Writer, case, floats, program
from assay.exact.plan import Plan
from assay.exact.steps import Step
from assay.program import Part
from tests.exact.test_cuda_route import named
from tests.exact.test_cuda_rows import softmax, softmax_back

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
TURNED = (0, 2, 1)


@cache
def device() -> tuple[Device, Kernels]:
    made = fake.Fake()
    return made, Kernels(made)


def fused(part: Part, bits: int = 14) -> Plan:
    return Plan(part, {}, bits, rows=True, attention=attend.taking(device()[0].description))


def kernels(part: Part) -> list[Step]:
    return [step for step in fused(part).steps if step.name == "attend"]


def agrees(c: Case) -> bool:
    values = reference.evaluate(c.part, c.inputs, c.gemm_bits)
    got = Cuda(program(c.part, c.gemm_bits), *device()).run("micro", named(c))
    return all(got[o.name].tobytes() == np.asarray(values[o.value]).tobytes() for o in c.part.outputs)


def inputs(batch: int, r: int, n: int, d: int, kind: str = "even") -> list[np.ndarray]:
    """q, k, v, the gradient of what comes out, a mask."""
    made = [floats(1, (batch, r, d), kind), floats(2, (batch, n, d), kind), floats(3, (batch, n, d), kind), floats(4, (batch, r, d), kind)]
    mask = np.where(np.arange(r)[:, None] + (n - r) >= np.arange(n)[None], np.float32(0), np.float32(-np.inf))
    return [*made, mask]


def forward(w: Writer, q: int, k: int, v: int, mask: int) -> tuple[int, int]:
    p = softmax(w, w("matmul", q, w("permute", k, axes=TURNED)), mask)
    return p, w("matmul", p, v)


def backward(w: Writer, q: int, k: int, v: int, g: int, p: int) -> list[int]:
    dv = w("matmul", w("permute", p, axes=TURNED), g)
    ds = softmax_back(w, p, w("matmul", g, w("permute", v, axes=TURNED)))
    return [w("matmul", w("permute", q, axes=TURNED), ds), w("matmul", ds, k), dv]


def attention(batch: int, r: int, n: int, d: int, kind: str = "even", gradients: bool = True, bits: int = 14) -> Case:
    def write(w: Writer) -> Sequence[int]:
        q, k, v, g, mask = range(5)
        p, o = forward(w, q, k, v, mask)
        return [o, *(backward(w, q, k, v, w("mul", o, g), p) if gradients else [])]

    return case(f"attention {batch} {r} {n} {d} {kind}", inputs(batch, r, n, d, kind), write, bits)


@needs_compiler
@pytest.mark.parametrize("size", [(2, 32, 32, 16), (3, 33, 33, 8), (1, 17, 40, 24), (2, 130, 130, 16), (1, 40, 19, 128)], ids=str)
def test_attention_has_the_bits_of_the_reference(size: tuple[int, int, int, int]) -> None:
    c = attention(*size)
    assert [bool(step.extra[0]) for step in kernels(c.part)] == [False, False, True]
    assert agrees(c)
