"""Nodes that are kept running as a service manager keeps them, and the hands that do to them what assay.localnet.faults says.

A node that ends is started again on the folder that it left: when a fault killed it, once the fault is over; when it ended by itself,
after `RESTART` seconds, as a service manager would do it, and that is told. The chain node is a target like the others. What
it had not written to its disk is lost with it, at most a second; a file that it was just writing is not torn by a kill (a chain node keeps
its past in a database, anvil in one file).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from assay.localnet.anvil import Anvil
from assay.localnet.faults import Fault, Kind
from assay.localnet.processes import Processes, end_group
from assay.localnet.sockets import owner
from assay.localnet.wires import Wires
from assay.ports import Outage

CHAIN = "chain"
RESTART = 1.0
WRITTEN = 20.0
"""Seconds to wait for a moment at which the chain node does not write."""


class Ended(NamedTuple):
    """A node that ended though nothing had been done to it."""

    name: str
    code: int
    said: str


class Injector:
    """`keep` starts a node and keeps it running; `do` performs a fault and returns, what ends it runs beside. `heal` waits for all."""

    def __init__(self, processes: Processes, wires: Wires, chain: Anvil, log: Path, environment: Mapping[str, str]) -> None:
        self.processes, self.wires, self.chain, self.environment = processes, wires, chain, environment
        self.done: list[Fault] = []
        self.ended: list[Ended] = []
        self.starts: dict[str, int] = {}
        self._log, self._began = log, time.monotonic()
        self._commands: dict[str, Sequence[str]] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._revived: dict[str, asyncio.Event] = {}
        self._killed: set[int] = set()
        """Processes that were killed, and whose end has not been seen yet."""
        self._over: set[asyncio.Task[None]] = set()
        self._chain_busy = asyncio.Lock()

    # ---- keeping -------------------------------------------------------------------------------------------------------------------

    def keep(self, name: str, command: Sequence[str], on_start: Callable[[], None] = lambda: None) -> None:
        """Starts `command` and starts it again whenever it ends, until `leave`; exit code 0 is an end for good."""
        self._commands[name] = command
        self._keepers[name] = asyncio.create_task(self._keep(name, on_start), name=f"keep {name}")

    async def leave(self, name: str) -> None:
        """It is no longer kept; it goes on."""
        task = self._keepers.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self, name: str, on_start: Callable[[], None]) -> None:
        while True:
            process = await self.processes.start(name, self._commands[name], env=self.environment)
            self.starts[name] = self.starts.get(name, 0) + 1
            on_start()
            code = await process.wait()
            if process.pid in self._killed:
                self._killed.remove(process.pid)
                if name in self._revived:  # else the fault is over already
                    await self._revived[name].wait()
            elif code == 0:
                return
            else:
                self.ended.append(Ended(name, code, self.processes.said(name)))
                self._tell({"ended": name, "code": code, "said": self.processes.said(name, 3)})
                await asyncio.sleep(RESTART)

    def alive(self, name: str) -> bool:
        process = self.processes.running.get(name)
        return name == CHAIN or (process is not None and process.returncode is None)

    def kept(self, name: str) -> bool:
        """Whether it is kept, and has not ended for good."""
        return name in self._keepers and not self._keepers[name].done()

    def pid(self, name: str) -> int:
        return self.chain.pid if name == CHAIN else self.processes.running[name].pid

    def whose(self, host: str, port: int) -> str:
        """The node that a connection from there belongs to; "" for none of them."""
        return owner(host, port, {name: process.pid for name, process in self.processes.running.items() if process.returncode is None})

    def _tell(self, what: dict[str, Any]) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps({"clock": round(time.monotonic() - self._began, 2), **what}) + "\n")

    # ---- faults --------------------------------------------------------------------------------------------------------------------

    async def do(self, fault: Fault) -> bool:
        """Whether there was something to do it to: a node that is not running is not hit."""
        name, kind = fault.target, fault.kind
        if not self.alive(name) or name in self._revived:
            self._tell({**fault.told(), "missed": True})
            return False
        self.done.append(fault)
        match kind:
            case Kind.KILL | Kind.PAUSE if name == CHAIN:
                self._tell(fault.told())
                self._later(self._stop_chain(fault))
            case Kind.KILL:
                self._tell(fault.told())
                self._revived[name] = asyncio.Event()
                self._killed.add(self.pid(name))
                self.processes.kill(name)
                self._later(self._revive(fault))
            case Kind.PAUSE:
                self._tell(fault.told())
                end_group(self.pid(name), signal.SIGSTOP)
                self._later(self._wake(fault, self.pid(name)))
            case Kind.CUT:
                self._tell({**fault.told(), "connections": self.wires.cut(name)})
                self._later(self._afterwards(fault, lambda: self.wires.heal_cut(name)))
            case Kind.HOLE:
                self._tell({**fault.told(), "connections": self.wires.hold(name)})
                self._later(self._afterwards(fault, lambda: self.wires.release(name)))
            case Kind.SLOW:
                self._tell({**fault.told(), "connections": self.wires.slow(name, fault.delay)})
                self._later(self._afterwards(fault, lambda: self.wires.slow(name, 0)))
        return True

    async def heal(self) -> None:
        """Returns when every fault that was done is over."""
        while self._over:
            await asyncio.gather(*self._over)

    async def end(self) -> None:
        """Keeps nothing any longer. Raises what a fault that could not be undone raised."""
        for name in list(self._keepers):
            await self.leave(name)
        for task in self._over:
            task.cancel()
        for found in await asyncio.gather(*self._over, return_exceptions=True):
            if isinstance(found, Exception):
                raise found

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._over.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._over.discard(task)

    async def _afterwards(self, fault: Fault, undo: Callable[[], object]) -> None:
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            undo()

    async def _revive(self, fault: Fault) -> None:
        await asyncio.sleep(fault.seconds)
        self._revived.pop(fault.target).set()

    async def _wake(self, fault: Fault, pid: int) -> None:
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            end_group(pid, signal.SIGCONT)

    async def _stop_chain(self, fault: Fault) -> None:
        async with self._chain_busy:
            pid = self.chain.pid
            if fault.kind is Kind.KILL:
                await asyncio.to_thread(self._stop_between_writes, pid)
                await asyncio.to_thread(self.chain.kill)
                await asyncio.sleep(fault.seconds)
                await asyncio.to_thread(self._start_chain)
                return
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                os.kill(pid, signal.SIGCONT)

    def _start_chain(self) -> None:
        for attempt in range(5):
            try:
                return self.chain.start()
            except Outage:
                if attempt == 4:
                    raise
                time.sleep(1)

    def _stop_between_writes(self, pid: int) -> None:
        """Returns with the chain node stopped, its file whole."""
        assert self.chain.folder is not None
        path, deadline = self.chain.folder / "anvil.json", time.monotonic() + WRITTEN
        while time.monotonic() < deadline:
            os.kill(pid, signal.SIGSTOP)
            with contextlib.suppress(OSError, ValueError):
                json.loads(path.read_bytes())
                return
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)
        raise Outage(f"{path} was never whole within {WRITTEN:g} s")
