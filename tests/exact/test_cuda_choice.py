"""Which way of multiplying is taken: the fastest that was measured, kept in a file that is read with suspicion. What chips are
asked about bf16 and fp8: test_cuda_floats.py."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from assay.exact import reference
from assay.exact.conformance import Writer, program
from assay.exact.cuda import fake
from assay.exact.cuda.choice import EXACT, Choices, path
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.product import Products
from assay.exact.cuda.tiles import Size, Way
from assay.exact.inputs import floats
from tests.exact.support import same

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="the fake device needs a C++ compiler")
SIZE = Size(14, 1, 20, 20, 40)
HELD = json.dumps({EXACT["bf16"]: "22", EXACT["fp8"]: "14"})


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> fake.Fake:
    """A fake device whose measurements are its own; what is compiled stays where it was."""
    monkeypatch.setattr("assay.exact.cuda.choice.cache_folder", lambda: tmp_path)
    return fake.Fake()


@pytest.mark.parametrize("at", [0, 3, -1])
def test_the_fastest_is_taken_and_kept(device: fake.Fake, at: int) -> None:
    path(device.description).write_text(HELD)
    ways = Choices(device).ways(SIZE)
    assert Way(None) in ways
    assert {way.kind for way in ways} == {"int8", "bf16", "fp8"}
    at %= len(ways)
    now = itertools.accumulate(x for i in range(len(ways)) for x in (1, 2 if i == at else 3) * 2)
    assert Choices(device, lambda: next(now)).way(SIZE) == ways[at]
    assert Choices(device, lambda: 1 // 0).way(SIZE) == ways[at], "read from the file"


def test_products_that_ranks_share_are_measured_by_themselves_and_made_in_tiles(device: fake.Fake) -> None:
    path(device.description).write_text(json.dumps(dict.fromkeys(EXACT.values(), "0")))
    ways = Choices(device).ways(SIZE)
    tiled = [way for way in ways if way.tile is not None]
    assert len(tiled) == len(ways) - 1
    order = [*ways[-1:], *ways[:-1]] if ways[-1].tile is None else ways
    now = itertools.accumulate(x for i in range(len(ways)) for x in (1, 2 if ways[i] is order[0] else 3) * 2)
    assert Choices(device, lambda: next(now)).way(SIZE) == order[0]
    now = itertools.accumulate(x for i in range(len(tiled)) for x in (1, 2 if i == 1 else 3) * 2)
    assert Choices(device, lambda: next(now)).way(SIZE, True) == tiled[1]
    kept = Choices(device, lambda: 1 // 0)
    assert kept.way(SIZE, True) == tiled[1]
    assert kept.way(SIZE) == order[0]


def test_no_floats_where_sums_are_not_exact(device: fake.Fake) -> None:
    path(device.description).write_text(json.dumps(dict.fromkeys(EXACT.values(), "0")))
    assert {way.kind for way in Choices(device).ways(SIZE)} == {"int8"}


@pytest.mark.parametrize("text", ["", "[]", '{"b=14 1x20x20x40": 3}', "[" * 100000, '{"b=14 1x20x20x40": "int8 9x9x9x9x9x9"}', "x" * (1 << 21)])
def test_a_file_that_says_nonsense_is_as_none(device: fake.Fake, text: str) -> None:
    path(device.description).write_text(text)
    choices = Choices(device, itertools.count().__next__)
    assert choices.way(SIZE) in choices.ways(SIZE)


def test_every_way_gives_the_engine_the_same_bits(device: fake.Fake) -> None:
    path(device.description).write_text(HELD)
    a, b = floats(3, (2, 20, 40), "even"), floats(4, (2, 40, 20), "wide")
    w = Writer(a, b)
    part = w.part(w("matmul", 0, 1))
    for way in Choices(device).ways(Size(14, 2, 20, 20, 40)):
        cuda = Cuda(program(part, 14), device, products=Products(device, lambda _, way=way: way))  # type: ignore[misc]
        assert same(cuda.run("micro", {"batch": {"x0": a, "x1": b}})["y0"], reference.matmul(a, b, 14)), way
