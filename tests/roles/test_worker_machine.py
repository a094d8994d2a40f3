"""The worker's machine: events in, effects out. No network, no clock. One file because all of it drives one machine with one bench."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from assay import energy
from assay.chain import (
    Activate,
    Activated,
    Assigned,
    Attested,
    BondCleared,
    CheckpointContested,
    ChunkAsked,
    ClaimSurety,
    ClearBond,
    CloseReveals,
    Commit,
    Credited,
    Decide,
    Draw,
    Entrusted,
    FeeCharged,
    JobCancelled,
    JobClosed,
    JobPosted,
    JobVouched,
    Lapsed,
    OpeningsDue,
    Redraw,
    Redrawn,
    Revealed,
    Serve,
    Settle,
    Settled,
    ShowCheckpointKey,
    ShowChunk,
    Slashed,
    SuretyPaid,
    SuretyReturned,
    Unpaid,
    Voided,
    VoidSegment,
    Withdraw,
    Withdrawn,
    Withheld,
)
from assay.energy import Energy
from assay.facts import SegmentFacts
from assay.hearing import ChunkProof
from assay.ids import Address, JobId, PeerId, SegmentId
from assay.messages import (
    Ack,
    Boundary,
    BoundaryRequest,
    HandOver,
    Heartbeat,
    JobAnnouncement,
    KeyGrant,
    KeyRequest,
    OfferMessage,
    ReceiptMessage,
    Refusal,
)
from assay.role.books import DAYS, ENTRIES
from assay.runtime import Ask, Asked, Cancel, Fault, Heard, Ordered, Reply, Wake
from assay.tasks import (
    ChunkMade,
    Dropped,
    DropSegment,
    JobLoaded,
    KeyStored,
    KeyTold,
    LetGo,
    MakeChunk,
    ReceiptVerified,
    RunSegment,
    SegmentRun,
    ServeUnits,
    Signed,
    SignOffer,
    StopSegment,
    UnitsServed,
    VerifyReceipt,
)
from assay_worker.machine import WorkerMachine
from assay_worker.offers import MAX_HEARD
from assay_worker.state import BUSY, WorkerConfig
from bench import (
    CHECKED,
    CLIENT,
    ENDS,
    KEYS,
    LINK_ROOT,
    ME,
    OTHER,
    PARAMS,
    PEERS,
    SCHEDULER,
    SHARDS,
    SPEC,
    TERMS,
    VERIFIERS,
    Bench,
    cid,
    digest,
    sealed,
)

PRICE = 10
INPUTS = [*(shard.sealed for shard in SHARDS), SPEC.state]


@pytest.fixture
def bench() -> Any:
    """A free worker; after each test it is started again from its journal and must be where it was."""
    made = Bench.of(WorkerMachine(WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=PRICE)))
    yield made
    made.check_restart()


def announcement(bench: Bench, **changes: Any) -> JobAnnouncement:
    fields = {
        "job": JobId(1), "spec": TERMS.spec, "parent": SegmentId(0), "start": 0, "stop": 10, "price_cap": 1000,
        "scheduler": PEERS[SCHEDULER], "respond_by": bench.now + 5,
    }  # fmt: skip
    return JobAnnouncement(**{**fields, **changes})  # type: ignore[arg-type]


def hear(bench: Bench, **changes: Any) -> None:
    bench.feed(Heard(peer=PEERS[SCHEDULER], message=announcement(bench, **changes)))


def ready(bench: Bench) -> None:
    """The job is known and loaded."""
    bench.posted()
    hear(bench)
    bench.load_job()


def busy(bench: Bench) -> list[int]:
    """Segments that take a place."""
    return [mine.segment for mine in bench.state.mine.values() if mine.phase in BUSY]


def offered(bench: Bench) -> None:
    ready(bench)
    bench.done("sign:", Signed(signature=b"s"))
    bench.answered("offer:", Ack())


def running(bench: Bench) -> None:
    offered(bench)
    bench.assigned()
    bench.supply(INPUTS)
    bench.sent("activate:1")
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + PARAMS.lease_window)


def outcome(stop: int = 10) -> SegmentRun:
    return SegmentRun(
        segment=SegmentId(1), stop=stop, link_root=LINK_ROOT, end_root=ENDS[-1], proof=(digest("p"),), checkpoint=sealed("checkpoint 1"),
        first_loss=1, last_loss=2, milliseconds=5000, computed=10,
    )  # fmt: skip


def test_what_a_run_took_is_said_with_its_commitment(bench: Bench) -> None:
    running(bench)
    took = Energy(gpu_meter="counter", gpu=7_000, cpu_meter="", cpu=0, steps=10)
    checkpoint = msgspec.structs.replace(outcome().checkpoint, envelope=b"e" * 80)
    bench.done("run:1", msgspec.structs.replace(outcome(), energy=took, checkpoint=checkpoint))
    bench.answered("copy:1", Ack())
    call = bench.call("commit:1")
    assert isinstance(call, Commit)
    assert energy.part(call.key_envelope) == (checkpoint.envelope, took)


def committed(bench: Bench) -> None:
    running(bench)
    bench.done("run:1", outcome())
    bench.answered("copy:1", Ack())
    bench.sent("commit:1")
    bench.committed()


def boundary(unit: int) -> Boundary:
    return Boundary(segment=SegmentId(1), unit=unit, cid=cid("b"), key_id=digest("b"), wrapped=b"w", link_ends=(), proofs=())


def drawn(bench: Bench) -> None:
    committed(bench)
    bench.drawn()
    bench.done("units:1", UnitsServed(boundaries=tuple((who, boundary(unit)) for who in VERIFIERS for unit in (4, 9))))


def receipt(who: Address, by: Address | None = None) -> ReceiptMessage:
    return ReceiptMessage(segment=SegmentId(1), round=0, verifier=by or who, signature=b"sig " + who.encode())


def attested(bench: Bench) -> None:
    drawn(bench)
    bench.served()
    bench.seen(Attested, segment=SegmentId(1), settle_after=bench.now + 200)


# ---- offers --------------------------------------------------------------------------------------------------------------


def test_an_announced_range_is_offered_for_at_the_nodes_price(bench: Bench) -> None:
    ready(bench)
    task = bench.task("sign:")
    assert isinstance(task, SignOffer)
    assert (task.offer.provider, task.offer.start, task.offer.stop, task.offer.price) == (ME, 0, 10, 10 * PRICE)
    assert task.offer.expires > bench.now + 5
    bench.done("sign:", Signed(signature=b"s"))
    ask = bench.wants("offer:")
    assert isinstance(ask, Ask)
    assert ask.peer == PEERS[SCHEDULER]
    assert isinstance(ask.message, OfferMessage)
    bench.answered("offer:", Ack())
    assert bench.topics()[-1] == "offer"


def test_an_announcement_that_is_sent_to_the_node_itself_is_taken_and_offered_for(bench: Bench) -> None:
    bench.posted()
    told = bench.feed(Asked(ask=1, peer=PEERS[SCHEDULER], message=announcement(bench)))
    assert Reply(ask=1, message=Ack()) in told
    assert [heard.job for heard in bench.state.heard] == [JobId(1)]


def test_an_announcement_that_comes_before_its_job_waits_for_it(bench: Bench) -> None:
    hear(bench)
    assert bench.idle("sign:")
    bench.posted()
    bench.load_job()
    assert isinstance(bench.task("sign:"), SignOffer)


def test_what_is_dear_to_compute_is_dear_to_buy() -> None:
    """The operations of a step are counted once the program is known; a part of an operation's price is asked for whole."""
    dear = Bench.of(WorkerMachine(WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=1, price_per_tera=10**9)))
    ready(dear)
    operations = TERMS.micro_batches * CHECKED.micro_flops + CHECKED.update_flops
    step = 1 - (-operations // 1000)
    assert step > 2
    assert dear.task("sign:").offer.price == 10 * step
    dear.check_restart()
    greedy = Bench.of(WorkerMachine(WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=1, price_per_tera=10**15)))
    ready(greedy)
    assert greedy.idle("sign:")
    assert "below this node's price" in greedy.said[-1].text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"price_cap": 10 * PRICE - 1}, "below this node's price"),
        ({"spec": cid("another")}, "not about the job on chain"),
        ({"stop": 9}, "not one that the contract assigns"),
        ({"start": 3, "stop": 10}, "does not begin where its parent ends"),
        ({"start": 20, "stop": 20}, "not one that the contract assigns"),
        ({"scheduler": PEERS[OTHER]}, "may not assign it"),
    ],
)
def test_what_cannot_become_an_assignment_gets_no_offer(bench: Bench, changes: dict[str, Any], why: str) -> None:
    bench.posted()
    hear(bench, **changes)
    assert bench.state.heard == []
    assert bench.said[-1].topic == "declined"
    assert why in bench.said[-1].text
    bench.load_job()
    assert bench.idle("sign:")


