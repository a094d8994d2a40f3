"""NVIDIA's compiler takes the products' kernels for every architecture, and makes no contraction, approximation or array in local memory of them."""

from __future__ import annotations

import pytest

from assay.exact.cuda.device import source
from assay.exact.cuda.product import Digits, Tile, around, digits, multiplication, tiles
from tests.exact import nvrtc

pytestmark = pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC (nvidia-cuda-nvrtc-cu12) is not installed")
WIDTHS = (8, 14, 15, 23)
MMA = {False: "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", True: "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"}
ALL = [
    (how, arch, tile)
    for how in (digits(bits, bf16) for bits in WIDTHS for bf16 in (False, True))
    for arch in nvrtc.ARCHITECTURES
    for tile in tiles(how, arch)
]
FEW = [(how, arch, tiles(how, arch)[0]) for bits, arch in zip(WIDTHS, nvrtc.ARCHITECTURES, strict=True) for how in (digits(bits),)]
FEW.append((digits(14, True), "sm_90", tiles(digits(14, True), "sm_90")[0]))


def compiles(text: str, arch: str) -> str:
    ptx, cubin = nvrtc.compiled(text, arch)
    assert cubin.startswith(b"\x7fELF")
    assert nvrtc.forbidden(ptx) == []
    assert ".local" not in ptx, "arrays must stay in registers"
    return ptx


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("bf16", [False, True])
def test_what_is_around_a_multiplication(bits: int, bf16: bool) -> None:
    for arch, plain in (("sm_80", False), ("sm_90", not bf16)):
        compiles(around(digits(bits, bf16), plain), arch)


@pytest.mark.parametrize("arch", nvrtc.ARCHITECTURES)
def test_the_probe(arch: str) -> None:
    assert MMA[True] in compiles(source("tensor.cuh", "probe.cu"), arch)


@pytest.mark.parametrize(("how", "arch", "tile"), FEW)
def test_the_largest_tiles(how: Digits, arch: str, tile: Tile) -> None:
    ptx = compiles(multiplication(how, tile), arch)
    assert MMA[how.bf16] in ptx
    assert "ldmatrix.sync.aligned.m8n8.x4.shared.b16" in ptx
    assert "cp.async.cg.shared.global" in ptx


@pytest.mark.slow
@pytest.mark.parametrize(("how", "arch", "tile"), [one for one in ALL if one not in FEW])
def test_every_other_tile(how: Digits, arch: str, tile: Tile) -> None:
    assert MMA[how.bf16] in compiles(multiplication(how, tile), arch)
