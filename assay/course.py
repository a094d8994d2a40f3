"""Steps in a row from one state, with the roots of all their links' ends: what a segment is made of.

On a processor a link works on this process's arrays and its end is hashed there. An engine that keeps a training on a device
(assay.exact.cuda.resident), or with ranks (assay.exact.ranks.held), hashes it there, too: the state crosses once at the beginning and then when it
is asked for. The roots are the same.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from assay.ahead import Batches
from assay.exact.engines import Keeps, Stays
from assay.execute import Executor, check_tensors
from assay.ids import Digest
from assay.state import Tensors, acc_root, acc_root_of, state_root, state_root_of


class StepRecord(NamedTuple):
    ends: tuple[Digest, ...]
    """acc(t,1) … acc(t,M), state(t+1)."""
    loss: int
    """Bits of the f32 mean loss."""


class Course(Protocol):
    """Raises BadTensors where a tensor is not what the program takes, HardwareFault, ValueError behind the schedule's end."""

    @property
    def here(self) -> bool:
        """Whether the state is in this process's memory, so that to ask for it costs nothing."""
        ...

    def step(self, batches: Batches) -> StepRecord:
        """The next whole step."""
        ...

    def accumulator(self, m: int, batches: Batches) -> tuple[Tensors, Digest]:
        """After the first `m` micro-batches, at least one, of the next step, and its root. The state stays as it is."""
        ...

    def state(self) -> Tensors:
        """Before the next step; worth nothing once the course has gone on."""
        ...


def course(executor: Executor, step: int, state: Tensors) -> Course:
    """From the state before `step`, which is given up. Raises BadTensors."""
    check_tensors("state", state, executor.program.state)
    keeper = executor.keeper
    return _Here(executor, step, state) if keeper is None else _There(executor, keeper, step, state)


def _record(ends: list[Digest], loss: np.float32, micro_batches: int) -> StepRecord:
    mean = np.float32(loss) / np.float32(micro_batches)
    return StepRecord(tuple(ends), int(np.float32(mean).view(np.uint32)))


class _Here:
    here = True

    def __init__(self, executor: Executor, step: int, state: Tensors) -> None:
        self._executor, self._step, self._state = executor, step, state

    def state(self) -> Tensors:
        return self._state

    def step(self, batches: Batches) -> StepRecord:
        acc, ends = self._added(self._executor.micro_batches, batches, True)
        loss = np.float32(acc.get("loss", 0))
        self._state = self._executor.update(self._step, self._state, acc, spend=True)
        self._step += 1
        ends.append(state_root(self._step, self._state, self._executor.threads))
        return _record(ends, loss, self._executor.micro_batches)

    def accumulator(self, m: int, batches: Batches) -> tuple[Tensors, Digest]:
        acc, _ = self._added(m, batches, False)
        return acc, acc_root(self._step, m, acc, self._executor.threads)

    def _added(self, count: int, batches: Batches, rooted: bool) -> tuple[Tensors, list[Digest]]:
        """The accumulator after so many micro-batches; with `rooted`, its roots after each."""
        executor, step = self._executor, self._step
        acc, ends = executor.zero_acc(step, self._state), []
        for m in range(count):
            acc = executor.micro(step, m, self._state, acc, batches(step, m), spend=True)
            if rooted:
                ends.append(acc_root(step, m + 1, acc, executor.threads))
        return acc, ends


class _There:
    here = False

    def __init__(self, executor: Executor, keeper: Keeps, step: int, state: Tensors) -> None:
        self._executor, self._keeper, self._step = executor, keeper, step
        self._given: Tensors | None = state
        """Until the first link, which brings it there."""
        self._kept: Stays | None = None

    def _resident(self) -> Stays:
        if self._kept is None:
            assert self._given is not None
            self._kept = self._keeper.resident()
            self._kept.put(self._given, self._executor.frozen)
            self._given.clear()  # whoever gave it may still have the dict
            self._given = None
        return self._kept

    def state(self) -> Tensors:
        return self._resident().state() if self._given is None else self._given

    def step(self, batches: Batches) -> StepRecord:
        executor, step, on = self._executor, self._step, self._resident()
        scalars = executor.scalars(step)
        accs = on.micros(step, executor.micro_batches, lambda m: self._batch(batches, m))
        has_loss = "loss" in executor.program.accumulator
        loss = np.float32(on.accumulator("loss")["loss"] if has_loss else 0)
        after = on.update(step, scalars)
        self._step += 1
        ends = [acc_root_of(step, m + 1, roots) for m, roots in enumerate(accs)]
        return _record([*ends, state_root_of(step + 1, after)], loss, executor.micro_batches)

    def accumulator(self, m: int, batches: Batches) -> tuple[Tensors, Digest]:
        self._executor.row(self._step)
        on = self._resident()
        *_, roots = on.micros(self._step, m, lambda i: self._batch(batches, i))
        return on.accumulator(), acc_root_of(self._step, m, roots)

    def _batch(self, batches: Batches, m: int) -> Tensors:
        batch = batches(self._step, m)
        check_tensors("batch", batch, self._executor.program.batch, more=True)
        return batch