@pytest.mark.parametrize("price_cap", [TERMS.price_cap, PRICE - 1])
def test_a_job_that_pays_too_little_is_left_alone_for_longer_each_time(bench: Bench, price_cap: int) -> None:
    """It is what its scheduler announces, or its own cap, which is known before its document is."""
    bench.posted(terms=msgspec.structs.replace(TERMS, price_cap=price_cap))
    for pause in (60, 120, 240, 480, 960, 1920, 3600, 3600):
        hear(bench, price_cap=10 * min(price_cap, PRICE - 1))
        assert bench.state.heard == []
        assert bench.said.pop().text.endswith(f"is left alone for {pause} s")
        told = len(bench.said)
        bench.now += pause - 1
        hear(bench, price_cap=10 * min(price_cap, PRICE - 1))
        assert len(bench.said) == told
        bench.now += 1
    assert bench.core.machine.summary()["too_cheap"][0]["cap"] == PRICE - 1
    assert any(key.startswith("spec:") for key in bench.core.outstanding) == (price_cap >= PRICE)


def test_a_job_that_pays_enough_later_is_offered_for_and_no_longer_left_alone(bench: Bench) -> None:
    bench.posted()
    hear(bench, price_cap=10 * PRICE - 1)
    bench.load_job()
    hear(bench)
    assert bench.idle("sign:")
    bench.now += 60
    hear(bench)
    assert isinstance(bench.task("sign:"), SignOffer)
    assert bench.state.cheap == {}


def test_a_stranger_may_schedule_when_the_jobs_scheduler_has_been_silent(bench: Bench) -> None:
    bench.posted()
    bench.now += PARAMS.takeover_window
    hear(bench, scheduler=PEERS[OTHER])
    bench.load_job()
    assert isinstance(bench.task("sign:"), SignOffer)


@pytest.mark.parametrize("listed", [True, False])
def test_a_stranger_may_schedule_a_job_that_was_entrusted_if_this_node_is_listed(bench: Bench, listed: bool) -> None:
    """The job's terms name the contract; the plan names the scheduler, whoever it may take, and how long it may be silent."""
    terms = msgspec.structs.replace(TERMS, scheduler=Address("0x" + "9" * 40))
    providers = (VERIFIERS[0], ME) if listed else (VERIFIERS[0],)
    bench.seen(Entrusted, client=CLIENT, spec_digest=terms.spec_digest, scheduler=SCHEDULER, patience=30, providers=providers)
    bench.posted(terms)
    bench.now += 29
    hear(bench, scheduler=PEERS[OTHER])
    bench.load_job()
    assert bench.idle("sign:")
    assert any("may not assign it" in note.text for note in bench.said)
    bench.now += 1
    hear(bench, scheduler=PEERS[OTHER])
    assert bench.idle("sign:") != listed


def test_the_scheduler_that_was_entrusted_is_the_job_s_scheduler(bench: Bench) -> None:
    terms = msgspec.structs.replace(TERMS, scheduler=Address("0x" + "9" * 40))
    bench.posted(terms)
    bench.seen(Entrusted, client=CLIENT, spec_digest=terms.spec_digest, scheduler=SCHEDULER, patience=30, providers=())
    hear(bench)
    bench.load_job()
    assert isinstance(bench.task("sign:"), SignOffer)
    machine = bench.core.machine
    seg = SegmentFacts(SegmentId(9), JobId(1), SegmentId(0), ME, 5, 10, 1, 0)
    assert machine._scheduler(seg) == [PEERS[SCHEDULER]]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"program_root": digest("other")}, "program_root"),
        ({"steps": 30}, "steps"),
        ({"micro_batches": 3}, "micro_batches"),
        ({"key_service": OTHER}, "key_service"),
        ({"state": msgspec.structs.replace(SPEC.state, size=1 << 40)}, "blob of"),
        ({"frozen": msgspec.structs.replace(sealed("frozen"), size=1 << 40)}, "blob of"),
    ],
)
def test_a_job_whose_document_is_not_its_terms_is_refused(bench: Bench, changes: dict[str, Any], why: str) -> None:
    bench.posted()
    hear(bench)
    bench.load_job(**changes)
    assert bench.idle("sign:")
    assert why in bench.state.jobs[1].reason
    assert [note.topic for note in bench.said] == ["refused", "declined"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"root": digest("other")}, "not the one the contract names"),
        ({"micro_leaves": 8}, "leaves"),
        ({"peak_memory": 1 << 50}, "memory"),
        ({"update_flops": 1 << 60}, "operations"),
    ],
)
def test_a_program_that_is_too_much_or_another_is_refused(bench: Bench, changes: dict[str, Any], why: str) -> None:

    bench.posted()
    hear(bench)
    bench.fetched("spec:1")
    bench.done("load:1", JobLoaded(job=JobId(1), spec=SPEC, spec_digest=digest("spec")))
    bench.fetched(f"program:1:{SPEC.program}")
    bench.fetched(f"program:1:{SPEC.schedule}")
    bench.done("check:1", msgspec.structs.replace(CHECKED, **changes))
    assert why in bench.state.jobs[1].reason
    assert bench.idle("sign:")


