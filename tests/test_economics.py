"""The economics: formulas against the draws that the contract makes, rule 6, every kind of cheat at the defaults, the page, the policies' terms."""

from __future__ import annotations

import importlib.util
import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from assay import draw, economics, policy
from assay.adapters.memory_chain import MemoryLedger
from assay.chain import Deposit, Params, Register, TakeSeat, Terms
from assay.cid import of
from assay.cli.app import app
from assay.cli.common import Trouble
from assay.cli.jobs import _case, _terms
from assay.dispute.game import Payments, payments
from assay.dispute.turns import Verdict
from assay.economics import Case
from assay.ids import Address, Digest, JobId, PeerId
from assay.merkle import sha256

ROOT = Path(__file__).resolve().parent.parent
CASE = Case()
GAINS = {"replays once and copies within itself", "withhold keys after the work"}
"""What docs/economics.md says is not stopped."""
ADDRESS = Address("0x" + "11" * 20)


def changed(case: Case, **params: Any) -> Case:
    return msgspec.structs.replace(case, params=msgspec.structs.replace(case.params, **params))


def terms(case: Case) -> Terms:
    root = sha256(b"root")
    return Terms(
        spec=of(b"spec"), spec_digest=root, program_root=root, state_root=root, dataset_root=root, schedule_root=root, steps=case.steps,
        micro_batches=case.micro_batches, segment_steps=case.steps, micro_weight=case.micro_weight, update_weight=case.update_weight, micro_leaves=9,
        update_leaves=5, price_cap=1, fee=1, budget=1, deadline=1, scheduler=ADDRESS, key_service=ADDRESS, params=case.params,
    )  # fmt: skip


def near(found: int, runs: int, p: float) -> bool:
    """Within four standard deviations of a binomial."""
    return abs(found - runs * p) <= 4 * math.sqrt(runs * p * (1 - p))


