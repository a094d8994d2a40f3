"""A job small enough to be run hundreds of times: least squares by AdamW in two micro-batches a step, and a network in memory to run it on."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET

from assay import client
from assay.adapters.engine_process import InlineEngine
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.adapters.memory_journal import MemoryJournal
from assay.adapters.memory_keys import MemoryKeys
from assay.adapters.memory_peers import MemoryPeers, Switchboard
from assay.build import Builder
from assay.chain import Params
from assay.daemon import Node, Ports, enrol
from assay.dispute.record import Rules
from assay.engine import JobFiles, RunLinks
from assay.exact.table import TensorType
from assay.execute import schedule_root
from assay.ids import PeerId
from assay.messages import PeerRecord
from assay.optim import AdamW, update_part
from assay.program import Program
from assay.runtime import Note
from assay.sampling import record_indices
from assay.stages import program_root
from assay.state import Tensors, frozen_root, state_root, to_bytes

SCALAR = TensorType(dtype="f32", shape=())
MICRO_BATCHES, BATCH, RECORDS = 2, 4, 40


def f32(*shape: int) -> TensorType:
    return TensorType(dtype="f32", shape=shape)


FROZEN: Tensors = {"buffer.shift": np.array([0.5, 0, -1], np.float32), "param.gain": np.array([1, 0.5, 2], np.float32)}


def program(frozen: bool = False, wide: int = 4) -> Program:
    """Least squares of x w against y, x of `wide` numbers; with `frozen`, of (x w) · gain + shift."""
    b = Builder()
    w, x, y = b.input("state", "param.w", f32(wide, 3)), b.input("batch", "x", f32(BATCH, wide)), b.input("batch", "y", f32(BATCH, 3))
    found = b.emit("matmul", x, w)
    if frozen:
        gain = b.input("frozen", "param.gain", f32(3))
        offset = b.sub(b.add(b.mul(found, gain), b.input("frozen", "buffer.shift", f32(3))), y)
    else:
        offset = b.sub(found, y)
    loss = b.scale(b.sum(b.mul(offset, offset), (0, 1), False), 1 / (3 * BATCH))
    pull = b.scale(b.mul(offset, gain) if frozen else offset, 2 / (3 * BATCH))
    gradient = b.emit("matmul", b.permute(x, (1, 0)), pull)
    outputs = [
        ("acc", "loss", b.add(b.input("acc", "loss", SCALAR), loss)),
        ("acc", "grad.w", b.add(b.input("acc", "grad.w", w.type), gradient)),
    ]
    micro = b.part(outputs)  # type: ignore[arg-type]
    update = update_part(AdamW(lr=0.1, clip=1.0), {"w": w.type}, MICRO_BATCHES)
    root = frozen_root(FROZEN) if frozen else UNSET
    return Program(gemm_bits=14, micro_batches=MICRO_BATCHES, constants=(), frozen_root=root, micro=micro, update=update)


def plan(steps: int, seed: int = 0, frozen: bool = False, wide: int = 4) -> client.Plan:
    made, random = program(frozen, wide), np.random.default_rng(seed)
    columns = AdamW(lr=0.1, clip=1.0).scalars([1.0] * steps)
    schedule = np.array([[columns[name][t] for name in made.scalars] for t in range(steps)], dtype=np.float32)
    state: Tensors = {name: np.zeros(t.shape, np.float32) for name, t in made.state.items()}
    state["param.w"] = random.normal(size=(wide, 3)).astype(np.float32)
    x = random.normal(size=(RECORDS, wide)).astype(np.float32)
    truth = random.normal(size=(wide, 3)).astype(np.float32)
    records = {"x": x, "y": (x @ truth).astype(np.float32)}
    return client.Plan(
        name="tiny", program=made, schedule=schedule, state=state, records=records, dataset="made up", batch=BATCH, frozen=FROZEN if frozen else {}
    )


LONG = 100_000
"""Seconds of chain time that no test waits for: it passes only when a test says `Net.skip(LONG)`, so that a slow machine misses nothing."""
PARAMS = Params(
    finality=1, activate_window=LONG, lease_window=LONG, takeover_window=LONG, serve_window=LONG, seal_window=LONG, reveal_window=LONG,
    open_window=LONG, challenge_window=2, links=2, verifiers=3, quorum=2, openings=1, redraws=1, depth=2, draw_bond=1000,
)  # fmt: skip


class Net:
    """A network in one process: one chain whose blocks come every `beat` seconds, and any number of nodes."""

    def __init__(self, folder: Path, beat: float = 0.02, rules: Rules | None = None) -> None:
        self.folder, self.beat = folder, beat
        self.ledger = MemoryLedger(b"tiny", seat_stake=10_000, rules=rules)
        self.board, self.blobs = Switchboard(), BlobNet()
        self.notes: list[tuple[str, Note]] = []
        self.watch: Callable[[str, Note], None] = lambda name, note: None
        self.nodes: dict[str, Node] = {}
        self.running: dict[str, asyncio.Task[None]] = {}
        self.ports: dict[str, Ports] = {}
        self._dying: list[asyncio.Task[None]] = []

    def make_ports(self, name: str, role: str = "worker") -> Ports:
        """A node's ports; the same node again when it has some (its disk and keys live on)."""
        if name in self.ports:
            return self.ports[name]
        chain = MemoryChain(self.ledger, name)
        self.ledger.mint(chain.account, 1_000_000)
        keys = MemoryKeys(name.encode(), chain.account)

        def record(addresses: list[str]) -> PeerRecord:
            return PeerRecord(
                peer=PeerId(""), account=chain.account, role=role, addresses=tuple(addresses), gateway="", sequence=0,
                chain_id=chain.chain_id, contract=chain.contract,
            )  # fmt: skip

        peers = MemoryPeers(self.board, keys.peer_seed, record)
        self.ports[name] = Ports(
            chain=chain, blobs=MemoryBlobs(self.blobs, peers.peer), peers=peers, keys=keys, journal=MemoryJournal(),
            engine=InlineEngine(), folder=self.folder / name, poll=self.beat,
        )  # fmt: skip
        return self.ports[name]

    async def up(self, name: str, make: Callable[..., Node], *, role: str = "worker", deposit: int = 0, seat: bool = False, **more: Any) -> Node:
        await asyncio.gather(*self._dying, return_exceptions=True)
        ports = self.make_ports(name, role)
        await enrol(ports, deposit=deposit, seat=seat)
        node = make(ports, lambda note: self._heard(name, note), **more)
        self.nodes[name] = node
        self.running[name] = asyncio.create_task(node.run(), name=name)
        return node

    def _heard(self, name: str, note: Note) -> None:
        self.notes.append((name, note))
        self.watch(name, note)

    async def down(self, name: str) -> None:
        self.nodes.pop(name).stop()
        await self.running.pop(name)

    def kill(self, name: str) -> None:
        """As SIGKILL does: nothing is finished, nothing is written."""
        self.nodes.pop(name)
        task = self.running.pop(name)
        task.cancel()
        self._dying.append(task)

    def lose_disk(self, name: str) -> None:
        """Journal, blobs and work folder of a node that is down are gone; its account and its keys are not."""
        old = self.ports[name]
        shutil.rmtree(old.folder, ignore_errors=True)
        blobs = MemoryBlobs(self.blobs, old.peers.peer)
        keys = MemoryKeys(name.encode(), old.chain.account)
        self.ports[name] = dataclasses.replace(old, journal=MemoryJournal(), blobs=blobs, keys=keys, engine=InlineEngine())

    def lose_blobs(self, name: str) -> None:
        """Of a node that is down the blobs are gone, and nothing else."""
        self.ports[name] = dataclasses.replace(self.ports[name], blobs=MemoryBlobs(self.blobs, self.ports[name].peers.peer), engine=InlineEngine())

    def said(self, topic: str, name: str = "") -> list[Note]:
        return [note for who, note in self.notes if note.topic == topic and name in ("", who)]

    def skip(self, seconds: int = LONG) -> None:
        """Chain time passes at once."""
        self.ledger.mine(seconds + 1)

    @contextlib.asynccontextmanager
    async def mining(self) -> AsyncIterator[None]:
        async def mine() -> None:
            while True:
                await asyncio.sleep(self.beat)
                self.ledger.mine()

        miner = asyncio.create_task(mine())
        try:
            yield
        finally:
            miner.cancel()
            for task in self.running.values():
                task.cancel()
            await asyncio.gather(miner, *self.running.values(), return_exceptions=True)

    async def until(self, happened: Callable[[], bool], seconds: float = 180) -> None:
        """Waits for something; a node that fell, or too long a wait, fails the test with what was said."""
        async with asyncio.timeout(seconds):
            while not happened():
                for name, task in self.running.items():
                    if task.done():
                        task.result()
                        raise AssertionError(f"{name} has ended")
                await asyncio.sleep(self.beat)

    def log(self) -> str:
        return "\n".join(f"{who:10} {note.topic:10} {note.text}" for who, note in self.notes)


