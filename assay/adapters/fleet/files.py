"""Which files a task needs at a place of another machine and which it makes there, and moving them in pieces.

A file arrives under another name and takes its own when its SHA-256 is the one that was announced, so what is there is there whole. What its
bytes say is read by those who read it at home: a state is the committed one by its root, a record of a step has its checksum.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import msgspec

from assay.adapters.fleet.messages import FileFacts, FileName, FleetTask
from assay.engine import OpenLinks, ReplayLink, RunLinks
from assay.ids import Digest

PIECE = 8 << 20
"""Bytes that travel at once."""
JOB = re.compile(r"program\.json|schedule\.bin|frozen\.safetensors")
RUN = r"steps\.bin|state-\d{1,19}\.safetensors"
RECORDS = r"records-\d{1,10}-\d{1,10}\.npy"
PART = ".part"
_name = msgspec.json.Decoder(FileName)


class BadFile(Exception):
    """A file did not arrive as it was announced."""


def going(task: FleetTask) -> re.Pattern[str]:
    """Files of a task's segment that it needs."""
    match task:
        case RunLinks():
            return re.compile(f"{RUN}|{RECORDS}|stop")
        case OpenLinks():
            return re.compile(f"{RUN}|{RECORDS}")
        case ReplayLink():
            return re.compile(rf"(boundary|proven)-{task.unit}\.safetensors|batch-{task.unit}-\d{{1,10}}\.npy")


def coming(task: FleetTask) -> re.Pattern[str]:
    """Files of a task's segment that it makes, changes or removes."""
    match task:
        case RunLinks():
            return re.compile(RUN)
        case OpenLinks():
            return re.compile(rf"{RUN}|boundary-({'|'.join(map(str, task.units))})\.safetensors")
        case ReplayLink():
            return re.compile(rf"trace-{task.unit}\.bin|proven-{task.unit}\.safetensors")


def named(root: Path, folder: str, pattern: re.Pattern[str]) -> list[str]:
    """<folder>/<file> of the ordinary files there whose name fits; none where there is no folder."""
    try:
        entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    return [f"{folder}/{e.name}" for e in entries if pattern.fullmatch(e.name) and e.is_file(follow_symlinks=False)]


def needed(root: Path, task: FleetTask) -> list[str]:
    """What is at home of all that a task needs."""
    return named(root, task.job.folder, JOB) + named(root, task.segment, going(task))


class Digests:
    """SHA-256 of files below a folder, computed again only when a file has changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, tuple[tuple[int, int, int], Digest]] = {}

    def of(self, name: str) -> FileFacts:
        """Raises FileNotFoundError."""
        path = self.root / name
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            version = (found.st_ino, found.st_size, found.st_mtime_ns)
            known = self._known.get(name)
            if known is None or known[0] != version:
                known = self._known[name] = (version, Digest(hashlib.file_digest(file, "sha256").digest()))
        return FileFacts(name=name, size=found.st_size, digest=known[1])

    def of_all(self, names: list[str]) -> tuple[FileFacts, ...]:
        """Those that are still there."""
        found = []
        for name in names:
            try:
                found.append(self.of(name))
            except FileNotFoundError:
                self._known.pop(name, None)
        return tuple(found)


def read_piece(root: Path, name: str, offset: int) -> bytes:
    """Raises FileNotFoundError."""
    with (root / checked(name)).open("rb") as file:
        file.seek(offset)
        return file.read(PIECE)


def write_piece(root: Path, name: str, offset: int, data: bytes) -> None:
    """At `offset` of the file that is arriving; at 0 it begins anew."""
    path = root / (checked(name) + PART)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with path.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        file.write(data)


def arrived(root: Path, facts: FileFacts) -> None:
    """The file takes its name. Raises BadFile when it is another than was announced."""
    path = root / checked(facts.name)
    part = path.with_name(path.name + PART)
    if facts.size == 0:
        write_piece(root, facts.name, 0, b"")
    with part.open("rb") as file:
        right = os.fstat(file.fileno()).st_size == facts.size and hashlib.file_digest(file, "sha256").digest() == facts.digest
    if not right:
        part.unlink()
        raise BadFile(f"{facts.name} did not arrive as it was sent")
    os.replace(part, path)


def checked(name: str) -> str:
    """A name that leads nowhere but into a folder below the root. Raises BadFile."""
    try:
        return _name.decode(msgspec.json.encode(name))
    except msgspec.DecodeError:
        raise BadFile(f"{name!r} is no name of a file of a task") from None
