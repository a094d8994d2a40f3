"""A simulated node: the real core and machine of a role, its effects performed on the virtual clock.

Every journal entry and every effect passes through `World.point`, before and after, which may raise `Crashed`: then the node is
gone at that very place, with whatever the outside has already taken in, and comes up again from its journal (or from an empty disk).
What belongs to an earlier life (an answer, a finished task) finds a new `life` and is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from assay import runtime
from assay.adapters.memory_journal import MemoryJournal
from assay.chain import CallId
from assay.ids import Address, PeerId
from assay.messages import AnyReply, Refusal
from assay.ports import Outage, Reverted
from assay.runtime import AnyEvent, Core, Fault, Machine
from assay.sim.hands import Hands
from assay.tasks import RunSegment, StopSegment

if TYPE_CHECKING:
    from assay.sim.world import World

ANSWER_WITHIN = 15.0
PAUSES = (0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
"""Seconds before each next attempt; the last for all that follow."""
TASK_SECONDS = 0.02
"""What a task takes that is not training."""


class Crashed(Exception):
    """The node stops here."""


class WatchedJournal(MemoryJournal):
    def __init__(self, point: Callable[[str], None]) -> None:
        super().__init__()
        self._point = point

    def append(self, now: int, seed: bytes, event: bytes) -> int:
        self._point("before append")
        row = super().append(now, seed, event)
        self._point("after append")
        return row


class SimNode:
    def __init__(
        self, world: World, name: str, role: str, account: Address, peer: PeerId, machine: Callable[[], Machine], hands: Hands
    ) -> None:  # fmt: skip
        self.world, self.name, self.role = world, name, role
        self.account, self.peer, self.hands = account, peer, hands
        self.make = machine
        self.life = 0
        self.up = False
        self.now, self.head = 0, -1
        self._new_disk()
        self.pace = world.options.step_seconds
        """Seconds that a training step takes here."""
        self._running: dict[str, object] = {}
        self._stops: dict[int, Callable[[], None]] = {}
        self._asked: dict[int, tuple[PeerId, Callable[[AnyReply], None]]] = {}
        self._asks = 0

    def _new_disk(self) -> None:
        self.journal = WatchedJournal(lambda where: self.world.point(self, where))

    # ---- life and death --------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.up, self.life = True, self.life + 1
        self._running, self._stops, self._asked = {}, {}, {}
        self.act(self.life, self._boot)

    def _boot(self) -> None:
        self.core = Core(self.make(), self.journal)
        self.see_head()
        for effect in self.core.restore():
            self.start(effect)
        self.step(runtime.Started())
        self.deliver()

    def kill(self, wipe: bool = False) -> None:
        self.up, self.life = False, self.life + 1
        if wipe:
            self._new_disk()
            self.hands.wipe()

    def act(self, life: int, action: Callable[[], None]) -> None:
        """An action of that life, if it still lasts; a crash inside it ends it."""
        if self.life == life and self.up:
            try:
                action()
            except Crashed:
                self.world.crashed(self)

    def later(self, delay: float, action: Callable[[], None]) -> None:
        self.world.clock.after(delay, partial(self.act, self.life, action))

    # ---- events in -------------------------------------------------------------------------------------------------------

    def see_head(self) -> None:
        block = self.world.ledger.head
        self.now, self.head = block.time, block.number

    def deliver(self) -> None:
        """What the chain has to tell since the last time, and the wakes that are due."""
        self.see_head()
        for event in self.world.ledger.events(self.core.cursor, self.world.depth):
            self.step(runtime.ChainSeen(event=event))
        for effect in list(self.core.outstanding.values()):
            if isinstance(effect, runtime.Wake) and self.now >= effect.at and self.head >= effect.block and effect.key in self.core.outstanding:
                self.step(runtime.Woke(key=effect.key))

    def step(self, event: AnyEvent) -> None:
        for effect in self.core.step(event, self.now, self.world.random.randbytes(32)):
            self.start(effect)

    def receive(self, peer: PeerId, message: Any, answer: Callable[[AnyReply], None]) -> None:
        self._asks += 1
        self._asked[self._asks] = (peer, answer)
        self.step(runtime.Asked(ask=self._asks, peer=peer, message=message))

    # ---- effects out -----------------------------------------------------------------------------------------------------

    def start(self, effect: Any) -> None:
        kind = type(effect)
        if kind is runtime.Wake:
            if self.now >= effect.at and self.head >= effect.block:
                self.later(0, partial(self.finish, effect, runtime.Woke(key=effect.key)))
            else:
                self.sleep(effect)
            return
        if kind is runtime.Note:
            self.world.noted(self, effect)
            return
        if kind is runtime.Cancel:
            self._running.pop(effect.key, None)
            return
        self.point("before", effect)
        if kind is runtime.Reply:
            _, answer = self._asked.pop(effect.ask, (self.peer, _nobody))
            answer(effect.message)
        elif kind is runtime.Gossip:
            self.world.gossip(self, effect.message)
        else:
            self._running[effect.key] = effect
            return self.attempt(effect, 0, self.world.clock.now)
        self.point("after", effect)

    def point(self, when: str, effect: Any) -> None:
        """A place where the node may be killed. Raises Crashed when it is to be."""
        self.world.point(self, f"{when} {type(effect).__name__}")

    def sleep(self, wake: runtime.Wake) -> None:
        """Until `deliver` finds it due."""
        self.world.chain.want(wake.at, wake.block)

    def hear(self, event: runtime.Heard) -> None:
        self.step(event)

    def wanted(self, effect: Any) -> bool:
        return self._running.get(effect.key) is effect

    def finish(self, effect: Any, result: AnyEvent) -> None:
        """The effect has happened; the machine hears of it, unless it no longer wants to."""
        if not isinstance(effect, runtime.Wake):
            if not self.wanted(effect):
                return
            self.point("after", effect)
            del self._running[effect.key]
        self.step(result)

    def again(self, effect: Any, tries: int, since: float, error: str) -> None:
        pause = PAUSES[min(tries, len(PAUSES) - 1)]
        patience = getattr(effect, "patience", None)
        if patience is not None and self.world.clock.now + pause > since + patience:
            self.finish(effect, runtime.Failed(key=effect.key, fault=Fault.OUTAGE, error=error))
        else:
            self.later(pause, lambda: self.attempt(effect, tries + 1, since) if self.wanted(effect) else None)

    def attempt(self, effect: Any, tries: int, since: float) -> None:
        kind = type(effect)
        if kind is runtime.Do:
            self._do(effect, tries, since)
        elif kind is runtime.Fetch:
            self._fetch(effect, tries, since)
        elif kind is runtime.Ask:
            self._ask(effect, tries, since)
        else:
            self._send(effect)

    def _send(self, effect: runtime.Send) -> None:
        def done(answer: int | Reverted) -> None:
            if isinstance(answer, int):
                self.finish(effect, runtime.Sent(key=effect.key, block=answer))
            else:
                self.finish(effect, runtime.Failed(key=effect.key, fault=Fault.REFUSED, error=str(answer)))

        life = self.life
        self.world.chain.call(self.account, CallId(effect.key), effect.call, lambda answer: self.act(life, lambda: done(answer)))

    def _ask(self, effect: runtime.Ask, tries: int, since: float) -> None:
        settled = False

        def fail() -> None:
            nonlocal settled
            if not settled and self.wanted(effect):
                settled = True
                self.again(effect, tries, since, f"{effect.peer} did not answer")

        def answered(message: AnyReply) -> None:
            nonlocal settled
            if settled or not self.wanted(effect):
                return
            settled = True
            if not isinstance(message, Refusal):
                self.finish(effect, runtime.Answered(key=effect.key, message=message))
            elif message.retry_after:
                self.again(effect, tries, since, message.reason)
            else:
                self.finish(effect, runtime.Failed(key=effect.key, fault=Fault.REFUSED, error=message.reason))

        life = self.life
        self.world.request(self, effect.peer, effect.message, lambda message: self.act(life, lambda: answered(message)))
        self.later(min(ANSWER_WITHIN, since + effect.patience - self.world.clock.now), fail)

    def _fetch(self, effect: runtime.Fetch, tries: int, since: float) -> None:
        if effect.cid not in self.hands.store:
            data = self.world.find_blob(self, effect.cid, effect.near)
            if data is None:
                return self.later(0.05, lambda: self.again(effect, tries, since, f"nobody who can be reached has {effect.cid}"))
            if len(data) > effect.limit:
                error = f"blob {effect.cid} has {len(data)} bytes, the limit is {effect.limit}"
                return self.later(0.05, lambda: self.finish(effect, runtime.Failed(key=effect.key, fault=Fault.PEER, error=error)))
            self.hands.store[effect.cid] = data
        self.later(0.05, partial(self.finish, effect, runtime.Fetched(key=effect.key)))

    def _do(self, effect: runtime.Do, tries: int, since: float) -> None:
        task = effect.task
        if isinstance(task, RunSegment):
            return self._train(effect, task)
        if isinstance(task, StopSegment):
            stop = self._stops.pop(task.segment, None)
            if stop is not None:
                stop()
        try:
            outcome = self.hands.perform(task)
        except runtime.TaskFailed as error:
            failed = runtime.Failed(key=effect.key, fault=error.fault, error=error.error)
            return self.later(TASK_SECONDS, partial(self.finish, effect, failed))
        except Outage as error:
            text = str(error)
            return self.later(TASK_SECONDS, lambda: self.again(effect, tries, since, text))
        self.later(TASK_SECONDS, partial(self.finish, effect, runtime.Done(key=effect.key, outcome=outcome)))

    def _train(self, effect: runtime.Do, task: RunSegment) -> None:
        """Takes `step_seconds` a step; steps done in an earlier life are on disk; a stop ends it after the step it is in."""
        per, begun = self.pace, self.world.clock.now
        self.world.trains(task)
        key = ("progress", task.segment)
        before = min(self.hands.disk.get(key, 0), task.stop - task.start)

        def end(stop: int) -> None:
            if not self.wanted(effect):
                return
            self._stops.pop(task.segment, None)
            if stop == task.start:
                stop = task.start + 1
            shortened = RunSegment(
                segment=task.segment, job=task.job, spec=task.spec, start=task.start, stop=stop, parent=task.parent,
                parent_root=task.parent_root, scheduler=task.scheduler,
            )  # fmt: skip
            try:
                result: AnyEvent = runtime.Done(key=effect.key, outcome=self.hands.perform(shortened))
            except runtime.TaskFailed as error:
                result = runtime.Failed(key=effect.key, fault=error.fault, error=error.error)
            except Outage as error:
                return self.again(effect, 0, self.world.clock.now, str(error))
            self.finish(effect, result)

        def stop() -> None:
            done = before + int((self.world.clock.now - begun) / per)
            self.later(per, lambda: end(min(task.start + done + 1, task.stop)))

        def step() -> None:
            self.hands.disk[key] = min(self.hands.disk.get(key, 0) + 1, task.stop - task.start)

        self._stops[task.segment] = stop
        todo = task.stop - task.start - before
        for i in range(1, todo):
            self.later(i * per, step)
        self.later(max(todo, 0) * per, lambda: end(task.stop))

    def tick(self) -> None:
        """The chain has a new block; the node sees it a little later."""
        self.later(self.world.random.uniform(0.0, 0.25), self.deliver)


def _nobody(_: AnyReply) -> None:
    """The one who asked is gone."""
