"""The engine on files: interrupted anywhere it goes on to the same roots; every link replays; every lie about one is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny import MICRO_BATCHES, batch_for, lay_out, plan

from assay import draw, hearing, links, merkle
from assay.client import run_plan
from assay.engine import (
    AnyEngineResult,
    CheckFile,
    ChunkOpened,
    Failure,
    FileChecked,
    LinkReplayed,
    LinksOpened,
    LinksRun,
    OpenChunk,
    OpenLinks,
    ReplayLink,
    RunLinks,
    StepDone,
)
from assay.exact import engines
from assay.exact.cuda import fake
from assay.ids import Digest, SegmentId
from assay.runtime import Fault
from assay.segment import write_atomically
from assay.state import from_bytes, state_root, to_bytes
from assay.work import Engine

STEPS = 5
PLAN = plan(STEPS)
LINKS = links.count(STEPS, MICRO_BATCHES)


class Killed(BaseException):
    """As sudden as a signal: nothing in the engine may catch it."""


def task(root: Path, keep: int = 1 << 30, stop: int = STEPS) -> RunLinks:
    return RunLinks(job=lay_out(root, PLAN), segment="segment-1", start=0, stop=stop, parent_root=state_root(0, PLAN.state), keep=keep)


def run(root: Path, **more: int) -> LinksRun:
    done = Engine(root).perform(task(root, **more), lambda _: None)
    assert isinstance(done, LinksRun), done
    return done


def opened(root: Path, units: tuple[int, ...], keep: int = 1 << 30) -> LinksOpened:
    wanted = task(root)
    found = Engine(root).perform(
        OpenLinks(job=wanted.job, segment="segment-1", start=0, stop=STEPS, parent_root=wanted.parent_root, keep=keep, units=units), lambda _: None
    )
    assert isinstance(found, LinksOpened), found
    return found


def replay_task(root: Path, unit: int) -> ReplayLink:
    """What a verifier of link `unit` asks of its engine, with the provider's own files as what it was served."""
    link = opened(root, (unit,)).opened[0]
    offset, m = links.place(unit, MICRO_BATCHES)
    wanted = task(root)
    if m < MICRO_BATCHES:
        batch_for(root, PLAN, wanted.job, unit, offset, m)
    return ReplayLink(
        job=wanted.job, segment="segment-1", unit=unit, step=offset, m=m, state_end=link.ends[0] if offset else wanted.parent_root,
        acc_end=link.ends[-2] if m else Digest(b""), end=link.ends[-1],
        leaves=PLAN.program.update_leaves if m == MICRO_BATCHES else PLAN.program.micro_leaves,
    )  # fmt: skip


def replay(root: Path, what: ReplayLink) -> LinkReplayed:
    found = Engine(root).perform(what, lambda _: None)
    assert isinstance(found, LinkReplayed), found
    return found


def failure(result: AnyEngineResult) -> Failure:
    assert isinstance(result, Failure)
    return result


# ---- running -------------------------------------------------------------------------------------------------------------


def test_a_run_ends_where_a_local_run_ends(tmp_path: Path) -> None:
    seen: list[StepDone] = []
    done = Engine(tmp_path).perform(task(tmp_path), seen.append)
    local = run_plan(PLAN)
    assert isinstance(done, LinksRun)
    assert (done.stop, done.computed, done.end_root) == (STEPS, STEPS, local.root)
    assert [step.step for step in seen] == list(range(STEPS))
    assert merkle.verify(done.link_root, LINKS, LINKS - 1, merkle.leaf(LINKS - 1, done.end_root), done.proof)
    losses = [np.uint32(step.loss).view(np.float32) for step in seen]
    assert losses == pytest.approx(local.losses)
    assert (done.first_loss, done.last_loss) == (seen[0].loss, seen[-1].loss)


@pytest.mark.parametrize("at", range(STEPS))
def test_killed_after_any_step_it_goes_on_to_the_same_roots(tmp_path: Path, at: int) -> None:
    whole = run(tmp_path / "whole")

    def kill(done: StepDone) -> None:
        if done.step == at:
            raise Killed

    with pytest.raises(Killed):
        Engine(tmp_path).perform(task(tmp_path), kill)
    again = run(tmp_path)
    assert again.computed == STEPS - at - 1
    assert msgspec.structs.replace(again, computed=0, milliseconds=0) == msgspec.structs.replace(whole, computed=0, milliseconds=0)


@pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
def test_an_engine_whose_links_stay_on_a_device_commits_opens_and_replays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, units = run(tmp_path / "here"), (0, 4, 5)
    want = opened(tmp_path / "here", units)
    monkeypatch.setenv(engines.VARIABLE, "fake")
    there = run(tmp_path / "there")
    assert msgspec.structs.replace(there, milliseconds=0) == msgspec.structs.replace(here, milliseconds=0)
    assert opened(tmp_path / "there", units) == want
    for name in (there.state, *(link.file for link in want.opened)):
        assert (tmp_path / "there" / "segment-1" / name).read_bytes() == (tmp_path / "here" / "segment-1" / name).read_bytes()
    found = replay(tmp_path / "there", replay_task(tmp_path / "there", 4))
    assert found.agrees
    monkeypatch.delenv(engines.VARIABLE)
    assert replay(tmp_path / "there", replay_task(tmp_path / "there", 4)).trace_root == found.trace_root


def truncate(path: Path, by: int) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a torn record": lambda s: truncate(s / "steps.bin", 3),
    "a record and a half lost": lambda s: truncate(s / "steps.bin", 160),
    "a corrupt record": lambda s: flip(s / "steps.bin", 40),
    "the newest state lost": lambda s: (s / "state-3.safetensors").unlink(),
    "the newest state torn": lambda s: truncate(s / "state-3.safetensors", 5),
    "a bit flipped in the newest state": lambda s: flip(s / "state-3.safetensors", -1),
    "all states lost": lambda s: [path.unlink() for path in s.glob("state-[1-9]*")] and None,
    "half a write": lambda s: (s / "state-4.safetensors.part").write_bytes(b"half") and None,
    "a state whose record is not there": lambda s: (s / "state-4.safetensors").write_bytes(b"torn") and None,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_a_crash_leaves_on_disk_the_roots_are_the_same(tmp_path: Path, damage: str) -> None:
    whole = run(tmp_path / "whole")
    run(tmp_path, stop=3)
    DAMAGE[damage](tmp_path / "segment-1")
    again = run(tmp_path)
    assert (again.link_root, again.end_root, again.proof) == (whole.link_root, whole.end_root, whole.proof)


def test_a_stop_ends_the_run_after_the_step_it_is_in_and_not_before_the_first(tmp_path: Path) -> None:
    wanted = task(tmp_path)
    (tmp_path / "segment-1" / "stop").touch()
    done = Engine(tmp_path).perform(wanted, lambda _: None)
    assert isinstance(done, LinksRun)
    assert done.stop == 1
    assert merkle.verify(done.link_root, MICRO_BATCHES + 1, MICRO_BATCHES, merkle.leaf(MICRO_BATCHES, done.end_root), done.proof)

    def stop(step: StepDone) -> None:
        if step.step == 2:
            (tmp_path / "segment-1" / "stop").touch()

    (tmp_path / "segment-1" / "stop").unlink()
    done = Engine(tmp_path).perform(wanted, stop)
    assert isinstance(done, LinksRun)
    assert done.stop == 3


@pytest.mark.parametrize("keep", [0, 1000, 3000, 1 << 30])
def test_states_are_kept_within_the_budget_and_any_link_is_opened_all_the_same(tmp_path: Path, keep: int) -> None:
    full = run(tmp_path / "full")
    run(tmp_path, keep=keep)
    size = (tmp_path / "segment-1" / "state-0.safetensors").stat().st_size
    kept = len(list((tmp_path / "segment-1").glob("state-*"))) - 3  # besides the first and the newest two
    assert max(0, kept) * size <= keep
    everything = opened(tmp_path, tuple(range(LINKS)), keep)
    assert everything.link_root == full.link_root
    for link in everything.opened:
        for place, end, proof in zip(links.named_ends(link.unit, MICRO_BATCHES), link.ends, link.proofs, strict=True):
            assert merkle.verify(full.link_root, LINKS, place, merkle.leaf(place, end), proof)


