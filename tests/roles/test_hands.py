"""Hands of worker and verifier on a real work folder: what is sealed twice, what opens, whose fault it is when it does not, what is left."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from tiny import PARAMS, plan

from assay import client, links, merkle, reads, sampling, seal
from assay.adapters.engine_process import InlineEngine
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.adapters.memory_keys import MemoryKeys
from assay.chain import NOTHING, CallId, Deposit, JobPosted, Offer, Release, Terms
from assay.codec import decode, encode
from assay.hands import bytes_below
from assay.ids import Cid, Digest, JobId, PeerId, SegmentId
from assay.job import JobSpec, SealedRef, envelope_info
from assay.keyservice.hands import wrap_keys
from assay.messages import AnyReply, AnyRequest, Boundary, Heartbeat, JobAnnouncement
from assay.ports import Missing, Outage, StorageFull
from assay.runtime import ChainSeen, Fault, Heard, Note, Started, TaskFailed
from assay.state import from_bytes, state_root, to_bytes
from assay.tasks import (
    AnyOutcome,
    CheckProgram,
    DrawnKeys,
    DropSegment,
    LetGo,
    LoadJob,
    MakeOpenings,
    OpenBoundary,
    OpeningsMade,
    PrepareSegment,
    ProgramChecked,
    ReplayUnit,
    RunSegment,
    SegmentPrepared,
    SegmentRun,
    ServeUnits,
    SignOffer,
    StopSegment,
    StoreKey,
    UnitReplayed,
    UnitsServed,
    WrapKeys,
)
from assay.workshop import Workshop
from assay_verifier.hands import VerifierHands
from assay_worker.hands import WorkerHands

STEPS = 4
PLAN = plan(STEPS)
ONE = SegmentId(1)


class Silent:
    """Peers that nobody answers on."""

    peer = PeerId("silent")

    def __init__(self) -> None:
        self.sent: list[AnyRequest] = []

    async def request(self, peer: PeerId, message: AnyRequest, timeout: float) -> AnyReply:
        self.sent.append(message)
        raise Outage("nobody")


class Stage(NamedTuple):
    """A client's job, published, on the disks of a worker who has the keys to it, and of a verifier who has those to its frozen tensors."""

    ledger: MemoryLedger
    service: MemoryKeys
    worker: WorkerHands
    verifier: VerifierHands
    peers: Silent
    cid: Cid
    spec: JobSpec
    terms: Terms
    notes: list[Note]

    async def work(self, task: Any) -> Any:
        return await self.worker.perform(task, self.notes.append)

    async def check(self, task: Any) -> Any:
        return await self.verifier.perform(task, self.notes.append)

    def run_task(self, **changes: Any) -> RunSegment:
        fields = {
            "segment": ONE, "job": JobId(1), "spec": self.cid, "start": 0, "stop": STEPS, "parent": self.spec.state,
            "parent_root": self.spec.state_root, "scheduler": PeerId("scheduler"),
        }  # fmt: skip
        return RunSegment(**{**fields, **changes})  # type: ignore[arg-type]

    def serve_task(self, *units: int) -> ServeUnits:
        who = self.verifier.shop.keys
        return ServeUnits(
            segment=ONE, job=JobId(1), spec=self.cid, start=0, stop=STEPS, parent=self.spec.state, parent_root=self.spec.state_root,
            units=units, recipients=((who.account, who.encryption_key), (who.account, b"no key")),
        )  # fmt: skip

    def released(self, *units: int) -> list[Release]:
        """What the key service releases to the verifier when these links were drawn of the segment."""
        who, spec = self.verifier.shop.keys, self.spec
        told = tuple((ref.sealed.key_id, ref.sealed.envelope, self.terms.scheduler, b"") for ref in spec.dataset.shards)
        drawn = DrawnKeys(shards=told, reading=reads.reading(spec), places=reads.places(units, 0, spec.micro_batches))
        task = WrapKeys(envelopes=(), recipients=((who.account, who.encryption_key),), drawn=drawn)
        return list(wrap_keys(self.service, task).releases)

    async def entitle(self, *units: int) -> None:
        """The verifier has what was released for its draw."""
        for release in self.released(*units):
            if release.key_id != NOTHING:
                await self.check(StoreKey(key_id=release.key_id, wrapped=release.wrapped))

    async def served(self, unit: int) -> tuple[SegmentRun, Boundary]:
        """A link that the worker ran and served, with its blob at the verifier."""
        run = await self.work(self.run_task())
        done = await self.work(self.serve_task(unit))
        assert isinstance(done, UnitsServed)
        ((_, boundary),) = done.boundaries  # the recipient without a key is left out
        await self.verifier.shop.blobs.put(await self.worker.shop.blobs.get(boundary.cid))
        await self.check(StoreKey(key_id=boundary.key_id, wrapped=boundary.wrapped))
        await self.entitle(unit)
        return run, boundary

    def replay_task(self, run: SegmentRun, boundary: Boundary) -> ReplayUnit:
        update = boundary.unit % 3 == 2
        return ReplayUnit(
            segment=ONE, job=JobId(1), spec=self.cid, round=0, start=0, stop=STEPS, unit=boundary.unit, parent_root=self.spec.state_root,
            link_root=run.link_root, leaves=self.terms.update_leaves if update else self.terms.micro_leaves, boundary=boundary,
        )  # fmt: skip


