"""Records of the next micro-batch, read while a device computes the one before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Self

from assay.state import Tensors

Batches = Callable[[int, int], Tensors]
"""(step, m) -> records of that micro-batch."""


class Ahead:
    """`batches`, asked in a thread of its own for the micro-batch that follows the one that was wanted last, if its step is before `stop`. It is
    asked one at a time. What it raises, it raises where that micro-batch is wanted."""

    def __init__(self, batches: Batches, micro_batches: int, stop: int) -> None:
        self._batches, self._micro_batches, self._stop = batches, micro_batches, stop
        self._alone = Lock()
        self._reader = ThreadPoolExecutor(1, "batches")
        self._next: tuple[tuple[int, int], Future[Tensors]] | None = None

    def _read(self, step: int, m: int) -> Tensors:
        with self._alone:
            return self._batches(step, m)

    def __call__(self, step: int, m: int) -> Tensors:
        ready = self._next
        batch = ready[1].result() if ready is not None and ready[0] == (step, m) else self._read(step, m)
        after = (step, m + 1) if m + 1 < self._micro_batches else (step + 1, 0)
        self._next = (after, self._reader.submit(self._read, *after)) if after[0] < self._stop else None
        return batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for what is being read."""
        self._reader.shutdown(cancel_futures=True)
