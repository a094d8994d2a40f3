"""Blobs in memory: the nodes of a simulation fetch from one another by their peer ids, with the checks of the real store."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from assay import cid as cids
from assay.ids import Cid, PeerId
from assay.ports import Outage, StorageFull


class BlobNet:
    """All nodes of a simulated network; those in `down` do not answer."""

    def __init__(self) -> None:
        self.nodes: dict[PeerId, MemoryBlobs] = {}
        self.down: set[PeerId] = set()


class MemoryBlobs:
    """assay.ports.Blobs of the node `peer`, at most `quota` bytes of them.

    A liar is a subclass that overrides `serve`. What the node put is pinned; what it fetched goes, oldest first, when room is needed.
    """

    def __init__(self, net: BlobNet, peer: PeerId, quota: int | None = None) -> None:
        self._net, self.peer, self._quota = net, peer, quota
        self._blobs: dict[Cid, bytes] = {}
        self._pins: dict[Cid, int | None] = {}
        net.nodes[peer] = self

    def serve(self, cid: Cid) -> bytes | None:
        """What this node answers to others."""
        return self._blobs.get(cid)

    async def put(self, data: bytes) -> Cid:
        cid = cids.of(data)
        self._keep(cid, data)
        self._pins[cid] = None
        return cid

    async def has(self, cid: Cid) -> bool:
        return cid in self._blobs

    async def get(self, cid: Cid) -> bytes:
        if cid not in self._blobs:
            raise KeyError(f"blob {cid} is not in the local store: fetch it")
        return self._blobs[cid]

    async def fetch(self, cid: Cid, limit: int, near: Sequence[PeerId] = ()) -> None:
        cids.parse(cid)
        troubles = []
        data = self._blobs.get(cid)
        asked = {self.peer}
        for peer in itertools.chain(near, self._net.nodes):
            if data is not None:
                break
            if peer in asked or peer not in self._net.nodes:
                continue
            asked.add(peer)
            answer = None if peer in self._net.down else self._net.nodes[peer].serve(cid)
            if answer is None:
                troubles.append(f"{peer}: does not have it")
            elif cids.of(answer) != cid:
                troubles.append(f"{peer}: answered other bytes than {cid} names")
            else:
                data = answer
        if data is None:
            raise Outage(f"nobody gave blob {cid} ({'; '.join(troubles[:6]) or 'no gateway is known'})")
        if len(data) > limit:
            raise ValueError(f"blob {cid} has {len(data)} bytes, over the limit of {limit}")
        self._keep(cid, data)

    async def pin(self, cid: Cid, until: int | None = None) -> None:
        held = self._pins.get(cid, 0)
        self._pins[cid] = None if until is None or held is None else max(held, until)

    async def unpin(self, cid: Cid) -> None:
        self._pins.pop(cid, None)

    async def lapse(self, now: int) -> list[Cid]:
        over = [cid for cid, until in self._pins.items() if until is not None and until <= now]
        for cid in over:
            del self._pins[cid]
        return over

    def _keep(self, cid: Cid, data: bytes) -> None:
        self._blobs.pop(cid, None)
        if self._quota is not None:
            for old in [old for old in self._blobs if old not in self._pins]:
                if sum(map(len, self._blobs.values())) + len(data) <= self._quota:
                    break
                del self._blobs[old]
            if sum(map(len, self._blobs.values())) + len(data) > self._quota:
                raise StorageFull(f"the store in memory may hold {self._quota} bytes, and what it holds is pinned")
        self._blobs[cid] = data