def test_frozen_tensors_are_fetched_and_their_key_waited_for_like_a_shard(bench: Bench) -> None:
    frozen = sealed("frozen")
    bench.posted()
    hear(bench)
    bench.load_job(frozen=frozen)
    bench.done("sign:", Signed(signature=b"s"))
    bench.answered("offer:", Ack())
    bench.assigned()
    bench.supply(INPUTS)
    assert bench.idle("activate:1")
    bench.supply([frozen])
    bench.sent("activate:1")


def test_a_document_that_cannot_be_had_is_tried_for_again_and_a_malformed_one_is_not(bench: Bench) -> None:
    bench.posted()
    hear(bench)
    bench.failed("spec:1", Fault.OUTAGE)
    bench.woke("again:spec:1")
    bench.fetched("spec:1")
    bench.failed("load:1", Fault.PEER, "malformed")
    assert bench.state.jobs[1].reason == "malformed"
    hear(bench)
    assert bench.idle("spec:1")


def test_without_the_stake_for_its_bond_nothing_is_offered(bench: Bench) -> None:
    ready(bench)
    assert bench.task("sign:").bond == 10 * PRICE * PARAMS.bond_tenths // 10
    bench.failed("sign:", Fault.OWN, "the free stake is 5")
    assert not bench.state.offers
    assert "the free stake is 5" in bench.said[-1].text


def test_a_job_whose_step_outlasts_the_lease_gets_no_offer(bench: Bench) -> None:
    committed(bench)
    assert bench.state.speed == 10 * 2100 * 1000 // 5000  # ten steps of two micro-batches and an update in five seconds
    bench.state.speed = 2100 // PARAMS.lease_window
    bench.core.snapshot(bench.core.journal.load()[2][-1].sequence)
    hear(bench, parent=SegmentId(1), start=10, stop=20)
    assert bench.idle("sign:")
    assert "one step takes about" in bench.said[-1].text


def test_a_short_run_tells_nothing_of_a_long_one(bench: Bench) -> None:
    """An engine's start is most of it: a worker whose first job was tiny would refuse every other."""
    committed(bench)
    bench.state.measured, bench.state.speed = 21, 1
    bench.core.snapshot(bench.core.journal.load()[2][-1].sequence)
    hear(bench, parent=SegmentId(1), start=10, stop=20)
    assert isinstance(bench.task("sign:"), SignOffer)


