"""Run in a network and process namespace of its own: a Ray cluster of three nodes, a fleet on it, and a node that is killed in the middle.

    bwrap --dev-bind / / --unshare-net --unshare-pid --proc /proc --die-with-parent python tests/roles/fleet_world.py FOLDER lost|exposed

`lost` runs a segment on two nodes' places, kills the machine that runs it after some steps, and prints one JSON object: what there was to
resume from and what came out. `exposed` gives the machine an address that the world routes to, and prints why the fleet does not start.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tiny import lay_out, plan

from assay.adapters import sandbox
from assay.adapters.engine_process import ProcessEngine
from assay.adapters.fleet.engine import FleetEngine, FleetTrouble
from assay.adapters.fleet.messages import Begin, News
from assay.engine import LinksOpened, LinksRun, OpenLinks, RunLinks, StepDone
from assay.state import state_root

STEPS, KILL_AFTER = 400, 40
WORLD = "203.0.114.7"
"""An address that the world routes to."""
HERE = "10.77.0.1"
"""One that it does not; Ray listens on all, all the same."""
SOON = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 4}
PLAN = plan(STEPS)


def cluster(address: str, nodes: int) -> Any:
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 80 << 20, "node_ip_address": address}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": SOON, **store})
    for _ in range(nodes):
        made.add_node(num_cpus=1, **store)
    return made


def kill(node: Any) -> None:
    """As a machine that loses power."""
    for processes in node.all_processes.values():
        for info in processes:
            os.kill(info.process.pid, signal.SIGKILL)


async def fleet(address: str, folder: Path, news: list[News]) -> FleetEngine:
    root = folder / "work"
    root.mkdir()
    shut = sandbox.choose("auto", 1 << 30)
    begin = Begin(address=address, root=str(root), places=0, gpus=0, cores=2, threads=1, sandbox="auto", must=True, disk=1 << 30)
    made = FleetEngine(begin, ProcessEngine(sandbox=shut), shut, folder / "fleet.log")
    made.on_news = news.append
    await made.start()
    return made


async def lost(folder: Path) -> dict[str, Any]:
    machines = cluster("127.0.0.1", 2)
    news: list[News] = []
    engine = await fleet(machines.address, folder, news)
    root = folder / "work"
    task = RunLinks(job=lay_out(root, PLAN), segment="segment-1", start=0, stop=STEPS, parent_root=state_root(0, PLAN.state), keep=1 << 20)
    steps: list[int] = []
    enough = asyncio.Event()

    def progress(message: object) -> None:
        if isinstance(message, StepDone):
            steps.append(message.step)
            if message.step >= KILL_AFTER:
                enough.set()

    running = asyncio.create_task(engine.run(task, root, progress))
    await enough.wait()
    busy = min(n.text.split(" at ")[1].split(" ")[0] for n in news)  # of two that have nothing to do the first by name has begun
    victim = next(node for node in machines.list_all_nodes() if node.node_id.startswith(busy.split("-")[1]))
    kill(victim)
    at, told = time.monotonic(), len(steps)
    kept = sorted(int(path.name[6:-12]) for path in (root / "segment-1").glob("state-*.safetensors"))
    done = await running
    assert isinstance(done, LinksRun)
    same = {name: getattr(task, name) for name in ("job", "segment", "start", "stop", "parent_root", "keep")}
    opened = await engine.run(OpenLinks(**same, units=(7,)), root, progress)
    assert isinstance(opened, LinksOpened)
    found = {
        "places": engine.places, "end_root": done.end_root.hex(), "link_root": done.link_root.hex(), "computed": done.computed, "kept": kept,
        "told": told, "again": steps[told:][0], "steps": sorted(set(steps)) == list(range(STEPS)), "seconds": time.monotonic() - at,
        "opened": opened.link_root.hex(), "boundary": (root / "segment-1" / "boundary-7.safetensors").exists(),
        "news": [n.text for n in news],
    }  # fmt: skip
    await engine.close()
    machines.shutdown()
    return found


async def exposed(folder: Path) -> dict[str, Any]:
    for address in (WORLD, HERE):
        await asyncio.to_thread(subprocess.run, ["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    machines = cluster(HERE, 1)
    try:
        await fleet(machines.address, folder, [])
    except FleetTrouble as error:
        return {"why": error.why, "advice": error.advice}
    finally:
        machines.shutdown()
    return {"why": ""}


def main() -> None:
    os.environ |= {"HOME": sys.argv[1], "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    print(json.dumps(asyncio.run({"lost": lost, "exposed": exposed}[sys.argv[2]](Path(sys.argv[1])))), flush=True)


if __name__ == "__main__":
    main()
