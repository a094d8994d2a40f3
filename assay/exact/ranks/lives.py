"""How long the values of a rank's form of a part are wanted, and where they lie together on its device.

Time is counted in phases: stage s runs in phase 2 s, its exchanges are made in phase 2 s + 1, and behind the last one results that are inputs are
put in their places. A value lies in its place from the phase that makes it to the last one that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from assay.exact.arena import Arena
from assay.exact.ranks.split import Entry, Ranked

ALIGN = 256


def aligned(size: int) -> int:
    return -(-max(size, 1) // ALIGN) * ALIGN


class Taken(NamedTuple):
    """An output that goes where its entry is kept."""

    entry: Entry
    value: int
    phase: int
    """At the end of which nothing reads what the entry was before."""


class Lives:
    """`until[v, phase]` is the last phase that wants value `v` as it is made in `phase`; inputs are always there."""

    def __init__(self, form: Ranked) -> None:
        self.end = 2 * len(form.stages)
        self.inputs: dict[Entry, int] = {(i.kind, i.name): at for at, (i, _) in enumerate(form.inputs)}
        reads: dict[int, int] = {}
        made: dict[int, int] = {}
        for s, stage in enumerate(form.stages):
            made |= dict.fromkeys(stage.gives, 2 * s) | {e.result: 2 * s + 1 for e in stage.exchanges}
            reads |= dict.fromkeys(stage.takes, 2 * s) | {v: 2 * s + 1 for e in stage.exchanges for v in e.operands}
        own = {(o.kind, o.name): v for o, *_, v in form.outputs}
        moving = {entry: v for entry, v in own.items() if self.inputs.get(entry) != v}
        reads |= {v: self.end for v in moving.values() if v not in made}
        self.last_read = reads
        """Of inputs: the phase."""
        self.taken = [Taken(entry, v, max(made.get(v, self.end), reads.get(self.inputs.get(entry, -1), 0))) for entry, v in moving.items()]
        wanted: dict[int, int] = {}
        for one in self.taken:
            wanted[one.value] = max(one.phase, wanted.get(one.value, 0))
        self.until: dict[tuple[int, int], int] = {}
        for s in range(len(form.stages) - 1, -1, -1):
            stage = form.stages[s]
            for phase, makes, takes in (
                (2 * s + 1, [e.result for e in stage.exchanges], [v for e in stage.exchanges for v in e.operands]), (2 * s, stage.gives, stage.takes)
            ):  # fmt: skip
                for v in makes:
                    self.until[v, phase] = wanted.pop(v, phase)
                for v in takes:
                    wanted[v] = max(phase, wanted.get(v, 0))

    def replaced(self, value: int) -> int | None:
        """The input that an output replaces, if nothing reads that when the output has been made and the output is no other entry's, too."""
        own = [one for one in self.taken if one.value == value]
        return self.inputs.get(own[0].entry) if len(own) == 1 else None


class Pool:
    """Memory that several share, each of them from one phase to another."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, int]] = []

    def add(self, first: int, last: int, size: int) -> int:
        """Its number."""
        self._spans.append((first, last, aligned(size)))
        return len(self._spans) - 1

    def placed(self) -> tuple[Mapping[int, int], int]:
        """Where each lies, in bytes from the beginning, and the size of all."""
        arena, places = Arena(), {}
        starts: dict[int, list[int]] = {}
        ends: dict[int, list[int]] = {}
        for at, (first, last, _) in enumerate(self._spans):
            starts.setdefault(first, []).append(at)
            ends.setdefault(last, []).append(at)
        for phase in sorted({*starts, *ends}):
            for at in sorted(starts.get(phase, ()), key=lambda at: -self._spans[at][2]):
                places[at] = arena.take(self._spans[at][2])
            for at in ends.get(phase, ()):
                arena.give(places[at], self._spans[at][2])
        return places, arena.end
