"""Fetching a blob from several gateways at once, trusting none of them.

A blob is walked from its root; up to PARALLEL blocks are under way at a time, each asked of the gateway that has been answering
fastest. One that has not answered within `patience` gets company: the same block is asked of another, and the first good answer wins
(IPFS users complain most of fetches that stall). Every block is checked against its CID before anything else looks at it; one that
answers other bytes is left alone for minutes, one that fails or is slow for seconds. Blocks go to the store as they come and are not
fetched twice, so a fetch that failed goes on where it was. What a tree can make us read is bounded: its root tells the blob's size,
which must be within the caller's limit, and the layout follows from the size (assay.cid).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

import aiohttp

from assay import cid as cids
from assay.cid import Place
from assay.ids import Cid
from assay.ports import Outage

T = TypeVar("T")

RAW_BLOCK = "application/vnd.ipld.raw"
PARALLEL = 8
MAX_NODE = 1 << 15
"""Bytes of a dag-pb block with 174 children, rounded up."""
MAX_GATEWAYS = 256
MAX_URL = 512
LONGEST_REST, LIAR_REST = 15.0, 300.0
WORTH_WAITING = 4.0
"""Seconds that a fetch waits for a resting gateway when it has no other."""


class Blocks(Protocol):
    """Where blocks are kept. Called from threads. `read` gives only blocks that match their CID; `write` raises StorageFull."""

    def read(self, cid: Cid) -> bytes | None: ...

    def write(self, cid: Cid, data: bytes) -> None: ...

    def session(self) -> AbstractContextManager[None]: ...


class Progress(NamedTuple):
    root: Cid
    done: int
    """Bytes of the blob that are here."""
    total: int


class _Failed(Exception):
    """A gateway did not give the block."""


class _Lacks(_Failed):
    """It says that it does not have it."""


class _Lied(_Failed):
    """It answered something else."""


class Gateway:
    """What is known of a gateway."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.under_way = 0
        self.seconds = 0.0
        """What a block takes, smoothed; 0 before the first."""
        self.failures = 0
        self.lies = 0
        self.rest_until = 0.0
        self.trouble = ""

    @property
    def cost(self) -> float:
        """Expected wait for one more block."""
        return max(self.seconds, 0.001) * (1 + self.under_way)

    def answered(self, seconds: float) -> None:
        self.seconds = seconds if not self.seconds else 0.7 * self.seconds + 0.3 * seconds
        self.failures = 0

    def failed(self, started: float, trouble: _Failed) -> None:
        """Several blocks that fail at the same time count as one failure."""
        self.trouble = str(trouble)
        now = time.monotonic()
        if isinstance(trouble, _Lacks) or (started < self.rest_until and not isinstance(trouble, _Lied)):
            return
        if isinstance(trouble, _Lied):
            self.lies += 1
            rest = LIAR_REST
        else:
            self.failures += 1
            rest = min(LONGEST_REST, 0.2 * 2**self.failures)
        self.rest_until = now + rest


def good_url(url: str) -> str | None:
    """A gateway's base URL without its last slash; None when it is none that we would ask."""
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        return None
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if len(url) > MAX_URL or parts.scheme not in ("http", "https") or not parts.hostname or not port_ok or not plain:
        return None
    return url.rstrip("/")


