"""Who shares masks with whom: a random Harary graph (Bell, Bonawitz, Gascón, Lepoint, Raykova: Secure single-server aggregation with
(poly)logarithmic overhead, CCS 2020), and how likely it is to fail.

The members of a round are laid around a circle in an order that a hash decides, and each is joined with the `degree / 2` before and behind it.
With as many neighbours as there are others the graph is complete, which is the protocol of 2017.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import comb


def neighbours(members: Sequence[int], degree: int, seed: bytes) -> dict[int, tuple[int, ...]]:
    """The neighbours of each member, sorted. `degree` is even, or is lowered to how many others there are."""
    if degree >= len(members) - 1:
        return {me: tuple(sorted(other for other in members if other != me)) for me in members}
    circle = sorted(members, key=lambda me: hashlib.sha256(b"assay/federated/place/1" + seed + me.to_bytes(4, "big")).digest())
    size, half = len(circle), degree // 2
    steps = [*range(-half, 0), *range(1, half + 1)]
    return {me: tuple(sorted(circle[(i + step) % size] for step in steps)) for i, me in enumerate(circle)}


def exposed(members: int, degree: int, threshold: int, corrupt: int) -> float:
    """Bound on the chance that some member has `threshold` or more of `corrupt` colluding members among its neighbours: the coordinator could then
    take its mask away. The neighbours of one are drawn without replacement; the union over members bounds the rest."""
    degree = min(degree, members - 1)
    bad = sum(
        comb(corrupt, j) * comb(members - 1 - corrupt, degree - j)
        for j in range(threshold, min(degree, corrupt) + 1)
        if degree - j <= members - 1 - corrupt
    )
    return min(1.0, members * bad / comb(members - 1, degree))


def stuck(members: int, degree: int, threshold: int, dropped: int) -> float:
    """Bound on the chance that the shares of some member cannot be put together after `dropped` others have gone: the round is then lost, not
    leaked."""
    degree = min(degree, members - 1)
    alive = members - 1 - dropped
    bad = sum(comb(alive, j) * comb(dropped, degree - j) for j in range(min(threshold, degree + 1)) if j <= alive and degree - j <= dropped)
    return min(1.0, members * bad / comb(members - 1, degree))


def parted(members: int, degree: int, gone: int) -> float:
    """Bound on the chance that the members without `gone` (corrupt or dropped) fall into parts, each of whose sums would show: on a circle that
    takes two runs of `degree / 2` or more neighbours that are gone. Bounded by the chance of one run."""
    half = min(degree, members - 1) // 2
    if degree >= members - 1 or gone < 2 * half:
        return 0.0
    return min(1.0, members * comb(members - half, gone - half) / comb(members, gone))
