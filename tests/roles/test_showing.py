"""What a worker shows to who checks a step, event by event: visitors and their signatures, one question at a time, and what ends it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from worker_world import bench, boundary, committed

from assay.chain import Settled
from assay.dispute.questions import Kind, Question
from assay.dispute.served import Nodes, Wanted
from assay.ids import SegmentId
from assay.messages import Ack, Refusal, StepRequest, TreeRequest, Visit
from assay.runtime import Asked, Cancel, Done, Failed, Fault, Reply, Started
from assay.tasks import NodesShown, ServeUnits, ShowNodes, UnitsServed, VerifyVisit, VisitVerified
from assay_worker.showing import MOST_VISITORS
from bench import CLIENT, OTHER, PEERS, Bench, digest

__all__ = ["bench"]

STEP = StepRequest(segment=SegmentId(1), step=4)
TREE = TreeRequest(segment=SegmentId(1), question=Question(kind=Kind.ENDS, wanted=Wanted(height=5, index=0)))
NODES = Nodes(nodes=(digest("node"),))
VISIT = Visit(account=CLIENT, signature=b"s" * 65)


def replies(effects: list[Any]) -> list[Any]:
    return [(effect.ask, effect.message) for effect in effects if isinstance(effect, Reply)]


def ask(bench: Bench, number: int, message: Any, who: Any = OTHER) -> list[Any]:
    """What is answered at once."""
    return replies(bench.feed(Asked(ask=number, peer=PEERS[who], message=message)))


def task(bench: Bench, kind: str) -> Any:
    ((key, effect),) = [(key, effect) for key, effect in bench.core.outstanding.items() if key.startswith(f"{kind}:")]
    return key, effect.task  # type: ignore[attr-defined]


@pytest.fixture
def open_to(bench: Bench) -> Bench:
    """A committed segment; OTHER's peer asks for the client."""
    committed(bench)
    assert ask(bench, 1, VISIT) == []
    key, found = task(bench, "visit")
    assert found == VerifyVisit(peer=PEERS[OTHER], account=CLIENT, signature=VISIT.signature)
    done = bench.feed(Done(key=key, outcome=VisitVerified(peer=PEERS[OTHER], account=CLIENT, valid=True)))
    assert replies(done) == [(1, Ack())]
    return bench


def refused(found: list[Any], why: str) -> bool:
    ((_, message),) = found
    return isinstance(message, Refusal) and why in message.reason


def test_a_visitor_is_known_by_its_accounts_signature_alone(bench: Bench) -> None:
    committed(bench)
    assert refused(ask(bench, 1, STEP), "asks neither for")
    assert refused(ask(bench, 2, msgspec.structs.replace(VISIT, signature=b"s" * 257)), "not known")
    assert ask(bench, 3, VISIT) == []
    assert refused(ask(bench, 4, VISIT, CLIENT), "another visitor")
    key, _ = task(bench, "visit")
    wrong = bench.feed(Done(key=key, outcome=VisitVerified(peer=PEERS[OTHER], account=CLIENT, valid=False)))
    assert refused(replies(wrong), "has not signed")
    assert refused(ask(bench, 5, STEP), "asks neither for")
    assert ask(bench, 6, VISIT) == []
    key, _ = task(bench, "visit")
    failed = bench.feed(Failed(key=key, fault=Fault.OWN, error="gone"))
    assert refused(replies(failed), "has not signed")
    assert not bench.core.machine.state.visitors


def test_no_more_visitors_are_remembered_than_that(open_to: Bench) -> None:
    machine: Any = open_to.core.machine
    machine.state.visitors |= {f"peer {i}": CLIENT for i in range(MOST_VISITORS - 1)}
    assert ask(open_to, 2, VISIT, CLIENT) == []
    key, _ = task(open_to, "visit")
    open_to.feed(Done(key=key, outcome=VisitVerified(peer=PEERS[CLIENT], account=CLIENT, valid=True)))
    assert len(machine.state.visitors) == MOST_VISITORS
    assert PEERS[OTHER] not in machine.state.visitors
    machine.state.visitors = {PEERS[CLIENT]: CLIENT, PEERS[OTHER]: CLIENT}


