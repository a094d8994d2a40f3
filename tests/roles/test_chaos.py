"""Any events in any order: a machine never falls, whatever the chain, peers and its own effects come up with, and always restarts where it was."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from assay import chain, links, merkle
from assay.dispute import moves
from assay.dispute.questions import Kind, Question
from assay.dispute.served import Nodes, Wanted
from assay.ids import Address, Digest, DisputeId, JobId, SegmentId
from assay.messages import (
    Ack,
    Boundary,
    BoundaryRequest,
    JobAnnouncement,
    KeyGrant,
    NodesRequest,
    ReceiptMessage,
    Refusal,
    StepRequest,
    TreeRequest,
    Visit,
)
from assay.runtime import Answered, Ask, Asked, Do, Done, Failed, Fault, Fetch, Fetched, Heard, Ordered, Send, Sent, Started, Wake, Woke
from assay.tasks import (
    BoundaryOpened,
    CheckProgram,
    Dropped,
    DropSegment,
    JobLoaded,
    KeyStored,
    LoadJob,
    MakeMove,
    MakeOpenings,
    MoveMade,
    NodesServed,
    NodesShown,
    OpenBoundary,
    OpeningsMade,
    ReceiptVerified,
    ReplayUnit,
    RunSegment,
    SegmentRun,
    ServeNodes,
    ServeUnits,
    ShowNodes,
    Signed,
    SignOffer,
    SignReceipt,
    Stopping,
    StopSegment,
    StoreKey,
    UnitReplayed,
    UnitsServed,
    VerifyReceipt,
    VerifyVisit,
    VisitVerified,
)
from assay_verifier.machine import VerifierMachine
from assay_verifier.state import VerifierConfig
from assay_worker.machine import WorkerMachine
from assay_worker.state import WorkerConfig
from bench import CHECKED, CLIENT, ENDS, KEYS, LINK_ROOT, ME, OTHER, PEERS, SCHEDULER, SHARDS, SPEC, TERMS, VERIFIERS, Bench, cid, digest, sealed

segments = st.integers(1, 3).map(SegmentId)
people = st.sampled_from([ME, OTHER, *VERIFIERS])
links_drawn = st.lists(st.integers(0, 29), min_size=1, max_size=4).map(tuple)
times = st.integers(0, 400)
DISPUTES = Address("0x" + "8" * 40)
NONE = Digest(b"")
SHOWN = moves.Shown(
    program_root=NONE, data_root=NONE, schedule_root=NONE, state_root=NONE, acc_root=NONE, batch_root=NONE, end_root=NONE, trace_root=NONE, steps=0,
    step=0, m=0, micro_batches=0, leaves=0, head=b"", stage=b"", record=b"", totals=(), roots=(), folded=(), chunk=b"", low=0,
    high=0, total=0, parts=(),
)  # fmt: skip


WANTED, DEEPER, NODES = Wanted(height=5, index=0), Wanted(height=0, index=3), Nodes(nodes=(digest("node"),))


def worker() -> Any:
    return WorkerMachine(WorkerConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], price_per_step=10, withdraw_at=50, disputes=DISPUTES))


def verifier() -> Any:
    contract = "0x" + "9" * 40
    return VerifierMachine(
        VerifierConfig(account=ME, encryption_key=b"k" * 32, peer=PEERS[ME], chain_id=7, contract=contract, disputes=DISPUTES)
    )


def boundary(segment: int, unit: int) -> Boundary:
    places = links.named_ends(unit, 2)
    leaves = [merkle.leaf(i, end) for i, end in enumerate(ENDS)]
    return Boundary(
        segment=SegmentId(segment), unit=unit, cid=cid("b"), key_id=digest("b"), wrapped=b"w",
        link_ends=tuple(ENDS[place] for place in places), proofs=tuple(merkle.prove(leaves, place) for place in places),
    )  # fmt: skip


def outcome(task: Any, good: bool) -> Any:
    """What a task might come back with."""
    match task:
        case LoadJob():
            return JobLoaded(job=task.job, spec=SPEC, spec_digest=digest("spec" if good else "other"))
        case CheckProgram():
            return CHECKED if good else msgspec.structs.replace(CHECKED, peak_memory=1 << 60)
        case SignOffer() | SignReceipt():
            return Signed(signature=b"s")
        case StoreKey():
            return KeyStored(key_id=task.key_id)
        case RunSegment():
            return SegmentRun(
                segment=task.segment, stop=task.stop if good else task.start, link_root=LINK_ROOT, end_root=ENDS[-1], proof=(),
                checkpoint=sealed("checkpoint"), first_loss=0, last_loss=0, milliseconds=0 if good else 9, computed=3,
            )  # fmt: skip
        case StopSegment():
            return Stopping(segment=task.segment)
        case ServeUnits():
            return UnitsServed(boundaries=tuple((who, boundary(task.segment, unit)) for who, _ in task.recipients for unit in task.units))
        case VerifyReceipt():
            return ReceiptVerified(verifier=task.verifier, valid=good)
        case OpenBoundary():
            return BoundaryOpened(segment=task.segment, unit=task.unit)
        case ReplayUnit():
            return UnitReplayed(segment=task.segment, unit=task.unit, agrees=good, trace_root=digest("t"), reason="", proven=True)
        case MakeOpenings():
            return OpeningsMade(openings=())
        case MakeMove():
            if task.served is not None and len(task.served) < 3 and good:
                return MoveMade(
                    dispute=task.dispute, move=moves.Concede(), shown=SHOWN, why="", wanted=WANTED, patience=5, junk=len(task.served) == 2
                )  # fmt: skip
            return MoveMade(dispute=task.dispute, move=moves.Concede() if good else None, shown=SHOWN, why="" if good else "chaos")
        case ServeNodes():
            return NodesServed(dispute=task.place.dispute, nodes=NODES if good else None)
        case ShowNodes():
            return NodesShown(segment=task.place.segment, nodes=NODES if good else None)
        case VerifyVisit():
            return VisitVerified(peer=task.peer, account=task.account, valid=good)
        case DropSegment():
            return Dropped()
    raise AssertionError(task)


def reply(message: Any, good: bool) -> Any:
    if not good:
        return Ack()
    if isinstance(message, NodesRequest):
        return NODES
    return boundary(message.segment, message.unit) if isinstance(message, BoundaryRequest) else (
        KeyGrant(key_id=message.key_id, wrapped=(b"w",)) if hasattr(message, "key_id") else Ack()
    )  # fmt: skip


def result(effect: Any, good: bool) -> Any:
    match effect:
        case Fetch():
            return Fetched(key=effect.key)
        case Ask():
            return Answered(key=effect.key, message=reply(effect.message, good))
        case Send():
            return Sent(key=effect.key, block=1)
        case Wake():
            return Woke(key=effect.key)
        case Do():
            return Done(key=effect.key, outcome=outcome(effect.task, good))
    raise AssertionError(effect)


WITHIN = st.sampled_from([0, 3, 9, 10, 2**62])
checks = st.one_of(
    st.builds(Visit, account=people, signature=st.binary(max_size=300)),
    st.builds(StepRequest, segment=segments, step=WITHIN),
    st.builds(
        TreeRequest, segment=segments, question=st.builds(Question, kind=st.sampled_from(Kind), unit=WITHIN, at=st.just(1), wanted=st.just(WANTED))
    ),
)
"""What somebody who checks a step may say."""


def happen(bench: Bench, data: st.DataObject) -> None:
    """One more event: mostly a result of something under way, else something from outside."""
    bench.now += data.draw(st.sampled_from([0, 0, 0, 1, 30, 200]))
    waiting = sorted(bench.core.outstanding)
    if waiting and data.draw(st.integers(0, 2)):
        effect: Any = bench.core.outstanding[data.draw(st.sampled_from(waiting))]
        if isinstance(effect, Wake):
            bench.now, bench.block = max(bench.now, effect.at), max(bench.block, effect.block)
        elif data.draw(st.integers(0, 3)) == 0:
            bench.feed(Failed(key=effect.key, fault=data.draw(st.sampled_from(Fault)), error="chaos"))
            return
        bench.feed(result(effect, data.draw(st.booleans())))
        return
    segment, dispute = data.draw(segments), DisputeId(data.draw(st.integers(1, 4)))
    outside: list[Any] = [
        lambda: bench.assigned(segment, data.draw(people), parent=data.draw(st.integers(0, 2)), start=0, stop=10),
        lambda: bench.seen(chain.Activated, segment=segment, lease_until=bench.now + data.draw(times)),
        lambda: bench.committed(segment, data.draw(st.sampled_from([3, 10]))),
        lambda: bench.drawn(data.draw(links_drawn), segment, data.draw(st.integers(0, 2)), (ME, *VERIFIERS[:2])),
        lambda: bench.released(data.draw(st.sampled_from([SPEC.state, *(shard.sealed for shard in SHARDS)])), segment),
        lambda: bench.served(segment, data.draw(st.integers(0, 2))),
        lambda: bench.seen(chain.Sealed, segment=segment, verifier=ME),
        lambda: bench.seen(chain.RevealsDue, segment=segment, reveal_by=bench.now + data.draw(times), opening_block=bench.block),
        lambda: bench.seen(chain.Revealed, segment=segment, verifier=ME, agrees=True, trace_roots=()),
        lambda: bench.seen(chain.OpeningsDue, segment=segment, opening_block=bench.block, open_by=bench.now + data.draw(times)),
        lambda: bench.seen(chain.Opened, segment=segment, verifier=ME),
        lambda: bench.seen(chain.Attested, segment=segment, settle_after=bench.now + data.draw(times)),
        lambda: bench.seen(chain.Redrawn, segment=segment, round=data.draw(st.integers(0, 2)), reason="chaos", seed_block=bench.block),
        lambda: bench.seen(chain.Settled, segment=segment, provider=ME, price=100),
        lambda: bench.seen(chain.Lapsed, segment=segment, fee=1),
        lambda: bench.seen(chain.Withheld, segment=segment, yes=0, no=1),
        lambda: bench.seen(chain.Unpaid, segment=segment, reason="not served"),
        lambda: bench.seen(chain.Voided, segment=segment),
        lambda: bench.seen(chain.JobCancelled, job=JobId(data.draw(st.integers(1, 2)))),
        lambda: bench.seen(chain.Credited, who=ME, segment=segment, amount=30, reason="price"),
        lambda: bench.seen(chain.JobPosted, job=JobId(2), client=CLIENT, terms=TERMS),
        lambda: bench.asked(data.draw(people), BoundaryRequest(segment=segment, round=0, unit=data.draw(st.integers(0, 2**63 - 1)))),
        lambda: bench.asked(
            who := data.draw(people),
            ReceiptMessage(segment=segment, round=data.draw(st.integers(0, 2)), verifier=who, signature=b"s" * data.draw(st.integers(0, 300))),
        ),
        lambda: bench.feed(
            Asked(
                ask=data.draw(st.integers(1, 99)), peer=PEERS[data.draw(people)],
                message=NodesRequest(dispute=dispute, turn=data.draw(st.integers(0, 3)), wanted=data.draw(st.sampled_from([WANTED, DEEPER]))),
            )
        ),
        lambda: bench.feed(Asked(ask=data.draw(st.integers(1, 99)), peer=PEERS[data.draw(people)], message=data.draw(checks))),
        lambda: bench.seen(chain.BondCleared, segment=segment, amount=1),
        lambda: bench.seen(chain.Rejected, segment=segment),
        lambda: bench.seen(
            chain.Revealed, segment=segment, verifier=data.draw(people), agrees=data.draw(st.booleans()),
            trace_roots=tuple(digest(data.draw(st.sampled_from("tu"))) for _ in range(data.draw(st.integers(0, 4)))),
        ),
        lambda: bench.seen(chain.DisputeSealed, dispute=dispute, segment=segment, challenger=data.draw(people), bond=5, open_by=bench.now + 50,
                           allowance=0),
        lambda: bench.seen(
            chain.DisputeOpened, dispute=dispute, segment=segment, asserter=data.draw(people), target=data.draw(st.integers(0, 1)),
            unit=data.draw(st.sampled_from([0, 7, 2**64 - 1])), round=data.draw(st.integers(0, 2)),
        ),
        lambda: bench.seen(
            chain.DisputeMoved, dispute=dispute, phase=data.draw(st.sampled_from(moves.Phase)), asserting=data.draw(st.booleans()),
            due=bench.now + data.draw(times),
        ),
        lambda: bench.seen(
            chain.DisputeResolved, dispute=dispute, segment=segment, outcome=data.draw(st.sampled_from(chain.Outcome)), taken=3,
            pay_after=bench.now + data.draw(times),
        ),
        lambda: bench.seen(chain.DisputePaid, dispute=dispute, outcome=chain.Outcome.VOID, to_asserter=0, to_challenger=5, burnt=0),
        lambda: bench.seen(chain.DisputeCredited, who=data.draw(people), dispute=dispute, amount=5),
        lambda: bench.seen(chain.DisputeWithdrawn, who=data.draw(people), amount=5),
        lambda: bench.feed(Heard(peer=PEERS[SCHEDULER], message=announcement(data))),
        lambda: bench.feed(Ordered(order=data.draw(st.sampled_from(["drain", "resume", "withdraw", "dance"])))),
        lambda: bench.feed(Started()),
    ]
    data.draw(st.sampled_from(outside))()


def announcement(data: st.DataObject) -> JobAnnouncement:
    whole = st.one_of(st.integers(0, 20), st.integers(0, 2**63 - 1))
    return JobAnnouncement(
        job=JobId(data.draw(st.integers(0, 3))), spec=TERMS.spec,
        parent=SegmentId(data.draw(st.integers(0, 3))),
        start=data.draw(st.one_of(st.sampled_from([0, 10]), whole)), stop=data.draw(st.one_of(st.sampled_from([10, 20]), whole)),
        price_cap=data.draw(st.one_of(st.integers(0, 2000), st.just(2**63 - 1))),
        scheduler=PEERS[data.draw(st.sampled_from([SCHEDULER, OTHER, KEYS]))],
        respond_by=data.draw(st.one_of(st.integers(1000, 3000), st.just(2**63 - 1))),
    )  # fmt: skip


@pytest.mark.parametrize("machine", [worker, verifier])
@settings(max_examples=120, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_nothing_that_can_happen_brings_a_machine_down(machine: Any, data: st.DataObject) -> None:
    bench = Bench.of(machine())
    bench.posted()
    for _ in range(data.draw(st.integers(20, 80))):
        happen(bench, data)
    bench.check_restart()
    check_snapshot(bench)
    bench.core.machine.summary()  # type: ignore[attr-defined]


def check_snapshot(bench: Bench) -> None:
    """A state that was written out whole is read as it was."""
    again = msgspec.json.decode(msgspec.json.encode(bench.state), type=type(bench.state))
    now, before = (msgspec.to_builtins(state, order="deterministic") for state in (again, bench.state))
    assert now == before


def test_a_message_of_the_wrong_kind_is_refused() -> None:
    for machine in (worker, verifier):
        bench = Bench.of(machine())
        effects = bench.feed(Asked(ask=1, peer=PEERS[OTHER], message=BoundaryRequest(segment=SegmentId(1), round=0, unit=0)))
        assert isinstance(effects[0].message, Refusal)  # type: ignore[union-attr]
