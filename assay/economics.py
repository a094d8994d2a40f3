"""What cheating earns: formulas and the table of every kind of cheat, from price, stakes, draw and gas. Pure arithmetic.

Amounts are in tokens, gas in units of the EVM, shares and chances from 0 to 1. What is known is taken from where it is: a job's terms
(assay.chain.Params), the draw (assay.draw), the burnt share (contracts/src/dispute/Court.sol), gas (bench/results/dispute_gas.json, copied
to assay/_data/gas.json by tools/economics_page.py). What is assumed is a field of `Case`, with its default and the reason for it.

The test that a job's terms must pass (docs/protocol.md): for a cheat that saves a share c of the cost C of a segment of price P,

    c·C <= a · (1 - (1 - c)^k) · (P + burnt)

k links are drawn with replacement in proportion to their cost, so that a false share c of the cost is met with chance 1 - (1 - c)^k; a is
the chance that a false link that was drawn is also disputed. Only the burnt part of a slash counts: the rest goes to the challenger, who may be
the cheat's friend. 1 - (1 - c)^k is concave in c, so that the worst case is c = 1, and for k = 1 every c.
(One file because a row of the table is read beside the formula behind it.)
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from assay.chain import Params
from assay.policy import POLICIES, params_for

TOKEN = 1_000_000
"""The token's smallest units in one token."""
BURNT_SHARE = 0.5
"""Of a bond that is lost in a dispute; the rest is the challenger's. Conceding costs the burnt part alone."""
SAFETY = 1.2
"""Rule 6 asks for this many times price / a to be burnt."""
MEGA = 1e6
GAS_PRICE = 0.25
SIDES = ("asserter", "challenger")


@cache
def gas_record() -> dict[str, Any]:
    """Measured gas: `jobs` and `totals` by call, `committees` from the draw to the settlement by links and verifiers."""
    found: dict[str, Any] = json.loads((files("assay") / "_data" / "gas.json").read_text())
    return found


@cache
def _fit() -> tuple[float, ...]:
    """Least squares of the measured committees over (1, n, u, n·u), n verifiers and u units."""
    import numpy as np  # the command's help does without

    sizes, used = [], []
    for name, gas in gas_record()["committees"].items():
        u, n = (int(part.split()[1]) for part in name.split(", "))
        sizes.append((1, n, u, n * u))
        used.append(gas)
    return tuple(float(x) for x in np.linalg.lstsq(np.array(sizes, float), np.array(used, float), rcond=None)[0])


def gas_of_a_dispute(side: str) -> float:
    """Of one of SIDES, with every level opened on chain."""
    return float(gas_record()["totals"][f"{side}, every level on chain"])


def bond_base(gas_price: float) -> int:
    """What a provider's bond has beyond a multiple of the price, in the token's smallest units: twice a dispute's gas, of the side that it costs
    more. Half of it is the challenger's who wins, and pays its gas however cheap the segment is."""
    return math.ceil(2 * max(gas_of_a_dispute(side) for side in SIDES) * gas_price / MEGA * TOKEN)


