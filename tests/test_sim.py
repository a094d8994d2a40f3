"""The simulated network: honest runs, everything that goes wrong, every liar, every place where a node can be killed.

All machines are the real ones. What is asserted is what the chain says at the end: who was paid, who was not, the reason on the
receipt, and the state that the training ended in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import msgspec
import pytest

from assay import reads
from assay.chain import SegmentState
from assay.ids import Digest
from assay.receipts import receipt
from assay.sim import CrashAt, Options, Report, World, run, summary
from assay.sim.cast import Part, load
from assay.sim.liars import INVENTS_EVERYTHING
from assay.sim.options import FAST
from assay.sim.records import RECORDS
from assay.sim.report import report
from tests.audited import check_audit
from tests.liars import clients, key_services, verifiers, workers

PRICE = 1_000_000
"""Of a segment of two steps: half the cap."""
SMALL = Options(steps=2, segment_steps=1, workers=1, verifiers=3)


class Run(NamedTuple):
    world: World
    report: Report

    def receipts(self, name: str) -> list[str]:
        """What the receipts say of the segments of one provider."""
        return [receipt(s) for s in self.world.receipts.segments.values() if self.world.name_of(s.provider) == name]

    def charged(self, name: str) -> list[str]:
        """The reasons for which a party lost stake."""
        segments = self.world.receipts.segments.values()
        return [p.reason for s in segments for p in s.payments if p.amount < 0 and self.world.name_of(p.who) == name]


def play(options: Options, seed: int = 5, cast: dict[str, Part] | None = None, world: type[World] = World, crash: CrashAt | None = None) -> Run:
    w = world(options, seed, cast, crash)
    finished = w.run()
    found = Run(w, report(w, finished, 0.0))
    assert found.report.problems == [], f"seed {seed}: {found.report.problems}"
    check_audit(w.ledger)
    return found


def final_root(world: World) -> Digest | None:
    last = world.receipts.last_good(world.posted[0])
    return last.end_root if last is not None else None


def honest_root(options: Options) -> Digest | None:
    return final_root(play(options).world)


# ---- nothing and everything goes wrong -----------------------------------------------------------------------------------


def test_an_honest_network_trains_checks_settles_and_pays() -> None:
    found = play(Options(jobs=3))
    paid = found.report.paid
    assert found.report.outcomes == {"settled": 6}
    assert sum(paid[f"worker-{i}"] for i in range(2)) == 6 * PRICE
    assert sum(paid[f"verifier-{i}"] for i in range(4)) == 6 * 3 * 50_000
    assert paid["client"] == -sum(amount for name, amount in paid.items() if name != "client")
    assert found.report.unnoticed == []


def test_a_run_is_repeated_by_its_seed() -> None:
    rough = Options(jobs=2, loss=0.1, churn=10, partitions=5)
    one, two, other = (play(rough, seed) for seed in (7, 7, 8))
    assert [(t, n, note) for t, n, note in one.world.log] == [(t, n, note) for t, n, note in two.world.log]
    assert one.world.ledger.events() == two.world.ledger.events()
    assert one.world.ledger.events() != other.world.ledger.events()


@pytest.mark.parametrize("seed", range(12))
def test_loss_churn_and_partitions_delay_a_job_and_change_nothing(seed: int) -> None:
    rough = Options(workers=3, verifiers=5, loss=0.15, churn=15, partitions=8)
    found = play(rough, seed)
    assert found.world.receipts.finished(found.world.posted[0]), f"seed {seed}"
    assert final_root(found.world) == honest_root(Options())
    assert found.report.unnoticed == []


def test_a_failing_run_names_its_seed() -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError) as error:
        list(run(Options(), seeds=[41], cast={"worker": Part(broken, workers.STALLS.hands)}, watch=None))
    assert any("seed 41" in note for note in error.value.__notes__)


# ---- workers that lie ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "reason", "charged"),
    [
        (INVENTS_EVERYTHING, "did not get the committed bits", []),
        (workers.SERVES_GARBAGE, "did not get the committed bits", []),
        (workers.STALLS, "its lease ran out with nothing committed", ["late"]),
        (workers.SERVES_WRONG_PROOFS, "were not served", []),  # both show their chunk on chain
        (workers.ANSWERS_GARBAGE, "were not served", []),
        (workers.SHOWS_NOTHING, "not served", []),
        (workers.VANISHES, "not served", ["late"]),  # its offer for the range behind its own stands, and is taken before anybody misses it
        (workers.FORGES_ITS_ENVELOPE, "keys withheld", []),
    ],
    ids=["invents", "serves other states", "stalls", "wrong proofs", "answers garbage", "shows nothing", "vanishes", "forges its key envelope"],
)
@pytest.mark.parametrize("seed", range(4))
def test_a_worker_that_does_not_do_its_work_is_not_paid_and_another_finishes(part: Part, reason: str, charged: list[str], seed: int) -> None:
    options = Options(steps=6, workers=2)
    found = play(options, seed, {"worker-0": part})
    told = found.receipts("worker-0")
    assert found.report.paid["worker-0"] <= 0
    assert all("is not paid" in text for text in told)
    if told:
        assert any(reason in text for text in told), told
        assert set(found.charged("worker-0")) <= set(charged)
    assert found.report.paid["worker-1"] == 3 * PRICE
    assert found.charged("worker-1") == []
    assert final_root(found.world) == honest_root(options)


def test_every_lying_worker_was_met_by_the_seeds_above() -> None:
    """Else the test above would say nothing: with these seeds each liar is assigned a segment at least once."""
    for part in (INVENTS_EVERYTHING, workers.STALLS, workers.VANISHES, workers.FORGES_ITS_ENVELOPE):
        assert any(play(Options(steps=6, workers=2), seed, {"worker-0": part}).receipts("worker-0") for seed in range(4))


def test_the_bond_of_what_verifiers_refuted_stays_reserved() -> None:
    found = next(f for f in (play(Options(), seed, {"worker-0": INVENTS_EVERYTHING}) for seed in range(9)) if f.receipts("worker-0"))
    lost = [s for s in found.world.receipts.segments.values() if s.state == SegmentState.WITHHELD]
    view = found.world.ledger.view(found.world.nodes["worker-0"].account)
    assert view.reserved == sum(s.price * FAST.bond_tenths // 10 for s in lost) > 0


def is_decided(world: World) -> bool:
    return any(s.state in (SegmentState.WITHHELD, SegmentState.ATTESTED) for s in world.receipts.segments.values())


def caught(links: int, k: int, seeds: range, false_link: Callable[[int], int]) -> int:
    """In how many of the runs the one false link is found. One segment, as many micro-batches as `links` asks for."""
    params = FAST.__class__(**{**{f: getattr(FAST, f) for f in FAST.__struct_fields__}, "links": k})
    options = Options(steps=1, segment_steps=1, micro_batches=links - 1, workers=1, verifiers=3, params=params)
    found = 0
    for seed in seeds:
        world = World(options, seed, {"worker-0": workers.one_link(false_link(seed))})
        assert world.run(until=partial(is_decided, world)), f"seed {seed}"
        (segment,) = world.receipts.segments.values()
        drawn = false_link(seed) in segment.units
        assert (segment.state == SegmentState.WITHHELD) == drawn, f"seed {seed}: caught if and only if it was drawn"
        found += drawn
    return found


@pytest.mark.parametrize(("links", "k"), [(4, 2), (8, 2), (4, 4)])
def test_one_false_link_is_caught_as_often_as_the_formula_says(links: int, k: int) -> None:
    """1 - (1-c)^k with c = 1/links; 1,000 seeds over the three cases, each within four standard deviations (fixed seeds)."""
    runs = range(334)
    p = 1 - (1 - 1 / links) ** k
    found = caught(links, k, runs, lambda seed: seed % links)
    assert abs(found - len(runs) * p) <= 4 * math.sqrt(len(runs) * p * (1 - p)), f"{found} of {len(runs)}, expected {p:.3f}"


# ---- verifiers that lie --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "charged"),
    [
        (verifiers.SAYS_THE_OPPOSITE, []),
        (verifiers.SAYS_YES, []),
        (verifiers.SLEEPS, []),
        (verifiers.SLEEPS_AFTER_RECEIPT, ["no-show"]),
        (verifiers.WAS_TOLD, ["no-show"]),
        (verifiers.COPIES_SEALS, ["no-show"]),
    ],
    ids=["says the opposite", "says yes unseen", "sleeps", "sleeps after its receipt", "was told the root", "copies a seal"],
)
def test_a_verifier_that_does_not_check_is_not_paid_and_the_worker_is(part: Part, charged: list[str]) -> None:
    # With this seed no drawn opening happens to be the last leaf of a made-up trace, which the audit would find.
    found = play(Options(workers=1, verifiers=3), 6, {"verifier-0": part})
    paid = found.report.paid
    assert found.report.outcomes == {"settled": 2}
    assert paid["worker-0"] == 2 * PRICE
    assert paid["verifier-1"] == paid["verifier-2"] == 2 * 50_000
    assert paid["verifier-0"] <= 0
    assert sorted(set(found.charged("verifier-0"))) == charged
    assert (paid["verifier-0"] < 0) == bool(charged)


@pytest.mark.parametrize("seed", range(3))
def test_a_quorum_that_denies_having_been_served_pays_for_it_and_the_worker_is_paid(seed: int) -> None:
    """Two of three say nothing in any round. What their provider shows on chain stands for their receipts; the third one's yes is not outvoted."""
    found = play(Options(workers=1, verifiers=3), seed, {f"verifier-{i}": verifiers.DENIES for i in range(2)})
    assert found.report.outcomes == {"settled": 2}
    assert found.report.paid["worker-0"] == 2 * PRICE
    assert found.charged("worker-0") == []
    assert found.report.paid["verifier-2"] == 2 * 50_000
    for liar in ("verifier-0", "verifier-1"):
        assert set(found.charged(liar)) == {"no-show"}
        assert found.report.paid[liar] < 0
    assert final_root(found.world) == honest_root(Options(workers=1, verifiers=3))


