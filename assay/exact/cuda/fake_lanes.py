"""Lanes of the fake device: copies that come as late as they may, or as early, so that one that was not waited for is found by its bits.

LATE: the device does at once what it is asked for; a lane does nothing before somebody waits for it. What a copy is to fill is garbage from
the moment when it might begin. EARLY: a lane does at once what it is asked for; the device does nothing before somebody waits for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from assay.exact.cuda.fake import Fake

LATE, EARLY = "late", "early"
GARBAGE = 0x5A
Work = Callable[[], object]


class Queue:
    """Work that is done in order, when it is `eager` at once, otherwise as far as somebody waits for it."""

    def __init__(self, eager: bool) -> None:
        self._eager = eager
        self._left: list[Work] = []
        self._done = 0

    @property
    def idle(self) -> bool:
        return not self._left

    def ask(self, work: Work) -> None:
        self._left.append(work)
        if self._eager:
            self.until(self.asked)

    @property
    def asked(self) -> int:
        return self._done + len(self._left)

    def passed(self, number: int) -> bool:
        return self._done >= number

    def until(self, number: int) -> None:
        while self._done < number:
            work = self._left.pop(0)
            self._done += 1
            work()

    def mark(self) -> Mark:
        return Mark(self)


class Mark:
    def __init__(self, queue: Queue) -> None:
        self._queue, self._number = queue, queue.asked

    @property
    def passed(self) -> bool:
        return self._queue.passed(self._number)

    def wait(self) -> None:
        self._queue.until(self._number)


class Lane:
    def __init__(self, device: Fake, eager: bool) -> None:
        self._device, self._queue = device, Queue(eager)

    def after(self, mark: Any) -> None:
        if not mark.passed:
            self._queue.ask(mark.wait)

    def upload(self, to: int, data: NDArray[np.uint8]) -> None:
        size, address = data.nbytes, self._device._inside(to, data.nbytes)
        if self._queue.idle:
            ctypes.memset(address, GARBAGE, size)
        self._queue.ask(lambda: ctypes.memmove(address, data.ctypes.data, size))

    def download(self, of: int, into: NDArray[np.uint8]) -> None:
        size, address = into.nbytes, self._device._inside(of, into.nbytes)
        if self._queue.idle:
            ctypes.memset(into.ctypes.data, GARBAGE, size)
        self._queue.ask(lambda: ctypes.memmove(into.ctypes.data, address, size))

    def mark(self) -> Mark:
        return self._queue.mark()