async def stage(tmp_path: Path, what: client.Plan = PLAN, change: Callable[[JobSpec], JobSpec] = lambda spec: spec) -> Stage:
    ledger, net = MemoryLedger(b"hands"), BlobNet()
    chains = {name: MemoryChain(ledger, name) for name in ("client", "worker", "verifier", "keys")}
    keys = {name: MemoryKeys(name.encode(), chain.account) for name, chain in chains.items()}
    blobs = {name: MemoryBlobs(net, PeerId(name)) for name in chains}
    service = client.Service(chains["keys"].account, PeerId("keys"), keys["keys"].encryption_key)
    wish = client.Wish(
        segment_steps=STEPS, price_cap=10, fee=1, budget=1000, deadline=10**12, scheduler=chains["client"].account, params=PARAMS
    )
    spec, terms = await client.publish(what, wish, service, chains["client"], blobs["client"], keys["client"])
    spec = change(spec)
    cid = await blobs["client"].put(encode(spec))
    for name in ("worker", "verifier"):
        for blob in (cid, spec.program, spec.schedule, spec.state.cid, *(ref.cid for ref in spec.shared_blobs)):
            await blobs[name].fetch(blob, 1 << 30)
        for ref in (spec.state, *spec.shared_blobs) if name == "worker" else spec.frozen_blobs:
            keys[name].store(keys["client"].load(ref.key_id))
    peers, engine = Silent(), InlineEngine()
    worker = WorkerHands(Workshop(tmp_path / "worker", blobs["worker"], keys["worker"], engine), chains["worker"], peers)  # type: ignore[arg-type]
    verifier = VerifierHands(Workshop(tmp_path / "verifier", blobs["verifier"], keys["verifier"], engine), chains["verifier"])
    return Stage(ledger, keys["keys"], worker, verifier, peers, cid, spec, terms, [])


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scene())


async def fails(work: Coroutine[Any, Any, AnyOutcome], fault: Fault, why: str) -> None:
    with pytest.raises(TaskFailed, match=why) as failed:
        await work
    assert failed.value.fault is fault


