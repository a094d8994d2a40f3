"""The key service: whom it gives which keys after which event, and what it does about envelopes, documents and nodes that are wrong.

One file because all of it drives one machine with one bench.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from assay import bundles, codec, record_keys
from assay.adapters.memory_journal import MemoryJournal
from assay.adapters.memory_keys import MemoryKeys
from assay.chain import (
    MOST_WRAPPED,
    NOTHING,
    Activated,
    Assigned,
    Block,
    ChainEvent,
    Committed,
    Drawn,
    JobCancelled,
    JobClosed,
    JobPosted,
    Lapsed,
    Params,
    Redrawn,
    Registered,
    Release,
    ReleaseKeys,
    Served,
    Settled,
    Terms,
)
from assay.hands import take_key
from assay.ids import Address, Cid, Digest, JobId, PeerId, SegmentId
from assay.job import DatasetRef, Field, JobSpec, SealedRef, ShardRef, envelope_info
from assay.keyservice.hands import wrap_keys
from assay.keyservice.machine import KeyServiceMachine
from assay.keyservice.state import Config
from assay.merkle import sha256
from assay.messages import Heartbeat, KeyGrant, KeyRequest, Refusal
from assay.runtime import (
    AnyEffect,
    AnyEvent,
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
from assay.sampling import record_indices
from assay.tasks import JobLoaded, LoadJob, TakeKey, WrapKeys

SERVICE, CLIENT, W1, W2, V1, V2, V3 = (MemoryKeys(name.encode()) for name in ("service", "client", "w1", "w2", "v1", "v2", "v3"))
NODES = (SERVICE, CLIENT, W1, W2, V1, V2, V3)
CID = Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")
ZERO = Digest(bytes(32))
SHARDS = [bytes([i]) * 32 for i in (1, 2)]
RECORDS = 4
"""In each shard."""
INITIAL = b"i" * 32
ME = Config(SERVICE.account, SERVICE.encryption_key, PeerId("peer-service"))


def peer(node: MemoryKeys) -> PeerId:
    return PeerId(f"peer-{node.account}")


def sealed(key: bytes, envelope: bytes | None = None) -> SealedRef:
    made = CLIENT.wrap(key, SERVICE.encryption_key, envelope_info(CLIENT.account))
    return SealedRef(cid=CID, size=64 + RECORDS * 36, key_id=sha256(key), envelope=made if envelope is None else envelope)


def document(**changes: object) -> JobSpec:
    shards = tuple(ShardRef(sealed=sealed(key), records=RECORDS, root=ZERO) for key in SHARDS)
    fields: dict[str, object] = {
        "name": "job", "program": CID, "program_root": ZERO, "schedule": CID, "schedule_root": ZERO, "scalars": (), "state": sealed(INITIAL),
        "state_root": ZERO, "dataset": DatasetRef(name="d", fields=(Field(name="x", dtype="f32", shape=()),), shards=shards), "order": ZERO,
        "steps": 30, "micro_batches": 1, "batch": 3, "segment_steps": 10, "key_service": SERVICE.account,
        "key_service_peer": PeerId("peer-service"), "key_service_key": SERVICE.encryption_key,
    }  # fmt: skip
    return JobSpec(**{**fields, **changes})  # type: ignore[arg-type]


FROZEN = b"f" * 32


def terms(spec: JobSpec, **changes: object) -> Terms:
    fields: dict[str, object] = {
        "spec": CID, "spec_digest": codec.digest(spec), "program_root": ZERO, "state_root": ZERO, "dataset_root": ZERO, "schedule_root": ZERO,
        "steps": 30, "micro_batches": 1, "segment_steps": 10, "micro_weight": 1, "update_weight": 1, "micro_leaves": 9, "update_leaves": 9,
        "price_cap": 1, "fee": 1, "budget": 100, "deadline": 10**6, "scheduler": Address("0x" + "5c" * 20), "key_service": SERVICE.account,
        "params": Params(),
    }  # fmt: skip
    return Terms(**{**fields, **changes})  # type: ignore[arg-type]


class Bench:
    """A machine in its core, whose effects are performed at once but for the kinds in `held`."""

    def __init__(self, spec: JobSpec | None = None, held: tuple[str, ...] = (), crash_after: int | None = None) -> None:
        """`crash_after`: the process is killed after it has done its n-th effect and before it has noted the result; it starts again."""
        self.spec, self.held, self.crash_after, self.effects = spec or document(), set(held), crash_after, 0
        self.keys = SHARDS
        self.journal = MemoryJournal()
        self.core = Core(KeyServiceMachine(ME), self.journal)
        self.block = Block(number=1, hash=ZERO, time=1000)
        self.calls: list[tuple[str, ReleaseKeys]] = []
        self.notes: list[Note] = []
        self.feed(Started())

    @property
    def machine(self) -> KeyServiceMachine:
        assert isinstance(self.core.machine, KeyServiceMachine)
        return self.core.machine

    def feed(self, event: AnyEvent) -> list[AnyEffect]:
        effects = self.core.step(event, self.block.time, bytes(32))
        self._check_recovery()
        if len(self.journal.load()[2]) >= 7:  # so that snapshots are restored from, too
            self.core.snapshot(self.journal.load()[2][-1].sequence)
            self._check_recovery()
        self.notes += [effect for effect in effects if isinstance(effect, Note)]
        for effect in effects:
            if not isinstance(effect, Reply | Note) and effect.key.split(":")[0] not in self.held:  # type: ignore[union-attr]
                self.perform(effect)
        return effects

    def _check_recovery(self) -> None:
        """A process that is killed here and starts again is where this one is, and owes the same effects."""
        again = Core(KeyServiceMachine(ME), self.journal)
        owed = again.restore()
        assert msgspec.json.encode(again.machine.state) == msgspec.json.encode(self.machine.state)
        assert owed == list(self.core.outstanding.values())
        assert again.cursor == self.core.cursor

    def perform(self, effect: AnyEffect) -> None:
        self.effects += 1
        if self.effects == self.crash_after:
            if isinstance(effect, Send) and isinstance(effect.call, ReleaseKeys):
                self.calls.append((effect.key, effect.call))
            self.core = Core(KeyServiceMachine(ME), self.journal)
            for owed in self.core.restore():
                self.perform(owed)
            return
        match effect:
            case Fetch():
                self.feed(Fetched(key=effect.key))
            case Do(task=LoadJob() as task):
                self.feed(Done(key=effect.key, outcome=JobLoaded(job=task.job, spec=self.spec, spec_digest=codec.digest(self.spec))))
            case Do(task=WrapKeys() as task):
                self.feed(Done(key=effect.key, outcome=wrap_keys(SERVICE, task)))
            case Do(task=TakeKey() as task):
                self.feed(Done(key=effect.key, outcome=take_key(SERVICE, task)))
            case Send(call=ReleaseKeys() as call):
                if effect.key not in [key for key, _ in self.calls]:  # the sender sends once for a key
                    self.calls.append((effect.key, call))
                self.feed(Sent(key=effect.key, block=self.block.number))

    def let(self, *kinds: str) -> None:
        """Performs what was held back of these kinds, and holds them back no longer."""
        self.held -= set(kinds)
        for effect in list(self.core.outstanding.values()):
            if effect.key.split(":")[0] in kinds:
                self.perform(effect)  # type: ignore[arg-type]

    def chain(self, kind: Callable[..., ChainEvent], **fields: object) -> None:
        self.block = Block(number=self.block.number + 1, hash=ZERO, time=self.block.time + 1)
        self.feed(ChainSeen(event=kind(block=self.block.number, time=self.block.time, index=0, **fields)))  # type: ignore[arg-type]

    def register(self, *nodes: MemoryKeys) -> None:
        for node in nodes:
            self.chain(Registered, who=node.account, encryption_key=node.encryption_key, peer=peer(node))

    def post(self, job: int = 1, **changes: object) -> None:
        self.chain(JobPosted, job=JobId(job), client=CLIENT.account, terms=terms(self.spec, **changes))

    def assign(self, segment: int, to: MemoryKeys = W1, parent: int = 0, start: int = 0, stop: int = 10) -> None:
        self.chain(
            Assigned, segment=SegmentId(segment), job=JobId(1), parent=SegmentId(parent), provider=to.account, start=start, stop=stop, price=1,
            activate_by=10**6,
        )  # fmt: skip

    def commit(self, segment: int, by: MemoryKeys = W1, stop: int = 10, envelope: bytes | None = None) -> bytes:
        """Returns the checkpoint's key."""
        self.chain(Activated, segment=SegmentId(segment), lease_until=10**6)
        key = bytes([100 + segment]) * 32
        made = by.wrap(key, SERVICE.encryption_key, envelope_info(by.account)) if envelope is None else envelope
        self.chain(
            Committed, segment=SegmentId(segment), stop=stop, link_root=ZERO, end_root=ZERO, checkpoint=CID, key_id=sha256(key),
            key_envelope=made, commitment=ZERO, seed_block=0,
        )  # fmt: skip
        return key

    def draw(self, segment: int, *verifiers: MemoryKeys, round: int = 0, units: tuple[int, ...] = (0,)) -> None:
        self.chain(
            Drawn, segment=SegmentId(segment), round=round, seed=ZERO, units=units, verifiers=tuple(v.account for v in verifiers), serve_by=10**6
        )

    def settle(self, segment: int, by: MemoryKeys = W1) -> None:
        self.chain(Settled, segment=SegmentId(segment), provider=by.account, price=1)

    def got(self, node: MemoryKeys, segment: int) -> list[bytes]:
        """The keys that a node can open of what was released for a segment."""
        return [node.unwrap(r.wrapped) for _, call in self.calls if call.segment == segment for r in call.releases if r.recipient == node.account]

    def records(self, node: MemoryKeys, segment: int) -> dict[tuple[int, int], bytes]:
        """What a node can read of the shards by what was released for a segment: (shard, place in it) and the record's key."""
        found: dict[tuple[int, int], bytes] = {}
        names = {sha256(key): number for number, key in enumerate(self.keys)}
        for release in [r for _, call in self.calls if call.segment == segment for r in call.releases if r.recipient == node.account]:
            if release.key_id in names:
                what, shard = record_keys.parse(node.unwrap(release.wrapped)), names[release.key_id]
                opened = enumerate(record_keys.derive_all(what, RECORDS)) if isinstance(what, bytes) else what.keys.items()
                found |= {(shard, index): key for index, key in opened}
        return found

    def read(self, *units: int, start: int = 0) -> dict[tuple[int, int], bytes]:
        """What links of a segment that begins with step `start` read, so that a drawn verifier may: by the definition of the order of records."""
        spec = self.spec
        drawn = [i for unit in units if unit % 2 == 0 for i in record_indices(spec.order, RECORDS * len(self.keys), start + unit // 2, 0, 1, 3)]
        places = [divmod(index, RECORDS) for index in drawn]
        return {(shard, index): record_keys.derive(self.keys[shard], index) for shard, index in places}

    def ask(self, who: MemoryKeys, segment: int, key: bytes) -> KeyGrant | Refusal:
        effects = self.feed(Asked(ask=7, peer=peer(who), message=KeyRequest(segment=SegmentId(segment), key_id=sha256(key))))
        (reply,) = effects
        assert isinstance(reply, Reply)
        assert isinstance(reply.message, KeyGrant | Refusal)
        return reply.message

    def refusal(self, who: MemoryKeys, segment: int, key: bytes) -> str:
        answer = self.ask(who, segment, key)
        assert isinstance(answer, Refusal)
        return answer.reason

    def topics(self) -> list[str]:
        return [note.topic for note in self.notes]


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.register(*NODES)
    bench.post()
    return bench


# ---- who gets what -------------------------------------------------------------------------------------------------------


def test_the_first_provider_gets_shards_and_the_initial_state_in_one_call(bench: Bench) -> None:
    bench.assign(1)
    assert len(bench.calls) == 1
    assert bench.got(W1, 1) == [*SHARDS, INITIAL]
    assert not bench.got(W2, 1)


def test_the_next_provider_gets_the_parents_checkpoint(bench: Bench) -> None:
    bench.assign(1)
    key = bench.commit(1)
    bench.assign(2, W2, parent=1, start=10, stop=20)
    assert bench.got(W2, 2) == [*SHARDS, key]


def test_drawn_verifiers_get_the_keys_of_the_records_of_the_drawn_links_and_no_other_and_no_state(bench: Bench) -> None:
    bench.assign(1)
    key = bench.commit(1)
    before = len(bench.calls)
    bench.draw(1, V1, V2)
    assert len(bench.calls) == before + 1
    wanted = bench.read(0)
    assert 0 < len(wanted) <= 3  # of eight records
    for verifier in (V1, V2):
        assert bench.records(verifier, 1) == wanted
        assert not {*SHARDS, INITIAL, key} & set(bench.got(verifier, 1))
    assert not bench.got(V3, 1)
    bench.chain(Redrawn, segment=SegmentId(1), round=1, reason="not served", seed_block=0)
    bench.draw(1, V3, round=1, units=(0, 4))  # what the rounds before have drawn is checked again
    assert bench.records(V3, 1) == bench.read(0, 4)
    assert bench.records(V1, 1) == wanted


def test_from_what_is_released_no_other_records_key_can_be_derived(bench: Bench) -> None:
    """A bundle holds outputs of HKDF under different labels, and nothing of what they are derived from."""
    bench.assign(1)
    bench.commit(1)
    bench.draw(1, V1)
    held = bench.records(V1, 1)
    others = {record_keys.derive(key, index) for shard, key in enumerate(SHARDS) for index in range(RECORDS) if (shard, index) not in held}
    seen = b"".join(V1.unwrap(r.wrapped) for _, call in bench.calls for r in call.releases if r.recipient == V1.account)
    secrets = {*SHARDS, *(record_keys.extract(key) for key in SHARDS), *others}
    assert not [secret for secret in secrets if secret in seen]
    assert not others & {record_keys.derive(key, index) for key in held.values() for index in range(RECORDS)}


def test_an_update_reads_no_records_and_is_released_nothing_but_the_word_that_nothing_is_due(bench: Bench) -> None:
    bench.assign(1)
    bench.commit(1)
    bench.draw(1, V1, V2, units=(1,))
    call = bench.calls[-1][1]
    assert call.releases == tuple(Release(recipient=one.account, key_id=NOTHING, wrapped=b"") for one in (V1, V2))
    assert "nothing entitles you" in bench.refusal(V1, 1, SHARDS[0])


def test_who_is_to_read_all_of_a_shard_is_given_its_key(bench: Bench) -> None:
    bench.assign(1)
    bench.commit(1)
    bench.draw(1, V1, units=tuple(range(0, 20, 2)))
    assert bench.got(V1, 1) == SHARDS  # which says no more than the keys of all its records, and is shorter


def test_many_records_go_in_several_bundles_and_calls_none_of_which_is_too_large() -> None:
    shards = tuple(ShardRef(sealed=sealed(key), records=5000, root=ZERO) for key in SHARDS)
    bench = Bench(document(dataset=DatasetRef(name="d", fields=document().dataset.fields, shards=shards), batch=1000))
    bench.register(*NODES)
    bench.post()
    bench.assign(1)
    bench.commit(1)
    bench.draw(1, V1, V2)
    calls = [call for _, call in bench.calls[1:]]
    assert len(calls) > 1
    assert all(len(r.wrapped) <= MOST_WRAPPED for call in calls for r in call.releases)
    assert all(sum(len(r.wrapped) for r in call.releases) <= bundles.MOST_CALL and len(call.releases) <= 64 for call in calls)
    wanted = {divmod(i, 5000) for i in record_indices(ZERO, 10_000, 0, 0, 1, 1000)}
    assert set(bench.records(V1, 1)) == wanted == set(bench.records(V2, 1))
    for number, key in enumerate(SHARDS):  # and all of them are given to who asks
        answer = bench.ask(V1, 1, key)
        assert isinstance(answer, KeyGrant)
        assert len(answer.wrapped) > 1
        told = [record_keys.decode(V1.unwrap(one)).keys for one in answer.wrapped]
        assert {(number, index) for some in told for index in some} == {place for place in wanted if place[0] == number}


@pytest.mark.parametrize(
    ("spec", "changes", "why"),
    [
        ({"batch": 1 << 15}, {}, "read up to 30000 records, and a key service releases the keys of 16384"),
        ({}, {"params": Params(links=0), "segment_steps": 6000}, "read up to 18000 records"),
        ({"batch": 0}, {}, "batch is 0"),
    ],
)
def test_a_job_whose_draws_would_fill_the_chain_is_refused(spec: dict[str, int], changes: dict[str, Any], why: str) -> None:
    shards = tuple(ShardRef(sealed=sealed(key), records=15_000, root=ZERO) for key in SHARDS)
    bench = Bench(document(dataset=DatasetRef(name="d", fields=document().dataset.fields, shards=shards), **spec))
    bench.register(*NODES)
    bench.post(**changes)
    bench.assign(1)
    assert not bench.calls
    assert why in bench.refusal(W1, 1, SHARDS[0])


def test_the_client_gets_the_last_checkpoint_when_all_has_settled(bench: Bench) -> None:
    for segment in (1, 2, 3):
        bench.assign(segment, parent=segment - 1, start=10 * segment - 10, stop=10 * segment)
        key = bench.commit(segment, stop=10 * segment)
        bench.settle(segment)
        assert bench.got(CLIENT, segment) == ([key] if segment == 3 else [])
    bench.chain(JobClosed, job=JobId(1), refund=0)
    assert bench.got(CLIENT, 3) == [key]  # once


def test_the_client_may_ask_for_every_checkpoint_that_settled_and_nobody_else_may(bench: Bench) -> None:
    keys = {}
    for segment in (1, 2):
        bench.assign(segment, parent=segment - 1, start=10 * segment - 10, stop=10 * segment)
        keys[segment] = bench.commit(segment, stop=10 * segment)
        assert "nothing entitles you" in bench.refusal(CLIENT, segment, keys[segment])
        bench.settle(segment)
    for segment, key in keys.items():  # the facts of the first are forgotten, its key is not
        grant = bench.ask(CLIENT, segment, key)
        assert isinstance(grant, KeyGrant)
        assert CLIENT.unwrap(grant.wrapped[0]) == key
        assert bench.got(CLIENT, segment) == []  # nothing of it is on chain
        for other in (V1, W2):
            assert isinstance(bench.ask(other, segment, key), Refusal)
    assert isinstance(bench.ask(CLIENT, 2, keys[1]), Refusal)


def test_a_client_that_cancels_gets_what_settled(bench: Bench) -> None:
    bench.assign(1)
    first = bench.commit(1)
    bench.settle(1)
    bench.assign(2, parent=1, start=10, stop=20)
    bench.chain(JobCancelled, job=JobId(1))
    assert bench.got(CLIENT, 1) == [first]
    second = bench.commit(2, stop=20)
    assert bench.got(CLIENT, 2) == []
    bench.settle(2)
    assert bench.got(CLIENT, 2) == [second]
    bench.chain(JobClosed, job=JobId(1), refund=0)
    assert (bench.got(CLIENT, 1), bench.got(CLIENT, 2)) == ([first], [second])


@pytest.mark.parametrize("held", ["wrap", "release"])
def test_a_release_may_outlive_its_segment(bench: Bench, held: str) -> None:
    bench.assign(1)
    first = bench.commit(1)
    bench.settle(1)
    bench.assign(2, parent=1, start=10, stop=20)
    bench.held.add(held)
    bench.chain(JobCancelled, job=JobId(1))
    second = bench.commit(2, stop=20)
    bench.settle(2)  # segment 1 is now forgotten
    bench.let(held)
    assert (bench.got(CLIENT, 1), bench.got(CLIENT, 2)) == ([first], [second])
    assert not bench.machine.state.grants


def test_a_job_cancelled_before_anything_settled_has_nothing_to_give(bench: Bench) -> None:
    bench.chain(JobCancelled, job=JobId(1))
    bench.chain(JobClosed, job=JobId(1), refund=100)
    assert not bench.calls


def test_jobs_of_other_key_services_are_left_alone() -> None:
    bench = Bench()
    bench.register(*NODES)
    bench.post(key_service=W2.account)
    bench.assign(1)
    assert not bench.calls
    assert not bench.core.outstanding
    assert "names another key service" in bench.refusal(W1, 1, SHARDS[0])


def test_large_batches_are_cut_into_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MOST_IN_CALL", 2)
    bench = Bench()
    bench.register(*NODES)
    bench.post()
    bench.assign(1)
    assert [(key, len(call.releases)) for key, call in bench.calls] == [("release:1:assigned:0:0", 2), ("release:1:assigned:0:1", 1)]
    assert bench.got(W1, 1) == [*SHARDS, INITIAL]
    assert bench.machine.summary()["released"] == 3


def whole_job(crash_after: int | None) -> tuple[Bench, dict[str, list[bytes]]]:
    bench = Bench(crash_after=crash_after)
    bench.register(*NODES)
    bench.post()
    keys = []
    for segment in (1, 2, 3):
        bench.assign(segment, parent=segment - 1, start=10 * segment - 10, stop=10 * segment)
        keys.append(bench.commit(segment, stop=10 * segment))
        bench.draw(segment, V1, V2)
        bench.settle(segment)
    nodes = {"w1": W1, "v1": V1, "v2": V2, "client": CLIENT}
    return bench, {f"{name} {segment}": bench.got(node, segment) for name, node in nodes.items() for segment in (1, 2, 3)}


def test_a_kill_between_any_effect_and_its_result_changes_nothing() -> None:
    """Enumerated: one run for every effect that a whole job takes."""
    smooth, expected = whole_job(None)
    assert smooth.effects >= 20
    assert expected["client 3"] == [bytes([103]) * 32]
    for n in range(1, smooth.effects + 1):
        bench, got = whole_job(n)
        assert got == expected, f"killed after effect {n}"
        assert not bench.core.outstanding
        assert bench.machine.summary() == smooth.machine.summary()


# ---- not before its time -------------------------------------------------------------------------------------------------


def test_nothing_is_released_before_the_document_is_here() -> None:
    bench = Bench(held=("spec",))
    bench.register(*NODES)
    bench.post()
    bench.assign(1)
    assert not bench.calls
    assert bench.refusal(W1, 1, SHARDS[0]) == "waiting for the job's document"
    bench.let("spec")
    assert bench.got(W1, 1) == [*SHARDS, INITIAL]


def test_a_segment_that_ends_first_gets_nothing() -> None:
    bench = Bench(held=("spec",))
    bench.register(*NODES)
    bench.post()
    bench.assign(1)
    bench.chain(Lapsed, segment=SegmentId(1), fee=0)
    bench.let("spec")
    assert not bench.calls
    assert "has lapsed before" in next(note.text for note in bench.notes if note.topic == "withheld")


def test_a_recipient_without_a_registered_key_does_not_hold_up_the_others() -> None:
    bench = Bench()
    bench.register(SERVICE, CLIENT, W1, V1)
    bench.post()
    bench.assign(1)
    bench.commit(1)
    bench.draw(1, V1, V2)
    assert bench.records(V1, 1) == bench.read(0)
    assert not bench.got(V2, 1)
    bench.register(V2)
    assert bench.records(V2, 1) == bench.read(0)


def test_a_checkpoint_whose_envelope_is_being_checked_is_waited_for(bench: Bench) -> None:
    bench.held.add("checkpoint")
    bench.assign(1)
    key = bench.commit(1)
    before = len(bench.calls)
    bench.draw(1, V1)
    bench.assign(2, W2, parent=1, start=10, stop=20)
    assert len(bench.calls) == before
    bench.let("checkpoint")
    assert bench.records(V1, 1) == bench.read(0)
    assert bench.got(W2, 2) == [*SHARDS, key]


def test_provider_and_verifiers_get_the_frozen_tensors_with_the_shards() -> None:
    bench = Bench(document(frozen=sealed(FROZEN)))
    bench.register(*NODES)
    bench.post()
    bench.assign(1)
    assert bench.got(W1, 1) == [*SHARDS, FROZEN, INITIAL]
    key = bench.commit(1)
    bench.draw(1, V1)
    assert FROZEN in bench.got(V1, 1)
    assert bench.records(V1, 1) == bench.read(0)
    bench.assign(2, W2, parent=1, start=10, stop=20)
    assert bench.got(W2, 2) == [*SHARDS, FROZEN, key]


def test_a_node_that_lost_its_key_gets_what_is_still_due(bench: Bench) -> None:
    bench.assign(1)
    bench.chain(Activated, segment=SegmentId(1), lease_until=10**6)
    fresh = MemoryKeys(b"w1 on a new disk", account=W1.account)
    bench.register(fresh)
    released = [r for _, call in bench.calls[1:] for r in call.releases]
    assert [fresh.unwrap(r.wrapped) for r in released] == [*SHARDS, INITIAL]
    answer = bench.ask(fresh, 1, INITIAL)
    assert isinstance(answer, KeyGrant)
    assert fresh.unwrap(answer.wrapped[0]) == INITIAL


# ---- what is wrong, and whose fault --------------------------------------------------------------------------------------


def replaced_shard(envelope: bytes) -> JobSpec:
    spec = document()
    shards = (spec.dataset.shards[0], msgspec.structs.replace(spec.dataset.shards[1], sealed=sealed(SHARDS[1], envelope)))
    return document(dataset=msgspec.structs.replace(spec.dataset, shards=shards))


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (replaced_shard(b"garbage"), "1 of its 3 key envelopes do not open"),
        (replaced_shard(CLIENT.wrap(b"x" * 32, SERVICE.encryption_key, envelope_info(CLIENT.account))), "1 of its 3 key envelopes"),
        (replaced_shard(CLIENT.wrap(SHARDS[1], W1.encryption_key, envelope_info(CLIENT.account))), "1 of its 3 key envelopes"),
        # copied from the job of another client
        (replaced_shard(W2.wrap(SHARDS[1], SERVICE.encryption_key, envelope_info(W2.account))), "1 of its 3 key envelopes"),
        (document(frozen=sealed(FROZEN, b"garbage")), "1 of its 4 key envelopes do not open"),
        (document(key_service=W1.account), "names another key service"),
        (document(key_service_key=W1.encryption_key), "another encryption key of this one"),
    ],
    ids=["garbage", "another key", "another recipient", "copied", "garbage for the frozen tensors", "another service", "an old key of ours"],
)
def test_a_job_whose_document_is_wrong_is_refused_with_the_reason(spec: JobSpec, why: str) -> None:
    bench = Bench(spec)
    bench.register(*NODES)
    bench.post()
    bench.assign(1)
    assert not bench.calls
    assert why in next(note.text for note in bench.notes if note.topic == "refused")
    assert why in bench.refusal(W1, 1, SHARDS[0])
    assert bench.machine.summary()["jobs"][0]["stage"] == "refused"


