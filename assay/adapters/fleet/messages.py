"""What the daemon and its fleet's driver say to each other over a pipe, and the driver and its places inside Ray: canonical JSON, as bytes.

Nothing heavy is imported here: the daemon reads these.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from assay.codec import Message
from assay.engine import AnyEngineResult, OpenLinks, ReplayLink, RunLinks
from assay.exact.cuda.budget import DEFAULT
from assay.ids import U32, U63, Digest

MAX_LINE = (1 << 24) + (1 << 16)
"""Bytes of a line: an engine's, and what names it."""
FleetTask = RunLinks | OpenLinks | ReplayLink
"""What is worth a place. Programs are checked, and disputes answered (on the reference, with what the last move left in memory), at home."""
FileName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,99}/[a-z0-9][a-z0-9-]{0,99}\.?[a-z]{0,12}$")]
"""<folder>/<file> under an engine's root."""
LOCAL = "local"


class Begin(Message, frozen=True, kw_only=True):
    """The first line to a driver. `address` of Ray's head, or `local`: one is started on this machine."""

    address: str
    root: str
    """The daemon's work folder."""
    places: U32
    """At most; 0: one for each GPU, on a machine without one for each `threads` cores."""
    gpus: U32
    cores: U32
    """Of this machine, where Ray is started on it."""
    threads: U32
    sandbox: str
    """assay.adapters.sandbox.KINDS."""
    must: bool
    """Whether a place that cannot shut its engines in is refused."""
    disk: U63
    """Bytes of the work folder."""
    tested: bool = False
    """Whether each other machine has to pass the conformance suite before it has a place."""
    gpu_memory: Annotated[str, msgspec.Meta(max_length=32)] = DEFAULT
    """What the engines of a place may hold of its GPU (assay.exact.cuda.budget.bytes_of)."""


class Perform(Message, frozen=True, kw_only=True):
    number: U63
    task: FleetTask


class GiveUp(Message, frozen=True, kw_only=True):
    """No result of this task is wanted."""

    number: U63


class Up(Message, frozen=True, kw_only=True):
    """Tasks may come: this many places there are now."""

    places: U32


class Unusable(Message, frozen=True, kw_only=True):
    """The driver ends: why, and what its owner can do."""

    why: str
    advice: str


class Told(Message, frozen=True, kw_only=True):
    """What a task's engine says: steps, then one result."""

    number: U63
    message: AnyEngineResult


class News(Message, frozen=True, kw_only=True):
    """For the owner's log."""

    topic: str
    text: str


AnyOrder = Begin | Perform | GiveUp
AnyNews = Up | Unusable | Told | News


# ---- between a driver and its places -------------------------------------------------------------------------------------------


class PlaceFacts(Message, frozen=True, kw_only=True):
    """What a place says of itself before anything is sent to it."""

    version: str
    """Of this package, and of the interpreter."""
    host: str
    device: str
    """CUDA_VISIBLE_DEVICES; empty: the processor."""
    sandbox: str
    """How its engines are shut in; empty: they are not."""
    refused: str
    """Why there is no sandbox."""
    exposed: tuple[str, ...]
    """Where Ray of that machine can be reached from outside."""


class PlaceTested(Message, frozen=True, kw_only=True):
    why: str
    """Why its machine has not passed the conformance suite; empty: it has."""


class FileFacts(Message, frozen=True, kw_only=True):
    name: FileName
    size: U63
    digest: Digest
    """SHA-256."""


class Listing(Message, frozen=True, kw_only=True):
    files: tuple[FileFacts, ...]


class Wanted(Message, frozen=True, kw_only=True):
    """Names of files that a place lacks."""

    names: tuple[FileName, ...]