def committee_gas(units: int, verifiers: int) -> float:
    """From the draw to the settlement in one round, votes batched; within 8 % of what was measured at six sizes."""
    return sum(a * x for a, x in zip(_fit(), (1, verifiers, units, verifiers * units), strict=True))


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A segment of a job, and what is assumed of the world around it."""

    params: Params = msgspec.field(default_factory=lambda: Params(bond_base=bond_base(GAS_PRICE)))
    price_step: float = 0.5
    """Tokens for a step; `assay submit --price`."""
    steps: int = 64
    """Of the segment; `assay submit --segment-steps`."""
    micro_batches: int = 2
    micro_weight: int = 1_374_833_745
    """Operations of a micro-batch, as the program counts them; of examples/shakespeare.py."""
    update_weight: int = 9_690_401
    fee: float | None = None
    """Tokens for a verifier and round; None: what pays it (`fair_fee`)."""
    cost_share: float = 0.8
    """Assumed: what an honest segment costs its provider, of the price."""
    replay_factor: float = 5.0
    """A replay that keeps the roots of all outputs, by CPU time of a plain run: 5.0 for examples/shakespeare.py, measured once on an AMD EPYC (9
    for the small models of digits.py and cnn.py). Most of it is hashing."""
    margin: float = 1.25
    """Assumed: a verifier's fee over its costs."""
    disputed: float = 0.4
    """Assumed: a, the chance that a false link that was drawn is disputed."""
    audited: float = 0.01
    """Assumed: share of segments that somebody with the job's data (its client) replays unasked, and disputes when they are false."""
    ring: float = 0.1
    """Assumed: share of the seats that one hand holds, in as many accounts as it likes."""
    traps: float = 0.0
    """Share of segments that are false on purpose, to catch verifiers who do not look. Nobody plants any yet."""
    gas_price: float = GAS_PRICE
    """Assumed: tokens for a million gas (0.1 gwei at 2,500 tokens for an ether)."""
    seats: int = 100
    """Assumed: seats of others."""
    capital: float = 0.1
    """Assumed: what locked money costs, of its amount in a year."""
    seat_stake: float = 1.0
    """Tokens; of the local network (assay.localnet.anvil)."""

    @property
    def operations(self) -> int:
        """Of a step."""
        return self.micro_batches * self.micro_weight + self.update_weight

    @property
    def price(self) -> float:
        return self.price_step * self.steps

    @property
    def cost(self) -> float:
        """C: of the honest segment to its provider."""
        return self.cost_share * self.price

    @property
    def bond(self) -> float:
        return self.price * self.params.bond_tenths / 10 + self.params.bond_base / TOKEN

    @property
    def burnt(self) -> float:
        return self.bond * BURNT_SHARE

    @property
    def draw_bond(self) -> float:
        return self.params.draw_bond / TOKEN

    @property
    def units(self) -> int:
        """Links that a round checks."""
        return self.params.links or self.steps * (self.micro_batches + 1)

    def gas(self, *calls: str) -> float:
        """Tokens for calls of Jobs."""
        return sum(float(gas_record()["jobs"][call]) for call in calls) * self.gas_price / MEGA

    def dispute_gas(self, side: str) -> float:
        """Tokens for a whole dispute; `side` is of SIDES."""
        return gas_of_a_dispute(side) * self.gas_price / MEGA

    @property
    def checking_gas(self) -> float:
        """Tokens; one round, all calls from the draw to the settlement together."""
        return committee_gas(self.units, self.params.verifiers) * self.gas_price / MEGA

    @property
    def verifier_fee(self) -> float:
        return fair_fee(self) if self.fee is None else self.fee

    @property
    def challenger_bond(self) -> float:
        """Half of a lost challenger's bond goes to the asserter: twice the asserter's gas makes it whole."""
        return 2 * self.dispute_gas("asserter")


# ---- the draw --------------------------------------------------------------------------------------------------------------


def link_share(case: Case, update: bool = False) -> float:
    """Share of the segment's cost that one link has."""
    whole = case.steps * (case.micro_batches * case.micro_weight + case.update_weight)
    return (case.update_weight if update else case.micro_weight) / whole


def drawn_cost(case: Case) -> float:
    """Share of the segment's cost that one verifier replays in a round, expected: links are drawn in proportion to their cost."""
    if case.params.links == 0:
        return 1.0
    micro, update = link_share(case), link_share(case, update=True)
    return case.params.links * case.steps * (case.micro_batches * micro**2 + update**2)


def found(share: float, links: int) -> float:
    """Chance that `links` draws meet a false share of the cost at least once; 0 links stand for all."""
    if share <= 0:
        return 0.0
    return 1.0 - (1.0 - share) ** links if links else 1.0


def found_twice(share: float, links: int) -> float:
    """Chance that they meet it at least twice. (That both times it is the same link is neglected: with as many links as a segment has it is rare.)"""
    if not links:
        return found(share, links)
    return max(0.0, found(share, links) - links * share * (1.0 - share) ** (links - 1))


