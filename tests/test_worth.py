"""What data is worth: values against closed forms and brute force over orders, parts that sum up, and a report whose numbers anybody checks."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, permutations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.codec import decode, digest, encode
from assay.execute import Executor
from assay.ids import Address, Digest
from assay.local import run_local
from assay.merkle import sha256
from assay.state import Tensors
from assay.worth import games, records, report, split
from assay.worth.games import Game
from tests.exact.mlp import BATCH, MICRO_BATCHES, SCHEDULE, batch, initial_state, mlp


def weights(coalition: frozenset[int]) -> int:
    """0 and 1 have the same records, 2 needs 3, 4 has none."""
    return 10 * bool(coalition & {0, 1}) + 6 * ({2, 3} <= coalition)


def by_orders(value: object, n: int) -> list[Fraction]:
    out = [Fraction(0)] * n
    orders = list(permutations(range(n)))
    for order in orders:
        for k, i in enumerate(order):
            out[i] += Fraction(weights(frozenset(order[: k + 1])) - weights(frozenset(order[:k])), len(orders))
    return out


def test_shapley_is_the_mean_over_all_orders_and_twins_share() -> None:
    game = Game(5, weights)
    worth = games.shapley(game)
    assert worth == by_orders(weights, 5) == [5, 5, 3, 3, 0]
    assert len(game.known) == 32
    assert games.leave_one_out(game) == [0, 0, 6, 6, 0]  # of twins each looks worthless
    pairs = games.interactions(game)
    assert pairs[0, 1] == -10
    assert pairs[2, 3] == 6
    assert all(x == 0 for pair, x in pairs.items() if pair not in ((0, 1), (2, 3)))


@given(st.lists(st.integers(-50, 50), min_size=8, max_size=8))
def test_exact_values_are_efficient_and_a_pair_of_all_is_its_own_surplus(table: list[int]) -> None:
    sets = [frozenset(c) for k in range(4) for c in combinations(range(3), k)]
    value = dict(zip(sets, table, strict=True))
    game = Game(3, value.__getitem__, value[frozenset()])
    assert sum(games.shapley(game)) == value[game.all] - value[frozenset()]
    two = Game(2, value.__getitem__, value[frozenset()])
    (only,) = games.interactions(two).values()
    assert only == two({0, 1}) - two({0}) - two({1}) + two(())


def test_an_estimate_follows_from_its_seed_and_comes_near() -> None:
    game = Game(5, weights)
    some = games.estimated(game, b"seed", 200)
    assert some == games.estimated(Game(5, weights), b"seed", 200) != games.estimated(game, b"other", 200)
    assert sum(some) == 16
    errors = games.standard_error(game, b"seed", 200)
    for near, exact, error in zip(some, games.shapley(game), errors, strict=True):
        assert abs(near - exact) <= 4 * error
    few = Game(5, weights)
    games.estimated(few, b"seed", 3, slack=6)
    assert len(few.known) < 16  # most orders stop when the twins' ten is there
    assert games.drawn_order(4, b"s", 0) == games.drawn_order(4, b"s", 0)
    for bad in (
        lambda: games.estimated(game, b"", 0),
        lambda: games.standard_error(game, b"", 1),
        lambda: games.shapley(Game(13, len)),
        lambda: Game(0, len),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            bad()


@given(st.lists(st.fractions(-5, 5), min_size=1, max_size=32), st.integers(0, 3))
def test_parts_sum_up_and_keep_the_order(worth: list[Fraction], least: int) -> None:
    out = split.parts(worth, least)
    assert sum(out) == split.SHARES
    assert min(out) >= least
    for (a, x), (b, y) in combinations(zip(worth, out, strict=True), 2):
        if max(a, 0) > max(b, 0):
            assert x >= y
        assert abs(x - y) <= 1 or a != b


def test_parts_in_closed_form() -> None:
    assert split.parts([Fraction(1, 3)] * 3, 0) == [3334, 3333, 3333]
    assert split.parts([5, -2, 0]) == [9998, 1, 1]
    assert split.parts([0, -1], 0) == [5000, 5000]
    for bad in ([], [1] * 10_001):
        with pytest.raises(ValueError, match="cannot have at least"):
            split.parts(bad)


def test_related_records_count_once_and_old_ones_less() -> None:
    key = b"the owners'"
    jane, joe, ann = (records.mark(key, name) for name in (b"jane", b"joe", b"ann"))
    assert jane != records.mark(b"another", b"jane")
    assert records.mark(key, b"a", b"bc") != records.mark(key, b"ab", b"c")
    owners = [[jane, joe, joe], [joe, ann], []]
    assert records.overlaps(owners) == [[2, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert records.credit(owners) == [Fraction(3, 2), Fraction(3, 2), 0]
    assert records.decayed([0, 0, 1, 7], [10_000, 5_000, 2_500]) == Fraction(11, 4)
    for ages, curve in (([0], []), ([0], [5, 6]), ([0], [10_001]), ([-1], [1])):
        with pytest.raises(ValueError):  # noqa: PT011
            records.decayed(ages, curve)


def test_three_owners_of_a_real_training_are_valued_to_the_bit() -> None:
    data = [batch(i, 0) for i in range(3)]
    held = batch(3, 1)
    ends: dict[frozenset[int], Digest] = {}

    def value(coalition: frozenset[int]) -> int:
        """How far the loss on held-out records fell, in units of 2^-20: the engine's own number."""
        rows = {name: np.concatenate([data[i][name] for i in sorted(coalition)]) for name in data[0]}
        run = run_local(
            mlp(), SCHEDULE[:4], initial_state(), lambda ix: {n: a[ix] for n, a in rows.items()}, BATCH * len(coalition), sha256(b"order")
        )
        ends[coalition] = run.root
        return unseen(initial_state()) - unseen(run.state)

    def unseen(state: Tensors) -> int:
        executor = Executor(mlp(), SCHEDULE, MICRO_BATCHES)
        return int(float(executor.micro(0, 0, state, executor.zero_acc(0, state), held)["loss"]) * 2**20)

    owners = tuple(Address(f"0x{i:040x}") for i in range(3))
    made = report.make(sha256(b"job"), owners, "fall of the loss", Game(3, value), ends)
    report.check(decode(encode(made), report.Worth))
    assert sum(r.exact for r in made.worth) == next(v.value for v in made.coalitions if len(v.owners) == 3)
    assert sum(made.shares) == split.SHARES
    assert digest(made).hex() == "4a0c2b15c1a44bf980a15ce51a6de895d91e82a38140f2b38bf1b10dcd7cb2b4"
    rep = msgspec.structs.replace
    for false in (
        rep(made, shares=(1, 1, 9998)), rep(made, worth=made.worth[::-1]), rep(made, coalitions=made.coalitions[:-2]), rep(made, together=()),
        rep(made, alone=(0, 0, 9)), rep(made, coalitions=(*made.coalitions[:3], rep(made.coalitions[3], value=99), *made.coalitions[4:])),
    ):  # fmt: skip
        with pytest.raises(report.Disagrees):
            report.check(false)
    drawn = report.make(sha256(b"job"), owners, "fall of the loss", Game(3, value), ends, b"seed", 2)
    report.check(drawn)
    assert drawn.method == "estimated"