def test_a_short_run_is_not_what_a_longer_one_is_forgotten_for(bench: Bench) -> None:
    committed(bench)
    before, machine = bench.state.speed, bench.core.machine
    machine._measured(bench.state.measured // 11, 60_000)
    assert bench.state.speed == before
    machine._measured(bench.state.measured // 10, 5000)
    assert bench.state.speed == before // 10
    bench.core.snapshot(bench.core.journal.load()[2][-1].sequence)


def test_one_offer_at_a_time(bench: Bench) -> None:
    offered(bench)
    hear(bench)
    assert bench.idle("sign:")
    bench.woke("expire:")
    hear(bench)
    assert isinstance(bench.task("sign:"), SignOffer)


def test_what_is_announced_again_while_an_offer_stands_gets_none_when_it_is_another_s(bench: Bench) -> None:
    offered(bench)
    hear(bench)
    bench.assigned(provider=OTHER)
    assert (bench.state.offers, bench.state.heard) == ([], [])
    assert bench.idle("sign:")


def test_a_flood_of_announcements_pushes_out_nobody_elses(bench: Bench) -> None:
    hear(bench)  # waits for its job
    for job in range(1000, 1000 + 3 * MAX_HEARD):
        bench.feed(Heard(peer=PeerId("loud"), message=announcement(bench, job=JobId(job), scheduler=PeerId("loud"))))
    assert len(bench.state.heard) == MAX_HEARD
    bench.posted()
    bench.load_job()
    assert isinstance(bench.task("sign:"), SignOffer)


def test_a_scheduler_that_says_different_things_gets_one_offer_under_the_terms_on_chain(bench: Bench) -> None:
    """To this worker it announces the range twice, at two caps; a stranger announces it, too, and displaces nothing."""
    hear(bench, price_cap=5)
    hear(bench)
    bench.feed(Heard(peer=PeerId("x"), message=announcement(bench, scheduler=PeerId("x"), price_cap=1)))
    bench.posted()
    bench.load_job()
    task = bench.task("sign:")
    assert isinstance(task, SignOffer)
    assert (task.offer.price, task.offer.start, task.offer.stop) == (10 * PRICE, 0, 10)
    bench.done("sign:", Signed(signature=b"s"))
    assert bench.wants("offer:").peer == PEERS[SCHEDULER]  # type: ignore[union-attr]
    bench.answered("offer:", Ack())
    hear(bench, price_cap=999)
    assert bench.idle("sign:")  # one offer stands; what it told others meanwhile is nothing before the chain assigns


def test_an_offer_that_the_scheduler_refuses_blocks_nothing(bench: Bench) -> None:
    ready(bench)
    bench.done("sign:", Signed(signature=b"s"))
    bench.failed("offer:", Fault.REFUSED, "too dear")
    assert not bench.state.offers
    assert "too dear" in bench.said[-1].text


def test_an_offer_that_may_have_arrived_stands_until_it_expires(bench: Bench) -> None:
    ready(bench)
    bench.done("sign:", Signed(signature=b"s"))
    bench.failed("offer:", Fault.OUTAGE)
    assert bench.state.offers


@pytest.mark.parametrize("event", ["taken", "cancelled"])
def test_an_offer_whose_range_is_gone_is_forgotten(bench: Bench, event: str) -> None:
    offered(bench)
    if event == "taken":
        bench.assigned(provider=OTHER)
    else:
        bench.seen(JobCancelled, job=JobId(1))
    assert not bench.state.offers


def test_a_child_range_is_offered_for_while_its_parent_runs_and_dropped_when_that_ends_elsewhere(bench: Bench) -> None:
    ready(bench)
    bench.assigned(provider=OTHER)
    hear(bench, parent=SegmentId(1), start=10, stop=20)
    bench.done("sign:", Signed(signature=b"s"))
    bench.answered("offer:", Ack())
    assert bench.state.offers
    bench.committed(stop=7)
    assert not bench.state.offers


def test_a_busy_or_draining_worker_makes_no_offer(bench: Bench) -> None:
    running(bench)
    bench.assigned(segment=2, provider=OTHER)
    hear(bench, parent=SegmentId(2), start=10, stop=20)
    assert bench.idle("sign:")
    bench.feed(Ordered(order="drain"))
    hear(bench, parent=SegmentId(1), start=10, stop=20)
    assert bench.idle("sign:")
    bench.done("run:1", outcome())
    bench.answered("copy:1", Ack())
    bench.sent("commit:1")
    bench.committed()
    assert "drained" in bench.topics()
    assert bench.idle("sign:")
    bench.feed(Ordered(order="resume"))
    assert isinstance(bench.task("sign:"), SignOffer)


# ---- gathering -----------------------------------------------------------------------------------------------------------


def test_assigned_it_gathers_activates_runs_and_commits(bench: Bench) -> None:
    offered(bench)
    bench.assigned()
    assert not bench.state.offers
    assert bench.idle("activate")
    bench.supply(INPUTS)
    assert bench.call("activate:1") == Activate(segment=SegmentId(1))
    bench.sent("activate:1")
    task = bench.task("run:1")
    assert isinstance(task, RunSegment)
    assert (task.start, task.stop, task.parent, task.parent_root) == (0, 10, SPEC.state, SPEC.state_root)
    assert task.scheduler == PEERS[SCHEDULER]
    bench.done("run:1", outcome())
    bench.answered("copy:1", Ack())
    call = bench.call("commit:1")
    assert isinstance(call, Commit)
    assert (call.stop, call.link_root, call.checkpoint) == (10, LINK_ROOT, sealed("checkpoint 1").cid)
    assert bench.state.speed_milli == 2000
    bench.sent("commit:1")
    bench.committed()
    assert not busy(bench)


def test_a_later_segment_starts_from_its_parents_checkpoint(bench: Bench) -> None:
    ready(bench)
    bench.assigned(provider=OTHER)
    bench.committed()
    bench.assigned(segment=2, parent=1, start=10, stop=20)
    assert not bench.idle(f"fetch:2:{cid('checkpoint 1')}")
    near = bench.wants(f"fetch:2:{cid('checkpoint 1')}").near
    assert near[0] == PEERS[OTHER]
    bench.supply([*(shard.sealed for shard in SHARDS), sealed("checkpoint 1")], segment=2)
    bench.sent("activate:2")
    task = bench.task("run:2")
    assert (task.parent.cid, task.parent_root) == (cid("checkpoint 1"), ENDS[-1])


def test_keys_it_has_are_not_waited_for_again(bench: Bench) -> None:
    committed(bench)
    bench.assigned(segment=2, provider=OTHER, parent=1, start=10, stop=20)
    bench.committed(segment=2, stop=20)
    bench.assigned(segment=3, parent=2, start=20, stop=30)
    for ref in (*(shard.sealed for shard in SHARDS), sealed("checkpoint 2")):
        bench.fetched(f"fetch:3:{ref.cid}")
    assert bench.state.needs[3].keys == [digest("key of checkpoint 2")]


def test_a_key_that_does_not_come_is_asked_for(bench: Bench) -> None:
    offered(bench)
    bench.assigned()
    bench.supply(INPUTS[1:])
    bench.fetched(f"fetch:1:{INPUTS[0].cid}")
    bench.woke("nag:1")
    ask = bench.wants("ask:1")
    assert (ask.peer, ask.message) == (PEERS[TERMS.key_service], KeyRequest(segment=SegmentId(1), key_id=INPUTS[0].key_id))
    bench.failed("ask:1", Fault.REFUSED, "the job is refused")
    assert "the job is refused" in bench.said[-1].text
    bench.woke("nag:1")
    bench.answered("ask:1", KeyGrant(key_id=INPUTS[0].key_id, wrapped=(b"w",)))
    bench.done("key:1", KeyStored(key_id=INPUTS[0].key_id))
    assert bench.call("activate:1") == Activate(segment=SegmentId(1))


def test_a_wrong_key_is_noted_and_the_right_one_asked_for(bench: Bench) -> None:
    offered(bench)
    bench.assigned()
    bench.released(INPUTS[0])
    bench.failed("key:1", Fault.PEER, "another key")
    assert bench.said[-1].topic == "key"
    assert isinstance(bench.wants("ask:1").message, KeyRequest)


def test_a_blob_that_nobody_has_is_tried_for_again(bench: Bench) -> None:
    offered(bench)
    bench.assigned()
    bench.failed(f"fetch:1:{INPUTS[0].cid}", Fault.OUTAGE)
    bench.woke("again:fetch:1")
    assert not bench.idle(f"fetch:1:{INPUTS[0].cid}")


def test_what_comes_too_late_is_not_activated(bench: Bench) -> None:
    offered(bench)
    bench.assigned()
    bench.now += PARAMS.activate_window + 1
    bench.supply(INPUTS)
    assert bench.idle("activate")
    assert bench.topics()[-1] == "lost"
    assert not busy(bench)
    bench.seen(Lapsed, segment=SegmentId(1), fee=5)
    assert bench.task("drop:1") == DropSegment(segment=SegmentId(1))


def test_a_refused_activation_is_given_up_and_an_outage_is_not(bench: Bench) -> None:
    offered(bench)
    bench.assigned()
    bench.supply(INPUTS)
    bench.failed("activate:1", Fault.OUTAGE)
    bench.woke("again:activate:1")
    bench.failed("activate:1", Fault.REFUSED, "too late")
    assert bench.state.mine[1].phase == "lost"


# ---- running -------------------------------------------------------------------------------------------------------------


def test_before_the_lease_ends_the_run_is_stopped_and_the_prefix_committed(bench: Bench) -> None:
    running(bench)
    lease = bench.wants("lease:1")
    assert isinstance(lease, Wake)
    assert lease.at < bench.now + PARAMS.lease_window
    bench.woke("lease:1")
    assert bench.task("stop:1") == StopSegment(segment=SegmentId(1))
    bench.done("run:1", outcome(stop=4))
    bench.answered("copy:1", Ack())
    call = bench.call("commit:1")
    assert isinstance(call, Commit)
    assert call.stop == 4


def test_its_scheduler_and_nobody_else_may_ask_it_to_hand_over(bench: Bench) -> None:
    offered(bench)
    bench.assigned()
    assert "not being run" in bench.asked(SCHEDULER, HandOver(segment=SegmentId(1))).reason
    bench.supply(INPUTS)
    bench.sent("activate:1")
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + PARAMS.lease_window)
    assert "does not schedule" in bench.asked(VERIFIERS[0], HandOver(segment=SegmentId(1))).reason
    assert bench.idle("stop:1")
    assert bench.asked(SCHEDULER, HandOver(segment=SegmentId(1))) == Ack()
    assert bench.task("stop:1") == StopSegment(segment=SegmentId(1))
    bench.done("run:1", outcome(stop=4))
    bench.answered("copy:1", Ack())
    assert bench.call("commit:1").stop == 4


def test_a_drain_stops_the_run(bench: Bench) -> None:
    running(bench)
    bench.feed(Ordered(order="drain"))
    assert bench.task("stop:1") == StopSegment(segment=SegmentId(1))


def test_a_run_that_fails_here_is_tried_again_three_times(bench: Bench) -> None:
    running(bench)
    for _ in range(2):
        bench.failed("run:1", Fault.OWN, "the engine crashed")
        assert bench.state.mine[1].phase == "running"
    bench.failed("run:1", Fault.OWN, "the engine crashed")
    assert bench.state.mine[1].phase == "lost"
    assert not busy(bench)


def test_data_that_is_not_what_was_committed_ends_the_run_at_once(bench: Bench) -> None:
    running(bench)
    bench.failed("run:1", Fault.PEER, "the parent's state is another")
    assert bench.state.mine[1].phase == "lost"
    assert "the parent's state is another" in bench.said[-1].text


def test_a_refused_commitment_is_given_up(bench: Bench) -> None:
    running(bench)
    bench.done("run:1", outcome())
    bench.answered("copy:1", Ack())
    bench.failed("commit:1", Fault.OUTAGE)
    bench.woke("again:commit:1")
    bench.failed("commit:1", Fault.REFUSED, "the lease has ended")
    assert bench.state.mine[1].phase == "lost"


def test_a_segment_that_lapses_under_a_run_is_dropped(bench: Bench) -> None:
    running(bench)
    key = bench.wants("run:1").key
    effects = bench.seen(Lapsed, segment=SegmentId(1), fee=5)
    assert Cancel(key=key) in effects
    assert not busy(bench)
    assert bench.task("drop:1") == DropSegment(segment=SegmentId(1))


def test_when_the_parent_fails_the_run_ends_and_the_segment_is_voided(bench: Bench) -> None:
    ready(bench)
    bench.assigned(provider=OTHER)
    bench.committed()
    bench.assigned(segment=2, parent=1, start=10, stop=20)
    bench.seen(Withheld, segment=SegmentId(1), yes=0, no=2)
    assert bench.state.mine[2].phase == "lost"
    bench.woke("due:void:2")
    assert bench.call("nudge:void:2") == VoidSegment(segment=SegmentId(2))
    bench.seen(Voided, segment=SegmentId(2))
    assert 2 not in bench.state.mine


# ---- drawn and served ----------------------------------------------------------------------------------------------------


def test_the_draw_is_called_when_its_seed_block_is_past(bench: Bench) -> None:
    committed(bench)
    wake = bench.wants("due:draw:1")
    assert wake.block == bench.state.facts.segments[1].seed_block + 1
    bench.woke("due:draw:1")
    assert bench.call("nudge:draw:1") == Draw(segment=SegmentId(1))


def test_a_call_that_somebody_else_made_first_is_not_made_again(bench: Bench) -> None:
    committed(bench)
    bench.woke("due:draw:1")
    bench.drawn()
    bench.failed("nudge:draw:1", Fault.REFUSED, "segment 1 is DRAWN")
    assert bench.idle("due:draw:1")


def test_a_call_that_did_not_help_is_made_again(bench: Bench) -> None:
    committed(bench)
    bench.woke("due:draw:1")
    bench.failed("nudge:draw:1", Fault.REFUSED, "too few verifiers")
    bench.woke("due:draw:1")
    assert bench.call("nudge:draw:1") == Draw(segment=SegmentId(1))


def test_drawn_verifiers_and_nobody_else_get_the_boundaries_of_drawn_links(bench: Bench) -> None:
    committed(bench)
    early = bench.asked(VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=4))
    assert isinstance(early, Refusal)
    assert early.retry_after
    bench.drawn()
    task = bench.task("units:1")
    assert isinstance(task, ServeUnits)
    assert task.units == (4, 9)
    assert [who for who, _ in task.recipients] == list(VERIFIERS)
    soon = bench.asked(VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=4))
    assert soon == Refusal(reason="it is being made ready", retry_after=1)
    bench.done("units:1", UnitsServed(boundaries=((VERIFIERS[0], boundary(4)),)))
    assert bench.asked(VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=4)) == boundary(4)
    for who, request in (
        (OTHER, BoundaryRequest(segment=SegmentId(1), round=0, unit=4)),
        (VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=5)),
        (VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=1, unit=4)),
        (VERIFIERS[0], BoundaryRequest(segment=SegmentId(9), round=0, unit=4)),
    ):
        answer = bench.asked(who, request)
        assert isinstance(answer, Refusal), request
        assert not answer.retry_after


