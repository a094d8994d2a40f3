"""Money by worth: parts of 10,000 that sum up exactly, as the contract Datasets takes them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

SHARES = 10_000


def parts(worth: Sequence[Fraction | int], least: int = 1) -> list[int]:
    """Parts of SHARES in proportion to worth, by largest remainders (Hamilton); of equal remainders the earlier one is rounded up.

    Whoever is worth nothing or less than nothing is given `least` (the contract takes no share of 0: leave such an owner out of the record, or
    give it 1); when nobody is worth anything all get the same. Raises ValueError when there are no owners, or more than SHARES have room.
    """
    count = len(worth)
    if not count or least < 0 or count * least > SHARES:
        raise ValueError(f"{count} owners cannot have at least {least} of {SHARES} parts each")
    positive = [max(Fraction(w), Fraction(0)) for w in worth]
    if not sum(positive):
        positive = [Fraction(1)] * count
    room, total = SHARES - count * least, sum(positive, Fraction(0))
    exact = [w * room / total for w in positive]
    out = [int(e) for e in exact]
    rest = sorted(range(count), key=lambda i: (out[i] - exact[i], i))
    for i in rest[: room - sum(out)]:
        out[i] += 1
    return [o + least for o in out]
