"""Disputes in the simulated network: whoever lies is challenged by real machines, and each dispute ends with the right side paid."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from assay import merkle
from assay.chain import (
    Attested,
    BondCleared,
    CallId,
    DisputePaid,
    DisputeResolved,
    DisputeWithdrawn,
    Outcome,
    Pardoned,
    PlayMove,
    SealDispute,
    Slashed,
    Withheld,
)
from assay.dispute.moves import Open, Phase, Side, State, shown
from assay.dispute.proofs import Link
from assay.dispute.record import state_of
from assay.dispute.tree import Tree
from assay.ids import DisputeId, SegmentId
from assay.sim import CrashAt
from assay.sim.cast import HONEST, Part, verifier_config
from assay.tasks import MakeMove, MoveMade, ReplayUnit, ServeUnits, UnitReplayed, UnitsServed
from assay_verifier.machine import VerifierMachine
from tests import dispute_cases as cases
from tests.audited import check_audit
from tests.liars.disputes import Doubter, at, flipped
from tests.liars.links import LINKS, PROVIDERS, computing, providing
from tests.link_world import OPTIONS, PARAMS, RULES, LinkHands, LinkParty, LinkWorld

PRICE = 1_000_000
BOND = 6 * PRICE


def part(role: str, kind: type[LinkHands] = LinkHands) -> Part:
    return Part(HONEST[role].machine, lambda me: kind(me.chain, me.keys, me.options))


def events(world: LinkWorld, kind: type[Any]) -> list[Any]:
    return [event for event in world.ledger.events() if isinstance(event, kind)]


def network(seed: int = 3, world: type[LinkWorld] = LinkWorld, crash: CrashAt | None = None, **cast: Part) -> LinkWorld:
    named = {name.replace("_", "-"): part for name, part in cast.items()}
    return world(OPTIONS, seed, {**{role: part(role) for role in HONEST}, **named}, crash)


def told(world: LinkWorld) -> str:
    return "\n".join(f"{time:8.1f} {name:12} {note.text}" for time, name, note in world.log)


def gained(world: LinkWorld, name: str) -> int:
    return world.changes()[name]


def check_money(world: LinkWorld) -> None:
    assert sum(world.before.values()) == sum(world.ledger.balances().values())
    check_audit(world.ledger)


def test_an_honest_network_has_no_disputes() -> None:
    world = network()
    assert world.run()
    assert world.receipts.finished(world.posted[0])
    assert not world.ledger.disputes.disputes
    check_money(world)


@pytest.mark.parametrize("lie", PROVIDERS)
def test_a_provider_that_lies_loses_its_bond_to_who_shows_it(lie: str) -> None:
    world = network(worker_0=part("worker", PROVIDERS[lie]))
    assert world.run(until=lambda: bool(events(world, DisputeWithdrawn))), told(world)
    resolved, paid = events(world, DisputeResolved)[0], events(world, DisputePaid)[0]
    assert (resolved.outcome, resolved.taken) == (Outcome.ASSERTER_LOST, BOND), told(world)
    assert (paid.to_challenger, paid.to_asserter, paid.burnt) == (RULES.bond + BOND // 2, 0, BOND // 2)
    (winner,) = {world.name_of(event.who) for event in events(world, DisputeWithdrawn)}
    assert gained(world, "worker-0") == -BOND
    assert gained(world, winner) >= BOND // 2
    check_money(world)


class ServesOthers(LinkHands):
    """Serves states that are not those it committed to."""

    def serve_units(self, task: ServeUnits) -> UnitsServed:
        honest = self.disk["run", task.segment]
        other = {u: Link(x.job, x.step, x.m, x.state | {"buffer.beta": np.float32(0.5)}, x.acc, x.batch) for u, x in honest.items()}
        for unit, link in other.items():
            link.end_root = honest[unit].end_root
        self.disk["run", task.segment] = other
        served = super().serve_units(task)
        self.disk["run", task.segment] = honest
        return served


def test_a_provider_that_serves_other_states_is_not_paid_and_nobody_can_dispute_it() -> None:
    """What was served is evidence of nothing: its bond comes back after the window."""
    world = network(worker_0=part("worker", ServesOthers))
    assert world.run(until=lambda: bool(events(world, BondCleared))), told(world)
    assert not world.ledger.disputes.disputes
    assert len(events(world, Withheld)) == 1
    assert gained(world, "worker-0") == 0
    check_money(world)


# ---- a fault of the hardware ---------------------------------------------------------------------------------------------


class Unlucky(LinkHands):
    """One bit of one link came out wrong; run again, it is seen."""

    fault = (0, 1)

    class party(LinkParty):
        def is_wrong(self, state: State) -> bool:
            return state.phase is Phase.TRACED and (state.step, state.m) == Unlucky.fault

    def make(self, step: int, m: int, state: Any, acc: Any, batch: Any) -> Link:
        kind = LINKS["one bit of one gradient"] if (step, m) == self.fault else Link
        return kind(cases.job(), step, m, state, acc, batch)


def with_a_pardon(world: LinkWorld) -> LinkWorld:
    world.ledger.jobs.settled[world.ledger.account("worker-0")] = RULES.pardon_after
    return world


def check_money_but_the_count(world: LinkWorld) -> None:
    """No segment has settled here, and the audit says so; it finds nothing else."""
    assert sum(world.before.values()) == sum(world.ledger.balances().values())
    with pytest.raises(AssertionError, match=r"^segment 1, dispute: its provider is pardoned after 0 settled segments[^\n]*$"):
        check_audit(world.ledger)


def test_a_fault_of_the_hardware_costs_the_price_alone_once_in_a_thousand_segments() -> None:
    world = with_a_pardon(network(worker_0=part("worker", Unlucky)))
    assert world.run(until=lambda: bool(events(world, BondCleared))), told(world)
    (pardoned,), (withheld,) = events(world, Pardoned), events(world, Withheld)
    assert all((e.outcome, e.taken) == (Outcome.CONCEDED, 0) for e in events(world, DisputeResolved))
    assert (pardoned.until, withheld.no) == (pardoned.time + PARAMS.challenge_window, 3)
    assert events(world, BondCleared)[0].amount == BOND
    assert gained(world, "worker-0") == 0
    assert all(gained(world, f"verifier-{i}") == OPTIONS.fee for i in range(3))
    check_money_but_the_count(world)


def test_without_a_thousand_settled_segments_it_costs_what_any_concession_does() -> None:
    world = network(worker_0=part("worker", Unlucky))
    assert world.run(until=lambda: bool(events(world, BondCleared))), told(world)
    assert not events(world, Pardoned)
    assert [e.taken for e in events(world, DisputeResolved) if e.taken] == [BOND // 2]
    assert gained(world, "worker-0") == -BOND // 2
    check_money(world)


class Owns(LinkHands):
    """Computes nothing, and concedes each link that it is asked for."""

    class party(LinkParty):
        def is_wrong(self, state: State) -> bool:
            return True

    def make(self, step: int, m: int, state: Any, acc: Any, batch: Any) -> Link:
        return LINKS["computes nothing"](cases.job(), step, m, state, acc, batch)


def test_who_is_pardoned_for_one_link_pays_for_the_next() -> None:
    world = with_a_pardon(network(worker_0=part("worker", Owns)))
    assert world.run(until=lambda: any(e.taken for e in events(world, DisputeResolved))), told(world)
    assert len(events(world, Pardoned)) == 1
    assert [(e.outcome, e.taken) for e in events(world, DisputeResolved) if e.taken] == [(Outcome.CONCEDED, BOND // 2)]
    assert gained(world, "worker-0") == -BOND // 2
    check_money_but_the_count(world)


# ---- killed anywhere -----------------------------------------------------------------------------------------------------


def played_out(crash: CrashAt | None = None) -> LinkWorld:
    world = network(crash=crash, worker_0=part("worker", PROVIDERS["takes products as zeros"]))
    assert world.run(until=lambda: bool(events(world, DisputeWithdrawn))), f"{crash}\n{told(world)}"
    return world


@pytest.mark.parametrize("name", ["worker-0", "verifier-0", "verifier-1", "verifier-2"])
def test_a_party_killed_anywhere_in_a_dispute_ends_it_as_it_would_have(name: str) -> None:
    """At nine of the places that lie in the dispute, evenly spread; down for three seconds each time."""
    calm = played_out()
    begun = next(time for time, _, note in calm.log if note.topic == "dispute")
    places = [point for point, time in enumerate(calm.passed[name]) if time >= begun]
    assert len(places) > 20
    for point in places[:: len(places) // 8]:
        found = played_out(CrashAt(name, point))
        resolved = events(found, DisputeResolved)[0]
        assert (resolved.outcome, resolved.taken) == (Outcome.ASSERTER_LOST, BOND), (name, point)
        assert gained(found, "worker-0") == -BOND
        check_money(found)


# ---- challengers ---------------------------------------------------------------------------------------------------------


class Refutes(LinkHands):
    """Says no to what is right, and disputes it; what it has replayed says nothing against it, so it falls silent."""

    def replay_unit(self, task: ReplayUnit) -> UnitReplayed:
        return msgspec.structs.replace(super().replay_unit(task), agrees=False, reason="because")


class Doubts(Refutes):
    """The same, and it points somewhere all the same, down to an element."""

    def make_move(self, task: MakeMove) -> MoveMade:
        made = super().make_move(task)
        if task.side is not Side.CHALLENGER or not made.why.startswith("in "):
            return made
        record, facts = self.known(task)
        state = state_of(record, facts)
        ran = self.ran(task)
        doubter = Doubter(ran.__getitem__, Tree([merkle.PAD]), made_up(task), seed=record.block)
        return msgspec.structs.replace(made, move=doubter.move(state, record.moves[-1].move), why="")


def made_up(task: MakeMove) -> Open:
    assert task.opening is not None
    return task.opening


@pytest.mark.parametrize("kind", [Refutes, Doubts])
def test_a_false_challenge_costs_its_bond_and_pays_the_provider(kind: type[LinkHands]) -> None:
    world = network(verifier_0=part("verifier", kind))
    assert world.run(), told(world)
    (paid,) = events(world, DisputePaid)
    assert (paid.outcome, paid.to_asserter, paid.burnt) == (Outcome.ASSERTER_WON, RULES.bond - RULES.bond // 2, RULES.bond // 2)
    assert gained(world, "worker-0") == PRICE + RULES.bond - RULES.bond // 2
    assert gained(world, "verifier-0") == -RULES.bond
    assert gained(world, "verifier-1") == gained(world, "verifier-2") == OPTIONS.fee
    check_money(world)


class Throws(LinkHands):
    """A friend of the provider's: challenges before the others, and then says nothing."""

    def make_move(self, task: MakeMove) -> MoveMade:
        made = super().make_move(task)
        thrown = task.side is Side.CHALLENGER and not isinstance(made.move, Open | None)
        return msgspec.structs.replace(made, move=None, why="enough") if thrown else made


