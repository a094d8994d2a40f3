"""What is cleared once for a whole part, and checksums that are compared in its end: that the bits are the same on a second run and where there is no
room, that a flipped bit is found, and so is what was not cleared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from assay.exact.cuda import fake, pairs, product, tape, zeroed
from assay.exact.cuda.device import Launch
from assay.exact.cuda.product import Products
from assay.exact.cuda.tiles import ROWS as ROWS_OF_128
from assay.exact.cuda.tiles import digits
from assay.exact.inputs import Case, Writer, case, floats
from tests.exact.test_cuda_pairs import Run

needs_compiler = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
ROWS, COLUMNS = 40, 5000


def several(w: Writer) -> Sequence[int]:
    """Two products of their own, two of a matrix that is packed once (its magnitudes made by a kernel of rows), and a sum that blocks share."""
    x = w("mul", w("neg", 0), 0)
    first, second = w("matmul", x, 1), w("matmul", w("permute", x, axes=(1, 0)), 2)
    return [first, second, w("matmul", 0, w("neg", 1)), w("sum", 3, axes=(1,), keepdim=False)]


def made() -> Case:
    given = [floats(1, (ROWS, 33), "even"), floats(2, (33, 17), "even"), floats(3, (ROWS, 20), "even"), floats(4, (2, COLUMNS), "even")]
    return case("several", given, several)



@needs_compiler
def test_the_bits_are_the_same_whenever_it_runs() -> None:
    run = Run(made(), 14)
    assert run.right()
    assert run.right(), "again, with what the first run left in memory"
    bound = run.cuda._planned("micro", False)
    assert run.tape.plan.zeros[1] > 0
    assert run.tape._zeroed.size > 0
    assert len(bound.launches) == run.tape.marks[-1] + 2
    names = [launch.kernel.name for launch in bound.launches]
    assert names.count("compare_all") == names.count("tops_all") == 1
    assert names.count("compare") == 0
    assert names.count("tops") == 1, "of the one operand that is made on the way"


@needs_compiler
def test_weights_that_two_products_read_have_both_their_scales_of_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three read one matrix, two of them along the same axis; of a batch of two each product finds its own."""

    def write(w: Writer) -> Sequence[int]:
        x, weights, y, many, z, u = range(6)
        back, turned = w("permute", weights, axes=(1, 0)), w("permute", many, axes=(0, 2, 1))
        of_one = [w("matmul", x, weights), w("matmul", y, back), w("matmul", w("mul", x, x), weights)]
        return [*of_one, w("matmul", z, many), w("matmul", u, turned)]

    given = [floats(i, shape, "wide") for i, shape in enumerate(((20, 70), (70, 600), (30, 600), (2, 40, 50), (2, 10, 40), (2, 11, 50)))]
    found: list[Sequence[Sequence[int]]] = []
    monkeypatch.setattr(pairs, "NEAR", 0)  # as weights' products are far apart, forward and backward
    monkeypatch.setattr(pairs, "KEPT", 1 << 60)  # and there is no room for their digits in between
    right = Products.topped
    monkeypatch.setattr(Products, "topped", lambda self, tops, table: right(self, tops, lambda rows: (found.append(rows), table(rows))[1]))
    run = Run(case("both", given, write), 14)
    assert run.right()
    seen = {(row[7], row[8]): bool(row[11]) for row in found[0]}
    assert [shape for shape, both in seen.items() if both] == [(70, 600)]
    assert sorted(seen) == [(10, 40), (11, 50), (20, 70), (30, 600), (40, 50), (50, 40), (70, 600), (600, 70)]


def far(w: Writer) -> Sequence[int]:
    """Two weights, as they are (one of them twice) and turned round. Sums in between, since narrow products that follow each other are one kernel."""
    x, first, second, other = range(4)
    y = w("cumsum", w("matmul", w("cumsum", w("matmul", x, first), axis=1), second), axis=1)
    back = w("cumsum", w("matmul", y, w("permute", second, axes=(1, 0))), axis=1)
    return [w("matmul", back, w("permute", first, axes=(1, 0))), w("matmul", other, first)]


