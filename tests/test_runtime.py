"""The core that keeps a machine over crashes, and the asyncio daemon around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from assay import daemon
from assay.adapters.memory_journal import MemoryJournal
from assay.chain import Activated, Block, Draw
from assay.codec import Message, decode, encode
from assay.daemon import Node, Ports
from assay.ids import Digest, PeerId, SegmentId
from assay.messages import Ack, AnyReply, Heartbeat, KeyRequest, Refusal
from assay.ports import Missing, Outage, Reverted
from assay.runtime import (
    Answered,
    AnyEffect,
    AnyEvent,
    Ask,
    Asked,
    Cancel,
    ChainSeen,
    Core,
    Do,
    Done,
    Failed,
    Fault,
    Note,
    Ordered,
    Reply,
    Result,
    Send,
    Sent,
    Started,
    TaskFailed,
    Wake,
    Woke,
)
from assay.tasks import AnyOutcome, AnyTask, Dropped, DropSegment

BEAT = Heartbeat(segment=SegmentId(1), step=1, loss_f32=0)
KEY = KeyRequest(segment=SegmentId(1), key_id=Digest(b"k" * 32))


class Log(msgspec.Struct):
    seen: list[str] = msgspec.field(default_factory=list)


class Echo:
    """Writes down what it sees; an order names the effect that it wants."""

    SOFT: tuple[type[Message], ...] = (Heartbeat,)

    def __init__(self, orders: dict[str, AnyEffect]) -> None:
        self.state = Log()
        self.orders = orders

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        self.state.seen.append(f"{now}:{seed[:1].hex()}:{encode(event).decode()}")
        if isinstance(event, Ordered):
            return [self.orders[event.order]]
        if isinstance(event, Asked):
            return [Reply(ask=event.ask, message=Ack())]
        return []


ORDERS: dict[str, AnyEffect] = {
    "draw": Send(key="draw", call=Draw(segment=SegmentId(1))),
    "undraw": Cancel(key="draw"),
    "work": Do(key="work", task=DropSegment(segment=SegmentId(1))),
    "ask": Ask(key="ask", peer=PeerId("p"), message=KEY, patience=0),
    "wake": Wake(key="wake", at=50),
    "note": Note(topic="hello", text="hello"),
}


def core(journal: MemoryJournal | None = None) -> Core:
    return Core(Echo(ORDERS), journal or MemoryJournal())


def test_an_event_is_in_the_journal_before_the_machine_sees_it() -> None:
    class Dead(Echo):
        def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
            raise KeyboardInterrupt

    journal = MemoryJournal()
    with pytest.raises(KeyboardInterrupt):
        Core(Dead({}), journal).step(Started(), 1, b"s")
    (row,) = journal.load()[2]
    assert decode(row.event, AnyEvent) == Started()


def test_after_a_crash_the_state_is_the_same_and_what_has_no_result_is_wanted_again() -> None:
    first = core()
    for order in ("draw", "work", "note"):
        first.step(Ordered(order=order), 7, b"\x01")
    first.step(Sent(key="draw", block=3), 8, b"\x02")
    again = core(first.journal)  # type: ignore[arg-type]
    assert again.restore() == [ORDERS["work"]]
    assert again.machine.state == first.machine.state


@pytest.mark.parametrize("at", range(5))
def test_a_snapshot_anywhere_changes_nothing(at: int) -> None:
    events: list[AnyEvent] = [Ordered(order="draw"), Ordered(order="wake"), Sent(key="draw", block=1), Ordered(order="work"), Woke(key="wake")]
    first = core()
    for i, event in enumerate(events):
        first.step(event, i, bytes([i]))
        if i == at:
            first.snapshot(i + 1)
    again = core(first.journal)  # type: ignore[arg-type]
    again.restore()
    assert again.machine.state == first.machine.state
    assert again.outstanding == first.outstanding


def test_results_that_nobody_waits_for_and_chain_events_seen_before_do_nothing() -> None:
    one = core()
    one.step(Sent(key="draw", block=1), 1, b"")
    seen = ChainSeen(event=Activated(block=5, time=1, index=2, segment=SegmentId(1), lease_until=9))
    one.step(seen, 1, b"")
    one.step(seen, 1, b"")
    assert len(one.machine.state.seen) == 1
    assert one.cursor == (5, 2)


def test_one_key_is_one_effect_until_its_result_and_cancel_ends_it() -> None:
    one = core()
    assert one.step(Ordered(order="draw"), 1, b"") == [ORDERS["draw"]]
    assert one.step(Ordered(order="draw"), 1, b"") == []
    assert one.step(Ordered(order="undraw"), 1, b"") == [ORDERS["undraw"]]
    assert one.outstanding == {}
    assert one.step(Ordered(order="draw"), 1, b"") == [ORDERS["draw"]]


def test_soft_requests_are_answered_but_not_journaled() -> None:
    one = core()
    assert one.step(Asked(ask=1, peer=PeerId("p"), message=BEAT), 1, b"") == [Reply(ask=1, message=Ack())]
    assert one.journal.load()[2] == []
    one.step(Asked(ask=2, peer=PeerId("p"), message=KEY), 1, b"")
    assert len(one.journal.load()[2]) == 1


# ---- the daemon ----------------------------------------------------------------------------------------------------------


class World:
    """Chain, peers and hands of one node, scripted: each attempt takes the next answer."""

    account, contract, chain_id, peer = "0x" + "1" * 40, "0x" + "2" * 40, 1, PeerId("me")

    def __init__(self, **script: list[object]) -> None:
        self.script = script
        self.block = Block(number=1, hash=Digest(b"1" * 32), time=10)
        self.calls: list[str] = []
        self.notes: list[Note] = []
        self.started = asyncio.Event()

    def _next(self, name: str) -> object:
        self.calls.append(name)
        answer = self.script[name].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def head(self) -> Block:
        return self.block

    async def events(self, after: tuple[int, int], depth: int) -> list[object]:
        return []

    async def send(self, call_id: str, call: object) -> object:
        return self._next("send")

    async def request(self, peer: PeerId, message: object, timeout: float) -> object:
        return self._next("request")

    async def perform(self, task: AnyTask, note: Callable[[Note], None]) -> AnyOutcome:
        return self._next("perform")  # type: ignore[return-value]

    async def start(self, on_request: Callable[..., object], on_gossip: Callable[..., object]) -> None:
        self.on_request = on_request
        self.started.set()

    async def stop(self) -> None: ...

    def records(self) -> list[object]:
        return []


async def run(world: World, order: str, until: type[Result]) -> Result:
    """The first result of the kind that the machine sees after `order`."""
    found: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    class Watch(Echo):
        def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
            if isinstance(event, until) and not found.done():
                found.set_result(event)
            return super().handle(event, now, seed)

    ports = Ports(
        chain=world, blobs=world, peers=world, keys=world, journal=MemoryJournal(), engine=None, folder=None, poll=0.01  # type: ignore[arg-type]
    )
    node = Node(ports, Watch(ORDERS), world, world.notes.append)
    running = asyncio.create_task(node.run())
    node.order(order)
    try:
        done, _ = await asyncio.wait({found, running}, timeout=240, return_when=asyncio.FIRST_COMPLETED)
        assert found in done, "no result came"
        return found.result()
    finally:
        node.stop()
        await running


def test_an_outage_is_waited_out_and_a_revert_is_final() -> None:
    world = World(send=[Outage("down"), Outage("down"), 17])
    assert asyncio.run(run(world, "draw", Sent)) == Sent(key="draw", block=17)
    assert world.calls == ["send"] * 3
    failed = asyncio.run(run(World(send=[Reverted("too late")]), "draw", Failed))
    assert failed == Failed(key="draw", fault=Fault.REFUSED, error="too late")


def test_a_task_that_needs_a_blob_which_nobody_has_says_so_and_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that comes back in time is enough; what lasts becomes an outage, which its machine hears of."""
    world = World(perform=[Missing("blob b is gone"), Missing("blob b is gone"), Dropped()])
    assert asyncio.run(run(world, "work", Done)) == Done(key="work", outcome=Dropped())
    assert [note.text for note in world.notes if note.topic == "missing"] == ["blob b is gone; it is looked for again"]
    monkeypatch.setattr(daemon, "MISSING_FOR", 0.0)
    failed = asyncio.run(run(World(perform=[Missing("blob b is gone")]), "work", Failed))
    assert failed == Failed(key="work", fault=Fault.OUTAGE, error="blob b is gone")