class NeverOpens(LinkHands):
    """A friend of the provider's who does not even open what it sealed."""

    def make_move(self, task: MakeMove) -> MoveMade:
        made = super().make_move(task)
        return msgspec.structs.replace(made, move=None, why="enough") if task.side is Side.CHALLENGER else made


@pytest.mark.parametrize("kind", [Throws, NeverOpens])
@pytest.mark.parametrize("name", ["verifier_0", "verifier_1", "verifier_2"])
def test_a_friend_who_challenges_first_and_throws_the_game_saves_nobody(kind: type[LinkHands], name: str) -> None:
    """Whatever its place in the draw, its turn is at once."""
    world = network(worker_0=part("worker", PROVIDERS["computes nothing"]), **{name: first_at_once(kind)})
    assert world.run(until=lambda: any(e.to_challenger > RULES.bond for e in events(world, DisputePaid))), told(world)
    lost = [event for event in events(world, DisputeResolved) if event.taken]
    assert [(e.outcome, e.taken) for e in lost] == [(Outcome.ASSERTER_LOST, BOND)]
    assert gained(world, name.replace("_", "-")) <= 0
    check_money(world)


def one_bit(op: str) -> type[Link]:
    """One bit of what the first stage with an operator puts out, in every micro-batch."""
    return computing(op, lambda y, _: flipped(y, 3, 23))


