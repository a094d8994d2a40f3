"""Workers that want the price without the work."""

from __future__ import annotations

from typing import Any

import msgspec

from assay.chain import Committed
from assay.facts import SegmentFacts
from assay.ids import Digest
from assay.merkle import sha256
from assay.messages import Ack
from assay.ports import Outage
from assay.runtime import AnyEffect, AnyEvent, Asked, ChainSeen, Reply
from assay.sim.cast import Part, Self, honest_hands, worker_config
from assay.sim.hands import Hands
from assay.sim.toy import Link, Toy
from assay.tasks import RunSegment, SegmentRun, ServeUnits, UnitsServed
from assay_worker.machine import WorkerMachine
from assay_worker.state import Mine


def honest_machine(me: Self) -> WorkerMachine:
    return WorkerMachine(worker_config(me))


class OneLink(Hands):
    """Computes all but one link, and goes on from the false one as if it were right."""

    def __init__(self, *args: Any, false_link: int = 0) -> None:
        super().__init__(*args)
        self.false_link = false_link

    def run(self, toy: Toy, start: int, stop: int, state: Digest) -> list[Link]:
        done: list[Link] = []
        acc = toy.zero(start, state)
        for unit in range((stop - start) * (toy.micro_batches + 1)):
            step, m = toy.place(unit, start)
            end = toy.end(step, m, state, acc)
            if unit == self.false_link:
                end = sha256(b"false", end)
            done.append(Link(step, m, state, acc, end))
            if m == toy.micro_batches:
                state, acc = end, toy.zero(step + 1, end)
            else:
                acc = end
        return done


class Stalls(Hands):
    """Takes the segment and never has anything to show."""

    def run_segment(self, task: RunSegment) -> SegmentRun:
        raise Outage("any moment now")


class ServesGarbage(Hands):
    """Serves states that are not those it committed to."""

    def serve_units(self, task: ServeUnits) -> UnitsServed:
        run = self.disk["run", task.segment]
        self.disk["run", task.segment] = [link._replace(state=sha256(b"other", link.state)) for link in run]
        served = super().serve_units(task)
        self.disk["run", task.segment] = run
        return served


class ServesWrongProofs(Hands):
    """Serves boundaries whose link ends are not under its own commitment."""

    def serve_units(self, task: ServeUnits) -> UnitsServed:
        served = super().serve_units(task)
        bent = []
        for who, boundary in served.boundaries:
            ends = tuple(sha256(b"bent", end) for end in boundary.link_ends)
            bent.append((who, msgspec.structs.replace(boundary, link_ends=ends)))
        return UnitsServed(boundaries=tuple(bent))


class ForgesItsEnvelope(Hands):
    """Commits a checkpoint whose key nobody can open."""

    def run_segment(self, task: RunSegment) -> SegmentRun:
        run = super().run_segment(task)
        return msgspec.structs.replace(run, checkpoint=msgspec.structs.replace(run.checkpoint, envelope=bytes(80)))


class AnswersGarbage(WorkerMachine):
    """Answers every request with something that is no answer to it."""

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        effects = super().handle(event, now, seed)
        if isinstance(event, Asked):
            return [Reply(ask=effect.ask, message=Ack()) if isinstance(effect, Reply) else effect for effect in effects]
        return effects


class ShowsNothing(AnswersGarbage):
    """The same; and on chain it does not show what it is asked for."""

    def _open_chunk(self, mine: Mine, seg: SegmentFacts) -> None:
        return


class Vanishes(WorkerMachine):
    """Commits, and is never heard of again."""

    def __init__(self, me: Self) -> None:
        super().__init__(worker_config(me))
        self.gone = False

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        seen = event.event if isinstance(event, ChainSeen) else None
        mine = isinstance(seen, Committed) and seen.segment in self.state.mine
        self.gone = self.gone or mine
        return [] if self.gone else super().handle(event, now, seed)


def with_hands(kind: type[Hands], **options: Any) -> Part:
    return Part(honest_machine, lambda me: kind(me.chain, me.keys, me.options, **options))


STALLS = with_hands(Stalls)
SERVES_GARBAGE = with_hands(ServesGarbage)
SERVES_WRONG_PROOFS = with_hands(ServesWrongProofs)
FORGES_ITS_ENVELOPE = with_hands(ForgesItsEnvelope)
ANSWERS_GARBAGE = Part(lambda me: AnswersGarbage(worker_config(me)), honest_hands)
SHOWS_NOTHING = Part(lambda me: ShowsNothing(worker_config(me)), honest_hands)
VANISHES = Part(Vanishes, honest_hands)


def one_link(false_link: int) -> Part:
    return with_hands(OneLink, false_link=false_link)
