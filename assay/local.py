"""A whole job in one process: the same links on the same records in the same order as on the network, so the same roots.

It is how a developer sees that a training learns before paying for it, and how anyone with the data can check what a job paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.execute import Executor
from assay.ids import Digest
from assay.program import Program
from assay.sampling import record_indices
from assay.state import Tensors, state_root


class Step(NamedTuple):
    """What is known after a step."""

    step: int
    loss: float
    """Mean over the step's micro-batches, before its update."""
    root: Digest
    """State root before step `step + 1`."""


class LocalRun(NamedTuple):
    state: Tensors
    root: Digest
    """Of the final state."""
    steps: tuple[Step, ...]

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(s.loss for s in self.steps)


def run_local(
    program: Program,
    schedule: NDArray[np.float32],
    state: Tensors,
    read: Callable[[Sequence[int]], Tensors],
    records: int,
    order: Digest,
    progress: Callable[[Step], None] | None = None,
    threads: int = 1,
    frozen: Mapping[str, NDArray[Any]] = {},
    steps: range | None = None,
) -> LocalRun:
    """Runs every step of `schedule` (f32 [steps, scalars]), or the `steps` of it, from `state`; `frozen` are the tensors that no step changes.

    `read` gives records by number, `[n, *shape]` for each field (Dataset.read, shard.Records.read); there are `records` of them, and
    `order` keys their permutation. Raises BadTensors when a tensor is not what the program takes.
    """
    executor = Executor(program, schedule, program.micro_batches, threads, frozen)
    batch = next(iter(program.batch.values())).shape[0]
    done: list[Step] = []
    steps = range(executor.steps) if steps is None else steps
    for step in steps:
        acc = executor.zero_acc(step, state)
        for m in range(program.micro_batches):
            acc = executor.micro(step, m, state, acc, read(record_indices(order, records, step, m, program.micro_batches, batch)), spend=True)
        loss = float(acc.get("loss", 0)) / program.micro_batches
        state = executor.update(step, state, acc, spend=step > steps.start)  # the first is the caller's
        done.append(Step(step, loss, state_root(step + 1, state, threads)))
        if progress:
            progress(done[-1])
    return LocalRun(state, done[-1].root if done else state_root(steps.start, state), tuple(done))
