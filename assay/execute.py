"""A program run on real tensors: one link at a time, with the roots that bind it. Workers, verifiers and local runs share this.

A step is M micro-batches and one update. The accumulator of a step starts as zeros (an entry that has the name of a state's entry
starts as that, so that buffers may be carried along); `micro` adds one micro-batch to it, `update` turns the state and the full
accumulator into the next state. State entries that the update does not put out stay as they are. Everything is exact
(assay.exact): the same bits on every machine, on every route and with any number of threads.

Conventions of the accumulator: `loss` (f32, rank 0) is the sum over micro-batches of the mean loss, `grad.<param>` that of gradients.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from assay import merkle
from assay.exact import engines
from assay.exact.cpu import Inputs
from assay.exact.offload import Store
from assay.exact.table import TensorType
from assay.ids import Digest
from assay.program import Program
from assay.stages import program_root
from assay.state import DTYPES, BadTensors, Tensors, acc_root, batch_root, dtype_name, frozen_root, state_root, tensor_root

MICRO, UPDATE = 0, 1


class Trace(NamedTuple):
    """One link with every stage's output committed (docs/protocol.md, "trace root")."""

    root: Digest
    leaves: tuple[Digest, ...]
    """Contents of the leaves: head, one tensor root for each stage, root of the link's end. Leaf i's hash is merkle.leaf(i, leaves[i])."""
    output: Tensors
    """What the link ends in: the accumulator, or the next state."""


def zeros(t: TensorType) -> NDArray[Any]:
    return np.zeros(t.shape, DTYPES[t.dtype][1])


def check_tensors(what: str, tensors: Mapping[str, NDArray[Any]], types: Mapping[str, TensorType], more: bool = False) -> None:
    """Raises BadTensors unless `tensors` are of `types`, name by name (with `more`, others may be there, too)."""
    for name, t in types.items():
        array = tensors.get(name)
        if array is None:
            raise BadTensors(f"the {what} lacks {name!r}, {t}")
        if array.shape != t.shape or dtype_name(array) != t.dtype:
            raise BadTensors(f"the {what}'s {name!r} is {array.dtype}{list(array.shape)}, the program takes {t}")
    if not more and (extra := sorted(tensors.keys() - types.keys())):
        raise BadTensors(f"the {what} has {extra[0]!r}, which the program does not know")


def counters(step: int, m: int) -> Tensors:
    """The counters of a link as the program's inputs (steps beyond 2^63 wrap)."""
    return {name: np.array(value % (1 << 64), np.uint64).view(np.int64) for name, value in (("step", step), ("micro", m))}


def schedule_root(schedule: NDArray[np.float32]) -> Digest:
    """Tensor root of the schedule, f32 [steps, scalars]."""
    return tensor_root(schedule)


def _taken(tensors: Tensors) -> Tensors:
    """The tensors; the caller's dict is left empty."""
    own = dict(tensors)
    tensors.clear()
    return own


class Runs(Protocol):
    """What computes the parts of the program, as assay.exact.cpu.Cpu does."""

    def run(self, part: str, inputs: Inputs, spent: Collection[str] = ()) -> Tensors: ...

    def trace(self, part: str, inputs: Inputs) -> tuple[Tensors, list[Digest]]: ...