def majority(share: float, verifiers: int, quorum: int) -> float:
    """Chance that at least a quorum of a committee is of one hand that holds a share of (many) seats."""
    return sum(math.comb(verifiers, i) * share**i * (1 - share) ** (verifiers - i) for i in range(quorum, verifiers + 1))


def some_round(share: float, p: Params) -> float:
    """Chance that in one of the rounds that a provider can have by not serving, its friends are a quorum."""
    return 1 - (1 - majority(share, p.verifiers, p.quorum)) ** (1 + p.redraws)


# ---- what is fair, what suffices ---------------------------------------------------------------------------------------------


def replay_cost(case: Case) -> float:
    """Tokens that one round costs a verifier, at the provider's cost of computing."""
    return case.cost * case.replay_factor * drawn_cost(case)


def verifier_gas(case: Case) -> float:
    """A verifier's part of what its round costs in gas, when everything is shared among the verifiers."""
    return case.checking_gas / case.params.verifiers


def fair_fee(case: Case) -> float:
    """The fee that pays a verifier for its first round, with the margin. (Round r checks r more lots of links for the same fee.)"""
    return case.margin * (replay_cost(case) + verifier_gas(case))


def needed_burn(price: float, disputed: float) -> float:
    """Rule 6."""
    return SAFETY * price / disputed


def cover(case: Case, share: float) -> float:
    """Expected loss over gain of a provider that leaves a share of the cost undone: at 1 it breaks even."""
    return case.disputed * found(share, case.params.links) * (case.price + case.burnt) / (share * case.cost)


def worst_share(case: Case) -> float:
    """The share c, in steps of a thousandth, that is covered least."""
    return min((i / 1000 for i in range(1, 1001)), key=lambda c: cover(case, c))


def least_price(case: Case) -> float:
    """Price of a segment from which a won dispute brings the challenger twice its gas."""
    missing = 2 * case.dispute_gas("challenger") / (1 - BURNT_SHARE) - case.params.bond_base / TOKEN
    return max(0.0, missing / (case.params.bond_tenths / 10))


# ---- cheats ------------------------------------------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True):
    """A kind of cheat. `profit` is expected, in tokens a segment: of providers beyond an honest one's, of others beyond doing nothing."""

    who: str
    cheat: str
    gains: str
    loses: str
    chance: float
    """Of losing it."""
    profit: float
    even: str
    """Where it would break even, or what it does to others."""

    @property
    def loses_money(self) -> bool:
        return self.profit < 0


def skipping(case: Case, share: float, saved: float | None = None) -> float:
    """Profit over an honest provider's of one whose links are false for a share of the cost, saving `saved` of the cost (else that share)."""
    gain = (share if saved is None else saved) * case.cost
    return gain - case.disputed * found(share, case.params.links) * (case.price + case.burnt)


def pardoned(case: Case, share: float) -> float:
    """The same of one that has a concession for nothing at hand: of its false links one costs the price alone, and the second the burnt bond.
    Whoever has met the first in a draw holds the second, too, if that was drawn."""
    price, burnt = found(share, case.params.links) * case.price, found_twice(share, case.params.links) * case.burnt
    return share * case.cost - case.disputed * (price + burnt)


def provider_and_ring(case: Case) -> float:
    """Profit (over doing nothing) of one that computes nothing and serves only a committee in which its friends are a quorum. Else it serves
    nobody, and ends unpaid; a dispute needs somebody who has the data without being served."""
    pay = some_round(case.ring, case.params) * case.price
    return pay - case.audited * (pay + case.burnt) - case.gas("activate", "commit, 12 links")


def ring_even(case: Case) -> float:
    """Share of segments that must be audited for `provider_and_ring` to lose."""
    pay = some_round(case.ring, case.params) * case.price
    return max(0.0, (pay - case.gas("activate", "commit, 12 links")) / (pay + case.burnt))


def copied(case: Case) -> float:
    """Replays that a ring saves in a round, expected, when one of its members replays for all."""
    n = case.params.verifiers
    return n * case.ring - (1 - (1 - case.ring) ** n)


