"""The worker's machine: what it gathers, and its runs."""

from __future__ import annotations

import msgspec
from worker_world import INPUTS, bench, busy, committed, offered, outcome, ready, running

from assay import energy
from assay.chain import (
    Activate,
    Activated,
    Commit,
    Lapsed,
    Voided,
    VoidSegment,
    Withheld,
)
from assay.energy import Energy
from assay.ids import SegmentId
from assay.messages import (
    Ack,
    HandOver,
    KeyGrant,
    KeyRequest,
)
from assay.runtime import Cancel, Fault, Ordered, Wake
from assay.tasks import (
    DropSegment,
    KeyStored,
    RunSegment,
    StopSegment,
)
from bench import (
    ENDS,
    LINK_ROOT,
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

__all__ = ["bench"]


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


def test_what_a_run_took_is_said_with_its_commitment(bench: Bench) -> None:
    running(bench)
    took = Energy(gpu_meter="counter", gpu=7_000, cpu_meter="", cpu=0, steps=10)
    checkpoint = msgspec.structs.replace(outcome().checkpoint, envelope=b"e" * 80)
    bench.done("run:1", msgspec.structs.replace(outcome(), energy=took, checkpoint=checkpoint))
    bench.answered("copy:1", Ack())
    call = bench.call("commit:1")
    assert isinstance(call, Commit)
    assert energy.part(call.key_envelope) == (checkpoint.envelope, took)
