"""The demo leaves nothing behind, however it ends: interrupted by Ctrl-C, terminated, or killed outright."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SOME = 6
"""Processes that have to be there before the demo is ended: it is in the middle of starting."""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_nothing_is_left_running(tmp_path: Path, how: signal.Signals) -> None:
    if how is signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux tells children of their parent's death")
    base = tmp_path / "demo"
    command = [sys.executable, "-m", "assay.cli", "demo", "--json", "--keep", str(base)]

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests in the background may have it ignored, and that is inherited

    with (tmp_path / "out").open("w") as out, subprocess.Popen(
        command, stdout=out, stderr=out, start_new_session=True, preexec_fn=prepare
    ) as process:  # fmt: skip
        demo, deadline = psutil.Process(process.pid), time.monotonic() + 240
        while len(started := demo.children(recursive=True)) < SOME:
            assert process.poll() is None, (tmp_path / "out").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(how)
        code = process.wait(240)
    _, alive = psutil.wait_procs(started, timeout=120)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    assert code == (130 if how is signal.SIGINT else -how)
