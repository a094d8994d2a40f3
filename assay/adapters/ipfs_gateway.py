"""The trustless gateway of a node: raw blocks over HTTP, by CID, for whoever asks (specs.ipfs.tech/http-gateways/trustless-gateway).

    GET, HEAD /ipfs/<cid>?format=raw     or with `Accept: application/vnd.ipld.raw`
    GET       /assay/blocks              turns into a stream of blocks (assay.adapters.ipfs_stream)
    GET       /assay/status              what the node is doing, as JSON, for the command line

It answers blocks of the local store and nothing else: no directories, no deserialised files, no CARs, no fetching on behalf of others.
It binds to loopback unless it is told otherwise. A reader that does not take a block within READ_WITHIN seconds loses its connection.
AT_ONCE blocks are in memory at a time; other readers wait (some IPFS clients ask for all children of a node at once), and when
MAX_READERS do, the next are told to come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from aiohttp import web

from assay import cid as cids
from assay.adapters.ipfs_fetch import RAW_BLOCK, Blocks
from assay.adapters.ipfs_stream import MAX_STREAMS, PATH, UPGRADE, Streams, TooMany
from assay.ids import Cid

READ_WITHIN = 15.0
AT_ONCE = 32
MAX_READERS = 1024
PROBE = "bafkqaaa"
"""The empty block as an identity CID: what clients ask for to see whether a gateway is there."""

Status = Callable[[], dict[str, Any]]

logging.getLogger("aiohttp.server").setLevel(logging.ERROR)


class BlockGateway:
    """Serves `blocks`; `status` says what /assay/status answers; `streams` bounds the streams at once, none with 0."""

    def __init__(self, blocks: Blocks, status: Status | None = None, read_within: float = READ_WITHIN, streams: int = MAX_STREAMS) -> None:
        self._blocks, self._status, self._read_within = blocks, status, read_within
        self._streams = Streams(blocks, streams, read_within)
        self._threads = ThreadPoolExecutor(max(1, streams), "stream")
        self._readers = 0
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Binds (port 0: any free one) and returns the base URL. Raises OSError when the port is taken."""
        app = web.Application(client_max_size=1024)
        app.router.add_get("/ipfs/{path:.+}", self._block)
        app.router.add_get(PATH, self._stream)
        app.router.add_get("/assay/status", self._report)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=30, shutdown_timeout=1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except BaseException:
            await self.stop()
            raise
        bound = self._runner.addresses[0][1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        return self.url

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._threads.shutdown(wait=False)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Hands the connection over to a thread, and holds on to it until that is done."""
        transport, host = request.transport, request.remote or ""
        if request.headers.get("Upgrade") != UPGRADE or transport is None:
            return _no(426, f"this is for streams of blocks: ask for Upgrade: {UPGRADE}", {"Upgrade": UPGRADE, "Connection": "Upgrade"})
        try:
            self._streams.enter(host)
        except TooMany:
            return _no(503, "too many streams at once", {"Retry-After": "1"})
        try:
            transport.pause_reading()
            wire = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            try:
                transport.write(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n".encode())
                await asyncio.get_running_loop().run_in_executor(self._threads, self._streams.serve, wire, host)
            finally:
                with contextlib.suppress(OSError):
                    wire.shutdown(socket.SHUT_RDWR)  # ends the thread when we are stopped before it is done
        finally:
            self._streams.leave(host)
            transport.abort()
        return web.Response()

    async def _block(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["path"]
        wanted = request.query.get("format")
        if wanted is None and RAW_BLOCK in request.headers.get("Accept", ""):
            wanted = "raw"
        if wanted is None:
            return _no(400, "say which format you want: add ?format=raw")
        if wanted != "raw":
            return _no(406, f"format {wanted[:20]!r} is not served here, only raw blocks: use ?format=raw")
        if name == PROBE:
            return web.Response(body=b"", content_type=RAW_BLOCK)
        try:
            cids.parse(name)
        except cids.BadCid as error:
            return _no(400, str(error))
        cid, etag = Cid(name), f'"{name}.raw"'
        headers = {
            "Content-Type": RAW_BLOCK,
            "Content-Disposition": f'attachment; filename="{name}.bin"',
            "Cache-Control": "public, max-age=29030400, immutable",
            "Etag": etag,
            "X-Content-Type-Options": "nosniff",
        }
        if self._readers >= MAX_READERS:
            return _no(503, "too many readers at once", {"Retry-After": "1"})
        self._readers += 1
        try:
            async with self._turn:
                data = await asyncio.to_thread(self._blocks.read, cid)
                if data is None or len(data) > cids.MAX_BLOCK:
                    return _no(404, f"this node does not have {name}")
                if etag in request.headers.get("If-None-Match", ""):
                    return web.Response(status=304, headers=headers)
                return await self._send(request, data, headers)
        finally:
            self._readers -= 1

    async def _send(self, request: web.Request, data: bytes, headers: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        response.content_length = len(data)
        try:
            async with asyncio.timeout(self._read_within):
                await response.prepare(request)
                if request.method != "HEAD":
                    await response.write(data)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # the reader is gone, which is its own business
        return response

    async def _report(self, request: web.Request) -> web.Response:
        report = self._status() if self._status is not None else {}
        return web.Response(body=msgspec.json.encode(report), content_type="application/json", headers={"Cache-Control": "no-store"})


def _no(status: int, why: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=why + "\n", headers={"X-Content-Type-Options": "nosniff", **(headers or {})})