def test_a_document_that_is_not_the_contracts_is_refused() -> None:
    bench = Bench()
    bench.register(*NODES)
    bench.post(spec_digest=ZERO)
    bench.assign(1)
    assert not bench.calls
    assert "not the one the contract names" in bench.refusal(W1, 1, SHARDS[0])


BAD = [
    b"",
    b"garbage" * 12,
    W1.wrap(b"another key".ljust(32), SERVICE.encryption_key, envelope_info(W1.account)),
    W1.wrap(bytes([101]) * 32, SERVICE.encryption_key),
    W1.wrap(bytes([101]) * 32, W2.encryption_key, envelope_info(W1.account)),
]


@pytest.mark.parametrize("envelope", BAD, ids=["empty", "garbage", "another key", "no purpose", "another recipient"])
def test_a_provider_whose_checkpoint_nobody_can_open_is_not_paid_for_it(bench: Bench, envelope: bytes) -> None:
    """No keys for the draws of its segment, nor for a segment that would start from it."""
    bench.assign(1)
    bench.commit(1, envelope=envelope)
    note = next(note for note in bench.notes if note.topic == "bad-envelope")
    assert note.data == {"segment": 1, "party": W1.account, "reason": "bad key envelope"}
    before = len(bench.calls)
    bench.draw(1, V1, V2)
    bench.assign(2, W2, parent=1, start=10, stop=20)
    assert len(bench.calls) == before
    for who, segment in ((V1, 1), (W2, 2)):
        assert f"provider {W1.account} does not open to the key it committed to" in bench.refusal(who, segment, SHARDS[0])


