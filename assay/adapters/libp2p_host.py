"""What a node listens on and how its py-libp2p host and table are set up (assay.adapters.libp2p_net runs them).

py-libp2p traps that are dealt with here (0.8.1): a default host accepts plaintext; the listener shares its port with whoever else
wants it; connections are opened to everyone who is known; a failed dial is repeated by the library itself.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import psutil
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from assay.adapters.peerbook import parse

logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # it logs at ERROR what strangers do


class RecordValidator(Validator):
    """What may stand in the table under /assay/<peer id>."""

    def validate(self, key: str, value: bytes) -> None:
        if key != f"/assay/{parse(value).record.peer}":
            raise ValueError("a peer's record belongs under its own id")

    def select(self, key: str, values: list[bytes]) -> int:
        return max(range(len(values)), key=lambda i: parse(values[i]).record.sequence)


def make_host(seed: bytes, listen: list[Multiaddr], max_connections: int) -> Any:
    """A host with this identity that speaks Noise and Yamux over TCP, and nothing else."""
    keys = create_new_key_pair(seed)
    noise = Noise(keys, noise_privkey=create_new_noise_key_pair().private_key)
    host = new_host(
        key_pair=keys,
        sec_opt={NOISE: noise},
        muxer_opt={TProtocol(YAMUX): Yamux},
        listen_addrs=listen,
        connection_config=ConnectionConfig(
            max_connections=max_connections, high_watermark=max_connections, min_connections=0, low_watermark=0, auto_connect_interval=3600.0
        ),
        disable_identify_address_discovery=True,
    )
    host.get_network().retry_config = RetryConfig(max_retries=0)  # type: ignore[attr-defined]
    return host


def make_table(host: Any) -> KadDHT:
    """The Kademlia table: only signed peer records may stand in it."""
    validator = NamespacedValidator({"assay": RecordValidator()}, strict_validation=True)
    return KadDHT(host, DHTMode.SERVER, validator=validator, strict_validation=True, enable_providers=False)


def plain(error: BaseException) -> str:
    """The innermost reason, in a line."""
    while error.__cause__ is not None or (isinstance(error, BaseExceptionGroup) and error.exceptions):
        error = error.__cause__ or error.exceptions[0]  # type: ignore[attr-defined]
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def remote(stream: Any) -> str:
    """The other side's IP address; empty when it cannot be told."""
    address = stream.get_remote_address()
    return str(address[0]) if address else ""


def _host_and_port(address: str) -> tuple[str, str, int]:
    """(ip4 or ip6, address, port) of `/ip4/…/tcp/…`. Raises ValueError."""
    parts = address.split("/")
    if len(parts) < 5 or parts[1] not in {"ip4", "ip6"} or parts[3] != "tcp" or not parts[4].isdigit():
        raise ValueError(f"{address!r} is not an address to listen on; write /ip4/127.0.0.1/tcp/0 or the like")
    return parts[1], parts[2], int(parts[4])


def probe(address: str) -> None:
    """The listener sets SO_REUSEPORT and would silently share a port; this finds out first. Raises OSError."""
    family, host, port = _host_and_port(address)
    if port == 0:
        return
    with socket.socket(socket.AF_INET if family == "ip4" else socket.AF_INET6, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}; choose another port, or 0 for any") from None


def free(address: str) -> bool:
    """Whether this could be listened on now."""
    try:
        probe(address)
    except OSError:
        return False
    return True


def reachable(address: str) -> list[str]:
    """A wildcard address stands for those of the machine's interfaces."""
    family, host, port = _host_and_port(address)
    if host not in {"0.0.0.0", "::"}:
        return [address]
    kind = socket.AF_INET if family == "ip4" else socket.AF_INET6
    found = [a.address for addresses in psutil.net_if_addrs().values() for a in addresses if a.family == kind and "%" not in a.address]
    return [f"/{family}/{ip}/tcp/{port}" for ip in found]


def check_listen(addresses: list[str]) -> None:
    """Raises ValueError."""
    for address in addresses:
        _host_and_port(address)

