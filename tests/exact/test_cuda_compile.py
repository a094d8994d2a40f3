"""NVIDIA's own compiler on every kernel, for every architecture that we name, and what it makes of rounding: no contraction, no approximation,
no flushing. Needs NVRTC from PyPI, neither a driver nor a GPU."""

from __future__ import annotations

import re

import pytest

from assay.exact import trainings
from assay.exact.cuda import attend, blocks, maps, pairs, rows
from assay.exact.cuda.device import source
from assay.exact.cuda.parts import constants_of
from assay.exact.cuda.plans import plan_for
from assay.exact.cuda.product import Products
from assay.exact.cuda.ruler import Ruler
from assay.exact.plan import Plan
from tests.exact import nvrtc, test_cuda_making, test_cuda_spans
from tests.exact.test_cuda_attention import H200, attention, masked

pytestmark = pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed (nvidia-cuda-nvrtc-cu12)")

ROUNDED = {"add.rn", "sub.rn", "mul.rn", "div.rn", "sqrt.rn"}
"""Arithmetic on f32 that the kernels may hold; conversions and comparisons beside it."""


def generated(*families: str) -> str:
    """The generated kernels of some families' trainings."""
    texts = {}
    for family in families:
        p = trainings.load(family).program
        texts |= {t.name: t.text for t in rows.texts([Plan(part, constants_of(p), p.gemm_bits, rows=True) for part in (p.micro, p.update)])}
    assert all(any(name.startswith(kind) for name in texts) for kind in ("map_", "many_", "rows_", "columns_"))
    return source(*maps.Kernels.GENERATED) + "\n" + "\n".join(texts[name] for name in sorted(texts))


def arithmetic(ptx: str) -> set[str]:
    """Instructions that compute an f32 or f64 from others: `mul.rn`, ...; without sums that are written as one rounding (common.cuh)."""
    found = re.findall(r"^\s*(?:@!?%\w+\s+)?([a-z0-9]+(?:\.[a-z]+)*)\.f(?:32|64)\s", nvrtc.FUSED.sub("", ptx), re.MULTILINE)
    plain = ("mov", "ld", "st", "setp", "selp", "set", "cvt", "neg", "abs", "max", "min", "slct", "copysign", "testp")
    return {name for name in found if name.split(".")[0] not in plain}


def check(text: str, arch: str) -> None:
    ptx, cubin = nvrtc.compiled(text, arch)
    assert cubin.startswith(b"\x7fELF")
    assert nvrtc.forbidden(ptx) == []
    assert arithmetic(ptx) <= ROUNDED


def test_the_search_finds_what_it_is_for() -> None:
    """Compiled as CUDA compiles by default, such a kernel is contracted and approximated."""
    text = source() + "KERNEL loose(float *x) { x[0] = x[1] * x[2] + __fdividef(x[3], x[4]) + __expf(x[5]) + __fmaf_rn(x[0], x[1], x[2]); }"
    ptx, _ = nvrtc.compiled(text, "sm_80")
    assert any("ex2.approx" in line for line in nvrtc.forbidden(ptx))
    assert any("div.approx" in line or "div.full" in line for line in nvrtc.forbidden(ptx))
    assert any("fma.rn" in line for line in nvrtc.forbidden(ptx))
    assert "fma.rn" in arithmetic(ptx)
    assert not arithmetic(ptx) <= ROUNDED


def test_the_kernels_of_the_folder_compile_and_round_as_written() -> None:
    check(source(*maps.Kernels.FILES), "sm_90")


def test_a_transformers_chains_compile_and_round_as_written() -> None:
    check(generated("gpt"), "sm_80")


@pytest.mark.slow
@pytest.mark.parametrize("arch", nvrtc.ARCHITECTURES)
def test_all_kernels_compile_for_every_architecture(arch: str) -> None:
    check(source(*maps.Kernels.FILES), arch)
    check(generated(*trainings.FAMILIES), arch)


def attending(arch: str, size: tuple[int, int, int, int], leaving_out: bool = False) -> list[str]:
    """The kernels of attention with its gradients, as they are for such a chip, each with what it calls; or such that leave out what a causal mask
    empties."""
    of = H200._replace(arch=arch)
    c = test_cuda_spans.attention("added -inf", test_cuda_spans.causal, size) if leaving_out else attention(masked, size)
    plan = plan_for(c.part, {}, 14, of, Products(Ruler(of)))
    return [blocks.before(made.how, made.ring) + made.text.text for made in attend.kernels([plan], of)]


def test_a_sum_that_is_rounded_once_has_to_be_written_so() -> None:
    """Beside one that `fused` makes, one that the compiler makes is found."""
    text = source() + "KERNEL one(float *x) { x[0] = fused(x[1], x[2], x[3]); MORE }"
    written, made = (nvrtc.compiled(text.replace("MORE", more), "sm_80")[0] for more in ("", "x[4] = __fmaf_rn(x[5], x[6], x[7]);"))
    assert "fma.rn.f32" in written
    assert nvrtc.forbidden(written) == []
    assert arithmetic(written) == set()
    assert len(nvrtc.forbidden(made)) == 1
    assert arithmetic(made) == {"fma.rn"}


@pytest.mark.parametrize(("arch", "leaving_out"), [
    ("sm_90", True), *(pytest.param(arch, out, marks=pytest.mark.slow) for arch, out in (("sm_90", False), ("sm_80", False), ("sm_80", True))),
])  # fmt: skip
def test_kernels_of_attention_round_as_written_and_hold_what_they_are_to(arch: str, leaving_out: bool) -> None:
    """Heads of 64 over 1024 characters: 32 elements of a line, of two values, wait in each thread's registers."""
    texts = attending(arch, (2, 1024, 1024, 64), leaving_out)
    assert len(texts) == 3
    stores = []
    for text in texts:
        ptx, cubin, log = nvrtc.reported(text, arch, "--ptxas-options=-v")
        assert cubin.startswith(b"\x7fELF")
        assert nvrtc.forbidden(ptx) == []
        assert arithmetic(ptx) <= ROUNDED
        assert ".local" not in ptx
        stores += [int(n) for n in re.findall(r"(\d+) bytes spill stores", log)]
    assert stores == [0, 0, 0]


@pytest.mark.parametrize("make", [test_cuda_making.normed, test_cuda_making.crossed])
def test_kernels_that_make_what_they_pack_round_as_written_and_keep_it_in_registers(make: test_cuda_making.Make) -> None:
    """Three blocks a processor: 80 registers a thread."""
    plan, products = test_cuda_making.planned(test_cuda_making.of(make, (256, 256, 128))), Products(Ruler(H200))
    (found,) = (found for step in plan.steps if (found := pairs.making_text(products, step)) is not None)
    ptx, cubin, log = nvrtc.reported(found[0] + found[1].text, "sm_90", "--ptxas-options=-v")
    assert cubin.startswith(b"\x7fELF")
    assert nvrtc.forbidden(ptx) == []
    assert arithmetic(ptx) <= ROUNDED
    assert ".local" not in ptx
    assert re.findall(r"(\d+) bytes spill stores", log) == ["0"]


@pytest.mark.slow
def test_kernels_of_attention_compile_where_shared_memory_is_small() -> None:
    texts = attending("sm_86", (1, 700, 700, 64))
    assert len(texts) == 3
    for text in texts:
        check(text, "sm_86")
