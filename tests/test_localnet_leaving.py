"""A worker that is terminated in the middle of a segment, in a network of processes: what it has done is committed, served and paid, without it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.test_localnet_net import assay, daemon, here, until

__all__ = ["here"]

TRAIN = """import numpy as np
import torch.nn.functional as F
from torch import nn
import assay
x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
training = assay.Training(model=nn.Linear(6, 3), loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
                          data=assay.Dataset("dots", x=x, y=(x[:, 0] > 0).astype("int64")), optimizer=assay.AdamW(lr=1e-2), batch=8, steps=1000)
"""
PARAMS = "finality = 1\nchallenge_window = 1\nverifiers = 1\nquorum = 1\nseal_window = 30\nreveal_window = 30\nopen_window = 30\n"


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_is_paid_for_what_it_has_done(here: Path) -> None:
    assay(here, "net", "up")
    (here / "train.py").write_text(TRAIN)
    (here / "fast.toml").write_text(PARAMS)
    log = here / ".assay" / "worker" / "log.jsonl"

    def said(topic: str) -> list[dict[str, object]]:
        return [note for note in map(json.loads, log.read_text().splitlines()) if note["topic"] == topic]

    with daemon(here, "keyservice"), daemon(here, "scheduler"), daemon(here, "verifier"):
        with daemon(here, "worker", "--price", "1000", "--grace", "300") as worker:
            words = ("--budget", "20", "--price", "0.01", "--fee", "0.05", "--segment-steps", "1000", "--params", "fast.toml")
            posted = assay(here, "submit", "train.py", *words, "--yes")
            until(lambda: said("running"))
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(900) == 0
        (leaving,) = said("leaving")
        assert "is running" in str(leaving["text"])
        assert said("left") == []
        (committed,) = said("committed")
        assert 1 <= int(str(committed["stop"])) <= 1000
        assert said("served")
        assert said("settled") == []  # what follows is the verifier's doing
        segments = until(lambda: [s for s in assay(here, "job", "show", str(posted["job"]))["segments"] if s["state"] == "SETTLED"])
        assert [s["stop"] for s in segments] == [committed["stop"]]
