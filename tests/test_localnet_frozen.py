"""A fine-tune of a model whose base is frozen, bought from a real network: a chain and five daemons, each a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from assay.adapters.ipfs_store import BlockStore
from assay.cli.common import ENVIRONMENT, USAGE
from assay.training import load_training
from tests.test_localnet_net import assay, daemon, here, until

__all__ = ["here"]

WIDTH, RANK, STEPS, CLASSES = 128, 2, 4, 3
BASE = 4 * WIDTH * WIDTH
"""Bytes of the frozen weights."""
TRAINING = f"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
import assay

class Adapter(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.a = nn.Parameter(torch.randn({RANK}, linear.in_features) / linear.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(linear.out_features, {RANK}))
        self.register_buffer("shift", torch.linspace(-1, 1, linear.out_features))
    def forward(self, x):
        return self.linear(x) + x @ self.a.T @ self.b.T + self.shift

base = nn.Linear({WIDTH}, {WIDTH}, bias=False)
base.weight.requires_grad_(False)
rng = np.random.default_rng(0)
x = rng.normal(size=(32, {WIDTH})).astype("float32")
model = nn.Sequential(Adapter(base), nn.GELU(), nn.Linear({WIDTH}, {CLASSES}))
training = assay.Training(model=model, loss=lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
                          data=assay.Dataset("dots", x=x, y=rng.integers(0, {CLASSES}, 32)), optimizer=assay.AdamW(lr=1e-2), batch=8, steps={STEPS})
"""
TRAINED = ("0.a", "0.b", "2.weight", "2.bias")



def blobs(node: Path) -> dict[str, int]:
    """Blocks that a node's store holds: CID -> bytes. All blobs of this job are of one block."""
    return dict(BlockStore(node / "blobs").stored())


@pytest.mark.slow
def test_a_fine_tune_settles_with_the_state_of_its_adapter_alone(here: Path) -> None:
    assay(here, "net", "up")
    (here / "tune.py").write_text(TRAINING)
    windows = "seal_window = 60\nreveal_window = 60\nopen_window = 60\nchallenge_window = 1\n"  # too short to wait for a full minute
    (here / "fast.toml").write_text(f"finality = 1\n{windows}verifiers = 1\nquorum = 1\n")
    local = assay(here, "run", "tune.py", "--local")
    with daemon(here, "keyservice"), daemon(here, "scheduler"), daemon(here, "worker"), daemon(here, "verifier"):
        submit = ["submit", "tune.py", "--budget", "40", "--yes", "--segment-steps", "2", "--params", "fast.toml"]
        done = assay(here, *submit, "--watch", "--out", "weights.safetensors")
        assert done["final_state_root"] == local["final_state_root"]
        (job,) = until(lambda: (jobs := assay(here, "job", "list")["jobs"])[0]["state"] == "done" and jobs)
        assert (job["settled"], job["segments"]) == (STEPS, {"SETTLED": 2})
        assay(here, "job", "fetch", "1", "--out", "state.safetensors", "--state")
        for step, start in ((1, 0), (STEPS - 1, STEPS // 2)):  # the second from the checkpoint whose key the client was given off chain
            found = assay(here, "check", "1", "--step", str(step), "--threads", "1")
            assert (found["agrees"], found["start"], found["steps_computed"]) == (True, start, STEPS // 2)
            assert found["fetched_bytes"] < 1 << 20
        assay(here, "check", "1", "--step", str(STEPS), code=USAGE)
        assay(here, "check", "1", "--step", "0", "--data", "nobody", code=ENVIRONMENT)
    assert set(load_file(here / "weights.safetensors")) == set(TRAINED)
    state = load_file(here / "state.safetensors")
    assert set(state) == {f"{kind}.{name}" for kind in ("param", "m", "v") for name in TRAINED} | {"metric.loss"}
    assert state["param.0.b"].any(), "the adapter was not trained"

    # The base is one blob, the client's, that workers and verifiers fetch; what each segment adds is a sealed state without it.
    nodes = {name: blobs(here / ".assay" / name) for name in ("client", "worker", "verifier")}
    ((base, size),) = ((cid, size) for cid, size in nodes["client"].items() if size > BASE)
    assert size < BASE + BASE // 8
    for held in nodes.values():
        assert held.pop(base) == size
        assert max(held.values()) < BASE // 3
    assert len(nodes["worker"].keys() - nodes["client"].keys()) >= 2  # boundaries of links; the client has none of them
    clear = load_training(here / "tune.py", 0).model.state_dict()["0.linear.weight"].numpy().tobytes()
    assert len(clear) == BASE
    assert not [path for path in (here / ".assay").rglob("*") if path.is_file() and clear[:4096] in path.read_bytes()]
