"""wgmma.cu on the fake device: shim_hopper.h decodes descriptors, swizzle and D as the PTX ISA has them, brings copies as late as it may and in no
order, and makes products when they are waited for. The kernel gives the reference's bits there; changes of it are found; it is taken only after
a trial."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from assay.exact.cuda import fake, tiles, trial
from assay.exact.cuda.choice import EXACT, Choices, path
from assay.exact.cuda.device import Description, DeviceError
from assay.exact.cuda.tiles import SHARED, Group, Size, Way, digits, groups
from tests.exact.test_cuda_products import Single
from tests.exact.test_cuda_products_find import Changed

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
BITS = (8, 14, 15, 23)
ALL = [(bits, group) for bits in BITS for group in groups(digits(bits), "sm_90")]
FOUR = Group(128, 128, 7, 2, 2)


class Hopper(fake.Fake):
    """The fake device under the name of an architecture that has wgmma."""

    def __init__(self) -> None:
        super().__init__()
        self.description: Description = self.description._replace(arch="sm_90")


@pytest.fixture(scope="module")
def device() -> fake.Fake:
    return fake.Fake()


FEW = (groups(digits(14), "sm_90")[1], groups(digits(23), "sm_90")[0])
"""Four blocks in a cluster; all planes in a slot. The others are slow only because each is compiled by itself."""


@pytest.mark.parametrize(("bits", "group"), [pytest.param(*one, marks=[] if one[1] in FEW else [pytest.mark.slow]) for one in ALL], ids=str)
def test_it_gives_the_references_bits(device: fake.Fake, bits: int, group: Group) -> None:
    assert group.shared(digits(bits)) <= SHARED["sm_90"]
    assert Single(device, 131, 333, 69, bits, group, 1).run() == (True, 0)
    assert Single(device, 131, 1500, 70, bits, group, 3, "wide").run() == (True, 0), "k in parts, a ring that goes round"
    assert Single(device, 300, 1300, 133, bits, group, 1, "maximal").run() == (True, 0), "several clusters, an odd row"


@pytest.mark.parametrize(("one", "kind"), list(itertools.product(FEW, ("rare", "tiny", "wide"))), ids=str)
def test_scales_of_every_kind_are_rounded_alike(device: fake.Fake, one: Group, kind: str) -> None:
    assert Single(device, 70, 200, 66, 14 if one is FEW[0] else 23, one, 1, kind).run() == (True, 0)


def test_flipped_bits_are_caught(device: fake.Fake) -> None:
    single = Single(device, 140, 400, 37, 14, FOUR, 1)
    for what, byte in (("packed_a", 5), ("packed_b", 130), ("packed_a", 256 * 128 + 7), ("along", 24)):
        assert single.run((what, byte, 3), before="compare" if what == "along" else "gemm")[1] > 0
    assert single.run() == (True, 0)


CHANGES = {
    "rows of D": ("(LANE / 4 + i / 2 % 2 * 8) * STRIDE", "(LANE % 4 + i / 2 % 2 * 8) * STRIDE"),
    "columns of D": ("i / 4 * 8 + LANE % 4 * 2)", "i / 4 * 8 + LANE / 8 * 2)"),
    "a step along k": ("a + z * PLANE_A + k * 32", "a + z * PLANE_A"),
    "a descriptor's distance": ("(u64)(1024 >> 4) << 32", "(u64)(512 >> 4) << 32"),
    "a descriptor's swizzle": ("(u64)1 << 62", "(u64)2 << 62"),
    "where the ring begins": ("(shared_address(whole) + 1023) & ~1023u", "(shared_address(whole) + 127) & ~127u"),
    "the second warpgroup's rows": ("ring + slot * SLOT + group * 64 * ROW", "ring + slot * SLOT"),
    "a wait for what fills a slot": ("barrier_wait(filled + slot * 8, phase, lost);", ""),
    "a wait for those who empty it": ("else barrier_wait(emptied + slot * 8, phase ^ 1, lost);", ""),
    "a slot given back too early": ("barrier_arrive(emptied + before * 8, sharer)", "barrier_arrive(emptied + slot * 8, sharer)"),
    "a neighbour that is not told": (", sharer);", ", rank);"),
    "the parity of a phase": ("barrier_wait(emptied + slot * 8, phase ^ 1, lost)", "barrier_wait(emptied + slot * 8, phase, lost)"),
    "bytes that are expected": ("barrier_expect(filled + slot * 8, SLOT)", "barrier_expect(filled + slot * 8, SLOT - 16)"),
    "blocks that a copy goes to": ("((1u << CN) - 1) << of_m * CN", "((1u << CN) - 1) << of_m"),
    "which part of B a block fetches": ("tile->column + of_m * (TN / CM)", "tile->column"),
    "sums that are read before they are made": ("        group_wait<0>();\n", ""),
    "the ring as room while others multiply": ("        consumers_meet<GROUPS * 128>();", ""),
    "a fence": ("                group_begin();\n", ""),
    "a barrier's arrivals": ("4 * GROUPS * SHARERS", "4 * GROUPS * SHARERS + 1"),
    "one product too few": ("for (int k = 0; k < ROW / 32; k++)", "for (int k = 0; k < ROW / 32 - 1; k++)"),
    "the scale": ("e + 1023 - 125 - bits", "e + 1023 - 126 - bits"),
    "rows of a neighbour's columns": ("[product * padded_b + y + e], column_sums[e]", "[product * padded_b + y], column_sums[e]"),
}


def wrong(device: Changed, group: Group) -> bool:
    """Whether any product is not right, or says so itself."""
    found = False
    for kind in ("even", "rare", "maximal"):
        try:
            found |= Single(device, 300, 1500, 140, 14, group, 1, kind).run() != (True, 0)
        except DeviceError:
            found = True
    assert device.found, "there is no such text"
    return found


def test_nothing_is_found_where_nothing_changed() -> None:
    assert not wrong(Changed("KERNEL", "KERNEL"), FOUR)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found(change: str) -> None:
    assert wrong(Changed(*CHANGES[change]), FOUR)


# ---- trial and choice --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("assay.exact.cuda.choice.cache_folder", lambda: tmp_path)
    monkeypatch.setattr(trial, "SMALL", ((131, 333, 69),))
    monkeypatch.setattr(trial, "PARTS", (1,))
    monkeypatch.setattr(trial, "LARGE", ())
    monkeypatch.setitem(tiles.CLUSTERS, True, ((2, 2),))
    return tmp_path


SIZE = Size(14, 1, 20, 20, 40)


def wgmma(choices: Choices) -> list[Way]:
    return [way for way in choices.ways(SIZE) if isinstance(way.tile, Group)]


def known(device: fake.Fake) -> dict[str, str]:
    found: dict[str, str] = json.loads(path(device.description).read_text())
    return found


def test_only_the_architecture_that_has_it_is_offered_it() -> None:
    assert [groups(digits(bits), arch) for bits in BITS for arch in ("cpu", "sm_80", "sm_89", "sm_100", "sm_120")] == [[]] * 20
    assert groups(digits(14, "bf16"), "sm_90") == []


def test_after_a_trial_it_is_one_of_the_ways(folder: Path) -> None:
    device = Hopper()
    path(device.description).write_text(json.dumps(dict.fromkeys(EXACT.values(), "0")))
    ways = wgmma(Choices(device))
    assert [way.tile for way in ways] == groups(digits(14), "sm_90")
    assert [known(device)[f"{way} at b=14"] for way in ways] == ["right"]


def test_wrong_bits_keep_it_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Changed, Hopper):
        pass

    device = Wrong("a + z * PLANE_A + k * 32", "a + z * PLANE_A")
    assert wgmma(Choices(device)) == []
    assert "wrong bits" in caplog.text
    assert wgmma(Choices(Hopper())) == [], "another process reads it from the file"
    assert set(known(device).values()) >= {"wrong"}


def test_a_device_that_fails_keeps_it_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Hopper):
        def load(self, source: str, arch: str = "") -> fake._Module:
            if arch == "sm_90a":
                raise DeviceError("NVRTC failed: no such architecture")
            return super().load(source)

    assert wgmma(Choices(Failing())) == []
    assert "no such architecture" in caplog.text


def test_a_trial_that_took_the_process_with_it_is_not_begun_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(BaseException):
        pass

    def end(*_: object) -> bool:
        raise Gone

    monkeypatch.setattr(trial, "right", end)
    before = Choices(Hopper())
    with pytest.raises(Gone):
        Choices(Hopper()).ways(SIZE)
    for choices in (before, Choices(Hopper())):
        assert wgmma(choices) == []
        assert wgmma(choices) == []


def test_a_trial_without_memory_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bool:
        raise MemoryError("full")

    with monkeypatch.context() as patched:
        patched.setattr(trial, "right", full)
        assert wgmma(Choices(Hopper())) == []
    assert len(wgmma(Choices(Hopper()))) == 1


def test_a_trial_holds_larger_products_against_ordinary_tiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LARGE", ((30, 300, 30),))
    assert trial.right(Hopper(), Way(FOUR), 14)
    monkeypatch.setattr(trial, "SMALL", ())
    device = Changed("group_multiply(sums[z + y], matrix_at(a", "group_multiply(sums[z + y], matrix_at(b")
    assert not trial.right(device, Way(FOUR), 14)
    assert device.found
