"""The engine in processes of its own: started when there is work (or kept ready for it), ended when there is none, killed with the daemon.

A run of a segment may take hours while a drawn link of an earlier one must be served in minutes, so up to `processes` engines run at
once, each one task at a time. An engine that crashes, answers something else than it should, or says nothing for `patience` seconds is
killed, and its task fails by this node's own fault; the next task gets a fresh one. Who looks for work has one started before there is any: to load
it takes longer than to check a small job's program, and others offer meanwhile; where none is kept ready, the news of a job starts one
(`expect`). In a sandbox (assay.adapters.sandbox) one is killed, too, under which the work folder outgrows its quota, and anywhere one that holds
more of a GPU than it may (assay.adapters.gpu_use). A cancelled task kills its engine: a computation cannot be interrupted otherwise.

With `Ranks` a segment is run by an engine that leads others (assay.exact.ranks): each a process of its own, shut in as the engine is, with a
socket to it that both are given and nothing else to speak through, for an engine may start no process and make no socket. They live and die
with the engine that leads them; when one of them is lost, that engine says so and ends.

With a `template` (assay.template) engines that lead no others are forked from that, where it is there.

`InlineEngine` is the same without a process, for tests and small simulations.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assay.adapters.gpu_use import GpuUse, Unseen
from assay.adapters.sandbox import Sandbox, outgrown
from assay.cage import NICE
from assay.codec import Malformed, Message, decode, encode
from assay.engine import MAX_LINE, AnswerDispute, AnyEngineResult, EngineTask, Failure, PartLink, RunLinks, ShowTree, StepDone
from assay.exact.cuda import budget
from assay.runtime import Fault, TaskFailed

if TYPE_CHECKING:
    from assay.adapters.engine_template import Forked
    from assay.work import Engine as Inline

IDLE = 15.0
"""Seconds that an engine without a task is kept: a plan and warm pages are worth that, a waiting daemon's memory more."""
LINGER = 600.0
"""Seconds that one is kept which has answered about the inside of a link: it holds that link, which takes a replay to make, for the next question."""
PATIENCE = 3600.0
LOOK_EVERY = 2.0
"""Seconds between looks at the size of the work folder, and at what engines hold of a GPU."""
SHARED = "gpu-memory"
"""Below the work folder, or that of its ranks: what engines and ranks hold of a GPU (assay.exact.cuda.budget)."""
RANKS = "ranks"
"""Below the work folder: the only place that ranks may write to; what they compile lies there."""
DYING = 10.0
"""Seconds that an engine which has closed its output may take to end."""


@dataclass(frozen=True)
class Ranks:
    """How many processes run one segment together."""

    count: int
    devices: tuple[str, ...] = ()
    """The device of each (CUDA_VISIBLE_DEVICES), and the first for whatever runs alone; none: all have what the engine has."""
    always: bool = False
    """Also where the program fits one device."""


class _DiedIdle(Exception):
    """An engine that had waited for work was found dead."""


class _Process:
    """One engine. Used by one task at a time."""

    def __init__(self, process: asyncio.subprocess.Process | Forked, ranks: Sequence[asyncio.subprocess.Process] = ()) -> None:
        self.process, self.ranks = process, ranks
        self.idle: asyncio.TimerHandle | None = None
        """Set when it has had a task before."""
        self.waited = False
        """Whether it has waited for its present task."""
        self.used = False
        """Whether it has had a task, and so has seen what came from others."""
        self.heard = False
        """Whether it has answered to its present task."""
        self.ended_for = ""
        """Why it was ended by this side in the middle of a task."""

    @property
    def whole(self) -> bool:
        """Neither it nor a rank of it has ended, as far as is known."""
        return all(process.returncode is None for process in (self.process, *self.ranks))

    @property
    def pids(self) -> list[int]:
        """Of it and its ranks."""
        return [process.pid for process in (self.process, *self.ranks)]

    async def kill(self) -> None:
        """With its group: a bubblewrap that is killed while it starts leaves a child behind that waits for it for ever."""
        for process in (self.process, *self.ranks):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


