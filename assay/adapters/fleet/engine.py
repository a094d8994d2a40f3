"""The fleet as the daemon sees it: an engine that runs several segments at once. It starts the driver, and starts it again when it has died.

The driver gets none of the daemon's environment but what is named, and under bubblewrap sees the work folder and no other file of the node's:
not its keys. Whatever comes from it is decoded as strictly as an engine's answer, since all that it says may have come from another machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from assay.adapters import sandbox
from assay.adapters.fleet.messages import LOCAL, MAX_LINE, AnyNews, Begin, FleetTask, GiveUp, News, Perform, Told, Unusable, Up
from assay.adapters.sandbox import Sandbox
from assay.cage import readable
from assay.codec import Malformed, Message, decode, encode
from assay.engine import Failure, OpenLinks, ReplayLink, RunLinks, StepDone
from assay.ports import Engine
from assay.runtime import Fault, TaskFailed

TMP = 1 << 30
"""Bytes of Ray's logs and sockets where it is started here."""
RAY_FOLDER = Path("/tmp/ray")
"""Where Ray's nodes of this machine keep their sockets."""
RAY_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
START_WITHIN = 900.0
"""Seconds until a driver must have places: machines that have not done so before run the conformance suite."""
DRIVERS = 4
"""Drivers that are tried for one task."""
FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0
END_WITHIN = 25.0


