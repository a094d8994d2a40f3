"""Gateways that lie, stall, flood, vanish or fail: a fetch gets its blob from the others, and says who did what when it cannot."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest
from aiohttp import web
from blob_servers import Changing, Counting, Dripping, Failing, Flooding, Vanishing

from assay import cid as cids
from assay.adapters import ipfs_gateway, ipfs_sources
from assay.adapters.ipfs import LocalBlobs
from assay.adapters.ipfs_fetch import Progress
from assay.adapters.ipfs_gateway import BlockGateway
from assay.adapters.ipfs_sources import good_url
from assay.ids import Cid
from assay.ports import Outage

DATA = random.Random(5).randbytes(12 * cids.CHUNK + 77)
BLOCKS = {block.cid: block.data for block in cids.blocks(DATA)}
ROOT = cids.of(DATA)

G = TypeVar("G", bound=BlockGateway)


class Net:
    """One node that has the blob, gateways over its store, and another node that wants it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.urls: list[str] = []
        self.source = LocalBlobs(folder / "source", lambda near: [])
        self.heard: list[Progress] = []
        self.wanting = LocalBlobs(folder / "wanting", lambda near: self.urls, progress=self.heard.append, patience=0.05, timeout=1.0)
        stack.push_async_callback(self.wanting.close)

    @property
    def store(self) -> ipfs_gateway.Blocks:
        return self.source.store

    async def serve(self, gateway: G) -> G:
        self.urls.append(await gateway.start())
        self._stack.push_async_callback(gateway.stop)
        return gateway

    async def fetch(self, limit: int = len(DATA)) -> None:
        await self.wanting.fetch(ROOT, limit)
        assert await self.wanting.get(ROOT) == DATA


Body = Callable[[Net], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Body], None]:
    monkeypatch.setattr(ipfs_sources, "LONGEST_REST", 0.02)

    def whole(body: Body) -> None:
        async def inside() -> None:
            async with AsyncExitStack() as stack:
                net = Net(tmp_path, stack)
                assert await net.source.put(DATA) == ROOT
                await asyncio.wait_for(body(net), 240)

        asyncio.run(inside())

    return whole


# ---- whom to believe -----------------------------------------------------------------------------------------------------


def flip(block: bytes) -> bytes:
    return block[:-1] + bytes([block[-1] ^ 1])


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "flip": flip, "cut": lambda block: block[:-1], "add": lambda block: block + b"\0", "none": lambda block: b"",
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_liar_is_found_out_and_left_alone(run: Callable[[Body], None], change: Callable[[bytes], bytes]) -> None:
    async def body(net: Net) -> None:
        liar = await net.serve(Changing(net.store, change))
        with pytest.raises(Outage, match=f"{liar.url}: (answered other bytes than|sent over)"):
            await net.fetch()
        assert net.wanting.store.used == 0  # nothing of it was kept
        lies = len(liar.asked)
        await net.serve(Counting(net.store))
        await net.fetch()
        assert len(liar.asked) == lies  # and it was not asked again

    run(body)


