"""The next micro-batch is read while the one before is in use: in order, one at a time, not behind the end."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from assay.ahead import Ahead
from assay.state import Tensors

M = 2
WAIT = 60
"""Seconds, after which a test gives up."""


class Records:
    """Says when a micro-batch is asked for, and by which thread; `bad` ones raise."""

    def __init__(self, *bad: tuple[int, int]) -> None:
        self.bad, self.asked, self.threads = bad, list[tuple[int, int]](), set[int]()
        self._changed = threading.Condition()
        self._inside = 0

    def __call__(self, step: int, m: int) -> Tensors:
        with self._changed:
            self._inside += 1
            assert self._inside == 1, "asked by two threads at once"
            self.asked.append((step, m))
            self.threads.add(threading.get_ident())
            self._changed.notify_all()
        try:
            if (step, m) in self.bad:
                raise OSError(f"shard of {(step, m)}")
            return {"x": np.array([step, m])}
        finally:
            self._inside -= 1

    def wait(self, *which: tuple[int, int]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.asked == [*which], WAIT)


def test_the_next_one_is_read_before_it_is_wanted_up_to_the_end() -> None:
    records, order = Records(), [(step, m) for step in (3, 4) for m in range(M)]
    with Ahead(records, M, 5) as ahead:
        for at, which in enumerate(order):
            assert ahead(*which)["x"].tolist() == [*which]
            records.wait(*order[: at + 2])
    assert len(records.threads) == 2
    assert threading.get_ident() in records.threads


def test_a_step_that_is_begun_again_has_its_own_records() -> None:
    records = Records()
    with Ahead(records, M, 9) as ahead:
        found = [ahead(*which)["x"].tolist() for which in ((0, 0), (0, 0), (0, 1), (0, 0), (0, 1), (1, 0))]
    assert found == [[0, 0], [0, 0], [0, 1], [0, 0], [0, 1], [1, 0]]


def test_what_cannot_be_read_is_said_where_it_is_wanted() -> None:
    records = Records((0, 1))
    with Ahead(records, M, 2) as ahead:
        ahead(0, 0)
        records.wait((0, 0), (0, 1))
        with pytest.raises(OSError, match="shard of"):
            ahead(0, 1)
        assert ahead(1, 0)["x"].tolist() == [1, 0]


def test_what_is_never_wanted_fails_for_nobody() -> None:
    records = Records((0, 1))
    with Ahead(records, M, 2) as ahead:
        ahead(0, 0)
    assert records.asked in ([(0, 0)], [(0, 0), (0, 1)])
