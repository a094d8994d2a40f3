"""A local network that outlives its command: up, used by nodes that are told nothing but where it is, down, and up again with its past."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from ports.kubo_rpc import KuboRpc

from assay import cid as cids
from assay.cli.common import ENVIRONMENT, FAILED
from assay.localnet import rpc
from tests.typed import typed

ASSAY = [sys.executable, "-m", "assay.cli"]
PATIENCE = 900.0
"""Seconds after which what was waited for has not happened. Nothing is measured by it: a command takes half a minute on a machine that is busy."""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; whatever was started in it is ended."""
    yield tmp_path
    assay(tmp_path, "net", "down")


def assay(here: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """The JSON object that a command ends with."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ASSAY_R") and name not in ("ASSAY_CONTRACT", "ASSAY_DATA")}
    done = typed([*words, "--json"], here, env, PATIENCE)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def daemon(here: Path, role: str, *options: str, command: list[str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A daemon of this role (or what `command` starts) that is up; stopped as its owner would."""
    words = command or [*ASSAY, role, "start", "--json", *options]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(words, cwd=here, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ThreadPoolExecutor(1) as reading,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if json.loads(line)["topic"] == "up":
                    break
            else:
                errors.seek(0)
                raise AssertionError(errors.read())
            reading.submit(process.stdout.read)  # a daemon whose notes nobody reads would stand still at the pipe's 64 KiB
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()  # or what reads from it would not end


def until(look: Any, within: float = PATIENCE) -> Any:
    """The first result of `look` that is true."""
    deadline = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_a_network_is_used_by_whoever_stands_in_its_folder_and_keeps_its_past(here: Path) -> None:
    first = assay(here, "net", "up")
    assert assay(here, "net", "up") == first  # what is up is left alone
    status = assay(here, "net", "status")
    assert status["up"] is True
    assert status["contract"] == first["contract"]
    assert assay(here, "job", "list") == {"jobs": []}
    assert assay(here, "doctor")["good"] is True

    with daemon(here, "verifier") as verifier:
        seen = until(lambda: (s := assay(here, "verifier", "status")) and s.get("known_peers", 0) >= 1 and s)
        assert seen["running"] is True
        assert seen["role"] == "verifier"
        assert psutil.Process(verifier.pid).memory_info().rss < 150 << 20
        twice = assay(here, "verifier", "start", code=ENVIRONMENT)
        assert "already running" in twice["error"]
        assert assay(here, "verifier", "withdraw")["taken"] is True
        earned = assay(here, "verifier", "earnings")
        assert earned["account"]["stake"] == 100_000_000
        assert earned["credits"] == []
    assert verifier.returncode == 0
    assert assay(here, "verifier", "status")["running"] is False

    assert assay(here, "net", "down")["ended"] == ["bootstrap", "chain", *(["engines"] if sys.platform == "linux" else [])]
    assert assay(here, "net", "status", code=FAILED)["up"] is False
    assert assay(here, "job", "list", code=2)["next"].startswith("start a local network")
    again = assay(here, "net", "up")
    assert again["contract"] == first["contract"]
    with daemon(here, "verifier"):  # its account, its stake and its seat are as it left them
        after = assay(here, "verifier", "earnings")["account"]
        assert after | {"native": 0} == earned["account"] | {"native": 0}


@pytest.mark.slow
def test_a_worker_proves_its_hardware_and_anybody_sees_it(here: Path) -> None:
    assay(here, "net", "up")
    with daemon(here, "worker", "--prove", str(1 << 24)):
        found = assay(here, "worker", "prove", "--wait", "110")["hardware"]
        assert found["memory"] == 1 << 24
        (row,) = [row for row in assay(here, "peers")["peers"] if row["role"] == "worker"]
        assert row["proven"]["memory"] == 1 << 24
        assert row["proven"]["rate"] > 0


SUBMIT = ["submit", "train.py", "--budget", "20", "--yes", "--segment-steps", "2", "--fee", "0.05", "--params", "fast.toml"]


def written(here: Path) -> None:
    """A training, and parameters of a job that waits for nothing."""
    train = here / "train.py"
    train.write_text(
        """import numpy as np
import torch.nn.functional as F
from torch import nn
import assay
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
training = assay.Training(model=nn.Linear(6, 3), loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
                          data=assay.Dataset("dots", x=x, y=(x[:, 0] > 0).astype("int64")), optimizer=assay.AdamW(lr=1e-2), batch=8, steps=4)
"""
    )
    params = here / "fast.toml"
    params.write_text("finality = 1\nseal_window = 60\nreveal_window = 60\nopen_window = 60\nchallenge_window = 1\nverifiers = 1\nquorum = 1\n")


def test_a_training_is_bought_watched_and_fetched_by_typing_commands(here: Path) -> None:
    assay(here, "net", "up")
    written(here)
    local = assay(here, "run", "train.py", "--local")
    with daemon(here, "keyservice"), daemon(here, "scheduler"), daemon(here, "worker"), daemon(here, "verifier"):
        poor = assay(here, "submit", "train.py", "--budget", "0.5", "--yes", "--segment-steps", "2", code=FAILED)
        assert "does not cover" in poor["error"]
        done = assay(here, *SUBMIT, "--watch", "--out", "first.safetensors")
        assert done["final_state_root"] == local["final_state_root"]
        (job,) = assay(here, "job", "list")["jobs"]
        assert (job["state"], job["settled"], job["segments"]) == ("done", 4, {"SETTLED": 2})
        shown = assay(here, "job", "show", "1")
        assert all(segment["receipt"].count("is paid") == 1 for segment in shown["segments"])
        fetched = assay(here, "job", "fetch", "1", "--out", "again.safetensors")
        assert fetched["final_state_root"] == local["final_state_root"]
        assert (here / "first.safetensors").read_bytes() == (here / "again.safetensors").read_bytes()
        assert assay(here, "job", "fetch", "7", "--out", "x", code=FAILED)["why"] == "there is no job 7 on this contract"
        audit = assay(here, "job", "audit", "1", "--replay", "2")
        assert (audit["failed"], audit["unchecked"], [row["end_root"] for row in audit["segments"]][-1]) == (0, 0, local["final_state_root"])
        assert all(row["findings"] == [] for row in audit["segments"])
        assert audit["segments"][-1]["held"]["replay"] >= 3  # link root, end root, the verifier's traces
        papers = here / "papers.json"
        made = assay(here, "job", "certificate", "1", "--out", str(papers))
        assert made["tensors"] > 0
        held = assay(here, "certificate", "verify", str(papers), "--weights", "first.safetensors", "--signer", made["signer"])
        assert held["holds"]
        assert held["client"] == made["signer"]
        stranger = assay(here, "job", "audit", "1", "--replay", "2", "--data", "nobody")
        assert stranger["failed"] == 0
        assert {finding["check"] for row in [stranger["whole"], *stranger["segments"]] for finding in row["findings"]} == {"delivery", "replay"}
        assert assay(here, "job", "audit", "7", code=FAILED)["why"].startswith("there is no job 7")
        earned = until(lambda: (e := assay(here, "worker", "earnings")) and e["credits"] and e)
        assert sum(credit["amount"] for credit in earned["credits"]) == 4 * 100_000


@pytest.mark.slow
def test_a_job_is_cancelled_in_the_middle_and_what_settled_is_its_clients(here: Path) -> None:
    assay(here, "net", "up")
    written(here)
    with daemon(here, "keyservice"), daemon(here, "scheduler"), daemon(here, "worker"), daemon(here, "verifier"):
        posted = assay(here, *SUBMIT[:3], "300", *SUBMIT[4:], "--steps", "400")
        first = psutil.Process(posted["pid"])  # it serves the job's data
        second = assay(here, *SUBMIT, "--steps", "4")
        serving = psutil.Process(second["pid"])  # and this one both jobs'
        try:
            assert not first.is_running() or first.status() == psutil.STATUS_ZOMBIE
            assert second["job"] == 2
            until(lambda: assay(here, "job", "list")["jobs"][1]["state"] == "done")
            assert assay(here, "job", "fetch", "2", "--out", "second.safetensors")["steps"] == 4
            serving = psutil.Process(json.loads((here / ".assay" / "client" / "behind.json").read_text())["process"]["pid"])  # job 1 alone
            until(lambda: assay(here, "job", "list")["jobs"][0]["settled"] >= 2)
            assert assay(here, "job", "cancel", "1")["cancelled"] is True  # an order to the process that serves
            until(lambda: assay(here, "job", "list")["jobs"][0]["state"] == "cancelled")
            until(lambda: not serving.is_running() or serving.status() == psutil.STATUS_ZOMBIE)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                serving.kill()
        partly = assay(here, "job", "fetch", "1", "--out", "partly.safetensors")
        assert 2 <= partly["steps"] < 400
        assert assay(here, "run", "train.py", "--local", "--steps", str(partly["steps"]))["final_state_root"] == partly["final_state_root"]


def test_a_daemon_whose_past_is_reorganised_away_begins_again_and_registers_again(here: Path) -> None:
    """Deeper than its confirmations: what it acted on never happened. It must neither stop for good nor go on with two histories."""
    url = assay(here, "net", "up")["rpc"]
    fork = int(rpc.call(url, "eth_blockNumber"), 16)
    with daemon(here, "verifier"):
        before = until(lambda: (s := assay(here, "verifier", "status")) and s.get("head", 0) and s)
        until(lambda: assay(here, "verifier", "status")["head"] >= before["head"] + 2)
        rpc.call(url, "anvil_reorg", int(rpc.call(url, "eth_blockNumber"), 16) - fork, [])
        begun = until(lambda: [n for n in _log(here, "verifier") if n["topic"] == "reorganised"])
        assert "begins again" in begun[0]["text"]
        again = until(lambda: [n for n in _log(here, "verifier") if n["topic"] == "up"][1:])
        assert again[0]["account"] == before["account"]
        until(lambda: assay(here, "verifier", "status")["head"] > before["head"])
    account = assay(here, "verifier", "earnings")["account"]
    assert (account["stake"], account["reserved"]) == (100_000_000, 1_000_000)  # deposited and seated again
    assert list(here.glob("**/before-*journal.sqlite"))


def _log(here: Path, role: str) -> list[dict[str, Any]]:
    (file,) = here.glob(f"**/{role}/log.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_daemon_keeps_its_blobs_in_an_ipfs_daemon_that_is_named(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Over the protocol's documentation (tests/ports/kubo_rpc.py): what the gateway serves is what the daemon holds."""
    assay(here, "net", "up")
    blob = b"known to the daemon only"

    async def go() -> tuple[int, bytes]:
        kubo = KuboRpc(tmp_path_factory.mktemp("kubo"))
        url = await kubo.start()
        try:
            cid = cids.of(blob)
            kubo.store.write(cid, blob)
            command = [*ASSAY, "verifier", "start", "--json", "--ipfs", url]
            process = await asyncio.create_subprocess_exec(*command, cwd=here, stdout=asyncio.subprocess.PIPE, limit=1 << 20)
            try:
                assert process.stdout is not None
                async for line in process.stdout:
                    if json.loads(line)["topic"] == "up":
                        break
                (gateway,) = {c.laddr for c in psutil.Process(process.pid).net_connections("tcp") if c.status == "LISTEN" and _is_http(c.laddr)}
                async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{gateway.port}/ipfs/{cid}?format=raw") as answer:
                    return answer.status, await answer.read()
            finally:
                process.send_signal(signal.SIGTERM)
                await process.wait()
        finally:
            await kubo.stop()

    assert asyncio.run(go()) == (200, blob)


def _is_http(address: Any) -> bool:
    with socket.create_connection(("127.0.0.1", address.port), timeout=240) as connection:
        connection.sendall(b"GET /assay/status HTTP/1.0\r\n\r\n")
        return connection.recv(5) == b"HTTP/"
