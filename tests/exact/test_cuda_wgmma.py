"""wgmma.cu on the fake device: shim_hopper.h decodes descriptors, swizzle and D as the PTX ISA has them, brings copies as late as it may and in no
order, and makes products when they are waited for. The kernel gives the reference's bits there; changes of it are found; it is taken only after
a trial."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from assay.exact import reference
from assay.exact.cuda import fake, tiles, trial
from assay.exact.cuda.choice import EXACT, Choices, path
from assay.exact.cuda.cuts import Cut, cut
from assay.exact.cuda.device import Description, DeviceError
from assay.exact.cuda.operands import Axis, Operand
from assay.exact.cuda.product import Product, Products
from assay.exact.cuda.tiles import SHARED, Group, Size, Way, digits, groups
from assay.exact.inputs import floats
from tests.exact.support import same
from tests.exact.test_cuda_products import Single, faults_of, uploaded
from tests.exact.test_cuda_products_find import Changed

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
BITS = (8, 14, 15, 23)
ALL = [(bits, group) for bits in BITS for group in groups(digits(bits), "sm_90")]
FOUR = Group(128, 128, 7, 2, 2)
STAYS = Group(128, 128, 5, 2, 2, True)


class Hopper(fake.Fake):
    """The fake device under the name of an architecture that has wgmma."""

    def __init__(self) -> None:
        super().__init__()
        self.description: Description = self.description._replace(arch="sm_90")


@pytest.fixture(scope="module")
def device() -> fake.Fake:
    return fake.Fake(order=fake.Order.DESCENDING)


FEW = (groups(digits(14), "sm_90")[1], groups(digits(23), "sm_90")[0], STAYS)
"""Four blocks in a cluster; all planes in a slot; blocks that stay. The others are slow only because each is compiled by itself."""


@pytest.mark.parametrize(("bits", "group"), [pytest.param(*one, marks=[] if one[1] in FEW else [pytest.mark.slow]) for one in ALL], ids=str)
def test_it_gives_the_references_bits(device: fake.Fake, bits: int, group: Group) -> None:
    assert group.slots >= 3
    assert group.shared(digits(bits)) <= SHARED["sm_90"]
    assert Single(device, 131, 333, 69, bits, group, 1).run() == (True, 0)
    assert Single(device, 131, 1500, 70, bits, group, 3, "wide").run() == (True, 0), "k in parts, a ring that goes round"
    assert Single(device, 300, 1300, 133, bits, group, 1, "maximal").run() == (True, 0), "several clusters, an odd row"


@pytest.mark.parametrize(("one", "kind"), list(itertools.product(FEW, ("rare", "tiny", "wide"))), ids=str)
def test_scales_of_every_kind_are_rounded_alike(device: fake.Fake, one: Group, kind: str) -> None:
    assert Single(device, 70, 200, 66, 23 if one is FEW[1] else 14, one, 1, kind).run() == (True, 0)


@pytest.mark.parametrize("processors", [1, 4, 9])
def test_blocks_that_stay_make_every_tile_once(device: fake.Fake, processors: int) -> None:
    """Of 12 tiles each cluster of two has all, 6, or 3; with few elements of k the warp that fetches is tiles ahead."""
    two = next(group for group in groups(digits(14), "sm_90") if group.persistent and group.cm * group.cn == 2)
    for k, kind in ((20, "wide"), (129, "even"), (700, "rare")):
        single = Single(device, 270, k, 700, 14, two, 1, kind, processors=processors)
        assert [piece[2:4] for piece in single.product.pieces] == [(24, max(1, processors // 2) * 2)]
        assert single.run() == (True, 0)


def test_a_tile_without_an_edge_has_lanes_of_all_sizes(device: fake.Fake) -> None:
    """Zeros, the smallest and largest that are rounded in f32 alone and what is beyond them, infinities and NaN: of a row, of a column, of both."""
    single = Single(device, 128, 150, 128, 14, STAYS, 1)
    a, b = single.a, single.b
    for by in (0.0, 2.0**-49, 2.0**-52, 2.0**50, 2.0**56, 2.0**-140, 2.0**120, np.inf, np.nan):
        for row, column in ((5, None), (None, 100), (127, 0)):
            x, y = a.copy(), b.copy()
            with np.errstate(over="ignore", invalid="ignore"):
                if row is not None:
                    x[row] *= np.float32(by)
                if column is not None:
                    y[:, column] *= np.float32(by)
            single.again(x, y)
            assert single.run() == (True, 0), (by, row, column)


def test_large_clusters_make_a_few_tiles_each(device: fake.Fake) -> None:
    single = Single(device, 270, 100, 700, 14, STAYS, 1, processors=132)
    assert [piece[2:4] for piece in single.product.pieces] == [(24, 8)]
    assert single.run() == (True, 0)


def test_rows_are_cut_off_where_the_last_round_of_tiles_would_be_nearly_empty() -> None:
    """Of an H200: 144 tiles of which 132 are made at a time; 396, which are three rounds; products of a batch; few tiles; and little to multiply."""
    two = STAYS._replace(cn=1)
    assert cut(two, 1, 3072, 768, 8192, 132) == (2816, 11)
    assert cut(two, 1, 8448, 768, 8192, 132) == (0, 1)
    assert cut(two, 12, 3072, 768, 8192, 132).whole == 0
    assert cut(two, 1, 768, 768, 8192, 132) == (0, 3)
    assert cut(two, 1, 3072, 768, 768, 132) == (0, 1)
    for m, n, k, processors in np.random.default_rng(4).integers(1, (9000, 3000, 9000, 200), (200, 4)).tolist():
        found = cut(two, 1, m, n, k, processors)
        assert found.whole % 256 == 0
        assert found.whole < m
        assert found.parts > 1 or found.whole == 0
        assert found.parts == 1 or k // found.parts >= 512


@pytest.mark.parametrize("one", FEW, ids=str)
def test_rows_that_are_cut_off_have_the_same_bits(device: fake.Fake, one: Group) -> None:
    bits = 23 if one is FEW[1] else 14
    for m, whole, n, parts, kind in ((700, 512, 140, 2, "even"), (520, 256, 70, 3, "rare")):
        single = Single(device, m, 700, n, bits, one, Cut(whole, parts), kind)
        assert [(piece.first, piece.rows, piece.parts) for piece in single.product.pieces] == [(0, whole, 1), (whole, m - whole, parts)]
        assert single.run() == (True, 0)
    single = Single(device, 700, 300, 40, bits, one, Cut(512, 2))
    assert single.run(("packed_a", 5 * single.product.way.layout.width + 3, 3), before="gemm")[1] > 0  # and back again, before the second
    assert single.run(("totals", 8 * 40 * 100 + 3, 3), before="finish")[1] > 0


@pytest.mark.parametrize("one", FEW[::2], ids=str)
def test_products_of_a_batch(device: fake.Fake, one: Group) -> None:
    """Of which one operand may be shared by all."""
    of_b = floats(4, (3, 70, 20), "even")
    for of_a in (floats(3, (3, 40, 70), "wide"), floats(3, (40, 70), "wide")):
        a = Operand(Axis((3,), (2800 if of_a.ndim == 3 else 0,)), Axis((40,), (70,)), Axis((70,), (1,)))
        b = Operand(Axis((3,), (1400,)), Axis((20,), (1,)), Axis((70,), (20,)))
        product, products = Product(14, a, b, Way(one)), Products(device)
        x, y, out, scratch = uploaded(device, of_a), uploaded(device, of_b), device.allocate(4 * 3 * 800), device.allocate(product.scratch)
        for launch in products.launches(product, out.address, x.address, y.address, scratch.address):
            device.launch(launch)
        got = np.empty((3, 40, 20), np.float32)
        device.download(out.address, got)
        assert same(got, np.stack([reference.matmul(of_a[i] if of_a.ndim == 3 else of_a, of_b[i], 14) for i in range(3)]))
        assert faults_of(device, products) == 0


def test_flipped_bits_are_caught(device: fake.Fake) -> None:
    single = Single(device, 140, 400, 37, 14, FOUR, 1)
    for what, byte in (("packed_a", 5), ("packed_b", 130), ("packed_a", 256 * 128 + 7), ("along", 24)):
        assert single.run((what, byte, 3), before="compare" if what == "along" else "gemm")[1] > 0
    assert single.run() == (True, 0)
    single = Single(device, 140, 400, 37, 14, STAYS, 1)
    for what, plane in (("packed_a", 0), ("packed_a", 1), ("packed_b", 0), ("packed_b", 1), ("packed_b", 2)):
        for bit in (0, 7):
            assert single.run((what, plane * 4 * 256 * 128 + 64 * bit + 5, bit), before="gemm")[1] > 0
    assert single.run() == (True, 0)


CHANGES = {
    "rows of D": ("(LANE / 4 + i / 2 % 2 * 8) * STRIDE", "(LANE % 4 + i / 2 % 2 * 8) * STRIDE"),
    "columns of D": ("i / 4 * 8 + LANE % 4 * 2)", "i / 4 * 8 + LANE / 8 * 2)"),
    "a step along k": ("a + z * PLANE_A + k * 32", "a + z * PLANE_A"),
    "a descriptor's distance": ("(u64)(8 * WIDTH >> 4) << 32", "(u64)(4 * WIDTH >> 4) << 32"),
    "a descriptor's swizzle": ("(WIDTH == 128 ? 1 : 2) << 62", "(WIDTH == 128 ? 2 : 1) << 62"),
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


WALK = "for (u32 number = 0; cluster + number * clusters < (u32)tiles; number++)"
LAST, DONE = "            if (LANE < SHARERS) barrier_arrive(before, sharer_of(lane_now(), rank));\n", "            group_wait<0>();\n"
OF_STAYING = {
    "a fragment's rows": ("+ (LANE & 15);", "+ (LANE & 7);"),
    "a fragment's halves of k": ("LANE / 16 * 16", "LANE / 8 % 2 * 16"),
    "a fragment's swizzle": ("SWIZZLED(lane_row, LANE / 16 * 16)", "LANE / 16 * 16"),
    "a step along k of A": ("(row ^ k * 32)", "row"),
    "a step along k of B": ("PACKED_A * PLANE_A + k * 32, a", "PACKED_A * PLANE_A, a"),
    "a fragment written again before its wait": ("group_wait<2>();", "group_wait<3>();"),
    "a sum in place of what is multiplied": ("*x = fragments[2]", "*x = fragments[0]"),
    "a sum in place of the other": ("*x = fragments[2]", "*x = fragments[1]"),
    "a third plane that carries": ("return ((h & 0x7f7f7f7fu) + (l & 0x7f7f7f7fu)) ^ ((h ^ l) & 0x80808080u);", "return h + l;"),
    "a third plane without signs": ("^ ((h ^ l) & 0x80808080u)", "^ ((h | l) & 0x80808080u)"),
    "which planes are multiplied": ("b + 2 * PLANE_B)", "b + PLANE_B)"),
    "the place of A's second plane": ("fragment_load(l, a + PLANE_A)", "fragment_load(l, a)"),
    "the swizzle of 64 bytes": ("((int)(lane) >> 1 & 3)", "((int)(lane) & 3)"),
    "a descriptor's distance": CHANGES["a descriptor's distance"],
    "a descriptor's swizzle": CHANGES["a descriptor's swizzle"],
    "where the ring begins": CHANGES["where the ring begins"],
    "a fence": ("    group_begin();\n", ""),
    "a wait for what fills a slot": CHANGES["a wait for what fills a slot"],
    "a wait for those who empty it": ("barrier_wait(emptied + slot * 8, phase ^ 1, lost);", ""),
    "the parity of a phase": ("emptied + slot * 8, phase ^ 1, lost)", "emptied + slot * 8, phase, lost)"),
    "the phase that a second tile begins with": ("u32 before = 0;", "u32 before = 0; phase = 0;"),
    "the phase of fetching a second tile": ("tile_place tile = tile_of(", "phase = 0; tile_place tile = tile_of("),
    "the slot that a second tile begins with": ("u32 before = 0;", "u32 before = 0; slot = 0;"),
    "a slot given back too early": ("multiply_slot(sums,", "before = emptied + slot * 8; multiply_slot(sums,"),
    "a last slot that is kept": (LAST, ""),
    "a last slot given back before it is multiplied": (DONE, LAST + DONE),
    "a neighbour that is not told": ("sharer_of(lane_now(), rank)", "rank"),
    "bytes that are expected": CHANGES["bytes that are expected"],
    "blocks that a copy goes to": CHANGES["blocks that a copy goes to"],
    "which part of B a block fetches": (": of_m * (TN / CM);", ": 0;"),
    "a barrier's arrivals": CHANGES["a barrier's arrivals"],
    "a tile made twice, another never": ("tile_of(cluster + number * clusters, m", "tile_of((cluster + number * clusters) & ~1u, m"),
    "a tile that nobody makes": (WALK, WALK.replace("tiles;", "tiles - 1;")),
    "a walk that leaves tiles out": (WALK, WALK.replace("number++", "number += 2")),
    "a walk that others have made": ("tile_of(cluster + number", "tile_of(number"),
    "the place of a tile, written over": ("#define PLACES (SLOTS / TURNS + 3)", "#define PLACES 1"),
    "the place of a tile, seldom written over": ("#define PLACES (SLOTS / TURNS + 3)", "#define PLACES 3"),
    "sums of the tile before": ("sums[s][i] = 0;", "if (!number) sums[s][i] = 0;"),
    "sums that are read before they are made": (DONE, ""),
    "who begins later waits for ever": ("ahead_goes<GROUPS * 128>(); /*", "; /*"),
    "rows of D": ("first + h * 8 * n + y", "first + h * n + y"),
    "rows of D at an edge": ("at + h * 8 * n + y", "at + h * n + y"),
    "sums of columns over rows": ("for (int half = 4; half; half /= 2)", "for (int half = 4; half > 1; half /= 2)"),
    "places of sums of columns": ("LANE / 16 * 2 + LANE / 8 % 2", "LANE / 8 % 2 * 2 + LANE / 16"),
    "sums of columns of halves": ("(lows) - 16 * CENTRED", "(lows) - 15 * CENTRED"),
    "the scale at an edge": CHANGES["the scale"],
    "columns beyond the edge": ("there->plain = plain;", "there->plain = tile.row + 2 * TM <= m;"),
    "a tile whose rest of k others have": (" && gridDim.y == 1", ""),
    "what is not usual": ("all = all && usual(top, top);", ""),
    "a factor of a row": ("factors[row + 8]", "factors[row]"),
    "a factor of a column": ("(factors + TM + y + LANE % 4 * 2)", "(factors + TM + y)"),
    "factors of B's lanes": ("top_b[i - TM]", "top_b[i]"),
    "which of two factors": ("i < TM ? usual_a(top, bits)", "i < TN / 2 ? usual_a(top, bits)"),
    "what is told of a tile too late": ("fetchers_meet<64>();", ""),
    "where a tile begins": ("* n + tile.column, there", "* n, there"),
    "where a tile's sums are": ("* padded_b + tile.column;", "* padded_b;"),
}
KINDS = ("even", "rare", "maximal")
PRODUCTS = [(300, 1500, 140, kind, 1) for kind in KINDS]
OF_TILES = [
    (300, 1500, 140, "even", 1), (300, 300, 520, "maximal", 1), (300, 20, 520, "wide", 1), (128, 70, 128, "rare", 1), (128, 300, 128, "even", 2),
]  # fmt: skip
"""Two tiles in one cluster; six in two clusters, where the warp that fetches is tiles ahead; one without an edge; k in parts."""


def wrong(device: Changed, group: Group) -> bool:
    """Whether any product is not right, or says so itself."""
    found = False
    if group.persistent:  # a cluster that makes twelve tiles
        try:
            found |= Single(device, 270, 20, 700, 14, group._replace(cn=1), 1, "wide", processors=2).run() != (True, 0)
        except DeviceError:
            found = True
    for m, k, n, kind, parts in OF_TILES if group.persistent else PRODUCTS:
        try:
            found |= Single(device, m, k, n, 14, group, parts, kind).run() != (True, 0)
        except DeviceError:
            found = True
    assert device.found, "there is no such text"
    return found


@pytest.mark.parametrize("group", [FOUR, STAYS], ids=str)
def test_nothing_is_found_where_nothing_changed(group: Group) -> None:
    assert not wrong(Changed("KERNEL", "KERNEL"), group)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found(change: str) -> None:
    assert wrong(Changed(*CHANGES[change]), FOUR)


@pytest.mark.slow
@pytest.mark.parametrize("change", OF_STAYING)
def test_a_change_of_blocks_that_stay_is_found(change: str) -> None:
    assert wrong(Changed(*OF_STAYING[change]), STAYS)


# ---- trial and choice --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("assay.exact.cuda.choice.cache_folder", lambda: tmp_path)
    monkeypatch.setattr(trial, "SMALL", ((131, 333, 69),))
    monkeypatch.setattr(trial, "PARTS", (1,))
    monkeypatch.setattr(trial, "LARGE", ())
    monkeypatch.setitem(tiles.CLUSTERS, True, ((2, 2),))
    monkeypatch.setattr(tiles, "STAYING", ((2, 2),))
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
    assert [known(device)[f"{way} at b=14"] for way in ways] == ["right", "right"]


def test_wrong_bits_keep_it_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Changed, Hopper):
        pass

    device = Wrong("a + z * PLANE_A + k * 32", "a + z * PLANE_A")
    assert [way.tile for way in wgmma(Choices(device))] == [STAYS]
    assert "wrong bits" in caplog.text
    assert [way.tile for way in wgmma(Choices(Hopper()))] == [STAYS], "another process reads it from the file"
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
    monkeypatch.setattr(tiles, "STAYING", ())
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
    assert len(wgmma(Choices(Hopper()))) == 2


def test_a_trial_holds_larger_products_against_ordinary_tiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LARGE", ((30, 300, 30),))
    assert all(trial.right(Hopper(), Way(group), 14) for group in (FOUR, STAYS))
    monkeypatch.setattr(trial, "SMALL", ())
    for group, old, new in (
        (FOUR, "group_multiply(sums[z + y], matrix_at(a", "group_multiply(sums[z + y], matrix_at(b"),
        (STAYS, "multiply_by(sums[2], x,", "multiply_by(sums[2], l,"),
    ):
        device = Changed(old, new)
        assert not trial.right(device, Way(group), 14)
        assert device.found
