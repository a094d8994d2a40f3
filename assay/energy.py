"""What a provider says that a segment took: joules, as its own machine's meters counted them. A claim, which nothing proves.

It travels behind the key envelope of a commitment, so that it is in the log of the provider's own signed transaction, costs a few hundred gas
and is absent where nothing was measured. An envelope has a length of 0 or 3 modulo 16 (assay.threshold), with the claim one of 10 or 13:

    envelope | "nrg1" | meter of the GPU u8 | millijoules u64 | meter of the processor u8 | millijoules u64 | steps u32      (big-endian)

Meters count whole devices: what else ran on them is in it, and what has no meter (memory, fans, the power supply's loss) is not.
"""

from __future__ import annotations

import struct
from typing import Literal

from msgspec import UNSET, UnsetType

from assay.codec import Message
from assay.ids import U32, U63

GPU_METERS: tuple[Literal["", "counter", "power"], ...] = ("", "counter", "power")
CPU_METERS: tuple[Literal["", "rapl"], ...] = ("", "rapl")
_MAGIC = b"nrg1"
_CLAIM = struct.Struct(">4sBQBQI")
_REST = (10, 13)


class Energy(Message, frozen=True, kw_only=True):
    """Of a segment. A device that was not measured has the meter "" and 0 joules."""

    gpu_meter: Literal["", "counter", "power"]
    """`counter`: NVML's energy counter; `power`: NVML's power, integrated over samples, where a chip has no counter."""
    gpu: U63
    cpu_meter: Literal["", "rapl"]
    """`rapl`: the counters of the processor's packages."""
    cpu: U63
    """Both in millijoules."""
    steps: U32
    """That were computed while this was measured: fewer than the segment's where a run was taken up again after a restart."""

    def __post_init__(self) -> None:
        if not (self.gpu_meter or self.cpu_meter) or (self.gpu and not self.gpu_meter) or (self.cpu and not self.cpu_meter):
            raise ValueError("energy that no meter measured")

    @property
    def joules(self) -> float:
        return (self.gpu + self.cpu) / 1000


def join(envelope: bytes, energy: Energy | UnsetType) -> bytes:
    """What a commitment carries as its key envelope."""
    if isinstance(energy, UnsetType):
        return envelope
    meters = GPU_METERS.index(energy.gpu_meter), CPU_METERS.index(energy.cpu_meter)
    return envelope + _CLAIM.pack(_MAGIC, meters[0], energy.gpu, meters[1], energy.cpu, energy.steps)


def part(data: bytes) -> tuple[bytes, Energy | UnsetType]:
    """The envelope and the claim behind it. What is no claim is left where it is: it is an envelope then, good or bad."""
    if len(data) % 16 not in _REST or len(data) < _CLAIM.size:
        return data, UNSET
    magic, gpu_meter, gpu, cpu_meter, cpu, steps = _CLAIM.unpack(data[-_CLAIM.size :])
    if magic != _MAGIC or gpu_meter >= len(GPU_METERS) or cpu_meter >= len(CPU_METERS) or max(gpu, cpu) >> 63:
        return data, UNSET
    try:
        found = Energy(gpu_meter=GPU_METERS[gpu_meter], gpu=gpu, cpu_meter=CPU_METERS[cpu_meter], cpu=cpu, steps=steps)
    except ValueError:
        return data, UNSET
    return data[: -_CLAIM.size], found
