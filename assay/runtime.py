"""Events in, effects out: what every role's machine is made of, and the core that keeps one over crashes.

A machine is pure: `handle(event, now, seed)` changes its `state` (a msgspec.Struct) and returns effects; it has no clock, no
randomness and no I/O of its own. The core journals an event *before* the machine sees it and before any effect of it is
performed. A durable effect carries a key; its result comes back as an event with the same key, journaled like any other. After a
crash the core replays the journal: the machine is where it was, and the durable effects without a result are performed again.
So every effect must be harmless to repeat: calls to the chain are sent once per key (assay.ports.Chain), fetches and tasks are
idempotent. Ephemeral effects (replies, gossip, notes) are not repeated.

The same core runs under asyncio (assay.daemon) and on a simulated clock (assay.sim).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from assay.chain import AnyCall, AnyChainEvent
from assay.codec import Message, decode, encode
from assay.ids import Cid, PeerId
from assay.messages import AnyGossip, AnyReply, AnyRequest
from assay.ports import Journal, Row
from assay.tasks import AnyOutcome, AnyTask

# ---- events --------------------------------------------------------------------------------------------------------------


class Event(Message, frozen=True, kw_only=True):
    """Something that happened."""


class Started(Event, frozen=True, kw_only=True):
    """The daemon came up (again)."""


class ChainSeen(Event, frozen=True, kw_only=True):
    """A chain event is final."""

    event: AnyChainEvent


class Asked(Event, frozen=True, kw_only=True):
    """A peer sent a request; the machine must answer with Reply(ask=…)."""

    ask: int
    peer: PeerId
    message: AnyRequest


class Heard(Event, frozen=True, kw_only=True):
    peer: PeerId
    message: AnyGossip


class Ordered(Event, frozen=True, kw_only=True):
    """The node's owner wants something (from the command line): `drain`, `withdraw`, ..."""

    order: str


class Result(Event, frozen=True, kw_only=True):
    """What came of the durable effect `key`."""

    key: str


class Woke(Result, frozen=True, kw_only=True):
    """The time of a Wake has come."""


class Sent(Result, frozen=True, kw_only=True):
    block: int


class Answered(Result, frozen=True, kw_only=True):
    message: AnyReply


class Fetched(Result, frozen=True, kw_only=True):
    pass


class Done(Result, frozen=True, kw_only=True):
    outcome: AnyOutcome


class Fault(enum.StrEnum):
    """Whose fault a failure was."""

    REFUSED = "refused"
    """The contract or the peer said no."""
    OUTAGE = "outage"
    """Nobody answered for as long as we were willing to wait."""
    PEER = "peer"
    """What came is wrong."""
    OWN = "own"
    """Ours."""


class TaskFailed(Exception):
    """Raised by whoever performs a task that cannot be done; becomes Failed."""

    def __init__(self, fault: Fault, error: str) -> None:
        super().__init__(error)
        self.fault = fault
        self.error = error


class Failed(Result, frozen=True, kw_only=True):
    fault: Fault
    error: str


AnyEvent = Started | ChainSeen | Asked | Heard | Ordered | Woke | Sent | Answered | Fetched | Done | Failed

# ---- effects -------------------------------------------------------------------------------------------------------------


class Effect(Message, frozen=True, kw_only=True):
    """Something to be done."""


class Durable(Effect, frozen=True, kw_only=True):
    key: str


class Wake(Durable, frozen=True, kw_only=True):
    """Woke(key) when the chain's time is at least `at` and its head at least `block`."""

    at: int = 0
    block: int = 0


class Send(Durable, frozen=True, kw_only=True):
    call: AnyCall


class Ask(Durable, frozen=True, kw_only=True):
    """A request to a peer, repeated until it answers or `patience` seconds have passed."""

    peer: PeerId
    message: AnyRequest
    patience: int = 30


class Fetch(Durable, frozen=True, kw_only=True):
    """Brings a blob into the local store, trying until `patience` seconds have passed."""

    cid: Cid
    limit: int
    near: tuple[PeerId, ...] = ()
    patience: int = 600


class Do(Durable, frozen=True, kw_only=True):
    task: AnyTask


class Cancel(Effect, frozen=True, kw_only=True):
    """Stop performing the durable effect `key`; no result of it is wanted."""

    key: str


