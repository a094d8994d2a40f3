"""What the sides of a dispute serve each other, event by event: a challenger's questions, an asserter's answers, and what neither waits for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from test_chaos import SHOWN, verifier

from assay import chain
from assay.chain import PlayMove
from assay.dispute import moves
from assay.dispute.served import ASKS, Given, Nodes, Wanted
from assay.ids import DisputeId, SegmentId
from assay.messages import Ack, NodesRequest, Refusal
from assay.role.nodes import MOST_GIVEN
from assay.runtime import Answered, Asked, Done, Fault, Reply, Started
from assay.tasks import MakeMove, MoveMade, NodesServed, ServeNodes
from bench import ME, OTHER, PEERS, VERIFIERS, Bench, digest

DISPUTE, FIRST, LEAF = DisputeId(1), Wanted(height=5, index=2), Wanted(height=0, index=70)
NODES = Nodes(nodes=(digest("node"),))
POINT = moves.Point(index=2, node=digest("node"), path=())
BETTER = moves.Point(index=70, node=digest("leaf"), path=())


def playing(challenger: Any, asserter: Any) -> Bench:
    """A dispute over a verifier's trace, in which it is the challenger's turn to point."""
    bench = Bench.of(verifier())
    bench.posted()
    bench.assigned(provider=VERIFIERS[2])
    bench.committed()
    bench.drawn(verifiers=(ME, OTHER))
    bench.load_job()
    bench.seen(chain.DisputeSealed, dispute=DISPUTE, segment=SegmentId(1), challenger=challenger, bond=5, open_by=bench.now + 50, allowance=0)
    bench.seen(chain.DisputeOpened, dispute=DISPUTE, segment=SegmentId(1), asserter=asserter, target=1, unit=4, round=0)
    moved(bench, "traced", True)
    moved(bench, "trace", False)
    return bench


def moved(bench: Bench, phase: str, asserting: bool) -> None:
    bench.seen(chain.DisputeMoved, dispute=DISPUTE, phase=moves.Phase(phase), asserting=asserting, due=bench.now + 300)


def made(move: Any = POINT, wanted: Wanted | None = FIRST, junk: bool = False) -> MoveMade:
    return MoveMade(dispute=DISPUTE, move=move, shown=SHOWN, why="", wanted=wanted, patience=6, junk=junk)


def sent(bench: Bench) -> Any:
    call = bench.call("play:1:2:")
    assert isinstance(call, PlayMove)
    return call.move


# ---- the challenger ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def asking() -> Bench:
    bench = playing(ME, OTHER)
    task = bench.task("move:1:2:")
    assert isinstance(task, MakeMove)
    assert task.served == ()
    bench.done("move:1:2:", made())
    ask = bench.wants("nodes:1:2:")
    assert (ask.peer, ask.message, ask.patience) == (PEERS[OTHER], NodesRequest(dispute=DISPUTE, turn=2, wanted=FIRST), 6)
    assert bench.idle("play:")
    return bench


def test_a_move_is_made_anew_with_each_answer(asking: Bench) -> None:
    asking.answered("nodes:", NODES)
    assert asking.task("move:1:2:").served == (Given(wanted=FIRST, nodes=NODES),)
    asking.done("move:1:2:", made(wanted=LEAF))
    asking.answered("nodes:", Nodes(nodes=(), content=b"leaf"))
    assert [given.wanted for given in asking.task("move:1:2:").served] == [FIRST, LEAF]
    asking.done("move:1:2:", made(BETTER, None))
    assert sent(asking) == BETTER
    moved(asking, "stage", True)
    moved(asking, "chunks", False)
    assert asking.task("move:1:4:").served == ()  # another walk
    asking.check_restart()


@pytest.mark.parametrize("fault", [Fault.OUTAGE, Fault.REFUSED])
def test_without_an_answer_the_move_that_was_ready_goes_out_at_once(asking: Bench, fault: Fault) -> None:
    asking.failed("nodes:", fault)
    assert sent(asking) == POINT
    moved(asking, "stage", True)
    moved(asking, "chunks", False)
    assert asking.task("move:1:4:").served == ()  # it is asked again: it may have been down
    asking.check_restart()


def test_a_message_of_another_kind_is_no_answer(asking: Bench) -> None:
    asking.answered("nodes:", Ack())
    assert sent(asking) == POINT


def test_who_serves_junk_is_asked_no_more(asking: Bench) -> None:
    asking.answered("nodes:", NODES)
    asking.done("move:1:2:", made(wanted=None, junk=True))
    assert sent(asking) == POINT
    moved(asking, "stage", True)
    moved(asking, "chunks", False)
    assert asking.task("move:1:4:").served is None
    asking.check_restart()


def test_answers_that_come_just_in_time_each_time_do_not_hold_it_up(asking: Bench) -> None:
    asked = 1
    while not asking.idle("nodes:"):
        asking.now += 6
        asking.answered("nodes:", NODES)
        asking.done("move:1:2:", made())
        asked += 1
    assert sent(asking) == POINT
    assert asked == ASKS + 2  # the last is asked as the time is just over


def test_a_result_of_an_earlier_question_changes_nothing(asking: Bench) -> None:
    """The other side has moved, or its time is over, while the answer was on its way."""
    old = asking.wants("nodes:")
    moved(asking, "stage", True)
    asking.feed(Answered(key=old.key, message=NODES))
    assert asking.idle("move:1:2:")
    assert asking.idle("play:")


def test_a_question_outlives_a_restart(asking: Bench) -> None:
    asking.feed(Started())
    asking.check_restart()
    asking.answered("nodes:", NODES)
    assert asking.task("move:1:2:").served == (Given(wanted=FIRST, nodes=NODES),)


def test_an_asserter_that_has_registered_no_peer_is_not_asked() -> None:
    bench = playing(ME, chain.Address("0x" + "7" * 40))
    assert bench.task("move:1:2:").served is None
    bench.done("move:1:2:", made(wanted=None))
    assert sent(bench) == POINT


# ---- the asserter ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def serving() -> Bench:
    bench = playing(OTHER, ME)
    assert bench.idle("move:1:2:")
    return bench


def ask(bench: Bench, number: int, wanted: Wanted = FIRST, who: Any = OTHER, turn: int = 2) -> list[Any]:
    effects = bench.feed(Asked(ask=number, peer=PEERS[who], message=NodesRequest(dispute=DISPUTE, turn=turn, wanted=wanted)))
    return [effect.message for effect in effects if isinstance(effect, Reply)]


def replies(effects: list[Any]) -> dict[int, Any]:
    return {effect.ask: effect.message for effect in effects if isinstance(effect, Reply)}


def served(nodes: Nodes | None = NODES) -> NodesServed:
    return NodesServed(dispute=DISPUTE, nodes=nodes)


def test_all_who_wait_for_the_same_are_answered_once_it_is_made(serving: Bench) -> None:
    assert ask(serving, 1) == []
    task = serving.task("give:1:2:1")
    assert isinstance(task, ServeNodes)
    assert (task.wanted, task.place.dispute, task.place.side) == (FIRST, DISPUTE, moves.Side.ASSERTER)
    assert ask(serving, 2) == []  # the first reply was lost
    (other,) = ask(serving, 3, LEAF)
    assert other == Refusal(reason="one question at a time", retry_after=1)
    assert replies(serving.done("give:", served())) == {1: NODES, 2: NODES}
    assert ask(serving, 4, LEAF) == []
    assert replies(serving.done("give:", served())) == {4: NODES}
    serving.check_restart()


def test_nobody_else_is_served_and_nothing_else(serving: Bench) -> None:
    for who, turn, wanted, reason in (
        (VERIFIERS[0], 2, FIRST, "not that of the challenger"), (ME, 2, FIRST, "not that of the challenger"),
        (OTHER, 1, FIRST, "not the challenger's turn"), (OTHER, 3, FIRST, "not so far"),
    ):  # fmt: skip
        (refusal,) = ask(serving, 1, wanted, who, turn)
        assert reason in refusal.reason
    ask(serving, 1)
    serving.done("give:", served())
    (aside,) = ask(serving, 2, Wanted(height=0, index=0))
    assert "one way down" in aside.reason
    moved(serving, "stage", True)
    (refusal,) = ask(serving, 3, turn=3)
    assert "not the challenger's turn" in refusal.reason
    serving.seen(
        chain.DisputeResolved, dispute=DISPUTE, segment=SegmentId(1), outcome=chain.Outcome.ASSERTER_WON, taken=0, pay_after=serving.now + 5
    )
    (refusal,) = ask(serving, 4)
    assert "defends nothing" in refusal.reason


def test_in_a_turn_it_goes_to_its_files_so_many_times(serving: Bench) -> None:
    for number in range(MOST_GIVEN):
        assert ask(serving, number) == []
        serving.done("give:", served())
    (refusal,) = ask(serving, 99)
    assert isinstance(refusal, Refusal)
    assert serving.idle("give:")
    moved(serving, "stage", True)
    moved(serving, "chunks", False)
    assert ask(serving, 100, Wanted(height=3, index=7), turn=4) == []  # another turn, another way down


def test_what_cannot_be_made_is_said(serving: Bench) -> None:
    ask(serving, 1)
    assert isinstance(replies(serving.failed("give:", Fault.OWN))[1], Refusal)
    ask(serving, 2)
    refusal = replies(serving.done("give:", served(None)))[2]
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after == 0
    assert ask(serving, 3, Wanted(height=0, index=0)) == []  # nothing was given, so any way is free yet


def test_who_asked_before_a_restart_hears_nothing_after_it(serving: Bench) -> None:
    """Numbers of requests begin anew then: an answer would go to somebody else."""
    ask(serving, 1)
    serving.feed(Started())
    assert replies(serving.done("give:", served())) == {}
    assert ask(serving, 1, LEAF) == []
    assert replies(serving.done("give:", served())) == {1: NODES}
    serving.check_restart()


def test_a_turn_that_is_over_leaves_nobody_an_answer_to_another_question(serving: Bench) -> None:
    ask(serving, 1)
    old = serving.wants("give:")
    moved(serving, "stage", True)
    moved(serving, "chunks", False)
    ask(serving, 2, Wanted(height=3, index=0), turn=4)
    assert replies(serving.feed(Done(key=old.key, outcome=served()))) == {}
    new = msgspec.structs.replace(NODES, nodes=(digest("other"),))
    assert replies(serving.done("give:1:4:", served(new))) == {2: new}
