"""Values of attend.py's lines that stay in shared memory: what one product reads as digits, and a later part of the chain is made of, is kept where a
product's line lay that nobody reads any more, instead of being made again.

By columns the weights P are what dv is made of, and dS = P (dP - d) later: with P over the scores, neither exponentials nor quotients are made twice.
Every element is written and read by the same thread, so no barrier is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from assay.exact.cuda.groups import Group, Value
from assay.exact.views import View


class Chain(NamedTuple):
    """A group, and the value of it whose digits are put, if there is one."""

    group: Group
    put: View | None


def keep(chains: Sequence[Chain], planes: set[int], planned: Callable[[Group], object]) -> list[dict[Value, int]]:
    """Of each chain the values that it keeps in a plane (`Value.stays`) or has from one (`Value.there`), and of which product that was. Says so in
    the values; `planned` plans a group."""
    found: list[dict[Value, int]] = [{} for _ in chains]
    free = set(planes)
    for at, (group, put) in enumerate(chains[:-1]):
        planned(group)
        if put is None or not group.of[put].kernel:
            continue
        later = [(n, one.group.of[put]) for n, one in enumerate(chains) if n > at and put in one.group.of]
        own = group.of[put]
        _say(later, True)
        for n, _ in later:
            planned(chains[n].group)
        wanted = {root for one in chains[at + 1 :] for root in _read(planned, one.group)}
        last = max(n for n, phase in enumerate(group.phases) if own in phase.made)
        over = sorted(root for root in free - wanted if not any(v.plane == root for phase in group.phases[last + 1 :] for v in phase.made))
        if not over or not any(v in phase.made for n, v in later for phase in chains[n].group.phases):
            _say(later, False)
            continue
        own.stays = True
        free.remove(over[0])
        found[at][own] = over[0]
        for n, v in later:
            found[n][v] = over[0]
    return found


def _say(values: Sequence[tuple[int, Value]], there: bool) -> None:
    for _, v in values:
        v.there = there


def _read(planned: Callable[[Group], object], group: Group) -> set[int]:
    """Roots of products whose lines a group reads."""
    planned(group)
    return {v.plane for phase in group.phases for v in phase.made if v.plane is not None}
