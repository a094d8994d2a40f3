"""A segment whose training stays on the (fake) device: the processor's records and states, few copies; what a crash leaves is gone on with."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.course import StepRecord, course
from assay.exact import trainings
from assay.exact.cpu import Cpu
from assay.exact.cuda import fake
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.maps import Kernels
from assay.execute import Executor
from assay.segment import STOP, Corrupted, Segment
from assay.state import BadTensors, Tensors, from_bytes, state_root, to_bytes

pytestmark = pytest.mark.skipif(fake.compiler() is None, reason="no C++ compiler for the fake device")
STEPS, M = 5, 2
TRAINING = trainings.load("mlp")
PROGRAM = TRAINING.program
STATE = trainings.initial(PROGRAM)


class Counting(fake.Fake):
    """Counts what crosses, in bytes."""

    up = down = 0

    def upload(self, to: int, data: Any) -> None:
        self.up += data.nbytes
        super().upload(to, data)

    def download(self, of: int, into: Any) -> None:
        self.down += into.nbytes
        super().download(of, into)


@cache
def device() -> tuple[Counting, Kernels]:
    made = Counting()
    return made, Kernels(made)


def segment(folder: Path, there: bool = True, keep: int = 1 << 30, **more: Any) -> Segment:
    engine = Cuda(PROGRAM, *device()) if there else Cpu(PROGRAM)
    folder.mkdir(exist_ok=True)
    if not (folder / "state-0.safetensors").exists():
        (folder / "state-0.safetensors").write_bytes(to_bytes(STATE))
    executor = Executor(PROGRAM, TRAINING.schedule, M, engine=engine)
    return Segment(folder, executor, more.get("batches", partial(trainings.batch, PROGRAM)), 0, state_root(0, STATE), keep)


def nothing(step: int, loss: int) -> None:
    pass


@cache
def right() -> tuple[list[StepRecord], dict[int, bytes]]:
    """What the processor has of the same steps: records, and states by step."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made = segment(Path(folder), there=False)
        made.run(STEPS, nothing)
        return made.records, {step: made.path(step).read_bytes() for step in range(STEPS + 1)}


def clock(*each: int) -> Callable[[], int]:
    """A clock by which a step and writing its state take so long, in turn."""
    times = itertools.accumulate(itertools.cycle(reversed(each)))
    return lambda: next(times)


def kept(made: Segment) -> list[int]:
    return made._kept()


def test_records_and_states_are_the_processors(tmp_path: Path) -> None:
    made, seen = segment(tmp_path), []
    assert made.run(STEPS, lambda step, loss: seen.append((step, loss))) == STEPS
    records, states = right()
    assert made.records == records
    assert seen == [(step, record.loss) for step, record in enumerate(records)]
    assert kept(made)[0] == 0
    assert kept(made)[-1] == STEPS
    assert all(made.path(step).read_bytes() == states[step] for step in kept(made))


def test_states_are_written_as_seldom_as_writing_is_slow_and_at_the_end(tmp_path: Path) -> None:
    quick, slow = segment(tmp_path / "quick"), segment(tmp_path / "slow")
    quick.run(STEPS, nothing, clock(1000, 1))
    slow.run(STEPS, nothing, clock(1, 1000))
    assert kept(quick) == list(range(STEPS + 1))
    assert kept(slow) == [0, 1, STEPS]
    assert slow.records == quick.records == right()[0]


def test_what_crosses_in_between_is_batches_and_roots(tmp_path: Path) -> None:
    """Not the state, whose bytes are more than those of all the steps' batches, counters and roots."""
    counted, _ = device()
    executor = segment(tmp_path).executor
    going = course(executor, 0, {name: array.copy() for name, array in STATE.items()})
    going.step(partial(trainings.batch, PROGRAM))
    up, down = counted.up, counted.down
    records = [going.step(partial(trainings.batch, PROGRAM)) for _ in range(3)]
    assert records == right()[0][1:4]
    batch = sum(a.nbytes for a in trainings.batch(PROGRAM, 0, 0).values())
    assert counted.up - up < 3 * M * (batch + 2 * 256 + 3 * 256 * len(PROGRAM.batch)) + 3 * 256 * (3 + len(PROGRAM.scalars))
    assert counted.down - down < 3 * 32 * (M * len(PROGRAM.accumulator) + len(PROGRAM.state) + 3)
    state = sum(a.nbytes for a in STATE.values())
    down = counted.down
    assert to_bytes(going.state()) == right()[1][4]
    assert counted.down - down == state


