"""A simulated network that trains the small program of tests/dispute_cases.py in earnest, so that its disputes have something to argue about.

Machines, chain and clock are those of assay.sim; the hands run real links. A liar runs other links (`LinkHands.make`), or plays otherwise
(`LinkHands.party`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

import msgspec

from assay import draw, hearing, links, merkle
from assay.chain import Params, Terms
from assay.codec import Message, decode, digest, encode
from assay.dispute.answers import Party
from assay.dispute.moves import Facts, Moment, State
from assay.dispute.players import Asserter, Voter
from assay.dispute.proofs import Link, chunk_proof
from assay.dispute.record import Disputed, Record, Rules, facts_of
from assay.dispute.served import patience
from assay.disputing import named
from assay.execute import schedule_root
from assay.ids import Digest
from assay.job import JobSpec, SealedRef, data_root, envelope_info
from assay.merkle import sha256
from assay.messages import Boundary
from assay.sim import Options, World
from assay.sim.cast import KEY_SERVICE, SCHEDULER
from assay.sim.hands import Hands, seal
from assay.sim.holding import key_of
from assay.sim.node import SimNode
from assay.sim.records import made
from assay.state import Tensors, acc_root, from_bytes, state_root, to_bytes
from assay.tasks import (
    CheckProgram,
    ChunkMade,
    MakeChunk,
    MakeMove,
    MoveMade,
    NodesServed,
    OpenBoundary,
    ProgramChecked,
    ReplayUnit,
    RunSegment,
    SegmentRun,
    ServeNodes,
    ServeUnits,
    UnitReplayed,
    UnitsServed,
)
from tests import dispute_cases as cases

M = cases.MICRO_BATCHES
RULES = Rules(open_window=60, grace=30, budget=60, payout_delay=40, bond=300_000)
PARAMS = Params(
    finality=2, activate_window=120, lease_window=300, takeover_window=120, serve_window=120, seal_window=120, reveal_window=60, open_window=60,
    challenge_window=400, links=16, verifiers=3, quorum=2, openings=1, redraws=0, depth=2, bond_tenths=60,
)  # fmt: skip
OPTIONS = Options(
    steps=2, segment_steps=2, micro_batches=M, params=PARAMS, workers=1, verifiers=3, purse=5_000_000, rules=RULES, deadline=3000, stake=100_000_000
)


class Body(Message, frozen=True, kw_only=True):
    """Plaintext of a checkpoint or boundary: a tensor file."""

    tensors: bytes


def now(answer: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        answer.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class LinkParty(Party):
    """A party whose links are in memory: a provider's own run, or the one link that a verifier replayed."""

    def __init__(self, task: MakeMove, record: Record, facts: Facts, at: Moment, ran: dict[int, Link]) -> None:
        super().__init__(record, facts, task.side, at, task.opening, task.last, task.served)
        self.task, self.ran = task, ran

    def link(self, state: State) -> Link:
        return self.ran[state.unit]

    @property
    def ends(self) -> list[Digest]:
        return [self.ran[unit].end_root for unit in range(len(self.ran))]

    def asserter(self, state: State) -> Asserter:
        if self.task.own:
            return Asserter(self.ran.__getitem__, self.ends)
        return Voter(self.ran.__getitem__, dict(named(self.task.boundary, M)))

    def is_wrong(self, state: State) -> bool:
        if state.revealed is not None:
            return self.link(state).trace.root != state.revealed.trace_root
        return merkle.root_of(self.ends) != state.facts.link_root


