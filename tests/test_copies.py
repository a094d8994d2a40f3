"""The copy before the commitment: what a scheduler takes in and what not, and a provider whose disk dies at its commitment."""

from __future__ import annotations

import msgspec
import pytest

from assay import cid, parts
from assay.chain import Activated, Committed, Lapsed, SegmentState
from assay.ids import Address, Cid, Digest, PeerId, SegmentId
from assay.messages import Ack, CopyRequest, Refusal
from assay.runtime import AnyEffect, Asked, Cancel, Core, Do, Done, Failed, Fault, Fetch, Fetched, Note, Reply, Started
from assay.sim import Options, World
from assay.sim.cast import HONEST, SCHEDULER, Part, Self
from assay.sim.node import SimNode
from assay.sim.report import report
from assay.tasks import KeepBlob, PinsSet, ReleaseBlobs
from assay_scheduler.books import Config
from assay_scheduler.machine import SchedulerMachine
from assay_scheduler.mirror import MOST_COPIES, MOST_HELD, SLACK
from tests.audited import check_audit
from tests.test_scheduler import DIGEST, ME, W1, W2, Bench, assigned, bench, post, terms

__all__ = ["bench"]

A, B, C, D = (cid.of(letter) for letter in (b"a", b"b", b"c", b"d"))
STATE = 5000


@pytest.fixture
def busy(bench: Bench) -> Bench:
    """W1 runs segment 1 of a job whose document is here."""
    post(bench)
    bench.core.machine.state.jobs[1].sizes = (STATE, 0, 0)
    assigned(bench, 1)
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + 300)
    return bench


class Asks:
    """Counts them."""

    last = 0


def ask(bench: Bench, checkpoint: Cid = A, segment: int = 1, who: Address = W1) -> list[AnyEffect]:
    Asks.last += 1
    message = CopyRequest(segment=SegmentId(segment), checkpoint=checkpoint)
    return bench.feed(Asked(ask=Asks.last, peer=PeerId(f"peer-{who}"), message=message))


def told(effects: list[AnyEffect]) -> dict[int, object]:
    return {effect.ask: effect.message for effect in effects if isinstance(effect, Reply)}


def fetch(effects: list[AnyEffect]) -> Fetch:
    (found,) = [effect for effect in effects if isinstance(effect, Fetch)]
    return found


def copied(bench: Bench, checkpoint: Cid = A, segment: int = 1, who: Address = W1) -> list[AnyEffect]:
    """It is asked for, comes and is pinned."""
    effects = ask(bench, checkpoint, segment, who)
    (hold,) = bench.feed(Fetched(key=fetch(effects).key))
    assert isinstance(hold, Do)
    assert isinstance(hold.task, KeepBlob)
    return bench.feed(Done(key=hold.key, outcome=PinsSet()))


def commit(bench: Bench, checkpoint: Cid, segment: int = 1, stop: int = 10) -> list[AnyEffect]:
    return bench.seen(
        Committed, segment=SegmentId(segment), stop=stop, link_root=DIGEST, end_root=DIGEST, checkpoint=checkpoint, key_id=DIGEST,
        key_envelope=b"", commitment=DIGEST, seed_block=bench.block + 5,
    )  # fmt: skip


def pinned(effects: list[AnyEffect]) -> list[tuple[Cid, int]]:
    return [(e.task.cid, e.task.until) for e in effects if isinstance(e, Do) and isinstance(e.task, KeepBlob)]


def released(effects: list[AnyEffect]) -> list[Cid]:
    return [name for e in effects if isinstance(e, Do) and isinstance(e.task, ReleaseBlobs) for name in e.task.cids]


def mirrored(effects: list[AnyEffect]) -> list[Fetch]:
    return [e for e in effects if isinstance(e, Fetch) and e.key.startswith("mirror:")]


# ---- the scheduler -------------------------------------------------------------------------------------------------------


def test_it_is_fetched_pinned_and_then_said_to_be_here(busy: Bench) -> None:
    effects = ask(busy)
    assert told(effects) == {}
    wanted = fetch(effects)
    assert (wanted.cid, wanted.near, wanted.limit) == (A, (PeerId(f"peer-{W1}"),), parts.largest(STATE) + SLACK)
    effects = busy.feed(Fetched(key=wanted.key))
    assert told(effects) == {}
    ((blob, until),) = pinned(effects)
    assert (blob, until) == (A, busy.now + 2 * terms().params.lease_window)
    (hold,) = [e for e in effects if isinstance(e, Do)]
    effects = busy.feed(Done(key=hold.key, outcome=PinsSet()))
    assert told(effects) == {Asks.last: Ack()}
    assert [e.topic for e in effects if isinstance(e, Note)] == ["kept"]
    assert told(ask(busy)) == {Asks.last: Ack()}


def test_what_was_copied_stays_when_it_is_committed_and_is_not_fetched_again(busy: Bench) -> None:
    copied(busy)
    effects = commit(busy, A)
    assert mirrored(effects) == []
    assert pinned(effects) == [(A, terms().deadline + terms().params.challenge_window)]
    state = busy.core.machine.state
    assert (state.jobs[1].pins, state.pinned, state.jobs[1].segments[1].copy) == ([A], {A: 1}, "")


