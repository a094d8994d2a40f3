# Measures the average of a vector of M float32 numbers, one vector to a process, until each of N processes has it: wall-clock seconds from the first
# that begins to the last that has it, of all processes' processor time, and bytes over the loopback of a network namespace of its own (where one
# can be made). Ours is the exact sum of the ranks (assay/exact/ranks: a hub, exponents and then int64 sums), with the same bits in every process
# and in every order of adding. Against: hivemind's DecentralizedAverager (1.1.12, PyPI), in the same run, in turns: float32 without compression,
# a butterfly all-reduce between peers, timed from its trigger, when the group has been found; how long finding it took is told beside it. What
# is not the same: its peers find each other in a DHT and some may fail; ours are told where the hub is, and one that fails ends the sum. No goal.
"""Run: python bench/averaging.py [--quick] [--json]. hivemind is no dependency: pip install --target FOLDER hivemind, then PYTHONPATH=FOLDER."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import psutil

PEERS, NUMBERS = 4, 1 << 22
QUICK_PEERS, QUICK_NUMBERS = 2, 1 << 18
WITHIN = 240.0
"""Seconds that the peers of hivemind have to find each other, and to average."""


def vector(name: int, numbers: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(name).standard_normal(numbers, np.float32)


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def spent() -> float:
    """Seconds of processor time of this process and those that it started."""
    me = psutil.Process()
    return sum(p.cpu_times().user + p.cpu_times().system for p in [me, *me.children(recursive=True)])


def said(result: Any, begun: float, ended: float, used: float) -> None:
    say(begun=begun, ended=ended, cpu=used, digest=hashlib.sha256(result.tobytes()).hexdigest(), first=[float(x) for x in result[:8]])


# ---- one process -----------------------------------------------------------------------------------------------------------


def ours(name: int, peers: int, numbers: int, port: int) -> None:
    from assay.exact.ranks.exchanges import Exchange, perform
    from assay.exact.ranks.wire import DONE, SocketComm, send
    from assay.exact.table import TensorType

    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(bytes([name]))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        comm, x = SocketComm(sock, name, peers), vector(name, numbers).reshape(1, numbers)
        whole = Exchange("sum", (0,), 1, TensorType(dtype="f32", shape=(numbers,)), {"axes": (0,)}, terms=peers)
        say(ready=True)
        sys.stdin.readline()
        before, begun = spent(), time.time()
        (total,) = perform([whole], [[x]], 14, comm)
        mean = total / np.float32(peers)
        said(mean, begun, time.time(), spent() - before)
        send(sock, DONE, b"")


def theirs(name: int, peers: int, numbers: int, bootstrap: str) -> None:
    hivemind: Any = importlib.import_module("hivemind")
    torch: Any = importlib.import_module("torch")
    control_of: Any = importlib.import_module("hivemind.averaging.control")
    torch.set_num_threads(1)
    dht = hivemind.DHT(start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"], initial_peers=[bootstrap] if bootstrap else [])
    tensors = [torch.from_numpy(vector(name, numbers).copy())]
    averager = hivemind.averaging.DecentralizedAverager(
        tensors, dht, prefix="bench", start=True, target_group_size=peers, min_group_size=peers, min_matchmaking_time=5.0, request_timeout=3.0,
    )  # fmt: skip
    say(ready=True, address=str(dht.get_visible_maddrs()[0]))
    sys.stdin.readline()
    looked = time.time()
    step = averager.step(wait=False, require_trigger=True, timeout=WITHIN)
    while step.stage != control_of.AveragingStage.AWAITING_TRIGGER:
        if step.done() or time.time() - looked > WITHIN:
            raise SystemExit(f"no group was found: {step}")
        time.sleep(0.01)
    say(found=time.time() - looked)
    sys.stdin.readline()
    before, begun = spent(), time.time()
    step.allow_allreduce()
    step.result(timeout=WITHIN)
    ended = time.time()
    with averager.get_tensors() as averaged:
        said(averaged[0].numpy(), begun, ended, spent() - before)
    averager.shutdown()
    dht.shutdown()


# ---- all of them -----------------------------------------------------------------------------------------------------------


def sent() -> int:
    """Bytes that have gone over the loopback of this namespace."""
    return psutil.net_io_counters(pernic=True)["lo"].bytes_sent


def group(who: str, peers: int, numbers: int) -> dict[str, Any]:
    """Starts the processes, has them average at once, and says what came of it."""
    from assay.exact.ranks.wire import attend

    listener = socket.create_server(("127.0.0.1", 0))
    hub = threading.Thread(target=lambda: attend(_ranks(listener, peers)), daemon=True)
    children: list[subprocess.Popen[str]] = []

    def start(name: int, where: str) -> dict[str, Any]:
        words = [sys.executable, __file__, "--node", who, str(name), str(peers), str(numbers), where]
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        children.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=quiet, text=True, start_new_session=True))
        return read(children[-1])

    def read(child: subprocess.Popen[str]) -> dict[str, Any]:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer of {who} ended with {child.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def go() -> None:
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()

    try:
        where = str(listener.getsockname()[1]) if who == "ours" else ""
        if who == "ours":
            hub.start()
        for name in range(peers):
            where = start(name, where).get("address", where)
        looking = 0.0
        if who == "hivemind":
            go()
            looking = max(read(child)["found"] for child in children)
        hubs, before = time.process_time(), sent()
        go()
        done = [read(child) for child in children]
        moved = sent() - before
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # and what it has forked
            child.wait()
        listener.close()
    return {
        "seconds": round(max(one["ended"] for one in done) - min(one["begun"] for one in done), 3),
        "cpu_seconds": round(sum(one["cpu"] for one in done) + (time.process_time() - hubs if who == "ours" else 0), 3),
        "megabytes": round(moved / 1e6, 1), "finding_seconds": round(looking, 2), "same_bits": len({one["digest"] for one in done}) == 1,
        "first": done[0]["first"],
    }  # fmt: skip


def _ranks(listener: socket.socket, peers: int) -> list[socket.socket]:
    came = {}
    for _ in range(peers):
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        came[sock.recv(1)[0]] = sock
    return [came[name] for name in range(peers)]


def report(peers: int, numbers: int, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"bench": "averaging", "peers": peers, "numbers": numbers, "rounds": rounds, "namespace": _alone()}
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "hivemind": []}
    for _ in range(rounds):
        for who, their in runs.items():
            their.append(group(who, peers, numbers))
    mean = np.mean([vector(name, numbers)[:8].astype(np.float64) for name in range(peers)], axis=0)
    for who, their in runs.items():
        found[who] = {name: statistics.median(run[name] for run in their) for name in ("seconds", "cpu_seconds", "finding_seconds")}
        found[who]["megabytes"] = statistics.median(run["megabytes"] for run in their) if _alone() else None
        found[who]["same_bits"] = all(run["same_bits"] for run in their)
        found[who]["farthest_from_mean"] = float(max(np.abs(np.array(run["first"]) - mean).max() for run in their))
    return found


def _alone() -> bool:
    return os.environ.get("ALONE") == "1"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--node", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.node:
        who, name, peers, numbers, where = args.node
        return ours(int(name), int(peers), int(numbers), int(where)) if who == "ours" else theirs(int(name), int(peers), int(numbers), where)
    if importlib.util.find_spec("hivemind") is None:
        print(json.dumps({"skipped": "hivemind is not installed"}))
        return None
    if not _alone() and shutil.which("unshare") and shutil.which("ip"):
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', sys.executable, __file__, *sys.argv[1:]]
        if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0:
            raise SystemExit(subprocess.run(command, env={**os.environ, "ALONE": "1"}).returncode)
    found = report(QUICK_PEERS, QUICK_NUMBERS, 1) if args.quick else report(PEERS, NUMBERS, 3)
    for key, value in found.items():
        print(f"{key:10} {value}", file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(found))
    return None


if __name__ == "__main__":
    main()
