"""A training on the (fake) device with an optimiser's state on the host: the published states, each wait between copies and computing needed, and
nothing that goes on from half a state."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.build import Builder, Value
from assay.exact import faults, trainings
from assay.exact.cuda import fake, fake_lanes
from assay.exact.cuda.away import Apart
from assay.exact.cuda.budget import Budget
from assay.exact.cuda.device import DeviceError
from assay.exact.cuda.maps import Kernels
from assay.exact.cuda.parts import Parts
from assay.exact.cuda.resident import Resident, Roots
from assay.exact.cuda.ruler import Host, Staying, fitting, needed
from assay.exact.division import divided, movable
from assay.exact.memory import beside_device
from assay.exact.offload import Store, mapping
from assay.exact.table import TensorType
from assay.optim import SGD, AdamW, Averaged, Optimizer, update_part
from assay.program import Input, Output, OutputKind, Part, Program
from assay.state import Tensors, state_root_of, tensor_roots
from tests.exact.support import FAMILIES
from tests.exact.test_cuda_route import Flipping

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
STEPS = 2


@cache
def device(copies: str = fake_lanes.LATE) -> tuple[fake.Fake, Kernels]:
    made = fake.Fake(copies=copies)
    return made, Kernels(made)


def scalars(training: trainings.Training, step: int) -> Tensors:
    return {name: training.schedule[step, i] for i, name in enumerate(training.program.scalars)}


def trained(resident: Resident, training: trainings.Training, steps: int = STEPS) -> list[str]:
    """State roots after each step."""
    resident.put(trainings.initial(training.program))
    out = []
    for step in range(steps):
        _, roots = resident.step(step, partial(trainings.batch, training.program, step), scalars(training, step))
        out.append(state_root_of(step + 1, roots).hex())
    return out


def published(family: str, steps: int = STEPS) -> list[str]:
    return [trainings.expected()[family][str(step + 1)] for step in range(steps)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_published_states_are_reached_in_memory_and_in_files(family: str, tmp_path: Path) -> None:
    """By several groups, once with copies as late as may be and once as early. (Of vit and llama, by Muon, only what no product makes is away.)"""
    training = trainings.load(family)
    names = movable(training.program)
    for copies, window, store in ((fake_lanes.LATE, 2000, None), (fake_lanes.EARLY, 1, Store(tmp_path))):
        resident = Resident(Parts(training.program, *device(copies)), Apart(names, window, store), store)
        assert trained(resident, training) == published(family)
        state = resident.state()
        assert list(state) == list(training.program.state)
        assert tensor_roots(state) == resident.roots()
        assert all((mapping(array) is not None) == (store is not None) for array in state.values())
        assert resident.crossing >= sum(training.program.state[name].bytes for name in names)
        device(copies)[0].wait()
    assert list(tmp_path.iterdir()) == []


def test_what_a_product_makes_stays_on_the_device_and_so_does_what_micro_batches_read() -> None:
    muon = trainings.load("vit").program
    assert {name for name in movable(muon) if name.startswith("v.")} == {name for name in muon.state if name.startswith("v.")}
    matrices = {name for name in muon.state if name.startswith("m.") and f"v.{name[2:]}" not in muon.state}
    assert matrices
    assert not matrices & set(movable(muon))
    norms = trainings.load("batchnorm").program
    assert any(name.startswith("buffer.") for name in norms.state)
    assert all(name.startswith(("m.", "metric.")) for name in movable(norms))


# ---- tensors larger than a window, and results that are still read ---------------------------------------------------------------


def made_by(update: Part, types: dict[str, TensorType]) -> Program:
    """A program whose micro-batch adds the parameters and the batch's field `x` to the gradients."""
    b = Builder()
    outputs: list[tuple[OutputKind, str, Value]] = []
    x = b.input("batch", "x", TensorType(dtype="f32", shape=(1,)))
    for name, t in types.items():
        outputs.append(
            ("acc", f"grad.{name}", b.add(b.input("acc", f"grad.{name}", t), b.add(b.input("state", f"param.{name}", t), b.expand(x, t.shape))))
        )
    outputs.append(("acc", "loss", b.add(b.input("acc", "loss", TensorType(dtype="f32", shape=())), b.sum(x, (0,), False))))
    return Program(gemm_bits=14, micro_batches=2, constants=(), micro=b.part(outputs), update=update)


