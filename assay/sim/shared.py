"""A node of a large simulation: the same core and machine as a `SimNode`, on the facts that its reader shares (assay.sim.reader).

It keeps no journal: what it knows outlives a crash as it is. A journal that is replayed leads to the same state, which the small
simulations show at every place where a node can be killed; to write and keep ten thousand journals would show it no better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from assay import runtime
from assay.facts import Facts
from assay.ids import SegmentId
from assay.messages import JobAnnouncement
from assay.runtime import AnyEffect, AnyEvent, ChainSeen, Core, Result, Wake
from assay.sim.node import SimNode

if TYPE_CHECKING:
    from assay.sim.reader import Reader


class _Core(Core):
    """Without a journal; what comes from the chain comes once (the reader sees to that)."""

    def step(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        if isinstance(event, Result) and self.outstanding.pop(event.key, None) is None:
            return []
        return self._fresh(self.machine.handle(event, now, seed))


class SharedNode(SimNode):
    reader: Reader
    gone = False
    """It left for good."""

    def _new_disk(self) -> None:
        super()._new_disk()
        self.kept: Core | None = None
        """The core, which outlives a crash; None before the first life."""
        self.missed: list[ChainSeen] = []
        """What the chain told while it was down."""

    @property
    def facts(self) -> Facts | None:
        """Of its machine; a scheduler has none."""
        facts = getattr(self.kept.machine.state, "facts", None) if self.kept is not None else None
        return facts if isinstance(facts, Facts) else None

    def needs(self, segment: SegmentId) -> bool:
        """Whether it still has to do with an ended segment, or has yet to hear of its end."""
        return bool(self.missed) or (self.facts is not None and segment in self.facts.pinned)

    def _see_with(self, facts: Facts) -> None:
        """The machine's facts from now on, with its own pins."""
        assert self.kept is not None
        if self.facts is not None:
            facts.pinned, self.kept.machine.state.facts = self.facts.pinned, facts

    # ---- life and death --------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        if not self.gone:
            super().boot()

    def _boot(self) -> None:
        self.see_head()
        if self.kept is None:
            self.kept = _Core(self.make(), self.journal)
            self._see_with(self.reader.view())
        self.core = self.kept
        for effect in list(self.core.outstanding.values()):
            self.start(effect)
        self.step(runtime.Started())
        missed, self.missed = self.missed, []
        for seen in missed:
            self.step(seen)
        self._see_with(self.reader.view())

    def kill(self, wipe: bool = False) -> None:
        super().kill(wipe)
        if self.kept is not None:
            self._see_with(self._own_facts(self.kept))

    def _own_facts(self, core: Core) -> Facts:
        """A copy of what the facts say of the jobs that this node knows, as they are now."""
        shared = self.reader.facts
        known = [job for job in core.machine.state.jobs if job in shared.jobs]
        segments = {seg.segment: copied(seg) for job in known for seg in shared.of_job(job)}
        jobs, by_job = {job: copied(shared.jobs[job]) for job in known}, {job: list(shared.by_job.get(job, ())) for job in known}
        return Facts(people=shared.people, jobs=jobs, segments=segments, by_job=by_job)

    def leave(self) -> None:
        """For good, with nothing said to anybody."""
        self.kill()
        self.gone, self.kept = True, None
        self.hands.wipe()

    def act(self, life: int, action: Callable[[], None]) -> None:
        """Nobody is killed at a chosen place here."""
        if self.life == life and self.up:
            action()

    def point(self, when: str, effect: Any) -> None:
        pass

    # ---- events in -------------------------------------------------------------------------------------------------------

    def see_head(self) -> None:
        self.now, self.head = self.reader.now, self.reader.head

    def deliver(self) -> None:
        """The reader tells what there is."""

    def told(self, seen: ChainSeen) -> None:
        if self.up:
            self.step(seen)
        elif self.kept is not None:
            self.missed.append(seen)

    def woken(self, wake: Wake) -> None:
        if self.up and self.core.outstanding.get(wake.key) is wake:
            self.step(runtime.Woke(key=wake.key))

    def step(self, event: AnyEvent) -> None:
        reader = self.reader
        self.now, self.head = reader.now, reader.head
        for effect in self.core.step(event, reader.now, next(self.world.seeds)):
            self.start(effect)

    def hear(self, event: runtime.Heard) -> None:
        if isinstance(event.message, JobAnnouncement):
            self.reader.bid(event.message.job, self)
        self.step(event)

    def sleep(self, wake: Wake) -> None:
        self.world.chain.want(wake.at, wake.block)
        self.reader.wake(self, wake)


def copied(value: Any) -> Any:
    """A struct with lists of its own."""
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    return msgspec.structs.replace(value, **{name: list(field) for name, field in fields.items() if isinstance(field, list)})