def test_what_another_disk_ran_is_computed_anew_to_be_served(tmp_path: Path) -> None:
    run(tmp_path / "first")
    assert opened(tmp_path / "second", (4, 7)).opened == opened(tmp_path / "first", (4, 7)).opened


def test_a_machine_that_does_not_compute_the_same_twice_says_so(tmp_path: Path) -> None:
    run(tmp_path, keep=0)
    np.save(tmp_path / "segment-1" / "records-0-0.npy", np.zeros((24, 4), np.float32))
    wanted = task(tmp_path)
    np.save(tmp_path / "segment-1" / "records-0-0.npy", np.zeros((24, 4), np.float32))
    open_links = OpenLinks(job=wanted.job, segment="segment-1", start=0, stop=STEPS, parent_root=wanted.parent_root, keep=0, units=(4,))
    found = failure(Engine(tmp_path).perform(open_links, lambda _: None))
    assert found.fault is Fault.OWN
    assert "does not come out as it did before" in found.error


@pytest.mark.parametrize("keep", [0, 1 << 30])
def test_the_chunk_of_any_end_can_be_shown_and_nothing_else_passes_for_it(tmp_path: Path, keep: int) -> None:
    """Whether the states are still there or are computed again. Numbers that name every end of the segment, and many of its entries."""
    done, wanted, units = run(tmp_path), task(tmp_path), tuple(range(LINKS))
    engine, shown = Engine(tmp_path), set()
    for i in range(40):
        number = draw.chunk(merkle.sha256(bytes([i])), SegmentId(1))
        chunk = OpenChunk(
            job=wanted.job, segment="segment-1", start=0, stop=STEPS, parent_root=wanted.parent_root, keep=keep, units=units,
            number=Digest(number.to_bytes(32, "big")),
        )  # fmt: skip
        found = engine.perform(chunk, lambda _: None)
        assert isinstance(found, ChunkOpened), found
        named = hearing.prove(number, units, 0, STEPS, MICRO_BATCHES, done.link_root, found.proof)
        shown.add(named)
        for other in range(number + 1, number + 4):  # of other links, which may name the same end
            if hearing.end_named(other, units, MICRO_BATCHES)[0] == named.place:
                continue
            with pytest.raises(hearing.NotTheChunk):
                hearing.prove(other, units, 0, STEPS, MICRO_BATCHES, done.link_root, found.proof)
    assert len({place for place, _, _ in shown}) > LINKS // 2
    assert len({entry for _, entry, _ in shown}) > 3


