"""What a command leaves running ends with it, if it is killed before it has said that all is up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.test_localnet_net import ASSAY, assay, here, until

__all__ = ["here"]

COMMAND = """
import subprocess, sys
from assay.localnet.leash import Leash

with Leash() as leash:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], stdout=subprocess.DEVNULL, preexec_fn=leash.hold)
    print(child.pid, flush=True)
    word = sys.stdin.readline().strip()
    if word == "go":
        leash.let_go()
    if word == "fail":
        raise SystemExit(3)
"""


@pytest.fixture
def command() -> Iterator[subprocess.Popen[str]]:
    """Waits for a word, and has started a process that does not end by itself."""
    with subprocess.Popen([sys.executable, "-c", COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def child_of(command: subprocess.Popen[str]) -> int:
    assert command.stdout is not None
    child = int(command.stdout.readline())
    assert os.getsid(child) == child
    return child


def test_what_was_started_ends_with_a_command_that_is_killed(command: subprocess.Popen[str]) -> None:
    child = child_of(command)
    command.kill()
    until(lambda: gone(child))


def test_what_was_started_ends_with_a_command_that_fails(command: subprocess.Popen[str]) -> None:
    child = child_of(command)
    command.communicate("fail\n")
    assert command.returncode == 3
    assert gone(child)


def test_what_is_let_go_outlives_the_command(command: subprocess.Popen[str]) -> None:
    child = child_of(command)
    try:
        command.communicate("go\n")
        assert command.returncode == 0
        assert not gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_guard_ends_what_does_not_end_by_itself(stubborn: bool) -> None:
    from assay.localnet.leash import end

    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else ""
    words = [sys.executable, "-c", f"import signal; {deaf}print('up', flush=True); signal.pause()"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end([process.pid], within=0.2)
        assert process.wait() == (-signal.SIGKILL if stubborn else -signal.SIGTERM)


def test_a_local_network_whose_command_is_killed_leaves_nothing_behind(here: Path) -> None:
    """At the moment in which the chain runs and its bootstrap node has just been started."""
    with subprocess.Popen([*ASSAY, "net", "up"], cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
        until(lambda: (here / ".assay" / "net" / "bootstrap.out").exists())
        started = until(lambda: of(here))
        assert any("anvil" in process.name() for process in started)
        command.kill()
    until(lambda: all(gone(process.pid) for process in [*started, *of(here)]))
    assert assay(here, "net", "up")["chain_id"]


def of(folder: Path) -> list[psutil.Process]:
    """Processes that were told of the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or []):
            found.append(process)
    return found
