"""Coalitions of owners and what each owner, and each pair of them, contributes.

A game gives every set of players a whole number: what a model scores that was trained on their data alone. From it:

    leave-one-out     v(N) - v(N \\ i)
    Shapley value     the mean of v(S + i) - v(S) over all orders in which players can join (Shapley, 1953; for data: Ghorbani and Zou, ICML 2019)
    interaction       of i and j: the mean of v(S + i + j) - v(S + i) - v(S + j) + v(S), weighted as Grabisch and Roubens (Int. J. Game
                      Theory, 1999) do: above zero the two are worth more together than apart, below it one does for the other

A training costs money, so a value is asked for once and kept. With many players the Shapley value is estimated over orders that a seed draws, which
stop where no more than `slack` is missing to v(N) (truncated Monte Carlo); the same seed gives the same orders everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import combinations
from math import comb, factorial, sqrt

MOST_EXACT = 12
"""Players of an exact game: 4,096 trainings."""

Coalition = frozenset[int]


class Game:
    """`players` of them, 0..players-1. `value` is asked once for each coalition that is wanted; the empty one is worth `nothing`."""

    def __init__(self, players: int, value: Callable[[Coalition], int], nothing: int = 0) -> None:
        if players < 1:
            raise ValueError("a game has players")
        self.players, self._value = players, value
        self.known: dict[Coalition, int] = {frozenset(): nothing}
        """Everything that was asked: with it anybody checks the rest without a training."""

    def __call__(self, coalition: Iterable[int]) -> int:
        who = frozenset(coalition)
        if who not in self.known:
            self.known[who] = self._value(who)
        return self.known[who]

    @property
    def all(self) -> Coalition:
        return frozenset(range(self.players))


def leave_one_out(game: Game) -> list[int]:
    """What each player's leaving takes away: players + 1 values."""
    return [game(game.all) - game(game.all - {i}) for i in range(game.players)]


def _need_few(game: Game) -> None:
    if game.players > MOST_EXACT:
        raise ValueError(f"{game.players} players have 2^{game.players} coalitions: estimate, or take at most {MOST_EXACT}")


def _without(game: Game, left_out: set[int]) -> Iterable[Coalition]:
    rest = [i for i in range(game.players) if i not in left_out]
    return (frozenset(c) for size in range(len(rest) + 1) for c in combinations(rest, size))


def shapley(game: Game) -> list[Fraction]:
    """Exact: every coalition is valued. They sum up to v(N) - v(nobody). Raises ValueError for more than MOST_EXACT players."""
    _need_few(game)
    n = game.players
    return [sum((Fraction(game(s | {i}) - game(s), n * comb(n - 1, len(s))) for s in _without(game, {i})), Fraction(0)) for i in range(n)]


def interactions(game: Game) -> dict[tuple[int, int], Fraction]:
    """The Shapley interaction index of every pair, exact. Raises ValueError for more than MOST_EXACT players."""
    _need_few(game)
    n, out = game.players, {}
    for i, j in combinations(range(n), 2):
        total = Fraction(0)
        for s in _without(game, {i, j}):
            weight = Fraction(factorial(n - len(s) - 2) * factorial(len(s)), factorial(n - 1))
            total += weight * (game(s | {i, j}) - game(s | {i}) - game(s | {j}) + game(s))
        out[i, j] = total
    return out


def drawn_order(players: int, seed: bytes, number: int) -> list[int]:
    """The order `number` in which players join: sorted by SHA-256 of seed, number and player."""
    head = b"assay/worth/order/1" + hashlib.sha256(seed).digest() + number.to_bytes(8, "big")
    return sorted(range(players), key=lambda i: hashlib.sha256(head + i.to_bytes(8, "big")).digest())


def estimated(game: Game, seed: bytes, orders: int, slack: int = 0) -> list[Fraction]:
    """The mean contribution over `orders` orders; in each, those who join when v(N) is no more than `slack` away contribute nothing, and their
    data is not trained on. With slack 0 the values of each order sum up to v(N) - v(nobody) unless it is reached early."""
    if orders < 1:
        raise ValueError("an estimate wants at least one order")
    gained = [0] * game.players
    whole = game(game.all)
    for number in range(orders):
        joined: list[int] = []
        before = game(joined)
        for i in drawn_order(game.players, seed, number):
            joined.append(i)
            after = before if slack and abs(whole - before) <= slack else game(joined)
            gained[i] += after - before
            before = after
    return [Fraction(g, orders) for g in gained]


def standard_error(game: Game, seed: bytes, orders: int) -> list[float]:
    """How far an estimate over so many orders is off, one standard deviation, from the spread of its orders (no truncation). For people: it is
    not part of any claim."""
    if orders < 2:
        raise ValueError("a spread wants at least two orders")
    seen: list[list[int]] = [[] for _ in range(game.players)]
    for number in range(orders):
        joined: list[int] = []
        for i in drawn_order(game.players, seed, number):
            before = game(joined)
            joined.append(i)
            seen[i].append(game(joined) - before)
    return [_spread(values) / len(values) ** 0.5 for values in seen]


def _spread(values: Sequence[int]) -> float:
    middle = Fraction(sum(values), len(values))
    return sqrt(sum(((v - middle) ** 2 for v in values), Fraction(0)) / (len(values) - 1))
