"""A fake CUDA device: the kernels' own source, compiled for this CPU with shim.h, each block's threads as fibres of one thread.

Deterministic and slow. Memory is what malloc gives between guards: fresh bytes are garbage, and a write outside a buffer is found at the
next `wait` or `download`, or when the buffer goes. What it cannot show is at the head of shim.h.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.cuda.budget import Budget
from assay.exact.cuda.device import HERE, MAX_THREADS, Buffer, Description, DeviceError, Kernel, Launch, Shared, refused
from assay.exact.cuda.fake_lanes import EARLY, LATE, Lane, Mark, Queue
from assay.exact.native.build import COMPILE_TIMEOUT, cache_folder, locked

FLAGS = (
    "-std=c++17", "-O1", "-fPIC", "-shared", "-D_GNU_SOURCE", "-fwrapv", "-fno-strict-aliasing", "-fno-math-errno", "-ffp-contract=off",
    "-Wno-unused-function",
)  # fmt: skip
SHIMS = ("shim.h", "shim_hopper.h")
ALIGN, GUARD = 256, 256
GARBAGE = 0xA5
UNTOUCHED = bytes([GARBAGE]) * GUARD
MEMORY = 4 << 30
"""Bytes that the device says it has."""
CACHE = 4 << 20
"""Bytes of the level-2 cache that it says it has."""
_one = threading.Lock()
"""A kernel's source has globals: where several devices are in one process, one grid runs at a time."""
_KERNEL = re.compile(r"^\s*(?:KERNEL|extern \"C\" __global__ void)\s+(?:(?:CLUSTERED|__launch_bounds__)\([^)]*\)\s*)*(\w+)\s*\(", re.MULTILINE)
WITHOUT_CLUSTERS = "\n#ifndef CLUSTER\n#define CLUSTER 1\n#endif\n"


class Order(IntEnum):
    """As in shim.h."""

    BY_TURNS = 0
    ASCENDING = 1
    DESCENDING = 2


