"""Holes in files, by which a part of a file gives its room back to the disk (Linux's fallocate(2))."""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import os
import secrets
import sys
from pathlib import Path

log = logging.getLogger("assay.blobs")

PUNCH = 0x02 | 0x01
"""FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE."""


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def punch(handle: int, at: int, size: int) -> None:
    """Makes a hole of `size` bytes from `at` on. Raises OSError."""
    if _libc().fallocate(ctypes.c_int(handle), ctypes.c_int(PUNCH), ctypes.c_int64(at), ctypes.c_int64(size)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def possible(folder: Path) -> bool:
    """Whether holes can be made in files there."""
    if sys.platform != "linux":
        return False
    probe = folder / f"probe-{secrets.token_hex(4)}"
    try:
        handle = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            punch(handle, 0, 4096)
            return True
        finally:
            os.close(handle)
            probe.unlink()
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            log.info("%s: no holes in files here, so every block gets a file of its own", folder)
            return False
        raise
