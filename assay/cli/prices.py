"""`assay prices`: what steps of what size cost lately, from settled segments; and what `assay submit` says of it before money is locked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.common import TOKEN, Contract, Json, Rpc, Settings, money, settings, show
from assay.cli.common import run as run_async
from assay.cli.tables import put
from assay.ports import Outage

if TYPE_CHECKING:
    from assay.prices import Estimate, PriceBook


async def read_book(where: Settings) -> tuple[PriceBook, int]:
    """The book of everything final on the contract, and the chain's time."""
    from assay.adapters.evm import EvmReader
    from assay.prices import PriceBook

    reader, book = await EvmReader.open(where.rpc, where.contract), PriceBook()
    try:
        book.feed(await reader.events((-1, -1), 1))
        return book, (await reader.head()).time
    finally:
        await reader.close()


def prices(
    rpc: Rpc = None, contract: Contract = None,
    operations: Annotated[float | None, typer.Option("--operations", min=1, help="Of a step: an estimate for this size, too.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Shows what steps of what size cost lately, by what settled on this contract in 30 days.

    Example: [bold]assay prices --operations 2.8e9[/bold]
    """
    import msgspec

    book, now = run_async(read_book(settings(rpc, contract, None, None, "client")))
    guess = book.estimate(round(operations), now) if operations is not None else None
    if json:
        rows: list[dict[str, Any]] = [row._asdict() for row in book.rows(now)]
        show({"sizes": rows, "estimate": None if guess is None else msgspec.structs.asdict(guess)})
        return
    from rich.table import Table

    table = Table("operations", "sold", "by", "a step", "four in five", "10^12", "takes", "newest")
    for row in book.rows(now):
        table.add_row(
            f"from {row.least:.0e}", str(row.sales), str(row.providers), money(round(row.likely)),
            f"{money(round(row.low))} to {money(round(row.high))}", money(round(row.tera)), f"{row.seconds:.2f} s",
            time.strftime("%Y-%m-%d", time.gmtime(row.newest)),
        )  # fmt: skip
    if table.rows:
        put(table)
    else:
        print("nothing has settled here in 30 days")
    if operations is not None:
        print(told(guess, round(operations)))


def told(guess: Estimate | None, size: int) -> str:
    """A sentence on a step of so many operations."""
    if guess is None:
        return f"no step of about {size:.1e} operations has been sold here in 30 days"
    price = f"{money(round(guess.likely))}, in four of five cases {money(round(guess.low))} to {money(round(guess.high))}"
    pace = f"it took {guess.step_likely:.2f} s ({guess.step_low:.2f} to {guess.step_high:.2f})"
    return f"a step of {size:.1e} operations: {price} ({guess.sales} segments within {guess.factor} times that size); {pace}"


def tell_market(where: Settings, size: int, steps: int, segments: int, price_cap: int, as_json: bool) -> None:
    """What the job would cost by what was paid lately, beside its cap. Says nothing where the chain cannot be read: what follows will tell."""
    try:
        book, now = run_async(read_book(where))
    except Outage:
        return
    guess = book.estimate(size, now)
    if as_json:
        import msgspec

        show({"topic": "market", "operations": size, "estimate": None if guess is None else msgspec.structs.asdict(guess)})
        return
    print(f"  lately     {told(guess, size)}")
    if guess is None:
        return
    low, likely, high = (money(round(each * steps)) for each in (guess.low, guess.likely, guess.high))
    print(f"             so the training about {likely} ({low} to {high}), in {guess.step_likely * steps + guess.waiting * segments:.0f} s")
    if price_cap < guess.high:
        print(f"             some such steps cost more than your cap: --price {max(1, round(guess.high)) / TOKEN:g} would have bought nine of ten")
