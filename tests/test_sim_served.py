"""Nodes served off chain in the simulated network: by honest machines, by liars of every kind, over messages that are lost and late."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import msgspec
import pytest
from test_sim_disputes import BOND, check_money, events, gained, network, part, told

from assay import merkle
from assay.chain import DisputeResolved, DisputeWithdrawn, Outcome
from assay.dispute.moves import Stage
from assay.dispute.players import Asserter
from assay.dispute.proofs import Link
from assay.dispute.record import state_of
from assay.dispute.served import Nodes
from assay.ids import DisputeId
from assay.messages import AnyReply, NodesRequest, Refusal
from assay.ports import Outage
from assay.runtime import Note
from assay.sim import CrashAt
from assay.sim.cast import HONEST
from assay.sim.node import SimNode
from assay.tasks import MakeMove, MoveMade, NodesServed, ServeNodes
from tests.liars.disputes import flipped
from tests.liars.links import computing, providing
from tests.link_world import OPTIONS, LinkHands, LinkWorld

Lying = providing(computing("exp", lambda y, _: flipped(y, 3, 23)))
"""Its disputes walk over a trace that is deeper than one opening, and name an element of a chunk."""



class ServesJunk(Lying):
    """Answers with what joins to nothing."""

    def serve_nodes(self, task: ServeNodes) -> NodesServed:
        served = super().serve_nodes(task)
        assert served.nodes is not None
        junk = Nodes(nodes=tuple(merkle.sha256(node) for node in served.nodes.nodes), content=bytes(len(served.nodes.content)))
        return msgspec.structs.replace(served, nodes=junk)


class ServesAnother(Lying):
    """Answers with the nodes of another tree, in which nothing is wrong."""

    def serve_nodes(self, task: ServeNodes) -> NodesServed:
        honest = LinkHands(self.chain, self.keys, self.options)
        honest.store, honest.disk = self.store, {}
        return honest.serve_nodes(task)


class ServesNothing(Lying):
    def serve_nodes(self, task: ServeNodes) -> NodesServed:
        return NodesServed(dispute=task.place.dispute, nodes=None)


class ServesHalf(Lying):
    """Answers once, and then goes silent."""

    def serve_nodes(self, task: ServeNodes) -> NodesServed:
        if self.disk.setdefault("answers", 0):
            raise Outage("it says nothing more")
        self.disk["answers"] += 1
        return super().serve_nodes(task)


class ServesSlowly(Lying):
    """Has each answer ready when nobody waits for it any more."""

    def serve_nodes(self, task: ServeNodes) -> NodesServed:
        tries = self.disk.get("tries", 0)
        self.disk["tries"] = tries + 1
        if tries % 5:
            raise Outage("wait")
        return super().serve_nodes(task)


class OpensOthers(Lying):
    """Answers with its own nodes, and opens honest ones on chain, which are not below what it has committed to."""

    def make_move(self, task: MakeMove) -> MoveMade:
        made = super().make_move(task)
        if not isinstance(made.move, Stage):
            return made
        party = self.side(task)
        state = state_of(party.record, party.facts)
        link = party.link(state)
        right = Link(link.job, link.step, link.m, link.state, link.acc if link.m else None, link.batch)
        return msgspec.structs.replace(made, move=Asserter(lambda _: right, party.ends).stage(right, state))


def spent(world: LinkWorld) -> int:
    """Of the challengers' budgets, in all disputes."""
    return sum(dispute.state.spent[1] for dispute in world.ledger.disputes.disputes.values())


def nodes(world: LinkWorld) -> list[str]:
    return [note.text for _, _, note in world.log if note.topic == "nodes"]


def test_an_honest_challenger_is_served_and_plays_fewer_moves() -> None:
    """Even by the liar, whose nodes are what it has committed to."""
    served = network(worker_0=part("worker", Lying))
    silent = network(worker_0=part("worker", ServesNothing))
    counts = []
    for world in (served, silent):
        assert world.run(until=lambda world=world: bool(events(world, DisputeWithdrawn))), told(world)
        assert events(world, DisputeResolved)[0].outcome is Outcome.ASSERTER_LOST, told(world)
        assert spent(world) == 0
        check_money(world)
        counts.append([type(p.move).__name__ for p in world.ledger.disputes.record(DisputeId(1)).moves])
    assert counts[0] == ["Open", "Trace", "Point", "Stage", "Point", "Prove"], told(served)
    assert counts[1] == ["Open", "Trace", "Point", "Reveal", "Point", "Stage", "Point", "Chunk", "Name", "Prove"], told(silent)


@pytest.mark.parametrize("kind", [ServesJunk, ServesAnother, ServesHalf, ServesSlowly, OpensOthers])
def test_a_liar_gains_nothing_by_what_it_serves(kind: type[LinkHands]) -> None:
    world = network(worker_0=part("worker", kind))
    assert world.run(until=lambda: bool(events(world, DisputeWithdrawn))), told(world)
    resolved = events(world, DisputeResolved)[0]
    assert (resolved.outcome, resolved.taken) == (Outcome.ASSERTER_LOST, BOND), told(world)
    assert gained(world, "worker-0") == -BOND
    assert spent(world) == 0  # no time of the challengers' budgets
    if kind is not OpensOthers:
        assert any("opened on chain" in text for text in nodes(world)), told(world)
    check_money(world)


