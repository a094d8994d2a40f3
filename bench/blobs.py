# Measures: blocks per second and MB/s of a blob on its way from one node's block store to another's over the trustless gateway
# (two processes, loopback, every block checked against its CID and written to disk), and of `put` and `get` on one node.
# Against: the same bytes over one raw TCP connection between two processes in the same run, unchecked and kept in memory.
# Goal: the network is the limit, not the store: over 50 MB/s on one core, which is over 400 Mbit/s.
"""Run: python bench/blobs.py [--quick] [--json] [--size MiB] [--runs N]"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from assay import cid as cids
from assay.adapters.ipfs import LocalBlobs
from assay.adapters.ipfs_gateway import BlockGateway
from assay.ids import Cid


def serve(folder: Path) -> None:
    """The other process: a gateway over the store in `folder`, and a raw TCP server that sends the blob to each who connects."""
    data = (folder / "raw").read_bytes()
    listener = socket.create_server(("127.0.0.1", 0))

    def send_raw() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(data)

    async def gateway() -> None:
        url = await BlockGateway(LocalBlobs(folder, lambda near: []).store).start()
        print(json.dumps({"url": url, "port": listener.getsockname()[1]}), flush=True)
        await asyncio.Event().wait()

    threading.Thread(target=send_raw, daemon=True).start()
    asyncio.run(gateway())


def receive(port: int, size: int) -> float:
    """Seconds for the raw copy."""
    view, at = memoryview(bytearray(size)), 0
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while at < size and (got := connection.recv_into(view[at:])):
            at += got
    assert at == size
    return time.perf_counter() - started


async def put(folder: Path, data: bytes) -> tuple[Cid, float]:
    blobs = LocalBlobs(folder, lambda near: [])
    started = time.perf_counter()
    root = await blobs.put(data)
    return root, time.perf_counter() - started


async def fetch(folder: Path, url: str, root: Cid, data: bytes) -> tuple[float, float]:
    """Seconds to fetch into an empty store, and to read the blob from there."""
    node = LocalBlobs(folder, lambda near: [url])
    started = time.perf_counter()
    await node.fetch(root, len(data))
    fetched = time.perf_counter()
    assert await node.get(root) == data
    done = time.perf_counter()
    await node.close()
    return fetched - started, done - fetched


def measure(folder: Path, size: int, runs: int) -> dict[str, list[float]]:
    data = os.urandom(size)
    seconds: dict[str, list[float]] = {"raw": [], "put": [], "fetch": [], "get": []}
    for run in range(runs):
        root, took = asyncio.run(put(folder / f"source{run}", data))
        seconds["put"].append(took)
    source = folder / "source0"
    (source / "raw").write_bytes(data)
    child = subprocess.Popen([sys.executable, __file__, "--serve", str(source)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        where = json.loads(child.stdout.readline())
        for run in range(runs):
            seconds["raw"].append(receive(where["port"], size))
            fetched, got = asyncio.run(fetch(folder / f"node{run}", where["url"], root, data))
            seconds["fetch"].append(fetched)
            seconds["get"].append(got)
    finally:
        child.kill()
        child.wait()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 MiB once instead of 128 MiB three times")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--size", type=int, help="MiB")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    size, runs = (args.size or (16 if args.quick else 128)) << 20, args.runs or (1 if args.quick else 3)
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(Path(folder), size, runs)
    best = {name: statistics.median(times) for name, times in seconds.items()}
    count = sum(1 for _ in cids.blocks(bytes(size)))
    for name, what in {"raw": "raw TCP copy", "fetch": "fetch over the gateway", "put": "put", "get": "get"}.items():
        print(f"{what:24} {size / best[name] / 1e6:8.0f} MB/s {count / best[name]:8.0f} blocks/s")
    print(f"{'fetch / raw TCP':24} {best['raw'] / best['fetch']:8.2f}")
    if args.json:
        report = {
            "bench": "blobs", "bytes": size, "blocks": count, "runs": runs, "cpus": os.cpu_count(), "machine": platform.machine(),
            **{f"{name}_mb_per_s": round(size / value / 1e6, 1) for name, value in best.items()},
            "fetch_blocks_per_s": round(count / best["fetch"], 1), "fetch_to_raw": round(best["raw"] / best["fetch"], 3),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }  # fmt: skip
        print(json.dumps(report))


if __name__ == "__main__":
    main()
