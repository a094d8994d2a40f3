"""How peers have behaved, how many links from where are taken, and whom to call: what bounds floods, swarms and eclipses.

Ids cost nothing to make, addresses in many networks do. So what one network of the internet (an IPv4 /16, an IPv6 /32) may hold is bounded,
and whom this node calls is drawn network by network, not peer by peer: a swarm of ids behind a few addresses is a few draws. Addresses of
one's own machine or site belong to no network here; nobody outside has them.

An eclipse is a node all of whose links are an attacker's. Links that others have opened never stand for those that a node opens itself
(`wanted`), at least half of which go to peers that answered at their own address before, while there are such: to be one of these takes
being reachable, not just to have called. (Heilman et al., "Eclipse Attacks on Bitcoin's Peer-to-Peer Network", USENIX Security 2015,
countermeasures 2, 4 and 6.)

A peer whose link ended by its fault is not taken back for a while, twice as long each time; nor, after a few of these, is its address.
"""

from __future__ import annotations

import functools
import ipaddress
import random
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from assay.ids import PeerId

NEIGHBOURS, OWN = 6, 4
"""Links that a node wants, and how many of them it must have opened itself."""
MAX_LINKS, LINKS_PER_PEER = 512, 3
OPENED_BY_OTHERS = 448
"""The rest of MAX_LINKS is for those that this node opens."""
LINKS_PER_NETWORK = 32
"""Opened by others, of one network."""
FIRST_BAR, LONGEST_BAR = 30.0, 3600.0
HOST_FAULTS = 4
"""Faults at one address before all that comes from it is barred with it."""
FORGIVEN = 6 * 3600.0
"""Seconds without a fault after which the earlier ones do not count."""
MAX_REMEMBERED = 4096
RECORDS, REQUESTS = (1024.0, 50.0), (1024.0, 100.0)
"""At once and a second: what one peer may make a node verify (about 0.1 ms each), and ask; what is over that is refused, to be asked again later."""


@functools.lru_cache(maxsize=1 << 13)
def network_of(host: str) -> str | None:
    """The network that an IP address counts for; None for one's own machine and site, and for what is no IP address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not address.is_global:
        return None
    return str(ipaddress.ip_network((address, 16 if address.version == 4 else 32), strict=False))


def host_of(multiaddr: str) -> str:
    """The IP address in `/ip4/…` or `/ip6/…`; empty when it begins otherwise."""
    parts = multiaddr.split("/")
    return parts[2] if len(parts) > 2 and parts[1] in ("ip4", "ip6") else ""


class Candidate(NamedTuple):
    peer: PeerId
    host: str
    """Of its first address."""
    proven: bool
    """It has answered there before."""


def candidate(peer: PeerId, addresses: Iterable[str], proven: bool) -> Candidate:
    return Candidate(peer, next(map(host_of, addresses), ""), proven)


def wanted(opened: int, links: int) -> int:
    """How many links a node should open now, of which it has opened `opened` of its `links` itself."""
    return max(OWN - opened, NEIGHBOURS - links, 0)


def choose(candidates: Sequence[Candidate], linked: Iterable[str], count: int, rng: random.Random) -> list[PeerId]:
    """Whom to call, `count` at most: proven ones and others by turns, each drawn from the networks that the hosts in `linked` and those
    chosen before are least of."""
    taken = Counter(network_of(host) for host in linked)
    left: dict[bool, dict[str | None, list[PeerId]]] = {True: {}, False: {}}
    for one in candidates:
        left[one.proven].setdefault(network_of(one.host), []).append(one.peer)
    chosen: list[PeerId] = []
    while len(chosen) < count and (left[True] or left[False]):
        proven = len(chosen) % 2 == 0
        kind = left[proven] or left[not proven]
        fewest = min(0 if network is None else taken[network] for network in kind)
        network = rng.choice(sorted((n for n in kind if n is None or taken[n] == fewest), key=str))
        taken[network] += 1
        peers = kind[network]
        chosen.append(peers.pop(rng.randrange(len(peers))))
        if not peers:
            del kind[network]
    return chosen


class Standing:
    """What is remembered of peers and addresses. Times in seconds. Not safe for several threads."""

    def __init__(self) -> None:
        self._faults: dict[Hashable, tuple[int, float]] = {}
        """By peer and by host: how many, and when the last was."""

    def fault(self, peer: PeerId, host: str, now: float) -> None:
        """A link with this peer ended by its fault."""
        for name in (peer, ("host", host)):
            count, last = self._faults.pop(name, (0, now))
            self._faults[name] = (count + 1 if now - last < FORGIVEN else 1, now)
        while len(self._faults) > MAX_REMEMBERED:
            del self._faults[next(iter(self._faults))]

    def barred(self, peer: PeerId, host: str, now: float) -> bool:
        """Whether nothing is to be had to do with it now."""
        return now < self._until(peer, 1) or (network_of(host) is not None and now < self._until(("host", host), HOST_FAULTS))

    def _until(self, name: Hashable, first: int) -> float:
        count, last = self._faults.get(name, (0, 0.0))
        return last + min(LONGEST_BAR, FIRST_BAR * 2.0 ** min(count - first, 20)) if count >= first else 0.0


def refusal(links: Sequence[tuple[PeerId, str, bool]], peer: PeerId, host: str) -> str:
    """Why a link that a peer opens is not taken, beside these (peer, host, opened by this node); empty when it is."""
    others = [(who, where) for who, where, ours in links if not ours]
    network = network_of(host)
    if len(others) >= OPENED_BY_OTHERS:
        return f"{len(others)} links are open"
    if sum(who == peer for who, _, _ in links) >= LINKS_PER_PEER:
        return f"it has {LINKS_PER_PEER} links"
    if network is not None and sum(network_of(where) == network for _, where in others) >= LINKS_PER_NETWORK:
        return f"{LINKS_PER_NETWORK} links come from {network}"
    return ""