def test_a_liar_among_honest_ones_only_costs_time(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        liar = await net.serve(Changing(net.store, flip))
        await net.serve(Counting(net.store))
        await net.fetch()
        assert len(liar.asked) <= 8  # what was under way when it was found out

    run(body)


def test_a_flood_is_cut_off(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        flood = await net.serve(Flooding(net.store))
        with pytest.raises(Outage, match=f"{flood.url}: sent over {1 << 15} bytes"):
            await net.fetch()
        await net.serve(Counting(net.store))
        await net.fetch()

    run(body)


def test_a_dripping_gateway_does_not_hold_up_a_fetch(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        slow = await net.serve(Dripping(net.store))
        await net.serve(Counting(net.store))
        await net.fetch()
        slow.hold.set()

    run(body)


def test_a_dripping_gateway_alone_is_given_up_on(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        net.wanting = LocalBlobs(net.wanting.store.folder, lambda near: net.urls, patience=0.01, timeout=0.1)
        slow = await net.serve(Dripping(net.store))
        with pytest.raises(Outage, match=f"{slow.url}: did not answer within 0.1 s"):
            await net.fetch()
        slow.hold.set()
        assert len(slow.asked) == 3
        await net.wanting.close()

    run(body)


def test_a_gateway_that_vanishes_is_replaced_and_nothing_is_fetched_twice(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        vanishing = await net.serve(Vanishing(net.store, after=5))
        with pytest.raises(Outage, match=f"nobody gave block .*{vanishing.url}: "):
            await net.fetch()
        had = set(vanishing.asked)
        assert len(had) == 5
        honest = await net.serve(Counting(net.store))
        await net.fetch()
        assert not had & set(honest.asked)
        assert sorted({*had, *honest.asked}) == sorted(BLOCKS)
        assert len(honest.asked) == len(BLOCKS) - 5

    run(body)


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
def test_errors_are_waited_out_with_another(run: Callable[[Body], None], status: int) -> None:
    async def body(net: Net) -> None:
        bad = await net.serve(Failing(net.store, status))
        with pytest.raises(Outage, match=f"{bad.url}: {'does not have it' if status == 404 else f'HTTP {status}'}"):
            await net.fetch()
        assert len(bad.asked) == (1 if status == 404 else 3)
        await net.serve(Counting(net.store))
        await net.fetch()

    run(body)


def test_a_redirect_is_not_followed(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        inner = await net.serve(Counting(net.store))
        net.urls.clear()
        await net.serve(Failing(net.store, 302, inner.url))
        with pytest.raises(Outage, match="HTTP 302"):
            await net.fetch()
        assert not inner.asked

    run(body)


def test_addresses_where_nobody_listens_and_that_are_none(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        gone = await net.serve(Counting(net.store))
        await gone.stop()
        net.urls += ["", "ftp://127.0.0.1/", "http://", "http://a b/", "http://[::1", "http://127.0.0.1:99999", "http://..", "http://u:p@127.0.0.1"]
        with pytest.raises(Outage, match=f"{gone.url}: ClientConnectorError"):
            await net.fetch()
        await net.serve(Counting(net.store))
        await net.fetch()

    run(body)


def test_new_gateways_are_looked_for_before_giving_up(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        honest = await net.serve(Counting(net.store))
        looked: list[int] = []

        def locate(near: object) -> list[str]:
            looked.append(1)
            return [honest.url] if len(looked) > 1 else []

        late = LocalBlobs(net.wanting.store.folder, locate)
        await late.fetch(ROOT, len(DATA))
        await late.close()
        assert len(looked) == 2

    run(body)


def test_good_urls() -> None:
    assert good_url("http://127.0.0.1:4801/") == "http://127.0.0.1:4801"
    assert good_url("https://example.org/gw") == "https://example.org/gw"
    for bad in ("file:///etc/passwd", "http://x?y", "http://x#y", "http://" + "x" * 600, "http://x:0", "x", "http://x:port"):
        assert good_url(bad) is None


# ---- several at once, progress, bounds -----------------------------------------------------------------------------------


def test_the_work_is_shared(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        gateways = [await net.serve(Counting(net.store)) for _ in range(3)]
        await net.fetch()
        assert all(gateway.asked for gateway in gateways)
        asked = [cid for gateway in gateways for cid in gateway.asked]
        assert set(asked) == set(BLOCKS)

    run(body)


def test_progress_is_told(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        await net.serve(Counting(net.store))
        await net.fetch()
        done = [step.done for step in net.heard]
        assert done == sorted(done)
        assert net.heard[-1] == Progress(ROOT, len(DATA), len(DATA))

    run(body)


def test_a_blob_that_is_too_large_is_refused_after_its_root(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        honest = await net.serve(Counting(net.store))
        with pytest.raises(ValueError, match="over the limit"):
            await net.fetch(limit=len(DATA) - 1)
        assert honest.asked == [ROOT]

    run(body)


def publish(net: Net, links: list[cids.Link]) -> Cid:
    """A root that some publisher made wrong; its CID is right."""
    block = cids.encode_node(links)
    cid = cids.of_block(cids.DAG_PB, block)
    net.source.store.write(cid, block)
    return cid


def test_trees_that_are_not_what_they_say(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        await net.serve(Counting(net.store))
        small = cids.of_block(cids.RAW, b"small")
        net.source.store.write(small, b"small")
        leaf = next(cid for cid, block in BLOCKS.items() if len(block) == cids.CHUNK)
        for root in (
            publish(net, [cids.Link(leaf, cids.CHUNK, cids.CHUNK), cids.Link(small, 6, 6)]),  # the leaf has 5 bytes
            publish(net, [cids.Link(small, 5, 5)] * 3),
            publish(net, []),
        ):
            with pytest.raises(cids.BadNode):
                await net.wanting.fetch(root, 1 << 30)
        big = cids.of_block(cids.RAW, bytes(cids.CHUNK + 1))
        net.source.store.write(big, bytes(cids.CHUNK + 1))
        with pytest.raises(Outage, match=f"sent over {cids.CHUNK} bytes"):
            await net.wanting.fetch(big, 1 << 30)

    run(body)


# ---- the gateway ---------------------------------------------------------------------------------------------------------


def test_the_gateway_speaks_the_trustless_protocol(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        gateway = BlockGateway(net.store, status=lambda: {"role": "worker", "head": 7})
        await net.serve(gateway)
        leaf = next(iter(BLOCKS))

        async def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
            async with session.request(method, gateway.url + path, headers=headers) as response:
                return response.status, await response.read(), dict(response.headers)

        async with aiohttp.ClientSession() as session:
            status, found, headers = await ask(f"/ipfs/{leaf}?format=raw")
            assert (status, found) == (200, BLOCKS[leaf])
            assert headers["Content-Type"] == "application/vnd.ipld.raw"
            assert headers["Content-Length"] == str(len(BLOCKS[leaf]))
            assert headers["Etag"] == f'"{leaf}.raw"'
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "immutable" in headers["Cache-Control"]
            assert headers["Content-Disposition"] == f'attachment; filename="{leaf}.bin"'
            assert (await ask(f"/ipfs/{leaf}", Accept="application/vnd.ipld.raw"))[:2] == (200, BLOCKS[leaf])
            status, found, headers = await ask(f"/ipfs/{leaf}?format=raw", "HEAD")
            assert (status, found, headers["Content-Length"]) == (200, b"", str(len(BLOCKS[leaf])))
            assert (await ask(f"/ipfs/{leaf}?format=raw", **{"If-None-Match": f'"{leaf}.raw"'}))[:2] == (304, b"")
            assert (await ask("/ipfs/bafkqaaa?format=raw"))[:2] == (200, b"")
            assert (await ask(f"/ipfs/{leaf}"))[0] == 400
            assert (await ask(f"/ipfs/{leaf}?format=car"))[0] == 406
            assert (await ask(f"/ipfs/{cids.of(b'absent')}?format=raw"))[0] == 404
            for wrong in (f"{leaf}/sub", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", "..%2f..%2fetc%2fpasswd", leaf.upper()):
                status, found, _ = await ask(f"/ipfs/{wrong}?format=raw")
                assert (status, b"is not a CID" in found) == (400, True)
            assert (await ask(f"/ipfs/{leaf}?format=raw", "POST"))[0] == 405
            assert (await ask("/assay/status"))[:2] == (200, b'{"role":"worker","head":7}')
            assert (await ask("/"))[0] == 404

    run(body)


class Watched(BlockGateway):
    """Honest; says when it has cut a connection."""

    def __init__(self, blocks: ipfs_gateway.Blocks, read_within: float) -> None:
        super().__init__(blocks, read_within=read_within)
        self.cut = asyncio.Event()

    async def _send(self, request: web.Request, data: bytes, headers: dict[str, str]) -> web.StreamResponse:
        response = await super()._send(request, data, headers)
        if request.transport is None or request.transport.is_closing():
            self.cut.set()
        return response


def test_a_reader_that_does_not_read_loses_its_connection(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        gateway = await net.serve(Watched(net.store, read_within=0.2))
        leaf = next(iter(BLOCKS))
        host, port = gateway.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(64):  # more than the buffers of the two sockets take
            writer.write(f"GET /ipfs/{leaf}?format=raw HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await gateway.cut.wait()
        writer.close()

    run(body)


def test_too_many_readers_are_told_to_come_back(run: Callable[[Body], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipfs_gateway, "MAX_READERS", 0)

    async def body(net: Net) -> None:
        await net.serve(BlockGateway(net.store, streams=0))
        with pytest.raises(Outage, match="HTTP 503"):
            await net.fetch()

    run(body)


def test_readers_wait_for_their_turn(run: Callable[[Body], None]) -> None:
    """Helia, for one, asks for all 174 children of a node at once."""

    async def body(net: Net) -> None:
        gateway = await net.serve(BlockGateway(net.store))
        wanted = list(BLOCKS) * 15
        assert len(wanted) > ipfs_gateway.AT_ONCE * 5

        async def ask(cid: Cid) -> bytes:
            async with session.get(f"{gateway.url}/ipfs/{cid}?format=raw") as response:
                assert response.status == 200
                return await response.read()

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            assert await asyncio.gather(*map(ask, wanted)) == [BLOCKS[cid] for cid in wanted]

    run(body)


def test_it_binds_to_loopback_and_says_when_a_port_is_taken(run: Callable[[Body], None]) -> None:
    async def body(net: Net) -> None:
        gateway = await net.serve(BlockGateway(net.store))
        assert gateway.url.startswith("http://127.0.0.1:")
        with pytest.raises(OSError, match="in use"):
            await BlockGateway(net.store).start(port=int(gateway.url.rsplit(":", 1)[1]))

    run(body)


def test_a_nodes_gateway_keeps_its_port_over_a_restart_while_it_is_free(run: Callable[[Body], None], tmp_path: Path) -> None:
    from assay.cli.store import open_gateway

    async def body(net: Net) -> None:
        kept = tmp_path / "port"
        first, url = await open_gateway(net.store, "127.0.0.1", kept)
        other, elsewhere = await open_gateway(net.store, "127.0.0.1", kept)  # taken: another, which is the one to keep
        assert elsewhere != url
        await first.stop()
        await other.stop()
        again, same = await open_gateway(net.store, "127.0.0.1", kept)
        assert same == elsewhere
        await again.stop()
        for junk in ("", "x", "-1", "99999999", "\n"):
            kept.write_text(junk)
            last, _ = await open_gateway(net.store, "127.0.0.1", kept)
            await last.stop()

    run(body)
