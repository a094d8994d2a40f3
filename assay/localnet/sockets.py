"""Who has which TCP socket, as Linux tells it in /proc (proc(5), proc_net(5)): one look takes a millisecond, where a walk over the sockets of
every process takes a hundred."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

LISTEN = 0x0A


class Socket(NamedTuple):
    """One line of /proc/net/tcp: IPv4."""

    host: str
    port: int
    state: int
    inode: int


def sockets() -> list[Socket]:
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        host, port = words[1].split(":")
        found.append(Socket(socket.inet_ntoa(struct.pack("=I", int(host, 16))), int(port, 16), int(words[3], 16), int(words[9])))
    return found


def listening(host: str) -> list[int]:
    """Ports at which somebody listens at this address."""
    return sorted(each.port for each in sockets() if each.host == host and each.state == LISTEN)


def owner(host: str, port: int, pids: Mapping[str, int]) -> str:
    """Which of these processes a connection from `host:port` comes from; "" for none of them."""
    names = {f"socket:[{each.inode}]" for each in sockets() if (each.host, each.port) == (host, port) and each.inode}
    for name, pid in pids.items():
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(entry.path) in names:
                        return name
    return ""
