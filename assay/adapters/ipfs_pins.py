"""Pins: which blobs a store keeps, and until when. One small file a pin, named by the blob's CID.

The file holds the time at which the pin ends, in seconds of chain time, as a decimal number, and nothing when it has no end. A pin lasts
as long as the longest that was asked for: of two jobs that keep the same blob, the one that ends first takes nothing from the other.
A pin that is over goes when somebody says what time it is (`lapse`): the chain's time is the daemon's to know, not the store's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from assay import cid as cids
from assay.ids import Cid

log = logging.getLogger("assay.blobs")

LONGEST = 20
"""Digits of a time."""
AT_ONCE = 8
"""Files that are brought to the disk at a time."""


class Pins:
    """The pins in `folder`. Safe to use from several threads of one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._mutex = threading.Lock()

    def add(self, root: Cid, until: int | None = None) -> None:
        """Pins, durably when this returns; `until` None: until `remove`. It never shortens a pin. Raises ValueError."""
        cids.parse(root)
        if until is not None and not 0 <= until < 10**LONGEST:
            raise ValueError(f"a pin cannot end at {until}")
        with self._mutex:
            held = self._until(root)
            if held is None or (until is not None and held != -1 and held >= until):
                return
            part = self.folder / f"{root}.part"
            part.write_text("" if until is None else str(until))
            sync(part)
            part.replace(self.folder / root)
        sync(self.folder)

    def remove(self, root: Cid) -> None:
        cids.parse(root)
        (self.folder / root).unlink(missing_ok=True)

    def blocks(self, path: Callable[[Cid], str]) -> set[Cid]:
        """All blocks of the pinned blobs, as far as their nodes are here; `path` says in which file a node is."""
        kept: set[Cid] = set()
        todo: list[tuple[Cid, cids.Place | None]] = [(root, None) for root in self.all()]
        while todo:
            cid, place = todo.pop()
            if cid in kept:
                continue
            kept.add(cid)
            with contextlib.suppress(FileNotFoundError, cids.BadNode, cids.BadCid):  # a stray file among the pins pins nothing
                if not cids.is_raw(cid):
                    todo += cids.walk(Path(path(cid)).read_bytes(), place)
        return kept

    def lapse(self, now: int) -> list[Cid]:
        """Ends the pins whose time is over; returns them."""
        over = []
        for root, until in self.all().items():
            if until is not None and until <= now:
                with self._mutex:
                    if self._until(root) == until:  # not prolonged meanwhile
                        (self.folder / root).unlink(missing_ok=True)
                        over.append(root)
        return over

    def all(self) -> dict[Cid, int | None]:
        """Every pinned blob and the end of its pin. What is no pin among the files is left out."""
        found: dict[Cid, int | None] = {}
        for name in os.listdir(self.folder):
            try:
                cids.parse(name)
            except cids.BadCid:
                continue
            until = self._until(Cid(name))
            if until != -1:
                found[Cid(name)] = until
        return found

    def _until(self, root: Cid) -> int | None:
        """-1 when there is no such pin. A pin whose file cannot be read has no end: keeping too much loses nothing."""
        try:
            text = (self.folder / root).read_text()
        except FileNotFoundError:
            return -1
        except (OSError, ValueError) as error:
            log.warning("the pin of %s cannot be read (%s): it stays", root, error)
            return None
        return int(text) if text.isascii() and text.isdigit() and len(text) <= LONGEST else None


def sync_all(paths: Iterable[Path]) -> None:
    """Returns when these files, and what their folders say of them, are on the disk."""
    files = list(dict.fromkeys(paths))
    if len(files) == 1:
        sync(files[0])
        sync(files[0].parent)
        return
    # side by side, so that the file system commits its journal once for many of them: some ten times faster than in turn
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for part in (files, {path.parent for path in files}):
            list(pool.map(sync, part))


def sync(path: Path) -> None:
    """Returns when the file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