def states_of(program: Program, apart: Apart | None, copies: str = fake_lanes.LATE) -> tuple[Resident, list[Roots]]:
    rng = np.random.default_rng(0)
    state = {name: rng.random(t.shape, np.float32) for name, t in program.state.items()}
    resident, out = Resident(Parts(program, *device(copies)), apart), []
    resident.put(state)
    for step in range(3):
        rates = dict.fromkeys(program.scalars, np.array(0.5 + step, np.float32))
        out.append(resident.step(step, lambda m: {"x": np.full(1, m, np.float32)}, rates)[1])
    assert tensor_roots(resident.state()) == out[-1] == resident.roots()
    return resident, out


@pytest.mark.parametrize("optimizer", [AdamW(lr=0.1, clip=1.0), SGD(lr=0.1, momentum=0.9, nesterov=True), Averaged(SGD(lr=0.1), 0.9)])
def test_tensors_are_cut_that_are_larger_than_a_window(optimizer: Optimizer) -> None:
    types = {"big": TensorType(dtype="f32", shape=(3, 1700)), "small": TensorType(dtype="f32", shape=(7,))}
    program = made_by(update_part(optimizer, types, 2), types)
    _, want = states_of(program, None)
    for copies in (fake_lanes.LATE, fake_lanes.EARLY):
        resident, got = states_of(program, Apart(movable(program), 9000), copies)
        assert got == want
        assert resident._away is not None
        assert len(resident._away._grown) == sum(t.elements == 5100 and name in movable(program) for name, t in program.state.items()) > 0
        assert max(run.size for run in resident._away._runs) < 9000 + 512


def test_one_scalar_away_and_results_that_others_read_later_are_right() -> None:
    """An update in which the parameter's new value is made before groups that still read the old one, one entry is written from one that is away
    and read after it, and one that is away is never read."""
    f = TensorType(dtype="f32", shape=(1500,))
    b = Builder()
    p, g, one = b.input("state", "param.w", f), b.input("acc", "grad.w", f), b.input("state", "one", TensorType(dtype="f32", shape=()))
    first, second = b.input("state", "a.first", f), b.input("state", "b.second", f)
    outputs: list[tuple[OutputKind, str, Value]] = [
        ("state", "param.w", b.sub(p, b.scale(g, 0.1))),
        ("state", "a.first", b.add(first, p)),
        ("state", "b.second", b.add(b.mul(second, p), b.expand(b.sum(second, (0,), True), f.shape))),
        ("state", "c.last", b.mul(g, p)),
        ("state", "one", b.add(one, b.input("acc", "loss", TensorType(dtype="f32", shape=())))),
    ]
    program = made_by(b.part(outputs), {"w": f})
    assert set(movable(program)) == {"a.first", "b.second", "c.last", "one"}
    _, want = states_of(program, None)
    for window in (1, 8000, 1 << 20):
        for copies in (fake_lanes.LATE, fake_lanes.EARLY):
            assert states_of(program, Apart(movable(program), window), copies)[1] == want


def test_groups_have_each_entry_once_and_make_what_they_are_not_given() -> None:
    p = trainings.load("gpt").program
    names = movable(p)
    division = divided(p.update, names, 2000)
    assert sorted(name for group in division.groups for name in group.entries) == sorted(names)
    assert 1 <= len(division.between) <= 2, "the factor that clips gradients, and what is one element anyway"
    assert {t.shape for t in division.between.values()} == {()}
    outputs = [o.name for part in (division.head, *(group.part for group in division.groups)) for o in part.outputs if o.kind == "state"]
    assert sorted(outputs) == sorted(o.name for o in p.update.outputs)
    assert sum(len(group.part.nodes) for group in division.groups) < 2 * len(p.update.nodes)


# ---- copies beside computing -----------------------------------------------------------------------------------------------------


class Loose:
    """A mark that the host does not wait for."""

    def __init__(self, mark: Any) -> None:
        self.mark = mark

    def wait(self) -> None:
        pass


class DeafLane(fake_lanes.Lane):
    deaf = loose = False

    def after(self, mark: Any) -> None:
        if not self.deaf:
            super().after(getattr(mark, "mark", mark))

    def mark(self) -> Any:
        return Loose(super().mark()) if self.loose else super().mark()


