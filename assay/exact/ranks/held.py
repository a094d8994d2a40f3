"""A training that stays with the ranks of a team: each keeps its pieces of state and accumulator from link to link, on its device or in its memory,
and hashes them there. Only batches, counters, the schedule's row, what roots are made of and what is asked for cross.

What several ranks have as a whole each of them hashes, and they must agree. A rank that is lost, or has other bits than the others, ends the
training: it goes on from the last state on disk, with another crew.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.hashing import BadTensors
from assay.exact.ranks.team import Ask, Team
from assay.ids import Digest

Array = NDArray[Any]
Tensors = Mapping[str, Array]
Roots = dict[str, Digest]
T = TypeVar("T")


class Held:
    """One job's training, as assay.exact.cuda.resident keeps one on one device. Where the team's crew is wanted for something else in between, it is
    brought back here and there again. Raises RankLost, after which the crew is closed."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._frozen: Tensors = {}
        self._away: dict[str, Tensors] = {}
        """What the ranks do not hold any more, by kind."""
        self._adding = False
        """Whether there is an accumulator."""

    # ---- what crosses ----------------------------------------------------------------------------------------------------

    def put(self, state: Tensors, frozen: Tensors | None = None) -> None:
        """The state before the next step, and the tensors that no step changes. Raises BadTensors."""
        self._frozen, self._adding = dict(frozen or {}), False
        self._away = {"state": self._fitting("state", state)}
        self._fitting("frozen", self._frozen)
        crew = self._team.crew
        if crew.guest is not None and crew.guest() is self:
            crew.guest = None  # what they have of it is not wanted
        self._there()

    def state(self) -> dict[str, Array]:
        return self._shown("state", ())

    def accumulator(self, *names: str) -> dict[str, Array]:
        """Those entries, or all."""
        return self._shown("acc", names)

    def leave(self) -> None:
        away: dict[str, Tensors] = {"state": self._show("state", ())}
        if self._adding:
            away["acc"] = self._show("acc", ())
        self._away = away

    def _fitting(self, kind: str, tensors: Tensors) -> Tensors:
        for name in self._named(kind):
            t, array = self._team.entries[kind, name][0], tensors.get(name)
            if array is None or array.shape != t.shape or array.dtype.newbyteorder("<") != reference.NUMPY[t.dtype]:
                found = "not there" if array is None else f"{array.dtype}{list(array.shape)}"
                raise BadTensors(f"{name!r} is {found}, the program takes {t}")
        return tensors

    def _named(self, kind: str) -> list[str]:
        return [name for k, name in self._team.entries if k == kind]

    def _there(self) -> None:
        """The ranks hold this training."""
        crew = self._team.crew
        if crew.guest is not None and crew.guest() is self:
            return
        crew.free()
        self._ask(Ask(kinds=("frozen", *self._away)), {"frozen": self._frozen, **self._away}, lambda: None)
        self._away = {}
        crew.guest = weakref.ref(self)

    def _ask(self, ask: Ask, given: Mapping[str, Tensors], answer: Callable[[], T]) -> T:
        taken = [(kind, name) for kind, name in self._team.entries if kind in ask.kinds]
        return self._team.ask(ask, taken, given, answer)

    def _shown(self, kind: str, names: tuple[str, ...]) -> dict[str, Array]:
        self._there()
        return self._show(kind, names)

    def _show(self, kind: str, names: tuple[str, ...]) -> dict[str, Array]:
        wanted = [(kind, name) for name in self._named(kind) if not names or name in names]
        return self._ask(Ask(show=kind, names=names), {}, lambda: self._team.shown(wanted))

    # ---- links -----------------------------------------------------------------------------------------------------------

    def micros(self, number: int, count: int, batch: Callable[[int], Tensors], rooted: bool = True) -> list[Roots]:
        """Begins step `number` and adds its first `count` micro-batches; the accumulator's roots after each, if asked for. Raises BadTensors."""
        self._there()
        roots: list[Roots] = []
        for m in range(count):
            given = {"batch": self._fitting("batch", batch(m)), "counter": _counters(number, m)}
            ask = Ask(kinds=("batch", "counter"), begin=m == 0, part="micro", roots="acc" if rooted else "")
            roots.append(self._ask(ask, given, lambda: self._team.rooted("acc") if rooted else {}))
            self._adding = True
        return roots if rooted else []

    def update(self, number: int, scalars: Tensors) -> Roots:
        """The state after step `number`, whose micro-batches are all in the accumulator: its roots. Raises BadTensors."""
        self._there()
        given = {"scalar": self._fitting("scalar", scalars), "counter": _counters(number, self._team.micro_batches)}
        return self._ask(Ask(kinds=("scalar", "counter"), part="update", roots="state"), given, lambda: self._team.rooted("state"))


def _counters(number: int, m: int) -> dict[str, Array]:
    return {"step": np.array(number % (1 << 64), np.uint64).view(np.int64), "micro": np.array(m, np.int64)}
