"""Compiles the C of this folder once for this machine and loads it.

The library goes into the user's cache folder (ASSAY_CACHE, else XDG_CACHE_HOME/assay, else ~/.cache/assay) under a name that is
the digest of sources, compiler and flags. Many processes may ask at once: one compiles under a lock, the file appears whole or not at
all. Without a compiler, or with ASSAY_NATIVE=0, there is no library and the engine runs in NumPy, with the same bits.

ASSAY_SIMD = portable | avx2 | avx512 | neon forces a level that the machine has; by default the best is taken. ASSAY_CHECKSUMS=0 leaves out
the checksums of matrix products, so that bench/checksums.py can say what they cost. ASSAY_NATIVE_LIBRARY names a library that was
compiled before, for a process that may start no compiler (assay.cage). There is no -ffast-math,
-march=native or FMA here: flags that could change bits are named and off.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact import faults

log = logging.getLogger("assay.exact")

SOURCES = ("tape.c", "map.c", "reduce.c", "gemm.c", "pack.c", "sha256.c", "records.c", "pool.c")
HEADERS = ("assay.h", "gemm.h", "neon.h")
FLAGS = (
    "-std=c11", "-O3", "-fPIC", "-shared", "-D_GNU_SOURCE",
    "-ffp-contract=off",  # a * b + c rounds twice
    "-fno-math-errno", "-fno-trapping-math",  # neither errno nor exception flags are looked at, so loops vectorise; values stay
)  # fmt: skip
LEVELS = {
    "portable": ((), ()),
    "avx2": (("avx2",), ("-mavx2",)),
    "avx512": (
        ("avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
        ("-mavx2", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mprefer-vector-width=512"),
    ),
    "neon": (("asimd",), ("-DASSAY_NEON=1",)),  # the instructions need no flag: they are part of aarch64
}
"""Level -> (CPU features it needs, as Linux names them; compiler flags). Of those that a processor can run, a later one is better."""
SHA = {"sha_ni": ("-msha", "-msse4.1"), "sha2": ("-march=armv8-a+crypto",)}
"""CPU feature -> flags for hashing with it; in every level but portable."""
HWCAPS = {"asimd": 1 << 1, "sha2": 1 << 6}
"""Feature -> its bit in what Linux tells a process of an aarch64 processor (AT_HWCAP; arch/arm64/include/uapi/asm/hwcap.h)."""
AT_HWCAP = 16
COMPILE_TIMEOUT = 300
"""Seconds."""


class NativeError(RuntimeError):
    """The native library cannot be had; says why and what to do."""


@cache
def features() -> frozenset[str]:
    """What this CPU can do, in Linux's names; empty where that is not known."""
    if platform.machine() == "aarch64":  # not from /proc/cpuinfo, which is the host's where the process is emulated
        ask = ctypes.CDLL(None).getauxval
        ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
        found = ask(AT_HWCAP)
        return frozenset(name for name, bit in HWCAPS.items() if found & bit)
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def levels() -> list[str]:
    """Levels that this machine can run, the best last."""
    return [name for name, (needs, _) in LEVELS.items() if features().issuperset(needs)]


def level() -> str:
    """The level to use. Raises NativeError when ASSAY_SIMD names one that there is not."""
    wanted = os.environ.get("ASSAY_SIMD", "")
    if wanted and wanted not in levels():
        raise NativeError(f"ASSAY_SIMD={wanted}: this machine has {', '.join(levels())}")
    return wanted or levels()[-1]


def _flags(name: str) -> tuple[str, ...]:
    sha = [flag for feature, flags in SHA.items() if name != "portable" and feature in features() for flag in flags]
    bare = ("-DASSAY_CHECKSUMS=0",) if os.environ.get("ASSAY_CHECKSUMS") == "0" else ()
    return (*FLAGS, *LEVELS[name][1], *sha, *bare)


