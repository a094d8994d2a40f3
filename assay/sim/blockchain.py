"""The ledger on the virtual clock: calls wait for the next block, and blocks are made only when somebody has a use for one.

A block is due one block time after a call, after a block with events that are not final yet, and while somebody waits for a block
number; otherwise at the next time that somebody waits for. In between the chain is silent, which costs the simulation nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from assay.adapters.memory_chain import MemoryLedger
from assay.chain import AnyCall, CallId
from assay.ids import Address
from assay.ports import Reverted
from assay.sim.clock import Clock


class Blockchain:
    """`on_block` is called after every block."""

    def __init__(self, clock: Clock, ledger: MemoryLedger, depth: int, on_block: Callable[[], None]) -> None:
        self.clock, self.ledger, self.depth = clock, ledger, depth
        self._on_block = on_block
        self._start = ledger.head.time
        self._calls: list[tuple[Address, CallId, AnyCall, Callable[[int | Reverted], None]]] = []
        self._times: list[int] = []
        self._unfinal: list[tuple[int, Address, CallId, AnyCall]] = []
        """Calls of the blocks that a reorganisation may drop, with the number of the block."""
        self._wanted = 0
        """Number of the last block that somebody waits for."""
        self._scheduled: float | None = None

    @property
    def now(self) -> int:
        """Chain time of the virtual clock, whether or not there is a block yet."""
        return self._start + int(self.clock.now)

    def call(self, sender: Address, call_id: CallId, call: AnyCall, done: Callable[[int | Reverted], None]) -> None:
        """`done` gets the number of the block, once that is mined, or the reason of the refusal."""
        self._calls.append((sender, call_id, call, done))
        self._plan(self.ledger.head.time + self.ledger.block_time)

    def reorg(self) -> bool:
        """Drops the blocks that are not final; their senders send what was in them again, in another order. False when there were none."""
        keep = self.ledger.head.number - self.depth
        dropped = [sent for sent in self._unfinal if sent[0] > keep]
        if not dropped:
            return False
        self.ledger.reorg(self.depth)
        again = [(sender, call_id, call, _told_before) for _, sender, call_id, call in reversed(dropped)]
        self._calls, self._unfinal = [*again, *self._calls], []
        self._plan(self.now)
        return True

    def want(self, at: int, block: int) -> None:
        """Somebody waits for a block of this time and number."""
        if at > self.ledger.head.time:
            heapq.heappush(self._times, at)
            self._plan(at)
        if block > self._wanted:
            self._wanted = block
            if block > self.ledger.head.number:
                self._plan(self.ledger.head.time + self.ledger.block_time)

    def _plan(self, time: int) -> None:
        time = max(time, self.ledger.head.time + self.ledger.block_time, self.now)
        due = float(time - self._start)
        if self._scheduled is None or due < self._scheduled:
            self._scheduled = due
            self.clock.after(due - self.clock.now, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if self._scheduled != due:
            return
        self._scheduled = None
        ledger = self.ledger
        silent = self.now - ledger.head.time - ledger.block_time
        if silent > 0:
            ledger.mine(silent)
        calls, self._calls = self._calls, []
        answers: list[tuple[Callable[[int | Reverted], None], int | Reverted]] = []
        number = ledger.head.number + 1
        self._unfinal = [sent for sent in self._unfinal if sent[0] > ledger.head.number - self.depth]
        for sender, call_id, call, done in calls:
            self._unfinal.append((number, sender, call_id, call))
            try:
                answers.append((done, ledger.send(sender, call_id, call)))
            except Reverted as error:
                answers.append((done, error.with_traceback(None)))  # its frames would hold this block for ever: nothing here looks for cycles
        if ledger.head.time < self.now:
            ledger.mine()
        for done, answer in answers:
            done(answer)
        self._on_block()
        events = ledger.events((ledger.head.number - self.depth, 1 << 30))
        if events:
            self._wanted = max(self._wanted, events[-1].block + self.depth)
        while self._times and self._times[0] <= ledger.head.time:
            heapq.heappop(self._times)
        if self._calls or self._wanted > ledger.head.number:
            self._plan(ledger.head.time + ledger.block_time)
        elif self._times:
            self._plan(self._times[0])


def _told_before(_: int | Reverted) -> None:
    """Whoever sent it has been told when it was mined first; what is final it reads from the chain."""
