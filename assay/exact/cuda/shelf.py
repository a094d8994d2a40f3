"""Tensors of a state on the host, in the order in which a device wants them: runs of bytes that are brought to it and come back one after the other.

In memory they are page-locked and go to and from where they lie. In a mapped file (a Store) they go by way of two page-locked pieces for each
direction, and the file's pages are handed back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact import reference
from assay.exact.cuda.device import Device
from assay.exact.cuda.rooms import fitting
from assay.exact.hashing import tensor_root
from assay.exact.offload import Store, release
from assay.exact.table import TensorType
from assay.ids import Digest

Array = NDArray[Any]
Bytes = NDArray[np.uint8]
STRIDE = 16 << 20
"""Bytes that are copied at a time to or from a file."""


class Span(NamedTuple):
    """Bytes [start, stop) of an entry, `at` bytes behind the beginning of its run."""

    name: str
    start: int
    stop: int
    at: int


class Run(NamedTuple):
    """What is on the device at a time: `size` bytes, which lie `at` bytes behind the beginning of the shelf."""

    spans: tuple[Span, ...]
    at: int
    size: int


class Shelf:
    def __init__(self, device: Device, types: Mapping[str, TensorType], runs: Sequence[Run], store: Store | None) -> None:
        """Raises OSError where the disk has no room for the file."""
        self._types, self._runs = types, runs
        self.size = sum(run.size for run in runs)
        self.staged = store is not None
        self._host: Bytes = store.zeros(TensorType(dtype="u8", shape=(self.size,))) if store else device.pinned(self.size)
        most = max(run.size for run in runs)
        self._pieces = [device.pinned(most) for _ in range(2 * min(2, len(runs)))] if store else []
        self.bytes = 2 * min(2, len(runs)) * most if store else self.size
        """Of this machine's memory."""

    # ---- one run after the other -------------------------------------------------------------------------------------------

    def given(self, at: int) -> Bytes:
        """Run `at`, to be uploaded; in a file, nothing of run `at - 2` is being uploaded any more."""
        run, place = self._runs[at], self._place(at, False)
        if self.staged:
            _copy(place, self._host[run.at : run.at + run.size], self._host)
        return place

    def wanted(self, at: int) -> Bytes:
        """Where run `at` is to be downloaded; in a file, run `at - 2` was settled."""
        return self._place(at, True)

    def settle(self, at: int) -> None:
        """Run `at` has come back."""
        if self.staged:
            run = self._runs[at]
            _copy(self._host[run.at : run.at + run.size], self._place(at, True), self._host)

    def _place(self, at: int, back: bool) -> Bytes:
        run = self._runs[at]
        return self._pieces[at % 2 + len(self._pieces) // 2 * back][: run.size] if self.staged else self._host[run.at : run.at + run.size]

    # ---- whole tensors -----------------------------------------------------------------------------------------------------

    def put(self, tensors: Mapping[str, Array]) -> None:
        """Raises BadTensors."""
        for name, t in self._types.items():
            flat = fitting(name, tensors.get(name), t).reshape(-1).view(np.uint8)
            for place, start, stop in self._spans(name):
                _copy(place, flat[start:stop], self._host, flat)

    def get(self, name: str, empty: Callable[[TensorType], Array]) -> Array:
        """A copy of one of them, in an array that `empty` gives."""
        made = empty(self._types[name])
        flat = made.reshape(-1).view(np.uint8)
        for place, start, stop in self._spans(name):
            _copy(flat[start:stop], place, self._host, made)
        return made

    def root(self, name: str) -> Digest:
        t = self._types[name]
        return tensor_root(self.get(name, lambda _: np.empty(t.shape, reference.NUMPY[t.dtype])))

    def _spans(self, name: str) -> list[tuple[Bytes, int, int]]:
        return [
            (self._host[run.at + span.at : run.at + span.at + span.stop - span.start], span.start, span.stop)
            for run in self._runs for span in run.spans if span.name == name
        ]  # fmt: skip


def _copy(to: Bytes, of: Bytes, *mapped: Array) -> None:
    for start in range(0, len(to), STRIDE):
        to[start : start + STRIDE] = of[start : start + STRIDE]
        for array in mapped:
            release(array)