# ---- replaying -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", range(LINKS))
def test_every_honest_link_replays(tmp_path: Path, unit: int) -> None:
    run(tmp_path)
    wanted = replay_task(tmp_path, unit)
    found = replay(tmp_path, wanted)
    assert found.agrees, found.reason
    leaves = (tmp_path / "segment-1" / f"trace-{unit}.bin").read_bytes()
    contents = [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
    assert len(contents) == wanted.leaves
    assert merkle.root_of(contents) == found.trace_root
    assert contents[-1] == wanted.end


def change(root: Path, unit: int, name: str) -> None:
    """One element of what was served is another."""
    path = root / "segment-1" / f"boundary-{unit}.safetensors"
    tensors = from_bytes(path.read_bytes(), 1 << 20)
    tensors[name].reshape(-1)[0] += np.float32(1)
    path.write_bytes(to_bytes(tensors))


@pytest.mark.parametrize(
    ("unit", "name", "reason"),
    [
        (4, "state.param.w", "the state that the provider served is not the one it committed to"),
        (4, "acc.grad.w", "the accumulator that the provider served is not the one it committed to"),
        (5, "acc.loss", "the accumulator that the provider served is not the one it committed to"),
        (5, "state.m.w", "the state that the provider served is not the one it committed to"),
    ],
)
def test_a_served_boundary_that_is_not_the_committed_one_is_found(tmp_path: Path, unit: int, name: str, reason: str) -> None:
    run(tmp_path)
    wanted = replay_task(tmp_path, unit)
    change(tmp_path, unit, name)
    found = replay(tmp_path, wanted)
    assert not found.agrees
    assert found.reason == reason


@pytest.mark.parametrize("unit", [0, 1, 2, 7])
def test_a_link_that_ends_elsewhere_than_committed_is_found(tmp_path: Path, unit: int) -> None:
    run(tmp_path)
    wanted = msgspec.structs.replace(replay_task(tmp_path, unit), end=merkle.sha256(b"a lie"))
    found = replay(tmp_path, wanted)
    assert not found.agrees
    assert found.reason.startswith("its replay ends in ")


def test_a_boundary_that_fits_no_program_still_gives_something_to_seal(tmp_path: Path) -> None:
    run(tmp_path)
    wanted = replay_task(tmp_path, 4)
    lie = {"state.param.w": np.zeros((9, 9), np.float32)}
    (tmp_path / "segment-1" / "boundary-4.safetensors").write_bytes(to_bytes(lie))
    for committed in (wanted, msgspec.structs.replace(wanted, state_end=state_root(1, {"param.w": lie["state.param.w"]}), m=0)):
        found = replay(tmp_path, committed)
        assert not found.agrees
        leaves = (tmp_path / "segment-1" / "trace-4.bin").read_bytes()
        assert len(leaves) == 32 * wanted.leaves
        assert merkle.root_of([leaves[at : at + 32] for at in range(0, len(leaves), 32)]) == found.trace_root


# ---- whose fault ---------------------------------------------------------------------------------------------------------


def test_a_parent_state_that_was_not_committed_is_the_peers_fault(tmp_path: Path) -> None:
    found = failure(Engine(tmp_path).perform(msgspec.structs.replace(task(tmp_path), parent_root=merkle.sha256(b"other")), lambda _: None))
    assert found.fault is Fault.PEER
    assert "is not the committed one" in found.error


def test_a_program_or_schedule_that_the_job_does_not_name_is_the_peers_fault(tmp_path: Path) -> None:
    wanted = task(tmp_path)
    for name in ("program_root", "schedule_root"):
        job = msgspec.structs.replace(wanted.job, **{name: merkle.sha256(b"other")})
        assert failure(Engine(tmp_path).perform(msgspec.structs.replace(wanted, job=job), lambda _: None)).fault is Fault.PEER
    (tmp_path / "job-1" / "program.json").write_bytes(b"{}")
    found = failure(Engine(tmp_path).perform(CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40), lambda _: None))
    assert found.fault is Fault.PEER


def test_a_program_is_measured_before_it_is_run(tmp_path: Path) -> None:
    lay_out(tmp_path, PLAN)
    found = Engine(tmp_path).perform(CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40), lambda _: None)
    assert isinstance(found, FileChecked)
    assert (found.micro_leaves, found.update_leaves) == (PLAN.program.micro_leaves, PLAN.program.update_leaves)
    refused = failure(Engine(tmp_path).perform(CheckFile(folder="job-1", memory=10, flops=1 << 40), lambda _: None))
    assert refused.fault is Fault.PEER


def test_a_missing_file_is_this_nodes_fault(tmp_path: Path) -> None:
    wanted = task(tmp_path)
    (tmp_path / "segment-1" / "state-0.safetensors").unlink()
    found = failure(Engine(tmp_path).perform(wanted, lambda _: None))
    assert found.fault is Fault.OWN
    assert "state-0.safetensors" in found.error


def test_what_is_served_later_does_not_take_the_place_of_what_was_proven(tmp_path: Path) -> None:
    what = replay_task(tmp_path, 4)
    assert replay(tmp_path, what).proven
    boundary = tmp_path / "segment-1" / "boundary-4.safetensors"
    served = from_bytes(boundary.read_bytes(), 1 << 20)
    write_atomically(boundary, to_bytes(served | {"state.param.w": served["state.param.w"] + np.float32(1)}))
    other = replay(tmp_path, what)
    assert (other.agrees, other.proven) == (False, False)
    again = replay(tmp_path, msgspec.structs.replace(what, again=True))
    assert (again.agrees, again.proven) == (True, True)
