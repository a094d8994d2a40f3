"""A fleet on real Ray: three nodes in a network namespace of their own, one of which is killed; and Ray as the product starts it on one machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from fleet_world import PLAN as LONG
from tiny import lay_out, plan

from assay.adapters import sandbox
from assay.adapters.engine_process import ProcessEngine
from assay.adapters.fleet.engine import FleetEngine, FleetTrouble
from assay.adapters.fleet.messages import LOCAL, Begin, News
from assay.client import run_plan
from assay.engine import LinksRun, RunLinks, StepDone
from assay.state import state_root

pytest.importorskip("ray")
PLAN = plan(20)


@pytest.fixture(autouse=True)
def bubblewrap() -> sandbox.Sandbox:
    try:
        found = sandbox.choose("bubblewrap", 1 << 30)
    except sandbox.NoSandbox as error:
        pytest.skip(str(error))
    assert found is not None
    return found


def world(folder: Path, story: str) -> dict[str, Any]:
    (folder / "ray").mkdir()
    alone = ["bwrap", "--dev-bind", "/", "/", "--unshare-net", "--unshare-pid", "--proc", "/proc", "--cap-add", "ALL", "--die-with-parent"]
    Path("/tmp/ray").mkdir(exist_ok=True)
    script = [sys.executable, str(Path(__file__).with_name("fleet_world.py")), str(folder), story]
    command = [*alone, "--bind", str(folder / "ray"), "/tmp/ray", *script]
    path = os.pathsep.join([*map(os.path.abspath, filter(None, sys.path))])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_ray_node_that_is_killed_costs_a_resume_and_not_a_segment(tmp_path: Path) -> None:
    found = world(tmp_path, "lost")
    assert found["places"] == 2
    assert found["end_root"] == run_plan(LONG).root.hex()
    assert 0 < found["computed"] < len(LONG.schedule) - 5  # from a state that had come home
    assert found["computed"] <= len(LONG.schedule) - max(found["kept"])
    assert found["steps"], "each step was told of"
    assert found["opened"] == found["link_root"]
    assert found["boundary"]
    assert any("is lost" in text for text in found["news"])
    assert all("no sandbox" not in text for text in found["news"])
    assert not list((tmp_path / "work").glob("**/*.part"))


@pytest.mark.slow
def test_a_ray_that_the_world_reaches_is_refused(tmp_path: Path) -> None:
    found = world(tmp_path, "exposed")
    assert "listens on 203.0.114.7" in found["why"]
    assert "network namespace" in found["advice"]


@pytest.mark.slow
def test_a_daemon_that_the_world_reaches_speaks_with_a_ray_that_it_does_not(tmp_path: Path) -> None:
    assert world(tmp_path, "through") == {"places": 1, "end_root": run_plan(PLAN).root.hex()}


def network(pid: int) -> tuple[str, set[str], set[str]]:
    """Of a process: its namespace, the interfaces in it, and the addresses (as /proc/net/tcp writes them) on which sockets listen there."""
    proc = Path(f"/proc/{pid}")
    rows = [line.split() for name in ("tcp", "tcp6") for line in (proc / "net" / name).read_text().splitlines()[1:]]
    interfaces = {line.split(":")[0].strip() for line in (proc / "net" / "dev").read_text().splitlines()[2:]}
    return os.readlink(proc / "ns" / "net"), interfaces, {row[1].split(":")[0] for row in rows if row[3] == "0A"}


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def sees(pid: int, path: Path) -> bool:
    return Path(f"/proc/{pid}/root{path}").exists()


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same in IPv6's clothes, ::1."""


async def all_of_it_dies(engine: FleetEngine, root: Path, driver: psutil.Process) -> None:
    """Ray is started again, and the segment goes on."""
    stop = len(LONG.schedule)
    shutil.rmtree(root / "segment-1")
    task = RunLinks(job=lay_out(root, LONG), segment="segment-1", start=0, stop=stop, parent_root=state_root(0, LONG.state), keep=1 << 20)

    def kill(message: object) -> None:
        if isinstance(message, StepDone) and message.step == 30:
            driver.kill()  # and with it the namespace that all of it lives in

    done = await engine.run(task, root, kill)
    assert isinstance(done, LinksRun)
    assert done.end_root == run_plan(LONG).root
    assert done.computed <= stop - 30


@pytest.mark.slow
def test_ray_on_one_machine_listens_nowhere_and_sees_no_keys(tmp_path: Path, bubblewrap: sandbox.Sandbox) -> None:
    root, secret = tmp_path / "work", tmp_path / "keys"
    root.mkdir()
    secret.write_text("the signing key of a node")
    begin = Begin(address=LOCAL, root=str(root), places=2, gpus=0, cores=2, threads=1, sandbox="auto", must=True, disk=1 << 30)
    news: list[News] = []

    async def run() -> None:
        engine = FleetEngine(begin, ProcessEngine(sandbox=bubblewrap), bubblewrap, tmp_path / "fleet.log")
        engine.on_news = news.append
        try:
            assert await engine.start() == 2
            ours = [p for p in psutil.Process().children(recursive=True) if any("raylet" in part for part in p.cmdline())]
            assert ours, "Ray is running"
            for process in ours:
                namespace, interfaces, addresses = network(process.pid)
                assert namespace != network(os.getpid())[0]
                assert interfaces == {"lo"}
                assert addresses
                assert addresses <= LOOPBACK
                assert sees(process.pid, root)
                assert not sees(process.pid, secret)
            job = lay_out(root, PLAN)
            task = RunLinks(job=job, segment="segment-1", start=0, stop=20, parent_root=state_root(0, PLAN.state), keep=1 << 20)
            done = await engine.run(task, root, lambda _: None)
            assert isinstance(done, LinksRun)
            assert done.end_root == run_plan(PLAN).root
            drivers = [p for p in psutil.Process().children(recursive=True) if p.cmdline()[1:] == ["-m", "assay.adapters.fleet.driver"]]
            await all_of_it_dies(engine, root, drivers[0])
            assert any("the fleet is away" in n.text for n in news)
        finally:
            await engine.close()
        deadline = time.monotonic() + 240
        ours = [p for p in psutil.process_iter() if str(tmp_path) in " ".join(cmdline(p))]
        while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in ours):
            assert time.monotonic() < deadline, "Ray has ended with the daemon"
            await asyncio.sleep(0.1)

    asyncio.run(run())
    assert all("no sandbox" not in n.text for n in news)


def test_without_bubblewrap_ray_is_not_started_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(kind: str = "auto", disk: int = 0) -> None:
        raise sandbox.NoSandbox("bwrap is not installed")

    monkeypatch.setattr(sandbox, "choose", none)
    begin = Begin(address=LOCAL, root=str(tmp_path), places=1, gpus=0, cores=1, threads=1, sandbox="auto", must=True, disk=1 << 30)

    async def run() -> None:
        engine = FleetEngine(begin, ProcessEngine(), None, tmp_path / "fleet.log")
        with pytest.raises(FleetTrouble) as refused:
            await engine.start()
        assert "needs bubblewrap" in refused.value.why
        await engine.close()

    asyncio.run(run())
