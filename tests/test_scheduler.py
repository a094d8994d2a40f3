"""The scheduler's machine: events in, effects out. No network, no clock."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from assay import cid
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.adapters.memory_chain import MemoryChain, MemoryLedger
from assay.adapters.memory_journal import MemoryJournal
from assay.chain import (
    Activated,
    AnyChainEvent,
    Assign,
    Assigned,
    Attested,
    CancelJob,
    CloseJob,
    Committed,
    Draw,
    JobCancelled,
    JobClosed,
    JobPosted,
    Lapse,
    Lapsed,
    Offer,
    Params,
    Registered,
    Rejected,
    Settled,
    Terms,
    VoidSegment,
    Withheld,
)
from assay.ids import Address, Cid, Digest, JobId, PeerId, SegmentId
from assay.messages import Ack, HandOver, Heartbeat, JobAnnouncement, Means, OfferMessage, PeerRecord, Refusal
from assay.runtime import (
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
    Gossip,
    Note,
    Reply,
    Send,
    Started,
    TaskFailed,
    Wake,
    Woke,
)
from assay.tasks import FindNodes, KeepBlob, NodesFound, OfferVerified, ReleaseBlobs
from assay_scheduler.books import MAX_TOLD, Config
from assay_scheduler.hands import SchedulerHands
from assay_scheduler.machine import SchedulerMachine

ME, CLIENT, KEYS = (Address("0x" + c * 40) for c in "abc")
W1, W2 = Address("0x" + "1" * 40), Address("0x" + "2" * 40)
DIGEST = Digest(b"\x07" * 32)
CID = Cid("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")


@dataclasses.dataclass
class Bench:
    """Drives one machine; remembers what it wanted."""

    core: Core
    block: int = 0
    now: int = 100

    def feed(self, event: AnyEvent) -> list[AnyEffect]:
        return self.core.step(event, self.now, b"\0" * 32)

    def seen(self, kind: type[AnyChainEvent], **fields: object) -> list[AnyEffect]:
        self.block += 1
        return self.feed(ChainSeen(event=kind(block=self.block, time=self.now, index=0, **fields)))  # type: ignore[arg-type]

    def wake(self, prefix: str, at: int | None = None) -> list[AnyEffect]:
        keys = [k for k, e in self.core.outstanding.items() if k.startswith(prefix) and isinstance(e, Wake)]
        assert keys, f"nothing waits for {prefix}: {list(self.core.outstanding)}"
        wake = self.core.outstanding[keys[0]]
        assert isinstance(wake, Wake)
        self.now = max(self.now, wake.at if at is None else at)
        return self.feed(Woke(key=keys[0]))

    def bid(
        self, who: Address, price: int, parent: int = 0, start: int = 0, stop: int = 10, peer: str | None = None, workers: tuple[Address, ...] = ()
    ) -> list[AnyEffect]:
        """An offer and its verification."""
        offer = Offer(
            provider=who, job=JobId(1), parent=SegmentId(parent), start=start, stop=stop, price=price, expires=self.now + 500, nonce=price
        )
        message = OfferMessage(offer=offer, signature=b"s", steps_per_second_milli=0)
        effects = self.feed(Asked(ask=1, peer=PeerId(peer or f"peer-{who}"), message=message))
        for effect in effects:
            if isinstance(effect, Do):
                return [*effects, *self.feed(Done(key=effect.key, outcome=OfferVerified(workers=workers)))]
        return effects


def terms(**changes: object) -> Terms:
    fields: dict[str, object] = {
        "spec": CID, "spec_digest": DIGEST, "program_root": DIGEST, "state_root": DIGEST, "dataset_root": DIGEST, "schedule_root": DIGEST,
        "steps": 30, "micro_batches": 2, "segment_steps": 10, "micro_weight": 3, "update_weight": 1, "micro_leaves": 9, "update_leaves": 5,
        "price_cap": 100, "fee": 10, "budget": 10_000, "deadline": 10_000, "scheduler": ME, "key_service": KEYS,
        "params": Params(depth=2, takeover_window=60),
    }  # fmt: skip
    return Terms(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def bench() -> Bench:
    bench = Bench(Core(SchedulerMachine(Config(account=ME, peer=PeerId("me"))), MemoryJournal()))
    bench.feed(Started())
    for who in (CLIENT, W1, W2):
        bench.seen(Registered, who=who, encryption_key=b"k" * 32, peer=PeerId(f"peer-{who}"))
    return bench


def sent(effects: list[AnyEffect]) -> list[object]:
    return [effect.call for effect in effects if isinstance(effect, Send)]


def announced(effects: list[AnyEffect]) -> list[JobAnnouncement]:
    return [effect.message for effect in effects if isinstance(effect, Gossip) and isinstance(effect.message, JobAnnouncement)]


def replies(effects: list[AnyEffect]) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, Reply)]


def assigned(bench: Bench, segment: int, who: Address = W1, parent: int = 0, start: int = 0, stop: int = 10) -> list[AnyEffect]:
    return bench.seen(
        Assigned, segment=SegmentId(segment), job=JobId(1), parent=SegmentId(parent), provider=who,
        start=start, stop=stop, price=500, activate_by=bench.now + 50,
    )  # fmt: skip


def committed(bench: Bench, segment: int, stop: int) -> list[AnyEffect]:
    return bench.seen(
        Committed, segment=SegmentId(segment), stop=stop, link_root=DIGEST, end_root=DIGEST, checkpoint=CID, key_id=DIGEST,
        key_envelope=b"", commitment=DIGEST, seed_block=bench.block + 5,
    )  # fmt: skip


def post(bench: Bench, **changes: object) -> list[AnyEffect]:
    return bench.seen(JobPosted, job=JobId(1), client=CLIENT, terms=terms(**changes))


def test_announces_collects_and_takes_the_cheapest(bench: Bench) -> None:
    (announcement,) = announced(post(bench))
    assert (announcement.start, announcement.stop, announcement.price_cap) == (0, 10, 1000)
    assert isinstance(replies(bench.bid(W1, 900))[0], Ack)
    bench.bid(W2, 800)
    (call,) = sent(bench.wake("choose"))
    assert isinstance(call, Assign)
    assert call.offer.provider == W2


def looks(effects: list[AnyEffect]) -> list[Do]:
    return [effect for effect in effects if isinstance(effect, Do) and isinstance(effect.task, FindNodes)]


def test_nodes_are_looked_for_and_told_directly_when_nobody_has_offered() -> None:
    bench = Bench(Core(SchedulerMachine(Config(account=ME, peer=PeerId("me"), look_every=60)), MemoryJournal()))
    bench.feed(Started())
    bench.seen(Registered, who=W1, peer=PeerId(f"peer-{W1}"), encryption_key=b"k" * 32)
    assert looks(post(bench)) == []
    bench.core.machine.state.jobs[1].sizes = (5 << 20, 2 << 20, 1 << 20)
    (look,) = looks(bench.wake("choose"))
    assert look.task == FindNodes(means=Means(gpu=False, memory=8 << 20, bits=0))
    told = bench.feed(Done(key=look.key, outcome=NodesFound(peers=(PeerId("me"), *(PeerId(f"n{i}") for i in range(40))))))
    asks = [effect for effect in told if isinstance(effect, Ask)]
    assert len({ask.peer for ask in asks}) == len(asks) == MAX_TOLD
    assert PeerId("me") not in {ask.peer for ask in asks}
    tells = [ask.message for ask in asks if isinstance(ask.message, JobAnnouncement)]
    assert {(tell.start, tell.stop, tell.respond_by) for tell in tells} == {(0, 10, bench.now + 5)}
    assert len(tells) == MAX_TOLD
    assert [note.text for note in told if isinstance(note, Note)] == [
        "job 1: no offer for steps 0-10 will do; 32 nodes that say they have the memory for it are told directly"
    ]
    assert all(looks(bench.wake("choose")) == [] for _ in range(5))  # not each time
    bench.now += 60
    (again,) = looks(bench.wake("choose"))
    bench.bid(W1, 900)
    assert bench.feed(Done(key=again.key, outcome=NodesFound(peers=(PeerId("n1"),)))) == []  # there are offers now
    bench.feed(Failed(key=asks[0].key, fault=Fault.PEER, error="gone"))
    (call,) = sent(bench.wake("choose"))
    assert isinstance(call, Assign)


def test_a_scheduler_that_cannot_look_does_not(bench: Bench) -> None:
    post(bench)
    assert looks(bench.wake("choose")) == []


def test_the_hands_look_for_nodes_by_what_they_have() -> None:
    class Known:
        async def find(self, means: Means) -> list[PeerRecord]:
            assert means.memory == 7
            return [record]

    record = PeerRecord(peer=PeerId("p"), account=W1, role="worker", addresses=(), gateway="", sequence=1, chain_id=1, contract=ME)
    task = FindNodes(means=Means(gpu=False, memory=7, bits=0))
    blobs, chain = MemoryBlobs(BlobNet(), PeerId("scheduler")), MemoryChain(MemoryLedger(start=1000), "scheduler")
    found = asyncio.run(SchedulerHands(blobs, chain, finder=Known()).perform(task, lambda _: None))
    assert found == NodesFound(peers=(PeerId("p"),))
    with pytest.raises(TaskFailed):
        asyncio.run(SchedulerHands(blobs, chain).perform(task, lambda _: None))


def test_when_all_who_are_known_and_have_no_work_have_offered_nobody_else_is_waited_for(bench: Bench) -> None:
    bench.seen(JobPosted, job=JobId(2), client=CLIENT, terms=terms())
    bench.seen(Assigned, segment=SegmentId(7), job=JobId(2), parent=SegmentId(0), provider=KEYS, start=0, stop=10, price=5, activate_by=900)
    post(bench)
    everybody = (W1, W2, KEYS)  # the third has a segment of another job
    assert sent(bench.bid(W1, 900, workers=everybody)) == []
    assert not bench.core.machine.state.pending
    (call,) = sent(bench.bid(W2, 800, workers=everybody))
    assert isinstance(call, Assign)
    assert call.offer.provider == W2
    assert not [key for key in bench.core.outstanding if key.startswith("choose:1:")]


def test_an_offer_that_is_being_checked_is_waited_for(bench: Bench) -> None:
    post(bench)
    tasks = []
    for who, price in ((W1, 900), (W2, 800)):
        offer = Offer(provider=who, job=JobId(1), parent=SegmentId(0), start=0, stop=10, price=price, expires=900, nonce=price)
        message = OfferMessage(offer=offer, signature=b"s", steps_per_second_milli=0)
        tasks += [e.key for e in bench.feed(Asked(ask=1, peer=PeerId(f"peer-{who}"), message=message)) if isinstance(e, Do)]
    assert sent(bench.feed(Done(key=tasks[0], outcome=OfferVerified(workers=(W1,))))) == []
    (call,) = sent(bench.feed(Done(key=tasks[1], outcome=OfferVerified(workers=(W1,)))))
    assert isinstance(call, Assign)
    assert call.offer.provider == W2


def test_a_refused_offer_gives_way_to_the_next_and_then_to_a_new_announcement(bench: Bench) -> None:
    post(bench)
    bench.bid(W1, 900)
    bench.bid(W2, 800)
    (effect,) = [e for e in bench.wake("choose") if isinstance(e, Send)]
    effects = bench.feed(Failed(key=effect.key, fault=Fault.REFUSED, error="no stake"))
    (call,) = sent(effects)
    assert isinstance(call, Assign)
    assert call.offer.provider == W1
    (effect,) = [e for e in effects if isinstance(e, Send)]
    assert announced(bench.feed(Failed(key=effect.key, fault=Fault.REFUSED, error="no stake")))


@pytest.mark.parametrize(
    ("why", "bid"),
    [
        ("registered", {"peer": "somebody else"}),
        ("cap", {"price": 1001}),
        ("wanted", {"start": 10, "stop": 20}),
    ],
)
def test_offers_that_are_refused_at_the_door(bench: Bench, why: str, bid: dict[str, object]) -> None:
    post(bench)
    (reply,) = replies(bench.bid(W1, **{"price": 900, **bid}))  # type: ignore[arg-type]
    assert isinstance(reply, Refusal)
    assert why in reply.reason


def test_an_offer_with_a_false_signature_is_thrown_away(bench: Bench) -> None:
    post(bench)
    offer = Offer(provider=W1, job=JobId(1), parent=SegmentId(0), start=0, stop=10, price=1, expires=999, nonce=1)
    effects = bench.feed(Asked(ask=1, peer=PeerId(f"peer-{W1}"), message=OfferMessage(offer=offer, signature=b"", steps_per_second_milli=0)))
    (task,) = [e for e in effects if isinstance(e, Do)]
    bench.feed(Failed(key=task.key, fault=Fault.PEER, error="another signer"))
    assert announced(bench.wake("choose"))  # nobody is left: asked again


def test_offers_for_the_child_are_gathered_while_the_parent_runs_and_used_at_once(bench: Bench) -> None:
    post(bench)
    (announcement,) = announced(assigned(bench, 1))
    assert (announcement.parent, announcement.start, announcement.stop) == (1, 10, 20)
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + 100)
    bench.bid(W2, 700, parent=1, start=10, stop=20)
    bench.wake("choose:1:1")
    (call,) = [c for c in sent(committed(bench, 1, 10)) if isinstance(c, Assign)]
    assert call.offer.provider == W2


def test_a_prefix_opens_the_rest_under_its_own_range(bench: Bench) -> None:
    post(bench)
    assigned(bench, 1)
    (announcement,) = announced(committed(bench, 1, 4))
    assert (announcement.parent, announcement.start, announcement.stop) == (1, 4, 10)


def test_no_more_unsettled_segments_than_the_policy_allows(bench: Bench) -> None:
    post(bench)
    for segment, start in ((1, 0), (2, 10)):
        effects = assigned(bench, segment, parent=segment - 1, start=start, stop=start + 10)
        committed(bench, segment, start + 10)
    assert not announced(effects)  # an offer for what cannot be assigned would keep its worker from other jobs
    bench.seen(Attested, segment=SegmentId(1), settle_after=bench.now + 100)
    settles = bench.now + 100
    assert announced(bench.wake("open:1:2"))
    assert bench.now == settles + 1 - 5
    bench.bid(W2, 700, parent=2, start=20, stop=30)
    assert not sent(bench.wake("choose:1:2"))
    (call,) = [c for c in sent(bench.seen(Settled, segment=SegmentId(1), provider=W1, price=1)) if isinstance(c, Assign)]
    assert call.offer.start == 20


def test_a_lease_that_lapses_is_called_and_its_range_announced_again(bench: Bench) -> None:
    post(bench)
    assigned(bench, 1)
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + 100)
    assert not sent(bench.wake("late:1:1", at=bench.now))
    bench.now += 101
    (call,) = sent(bench.wake("late:1:2"))
    assert isinstance(call, Lapse)
    (announcement,) = announced(bench.seen(Lapsed, segment=SegmentId(1), fee=3))
    assert (announcement.parent, announcement.start) == (0, 0)


def test_a_provider_that_takes_three_times_as_long_as_others_did_is_asked_to_hand_over(bench: Bench) -> None:
    """The deadline follows from the job's own segments; without a history, and for a lease that ends sooner, there is none."""
    post(bench, steps=100, params=Params(depth=8))
    for segment in range(1, 5):
        start = (segment - 1) * 10
        assigned(bench, segment, parent=segment - 1, start=start, stop=start + 10)
        bench.seen(Activated, segment=SegmentId(segment), lease_until=bench.now + 1000)
        slow = [k for k in bench.core.outstanding if k == f"slow:{segment}"]
        assert bool(slow) == (segment == 4)
        if segment < 4:
            bench.now += 20
            committed(bench, segment, start + 10)
    since = bench.now
    effects = bench.wake("slow:4")
    assert bench.now == since + 3 * 20 + 1
    (ask,) = [e for e in effects if isinstance(e, Ask)]
    assert (ask.peer, ask.message) == (PeerId(f"peer-{W1}"), HandOver(segment=SegmentId(4)))
    (announcement,) = announced(committed(bench, 4, 33))
    assert (announcement.start, announcement.stop) == (33, 40)
    assert bench.core.machine.state.records[W1].slowness > 300


