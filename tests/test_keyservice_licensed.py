"""Keys of published datasets: they go to whom the chain entitles in a job that the contract found licensed, and no document, copied
envelope or repeated request gets them out of the key service otherwise."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from test_keyservice import CID, CLIENT, INITIAL, NODES, SERVICE, V1, V2, W1, W2, ZERO, Bench, document

from assay.adapters.memory_keys import MemoryKeys
from assay.chain import (
    CancelJob,
    ClaimShowing,
    DatasetPublished,
    DisputeSealed,
    GrantLicence,
    JobClosed,
    JobLicensed,
    Lapsed,
    LicenceRevoked,
    RecordsShown,
    ShowingOwed,
)
from assay.codec import encode
from assay.ids import Address, DatasetId, DisputeId, JobId, SegmentId
from assay.job import DatasetRef, Field, JobSpec, SealedRef, ShardRef, UsedDataset, data_head, data_root
from assay.keyservice.licensed import SEND
from assay.keyservice.state import JobStage
from assay.merkle import sha256
from assay.messages import KeyGrant
from assay.publish.manifest import dataset_info, shards_root
from assay.runtime import Failed, Fault, Note, Ordered, Send, Sent

OWNER, RIVAL = MemoryKeys(b"owner"), MemoryKeys(b"rival")
FIELDS = (Field(name="x", dtype="f32", shape=()),)
KEYS = {name: [sha256(name.encode(), bytes([i])) for i in range(2)] for name in ("cheap", "dear")}


def published(name: str, owner: MemoryKeys = OWNER) -> DatasetRef:
    """A dataset of two shards, its keys wrapped to the key service by its owner."""
    bare = tuple(
        ShardRef(sealed=SealedRef(cid=CID, size=64 + 4 * 36, key_id=sha256(key), envelope=b""), records=4, root=sha256(b"root", key))
        for key in KEYS[name]
    )
    info = dataset_info(owner.account, shards_root(DatasetRef(name=name, fields=FIELDS, shards=bare)))
    sealed = [
        msgspec.structs.replace(ref, sealed=msgspec.structs.replace(ref.sealed, envelope=owner.wrap(key, SERVICE.encryption_key, info)))
        for ref, key in zip(bare, KEYS[name], strict=True)
    ]
    return DatasetRef(name=name, fields=FIELDS, shards=tuple(sealed))


CHEAP, DEAR = published("cheap"), published("dear")


def job(data: DatasetRef, *used: tuple[int, int]) -> JobSpec:
    return document(dataset=data, published=tuple(UsedDataset(dataset=DatasetId(number), shards=count) for number, count in used))


def posted(spec: JobSpec, *licensed: int, late: bool = False) -> Bench:
    """A job that the contract found licensed for those datasets; `late`: the document is read before the contract's word is."""
    bench = Bench(spec, held=() if late else ("load",))
    bench.register(*NODES)
    for number, data in ((1, CHEAP), (2, DEAR)):
        bench.chain(
            DatasetPublished, dataset=DatasetId(number), owner=OWNER.account, cid=CID, manifest=ZERO, root=shards_root(data), records=data.records,
            key_service=SERVICE.account, owners=(OWNER.account,), shares=(10_000,),
        )  # fmt: skip
    bench.post(dataset_root=data_root(spec.dataset, spec.order, spec.batch))
    if licensed:
        numbers = tuple(map(DatasetId, licensed))
        bench.chain(
            JobLicensed, job=JobId(1), client=Address("0x"), datasets=numbers, prices=(1,) * len(numbers), purpose=0, locked=1,
            lists=(0,) * len(numbers),
        )  # fmt: skip
    bench.let("load")
    return bench


def stage(bench: Bench) -> tuple[JobStage, str]:
    keys = bench.machine.state.jobs[JobId(1)]
    return keys.stage, keys.reason


@pytest.mark.parametrize("late", [False, True])
def test_a_licensed_job_gets_the_keys_of_its_datasets(late: bool) -> None:
    both = DatasetRef(name="both", fields=FIELDS, shards=(*DEAR.shards, *CHEAP.shards))
    bench = posted(job(both, (2, 2), (1, 2)), 2, 1, late=late)
    bench.assign(1)
    assert bench.got(W1, 1) == [*KEYS["dear"], *KEYS["cheap"], INITIAL]
    bench.commit(1)
    bench.draw(1, V1)
    bench.keys = [*KEYS["dear"], *KEYS["cheap"]]
    assert bench.records(V1, 1) == bench.read(0)


def test_a_worker_that_was_not_granted_gets_nothing_and_a_repeated_request_nothing_new() -> None:
    bench = posted(job(CHEAP, (1, 2)), 1)
    bench.assign(1)
    key = KEYS["cheap"][0]
    for stranger in (W2, V1, RIVAL):
        assert "neither the provider nor a drawn verifier" in bench.refusal(stranger, 1, key)
    assert "nothing entitles you" in bench.refusal(W1, 1, KEYS["dear"][0])  # entitled to one dataset, it asks for another
    answers = [bench.ask(W1, 1, key) for _ in range(3)]
    assert all(isinstance(answer, KeyGrant) for answer in answers)
    assert len({answer.wrapped for answer in answers if isinstance(answer, KeyGrant)}) == 1  # what is on chain already
    assert len(bench.calls) == 1
    bench.chain(Lapsed, segment=SegmentId(1), fee=0)
    bench.assign(2, W2)
    assert "neither the provider" in bench.refusal(W1, 2, key)  # an earlier grant entitles to nothing later


