"""The demo: every part of the network as a process of its own on this machine, with one liar and one crash, and what came of it.

    chain, contracts, bootstrap node -> scheduler, key service, four workers, six verifiers -> a client submits a training file

Each process is told an RPC URL, a contract, a bootstrap address and a folder of its own, and nothing else. One worker commits what it
did not compute, and stands by it in a dispute until the contract has evaluated one operation and slashed it; one is killed with SIGKILL in
the middle of a segment. Beside it, the same training runs in one process, so that the
two final roots can be compared. The demo itself only starts processes, pulls one plug, and reads: the chain, and what daemons print.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from assay.chain import (
    TERMINAL,
    AnyChainEvent,
    DisputeMoved,
    DisputeOpened,
    DisputePaid,
    DisputeResolved,
    DisputeSealed,
    JobPosted,
    Params,
    SegmentState,
)
from assay.cli.common import ENVIRONMENT, USAGE, Trouble
from assay.dispute.record import Rules
from assay.ids import Address, DisputeId, JobId, SegmentId
from assay.localnet.display import Display
from assay.localnet.memory import Peak
from assay.localnet.net import ONE_THREAD, Network, launch
from assay.localnet.processes import Processes
from assay.ports import Outage
from assay.receipts import Segment, receipt

WORKERS, VERIFIERS, SEGMENTS = 4, 6, 8
PARAMS = Params(
    finality=1, activate_window=30, lease_window=10, takeover_window=120, serve_window=30, seal_window=30, reveal_window=20, open_window=20,
    challenge_window=6, links=2, verifiers=3, quorum=2, openings=1, redraws=1, depth=4, draw_bond=1_000_000,
)  # fmt: skip
"""Windows of seconds where a real network has hours: nobody here is asleep."""
RULES = Rules(open_window=10, grace=5, budget=20, payout_delay=2, bond=1_000_000)
"""Of disputes: a party that plays answers within a second or two."""
BLOCK_TIME = 0.25
UP_WITHIN, DONE_WITHIN, PAID_WITHIN = 90.0, 900.0, 30.0
LIAR = "tests.liars.worker"
"""Outside the wheel: the honest worker with one part replaced."""


class Demo:
    """One run."""

    def __init__(self, *, as_json: bool, keep: Path | None, train: Path | None, steps: int, seed: int) -> None:
        self.as_json, self.keep, self.steps, self.seed = as_json, keep, steps, seed
        self.train = train or _example()
        self.names: dict[Address, str] = {}
        self.up: dict[str, asyncio.Event] = {}
        self.display = Display(lambda who: self.names.get(who, who[:10] + "…"), as_json=as_json)
        self.client: dict[str, dict[str, Any]] = {}
        self.local: dict[str, Any] = {}
        self.before, self.after = "", ""
        self.killed: str | None = None
        self.killed_in, self.revived = SegmentId(0), False
        self.processes: Processes | None = None
        self.local_command: list[str] = []
        self.balances: dict[str, int] = {}
        """Before the job was posted."""
        self.open_disputes: set[DisputeId] = set()
        """Not paid yet."""
        self.challengers: dict[DisputeId, Address] = {}
        self.moves: dict[DisputeId, int] = {}
        self.peak = Peak()

    # ---- the whole -------------------------------------------------------------------------------------------------------

    async def run(self) -> dict[str, Any]:
        """The facts, as `assay demo --json` ends with them. Raises Trouble."""
        base = self.keep.absolute() if self.keep else Path(tempfile.mkdtemp(prefix="assay-demo-"))
        base.mkdir(parents=True, exist_ok=True)
        if any(base.iterdir()):
            raise Trouble(f"{base} is not empty", "the nodes of a former run would not fit a new chain", "name another folder: --keep FOLDER", USAGE)
        started = time.monotonic()
        try:
            with self.display:
                async with Processes(self._hear, base / "logs") as processes:
                    self.processes = processes
                    sampler = asyncio.create_task(self.peak.sample(4.0))
                    try:
                        result = await self._scenes(processes, base)
                    finally:
                        sampler.cancel()
        finally:
            if self.keep is None:
                shutil.rmtree(base, ignore_errors=True)
        result |= {"wall_seconds": round(time.monotonic() - started, 1), "peak_memory_bytes": self.peak.peak}
        self._report(result)
        return result

    async def _scenes(self, processes: Processes, base: Path) -> dict[str, Any]:
        self.display.phase = "starting a chain and deploying the contracts"
        async with launch(processes, base, block_time=BLOCK_TIME, rules=RULES) as network:
            reader = await network.reader()
            try:
                await self._start_client(processes, network, base)
                await self._start_all(processes, network, base)
                job = await self._follow(processes, network, reader, base)
                self.display.phase = "everybody pulls what the contract owes"
                await self._withdraw(reader, base)
                return await self._result(network, reader, job)
            finally:
                await reader.close()

    # ---- starting --------------------------------------------------------------------------------------------------------

    async def _start_all(self, processes: Processes, network: Network, base: Path) -> None:
        self.display.phase = f"starting a scheduler, a key service, {WORKERS} workers and {VERIFIERS} verifiers; the client traces the training"
        workers = [*(f"worker-{i}" for i in range(1, WORKERS)), "liar"]
        await self._start(processes, network, base, [*workers, *(f"verifier-{i}" for i in range(1, VERIFIERS + 1)), "keyservice", "scheduler"])
        self.display.say("up", f"{len(self.up)} daemons are up", accounts={name: who for who, name in self.names.items()})

    async def _start(self, processes: Processes, network: Network, base: Path, daemons: list[str]) -> None:
        for name in daemons:
            self.up[name] = asyncio.Event()
            await self._start_daemon(processes, network, base, name)
        waiting = [asyncio.create_task(self._wait_up(processes, name)) for name in daemons]
        try:
            await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()

    async def _start_daemon(self, processes: Processes, network: Network, base: Path, name: str) -> None:
        """By its name: `liar`, or a role with or without a number."""
        role = [LIAR] if name == "liar" else ["assay.cli", name.split("-")[0]]
        args = [sys.executable, "-m", *role, "start", *network.arguments(base / name), "--json"]
        await processes.start(name, args, env=environment())

    async def _wait_up(self, processes: Processes, name: str) -> None:
        process = processes.running[name]
        ended = asyncio.create_task(process.wait())
        up = asyncio.create_task(self.up[name].wait())
        done, _ = await asyncio.wait({ended, up}, timeout=UP_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, up):
            task.cancel()
        if up not in done:
            why = processes.said(name) or f"it said nothing within {UP_WITHIN:g} s"
            raise Trouble(f"{name} did not come up", why, "assay doctor; assay demo --keep FOLDER keeps the logs", ENVIRONMENT)

    async def _start_client(self, processes: Processes, network: Network, base: Path) -> None:
        params = base / "params.toml"
        params.write_text("".join(f"{key} = {value}\n" for key, value in msgspec.structs.asdict(PARAMS).items()))
        common = [str(self.train), "--steps", str(self.steps), "--seed", str(self.seed), "--json"]
        submit = [sys.executable, "-m", "assay.cli", "submit", *common, *network.arguments(base / "client"), "--watch", "--yes"]
        submit += ["--budget", "200", "--fee", "0.05", "--segment-steps", str(-(-self.steps // SEGMENTS)), "--params", str(params)]
        await processes.start("client", submit, env=environment())
        self.local_command = [sys.executable, "-m", "assay.cli", "run", *common, "--local"]

    # ---- what is heard ---------------------------------------------------------------------------------------------------

    def _hear(self, name: str, note: dict[str, Any]) -> None:
        topic = note.get("topic")
        if name == "local":
            self._hear_local(note)
        elif name == "client":
            self._hear_client(note)
        elif topic == "up":
            if "account" in note:
                self.names[Address(note["account"])] = name
            if name in self.up:
                self.up[name].set()
        elif topic == "step" and name in self.up:
            loss = struct.unpack("<f", struct.pack("<I", note["loss_f32"]))[0]
            self.display.progress(SegmentId(note["segment"]), note["step"], loss)
            self._maybe_kill(SegmentId(note["segment"]), note["step"])

    def _hear_client(self, note: dict[str, Any]) -> None:
        topic = str(note.get("topic", "error"))
        self.client[topic] = note
        if topic in ("estimate", "posted", "error"):
            self.display.say(topic, str(note.get("text") or note.get("error") or f"the client's estimate: {note.get('total', 0) / 1e6:.2f} tokens"))
        if topic == "done":
            self.after = str(note.get("after") or "")

    def _hear_local(self, note: dict[str, Any]) -> None:
        if note.get("topic") == "step":
            self.display.local = f"one process: step {note['step'] + 1}"
        elif "final_state_root" in note:
            self.local = note
            self.before = str(note.get("before") or "")
            self.display.local = "one process: done"

    # ---- following -------------------------------------------------------------------------------------------------------

    async def _follow(self, processes: Processes, network: Network, reader: Any, base: Path) -> JobId:
        """Until the client has its weights and the local run its own. Pulls the plug of one worker on the way, and plugs it in again."""
        after, told = (-1, -1), set[tuple[int, SegmentState]]()
        deadline = time.monotonic() + DONE_WITHIN
        ledger = self.display.ledger
        while not ("done" in self.client and self.local) or self.open_disputes:
            self._check_alive(processes)
            if time.monotonic() > deadline:
                raise Trouble(f"the job was not done within {DONE_WITHIN:g} s", "", "assay demo --keep FOLDER keeps the logs")
            try:
                fresh = await reader.events(after, 0)
                self.display.head = f"block {(await reader.head()).number}, {self.peak.peak / 2**30:.2f} GiB at most"
            except Outage:  # a busy machine; the next look tells the same
                fresh = []
            for event in fresh:
                after = (event.block, event.index)
                segment = ledger.apply(event)
                self._dispute(event)
                if isinstance(event, JobPosted):
                    self.balances = await asyncio.to_thread(network.balances, event.block - 1)
                    self.names[event.client] = "client"
                if segment is not None and (segment.number, segment.state) not in told:
                    told.add((segment.number, segment.state))
                    self._tell(segment)
            if "local" not in processes.running and (self.killed is not None or "done" in self.client):
                await processes.start("local", self.local_command, env=environment(), nice=19)  # the network waits for a lease to run out
            await self._revive(network, base)
            await asyncio.sleep(0.3)
        return JobId(int(self.client["posted"]["job"]))

    def _dispute(self, event: AnyChainEvent) -> None:
        match event:
            case DisputeSealed():
                self.challengers[event.dispute] = event.challenger
                self.moves[event.dispute] = 0
            case DisputeOpened():
                self.open_disputes.add(event.dispute)
                who, whom = self.display.name(self.challengers[event.dispute]), self.display.name(event.asserter)
                text = f"dispute {event.dispute}: {who} disputes link {event.unit} of segment {event.segment} by {whom}"
                self.display.say("disputed", text, dispute=event.dispute, segment=event.segment)
            case DisputeMoved():
                self.moves[event.dispute] += 1
            case DisputeResolved() if event.dispute in self.open_disputes:
                taken = f"{event.taken / 1e6:.2f} tokens of its bond are taken" if event.taken else "its bond is gone already"
                text = f"dispute {event.dispute}: {event.outcome} after {self.moves[event.dispute] + 1} moves; {taken}"
                self.display.say("resolved", text, dispute=event.dispute, segment=event.segment, outcome=event.outcome, taken=event.taken)
            case DisputePaid():
                self.open_disputes.discard(event.dispute)

    def _tell(self, segment: Segment) -> None:
        who = self.display.name(segment.provider)
        steps = f"segment {segment.number} (steps {segment.start}-{segment.stop})"
        match segment.state:
            case SegmentState.ASSIGNED:
                self.display.phase = "training"
                self.display.say("assigned", f"{steps} goes to {who}")
            case SegmentState.DRAWN:
                names = ", ".join(self.display.name(v) for v in segment.verifiers)
                self.display.say("drawn", f"{steps} by {who} is committed; links {', '.join(map(str, segment.units))} drawn for {names}")
            case state if state in TERMINAL:
                if state != SegmentState.SETTLED:
                    self.display.forget(segment)
                self.display.say(state.name.lower(), f"segment {segment.number} by {who}, {receipt(segment)}", segment=segment.number)

    def _check_alive(self, processes: Processes) -> None:
        for name in {"client", "local", "scheduler", "keyservice"} & set(processes.running):
            process = processes.running[name]
            finished = "done" in self.client if name == "client" else bool(self.local) if name == "local" else False
            if process.returncode is not None and not finished:
                note = self.client.get("error", {}) if name == "client" else {}
                why = f"{note.get('error', '')} {note.get('why', '')}".strip() or processes.said(name)
                raise Trouble(f"{name} ended with exit code {process.returncode}", why, "assay demo --keep FOLDER keeps the logs")

    def _maybe_kill(self, number: SegmentId, step: int) -> None:
        """Once: an honest worker that says it has done `step`, when that is in the middle of a segment of the job's later part."""
        segment = self.display.ledger.segments.get(number)
        if self.killed is not None or segment is None or self.processes is None:
            return
        name, left = self.display.name(segment.provider), segment.stop - step - 1
        if name.startswith("worker") and segment.start >= self.steps // 4 and left >= 2 and not self._on_a_lie(segment):
            self.killed, self.killed_in = name, number
            self.processes.kill(name)
            self.display.say("killed", f"{name} is killed with SIGKILL after step {step} of segment {number}", party=name, segment=number)

    async def _revive(self, network: Network, base: Path) -> None:
        """Starts the killed worker again when its segment has moved on: lapsed, or committed if the kill came too late."""
        segment = self.display.ledger.segments.get(self.killed_in)
        if self.killed is None or self.revived or segment is None or segment.state in (SegmentState.ASSIGNED, SegmentState.ACTIVE):
            return
        assert self.processes is not None
        self.display.say("up", f"{self.killed} is started again on the folder that it left", party=self.killed)
        await self._start_daemon(self.processes, network, base, self.killed)
        if segment.state == SegmentState.LAPSED:
            self.revived = True
        else:  # it had committed before it died: another one has to
            self.killed = None

    def _on_a_lie(self, segment: Segment) -> bool:
        """Whether it builds on what the liar committed, so that it will be void anyway."""
        parent = self.display.ledger.segments.get(segment.parent)
        return parent is not None and (self.display.name(parent.provider) == "liar" or self._on_a_lie(parent))

    # ---- the end ---------------------------------------------------------------------------------------------------------

    async def _withdraw(self, reader: Any, base: Path) -> None:
        """Tells every node's owner to pull, and waits until nothing is owed."""
        from assay.cli.folder import give_order

        owners = [name for name in self.up if name.startswith(("worker", "verifier", "liar"))]
        orders = [asyncio.to_thread(give_order, base / name, "withdraw") for name in owners]
        for problem in await asyncio.gather(*orders, return_exceptions=True):
            if problem is not None and not isinstance(problem, Trouble):  # one that is not up again yet pulls another day
                raise problem
        deadline = time.monotonic() + PAID_WITHIN
        owed = set(self.names)
        while owed and time.monotonic() < deadline:
            owed = {who for who in owed if (view := await reader.view(who)).credit or view.dispute_credit}
            await asyncio.sleep(0.2)

    async def _result(self, network: Network, reader: Any, job: JobId) -> dict[str, Any]:
        """Losses are those of the run in one process: heartbeats may be lost, and equal roots make them the network's, too."""
        ledger = self.display.ledger
        balances = await network.balance_changes(reader, self.balances)
        self.names |= network.names()
        refused = (SegmentState.WITHHELD, SegmentState.UNPAID, SegmentState.REJECTED)
        return {
            "job": job,
            "program_cid": self.client["posted"]["program_cid"],
            "final_state_root": self.client["done"]["final_state_root"],
            "local_state_root": self.local["final_state_root"],
            "loss_first": self.local["loss_first"],
            "loss_last": self.local["loss_last"],
            "balance_changes": balances,
            "segments": ledger.outcomes(job),
            "rejections": [
                {"party": s.provider, "segment": s.number, "reason": s.reason} for s in ledger.of_job(job) if s.state in refused
            ],
            "slashes": [{"party": s.who, "amount": s.amount, "reason": "a dispute was lost"} for s in ledger.slashed],
            "chain": {"name": "anvil", "id": network.chain_id},
        }  # fmt: skip

    def _report(self, result: dict[str, Any]) -> None:
        changes = {self.names.get(Address(who), who): change for who, change in result["balance_changes"].items()}
        order = ["client", "worker", "liar", "verifier"]
        named = dict(sorted(changes.items(), key=lambda item: (next((i for i, r in enumerate(order) if item[0].startswith(r)), 9), item[0])))
        same = result["final_state_root"] == result["local_state_root"]
        facts = [
            ("loss", f"{result['loss_first']:.3f} → {result['loss_last']:.3f}"),
            ("final state root", result["final_state_root"]),
            ("in one process", result["local_state_root"] + ("  (equal)" if same else "  (DIFFERENT)")),
            ("slashed", ", ".join(f"{self.names.get(s['party'], s['party'])} {s['amount'] / 1e6:.2f}" for s in result["slashes"]) or "nobody"),
            ("segments", ", ".join(f"{count} {state.lower()}" for state, count in result["segments"].items())),
            ("time and memory", f"{result['wall_seconds']:.0f} s, {result['peak_memory_bytes'] / 2**30:.2f} GiB for all processes together"),
        ]
        self.display.summary(named, self.before, self.after, facts)


def environment() -> dict[str, str]:
    """One thread a process for what NumPy and torch would otherwise spread over all cores."""
    return ONE_THREAD | {"PYTHONPATH": os.pathsep.join(_paths())}


def _paths() -> list[str]:
    return [str(_top()), *filter(None, [os.environ.get("PYTHONPATH", "")])]


def _top() -> Path:
    """The checkout that the demo runs from: its examples and its liars are not in the wheel."""
    top = Path(__file__).resolve().parent.parent.parent
    if not (top / "tests" / "liars").is_dir():
        what = "the demo needs a checkout of the project"
        raise Trouble(what, "its liar is deliberately no part of what is installed", "git clone the project, then: make demo", ENVIRONMENT)
    return top


def _example() -> Path:
    return _top() / "examples" / "shakespeare.py"
