"""What a node listens on and how its py-libp2p host and table are set up (assay.adapters.libp2p_net runs them).

py-libp2p traps that are dealt with here (0.8.1): a default host accepts plaintext; the listener shares its port with whoever else
wants it; connections are opened to everyone who is known; a failed dial is repeated by the library itself; a connection whose other side is
gone without a word is kept for ever (assay.adapters.libp2p_life). Of its dialling: a peer that
failed once is not tried for a minute, addresses that were ever heard of are tried for ever (both are undone before each dial), and of
several TCP addresses only the first is tried, so they are given to it one by one.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import psutil
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from assay.adapters.libp2p_life import KeepAlive
from assay.adapters.libp2p_relay import CIRCUIT, Relays
from assay.adapters.peerbook import parse
from assay.codec import encode
from assay.ids import PeerId
from assay.messages import SignedRecord

log = logging.getLogger("assay.peers")

logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # it logs at ERROR what strangers do


UPGRADE_WITHIN = 10.0
"""Seconds that somebody who connects has to become a peer."""
PUBLISH_WITHIN, LOOKUP_WITHIN = 30.0, 5.0


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
            max_connections=max_connections, high_watermark=max_connections, min_connections=0, low_watermark=0, auto_connect_interval=3600.0,
            inbound_upgrade_timeout=UPGRADE_WITHIN,
        ),
        disable_identify_address_discovery=True,
    )
    host.get_network().register_notifee(KeepAlive())
    host.get_network().retry_config = RetryConfig(max_retries=0)  # type: ignore[attr-defined]
    return host


def make_table(host: Any) -> KadDHT:
    """The Kademlia table: only signed peer records may stand in it."""
    validator = NamespacedValidator({"assay": RecordValidator()}, strict_validation=True)
    return KadDHT(host, DHTMode.SERVER, validator=validator, strict_validation=True, enable_providers=False)


async def publish(dht: KadDHT, own: SignedRecord) -> None:
    """Puts a node's record into the table. Raises the library's errors."""
    with trio.move_on_after(PUBLISH_WITHIN):
        await dht.put_value(f"/assay/{own.record.peer}", encode(own))


async def look_up(dht: KadDHT, peer: PeerId) -> list[SignedRecord]:
    """The peer's record, if the table has it."""
    try:
        with trio.move_on_after(LOOKUP_WITHIN):
            value = await dht.get_value(f"/assay/{peer}")
            return [parse(value)] if value is not None else []
    except Exception as error:
        log.debug("looking %s up: %s", peer, plain(error))
    return []


async def open_stream(host: Any, relays: Relays, peer: PeerId, address: str, protocol: TProtocol) -> Any:
    """A stream to the peer, if it is at this address. Raises the library's errors."""
    target = ID.from_base58(peer)
    if peer not in {str(known) for known in host.get_connected_peers()}:
        try:
            host.get_peerstore().clear_addrs(target)
        except Exception as error:
            log.debug("nothing to forget of %s: %s", peer, error)
    host.get_network().unblock_peer(target)
    if not address.endswith(CIRCUIT):
        await host.connect(PeerInfo(target, [Multiaddr(address)]))
    elif target not in host.get_connected_peers():
        await relays.dial(peer, address)
    return await host.new_stream(target, [protocol])


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


def reachable(address: str, announce: str = "") -> list[str]:
    """Where others find what listens there: at `announce`, if that is given (an IP address of the same family, or a name); a wildcard
    address stands for those of the machine's interfaces."""
    family, host, port = _host_and_port(address)
    if announce:
        way = "ip6" if ":" in announce else "ip4" if announce.replace(".", "").isdigit() else "dns"
        return [f"/{way}/{announce}/tcp/{port}"] if way in (family, "dns") else []
    if host not in {"0.0.0.0", "::"}:
        return [address]
    wanted = socket.AF_INET if family == "ip4" else socket.AF_INET6
    found = [a.address for addresses in psutil.net_if_addrs().values() for a in addresses if a.family == wanted and "%" not in a.address]
    return [f"/{family}/{ip}/tcp/{port}" for ip in found]


def check_listen(addresses: list[str]) -> None:
    """Raises ValueError."""
    for address in addresses:
        _host_and_port(address)

