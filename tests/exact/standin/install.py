"""Puts the stand-in for a driver (driver.py) under the real CuPy: what `gpu.Gpu` asks of CuPy is done by CuPy's own code, compiled by NVRTC, and ends
there.

CuPy has CUDA's runtime within it (a static library, whose functions' names are in the file's symbol table): a jump is written over the beginning of
those that are replaced. The driver's library and cuBLAS are found by name, so that ours are loaded first. A function of the runtime that is not
replaced says that there is no driver; one of the driver's that is missing is not found. Only for x86-64, and for a process that does nothing else.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import platform
import subprocess
import sys
import tempfile
from ctypes import c_int, c_size_t, c_uint, c_void_p
from pathlib import Path
from struct import unpack_from
from typing import Any
from unittest import mock

from assay.exact.cuda import fake
from assay.exact.cuda.gpu import Gpu
from tests.exact.standin.driver import HANDLE, Driver

KEPT: list[Any] = []
"""What C has pointers to."""


def why_not() -> str | None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the stand-in for a driver is for Linux on x86-64"
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    return None if fake.compiler() else "the fake device needs a C++ compiler"


class Handle(ctypes.Structure):
    """cudaIpcMemHandle_t, which is given by value."""

    _fields_ = (("bytes", ctypes.c_uint8 * HANDLE),)


Ints = ctypes.POINTER(c_int)
Sizes = ctypes.POINTER(c_size_t)
RUNTIME: dict[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (Ints,), "cudaGetDevice": (Ints,), "cudaSetDevice": (c_int,), "cudaDriverGetVersion": (Ints,),
    "cudaRuntimeGetVersion": (Ints,), "cudaDeviceGetAttribute": (Ints, c_int, c_int), "cudaGetDeviceProperties_v2": (c_void_p, c_int),
    "cudaMalloc": (Sizes, c_size_t), "cudaFree": (c_void_p,), "cudaHostAlloc": (Sizes, c_size_t, c_uint), "cudaFreeHost": (c_void_p,),
    "cudaMemGetInfo": (Sizes, Sizes), "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithPriority": (Sizes, c_uint, c_int), "cudaStreamDestroy": (c_void_p,), "cudaStreamSynchronize": (c_void_p,),
    "cudaDeviceSynchronize": (), "cudaEventCreateWithFlags": (Sizes, c_uint), "cudaEventDestroy": (c_void_p,),
    "cudaEventRecord": (c_void_p, c_void_p), "cudaEventSynchronize": (c_void_p,), "cudaStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cudaStreamIsCapturing": (c_void_p, Ints), "cudaStreamBeginCapture": (c_void_p, c_int), "cudaStreamEndCapture": (c_void_p, Sizes),
    "cudaGraphInstantiate": (Sizes, c_void_p, ctypes.c_ulonglong), "cudaGraphLaunch": (c_void_p, c_void_p), "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,), "cudaGraphUpload": (c_void_p, c_void_p), "cudaPointerGetAttributes": (c_void_p, c_void_p),
    "cudaIpcGetMemHandle": (c_void_p, c_void_p),
    "cudaIpcOpenMemHandle": (Sizes, Handle, c_uint), "cudaIpcCloseMemHandle": (c_void_p,),
}  # fmt: skip
DRIVER: dict[str, tuple[Any, ...]] = {
    "cuCtxGetCurrent": (Sizes,), "cuCtxGetDevice": (Ints,), "cuModuleLoad": (Sizes, ctypes.c_char_p),
    "cuModuleUnload": (c_void_p,), "cuModuleGetFunction": (Sizes, c_void_p, ctypes.c_char_p), "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuFuncGetAttribute": (Ints, c_int, c_void_p), "cuLaunchKernel": (c_void_p, *[c_uint] * 7, c_void_p, ctypes.POINTER(c_void_p), c_void_p),
}  # fmt: skip

CUBLAS: dict[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (Sizes,), "cublasSetStream_v2": (c_void_p, c_void_p), "cublasSetWorkspace_v2": (c_void_p, c_void_p, c_size_t),
    "cublasGemmEx": (c_void_p, *[c_int] * 5, Ints, c_void_p, c_int, c_int, c_void_p, c_int, c_int, Ints, c_void_p, c_int, c_int, c_int, c_int),
}  # fmt: skip


def _symbols(path: Path) -> dict[str, int]:
    """Functions of an ELF file by its .symtab, and where they lie from where it is loaded."""
    data = path.read_bytes()
    sections, each, count = (unpack_from(f, data, at)[0] for f, at in (("<Q", 40), ("<H", 58), ("<H", 60)))
    table = [unpack_from("<IIQQQQIIQQ", data, sections + i * each) for i in range(count)]
    out = {}
    for _, kind, _, _, at, size, link, _, _, entry in table:
        if kind == 2:  # SHT_SYMTAB
            names = table[link][4]
            for place in range(at, at + size, entry):
                name, info, _, _, value, _ = unpack_from("<IBBHQQ", data, place)
                if info & 15 == 2 and value:  # STT_FUNC
                    out[data[names + name : data.index(b"\0", names + name)].decode()] = value
    return out


def _loaded_at(path: Path) -> int:
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split()
        if len(words) > 5 and words[5] == str(path) and int(words[2], 16) == 0:
            return int(words[0].partition("-")[0], 16)
    raise LookupError(f"{path} is not loaded")


def _jump(at: int, to: int) -> None:
    """Writes `mov rax, to; jmp rax` over the code at an address."""
    page, size = at & ~4095, 8192
    if ctypes.CDLL(None).mprotect(c_void_p(page), c_size_t(size), 7):
        raise OSError("the code cannot be written")
    code = b"\x48\xb8" + to.to_bytes(8, "little") + b"\xff\xe0"
    ctypes.memmove(at, code, len(code))


def _library(folder: Path, soname: str, names: list[str]) -> ctypes.CDLL:
    """A library whose functions go on to `table`."""
    jumps = "".join(
        f'asm(".text\\n.globl {name}\\n.type {name},@function\\n{name}: movq table@GOTPCREL(%rip), %rax\\njmp *{8 * at}(%rax)\\n");\n'
        for at, name in enumerate(names)
    )
    made = folder / soname
    cxx = fake.compiler()
    assert cxx is not None
    version = folder / "version"
    version.write_text(f"{soname} {{ global: *; }};")  # as NVIDIA's libraries have
    words = [cxx, "-shared", "-fPIC", f"-Wl,-soname,{soname}", f"-Wl,--version-script={version}", "-x", "c++", "-o", str(made), "-"]
    subprocess.run(words, input=f'extern "C" {{ void *table[{max(1, len(names))}]; }}\n{jumps}', text=True, check=True, timeout=60)
    return ctypes.CDLL(str(made), ctypes.RTLD_GLOBAL)


def put_in(driver: Driver) -> None:
    """From here on CuPy, which must not have been imported, has this driver."""
    assert "cupy" not in sys.modules
    runtime = importlib.util.find_spec("cupy_backends.cuda.api.runtime")
    assert runtime is not None
    assert runtime.origin is not None

    def made(name: str, types: tuple[Any, ...]) -> int:
        call = ctypes.CFUNCTYPE(c_int, *types)(driver.called(name))
        KEPT.append(call)
        return ctypes.cast(call, c_void_p).value or 0

    with tempfile.TemporaryDirectory() as folder:
        cublas = {"libcublasLt.so.12": {}, "libcublas.so.12": CUBLAS} if driver.cublas else {}
        for soname, calls in {"libcuda.so.1": DRIVER, **cublas}.items():
            table = (c_void_p * len(calls)).in_dll(_library(Path(folder), soname, list(calls)), "table")
            for at, (name, types) in enumerate(calls.items()):
                table[at] = made(name, types)

    importlib.import_module(runtime.name)
    path = Path(runtime.origin).resolve()
    symbols, base = _symbols(path), _loaded_at(path)
    for name, types in RUNTIME.items():
        _jump(base + symbols[name], made(name, types))
    load = Gpu.load

    def noted(self: Gpu, source: str, arch: str = "") -> Any:
        driver.texts.source = source
        return load(self, source, arch)

    mock.patch.object(Gpu, "load", noted).start()
