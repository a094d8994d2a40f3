# Measures the fine-tune of a small vision transformer (examples/finetune_vision.py: digits 5 to 9, LoRA, 96 steps) as its buyer meets it:
# bought from a network of real processes on this machine, with accuracy on held-out images before and after; a step of a segment that is
# committed and not settled, checked alone by the client from the state that its provider shows, and a step of a settled one, over its whole
# segment; then the evaluation (examples/evaluate_vision.py) bought as a job of its own. Goals: the whole under 600 s on 2 cores, a check under 60 s.
# Needs transformers and scikit-learn; without them it says so and measures nothing.
#
#     python bench/vision.py [--quick] [--json]
from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from check import ASSAY, EXAMPLE, assay, daemons

TUNE, EVALUATE = EXAMPLE.with_name("finetune_vision.py"), EXAMPLE.with_name("evaluate_vision.py")
PARAMS = "finality = 1\nchallenge_window = {window}\nverifiers = 3\nquorum = 2\n"
WINDOW = 120
"""Seconds that the first job's segments can be disputed, so that there is time to check a step before they settle."""


def measure(here: Path, steps: int) -> dict[str, Any]:
    segment = steps // 4
    for name, window in (("slow", WINDOW), ("fast", 5)):
        (here / f"{name}.toml").write_text(PARAMS.format(window=window))
    out: dict[str, Any] = {"steps": steps, "segment_steps": segment}
    began = time.monotonic()
    assay(here, "net", "up")
    try:
        with daemons(here):
            out["network_up_s"] = round(time.monotonic() - began, 1)
            began = time.monotonic()
            words = ["submit", str(TUNE), "--steps", str(steps), "--budget", "400", "--segment-steps", str(segment), "--params"]
            out["checks"] = [alone(here, [*words, "slow.toml", "--yes"], segment)]
            waited = time.monotonic() - began
            began = time.monotonic()
            lines = assay(here, *words, "fast.toml", "--yes", "--watch", "--out", "tuned-vision")
            out["job_s"] = round(time.monotonic() - began, 1)
            out["first_job_s"] = round(waited, 1)
            out |= next({"before": line["before"], "after": line["after"]} for line in lines if line["topic"] == "done")
            out["checks"].append(checked(here, 2, segment // 2))
            began = time.monotonic()
            assay(here, "submit", str(EVALUATE), "--budget", "200", "--params", "fast.toml", "--yes", "--watch")
            out["evaluation_s"] = round(time.monotonic() - began, 1)
            (out["evaluated"],) = assay(here, "job", "result", "3", "--out", "result.safetensors")
    finally:
        assay(here, "net", "down")
    return out


def checked(here: Path, job: int, step: int) -> dict[str, Any]:
    (found,) = assay(here, "check", str(job), "--step", str(step), "--threads", "2")
    return {key: found[key] for key in ("job", "step", "agrees", "alone", "settled", "steps_computed", "fetched_bytes", "base_bytes", "seconds")}


def alone(here: Path, words: list[str], segment: int) -> dict[str, Any]:
    """A job is posted and not watched; the last step of its first segment is checked once that is committed."""
    assay(here, *words)
    until = time.monotonic() + 600
    while time.monotonic() < until:
        shown = subprocess.run([*ASSAY, "job", "show", "1", "--json"], cwd=here, capture_output=True, text=True, timeout=60)
        if shown.returncode == 0 and any(s["state"] in ("COMMITTED", "DRAWN", "SERVED", "ATTESTED") for s in json.loads(shown.stdout)["segments"]):
            return checked(here, 1, segment - 1)
        time.sleep(1)
    raise SystemExit("nothing was committed within 600 s")


def main() -> None:
    parser = argparse.ArgumentParser(description="a fine-tune of a vision transformer bought from a network of processes, checked and evaluated")
    parser.add_argument("--quick", action="store_true", help="16 steps instead of the example's own number")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    missing = [name for name in ("transformers", "sklearn") if find_spec(name) is None]
    if missing:
        result: dict[str, Any] = {"skipped": f"not here: {', '.join(missing)}"}
        print(f"nothing measured: {result['skipped']}")
    else:
        with tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
            result = measure(Path(folder), 16 if options.quick else 96)
        print(f"job    {result['steps']} steps in {result['job_s']} s, the network up in {result['network_up_s']} s")
        print(f"       before: {result['before']}\n       after:  {result['after']}; evaluated in {result['evaluation_s']} s: {result['evaluated']}")
        for found in result["checks"]:
            how = "alone" if found["alone"] else f"with its segment, {found['steps_computed']} steps"
            print(f"check  step {found['step']} {how}: {found['agrees']}, {found['fetched_bytes'] / 1e6:.2f} MB fetched, {found['seconds']} s")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
