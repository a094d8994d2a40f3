"""`python -m assay.cage ROOT PARENT_PID MEMORY DISK [RANKS]`: the engine (assay.work) with everything taken away that it does not need; with
`rank:SOCKET` in the last place, one of the processes that it leads (assay.exact.ranks.team), from which the same is taken.

`python -m assay.cage --check FOLDER` confines itself to a folder and says nothing when that worked."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from assay.cage import confine, gpu_devices, step_back
from assay.cage.libc import NotConfined

REFUSED = 70
RANK = "rank:"
CACHES = ("ASSAY_CACHE", "CUPY_CACHE_DIR", "CUDA_CACHE_PATH")
"""Folders that an engine writes for its next start: below its own, the only one that it may write to."""


def main(arguments: list[str]) -> int:
    """REFUSED is returned, with the reason on standard error, when this system cannot do it."""
    try:
        if len(arguments) == 2 and arguments[0] == "--check":
            confine(Path(arguments[1]), 1 << 40, 1 << 30)
            return 0
        if len(arguments) not in (4, 5):
            print("usage: python -m assay.cage ROOT PARENT_PID MEMORY DISK [RANKS] (started by a worker or verifier, not by hand)", file=sys.stderr)
            return 2
        step_back()
        os.environ |= {name: str(Path(arguments[0]) / "cache" / name.lower()) for name in CACHES}
        temporary = Path(arguments[0]) / "cache" / "tmp"  # what CuPy imports wants one, and the system's is not ours
        temporary.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = str(temporary)
        confine(Path(arguments[0]), int(arguments[2]), int(arguments[3]), gpu_devices())
    except NotConfined as error:
        print(error, file=sys.stderr)
        return REFUSED
    if arguments[4:] and arguments[4].startswith(RANK):
        return int(importlib.import_module("assay.exact.ranks.team").main([arguments[4].removeprefix(RANK), arguments[1]]))
    return int(importlib.import_module("assay.work").main([*arguments[:2], *arguments[4:]]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
