"""When a worker works: the hours, temperatures and company that its owner allows.

    hours        22-7: from ten at night to seven in the morning, by the machine's clock
    temperature  no GPU hotter than so many degrees; work goes on when all have cooled by COOLED degrees
    power        no GPU that its driver lets take more watts than so many: the driver limits a GPU, which root has told it to, and this looks whether
                 it does. Where a GPU does not tell its limit, what it takes now counts
    company      no other program computes on the GPU: the owner's game comes first

When one of these forbids it, the worker is told to drain: it stops after the step it is in, commits what it has, which is paid, and offers
nothing. When all allow it again it is told to resume. A drain that the owner has ordered by hand is left alone.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from assay.adapters.hardware import Gpu
from assay.runtime import Note

LOOK_EVERY = 15.0
"""Seconds."""
COOLED = 5
"""Degrees under the limit at which a machine that was too hot may work again."""
ENGINE = "assay.cage"
"""What an engine's command line names."""
BUSY = 10
"""Per cent of a GPU's time from which another's program counts as using it."""


@dataclass(frozen=True)
class Rules:
    """What the owner allows."""

    hours: tuple[int, int] | None = None
    hottest: int | None = None
    alone: bool = False
    watts: int | None = None


class Node(Protocol):
    def order(self, order: str) -> None: ...


class Orders:
    """The owner's orders by hand, on their way to `node`."""

    def __init__(self, node: Node):
        self.drained = False
        """Whether the last one was to drain."""
        self._node = node

    def order(self, order: str) -> None:
        """Raises nothing: a node notes an order that it does not know."""
        if order in ("drain", "resume"):
            self.drained = order == "drain"
        self._node.order(order)


def hours_of(text: str) -> tuple[int, int] | None:
    """`22-7` as (22, 7); None for the empty text. Raises ValueError."""
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,2})-(\d{1,2})", text)
    if found is None or not all(0 <= int(hour) <= 24 for hour in found.groups()) or found[1] == found[2]:
        raise ValueError(f"{text!r} is no span of hours; from ten at night to seven in the morning is 22-7")
    return int(found[1]), int(found[2])


def forbids(rules: Rules, hour: int, gpus: tuple[Gpu, ...], own: frozenset[int], paused: bool) -> str:
    """Why the worker may not work at this hour of the day, with these GPUs; nothing if it may. `own`: the ids of its own processes."""
    if rules.hours is not None:
        first, last = rules.hours
        inside = first <= hour < last if first < last else hour >= first or hour < last
        if not inside:
            return f"it works from {first} to {last} o'clock"
    for gpu in gpus:
        if rules.hottest is not None and gpu.temperature is not None and gpu.temperature > rules.hottest - (COOLED if paused else 0):
            return f"GPU {gpu.index} has {gpu.temperature} °C, and {rules.hottest} are allowed"
        may = gpu.power_limit if gpu.power_limit is not None else gpu.power
        if rules.watts is not None and may is not None and round(may) > rules.watts:
            how = f"may take {may:.0f} W, and {rules.watts} are allowed: sudo nvidia-smi -i {gpu.index} -pl {rules.watts}"
            return f"GPU {gpu.index} {how if gpu.power_limit is not None else f'takes {may:.0f} W, and {rules.watts} are allowed'}"
        if gpu.shares is not None:  # a desktop holds the GPU all day, and takes next to nothing of it
            others = [pid for pid, share in gpu.shares if pid not in own and share >= BUSY]
        else:
            others = [pid for pid in gpu.processes if pid not in own and (gpu.busy or 0) >= BUSY]
        if rules.alone and others:
            return f"GPU {gpu.index} is used by another program (process {others[0]})"
    return ""


async def look_after(
    node: Node, owner: Orders, rules: Rules, look: Callable[[], tuple[int, tuple[Gpu, ...], frozenset[int]]], note: Callable[[Note], None],
    every: float = LOOK_EVERY,
) -> None:  # fmt: skip
    """Until it is cancelled. `look` gives the hour, the GPUs and the worker's own processes."""
    paused = ""
    while True:
        why = forbids(rules, *await asyncio.to_thread(look), bool(paused))
        if why and not paused:
            note(Note(topic="paused", text=f"this worker pauses: {why}"))
            node.order("drain")
        elif paused and not why:
            note(Note(topic="resumed", text="this worker stays drained, as ordered" if owner.drained else "this worker goes on"))
            if not owner.drained:
                node.order("resume")
        paused = why
        await asyncio.sleep(every)


def look_here() -> tuple[int, tuple[Gpu, ...], frozenset[int]]:
    """This machine, now."""
    import psutil

    from assay.adapters.hardware import gpus

    this, found = psutil.Process(), gpus()
    own = {this.pid, *(child.pid for child in this.children(recursive=True))}
    own |= {pid for gpu in found for pid in gpu.processes if pid not in own and _engine(psutil, pid)}
    return time.localtime().tm_hour, found, frozenset(own)


def _engine(psutil: Any, pid: int) -> bool:
    """Whether a process is an engine of this software: one of a fleet's place is no child of the daemon."""
    try:
        return ENGINE in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
