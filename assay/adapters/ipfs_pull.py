"""Which leaves of a blob are still to be brought, and who was asked for which: the list from which all streams of a fetch take their work."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable

from assay.adapters.ipfs_stream import Leaf

LEAST_WINDOW = 2


class Ended(Exception):
    """Nothing more is to be brought."""


class Pull:
    """The leaves that are to be brought, and who was asked for what. Safe to use from several threads."""

    def __init__(self, leaves: Iterable[Leaf], patience: float) -> None:
        self._patience = patience
        self._times = Counter(leaves)
        """How often each stands in the blob."""
        self._todo = deque(self._times)
        self._asked: dict[Leaf, tuple[float, set[str]]] = {}
        """Under way: when it was asked for last, and of whom."""
        self._lacked: dict[Leaf, set[str]] = {}
        self._ready = threading.Condition()
        self.brought = 0
        """Bytes of the blob."""
        self.missing = set(self._times)
        self.trouble: Exception | None = None
        """What ended it all: the store is full."""

    @property
    def over(self) -> bool:
        return not self.missing or self.trouble is not None

    def take(self, url: str, most: int) -> list[Leaf]:
        """Up to `most` leaves that this gateway is to be asked for now."""
        taken: list[Leaf] = []
        with self._ready:
            if self.over:
                return taken
            skipped: list[Leaf] = []
            while self._todo and len(taken) < most:
                leaf = self._todo.popleft()
                (skipped if url in self._lacked.get(leaf, ()) else taken).append(leaf)
            self._todo.extendleft(reversed(skipped))
            now = time.monotonic()
            if not self._todo and not taken:
                late = (leaf for leaf, (asked, whom) in self._asked.items() if now - asked > self._patience and url not in whom)
                taken = [leaf for leaf in late if url not in self._lacked.get(leaf, ())][: min(most, LEAST_WINDOW)]
            for leaf in taken:
                _, whom = self._asked.get(leaf, (0.0, set()))
                self._asked[leaf] = (now, whom | {url})
        return taken

    def wait(self, url: str) -> bool:
        """Until there may be something to take; False when there will be nothing more for this gateway."""
        with self._ready:
            if self.over or all(url in self._lacked.get(leaf, ()) for leaf in self.missing):
                return False
            self._ready.wait(self._patience / 4)
            return not self.over

    def wanted(self, leaf: Leaf) -> bool:
        return leaf in self.missing

    def stored(self, leaves: Iterable[Leaf]) -> None:
        with self._ready:
            for leaf in leaves:
                self._asked.pop(leaf, None)
                if leaf in self.missing:
                    self.missing.discard(leaf)
                    self.brought += leaf.size * self._times[leaf]
            if not self.missing:
                self._ready.notify_all()

    def back(self, leaves: Iterable[Leaf], url: str, lacks: bool = False) -> None:
        """This gateway did not give these."""
        with self._ready:
            for leaf in leaves:
                if lacks:
                    self._lacked.setdefault(leaf, set()).add(url)
                asked, whom = self._asked.get(leaf, (0.0, set()))
                whom = whom - {url}
                if whom:
                    self._asked[leaf] = (asked, whom)
                elif leaf in self.missing:
                    self._asked.pop(leaf, None)
                    self._todo.append(leaf)
            self._ready.notify_all()

    def end(self, trouble: Exception | None = None) -> None:
        """Nothing more is to be brought."""
        with self._ready:
            self.trouble = self.trouble or trouble or Ended("it was ended")
            self._ready.notify_all()
