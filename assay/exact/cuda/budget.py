"""What the engines of a node may hold of a device's memory, together: the owner's limit, kept where memory is given out.

Every allocation has its turn (`Budget.turn`): it learns how many bytes this process may hold now, and says how many it holds afterwards. Engines
that share a work folder share the limit: each has a file in the `ledger`, locked as long as it lives, with what it holds; the files of those that
have ended do not count, and go. What one has freed counts until its next turn. What the driver, its context and its libraries take by themselves
is not given out here and is not counted: the daemon looks at that from outside (assay.adapters.gpu_use).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "ASSAY_GPU_MEMORY"
"""The owner's limit, for the engines that a node starts."""
LEDGER = "ASSAY_GPU_LEDGER"
"""Folder that the engines of a node share; none: this process is alone."""
DEFAULT = "90%"
NUMBER = 8
"""Bytes of what a file of the ledger holds: a whole number, little-endian."""
_LIMIT = re.compile(r"(\d{1,3})%|(\d{1,15})([KMGT]?)(?:iB|B)?")


def bytes_of(text: str, total: int) -> int:
    """`80%` of a memory of `total` bytes, or `20G`, `20GiB`, `512M`, or bytes, and never more than there are. Raises ValueError."""
    found = _LIMIT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is neither a part of the memory, as 80%, nor a size, as 20G")
    if found[1] is not None:
        limit = total * int(found[1]) // 100
    else:
        limit = int(found[2]) << 10 * (" KMGT".index(found[3] or " "))
    if not limit or (found[1] is not None and int(found[1]) > 100):
        raise ValueError(f"{text!r} of the memory cannot be given; more than nothing, and at most 100%")
    return min(limit, total)


class Budget:
    """`limit` in bytes."""

    def __init__(self, limit: int, ledger: Path | None = None) -> None:
        self.limit, self._ledger, self._own = limit, ledger, -1
        self._name = f"{uuid.uuid4().hex}.held"

    @contextlib.contextmanager
    def turn(self) -> Iterator[int]:
        """Bytes that this process may hold now, while no other engine takes any; `note` says afterwards what it holds."""
        if self._ledger is None:
            yield self.limit
            return
        self._ledger.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self._ledger / "lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield max(0, self.limit - self._others(self._ledger))

    def note(self, held: int) -> None:
        """What this process holds now, in bytes; inside of a turn."""
        if self._ledger is None:
            return
        if self._own < 0:
            self._own = os.open(self._ledger / self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(self._own, held.to_bytes(NUMBER, "little"), 0)

    def _others(self, ledger: Path) -> int:
        total = 0
        for path in ledger.glob("*.held"):
            if path.name == self._name:
                continue
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()  # whoever held it has ended
            except BlockingIOError:
                total += int.from_bytes(os.pread(file, NUMBER, 0), "little")
            finally:
                os.close(file)
        return total


def granted(total: int) -> Budget:
    """What this process was told, of a device of `total` bytes. Raises ValueError."""
    base = os.environ.get(LEDGER)
    device = hashlib.sha256(os.environ.get("CUDA_VISIBLE_DEVICES", "").encode()).hexdigest()[:16]
    return Budget(bytes_of(os.environ.get(VARIABLE) or DEFAULT, total), Path(base) / device if base else None)
