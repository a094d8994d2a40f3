"""The tests of CUDA's products can fail: each of these changes of the kernels is found on the fake device, by wrong bits or by a wrong checksum."""

from __future__ import annotations

import pytest

from assay.exact.cuda import fake
from assay.exact.cuda.device import DeviceError
from assay.exact.cuda.tiles import BF16_TILES, FP8_TILES, TILES, Kind, Tile, digits
from tests.exact.test_cuda_floats import Long
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
    "a digit's sign": ("(l + 0x40404040u) ^ SIGNS", "l ^ SIGNS"),
    "the upper digit": ("first << 1, last << 1", "first, last"),
    "a third plane that carries": ("(h + l - 0x40404040u)", "(h + l)"),
    "four digits of a word": ("0x6420) & 0x7f7f7f7fu", "0x4620) & 0x7f7f7f7fu"),
    "a third plane's sum over k": ("z == 0 ? 1 << 2 * BASE : 1;", "z == 0 ? 1 << 2 * BASE : 2;"),
    "a third plane's sums over lanes": ("(u64)(i64)(sums[0][at] + sums[1][at])", "(u64)(i64)sums[0][at]"),
    "where an operand is turned round": ("(mine ^ i << 2)", "mine"),
    "which lanes a block packs": ("item = gridDim.x - 1 - blockIdx.x;", "item = gridDim.x - 1 - blockIdx.x / 2;"),
    "a digit's weight": ("(i64)s[0] * (1 << 2 * BASE)", "(i64)s[0] * (1 << 13)"),
    "the clamp": ("(i32)none[j] + most)", "(i32)none[j] + most + 1)"),
    "whose integers are limited": ("limits = __syncthreads_or(limits);", "limits = 0, __syncthreads();"),
    "what makes fields of digits": ("#define CENTRE 0x4040u", "#define CENTRE 0x4000u"),
    "the scale's exponent": ("2 * (bits_of_q + 125)", "2 * (bits_of_q + 125) + 1"),
    "results that are subnormal": ("if (bits && e >= 1 && e < 255)", "if (bits)"),
    "a maximum that misses a lane": ("for (int step = 16; step; step /= 2) {", "for (int step = 8; step; step /= 2) {"),
}


class Changed(fake.Fake):
    """A device whose kernels have one piece of text replaced."""

    def __init__(self, old: str, new: str, defined: str = "") -> None:
        super().__init__()
        self.old, self.new, self.defined, self.found = old, new, defined, False

    def load(self, source: str, arch: str = "") -> fake._Module:
        self.found |= self.old in source
        return super().load(self.defined + source.replace(self.old, self.new))


def wrong(device: Changed, tile: Tile, *, dtype: Kind = "int8", kinds: tuple[str, ...] = ("even", "maximal", "tiny", "wide"), k: int = 333) -> bool:
    """Whether any product is not right, or says so itself."""
    found = False
    for kind in kinds:
        try:
            found |= Single(device, 300, k, 40, 14, tile, 1, kind, dtype).run() != (True, 0)
        except DeviceError:
            found = True
    assert device.found, "there is no such text"
    return found


def test_nothing_is_found_where_nothing_changed() -> None:
    assert not wrong(Changed("KERNEL", "KERNEL"), TILES[3][-2])


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found(change: str) -> None:
    assert wrong(Changed(*CHANGES[change]), TILES[3][-2])


def test_an_int32_that_is_widened_too_late_is_found() -> None:
    device = Changed("KERNEL", "KERNEL")
    small = TILES[3][-2]
    k = 272000  # where hl + lh overflow; that their sum with hh and ll does, before, changes nothing modulo 2^32
    single = Single(device, 2, k, 2, 14, small, 1, "maximal")
    [piece] = single.product.pieces
    assert piece.parts == 3
    single.product.pieces = [piece._replace(run=k // small.kw, parts=1)]
    assert single.run()[0] is False


def test_an_f32_that_is_emptied_too_late_is_found() -> None:
    device = Changed("/ TERM / (KW / ITEM))", "/ TERM / (KW / ITEM) * 16)")
    assert wrong(device, BF16_TILES[digits(14).sums][-1], dtype="bf16", kinds=("maximal",), k=4099)


CHANGES_OF_FP8 = {
    "a base whose digits e4m3 cannot hold": ("KARATSUBA ? 4 : 5", "KARATSUBA ? 4 : 6"),
    "a smaller base": ("KARATSUBA ? 4 : 5", "KARATSUBA ? 4 : 4"),
    "a run that is too long": ("#define EACH ((1 << HOLDS) /", "#define EACH ((4 << HOLDS) /"),
    "a run that forgets how many products share a sum": ("FP8 ? PLANES * PAIR", "FP8 ? PAIR / 4"),
    "no room made within a stage": ("if (count[s]++ == EACH)", "if (count[s]++ < 0)"),
    "a count that is not set back": ("count[s] = 1;", ""),
    "sums that are left in floats": ("s < SUMS; s++) fold(", "s < SUMS - 1; s++) fold("),
    "floats that are not emptied": ("        one = 0.0f;", ""),
    "what makes a float an integer": ("- 0x4b400000u);\n        one", "- 0x4b000000u);\n        one"),
    "a code's exponent": ("- (120u << 3)", "- (121u << 3)"),
    "a code's fraction": ("(one >> 20 & 2047u)", "(one >> 20 & 2046u)"),
    "a code's sign": ("(one >> 24 & 128u)", "0u"),
    "a decoded fraction": ("8 + (size & 7)", "8 + (size & 6)"),
    "a decoded sign": ("one >> 7 ? -d : d", "d"),
    "too few digits of a checksum": ("(BASE * PLANES + 23) / 8 + 1)", "(BASE * PLANES + 23) / 8 - 3)"),
}


@pytest.mark.parametrize("change", CHANGES_OF_FP8)
def test_a_change_of_fp8_is_found(change: str) -> None:
    """With accumulators of 14 bits, whose sums are emptied within a stage, and of 17, where they outlast some."""
    found, there = False, False
    for accumulator in (14, 17):
        device = Changed(*CHANGES_OF_FP8[change], defined=f"#define ACCUMULATOR {accumulator}\n")
        tile = FP8_TILES[digits(14, "fp8").sums][-1]
        try:
            random = Single(device, 40, 333, 37, 14, tile, 1, "even", "fp8", accumulator).run()
            found |= random != (True, 0) or Long(device, 1025, 15, accumulator, tile).run() != (True, 0)
        except DeviceError:
            found = True
        there |= device.found
    assert there, "there is no such text"
    assert found
