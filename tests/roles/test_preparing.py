"""The worker beside its run: what the next segment needs is brought and laid out while another computes, two never compute in one place, and a
run waits for no block."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from worker_world import INPUTS, PRICE, busy, hear, offered, outcome, running

from assay.chain import Activate, Activated, Commit, Lapsed
from assay.ids import SegmentId
from assay.messages import Ack
from assay.runtime import Cancel, Fault, Started
from assay.tasks import DropSegment, PrepareSegment, RunSegment, SegmentPrepared, Signed, SignOffer
from assay_worker.machine import WorkerMachine
from assay_worker.state import WorkerConfig
from bench import LINK_ROOT, ME, OTHER, PARAMS, PEERS, SHARDS, SPEC, Bench, sealed

CONFIG = WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=PRICE)
TAKEN = 10_000
"""Bytes of memory that the bench's job takes."""


@pytest.fixture
def bench() -> Any:
    made = Bench.of(WorkerMachine(CONFIG))
    yield made
    made.check_restart()


def next_one(bench: Bench, segment: int = 2) -> None:
    """Assigned while the first one runs; its blobs come (the keys are those of the first)."""
    bench.assigned(segment=segment, parent=0)
    for ref in INPUTS:
        bench.fetched(f"fetch:{segment}:{ref.cid}")


def phases(bench: Bench) -> list[str]:
    return [mine.phase for mine in bench.state.mine.values()]


def run_again(segment: int) -> Any:
    return msgspec.structs.replace(outcome(), segment=SegmentId(segment))


# ---- the range behind the one that runs ------------------------------------------------------------------------------------


def followed(bench: Bench) -> None:
    """It has offered for the range behind the one that it runs."""
    running(bench)
    hear(bench, parent=SegmentId(1), start=10, stop=20)
    assert isinstance(bench.task("sign:"), SignOffer)
    bench.done("sign:", Signed(signature=b"s"))
    bench.answered("offer:", Ack())


def test_the_range_behind_its_own_is_offered_for_while_it_runs_and_no_other(bench: Bench) -> None:
    followed(bench)
    bench.assigned(segment=2, provider=OTHER)
    hear(bench, parent=SegmentId(2), start=10, stop=20)
    assert bench.idle("sign:")
    bench.done("run:1", outcome())  # the place is free, and promised to the range behind
    assert bench.idle("sign:")


def test_it_begins_with_nothing_to_wait_for(bench: Bench) -> None:
    followed(bench)
    bench.done("run:1", outcome())
    bench.answered("copy:1", Ack())
    bench.sent("commit:1")
    bench.committed()
    bench.assigned(segment=2, parent=1, start=10, stop=20)
    for ref in (*(shard.sealed for shard in SHARDS), sealed("checkpoint 1")):  # which lie in its own store
        bench.fetched(f"fetch:2:{ref.cid}")
    assert bench.idle("nag:2")
    assert bench.call("activate:2") == Activate(segment=SegmentId(2))
    task = bench.task("run:2")
    assert isinstance(task, RunSegment)
    assert (task.parent.cid, task.start) == (sealed("checkpoint 1").cid, 10)


def test_an_offer_behind_a_run_that_ends_early_is_void(bench: Bench) -> None:
    followed(bench)
    bench.done("run:1", outcome(stop=7))
    bench.answered("copy:1", Ack())
    bench.committed(stop=7)
    assert not bench.state.offers


def test_the_next_run_does_not_wait_for_the_last_ones_commitment(bench: Bench) -> None:
    running(bench)
    next_one(bench)
    bench.done("prepare:2", SegmentPrepared(segment=SegmentId(2)))
    bench.done("run:1", outcome())
    assert phases(bench) == ["copying", "running"]
    bench.answered("copy:1", Ack())
    assert phases(bench) == ["committing", "running"]
    bench.sent("commit:1")
    bench.committed()
    assert phases(bench) == ["committed", "running"]


# ---- what is assigned beside a run -----------------------------------------------------------------------------------------


def test_what_it_needs_is_laid_out_while_another_runs_and_begins_when_that_ends(bench: Bench) -> None:
    running(bench)
    next_one(bench)
    task = bench.task("prepare:2")
    assert isinstance(task, PrepareSegment)
    assert (task.start, task.stop, task.parent) == (0, 10, SPEC.state)
    bench.done("prepare:2", SegmentPrepared(segment=SegmentId(2)))
    assert bench.said[-1].topic == "prepared"
    assert phases(bench) == ["running", "ready"]
    assert bench.idle("activate:2")  # its lease begins with its run
    assert bench.idle("run:2")
    bench.done("run:1", outcome())
    assert bench.call("activate:2") == Activate(segment=SegmentId(2))
    assert isinstance(bench.task("run:2"), RunSegment)


def test_a_place_that_is_free_waits_for_what_is_being_laid_out(bench: Bench) -> None:
    running(bench)
    next_one(bench)
    bench.done("run:1", outcome())
    assert phases(bench) == ["copying", "ready"]  # two that write the same files would meet
    bench.done("prepare:2", SegmentPrepared(segment=SegmentId(2)))
    assert phases(bench) == ["copying", "running"]


