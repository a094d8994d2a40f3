"""Leaves of a blob over streams from several gateways at once (assay.adapters.ipfs_reader, a thread each).

Streams take their work from one list (`Pull`), so a gateway gets as much of it as it is fast; a block that a gateway has sat on for `patience`
seconds is asked of another as well, and the first good answer wins. What no stream brought is left to the plain way
(assay.adapters.ipfs_fetch), which also knows what to say when nobody has a block.

A blob's root comes over the first of its streams, which then goes on with its leaves: to ask for it by itself takes as long as a raw copy of some
megabytes.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from assay import cid as cids
from assay.adapters.ipfs_pull import Pull
from assay.adapters.ipfs_reader import MAX_LACKS, NoStreams, Store, Stream
from assay.adapters.ipfs_sources import Failed, Gateway, Lacks, Lied, Sources
from assay.adapters.ipfs_stream import Leaf
from assay.cid import Place
from assay.ids import Cid
from assay.ports import StorageFull

log = logging.getLogger("assay.blobs")

T = TypeVar("T")

AT_ONCE, PER_GATEWAY = 6, 4
"""Streams of one fetch, and those of them to one gateway, at most."""
WORTH = 64
"""Leaves that make another stream to the same gateway worth its thread and its start."""
MAX_THREADS = 32
NOTE_EVERY = 0.2
ASK_AGAIN = 60.0
"""Seconds after which a gateway that had no stream for us is asked for one again."""


class Bulk:
    """The streams of one node's fetches into `store`."""

    def __init__(self, store: Store, patience: float, timeout: float, connect: float) -> None:
        self._store, self._patience, self._timeout, self._connect = store, patience, timeout, connect
        self._threads: ThreadPoolExecutor | None = None

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None

    async def begin(self, root: Cid, most: int, sources: Sources) -> bytes | None:
        """The root of a tree, of at most `most` bytes, from the gateway that comes first; its stream is kept in `sources` for the leaves. None where
        that one has no stream or not the root, or takes longer than `patience`: then the root is asked for in the plain way."""
        for gateway in self._choose(sources, [], Counter(), 1)[:1]:
            started, stream = time.monotonic(), Stream(gateway.url, self._store, self._timeout, self._connect)
            future = self._start(functools.partial(stream.node, root, most))
            try:
                await asyncio.wait({future}, timeout=self._patience)
            except asyncio.CancelledError:
                _give_up(stream, future)
                raise
            if not future.done():
                _give_up(stream, future)
                gateway.seconds = max(gateway.seconds, time.monotonic() - started)
            elif future.exception() is None:
                sources.begun = (stream, gateway)
                return future.result()
            else:
                if isinstance(future.exception(), Lacks):
                    sources.lacking.add(gateway.url)
                self._account(stream, gateway, started, future, Counter(), sources)
        return None

    async def bring(self, leaves: Sequence[tuple[Cid, Place]], sources: Sources, note: Callable[[int], None]) -> list[tuple[Cid, Place]]:
        """Brings what it can over streams; returns what is left. `note` hears how many bytes have come. Raises what the store raises,
        and BadNode when a leaf is not what the tree says."""
        pull = Pull((_leaf(cid, place) for cid, place in leaves), self._patience)
        running: dict[asyncio.Future[None], tuple[Stream, Gateway, float]] = {}
        starts: Counter[str] = Counter()
        told, each = 0, max(1, min(PER_GATEWAY, len(leaves) // WORTH))
        if sources.begun is not None:
            (stream, gateway), sources.begun = sources.begun, None
            starts[gateway.url] += 1
            running[self._start(functools.partial(stream.run, pull))] = (stream, gateway, time.monotonic())
        try:
            while not pull.over:
                now = time.monotonic()
                for gateway in self._choose(sources, [gateway.url for _, gateway, _ in running.values()], starts, each):
                    starts[gateway.url] += 1
                    stream = Stream(gateway.url, self._store, self._timeout, self._connect)
                    running[self._start(functools.partial(stream.run, pull))] = (stream, gateway, now)
                if not running:
                    break
                ready, _ = await asyncio.wait(running, timeout=NOTE_EVERY, return_when=asyncio.FIRST_COMPLETED)
                for future in ready:
                    self._account(*running.pop(future), future, starts, sources)
                note(pull.brought - told)
                told = pull.brought
        finally:
            pull.end()
            for stream, _, _ in running.values():
                stream.cut()
            await _ended(running)
        for future, (_, gateway, started) in running.items():
            if isinstance(error := future.exception(), Lied):
                gateway.failed(started, error)
        note(pull.brought - told)
        return [(cid, place) for cid, place in leaves if _leaf(cid, place) in pull.missing]

    def _start(self, work: Callable[[], T]) -> asyncio.Future[T]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(MAX_THREADS, "bulk")
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _choose(self, sources: Sources, busy: list[str], starts: Counter[str], each: int) -> list[Gateway]:
        """Whom to open a stream to now: the best few, some of them twice, none more often than `each`."""
        now = time.monotonic()
        able = [
            g for g in sources.gateways
            if g.url.startswith("http://") and g.rest_until <= now and g.no_streams_until <= now and starts[g.url] < PER_GATEWAY * sources.rounds
        ]  # fmt: skip
        able.sort(key=lambda g: (g.url in sources.lacking, g.seconds))
        chosen = [g for turn in range(each) for g in able[:AT_ONCE] if busy.count(g.url) <= turn and not (g.narrow and turn)]
        return chosen[: AT_ONCE - len(busy)]

    def _account(
        self, stream: Stream, gateway: Gateway, started: float, future: asyncio.Future[Any], starts: Counter[str], sources: Sources
    ) -> None:
        """What a stream that has ended says of its gateway. Raises what was nobody's fault but the store's or the publisher's."""
        if stream.blocks:
            gateway.answered(stream.seconds / stream.blocks)
        if stream.blocks > MAX_LACKS:
            starts[gateway.url] -= 1  # it was worth its start: a relay cuts off whoever has had enough of it, and what is left comes over another
        match future.exception():
            case None:
                starts[gateway.url] = PER_GATEWAY * sources.rounds  # it has nothing more for us
            case NoStreams() as error:
                gateway.no_streams_until = time.monotonic() + ASK_AGAIN
                log.debug("%s: %s", gateway.url, error)
            case Failed() as error:
                gateway.failed(started, error)
            case OSError() as error if not isinstance(error, StorageFull):
                gateway.failed(started, Failed(f"{type(error).__name__}: {error}"))
            case error:
                raise error


def _give_up(stream: Stream, future: asyncio.Future[bytes]) -> None:
    """Of a root that is not waited for: nothing waits for the thread either, which stores nothing."""

    def over(done: asyncio.Future[bytes]) -> None:
        stream.close()
        if not done.cancelled():
            done.exception()  # nobody asks for it

    stream.cut()
    future.add_done_callback(over)


def _leaf(cid: Cid, place: Place) -> Leaf:
    return Leaf(cids.parse(cid)[1], place.size)


async def _ended(running: Iterable[asyncio.Future[None]]) -> None:
    """Waits for threads, also when it is cancelled meanwhile: no write outlives the fetch that it belongs to."""
    waiting = asyncio.gather(*running, return_exceptions=True)
    try:
        await asyncio.shield(waiting)
    except asyncio.CancelledError:
        await waiting
        raise
