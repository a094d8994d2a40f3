"""One party's next move in a dispute: from the public record, the files of its own run (assay.engine), and the chain's time.

Nothing is remembered between moves but the last link, which would take a replay to make again: a party that was restarted anywhere
goes on from the record. What it would send is tried in the game first, so that no move leaves that the contract would revert.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assay import links, merkle
from assay.ahead import Batches
from assay.codec import decode
from assay.dispute import game, moves
from assay.dispute.checks import IllegalMove
from assay.dispute.moves import AnyMove, Facts, Moment, Open, Phase, Side, State
from assay.dispute.players import Asserter, Challenger, Voter
from assay.dispute.proofs import Data, Job, Link
from assay.dispute.record import Record, state_of
from assay.dispute.served import Given, Nodes, Wanted
from assay.engine import MAX_BOUNDARY, AnswerDispute, DisputeAnswered, JobFiles, KeptRecord
from assay.execute import Executor
from assay.ids import Digest
from assay.job import DatasetRef
from assay.segment import Corrupted, Segment
from assay.state import Tensors, from_bytes

MAX_RECORD = 1 << 24
"""Bytes of a kept record: one that is larger fits no transaction."""


class RecordWanted(Exception):
    """A record of the dataset must be shown, and the hands, which hold the keys, have not put it there."""

    def __init__(self, number: int) -> None:
        super().__init__(f"record {number} is wanted")
        self.number = number


class KeptData(Data):
    """The records that lie in `folder` one by one: an engine has no keys, and a dispute asks for the salt of a single record."""

    def __init__(self, dataset: DatasetRef, order: Digest, batch: int, folder: Path) -> None:
        super().__init__(dataset, order, batch, self._no_shard)
        self.folder = folder

    @staticmethod
    def _no_shard(at: int) -> tuple[Tensors, bytes]:
        raise AssertionError(f"shard {at} is read by the hands alone")

    def record(self, number: int) -> tuple[int, Digest, bytes, tuple[Digest, ...]]:
        path = self.folder / f"record-{number}.json"
        if not path.exists():
            raise RecordWanted(number)
        kept = decode(path.read_bytes(), KeptRecord, limit=MAX_RECORD)
        return kept.shard, kept.salt, kept.data, kept.path


class Inputs:
    """What a verifier replayed a link from, and found to be what was committed to."""

    def __init__(self, folder: Path, fields: tuple[str, ...]) -> None:
        self.folder, self.fields = folder, fields

    def before(self, unit: int) -> Tensors:
        return from_bytes((self.folder / f"proven-{unit}.safetensors").read_bytes(), MAX_BOUNDARY)

    def batch(self, unit: int) -> Tensors:
        return {f: np.load(self.folder / f"batch-{unit}-{i}.npy", allow_pickle=False) for i, f in enumerate(self.fields)}


class OwnInputs(Inputs):
    """What a provider ran its links from; `segment` has been run to its end."""

    def __init__(self, segment: Segment, batches: Batches) -> None:
        self.segment, self.batches = segment, batches
        self.ends = segment.ends

    def before(self, unit: int) -> Tensors:
        ((_, tensors),) = self.segment.boundaries([unit])
        return tensors

    def batch(self, unit: int) -> Tensors:
        offset, m = links.place(unit, self.segment.executor.micro_batches)
        return self.batches(self.segment.start + offset, m)


class Party:
    """One side of one dispute, at one time: what it does now. Subclasses say where its own run of the disputed link comes from."""

    def __init__(
        self, record: Record, facts: Facts, side: Side, at: Moment, opening: Open | None, last: bool, served: Sequence[Given] | None = None
    ) -> None:  # fmt: skip
        self.record, self.facts, self.side, self.at = record, facts, side, at
        self.opening, self.last = opening, last
        self.asks = served is not None
        self.served = {given.wanted: given.nodes for given in served or ()}

    def link(self, state: State) -> Link:
        """This party's own run of the disputed link."""
        raise NotImplementedError

    def asserter(self, state: State) -> Asserter:
        raise NotImplementedError

    def is_wrong(self, state: State) -> bool:
        """Whether the asserter's own run shows that what it asserted is wrong. Asked before it shows a trace."""
        raise NotImplementedError

    def answer(self) -> DisputeAnswered:
        """Raises Corrupted when this machine's computations contradict each other, BadTensors for inputs that are none."""
        state = state_of(self.record, self.facts)
        move, why = due(state, self.side, self.at.time) if self.record.outcome is None else (None, "the dispute is resolved")
        if move is None and not why:
            try:
                return self.best(state)
            except RecordWanted as wanted:
                return DisputeAnswered(move=None, shown=moves.shown(state), why=str(wanted), record=wanted.number)
            except Corrupted:
                if not (self.last and may_concede(state)):
                    raise
                move, why = moves.Concede(), ""
        return DisputeAnswered(move=move, shown=moves.shown(state), why=why)

    def serve(self, wanted: Wanted) -> DisputeAnswered:
        """What the challenger asks for, of what this side has asserted."""
        state = state_of(self.record, self.facts)
        asked = self.record.outcome is None and self.side is Side.ASSERTER
        nodes = self.asserter(state).serve(state, wanted) if asked else None
        return DisputeAnswered(move=None, shown=moves.shown(state), why="", nodes=nodes)

    def source(self, _: State, wanted: Wanted) -> Nodes | None:
        return self.served.get(wanted)

    def best(self, state: State) -> DisputeAnswered:
        shown, wanted, junk = moves.shown(state), None, False
        if may_concede(state) and self.is_wrong(state):
            return DisputeAnswered(move=moves.Concede(), shown=shown, why="")
        last = self.record.moves[-1].move if self.record.moves else None
        if self.side is Side.ASSERTER:
            move = self.asserter(state).move(state, last)
        else:
            challenger = Challenger(lambda _: self.link(state), (), self.opening, self.source if self.asks else None)
            move = challenger.move(state, last)
            wanted, junk = challenger.wanted, challenger.junk
        if move is None:
            why = f"in {state.phase} this node's own run has nothing to say against what was shown"
            return DisputeAnswered(move=None, shown=shown, why=why)
        try:
            game.apply(state, move, self.at)
        except IllegalMove as error:
            return DisputeAnswered(move=None, shown=shown, why=f"its {type(move).__name__} in {state.phase} would be refused: {error}")
        return DisputeAnswered(move=move, shown=shown, why="", wanted=wanted, junk=junk)


