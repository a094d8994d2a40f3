"""What engines hold of this machine's GPUs, as the driver counts it: the limit from outside, for an engine that keeps to none of its own.

An engine gives out no more than the owner's limit (assay.exact.cuda.budget); one that a stranger has taken over may ask the driver itself. So the
daemon looks at what the driver says that its engines hold, on all GPUs together, and ends the one that holds most when that is more than the
limit and CONTEXT for each of them. Between two looks it can hold more. Where the driver does not say it there is the engine's own limit
alone, and the log says so: under WSL, where a GPU is divided (MIG), and in a container, whose processes have other numbers than the driver's.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from assay.exact.cuda.budget import bytes_of

CONTEXT = 1 << 30
"""Bytes that an engine holds beside what it gives out: the driver's context, kernels, a library's work memory. Not measured; hundreds of
megabytes are what is told of contexts with cuBLAS."""
FIRST_NAMESPACE = 0xEFFFFFFC
"""Inode of the machine's own namespace of process ids (PROC_PID_INIT_INO, include/linux/proc_ns.h)."""


class Unseen(Exception):
    """What an engine holds cannot be seen from here; says why."""


class GpuUse(NamedTuple):
    limit: int
    """Bytes that engines may hold together, beside CONTEXT each."""
    held: Callable[[Collection[int]], dict[int, int]]
    """Bytes that each of these processes, with those below it, holds. Raises Unseen."""
    unseen: Callable[[str], None]
    """Told, once for each reason, that it cannot be seen."""

    def over(self, held: dict[int, int]) -> int | None:
        """Which process has to end, if they hold too much: the one that holds most."""
        holding = {pid: size for pid, size in held.items() if size}
        if sum(holding.values()) <= self.limit + CONTEXT * len(holding):
            return None
        return max(holding, key=holding.__getitem__)


def namespace() -> int:
    """Of this process's ids."""
    return os.stat("/proc/self/ns/pid").st_ino


def why_unseen(nvml: Any, space: Callable[[], int] = namespace) -> str:
    """Why the driver's numbers are of no use here; nothing when they are. `nvml` is open."""
    try:
        if space() != FIRST_NAMESPACE:
            return "in a container the driver's process numbers are others"
    except OSError as error:
        return f"this system does not tell where its processes are: {error}"
    for index in range(nvml.nvmlDeviceGetCount()):
        with contextlib.suppress(nvml.NVMLError):  # a GPU that knows no MIG
            if nvml.nvmlDeviceGetMigMode(nvml.nvmlDeviceGetHandleByIndex(index))[0]:
                return f"GPU {index} is divided (MIG)"
    return ""


def held(nvml: Any, pids: Collection[int], space: Callable[[], int] = namespace) -> dict[int, int]:
    """Bytes that each of `pids`, with the processes below it, holds of all GPUs. `nvml`: pynvml or a stand-in. Raises Unseen."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise Unseen(f"NVML: {error}") from None
    try:
        if why := why_unseen(nvml, space):
            raise Unseen(why)
        out = dict.fromkeys(pids, 0)
        for index in range(nvml.nvmlDeviceGetCount()):
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index)):
                if (own := _above(process.pid, pids)) is None:
                    continue
                if process.usedGpuMemory is None:
                    raise Unseen(f"the driver does not tell what a process holds of GPU {index}")
                out[own] += process.usedGpuMemory
        return out
    except nvml.NVMLError as error:
        raise Unseen(f"NVML: {error}") from None
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _above(pid: int, pids: Collection[int]) -> int | None:
    """Which of `pids` a process is, or is started by."""
    import psutil

    if pid in pids:
        return pid
    try:
        return next((above.pid for above in psutil.Process(pid).parents() if above.pid in pids), None)
    except psutil.Error:
        return None


def watched(text: str, unseen: Callable[[str], None]) -> GpuUse | None:
    """For the engines of this machine, by the owner's limit; None without a GPU. Raises ValueError."""
    from assay.adapters.hardware import gpus

    memory = max((gpu.memory for gpu in gpus()), default=0)
    if not memory:
        return None
    import pynvml

    return GpuUse(bytes_of(text, memory), functools.partial(held, pynvml), unseen)
