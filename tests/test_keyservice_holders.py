"""A key holder that is not the first: what its owner's order brings it to keep, what it releases, and what it copies so that an owner may sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from test_keyservice import CID, CLIENT, INITIAL, RECORDS, SHARDS, V1, W1, ZERO, document, peer, terms

from assay import cid as cids
from assay import codec, partials, reads, record_keys, threshold
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.adapters.memory_keys import MemoryKeys
from assay.chain import Assigned, Committed, DatasetPublished, Drawn, JobPosted, Registered, ReleaseKeys, Settled
from assay.hands import gather_key, gather_records, shared_shard
from assay.ids import Address, Cid, DatasetId, Digest, JobId, PeerId, SegmentId
from assay.job import DatasetRef, Field, JobSpec, KeyHolder, KeyHolders, SealedRef, ShardRef, envelope_info
from assay.keyservice.hands import KeyServiceHands, wrap_keys
from assay.keyservice.licensed import HOLD
from assay.keyservice.machine import KeyServiceMachine
from assay.keyservice.state import Config, JobStage
from assay.merkle import sha256
from assay.publish.manifest import Counts, Licence, Manifest, Owner
from assay.runtime import AnyEffect, AnyEvent, ChainSeen, Do, Done, Failed, Fault, Fetch, Fetched, Note, Ordered, Send, Sent, TaskFailed
from assay.tasks import GatherKey, GatherRecords, JobLoaded, LoadJob, ManifestRead, ReadManifest, WrapKeys

FIRST, SECOND, THIRD = (MemoryKeys(name) for name in (b"first", b"second", b"third"))
GROUP = KeyHolders(
    threshold=2, members=tuple(KeyHolder(account=n.account, peer=peer(n), encryption_key=n.encryption_key) for n in (FIRST, SECOND, THIRD))
)


PLACES = ((0, 0),)
"""What the drawn link of the story reads."""


def shared(key: bytes, by: MemoryKeys = CLIENT) -> SealedRef:
    envelope = threshold.seal_to(by, key, b"", GROUP, envelope_info(by.account))
    return SealedRef(cid=CID, size=100, key_id=sha256(key), envelope=envelope)


def dealt(by: MemoryKeys, records: int, info: bytes, holders: KeyHolders = GROUP) -> DatasetRef:
    """SHARDS of so many records, their keys with the holders; the masks are in MASKS."""
    for key in SHARDS:
        by.store(key)
    refs = (SealedRef(cid=CID, size=64 + 36 * records, key_id=sha256(key), envelope=b"") for key in SHARDS)
    shards = tuple(ShardRef(sealed=ref, records=records, root=ZERO) for ref in refs)
    data = DatasetRef(name="d", fields=(Field(name="x", dtype="f32", shape=()),), shards=shards)
    made, masks = threshold.seal_shards(by, data, b"", holders, info)
    MASKS.update((cids.of(one), one) for one in masks)
    return made


def job() -> JobSpec:
    return document(
        dataset=dealt(CLIENT, RECORDS, envelope_info(CLIENT.account)), state=shared(INITIAL), holders=GROUP,
        key_service=FIRST.account, key_service_peer=peer(FIRST),
        key_service_key=FIRST.encryption_key,
    )  # fmt: skip


MASKS: dict[Cid, bytes] = {}


class Holder:
    """A holder whose effects are done at once."""

    def __init__(self, me: MemoryKeys, spec: JobSpec) -> None:
        self.me, self.spec = me, spec
        self.machine = KeyServiceMachine(Config(me.account, me.encryption_key, peer(me)))
        self.block = 0
        self.releases: list[tuple[SegmentId, Any]] = []
        self.effects: list[AnyEffect] = []
        for node in (FIRST, SECOND, THIRD, CLIENT, W1, V1):
            self.chain(Registered, who=node.account, encryption_key=node.encryption_key, peer=peer(node))

    def feed(self, event: AnyEvent) -> None:
        for effect in self.machine.handle(event, 1000 + self.block, bytes(32)):
            self.effects.append(effect)
            match effect:
                case Fetch(key=key) if key.startswith("spec"):
                    self.feed(Fetched(key=key))
                case Do(key=key, task=LoadJob() as task):
                    self.feed(Done(key=key, outcome=JobLoaded(job=task.job, spec=self.spec, spec_digest=codec.digest(self.spec))))
                case Do(key=key, task=WrapKeys() as task):
                    self.feed(Done(key=key, outcome=wrap_keys(self.me, task)))
                case Send(key=key, call=ReleaseKeys() as call):
                    self.releases += [(call.segment, release) for release in call.releases]
                    self.feed(Sent(key=key, block=self.block))
                case _:
                    pass

    def chain(self, kind: Callable[..., Any], **fields: Any) -> None:
        self.block += 1
        self.feed(ChainSeen(event=kind(block=self.block, index=0, time=1000 + self.block, **fields)))

    def order(self, first: MemoryKeys = FIRST) -> None:
        self.feed(Ordered(order=HOLD + first.account))

    def story(self) -> None:
        """A job from its posting to the draw of its first segment."""
        self.chain(JobPosted, job=JobId(1), client=CLIENT.account, terms=terms(self.spec, key_service=FIRST.account))
        self.chain(
            Assigned, segment=SegmentId(1), job=JobId(1), parent=SegmentId(0), provider=W1.account, start=0, stop=30, price=1, activate_by=10**6
        )
        ref = shared(b"c" * 32, W1)
        self.chain(
            Committed, segment=SegmentId(1), stop=30, link_root=ZERO, end_root=ZERO, checkpoint=CID, key_id=ref.key_id, key_envelope=ref.envelope,
            commitment=ZERO, seed_block=0,
        )  # fmt: skip
        self.chain(Drawn, segment=SegmentId(1), round=0, seed=ZERO, units=(0,), verifiers=(V1.account,), serve_by=10**6)

    def given(self, to: MemoryKeys, key: bytes) -> list[bytes]:
        return [release.wrapped for _, release in self.releases if release.recipient == to.account and release.key_id == sha256(key)]


def test_two_holders_give_what_one_does_not() -> None:
    spec = job()
    second, third = Holder(SECOND, spec), Holder(THIRD, spec)
    for holder in (second, third):
        holder.order()
        holder.story()
    for key in [*SHARDS, INITIAL]:
        ref = next(ref for ref in (spec.state, *spec.shared_blobs) if ref.key_id == sha256(key))
        (two,), (three,) = second.given(W1, key), third.given(W1, key)
        task = GatherKey(key_id=ref.key_id, envelope=ref.envelope, shares=((2, two), (3, three)))
        assert gather_key(W1, task).kept
        assert W1.load(ref.key_id) == key
        assert not gather_key(W1, msgspec.structs.replace(task, shares=((2, two),))).kept
        assert key not in {W1.unwrap(two), W1.unwrap(three)}
    read = reads.records(reads.reading(spec), PLACES)
    assert 0 < sum(len(some) for some in read.values()) < len(SHARDS) * RECORDS
    for number, key in enumerate(SHARDS):
        two_, three_ = tuple(second.given(V1, key)), tuple(third.given(V1, key))
        if number not in read:
            assert two_ == three_ == ()
            continue
        gather = GatherRecords(spec=CID, places=PLACES, key_id=sha256(key), answers=((2, two_), (3, three_)))
        shard, wanted = shared_shard(spec, gather)
        masks = MASKS[threshold.masks_ref(shard.sealed.envelope, shard.records)[0]]
        assert not gather_records(V1, shard, wanted, masks, msgspec.structs.replace(gather, answers=((2, two_),))).kept
        assert gather_records(V1, shard, wanted, masks, gather).kept
        assert V1.shard_key(sha256(key)) == record_keys.select(key, read[number])  # of the records that the drawn link reads, and no others
        for one in (*two_, *three_):
            assert set(partials.read(V1.unwrap(one)).parts) == set(read[number])
        with pytest.raises(KeyError):
            V1.load(sha256(key))
    assert not second.given(V1, INITIAL)  # a verifier is given states by the provider
    holder = third
    holder.chain(Settled, segment=SegmentId(1), provider=W1.account, price=1)
    assert holder.given(CLIENT, b"c" * 32)


def test_a_holder_keeps_nothing_before_its_owner_says_so_and_catches_up_then() -> None:
    holder = Holder(SECOND, job())
    holder.story()
    assert not holder.releases
    assert holder.machine.state.jobs == {}
    holder.order()
    assert holder.given(V1, SHARDS[0])  # whose draw is under way
    assert not holder.given(W1, SHARDS[0])  # it has committed
    count = len(holder.releases)
    holder.order()
    assert (len(holder.releases), holder.machine.summary()["holds"]) == (count, [FIRST.account])
    holder.feed(Ordered(order=HOLD + "0x12"))
    assert "does not know the order" in next(effect.text for effect in reversed(holder.effects) if isinstance(effect, Note))


def test_a_job_that_does_not_name_it_is_left_alone() -> None:
    stranger = Holder(MemoryKeys(b"stranger"), job())
    stranger.order()
    stranger.story()
    assert not stranger.releases
    assert stranger.machine.state.jobs[JobId(1)].stage is JobStage.REFUSED


@pytest.mark.parametrize(
    ("bend", "why"),
    [
        ({"holders": msgspec.structs.replace(GROUP, threshold=1)}, "shared among other key holders"),
        ({"holders": msgspec.structs.replace(GROUP, members=GROUP.members[::-1])}, "not the first of its key holders"),
        ({"holders": msgspec.structs.replace(GROUP, members=GROUP.members[:1] * 3)}, "different ones"),
        ({"state": shared(INITIAL, V1)}, "1 of its 3 key envelopes do not open"),
    ],
)
def test_a_document_whose_keys_are_not_for_its_holders_is_refused(bend: dict[str, Any], why: str) -> None:
    holder = Holder(SECOND, msgspec.structs.replace(job(), **bend))
    holder.order()
    holder.story()
    assert why in holder.machine.state.jobs[JobId(1)].reason
    assert not holder.releases


# ---- copies --------------------------------------------------------------------------------------------------------------


def manifest(holders: KeyHolders = GROUP) -> Manifest:
    first = holders.members[0]
    return Manifest(
        dataset=dealt(FIRST, RECORDS, b"", holders), kind="tensors", licence=Licence(name="MIT"),
        owners=(Owner(account=FIRST.account, share=10_000),), counts=Counts(used=1, skipped=0, duplicates=0), sources=ZERO,
        key_service=first.account, key_service_peer=first.peer, key_service_key=first.encryption_key, holders=holders,
    )  # fmt: skip


def published(holder: Holder, owner: MemoryKeys, service: MemoryKeys = FIRST) -> list[Fetch]:
    before = len(holder.effects)
    holder.chain(
        DatasetPublished, dataset=DatasetId(7), owner=owner.account, cid=CID, manifest=sha256(b"m"), root=ZERO, records=2,
        key_service=service.account, owners=(owner.account,), shares=(10_000,),
    )  # fmt: skip
    return [effect for effect in holder.effects[before:] if isinstance(effect, Fetch)]


def test_what_an_owner_publishes_that_is_the_first_holder_is_copied() -> None:
    holder = Holder(SECOND, job())
    holder.order()
    (asked,) = published(holder, FIRST)
    assert asked.cid == CID
    holder.feed(Fetched(key=asked.key))
    (read,) = [effect for effect in holder.effects if isinstance(effect, Do) and isinstance(effect.task, ReadManifest)]
    holder.feed(Done(key=read.key, outcome=ManifestRead(shards=((Cid("b1"), 5), (Cid("b2"), 6)))))
    copies = [effect for effect in holder.effects if isinstance(effect, Fetch)][1:]
    assert [(copy.cid, copy.near) for copy in copies] == [(Cid("b1"), (peer(FIRST),)), (Cid("b2"), (peer(FIRST),))]
    holder.feed(Fetched(key=copies[0].key))
    holder.feed(Failed(key=copies[1].key, fault=Fault.OUTAGE, error="nobody has it"))
    assert [effect.topic for effect in holder.effects[-2:] if isinstance(effect, Note)] == ["mirrored", "error"]


def test_strangers_data_are_not_copied_though_they_name_the_same_holders() -> None:
    holder = Holder(SECOND, job())
    holder.order()
    assert published(holder, W1) == []
    assert published(holder, W1, service=W1) == []
    late = Holder(SECOND, job())
    assert published(late, FIRST) == []
    late.order()
    assert [effect.cid for effect in late.effects if isinstance(effect, Fetch)] == [CID]


def test_a_manifest_is_read_as_the_chain_names_it() -> None:
    blobs = MemoryBlobs(BlobNet(), PeerId("p"))
    made = manifest()
    data = codec.encode(made)
    cid = asyncio.run(blobs.put(data))

    def read(me: MemoryKeys, digest: Digest) -> Any:
        return asyncio.run(KeyServiceHands(blobs, me).perform(ReadManifest(cid=cid, digest=digest), lambda note: None))

    masks = [threshold.masks_ref(shard.sealed.envelope, RECORDS) for shard in made.dataset.shards]
    assert read(SECOND, sha256(data)) == ManifestRead(shards=((CID, 64 + 36 * RECORDS), (CID, 64 + 36 * RECORDS), *masks))
    assert read(V1, sha256(data)) == ManifestRead(shards=())
    with pytest.raises(TaskFailed, match="not the one whose digest"):
        read(SECOND, sha256(b"another"))
    bent = codec.encode(msgspec.structs.replace(manifest(), key_service=Address(W1.account)))
    bad = asyncio.run(blobs.put(bent))
    with pytest.raises(TaskFailed, match="not the first of the key holders"):
        asyncio.run(KeyServiceHands(blobs, SECOND).perform(ReadManifest(cid=bad, digest=sha256(bent)), lambda note: None))
