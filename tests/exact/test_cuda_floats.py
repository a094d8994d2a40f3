"""Products in digits of bf16 and fp8, on the fake device: as far as a chip's accumulators are exact they give the reference's bits, and no farther
are they used. Accumulators of any width are emulated (`accumulated` in tensor.cuh). What a compiler makes of them: test_cuda_products_compile.py."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from assay.exact import conformance
from assay.exact.cases_of_products import WIDTHS
from assay.exact.cuda import fake, probe
from assay.exact.cuda.choice import EXACT, Choices, path
from assay.exact.cuda.device import DeviceError
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.product import Products
from assay.exact.cuda.tiles import BF16_TILES, FP8_TILES, MOST_HELD, Floating, Size, Tile, Way, digits
from assay.exact.faults import HardwareFault
from assay.exact.inputs import Array, Case, case, program
from tests.exact.test_cuda_products import Single

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
HOPPER = 14
"""Bits that fp8's accumulators are said to keep there."""
FEW_WIDTHS = [8, 14, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (15, 23))]
ALL_WIDTHS = [8, 14, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (9, 10, 15, 16, 20, 23))]
"""Two digits and their sum, three, four, five; then those at the ends of their ranges."""
CASES = {c.name: c for c in conformance.cases() if c.name.startswith(("matmul", "maximal"))}


class Chip(fake.Fake):
    """A device whose accumulators keep so many bits; `fp8`: those of fp8 alone."""

    def __init__(self, bits: int = 24, fp8: int | None = None, only: str = "tensor cores") -> None:
        """`only`: kernels whose source says that; others are made as on a chip that keeps 24."""
        super().__init__()
        self._defined = f"#define ACCUMULATOR {bits}\n#define ACCUMULATOR_FP8 {bits if fp8 is None else fp8}\n"
        self._only = only

    def load(self, source: str, arch: str = "") -> fake._Module:
        return super().load(self._defined + source if self._only in source else source, arch)


def small(bits: int, kind: Floating) -> Tile:
    return (FP8_TILES if kind == "fp8" else BF16_TILES)[digits(bits, kind).sums][-1]


