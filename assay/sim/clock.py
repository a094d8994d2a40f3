"""A virtual clock: actions in the order of their time, and among those of one time in the order in which they were asked for."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the beginning."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay if delay > 0.0 else self.now, self._count, action))

    def run(self, until: Callable[[], bool], limit: float) -> bool:
        """Acts until `until()` or the time `limit`; whether `until()` came true."""
        while not until():
            if not self._queue or self._queue[0][0] > limit:
                return False
            self.now, _, action = heapq.heappop(self._queue)
            action()
        return True
