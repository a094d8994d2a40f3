"""Nodes that nobody can call, reached through those that they can call: circuit relay v2 of py-libp2p (libp2p specs, relay/circuit-v2).

A node behind a router keeps reservations at a few relays (nodes of its network that offer it) and tells addresses that go through them:
`/ip4/…/tcp/…/p2p/<relay>/p2p-circuit`. Who calls such an address asks the relay for a circuit; Noise and Yamux run from end to end over it, so the
relay sees who speaks with whom and how much, and can cut it off, and nothing else. What a relay gives is bounded (`LIMITS`), which
blobs (assay.adapters.libp2p_tunnel) find out when they are cut off. Everything here runs in the trio thread.

Found by trying (0.8.1): reserving needs a stream that the caller opens; a dial comes back as a connection that the host has taken in already; a relay
that has ended a circuit reads on, and may take what is left of it for another RESERVE, which moves the end of the caller's place: whoever shows
the proof that it was given before is refused from then on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from assay.ids import PeerId

log = logging.getLogger("assay.peers")

CIRCUIT = "/p2p-circuit"
BEHIND = "relay"
"""What a node that nobody can call announces instead of an address."""
LIMITS = RelayLimits(duration=6 * 3600, data=256 << 20, max_circuit_conns=64, max_reservations=128, reservation_ttl=3600)
"""What a relay gives: seconds and bytes of one circuit, circuits and nodes at once, seconds of a reservation."""
AT_ONCE = 3
"""Relays that a node behind a router keeps."""
AGAIN, REFUSED_AGAIN = 1200.0, 30.0
"""Seconds after which a reservation is made anew, and after which a peer that gave none is asked again."""
RESERVE_WITHIN, LOOK_EVERY = 10.0, 2.0


class Relays:
    """The relaying of one host. `serves`: whether it relays for others."""

    def __init__(self, host: Any, serves: bool) -> None:
        self._host = host
        self._protocol = CircuitV2Protocol(host, LIMITS, allow_hop=serves)
        self._transport = CircuitV2Transport(host, self._protocol, RelayConfig(roles=RelayRole.STOP, limits=LIMITS))
        self._refused: dict[PeerId, float] = {}
        """Who had no place for this node, and when it may be asked again."""
        self._until: dict[PeerId, tuple[str, float]] = {}
        """Relays that hold a place for this node: an address of each, and when it is to be asked again."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with background_trio_service(self._protocol):
            yield

    @property
    def addresses(self) -> list[str]:
        """Where this node is reached through its relays."""
        return [f"{address}/p2p/{relay}{CIRCUIT}" for relay, (address, _) in self._until.items()]

    async def keep(self, called: Callable[[], dict[PeerId, list[str]]], changed: Callable[[], None]) -> None:
        """Keeps places at AT_ONCE of the peers that this node has `called`, who are at these addresses; says when its own have `changed`."""
        while True:
            direct = {peer: next((a for a in addresses if not a.endswith(CIRCUIT)), "") for peer, addresses in called().items()}
            before, now = self.addresses, trio.current_time()
            self._until = {relay: kept for relay, kept in self._until.items() if relay in direct}
            due = [relay for relay, (_, again) in self._until.items() if again <= now]
            self._refused = {peer: again for peer, again in self._refused.items() if again > now and peer in direct}
            fresh = [peer for peer, address in direct.items() if address and peer not in self._until and peer not in self._refused]
            for peer in [*due, *fresh[: max(0, AT_ONCE - len(self._until))]]:
                if await self._place(peer):
                    self._until[peer] = (direct[peer], now + AGAIN)
                else:
                    self._until.pop(peer, None)
                    self._refused[peer] = now + REFUSED_AGAIN
            if self.addresses != before:
                changed()
            await trio.sleep(LOOK_EVERY)

    async def _place(self, peer: PeerId) -> bool:
        relay = ID.from_base58(peer)
        try:
            with trio.fail_after(RESERVE_WITHIN):
                stream = await self._host.new_stream(relay, [PROTOCOL_ID])
                try:
                    placed = bool(await self._transport._make_reservation(stream, relay))
                    # a CONNECT needs no proof of one's own place (specification), and would be refused for this one as soon as it is stale
                    self._transport._reservation_proofs.pop(relay, None)
                    return placed
                finally:
                    await stream.close()
        except Exception as error:  # it relays for nobody, or has gone
            log.debug("no place at %s: %s", peer, error)
            return False

    async def dial(self, peer: PeerId, address: str) -> None:
        """Connects to the peer over the relay in its address. Raises the library's errors."""
        await self._transport.dial(Multiaddr(f"{address}/p2p/{peer}"))
