"""Large simulated networks: their nodes share what the chain has told, and everything else is as in a small one."""

from __future__ import annotations

import gc
import json
import re
import time
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from assay.adapters.memory_stakes import JOBS
from assay.chain import SegmentState, Slashed
from assay.cli.app import app
from assay.ids import SegmentId
from assay.sim import CrashAt, Options, World
from assay.sim.cast import HONEST, Part, Self, worker_config
from assay.sim.invariants import Broken
from assay.sim.options import FAST
from assay.sim.report import report
from assay.sim.timeline import draw
from assay_worker.machine import WorkerMachine
from tests.audited import check_audit

LARGE = Options(
    shared=True, fanout=6, jobs=10, every=2.0, steps=12, segment_steps=2, workers=120, verifiers=80, step_seconds=5.0, schedulers=2, key_services=2
)  # fmt: skip
ROUGH = msgspec.structs.replace(
    LARGE, loss=0.05, churn=2.0, partitions=4.0, leaving=0.5, liars=0.1, stragglers=0.1, patience=30_000.0, deadline=14_000
)


def play(options: Options, seed: int = 3) -> World:
    world = World(options, seed)
    finished = world.run()
    found = report(world, finished, 0.0)
    assert found.problems == [], f"seed {seed}: {found.problems}"
    world.invariants.count()
    return world


def ends(world: World) -> list[bytes | None]:
    """Of the jobs in the order of their programs: the state that each ended in."""
    out = {}
    for job in world.posted:
        last = world.receipts.last_good(job)
        out[world.specs[job].name] = last.end_root if last is not None and world.receipts.finished(job) else None
    return [out[name] for name in sorted(out)]


def test_two_hundred_nodes_end_as_a_small_network_does() -> None:
    """The same jobs, every node told every event and keeping a journal: other providers, the same bits, everybody paid alike."""
    large = play(msgspec.structs.replace(LARGE, jobs=3))
    small = play(msgspec.structs.replace(LARGE, jobs=3, workers=3, verifiers=5, shared=False, fanout=0, schedulers=1, key_services=1))
    assert ends(large) == ends(small)
    assert None not in ends(large)
    assert large.changes()["client"] == small.changes()["client"]


def test_whatever_goes_wrong_every_job_ends_in_the_state_of_an_undisturbed_run() -> None:
    rough, calm = play(ROUGH), play(LARGE)
    assert ends(rough) == ends(calm)
    assert None not in ends(rough)
    states = {s.state for s in rough.receipts.segments.values()}
    assert SegmentState.WITHHELD in states  # a liar was met
    assert {i.what for i in rough.figures.incidents} >= {"crash", "left", "partition"}
    assert all(s.provider in rough.liars for s in rough.receipts.segments.values() if s.state == SegmentState.WITHHELD)


def test_a_large_run_is_repeated_by_its_seed() -> None:
    options = msgspec.structs.replace(ROUGH, jobs=3)
    one, two, other = play(options, 7), play(options, 7), play(options, 8)
    assert list(one.log) == list(two.log)
    assert one.figures.whole() == two.figures.whole()
    assert list(one.log) != list(other.log)


def test_the_audit_finds_nothing_in_what_a_large_network_left_on_chain() -> None:
    world = World(msgspec.structs.replace(LARGE, jobs=2), 1)
    world.ledger.forget = lambda before: None  # type: ignore[method-assign]  # the audit reads the chain from its beginning
    assert world.run()
    check_audit(world.ledger)


def test_what_a_reader_keeps_does_not_grow_with_the_segments_that_are_over() -> None:
    options = msgspec.structs.replace(LARGE, steps=40, jobs=4, deadline=100_000)
    world = World(options, 1)
    kept = []

    def watch() -> None:
        kept.append(max(len(reader.facts.segments) for reader in world.readers))
        world.clock.after(200.0, watch)

    world.clock.after(200.0, watch)
    assert world.run()
    assert len(world.receipts.segments) >= 80
    assert max(kept) <= 60
    world.run(until=lambda: False, limit=world.clock.now + 10)  # until the schedulers know that the last job is closed
    for node in world.of_role["scheduler"]:
        state = node.core.machine.state
        assert (state.jobs, state.job_of, state.bids, state.soliciting, state.turns) == ({}, {}, {}, {}, {})
        assert state.closed == 4


def test_a_large_run_leaves_nothing_behind_that_only_the_collector_would_find() -> None:
    """It is off during such a run (`World.run`)."""
    world = World(msgspec.structs.replace(LARGE, jobs=4, loss=0.02), 1)
    found: list[int] = []
    for at in (20.0, 500.0):
        world.clock.after(at, lambda: found.append(gc.collect()))
    assert world.run(until=lambda: len(found) == 2)
    assert len(world.receipts.segments) >= 20
    assert found[1] < 10


# ---- rules -------------------------------------------------------------------------------------------------------------------


def test_money_that_vanishes_is_noticed() -> None:
    world = World(LARGE, 1)
    world.run(limit=60)
    world.ledger.token.balance[JOBS] -= 1
    with pytest.raises(Broken, match=r"seed 1, after \d+ s: there were"):
        world.invariants.count()


def test_a_debt_that_is_not_held_is_noticed() -> None:
    world = World(LARGE, 1)
    world.run(limit=60)
    world.ledger.jobs.credit[world.client] = 5
    with pytest.raises(Broken, match="the contract holds"):
        world.invariants.count()


def test_a_bond_that_stays_in_a_settled_segment_is_noticed() -> None:
    world = play(msgspec.structs.replace(LARGE, jobs=1))
    settled = next(s for s in world.ledger.jobs.segments.values() if s.state == SegmentState.SETTLED)
    world.ledger.stakes.reserve(settled.provider, settled.number, 7)
    with pytest.raises(Broken, match=f"7 of worker-.* are stuck in segment {settled.number}, which is settled"):
        world.invariants.count()


