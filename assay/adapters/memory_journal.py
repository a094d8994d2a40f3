"""The journal in memory, for simulations and tests: the object is the disk, so a machine that "crashed" starts again from it."""

from __future__ import annotations

from assay.ports import Row, StorageFull


class MemoryJournal:
    """assay.ports.Journal; `limit` bounds the bytes it holds (a disk that fills up)."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._rows: list[Row] = []
        self._sequence = 0
        self._state: bytes | None = None
        self._last = 0
        self._size = 0

    def append(self, now: int, seed: bytes, event: bytes) -> int:
        size = len(seed) + len(event)
        if self._limit is not None and self._size + size > self._limit:
            raise StorageFull(f"the journal in memory may hold {self._limit} bytes; nothing written is lost")
        self._last += 1
        self._size += size
        self._rows.append(Row(sequence=self._last, now=now, seed=seed, event=event))
        return self._last

    def snapshot(self, sequence: int, state: bytes) -> None:
        if sequence > self._last:
            raise ValueError(f"a snapshot of row {sequence} when the last is {self._last}")
        self._sequence, self._state = sequence, state
        self._rows = [row for row in self._rows if row.sequence > sequence]
        self._size = sum(len(row.seed) + len(row.event) for row in self._rows)

    def load(self) -> tuple[int, bytes | None, list[Row]]:
        return self._sequence, self._state, list(self._rows)

    def close(self) -> None:
        """Nothing to let go."""
