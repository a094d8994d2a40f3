"""`assay check`: one step of a job that a network in memory trained, by those who hold keys and by those who hold none; what it fetches; frozen
tensors that several checks share; the keys of settled checkpoints that a client collects."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_audit import WRONG, Forge, drop, say
from test_audit_whole import PLAN, STEPS, Trained, trained

from assay import chain
from assay.adapters.engine_process import InlineEngine
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.audit.auditor import NoSuchJob
from assay.audit.bases import Bases
from assay.audit.step import CannotTell, NoSuchStep, StepCheck, check_step
from assay.cli.check import as_json, told
from assay.client import collect, run_plan
from assay.ids import Cid, Digest, JobId, PeerId, SegmentId
from assay.messages import AnyReply, KeyGrant, KeyRequest, Refusal
from assay.ports import Outage
from assay.receipts import Ledger
from assay.state import frozen_root, to_bytes

__all__ = ["trained"]

Change = Callable[[Trained], dict[Cid, bytes | None]]


def network(trained: Trained, change: Change = lambda t: {}) -> MemoryBlobs:
    """The visitor's own store, empty but for what is forged, beside one that has everything but what is changed."""
    net = BlobNet()
    other, mine = MemoryBlobs(net, PeerId("other")), MemoryBlobs(net, PeerId("visitor"))
    changed = change(trained)
    other._blobs = {cid: blob for cid, blob in trained.blobs.items() if cid not in changed}
    mine._blobs = {cid: blob for cid, blob in changed.items() if blob is not None}
    return mine


def checked(
    trained: Trained, folder: Path, step: int, who: str | None = "client", *, forge: Forge = lambda record: record, change: Change = lambda t: {},
    bases: Path | None = None, progress: Any = lambda done, total: None, job: int | None = None,
) -> StepCheck:  # fmt: skip
    return asyncio.run(
        check_step(
            forge(trained.record), JobId(job or trained.job), step, network(trained, change), trained.keys[who] if who else None, InlineEngine(),
            folder / "check", Bases(bases), patience=1, progress=progress,
        )
    )  # fmt: skip