def test_a_slashed_honest_node_is_noticed() -> None:
    world = World(LARGE, 1)
    event = Slashed(block=1, time=1, index=0, who=world.nodes["worker-3"].account, segment=SegmentId(1), amount=9, burnt=9)
    with pytest.raises(Broken, match="worker-3, which is honest, was slashed 9"):
        world.invariants.see(event)


@pytest.mark.parametrize("seed", range(4))
def test_reorganisations_change_nothing(seed: int) -> None:
    options = Options(jobs=2, steps=6, workers=3, verifiers=5)
    calm, rough = World(options, seed), World(msgspec.structs.replace(options, reorgs=120), seed)
    assert calm.run()
    assert rough.run()
    assert ends(rough) == ends(calm)
    assert any(i.what == "reorganisation" for i in rough.figures.incidents)
    assert report(rough, True, 0.0).problems == []


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_a_job_whose_scheduler_is_gone_for_good_is_finished_by_another(share: float) -> None:
    """Killed with its disk, at a share of its way; who takes over has the chain and the blobs."""
    options = Options(steps=8, workers=3, verifiers=5, schedulers=2)
    calm = World(options, 2)
    assert calm.run()
    point = int(share * len(calm.points["scheduler-0"]))
    world = World(options, 2, crash=CrashAt("scheduler-0", point, wipe=True, forever=True))
    assert world.run()
    assert ends(world) == ends(calm)
    assert None not in ends(world)
    assert any(name == "scheduler-1" and note.topic == "takeover" for _, name, note in world.log)


def test_a_provider_that_becomes_slow_hands_over_what_it_has_not_done_and_is_paid_for_the_rest() -> None:
    """The cheapest of three gets every segment, until it takes twenty times as long for a step."""

    def cheap(me: Self) -> WorkerMachine:
        return WorkerMachine(msgspec.structs.replace(worker_config(me), price_per_step=me.options.price_cap // 4))

    options = Options(steps=48, segment_steps=8, workers=3, verifiers=5, params=msgspec.structs.replace(FAST, depth=8, lease_window=3600))
    world = World(options, 4, {"worker-0": Part(cheap, HONEST["worker"].hands)})
    slow = world.nodes["worker-0"]

    def three_committed() -> bool:
        return sum(s.end_root is not None for s in world.receipts.segments.values()) >= 3

    assert world.run(until=three_committed)
    slow.pace = 20.0
    assert world.run()
    assert "straggler" in {note.topic for _, _, note in world.log}
    segments = list(world.receipts.segments.values())
    short = [s for s in segments if s.stop % 8 and s.provider == slow.account]
    assert short
    assert all(s.state == SegmentState.SETTLED for s in segments)
    assert all(s.provider != slow.account for s in segments if s.start >= short[-1].stop)
    assert ends(world) == ends(play(options))


# ---- the product ---------------------------------------------------------------------------------------------------------------


def test_the_command_draws_a_picture_and_tells_the_figures(tmp_path: Path) -> None:
    picture = tmp_path / "run.svg"
    words = "sim --seeds 1 --workers 30 --verifiers 20 --share --jobs 3 --leaving 0.5 --json --timeline"
    done = CliRunner().invoke(app, [*words.split(), str(picture)])
    assert done.exit_code == 0, done.output
    (figures,) = json.loads(done.output)["figures"]
    assert 0 < figures["useful_share"] < 1
    assert figures["first_step_median_s"] > 0
    text = picture.read_text()
    assert text.startswith("<svg")
    assert text.rstrip().endswith("</svg>")
    assert "seed 0: 6 segments of 3 jobs" in text


def test_a_run_that_breaks_a_rule_says_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.sim.invariants import Invariants

    def broken(self: Invariants) -> None:
        raise self._broken("the moon fell down")

    monkeypatch.setattr(Invariants, "count", broken)
    done = CliRunner().invoke(app, ["sim", "--first", "41", "--seeds", "2", "--workers", "4", "--churn", "7", "--latency", "0.3"])
    assert done.exit_code == 1
    said = re.sub(r"\s+", " ", done.output)
    assert "the moon fell down" in said
    assert "assay sim --seeds 1 --first 41 --exact --latency 0.3 --jobs 3 --workers 4 --verifiers 5 --loss 0.05 --churn 7 --partitions 2" in said


def test_options_that_exclude_each_other_are_refused() -> None:
    for words in (["--share", "--reorgs", "3"], ["--exact", "--leaving", "0.1"]):
        assert CliRunner().invoke(app, ["sim", *words]).exit_code == 2
    for options in (Options(shared=True, reorgs=1.0), Options(leaving=0.1)):
        with pytest.raises(ValueError, match="shares its facts"):
            World(options, 1)


def test_the_picture_shows_every_kind_of_end_and_escapes_names() -> None:
    world = play(ROUGH)
    text = draw(world)
    for colour in ("#4c9f70", "#c0392b"):
        assert f'fill="{colour}"' in text
    assert text.count("<rect") > len(world.figures.work) / 2


# ---- slow ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_thousand_nodes() -> None:
    """All rules hold; what they cost is measured in bench/sim.py."""
    options = Options(
        shared=True, fanout=6, schedulers=4, key_services=20, jobs=400, every=0.5, steps=20, segment_steps=2, workers=6500, verifiers=3500,
        step_seconds=60.0, leaving=0.05, loss=0.01, liars=0.01, stragglers=0.02, deadline=100_000,
    )  # fmt: skip
    begun = time.process_time()
    world = play(options)
    assert None not in ends(world)
    assert len(world.receipts.segments) >= 4000
    print(f"{time.process_time() - begun:.0f} s of CPU")
