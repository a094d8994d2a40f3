"""examples/hospitals: the table is read the same everywhere, its score counts pairs, and (slow) the whole story runs on a network of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.codec import decode
from assay.worth import report

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "examples" / "hospitals"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    monkeypatch.syspath_prepend(str(HERE))
    import patients
    import worth

    return patients, worth


def test_a_record_as_numbers_and_pairs_that_are_counted(example: tuple[Any, Any]) -> None:
    patients, worth = example
    record = dict.fromkeys(patients.FLAGS, "f") | {"age": "75", "sex": "F", "goitre": "t"}
    for name in patients.MEASURED:
        record |= {name: "", f"{name}_measured": "f"}
    row = patients.row(record | {"TSH": "1.3"})
    assert len(row) == len(patients.COLUMNS) == 29
    assert dict(zip(patients.COLUMNS, row, strict=True)) | {"age": 0.5, "female": 1.0, "goitre": 1.0, "TSH": 0.0, "TSH_measured": 1.0} == dict(
        zip(patients.COLUMNS, row, strict=True)
    )
    assert sum(row) == 3.5
    assert patients.row(record | {"age": "65511"})[0] == 0.0
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (40, 29)).astype(np.float32)
    on = patients.Records(x, rng.integers(0, 2, 40), np.full(40, 1985))
    state = {
        "param.0.weight": rng.integers(-1, 2, (4, 29)).astype(np.float32), "param.0.bias": np.zeros(4, np.float32),
        "param.2.weight": np.array([[0, 0, 0, 0], [1, 1, 0, 0]], np.float32), "param.2.bias": np.zeros(2, np.float32),
    }  # fmt: skip
    score = np.maximum(x @ state["param.0.weight"].T, 0)[:, :2].sum(1)
    pairs = [(a, b) for a in score[on.label == 1] for b in score[on.label == 0]]
    assert worth.measure(state, on) == (sum(2 * (a > b) + (a == b) for a, b in pairs), 2 * len(pairs))


@pytest.mark.slow
def test_five_hospitals_train_federated_and_pooled_and_are_paid_by_worth(needs_anvil: None, tmp_path: Path, example: tuple[Any, Any]) -> None:
    try:
        example[0].table()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    path = os.pathsep.join([str(ROOT), *(str(ROOT / role) for role in ("worker", "scheduler", "verifier")), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "run.py"), "--quick", "--json", "--out", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    valued = decode((tmp_path / "worth.json").read_bytes(), report.Worth)
    report.check(valued)
    assert list(valued.shares) == list(found["shares"].values())
    assert found["shares"] == {"other": 2244, "SVI": 2096, "SVHC": 1670, "STMW": 1894, "SVHD": 2096}  # the same on every machine
    assert found["earned"] == 2 * 20 * 32 * 1000  # tokens for a thousand records, 20 steps of 32
    assert found["earned"] - 5 < sum(found["paid"].values()) <= found["earned"]
    assert found["federated_paid"] == {site: 2 * (1_000_000 * share // 10_000) for site, share in found["shares"].items()}
    assert found["verdict"].startswith("✓")
    assert (found["rounds"], found["segments"]) == (2, 2)
    assert all(0.5 < found[way] < 1 for way in ("all", "federated", "pooled"))