def compiler() -> str | None:
    """Path of a C++ compiler, or None: without one there is no fake device."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    return None


@cache
def _version(cxx: str) -> str:
    return subprocess.run([cxx, "--version"], capture_output=True, text=True, timeout=COMPILE_TIMEOUT).stdout.partition("\n")[0]


def _build(cxx: str, text: str) -> Path:
    """Path of the shared library of a translation unit, compiled if it is not in the cache."""
    flags = (*FLAGS, f"-I{HERE}")
    shims = [(HERE / name).read_text() for name in SHIMS]
    digest = hashlib.sha256("\0".join([cxx, _version(cxx), *flags, *shims, text]).encode()).hexdigest()
    folder = cache_folder()
    target = folder / f"fake-{digest[:24]}.so"
    if target.exists():
        return target
    with locked(folder / f"lock-{digest[:2]}"):  # test processes, and ranks, begin with the same kernels
        if not target.exists():
            _compile(cxx, flags, text, target)
    return target


def _compile(cxx: str, flags: Sequence[str], text: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        made = Path(temporary) / "fake.so"
        done = subprocess.run([cxx, *flags, "-x", "c++", "-o", str(made), "-"], input=text, capture_output=True, text=True, timeout=COMPILE_TIMEOUT)
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
            raise DeviceError(f"{cxx} failed: {first}")
        os.replace(made, target)


class _Buffer:
    def __init__(self, size: int) -> None:
        self.size = size
        self._raw = np.full(size + 2 * GUARD + ALIGN, GARBAGE, np.uint8)
        start = -self._raw.ctypes.data % ALIGN
        self._raw = self._raw[start : start + size + 2 * GUARD]
        self.address = self._raw.ctypes.data + GUARD

    def intact(self) -> bool:
        return ctypes.string_at(self.address - GUARD, GUARD) == UNTOUCHED == ctypes.string_at(self.address + self.size, GUARD)


class _Window:
    """Bytes that other processes find by the path of a file, which goes with whoever made it."""

    def __init__(self, path: str, size: int) -> None:
        self.handle, self.size = path.encode(), size
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), max(size, 1))
        self.address = ctypes.addressof(ctypes.c_uint8.from_buffer(self._map))

    def intact(self) -> bool:
        return True


class _Kernel:
    def __init__(self, name: str, library: ctypes.CDLL) -> None:
        self.name = name
        self.run = library[f"shim_run_{name}"]
        self.run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]
        self.run.restype = ctypes.c_char_p
        self.parameters = int(library[f"shim_count_{name}"]())


class _Library:
    """In place of the vendor's product: NumPy's."""

    name = "library"

    def run(self, a: int, b: int, c: int, m: int, n: int, k: int) -> None:
        def matrix(address: int, rows: int, columns: int, name: str) -> NDArray[Any]:
            dtype = np.dtype(name)
            raw = (ctypes.c_uint8 * (rows * columns * dtype.itemsize)).from_address(address)
            return np.ctypeslib.as_array(raw).view(dtype).reshape(rows, columns)

        if m % 128 or n % 128 or k % 128:
            raise DeviceError("the library takes multiples of 128")
        exact = matrix(a, m, k, "i1").astype(np.float64) @ matrix(b, n, k, "i1").astype(np.float64).T
        matrix(c, m, n, "<i4")[...] = exact.astype(np.int64).astype(np.int32)


class _Module:
    def __init__(self, path: Path, names: Sequence[str]) -> None:
        library = ctypes.CDLL(str(path))
        self._kernels = {name: _Kernel(name, library) for name in names}

    def kernel(self, name: str) -> Kernel:
        if name not in self._kernels:
            raise DeviceError(f"no kernel {name!r} in this module")
        return self._kernels[name]


class _Graph:
    """A recording, and what was recorded."""

    def __init__(self, queue: Queue) -> None:
        self.work: list[Any] = []
        self._queue = queue

    @property
    def graph(self) -> _Graph:
        return self

    def replay(self) -> None:
        for call in self.work:
            self._queue.ask(call)


class Fake:
    """Raises DeviceError where there is no C++ compiler. `grant` says what may be allocated of so many bytes; without `peers` it opens no other's
    memory; `copies` says when lanes do theirs (fake_lanes.py), `order` in which order threads and blocks run."""

    def __init__(
        self, memory: int = MEMORY, grant: Callable[[int], Budget] = Budget, peers: bool = True, copies: str = LATE, order: Order = Order.BY_TURNS,
    ) -> None:  # fmt: skip
        cxx = compiler()
        if cxx is None:
            raise DeviceError("the fake device needs a C++ compiler (c++, g++ or clang++): apt install g++")
        self._cxx = cxx
        self.description = Description("fake device", _version(cxx), "cpu", memory, 1, CACHE)
        self.budget = grant(memory)
        self._modules: dict[str, _Module] = {}
        self._held: weakref.WeakSet[_Buffer | _Window] = weakref.WeakSet()
        self._starts: weakref.WeakValueDictionary[int, _Buffer] = weakref.WeakValueDictionary()
        self._addresses: list[int] = []
        """In order, some of buffers that are gone."""
        self._other: weakref.WeakSet[_Window] = weakref.WeakSet()
        self._peers = peers
        self._recording: _Graph | None = None
        self._early = copies == EARLY
        self._queue = Queue(eager=not self._early)
        self._order = order
        self.launches = 0
        self._looked = 0
        """Launches after which the guards were looked at: nothing but a kernel writes where it was not told to."""

    def allocate(self, size: int) -> Buffer:
        with self.budget.turn() as room:
            held = sum(b.size for b in self._held)
            if held + size > room:
                raise refused(size, held, room, self.budget.limit)
            buffer = _Buffer(size)
            self._held.add(buffer)
            self._starts[buffer.address] = buffer
            bisect.insort(self._addresses, buffer.address)
            self.budget.note(held + size)
        return buffer

    def share(self, size: int) -> Shared:
        with self.budget.turn() as room:
            held = sum(b.size for b in self._held)
            if held + size > room:
                raise refused(size, held, room, self.budget.limit)
            number, path = tempfile.mkstemp(prefix="assay-fake-")
            os.truncate(number, max(size, 1))
            os.close(number)
            window = _Window(path, size)
            weakref.finalize(window, Path(path).unlink, missing_ok=True)
            self._held.add(window)
            self.budget.note(held + size)
        return window

    def peer(self, handle: bytes, size: int) -> Buffer:
        path = Path(os.fsdecode(handle))
        if not self._peers or not path.is_file() or path.stat().st_size != max(size, 1):
            raise DeviceError("another rank's memory cannot be opened")
        window = _Window(str(path), size)
        self._other.add(window)
        return window

    def pinned(self, size: int) -> NDArray[np.uint8]:
        return np.empty(size, np.uint8)

    def lane(self) -> Lane:
        return Lane(self, self._early)

    def mark(self) -> Mark:
        return self._queue.mark()

    def after(self, mark: Any) -> None:
        self._not_recorded()
        self._queue.ask(mark.wait)

    def upload(self, to: int, data: NDArray[Any]) -> None:
        self._not_recorded()
        self.mark().wait()
        ctypes.memmove(self._inside(to, data.nbytes), np.require(data, requirements="C").ctypes.data, data.nbytes)

    def download(self, of: int, into: NDArray[Any]) -> None:
        self.wait()
        if not into.flags.c_contiguous or not into.flags.writeable:
            raise ValueError("takes a writeable array in C order")
        ctypes.memmove(into.ctypes.data, self._inside(of, into.nbytes), into.nbytes)

    def copy(self, to: int, of: int, size: int) -> None:
        a, b = self._inside(to, size), self._inside(of, size)
        if a < b + size and b < a + size and size:
            raise DeviceError("a copy onto itself")
        self._do(lambda: ctypes.memmove(a, b, size))

    def load(self, source: str, arch: str = "") -> _Module:
        if source not in self._modules:
            names = list(dict.fromkeys(_KERNEL.findall(source)))
            ends = "\n".join(f"SHIM_KERNEL({name})" for name in names)
            text = f'#include "shim.h"\n#line 1 "kernels.cu"\n{source}{WITHOUT_CLUSTERS}{ends}\n'
            self._modules[source] = _Module(_build(self._cxx, text), names)
        return self._modules[source]

    def prepare(self, texts: Sequence[tuple[str, str]]) -> None:
        """They are compiled when they are loaded."""

    def library(self) -> Kernel | None:
        return _Library()

    def launch(self, launch: Launch) -> None:
        kernel, grid, block, arguments, shared = launch
        if isinstance(kernel, _Library):
            self._do(lambda: kernel.run(*arguments))
            return
        assert isinstance(kernel, _Kernel)
        if len(arguments) != kernel.parameters:
            raise DeviceError(f"{kernel.name} takes {kernel.parameters} arguments, not {len(arguments)}")
        if not 0 < block[0] * block[1] * block[2] <= MAX_THREADS:
            raise DeviceError(f"{kernel.name}: a block of {block} threads")
        words = (ctypes.c_uint64 * max(1, len(arguments)))(*(int(a) & (1 << 64) - 1 for a in arguments))
        sizes, threads = (ctypes.c_uint32 * 3)(*grid), (ctypes.c_uint32 * 3)(*block)

        def run() -> None:
            self.launches += 1
            with _one:
                message = kernel.run(words, sizes, threads, shared, self._order)
            if message:
                raise DeviceError(f"{kernel.name}: {message.decode()}")

        self._do(run)

    @contextlib.contextmanager
    def record(self) -> Iterator[_Graph]:
        self._not_recorded()
        self._recording = _Graph(self._queue)
        try:
            yield self._recording
        finally:
            self._recording = None

    def wait(self) -> None:
        self._not_recorded()
        self.mark().wait()
        if self._looked == self.launches:
            return
        if broken := [b.size for b in self._held if not b.intact()]:
            raise DeviceError(f"a write outside a buffer of {broken[0]} bytes")
        self._looked = self.launches

    def _do(self, work: Any) -> None:
        if self._recording is not None:
            self._recording.work.append(work)
        else:
            self._queue.ask(work)

    def _not_recorded(self) -> None:
        if self._recording is not None:
            raise DeviceError("the host cannot take part in a recording")

    def _inside(self, address: int, size: int) -> int:
        """The address, if one buffer holds all the bytes."""
        below = self._below(address)
        if below is not None and address + size <= below.address + below.size:
            return address
        if size and not any(b.address <= address and address + size <= b.address + b.size for b in (*self._held, *self._other)):
            raise DeviceError(f"{size} bytes at {address:#x} are in no buffer")
        return address

    def _below(self, address: int) -> _Buffer | None:
        """The last buffer that begins at or before an address."""
        for at in range(bisect.bisect_right(self._addresses, address) - 1, -1, -1):
            if (buffer := self._starts.get(self._addresses[at])) is not None:
                return buffer
            del self._addresses[at]
        return None