@needs_compiler
def test_weights_are_packed_once_for_the_way_back_where_their_digits_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    c = case("far", [floats(i, shape, "special" if i == 1 else "even") for i, shape in enumerate(((33, 70), (70, 90), (90, 40), (21, 70)))], far)
    monkeypatch.setattr(pairs, "NEAR", 0)
    run = Run(c, 14)
    kept = [pairs.pack_of(step).matrix for step in run.tape.plan.steps if step.name == "pack"]
    assert sorted(v.shape for v in kept) == [(70, 90), (90, 40)]
    assert run.right()
    assert run.right(), "again, with what the first run left in memory"
    names = [launch.kernel.name for launch in run.cuda._planned("micro", False).launches]
    assert names.count("pack_both") == 2
    assert names.count("tops_all") == 1
    assert "tops_both" not in names, "their magnitudes are found in the beginning"
    of_one = run.products.side(pairs.planned(next(step for step in run.tape.plan.steps if step.name == "matmul")), 1)
    assert of_one is not None
    monkeypatch.setattr(pairs, "KEPT", run.device.description.memory // of_one.packed)
    assert [step.name for step in Run(c, 14).tape.plan.steps].count("pack") == 1, "room for one of them"
    monkeypatch.setattr(pairs, "KEPT", 1 << 60)
    none = Run(c, 14)
    assert "pack" not in none.names
    assert none.right()


@needs_compiler
def test_without_room_each_step_clears_and_compares_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    more = len(Run(made(), 14).cuda._planned("micro", False).launches)
    monkeypatch.setattr(tape, "MOST_ZEROS", 1)
    run = Run(made(), 14)
    assert run.right()
    assert run.tape._zeroed.size == 0
    assert len(run.cuda._planned("micro", False).launches) >= more + 4  # three products clear and compare; two launches less
    assert run.right()


@needs_compiler
@pytest.mark.parametrize("name", ["columns", "wanted", "along"])
def test_a_bit_that_is_flipped_in_any_product_s_sums_is_found_in_the_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(made(), 14)
    given: list[zeroed.Row] = []
    right = Products.compared
    monkeypatch.setattr(Products, "compared", lambda self, checks, table: (given.extend(checks), right(self, checks, table))[1])
    last = run.cuda._planned("micro", False).launches[-1]
    assert len(given) == 3
    for at, check in enumerate(given):
        address = check.words[("columns", "along", "wanted").index(name)]

        def strike(launch: Launch, arena: int, address: int = address + 3 * 8 + at, at: int = at) -> None:
            if launch is last:
                run.flip(address, at)

        assert run.struck(strike)[1] == 1


@needs_compiler
def test_what_is_not_cleared_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two regions."""

    def left(which: int) -> Callable[[tape.Tape, int, int], Launch]:
        right, seen = tape.Tape.zeros, [0]

        def zeros(self: tape.Tape, address: int, size: int) -> Launch:
            seen[0] += 1
            return right(self, address, size if seen[0] != which else 4)

        return zeros

    for which in (1, 2):
        with monkeypatch.context() as patched:
            patched.setattr(tape.Tape, "zeros", left(which))
            run = Run(made(), 14)
            bound = run.cuda._planned("micro", False)
            run.device.upload(bound.bases["arena"][0], np.full(run.tape.arena, 0x71, np.uint8))
            run.device.upload(bound.held[1].address, np.full(run.tape.scratch, 0x71, np.uint8))
            right, found = run.struck(lambda launch, arena: None)
            assert not right or found


@needs_compiler
def test_a_change_of_the_kernel_for_all_magnitudes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operand's first block alone does its work."""
    right, of, instead = product.around, "block = blockIdx.x - (u32)row[0],", "block = 0u,"
    assert right(digits(14), ROWS_OF_128).count(of) == 1
    monkeypatch.setattr(product, "around", lambda *how: right(*how).replace(of, instead))
    good, found = Run(made(), 14).struck(lambda launch, arena: None)
    assert not good or found


@needs_compiler
def test_magnitudes_of_what_is_made_on_the_way_cannot_be_found_in_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeroed.Zeroed, "still", lambda self, v: True)
    right, found = Run(made(), 14).struck(lambda launch, arena: None)
    assert not right or found
