# Measures: wall-clock seconds of `make setup` in a fresh clone with an empty virtual environment, of the same command again, and (not
# quick) of what `make test` needs on top (forge, the Solidity compiler). pip's cache is off unless --cached.
# Against: itself, the second time: what is there must cost next to nothing.
# Goal: with the demo, under 5 minutes from a fresh clone with nothing cached, network permitting; the second time under a second.
"""Run: python bench/setup.py [--quick] [--json] [--cached]"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def make(target: str, clone: Path, env: dict[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(["make", target], cwd=clone, env=env, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"make {target} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return round(time.perf_counter() - started, 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--quick", "--json", "--cached"):
        parser.add_argument(name, action="store_true")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="assay-setup-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL")}
        env = kept | {"ASSAY_CACHE": f"{folder}/native"} | ({} if told.cached else {"PIP_NO_CACHE_DIR": "1"})
        found = {
            "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
            "load_before": round(os.getloadavg()[0], 2),
            "pip_cache": told.cached,
            "setup_seconds": make("setup", clone, env),
            "again_seconds": make("setup", clone, env),
        }
        if not told.quick:
            found["tools_seconds"] = make("tools", clone, env)
    for key, value in found.items():
        print(f"{key:20} {value}", file=sys.stderr if told.json else sys.stdout)
    if told.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
