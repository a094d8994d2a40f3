"""What an evaluation's final state says (assay.forward): integer counts and exact sums, and the figures that people know, computed of them.

The state of an evaluation holds nothing but its result, so its owner may show it to anybody: its root is the end root that settled on chain,
and `of_state` of a state with that root is the claim that was checked. Only where a bounty is paid by it does it hold what the training left, too
(assay.bounty): then the one number that decides is shown, by its path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from assay.state import Array

WEIGHTS = ("param.", "buffer.")


class Result(NamedTuple):
    """`confusion`: i64 [classes, classes], label by guess; None where classes were not counted."""

    loss: float
    """Mean over the records; their sum is exact in the order of the steps, the division is one float32 product a step."""
    confusion: Array | None

    @property
    def accuracy(self) -> float | None:
        return None if self.confusion is None else float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def f1(self) -> float | None:
        """Of class 1 where there are two classes, else the mean over the classes."""
        if self.confusion is None:
            return None
        right, total = np.diag(self.confusion), self.confusion.sum(0) + self.confusion.sum(1)
        each = np.divide(2 * right, total, out=np.zeros(len(right)), where=total > 0)
        return float(each[1] if len(each) == 2 else each.mean())

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    def told(self) -> str:
        """One line."""
        if self.confusion is None:
            return f"mean loss {self.loss:.4f}, perplexity {self.perplexity:.2f}"
        right, records = int(np.trace(self.confusion)), int(self.confusion.sum())
        return f"accuracy {self.accuracy:.2%} ({right} of {records} records), F1 {self.f1:.3f}, mean loss {self.loss:.4f}"


def is_result(state: Mapping[str, Array]) -> bool:
    return "mean.loss" in state and all(name.startswith(("metric.", "mean.", *WEIGHTS)) for name in state)


def is_open(state: Mapping[str, Array]) -> bool:
    """Whether it may be given to anybody: it has no weights."""
    return not any(name.startswith(WEIGHTS) for name in state)


def of_state(state: Mapping[str, Array]) -> Result:
    """Raises ValueError for a state that is no evaluation's."""
    if not is_result(state):
        raise ValueError("this is not the state of an evaluation: it has other entries than what was measured")
    loss, confusion = state["mean.loss"], state.get("metric.confusion")
    if loss.shape != () or loss.dtype != np.float32:
        raise ValueError(f"the mean loss is {loss.dtype}{list(loss.shape)}, not a float32")
    if confusion is not None and not _counts(confusion):
        raise ValueError("the counts of labels and guesses are no square of integers of at least 0, with one above")
    return Result(float(loss), confusion)


def _counts(a: Array) -> bool:
    return a.ndim == 2 and a.shape[0] == a.shape[1] and a.dtype.kind == "i" and bool((a >= 0).all()) and bool((a > 0).any())