def test_a_whole_committee_that_denies_having_been_served_does_not_keep_the_worker_from_its_pay() -> None:
    found = play(Options(workers=1, verifiers=3), 5, {"verifier": verifiers.DENIES})
    assert found.report.outcomes == {"settled": 2}
    assert found.report.paid["worker-0"] == 2 * PRICE
    assert all(set(found.charged(f"verifier-{i}")) == {"no-show"} for i in range(3))


def test_who_denies_and_then_says_no_withholds_as_any_no_does_and_earns_nothing() -> None:
    found = play(Options(workers=1, verifiers=3, deadline=900), 5, {f"verifier-{i}": verifiers.DENIES_AND_SAYS_NO for i in range(2)})
    assert set(found.report.outcomes) <= {"withheld", "void", "lapsed"}
    assert found.report.paid["worker-0"] == 0
    assert all(found.report.paid[f"verifier-{i}"] <= 0 for i in range(3))


def test_two_lying_verifiers_of_three_can_withhold_and_never_take_the_stake() -> None:
    """A quorum that lies is what the draw must make unlikely; even then nobody is slashed by it."""
    cast = {f"verifier-{i}": verifiers.SAYS_THE_OPPOSITE for i in range(2)}
    options = Options(workers=1, verifiers=3, deadline=900)
    found = play(options, 5, cast)
    assert set(found.report.outcomes) <= {"withheld", "void"}
    assert found.report.paid["worker-0"] == 0
    assert all("did not get the committed bits" in text or "builds on" in text for text in found.receipts("worker-0"))