def large_and_odd(m: int, k: int, n: int, bits: int) -> tuple[Array, Array]:
    """Operands all of whose digits of fp8 are large and, but for a first one of 1 or 4, odd and of one sign, so that sums grow fast and need every
    bit; column 1 of the other sign."""
    rng, low = np.random.default_rng(bits), digits(bits, "fp8").planes - 1
    base, low = (16, 1) if bits == 8 else (32, low)
    first = 2 ** (bits - 1) // base**low

    def drawn(*shape: int) -> Array:
        rest = sum(base**z * (base // 2 - rng.choice([1, 3, 5], shape)) for z in range(low))
        q = first * base**low - rest if first < 8 else (first - rng.choice([1, 3], shape)) * base**low + rest
        return (q / 2 ** (bits - 1)).astype(np.float32)

    a, b = drawn(m, k), drawn(k, n)
    b[:, 1] *= -1
    return a, b


class Long(Single):
    def __init__(self, device: fake.Fake, k: int, bits: int, holds: int, tile: Tile) -> None:
        super().__init__(device, 3, k, 3, bits, tile, 1, "maximal", "fp8", holds)
        self.again(*large_and_odd(3, k, 3, bits))


# ---- what a chip is asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "bits", "found"),
    [("bf16", 24, 22), ("bf16", 21, 21), ("bf16", 18, 18), ("bf16", 17, 0), ("fp8", 24, 22), ("fp8", 17, 17), ("fp8", HOPPER, 14), ("fp8", 13, 13),
     ("fp8", 12, 0)],
)  # fmt: skip
def test_how_far_a_chip_is_exact_is_found(kind: Floating, bits: int, found: int) -> None:
    assert probe.holds(Chip(bits), kind) == found


def test_bf16_and_fp8_are_asked_apart() -> None:
    chip = Chip(24, HOPPER)
    assert [probe.holds(chip, kind) for kind in ("fp8", "bf16")] == [HOPPER, MOST_HELD]


@pytest.mark.parametrize("power", [13, 14, 18, 22])
@pytest.mark.parametrize("kind", ["bf16", "fp8"])
def test_questions_stay_within_what_they_ask_about_and_reach_it(kind: Floating, power: int) -> None:
    form = probe.FORMATS[kind]
    if power < form.least:
        return
    asked = list(probe.questions(kind, power))
    sums = [abs(q.c) + (abs(q.a) @ abs(q.b)).sum(axis=1) for q in asked]
    assert max(s.max() for s in sums) == 1 << power
    assert all(max(abs(q.a).max(), abs(q.b).max()) <= form.largest for q in asked)
    assert any((s == (1 << power) - 1).any() or (s % 2 == 1).any() for s in sums)


def test_the_codes_of_e4m3() -> None:
    whole = np.arange(-16, 17)
    codes = probe.e4m3(whole)
    size, sign = codes & 127, np.where(codes & 128, -1.0, 1.0)
    assert (sign * np.where(size < 8, size * 2.0**-9, (8 + size % 8) * 2.0 ** (size // 8 - 10.0)) == whole).all()


# ---- products ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", FEW_WIDTHS)
def test_digits_of_bf16_give_the_same(bits: int) -> None:
    device = fake.Fake()
    for tile in BF16_TILES[digits(bits).sums][1:]:
        assert Single(device, 70, 333, 69, bits, tile, 2, dtype="bf16").run() == (True, 0)
    tile = small(bits, "bf16")
    for chip, holds, ks in ((device, MOST_HELD, (31, 32, 33, 127, 128, 129, 255, 256, 257, 3000)), (Chip(18), 18, (33, 1025))):
        for k in ks:
            single = Single(chip, 3, k, 3, bits, tile, 1, "maximal", "bf16", holds)
            assert single.run() == (True, 0), f"{k} maximal products"
    right, wrong = single.run(("packed_b", 32, 4))
    assert not right
    assert wrong


@pytest.mark.parametrize("bits", ALL_WIDTHS)
def test_digits_of_fp8_give_the_same(bits: int) -> None:
    for chip, holds in ((fake.Fake(), MOST_HELD), (Chip(HOPPER), HOPPER)):
        for tile in FP8_TILES[digits(bits, "fp8").sums][: 2 if holds == MOST_HELD else 1]:
            for kind in ("even", "wide"):
                assert Single(chip, 70, 333, 69, bits, tile, 2, kind, "fp8", holds).run() == (True, 0), f"{tile} {kind} {holds}"


@pytest.mark.parametrize("bits", ALL_WIDTHS)
@pytest.mark.parametrize("holds", [13, HOPPER, 17, pytest.param(19, marks=pytest.mark.slow)])
def test_runs_are_as_long_as_the_accumulator_is_wide(bits: int, holds: int) -> None:
    chip, tile = Chip(holds), small(bits, "fp8")
    for k in (63, 65, 127, 129, 257, 1025):
        assert Long(chip, k, bits, holds, tile).run() == (True, 0), f"k = {k}"


@pytest.mark.parametrize("bits", ALL_WIDTHS)
def test_runs_that_are_too_long_are_found(bits: int) -> None:
    """A chip that sums less than it told the probe."""
    right, wrong = Long(Chip(HOPPER), 1025, bits, 19, small(bits, "fp8")).run()
    assert not right
    assert wrong > 0


@pytest.mark.parametrize("bits", FEW_WIDTHS)
def test_flipped_bits_of_fp8_are_caught(bits: int) -> None:
    device = fake.Fake()
    single = Single(device, 40, 200, 37, bits, small(bits, "fp8"), 1, dtype="fp8")
    p, rng = single.product, np.random.default_rng(bits)
    for what, operand, padded in (("packed_a", p.a, p.padded_a), ("packed_b", p.b, p.padded_b)):
        caught = 0
        for turn in range(24):
            plane, lane, k = rng.integers(p.digits.planes), rng.integers(operand.lanes.size), rng.integers(p.k)
            byte = ((plane * p.blocks + k // 128) * padded + lane) * 128 + (((k % 128 >> 4) ^ (lane & 7)) << 4 | (k & 15))
            right, wrong = single.run((what, int(byte), turn % 8))
            assert right or wrong > 0, f"{what}: bit {turn % 8} of plane {plane}, lane {lane}, k {k}: nobody noticed"
            caught += wrong > 0
        assert caught > 12, "a flip may make a fraction that is cut off; most do not"
    assert single.run() == (True, 0)


# ---- the engine ----------------------------------------------------------------------------------------------------------


def by_fp8(c: Case, chip: fake.Fake, holds: int) -> Cuda:
    products = Products(chip, lambda size: Way(small(size.bits, "fp8"), "fp8", holds))
    return Cuda(program(c.part, c.gemm_bits), chip, products=products)


def long(c: Case) -> bool:
    return c.gemm_bits not in WIDTHS or any(what in c.name for what in ("many", "of every shape", "of views", "ties"))


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if long(c) else ()) for name, c in CASES.items()])
def test_a_case_reaches_the_published_digest_by_fp8(name: str) -> None:
    """On a chip with accumulators of 14 bits."""
    c = CASES[name]
    made = by_fp8(c, Chip(HOPPER), HOPPER).run("micro", {"batch": {f"x{i}": a for i, a in enumerate(c.inputs)}})
    assert conformance.digest_of(list(made.values())) == conformance.expected()[name]


def test_a_chip_that_lies_to_the_probe_ends_the_task() -> None:
    """Its accumulators are exact for the probe's kernel alone: the checksum of the product says so, and again when it is made again."""
    liar = Chip(24, HOPPER, only="gemm")
    held = probe.holds(liar, "fp8")
    assert held == MOST_HELD
    a, b = large_and_odd(5, 1025, 6, 14)
    made = case("a long product", [a, b], lambda w: [w("matmul", 0, 1)], 14)
    with pytest.raises(HardwareFault):
        by_fp8(made, liar, held).run("micro", {"batch": {"x0": a, "x1": b}})


# ---- which ways there are ------------------------------------------------------------------------------------------------

SIZE = Size(14, 1, 20, 20, 40)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("assay.exact.cuda.choice.cache_folder", lambda: tmp_path)
    return tmp_path


def offered(chip: fake.Fake) -> dict[str, set[int]]:
    """Kinds of digits -> up to what powers of two their accumulators are used."""
    found: dict[str, set[int]] = {}
    for way in Choices(chip).ways(SIZE):
        if way.tile is not None and way.kind != "int8":
            found.setdefault(way.kind, set()).add(way.holds)
    return found


def test_a_way_is_offered_as_far_as_its_accumulators_are_exact(folder: Path) -> None:
    chip = Chip(24, HOPPER)
    assert offered(chip) == {"bf16": {MOST_HELD}, "fp8": {HOPPER}}
    assert json.loads(path(chip.description).read_text()) == {EXACT["bf16"]: str(MOST_HELD), EXACT["fp8"]: str(HOPPER)}
    assert offered(Chip(12)) == {"bf16": {MOST_HELD}, "fp8": {HOPPER}}, "asked once for a device and driver"


def test_where_not_even_one_instruction_is_exact_there_is_no_way(folder: Path) -> None:
    assert offered(Chip(24, 12)) == {"bf16": {MOST_HELD}}


@pytest.mark.parametrize("said", ["", "yes", "12", "23", "-1", "014", "9" * 5000])
def test_what_no_probe_answers_is_asked_again(folder: Path, said: str) -> None:
    chip = Chip(HOPPER)
    path(chip.description).write_text(json.dumps({EXACT["fp8"]: said, EXACT["bf16"]: "0"}))
    assert Choices(chip).holds("fp8") == HOPPER


def test_a_probe_that_fails_is_no_answer_for_the_next_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fails(device: object, kind: str) -> int:
        asked.append(kind)
        raise RuntimeError("the device was taken away")

    chip = Chip(HOPPER)
    with monkeypatch.context() as patch:
        patch.setattr("assay.exact.cuda.probe.holds", fails)
        choices = Choices(chip)
        assert [choices.holds("fp8"), choices.holds("fp8"), choices.holds("bf16")] == [0, 0, 0]
        assert asked == ["fp8", "bf16"]
    assert Choices(chip).holds("fp8") == HOPPER


class Named(Chip):
    """A device of an architecture whose compiler refuses e4m3."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.description = self.description._replace(arch=arch)

    def load(self, source: str, arch: str = "") -> fake._Module:
        if "#define FP8 1" in source:
            raise DeviceError("ptxas: mma with e4m3 needs sm_89")
        return super().load(source, arch)


def test_an_architecture_without_e4m3_is_not_asked(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "fp8" not in offered(Named("sm_86"))
    assert caplog.text == ""


def test_a_compiler_that_refuses_keeps_it_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert "fp8" not in offered(Named("sm_89"))
    assert "needs sm_89" in caplog.text