def providers(case: Case) -> list[Row]:
    p, at = case.params, case.price + case.burnt
    one = link_share(case)
    lost = f"price and burnt bond, {at:.1f}"
    enough = f"a = {case.cost / at:.2f}"
    poisoned = -skipping(case, one, 0.0)
    late = case.price * p.late_fee_bps / 10_000
    start = case.gas("activate", "commit, 12 links")
    return [
        Row("provider", "skips everything", f"the cost, {case.cost:.1f}", lost, case.disputed * found(1, p.links), skipping(case, 1), enough),
        Row("provider", "skips a tenth", f"{case.cost / 10:.2f}", lost, case.disputed * found(0.1, p.links), skipping(case, 0.1),
            f"a = {0.1 * case.cost / found(0.1, p.links) / at:.2f}"),
        Row("provider", "cheap arithmetic at half the cost", f"{case.cost / 2:.1f}", lost, case.disputed * found(1, p.links), skipping(case, 1, 0.5),
            f"a = {0.5 * case.cost / at:.2f}"),
        Row("provider", "lets a friend slash it, first of all", f"the cost, {case.cost:.1f}; half of the bond comes back", lost, case.disputed,
            skipping(case, 1), f"a burnt part of {case.cost / case.disputed - case.price:.1f}"),
        Row("provider", "poisons one link", "nothing inside the network", lost, case.disputed * found(one, p.links), -poisoned,
            f"**{poisoned:.2f} from outside buys it**"),
        Row("provider", "skips everything, one link of it conceded for nothing", f"the cost, {case.cost:.1f}", lost,
            case.disputed * found_twice(1, p.links), pardoned(case, 1), f"a = {case.cost / at:.2f}, once in 1,000 segments"),
        Row("provider", "skips a tenth, one link of it conceded for nothing", f"{case.cost / 10:.2f}", f"price, {case.price:.1f}; or all",
            case.disputed * found(0.1, p.links), pardoned(case, 0.1), "never, once in 1,000 segments"),
        Row("provider", "poisons one link, and concedes it for nothing", "nothing inside the network", f"price, {case.price:.1f}",
            case.disputed * found(one, p.links), -case.disputed * found(one, p.links) * case.price,
            f"**{case.disputed * found(one, p.links) * case.price:.2f} from outside buys it, once in 1,000 segments**"),
        Row("provider", "withholds the data of what it did not compute", "nothing: unpaid", "gas", 1.0, -start, "never"),
        Row("provider", "stalls after it took the segment", "nothing", f"late fee {late:.2f}, gas", 1.0, -late - case.gas("activate"),
            "never; the job waits for a lease"),
        Row("provider and ring", f"serves only friends, who hold {case.ring:.0%} of the seats", f"{some_round(case.ring, p):.2%} of the price",
            lost, case.audited, provider_and_ring(case), f"{ring_even(case):.2%} audited"),
    ]  # fmt: skip