def test_a_liar_s_descendants_are_voided_and_it_is_not_taken_again(bench: Bench) -> None:
    post(bench)
    assigned(bench, 1)
    committed(bench, 1, 10)
    assigned(bench, 2, who=W2, parent=1, start=10, stop=20)
    effects = bench.seen(Withheld, segment=SegmentId(1), yes=0, no=3)
    assert any(isinstance(call, VoidSegment) and call.segment == 2 for call in sent(effects))
    bench.bid(W1, 1)
    bench.bid(W2, 999)
    (call,) = [c for c in sent(bench.wake("choose:1:0:0:10")) if isinstance(c, Assign)]
    assert call.offer.provider == W2


def test_draws_when_the_provider_does_not(bench: Bench) -> None:
    post(bench)
    assigned(bench, 1)
    committed(bench, 1, 10)
    (later,) = bench.wake("drawable:1")
    assert isinstance(later, Wake)
    assert later.at == bench.now + 3  # the provider's own draw is on its way
    assert [Draw(segment=SegmentId(1))] == sent(bench.wake("draw:1"))


def test_closes_a_finished_job_and_a_cancelled_one(bench: Bench) -> None:
    post(bench, steps=10)
    assigned(bench, 1)
    committed(bench, 1, 10)
    assert CloseJob(job=JobId(1)) in sent(bench.seen(Settled, segment=SegmentId(1), provider=W1, price=500))
    other = Bench(Core(SchedulerMachine(Config(account=ME, peer=PeerId("me"))), MemoryJournal()))
    other.seen(JobPosted, job=JobId(1), client=CLIENT, terms=terms())
    assert sent(other.seen(JobCancelled, job=JobId(1))) == [CloseJob(job=JobId(1))]


