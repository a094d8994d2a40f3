"""The whole way, in processes: read this test first.

One run of the demo, as a person would start it: a chain, a bootstrap node, a scheduler, a key service, four workers of which one lies
and one is killed, six verifiers, and a client who buys the training of a character GPT. Then each promise of the README is held
against what the run left: its JSON object, the chain's own balances, the folders, the processes.

A hook in every Python process of the run (tests/isolation) notes each file that it opens, so that "a folder that no other reads" is
looked at and not believed.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
STEPS, SEGMENTS = 80, 8
KEYS = {
    "job", "program_cid", "final_state_root", "local_state_root", "loss_first", "loss_last", "balance_changes", "segments", "rejections",
    "slashes", "chain", "wall_seconds", "peak_memory_bytes",
}  # fmt: skip
NODES = ["keyservice", "scheduler", "client", "liar", *(f"worker-{i}" for i in (1, 2, 3)), *(f"verifier-{i}" for i in range(1, 7))]


class Run(NamedTuple):
    base: Path
    notes: list[dict[str, Any]]
    result: dict[str, Any]
    opened: dict[str, set[str]]
    """By node: the files under `base` that its processes opened."""

    def account(self, name: str) -> str:
        accounts = next(note["accounts"] for note in self.notes if "accounts" in note)
        return str(accounts[name])

    def named(self, topic: str) -> list[dict[str, Any]]:
        return [note for note in self.notes if note.get("topic") == topic]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    base, audit = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("audit")
    path = os.pathsep.join([str(ROOT / "tests" / "isolation"), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, "ASSAY_AUDIT": str(audit), "ASSAY_BASE": str(base)}
    command = [sys.executable, "-m", "assay.cli", "demo", "--json", "--keep", str(base), "--steps", str(STEPS)]
    done = subprocess.run(command, env=env, cwd=base, capture_output=True, text=True, timeout=420)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join([*lines[-5:], done.stderr[-3000:]])
    notes = [json.loads(line) for line in lines]
    opened: dict[str, set[str]] = {}
    for path in audit.iterdir():
        opened.setdefault(path.name.partition("@")[0], set()).update(path.read_text().splitlines())
    return Run(base, notes[:-1], notes[-1], opened)


def test_the_last_line_is_the_object_that_was_promised(run: Run) -> None:
    assert set(run.result) == KEYS
    assert run.result["chain"] == {"name": "anvil", "id": 31337}


def test_the_networks_weights_are_those_of_one_process(run: Run) -> None:
    assert run.result["final_state_root"] == run.result["local_state_root"]
    assert len(bytes.fromhex(run.result["final_state_root"])) == 32


def test_the_model_learnt(run: Run) -> None:
    assert run.result["loss_last"] < run.result["loss_first"] - 0.5


def test_every_segment_was_settled_in_the_end(run: Run) -> None:
    assert run.result["segments"]["SETTLED"] >= SEGMENTS


def test_the_liar_was_caught_and_slashed(run: Run) -> None:
    liar = run.account("liar")
    caught = [rejection for rejection in run.result["rejections"] if rejection["party"] == liar]
    assert caught
    assert all("did not get the committed bits" in rejection["reason"] for rejection in caught)
    slashes = run.result["slashes"]
    assert slashes
    assert {slash["party"] for slash in slashes} == {liar}
    taken = sum(slash["amount"] for slash in slashes)
    assert run.result["balance_changes"][liar] <= -taken
    assert 0 < run.result["balance_changes"]["0x" + "00" * 18 + "dead"] < taken  # the rest is the challenger's
    outcomes = [note["outcome"] for note in run.named("resolved")]
    assert outcomes
    assert set(outcomes) == {"asserter lost"}


def test_no_honest_worker_was_rejected(run: Run) -> None:
    assert {rejection["party"] for rejection in run.result["rejections"]} == {run.account("liar")}


def test_one_worker_was_killed_and_came_back(run: Run) -> None:
    killed = run.named("killed")
    assert killed
    assert all(note["party"].startswith("worker") for note in killed)
    assert any("started again" in note["text"] and note["party"] == killed[-1]["party"] for note in run.named("up"))
    assert run.result["segments"].get("LAPSED", 0) >= 1


def test_the_scheduler_heard_from_whoever_worked(run: Run) -> None:
    """Heartbeats: they may be lost, but not those of a whole segment."""
    log = [json.loads(line) for line in (run.base / "scheduler" / "log.jsonl").read_text().splitlines()]
    heard = {note["segment"] for note in log if note["topic"] == "progress"}
    assert len(heard) >= SEGMENTS
    assert {note["provider"] for note in log if note["topic"] == "progress"} <= {run.account(name) for name in NODES if name != "client"}


def test_money_neither_appears_nor_vanishes(run: Run) -> None:
    changes = run.result["balance_changes"]
    assert sum(changes.values()) == 0
    assert all(isinstance(change, int) for change in changes.values())
    accounts = {run.account(name) for name in NODES if name != "client"}
    assert accounts - {run.account("scheduler"), run.account("keyservice")} <= set(changes)


def test_honest_workers_and_verifiers_were_paid_by_the_client(run: Run) -> None:
    changes = run.result["balance_changes"]
    assert sum(changes[run.account(f"worker-{i}")] for i in (1, 2, 3)) > 0
    assert sum(changes[run.account(f"verifier-{i}")] for i in range(1, 7)) > 0
    losers = {who for who, change in changes.items() if change < 0}
    nodes = {run.account(name) for name in NODES if name != "client"}
    assert losers & nodes <= {run.account("liar"), *(run.account(note["party"]) for note in run.named("killed"))}  # its late fee
    assert len(losers - nodes) == 1  # the client, who paid


def test_memory_stays_within_what_was_promised(run: Run) -> None:
    assert 0 < run.result["peak_memory_bytes"] < 4 << 30


@pytest.mark.parametrize("name", NODES)
def test_a_nodes_folder_is_its_own(run: Run, name: str) -> None:
    """Private to its user, and no process of another node opened anything in it."""
    folder = run.base / name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    others = {other: {path for path in paths if path.startswith(f"{folder}/")} for other, paths in run.opened.items() if other != name}
    assert not {other: paths for other, paths in others.items() if paths and other != "demo"}


def test_the_hook_saw_what_the_nodes_did(run: Run) -> None:
    """Each node opened files of its own: otherwise the test above would see nothing anywhere."""
    for name in NODES:
        assert any(path.startswith(f"{run.base / name}/") for path in run.opened[name]), name


def test_nothing_is_left_running(run: Run) -> None:
    left = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(run.base) in word for word in process.info["cmdline"] or []):
            left.append(process)
    assert not left
