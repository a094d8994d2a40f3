"""All roles in one process on ports in memory: honest and dishonest workers and verifiers, crashes, restarts, stops; who is paid and why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny import LONG, PARAMS, Net, plan, post, replace

from assay import daemon
from assay.adapters.engine_process import InlineEngine
from assay.chain import (
    Assigned,
    Attested,
    BondCleared,
    ChunkShown,
    Committed,
    JobClosed,
    Lapsed,
    NoShow,
    Redrawn,
    Revealed,
    Sealed,
    SegmentState,
    Served,
    Settled,
    Unpaid,
    Withheld,
)
from assay.client import run_plan
from assay.daemon import Node
from assay.engine import LinkReplayed
from assay.execute import Executor
from assay.keyservice.daemon import key_service
from assay.ports import Outage
from assay.receipts import Ledger
from assay.runtime import Core
from assay.state import Tensors
from assay.tasks import MakeChunk, ReplayUnit, ServeUnits, SignReceipt, Task
from assay.work import Engine
from assay_scheduler.daemon import scheduler
from assay_verifier.daemon import verifier
from assay_worker.daemon import worker


async def start(net: Net, workers: int = 2, verifiers: int = 4) -> None:
    await net.up("scheduler", scheduler, role="scheduler", offer_window=10)
    await net.up("keys", key_service, role="keyservice")
    for i in range(workers):
        await net.up(f"worker{i}", worker, deposit=100_000, price_per_step=10 + i)
    for i in range(verifiers):
        await net.up(f"verifier{i}", verifier, role="verifier", deposit=100_000, seat=True)


def ended(net: Net, job: int) -> bool:
    return any(isinstance(event, JobClosed) and event.job == job for event in net.ledger.events())


def events(net: Net, kind: type[Any]) -> list[Any]:
    return [event for event in net.ledger.events() if isinstance(event, kind)]


def settled(net: Net) -> list[Any]:
    ledger = Ledger()
    ledger.feed(net.ledger.events())
    return [s for s in ledger.segments.values() if s.state == SegmentState.SETTLED]


def check_journals(net: Net) -> None:
    """Every machine, started again from its journal, is where it was and wants what it wanted."""
    for name, node in net.nodes.items():
        fresh = type(node.core.machine)(node.core.machine.config)  # type: ignore[call-arg,attr-defined]
        core = Core(fresh, node.core.journal)
        core.restore()
        now, before = (msgspec.to_builtins(s, order="deterministic") for s in (fresh.state, node.core.machine.state))  # sets have no order
        assert now == before, name
        assert core.outstanding == node.core.outstanding, name


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes in one process answer at once or never."""
    monkeypatch.setattr(daemon, "ANSWER_WITHIN", 2.0)


