"""The worker's machine: what it offers for, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from worker_world import INPUTS, PRICE, announcement, bench, committed, hear, offered, outcome, ready, running

from assay.chain import (
    Entrusted,
    JobCancelled,
)
from assay.facts import SegmentFacts
from assay.ids import Address, JobId, PeerId, SegmentId
from assay.messages import (
    Ack,
    OfferMessage,
)
from assay.runtime import Ask, Asked, Fault, Heard, Ordered, Reply
from assay.tasks import (
    JobLoaded,
    Signed,
    SignOffer,
)
from assay_worker.machine import WorkerMachine
from assay_worker.offers import MAX_HEARD
from assay_worker.state import WorkerConfig
from bench import (
    CHECKED,
    CLIENT,
    ME,
    OTHER,
    PARAMS,
    PEERS,
    SCHEDULER,
    SPEC,
    TERMS,
    VERIFIERS,
    Bench,
    cid,
    digest,
    sealed,
)

__all__ = ["bench"]


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
