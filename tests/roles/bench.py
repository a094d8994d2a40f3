"""Drives one machine by hand: events in, effects out, on a chain of the test's own making."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from assay import merkle
from assay.adapters.memory_journal import MemoryJournal
from assay.chain import (
    AnyCall,
    AnyChainEvent,
    Assigned,
    Committed,
    Drawn,
    JobPosted,
    KeyReleased,
    Params,
    Registered,
    Served,
    Terms,
)
from assay.ids import Address, Cid, Digest, JobId, PeerId, SegmentId
from assay.job import DatasetRef, Field, JobSpec, SealedRef, ShardRef, data_root
from assay.runtime import (
    Answered,
    AnyEffect,
    AnyEvent,
    Ask,
    Asked,
    ChainSeen,
    Core,
    Do,
    Done,
    Failed,
    Fault,
    Fetch,
    Fetched,
    Note,
    Reply,
    Send,
    Sent,
    Started,
    Wake,
    Woke,
)
from assay.tasks import JobLoaded, KeyStored, ProgramChecked

CLIENT, SCHEDULER, KEYS, ME, OTHER = (Address("0x" + c * 40) for c in "abcde")
VERIFIERS = tuple(Address("0x" + c * 40) for c in "123")
PEERS = {who: PeerId(f"peer-{who[2]}") for who in (CLIENT, SCHEDULER, KEYS, ME, OTHER, *VERIFIERS)}


def digest(name: str) -> Digest:
    return merkle.sha256(name.encode())


def cid(name: str) -> Cid:
    return Cid(f"bafkrei{digest(name).hex()[:52]}")


def sealed(name: str) -> SealedRef:
    return SealedRef(cid=cid(name), size=1000, key_id=digest(f"key of {name}"), envelope=b"e")


SHARDS = tuple(ShardRef(sealed=sealed(f"shard {i}"), records=8, root=digest(f"root {i}")) for i in range(2))
SPEC = JobSpec(
    name="job", program=cid("program"), program_root=digest("program"), schedule=cid("schedule"), schedule_root=digest("schedule"),
    scalars=("lr",), state=sealed("state"), state_root=digest("state 0"), order=digest("order"), steps=20, micro_batches=2, batch=4,
    dataset=DatasetRef(name="data", fields=(Field(name="x", dtype="f32", shape=(2,)),), shards=SHARDS), segment_steps=10,
    key_service=KEYS, key_service_peer=PEERS[KEYS], key_service_key=b"k" * 32,
)  # fmt: skip
PARAMS = Params(
    finality=2, activate_window=100, lease_window=400, takeover_window=50, serve_window=100, seal_window=100, reveal_window=50, open_window=50,
    challenge_window=200, links=2, verifiers=3, quorum=2, openings=1, redraws=1, depth=2,
)  # fmt: skip
TERMS = Terms(
    spec=cid("spec"), spec_digest=digest("spec"), program_root=SPEC.program_root, state_root=SPEC.state_root,
    dataset_root=data_root(SPEC.dataset, SPEC.order, SPEC.batch),
    schedule_root=SPEC.schedule_root, steps=20, micro_batches=2, segment_steps=10, micro_weight=3, update_weight=1, micro_leaves=9,
    update_leaves=5, price_cap=100, fee=10, budget=10_000, deadline=10**6, scheduler=SCHEDULER, key_service=KEYS, params=PARAMS,
)  # fmt: skip
CHECKED = ProgramChecked(
    job=JobId(1), root=SPEC.program_root, micro_flops=1000, update_flops=100, peak_memory=10_000, micro_leaves=9, update_leaves=5
)
ENDS = [digest(f"end {i}") for i in range(30)]
LEAVES = [merkle.leaf(i, end) for i, end in enumerate(ENDS)]
LINK_ROOT = merkle.root(LEAVES)


@dataclasses.dataclass
class Bench:
    """`core` holds the machine; every event goes through its journal."""

    core: Core
    now: int = 1000
    block: int = 0
    said: list[Note] = dataclasses.field(default_factory=list)
    asks: int = 0

    @classmethod
    def of(cls, machine: Any) -> Bench:
        bench = cls(Core(machine, MemoryJournal()))
        bench.feed(Started())
        return bench

    @property
    def state(self) -> Any:
        return self.core.machine.state

    def feed(self, event: AnyEvent, seed: bytes = b"\x11" * 32) -> list[AnyEffect]:
        effects = self.core.step(event, self.now, seed)
        self.said += [effect for effect in effects if isinstance(effect, Note)]
        return effects

    def topics(self) -> list[str]:
        return [note.topic for note in self.said]

    # ---- the chain

    def seen(self, kind: type[Any], **fields: Any) -> list[AnyEffect]:
        self.block += 1
        event: AnyChainEvent = kind(block=self.block, time=self.now, index=0, **fields)
        return self.feed(ChainSeen(event=event))

    def posted(self, terms: Terms = TERMS) -> None:
        for who, peer in PEERS.items():
            self.seen(Registered, who=who, encryption_key=b"k" * 32, peer=peer)
        self.seen(JobPosted, job=JobId(1), client=CLIENT, terms=terms)

    def assigned(self, segment: int = 1, provider: Address = ME, parent: int = 0, start: int = 0, stop: int = 10) -> list[AnyEffect]:
        return self.seen(
            Assigned, segment=SegmentId(segment), job=JobId(1), parent=SegmentId(parent), provider=provider, start=start, stop=stop,
            price=100, activate_by=self.now + PARAMS.activate_window,
        )  # fmt: skip

    def committed(self, segment: int = 1, stop: int = 10) -> list[AnyEffect]:
        return self.seen(
            Committed, segment=SegmentId(segment), stop=stop, link_root=LINK_ROOT, end_root=ENDS[-1], checkpoint=cid(f"checkpoint {segment}"),
            key_id=digest(f"key of checkpoint {segment}"), key_envelope=b"e", commitment=digest("commitment"), seed_block=self.block + 2,
        )  # fmt: skip

    def drawn(self, units: tuple[int, ...] = (4, 9), segment: int = 1, round: int = 0, verifiers: tuple[Address, ...] = VERIFIERS) -> list[AnyEffect]:
        return self.seen(
            Drawn, segment=SegmentId(segment), round=round, seed=digest("seed"), units=units, verifiers=verifiers,
            serve_by=self.now + PARAMS.serve_window,
        )  # fmt: skip

    def served(self, segment: int = 1, round: int = 0) -> list[AnyEffect]:
        return self.seen(Served, segment=SegmentId(segment), round=round, seal_by=self.now + PARAMS.seal_window)

    def released(self, ref: SealedRef, segment: int = 1, to: Address = ME) -> list[AnyEffect]:
        return self.seen(KeyReleased, segment=SegmentId(segment), recipient=to, key_id=ref.key_id, wrapped=b"w", by=KEYS)

    # ---- results

    def wants(self, prefix: str) -> Any:
        """The one outstanding effect whose key begins so."""
        found = [effect for key, effect in self.core.outstanding.items() if key.startswith(prefix)]
        assert len(found) == 1, f"{len(found)} effects begin with {prefix!r}: {sorted(self.core.outstanding)}"
        return found[0]

    def idle(self, prefix: str) -> bool:
        return not any(key.startswith(prefix) for key in self.core.outstanding)

    def call(self, prefix: str) -> AnyCall:
        effect = self.wants(prefix)
        assert isinstance(effect, Send)
        return effect.call

    def task(self, prefix: str) -> Any:
        effect = self.wants(prefix)
        assert isinstance(effect, Do)
        return effect.task

    def done(self, prefix: str, outcome: Any) -> list[AnyEffect]:
        return self.feed(Done(key=self.wants(prefix).key, outcome=outcome))

    def sent(self, prefix: str) -> list[AnyEffect]:
        effect = self.wants(prefix)
        assert isinstance(effect, Send)
        return self.feed(Sent(key=effect.key, block=self.block))

    def fetched(self, prefix: str) -> list[AnyEffect]:
        effect = self.wants(prefix)
        assert isinstance(effect, Fetch)
        return self.feed(Fetched(key=effect.key))

    def answered(self, prefix: str, message: Any) -> list[AnyEffect]:
        effect = self.wants(prefix)
        assert isinstance(effect, Ask)
        return self.feed(Answered(key=effect.key, message=message))

    def failed(self, prefix: str, fault: Fault, error: str = "because") -> list[AnyEffect]:
        return self.feed(Failed(key=self.wants(prefix).key, fault=fault, error=error))

    def woke(self, prefix: str) -> list[AnyEffect]:
        """Time passes until a wake is due."""
        effect = self.wants(prefix)
        assert isinstance(effect, Wake)
        self.now, self.block = max(self.now, effect.at), max(self.block, effect.block)
        return self.feed(Woke(key=effect.key))

    def asked(self, who: Address, message: Any) -> Any:
        """The answer to a request."""
        self.asks += 1
        effects = self.feed(Asked(ask=self.asks, peer=PEERS[who], message=message))
        (reply,) = [effect for effect in effects if isinstance(effect, Reply)]
        return reply.message

    # ---- usual ways

    def load_job(self, **changes: Any) -> None:
        """The job's document and program are fetched and found good (or what `changes` makes of the document)."""
        self.fetched("spec:1")
        spec = msgspec.structs.replace(SPEC, **changes)
        self.done("load:1", JobLoaded(job=JobId(1), spec=spec, spec_digest=digest("spec")))
        if not self.idle("program:1"):
            self.fetched(f"program:1:{spec.program}")
            self.fetched(f"program:1:{spec.schedule}")
            self.done("check:1", CHECKED)

    def supply(self, refs: list[SealedRef], segment: int = 1) -> None:
        for ref in refs:
            self.fetched(f"fetch:{segment}:{ref.cid}")
            self.released(ref, segment)
            if not self.idle(f"key:{segment}:{ref.key_id.hex()}"):
                self.done(f"key:{segment}:{ref.key_id.hex()}", KeyStored(key_id=ref.key_id))

    def check_restart(self) -> None:
        """A machine that is started from the journal is where this one is, and wants what it wants."""
        machine: Any = self.core.machine
        fresh = Core(type(machine)(machine.config), self.core.journal)
        fresh.restore()
        now, before = (msgspec.to_builtins(s, order="deterministic") for s in (fresh.machine.state, self.state))  # sets have no order
        assert now == before
        assert fresh.outstanding == self.core.outstanding
