"""The asyncio daemon of any role: feeds a machine with events and performs its effects through ports.

One loop owns the core, so events are handled one at a time and in order; effects run beside it as tasks and put their results
back into its inbox. Time is the chain's: it stands still while the chain does, which is what stretches every window by an outage.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from assay.chain import CallId, Deposit, Register, TakeSeat
from assay.ids import PeerId
from assay.messages import AnyGossip, AnyReply, AnyRequest, Refusal
from assay.ports import Blobs, Chain, Engine, Finder, Journal, Keys, Missing, Outage, Peers, Reverted, Stamps
from assay.runtime import (
    Answered,
    AnyEffect,
    AnyEvent,
    Ask,
    Asked,
    Cancel,
    ChainSeen,
    Core,
    Do,
    Done,
    Durable,
    Failed,
    Fault,
    Fetch,
    Fetched,
    Gossip,
    Heard,
    Machine,
    Note,
    Ordered,
    Reply,
    Send,
    Sent,
    Started,
    TaskFailed,
    Wake,
    Woke,
)
from assay.tasks import AnyOutcome, AnyTask

log = logging.getLogger("assay")

MAX_ASKS = 256
"""Requests of peers that may wait for an answer at once; more are told to come back."""
ANSWER_WITHIN = 15.0
MISSING_FOR = 120.0
"""Seconds for which a task that needs a blob which is gone is tried again."""
FIRST_RETRY, LAST_RETRY = 0.2, 5.0


@dataclass(frozen=True)
class Ports:
    """The outside of one node, composed by the command line, the local network or a test."""

    chain: Chain
    blobs: Blobs
    peers: Peers
    keys: Keys
    journal: Journal
    engine: Engine | None
    folder: Path
    """The node's own data folder."""
    stamps: Stamps | None = None
    """The same chain, where it takes notes of accounts."""
    finder: Finder | None = None
    """The same peers, where they can look for others."""
    depth: int = 1
    """Blocks under the head from which an event counts as final."""
    poll: float = 0.25
    places: int = 1
    """Segments that the engine runs at once."""
    disk: int = 0
    """Bytes of files that states may lie in where the engine's memory is short; 0: they stay in memory."""


async def enrol(ports: Ports, *, deposit: int = 0, seat: bool = False) -> None:
    """Registers the node on chain, brings its stake up to `deposit` and, for a verifier, takes a seat. Harmless to repeat.

    Raises Reverted with the contract's reason, for instance when the account has too few tokens.
    """
    chain, key = ports.chain, ports.keys.encryption_key
    await chain.send(CallId(f"register:{key.hex()}:{ports.peers.peer}"), Register(encryption_key=key, peer=ports.peers.peer))
    stake = (await chain.view(chain.account)).stake
    if stake < deposit:
        await chain.send(CallId(f"deposit:{deposit}:{stake}"), Deposit(amount=deposit - stake))
    if seat:
        await chain.send(CallId("seat"), TakeSeat())


class Hands(Protocol):
    """Performs the tasks of a role; raises TaskFailed or Outage (which is tried again)."""

    async def perform(self, task: AnyTask, note: Callable[[Note], None]) -> AnyOutcome: ...


@runtime_checkable
class Telling(Protocol):
    async def news(self, seconds: float) -> None:
        """A chain that can tell of new blocks: returns when there is one, and otherwise about when `seconds` are over."""


@runtime_checkable
class Foreseeing(Protocol):
    def foresee(self, event: AnyEvent) -> None:
        """Hands may begin what an event will ask of them, before the machine has it. Nothing has to come of it."""


@runtime_checkable
class Summarised(Protocol):
    def summary(self) -> dict[str, Any]:
        """What `assay ROLE status` shows."""


def _pauses() -> Any:
    """Seconds to wait before each next attempt: doubling, with jitter, bounded."""
    pause = FIRST_RETRY
    while True:
        yield pause * random.uniform(0.7, 1.3)
        pause = min(pause * 2, LAST_RETRY)