@pytest.mark.parametrize("closed", [False, True])
def test_leaves_the_closing_of_a_job_to_its_scheduler_for_a_moment(closed: bool) -> None:
    other = Bench(Core(SchedulerMachine(Config(account=W2, peer=PeerId("other"))), MemoryJournal()))
    other.seen(JobPosted, job=JobId(1), client=CLIENT, terms=terms())
    assert sent(other.seen(JobCancelled, job=JobId(1))) == []
    if closed:
        other.seen(JobClosed, job=JobId(1), refund=0)
    assert sent(other.wake("close:1")) == ([] if closed else [CloseJob(job=JobId(1))])


def test_a_job_that_fails_again_and_again_rests_longer_each_time(bench: Bench) -> None:
    post(bench)
    pauses = []
    for segment in range(1, 7):
        assigned(bench, segment)
        effects = bench.seen(Lapsed, segment=SegmentId(segment), fee=0)
        pauses.append(next((int(e.data["seconds"]) for e in effects if isinstance(e, Note) and e.topic == "paused"), 0))
        if pauses[-1]:
            assert not announced(effects)
            assert announced(bench.wake("rested"))
    assert pauses == [0, 0, 10, 20, 40, 80]
    assigned(bench, 7)
    committed(bench, 7, 4)
    assigned(bench, 8, parent=7, start=4)
    assert announced(bench.seen(Lapsed, segment=SegmentId(8), fee=0))  # something was committed meanwhile: patience again