def test_a_task_s_failure_names_whose_fault_it_was_and_a_bug_does_not_kill_the_daemon() -> None:
    assert asyncio.run(run(World(perform=[Dropped()]), "work", Done)) == Done(key="work", outcome=Dropped())
    peer = asyncio.run(run(World(perform=[TaskFailed(Fault.PEER, "bad state")]), "work", Failed))
    assert peer == Failed(key="work", fault=Fault.PEER, error="bad state")
    own = asyncio.run(run(World(perform=[ZeroDivisionError("oops")]), "work", Failed))
    assert own == Failed(key="work", fault=Fault.OWN, error="ZeroDivisionError: oops")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([Ack()], Answered(key="ask", message=Ack())),
        ([Refusal(reason="no")], Failed(key="ask", fault=Fault.REFUSED, error="no")),
        ([Refusal(reason="later", retry_after=1)], Failed(key="ask", fault=Fault.OUTAGE, error="later")),
    ],
)
def test_questions_end_in_an_answer_a_no_or_the_end_of_patience(answers: list[object], expected: Result) -> None:
    assert asyncio.run(run(World(request=answers), "ask", type(expected))) == expected


def test_a_wake_waits_for_the_chain_s_time() -> None:
    world = World()

    async def go() -> Result:
        result = asyncio.create_task(run(world, "wake", Woke))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not result.done()
        world.block = Block(number=2, hash=Digest(b"2" * 32), time=50)
        return await result

    assert asyncio.run(go()) == Woke(key="wake")


def test_a_peer_s_request_is_answered_by_the_machine() -> None:
    world = World(perform=[Dropped()])

    async def go() -> AnyReply:
        running = asyncio.create_task(run(world, "wake", Woke))
        await world.started.wait()
        answer = await world.on_request(PeerId("p"), KEY)  # type: ignore[misc]
        world.block = Block(number=2, hash=Digest(b"2" * 32), time=50)
        await running
        return answer  # type: ignore[no-any-return]

    assert asyncio.run(go()) == Ack()
