"""A worker that lets nothing in and has no port forwarded, on a network of real processes: it says `--announce relay` and is paid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_localnet_net import ASSAY, SUBMIT, assay, daemon, until, written

from assay.messages import THROUGH

OUTSIDE, INSIDE, PRIVATE = "10.231.9.1", "10.231.9.2", "10.99.7.1"
"""The two ends of the link to the worker's namespace, and the address there that nobody outside has a way to."""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assay(tmp_path, "net", "down")


def _log(here: Path, role: str) -> list[dict[str, object]]:
    (file,) = here.glob(f"**/{role}/log.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@contextlib.contextmanager
def namespace() -> Iterator[list[str]]:
    """A network namespace from which this machine's loopback addresses are reached, as they are everywhere here, and whose own address PRIVATE
    is reached by nobody; what to put before a command to run it there."""
    name = f"assay{os.getpid()}"
    far = f"ip netns exec {name} sh -c"
    setup = (
        f"ip netns add {name}",
        f"ip link add {name}a type veth peer name {name}b netns {name}",
        f"ip addr add {OUTSIDE}/30 dev {name}a",
        f"ip link set {name}a up",
        f"sysctl -q -w net.ipv4.conf.{name}a.route_localnet=1",
        f"{far} 'ip addr add {INSIDE}/30 dev {name}b; ip link set {name}b up; sysctl -q -w net.ipv4.conf.{name}b.route_localnet=1'",
        f"{far} 'ip link set lo up && ip addr del 127.0.0.1/8 dev lo && ip addr add {PRIVATE}/32 dev lo && ip route add 127.0.0.0/8 via {OUTSIDE}'",
    )
    try:
        for line in setup:
            subprocess.run(line, shell=True, check=True, capture_output=True)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.slow
def test_a_worker_behind_a_router_with_nothing_forwarded_takes_part(here: Path) -> None:
    """It listens on an address that nobody outside its namespace has a way to. The scheduler copies its checkpoints before it commits them, the
    verifier has what it wants, and it is paid for all."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("sysctl"):
        pytest.skip("network namespaces are made by root, with ip and sysctl")
    with contextlib.ExitStack() as stack:
        try:
            inside = stack.enter_context(namespace())
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
        assay(here, "net", "up")
        written(here)
        local = assay(here, "run", "train.py", "--local")
        worker = [*inside, *ASSAY, "worker", "start", "--json", "--announce", "relay", "--listen", PRIVATE]
        with daemon(here, "keyservice"), daemon(here, "scheduler"), daemon(here, "worker", command=worker), daemon(here, "verifier"):
            (row,) = until(lambda: [row for row in assay(here, "peers")["peers"] if row["role"] == "worker"])
            assert row["gateway"] == THROUGH
            (kept,) = here.glob("**/worker/gateway-port")
            with pytest.raises(OSError, match=r"."):
                socket.create_connection((PRIVATE, int(kept.read_text())), 3)
            done = assay(here, *SUBMIT, "--watch", "--out", "first.safetensors")
            assert done["final_state_root"] == local["final_state_root"]
            (job,) = assay(here, "job", "list")["jobs"]
            assert (job["state"], job["settled"], job["segments"]) == ("done", 4, {"SETTLED": 2})
            earned = until(lambda: (e := assay(here, "worker", "earnings")) and e["credits"] and e)
            assert sum(credit["amount"] for credit in earned["credits"]) == 4 * 100_000
        noted = {role: [note["topic"] for note in _log(here, role)] for role in ("worker", "scheduler")}
        assert noted["worker"].count("copied") == noted["scheduler"].count("kept") == 2
        assert "alone" not in noted["worker"]
