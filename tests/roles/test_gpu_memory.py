"""What a node takes of a GPU's memory: the owner's limit, kept by the engines together, and seen from outside."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import typer
from tiny import lay_out, links, plan
from typer.testing import CliRunner

from assay import work
from assay.adapters import hardware
from assay.cli import roles
from assay.cli.roles import apps
from assay.engine import CheckFile, Failure, FileChecked, LinksOpened, LinksRun, OpenLinks, RunLinks
from assay.exact import engines, memory
from assay.exact.cpu import Cpu
from assay.exact.cuda import budget, fake
from assay.exact.cuda import staying as stays
from assay.exact.cuda.budget import Budget, bytes_of
from assay.exact.cuda.device import DeviceFull
from assay.exact.cuda.ruler import Host, Staying, fitting, needed
from assay.exact.native.build import library
from assay.exact.offload import Store
from assay.runtime import Fault
from assay.state import state_root

GIB = 1 << 30
needs_fake = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")


# ---- the limit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "given"),
    [("90%", 72 * GIB), ("100%", 80 * GIB), ("20G", 20 * GIB), ("20GiB", 20 * GIB), ("512MB", GIB // 2), ("1000", 1000), ("1T", 80 * GIB)],
)
def test_an_owner_says_it_as_a_part_or_a_size(text: str, given: int) -> None:
    assert bytes_of(text, 80 * GIB) == given


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "0.9", "-1G", "20 G", "1" * 40, "all"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="of the memory"):
        bytes_of(text, 80 * GIB)


@pytest.mark.parametrize("role", ["worker", "verifier"])
@pytest.mark.parametrize(("option", "next"), [("--gpu-memory", "--gpu-memory 60%"), ("--memory", "--memory 16G")])
def test_the_command_line_refuses_it_before_anything_is_started(role: str, option: str, next: str, tmp_path: Path) -> None:
    app = typer.Typer()
    app.add_typer(apps()[role], name=role)
    done = CliRunner().invoke(app, [role, "start", option, "0.9", "--data", str(tmp_path / "node")])
    assert done.exit_code != 0
    assert next in done.output
    assert not (tmp_path / "node").exists()


def test_a_job_may_take_half_of_the_machine_unless_its_owner_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "machine", lambda: SimpleNamespace(memory=64 * GIB))
    assert [roles.most(text) for text in ("", "16G", "25%", "1T")] == [32 * GIB, 16 * GIB, 16 * GIB, 64 * GIB]
    monkeypatch.setattr(hardware, "machine", lambda: SimpleNamespace(memory=2 * GIB))
    assert roles.most("") == 4 * GIB


@needs_fake
def test_a_device_gives_no_more_than_its_budget() -> None:
    device = fake.Fake(memory=10_000, grant=lambda total: Budget(bytes_of("50%", total)))
    first = device.allocate(3_000)
    with pytest.raises(DeviceFull, match=r"3000 bytes .* are not given: 5000 may be taken, of which this engine holds 3000"):
        device.allocate(3_000)
    del first
    device.allocate(5_000)


@needs_fake
def test_engines_of_one_folder_share_it_and_the_dead_count_nothing(tmp_path: Path) -> None:
    one, two = (fake.Fake(memory=10_000, grant=lambda total: Budget(6_000, tmp_path / "shared")) for _ in range(2))
    kept = [one.allocate(4_000), two.allocate(1_500)]
    with pytest.raises(DeviceFull, match="6000 may be taken, of which this engine holds 1500, and other engines of this node 4000"):
        two.allocate(600)
    os.close(one.budget._own)  # as when its process ends
    kept.append(two.allocate(4_500))
    assert [path.name for path in (tmp_path / "shared").glob("*.held")] == [two.budget._name]


# ---- the engine ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine whose only CUDA device is the fake one, which has passed; the ledger of its engines."""
    real = engines._open.__wrapped__
    monkeypatch.setattr(engines, "why_not", lambda: None)
    monkeypatch.setattr(engines, "_admitted", lambda found: True)
    opened: list[Any] = []

    def once(kind: str) -> Any:
        if not opened:
            opened.append(real("fake"))
        return opened[0]

    monkeypatch.setattr(engines, "_open", once)
    monkeypatch.delenv(engines.VARIABLE, raising=False)
    monkeypatch.setenv(budget.LEDGER, str(tmp_path / "ledger"))
    engines.device.cache_clear()
    yield tmp_path / "ledger"
    engines.device.cache_clear()


