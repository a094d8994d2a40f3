"""A job to which everything happens that can, on the chain in memory: what tests of the audit read and forge."""

from __future__ import annotations

import ast
import asyncio
import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import pytest
from ports.chain_world import NO, WINDOW, YES, MemoryWorld

from assay import audit
from assay.audit.findings import Sheet
from assay.audit.record import Record
from assay.chain import (
    Activate,
    Assigned,
    CancelJob,
    ChunkAsked,
    ClearBond,
    CloseJob,
    Deposit,
    Draw,
    Drawn,
    FundJob,
    JobPosted,
    Lapse,
    LeaveSeat,
    Redraw,
    TakeSeat,
    Terms,
    Unbond,
    VoidSegment,
    Withdraw,
    WithdrawStake,
)
from assay.ids import JobId, SegmentId

FOLDER = Path(audit.__file__).parent


class Story(NamedTuple):
    record: Record
    job: JobId
    settled: SegmentId
    """The first segment that settled, in its second round."""


async def _round(world: MemoryWorld, segment: SegmentId, *votes: tuple[bool, bytes] | None) -> None:
    """A round in which the drawn, in their order, vote so (None: seals nothing); receipts come from the first two."""
    drawn = await world.drawn(segment)
    names = [world.name(who) for who in drawn.verifiers]
    await world.keys(segment, *names)
    await world.served(segment, drawn.round, tuple(names[:2]))
    made = {name: vote for name, vote in zip(names, votes, strict=False) if vote is not None}
    await world.vote(drawn, made)
    await world.mine(2)
    for name, (_, flavour) in made.items():
        await world.do("stranger", await world.openings(drawn, name, flavour, await _terms(world, segment)))


async def _terms(world: MemoryWorld, segment: SegmentId) -> Terms:
    events = await world.events()
    job = next(event.job for event in events if isinstance(event, Assigned) and event.segment == segment)
    return next(event.terms for event in events if isinstance(event, JobPosted) and event.job == job)


async def _silent(world: MemoryWorld, segment: SegmentId, *keyed: str) -> None:
    """A round that nobody is served in."""
    await world.drawn(segment)
    await world.keys(segment, *keyed)
    await world.later(WINDOW + 1)
    await world.do("stranger", Redraw(segment=segment))


async def _shown(world: MemoryWorld, job: JobId, parent: SegmentId) -> None:
    world.whole = 2
    segment = await world.committed(job, parent, 2, 4)
    for _ in (0, 1):
        await _silent(world, segment, "vera", "vic", "val", "bob")
    await world.mine(2)
    drawn, asked = await world.last(Drawn), await world.last(ChunkAsked)
    await world.do("alice", world.shown(drawn, 2, await world.chains["alice"].block_hash(asked.at_block)))
    name = world.name(drawn.verifiers[0])
    await world.vote(drawn, {name: NO})
    await world.mine(2)
    await world.do("stranger", await world.openings(drawn, name, b"right", await _terms(world, segment), agrees=False))
    world.whole = None


