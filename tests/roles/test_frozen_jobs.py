"""Frozen tensors of a job at a worker and a verifier: read once, checked against the program, never taken from elsewhere."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from test_hands import ONE, Stage, fails, play, stage
from tiny import FROZEN, MICRO_BATCHES, batch_for, lay_out, plan

from assay import client, links, seal
from assay.engine import (
    AnyEngineResult,
    CheckFile,
    Failure,
    FileChecked,
    JobFiles,
    LinkReplayed,
    LinksOpened,
    LinksRun,
    OpenLinks,
    ReplayLink,
    RunLinks,
)
from assay.exact.memory import needed
from assay.ids import Digest, JobId, SegmentId
from assay.job import JobSpec, SealedRef
from assay.runtime import Fault
from assay.stages import program_root
from assay.state import Tensors, from_bytes, frozen_root, state_root, to_bytes
from assay.tasks import CheckProgram, DropSegment, LoadJob, OpenBoundary
from assay.work import Engine

STEPS = 4
PLAN = plan(STEPS, frozen=True)
OTHER = FROZEN | {"param.gain": np.array([1, 0.5, 3], np.float32)}


def run_task(job: JobFiles, segment: str = "segment-1", stop: int = STEPS) -> RunLinks:
    return RunLinks(job=job, segment=segment, start=0, stop=stop, parent_root=state_root(0, PLAN.state), keep=1 << 30)


def perform(engine: Engine, task: Any) -> AnyEngineResult:
    return engine.perform(task, lambda _: None)


# ---- the engine ----------------------------------------------------------------------------------------------------------


def test_a_run_with_frozen_tensors_ends_where_a_local_run_ends_and_its_state_has_none(tmp_path: Path) -> None:
    done = perform(Engine(tmp_path), run_task(lay_out(tmp_path, PLAN)))
    local = client.run_plan(PLAN)
    assert isinstance(done, LinksRun), done
    assert done.end_root == local.root
    assert sorted(from_bytes((tmp_path / "segment-1" / done.state).read_bytes(), 1 << 20)) == ["m.w", "metric.loss", "param.w", "v.w"]


def test_frozen_tensors_are_part_of_what_is_computed(tmp_path: Path) -> None:
    other = PLAN._replace(frozen=OTHER, program=msgspec.structs.replace(PLAN.program, frozen_root=frozen_root(OTHER)))
    assert program_root(other.program) != program_root(PLAN.program)
    assert client.run_plan(other).root != client.run_plan(PLAN).root


@pytest.mark.parametrize("unit", range(3))
def test_every_kind_of_link_replays(tmp_path: Path, unit: int) -> None:
    job = lay_out(tmp_path, PLAN)
    engine = Engine(tmp_path)
    perform(engine, run_task(job))
    wanted = OpenLinks(job=job, segment="segment-1", start=0, stop=STEPS, parent_root=state_root(0, PLAN.state), keep=1 << 30, units=(unit,))
    opened = perform(engine, wanted)
    assert isinstance(opened, LinksOpened)
    (link,) = opened.opened
    _, m = links.place(unit, MICRO_BATCHES)
    if m < MICRO_BATCHES:
        batch_for(tmp_path, PLAN, job, unit, 0, m)
    found = perform(Engine(tmp_path), ReplayLink(
        job=job, segment="segment-1", unit=unit, step=0, m=m, state_end=state_root(0, PLAN.state), acc_end=link.ends[-2] if m else Digest(b""),
        end=link.ends[-1], leaves=PLAN.program.update_leaves if m == MICRO_BATCHES else PLAN.program.micro_leaves,
    ))  # fmt: skip
    assert isinstance(found, LinkReplayed), found
    assert found.agrees, found.reason


@pytest.mark.parametrize(
    ("frozen", "why"),
    [
        (OTHER, "the frozen tensors are not those that the program names: their root is"),
        ({"param.gain": FROZEN["param.gain"]}, r"the frozen set lacks 'buffer.shift', f32\[3\]"),
        (FROZEN | {"param.w": FROZEN["param.gain"]}, "the frozen set has 'param.w', which the program does not know"),
        (FROZEN | {"param.gain": np.ones(4, np.float32)}, r"the frozen set's 'param.gain' is float32\[4\], the program takes f32\[3\]"),
        (FROZEN | {"param.gain": np.ones(3, np.int32)}, r"the frozen set's 'param.gain' is int32\[3\]"),
        (b"garbage", "the job's frozen tensors: tensor file"),
        (to_bytes(FROZEN) + b"more", "the job's frozen tensors: tensor file has 4 bytes"),
    ],
    ids=["other values", "one missing", "one too many", "another shape", "another dtype", "garbage", "more bytes"],
)
def test_frozen_tensors_that_are_not_the_programs_are_the_clients_fault(tmp_path: Path, frozen: Tensors | bytes, why: str) -> None:
    job = lay_out(tmp_path, PLAN)
    (tmp_path / "job-1" / "frozen.safetensors").write_bytes(frozen if isinstance(frozen, bytes) else to_bytes(frozen))
    found = perform(Engine(tmp_path), run_task(job))
    assert isinstance(found, Failure)
    assert found.fault is Fault.PEER
    assert re.search(why, found.error)
    assert not (tmp_path / "segment-1" / "steps.bin").exists()


def test_a_program_that_names_another_root_than_its_tensors_is_the_clients_fault(tmp_path: Path) -> None:
    lying = PLAN._replace(program=msgspec.structs.replace(PLAN.program, frozen_root=frozen_root(OTHER)))
    found = perform(Engine(tmp_path), run_task(lay_out(tmp_path, lying)))
    assert isinstance(found, Failure)
    assert (found.fault, "not those that the program names" in found.error) == (Fault.PEER, True)


def test_frozen_tensors_are_read_once_a_job_and_dropped_for_another_when_they_are_large(tmp_path: Path) -> None:
    job, engine = lay_out(tmp_path, PLAN), Engine(tmp_path)
    lay_out(tmp_path, PLAN, "segment-2")
    perform(engine, run_task(job, stop=1))
    (tmp_path / "job-1" / "frozen.safetensors").unlink()
    again = perform(engine, run_task(job, "segment-2"))
    assert isinstance(again, LinksRun), again
    engine.FROZEN = 24  # type: ignore[misc]  # bytes, what one job has: two together are more
    lay_out(tmp_path, PLAN)
    perform(engine, run_task(msgspec.structs.replace(job, threads=2)))
    assert len(engine._plans) == 1
    engine.FROZEN = 48  # type: ignore[misc]
    perform(engine, run_task(job))
    assert len(engine._plans) == 2


def test_memory_is_known_with_the_frozen_tensors_before_anything_runs(tmp_path: Path) -> None:
    lay_out(tmp_path, PLAN)
    program = PLAN.program
    bytes_ = sum(array.nbytes for array in FROZEN.values())
    most = needed(program)
    assert bytes_ < most < 1 << 20

    def checked(limit: int) -> AnyEngineResult:
        return perform(Engine(tmp_path), CheckFile(folder="job-1", memory=limit, flops=1 << 40))

    found = checked(most)
    assert isinstance(found, FileChecked)
    assert (found.frozen, found.peak_memory) == (bytes_, most)
    refused = checked(most - 1)
    assert isinstance(refused, Failure)
    assert refused.fault is Fault.PEER


# ---- hands ---------------------------------------------------------------------------------------------------------------


def test_two_segments_share_the_frozen_tensors_and_nothing_decrypted_is_left(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path, PLAN)
        first = await s.work(s.run_task(stop=2))
        (path,) = (tmp_path / "worker").glob("job-*/frozen.safetensors")
        assert path.parent.stat().st_mode & 0o777 == 0o700
        written = path.stat().st_mtime_ns, path.stat().st_ino
        second = await s.work(s.run_task(segment=SegmentId(2), start=2, parent=first.checkpoint, parent_root=first.end_root))
        assert second.end_root == client.run_plan(PLAN).root
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == written
        for segment in (ONE, SegmentId(2)):
            await s.work(DropSegment(segment=segment))
        assert not [path for path in (tmp_path / "worker").iterdir() if not path.name.startswith("published-")]  # CIDs of what is sealed

    play(scene)


def test_a_verifier_replays_with_the_frozen_tensors_of_the_job(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path, PLAN)
        run, boundary = await s.served(1)
        await s.check(OpenBoundary(segment=ONE, round=0, unit=1, boundary=boundary))
        found = await s.check(s.replay_task(run, boundary))
        assert found.agrees, found.reason

    play(scene)


def test_what_is_published_of_them_is_sealed(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path, PLAN)
        assert isinstance(s.spec.frozen, SealedRef)
        blob = await s.worker.shop.blobs.get(s.spec.frozen.cid)
        assert FROZEN["param.gain"].tobytes() not in blob
        assert from_bytes(seal.unseal(blob, s.worker.shop.key(s.spec.frozen.key_id)), 1 << 20).keys() == FROZEN.keys()
        await s.work(LoadJob(job=JobId(1), spec=s.cid))
        await s.work(CheckProgram(job=JobId(1), spec=s.cid, program=s.spec.program))

    play(scene)


async def with_frozen(s: Stage, data: bytes, key: bytes | None = None) -> None:
    """The job's document, at worker and verifier, names other bytes as its frozen tensors; sealed right, or under another key than it says."""
    named = seal.new_key()
    blob = seal.seal(data, key or named)
    for hands in (s.worker, s.verifier):
        cid = await hands.shop.blobs.put(blob)
        hands.shop.keys.store(named)
        ref = SealedRef(cid=cid, size=len(blob), key_id=seal.key_id(named), envelope=b"")
        hands.shop._specs = {s.cid: msgspec.structs.replace(s.spec, frozen=ref)}


