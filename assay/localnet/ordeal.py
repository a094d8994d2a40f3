"""A network of processes that is hit by one fault after another while it trains, and what must have come of it in the end.

    chain, bootstrap node, key service, scheduler, workers, verifiers; one client after another submits the same training

Every process gets to the chain, and is reached by the others, over cables that can be cut (assay.localnet.wires). When the plan has been
carried out, the faults are over and the last job is done, everything is counted: each job ended in the state of an undisturbed run, every
range that was committed was paid to who committed it, nobody was slashed, and every token is where the receipts say (assay.localnet.books).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from assay.chain import Params
from assay.cli.common import Trouble
from assay.ids import Address, JobId
from assay.localnet import anvil
from assay.localnet.books import problems
from assay.localnet.demo import environment
from assay.localnet.faults import Kind, faults
from assay.localnet.injector import CHAIN, Injector
from assay.localnet.net import UP_WITHIN, Network, address_of, bootstrap_command
from assay.localnet.processes import Processes, die_with_parent
from assay.localnet.sockets import listening
from assay.localnet.usage import Sample, growth, leaks, sample
from assay.localnet.wires import Wires
from assay.ports import Outage, Reorganised
from assay.receipts import Ledger

PARAMS = Params(
    finality=2, activate_window=90, lease_window=120, takeover_window=240, serve_window=90, seal_window=90, reveal_window=90, open_window=90,
    challenge_window=4, links=2, verifiers=3, quorum=2, openings=1, redraws=2, depth=4, draw_bond=1_000_000,
)  # fmt: skip
"""Windows that end by themselves when everybody has done his part, and are longer than a fault and the start after it: who is hit loses time,
not money. Of three verifiers that are drawn two are enough, so that one that is down holds nobody up for long."""
BLOCK_TIME = 1.0
CONFIRMATIONS = 8
"""Blocks: more than the chain node loses when it is killed."""
ENDS_WITHIN = 1200.0
ANY = (Kind.KILL, Kind.PAUSE, Kind.CUT, Kind.HOLE, Kind.SLOW)
Listener = Callable[[dict[str, Any]], None]


class Scale(NamedTuple):
    """How large, how long, how hard."""

    faults: int
    """That are to be done."""
    gap: float = 2.0
    together: int = 3
    workers: int = 3
    verifiers: int = 4
    steps: int = 16
    segment_steps: int = 2
    seconds: float = 0.0
    """At least so long, whatever was done by then."""
    spared: tuple[str, ...] = ()
    """Never killed, so that a process lives long enough to show a leak."""
    look: float = 10.0
    """Seconds between two looks at what processes take."""


class Ordeal:
    """One run under `base`, which is empty. `train` is a training file of `steps` steps or more."""

    def __init__(self, scale: Scale, seed: int, base: Path, train: Path, progress: Listener = lambda note: None) -> None:
        self.scale, self.seed, self.base, self.train, self.progress = scale, seed, base, train, progress
        self.names: dict[Address, str] = {}
        self.up: dict[str, asyncio.Event] = {}
        self.notes: Counter[str] = Counter()
        self.posted: asyncio.Future[int] | None = None
        self.jobs: dict[int, str] = {}
        """Client of each."""
        self.ledger = Ledger()
        self.samples: dict[str, list[Sample]] = {}
        self.injector: Injector

    # ---- the whole -----------------------------------------------------------------------------------------------------------------

    async def run(self) -> dict[str, Any]:
        """What came of it. Raises Trouble when the network did not come up or a job did not end."""
        began = time.monotonic()
        logs = self.base / "logs"
        chain = await asyncio.to_thread(lambda: anvil.Anvil(self.base / CHAIN, block_time=BLOCK_TIME, prepare=die_with_parent))
        try:
            async with Processes(self._hear, logs) as processes, Wires(self._whose) as wires:
                self.injector = Injector(processes, wires, chain, self.base / "faults.jsonl", environment())
                try:
                    contracts = await asyncio.to_thread(anvil.deploy, chain.url)
                    network = Network(
                        rpc=chain.url, chain_id=contracts.chain_id, contract=contracts.jobs, bootstrap="", contracts=contracts
                    )
                    await self._open(network)
                    expected = await self._undisturbed(processes)
                    await self._ordeal(network)
                    found = await self._count(network, expected)
                finally:
                    await self.injector.end()
        finally:
            await asyncio.to_thread(chain.stop)
        return {"seed": self.seed, "wall_seconds": round(time.monotonic() - began, 1), **found}

    def _whose(self, host: str, port: int) -> str:
        return self.injector.whose(host, port)

    # ---- opening -------------------------------------------------------------------------------------------------------------------

    async def _open(self, network: Network) -> None:
        daemons = ["keyservice", "scheduler"]
        daemons += [f"worker-{i + 1}" for i in range(self.scale.workers)] + [f"verifier-{i + 1}" for i in range(self.scale.verifiers)]
        command = bootstrap_command(msgspec.structs.replace(network, rpc=await self._rpc("bootstrap")), self.base / "bootstrap")
        self.injector.keep("bootstrap", command)
        log = self.base / "logs" / "bootstrap.out"
        network.bootstrap = await asyncio.to_thread(address_of, log, lambda: True)
        for place, name in enumerate(daemons):
            self.up[name] = asyncio.Event()
            near, far = f"127.0.1.{place + 1}", f"127.0.2.{place + 1}"
            words = [sys.executable, "-m", "assay.cli", name.split("-")[0], "start", "--json", "--confirmations", str(CONFIRMATIONS)]
            words += [*await self._arguments(network, name), "--listen", near, "--announce", far]
            self.injector.keep(name, words, self._lay(name, near, far))
        try:
            async with asyncio.timeout(UP_WITHIN):
                await asyncio.gather(*(event.wait() for event in self.up.values()))
        except TimeoutError:
            missing = [name for name, event in self.up.items() if not event.is_set()]
            raise Trouble(f"{', '.join(missing)} did not come up", self.injector.processes.said(missing[0]), "look at the logs") from None
        self.progress({"topic": "up", "daemons": sorted(self.up)})

    async def _rpc(self, name: str) -> str:
        """A way to the chain for one node alone."""
        port = await self.injector.wires.lay(("127.0.0.1", 0), ("127.0.0.1", self.injector.chain.port), CHAIN, name)
        return f"http://127.0.0.1:{port}"

    async def _arguments(self, network: Network, name: str) -> list[str]:
        return msgspec.structs.replace(network, rpc=await self._rpc(name)).arguments(self.base / name)

    def _lay(self, name: str, near: str, far: str) -> Callable[[], None]:
        """What a node that has started listens on is reached by the others at `far`, through a cable."""
        tasks: set[asyncio.Task[None]] = set()

        async def watch() -> None:
            while True:  # a port that was still taken after a kill is not the one it had
                for port in listening(near):
                    with contextlib.suppress(OSError):
                        await self.injector.wires.lay((far, port), (near, port), name)
                await asyncio.sleep(1.0)

        def started() -> None:
            for task in tasks:
                task.cancel()
            tasks.clear()
            tasks.add(asyncio.create_task(watch()))

        return started

    async def _undisturbed(self, processes: Processes) -> str:
        """Root of the same training in one process."""
        command = [sys.executable, "-m", "assay.cli", "run", str(self.train), "--local", "--json", "--no-sample"]
        process = await processes.start("local", [*command, "--steps", str(self.scale.steps)], env=environment())
        if await process.wait():
            raise Trouble("the training does not run", processes.said("local"), f"assay run {self.train} --local")
        await asyncio.sleep(0.1)
        lines = (self.base / "logs" / "local.out").read_text().splitlines()
        return str(json.loads(lines[-1])["final_state_root"])

    # ---- hearing -------------------------------------------------------------------------------------------------------------------

    def _hear(self, name: str, note: dict[str, Any]) -> None:
        topic = str(note.get("topic", "error"))
        self.notes[f"{name.split('-')[0]}: {topic}"] += 1
        if topic == "up" and name in self.up:
            if "account" in note:
                self.names[Address(note["account"])] = name
            self.up[name].set()
        elif topic == "posted" and self.posted is not None and not self.posted.done():
            self.posted.set_result(int(note["job"]))

    # ---- the ordeal ----------------------------------------------------------------------------------------------------------------

    async def _ordeal(self, network: Network) -> None:
        """Faults and jobs until so many faults were done (and so much time is over), then until the last job is done."""
        params = self.base / "params.toml"
        params.write_text("".join(f"{key} = {value}\n" for key, value in msgspec.structs.asdict(PARAMS).items()))
        breaking, looking = asyncio.create_task(self._break()), asyncio.create_task(self._look())
        number = 0
        try:
            while not breaking.done() or not number:
                number += 1
                job = asyncio.create_task(self._job(network, number, params))
                try:
                    await asyncio.wait({job, breaking}, return_when=asyncio.FIRST_COMPLETED)
                    if breaking.done():
                        looking.cancel()  # what comes now is another load
                        breaking.result()  # raises what went wrong with it
                    await job
                finally:
                    job.cancel()
                    await asyncio.gather(job, return_exceptions=True)
        finally:
            for task in (breaking, looking):
                task.cancel()
            await asyncio.gather(breaking, looking, return_exceptions=True)
        await self.injector.heal()

    async def _look(self) -> None:
        """What every process takes, again and again; each look is a line of `usage.jsonl`."""
        began = time.monotonic()
        while True:
            for name in [*self.up, "bootstrap", CHAIN]:
                if self.injector.alive(name):
                    with contextlib.suppress(RuntimeError):  # the chain node is being started again
                        found = await asyncio.to_thread(sample, time.monotonic() - began, self.injector.pid(name), self.base / name)
                        if found is not None:
                            self.samples.setdefault(name, []).append(found)
                            with (self.base / "usage.jsonl").open("a") as log:
                                log.write(json.dumps({"node": name, **found._asdict()}) + "\n")
            await asyncio.sleep(self.scale.look)

    async def _break(self) -> None:
        kinds: dict[str, tuple[Kind, ...]] = dict.fromkeys([*self.up, CHAIN], ANY) | {"bootstrap": (Kind.KILL, Kind.PAUSE), "client": ANY}
        kinds |= {name: tuple(kind for kind in kinds[name] if kind is not Kind.KILL) for name in self.scale.spared}
        began, done = time.monotonic(), 0
        for fault in faults(self.seed, kinds, self.scale.gap, self.scale.together):
            await asyncio.sleep(max(0.0, fault.at - (time.monotonic() - began)))
            done += await self.injector.do(fault)
            self.progress({"topic": "fault", "done": done, **fault.told()})
            if done >= self.scale.faults and time.monotonic() - began >= self.scale.seconds:
                return

    async def _job(self, network: Network, number: int, params: Path) -> None:
        """A client from its submission until it has its weights."""
        loop = asyncio.get_running_loop()
        where = await self._arguments(network, "client")
        where[where.index("--data") + 1] = str(self.base / f"client-{number}")
        words = [sys.executable, "-m", "assay.cli"]
        submit = [*words, "submit", str(self.train), "--steps", str(self.scale.steps), "--json", *where, "--watch", "--yes", "--budget", "40"]
        submit += ["--fee", "0.05", "--segment-steps", str(self.scale.segment_steps), "--params", str(params)]
        self.posted = loop.create_future()
        process = await self.injector.processes.start("submit", submit, env=environment())
        ended = asyncio.create_task(process.wait())
        await asyncio.wait({ended, self.posted}, timeout=ENDS_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        if not self.posted.done():
            self.injector.processes.kill("submit")
            self.notes["submissions that came to nothing"] += 1
            if self.notes["submissions that came to nothing"] > 10:
                raise Trouble("nothing can be submitted", self.injector.processes.said("submit"), "look at the logs")
            return
        job = self.posted.result()
        self.jobs[job] = f"client-{number}"
        self.progress({"topic": "job", "job": job})
        self.injector.processes.kill("submit")  # what follows is a client like any that comes back to its job
        await ended
        finished = asyncio.Event()
        watch = [*words, "job", "watch", str(job), "--json", *where]
        self.injector.keep("client", watch)
        following = asyncio.create_task(self._follow(network, job, finished))
        try:
            async with asyncio.timeout(ENDS_WITHIN):
                await finished.wait()
        except TimeoutError:
            state = json.dumps(self.ledger.outcomes(JobId(job)))
            raise Trouble(f"job {job} was not done within {ENDS_WITHIN:g} s", state, "look at the logs") from None
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, network: Network, job: int, finished: asyncio.Event) -> None:
        """Until the job is closed and its client has ended, what came back in its account."""
        reader = await network.reader()
        ledger, after = Ledger(), (-1, -1)
        try:
            while not finished.is_set():
                try:
                    fresh = await reader.events(after, CONFIRMATIONS)
                except Outage:
                    fresh = []
                except Reorganised:
                    ledger, after, fresh = Ledger(), (-1, -1), []
                ledger.feed(fresh)
                if fresh:
                    self.ledger, after = ledger, (fresh[-1].block, fresh[-1].index)
                known = ledger.jobs.get(JobId(job))
                if known is not None and known.refund is not None and not self.injector.kept("client"):
                    finished.set()
                await asyncio.sleep(1.0)
        finally:
            await reader.close()

    # ---- counting ------------------------------------------------------------------------------------------------------------------

    async def _count(self, network: Network, expected: str) -> dict[str, Any]:
        reader = await network.reader()
        ledger = Ledger()
        ledger.feed(await reader.events((-1, -1), 0))
        await reader.close()
        wrong = await problems(network, ledger, set(self.names))
        for job in ledger.jobs:
            last = ledger.last_good(job)
            root = last.end_root.hex() if last is not None and last.end_root is not None else ""
            if not ledger.finished(job) or root != expected:
                wrong.append(f"job {job} ended in {root or 'nothing'}, the undisturbed run in {expected}")
        injector = self.injector
        fees: Counter[str] = Counter()
        for segment in ledger.segments.values():
            for payment in segment.payments:
                if payment.amount < 0:
                    fees[payment.reason] += 1
        grown = {name: found for name, each in sorted(self.samples.items()) if (found := growth(each)) is not None}
        return {
            "problems": wrong,
            "leaks": {name: grew for name, found in grown.items() if (grew := leaks(found))},
            "faults": len(injector.done),
            "by_kind": dict(sorted(Counter(str(fault.kind) for fault in injector.done).items())),
            "by_target": dict(sorted(Counter(fault.target for fault in injector.done).items())),
            "jobs": len(ledger.jobs),
            "segments": dict(sorted(Counter(segment.state.name for segment in ledger.segments.values()).items())),
            "fees": dict(sorted(fees.items())),
            "starts": dict(sorted(injector.starts.items())),
            "ended_by_themselves": [ended._asdict() for ended in injector.ended],
            "final_state_root": expected,
            "growth": {name: found._asdict() for name, found in grown.items()},
            "notes": dict(sorted(self.notes.items())),
        }