def test_a_step_of_the_first_segment_is_confirmed_with_its_loss(trained: Trained, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = checked(trained, tmp_path, 1, progress=lambda done, total: seen.append((done, total)))
    assert found.agrees
    assert found.settled
    assert (found.segment, found.start, found.stop, found.computed) == (1, 0, 2, 2)
    assert found.loss == np.float32(run_plan(PLAN).losses[1]).view(np.uint32)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    assert told(found, 1.0)[0].startswith("✓ step 1 of job 1")
    assert as_json(found, 1.0)["loss"] == pytest.approx(run_plan(PLAN).losses[1])


def test_what_is_fetched_is_what_it_takes(trained: Trained, tmp_path: Path) -> None:
    found = checked(trained, tmp_path, 0)
    spec = trained.spec
    needed = [trained.spec_cid, spec.program, spec.schedule, spec.state.cid, *(shard.sealed.cid for shard in spec.dataset.shards)]
    assert found.fetched <= sum(len(trained.blobs[cid]) for cid in needed)
    assert found.base == spec.frozen_blobs[0].size


def test_a_later_step_is_run_from_the_start_unless_the_checkpoint_before_it_opens(trained: Trained, tmp_path: Path) -> None:
    assert checked(trained, tmp_path, STEPS - 1).computed == STEPS
    found = checked(trained, tmp_path / "provider", STEPS - 1, "worker")
    assert (found.agrees, found.computed, found.start) == (True, 2, 2)


def test_a_base_is_fetched_once_and_a_spoilt_one_again(trained: Trained, tmp_path: Path) -> None:
    shelf = tmp_path / "bases"
    assert checked(trained, tmp_path / "1", 0, bases=shelf).base > 0
    (kept,) = shelf.iterdir()
    assert kept.name == f"{frozen_root(PLAN.frozen).hex()}.safetensors"
    assert oct(shelf.stat().st_mode)[-3:] == "700"
    assert checked(trained, tmp_path / "2", 0, bases=shelf).base == 0
    kept.unlink()
    kept.write_bytes(to_bytes({name: array * 2 for name, array in PLAN.frozen.items()}))
    again = checked(trained, tmp_path / "3", 0, bases=shelf)
    assert again.agrees
    assert again.base > 0
    kept.write_bytes(b"no tensors")
    assert checked(trained, tmp_path / "4", 0, bases=shelf).base > 0


def test_the_base_used_longest_ago_goes_first(tmp_path: Path) -> None:
    file = tmp_path / "a"
    sets = [{"param.w": np.full((64,), i, np.float32)} for i in range(3)]
    shelf = Bases(tmp_path / "bases", most=2 * len(to_bytes(sets[0])))
    for i, tensors in enumerate(sets):
        file.unlink(missing_ok=True)
        file.write_bytes(to_bytes(tensors))
        shelf.keep(frozen_root(tensors), file)
        os.utime(tmp_path / "bases" / f"{frozen_root(tensors).hex()}.safetensors", (i, i))
    assert [shelf.take(frozen_root(tensors), tmp_path / f"into-{i}") for i, tensors in enumerate(sets)] == [False, True, True]
    assert not Bases(None).take(frozen_root(sets[1]), tmp_path / "into")


def test_a_step_that_is_not_what_was_committed_is_refuted(trained: Trained, tmp_path: Path) -> None:
    for change in ({"link_root": WRONG}, {"end_root": WRONG}):
        found = checked(trained, tmp_path / next(iter(change)), 1, forge=say(chain.Committed, 1, **change))
        assert not found.agrees
        assert any("segment 1 (steps 0-2)" in line for line in found.wrong)
        assert told(found, 1.0)[0].startswith("✗ step 1")


def test_wrong_inputs_are_told_as_what_they_are(trained: Trained, tmp_path: Path) -> None:
    found = checked(trained, tmp_path, 0, change=lambda t: {t.spec.state.cid: bytes(200)})
    assert not found.agrees
    assert "not what was published" in found.wrong[0]
    assert as_json(found, 0.0)["loss"] is None


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"who": None}, "holds no key"),
        ({"change": lambda t: {t.spec_cid: None}}, "cannot be had"),
        ({"change": lambda t: {t.spec.dataset.shards[0].sealed.cid: None}}, "shard 0"),
    ],
)
def test_what_cannot_be_told_says_why(trained: Trained, tmp_path: Path, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(CannotTell, match=why):
        checked(trained, tmp_path, 0, **settings)


def test_steps_and_jobs_that_are_not_there(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(NoSuchStep, match=f"0 to {STEPS - 1}"):
        checked(trained, tmp_path, STEPS)
    with pytest.raises(NoSuchStep, match="not committed"):
        checked(trained, tmp_path, 0, forge=drop(chain.Committed, 1))
    with pytest.raises(NoSuchJob):
        checked(trained, tmp_path, 0, job=9)


# ---- the client's keys ---------------------------------------------------------------------------------------------------


class Service:
    """A key service that is away once, asks for patience once, and then grants what `wrapped` is."""

    def __init__(self, wrapped: bytes) -> None:
        self.wrapped, self.asked = wrapped, 0

    async def request(self, peer: PeerId, message: Any, timeout: float) -> AnyReply:
        assert isinstance(message, KeyRequest)
        self.asked += 1
        if self.asked == 1:
            raise Outage("away")
        return Refusal(reason="soon") if self.asked == 2 else KeyGrant(key_id=message.key_id, wrapped=(self.wrapped,))


async def no_sleep(seconds: float) -> None: ...


def test_a_client_collects_the_keys_of_what_settles_and_then_checks_from_there(trained: Trained, tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.feed([entry.event for entry in trained.record.entries])
    first, client = ledger.segments[SegmentId(1)], trained.keys["client"]
    assert first.key_id is not None
    key = trained.keys["worker"].load(first.key_id)

    class Chain:
        async def events(self, after: Any, depth: int) -> list[Any]:
            return [entry.event for entry in trained.record.entries]

    def ask(service: Service) -> bool:
        return asyncio.run(collect(ledger, SegmentId(1), Chain(), service, client, no_sleep))  # type: ignore[arg-type]

    before = dict(client._ring)
    try:
        assert not ask(Service(bytes(80)))
        assert not ask(Service(client.wrap(b"x" * 32, client.encryption_key)))
        service = Service(client.wrap(key, client.encryption_key))
        assert ask(service)
        assert service.asked == 3
        assert client.load(Digest(first.key_id)) == key
        assert ask(service)
        assert service.asked == 3, "asked for what it has"
        found = checked(trained, tmp_path, STEPS - 1)
        assert (found.agrees, found.computed) == (True, 2)
    finally:
        client._ring.clear()
        client._ring.update(before)
