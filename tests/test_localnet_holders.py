"""Keys that three nodes share, each a process of its own: with any two of them up a job is trained, checked, settled, delivered and audited, also
without the first, whom alone the contract knows."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.test_localnet_net import SUBMIT, assay, daemon, here, until, written

__all__ = ["here"]


@pytest.mark.slow
def test_two_of_three_key_holders_serve_a_job_while_the_first_sleeps(here: Path) -> None:
    assay(here, "net", "up")
    written(here)
    folders = [here / ".assay" / f"holder-{i}" for i in range(3)]
    accounts = []
    for folder in folders:  # each is registered with its first start
        with daemon(here, "keyservice", "--data", str(folder)):
            accounts.append(assay(here, "keyservice", "status", "--data", str(folder))["account"])
    with contextlib.ExitStack() as up:
        for folder in folders[1:]:
            up.enter_context(daemon(here, "keyservice", "--data", str(folder)))
            assert assay(here, "keyservice", "hold", accounts[0], "--data", str(folder))["taken"] is True
        for role in ("scheduler", "worker", "verifier"):
            up.enter_context(daemon(here, role))
        out = here / "weights.safetensors"
        assay(here, *SUBMIT, "--keyservice", ",".join(accounts))
        (job,) = until(lambda: (jobs := assay(here, "job", "list")["jobs"])[0]["state"] == "done" and jobs)
        assert job["segments"] == {"SETTLED": 2}
        fetched = assay(here, "job", "fetch", "1", "--out", str(out))
        assert fetched["final_state_root"] == assay(here, "run", "train.py", "--local")["final_state_root"]
        assert out.exists()
        for folder in folders[1:]:
            status = until(lambda folder=folder: (s := assay(here, "keyservice", "status", "--data", str(folder)))["released"] >= 7 and s)
            assert status["holds"] == [accounts[0]]
        audit = assay(here, "job", "audit", "1")
        assert audit["failed"] == 0, audit
