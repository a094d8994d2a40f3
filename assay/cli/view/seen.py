"""What a view shows, read from a node's folder and this machine. What is missing or malformed there is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from assay.adapters.hardware import Gpu, Machine, gpus, machine
from assay.cli.folder import read_status

TAIL = 1 << 16
"""Bytes of the log's end that are read."""
LINES = 200


class Seen(NamedTuple):
    """At one moment."""

    status: dict[str, Any]
    log: list[dict[str, Any]]
    """The last entries, oldest first."""
    machine: Machine | None
    gpus: tuple[Gpu, ...]


def tail(log: Path) -> list[dict[str, Any]]:
    """The last entries of a log of JSON lines; none where there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL))
            lines = file.read(TAIL).split(b"\n")[1 if size > TAIL else 0 :]
    except OSError:
        return []
    found = []
    for line in lines[-LINES - 1 :]:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def look(data: Path, hardware: Callable[[], tuple[Gpu, ...]] = gpus) -> Seen:
    """Now. Raises Trouble when no node ever ran on `data`."""
    return Seen(read_status(data), tail(data / "log.jsonl"), machine(), hardware())