def test_what_cannot_be_laid_out_beside_is_run_all_the_same(bench: Bench) -> None:
    running(bench)
    next_one(bench)
    bench.failed("prepare:2", Fault.OWN, "the disk has no room")
    assert "the disk has no room" in bench.said[-1].text
    assert phases(bench) == ["running", "ready"]
    bench.done("run:1", outcome())
    assert phases(bench) == ["copying", "running"]


LARGEST = max(ref.size for ref in (SPEC.state, *SPEC.shared_blobs))


@pytest.mark.parametrize(("memory", "laid"), [(TAKEN + 2 * LARGEST, True), (TAKEN + 2 * LARGEST - 1, False)])
def test_nothing_is_laid_out_that_has_no_memory_beside_what_runs(memory: int, laid: bool) -> None:
    bench = Bench.of(WorkerMachine(msgspec.structs.replace(CONFIG, max_memory=memory)))
    running(bench)
    next_one(bench)
    assert bench.idle("prepare:2") is not laid
    assert phases(bench) == ["running", "ready"]
    if not laid:
        bench.done("run:1", outcome())
        assert phases(bench) == ["copying", "running"]
    bench.check_restart()


def test_two_never_run_in_one_place(bench: Bench) -> None:
    running(bench)
    for segment in (2, 3):
        next_one(bench, segment)
        bench.done(f"prepare:{segment}", SegmentPrepared(segment=SegmentId(segment)))
    for segment in (1, 2):
        assert phases(bench).count("running") == 1
        bench.done(f"run:{segment}", run_again(segment))
    assert phases(bench) == ["copying", "copying", "running"]


def test_one_that_lapses_while_it_is_laid_out_is_dropped(bench: Bench) -> None:
    running(bench)
    next_one(bench)
    effects = bench.seen(Lapsed, segment=SegmentId(2), fee=5)
    assert Cancel(key="prepare:2") in effects
    assert bench.task("drop:2") == DropSegment(segment=SegmentId(2))
    assert busy(bench) == [1]


def test_one_whose_time_to_begin_is_over_before_a_place_is_free_is_let_go(bench: Bench) -> None:
    running(bench)
    next_one(bench)
    bench.done("prepare:2", SegmentPrepared(segment=SegmentId(2)))
    bench.woke("queue:2")
    assert phases(bench) == ["running", "lost"]
    bench.done("run:1", outcome())
    assert bench.idle("activate:2")


def test_after_a_restart_it_is_laid_out_anew_and_not_run_before(bench: Bench) -> None:
    running(bench)
    next_one(bench)
    bench.feed(Started())
    assert isinstance(bench.task("prepare:2"), PrepareSegment)  # no result of it: it is performed again
    bench.done("run:1", outcome())
    assert bench.idle("run:2")
    bench.done("prepare:2", SegmentPrepared(segment=SegmentId(2)))
    assert isinstance(bench.task("run:2"), RunSegment)


# ---- a run that begins before its activation is on the chain -----------------------------------------------------------------


def begun(bench: Bench) -> None:
    offered(bench)
    bench.assigned()
    bench.supply(INPUTS)
    assert not bench.idle("activate:1")
    assert isinstance(bench.task("run:1"), RunSegment)


@pytest.mark.parametrize("told", ["sent", "seen"])
def test_it_commits_when_its_activation_is_on_the_chain_and_not_before(bench: Bench, told: str) -> None:
    begun(bench)
    bench.done("run:1", outcome())
    bench.answered("copy:1", Ack())
    assert phases(bench) == ["committing"]
    assert bench.idle("commit:1")
    if told == "sent":
        bench.sent("activate:1")
    else:
        bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + PARAMS.lease_window)
    call = bench.call("commit:1")
    assert isinstance(call, Commit)
    assert call.link_root == LINK_ROOT


def test_a_run_whose_activation_is_refused_ends(bench: Bench) -> None:
    begun(bench)
    key = bench.wants("run:1").key
    assert Cancel(key=key) in bench.failed("activate:1", Fault.REFUSED, "too late")
    assert phases(bench) == ["lost"]


def test_a_result_whose_activation_is_refused_is_not_committed(bench: Bench) -> None:
    begun(bench)
    bench.done("run:1", outcome())
    bench.answered("copy:1", Ack())
    bench.failed("activate:1", Fault.REFUSED, "too late")
    assert phases(bench) == ["lost"]
    assert bench.idle("commit:1")


def test_what_was_activated_after_all_is_run(bench: Bench) -> None:
    """A new disk sends the activation again, which the contract refuses, before it knows that it was made."""
    begun(bench)
    bench.failed("activate:1", Fault.REFUSED, "it is active")
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + PARAMS.lease_window)
    for ref in INPUTS:
        bench.fetched(f"fetch:1:{ref.cid}")
    assert isinstance(bench.task("run:1"), RunSegment)
    assert bench.state.mine[1].active
