"""The whole audit of a job that a network in memory trained: documents by their CIDs, what the client gets, links computed again.

Blobs are forged under the CIDs of others here (the store's check of a CID has tests of its own), and keys withheld, so that every place
that can say "this is false", or "this could not be checked", says it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from audit_story import Sites
from roles.tiny import Net, plan, post
from test_audit import JOB, WRONG, Forge, both, drop, find, findings, say, terms

from assay import chain, seal
from assay.adapters.engine_process import InlineEngine
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.adapters.memory_keys import MemoryKeys
from assay.adapters.memory_record import read_record
from assay.audit.findings import Report
from assay.audit.record import Record
from assay.audit.whole import audit_job
from assay.chain import Committed, JobClosed, KeyReleased
from assay.client import run_plan
from assay.codec import decode
from assay.ids import Cid, JobId, PeerId
from assay.job import JobSpec
from assay.keyservice.daemon import key_service
from assay.merkle import sha256
from assay.state import to_bytes
from assay_scheduler.daemon import scheduler
from assay_verifier.daemon import verifier
from assay_worker.daemon import worker

STEPS = 4
PLAN = plan(STEPS, frozen=True)


class Trained(NamedTuple):
    record: Record
    job: JobId
    blobs: dict[Cid, bytes]
    keys: dict[str, MemoryKeys]

    @property
    def spec(self) -> JobSpec:
        event: Any = self.record.entries[find(self.record, chain.JobPosted)].event
        return decode(self.blobs[event.terms.spec], JobSpec)

    @property
    def spec_cid(self) -> Cid:
        event: Any = self.record.entries[find(self.record, chain.JobPosted)].event
        return Cid(event.terms.spec)

    @property
    def last(self) -> Committed:
        event: Any = self.record.entries[find(self.record, Committed, nth=-1)].event
        assert isinstance(event, Committed)
        return event

    @property
    def release(self) -> tuple[int, KeyReleased]:
        """To the client: where among the releases, and which."""
        there = [e.event for e in self.record.entries if isinstance(e.event, KeyReleased)]
        mine = [i for i, event in enumerate(there) if event.recipient == self.keys["client"].account]
        return mine[-1], there[mine[-1]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    net = Net(tmp_path_factory.mktemp("net"))

    def delivered() -> bool:
        told = net.ledger.events()
        mine = net.ports["client"].chain.account
        return any(isinstance(e, JobClosed) for e in told) and any(isinstance(e, KeyReleased) and e.recipient == mine for e in told)

    async def run() -> int:
        async with net.mining():
            await net.up("scheduler", scheduler, role="scheduler", offer_window=10)
            await net.up("keys", key_service, role="keyservice")
            await net.up("worker", worker, deposit=100_000, price_per_step=10)
            for i in range(3):
                await net.up(f"verifier{i}", verifier, role="verifier", deposit=100_000, seat=True)
            job = await post(net, PLAN, 2)
            await net.until(delivered)
            return job

    job = JobId(asyncio.run(run()))
    found: Any = net.ports["client"].chain
    blobs = {cid: blob for node in net.blobs.nodes.values() for cid, blob in node._blobs.items()}
    keys: Any = {name: ports.keys for name, ports in net.ports.items()}
    return Trained(read_record(found, job), job, blobs, keys)


Change = Callable[[Trained], dict[Cid, bytes | None]]
"""Blobs that are other ones, or not to be had."""


def audited(
    trained: Trained, folder: Path, who: str | None = "client", forge: Forge = lambda record: record, change: Change = lambda trained: {},
    replay: int = 0,
) -> Report:  # fmt: skip
    shelf = MemoryBlobs(BlobNet(), PeerId("auditor"))
    shelf._blobs = {cid: blob for cid, blob in (trained.blobs | change(trained)).items() if blob is not None}
    keys = trained.keys[who] if who else None
    return asyncio.run(
        audit_job(forge(trained.record), trained.job, shelf, keys, InlineEngine(), folder / "audit", replay=replay, seed=1, patience=1)
    )


def all_findings(report: Report) -> list[Any]:
    return [finding for sheet in report.sheets for finding in sheet.findings]


# ---- what holds ----------------------------------------------------------------------------------------------------------


def test_the_client_can_check_everything(trained: Trained, tmp_path: Path) -> None:
    report = audited(trained, tmp_path, replay=3)
    assert not all_findings(report)
    assert report.sheet.mark("documents") == report.sheet.mark("delivery") == "✓"
    assert all(row.sheet.mark("replay") == "✓" for row in report.rows)  # three of twelve links, in both segments
    assert report.rows[-1].end_root == run_plan(PLAN).root


def test_a_stranger_checks_all_but_what_is_sealed_and_is_told_so(trained: Trained, tmp_path: Path) -> None:
    report = audited(trained, tmp_path, None, replay=3)
    assert not report.failed
    assert {(finding.check, finding.ok) for finding in all_findings(report)} == {("delivery", None), ("replay", None)}
    assert any("holds no key" in finding.text for finding in all_findings(report))


def test_a_provider_computes_again_what_it_had_keys_for(trained: Trained, tmp_path: Path) -> None:
    report = audited(trained, tmp_path, "worker", replay=3)
    assert not report.failed
    assert all(row.sheet.mark("replay") == "✓" for row in report.rows)


def test_the_same_seed_chooses_the_same_links_and_all_when_there_are_no_more(trained: Trained, tmp_path: Path) -> None:
    assert not all_findings(audited(trained, tmp_path, replay=10**6))


# ---- what is false, or cannot be known -------------------------------------------------------------------------------------


def other_state(trained: Trained) -> dict[Cid, bytes | None]:
    """A checkpoint that opens with the right key, and is another state."""
    key = trained.keys["client"].unwrap(trained.release[1].wrapped)
    assert trained.last.checkpoint is not None
    return {trained.last.checkpoint: seal.seal(to_bytes(PLAN.state), key)}


def released(trained: Trained, **changes: Any) -> Forge:
    return say(KeyReleased, nth=trained.release[0], **changes)


def other_key(trained: Trained) -> bytes:
    keys = trained.keys["client"]
    return keys.wrap(seal.new_key(), keys.encryption_key)


def nothing(record: Record) -> Record:
    """The chain ends where the job was posted."""
    return record._replace(entries=record.entries[: find(record, chain.JobPosted) + 1], held=None)


Case = tuple[Callable[[Trained], dict[str, Any]], int, str, bool | None]
CASES: dict[str, Case] = {
    "no document": (lambda t: {"change": lambda t: {t.spec_cid: None}, "replay": 1}, JOB, "documents", None),
    "no document to compute by": (lambda t: {"change": lambda t: {t.spec_cid: None}, "replay": 1}, JOB, "replay", None),
    "another document": (lambda t: {"change": lambda t: {t.spec_cid: b"{}"}}, JOB, "documents", False),
    "a document that is none": (
        lambda t: {"change": lambda t: {t.spec_cid: b"{}"}, "forge": terms(spec_digest=sha256(b"{}"), nth=0)}, JOB, "documents", False),
    "another state": (lambda t: {"forge": terms(state_root=WRONG, nth=0)}, JOB, "documents", False),
    "other data": (lambda t: {"forge": terms(dataset_root=WRONG, nth=0)}, JOB, "documents", False),
    "no program": (lambda t: {"change": lambda t: {t.spec.program: None}}, JOB, "documents", None),
    "a program that is none": (lambda t: {"change": lambda t: {t.spec.program: b"{}"}}, JOB, "documents", False),
    "another program": (lambda t: {"forge": terms(program_root=WRONG, nth=0)}, JOB, "documents", False),
    "other leaves": (lambda t: {"forge": terms(micro_leaves=3, nth=0)}, JOB, "documents", False),
    "other weights": (lambda t: {"forge": terms(update_weight=1, nth=0)}, JOB, "documents", False),
    "no schedule": (lambda t: {"change": lambda t: {t.spec.schedule: None}}, JOB, "documents", None),
    "another schedule": (
        lambda t: {"change": lambda t: {t.spec.schedule: bytes(len(t.blobs[t.spec.schedule]))}}, JOB, "documents", False),
    "a schedule cut short": (lambda t: {"change": lambda t: {t.spec.schedule: b"123"}}, JOB, "documents", False),
    "a key that was not released": (lambda t: {"forge": drop(KeyReleased, nth=t.release[0])}, JOB, "delivery", None),
    "a key that a stranger released": (lambda t: {"forge": released(t, by=t.keys["worker"].account)}, JOB, "delivery", None),
    "a key that does not open": (lambda t: {"forge": released(t, wrapped=bytes(80))}, JOB, "delivery", False),
    "another key than was committed": (lambda t: {"forge": released(t, wrapped=other_key(t))}, JOB, "delivery", False),
    "no checkpoint": (lambda t: {"change": lambda t: {t.last.checkpoint: None}}, JOB, "delivery", None),
    "a checkpoint that does not open": (lambda t: {"change": lambda t: {t.last.checkpoint: bytes(200)}}, JOB, "delivery", False),
    "a checkpoint of another state": (lambda t: {"change": other_state}, JOB, "delivery", False),
    "a stranger's delivery": (lambda t: {"who": None}, JOB, "delivery", None),
    "nothing computed again": (lambda t: {}, JOB, "replay", None),
    "nothing to compute again": (lambda t: {"forge": nothing, "replay": 3}, JOB, "replay", None),
    "no key to the start": (lambda t: {"who": None, "replay": 99}, 1, "replay", None),
    "no key to anything before": (lambda t: {"who": None, "replay": 99}, 2, "replay", None),
    "no state": (lambda t: {"change": lambda t: {t.spec.state.cid: None}, "replay": 99}, 1, "replay", None),
    "no shard": (lambda t: {"change": lambda t: {t.spec.dataset.shards[0].sealed.cid: None}, "replay": 99}, 1, "replay", None),
    "no frozen tensors": (lambda t: {"change": lambda t: {t.spec.frozen_blobs[0].cid: None}, "replay": 99}, 1, "replay", None),
    "a state that does not open": (lambda t: {"change": lambda t: {t.spec.state.cid: bytes(200)}, "replay": 99}, 1, "replay", False),
    "another start than was posted": (
        lambda t: {"change": lambda t: {t.spec.state.cid: t.blobs[t.spec.frozen_blobs[0].cid]}, "replay": 99}, 1, "replay", False),
    "other links": (lambda t: {"forge": say(Committed, 2, link_root=WRONG), "replay": 99}, 2, "replay", False),
    "another end": (lambda t: {"forge": say(Committed, 2, end_root=WRONG), "replay": 99}, 2, "replay", False),
    "another trace": (
        lambda t: {"forge": say(chain.Revealed, 1, trace_roots=lambda roots: (WRONG, *roots[1:])), "replay": 99}, 1, "replay", False),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_false_or_cannot_be_known_is_told(trained: Trained, tmp_path: Path, name: str) -> None:
    changes, segment, check, ok = CASES[name]
    report = audited(trained, tmp_path, **changes(trained))
    assert check in findings(report, segment, ok)
    assert bool(report.failed) is (ok is False)


def test_every_place_that_can_say_no_has_said_it(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = Sites("documents", "replays", "whole")
    sites.watch(monkeypatch)
    for number, (changes, _, _, _) in enumerate(CASES.values()):
        audited(trained, tmp_path / str(number), **changes(trained))
    unseen = sites.unseen()
    assert not unseen, "\n".join(unseen)


def test_an_audit_leaves_the_callers_ring_as_it_was(trained: Trained, tmp_path: Path) -> None:
    before = dict(trained.keys["worker"]._ring)
    audited(trained, tmp_path, "worker", both(), replay=99)
    assert trained.keys["worker"]._ring == before
