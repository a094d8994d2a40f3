# Writes the tables of docs/quality.md and the plots in docs/plots from bench/results/curves.json (bench/curves.py measured it). It measures nothing.
#
#     python bench/curves_page.py
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE, PLOTS = ROOT / "bench" / "results" / "curves.json", ROOT / "docs" / "quality.md", ROOT / "docs" / "plots"
BEGIN, END = "<!-- curves: python bench/curves_page.py -->\n", "<!-- end of curves -->\n"
COLOURS = {
    "fp32": "#000000", "bf16": "#999999", "8": "#d55e00", "8h": "#e69f00", "8hs": "#f0e442", "14": "#0072b2", "14s": "#cc79a7",
    "15": "#56b4e9", "23": "#009e73",
}  # fmt: skip
"""Okabe and Ito's, for all eyes."""
NAMES = {name: f"b = {name}" for name in COLOURS} | {"fp32": "torch float32", "bf16": "torch bfloat16"}
ORDER = ("text", "images", "table", "words", "units3", "units5")
Record = dict[str, Any]


def record() -> Record:
    """bench/results/curves.json, its tasks in ORDER."""
    found: Record = json.loads(RECORD.read_text())
    tasks = found["figures"]["tasks"]
    found["figures"]["tasks"] = {name: tasks[name] for name in ORDER}
    return found


def differences(task: Record, precision: str, metric: str) -> list[float]:
    """By seed, against float32 with the same seed."""
    ours, theirs = (task["precisions"][p]["finals"][metric] for p in (precision, "fp32"))
    return [a - b for a, b in zip(ours, theirs, strict=True)]


# ---- tables ------------------------------------------------------------------------------------------------------------------


def _signed(x: float) -> str:
    return f"{x:+.4f}" if round(x, 4) else "0.0000"


def _cell(task: Record, precision: str, metric: str) -> str:
    values = task["precisions"][precision]["finals"][metric]
    if precision == "fp32":
        return f"{fmean(values):.4f} ± {stdev(values):.4f}"
    change = differences(task, precision, metric)
    return f"{_signed(fmean(change))} ± {stdev(change):.4f}"


def table(task: Record) -> str:
    metrics = list(task["precisions"]["fp32"]["finals"])
    lines = ["| | " + " | ".join(metrics) + " |", "|---|" + "---|" * len(metrics)]
    for precision in COLOURS:
        lines.append(f"| {NAMES[precision]} | " + " | ".join(_cell(task, precision, m) for m in metrics) + " |")
    return "\n".join(lines)


def output_layer(figures: Record) -> str:
    errors = {precision: figures["output_layer"][precision] for precision in ("8", "8s", "14", "14s", "15", "23")}
    names = list(errors["14"])
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for precision, by_name in errors.items():
        lines.append(f"| b = {precision} | " + " | ".join(f"{100 * by_name[name]:.2g} %" for name in names) + " |")
    return "\n".join(lines)


def costs(figures: Record) -> str:
    tasks = {name: task for name, task in figures["tasks"].items() if task["precisions"]["14"]["cpu_s"] > 1}
    lines = ["| | " + " | ".join(tasks) + " |", "|---|" + "---|" * len(tasks)]
    for precision in COLOURS:
        ratios = [t["precisions"][precision]["cpu_s"] / t["precisions"]["14"]["cpu_s"] for t in tasks.values()]
        lines.append(f"| {NAMES[precision]} | " + " | ".join(f"{r:.1f}" for r in ratios) + " |")
    return "\n".join(lines)


def generated(whole: Record) -> str:
    """What stands between BEGIN and END."""
    figures = whole["figures"]
    out = [
        f"Measured on {whole['date']} ({whole['machine']['cpu']}, PyTorch {figures['torch']}), {figures['seeds']} seeds. The first row of a table\n"
        "is the mean over seeds and their standard deviation; all others are the mean and the standard deviation of the *difference* to\n"
        "float32 with the same seed. The training loss is the mean of the last 20 steps. Plots: means over seeds; on the right the\n"
        "difference to float32, on a scale that is linear within ±0.0001 and logarithmic outside. On the left a curve that leaves\n"
        "the picture is cut at 1.3 times float32's greatest loss.\n"
    ]
    for name, task in figures["tasks"].items():
        out.append(f"### {task['title']}\n\n{task['parameters']:,} parameters, {task['steps']} steps, batches of {task['batch']}.\n")
        out.append(f"{table(task)}\n\n![loss curves of every precision]({PLOTS.name}/{name}.svg)\n")
    out.append(
        "### Where the output layer of the words loses\n\nErrors of its two gradients on a batch after the training in float32, as a share of their "
        f"size.\n\n{output_layer(figures)}\n"
    )
    out.append(
        "### What it costs\n\nCPU time of a training in units of that with b = 14, one thread, on a busy machine and with small matrices: not a\n"
        "measurement of speed (`bench/step.py` is), but enough to see what the treatments add. Only tasks of more than a second.\n\n"
        f"{costs(figures)}\n"
    )
    return "\n".join(out)


