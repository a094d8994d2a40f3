"""Keys that three nodes share, each a process of its own: with any two of them up a job is trained, checked, settled, delivered and audited, also
without the first, whom alone the contract knows. Who is drawn ends with the keys of its records."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from assay import record_keys
from tests.test_localnet_net import SUBMIT, assay, daemon, here, until, written

__all__ = ["here"]


def ring(folder: Path) -> tuple[set[bytes], dict[bytes, int]]:
    """Of a node's keys: ids of those that are whole; and of those of single records, how many there are, by the shard's."""
    around = 12 + 16  # nonce and tag
    each = record_keys.encoded_size(1) - record_keys.encoded_size(0)
    with contextlib.closing(sqlite3.connect(next(folder.rglob("ring.db")))) as db:
        whole = {row[0] for row in db.execute("select id from ring")}
        return whole, {row[0]: (len(row[1]) - around - record_keys.encoded_size(0)) // each for row in db.execute("select id, sealed from records")}


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
        shards, records = ring(here / ".assay" / "verifier")
        assert records  # of the shards that its links read from, and no shard's key
        assert not records.keys() & shards
        assert all(0 < count < 64 for count in records.values())
        audit = assay(here, "job", "audit", "1")
        assert audit["failed"] == 0, audit
