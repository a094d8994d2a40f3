"""A small network on either chain adapter, and the moves of a job's life, for test_chain.py.

A `World` has the accounts below, each with a `Chain` port of its own; the script of a test is the same whatever stands behind them.
`told(world)` is what happened in a form that can be compared between chains: events in order, with names for accounts and without what
follows from block hashes and clocks.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from assay import cid, draw, hearing, merkle
from assay.adapters import evm_record, memory_record
from assay.adapters.evm import EvmChain
from assay.adapters.memory_bounties import BOUNTIES
from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.adapters.memory_committee import visit_digest
from assay.adapters.memory_datasets import DATASETS
from assay.adapters.memory_disputes import DISPUTES
from assay.adapters.memory_showings import SHOWINGS
from assay.adapters.memory_sureties import SURETIES
from assay.audit.auditor import Auditor
from assay.audit.record import Record
from assay.chain import (
    Activate,
    AnyCall,
    AnyChainEvent,
    Assign,
    Attest,
    CallId,
    Commit,
    Deposit,
    Draw,
    Drawn,
    JobPosted,
    Offer,
    Opening,
    OpeningsDue,
    Params,
    PostJob,
    Register,
    Release,
    ReleaseKeys,
    Reveal,
    RevealAll,
    RevealsDue,
    Seal,
    Serve,
    Settle,
    ShowChunk,
    TakeSeat,
    Terms,
)  # fmt: skip
from assay.dispute.proofs import Entries, chunk_proof
from assay.dispute.record import Rules
from assay.ids import Address, Digest, JobId, PeerId, SegmentId
from assay.localnet import rpc
from assay.localnet.anvil import RULES, Anvil, Network, balances, deploy, faucet
from assay.merkle import sha256
from assay.ports import Chain, Reverted
from assay.state import Tensors

NAMES = ("client", "scheduler", "keyservice", "alice", "bob", "vera", "vic", "val", "stranger")
VERIFIERS = ("vera", "vic", "val")
TOKENS = 1_000_000_000
STAKE = 200_000_000
WINDOW = 100
SPEC = cid.of(b"spec")
BURN = Address("0x000000000000000000000000000000000000dead")
MICRO_BATCHES, MICRO_LEAVES, UPDATE_LEAVES = 2, 4, 3
LAST = 2 * (MICRO_BATCHES + 1) - 1
"""Link of a segment of two steps."""


class World:
    """Abstract; made by MemoryWorld and EvmWorld."""

    chains: dict[str, Chain]
    showings: Address
    ids: itertools.count[int]
    whole: int | None = None
    """Under the ends of a segment that begins at this step there are states and accumulators, and not only words."""

    def __init__(self) -> None:
        self.chains = {}
        self.ids = itertools.count()
        self.end: Digest | None = None
        """What the next commitment ends in, where a script cares."""
        self.ended: list[Digest] = []
        """That of the last commitment, in the same case."""

    async def mine(self, blocks: int) -> None:
        raise NotImplementedError

    async def later(self, seconds: int) -> None:
        """Blocks from now on are at least that much later."""
        raise NotImplementedError

    async def balances(self) -> dict[str, int]:
        """Of the accounts, `jobs`, `stakes`, `disputes`, `datasets` and `burnt`."""
        raise NotImplementedError

    async def record(self, job: JobId) -> Record:
        """What an audit reads."""
        raise NotImplementedError

    def sign_visit(self, name: str, peer: PeerId) -> bytes:
        """That `peer` asks for an account."""
        raise NotImplementedError

    async def close(self) -> None:
        pass

    # ---- moves

    def __getitem__(self, name: str) -> Address:
        return self.chains[name].account

    def name(self, who: Address) -> str:
        if who == self.chains["client"].takeovers:
            return "takeovers"
        if who == self.showings:
            return "showings"
        return next((name for name, chain in self.chains.items() if chain.account == who), who)

    async def do(self, name: str, call: AnyCall) -> int:
        return await self.chains[name].send(CallId(f"call {next(self.ids)}"), call)

    async def refused(self, name: str, call: AnyCall) -> str:
        """The contract's name for why it refuses the call."""
        with pytest.raises(Reverted) as caught:
            await self.do(name, call)
        found = re.search(r"\((\w+)\)", str(caught.value))
        assert found, str(caught.value)
        return found[1]

    async def events(self, depth: int = 0) -> list[AnyChainEvent]:
        return await self.chains["stranger"].events((-1, -1), depth)

    async def last(self, kind: type[Any]) -> Any:
        return [event for event in await self.events() if isinstance(event, kind)][-1]

    async def populate(self) -> None:
        """Everybody is registered and has stake; the verifiers have a seat each."""
        for i, name in enumerate(("alice", "bob", *VERIFIERS)):
            await self.do(name, Register(encryption_key=bytes([i + 1]) * 32, peer=PeerId(f"peer {name}")))
            await self.do(name, Deposit(amount=STAKE))
        for name in VERIFIERS:
            await self.do(name, TakeSeat())

    def terms(self, now: int, **changes: Any) -> Terms:
        windows = dict.fromkeys(
            ("activate_window", "lease_window", "takeover_window", "serve_window", "seal_window", "reveal_window", "open_window",
             "challenge_window"), WINDOW,
        )  # fmt: skip
        params = {**windows, "finality": 1, "redraws": 1, "verifiers": 3, "quorum": 2, **changes.pop("params", {})}
        given = {
            "spec": SPEC, "spec_digest": sha256(b"spec"), "program_root": sha256(b"program"), "state_root": sha256(b"state"),
            "dataset_root": sha256(b"dataset"), "schedule_root": sha256(b"schedule"), "steps": 4, "micro_batches": MICRO_BATCHES,
            "segment_steps": 2, "micro_weight": 3, "update_weight": 1, "micro_leaves": MICRO_LEAVES, "update_leaves": UPDATE_LEAVES,
            "price_cap": 1_000_000, "fee": 10_000, "budget": 20_000_000, "deadline": now + 100_000, "scheduler": self["scheduler"],
            "key_service": self["keyservice"], "params": Params(**params),
        }  # fmt: skip
        return Terms(**{**given, **changes})

    async def post(self, **changes: Any) -> JobId:
        head = await self.chains["client"].head()
        await self.do("client", PostJob(terms=self.terms(head.time, **changes)))
        return (await self.last_posted()).job

    async def last_posted(self) -> Any:
        from assay.chain import JobPosted

        return await self.last(JobPosted)

    async def offer(self, job: JobId, parent: int, start: int, stop: int, price: int = 1_000_001, by: str = "alice") -> Assign:
        head = await self.chains[by].head()
        offer = Offer(
            provider=self[by], job=job, parent=SegmentId(parent), start=start, stop=stop, price=price, expires=head.time + 1000,
            nonce=next(self.ids),
        )  # fmt: skip
        return Assign(offer=offer, signature=self.chains[by].sign_offer(offer))

    async def assign(self, job: JobId, parent: int, start: int, stop: int, price: int = 1_000_001, by: str = "alice") -> SegmentId:
        from assay.chain import Assigned

        await self.do("scheduler", await self.offer(job, parent, start, stop, price, by))
        found: SegmentId = (await self.last(Assigned)).segment
        return found

    def commitment(self, segment: SegmentId, start: int, stop: int) -> Commit:
        count = (stop - start) * (MICRO_BATCHES + 1)
        items = [self.end_of(i) for i in range(count)]
        items[-1] = self.end or items[-1]
        self.ended = items[-1:] if self.end else []
        ends = [merkle.leaf(i, item) for i, item in enumerate(items)]
        return Commit(
            segment=segment, stop=stop, link_root=merkle.root(ends), end_root=items[-1],
            proof=merkle.prove(ends, count - 1), checkpoint=cid.of(b"checkpoint"), key_id=sha256(b"key"), key_envelope=b"e" * 80,
        )  # fmt: skip

    def end_of(self, place: int) -> Digest:
        """Of the segment that is whole, if there is one."""
        if self.whole is None:
            return sha256(b"end", bytes([place]))
        entries = Entries(self.tensors(place))
        return hearing.end_root(place, self.whole, MICRO_BATCHES, entries.count, entries.root)

    @staticmethod
    def tensors(place: int) -> Tensors:
        """Of 2, 1 and 3 chunks; what stands under an end."""
        return {
            "param.bias": np.arange(300, dtype=np.float32) + place, "seen": np.full(10, place, dtype=np.uint8), "sum": np.arange(300) * place,
        }  # fmt: skip

    def shown(self, drawn: Drawn, steps: int, block_hash: Digest, more: int = 0) -> ShowChunk:
        """The chunk that a block names of a segment of so many steps; with `more`, another one."""
        place, rest = hearing.end_named(draw.chunk(block_hash, drawn.segment), drawn.units, MICRO_BATCHES)
        leaves = [merkle.leaf(i, self.end_of(i)) for i in range(steps * (MICRO_BATCHES + 1))]
        return ShowChunk(segment=drawn.segment, proof=chunk_proof(self.tensors(place), rest + more, merkle.prove(leaves, place)))

    async def committed(self, job: JobId, parent: int, start: int, stop: int, by: str = "alice", end: int | None = None) -> SegmentId:
        """A segment, assigned, active and committed (up to `end`)."""
        segment = await self.assign(job, parent, start, stop, by=by)
        await self.do(by, Activate(segment=segment))
        await self.do(by, self.commitment(segment, start, stop if end is None else end))
        return segment

    async def drawn(self, segment: SegmentId) -> Drawn:
        await self.mine(2)
        await self.do("stranger", Draw(segment=segment))
        found: Drawn = await self.last(Drawn)
        return found

    async def keys(self, segment: SegmentId, *recipients: str) -> None:
        releases = tuple(Release(recipient=self[name], key_id=sha256(b"key"), wrapped=b"w" * 80) for name in recipients)
        await self.do("keyservice", ReleaseKeys(segment=segment, releases=releases))

    async def served(self, segment: SegmentId, round: int, by: tuple[str, ...] = VERIFIERS) -> None:
        signatures = tuple(self.chains[name].sign_receipt(segment, round) for name in by)
        await self.do("alice", Serve(segment=segment, verifiers=tuple(self[name] for name in by), signatures=signatures))

    def traces(self, units: tuple[int, ...], flavour: bytes = b"right") -> list[list[Digest]]:
        """For each unit, the items of its trace; the last is the end that was committed."""
        counts = [UPDATE_LEAVES if draw.is_update(unit, MICRO_BATCHES) else MICRO_LEAVES for unit in units]
        heads = ([sha256(flavour, bytes([unit, i])) for i in range(count - 1)] for unit, count in zip(units, counts, strict=True))
        ends = [self.ended[0] if self.ended and unit == LAST else self.end_of(unit) for unit in units]
        return [[*head, end] for end, head in zip(ends, heads, strict=True)]

    def reveal_of(self, name: str, drawn: Drawn, agrees: bool, flavour: bytes) -> tuple[Digest, Reveal]:
        roots = tuple(merkle.root_of(items) for items in self.traces(drawn.units, flavour))
        chain, salt = self.chains[name], sha256(name.encode())
        digest = draw.attestation(chain.chain_id, chain.contract, drawn.segment, drawn.round, agrees, roots, self[name], salt)
        return digest, Reveal(verifier=self[name], agrees=agrees, trace_roots=roots, salt=salt)

    async def vote(self, drawn: Drawn, votes: dict[str, tuple[bool, bytes]]) -> None:
        """Seals in one batch (the first one's verifier sends it and needs no signature), then reveals. Not in the order of the draw, so that
        each seal has its own word."""
        made = {name: self.reveal_of(name, drawn, *vote) for name, vote in votes.items()}
        made = dict(sorted(made.items(), key=lambda item: drawn.verifiers.index(self[item[0]]), reverse=True))
        first = next(iter(made))
        seals = tuple(
            Seal(
                verifier=self[name],
                digest=digest,
                signature=b"" if name == first else self.chains[name].sign_seal(drawn.segment, drawn.round, digest),
            )
            for name, (digest, _) in made.items()
        )
        await self.do(first, Attest(segment=drawn.segment, seals=seals))
        if len(votes) < len(drawn.verifiers):
            await self.later(WINDOW + 1)
        await self.do("stranger", RevealAll(segment=drawn.segment, reveals=tuple(reveal for _, reveal in made.values())))

    async def openings(self, drawn: Drawn, name: str, flavour: bytes, terms: Terms, shown: bytes | None = None, agrees: bool = True) -> RevealAll:
        """The vote of `name` with its openings; `shown`: the flavour of the trace that it revealed, when that is another."""
        due = [event for event in await self.events() if isinstance(event, RevealsDue | OpeningsDue)][-1]
        block_hash = await self.chains[name].block_hash(due.opening_block)
        traces, out = self.traces(drawn.units, flavour), []
        for j in range(terms.params.openings):
            position, leaf = draw.opening(block_hash, drawn.segment, self[name], j, drawn.units, terms)
            items = traces[position]
            proof = merkle.prove([merkle.leaf(i, item) for i, item in enumerate(items)], leaf)
            out.append(Opening(leaf=items[leaf], proof=proof))
        _, reveal = self.reveal_of(name, drawn, agrees, shown or flavour)
        return RevealAll(segment=drawn.segment, reveals=(msgspec.structs.replace(reveal, openings=tuple(out)),))

    async def checked(self, segment: SegmentId, votes: dict[str, tuple[bool, bytes]]) -> Drawn:
        """From a commitment to the decision; `votes`: name -> (agrees, flavour of its trace)."""
        drawn = await self.drawn(segment)
        await self.keys(segment, *VERIFIERS)
        await self.served(segment, drawn.round)
        await self.vote(drawn, votes)
        await self.mine(2)
        terms = (await self.last_posted()).terms
        for name, (_, flavour) in votes.items():
            await self.do("stranger", await self.openings(drawn, name, flavour, terms))
        return drawn

    async def settled(self, segment: SegmentId) -> None:
        await self.later(WINDOW + 1)
        await self.do("stranger", Settle(segment=segment))


