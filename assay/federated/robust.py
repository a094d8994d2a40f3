"""Sums that a few poisoned updates cannot bend far, as far as secrecy permits.

Nobody sees a single update, so nobody can leave one out by looking at it. What is left: owners are parted into groups by a hash that nobody
chose, each group adds up by itself, and the groups' means are compared. A group's mean that is longer than the norm that every honest
update keeps is certainly poisoned (the triangle inequality), and left out; the median or the trimmed mean of the rest, number by number (Yin et
al., ICML 2018), lies within the range of honest groups' means while fewer than half, or no more than `trim`, of the groups have a liar. The
price: a group's mean is seen, so an owner hides among its group and not among all; and a small lie, within the norm, is not found. An owner that
is drawn to show its update to an auditor (record.look) cannot lie at all. All of it is arithmetic of integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.federated import ring
from assay.federated.messages import Terms
from assay.federated.ring import Row

FINER = 8
"""Bits that a group's mean has behind the updates' own."""


class Sum(NamedTuple):
    """What a group's round gave."""

    terms: Terms
    total: Row
    survivors: tuple[int, ...]

    @property
    def weight(self) -> int:
        return sum(self.terms.weights[owner] for owner in self.survivors)


def groups(owners: int, count: int, seed: bytes) -> list[tuple[int, ...]]:
    """Parts 0..owners-1 into `count` groups of sizes that differ by one at most, in an order that `seed` decides. Raises ValueError for groups of
    fewer than three."""
    if count < 1 or owners // count < 3:
        raise ValueError(f"{owners} owners cannot be parted into {count} groups of at least 3")
    mixed = sorted(range(owners), key=lambda i: hashlib.sha256(b"assay/federated/group/1" + seed + i.to_bytes(4, "big")).digest())
    return [tuple(sorted(mixed[g::count])) for g in range(count)]


def too_long(one: Sum) -> bool:
    """Whether a sum is longer than any sum of updates that keep the norm: then somebody lied. Only without noise, and with a norm."""
    return bool(one.terms.norm) and not one.terms.noise and ring.square(one.total) > (one.weight * one.terms.norm) ** 2


def finer_mean(one: Sum) -> NDArray[np.int64]:
    """The group's mean in units of 2^-(fraction + FINER), rounded down. Raises OverflowError when that does not fit 64 bits."""
    if one.terms.limit * sum(one.terms.weights) >= 1 << (63 - FINER):
        raise OverflowError("numbers of these terms are too large for a mean with finer units")
    return (one.total.astype(np.int64) << FINER) // one.weight


def median(means: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Of each number; of an even count the mean of the two in the middle, rounded down."""
    ordered: NDArray[np.int64] = np.sort(np.stack(means), axis=0)
    half = len(means) // 2
    return np.asarray(ordered[half] if len(means) % 2 else (ordered[half - 1] + ordered[half]) // 2, np.int64)


def trimmed(means: Sequence[NDArray[np.int64]], trim: int) -> NDArray[np.int64]:
    """The mean of each number without the `trim` lowest and highest, rounded down. Raises ValueError when nothing would be left."""
    if not 0 <= 2 * trim < len(means):
        raise ValueError(f"of {len(means)} groups not {trim} can be left out on both sides")
    kept: NDArray[np.int64] = np.sort(np.stack(means), axis=0)[trim : len(means) - trim]
    return np.asarray(kept.sum(axis=0) // (len(means) - 2 * trim), np.int64)


def real(mean: NDArray[np.int64], terms: Terms) -> NDArray[np.float64]:
    """A finer mean as numbers, exact below 2^53."""
    return mean.astype(np.float64) * 2.0 ** -(terms.fraction + FINER)
