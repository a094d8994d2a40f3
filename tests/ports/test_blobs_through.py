"""Blobs of a node that nobody can call: its gateway through streams of libp2p, over a relay or over a link that it has opened itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.resources import Reservation

from assay import cid as cids
from assay.adapters import libp2p_relay, libp2p_tunnel
from assay.adapters.ipfs import LocalBlobs
from assay.adapters.ipfs_gateway import BlockGateway
from assay.adapters.ipfs_sources import Narrow
from assay.adapters.libp2p import Libp2pPeers
from assay.adapters.libp2p_tunnel import Tunnels
from assay.ids import Address, PeerId
from assay.messages import THROUGH, Ack, AnyReply, AnyRequest, PeerRecord
from assay.ports import Outage

DATA = random.Random(7).randbytes(12 * cids.CHUNK + 5)
SMALL = random.Random(8).randbytes(1000)


class Node:
    """Peers, blobs and a gateway, as `assay.cli.node` puts them together. One that is `behind` tells no address of its own."""

    def __init__(self, number: int, folder: Path, bootstrap: Sequence[str], behind: bool, relays: bool = False) -> None:
        self.folder, self.behind = folder, behind
        self.blobs = LocalBlobs(folder / "blobs", lambda near: self.peers.gateways(near), timeout=60.0)
        self.gateway = BlockGateway(self.blobs.store)
        self._number, self._bootstrap, self._relays = number, list(bootstrap), relays
        self.peers: Libp2pPeers

    async def start(self) -> None:
        url = await self.gateway.start()
        host, port = url.removeprefix("http://").split(":")
        told = THROUGH if self.behind else url

        def record(addresses: list[str]) -> PeerRecord:
            return PeerRecord(
                peer=PeerId(""), account=Address("0x" + "01" * 20), role="worker", addresses=tuple(addresses), gateway=told, sequence=0,
                chain_id=7, contract=Address("0x" + "11" * 20),
            )  # fmt: skip

        self.peers = Libp2pPeers(
            self._number.to_bytes(32, "big"), [], self._bootstrap, record, self.folder / "peers", "relay" if self.behind else "", self._relays,
            gateway=(host, int(port)) if self.behind else None,
        )  # fmt: skip
        await self.peers.start(self._answer, lambda peer, message: None)

    async def _answer(self, peer: PeerId, message: AnyRequest) -> AnyReply:
        return Ack()

    async def stop(self) -> None:
        await self.blobs.close()
        await self.peers.stop()
        await self.gateway.stop()

    @property
    def id(self) -> PeerId:
        return self.peers.peer

    def knows(self, other: Node) -> bool:
        return any(record.peer == other.id and record.addresses for record in self.peers.records())

    def ways_to(self, other: Node) -> set[Any]:
        """The kinds of connection with it."""
        host = cast(Any, self.peers)._net._up.host
        return {c.muxed_conn.get_connection_type() for c in host.get_network().get_connections(ID.from_base58(other.id))}


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (there is nothing that would say so)
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def network(folder: Path, *behind: bool) -> AsyncIterator[list[Node]]:
    """A node that relays, and one for each of `behind`; all know each other."""
    nodes = [Node(1, folder / "1", [], False, relays=True)]
    async with contextlib.AsyncExitStack() as stack:
        await nodes[0].start()
        stack.push_async_callback(nodes[0].stop)
        for number, one in enumerate(behind, 2):
            nodes.append(Node(number, folder / str(number), nodes[0].peers.addresses, one))
            await nodes[-1].start()
            stack.push_async_callback(nodes[-1].stop)
        await until(lambda: all(a.knows(b) for a in nodes for b in nodes if a is not b))
        yield nodes


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(240):
            await work

    asyncio.run(bounded())


def test_a_blob_is_fetched_between_two_nodes_that_nobody_can_call(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, True, True) as (relay, provider, wanting):
            root, small = await provider.blobs.put(DATA), await provider.blobs.put(SMALL)
            (url,) = wanting.peers.gateways([provider.id])[:1]
            assert isinstance(url, Narrow)
            for cid, data in ((root, DATA), (small, SMALL)):
                await wanting.blobs.fetch(cid, len(DATA), [provider.id])
                assert await wanting.blobs.get(cid) == data
            assert wanting.ways_to(provider) == {ConnectionType.RELAYED}
            assert not relay.blobs.store.stored()  # it carries what it does not keep
            assert wanting.peers.gateways([provider.id])[0] == url

    run(main())


def test_a_link_that_it_has_opened_is_as_good_as_a_relay(tmp_path: Path) -> None:
    """Whoever can be called has the blobs over the connection that the provider keeps with it: no relay carries them."""

    async def main() -> None:
        async with network(tmp_path, True) as (relay, provider):
            root = await provider.blobs.put(DATA)
            await relay.blobs.fetch(root, len(DATA), [provider.id])
            assert await relay.blobs.get(root) == DATA
            assert relay.ways_to(provider) == {ConnectionType.DIRECT}

    run(main())


def test_a_fetch_goes_on_when_a_relay_cuts_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Circuits of a third of the blob: the library's bound, which ends all that goes over one, is reached again and again."""
    monkeypatch.setattr(libp2p_relay, "LIMITS", replace(libp2p_relay.LIMITS, data=len(DATA) // 3))

    async def main() -> None:
        async with network(tmp_path, True, True) as (_, provider, wanting):
            root = await provider.blobs.put(DATA)
            while True:
                try:
                    await wanting.blobs.fetch(root, len(DATA), [provider.id])
                    break
                except Outage:  # each circuit brings something, and nothing is fetched twice
                    continue
            assert await wanting.blobs.get(root) == DATA

    run(main())


def test_a_circuit_is_given_whatever_has_become_of_the_callers_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay moves the end of a place without telling when it takes the rest of a circuit that it cut off for a request."""
    told = Reservation.to_proto

    def stale(place: Reservation) -> Any:
        message = told(place)
        message.expire -= 60
        return message

    monkeypatch.setattr(Reservation, "to_proto", stale)

    async def main() -> None:
        async with network(tmp_path, True, True) as (_, provider, wanting):
            root = await provider.blobs.put(SMALL)
            await wanting.blobs.fetch(root, len(SMALL), [provider.id])
            assert await wanting.blobs.get(root) == SMALL

    run(main())


# ---- one stream, without a network ---------------------------------------------------------------------------------------


class Pipe:
    """A stream of the library, as far as a tunnel uses it; `far` is what the other side has of it."""

    def __init__(self, peer: bytes = b"\x01") -> None:
        self.near, self.far = trio.testing.memory_stream_pair()
        self.muxed_conn = type("Conn", (), {"peer_id": ID(b"\x00\x24\x08\x01\x12\x20" + peer * 32)})()
        self.was_reset = False

    async def read(self, size: int) -> bytes:
        return bytes(await self.near.receive_some(size))

    async def write(self, data: bytes) -> None:
        await self.near.send_all(data)

    async def close(self) -> None:
        await self.near.send_eof()

    async def reset(self) -> None:
        self.was_reset = True
        await self.near.aclose()


async def _echo(wire: trio.SocketStream) -> None:
    async for data in wire:
        await wire.send_all(data.upper())


def test_what_is_said_arrives_and_the_end_of_one_side_is_the_others() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, _echo, 0)
            tunnels = Tunnels(listeners[0].socket.getsockname()[:2])
            pipe = Pipe()
            nursery.start_soon(tunnels.accept, pipe)
            await pipe.far.send_all(b"abc")
            assert await pipe.far.receive_some() == b"ABC"
            await pipe.far.send_eof()
            assert await pipe.far.receive_some() == b""
            await trio.testing.wait_all_tasks_blocked()
            assert not tunnels._served
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_who_can_be_called_joins_nobody_to_its_gateway() -> None:
    async def main() -> None:
        pipe = Pipe()
        await Tunnels().accept(pipe)
        assert pipe.was_reset

    trio.run(main)


def test_a_peer_has_a_few_streams_to_a_gateway_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_tunnel, "PER_PEER", 2)
    monkeypatch.setattr(libp2p_tunnel, "MAX_TUNNELS", 3)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, _echo, 0)
            tunnels = Tunnels(listeners[0].socket.getsockname()[:2])

            async def taken(peer: bytes) -> bool:
                pipe = Pipe(peer)
                nursery.start_soon(tunnels.accept, pipe)
                try:
                    await pipe.far.send_all(b"x")
                    return bool(await pipe.far.receive_some())
                except trio.BrokenResourceError:
                    return False

            assert [await taken(peer) for peer in (b"\x01", b"\x01", b"\x01", b"\x02", b"\x02")] == [True, True, False, True, False]
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_tunnel_that_nobody_uses_is_closed() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, _echo, 0)
            pipe = Pipe()
            nursery.start_soon(Tunnels(listeners[0].socket.getsockname()[:2]).accept, pipe)
            assert await pipe.far.receive_some() == b""
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_ways_are_bounded_and_the_last_wanted_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_tunnel, "MOST_WAYS", 2)

    async def main() -> None:
        tunnels = Tunnels()
        assert tunnels.url(PeerId("a")) is None  # there is no network

        async def reach(peer: PeerId, protocol: str) -> Any:
            raise Outage("not here")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tunnels.run, reach)
            await trio.testing.wait_all_tasks_blocked()
            urls = [tunnels.url(PeerId(name)) for name in "abab"]
            assert urls[:2] == urls[2:]
            await trio.testing.wait_all_tasks_blocked()
            tunnels.url(PeerId("c"))
            await trio.testing.wait_all_tasks_blocked()
            ports = [int(url.rsplit(":", 1)[1]) for url in urls if url is not None]
            with pytest.raises(OSError, match=r"connect"):
                await trio.open_tcp_stream("127.0.0.1", ports[0])
            async with await trio.open_tcp_stream("127.0.0.1", ports[1]):
                pass
            nursery.cancel_scope.cancel()
        assert tunnels.url(PeerId("a")) is None

    trio.run(main)
