"""The worker's machine: several places, a new disk, what it has published, its books."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from worker_world import INPUTS, PRICE, attested, bench, busy, drawn, hear, outcome

from assay.chain import (
    Activated,
    Assigned,
    BondCleared,
    Commit,
    Credited,
    FeeCharged,
    JobClosed,
    JobPosted,
    Lapsed,
    Settled,
    Slashed,
    Withheld,
)
from assay.ids import JobId, SegmentId
from assay.messages import (
    Ack,
)
from assay.role.books import DAYS, ENTRIES
from assay.runtime import Fault, Ordered
from assay.tasks import (
    Dropped,
    JobLoaded,
    LetGo,
    RunSegment,
    ServeUnits,
    Signed,
    StopSegment,
)
from assay_worker.machine import WorkerMachine
from assay_worker.state import WorkerConfig
from bench import (
    CHECKED,
    CLIENT,
    ME,
    OTHER,
    PARAMS,
    PEERS,
    SPEC,
    TERMS,
    Bench,
    digest,
)

__all__ = ["bench"]


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
