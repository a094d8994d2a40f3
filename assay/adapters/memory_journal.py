"""A journal in memory, for tests and the simulation: as durable as the object."""

from __future__ import annotations

from assay.ports import Row


class MemoryJournal:
    """Implements assay.ports.Journal."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._snapshot: tuple[int, bytes | None] = (0, None)
        self._next = 1

    def append(self, now: int, seed: bytes, event: bytes) -> int:
        row = Row(sequence=self._next, now=now, seed=seed, event=event)
        self._rows.append(row)
        self._next += 1
        return row.sequence

    def snapshot(self, sequence: int, state: bytes) -> None:
        self._snapshot = (sequence, state)
        self._rows = [row for row in self._rows if row.sequence > sequence]

    def load(self) -> tuple[int, bytes | None, list[Row]]:
        return (*self._snapshot, list(self._rows))
