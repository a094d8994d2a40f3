"""Calls of the C library that Python has no name for."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from functools import cache


class NotConfined(RuntimeError):
    """This system cannot take from a process what an engine must not have; says what."""


@cache
def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def machine() -> str:
    """`x86_64` or `aarch64`. Raises NotConfined elsewhere: the numbers of the system's calls are known for these two."""
    found = platform.machine()
    if os.uname().sysname != "Linux" or found not in ("x86_64", "aarch64"):
        raise NotConfined(f"an engine is confined on Linux on x86-64 or aarch64, and this is {os.uname().sysname} on {found}")
    return found


def die_with_parent(parent: int) -> None:
    """Asks Linux to kill this process when the one that started it ends; elsewhere the end of stdin does (prctl(2))."""
    if sys.platform == "linux":
        libc().prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)


def syscall(what: str, number: int, *arguments: int) -> int:
    """The call's result. Raises NotConfined."""
    result = int(libc().syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments)))
    if result < 0:
        raise NotConfined(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def prctl(option: int, value: int) -> None:
    """Raises NotConfined."""
    if libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise NotConfined(f"prctl({option}): {os.strerror(ctypes.get_errno())}")
