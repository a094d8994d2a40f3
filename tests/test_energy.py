"""Energy: meters are read, and what cannot be read is not made up; a provider's claim travels in its commitment and comes back out of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from assay import energy
from assay.adapters.meters import Metered, Meters
from assay.codec import Message, decode, encode
from assay.energy import Energy
from assay.engine import CheckFile, JobFiles, LinksRun, RunLinks
from assay.ids import Digest
from assay.threshold import size

CLAIM = Energy(gpu_meter="counter", gpu=5_000, cpu_meter="rapl", cpu=250, steps=4)


class Nvml:
    """The part of pynvml that is used: cards by name, with a counter and a power that tests turn."""

    class NVMLError(Exception):
        pass

    def __init__(self, names: tuple[str, ...] = ("A",), has_counter: bool = True) -> None:
        self.names, self.has_counter, self.open = names, has_counter, 0
        self.counter = dict.fromkeys(range(len(names)), 1_000)
        self.power, self.gone = 0, False

    def nvmlInit(self) -> None:
        if not self.names:
            raise self.NVMLError("no driver")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid != "GPU-1":
            raise self.NVMLError("not found")
        return 1

    def nvmlDeviceGetName(self, device: int) -> str:
        return self.names[device]

    def nvmlDeviceGetTotalEnergyConsumption(self, device: int) -> int:
        if self.gone or not self.has_counter:
            raise self.NVMLError("not supported")
        return self.counter[device]

    def nvmlDeviceGetPowerUsage(self, device: int) -> int:
        if self.gone:
            raise self.NVMLError("lost")
        return self.power


def zone(root: Path, number: str, name: str, micro: int, most: int = 10**9) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    for file, text in (("name", name), ("energy_uj", str(micro)), ("max_energy_range_uj", str(most))):
        (folder / file).write_text(text + "\n")
    return folder / "energy_uj"


def meters(nvml: Nvml, rapl: Path, **environment: str) -> Meters:
    return Meters(nvml, rapl, environment, 0.0)


# ---- meters --------------------------------------------------------------------------------------------------------------


def test_a_counter_is_read_twice(tmp_path: Path) -> None:
    nvml = Nvml()
    found = meters(nvml, tmp_path)
    nvml.counter[0] += 7_500
    found.look(9.0)
    assert found.told(3) == Energy(gpu_meter="counter", gpu=7_500, cpu_meter="", cpu=0, steps=3)
    assert found.told(0) is UNSET
    found.close()
    assert nvml.open == 0


def test_power_is_integrated_where_there_is_no_counter(tmp_path: Path) -> None:
    nvml = Nvml(has_counter=False)
    nvml.power = 100_000
    found = meters(nvml, tmp_path)
    nvml.power = 300_000
    found.look(2.0)
    found.look(3.0)
    assert found.told(1) == Energy(gpu_meter="power", gpu=700_000, cpu_meter="", cpu=0, steps=1)  # 200 W for 2 s, 300 W for 1 s


def test_packages_and_memory_are_added_up_and_a_counter_may_wrap(tmp_path: Path) -> None:
    one, two = zone(tmp_path, "0", "package-0", 999_000_000), zone(tmp_path, "1", "package-1", 0)
    memory, part = zone(tmp_path, "0:1", "dram", 0), zone(tmp_path, "0:0", "core", 0)
    found = meters(Nvml(()), tmp_path)
    for file, micro in (one, 500_000), (two, 2_000_000), (memory, 300_000), (part, 9_000_000):
        file.write_text(str(micro))
    found.look(1.0)
    assert found.told(2) == Energy(gpu_meter="", gpu=0, cpu_meter="rapl", cpu=1_500 + 2_000 + 300, steps=2)


@pytest.mark.parametrize(
    ("names", "environment", "device"),
    [
        (("A", "A"), {}, 0),
        (("A", "A"), {"CUDA_VISIBLE_DEVICES": "1,0"}, 1),
        (("A", "B"), {"CUDA_VISIBLE_DEVICES": "GPU-1"}, 1),
        (("A", "B"), {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 1),
        (("A", "B"), {}, None),
        (("A",), {"CUDA_VISIBLE_DEVICES": "MIG-7"}, None),
        (("A",), {"CUDA_VISIBLE_DEVICES": ""}, None),
        (("A",), {"CUDA_VISIBLE_DEVICES": "3"}, None),
        (("A",), {"CUDA_VISIBLE_DEVICES": "GPU-9"}, None),
        (("A",), {"ASSAY_DEVICE": "cpu"}, None),
        ((), {}, None),
    ],
)  # fmt: skip
def test_the_device_that_is_measured_is_the_one_that_computes(
    tmp_path: Path, names: tuple[str, ...], environment: dict[str, str], device: int | None
) -> None:
    nvml = Nvml(names)
    found = meters(nvml, tmp_path, **environment)
    for i in nvml.counter:
        nvml.counter[i] += 10 + i
    found.look(1.0)
    said = found.told(1)
    assert (None if isinstance(said, type(UNSET)) else said.gpu) == (None if device is None else 10 + device)
    found.close()
    assert nvml.open == 0


def test_a_meter_that_goes_away_has_measured_nothing(tmp_path: Path) -> None:
    nvml, file = Nvml(), zone(tmp_path, "0", "package-0", 5)
    found = meters(nvml, tmp_path)
    nvml.counter[0] += 10
    file.write_text("2005")
    found.look(1.0)
    nvml.gone = True
    found.look(2.0)
    assert found.told(1) == Energy(gpu_meter="", gpu=0, cpu_meter="rapl", cpu=2, steps=1)
    assert nvml.open == 0
    file.write_text("what?")
    found.look(3.0)
    assert found.told(1) is UNSET


def test_a_driver_that_was_loaded_anew_has_measured_nothing(tmp_path: Path) -> None:
    nvml = Nvml()
    found = meters(nvml, tmp_path)
    nvml.counter[0] = 3
    found.look(1.0)
    assert found.told(1) is UNSET


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_counters_that_only_root_reads_are_not_there(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 5).chmod(0)
    assert not meters(Nvml(()), tmp_path)


# ---- around an engine ----------------------------------------------------------------------------------------------------

FILES = JobFiles(
    folder="job-1", program_root=Digest(bytes(32)), schedule_root=Digest(bytes(32)), scalars=1, micro_batches=1, batch=1, order=Digest(bytes(32)),
    fields=("x",), shard_records=(1,),
)  # fmt: skip
RUN = RunLinks(job=FILES, segment="segment-1", start=0, stop=4, parent_root=Digest(bytes(32)), keep=0)
DONE = LinksRun(
    stop=4, link_root=Digest(bytes(32)), end_root=Digest(bytes(32)), proof=(), first_loss=0, last_loss=0, computed=4, milliseconds=9,
    state="state-4.safetensors",
)  # fmt: skip


class Engine:
    """Takes energy, and would say so itself."""

    def __init__(self, nvml: Nvml, result: Any) -> None:
        self.nvml, self.result = nvml, result

    async def run(self, task: Message, folder: Path, progress: Any) -> Any:
        self.nvml.counter[0] = self.nvml.counter.get(0, 0) + 40
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def expect(self, folder: Path) -> None:
        return

    async def close(self) -> None:
        return


def run(nvml: Nvml, task: Any, result: Any, root: Path) -> Any:
    engine = Metered(Engine(nvml, result), lambda: meters(nvml, root))
    return asyncio.run(engine.run(task, root, lambda _: None))


def test_a_run_of_a_segment_is_measured_and_nothing_else(tmp_path: Path) -> None:
    nvml = Nvml()
    assert run(nvml, RUN, DONE, tmp_path).energy == Energy(gpu_meter="counter", gpu=40, cpu_meter="", cpu=0, steps=4)
    assert run(nvml, CheckFile(folder="job-1", memory=1, flops=1), DONE, tmp_path) is DONE
    with pytest.raises(RuntimeError, match="it broke"):
        run(nvml, RUN, RuntimeError("it broke"), tmp_path)
    assert nvml.open == 0


def test_an_engine_has_no_meters_of_its_own(tmp_path: Path) -> None:
    lies = LinksRun(**{name: getattr(DONE, name) for name in DONE.__struct_fields__} | {"energy": CLAIM})
    assert run(Nvml(()), RUN, lies, tmp_path).energy is UNSET


# ---- the claim -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [80, *(size(t, n) for n in range(1, 17) for t in (1, n))])
def test_a_claim_comes_back_from_behind_every_envelope(length: int) -> None:
    envelope = bytes(range(256)) * 8
    for one in (CLAIM, UNSET):
        assert energy.part(energy.join(envelope[:length], one)) == (envelope[:length], one)


def bent(at: int, value: int) -> bytes:
    data = bytearray(energy.join(b"e" * 80, CLAIM))
    data[at] = value
    return bytes(data)


@pytest.mark.parametrize(
    "data", [b"", b"e", b"e" * 26, bent(80, 0), bent(84, 3), bent(85, 0x80), bent(93, 2), bent(84, 0), energy.join(b"e" * 81, CLAIM)]
)
def test_what_is_no_claim_is_left_to_whoever_opens_the_envelope(data: bytes) -> None:
    assert energy.part(data) == (data, UNSET)


def test_energy_without_a_meter_is_no_message() -> None:
    assert decode(encode(CLAIM), Energy) == CLAIM
    for changes in ({"gpu_meter": ""}, {"cpu_meter": ""}, {"gpu_meter": "", "gpu": 0, "cpu_meter": "", "cpu": 0}):
        with pytest.raises(ValueError, match="no meter"):
            Energy(**{name: getattr(CLAIM, name) for name in CLAIM.__struct_fields__} | changes)