# ---- clients and key services --------------------------------------------------------------------------------------------


def test_a_client_that_withdraws_its_money_still_pays_for_what_is_running() -> None:
    found = play(Options(steps=8), world=clients.WithdrawsMoney)
    settled = found.report.outcomes.pop("settled")
    assert found.report.outcomes == {}
    assert 1 <= settled < 4
    assert found.report.paid["client"] == -settled * (PRICE + 3 * 50_000)


@pytest.mark.parametrize("world", [clients.WithholdsKeys], ids=["client"])
def test_a_client_whose_keys_do_not_open_gets_no_work_and_costs_nobody_anything(world: type[World]) -> None:
    found = play(Options(deadline=900), world=world)
    assert set(found.report.outcomes) == {"lapsed"}
    assert set(found.report.paid.values()) == {0}
    refused = [note.text for _, name, note in found.world.log if name == "keyservice-0" and note.topic == "refused"]
    assert refused
    assert "the client wrapped them to another key service" in refused[0]


def test_a_key_service_that_withholds_costs_the_workers_nothing() -> None:
    found = play(Options(deadline=900), cast={"keyservice": key_services.WITHHOLDS})
    assert set(found.report.outcomes) == {"lapsed"}
    assert set(found.report.paid.values()) == {0}


def test_a_key_service_that_withholds_from_verifiers_is_named_as_the_reason() -> None:
    found = play(Options(deadline=900), cast={"keyservice": key_services.WITHHOLDS_FROM_VERIFIERS})
    assert set(found.report.outcomes) <= {"unpaid", "void"}
    assert set(found.report.paid.values()) == {0}
    assert any("keys withheld" in text for i in range(2) for text in found.receipts(f"worker-{i}"))
    accounts = [found.world.nodes[f"worker-{i}"].account for i in range(2)]

    def free() -> bool:
        return all(found.world.ledger.view(account).reserved == 0 for account in accounts)

    assert found.world.run(until=free), "their bonds are free when nobody can dispute any more"