@needs_fake
def test_a_run_for_which_the_device_has_no_room_goes_on_on_the_processor(
    on_fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = plan(2).program
    description = engines._open("cuda").device.description
    monkeypatch.setenv(budget.VARIABLE, str(needed(program, description)))  # by its plan it fits
    engines._open("cuda").device.budget.limit = needed(program, description)
    (base,) = {on_fake / path.name for path in on_fake.iterdir()}
    other = Budget(1 << 40, base)
    with other.turn():
        other.note(needed(program, description) - 1)
    found = work.Engine(tmp_path / "work").perform(links(tmp_path / "work"), lambda done: None)
    assert isinstance(found, LinksRun)
    assert "this engine goes on on the CPU" in caplog.text
    assert "other engines of this node" in caplog.text
    monkeypatch.setenv(engines.VARIABLE, "cpu")
    right = work.Engine(tmp_path / "cpu").perform(links(tmp_path / "cpu"), lambda done: None)
    assert isinstance(right, LinksRun)
    assert found.end_root == right.end_root


class Killed(BaseException):
    """As sudden as a signal."""


@needs_fake
@pytest.mark.parametrize("files", [False, True])
def test_a_state_that_does_not_fit_lies_on_the_host_and_a_killed_run_goes_on(
    files: bool, on_fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the host's memory, or, where a job's limit is too small for it, in files: the processor's records, states and opened links."""
    if files and library() is None:
        pytest.skip("mapped state is of the native route")
    caplog.set_level("INFO", "assay.exact")
    what = plan(2, wide=1 << 12)
    program, description = what.program, engines._open("cuda").device.description
    limit, disk = (memory.fitting(program, 1, 0).bytes - 1, 1 << 40) if files else (1 << 40, 0)
    fit = memory.fitting(program, 1, limit, disk)
    assert (fit.window > 0) == files
    host = Host(limit, Store(tmp_path, fit.window) if files else None)
    engines._open("cuda").device.budget.limit = Staying(program, description, 0, 0, host.apart(program)).bytes
    assert fitting(program, description, Staying(program, description).bytes - 1, host).host > 0

    def performed(root: Path, kill: bool = False) -> LinksRun:
        job = msgspec.structs.replace(lay_out(root, what), memory=limit, disk=disk)
        run = RunLinks(job=job, segment="segment-1", start=0, stop=2, parent_root=state_root(0, what.state), keep=1 << 30)
        engine = work.Engine(root)
        assert isinstance(engine.perform(CheckFile(folder="job-1", memory=limit, flops=1 << 40, disk=disk), lambda done: None), FileChecked)

        def progress(done: Any) -> None:
            if kill and done.step == 0:
                raise Killed

        if kill:
            with pytest.raises(Killed):
                engine.perform(run, progress)
            del engine  # as its process would be gone, and what it held of the device
            gc.collect()
            return performed(root)
        found = engine.perform(run, progress)
        assert isinstance(found, LinksRun), found
        units = OpenLinks(job=job, segment="segment-1", start=0, stop=2, parent_root=run.parent_root, keep=1 << 30, units=(1, 2, 4))
        opened = engine.perform(units, lambda done: None)
        assert isinstance(opened, LinksOpened), opened
        assert isinstance(engine._executor(job)._engine, Cpu if root.name == "cpu" else stays.Staying)
        return found

    there = performed(tmp_path / "there", kill=True)
    assert "bytes of the state on the host" in caplog.text
    assert "goes on on the CPU" not in caplog.text
    monkeypatch.setenv(engines.VARIABLE, "cpu")
    here = performed(tmp_path / "cpu")
    assert (there.link_root, there.end_root, there.proof) == (here.link_root, here.end_root, here.proof)
    for name in ("steps.bin", there.state, "boundary-1.safetensors", "boundary-2.safetensors", "boundary-4.safetensors"):
        assert (tmp_path / "there" / "segment-1" / name).read_bytes() == (tmp_path / "cpu" / "segment-1" / name).read_bytes()


@needs_fake
def test_a_device_that_is_asked_for_by_name_refuses_what_does_not_fit(on_fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engines.VARIABLE, "fake")
    engine, task = work.Engine(tmp_path), links(tmp_path)
    check = CheckFile(folder="job-1", memory=1 << 30, flops=1 << 40)
    assert isinstance(engine.perform(check, lambda done: None), FileChecked)
    engines._open("fake").device.budget.limit = 1 << 12
    refused = engine.perform(check, lambda done: None)
    assert isinstance(refused, Failure)
    assert refused.fault is Fault.PEER
    assert "bytes of the GPU's memory" in refused.error
    assert "the limit here is 4096" in refused.error
    failed = engine.perform(task, lambda done: None)
    assert isinstance(failed, Failure)
    assert failed.fault is Fault.OWN
    assert "4096 may be taken" in failed.error
    assert failed.error.endswith("--gpu-memory gives more")