class LinkHands(Hands):
    """The hands of all roles, over real links."""

    party: type[LinkParty] = LinkParty

    def make(self, step: int, m: int, state: Tensors, acc: Tensors | None, batch: Tensors) -> Link:
        """One link of a provider."""
        return Link(cases.job(), step, m, state, acc, batch)

    def check_program(self, task: CheckProgram) -> ProgramChecked:
        program = cases.PROGRAM
        return ProgramChecked(
            job=task.job, root=cases.job().root, micro_flops=1, update_flops=1, peak_memory=1, micro_leaves=program.micro_leaves,
            update_leaves=program.update_leaves,
        )  # fmt: skip

    def tensors(self, blob: Any) -> Tensors:
        return from_bytes(decode(self.opened(blob), Body, limit=1 << 26).tensors, 1 << 26)

    # ---- the worker

    def segment(self, task: RunSegment | ServeUnits | MakeChunk | MakeMove) -> dict[int, Link]:
        """The links of a segment, run anew unless they are on disk."""
        if ("run", task.segment) not in self.disk:
            state, done = self.tensors(task.parent.cid), {}
            for step in range(task.start, task.stop):
                acc: Tensors | None = None
                for m in range(M + 1):
                    batch = cases.batch_of(step, m) if m < M else {}
                    link = done[len(done)] = self.make(step, m, state, acc, batch)
                    acc = link.end
                state = link.end
            self.disk["run", task.segment] = done
        found: dict[int, Link] = self.disk["run", task.segment]
        return found

    def run_segment(self, task: RunSegment) -> SegmentRun:
        spec = self.spec(task.spec)
        done = self.segment(task)
        ends = [link.end_root for link in done.values()]
        key = sha256(b"checkpoint key", self.keys._seed, draw.u64(task.segment), draw.u64(task.stop))
        blob = seal(Body(tensors=to_bytes(done[len(done) - 1].end)), key)
        envelope = self.keys.wrap(key, spec.key_service_key, envelope_info(self.account))
        self.keys.store(key)
        ref = SealedRef(cid=self.store.put(blob), size=len(blob), key_id=sha256(key), envelope=envelope)
        return SegmentRun(
            segment=task.segment, stop=task.stop, link_root=merkle.root_of(ends), end_root=ends[-1],
            proof=merkle.prove([merkle.leaf(i, end) for i, end in enumerate(ends)], len(ends) - 1), checkpoint=ref, first_loss=0, last_loss=0,
            milliseconds=1000, computed=task.stop - task.start,
        )  # fmt: skip

    def serve_units(self, task: ServeUnits) -> UnitsServed:
        done = self.segment(task)
        leaves = [merkle.leaf(i, link.end_root) for i, link in enumerate(done.values())]
        served = []
        for unit in task.units:
            link = done[unit]
            body = {f"state.{n}": a for n, a in link.state.items()} | ({f"acc.{n}": a for n, a in link.acc.items()} if link.m else {})
            key = sha256(b"boundary key", self.keys._seed, draw.u64(task.segment), draw.u64(unit))
            blob = self.store.put(seal(Body(tensors=to_bytes(body)), key))
            places = links.named_ends(unit, M)
            for who, encryption_key in task.recipients:
                boundary = Boundary(
                    segment=task.segment, unit=unit, cid=blob, key_id=sha256(key), wrapped=self.keys.wrap(key, encryption_key),
                    link_ends=tuple(done[p].end_root for p in places), proofs=tuple(merkle.prove(leaves, p) for p in places),
                )  # fmt: skip
                served.append((who, boundary))
        return UnitsServed(boundaries=tuple(served))

    def make_chunk(self, task: MakeChunk) -> ChunkMade:
        done = self.segment(task)
        place, rest = hearing.end_named(draw.chunk(self.opening_hash(task.asked_block), task.segment), task.units, M)
        path = merkle.prove([merkle.leaf(i, link.end_root) for i, link in enumerate(done.values())], place)
        return ChunkMade(proof=chunk_proof(done[place].end, rest, path))

    # ---- the verifier

    def boundary(self, blob: Any) -> Any:
        return self.tensors(blob)

    def open_boundary(self, task: OpenBoundary) -> Any:
        self.tensors(task.boundary.cid)
        return super().open_boundary(task)

    def replay_unit(self, task: ReplayUnit) -> UnitReplayed:
        offset, m = links.place(task.unit, M)
        step, served, ends = task.start + offset, self.tensors(task.boundary.cid), list(task.boundary.link_ends)
        state = {n.removeprefix("state."): a for n, a in served.items() if n.startswith("state.")}
        acc = {n.removeprefix("acc."): a for n, a in served.items() if n.startswith("acc.")}
        link = Link(cases.job(), step, m, state, acc if m else None, cases.batch_of(step, m) if m < M else {})
        proven = state_root(step, state) == (ends[0] if offset else task.parent_root) and (not m or acc_root(step, m, acc) == ends[-2])
        if proven:
            self.disk["link", task.segment, task.unit] = link
        self.disk["trace", task.segment, task.unit] = link.contents
        agrees = proven and link.end_root == ends[-1]
        reason = "" if agrees else "it ends elsewhere"
        return UnitReplayed(segment=task.segment, unit=task.unit, agrees=agrees, trace_root=link.trace.root, reason=reason, proven=proven)

    # ---- disputes

    def ran(self, task: MakeMove) -> dict[int, Link]:
        if task.own:
            return self.segment(task)
        return {key[2]: link for key, link in self.disk.items() if key[:2] == ("link", task.segment)}

    def known(self, task: MakeMove) -> tuple[Record, Facts]:
        """The chain's record of a dispute, and what it is about."""
        record = now(self.chain.dispute(task.dispute))
        segment = Disputed(
            segment=task.segment, start=task.start, stop=task.stop, parent_end=task.parent_root, link_root=task.link_root, bond=task.bond,
            revealed=task.revealed,
        )  # fmt: skip
        return record, facts_of(record, now(self.chain.dispute_rules()), self.chain.chain_id, self.chain.disputes, task.terms, segment)

    def make_move(self, task: MakeMove) -> MoveMade:
        found = self.side(task).answer()
        wait = patience(now(self.chain.dispute_rules()).grace)
        return MoveMade(
            dispute=task.dispute, move=found.move, shown=found.shown, why=found.why, wanted=found.wanted, patience=wait, junk=found.junk
        )  # fmt: skip

    def serve_nodes(self, task: ServeNodes) -> NodesServed:
        return NodesServed(dispute=task.place.dispute, nodes=self.side(task.place).serve(task.wanted).nodes)

    def side(self, task: MakeMove) -> LinkParty:
        (record, facts), head = self.known(task), self.chain.ledger.head
        return self.party(task, record, facts, Moment(head.number + 1, head.time), self.ran(task))


