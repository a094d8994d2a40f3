"""A real CUDA device, through CuPy: its compiler (NVRTC), its memory pool, one stream, and graphs captured from that stream.

Compiled kernels are kept in the user's cache folder, by their text, options and architecture. docs/cuda.md says what of it has run on a GPU.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.exact.cuda.budget import Budget
from assay.exact.cuda.device import OPTIONS, Buffer, Description, DeviceError, Kernel, Launch, Shared, refused
from assay.exact.native.build import cache_folder, locked

log = logging.getLogger("assay.exact")
WITH_ATTRIBUTE = 48 << 10
"""Bytes of dynamic shared memory above which a kernel must be told."""


def _first(log: str) -> str:
    """What NVRTC says first."""
    return f"NVRTC failed: {next((line for line in log.splitlines() if 'error' in line), log)}"


class _Buffer:
    def __init__(self, memory: Any, size: int) -> None:
        self._memory, self.size = memory, size
        self.address = int(memory.ptr)


class _Shared:
    """Memory of its own from the driver, not from the pool: a handle stands for a whole allocation."""

    def __init__(self, gpu: Gpu, address: int, size: int) -> None:
        self.address, self.size = address, size
        runtime = gpu._cupy.cuda.runtime
        try:
            self.handle = bytes(runtime.ipcGetMemHandle(address))
        except runtime.CUDARuntimeError:
            self.handle = b""
        weakref.finalize(self, gpu._let_go, runtime.free, address, size)


class _Peer:
    def __init__(self, gpu: Gpu, address: int, size: int) -> None:
        self.address, self.size = address, size
        weakref.finalize(self, gpu._let_go, gpu._cupy.cuda.runtime.ipcCloseMemHandle, address, 0)


class _Kernel:
    def __init__(self, name: str, function: Any) -> None:
        self.name, self.function = name, function
        self.shared = WITH_ATTRIBUTE


class _Library:
    """cuBLAS's product of int8 matrices (cublasGemmEx; which of its kernels is taken is its choice). Called by itself: CuPy gives the handle a
    stream of its own choosing, and refuses to record. Raises DeviceError where cuBLAS is not installed."""

    name = "library"
    R_8I, R_32I, COMPUTE_32I, DEFAULT, PLAIN, TRANSPOSED = 3, 10, 72, -1, 0, 1
    """Of library_types.h and cublas_api.h. Scales lie on the host (CUBLAS_POINTER_MODE_HOST) unless a handle is told otherwise."""
    WORKSPACE = 32 << 20
    """Bytes that its documentation names for Hopper. Without memory of ours it would allocate within a recording."""

    def __init__(self, gpu: Gpu) -> None:
        from cuda import pathfinder

        try:
            found = pathfinder.load_nvidia_dynamic_lib("cublas").abs_path
        except pathfinder.DynamicLibNotFoundError as error:
            raise DeviceError(f"cuBLAS is not installed: {error}") from None
        self._cublas = ctypes.CDLL(found or "libcublas.so.12")
        self._workspace = gpu.allocate(self.WORKSPACE)
        self._one, self._zero = ctypes.c_int32(1), ctypes.c_int32(0)
        handle, size = ctypes.c_void_p(), ctypes.c_size_t(self.WORKSPACE)
        self._call("cublasCreate_v2", ctypes.byref(handle))
        self._handle = handle
        self._call("cublasSetStream_v2", handle, ctypes.c_void_p(gpu._stream.ptr))
        self._call("cublasSetWorkspace_v2", handle, ctypes.c_void_p(self._workspace.address), size)

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._cublas, name)(*arguments):
            raise DeviceError(f"{name} gives status {status} (cublasStatus_t)")

    def run(self, a: int, b: int, c: int, m: int, n: int, k: int) -> None:
        """cuBLAS has matrices by columns: its n x m result is ours by rows, and both operands have k as their contiguous axis, as its int8
        kernels want."""
        place = ctypes.c_void_p
        self._call(
            "cublasGemmEx", self._handle, self.TRANSPOSED, self.PLAIN, n, m, k, ctypes.byref(self._one), place(b), self.R_8I, k, place(a), self.R_8I,
            k, ctypes.byref(self._zero), place(c), self.R_32I, n, self.COMPUTE_32I, self.DEFAULT,
        )  # fmt: skip


class _Module:
    def __init__(self, module: Any) -> None:
        self._module = module
        self._kernels: dict[str, _Kernel] = {}

    def kernel(self, name: str) -> Kernel:
        if name not in self._kernels:
            try:
                self._kernels[name] = _Kernel(name, self._module.get_function(name))
            except Exception as error:
                raise DeviceError(f"no kernel {name!r} in this module: {error}") from None
        return self._kernels[name]


class _Mark:
    def __init__(self, gpu: Gpu, stream: Any) -> None:
        self._gpu = gpu
        self.event = gpu._cupy.cuda.Event(disable_timing=True)
        self.event.record(stream)

    def wait(self) -> None:
        try:
            self.event.synchronize()
        except self._gpu._cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(str(error)) from None


class _Lane:
    """A stream of its own."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._stream = gpu, gpu._cupy.cuda.Stream(non_blocking=True)

    def after(self, mark: Any) -> None:
        self._stream.wait_event(mark.event)

    def upload(self, to: int, data: NDArray[np.uint8]) -> None:
        runtime = self._gpu._cupy.cuda.runtime
        runtime.memcpyAsync(to, data.ctypes.data, data.nbytes, runtime.memcpyHostToDevice, self._stream.ptr)

    def download(self, of: int, into: NDArray[np.uint8]) -> None:
        runtime = self._gpu._cupy.cuda.runtime
        runtime.memcpyAsync(into.ctypes.data, of, into.nbytes, runtime.memcpyDeviceToHost, self._stream.ptr)

    def mark(self) -> _Mark:
        return _Mark(self._gpu, self._stream)


