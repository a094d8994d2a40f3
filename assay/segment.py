"""A segment on disk: run step by step, interrupted at any moment, gone on with, and opened again at any link.

    steps.bin                one record a step: its M+1 link ends, the bits of its mean loss, a checksum
    state-<step>.safetensors states before steps; the parent's first, the newest, and as many between as the budget takes

A step is on disk when its record is. Its end state is written before its record, so that after a crash the newest record has its
state; a torn record or a state that does not have the committed root is thrown away and computed again, to the same bits. States are
kept at distances of a power of two steps that doubles when the budget is full: any link's inputs are at most one distance away.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from assay import links, merkle
from assay.execute import Executor
from assay.ids import Digest
from assay.state import BadTensors, Tensors, acc_root, from_file, state_root, to_file

STOP = "stop"
"""A file of this name in a segment's folder ends its run after the step it is in."""
MAX_STATE = 1 << 34
"""Bytes of a state file."""

Batches = Callable[[int, int], Tensors]
"""(step, m) -> records of that micro-batch."""


class Corrupted(Exception):
    """What this machine computes now is not what it computed before: memory, disk or processor are at fault."""


class StepRecord(NamedTuple):
    ends: tuple[Digest, ...]
    """acc(t,1) … acc(t,M), state(t+1)."""
    loss: int
    """Bits of the f32 mean loss."""


def write_atomically(path: Path, data: bytes) -> None:
    """The file is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def write_tensors(path: Path, tensors: Tensors) -> None:
    """As `write_atomically` of `to_bytes`, without holding all of it."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        to_file(file, tensors)
    os.replace(part, path)


def read_records(folder: Path, micro_batches: int) -> list[StepRecord]:
    """The steps of a run that are on disk, up to the first torn record."""
    path = folder / "steps.bin"
    data = path.read_bytes() if path.exists() else b""
    out: list[StepRecord] = []
    width = 32 * (micro_batches + 1) + 4
    for at in range(0, len(data) - width - 7, width + 8):
        body, check = data[at : at + width], data[at + width : at + width + 8]
        if merkle.sha256(body)[:8] != check:
            break
        ends = tuple(Digest(body[i : i + 32]) for i in range(0, width - 4, 32))
        out.append(StepRecord(ends, struct.unpack(">I", body[-4:])[0]))
    return out