def test_a_request_for_a_boundary_leaves_no_trace(bench: Bench) -> None:
    drawn(bench)
    _, _, before = bench.core.journal.load()
    bench.asked(VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=4))
    assert bench.core.journal.load()[2] == before


def test_a_quorum_of_good_receipts_is_sent_after_a_short_grace(bench: Bench) -> None:
    drawn(bench)
    for who in VERIFIERS[:2]:
        assert bench.asked(who, receipt(who)) == Ack()
        task = bench.task(f"receipt:1:0:{who}")
        assert isinstance(task, VerifyReceipt)
        bench.done(f"receipt:1:0:{who}", ReceiptVerified(verifier=who, valid=True))
    assert bench.idle("serve:")
    bench.woke("grace:1")
    assert bench.call("serve:1") == Serve(
        segment=SegmentId(1), verifiers=VERIFIERS[:2], signatures=tuple(b"sig " + who.encode() for who in VERIFIERS[:2])
    )


def test_with_all_receipts_nothing_is_waited_for_and_a_bad_one_is_left_out(bench: Bench) -> None:
    drawn(bench)
    for who in VERIFIERS:
        bench.asked(who, receipt(who))
        bench.done(f"receipt:1:0:{who}", ReceiptVerified(verifier=who, valid=who != VERIFIERS[1]))
    assert "is not signed by it" in next(note.text for note in bench.said if note.topic == "receipt")
    bench.woke("grace:1")
    call = bench.call("serve:1")
    assert isinstance(call, Serve)
    assert call.verifiers == (VERIFIERS[0], VERIFIERS[2])
    bench.asked(VERIFIERS[1], receipt(VERIFIERS[1]))  # it may send a better one
    bench.done(f"receipt:1:0:{VERIFIERS[1]}", ReceiptVerified(verifier=VERIFIERS[1], valid=True))
    assert len(bench.state.mine[1].receipts) == 3