@pytest.mark.parametrize(
    ("spec", "licensed", "why"),
    [
        (job(DEAR, (2, 2)), (), "no licence of it"),
        (job(DEAR, (2, 2)), (1,), "other datasets than those that it is licensed for"),
        (job(DEAR, (1, 2)), (1,), "its shards are not those of dataset 1"),
        (job(DEAR, (1, 1)), (1,), "its shards are not those of the datasets that it names"),
        (job(DEAR, (9, 2)), (9,), "dataset 9 names another key service"),
        (document(dataset=DEAR), (), "2 of its 3 key envelopes do not open"),
        (document(dataset=DEAR), (2,), "2 of its 3 key envelopes do not open"),
    ],
)
def test_a_document_alone_entitles_to_nothing(spec: JobSpec, licensed: tuple[int, ...], why: str) -> None:
    bench = posted(spec, *licensed)
    bench.assign(1)
    found, reason = stage(bench)
    assert found is not JobStage.READY
    assert why in reason
    assert not bench.calls
    assert not isinstance(bench.ask(W1, 1, KEYS["dear"][0]), KeyGrant)


def test_envelopes_of_a_dear_dataset_do_not_open_under_a_cheap_ones_roots() -> None:
    """The roots are those that the job is licensed for, the key ids and envelopes another dataset's."""
    swapped = tuple(msgspec.structs.replace(cheap, sealed=dear.sealed) for cheap, dear in zip(CHEAP.shards, DEAR.shards, strict=True))
    bench = posted(job(DatasetRef(name="cheap", fields=FIELDS, shards=swapped), (1, 2)), 1)
    bench.assign(1)
    assert stage(bench)[0] is JobStage.REFUSED
    assert "2 of its 3 key envelopes do not open" in stage(bench)[1]
    assert not bench.calls


def test_a_document_whose_data_the_contract_does_not_name_is_refused() -> None:
    spec = job(CHEAP, (1, 2))
    bench = Bench(spec)
    bench.register(*NODES)
    bench.post(dataset_root=sha256(b"other data"))
    bench.chain(JobLicensed, job=JobId(1), client=Address("0x"), datasets=(DatasetId(1),), prices=(1,), purpose=0, locked=1, lists=(0,))
    assert "not those that the contract names" in stage(bench)[1]


def test_what_was_assigned_before_a_revocation_goes_on() -> None:
    """The contract assigns nothing after it (tests/ports/test_datasets.py); verifiers of what was assigned still get their keys."""
    bench = posted(job(CHEAP, (1, 2)), 1)
    bench.assign(1)
    bench.commit(1)
    bench.chain(LicenceRevoked, dataset=DatasetId(1), who=Address("0x" + "00" * 20))
    bench.draw(1, V1)
    bench.keys = KEYS["cheap"]
    assert bench.records(V1, 1) == bench.read(0)
    bench.settle(1)
    bench.chain(JobClosed, job=JobId(1), refund=0)
    assert bench.machine.state.jobs[JobId(1)].shared == []  # and nobody is entitled to them any more


def test_a_rival_that_publishes_the_same_roots_gets_no_key_opened() -> None:
    """Somebody copies a manifest under an account of its own: the envelopes are bound to the owner's."""
    spec = job(CHEAP, (3, 2))
    bench = Bench(spec, held=("load",))
    bench.register(*NODES)
    bench.chain(
        DatasetPublished, dataset=DatasetId(3), owner=RIVAL.account, cid=CID, manifest=ZERO, root=shards_root(CHEAP), records=8,
        key_service=SERVICE.account, owners=(RIVAL.account,), shares=(10_000,),
    )  # fmt: skip
    bench.post(dataset_root=data_root(spec.dataset, spec.order, spec.batch))
    bench.chain(JobLicensed, job=JobId(1), client=Address("0x"), datasets=(DatasetId(3),), prices=(1,), purpose=0, locked=1, lists=(0,))
    bench.let("load")
    bench.assign(1)
    assert "2 of its 3 key envelopes do not open" in stage(bench)[1]
    assert not bench.calls


def test_the_owners_calls_are_sent_by_its_node_and_nothing_else_is_an_order() -> None:
    bench = posted(job(CHEAP, (1, 2)), 1)
    bench.held.add("order")
    call = GrantLicence(dataset=DatasetId(1), who=W1.account, price=5, uses=9, until=77, purposes=1)
    for _ in range(2):  # the same again is another call
        (effect,) = bench.feed(Ordered(order=SEND + encode(call).hex()))
        assert isinstance(effect, Send)
        assert effect.call == call
        bench.feed(Sent(key=effect.key, block=1) if effect.key == "order:1" else Failed(key=effect.key, fault=Fault.REFUSED, error="no licence"))
    assert [note.text for note in bench.notes][-2:] == ["the owner's call is mined", "the owner's call was not taken: no licence"]
    theirs = encode(CancelJob(job=JobId(1))).hex()
    for order in ("drain", SEND, SEND + "zz", SEND + theirs, SEND + encode(call).hex()[:-2], theirs):
        (effect,) = bench.feed(Ordered(order=order))
        assert isinstance(effect, Note)
        assert "does not know the order" in effect.text


