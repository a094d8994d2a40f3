"""The engine: computes links in a process of its own, with no network and no keys (`python -m assay.work`).

What it is asked and where its files lie: assay.engine. Over stdin and stdout go lines of canonical JSON, each at most MAX_LINE bytes: a
task in; steps done, then a result or a failure out. A failure says whose fault it is: `peer` when what was given is not what was
committed, `own` when this machine is at fault. One file because it is one dispatcher: what computes lies elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from assay import hearing, links, merkle
from assay.cage.libc import die_with_parent
from assay.codec import Malformed, decode, encode
from assay.engine import (
    MAX_BOUNDARY,
    MAX_LINE,
    AnswerDispute,
    AnyEngineResult,
    AnyEngineTask,
    CheckFile,
    ChunkOpened,
    DisputeAnswered,
    Failure,
    FileChecked,
    JobFiles,
    LinkParted,
    LinkReplayed,
    LinksOpened,
    LinksRun,
    OpenChunk,
    OpenedLink,
    OpenLinks,
    PartLink,
    Progress,
    ReplayLink,
    RunLinks,
    ShowTree,
    StepDone,
    TreeShown,
)
from assay.exact import engines
from assay.exact.cpu import Cpu
from assay.exact.cuda.device import DeviceFull
from assay.exact.memory import Fit, fitting
from assay.exact.offload import Store
from assay.exact.ranks.exchanges import RankLost
from assay.execute import Executor
from assay.ids import Digest
from assay.job import Field
from assay.program import Limits, Program, ProgramError, cost
from assay.runtime import Fault
from assay.sampling import record_indices
from assay.segment import Corrupted, Segment, now_ms, write_atomically, write_tensors
from assay.stages import program_root
from assay.state import BadTensors, Tensors, acc_root, from_bytes, from_file, state_root, tensor_root

if TYPE_CHECKING:
    from assay.exact.ranks.team import Crew, Team

if TYPE_CHECKING:  # the dispute is loaded by whoever is in one: without it an engine starts in four fifths of the time, with 9 MB less
    from assay.dispute.answers import FileParty, Inputs, OwnInputs
    from assay.dispute.proofs import Link

log = logging.getLogger("assay.work")
MAX_FROZEN = 1 << 34
"""Bytes of a file of frozen tensors."""
ALONE_WITHIN = 60.0
"""Seconds that an engine waits for another one that has its segment."""


class Engine:
    """Performs tasks under `root`; keeps the plans of the last jobs, since making one costs more than a step, and their frozen tensors
    with them, which are read and checked once a job; of several jobs only while they take less than FROZEN bytes."""

    PLANS = 4
    FROZEN = 1 << 30
    executor: type[Executor] = Executor
    link: type[Link] | None = None
    party: type[FileParty] | None = None
    """None: the honest ones."""

    def __init__(self, root: Path, crew: Crew | None = None, always: bool = False) -> None:
        """Leads a `crew`, if it has one, where a program does not fit one device; `always`: also where it does."""
        self.root, self._crew, self._always = root, crew, always
        self.lost = False
        """Whether one of its ranks is gone: nothing more can be asked of this engine."""
        self._plans: dict[bytes, Executor] = {}
        self._off_device = False
        """The device had no room: links run on the processor."""
        self._links: dict[tuple[str, int], Link] = {}
        """The disputed link of the last move, with every value that it has."""

    def perform(self, task: AnyEngineTask, progress: Progress) -> AnyEngineResult:
        """Never raises: whatever goes wrong becomes a Failure that says whose fault it is."""
        try:
            return self._attempt(task, progress)
        except (BadTensors, ProgramError) as error:
            return Failure(fault=Fault.PEER, error=str(error))
        except Corrupted as error:
            return Failure(fault=Fault.OWN, error=f"{error}; check this machine's memory and disk")
        except RankLost as error:
            self.lost = True
            return Failure(fault=Fault.OWN, error=f"a rank is lost, and this engine with it: {error}")
        except DeviceFull as error:
            return Failure(fault=Fault.OWN, error=f"{error}; --gpu-memory gives more")
        except MemoryError:
            return Failure(fault=Fault.OWN, error="out of memory; give the node more, or lower its limit so that it refuses such jobs")
        except OSError as error:
            return Failure(fault=Fault.OWN, error=f"file trouble in {self.root}: {error}; free some disk, or check the folder's rights")
        except Exception as error:
            return Failure(fault=Fault.OWN, error=f"{type(error).__name__}: {error}")

    def _attempt(self, task: AnyEngineTask, progress: Progress) -> AnyEngineResult:
        """Where a device is full, again: without what other jobs hold of it, then, if it was not asked for by name, on the processor for as long
        as this engine lives. A run goes on from the last step that is on disk."""
        while True:
            try:
                return self._dispatch(task, progress)
            except DeviceFull as error:
                others = len(self._plans) > 1
                if not others and (self._off_device or engines.chosen() != "auto"):
                    raise
                self._off_device = not others
                log.warning("%s: %s", "once more without other jobs' plans" if others else "this engine goes on on the CPU", error)
            self._plans.clear()

    def _dispatch(self, task: AnyEngineTask, progress: Progress) -> AnyEngineResult:
        match task:
            case CheckFile():
                return self._check(task)
            case RunLinks():
                return self._run(task, progress)
            case OpenLinks():
                return self._open(task)
            case OpenChunk():
                return self._chunk(task)
            case ReplayLink():
                began = now_ms()
                return msgspec.structs.replace(self._replay(task), milliseconds=now_ms() - began)
            case AnswerDispute():
                return self._answer(task)
            case ShowTree():
                from assay.dispute import parting

                inputs = self._own(task)
                return TreeShown(nodes=parting.show(task.question, inputs.ends, lambda: self._link(task, inputs, task.question.unit)))
            case PartLink():
                return self._part(task)

    # ---- jobs ------------------------------------------------------------------------------------------------------------

    def _check(self, task: CheckFile) -> FileChecked:
        program = Program.load((self.root / task.folder / "program.json").read_bytes(), Limits(flops=task.flops))
        fit = fitting(program, task.threads, task.memory, task.disk)
        if fit.bytes > task.memory:
            helped = "with activations computed again and its state in files" if fit.disk else "with activations computed again"
            raise ProgramError(f"it needs {fit.bytes} bytes of memory, {helped} as well; the limit here is {task.memory}")
        engines.admit(program, task.memory, Store(self.root, fit.window) if fit.window else None)
        micro, update = cost(program.micro), cost(program.update)
        return FileChecked(
            root=program_root(program), micro_flops=micro.flops, update_flops=update.flops,
            peak_memory=fit.bytes, on_disk=fit.disk,
            micro_leaves=program.micro_leaves, update_leaves=program.update_leaves, micro_batches=program.micro_batches, scalars=program.scalars,
            batch=tuple(Field(name=name, dtype=t.dtype, shape=t.shape) for name, t in program.batch.items()),
            frozen=_bytes(program), frozen_root=Digest(b"") if program.frozen_root is msgspec.UNSET else program.frozen_root,
        )  # fmt: skip

    def _executor(self, job: JobFiles) -> Executor:
        key = encode(job)
        if key not in self._plans:
            folder = self.root / job.folder
            program = Program.load((folder / "program.json").read_bytes())
            if program_root(program) != job.program_root:
                raise ProgramError("the program is not the one that the job names")
            data = (folder / "schedule.bin").read_bytes()
            if not job.scalars or len(data) % (4 * job.scalars):
                raise BadTensors(f"the schedule has {len(data)} bytes, which is not a whole number of rows of {job.scalars} f32")
            schedule = np.frombuffer(data, dtype="<f4").reshape(-1, job.scalars)
            if tensor_root(schedule) != job.schedule_root:
                raise BadTensors("the schedule is not the one that the job names")
            new = _bytes(program)
            while self._plans and (len(self._plans) >= self.PLANS or (new and new + self._frozen() > self.FROZEN)):
                self._plans.pop(next(iter(self._plans)))
            frozen = _read_frozen(folder / "frozen.safetensors") if new else {}
            fit = fitting(program, job.threads, job.memory, job.disk)
            store = Store(self.root, fit.window) if fit.window else None
            team = self._team(program, job, fit)
            engine = Cpu(program, job.threads, fit.effort, store) if self._off_device and team is None else team
            self._plans[key] = self.executor(program, schedule, job.micro_batches, job.threads, frozen, fit.effort, engine, store, job.memory)
        return self._plans[key]

    def _team(self, program: Program, job: JobFiles, fit: Fit) -> Team | None:
        if self._crew is None:
            return None
        if fit.window:
            log.warning("ranks do not run this program: its state has to lie in files here, and ranks would hold it in memory (give more --memory)")
            return None
        from assay.exact.ranks.choice import cut
        from assay.exact.ranks.team import Team

        found = cut(program, self._crew.size, self._always, job.threads, job.memory, fit.effort)
        return None if found is None else Team(program, found.layout, self._crew, job.threads, found.effort)

    def _frozen(self) -> int:
        return sum(_bytes(executor.program) for executor in self._plans.values())

    def _records(self, job: JobFiles, folder: Path) -> Callable[[int, int], Tensors]:
        """Reads micro-batches from the shards that lie in `folder`."""
        ends = np.cumsum(job.shard_records)
        total = int(ends[-1])
        open_files: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}

        def column(shard: int, field: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
            name = f"records-{shard}-{job.fields.index(field)}.npy"
            if name not in open_files:
                open_files[name] = np.load(folder / name, mmap_mode="r", allow_pickle=False)
            return open_files[name]

        def batch(step: int, m: int) -> Tensors:
            wanted = np.asarray(record_indices(job.order, total, step, m, job.micro_batches, job.batch), dtype=np.int64)
            shards = np.searchsorted(ends, wanted, side="right")
            out: Tensors = {}
            for field in job.fields:
                rows = [column(int(s), field)[int(i - (ends[s] - job.shard_records[s]))] for i, s in zip(wanted, shards, strict=True)]
                out[field] = np.stack(rows)
            return out

        return batch

    # ---- running and serving ---------------------------------------------------------------------------------------------

    def _segment(self, task: RunLinks | OpenLinks | OpenChunk) -> Segment:
        return self._steps(task.job, task.segment, task.start, task.stop, task.parent_root, task.keep)

    def _steps(self, job: JobFiles, name: str, start: int, stop: int, parent_root: Digest, keep: int) -> Segment:
        executor, folder = self._executor(job), self.root / name
        if not start < stop <= executor.steps:
            raise BadTensors(f"steps [{start}, {stop}) are outside the schedule's {executor.steps}")
        return Segment(folder, executor, self._records(job, folder), start, parent_root, keep)

    @staticmethod
    def _run_again(segment: Segment, stop: int) -> None:
        """As far as it is not on disk: another disk ran it, and the same bits come again."""
        if segment.done < stop:
            (segment.folder / "stop").unlink(missing_ok=True)
            segment.run(stop, lambda step, loss: None)

    def _run(self, task: RunLinks, progress: Progress) -> LinksRun:
        with alone(self.root / task.segment):
            return self._run_alone(self._segment(task), task, progress)

    @staticmethod
    def _run_alone(segment: Segment, task: RunLinks, progress: Progress) -> LinksRun:
        began = now_ms()
        computed = segment.run(task.stop, lambda step, loss: progress(StepDone(step=step, loss=loss)))
        spent = now_ms() - began
        leaves = segment.leaf_hashes(segment.done)
        return LinksRun(
            stop=segment.done, link_root=merkle.root(leaves), end_root=segment.records[-1].ends[-1],
            proof=merkle.prove(leaves, len(leaves) - 1), first_loss=segment.records[0].loss, last_loss=segment.records[-1].loss,
            computed=computed, milliseconds=spent, state=segment.path(segment.done).name,
        )  # fmt: skip

    def _open(self, task: OpenLinks) -> LinksOpened:
        with alone(self.root / task.segment):
            return self._open_alone(self._segment(task), task)

    def _open_alone(self, segment: Segment, task: OpenLinks) -> LinksOpened:
        self._run_again(segment, task.stop)
        leaves, ends = segment.leaf_hashes(task.stop), segment.ends
        opened = []
        for unit, tensors in segment.boundaries(task.units):
            name = f"boundary-{unit}.safetensors"
            write_tensors(segment.folder / name, tensors)
            places = links.named_ends(unit, task.job.micro_batches)
            proofs = tuple(merkle.prove(leaves, place) for place in places)
            opened.append(OpenedLink(unit=unit, file=name, ends=tuple(ends[place] for place in places), proofs=proofs))
        return LinksOpened(link_root=merkle.root(leaves), opened=tuple(opened))

    def _chunk(self, task: OpenChunk) -> ChunkOpened:
        from assay.dispute.proofs import chunk_proof

        segment = self._segment(task)
        self._run_again(segment, task.stop)
        place, rest = hearing.end_named(int.from_bytes(task.number, "big"), task.units, task.job.micro_batches)
        path = merkle.prove(segment.leaf_hashes(task.stop), place)
        return ChunkOpened(proof=chunk_proof(segment.end(place), rest, path))

    # ---- checking --------------------------------------------------------------------------------------------------------

    def _replay(self, task: ReplayLink) -> LinkReplayed:
        executor, folder = self._executor(task.job), self.root / task.segment
        boundary = folder / f"{'proven' if task.again else 'boundary'}-{task.unit}.safetensors"
        served = from_file(boundary, MAX_BOUNDARY, executor.kept)
        state = {name.removeprefix("state."): array for name, array in served.items() if name.startswith("state.")}
        given = {name.removeprefix("acc."): array for name, array in served.items() if name.startswith("acc.")}
        wrong = ""
        if len(state) + len(given) != len(served):
            wrong = "the served boundary has entries that are neither of the state nor of the accumulator"
        elif state_root(task.step, state, task.job.threads) != task.state_end:
            wrong = "the state that the provider served is not the one it committed to"
        elif task.m and acc_root(task.step, task.m, given, task.job.threads) != task.acc_end:
            wrong = "the accumulator that the provider served is not the one it committed to"
        batch: Tensors = {}
        if task.m < task.job.micro_batches:
            for i, field in enumerate(task.job.fields):
                batch[field] = np.load(folder / f"batch-{task.unit}-{i}.npy", allow_pickle=False)
        try:
            acc = given if task.m else executor.zero_acc(task.step, state)
            if task.m == task.job.micro_batches:
                trace = executor.trace_update(task.step, state, acc)
            else:
                trace = executor.trace_micro(task.step, task.m, state, acc, batch)
        except BadTensors as error:
            # Nothing that fits the program was committed, so nothing can be traced; what is sealed instead is opened like any trace.
            wrong = wrong or f"what the provider committed to does not fit the program: {error}"
            leaves = (merkle.sha256(b"\x14", str(error).encode()), *([task.state_end] * (task.leaves - 2)), task.end)
            write_atomically(folder / f"trace-{task.unit}.bin", b"".join(leaves))
            return LinkReplayed(agrees=False, trace_root=merkle.root_of(leaves), reason=wrong)
        write_atomically(folder / f"trace-{task.unit}.bin", b"".join(trace.leaves))
        proven = not wrong
        if proven and not task.again:  # what is served in a later round must not take its place
            (folder / f"proven-{task.unit}.safetensors").unlink(missing_ok=True)
            os.link(boundary, folder / f"proven-{task.unit}.safetensors")
        if proven and trace.leaves[-1] != task.end:
            wrong = f"its replay ends in {trace.leaves[-1].hex()[:16]}…, the provider committed {task.end.hex()[:16]}…"
        return LinkReplayed(agrees=not wrong, trace_root=trace.root, reason=wrong, proven=proven)

    def _answer(self, task: AnswerDispute) -> DisputeAnswered:
        from assay.dispute.answers import FileParty, Inputs, OwnInputs
        from assay.dispute.proofs import Link

        executor, folder = self._executor(task.job), self.root / task.segment
        inputs: Inputs
        if task.own is not None:
            segment = self._steps(task.job, task.segment, task.facts.start, task.facts.stop, task.own.parent_root, task.own.keep)
            self._run_again(segment, task.facts.stop)
            inputs = OwnInputs(segment, segment.batches)
        else:
            inputs = Inputs(folder, task.job.fields)
        with np.errstate(all="ignore"):
            party = (self.party or FileParty)(task, executor, folder, inputs, self.link or Link, self._links)
            return party.serve(task.asked) if task.asked is not None else party.answer()

    # ---- showing, and what was shown -------------------------------------------------------------------------------------

    def _own(self, task: ShowTree | PartLink) -> OwnInputs:
        from assay.dispute.answers import OwnInputs

        segment = self._steps(task.job, task.segment, task.start, task.stop, task.own.parent_root, task.own.keep)
        self._run_again(segment, task.stop)
        return OwnInputs(segment, segment.batches)

    def _link(self, task: ShowTree | PartLink, inputs: OwnInputs, unit: int) -> Link:
        """Raises BadTensors for a link that the segment does not have."""
        from assay.dispute.answers import own_link
        from assay.dispute.proofs import Link

        if unit >= links.count(task.stop - task.start, task.job.micro_batches):
            raise BadTensors(f"steps [{task.start}, {task.stop}) have no link {unit}")
        key = (task.segment, unit)
        if key not in self._links:
            self._links.clear()
            executor, folder = self._executor(task.job), self.root / task.segment
            self._links[key] = own_link(task.job, task.dataset, executor, folder, inputs, unit, self.link or Link)
        return self._links[key]

    def _part(self, task: PartLink) -> LinkParted:
        from assay.dispute import parting

        link = self._link(task, self._own(task), task.unit)
        told = {t.question: t.nodes for t in task.told}
        try:
            return LinkParted(parted=parting.part(link, task.named, task.committed, told.get))
        except parting.Unanswered as error:
            return LinkParted(question=error.question)
        except parting.Junk as error:
            return LinkParted(junk=str(error))


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other engine runs this segment meanwhile: one that has been killed may take a moment to die. Raises OSError when it does not."""
    held, until = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), time.monotonic() + ALONE_WITHIN
    try:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise OSError(f"another engine has been running {folder.name} for {ALONE_WITHIN:.0f} s") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(held)