class FleetTrouble(Exception):
    """The fleet cannot be used: why, and what its owner can do."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(why)
        self.why, self.advice = why, advice


@dataclass
class _Asked:
    task: FleetTask
    progress: Callable[[Message], None]
    result: asyncio.Future[Message]
    drivers: int = 0


class FleetEngine:
    """Implements assay.ports.Engine for the work folder `begin.root`; what is not worth a place goes to `home`, which is closed with it.
    `shut`: what engines of this machine are shut in. `through`: what the driver's command is given to, so that it begins in another network
    namespace than this process. `on_news` hears what there is to log."""

    def __init__(self, begin: Begin, home: Engine, shut: Sandbox | None, log: Path, through: tuple[str, ...] = ()) -> None:
        self.begin, self.home, self.shut, self._log, self._through = begin, home, shut, log, through
        self.places = 0
        self.on_news: Callable[[News], None] = lambda news: None
        self._asked: dict[int, _Asked] = {}
        self._numbers = 0
        self._process: asyncio.subprocess.Process | None = None
        self._up = False
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """How many places there are. Raises FleetTrouble."""
        first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(first))
        try:
            async with asyncio.timeout(START_WITHIN):
                self.places = await first
        except TimeoutError:
            await self.close()
            raise FleetTrouble(f"the fleet was not up after {START_WITHIN:.0f} seconds", f"look at {self._log}") from None
        return self.places

    async def run(self, task: Message, folder: Path, progress: Callable[[Message], None]) -> Message:
        """The engine's result. Raises TaskFailed."""
        if not isinstance(task, RunLinks | OpenLinks | ReplayLink) or folder != Path(self.begin.root):
            return await self.home.run(task, folder, progress)
        self._numbers += 1
        number = self._numbers
        asked = self._asked[number] = _Asked(task, progress, asyncio.get_running_loop().create_future())
        try:
            await self._ask(number, asked)
            result = await asked.result
        except asyncio.CancelledError:
            self._asked.pop(number, None)
            await self._send(GiveUp(number=number))
            raise
        finally:
            self._asked.pop(number, None)
        if isinstance(result, Failure):
            raise TaskFailed(result.fault, result.error)
        return result

    def expect(self, folder: Path) -> None:
        self.home.expect(folder)

    async def close(self) -> None:
        """Ends the driver, and with it the places; tasks under way fail."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        for asked in self._asked.values():
            if not asked.result.done():
                asked.result.set_exception(TaskFailed(Fault.OWN, "the fleet is closed"))
        await self.home.close()

    # ---- the driver --------------------------------------------------------------------------------------------------------

    async def _supervise(self, first: asyncio.Future[int]) -> None:
        pause = FIRST_PAUSE
        while True:
            why, advice = "its driver ended", f"look at {self._log}"
            try:
                await self._spawn()
                found = await self._listen(first)
                if isinstance(found, Unusable):
                    why, advice = found.why, found.advice
                pause = FIRST_PAUSE if self._up else min(LAST_PAUSE, 2 * pause)
            except FleetTrouble as error:
                why, advice = error.why, error.advice
            except Malformed as error:
                why = f"its driver says garbage: {error}"
            except OSError as error:
                why = f"its driver cannot be started: {error}"
            finally:
                self._up = False
                await self._end()
            if not first.done():
                return first.set_exception(FleetTrouble(why, advice))
            self.on_news(News(topic="fleet", text=f"the fleet is away: {why}; {advice}. It is started again in {pause:.0f} s"))
            for asked in self._asked.values():
                if asked.drivers >= DRIVERS and not asked.result.done():
                    asked.result.set_result(Failure(fault=Fault.OWN, error=f"the fleet is away: {why}"))
            await asyncio.sleep(pause)

    async def _spawn(self) -> None:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._through, *self._command(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, limit=MAX_LINE,
                env=self._environment(), process_group=0,
            )  # fmt: skip
        await self._send(self.begin)

    async def _listen(self, first: asyncio.Future[int]) -> Unusable | None:
        """Until the driver ends, or says that it will. Raises Malformed."""
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readuntil(b"\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            except asyncio.LimitOverrunError:
                raise Malformed(f"a line of more than {MAX_LINE} bytes") from None
            news: AnyNews = decode(line[:-1], AnyNews, MAX_LINE)
            match news:
                case Unusable():
                    return news
                case Up():
                    self._up = True
                    if not first.done():
                        first.set_result(news.places)
                    for number, asked in list(self._asked.items()):
                        await self._ask(number, asked)
                case News():
                    self.on_news(news)
                case Told():
                    self._told(news)

    def _told(self, news: Told) -> None:
        asked = self._asked.get(news.number)
        if asked is None or asked.result.done():
            return
        if isinstance(news.message, StepDone):
            asked.progress(news.message)
        else:
            asked.result.set_result(news.message)

    async def _ask(self, number: int, asked: _Asked) -> None:
        if self._up:
            asked.drivers += 1
            await self._send(Perform(number=number, task=asked.task))

    async def _send(self, message: Message) -> None:
        """What a dead driver does not hear the next one is told."""
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(encode(message) + b"\n")
            await self._process.stdin.drain()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_WITHIN):
                await process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # sudo is not ours to kill: it ends when its command's stdin has
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    # ---- what it is started in ---------------------------------------------------------------------------------------------

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "assay.adapters.fleet.driver"]
        root = Path(self.begin.root)
        if self.begin.address == LOCAL:
            return self._alone().wrap(command, root, TMP)
        if self.shut is None or self.shut.kind != "bubblewrap":
            return command
        reads = [part for path in map(str, [*readable(), *NETWORK]) if not path.startswith("/proc") for part in ("--ro-bind-try", path, path)]
        token = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray" / "auth_token")
        shared = ["--ro-bind-try", token, token, "--bind-try", str(RAY_FOLDER), str(RAY_FOLDER), "--bind", str(root), str(root)]
        return [
            "bwrap", "--unshare-user", "--die-with-parent", "--new-session", "--tmpfs", "/tmp", "--ro-bind", "/proc", "/proc", "--dev", "/dev",
            "--bind", "/dev/shm", "/dev/shm", *reads, *shared, "--chdir", str(root), "--", *command,
        ]  # fmt: skip

    def _alone(self) -> Sandbox:
        """What Ray itself is started in on this machine: namespaces of its own, in which there is no network. Raises FleetTrouble."""
        if self.shut is not None and self.shut.kind == "bubblewrap":
            return self.shut
        try:
            found = sandbox.choose("bubblewrap", self.begin.disk)
        except sandbox.NoSandbox as error:
            why = f"Ray listens on every address that it finds, so it is started where there is no network, and that needs bubblewrap: {error}"
            raise FleetTrouble(why, "apt install bubblewrap") from None
        assert found is not None
        return replace(found, native=self.shut.native) if self.shut else found

    def _environment(self) -> dict[str, str]:
        if self.begin.address == LOCAL:
            return self._alone().environment() | {"HOME": "/tmp"}
        found = {name: os.environ[name] for name in (*sandbox.KEPT, *RAY_VARIABLES) if name in os.environ}
        return found | {"HOME": str(Path.home()), "PYTHONPATH": sandbox.python_path()}


NETWORK = (Path("/etc/hosts"), Path("/etc/resolv.conf"), Path("/etc/nsswitch.conf"), Path("/etc/passwd"))
"""What is read to find another machine by its name."""
