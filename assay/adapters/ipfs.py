"""Blobs of a node: its own block store, filled from and served to other nodes' gateways.

`put` pins: what a node publishes stays until `unpin`. What it fetches may be evicted when the quota is reached, and is then fetched
again. All work on files and hashes is done in threads, so that the daemon's loop stays free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from assay import cid as cids
from assay.adapters.ipfs_fetch import Fetcher, Progress, assemble, complete
from assay.adapters.ipfs_store import BlockStore
from assay.ids import Cid, PeerId

Locate = Callable[[Sequence[PeerId]], Sequence[str]]
"""Base URLs of gateways, best first: those of the peers named, then all others that are known."""

AT_ONCE = 4
"""Blobs that are fetched at a time."""


class LocalBlobs:
    """assay.ports.Blobs over a block store in `folder` of at most `quota` bytes (None: as much as the disk takes).

    `locate` says which gateways to ask. `progress` hears of every block that a fetch brings. The store is to be served with
    assay.adapters.ipfs_gateway.BlockGateway(blobs.store, ...).
    """

    def __init__(
        self,
        folder: Path,
        locate: Locate,
        *,
        quota: int | None = None,
        progress: Callable[[Progress], None] | None = None,
        patience: float = 2.0,
        timeout: float = 20.0,
    ) -> None:
        self.store = BlockStore(folder, quota)
        self._locate, self._progress = locate, progress
        self._fetcher = Fetcher(self.store, patience=patience, timeout=timeout)
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._fetching: dict[Cid, asyncio.Lock] = {}

    async def close(self) -> None:
        await self._fetcher.close()

    async def put(self, data: bytes) -> Cid:
        """Stores and pins. Raises StorageFull; what is then left of the blob may be evicted."""
        return await asyncio.to_thread(self._put, data)

    def _put(self, data: bytes) -> Cid:
        with self.store.session():
            written = []
            for block in cids.blocks(data):
                self.store.write(block.cid, block.data)
                written.append(block.cid)
            self.store.flush(dict.fromkeys(written))
            self.store.pin(written[-1])
        return written[-1]

    async def has(self, cid: Cid) -> bool:
        return await asyncio.to_thread(complete, self.store, cid, lambda leaf: self.store.size(leaf) is not None)

    async def get(self, cid: Cid) -> bytes:
        return await asyncio.to_thread(assemble, self.store, cid)

    async def fetch(self, cid: Cid, limit: int, near: Sequence[PeerId] = ()) -> None:
        lock = self._fetching.setdefault(cid, asyncio.Lock())
        try:
            async with lock, self._turn:  # asked for twice, it is fetched once
                await self._fetcher.fetch(cid, limit, lambda: self._locate(near), self._progress)
        finally:
            if not lock.locked():
                self._fetching.pop(cid, None)

    async def pin(self, cid: Cid, until: int | None = None) -> None:
        await asyncio.to_thread(self.store.pin, cid, until)

    async def unpin(self, cid: Cid) -> None:
        await asyncio.to_thread(self.store.unpin, cid)

    async def lapse(self, now: int) -> list[Cid]:
        return await asyncio.to_thread(self.store.lapse, now)