def compiler() -> str:
    """Path of a C compiler. Raises NativeError."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    raise NativeError("no C compiler (cc, gcc or clang): install one, e.g. `apt install gcc libc6-dev`")


def cache_home() -> Path:
    """The user's cache folder, which may not be there."""
    home = os.environ.get("ASSAY_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "assay")
    return Path(home)


def cache_folder() -> Path:
    """A folder that only this user can write, made if need be."""
    folder = cache_home() / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = folder.stat()
    except OSError as error:
        raise NativeError(f"cannot make {folder}: {error}; set ASSAY_CACHE to a folder that can be written") from None
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022:
        raise NativeError(f"{folder} can be written by others: libraries are not loaded from there; set ASSAY_CACHE to a folder of your own")
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """While nobody else, in this process or another, has this file locked."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(name: str, compiling: bool = True) -> Path:
    """Path of the library for level `name`, compiled if it is not there yet and may be. Raises NativeError."""
    if sys.byteorder != "little":
        raise NativeError("the native code is for little-endian machines")
    here, cc, flags = Path(__file__).parent, compiler(), _flags(name)
    folder = cache_folder()
    version = subprocess.run([cc, "--version"], capture_output=True, text=True, timeout=COMPILE_TIMEOUT).stdout
    digest = hashlib.sha256("\0".join([cc, version, platform.machine(), *flags]).encode())
    for source in (*SOURCES, *HEADERS):
        digest.update((here / source).read_bytes())
    target = folder / f"exact-{name}-{digest.hexdigest()[:24]}.so"
    if target.exists():
        return target
    if not compiling:
        raise NativeError("it has not been compiled yet")
    with locked(folder / "lock"):
        if target.exists():
            return target
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".so")
        os.close(handle)
        try:
            command = [cc, *flags, "-o", temporary, *(str(here / source) for source in SOURCES), "-lm", "-lpthread"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT)
            if done.returncode:
                raise NativeError(f"{cc} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
            os.replace(temporary, target)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NativeError(f"could not compile: {error}") from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    return target


class Library:
    """The native code: `steps` and `kernels` map names to codes (tape.c, map.c)."""

    def __init__(self, path: Path) -> None:
        lib = ctypes.CDLL(str(path))
        self._run, self._chunk_root, self._sha256 = lib.assay_run, lib.assay_chunk_root, lib.assay_sha256
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int]
        self._chunk_root.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_int]
        self._sha256.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p]
        self._sha256.restype = None
        self._chunk_leaves, self._row_root = lib.assay_chunk_leaves, lib.assay_row_root
        self._chunk_leaves.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int]
        self._row_root.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
        self._chunk_leaves.restype = self._row_root.restype = None
        self._sha256_row = lib.assay_sha256_row
        self._sha256_row.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_char_p]
        self._sha256_row.restype = None
        self._records, self._chacha20 = lib.assay_records, lib.assay_chacha20
        self._records.argtypes = [
            ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p,
        ]  # fmt: skip
        self._chacha20.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self._chacha20.restype = None
        self._faults, self._inject = lib.assay_faults, lib.assay_inject
        self._faults.restype = ctypes.c_int64
        self._inject.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int, ctypes.c_int]
        self._inject.restype = None
        self._scratch_bytes = lib.assay_scratch_bytes
        self._scratch_bytes.restype = ctypes.c_int64
        rows, columns = (ctypes.c_int * 2).in_dll(lib, "assay_tile")
        self.tile = (int(rows), int(columns))
        """Rows and columns of a tile of a matrix product."""

        def names(symbol: str) -> dict[str, int]:
            # A C array of char: read as a string from its address.
            text = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(lib, symbol))).decode()
            return {name: code for code, name in enumerate(text.split())}

        self.kernels, self.steps = names("assay_kernels"), names("assay_steps")

    def run(self, tape: NDArray[np.int64], start: int, stop: int, bases: NDArray[np.uint64], threads: int) -> None:
        """Runs words [start, stop) of a tape over buffers at `bases`. Raises MemoryError, HardwareFault."""
        failed = self._run(tape.ctypes.data + 8 * start, stop - start, bases.ctypes.data, threads)
        if found := self._faults():
            faults.seen(found)
        if failed == -2:
            raise faults.HardwareFault
        if failed:
            raise MemoryError("the native engine ran out of memory")

    def scratch_bytes(self) -> int:
        """What all native threads of this process hold as scratch memory."""
        return int(self._scratch_bytes())

    def inject(self, where: int, index: int, bit: int, times: int) -> None:
        """For tests: the next `times` matrix products suffer a flipped bit (assay_inject in gemm.c). No program can ask for it."""
        self._inject(where, index, bit, times)

    def chunk_root(self, data: NDArray[Any], threads: int = 1) -> bytes:
        """Merkle root over the 1 KiB chunks of a C-contiguous array."""
        out = ctypes.create_string_buffer(32)
        if self._chunk_root(data.ctypes.data, data.nbytes, out, threads) != 0:
            raise MemoryError("no memory to hash with")
        return out.raw

    def chunk_leaves(self, data: NDArray[np.uint8], first: int, row: NDArray[np.uint8], threads: int = 1) -> None:
        """Writes the hashes of the 1 KiB chunks of `data`, the first of which is chunk `first` of a tensor, to `row`, 32 bytes each."""
        self._chunk_leaves(data.ctypes.data, data.nbytes, first, row.ctypes.data, threads)

    def row_root(self, row: NDArray[np.uint8]) -> bytes:
        """Merkle root over such hashes; behind the last one there is room for another, and they are written over."""
        out = ctypes.create_string_buffer(32)
        self._row_root(row.ctypes.data, row.nbytes // 32 - 1, out)
        return out.raw

    def records(
        self, prk: bytes, rows: NDArray[np.uint8], out: NDArray[np.uint8] | None = None, listed: bytes | None = None
    ) -> tuple[bytes, bytes]:  # fmt: skip
        """Of records `[n, bytes]`, C-contiguous: their leaf hashes, one after the other, and the root over them. `out` has room for as many bytes:
        the sealed records, or with `listed`, the leaf hashes that came with sealed `rows`, the opened ones. `prk` has 32 bytes."""
        n, width = rows.shape
        fits = len(prk) == 32 and (out is None or out.nbytes == rows.nbytes) and (listed is None or (out is not None and len(listed) == 32 * n))
        if not fits:
            raise ValueError(f"{n} records of {width} bytes do not fit what comes with them")
        leaves, root = ctypes.create_string_buffer(max(n, 1) * 32), ctypes.create_string_buffer(32)
        if self._records(prk, rows.ctypes.data, None if out is None else out.ctypes.data, n, width, listed, leaves, root) != 0:
            raise MemoryError("no memory to hash with")
        return leaves.raw[: n * 32], root.raw

    def chacha20(self, key: bytes, nonce: bytes, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """ChaCha20 (RFC 8439) from block 0 on, alone, for tests and benches: `key` of 32 and `nonce` of 12 bytes, arrays of one size."""
        self._chacha20(key, nonce, data.ctypes.data, out.ctypes.data, data.nbytes)

    def sha256_row(self, data: memoryview, size: int) -> bytes:
        """The hashes, one after the other, of messages of `size` bytes that lie in a row, all of `data`."""
        messages = np.frombuffer(data, np.uint8)
        out = ctypes.create_string_buffer(messages.size // size * 32)
        self._sha256_row(messages.ctypes.data, size, messages.size // size, out)
        return out.raw

    def sha256(self, data: bytes) -> bytes:
        out = ctypes.create_string_buffer(32)
        self._sha256(data, len(data), out)
        return out.raw


@cache
def _library(name: str, flags: tuple[str, ...]) -> Library:
    return Library(build(name))


@cache
def _given(path: str) -> Library:
    return Library(Path(path))


@cache
def _notice(reason: str) -> None:
    log.warning("exact arithmetic runs in NumPy, slowly: %s", reason)


def library() -> Library | None:
    """The library, or None (with one notice) where there is to be none or none can be had."""
    if os.environ.get("ASSAY_NATIVE") == "0":
        return None
    if given := os.environ.get("ASSAY_NATIVE_LIBRARY"):
        return _given(given)
    try:
        return _library(level(), _flags(level()))
    except NativeError as error:
        _notice(str(error))
        return None


def at_hand() -> Library | None:
    """The library where it is compiled already and hashes with the processor's own instructions; what has no other use for it then
    waits for no compiler."""
    try:
        name = level()
        if os.environ.get("ASSAY_NATIVE") == "0" or name == "portable" or features().isdisjoint(SHA):
            return None
        build(name, compiling=False)
        return _library(name, _flags(name))
    except (NativeError, OSError):
        return None


if __name__ == "__main__":
    print(build(level()))
