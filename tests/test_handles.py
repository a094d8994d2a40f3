"""A daemon that lives long: what it holds after many reconnections and much labour is what it held after a few."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections import Counter

from aiohttp import web

from assay.adapters.evm_rpc import Rpc
from assay.cli.common import THREADS, run
from assay.ports import Outage
from tests.handles import handles, threads


async def answer(request: web.Request) -> web.Response:
    asked = await request.json()
    return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": "0x1"})


async def hang(request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_chain_node_that_goes_and_comes_back_leaves_no_handle() -> None:
    """It answers, hangs until the caller gives up, is gone, and comes back at the same place."""

    async def scene() -> None:
        place = socket.socket()  # keeps the port for this test, and does not listen
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
        rpc = Rpc(f"http://127.0.0.1:{port}", timeout=240)
        impatient = Rpc(f"http://127.0.0.1:{port}", timeout=0.05)

        async def up(what: object) -> web.AppRunner:
            app = web.Application()
            app.router.add_post("/", what)  # type: ignore[arg-type]
            runner = web.AppRunner(app, shutdown_timeout=0.01)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port, reuse_port=True).start()
            return runner

        async def refused(by: Rpc) -> None:
            try:
                await by.call("eth_blockNumber")
            except Outage:
                return
            raise AssertionError("it was answered")

        async def cycles(count: int) -> Counter[str]:
            for _ in range(count):
                runner = await up(answer)
                assert await asyncio.gather(*(rpc.call("eth_blockNumber") for _ in range(5))) == ["0x1"] * 5
                await runner.cleanup()
                await refused(rpc)
                runner = await up(hang)
                await refused(impatient)
                await runner.cleanup()
            gc.collect()
            return handles()

        few = await cycles(2)
        assert await cycles(12) == few
        await rpc.close()
        await impatient.close()
        place.close()

    asyncio.run(scene())


def test_threads_for_labour_come_as_they_are_wanted_and_stop_at_a_bound() -> None:
    """That they become more in the first hours is no leak: a thread is started when all others are busy, until there are THREADS."""

    async def scene() -> tuple[int, int]:
        async def burst(at_once: int) -> int:
            together = threading.Barrier(at_once)
            await asyncio.gather(*(asyncio.to_thread(together.wait, 240) for _ in range(at_once)))
            return threads()["labour"]

        assert await burst(2) == 2
        full = await burst(THREADS)
        await asyncio.gather(*(asyncio.to_thread(lambda: None) for _ in range(50 * THREADS)))
        return full, threads()["labour"]

    assert run(scene()) == (THREADS, THREADS)
    assert threads()["labour"] == 0
