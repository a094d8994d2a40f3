"""Which place takes which task: events in, decisions out; no clock, no Ray.

A place takes one run of a segment and one task of another kind at a time, since a drawn link has to be served in minutes while a run may
take hours; where no run is under way, two of the others. A task goes where its segment's files are already, if there is room, else to the
place with the least to do. What a lost place was doing waits again, at the head of the queue, and is given up after MOVES places.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

PlaceId = NewType("PlaceId", str)
AT_ONCE = 2
"""Tasks of a place."""
MOVES = 6
"""Places that are tried for one task."""


@dataclass
class Waiting:
    number: int
    segment: str
    run: bool
    moves: int = 0


@dataclass
class Book:
    """Of one place."""

    tasks: dict[int, Waiting] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    """Segments whose files are there."""
    failures: int = 0
    """Tasks that failed there by the fault of this side."""


class Placing:
    def __init__(self) -> None:
        self.places: dict[PlaceId, Book] = {}
        self.queue: list[Waiting] = []

    def asked(self, number: int, segment: str, run: bool) -> None:
        self.queue.append(Waiting(number, segment, run))

    def up(self, place: PlaceId) -> None:
        self.places.setdefault(place, Book())

    def lost(self, place: PlaceId) -> list[int]:
        """Its tasks wait again; the numbers of those that are given up."""
        book = self.places.pop(place, Book())
        given_up, again = [], []
        for task in book.tasks.values():
            task.moves += 1
            if task.moves >= MOVES:
                given_up.append(task.number)
            else:
                again.append(task)
        self.queue = [*again, *self.queue]
        return given_up

    def done(self, number: int, failed: bool = False) -> None:
        """It has a result, or none is wanted; `failed`: by the fault of this side, so that it had better be tried elsewhere."""
        self.queue = [task for task in self.queue if task.number != number]
        for book in self.places.values():
            task = book.tasks.pop(number, None)
            if task is not None and failed:
                book.failures += 1
                book.held.discard(task.segment)

    def dropped(self, segments: set[str]) -> None:
        """Only these segments are still there at home."""
        for book in self.places.values():
            book.held &= segments

    def where(self, number: int) -> PlaceId | None:
        return next((place for place, book in self.places.items() if number in book.tasks), None)

    def next(self) -> list[tuple[int, PlaceId]]:
        """Tasks that begin now, and where."""
        begun = []
        for task in list(self.queue):
            room = [place for place, book in self.places.items() if self._fits(book, task)]
            if not room:
                continue
            best = min((self._rank(place, task), place) for place in room)[1]
            self.places[best].tasks[task.number] = task
            self.places[best].held.add(task.segment)
            self.queue.remove(task)
            begun.append((task.number, best))
        return begun

    def _rank(self, place: PlaceId, task: Waiting) -> tuple[bool, int, int]:
        """Lower is better."""
        book = self.places[place]
        return task.segment not in book.held, len(book.tasks), book.failures

    @staticmethod
    def _fits(book: Book, task: Waiting) -> bool:
        running = any(other.run for other in book.tasks.values())
        return len(book.tasks) < AT_ONCE and not (task.run and running)
