"""Word of new blocks from an EVM node: `eth_subscribe` to `newHeads` over a WebSocket at the address where it answers JSON-RPC over HTTP
(https://geth.ethereum.org/docs/interacting-with-geth/rpc/pubsub; anvil and reth serve both at one port).

Nothing is believed of what comes: it wakes whoever would look at the chain soon anyway, at most once in LEAST seconds. A node that serves no
WebSocket there is asked again ever more seldom, and its chain is looked at in intervals, as before.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, ClientWebSocketResponse, WSMsgType

LEAST = 0.05
"""Seconds between two wakes."""
TOLD = 1.0
"""Seconds after which the chain is looked at though nothing was told, while the node has promised to tell."""
FIRST_PAUSE, LAST_PAUSE = 1.0, 600.0
"""Seconds before the next attempt to subscribe; doubling."""
WITHIN = 10.0
"""Seconds for connecting and subscribing."""
ALIVE = 30.0
"""Seconds between pings: a connection that is dead says nothing."""
MOST_BYTES = 1 << 16
"""Of one message: a header has about 1 KB."""


class _Subscribed(msgspec.Struct):
    result: str


class News:
    """`await wait(seconds)`; `await close()` at the end. One event loop."""

    def __init__(self, url: str) -> None:
        """`url`: where the node answers over HTTP."""
        self.url = "ws" + url.removeprefix("http")
        self.subscribed = False
        self._new = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._woken = -math.inf

    async def wait(self, seconds: float) -> None:
        """Until there is a new block, as far as the node tells; after `seconds` at the latest, or TOLD where it does tell."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="news")
        await asyncio.sleep(self._woken + LEAST - time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, TOLD) if self.subscribed else seconds):
                await self._new.wait()
        self._new.clear()
        self._woken = time.monotonic()

    async def close(self) -> None:
        task, self._listening = self._listening, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _listen(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with ClientSession(timeout=ClientTimeout(total=None, sock_connect=WITHIN)) as session:
                    if await self._follow(session):
                        pause = FIRST_PAUSE
            except (ClientError, OSError, TimeoutError, ValueError, TypeError, RecursionError, msgspec.MsgspecError):
                pass  # it says nothing: the chain is looked at all the same
            finally:
                self.subscribed = False
                self._new.set()
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))
            pause = min(2 * pause, LAST_PAUSE)

    async def _follow(self, session: ClientSession) -> bool:
        """Whether anything was told before the connection ended."""
        async with asyncio.timeout(WITHIN):
            socket = await session.ws_connect(self.url, heartbeat=ALIVE, max_msg_size=MOST_BYTES)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(socket.close)
            await self._subscribe(socket)
            self.subscribed, told = True, False
            async for message in socket:
                if message.type is not WSMsgType.TEXT:
                    break
                told = True
                self._new.set()
            return told

    @staticmethod
    async def _subscribe(socket: ClientWebSocketResponse) -> None:
        """Raises MsgspecError, RecursionError, TypeError or ValueError when the node does not take it."""
        async with asyncio.timeout(WITHIN):
            await socket.send_str('{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}')
            msgspec.json.decode(await socket.receive_str(), type=_Subscribed)
