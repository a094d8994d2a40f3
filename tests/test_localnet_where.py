"""A provider that does not multiply, in a network of processes where nobody verifies: its client's check names step, stage and element."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from assay.cli.common import FAILED
from tests.test_localnet_frozen import TRAINING
from tests.test_localnet_net import assay, daemon, here, until

__all__ = ["here"]

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_a_client_finds_out_where_its_provider_lies_while_its_own_node_runs(here: Path) -> None:
    up = assay(here, "net", "up")
    (here / "tune.py").write_text(TRAINING)
    (here / "fast.toml").write_text("finality = 1\nverifiers = 1\nquorum = 1\n")
    lying = [sys.executable, "-m", "tests.liars.worker", "start", "--rpc", up["rpc"], "--contract", up["contract"], "--bootstrap", up["bootstrap"]]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    serving = 0
    with (
        daemon(here, "keyservice"),
        daemon(here, "scheduler"),
        subprocess.Popen([*lying, "--data", ".assay/worker", "--json"], cwd=here, stdout=subprocess.DEVNULL, env=env) as worker,
    ):
        try:
            done = assay(here, "submit", "tune.py", "--budget", "40", "--yes", "--segment-steps", "2", "--params", "fast.toml")
            serving = done["pid"]
            until(lambda: any(s["state"] == "COMMITTED" for s in assay(here, "job", "show", "1")["segments"]))
            found = assay(here, "check", "1", "--step", "1", "--threads", "1", code=FAILED)
        finally:
            worker.send_signal(signal.SIGTERM)
            if serving:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(serving, signal.SIGTERM)
    assert (found["agrees"], found["alone"], found["steps_computed"]) == (False, True, 1), json.dumps(found)
    (where,) = found["where"]
    assert (where["step"], where["micro_batch"], where["theirs"]) == (1, 0, "0.0")
    assert where["what"].startswith(f"stage {where['stage']}, matmul giving f32")
    assert float(where["ours"]) != 0
