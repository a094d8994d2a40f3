"""As much of Kubo's RPC as KuboBlobs uses, over a block store, for machines that have no IPFS daemon (docs.ipfs.tech/reference/kubo/rpc).

It is written from the documentation, so it shows that the adapter speaks the documented protocol, not that a real daemon does.
`swarm` stands for the daemon's own network: blocks that it can get when it is not asked to stay offline.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from assay import cid as cids
from assay.adapters.ipfs_store import BlockStore
from assay.ids import Cid


class KuboRpc:
    def __init__(self, folder: Path, quota: int | None = None) -> None:
        self.store = BlockStore(folder, quota)
        self.swarm: dict[Cid, bytes] = {}
        self.corrupt: Callable[[bytes], bytes] = lambda data: data
        self.chunk = cids.CHUNK
        """Of its importer, whatever it is asked for: a daemon with other settings."""
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        app = web.Application(client_max_size=1 << 30)
        for path, handler in {
            "add": self._add, "block/get": self._get, "block/put": self._put, "block/stat": self._stat, "pin/add": self._pin, "pin/rm": self._unpin,
        }.items():  # fmt: skip
            app.router.add_post(f"/api/v0/{path}", handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _error(self, message: str) -> web.Response:
        return web.json_response({"Message": message, "Code": 0, "Type": "error"}, status=500)

    def _read(self, request: web.Request, cid: Cid) -> bytes | None:
        data = self.store.read(cid)
        if data is None and request.query.get("offline", "").lower() != "true" and cid in self.swarm:
            data = self.swarm[cid]
            self.store.write(cid, data)
        return data

    async def _file(self, request: web.Request) -> bytes:
        part = await (await request.multipart()).next()
        assert part is not None
        return bytes(await part.read(decode=False))  # type: ignore[union-attr]

    async def _add(self, request: web.Request) -> web.Response:
        data = await self._file(request)
        wanted = {"cid-version": "1", "raw-leaves": "true", "chunker": f"size-{cids.CHUNK}", "pin": "true"}
        if any(request.query.get(key, "").lower() != value for key, value in wanted.items()):
            return self._error(f"this server adds with {wanted} only, not {dict(request.query)}")
        try:
            with self.store.session():
                for block in cids.blocks(data[: self.chunk] if self.chunk != cids.CHUNK else data):
                    self.store.write(block.cid, block.data)
        except OSError:
            return self._error("write /data/ipfs/blocks: no space left on device")
        self.store.pin(block.cid)
        return web.Response(text=json.dumps({"Name": block.cid, "Hash": block.cid, "Size": str(len(data))}) + "\n", content_type="application/json")

    async def _get(self, request: web.Request) -> web.Response:
        cid = Cid(request.query["arg"])
        data = self._read(request, cid)
        if data is None:
            return self._error(f"block was not found locally (offline): ipld: could not find {cid}")
        return web.Response(body=self.corrupt(data))

    async def _stat(self, request: web.Request) -> web.Response:
        cid = Cid(request.query["arg"])
        data = self._read(request, cid)
        if data is None:
            return self._error(f"block was not found locally (offline): ipld: could not find {cid}")
        return web.json_response({"Key": cid, "Size": len(data)})

    async def _put(self, request: web.Request) -> web.Response:
        data = await self._file(request)
        cid = cids.of_block({"raw": cids.RAW, "dag-pb": cids.DAG_PB}[request.query["cid-codec"]], data)
        self.store.write(cid, data)
        return web.json_response({"Key": cid, "Size": len(data)})

    async def _pin(self, request: web.Request) -> web.Response:
        root = Cid(request.query["arg"])
        todo: list[tuple[Cid, cids.Place | None]] = [(root, None)]
        while todo:
            cid, place = todo.pop()
            data = self._read(request, cid)
            if data is None:
                return self._error(f"pin: block was not found: {cid}")
            if not cids.is_raw(cid):
                todo += cids.walk(data, place)
        self.store.pin(root)
        return web.json_response({"Pins": [root]})

    async def _unpin(self, request: web.Request) -> web.Response:
        root = Cid(request.query["arg"])
        if root not in self.store.pins():
            return self._error("not pinned or pinned indirectly")
        self.store.unpin(root)
        return web.json_response({"Pins": [root]})
