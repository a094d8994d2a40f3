"""What is published of a valuation: enough for anybody to check the arithmetic, and with the records of the owners the values, too."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from assay.codec import Message
from assay.ids import U32, U63, Address, Digest
from assay.worth import games, split
from assay.worth.games import Game


class Ratio(Message, frozen=True, kw_only=True):
    above: int
    below: U63

    @property
    def exact(self) -> Fraction:
        return Fraction(self.above, self.below)


class Valued(Message, frozen=True, kw_only=True):
    """A coalition, and what its training scored."""

    owners: tuple[U32, ...]
    value: int
    end: Digest
    """State root that the training ended in: whoever runs it again compares this first. Zeros for nobody."""


class Worth(Message, frozen=True, kw_only=True):
    job: Digest
    """The training that was repeated with fewer owners: its program, schedule and state."""
    owners: tuple[Address, ...]
    metric: str
    """What a value counts, in words."""
    method: Literal["shapley", "estimated"]
    seed: bytes = b""
    orders: U32 = 0
    slack: U63 = 0
    coalitions: tuple[Valued, ...]
    """In the order of their size, then of their members."""
    worth: tuple[Ratio, ...]
    alone: tuple[int, ...]
    """Leave-one-out, beside it."""
    together: tuple[tuple[U32, U32, Ratio], ...] = ()
    """The interaction of each pair, where every coalition was valued."""
    shares: tuple[U32, ...]
    """Parts of 10,000."""


class Disagrees(ValueError):
    """A valuation whose numbers do not follow from its coalitions."""


def ratio(x: Fraction) -> Ratio:
    return Ratio(above=x.numerator, below=x.denominator)


def make(
    job: Digest,
    owners: tuple[Address, ...],
    metric: str,
    game: Game,
    ends: dict[frozenset[int], Digest],
    seed: bytes = b"",
    orders: int = 0,
    slack: int = 0,
) -> Worth:
    """Values a game, exactly without `orders`. `ends` are filled by the game's value function."""
    worth = games.estimated(game, seed, orders, slack) if orders else games.shapley(game)
    alone = games.leave_one_out(game)
    together = {} if orders else games.interactions(game)
    known = sorted(game.known, key=lambda c: (len(c), sorted(c)))
    return Worth(
        job=job, owners=owners, metric=metric, method="estimated" if orders else "shapley", seed=seed, orders=orders, slack=slack,
        coalitions=tuple(Valued(owners=tuple(sorted(c)), value=game.known[c], end=ends.get(c, Digest(bytes(32)))) for c in known),
        worth=tuple(map(ratio, worth)), alone=tuple(alone), together=tuple((i, j, ratio(x)) for (i, j), x in sorted(together.items())),
        shares=tuple(split.parts(worth)),
    )  # fmt: skip


def check(worth: Worth) -> None:
    """Everything that follows from the coalitions' values. Raises Disagrees."""
    values = {frozenset(v.owners): v.value for v in worth.coalitions}
    ends = {frozenset(v.owners): v.end for v in worth.coalitions}

    def known(coalition: frozenset[int]) -> int:
        if coalition not in values:
            raise Disagrees(f"the value of {sorted(coalition)} is not there")
        return values[coalition]

    game = Game(len(worth.owners), known, values.get(frozenset(), 0))
    again = make(worth.job, worth.owners, worth.metric, game, ends, worth.seed, worth.orders, worth.slack)
    if again != worth:
        names = [name for name in worth.__struct_fields__ if getattr(worth, name) != getattr(again, name)]
        raise Disagrees(f"what does not follow from the coalitions: {', '.join(names)}")