def test_what_a_disk_has_lost_is_fetched_again_and_what_nobody_has_is_named(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        blobs = s.worker.shop.blobs
        assert isinstance(blobs, MemoryBlobs)
        blobs._blobs.clear()
        assert isinstance(await s.work(CheckProgram(job=JobId(1), spec=s.cid, program=s.spec.program)), ProgramChecked)
        run = await s.work(s.run_task())
        assert isinstance(run, SegmentRun)
        for shard in s.spec.dataset.shards:
            assert await blobs.has(shard.sealed.cid)
        blobs._blobs.clear()
        again = await s.work(s.run_task())  # its checkpoint was nowhere else: it is made anew, of the same state
        assert isinstance(again, SegmentRun)
        assert again.end_root == run.end_root
        assert await blobs.has(again.checkpoint.cid)
        assert not await blobs.has(run.checkpoint.cid)
        blobs._blobs.clear()
        blobs._net.down |= set(blobs._net.nodes)
        with pytest.raises(Missing, match="was here and is gone, and nobody gives it"):
            await s.work(LoadJob(job=JobId(1), spec=s.cid))

    play(scene)


# ---- jobs and keys -------------------------------------------------------------------------------------------------------


def test_the_news_of_a_job_has_an_engine_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        s, expected = await stage(tmp_path), list[Path]()
        monkeypatch.setattr(s.worker.shop.engine, "expect", expected.append)
        said = JobAnnouncement(
            job=JobId(1), spec=s.cid, parent=SegmentId(0), start=0, stop=STEPS, price_cap=1, scheduler=PeerId("scheduler"), respond_by=9
        )
        posted = JobPosted(block=1, time=1, index=0, job=JobId(1), client=s.worker.chain.account, terms=s.terms)
        later = msgspec.structs.replace(said, parent=ONE, start=STEPS, stop=2 * STEPS)  # the program is known by then
        for event in (ChainSeen(event=posted), Heard(peer=PeerId("p"), message=said), Heard(peer=PeerId("p"), message=later), Started()):
            s.worker.foresee(event)
        assert expected == [tmp_path / "worker"] * 2

    play(scene)


def prepare_task(run: RunSegment) -> PrepareSegment:
    return PrepareSegment(segment=run.segment, job=run.job, spec=run.spec, start=run.start, stop=run.stop, parent=run.parent)


def test_what_is_laid_out_beforehand_is_what_the_run_reads(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        done = await s.work(prepare_task(s.run_task()))
        assert done == SegmentPrepared(segment=ONE)
        laid = sorted(path.relative_to(s.worker.shop.root) for path in s.worker.shop.root.rglob("*") if path.is_file())
        assert {path.name for path in laid} >= {"state-0.safetensors", "records-0-0.npy", "program.json", "schedule.bin"}
        blobs = s.worker.shop.blobs
        assert isinstance(blobs, MemoryBlobs)
        kept, before = dict(blobs._blobs), (await s.work(s.run_task(segment=SegmentId(2)))).end_root
        blobs._blobs.clear()
        blobs._net.down |= set(blobs._net.nodes)  # nothing is fetched any more: it finds what lies there
        blobs._blobs[s.cid] = kept[s.cid]
        run = await s.work(s.run_task())
        assert run.end_root == before
        assert await s.work(prepare_task(s.run_task())) == done  # after a crash, once more: harmless

    play(scene)


def test_nothing_is_laid_out_where_the_disk_is_for_who_computes(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        shop = s.worker.shop
        need = sum(blob.size for blob in (s.spec.state, *s.spec.shared_blobs))
        held = bytes_below(shop.root)
        shop.disk = 2 * (held + need) - 1
        await fails(s.work(prepare_task(s.run_task())), Fault.OWN, f"its files take up to {need} bytes")
        assert not shop.folder(ONE).exists()
        shop.disk += 1
        assert await s.work(prepare_task(s.run_task())) == SegmentPrepared(segment=ONE)
        await s.work(DropSegment(segment=ONE))
        assert not shop.folder(ONE).exists()

    play(scene)


def test_a_job_and_its_program_are_read_and_measured(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        loaded = await s.work(LoadJob(job=JobId(1), spec=s.cid))
        assert (loaded.spec, loaded.spec_digest) == (s.spec, s.terms.spec_digest)
        checked = await s.work(CheckProgram(job=JobId(1), spec=s.cid, program=s.spec.program))
        assert isinstance(checked, ProgramChecked)
        assert (checked.root, checked.micro_leaves, checked.update_leaves) == (s.terms.program_root, s.terms.micro_leaves, s.terms.update_leaves)
        assert not list((tmp_path / "worker").iterdir())

    play(scene)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"batch": 5}, r"takes 'x' as f32\[4, 4\], which in the data is f32\[5, 4\]"),
        ({"micro_batches": 3}, "averages over 2 micro-batches, a step has 3"),
        ({"scalars": ("a", "b")}, "the schedule has a, b"),
    ],
)
def test_a_program_that_does_not_fit_its_document_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    async def scene() -> None:
        s = await stage(tmp_path, change=lambda spec: msgspec.structs.replace(spec, **changes))
        await fails(s.work(CheckProgram(job=JobId(1), spec=s.cid, program=s.spec.program)), Fault.PEER, why)

    play(scene)


