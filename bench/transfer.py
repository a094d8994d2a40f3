# Measures: MB/s of a blob on its way from one node's block store to another's, every block checked against its CID and written to disk:
# over streams (what nodes do), and with a request for each block (what any gateway understands). Two processes; loopback, several sizes,
# and, for root where there are network namespaces, links of 1 and 10 Gbit/s. A library's encrypted and multiplexed stream beside them.
# Against: a raw TCP copy in the same run, from a file to a file, by the kernel's sendfile and a loop of recv and write, unchecked; the same
# with SHA-256 of what comes, which is what a copy must do that is not trusted; and into memory only, unchecked. The kinds take turns;
# ratios are medians of those of each turn, since other work on the machine disturbs all. And the bound that hashing sets: how fast one core does
# SHA-256 here, one message at a time and two (what a fetch does), in the same run; what a fetch may then reach of the copy when the cores that
# there are do nothing but its work: the copy's processor time and the hash, shared between them, at best (`of_bound` is the fetch beside that).
# Goal: at least 80 % of what the raw TCP copy reaches.
"""Run: python bench/transfer.py [--quick] [--json] [--runs N]"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import platform
import resource
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from assay.adapters.ipfs import LocalBlobs
from assay.adapters.ipfs_gateway import BlockGateway
from assay.adapters.ipfs_hash import Hashes, one_by_one
from assay.adapters.ipfs_hash import best as best_hashes
from assay.adapters.ipfs_stream import BATCH
from assay.cid import CHUNK
from assay.exact.native.build import library
from assay.ids import Cid

HOST, FAR, NEAR = "127.0.0.1", "10.231.7.1", "10.231.7.2"
RATES = {"1gbit": "256kb", "10gbit": "2mb"}
"""Of links, and what may pass in one go: at 10 Gbit/s that is 1.6 ms."""
PLACE = "/var/tmp"
"""Not where tests have just removed thousands of files: ext4 then makes new ones ten times as slowly."""
LIBRARY_BYTES = 32 << 20
PROTOCOL = "/bench/transfer/1"
KINDS = {
    "copy": "raw TCP, file to file", "checked": "the same, with SHA-256", "memory": "raw TCP, to memory",
    "streams": "fetch over streams", "requests": "fetch by requests",
}  # fmt: skip


# ---- the other process -----------------------------------------------------------------------------------------------------


def serve(folder: Path, host: str) -> None:
    """Gateways with and without streams over the store in `folder`, raw TCP servers that send a file whole, a library's host."""
    file = folder / "raw"

    def send(wire: socket.socket) -> None:
        with file.open("rb") as source:
            wire.sendfile(source)

    async def gateways() -> None:
        store = LocalBlobs(folder, lambda near: []).store
        streams, requests = BlockGateway(store), BlockGateway(store, streams=0)
        where: dict[str, Any] = {"streams": await streams.start(host), "requests": await requests.start(host), "raw": listen(host, send)}
        where["library"] = await asyncio.to_thread(library_host, host)
        print(json.dumps(where), flush=True)
        await asyncio.Event().wait()

    asyncio.run(gateways())


def listen(host: str, answer: Callable[[socket.socket], None]) -> int:
    """A TCP server in a thread; the port."""
    listener = socket.create_server((host, 0))

    def forever() -> None:
        while True:
            wire, _ = listener.accept()
            with wire, contextlib.suppress(OSError):
                answer(wire)

    threading.Thread(target=forever, daemon=True).start()
    return int(listener.getsockname()[1])