@pytest.mark.parametrize("stage", ["fetching", "pinning", "kept"])
def test_another_commitment_lets_the_copy_go(busy: Bench, stage: str) -> None:
    effects = ask(busy)
    if stage != "fetching":
        effects = busy.feed(Fetched(key=fetch(effects).key))
    if stage == "kept":
        busy.feed(Done(key=next(e.key for e in effects if isinstance(e, Do)), outcome=PinsSet()))
    effects = commit(busy, B)
    assert [wanted.cid for wanted in mirrored(effects)] == [B]
    assert released(effects) == ([] if stage == "fetching" else [A])
    assert (Asks.last in told(effects)) == (stage != "kept")
    assert busy.core.machine.state.pinned == {}
    assert not [key for key in busy.core.outstanding if key.startswith(("copy:", "hold:"))]


def test_what_comes_too_late_is_fetched_as_it_was_before(busy: Bench) -> None:
    key = fetch(ask(busy)).key
    effects = commit(busy, A)
    assert Cancel(key=key) in effects
    assert [wanted.cid for wanted in mirrored(effects)] == [A]
    assert mirrored(effects)[0].limit == parts.largest(STATE) + SLACK


def test_a_lapse_lets_the_copy_go(busy: Bench) -> None:
    copied(busy)
    assert released(busy.seen(Lapsed, segment=SegmentId(1), fee=3)) == [A]
    assert busy.core.machine.state.pinned == {}


def test_a_copy_of_what_is_kept_for_the_job_takes_nothing_from_it(busy: Bench) -> None:
    """A provider asks for a blob that the job needs, and lets its lease lapse."""
    busy.core.outstanding[f"mirror:1:{B}"] = Fetch(key=f"mirror:1:{B}", cid=B, limit=1)
    busy.feed(Fetched(key=f"mirror:1:{B}"))
    copied(busy, B)
    assert busy.core.machine.state.pinned == {B: 2}
    assert released(busy.seen(Lapsed, segment=SegmentId(1), fee=3)) == []
    assert busy.core.machine.state.pinned == {B: 1}


def test_one_copy_at_a_time_and_not_many(busy: Bench) -> None:
    first = fetch(ask(busy, A)).key
    held = Asks.last
    effects = ask(busy, B)
    assert Cancel(key=first) in effects
    assert isinstance(told(effects)[held], Refusal)
    busy.feed(Fetched(key=fetch(effects).key))
    effects = ask(busy, C)
    assert released(effects) == [B]
    assert MOST_COPIES == 3
    (refusal,) = told(ask(busy, D)).values()
    assert isinstance(refusal, Refusal)
    assert "no more are" in refusal.reason
    assert refusal.retry_after == 0
    assert busy.core.machine.state.jobs[1].segments[1].copy == C


def test_who_asks_again_is_answered_once_each(busy: Bench) -> None:
    effects = ask(busy)
    first = Asks.last
    again = ask(busy)
    refusal = told(again)[first]
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after
    assert not [e for e in again if isinstance(e, Fetch)]
    (hold,) = busy.feed(Fetched(key=fetch(effects).key))
    assert isinstance(hold, Do)
    assert told(busy.feed(Done(key=hold.key, outcome=PinsSet()))) == {Asks.last: Ack()}


@pytest.mark.parametrize(
    ("who", "segment", "why", "again"),
    [(W2, 1, "not the segment's provider", False), (W1, 7, "not known", True)],
)
def test_who_may_not_ask(busy: Bench, who: Address, segment: int, why: str, again: bool) -> None:
    (refusal,) = told(ask(busy, A, segment, who)).values()
    assert isinstance(refusal, Refusal)
    assert why in refusal.reason
    assert bool(refusal.retry_after) == again
    assert not busy.core.machine.state.held


def test_before_the_document_is_here_and_after_the_commitment_nothing_is_copied(busy: Bench) -> None:
    job = busy.core.machine.state.jobs[1]
    job.sizes = (0, 0, 0)
    (refusal,) = told(ask(busy)).values()
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after
    job.sizes = (STATE, 0, 0)
    commit(busy, A)
    (refusal,) = told(ask(busy)).values()
    assert refusal == Refusal(reason="segment 1 is committed")


def test_of_a_job_that_it_does_not_schedule_nothing_is_copied(bench: Bench) -> None:
    post(bench, scheduler=W2)
    assigned(bench, 1)
    (refusal,) = told(ask(bench)).values()
    assert refusal == Refusal(reason="this node does not schedule job 1")