class Errs(LinkHands):
    """Replays micro-batches on a machine with a fault of its own."""

    kind: type[Link]

    def replay_unit(self, task: ReplayUnit) -> UnitReplayed:
        found, key = super().replay_unit(task), ("link", task.segment, task.unit)
        if key not in self.disk or self.disk[key].is_update:
            return found
        right = self.disk[key]
        wrong = self.kind(cases.job(), right.step, right.m, right.state, right.acc, right.batch)
        self.disk[key], self.disk["trace", task.segment, task.unit] = wrong, wrong.contents
        return msgspec.structs.replace(found, agrees=False, trace_root=wrong.trace.root, reason="it ends elsewhere")


def first_at_once(kind: type[LinkHands]) -> Part:
    """A verifier who waits for nobody drawn before it."""
    return Part(lambda me: VerifierMachine(msgspec.structs.replace(verifier_config(me), patience=0)), lambda me: kind(me.chain, me.keys, me.options))


def refuted_all_the_same(world: LinkWorld) -> None:
    assert world.run(until=lambda: any(e.to_challenger > RULES.bond for e in events(world, DisputePaid))), told(world)
    assert [(e.outcome, e.taken) for e in events(world, DisputeResolved) if e.taken] == [(Outcome.ASSERTER_LOST, BOND)]
    assert gained(world, "worker-0") <= RULES.bond - RULES.bond // 2 - BOND
    check_money(world)


