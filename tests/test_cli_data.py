"""`assay data grant|revoke|revenue` on a chain: the dataset gets there with its first licence, and what it earns is told and paid out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from assay import record_keys
from assay.chain import NOTHING, KeyReleased
from assay.cli.app import app
from assay.ids import Address, Digest, SegmentId
from assay.licensing import given
from assay.localnet.anvil import Anvil, deploy
from assay.merkle import sha256
from assay.publish.purposes import PURPOSES


@pytest.fixture
def data(needs_anvil: None, tmp_path: Path) -> Any:
    np.savez(tmp_path / "set.npz", x=np.arange(24, dtype=np.float32).reshape(12, 2))
    with Anvil(block_time=None) as anvil:
        network = deploy(anvil.url)

        def call(*words: str, code: int = 0) -> dict[str, Any]:
            asks = ("grant", "revoke", "admit", "revenue", "readers", "keyservice")
            chain = ("--rpc", anvil.url, "--contract", network.jobs) if words[0] in asks else ()
            group = ["data"] if words[0] != "keyservice" else []
            line = [*group, *words, "--data", str(tmp_path / "own"), *chain, "--json"]
            done = CliRunner().invoke(app, line, catch_exceptions=False)
            assert done.exit_code == code, done.output
            return dict(json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1]))

        yield call


def test_grant_revoke_and_revenue(data: Any, tmp_path: Path) -> None:
    data("publish", str(tmp_path / "set.npz"), "--price", "0.5", "--purpose", "health")
    assert "not on this contract" in data("revoke", "set", "--to", "anyone", code=1)["error"]
    first = data("grant", "set", "--to", "anyone")
    assert (first["dataset"], first["price"], first["purposes"]) == (1, 500_000, 1 << PURPOSES.index("health"))
    someone = "0x" + "ab" * 20
    second = data("grant", "set", "--to", someone, "--uses", "7", "--price", "0.25", "--purpose", "research")
    assert (second["dataset"], second["who"], second["uses"], second["price"], second["purposes"]) == (1, someone, 7, 250_000, 1)
    assert data("grant", "set", "--to", "0x12", code=2)["error"] == "who may use it is not understood"
    assert "no purpose" in data("grant", "set", "--to", "anyone", "--purpose", "war", code=2)["why"]
    assert data("revoke", "set", "--to", "anyone") == {"dataset": 1, "who": "0x" + "00" * 20, "revoked": True}
    assert "NoLicence" in data("revoke", "set", "--to", "anyone", code=4)["why"]
    other = "0x" + "0a" * 20
    assert data("admit", "set", "--verifier", someone, "--verifier", other) == {"dataset": 1, "verifiers": [other, someone]}
    assert data("admit", "set", code=2)["error"] == data("admit", "set", "--anyone", "--verifier", other, code=2)["error"]
    assert "names accounts" in data("admit", "set", "--verifier", "anyone", code=2)["error"]
    assert data("admit", "set", "--anyone") == {"dataset": 1, "verifiers": []}
    put_up = data("keyservice", "surety", "--per-job", "50", "--each", "10", "--add", "120", "--take", "20")
    assert put_up == {"per_job": 50_000_000, "each": 10_000_000, "notice": 600, "free": 100_000_000, "behind": {}, "paid": 0}
    assert data("keyservice", "surety") == put_up
    assert "not named" in data("keyservice", "surety", "--each", "10", code=2)["error"]
    told = data("revenue", "set", "--collect", "--withdraw")
    shown = {"earned": 0, "left": 0, "disputes": {}}  # for records that disputes have shown
    assert told == {"dataset": 1, "earned": 0, "share": 10_000, "withdrawn": 0, "left": 0, "jobs": {}, "shown": shown}
    assert data("readers", "set") == {"readers": [], "disputes": []}
    assert "there is no dataset 'other'" in data("grant", "other", "--to", "anyone", code=1)["error"]


def test_readers_tell_whole_shards_from_records() -> None:
    giver, who, verifier = (Address("0x" + c * 40) for c in "123")
    one, two = sha256(b"one"), sha256(b"two")

    def released(to: Address, key_id: Digest, size: int, segment: int = 1) -> KeyReleased:
        return KeyReleased(block=5, time=7, index=0, segment=SegmentId(segment), recipient=to, key_id=key_id, wrapped=bytes(size), by=giver)

    bundle = len(record_keys.encode(record_keys.select(b"k" * 32, range(9)))) + 48
    seen = [
        released(who, one, 80), released(who, two, 80), released(verifier, one, bundle), released(verifier, two, bundle - 36),
        released(verifier, sha256(b"another dataset's"), 80), released(verifier, NOTHING, 0, 2),
    ]  # fmt: skip
    base = {"time": 7, "segment": 1, "by": giver, "of": 2}
    assert given(seen, {one, two}) == [
        base | {"recipient": who, "shards": 2, "records": 0}, base | {"recipient": verifier, "shards": 0, "records": 17}
    ]  # fmt: skip