def test_a_job_past_its_deadline_is_cancelled(bench: Bench) -> None:
    post(bench)
    assert sent(bench.wake("deadline")) == [CancelJob(job=JobId(1))]
    bench.seen(JobCancelled, job=JobId(1))
    assert not announced(bench.wake("choose"))


def test_takes_over_a_job_whose_scheduler_is_silent(bench: Bench) -> None:
    assert not announced(post(bench, scheduler=CLIENT))
    assert announced(bench.wake("takeover"))


def test_leaves_a_job_alone_that_its_scheduler_serves(bench: Bench) -> None:
    post(bench, scheduler=CLIENT)
    assigned(bench, 1)
    assert not announced(bench.wake("takeover"))


def test_does_not_take_over_a_job_whose_last_segment_is_being_checked(bench: Bench) -> None:
    post(bench, scheduler=CLIENT, steps=10)
    assigned(bench, 1)
    committed(bench, 1, 10)
    for _ in range(3):
        assert all(isinstance(effect, Wake) for effect in bench.wake("takeover"))
    assert not bench.core.machine.state.jobs[1].overdue
    bench.seen(Withheld, segment=SegmentId(1), yes=0, no=3)  # now there is something to place, and the window begins
    bench.wake("takeover", at=bench.now)
    assert not bench.core.machine.state.jobs[1].overdue
    while not bench.core.machine.state.jobs[1].overdue:
        effects = bench.wake("takeover")
    assert announced(effects)