class FileParty(Party):
    """Runs the link from files. `kept` holds the link of the last move; `make` is what runs a link (a liar's is another)."""

    def __init__(
        self, task: AnswerDispute, executor: Executor, folder: Path, inputs: Inputs, make: type[Link], kept: dict[tuple[str, int], Link]
    ) -> None:
        super().__init__(task.record, task.facts, task.side, Moment(task.block + 1, task.time), task.opening, task.last, task.served)
        self.task, self.executor, self.folder, self.inputs = task, executor, folder, inputs
        self.make, self.kept = make, kept

    def link(self, state: State) -> Link:
        key = (self.task.segment, state.unit)
        if key not in self.kept:
            self.kept.clear()
            task = self.task
            job = _job(task.job, task.dataset, self.executor, self.folder)
            self.kept[key] = _link(job, self.inputs, state.unit, state.step, state.m, self.make)
        return self.kept[key]

    def asserter(self, state: State) -> Asserter:
        if isinstance(self.inputs, OwnInputs):
            return Asserter(lambda _: self.link(state), self.inputs.ends)
        return Voter(lambda _: self.link(state), dict(self.task.named))

    def is_wrong(self, state: State) -> bool:
        """Another trace than it revealed; other link ends than it committed to, since its disk was lost and the segment run again; or, by
        both routes, another end of the disputed link."""
        if state.revealed is not None:
            return self.link(state).trace.root != state.revealed.trace_root
        assert isinstance(self.inputs, OwnInputs)
        if merkle.root_of(self.inputs.ends) != state.facts.link_root:
            return True
        if state.phase is Phase.LINKS:
            return False
        link, committed = self.link(state), self.inputs.ends[state.unit]
        if link.end_root == committed:
            return False
        if link.is_update:
            again = self.executor.trace_update(link.step, link.state, link.acc)
        else:
            again = self.executor.trace_micro(link.step, link.m, link.state, link.acc, link.batch)
        if again.leaves[-1] == committed:
            self.kept.clear()
            raise Corrupted(f"link {state.unit} of {self.task.segment} comes out in two ways")
        return True


def own_link(
    files: JobFiles, dataset: DatasetRef, executor: Executor, folder: Path, inputs: OwnInputs, unit: int, make: type[Link]
) -> Link:  # fmt: skip
    """A link of the segment that `inputs` are of."""
    offset, m = links.place(unit, executor.micro_batches)
    return _link(_job(files, dataset, executor, folder), inputs, unit, inputs.segment.start + offset, m, make)


def _job(files: JobFiles, dataset: DatasetRef, executor: Executor, folder: Path) -> Job:
    return Job(executor.program, executor.schedule, KeptData(dataset, files.order, files.batch, folder), executor.frozen)


def _link(job: Job, inputs: Inputs, unit: int, step: int, m: int, make: type[Link]) -> Link:
    before = inputs.before(unit)
    batch = {} if m == job.program.micro_batches else inputs.batch(unit)
    return make(job, step, m, part(before, "state."), part(before, "acc.") if m else None, batch)


def part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def due(state: State, side: Side, time: int) -> tuple[AnyMove | None, str]:
    """A Timeout where the other side is late; else why it is not this side's move, or nothing: it is."""
    if state.phase is Phase.RESOLVED:
        return None, "the dispute is resolved"
    late = game.left(state, time) < 0
    if state.turn is not side:
        return (moves.Timeout(), "") if late else (None, f"it is the {state.turn}'s turn")
    return None, f"the time of the {side} is over" if late else ""


def may_concede(state: State) -> bool:
    """Before it shows a trace an asserter may."""
    return state.turn is Side.ASSERTER and state.phase in (Phase.LINKS, Phase.TRACED)
