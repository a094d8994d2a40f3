"""What a run takes: joules of the GPU through NVML, of the processor through RAPL, read while an engine computes.

A device whose meter is missing, cannot be read, or goes away in the middle of a run is not measured: there is no estimate in its place. RAPL
counters are root's on most machines since 2020 (CVE-2020-8694), so few nodes can tell what their processor took.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from assay.codec import Message
from assay.energy import Energy
from assay.engine import LinksRun, RunLinks
from assay.ports import Engine

RAPL = Path("/sys/class/powercap")
LOOK_EVERY = 1.0
"""Seconds between looks: a RAPL counter wraps after minutes, and power is integrated over these samples."""


class Gone(Exception):
    """A meter that could be read can be read no more."""


class GpuMeter:
    """The device that an engine of this process's children takes: the first that CUDA shows. Raises Gone when there is no telling which that is,
    or it tells nothing. `nvml`: pynvml."""

    def __init__(self, nvml: Any, environment: Mapping[str, str], now: float) -> None:
        self.nvml = nvml
        if environment.get("ASSAY_DEVICE") == "cpu":
            raise Gone("the GPU is left alone")
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise Gone(str(error)) from None
        try:
            self._device = self._taken(environment)
            self.meter = "counter"
            try:
                self._last = self._counter()
            except Gone:
                self.meter, self._last = "power", self._power()
        except (Gone, nvml.NVMLError) as error:
            self.close()
            raise Gone(str(error)) from None
        self._then, self._sum = now, 0.0

    def _taken(self, environment: Mapping[str, str]) -> Any:
        count = self.nvml.nvmlDeviceGetCount()
        first = environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        if first.startswith("GPU-"):
            return self.nvml.nvmlDeviceGetHandleByUUID(first)
        if not first.isdecimal() or int(first) >= count:
            raise Gone(f"no whole GPU is called {first!r}")  # none, or a part of one (MIG), which has no meter of its own
        handles = [self.nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        like = len({self.nvml.nvmlDeviceGetName(handle) for handle in handles}) == 1
        if not like and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            raise Gone("CUDA numbers unlike GPUs by their speed, NVML by their slot: CUDA_DEVICE_ORDER=PCI_BUS_ID makes these one")
        return handles[int(first)]

    def _asked(self, what: Callable[[Any], Any]) -> float:
        try:
            return float(what(self._device))
        except self.nvml.NVMLError as error:
            raise Gone(str(error)) from None

    def _counter(self) -> float:
        return self._asked(self.nvml.nvmlDeviceGetTotalEnergyConsumption)

    def _power(self) -> float:
        return self._asked(self.nvml.nvmlDeviceGetPowerUsage)

    def look(self, now: float) -> None:
        """Raises Gone."""
        if self.meter == "counter":
            shown = self._counter()
            if shown < self._last:
                raise Gone("the driver was loaded anew")
            self._sum += shown - self._last
        else:  # milliwatts: the trapezium between two samples
            shown = self._power()
            self._sum += (shown + self._last) / 2 * (now - self._then)
        self._last, self._then = shown, now

    @property
    def millijoules(self) -> int:
        return round(self._sum)

    def close(self) -> None:
        with contextlib.suppress(self.nvml.NVMLError):
            self.nvml.nvmlShutdown()


class CpuMeter:
    """All packages, with their memory where that has a counter of its own. Raises Gone."""

    meter = "rapl"

    def __init__(self, root: Path) -> None:
        self._zones: dict[Path, int] = {}
        self._micro = 0
        for zone in sorted(root.glob("intel-rapl:*")):
            name = self._text(zone / "name") if (zone / "name").exists() else ""
            if name.startswith("package") or name == "dram":
                self._zones[zone] = self._number(zone / "energy_uj")
        if not self._zones:
            raise Gone("there are no RAPL counters")

    def _text(self, path: Path) -> str:
        try:
            return path.read_text().strip()
        except OSError as error:
            raise Gone(str(error)) from None

    def _number(self, path: Path) -> int:
        text = self._text(path)
        if not text.isdecimal():
            raise Gone(f"{path} holds {text[:40]!r}")
        return int(text)

    def look(self, now: float) -> None:
        """Raises Gone."""
        for zone, last in self._zones.items():
            shown = self._number(zone / "energy_uj")
            self._micro += shown - last if shown >= last else shown + self._number(zone / "max_energy_range_uj") - last
            self._zones[zone] = shown

    @property
    def millijoules(self) -> int:
        return self._micro // 1000

    def close(self) -> None:
        """Nothing is held."""


class Meters:
    """What there is to read on this machine, from now on. `nvml`: pynvml or a stand-in; `now` in seconds of a clock that never goes back."""

    def __init__(self, nvml: Any, rapl: Path, environment: Mapping[str, str], now: float) -> None:
        self.gpu: GpuMeter | None = None
        self.cpu: CpuMeter | None = None
        with contextlib.suppress(Gone):
            self.gpu = GpuMeter(nvml, environment, now)
        with contextlib.suppress(Gone):
            self.cpu = CpuMeter(rapl)

    def __bool__(self) -> bool:
        return self.gpu is not None or self.cpu is not None

    def look(self, now: float) -> None:
        try:
            if self.gpu is not None:
                self.gpu.look(now)
        except Gone:
            self.gpu = self._left(self.gpu)
        try:
            if self.cpu is not None:
                self.cpu.look(now)
        except Gone:
            self.cpu = None

    @staticmethod
    def _left(gpu: GpuMeter | None) -> None:
        if gpu is not None:
            gpu.close()

    def told(self, steps: int) -> Energy | UnsetType:
        """What was counted so far; UNSET when nothing was, or no step was computed meanwhile."""
        if not self or not steps:
            return UNSET
        gpu, cpu = self.gpu, self.cpu
        return Energy(
            gpu_meter="" if gpu is None else "counter" if gpu.meter == "counter" else "power", gpu=gpu.millijoules if gpu else 0,
            cpu_meter="rapl" if cpu else "", cpu=cpu.millijoules if cpu else 0, steps=steps,
        )  # fmt: skip

    def close(self) -> None:
        self._left(self.gpu)


def here() -> Meters:
    """Those of this machine."""
    import pynvml

    return Meters(pynvml, RAPL, os.environ, time.monotonic())


class Metered:
    """Implements assay.ports.Engine: `engine`, on this machine, with what each run of a segment took. `open_meters` gives others, for tests."""

    def __init__(self, engine: Engine, open_meters: Callable[[], Meters] = here) -> None:
        self.engine, self._open = engine, open_meters

    async def run(self, task: Message, folder: Path, progress: Callable[[Message], None]) -> Message:
        """As the engine's. Whatever that says of energy itself is not taken: it has no meters."""
        if not isinstance(task, RunLinks):
            return await self.engine.run(task, folder, progress)
        meters, over = await asyncio.to_thread(self._open), asyncio.Event()
        watch = asyncio.create_task(self._watch(meters, over)) if meters else None
        try:
            result = await self.engine.run(task, folder, progress)
        finally:
            over.set()
            if watch:
                await watch
            meters.close()
        return msgspec.structs.replace(result, energy=meters.told(result.computed)) if isinstance(result, LinksRun) else result

    @staticmethod
    async def _watch(meters: Meters, over: asyncio.Event) -> None:
        """Looks now and then, and once more when it is over."""
        last = False
        while not last:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await over.wait()
            last = over.is_set()
            await asyncio.to_thread(meters.look, time.monotonic())

    def expect(self, folder: Path) -> None:
        self.engine.expect(folder)

    async def close(self) -> None:
        await self.engine.close()