async def _play(world: MemoryWorld) -> Story:
    await world.populate()
    await world.do("bob", TakeSeat())
    await world.do("vic", TakeSeat())
    await world.do("vic", LeaveSeat(seat=2))
    other = await world.post(steps=2)
    job = await world.post(budget=50_000_000, price_cap=1_500_000, update_weight=20, params={"openings": 8})
    await world.do("client", FundJob(job=job, amount=5))
    # nobody starts; with keys it costs; who starts and does not finish pays
    early = await world.assign(job, 0, 0, 2)
    await world.later(WINDOW + 1)
    await world.do("stranger", Lapse(segment=early))
    keyed = await world.assign(job, 0, 0, 2)
    await world.keys(keyed, "alice")
    await world.later(WINDOW + 1)
    await world.do("stranger", Lapse(segment=keyed))
    idle = await world.assign(job, 0, 0, 2)
    await world.do("alice", Activate(segment=idle))
    await world.later(WINDOW + 1)
    await world.do("stranger", Lapse(segment=idle))
    # a prefix, undecided at first, then settled
    settled = await world.committed(job, 0, 0, 2, end=1)
    await _round(world, settled, YES, (True, b"other"), NO)
    await _round(world, settled, YES, YES, None)
    await world.settled(settled)
    # the rest: not served, and the bond comes back later; keys withheld; too few verifiers
    silent = await world.committed(job, settled, 1, 2, by="bob")
    for _ in (0, 1):
        await _silent(world, silent, "vera", "vic", "val", "bob")
    await world.later(WINDOW + 1)
    await world.do("stranger", Redraw(segment=silent))  # nor shows its provider what it is asked for
    await world.later(WINDOW + 1)
    await world.do("stranger", ClearBond(segment=silent))
    keyless = await world.committed(job, settled, 1, 2)
    for _ in (0, 1):
        await _silent(world, keyless)
    poor = await world.committed(job, settled, 1, 2)
    for name in ("vera", "val", "vic"):
        await world.do(name, Unbond(amount=198_500_000))
    await world.do("bob", Unbond(amount=150_000_000))
    await world.later(WINDOW + 1)
    await world.do("stranger", Draw(segment=poor))
    await world.later(3601)
    for name in ("vera", "val", "vic"):
        await world.do(name, WithdrawStake())
        await world.do(name, Deposit(amount=100_000_000))
    # a lie, and what was built on it
    lie = await world.committed(job, settled, 1, 2)
    child = await world.committed(job, lie, 2, 4)
    await _round(world, lie, NO, YES, NO)
    await world.do("stranger", VoidSegment(segment=child))
    # another job's segment, then ours: settled; and one that no verifier signs for, whose provider shows its chunk, and is met by a no
    theirs = await world.assign(other, 0, 0, 2)
    late = await world.committed(job, settled, 1, 2)
    await _round(world, late, YES, None, YES)
    await world.settled(late)
    await _shown(world, job, late)
    await world.later(WINDOW + 1)
    await world.do("stranger", Lapse(segment=theirs))
    await world.do("client", CancelJob(job=job))
    await world.do("stranger", CloseJob(job=job))
    for name in ("client", "alice", "vera"):
        await world.do(name, Withdraw())
    return Story(await world.record(job), job, settled)


def story() -> Story:
    return asyncio.run(_play(MemoryWorld()))



class Sites:
    """Where checks of the audit's modules failed: every place that can say "this is false" has to be seen saying it."""

    NAMES = frozenset({"check", "expect_state", "in_time", "after", "window", "signed", "owes", "charges", "call_of"})

    def __init__(self, *modules: str) -> None:
        self.files = {str(FOLDER / f"{name}.py"): name for name in modules}
        self.seen: set[tuple[str, int]] = set()

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        check = Sheet.check

        def noted(sheet: Sheet, name: str, ok: bool | None, text: str) -> bool:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None and not ok:
                if frame.f_code.co_filename in self.files:
                    self.seen.add((frame.f_code.co_filename, frame.f_lineno))
                frame = frame.f_back
            return check(sheet, name, ok, text)

        monkeypatch.setattr(Sheet, "check", noted)

    def unseen(self) -> list[str]:
        """Places that never said no."""
        return [
            f"{self.files[file]}:{call.lineno} {ast.unparse(call)[:140]}"
            for file in self.files
            for call in ast.walk(ast.parse(Path(file).read_text()))
            if isinstance(call, ast.Call) and self._says(call) and not any(file == f and call.lineno <= at <= _end(call) for f, at in self.seen)
        ]

    def _says(self, call: ast.Call) -> bool:
        name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr if isinstance(call.func, ast.Attribute) else ""
        book = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Attribute) and call.func.value.attr == "books"
        always = len(call.args) > 1 and isinstance(call.args[1], ast.Constant) and call.args[1].value is True
        return name in self.NAMES and not book and not always


def _end(call: ast.Call) -> int:
    return call.end_lineno or call.lineno
