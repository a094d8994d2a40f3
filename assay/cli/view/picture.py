"""Words for what is seen: pure functions from a status, a log and the hardware to rows and lines. Money is in tokens, days are of UTC.

A status may come from a daemon of another version: what it lacks is left out, what it has beyond that is not shown. Text from outside
(reasons, errors of peers) is one line without control characters.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from assay.adapters.hardware import Gpu, Machine
from assay.cli.common import money

DAY = 86_400
BAR = 24
"""Characters of a full bar."""
LONG = 160
BLOCKS = " ▏▎▍▌▋▊▉█"
WORK = {
    "worker": ("segment", "job", "steps", "done", "doing", "on chain", "price"),
    "verifier": ("segment", "job", "round", "links", "doing", "verdict", "fee", "at risk"),
}
"""Columns of the work of each role."""
RECEIPTS = ("when", "segment", "amount", "why")


def plain(value: object, longest: int = LONG) -> str:
    """On one line, printable, not too long."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def whole(status: Mapping[str, Any], key: str) -> int:
    """A number of a status; 0 where there is none."""
    value = status.get(key, 0)
    return value if isinstance(value, int) else 0


def entries(status: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A list of objects of a status; nothing else."""
    value = status.get(key, [])
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def inner(status: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = status.get(key, {})
    return value if isinstance(value, dict) else {}


def bar(share: float, width: int = BAR) -> str:
    """A bar of at most `width` characters, to an eighth of one."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (BLOCKS[part] if part else "")).ljust(width)


def clock(stamp: object) -> str:
    """UTC, to the second."""
    if not isinstance(stamp, int | float) or not 0 <= stamp < 2**40:
        return ""
    return time.strftime("%m-%d %H:%M:%S", time.gmtime(stamp))


# ---- the head ------------------------------------------------------------------------------------------------------------


def head(status: Mapping[str, Any]) -> list[str]:
    """Who this is, and whether it is well."""
    role, account = plain(status.get("role", "node")), plain(status.get("account", ""))
    if not status.get("running"):
        state = "NOT RUNNING; this is the last that it told"
    elif status.get("draining"):
        state = "drained: it takes nothing new"
    else:
        state = plain(status.get("doing", "up"))
    reached = "" if status.get("chain_reachable", True) else " · the chain DOES NOT ANSWER"
    since = f" · up since {clock(status['since'])}" if status.get("since") and status.get("running") else ""
    return [
        f"{role} {account}{since}",
        f"{state} · block {whole(status, 'head')} of {clock(whole(status, 'chain_time'))} · {whole(status, 'known_peers')} peers{reached}",
    ]


# ---- work ----------------------------------------------------------------------------------------------------------------


def progress(log: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """The last step that is done, by segment."""
    return {e["segment"]: e["step"] for e in log if e.get("topic") == "step" and isinstance(e.get("segment"), int) and isinstance(e.get("step"), int)}


def segments(status: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A worker's rows, columns WORK."""
    rows: list[tuple[str, ...]] = []
    steps = progress(log)
    for s in reversed(entries(status, "segments")):
        start, stop, number = whole(s, "start"), whole(s, "stop"), whole(s, "segment")
        done = (steps.get(number, start - 1) + 1 - start) / max(1, stop - start) if s.get("phase") == "running" else None
        share = "" if done is None else f"{bar(done, 8)} {min(max(done, 0.0), 1.0):.0%}"
        phase, state = plain(s.get("phase", ""), 20), plain(s.get("state", ""), 20)
        rows.append((str(number), str(whole(s, "job")), f"{start}-{stop}", share, phase, state, money(whole(s, "price"))))
    return rows


def duties(status: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A verifier's rows, columns WORK: what it is drawn for, and what it disputes."""
    rows: list[tuple[str, ...]] = []
    for d in reversed(entries(status, "duties")):
        links = d.get("links", [])
        named = ", ".join(str(link) for link in links[:6]) if isinstance(links, list) else ""
        verdict = {True: "agrees", False: "DISAGREES"}.get(d.get("agrees"), "")
        phase, number, fee, bond = plain(d.get("phase", ""), 20), whole(d, "segment"), money(whole(d, "fee")), money(whole(d, "bond"))
        rows.append((str(number), str(whole(d, "job")), str(whole(d, "round")), named, phase, verdict, fee, bond))
    for c in entries(status, "disputes"):
        phase = f"disputes: {plain(c.get('phase', ''), 20)}"
        rows.append((str(whole(c, "segment")), "", "", str(whole(c, "link")), phase, "DISAGREES", "", "a bond"))
    return rows


def work(status: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return duties(status) if status.get("role") == "verifier" else segments(status, log)


# ---- money ---------------------------------------------------------------------------------------------------------------


def funds(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is where, and what is at risk."""
    balance = inner(status, "balance")
    stake, reserved = whole(balance, "stake"), whole(balance, "reserved")
    rows = [
        ("to be withdrawn", money(whole(status, "credit") + whole(status, "dispute_credit"))),
        ("pending", money(whole(status, "pending"))),
    ]
    if balance:
        rows += [
            ("in the account", money(whole(balance, "tokens"))),
            ("staked", money(stake)),
            ("  of it at risk", f"{money(reserved)} ({reserved / stake:.0%})" if stake else money(reserved)),
            ("for gas", f"{whole(balance, 'native') / 10**18:.4f}"),
        ]
    return rows


def reputation(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How its segments ended (what schedulers look at), or its checks."""
    if status.get("role") == "verifier":
        rows = [("drawn", whole(status, "drawn")), ("checked", whole(status, "checks_done")), ("disagreed", whole(status, "disagreed"))]
        return [(name, str(count)) for name, count in [*rows, ("did not show up", whole(status, "absent"))]]
    ends = inner(status, "ends")
    return [(plain(end, 20), str(whole(ends, end))) for end in ("settled", "lapsed", "withheld", "unpaid", "voided", "rejected") if whole(ends, end)]


def days(status: Mapping[str, Any], count: int) -> list[str]:
    """One line a day, newest first, with those of no earnings between them; the longest bar is the best day's."""
    known = {whole(day, "day"): day for day in entries(status, "days")}
    today = max([whole(status, "chain_time") // DAY, *known])
    first = max(today - count + 1, min(known, default=today))
    shown = [(day, known.get(day, {})) for day in range(today, first - 1, -1)]
    best = max([1, *(whole(day, "earned") for _, day in shown)])
    lines = []
    for number, day in shown:
        earned, lost = whole(day, "earned"), whole(day, "lost")
        when = time.strftime("%m-%d", time.gmtime(number * DAY)) if 0 <= number < 2**24 else "?"
        lines.append(f"{when} {bar(earned / best)} {money(earned)}" + (f" and {money(-lost)}" if lost else ""))
    return lines


def receipts(status: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Columns RECEIPTS, newest first."""
    return [
        (clock(e.get("time")), str(whole(e, "segment") or ""), money(whole(e, "amount")), plain(e.get("why", "")))
        for e in entries(status, "receipts")
    ]  # fmt: skip


# ---- the machine ---------------------------------------------------------------------------------------------------------


def hardware(machine: Machine | None, gpus: Sequence[Gpu]) -> list[str]:
    """Processor, memory and every GPU, with bars."""
    lines = []
    if machine is not None:
        used = machine.memory - machine.available
        lines += [
            plain(machine.cpu, 46),
            f"load   {bar(machine.load / machine.cores, 12)} {machine.load:.1f} of {machine.cores} cores",
            f"memory {bar(used / max(1, machine.memory), 12)} {used / 2**30:.1f} of {machine.memory / 2**30:.1f} GiB",
        ]
    for gpu in gpus:
        lines.append(f"GPU {gpu.index}  {plain(gpu.name, 40)}")
        if gpu.busy is not None:
            lines.append(f"busy   {bar(gpu.busy / 100, 12)} {gpu.busy} %")
        lines.append(f"memory {bar(gpu.used / max(1, gpu.memory), 12)} {gpu.used / 2**30:.1f} of {gpu.memory / 2**30:.1f} GiB")
        told = [f"{gpu.temperature} °C"] if gpu.temperature is not None else []
        told += [f"{gpu.power:.0f} W" + (f" of {gpu.power_limit:.0f}" if gpu.power_limit else "")] if gpu.power is not None else []
        lines += [f"       {', '.join(told)}"] if told else []
    return lines or ["nothing is known of it"]


def log_lines(log: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    """The last entries, oldest first."""
    return [f"{clock(e.get('time'))}  {plain(e.get('topic', ''), 12):12}  {plain(e.get('text', ''))}" for e in log[-count:]]
