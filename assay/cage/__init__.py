"""Takes everything of the machine away from this process but what the engine needs: `confine`.

What is taken, whatever the process then runs: all files but the interpreter, its packages, the system's libraries and one folder
(Landlock); the network, other processes, new programs, and whatever changes the system (seccomp); capabilities; memory and the size
of a file beyond a limit (setrlimit(2)). It cannot be given back. Nothing but the standard library is imported, because it must run
before there are threads: Landlock binds the calling thread and those that it starts.

Sources: landlock(7), seccomp(2), capabilities(7), docs of the Linux kernel (userspace-api/landlock).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterable
from pathlib import Path

from assay.cage import landlock, seccomp
from assay.cage.libc import NotConfined, libc, prctl

SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/sys/devices/system/cpu", "/proc/cpuinfo", "/proc/meminfo")
"""What an interpreter and its libraries read of a system."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
NVIDIA = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia[0-9]*", "nvidia-caps/*")
"""Below /dev: what NVIDIA's driver is spoken to by."""
NVIDIA_READS = ("/proc/driver/nvidia", "/proc/self", "/proc/devices", "/sys/devices", "/sys/bus/pci", "/sys/module/nvidia", "/sys/class")
"""What its libraries read."""
OPEN_FILES = 1024
NICE = 5
"""Of an engine: whoever sits before the machine comes first."""
FIRST_TO_DIE = "500"
"""oom_score_adj(5) of an engine: when memory runs out it ends, not the daemon or the owner's programs."""
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
CAPABILITY_VERSION_3 = 0x20080522


def gpu_devices() -> list[Path]:
    """The files of NVIDIA's devices; none where there is no driver."""
    return sorted(path for pattern in NVIDIA for path in Path("/dev").glob(pattern) if path.is_char_device())


def readable() -> list[Path]:
    """What an engine must be able to read: the system's libraries, the interpreter with its packages, and this package.

    Not the folders of sys.path as a whole: a checkout may hold a node's data folder, and its keys."""
    import assay

    package = Path(str(assay.__file__)).parent
    homes = [Path(p) for p in (*SYSTEM, sys.prefix, sys.base_prefix, sys.exec_prefix)]
    packages = [Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    native = os.environ.get("ASSAY_NATIVE_LIBRARY")
    driver = [Path(p) for p in NVIDIA_READS] if gpu_devices() else []
    found = [*homes, *packages, package, *([Path(native)] if native else []), *driver]
    return [path for path in dict.fromkeys(found) if path.exists()]


def confine(root: Path, memory: int, disk: int, devices: Iterable[Path] = ()) -> None:
    """From here on this process and its threads may write below `root` only and read there and what `readable` names; and use `devices`.
    `memory` and `disk` are bytes: of private memory in all, and of one file. Raises NotConfined where the system cannot do all of it."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _limit(resource.RLIMIT_DATA, memory)
    _limit(resource.RLIMIT_FSIZE, disk)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _drop_capabilities()
    landlock.restrict(readable(), [root], [*devices, *(Path(device) for device in DEVICES if os.path.exists(device))])
    seccomp.restrict()


def step_back() -> None:
    """Gives the owner's programs and the daemon precedence, as far as the system lets it."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_DIE)


def _limit(which: int, most: int) -> None:
    _, hard = resource.getrlimit(which)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))


def _drop_capabilities() -> None:
    """A daemon that is run as root has an engine that is root in name only."""
    for capability in range(64):
        if libc().prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # the last one that this kernel knows; or without the right to drop, and the sets below end empty all the same
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    if libc().capset(header, none) != 0:
        raise NotConfined(f"capabilities cannot be dropped: {os.strerror(ctypes.get_errno())}")
