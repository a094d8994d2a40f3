"""Fetching a blob from several gateways at once, trusting none of them.

A blob is walked from its root, and its leaves come over streams (assay.adapters.ipfs_bulk). What is not had so, because it is little, or no
gateway has streams, or none of them the block, is asked for with a request for each: up to PARALLEL of them at a time, each of the gateway
that has been answering fastest. One that has not answered within `patience` gets company: the same block is asked of another, and the first
good answer wins (IPFS users complain most of fetches that stall). Every block is checked against its CID before anything else looks at
it. Blocks go to the store as they come and are not fetched twice, so a fetch that failed goes on where it was. What a tree can make us
read is bounded: its root tells the blob's size, which must be within the caller's limit, and the layout follows from the size (assay.cid).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeVar

import aiohttp

from assay import cid as cids
from assay.adapters.ipfs_bulk import Bulk
from assay.adapters.ipfs_intake import Intake
from assay.adapters.ipfs_packs import Extent
from assay.adapters.ipfs_sources import MAX_GATEWAYS, Failed, Gateway, Lacks, Lied, Sources
from assay.cid import Place
from assay.ids import Cid
from assay.ports import Outage

T = TypeVar("T")

RAW_BLOCK = "application/vnd.ipld.raw"
PARALLEL = 8
STREAMED = 4
"""Leaves from which on streams are worth their start."""
MAX_NODE = 1 << 15
"""Bytes of a dag-pb block with 174 children, rounded up."""


class Blocks(Protocol):
    """Where blocks are kept. Called from threads. `read` gives only blocks that match their CID; `write` raises StorageFull."""

    def read(self, cid: Cid) -> bytes | None: ...

    def open(self, digests: Sequence[bytes]) -> list[Extent | None]:
        """As `read`, for leaves of which only the place is wanted; a store need not check again what it has checked before."""

    def write(self, cid: Cid, data: bytes | memoryview) -> None: ...

    def write_leaves(self, leaves: Iterable[tuple[bytes, bytes | memoryview]]) -> None: ...

    def intake(self, most: int) -> AbstractContextManager[Intake | None]:
        """Room for leaves that the kernel brings; None where it cannot."""

    def among(self, digests: Sequence[bytes]) -> set[bytes]:
        """Those of these leaves that are here."""

    def session(self) -> AbstractContextManager[None]: ...


class Progress(NamedTuple):
    root: Cid
    done: int
    """Bytes of the blob that are here."""
    total: int


class Fetcher:
    """Fetches blobs into `blocks`. One for a node: it keeps connections and remembers how gateways behaved.

    `patience`: seconds until a block is asked of another gateway as well; `timeout`: of one request for one block in all;
    `rounds`: requests for a block that a gateway gets before a fetch gives up on it.
    """

    def __init__(self, blocks: Blocks, *, patience: float = 2.0, timeout: float = 20.0, connect: float = 4.0, rounds: int = 3) -> None:
        self.blocks, self.patience, self.rounds = blocks, patience, rounds
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=connect)
        self._session: aiohttp.ClientSession | None = None
        self._gateways: dict[str, Gateway] = {}
        self._bulk = Bulk(blocks, patience, timeout, connect)

    def gateway(self, url: str) -> Gateway:
        if len(self._gateways) > 4 * MAX_GATEWAYS:  # forget who is in no use, the oldest first
            for old in [g for g in self._gateways.values() if not g.under_way][:MAX_GATEWAYS]:
                del self._gateways[old.url]
        return self._gateways.setdefault(url, Gateway(url))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._bulk.close()

    async def fetch(
        self, root: Cid, limit: int, locate: Callable[[], Sequence[str]], progress: Callable[[Progress], None] | None = None
    ) -> None:
        """Brings the blob into `blocks`. Raises Outage, ValueError (too large, or no blob of ours), StorageFull."""
        sources = Sources(self.gateway, locate, self.rounds)
        with self.blocks.session():
            try:
                await self._fetch(root, limit, sources, progress)
            finally:
                if sources.begun is not None:
                    sources.begun[0].close()

    async def _fetch(self, root: Cid, limit: int, sources: Sources, progress: Callable[[Progress], None] | None) -> None:
        first = await self._root(root, limit, sources)
        if cids.is_raw(root):
            level, total = [], len(first)
        else:
            level = cids.walk(first)
            total = sum(place.size for _, place in level)
        if total > limit:
            raise ValueError(f"blob {root} has {total} bytes, over the limit of {limit}")
        done = 0 if level else total

        def note(more: int) -> None:
            nonlocal done
            done += more
            if progress is not None:
                progress(Progress(root, done, total))

        if level:
            await self._below(level, sources, note)
        else:
            note(0)

    async def _root(self, root: Cid, limit: int, sources: Sources) -> bytes:
        """The root: over a stream where the blob may be worth one, so that its leaves find that open."""
        data = await asyncio.to_thread(self.blocks.read, root)
        if data is None and limit >= STREAMED * cids.CHUNK and not cids.is_raw(root):
            data = await self._bulk.begin(root, MAX_NODE, sources)
            if data is not None:
                await _to_the_end(asyncio.to_thread(self.blocks.write, root, data))
        return data if data is not None else await self._from_anyone(root, cids.CHUNK if cids.is_raw(root) else MAX_NODE, sources)

    async def _below(self, level: list[tuple[Cid, Place]], sources: Sources, note: Callable[[int], None]) -> None:
        """Brings what is below these nodes of one height; the leaves of WIDTH^2 chunks at a time, so that a long list is not held."""
        height = level[0][1].height
        if height > 1:
            for cid, place in level:
                await self._below(cids.walk(await self._block(cid, MAX_NODE, sources), place), sources, note)
            return
        if height:
            level = [child for children in await self._all(level, sources, note) for child in children]
        left = level
        if len(level) >= STREAMED:
            left = await self._bulk.bring(level, sources, note)
        await self._all(left, sources, note)

    async def _all(self, level: Sequence[tuple[Cid, Place]], sources: Sources, note: Callable[[int], None]) -> list[list[tuple[Cid, Place]]]:
        """Visits all of these, PARALLEL at a time; the children of each."""
        found: list[list[tuple[Cid, Place]]] = [[] for _ in level]
        places = iter(enumerate(level))

        async def work() -> None:
            for index, (cid, place) in places:
                found[index], size = await self._visit(cid, place, sources)
                note(size)

        tasks = [asyncio.create_task(work()) for _ in range(min(PARALLEL, len(level)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return found

    async def _visit(self, cid: Cid, place: Place, sources: Sources) -> tuple[list[tuple[Cid, Place]], int]:
        """Gets one block; returns its children, and its bytes when it is a leaf."""
        block = await self._block(cid, MAX_NODE if place.height else place.size, sources)
        if place.height:
            return cids.walk(block, place), 0
        if len(block) != place.size:
            raise cids.BadNode(f"leaf {cid} has {len(block)} bytes where its parent says {place.size}: whoever published the blob made it wrong")
        return [], len(block)

    async def _block(self, cid: Cid, bound: int, sources: Sources) -> bytes:
        """The block, from the store or from whoever has it. Raises Outage."""
        data = await asyncio.to_thread(self.blocks.read, cid)
        return data if data is not None else await self._from_anyone(cid, bound, sources)

    async def _from_anyone(self, cid: Cid, bound: int, sources: Sources) -> bytes:
        tries: dict[str, int] = {}
        asked: dict[asyncio.Task[bytes], tuple[Gateway, float]] = {}
        try:
            while True:
                gateway = sources.pick(tries, {other.url for other, _ in asked.values()})
                if gateway is not None:
                    tries[gateway.url] = tries.get(gateway.url, 0) + 1
                    asked[asyncio.create_task(self._from(gateway, cid, bound))] = (gateway, time.monotonic())
                elif not asked:
                    rest = sources.next_rest(tries)
                    if rest is not None:
                        await asyncio.sleep(rest)
                    elif not sources.refresh():
                        raise Outage(f"nobody gave block {cid} ({sources.troubles()})")
                    continue
                ready, _ = await asyncio.wait(asked, timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
                for task in ready:
                    gateway, started = asked.pop(task)
                    try:
                        return task.result()
                    except Failed as trouble:
                        gateway.failed(started, trouble)
                        if isinstance(trouble, Lacks):
                            sources.lacking.add(gateway.url)
                            tries[gateway.url] = self.rounds
        finally:
            for task, (gateway, started) in asked.items():
                gateway.seconds = max(gateway.seconds, time.monotonic() - started)
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _from(self, gateway: Gateway, cid: Cid, bound: int) -> bytes:
        """Asks one gateway for one block, checks it and stores it. Raises Failed, StorageFull."""
        started = time.monotonic()
        gateway.under_way += 1
        try:
            try:
                data = await self._request(gateway.url, cid, bound)
            except TimeoutError:
                raise Failed(f"did not answer within {self._timeout.total:g} s") from None
            except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a host name that is none
                raise Failed(f"{type(error).__name__}: {error}") from None
            if not await _to_the_end(asyncio.to_thread(self._keep, cid, data)):
                raise Lied(f"answered other bytes than {cid} names")
        finally:
            gateway.under_way -= 1
        gateway.answered(time.monotonic() - started)
        return data

    def _keep(self, cid: Cid, data: bytes) -> bool:
        if not cids.matches(cid, data):
            return False
        self.blocks.write(cid, data)
        return True

    async def _request(self, base: str, cid: Cid, bound: int) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                auto_decompress=False,
                read_bufsize=cids.CHUNK * 2,
                headers={"Accept": RAW_BLOCK, "Accept-Encoding": "identity", "User-Agent": "assay"},
            )
        # no redirects: a gateway must not be able to send us to an address of its choice
        async with self._session.get(f"{base}/ipfs/{cid}?format=raw", allow_redirects=False) as response:
            if response.status in (404, 410):
                raise Lacks("does not have it")
            if response.status != 200:
                raise Failed(f"HTTP {response.status}")
            data = bytearray()
            async for part in response.content.iter_any():
                data += part
                if len(data) > bound:
                    response.close()
                    raise Lied(f"sent over {bound} bytes for {cid}")
            return bytes(data)


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Awaits work in a thread, which goes on when we are cancelled, until it has ended: no write outlives the fetch that it belongs to."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


# ---- blobs over blocks (in threads) --------------------------------------------------------------------------------------


def assemble(blocks: Blocks, root: Cid) -> bytes:
    """The whole blob. Raises KeyError when a block is missing (or was corrupt and dropped), ValueError when it is no blob of ours."""
    with blocks.session():
        if cids.is_raw(root):
            return _have(blocks, root, root)
        parts: list[bytes] = []
        todo: list[tuple[Cid, Place | None]] = [(root, None)]
        while todo:
            cid, place = todo.pop()
            block = _have(blocks, cid, root)
            if place is None or place.height:
                todo += reversed(cids.walk(block, place))
            elif len(block) == place.size:
                parts.append(block)
            else:
                raise cids.BadNode(f"leaf {cid} of blob {root} has {len(block)} bytes where its parent says {place.size}")
        return b"".join(parts)


def _have(blocks: Blocks, cid: Cid, root: Cid) -> bytes:
    block = blocks.read(cid)
    if block is None:
        raise KeyError(f"block {cid} of blob {root} is not in the local store: fetch the blob")
    return block


def complete(blocks: Blocks, root: Cid, present: Callable[[Cid], bool]) -> bool:
    """Whether all blocks of the blob are here. Leaves are only looked for, not read."""
    todo: list[tuple[Cid, Place | None]] = [(root, None)]
    while todo:
        cid, place = todo.pop()
        if cids.is_raw(cid):
            if not present(cid):
                return False
            continue
        block = blocks.read(cid)
        if block is None:
            return False
        try:
            todo += cids.walk(block, place)
        except cids.BadNode:
            return False
    return True