@pytest.mark.parametrize(("providers", "challengers", "right"), [("exp", "log", True), ("log", "exp", False)])
def test_where_both_are_wrong_the_first_of_their_faults_decides(providers: str, challengers: str, right: bool) -> None:
    """The provider's bond is lost either way: to who is first where its fault is the earlier one, else to the next, who makes none."""
    erring = type("Erring", (Errs,), {"kind": one_bit(challengers)})
    world = network(worker_0=part("worker", providing(one_bit(providers))), verifier_0=first_at_once(erring))
    refuted_all_the_same(world)
    outcome = next(e.outcome for e in events(world, DisputePaid) if world.name_of(world.ledger.disputes.record(e.dispute).challenger) == "verifier-0")
    assert outcome is (Outcome.ASSERTER_LOST if right else Outcome.ASSERTER_WON)
    assert (gained(world, "verifier-0") > 0) is right


class PointsLater(Errs):
    """Knows where the provider's fault is, and points at a stage behind it, which is right given what the false one put out."""

    kind = one_bit("exp")

    def make_move(self, task: MakeMove) -> MoveMade:
        made = super().make_move(task)
        if task.side is not Side.CHALLENGER or isinstance(made.move, Open):
            return made
        record, facts = self.known(task)
        doubter = Doubter(self.ran(task).__getitem__, Tree([merkle.PAD]), made_up(task), 1, {Phase.TRACE: 1 + at("sum")})
        return msgspec.structs.replace(made, move=doubter.move(state_of(record, facts), record.moves[-1].move), why="")


def test_who_points_at_a_later_difference_loses_its_bond_and_the_next_wins() -> None:
    world = network(worker_0=part("worker", providing(one_bit("exp"))), verifier_0=first_at_once(PointsLater))
    refuted_all_the_same(world)
    assert gained(world, "verifier-0") <= OPTIONS.fee - RULES.bond
    ended = {world.name_of(world.ledger.disputes.record(e.dispute).challenger): e.outcome for e in events(world, DisputeResolved)}
    assert ended["verifier-0"] is Outcome.ASSERTER_WON


class SaysYes(LinkHands):
    """Replays nothing and agrees, with a trace that it made up and can open."""

    def replay_unit(self, task: ReplayUnit) -> UnitReplayed:
        found = super().replay_unit(task)
        trace = [merkle.sha256(b"made up", item) for item in self.disk["trace", task.segment, task.unit]]
        self.disk["trace", task.segment, task.unit] = trace
        return msgspec.structs.replace(found, agrees=True, reason="", trace_root=merkle.root_of(trace), proven=False)


