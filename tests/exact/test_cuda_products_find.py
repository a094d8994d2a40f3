"""The tests of CUDA's products can fail: each of these changes of the kernels is found on the fake device, by wrong bits or by a wrong checksum."""

from __future__ import annotations

import pytest

from assay.exact.cuda import fake
from assay.exact.cuda.device import DeviceError
from assay.exact.cuda.tiles import BF16_TILES, TILES, Tile, digits
from tests.exact.test_cuda_products import Single

pytestmark = [pytest.mark.slow, pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")]

CHANGES = {
    "A's rows of a fragment": ("row + i * 16 + (LANE & 15)", "row + i * 16 + (LANE & 7)"),
    "A's halves of k": ("plane + SPOT(at, k * 2 + (LANE >> 4))", "plane + SPOT(at, k * 2 + (LANE >> 3 & 1))"),
    "B's pairs of fragments": ("(LANE & 7) + (LANE >> 4) * 8", "(LANE & 7) + (LANE >> 3 & 1) * 8"),
    "B's registers": ("b[i][1] = r[1], b[i + 1][0] = r[2]", "b[i][1] = r[2], b[i + 1][0] = r[1]"),
    "C's columns": ("j * 8 + LANE % 4 * 2", "j * 8 + LANE % 4"),
    "C's rows": ("of_m + i * 8 + LANE / 4", "of_m + i * 8 + LANE % 8"),
    "what a stage holds": ("((first + c) ^ (lane & 7)) * 16", "(first + c) * 16"),
    "a swizzle of shared memory": ("(((c) ^ ((row) >> 1 & 3)) << 4))", "(((c) ^ (threadIdx.x >> 3 & 3)) << 4))"),
    "a wait for copies": ("async_wait<STAGES - 2>();", "async_wait<STAGES - 1>();"),
    "a barrier": ("__syncthreads(); /* the stage", "/* the stage"),
    "the order of tiles": ("(band * RASTER + within % height)", "(within % height)"),
    "a lost last stage": ("from + run < steps ? from + run : steps", "from + run < steps ? from + run : steps - 1"),
    "a digit's sign": ("((q + 64) & 127) - 64", "(q & 127)"),
    "the upper digit": ("d[0] = (q + 64) >> 7", "d[0] = q >> 7"),
    "a third plane that carries": ("^ ((h ^ l) & 0x80808080u)", "+ ((h ^ l) & 0x80808080u)"),
    "four digits of a word": ("0x0040), 0x5410)", "0x0040), 0x4510)"),
    "a third plane's sum over k": ("sums[2] = sums[0] + sums[1]", "sums[2] = sums[0]"),
    "a third plane's sums over lanes": ("totals[2][i] = totals[0][i] + totals[1][i]", "totals[2][i] = totals[0][i]"),
    "where an operand is turned round": ("tile[tx][i ^ tx / 8]", "tile[tx][i]"),
    "which lanes a block packs": ("(i64)gridDim.x - 1 - blockIdx.x,", "(i64)gridDim.x - 1 - blockIdx.x / 2,"),
    "a digit's weight": ("(i64)s[0] * (1 << 14)", "(i64)s[0] * (1 << 13)"),
    "the clamp": ("max(min(q, most), -most)", "max(min(q, most + 1), -most)"),
    "the scale's exponent": ("2 * (bits_of_q + 125)", "2 * (bits_of_q + 125) + 1"),
    "results that are subnormal": ("if (bits && e >= 1 && e < 255)", "if (bits)"),
    "a maximum that misses a lane": ("for (int step = 16; step; step /= 2) {", "for (int step = 8; step; step /= 2) {"),
}


class Changed(fake.Fake):
    """A device whose kernels have one piece of text replaced."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__()
        self.old, self.new, self.found = old, new, False

    def load(self, source: str, arch: str = "") -> fake._Module:
        self.found |= self.old in source
        return super().load(source.replace(self.old, self.new))


def wrong(device: Changed, tile: Tile, *, bf16: bool = False, kinds: tuple[str, ...] = ("even", "maximal", "tiny", "wide"), k: int = 333) -> bool:
    """Whether any product is not right, or says so itself."""
    found = False
    for kind in kinds:
        try:
            found |= Single(device, 300, k, 40, 14, tile, 1, kind, bf16).run() != (True, 0)
        except DeviceError:
            found = True
    assert device.found, "there is no such text"
    return found


def test_nothing_is_found_where_nothing_changed() -> None:
    assert not wrong(Changed("KERNEL", "KERNEL"), TILES[3][-2])


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found(change: str) -> None:
    assert wrong(Changed(*CHANGES[change]), TILES[3][-2])


def test_an_int32_that_is_widened_too_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Changed("KERNEL", "KERNEL")
    small = TILES[3][-2]
    single = Single(device, 2, 144000, 2, 14, small, 1, "maximal")
    assert single.product.parts == 2
    single.product.run, single.product.parts = 144000 // small.kw, 1
    assert single.run()[0] is False


def test_an_f32_that_is_emptied_too_late_is_found() -> None:
    device = Changed("(EXACT * ITEM / KW)", "(4 * EXACT * ITEM / KW)")
    assert wrong(device, BF16_TILES[digits(14).sums][-1], bf16=True, kinds=("maximal",), k=4099)