def test_a_restart_remembers_everything_and_wants_the_same(bench: Bench) -> None:
    post(bench)
    bench.bid(W1, 900)
    bench.wake("choose")
    again = Core(SchedulerMachine(Config(account=ME, peer=PeerId("me"))), bench.core.journal)
    wanted = again.restore()
    assert again.machine.state == bench.core.machine.state
    assert wanted == list(bench.core.outstanding.values())
    bench.core.snapshot(bench.core.journal.append(0, b"", b"{}"))
    third = Core(SchedulerMachine(Config(account=ME, peer=PeerId("me"))), bench.core.journal)
    third.restore()
    assert third.machine.state == bench.core.machine.state
    assert list(third.outstanding.values()) == wanted


def test_heartbeats_are_acknowledged_only_noted_from_the_provider(bench: Bench) -> None:
    post(bench)
    assigned(bench, 1)
    beat = Heartbeat(segment=SegmentId(1), step=3, loss_f32=0)
    assert len(bench.feed(Asked(ask=1, peer=PeerId(f"peer-{W1}"), message=beat))) == 2
    assert len(bench.feed(Asked(ask=2, peer=PeerId("stranger"), message=beat))) == 1


def test_a_placement_says_what_was_chosen_and_why(bench: Bench) -> None:
    post(bench)
    bench.bid(W1, 1000)
    bench.bid(W2, 900)
    notes = [e for e in bench.wake("choose") if isinstance(e, Note)]
    assert [n.topic for n in notes] == ["chosen"]
    assert f"steps 0-10 to {W2} for 900: 1170 points (price 900, risk 250, claimed 20); then {W1}" in notes[0].text


