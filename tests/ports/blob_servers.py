"""Gateways that are wrong in one way each, for the tests of the fetcher: the honest gateway with one part replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from assay.adapters.ipfs_fetch import Blocks
from assay.adapters.ipfs_gateway import BlockGateway
from assay.ids import Cid


class Counting(BlockGateway):
    """Honest; counts what it is asked for. Without streams: what it does wrong, it does to requests for single blocks."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(blocks, streams=0)
        self.asked: list[Cid] = []

    async def _send(self, request: web.Request, data: bytes, headers: dict[str, str]) -> web.StreamResponse:
        self.asked.append(Cid(request.match_info["path"]))
        return await super()._send(request, data, headers)


class Changing(Counting):
    """Answers something else than the block."""

    def __init__(self, blocks: Blocks, change: Callable[[bytes], bytes]) -> None:
        super().__init__(blocks)
        self._change = change

    async def _send(self, request: web.Request, data: bytes, headers: dict[str, str]) -> web.StreamResponse:
        return await super()._send(request, self._change(data), headers)


class Flooding(Counting):
    """Never stops sending."""

    async def _send(self, request: web.Request, data: bytes, headers: dict[str, str]) -> web.StreamResponse:
        self.asked.append(Cid(request.match_info["path"]))
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1 << 16))
        except (ConnectionError, asyncio.CancelledError):
            return response


class Dripping(Counting):
    """Sends a byte at a time, for ever (slow-loris): `hold` is set when it must let go."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(blocks)
        self.hold = asyncio.Event()

    async def _send(self, request: web.Request, data: bytes, headers: dict[str, str]) -> web.StreamResponse:
        self.asked.append(Cid(request.match_info["path"]))
        response = web.StreamResponse(headers=headers)
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[:1])
        await self.hold.wait()
        return response


class Vanishing(Counting):
    """Cuts the connection in the middle of its `after`th block and refuses everything from then on."""

    def __init__(self, blocks: Blocks, after: int) -> None:
        super().__init__(blocks)
        self._after = after

    async def _send(self, request: web.Request, data: bytes, headers: dict[str, str]) -> web.StreamResponse:
        if len(self.asked) < self._after:
            return await super()._send(request, data, headers)
        response = web.StreamResponse(headers=headers)
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        assert request.transport is not None
        request.transport.abort()
        return response


class Failing(Counting):
    """Answers an error to all, or redirects to `elsewhere`."""

    def __init__(self, blocks: Blocks, status: int, elsewhere: str = "") -> None:
        super().__init__(blocks)
        self._status, self._elsewhere = status, elsewhere

    async def _send(self, request: web.Request, data: bytes, headers: dict[str, str]) -> web.StreamResponse:
        self.asked.append(Cid(request.match_info["path"]))
        return web.Response(status=self._status, headers={"Location": f"{self._elsewhere}{request.path_qs}"} if self._elsewhere else {})
