"""What a worker asks for a step when its owner has named no price: what this machine does, measured at its first start, at PER_HOUR.

The measurement runs in a process of its own, so that the daemon stays small, and is remembered in the node's folder for this processor and number
of threads. On a local network, where the money is play, a fixed price is asked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from assay.adapters import hardware
from assay.adapters.sandbox import python_path
from assay.cli.common import money
from assay.cli.owner import price_per_tera
from assay.runtime import Note

if TYPE_CHECKING:
    from assay.cli.node import Options

FIXED = 100_000
"""Smallest units for a step."""
PER_HOUR = 1.0
"""Tokens."""
FILE = "speed.json"
MEASURE = "from assay.cli.owner import speed; print(round(speed()))"
WITHIN = 120.0


async def priced(role: str, options: Options, folder: Path, local: bool, note: Callable[[Note], None]) -> Options:
    """The options, with a price. Says what is asked where the owner has named nothing."""
    if role != "worker" or options.price:
        return options
    if local or options.price_per_tera:
        return dataclasses.replace(options, price=FIXED)
    operations = await measured(folder, options.threads)
    if not operations:
        text = f"no price is named, and this machine's speed could not be measured: {money(FIXED)} tokens are asked for a step; --price"
        note(Note(topic="price", text=text))
        return dataclasses.replace(options, price=FIXED)
    asked = price_per_tera(PER_HOUR, operations)
    text = (
        f"no price is named: this machine does {operations / 1e9:.0f} G operations a second with {options.threads} threads, and {money(asked)} tokens"
        f" are asked for 10^12 operations, {PER_HOUR:g} an hour at that speed; --price-per-tera asks otherwise, `assay worker init` says what is paid"
    )
    note(Note(topic="price", text=text, data={"per_tera": asked, "operations": operations}))
    return dataclasses.replace(options, price=1, price_per_tera=asked)


async def measured(folder: Path, threads: int, command: tuple[str, ...] = (sys.executable, "-c", MEASURE)) -> int:
    """Operations a second of the exact engine with so many threads; 0 where that cannot be measured."""
    here = {"cpu": hardware.machine().cpu, "threads": threads}
    try:
        known = json.loads((folder / FILE).read_bytes())
        if {name: known[name] for name in here} == here and isinstance(known["operations"], int) and known["operations"] > 0:
            return int(known["operations"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env=_environment(),
    )  # fmt: skip
    try:
        async with asyncio.timeout(WITHIN):
            out, _ = await process.communicate()
        operations = threads * int(out)
    except (TimeoutError, ValueError):
        return 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if operations > 0:
        await asyncio.to_thread((folder / FILE).write_text, json.dumps({**here, "operations": operations}))
    return max(0, operations)


def _environment() -> dict[str, str]:
    """This process's, without its password."""
    from assay.adapters.keys import PASSWORD_VARIABLE

    return {name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE} | {"PYTHONPATH": python_path()}