def test_an_offer_that_its_stake_does_not_cover_is_passed_over_with_the_reason(bench: Bench) -> None:
    post(bench)
    for who, free in ((W1, 10), (W2, 10**6)):
        offer = Offer(provider=who, job=JobId(1), parent=SegmentId(0), start=0, stop=10, price=500, expires=900, nonce=1)
        message = OfferMessage(offer=offer, signature=b"s", steps_per_second_milli=0)
        (task,) = [e for e in bench.feed(Asked(ask=1, peer=PeerId(f"peer-{who}"), message=message)) if isinstance(e, Do)]
        bench.feed(Done(key=task.key, outcome=OfferVerified(free=free)))
    effects = bench.wake("choose")
    assert [c.offer.provider for c in sent(effects) if isinstance(c, Assign)] == [W2]
    assert any(n.topic == "passed over" and "does not cover the bond of 3000" in n.text for n in effects if isinstance(n, Note))


def test_who_holds_the_job_s_data_is_taken_for_the_same_price(bench: Bench) -> None:
    """W2 has committed the parent; both have the same history."""
    post(bench)
    bench.core.machine.state.jobs[1].sizes = (10, 90, 0)
    assigned(bench, 1, who=W2)
    committed(bench, 1, 10)
    bench.bid(W1, 500, parent=1, start=10, stop=20)
    bench.bid(W2, 550, parent=1, start=10, stop=20)
    (call,) = [c for c in sent(bench.wake("choose")) if isinstance(c, Assign)]
    assert call.offer.provider == W2


def test_a_withheld_segment_that_is_rejected_in_a_dispute_counts_once(bench: Bench) -> None:
    post(bench)
    assigned(bench, 1)
    committed(bench, 1, 10)
    bench.seen(Withheld, segment=SegmentId(1), yes=0, no=3)
    bench.seen(Rejected, segment=SegmentId(1))
    record = bench.core.machine.state.records[W1]
    assert (record.withheld, record.bad, record.refuted) == (1, 2, True)


def test_the_status_says_what_each_job_waits_for(bench: Bench) -> None:
    def waits() -> str:
        (job,) = bench.core.machine.summary()["jobs"]
        return str(job["waits"])

    post(bench, params=Params(depth=1))
    assert waits() == "steps 0-10 are announced at up to 100 a step; no offers so far"
    bench.bid(W1, 900)
    assert "1 offers so far" in waits()
    bench.wake("choose")
    assert waits() == f"steps 0-10 are being assigned to {W1}"
    assigned(bench, 1)
    assert waits() == f"{W1} begins segment 1 (steps 0-10), until {bench.now + 50} at the latest"
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + 100)
    assert "computes segment 1" in waits()
    committed(bench, 1, 10)
    assert waits() == "1 segments are unsettled, as many as it allows; segment 1 waits to be drawn"
    bench.seen(Attested, segment=SegmentId(1), settle_after=bench.now + 60)
    assert waits().endswith(f"waits for its challenge window to close, until {bench.now + 60}")
    other = Bench(Core(SchedulerMachine(Config(account=ME, peer=PeerId("me"))), MemoryJournal()))
    post(other, scheduler=CLIENT)
    (job,) = other.core.machine.summary()["jobs"]
    assert "wait for the job's own scheduler; this one takes over after 160" in job["waits"]