class Deaf(fake.Fake):
    """Without one of the waits: `device`, `up`, `down` do not wait for what they are told to, or the host does not."""

    def __init__(self, what: str, copies: str) -> None:
        super().__init__(copies=copies)
        self._what, self._lanes = what, iter(("up", "down"))

    def after(self, mark: Any) -> None:
        if self._what != "device":
            super().after(getattr(mark, "mark", mark))

    def lane(self) -> DeafLane:
        made = DeafLane(self, self._early)
        made.deaf, made.loose = next(self._lanes) == self._what, self._what == "host"
        return made


@pytest.mark.parametrize("what", ["nothing", "device", "up", "down", "host"])
def test_each_wait_is_needed(what: str) -> None:
    """Without it, copies that come late or early give other bits."""
    training = trainings.load("mlp")
    right = []
    for copies in (fake_lanes.LATE, fake_lanes.EARLY):
        made = Deaf(what, copies)
        right.append(trained(Resident(Parts(training.program, made), Apart(movable(training.program), 1)), training) == published("mlp"))
    assert all(right) == (what == "nothing")


# ---- faults, and updates that break off --------------------------------------------------------------------------------------------


def test_a_product_that_fails_its_checksum_is_made_again_before_anything_is_written_over() -> None:
    """In a micro-batch, and in an update whose matrices are made orthogonal while other moments are away."""
    training, made = trainings.load("vit"), fake.Fake()
    p = training.program
    parts = Parts(p, made)
    parts.products = flipping = Flipping(made, parts.kernels, 1)
    resident = Resident(parts, Apart(movable(p), 2000))
    before = faults.count()
    resident.put(trainings.initial(p))
    made.upload(flipping._left.address, np.array([1], np.uint64))
    resident.micros(0, p.micro_batches, partial(trainings.batch, p, 0))
    assert faults.count() == before + 1
    state = resident.roots()
    made.upload(flipping._left.address, np.array([1 << 40], np.uint64))
    with pytest.raises(faults.HardwareFault):
        resident.update(0, scalars(training, 0))
    assert resident.roots() == state == tensor_roots(resident.state())
    made.upload(flipping._left.address, np.array([1], np.uint64))
    after = resident.update(0, scalars(training, 0))
    assert state_root_of(1, after).hex() == published("vit")[0]


class Broken(Exception):
    pass