def test_a_receipt_in_anothers_name_is_refused(bench: Bench) -> None:
    drawn(bench)
    for who, message in ((VERIFIERS[0], receipt(VERIFIERS[0], by=VERIFIERS[1])), (OTHER, receipt(OTHER))):
        assert isinstance(bench.asked(who, message), Refusal)
    assert bench.idle("receipt:")


def test_refused_it_serves_again_while_there_is_time(bench: Bench) -> None:
    drawn(bench)
    for who in VERIFIERS:
        bench.asked(who, receipt(who))
        bench.done(f"receipt:1:0:{who}", ReceiptVerified(verifier=who, valid=True))
    bench.failed("serve:1:0:1", Fault.REFUSED, "no")
    bench.woke("grace:1")
    assert not bench.idle("serve:1:0:2")


def test_links_that_cannot_be_served_are_tried_again(bench: Bench) -> None:
    committed(bench)
    bench.drawn()
    bench.failed("units:1", Fault.OWN, "the engine crashed")
    bench.woke("reserve:1")
    assert isinstance(bench.task("units:1"), ServeUnits)


def test_not_served_in_time_it_is_drawn_again_and_served_to_the_new_verifiers(bench: Bench) -> None:
    drawn(bench)
    bench.woke("due:redraw:1")
    assert bench.call("nudge:redraw:1") == Redraw(segment=SegmentId(1))
    bench.seen(Redrawn, segment=SegmentId(1), round=1, reason="not served", seed_block=bench.block + 2)
    bench.woke("due:draw:1:1")
    bench.drawn(units=(4, 9, 11, 12), round=1, verifiers=(OTHER,))
    task = bench.task("units:1:1")
    assert isinstance(task, ServeUnits)
    assert [who for who, _ in task.recipients] == [OTHER]
    assert isinstance(bench.asked(VERIFIERS[0], BoundaryRequest(segment=SegmentId(1), round=0, unit=4)), Refusal)


PROOF = ChunkProof(end_path=(digest("path"),), count=1, entries=digest("entries"))


def asked(bench: Bench) -> None:
    """No quorum has signed, and the chain asks for a chunk."""
    drawn(bench)
    bench.now += PARAMS.serve_window + 1
    bench.seen(ChunkAsked, segment=SegmentId(1), round=0, at_block=bench.block + 2, show_by=bench.now + PARAMS.serve_window)


def test_what_is_asked_for_on_chain_is_shown_there(bench: Bench) -> None:
    asked(bench)
    seg = bench.state.facts.segments[1]
    task = bench.task("chunk:1:0:1")
    assert isinstance(task, MakeChunk)
    assert (task.units, task.asked_block, task.stop) == ((4, 9), seg.asked_block, 10)
    bench.failed("chunk:1:0:1", Fault.OWN, "the engine crashed")
    bench.woke("reopen:1")
    bench.done("chunk:1:0:2", ChunkMade(proof=PROOF))
    assert bench.call("open:1:0:2") == ShowChunk(segment=SegmentId(1), proof=PROOF)
    bench.failed("open:1:0:2", Fault.REFUSED, "the block is another by now")
    bench.woke("reopen:1")
    bench.served()
    bench.done("chunk:1:0:3", ChunkMade(proof=PROOF))
    assert bench.idle("open:1")


def test_what_is_asked_for_is_not_shown_after_its_time(bench: Bench) -> None:
    asked(bench)
    until = bench.state.facts.segments[1].serve_by
    bench.now = until
    bench.failed("chunk:1:0:1", Fault.OWN, "the engine crashed")
    assert bench.idle("reopen:1")
    bench.woke(f"due:redraw:1:0:0:{until + 1}")
    assert bench.call("nudge:redraw:1") == Redraw(segment=SegmentId(1))


def test_a_redraw_is_not_called_while_a_chunk_may_be_shown(bench: Bench) -> None:
    drawn(bench)
    due = bench.state.facts.segments[1].serve_by + 1
    bench.seen(ChunkAsked, segment=SegmentId(1), round=0, at_block=bench.block + 2, show_by=due + 50)
    bench.woke(f"due:redraw:1:0:0:{due}")
    assert bench.idle("nudge:redraw:1")


def test_other_requests_are_refused(bench: Bench) -> None:
    for message in (Heartbeat(segment=SegmentId(1), step=1, loss_f32=0), KeyRequest(segment=SegmentId(1), key_id=digest("k"))):
        assert isinstance(bench.asked(VERIFIERS[0], message), Refusal)


# ---- to the end ----------------------------------------------------------------------------------------------------------


def test_every_deadline_after_serving_is_kept(bench: Bench) -> None:
    drawn(bench)
    bench.served()
    bench.woke("due:close:1")
    assert bench.call("nudge:close:1") == CloseReveals(segment=SegmentId(1))
    bench.seen(Revealed, segment=SegmentId(1), verifier=VERIFIERS[0], agrees=True, trace_roots=())
    bench.seen(OpeningsDue, segment=SegmentId(1), opening_block=bench.block + 2, open_by=bench.now + 50)
    late = bench.wants("due:decide:1")
    assert late.at == bench.now + 51
    bench.woke("due:decide:1")
    assert bench.call("nudge:decide:1") == Decide(segment=SegmentId(1))


def test_attested_it_settles_after_the_challenge_window_and_only_after_its_parent(bench: Bench) -> None:
    attested(bench)
    bench.woke("due:settle:1")
    assert bench.call("nudge:settle:1") == Settle(segment=SegmentId(1))
    bench.seen(Settled, segment=SegmentId(1), provider=ME, price=100)
    assert bench.task("drop:1") == DropSegment(segment=SegmentId(1))
    assert bench.state.mine == {}


def test_a_child_is_settled_when_its_parent_is(bench: Bench) -> None:
    ready(bench)
    bench.assigned(provider=OTHER)
    bench.committed()
    bench.assigned(segment=2, parent=1, start=10, stop=20)
    bench.committed(segment=2, stop=20)
    bench.seen(Attested, segment=SegmentId(2), settle_after=bench.now)
    assert bench.idle("due:settle:2")
    bench.seen(Settled, segment=SegmentId(1), provider=OTHER, price=100)
    bench.woke("due:settle:2")
    assert bench.call("nudge:settle:2") == Settle(segment=SegmentId(2))


