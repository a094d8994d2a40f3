"""The native library compiled for aarch64 and run by QEMU beside the tests: the engine, the cases and the reference stay on this machine, and
each call of the library (emulated.c) takes its buffers there and back through a file that both processes have in memory."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import cpu
from assay.exact.native import build

COMPILER, EMULATORS = "aarch64-linux-gnu-gcc", ("qemu-aarch64-static", "qemu-aarch64")
CLANG = ("clang", "--target=aarch64-linux-gnu")
"""Another compiler, with the libraries of the first."""
PACKAGES = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"
RUN, CHUNK_ROOT, SHA256, FAULTS, INJECT, RECORDS = range(6)
SHARED = 1 << 28
"""Bytes of the file, which is sparse."""
HEAD = 4096
"""Bytes of it that hold a call."""


def emulator() -> str | None:
    return next((path for name in EMULATORS if (path := shutil.which(name))), None)


def missing() -> str:
    """What must be installed for this, or nothing."""
    return "" if shutil.which(COMPILER) and emulator() else f"wants a cross compiler and QEMU: apt install {PACKAGES}"


def compiled(target: Path, flags: Sequence[str], sources: Path = Path(build.__file__).parent, compiler: Sequence[str] = (COMPILER,)) -> Path:
    """The program for aarch64, from the native sources in a folder."""
    here = [str(sources / source) for source in build.SOURCES]
    main = str(Path(__file__).with_name("emulated.c"))
    whole = [flag for flag in flags if flag != "-shared"]
    command = [*compiler, *whole, "-static", "-I", str(sources), "-o", str(target), main, *here, "-lm", "-lpthread"]
    subprocess.run(command, check=True, timeout=build.COMPILE_TIMEOUT)
    return target


class Emulated(build.Library):
    """A Library whose C functions are those of a process that QEMU runs. To be closed; to be told of arrays (`knows`) before a tape works on them."""

    def __init__(self, program: Path) -> None:
        path = program.with_suffix(".shared")
        with path.open("wb") as file:
            file.truncate(SHARED)
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), SHARED)
        self._process = subprocess.Popen([str(emulator()), str(program), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._words = np.frombuffer(self._shared, np.int64, HEAD // 8)
        self._buffers: dict[int, NDArray[np.uint8]] = {}
        kernels, steps = (self._line() for _ in range(2))
        self.kernels, self.steps = ({name: code for code, name in enumerate(line.split())} for line in (kernels, steps))
        self._run, self._chunk_root, self._sha256 = self._far_run, self._far_root, self._far_sha256
        self._records = self._far_records
        self._faults = lambda: self._call(FAULTS)
        self._inject = lambda *arguments: self._call(INJECT, *arguments)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(timeout=240) == 0

    def knows(self, buffers: Sequence[NDArray[Any]]) -> None:
        """These arrays may be what a tape works on."""
        self._buffers = {b.ctypes.data: np.asarray(b).reshape(-1).view(np.uint8) for b in buffers}

    def _line(self) -> str:
        out = self._process.stdout
        assert out is not None
        return b"".join(iter(lambda: out.read(1), b"\n")).decode()

    def _call(self, function: int, *arguments: int) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._words[: 3 + len(arguments)] = [function, 0, 0, *arguments]
        self._process.stdin.write(b"\n")
        assert self._process.stdout.read(1) == b"\n", "the emulated process died"
        assert self._words[2] == 1, "floating-point flags of the caller were changed"
        return int(self._words[1])

    def _put(self, data: bytes | NDArray[np.uint8], at: int) -> int:
        """Where the next thing may lie."""
        end = at + len(data)
        assert end <= SHARED
        self._shared[at:end] = bytes(data)
        return (end + 63) // 64 * 64

    def _far_run(self, tape: int, count: int, bases: int, threads: int) -> int:
        addresses = (ctypes.c_uint64 * len(self._buffers)).from_address(bases)
        places: dict[int, int] = {}
        offsets = []
        free = self._put(ctypes.string_at(tape, 8 * count), HEAD)
        table, free = free, free + (8 * len(addresses) + 63) // 64 * 64
        for address in addresses:
            if address not in places:
                places[address] = free
                free = self._put(self._buffers[address], free)
            offsets.append(places[address])
        self._put(np.array(offsets, np.int64).tobytes(), table)
        failed = self._call(RUN, HEAD, count, table, len(offsets), threads)
        for address, at in places.items():
            data = self._buffers[address]
            if data.flags.writeable:
                data[:] = np.frombuffer(self._shared, np.uint8, len(data), at)
        return failed

    def _far_root(self, data: int, size: int, out: Any, threads: int) -> int:
        free = self._put(ctypes.string_at(data, size), HEAD)
        failed = self._call(CHUNK_ROOT, HEAD, size, free, threads)
        out[:32] = self._shared[free : free + 32]
        return failed

    def _far_sha256(self, data: bytes, size: int, out: Any) -> None:
        free = self._put(data, HEAD)
        self._call(SHA256, HEAD, size, free)
        out[:32] = self._shared[free : free + 32]

    def _far_records(self, prk: bytes, rows: int, out: int | None, n: int, width: int, listed: bytes | None, leaves: Any, root: Any) -> int:
        size = n * width
        places = [HEAD, self._put(prk, HEAD)]
        for data in (ctypes.string_at(rows, size), bytes(size), listed or b"", bytes(32 * n)):
            places.append(self._put(data, places[-1]))
        key, given, made, told, hashes, end = places
        failed = self._call(RECORDS, key, given, 0 if out is None else made, n, width, 0 if listed is None else told, hashes, end)
        if out is not None:
            ctypes.memmove(out, self._shared[made : made + size], size)
        leaves[: 32 * n], root[:32] = self._shared[hashes : hashes + 32 * n], self._shared[end : end + 32]
        return failed


def naming(library: Emulated) -> Callable[..., Any]:
    """In place of the engine's `bind`: the same, and the library learns the buffers."""
    bind = cpu.Native.bind

    def bound(self: cpu.Native, arena: NDArray[np.uint8], arguments: list[NDArray[Any]], spent: Collection[str] = ()) -> Any:
        found = bind(self, arena, arguments, spent)
        library.knows(found[1])
        return found

    return bound
