"""The memory that a program takes on a device, known before it is there: the engine is made on a device that only counts.

Everything that the engine allocates for a program is counted: for traced runs of both parts, which it keeps, and for a training that stays
there or for plain runs, whichever takes more. What the driver, the compiled kernels and a memory pool take beside that is not.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact.cuda.budget import Budget
from assay.exact.cuda.device import Buffer, Description, Graph, Kernel, Lane, Launch, Mark, Module, Recording, Shared
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.parts import slice_bytes
from assay.exact.recompute import EFFORTS, written
from assay.exact.regions import SLICE
from assay.program import Program, cost


class _Nothing:
    """A buffer without bytes, a kernel, a module, a recording, a graph, a lane and a mark that do nothing."""

    def __init__(self, address: int = 0, size: int = 0, name: str = "") -> None:
        self.address, self.size, self.name, self.handle = address, size, name, b""

    def kernel(self, name: str) -> Kernel:
        return _Nothing(name=name)

    @property
    def graph(self) -> Graph:
        return self

    def replay(self) -> None:
        pass

    def after(self, mark: Mark) -> None:
        pass

    def upload(self, to: int, data: NDArray[Any]) -> None:
        pass

    def download(self, of: int, into: NDArray[Any]) -> None:
        pass

    def mark(self) -> Mark:
        return self

    def wait(self) -> None:
        pass


class Ruler:
    """A device that counts what is allocated and does nothing."""

    ALIGN = 256

    def __init__(self, description: Description) -> None:
        self.description, self.budget = description, Budget(description.memory)
        self._next = self.ALIGN
        self._held: weakref.WeakSet[_Nothing] = weakref.WeakSet()

    @property
    def held(self) -> int:
        """Bytes."""
        return sum(buffer.size for buffer in self._held)

    def allocate(self, size: int) -> Buffer:
        buffer = _Nothing(self._next, size)
        self._next += -(-size // self.ALIGN) * self.ALIGN
        self._held.add(buffer)
        return buffer

    def share(self, size: int) -> Shared:
        buffer = self.allocate(size)
        assert isinstance(buffer, _Nothing)
        return buffer

    def peer(self, handle: bytes, size: int) -> Buffer:
        return _Nothing(self._next, size)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        return np.empty(0, np.uint8)

    def upload(self, to: int, data: NDArray[Any]) -> None:
        pass

    def download(self, of: int, into: NDArray[Any]) -> None:
        into.fill(0)

    def lane(self) -> Lane:
        return _Nothing()

    def mark(self) -> Mark:
        return _Nothing()

    def after(self, mark: Mark) -> None:
        pass

    def copy(self, to: int, of: int, size: int) -> None:
        pass

    def load(self, source: str, arch: str = "") -> Module:
        return _Nothing()

    def prepare(self, texts: Sequence[tuple[str, str]]) -> None:
        pass

    def library(self) -> Kernel | None:
        return None

    def launch(self, launch: Launch) -> None:
        pass

    @contextlib.contextmanager
    def record(self) -> Iterator[Recording]:
        yield _Nothing()

    def wait(self) -> None:
        pass


class Fit(NamedTuple):
    """What is made again (assay.exact.recompute), about how many bytes a slice has (assay.exact.slices; 0: no slices), and the bytes of the
    device's memory that are needed then."""

    effort: int
    slices: int
    bytes: int


def fitting(program: Program, description: Description, limit: int) -> Fit:
    """How to run the program within `limit` bytes: as it is, with the fewest launches; by slices; by slices with as little arithmetic done twice
    as will do; or all of this with slices that are no larger than the cache. Where nothing fits, what needs least. Raises ProgramError for a
    program that the engine does not take."""
    least = Fit(0, 0, needed(program, description))
    if least.bytes <= limit:
        return least
    for slices in dict.fromkeys((slice_bytes(description), max(SLICE, description.cache))):
        work = {effort: cost(written(program.micro, effort, slices).part).flops for effort in EFFORTS[1:]}
        for effort in (0, *sorted(work, key=work.__getitem__)):
            found = Fit(effort, slices, needed(program, description, effort, slices))
            if found.bytes <= limit:
                return found
            least = min(least, found, key=lambda fit: fit.bytes)
    return least


def needed(program: Program, description: Description, effort: int = 0, slices: int = 0) -> int:
    """Bytes of the device's memory. Raises ProgramError for a program that the engine does not take."""
    ruler = Ruler(description)
    cuda = Cuda(program, ruler, slices=slices, effort=effort)
    cuda.prepare(trace=True)
    stays = cuda.resident()
    staying = ruler.held
    del stays  # links run one by one only where no training stays
    cuda.prepare(trace=False)
    return max(staying, ruler.held)
