# Measures a network of nodes of py-libp2p peers, one process each, that know only a bootstrap address: seconds until every one knows
# all, import and start of one, memory and idle CPU of a node, latency of a request and of gossip, announcements that arrived of a burst.
# Against: a bare TCP round trip between two processes in the same run (latency), and the number of announcements sent.
# Goal: found within 2 s of the last one being up; under 100 MB and 1 % of a core a node that waits; no announcement lost.
"""Run: python bench/peers.py [--quick] [--json] [--nodes N]"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from assay.adapters.libp2p import Libp2pPeers
from assay.ids import Address, Cid, JobId, PeerId, SegmentId
from assay.messages import Ack, AnyReply, AnyRequest, Heartbeat, JobAnnouncement, PeerRecord

ACCOUNT = Address("0x" + "11" * 20)
BURST = 50
IDLE = 5.0
"""Seconds over which idle CPU is measured."""


def record(addresses: list[str]) -> PeerRecord:
    return PeerRecord(
        peer=PeerId(""), account=ACCOUNT, role="bench", addresses=tuple(addresses), gateway="", sequence=0, chain_id=1, contract=ACCOUNT
    )


async def node(folder: Path, nodes: int, bootstrap: str, first: bool) -> None:
    """One process: says when it is up and when it knows all, then does what stdin tells it."""
    begun = time.time()
    peers = Libp2pPeers(secrets.token_bytes(32), [], [bootstrap] if bootstrap else [], record, folder)
    heard: list[float] = []

    async def answer(peer: PeerId, message: AnyRequest) -> AnyReply:
        return Ack()

    await peers.start(answer, lambda peer, message: heard.append(time.time() - message.respond_by / 1e6))
    say(up=time.time(), start=time.time() - begun, address=peers.addresses[0])
    while len(peers.records()) < nodes - 1:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    say(knew=time.time())
    while True:
        match (await asyncio.to_thread(sys.stdin.readline)).strip():
            case "idle":
                cpu = time.process_time()
                await asyncio.sleep(IDLE)
                say(idle=(time.process_time() - cpu) / IDLE, memory=psutil.Process().memory_info().rss)
            case "ask" if first:
                say(latencies=await ask(peers))
            case "burst" if first:
                for _ in range(BURST):
                    await peers.gossip(announcement())
                say(sent=BURST)
            case "heard":
                say(heard=heard)
            case "stop" | "":
                await peers.stop()
                return


def announcement() -> JobAnnouncement:
    now = int(time.time() * 1e6)
    return JobAnnouncement(
        job=JobId(1), spec=Cid("b"), parent=SegmentId(0), start=0, stop=1, price_cap=1, scheduler=PeerId(""), respond_by=now
    )


async def ask(peers: Libp2pPeers) -> list[float]:
    target = peers.records()[0].peer
    out = []
    for step in range(220):
        begun = time.perf_counter()
        await peers.request(target, Heartbeat(segment=SegmentId(1), step=step, loss_f32=0), 10)
        out.append(time.perf_counter() - begun)
    return out[20:]


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def raw_round_trip() -> float:
    """Median seconds of one small message there and back over TCP, between two threads."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(100):
                connection.sendall(data)

    threading.Thread(target=echo, daemon=True).start()
    times = []
    with socket.create_connection(listener.getsockname()) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(500):
            begun = time.perf_counter()
            wire.sendall(b"x" * 80)
            wire.recv(100)
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


class Child:
    def __init__(self, folder: Path, nodes: int, bootstrap: str, first: bool) -> None:
        command = [sys.executable, __file__, "--node", str(folder), "--nodes", str(nodes), "--bootstrap", bootstrap, *(["--first"] if first else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def tell(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()


def measure(nodes: int) -> dict[str, Any]:
    children: list[Child] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            children.append(Child(Path(folder) / "0", nodes, "", False))
            up = [children[0].read()]
            children += [Child(Path(folder) / str(i), nodes, up[0]["address"], i == 1) for i in range(1, nodes)]
            up += [child.read() for child in children[1:]]
            knew = [child.read()["knew"] for child in children]
            time.sleep(8)  # records are put into the table meanwhile
            for child in children:
                child.tell("idle")
            quiet = [child.read() for child in children]
            children[1].tell("ask")
            latencies = children[1].read()["latencies"]
            children[1].tell("burst")
            sent = children[1].read()["sent"]
            others = [child for child in children if child is not children[1]]
            for _ in range(20):  # until all is there or nothing more comes
                time.sleep(1)
                for child in others:
                    child.tell("heard")
                heard = [child.read()["heard"] for child in others]
                if sum(map(len, heard)) == sent * len(others):
                    break
            for child in children:
                child.tell("stop")
            for child in children:
                child.process.wait(30)
        finally:
            for child in children:
                child.process.kill()
                child.process.wait()
    return {
        "nodes": nodes,
        "start_alone_seconds": round(up[0]["start"], 3),
        "all_up_seconds": round(max(u["up"] for u in up[1:]) - up[0]["up"], 3),
        "all_known_after_last_up_seconds": round(max(knew) - max(u["up"] for u in up), 3),
        "memory_mb_max": round(max(q["memory"] for q in quiet) / 1e6, 1),
        "idle_cpu_percent_median": round(100 * statistics.median(q["idle"] for q in quiet), 2),
        "request_ms_median": round(1000 * statistics.median(latencies), 3),
        "request_ms_p99": round(1000 * sorted(latencies)[int(len(latencies) * 0.99)], 3),
        "raw_tcp_ms_median": round(1000 * raw_round_trip(), 3),
        "announcements_sent": sent * (nodes - 1),
        "announcements_heard": sum(len(h) for h in heard),
        "burst_ms_median": round(1000 * statistics.median(s for h in heard for s in h), 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--node", type=Path)
    parser.add_argument("--bootstrap", default="")
    parser.add_argument("--first", action="store_true")
    args = parser.parse_args()
    if args.node is not None:
        asyncio.run(node(args.node, args.nodes, args.bootstrap, args.first))
        return
    found = measure(args.nodes or (5 if args.quick else 14))
    if not args.json:
        for key, value in found.items():
            print(f"{key:34} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