class LinkWorld(World):
    """`World` with one real job."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.passed: defaultdict[str, list[float]] = defaultdict(list)
        """For each node, when it passed the places of `points`."""
        super().__init__(*args, **more)

    def point(self, node: SimNode, where: str) -> None:
        self.passed[node.name].append(self.clock.now)
        super().point(node, where)

    def _publish(self, number: int) -> Terms:
        o, service, sealed, program = self.options, self.nodes[f"{KEY_SERVICE}-0"], cases.data(), cases.PROGRAM
        first = cases.initial_state()
        root, schedule = state_root(0, first), schedule_root(cases.SCHEDULE)
        spec = JobSpec(
            name="words", program=self.store.put(b"the program"), program_root=cases.job().root, schedule=self.store.put(b"the schedule"),
            schedule_root=schedule, scalars=program.scalars, state=self._sealed(number, "state", Body(tensors=to_bytes(first))), state_root=root,
            frozen=self._sealed(number, "frozen", Body(tensors=to_bytes(cases.FROZEN))),
            dataset=self._dataset(number), order=cases.ORDER, steps=o.steps, micro_batches=M, batch=cases.BATCH, segment_steps=o.segment_steps,
            key_service=service.account, key_service_peer=service.peer, key_service_key=service.hands.keys.encryption_key,
        )  # fmt: skip
        return Terms(
            spec=self.store.put(encode(spec)), spec_digest=digest(spec), program_root=spec.program_root, state_root=root,
            dataset_root=data_root(sealed.dataset, cases.ORDER, cases.BATCH), schedule_root=schedule, steps=o.steps, micro_batches=M,
            segment_steps=o.segment_steps, micro_weight=1, update_weight=1, micro_leaves=program.micro_leaves, update_leaves=program.update_leaves,
            price_cap=o.price_cap, fee=o.fee, budget=self.budget, deadline=self.ledger.blocks[0].time + o.deadline,
            scheduler=self.nodes[f"{SCHEDULER}-0"].account, key_service=service.account, params=o.params,
        )  # fmt: skip

    def _dataset(self, number: int) -> Any:
        dataset = cases.data().dataset
        shards = tuple(
            msgspec.structs.replace(s, sealed=self._sealed(number, f"shard {i}", made(key_of(self, number, f"shard {i}"), s.records)))
            for i, s in enumerate(dataset.shards)
        )
        return msgspec.structs.replace(dataset, shards=shards)