def test_withheld_keeps_what_a_dispute_would_need(bench: Bench) -> None:
    drawn(bench)
    bench.served()
    bench.seen(Withheld, segment=SegmentId(1), yes=0, no=3)
    assert bench.idle("drop:")
    assert bench.said[-1].topic == "withheld"


@pytest.mark.parametrize("reason", ["not served", "keys withheld"])
def test_unserved_and_unpaid_the_bond_is_cleared_when_it_may_be(bench: Bench, reason: str) -> None:
    drawn(bench)
    bench.seen(Unpaid, segment=SegmentId(1), reason=reason)
    assert bench.topics()[-1] == "unpaid"
    bench.woke("due:clear:1")
    assert bench.call("nudge:clear:1") == ClearBond(segment=SegmentId(1))


def vouched(bench: Bench) -> None:
    drawn(bench)
    bench.seen(JobVouched, job=JobId(1), keeper=KEYS, amount=1000, each=100)


@pytest.mark.parametrize("served", [False, True])
def test_keys_that_were_withheld_are_claimed_from_who_has_vouched_for_them(bench: Bench, served: bool) -> None:
    vouched(bench)
    if served:
        bench.served()
        bench.seen(Redrawn, segment=SegmentId(1), round=1, reason="undecided", seed_block=3)
        bench.seen(Withheld, segment=SegmentId(1), yes=0, no=1)  # of the first round; the second had no keys
    else:
        bench.seen(Unpaid, segment=SegmentId(1), reason="keys withheld")
    assert bench.call("claim:1") == ClaimSurety(segment=SegmentId(1))
    bench.sent("claim:1")
    bench.seen(SuretyPaid, segment=SegmentId(1), job=JobId(1), provider=ME, amount=100)
    assert bench.said[-1].topic == "surety"


@pytest.mark.parametrize("reason", ["not served", "too few verifiers"])
def test_nothing_is_claimed_for_other_failures_or_where_nobody_has_vouched(bench: Bench, reason: str) -> None:
    vouched(bench)
    bench.seen(SuretyReturned, job=JobId(2), keeper=KEYS, amount=5)
    bench.seen(Unpaid, segment=SegmentId(1), reason=reason)
    assert bench.idle("claim:")


def test_noes_of_a_served_round_claim_nothing_and_neither_does_who_is_not_vouched_for(bench: Bench) -> None:
    drawn(bench)
    bench.served()
    bench.seen(Withheld, segment=SegmentId(1), yes=0, no=3)
    assert bench.idle("claim:")


def test_a_contested_checkpoint_is_answered_with_its_key(bench: Bench) -> None:
    vouched(bench)
    bench.seen(CheckpointContested, segment=SegmentId(99), keeper=KEYS)
    assert bench.idle("tell:")
    bench.seen(CheckpointContested, segment=SegmentId(1), keeper=KEYS)
    bench.done("tell:1", KeyTold(key=digest("the key"), checkpoint=digest("it")))
    assert bench.call("tellkey:1") == ShowCheckpointKey(segment=SegmentId(1), checkpoint=digest("it"), key=digest("the key"))
    bench.seen(Unpaid, segment=SegmentId(1), reason="keys withheld")
    assert bench.call("claim:1") == ClaimSurety(segment=SegmentId(1))


def test_credit_is_pulled_when_it_is_ordered_or_when_the_threshold_is_reached(bench: Bench) -> None:
    bench.feed(Ordered(order="withdraw"))
    assert bench.said[-1].text == "there is nothing to withdraw"
    bench.seen(Credited, who=ME, segment=SegmentId(1), amount=100, reason="price")
    bench.seen(Credited, who=OTHER, segment=SegmentId(1), amount=900, reason="price")
    assert bench.idle("withdraw")
    bench.feed(Ordered(order="withdraw"))
    assert bench.call("withdraw:1") == Withdraw()
    bench.sent("withdraw:1")
    bench.seen(Withdrawn, who=ME, amount=100)
    assert bench.state.credit == 0
    eager = Bench.of(WorkerMachine(WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=1, withdraw_at=100)))
    eager.seen(Credited, who=ME, segment=SegmentId(1), amount=99, reason="price")
    assert eager.idle("withdraw")
    eager.seen(Credited, who=ME, segment=SegmentId(1), amount=1, reason="price")
    assert eager.call("withdraw:1") == Withdraw()


# ---- a fleet -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet() -> Any:
    """A worker with two places that has heard of three jobs; it is restarted after each test, too."""
    made = Bench.of(WorkerMachine(WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=PRICE, places=2)))
    made.posted()
    for job in (1, 2, 3):
        if job > 1:
            made.seen(JobPosted, job=JobId(job), client=CLIENT, terms=TERMS)
        hear(made, job=JobId(job))
        made.fetched(f"spec:{job}")
        made.done(f"load:{job}", JobLoaded(job=JobId(job), spec=SPEC, spec_digest=digest("spec")))
        made.fetched(f"program:{job}:{SPEC.program}")
        made.fetched(f"program:{job}:{SPEC.schedule}")
        made.done(f"check:{job}", msgspec.structs.replace(CHECKED, job=JobId(job)))
    yield made
    made.check_restart()


def offers_out(bench: Bench) -> list[int]:
    """Signs and sends what is to be offered; the jobs that offers stand for."""
    while signing := [key for key in bench.core.outstanding if key.startswith("sign:")]:
        bench.done(signing[0], Signed(signature=b"s"))
        bench.answered(signing[0].replace("sign", "offer"), Ack())
    return [live.offer.job for live in bench.state.offers]


def taken(bench: Bench, segment: int, job: int) -> None:
    bench.seen(
        Assigned, segment=SegmentId(segment), job=JobId(job), parent=SegmentId(0), provider=ME, start=0, stop=10, price=100,
        activate_by=bench.now + PARAMS.activate_window,
    )  # fmt: skip


def under_way(bench: Bench, segment: int) -> None:
    bench.supply(INPUTS, segment)
    bench.sent(f"activate:{segment}")
    bench.seen(Activated, segment=SegmentId(segment), lease_until=bench.now + PARAMS.lease_window)


def test_a_fleet_offers_for_as_many_ranges_as_it_has_places(fleet: Bench) -> None:
    assert len({live.offer.nonce for live in fleet.state.offers}) == 2
    assert offers_out(fleet) == [1, 2]
    taken(fleet, 1, 1)
    assert offers_out(fleet) == [2]  # one place is taken, the other is promised
    taken(fleet, 2, 2)
    assert busy(fleet) == [1, 2]
    assert offers_out(fleet) == []
    fleet.seen(Lapsed, segment=SegmentId(2), fee=1)
    assert offers_out(fleet) == [3]