@pytest.mark.parametrize(
    ("data", "key", "why"),
    [
        (to_bytes(OTHER), None, "not those that the program names"),
        (b"no tensors", None, "the job's frozen tensors: tensor file"),
        (to_bytes(FROZEN), seal.new_key(), "the job's frozen tensors: .* does not open"),
    ],
    ids=["other tensors", "no tensors", "another key"],
)
def test_a_blob_that_is_not_the_frozen_tensors_ends_a_run_and_a_replay_by_the_clients_fault(
    tmp_path: Path, data: bytes, key: bytes | None, why: str
) -> None:
    async def scene() -> None:
        s = await stage(tmp_path, PLAN)
        run, boundary = await s.served(0)
        await s.check(OpenBoundary(segment=ONE, round=0, unit=0, boundary=boundary))
        await s.work(DropSegment(segment=ONE))
        s.worker.shop.engine = s.verifier.shop.engine = type(s.worker.shop.engine)()  # a process that has not read the right ones before
        await with_frozen(s, data, key)
        await fails(s.work(s.run_task()), Fault.PEER, why)
        await fails(s.check(s.replay_task(run, boundary)), Fault.PEER, why)  # it is no word against the provider

    play(scene)


@pytest.mark.parametrize(
    ("frozen", "change", "why"),
    [
        (True, lambda ref: UNSET, "it reads frozen tensors, and the document names none"),
        (True, lambda ref: msgspec.structs.replace(ref, size=60), "its frozen tensors have 24 bytes, which is not what a blob of 60 bytes holds"),
        (True, lambda ref: msgspec.structs.replace(ref, size=1 << 29), "which is not what a blob of 536870912 bytes holds"),
        (False, lambda ref: ref, "the document names frozen tensors, and it reads none"),
    ],
    ids=["none named", "too small", "too large", "none read"],
)  # fmt: skip
def test_a_document_and_a_program_that_differ_in_them_are_refused_before_money_moves(tmp_path: Path, frozen: bool, change: Any, why: str) -> None:
    def changed(spec: JobSpec) -> JobSpec:
        return msgspec.structs.replace(spec, frozen=change(spec.frozen if frozen else spec.state))

    async def scene() -> None:
        s = await stage(tmp_path, plan(STEPS, frozen=frozen))
        spec = changed(s.spec)
        s.worker.shop._specs = {s.cid: spec}
        await fails(s.work(CheckProgram(job=JobId(1), spec=s.cid, program=spec.program)), Fault.PEER, why)

    asyncio.run(scene())
