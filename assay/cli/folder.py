"""A node's data folder, and how a command talks to the daemon that owns it.

The folder is private (mode 0700). The daemon holds a lock on `lock` as long as it lives, so a second one on the same folder is
refused, and whether one runs is a fact and not a guess from a stale pid. It writes `status.json` when that changes, and takes
orders that commands leave in `orders/`, one file each. Files serve better than a socket here: paths of Unix sockets end at 108
bytes, and a daemon that is stopped or hangs leaves its last status to be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.cli.common import ENVIRONMENT, FAILED, Trouble, read_config

ORDERS = re.compile(r"drain|resume|prove|withdraw|leave|cancel-\d+|send-[0-9a-f]{2,16384}|hold-0x[0-9a-f]{40}")
EVERY = 0.5
"""Seconds between looks at the orders."""
STATUS_EVERY = 2.0
"""Seconds between looks at what there is to tell."""


def bases() -> Path:
    """Where the frozen tensors of jobs that were checked are kept."""
    from assay.exact.native.build import cache_home

    return cache_home() / "bases"


def client_folder() -> Path:
    """A client's own, for what needs its keys and no network."""
    kept = read_config()
    return (Path(kept["data"]) if "data" in kept else Path("~/.local/share/assay").expanduser()) / "client"


def speed(measured: int = 0) -> int:
    """Operations a second of this machine's last check, 0 before the first; a new measurement is kept."""
    from assay.exact.native.build import cache_home

    path = cache_home() / "speed"
    with contextlib.suppress(OSError, ValueError):
        if measured:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.write_text(str(measured))
        return int(path.read_text()[:20])
    return 0


def prepare(data: Path) -> None:
    """Makes the folder, for its owner's eyes only. Raises Trouble when it is somebody else's or open to others."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = data.stat()
    if found.st_uid != os.geteuid():
        raise Trouble(f"{data} belongs to another user", "a node's folder holds its keys", "name another folder: --data FOLDER", ENVIRONMENT)
    if found.st_mode & 0o077:
        data.chmod(0o700)
    (data / "orders").mkdir(exist_ok=True, mode=0o700)


class Lock:
    """Held while a daemon owns the folder."""

    def __init__(self, data: Path) -> None:
        self._file = (data / "lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise Trouble(f"a node is already running on {data}", "", "stop it first, or name another folder: --data FOLDER", ENVIRONMENT) from None

    def release(self) -> None:
        self._file.close()


def running(data: Path) -> bool:
    """Whether a daemon owns the folder now."""
    try:
        with (data / "lock").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


async def attend(data: Path, status: Callable[[], dict[str, Any]], order: Callable[[str], None]) -> None:
    """The daemon's side, until it is cancelled."""
    orders, last, due = data / "orders", "", 0.0
    while True:
        for path in sorted(orders.glob("*.order")):
            name = path.read_text()
            path.unlink()
            if ORDERS.fullmatch(name):
                order(name)
        if time.monotonic() >= due:
            text = json.dumps(status(), default=lambda value: value.hex() if isinstance(value, bytes) else str(value))
            if text != last:
                fresh = data / "status.json.new"
                fresh.write_text(text)
                fresh.replace(data / "status.json")
            last, due = text, time.monotonic() + STATUS_EVERY
        await asyncio.sleep(EVERY)


def read_status(data: Path) -> dict[str, Any]:
    """The command's side: the last status, with `running`. Raises Trouble when no node ever ran here."""
    try:
        status: dict[str, Any] = json.loads((data / "status.json").read_text())
    except FileNotFoundError:
        raise Trouble(f"no node has run on {data}", "there is no status.json in it", "start one, or name its folder: --data FOLDER", FAILED) from None
    return {"running": running(data), **status}


def give_order(data: Path, order: str, within: float = 10.0) -> None:
    """Leaves an order and waits until the daemon has taken it. Raises Trouble when none runs or it does not."""
    assert ORDERS.fullmatch(order), order
    if not running(data):
        raise Trouble(f"no node is running on {data}", "orders are for a running node", "start it, or name its folder: --data FOLDER", FAILED)
    path = data / "orders" / f"{time.time_ns()}-{secrets.token_hex(4)}.order"
    fresh = path.with_suffix(".new")
    fresh.write_text(order)
    fresh.replace(path)
    deadline = time.monotonic() + within
    while path.exists():
        if time.monotonic() > deadline:
            path.unlink(missing_ok=True)
            raise Trouble("the node does not take the order", f"it has not looked for {within:g} s", "its log says more", FAILED)
        time.sleep(0.1)