class Node:
    """A running role. `await run()` until `stop()`."""

    def __init__(
        self,
        ports: Ports,
        machine: Machine,
        hands: Hands,
        on_note: Callable[[Note], None] | None = None,
    ) -> None:
        self.core = Core(machine, ports.journal)
        self.chain, self.blobs, self.peers, self.hands = ports.chain, ports.blobs, ports.peers, hands
        self.depth, self.poll = ports.depth, ports.poll
        self.now, self.head = 0, -1
        self.recent: deque[Note] = deque(maxlen=50)
        self._on_note = on_note
        self._foresee = hands.foresee if isinstance(hands, Foreseeing) else None
        self._inbox: asyncio.Queue[AnyEvent] = asyncio.Queue()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._asks: dict[int, asyncio.Future[AnyReply]] = {}
        self._next_ask = 0
        self._stop = asyncio.Event()
        self._chain_down = False

    # ---- life ------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Restores, then works until `stop()`. Raises what the journal or a machine raises: a daemon that cannot keep its word stops."""
        await self._first_head()
        for effect in self.core.restore():
            self._start(effect)
        await self.peers.start(self._on_request, self._on_gossip)
        watcher = asyncio.create_task(self._watch_chain(), name="chain")
        stopper = asyncio.create_task(self._stop.wait(), name="stop")
        self._step(Started())
        try:
            while not self._stop.is_set():
                getter = asyncio.create_task(self._inbox.get())
                await asyncio.wait({getter, watcher, stopper}, return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    self._step(getter.result())
                else:
                    getter.cancel()
                if watcher.done():
                    watcher.result()
                    raise RuntimeError("the chain watcher ended")
        finally:
            for task in [watcher, stopper, *self._tasks.values()]:
                task.cancel()
            await asyncio.gather(watcher, stopper, *self._tasks.values(), return_exceptions=True)
            await self.peers.stop()

    def stop(self) -> None:
        self._stop.set()

    def order(self, order: str) -> None:
        """An order of the node's owner."""
        self._inbox.put_nowait(Ordered(order=order))

    def status(self) -> dict[str, Any]:
        """For the command line and the gateway's status page."""
        machine = self.core.machine
        return {
            "account": self.chain.account,
            "peer": self.peers.peer,
            "head": self.head,
            "chain_time": self.now,
            "chain_reachable": not self._chain_down,
            "known_peers": len(self.peers.records()),
            "working_on": sorted(self.core.outstanding),
            "recent": [{"topic": n.topic, "text": n.text, **n.data} for n in self.recent],
            **(machine.summary() if isinstance(machine, Summarised) else {}),
        }

    # ---- events in -------------------------------------------------------------------------------------------------------

    async def _first_head(self) -> None:
        for pause in _pauses():
            try:
                block = await self.chain.head()
            except Outage as error:
                self._down(error)
                await asyncio.sleep(pause)
            else:
                self.now, self.head = block.time, block.number
                return

    async def _watch_chain(self) -> None:
        pauses, delivered, seen = _pauses(), self.core.cursor, b""
        news = self.chain.news if isinstance(self.chain, Telling) else asyncio.sleep
        while True:
            try:
                block = await self.chain.head()
                if block.hash != seen:
                    events = await self.chain.events(delivered, self.depth)
                    self.now, self.head, seen = block.time, block.number, block.hash
                    for event in events:
                        delivered = (event.block, event.index)
                        self._inbox.put_nowait(ChainSeen(event=event))
                    self._wake()
                if self._chain_down:
                    self._chain_down = False
                    self.note(Note(topic="chain", text="the chain answers again"))
                pauses = _pauses()
                await news(self.poll)
            except Outage as error:
                self._down(error)
                await asyncio.sleep(next(pauses))

    def _down(self, error: Outage) -> None:
        if not self._chain_down:
            self._chain_down = True
            self.note(Note(topic="chain", text=f"the chain does not answer ({error}); waiting for it"))

    def _wake(self) -> None:
        for effect in list(self.core.outstanding.values()):
            if isinstance(effect, Wake) and self.now >= effect.at and self.head >= effect.block:
                self._inbox.put_nowait(Woke(key=effect.key))

    async def _on_request(self, peer: PeerId, message: AnyRequest) -> AnyReply:
        if len(self._asks) >= MAX_ASKS:
            return Refusal(reason="too many requests at once", retry_after=1)
        self._next_ask += 1
        ask = self._next_ask
        future: asyncio.Future[AnyReply] = asyncio.get_running_loop().create_future()
        self._asks[ask] = future
        self._inbox.put_nowait(Asked(ask=ask, peer=peer, message=message))
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await future
        except TimeoutError:
            return Refusal(reason="no answer in time", retry_after=2)
        finally:
            self._asks.pop(ask, None)

    def _on_gossip(self, peer: PeerId, message: AnyGossip) -> None:
        if self._inbox.qsize() < 10_000:
            self._inbox.put_nowait(Heard(peer=peer, message=message))

    # ---- effects out -----------------------------------------------------------------------------------------------------

    def _step(self, event: AnyEvent) -> None:
        if isinstance(event, Woke):
            wake = self.core.outstanding.get(event.key)
            if not isinstance(wake, Wake) or self.now < wake.at or self.head < wake.block:  # set anew meanwhile
                return
        if self._foresee is not None:
            self._foresee(event)
        for effect in self.core.step(event, self.now, os.urandom(32)):
            self._start(effect)

    def _start(self, effect: AnyEffect | Durable) -> None:
        match effect:
            case Reply():
                future = self._asks.pop(effect.ask, None)
                if future is not None and not future.done():
                    future.set_result(effect.message)
            case Gossip():
                self._spawn(f"gossip:{id(effect)}", self._gossip(effect))
            case Note():
                self.note(effect)
            case Cancel():
                task = self._tasks.pop(effect.key, None)
                if task is not None:
                    task.cancel()
            case Wake():
                if self.now >= effect.at and self.head >= effect.block:
                    self._inbox.put_nowait(Woke(key=effect.key))
            case Send() | Ask() | Fetch() | Do():
                self._spawn(effect.key, self._perform(effect))

    def _spawn(self, key: str, work: Any) -> None:
        task = asyncio.create_task(work, name=key)
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._tasks.pop(key, None) if self._tasks.get(key) is done else None)

    async def _gossip(self, effect: Gossip) -> None:
        with contextlib.suppress(Outage):
            await self.peers.gossip(effect.message)

    async def _perform(self, effect: Send | Ask | Fetch | Do) -> None:
        patience = effect.patience if isinstance(effect, Ask | Fetch) else None
        give_up = time.monotonic() + patience if patience is not None else float("inf")
        result: AnyEvent
        for pause in _pauses():
            try:
                result = await self._attempt(effect, min(ANSWER_WITHIN, max(0.0, give_up - time.monotonic())))
                break
            except (Reverted, _Refused) as error:
                result = Failed(key=effect.key, fault=Fault.REFUSED, error=str(error))
                break
            except TaskFailed as error:
                result = Failed(key=effect.key, fault=error.fault, error=error.error)
                break
            except Outage as error:
                if isinstance(error, Missing) and give_up == float("inf"):  # of a task: whoever wants it must learn that it hangs on this
                    give_up = time.monotonic() + MISSING_FOR
                    self.note(Note(topic="missing", text=f"{error}; it is looked for again"))
                if time.monotonic() + pause > give_up:
                    result = Failed(key=effect.key, fault=Fault.OUTAGE, error=str(error))
                    break
                await asyncio.sleep(pause)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.exception("%s failed", effect.key)
                result = Failed(key=effect.key, fault=Fault.OWN, error=f"{type(error).__name__}: {error}")
                break
        self._inbox.put_nowait(result)

    async def _attempt(self, effect: Send | Ask | Fetch | Do, within: float) -> AnyEvent:
        """`within`: seconds for a peer's answer."""
        match effect:
            case Send():
                return Sent(key=effect.key, block=await self.chain.send(CallId(effect.key), effect.call))
            case Ask():
                answer = await self.peers.request(effect.peer, effect.message, timeout=within)
                if isinstance(answer, Refusal):
                    if answer.retry_after:
                        raise Outage(answer.reason)
                    raise _Refused(answer.reason)
                return Answered(key=effect.key, message=answer)
            case Fetch():
                try:
                    await self.blobs.fetch(effect.cid, effect.limit, effect.near)
                except ValueError as error:
                    raise TaskFailed(Fault.PEER, str(error)) from None
                return Fetched(key=effect.key)
            case Do():
                return Done(key=effect.key, outcome=await self.hands.perform(effect.task, self.note))

    def note(self, note: Note) -> None:
        self.recent.append(note)
        if self._on_note is not None:
            self._on_note(note)


class _Refused(Exception):
    """A peer's final no."""
