"""Tables for people: nothing in them is cut off, since accounts and digests are there to be copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNBOUND = 10_000
"""Columns of a file or a pipe, as far as a table is concerned."""


def put(table: Table, screen: Console | None = None) -> None:
    """Prints it: on a terminal, what does not fit into a column goes on in its next line; anywhere else the table is as wide as it has to be."""
    from rich.console import Console

    screen = screen or Console(highlight=False)
    if screen.is_terminal:
        for column in table.columns:
            column.overflow = "fold"
    else:
        screen.width = max(screen.width, screen.measure(table, options=screen.options.update(width=UNBOUND)).maximum)
    screen.print(table)