# ---- plots -------------------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, TOP, LEFT, RIGHT, BOTTOM, GAP = 880, 330, 46, 56, 14, 34, 74
PANEL = (WIDTH - LEFT - RIGHT - GAP) / 2
LINEAR = 1e-4
"""Differences up to here are shown linearly."""


def _bent(d: float) -> float:
    return math.asinh(d / LINEAR)


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers."""
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _panel(x0: float, title: str, curves: dict[str, Sequence[float]], labels: dict[float, str], steps: int, low: float, high: float) -> list[str]:
    """A frame at x0 with curves whose heights are in low..high; labels: height -> text."""
    bottom = HEIGHT - BOTTOM

    def y(v: float) -> float:
        return bottom - (v - low) / (high - low) * (bottom - TOP)

    out = [f'<text x="{x0:.1f}" y="{TOP - 8}" font-weight="bold">{title}</text>']
    for height, text in labels.items():
        out.append(f'<path d="M{x0:.1f} {y(height):.1f}h{PANEL:.1f}" stroke="#dddddd"/>')
        out.append(f'<text x="{x0 - 6:.1f}" y="{y(height) + 4:.1f}" text-anchor="end">{text}</text>')
    for share in (0, 0.5, 1):
        out.append(f'<text x="{x0 + share * PANEL:.1f}" y="{bottom + 16}" text-anchor="middle">{round(share * steps)}</text>')
    out.append(f'<text x="{x0 + PANEL / 2:.1f}" y="{bottom + 30}" text-anchor="middle">step</text>')
    for name in reversed(curves):  # float32 last, dashed: the others show through
        points = " ".join(f"{x0 + (i + 0.5) / len(curves[name]) * PANEL:.1f},{y(v):.1f}" for i, v in enumerate(curves[name]))
        dashes = ' stroke-dasharray="5 4"' if name == "fp32" else ""
        out.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.6"{dashes}/>')
    return out


def plot(task: Record) -> str:
    """An SVG document: the smoothed losses, and their differences to float32."""
    curves = {name: task["precisions"][name]["curve"] for name in COLOURS}
    base = curves["fp32"]
    above = {name: [_bent(a - b) for a, b in zip(curve, base, strict=True)] for name, curve in curves.items() if name != "fp32"}
    top = 1.3 * max(base)
    shown = {name: [min(v, top) for v in curve] for name, curve in curves.items()}
    low, high = min(min(c) for c in shown.values()), max(max(c) for c in shown.values())
    worst = max(max(abs(v) for v in c) for c in above.values())
    decades = [10.0**e for e in range(-4, 3) if _bent(10.0**e) <= worst * 1.02]
    labels = {sign * _bent(d): f"{sign * d:+g}" for d in decades for sign in (-1, 1)} | {0.0: "0"}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for i, name in enumerate(COLOURS):
        x = LEFT + i * 74 + (40 if i > 0 else 0) + (46 if i > 1 else 0)
        out.append(f'<path d="M{x} 14h18" stroke="{COLOURS[name]}" stroke-width="3"/><text x="{x + 23}" y="18">{NAMES[name]}</text>')
    out += _panel(LEFT, "training loss", shown, {v: f"{v:g}" for v in map(_tidy, _ticks(low, high))}, task["steps"], low, high)
    out += _panel(LEFT + PANEL + GAP, "difference to float32", above, labels, task["steps"], -worst * 1.02, worst * 1.02)
    return "\n".join([*out, "</svg>"]) + "\n"


def _tidy(v: float) -> float:
    return float(f"{v:.6g}")


def plots(figures: Record) -> dict[str, str]:
    """File name -> document."""
    return {f"{name}.svg": plot(task) for name, task in figures["tasks"].items()}


def main() -> None:
    whole = record()
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + generated(whole) + text[text.index(END) :])
    PLOTS.mkdir(exist_ok=True)
    for name, document in plots(whole["figures"]).items():
        (PLOTS / name).write_text(document)


if __name__ == "__main__":
    main()
