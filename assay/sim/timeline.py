"""A picture of a run (SVG): who ran what when, what became of it, and what went wrong meanwhile.

Above, how many segments were run at each moment; below, a row for each provider: a bar for each segment, coloured by its end. Vertical
marks are incidents that concern more than one node; a small mark in a row is that provider's own. Of many providers those with failed
segments come first, then the busiest.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from assay.chain import FAILED, SegmentState
from assay.sim.figures import Work

if TYPE_CHECKING:
    from assay.sim.world import World

ROWS, ROW, WIDTH, LEFT, TOP, CHART = 60, 9, 1000, 110, 40, 90
COLOURS = {
    "settled": "#4c9f70", "committed, not settled": "#9fc9e8", "lapsed": "#e0a030", "withheld or rejected": "#c0392b", "void": "#a08bb5",
    "unpaid": "#d97b66", "running": "#d8d8d8",
}  # fmt: skip
MARKS = {"partition": "#8e44ad", "reorganisation": "#16a085", "crash": "#555555", "left": "#000000", "dispute": "#c0392b"}
MOST_MARKS = 400
_NAMES = {
    SegmentState.SETTLED: "settled", SegmentState.LAPSED: "lapsed", SegmentState.WITHHELD: "withheld or rejected",
    SegmentState.REJECTED: "withheld or rejected", SegmentState.VOID: "void", SegmentState.UNPAID: "unpaid",
}  # fmt: skip


def colour(work: Work) -> str:
    name = _NAMES.get(work.state) or ("committed, not settled" if work.committed else "running")
    return COLOURS[name]


def write(world: World, path: Path) -> None:
    path.write_text(draw(world))


def draw(world: World) -> str:
    figures, end = world.figures, max(world.clock.now, 1.0)
    by: dict[str, list[Work]] = {}
    for work in figures.work.values():
        by.setdefault(world.name_of(work.provider), []).append(work)
    first = sorted(by, key=lambda name: (-sum(work.state in FAILED for work in by[name]), -len(by[name]), name))[:ROWS]
    height = TOP + CHART + 40 + ROW * len(first) + 60
    scale = WIDTH / end

    def x(time: float) -> float:
        return round(LEFT + time * scale, 1)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 30}" height="{height}" font-family="sans-serif" font-size="10">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="16" font-size="13">seed {world.seed}: {len(figures.work)} segments of {len(world.posted)} jobs, '
        f"{len(world.nodes)} nodes, {end:.0f} s</text>",
        *_running(list(figures.work.values()), end),
    ]
    base = TOP + CHART + 40
    rows = {name: base + i * ROW for i, name in enumerate(first)}
    for name, y in rows.items():
        out.append(f'<text x="{LEFT - 6}" y="{y + ROW - 2}" text-anchor="end" font-size="8">{escape(name)}</text>')
        for work in by[name]:
            wide = max(0.6, ((work.done or end) - work.begun) * scale)
            out.append(f'<rect x="{x(work.begun)}" y="{y}" width="{wide:.1f}" height="{ROW - 2}" fill="{colour(work)}"/>')
    for incident in figures.incidents[:MOST_MARKS]:
        tint = MARKS.get(incident.what, "#000000")
        if incident.who in rows:
            out.append(f'<circle cx="{x(incident.at)}" cy="{rows[incident.who] + ROW / 2 - 1}" r="2.2" fill="{tint}"/>')
        elif incident.what in ("partition", "reorganisation", "dispute"):
            out.append(f'<path d="M{x(incident.at)} {TOP}V{base + ROW * len(first)}" stroke="{tint}" stroke-width="0.6" stroke-dasharray="3 2"/>')
    out += _legend(height - 30)
    return "\n".join([*out, "</svg>\n"])


def _running(works: list[Work], end: float) -> list[str]:
    """Segments under way in each of 250 parts of the time."""
    parts = 250
    change = [0] * (parts + 1)
    for work in works:
        change[min(parts - 1, int(work.begun / end * parts))] += 1
        change[min(parts, int((work.done or end) / end * parts) + 1)] -= 1
    counts, now = [], 0
    for step in change[:parts]:
        now += step
        counts.append(now)
    most = max(1, *counts)
    points = " ".join(f"{LEFT + WIDTH * i / parts:.1f},{TOP + CHART * (1 - n / most):.1f}" for i, n in enumerate(counts))
    return [
        f'<polygon points="{LEFT},{TOP + CHART} {points} {LEFT + WIDTH},{TOP + CHART}" fill="#cfe3d6" stroke="#4c9f70"/>',
        f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{most} running</text>',
        f'<text x="{LEFT}" y="{TOP + CHART + 14}">0 s</text><text x="{LEFT + WIDTH}" y="{TOP + CHART + 14}" text-anchor="end">{end:.0f} s</text>',
    ]


def _legend(y: int) -> list[str]:
    out, at = [], LEFT
    for name, tint in [*COLOURS.items(), *MARKS.items()]:
        out.append(f'<rect x="{at}" y="{y}" width="9" height="9" fill="{tint}"/><text x="{at + 12}" y="{y + 8}">{name}</text>')
        at += 24 + 6 * len(name)
    return out
