"""One suite over every store of blobs: what is put can be had by others, checked, bounded, and with a clear word when it cannot."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from kubo_rpc import KuboRpc

from assay import cid as cids
from assay.adapters.ipfs import LocalBlobs
from assay.adapters.ipfs_gateway import BlockGateway
from assay.adapters.ipfs_kubo import KuboBlobs
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.ids import Cid, PeerId
from assay.ports import Blobs, Outage

SIZES = [0, 1, cids.CHUNK, cids.CHUNK + 1, 5 * cids.CHUNK + 3, cids.WIDTH * cids.CHUNK + 1]
ALICE, BOB, CAROL = PeerId("alice"), PeerId("bob"), PeerId("carol")


def data(size: int, seed: int = 0) -> bytes:
    return random.Random(size * 1000 + seed).randbytes(size)


@asynccontextmanager
async def local_nodes(folder: Path) -> AsyncIterator[dict[PeerId, Blobs]]:
    urls: dict[PeerId, str] = {}
    async with AsyncExitStack() as stack:
        nodes: dict[PeerId, Blobs] = {}
        for peer in (ALICE, BOB, CAROL):

            def locate(near: Sequence[PeerId], me: PeerId = peer) -> list[str]:
                return [urls[other] for other in dict.fromkeys([*near, *urls]) if other != me and other in urls]

            blobs = LocalBlobs(folder / peer, locate)
            gateway = BlockGateway(blobs.store)
            urls[peer] = await gateway.start()
            stack.push_async_callback(gateway.stop)
            stack.push_async_callback(blobs.close)
            nodes[peer] = blobs
        yield nodes


@asynccontextmanager
async def memory_nodes(folder: Path) -> AsyncIterator[dict[PeerId, Blobs]]:
    net = BlobNet()
    yield {peer: MemoryBlobs(net, peer) for peer in (ALICE, BOB, CAROL)}


@asynccontextmanager
async def kubo_nodes(folder: Path) -> AsyncIterator[dict[PeerId, Blobs]]:
    """Each node has a daemon (see kubo_rpc.py for what that shows), and serves its blocks to the others."""
    urls: dict[PeerId, str] = {}
    async with AsyncExitStack() as stack:
        nodes: dict[PeerId, Blobs] = {}
        for peer in (ALICE, BOB, CAROL):
            rpc = KuboRpc(folder / peer)
            api = await rpc.start()
            stack.push_async_callback(rpc.stop)
            others = lambda near, me=peer: [url for other, url in urls.items() if other != me]  # noqa: E731
            blobs = KuboBlobs(api, folder / f"{peer}-pins", others, timeout=10, patience=5)  # type: ignore[misc]
            gateway = BlockGateway(blobs.blocks)
            urls[peer] = await gateway.start()
            stack.push_async_callback(gateway.stop)
            stack.push_async_callback(blobs.close)
            nodes[peer] = blobs
        yield nodes


Check = Callable[[dict[PeerId, Blobs]], Awaitable[None]]


@pytest.fixture(params=[local_nodes, memory_nodes, kubo_nodes], ids=["local", "memory", "kubo"])
def check(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Check], None]:
    """Runs a coroutine over three nodes of one network."""

    def run(body: Check) -> None:
        async def whole() -> None:
            async with request.param(tmp_path) as nodes:
                await asyncio.wait_for(body(nodes), 240)

        asyncio.run(whole())

    return run


@pytest.mark.parametrize("size", SIZES)
def test_what_one_puts_another_fetches(check: Callable[[Check], None], size: int) -> None:
    async def body(nodes: dict[PeerId, Blobs]) -> None:
        alice, bob = nodes[ALICE], nodes[BOB]
        cid = await alice.put(data(size))
        assert cid == cids.of(data(size))
        assert await alice.has(cid)
        assert await alice.get(cid) == data(size)
        assert not await bob.has(cid)
        with pytest.raises(KeyError, match="not in the local store: fetch"):
            await bob.get(cid)
        await bob.fetch(cid, limit=size)
        assert await bob.has(cid)
        assert await bob.get(cid) == data(size)

    check(body)


def test_a_fetched_blob_is_passed_on(check: Callable[[Check], None]) -> None:
    async def body(nodes: dict[PeerId, Blobs]) -> None:
        cid = await nodes[ALICE].put(data(700_000))
        await nodes[BOB].fetch(cid, 1 << 20, near=[ALICE])
        await nodes[CAROL].fetch(cid, 1 << 20, near=[BOB])
        assert await nodes[CAROL].get(cid) == data(700_000)

    check(body)


def test_what_nobody_has_is_an_outage(check: Callable[[Check], None]) -> None:
    async def body(nodes: dict[PeerId, Blobs]) -> None:
        for size in (10, 700_000):
            cid = cids.of(data(size))
            with pytest.raises(Outage, match=f"nobody gave bl[a-z]+ {cid}"):
                await nodes[BOB].fetch(cid, 1 << 20)
            assert not await nodes[BOB].has(cid)

    check(body)


def test_what_is_too_large_is_refused(check: Callable[[Check], None]) -> None:
    async def body(nodes: dict[PeerId, Blobs]) -> None:
        for size in (10, 700_000):
            cid = await nodes[ALICE].put(data(size))
            with pytest.raises(ValueError, match=f"has {size} bytes, over the limit of {size - 1}"):
                await nodes[BOB].fetch(cid, size - 1)
            assert not await nodes[BOB].has(cid) or size == 10

    check(body)


def test_putting_and_fetching_twice_is_harmless(check: Callable[[Check], None]) -> None:
    async def body(nodes: dict[PeerId, Blobs]) -> None:
        assert await nodes[ALICE].put(data(700_000)) == await nodes[ALICE].put(data(700_000))
        cid = cids.of(data(700_000))
        await asyncio.gather(*(nodes[BOB].fetch(cid, 1 << 20) for _ in range(3)))
        await nodes[BOB].fetch(cid, 1 << 20)
        assert await nodes[BOB].get(cid) == data(700_000)

    check(body)


def test_what_is_let_go_is_served_as_long_as_it_is_there(check: Callable[[Check], None]) -> None:
    async def body(nodes: dict[PeerId, Blobs]) -> None:
        cid = await nodes[ALICE].put(data(700_000))
        for _ in range(2):  # twice is harmless
            await nodes[ALICE].unpin(cid)
        await nodes[BOB].fetch(cid, 1 << 20)
        assert await nodes[BOB].get(cid) == data(700_000)

    check(body)


def test_what_is_no_cid_is_refused(check: Callable[[Check], None]) -> None:
    async def body(nodes: dict[PeerId, Blobs]) -> None:
        for text in ("", "../../etc/passwd", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"):
            with pytest.raises(ValueError, match="is not a CID"):
                await nodes[BOB].fetch(Cid(text), 1 << 20)

    check(body)


def test_many_equal_chunks(check: Callable[[Check], None]) -> None:
    async def body(nodes: dict[PeerId, Blobs]) -> None:
        zeros = bytes(40 * cids.CHUNK)
        cid = await nodes[ALICE].put(zeros)
        await nodes[BOB].fetch(cid, len(zeros))
        assert await nodes[BOB].get(cid) == zeros

    check(body)


def test_a_pin_lasts_until_its_time_and_the_longest_counts(check: Callable[[Check], None]) -> None:
    async def body(nodes: dict[PeerId, Blobs]) -> None:
        bob = nodes[BOB]
        short, long, forever = [await nodes[ALICE].put(data(100, seed)) for seed in range(3)]
        for cid in (short, long, forever):
            await bob.fetch(cid, 100)
        await bob.pin(short, 1000)
        await bob.pin(long, 1000)
        await bob.pin(long, 2000)
        await bob.pin(long, 500)  # shortens nothing
        await bob.pin(forever)
        await bob.pin(forever, 1000)
        assert await bob.lapse(999) == []
        assert await bob.lapse(1000) == [short]
        assert await bob.lapse(1999) == []
        assert await bob.lapse(2000) == [long]
        assert await bob.lapse(1 << 60) == []
        await bob.unpin(forever)
        await bob.pin(forever, 5)
        assert await bob.lapse(5) == [forever]
        await bob.unpin(forever)  # of what is not pinned: nothing

    check(body)
