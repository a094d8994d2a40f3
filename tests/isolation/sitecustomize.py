"""Loaded by every Python process of a run that has this folder on PYTHONPATH: notes the files under ASSAY_BASE that the process opens.

The process is named by its `--data` folder; an engine, which a node starts, by the folder that it is given; the demo itself is `demo`.
"""

import os
import sys

_base, _audit = os.environ.get("ASSAY_BASE"), os.environ.get("ASSAY_AUDIT")
if _base and _audit:
    _log = None
    _seen: set[str] = set()

    def _name() -> str:
        """The first path under the base in the command line, cut down to the node's folder."""
        words = [word for word in getattr(sys, "orig_argv", []) if word.startswith(_base + "/")]
        return words[0][len(_base) + 1 :].split("/")[0] if words else "demo"

    def _hook(event: str, args: tuple) -> None:  # type: ignore[type-arg]
        global _log
        if event not in ("open", "sqlite3.connect", "os.listdir", "os.scandir") or not args or not isinstance(args[0], str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(args[0]))
        if not path.startswith(_base + "/") or path in _seen:
            return
        _seen.add(path)
        if _log is None:
            _log = os.open(f"{_audit}/{_name()}@{os.getpid()}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.write(_log, path.encode() + b"\n")

    sys.addaudithook(_hook)
