"""The memory that a program takes on a device, known before it is there: the engine is made on a device that only counts.

Everything that the engine allocates for a program is counted: for traced runs of both parts, which it keeps, and for a training that stays
there or for plain runs, whichever takes more; or for such a training alone, with part of its state on the host. What the driver, the compiled
kernels and a memory pool take beside that is not.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assay.exact.cuda.away import WINDOW, Apart
from assay.exact.cuda.budget import Budget
from assay.exact.cuda.device import Buffer, Description, Graph, Kernel, Lane, Launch, Mark, Module, Recording, Shared
from assay.exact.cuda.engine import Cuda
from assay.exact.cuda.parts import Parts, slice_bytes
from assay.exact.cuda.resident import Resident
from assay.exact.division import movable
from assay.exact.memory import beside_device
from assay.exact.offload import Store
from assay.exact.recompute import EFFORTS, written
from assay.exact.regions import SLICE
from assay.exact.table import TensorType
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


PART = 8
"""Windows that would hold all that lies on the host, at least."""


class Host(NamedTuple):
    """What this machine gives to a training that stays on a device: bytes of its memory, and a store where the state does not fit in that."""

    memory: int
    store: Store | None = None

    def apart(self, program: Program) -> Apart | None:
        """What of a program's state lies on the host, and the bytes that are brought to the device at a time: a part of it, so that two such windows
        are much less. In files this machine's memory holds four of them."""
        names = movable(program)
        window = min(WINDOW, sum(program.state[name].bytes for name in names) // PART)
        return Apart(names, min(window, self.store.window // 2) if self.store else window, self.store) if names else None


class Fit(NamedTuple):
    """What is made again (assay.exact.recompute), about how many bytes a slice has (assay.exact.slices; 0: no slices), the bytes of the
    device's memory that are needed then, and those of the state that lie on the host. `staying`: for trainings that stay there alone; what is run or
    traced one by one is the processor's."""

    effort: int
    slices: int
    bytes: int
    host: int = 0
    staying: bool = False


class _Nowhere(Store):
    """A store that nothing is put in."""

    def zeros(self, t: TensorType) -> NDArray[Any]:
        return np.empty(0, np.uint8)


def fitting(program: Program, description: Description, limit: int, host: Host | None = None) -> Fit:
    """How to run the program within `limit` bytes: as it is, with the fewest launches; by slices; by slices with as little arithmetic done twice
    as will do; or all of this with slices that are no larger than the cache. Where none of these fits and there is a `host`, trainings alone, which
    leaves the memory of traces: in the same order, each with the whole state there, then with what micro-batches do not read on the host
    (which crosses once a step, both ways, while an update computes; slices and what is made again cost in every micro-batch). Where nothing fits,
    what needs least. With a store links run on the processor, and only trainings are looked at. Raises ProgramError for a program that the
    engine does not take."""
    tried: list[Fit] = []
    if host is None or host.store is None:
        for effort, slices in _ways(program, description):
            tried.append(Fit(effort, slices, needed(program, description, effort, slices)))
            if tried[-1].bytes <= limit:
                return tried[-1]
    apart = host.apart(program) if host else None
    for effort, slices in _ways(program, description) if host else ():
        for taken in (None, apart) if apart else (None,):
            stays = Staying(program, description, effort, slices, taken)
            if host and beside_device(program, stays.memory, host.store is not None) > host.memory:
                continue
            tried.append(Fit(effort, slices, stays.bytes, stays.host, True))
            if tried[-1].bytes <= limit:
                return tried[-1]
    return min(tried, key=lambda fit: fit.bytes)


def _ways(program: Program, description: Description) -> Iterator[tuple[int, int]]:
    """Efforts and slices, in the order in which they are looked at."""
    yield 0, 0
    for slices in dict.fromkeys((slice_bytes(description), max(SLICE, description.cache))):
        work = {effort: cost(written(program.micro, effort, slices).part).flops for effort in EFFORTS[1:]}
        for effort in (0, *sorted(work, key=work.__getitem__)):
            yield effort, slices


class Staying:
    """What a training that stays on the device takes: `bytes` of the device, and with entries `apart` `host` bytes of the state on the host, in
    `memory` bytes of its memory. Raises ProgramError."""

    def __init__(self, program: Program, description: Description, effort: int = 0, slices: int = 0, apart: Apart | None = None) -> None:
        ruler = Ruler(description)
        if apart and apart.store:
            apart = apart._replace(store=_Nowhere(apart.store.folder, apart.store.window))
        stays = Resident(Parts(program, ruler, slices=slices, effort=effort), apart)
        self.bytes, self.host, self.memory = ruler.held, stays.crossing, stays.host
        self.launches = stays.launches


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