def together(tmp_path: Path, play: Callable[[Net], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Runs a scene; what was said is printed when it fails."""

    async def run() -> None:
        net = Net(tmp_path, **options)
        async with net.mining():
            try:
                await play(net)
                check_journals(net)
            except BaseException:
                print(net.log())
                raise
        assert sum(net.ledger.balances().values()) == 1_000_000 * len(net.ports)

    asyncio.run(run())


# ---- honest --------------------------------------------------------------------------------------------------------------


def test_a_job_is_trained_checked_and_paid(tmp_path: Path) -> None:
    async def play(net: Net) -> None:
        what = plan(6)
        await start(net)
        job = await post(net, what, 2)
        await net.until(lambda: ended(net, job))
        done = settled(net)
        assert [(s.start, s.stop) for s in done] == [(0, 2), (2, 4), (4, 6)]
        assert done[-1].end_root == run_plan(what).root
        assert all(sum(p.amount for p in s.payments if p.who == s.provider) == s.price for s in done)
        await net.until(lambda: not list((tmp_path).glob("*/work/segment-*")))  # nothing decrypted is left

    together(tmp_path, play)


def test_a_fine_tune_carries_what_changes_and_its_frozen_tensors_stay_where_they_were_fetched(tmp_path: Path) -> None:
    async def play(net: Net) -> None:
        what = plan(6, frozen=True)
        await start(net)
        job = await post(net, what, 2)
        await net.until(lambda: ended(net, job))
        done = settled(net)
        assert [(s.start, s.stop) for s in done] == [(0, 2), (2, 4), (4, 6)]
        assert done[-1].end_root == run_plan(what).root
        assert not net.said("disagree")
        left: Callable[[], list[Path]] = lambda: [p for p in tmp_path.glob("*/work/*-*") if "published" not in p.name]  # noqa: E731
        await net.until(lambda: not left())  # the frozen tensors are decrypted no longer, either

    together(tmp_path, play)


def test_a_drained_worker_commits_what_it_has_and_another_goes_on(tmp_path: Path) -> None:
    what = plan(12)

    async def play(net: Net) -> None:
        await net.up("scheduler", scheduler, role="scheduler", offer_window=10)
        await net.up("keys", key_service, role="keyservice")
        first = await net.up("first", worker, deposit=100_000, price_per_step=10)
        for i in range(3):
            await net.up(f"verifier{i}", verifier, role="verifier", deposit=100_000, seat=True)

        def drain_at_step_3(name: str, note: Any) -> None:
            if note.topic == "step" and note.data["step"] == 3:
                first.order("drain")

        net.watch = drain_at_step_3
        job = await post(net, what, 12)
        await net.until(lambda: bool(net.said("drained", "first")))
        await net.up("second", worker, deposit=100_000, price_per_step=20)
        await net.until(lambda: ended(net, job))
        done = settled(net)
        assert len(done) == 2
        assert 4 <= done[0].stop < 12
        assert [s.provider for s in done] == [net.ports["first"].chain.account, net.ports["second"].chain.account]
        assert done[-1].end_root == run_plan(what).root

    together(tmp_path, play)


# ---- crashes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["assigned", "ready", "running", "step", "run", "committed", "drawn", "serving", "served", "attested"])
def test_a_worker_killed_at_any_stage_goes_on_where_it_was(tmp_path: Path, topic: str) -> None:
    what = plan(4)

    async def play(net: Net) -> None:
        await start(net, workers=1, verifiers=3)
        killed: list[str] = []

        def kill(name: str, note: Any) -> None:
            if name == "worker0" and note.topic == topic and not killed:
                killed.append(name)
                net.kill(name)

        net.watch = kill
        job = await post(net, what, 2)
        await net.until(lambda: bool(killed))
        await net.up("worker0", worker, deposit=100_000, price_per_step=10)
        await net.until(lambda: ended(net, job))
        assert len(events(net, Assigned)) == 2
        assert settled(net)[-1].end_root == run_plan(what).root

    together(tmp_path, play)


@pytest.mark.parametrize("topic", ["drawn", "receipt", "replayed", "sealed", "opened"])
def test_a_verifier_killed_at_any_stage_goes_on_where_it_was(tmp_path: Path, topic: str) -> None:
    async def play(net: Net) -> None:
        await start(net, workers=1, verifiers=3)
        killed: list[str] = []

        def kill(name: str, note: Any) -> None:
            if name == "verifier1" and note.topic == topic and not killed:
                killed.append(name)
                net.kill(name)

        net.watch = kill
        job = await post(net, plan(2), 2)
        await net.until(lambda: bool(killed))
        await net.up("verifier1", verifier, role="verifier", deposit=100_000, seat=True)
        await net.until(lambda: ended(net, job))
        assert len(net.said("opened", "verifier1")) == 1

    together(tmp_path, play)


# ---- liars ---------------------------------------------------------------------------------------------------------------


def with_hands(make: Callable[..., Node], change: Callable[[Any], None]) -> Callable[..., Node]:
    """The honest daemon with one part of its hands replaced."""

    def made(*args: Any, **more: Any) -> Node:
        node = make(*args, **more)
        change(node.hands)
        return node

    return made


class LazyExecutor(Executor):
    """Adds up no gradients and hands the state on as it is: a chain of links that hangs together, and was never computed."""

    def micro(self, step: int, m: int, state: Tensors, acc: Tensors, batch: Tensors, *, spend: bool = False) -> Tensors:
        return acc

    def update(self, step: int, state: Tensors, acc: Tensors, *, spend: bool = False) -> Tensors:
        return state


class LazyEngine(Engine):
    executor = LazyExecutor


def computes_nothing(hands: Any) -> None:
    hands.shop.engine = InlineEngine(make=LazyEngine)


def test_a_worker_that_commits_what_it_did_not_compute_is_not_paid_and_the_job_goes_on(tmp_path: Path) -> None:
    what = plan(4)

    async def play(net: Net) -> None:
        await start(net, workers=0, verifiers=3)
        await net.up("liar", with_hands(worker, computes_nothing), deposit=100_000, price_per_step=5)
        job = await post(net, what, 2)
        await net.until(lambda: bool(events(net, Withheld)))
        await net.up("honest", worker, deposit=100_000, price_per_step=50)
        await net.until(lambda: ended(net, job))
        assert net.said("withheld", "liar")
        assert net.said("disagree")
        assert all(s.provider == net.ports["honest"].chain.account for s in settled(net))
        assert settled(net)[-1].end_root == run_plan(what).root

    together(tmp_path, play)


def without(*kinds: type[Task]) -> Callable[[Any], None]:
    """Hands that never come to an end with tasks of some kinds."""

    def change(hands: Any) -> None:
        honest = hands.perform

        async def perform(task: Any, note: Any) -> Any:
            if isinstance(task, kinds):
                await asyncio.sleep(3600)
            return await honest(task, note)

        hands.perform = perform

    return change


def test_a_worker_that_serves_nothing_is_unpaid(tmp_path: Path) -> None:
    async def play(net: Net) -> None:
        await start(net, workers=0, verifiers=3)
        await net.up("silent", with_hands(worker, without(ServeUnits, MakeChunk)), deposit=100_000, price_per_step=5)
        await post(net, plan(2), 2)
        for round in (1, 2):
            await net.until(lambda round=round: len(net.said("drawn", "silent")) == round)  # type: ignore[misc]
            net.skip()
        await net.until(lambda: bool(net.said("asked", "silent")))
        net.skip()
        await net.until(lambda: bool(net.said("unpaid", "silent")))
        assert events(net, Unpaid)[0].reason == "not served"
        net.skip(PARAMS.challenge_window)
        await net.until(lambda: bool(events(net, BondCleared)))
        assert not events(net, Served)

    together(tmp_path, play)


def test_a_worker_that_shows_one_chunk_and_serves_nothing_is_not_paid(tmp_path: Path) -> None:
    async def play(net: Net) -> None:
        await start(net, workers=0, verifiers=3)
        await net.up("miser", with_hands(worker, without(ServeUnits)), deposit=100_000, price_per_step=5)
        await post(net, plan(2), 2)
        for round in (1, 2):
            await net.until(lambda round=round: len(net.said("drawn", "miser")) == round)  # type: ignore[misc]
            net.skip()
        await net.until(lambda: bool(events(net, Served)))
        net.skip(LONG - LONG // 5)
        await net.until(lambda: len(events(net, Sealed)) == 3)
        await net.until(lambda: bool(events(net, Withheld)))
        assert not any(vote.agrees for vote in events(net, Revealed))
        assert not settled(net)

    together(tmp_path, play)


def test_a_quorum_that_denies_having_been_served_does_not_keep_an_honest_worker_from_its_pay(tmp_path: Path) -> None:
    """Their provider shows a chunk of its real training's states. Two of three never sign and never vote."""
    what = plan(2)

    async def play(net: Net) -> None:
        await start(net, workers=1, verifiers=1)
        for name in ("liar0", "liar1"):
            await net.up(name, with_hands(verifier, without(SignReceipt, ReplayUnit)), role="verifier", deposit=100_000, seat=True)
        job = await post(net, what, 2)
        for round in (1, 2):
            await net.until(lambda round=round: len(net.said("drawn", "worker0")) == round)  # type: ignore[misc]
            await net.until(lambda round=round: len(net.said("receipt", "verifier0")) == round)  # type: ignore[misc]
            net.skip()
        await net.until(lambda: bool(events(net, ChunkShown)))

        def sealed() -> bool:
            net.skip(LONG // 512)  # its provider waits for the others for a share of the time
            return len(events(net, Sealed)) == 1

        await net.until(sealed)
        net.skip()
        await net.until(lambda: bool(events(net, Attested)))
        net.skip(4 * PARAMS.challenge_window)
        await net.until(lambda: ended(net, job))
        assert settled(net)[-1].end_root == run_plan(what).root
        assert {event.verifier for event in events(net, NoShow)} == {net.ports[name].chain.account for name in ("liar0", "liar1")}
        assert all(event.fee for event in events(net, NoShow))

    together(tmp_path, play)


def agrees_never(hands: Any) -> None:
    """Says that every link is wrong."""
    run = hands.shop.engine.run

    async def lie(task: Any, folder: Any, progress: Any) -> Any:
        found = await run(task, folder, progress)
        return replace(found, agrees=False, reason="I say so") if isinstance(found, LinkReplayed) else found

    hands.shop.engine.run = lie


def test_one_lying_verifier_does_not_keep_an_honest_worker_from_its_pay(tmp_path: Path) -> None:
    async def play(net: Net) -> None:
        await start(net, workers=1, verifiers=2)
        await net.up("liar", with_hands(verifier, agrees_never), role="verifier", deposit=100_000, seat=True)
        job = await post(net, plan(2), 2)
        await net.until(lambda: ended(net, job))
        (segment,) = settled(net)
        assert net.ports["liar"].chain.account not in {p.who for p in segment.payments if p.amount > 0}

    together(tmp_path, play)


def test_a_sleeping_verifier_costs_itself_and_nobody_else(tmp_path: Path) -> None:
    async def play(net: Net) -> None:
        await start(net, workers=1, verifiers=2)
        await net.up("sleeper", verifier, role="verifier", deposit=100_000, seat=True)
        await net.down("sleeper")
        job = await post(net, plan(2), 2)
        awake = ("verifier0", "verifier1")

        def sealed() -> bool:
            """The provider waits for the third seal for a share of the time."""
            if all(net.said("replayed", name) for name in awake):
                net.skip(LONG // 512)
            return len(events(net, Sealed)) == 2

        await net.until(sealed)
        net.skip()
        await net.until(lambda: ended(net, job))
        assert len(settled(net)) == 1

    together(tmp_path, play)


# ---- a worker that vanishes ------------------------------------------------------------------------------------------------


def test_a_worker_that_vanishes_lapses_and_another_finishes_with_the_same_bits(tmp_path: Path) -> None:
    what = plan(4)

    async def play(net: Net) -> None:
        await start(net, workers=1, verifiers=3)
        gone: list[str] = []

        def vanish(name: str, note: Any) -> None:
            if name == "worker0" and note.topic == "step" and not gone:
                gone.append(name)
                net.kill(name)

        net.watch = vanish
        job = await post(net, what, 2)
        await net.until(lambda: bool(gone))
        await net.up("other", worker, deposit=100_000, price_per_step=20)
        net.skip()
        await net.until(lambda: ended(net, job))
        assert len(events(net, Lapsed)) == 1
        assert {s.provider for s in settled(net)} == {net.ports["other"].chain.account}
        assert settled(net)[-1].end_root == run_plan(what).root

    together(tmp_path, play)


def test_a_worker_whose_disk_is_lost_serves_what_it_committed_all_the_same(tmp_path: Path) -> None:
    """Journal, work folder and blobs are gone; the account's keys are not. The chain tells it what it had done."""
    what = plan(2)

    async def play(net: Net) -> None:
        await start(net, workers=1, verifiers=3)
        gone: list[str] = []

        def vanish(name: str, note: Any) -> None:
            if name == "worker0" and note.topic == "committed" and not gone:
                gone.append(name)
                net.kill(name)

        net.watch = vanish
        job = await post(net, what, 2)
        await net.until(lambda: bool(gone))
        net.lose_disk("worker0")
        await net.up("worker0", worker, deposit=100_000, price_per_step=10)
        await net.until(lambda: ended(net, job))
        assert len(events(net, Committed)) == len(events(net, Settled)) == 1

    together(tmp_path, play)


@pytest.mark.parametrize("topic", ["running", "run", "copied", "serving"])
def test_a_worker_that_has_lost_its_blobs_and_not_its_journal_goes_on(tmp_path: Path, topic: str) -> None:
    """What others have is fetched again (the job's document and program, shards, states), what only it had is made again."""
    what = plan(4)

    async def play(net: Net) -> None:
        await start(net, workers=1, verifiers=3)
        killed: list[str] = []

        def kill(name: str, note: Any) -> None:
            if name == "worker0" and note.topic == topic and not killed:
                killed.append(name)
                net.kill(name)
                net.lose_blobs(name)

        net.watch = kill
        job = await post(net, what, 2)
        await net.until(lambda: bool(killed))
        await net.up("worker0", worker, deposit=100_000, price_per_step=10)
        await net.until(lambda: ended(net, job))
        assert len(events(net, Assigned)) == len(events(net, Settled)) == 2
        assert not events(net, Redrawn)
        assert settled(net)[-1].end_root == run_plan(what).root
        lost = [note for note in net.said("missing", "worker0") if "are made again" in note.text]
        assert bool(lost) == (topic in ("run", "serving"))

    together(tmp_path, play)


def test_a_chain_node_that_does_not_answer_for_a_while_stops_nobody(tmp_path: Path) -> None:
    async def play(net: Net) -> None:
        await start(net, workers=1, verifiers=3)
        job = await post(net, plan(2), 2)
        net.ports["worker0"].chain.fail_next(Outage("the node restarts"), times=4)  # type: ignore[attr-defined]
        net.ports["verifier0"].chain.fail_next(Outage("the node restarts"), times=4, after=True)  # type: ignore[attr-defined]
        await net.until(lambda: ended(net, job))
        assert len(settled(net)) == 1

    together(tmp_path, play)
