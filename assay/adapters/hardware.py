"""What a machine has and how it is doing: GPUs through NVML (nvidia-ml-py), processor and memory through psutil.

A field that a device does not tell (a laptop's power limit, ECC on a consumer card) is None. Nothing here ever raises for want of a driver.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from assay.exact.cuda.budget import DEFAULT, bytes_of
from assay.messages import Means

RECENT = 5.0
"""Seconds."""
NOBODY = (0, 6)
"""NVML_SUCCESS, NVML_ERROR_NOT_FOUND: how pynvml and the driver say that no process has taken any of a GPU's time."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One device, as NVML sees it now."""

    index: int
    uuid: str
    name: str
    driver: str
    capability: tuple[int, int] | None
    """Compute capability."""
    memory: int
    used: int
    """Bytes, in all and taken."""
    temperature: int | None
    """Degrees Celsius."""
    power: float | None
    power_limit: float | None
    """Watts."""
    busy: int | None
    """Per cent of the last sampling period in which a kernel ran."""
    ecc: bool | None
    mig: bool | None
    processes: tuple[int, ...]
    """Process ids of those that compute or draw on it."""
    shares: tuple[tuple[int, int], ...] | None = None
    """(process id, per cent of the GPU's time that it has taken in the last RECENT seconds); None where the driver does not tell."""

    @property
    def text(self) -> str:
        """For a person."""
        what = [f"{self.name}, {self.memory / 2**30:.0f} GiB ({self.used / 2**30:.1f} taken)", f"driver {self.driver}"]
        if self.capability:
            what.append("compute {}.{}".format(*self.capability))
        if self.temperature is not None:
            what.append(f"{self.temperature} °C")
        if self.power is not None:
            what.append(f"{self.power:.0f} W" + (f" of {self.power_limit:.0f}" if self.power_limit else ""))
        what += [word for word, on in (("ECC", self.ecc), ("MIG", self.mig)) if on]
        return ", ".join(what) + (f"; used by processes {', '.join(map(str, self.processes))}" if self.processes else "")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The rest of it."""

    cpu: str
    cores: int
    memory: int
    available: int
    """Bytes, in all and to be had now."""
    load: float
    """Average over the last minute."""


def _asked(ask: Callable[[], Any], errors: type[Exception]) -> Any:
    try:
        return ask()
    except errors:
        return None


def gpus(nvml: Any = None) -> tuple[Gpu, ...]:
    """Every GPU that the driver knows; none where there is no driver. `nvml`: another pynvml, for tests."""
    if nvml is None:
        import pynvml

        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        driver = str(nvml.nvmlSystemGetDriverVersion())
        return tuple(_gpu(nvml, i, driver) for i in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:
        return ()
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _shares(nvml: Any, device: Any) -> tuple[tuple[int, int], ...] | None:
    try:
        samples = nvml.nvmlDeviceGetProcessUtilization(device, int((time.time() - RECENT) * 1e6))
    except nvml.NVMLError as error:
        return () if getattr(error, "value", None) in NOBODY else None
    taken: dict[int, int] = {}
    for sample in samples:
        taken[sample.pid] = max(taken.get(sample.pid, 0), sample.smUtil)
    return tuple(sorted(taken.items()))


def _gpu(nvml: Any, index: int, driver: str) -> Gpu:
    device, error = nvml.nvmlDeviceGetHandleByIndex(index), nvml.NVMLError
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    running = [
        process.pid
        for kind in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses)
        for process in _asked(functools.partial(kind, device), error) or ()
    ]
    power = _asked(lambda: nvml.nvmlDeviceGetPowerUsage(device), error)
    limit = _asked(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(device), error)
    busy = _asked(lambda: nvml.nvmlDeviceGetUtilizationRates(device), error)
    ecc = _asked(lambda: nvml.nvmlDeviceGetEccMode(device), error)
    mig = _asked(lambda: nvml.nvmlDeviceGetMigMode(device), error)
    return Gpu(
        index=index, uuid=str(nvml.nvmlDeviceGetUUID(device)), name=str(nvml.nvmlDeviceGetName(device)), driver=driver,
        capability=_asked(lambda: tuple(nvml.nvmlDeviceGetCudaComputeCapability(device)), error), memory=memory.total, used=memory.used,
        temperature=_asked(lambda: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU), error),
        power=None if power is None else power / 1000, power_limit=None if limit is None else limit / 1000,
        busy=None if busy is None else busy.gpu, ecc=None if ecc is None else bool(ecc[0]), mig=None if mig is None else bool(mig[0]),
        processes=tuple(sorted(set(running))), shares=_shares(nvml, device),
    )  # fmt: skip


def machine() -> Machine:
    """This machine, now."""
    import psutil

    found = psutil.virtual_memory()
    return Machine(cpu=_cpu(), cores=os.cpu_count() or 1, memory=found.total, available=found.available, load=os.getloadavg()[0])


def means(most: int, gpu_memory: str = DEFAULT) -> Means:
    """What an engine here computes with: what its owner gives of the largest GPU, unless it is told to leave GPUs alone, else the processor; and no
    more than the `most` bytes that a job may take here, whatever runs it."""
    from assay.program import GEMM_BITS

    found = () if os.environ.get("ASSAY_DEVICE") == "cpu" else gpus()
    largest = max((gpu.memory for gpu in found), default=0)
    memory = bytes_of(gpu_memory, largest) if largest else machine().memory
    return Means(gpu=bool(found), memory=min(most, memory), bits=GEMM_BITS[1])


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
