# Measures a network of nodes, one process each, that know one address: every node publishes a record of its own (some 400 bytes), and reads
# those of all others: seconds from the last node's start until all have read all, and memory of a node. Against: the same with hivemind's DHT
# (1.1.12, PyPI, whose wheel brings its daemon p2pd), in the same run, the two in turns. Ours are signed records, passed on over links, and in
# a Kademlia table; hivemind's are plain values in its Kademlia table, fetched by key. Memory: ours as resident size, hivemind's as proportional
# size of a node's processes (it forks, and shares pages). Averaging is not compared: ours has none between peers.
"""Run: python bench/dht.py [--quick] [--json]. hivemind is no dependency: pip install --target FOLDER hivemind, then PYTHONPATH=FOLDER."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from typing import Any

import psutil

from assay.localnet.memory import of_process

RECORD = 400
NODES, QUICK = 10, 5


def node(name: int, nodes: int, bootstrap: str) -> None:
    """One process."""
    hivemind: Any = importlib.import_module("hivemind")
    begun = time.time()
    dht = hivemind.DHT(start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=[bootstrap] if bootstrap else [])
    print(json.dumps({"up": time.time(), "start": time.time() - begun, "address": str(dht.get_visible_maddrs()[0])}), flush=True)
    dht.store(f"record-{name}", secrets.token_bytes(RECORD), time.time() + 600)
    missing = set(range(nodes)) - {name}
    while missing:
        missing = {other for other in missing if dht.get(f"record-{other}") is None}
    me = psutil.Process()
    family = [me, *me.children(recursive=True)]
    print(json.dumps({"knew": time.time(), "memory": sum(map(of_process, family))}), flush=True)
    sys.stdin.read()
    dht.shutdown()


def theirs(nodes: int) -> dict[str, float]:
    def start(name: int, bootstrap: str) -> subprocess.Popen[str]:
        words = [sys.executable, __file__, "--node", str(name), "--nodes", str(nodes), "--bootstrap", bootstrap]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        found: dict[str, Any] = json.loads(process.stdout.readline())
        return found

    children = [start(0, "")]
    try:
        up = [read(children[0])]
        children += [start(name, up[0]["address"]) for name in range(1, nodes)]
        up += [read(child) for child in children[1:]]
        knew = [read(child) for child in children]
    finally:
        for child in children:
            child.communicate("", timeout=60)
    after = max(k["knew"] for k in knew) - max(u["up"] for u in up)
    return {
        "start_alone_seconds": round(up[0]["start"], 2), "all_known_after_last_up_seconds": round(after, 2),
        "memory_mb_max": round(max(k["memory"] for k in knew) / 1e6, 1),
    }  # fmt: skip


def ours(nodes: int) -> dict[str, float]:
    words = [sys.executable, os.path.join(os.path.dirname(__file__), "peers.py"), "--json", "--nodes", str(nodes)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {name: found[name] for name in ("start_alone_seconds", "all_known_after_last_up_seconds", "memory_mb_max")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--node", type=int)
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--bootstrap", default="")
    args = parser.parse_args()
    if args.node is not None:
        return node(args.node, args.nodes, args.bootstrap)
    if importlib.util.find_spec("hivemind") is None:
        print(json.dumps({"skipped": "hivemind is not installed"}))
        return None
    nodes, rounds = args.nodes or (QUICK if args.quick else NODES), 1 if args.quick else 2
    runs = [(ours(nodes), theirs(nodes)) for _ in range(rounds)]
    found: dict[str, Any] = {"nodes": nodes, "rounds": rounds}
    for place, who in enumerate(("ours", "hivemind")):
        found[who] = {name: statistics.median(run[place][name] for run in runs) for name in runs[0][place]}
    for key, value in found.items():
        print(f"{key:10} {value}", file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(found))
    return None


if __name__ == "__main__":
    main()
