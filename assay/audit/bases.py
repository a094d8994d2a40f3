"""Frozen tensors of jobs that were checked before, in the clear, by their root: a base model is fetched once and shared by all checks of
all jobs that freeze the same tensors.

A file counts only if its tensors have the root that it is named by, so whoever can write to the folder can at most have it fetched again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from assay.ids import Digest
from assay.segment import write_atomically
from assay.state import BadTensors, from_bytes, frozen_root

MOST = 1 << 36
"""Bytes of all files; what was used longest ago goes first."""
MAX_BASE = 1 << 34


class Bases:
    """`folder` is made when it is needed; None keeps nothing."""

    def __init__(self, folder: Path | None, most: int = MOST) -> None:
        self.folder, self.most = folder, most

    def _path(self, root: Digest) -> Path | None:
        return self.folder / f"{root.hex()}.safetensors" if self.folder is not None and len(root) == 32 else None

    def has(self, root: Digest) -> bool:
        """Whether a file of that name is here; `read` says whether it is right."""
        path = self._path(root)
        return path is not None and path.is_file()

    def read(self, root: Digest) -> bytes | None:
        """The file of the tensors of that root, if it is here. What is wrong is removed."""
        path = self._path(root)
        if path is None or not path.is_file():
            return None
        data = path.read_bytes()
        try:
            right = frozen_root(from_bytes(data, MAX_BASE)) == root
        except BadTensors:
            right = False
        if not right:
            path.unlink(missing_ok=True)
            return None
        os.utime(path)
        return data

    def take(self, root: Digest, into: Path) -> bool:
        """Puts the tensors of that root at `into`, if they are here; whether they are."""
        path = self._path(root)
        if path is None or self.read(root) is None:
            return False
        into.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _share(path, into)
        return True

    def keep(self, root: Digest, file: Path) -> None:
        """`file` has that root: its caller has checked it."""
        path = self._path(root)
        if path is None or path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        _share(file, part)
        os.replace(part, path)
        self._thin(path)

    def put(self, root: Digest, data: bytes) -> None:
        """`data` is a file of tensors with that root."""
        path = self._path(root)
        if path is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(path, data)
            self._thin(path)

    def _thin(self, newest: Path) -> None:
        files = sorted(newest.parent.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if total > self.most and file != newest:
                total -= file.stat().st_size
                file.unlink()


def _share(source: Path, target: Path) -> None:
    """A link where both lie on one disk, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
