"""`assay economics`: what every kind of cheat earns, and what each way of checking costs, for prices and terms that one names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from assay import economics
from assay.cli.common import USAGE, Json, Trouble, show
from assay.cli.tables import put
from assay.economics import Case
from assay.policy import EVERY, POLICIES, longest_segment, params_for

SEGMENTS = (8, 64, 512)
"""Steps, of the table of policies."""
RINGS = (0.05, 0.1, 0.2, 1 / 3)
SHARES = (0.001, 0.01, 0.1, 0.5, 1.0)
DRAWS = (1, 2, 4, 8, 16)
GAS_PRICES = (0.0025, 0.025, 0.25, 2.5)


class Table(NamedTuple):
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def signed(amount: float) -> str:
    """An amount of tokens; three digits that count."""
    text = f"{amount:+.2f}" if abs(amount) >= 1 else f"{amount:+.3f}"
    return text if float(text) else "0"


def percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{share:.1%}" if share >= 0.01 else f"{share:.2%}"


def assumptions(case: Case) -> Table:
    p = case.params
    disputes = {side: economics.gas_of_a_dispute(side) / economics.MEGA for side in economics.SIDES}
    rows = [
        ("price of a step, of a segment", f"{case.price_step:g}, {case.price:g} tokens", "`assay submit --price`, `--segment-steps`"),
        ("links drawn, verifiers, quorum, redraws", f"{p.links or 'all'}, {p.verifiers}, {p.quorum}, {p.redraws}", "`assay.chain.Params`"),
        ("bond, of it burnt", f"{case.bond:.1f}, {case.burnt:.1f} tokens",
         "`bond_tenths` of the price, and twice a dispute's gas (`bond_base`); half of it by `contracts/src/dispute/Court.sol`"),
        ("draw bond, no-show fee, late fee", f"{case.draw_bond:g} token, {percent(p.no_show_bps / 10_000)} of it, {percent(p.late_fee_bps / 10_000)}",
         "`assay.chain.Params`"),
        ("fee of a verifier and round", f"{case.verifier_fee:.2f} tokens", "`assay submit --fee`; without it, its costs and a quarter more"),
        ("one round's gas, from draw to settlement", f"{economics.committee_gas(case.units, p.verifiers) / 1e6:.2f} M", "`bench/dispute_gas.py`"),
        ("a dispute's gas, asserter and challenger", f"{disputes['asserter']:.2f} and {disputes['challenger']:.2f} M",
         "`bench/dispute_gas.py`, every level on chain"),
        ("a replay with its trace, over a plain run", f"{case.replay_factor:g}", "measured with `examples/shakespeare.py`"),
        ("cost of an honest segment, of the price", percent(case.cost_share), "assumed"),
        ("a false link that was drawn is disputed", percent(case.disputed), "assumed: a"),
        ("segments that somebody audits unasked", percent(case.audited), "assumed"),
        ("seats in one hand", percent(case.ring), "assumed"),
        ("a million gas", f"{case.gas_price:g} token", "assumed: 0.1 gwei at 2,500 tokens for an ether"),
    ]  # fmt: skip
    return Table("What the figures stand on", ("what", "value", "where from"), rows)


def cheats(case: Case) -> Table:
    rows = []
    for row in economics.cheats(case):
        text = signed(row.profit)
        rows.append((row.who, row.cheat, row.gains, row.loses, percent(row.chance), text if row.loses_money else f"**{text}**", row.even))
    return Table("Cheats", ("who", "cheat", "gains", "loses", "chance of that", "profit", "breaks even at"), rows)


def covers(case: Case) -> Table:
    rows = []
    for k in DRAWS:
        with_k = msgspec.structs.replace(case, params=msgspec.structs.replace(case.params, links=k))
        rows.append((str(k), *(f"{percent(economics.found(c, k))}, {economics.cover(with_k, c):.1f}" for c in SHARES)))
    return Table("Draws", ("links", *(f"false share {c:.1%}" if c < 0.01 else f"{c:.0%}" for c in SHARES)), rows)


def policies(case: Case) -> Table:
    rows = []
    for name in POLICIES:
        params = params_for(name, case.params)
        longest = longest_segment(params, case.micro_batches)
        lengths = SEGMENTS if longest is None else tuple(dict.fromkeys(min(steps, longest) for steps in SEGMENTS))
        for steps in lengths:
            at = msgspec.structs.replace(case, params=params, steps=steps)
            cost = economics.checking(at)
            drawn = str(params.links) if params.links else f"all {at.units}"
            rows.append((name, f"{steps}, {at.price:g}", drawn, f"{params.quorum} of {params.verifiers}", f"{cost.fee:.2f}", f"{cost.fees:.2f}",
                         f"{cost.gas:.2f}", percent(cost.share), percent(cost.one_link)))  # fmt: skip
    header = ("policy", "steps and price of a segment", "links", "agree", "fee", "all fees", "gas", "over the price", "one false micro-batch is met")
    return Table("Policies", header, rows)


def rings(case: Case) -> Table:
    rows = []
    for name in [*POLICIES][:2]:
        params = params_for(name, case.params)
        for share in RINGS:
            at = msgspec.structs.replace(case, params=params, ring=share)
            no = economics.majority(share, params.verifiers, params.quorum)
            blocked = economics.majority(share, params.verifiers, params.verifiers - params.quorum + 1)
            won = economics.some_round(share, params)
            rows.append((name, percent(share), f"{no:.3%}", f"{won:.3%}", f"{economics.ring_even(at):.2%}", percent(blocked)))
    header = ("policy", "share of seats", "a quorum in a round", "in one of all rounds", "audits that make it lose", "can stop a round")
    return Table("Rings", header, rows)


def gas(case: Case) -> Table:
    rows = []
    for price in GAS_PRICES:
        at = msgspec.structs.replace(case, gas_price=price, params=msgspec.structs.replace(case.params, bond_base=economics.bond_base(price)))
        rows.append((f"{price:g}", f"{at.dispute_gas('asserter'):.3f}", f"{at.dispute_gas('challenger'):.3f}", f"{at.challenger_bond:.3f}",
                     f"{at.params.bond_base / economics.TOKEN:.3f}", f"{at.checking_gas:.3f}", f"{economics.least_price(at):.3f}"))  # fmt: skip
    header = (
        "a million gas", "asserter's dispute", "challenger's", "bond that covers it", "a provider's beyond the price", "checking a segment",
        "least price of a segment",
    )  # fmt: skip
    return Table("Gas", header, rows)


def tables(case: Case) -> list[Table]:
    return [assumptions(case), cheats(case), covers(case), policies(case), rings(case), gas(case)]


def case_of(policy: str, **changed: Any) -> Case:
    """Raises Trouble."""
    try:
        params = params_for(policy, Case().params)
        case = Case(params=params, **{name: value for name, value in changed.items() if value is not None})
        longest = longest_segment(params, case.micro_batches)
    except ValueError as error:
        raise Trouble("that cannot be reckoned", str(error), f"--policy {' or '.join(POLICIES)}", USAGE) from None
    if longest is not None and case.steps > longest:
        case = msgspec.structs.replace(case, steps=longest)
    return case



def economy(
    policy: Annotated[str, typer.Option("--policy", metavar="NAME", help=f"{', '.join(POLICIES)}.")] = "spot",
    price: Annotated[float | None, typer.Option("--price", min=1e-6, help="Of a step, in tokens.")] = None,
    segment_steps: Annotated[int | None, typer.Option("--segment-steps", min=1, help=f"At most as many as {EVERY} can draw, there.")] = None,
    fee: Annotated[float | None, typer.Option("--fee", min=0, help="Of a verifier and round, in tokens; else what pays it.")] = None,
    stake: Annotated[float | None, typer.Option("--stake", min=0, max=100, help="Bond of a segment, in multiples of its price.")] = None,
    draw_rate: Annotated[int | None, typer.Option("--links", min=1, max=16, help="Links drawn in a segment, instead of the policy's.")] = None,
    disputed: Annotated[float | None, typer.Option("--disputed", min=0.001, max=1, help="Chance that a drawn false link is disputed.")] = None,
    audited: Annotated[float | None, typer.Option("--audited", min=0, max=1, help="Share of segments that somebody replays unasked.")] = None,
    ring: Annotated[float | None, typer.Option("--ring", min=0, max=0.99, help="Share of the seats in one hand.")] = None,
    gas_price: Annotated[float | None, typer.Option("--gas", min=0, help="Tokens for a million gas.")] = None,
    json: Json = False,
) -> None:
    """What every kind of cheat earns, and what each way of checking costs: the tables of docs/economics.md for other figures.

    Example: [bold]assay economics --price 0.1 --stake 3 --ring 0.2[/bold]
    """
    case = case_of(
        policy, price_step=price, steps=segment_steps, fee=fee, disputed=disputed, audited=audited, ring=ring, gas_price=gas_price,
    )  # fmt: skip
    base = None if gas_price is None else economics.bond_base(gas_price)
    terms = {"bond_tenths": None if stake is None else round(10 * stake), "links": draw_rate, "bond_base": base}
    case = msgspec.structs.replace(case, params=msgspec.structs.replace(case.params, **{k: v for k, v in terms.items() if v is not None}))
    if json:
        rows = [{**msgspec.structs.asdict(row), "loses_money": row.loses_money} for row in economics.cheats(case)]
        enough = {"needed_burn": economics.needed_burn(case.price, case.disputed), "burnt": case.burnt, "least_price": economics.least_price(case)}
        checks = {name: msgspec.structs.asdict(economics.checking(case_of(name, price_step=price, steps=segment_steps))) for name in POLICIES}
        show({"case": msgspec.to_builtins(case), "cheats": rows, "honest": economics.honest(case), **enough, "policies": checks})
        return
    from rich.console import Console
    from rich.table import Table as Drawn

    screen = Console(highlight=False)
    for table in tables(case):
        drawn = Drawn(*table.header, title=table.title, title_justify="left")
        for row in table.rows:
            drawn.add_row(*(cell.replace("`", "").replace("**", "") for cell in row))
        put(drawn, screen)
    for who, earned in economics.honest(case).items():
        screen.print(f"an honest {who} earns {signed(earned)} tokens a segment")
