"""Whether this machine's arithmetic has been tested: the conformance suite, once for each processor, GPUs with their driver, library and version.

A machine whose bits differ is paid nothing and loses bonds, so on a chain where something is at stake a worker or verifier is not started
before it has passed. The suite runs in a process of its own (`assay doctor --conformance`, about a minute), and leaves a mark in the user's cache
folder. A GPU is tested besides by whatever engine takes it (assay.exact.engines). Each place of a fleet sees to its own machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import assay
from assay.adapters import hardware
from assay.adapters.sandbox import python_path
from assay.ids import Digest
from assay.runtime import Note

COMMITTED = ("conformance.json", "trainings.json")
"""What is passed, in assay/_data."""


class NotPassed(Exception):
    """This machine's bits are not the committed ones; the message says where."""


def machine(library: str) -> Digest:
    """What a pass is valid for. `library`: path of the native library, whose name is a digest of what it was built from; empty without one."""
    gpus = [[gpu.uuid, gpu.name, gpu.driver] for gpu in hardware.gpus()]
    here = [hardware.machine().cpu, platform.machine(), platform.python_version(), version("numpy"), version("assay"), Path(library).name, gpus]
    digest = hashlib.sha256(json.dumps(here).encode())
    for name in COMMITTED:
        digest.update((Path(str(assay.__file__)).parent / "_data" / name).read_bytes())
    return Digest(digest.digest())


def mark(library: str) -> Path:
    """The file that is there when this machine has passed."""
    from assay.exact.native.build import cache_home

    return cache_home() / f"passed-{machine(library).hex()[:24]}"


def remember(library: str) -> None:
    """Remembers it; where nothing can be written it is tested again."""
    path = mark(library)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch()
    except OSError as error:
        print(f"warning: that this machine has passed cannot be remembered: {error}", file=sys.stderr)


async def suite() -> str:
    """Why this machine has not passed; nothing when it has."""
    from assay.adapters.keys import PASSWORD_VARIABLE

    command = [sys.executable, "-m", "assay.cli", "doctor", "--conformance", "--json"]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE} | {"PYTHONPATH": python_path()},
    )  # fmt: skip
    try:
        out, said = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode == 0:
        return ""
    try:
        routes = json.loads(out.splitlines()[-1])["routes"]
        wrong = [f"{failed['what']} ({route['route']}): {failed['where']}" for route in routes for failed in route["failed"]]
    except (ValueError, LookupError, TypeError):
        wrong = []
    return wrong[0] if wrong else (said.decode(errors="replace").strip().splitlines() or [f"it ended with status {process.returncode}"])[-1]


async def admit(library: str, note: Callable[[Note], None]) -> None:
    """Returns when this machine has passed, now or before. Raises NotPassed."""
    if await asyncio.to_thread(lambda: mark(library).exists()):
        return
    note(Note(topic="testing", text="the conformance suite is run on this machine, once for this processor, driver and version: about a minute"))
    if why := await suite():
        raise NotPassed(why)
    await asyncio.to_thread(remember, library)
    note(Note(topic="tested", text="this machine gives the committed bits on every route"))
