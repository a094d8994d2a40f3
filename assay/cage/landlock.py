"""Landlock: which files a thread may open (landlock(7); the numbers are those of linux/landlock.h)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from assay.cage.libc import NotConfined, libc, syscall

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls, the same on every architecture."""
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 7, 1 << 8
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""ABI version -> all that it can deny of files; versions between add nothing to it."""
TCP = 3
"""Binding and connecting; from version 4 on."""
SCOPES = 3
"""Sockets without a name in the file system, and signals, of processes outside; from version 6 on."""
READ = READ_FILE | READ_DIR
WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE
OF_A_FILE = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
"""What can be said of something that is no folder."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """Of the kernel's Landlock; 0 where there is none."""
    return max(0, int(libc().syscall(ctypes.c_long(CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(CREATE_RULESET_VERSION))))


def restrict(read: Iterable[Path], write: Iterable[Path], devices: Iterable[Path]) -> None:
    """Allows reading, writing (files and folders, no links and devices), and both for devices; denies the rest. Raises NotConfined."""
    known = version()
    if not known:
        raise NotConfined("this kernel has no Landlock (Linux 5.13, CONFIG_SECURITY_LANDLOCK, `landlock` in lsm=)")
    handled = FILES[max(v for v in FILES if v <= known)]
    rules = _Ruleset(handled, TCP if known >= 4 else 0, SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = syscall("landlock_create_ruleset", CREATE_RULESET, ctypes.addressof(rules), size, 0)
    try:
        for paths, allowed in ((read, READ), (write, WRITE), (devices, READ_FILE | WRITE_FILE | IOCTL_DEV)):
            for path in paths:
                _allow(ruleset, path, allowed & handled)
        syscall("landlock_restrict_self", RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, allowed: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise NotConfined(f"{path}: {error.strerror}") from None
    try:
        rule = _Beneath(allowed if path.is_dir() else allowed & OF_A_FILE, parent)
        syscall(f"landlock_add_rule for {path}", ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.addressof(rule), 0)
    finally:
        os.close(parent)
