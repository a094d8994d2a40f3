"""The cables of a network on one machine: TCP proxies that can be cut, stopped and slowed for one node at a time.

Every connection has two ends, and what befalls one of them befalls it. A node's way to the chain is a proxy of its own; others reach
the node at a loopback address at which only a proxy listens (`announce`), where `whose` tells who calls. All of it runs in the
caller's event loop; bytes are passed on in order and unchanged, or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

PIECE = 1 << 16
"""Bytes that are passed on at once, and held up together."""
NO_LINGER = struct.pack("ii", 1, 0)
"""socket(7), SO_LINGER: what is closed with it says RST instead of FIN."""
Where = tuple[str, int]


class _Cable(NamedTuple):
    ends: frozenset[str]
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]


class Wires:
    """Use as an asynchronous context manager: on leaving it, nothing listens and no connection is open."""

    def __init__(self, whose: Callable[[str, int], str]) -> None:
        """`whose`: which node a connection from this address and port comes from; "" when that cannot be told."""
        self._whose = whose
        self._servers: dict[Where, asyncio.Server] = {}
        self._cables: set[_Cable] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut: dict[str, int] = defaultdict(int)
        self._held: dict[str, int] = defaultdict(int)
        self._slow: dict[str, float] = defaultdict(float)
        self._changed = asyncio.Event()
        """Set, and replaced, when somebody is released."""
        self.passed: dict[str, int] = defaultdict(int)
        """Bytes that went to and from a node."""
        self.opened: dict[str, int] = defaultdict(int)

    async def __aenter__(self) -> Wires:
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- laying them -------------------------------------------------------------------------------------------------------------

    async def lay(self, at: Where, to: Where, end: str, other: str = "") -> int:
        """Whoever connects `at` reaches `to`. `end` is the node at one end; the one at the other is `other`, or looked up. The port that
        is listened on; one that is laid already stays. Raises OSError."""
        if at in self._servers:
            return at[1]

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                who = other or self._whose(*writer.get_extra_info("peername")[:2])
                await self._join(frozenset({end, who} - {""}), reader, writer, to)
            except (OSError, asyncio.CancelledError):
                pass  # either side is gone, or the whole is being taken down
            finally:
                self._tasks.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(accept, *at)
        port = int(server.sockets[0].getsockname()[1])
        self._servers[at[0], port] = server
        return port

    async def _join(self, ends: frozenset[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: Where) -> None:
        if any(self._cut[name] for name in ends):
            return
        await self._let_through(ends)
        there, back = await asyncio.open_connection(*to)
        cable = _Cable(ends, (writer, back))
        self._cables.add(cable)
        for name in ends:
            self.opened[name] += 1
        ways = {asyncio.create_task(self._pass(cable, reader, back)), asyncio.create_task(self._pass(cable, there, writer))}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self._cables.discard(cable)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            back.transport.abort()

    async def _pass(self, cable: _Cable, source: asyncio.StreamReader, drain: asyncio.StreamWriter) -> None:
        while data := await source.read(PIECE):
            await self._let_through(cable.ends)
            delay = max((self._slow[name] for name in cable.ends), default=0.0)
            if delay:
                await asyncio.sleep(delay)
            drain.write(data)
            await drain.drain()
            for name in cable.ends:
                self.passed[name] += len(data)
        with contextlib.suppress(OSError, RuntimeError):
            drain.write_eof()

    async def _let_through(self, ends: frozenset[str]) -> None:
        while any(self._held[name] for name in ends):
            await self._changed.wait()

    # ---- what befalls them ---------------------------------------------------------------------------------------------------------

    def cut(self, name: str) -> int:
        """Resets a node's connections, and every new one until `heal_cut`. How many there were."""
        self._cut[name] += 1
        hit = [cable for cable in self._cables if name in cable.ends]
        for cable in hit:
            for writer in cable.writers:
                if not writer.is_closing():
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                writer.transport.abort()
        return len(hit)

    def heal_cut(self, name: str) -> None:
        self._cut[name] -= 1

    def hold(self, name: str) -> int:
        """Nothing passes until `release`. How many connections there are now."""
        self._held[name] += 1
        return sum(1 for cable in self._cables if name in cable.ends)

    def release(self, name: str) -> None:
        self._held[name] -= 1
        self._changed.set()
        self._changed = asyncio.Event()

    def slow(self, name: str, delay: float) -> int:
        """Holds every piece up for `delay` seconds; 0 ends it. How many connections there are now."""
        self._slow[name] = delay
        return sum(1 for cable in self._cables if name in cable.ends)
