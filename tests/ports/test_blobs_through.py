"""Blobs of a node that nobody can call: its gateway through streams of libp2p, over a relay or over a link that it has opened itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID

from assay import cid as cids
from assay.adapters import libp2p_relay, libp2p_tunnel
from assay.adapters.ipfs import LocalBlobs
from assay.adapters.ipfs_gateway import BlockGateway
from assay.adapters.ipfs_sources import Narrow
from assay.adapters.libp2p import Libp2pPeers
from assay.adapters.libp2p_tunnel import Tunnels, join
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
        self._make = lambda told, inside: Libp2pPeers(
            number.to_bytes(32, "big"), [], list(bootstrap), told, folder / "peers", "relay" if behind else "", relays, inside
        )
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

        self.peers = self._make(record, (host, int(port)) if self.behind else None)
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
    while not condition():
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
