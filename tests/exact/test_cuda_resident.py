"""A training that stays on the (fake) device reaches the published states, a step at a time, with its roots made there."""

from __future__ import annotations

import pytest

from assay.exact import trainings
from assay.exact.cuda import fake
from assay.exact.cuda.resident import Resident
from assay.state import state_root_of

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
STEPS = 3


def advance(resident: Resident, training: trainings.Training, step: int) -> None:
    p = training.program
    batches = [trainings.batch(p, step, m) for m in range(p.micro_batches)]
    resident.step(step, batches, {name: training.schedule[step, i] for i, name in enumerate(p.scalars)})


@pytest.mark.parametrize("family", trainings.FAMILIES)
def test_every_step_reaches_the_published_state(family: str) -> None:
    device = fake.Fake()
    training, want = trainings.load(family), trainings.expected()[family]
    resident = Resident(training.program, device)
    resident.put(trainings.initial(training.program))
    for step in range(STEPS):
        advance(resident, training, step)
        assert state_root_of(step + 1, resident.roots()).hex() == want[str(step + 1)]
    device.wait()


def test_a_state_can_be_taken_away_and_put_back() -> None:
    training = trainings.load("batchnorm")
    first = Resident(training.program, fake.Fake())
    first.put(trainings.initial(training.program))
    advance(first, training, 0)
    kept = first.state()
    second = Resident(training.program, fake.Fake())
    second.put(kept)
    advance(second, training, 1)
    assert state_root_of(2, second.roots()).hex() == trainings.expected()["batchnorm"]["2"]


def test_what_the_program_does_not_take_is_refused() -> None:
    training = trainings.load("mlp")
    resident = Resident(training.program, fake.Fake())
    state = trainings.initial(training.program)
    name = next(iter(state))
    with pytest.raises(ValueError, match="the program takes"):
        resident.put(state | {name: state[name][..., None]})
    with pytest.raises(ValueError, match="micro-batches"):
        resident.step(0, [], {})


def test_memory_that_is_not_there_is_said() -> None:
    training = trainings.load("mlp")
    with pytest.raises(MemoryError):
        Resident(training.program, fake.Fake(memory=10_000))
