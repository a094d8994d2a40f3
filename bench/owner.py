# Measures a worker daemon as its owner meets it, on a local network of processes: from `assay worker start` to "up" and to its first offer (a job is
# waiting), and what it takes when it does nothing: memory and share of a core. Goals: the first offer in under 10 s where the machine has
# started a worker before; idle under 150 MB and 1 % of a core.
# Wall-clock seconds, and the daemon's own CPU seconds beside them: on a busy machine only these say something. Memory is its unique set (USS): what
# would be free without it; its engine is another process that ends with its work.
"""Run: python bench/owner.py [--quick] [--json]"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

ASSAY = [sys.executable, "-m", "assay.cli"]
TRAIN = """import numpy as np
import torch.nn.functional as F
from torch import nn
import assay
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
training = assay.Training(model=nn.Linear(6, 3), loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
                          data=assay.Dataset("dots", x=x, y=(x[:, 0] > 0).astype("int64")), optimizer=assay.AdamW(lr=1e-2), batch=8, steps=4)
"""
WITHIN = 600.0


class Daemon:
    """A daemon whose notes are read as they come."""

    def __init__(self, here: Path, role: str, *options: str) -> None:
        self.began = time.perf_counter()
        self.process = subprocess.Popen([*ASSAY, role, "start", "--json", *options], cwd=here, stdout=subprocess.PIPE, text=True)
        self.usage = psutil.Process(self.process.pid)

    def until(self, topic: str) -> dict[str, float]:
        """Seconds from its start to the first note of a topic."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if json.loads(line)["topic"] == topic:
                spent = self.usage.cpu_times()
                return {"wall": round(time.perf_counter() - self.began, 2), "cpu": round(spent.user + spent.system, 2)}
        raise SystemExit(f"the daemon ended before it said {topic!r}")

    def idle(self, seconds: float) -> dict[str, float]:
        before, began = self.usage.cpu_times(), time.perf_counter()
        time.sleep(seconds)
        after, memory = self.usage.cpu_times(), self.usage.memory_full_info()
        spent = after.user + after.system - before.user - before.system
        share = spent / (time.perf_counter() - began)
        waiting = sum(child.memory_full_info().uss for child in self.usage.children(recursive=True))
        found = {"uss_mb": memory.uss, "rss_mb": memory.rss, "engine_uss_mb": waiting}
        return {"core_percent": round(100 * share, 2), **{name: round(size / 1e6, 1) for name, size in found.items()}}

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=60)
        self.process.kill()


@contextlib.contextmanager
def daemon(here: Path, role: str, *options: str) -> Iterator[Daemon]:
    made = Daemon(here, role, *options)
    try:
        yield made
    finally:
        made.stop()


def assay(here: Path, *words: str) -> None:
    subprocess.run([*ASSAY, *words, "--json"], cwd=here, check=True, stdout=subprocess.DEVNULL, timeout=WITHIN)


def end_watch(here: Path) -> None:
    """Ends what a submit has left behind to watch its job."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(here) and "watch" in process.cmdline():
                process.terminate()


def measure(seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="assay-owner-") as base:
        here = Path(base)
        (here / "train.py").write_text(TRAIN)
        (here / "fast.toml").write_text("finality = 1\nchallenge_window = 1\nverifiers = 1\nquorum = 1\n")
        assay(here, "net", "up")
        try:
            with daemon(here, "worker") as worker:
                first = worker.until("up")
                time.sleep(3)  # what the start has left over
                idle = worker.idle(seconds)
            with daemon(here, "keyservice") as keys, daemon(here, "scheduler") as scheduler:
                keys.until("up"), scheduler.until("up")
                options = ["--budget", "20", "--yes", "--segment-steps", "2", "--fee", "0.05", "--params", "fast.toml", "--json"]
                submitting = subprocess.Popen([*ASSAY, "submit", "train.py", *options], cwd=here, stdout=subprocess.PIPE, text=True)
                try:
                    assert submitting.stdout is not None
                    posted = next((line for line in submitting.stdout if '"posted"' in line), "")
                    if not posted:
                        raise SystemExit("the job was not posted")
                    with daemon(here, "worker") as worker:
                        up, offered = worker.until("up"), worker.until("offer")
                finally:
                    submitting.terminate()
                    submitting.wait()
                    end_watch(here)
            return {"first_start": first, "second_start": up, "first_offer": offered, "idle": idle, "idle_seconds": seconds}
        finally:
            assay(here, "net", "down")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    found = {"load_before": round(load, 2), "cores": os.cpu_count(), **measure(10 if args.quick else 60)}
    for key, value in found.items():
        print(f"{key:14} {value}", file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