def test_a_key_service_that_gives_wrong_keys_gets_no_segment_run() -> None:
    """The worker finds the wrong key and runs nothing. (The late fee is charged: from the chain it looks as if it had its keys.)"""
    found = play(Options(deadline=900), cast={"keyservice": key_services.GIVES_WRONG_KEYS})
    assert set(found.report.outcomes) == {"lapsed"}
    told = [note.text for _, name, note in found.world.log if name.startswith("worker") and note.topic == "key"]
    assert any("the wrapped key is another one than" in text for text in told)


def test_a_key_service_that_gives_verifiers_false_keys_of_records_is_named_and_gets_no_receipt() -> None:
    """The bundles open, and what is in them opens no record: found before anybody says that it has what it needs."""
    found = play(Options(deadline=900), cast={"keyservice": key_services.GIVES_FALSE_RECORDS})
    named = [note for _, name, note in found.world.log if name.startswith("verifier") and note.topic == "false-keys"]
    assert named
    assert {note.data["party"] for note in named} == {found.world.nodes["keyservice-0"].account}
    without = {note.data["segment"] for note in named}  # draws of an update alone need no records
    checked = {note.data["segment"] for _, name, note in found.world.log if name.startswith("verifier") and note.topic in ("receipt", "replayed")}
    assert not checked & without


HELD = msgspec.structs.replace(SMALL, key_services=3, holders=2)


def told_by(found: Run, role: str, topic: str) -> list[str]:
    return [note.text for _, name, note in found.world.log if name.startswith(role) and note.topic == topic]


@pytest.mark.parametrize("asleep", ["keyservice-0", "keyservice-1"])
def test_with_key_holders_one_of_three_may_sleep(asleep: str) -> None:
    """Also the first, whom the contract knows: the others answer whoever the chain entitles."""
    found = play(HELD, cast={asleep: key_services.WITHHOLDS})
    assert set(found.report.outcomes) == {"settled"}
    assert all(told_by(found, f"keyservice-{i}", "released") for i in range(3) if f"keyservice-{i}" != asleep)  # on chain


def test_with_too_few_key_holders_awake_nothing_runs() -> None:
    found = play(msgspec.structs.replace(HELD, deadline=900), cast={f"keyservice-{i}": key_services.WITHHOLDS for i in (0, 2)})
    assert set(found.report.outcomes) == {"lapsed"}
    assert set(found.report.paid.values()) == {0}


@pytest.mark.parametrize("liar", ["keyservice-0", "keyservice-2"])
def test_a_key_holder_that_gives_false_shares_is_named_and_made_up_for(liar: str) -> None:
    found = play(HELD, cast={liar: key_services.GIVES_WRONG_KEYS})
    assert set(found.report.outcomes) == {"settled"}
    named = told_by(found, "worker", "false-share") + told_by(found, "verifier", "false-share")
    assert named
    assert all(found.world.nodes[liar].account in text for text in named)


def test_with_key_holders_too_a_drawn_verifier_ends_with_the_keys_of_its_records_alone() -> None:
    found = play(HELD)
    assert set(found.report.outcomes) == {"settled"}
    seen = 0
    for node in found.world.of_role["verifier"]:
        facts, keys = node.core.machine.state.facts, node.hands.keys
        for key_id, held in keys._records.items():
            seen += 1
            assert key_id not in keys._ring  # the shard's key is not here
            assert 0 < len(held.keys) < RECORDS
            due: set[int] = set()
            for seg in found.world.receipts.segments.values():
                spec = node.hands.spec(facts.jobs[seg.job].terms.spec) if seg.job in facts.jobs else None
                if spec is not None and spec.dataset.shards[0].sealed.key_id == key_id and node.account in seg.verifiers:
                    where = reads.places(seg.units, seg.start, spec.micro_batches)
                    due |= {index for some in reads.records(reads.reading(spec), where).values() for index in some}
            assert set(held.keys) <= due
    assert seen


# ---- killed anywhere -----------------------------------------------------------------------------------------------------

ROLES = ("scheduler-0", "keyservice-0", "worker-0", "verifier-0")


@cache
def without_crash() -> Run:
    return play(SMALL, 1)


