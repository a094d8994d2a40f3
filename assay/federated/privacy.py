"""Differential privacy of what the sums say about one owner: the distributed discrete Gaussian mechanism (Kairouz, Liu, Steinke, ICML 2021).

Each owner shortens its update to the norm and adds discrete Gaussian noise (Canonne, Kamath, Steinke, NeurIPS 2020) before its masks; the noises
add up in the sum that the coordinator sees. The sampler and the account are OpenDP's (https://docs.opendp.org); what is ours is the theorem on a
sum of n discrete Gaussians, which is not quite one: with variance s^2 each, norm c and d numbers it is (1/2)e^2-concentrated private with

    e = min( sqrt(c^2 / (n s^2) + t d / 2),  c / (sqrt(n) s) + t sqrt(d) ),    t = 10 * sum over k = 1..n-1 of exp(-2 pi^2 s^2 k / (k + 1))

for adding or leaving out one owner. n counts the noises that an adversary does not know: those of the fewest survivors,
less the owners that collude with the coordinator. Numbers are clamped before the noise comes, and nothing
after it but the modulus, which is the same before and after a sum. It protects an owner as a whole, not one patient among
its records: for that noise belongs into the owner's own training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.federated.messages import Terms


def _opendp() -> Any:
    try:
        import opendp.prelude as dp
    except ImportError:
        raise RuntimeError("noise and its account need OpenDP: pip install 'assay[privacy]'") from None
    dp.enable_features("contrib")
    return dp


def _gaussian(dp: Any, scale: float) -> Any:
    return dp.m.make_gaussian(dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64"), scale=scale)


def noise(terms: Terms) -> NDArray[np.int64]:
    """One owner's noise for a round, from the system's randomness. Raises RuntimeError without OpenDP."""
    return np.array(_gaussian(_opendp(), float(terms.noise))([0] * terms.length), np.int64)


def rho(terms: Terms, colluding: int = 0) -> float:
    """Zero-concentrated privacy loss of one round. Raises ValueError for terms without noise or norm."""
    unknown = terms.minimum - colluding
    if not terms.noise or not terms.norm or unknown < 1:
        raise ValueError("there is no privacy to account for without a norm, noise, and owners whose noise is not known")
    variance = float(terms.noise) ** 2
    t = 10 * sum(math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, unknown))
    first = math.sqrt(terms.norm**2 / (unknown * variance) + t * terms.length / 2)
    second = terms.norm / math.sqrt(unknown * variance) + t * math.sqrt(terms.length)
    return 0.5 * min(first, second) ** 2


def epsilon(rounds: Sequence[float], delta: float) -> float:
    """What several rounds' losses (rho) come to at `delta`, by OpenDP's conversion. Raises RuntimeError without OpenDP."""
    dp = _opendp()
    one = dp.c.make_zCDP_to_approxDP(_gaussian(dp, 1.0))
    return float(one.map(math.sqrt(2 * math.fsum(rounds))).epsilon(delta))
