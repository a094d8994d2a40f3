"""The worker between its run and its commitment: another node is asked to keep the checkpoint, and nobody can hold the commitment up for long."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from worker_world import INPUTS, PRICE, hear, outcome, running

from assay.chain import Activated, Commit, Lapsed
from assay.ids import SegmentId
from assay.messages import Ack, CopyRequest, KeyGrant
from assay.runtime import Ask, Cancel, Fault, Started
from assay_worker.committing import LEASE_SHARE, LEAST_WAIT, SLOWEST
from assay_worker.machine import WorkerMachine
from assay_worker.state import WorkerConfig
from bench import ME, OTHER, PARAMS, PEERS, SCHEDULER, Bench, digest, sealed


@pytest.fixture
def bench() -> Any:
    made = Bench.of(WorkerMachine(WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=PRICE)))
    yield made
    made.check_restart()


def asked(bench: Bench) -> Ask:
    ask = bench.wants("copy:1")
    assert isinstance(ask, Ask)
    return ask


def alone(bench: Bench) -> str:
    """It commits, and says that nobody else has the checkpoint, and why."""
    assert isinstance(bench.call("commit:1"), Commit)
    assert bench.state.mine[1].phase == "committing"
    assert bench.said[-1].topic == "alone"
    return str(bench.said[-1].data["reason"])


def test_it_commits_when_its_scheduler_keeps_the_checkpoint(bench: Bench) -> None:
    running(bench)
    bench.done("run:1", outcome())
    assert bench.idle("commit:1")
    assert bench.state.mine[1].phase == "copying"
    assert asked(bench).peer == PEERS[SCHEDULER]
    assert asked(bench).message == CopyRequest(segment=SegmentId(1), checkpoint=sealed("checkpoint 1").cid)
    bench.answered("copy:1", Ack())
    assert isinstance(bench.call("commit:1"), Commit)
    assert bench.said[-1].topic == "copied"
    assert bench.idle("copy:")


@pytest.mark.parametrize(("fault", "why"), [(Fault.OUTAGE, "silent"), (Fault.REFUSED, "it has no room")])
def test_it_commits_without_a_copy_and_says_so(bench: Bench, fault: Fault, why: str) -> None:
    running(bench)
    bench.done("run:1", outcome())
    bench.failed("copy:1", fault, why)
    assert alone(bench) == why


def test_an_answer_that_is_no_word_about_it_is_none(bench: Bench) -> None:
    running(bench)
    bench.done("run:1", outcome())
    bench.answered("copy:1", KeyGrant(key_id=digest("key"), wrapped=(b"w",)))
    assert alone(bench) == "it answered something else"


def test_who_took_over_and_the_job_s_scheduler_are_asked_and_one_is_enough(bench: Bench) -> None:
    bench.posted()
    bench.now += PARAMS.takeover_window
    hear(bench, scheduler=PEERS[OTHER])
    bench.load_job()
    bench.assigned()
    assert bench.state.mine[1].scheduler == [PEERS[OTHER]]
    assert bench.state.offers == []
    bench.supply(INPUTS)
    bench.sent("activate:1")
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + PARAMS.lease_window)
    bench.done("run:1", outcome())
    keys = [key for key in bench.core.outstanding if key.startswith("copy:1")]
    assert [bench.wants(key).peer for key in keys] == [PEERS[OTHER], PEERS[SCHEDULER]]
    bench.failed(keys[0], Fault.REFUSED)
    assert bench.idle("commit:1")
    bench.answered(keys[1], Ack())
    assert isinstance(bench.call("commit:1"), Commit)


def test_the_first_that_keeps_it_ends_the_wait_for_the_other(bench: Bench) -> None:
    running(bench)
    bench.state.mine[1].scheduler = [PEERS[OTHER]]
    bench.core.snapshot(bench.core.journal.load()[2][-1].sequence)
    bench.done("run:1", outcome())
    first, second = sorted(key for key in bench.core.outstanding if key.startswith("copy:1"))
    effects = bench.answered(first, Ack())
    assert Cancel(key=second) in effects
    assert isinstance(bench.call("commit:1"), Commit)


@pytest.mark.parametrize(
    ("size", "left", "wait"),
    [
        (1000, 400, LEAST_WAIT),
        (1000, 4 * LEASE_SHARE + 3, 4),  # a part of what is left, rounded down
        (100 * SLOWEST, 4000, LEAST_WAIT + 100),
        (100 * SLOWEST, 200, 200 // LEASE_SHARE),
        (1000, LEASE_SHARE - 1, 0),
        (1000, -5, 0),
    ],
)
def test_the_wait_is_bounded_by_the_lease_and_by_the_size(bench: Bench, size: int, left: int, wait: int) -> None:
    running(bench)
    bench.now = bench.state.facts.segments[1].lease_until - left
    checkpoint = msgspec.structs.replace(sealed("checkpoint 1"), size=size)
    bench.done("run:1", msgspec.structs.replace(outcome(), checkpoint=checkpoint))
    if wait:
        assert asked(bench).patience == wait
    else:
        assert alone(bench) == "the lease ends too soon"


def test_a_node_that_comes_up_too_late_waits_no_longer(bench: Bench) -> None:
    running(bench)
    bench.done("run:1", outcome())
    bench.now += LEAST_WAIT - 1
    bench.feed(Started())
    assert bench.idle("commit:1")
    bench.now += 1
    bench.feed(Started())
    assert alone(bench) == "this node was away"
    assert bench.idle("copy:")


def test_a_segment_that_ends_meanwhile_asks_nobody_any_more(bench: Bench) -> None:
    running(bench)
    bench.done("run:1", outcome())
    key = asked(bench).key
    assert Cancel(key=key) in bench.seen(Lapsed, segment=SegmentId(1), fee=5)
    assert bench.idle("commit:1")


def test_without_anybody_to_ask_it_commits(bench: Bench) -> None:
    running(bench)
    del bench.state.facts.people[SCHEDULER]
    bench.state.mine[1].scheduler = []
    bench.core.snapshot(bench.core.journal.load()[2][-1].sequence)
    bench.done("run:1", outcome())
    assert alone(bench) == "no scheduler can be asked"
