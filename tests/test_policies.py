"""Policies in the simulated network: jobs settle under each, and what each sees of one poisoned link."""

from __future__ import annotations

from functools import partial

import pytest

from assay import economics, policy
from assay.chain import SegmentState
from assay.economics import Case
from assay.sim import Options, World
from assay.sim.options import FAST
from assay.sim.report import report
from tests.liars import workers

STEPS, MICROS = 8, 1
LINKS = STEPS * (MICROS + 1)


def options(name: str, **changes: int) -> Options:
    params = policy.params_for(name, FAST)
    return Options(steps=STEPS, segment_steps=STEPS, micro_batches=MICROS, verifiers=params.verifiers, params=params, **changes)


@pytest.mark.parametrize("name", policy.POLICIES)
def test_a_job_settles_under_each_policy(name: str) -> None:
    world = World(options(name), 5)
    found = report(world, world.run(), 0.0)
    assert found.problems == []
    assert found.outcomes == {"settled": 1}
    (segment,) = world.receipts.segments.values()
    links, committee = policy.POLICIES[name].links, policy.POLICIES[name].verifiers
    assert len(segment.units) == (links or LINKS)
    assert len(segment.verifiers) == committee
    assert sum(found.paid[f"verifier-{i}"] for i in range(committee)) == committee * world.options.fee


def decided(world: World) -> bool:
    return any(s.state in (SegmentState.WITHHELD, SegmentState.ATTESTED) for s in world.receipts.segments.values())


def withheld(name: str, seed: int) -> bool:
    """Whether a segment of one poisoned link, another with each seed, is refused; a worker that does it is the only one."""
    world = World(options(name, workers=1), seed, {"worker-0": workers.one_link(seed % LINKS)})
    assert world.run(until=partial(decided, world)), f"seed {seed}"
    (segment,) = world.receipts.segments.values()
    assert (segment.state == SegmentState.WITHHELD) == (seed % LINKS in segment.units), "seen if and only if it was drawn"
    return segment.state == SegmentState.WITHHELD


def test_spot_misses_one_poisoned_link_as_often_as_the_formula_says() -> None:
    runs = 160
    found = sum(withheld("spot", seed) for seed in range(runs))
    p = economics.found(economics.link_share(Case(steps=STEPS, micro_batches=MICROS, micro_weight=1, update_weight=1)), 2)
    assert 0 < found < runs / 2
    assert abs(found - runs * p) <= 4 * (runs * p * (1 - p)) ** 0.5, f"{found} of {runs}, expected {p:.3f}"


def test_every_step_finds_it_wherever_it_is() -> None:
    assert all(withheld("every-step", seed) for seed in range(LINKS))