def test_a_bad_envelope_found_late_stops_what_waits_for_it(bench: Bench) -> None:
    bench.held.add("checkpoint")
    bench.assign(1)
    bench.commit(1, envelope=b"garbage")
    before = len(bench.calls)
    bench.draw(1, V1)
    bench.let("checkpoint")
    assert len(bench.calls) == before
    assert bench.topics()[-2:] == ["bad-envelope", "withheld"]


def test_a_recipient_whose_registered_key_is_none_gets_nothing() -> None:
    bench = Bench()
    bench.register(SERVICE, CLIENT, W1, V1)
    bench.chain(Registered, who=V2.account, encryption_key=b"short", peer=peer(V2))
    bench.post()
    bench.assign(1)
    bench.commit(1)
    bench.draw(1, V1, V2)
    assert bench.records(V1, 1) == bench.read(0)
    bench.assign(2, V2, start=0)
    assert "the encryption key that was registered is none" in bench.notes[-1].text
    assert bench.machine.summary()["waiting"] == []


def woken(bench: Bench, key: str) -> None:
    wake = bench.core.outstanding[key]
    assert isinstance(wake, Wake)
    assert wake.at > bench.block.time
    bench.feed(Woke(key=key))


@pytest.mark.parametrize("kind", ["spec", "load", "envelopes"])
def test_an_outage_is_waited_out(kind: str) -> None:
    bench = Bench(held=(kind,))
    bench.register(*NODES)
    bench.post()
    bench.assign(1)
    bench.feed(Failed(key=f"{kind}:1", fault=Fault.OUTAGE, error="nobody gave block bafk…"))
    assert bench.notes[-1].text == "job 1: nobody gave block bafk…; trying again"
    bench.held.clear()
    woken(bench, "again:job:1")
    assert bench.got(W1, 1) == [*SHARDS, INITIAL]