async def post(
    net: Net, what: client.Plan, segment_steps: int, *, params: Params = PARAMS, service: str = "keys", scheduler: str = "scheduler"
) -> int:
    """The client publishes and posts the job; returns its number."""
    ports = net.make_ports("client", "client")
    await enrol(ports)
    chain = ports.chain
    found = await client.find_service(chain, net.ports[service].chain.account, 0)
    budget = 100 * what.steps + 1000
    wish = client.Wish(
        segment_steps=segment_steps, price_cap=100, fee=10, budget=budget, deadline=net.ledger.head.time + 10 * LONG,
        scheduler=net.ports[scheduler].chain.account, params=params,
    )  # fmt: skip
    _, terms = await client.publish(what, wish, found, chain, ports.blobs, ports.keys)
    return await client.post(chain, terms)


def replace(config: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(config, **changes)


def lay_out(root: Path, what: client.Plan, segment: str = "segment-1") -> JobFiles:
    """A job's and a segment's files as a role's hands put them, for steps from 0."""
    (root / "job-1").mkdir(parents=True, exist_ok=True)
    (root / segment).mkdir(exist_ok=True)
    (root / "job-1" / "program.json").write_bytes(what.program.dump())
    (root / "job-1" / "schedule.bin").write_bytes(what.schedule.astype("<f4").tobytes())
    if what.frozen:
        (root / "job-1" / "frozen.safetensors").write_bytes(to_bytes(what.frozen))
    (root / segment / "state-0.safetensors").write_bytes(to_bytes(what.state))
    cut = 24
    for at, name in enumerate(sorted(what.records)):
        np.save(root / segment / f"records-0-{at}.npy", what.records[name][:cut])
        np.save(root / segment / f"records-1-{at}.npy", what.records[name][cut:])
    return JobFiles(
        folder="job-1", program_root=program_root(what.program), schedule_root=schedule_root(what.schedule),
        scalars=len(what.program.scalars), micro_batches=MICRO_BATCHES, batch=BATCH, order=what.order(program_root(what.program)),
        fields=tuple(sorted(what.records)), shard_records=(cut, RECORDS - cut),
    )  # fmt: skip


def batch_for(root: Path, what: client.Plan, job: JobFiles, unit: int, step: int, m: int, segment: str = "segment-1") -> None:
    """The records of a micro-batch, as a verifier's hands put them."""
    wanted = record_indices(job.order, RECORDS, step, m, MICRO_BATCHES, BATCH)
    for at, name in enumerate(job.fields):
        np.save(root / segment / f"batch-{unit}-{at}.npy", what.records[name][wanted])


def links(root: Path) -> RunLinks:
    """A task for an engine: a segment of two steps, laid out in a folder."""
    made = plan(2)
    return RunLinks(job=lay_out(root, made), segment="segment-1", start=0, stop=2, parent_root=state_root(0, made.state), keep=1 << 20)
