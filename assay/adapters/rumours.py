"""Gossip as a flood: an announcement that is news is passed on over every link but the one it came by, and one that is not ends there.

Each is signed by its author for one chain and contract, so whoever passes it on cannot change it, and carries the time at which it
was made: what is older than `AGE` is no news any more, so that what was seen needs to be remembered for no longer than that. A
newcomer is told what is recent. What one author, or one neighbour, may say is bounded; what is over the bound is dropped and not
passed on (a neighbour is not to blame for what others say).

Why not GossipSub: py-libp2p's (0.8.1) was measured here in the same place. Ten nodes: 8 to 11 ms of processor time a message and
node, where this costs 4.5. Fourteen processes on two busy cores, a burst of 50: 580 and 603 of 650 arrived, half of them after more
than 4 and 12 s; of this, 650, and half within 1.2 s (bench/peers.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay.adapters.peerbook import peer_id, public_key
from assay.codec import Malformed, decode, encode
from assay.ids import Address, Digest, PeerId
from assay.merkle import sha256
from assay.messages import AnyGossip, SignedGossip

MAX_GOSSIP = 4096
"""Bytes of one signed announcement."""
AGE = 120_000
"""Milliseconds; also how far clocks may differ."""
RECENT = 64
"""Announcements that a newcomer is told."""
MAX_SEEN = 1 << 16
AUTHOR_BURST, AUTHOR_RATE = 256.0, 5.0
SOURCE_BURST, SOURCE_RATE = 1024.0, 50.0
"""Announcements at once, and a second."""

_SIGNED = b"assay-gossip/1\x00"


class News(NamedTuple):
    author: PeerId
    message: AnyGossip


class Allowance:
    """Token buckets by name, of which the ones that are full are forgotten."""

    def __init__(self, burst: float, rate: float) -> None:
        self.burst, self.rate = burst, rate
        self._left: dict[Hashable, tuple[float, float]] = {}

    def take(self, name: Hashable, now: float, count: int = 1) -> bool:
        """Whether `name` may have `count` more at the time `now` (seconds)."""
        if len(self._left) > 4096:
            self._left = {n: (left, at) for n, (left, at) in self._left.items() if left + (now - at) * self.rate < self.burst}
        left, at = self._left.get(name, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.rate) - count
        if left < 0:
            return False
        self._left[name] = (left, now)
        return True


class Rumours:
    """What this node has heard and said lately. Not safe for several threads."""

    def __init__(self, seed: bytes, chain_id: int, contract: Address, now_ms: Callable[[], int]) -> None:
        self.own = peer_id(seed)
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._network = (chain_id, contract)
        self._now = now_ms
        self._seen: OrderedDict[Digest, int] = OrderedDict()
        self._recent: OrderedDict[Digest, tuple[int, bytes]] = OrderedDict()
        self._authors = Allowance(AUTHOR_BURST, AUTHOR_RATE)
        self._sources = Allowance(SOURCE_BURST, SOURCE_RATE)
        self._last = 0

    def say(self, message: AnyGossip) -> bytes:
        """Signs an announcement of this node; the bytes to pass on."""
        self._last = max(self._last + 1, self._now())  # the same words twice are two announcements
        signature = self._key.sign(self._to_sign(self.own, self._last, message))
        body = encode(SignedGossip(author=self.own, made_at=self._last, message=message, signature=signature))
        self._remember(sha256(body), self._last, body)
        return body

    def hear(self, body: bytes, source: Hashable) -> News | None:
        """The announcement, if it is news and is to be passed on. Raises Malformed when it is not what it must be."""
        name, now = sha256(body), self._now()
        if name in self._seen:
            return None
        if not self._sources.take(source, now / 1000):
            return None
        signed = decode(body, SignedGossip, limit=MAX_GOSSIP)
        if abs(signed.made_at - now) > AGE:
            return None
        try:
            public_key(signed.author).verify(signed.signature, self._to_sign(signed.author, signed.made_at, signed.message))
        except (ValueError, InvalidSignature):
            raise Malformed(f"an announcement that {signed.author[:64]} did not sign for this network") from None
        if signed.author == self.own or not self._authors.take(signed.author, now / 1000):
            return None
        self._remember(name, signed.made_at, body)
        return News(signed.author, signed.message)

    def recent(self) -> list[bytes]:
        """What a newcomer should hear."""
        oldest = self._now() - AGE
        return [body for made_at, body in self._recent.values() if made_at > oldest]

    def _to_sign(self, author: PeerId, made_at: int, message: AnyGossip) -> bytes:
        return _SIGNED + encode([*self._network, author, made_at, message])

    def _remember(self, name: Digest, made_at: int, body: bytes) -> None:
        oldest = self._now() - 2 * AGE
        while self._seen and (next(iter(self._seen.values())) < oldest or len(self._seen) >= MAX_SEEN):
            self._seen.popitem(last=False)
        self._seen[name] = made_at
        self._recent[name] = (made_at, body)
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)
