"""Where the words stand on the screen, and the keys: d drain, r resume, w withdraw, q quit. Everything is read again every two seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import DataTable, Footer, Static

from assay.cli.common import Trouble
from assay.cli.view import picture
from assay.cli.view.seen import Seen

EVERY = 2.0
"""Seconds."""
DAYS = 14
LOG = 12
"""Lines."""


class View(App[None]):
    """`look` reads what there is, `order` gives the daemon an order; either may raise Trouble, and both may take their time."""

    TITLE = "assay"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: auto; padding: 0 1; text-style: bold; background: $primary-darken-2; }
    .row { height: 1fr; }
    .box { border: round $primary; padding: 0 1; width: 1fr; height: 100%; }
    #work, #receipts { width: 2fr; }
    #log { height: 14; border: round $primary; padding: 0 1; }
    DataTable { height: 100%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("d", "order('drain')", "drain"),
        ("r", "order('resume')", "resume"),
        ("w", "order('withdraw')", "withdraw"),
        ("q", "quit", "quit"),
    ]

    def __init__(self, role: str, look: Callable[[], Seen], order: Callable[[str], None]) -> None:
        super().__init__()
        self._role, self._look, self._order = role, look, order

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        with Horizontal(classes="row"):
            yield DataTable(id="work", classes="box", cursor_type="row")
            with VerticalScroll(classes="box", id="machine_box"):
                yield Static(id="machine", markup=False)
        with Horizontal(classes="row"):
            with VerticalScroll(classes="box", id="funds_box"):
                yield Static(id="funds")
            with VerticalScroll(classes="box", id="days_box"):
                yield Static(id="days", markup=False)
        with Horizontal(classes="row"):
            yield DataTable(id="receipts", classes="box", cursor_type="row")
            with VerticalScroll(classes="box", id="ends_box"):
                yield Static(id="ends")
        yield Static(id="log", markup=False)
        yield Footer()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A verifier answers for its seats: it cannot be drained."""
        return not (action == "order" and self._role == "verifier" and parameters[0] != "withdraw")

    async def on_mount(self) -> None:
        titles = {
            "#work": "drawn for" if self._role == "verifier" else "work", "#machine_box": "machine", "#funds_box": "money",
            "#days_box": "credited by day (UTC)", "#receipts": "receipts", "#log": "log",
            "#ends_box": "checks" if self._role == "verifier" else "reputation: how its segments ended",
        }  # fmt: skip
        for name, title in titles.items():
            self.query_one(name).border_title = title
        for name, columns in (("#work", picture.WORK[self._role]), ("#receipts", picture.RECEIPTS)):
            self.query_one(name, DataTable).add_columns(*columns)
        await self.refresh_picture()
        self.set_interval(EVERY, self.refresh_picture)

    async def refresh_picture(self) -> None:
        """Reads everything again. What cannot be read is told, and the last picture stays."""
        try:
            seen = await asyncio.to_thread(self._look)
        except Trouble as trouble:
            self.notify(trouble.what, severity="error")
            return
        status = {"role": self._role, **seen.status}
        texts = {
            "#head": picture.head(status), "#machine": picture.hardware(seen.machine, seen.gpus), "#days": picture.days(status, DAYS),
            "#log": picture.log_lines(seen.log, LOG),
        }  # fmt: skip
        for name, lines in texts.items():
            self.query_one(name, Static).update(Text("\n".join(lines)))
        for name, pairs in (("#funds", picture.funds(status)), ("#ends", picture.reputation(status))):
            self.query_one(name, Static).update(_pairs(pairs))
        for name, rows in (("#work", picture.work(status, seen.log)), ("#receipts", picture.receipts(status))):
            table = self.query_one(name, DataTable)
            at = table.cursor_row
            table.clear()
            table.add_rows([Text(cell) for cell in row] for row in rows)
            table.move_cursor(row=at)

    def action_order(self, order: str) -> None:
        """Gives the daemon an order, beside the screen."""
        self.run_worker(self._give(order), exclusive=True, group="order")

    async def _give(self, order: str) -> None:
        try:
            await asyncio.to_thread(self._order, order)
        except Trouble as trouble:
            self.notify(f"{trouble.what}: {trouble.why}" if trouble.why else trouble.what, severity="error")
        else:
            self.notify(f"the {self._role} has taken the order: {order}")
        await self.refresh_picture()


def _pairs(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table