def test_a_document_that_nobody_can_read_refuses_the_job() -> None:
    bench = Bench(held=("load",))
    bench.register(*NODES)
    bench.post()
    bench.feed(Failed(key="load:1", fault=Fault.PEER, error="job 1: its document is refused: not canonical"))
    bench.assign(1)
    assert not bench.calls
    assert "not canonical" in bench.refusal(W1, 1, SHARDS[0])


@pytest.mark.parametrize("kind", ["wrap", "release"])
def test_our_own_trouble_is_tried_again(bench: Bench, kind: str) -> None:
    bench.held.add(kind)
    bench.assign(1)
    (key,) = bench.core.outstanding
    bench.feed(Failed(key=key, fault=Fault.OWN, error="out of gas money"))
    bench.held.clear()
    woken(bench, "again:grant:1:assigned:0")
    assert bench.got(W1, 1) == [*SHARDS, INITIAL]


def test_what_the_contract_does_not_take_is_given_to_whoever_asks(bench: Bench) -> None:
    bench.held.add("release")
    bench.assign(1)
    bench.feed(Failed(key="release:1:assigned:0:0", fault=Fault.REFUSED, error="no such segment"))
    assert "the contract did not take the keys: no such segment" in bench.notes[-1].text
    answer = bench.ask(W1, 1, SHARDS[1])
    assert isinstance(answer, KeyGrant)
    assert W1.unwrap(answer.wrapped[0]) == SHARDS[1]


