"""The simulated network: nodes with the real machines of all roles, a ledger, peers and blobs, on one seeded virtual clock.

The same seed and options give the same run, to the last byte. A large one (`Options.shared`) shares what its nodes know of the chain.
A client posts its jobs and then only watches; nodes crash, messages are lost and the network splits as the options say
(assay.sim.troubles); liars are parts of their own (assay.sim.cast). Training is not simulated (assay.sim.toy), nor is the cryptography of
keys (assay.adapters.memory_keys).
"""

from __future__ import annotations

import gc
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from msgspec import UNSET

from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.adapters.memory_keys import MemoryKeys
from assay.adapters.memory_peers import Switchboard
from assay.chain import AnyCall, CancelJob, Deposit, JobClosed, JobPosted, PostJob, Register, TakeSeat, Terms
from assay.codec import digest, encode
from assay.ids import Address, Cid, JobId, PeerId
from assay.job import JobSpec, SealedRef, data_root
from assay.merkle import sha256
from assay.messages import AnyGossip, AnyReply, AnyRequest, JobAnnouncement
from assay.receipts import Ledger as Receipts
from assay.runtime import Heard, Note
from assay.sim import holding
from assay.sim.blockchain import Blockchain
from assay.sim.cast import HONEST, KEY_SERVICE, SCHEDULER, VERIFIER, WORKER, Part, Self
from assay.sim.clock import Clock
from assay.sim.figures import Figures
from assay.sim.hands import Store, encode_toy, read_spec
from assay.sim.invariants import Invariants
from assay.sim.liars import INVENTS_EVERYTHING
from assay.sim.node import Crashed, SimNode
from assay.sim.options import Options
from assay.sim.reader import Reader
from assay.sim.shared import SharedNode
from assay.sim.toy import Toy, ToyState
from assay.sim.troubles import Troubles
from assay.tasks import RunSegment

Watch = Callable[[SimNode, Note], None]


KEPT_NOTES = 20_000
"""Of a large network, the last."""
FORGET_EVERY = 64
"""Blocks after which the ledger of a large network lets go of what nobody reads any more, and all money is counted."""


class CrashAt(NamedTuple):
    """Where a node is to be killed: at the `point`-th of the places that `World.points` lists for it; for how long; with its disk?"""

    node: str
    point: int
    down: float = 3.0
    wipe: bool = False
    forever: bool = False