# ---- what each could do with what it was given -----------------------------------------------------------------------------


def test_what_a_drawn_verifier_can_leak_is_in_the_log_and_no_more() -> None:
    """All that it ever has are the keys of its records, released to it by name, on chain; none of other records of the shards, of another
    dataset, of states, of later draws."""
    bench = posted(job(CHEAP, (1, 2)), 1)
    bench.keys = KEYS["cheap"]
    bench.assign(1)
    checkpoint = bench.commit(1)
    bench.draw(1, V1)
    log = [release for _, call in bench.calls for release in call.releases]
    opened = {release.key_id for release in log if opens(V1, release.wrapped)}
    assert opened == {release.key_id for release in log if release.recipient == V1.account} <= {sha256(key) for key in KEYS["cheap"]}
    assert bench.records(V1, 1) == bench.read(0)
    assert len(bench.read(0)) <= 3  # of eight
    for key in KEYS["cheap"]:  # asked for, it is given again what is on chain, and not the shard's key
        grant = bench.ask(V1, 1, key)
        told = [V1.unwrap(one) for one in grant.wrapped] if isinstance(grant, KeyGrant) else []
        assert key not in told
    for key in (INITIAL, checkpoint, *KEYS["dear"]):
        assert not isinstance(bench.ask(V1, 1, key), KeyGrant)
    bench.settle(1)
    bench.assign(2, W2, parent=1, start=10, stop=20)
    bench.commit(2, W2, stop=20)
    assert "neither the provider nor a drawn verifier" in bench.refusal(V1, 2, KEYS["cheap"][0])  # of the next segment another one is drawn


def opens(node: MemoryKeys, wrapped: bytes) -> bool:
    try:
        return bool(node.unwrap(wrapped))
    except ValueError:
        return False


def test_a_licence_that_is_revoked_in_mid_job_still_lets_what_was_assigned_be_checked_and_nothing_more_be_had() -> None:
    """The contract assigns nothing after it (tests/ports/test_datasets.py), so no event entitles anybody to anything more."""
    bench = posted(job(CHEAP, (1, 2)), 1)
    bench.assign(1)
    bench.chain(LicenceRevoked, dataset=DatasetId(1), who=Address("0x" + "00" * 20))
    bench.commit(1)
    bench.draw(1, V1)
    bench.keys = KEYS["cheap"]
    assert bench.records(V1, 1) == bench.read(0)
    bench.settle(1)
    calls = len(bench.calls)
    for who in (V2, W2, RIVAL):
        assert not isinstance(bench.ask(who, 1, KEYS["cheap"][1]), KeyGrant)
    bench.chain(JobClosed, job=JobId(1), refund=0)
    assert [release.key_id for _, call in bench.calls[calls:] for release in call.releases if release.recipient != CLIENT.account] == []


@pytest.mark.parametrize(
    ("spec", "licensed", "claims"),
    [
        (job(CHEAP, (1, 2)), (1,), [b""]),
        (job(DatasetRef(name="both", fields=FIELDS, shards=(*DEAR.shards, *CHEAP.shards)), (2, 2), (1, 2)), (2, 1), ["head"]),
        (job(CHEAP, (1, 2)), (), []),  # a job that is not licensed rests on nobody's data
    ],
)
def test_what_is_set_aside_for_records_that_a_dispute_has_shown_is_claimed(spec: JobSpec, licensed: tuple[int, ...], claims: list[Any]) -> None:
    bench = posted(spec, *licensed)
    bench.held.add("showing")
    bench.assign(1)
    one = {"segment": SegmentId(1), "challenger": W2.account, "bond": 1, "open_by": 9, "allowance": 1}
    bench.chain(DisputeSealed, dispute=DisputeId(4), **one)
    bench.chain(RecordsShown, dispute=DisputeId(4), first=3, count=2)
    bench.chain(ShowingOwed, dispute=DisputeId(9), amount=5)  # of no job that it knows
    assert not bench.core.outstanding  # nothing is owed before somebody has lost
    bench.chain(ShowingOwed, dispute=DisputeId(4), amount=5)
    calls = [effect.call for effect in bench.core.outstanding.values() if isinstance(effect, Send)]
    heads = [data_head(spec.dataset, spec.order, spec.batch) if head == "head" else head for head in claims]
    assert calls == [ClaimShowing(dispute=DisputeId(4), head=head) for head in heads]
    assert ("shown" in bench.topics()) is bool(claims)
    for effect in list(bench.core.outstanding.values()):
        bench.feed(Failed(key=effect.key, fault=Fault.REFUSED, error="AlreadyClaimed"))  # type: ignore[union-attr]
    assert not bench.core.outstanding
