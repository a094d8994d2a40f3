"""Blobs in an external daemon: what it holds is checked, what it lacks is fetched from gateways or from its own network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from kubo_rpc import KuboRpc

from assay import cid as cids
from assay.adapters.ipfs import LocalBlobs
from assay.adapters.ipfs_gateway import BlockGateway
from assay.adapters.ipfs_kubo import KuboBlobs, multiaddr_of
from assay.ports import Outage, StorageFull

BLOB = bytes(range(256)) * 3000
Body = Callable[[KuboRpc, KuboBlobs], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Body], None]:
    def whole(body: Body) -> None:
        async def inside() -> None:
            async with AsyncExitStack() as stack:
                rpc = KuboRpc(tmp_path / "kubo", quota=8 << 20)
                url = await rpc.start()
                stack.push_async_callback(rpc.stop)
                kubo = KuboBlobs(url, tmp_path / "pins-of-node", timeout=5, patience=5)
                stack.push_async_callback(kubo.close)
                await asyncio.wait_for(body(rpc, kubo), 240)

        asyncio.run(inside())

    return whole


def test_a_daemon_gone_wrong_is_found_out(run: Callable[[Body], None]) -> None:
    async def body(rpc: KuboRpc, kubo: KuboBlobs) -> None:
        cid = await kubo.put(BLOB)
        assert await kubo.get(cid) == BLOB
        rpc.corrupt = lambda data: data[:-1] + b"?"
        with pytest.raises(KeyError, match="not in the local store"):
            await kubo.get(cid)

    run(body)


def test_a_daemon_with_other_import_settings_is_found_out(run: Callable[[Body], None]) -> None:
    async def body(rpc: KuboRpc, kubo: KuboBlobs) -> None:
        rpc.chunk = 1000
        with pytest.raises(Outage, match="set its import settings to the defaults"):
            await kubo.put(BLOB)

    run(body)


def test_what_no_gateway_has_may_come_over_the_daemons_network(run: Callable[[Body], None]) -> None:
    async def body(rpc: KuboRpc, kubo: KuboBlobs) -> None:
        rpc.swarm = {block.cid: block.data for block in cids.blocks(BLOB)}
        cid = cids.of(BLOB)
        assert not await kubo.has(cid)
        with pytest.raises(ValueError, match="over the limit"):
            await kubo.fetch(cid, len(BLOB) - 1)
        await kubo.fetch(cid, len(BLOB))
        assert await kubo.get(cid) == BLOB
        assert cid in rpc.store.pins()
        await kubo.unpin(cid)
        await kubo.unpin(cid)
        assert cid not in rpc.store.pins()

    run(body)


def test_what_a_gateway_gives_is_put_into_the_daemon(run: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(rpc: KuboRpc, kubo: KuboBlobs) -> None:
        source = LocalBlobs(tmp_path / "source", lambda near: [])
        gateway = BlockGateway(source.store)
        url = await gateway.start()
        kubo._locate = lambda near: [url]
        cid = await source.put(BLOB)
        await kubo.fetch(cid, len(BLOB))
        await gateway.stop()
        assert await kubo.get(cid) == BLOB
        assert {block.cid for block in cids.blocks(BLOB)} <= rpc.store.stored().keys()
        # and the other way: a daemon's blocks, over the same gateway protocol
        served = BlockGateway(kubo.blocks)
        url = await served.start()
        other = LocalBlobs(tmp_path / "other", lambda near: [url])
        await other.fetch(cid, len(BLOB))
        assert await other.get(cid) == BLOB
        await other.close()
        await served.stop()

    run(body)


def test_nobody_has_it(run: Callable[[Body], None]) -> None:
    async def body(rpc: KuboRpc, kubo: KuboBlobs) -> None:
        with pytest.raises(Outage, match=r"no gateway is known\); the IPFS daemon at http://.* did not find"):
            await kubo.fetch(cids.of(b"absent"), 100)

    run(body)


def test_a_full_daemon_is_said(run: Callable[[Body], None]) -> None:
    async def body(rpc: KuboRpc, kubo: KuboBlobs) -> None:
        with pytest.raises(StorageFull, match=r"the disk of the IPFS daemon at .* is full"):
            await kubo.put(random.Random(1).randbytes(9 << 20))

    run(body)


def test_a_daemon_that_is_not_there_is_said(run: Callable[[Body], None]) -> None:
    async def body(rpc: KuboRpc, kubo: KuboBlobs) -> None:
        await rpc.stop()
        for wanted in (kubo.put(BLOB), kubo.get(cids.of(BLOB)), kubo.has(cids.of(BLOB)), kubo.fetch(cids.of(BLOB), len(BLOB))):
            with pytest.raises(Outage, match=r"does not answer .*: is `ipfs daemon` running there"):
                await wanted

    run(body)


def test_addresses() -> None:
    assert multiaddr_of("http://127.0.0.1:5001") == "/ip4/127.0.0.1/tcp/5001/http"
    assert multiaddr_of("https://ipfs.example.org/") == "/dns/ipfs.example.org/tcp/443/https"
    assert multiaddr_of("http://[::1]:5001") == "/ip6/::1/tcp/5001/http"
    assert multiaddr_of("/ip4/127.0.0.1/tcp/5001") == "/ip4/127.0.0.1/tcp/5001"
    for bad in ("", "127.0.0.1:5001", "ftp://x", "http://x:port", "http://x/path"):
        with pytest.raises(ValueError, match="is not the RPC of an IPFS daemon"):
            multiaddr_of(bad)