def test_each_offer_of_a_fleet_counts_on_the_bonds_of_all(fleet: Bench) -> None:
    first, second = (effect.task for key, effect in fleet.core.outstanding.items() if key.startswith("sign:"))
    assert second.bond == 2 * first.bond > 0


def test_a_fleet_runs_several_segments_at_once_and_each_ends_for_itself(fleet: Bench) -> None:
    offers_out(fleet)
    for segment in (1, 2):
        taken(fleet, segment, segment)
    for segment in (1, 2):
        under_way(fleet, segment)
        assert isinstance(fleet.task(f"run:{segment}"), RunSegment)
    fleet.failed("run:1", Fault.PEER)
    assert busy(fleet) == [2]
    fleet.done("run:2", msgspec.structs.replace(outcome(), segment=SegmentId(2)))
    fleet.answered("copy:2", Ack())
    assert isinstance(fleet.call("commit:2"), Commit)


def test_what_is_assigned_beyond_the_places_waits_for_one(fleet: Bench) -> None:
    for segment in (1, 2, 3):
        taken(fleet, segment, segment)
    for segment in (1, 2):
        under_way(fleet, segment)
    for ref in INPUTS:
        fleet.fetched(f"fetch:3:{ref.cid}")
    assert fleet.idle("run:3")
    fleet.failed("prepare:3", Fault.OWN)
    fleet.failed("run:1", Fault.PEER)
    assert busy(fleet) == [2, 3]
    assert isinstance(fleet.task("run:3"), RunSegment)


def test_a_drained_fleet_stops_all_its_runs_and_is_drained_when_the_last_has_ended(fleet: Bench) -> None:
    offers_out(fleet)
    for segment in (1, 2):
        taken(fleet, segment, segment)
        under_way(fleet, segment)
    fleet.feed(Ordered(order="drain"))
    assert all(isinstance(fleet.task(f"stop:{segment}"), StopSegment) for segment in (1, 2))
    for segment in (1, 2):
        assert "drained" not in fleet.topics()
        fleet.done(f"run:{segment}", msgspec.structs.replace(outcome(4), segment=SegmentId(segment)))
        fleet.committed(segment, stop=4)
    assert "drained" in fleet.topics()
    assert not busy(fleet)


# ---- a new disk ----------------------------------------------------------------------------------------------------------


def test_a_worker_without_memory_serves_what_the_chain_says_it_committed(bench: Bench) -> None:
    bench.posted()
    bench.assigned()
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + 400)
    bench.committed()
    bench.drawn()
    bench.load_job()
    bench.supply(INPUTS)
    assert isinstance(bench.task("units:1"), ServeUnits)


def test_a_worker_without_memory_runs_what_the_chain_says_it_activated(bench: Bench) -> None:
    bench.posted()
    bench.assigned()
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + 400)
    bench.load_job()
    bench.supply(INPUTS)
    assert isinstance(bench.task("run:1"), RunSegment)


def test_what_is_long_over_is_passed_by(bench: Bench) -> None:
    """The whole past of a contract comes at once, with today's time."""
    bench.posted()
    bench.assigned()
    bench.now += 10_000
    bench.seen(Lapsed, segment=SegmentId(1), fee=1)
    bench.assigned(segment=2)
    assert busy(bench) == [2]


# ---- what it has published -----------------------------------------------------------------------------------------------


def test_the_checkpoints_of_a_finished_job_are_kept_for_a_week_and_then_let_go(bench: Bench) -> None:
    attested(bench)
    bench.seen(Settled, segment=SegmentId(1), provider=ME, price=100)
    assert bench.idle("tidy:")  # the job goes on
    bench.seen(JobClosed, job=JobId(1), refund=0)
    began = bench.now
    bench.woke("tidy:1")
    assert bench.now == began + 7 * 86_400
    assert bench.task("tidied:1") == LetGo(job=JobId(1))
    bench.done("tidied:1", Dropped())
    assert bench.state.published == set()


def test_a_job_is_finished_when_its_last_step_is_settled_whether_it_is_closed_or_not(bench: Bench) -> None:
    attested(bench)
    bench.seen(Settled, segment=SegmentId(1), provider=ME, price=100)
    bench.assigned(segment=2, provider=OTHER, parent=1, start=10, stop=20)
    bench.committed(segment=2, stop=20)
    assert bench.idle("tidy:")
    bench.seen(Settled, segment=SegmentId(2), provider=OTHER, price=100)
    assert not bench.idle("tidy:1")


def test_what_can_still_be_disputed_is_not_let_go(bench: Bench) -> None:
    machine = WorkerMachine(WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=PRICE, disputes=OTHER))
    bench = Bench.of(machine)
    drawn(bench)
    bench.seen(Withheld, segment=SegmentId(1), yes=0, no=3)
    bench.seen(JobClosed, job=JobId(1), refund=0)
    assert bench.idle("tidy:")
    bench.woke("keep:1")  # the challenge window is over
    assert bench.idle("tidy:")
    bench.seen(BondCleared, segment=SegmentId(1), amount=1)
    assert not bench.idle("drop:1")
    assert not bench.idle("tidy:1")


# ---- its books -----------------------------------------------------------------------------------------------------------


def test_the_books_tell_what_came_and_went_on_which_day(bench: Bench) -> None:
    attested(bench)
    bench.now = 5 * 86_400 - 1
    bench.seen(FeeCharged, who=ME, segment=SegmentId(1), amount=30, reason="late")
    bench.seen(FeeCharged, who=OTHER, segment=SegmentId(1), amount=31, reason="late")
    bench.now += 1
    bench.seen(Settled, segment=SegmentId(1), provider=ME, price=100)
    bench.seen(Credited, who=ME, segment=SegmentId(1), amount=100, reason="price")
    bench.seen(Slashed, who=ME, segment=SegmentId(1), amount=7, burnt=3)
    told = bench.core.machine.summary()
    assert told["days"] == [{"day": 4, "earned": 0, "lost": 30}, {"day": 5, "earned": 100, "lost": 7}]
    assert [(entry["amount"], entry["why"]) for entry in told["receipts"]] == [(-7, "slashed"), (100, "price"), (-30, "late")]
    assert told["ends"] == {"settled": 1}
    assert told["pending"] == 0


def test_the_books_of_years_stay_small(bench: Bench) -> None:
    for day in range(2 * DAYS):
        bench.now = day * 86_400
        bench.seen(Credited, who=ME, segment=SegmentId(day), amount=1, reason="price")
    assert len(bench.state.books.days) == DAYS
    assert len(bench.state.books.entries) == ENTRIES
    assert bench.state.books.days[-1].day == 2 * DAYS - 1
