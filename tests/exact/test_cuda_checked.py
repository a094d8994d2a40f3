"""The right side of products' checksums, whose k several blocks share: how many do, that they give the words of one, and that what any of them leaves
out is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from assay.exact.cuda import fake, tape
from assay.exact.cuda.cuts import CHECKED, LEAST_CHECKED, checked
from assay.exact.cuda.device import Launch
from assay.exact.cuda.tiles import BF16_TILES, TILES, Kind, Tile, digits
from assay.exact.inputs import Case, Writer, case, floats
from tests.exact.test_cuda_pairs import Run
from tests.exact.test_cuda_pairs import device as of_runs
from tests.exact.test_cuda_products import Single
from tests.exact.test_cuda_products_find import Changed

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
H200 = 132
FEW = 4
TALL = 1300
"""Of k: 11 rows, so that the last of blocks that have two has one."""


def launched(lanes: int, rows: int, processors: int = H200) -> tuple[int, int]:
    """Rows of a block, and blocks."""
    run = checked(lanes, rows, 1024, processors)
    return run, lanes * -(-rows // run)


def test_blocks_are_about_as_many_as_processors() -> None:
    """12 have different lanes where a product has 768 columns, and 786 where it has as many as there are characters of GPT-2."""
    assert launched(12, 8192 // 128) == (6, 132)
    assert launched(12, 50304 // 128) == (36, 132)
    assert launched(12, 768 // 128) == (2, 36), "a block has 256 elements of k at least"
    assert launched(48, 8192 // 128) == (13, 240), "two for a processor, which end sooner than 96 longer ones"
    assert launched(786, 768 // 128) == (6, 786), "no more where there are enough"
    assert launched(12, 1) == (1, 12)
    for lanes in (1, 2, 12, 36, 131, 132, 133, 1000):
        for rows in (1, 2, 3, 6, 64, 393, 5000):
            for most in (1, 7, 256, 1024):
                run = checked(lanes, rows, most, H200)
                assert min(LEAST_CHECKED, rows, most) <= run <= min(rows, most)
                takes = [-(-lanes * -(-rows // r) // H200) * (r + CHECKED) for r in (run, min(rows, most))]
                assert takes[0] <= takes[1]
    assert checked(3, 64, 1024, 1) == 64, "one processor"


class Shared(Single):
    """A product on a device whose blocks share k; what they leave for the checksums."""

    def __init__(self, device: fake.Fake, processors: int, bits: int, tile: Tile | None, kind: str = "even", dtype: Kind = "int8") -> None:
        device.description = device.description._replace(processors=processors)
        super().__init__(device, 5, TALL, 37, bits, tile, 1, kind, dtype)

    @property
    def sharing(self) -> Launch:
        (launch,) = (launch for launch in self.launches()[1] if launch.kernel.name == "expected")
        return launch

    def words(self) -> bytes:
        words = np.zeros(self.product.products * self.product.padded_b, np.uint64)
        self.device.download(self.buffers[3].address + self.product.places["wanted"], words)
        assert words[:37].all()
        return words.tobytes()


def tile_of(bits: int) -> Tile:
    return TILES[digits(bits).sums][-1]


@needs_compiler
@pytest.mark.parametrize(
    ("bits", "tile", "kind", "dtype"),
    [
        (14, tile_of(14), "maximal", "int8"), pytest.param(23, tile_of(23), "maximal", "int8", marks=pytest.mark.slow),
        pytest.param(14, BF16_TILES[digits(14).sums][-1], "even", "bf16", marks=pytest.mark.slow),
        pytest.param(14, None, "even", "int8", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_blocks_that_share_k_give_the_same_words(bits: int, tile: Tile | None, kind: str, dtype: Kind) -> None:
    found, device = [], fake.Fake()
    for processors in (1, FEW, H200):
        one = Shared(device, processors, bits, tile, kind, dtype)
        parts = one.sharing.grid[1]
        assert (parts == 1) == (processors == 1)
        assert one.run() == (True, 0), f"{parts} parts"
        assert one.run() == (True, 0), "again, over what the first run left"
        found.append((parts, one.words()))
    assert len({words for _, words in found}) == 1
    assert found[-1][0] == 6


@needs_compiler
def test_a_bit_that_is_flipped_in_any_block_s_part_is_found() -> None:
    one = Shared(fake.Fake(), H200, 14, tile_of(14))
    p = one.product
    for row in range(p.blocks):
        lane, k = 7 * row % 37, 11 * row % (TALL - 128 * (p.blocks - 1))
        byte = ((row % 3 * p.blocks + row) * p.padded_b + lane) * 128 + (((k >> 4) ^ (lane & 7)) << 4 | (k & 15))
        assert one.run(("packed_b", byte, row % 7), before="expected")[1] > 0, f"row {row}"
        assert one.run(("across", 8 * (128 * row + k), row % 7), before="expected")[1] > 0, f"row {row}"
    assert one.run() == (True, 0)


@needs_compiler
def test_blocks_that_are_not_launched_are_found() -> None:
    one = Shared(fake.Fake(), H200, 14, tile_of(14))
    right = one.products.multiplying

    def fewer(launch: Launch, parts: int) -> Launch:
        return launch._replace(grid=(launch.grid[0], parts, 1)) if launch.kernel.name == "expected" else launch

    for parts in range(1, 7):
        one.products.multiplying = lambda *given, parts=parts: [fewer(launch, parts) for launch in right(*given)]  # type: ignore[method-assign]
        made, wrong = one.run()
        assert made, "results are made elsewhere"
        assert wrong == (0 if parts == 6 else 37), "every column"


CHANGES = {
    "a part that is left out": ("u64 sums[8];", "u64 sums[8];\n    if (blockIdx.y == 1) return;"),
    "sums that replace each other": ("atomicAdd(&wanted[product * padded_b + lane + i], sums[i])", "wanted[product * padded_b + lane + i] = sums[i]"),
    "parts that all begin alike": ("from = blockIdx.y * run, to = from + run <", "from = 0, to = from + run <"),
    "a row between two parts": ("from = blockIdx.y * run, to", "from = blockIdx.y * run + (blockIdx.y > 0), to"),
    "a row that two have": ("from + run < blocks ? from + run : blocks;", "from + run < blocks ? from + run + 1 : blocks;"),
    "parts that go on": ("from + run < blocks ? from + run : blocks;", "blocks;"),
}


@needs_compiler
@pytest.mark.parametrize("change", [pytest.param(name, marks=[pytest.mark.slow] if at > 1 else []) for at, name in enumerate(CHANGES)])
def test_a_change_of_what_blocks_share_is_found(change: str) -> None:
    """Where they do: one block by itself is right in spite of each."""
    device = Changed(*CHANGES[change])
    assert Shared(device, 1, 14, tile_of(14)).run() == (True, 0)
    assert device.found, "there is no such text"
    assert Shared(device, H200, 14, tile_of(14)).run() == (True, 37), "results are made elsewhere"


def batches(w: Writer) -> Sequence[int]:
    """Two of one batch each, and one of three."""
    return [w("matmul", 0, 1), w("matmul", w("permute", 2, axes=(1, 0)), 1), w("matmul", 3, 4)]


@needs_compiler
@pytest.mark.parametrize("zeros", [tape.MOST_ZEROS, 1])
def test_parts_have_the_same_bits_and_no_false_alarm(zeros: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With places that are cleared once, and where each product clears its own."""
    shapes = ((9, 700), (700, 21), (700, 13), (3, 10, 530), (3, 530, 11))
    c: Case = case("batches", [floats(i, shape, "rare") for i, shape in enumerate(shapes)], batches)
    here = of_runs()[0]
    monkeypatch.setattr(here, "description", here.description._replace(processors=H200))
    monkeypatch.setattr(tape, "MOST_ZEROS", zeros)
    run = Run(c, 14)
    assert (run.tape._zeroed.size > 0) == (zeros > 1)
    parts = [launch.grid[1] for launch in run.cuda._planned("micro", False).launches if launch.kernel.name == "expected"]
    assert sorted(parts) == [3, 3, 3]
    for _ in range(2):
        assert run.right()
        assert run.struck(lambda launch, arena: None) == (True, 0)
