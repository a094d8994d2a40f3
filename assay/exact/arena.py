"""Places for the values of a plan in one piece of memory, reused when what lay there is not needed any more."""

from __future__ import annotations

from bisect import bisect_left, insort


class Arena:
    """Best fit over the free pieces; neighbours are joined. Each call takes logarithmic time, but for moving list entries along."""

    def __init__(self) -> None:
        self.end = 0
        self._starts: dict[int, int] = {}  # start -> stop
        self._stops: dict[int, int] = {}  # stop -> start
        self._sizes: list[tuple[int, int]] = []  # sorted (size, start)

    def _remove(self, start: int) -> int:
        stop = self._starts.pop(start)
        del self._stops[stop]
        del self._sizes[bisect_left(self._sizes, (stop - start, start))]
        return stop

    def _add(self, start: int, stop: int) -> None:
        self._starts[start], self._stops[stop] = stop, start
        insort(self._sizes, (stop - start, start))

    def take(self, size: int) -> int:
        at = bisect_left(self._sizes, (size, 0))
        if at < len(self._sizes):
            start = self._sizes[at][1]
            stop = self._remove(start)
            if stop - start > size:
                self._add(start + size, stop)
            return start
        start = self._stops.get(self.end, self.end)
        if start < self.end:
            self._remove(start)
        self.end = start + size
        return start

    def give(self, start: int, size: int) -> None:
        stop = start + size
        if start in self._stops:
            start = self._stops[start]
            self._remove(start)
        if stop in self._starts:
            stop = self._remove(stop)
        self._add(start, stop)