# ---- requests ------------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_with_what_is_on_chain(bench: Bench) -> None:
    bench.assign(1)
    on_chain = {r.key_id: r.wrapped for _, call in bench.calls for r in call.releases}
    for key in (*SHARDS, INITIAL):
        answer = bench.ask(W1, 1, key)
        assert isinstance(answer, KeyGrant)
        assert answer.wrapped == (on_chain[sha256(key)],)


def test_requests_that_are_not_granted_say_why(bench: Bench) -> None:
    assert "not known here, or not final yet" in bench.refusal(W1, 9, SHARDS[0])
    bench.held.add("wrap")
    bench.assign(1)
    assert "on their way" in bench.refusal(W1, 1, SHARDS[0])
    bench.let("wrap")
    assert "neither the provider nor a drawn verifier" in bench.refusal(W2, 1, SHARDS[0])
    assert "neither the provider nor a drawn verifier" in bench.refusal(V1, 1, SHARDS[0])
    assert "nothing entitles you" in bench.refusal(W1, 1, b"some other key".ljust(32))
    assert "nothing entitles you" in bench.refusal(CLIENT, 1, SHARDS[0])
    key = bench.commit(1)
    bench.draw(1, V1)
    assert "nothing entitles you" in bench.refusal(V1, 1, key)
    assert "nothing entitles you" in bench.refusal(CLIENT, 1, key)


