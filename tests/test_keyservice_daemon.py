"""The key service as a daemon on a chain, peers and blobs in memory: the keys that it passes on open real sealed shards, also after it
was stopped and started again from its journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from assay import cid, codec, merkle, reads, record_keys, seal, shard
from assay.adapters.journal import SqliteJournal
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.adapters.memory_keys import MemoryKeys
from assay.adapters.memory_peers import MemoryPeers, Switchboard
from assay.chain import (
    Activate,
    AnyCall,
    AnyChainEvent,
    Assign,
    CallId,
    Commit,
    Deposit,
    Draw,
    Drawn,
    KeyReleased,
    Offer,
    Params,
    PostJob,
    Register,
    TakeSeat,
    Terms,
)
from assay.daemon import Node, Ports
from assay.ids import Address, Digest, JobId, PeerId, SegmentId
from assay.job import JobSpec, data_root, envelope_info
from assay.keyservice.daemon import key_service
from assay.messages import AnyReply, KeyGrant, KeyRequest, PeerRecord, Refusal
from assay.runtime import Note

NAMES = ("service", "client", "worker", "v1", "v2", "v3")
ZERO = Digest(bytes(32))
RECORDS = {"x": np.arange(24, dtype=np.float32).reshape(12, 2)}


class Polled(MemoryChain):
    """Says when the daemon has been given all that is final."""

    def __init__(self, ledger: MemoryLedger, name: str) -> None:
        super().__init__(ledger, name)
        self.polled = asyncio.Event()

    async def events(self, after: tuple[int, int], depth: int) -> list[AnyChainEvent]:
        found = await super().events(after, depth)
        self.polled.set()
        return found


class World:
    """Accounts with chain, keys, blobs and peers in memory; the key service runs as the daemon that it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = MemoryLedger(seed=b"keys")
        self.board, self.net = Switchboard(), BlobNet()
        self.chains, self.keys, self.blobs, self.peers = {}, {}, {}, {}  # type: ignore[var-annotated]
        for name in NAMES:
            self.ledger.account(name, tokens=10**9)
            chain = self.chains[name] = Polled(self.ledger, name)
            self.keys[name] = MemoryKeys(name.encode(), account=chain.account)
            self.peers[name] = MemoryPeers(self.board, self.keys[name].peer_seed, self._record(name), now_ms=lambda: 1)
            self.blobs[name] = MemoryBlobs(self.net, self.peers[name].peer)
        self.calls = 0
        self.notes: asyncio.Queue[Note] = asyncio.Queue()
        self.running: tuple[Node, asyncio.Task[None], SqliteJournal] | None = None

    def _record(self, name: str) -> Callable[[list[str]], PeerRecord]:
        chain = self.chains[name]
        return lambda addresses: PeerRecord(
            peer=PeerId(""), account=chain.account, role=name, addresses=tuple(addresses), gateway="", sequence=0, chain_id=chain.chain_id,
            contract=chain.contract,
        )  # fmt: skip

    async def do(self, name: str, call: AnyCall) -> None:
        self.calls += 1
        await self.chains[name].send(CallId(f"call {self.calls}"), call)

    async def start(self) -> None:
        journal = SqliteJournal(self.folder / "journal.db")
        ports = Ports(
            chain=self.chains["service"], blobs=self.blobs["service"], peers=self.peers["service"], keys=self.keys["service"], journal=journal,
            engine=None, folder=self.folder, depth=1, poll=0.005,
        )  # fmt: skip
        node = key_service(ports, self.notes.put_nowait)
        self.running = node, asyncio.create_task(node.run()), journal

    async def kill(self) -> None:
        """As SIGKILL: nothing gets a chance to be tidied up; only what the journal holds is left."""
        assert self.running is not None
        _, task, journal = self.running
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        journal.close()
        self.running = None

    async def note(self, topic: str) -> Note:
        """The next note on a topic."""
        assert self.running is not None
        while True:
            getter = asyncio.ensure_future(self.notes.get())
            done, _ = await asyncio.wait({getter, self.running[1]}, return_when=asyncio.FIRST_COMPLETED, timeout=240)
            assert getter in done, "the daemon ended, or said nothing for 240 seconds"
            if getter.result().topic == topic:
                return getter.result()

    def released(self, name: str, segment: int) -> dict[Digest, bytes]:
        """Keys on chain for an account, opened with its own key."""
        events = [e for e in self.ledger.events((-1, -1), 0) if isinstance(e, KeyReleased)]
        mine = [e for e in events if (e.recipient, e.segment) == (self.chains[name].account, segment)]
        assert {e.by for e in mine} <= {self.chains["service"].account}
        return {e.key_id: self.keys[name].unwrap(e.wrapped) for e in mine}