def _read_frozen(path: Path) -> Tensors:
    try:
        return from_bytes(path.read_bytes(), MAX_FROZEN)
    except BadTensors as error:
        raise BadTensors(f"the job's frozen tensors: {error}") from None


def _bytes(program: Program) -> int:
    """Of the frozen tensors' elements."""
    return sum(t.bytes for t in program.frozen.values())


def _crew(handles: list[str]) -> Crew:
    from assay.exact.ranks.team import Crew

    return Crew([socket.socket(fileno=int(handle)) for handle in handles])


# ---- the process ---------------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """`python -m assay.work ROOT PARENT_PID [RANKS]`: serves tasks from stdin until it ends. RANKS is `auto` or `always`, a colon and the numbers of
    the sockets to the processes that it leads, with commas."""
    ranks = re.fullmatch(r"(auto|always):(\d+(?:,\d+)*)", arguments[2]) if len(arguments) == 3 else None
    if not re.fullmatch(r"\d+", "".join(arguments[1:2])) or (len(arguments) != 2 and ranks is None):
        print("usage: python -m assay.work ROOT PARENT_PID [RANKS] (started by a worker or verifier, not by hand)", file=sys.stderr)
        return 2
    die_with_parent(int(arguments[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon, which ends this in order
    engine = Engine(Path(arguments[0]), _crew(ranks[2].split(",")) if ranks else None, ranks is not None and ranks[1] == "always")
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    lines: list[bytes] = []
    ready = threading.Condition()

    def answer(message: AnyEngineResult) -> None:
        out.write(encode(message) + b"\n")
        out.flush()

    def read() -> None:
        """In a thread of its own, so that the end of stdin ends a task that is under way, too."""
        while line := sys.stdin.buffer.readline(MAX_LINE + 1):
            with ready:
                lines.append(line)
                ready.notify()
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        with ready:
            ready.wait_for(lambda: lines)
            line = lines.pop(0)
        result: AnyEngineResult
        try:
            task: AnyEngineTask = decode(line.rstrip(b"\n"), AnyEngineTask, limit=MAX_LINE)
        except Malformed as error:
            result = Failure(fault=Fault.OWN, error=f"the engine was given no task: {error}")
        else:
            result = engine.perform(task, answer)
        answer(result)
        if engine.lost:
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
