"""The look at all files before anything is sealed: which are good, which are bad and why, which are there twice.

Every file is read whole, so that a dataset is never half-published because its last file is torn. What was found is remembered by
the file's place, size and time of change: whoever runs it again after an interruption does not read again what has not changed since.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from assay import shard
from assay.codec import digest, encode
from assay.ids import Digest
from assay.job import Field
from assay.publish.readers import KINDS, BadFile, How, kind_of, read
from assay.publish.tables import features
from assay.state import Tensors

PIECE = 1 << 20
MOST_FILES = 1 << 24


class NoDataset(ValueError):
    """There is nothing that could be published, or the owner has to decide something first."""


class File(msgspec.Struct, frozen=True):
    """What was found of a file. `why` is empty for a good one."""

    name: str
    """Below the path that was named."""
    size: int
    changed: int
    """Time of its last change, nanoseconds."""
    digest: Digest = Digest(b"")
    records: int = 0
    fields: tuple[Field, ...] = ()
    why: str = ""


class Survey(NamedTuple):
    root: Path
    how: How
    good: tuple[File, ...]
    bad: tuple[File, ...]
    duplicates: tuple[tuple[str, str], ...]
    """(name, name of the file with the same bytes that came before it)."""
    fields: tuple[Field, ...]
    columns: tuple[str, ...]

    @property
    def records(self) -> int:
        return sum(file.records for file in self.good)

    def path(self, file: File) -> Path:
        return self.root / file.name if file.name else self.root


Look = Callable[[int, int, str], None]
"""(files done, files in all, name of the next)."""


def choose(root: Path, kind: str | None = None) -> str:
    """The one kind of the files at `root`. Raises NoDataset when there are several, or none."""
    found = {each for name in names(root) if (each := kind_of(root / name)) is not None}
    if kind is not None and kind not in KINDS:
        raise NoDataset(f"{kind!r} is no kind of data: {', '.join(KINDS)}")
    if kind is None and len(found) > 1:
        raise NoDataset(f"{root} has files of several kinds ({', '.join(sorted(found))}): say which are the data: --kind {sorted(found)[0]}")
    if not found or (kind is not None and kind not in found):
        endings = ", ".join(ending for each in ([kind] if kind else KINDS) for ending in KINDS[each])
        raise NoDataset(f"{root} has no file that can be read ({endings})")
    return kind or found.pop()


def names(root: Path) -> list[str]:
    """The files at or under `root`, in the order of their names; hidden ones are left out, links to folders are not followed."""
    if root.is_file():
        return [""]
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in files if not name.startswith(".")]
        if len(found) > MOST_FILES:
            raise NoDataset(f"{root} has more than {MOST_FILES} files")
    return sorted(found)


def classes(root: Path) -> tuple[str, ...]:
    """The folders of a collection of images, when every image lies in one of them; else none."""
    images = [name for name in names(root) if name and kind_of(root / name) == "images"]
    parents = {name.split("/")[0] for name in images if name.count("/") == 1}
    return tuple(sorted(parents)) if parents and all(name.count("/") == 1 for name in images) else ()


class Memory:
    """What former looks have found, in a file of JSON lines; a torn last line is dropped."""

    def __init__(self, path: Path, root: Path, how: How) -> None:
        self._path, self._mark = path, digest([str(root), *how]).hex()
        self._known: dict[tuple[str, int, int], File] = {}
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                mark, file = msgspec.json.decode(line, type=tuple[str, File])
            except msgspec.DecodeError:
                continue
            if mark == self._mark:
                self._known[file.name, file.size, file.changed] = file
        self._file = path.open("ab")

    def get(self, name: str, size: int, changed: int) -> File | None:
        return self._known.get((name, size, changed))

    def keep(self, file: File) -> None:
        self._file.write(b"\n" + encode([self._mark, file]))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def survey(root: Path, how: How, memory: Memory | None = None, look: Look = lambda done, total, name: None) -> Survey:
    """Raises NoDataset when no file is good."""
    wanted = [name for name in names(root) if kind_of(root / name if name else root) == how.kind]
    good: list[File] = []
    bad: list[File] = []
    duplicates: list[tuple[str, str]] = []
    first: dict[Digest, str] = {}
    fields: tuple[Field, ...] = ()
    for done, name in enumerate(wanted):
        look(done, len(wanted), name or root.name)
        file = _examined(root, name, how, memory)
        if not file.why and file.digest in first:
            duplicates.append((name, first[file.digest]))
            continue
        merged = fields if file.why else merge(fields, file.fields) if fields else file.fields
        if not file.why and merged is None:
            file = msgspec.structs.replace(file, why=f"it holds {told(file.fields)} where those before it hold {told(fields)}")
        if file.why:
            bad.append(file)
            continue
        assert merged is not None
        fields = merged
        first[file.digest] = name
        good.append(file)
    if not good:
        raise NoDataset(f"no file at {root} can be used" + (f"; the first: {bad[0].name or root.name}: {bad[0].why}" if bad else ""))
    columns = features(root / good[0].name if good[0].name else root, how) if how.kind == "table" and how.label is not None else ()
    return Survey(root, how, tuple(good), tuple(bad), tuple(duplicates), fields, columns)


def _examined(root: Path, name: str, how: How, memory: Memory | None) -> File:
    path = root / name if name else root
    try:
        state = path.stat()
        known = memory.get(name, state.st_size, state.st_mtime_ns) if memory is not None else None
        if known is not None:
            return known
        file = File(name, state.st_size, state.st_mtime_ns)
        if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
            return msgspec.structs.replace(file, why="it is a link to a place outside of what is published")
        records = 0
        fields: tuple[Field, ...] = ()
        for batch in read(path, how):
            here = shard.fields_of(batch)
            if fields and here != fields:
                raise BadFile(f"its records change from {told(fields)} to {told(here)}")
            fields = here
            records += len(next(iter(batch.values())))
        file = msgspec.structs.replace(file, digest=_digest(path), records=records, fields=fields)
    except BadFile as error:
        file = msgspec.structs.replace(file, why=str(error))
    except shard.BadRecords as error:
        file = msgspec.structs.replace(file, why=str(error))
    except OSError as error:
        return File(name, 0, 0, why=f"it cannot be read: {error.strerror or error}")
    if memory is not None:
        memory.keep(file)
    return file


def _digest(path: Path) -> Digest:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            whole.update(piece)
    return Digest(whole.digest())


def merge(left: tuple[Field, ...], right: tuple[Field, ...]) -> tuple[Field, ...] | None:
    """Fields that both files' records fit into: integers where others have floats become floats. None when they do not fit."""
    if [(field.name, field.shape) for field in left] != [(field.name, field.shape) for field in right]:
        return None
    merged = []
    for a, b in zip(left, right, strict=True):
        dtypes = {a.dtype, b.dtype}
        if len(dtypes) > 1 and dtypes not in ({"i64", "f32"}, {"i32", "f32"}, {"i32", "i64"}):
            return None
        merged.append(a if len(dtypes) == 1 else msgspec.structs.replace(a, dtype="f32" if "f32" in dtypes else "i64"))
    return tuple(merged)


def told(fields: tuple[Field, ...]) -> str:
    return ", ".join(f"{field.name} {field.dtype}{list(field.shape)}" for field in fields[:8])


def records_of(found: Survey, file: File) -> Iterator[Tensors]:
    """The batches of a good file, in the dataset's dtypes. Raises NoDataset when the file has changed since the look."""
    from assay.state import DTYPES

    path = found.path(file)
    count = 0
    try:
        state = path.stat()
        if (state.st_size, state.st_mtime_ns) != (file.size, file.changed):
            raise BadFile("its size or time is another")
        for batch in read(path, found.how):
            if shard.fields_of(batch) != file.fields:
                raise BadFile(f"it holds {told(shard.fields_of(batch))} now")
            count += len(next(iter(batch.values())))
            yield {field.name: batch[field.name].astype(DTYPES[field.dtype][1], copy=False) for field in found.fields}
        if count != file.records:
            raise BadFile(f"it has {count} records now, not {file.records}")
    except (BadFile, shard.BadRecords, OSError) as error:
        raise NoDataset(f"{file.name or found.root.name} has changed while it was being published ({error}): run it again") from None