class World:
    def __init__(
        self, options: Options, seed: int, cast: Mapping[str, Part] | None = None, crash: CrashAt | None = None, watch: Watch | None = None
    ) -> None:  # fmt: skip
        """`cast` names the part of a node (`worker-1`) or of all nodes of a role (`worker`) that is not the honest one."""
        if options.shared and (options.rules is not None or options.reorgs or crash is not None):
            raise ValueError("a network that shares its facts has no disputes, no reorganisations and no chosen crashes")
        if options.leaving and not options.shared:
            raise ValueError("nodes leave for good only in a network that shares its facts")
        self.options, self.seed, self.depth = options, seed, 1
        self.random = random.Random(seed)
        self._chance = random.Random(f"who is what {seed}")
        self.clock = Clock()
        self.ledger = MemoryLedger(sha256(b"assay sim", str(seed).encode()), rules=options.rules)
        self.board = Switchboard(seed, options.latency, options.loss)
        self.nodes: dict[str, SimNode] = {}
        self.points: dict[str, list[str]] = {}
        """For each node, every place where it could be killed, in the order in which it passed them."""
        self.log: deque[tuple[float, str, Note]] = deque(maxlen=KEPT_NOTES if options.shared else None)
        self.receipts = Receipts()
        self.posted: list[JobId] = []
        self.specs: dict[JobId, JobSpec] = {}
        self.of_role: dict[str, list[SimNode]] = {role: [] for role in (SCHEDULER, KEY_SERVICE, WORKER, VERIFIER)}
        self.open_jobs: set[JobId] = set()
        self.liars: set[Address] = set()
        self.figures = Figures(self)
        self.invariants = Invariants(self)
        self.readers = [Reader(self, 0.02 + 0.23 * i / options.readers) for i in range(options.readers if options.shared else 0)]
        self._names: dict[Address, str] = {}
        self._near: dict[JobId, list[SimNode]] = {}
        self._left: dict[Address, float] = {}
        self.seeds = self._draw_seeds()
        """32 bytes for each step of a large network's nodes."""
        self._crash, self._watch = crash, watch
        self._by_peer: dict[PeerId, SimNode] = {}
        self._seen = (-1, -1)
        self._count_at = FORGET_EVERY
        self.events = 0
        """Of the chain, so far."""
        self._cast = {**HONEST, **(cast or {})}
        self.chain = Blockchain(self.clock, self.ledger, self.depth, self._on_block)
        self._people()
        self.minted = sum(self.ledger.balances().values())
        self.before = self.ledger.balances()
        """Of every account, at the beginning."""

    # ---- who is there ----------------------------------------------------------------------------------------------------

    def _people(self) -> None:
        o = self.options
        self.client = self.ledger.account("client", tokens=self.budget * o.jobs)
        self.client_keys = MemoryKeys(b"client", self.client)
        self.store = Store()
        """The client's blobs; it serves them as long as the run lasts."""
        self.ledger.apply(self.client, Register(encryption_key=self.client_keys.encryption_key, peer=PeerId("peer-client")))
        names = [
            *((f"{SCHEDULER}-{i}", SCHEDULER) for i in range(o.schedulers)), *((f"{KEY_SERVICE}-{i}", KEY_SERVICE) for i in range(o.key_services)),
            *((f"{WORKER}-{i}", WORKER) for i in range(o.workers)), *((f"{VERIFIER}-{i}", VERIFIER) for i in range(o.verifiers)),
        ]  # fmt: skip
        for name, role in names:
            self._enrol(name, role)
        self.ledger.mine()
        for node in self.nodes.values():
            self.clock.after(self.random.uniform(0, 0.5), node.boot)
        holding.begin(self)
        for i in range(o.jobs):
            self.clock.after(1.0 + i * o.every, partial(self._post, i))
        self.clock.after(o.deadline + 5.0, self._give_up)
        self._names[self.client] = "client"
        self.troubles = Troubles(self)

    def _enrol(self, name: str, role: str) -> None:
        staked = role in (WORKER, VERIFIER)
        account = self.ledger.account(name, tokens=self.options.stake + self.options.purse if staked else 0)
        me = Self(MemoryChain(self.ledger, name), PeerId(f"peer-{name}"), MemoryKeys(name.encode(), account), self.options)
        self.ledger.apply(account, Register(encryption_key=me.keys.encryption_key, peer=me.peer))
        if staked:
            self.ledger.apply(account, Deposit(amount=self.options.stake))
        if role == VERIFIER:
            self.ledger.apply(account, TakeSeat())
        part = self._cast.get(name) or self._cast[role]
        if part is not HONEST[role]:
            self.liars.add(account)
        if role == WORKER and self._chance.random() < self.options.liars:
            part = INVENTS_EVERYTHING
            self.liars.add(account)
        kind = SharedNode if self.options.shared else SimNode
        node = kind(self, name, role, account, me.peer, lambda: part.machine(me), part.hands(me))
        if role == WORKER and self._chance.random() < self.options.stragglers:
            node.pace *= self.options.slowness
        if isinstance(node, SharedNode):
            node.reader = self._chance.choice(self.readers)
            node.reader.accounts[account] = node
            if role == SCHEDULER:
                node.reader.schedulers.append(node)
            elif role == KEY_SERVICE:
                node.reader.services.append(node)
        self.nodes[name] = self._by_peer[me.peer] = node
        self._names[account] = name
        self.of_role[role].append(node)
        self.points[name] = []

    def replace(self, gone: SharedNode) -> None:
        """Another node comes in the place of one that has left for good."""
        self._left[gone.account] = self.clock.now
        self.of_role[gone.role].remove(gone)
        del self._by_peer[gone.peer], gone.reader.accounts[gone.account]
        name = f"{gone.role}-{len(self.nodes)}"
        self._enrol(name, gone.role)
        self.minted += self.options.stake + self.options.purse  # none but workers and verifiers leave
        self.before[self.nodes[name].account] = self.options.purse
        self.nodes[name].boot()
        self.troubles.plan(self.nodes[name])

    @property
    def budget(self) -> int:
        """Enough for every segment to be tried four times."""
        o = self.options
        segments = -(-o.steps // o.segment_steps)
        return 4 * (o.price_cap * o.steps + segments * o.params.verifiers * (1 + o.params.redraws) * o.fee)

    # ---- the client ------------------------------------------------------------------------------------------------------

    def _post(self, number: int) -> None:
        terms = self._publish(number)
        self.figures.submitted[terms.spec] = self.clock.now
        self.chain.call(self.client, f"post:{number}", PostJob(terms=terms), lambda _: None)  # type: ignore[arg-type]

    def client_calls(self, name: str, call: AnyCall) -> None:
        """What else the client does, for example `CancelJob`."""
        self.chain.call(self.client, f"client:{name}", call, lambda _: None)  # type: ignore[arg-type]

    def _give_up(self) -> None:
        """The client takes back what is left of jobs that were not done by their deadline."""
        for job in sorted(self.open_jobs):
            if not self.receipts.jobs[job].cancelled and not self.receipts.finished(job):
                self.cancel(job)

    def cancel(self, job: JobId) -> None:
        self.client_calls(f"cancel:{job}", CancelJob(job=job))

    def turn(self, role: str, number: int) -> SimNode:
        return self.of_role[role][0 if role == KEY_SERVICE and self.options.holders else number % len(self.of_role[role])]

    def _sealed(self, number: int, what: str, body: Any) -> SealedRef:
        return holding.sealed(self, number, what, body)

    def _publish(self, number: int) -> Terms:
        o, service = self.options, self.turn(KEY_SERVICE, number)
        toy = Toy(sha256(b"toy program", str(number).encode()), o.micro_batches, 4, 3)
        first = sha256(b"toy state", toy.program)
        schedule = sha256(b"toy schedule")
        dataset = holding.dataset(self, number)
        spec = JobSpec(
            name=f"toy-{number}", program=self.store.put(encode_toy(toy)), program_root=toy.program, schedule=self.store.put(b"toy schedule"),
            schedule_root=schedule, scalars=("lr",), state=self._sealed(number, "state", ToyState(step=0, state=first)), state_root=first,
            frozen=self._sealed(number, "frozen", ToyState(step=0, state=sha256(b"toy frozen"))),
            dataset=dataset, order=sha256(b"toy order"), steps=o.steps, micro_batches=o.micro_batches, batch=8, segment_steps=o.segment_steps,
            key_service=service.account, key_service_peer=service.peer, key_service_key=service.hands.keys.encryption_key,
            holders=holding.group(self) or UNSET,
        )  # fmt: skip
        return Terms(
            spec=self.store.put(encode(spec)), spec_digest=digest(spec), program_root=toy.program, state_root=first,
            dataset_root=data_root(dataset, spec.order, spec.batch), schedule_root=schedule, steps=o.steps, micro_batches=o.micro_batches,
            segment_steps=o.segment_steps, micro_weight=1, update_weight=1, micro_leaves=toy.micro_leaves, update_leaves=toy.update_leaves,
            price_cap=o.price_cap, fee=o.fee, budget=self.budget, deadline=self.ledger.blocks[0].time + o.deadline,
            scheduler=self.turn(SCHEDULER, number).account, key_service=service.account, params=o.params,
        )  # fmt: skip

    # ---- what goes between nodes -----------------------------------------------------------------------------------------

    def request(self, source: SimNode, target: PeerId, message: AnyRequest, answer: Callable[[AnyReply], None]) -> None:
        """Carries a request and, if one is given, its answer; what is lost is lost."""
        node, delay = self._by_peer.get(target), self.board.fate(source.peer, target)
        if node is None or delay is None:
            return
        there = node

        def back(reply: AnyReply) -> None:
            wait = self.board.fate(target, source.peer)
            if wait is not None:
                self.clock.after(wait, lambda: answer(reply))

        self.clock.after(delay, lambda: there.act(there.life, lambda: there.receive(source.peer, message, back)))

    def gossip(self, source: SimNode, message: AnyGossip) -> None:
        for node in self._reached(message) if self.options.fanout else list(self.nodes.values()):
            delay = self.board.fate(source.peer, node.peer) if node is not source else None
            if delay is not None and (node.up or not self.options.shared):
                node.later(delay, partial(node.hear, Heard(peer=source.peer, message=message)))

    def _reached(self, message: JobAnnouncement) -> list[SimNode]:
        """The workers that the last announcement of the job has reached, and a new one in the place of one of them."""
        workers, near = self.of_role[WORKER], self._near.setdefault(message.job, [])
        near[:] = [node for node in near if node.up]
        if len(near) >= self.options.fanout:
            near.pop(self.random.randrange(len(near)))
        while len(near) < min(self.options.fanout, len(workers)):
            node = self.random.choice(workers)
            if node not in near:
                near.append(node)
        return near

    def find_blob(self, source: SimNode, cid: Cid, near: tuple[PeerId, ...]) -> bytes | None:
        """From the peers `near` first, then from all; the client serves to all."""
        first = [self._by_peer[peer] for peer in near if peer in self._by_peer]
        for node in [*first, *(self.of_role[SCHEDULER] if self.options.shared else self.nodes.values())]:
            if node.up and cid in node.hands.store and self.board.fate(source.peer, node.peer) is not None:
                found: bytes = node.hands.store[cid]
                return found
        return self.store.get(cid)

    # ---- what goes wrong -------------------------------------------------------------------------------------------------

    def point(self, node: SimNode, where: str) -> None:
        """A place where a node may be killed. Raises Crashed when it is to be."""
        if self.options.shared:
            return
        passed = self.points[node.name]
        passed.append(where)
        crash = self._crash
        if crash is not None and crash.node == node.name and len(passed) - 1 == crash.point:
            raise Crashed

    def crashed(self, node: SimNode) -> None:
        crash = self._crash
        self._crash = None
        assert crash is not None
        node.kill(crash.wipe)
        if not crash.forever:
            self.clock.after(crash.down, node.boot)

    def incident(self, what: str, who: str = "") -> None:
        """Something went wrong that is no node's note: for the picture."""
        self.figures.incident(what, self.clock.now, who)

    def trains(self, task: RunSegment) -> None:
        self.figures.trains(task, self.clock.now)

    def _draw_seeds(self) -> Iterator[bytes]:
        """Many at a time."""
        while True:
            drawn = self.random.randbytes(1 << 15)
            for at in range(0, len(drawn), 32):
                yield drawn[at : at + 32]

    def is_up(self, account: Address) -> bool:
        node = self.nodes.get(self.name_of(account))
        return node is not None and node.up

    def left_at(self, account: Address) -> float:
        """When it left for good."""
        return self._left.get(account, math.inf)

    def pace_of(self, account: Address) -> float:
        """Seconds that a step takes there."""
        return self.nodes[self.name_of(account)].pace

    # ---- the run ---------------------------------------------------------------------------------------------------------

    def _on_block(self) -> None:
        for event in self.ledger.events(self._seen, self.depth if self.options.reorgs else 0):
            self._seen = (event.block, event.index)
            self.events += 1
            self.receipts.apply(event)
            if isinstance(event, JobPosted):
                self.posted.append(event.job)
                self.open_jobs.add(event.job)
                self.specs[event.job] = read_spec(self.store[event.terms.spec])
            self.figures.see(event)
            self.invariants.see(event)
            if isinstance(event, JobClosed):
                self.open_jobs.discard(event.job)
                self._near.pop(event.job, None)
        number = self.ledger.head.number
        if number >= self._count_at:
            self._count_at = number + FORGET_EVERY
            self.invariants.count()
            if self.options.shared:
                self.ledger.forget(number - FORGET_EVERY)
                self.receipts.released.clear()
        for reader in self.readers:
            self.clock.after(reader.lag, reader.block)
        if self.readers:
            return
        for node in self.nodes.values():
            if node.up:
                node.tick()

    def noted(self, node: SimNode, note: Note) -> None:
        self.log.append((self.clock.now, node.name, note))
        if self._watch is not None:
            self._watch(node, note)

    def over(self) -> bool:
        """All jobs are closed and nothing of them is live."""
        if len(self.posted) < self.options.jobs:
            return False
        return not self.open_jobs

    def run(self, until: Callable[[], bool] | None = None, limit: float | None = None) -> bool:
        """Until all jobs are over (or `until`); False when the time ran out first."""
        if not self.options.shared:
            return self._run(until, limit)
        gc.collect()
        gc.freeze()
        gc.disable()  # next to nothing here is in a cycle, and looking at millions of objects again and again takes most of the time
        try:
            return self._run(until, limit)
        finally:
            gc.enable()
            gc.unfreeze()

    def _run(self, until: Callable[[], bool] | None, limit: float | None) -> bool:
        return self.clock.run(until or self.over, self.options.patience if limit is None else limit)

    def changes(self) -> dict[str, int]:
        """By name: what each party has gained or lost, counting stake and what it is credited."""
        out = {}
        for name, account in [("client", self.client), *((node.name, node.account) for node in self.nodes.values())]:
            view = self.ledger.view(account)
            out[name] = view.tokens + view.stake + view.credit + view.dispute_credit - (self.before.get(account, 0) + self._staked(name))
        return out

    def _staked(self, name: str) -> int:
        return self.options.stake if name.startswith((WORKER, VERIFIER)) else 0

    def name_of(self, account: Address) -> str:
        return self._names.get(account, account)