def test_a_state_is_laid_out_once_and_one_question_is_answered_at_a_time(open_to: Bench) -> None:
    assert ask(open_to, 2, STEP) == []
    key, found = task(open_to, "lay")
    unit = 4 * 3
    assert isinstance(found, ServeUnits)
    assert (found.units, [who for who, _ in found.recipients]) == ((unit,), [CLIENT])
    assert refused(ask(open_to, 3, TREE), "one question at a time")
    assert ask(open_to, 4, STEP) == []
    done = open_to.feed(Done(key=key, outcome=UnitsServed(boundaries=((CLIENT, boundary(unit)),))))
    assert replies(done) == [(2, boundary(unit)), (4, boundary(unit))]
    assert ask(open_to, 5, STEP) == [(5, boundary(unit))]
    assert ask(open_to, 6, TREE) == []
    key, asked = task(open_to, "show")
    assert isinstance(asked, ShowNodes)
    assert asked.question == TREE.question
    assert replies(open_to.feed(Done(key=key, outcome=NodesShown(segment=SegmentId(1), nodes=NODES)))) == [(6, NODES)]


def test_what_cannot_be_made_is_refused_and_may_be_asked_for_again(open_to: Bench) -> None:
    for number, message in ((2, STEP), (3, TREE)):
        ask(open_to, number, message)
        key, _ = task(open_to, "lay" if message is STEP else "show")
        assert refused(replies(open_to.feed(Failed(key=key, fault=Fault.OWN, error="disk"))), "could not be made")
    ask(open_to, 4, TREE)
    key, _ = task(open_to, "show")
    assert refused(replies(open_to.feed(Done(key=key, outcome=NodesShown(segment=SegmentId(1), nodes=None)))), "no such node")


def test_what_is_not_the_segments_is_refused(open_to: Bench) -> None:
    assert refused(ask(open_to, 2, msgspec.structs.replace(STEP, step=10)), "has the steps 0 to 9")
    assert refused(ask(open_to, 3, msgspec.structs.replace(STEP, segment=SegmentId(7))), "not committed by this node")
    far = msgspec.structs.replace(TREE, question=msgspec.structs.replace(TREE.question, unit=30))
    assert refused(ask(open_to, 4, far), "has the steps")


def inside(unit: int) -> TreeRequest:
    """A question about one link."""
    return TreeRequest(segment=SegmentId(1), question=Question(kind=Kind.TRACE, unit=unit, wanted=Wanted(height=5, index=0)))


@pytest.mark.parametrize(("most", "message"), [("MOST_SHOWN", TREE), ("MOST_SHOWN", STEP), ("MOST_STEPS", STEP), ("MOST_LINKS", inside(0))])
def test_no_more_is_shown_than_a_check_needs(monkeypatch: pytest.MonkeyPatch, open_to: Bench, most: str, message: Any) -> None:
    monkeypatch.setattr(f"assay_worker.showing.{most}", 0)
    assert refused(ask(open_to, 5, message), "enough of this segment")


def test_links_are_looked_into_one_after_another(open_to: Bench) -> None:
    for number, unit in enumerate((3, 3, 4)):
        assert ask(open_to, number + 2, inside(unit)) == []
        key, _ = task(open_to, "show")
        open_to.feed(Done(key=key, outcome=NodesShown(segment=SegmentId(1), nodes=NODES)))
    assert refused(ask(open_to, 9, inside(3)), "enough of this segment"), "each return would cost a replay"


def test_when_the_segment_is_over_what_is_being_made_is_given_up(open_to: Bench) -> None:
    ask(open_to, 2, TREE)
    key, _ = task(open_to, "show")
    effects = open_to.seen(Settled, segment=SegmentId(1), provider=open_to.core.machine.config.account, price=100)
    assert Cancel(key=key) in effects
    assert refused(replies(effects), "it is over")
    assert refused(ask(open_to, 3, STEP), "it is over")


def test_who_asked_before_a_restart_hears_nothing_and_the_work_goes_on(open_to: Bench) -> None:
    ask(open_to, 2, TREE)
    open_to.feed(Started())
    key, _ = task(open_to, "show")
    assert ask(open_to, 3, TREE) == []
    assert replies(open_to.feed(Done(key=key, outcome=NodesShown(segment=SegmentId(1), nodes=NODES)))) == [(3, NODES)]