async def posted(world: World) -> tuple[JobSpec, list[bytes], bytes]:
    """A job of two shards; returns its document, the shards' blobs and the initial state's key."""
    client, service = world.keys["client"], world.keys["service"]
    wrap = shard.wrap_for(client, service.encryption_key, client.account)
    dataset, sealed = shard.seal_dataset("d", RECORDS, wrap, shard_records=6)
    state, state_blob = shard.seal_file(b"initial state", wrap)
    spec = JobSpec(
        name="job", program=state.cid, program_root=ZERO, schedule=state.cid, schedule_root=ZERO, scalars=(), state=state, state_root=ZERO,
        dataset=dataset, order=ZERO, steps=4, micro_batches=1, batch=1, segment_steps=2, key_service=service.account,
        key_service_peer=world.peers["service"].peer, key_service_key=service.encryption_key,
    )  # fmt: skip
    document = codec.encode(spec)
    for blob in (*sealed, state_blob):
        await world.blobs["client"].put(blob)
    windows = {name: 1000 for name in Params.__struct_fields__ if name.endswith("_window")}
    terms = Terms(
        spec=await world.blobs["client"].put(document), spec_digest=codec.digest(spec), program_root=ZERO, state_root=ZERO,
        dataset_root=data_root(dataset, ZERO, 1), schedule_root=ZERO, steps=4, micro_batches=1, segment_steps=2, micro_weight=1, update_weight=1,
        micro_leaves=4, update_leaves=4, price_cap=1000, fee=10, budget=10**6, deadline=world.ledger.head.time + 10**5, scheduler=client.account,
        key_service=service.account, params=Params(**windows, finality=1, verifiers=3, quorum=2, draw_bond=10),
    )  # fmt: skip
    await world.do("client", PostJob(terms=terms))
    world.ledger.mine()
    return spec, sealed, client.load(state.key_id)


async def assigned(world: World, parent: int, start: int) -> None:
    chain = world.chains["worker"]
    offer = Offer(
        provider=chain.account, job=JobId(1), parent=SegmentId(parent), start=start, stop=start + 2, price=100,
        expires=world.ledger.head.time + 1000, nonce=start,
    )  # fmt: skip
    await world.do("client", Assign(offer=offer, signature=chain.sign_offer(offer)))


async def committed(world: World, segment: int, stop: int) -> bytes:
    await world.do("worker", Activate(segment=SegmentId(segment)))
    key, ends = bytes([segment]) * 32, [Digest(bytes([i]) * 32) for i in range(4)]
    leaves = [merkle.leaf(i, end) for i, end in enumerate(ends)]
    keys = world.keys["worker"]
    envelope = keys.wrap(key, world.keys["service"].encryption_key, envelope_info(keys.account))
    commit = Commit(
        segment=SegmentId(segment), stop=stop, link_root=merkle.root(leaves), end_root=ends[3], proof=merkle.prove(leaves, 3),
        checkpoint=cid.of(key), key_id=seal.key_id(key), key_envelope=envelope,
    )  # fmt: skip
    await world.do("worker", commit)
    return key


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    def whole(body: Callable[[World], Awaitable[None]]) -> None:
        async def inside() -> None:
            world = World(tmp_path)
            try:
                for name in NAMES:
                    await world.peers[name].start(_refuse, lambda peer, message: None)
                    registration = Register(encryption_key=world.keys[name].encryption_key, peer=world.peers[name].peer)
                    await world.do(name, registration)
                    await world.do(name, Deposit(amount=10**7))
                for name in ("v1", "v2", "v3"):
                    await world.do(name, TakeSeat())
                await asyncio.wait_for(body(world), 240)
            finally:
                if world.running is not None:
                    await world.kill()

        asyncio.run(inside())

    return whole


async def _refuse(peer: PeerId, message: object) -> AnyReply:
    return Refusal(reason="not me")