class ProcessEngine:
    """Implements assay.ports.Engine. `command` starts an engine (tests give others); the root and this process's id are added to it.
    `sandbox` shuts the engine in; a `command` of one's own is not shut in. `gpu_memory` is what its engines may hold of a GPU together, as its
    owner says it (assay.exact.cuda.budget.bytes_of), and `gpu` how that is seen from outside. With `ranks` segments are run by so many processes
    together."""

    def __init__(
        self, processes: int = 2, threads: int = 1, patience: float = PATIENCE, idle: float = IDLE, nice: int = NICE,
        command: tuple[str, ...] = (), sandbox: Sandbox | None = None, gpu_memory: str = budget.DEFAULT, gpu: GpuUse | None = None,
        ranks: Ranks | None = None, template: Path | None = None,
    ) -> None:  # fmt: skip
        self.ranks, self._template = ranks, None if command else template
        self.threads, self.patience, self._idle_after, self._nice = threads, patience, idle, nice
        self._command, self._sandbox = command or (sys.executable, "-m", "assay.work"), None if command else sandbox
        self._slots = asyncio.Semaphore(processes)
        self._free: dict[tuple[Path, bool], list[_Process]] = {}
        """By work folder, and whether they lead ranks."""
        self._all: set[_Process] = set()
        self._expected: dict[Path, asyncio.Task[None]] = {}
        """Starts of engines for which there is no task yet."""
        self._ready: set[Path] = set()
        """Folders for which one is kept ready."""
        self._gpu_memory, self._gpu = gpu_memory, gpu
        self._looks: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def alive(self) -> int:
        """Engines that are running now."""
        return len(self._all)

    async def run(self, task: Message, folder: Path, progress: Callable[[Message], None]) -> Message:
        """The engine's result. Raises TaskFailed."""
        line = encode(task) + b"\n"
        if len(line) > MAX_LINE:
            raise TaskFailed(Fault.OWN, f"a task of {len(line)} bytes is over the engine's limit of {MAX_LINE}")
        idle = max(LINGER, self._idle_after) if isinstance(task, AnswerDispute | PartLink | ShowTree) else self._idle_after
        kind = (folder, self.ranks is not None and isinstance(task, RunLinks))
        async with self._slots:
            try:
                result = await self._attempt(line, kind, progress, idle)
            except _DiedIdle:  # it was killed while it waited for work: that says nothing of this task
                result = await self._attempt(line, kind, progress, idle)
        if isinstance(result, Failure):
            raise TaskFailed(result.fault, result.error)
        return result

    async def _attempt(self, line: bytes, kind: tuple[Path, bool], progress: Callable[[Message], None], idle: float) -> AnyEngineResult:
        folder, _ = kind
        if self._sandbox and (why := await outgrown(folder, self._sandbox.disk)):  # what is done at once would not be met by a watch
            raise TaskFailed(Fault.OWN, why)
        engine = await self._take(kind)
        engine.used = True
        if self._gpu is not None and (self._looks is None or self._looks.done()):
            self._looks = asyncio.create_task(self._watch_gpu(self._gpu))
        watch = asyncio.create_task(self._watch(engine, folder, self._sandbox.disk)) if self._sandbox else None
        try:
            result = await self._talk(engine, line, progress)
        except BaseException:
            await self._end(engine)
            raise
        finally:
            if watch:
                watch.cancel()
        self._give_back(kind, engine, idle)
        return result

    async def _talk(self, engine: _Process, line: bytes, progress: Callable[[Message], None]) -> AnyEngineResult:
        stdin, stdout = engine.process.stdin, engine.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(line)
            await stdin.drain()
            while True:
                async with asyncio.timeout(self.patience):
                    answer = await stdout.readuntil(b"\n")
                message: AnyEngineResult = decode(answer[:-1], AnyEngineResult, limit=MAX_LINE)
                engine.heard = True
                if not isinstance(message, StepDone):
                    return message
                progress(message)
        except TimeoutError:
            raise TaskFailed(Fault.OWN, f"the engine has said nothing for {self.patience:.0f} seconds and was ended") from None
        except (asyncio.LimitOverrunError, Malformed) as error:
            raise TaskFailed(Fault.OWN, f"the engine answered garbage and was ended: {error}") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            with contextlib.suppress(TimeoutError):  # a signal sent to one that is just dying would hide what it died of
                async with asyncio.timeout(DYING):
                    await engine.process.wait()
            await engine.kill()
            if engine.ended_for:
                raise TaskFailed(Fault.OWN, engine.ended_for) from None
            if engine.waited and not engine.heard:
                raise _DiedIdle from None
            code = engine.process.returncode
            how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
            raise TaskFailed(Fault.OWN, f"the engine ended in the middle of its task ({how}); the system may be short of memory") from None

    async def _watch(self, engine: _Process, folder: Path, quota: int) -> None:
        while not (why := await outgrown(folder, quota, engine.process.pid)):  # noqa: ASYNC110 (a disk tells nobody that it fills)
            await asyncio.sleep(LOOK_EVERY)
        engine.ended_for = f"the engine was ended: {why}"
        await engine.kill()

    async def _watch_gpu(self, gpu: GpuUse) -> None:
        """As long as there is an engine that has had a task, whether or not it has one now."""
        told: set[str] = set()
        while engines := {engine.process.pid: engine for engine in self._all if engine.used and engine.process.returncode is None}:
            places = {pid: engine.pids for pid, engine in engines.items()}
            try:
                held = await asyncio.to_thread(gpu.held, [pid for pids in places.values() for pid in pids])
                if (found := gpu.over(held, places)) is not None:
                    pid, why = found
                    engines[pid].ended_for = f"the engine was ended: {why}"
                    await engines[pid].kill()
            except Unseen as error:
                if str(error) not in told:
                    told.add(str(error))
                    gpu.unseen(str(error))
            await asyncio.sleep(LOOK_EVERY)

    # ---- processes -------------------------------------------------------------------------------------------------------

    async def _take(self, kind: tuple[Path, bool]) -> _Process:
        if self._closed:
            raise TaskFailed(Fault.OWN, "the engine is closed")
        folder, leads = kind
        if not leads and folder in self._expected:
            await asyncio.wait({self._expected[folder]})
        waiting = self._free.get(kind, [])
        while waiting:
            engine = waiting.pop()
            if engine.idle is not None:
                engine.idle.cancel()
            engine.waited, engine.heard = True, False
            if engine.whole:
                return engine
            await self._end(engine)
        return await self._begin(*kind)

    def expect(self, folder: Path) -> None:
        """Starts an engine where none is free. It is ended when no task has come after the time that an idle one is kept."""
        if not self._closed and not self._free.get((folder, False)) and folder not in self._expected:
            self._expected[folder] = asyncio.get_running_loop().create_task(self._await_task(folder), name="engine")

    async def _await_task(self, folder: Path) -> None:
        try:
            engine = await self._begin(folder)
        except OSError:  # the task that needs one will say so
            return
        finally:
            del self._expected[folder]
        self._give_back((folder, False), engine, self._idle_after)

    async def keep_ready(self, folder: Path) -> None:
        """From now on an engine that has had no task yet waits for one when no other does."""
        self._ready.add(folder)
        await self._refill(folder)

    async def _refill(self, folder: Path) -> None:
        if folder in self._ready and not self._free.get((folder, False)) and not self._closed:
            self._free.setdefault((folder, False), []).append(await self._begin(folder))

    async def _begin(self, folder: Path, leads: bool = False) -> _Process:
        if leads:
            engine = await self._begin_with_ranks(folder)
        elif self._template is not None and (forked := await self._forked(self._template, folder)) is not None:
            engine = _Process(forked)
        else:
            command = self._sandbox.command(folder) if self._sandbox else [*self._command, str(folder), str(os.getpid())]
            engine = _Process(await self._spawn(command, more=self._of_gpu(folder)))
        self._all.add(engine)
        return engine

    async def _forked(self, template: Path, folder: Path) -> Forked | None:
        from assay.adapters.engine_template import fork

        limits = {"memory": self._sandbox.memory, "disk": self._sandbox.disk} if self._sandbox else {}
        forked = await fork(template, folder, self._environment(self._of_gpu(folder)), **limits)
        if forked is not None:
            self._step_back(forked.pid)
        return forked

    async def _begin_with_ranks(self, folder: Path) -> _Process:
        assert self.ranks is not None
        count, parent = self.ranks.count, str(os.getpid())
        shut = self._sandbox.shared(count) if self._sandbox else None
        (home := folder / RANKS).mkdir(exist_ok=True, mode=0o700)
        pairs = [socket.socketpair() for _ in range(count)]
        ranks: list[asyncio.subprocess.Process] = []
        try:
            for at, (_, theirs) in enumerate(pairs):
                own = theirs.fileno()
                command = shut[1].rank_command(home, own) if shut else [sys.executable, "-m", "assay.exact.ranks.team", str(own), parent]
                ranks.append(await self._spawn(command, (own,), self._of_gpu(folder, at), speaks=False))
            handles = [mine.fileno() for mine, _ in pairs]
            told = f"{'always' if self.ranks.always else 'auto'}:{','.join(map(str, handles))}"
            command = shut[0].command(folder, told) if shut else [*self._command, str(folder), parent, told]
            return _Process(await self._spawn(command, handles, self._of_gpu(folder)), ranks)
        except BaseException:
            for rank in ranks:
                await asyncio.shield(_Process(rank).kill())
            raise
        finally:
            for pair in pairs:
                for sock in pair:
                    sock.close()

    def _of_gpu(self, folder: Path, rank: int = 0) -> dict[str, str]:
        """What a rank, or an engine, is told of the GPU that it uses. All that use one have its memory together; so their ledger lies where
        ranks may write, too."""
        home = folder / RANKS if self.ranks else folder
        told = {budget.VARIABLE: self._gpu_memory, budget.LEDGER: str(home / SHARED)}
        return told | ({"CUDA_VISIBLE_DEVICES": self.ranks.devices[rank]} if self.ranks and self.ranks.devices else {})

    async def _spawn(
        self, command: Sequence[str], handles: Sequence[int] = (), more: Mapping[str, str] = {}, speaks: bool = True
    ) -> asyncio.subprocess.Process:  # fmt: skip
        pipe = asyncio.subprocess.PIPE if speaks else asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, limit=MAX_LINE, env=self._environment(more), process_group=0, pass_fds=handles
        )  # fmt: skip
        self._step_back(process.pid)
        return process

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        environment = self._sandbox.environment() if self._sandbox else dict(os.environ)
        return environment | {name: str(self.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")} | dict(more)

    def _step_back(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, self._nice)

    def _give_back(self, kind: tuple[Path, bool], engine: _Process, idle: float) -> None:
        self._free.setdefault(kind, []).append(engine)
        loop = asyncio.get_running_loop()
        engine.idle = loop.call_later(idle, lambda: loop.create_task(self._retire(kind, engine)))

    async def _retire(self, kind: tuple[Path, bool], engine: _Process) -> None:
        waiting = self._free.get(kind, [])
        if engine in waiting:
            waiting.remove(engine)
            await self._end(engine)
            await self._refill(kind[0])

    async def _end(self, engine: _Process) -> None:
        self._all.discard(engine)
        await asyncio.shield(engine.kill())

    async def close(self) -> None:
        """Ends all engines; tasks under way fail."""
        self._closed = True
        if self._looks is not None:
            self._looks.cancel()
        if self._expected:
            await asyncio.wait(self._expected.values())
        for engine in list(self._all):
            if engine.idle is not None:
                engine.idle.cancel()
            await self._end(engine)
        self._free.clear()


class InlineEngine:
    """The engine in a thread of this process. `make` gives another than the honest one."""

    def __init__(self, make: Callable[[Path], Inline] | None = None) -> None:
        self._make = make
        self._engines: dict[Path, Inline] = {}
        self._lock = asyncio.Lock()

    async def run(self, task: Message, folder: Path, progress: Callable[[Message], None]) -> Message:
        """The engine's result. Raises TaskFailed."""
        from assay.work import Engine as Inline

        assert isinstance(task, EngineTask)
        loop = asyncio.get_running_loop()
        if folder not in self._engines:
            self._engines[folder] = (self._make or Inline)(folder)
        engine = self._engines[folder]
        async with self._lock:
            result = await asyncio.to_thread(engine.perform, task, lambda done: loop.call_soon_threadsafe(progress, done) and None)  # type: ignore[arg-type]
        if isinstance(result, Failure):
            raise TaskFailed(result.fault, result.error)
        return result

    def expect(self, folder: Path) -> None:
        """Nothing takes long to start."""

    async def close(self) -> None:
        """Nothing is held."""