class Reply(Effect, frozen=True, kw_only=True):
    ask: int
    message: AnyReply


class Gossip(Effect, frozen=True, kw_only=True):
    message: AnyGossip


class Note(Effect, frozen=True, kw_only=True):
    """A line in the node's log. `topic` is one word that programs can look for."""

    topic: str
    text: str
    data: dict[str, str | int | bool] = msgspec.field(default_factory=dict)


AnyEffect = Wake | Send | Ask | Fetch | Do | Cancel | Reply | Gossip | Note


class IllegalEvent(Exception):
    """An event came in a state that has no place for it: our fault, or a contract that is not the one we know."""


class Machine(Protocol):
    """The logic of a role."""

    state: Any
    """A mutable msgspec.Struct, all there is to remember."""

    SOFT: tuple[type[Message], ...]
    """Requests and gossip that change nothing that must survive a crash: they are not journaled."""

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]: ...


SNAPSHOT_EVERY = 500
"""Rows; bounds the time that a restart takes."""


class _Snapshot(msgspec.Struct):
    state: msgspec.Raw
    outstanding: list[AnyEffect]
    cursor: tuple[int, int]


class Core:
    """One machine with its journal. `step` takes an event and returns the effects to perform now."""

    def __init__(self, machine: Machine, journal: Journal) -> None:
        self.machine = machine
        self.journal = journal
        self.outstanding: dict[str, Durable] = {}
        self.cursor: tuple[int, int] = (-1, -1)
        """(block, index) of the last chain event that the machine has seen."""
        self._rows = 0

    def restore(self) -> list[AnyEffect]:
        """Brings the machine to where the journal ends; returns the durable effects that have no result yet."""
        _, snapshot, rows = self.journal.load()
        if snapshot is not None:
            kept = msgspec.json.decode(snapshot, type=_Snapshot)
            self.machine.state = msgspec.json.decode(kept.state, type=type(self.machine.state))
            self.outstanding = {effect.key: effect for effect in kept.outstanding if isinstance(effect, Durable)}
            self.cursor = kept.cursor
        for row in rows:
            self._replay(row)
        self._rows = len(rows)
        return list(self.outstanding.values())  # type: ignore[arg-type]

    def _replay(self, row: Row) -> None:
        event: AnyEvent = decode(row.event, AnyEvent, limit=1 << 26)
        self._apply(event, row.now, row.seed)

    def step(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        """Journals and handles one event. A result that nobody waits for, or a chain event already seen, does nothing."""
        if isinstance(event, Result) and event.key not in self.outstanding:
            return []
        if isinstance(event, ChainSeen) and (event.event.block, event.event.index) <= self.cursor:
            return []
        soft = isinstance(event, Asked | Heard) and isinstance(event.message, self.machine.SOFT)
        if not soft:
            sequence = self.journal.append(now, seed, encode(event))
        effects = self._apply(event, now, seed)
        if not soft:
            self._rows += 1
            if self._rows >= SNAPSHOT_EVERY:
                self.snapshot(sequence)
        return effects

    def snapshot(self, sequence: int) -> None:
        kept = _Snapshot(msgspec.Raw(msgspec.json.encode(self.machine.state)), list(self.outstanding.values()), self.cursor)  # type: ignore[arg-type]
        self.journal.snapshot(sequence, msgspec.json.encode(kept))
        self._rows = 0

    def _apply(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        if isinstance(event, Result):
            self.outstanding.pop(event.key, None)
        if isinstance(event, ChainSeen):
            self.cursor = (event.event.block, event.event.index)
        return self._fresh(self.machine.handle(event, now, seed))

    def _fresh(self, effects: list[AnyEffect]) -> list[AnyEffect]:
        """Those that are not under way yet; the durable ones are from now on."""
        fresh: list[AnyEffect] = []
        for effect in effects:
            if isinstance(effect, Durable):
                if effect.key in self.outstanding:  # already under way under this key
                    continue
                self.outstanding[effect.key] = effect
            elif isinstance(effect, Cancel):
                self.outstanding.pop(effect.key, None)
            fresh.append(effect)
        return fresh


def notes(effects: Iterable[AnyEffect]) -> list[Note]:
    """The notes among effects (for tests and displays)."""
    return [effect for effect in effects if isinstance(effect, Note)]
