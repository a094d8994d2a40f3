"""A node of a large simulation: the same core and machine as a `SimNode`, on the facts that its reader shares (assay.sim.reader).

It keeps no journal: what it knows outlives a crash as it is. A journal that is replayed leads to the same state, which the small
simulations show at every place where a node can be killed; to write and keep ten thousand journals would show it no better.
"""

from __future__ import annotations

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
    def step(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        if isinstance(event, Result) and event.key not in self.outstanding:
            return []
        return self._apply(event, now, seed)


class SharedNode(SimNode):
    core: Core | None = None
    reader: Reader
    gone = False
    """It left for good."""

    def _new_disk(self) -> None:
        super()._new_disk()
        self.core, self.missed = None, []
        """What the chain told while it was down."""

    missed: list[ChainSeen]

    @property
    def pinned(self) -> set[SegmentId]:
        facts = getattr(self.core.machine.state, "facts", None) if self.core is not None else None
        return facts.pinned if isinstance(facts, Facts) else set()

    # ---- life and death --------------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        self.see_head()
        if self.core is None:
            self.core = _Core(self.make(), self.journal)
            if hasattr(self.core.machine.state, "facts"):
                self.core.machine.state.facts = self.reader.view()
        for effect in list(self.core.outstanding.values()):
            self.start(effect)
        self.step(runtime.Started())
        missed, self.missed = self.missed, []
        for seen in missed:
            self.step(seen)
        if hasattr(self.core.machine.state, "facts"):
            pinned, self.core.machine.state.facts = self.pinned, self.reader.view()
            self.core.machine.state.facts.pinned = pinned

    def kill(self, wipe: bool = False) -> None:
        super().kill(wipe)
        if self.core is not None and hasattr(self.core.machine.state, "facts"):
            self.core.machine.state.facts = self._own_facts()

    def _own_facts(self) -> Facts:
        """A copy of what the facts say of the jobs that this node knows, as they are now."""
        assert self.core is not None
        shared = self.reader.facts
        known = [job for job in self.core.machine.state.jobs if job in shared.jobs]
        segments = {seg.segment: copied(seg) for job in known for seg in shared.of_job(job)}
        jobs, by_job = {job: copied(shared.jobs[job]) for job in known}, {job: list(shared.by_job.get(job, ())) for job in known}
        return Facts(people=shared.people, jobs=jobs, segments=segments, by_job=by_job, pinned=self.pinned)

    def leave(self) -> None:
        """For good, with nothing said to anybody."""
        self.kill()
        self.gone, self.core = True, None
        self.hands.wipe()

    # ---- events in -------------------------------------------------------------------------------------------------------

    def see_head(self) -> None:
        self.now, self.head = self.reader.now, self.reader.head

    def deliver(self) -> None:
        """The reader tells what there is."""

    def told(self, seen: ChainSeen) -> None:
        if self.up:
            self.see_head()
            self.act(self.life, lambda: self.step(seen))
        elif not self.gone and self.core is not None:
            self.missed.append(seen)

    def woken(self, wake: Wake) -> None:
        if self.up and self.core is not None and self.core.outstanding.get(wake.key) is wake:
            self.see_head()
            self.act(self.life, lambda: self.step(runtime.Woke(key=wake.key)))

    def step(self, event: AnyEvent) -> None:
        assert self.core is not None
        for effect in self.core.step(event, self.now, self.world.seed_of_step()):
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