def test_a_document_that_is_no_document_is_the_clients_fault(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        empty = msgspec.structs.replace(s.spec, dataset=msgspec.structs.replace(s.spec.dataset, shards=()))
        for data in (b"{}", b"\xff", encode(empty)):
            cid = await s.worker.shop.blobs.put(data)
            await fails(s.work(LoadJob(job=JobId(1), spec=cid)), Fault.PEER, "job 1")

    play(scene)


def test_only_the_named_key_is_stored(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        key = seal.new_key()
        mine = s.service.wrap(key, s.worker.shop.keys.encryption_key)
        await s.work(StoreKey(key_id=seal.key_id(key), wrapped=mine))
        assert s.worker.shop.key(seal.key_id(key)) == key
        await fails(s.work(StoreKey(key_id=merkle.sha256(b"other"), wrapped=mine)), Fault.PEER, "another one than")
        others = s.service.wrap(key, s.verifier.shop.keys.encryption_key)
        await fails(s.work(StoreKey(key_id=seal.key_id(key), wrapped=others)), Fault.PEER, "key")

    play(scene)


def test_an_offer_is_signed_only_with_the_stake_for_its_bond(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        offer = Offer(
            provider=s.worker.chain.account, job=JobId(1), parent=SegmentId(0), start=0, stop=4, price=10, expires=10**10, nonce=1
        )
        await fails(s.work(SignOffer(offer=offer, bond=60)), Fault.OWN, "its bond is 60 and the free stake of .* is 0")
        s.ledger.mint(s.worker.chain.account, 100)
        await s.worker.chain.send(CallId("deposit"), Deposit(amount=60))
        signed = await s.work(SignOffer(offer=offer, bond=60))
        assert s.worker.chain.offer_signer(offer, signed.signature) == offer.provider

    play(scene)


# ---- running -------------------------------------------------------------------------------------------------------------


def test_a_run_is_sealed_once_and_its_key_goes_to_the_key_service(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        run = await s.work(s.run_task())
        assert run.end_root == client.run_plan(PLAN).root
        assert await s.work(s.run_task()) == run  # the daemon crashed before it was told
        key = s.service.unwrap(run.checkpoint.envelope, envelope_info(s.worker.chain.account))
        assert seal.key_id(key) == run.checkpoint.key_id
        state = from_bytes(seal.unseal(await s.worker.shop.blobs.get(run.checkpoint.cid), key), 1 << 20)
        assert state_root(STEPS, state) == run.end_root
        assert [note.data["step"] for note in s.notes if note.topic == "step"] == list(range(STEPS))
        assert isinstance(s.peers.sent[0], Heartbeat)  # and that it was lost did no harm

    play(scene)


def test_a_run_told_to_stop_ends_early(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        await s.work(StopSegment(segment=ONE))
        assert (await s.work(s.run_task())).stop == 1

    play(scene)


def test_a_later_segment_shares_the_records_on_disk(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        first = await s.work(s.run_task(stop=2))
        second = await s.work(
            s.run_task(segment=SegmentId(2), start=2, parent=first.checkpoint, parent_root=first.end_root)
        )
        assert second.end_root == client.run_plan(PLAN).root
        one, two = (tmp_path / "worker" / f"segment-{n}" / "records-0-0.npy" for n in (1, 2))
        assert one.samefile(two)
        await s.work(DropSegment(segment=ONE))
        assert sorted(path.name[:4] for path in (tmp_path / "worker").iterdir()) == ["job-", "publ", "segm"]
        await s.work(DropSegment(segment=SegmentId(2)))
        await s.work(LetGo(job=JobId(1)))
        assert not list((tmp_path / "worker").iterdir())
        await s.work(DropSegment(segment=SegmentId(2)))  # again does no harm

    play(scene)


def test_the_shards_of_some_steps_are_found_without_holding_up_the_daemon(tmp_path: Path) -> None:
    """Forty shards of one record each, so that few steps read some of them and many all; the way there is not walked on the event loop."""

    async def scene() -> None:
        told = await stage(tmp_path)
        one = msgspec.structs.replace(told.spec.dataset.shards[0], records=1)
        many = msgspec.structs.replace(told.spec, dataset=msgspec.structs.replace(told.spec.dataset, shards=(one,) * 40))
        threads = []
        walk = sampling.walk
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampling, "walk", lambda *way: (threads.append(_aside()), walk(*way))[1])
            for steps in (range(1), range(1, 3), range(7, 9), range(50)):
                places = [(t, m) for t in steps for m in range(many.micro_batches)]
                wanted = {i for t, m in places for i in sampling.record_indices(many.order, 40, t, m, many.micro_batches, many.batch)}
                threads.clear()
                assert await told.worker.shop.shards_for(many, steps) == sorted(wanted)
                assert threads == [True]

    play(scene)


def test_a_segment_is_removed_beside_the_event_loop_and_a_removal_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    async def scene() -> None:
        told = await stage(tmp_path)
        await told.work(told.run_task())
        root, threads = told.worker.shop.root, []
        (root / "segment-1").rename(root / "gone-1")  # as far as it had come when the power went
        remove = shutil.rmtree
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda path, *rest, **more: (threads.append((Path(path).name, _aside())), remove(path, *rest, **more))[1])
            await told.work(DropSegment(segment=ONE))
            assert not list(root.glob("[gjs]*-*")), "neither the segment nor its job is left"
            assert ("gone-1", True) in threads
            await told.work(told.run_task())
            threads.clear()
            await told.work(DropSegment(segment=ONE))
            assert not list(root.glob("[gjs]*-*"))
            assert ("gone-1", True) in threads
            assert "segment-1" not in dict(threads)

    play(scene)


def _aside() -> bool:
    """Whether this is not the event loop's thread."""
    return threading.current_thread() is not threading.main_thread()


def test_what_was_published_is_promised_until_its_segment_or_job_is_let_go(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        blobs = s.worker.shop.blobs
        assert isinstance(blobs, MemoryBlobs)
        run, boundary = await s.served(1)
        assert set(blobs._pins) == {run.checkpoint.cid, boundary.cid}
        for listed in (s.worker.shop.folder(ONE) / "published", s.worker.shop.published(JobId(1))):
            listed.write_text(listed.read_text() + "bafk-cut-o")  # a crash in the middle of a line
        await s.work(DropSegment(segment=ONE))
        assert set(blobs._pins) == {run.checkpoint.cid}
        assert s.notes[-1].topic != "tidied"
        await s.work(LetGo(job=JobId(1)))
        assert (set(blobs._pins), s.notes[-1].data["blobs"]) == (set(), 1)
        await s.work(LetGo(job=JobId(1)))  # again does no harm

    play(scene)


def test_whose_fault_a_run_is_that_cannot_begin(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        shop, keys = s.worker.shop, s.worker.shop.keys
        key = seal.new_key()
        keys.store(key)

        async def parent(data: bytes) -> SealedRef:
            return SealedRef(cid=await shop.blobs.put(data), size=0, key_id=seal.key_id(key), envelope=b"")

        other = await parent(seal.seal(to_bytes(PLAN.state | {"param.w": np.ones((4, 3), np.float32)}), key))
        await fails(s.work(s.run_task(parent=other)), Fault.PEER, "is not the committed one")
        await s.work(DropSegment(segment=ONE))
        for data in (b"garbage", seal.seal(b"no tensors", seal.new_key())):
            await fails(s.work(s.run_task(parent=await parent(data))), Fault.PEER, "does not open")
        await fails(s.work(s.run_task(parent=await parent(seal.seal(b"no tensors", key)))), Fault.PEER, "tensor file")
        await s.work(DropSegment(segment=ONE))
        unknown = msgspec.structs.replace(s.spec.state, key_id=merkle.sha256(b"lost"))
        await fails(s.work(s.run_task(parent=unknown)), Fault.OWN, "was here and is gone")

    play(scene)


def test_a_shard_that_is_not_what_its_owner_says_is_the_owners_fault(tmp_path: Path) -> None:
    def other_root(spec: JobSpec) -> JobSpec:
        shard = msgspec.structs.replace(spec.dataset.shards[0], root=merkle.sha256(b"other"))
        return msgspec.structs.replace(spec, dataset=msgspec.structs.replace(spec.dataset, shards=(shard,)))

    async def scene() -> None:
        s = await stage(tmp_path, change=other_root)
        await fails(s.work(s.run_task()), Fault.PEER, "published other data than it committed to")

    play(scene)


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)

        async def full(data: bytes) -> Cid:
            raise StorageFull("the blob store may hold 10 bytes")

        s.worker.shop.blobs.put = full  # type: ignore[method-assign]
        await fails(s.work(s.run_task()), Fault.OWN, "free some disk")

    play(scene)


def test_each_does_its_own_work_only(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        await fails(s.work(WrapKeys(envelopes=(), recipients=())), Fault.OWN, "does not do WrapKeys")
        await fails(s.check(s.run_task()), Fault.OWN, "does not do RunSegment")

    play(scene)


# ---- serving and checking ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [0, 1, 2, 3, 7, 11])
def test_what_is_served_is_opened_replayed_and_opened_again_leaf_by_leaf(tmp_path: Path, unit: int) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        run, boundary = await s.served(unit)
        places = links.named_ends(unit, 2)
        for place, end, proof in zip(places, boundary.link_ends, boundary.proofs, strict=True):
            assert merkle.verify(run.link_root, links.count(STEPS, 2), place, merkle.leaf(place, end), proof)
        await s.check(OpenBoundary(segment=ONE, round=0, unit=unit, boundary=boundary))
        found = await s.check(s.replay_task(run, boundary))
        assert isinstance(found, UnitReplayed)
        assert found.agrees, found.reason
        # of the data, the verifier has decrypted the records of this micro-batch and no others
        assert not list((tmp_path / "verifier" / "segment-1").glob("records-*"))
        arrays = [np.load(path) for path in (tmp_path / "verifier" / "segment-1").glob("batch-*.npy")]
        assert {len(array) for array in arrays} == ({4} if unit % 3 < 2 else set())
        task = MakeOpenings(segment=ONE, round=0, opening_block=s.ledger.head.number, units=(unit,), terms=s.terms)
        with pytest.raises(Outage, match="is not there yet"):
            await s.check(task)
        s.ledger.mine()
        made = await s.check(task)
        assert isinstance(made, OpeningsMade)
        leaves = s.replay_task(run, boundary).leaves
        for opening in made.openings:
            assert any(merkle.verify(found.trace_root, leaves, i, merkle.leaf(i, opening.leaf), opening.proof) for i in range(leaves))
        await s.check(DropSegment(segment=ONE))
        assert not list((tmp_path / "verifier").iterdir())

    play(scene)


def test_what_does_not_open_was_not_served(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        _, boundary = await s.served(4)
        key = s.verifier.shop.key(boundary.key_id)
        good = await s.verifier.shop.blobs.get(boundary.cid)
        for data in (b"", good[:-1], good[:70] + bytes((good[70] ^ 1,)) + good[71:], seal.seal(b"no tensors", key), seal.seal(b"x", seal.new_key())):
            bad = msgspec.structs.replace(boundary, cid=await s.verifier.shop.blobs.put(data))
            await fails(s.check(OpenBoundary(segment=ONE, round=0, unit=4, boundary=bad)), Fault.PEER, "what was served does not open")

    play(scene)


def test_states_that_are_not_the_committed_ones_are_evidence(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        run, boundary = await s.served(4)
        key = s.verifier.shop.key(boundary.key_id)
        tensors = from_bytes(seal.unseal(await s.verifier.shop.blobs.get(boundary.cid), key), 1 << 20)
        tensors["state.param.w"][0, 0] += np.float32(1)
        lie = msgspec.structs.replace(boundary, cid=await s.verifier.shop.blobs.put(seal.seal(to_bytes(tensors), key)))
        await s.check(OpenBoundary(segment=ONE, round=0, unit=4, boundary=lie))
        found = await s.check(s.replay_task(run, lie))
        assert not found.agrees
        assert found.reason == "the state that the provider served is not the one it committed to"

    play(scene)


def test_messages_survive_the_wire(tmp_path: Path) -> None:
    async def scene() -> None:
        s = await stage(tmp_path)
        run, boundary = await s.served(4)
        assert decode(encode(boundary), Boundary) == boundary
        assert decode(encode(run), SegmentRun) == run
        assert len(boundary.key_id) == len(Digest(run.link_root)) == 32

    play(scene)