@pytest.mark.parametrize("at", ["first", "second", "last"])
def test_an_update_that_breaks_off_leaves_nothing_to_go_on_with(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = trainings.load("mlp")
    p = training.program
    store = Store(tmp_path) if at == "second" else None
    resident = Resident(Parts(p, *device()), Apart(movable(p), 1, store), store)
    resident.put(trainings.initial(p))
    resident.micros(0, p.micro_batches, partial(trainings.batch, p, 0))
    away = resident._away
    assert away is not None
    fetch, wanted = away._fetch, {"first": 0, "second": 1, "last": len(away._runs) - 1}[at]

    def breaks(run: int) -> None:
        fetch(run)
        if run == wanted:
            raise Broken

    monkeypatch.setattr(away, "_fetch", breaks)
    with pytest.raises(Broken):
        resident.update(0, scalars(training, 0))
    refused: list[Callable[[], object]] = [
        resident.state, resident.roots, lambda: resident.update(0, scalars(training, 0)),
        lambda: resident.micros(0, 1, partial(trainings.batch, p, 0)),
    ]  # fmt: skip
    for ask in refused:
        with pytest.raises(DeviceError, match="half of one step and half of the next"):
            ask()
    monkeypatch.setattr(away, "_fetch", fetch)
    assert trained(resident, training) == published("mlp")


# ---- what is planned ---------------------------------------------------------------------------------------------------------------


def adam(**more: Any) -> Program:
    types = {"big": TensorType(dtype="f32", shape=(300, 100)), "small": TensorType(dtype="f32", shape=(7,))}
    return made_by(update_part(AdamW(lr=0.1, **more), types, 2), types)


def test_a_state_goes_to_the_host_where_nothing_else_fits_and_the_host_has_room(tmp_path: Path) -> None:
    program, of = adam(), fake.Fake().description
    names = movable(program)
    assert set(names) == {"m.big", "m.small", "v.big", "v.small", "metric.loss"}
    store = Store(tmp_path, 1 << 15)
    in_memory, in_files = Host(1 << 30).apart(program), Host(1 << 30, store).apart(program)
    assert in_memory is not None
    assert in_files is not None
    assert (in_memory.names, in_files.names) == (names, names)
    assert (in_memory.window, in_files.window) == (sum(program.state[name].bytes for name in names) // 8, 1 << 14)
    there = needed(program, of)
    alone = Staying(program, of)
    apart, filed = Staying(program, of, 0, 0, in_memory), Staying(program, of, 0, 0, in_files)
    bytes_away = sum(program.state[name].bytes for name in names)
    assert apart.bytes < alone.bytes - bytes_away / 2 < there
    assert filed.bytes < apart.bytes
    assert bytes_away <= apart.host <= bytes_away + 256 * 2 * 16
    host = Host(1 << 30, store)
    assert fitting(program, of, there, Host(1 << 30)) == (0, 0, there, 0, False)
    assert fitting(program, of, there - 1) == (0, 0, there, 0, False), "without a host there is nothing else"
    assert fitting(program, of, alone.bytes, Host(1 << 30)) == (0, 0, alone.bytes, 0, True)
    assert fitting(program, of, alone.bytes - 1, Host(1 << 30)) == (0, 0, apart.bytes, apart.host, True)
    assert filed.memory <= 4 * (in_files.window + 512)
    assert fitting(program, of, alone.bytes - 1, host) == (0, 0, filed.bytes, filed.host, True)
    room = beside_device(program, filed.memory, True)
    assert fitting(program, of, alone.bytes - 1, Host(room, host.store)) == (0, 0, filed.bytes, filed.host, True)
    assert fitting(program, of, alone.bytes - 1, Host(room - 1, host.store)) == (0, 0, alone.bytes, 0, True), "which does not fit"
    assert list(tmp_path.iterdir()) == []


class Locking(fake.Fake):
    """Counts the bytes that it was asked to lock."""

    locked = 0

    def pinned(self, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        self.locked += size
        return super().pinned(size)


def test_what_is_planned_with_a_state_apart_is_what_the_device_gives(tmp_path: Path) -> None:
    training = trainings.load("mlp")
    p = training.program
    names, of = movable(p), fake.Fake().description
    planned = Staying(p, of, 0, 0, Apart(names, 2000))
    for spare, fits in ((0, True), (-1, False)):
        made = Locking(grant=lambda _, most=planned.bytes + spare: Budget(most))  # what it gives, of as much as was planned for
        if not fits:
            with pytest.raises(MemoryError):
                Resident(Parts(p, made), Apart(names, 2000))
            continue
        resident = Resident(Parts(p, made), Apart(names, 2000))
        assert trained(resident, training, 1) == published("mlp", 1)
        assert (made.locked, resident.crossing) == (planned.memory, planned.host)
    for store in (None, Store(tmp_path)):
        made = Locking()
        assert Resident(Parts(p, made), Apart(names, 2000, store)).host == made.locked


def test_an_entry_that_all_others_need_is_not_parted_from_them() -> None:
    """The norm of all moments together: one group of all."""
    types = {name: TensorType(dtype="f32", shape=(1200,)) for name in "abc"}
    b = Builder()
    moments = {name: b.input("state", f"m.{name}", t) for name, t in types.items()}
    total = b.sum(b.mul(moments["a"], moments["a"]), (0,), False)
    for name in "bc":
        total = b.add(total, b.sum(b.mul(moments[name], moments[name]), (0,), False))
    outputs: list[Any] = [("state", f"m.{name}", b.add(b.mul(m, total), b.input("acc", f"grad.{name}", types[name]))) for name, m in moments.items()]
    program = made_by(b.part(outputs), types)
    division = divided(program.update, movable(program), 1)
    assert [set(group.entries) for group in division.groups] == [{"m.a", "m.b", "m.c"}]
    assert not division.head.outputs
    assert states_of(program, Apart(movable(program), 1))[1] == states_of(program, None)[1]


def test_parts_of_an_update_know_nothing_of_each_other_but_what_they_are_given() -> None:
    """Every input of a group is one of the update's, or a result of the head."""
    for family in trainings.FAMILIES:
        p = trainings.load(family).program
        division = divided(p.update, movable(p), 1)
        own = {(i.kind, i.name) for i in p.update.inputs}
        heads = {(o.kind, o.name) for o in division.head.outputs}
        for group in division.groups:
            assert all(isinstance(i, Input) and ((i.kind, i.name) in own or ("acc", i.name) in heads) for i in group.part.inputs)
            assert all(isinstance(o, Output) and o.kind == "state" for o in group.part.outputs)
