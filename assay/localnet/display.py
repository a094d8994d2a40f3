"""What a person sees of the demo: segments as they go through their states, the loss, what happens and why, and at the end who has what.

On a terminal it is one live picture; elsewhere (a pipe, a log) one line for each thing that happens. Everything shown comes from
the chain and from what the daemons print; nothing is made up for the show.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from assay.chain import SegmentState
from assay.cli.common import money, show
from assay.ids import Address, SegmentId
from assay.receipts import Ledger, Segment, receipt

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24
COLOURS = {"SETTLED": "green", "WITHHELD": "red", "UNPAID": "red", "LAPSED": "red", "VOID": "magenta", "REJECTED": "red"}
TOPICS = {
    "settled": "green", "withheld": "red", "lapsed": "red", "voided": "magenta", "unpaid": "red", "killed": "bold red", "done": "bold green",
    "disputed": "yellow", "resolved": "bold yellow",
}  # fmt: skip


def spark(values: list[float], width: int = 48) -> str:
    """A line of bars; the highest value is the highest bar."""
    if not values:
        return ""
    shown = [values[int(i * len(values) / min(width, len(values)))] for i in range(min(width, len(values)))]
    low, high = min(shown), max(shown)
    return "".join(BARS[round((v - low) / (high - low or 1) * (len(BARS) - 1))] for v in shown)


class Display:
    """`name` turns an account into what the person knows it by."""

    def __init__(self, name: Callable[[Address], str], *, as_json: bool) -> None:
        self.name, self.as_json = name, as_json
        self.started = time.monotonic()
        self.ledger = Ledger()
        self.losses: dict[int, float] = {}
        self.at: dict[SegmentId, int] = {}
        """Last step heard of, by segment."""
        self.phase = "starting"
        self.head = ""
        self.local = ""
        self.lines: deque[Text] = deque(maxlen=9)
        self.console = Console(highlight=False, stderr=as_json)
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.as_json:
            self._live = Live(self, console=self.console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *what: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*what)
            self._live = None

    # ---- what comes in ---------------------------------------------------------------------------------------------------

    def say(self, topic: str, text: str, **data: Any) -> None:
        """Something happened."""
        elapsed = time.monotonic() - self.started
        if self.as_json:
            show({"topic": topic, "text": text, "seconds": round(elapsed, 1), **data})
            return
        line = Text.assemble((f"{elapsed:5.1f} s  ", "dim"), Text(text, style=TOPICS.get(topic, "")))
        self.lines.append(line)
        if self._live is None:
            self.console.print(line, soft_wrap=True)

    def progress(self, segment: SegmentId, step: int, loss: float) -> None:
        """A worker finished a step."""
        self.losses[step] = loss
        self.at[segment] = max(self.at.get(segment, 0), step + 1)
        if self.as_json:
            show({"topic": "progress", "segment": segment, "step": step, "loss": loss})

    def forget(self, segment: Segment) -> None:
        """What a segment that came to nothing said of its losses."""
        for step in range(segment.start, segment.stop):
            self.losses.pop(step, None)

    # ---- the picture -----------------------------------------------------------------------------------------------------

    def __rich__(self) -> Group:
        elapsed = time.monotonic() - self.started
        top = Text.assemble((f"{elapsed:4.0f} s  ", "bold"), self.phase, ("   " + self.head, "dim"))
        parts: list[Any] = [top]
        if self.ledger.segments:
            parts.append(self._segments())
        if self.losses:
            values = [loss for _, loss in sorted(self.losses.items())]
            parts.append(Text.assemble("loss  ", (spark(values), "cyan"), f"  {values[0]:.3f} → {values[-1]:.3f}", ("   " + self.local, "dim")))
        parts.append(Panel(Group(*self.lines), title="what happens", title_align="left", border_style="dim"))
        return Group(*parts)

    def _segments(self) -> Table:
        table = Table("", "steps", "by", "progress", "state", "checked", box=None, padding=(0, 1), header_style="dim")
        for segment in list(self.ledger.segments.values())[-16:]:
            style = COLOURS.get(segment.state.name, "yellow")
            table.add_row(
                str(segment.number), f"{segment.start}-{segment.stop}", self.name(segment.provider), self._bar(segment),
                Text(segment.state.name.lower(), style=style), self._checks(segment),
            )  # fmt: skip
        return table

    def _bar(self, segment: Segment) -> Text:
        total = segment.stop - segment.start
        done = self.at.get(segment.number, segment.start) - segment.start
        if segment.state not in (SegmentState.ASSIGNED, SegmentState.ACTIVE, SegmentState.LAPSED):
            done = total
        full = round(WIDTH * min(max(done, 0), total) / total)
        return Text.assemble(("━" * full, COLOURS.get(segment.state.name, "cyan")), ("━" * (WIDTH - full), "dim"))

    def _checks(self, segment: Segment) -> Text:
        marks = Text()
        for verifier in segment.verifiers:
            verdict = segment.verdicts.get(verifier)
            mark, style = ("·", "dim") if verdict is None else ("✓", "green") if verdict else ("✗", "red")
            marks.append(mark, style)
        return marks

    # ---- the end ---------------------------------------------------------------------------------------------------------

    def summary(self, balances: dict[str, int], before: str, after: str, facts: list[tuple[str, str]]) -> None:
        """The final report: receipts, texts, balances."""
        if self.as_json:
            return
        screen = self.console
        screen.print()
        screen.rule("receipts", style="dim")
        for segment in self.ledger.segments.values():
            style = "green" if segment.state == SegmentState.SETTLED else "red"
            screen.print(Text.assemble((f"{segment.number:3d} ", style), f"{self.name(segment.provider)}, {receipt(segment)}"), soft_wrap=True)
        screen.rule("the model", style="dim")
        screen.print(Text.assemble(("before  ", "bold"), before.strip()), soft_wrap=True)
        screen.print()
        screen.print(Text.assemble(("after   ", "bold"), after.strip()), soft_wrap=True)
        screen.rule("money: change of each account over the job", style="dim")
        table = Table("who", "change", box=None, padding=(0, 2, 0, 0), header_style="dim")
        for who, change in balances.items():
            style = "green" if change > 0 else "red" if change < 0 else "dim"
            table.add_row(who, Text(money(change), style=style, justify="right"))
        table.add_row("sum", Text(money(sum(balances.values())), justify="right", style="bold"))
        screen.print(table)
        screen.rule(style="dim")
        for key, value in facts:
            screen.print(Text.assemble((f"{key:22}", "bold"), value), soft_wrap=True)