YES, NO = (True, b"right"), (False, b"right")


class MemoryWorld(World):
    def __init__(self, rules: Rules | None = None) -> None:
        super().__init__()
        self.ledger = MemoryLedger(b"world", rules=rules)
        self.showings = SHOWINGS
        for name in NAMES:
            self.ledger.account(name, TOKENS)
            self.chains[name] = MemoryChain(self.ledger, name)
        self.ledger.mine()

    async def mine(self, blocks: int) -> None:
        for _ in range(blocks):
            self.ledger.mine()

    async def later(self, seconds: int) -> None:
        self.ledger.mine(seconds)

    async def balances(self) -> dict[str, int]:
        ledger = self.ledger
        known = {
            ledger.contract: "jobs", ledger.stakes_address: "stakes", DISPUTES: "disputes", BOUNTIES: "bounties", DATASETS: "datasets",
            SURETIES: "sureties", SHOWINGS: "showings", ledger.burn_address: "burnt",
        }  # fmt: skip
        return {known.get(who) or self.name(who): amount for who, amount in self.ledger.balances().items()}

    async def record(self, job: JobId) -> Record:
        chain = self.chains["stranger"]
        assert isinstance(chain, MemoryChain)
        return memory_record.read_record(chain, job)

    def sign_visit(self, name: str, peer: PeerId) -> bytes:
        return self.ledger.sign(self[name], visit_digest(self.ledger.chain_id, peer))


