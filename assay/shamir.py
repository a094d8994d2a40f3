"""Polynomials modulo a prime, as Shamir's secret sharing wants them (Communications of the ACM, 1979): evaluated, and put together at 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def value(coefficients: Sequence[int], place: int, prime: int) -> int:
    """The polynomial at `place`, by Horner's rule; the lowest coefficient first."""
    out = 0
    for coefficient in reversed(coefficients):
        out = (out * place + coefficient) % prime
    return out


def weights(places: Iterable[int], prime: int) -> dict[int, int]:
    """What the value at each place counts for the value at 0 (Lagrange): that is the sum of weight x value. Places are different, none is 0."""
    known = sorted(places)
    out = {}
    for place in known:
        above, below = 1, 1
        for other in known:
            if other != place:
                above, below = above * other % prime, below * (other - place) % prime
        out[place] = above * pow(below, -1, prime) % prime
    return out
