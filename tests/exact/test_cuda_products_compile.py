"""NVIDIA's compiler takes the products' kernels for every architecture, and makes no contraction, approximation or array in local memory of them."""

from __future__ import annotations

import pytest

from assay.exact.cuda.product import Tile, around, digits, multiplication, tiles
from tests.exact import nvrtc

pytestmark = pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC (nvidia-cuda-nvrtc-cu12) is not installed")
WIDTHS = (8, 14, 15, 23)
FEW = [(bits, arch, tiles(digits(bits), arch)[0]) for bits, arch in zip(WIDTHS, nvrtc.ARCHITECTURES, strict=True)]
ALL = [(bits, arch, tile) for bits in WIDTHS for arch in nvrtc.ARCHITECTURES for tile in tiles(digits(bits), arch)]


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("arch", nvrtc.ARCHITECTURES)
def test_what_is_around_a_multiplication(bits: int, arch: str) -> None:
    ptx, cubin = nvrtc.compiled(around(digits(bits), plain=arch == "sm_90"), arch)
    assert cubin
    assert not nvrtc.forbidden(ptx)
    assert ".local" not in ptx


def compiles(bits: int, arch: str, tile: Tile) -> None:
    ptx, cubin = nvrtc.compiled(multiplication(digits(bits), tile), arch)
    assert cubin
    assert not nvrtc.forbidden(ptx)
    assert ".local" not in ptx, "sums must stay in registers"
    assert "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in ptx


@pytest.mark.parametrize(("bits", "arch", "tile"), FEW)
def test_the_largest_tiles(bits: int, arch: str, tile: Tile) -> None:
    compiles(bits, arch, tile)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "arch", "tile"), [one for one in ALL if one not in FEW])
def test_every_other_tile(bits: int, arch: str, tile: Tile) -> None:
    compiles(bits, arch, tile)
