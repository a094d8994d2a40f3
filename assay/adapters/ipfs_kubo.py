"""Blobs in an external IPFS daemon (Kubo, or what speaks its RPC), reached by URL with ipfshttpclient.

The daemon is asked for blocks only, so each is checked against its CID here, and a blob that it holds is laid out as ours or refused.
`put` uses the daemon's own importer with the settings of assay.cid and compares the name that it gives. A fetch asks the gateways of
Assay's nodes first, and puts what they give into the daemon; then the daemon's own network, with a time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from assay import cid as cids
from assay.adapters.ipfs import Locate
from assay.adapters.ipfs_fetch import MAX_NODE, Fetcher, assemble, complete
from assay.adapters.ipfs_packs import Extent
from assay.adapters.ipfs_pins import Pins
from assay.ids import Cid, PeerId
from assay.ports import Outage, StorageFull


def multiaddr_of(url: str) -> str:
    """The multiaddr that ipfshttpclient wants, of an RPC's URL (`http://127.0.0.1:5001`) or multiaddr. Raises ValueError."""
    if url.startswith("/"):
        return url
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        port = 0
    host = parts.hostname or ""
    if not host or not port or parts.path not in ("", "/") or parts.query or parts.username:
        raise ValueError(f"{url!r} is not the RPC of an IPFS daemon: expected something like http://127.0.0.1:5001")
    kind = "ip6" if ":" in host else "ip4" if host.replace(".", "").isdigit() else "dns"
    return f"/{kind}/{host}/tcp/{port}/{parts.scheme}"


class KuboBlocks:
    """The daemon's local blocks (assay.adapters.ipfs_fetch.Blocks). Raises Outage when the daemon does not answer, StorageFull."""

    def __init__(self, url: str, timeout: float) -> None:
        import ipfshttpclient

        self.url = url
        self._errors = ipfshttpclient.exceptions
        self._timeout = timeout
        self._client = ipfshttpclient.Client(multiaddr_of(url), offline=True, timeout=timeout, session=True)
        self._mutex = threading.Lock()
        self._online = ipfshttpclient.Client(multiaddr_of(url), timeout=timeout)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Any]:
        with self._mutex, self._explained():
            yield self._client

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._errors.ErrorResponse as error:
            if "no space left" in str(error):
                raise StorageFull(f"the disk of the IPFS daemon at {self.url} is full: free some space there") from None
            raise
        except self._errors.CommunicationError as error:
            raise Outage(f"the IPFS daemon at {self.url} does not answer ({type(error).__name__}): is `ipfs daemon` running there?") from None

    def read(self, cid: Cid) -> bytes | None:
        cids.parse(cid)
        try:
            with self._asking() as client:
                data = bytes(client.block.get(cid))
        except self._errors.ErrorResponse:  # not there, or unreadable
            return None
        return data if cids.matches(cid, data) else None

    def open(self, digests: Sequence[bytes]) -> list[Extent | None]:
        found = [self.read(cids.of_digest(cids.RAW, digest)) for digest in digests]
        return [None if data is None else Extent(io.BytesIO(data), 0, len(data)) for data in found]

    def among(self, digests: Sequence[bytes]) -> set[bytes]:
        return {digest for digest in digests if self.present(cids.of_digest(cids.RAW, digest))}

    def present(self, cid: Cid) -> bool:
        try:
            with self._asking() as client:
                client.block.stat(cid)
        except self._errors.ErrorResponse:
            return False
        return True

    def write(self, cid: Cid, data: bytes | memoryview) -> None:
        codec = "raw" if cids.is_raw(cid) else "dag-pb"
        with self._asking() as client:
            named = client.block.put(io.BytesIO(data), opts={"cid-codec": codec, "mhtype": "sha2-256"})["Key"]
        if named != cid:
            raise Outage(f"the IPFS daemon at {self.url} stored {cid} as {named}: Kubo 0.12 or later is needed")

    def write_leaves(self, leaves: Iterable[tuple[bytes, bytes | memoryview]]) -> None:
        for digest, data in leaves:
            self.write(cids.of_digest(cids.RAW, digest), data)

    def intake(self, most: int) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        yield

    def add(self, data: bytes) -> Cid:
        """Imports and pins a blob."""
        with self._asking() as client:
            added = client.add(io.BytesIO(data), cid_version=1, raw_leaves=True, chunker=f"size-{cids.CHUNK}", pin=True)
        return Cid(str(added["Hash"]))

    def pin(self, cid: Cid) -> None:
        with self._asking() as client:
            client.pin.add(cid)

    def unpin(self, cid: Cid) -> None:
        with contextlib.suppress(self._errors.ErrorResponse), self._asking() as client:
            client.pin.rm(cid)

    def bring(self, root: Cid, limit: int, patience: float) -> None:
        """Has the daemon fetch a blob over its own network and pin it. Raises Outage, ValueError, StorageFull."""
        try:
            with self._explained():
                first = bytes(self._online.block.get(root, timeout=patience))
                if not cids.matches(root, first) or (len(first) > MAX_NODE and not cids.is_raw(root)):
                    raise Outage(f"the IPFS daemon at {self.url} answered other bytes than {root} names")
                size = len(first) if cids.is_raw(root) else sum(place.size for _, place in cids.walk(first))
                if size > limit:
                    raise ValueError(f"blob {root} has {size} bytes, over the limit of {limit}")
                self._online.pin.add(root, timeout=patience)
        except self._errors.ErrorResponse as error:
            raise Outage(f"the IPFS daemon at {self.url} did not find {root}: {error}") from None

    def close(self) -> None:
        self._client.close()


