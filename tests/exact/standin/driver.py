"""A stand-in for NVIDIA's driver, its runtime and cuBLAS, of the functions that CuPy calls for `gpu.Gpu`. Memory is in files without a name, which
other processes open by their handles; kernels are run by the fake device (assay.exact.cuda.fake), from the source that was compiled.

It keeps to what CUDA's documentation says, where that is strict: work of a stream is done as late as it may be, at a wait; a copy of pageable memory
at once; nothing that waits or allocates is allowed while a stream is captured; more shared memory than 48 KiB wants the function's
attribute; copies stay within one allocation; a handle is another process's.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import traceback
from collections.abc import Callable
from ctypes import c_int, c_size_t
from pathlib import Path
from struct import pack, unpack_from
from typing import Any, NamedTuple

from assay.exact.cuda import fake
from tests.exact.standin.parts import CAPTURED, Memory, Refused, Stream, Work

OK, INVALID, MEMORY, FAULT, UNKNOWN = 0, 1, 2, 700, 999
"""cudaError_t, and CUresult, which has the same numbers for these."""
SHARED = 48 << 10
TOTAL = 2 << 30
"""Bytes of memory that it says it has."""
PROCESSORS, CACHE = 2, 4 << 20
OF_PROPERTIES = {"totalGlobalMem": 288, "major": 360, "minor": 364, "multiProcessorCount": 388, "l2CacheSize": 616}
"""Offsets in cudaDeviceProp (driver_types.h of CUDA 12), which has 1032 bytes."""
ATTRIBUTES = {75: "major", 76: "minor", 16: "processors"}
"""cudaDeviceAttr."""
MAX_DYNAMIC_SHARED = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
HANDLE = 64
"""Bytes of a cudaIpcMemHandle_t."""


class Function(NamedTuple):
    kernel: fake._Kernel
    attributes: dict[int, int]


class Driver:
    """`capability`: 90 for Hopper. `calls` counts each function's. `log`: a file to which calls of handles are written, for processes that are
    killed."""

    def __init__(self, capability: int = 80, peers: bool = True, cublas: bool = True, log: str = "") -> None:
        self.log = log
        self.cublas = cublas
        self.numbers = {"major": capability // 10, "minor": capability % 10, "processors": PROCESSORS}
        self.peers = peers
        self.calls: dict[str, int] = {}
        self.refusals: list[str] = []
        self.texts = threading.local()
        """`source`: what a thread that loads a module had compiled."""
        self._device = fake.Fake(TOTAL)
        self._streams: dict[int, Stream] = {0: Stream()}
        self._events: dict[int, tuple[Stream, int]] = {}
        self._memory: dict[int, Memory] = {}
        self._pinned: dict[int, Any] = {}
        self._peer: dict[int, Memory] = {}
        self._modules: dict[int, tuple[bytes, str]] = {}
        self._functions: dict[int, Function] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._next = 0x1000

    # ---- the runtime -----------------------------------------------------------------------------------------------------

    def cudaGetDeviceCount(self, count: Any) -> None:
        count[0] = 1

    def cudaGetDevice(self, device: Any) -> None:
        device[0] = 0

    def cudaSetDevice(self, device: int) -> None:
        if device:
            raise Refused(101, f"device {device}")

    def cudaDriverGetVersion(self, version: Any) -> None:
        version[0] = 12090

    def cudaRuntimeGetVersion(self, version: Any) -> None:
        version[0] = 12090

    def cudaDeviceGetAttribute(self, value: Any, which: int, device: int) -> None:
        if which not in ATTRIBUTES:
            raise Refused(INVALID, f"attribute {which}")
        value[0] = self.numbers[ATTRIBUTES[which]]

    def cudaGetDeviceProperties_v2(self, into: int, device: int) -> None:
        ctypes.memset(into, 0, 1032)
        ctypes.memmove(into, b"stand-in", 8)
        c_size_t.from_address(into + OF_PROPERTIES["totalGlobalMem"]).value = TOTAL
        values = {**self.numbers, "multiProcessorCount": PROCESSORS, "l2CacheSize": CACHE}
        for name in ("major", "minor", "multiProcessorCount", "l2CacheSize"):
            c_int.from_address(into + OF_PROPERTIES[name]).value = values[name]

    def cudaMalloc(self, address: Any, size: int) -> None:
        self._not_captured("an allocation")
        if sum(buffer.size for buffer in self._memory.values()) + size > TOTAL:
            raise Refused(MEMORY, "no memory")
        buffer = Memory(size)
        self._memory[buffer.address] = buffer
        address[0] = buffer.address

    def cudaFree(self, address: int) -> None:
        if not address:
            return
        self._settle_all()
        gone = self._memory.pop(address)
        gone.close()
        if not gone.intact():
            raise Refused(FAULT, "a write outside a buffer")

    def cudaHostAlloc(self, address: Any, size: int, flags: int) -> None:
        raw = ctypes.create_string_buffer(max(size, 1))
        self._pinned[ctypes.addressof(raw)] = raw
        address[0] = ctypes.addressof(raw)

    def cudaFreeHost(self, address: int) -> None:
        self._settle_all()
        del self._pinned[address]

    def cudaMemGetInfo(self, free: Any, total: Any) -> None:
        total[0] = TOTAL
        free[0] = TOTAL - sum(buffer.size for buffer in self._memory.values())

    def cudaMemcpyAsync(self, to: int, of: int, size: int, kind: int, stream: int) -> None:
        for address, side in ((to, DEVICE_TO_HOST), (of, HOST_TO_DEVICE)):
            if kind != side:
                self._inside(address, size)
        on = self._streams[stream]
        pageable = kind in (HOST_TO_DEVICE, DEVICE_TO_HOST) and not self._page_locked(to if kind == DEVICE_TO_HOST else of, size)
        if pageable and on.capture is not None:
            raise Refused(CAPTURED, "a copy of pageable memory is captured")
        on.ask(lambda: ctypes.memmove(to, of, size) and None)
        if pageable:
            on.settle()

    def cudaStreamCreateWithPriority(self, stream: Any, flags: int, priority: int) -> None:
        if flags != 1:
            raise Refused(INVALID, "a stream that waits for the default stream")
        stream[0] = self._named(self._streams, Stream())

    def cudaStreamDestroy(self, stream: int) -> None:
        self._streams.pop(stream).settle()

    def cudaStreamSynchronize(self, stream: int) -> None:
        self._streams[stream].settle()
        self._intact()

    def cudaDeviceSynchronize(self) -> None:
        self._settle_all()
        self._intact()

    def cudaEventCreateWithFlags(self, event: Any, flags: int) -> None:
        event[0] = self._named(self._events, (self._streams[0], 0))

    def cudaEventDestroy(self, event: int) -> None:
        del self._events[event]

    def cudaEventRecord(self, event: int, stream: int) -> None:
        on = self._streams[stream]
        self._events[event] = on, on.asked

    def cudaEventSynchronize(self, event: int) -> None:
        on, count = self._events[event]
        on.until(count)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:
        """What the event's stream had been asked for until then is done before whatever comes now. Streams end in no order but this."""
        on, count = self._events[event]
        if on is not self._streams[stream]:
            self._streams[stream].ask(lambda: on.until(count))

    def cudaStreamIsCapturing(self, stream: int, state: Any) -> None:
        state[0] = int(self._streams[stream].capture is not None)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> None:
        if self._streams[stream].capture is not None or not stream:
            raise Refused(CAPTURED, "this stream cannot be captured")
        self._streams[stream].capture = []

    def cudaStreamEndCapture(self, stream: int, graph: Any) -> None:
        on = self._streams[stream]
        if on.capture is None:
            raise Refused(CAPTURED, "it is not captured")
        graph[0] = self._named(self._graphs, on.capture)
        on.capture = None

    def cudaGraphInstantiate(self, made: Any, graph: int, flags: int) -> None:
        made[0] = self._named(self._graphs, list(self._graphs[graph]))

    def cudaGraphLaunch(self, graph: int, stream: int) -> None:
        for work in self._graphs[graph]:
            self._streams[stream].ask(work)

    def cudaGraphDestroy(self, graph: int) -> None:
        del self._graphs[graph]

    def cudaGraphExecDestroy(self, graph: int) -> None:
        del self._graphs[graph]

    def cudaGraphUpload(self, graph: int, stream: int) -> None:
        pass

    def cudaPointerGetAttributes(self, into: int, address: int) -> None:
        """cudaPointerAttributes: kind, device, the device's and the host's address."""
        self._inside(address, 1)
        for at, value in ((0, 2), (8, address), (16, 0)):
            c_size_t.from_address(into + at).value = value

    def cudaIpcGetMemHandle(self, handle: int, address: int) -> None:
        if address not in self._memory:
            raise Refused(INVALID, "not the beginning of an allocation")
        words = os.getpid(), self._memory[address].descriptor, self._memory[address].size
        ctypes.memmove(handle, pack("<QQQ40x", *words), HANDLE)

    def cudaIpcOpenMemHandle(self, address: Any, handle: Any, flags: int) -> None:
        owner, descriptor, size = unpack_from("<QQQ", bytes(handle.bytes))
        if not self.peers or flags != 1:  # cudaIpcMemLazyEnablePeerAccess
            raise Refused(217, "peers are not opened")
        if owner == os.getpid():
            raise Refused(201, "this process's own memory")
        there = Memory(size, (owner, descriptor))
        self._peer[there.address] = there
        address[0] = there.address

    def cudaIpcCloseMemHandle(self, address: int) -> None:
        self._peer.pop(address).close()

    # ---- the driver ------------------------------------------------------------------------------------------------------

    def cuCtxGetCurrent(self, context: Any) -> None:
        context[0] = 1

    def cuCtxGetDevice(self, device: Any) -> None:
        device[0] = 0

    def cuModuleLoad(self, module: Any, path: bytes) -> None:
        module[0] = self._named(self._modules, (Path(path.decode()).read_bytes(), self.texts.source))

    def cuModuleUnload(self, module: int) -> None:
        del self._modules[module]

    def cuModuleGetFunction(self, function: Any, module: int, name: bytes) -> None:
        code, source = self._modules[module]
        if not any(mark in code for mark in (b"\0.text." + name + b"\0", b".entry " + name + b"(")):  # machine code, PTX
            raise Refused(500, f"no {name.decode()} in this module")
        kernel = self._device.load(source).kernel(name.decode())
        assert isinstance(kernel, fake._Kernel)
        function[0] = self._named(self._functions, Function(kernel, {MAX_DYNAMIC_SHARED: SHARED}))

    def cuFuncSetAttribute(self, function: int, which: int, value: int) -> None:
        if which != MAX_DYNAMIC_SHARED or value > 227 << 10:
            raise Refused(INVALID, f"attribute {which} = {value}")
        self._functions[function].attributes[which] = value

    def cuFuncGetAttribute(self, value: Any, which: int, function: int) -> None:
        value[0] = self._functions[function].attributes[which]

    def cuLaunchKernel(
        self, function: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: int, parameters: Any, extra: int
    ) -> None:
        kernel, attributes = self._functions[function]
        if not (0 < bx * by * bz <= 1024 and 0 < gx < 1 << 31 and 0 < gy < 1 << 16 and 0 < gz < 1 << 16):
            raise Refused(INVALID, f"{kernel.name}: a grid {gx, gy, gz} of {bx, by, bz}")
        if shared > attributes[MAX_DYNAMIC_SHARED]:
            raise Refused(INVALID, f"{kernel.name}: {shared} bytes of shared memory")
        words = (ctypes.c_uint64 * max(1, kernel.parameters))(*(ctypes.c_uint64.from_address(parameters[i]).value for i in range(kernel.parameters)))
        grid, block = (ctypes.c_uint32 * 3)(gx, gy, gz), (ctypes.c_uint32 * 3)(bx, by, bz)

        def run() -> None:
            if message := kernel.run(words, grid, block, shared, fake.Order.BY_TURNS):
                raise Refused(FAULT, f"{kernel.name}: {message.decode()}")

        self._streams[stream].ask(run)

    # ---- cuBLAS ----------------------------------------------------------------------------------------------------------

    def cublasCreate_v2(self, handle: Any) -> None:
        handle[0] = self._named(self._streams, self._streams[0])

    def cublasSetStream_v2(self, handle: int, stream: int) -> None:
        self._streams[handle] = self._streams[stream]

    def cublasSetWorkspace_v2(self, handle: int, address: int, size: int) -> None:
        self._inside(address, size)

    def cublasGemmEx(
        self, handle: int, ta: int, tb: int, m: int, n: int, k: int, alpha: Any, a: int, of_a: int, lda: int, b: int, of_b: int, ldb: int,
        beta: Any, c: int, of_c: int, ldc: int, compute: int, algorithm: int,
    ) -> None:  # fmt: skip
        """C[m, n] = A^T[m, k] B[k, n], matrices by columns, of int8 into int32: what the documentation lists as supported of these types."""
        if (ta, tb, of_a, of_b, of_c, compute) != (1, 0, 3, 3, 10, 72) or (alpha[0], beta[0]) != (1, 0) or lda % 4 or ldb % 4:
            raise Refused(15, "not supported")
        for address, rows, size, item in ((a, lda, m, 1), (b, ldb, n, 1), (c, ldc, n, 4)):
            self._inside(address, rows * size * item)
        assert (lda, ldb, ldc) == (k, k, m)
        self._streams[handle].ask(lambda: fake._Library().run(b, a, c, n, m, k))

    # ---- what they have in common ----------------------------------------------------------------------------------------

    def _named(self, among: dict[int, Any], what: Any) -> int:
        self._next += 16
        among[self._next] = what
        return self._next

    def _not_captured(self, what: str) -> None:
        if any(stream.capture is not None for stream in self._streams.values()):
            raise Refused(CAPTURED, f"{what} while a stream is captured")

    def _settle_all(self) -> None:
        self._not_captured("a wait for the device")
        for stream in self._streams.values():
            stream.settle()

    def _intact(self) -> None:
        if not all(buffer.intact() for buffer in self._memory.values()):
            raise Refused(FAULT, "a write outside a buffer")

    def _inside(self, address: int, size: int) -> None:
        if not any(at <= address and address + size <= at + buffer.size for at, buffer in (*self._memory.items(), *self._peer.items())):
            raise Refused(INVALID, f"{size} bytes at {address:#x} are in no allocation")

    def _page_locked(self, address: int, size: int) -> bool:
        return any(at <= address and address + size <= at + len(raw) for at, raw in self._pinned.items())

    def called(self, name: str) -> Callable[..., int]:
        """As the foreign function that C calls."""

        def call(*arguments: Any) -> int:
            self.calls[name] = self.calls.get(name, 0) + 1
            if self.log and "Ipc" in name:
                with open(self.log, "a") as file:
                    file.write(f"{name}\n")
            try:
                getattr(self, name)(*(argument or 0 if isinstance(argument, int | None) else argument for argument in arguments))
            except Refused as refused:
                self.refusals.append(f"{name}: {refused}")
                return refused.code
            except BaseException:
                traceback.print_exc()
                self.refusals.append(f"{name}: {sys.exc_info()[1]!r}")
                return UNKNOWN
            return OK

        return call
