"""A training that stays on the (fake) device reaches the published states, a step at a time, with its roots made there; a product that fails
its checksum is made again and costs no state."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from assay.exact import faults, trainings
from assay.exact.cuda import fake
from assay.exact.cuda.parts import Parts
from assay.exact.cuda.resident import Resident, Roots
from assay.state import BadTensors, state_root_of, tensor_roots
from tests.exact.test_cuda_route import Flipping

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
STEPS = 3


def resident_of(training: trainings.Training, device: fake.Fake | None = None) -> Resident:
    made = Resident(Parts(training.program, device or fake.Fake()))
    made.put(trainings.initial(training.program))
    return made


def advance(resident: Resident, training: trainings.Training, step: int) -> Roots:
    p = training.program
    return resident.step(step, partial(trainings.batch, p, step), {name: training.schedule[step, i] for i, name in enumerate(p.scalars)})[1]


@pytest.mark.parametrize("family", trainings.FAMILIES)
def test_every_step_reaches_the_published_state(family: str) -> None:
    device = fake.Fake()
    training, want = trainings.load(family), trainings.expected()[family]
    resident = resident_of(training, device)
    for step in range(STEPS):
        assert state_root_of(step + 1, advance(resident, training, step)).hex() == want[str(step + 1)]
    assert tensor_roots(resident.state()) == resident.roots()
    assert tensor_roots(resident.accumulator()) == resident.accumulator_roots()
    device.wait()


def test_a_state_can_be_taken_away_and_put_back() -> None:
    training = trainings.load("batchnorm")
    first = resident_of(training)
    advance(first, training, 0)
    kept = first.state()
    second = Resident(Parts(training.program, fake.Fake()))
    second.put(kept)
    assert state_root_of(2, advance(second, training, 1)).hex() == trainings.expected()["batchnorm"]["2"]


def test_some_micro_batches_of_a_step_leave_the_state_alone() -> None:
    training = trainings.load("batchnorm")
    resident = resident_of(training)
    state = tensor_roots(trainings.initial(training.program))
    batch = partial(trainings.batch, training.program, 0)
    every = resident.micros(0, training.program.micro_batches, batch)
    for m in (1, 2):
        assert resident.micros(0, m, batch) == every[:m]
        assert tensor_roots(resident.accumulator()) == every[m - 1]
        assert resident.micros(0, m, batch, rooted=False) == []
        assert tensor_roots(resident.accumulator()) == every[m - 1]
    assert resident.roots() == state
    assert state_root_of(1, advance(resident, training, 0)).hex() == trainings.expected()["batchnorm"]["1"]


@pytest.mark.parametrize(("family", "spared"), [("batchnorm", 0), ("vit", 0), ("vit", "micros")])
def test_a_product_that_fails_its_checksum_is_made_again_and_the_second_time_ends_it(family: str, spared: int | str) -> None:
    """In a micro-batch, and in an update that multiplies."""
    training, device = trainings.load(family), fake.Fake()
    p = training.program
    parts = Parts(p, device)
    parts.products = flipping = Flipping(device, parts.kernels, 0)
    resident = Resident(parts)
    resident.put(trainings.initial(p))
    batch, scalars = partial(trainings.batch, p, 0), {name: training.schedule[0, i] for i, name in enumerate(p.scalars)}
    before = faults.count()
    if spared == "micros":
        resident.micros(0, p.micro_batches, batch)
        state = resident.roots()
        device.upload(flipping._left.address, np.array([1 << 40], np.uint64))
        with pytest.raises(faults.HardwareFault):
            resident.update(0, scalars)
        assert resident.roots() == state
        device.upload(flipping._left.address, np.array([1], np.uint64))
        after = resident.update(0, scalars)
    else:
        device.upload(flipping._left.address, np.array([1 << 40], np.uint64))
        with pytest.raises(faults.HardwareFault):
            resident.micros(0, 1, batch)
        device.upload(flipping._left.address, np.array([1], np.uint64))
        after = advance(resident, training, 0)
    assert faults.count() > before
    assert state_root_of(1, after).hex() == trainings.expected()[family]["1"]


def test_what_the_program_does_not_take_is_refused() -> None:
    training = trainings.load("mlp")
    resident = resident_of(training)
    state = trainings.initial(training.program)
    name = next(iter(state))
    with pytest.raises(BadTensors, match="the program takes"):
        resident.put(state | {name: state[name][..., None]})
    with pytest.raises(BadTensors, match="is not there"):
        resident.micros(0, 1, lambda m: {})


def test_memory_that_is_not_there_is_said() -> None:
    with pytest.raises(MemoryError):
        resident_of(trainings.load("mlp"), fake.Fake(memory=10_000))


def test_what_is_let_go_is_free_again() -> None:
    device = fake.Fake()
    parts = Parts(trainings.load("mlp").program, device)
    before = 0
    for _ in range(3):
        made = Resident(parts)
        made.put(trainings.initial(parts.program))
        advance(made, trainings.load("mlp"), 0)
        most = sum(buffer.size for buffer in device._held)
        del made
        held = sum(buffer.size for buffer in device._held)
        assert held < most - 3 * sum(t.bytes for t in parts.program.state.values())  # state, accumulator, arena
        assert held == before or not before
        before = held
