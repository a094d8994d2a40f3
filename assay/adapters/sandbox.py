"""How an engine is shut in: under bubblewrap where there is one that works, and always by the kernel's own means (assay.cage).

    bubblewrap   namespaces of its own for files, processes, network and users, on top of the next
    kernel       Landlock, seccomp, no capabilities, limits

What an engine reads of this machine: assay.cage.readable. Its environment has what is named in KEPT: a node's password never reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import assay
from assay.cage import gpu_devices, readable
from assay.hands import bytes_below

KINDS = ("auto", "bubblewrap", "kernel", "off")
KEPT = (
    "PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "ASSAY_NATIVE", "ASSAY_SIMD", "ASSAY_CACHE", "ASSAY_CHECKSUMS", "ASSAY_DEVICE",
)  # fmt: skip
"""Variables that an engine gets."""
NOBODY = "65534"
TMP = 64 << 20
"""Bytes of /tmp under bubblewrap."""
SHARE = 0.9
"""Of the machine's memory that an engine may have for itself."""
PROBE_TIMEOUT = 30.0
GONE = " (deleted)"
"""What Linux puts behind the name of a file that has none any more (proc_pid_maps(5))."""


class NoSandbox(RuntimeError):
    """The machine cannot shut an engine in as asked; says why, for each way that was tried."""


@dataclass(frozen=True)
class Sandbox:
    kind: str
    memory: int
    """Bytes of private memory of an engine."""
    disk: int
    """Bytes of the work folder; an engine under which it grows beyond is ended."""
    native: str
    """The native library, found before, because an engine may start no compiler; empty for none."""

    def command(self, root: Path, ranks: str = "") -> list[str]:
        """Starts an engine for the work folder `root`; `ranks` says which sockets it has to those that it leads (assay.work)."""
        return self.wrap([*self._cage(root), *([ranks] if ranks else [])], root)

    def rank_command(self, root: Path, handle: int) -> list[str]:
        """Starts a rank, which may write below `root`, at the socket that it inherits under this number."""
        return self.wrap([*self._cage(root), f"rank:{handle}"], root)

    def _cage(self, root: Path) -> list[str]:
        parent = os.getpid() if self.kind == "kernel" else 1
        return [sys.executable, "-m", "assay.cage", str(root), str(parent), str(self.memory), str(self.disk)]

    def shared(self, ranks: int) -> tuple[Sandbox, Sandbox]:
        """For an engine, and for each of the ranks that it leads: half of the memory is its, half theirs."""
        return replace(self, memory=self.memory // 2), replace(self, memory=self.memory // (2 * ranks))

    def wrap(self, command: Sequence[str], root: Path, tmp: int = TMP) -> list[str]:
        """`command` in its namespaces, if it gets any, with `tmp` bytes of /tmp."""
        if self.kind == "kernel":
            return list(command)
        binds = [part for path in readable() if not str(path).startswith("/proc") for part in ("--ro-bind", str(path), str(path))]
        binds += ["--ro-bind", self.native, self.native] if self.native else []
        binds += [part for path in gpu_devices() for part in ("--dev-bind", str(path), str(path))]
        return [
            "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--uid", NOBODY, "--gid", NOBODY, "--hostname", "engine",
            "--size", str(tmp), "--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev", *binds, "--bind", str(root), str(root),
            "--chdir", str(root), "--", *command,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """What an engine is given of this process's environment."""
        found = {name: os.environ[name] for name in KEPT if name in os.environ}
        found["PYTHONPATH"] = python_path()
        return found | ({"ASSAY_NATIVE_LIBRARY": self.native} if self.native else {"ASSAY_NATIVE": "0"})


def python_path() -> str:
    """Where this package is, and what PYTHONPATH names, as seen from any folder."""
    homes = [str(Path(str(assay.__file__)).parent.parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(os.path.abspath(home) for home in homes))


def choose(wanted: str = "auto", disk: int = 1 << 40) -> Sandbox | None:
    """The best sandbox that works here, tried by starting it; None for `off`. Raises NoSandbox; ValueError for an unknown kind."""
    if wanted not in KINDS:
        raise ValueError(f"no sandbox is called {wanted!r}: {', '.join(KINDS)}")
    if wanted == "off":
        return None
    memory = int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    native, failed = native_library(), []
    for kind in ("bubblewrap", "kernel") if wanted == "auto" else (wanted,):
        sandbox = Sandbox(kind, memory, disk, native)
        if not (why := _fails(sandbox)):
            return sandbox
        failed.append(f"{kind}: {why}")
    raise NoSandbox("; ".join(failed))


def native_library() -> str:
    """Path of the native library, compiled if need be; in a process of its own, so that the daemon stays small."""
    if os.environ.get("ASSAY_NATIVE") == "0":
        return ""
    if given := os.environ.get("ASSAY_NATIVE_LIBRARY"):
        return given
    done = subprocess.run([sys.executable, "-m", "assay.exact.native.build"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _fails(sandbox: Sandbox) -> str:
    """Why it does not work; nothing when it does."""
    if sandbox.kind == "bubblewrap" and not shutil.which("bwrap"):
        return "bwrap is not installed (Debian and Ubuntu: apt install bubblewrap)"
    with tempfile.TemporaryDirectory() as folder:
        command = sandbox.wrap([sys.executable, "-m", "assay.cage", "--check", folder], Path(folder))
        try:
            done = subprocess.run(
                command, env=sandbox.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return "" if done.returncode == 0 else said


async def outgrown(folder: Path, quota: int, engine: int | None = None) -> str:
    """What there is to say of a work folder that holds more bytes than it may, with the files there that have no name any more and are held
    by process `engine`; nothing when it does not."""
    held = await asyncio.to_thread(bytes_below, folder)
    held += await asyncio.to_thread(unnamed_bytes, folder, engine) if engine is not None else 0
    return f"the work folder holds {held} bytes, its quota is {quota}; --disk gives it more" if held > quota else ""


def unnamed_bytes(folder: Path, process: int) -> int:
    """Of files below a folder that have no name any more (a state in files, assay.exact.offload) and are open or mapped in a process or
    those that it has started. Linux tells; elsewhere 0."""
    found: dict[int, int] = {}
    todo = [process]
    while todo:
        home = Path(f"/proc/{todo.pop()}")
        try:
            todo += [int(child) for task in (home / "task").iterdir() for child in (task / "children").read_text().split()]
            lines = (home / "maps").read_text().splitlines()
            handles = list((home / "fd").iterdir())
        except (OSError, ValueError):  # it has just ended
            continue
        mapped: dict[int, int] = {}
        for line in lines:
            if line.endswith(GONE) and _below(folder, (parts := line.split(maxsplit=5))[-1]):
                first, last = (int(end, 16) for end in parts[0].split("-"))
                mapped[int(parts[4])] = mapped.get(int(parts[4]), 0) + last - first
        for handle in handles:
            with contextlib.suppress(OSError):
                if (name := os.readlink(handle)).endswith(GONE) and _below(folder, name):
                    status = handle.stat()
                    mapped[status.st_ino] = max(mapped.get(status.st_ino, 0), status.st_blocks * 512)
        found = {file: max(found.get(file, 0), mapped.get(file, 0)) for file in found.keys() | mapped.keys()}
    return sum(found.values())


def _below(folder: Path, name: str) -> bool:
    return name.startswith(f"{folder}/")
