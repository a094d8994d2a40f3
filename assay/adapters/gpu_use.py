"""What engines hold of this machine's GPUs, as the driver counts it: the limit from outside, for an engine that keeps to none of its own.

An engine gives out no more than the owner's limit (assay.exact.cuda.budget); one that a stranger has taken over may ask the driver itself. So the
daemon looks at what the driver says that its engines hold, each with the ranks that it leads, and ends the one that holds most where that is more
than the limit and CONTEXT for each process: on one GPU, or on all together than as many GPUs give as they were told to use. Which GPU has which
number does not matter then: CUDA's order may be another than the driver's. Between two looks they can hold more. Where the driver does not say
it there is the engine's own limit alone, and the log says so: under WSL, where a GPU is divided (MIG), and in a container, whose processes have
other numbers than the driver's.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from assay.exact.cuda.budget import bytes_of

CONTEXT = 1 << 30
"""Bytes that an engine or a rank holds beside what it gives out: the driver's context, kernels, a library's work memory. Not measured; hundreds of
megabytes are what is told of contexts with cuBLAS."""
FIRST_NAMESPACE = 0xEFFFFFFC
"""Inode of the machine's own namespace of process ids (PROC_PID_INIT_INO, include/linux/proc_ns.h)."""


class Unseen(Exception):
    """What an engine holds cannot be seen from here; says why."""


Held = Mapping[int, Sequence[int]]
"""Bytes of each GPU, in the driver's order, that each of some processes holds."""


class GpuUse(NamedTuple):
    limits: tuple[int, ...]
    """Bytes of each GPU, in the driver's order, that engines may hold together, beside CONTEXT for each process."""
    used: int
    """GPUs that they were told to use; one for engines without ranks."""
    held: Callable[[Collection[int]], Held]
    """What each of these processes, with those below it, holds. Raises Unseen."""
    unseen: Callable[[str], None]
    """Told, once for each reason, that it cannot be seen."""

    def over(self, held: Held, engines: Mapping[int, Sequence[int]]) -> tuple[int, str] | None:
        """Which of `engines`, each with its processes, has to end, if they hold too much, and why: the one that holds most. Raises Unseen."""
        if any(len(sizes) != len(self.limits) for sizes in held.values()):
            raise Unseen("there are other GPUs than when this node was started")
        for gpu, limit in enumerate(self.limits):
            if found := _most({pid: sizes[gpu] for pid, sizes in held.items()}, engines, limit, f"GPU {gpu}"):
                return found
        limit = sum(sorted(self.limits)[-self.used :])
        return _most({pid: sum(sizes) for pid, sizes in held.items()}, engines, limit, "all GPUs")


def _most(held: Mapping[int, int], engines: Mapping[int, Sequence[int]], limit: int, where: str) -> tuple[int, str] | None:
    total = sum(held.values())
    if total <= limit + CONTEXT * sum(size > 0 for size in held.values()):
        return None
    whole = {engine: sum(held[pid] for pid in pids) for engine, pids in engines.items()}
    worst = max(whole, key=whole.__getitem__)
    who = "it holds" if len(engines[worst]) == 1 else "it and its ranks hold"
    all_of_them = f", of {total} of all engines" if whole[worst] < total else ""
    return worst, f"{who} {whole[worst]} bytes of {where}{all_of_them}, and {limit} may be taken; --gpu-memory gives more"


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


def held(nvml: Any, pids: Collection[int], space: Callable[[], int] = namespace) -> Held:
    """What each of `pids`, with the processes below it, holds. `nvml`: pynvml or a stand-in. Raises Unseen."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise Unseen(f"NVML: {error}") from None
    try:
        if why := why_unseen(nvml, space):
            raise Unseen(why)
        count = nvml.nvmlDeviceGetCount()
        out = {pid: [0] * count for pid in pids}
        for index in range(count):
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index)):
                if (own := _above(process.pid, pids)) is None:
                    continue
                if process.usedGpuMemory is None:
                    raise Unseen(f"the driver does not tell what a process holds of GPU {index}")
                out[own][index] += process.usedGpuMemory
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


def watched(text: str, used: int, unseen: Callable[[str], None]) -> GpuUse | None:
    """For the engines of this machine, which use so many GPUs, by the owner's limit; None without a GPU. Raises ValueError."""
    from assay.adapters.hardware import gpus

    found = gpus()
    if not any(gpu.memory for gpu in found):
        return None
    import pynvml

    return GpuUse(tuple(bytes_of(text, gpu.memory) if gpu.memory else 0 for gpu in found), used, functools.partial(held, pynvml), unseen)