class _Sources:
    """The gateways of one fetch, in order of preference."""

    def __init__(self, fetcher: Fetcher, locate: Callable[[], Sequence[str]]) -> None:
        self._fetcher, self._locate = fetcher, locate
        self.gateways: list[Gateway] = []
        self.lacking: set[str] = set()
        """URLs of those that have lacked a block: asked last."""
        self.refresh()

    def refresh(self) -> bool:
        """Looks who is known now; whether somebody is new."""
        known = {gateway.url for gateway in self.gateways}
        urls = list(dict.fromkeys(url for raw in self._locate() if (url := good_url(raw))))[:MAX_GATEWAYS]
        fresh = [self._fetcher.gateway(url) for url in urls if url not in known]
        self.gateways += fresh
        return bool(fresh)

    def pick(self, tries: dict[str, int], busy: set[str]) -> Gateway | None:
        """The best gateway to ask now, of those with tries left that are not busy with this very block."""
        now = time.monotonic()
        able = [g for g in self.gateways if g.url not in busy and tries.get(g.url, 0) < self._fetcher.rounds and g.rest_until <= now]
        return min(able, key=lambda g: (g.url in self.lacking, g.cost), default=None)

    def next_rest(self, tries: dict[str, int]) -> float | None:
        """Seconds until a resting gateway may be asked again; None when no such wait is worth it."""
        now = time.monotonic()
        waits = [g.rest_until - now for g in self.gateways if tries.get(g.url, 0) < self._fetcher.rounds]
        return max(0.0, min(waits)) if waits and min(waits) <= WORTH_WAITING else None

    def troubles(self) -> str:
        if not self.gateways:
            return "no gateway is known"
        said = [f"{gateway.url}: {gateway.trouble or 'not asked'}" for gateway in self.gateways[:6]]
        return "; ".join(said) + (f"; and {len(self.gateways) - 6} more" if len(self.gateways) > 6 else "")


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

    def gateway(self, url: str) -> Gateway:
        if len(self._gateways) > 4 * MAX_GATEWAYS:  # forget who is in no use, the oldest first
            for old in [g for g in self._gateways.values() if not g.under_way][:MAX_GATEWAYS]:
                del self._gateways[old.url]
        return self._gateways.setdefault(url, Gateway(url))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch(
        self, root: Cid, limit: int, locate: Callable[[], Sequence[str]], progress: Callable[[Progress], None] | None = None
    ) -> None:
        """Brings the blob into `blocks`. Raises Outage, ValueError (too large, or no blob of ours), StorageFull."""
        sources = _Sources(self, locate)
        with self.blocks.session():
            first = await self._block(root, cids.CHUNK if cids.is_raw(root) else MAX_NODE, sources)
            if cids.is_raw(root):
                todo, total, done = [], len(first), len(first)
            else:
                todo = cids.walk(first)
                total, done = sum(place.size for _, place in todo), 0
            if total > limit:
                raise ValueError(f"blob {root} has {total} bytes, over the limit of {limit}")
            todo.reverse()
            running: set[asyncio.Task[tuple[list[tuple[Cid, Place]], int]]] = set()
            try:
                while todo or running:
                    while todo and len(running) < PARALLEL:
                        running.add(asyncio.create_task(self._visit(*todo.pop(), sources)))
                    ready, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in ready:
                        children, size = task.result()
                        todo += reversed(children)
                        done += size
                    if progress is not None:
                        progress(Progress(root, done, total))
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def _visit(self, cid: Cid, place: Place, sources: _Sources) -> tuple[list[tuple[Cid, Place]], int]:
        """Gets one block; returns its children, and its bytes when it is a leaf."""
        block = await self._block(cid, MAX_NODE if place.height else place.size, sources)
        if place.height:
            return cids.walk(block, place), 0
        if len(block) != place.size:
            raise cids.BadNode(f"leaf {cid} has {len(block)} bytes where its parent says {place.size}: whoever published the blob made it wrong")
        return [], len(block)

    async def _block(self, cid: Cid, bound: int, sources: _Sources) -> bytes:
        """The block, from the store or from whoever has it. Raises Outage."""
        data = await asyncio.to_thread(self.blocks.read, cid)
        return data if data is not None else await self._from_anyone(cid, bound, sources)

    async def _from_anyone(self, cid: Cid, bound: int, sources: _Sources) -> bytes:
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
                    except _Failed as trouble:
                        gateway.failed(started, trouble)
                        if isinstance(trouble, _Lacks):
                            sources.lacking.add(gateway.url)
                            tries[gateway.url] = self.rounds
        finally:
            for task, (gateway, started) in asked.items():
                gateway.seconds = max(gateway.seconds, time.monotonic() - started)
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _from(self, gateway: Gateway, cid: Cid, bound: int) -> bytes:
        """Asks one gateway for one block, checks it and stores it. Raises _Failed, StorageFull."""
        started = time.monotonic()
        gateway.under_way += 1
        try:
            try:
                data = await self._request(gateway.url, cid, bound)
            except TimeoutError:
                raise _Failed(f"did not answer within {self._timeout.total:g} s") from None
            except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a host name that is none
                raise _Failed(f"{type(error).__name__}: {error}") from None
            if not await _to_the_end(asyncio.to_thread(self._keep, cid, data)):
                raise _Lied(f"answered other bytes than {cid} names")
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
                raise _Lacks("does not have it")
            if response.status != 200:
                raise _Failed(f"HTTP {response.status}")
            data = bytearray()
            async for part in response.content.iter_any():
                data += part
                if len(data) > bound:
                    response.close()
                    raise _Lied(f"sent over {bound} bytes for {cid}")
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
