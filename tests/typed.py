"""Commands as a person types them, each in a process of its own, forked from one that has imported what commands import: starting Python and
importing web3, libp2p and torch takes one to three seconds, which a test that types fifty commands would pay fifty times. Everything else is as at
a shell: arguments, folder, environment, exit code, what is printed. Daemons are started for real, as `python -m assay.cli` (test_localnet_net)."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PRELOADED = [
    "assay.cli.app", "assay.cli.node", "assay.cli.submit", "assay.cli.audit", "assay.adapters.evm", "assay.adapters.libp2p", "assay.trace",
    "tests.typed",
]  # fmt: skip


class Typed(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def typed(words: Sequence[str], here: Path, env: Mapping[str, str], within: float) -> Typed:
    """`assay WORDS` in a folder. Raises AssertionError if it takes longer than `within` seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        out, error = Path(folder) / "out", Path(folder) / "error"
        process = context.Process(target=_run, args=(list(words), str(here), dict(env), str(out), str(error)))
        process.start()
        try:
            process.join(within)
            assert process.exitcode is not None, f"assay {' '.join(words)} has not ended within {within:g} s"
            return Typed(process.exitcode, out.read_text(), error.read_text())
        finally:
            process.kill()
            process.join()
            process.close()


def _run(words: list[str], here: str, env: dict[str, str], out: str, error: str) -> None:
    for number, path in ((1, out), (2, error)):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), number)
    os.chdir(here)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["assay", *words]
    from assay.cli import main

    main()
