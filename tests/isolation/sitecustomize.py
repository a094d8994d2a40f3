"""Loaded by every Python process of a run that has this folder on PYTHONPATH: notes the files under ASSAY_BASE that the process opens.

The process is named by its `--data` folder; an engine, which a node starts, by the folder that it is given, one that is forked by the folder that it
goes to first (assay.template); the demo itself is `demo`.
"""

import os
import sys

_base, _audit = os.environ.get("ASSAY_BASE"), os.environ.get("ASSAY_AUDIT")
if _base and _audit:
    _log = None
    _seen: set[str] = set()
    _process = os.getpid()

    def _name(words: list[str]) -> str:
        """The first path under the base among `words`, cut down to the node's folder."""
        under = [word for word in words if word.startswith(_base + "/")]
        return under[0][len(_base) + 1 :].split("/")[0] if under else "demo"

    def _begin(name: str) -> int:
        return os.open(f"{_audit}/{name}@{os.getpid()}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def _hook(event: str, args: tuple) -> None:  # type: ignore[type-arg]
        global _log, _process
        if event == "os.chdir" and os.getpid() != _process:  # forked: before it is shut in, and with what its parent had closed
            _process, _log = os.getpid(), _begin(_name([os.path.abspath(os.fsdecode(args[0]))]))
            _seen.clear()
        if event not in ("open", "sqlite3.connect", "os.listdir", "os.scandir") or not args or not isinstance(args[0], str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(args[0]))
        if not path.startswith(_base + "/") or path in _seen:
            return
        _seen.add(path)
        if _log is None:
            _log = _begin(_name(getattr(sys, "orig_argv", [])))
        os.write(_log, path.encode() + b"\n")

    sys.addaudithook(_hook)
