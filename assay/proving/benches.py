"""What holds the memory of a proof and multiplies: NumPy on the processor, or a device of assay.exact.cuda (a GPU, the fake one). The same bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.exact.hashing import chunk_root
from assay.ids import Digest
from assay.proving import held, products
from assay.proving.proof import Bench, Claim

THREADS = 128
TILE = 16
"""Of the plain product: threads on a side."""


class Processor:
    """In this process's memory."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._memory = np.empty(0, np.uint8)
        self._state = np.empty((0, 0), np.int8)
        self._side = 0

    def fill(self, claim: Claim, seed: Digest) -> list[Digest]:
        words = held.fill(seed, claim.lanes, claim.levels)
        self._memory, self._side = words.view(np.uint8).reshape(-1), claim.side
        return [chunk_root(level, self._threads) for level in words.reshape(claim.levels, -1)]

    def read(self, at: int, size: int) -> bytes:
        return self._memory[at : at + size].tobytes()

    def _matrix(self, at: int) -> products.State:
        return self._memory[at : at + self._side**2].view(np.int8).reshape(self._side, self._side)

    def start(self) -> Digest:
        self._state = self._matrix(self._memory.size - self._side**2).copy()
        return chunk_root(self._state, self._threads)

    def step(self, at: int) -> Digest:
        self._state = np.ascontiguousarray(products.rows(self._state, self._matrix(at)))
        return chunk_root(self._state, self._threads)

    def state(self) -> bytes:
        return self._state.tobytes()


class OnDevice:
    """In a device's memory: the levels by kernels of held.cu, their roots by those of the engine, the products by the device's library, or by a plain
    kernel where it has none."""

    def __init__(self, device: Any) -> None:
        from assay.exact.cuda.device import source
        from assay.exact.cuda.maps import Kernels

        self._device, self._kernels = device, Kernels(device)
        module = device.load(source("walk.cuh", "map.cuh", "held.cu"))
        self._first, self._level, self._product, self._fold = (
            module.kernel(name) for name in ("held_first", "held_level", "held_product", "held_fold")
        )  # fmt: skip
        self._library = device.library()

    def fill(self, claim: Claim, seed: Digest) -> list[Digest]:
        """Raises MemoryError when the device has not so much."""
        from assay.exact.cuda.trees import Trees, work_bytes

        size, square = held.BLOCK * claim.lanes, claim.side**2
        self._claim = claim
        self._memory = self._device.allocate(claim.memory)
        self._states = [self._device.allocate(square) for _ in range(2)]
        self._sums = self._device.allocate(4 * square)
        at, (key, stream) = self._memory.address, (int.from_bytes(seed[i : i + 8], "little", signed=True) for i in (8, 0))
        grid = (-(-claim.lanes // THREADS), 1, 1)
        self._run(self._first, grid, (THREADS, 1, 1), (claim.lanes, at, stream, key))
        for t in range(1, claim.levels):
            self._run(self._level, grid, (THREADS, 1, 1), (claim.lanes, at, t))
        work = self._device.allocate(work_bytes([size] * claim.levels))
        levels = Trees(self._device, self._kernels, [(at + t * size, size) for t in range(claim.levels)], work)
        self._hash(levels)
        self._work = self._device.allocate(work_bytes([square]))
        self._trees = [Trees(self._device, self._kernels, [(state.address, square)], self._work) for state in self._states]
        return levels.roots()

    def _run(self, kernel: Any, grid: tuple[int, int, int], block: tuple[int, int, int], arguments: tuple[int, ...]) -> None:
        from assay.exact.cuda.device import Launch

        self._device.launch(Launch(kernel, grid, block, arguments))

    def _hash(self, trees: Any) -> None:
        for launch in trees.launches:
            self._device.launch(launch)

    def read(self, at: int, size: int) -> bytes:
        found = np.empty(size, np.uint8)
        self._device.download(self._memory.address + at, found)
        return found.tobytes()

    def start(self) -> Digest:
        square = self._claim.side**2
        self._device.copy(self._states[0].address, self._memory.address + self._claim.memory - square, square)
        self._now = 0
        return self._root()

    def step(self, at: int) -> Digest:
        side, before, after = self._claim.side, self._states[self._now], self._states[1 - self._now]
        arguments = (self._memory.address + at, before.address, self._sums.address, side, side, side)
        if self._library is not None:
            self._run(self._library, (1, 1, 1), (1, 1, 1), arguments)
        else:
            self._run(self._product, (side // TILE, side // TILE, 1), (TILE, TILE, 1), arguments)
        self._run(self._fold, (-(-side * side // THREADS), 1, 1), (THREADS, 1, 1), (side * side, self._sums.address, after.address))
        self._now = 1 - self._now
        return self._root()

    def _root(self) -> Digest:
        self._hash(self._trees[self._now])
        (root,) = self._trees[self._now].roots()
        return root

    def state(self) -> bytes:
        found = np.empty(self._claim.side**2, np.uint8)
        self._device.download(self._states[self._now].address, found)
        return found.tobytes()


def bench(threads: int = 1) -> Bench:
    """Of the device that the engine would take (ASSAY_DEVICE, assay.exact.engines)."""
    from assay.exact import engines
    from assay.exact.cuda.budget import granted

    wanted = engines.chosen()
    if wanted == "fake":
        from assay.exact.cuda.fake import Fake

        return OnDevice(Fake(grant=granted))
    if wanted == "cuda" or (wanted == "auto" and engines.device() is not None):
        from assay.exact.cuda.gpu import Gpu

        return OnDevice(Gpu(grant=granted))
    return Processor(threads)
