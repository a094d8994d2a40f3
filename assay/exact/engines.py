"""Which engine computes: a CUDA device where there is one that gives the specified bits, otherwise the CPU.

ASSAY_DEVICE = auto (the default) | cpu | cuda | fake. `auto` takes the first CUDA device once it has passed all cases of the conformance
set and a training as large as real ones; that is remembered for this device, driver and version of the kernels. `cuda` takes it untried: the
examination does that. `fake` is the device of assay.exact.cuda.fake, for tests. Of the device's memory they take what the owner gives
(assay.exact.cuda.budget).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from numpy.typing import NDArray

from assay.exact.cpu import Cpu, Inputs
from assay.exact.cuda.budget import granted
from assay.exact.cuda.device import HERE, Description, Device, DeviceError
from assay.exact.native.build import NativeError, cache_folder
from assay.exact.offload import Store
from assay.ids import Digest
from assay.program import Program, ProgramError

if TYPE_CHECKING:
    from assay.exact.cuda.ruler import Fit

log = logging.getLogger("assay.exact")
VARIABLE = "ASSAY_DEVICE"
CHOICES = ("auto", "cpu", "cuda", "fake")
UNLIMITED = 1 << 62
"""Bytes."""


class Engine(Protocol):
    """What runs the parts of one program."""

    @property
    def route(self) -> str: ...

    def run(self, part: str, inputs: Inputs, spent: Collection[str] = ()) -> dict[str, NDArray[Any]]: ...

    def trace(self, part: str, inputs: Inputs) -> tuple[dict[str, NDArray[Any]], list[Digest]]: ...


class Stays(Protocol):
    """A training that stays where an engine computes: on a device (assay.exact.cuda.resident), or with ranks (assay.exact.ranks.held)."""

    def put(self, state: Mapping[str, NDArray[Any]], frozen: Mapping[str, NDArray[Any]] | None = None) -> None:
        """The state before the next step, and the tensors that no step changes. Raises BadTensors."""
        ...

    def state(self) -> dict[str, NDArray[Any]]: ...

    def accumulator(self, *names: str) -> dict[str, NDArray[Any]]:
        """Those entries, or all."""
        ...

    def micros(self, number: int, count: int, batch: Callable[[int], Mapping[str, NDArray[Any]]], rooted: bool = True) -> list[dict[str, Digest]]:
        """Begins step `number` and adds its first `count` micro-batches; the tensor roots of the accumulator after each, if asked for."""
        ...

    def update(self, number: int, scalars: Mapping[str, NDArray[Any]]) -> dict[str, Digest]:
        """The state after step `number`, whose micro-batches are all in the accumulator: its tensor roots."""
        ...


@runtime_checkable
class Keeps(Protocol):
    """An engine that can keep a training where it computes, away from this process's memory."""

    def resident(self) -> Stays:
        """Stays as long as somebody holds it. Raises MemoryError."""
        ...


class Opened(NamedTuple):
    """A device and what goes with it."""

    device: Device
    kernels: Any
    """maps.Kernels, of the device."""
    products: Any
    """product.Products, of the device: on a real one by what was measured to be fastest."""


def chosen() -> str:
    """What ASSAY_DEVICE asks for. Raises ValueError for what there is not."""
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted not in CHOICES:
        raise ValueError(f"{VARIABLE}={wanted}: one of {', '.join(CHOICES)}")
    return wanted


def engine(program: Program, threads: int = 1, effort: int = 0, store: Store | None = None, memory: int = UNLIMITED) -> Engine:
    """What is made again to save this machine's memory (`effort`, assay.exact.recompute) is the processor's alone; a device finds what saves its
    own, and takes none of this machine's for activations. Where a device has no room for a state, part of it lies here, within `memory` bytes, or,
    like what links give, in mapped files (`store`, assay.exact.offload). Raises DeviceError where a device is asked for that cannot be used,
    ProgramError for a program that no engine here can run."""
    wanted = chosen()
    if wanted in ("cuda", "fake") and store is None:
        return _on(wanted, program, _fit(wanted, program, memory, store), threads, effort, store)
    kind = "cuda" if wanted == "auto" and device() is not None else wanted
    if kind not in ("auto", "cpu"):
        try:
            limit = room(opened := _open(kind))
            if (fit := _fit(kind, program, memory, store)).bytes <= limit:
                return _on(kind, program, fit, threads, effort, store)
            name = opened.device.description.name
            log.warning("this program runs on the CPU: it would take %d bytes of %s, of which %d may be taken", fit.bytes, name, limit)
        except (ProgramError, DeviceError, MemoryError) as error:
            log.warning("this program runs on the CPU: %s", error)
    return Cpu(program, threads, effort, store)


