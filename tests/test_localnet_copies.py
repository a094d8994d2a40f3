"""A provider's disk dies at its commitment, in a real network: the job goes on from the scheduler's copy, with the same bits."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_localnet_net import ASSAY, SUBMIT, assay, daemon, here, until, written

__all__ = ["here"]


@pytest.mark.slow
def test_the_blobs_of_a_worker_are_gone_when_its_first_checkpoint_is_committed(here: Path) -> None:
    """It is killed when it says that another node keeps the checkpoint, before or just after it has sent the commitment; its blobs are removed, and
    it comes up again. It alone works: it goes on from what it has not got any more."""
    assay(here, "net", "up")
    written(here)
    local = assay(here, "run", "train.py", "--local")
    with daemon(here, "keyservice"), daemon(here, "scheduler"), daemon(here, "verifier"):
        words = [*ASSAY, "worker", "start", "--json"]
        with (
            subprocess.Popen(words, cwd=here, stdout=subprocess.PIPE, text=True) as first,
            subprocess.Popen([*ASSAY, *SUBMIT, "--watch", "--json"], cwd=here, stdout=subprocess.PIPE, text=True) as client,
        ):
            try:
                assert first.stdout is not None
                assert any(json.loads(line)["topic"] == "copied" for line in first.stdout)
                first.kill()
                first.wait()
                shutil.rmtree(here / ".assay" / "worker" / "blobs")
                with daemon(here, "worker"):
                    said, _ = client.communicate(timeout=240)
                    (job,) = until(lambda: (jobs := assay(here, "job", "list")["jobs"])[0]["state"] == "done" and jobs, 120)
            finally:
                first.kill()
                client.kill()
    assert json.loads(said.splitlines()[-1])["final_state_root"] == local["final_state_root"]
    assert job["segments"] == {"SETTLED": 2}