class EvmWorld(World):
    def __init__(self, anvil: Anvil, network: Network) -> None:
        super().__init__()
        self.anvil, self.network, self.showings = anvil, network, network.showings
        self.signers: dict[str, LocalAccount] = {}

    @classmethod
    async def open(cls, anvil: Anvil, folder: Path, rules: Rules = RULES) -> EvmWorld:
        """A network of its own on a running anvil."""
        world = cls(anvil, deploy(anvil.url, rules=rules))
        for name in NAMES:
            signer = world.signers[name] = Account.from_key(sha256(str(folder).encode(), name.encode()))
            faucet(world.network, Address(signer.address.lower()), TOKENS)
            world.chains[name] = await EvmChain.open(anvil.url, world.network.jobs, signer, folder / f"{name}.sqlite")
        return world

    async def mine(self, blocks: int) -> None:
        rpc.call(self.anvil.url, "anvil_mine", hex(blocks))

    async def later(self, seconds: int) -> None:
        rpc.call(self.anvil.url, "evm_increaseTime", seconds)
        rpc.call(self.anvil.url, "evm_mine")

    async def balances(self) -> dict[str, int]:
        n = self.network
        known = {
            n.jobs: "jobs", n.stakes: "stakes", n.disputes: "disputes", n.bounties: "bounties", n.datasets: "datasets", n.sureties: "sureties",
            n.showings: "showings", BURN: "burnt",
        }  # fmt: skip
        found = balances(n, [chain.account for chain in self.chains.values()])
        return {known.get(who) or self.name(who): amount for who, amount in found.items()}

    async def record(self, job: JobId) -> Record:
        chain = self.chains["stranger"]
        assert isinstance(chain, EvmChain)
        return await evm_record.read_record(chain, job, 0)

    def sign_visit(self, name: str, peer: PeerId) -> bytes:
        chain = self.chains[name]
        assert isinstance(chain, EvmChain)
        return chain.sign_visit(self.signers[name], peer)

    async def close(self) -> None:
        for chain in self.chains.values():
            assert isinstance(chain, EvmChain)
            await chain.close()