@pytest.mark.parametrize("at", ["copy", "hold"])
def test_what_cannot_be_had_or_kept_is_refused(busy: Bench, at: str) -> None:
    effects = ask(busy)
    key = fetch(effects).key
    if at == "hold":
        (hold,) = busy.feed(Fetched(key=key))
        assert isinstance(hold, Do)
        key = hold.key
    effects = busy.feed(Failed(key=key, fault=Fault.PEER, error="it has 9999999 bytes"))
    assert told(effects) == {Asks.last: Refusal(reason="it could not be copied: it has 9999999 bytes")}
    state = busy.core.machine.state
    assert (state.held, state.pinned, state.jobs[1].segments[1].copy) == ({}, {}, "")


def test_requests_that_wait_are_few_and_forgotten_with_the_life(busy: Bench) -> None:
    machine = busy.core.machine
    machine.state.held = {segment: 100 + segment for segment in range(10, 10 + MOST_HELD)}
    effects = ask(busy)
    assert fetch(effects).cid == A
    assert told(effects)[Asks.last] == Refusal(reason="it is being fetched", retry_after=1)
    busy.feed(Started())
    assert machine.state.held == {}
    (hold,) = busy.feed(Fetched(key=fetch(effects).key))
    assert isinstance(hold, Do)
    assert told(busy.feed(Done(key=hold.key, outcome=PinsSet()))) == {}


def test_a_scheduler_that_is_started_again_is_where_it_was(bench: Bench) -> None:
    post(bench)
    assigned(bench, 1)
    bench.seen(Activated, segment=SegmentId(1), lease_until=bench.now + 300)
    ask(bench)
    fresh = Core(SchedulerMachine(Config(account=ME, peer=PeerId("me"))), bench.core.journal)
    fresh.restore()
    assert msgspec.to_builtins(fresh.machine.state) == msgspec.to_builtins(bench.core.machine.state)
    assert fresh.outstanding == bench.core.outstanding


# ---- a provider whose disk dies at its commitment ------------------------------------------------------------------------

OPTIONS = Options(steps=4, segment_steps=2, workers=3, verifiers=4)


class DiskDies(World):
    """The blobs of the first provider are gone in the moment in which the chain has its first commitment, before anybody could have read of it;
    it goes on with everything else: it serves the drawn links, and is paid."""

    victim: SimNode | None = None

    def _on_block(self) -> None:
        first = next(iter(self.receipts.segments.values()), None)
        before = first is not None and first.state == SegmentState.COMMITTED
        super()._on_block()
        first = next(iter(self.receipts.segments.values()), None)
        if self.victim is None and first is not None and first.state == SegmentState.COMMITTED and not before:
            self.victim = self.nodes[self.name_of(first.provider)]
            assert first.checkpoint is not None
            del self.victim.hands.store[first.checkpoint]


class TakesNoCopies(SchedulerMachine):
    def _on_copy_asked(self, ask: int, peer: PeerId, message: CopyRequest) -> list[AnyEffect]:
        return [Reply(ask=ask, message=Refusal(reason="this node is a scheduler: it takes offers and heartbeats"))]


def older(me: Self) -> SchedulerMachine:
    return TakesNoCopies(Config(account=me.account, peer=me.peer))


def play(world: World) -> Digest | None:
    finished = world.run()
    found = report(world, finished, 0.0)
    assert found.problems == [], found.problems
    check_audit(world.ledger)
    last = world.receipts.last_good(world.posted[0])
    return last.end_root if last is not None else None


def topics(world: World, *wanted: str) -> list[str]:
    return [note.topic for _, _, note in world.log if note.topic in wanted]


def test_when_the_provider_s_disk_dies_at_its_commitment_the_job_goes_on_with_the_same_bits() -> None:
    calm, dying = World(OPTIONS, 7), DiskDies(OPTIONS, 7)
    root = play(calm)
    assert play(dying) == root
    assert root is not None
    assert dying.receipts.finished(dying.posted[0])
    assert dying.victim is not None
    states = [segment.state for segment in dying.receipts.segments.values()]
    assert states == [SegmentState.SETTLED] * 2
    assert topics(dying, "copied", "kept", "alone") == ["kept", "copied"] * 2


def test_without_the_copy_the_job_stands_still_at_a_state_that_nobody_has() -> None:
    """What the copy is for: the same with a scheduler that takes none, as before there were any."""
    world = DiskDies(OPTIONS, 7, {SCHEDULER: Part(older, HONEST[SCHEDULER].hands)})
    play(world)
    assert not world.receipts.finished(world.posted[0])
    assert next(iter(world.receipts.segments.values())).state == SegmentState.SETTLED
    assert "alone" in topics(world, "alone")


def test_a_scheduler_that_is_away_keeps_nobody_from_being_paid() -> None:
    """It is gone while the last segment runs, and comes back long after that is settled."""
    world = World(OPTIONS, 7)
    machine = world.nodes["scheduler-0"]

    def watch(node: SimNode, note: Note) -> None:
        if note.topic == "running" and note.data["segment"] == 2:
            world.clock.after(0.5, machine.kill)
            world.clock.after(3000.0, machine.boot)

    world._watch = watch
    root = play(world)
    assert world.receipts.finished(world.posted[0])
    assert root == play(World(OPTIONS, 7))
    assert topics(world, "copied", "alone") == ["copied", "alone"]