def test_records_of_the_next_step_are_read_while_one_is_computed(tmp_path: Path) -> None:
    """Each step's end waits until the next one's first are asked for; behind the segment's end none are."""
    asked: dict[tuple[int, int], threading.Event] = defaultdict(threading.Event)

    def batch(step: int, m: int) -> Tensors:
        asked[step, m].set()
        return trainings.batch(PROGRAM, step, m)

    def ended(step: int, loss: int) -> None:
        assert step == 3 or asked[step + 1, 0].wait(60)

    made = segment(tmp_path, batches=batch)
    assert made.run(4, ended) == 4
    assert made.records == right()[0][:4]
    assert not asked[4, 0].is_set()


class Killed(BaseException):
    """As sudden as a signal."""


@pytest.mark.parametrize("at", [0, 2, STEPS - 1])
def test_killed_after_a_step_it_goes_on_from_the_newest_state_to_the_same_records(tmp_path: Path, at: int) -> None:
    def kill(step: int, loss: int) -> None:
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        segment(tmp_path).run(STEPS, kill, clock(1, 1000))
    again, seen = segment(tmp_path), []
    newest = STEPS if at == STEPS - 1 else 1
    assert again.done == at + 1
    assert again.run(STEPS, lambda step, loss: seen.append(step)) == STEPS - newest
    assert seen == list(range(newest - 1, STEPS))
    assert again.records == right()[0]
    assert again.path(STEPS).read_bytes() == right()[1][STEPS]


def test_a_stop_in_mid_segment_leaves_the_state_of_its_step(tmp_path: Path) -> None:
    made = segment(tmp_path)
    assert made.run(STEPS, lambda step, loss: (tmp_path / STOP).touch() if step == 3 else None, clock(1, 1000)) == 4
    assert (kept(made), made.done) == ([0, 1, 4], 4)
    assert made.path(4).read_bytes() == right()[1][4]
    (tmp_path / STOP).unlink()
    again = segment(tmp_path)
    assert again.run(STEPS, nothing) == STEPS - 4
    assert again.records == right()[0]


def test_any_link_is_opened_and_any_end_shown_as_on_the_processor(tmp_path: Path) -> None:
    """Whatever states there are; the processor opens what the device ran, and the device what the processor ran."""
    there, here = segment(tmp_path / "there", keep=0), segment(tmp_path / "here", there=False)
    there.run(STEPS, nothing)
    here.run(STEPS, nothing)
    units = (0, 1, 3, 8, 13)
    want = {unit: to_bytes(tensors) for unit, tensors in here.boundaries(units)}
    assert {unit: to_bytes(tensors) for unit, tensors in there.boundaries(units)} == want
    assert to_bytes(there.end(4)) == to_bytes(here.end(4))
    assert to_bytes(there.end(5)) == to_bytes(here.end(5))
    ((_, tensors),) = segment(tmp_path / "here").boundaries([8])
    assert to_bytes(tensors) == want[8]


def test_a_device_that_does_not_compute_the_same_twice_is_found(tmp_path: Path) -> None:
    segment(tmp_path).run(2, nothing)
    (tmp_path / "state-1.safetensors").unlink()
    other = segment(tmp_path, batches=lambda step, m: trainings.batch(PROGRAM, step + 7, m))
    for unit in (1, 3):  # inside of the first step, and after it
        with pytest.raises(Corrupted, match="does not come out as it did before"):
            list(other.boundaries([unit]))


def wrong(name: str) -> Iterator[Tensors]:
    yield {key: array for key, array in STATE.items() if key != name}
    yield STATE | {name: STATE[name].astype(np.float64)}


def test_tensors_that_the_program_does_not_take_are_the_givers_fault(tmp_path: Path) -> None:
    executor = segment(tmp_path).executor
    for state in wrong(next(iter(STATE))):
        with pytest.raises(BadTensors):
            course(executor, 0, state)
    going = course(executor, 0, from_bytes(to_bytes(STATE), 1 << 30))
    with pytest.raises(BadTensors, match="batch lacks"):
        going.step(lambda step, m: {})
    behind = course(executor, executor.steps, from_bytes(to_bytes(STATE), 1 << 30))
    with pytest.raises(ValueError, match="outside the schedule"):
        behind.step(partial(trainings.batch, PROGRAM))