def test_messages_that_are_lost_and_late_cost_gas_and_nothing_else() -> None:
    """A third of all messages is lost; the others take up to a second, which is what an answer is waited for."""
    rough = msgspec.structs.replace(OPTIONS, loss=0.3, latency=(0.05, 1.0))
    said = []
    for seed in range(4):
        world = LinkWorld(rough, seed, {**{role: part(role) for role in HONEST}, "worker-0": part("worker", Lying)})
        assert world.run(until=lambda world=world: bool(events(world, DisputeWithdrawn))), told(world)
        assert {e.outcome for e in events(world, DisputeResolved)} == {Outcome.ASSERTER_LOST}, told(world)
        assert gained(world, "worker-0") == -BOND
        assert spent(world) == 0
        check_money(world)
        said += nodes(world)
    assert any("served nodes" in text for text in said)
    assert any("does not serve" in text for text in said)


@pytest.mark.parametrize("name", ["worker-0", "verifier-1"])
def test_a_side_killed_anywhere_between_question_and_answer_goes_on(name: str) -> None:
    """The asserter and the challenger, each down for three seconds from a dozen places around the answers."""

    def play(crash: CrashAt | None = None) -> LinkWorld:
        world = network(crash=crash, worker_0=part("worker", Lying))
        assert world.run(until=lambda: bool(events(world, DisputeWithdrawn))), f"{crash}\n{told(world)}"
        assert events(world, DisputeResolved)[0].outcome is Outcome.ASSERTER_LOST, f"{crash}\n{told(world)}"
        assert gained(world, "worker-0") == -BOND
        check_money(world)
        return world

    calm = play()
    times = [time for time, _, note in calm.log if note.topic == "nodes"]
    assert len(times) == 2, told(calm)
    near = [point for point, at in enumerate(calm.passed[name]) if any(-0.5 < at - time < 0.3 for time in times)]
    assert len(near) >= 10
    for point in near[:: max(1, len(near) // 12)]:
        play(CrashAt(name, point))


class Nosy(LinkWorld):
    """As soon as the provider has served its challenger, others ask, and the challenger asks for more."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.replies: dict[str, list[AnyReply]] = defaultdict(list)
        super().__init__(*args, **more)

    def noted(self, node: SimNode, note: Note) -> None:
        super().noted(node, note)
        if note.topic == "nodes" and node.name == "worker-0" and not self.replies:
            (dispute,) = node.core.machine.state.facts.disputes.values()
            (play,) = node.core.machine.state.plays.values()
            challenger = next(n for n in self.nodes.values() if n.account == dispute.challenger)
            other = next(n for n in self.nodes.values() if n.role == "verifier" and n is not challenger)
            (wanted,) = play.given
            same = NodesRequest(dispute=dispute.dispute, turn=dispute.turns, wanted=wanted)
            aside = msgspec.structs.replace(wanted, index=wanted.index ^ 1)
            self.ask("somebody else", other, node, same)
            self.ask("of another dispute", challenger, node, msgspec.structs.replace(same, dispute=DisputeId(9)))
            self.ask("of a turn that is over", challenger, node, msgspec.structs.replace(same, turn=same.turn - 1))
            self.ask("of a turn to come", challenger, node, msgspec.structs.replace(same, turn=same.turn + 1))
            self.ask("of one who asserts nothing", challenger, other, same)
            self.ask("another way down", challenger, node, msgspec.structs.replace(same, wanted=aside))
            for i in range(60):
                self.clock.after(0.025 * i, partial(self.ask, "again and again", challenger, node, same))

    def ask(self, name: str, source: SimNode, target: SimNode, message: NodesRequest) -> None:
        self.replies[name] += []
        self.request(source, target.peer, message, self.replies[name].append)


def test_nodes_are_for_the_challenger_alone_and_not_without_end() -> None:
    quick = msgspec.structs.replace(OPTIONS, latency=(0.001, 0.001))
    world = Nosy(quick, 3, {**{role: part(role) for role in HONEST}, "worker-0": part("worker", Lying)})
    assert world.run(until=lambda: bool(events(world, DisputeWithdrawn))), told(world)
    reasons = {name: [(r.reason, r.retry_after) for r in replies if isinstance(r, Refusal)] for name, replies in world.replies.items()}
    assert reasons["somebody else"] == [("this peer is not that of the challenger", 0)]
    assert reasons["of another dispute"] == [("this node defends nothing in dispute 9", 0)]
    assert reasons["of a turn that is over"] == [("it is not the challenger's turn", 0)]
    assert reasons["of a turn to come"] == [("dispute 1 is not so far", 1)]
    assert reasons["of one who asserts nothing"] == [("this node defends nothing in dispute 1", 0)]
    assert reasons["another way down"] == [("in a turn, one way down the tree is served and no other", 0)]
    answers = [reply for reply in world.replies["again and again"] if isinstance(reply, Nodes)]
    assert 1 < len(answers) < 60
    assert len(set(answers)) == 1
    assert "in a turn, one way down the tree is served and no other" in {reason for reason, _ in reasons["again and again"]}
