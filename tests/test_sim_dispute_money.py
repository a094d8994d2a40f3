"""Who is paid, and who is given time, around a dispute in the simulated network: the fees of those who said no, the refund of who sealed over a vote
that fell meanwhile, the time of a replay, the concession that costs the price alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from assay.chain import (
    BondCleared,
    Committed,
    Credited,
    DisputeOpened,
    DisputePaid,
    DisputeResolved,
    DisputeSealed,
    JobClosed,
    Outcome,
    Pardoned,
    Served,
    Settled,
)
from assay.dispute.moves import Phase, State
from assay.dispute.proofs import Link
from assay.runtime import AnyEffect, AnyEvent, Do, Wake, Woke
from assay.sim import CrashAt
from assay.sim.cast import Part, Self, verifier_config, worker_config
from assay.tasks import ServeUnits
from assay_verifier.machine import VerifierMachine
from assay_worker.machine import WorkerMachine
from tests import dispute_cases as cases
from tests.liars.links import LINKS, PROVIDERS
from tests.link_world import OPTIONS, PARAMS, RULES, LinkHands, LinkParty, LinkWorld
from tests.test_sim_disputes import BOND, PRICE, Doubts, SaysYes, ServesOthers, check_money, events, gained, network, part, told

VERIFIERS = [f"verifier-{i}" for i in range(3)]


def fees(world: LinkWorld) -> list[tuple[str, int]]:
    return sorted((world.name_of(e.who), e.amount) for e in events(world, Credited) if e.reason == "fee")


# ---- fees of those who said no -------------------------------------------------------------------------------------------------


def test_who_said_no_is_paid_when_a_dispute_bears_it_out() -> None:
    """Not before: a no asserts nothing that could be disputed."""
    world = network(worker_0=part("worker", PROVIDERS["takes products as zeros"]))
    assert world.run(until=lambda: bool(events(world, DisputeOpened))), told(world)
    assert fees(world) == []
    assert world.run(until=lambda: bool(events(world, BondCleared))), told(world)
    assert fees(world) == [(name, OPTIONS.fee) for name in VERIFIERS]
    check_money(world)


def test_the_fees_of_a_no_that_nobody_bears_out_go_back_to_the_client() -> None:
    world = network(worker_0=part("worker", ServesOthers))
    assert world.run(until=lambda: bool(events(world, JobClosed)) and bool(events(world, BondCleared))), told(world)
    assert not world.ledger.disputes.disputes
    assert fees(world) == []
    assert all(gained(world, name) == 0 for name in VERIFIERS)
    assert gained(world, "client") == 0
    check_money(world)


# ---- who sealed over a vote that fell ------------------------------------------------------------------------------------------


def hasty(kind: type[LinkHands] = LinkHands) -> Part:
    """A verifier whose turn to challenge is at once."""
    return Part(lambda me: VerifierMachine(msgspec.structs.replace(verifier_config(me), patience=0)), lambda me: kind(me.chain, me.keys, me.options))


def over_a_vote(crash: CrashAt | None = None) -> LinkWorld:
    world = network(crash=crash, verifier_0=part("verifier", SaysYes), verifier_1=hasty(), verifier_2=hasty())
    assert world.run(), f"{crash}\n{told(world)}"
    return world


def after(world: LinkWorld, name: str, happened: Callable[[Any], bool]) -> int:
    """The first place at which a node could be killed once it has said something."""
    time = next(time for time, who, note in world.log if who == name and happened(note))
    return next(point for point, passed in enumerate(world.passed[name]) if passed >= time)


def down_when(happened: Callable[[LinkWorld, Any], bool]) -> LinkWorld:
    """Two verifiers are about to dispute the false vote of the third; one goes down for a while, and the other wins."""
    calm = over_a_vote()
    assert len(events(calm, DisputeSealed)) == 2
    world = over_a_vote(CrashAt("verifier-2", after(calm, "verifier-2", lambda note: happened(calm, note)), down=25))
    brought = {event.dispute for event in events(world, DisputeSealed) if world.name_of(event.challenger) == "verifier-1"}
    assert [event.outcome for event in events(world, DisputePaid) if event.dispute in brought] == [Outcome.CONCEDED]
    assert gained(world, "verifier-0") == -(PARAMS.draw_bond // 2)
    assert gained(world, "verifier-2") == OPTIONS.fee
    assert gained(world, "worker-0") == PRICE
    check_money(world)
    return world


def test_who_sealed_over_a_vote_that_fell_meanwhile_has_its_bond_back() -> None:
    """It opens what it has sealed when it is up again."""
    world = down_when(lambda calm, note: f"sealed by {calm.nodes['verifier-2'].account}" in note.text)
    sealed = {world.name_of(event.challenger): event for event in events(world, DisputeSealed)}
    (paid,) = [event for event in events(world, DisputePaid) if event.dispute == sealed["verifier-2"].dispute]
    assert (paid.outcome, paid.to_challenger, paid.burnt) == (Outcome.VOID, RULES.bond, 0), told(world)


def test_who_has_not_sealed_yet_does_not_when_it_learns_late_that_the_vote_fell() -> None:
    """A node that comes up reads what happened in order, so it suspects the vote before it reads of its end; the contract says so first."""
    world = down_when(lambda _, note: note.topic == "dispute" and "is to be disputed" in note.text)
    assert {world.name_of(event.challenger) for event in events(world, DisputeSealed)} == {"verifier-1"}


# ---- the time of a replay ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("down", "outcome"), [(RULES.grace + RULES.budget + 30, Outcome.ASSERTER_WON), (PARAMS.seal_window + 100, Outcome.ASSERTER_LOST)]
)
def test_an_asserter_has_the_time_of_a_replay_before_its_clock_runs(down: int, outcome: Outcome) -> None:
    """A false challenge of a provider that is away: for more than grace and budget, as one that has to replay the link; or for longer than that."""
    cast = {"verifier_0": part("verifier", Doubts)}
    calm = network(**cast)
    assert calm.run(until=lambda: bool(events(calm, DisputeOpened))), told(calm)
    world = network(crash=CrashAt("worker-0", after(calm, "worker-0", lambda note: note.topic == "dispute"), down=down), **cast)
    assert world.run(until=lambda: bool(events(world, DisputePaid))), told(world)
    assert [event.outcome for event in events(world, DisputeResolved)] == [outcome], told(world)
    check_money(world)


# ---- a concession that costs the price alone -----------------------------------------------------------------------------------


class Unlucky(LinkHands):
    """One bit of one link of the second segment came out wrong; run again, it is seen."""

    fault = (2, 1)

    class party(LinkParty):
        def is_wrong(self, state: State) -> bool:
            return state.phase is Phase.TRACED and (state.step, state.m) == Unlucky.fault

    def make(self, step: int, m: int, state: Any, acc: Any, batch: Any) -> Link:
        kind = LINKS["one bit of one gradient"] if (step, m) == self.fault else Link
        return kind(cases.job(), step, m, state, acc, batch)


def test_a_fault_is_forgiven_after_segments_that_have_settled() -> None:
    """The rules of this network pardon once after every settled segment; the audit counts them from the chain."""
    rules = msgspec.structs.replace(RULES, pardon_after=1)
    options = msgspec.structs.replace(OPTIONS, steps=4, rules=rules, params=msgspec.structs.replace(PARAMS, depth=1))
    world = LinkWorld(options, 3, {role: part(role) for role in ("scheduler", "keyservice", "verifier")} | {"worker": part("worker", Unlucky)})
    assert world.run(until=lambda: bool(events(world, BondCleared))), told(world)
    assert [event.segment for event in events(world, Settled)] == [1]
    assert len(events(world, Pardoned)) == 1
    assert all((event.outcome, event.taken) == (Outcome.CONCEDED, 0) for event in events(world, DisputeResolved))
    assert events(world, BondCleared)[0].amount == BOND
    assert gained(world, "worker-0") == PRICE
    check_money(world)


# ---- what gains nothing --------------------------------------------------------------------------------------------------------


class ServesLate(WorkerMachine):
    """Serves what it must a few seconds before its time for that is over."""

    def __init__(self, me: Self) -> None:
        super().__init__(worker_config(me))
        self.held: dict[str, Do] = {}

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        if isinstance(event, Woke) and event.key in self.held:
            return [self.held.pop(event.key)]
        return [self._later(e, now) if isinstance(e, Do) and isinstance(e.task, ServeUnits) else e for e in super().handle(event, now, seed)]

    def _later(self, effect: Do, now: int) -> Wake:
        self.held[f"held:{effect.key}"] = effect
        return Wake(key=f"held:{effect.key}", at=now + PARAMS.serve_window - 15)


def test_who_serves_at_the_last_second_is_disputed_in_the_same_time() -> None:
    """The windows run from where it is served."""
    kind = PROVIDERS["takes products as zeros"]
    world = network(worker_0=Part(ServesLate, lambda me: kind(me.chain, me.keys, me.options)))
    assert world.run(until=lambda: bool(events(world, BondCleared))), told(world)
    (committed,), (served, *_) = events(world, Committed), events(world, Served)
    assert served.time - committed.time > PARAMS.serve_window - 20
    assert [(e.outcome, e.taken) for e in events(world, DisputeResolved) if e.taken] == [(Outcome.ASSERTER_LOST, BOND)]
    assert gained(world, "worker-0") == -BOND
    check_money(world)


class FalseAtTheEnd(Unlucky):
    """Computes all but the last link, and concedes it to a friend, that the others be kept."""

    fault = (1, 2)

    class party(LinkParty):
        def is_wrong(self, state: State) -> bool:
            return state.phase is Phase.TRACED

    def make(self, step: int, m: int, state: Any, acc: Any, batch: Any) -> Link:
        return (LINKS["computes nothing"] if (step, m) == self.fault else Link)(cases.job(), step, m, state, acc, batch)


def test_nothing_of_a_range_is_kept_whose_last_link_was_conceded() -> None:
    """The whole range is offered again, from where the segment began."""
    world = network(worker_0=part("worker", FalseAtTheEnd))
    assert world.run(until=lambda: bool(events(world, DisputePaid))), told(world)
    before = len(world.log)
    assert world.run(until=lambda: any("offered steps 0-2 of job 1" in note.text for _, _, note in list(world.log)[before:])), told(world)
    assert [(e.outcome, e.taken) for e in events(world, DisputeResolved)] == [(Outcome.CONCEDED, BOND // 2)]
    assert not events(world, Settled)
    assert gained(world, "worker-0") <= -BOND // 2