class KuboBlobs:
    """assay.ports.Blobs in the daemon whose RPC is at `url`. `folder` keeps until when blobs are pinned.

    `timeout`: seconds for one request to the daemon; `patience`: seconds that its own network gets for a blob that no gateway gave.
    """

    def __init__(self, url: str, folder: Path, locate: Locate = lambda near: (), *, timeout: float = 60.0, patience: float = 120.0) -> None:
        self.blocks = KuboBlocks(url, timeout)
        self._pins = Pins(folder / "pins")
        self._locate, self._patience = locate, patience
        self._fetcher = Fetcher(self.blocks)

    async def close(self) -> None:
        await self._fetcher.close()
        await asyncio.to_thread(self.blocks.close)

    async def put(self, data: bytes) -> Cid:
        expected = await asyncio.to_thread(cids.of, data)
        named = await asyncio.to_thread(self.blocks.add, data)
        if named != expected:
            raise Outage(f"the IPFS daemon at {self.blocks.url} named a blob {named} that is {expected}: set its import settings to the defaults")
        return named

    async def has(self, cid: Cid) -> bool:
        return await asyncio.to_thread(complete, self.blocks, cid, self.blocks.present)

    async def get(self, cid: Cid) -> bytes:
        return await asyncio.to_thread(assemble, self.blocks, cid)

    async def fetch(self, cid: Cid, limit: int, near: Sequence[PeerId] = ()) -> None:
        try:
            await self._fetcher.fetch(cid, limit, lambda: self._locate(near))
        except Outage as error:
            try:
                await asyncio.to_thread(self.blocks.bring, cid, limit, self._patience)
            except Outage as other:
                raise Outage(f"{error}; {other}") from None
        else:
            await asyncio.to_thread(self.blocks.pin, cid)

    async def pin(self, cid: Cid, until: int | None = None) -> None:
        await asyncio.to_thread(self.blocks.pin, cid)
        await asyncio.to_thread(self._pins.add, cid, until)

    async def unpin(self, cid: Cid) -> None:
        await asyncio.to_thread(self._pins.remove, cid)
        await asyncio.to_thread(self.blocks.unpin, cid)

    async def lapse(self, now: int) -> list[Cid]:
        over = await asyncio.to_thread(self._pins.lapse, now)
        for cid in over:
            await asyncio.to_thread(self.blocks.unpin, cid)
        return over
