# Measures the gas of a whole dispute played by real daemons, each a process of its own, over an anvil chain with the contracts that are deployed:
# a worker that takes every matrix product as zeros, of the 0.4 M parameter GPT of examples/shakespeare.py and of bench/pairs.py, whose scores are
# one tensor of 2^13 chunks; three drawn verifiers, of whom one disputes it. Each side's calls of the dispute (gas used, calldata and intrinsic
# gas included, `pay` apart), how its trees were walked down, the answers that were served, and the seconds of chain time from seal to verdict.
# Against: the same liar, silent, so that every level is opened on chain. The network is otherwise the same: seeds, blocks every half second.
# Goal: less gas for both sides when nodes are served, and not a second of the challenger's budget spent in either.
"""Run: python bench/dispute_played.py [--quick] [--json]. Quick plays one dispute, over the GPT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from assay.adapters.evm_record import read_record
from assay.audit.auditor import Auditor
from assay.chain import DisputePaid, DisputeResolved, JobPosted
from assay.dispute.drawing import draw
from assay.dispute.moves import Moment
from assay.dispute.record import Rules
from assay.localnet import rpc
from assay.localnet.demo import PARAMS, environment
from assay.localnet.net import Network, launch
from assay.localnet.processes import Processes
from assay.ports import Outage

ROOT = Path(__file__).resolve().parent.parent
TRAININGS = {"gpt": ROOT / "examples" / "shakespeare.py", "pairs": ROOT / "bench" / "pairs.py"}
RULES = Rules(open_window=120, grace=300, budget=300, payout_delay=2, bond=1_000_000)
STEPS, VERIFIERS, WITHIN = 4, 3, 400.0
WINDOWS = ("activate_window", "lease_window", "serve_window", "seal_window", "reveal_window", "open_window")


class Play:
    """One network, one dispute."""

    def __init__(self, training: Path, silent: bool) -> None:
        self.training = training
        self.silent, self.up, self.accounts = silent, set[str](), dict[str, str]()
        self.answers = 0
        """That the liar has served."""

    def heard(self, name: str, note: dict[str, Any]) -> None:
        self.answers += name == "liar" and note.get("topic") == "nodes"
        if note.get("topic") == "up":
            self.up.add(name)
            self.accounts[str(note.get("account", "")).lower()] = name

    async def run(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
            base = Path(folder)
            async with Processes(self.heard, base / "logs") as processes, launch(processes, base, block_time=0.5, rules=RULES) as network:
                await self.start(processes, network, base)
                reader = await network.reader()
                try:
                    events = await self.follow(reader)
                    job = next(event.job for event in events if isinstance(event, JobPosted))
                    auditor = Auditor(await read_record(reader, job, 0), job)
                finally:
                    await reader.close()
                auditor.run()
                resolved = next(event for event in events if isinstance(event, DisputeResolved))
                case = auditor.cases[resolved.dispute]
                facts, record = auditor.facts_of(case), auditor.record.disputes[resolved.dispute]
                assert facts is not None
                made = [(played.move, Moment(played.block, played.time)) for played in record.moves]
                drawing = draw(facts, record.digest, Moment(record.block, record.time), made)
                gas = self.gas(network, record.block, max(p.block for p in record.moves))
        return {
            "outcome": resolved.outcome, "moves": len(record.moves), "asserter_gas": gas["liar"],
            "challenger_gas": sum(used for name, used in gas.items() if name != "liar"), "descents": [d.text for d in drawing.descents],
            "made": [type(p.move).__name__ for p in record.moves], "seconds": record.moves[-1].time - record.time,
            "budget_spent": max(step.spent for step in drawing.steps if step.side == "challenger"), "answers": self.answers,
        }  # fmt: skip

    async def start(self, processes: Processes, network: Network, base: Path) -> None:
        names = ["scheduler", "keyservice", *(f"verifier-{i}" for i in range(VERIFIERS)), "liar"]
        for name in names:
            module = ["tests.liars.worker"] if name == "liar" else ["assay.cli", name.split("-")[0]]
            args = [sys.executable, "-m", *module, "start", *network.arguments(base / name), "--json"]
            await processes.start(name, args + ["--silent"] * (self.silent and name == "liar"), env=environment())
        deadline = time.monotonic() + 120
        while not set(names) <= self.up:
            assert time.monotonic() < deadline, f"not all came up: {self.up}"
            await asyncio.sleep(0.2)
        long = msgspec.structs.replace(PARAMS, challenge_window=300, **dict.fromkeys(WINDOWS, 300))
        params = base / "params.toml"
        params.write_text("".join(f"{key} = {value}\n" for key, value in msgspec.structs.asdict(long).items()))
        submit = [sys.executable, "-m", "assay.cli", "submit", str(self.training), "--steps", str(STEPS), "--seed", "0", "--json"]
        submit += [*network.arguments(base / "client"), "--watch", "--yes", "--budget", "200", "--fee", "0.05", "--segment-steps", str(STEPS)]
        await processes.start("client", [*submit, "--params", str(params)], env=environment())

    async def follow(self, reader: Any) -> list[Any]:
        deadline, events = time.monotonic() + WITHIN, []
        while not any(isinstance(event, DisputePaid) for event in events):
            assert time.monotonic() < deadline, "no dispute was paid in time"
            with contextlib.suppress(Outage):  # a busy machine; the next look tells the same
                events = await reader.events((-1, -1), 0)
            await asyncio.sleep(0.5)
        return events

    def gas(self, network: Network, first: int, last: int) -> dict[str, int]:
        """Used by each party's calls to Disputes from the seal to the move that decided."""
        used: dict[str, int] = {}
        for number in range(first, last + 1):
            block = rpc.call(network.rpc, "eth_getBlockByNumber", hex(number), True)
            for sent in block["transactions"]:
                if (sent.get("to") or "").lower() == network.contracts.disputes.lower():
                    receipt = rpc.call(network.rpc, "eth_getTransactionReceipt", sent["hash"])
                    name = self.accounts[sent["from"].lower()]
                    used[name] = used.get(name, 0) + int(receipt["gasUsed"], 16)
        return used


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = {}
    for name in ("gpt",) if args.quick else TRAININGS:
        for how in ("served",) if args.quick else ("served", "silent"):
            result[f"{name}, {how}"] = asyncio.run(Play(TRAININGS[name], how == "silent").run())
    for name, found in result.items():
        if not args.json:
            print(f"{name}: {found['outcome']} after {found['moves']} moves and {found['seconds']} s: {', '.join(found['made'])}")
            print(f"  asserter {found['asserter_gas']:,} gas, challenger {found['challenger_gas']:,}; answers served: {found['answers']}")
            print("".join(f"  {text}\n" for text in found["descents"]), end="")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
