"""A segment on disk: run step by step, interrupted at any moment, gone on with, and opened again at any link.

    steps.bin                one record a step: its M+1 link ends, the bits of its mean loss, a checksum
    state-<step>.safetensors states before steps; the parent's first, the newest, and as many between as the budget takes

A step is on disk when its record is. Its end state is written before its record, so that after a crash the newest record has its
state; a torn record or a state that does not have the committed root is thrown away and computed again, to the same bits. States are
kept at distances of a power of two steps that doubles when the budget is full: any link's inputs are at most one distance away.

A state that stays on a device (assay.course) is written at such distances from the beginning on, since to copy and write it may take longer
than to compute many steps: seldom enough that this takes a twentieth of the time, and always at the end. What a crash loses are the
steps since then, whose records are thrown away.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from assay import links, merkle
from assay.ahead import Ahead, Batches
from assay.course import Course, StepRecord, course
from assay.execute import Executor
from assay.ids import Digest
from assay.state import BadTensors, Tensors, from_file, state_root, to_file

STOP = "stop"
"""A file of this name in a segment's folder ends its run after the step it is in."""
MAX_STATE = 1 << 34
"""Bytes of a state file."""
SHARE = 20
"""How many times longer a device computes than it takes to write a state that stays there."""
MOST_APART = 1 << 20
"""Steps between states, at most."""


class Corrupted(Exception):
    """What this machine computes now is not what it computed before: memory, disk or processor are at fault."""


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
        newest = [step for step in kept if step <= self.done][-2:]
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

    def run(self, stop: int, on_step: Callable[[int, int], None], clock: Callable[[], int] = time.monotonic_ns) -> int:
        """Goes on to `stop`, or to the end of the step in which the file `stop` appears. Returns how many steps were computed.

        `on_step(step, loss bits)` is called when a step's record is on disk, also once for the last one that was found there with its
        state. The `clock` says how far apart the states of a training are written that stays on a device.
        """
        at, state = self._newest(self.done)
        del self.records[at - self.start :]
        if at > self.start:
            on_step(at - 1, self.records[-1].loss)
        going = course(self.executor, at, state)
        begun = written = at
        distance, since = 1, clock()
        reading = nullcontext(self.batches) if going.here else Ahead(self.batches, self.executor.micro_batches, stop)
        with reading as batches:
            while at < stop and not (at > self.start and (self.folder / STOP).exists()):
                record = going.step(batches)
                at += 1
                if going.here or at == stop or (at - self.start) % distance == 0:
                    computed = clock()
                    write_tensors(self.path(at), going.state())
                    wrote = clock()
                    distance = _distance((computed - since) / (at - written), wrote - computed)
                    written, since = at, wrote
                self._append(record)
                if written == at:
                    self._thin()
                on_step(at - 1, record.loss)
        if at != written:
            write_tensors(self.path(at), going.state())
        return at - begun

    # ---- opening again ---------------------------------------------------------------------------------------------------

    def boundaries(self, units: Sequence[int]) -> Iterator[tuple[int, Tensors]]:
        """The inputs of links: `state.*` and, inside a step, `acc.*`. Raises Corrupted when the recorded ends do not come again."""
        for unit in sorted(set(units)):
            offset, m = links.place(unit, self.executor.micro_batches)
            going = self._going(self.start + offset)
            out = {f"state.{name}": array for name, array in going.state().items()}
            yield unit, out | {f"acc.{name}": array for name, array in (self._acc(offset, m, going) if m else {}).items()}
            del going  # and what it holds of a device, before there is another one

    def end(self, place: int) -> Tensors:
        """What link `place` ended in: a state after an update, else an accumulator. Raises Corrupted."""
        offset, m = links.place(place, self.executor.micro_batches)
        if m == self.executor.micro_batches:
            return self._going(self.start + offset + 1).state()
        return self._acc(offset, m + 1, self._going(self.start + offset))

    def _going(self, step: int) -> Course:
        """On from the state before a step."""
        at, state = self._newest(step)
        going = course(self.executor, at, state)
        while at < step:
            if going.step(self.batches).ends != self.records[at - self.start].ends:
                raise Corrupted(f"step {at} of the segment that starts at {self.start} does not come out as it did before")
            at += 1
        return going

    def _acc(self, offset: int, m: int, going: Course) -> Tensors:
        """The accumulator after `m` micro-batches, at least one, of the segment's step `offset`, which is next."""
        acc, root = going.accumulator(m, self.batches)
        if root != self.records[offset].ends[m - 1]:
            raise Corrupted(f"the accumulator of step {self.start + offset} after {m} micro-batches does not come out as it did before")
        return acc


def _distance(step: float, write: float) -> int:
    """Steps between states, a power of two, if a step takes `step` and a state `write` of the same unit."""
    distance = 1
    while distance < MOST_APART and distance * step < SHARE * write:
        distance *= 2
    return distance


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
