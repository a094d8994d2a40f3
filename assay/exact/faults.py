"""Faults of the hardware that the engine finds itself, before anything it computed is committed.

Every matrix product is checked by an exact checksum (native/gemm.c, numpy_route.py). A product that fails is computed once more and the
fault is counted, for this process; one that fails again raises HardwareFault. What is covered: docs/exact-arithmetic.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("assay.exact")
PRODUCT = "a matrix product"
_lock = threading.Lock()
_count = 0


class HardwareFault(RuntimeError):
    """This machine's arithmetic or memory gave a wrong matrix product (or what `what` names) twice in a row: nothing it computes can be trusted."""

    def __init__(self, what: str = PRODUCT) -> None:
        super().__init__(
            f"{what} failed its checksum, and again when it was computed anew: a processor or memory of this machine is faulty."
            " Take it out of service, test its memory, and run `assay doctor --conformance` before it works again"
        )


def seen(new: int, what: str = PRODUCT) -> None:
    """Counts `new` products (or what `what` names) that failed their checksum."""
    global _count
    with _lock:
        _count += new
        total = _count
    log.warning("%s failed its checksum and was computed anew: hardware fault %d of this process", what, total)


def twice(work: Callable[[], None], found: Callable[[], int]) -> None:
    """Work that leaves alone what it begins with, once more where a product failed its checksum: `found` says how many have since it was asked
    last. Raises HardwareFault if one does again."""
    for _ in range(2):
        work()
        if not (new := found()):
            return
        seen(new)
    raise HardwareFault


def count() -> int:
    """Products of this process that failed their checksum."""
    return _count
