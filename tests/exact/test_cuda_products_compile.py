"""NVIDIA's compiler takes the products' kernels for every architecture, and makes no contraction, approximation or array in local memory of them."""

from __future__ import annotations

import pytest

from assay.exact.cuda.device import source
from assay.exact.cuda.sources import around, multiplication, of_heads
from assay.exact.cuda.tiles import NARROW, PLAIN, ROWS, Digits, Group, Kind, Tile, digits, groups, tiles
from tests.exact import nvrtc

pytestmark = pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC (nvidia-cuda-nvrtc-cu12) is not installed")
WIDTHS = (8, 14, 15, 23)
MMA: dict[Kind, str] = {
    "int8": "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32",
    "bf16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "fp8": "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32",
}
FP8 = ("sm_89", "sm_90", "sm_100", "sm_120")
ALL = [
    (how, arch, tile) for how in (digits(bits, kind) for bits in WIDTHS for kind in MMA) for arch in nvrtc.ARCHITECTURES for tile in tiles(how, arch)
]
ALL += [(how, "sm_120", tile) for bits in (*WIDTHS, 10, 20) for how in (digits(bits, "fp8", 14),) for tile in tiles(how, "sm_120")]
FEW = [(how, arch, tiles(how, arch)[0]) for bits, arch in zip(WIDTHS, nvrtc.ARCHITECTURES, strict=True) for how in (digits(bits),)]
FEW.append((digits(14, "bf16"), "sm_90", tiles(digits(14, "bf16"), "sm_90")[0]))
FEW += [
    (how, arch, tiles(how, arch)[0])
    for arch, bits, holds in zip(FP8, (8, 14, 14, 23), (14, 14, 22, 14), strict=True)
    for how in (digits(bits, "fp8", holds),)
]


def compiles(text: str, arch: str) -> str:
    ptx, cubin = nvrtc.compiled(text, arch)
    assert cubin.startswith(b"\x7fELF")
    assert nvrtc.forbidden(ptx) == []
    assert ".local" not in ptx, "arrays must stay in registers"
    return ptx


@pytest.mark.parametrize(
    ("kind", "bits"), [pytest.param(kind, bits, marks=[pytest.mark.slow] * (kind != "int8" and bits != 14)) for kind in MMA for bits in WIDTHS]
)
def test_what_is_around_a_multiplication(bits: int, kind: Kind) -> None:
    layouts = [("sm_80", ROWS), ("sm_90", PLAIN if kind == "int8" else ROWS)]
    if bits == 14 and kind == "int8":
        layouts.append(("sm_90", NARROW))
    if kind == "int8":
        compiles(of_heads(digits(bits)), "sm_80")
    for arch, layout in layouts:
        compiles(around(digits(bits, kind), layout), arch)


@pytest.mark.parametrize("arch", nvrtc.ARCHITECTURES)
def test_the_probe(arch: str) -> None:
    assert MMA["bf16"] in compiles(source("tensor.cuh", "probe.cu"), arch)


@pytest.mark.parametrize("arch", FP8)
def test_the_probe_of_fp8(arch: str) -> None:
    assert MMA["fp8"] in compiles("#define FP8 1\n" + source("tensor.cuh", "probe.cu"), arch)


def test_fp8_is_asked_of_no_architecture_that_lacks_it() -> None:
    assert [arch for arch in nvrtc.ARCHITECTURES if tiles(digits(14, "fp8"), arch)] == ["sm_89", "sm_90"]
    with pytest.raises(ValueError, match="sm_89"):
        compiles("#define FP8 1\n" + source("tensor.cuh", "probe.cu"), "sm_86")


@pytest.mark.parametrize("holds", [14, 22])
@pytest.mark.parametrize("bits", [8, 14])
def test_fp8_has_registers_enough(bits: int, holds: int) -> None:
    how = digits(bits, "fp8", holds)
    log = nvrtc.reported(multiplication(how, tiles(how, "sm_90")[0]), "sm_90", "--ptxas-options=-v")[2]
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log


@pytest.mark.parametrize(("how", "arch", "tile"), FEW)
def test_the_largest_tiles(how: Digits, arch: str, tile: Tile) -> None:
    ptx = compiles(multiplication(how, tile), arch)
    assert MMA[how.kind] in ptx
    assert "ldmatrix.sync.aligned.m8n8.x4.shared.b16" in ptx
    assert "cp.async.cg.shared.global" in ptx


@pytest.mark.parametrize(("bits", "group"), [(bits, group) for bits in WIDTHS for group in groups(digits(bits), "sm_90")], ids=str)
@pytest.mark.parametrize("adds", [False, True])
def test_wgmma_has_registers_enough_and_is_not_made_one_by_one(bits: int, group: Group, adds: bool) -> None:
    """What the assembler says: nothing goes to local memory, wgmma is not
    serialised (C7510 to C7515), setmaxnreg not ignored (C7508)."""
    ptx, cubin, log = nvrtc.reported(multiplication(digits(bits), group, adds), "sm_90a", "--ptxas-options=-v")
    assert cubin.startswith(b"\x7fELF")
    assert nvrtc.forbidden(ptx) == []
    assert ".local" not in ptx
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log
    assert "(C7" not in log
    assert f"wgmma.mma_async.sync.aligned.m64n{group.tn}k32.s32.s8.s8" in ptx
    assert "setmaxnreg.inc.sync.aligned.u32 232" in ptx
    assert ("multicast::cluster" in ptx) == (group.cm * group.cn > 1)
    assert ("ldmatrix.sync.aligned.m8n8.x4.shared.b16" in ptx) == group.persistent


def test_the_assembler_would_say_so() -> None:
    once, stays = (next(g for g in groups(digits(14), "sm_90") if g.persistent == persistent) for persistent in (False, True))
    for group, old, new, said in (
        (once, "                group_wait<1>();", "                group_wait<1>();\n                sums[turn][0] ^= 1;", "(C75"),
        (once, "registers_more<232>", "registers_more<200>", "spill"),
        (stays, "    group_wait<2>();", "    group_wait<2>();\n    sums[0] ^= 1;", "(C75"),
        (stays, "registers_less<40>", "registers_less<24>", "spill"),
    ):
        text = multiplication(digits(14), group)
        assert old in text
        log = nvrtc.reported(text.replace(old, new), "sm_90a", "--ptxas-options=-v")[2]
        assert said in log
        assert said != "spill" or " 0 bytes spill stores" not in log


@pytest.mark.slow
@pytest.mark.parametrize(("how", "arch", "tile"), [one for one in ALL if one not in FEW])
def test_every_other_tile(how: Digits, arch: str, tile: Tile) -> None:
    assert MMA[how.kind] in compiles(multiplication(how, tile), arch)
