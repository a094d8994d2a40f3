"""Verifiers that deny having been served, each a process of its own on anvil: the worker's daemon shows what it is asked for, and is paid."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_localnet_net import ASSAY, assay, daemon, here, until

__all__ = ["here"]

TRAINING = """
import numpy as np
import torch.nn.functional as F
from torch import nn
import assay

rng = np.random.default_rng(0)
x = rng.normal(size=(32, 64)).astype("float32")
training = assay.Training(model=nn.Linear(64, 3), loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
                          data=assay.Dataset("dots", x=x, y=rng.integers(0, 3, 32)), optimizer=assay.AdamW(lr=1e-2), batch=8, steps=2)
"""
PARAMS = """finality = 1
verifiers = 2
quorum = 2
redraws = 0
serve_window = 45
seal_window = 60
reveal_window = 30
open_window = 30
challenge_window = 1
"""


@pytest.mark.slow
def test_a_quorum_that_denies_having_been_served_does_not_keep_the_worker_from_its_pay(here: Path) -> None:
    network = assay(here, "net", "up")
    (here / "train.py").write_text(TRAINING)
    (here / "denied.toml").write_text(PARAMS)
    where = [word for name in ("rpc", "contract", "bootstrap") for word in (f"--{name}", network[name])]
    liar = [ASSAY[0], "-m", "tests.liars.verifier", "start", *where, "--data", str(here / ".assay" / "liar"), "--json"]
    with daemon(here, "keyservice"), daemon(here, "scheduler"), daemon(here, "worker"), daemon(here, "verifier"), daemon(here, "", command=liar):
        submit = ["submit", "train.py", "--budget", "40", "--yes", "--segment-steps", "2", "--params", "denied.toml"]
        assay(here, *submit)
        (job,) = until(lambda: (jobs := assay(here, "job", "list")["jobs"])[0]["state"] == "done" and jobs)
        assert (job["settled"], job["segments"]) == (2, {"SETTLED": 1})
        assert assay(here, "worker", "earnings")["credits"]
        audit = assay(here, "job", "audit", "1")
        assert audit["failed"] == 0, audit
        assert audit["segments"][0]["held"]["served"] >= 5  # what was asked for, and what was shown
        charged = assay(here, "verifier", "earnings")["account"]["stake"]
        assert charged == 100_000_000  # the honest one; the other is charged as a no-show
