"""Engines that lie in one link of one step, go on from what comes out, and stand by it when they are asked what it looks like inside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from assay.dispute.proofs import Job, Link
from assay.execute import Executor
from assay.program import Node
from assay.state import Tensors
from assay.work import Engine

Change = Callable[[Any], Any]


def lying(step: int, m: int, op: str, change: Change, nth: int = 0) -> type[Engine]:
    """In link (step, m) the nth stage with an operator comes out otherwise."""

    class OneStage(Link):
        def node(self, at: int, node: Node, args: Sequence[Any]) -> Any:
            made = super().node(at, node, args)
            same = [i for i, other in enumerate(self.trees.part.nodes) if other.op == op]
            return change(made) if (self.step, self.m) == (step, m) and at == same[nth] else made

    return _engine(OneStage, step, m)


def handing_on(step: int, m: int, change: Callable[[Tensors], Tensors]) -> type[Engine]:
    """Computes all of link (step, m), and hands on something else."""

    class OtherEnd(Link):
        @functools.cached_property
        def end(self) -> Tensors:
            made = super().end
            return change(made) if (self.step, self.m) == (step, m) else made

    return _engine(OtherEnd, step, m)


def _engine(link: type[Link], step: int, m: int) -> type[Engine]:
    class Runs(Executor):
        def _lie(self, state: Tensors, acc: Tensors, batch: Tensors) -> Tensors:
            job: Any = Job(self.program, self.schedule, None, self.frozen)  # type: ignore[arg-type]
            return {name: np.array(array) for name, array in link(job, step, m, state, acc if m else None, batch).end.items()}

        def micro(self, at: int, unit: int, state: Tensors, acc: Tensors, batch: Tensors, *, spend: bool = False) -> Tensors:
            if (at, unit) == (step, m):
                return self._lie(state, acc, batch)
            return super().micro(at, unit, state, acc, batch, spend=spend)

        def update(self, at: int, state: Tensors, acc: Tensors, *, spend: bool = False) -> Tensors:
            return self._lie(state, acc, {}) if (at, self.micro_batches) == (step, m) else super().update(at, state, acc, spend=spend)

    class Lies(Engine):
        executor = Runs

    Lies.link = link
    return Lies


class Mute(Engine):
    """Computes, and shows nothing of it."""

    def _own(self, task: Any) -> Any:
        raise OSError("gone")
