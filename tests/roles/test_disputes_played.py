"""Disputes that real daemons begin, answer and end by themselves, with real engines over a small job: who wins, who is paid, through kills
at every stage and a chain node that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import test_together
from test_together import ended, events, settled, with_hands
from tiny import LONG, PARAMS, Net, plan, post

from assay import daemon, merkle
from assay.adapters.engine_process import InlineEngine
from assay.chain import Attested, BondCleared, DisputeOpened, DisputePaid, DisputeResolved, DisputeWithdrawn, KeyReleased, Outcome
from assay.client import run_plan
from assay.dispute import moves, served
from assay.dispute.record import Rules, state_of
from assay.dispute.served import Nodes
from assay.dispute.tree import Tree
from assay.engine import AnswerDispute, LinkReplayed
from assay.execute import Executor
from assay.keyservice.daemon import key_service
from assay.ports import Outage
from assay.record_keys import RecordKeys
from assay.state import acc_root
from assay.tasks import MakeMove, ServeNodes
from assay.work import Engine
from assay_scheduler.daemon import scheduler
from assay_verifier.daemon import verifier
from assay_worker.daemon import worker
from tests import dispute_cases as cases
from tests.liars.disputes import Doubter
from tests.liars.engine import IdleExecutor, IdleLink

RULES = Rules(open_window=LONG, grace=LONG, budget=LONG, payout_delay=20, bond=500)
DISPUTED = msgspec.structs.replace(PARAMS, challenge_window=200)


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes in one process answer at once or never."""
    monkeypatch.setattr(daemon, "ANSWER_WITHIN", 2.0)


def together(tmp_path: Path, play: Callable[[Net], Coroutine[Any, Any, None]]) -> None:
    async def scene(net: Net) -> None:
        await net.up("scheduler", scheduler, role="scheduler", offer_window=10)
        await net.up("keys", key_service, role="keyservice")
        await play(net)

    test_together.together(tmp_path, scene, rules=RULES)


class IdleEngine(Engine):
    executor = IdleExecutor
    link = IdleLink


def takes_products_as_zeros(hands: Any) -> None:
    hands.shop.engine = InlineEngine(make=IdleEngine)


async def verifiers(net: Net, count: int = 3) -> None:
    for i in range(count):
        await net.up(f"verifier{i}", verifier, role="verifier", deposit=100_000, seat=True)


def played(net: Net, kind: type[moves.Move]) -> list[Any]:
    records = [net.ledger.disputes.record(d) for d in net.ledger.disputes.disputes]
    return [p.move for record in records for p in record.moves if isinstance(p.move, kind)]


def worth(net: Net, name: str) -> int:
    view = net.ledger.view(net.ports[name].chain.account)
    return view.tokens + view.stake + view.credit + view.dispute_credit


LIAR = with_hands(worker, takes_products_as_zeros)


