"""A CUDA device as the exact engine sees it: bytes, kernels, and graphs of launches. Two adapters keep to it: `gpu.Gpu` (CuPy) and `fake.Fake`,
which runs the same kernel source on the CPU.

Kernels are `extern "C" __global__ void name(...)` functions of CUDA C++ text. Every parameter has 8 bytes (a pointer, `long long`,
`unsigned long long` or `double`), and launches give them as whole numbers. The text starts with common.cuh (see `source`): no #include.
Memory is named by address; what `allocate` gives is freed when nobody holds it any more. Launches and copies happen in the order they were asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from assay.exact.cuda.budget import Budget

HERE = Path(__file__).parent
OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")
"""How every kernel is compiled: nothing is contracted, flushed or approximated."""
MAX_THREADS = 1024
"""Threads of a block."""

Dim3 = tuple[int, int, int]


class DeviceError(RuntimeError):
    """The device, its driver or its compiler gave up; says why."""


class DeviceFull(MemoryError):
    """The device's memory does not do, or what may be had of it; says what is held and wanted."""


def refused(wanted: int, held: int, room: int, limit: int) -> DeviceFull:
    """An allocation of `wanted` bytes by a process that holds `held` and may hold `room`."""
    others = limit - room
    more = f", and other engines of this node {others}" if others else ""
    return DeviceFull(f"{wanted} bytes of the GPU's memory are not given: {limit} may be taken, of which this engine holds {held}{more}")


class Description(NamedTuple):
    name: str
    driver: str
    """Version of the driver; of the compiler, for the fake device."""
    arch: str
    """`sm_90`, ..., or `cpu` for the fake device."""
    memory: int
    """Bytes."""
    processors: int
    """Streaming multiprocessors."""
    cache: int
    """Bytes of the level-2 cache."""


class Buffer(Protocol):
    """Bytes of the device. An address is a multiple of 256."""

    @property
    def address(self) -> int: ...

    @property
    def size(self) -> int: ...


class Shared(Buffer, Protocol):
    """Bytes of the device that the devices of other ranks may be given to read."""

    @property
    def handle(self) -> bytes:
        """What `Device.peer` finds them by, for other processes of this machine; empty: nobody can."""
        ...


class Kernel(Protocol):
    """A kernel of a loaded module. Belongs to the device that loaded it."""

    @property
    def name(self) -> str: ...


class Module(Protocol):
    def kernel(self, name: str) -> Kernel:
        """Raises DeviceError when the module has none of this name."""
        ...


class Launch(NamedTuple):
    """A grid that is ready to be started, with `shared` bytes of dynamic shared memory."""

    kernel: Kernel
    grid: Dim3
    block: Dim3
    arguments: tuple[int, ...]
    shared: int = 0


class Graph(Protocol):
    """Launches and copies that were recorded. May be replayed as long as the memory they name is held."""

    def replay(self) -> None: ...


class Recording(Protocol):
    @property
    def graph(self) -> Graph:
        """Once the recording is over."""
        ...


class Mark(Protocol):
    """All that was asked for before it, of the device or of a lane."""

    def wait(self) -> None:
        """Until that is done. Raises DeviceError."""
        ...


class Lane(Protocol):
    """Copies between page-locked memory of the host and the device, in their order, beside what the device does meanwhile. An array is the lane's
    until a mark behind it has been waited for."""

    def after(self, mark: Mark) -> None:
        """What is asked of the lane from now on waits for that."""
        ...

    def upload(self, to: int, data: NDArray[np.uint8]) -> None: ...

    def download(self, of: int, into: NDArray[np.uint8]) -> None: ...

    def mark(self) -> Mark: ...


class Device(Protocol):
    @property
    def description(self) -> Description: ...

    @property
    def budget(self) -> Budget:
        """What may be allocated."""
        ...

    def allocate(self, size: int) -> Buffer:
        """Raises DeviceFull, when the budget does not allow it or the device has not so much. The bytes are whatever they are."""
        ...

    def share(self, size: int) -> Shared:
        """As `allocate`, of memory that others may read."""
        ...

    def peer(self, handle: bytes, size: int) -> Buffer:
        """Another rank's shared memory of so many bytes, from which may be copied as long as both hold it. Raises DeviceError where the driver does
        not allow it."""
        ...

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Page-locked memory of the host, by which uploads and downloads are fastest."""
        ...

    def upload(self, to: int, data: NDArray[Any]) -> None:
        """Copies a C-contiguous array to an address."""
        ...

    def download(self, of: int, into: NDArray[Any]) -> None:
        """Fills a C-contiguous array from an address, after all that was asked for before."""
        ...

    def lane(self) -> Lane: ...

    def mark(self) -> Mark:
        """Of what the device, and no lane, was asked for."""
        ...

    def after(self, mark: Mark) -> None:
        """What the device is asked for from now on waits for that."""
        ...

    def copy(self, to: int, of: int, size: int) -> None:
        """Copies bytes within the device, or from a peer's; the two ranges do not overlap."""
        ...

    def load(self, source: str, arch: str = "") -> Module:
        """Compiles CUDA C++ text, or takes it from the cache. `arch`: for what exactly (`sm_90a`), where the device's own name does not do. Raises
        DeviceError with the compiler's first message."""
        ...

    def prepare(self, texts: Sequence[tuple[str, str]]) -> None:
        """Compiles several texts, each with what `load` takes as `arch`, at once; what is wrong with one is said when it is loaded."""
        ...

    def library(self) -> Kernel | None:
        """The vendor's product of int8 matrices, if there is one: a kernel of the arguments a, b, c, m, n, k that makes c[m, n] (int32) =
        a[m, k] b[n, k]^T, all in C order, for m, n and k that are multiples of 128. Its grid and block are not looked at."""
        ...

    def launch(self, launch: Launch) -> None:
        """Starts a grid. Raises DeviceError, at the latest when it is waited for."""
        ...

    def record(self) -> AbstractContextManager[Recording]:
        """What is launched and copied (within the device) inside is recorded, not done."""
        ...

    def wait(self) -> None:
        """Until everything asked for is done."""
        ...


@cache
def source(*names: str) -> str:
    """The text of files of this folder, after that of common.cuh."""
    return "\n".join((HERE / name).read_text() for name in ("common.cuh", *names))