class Executor:
    """Runs the links of one job.

    `program` has been checked (Program.load); `schedule` is f32 [steps, scalars], its columns in the order of `program.scalars`;
    `threads` is the number of native threads; `frozen` are the tensors that no step changes, checked here, once, against the root that
    the program names; `effort` is what is made again to save memory (assay.exact.recompute); `engine` computes in place of this
    processor's, for instance several ranks (assay.exact.ranks.team); in a `store` (assay.exact.offload) lie the accumulator, and what
    links give that spend what they take; `memory` bytes of this machine's are a device's training to use. Raises BadTensors when a tensor is
    not what the program takes, ValueError for a step outside the schedule or a micro-batch outside the step.

    Who owns what: arguments are only read, and results share no memory with them (but for entries that no step changes), unless the
    caller says `spend=True`. Then it gives up the accumulator (in `update` the state, too): the result may lie where they did, so that a
    training holds one state and one accumulator, as eager PyTorch does. The spent dicts are emptied, also when the link fails, so that
    nobody reads half a result; views of their arrays that the caller still has are worth nothing.
    """

    def __init__(
        self, program: Program, schedule: NDArray[np.float32], micro_batches: int, threads: int = 1, frozen: Mapping[str, NDArray[Any]] = {},
        effort: int = 0, engine: Runs | None = None, store: Store | None = None, memory: int = engines.UNLIMITED,
    ) -> None:  # fmt: skip
        if schedule.ndim != 2 or schedule.dtype != np.float32 or schedule.shape[1] != len(program.scalars):
            names = ", ".join(program.scalars)
            raise BadTensors(f"the schedule is {schedule.dtype}{list(schedule.shape)}, the program takes f32[steps, {len(program.scalars)}]: {names}")
        if micro_batches != program.micro_batches:
            raise BadTensors(f"the job has {micro_batches} micro-batches a step, its program averages over {program.micro_batches}")
        check_tensors("frozen set", frozen, program.frozen)
        if frozen and (found := frozen_root(frozen, threads)) != program.frozen_root:
            raise BadTensors(f"the frozen tensors are not those that the program names: their root is {found.hex()[:16]}…")
        self.program = program
        self.frozen = dict(frozen)
        self.root = program_root(program)
        self.schedule = np.ascontiguousarray(schedule)
        self.schedule_root = schedule_root(self.schedule)
        self.micro_batches = micro_batches
        self.threads, self.effort = threads, effort
        self.store = store
        self._engine = engine or engines.engine(program, threads, effort, store, memory)
        self._state, self._acc, self._batch = program.state, program.accumulator, program.batch
        self._spare: Tensors = {}
        """A spent accumulator, for the next one: fresh memory costs a page fault each 4 KiB."""

    def kept(self, array: NDArray[Any]) -> NDArray[Any]:
        """A copy of an array where this executor has its tensors: in memory, or in its store."""
        return np.copy(array) if self.store is None else self.store.put(array)

    @property
    def keeper(self) -> engines.Keeps | None:
        """The engine, if it can keep a training away from this process's memory."""
        return self._engine if isinstance(self._engine, engines.Keeps) else None

    @property
    def steps(self) -> int:
        return int(self.schedule.shape[0])

    def scalars(self, step: int) -> Tensors:
        """Row `step` of the schedule as named f32 scalars."""
        return {name: self.row(step)[i : i + 1].reshape(()) for i, name in enumerate(self.program.scalars)}

    def row(self, step: int) -> NDArray[np.float32]:
        if not 0 <= step < self.steps:
            raise ValueError(f"step {step} is outside the schedule's {self.steps} steps")
        return np.asarray(self.schedule[step])

    def zero_acc(self, step: int, state: Tensors) -> Tensors:
        """The accumulator before a step's first micro-batch."""
        self.row(step)
        out: Tensors = {}
        for name, t in self._acc.items():
            spare = self._spare.pop(name, None)
            if self.store is not None:
                out[name] = self.store.put(state[name].copy()) if name in state else self.store.zeros(t)
            elif spare is not None and spare.flags.writeable:
                spare[...] = state.get(name, 0)
                out[name] = spare
            else:
                out[name] = state[name].copy() if name in state else zeros(t)
        return out

    def micro(self, step: int, m: int, state: Tensors, acc: Tensors, batch: Tensors, *, spend: bool = False) -> Tensors:
        """The accumulator after micro-batch `m` of step `step`; `spend` gives up `acc`."""
        self._check_micro(step, m, state, acc, batch)
        inputs = self._for_micro(step, m, state, acc, batch)
        if not spend:
            return self._engine.run("micro", inputs)
        inputs["acc"] = _taken(acc)
        return self._stored(self._engine.run("micro", inputs, ("acc",)))

    def update(self, step: int, state: Tensors, acc: Tensors, *, spend: bool = False) -> Tensors:
        """The state before step `step + 1`; `spend` gives up `state` and `acc`."""
        self._check_update(step, state, acc)
        inputs = self._for_update(step, state, acc)
        if not spend:
            return state | self._engine.run("update", inputs)
        inputs |= {"state": _taken(state), "acc": _taken(acc)}
        after = inputs["state"] | self._stored(self._engine.run("update", inputs, ("state", "acc")))
        self._spare = inputs["acc"]
        return after

    def _stored(self, made: Tensors) -> Tensors:
        return {name: self.store.put(array) for name, array in made.items()} if self.store else made

    def _for_micro(self, step: int, m: int, state: Tensors, acc: Tensors, batch: Tensors) -> dict[str, Tensors]:
        return {"state": state, "acc": acc, "batch": batch, "counter": counters(step, m), "frozen": self.frozen}

    def _for_update(self, step: int, state: Tensors, acc: Tensors) -> dict[str, Tensors]:
        done = counters(step, self.micro_batches)
        return {"state": state, "acc": acc, "scalar": self.scalars(step), "counter": done, "frozen": self.frozen}

    def trace_micro(self, step: int, m: int, state: Tensors, acc: Tensors, batch: Tensors) -> Trace:
        """`micro`, with the root over all its stages."""
        self._check_micro(step, m, state, acc, batch)
        output, stages = self._engine.trace("micro", self._for_micro(step, m, state, acc, batch))
        batch = {name: batch[name] for name in self._batch}
        return self._trace(MICRO, step, m, state, acc, batch, stages, acc_root(step, m + 1, output, self.threads), output)

    def trace_update(self, step: int, state: Tensors, acc: Tensors) -> Trace:
        """`update`, with the root over all its stages."""
        self._check_update(step, state, acc)
        output, stages = self._engine.trace("update", self._for_update(step, state, acc))
        output = state | output
        return self._trace(UPDATE, step, self.micro_batches, state, acc, {}, stages, state_root(step + 1, output, self.threads), output)

    def _trace(
        self, part: int, step: int, m: int, state: Tensors, acc: Tensors, batch: Tensors, stages: Sequence[Digest], end: Digest, output: Tensors
    ) -> Trace:
        head = merkle.sha256(
            struct.pack(">B32sBQI", 0x14, self.root, part, step, m),
            state_root(step, state, self.threads),
            acc_root(step, m, acc, self.threads) if m else bytes(32),
            batch_root(batch),
            self.schedule_root,
        )
        leaves = (head, *stages, end)
        return Trace(merkle.root_of(leaves), leaves, output)

    def _check_micro(self, step: int, m: int, state: Tensors, acc: Tensors, batch: Tensors) -> None:
        self.row(step)
        if not 0 <= m < self.micro_batches:
            raise ValueError(f"micro-batch {m} of {self.micro_batches}")
        check_tensors("state", state, self._state)
        check_tensors("accumulator", acc, self._acc)
        check_tensors("batch", batch, self._batch, more=True)

    def _check_update(self, step: int, state: Tensors, acc: Tensors) -> None:
        self.row(step)
        check_tensors("state", state, self._state)
        check_tensors("accumulator", acc, self._acc)