# ---- the draws ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("false", [{0}, {3, 4, 5}, {2, 5, 8}, {1}], ids=["a micro-batch", "a step", "updates", "another"])
@pytest.mark.parametrize("links", [1, 2, 8])
def test_draws_meet_a_false_share_as_often_as_the_formula_says(false: set[int], links: int) -> None:
    case = changed(Case(steps=3, micro_batches=2, micro_weight=5, update_weight=3), links=links)
    share = sum(economics.link_share(case, update=draw.is_update(unit, 2)) for unit in false)
    runs = [sha256(b"seed", bytes([i % 256, i // 256])) for i in range(2000)]
    met = sum(bool(false & set(draw.units(seed, terms(case), case.steps))) for seed in runs)
    assert near(met, len(runs), economics.found(share, links))


def test_what_a_verifier_replays_costs_what_the_formula_says() -> None:
    case = Case(steps=4, micro_batches=2, micro_weight=5, update_weight=20)
    total, runs = 0.0, 3000
    for i in range(runs):
        for unit in draw.units(sha256(i.to_bytes(4, "big")), terms(case), case.steps):
            total += economics.link_share(case, update=draw.is_update(unit, 2))
    assert total / runs == pytest.approx(economics.drawn_cost(case), rel=0.02)
    assert sum(economics.link_share(case, update=draw.is_update(unit, 2)) for unit in range(12)) == pytest.approx(1)
    assert economics.drawn_cost(changed(case, links=0)) == 1.0


@pytest.mark.parametrize(("ring", "verifiers", "quorum"), [(30, 4, 3), (30, 3, 2), (50, 7, 5)])
def test_a_ring_is_a_quorum_as_often_as_the_formula_says(ring: int, verifiers: int, quorum: int) -> None:
    """Of 100 seats in as many accounts, by the committee that the chain in memory draws."""
    ledger = MemoryLedger(sha256(b"rings"))
    holders = []
    for i in range(100):
        who = ledger.account(f"verifier-{i}", tokens=10**9)
        for call in (Register(encryption_key=b"k" * 32, peer=PeerId("p")), Deposit(amount=10**8), TakeSeat()):
            ledger.apply(who, call)
        holders.append(who)
    ledger.mine()
    jobs = ledger.jobs
    case = changed(CASE, verifiers=verifiers, quorum=quorum)
    jobs.jobs[JobId(1)] = SimpleNamespace(terms=terms(case), client=ADDRESS)  # type: ignore[assignment]
    segment: Any = SimpleNamespace(job=JobId(1), provider=ADDRESS, round=0, rounds=[], seats_block=ledger.head.number)
    friends, runs, won = set(holders[:ring]), 1500, 0
    for i in range(runs):
        drawn = jobs._select(segment, Digest(sha256(b"round", i.to_bytes(4, "big"))))
        assert len(drawn) == verifiers
        won += len(friends & set(drawn)) >= quorum
    exact = sum(math.comb(ring, i) * math.comb(100 - ring, verifiers - i) for i in range(quorum, verifiers + 1)) / math.comb(100, verifiers)
    assert near(won, runs, exact)
    assert exact == pytest.approx(economics.majority(ring / 100, verifiers, quorum), abs=0.01)  # of many seats


def test_a_ring_has_every_round_to_try() -> None:
    rng, p = random.Random(3), Params()
    runs = 20_000
    won = sum(any(sum(rng.random() < 0.3 for _ in range(p.verifiers)) >= p.quorum for _ in range(1 + p.redraws)) for _ in range(runs))
    assert near(won, runs, economics.some_round(0.3, p))


# ---- what must hold at the defaults --------------------------------------------------------------------------------------------


def test_the_burnt_part_is_what_the_game_burns_and_rule_6_asks_for() -> None:
    facts = SimpleNamespace(bond=int(CASE.bond * economics.TOKEN), stake=7)
    lost: Payments = payments(SimpleNamespace(facts=facts, verdict=Verdict.CHALLENGER))  # type: ignore[arg-type]
    conceded: Payments = payments(SimpleNamespace(facts=facts, verdict=Verdict.CONCEDED))  # type: ignore[arg-type]
    assert lost.burnt == conceded.burnt == pytest.approx(CASE.burnt * economics.TOKEN, abs=1)
    assert CASE.burnt >= economics.needed_burn(CASE.price, CASE.disputed) * (1 - 1e-12)


@pytest.mark.parametrize("name", policy.POLICIES)
def test_no_share_of_a_segment_is_worth_skipping(name: str) -> None:
    case = economics.under(CASE, name)
    assert all(economics.cover(case, i / 1000) >= 1.2 for i in range(1, 1001))
    assert economics.cover(case, economics.worst_share(case)) == pytest.approx(economics.cover(case, 1))
    assert economics.skipping(changed(case, bond_tenths=0), 1) > 0, "without the burn it would pay: so it is what keeps a cheat from slashing itself"


def test_every_cheat_loses_money_but_those_that_the_page_names() -> None:
    rows = economics.cheats(CASE)
    assert {row.cheat for row in rows if not row.loses_money} == GAINS
    assert all(0 <= row.chance <= 1 for row in rows)
    assert len({(row.who, row.cheat) for row in rows}) == len(rows)
    text = (ROOT / "docs" / "economics.md").read_text()
    assert all(f"| {row.cheat} |" in text for row in rows)


@pytest.mark.parametrize("steps", [16, 64, 512])
@pytest.mark.parametrize("micros", [1, 8])
def test_that_does_not_hang_on_the_segment_that_is_shown(steps: int, micros: int) -> None:
    rows = economics.cheats(msgspec.structs.replace(CASE, steps=steps, micro_batches=micros))
    assert {row.cheat for row in rows if not row.loses_money} <= GAINS


def test_with_the_committee_of_before_friends_of_a_provider_gained() -> None:
    before = changed(CASE, verifiers=3, quorum=2)
    assert economics.provider_and_ring(before) > 0 > economics.provider_and_ring(CASE)


@pytest.mark.parametrize("name", policy.POLICIES)
def test_honest_work_pays(name: str) -> None:
    assert all(earned > 0 for earned in economics.honest(economics.under(CASE, name)).values())
    low = economics.under(msgspec.structs.replace(CASE, fee=0.05), name)
    assert economics.honest(low)["verifier"] < 0, "the fee of before"


def test_at_the_values_that_are_told_a_cheat_breaks_even() -> None:
    even = msgspec.structs.replace(CASE, disputed=CASE.cost / (CASE.price + CASE.burnt))
    assert economics.skipping(even, 1) == pytest.approx(0, abs=1e-9)
    watched = msgspec.structs.replace(CASE, ring=0.2)
    watched = msgspec.structs.replace(watched, audited=economics.ring_even(watched))
    assert economics.provider_and_ring(watched) == pytest.approx(0, abs=1e-9)
    least = economics.least_price(CASE)
    reward = (least * CASE.params.bond_tenths / 10 + CASE.params.bond_base / economics.TOKEN) * (1 - economics.BURNT_SHARE)
    assert reward == pytest.approx(2 * CASE.dispute_gas("challenger"))
    assert CASE.challenger_bond / 2 == pytest.approx(CASE.dispute_gas("asserter"))


def test_the_part_of_the_bond_beyond_the_price_pays_a_challenger_of_the_cheapest_segment() -> None:
    base = CASE.params.bond_base / economics.TOKEN
    assert base == pytest.approx(2 * CASE.dispute_gas("asserter"), rel=1e-5)
    assert base * (1 - economics.BURNT_SHARE) > CASE.dispute_gas("challenger")


@pytest.mark.parametrize("name", policy.POLICIES)
def test_a_concession_for_nothing_makes_no_share_worth_skipping(name: str) -> None:
    case = economics.under(CASE, name)
    assert all(economics.pardoned(case, i / 1000) < 0 for i in range(1, 1001))
    spot = economics.under(CASE, "spot")
    assert economics.pardoned(changed(spot, links=1), 1) > 0, "why the contract pardons nobody where a single link is drawn"


def test_poison_is_cheap_under_spot_and_always_met_when_every_link_is_drawn() -> None:
    every = changed(CASE, links=0)
    share = economics.link_share(CASE)
    assert economics.found(share, 2) < 0.02
    assert economics.found(share, 0) == 1
    assert -economics.skipping(every, share, 0.0) == pytest.approx(CASE.disputed * (CASE.price + CASE.burnt))


def test_gas_of_a_committee_is_within_eight_percent_of_what_was_measured() -> None:
    for name, gas in economics.gas_record()["committees"].items():
        units, verifiers = (int(part.split()[1]) for part in name.split(", "))
        assert economics.committee_gas(units, verifiers) == pytest.approx(gas, rel=0.08)


# ---- page and command ----------------------------------------------------------------------------------------------------------


def test_the_page_and_the_gas_are_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("economics_page", ROOT / "tools" / "economics_page.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = tool.PAGE.read_text()
    assert tool.GAS.read_text() == tool.gas(), "python tools/economics_page.py"
    assert text == tool.page(text), "python tools/economics_page.py"


def test_the_command_reckons_with_other_figures() -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["economics", "--stake", "0.5", "--price", "1", "--json"])
    told = json.loads(done.stdout)
    assert (told["case"]["price_step"], told["burnt"], told["needed_burn"]) == (1.0, pytest.approx(16.3, abs=0.01), pytest.approx(192))
    assert next(row for row in told["cheats"] if row["cheat"] == "skips everything")["loses_money"] is False
    assert set(told["policies"]) == set(policy.POLICIES)
    shown = runner.invoke(app, ["economics", "--policy", "every-step"], env={"COLUMNS": "240"})
    assert shown.exit_code == 0
    assert "says no to everything" in shown.stdout
    assert runner.invoke(app, ["economics", "--policy", "none", "--json"]).exit_code == 2


# ---- policies as terms ---------------------------------------------------------------------------------------------------------


def test_spot_is_what_a_job_has_that_asks_for_nothing() -> None:
    assert policy.params_for("spot", Params()) == Params()


def test_a_policy_sets_links_committee_and_quorum_and_leaves_the_rest() -> None:
    given = Params(challenge_window=77, redraws=1)
    every = policy.params_for("every-step", given)
    assert (every.links, every.verifiers, every.quorum, every.challenge_window) == (0, 4, 3, 77)
    mine = policy.params_for("k-of-n", given, links=4, verifiers=9)
    assert (mine.links, mine.verifiers, mine.quorum) == (4, 9, 7)
    assert policy.params_for("every-step", given, verifiers=1).quorum == 1


@pytest.mark.parametrize(
    "asked",
    [("never",), ("every-step", 3), ("spot", 17), ("spot", 0), ("k-of-n", 16, 3, None, 4), ("spot", None, 17), ("spot", None, 4, 2),
     ("spot", None, 4, 5)],
)  # fmt: skip
def test_a_policy_that_the_contract_would_refuse_is_refused_here(asked: tuple[Any, ...]) -> None:
    name, links, verifiers, quorum, redraws = (*asked, *[None] * (5 - len(asked)))
    with pytest.raises(ValueError, match=r"\w"):
        policy.params_for(name, Params(redraws=redraws or 2), links, verifiers, quorum)


def test_submit_cuts_segments_to_what_every_link_allows() -> None:
    plan: Any = SimpleNamespace(program=SimpleNamespace(micro_batches=2), steps=100, weights=(5, 1))
    assert _case(plan, Params(), None, 0.5, None).steps == 64
    assert _case(plan, Params(), 500, 0.5, None).steps == 100
    every = _terms("every-step", Params(), None, None, None)
    assert _case(plan, every, None, 0.5, None).steps == 21
    assert _case(plan, every, None, 0.5, None).units == 63
    with pytest.raises(Trouble, match="too long"):
        _case(plan, every, 22, 0.5, None)
    plan.program.micro_batches = 64
    with pytest.raises(Trouble, match="cannot be drawn"):
        _case(plan, every, None, 0.5, None)
    assert _terms(None, Params(links=5), None, None, None).links == 5
    with pytest.raises(Trouble, match="cannot be checked"):
        _terms("sometimes", Params(), None, None, None)


def test_the_fee_of_a_plan_pays_its_verifiers() -> None:
    plan: Any = SimpleNamespace(program=SimpleNamespace(micro_batches=1), steps=64, weights=(9_530_195, 600_821))
    for name in policy.POLICIES:
        case = _case(plan, _terms(name, Params(), None, None, None), None, 0.5, None)
        assert economics.honest(case)["verifier"] > 0
    assert _case(plan, Params(), None, 0.5, 0.25).verifier_fee == 0.25



def test_the_page_for_developers_has_the_policies_as_they_cost() -> None:
    text = (ROOT / "docs" / "model-developer.md").read_text()
    for name in ("spot", "k-of-n"):
        cost = economics.checking(economics.under(CASE, name))
        (line,) = (line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        p = policy.POLICIES[name]
        assert f"| {p.links} | {p.verifiers}, of them {p.quorum} | {cost.share:.0%} | {cost.one_link:.1%} |" in line
    for steps in (8, 21):
        assert 20 < economics.checking(economics.under(msgspec.structs.replace(CASE, steps=steps), "every-step")).share < 21