def test_when_a_segment_is_late_follows_from_how_far_others_strayed(bench: Bench) -> None:
    """After many segments that took much the same time, half as long again is late."""
    post(bench, steps=1000, params=Params(depth=99))
    for segment in range(1, 26):
        start = (segment - 1) * 10
        assigned(bench, segment, parent=segment - 1, start=start, stop=start + 10)
        bench.seen(Activated, segment=SegmentId(segment), lease_until=bench.now + 1000)
        if segment < 25:
            bench.now += 20
            committed(bench, segment, start + 10)
    since = bench.now
    (note,) = [e for e in bench.wake("slow:25") if isinstance(e, Note)]
    assert bench.now == since + 30 + 1
    assert "more than 150 %" in note.text


def test_what_is_mirrored_is_kept_until_nobody_goes_on_from_it(bench: Bench) -> None:
    """A checkpoint until a later one has settled, the last one after the job is closed, until the job's deadline and a window are over."""
    a, b, c = (cid.of(letter) for letter in (b"a", b"b", b"c"))

    def done(segment: int, checkpoint: Cid, parent: int, start: int) -> list[AnyEffect]:
        assigned(bench, segment, parent=parent, start=start, stop=start + 10)
        bench.seen(
            Committed, segment=SegmentId(segment), stop=start + 10, link_root=DIGEST, end_root=DIGEST, checkpoint=checkpoint, key_id=DIGEST,
            key_envelope=b"", commitment=DIGEST, seed_block=bench.block + 2,
        )  # fmt: skip
        return bench.feed(Fetched(key=f"mirror:1:{checkpoint}"))

    def released(effects: list[AnyEffect]) -> list[Cid]:
        return [name for e in effects if isinstance(e, Do) and isinstance(e.task, ReleaseBlobs) for name in e.task.cids]

    posted = terms(params=Params(depth=9, takeover_window=60, challenge_window=70))
    post(bench, params=posted.params)
    (keep,) = [e.task for e in done(1, a, 0, 0) if isinstance(e, Do) and isinstance(e.task, KeepBlob)]
    assert (keep.cid, keep.until) == (a, posted.deadline + 70)
    done(2, b, 1, 10)
    done(3, c, 2, 20)
    assert released(bench.seen(Settled, segment=SegmentId(1), provider=W1, price=500)) == []
    assert released(bench.seen(Settled, segment=SegmentId(2), provider=W1, price=500)) == [a]
    assert released(bench.seen(Settled, segment=SegmentId(3), provider=W1, price=500)) == [b]
    assert bench.core.machine.state.jobs[1].pins == [c]
    assert released(bench.seen(JobClosed, job=JobId(1), refund=0)) == []
    assert not bench.core.machine.state.pinned


def test_what_two_jobs_share_goes_with_the_second(bench: Bench) -> None:
    post(bench)
    bench.seen(JobPosted, job=JobId(2), client=CLIENT, terms=terms())
    for job in (1, 2):
        bench.core.outstanding[f"mirror:{job}:{CID}"] = Fetch(key=f"mirror:{job}:{CID}", cid=CID, limit=1)
        bench.feed(Fetched(key=f"mirror:{job}:{CID}"))
    gone = [[e.task for e in bench.seen(JobClosed, job=JobId(job), refund=0) if isinstance(e, Do)] for job in (1, 2)]
    assert gone == [[], [ReleaseBlobs(cids=(CID,))]]


def test_the_hands_pin_and_let_go_and_end_what_is_over() -> None:
    async def body() -> None:
        ledger = MemoryLedger(start=1000)
        blobs = MemoryBlobs(BlobNet(), PeerId("scheduler"))
        hands = SchedulerHands(blobs, MemoryChain(ledger, "scheduler"))
        await hands.perform(KeepBlob(cid=CID, until=1005), lambda _: None)
        await hands.perform(KeepBlob(cid=cid.of(b"b"), until=2000), lambda _: None)
        assert blobs._pins == {CID: 1005, cid.of(b"b"): 2000}
        ledger.mine(100)
        await hands.perform(KeepBlob(cid=cid.of(b"c"), until=2000), lambda _: None)
        assert set(blobs._pins) == {cid.of(b"b"), cid.of(b"c")}
        await hands.perform(ReleaseBlobs(cids=(cid.of(b"b"), CID)), lambda _: None)
        assert set(blobs._pins) == {cid.of(b"c")}

    asyncio.run(body())