def killed(name: str, places: Callable[[int], bool]) -> None:
    """Runs in which a node is killed at one of these places, down for three seconds, and up again from its journal."""
    calm = without_crash()
    points = calm.world.points[name]
    kinds = Counter(points)
    assert kinds["before append"] > 30
    assert kinds["before append"] == kinds["after append"]
    assert kinds["before Send"] + kinds["before Ask"] > 1
    for point, where in enumerate(points):
        if not places(point):
            continue
        found = play(SMALL, 1, crash=CrashAt(name, point))
        at = f"{name} killed {where} (place {point})"
        assert final_root(found.world) == final_root(calm.world), at
        assert found.report.outcomes == calm.report.outcomes, at
        assert found.report.paid == calm.report.paid, at


@pytest.mark.parametrize("name", ROLES)
def test_a_node_killed_at_any_journal_entry_and_around_any_effect_ends_where_it_would_have(name: str) -> None:
    """Every third place that a run passes, one after the other; places before something and after it take turns."""
    killed(name, lambda point: point % 3 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROLES)
def test_a_node_killed_at_any_other_place_does_too(name: str) -> None:
    killed(name, lambda point: point % 3 != 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["keyservice-1", "worker-0", "verifier-0"])
def test_with_key_holders_too_a_killed_node_ends_where_it_would_have(name: str) -> None:
    options = msgspec.structs.replace(SMALL, key_services=2, holders=2)
    calm = play(options, 1)
    for point in range(0, len(calm.world.points[name]), 3):
        found = play(options, 1, crash=CrashAt(name, point))
        at = f"{name} killed {calm.world.points[name][point]} (place {point})"
        assert (found.report.outcomes, found.report.paid) == (calm.report.outcomes, calm.report.paid), at


def test_a_worker_whose_disk_is_gone_too_is_replaced_and_the_job_ends_in_the_same_state() -> None:
    """Killed for good at every fifth place of its run, its disk deleted: another finishes the job, bit for bit."""
    options = Options(workers=2, verifiers=3)
    calm = play(options, 2)
    busy = max(("worker-0", "worker-1"), key=lambda name: len(calm.world.points[name]))
    for point in range(0, len(calm.world.points[busy]), 5):
        found = play(options, 2, crash=CrashAt(busy, point, wipe=True, forever=True))
        at = f"place {point}: {calm.world.points[busy][point]}"
        assert found.world.receipts.finished(found.world.posted[0]), at
        assert final_root(found.world) == final_root(calm.world), at


@pytest.mark.parametrize("name", ROLES)
def test_a_node_that_comes_back_with_an_empty_disk_does_no_harm(name: str) -> None:
    """At every seventh place: the chain is all that it has. Money adds up, and the job ends in the same state; but for one known gap
    (docs/scheduler.md): a provider that loses its disk between its commitment and the scheduler's copy leaves a state that nobody has."""
    options = Options(workers=2, verifiers=4)
    calm, lost = play(options, 2), 0
    for point in range(0, len(calm.world.points[name]), 7):
        found = play(options, 2, crash=CrashAt(name, point, wipe=True))
        at = f"{name}, place {point}: {calm.world.points[name][point]}"
        last = found.world.receipts.last_good(found.world.posted[0])
        if last is not None and not any(last.checkpoint in node.hands.store for node in found.world.nodes.values()):
            lost += 1
            assert name.startswith("worker"), at
            assert lost == 1, at
            continue
        assert found.world.receipts.finished(found.world.posted[0]), at
        assert final_root(found.world) == final_root(calm.world), at
        assert found.report.unnoticed == [], at


# ---- the product ---------------------------------------------------------------------------------------------------------


def test_a_summary_adds_up_and_a_part_can_be_put_in_by_name() -> None:
    node, part = load("worker-0=tests.liars.workers:STALLS")
    reports = list(run(Options(jobs=2, steps=6), seeds=range(3), cast={node: part}))
    whole = summary(reports)
    assert (whole["runs"], whole["finished"], whole["problems"]) == (3, 3, [])
    assert whole["segments"]["settled"] == 3 * 2 * 3
    assert whole["rejections"] == whole["segments"]["lapsed"] > 0
    for wrong in ("", "worker-0", "worker-0=nowhere:X", "worker-0=tests.liars.workers:NOBODY", "worker-0=tests.liars.workers:Stalls"):
        with pytest.raises(ValueError, match=r"is not NODE|not an assay|cannot be imported"):
            load(wrong)