def opened() -> Opened | None:
    """The device that programs run on here; None: they run on the processor. Raises DeviceError where one is asked for that cannot be used."""
    wanted = chosen()
    if wanted in ("cuda", "fake"):
        return _open(wanted)
    return _open("cuda") if wanted == "auto" and device() is not None else None


def room(of: Opened) -> int:
    """Bytes of a device's memory that a program may take."""
    return of.device.budget.limit


def admit(program: Program, memory: int = UNLIMITED, store: Store | None = None) -> None:
    """Raises ProgramError for a program that takes more memory than may be had of a device that was asked for by name; with `auto` it runs on
    the CPU."""
    if (wanted := chosen()) in ("cuda", "fake"):
        limit = room(_open(wanted))
        if (needs := _fit(wanted, program, memory, store).bytes) > limit:
            helped = "with activations computed again and what can be of its state on the host as well"
            raise ProgramError(f"it needs {needs} bytes of the GPU's memory, {helped}; the limit here is {limit}")


def _fit(kind: str, program: Program, memory: int, store: Store | None) -> Fit:
    from assay.exact.cuda.ruler import Host, fitting

    device = _open(kind).device
    return fitting(program, device.description, device.budget.limit, Host(memory, store))


def _on(kind: str, program: Program, fit: Fit, threads: int, effort: int, store: Store | None) -> Engine:
    from assay.exact.cuda.engine import Cuda
    from assay.exact.cuda.parts import Parts
    from assay.exact.cuda.ruler import Host
    from assay.exact.cuda.staying import Staying

    opened = _open(kind)
    if not fit.staying:
        return Cuda(program, opened.device, opened.kernels, opened.products, fit.slices, fit.effort)
    parts = Parts(program, opened.device, opened.kernels, opened.products, fit.slices, fit.effort)
    apart = Host(UNLIMITED, store).apart(program) if fit.host else None
    log.info("trainings of this program stay on the device, with %d bytes of the state on the host; links one by one run on the CPU", fit.host)
    return Staying(parts, lambda: Cpu(program, threads, effort, store), apart, store)


@cache
def _open(kind: str) -> Opened:
    """The device of this process, with its compiled kernels."""
    from assay.exact.cuda.choice import Choices
    from assay.exact.cuda.fake import Fake
    from assay.exact.cuda.gpu import Gpu
    from assay.exact.cuda.maps import Kernels
    from assay.exact.cuda.product import Products

    opened: Device = Fake(grant=granted) if kind == "fake" else Gpu(grant=granted)
    return Opened(opened, Kernels(opened), Products(opened, None if kind == "fake" else Choices(opened).way))


def prepare(kind: str, programs: Sequence[Program]) -> None:
    """Compiles what the parts of many programs will want of a device in one go: each compilation by itself takes a second."""
    from assay.exact.cuda import attend
    from assay.exact.cuda.parts import constants_of
    from assay.exact.cuda.plans import plan_for
    from assay.exact.cuda.rows import texts

    opened = _open(kind)
    of, parts = opened.device.description, [(p, part) for p in programs for part in (p.micro, p.update)]
    plans = [plan_for(part, constants_of(p), p.gemm_bits, of, opened.products, trace) for p, part in parts for trace in (False, True)]
    opened.kernels.compile(texts(plans))
    attend.compiled(opened.kernels, attend.kernels(plans, of))


def why_not() -> str | None:
    """None where there is a CUDA device; otherwise what is missing. Quick where CuPy is not installed, or no driver."""
    if find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'assay[gpu]'"
    from assay.exact.cuda import gpu

    return gpu.available()


@cache
def device() -> Description | None:
    """The CUDA device that `auto` takes: None, with a line in the log that says why, where there is none to be trusted."""
    if reason := why_not():
        log.debug("exact arithmetic runs on the CPU: %s", reason)
        return None
    try:
        found = _open("cuda").device.description
        if not _admitted(found):
            log.error("%s gives other bits than the specification: it is not used (assay doctor --conformance says where)", found.name)
            return None
    except (DeviceError, MemoryError) as error:
        log.warning("exact arithmetic runs on the CPU, since the CUDA device failed: %s", error)
        return None
    log.info("exact arithmetic runs on %s (driver %s, %s)", found.name, found.driver, found.arch)
    return found


def _admitted(found: Description) -> bool:
    """Whether the device has passed, now or in an earlier process."""
    digest = hashlib.sha256(json.dumps(found).encode())
    for path in sorted(HERE.iterdir()):
        if path.is_file():
            digest.update(path.read_bytes())
    try:
        mark = cache_folder() / f"admitted-{digest.hexdigest()[:24]}"
    except NativeError:
        mark = None
    if mark is not None and mark.exists():
        return True
    from assay.exact import examination

    log.info("testing the arithmetic of %s, once", found.name)
    route = examination.Route(examination.CUDA, 1)
    if examination.operators(route) or examination.large(route):
        return False
    if mark is not None:
        mark.touch()
    return True
