"""What a role's machine is told and remembers, how it emits effects, and how it tries again what met an outage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from assay.codec import Message
from assay.dispute.served import Given, Wanted
from assay.facts import Facts
from assay.ids import Address, Cid, Digest, DisputeId, JobId, PeerId, SegmentId
from assay.job import JobSpec
from assay.role.books import Books
from assay.runtime import (
    AnyEffect,
    AnyEvent,
    Done,
    Durable,
    IllegalEvent,
    Note,
    Result,
    Wake,
    Woke,
)
from assay.tasks import MoveMade, Outcome

SPEC_LIMIT = 8 << 20
SLACK = 1 << 20
"""Bytes that a blob may have over what its document says (headers)."""
PAUSE = 15
"""Seconds before what met an outage, or a call that did not help, is tried again."""
NUDGES = 100
"""Tries of a call that anyone may make; the pause between them grows, so that they span a day."""


class RoleConfig(Message, frozen=True, kw_only=True):
    """What its owner told a node. Limits in bytes, operations of one link, seconds."""

    account: Address
    encryption_key: bytes
    peer: PeerId
    disputes: Address = Address("")
    """Account of the Disputes contract; empty where the network has none."""
    max_blob: int = 1 << 30
    max_memory: int = 4 << 30
    max_flops: int = 1 << 46
    key_patience: int = 20
    """A key that has not come after this is asked for."""
    withdraw_at: int = 0
    """Credit that is pulled as soon as it is reached; 0: only when ordered."""


class JobEntry(msgspec.Struct):
    """What this node knows of a job's document and program."""

    stage: str = "fetching"
    spec: JobSpec | None = None
    near: list[PeerId] = []
    waiting: list[Cid] = []
    reason: str = ""
    micro_flops: int = 0
    update_flops: int = 0
    """Operations of a micro-batch and of an update."""
    peak_memory: int = 0
    """Bytes that a run takes."""


class Needs(msgspec.Struct):
    cids: list[Cid]
    keys: list[Digest]
    records: dict[Digest, int] = {}
    """Of `keys` those of shards of which some records are to be read, and no more: their keys are enough. And how many these are."""
    places: tuple[tuple[int, int], ...] = ()
    """(step, micro-batch) of what is to be read."""
    checks: int = 0
    """How often it was looked whether they are here."""


class Shares(msgspec.Struct):
    """Of one key that several holders share, by their places (assay.role.holding)."""

    have: dict[int, list[bytes]] = {}
    """What they have given: a share, or the parts of some records in one or several answers."""
    false: list[int] = []
    asked: list[int] = []
    silent: list[int] = []
    """Of those that were asked: who has not answered."""
    gathering: bool = False
    kept: bool = False
    """Keys of records were made of it; whether they are true is looked at when all shards are here."""


class Play(msgspec.Struct):
    """A dispute that this node is a party to."""

    turn: int = -1
    """Counted as in facts.DisputeFacts.turns."""
    tries: int = 0
    """Of this turn's move."""
    equipped: bool = False
    """What the moves are made from is here."""
    served: list[Given] = []
    """As its challenger: what it has been served in this turn."""
    made: MoveMade | None = None
    """The move that is sent where no answer comes to what it has asked for."""
    asks: int = 0
    """In this turn."""
    asking_until: int = 0
    """When it has asked long enough in this turn."""
    distrusted: bool = False
    """It has been served junk, and asks for nothing any more."""
    given: list[Wanted] = []
    """As its asserter: what it has served in this turn."""
    gives: int = 0
    """Requests in this turn for which it went to its files."""
    giving: Wanted | None = None
    waiting: list[int] = []
    """Requests that wait for `giving`."""


class RoleState(msgspec.Struct):
    facts: Facts = msgspec.field(default_factory=Facts)
    jobs: dict[JobId, JobEntry] = {}
    needs: dict[SegmentId, Needs] = {}
    keys: set[Digest] = set()
    """Ids of the symmetric keys this node has stored."""
    shares: dict[str, Shares] = {}
    """By the key, in hex; of a key of which a segment wants the records alone, by `segment/key`."""
    again: dict[str, AnyEffect] = {}
    credit: int = 0
    dispute_credit: int = 0
    withdrawals: int = 0
    settling: dict[SegmentId, int] = {}
    """Segments whose settlement was asked for lately, and when."""
    plays: dict[DisputeId, Play] = {}
    books: Books = msgspec.field(default_factory=Books)
    speed: int = 0
    """Operations a second in the last run or replay that was long enough to tell; 0 before the first."""
    measured: int = 0
    """Operations of the longest one."""


REACH = 10
"""A run tells of what is up to so many times as long."""
Handler = Callable[[Any, list[str]], None]


class Base:
    """Collects what the methods emit while one event is handled."""

    state: Any

    def __init__(self, config: RoleConfig) -> None:
        self.base = config
        self._out: list[AnyEffect] = []
        self._now = 0
        self._seed = b""
        self._kinds: dict[str, Handler] = {"again": self._on_again}

    # ---- for the role to say ---------------------------------------------------------------------------------------------

    def _chain(self, event: Any) -> None:
        """A chain event; the facts have it already."""
        raise NotImplementedError

    def _other(self, event: AnyEvent) -> None:
        """Started, Asked, Heard, Ordered."""
        raise NotImplementedError

    def _job_ready(self, job: JobId) -> None:
        raise NotImplementedError

    def _job_refused(self, job: JobId, reason: str) -> None:
        raise NotImplementedError

    def _supplied(self, segment: SegmentId) -> None:
        """All that the segment needed is there."""
        raise NotImplementedError

    def _settle_down(self) -> None:
        """After every event."""

    # ---- emitting --------------------------------------------------------------------------------------------------------

    def _do(self, effect: AnyEffect) -> None:
        self._out.append(effect)

    def _note(self, topic: str, text: str, **data: str | int | bool) -> None:
        self._out.append(Note(topic=topic, text=text, data=data))

    def _later(self, effect: Durable) -> None:
        """Once more after a pause."""
        self.state.again[effect.key] = effect
        self._do(Wake(key=f"again:{effect.key}", at=self._now + PAUSE))

    def _on_again(self, event: Woke, rest: list[str]) -> None:
        effect = self.state.again.pop(":".join(rest), None)
        if effect is not None:
            self._do(effect)

    def _measured(self, operations: int, milliseconds: int) -> None:
        """What takes next to no time tells how long an engine needs to start, and nothing of its speed."""
        if operations and milliseconds and REACH * operations >= self.state.measured:
            self.state.speed = max(1, operations * 1000 // milliseconds)
            self.state.measured = max(self.state.measured, operations)

    def _seconds(self, operations: int) -> int:
        """About how long they take here; 0 while that is not known, as of what is far more than was ever run."""
        return operations // self.state.speed if self.state.speed and operations <= REACH * self.state.measured else 0

    def _drop_again(self, segment: SegmentId) -> None:
        for key in [key for key in self.state.again if key.split(":")[1] == str(segment)]:
            del self.state.again[key]

    def _outcome(self, event: Result, kind: type[Outcome]) -> Any:
        if isinstance(event, Done) and isinstance(event.outcome, kind):
            return event.outcome
        raise IllegalEvent(f"{type(event).__name__} of {event.key!r} where {kind.__name__} is due")