def verifiers(case: Case) -> list[Row]:
    p, gas = case.params, verifier_gas(case)
    fine = case.draw_bond * p.no_show_bps / 10_000
    no = majority(case.ring, p.verifiers, p.quorum)
    saved, extra = replay_cost(case), copied(case)
    risk = case.traps * case.disputed * (case.draw_bond + case.verifier_fee)
    locked = (case.seat_stake + case.draw_bond) * math.ceil(case.seats * case.ring / (1 - case.ring))
    return [
        Row("verifier", "says yes to a trace it made up", "nothing: its root is not the others'", "gas; draw bond when disputed", 1.0, -gas,
            "never while others replay"),
        Row("verifier", "copies another's sealed vote", "nothing: a seal binds its sender", f"no-show fee {fine:.2f}, gas", 1.0, -fine - gas,
            "never"),
        Row("verifier", "sleeps after its receipt", "nothing", f"no-show fee {fine:.2f}", 1.0, -fine, "never"),
        Row("verifier", "says no to everything", "nothing: a no is not paid by itself", "gas", 1.0, -gas, "never"),
        Row("provider and ring", f"lies, and {p.verifiers} friends say no and dispute it", f"their fees, {p.verifiers * case.verifier_fee:.2f}",
            f"burnt bond, {case.burnt:.1f}, gas", 1.0, p.verifiers * case.verifier_fee - case.burnt - case.dispute_gas("challenger"),
            f"fees of {case.burnt:.0f} a segment"),
        Row("ring", f"of {case.ring:.0%} withholds honest pay by its noes", "nothing", f"gas of its {p.quorum} votes, fees", no,
            -no * p.quorum * (gas + case.verifier_fee), f"never; the provider loses {no * case.price:.2f} a segment by it"),
        Row("ring", "replays once and copies within itself", f"{saved:.2f} a copy", "draw bonds and fees where the one is wrong",
            case.traps * case.disputed, extra * (saved - risk), "**not seen: it counts as one verifier**"),
        Row("sybil", "is many accounts instead of one", "nothing: seats are drawn, not accounts", f"interest on {locked:.0f} for a day", 1.0,
            -locked * case.capital / 365, "never by itself; what a share of the seats is worth: the rings"),
    ]  # fmt: skip


def others(case: Case) -> list[Row]:
    p, bond = case.params, case.challenger_bond
    fees = p.verifiers * case.verifier_fee
    own = case.gas("post", "assign", "activate", "commit, 12 links")
    committee = case.checking_gas
    return [
        Row("challenger", "disputes what is right", "nothing", f"its bond {bond:.2f}, gas", 1.0, -bond - case.dispute_gas("challenger"),
            f"never; half of the bond pays the other's gas, {case.dispute_gas('asserter'):.2f}"),
        Row("challenger", "loses on purpose, to shield a friend", "nothing: its loss binds nobody else", f"its bond {bond:.2f}, gas", 1.0,
            -bond - case.dispute_gas("challenger"), "never"),
        Row("client", "deals with itself", "nothing: nobody is paid from anything but the job's money", f"fees {fees:.2f} to strangers, gas", 1.0,
            -fees - own - committee, "never; there is no reward to win"),
        Row("client", "draws verifiers for no fee", "nothing", "gas", 1.0, -own - committee,
            f"never; it ties up {p.verifiers * case.draw_bond:.0f} of draw bonds"),
        Row("client, key service", "withhold keys before the work", "nothing", "gas of the job", 1.0, -case.gas("post"),
            "never; no late fee is due without keys"),
        Row("client, key service", "withhold keys after the work", f"the checkpoint, {case.price:.1f}", "gas", 1.0,
            case.price - case.gas("release, 3 keys"), "**not stopped: who keeps the keys is trusted with a segment's price**"),
    ]  # fmt: skip


def cheats(case: Case) -> list[Row]:
    return [*providers(case), *verifiers(case), *others(case)]


def honest(case: Case) -> dict[str, float]:
    """What those earn who do what they should, in tokens a segment."""
    return {
        "provider": case.price - case.cost - case.gas("activate", "commit, 12 links"),
        "verifier": case.verifier_fee - replay_cost(case) - verifier_gas(case),
    }


# ---- policies ----------------------------------------------------------------------------------------------------------------


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What checking a segment costs, in tokens."""

    fee: float
    """Of one verifier."""
    fees: float
    gas: float
    share: float
    """Fees and gas over the price of the training."""
    one_link: float
    """Chance that one false micro-batch is drawn."""
    ring: float
    """Chance that friends are a quorum in one of the rounds."""


def checking(case: Case) -> Cost:
    fees = case.params.verifiers * case.verifier_fee
    return Cost(
        fee=case.verifier_fee, fees=fees, gas=case.checking_gas, share=(fees + case.checking_gas) / case.price,
        one_link=found(link_share(case), case.params.links), ring=some_round(case.ring, case.params),
    )  # fmt: skip


def under(case: Case, policy: str) -> Case:
    """The same segment under a named policy."""
    assert policy in POLICIES
    return msgspec.structs.replace(case, params=params_for(policy, case.params))
