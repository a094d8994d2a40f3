# Measures: wall-clock seconds and peak memory (proportional set size, all processes together) of `assay demo`, CPU seconds by kind of
# process, the resident size of each kind of daemon (the largest when all are up and none has work, and at any time), and the seconds
# until the daemons are up.
# Against: the same training in one process (`assay run --local`), alone on the machine, before it.
# Goal: the demo under 90 s and 4 GB on 2 cores once set up; a waiting daemon under 150 MB.
"""Run: python bench/demo.py [--quick] [--json]. Quick trains 24 steps instead of 80."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "shakespeare.py"


def local(steps: int) -> float:
    """Seconds of the whole command, tracing included."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "assay.cli", "run", str(EXAMPLE), "--local", "--steps", str(steps), "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600)
    return time.perf_counter() - started


def kind(words: list[str], base: str) -> str | None:
    """What a process is, by its command line; None while it is between fork and exec."""
    line = " ".join(words)
    where = next((word[len(base) + 1 :].split("/")[0].split("-")[0] for word in words if word.startswith(base + "/")), "")
    if "assay.work" in line or "liars.engine" in line:
        return f"engine of {where}"
    if "assay.template" in line:
        return "engines"  # and what they are forked from
    if "--data" in words:
        return where
    if "anvil" in line:
        return "anvil"
    if "--local" in words:
        return "local run"
    return "demo" if "demo" in words else None


def demo(steps: int) -> dict[str, Any]:
    """One run, watched from outside."""
    with tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
        base, out = f"{folder}/base", Path(folder) / "out"
        command = [sys.executable, "-m", "assay.cli", "demo", "--json", "--keep", base, "--steps", str(steps)]
        cpu: dict[int, tuple[str, float]] = {}
        resident: dict[str, int] = {}
        waiting: dict[str, int] = {}
        with out.open("w") as file, subprocess.Popen(command, stdout=file) as process:
            me = psutil.Process(process.pid)
            while process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    for each in [me, *me.children(recursive=True)]:
                        look(each, base, cpu, resident)
                if not waiting and '"topic": "up"' in out.read_text():
                    waiting = {name: size for name, size in sorted(resident.items()) if name in DAEMONS}
                time.sleep(0.5)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
    if process.returncode:
        raise SystemExit(f"the demo failed: {lines[-1] if lines else 'it said nothing'}")
    seconds: dict[str, float] = defaultdict(float)
    for name, spent in cpu.values():
        seconds[name] += spent
    up = next(note["seconds"] for note in lines if note.get("topic") == "up")
    result = lines[-1]
    return {
        "wall_seconds": result["wall_seconds"],
        "peak_memory_bytes": result["peak_memory_bytes"],
        "segments": result["segments"],
        "roots_equal": result["final_state_root"] == result["local_state_root"],
        "daemons_up_after_seconds": up,
        "cpu_seconds": {name: round(spent, 1) for name, spent in sorted(seconds.items(), key=lambda item: -item[1])},
        "waiting_daemon_resident_bytes": waiting,
        "largest_daemon_resident_bytes": {name: size for name, size in sorted(resident.items()) if name in DAEMONS},
    }


DAEMONS = ("worker", "verifier", "scheduler", "keyservice", "bootstrap", "liar")


def look(process: psutil.Process, base: str, cpu: dict[int, tuple[str, float]], resident: dict[str, int]) -> None:
    with contextlib.suppress(psutil.Error):
        name = kind(process.cmdline(), base)
        if name is None:
            return
        times = process.cpu_times()
        cpu[process.pid] = (name, times.user + times.system)
        resident[name] = max(resident.get(name, 0), process.memory_info().rss)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    steps = 24 if told.quick else 80
    load = os.getloadavg()[0]
    found = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "load_before": round(load, 2),
        "steps": steps,
        "local_seconds": round(local(steps), 1),
        **demo(steps),
    }
    for key, value in found.items():
        print(f"{key:30} {value}", file=sys.stderr if told.json else sys.stdout)
    if told.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
