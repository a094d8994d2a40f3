"""Finding providers by what they have, without having heard of them: who is listed where, and how the place is found.

A provider is listed under a key for each size of memory that it has at least (powers of two) at the HOLDERS nodes nearest to the key;
who looks for one computes the key from what is wanted and asks the same nodes. Near is by the XOR of SHA-256 hashes, and the way there is
asked for step by step, from the nearest that is known to those it knows (Maymounkov and Mazières, "Kademlia", IPTPS 2002). A node remembers
those nearest to itself whatever else it forgets (`NEAR`), so the way ends. What a holder tells are records signed by the providers themselves,
with their sequence; one that has not been renewed for LISTED is gone.

Ids cost nothing to make, so an attacker can have ids nearer to a key than anybody's. What bounds that:
- of the nodes nearest to a key one of each network of the internet counts, by the address at which it is reached
  (assay.adapters.peer_standing.network_of): to have all holders takes addresses in as many networks;
- whoever looks also asks STRANGERS nodes that are not near, which answer from all that they know;
- a holder lists who asks itself, no more than LISTED_PER_NETWORK from one network, by the address from which it asks, and tells no more than
  TOLD at a time, drawn network by network: a swarm behind a few addresses is a few draws.
None of this makes a listing true: what a provider has proven is on the chain (assay.proving), and that it does the work is checked by others.

Pure: time, randomness and the wire are arguments. The library's own provider records are not used: the first 20 under a key keep all others
out for two days, unsigned, and who has found one asks no further.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Iterable, Sequence

from assay.adapters.peer_standing import Candidate, choose, host_of, network_of
from assay.adapters.peerbook import AHEAD, Peerbook, verify
from assay.codec import Malformed
from assay.ids import Address, Digest, PeerId
from assay.messages import Found, Means, PeerRecord, Seek, SignedRecord

HOLDERS, STRANGERS = 8, 4
AT_ONCE, MAX_ASKED = 4, 40
NEAR = 32
TOLD = 16
MAX_LISTED, LISTED_PER_NETWORK = 4096, 64
LISTED = 30 * 60 * 1000
"""Milliseconds."""
LEAST, MOST = 28, 42
"""Sizes of memory that have keys: 2^LEAST (256 MiB) to 2^MOST bytes."""


def fits(has: Means | None, wanted: Means) -> bool:
    """Whether a node with these means will do."""
    return has is not None and has.gpu >= wanted.gpu and has.memory >= wanted.memory and has.bits >= wanted.bits


def _size(memory: int) -> int:
    return min(max(memory.bit_length() - 1, LEAST), MOST)


def _key(chain_id: int, contract: Address, gpu: bool, size: int) -> Digest:
    return Digest(hashlib.sha256(f"assay-means/1 {chain_id} {contract.lower()} {'gpu' if gpu else 'cpu'} {size}".encode()).digest())


def key_to_ask(chain_id: int, contract: Address, wanted: Means) -> Digest:
    """Under which whoever fits is listed: that of the largest size that is not over what is wanted."""
    return _key(chain_id, contract, wanted.gpu, _size(wanted.memory))


def keys_to_list(record: PeerRecord) -> list[Digest]:
    """All under which somebody may look for this node. One with a GPU is found by who wants none, too."""
    if record.means is None:
        return []
    kinds = (False, True) if record.means.gpu else (False,)
    return [_key(record.chain_id, record.contract, gpu, size) for gpu in kinds for size in range(LEAST, _size(record.means.memory) + 1)]


def place(peer: PeerId) -> Digest:
    """Where a node stands among the keys."""
    return Digest(hashlib.sha256(peer.encode()).digest())


@functools.lru_cache(maxsize=1 << 14)
def _number(peer: PeerId) -> int:
    return int.from_bytes(place(peer))


def network(record: PeerRecord) -> str | None:
    return network_of(next(map(host_of, record.addresses), ""))


def nearest(records: Iterable[SignedRecord], key: Digest, count: int) -> list[SignedRecord]:
    """The `count` nearest to the key, nearest first, of each network of the internet one."""
    here = int.from_bytes(key)
    taken: set[str] = set()
    chosen: list[SignedRecord] = []
    for signed in sorted(records, key=lambda signed: _number(signed.record.peer) ^ here):
        where = network(signed.record)
        if where is None or where not in taken:
            chosen.append(signed)
        if where is not None:
            taken.add(where)
        if len(chosen) == count:
            break
    return chosen


class Board:
    """What a node tells those who look for others: its listings, and whom it knows. Not safe for several threads."""

    def __init__(self, book: Peerbook, now_ms: Callable[[], int]) -> None:
        self._book, self._now = book, now_ms
        self._listed: dict[PeerId, tuple[SignedRecord, str]] = {}
        """With the host from which each was listed."""
        self._near: dict[PeerId, SignedRecord] = {}

    def enlist(self, signed: SignedRecord, peer: PeerId, host: str) -> bool:
        """Lists `peer`, which asks from the address `host`; False when there is no room for it. Raises Malformed."""
        record = signed.record
        if record.peer != peer or record.means is None:
            raise Malformed("who is to be listed asks itself, and says what it has")
        if (record.chain_id, record.contract) != (self._book.chain_id, self._book.contract):
            raise Malformed("it is a node of another network")
        now = self._now()
        if not now - LISTED < record.sequence <= now + AHEAD:
            raise Malformed("a record that is old, or from the future")
        known = self._listed.get(peer)
        if known is not None and known[0].record.sequence >= record.sequence:
            return True
        verify(signed)
        self._expire(now)
        where = network_of(host)
        if known is None:
            fellows = [other for other, (_, from_host) in self._listed.items() if where is not None and network_of(from_host) == where]
            if len(fellows) >= LISTED_PER_NETWORK:
                return False
            if len(self._listed) >= MAX_LISTED:
                del self._listed[min(self._listed, key=lambda other: self._listed[other][0].record.sequence)]
        self._listed[peer] = (signed, host)
        return True

    def know(self, signed: SignedRecord) -> None:
        """Remembers who is near. `signed` has been verified."""
        record = signed.record
        known = self._near.get(record.peer)
        if record.peer == self._book.own or (known is not None and known.record.sequence >= record.sequence):
            return
        self._near[record.peer] = signed
        if len(self._near) > NEAR:
            here = place(self._book.own)
            kept = nearest(self._near.values(), here, NEAR)
            self._near = {signed.record.peer: signed for signed in kept}

    def answer(self, seek: Seek, rng: random.Random) -> Found:
        """From all that is listed and known here."""
        known = {signed.record.peer: signed for signed in [*self._near.values(), *self._book.signed()]}
        records: tuple[SignedRecord, ...] = ()
        if seek.means is not None:
            self._expire(self._now())
            oldest = self._now() - LISTED
            listed = {peer: (signed, host) for peer, (signed, host) in self._listed.items() if fits(signed.record.means, seek.means)}
            for peer, signed in known.items():
                if peer not in listed and signed.record.sequence > oldest and fits(signed.record.means, seek.means):
                    listed[peer] = (signed, next(map(host_of, signed.record.addresses), ""))
            candidates = [Candidate(peer, host, self._book.is_proven(peer)) for peer, (_, host) in listed.items()]
            records = tuple(listed[peer][0] for peer in choose(candidates, (), TOLD, rng))
        return Found(records=records, nearer=tuple(nearest(known.values(), seek.key, HOLDERS)))

    def _expire(self, now: int) -> None:
        self._listed = {peer: one for peer, one in self._listed.items() if one[0].record.sequence > now - LISTED}


class Search:
    """The way to the nodes nearest to a key: ask whom `next` names, tell `answered` or `failed`, until `over`.

    `good(signed)`: whether a record that somebody told is signed by its peer and of this network. `strangers`: asked in any case.
    """

    def __init__(
        self, seek: Seek, known: Sequence[SignedRecord], strangers: Sequence[SignedRecord], good: Callable[[SignedRecord], bool], now_ms: int
    ) -> None:
        self.seek = seek
        self.found: dict[PeerId, SignedRecord] = {}
        self._good, self._now = good, now_ms
        self._known = {signed.record.peer: signed for signed in [*known, *strangers]}
        self._strangers = [signed.record.peer for signed in strangers]
        self._asked: set[PeerId] = set()
        self._under_way: set[PeerId] = set()
        self._lost: set[PeerId] = set()
        """Did not answer, or answered what is not so."""

    @property
    def over(self) -> bool:
        return not self._under_way and not self._due()

    def holders(self) -> list[SignedRecord]:
        """The nearest that are known and were not lost."""
        return nearest((signed for peer, signed in self._known.items() if peer not in self._lost), self.seek.key, HOLDERS)

    def next(self) -> list[SignedRecord]:
        """Whom to ask now, beside those that are being asked."""
        chosen = self._due()[: AT_ONCE - len(self._under_way)]
        self._under_way |= set(chosen)
        self._asked |= set(chosen)
        return [self._known[peer] for peer in chosen]

    def answered(self, peer: PeerId, found: Found) -> None:
        """Takes what is good of an answer; who tells what is not so is not believed at all."""
        self._under_way.discard(peer)
        told = [*found.records[:TOLD], *found.nearer[:HOLDERS]]
        if not all(self._good(signed) for signed in told) or len(found.records) > TOLD or len(found.nearer) > HOLDERS:
            self._lost.add(peer)
            return
        for signed in found.nearer[:HOLDERS]:
            self._newer(self._known, signed)
        for signed in found.records[:TOLD]:
            fresh = self._now - LISTED < signed.record.sequence <= self._now + AHEAD
            if fresh and self.seek.means is not None and fits(signed.record.means, self.seek.means):
                self._newer(self.found, signed)

    def failed(self, peer: PeerId) -> None:
        self._under_way.discard(peer)
        self._lost.add(peer)

    def _newer(self, into: dict[PeerId, SignedRecord], signed: SignedRecord) -> None:
        known = into.get(signed.record.peer)
        if known is None or known.record.sequence < signed.record.sequence:
            into[signed.record.peer] = signed

    def _due(self) -> list[PeerId]:
        if len(self._asked) >= MAX_ASKED:
            return []
        wanted = [*(signed.record.peer for signed in self.holders()), *self._strangers]
        return [peer for peer in dict.fromkeys(wanted) if peer not in self._asked]
