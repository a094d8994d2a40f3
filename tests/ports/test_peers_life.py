"""What a node holds of peers that are gone: nothing, however they went, and however often."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
from test_peers import Libp2pNet, Node, beat, knows, run, until
from test_peers_hostile import Stranger

from assay.adapters import libp2p_life, libp2p_link
from assay.adapters.libp2p_life import tcp
from assay.messages import Ack
from assay.ports import Outage
from tests.handles import handles


def connections(node: Node) -> list[Any]:
    peers: Any = node.peers
    return peers._net._up.host.get_network().get_connections()  # type: ignore[no-any-return]


async def gone(node: Node) -> None:
    await until(lambda: not connections(node) and not node.peers._net._links, seconds=240)  # type: ignore[attr-defined]


def test_the_kernel_watches_each_connection_of_both_sides(tmp_path: Path) -> None:
    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a, b = [await net.node(i) for i in (1, 2)]
            await until(lambda: knows(a, b) and knows(b, a))
            for node in (a, b):
                found = [tcp(connection) for connection in connections(node)]
                assert found
                for each in found:
                    assert each is not None
                    assert each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                    assert each.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == libp2p_life.IDLE

    run(main())


async def says_nothing(stranger: Stranger) -> None:
    """Opens a link, answers no ping, and is there until the node ends the connection."""
    await stranger.link()
    while stranger._host.get_network().get_connections():  # noqa: ASYNC110 (a library tells nobody)
        await trio.sleep(0.02)


def test_of_peers_that_come_and_fall_silent_nothing_stays_however_many_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_link, "PING_AFTER", 0.1)
    monkeypatch.setattr(libp2p_link, "SILENCE", 0.3)

    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            node = await net.node(1)

            async def cycles(first: int, count: int) -> Counter[str]:
                for number in range(first, first + count):
                    await Stranger(node, number).run(says_nothing)
                await gone(node)
                gc.collect()
                return handles()

            few = await cycles(100, 1)
            assert await cycles(200, 5) == few

    run(main())


def test_a_peer_that_was_silent_for_a_while_is_linked_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with Libp2pNet(tmp_path) as net:
            a, b = [await net.node(i) for i in (1, 2)]
            await until(lambda: knows(a, b) and knows(b, a))
            before = connections(a)
            for link in [link for links in a.peers._net._links.values() for link in links]:  # type: ignore[attr-defined]
                a.peers._token.run_sync_soon(lambda link=link: (setattr(link, "silent", True), link.close()))  # type: ignore[attr-defined]
            await until(lambda: not any(connection in before for connection in connections(a)), seconds=240)
            await until(lambda: bool(a.peers._net._links), seconds=240)  # type: ignore[attr-defined]
            while True:  # what it asks over the old link comes to nothing
                with contextlib.suppress(Outage):
                    assert await b.peers.request(a.id, beat(1), 60) == Ack()
                    break
                await asyncio.sleep(0.05)

    run(main())
