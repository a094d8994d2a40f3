"""Rounds of federated averaging (McMahan et al., AISTATS 2017) on exact arithmetic: what an owner's training becomes as integers, and back.

An owner runs some steps of the job's program on its own records, from the round's state. Its update is what they changed of the floating-point
parameters and buffers, in order of their UTF-8 names; moments and the like start anew in every round and go nowhere. The mean of the updates,
weighted, is added to the state. Every operation here is one IEEE-754 binary64 operation an element or an integer one, so that all machines agree
on every bit; the steps are exact anyhow, and an auditor who is shown an owner's update (record.look) and lent its records computes the very same
row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from assay import merkle
from assay.execute import schedule_root
from assay.federated import ring
from assay.federated.messages import TAIL, Terms
from assay.federated.ring import Row
from assay.ids import Digest
from assay.local import LocalRun, run_local
from assay.program import Program
from assay.stages import program_root
from assay.state import Tensors, state_root


class Work(Protocol):
    """A training with an owner's own records: an assay.client.Plan is one."""

    @property
    def program(self) -> Program: ...

    @property
    def schedule(self) -> NDArray[np.float32]: ...

    @property
    def state(self) -> Tensors: ...

    @property
    def frozen(self) -> Mapping[str, NDArray[Any]]: ...

    @property
    def size(self) -> int: ...

    def read(self, indices: Sequence[int]) -> Tensors: ...


def exchanged(state: Mapping[str, NDArray[Any]]) -> list[str]:
    """Names of what is averaged, in order."""
    kept = [name for name, array in state.items() if name.startswith(("param.", "buffer.")) and array.dtype == np.float32]
    return sorted(kept, key=str.encode)


def length(state: Mapping[str, NDArray[Any]]) -> int:
    """Numbers in an update."""
    return sum(state[name].size for name in exchanged(state))


def order(program: Digest, owner: bytes) -> Digest:
    """Key of the order in which an owner reads its records."""
    return merkle.sha256(b"assay/federated/order/1", program, owner)


def train(work: Work, state: Tensors, round: int, steps: int, owner: bytes, threads: int = 1) -> LocalRun:
    """An owner's steps of a round: those from round x steps of the schedule on, on the work's records. `owner` is its identity key."""
    key = order(program_root(work.program), owner)
    span = range(round * steps, (round + 1) * steps)
    return run_local(work.program, work.schedule, state, work.read, work.size, key, None, threads, work.frozen, span)


def update(terms: Terms, owner: int, start: Tensors, end: Tensors, noise: NDArray[np.int64] | None = None) -> Row:
    """An owner's row: the change, rounded, clamped, shortened to the norm of the terms, with its noise, times its weight. Raises ring.BadUpdate."""
    change = np.concatenate([(end[name].astype(np.float64) - start[name]).reshape(-1) for name in exchanged(start)])
    rounded = ring.fixed(change, terms.fraction, terms.limit - TAIL * terms.noise)
    if terms.norm:
        rounded = ring.shortened(rounded, terms.norm)
    if (noise is not None) != bool(terms.noise):
        raise ring.BadUpdate(f"the terms ask for noise of {terms.noise}")
    if noise is not None:
        rounded = rounded + noise
    return (rounded * terms.weights[owner]).astype(ring.SIGNED[terms.bits])


def apply(state: Tensors, mean: NDArray[np.float64], start: Tensors) -> Tensors:
    """The next round's state: the mean change added to the state; what is not averaged as in `start`, the job's initial state."""
    out, at = dict(start), 0
    for name in exchanged(state):
        size = state[name].size
        out[name] = (state[name].astype(np.float64) + mean[at : at + size].reshape(state[name].shape)).astype(np.float32)
        at += size
    return out


def mean(terms: Terms, total: Row, survivors: list[int]) -> NDArray[np.float64]:
    """The weighted mean of the survivors' updates: one division by an integer, correctly rounded."""
    return total.astype(np.float64) * 2.0**-terms.fraction / sum(terms.weights[owner] for owner in survivors)


def job_of(work: Work, rounds: int, steps: int) -> Digest:
    """Names a federated job: its program, schedule and first state, and how many rounds of how many steps it has. Whose records are read is not
    in it: an owner that traces the same training file gets the same name, and the coordinator's word is not needed."""
    parts = program_root(work.program), schedule_root(work.schedule), state_root(0, work.state)
    return merkle.sha256(b"assay/federated/job/1", *parts, rounds.to_bytes(4, "big"), steps.to_bytes(4, "big"))


def start_root(state: Tensors, round: int, steps: int) -> Digest:
    """What the terms of a round call its model."""
    return state_root(round * steps, state)