def test_a_verifier_that_agreed_with_a_made_up_trace_loses_its_draw_bond() -> None:
    """It concedes, since its own run shows that it was wrong; one who does not would lose all."""
    world = network(verifier_0=part("verifier", SaysYes))
    assert world.run(), told(world)
    (resolved,) = events(world, DisputeResolved)
    bond = PARAMS.draw_bond
    assert (resolved.outcome, resolved.taken) == (Outcome.CONCEDED, bond // 2), told(world)
    assert gained(world, "verifier-0") == -(bond // 2)
    assert gained(world, "worker-0") == PRICE
    check_money(world)


class StandsByIt(SaysYes):
    class party(LinkParty):
        def is_wrong(self, state: State) -> bool:
            return False


def test_a_verifier_that_stands_by_a_made_up_trace_loses_all_of_its_draw_bond() -> None:
    world = network(verifier_0=part("verifier", StandsByIt))
    assert world.run(), told(world)
    (resolved,), (paid,) = events(world, DisputeResolved), events(world, DisputePaid)
    bond = PARAMS.draw_bond
    assert (resolved.outcome, resolved.taken) == (Outcome.ASSERTER_LOST, bond), told(world)
    assert paid.to_challenger == RULES.bond + bond - bond // 2
    assert gained(world, "verifier-0") == -bond
    assert gained(world, "worker-0") == PRICE
    check_money(world)


def test_lying_verifiers_who_attest_a_lie_fall_with_it() -> None:
    """A provider and two of its three verifiers are one: the third disputes the link, and the votes for it."""
    friend = part("verifier", StandsByIt)
    world = network(worker_0=part("worker", PROVIDERS["takes products as zeros"]), verifier_0=friend, verifier_1=friend)
    assert world.run(until=lambda: len(events(world, DisputePaid)) == 3), told(world)
    taken = {world.name_of(e.who): e.amount for e in events(world, Slashed)}
    assert taken == {"worker-0": BOND, "verifier-0": PARAMS.draw_bond, "verifier-1": PARAMS.draw_bond}
    assert gained(world, "verifier-2") > BOND // 2
    check_money(world)


# ---- strangers -----------------------------------------------------------------------------------------------------------


class Stranger(LinkWorld):
    """With an account that is no party to anything."""

    def _people(self) -> None:
        self.stranger = self.ledger.account("stranger", tokens=100 * RULES.bond)
        self.calls = 0
        super()._people()

    def stranger_calls(self, call: Any) -> None:
        self.calls += 1
        self.chain.call(self.stranger, CallId(f"stranger:{self.calls}"), call, lambda _: None)

    @property
    def lost(self) -> int:
        view = self.ledger.view(self.stranger)
        return 100 * RULES.bond - view.tokens - view.dispute_credit


class Griefer(Stranger):
    """Seals four disputes over whatever is attested and opens none: each costs twice the one before."""

    def _on_block(self) -> None:
        before = len(events(self, Attested))
        super()._on_block()
        if before and not self.calls:
            for i in range(4):
                self.stranger_calls(SealDispute(segment=SegmentId(1), digest=merkle.sha256(bytes([i]))))


def test_whoever_opens_disputes_to_stall_pays_the_provider_for_it() -> None:
    world = network(world=Griefer)
    assert world.run(), told(world)
    assert isinstance(world, Griefer)
    stakes = sum(RULES.bond << i for i in range(4))
    assert [e.outcome for e in events(world, DisputePaid)] == [Outcome.ASSERTER_WON] * 4
    assert world.lost == stakes
    assert gained(world, "worker-0") == PRICE + stakes // 2
    check_money(world)


class Thief(Stranger):
    """Seals again what another has sealed, and opens what another opens."""

    def _on_block(self) -> None:
        super()._on_block()
        disputes = self.ledger.disputes.disputes
        if len(disputes) == 1 and not self.calls:
            record = self.ledger.disputes.record(DisputeId(1))
            self.stranger_calls(SealDispute(segment=record.segment, digest=record.digest))
        elif len(disputes) > 1 and self.calls == 1 and (moves := self.ledger.disputes.record(DisputeId(1)).moves):
            self.stranger_calls(PlayMove(dispute=DisputeId(2), move=moves[0].move, shown=shown(disputes[DisputeId(2)].state)))


def test_a_stolen_challenge_opens_nothing() -> None:
    world = network(world=Thief, worker_0=part("worker", PROVIDERS["computes nothing"]))
    assert world.run(until=lambda: len(events(world, DisputePaid)) > 1), told(world)
    assert isinstance(world, Thief)
    assert world.calls == 2
    own, stolen = (next(e for e in events(world, DisputeResolved) if e.dispute == d) for d in (1, 2))
    assert (own.outcome, own.taken) == (Outcome.ASSERTER_LOST, BOND)
    assert stolen.outcome == Outcome.ASSERTER_WON
    assert world.lost == 2 * RULES.bond
    check_money(world)