def test_keys_reach_those_entitled_and_open_the_data(run: Callable[[Callable[[World], Awaitable[None]]], None]) -> None:
    async def body(world: World) -> None:
        await world.start()
        spec, sealed, initial = await posted(world)
        await world.note("job")
        await assigned(world, parent=0, start=0)
        world.ledger.mine()  # now it is final
        await world.note("released")
        keys = world.released("worker", 1)
        assert keys[spec.state.key_id] == initial
        blobs = {ref.sealed.cid: blob for ref, blob in zip(spec.dataset.shards, sealed, strict=True)}
        read = shard.Records(spec.dataset, blobs.__getitem__, keys.__getitem__).read(range(12))
        assert np.array_equal(read["x"], RECORDS["x"])

        # it dies; while it is down the provider commits and verifiers are drawn
        await world.kill()
        await committed(world, 1, 2)
        for _ in range(3):
            world.ledger.mine()
        await world.do("client", Draw(segment=SegmentId(1)))
        world.ledger.mine()
        assert not world.released("v1", 1)
        await world.start()
        await world.note("released")
        (drawn,) = [e for e in world.ledger.events((-1, -1), 0) if isinstance(e, Drawn)]
        what = reads.reading(spec)
        read_by = reads.records(what, reads.places(drawn.units, 0, spec.micro_batches))
        ids = [ref.sealed.key_id for ref in spec.dataset.shards]
        some = reads.by_key(ids, what, read_by)
        assert some  # of one shard at least they read a part only
        for verifier in ("v1", "v2", "v3"):
            given = {key_id: record_keys.parse(told) for key_id, told in world.released(verifier, 1).items()}
            assert set(given) == {ids[number] for number in read_by}
            for key_id, read_of in some.items():
                assert given[key_id] == record_keys.select(keys[key_id], read_of)

        # whoever asks is told: the same bytes as on chain, or why not
        service, wanted = world.peers["service"].peer, next(iter(some))
        answer = await world.peers["v1"].request(service, KeyRequest(segment=SegmentId(1), key_id=wanted), 10)
        assert isinstance(answer, KeyGrant)
        assert world.keys["v1"].unwrap(answer.wrapped[0]) == world.released("v1", 1)[wanted]
        refused = await world.peers["v1"].request(service, KeyRequest(segment=SegmentId(1), key_id=spec.state.key_id), 10)
        assert isinstance(refused, Refusal)
        assert "nothing entitles you" in refused.reason
        stranger = await world.peers["client"].request(service, KeyRequest(segment=SegmentId(7), key_id=wanted), 10)
        assert isinstance(stranger, Refusal)
        assert "not known here, or not final yet" in stranger.reason

        # each was released once, over the crash
        events = [e for e in world.ledger.events((-1, -1), 0) if isinstance(e, KeyReleased)]
        assert len(events) == len({(e.recipient, e.key_id) for e in events}) == 3 + 3 * len(read_by)

    run(body)


def test_nothing_is_released_before_its_event_is_final(run: Callable[[Callable[[World], Awaitable[None]]], None]) -> None:
    async def body(world: World) -> None:
        await world.start()
        await posted(world)
        await world.note("job")
        polled = world.chains["service"].polled
        polled.clear()
        await assigned(world, parent=0, start=0)  # in the head block: not final at a depth of 1
        await polled.wait()
        # the daemon takes events and requests in turn, so its answer comes after it has handled all that is final
        answer = await world.peers["worker"].request(world.peers["service"].peer, KeyRequest(segment=SegmentId(1), key_id=ZERO), 10)
        assert isinstance(answer, Refusal)
        assert "not known here, or not final yet" in answer.reason
        assert not world.released("worker", 1)
        world.ledger.mine()
        await world.note("released")
        assert len(world.released("worker", 1)) == 3

    run(body)


def test_a_copied_job_document_gets_no_keys(run: Callable[[Callable[[World], Awaitable[None]]], None]) -> None:
    """Envelopes are public: a thief posts the same document as a job of its own, with itself as provider."""

    async def body(world: World) -> None:
        await world.start()
        await posted(world)
        await world.note("job")
        terms = next(iter(world.ledger.jobs.jobs.values())).terms
        await world.do("v1", PostJob(terms=msgspec.structs.replace(terms, deadline=terms.deadline + 1)))
        world.ledger.mine()
        note = await world.note("refused")
        assert "3 of its 3 key envelopes do not open" in note.text
        assert not [e for e in world.ledger.events((-1, -1), 0) if isinstance(e, KeyReleased)]

    run(body)


def test_the_status_says_what_it_holds(run: Callable[[Callable[[World], Awaitable[None]]], None]) -> None:
    async def body(world: World) -> None:
        await world.start()
        await posted(world)
        await world.note("job")
        assert world.running is not None
        status = world.running[0].status()
        assert status["jobs"] == [{"job": 1, "stage": "ready", "reason": ""}]
        assert status["account"] == Address(world.chains["service"].account)

    run(body)
