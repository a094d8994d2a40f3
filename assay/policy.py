"""How closely a job is checked: how many links a segment has drawn, how many verifiers replay each, how many of them must agree.

Every drawn verifier of a round replays all of the round's links (docs/protocol.md), so a policy's work is `links x verifiers`. No links
in the terms means every link: nothing is left to chance then, and the segment must be short enough for it (assay.draw.MOST_UNITS).
What each costs and what it cannot see: assay.economics, docs/economics.md.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from assay.chain import Params
from assay.draw import MOST_LINKS, MOST_UNITS

MOST_VERIFIERS = 16
EVERY = "every-step"


class Policy(NamedTuple):
    links: int
    """Drawn in a round; 0: all of the segment."""
    verifiers: int
    quorum: int
    says: str


POLICIES = {
    "spot": Policy(2, 4, 3, "a few links drawn at random: cheating loses money; one wrong link of many is seldom seen"),
    "k-of-n": Policy(8, 7, 5, "more links and a larger committee: for dear segments, and where verifiers may collude"),
    EVERY: Policy(0, 4, 3, "every link is replayed: one wrong link is found, whoever pays for it to be there"),
}


def params_for(name: str, params: Params, links: int | None = None, verifiers: int | None = None, quorum: int | None = None) -> Params:
    """`params` with the policy's links, committee and quorum, or those named instead. A committee that is named without a quorum has the
    policy's share of agreement, and a majority at least. Raises ValueError for what the contract would refuse."""
    if name not in POLICIES:
        raise ValueError(f"there is no policy {name}; there are {', '.join(POLICIES)}")
    policy = POLICIES[name]
    if name == EVERY and links is not None:
        raise ValueError(f"{EVERY} draws every link, so a number of links says nothing")
    n = policy.verifiers if verifiers is None else verifiers
    if quorum is None:
        quorum = max(n // 2 + 1, -(-n * policy.quorum // policy.verifiers))
    k = policy.links if links is None else links
    if name != EVERY and not 1 <= k <= MOST_LINKS:
        raise ValueError(f"{k} links cannot be drawn in a round: from 1 to {MOST_LINKS}, or --policy {EVERY} for all")
    if k * (1 + params.redraws) > MOST_UNITS:
        raise ValueError(f"{k} links in each of {1 + params.redraws} rounds are more than {MOST_UNITS}")
    if not 1 <= n <= MOST_VERIFIERS:
        raise ValueError(f"a committee has 1 to {MOST_VERIFIERS} verifiers, not {n}")
    if not n // 2 < quorum <= n:
        raise ValueError(f"{quorum} of {n} verifiers is no quorum: it must be more than half of them, and no more than all")
    return msgspec.structs.replace(params, links=k, verifiers=n, quorum=quorum)


def longest_segment(params: Params, micro_batches: int) -> int | None:
    """Steps that a segment may have under these terms; None when there is no such bound. Raises ValueError when one step is too much."""
    if params.links:
        return None
    steps = MOST_UNITS // (micro_batches + 1)
    if steps == 0:
        raise ValueError(f"a step of {micro_batches} micro-batches has {micro_batches + 1} links; every link can be drawn of {MOST_UNITS} at most")
    return steps


def named(params: Params) -> str:
    """In words: what is drawn and who checks it."""
    links = f"{params.links} links" if params.links else "every link"
    return f"{links} of a segment, replayed by {params.verifiers} verifiers each, of whom {params.quorum} must agree"