def library_host(host: str) -> str:
    """A py-libp2p host, as a node has it, that writes LIBRARY_BYTES to each stream; its address."""
    up: list[str] = []
    ready = threading.Event()

    def run() -> None:
        import trio
        from libp2p.custom_types import TProtocol
        from multiaddr import Multiaddr

        from assay.adapters.libp2p_host import make_host

        async def main() -> None:
            listen = [Multiaddr(f"/ip4/{host}/tcp/0")]
            node = make_host(secrets.token_bytes(32), listen, 8)

            async def write(stream: Any) -> None:
                part = bytes(1 << 18)
                for _ in range(LIBRARY_BYTES // len(part)):
                    await stream.write(part)
                await stream.close()

            async with node.run(listen):
                node.set_stream_handler(TProtocol(PROTOCOL), write)
                up.append(f"{node.get_transport_addrs()[0]}/p2p/{node.get_id()}")
                ready.set()
                await trio.sleep_forever()

        trio.run(main)

    threading.Thread(target=run, daemon=True).start()
    ready.wait(300)
    return up[0]


# ---- this side -------------------------------------------------------------------------------------------------------------


def raw(host: str, port: int, size: int, into: Path | None, checked: bool = False) -> None:
    """The copy: into a file, or into memory."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(size if into is None else 1 << 18))
    at = 0
    with socket.create_connection((host, port)) as wire, into.open("wb", buffering=0) if into else contextlib.nullcontext() as file:
        while got := wire.recv_into(buffer[at:] if file is None else buffer):
            if checked:
                digest.update(buffer[:got])
            if file is not None:
                file.write(buffer[:got])
            at += got
    assert at == size


def fetch(folder: Path, url: str, root: Cid, size: int) -> None:
    async def whole() -> None:
        node = LocalBlobs(folder, lambda near: [url])
        started.append(time.perf_counter())
        await node.fetch(root, size)
        started.append(time.perf_counter())
        await node.close()

    started: list[float] = []
    asyncio.run(whole())
    times["fetch"] = started[1] - started[0]


times: dict[str, float] = {}


def from_library(address: str) -> float:
    """MB/s over one stream of the library, Noise and Yamux."""
    import trio
    from libp2p.custom_types import TProtocol
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    from assay.adapters.libp2p_host import make_host

    async def main() -> float:
        node = make_host(secrets.token_bytes(32), [], 8)
        async with node.run([]):
            info = info_from_p2p_addr(Multiaddr(address))
            await node.connect(info)
            stream = await node.new_stream(info.peer_id, [TProtocol(PROTOCOL)])
            started, at = time.perf_counter(), 0
            while at < LIBRARY_BYTES:
                at += len(await stream.read(1 << 18))
            return LIBRARY_BYTES / (time.perf_counter() - started) / 1e6

    return float(trio.run(main))


def hashing() -> dict[str, float]:
    """MB of blocks of 256 KiB that one thread hashes in a second of its processor time: by hashlib, and as a fetch does it."""
    library()  # what has it uses it
    blocks, sizes = memoryview(bytearray(BATCH * CHUNK)), [CHUNK] * BATCH

    def rate(hashes: Hashes) -> float:
        best = 0.0
        for _ in range(20):
            started = time.thread_time()
            for _ in range(8):
                hashes(blocks, sizes)
            best = max(best, 8 * len(blocks) / (time.thread_time() - started))
        return round(best / 1e6, 1)

    return {"hashlib_mb_per_s": rate(one_by_one), "pairs_mb_per_s": rate(best_hashes())}


def processor() -> float:
    """Seconds of processor time that this process has had."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def once(kind: str, where: dict[str, Any], host: str, root: Cid, size: int, folder: Path) -> float:
    """Seconds of one transfer."""
    if kind in ("copy", "checked", "memory"):
        started = time.perf_counter()
        raw(host, where["raw"], size, None if kind == "memory" else folder / "copied", kind == "checked")
        return time.perf_counter() - started
    fetch(folder / "node", where[kind], root, size)
    return times["fetch"]


@contextlib.contextmanager
def other(folder: Path, host: str, inside: list[str]) -> Iterator[dict[str, Any]]:
    child = subprocess.Popen([*inside, sys.executable, __file__, "--serve", str(folder), "--host", host], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        yield json.loads(child.stdout.readline())
    finally:
        child.kill()
        child.wait()


def measure(size: int, runs: int, kinds: list[str], host: str, inside: list[str], speed: dict[str, float]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=PLACE) as name:
        folder = Path(name)
        data = os.urandom(size)
        (folder / "source").mkdir()
        (folder / "source" / "raw").write_bytes(data)
        root = asyncio.run(LocalBlobs(folder / "source", lambda near: []).put(data))
        del data
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        spent: dict[str, list[float]] = {kind: [] for kind in kinds}
        with other(folder / "source", host, inside) as where:
            for turn in range(runs + 1):
                for kind in kinds:
                    place = folder / f"{kind}{turn}"
                    place.mkdir()
                    used = processor()
                    took = once(kind, where, host, root, size, place)
                    if turn:  # the first warms up
                        spent[kind].append(processor() - used)
                        seconds[kind].append(took)  # removed at the end only: ext4 is slow to make files where many have just gone
            library = from_library(where["library"])
    found: dict[str, Any] = {"bytes": size, **{f"{kind}_mb_per_s": round(size / statistics.median(seconds[kind]) / 1e6, 1) for kind in kinds}}
    for kind in kinds[1:]:
        ratios = [copy / took for copy, took in zip(seconds["copy"], seconds[kind], strict=True)]
        found[f"{kind}_to_copy"] = round(statistics.median(ratios), 3)
    found["copy_cpu_ms"], found["streams_cpu_ms"] = (round(1e3 * statistics.median(spent[kind]), 1) for kind in ("copy", "streams"))
    found |= bound(size, statistics.median(seconds["copy"]), statistics.median(spent["copy"]), speed["pairs_mb_per_s"])
    found["streams_of_bound"] = round(found["streams_to_copy"] / found["bound"], 3)
    return {**found, "library_mb_per_s": round(library, 1)}


def bound(size: int, copy: float, spent: float, speed: float) -> dict[str, float]:
    """What share of the copy's speed a checked copy can have: it takes `spent` seconds of processor time as the copy does, and the hash at `speed`
    MB/s, on all cores at best; the wire of a link is no faster for it."""
    return {"bound": round(copy / max(copy, (spent + size / speed / 1e6) / (os.cpu_count() or 1)), 3)}


@contextlib.contextmanager
def link(rate: str) -> Iterator[list[str]]:
    """A network namespace at the other end of a link of this rate; what to put before a command to run it there."""
    name = f"assay{os.getpid()}"
    setup = (
        f"ip netns add {name}",
        f"ip link add {name}a type veth peer name {name}b netns {name}",
        f"ip addr add {NEAR}/30 dev {name}a",
        f"ip link set {name}a up",
        f"ip -n {name} addr add {FAR}/30 dev {name}b",
        f"ip -n {name} link set {name}b up",
        f"tc -n {name} qdisc add dev {name}b root tbf rate {rate} burst {RATES[rate]} latency 20ms",
        f"tc qdisc add dev {name}a root tbf rate {rate} burst {RATES[rate]} latency 20ms",
    )
    try:
        for line in setup:
            subprocess.run(line.split(), check=True, capture_output=True)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="8 MiB twice on loopback")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--host", default=HOST, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.host)
        return
    runs = args.runs or (2 if args.quick else 5)
    speed = hashing()
    report: dict[str, Any] = {
        "bench": "transfer", "runs": runs, "cpus": os.cpu_count(), "machine": platform.machine(), "sha256": speed, "loopback": [], "links": []
    }  # fmt: skip
    print(f"SHA-256 of one core: {speed['hashlib_mb_per_s']:.0f} MB/s, {speed['pairs_mb_per_s']:.0f} MB/s two messages at a time")
    for mib in (8,) if args.quick else (8, 64):
        report["loopback"].append(measure(mib << 20, runs, list(KINDS), HOST, [], speed))
        show(f"loopback, {mib} MiB", report["loopback"][-1])
    for rate in () if args.quick else RATES:
        try:
            with link(rate) as inside:
                report["links"].append({"rate": rate, **measure(64 << 20, runs, list(KINDS), FAR, inside, speed)})
            show(f"link of {rate}, 64 MiB", report["links"][-1])
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no link of {rate} can be made here: {error}")
    if args.json:
        print(json.dumps(report))


def show(what: str, found: dict[str, Any]) -> None:
    print(what)
    for kind, words in KINDS.items():
        ratio = found.get(f"{kind}_to_copy")
        print(f"  {words:24} {found[f'{kind}_mb_per_s']:8.0f} MB/s {'' if ratio is None else f'{ratio:8.2f} of the copy'}", flush=True)
    print(f"  {'bound by hashing':24} {'':13} {found['bound']:8.2f} of the copy; streams reach {found['streams_of_bound']:.2f} of it")
    print(f"  {'library stream':24} {found['library_mb_per_s']:8.0f} MB/s")


if __name__ == "__main__":
    main()
