"""What a worker or verifier computes with: engines of this machine, or with `--ray` a fleet of places (assay.adapters.fleet)."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shlex
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assay.cli.common import Trouble
from assay.ports import Engine
from assay.runtime import Note

if TYPE_CHECKING:
    from assay.adapters.engine_process import Ranks
    from assay.adapters.sandbox import Sandbox
    from assay.cli.node import Options

Ray = Annotated[
    str, typer.Option("--ray", metavar="local|HOST:PORT", help="Run on all GPUs of this machine, or on the machines of a Ray cluster of yours.")
]
Through = Annotated[str, typer.Option("--ray-through", metavar="COMMAND", help="Starts what speaks with Ray, where Ray has its network.")]
Places = Annotated[int, typer.Option("--places", min=0, max=64, help="Segments at once with --ray; 0: one a GPU, or for --threads cores.")]
OFFLOAD = "Whether states that do not fit in --memory may lie in files, within --disk."
Offload = Annotated[str, typer.Option("--offload", metavar="auto|never", help=OFFLOAD)]
COUNT = "Processes that run a segment together: one for each of --devices, where a program does not fit one; without devices always."
Count = Annotated[int, typer.Option("--ranks", min=0, max=64, help=COUNT)]
Devices = Annotated[str, typer.Option("--devices", metavar="0,1|all", help="The GPUs of --ranks, in order; all: every one of this machine.")]
Split = Annotated[str, typer.Option("--split", metavar="auto|always", help="Whether --ranks also run what fits one device.")]


@dataclass(frozen=True)
class Rays:
    """A fleet, as its owner names it."""

    address: str
    """`local`, or HOST:PORT of a cluster's head."""
    through: str = ""
    """Command that starts the driver in Ray's network namespace."""
    places: int = 0
    """At most; 0: as many as it has room for."""

    @classmethod
    def of(cls, address: str, through: str, places: int) -> Rays | None:
        """From the command line. Raises Trouble."""
        if not address and (through or places):
            raise Trouble("--places and --ray-through speak of a fleet", "there is none without --ray", "--ray local", 2)
        return cls(address, through, places) if address else None


def offload_of(offload: str) -> str:
    """From the command line. Raises Trouble."""
    if offload not in ("auto", "never"):
        raise Trouble(f"--offload {offload} is unknown", "states lie in files where memory is short, or never", "--offload auto", 2)
    return offload


def ranks_of(count: int, devices: str, split: str, rays: Rays | None) -> Ranks | None:
    """From the command line. Raises Trouble."""
    from assay.adapters import hardware
    from assay.adapters.engine_process import Ranks

    what = "these ranks cannot be had"
    if split not in ("auto", "always"):
        raise Trouble(what, f"--split {split} is unknown", "--split auto", 2)
    found = hardware.gpus() if devices else ()
    named = tuple(str(at) for at in range(len(found))) if devices == "all" else tuple(filter(None, devices.split(",")))
    if not all(name.isascii() and name.isdigit() for name in named) or len(set(named)) != len(named):
        raise Trouble(what, f"--devices {devices} is no list of different numbers", "--devices 0,1", 2)
    lack = "the GPUs of --devices are not here"
    if devices and not found:
        why = f"--devices {devices} names GPUs, and the driver shows none on this machine"
        raise Trouble(lack, why, "nvidia-smi says what the driver sees; --ranks 2 without --devices runs them on the processor", 2)
    if absent := [name for name in named if int(name) >= len(found)]:
        here = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in found)
        why = f"there is no GPU {', '.join(absent)} on this machine; the driver shows {here}"
        raise Trouble(lack, why, "--devices all" if len(found) > 1 else "leave --devices away: one GPU needs no ranks", 2)
    count = count or len(named)
    if not count:
        return None
    if rays is not None:
        raise Trouble(what, "a fleet's places have one device each", "leave --ray or --ranks away", 2)
    if named and len(named) != count:
        raise Trouble(what, f"{count} ranks are asked for on {len(named)} devices", f"--ranks {len(named)}", 2)
    return Ranks(count, named, split == "always" or not named)


async def admit(library: str, note: Callable[[Note], None]) -> None:
    """Raises Trouble when this machine's arithmetic is not to be trusted."""
    from assay.adapters import tested

    try:
        await tested.admit(library, note)
    except tested.NotPassed as error:
        what, advice = "this machine must not work or verify: it has not passed the conformance suite", "assay doctor --conformance says where"
        raise Trouble(what, str(error), f"{advice}; or take the risk: --untested", 3) from None


async def open_engine(
    options: Options, data: Path, shut: Sandbox | None, must: bool, note: Callable[[Note], None], stack: AsyncExitStack, ready: bool,
    template: Path | None,
) -> tuple[Engine, int]:
    """The engine, closed with `stack`, and how many segments it runs at once. `must`: every place has to shut its engines in; `ready`: one
    process waits for work before there is any, where it is not a fleet; `template`: what engines may be forked from. Raises Trouble."""
    from assay.adapters import gpu_use
    from assay.adapters.engine_process import ProcessEngine
    from assay.adapters.meters import Metered

    def unseen(why: str) -> None:
        note(Note(topic="gpu", text=f"what engines hold of the GPU is not seen from outside, and is bounded by their own limit alone: {why}"))

    used = max(1, len(options.ranks.devices)) if options.ranks else 1
    watched = None if options.ray else await asyncio.to_thread(gpu_use.watched, options.gpu_memory, used, unseen)
    process = ProcessEngine(threads=options.threads, command=options.engine, sandbox=shut, gpu_memory=options.gpu_memory, gpu=watched,
                            ranks=options.ranks, template=template)  # fmt: skip
    home, root = Metered(process), data / "work"
    fleet = options.ray
    if fleet is None:
        stack.push_async_callback(home.close)
        if ready:
            root.mkdir(exist_ok=True, mode=0o700)
            await process.keep_ready(root)
        return home, 1
    if importlib.util.find_spec("ray") is None:
        raise Trouble("the fleet cannot be used", "Ray is not installed", "pip install 'assay[fleet]'", 3)
    from assay.adapters import hardware
    from assay.adapters.fleet.engine import FleetEngine, FleetTrouble
    from assay.adapters.fleet.messages import Begin

    root.mkdir(exist_ok=True, mode=0o700)
    begin = Begin(
        address=fleet.address, root=str(root), places=fleet.places, gpus=len(await asyncio.to_thread(hardware.gpus)), cores=os.cpu_count() or 1,
        threads=options.threads, sandbox=options.sandbox, must=must, disk=shut.disk if shut else options.disk or 1 << 40,
        tested=not options.untested, gpu_memory=options.gpu_memory,
    )  # fmt: skip
    engine = FleetEngine(begin, home, shut, data / "fleet.log", tuple(shlex.split(fleet.through)))
    engine.on_news = lambda news: note(Note(topic=news.topic, text=news.text))
    stack.push_async_callback(engine.close)
    try:
        return engine, await engine.start()
    except FleetTrouble as error:
        raise Trouble("the fleet cannot be used", error.why, error.advice, 3) from None
