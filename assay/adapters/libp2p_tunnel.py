"""The gateway of a node that nobody can call, through streams of libp2p.

A node that announces `relay` tells THROUGH instead of its gateway's address. Whoever wants blobs of it asks a port of its own loopback
address (`Tunnels.url`): each connection there is joined to a stream to that node, over whatever connection there is with it (one that it
has opened itself, or a circuit at a relay), and there to the node's own gateway. So requests, streams of blocks, their bounds and checks are
those of any gateway (assay.adapters.ipfs_fetch); only the way is another, and slower: everything is encrypted by the library. A circuit
that a relay cuts off ends the connections that went through it, and the fetch goes on over new ones.

Two traps (py-libp2p 0.8.1): a write that is cancelled in the middle garbles the connection for all its streams, so writes are not
cancelled but by their own time; and half of a stream stays open until both sides have closed it.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from assay.adapters.ipfs_sources import Narrow
from assay.ids import PeerId

log = logging.getLogger("assay.peers")

PROTOCOL = "/assay/gateway/1"
LOOPBACK = "127.0.0.1"
MOST_WAYS = 64
"""Peers that have a port here at once; the one that was wanted least recently loses its."""
MAX_TUNNELS, PER_PEER = 64, 16
"""Streams that are joined to this node's gateway, in all and for one peer; as many are opened to one peer, and more wait."""
REACH_WITHIN, AGAIN_AFTER, AGAIN_FOR = 10.0, 0.3, 2.0
WRITE_WITHIN, IDLE, LEAVE_WITHIN = 30.0, 60.0, 5.0
PART = 1 << 16

Reach = Callable[[PeerId, str], Awaitable[Any]]
"""(peer, protocol) -> a new stream to it. Raises Outage and the library's errors."""


class Tunnels:
    """Of one node: the ways to others' gateways, and the others' to its own, which is at `gateway` (host, port); None: it serves nobody so."""

    def __init__(self, gateway: tuple[str, int] | None = None) -> None:
        self.gateway = gateway
        self._mutex = threading.Lock()
        self._ways: dict[PeerId, socket.socket] = {}
        """Where this node listens for what goes to that peer; the one that was wanted last is last."""
        self._tell: Callable[[], None] | None = None
        """While `run` does: says that there are other ways."""
        self._served: Counter[PeerId] = Counter()

    # ---- from any thread -------------------------------------------------------------------------------------------------

    def url(self, peer: PeerId) -> Narrow | None:
        """The base URL of that peer's gateway, as long as it is asked for now and then; None while the peer network is down."""
        with self._mutex:
            if self._tell is None:
                return None
            way = self._ways.pop(peer, None)
            try:
                self._ways[peer] = way or socket.create_server((LOOPBACK, 0))
            except OSError as error:
                log.warning("no port for the gateway of %s: %s", peer, error)
                return None
            if len(self._ways) > MOST_WAYS:
                del self._ways[next(iter(self._ways))]
            if way is None:
                self._tell()
            return Narrow(f"http://{LOOPBACK}:{self._ways[peer].getsockname()[1]}")

    # ---- in the trio thread ----------------------------------------------------------------------------------------------

    async def run(self, reach: Reach) -> None:
        """Until it is cancelled. Ports are closed then."""
        token, changed = trio.lowlevel.current_trio_token(), trio.Event()
        listening: dict[socket.socket, trio.CancelScope] = {}

        def tell() -> None:
            token.run_sync_soon(lambda: changed.set())  # the event that is there then

        self._tell = tell
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    with self._mutex:
                        ways = {way: peer for peer, way in self._ways.items()}
                    for way in listening.keys() - ways.keys():
                        listening.pop(way).cancel()
                    for way in ways.keys() - listening.keys():
                        listening[way] = trio.CancelScope()
                        nursery.start_soon(self._listen, listening[way], way, partial(reach, ways[way], PROTOCOL))
                    await changed.wait()
                    changed = trio.Event()
        finally:
            with self._mutex:
                self._tell = None
                for way in self._ways.values():
                    way.close()
                self._ways.clear()

    async def _listen(self, scope: trio.CancelScope, way: socket.socket, reach: Callable[[], Awaitable[Any]]) -> None:
        way.setblocking(False)
        turn = trio.Semaphore(PER_PEER)
        with scope:
            await trio.serve_listeners(partial(self._go, reach, turn), [trio.SocketListener(trio.socket.from_stdlib_socket(way))])

    async def _go(self, reach: Callable[[], Awaitable[Any]], turn: trio.Semaphore, wire: trio.SocketStream) -> None:
        async with wire, turn:
            until = trio.current_time() + AGAIN_FOR
            while True:
                try:
                    with trio.fail_after(REACH_WITHIN):
                        stream = await reach()
                    return await join(wire, stream)
                except Exception as error:  # Outage, or any of the library's
                    log.debug("no way to a gateway: %s: %s", type(error).__name__, error)
                    if trio.current_time() > until:
                        return
                await trio.sleep(AGAIN_AFTER)  # a circuit that was cut off is not there again at once

    async def accept(self, stream: Any) -> None:
        """Somebody wants this node's gateway."""
        peer = PeerId(str(stream.muxed_conn.peer_id))
        if self.gateway is None or self._served.total() >= MAX_TUNNELS or self._served[peer] >= PER_PEER:
            log.info("%s was not joined to the gateway: %s", peer, "it is not served so" if self.gateway is None else "too many at once")
            await stream.reset()
            return
        self._served[peer] += 1
        try:
            wire = await trio.open_tcp_stream(*self.gateway)
        except OSError as error:
            log.warning("the own gateway cannot be reached: %s", error)
            await stream.reset()
        else:
            async with wire:
                await join(wire, stream)
        finally:
            self._served[peer] -= 1
            if not self._served[peer]:
                del self._served[peer]


async def join(wire: trio.SocketStream, stream: Any) -> None:
    """Passes on what comes at one to the other, until either ends or is silent for IDLE seconds. Never raises; the stream is over then."""
    scope = trio.CancelScope()

    async def onward() -> None:
        while data := await wire.receive_some(PART):
            scope.deadline = trio.current_time() + IDLE
            with trio.CancelScope(shield=True), trio.fail_after(WRITE_WITHIN):
                await stream.write(data)

    async def back() -> None:
        while data := await stream.read(PART):
            scope.deadline = trio.current_time() + IDLE
            await wire.send_all(data)

    async def guard(part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except Exception as error:  # the end of a stream is one of them
            log.debug("a tunnel ended: %s: %s", type(error).__name__, error)
        scope.cancel()

    scope.deadline = trio.current_time() + IDLE
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guard, onward)
            nursery.start_soon(guard, back)
    try:
        with trio.CancelScope(shield=True), trio.fail_after(LEAVE_WITHIN):
            await stream.close()  # what was written still arrives
        with trio.move_on_after(LEAVE_WITHIN):
            while await stream.read(PART):  # until the other side has closed it, too
                pass
        with trio.CancelScope(shield=True), trio.fail_after(LEAVE_WITHIN):
            await stream.reset()
    except Exception as error:
        log.debug("closing a stream: %s: %s", type(error).__name__, error)