def test_a_peer_that_claims_anothers_account_gets_nothing(bench: Bench) -> None:
    """The sender is the peer that the transport authenticated; which account it speaks for is what that account registered."""
    bench.assign(1)
    effects = bench.feed(Asked(ask=1, peer=PeerId("peer-of-a-thief"), message=KeyRequest(segment=SegmentId(1), key_id=sha256(SHARDS[0]))))
    assert isinstance(effects[0], Reply)
    assert isinstance(effects[0].message, Refusal)


def test_other_requests_are_refused(bench: Bench) -> None:
    (reply,) = bench.feed(Asked(ask=1, peer=peer(W1), message=Heartbeat(segment=SegmentId(1), step=0, loss_f32=0)))
    assert reply == Reply(ask=1, message=Refusal(reason="this node is a key service: it answers key requests only"))


def test_the_same_event_twice_releases_once(bench: Bench) -> None:
    bench.assign(1)
    seen = ChainSeen(
        event=Assigned(
            block=bench.block.number, time=1, index=0, segment=SegmentId(1), job=JobId(1), parent=SegmentId(0), provider=W1.account, start=0,
            stop=10, price=1, activate_by=1,
        )
    )  # fmt: skip
    bench.feed(seen)
    assert len(bench.calls) == 1


def test_served_and_other_events_release_nothing(bench: Bench) -> None:
    bench.assign(1)
    bench.commit(1)
    bench.draw(1, V1)
    before = len(bench.calls)
    bench.chain(Served, segment=SegmentId(1), round=0, seal_by=10**6)
    assert len(bench.calls) == before


def test_what_is_over_is_forgotten(bench: Bench) -> None:
    for segment in (1, 2, 3):
        bench.assign(segment, parent=segment - 1, start=10 * segment - 10, stop=10 * segment)
        bench.commit(segment, stop=10 * segment)
        bench.settle(segment)
    state = bench.machine.state
    assert list(state.checkpoints) == [3]
    assert list(state.released) == [3]
    assert not state.grants
    assert not bench.core.outstanding
