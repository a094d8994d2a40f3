"""What the stand-in for a driver has: memory, streams, and errors."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

import numpy as np

from assay.exact.cuda import fake

CAPTURED = 900
"""cudaErrorStreamCaptureUnsupported."""
Work = Callable[[], None]


class Refused(Exception):
    """A call that the documentation does not allow, with the error it gives."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Stream:
    """What was asked for and is not done. While it is captured: what is recorded."""

    def __init__(self) -> None:
        self.waiting: list[Work] = []
        self.capture: list[Work] | None = None
        self._done = 0

    @property
    def asked(self) -> int:
        """How much work there has been so far."""
        return self._done + len(self.waiting)

    def ask(self, work: Work) -> None:
        (self.waiting if self.capture is None else self.capture).append(work)

    def until(self, count: int) -> None:
        """Does the first `count` of all that it was asked for, and no more."""
        while self._done < count and self.waiting:
            self._done += 1
            self.waiting.pop(0)()

    def settle(self) -> None:
        if self.capture is not None:
            raise Refused(CAPTURED, "a wait for a stream that is captured")
        self.until(self.asked)


class Memory:
    """Bytes of the device between guards, garbage at first, in a file that lives as long as somebody has it mapped."""

    def __init__(self, size: int, of: tuple[int, int] | None = None) -> None:
        """`of`: process and descriptor of another's."""
        self.size = size
        self.descriptor = os.open(f"/proc/{of[0]}/fd/{of[1]}", os.O_RDWR) if of else os.memfd_create("device")
        os.truncate(self.descriptor, size + 2 * fake.GUARD)
        self._map = mmap.mmap(self.descriptor, size + 2 * fake.GUARD)
        self._raw = np.frombuffer(self._map, np.uint8)
        self.address = self._raw.ctypes.data + fake.GUARD
        if of is None:
            self._raw[:] = fake.GARBAGE

    def intact(self) -> bool:
        ends = self._raw[: fake.GUARD], self._raw[fake.GUARD + self.size :]
        return all(bool((end == fake.GARBAGE).all()) for end in ends)

    def close(self) -> None:
        os.close(self.descriptor)