class _Graph:
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.captured: Any = None

    @property
    def graph(self) -> _Graph:
        return self

    def replay(self) -> None:
        self.captured.launch(self._stream)


def available() -> str | None:
    """None where a CUDA device can be used; otherwise why not. CuPy, which takes a second to import, is left alone where there is no driver."""
    try:
        ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError as error:
        return f"no NVIDIA driver ({error})"
    try:
        import cupy
    except ImportError as error:
        return f"CuPy is not installed ({error}): pip install 'assay[gpu]'"
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:
        return f"no CUDA device: {error}"
    return None if count else "no CUDA device"


class Gpu:
    """Device `index` of this machine. `grant` says what may be allocated of so many bytes. Raises DeviceError where it cannot be used."""

    def __init__(self, index: int = 0, grant: Callable[[int], Budget] = Budget) -> None:
        if reason := available():
            raise DeviceError(reason)
        import cupy

        self._cupy = cupy
        self._device = cupy.cuda.Device(index)
        self._device.use()
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        name = properties["name"].decode()
        capability = f"sm_{properties['major']}{properties['minor']}"
        driver = str(cupy.cuda.runtime.driverGetVersion())
        sizes = (int(properties[key]) for key in ("totalGlobalMem", "multiProcessorCount", "l2CacheSize"))
        self.description = Description(name, driver, capability, *sizes)
        self.budget = grant(self.description.memory)
        self._pool = cupy.get_default_memory_pool()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._modules: dict[str, _Module] = {}
        self._apart = 0
        """Bytes that are not the pool's."""

    def allocate(self, size: int) -> Buffer:
        """By CuPy's pool, whose limit counts the blocks that it keeps, too: it gives those back to the driver before it refuses."""
        with self.budget.turn() as room:
            self._pool.set_limit(size=max(1, room - self._apart))  # to the pool 0 is no limit
            try:
                with self._stream:
                    return _Buffer(self._cupy.cuda.alloc(max(size, 1)), size)
            except self._cupy.cuda.memory.OutOfMemoryError:
                raise refused(size, self._pool.used_bytes() + self._apart, room, self.budget.limit) from None
            finally:
                self.budget.note(self._pool.total_bytes() + self._apart)

    def share(self, size: int) -> Shared:
        runtime = self._cupy.cuda.runtime
        with self.budget.turn() as room:
            self._pool.free_all_blocks()
            try:
                if self._pool.total_bytes() + self._apart + size > room:
                    raise refused(size, self._pool.used_bytes() + self._apart, room, self.budget.limit)
                address = int(runtime.malloc(max(size, 1)))
                self._apart += size
            except runtime.CUDARuntimeError:
                raise refused(size, self._pool.used_bytes() + self._apart, room, self.budget.limit) from None
            finally:
                self.budget.note(self._pool.total_bytes() + self._apart)
        return _Shared(self, address, size)

    def peer(self, handle: bytes, size: int) -> Buffer:
        """By CUDA's handles between processes, which also let one device read another's memory (cudaIpcMemLazyEnablePeerAccess)."""
        runtime = self._cupy.cuda.runtime
        if not handle:
            raise DeviceError("the memory has no handle")
        try:
            return _Peer(self, int(runtime.ipcOpenMemHandle(handle)), size)
        except (runtime.CUDARuntimeError, ValueError) as error:
            raise DeviceError(f"another rank's memory cannot be opened: {error}") from None

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Not from CuPy's pool, which never gives back what it has locked."""
        cuda = self._cupy.cuda
        return np.frombuffer(cuda.PinnedMemoryPointer(cuda.PinnedMemory(max(size, 1)), 0), np.uint8, size)

    def lane(self) -> _Lane:
        return _Lane(self)

    def mark(self) -> _Mark:
        return _Mark(self, self._stream)

    def after(self, mark: Any) -> None:
        self._stream.wait_event(mark.event)

    def _let_go(self, call: Callable[[int], None], address: int, size: int) -> None:
        self._apart -= size
        with contextlib.suppress(self._cupy.cuda.runtime.CUDARuntimeError):  # the device may be gone already
            call(address)

    def upload(self, to: int, data: NDArray[Any]) -> None:
        array = np.require(data, requirements="C")
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(to, array.ctypes.data, array.nbytes, runtime.memcpyHostToDevice, self._stream.ptr)
        self._stream.synchronize()  # the array is the caller's again

    def download(self, of: int, into: NDArray[Any]) -> None:
        if not into.flags.c_contiguous or not into.flags.writeable:
            raise ValueError("takes a writeable array in C order")
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(into.ctypes.data, of, into.nbytes, runtime.memcpyDeviceToHost, self._stream.ptr)
        self.wait()

    def copy(self, to: int, of: int, size: int) -> None:
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(to, of, size, runtime.memcpyDeviceToDevice, self._stream.ptr)

    def load(self, source: str, arch: str = "") -> _Module:
        if source not in self._modules:
            path = self._compiled(source, arch or self._arch)
            try:
                module = self._cupy.RawModule(path=str(path))
                module.compile()  # loads it now
                self._modules[source] = _Module(module)
            except Exception as error:
                raise DeviceError(f"the driver does not load what was compiled for {arch or self._arch}: {error}") from None
        return self._modules[source]

    @cached_property
    def _arch(self) -> str:
        """What is compiled for: this device (sm_90: machine code), or the newest that NVRTC knows (compute_90: the driver makes it machine code)."""
        own, known = int(self.description.arch.removeprefix("sm_")), self._cupy.cuda.nvrtc.getSupportedArchs()
        return f"sm_{own}" if own in known else f"compute_{max((arch for arch in known if arch < own), default=own)}"

    def _compiled(self, source: str, arch: str) -> Path:
        """A file of machine code or PTX. (CuPy's own way looks for headers by starting a process, which an engine that is shut in may not, and knows
        no architecture with an `a`.)"""
        nvrtc = self._cupy.cuda.nvrtc
        options = (*OPTIONS, f"--gpu-architecture={arch}")
        words = "\0".join([*options, str(nvrtc.getVersion()), source])
        folder, name = cache_folder(), hashlib.sha256(words.encode()).hexdigest()[:24]
        target = folder / f"cuda-{name}.{'ptx' if arch.startswith('compute') else 'cubin'}"
        if target.exists():
            return target
        with locked(folder / f"lock-{name[:2]}"):  # ranks begin with the same kernels: one of them compiles each
            if not target.exists():
                self._compile(source, options, target)
        return target

    def _compile(self, source: str, options: tuple[str, ...], target: Path) -> None:
        nvrtc = self._cupy.cuda.nvrtc
        program = nvrtc.createProgram(source, "kernels.cu", (), ())
        try:
            nvrtc.compileProgram(program, options)
            code = nvrtc.getPTX(program) if target.suffix == ".ptx" else nvrtc.getCUBIN(program)
        except nvrtc.NVRTCError:
            raise DeviceError(_first(nvrtc.getProgramLog(program))) from None
        finally:
            nvrtc.destroyProgram(program)
        handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=target.suffix)
        with os.fdopen(handle, "wb") as file:
            file.write(code)
        os.replace(temporary, target)

    def prepare(self, texts: Sequence[tuple[str, str]]) -> None:
        """NVRTC compiles on several threads at once."""

        def one(text: tuple[str, str]) -> None:
            self._device.use()  # CuPy's current device is a thread's own
            with contextlib.suppress(Exception):
                self.load(*text)

        missing = [text for text in dict.fromkeys(texts) if text[0] not in self._modules]
        if missing:
            with ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as pool:
                list(pool.map(one, missing))

    def library(self) -> Kernel | None:
        return self._cublas

    @cached_property
    def _cublas(self) -> _Library | None:
        try:
            return _Library(self)
        except (DeviceError, OSError, MemoryError) as error:
            log.info("products are not made by cuBLAS: %s", error)
            return None

    def launch(self, launch: Launch) -> None:
        kernel, grid, block, arguments, shared = launch
        if isinstance(kernel, _Library):
            kernel.run(*arguments)
            return
        assert isinstance(kernel, _Kernel)
        if shared > kernel.shared:
            kernel.function.max_dynamic_shared_size_bytes = shared
            kernel.shared = shared
        words = tuple(np.uint64(int(a) & (1 << 64) - 1) for a in arguments)
        kernel.function(grid, block, words, shared_mem=shared, stream=self._stream)

    @contextlib.contextmanager
    def record(self) -> Iterator[_Graph]:
        graph = _Graph(self._stream)
        self._stream.begin_capture()
        try:
            yield graph
        finally:
            graph.captured = self._stream.end_capture()

    def wait(self) -> None:
        try:
            self._stream.synchronize()
        except self._cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(str(error)) from None

    def array(self, address: int, shape: Sequence[int], dtype: str, owner: Buffer) -> Any:
        """Memory of the device as a CuPy array, without a copy; torch.from_dlpack makes a tensor of it, without one either."""
        memory = self._cupy.cuda.UnownedMemory(address, owner.size - (address - owner.address), owner)
        return self._cupy.ndarray(tuple(shape), np.dtype(dtype), self._cupy.cuda.MemoryPointer(memory, 0))