async def audited(world: World) -> None:
    """What the contract did is what the rules say, for whoever reads the chain: every check of an audit holds for each job."""
    for job in [event.job for event in await world.events() if isinstance(event, JobPosted)]:
        report = Auditor(await world.record(job), job).run()
        assert not [finding for sheet in report.sheets for finding in sheet.findings], [f.text for s in report.sheets for f in s.findings]
        assert report.held


HIDDEN = frozenset(
    {"block", "time", "index", "digest", "seed", "seed_block", "opening_block", "units", "commitment", "deadline", "activate_by", "lease_until",
     "serve_by", "seal_by", "reveal_by", "open_by", "settle_after", "until", "trace_roots", "due", "pay_after",
     "at_block", "show_by", "ends_after", "place", "entry", "chunk"}
)  # fmt: skip
"""Fields that follow from block hashes, clocks or the contract's address."""


TOGETHER = {"Opened": "Revealed", "FeeCharged": "NoShow"}
"""Kinds of events that come in turns, a verifier after the other."""


async def told(world: World) -> list[Any]:
    names: Callable[[str], str] = lambda text: re.sub(r"0x[0-9a-f]{40}", lambda found: world.name(Address(found[0])), text)  # noqa: E731
    events = [_told(event, names) for event in await world.events()]
    runs = (list(run) for _, run in itertools.groupby(events, key=lambda event: TOGETHER.get(event["is"], event["is"])))
    return [event for run in runs for event in sorted(run, key=repr)]  # what befalls several verifiers at once, in the order of the draw


def _told(value: Any, names: Callable[[str], str]) -> Any:
    if isinstance(value, msgspec.Struct):
        shown = {name: _told(getattr(value, name), names) for name in value.__struct_fields__ if name not in HIDDEN}
        if "verifiers" in shown and isinstance(shown["verifiers"], list):
            shown["verifiers"].sort()  # in the order of the draw
        return {"is": type(value).__name__, **shown}
    if isinstance(value, tuple):
        return [_told(item, names) for item in value]
    return names(value) if isinstance(value, str) else value


Script = Callable[[World], Awaitable[None]]


def say_the_same(script: Script, anvil: Anvil, folder: Path) -> None:
    """The ledger in memory and the contracts tell the same of a story, and hold the same tokens at its end."""

    async def body() -> None:
        found = []
        for world in (MemoryWorld(), await EvmWorld.open(anvil, folder)):
            try:
                await script(world)
                balances = await world.balances()
                assert sum(balances.values()) == TOKENS * len(NAMES)
                found.append((await told(world), balances))
            finally:
                await world.close()
        assert found[0] == found[1]

    asyncio.run(body())
