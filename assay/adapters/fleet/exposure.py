"""Where Ray can be reached from. It takes orders from whoever reaches it, so none of its sockets may have an address that the world routes to.

A socket on a wildcard address has every address of its network namespace; one on `::` those of IPv4, too. Addresses are judged as the
registries list them (ipaddress): private, shared (100.64.0.0/10, which VPNs use) and link-local ones are not routed by the world. What this
cannot see: a router or cloud that forwards a public address to a private one. Ray's own token is what is left then, so a
cluster without one is refused, too.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

OF_RAY = re.compile(r"-packages/ray/|/(ray|raylet|gcs_server)$")
"""In the paths of what Ray starts."""


class Listener(NamedTuple):
    """A TCP socket that waits for connections."""

    host: str
    port: int
    process: str


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Without a zone; an IPv4 address in IPv6's clothes as itself."""
    found = ipaddress.ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def reachable(listener: Listener, addresses: Iterable[str]) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Where a socket is reached in a namespace with these addresses."""
    host = _address(listener.host)
    if not host.is_unspecified:
        return [host]
    found = [_address(text) for text in addresses]
    return [address for address in found if host.version == 6 or address.version == 4]


def exposed(listeners: Sequence[Listener], addresses: Sequence[str], *, loopback_only: bool = False) -> list[str]:
    """What is wrong, a text each: sockets with an address that the world routes to, or with any but the loopback's."""
    found = []
    for listener in listeners:
        for address in reachable(listener, addresses):
            if address.is_global or (loopback_only and not address.is_loopback):
                found.append(f"{listener.process} listens on {address} port {listener.port}")
    return sorted(set(found))


def loopback(address: str) -> bool:
    return _address(address).is_loopback


def here() -> list[str]:
    """Addresses of this process's network namespace."""
    import socket

    import psutil

    kinds = (socket.AF_INET, socket.AF_INET6)
    return sorted({entry.address for each in psutil.net_if_addrs().values() for entry in each if entry.family in kinds})


def of_ray(processes: Iterable[Any] | None = None) -> list[Listener]:
    """TCP sockets on which Ray's processes of this user listen, this process's among them. `processes`: psutil's, for tests."""
    import psutil

    found = []
    for process in psutil.process_iter() if processes is None else processes:
        try:
            if process.pid != os.getpid() and not is_ray(process.cmdline()):
                continue
            sockets = process.net_connections("tcp")
            name = process.name()
        except psutil.Error:
            continue  # ended meanwhile, or another user's: that user's Ray is not ours
        found += [Listener(s.laddr.ip, s.laddr.port, name) for s in sockets if s.status == psutil.CONN_LISTEN]
    return found


def is_ray(command: Sequence[str]) -> bool:
    """Whether a command line is that of one of Ray's processes; its workers name themselves ray::…"""
    return bool(command) and (command[0].startswith("ray::") or any(OF_RAY.search(part) for part in command[:4]))


def refused_address(address: str) -> str:
    """Why a head at HOST:PORT is not attached to; nothing when it may be. A name is taken: what it stands for is seen on the nodes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        return f"{address!r} is no HOST:PORT"
    try:
        found = _address(host.strip("[]"))
    except ValueError:
        return ""
    return f"{found} is an address that the world routes to" if found.is_global else ""