class Segment:
    """Steps [start, stop) in `folder`; `parent` is the state before `start`, whose root is `parent_root`.

    `keep` bounds the bytes of the states that are kept for serving, beyond the first and the newest. Raises BadTensors when the
    parent's file is not the state that was committed.
    """

    def __init__(self, folder: Path, executor: Executor, batches: Batches, start: int, parent_root: Digest, keep: int) -> None:
        self.folder, self.executor, self.batches = folder, executor, batches
        self.start, self.keep = start, keep
        self._parent_root = parent_root
        self._width = 32 * (executor.micro_batches + 1) + 4
        self.records = read_records(folder, executor.micro_batches)

    # ---- records ---------------------------------------------------------------------------------------------------------

    def _append(self, record: StepRecord) -> None:
        body = b"".join(record.ends) + struct.pack(">I", record.loss)
        with (self.folder / "steps.bin").open("r+b" if (self.folder / "steps.bin").exists() else "wb") as file:
            file.seek(len(self.records) * (self._width + 8))
            file.truncate()  # a torn record, or those whose states were lost
            file.write(body + merkle.sha256(body)[:8])
        self.records.append(record)

    @property
    def done(self) -> int:
        """The step before which the newest recorded state stands."""
        return self.start + len(self.records)

    @property
    def ends(self) -> list[Digest]:
        """All link ends so far."""
        return [end for record in self.records for end in record.ends]

    def root_before(self, step: int) -> Digest:
        """Committed root of the state before a step of the segment, or of its end."""
        return self._parent_root if step == self.start else self.records[step - self.start - 1].ends[-1]

    def leaf_hashes(self, stop: int) -> list[Digest]:
        width = self.executor.micro_batches + 1
        return [merkle.leaf(i, end) for i, end in enumerate(self.ends[: (stop - self.start) * width])]

    # ---- states ----------------------------------------------------------------------------------------------------------

    def path(self, step: int) -> Path:
        return self.folder / f"state-{step}.safetensors"

    def _kept(self) -> list[int]:
        """Steps whose state file is there, ascending."""
        found = (re.fullmatch(r"state-(\d+)\.safetensors", path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def load(self, step: int) -> Tensors:
        """The state before a step, checked against its committed root. Raises BadTensors, FileNotFoundError."""
        tensors = from_file(self.path(step), MAX_STATE, self.executor.kept)
        if (found := state_root(step, tensors, self.executor.threads)) != self.root_before(step):
            raise BadTensors(f"the state before step {step} is not the committed one: its root is {found.hex()[:16]}…")
        return tensors

    def _newest(self, step: int) -> tuple[int, Tensors]:
        """The latest state at or before a step that is on disk and right. Raises BadTensors when not even the parent's is."""
        for kept in reversed([kept for kept in self._kept() if self.start < kept <= step]):
            try:
                return kept, self.load(kept)
            except (BadTensors, OSError):
                self.path(kept).unlink(missing_ok=True)
        return self.start, self.load(self.start)

    def _thin(self) -> None:
        """Removes states until the budget is kept; the first, and the newest two, stay."""
        kept = self._kept()
        newest = {self.done, self.done - 1}
        between = [step for step in kept if step != self.start and step not in newest]
        if not between:
            return
        most = self.keep // max(1, self.path(between[0]).stat().st_size)
        stride = 1
        while sum((step - self.start) % stride == 0 for step in between) > most:
            stride *= 2
            if stride > self.done - self.start:
                break
        for step in between:
            if (step - self.start) % stride or stride > self.done - self.start:
                self.path(step).unlink(missing_ok=True)

    # ---- running ---------------------------------------------------------------------------------------------------------

    def step(self, step: int, state: Tensors) -> tuple[Tensors, StepRecord]:
        """One whole step from the state before it, which is spent."""
        acc, ends = self.executor.zero_acc(step, state), []
        for m in range(self.executor.micro_batches):
            acc = self.executor.micro(step, m, state, acc, self.batches(step, m), spend=True)
            ends.append(acc_root(step, m + 1, acc, self.executor.threads))
        mean = np.float32(acc.get("loss", 0)) / np.float32(self.executor.micro_batches)
        after = self.executor.update(step, state, acc, spend=True)
        ends.append(state_root(step + 1, after, self.executor.threads))
        return after, StepRecord(tuple(ends), int(np.float32(mean).view(np.uint32)))

    def run(self, stop: int, on_step: Callable[[int, int], None]) -> int:
        """Goes on to `stop`, or to the end of the step in which the file `stop` appears. Returns how many steps were computed.

        `on_step(step, loss bits)` is called when a step is on disk, also once for the last one that was found there.
        """
        at, state = self._newest(self.done)
        del self.records[at - self.start :]
        computed = 0
        if at > self.start:
            on_step(at - 1, self.records[-1].loss)
        while at < stop and not (at > self.start and (self.folder / STOP).exists()):
            state, record = self.step(at, state)
            at += 1
            write_tensors(self.path(at), state)
            self._append(record)
            self._thin()
            computed += 1
            on_step(at - 1, record.loss)
        return computed

    # ---- opening again ---------------------------------------------------------------------------------------------------

    def boundaries(self, units: Sequence[int]) -> Iterator[tuple[int, Tensors]]:
        """The inputs of links: `state.*` and, inside a step, `acc.*`. Raises Corrupted when the recorded ends do not come again."""
        for unit in sorted(set(units)):
            offset, m = links.place(unit, self.executor.micro_batches)
            state = self._state(self.start + offset)
            acc = self._acc(offset, m, state) if m else {}
            out = {f"state.{name}": array for name, array in state.items()}
            yield unit, out | {f"acc.{name}": array for name, array in acc.items()}

    def end(self, place: int) -> Tensors:
        """What link `place` ended in: a state after an update, else an accumulator. Raises Corrupted."""
        offset, m = links.place(place, self.executor.micro_batches)
        if m == self.executor.micro_batches:
            return self._state(self.start + offset + 1)
        return self._acc(offset, m + 1, self._state(self.start + offset))

    def _state(self, step: int) -> Tensors:
        """The state before a step."""
        at, state = self._newest(step)
        while at < step:
            state, record = self.step(at, state)
            if record.ends != self.records[at - self.start].ends:
                raise Corrupted(f"step {at} of the segment that starts at {self.start} does not come out as it did before")
            at += 1
        return state

    def _acc(self, offset: int, m: int, state: Tensors) -> Tensors:
        """The accumulator after `m` micro-batches, at least one, of the segment's step `offset`."""
        step = self.start + offset
        acc = self.executor.zero_acc(step, state)
        for i in range(m):
            acc = self.executor.micro(step, i, state, acc, self.batches(step, i), spend=True)
        if acc_root(step, m, acc, self.executor.threads) != self.records[offset].ends[m - 1]:
            raise Corrupted(f"the accumulator of step {step} after {m} micro-batches does not come out as it did before")
        return acc


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
