"""A training with a bounty, its evaluation and its payment on a real network: a chain and four daemons, each a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_localnet_net import assay, daemon, here, until

__all__ = ["here"]

COMMON = """
import numpy as np
import torch
from torch import nn
import assay
from assay import finetune

rng = np.random.default_rng(0)
x = rng.normal(size=(96, 6)).astype("float32")
label = (x[:, 0] + x[:, 1] > 0).astype("uint8")
model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 2))
"""
TRAINING = COMMON + """
training = assay.Training(model=model, loss=finetune.classification, data=assay.Dataset("seen", row=x[:64], label=label[:64]),
                          optimizer=assay.AdamW(lr=3e-2), batch=32, steps=8)
"""
EVALUATION = COMMON + """
training = assay.Evaluation(model=model, measure=finetune.judged, data=assay.Dataset("held", row=x[64:], label=label[64:]), batch=8)
"""


@pytest.mark.slow
def test_a_bounty_is_offered_measured_and_paid_by_typing_commands(here: Path) -> None:
    assay(here, "net", "up")
    (here / "train.py").write_text(TRAINING)
    (here / "held.py").write_text(EVALUATION)
    windows = "seal_window = 300\nreveal_window = 300\nopen_window = 300\nchallenge_window = 1\n"  # too short to wait for a full minute
    (here / "fast.toml").write_text(windows + "finality = 1\nverifiers = 1\nquorum = 1\n")
    with daemon(here, "keyservice"), daemon(here, "scheduler"), daemon(here, "worker"), daemon(here, "verifier"):
        submit = ["submit", "train.py", "--budget", "40", "--yes", "--segment-steps", "4", "--params", "fast.toml", "--watch"]
        assay(here, *submit, "--bounty", "held.py", "--pay", "1:2", "--pay", "60%:3.5", "--window", "1d")
        waiting = assay(here, "bounty", "show", "1")
        assert (waiting["amount"], waiting["result"], waiting["state"]) == (3_500_000, None, "the training is over")
        assert [rung["threshold"] for rung in waiting["rungs"]] == [1, 20]
        done = assay(here, "bounty", "evaluate", "1", "--budget", "20")
        assert done["evaluation"] == 2
        found = assay(here, "bounty", "show", "1")
        right = int(found["result"].removeprefix("metric.right = "))
        assert right == sum(row[i] for i, row in enumerate(assay(here, "job", "result", "2")["confusion"]))
        assert right >= 20
        assert found["earned"] == 3_500_000
        assert sorted(found["paid"].values()) == [1_750_000, 1_750_000]
        assert until(lambda: (earned := assay(here, "worker", "earnings"))["account"]["bounty_credit"] == 3_500_000 and earned)
        assay(here, "worker", "withdraw")
        until(lambda: assay(here, "worker", "earnings")["account"]["bounty_credit"] == 0)