def test_a_provider_that_multiplied_nothing_loses_its_bond_at_one_operation(tmp_path: Path) -> None:
    what = plan(2)

    async def play(net: Net) -> None:
        await verifiers(net)
        await net.up("liar", LIAR, deposit=100_000, price_per_step=5)
        job = await post(net, what, 2, params=DISPUTED)
        await net.until(lambda: bool(events(net, DisputePaid)))
        await net.up("honest", worker, deposit=100_000, price_per_step=50)
        await net.until(lambda: ended(net, job))
        (resolved,), (paid,) = events(net, DisputeResolved), events(net, DisputePaid)
        bond = 2 * 5 * PARAMS.bond_tenths // 10
        assert (resolved.outcome, resolved.taken) == (Outcome.ASSERTER_LOST, bond)
        assert (paid.to_challenger, paid.burnt, paid.to_asserter) == (RULES.bond + bond - bond // 2, bond // 2, 0)
        assert worth(net, "liar") == 1_000_000 - bond
        assert played(net, moves.Fold)  # the dispute went down to an element of a product
        assert net.said("nodes", "liar")
        assert not played(net, moves.Chunk)  # whose chunk was served
        await net.until(lambda: bool(events(net, DisputeWithdrawn)))
        await net.until(lambda: not list(tmp_path.glob("*/work/segment-*")))
        assert [s.provider for s in settled(net)] == [net.ports["honest"].chain.account]
        assert settled(net)[-1].end_root == run_plan(what).root

    together(tmp_path, play)


def test_the_liar_says_in_a_dispute_what_it_ran() -> None:
    program, link = cases.PROGRAM, cases.honest()[0]
    executor = IdleExecutor(program, cases.SCHEDULE, cases.MICRO_BATCHES, frozen=cases.FROZEN)
    ran = executor.micro(link.step, link.m, link.state, link.acc, link.batch)
    said = IdleLink(link.job, link.step, link.m, link.state, None, link.batch)
    assert acc_root(link.step, link.m + 1, ran) == said.end_root != link.end_root


def test_both_sides_killed_at_every_move_and_a_chain_node_that_goes_away(tmp_path: Path) -> None:
    """Whoever makes a move, serves nodes or does without them is killed as it says so, comes up again, and finds the chain's node gone for
    some calls."""
    what = plan(2)

    async def play(net: Net) -> None:
        await verifiers(net)
        await net.up("liar", LIAR, deposit=100_000, price_per_step=5)
        killed: list[str] = []

        def kill(name: str, note: Any) -> None:
            if note.topic in ("move", "dispute", "nodes") and name in net.running:
                killed.append(name)
                net.kill(name)

        net.watch = kill
        await post(net, what, 2, params=msgspec.structs.replace(DISPUTED, challenge_window=LONG))
        kills = 0
        while not events(net, DisputePaid):
            await net.until(lambda: bool(killed) or bool(events(net, DisputePaid)), seconds=100)
            while killed:
                name = killed.pop()
                kills += 1
                net.ports[name].chain._faults.clear()  # type: ignore[attr-defined]
                if name == "liar":
                    await net.up("liar", LIAR, deposit=100_000, price_per_step=5)
                else:
                    await net.up(name, verifier, role="verifier", deposit=100_000, seat=True)
                net.ports[name].chain.fail_next(Outage("the node restarts"), times=3, after=kills % 2 == 0)  # type: ignore[attr-defined]
        assert kills > 10
        assert net.said("nodes", "liar")  # its challenger was served
        assert {e.outcome for e in events(net, DisputeResolved)} == {Outcome.ASSERTER_LOST}  # who was down for a turn may begin its own
        assert worth(net, "liar") == 1_000_000 - 60
        net.watch = lambda name, note: None
        await net.until(lambda: all(node.core.cursor > (0, 0) for node in net.nodes.values()))  # the last one killed is up again

    together(tmp_path, play)


def serving(how: str) -> Callable[[Any], None]:
    """A liar that serves its challenger otherwise than it should."""

    def change(hands: Any) -> None:
        takes_products_as_zeros(hands)
        perform = hands.perform

        async def serve(task: Any, note: Any) -> Any:
            if not isinstance(task, ServeNodes):
                return await perform(task, note)
            if how != "junk":
                await asyncio.sleep({"silent": 3600, "late": 2}[how])
            found = await perform(task, note)
            return msgspec.structs.replace(found, nodes=Nodes(nodes=(), content=b"junk")) if how == "junk" else found

        hands.perform = serve

    return change


@pytest.mark.parametrize("how", ["junk", "silent", "late"])
def test_a_liar_that_serves_otherwise_than_it_should_gains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(served, "MOST_PATIENCE", 1)

    async def play(net: Net) -> None:
        await verifiers(net)
        await net.up("liar", with_hands(worker, serving(how)), deposit=100_000, price_per_step=5)
        await post(net, plan(2), 2, params=DISPUTED)
        await net.until(lambda: bool(events(net, DisputePaid)))
        (resolved,) = events(net, DisputeResolved)
        assert resolved.outcome is Outcome.ASSERTER_LOST
        assert played(net, moves.Chunk)  # opened on chain
        assert worth(net, "liar") == 1_000_000 - 2 * 5 * PARAMS.bond_tenths // 10
        (dispute,) = net.ledger.disputes.disputes.values()
        assert dispute.state.spent == (0, 0)

    together(tmp_path, play)


def refutes_everything(hands: Any) -> None:
    """Says that every link is wrong, and means it."""
    run = hands.shop.engine.run

    async def lie(task: Any, folder: Any, progress: Any) -> Any:
        found = await run(task, folder, progress)
        return msgspec.structs.replace(found, agrees=False, reason="I say so") if isinstance(found, LinkReplayed) else found

    hands.shop.engine.run = lie


def test_an_honest_provider_answers_a_false_challenge_and_is_paid_for_it(tmp_path: Path) -> None:
    async def play(net: Net) -> None:
        await verifiers(net, 2)
        await net.up("worker0", worker, deposit=100_000, price_per_step=10)
        await net.up("liar", with_hands(verifier, refutes_everything), role="verifier", deposit=100_000, seat=True)
        job = await post(net, plan(2), 2, params=DISPUTED)
        await net.until(lambda: bool(played(net, moves.Trace)) and bool(events(net, Attested)))
        for _ in range(3):  # it has nothing to point at, and its time runs out
            net.skip()
        await net.until(lambda: bool(events(net, DisputePaid)))
        await net.until(lambda: ended(net, job))
        (paid,) = events(net, DisputePaid)
        assert (paid.outcome, paid.to_asserter, paid.to_challenger) == (Outcome.ASSERTER_WON, RULES.bond - RULES.bond // 2, 0)
        assert len(settled(net)) == 1
        await net.until(lambda: worth(net, "worker0") == 1_000_000 + 20 + RULES.bond - RULES.bond // 2)
        assert worth(net, "liar") == 1_000_000 - RULES.bond
        assert [type(m) for m in played(net, moves.Move)] == [moves.Open, moves.Trace, moves.Timeout]
        await net.until(lambda: not list(tmp_path.glob("*/work/segment-*")))

    together(tmp_path, play)


def faulty_memory(hands: Any) -> None:
    """One bit of the new parameters turns in the update, once."""

    class Faulty(Executor):
        def update(self, step: int, state: Any, acc: Any, *, spend: bool = False) -> Any:
            out = super().update(step, state, acc, spend=spend)
            if not (hands.shop.root / "turned").exists():
                (hands.shop.root / "turned").touch()
                out["param.w"].view(np.uint32).reshape(-1)[0] ^= 1 << 20
            return out

    class FaultyEngine(Engine):
        executor = Faulty

    hands.shop.engine = InlineEngine(make=FaultyEngine)


def test_a_provider_whose_hardware_failed_concedes_and_keeps_half(tmp_path: Path) -> None:
    """All links are drawn, so the wrong one is. Run again it comes out right, which the provider takes for what it is."""
    everything = msgspec.structs.replace(DISPUTED, links=16)

    async def play(net: Net) -> None:
        await verifiers(net)
        await net.up("unlucky", with_hands(worker, faulty_memory), deposit=100_000, price_per_step=10)
        await post(net, plan(1), 1, params=everything)
        await net.until(lambda: bool(events(net, DisputePaid)))
        (resolved,) = events(net, DisputeResolved)
        assert (resolved.outcome, resolved.taken) == (Outcome.CONCEDED, 30)
        await net.until(lambda: bool(events(net, BondCleared)))
        view = net.ledger.view(net.ports["unlucky"].chain.account)
        assert (view.stake, view.reserved) == (100_000 - 30, 0)

    together(tmp_path, play)


def points_at_the_data(hands: Any, only_votes: bool = False) -> None:
    """Each of its moves doubts the records that the disputed trace begins with; in disputes over votes alone, or in all."""
    perform, run = hands.perform, hands.shop.engine.run
    asked: dict[Any, AnswerDispute] = {}

    async def remember(task: Any, folder: Any, progress: Any) -> Any:
        if isinstance(task, AnswerDispute):
            asked[task.record.dispute] = task
        return await run(task, folder, progress)

    async def doubt(task: Any, note: Any) -> Any:
        made = await perform(task, note)
        if not isinstance(task, MakeMove) or not made.why.startswith("in ") or (only_votes and task.opening is None):
            return made
        (link,) = hands.shop.engine._engines[hands.shop.root]._links.values()
        record, facts = asked[task.dispute].record, asked[task.dispute].facts
        doubter = Doubter(lambda _: link, Tree([merkle.PAD]), task.opening, 1, {moves.Phase.TRACE: 0})
        return msgspec.structs.replace(made, move=doubter.move(state_of(record, facts), record.moves[-1].move), why="")

    hands.perform, hands.shop.engine.run = doubt, remember


def doubts_the_data(hands: Any) -> None:
    """Refutes a micro-batch, and then doubts the records that it was run on."""
    run = hands.shop.engine.run

    async def lie(task: Any, folder: Any, progress: Any) -> Any:
        found = await run(task, folder, progress)
        wrong = isinstance(found, LinkReplayed) and task.m < task.job.micro_batches
        return msgspec.structs.replace(found, agrees=False, reason="I say so") if wrong else found

    hands.shop.engine.run = lie
    points_at_the_data(hands)


def test_a_provider_shows_the_record_that_an_element_of_its_batch_is_from(tmp_path: Path) -> None:
    everything = msgspec.structs.replace(DISPUTED, links=16)

    async def play(net: Net) -> None:
        await verifiers(net, 2)
        await net.up("worker0", worker, deposit=100_000, price_per_step=10)
        await net.up("liar", with_hands(verifier, doubts_the_data), role="verifier", deposit=100_000, seat=True)
        job = await post(net, plan(1), 1, params=everything)
        await net.until(lambda: ended(net, job))
        (paid,) = events(net, DisputePaid)
        assert paid.outcome is Outcome.ASSERTER_WON
        assert played(net, moves.Gather)
        assert worth(net, "worker0") == 1_000_000 + 10 + RULES.bond - RULES.bond // 2

    together(tmp_path, play)


def makes_up_traces(hands: Any, units: Container[int] = range(16)) -> None:
    run = hands.shop.engine.run

    async def lie(task: Any, folder: Any, progress: Any) -> Any:
        found = await run(task, folder, progress)
        if not isinstance(found, LinkReplayed) or task.unit not in units:
            return found
        path = folder / task.segment / f"trace-{task.unit}.bin"
        data = path.read_bytes()
        leaves = [data[:32], merkle.sha256(data), *(data[i : i + 32] for i in range(64, len(data), 32))]
        path.write_bytes(b"".join(leaves))
        return msgspec.structs.replace(found, trace_root=merkle.root_of(leaves))

    hands.shop.engine.run = lie


def test_verifiers_defend_their_traces_and_who_made_one_up_concedes(tmp_path: Path) -> None:
    """The liar disputes the honest traces, too, since they are not its own: they are shown, and it has nothing to point at."""

    async def play(net: Net) -> None:
        await verifiers(net, 2)
        await net.up("worker0", worker, deposit=100_000, price_per_step=10)
        await net.up("liar", with_hands(verifier, makes_up_traces), role="verifier", deposit=100_000, seat=True)
        job = await post(net, plan(2), 2, params=msgspec.structs.replace(DISPUTED, challenge_window=1000))
        await net.until(lambda: len(events(net, DisputeOpened)) == 3 and len(played(net, moves.Trace)) == 2 and bool(played(net, moves.Concede)))
        for _ in range(3):
            net.skip()
        await net.until(lambda: len(events(net, DisputePaid)) == 3)
        await net.until(lambda: ended(net, job))
        outcomes = {e.dispute: e.outcome for e in events(net, DisputeResolved)}
        asserters = {e.dispute: e.asserter for e in events(net, DisputeOpened)}
        liar = net.ports["liar"].chain.account
        assert all(outcome is (Outcome.CONCEDED if asserters[d] == liar else Outcome.ASSERTER_WON) for d, outcome in outcomes.items())
        assert len(outcomes) == 3
        assert worth(net, "liar") == 1_000_000 - PARAMS.draw_bond // 2 - 2 * RULES.bond
        assert len(settled(net)) == 1

    together(tmp_path, play)


def doubts_votes_over_the_data(hands: Any) -> None:
    """Reveals traces of its own of the micro-batches, and doubts the records that others' traces begin with."""
    makes_up_traces(hands, {0, 1})
    points_at_the_data(hands, only_votes=True)


def test_a_verifier_defends_its_batch_with_the_keys_of_its_own_records_alone(tmp_path: Path) -> None:
    async def play(net: Net) -> None:
        await verifiers(net, 2)
        await net.up("worker0", worker, deposit=100_000, price_per_step=10)
        await net.up("liar", with_hands(verifier, doubts_votes_over_the_data), role="verifier", deposit=100_000, seat=True)
        await post(net, plan(1), 1, params=msgspec.structs.replace(DISPUTED, links=16, challenge_window=1000))
        await net.until(lambda: bool(played(net, moves.Gather)))
        honest = {net.ports[f"verifier{i}"].chain.account for i in range(2)}
        made = {d: net.ledger.disputes.record(d).moves for d in net.ledger.disputes.disputes}
        shown = [d for d, told in made.items() if any(isinstance(p.move, moves.Gather) for p in told)]
        asserters = {e.dispute: e.asserter for e in events(net, DisputeOpened)}
        assert {asserters[d] for d in shown} <= honest
        await net.until(lambda: any(e.dispute in shown for e in events(net, DisputeResolved)))
        outcomes = {e.dispute: e.outcome for e in events(net, DisputeResolved)}
        assert {outcomes[d] for d in shown if d in outcomes} == {Outcome.ASSERTER_WON}
        for name in ("verifier0", "verifier1"):
            keys = net.ports[name].keys
            given = [e for e in events(net, KeyReleased) if e.recipient == keys.account]
            assert given
            for release in given:
                held = keys.shard_key(release.key_id)
                assert isinstance(held, RecordKeys)
                assert len(held.keys) <= 8  # two micro-batches of four, of forty records
                with pytest.raises(KeyError):
                    keys.load(release.key_id)

    together(tmp_path, play)


def test_a_provider_whose_disk_is_lost_in_a_dispute_runs_the_segment_again_and_answers(tmp_path: Path) -> None:
    async def play(net: Net) -> None:
        await verifiers(net, 2)
        await net.up("worker0", worker, deposit=100_000, price_per_step=10)
        await net.up("liar", with_hands(verifier, refutes_everything), role="verifier", deposit=100_000, seat=True)
        gone: list[str] = []

        def vanish(name: str, note: Any) -> None:
            if name == "worker0" and note.topic == "dispute" and not gone:
                gone.append(name)
                net.kill(name)

        net.watch = vanish
        job = await post(net, plan(2), 2, params=msgspec.structs.replace(DISPUTED, challenge_window=LONG))
        await net.until(lambda: bool(gone))
        net.lose_disk("worker0")
        await net.up("worker0", worker, deposit=100_000, price_per_step=10)
        await net.until(lambda: bool(played(net, moves.Trace)) and bool(events(net, Attested)))
        while not events(net, DisputePaid):
            net.skip()
            await asyncio.sleep(0.2)
        net.skip()
        await net.until(lambda: ended(net, job))
        assert [e.outcome for e in events(net, DisputePaid)] == [Outcome.ASSERTER_WON]
        assert len(settled(net)) == 1

    together(tmp_path, play)
