"""What goes wrong in a network of processes, and when: all of it follows from a seed.

`faults` is an endless list of faults in the order of their times. It knows no process and no clock (assay.localnet.injector does what it
says), so the same seed and targets give the same list on every machine; a run is told again by its seed and how many were done.

A target that was hit is left alone until it is over it, `REST` seconds more after a kill, in which it starts again; at most `together`
targets are hit at once. So every process gets to work between its faults, and what a network survives is that, not luck.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    KILL = "kill"
    """SIGKILL to it and all that it started; it is started again `seconds` later."""
    PAUSE = "pause"
    """SIGSTOP, and SIGCONT `seconds` later."""
    CUT = "cut"
    """Its connections are reset, and new ones refused, for `seconds`."""
    HOLE = "hole"
    """Nothing passes on its connections for `seconds`; what was sent arrives then, as after a cable was out."""
    SLOW = "slow"
    """Every piece of data on its connections takes `delay` longer, for `seconds`."""


class Fault(NamedTuple):
    number: int
    at: float
    """Seconds from the first look at the plan."""
    kind: Kind
    target: str
    seconds: float
    delay: float = 0.0

    def told(self) -> dict[str, object]:
        """For the log."""
        return {**self._asdict(), "kind": str(self.kind)}


LONGEST = {Kind.KILL: 2.0, Kind.PAUSE: 6.0, Kind.CUT: 6.0, Kind.HOLE: 6.0, Kind.SLOW: 12.0}
"""Seconds; the shortest is a tenth of it."""
SLOWEST = 0.4
"""Seconds that a piece of data is held up."""
REST = 12.0


def faults(seed: int, targets: Mapping[str, tuple[Kind, ...]], gap: float, together: int, rest: float = REST) -> Iterator[Fault]:
    """`targets`: what may befall whom. `gap`: seconds between two faults in the mean, where there is a target that may be hit."""
    draw = random.Random(f"assay/faults/{seed}")
    names, busy, at, number = sorted(targets), dict.fromkeys(targets, 0.0), 0.0, 0
    if not all(targets.values()):
        raise ValueError("a target that nothing may befall")
    while True:
        at += gap * draw.uniform(0.5, 1.5)
        ends = sorted(busy.values(), reverse=True)
        if together < len(ends):
            at = max(at, ends[together - 1])  # until then so many are hit
        at = max(at, min(busy.values()))
        target = draw.choice([name for name in names if busy[name] <= at])
        kind = draw.choice(targets[target])
        seconds = round(LONGEST[kind] * draw.uniform(0.1, 1.0), 2)
        delay = round(SLOWEST * draw.uniform(0.1, 1.0), 3) if kind is Kind.SLOW else 0.0
        busy[target] = at + seconds + (rest if kind is Kind.KILL else 0.0)
        yield Fault(number, round(at, 2), kind, target, seconds, delay)
        number += 1
