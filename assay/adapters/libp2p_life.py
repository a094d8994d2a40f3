"""Connections whose other side is gone without a word: a machine that lost its power, a router that forgot, a process that hangs.

py-libp2p (0.8.1) keeps such a connection, and its file handle, for ever: nothing is ever sent over one that nobody uses, and the end of a stream
does not end what is below it. So the kernel asks the other machine now and then whether it still has the connection (TCP keepalive, tcp(7)), and a
link that ends because its peer is silent takes its connection along (`hang_up`).
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from multiaddr import Multiaddr

log = logging.getLogger("assay.peers")

IDLE, BETWEEN, TIMES = 60, 15, 4
"""Seconds without a word after which the kernel asks, and between its questions; so many without an answer end the connection."""
WITHIN = 2.0
"""Seconds for a goodbye to whoever may not be there."""


class KeepAlive(INotifee):
    """Tells the kernel of each new connection."""

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        found = tcp(conn)
        if found is None:  # over a relay: the relay's own connection is watched
            return
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", IDLE), ("TCP_KEEPINTVL", BETWEEN), ("TCP_KEEPCNT", TIMES)):
            if hasattr(socket, name):
                found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        pass

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        pass

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        pass


BELOW = ("muxed_conn", "secured_conn", "conn", "read_writer", "read_write_closer", "stream", "stream")
"""The way from a connection to its socket: Yamux, Noise's session, its messages, their packets, the raw connection, its stream, trio's."""


def tcp(connection: Any) -> trio.SocketStream | None:
    """The socket of a connection; None where there is another way below it, as over a relay."""
    found = connection
    for name in BELOW:
        found = getattr(found, name, None)
    return found if isinstance(found, trio.SocketStream) else None


async def hang_up(stream: Any) -> None:
    """Ends the connection below a stream, whether or not there is anybody to hear it. Never raises but for cancellation."""
    connection = stream.muxed_conn
    for end in (connection.close, connection.secured_conn.close):  # with a goodbye; without one where that cannot be written
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WITHIN) as scope:
            try:
                await end()
            except Exception as error:
                log.debug("hanging up on %s: %s", connection.peer_id, error)
        if not scope.cancelled_caught:
            return
