"""Word of new blocks over a WebSocket: it wakes who waits for it, and whatever a node does instead, the chain is looked at in intervals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import WSCloseCode, web

from assay.adapters import evm_news
from assay.adapters.evm_news import News

SUBSCRIBED = '{"jsonrpc":"2.0","id":1,"result":"0x1"}'
HEAD = '{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x1","result":{}}}'
AGES = 240.0
Serve = Callable[[web.WebSocketResponse], Awaitable[None]]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evm_news, "LEAST", 0.0)
    monkeypatch.setattr(evm_news, "TOLD", AGES)
    monkeypatch.setattr(evm_news, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(evm_news, "LAST_PAUSE", 0.001)


@contextlib.asynccontextmanager
async def node(serve: Serve | None) -> AsyncIterator[News]:
    """News of a chain node that serves a WebSocket so, or none."""

    async def upgrade(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert serve is not None
        await serve(socket)
        return socket

    app = web.Application()
    app.router.add_route("GET" if serve else "POST", "/", upgrade)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    news = News(f"http://127.0.0.1:{port}")
    try:
        yield news
    finally:
        await news.close()
        await runner.cleanup()


async def subscribed(news: News) -> None:
    while not news.subscribed:
        await news.wait(0.01)


def test_a_new_block_wakes_and_a_connection_that_ends_is_made_again() -> None:
    async def scene() -> None:
        mined, connections = asyncio.Event(), []

        async def serve(socket: web.WebSocketResponse) -> None:
            asked = await socket.receive_json()
            assert (asked["method"], asked["params"]) == ("eth_subscribe", ["newHeads"])
            await socket.send_str(SUBSCRIBED)
            connections.append(socket)
            await mined.wait()
            mined.clear()
            await socket.send_str(HEAD)
            await socket.receive()  # until the other side, or the third one, ends it

        async with node(serve) as news:
            for turn in (1, 2):
                await subscribed(news)
                assert len(connections) == turn
                mined.set()
                await news.wait(AGES)
                assert news.subscribed
                await connections[-1].close(code=WSCloseCode.GOING_AWAY)
                await news.wait(AGES)  # that nothing is told any more is news, too
            await subscribed(news)

    asyncio.run(scene())


async def refuses(socket: web.WebSocketResponse) -> None:
    await socket.receive()
    await socket.send_str('{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no such method"}}')


async def chatters(socket: web.WebSocketResponse) -> None:
    await socket.receive()
    await socket.send_str("[" * 1000)


async def hangs_up(socket: web.WebSocketResponse) -> None:
    await socket.close()


async def floods(socket: web.WebSocketResponse) -> None:
    await socket.receive()
    await socket.send_str("x" * (evm_news.MOST_BYTES + 1))


async def sends_bytes(socket: web.WebSocketResponse) -> None:
    await socket.receive()
    await socket.send_bytes(b"\0")


@pytest.mark.parametrize("serve", [None, refuses, chatters, hangs_up, floods, sends_bytes])
def test_a_node_that_does_not_tell_is_looked_at_in_intervals_and_asked_again(serve: Serve | None) -> None:
    async def scene() -> None:
        asked: list[str] = []

        async def counting(socket: web.WebSocketResponse) -> None:
            asked.append("")
            assert serve is not None
            await serve(socket)

        async with node(counting if serve else None) as news:
            while len(asked) < 3 if serve else not asked:
                await news.wait(0.01)
                assert not news.subscribed
                asked += [] if serve else ["once"]

    asyncio.run(scene())


def test_messages_without_end_wake_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evm_news, "LEAST", AGES)

    async def scene() -> None:
        async def serve(socket: web.WebSocketResponse) -> None:
            await socket.receive()
            await socket.send_str(SUBSCRIBED)
            with contextlib.suppress(ConnectionError):
                while not socket.closed:
                    await socket.send_str(HEAD)

        async with node(serve) as news:
            await news.wait(AGES)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await news.wait(AGES)

    asyncio.run(scene())
