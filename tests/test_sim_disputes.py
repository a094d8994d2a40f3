"""Disputes in the simulated network: whoever lies is challenged by real machines, and each dispute ends with the right side paid."""

from __future__ import annotations

from typing import Any

import pytest

from assay.chain import DisputePaid, DisputeResolved, DisputeWithdrawn, Outcome
from assay.sim.cast import HONEST, Part
from tests.liars.links import PROVIDERS
from tests.link_world import OPTIONS, RULES, LinkHands, LinkWorld

PRICE = 1_000_000
BOND = 6 * PRICE


def part(role: str, kind: type[LinkHands] = LinkHands) -> Part:
    return Part(HONEST[role].machine, lambda me: kind(me.chain, me.keys, me.options))


def events(world: LinkWorld, kind: type[Any]) -> list[Any]:
    return [event for event in world.ledger.events() if isinstance(event, kind)]


def network(seed: int = 3, world: type[LinkWorld] = LinkWorld, **cast: Part) -> LinkWorld:
    named = {name.replace("_", "-"): part for name, part in cast.items()}
    return world(OPTIONS, seed, {**{role: part(role) for role in HONEST}, **named})


def told(world: LinkWorld) -> str:
    return "\n".join(f"{time:8.1f} {name:12} {note.text}" for time, name, note in world.log)


def gained(world: LinkWorld, name: str) -> int:
    return world.changes()[name]


def check_money(world: LinkWorld) -> None:
    assert sum(world.before.values()) == sum(world.ledger.balances().values())


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
