# Runs benches one after another and keeps what each ends with in bench/results/NAME.json, beside a description of the machine and of how
# busy it was: a figure without its machine says nothing. It measures nothing itself; each script's first comment has its goal.
"""Run: python bench/all.py [--quick] [--json] [NAME ...]"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent
NAMES = (
    "step", "memory", "finetune", "gemm", "checksums", "hashing", "sealing", "holders", "tracing", "curves", "blobs", "sender", "peers", "demo",
    "setup", "dispute", "dispute_gas", "dispute_played", "sharing", "sandbox", "sim", "check", "vision", "recompute", "offload", "planned", "ranks",
    "transfer", "traffic", "instructions", "roof", "papers", "fleet", "hardware", "owner", "prices", "network", "faults", "dht", "averaging",
    "federated",
)  # fmt: skip


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model or platform.processor(), "cores": os.cpu_count(), "memory_gib": round(memory, 1),
        "system": platform.platform(), "python": platform.python_version(),
    }  # fmt: skip


WHOLE = {"finetune": ["--seeds", "5"], "faults": ["--seconds", "3600", "--gap", "2.4"]}
"""What a bench is told when it need not be quick."""


def run(name: str, quick: bool) -> dict[str, object]:
    """The record of one bench; raises CalledProcessError."""
    load = os.getloadavg()[0]
    command = [sys.executable, str(BENCH / f"{name}.py"), "--json", *(["--quick"] if quick else WHOLE.get(name, []))]
    done = subprocess.run(command, cwd=BENCH.parent, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    loads = {"load_before": round(load, 2), "load_after": round(os.getloadavg()[0], 2)}
    return {"bench": name, "quick": quick, "date": date, **loads, "machine": machine(), "figures": figures}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help=f"of {', '.join(NAMES)}; all without any")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = {}
    (BENCH / "results").mkdir(exist_ok=True)
    for name in args.names or NAMES:
        results[name] = run(name, args.quick)
        figures = results[name]["figures"]
        skipped = figures.get("skipped") if isinstance(figures, dict) else None
        if skipped:
            print(f"{name}: skipped ({skipped}); an earlier record stays", flush=True)
            continue
        (BENCH / "results" / f"{name}.json").write_text(json.dumps(results[name], indent=1, sort_keys=True) + "\n")
        print(f"{name}: bench/results/{name}.json", flush=True)
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
