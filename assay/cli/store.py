"""A node's blobs and the gateway over them: the embedded store, or an external IPFS daemon, and the port that others know."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from assay.cli.common import Trouble
from assay.ids import PeerId
from assay.messages import THROUGH

if TYPE_CHECKING:
    from assay.adapters.ipfs import LocalBlobs
    from assay.adapters.ipfs_fetch import Blocks
    from assay.adapters.ipfs_gateway import BlockGateway
    from assay.adapters.ipfs_kubo import KuboBlobs


async def open_gateway(blocks: Blocks, host: str, kept: Path) -> tuple[BlockGateway, str]:
    """The node's gateway and its URL, on the port that it had last (in the file `kept`), so that what others know of it, and what a router
    forwards, stays right; on any when that is taken."""
    from assay.adapters.ipfs_gateway import BlockGateway

    try:
        last = int((await asyncio.to_thread(kept.read_text))[:6])
    except (OSError, ValueError):
        last = 0
    if 0 < last < 65536:
        gateway = BlockGateway(blocks)
        with contextlib.suppress(OSError):
            return gateway, await gateway.start(host, last)
    gateway = BlockGateway(blocks)
    url = await gateway.start(host)
    await asyncio.to_thread(kept.write_text, url.rsplit(":", 1)[1])
    return gateway, url


def told_as(url: str, announce: str) -> tuple[str, tuple[str, int] | None]:
    """What others are told of the gateway that listens at `url`; and for a node that nobody can call (`relay`) host and port, by which the
    node itself joins them to it."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    if announce == "relay":
        return THROUGH, ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
    return f"http://{f'[{announce}]' if ':' in announce else announce}:{port}" if announce else url, None


def open_blobs(
    folder: Path, ipfs: str | None, locate: Callable[[Sequence[PeerId]], list[str]], room: int | None
) -> tuple[LocalBlobs | KuboBlobs, Blocks]:
    """The node's blobs, and the blocks of them that its own gateway serves to others. `room`: bytes for an embedded store; 0: what it has
    and half of what is free; None: as many as the disk takes."""
    from assay.adapters.ipfs import LocalBlobs
    from assay.adapters.ipfs_kubo import KuboBlobs

    if ipfs is None:
        local = LocalBlobs(folder, locate, quota=room or None)
        if room == 0:
            local.store.quota = local.store.used + shutil.disk_usage(folder).free // 2
        return local, local.store
    try:
        kubo = KuboBlobs(ipfs, folder, locate)
    except ValueError as error:
        raise Trouble("the IPFS daemon's address cannot be used", str(error), "--ipfs http://127.0.0.1:5001", 2) from None
    return kubo, kubo.blocks
